//! Datacenters.

use crate::{Method, Rest, operation, structure};

structure! {
    /// Which datacenters; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.datacenter.filter_spec" {
        /// Their ids.
        datacenters: Option<Vec<String>>,
        /// Their names, to the letter.
        names: Option<Vec<String>>,
        /// Folders that they stand in.
        folders: Option<Vec<String>>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which datacenters; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A datacenter in a list.
    pub struct Summary = "com.vmware.vcenter.datacenter.summary" {
        /// Its id.
        datacenter: String,
        /// Its name.
        name: String,
    }
}

structure! {
    /// A datacenter. A folder that is not known is empty.
    pub struct Info = "com.vmware.vcenter.datacenter.info" {
        /// Its name.
        name: String,
        /// The root folder of its datastores.
        datastore_folder: String,
        /// The root folder of its hosts and clusters.
        host_folder: String,
        /// The root folder of its networks.
        network_folder: String,
        /// The root folder of its virtual machines.
        vm_folder: String,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct IdInput = "operation-input" {
        /// The datacenter's id.
        datacenter: String,
    }
}

operation! {
    /// The datacenters that a filter leaves, at most 1000; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.datacenter"."list"(ListInput) -> Vec<Summary>,
    errors: [UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/datacenter", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] =
    &[("datacenters", "filter.datacenters"), ("names", "filter.names"), ("folders", "filter.folders")];

operation! {
    /// What is known of a datacenter.
    pub Get = "com.vmware.vcenter.datacenter"."get"(IdInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/vcenter/datacenter/{datacenter}", 200),
    id: "datacenter",
}
