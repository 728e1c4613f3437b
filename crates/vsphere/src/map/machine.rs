//! Virtual machines.

use serde_json::Value;

use super::resources::NAME;
use super::values::{
    boolean, boolean_at, fields, id_of, instant, list, long, long_at, reference, references, text, text_at,
    upper_snake, word,
};
use super::{Rule, Scope, rule};
use crate::element::Element;
use crate::object::ObjectRef;

/// Most levels of snapshots that are read; a source allows 32.
const SNAPSHOT_LEVELS_MAX: usize = 48;

pub(super) const MACHINE: &[Rule] = &[
    NAME,
    rule("parent", &["folder"], |scope, e, out| out.set("folder", reference(scope, e))),
    rule("runtime.host", &["host"], |scope, e, out| out.set("host", reference(scope, e))),
    rule("resourcePool", &["resource_pool"], |scope, e, out| out.set("resource_pool", reference(scope, e))),
    rule("datastore", &["datastores"], |scope, e, out| out.set("datastores", references(scope, e))),
    rule("network", &["networks"], |scope, e, out| out.set("networks", references(scope, e))),
    rule("runtime.powerState", &["power_state"], |_, e, out| out.set("power_state", word(e))),
    rule("runtime.connectionState", &["connection_state"], |_, e, out| out.set("connection_state", word(e))),
    rule("runtime.bootTime", &["boot_time"], |_, e, out| out.set("boot_time", instant(e))),
    rule("config.template", &["template"], |_, e, out| out.set("template", boolean(e))),
    rule("config.version", &["hardware_version"], |_, e, out| out.set("hardware_version", word(e))),
    rule("config.firmware", &["firmware"], |_, e, out| out.set("firmware", word(e))),
    rule("config.instanceUuid", &["instance_uuid"], |_, e, out| out.set("instance_uuid", text(e))),
    rule("config.uuid", &["bios_uuid"], |_, e, out| out.set("bios_uuid", text(e))),
    rule("config.files.vmPathName", &["path"], |_, e, out| out.set("path", text(e))),
    rule("config.annotation", &["annotation"], |_, e, out| out.set("annotation", text(e))),
    Rule { since: (6, 7), ..rule("config.createDate", &["created"], |_, e, out| out.set("created", instant(e))) },
    rule("config.guestId", &["guest_OS"], |_, e, out| {
        let text = e.text.trim();
        let guest = upper_snake(text.strip_suffix("Guest").unwrap_or(text));
        out.set("guest_OS", (!guest.is_empty()).then(|| guest.into()));
    }),
    rule("config.hardware.numCPU", &["cpu_count"], |_, e, out| out.set("cpu_count", long(e))),
    rule("config.hardware.numCoresPerSocket", &["cores_per_socket"], |_, e, out| {
        out.set("cores_per_socket", long(e));
    }),
    rule("config.hardware.memoryMB", &["memory_size_MiB"], |_, e, out| out.set("memory_size_MiB", long(e))),
    rule("config.hardware.device", &["nics", "disks"], |scope, e, out| {
        out.set("nics", list(e.children.iter().filter_map(|device| nic(scope, device)).collect()));
        out.set("disks", list(e.children.iter().filter_map(disk).collect()));
    }),
    rule("guest.hostName", &["guest/hostname"], |_, e, out| out.set("guest/hostname", text(e))),
    rule("guest.guestFamily", &["guest/family"], |_, e, out| {
        let text = e.text.trim();
        let family = text.strip_suffix("Guest").or_else(|| text.strip_suffix("GuestFamily")).unwrap_or(text);
        out.set("guest/family", (!family.is_empty()).then(|| upper_snake(family).into()));
    }),
    rule("guest.toolsRunningStatus", &["guest/tools/running"], |_, e, out| {
        // Scripts may run already or still.
        out.set("guest/tools/running", Some(Value::from(e.text.trim() != "guestToolsNotRunning")));
    }),
    rule("guest.toolsVersion", &["guest/tools/version"], |_, e, out| out.set("guest/tools/version", long(e))),
    rule("guest.ipAddress", &["ip_address"], |_, e, out| out.set("ip_address", text(e))),
    rule("guest.net", &["guest/ip_addresses"], |_, e, out| {
        let mut all: Vec<&str> = e
            .children
            .iter()
            .flat_map(|nic| nic.all("ipAddress"))
            .map(|address| address.text.trim())
            .filter(|address| !address.is_empty())
            .collect();
        // Guests tell them in any order.
        all.sort_unstable();
        all.dedup();
        out.set("guest/ip_addresses", list(all.into_iter().map(Value::from).collect()));
    }),
    rule("summary.storage", &["storage/committed", "storage/uncommitted"], |_, e, out| {
        out.set("storage/committed", long_at(e, "committed"));
        out.set("storage/uncommitted", long_at(e, "uncommitted"));
    }),
    rule("snapshot", &["snapshots"], |_, e, out| {
        let current = e.text_at("currentSnapshot");
        let mut snapshots = Vec::new();
        for root in e.all("rootSnapshotList") {
            collect_snapshots(root, None, current, 0, &mut snapshots);
        }
        out.set("snapshots", list(snapshots));
    }),
];

