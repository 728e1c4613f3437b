//! The hardware of virtual machines.

use crate::{enumeration, structure};

structure! {
    /// What identifies a virtual machine.
    pub struct Identity = "com.vmware.vcenter.vm.identity.info" {
        /// Its name.
        name: String,
        /// The UUID that its firmware shows.
        bios_uuid: String,
        /// The UUID that its manager knows it by.
        instance_uuid: String,
    }
}

structure! {
    /// The version of the hardware.
    pub struct HardwareInfo = "com.vmware.vcenter.vm.hardware.info" {
        /// A constant of `com.vmware.vcenter.vm.hardware.version`, as VMX_21.
        version: String,
        /// When it is to be upgraded.
        upgrade_policy: UpgradePolicy,
        /// To what; unset with NEVER.
        upgrade_version: Option<String>,
        /// How the last upgrade ended.
        upgrade_status: UpgradeStatus,
        /// Why it failed.
        upgrade_error: Option<crate::Opaque>,
    }
}

enumeration! {
    /// When the hardware is to be upgraded.
    pub enum UpgradePolicy = "com.vmware.vcenter.vm.hardware.upgrade_policy" {
        /// Not at all.
        Never = "NEVER",
    }
}

enumeration! {
    /// How the last upgrade ended.
    pub enum UpgradeStatus = "com.vmware.vcenter.vm.hardware.upgrade_status" {
        /// There was none.
        None = "NONE",
    }
}

structure! {
    /// How a virtual machine boots.
    pub struct BootInfo = "com.vmware.vcenter.vm.hardware.boot.info" {
        /// Its firmware.
        ty as "type": BootType,
        /// Whether EFI boots in the old way; set with EFI.
        efi_legacy_boot: Option<bool>,
        /// How EFI boots over the network; set with EFI.
        network_protocol: Option<String>,
        /// Milliseconds before it boots.
        delay: i64,
        /// Whether it tries again.
        retry: bool,
        /// Milliseconds before it does.
        retry_delay: i64,
        /// Whether it begins in its setup.
        enter_setup_mode: bool,
    }
}

