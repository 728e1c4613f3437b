//! The operations on clusters.

use lockstep_contract::Error;
use lockstep_contract::services::vcenter::cluster::{IdInput, Info, ListInput, Summary};
use lockstep_model::ResourceId;
use lockstep_query::View;

use crate::select::{self, Selection};

/// The resource type.
pub(crate) const CLUSTER: &str = "ClusterComputeResource";

/// Most clusters of a list.
const LIST_MAX: usize = 1000;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let all = Selection::new(view, CLUSTER, LIST_MAX, &["name", "ha_enabled", "drs_enabled"]);
    let filter = input.filter.as_ref();
    let some = match filter {
        None => all,
        Some(filter) => all
            .ids("filter.clusters", &filter.clusters)
            .names(&filter.names)
            .pointing("filter.folders", "folder", "Folder", &filter.folders)
            .below("filter.datacenters", "Datacenter", &filter.datacenters),
    };
    some.list(|row| Summary {
        cluster: row.id.to_owned(),
        name: row.name(),
        ha_enabled: row.is("ha_enabled"),
        drs_enabled: row.is("drs_enabled"),
    })
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<Info, Error> {
    let document = select::find(view, CLUSTER, &input.cluster)?;
    let pools = view.referring("ResourcePool", "cluster", &ResourceId::new(CLUSTER, &*input.cluster));
    // A pool in another pool may name the cluster too.
    let is_root =
        |pool: &&ResourceId| view.get(pool).is_some_and(|pool| select::id_in(pool.document.get("parent")).is_none());
    let root = pools.iter().find(is_root);
    Ok(Info {
        name: select::name(&document, &input.cluster),
        resource_pool: root.map(|pool| pool.id.to_string()).unwrap_or_default(),
    })
}
