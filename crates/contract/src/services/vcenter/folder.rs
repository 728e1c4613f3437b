//! Folders.

use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// What a folder holds.
    pub enum Type = "com.vmware.vcenter.folder.type" {
        /// Datacenters.
        Datacenter = "DATACENTER",
        /// Datastores.
        Datastore = "DATASTORE",
        /// Hosts and clusters.
        Host = "HOST",
        /// Networks.
        Network = "NETWORK",
        /// Virtual machines.
        VirtualMachine = "VIRTUAL_MACHINE",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// Which folders; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.folder.filter_spec" {
        /// Their ids.
        folders: Option<Vec<String>>,
        /// Their names, to the letter.
        names: Option<Vec<String>>,
        /// What they hold.
        ty as "type": Option<Type>,
        /// Folders that they stand in.
        parent_folders: Option<Vec<String>>,
        /// Datacenters that they are in.
        datacenters: Option<Vec<String>>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which folders; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A folder in a list.
    pub struct Summary = "com.vmware.vcenter.folder.summary" {
        /// Its id.
        folder: String,
        /// Its name.
        name: String,
        /// What it holds.
        ty as "type": Type,
    }
}

operation! {
    /// The folders that a filter leaves, at most 1000; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.folder"."list"(ListInput) -> Vec<Summary>,
    errors: [InvalidArgument, UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/folder", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] = &[
    ("folders", "filter.folders"),
    ("names", "filter.names"),
    ("type", "filter.type"),
    ("parent_folders", "filter.parent_folders"),
    ("datacenters", "filter.datacenters"),
];
