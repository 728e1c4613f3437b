//! Ids that stay the same over restarts and reboots.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::tree::Tree;

/// The host's id: `host-` and 16 hexadecimal digits.
///
/// From the machine-id, which exists on every systemd machine and is readable without privileges; else from the DMI
/// UUID; else from the host name. The order matters: the DMI UUID is readable by root only, and the id must not depend
/// on who runs the collector.
pub(crate) fn host_id(tree: &Tree) -> String {
    let machine_id = tree.text("etc/machine-id").filter(|id| is_machine_id(id));
    let source = machine_id
        .or_else(|| tree.text("sys/class/dmi/id/product_uuid"))
        .or_else(|| tree.text("proc/sys/kernel/hostname"))
        .unwrap_or_default();
    derived_id("host", &[&source.to_ascii_lowercase()])
}

/// `kind-` and 16 hexadecimal digits of a digest of the parts.
///
/// The kind goes into the digest too, so that no id tells that two of different kinds have the same source. Parts are
/// ended by a NUL, which none contains: `["ab", "c"]` and `["a", "bc"]` differ.
pub(crate) fn derived_id(kind: &str, parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in ["lockstep", kind].iter().chain(parts) {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let mut id = format!("{kind}-");
    for byte in digest.finalize().iter().take(8) {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// systemd writes `uninitialized` into the file of an image that has not booted yet.
fn is_machine_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_host_id_is_stable_and_hides_the_machine_id() {
        let fixture = Fixture::new(&[("etc/machine-id", MACHINE_ID), ("proc/sys/kernel/hostname", "a")]);
        let id = host_id(&fixture.tree());
        assert_eq!(id, "host-a118f9f1008e235c");
        assert!(!id.contains(&MACHINE_ID[..8]));

        fixture.write("proc/sys/kernel/hostname", "renamed");
        fixture.write("sys/class/dmi/id/product_uuid", "4c4c4544-0042-3510-8054-b4c04f4d3132");
        assert_eq!(host_id(&fixture.tree()), id, "neither the name nor what root alone can read matters");
    }

    #[test]
    fn without_a_machine_id_the_hardware_and_then_the_name_identify_the_host() {
        let fixture = Fixture::new(&[("etc/machine-id", "uninitialized\n"), ("proc/sys/kernel/hostname", "a\n")]);
        let by_name = host_id(&fixture.tree());
        assert_eq!(by_name, derived_id("host", &["a"]));
        fixture.write("sys/class/dmi/id/product_uuid", "4C4C4544-0042\n");
        assert_eq!(host_id(&fixture.tree()), derived_id("host", &["4c4c4544-0042"]));
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(derived_id("vm", &["ab", "c"]), derived_id("vm", &["a", "bc"]));
        assert_ne!(derived_id("vm", &["a"])[3..], derived_id("network", &["a"])[8..]);
    }
}
