//! Where a copy is: what the cursor holds.

use lockstep_contract::services::TypedId;
use lockstep_model::ResourceId;

/// How far the copy of the other site's inventory has come.
///
/// ```text
///            ┌─> Copying ──┐
/// (nothing) ─┤             ├─> Following ──(token aged out, or of another log)──> Comparing
///            └─> Comparing ┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// State is being copied, page by page. All up to `after` is here as it was at `token` or later.
    Copying { token: String, after: Option<ResourceId> },
    /// There is a copy, and it is being compared. All up to `after` is like the original was at `token` or later.
    Comparing { token: String, after: Option<ResourceId> },
    /// All that happened up to `token` is here.
    Following { token: String },
}

impl Place {
    /// The place as text. A tab parts what can hold no tab.
    pub(crate) fn write(&self) -> String {
        let (kind, token, after) = match self {
            Self::Copying { token, after } => ("copy", token, after.as_ref()),
            Self::Comparing { token, after } => ("compare", token, after.as_ref()),
            Self::Following { token } => ("follow", token, None),
        };
        let after = after.map_or_else(String::new, |id| format!("\t{}\t{}", id.resource_type, id.id));
        format!("{kind}\t{token}{after}")
    }

    /// The position up to which the other site's commits are here for certain: that of the token, `<log>.<position in hex>.<check>`.
    pub(crate) fn position(&self) -> Option<u64> {
        let (Self::Copying { token, .. } | Self::Comparing { token, .. } | Self::Following { token }) = self;
        u64::from_str_radix(token.split('.').nth(1)?, 16).ok()
    }

    /// Reads a place; `None` for what is none, e.g. of a later version: the copy begins anew then, comparing.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('\t').collect();
        let (kind, token, after) = match parts[..] {
            [kind, token] => (kind, token, None),
            [kind, token, resource_type, id] => (kind, token, Some(ResourceId::new(resource_type, id))),
            _ => return None,
        };
        let token = token.to_owned();
        match (kind, after) {
            ("copy", after) => Some(Self::Copying { token, after }),
            ("compare", after) => Some(Self::Comparing { token, after }),
            ("follow", None) => Some(Self::Following { token }),
            _ => None,
        }
    }
}

/// The id on the wire.
pub(crate) fn typed(id: &ResourceId) -> TypedId {
    TypedId { resource_type: id.resource_type.to_string(), id: id.id.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_tells_the_position_of_its_token() {
        let token = lockstep_site::token::write(lockstep_journal::Origin { epoch: 7 }, lockstep_model::Position(6004));
        assert_eq!(Place::Following { token: format!("{token}+3") }.position(), Some(6004));
        assert_eq!(Place::Following { token: "of another kind".to_owned() }.position(), None);
    }

    #[test]
    fn places_read_back_and_others_are_none() {
        let (token, after) = ("1.2.3+4".to_owned(), Some(ResourceId::new("t.T", "a ~ b")));
        for place in [
            Place::Copying { token: token.clone(), after: None },
            Place::Copying { token: token.clone(), after: after.clone() },
            Place::Comparing { token: token.clone(), after },
            Place::Following { token },
        ] {
            assert_eq!(Place::read(&place.write()), Some(place));
        }
        for bad in ["", "copy", "follow\tx\ty\tz", "of tomorrow\tx", "copy\tx\ty"] {
            assert_eq!(Place::read(bad), None, "{bad:?}");
        }
    }
}
