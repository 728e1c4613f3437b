//! What the collector yields: resources as the inventory stores them.

use serde_json::{Map, Value, json};

/// One resource as the inventory stores it.
///
/// References are `{"type": …, "id": …}`, as everywhere in the inventory. A property that could not be found out is
/// absent, not null.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The resource type: `HostSystem`, `Datastore`, `Network` or `VirtualMachine`.
    pub resource_type: &'static str,
    /// The id, unique within the type, stable over restarts and reboots.
    pub id: String,
    /// The properties; structures are nested objects.
    pub properties: Map<String, Value>,
}

/// A reference to a resource, as a property's value.
pub(crate) fn reference(resource_type: &str, id: &str) -> Value {
    json!({ "type": resource_type, "id": id })
}

/// Properties under construction: what is not known is not set.
#[derive(Debug, Default)]
pub(crate) struct Properties(Map<String, Value>);

impl Properties {
    /// Sets a property, if there is a value: an option that is none becomes null, and null is left out.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        if !value.is_null() {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    /// Sets a structure, if it has any property.
    pub(crate) fn set_structure(&mut self, name: &str, structure: Properties) -> &mut Self {
        if !structure.0.is_empty() {
            self.0.insert(name.to_owned(), Value::Object(structure.0));
        }
        self
    }

    /// Sets a list; an empty one too, because "none" is known.
    pub(crate) fn set_list(&mut self, name: &str, items: impl IntoIterator<Item = Value>) -> &mut Self {
        self.0.insert(name.to_owned(), Value::Array(items.into_iter().collect()));
        self
    }

    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_absent() {
        let mut firmware = Properties::default();
        firmware.set("vendor", None::<String>);
        let mut properties = Properties::default();
        properties.set("name", "a").set("size", None::<u64>).set("count", 2).set_structure("firmware", firmware);
        assert_eq!(properties.into_value(), json!({"name": "a", "count": 2}));
    }
}
