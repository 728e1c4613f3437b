//! The ids that the service gives, in the form of vCenter's.
//!
//! Source: `api/vapi-wire.md`, section 5.

use lockstep_contract::Error;

/// A new id of a category: `urn:vmomi:InventoryServiceCategory:<uuid>:GLOBAL`.
pub(crate) fn category() -> Result<String, Error> {
    urn("Category")
}

/// A new id of a tag: `urn:vmomi:InventoryServiceTag:<uuid>:GLOBAL`.
pub(crate) fn tag() -> Result<String, Error> {
    urn("Tag")
}

fn urn(kind: &str) -> Result<String, Error> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "no random numbers for an id");
        Error::internal()
    })?;
    Ok(format!("urn:vmomi:InventoryService{kind}:{}:GLOBAL", uuid(bytes)))
}

/// A UUID of version 4, variant 1, from random bytes.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_urns_around_a_random_uuid() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        let id = tag().unwrap();
        assert!(id.starts_with("urn:vmomi:InventoryServiceTag:") && id.ends_with(":GLOBAL") && id.len() == 73, "{id}");
        assert_ne!(category().unwrap(), category().unwrap());
    }
}
