//! Which resource addresses a question is about: types, and identifiers like `type.VM.moid=vm-41`.
//!
//! Source: `api/vstats.md`, section 5.

use std::collections::BTreeMap;

use lockstep_contract::Error;
use lockstep_contract::counters::ResourceKind;
use lockstep_contract::services::stats::SCHEME;

use crate::addresses::Address;

/// Most identifiers and types of one filter.
const ENTRIES_MAX: usize = 1000;

/// The addresses that a client wants.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AddressFilter {
    /// Any of these types, when there are any; names that are no type match nothing.
    types: Option<Vec<Option<ResourceKind>>>,
    /// By type, any of these ids; all types must match.
    ids: BTreeMap<ResourceKind, Vec<String>>,
    /// Whether it asks for an identifier of a type that does not exist, or by a scheme that does not.
    is_hopeless: bool,
}

impl AddressFilter {
    /// Reads a filter. `place` is the field that holds `resources`.
    ///
    /// # Errors
    /// `invalid_argument` for an entry of another form.
    pub(crate) fn read(types: Option<Vec<String>>, resources: Option<Vec<String>>, place: &str) -> Result<Self, Error> {
        let types = types.filter(|types| !types.is_empty());
        let resources = resources.unwrap_or_default();
        if resources.len() > ENTRIES_MAX || types.as_ref().is_some_and(|types| types.len() > ENTRIES_MAX) {
            let message = format!("at most {ENTRIES_MAX} entries");
            return Err(Error::invalid_argument("lockstep.stats.resource_filter", place, &message));
        }
        let mut filter = Self {
            types: types.map(|types| types.iter().map(|name| ResourceKind::from_name(name)).collect()),
            ..Self::default()
        };
        for (i, entry) in resources.iter().enumerate() {
            let Some((resource_type, scheme, id)) = split(entry) else {
                let message = format!("{entry:?} is not of the form type.<TYPE>[.<scheme>]=<id>");
                return Err(Error::invalid_argument(
                    "lockstep.stats.resource_filter",
                    &format!("{place}[{i}]"),
                    &message,
                ));
            };
            match ResourceKind::from_name(resource_type) {
                Some(kind) if scheme == SCHEME => filter.ids.entry(kind).or_default().push(id.to_owned()),
                _ => filter.is_hopeless = true,
            }
        }
        Ok(filter)
    }

    /// Whether it takes every address.
    pub(crate) fn takes_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the address is wanted.
    pub(crate) fn takes(&self, address: &Address) -> bool {
        let of_type = |kind: ResourceKind| address.id_of(kind);
        !self.is_hopeless
            && self.types.as_ref().is_none_or(|types| types.iter().flatten().any(|kind| of_type(*kind).is_some()))
            && self.ids.iter().all(|(kind, ids)| of_type(*kind).is_some_and(|id| ids.iter().any(|wanted| wanted == id)))
    }
}

/// `type.<TYPE>[.<scheme>]=<id>`: an id may hold anything.
fn split(entry: &str) -> Option<(&str, &str, &str)> {
    let (name, id) = entry.split_once('=')?;
    let mut parts = name.split('.');
    let (word, resource_type, scheme, more) = (parts.next()?, parts.next()?, parts.next(), parts.next());
    let is_well_formed = word == "type" && !resource_type.is_empty() && !id.is_empty() && more.is_none();
    let scheme = scheme.unwrap_or(SCHEME);
    (is_well_formed && !scheme.is_empty()).then_some((resource_type, scheme, id))
}

/// The error for a filter that selects no address that the site knows.
///
/// Source: `api/vstats.md`, section 5: what a vCenter answers.
pub(crate) fn selects_nothing(place: &str) -> Error {
    let message = "the types and resources select no resource that there are data points of";
    Error::invalid_argument("com.vmware.vstats.data_points_invalid_resource_filter", place, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_with_and_without_a_scheme() {
        assert_eq!(split("type.VM=vm-41"), Some(("VM", "moid", "vm-41")));
        assert_eq!(split("type.VM.moid=vm-41"), Some(("VM", "moid", "vm-41")));
        assert_eq!(split("type.VM.uuid=a=b"), Some(("VM", "uuid", "a=b")));
        for wrong in
            ["", "VM=1", "type.=1", "type.VM", "type.VM=", "type.VM.a.b=1", "type.VM.=1", "kind.VM=1", "type=1"]
        {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn entries_of_one_type_widen_and_those_of_others_narrow() {
        let host = Address::Host { host: "h1".into() };
        let vm = |vm: &str, host: &str| Address::Vm { vm: vm.into(), host: host.into() };
        let check = |types: &[&str], resources: &[&str], expected: [bool; 4]| {
            let own = |texts: &[&str]| Some(texts.iter().map(|t| (*t).to_owned()).collect());
            let filter = AddressFilter::read(own(types), own(resources), "rsrcs").unwrap();
            let all = [&host, &vm("v1", "h1"), &vm("v2", "h1"), &vm("v1", "h2")];
            assert_eq!(all.map(|address| filter.takes(address)), expected, "{types:?} {resources:?}");
        };
        check(&[], &[], [true, true, true, true]);
        check(&["HOST"], &[], [true, true, true, true]);
        check(&["VM"], &[], [false, true, true, true]);
        check(&["NONE"], &[], [false; 4]);
        check(&["NONE", "VM"], &[], [false, true, true, true]);
        check(&[], &["type.HOST=h1"], [true, true, true, false]);
        check(&["VM"], &["type.HOST.moid=h1"], [false, true, true, false]);
        check(&[], &["type.VM=v1", "type.VM=v2"], [false, true, true, true]);
        check(&[], &["type.VM=v1", "type.HOST=h2"], [false, false, false, true]);
        check(&[], &["type.VCPU=1"], [false; 4]);
        check(&[], &["type.VM.uuid=v1"], [false; 4]);
    }
}
