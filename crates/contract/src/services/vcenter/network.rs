//! Networks.

use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// What a network is made of.
    pub enum Type = "com.vmware.vcenter.network.type" {
        /// A port group of one host; a bridge or an interface of a Linux host.
        StandardPortgroup = "STANDARD_PORTGROUP",
        /// A port group of a distributed switch.
        DistributedPortgroup = "DISTRIBUTED_PORTGROUP",
        /// One that is made elsewhere.
        OpaqueNetwork = "OPAQUE_NETWORK",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// Which networks; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.network.filter_spec" {
        /// Their ids.
        networks: Option<Vec<String>>,
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
        /// Which networks; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A network in a list.
    pub struct Summary = "com.vmware.vcenter.network.summary" {
        /// Its id.
        network: String,
        /// Its name.
        name: String,
        /// What it is made of.
        ty as "type": Type,
    }
}

operation! {
    /// The networks that a filter leaves, at most 1000; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.network"."list"(ListInput) -> Vec<Summary>,
    errors: [InvalidArgument, UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/network", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] = &[
    ("networks", "filter.networks"),
    ("names", "filter.names"),
    ("types", "filter.types"),
    ("folders", "filter.folders"),
    ("datacenters", "filter.datacenters"),
];
