//! Property paths and relation paths.

use std::fmt;
use std::str::FromStr;

use crate::Name;

/// Most parts of one property path, the model's name included.
///
/// Source: `api/cis-data-and-cdc.md`, A4.
pub const PARTS_MAX: usize = 16;

/// Most hops (`->`) of a relation path.
pub const HOPS_MAX: usize = 8;

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No `/` between a model and a property.
    #[error("{0:?} has no property: a path is Model/property")]
    NoProperty(String),
    /// An empty part.
    #[error("{0:?} has an empty part")]
    EmptyPart(String),
    /// A blank or a control character.
    #[error("{0:?} holds a blank")]
    Blank(String),
    /// More than [`PARTS_MAX`] parts.
    #[error("{0:?} has more than {PARTS_MAX} parts")]
    TooManyParts(String),
    /// More than [`HOPS_MAX`] hops.
    #[error("the path has more than {HOPS_MAX} hops")]
    TooManyHops,
}

/// `Model/name` or `Model/struct/field`: a property of one model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PropertyPath {
    /// The fully qualified name of the model that declares the property.
    pub model: Name,
    /// The property and the fields below it; never empty.
    pub names: Vec<Name>,
}

impl FromStr for PropertyPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let shown = || text.chars().take(200).collect::<String>();
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(PathError::Blank(shown()));
        }
        let mut parts = text.split('/');
        let model = parts.next().unwrap_or_default();
        let names: Vec<Name> = parts.map(Name::from).collect();
        if names.is_empty() {
            return Err(PathError::NoProperty(shown()));
        }
        if model.is_empty() || names.iter().any(|n| n.is_empty()) {
            return Err(PathError::EmptyPart(shown()));
        }
        if names.len() + 1 > PARTS_MAX {
            return Err(PathError::TooManyParts(shown()));
        }
        Ok(Self { model: model.into(), names })
    }
}

impl fmt::Display for PropertyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        self.names.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// Property paths joined by `->`: each but the last holds the identifier of the resource that the next is a property of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelationPath {
    /// At least one; one alone is a property of the resource itself.
    pub hops: Vec<PropertyPath>,
}

impl FromStr for RelationPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let hops = text.split("->").take(HOPS_MAX + 2).map(str::parse).collect::<Result<Vec<PropertyPath>, _>>()?;
        if hops.len() > HOPS_MAX + 1 {
            return Err(PathError::TooManyHops);
        }
        Ok(Self { hops })
    }
}

impl fmt::Display for RelationPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, hop) in self.hops.iter().enumerate() {
            if i > 0 {
                f.write_str("->")?;
            }
            hop.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_back_as_they_were_written() {
        for text in ["VM/name", "com.acme.PersonModel/relatives/father", "VM/host->HostSystem/cluster->Cluster/name"] {
            assert_eq!(text.parse::<RelationPath>().map(|p| p.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn malformed_paths_say_why() {
        let check = |text: &str, expected: PathError| assert_eq!(text.parse::<RelationPath>(), Err(expected), "{text}");
        check("", PathError::NoProperty("".into()));
        check("VM", PathError::NoProperty("VM".into()));
        check("/name", PathError::EmptyPart("/name".into()));
        check("VM/", PathError::EmptyPart("VM/".into()));
        check("VM//x", PathError::EmptyPart("VM//x".into()));
        check("VM/host->", PathError::NoProperty("".into()));
        check("->VM/host", PathError::NoProperty("".into()));
        check("VM/na me", PathError::Blank("VM/na me".into()));
        let deep = format!("VM{}", "/x".repeat(16));
        check(&deep, PathError::TooManyParts(deep.clone()));
        check(&["VM/x"; 10].join("->"), PathError::TooManyHops);
        assert!(["VM/x"; 9].join("->").parse::<RelationPath>().is_ok());
    }
}
