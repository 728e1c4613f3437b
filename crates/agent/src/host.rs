//! The machine itself.

pub(crate) mod addresses;
pub(crate) mod cpu;
pub(crate) mod datastores;
pub(crate) mod disks;
pub(crate) mod memory;
pub(crate) mod networks;
pub(crate) mod nics;

use std::collections::HashMap;

use jiff::Timestamp;

use crate::observed::{Observed, Properties, reference};
use crate::tree::Tree;
use addresses::Addresses;
use datastores::{DATASTORE, Datastore};

/// The resource type.
pub(crate) const HOST_SYSTEM: &str = "HostSystem";

const BYTES_PER_MIB: u64 = 1 << 20;

/// The host's name, as the kernel has it.
pub(crate) fn name(tree: &Tree) -> Option<String> {
    tree.text("proc/sys/kernel/hostname")
}

/// When the machine was started, in seconds since 1970.
pub(crate) fn boot_time_s(tree: &Tree) -> Option<i64> {
    tree.text("proc/stat")?.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// A time as the inventory writes it, `2026-01-31T12:00:00Z`.
pub(crate) fn rfc3339(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

/// The `HostSystem` resource.
pub(crate) fn read(tree: &Tree, id: &str, name: &str, addresses: &Addresses, datastores: &[Datastore]) -> Observed {
    let nics = nics::read(tree, addresses);
    let release = tree.text("proc/sys/kernel/osrelease");
    let mut kernel = Properties::default();
    kernel
        .set("name", tree.text("proc/sys/kernel/ostype"))
        .set("release", release.clone())
        .set("version", tree.text("proc/sys/kernel/version"));

    let mut properties = Properties::default();
    properties
        .set("name", name)
        .set("connection_state", "CONNECTED")
        .set("power_state", "POWERED_ON")
        .set("in_maintenance_mode", false)
        .set_structure("hardware", hardware(tree))
        .set("numa_nodes", cpu::numa_nodes(tree))
        .set_structure("kernel", kernel)
        .set_structure("os", operating_system(tree))
        .set("version", release)
        .set("management_ip", nics::management_address(tree, &nics).map(|address| address.to_string()))
        .set("boot_time", boot_time_s(tree).and_then(rfc3339))
        .set_list("disks", disks::read(tree).into_iter().map(disks::Disk::into_value))
        .set_list("nics", nics.into_iter().map(nics::Nic::into_value))
        .set_list("datastores", datastores.iter().map(|datastore| reference(DATASTORE, &datastore.id)));
    Observed { resource_type: HOST_SYSTEM, id: id.to_owned(), properties: properties.into_map() }
}

fn hardware(tree: &Tree) -> Properties {
    let cpu = cpu::read(tree);
    let memory_bytes = memory::total_bytes(tree);
    let dmi = |name: &str| tree.text(format!("sys/class/dmi/id/{name}"));
    let mut hardware = Properties::default();
    hardware
        .set("vendor", dmi("sys_vendor"))
        .set("model", dmi("product_name").or_else(|| tree.text("sys/firmware/devicetree/base/model")))
        .set("cpu_model", cpu.model)
        .set("cpu_sockets", cpu.sockets)
        .set("cpu_cores", cpu.cores)
        .set("cpu_threads", cpu.threads)
        .set("cpu_MHz", cpu.rate_mhz)
        .set("memory_size_MiB", memory_bytes.map(|bytes| bytes / BYTES_PER_MIB))
        .set("memory_size_bytes", memory_bytes)
        .set("uuid", dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase()))
        .set("architecture", architecture(tree))
        .set_structure("firmware", firmware(tree));
    hardware
}

/// As `uname -m` prints it. The file is younger than the call, but a fixture can have it.
fn architecture(tree: &Tree) -> Option<String> {
    let asked = || tree.is_system().then(|| rustix::system::uname().machine().to_string_lossy().into_owned());
    tree.text("proc/sys/kernel/arch").or_else(asked)
}

fn firmware(tree: &Tree) -> Properties {
    let dmi = |name: &str| tree.text(format!("sys/class/dmi/id/{name}"));
    // Without EFI, DMI tables are found only where a BIOS left them. A machine with neither (a microVM, a board with a
    // device tree) has another kind of firmware or none.
    let kind =
        if tree.exists("sys/firmware/efi") { Some("UEFI") } else { tree.exists("sys/class/dmi/id").then_some("BIOS") };
    let mut firmware = Properties::default();
    firmware
        .set("vendor", dmi("bios_vendor"))
        .set("version", dmi("bios_version"))
        .set("date", dmi("bios_date"))
        .set("kind", kind);
    firmware
}

fn operating_system(tree: &Tree) -> Properties {
    let release = tree.text("etc/os-release").or_else(|| tree.text("usr/lib/os-release")).unwrap_or_default();
    let values: HashMap<&str, String> = release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), unquote(value.trim())))
        .collect();
    // Rolling distributions have no VERSION_ID, only a build.
    let version = ["VERSION_ID", "VERSION", "BUILD_ID"].iter().find_map(|key| values.get(key));
    let mut system = Properties::default();
    system.set("name", values.get("NAME").cloned()).set("version", version.cloned());
    system
}

