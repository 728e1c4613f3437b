//! Values as they are stored.

use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::ResourceId;

/// The name of a property or of a structure's field. Shared with the model that declares it.
pub type Name = Arc<str>;

/// A property's value. `null` does not exist: an unset property is not there.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Boolean(bool),
    /// A signed whole number of 64 bits.
    Long(i64),
    /// A finite number with a fraction.
    Double(f64),
    /// Text; a date_time too, as it was written.
    String(Box<str>),
    /// The identity of another resource, which need not exist.
    Id(Box<ResourceId>),
    /// Elements of one kind, in order.
    List(Box<[Value]>),
    /// Named fields, in the order they came, none twice, never empty.
    Struct(Box<[(Name, Value)]>),
}

impl Value {
    /// What the value is, in the words of an error message.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "a boolean",
            Self::Long(_) => "a whole number",
            Self::Double(_) => "a number with a fraction",
            Self::String(_) => "a string",
            Self::Id(_) => "a resource id",
            Self::List(_) => "a list",
            Self::Struct(_) => "a structure",
        }
    }

    /// The field `name` of a structure.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Struct(fields) => fields.iter().find(|(n, _)| &**n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The resource that an identifier names.
    pub fn as_id(&self) -> Option<&ResourceId> {
        match self {
            Self::Id(id) => Some(id),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_string(self) {
            Ok(text) => f.write_str(&text),
            Err(_) => f.write_str("<value>"),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Long(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Boolean(truth)
    }
}

impl From<ResourceId> for Value {
    fn from(id: ResourceId) -> Self {
        Self::Id(Box::new(id))
    }
}

/// Plain JSON: a resource id is `{"type": …, "id": …}`.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Boolean(v) => s.serialize_bool(*v),
            Self::Long(v) => s.serialize_i64(*v),
            Self::Double(v) => s.serialize_f64(*v),
            Self::String(v) => s.serialize_str(v),
            Self::Id(v) => v.serialize(s),
            Self::List(items) => {
                let mut seq = s.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Self::Struct(fields) => serialize_fields(fields, s),
        }
    }
}

/// Fields as a JSON object, in their order.
pub(crate) fn serialize_fields<S: Serializer>(fields: &[(Name, Value)], s: S) -> Result<S::Ok, S::Error> {
    let mut map = s.serialize_map(Some(fields.len()))?;
    for (name, value) in fields {
        map.serialize_entry(&**name, value)?;
    }
    map.end()
}
