//! From what was observed to what must be written: only what differs.
//!
//! The collector owns some properties of its resources and leaves all others alone: what people or other collectors set (tags,
//! annotations, folders) stays. What it owns and does not observe any more is unset.
//!
//! # A virtual machine that stops is off, not gone
//! QEMU's process ends with its machine, and nothing on the host tells whether the machine will be started again. So a machine without a
//! process keeps its resource, POWERED_OFF, with all that it was made of; only what was its process's goes ([`OF_RUNNING`]). Its id does not
//! depend on the process, so it is known again when it is started. Its owner says when it is gone for good, by deleting the resource.
//! Of libvirt's machines the daemon knows which are defined: one that it has no more is deleted. So is what had a number at the end of its id
//! only because two processes claimed to be the same machine.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use crate::Observed;

/// A change to the inventory.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A resource that is not there yet.
    Create {
        /// Its type.
        resource_type: String,
        /// Its id.
        id: String,
        /// Its properties.
        properties: Map<String, Value>,
    },
    /// Properties that differ: paths (`name`, `struct/field`) and their new values, null for unset.
    Patch {
        /// The resource's type.
        resource_type: String,
        /// Its id.
        id: String,
        /// The properties.
        properties: Map<String, Value>,
    },
    /// A resource of this host that is gone for good.
    Delete {
        /// The resource's type.
        resource_type: String,
        /// Its id.
        id: String,
    },
}

/// Gives the properties of a resource by its type and id; `None` when it does not exist.
pub type Stored<'a> = dyn Fn(&str, &str) -> Option<Map<String, Value>> + 'a;

/// Gives the ids of a type's resources whose `host` is the given one.
pub type OfHost<'a> = dyn Fn(&str, &str) -> Vec<String> + 'a;

/// The types that belong to a host, by their property `host`, with the properties that the collector owns.
const OF_HOST: [(&str, &[&str]); 3] = [
    (
        "VirtualMachine",
        &[
            "name",
            "power_state",
            "instance_uuid",
            "boot_time",
            "cpu_count",
            "cores_per_socket",
            "memory_size_MiB",
            "host",
            "disks",
            "nics",
            "datastores",
            "networks",
            "qemu",
            "libvirt",
        ],
    ),
    (
        "Datastore",
        &[
            "name",
            "kind",
            "mount_point",
            "device",
            "capacity",
            "free_space",
            "accessible",
            "multiple_host_access",
            "host",
        ],
    ),
    ("Network", &["name", "kind", "interface", "host"]),
];

/// What the collector owns of the host itself.
const HOST: &[&str] = &[
    "name",
    "connection_state",
    "power_state",
    "version",
    "management_ip",
    "boot_time",
    "numa_nodes",
    "hardware",
    "kernel",
    "os",
    "disks",
    "nics",
    "datastores",
    "libvirt",
];

/// What changes of a virtual machine when its process has ended: it is off, and the others, which are the process's, are unset.
pub const OF_RUNNING: [&str; 5] = ["power_state", "boot_time", "qemu/pid", "qemu/qmp_socket", "qemu/status"];

/// Set when the resource is created, and somebody else's afterwards.
const ON_CREATE_ONLY: &[&str] = &["in_maintenance_mode"];

/// The writes that make the inventory what was observed in one complete reading.
///
/// `stored` gives the properties of a resource, `of_host` the ids of a type's resources whose `host` is the given one.
pub fn plan(observed: &[Observed], stored: &Stored<'_>, of_host: &OfHost<'_>) -> Vec<Write> {
    let mut writes = Vec::new();
    for one in observed {
        let (resource_type, id) = (one.resource_type.to_owned(), one.id.clone());
        match stored(one.resource_type, &one.id) {
            None => writes.push(Write::Create { resource_type, id, properties: one.properties.clone() }),
            Some(before) => {
                let properties = differences(&before, &one.properties, kept(one.resource_type));
                if !properties.is_empty() {
                    writes.push(Write::Patch { resource_type, id, properties });
                }
            }
        }
    }
    let present: HashSet<(&str, &str)> = observed.iter().map(|o| (o.resource_type, &*o.id)).collect();
    for host in observed.iter().filter(|o| o.resource_type == "HostSystem") {
        for (resource_type, _) in OF_HOST {
            let missing =
                of_host(resource_type, &host.id).into_iter().filter(|id| !present.contains(&(resource_type, &**id)));
            for id in missing {
                writes.extend(end(host, resource_type, id, stored));
            }
        }
    }
    writes
}