/// The value of a shell assignment: in double quotes a backslash takes the next character as it is.
fn unquote(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;
    use serde_json::json;

    #[test]
    fn an_empty_machine_has_only_what_is_always_true() {
        let host = read(&Fixture::new(&[]).tree(), "host-1", "a", &Addresses::new(), &[]);
        let expected = json!({
            "name": "a", "connection_state": "CONNECTED", "power_state": "POWERED_ON", "in_maintenance_mode": false,
            "disks": [], "nics": [], "datastores": [],
        });
        assert_eq!(serde_json::Value::Object(host.properties), expected);
    }

    #[test]
    fn a_machine_is_described() {
        let fixture = Fixture::new(&[
            ("proc/stat", "cpu  1 2 3\nbtime 1767225600\nprocesses 5\n"),
            ("proc/sys/kernel/ostype", "Linux\n"),
            ("proc/sys/kernel/osrelease", "6.12.9\n"),
            ("proc/sys/kernel/version", "#1 SMP\n"),
            ("proc/sys/kernel/arch", "x86_64\n"),
            ("proc/meminfo", "MemTotal:        2097152 kB\n"),
            ("etc/os-release", "NAME=\"Debian \\\"GNU\\\"/Linux\"\nVERSION_ID='12'\n# comment\n"),
            ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n"),
            ("sys/class/dmi/id/product_name", "PowerEdge R760\n"),
            ("sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510-8054-B4C04F4D3132\n"),
            ("sys/class/dmi/id/bios_vendor", "Dell Inc.\n"),
            ("sys/class/dmi/id/bios_date", "01/31/2025\n"),
            ("sys/firmware/efi/fw_platform_size", "64\n"),
        ]);
        let host = read(&fixture.tree(), "host-1", "a", &Addresses::new(), &[]).properties;
        assert_eq!(
            host["hardware"],
            json!({
                "vendor": "Dell Inc.", "model": "PowerEdge R760",
                "memory_size_MiB": 2048, "memory_size_bytes": 2_147_483_648_u64,
                "uuid": "4c4c4544-0042-3510-8054-b4c04f4d3132", "architecture": "x86_64",
                "firmware": {"vendor": "Dell Inc.", "date": "01/31/2025", "kind": "UEFI"},
            })
        );
        assert_eq!(host["kernel"], json!({"name": "Linux", "release": "6.12.9", "version": "#1 SMP"}));
        assert_eq!(host["version"], "6.12.9");
        assert_eq!(host["os"], json!({"name": "Debian \"GNU\"/Linux", "version": "12"}));
        assert_eq!(host["boot_time"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn firmware_kinds() {
        fn check(files: &[(&str, &str)], expected: serde_json::Value) {
            assert_eq!(firmware(&Fixture::new(files).tree()).into_value(), expected);
        }
        check(&[], json!({}));
        check(&[("sys/class/dmi/id/modalias", "")], json!({"kind": "BIOS"}));
        check(&[("sys/class/dmi/id/modalias", ""), ("sys/firmware/efi/config_table", "")], json!({"kind": "UEFI"}));
    }
}
