//! Clusters, hosts and resource pools.

use serde_json::Value;

use super::resources::{NAME, in_folder};
use super::values::{boolean, boolean_at, fields, id_of, instant, list, long, long_at, references, text_at, word};
use super::{Rule, rule};
use crate::element::Element;
use crate::object::ObjectRef;

/// Compute resources that are no clusters are no resources here; their places are those of their hosts.
pub(super) const COMPUTE_RESOURCE: &[Rule] = &[rule("parent", &[], |_, _, _| {}), rule("host", &[], |_, _, _| {})];

pub(super) const CLUSTER: &[Rule] = &[
    NAME,
    rule("parent", &["folder", "datacenter"], in_folder),
    rule("host", &[], |_, _, _| {}),
    rule(
        "configuration.drsConfig",
        &["drs_enabled", "config/drs/automation", "config/drs/migration_threshold"],
        |_, e, out| {
            out.set("drs_enabled", boolean_at(e, "enabled"));
            out.set("config/drs/automation", e.child("defaultVmBehavior").and_then(word));
            out.set("config/drs/migration_threshold", long_at(e, "vmotionRate"));
        },
    ),
    rule(
        "configuration.dasConfig",
        &["ha_enabled", "config/ha/admission_control", "config/ha/failover_level"],
        |_, e, out| {
            out.set("ha_enabled", boolean_at(e, "enabled"));
            out.set("config/ha/admission_control", boolean_at(e, "admissionControlEnabled"));
            out.set("config/ha/failover_level", long_at(e, "failoverLevel"));
        },
    ),
];

pub(super) const POOL: &[Rule] = &[
    NAME,
    // A root pool belongs to a cluster, or to a host that is in none.
    rule("parent", &["parent", "cluster", "host"], |scope, e, out| {
        let Some(parent) = ObjectRef::read(e) else { return };
        match &*parent.kind {
            "ClusterComputeResource" => out.set("cluster", id_of(scope, &parent)),
            "ComputeResource" => out.set("host", scope.tree.host(&parent).and_then(|host| id_of(scope, &host))),
            _ => out.set("parent", id_of(scope, &parent)),
        }
    }),
    rule("config.cpuAllocation", &["cpu/reservation_MHz", "cpu/limit_MHz", "cpu/shares"], |_, e, out| {
        out.set("cpu/reservation_MHz", long_at(e, "reservation"));
        out.set("cpu/limit_MHz", long_at(e, "limit"));
        out.set("cpu/shares", e.at("shares.level").and_then(word));
    }),
    rule("config.memoryAllocation", &["memory/reservation_MiB", "memory/limit_MiB", "memory/shares"], |_, e, out| {
        out.set("memory/reservation_MiB", long_at(e, "reservation"));
        out.set("memory/limit_MiB", long_at(e, "limit"));
        out.set("memory/shares", e.at("shares.level").and_then(word));
    }),
];

