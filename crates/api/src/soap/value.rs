//! Values of the VIM schema, and how they are written.

use std::fmt::Write as _;

use lockstep_model::ResourceId;

use super::message::escaped;

/// A value of a property.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A plain value: its type, as `xsd:string`, and its text.
    Text(&'static str, String),
    Object(ResourceId),
    Objects(Vec<ResourceId>),
    Texts(Vec<String>),
    /// A structure: its type, and the fields that are set.
    Struct(&'static str, Vec<(&'static str, Self)>),
}

impl Value {
    pub(super) fn string(text: impl Into<String>) -> Self {
        Self::Text("xsd:string", text.into())
    }

    pub(super) fn long(number: i64) -> Self {
        Self::Text("xsd:long", number.to_string())
    }

    pub(super) fn int(number: i64) -> Self {
        Self::Text("xsd:int", number.to_string())
    }

    pub(super) fn boolean(claim: bool) -> Self {
        Self::Text("xsd:boolean", claim.to_string())
    }

    /// What is further down: a path of names.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, name| match value {
            Self::Struct(_, fields) => fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value),
            _ => None,
        })
    }

    /// The objects that it names.
    pub(super) fn objects(&self) -> &[ResourceId] {
        match self {
            Self::Object(id) => std::slice::from_ref(id),
            Self::Objects(ids) => ids,
            Self::Text(..) | Self::Texts(_) | Self::Struct(..) => &[],
        }
    }

    /// Writes it as an element that says its type, as where any type may stand.
    pub(super) fn write_any(&self, out: &mut String, element: &str) {
        match self {
            Self::Text(kind, text) => _ = write!(out, "<{element} xsi:type=\"{kind}\">{}</{element}>", escaped(text)),
            Self::Object(id) => write_object(out, element, id, true),
            Self::Objects(ids) => {
                _ = write!(out, "<{element} xsi:type=\"ArrayOfManagedObjectReference\">");
                ids.iter().for_each(|id| write_object(out, "ManagedObjectReference", id, true));
                _ = write!(out, "</{element}>");
            }
            Self::Texts(texts) => {
                _ = write!(out, "<{element} xsi:type=\"ArrayOfString\">");
                texts.iter().for_each(|text| _ = write!(out, "<string>{}</string>", escaped(text)));
                _ = write!(out, "</{element}>");
            }
            Self::Struct(kind, fields) => {
                _ = write!(out, "<{element} xsi:type=\"{kind}\">");
                fields.iter().for_each(|(name, value)| value.write(out, name));
                _ = write!(out, "</{element}>");
            }
        }
    }

    /// Writes it as a field whose type the schema knows: a list is an element for each.
    fn write(&self, out: &mut String, field: &str) {
        match self {
            Self::Text(_, text) => _ = write!(out, "<{field}>{}</{field}>", escaped(text)),
            Self::Object(id) => write_object(out, field, id, false),
            Self::Objects(ids) => ids.iter().for_each(|id| write_object(out, field, id, false)),
            Self::Texts(texts) => texts.iter().for_each(|text| _ = write!(out, "<{field}>{}</{field}>", escaped(text))),
            Self::Struct(_, fields) => {
                _ = write!(out, "<{field}>");
                fields.iter().for_each(|(name, value)| value.write(out, name));
                _ = write!(out, "</{field}>");
            }
        }
    }
}

/// Writes the name of an object.
pub(super) fn write_object(out: &mut String, element: &str, id: &ResourceId, with_type: bool) {
    let kind = if with_type { " xsi:type=\"ManagedObjectReference\"" } else { "" };
    let (type_name, id) = (id.resource_type.as_str(), escaped(&id.id));
    _ = write!(out, "<{element} type=\"{type_name}\"{kind}>{id}</{element}>");
}
