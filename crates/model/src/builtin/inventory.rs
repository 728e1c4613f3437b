//! The models of a virtual infrastructure.
//!
//! Names and units follow the inventory data set that the product is measured with; what collectors add stands beside it.
//!
//! Whatever can be tagged lists its tags in a property [`TAGS`](super::TAGS): that list is all there is of an attachment.

use super::{TAG, TAG_CATEGORY, boolean, date_time, double, id, long, model, parent, string, structure, tags};
use crate::{Property, ResourceModel};

pub(super) fn models() -> Vec<ResourceModel> {
    vec![
        model(
            TAG_CATEGORY,
            vec![
                string("name"),
                string("description"),
                string("cardinality"),
                string("associable_types").list(),
                string("used_by").list(),
            ],
        ),
        model(
            TAG,
            vec![string("name"), string("description"), parent("category", TAG_CATEGORY), string("used_by").list()],
        ),
        model(
            "Datacenter",
            vec![string("name"), string("site"), date_time("created"), parent("folder", "Folder"), tags()],
        ),
        model(
            "Folder",
            // A nested folder's parent is the folder around it; a root folder's is its datacenter.
            vec![
                string("name"),
                string("kind"),
                parent("parent", "Folder"),
                parent("datacenter", "Datacenter"),
                tags(),
            ],
        ),
        model(
            "Network",
            vec![
                string("name"),
                string("kind"),
                long("vlan_id"),
                string("interface"),
                parent("folder", "Folder"),
                parent("datacenter", "Datacenter"),
                parent("host", "HostSystem"),
                id("switch", "DistributedVirtualSwitch"),
                tags(),
            ],
        ),
        model(
            "DistributedVirtualSwitch",
            vec![
                string("name"),
                string("uuid"),
                string("version"),
                long("ports"),
                string("uplinks").list(),
                parent("folder", "Folder"),
                parent("datacenter", "Datacenter"),
                id("hosts", "HostSystem").list(),
                tags(),
            ],
        ),
        model(
            "ClusterComputeResource",
            vec![
                string("name"),
                parent("folder", "Folder"),
                parent("datacenter", "Datacenter"),
                boolean("drs_enabled"),
                boolean("ha_enabled"),
                string("evc_mode"),
                structure(
                    "config",
                    vec![
                        structure("drs", vec![string("automation"), long("migration_threshold")]),
                        structure("ha", vec![boolean("admission_control"), long("failover_level")]),
                    ],
                ),
                tags(),
            ],
        ),
        model(
            "ResourcePool",
            vec![
                string("name"),
                parent("parent", "ResourcePool"),
                parent("cluster", "ClusterComputeResource"),
                // The root pool of a host that is in no cluster.
                parent("host", "HostSystem"),
                structure("cpu", vec![long("reservation_MHz"), long("limit_MHz"), string("shares")]),
                structure("memory", vec![long("reservation_MiB"), long("limit_MiB"), string("shares")]),
                tags(),
            ],
        ),
        model(
            "Datastore",
            vec![
                string("name"),
                string("kind"),
                long("capacity"),
                long("free_space"),
                boolean("accessible"),
                boolean("multiple_host_access"),
                string("device"),
                string("mount_point"),
                parent("folder", "Folder"),
                parent("datacenter", "Datacenter"),
                parent("host", "HostSystem"),
                tags(),
            ],
        ),
        model("HostSystem", host_system()),
        model("VirtualMachine", virtual_machine()),
    ]
}

fn host_system() -> Vec<Property> {
    vec![
        string("name"),
        parent("cluster", "ClusterComputeResource"),
        // A host that is in no cluster stands in a folder.
        parent("folder", "Folder"),
        string("connection_state"),
        string("power_state"),
        boolean("in_maintenance_mode"),
        structure(
            "hardware",
            vec![
                string("vendor"),
                string("model"),
                string("cpu_model"),
                long("cpu_sockets"),
                long("cpu_cores"),
                long("cpu_threads"),
                long("cpu_MHz"),
                long("memory_size_MiB"),
                long("memory_size_bytes"),
                string("uuid"),
                string("architecture"),
                structure("firmware", vec![string("vendor"), string("version"), string("date"), string("kind")]),
            ],
        ),
        long("numa_nodes"),
        structure("kernel", vec![string("name"), string("release"), string("version")]),
        structure("os", vec![string("name"), string("version")]),
        structure("libvirt", vec![boolean("connected")]),
        string("version"),
        long("build"),
        string("management_ip"),
        date_time("boot_time"),
        structure("stats", vec![long("cpu_usage_MHz"), long("memory_usage_MiB")]),
        id("datastores", "Datastore").list(),
        id("networks", "Network").list(),
        structure(
            "disks",
            vec![
                string("name"),
                string("kind"),
                string("model"),
                string("serial"),
                long("capacity"),
                boolean("rotational"),
                boolean("removable"),
            ],
        )
        .list(),
        structure(
            "nics",
            vec![
                string("label"),
                string("mac_address"),
                boolean("connected"),
                long("speed_Mbps"),
                long("mtu"),
                string("ip_addresses").list(),
            ],
        )
        .list(),
        structure(
            "virtual_switches",
            vec![string("name"), long("mtu"), long("ports"), string("uplinks").list(), string("port_groups").list()],
        )
        .list(),
        structure("port_groups", vec![string("name"), string("switch"), long("vlan_id")]).list(),
        tags(),
    ]
}

fn virtual_machine() -> Vec<Property> {
    vec![
        string("name"),
        string("power_state"),
        long("cpu_count"),
        long("cores_per_socket"),
        long("memory_size_MiB"),
        string("guest_OS"),
        string("ip_address"),
        id("resource_pool", "ResourcePool"),
        // A VM that stands in no folder, as on a host without a vCenter, is a child of its host.
        parent("folder", "Folder"),
        parent("host", "HostSystem"),
        id("datastores", "Datastore").list(),
        id("networks", "Network").list(),
        tags(),
        boolean("template"),
        string("hardware_version"),
        string("firmware"),
        string("instance_uuid"),
        string("bios_uuid"),
        string("connection_state"),
        string("path"),
        date_time("created"),
        date_time("boot_time"),
        long("uptime_seconds"),
        structure(
            "guest",
            vec![
                string("hostname"),
                string("family"),
                structure("tools", vec![boolean("running"), long("version")]),
                string("ip_addresses").list(),
            ],
        ),
        structure("stats", vec![long("cpu_usage_MHz"), long("memory_usage_MiB"), double("cpu_ready_percent")]),
        structure("storage", vec![long("committed"), long("uncommitted")]),
        structure(
            "nics",
            vec![
                string("label"),
                string("mac_address"),
                string("kind"),
                boolean("connected"),
                id("network", "Network"),
            ],
        )
        .list(),
        structure(
            "disks",
            vec![string("label"), long("capacity"), boolean("thin"), string("path"), string("format"), string("node")],
        )
        .list(),
        structure(
            "snapshots",
            vec![
                string("id"),
                string("name"),
                string("description"),
                string("parent"),
                date_time("created"),
                string("power_state"),
                boolean("current"),
            ],
        )
        .list(),
        structure(
            "qemu",
            vec![
                long("pid"),
                string("machine"),
                string("accelerator"),
                string("qmp_socket"),
                string("version"),
                string("status"),
            ],
        ),
        structure("libvirt", vec![string("driver"), string("state")]),
        structure("custom", vec![string("owner"), string("cost_center")]),
        string("annotation"),
    ]
}