enumeration! {
    /// The kind of firmware.
    pub enum BootType = "com.vmware.vcenter.vm.hardware.boot.type" {
        /// BIOS.
        Bios = "BIOS",
        /// EFI.
        Efi = "EFI",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// What to boot from.
    pub struct BootDevice = "com.vmware.vcenter.vm.hardware.boot.device.entry" {
        /// CDROM, DISK, ETHERNET or FLOPPY.
        ty as "type": String,
        /// The network adapter.
        nic: Option<String>,
        /// The disks.
        disks: Option<Vec<String>>,
    }
}

structure! {
    /// Processors.
    pub struct CpuInfo = "com.vmware.vcenter.vm.hardware.cpu.info" {
        /// How many cores; 0 when it is not known.
        count: i64,
        /// How many of them in a socket.
        cores_per_socket: i64,
        /// Whether more can be added to the running machine.
        hot_add_enabled: bool,
        /// Whether some can be taken from it.
        hot_remove_enabled: bool,
    }
}

structure! {
    /// Memory.
    pub struct MemoryInfo = "com.vmware.vcenter.vm.hardware.memory.info" {
        /// How much; 0 when it is not known.
        size_mib as "size_MiB": i64,
        /// Whether more can be added to the running machine.
        hot_add_enabled: bool,
        /// In which steps.
        hot_add_increment_size_mib as "hot_add_increment_size_MiB": Option<i64>,
        /// Up to what.
        hot_add_limit_mib as "hot_add_limit_MiB": Option<i64>,
    }
}

structure! {
    /// A disk.
    pub struct DiskInfo = "com.vmware.vcenter.vm.hardware.disk.info" {
        /// What it is called.
        label: String,
        /// What it hangs on.
        ty as "type": DiskBus,
        /// Its place; always unset.
        ide: Option<crate::Opaque>,
        /// Its place; always unset.
        scsi: Option<crate::Opaque>,
        /// Its place; always unset.
        sata: Option<crate::Opaque>,
        /// Its place; always unset.
        nvme: Option<crate::Opaque>,
        /// Where its data is.
        backing: DiskBacking,
        /// Bytes.
        capacity: Option<i64>,
    }
}

enumeration! {
    /// What a disk hangs on.
    pub enum DiskBus = "com.vmware.vcenter.vm.hardware.disk.host_bus_adapter_type" {
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// Where the data of a disk is.
    pub struct DiskBacking = "com.vmware.vcenter.vm.hardware.disk.backing_info" {
        /// In what.
        ty as "type": DiskBackingType,
        /// The path of the file, whatever its format is; empty when it is not known.
        vmdk_file: Option<String>,
    }
}

enumeration! {
    /// What the data of a disk is in.
    pub enum DiskBackingType = "com.vmware.vcenter.vm.hardware.disk.backing_type" {
        /// A file.
        VmdkFile = "VMDK_FILE",
    }
}

structure! {
    /// A network adapter.
    pub struct EthernetInfo = "com.vmware.vcenter.vm.hardware.ethernet.info" {
        /// What it is called.
        label: String,
        /// What it looks like to the guest.
        ty as "type": EmulationType,
        /// Set with VMXNET3: false.
        upt_compatibility_enabled: Option<bool>,
        /// Set with VMXNET3: false.
        upt_v2_compatibility_enabled: Option<bool>,
        /// Where its address comes from.
        mac_type: MacType,
        /// Its address.
        mac_address: Option<String>,
        /// Always unset.
        pci_slot_number: Option<i64>,
        /// Whether it can wake the guest.
        wake_on_lan_enabled: bool,
        /// What it is connected to.
        backing: EthernetBacking,
        /// Whether it is connected.
        state: ConnectionState,
        /// Whether it is when the machine is started.
        start_connected: bool,
        /// Whether the guest may connect it.
        allow_guest_control: bool,
    }
}

enumeration! {
    /// What a network adapter looks like to the guest.
    pub enum EmulationType = "com.vmware.vcenter.vm.hardware.ethernet.emulation_type" {
        /// An Intel 82545.
        E1000 = "E1000",
        /// An Intel 82574.
        E1000e = "E1000E",
        /// An AMD Lance.
        Pcnet32 = "PCNET32",
        /// VMXNET.
        Vmxnet = "VMXNET",
        /// VMXNET 2.
        Vmxnet2 = "VMXNET2",
        /// VMXNET 3.
        Vmxnet3 = "VMXNET3",
        /// Something else, as virtio.
        Unknown = "UNKNOWN",
    }
}

enumeration! {
    /// Where an address comes from.
    pub enum MacType = "com.vmware.vcenter.vm.hardware.ethernet.mac_address_type" {
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

structure! {
    /// What a network adapter is connected to.
    pub struct EthernetBacking = "com.vmware.vcenter.vm.hardware.ethernet.backing_info" {
        /// What it is.
        ty as "type": BackingType,
        /// The network, when it is known.
        network: Option<String>,
        /// Its name; set with STANDARD_PORTGROUP.
        network_name: Option<String>,
        /// Always unset.
        host_device: Option<String>,
        /// The switch, empty when it is not known; set with DISTRIBUTED_PORTGROUP.
        distributed_switch_uuid: Option<String>,
        /// Always unset.
        distributed_port: Option<String>,
        /// Always unset.
        connection_cookie: Option<i64>,
        /// Empty with OPAQUE_NETWORK.
        opaque_network_type: Option<String>,
        /// Empty with OPAQUE_NETWORK.
        opaque_network_id: Option<String>,
    }
}

enumeration! {
    /// What a network adapter is connected to.
    pub enum BackingType = "com.vmware.vcenter.vm.hardware.ethernet.backing_type" {
        /// A port group of one host.
        StandardPortgroup = "STANDARD_PORTGROUP",
        /// A port group of a distributed switch.
        DistributedPortgroup = "DISTRIBUTED_PORTGROUP",
        /// One that is made elsewhere.
        OpaqueNetwork = "OPAQUE_NETWORK",
        /// A device of the host.
        HostDevice = "HOST_DEVICE",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

enumeration! {
    /// Whether a device is connected.
    pub enum ConnectionState = "com.vmware.vcenter.vm.hardware.connection_state" {
        /// It is.
        Connected = "CONNECTED",
        /// It is not.
        NotConnected = "NOT_CONNECTED",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}
