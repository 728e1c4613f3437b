//! Resource pools.

use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// How much a pool gets when there is too little for all.
    pub enum Level = "com.vmware.vcenter.resource_pool.shares_info.level" {
        /// Little.
        Low = "LOW",
        /// As most.
        Normal = "NORMAL",
        /// Much.
        High = "HIGH",
        /// As `shares` says.
        Custom = "CUSTOM",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// The part that a pool gets when there is too little for all.
    pub struct SharesInfo = "com.vmware.vcenter.resource_pool.shares_info" {
        /// How much.
        level: Level,
        /// The shares; set with CUSTOM.
        shares: Option<i64>,
    }
}

structure! {
    /// What a pool has of processors, in MHz, or of memory, in MiB.
    pub struct ResourceAllocationInfo = "com.vmware.vcenter.resource_pool.resource_allocation_info" {
        /// What it has for certain.
        reservation: i64,
        /// Whether it may take more from the pool above.
        expandable_reservation: bool,
        /// What it has at most; -1: no limit.
        limit: i64,
        /// Its part.
        shares: SharesInfo,
    }
}

structure! {
    /// Which pools; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.resource_pool.filter_spec" {
        /// Their ids.
        resource_pools: Option<Vec<String>>,
        /// Their names, to the letter.
        names: Option<Vec<String>>,
        /// Pools that they stand in.
        parent_resource_pools: Option<Vec<String>>,
        /// Datacenters that they are in.
        datacenters: Option<Vec<String>>,
        /// Hosts that they are of.
        hosts: Option<Vec<String>>,
        /// Clusters that they are of.
        clusters: Option<Vec<String>>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which pools; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A pool in a list.
    pub struct Summary = "com.vmware.vcenter.resource_pool.summary" {
        /// Its id.
        resource_pool: String,
        /// Its name.
        name: String,
    }
}

structure! {
    /// A pool.
    pub struct Info = "com.vmware.vcenter.resource_pool.info" {
        /// Its name.
        name: String,
        /// The pools in it.
        resource_pools: Vec<String>,
        /// What it has of processors.
        cpu_allocation: Option<ResourceAllocationInfo>,
        /// What it has of memory.
        memory_allocation: Option<ResourceAllocationInfo>,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct IdInput = "operation-input" {
        /// The resource pool's id.
        resource_pool: String,
    }
}

operation! {
    /// The pools that a filter leaves, at most 1000; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.resource_pool"."list"(ListInput) -> Vec<Summary>,
    errors: [UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/resource-pool", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] = &[
    ("resource_pools", "filter.resource_pools"),
    ("names", "filter.names"),
    ("parent_resource_pools", "filter.parent_resource_pools"),
    ("datacenters", "filter.datacenters"),
    ("hosts", "filter.hosts"),
    ("clusters", "filter.clusters"),
];

operation! {
    /// What is known of a resource pool.
    pub Get = "com.vmware.vcenter.resource_pool"."get"(IdInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/vcenter/resource-pool/{resource_pool}", 200),
    id: "resource_pool",
}
