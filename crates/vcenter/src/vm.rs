//! Lists of virtual machines, and one as a whole.

use lockstep_contract::services::vcenter::power::State;
use lockstep_contract::services::vcenter::vm::{IdInput, Info, ListInput, Summary};
use lockstep_contract::{Error, Map};
use lockstep_query::View;

use crate::cluster::CLUSTER;
use crate::select::{self, Selection};
use crate::{guest_os, hardware};

pub(crate) const VIRTUAL_MACHINE: &str = "VirtualMachine";

/// Most virtual machines of a list.
const LIST_MAX: usize = 4000;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let paths = ["name", "power_state", "cpu_count", "memory_size_MiB"];
    let all = Selection::new(view, VIRTUAL_MACHINE, LIST_MAX, &paths);
    let some = match &input.filter {
        None => all,
        Some(filter) => all
            .ids("filter.vms", &filter.vms)
            .names(&filter.names)
            .pointing("filter.folders", "folder", "Folder", &filter.folders)
            .below("filter.datacenters", "Datacenter", &filter.datacenters)
            .pointing("filter.hosts", "host", "HostSystem", &filter.hosts)
            .pointing("filter.clusters", "host->HostSystem/cluster", CLUSTER, &filter.clusters)
            .pointing("filter.resource_pools", "resource_pool", "ResourcePool", &filter.resource_pools)
            .one_of(&filter.power_states, |row| power_state(row.text("power_state"))),
    };
    some.list(|row| Summary {
        vm: row.id.to_owned(),
        name: row.name(),
        power_state: power_state(row.text("power_state")),
        cpu_count: row.long("cpu_count"),
        memory_size_mib: row.long("memory_size_MiB"),
    })
}

pub(crate) fn power_state(text: Option<&str>) -> State {
    text.and_then(State::from_name).unwrap_or(State::Unknown)
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<Info, Error> {
    let vm = select::find(view, VIRTUAL_MACHINE, &input.vm)?;
    let name = select::name(&vm, &input.vm);
    Ok(Info {
        guest_os: guest_os::constant(select::text(&vm, "guest_OS")).to_owned(),
        identity: hardware::identity(&vm, &name),
        name,
        power_state: power_state(select::text(&vm, "power_state")),
        instant_clone_frozen: None,
        hardware: hardware::version(&vm),
        boot: hardware::boot(&vm),
        boot_devices: Vec::new(),
        cpu: hardware::cpu(&vm),
        memory: hardware::memory(&vm),
        disks: hardware::disks(&vm),
        nics: hardware::nics(view, &vm),
        cdroms: Map(Vec::new()),
        floppies: Map(Vec::new()),
        parallel_ports: Map(Vec::new()),
        serial_ports: Map(Vec::new()),
        sata_adapters: Map(Vec::new()),
        scsi_adapters: Map(Vec::new()),
        nvme_adapters: Some(Map(Vec::new())),
    })
}
