//! Resources of stats as they are typed and shown: `VM=vm-12`, `HOST=ALL`.

use std::str::FromStr;

use lockstep_contract::services::stats::{Predicate, RsrcId, SCHEME};

/// What stands for every resource of a type.
const ALL: &str = "ALL";

/// A resource, or all of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// In capitals, as types are.
    resource_type: String,
    /// What sort of id it is; unset: the id in the inventory.
    scheme: Option<String>,
    /// Unset: every one.
    id: Option<String>,
}

impl FromStr for Resource {
    type Err = String;

    /// Reads `TYPE=ID`, `TYPE.SCHEME=ID`, `TYPE=ALL` or `TYPE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, id) = text.split_once('=').map_or((text, None), |(kind, id)| (kind, Some(id)));
        let (resource_type, scheme) = kind.split_once('.').map_or((kind, None), |(kind, scheme)| (kind, Some(scheme)));
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if !is_name(resource_type) || scheme.is_some_and(|scheme| !is_name(scheme)) {
            return Err(format!("{text:?} is no TYPE=ID, such as HOST=host-1 or VM=ALL"));
        }
        if id.is_some_and(str::is_empty) {
            return Err(format!("no id behind {kind}=; {kind}={ALL} means every one"));
        }
        Ok(Self {
            resource_type: resource_type.to_ascii_uppercase(),
            scheme: scheme.map(str::to_owned),
            id: id.filter(|id| *id != ALL).map(str::to_owned),
        })
    }
}

impl Resource {
    /// Every resource of a type.
    pub(crate) fn all(resource_type: &str) -> Self {
        Self { resource_type: resource_type.to_owned(), scheme: None, id: None }
    }

    /// A resource of the inventory.
    pub(crate) fn one(resource_type: &str, id: &str) -> Self {
        Self { resource_type: resource_type.to_owned(), scheme: None, id: Some(id.to_owned()) }
    }

    /// As an acquisition specification has it.
    pub(crate) fn in_spec(&self) -> RsrcId {
        RsrcId {
            key: None,
            resource_type: Some(self.resource_type.clone()),
            id_value: self.id.clone().unwrap_or_default(),
            predicate: Some(if self.id.is_some() { Predicate::Equal } else { Predicate::All }),
            scheme: self.scheme.clone(),
        }
    }
}

/// The conditions of queries that these resources make: `types` and `resources` of a filter. Resources narrow by type.
pub(crate) fn conditions(resources: &[Resource], types: &[String]) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let mut all: Vec<String> = types.iter().map(|name| name.to_ascii_uppercase()).collect();
    let mut each = Vec::new();
    for resource in resources {
        let Resource { resource_type, scheme, id } = resource;
        let scheme = scheme.as_ref().map(|scheme| format!(".{scheme}")).unwrap_or_default();
        match id {
            Some(id) => each.push(format!("type.{resource_type}{scheme}={id}")),
            None if all.contains(resource_type) => {}
            None => all.push(resource_type.clone()),
        }
    }
    ((!all.is_empty()).then_some(all), (!each.is_empty()).then_some(each))
}

/// An identifier as it is typed.
pub(crate) fn shown(id: &RsrcId) -> String {
    let kind = id.resource_type.as_deref().unwrap_or("?");
    let scheme = id.scheme.as_deref().filter(|scheme| !matches!(*scheme, "" | SCHEME));
    let scheme = scheme.map(|scheme| format!(".{scheme}")).unwrap_or_default();
    match id.predicate {
        Some(Predicate::All) => format!("{kind}{scheme}={ALL}"),
        Some(Predicate::Equal) | None => format!("{kind}{scheme}={}", id.id_value),
    }
}

/// Several identifiers as they are typed.
pub(crate) fn shown_all(ids: &[RsrcId]) -> String {
    ids.iter().map(shown).collect::<Vec<_>>().join(" ")
}

/// The identifier that a counter is of: that of its type, else the first.
pub(crate) fn own<'r>(cid: &str, ids: &'r [RsrcId]) -> Option<&'r RsrcId> {
    let kind = cid.rsplit_once('.').map(|(_, kind)| kind);
    ids.iter().find(|id| id.resource_type.as_deref() == kind).or_else(|| ids.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, id: Option<&str>, again: &str) {
        let resource: Resource = text.parse().unwrap();
        assert_eq!(resource.id.as_deref(), id, "{text}");
        assert_eq!(shown(&resource.in_spec()), again);
    }

    #[test]
    fn resources_are_a_type_and_an_id_or_all() {
        check("HOST=host-1", Some("host-1"), "HOST=host-1");
        check("host=host-1", Some("host-1"), "HOST=host-1");
        check("VM=ALL", None, "VM=ALL");
        check("VM", None, "VM=ALL");
        check("VM=a=b", Some("a=b"), "VM=a=b");
        check("VM=all", Some("all"), "VM=all");
        check("VM.uuid=4-5", Some("4-5"), "VM.uuid=4-5");
        for bad in ["", "=", "=vm-1", "VM=", "V M=1", "VM.=1", ".moid=1", "VM..x=1"] {
            assert!(bad.parse::<Resource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_specification_gets_the_predicate_with_it() {
        let all = Resource::all("VM").in_spec();
        assert_eq!((all.predicate, &*all.id_value, all.scheme), (Some(Predicate::All), "", None));
        let one = "HOST=h".parse::<Resource>().unwrap().in_spec();
        assert_eq!((one.predicate, &*one.id_value), (Some(Predicate::Equal), "h"));
    }

    #[test]
    fn conditions_tell_types_from_resources() {
        let resources: Vec<Resource> = ["VM=vm-1", "HOST", "VM.uuid=u"].iter().map(|t| t.parse().unwrap()).collect();
        let (types, each) = conditions(&resources, &["host".to_owned()]);
        assert_eq!(types, Some(vec!["HOST".to_owned()]));
        assert_eq!(each, Some(vec!["type.VM=vm-1".to_owned(), "type.VM.uuid=u".to_owned()]));
        assert_eq!(conditions(&[], &[]), (None, None));
    }

    #[test]
    fn a_counter_is_of_the_resource_of_its_type() {
        let ids = ["HOST=h", "VM=v"].map(|text| text.parse::<Resource>().unwrap().in_spec());
        assert_eq!(own("a.b.VM", &ids).map(shown).as_deref(), Some("VM=v"));
        assert_eq!(own("a.b.OTHER", &ids).map(shown).as_deref(), Some("HOST=h"));
        assert_eq!(own("a.b.VM", &[]), None);
        assert_eq!(shown_all(&ids), "HOST=h VM=v");
    }
}
