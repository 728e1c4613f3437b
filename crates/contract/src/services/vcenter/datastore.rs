//! Datastores.

use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// What a datastore is on.
    pub enum Type = "com.vmware.vcenter.datastore.type" {
        /// VMFS.
        Vmfs = "VMFS",
        /// NFS 3.
        Nfs = "NFS",
        /// NFS 4.1.
        Nfs41 = "NFS41",
        /// CIFS.
        Cifs = "CIFS",
        /// vSAN.
        Vsan = "VSAN",
        /// Flash.
        Vffs = "VFFS",
        /// Virtual volumes.
        Vvol = "VVOL",
        /// Something else, as a file system of a Linux host.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// Which datastores; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.datastore.filter_spec" {
        /// Their ids.
        datastores: Option<Vec<String>>,
        /// Their names, to the letter.
        names: Option<Vec<String>>,
        /// Their types.
        types: Option<Vec<Type>>,
        /// Folders that they stand in.
        folders: Option<Vec<String>>,
        /// Datacenters that they are in.
        datacenters: Option<Vec<String>>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which datastores; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A datastore in a list.
    pub struct Summary = "com.vmware.vcenter.datastore.summary" {
        /// Its id.
        datastore: String,
        /// Its name.
        name: String,
        /// What it is on.
        ty as "type": Type,
        /// Free bytes.
        free_space: Option<i64>,
        /// Bytes in all.
        capacity: Option<i64>,
    }
}

structure! {
    /// A datastore.
    pub struct Info = "com.vmware.vcenter.datastore.info" {
        /// Its name.
        name: String,
        /// What it is on.
        ty as "type": Type,
        /// Whether it can be reached.
        accessible: bool,
        /// Free bytes.
        free_space: Option<i64>,
        /// Whether several hosts can reach it.
        multiple_host_access: bool,
        /// Whether files may take their space as it is needed.
        thin_provisioning_supported: bool,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct IdInput = "operation-input" {
        /// The datastore's id.
        datastore: String,
    }
}

operation! {
    /// The datastores that a filter leaves, at most 2500; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.datastore"."list"(ListInput) -> Vec<Summary>,
    errors: [InvalidArgument, UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/datastore", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] = &[
    ("datastores", "filter.datastores"),
    ("names", "filter.names"),
    ("types", "filter.types"),
    ("folders", "filter.folders"),
    ("datacenters", "filter.datacenters"),
];

operation! {
    /// What is known of a datastore.
    pub Get = "com.vmware.vcenter.datastore"."get"(IdInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/vcenter/datastore/{datastore}", 200),
    id: "datastore",
}