fn nic(scope: &Scope<'_>, device: &Element) -> Option<Value> {
    // Every card is of a subtype of its own, and cards alone have an address.
    device.child("macAddress")?;
    let kind = device.value_type.as_deref().unwrap_or("VirtualEthernetCard");
    let kind = kind.strip_prefix("Virtual").unwrap_or(kind);
    let kind = kind.strip_suffix("EthernetCard").filter(|kind| !kind.is_empty()).unwrap_or(kind);
    let backing = device.child("backing");
    let standard = backing.and_then(|backing| backing.child("network")).and_then(|network| reference(scope, network));
    let distributed = || {
        let id = backing?.text_at("port.portgroupKey")?;
        id_of(scope, &ObjectRef { kind: "DistributedVirtualPortgroup".into(), id: id.into() })
    };
    Some(fields([
        ("label", text_at(device, "deviceInfo.label")),
        ("mac_address", text_at(device, "macAddress")),
        ("kind", Some(kind.to_uppercase().into())),
        ("connected", boolean_at(device, "connectable.connected")),
        ("network", standard.or_else(distributed)),
    ]))
}

fn disk(device: &Element) -> Option<Value> {
    if device.value_type.as_deref() != Some("VirtualDisk") {
        return None;
    }
    let in_kib = || device.long_at("capacityInKB").map(|kib| Value::from(kib.saturating_mul(1024)));
    Some(fields([
        ("label", text_at(device, "deviceInfo.label")),
        ("capacity", long_at(device, "capacityInBytes").or_else(in_kib)),
        ("thin", boolean_at(device, "backing.thinProvisioned")),
        ("path", text_at(device, "backing.fileName")),
    ]))
}

