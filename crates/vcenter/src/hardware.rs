//! The parts of a virtual machine, in the words of vCenter's clients.

use lockstep_contract::Map;
use lockstep_contract::services::vcenter::network::Type;
use lockstep_contract::services::vcenter::vm_hardware::{
    BackingType, BootInfo, BootType, ConnectionState, CpuInfo, DiskBacking, DiskBackingType, DiskBus, DiskInfo,
    EmulationType, EthernetBacking, EthernetInfo, HardwareInfo, Identity, MacType, MemoryInfo, UpgradePolicy,
    UpgradeStatus,
};
use lockstep_model::{Document, ResourceId, Value};
use lockstep_query::View;

use crate::network;
use crate::select::{self, id_in, long, text};

/// Keys of disks and network adapters, as vCenter numbers them.
const FIRST_DISK: usize = 2000;
const FIRST_NIC: usize = 4000;

/// Milliseconds after which a machine that finds nothing to boot would try again, were it told to.
const RETRY_DELAY_MS: i64 = 10_000;

/// Both identifiers, or none. QEMU has one for both.
pub(crate) fn identity(vm: &Document, name: &str) -> Option<Identity> {
    let instance_uuid = text(vm, "instance_uuid")?;
    let is_qemu = vm.get("qemu").is_some() || vm.get("libvirt").is_some();
    let bios_uuid = text(vm, "bios_uuid").or(is_qemu.then_some(instance_uuid))?;
    Some(Identity { name: name.to_owned(), bios_uuid: bios_uuid.to_owned(), instance_uuid: instance_uuid.to_owned() })
}

pub(crate) fn version(vm: &Document) -> HardwareInfo {
    let known = text(vm, "hardware_version").map(|version| version.to_uppercase().replace('-', "_"));
    HardwareInfo {
        version: known.filter(|version| version.starts_with("VMX_")).unwrap_or_else(|| "UNKNOWN".to_owned()),
        upgrade_policy: UpgradePolicy::Never,
        upgrade_version: None,
        upgrade_status: UpgradeStatus::None,
        upgrade_error: None,
    }
}

pub(crate) fn boot(vm: &Document) -> BootInfo {
    let ty = match text(vm, "firmware") {
        Some("BIOS") => BootType::Bios,
        Some("EFI" | "UEFI") => BootType::Efi,
        _ => BootType::Unknown,
    };
    // Clients demand these with EFI, and refuse the answer without.
    let is_efi = ty == BootType::Efi;
    BootInfo {
        ty,
        efi_legacy_boot: is_efi.then_some(false),
        network_protocol: is_efi.then(|| "IPV4".to_owned()),
        delay: 0,
        retry: false,
        retry_delay: RETRY_DELAY_MS,
        enter_setup_mode: false,
    }
}

pub(crate) fn cpu(vm: &Document) -> CpuInfo {
    CpuInfo {
        count: long(vm, "cpu_count").unwrap_or(0),
        cores_per_socket: long(vm, "cores_per_socket").unwrap_or(1),
        hot_add_enabled: false,
        hot_remove_enabled: false,
    }
}

pub(crate) fn memory(vm: &Document) -> MemoryInfo {
    MemoryInfo {
        size_mib: long(vm, "memory_size_MiB").unwrap_or(0),
        hot_add_enabled: false,
        hot_add_increment_size_mib: None,
        hot_add_limit_mib: None,
    }
}

pub(crate) fn disks(vm: &Document) -> Map<DiskInfo> {
    let shown = |(key, disk): (String, &Value)| {
        let capacity = match disk.field("capacity") {
            Some(Value::Long(bytes)) => Some(*bytes),
            _ => None,
        };
        let info = DiskInfo {
            label: label(disk, &key),
            ty: DiskBus::Unknown,
            ide: None,
            scsi: None,
            sata: None,
            nvme: None,
            backing: DiskBacking {
                ty: DiskBackingType::VmdkFile,
                vmdk_file: Some(field_text(disk, "path").unwrap_or_default().to_owned()),
            },
            capacity,
        };
        (key, info)
    };
    Map(parts(vm, "disks", FIRST_DISK).map(shown).collect())
}

