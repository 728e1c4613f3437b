//! Digests: whether a copy is like its original, in 64 bits.
//!
//! Both sites reckon them from their columns. The order of properties does not count, since two sites may have registered models in
//! different orders; the site's name in front of linked ids does not either. A digest finds differences of honest copies; who wants to
//! make two resources look alike can.

use lockstep_model::LINKED_FROM;
use lockstep_model::builtin::TAGS;
use lockstep_query::{ResourceRef, ValueRef, View};
use lockstep_site::stamps::has_list;

/// Odd, and of no pattern.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The digest of a resource, as one of type `resource_type`; ids that begin with `prefix` count without it. What it is tagged with does
/// not count.
pub(crate) fn of_resource(view: &View, resource: &ResourceRef<'_>, resource_type: &str, prefix: &str) -> u64 {
    let own = |id| str::strip_prefix(id, prefix).unwrap_or(id);
    let head = text(text(1, resource_type), own(resource.id()));
    let fields = resource.fields();
    let shown =
        fields.iter().filter(|(name, _)| *name != LINKED_FROM && (*name != TAGS || !has_list(view, resource_type)));
    stir(head.wrapping_add(of_fields(shown, prefix)))
}

/// A digest as it travels.
pub(crate) fn write(digest: u64) -> String {
    format!("{digest:016x}")
}

fn of_fields<'v>(fields: impl Iterator<Item = (&'v str, ValueRef<'v>)>, prefix: &str) -> u64 {
    fields.fold(0, |sum, (name, value)| sum.wrapping_add(of_value(text(2, name), &value, prefix)))
}

fn of_value(seed: u64, value: &ValueRef<'_>, prefix: &str) -> u64 {
    match value {
        ValueRef::Boolean(v) => stir(seed ^ (3 << 32 | u64::from(*v))),
        ValueRef::Long(v) => number(seed, 4, v.cast_unsigned()),
        ValueRef::Double(v) => number(seed, 5, v.to_bits()),
        ValueRef::Str(v) => text(seed ^ 6, v),
        ValueRef::DateTime(v) => text(seed ^ 6, v.as_str()),
        ValueRef::Id { resource_type, id } => {
            text(text(seed ^ 7, resource_type), id.strip_prefix(prefix).unwrap_or(id))
        }
        ValueRef::List(list) => list.iter().fold(stir(seed ^ 8), |at, v| of_value(at, &v, prefix)),
        ValueRef::Struct(fields) => stir(seed ^ 9 ^ of_fields(fields.iter(), prefix)),
    }
}

fn number(seed: u64, kind: u64, bits: u64) -> u64 {
    stir(stir(seed ^ kind) ^ bits)
}

/// Eight bytes at a time: this is most of what comparing costs.
fn text(seed: u64, text: &str) -> u64 {
    let mut at = stir(seed ^ text.len() as u64);
    let mut chunks = text.as_bytes().chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        at = (at ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        at ^= at >> 32;
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    stir(at ^ u64::from_le_bytes(word))
}

/// Spreads every bit over all (the last steps of splitmix64).
fn stir(x: u64) -> u64 {
    let x = x.wrapping_add(FACTOR);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_journal::StateEntry;
    use lockstep_model::{Position, Registry, ResourceId};

    fn digest(id: &str, json: &str, prefix: &str) -> u64 {
        let mut view = View::new(Registry::new());
        let document = view.registry().type_def("VirtualMachine").unwrap().read_document(json).unwrap();
        let id = ResourceId::new("VirtualMachine", id);
        let (created, modified) = (Position(1), Position(1));
        view.load(&StateEntry { id: id.clone(), document, created, modified, created_ms: 0, modified_ms: 0 });
        of_resource(&view, &view.find(&id).unwrap(), "VirtualMachine", prefix)
    }

    #[test]
    fn a_copy_has_the_digest_of_its_original() {
        let original = digest(
            "v",
            r#"{"name":"é","cpu_count":2,"host":{"type":"HostSystem","id":"h"},"nics":[{"label":"a"}]}"#,
            "",
        );
        let copy = r#"{"name":"é","cpu_count":2,"host":{"type":"HostSystem","id":"s~h"},"nics":[{"label":"a"}],
            "linked_from":{"type":"Link","id":"l"}}"#;
        assert_eq!(digest("s~v", copy, "s~"), original);
        for other in [
            r#"{"name":"é","cpu_count":3,"host":{"type":"HostSystem","id":"h"},"nics":[{"label":"a"}]}"#,
            r#"{"name":"e","cpu_count":2,"host":{"type":"HostSystem","id":"h"},"nics":[{"label":"a"}]}"#,
            r#"{"name":"é","cpu_count":2,"host":{"type":"HostSystem","id":"i"},"nics":[{"label":"a"}]}"#,
            r#"{"name":"é","cpu_count":2,"host":{"type":"HostSystem","id":"h"},"nics":[{"label":"a"},{}]}"#,
            r#"{"name":"é","cpu_count":2,"host":{"type":"HostSystem","id":"h"}}"#,
        ] {
            assert_ne!(digest("v", other, ""), original, "{other}");
        }
        assert_ne!(digest("w", r#"{"name":"a"}"#, ""), digest("v", r#"{"name":"a"}"#, ""));
    }
}