/// A snapshot and those below it, parents first.
fn collect_snapshots(
    snapshot: &Element,
    parent: Option<&str>,
    current: Option<&str>,
    level: usize,
    out: &mut Vec<Value>,
) {
    let Some(id) = snapshot.text_at("snapshot").filter(|_| level < SNAPSHOT_LEVELS_MAX) else { return };
    out.push(fields([
        ("id", Some(id.into())),
        ("name", snapshot.child("name").and_then(super::resources::name)),
        ("description", text_at(snapshot, "description")),
        ("parent", parent.map(Value::from)),
        ("created", snapshot.child("createTime").and_then(instant)),
        ("power_state", snapshot.child("state").and_then(word)),
        ("current", Some(Value::from(current == Some(id)))),
    ]));
    for below in snapshot.all("childSnapshotList") {
        collect_snapshots(below, Some(id), current, level + 1, out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::element::tests::element;
    use crate::map::{Scope, map};
    use crate::object::{Ids, Update};
    use crate::tree::Tree;

    async fn update(kind: &str, changes: &str) -> Update {
        let text = format!(
            r#"<objectSet xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><kind>{kind}</kind>
            <obj type="VirtualMachine">vm-1</obj>{changes}</objectSet>"#
        );
        Update::read(element(&text).await).unwrap()
    }

    fn change(name: &str, value: &str) -> String {
        format!("<changeSet><name>{name}</name><op>assign</op><val>{value}</val></changeSet>")
    }

    #[tokio::test]
    async fn hardware_and_snapshots_become_lists() {
        let (ids, tree) = (Ids { prefix: "b:".into() }, Tree::default());
        let scope = Scope { ids: &ids, tree: &tree };
        let device = r#"<VirtualDevice i:type="VirtualKeyboard"><key>1</key></VirtualDevice>
            <VirtualDevice i:type="VirtualVmxnet3"><deviceInfo><label>Network adapter 1</label></deviceInfo>
            <backing i:type="x"><port><portgroupKey>dvportgroup-9</portgroupKey></port></backing>
            <connectable><connected>true</connected></connectable><macAddress>00:50</macAddress></VirtualDevice>
            <VirtualDevice i:type="VirtualDisk"><deviceInfo><label>Hard disk 1</label></deviceInfo>
            <backing><fileName>[ds] a/a.vmdk</fileName><thinProvisioned>true</thinProvisioned></backing>
            <capacityInKB>4</capacityInKB></VirtualDevice>"#;
        let snapshot = r#"<currentSnapshot type="VirtualMachineSnapshot">snapshot-2</currentSnapshot><rootSnapshotList>
            <snapshot type="VirtualMachineSnapshot">snapshot-1</snapshot><name>a%2fb</name>
            <createTime>2024-05-01T10:00:00Z</createTime><state>poweredOff</state><childSnapshotList>
            <snapshot type="VirtualMachineSnapshot">snapshot-2</snapshot><name>c</name></childSnapshotList></rootSnapshotList>"#;
        let changes = [change("config.hardware.device", device), change("snapshot", snapshot)].concat();
        let mapped = map(&scope, &update("modify", &changes).await, false);
        assert_eq!((mapped.paths, mapped.is_partial), (vec!["nics", "disks", "snapshots"], false));
        assert_eq!(
            serde_json::Value::Object(mapped.properties),
            json!({
                "nics": [{"label": "Network adapter 1", "mac_address": "00:50", "kind": "VMXNET3", "connected": true,
                    "network": {"type": "Network", "id": "b:dvportgroup-9"}}],
                "disks": [{"label": "Hard disk 1", "capacity": 4096, "thin": true, "path": "[ds] a/a.vmdk"}],
                "snapshots": [
                    {"id": "snapshot-1", "name": "a/b", "created": "2024-05-01T10:00:00Z", "power_state": "POWERED_OFF",
                        "current": false},
                    {"id": "snapshot-2", "name": "c", "parent": "snapshot-1", "current": true}],
            })
        );
    }

    #[tokio::test]
    async fn a_change_owns_its_own_properties_and_a_part_of_one_asks_for_the_whole() {
        let (ids, tree) = (Ids::default(), Tree::default());
        let scope = Scope { ids: &ids, tree: &tree };
        let of = async |change: &str| map(&scope, &update("modify", change).await, false);
        let outer = of(&change("runtime", "<powerState>suspended</powerState>")).await;
        assert_eq!(outer.paths, ["host", "power_state", "connection_state", "boot_time"]);
        assert_eq!(serde_json::Value::Object(outer.properties), json!({"power_state": "SUSPENDED"}));
        let part = of(&change("config.hardware.device[4000].connectable", "x")).await;
        assert!(part.is_partial && part.paths.is_empty());
        let other = of(&change("configIssue", "x")).await;
        assert!(!other.is_partial && other.paths.is_empty());
        let whole = map(&scope, &update("enter", &change("name", "a")).await, true);
        assert!(whole.paths.contains(&"annotation") && whole.properties.len() == 1);
    }
}