/// What becomes of a resource of the host that was not observed.
fn end(host: &Observed, resource_type: &str, id: String, stored: &Stored<'_>) -> Option<Write> {
    let delete = |id| Some(Write::Delete { resource_type: resource_type.to_owned(), id });
    if resource_type != "VirtualMachine" {
        return delete(id);
    }
    let before = stored(resource_type, &id)?;
    if before.contains_key("libvirt") {
        // Nobody but libvirt knows of a machine that does not run.
        return if is_libvirt_connected(host) { delete(id) } else { None };
    }
    let is_second = id.rsplit_once('-').is_some_and(|(plain, number)| {
        number.bytes().all(|digit| digit.is_ascii_digit()) && stored(resource_type, plain).is_some()
    });
    if is_second {
        return delete(id);
    }
    let has = |path: &str| match path.split_once('/') {
        Some((structure, name)) => before.get(structure).is_some_and(|inner| inner.get(name).is_some()),
        None => before.contains_key(path),
    };
    let mut properties: Map<String, Value> =
        OF_RUNNING.into_iter().filter(|path| has(path)).map(|path| (path.to_owned(), Value::Null)).collect();
    if before.get("power_state").and_then(Value::as_str) == Some("POWERED_OFF") {
        properties.remove("power_state");
    } else {
        properties.insert("power_state".to_owned(), "POWERED_OFF".into());
    }
    let is_news = !properties.is_empty();
    is_news.then(|| Write::Patch { resource_type: resource_type.to_owned(), id, properties })
}

fn is_libvirt_connected(host: &Observed) -> bool {
    host.properties.get("libvirt").is_some_and(|libvirt| libvirt["connected"] == true)
}

/// The properties of an existing resource that the collector keeps as observed.
pub fn kept(resource_type: &str) -> impl Iterator<Item = &'static str> {
    owned(resource_type).iter().copied().filter(|name| !ON_CREATE_ONLY.contains(name))
}

fn owned(resource_type: &str) -> &'static [&'static str] {
    OF_HOST.iter().find(|(name, _)| *name == resource_type).map_or(HOST, |(_, owned)| owned)
}

/// The leaves in which what the collector owns differs.
fn differences(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    kept: impl Iterator<Item = &'static str>,
) -> Map<String, Value> {
    let mut out = Map::new();
    let names: BTreeSet<&str> = kept.collect();
    for name in names {
        compare(before.get(name), after.get(name), name, &mut out);
    }
    out
}

fn compare(before: Option<&Value>, after: Option<&Value>, path: &str, out: &mut Map<String, Value>) {
    let empty = Map::new();
    let fields = |value: Option<&Value>| match value {
        Some(Value::Object(fields)) if !is_reference(fields) => Some(fields.clone()),
        _ => None,
    };
    match (fields(before), fields(after)) {
        (None, None) if before == after => {}
        (None, None) => {
            out.insert(path.to_owned(), after.cloned().unwrap_or(Value::Null));
        }
        (old, new) => {
            let (old, new) = (old.unwrap_or_else(|| empty.clone()), new.unwrap_or_else(|| empty.clone()));
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                compare(old.get(name), new.get(name), &format!("{path}/{name}"), out);
            }
        }
    }
}