pub(crate) fn nics(view: &View, vm: &Document) -> Map<EthernetInfo> {
    // Which adapter is on which network is told by the adapter, or is plain when there is one of each.
    let only = match (vm.get("nics"), vm.get("networks")) {
        (Some(Value::List(nics)), Some(Value::List(networks))) if nics.len() == 1 && networks.len() == 1 => {
            id_in(networks.first())
        }
        _ => None,
    };
    let shown = |(key, nic): (String, &Value)| {
        let state = match nic.field("connected") {
            Some(Value::Boolean(true)) => ConnectionState::Connected,
            Some(Value::Boolean(false)) => ConnectionState::NotConnected,
            _ => ConnectionState::Unknown,
        };
        let ty = emulation(field_text(nic, "kind"));
        let info = EthernetInfo {
            label: label(nic, &key),
            ty,
            upt_compatibility_enabled: (ty == EmulationType::Vmxnet3).then_some(false),
            upt_v2_compatibility_enabled: (ty == EmulationType::Vmxnet3).then_some(false),
            mac_type: MacType::Unknown,
            mac_address: field_text(nic, "mac_address").map(str::to_owned),
            pci_slot_number: None,
            wake_on_lan_enabled: false,
            backing: backing(view, id_in(nic.field("network")).or(only)),
            state,
            start_connected: state == ConnectionState::Connected,
            allow_guest_control: false,
        };
        (key, info)
    };
    Map(parts(vm, "nics", FIRST_NIC).map(shown).collect())
}

fn emulation(kind: Option<&str>) -> EmulationType {
    let kind = kind.unwrap_or_default().to_uppercase();
    match &*kind {
        "PCNET" => EmulationType::Pcnet32,
        kind => EmulationType::from_name(kind).unwrap_or(EmulationType::Unknown),
    }
}

/// What an adapter is connected to, with all that clients demand of each type.
fn backing(view: &View, network: Option<&ResourceId>) -> EthernetBacking {
    let stored = |id: &ResourceId| view.get(id).map(|stored| stored.document);
    let found = network.and_then(stored);
    let ty = network::type_of(found.as_ref().and_then(|network| text(network, "kind")));
    let switch_uuid = || {
        let switch = stored(id_in(found.as_ref()?.get("switch"))?)?;
        text(&switch, "uuid").map(str::to_owned)
    };
    let name = found.as_ref().zip(network).map(|(network, id)| select::name(network, &id.id));
    let is_opaque = ty == Type::OpaqueNetwork;
    EthernetBacking {
        ty: match ty {
            Type::StandardPortgroup => BackingType::StandardPortgroup,
            Type::DistributedPortgroup => BackingType::DistributedPortgroup,
            Type::OpaqueNetwork => BackingType::OpaqueNetwork,
            Type::Unknown => BackingType::Unknown,
        },
        network: network.map(|id| id.id.to_string()),
        network_name: name.filter(|_| ty == Type::StandardPortgroup),
        host_device: None,
        distributed_switch_uuid: (ty == Type::DistributedPortgroup).then(|| switch_uuid().unwrap_or_default()),
        distributed_port: None,
        connection_cookie: None,
        opaque_network_type: is_opaque.then(String::new),
        opaque_network_id: is_opaque.then(String::new),
    }
}

/// The structures of a list with their keys.
fn parts<'d>(vm: &'d Document, list: &str, first: usize) -> impl Iterator<Item = (String, &'d Value)> {
    let items = match vm.get(list) {
        Some(Value::List(items)) => &items[..],
        _ => &[],
    };
    items.iter().enumerate().map(move |(at, item)| ((first + at).to_string(), item))
}

fn field_text<'d>(part: &'d Value, name: &str) -> Option<&'d str> {
    part.field(name).and_then(Value::as_str)
}

fn label(part: &Value, key: &str) -> String {
    field_text(part, "label").unwrap_or(key).to_owned()
}
