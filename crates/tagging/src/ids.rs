//! The ids that the service gives, in the form of vCenter's.
//!
//! Source: `api/vapi-wire.md`, section 5.

use lockstep_contract::Error;
use lockstep_site::uuid;

/// A new id of a category: `urn:vmomi:InventoryServiceCategory:<uuid>:GLOBAL`.
pub(crate) fn category() -> Result<String, Error> {
    urn("Category")
}

/// A new id of a tag: `urn:vmomi:InventoryServiceTag:<uuid>:GLOBAL`.
pub(crate) fn tag() -> Result<String, Error> {
    urn("Tag")
}

fn urn(kind: &str) -> Result<String, Error> {
    Ok(format!("urn:vmomi:InventoryService{kind}:{}:GLOBAL", uuid::random()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_urns_around_a_random_uuid() {
        let id = tag().unwrap();
        assert!(id.starts_with("urn:vmomi:InventoryServiceTag:") && id.ends_with(":GLOBAL") && id.len() == 73, "{id}");
        assert_ne!(category().unwrap(), category().unwrap());
    }
}
