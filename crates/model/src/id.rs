//! What a resource is called, and where in the log it was last changed.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ID_BYTES_MAX;

/// The name of a resource type, e.g. `VirtualMachine` or `com.acme.Person`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceType(Arc<str>);

impl ResourceType {
    /// Takes the name as it is; whether such a type exists is the [`Registry`](crate::Registry)'s to say.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl From<&str> for ResourceType {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for ResourceType {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for ResourceType {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ResourceType {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(|name| Self(name.into()))
    }
}

/// Why a type and an id name no resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The type or the id is empty.
    #[error("the {0} of a resource is empty")]
    Empty(&'static str),
    /// The type or the id is longer than [`ID_BYTES_MAX`].
    #[error("the {0} of a resource is longer than {ID_BYTES_MAX} bytes")]
    TooLong(&'static str),
    /// The type or the id holds a control character.
    #[error("the {0} of a resource holds a control character")]
    Control(&'static str),
}

/// The identity of a resource: its type, and its id, which is unique within the type.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResourceId {
    /// The type, e.g. `VirtualMachine`.
    #[serde(rename = "type")]
    pub resource_type: ResourceType,
    /// The id within the type, e.g. `vm-4242`.
    pub id: Box<str>,
}

impl ResourceId {
    /// Puts the two together without a check; for input see [`ResourceId::check`].
    pub fn new(resource_type: impl Into<ResourceType>, id: impl Into<Box<str>>) -> Self {
        Self { resource_type: resource_type.into(), id: id.into() }
    }

    /// Whether both parts are fit to be stored.
    ///
    /// # Errors
    /// [`IdError`] when a part is empty, longer than [`ID_BYTES_MAX`] or holds a control character.
    pub fn check(&self) -> Result<(), IdError> {
        for (what, text) in [("type", self.resource_type.as_str()), ("id", &*self.id)] {
            if text.is_empty() {
                return Err(IdError::Empty(what));
            }
            if text.len() > ID_BYTES_MAX {
                return Err(IdError::TooLong(what));
            }
            if text.chars().any(char::is_control) {
                return Err(IdError::Control(what));
            }
        }
        Ok(())
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource_type, self.id)
    }
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.resource_type, self.id)
    }
}

/// A commit's place in a site's journal. Positions only grow; [`Position::ZERO`] is before the first commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before the first commit.
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
