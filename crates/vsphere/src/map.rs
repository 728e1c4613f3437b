//! From properties there to properties here.
//!
//! Each rule reads one property of one type and owns the properties that it sets, and no property here comes from two of them: so a
//! change of one property there is a change of what its rules own and of nothing else, and nothing has to be remembered. The rules are
//! also the property sets that a source is asked for: bounded, and nothing that changes by itself every few seconds (load, memory in
//! use), which is what sampling is for.
//!
//! What is not told is not set. A value of an enumeration that is not known here is kept in its own words.

mod computing;
mod machine;
mod resources;
mod values;

use serde_json::{Map, Value};

use crate::element::Element;
use crate::object::{Ids, ObjectRef, Update};
use crate::tree::Tree;

pub(crate) use values::Values;

/// What rules look things up in.
pub(crate) struct Scope<'a> {
    pub(crate) ids: &'a Ids,
    pub(crate) tree: &'a Tree,
}

/// How one property is read.
pub(crate) struct Rule {
    /// The property there.
    pub(crate) path: &'static str,
    /// The version of the API that has it, when that is not 5.5.
    since: (u32, u32),
    /// The properties here.
    pub(crate) owns: &'static [&'static str],
    read: fn(&Scope<'_>, &Element, &mut Values),
}

const fn rule(path: &'static str, owns: &'static [&'static str], read: fn(&Scope<'_>, &Element, &mut Values)) -> Rule {
    Rule { path, since: (5, 5), owns, read }
}

/// The rules of one type of objects, its subtypes included.
pub(crate) struct Rules {
    /// The type there.
    pub(crate) kind: &'static str,
    pub(crate) rules: &'static [Rule],
}

/// All rules. What stands further down is for a subtype and has all that the type above has.
pub(crate) static RULES: &[Rules] = &[
    Rules { kind: "Folder", rules: resources::FOLDER },
    Rules { kind: "Datacenter", rules: resources::DATACENTER },
    Rules { kind: "ComputeResource", rules: computing::COMPUTE_RESOURCE },
    Rules { kind: "ClusterComputeResource", rules: computing::CLUSTER },
    Rules { kind: "HostSystem", rules: computing::HOST },
    Rules { kind: "ResourcePool", rules: computing::POOL },
    Rules { kind: "Datastore", rules: resources::DATASTORE },
    Rules { kind: "Network", rules: resources::NETWORK },
    Rules { kind: "DistributedVirtualPortgroup", rules: resources::PORT_GROUP },
    Rules { kind: "DistributedVirtualSwitch", rules: resources::SWITCH },
    Rules { kind: "VirtualMachine", rules: machine::MACHINE },
];

/// The rules for objects of a type.
pub(crate) fn rules_of(kind: &str) -> &'static [Rule] {
    let kind = match kind {
        "StoragePod" => "Folder",
        "VirtualApp" => "ResourcePool",
        "OpaqueNetwork" => "Network",
        "VmwareDistributedVirtualSwitch" => "DistributedVirtualSwitch",
        kind => kind,
    };
    RULES.iter().find(|rules| rules.kind == kind).map_or(&[], |rules| rules.rules)
}

/// The property sets that a source of a version of the API can be asked for: types and paths.
pub(crate) fn property_sets(version: (u32, u32), kinds: &[&str]) -> Vec<(&'static str, Vec<&'static str>)> {
    let wanted = RULES.iter().filter(|rules| kinds.is_empty() || kinds.contains(&rules.kind));
    wanted
        .map(|Rules { kind, rules }| {
            (*kind, rules.iter().filter(|rule| rule.since <= version).map(|rule| rule.path).collect())
        })
        .collect()
}

/// What an update says in the words of here.
pub(crate) struct Mapped {
    /// The paths that it says something of.
    pub(crate) paths: Vec<&'static str>,
    /// Their values, in the shape of a document.
    pub(crate) properties: Map<String, Value>,
    /// Whether it tells a part of a property: then the object must be read anew.
    pub(crate) is_partial: bool,
}

/// Reads an update. One that is whole says something of all paths that the collector owns.
pub(crate) fn map(scope: &Scope<'_>, update: &Update, is_whole: bool) -> Mapped {
    let rules = rules_of(&update.object.kind);
    let mut values = Values::default();
    let mut paths = Vec::new();
    let mut is_partial = false;
    if is_whole {
        paths.extend(rules.iter().flat_map(|rule| rule.owns));
        if let Some(kind) = network_kind(&update.object) {
            paths.push("kind");
            values.set("kind", Some(Value::from(kind)));
        }
    }
    for told in &update.told {
        let below = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned)
        };
        for rule in rules {
            let value = if told.path == rule.path {
                told.value.as_ref()
            } else if let Some(rest) = below(&told.path, rule.path) {
                told.value.as_ref().and_then(|value| value.at(&rest))
            } else {
                is_partial |= told.path.starts_with(rule.path) && told.path[rule.path.len()..].starts_with(['.', '[']);
                continue;
            };
            if !is_whole {
                paths.extend(rule.owns);
            }
            if let Some(value) = value {
                (rule.read)(scope, value, &mut values);
            }
        }
    }
    for hidden in update.hidden.iter().filter(|_| !is_whole) {
        let of_hidden = rules.iter().filter(|rule| rule.path == hidden.path);
        paths.extend(of_hidden.flat_map(|rule| rule.owns));
    }
    Mapped { paths, properties: values.into_map(), is_partial }
}

fn network_kind(object: &ObjectRef) -> Option<&'static str> {
    match &*object.kind {
        "Network" => Some("STANDARD_PORTGROUP"),
        "DistributedVirtualPortgroup" => Some("DISTRIBUTED_PORTGROUP"),
        "OpaqueNetwork" => Some("OPAQUE_NETWORK"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use lockstep_model::Registry;

    use super::*;
    use crate::object::resource_type;

    #[test]
    fn every_property_comes_from_one_rule_and_is_declared() {
        let registry = Registry::new();
        for Rules { kind, rules } in RULES {
            let mut owned = HashSet::new();
            for path in rules.iter().flat_map(|rule| rule.owns) {
                assert!(owned.insert(*path), "{kind}: {path} comes from two rules");
                let Some(name) = resource_type(kind) else { panic!("{kind} is no resource, but has {path}") };
                let def = registry.type_def(name).unwrap();
                assert!(def.property(path.split('/')).is_some(), "{name} has no property {path}");
            }
        }
    }

    #[test]
    fn an_older_source_is_not_asked_for_what_it_does_not_know() {
        let has = |version, path| property_sets(version, &["VirtualMachine"])[0].1.contains(&path);
        assert!(
            !has((6, 5), "config.createDate") && has((6, 7), "config.createDate") && has((8, 0), "config.createDate")
        );
        assert!(has((5, 5), "name"));
    }
}