pub(super) const HOST: &[Rule] = &[
    NAME,
    rule("parent", &["cluster", "folder"], |scope, e, out| {
        let Some(parent) = ObjectRef::read(e) else { return };
        match &*parent.kind {
            "ClusterComputeResource" => out.set("cluster", id_of(scope, &parent)),
            _ => out.set("folder", scope.tree.folder(&parent).and_then(|folder| id_of(scope, &folder))),
        }
    }),
    rule("runtime.connectionState", &["connection_state"], |_, e, out| out.set("connection_state", word(e))),
    rule("runtime.powerState", &["power_state"], |_, e, out| out.set("power_state", word(e))),
    rule("runtime.inMaintenanceMode", &["in_maintenance_mode"], |_, e, out| {
        out.set("in_maintenance_mode", boolean(e));
    }),
    rule("runtime.bootTime", &["boot_time"], |_, e, out| out.set("boot_time", instant(e))),
    rule(
        "summary.hardware",
        &[
            "hardware/vendor",
            "hardware/model",
            "hardware/uuid",
            "hardware/cpu_model",
            "hardware/cpu_sockets",
            "hardware/cpu_cores",
            "hardware/cpu_threads",
            "hardware/cpu_MHz",
            "hardware/memory_size_MiB",
            "hardware/memory_size_bytes",
        ],
        |_, e, out| {
            for (here, there) in [("vendor", "vendor"), ("model", "model"), ("uuid", "uuid"), ("cpu_model", "cpuModel")]
            {
                out.set(&format!("hardware/{here}"), text_at(e, there));
            }
            for (here, there) in [
                ("cpu_sockets", "numCpuPkgs"),
                ("cpu_cores", "numCpuCores"),
                ("cpu_threads", "numCpuThreads"),
                ("cpu_MHz", "cpuMhz"),
                ("memory_size_bytes", "memorySize"),
            ] {
                out.set(&format!("hardware/{here}"), long_at(e, there));
            }
            out.set("hardware/memory_size_MiB", e.long_at("memorySize").map(|bytes| Value::from(bytes >> 20)));
        },
    ),
    rule(
        "hardware.biosInfo",
        &["hardware/firmware/vendor", "hardware/firmware/version", "hardware/firmware/date"],
        |_, e, out| {
            out.set("hardware/firmware/vendor", text_at(e, "vendor"));
            out.set("hardware/firmware/version", text_at(e, "biosVersion"));
            out.set("hardware/firmware/date", text_at(e, "releaseDate"));
        },
    ),
    rule("hardware.numaInfo.numNodes", &["numa_nodes"], |_, e, out| out.set("numa_nodes", long(e))),
    rule("config.product", &["version", "build", "os/name", "os/version"], |_, e, out| {
        out.set("version", text_at(e, "version"));
        out.set("build", long_at(e, "build"));
        out.set("os/name", text_at(e, "name"));
        out.set("os/version", text_at(e, "version"));
    }),
    rule("datastore", &["datastores"], |scope, e, out| out.set("datastores", references(scope, e))),
    rule("network", &["networks"], |scope, e, out| out.set("networks", references(scope, e))),
    rule("config.network.vnic", &["management_ip"], |_, e, out| {
        let kernel = e.children.iter().find(|vnic| vnic.text_at("device") == Some("vmk0"));
        out.set("management_ip", kernel.and_then(|vnic| text_at(vnic, "spec.ip.ipAddress")));
    }),
    rule("config.network.pnic", &["nics"], |_, e, out| {
        let nic = |nic: &Element| {
            fields([
                ("label", text_at(nic, "device")),
                ("mac_address", text_at(nic, "mac")),
                ("connected", Some(Value::from(nic.child("linkSpeed").is_some()))),
                ("speed_Mbps", long_at(nic, "linkSpeed.speedMb")),
            ])
        };
        out.set("nics", list(e.children.iter().map(nic).collect()));
    }),
    rule("config.network.vswitch", &["virtual_switches"], |_, e, out| {
        let switch = |switch: &Element| {
            fields([
                ("name", text_at(switch, "name")),
                ("mtu", long_at(switch, "mtu")),
                ("ports", long_at(switch, "numPorts")),
                ("uplinks", keys(switch, "pnic", "PhysicalNic-")),
                ("port_groups", keys(switch, "portgroup", "PortGroup-")),
            ])
        };
        out.set("virtual_switches", list(e.children.iter().map(switch).collect()));
    }),
    rule("config.network.portgroup", &["port_groups"], |_, e, out| {
        let group = |group: &Element| {
            fields([
                ("name", text_at(group, "spec.name")),
                ("switch", text_at(group, "spec.vswitchName")),
                ("vlan_id", long_at(group, "spec.vlanId")),
            ])
        };
        out.set("port_groups", list(e.children.iter().map(group).collect()));
    }),
];

/// The names in keys such as `key-vim.host.PhysicalNic-vmnic0`.
fn keys(element: &Element, name: &str, marker: &str) -> Option<Value> {
    let bare = |key: &Element| key.text.split_once(marker).map_or(key.text.trim(), |(_, bare)| bare).into();
    list(element.all(name).map(bare).collect())
}
