//! Folders, datacenters, datastores, networks and switches.

use serde_json::Value;

use super::values::{boolean_at, id_of, long_at, reference, references, text, text_at, texts};
use super::{Rule, Scope, Values, rule};
use crate::element::Element;
use crate::object::ObjectRef;

pub(super) const NAME: Rule = rule("name", &["name"], |_, e, out| out.set("name", name(e)));

/// A name: of the characters that paths are made with, a source escapes `/`, `\` and `%`.
pub(super) fn name(element: &Element) -> Option<Value> {
    match text(element)? {
        Value::String(name) => Some(name.replace("%2f", "/").replace("%5c", "\\").replace("%25", "%").into()),
        _ => None,
    }
}

/// The folder that something is in, and its datacenter.
const IN_FOLDER: Rule = rule("parent", &["folder", "datacenter"], in_folder);

pub(super) fn in_folder(scope: &Scope<'_>, element: &Element, out: &mut Values) {
    let Some(parent) = ObjectRef::read(element) else { return };
    if &*parent.kind != "Datacenter" {
        out.set("folder", id_of(scope, &parent));
    }
    out.set("datacenter", scope.tree.datacenter(&parent).and_then(|datacenter| id_of(scope, &datacenter)));
}

pub(super) const FOLDER: &[Rule] = &[
    NAME,
    // A datacenter's folders have it as their parent, others the folder around them.
    rule("parent", &["parent", "datacenter"], |scope, e, out| {
        let is_datacenter = e.object_type.as_deref() == Some("Datacenter");
        out.set(if is_datacenter { "datacenter" } else { "parent" }, reference(scope, e));
    }),
    rule("childType", &["kind"], |_, e, out| {
        let has = |kind: &str| e.children.iter().any(|child| child.text.trim() == kind);
        let kinds = [
            ("VirtualMachine", "VIRTUAL_MACHINE"),
            ("ComputeResource", "HOST"),
            ("Datastore", "DATASTORE"),
            ("StoragePod", "DATASTORE"),
            ("Network", "NETWORK"),
            ("DistributedVirtualSwitch", "NETWORK"),
            ("Datacenter", "DATACENTER"),
        ];
        out.set("kind", kinds.iter().find(|(there, _)| has(there)).map(|(_, here)| Value::from(*here)));
    }),
];

pub(super) const DATACENTER: &[Rule] =
    &[NAME, rule("parent", &["folder"], |scope, e, out| out.set("folder", reference(scope, e)))];

pub(super) const DATASTORE: &[Rule] = &[
    NAME,
    IN_FOLDER,
    rule(
        "summary",
        &["kind", "capacity", "free_space", "accessible", "multiple_host_access", "mount_point"],
        |_, e, out| {
            out.set("kind", e.text_at("type").map(|kind| Value::from(kind.to_uppercase())));
            out.set("capacity", long_at(e, "capacity"));
            out.set("free_space", long_at(e, "freeSpace"));
            out.set("accessible", boolean_at(e, "accessible"));
            out.set("multiple_host_access", boolean_at(e, "multipleHostAccess"));
            out.set("mount_point", text_at(e, "url"));
        },
    ),
];

pub(super) const NETWORK: &[Rule] = &[NAME, IN_FOLDER];

pub(super) const PORT_GROUP: &[Rule] = &[
    NAME,
    IN_FOLDER,
    rule("config.distributedVirtualSwitch", &["switch"], |scope, e, out| out.set("switch", reference(scope, e))),
    rule("config.defaultPortConfig", &["vlan_id"], |_, e, out| {
        // A trunk has ranges instead of an id.
        let vlan = e.child("vlan").filter(|vlan| vlan.child("vlanId").is_some_and(|id| id.children.is_empty()));
        out.set("vlan_id", vlan.and_then(|vlan| long_at(vlan, "vlanId")));
    }),
];

pub(super) const SWITCH: &[Rule] = &[
    NAME,
    IN_FOLDER,
    rule("uuid", &["uuid"], |_, e, out| out.set("uuid", text(e))),
    rule("config.uplinkPortPolicy", &["uplinks"], |_, e, out| out.set("uplinks", texts(e, "uplinkPortName"))),
    rule("summary", &["version", "ports", "hosts"], |scope, e, out| {
        out.set("version", text_at(e, "productInfo.version"));
        out.set("ports", long_at(e, "numPorts"));
        let hosts = Element { children: e.all("hostMember").cloned().collect(), ..Element::default() };
        out.set("hosts", references(scope, &hosts));
    }),
];
