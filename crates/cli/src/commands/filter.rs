//! Conditions as people write them, made into the filter that the feed takes.
//!
//! A query in its text form is compiled by the site. The feed takes filters in their structured form only, so its conditions are
//! compiled here, with the site's models.

use anyhow::Result;
use lockstep_client::Client;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::models::{List, ModelInfo, PropertyInfo};
use lockstep_contract::services::resource_model::ResourceFilter;
use lockstep_model::{Registry, ResourceId, ResourceModel};
use lockstep_query::{Comparable, CompositeOperator, FilterSpec, parse_text};
use serde_json::{Value, json};

use crate::failure::Usage;
use crate::json;

/// The filter for resources of these types that meet the conditions.
///
/// # Errors
/// Where the conditions are wrong; what hinders a call.
pub(crate) async fn of_conditions(client: &Client, types: &[String], conditions: &str) -> Result<ResourceFilter> {
    let registry = registry(&client.call(List, NoInput {}).await?)?;
    let text = format!("{} where {conditions}", types.join(", "));
    let spec = parse_text(&text, &registry).map_err(|error| Usage(error.to_string()))?;
    json::decode(wire(&spec.resource_filter).to_string().as_bytes())
}

/// The site's models.
fn registry(models: &[ModelInfo]) -> Result<Registry> {
    let mut registry = Registry::new();
    for model in models.iter().filter(|model| !model.built_in) {
        let definition = json!({
            "name": model.name,
            "resource_type": model.resource_type,
            "properties": properties(&model.properties, ""),
        });
        registry.register(serde_json::from_value::<ResourceModel>(definition)?)?;
    }
    Ok(registry)
}

/// The declarations below a path, out of the lines that say them.
fn properties(lines: &[PropertyInfo], below: &str) -> Vec<Value> {
    let names = lines.iter().filter_map(|line| {
        let name = line.path.strip_prefix(below)?;
        (!name.is_empty() && !name.contains('/')).then_some((name, line))
    });
    names
        .map(|(name, line)| match &*line.kind {
            "STRUCT" => {
                let fields = properties(lines, &format!("{}/", line.path));
                json!({ "name": name, "kind": "STRUCT", "list": line.list, "fields": fields })
            }
            "ID" => {
                json!({ "name": name, "kind": "ID", "list": line.list, "targets": line.targets, "parent": line.parent })
            }
            kind => json!({ "name": name, "kind": kind, "list": line.list }),
        })
        .collect()
}

/// A filter as the wire has it.
fn wire(filter: &FilterSpec) -> Value {
    let id = |id: &ResourceId| json!({ "type": id.resource_type.as_str(), "id": &*id.id });
    match filter {
        FilterSpec::Type(name) => json!({ "filter_type": "TYPE", "resource_type": name }),
        FilterSpec::Id(resource) => json!({ "filter_type": "ID", "resource_id": id(resource) }),
        FilterSpec::Property(condition) => {
            let (comparable_type, member) = condition.comparable.names();
            let comparable = match &condition.comparable {
                Comparable::Long(v) => json!(v),
                Comparable::Double(v) => json!(v),
                Comparable::Boolean(v) => json!(v),
                Comparable::String(v) => json!(v),
                Comparable::Id(v) => id(v),
            };
            json!({ "filter_type": "PROPERTY", "property_filter": {
                "property": condition.property,
                "operator": condition.operator.name(),
                "comparable_type": comparable_type,
                member: comparable,
            } })
        }
        FilterSpec::Composite { operator, filters } => {
            let operator = match operator {
                CompositeOperator::Intersect => "INTERSECT",
                CompositeOperator::Union => "UNION",
            };
            let filters: Vec<Value> = filters.iter().map(wire).collect();
            json!({ "filter_type": "COMPOSITE", "composite_filter": { "operator": operator, "filters": filters } })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, kind: &str, targets: &[&str]) -> PropertyInfo {
        PropertyInfo {
            path: path.to_owned(),
            kind: kind.to_owned(),
            list: false,
            targets: targets.iter().map(|t| (*t).to_owned()).collect(),
            parent: false,
        }
    }

    fn check(conditions: &str, expected: Value) {
        let model = ModelInfo {
            name: "com.acme.RackModel".to_owned(),
            resource_type: "com.acme.Rack".to_owned(),
            built_in: false,
            properties: vec![
                line("power", "STRUCT", &[]),
                line("power/watts", "DOUBLE", &[]),
                line("host", "ID", &["HostSystem"]),
            ],
        };
        let registry = registry(&[model]).unwrap();
        let spec = parse_text(&format!("com.acme.Rack where {conditions}"), &registry).unwrap();
        let wire = wire(&spec.resource_filter);
        let filter: ResourceFilter = json::decode(wire.to_string().as_bytes()).unwrap();
        let parts = &json::value(&filter)["composite_filter"]["filters"];
        assert_eq!(parts[0], json!({"filter_type": "TYPE", "resource_type": "com.acme.Rack"}));
        assert_eq!(parts[1]["property_filter"], expected);
    }

    #[test]
    fn conditions_become_filters_with_the_sites_own_models() {
        check(
            "power.watts >= 1.5",
            json!({"property": "com.acme.RackModel/power/watts", "operator": "GREATER_OR_EQUAL",
                "comparable_type": "DOUBLE", "comparable_double": 1.5}),
        );
        check(
            "host.name starts with esx",
            json!({"property": "com.acme.RackModel/host->HostSystem/name", "operator": "STARTS_WITH",
                "comparable_type": "STRING", "comparable_string": "esx"}),
        );
    }
}
