//! Names of resources: what the inventory calls the hosts and VMs of stats.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_client::{Client, ClientError};
use lockstep_contract::ErrorKind;
use lockstep_contract::services::TypedId;
use lockstep_contract::services::resource_model::{
    CompositeFilter, CompositeOperator, FilterType, Query, QueryInput, QuerySpec, ResourceFilter,
};
use lockstep_contract::services::stats::{RsrcId, SCHEME};

use crate::json;

/// Resources that one query asks for: well below what a site takes.
const IDS_PER_QUERY: usize = 100;

/// Names by type and id. Only what was looked for is in it, found or not.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_id: BTreeMap<(String, String), Option<String>>,
}

impl Names {
    /// The name of a resource, when it has one.
    pub(crate) fn get(&self, id: &RsrcId) -> Option<&str> {
        self.by_id.get(&key(id)?)?.as_deref()
    }

    /// Looks up those that were not looked up before, with one query for a hundred of them. That the caller may not see the
    /// inventory is no error: then there are no names.
    ///
    /// # Errors
    /// What else hinders a call.
    pub(crate) async fn look_up<'r>(
        &mut self,
        client: &Client,
        ids: impl IntoIterator<Item = &'r RsrcId>,
    ) -> Result<(), ClientError> {
        let new: BTreeSet<(String, String)> =
            ids.into_iter().filter_map(key).filter(|key| !self.by_id.contains_key(key)).collect();
        let new: Vec<(String, String)> = new.into_iter().collect();
        for some in new.chunks(IDS_PER_QUERY) {
            let answer = match client.call(Query, QueryInput { query_spec: query(some) }).await {
                Ok(answer) => answer,
                Err(error) if error.kind() == Some(ErrorKind::Unauthorized) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.by_id.extend(some.iter().map(|key| (key.clone(), None)));
            for item in answer.items {
                let name = item.property_values.first().map(|value| json::of_data(&value.value.0));
                let name = name.and_then(|name| name.as_str().map(str::to_owned));
                self.by_id.insert((item.resource_id.resource_type, item.resource_id.id), name);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Names {
    /// As if the inventory had answered this name of a `TYPE=ID`.
    pub(crate) fn insert(&mut self, resource: &str, name: &str) {
        let id = resource.parse::<super::resources::Resource>().ok().and_then(|resource| key(&resource.in_spec()));
        self.by_id.extend(id.map(|id| (id, Some(name.to_owned()))));
    }
}

/// The resource type of the inventory, and the id, where the identifier is one of the inventory.
fn key(id: &RsrcId) -> Option<(String, String)> {
    let resource_type = match id.resource_type.as_deref()? {
        "HOST" => "HostSystem",
        "VM" => "VirtualMachine",
        _ => return None,
    };
    let is_of_inventory = id.scheme.as_deref().is_none_or(|scheme| matches!(scheme, "" | SCHEME));
    (is_of_inventory && !id.id_value.is_empty()).then(|| (resource_type.to_owned(), id.id_value.clone()))
}

fn query(keys: &[(String, String)]) -> QuerySpec {
    let filters = keys
        .iter()
        .map(|(resource_type, id)| ResourceFilter {
            filter_type: FilterType::Id,
            resource_type: None,
            resource_id: Some(TypedId { resource_type: resource_type.clone(), id: id.clone() }),
            property_filter: None,
            composite_filter: None,
        })
        .collect();
    let types: BTreeSet<&str> = keys.iter().map(|(resource_type, _)| &**resource_type).collect();
    QuerySpec {
        resource_filter: ResourceFilter {
            filter_type: FilterType::Composite,
            resource_type: None,
            resource_id: None,
            property_filter: None,
            composite_filter: Some(Box::new(CompositeFilter { operator: CompositeOperator::Union, filters })),
        },
        property_spec: types.into_iter().map(|resource_type| format!("{resource_type}/name")).collect(),
        sort_criteria: None,
        offset: None,
        limit: Some(IDS_PER_QUERY as i64),
        compute_total_item_count: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::stats::resources::Resource;

    #[test]
    fn hosts_and_vms_of_the_inventory_have_names() {
        let key = |text: &str| key(&text.parse::<Resource>().unwrap().in_spec());
        assert_eq!(key("HOST=h"), Some(("HostSystem".to_owned(), "h".to_owned())));
        assert_eq!(key("VM.moid=v"), Some(("VirtualMachine".to_owned(), "v".to_owned())));
        assert_eq!((key("VM.uuid=v"), key("VM=ALL"), key("VCPU=1")), (None, None, None));
    }
}
