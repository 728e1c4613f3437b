//! Virtual machines.

use crate::services::vcenter::power::State;
use crate::services::vcenter::vm_hardware::{
    BootDevice, BootInfo, CpuInfo, DiskInfo, EthernetInfo, HardwareInfo, Identity, MemoryInfo,
};
use crate::{Map, Method, Opaque, Rest, operation, structure};

structure! {
    /// Which virtual machines; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.VM.filter_spec" {
        /// Their ids.
        vms: Option<Vec<String>>,
        /// Their names, to the letter.
        names: Option<Vec<String>>,
        /// Folders that they stand in.
        folders: Option<Vec<String>>,
        /// Datacenters that they are in.
        datacenters: Option<Vec<String>>,
        /// Hosts that they are on.
        hosts: Option<Vec<String>>,
        /// Clusters that they are in.
        clusters: Option<Vec<String>>,
        /// Pools that they are in.
        resource_pools: Option<Vec<String>>,
        /// Their power states.
        power_states: Option<Vec<State>>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which virtual machines; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A virtual machine in a list.
    pub struct Summary = "com.vmware.vcenter.VM.summary" {
        /// Its id, of a `VirtualMachine`.
        vm: String,
        /// Its name.
        name: String,
        /// Whether it runs.
        power_state: State,
        /// Its processors.
        cpu_count: Option<i64>,
        /// Its memory.
        memory_size_mib as "memory_size_MiB": Option<i64>,
    }
}

structure! {
    /// A virtual machine, as far as the inventory knows it.
    pub struct Info = "com.vmware.vcenter.VM.info" {
        /// The operating system that it was made for, a constant of `com.vmware.vcenter.vm.guest_OS`; OTHER when it is not known.
        guest_os as "guest_OS": String,
        /// Its name.
        name: String,
        /// Its identifiers, when both are known.
        identity: Option<Identity>,
        /// Whether it runs.
        power_state: State,
        /// Whether it is frozen to be cloned; always unset.
        instant_clone_frozen: Option<bool>,
        /// The version of its hardware.
        hardware: HardwareInfo,
        /// How it boots.
        boot: BootInfo,
        /// What it boots from; always empty, which means the order of its firmware.
        boot_devices: Vec<BootDevice>,
        /// Its processors.
        cpu: CpuInfo,
        /// Its memory.
        memory: MemoryInfo,
        /// Its disks, by keys from 2000 on.
        disks: Map<DiskInfo>,
        /// Its network adapters, by keys from 4000 on.
        nics: Map<EthernetInfo>,
        /// Always empty: the inventory has none.
        cdroms: Map<Opaque>,
        /// Always empty, likewise.
        floppies: Map<Opaque>,
        /// Always empty, likewise.
        parallel_ports: Map<Opaque>,
        /// Always empty, likewise.
        serial_ports: Map<Opaque>,
        /// Always empty, likewise.
        sata_adapters: Map<Opaque>,
        /// Always empty, likewise.
        scsi_adapters: Map<Opaque>,
        /// Always empty, likewise.
        nvme_adapters: Option<Map<Opaque>>,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct IdInput = "operation-input" {
        /// The virtual machine's id.
        vm: String,
    }
}

operation! {
    /// The virtual machines that a filter leaves, at most 4000; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.VM"."list"(ListInput) -> Vec<Summary>,
    errors: [InvalidArgument, UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/vm", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] = &[
    ("vms", "filter.vms"),
    ("names", "filter.names"),
    ("folders", "filter.folders"),
    ("datacenters", "filter.datacenters"),
    ("hosts", "filter.hosts"),
    ("clusters", "filter.clusters"),
    ("resource_pools", "filter.resource_pools"),
    ("power_states", "filter.power_states"),
];

operation! {
    /// What is known of a virtual machine.
    pub Get = "com.vmware.vcenter.VM"."get"(IdInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/vcenter/vm/{vm}", 200),
    id: "vm",
}
