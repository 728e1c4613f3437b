//! Resource models: what the documents of a type may hold.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{Name, PARTS_MAX, ResourceType};

/// The kind of a property's value, or of each element when the property is a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// A signed whole number of 64 bits.
    Long,
    /// A finite number; whole numbers are taken and stored as doubles.
    Double,
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// Text of the form `YYYY-MM-DDThh:mm:ss[.fraction](Z|±hh:mm)`; compared as an instant, kept as written.
    DateTime,
    /// The identity of a resource.
    Id {
        /// The types it may point to; empty for any.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        targets: Vec<ResourceType>,
        /// Whether the resource pointed to is the parent. Of several such properties the first that is set, in the
        /// order of declaration, is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        parent: bool,
    },
    /// A structure of named fields.
    Struct {
        /// The fields, in the order they are shown.
        fields: Vec<Property>,
    },
}

impl Kind {
    /// The kind's name, as the API and messages write it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::DateTime => "DATE_TIME",
            Self::Id { .. } => "ID",
            Self::Struct { .. } => "STRUCT",
        }
    }
}

/// A property of a model, or a field of a structure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    /// The name, without `/`, `->` or blanks.
    pub name: Name,
    /// The kind of the value or of the elements.
    #[serde(flatten)]
    pub kind: Kind,
    /// Whether the value is a list of such.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub list: bool,
    /// Stored, but never shown: not in queries, feeds, exports or resources as they are read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

impl Property {
    /// A single property of the given kind.
    pub fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.into(), kind, list: false, secret: false }
    }

    /// The same as a list.
    #[must_use]
    pub fn list(mut self) -> Self {
        self.list = true;
        self
    }

    /// The same, never shown.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

/// A resource model: properties of one resource type, under a fully qualified name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceModel {
    /// The fully qualified name, e.g. `com.acme.PersonModel`. May equal the type's name.
    pub name: Name,
    /// The type whose resources have these properties.
    pub resource_type: ResourceType,
    /// The properties, in the order they are shown.
    pub properties: Vec<Property>,
}

/// Most properties and fields of one model, at all depths.
pub const PROPERTIES_MAX: usize = 2000;

/// Why a model cannot be registered, whatever else is registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A name is empty or holds something that a path could not.
    #[error("{what} {name:?} is not a name: use letters, digits, dots, dashes and underscores")]
    Name {
        /// `model`, `resource type` or `property`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A structure has no fields, or the model no properties.
    #[error("{0} declares no properties")]
    Empty(String),
    /// Two properties of one structure have one name.
    #[error("property {0} is declared twice")]
    Duplicate(String),
    /// Structures nest deeper than a path can reach.
    #[error("property {0} is nested deeper than {max} levels", max = PARTS_MAX - 1)]
    TooDeep(String),
    /// A property that is a list or inside a structure is declared as the parent.
    #[error("property {0} cannot be the parent: only a single identifier at the top of a model can")]
    Parent(String),
    /// More than [`PROPERTIES_MAX`] properties.
    #[error("the model declares more than {PROPERTIES_MAX} properties")]
    TooMany,
}

impl ResourceModel {
    /// Whether the model makes sense by itself.
    ///
    /// # Errors
    /// [`ModelError`], naming the property.
    pub fn check(&self) -> Result<(), ModelError> {
        check_name("model", &self.name)?;
        check_name("resource type", self.resource_type.as_str())?;
        let mut left = PROPERTIES_MAX;
        check_properties(&self.properties, "", 1, &mut left)
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), ModelError> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 200 || !name.chars().all(fits) {
        return Err(ModelError::Name { what, name: name.to_owned() });
    }
    Ok(())
}

fn check_properties(properties: &[Property], at: &str, depth: usize, left: &mut usize) -> Result<(), ModelError> {
    if properties.is_empty() {
        return Err(ModelError::Empty(if at.is_empty() { "the model".to_owned() } else { at.to_owned() }));
    }
    let mut seen = HashSet::new();
    for property in properties {
        let path = if at.is_empty() { property.name.to_string() } else { format!("{at}/{}", property.name) };
        check_name("property", &property.name)?;
        if !seen.insert(&property.name) {
            return Err(ModelError::Duplicate(path));
        }
        *left = left.checked_sub(1).ok_or(ModelError::TooMany)?;
        match &property.kind {
            Kind::Id { parent: true, .. } if property.list || depth > 1 => return Err(ModelError::Parent(path)),
            // One part of a path is the model's name.
            Kind::Struct { fields } if depth + 1 < PARTS_MAX => check_properties(fields, &path, depth + 1, left)?,
            Kind::Struct { .. } => return Err(ModelError::TooDeep(path)),
            Kind::Long | Kind::Double | Kind::Boolean | Kind::String | Kind::DateTime | Kind::Id { .. } => {}
        }
    }
    Ok(())
}
