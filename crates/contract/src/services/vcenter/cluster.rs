//! Clusters.

use crate::{Method, Rest, operation, structure};

structure! {
    /// Which clusters; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.cluster.filter_spec" {
        /// Their ids.
        clusters: Option<Vec<String>>,
        /// Their names, to the letter.
        names: Option<Vec<String>>,
        /// Folders that they stand in.
        folders: Option<Vec<String>>,
        /// Datacenters that they are in.
        datacenters: Option<Vec<String>>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which clusters; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A cluster in a list.
    pub struct Summary = "com.vmware.vcenter.cluster.summary" {
        /// Its id, of a `ClusterComputeResource`.
        cluster: String,
        /// Its name.
        name: String,
        /// Whether virtual machines are started elsewhere when a host fails.
        ha_enabled: bool,
        /// Whether virtual machines are moved by load.
        drs_enabled: bool,
    }
}

structure! {
    /// A cluster.
    pub struct Info = "com.vmware.vcenter.cluster.info" {
        /// Its name.
        name: String,
        /// The pool that all others of the cluster stand below; empty when it is not known.
        resource_pool: String,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct IdInput = "operation-input" {
        /// The cluster's id.
        cluster: String,
    }
}

operation! {
    /// The clusters that a filter leaves, at most 1000; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.cluster"."list"(ListInput) -> Vec<Summary>,
    errors: [UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/cluster", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] = &[
    ("clusters", "filter.clusters"),
    ("names", "filter.names"),
    ("folders", "filter.folders"),
    ("datacenters", "filter.datacenters"),
];

operation! {
    /// What is known of a cluster.
    pub Get = "com.vmware.vcenter.cluster"."get"(IdInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/vcenter/cluster/{cluster}", 200),
    id: "cluster",
}
