//! The operations on resource pools.

use lockstep_contract::Error;
use lockstep_contract::services::vcenter::resource_pool::{
    IdInput, Info, Level, ListInput, ResourceAllocationInfo, SharesInfo, Summary,
};
use lockstep_model::{Document, ResourceId};
use lockstep_query::View;

use crate::cluster::CLUSTER;
use crate::select::{self, Selection};

const POOL: &str = "ResourcePool";

/// Most pools of a list.
const LIST_MAX: usize = 1000;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let all = Selection::new(view, POOL, LIST_MAX, &["name"]);
    let some = match &input.filter {
        None => all,
        Some(filter) => all
            .ids("filter.resource_pools", &filter.resource_pools)
            .names(&filter.names)
            .pointing("filter.parent_resource_pools", "parent", POOL, &filter.parent_resource_pools)
            .below("filter.datacenters", "Datacenter", &filter.datacenters)
            .below("filter.hosts", "HostSystem", &filter.hosts)
            .below("filter.clusters", CLUSTER, &filter.clusters),
    };
    some.list(|row| Summary { resource_pool: row.id.to_owned(), name: row.name() })
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<Info, Error> {
    let document = select::find(view, POOL, &input.resource_pool)?;
    let inner = view.referring(POOL, "parent", &ResourceId::new(POOL, &*input.resource_pool));
    Ok(Info {
        name: select::name(&document, &input.resource_pool),
        resource_pools: inner.into_iter().map(|pool| pool.id.to_string()).collect(),
        cpu_allocation: allocation(&document, "cpu", "MHz"),
        memory_allocation: allocation(&document, "memory", "MiB"),
    })
}

/// What a pool has of processors or memory; unset when the inventory has nothing of it.
fn allocation(pool: &Document, of: &str, unit: &str) -> Option<ResourceAllocationInfo> {
    pool.get(of)?;
    let level = select::text(pool, &format!("{of}/shares")).and_then(Level::from_name);
    let level = match level {
        // The inventory knows that they are its own, not how many.
        Some(Level::Custom) => Level::Unknown,
        Some(level) => level,
        None => Level::Normal,
    };
    Some(ResourceAllocationInfo {
        reservation: select::long(pool, &format!("{of}/reservation_{unit}")).unwrap_or(0),
        expandable_reservation: true,
        limit: select::long(pool, &format!("{of}/limit_{unit}")).unwrap_or(-1),
        shares: SharesInfo { level, shares: None },
    })
}