fn is_reference(fields: &Map<String, Value>) -> bool {
    fields.len() == 2 && fields.contains_key("type") && fields.contains_key("id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn observed(resource_type: &'static str, id: &str, properties: Value) -> Observed {
        Observed { resource_type, id: id.to_owned(), properties: object(properties) }
    }

    #[test]
    fn what_only_libvirt_knows_goes_when_libvirt_says_so() {
        let stored = |_: &str, id: &str| {
            Some(object(if id == "of-libvirt" { json!({"libvirt": {"state": "SHUTOFF"}}) } else { json!({}) }))
        };
        let of_host = |t: &str, _: &str| match t {
            "VirtualMachine" => vec!["of-libvirt".to_owned(), "other".to_owned()],
            _ => Vec::new(),
        };
        let deleted = |libvirt: Value| -> Vec<String> {
            let writes = plan(&[observed("HostSystem", "h", libvirt)], &stored, &of_host);
            writes.into_iter().filter_map(|w| if let Write::Delete { id, .. } = w { Some(id) } else { None }).collect()
        };
        assert_eq!(deleted(json!({"libvirt": {"connected": true}})), ["of-libvirt"]);
        assert!(deleted(json!({"libvirt": {"connected": false}})).is_empty());
        assert!(deleted(json!({})).is_empty());
    }

    #[test]
    fn a_machine_without_a_process_is_off_and_known_again() {
        let host = json!({"type": "HostSystem", "id": "h"});
        let here = observed("HostSystem", "h", json!({}));
        let running = json!({"name": "a", "power_state": "POWERED_ON", "boot_time": "2026-01-01T00:00:00Z", "host": host,
            "qemu": {"pid": 7, "machine": "q35", "qmp_socket": "/q", "status": "running"}, "tags": []});
        let off = json!({"name": "a", "power_state": "POWERED_OFF", "host": host, "qemu": {"machine": "q35"}});
        let id = "vm-6f1c2f44-7a4b-4e0e-9a35-123456789012";
        let check = |seen: &[Observed], before: &Value, expected: Option<Value>| {
            let stored = |t: &str, one: &str| (t == "VirtualMachine" && one == id).then(|| object(before.clone()));
            let of_host = |t: &str, _: &str| if t == "VirtualMachine" { vec![id.to_owned()] } else { Vec::new() };
            let patch = |writes: Vec<Write>| match &writes[..] {
                [Write::Create { .. }] => None,
                [Write::Create { .. }, Write::Patch { properties, .. }] => Some(Value::Object(properties.clone())),
                [Write::Patch { properties, .. }, ..] => Some(Value::Object(properties.clone())),
                other => panic!("{other:?}"),
            };
            let mut all = vec![here.clone()];
            all.extend_from_slice(seen);
            assert_eq!(patch(plan(&all, &stored, &of_host)), expected, "{before}");
        };
        let ended = json!({"power_state": "POWERED_OFF", "boot_time": null, "qemu/pid": null, "qemu/qmp_socket": null,
            "qemu/status": null});
        check(&[], &running, Some(ended));
        check(&[], &off, None);
        let again = observed(
            "VirtualMachine",
            id,
            json!({"name": "a", "power_state": "POWERED_ON", "host": host,
            "qemu": {"pid": 8, "machine": "q35"}}),
        );
        check(&[again], &off, Some(json!({"power_state": "POWERED_ON", "qemu/pid": 8})));
    }

    #[test]
    fn a_number_that_told_two_apart_ends_with_its_process() {
        let stored = |t: &str, id: &str| (t == "VirtualMachine" && id != "vm-x").then(|| object(json!({"name": id})));
        let of_host = |t: &str, _: &str| match t {
            "VirtualMachine" => vec!["vm-a-2".to_owned(), "vm-x-2".to_owned()],
            _ => Vec::new(),
        };
        let writes = plan(&[observed("HostSystem", "h", json!({}))], &stored, &of_host);
        assert!(matches!(&writes[1], Write::Delete { id, .. } if id == "vm-a-2"), "{writes:?}");
        assert!(matches!(&writes[2], Write::Patch { id, .. } if id == "vm-x-2"), "{writes:?}");
    }

    #[test]
    fn only_what_differs_is_written_and_what_others_own_stays() {
        let host = json!({"type": "HostSystem", "id": "h"});
        let seen = [
            observed("HostSystem", "h", json!({"name": "a", "in_maintenance_mode": false, "kernel": {"release": "2"}})),
            observed("VirtualMachine", "v1", json!({"name": "one", "host": host, "qemu": {"pid": 7}})),
            observed("VirtualMachine", "v2", json!({"name": "two", "host": host})),
        ];
        let stored = |t: &str, id: &str| match (t, id) {
            ("HostSystem", "h") => Some(object(
                json!({"name": "a", "in_maintenance_mode": true, "kernel": {"release": "1", "name": "Linux"}, "tags": []}),
            )),
            ("VirtualMachine", "v1") => {
                Some(object(json!({"name": "one", "host": host, "qemu": {"pid": 7}, "annotation": "mine"})))
            }
            _ => None,
        };
        let of_host = |t: &str, _: &str| if t == "Network" { vec!["n1".to_owned()] } else { Vec::new() };
        let writes = plan(&seen, &stored, &of_host);
        let changed = object(json!({"kernel/name": null, "kernel/release": "2"}));
        assert_eq!(
            writes,
            [
                Write::Patch { resource_type: "HostSystem".into(), id: "h".into(), properties: changed },
                Write::Create {
                    resource_type: "VirtualMachine".into(),
                    id: "v2".into(),
                    properties: seen[2].properties.clone()
                },
                Write::Delete { resource_type: "Network".into(), id: "n1".into() },
            ]
        );
    }
}
