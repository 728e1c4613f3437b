//! The network interfaces of a guest, from `-device` with `-netdev`, `-nic` and `-net`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::cmdline::{Arguments, Keys};
use crate::observed::Properties;

/// How the names of emulated network devices begin; any device with a `netdev` is one too.
const NIC_DRIVERS: [&str; 19] = [
    "e1000",
    "i82",
    "igb",
    "lance",
    "ne2k",
    "pcnet",
    "rocker",
    "rtl8139",
    "spapr-vlan",
    "sungem",
    "sunhme",
    "tulip",
    "usb-net",
    "virtio-net",
    "vmxnet3",
    "xen-net-device",
    "imx.enet",
    "cadence_gem",
    "vfio-user-net",
];

/// One network interface of a guest.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct GuestNic {
    pub(crate) label: String,
    /// Only if the command line gives it; QEMU makes up the others.
    pub(crate) mac_address: Option<String>,
    /// The emulated device, `virtio-net-pci`; absent where the machine's default is taken.
    pub(crate) kind: Option<String>,
    /// Whether anything is at the other end.
    pub(crate) is_connected: bool,
    /// The host's interface that the other end is or is plugged into, if the command line names it.
    pub(crate) host_interface: Option<String>,
}

impl GuestNic {
    pub(crate) fn into_value(self) -> Value {
        let mut properties = Properties::default();
        properties
            .set("label", self.label)
            .set("mac_address", self.mac_address)
            .set("kind", self.kind)
            .set("connected", self.is_connected);
        properties.into_value()
    }
}

/// The interfaces in the order of the command line. The one that QEMU adds to a machine for which none is asked for is
/// not among them: which it is, depends on the machine type and the build.
pub(crate) fn parse(arguments: &Arguments) -> Vec<GuestNic> {
    let netdevs: BTreeMap<String, Keys> =
        arguments.each("netdev", "type").filter_map(|keys| Some((keys.get("id")?.to_owned(), keys))).collect();
    // Interfaces and backends of `-net` all meet on one hub.
    let is_backend = |keys: &Keys| !matches!(keys.get("type"), None | Some("nic" | "none"));
    let hub_backend = arguments.each("net", "type").find(is_backend);

    let mut nics = Vec::new();
    for (option, value) in arguments.iter() {
        let nic = match option {
            "device" => of_device(&Keys::parse(value, "driver"), &netdevs),
            "nic" => of_nic(&Keys::parse(value, "type")),
            "net" => of_net(&Keys::parse(value, "type"), &netdevs, hub_backend.as_ref()),
            _ => None,
        };
        if let Some(mut nic) = nic {
            if nic.label.is_empty() {
                nic.label = format!("nic{}", nics.len());
            }
            nics.push(nic);
        }
    }
    nics
}

/// The TAP interfaces that the command line names.
pub(crate) fn tap_interfaces(arguments: &Arguments) -> Vec<String> {
    let backends = ["netdev", "nic", "net"].into_iter().flat_map(|option| arguments.each(option, "type"));
    let taps = backends.filter(|keys| keys.get("type") == Some("tap"));
    taps.filter_map(|keys| keys.get("ifname").map(str::to_owned)).collect()
}

fn of_device(device: &Keys, netdevs: &BTreeMap<String, Keys>) -> Option<GuestNic> {
    let driver = device.get("driver")?;
    let netdev = device.get("netdev");
    if netdev.is_none() && !NIC_DRIVERS.iter().any(|name| driver.starts_with(name)) {
        return None;
    }
    let backend = netdev.and_then(|id| netdevs.get(id));
    Some(GuestNic {
        label: device.get("id").or(netdev).unwrap_or_default().to_owned(),
        mac_address: device.get("mac").and_then(mac_address),
        kind: Some(driver.to_owned()),
        is_connected: backend.is_some(),
        host_interface: backend.and_then(host_interface),
    })
}

fn of_nic(nic: &Keys) -> Option<GuestNic> {
    let backend = nic.get("type")?;
    (backend != "none").then(|| GuestNic {
        label: nic.get("id").unwrap_or_default().to_owned(),
        mac_address: nic.get("mac").or_else(|| nic.get("macaddr")).and_then(mac_address),
        kind: nic.get("model").map(str::to_owned),
        is_connected: true,
        host_interface: host_interface(nic),
    })
}

fn of_net(nic: &Keys, netdevs: &BTreeMap<String, Keys>, hub_backend: Option<&Keys>) -> Option<GuestNic> {
    let backend = match nic.get("netdev") {
        Some(id) => netdevs.get(id),
        None => hub_backend,
    };
    (nic.get("type") == Some("nic")).then(|| GuestNic {
        label: nic.get("name").or_else(|| nic.get("netdev")).unwrap_or_default().to_owned(),
        mac_address: nic.get("macaddr").and_then(mac_address),
        kind: nic.get("model").map(str::to_owned),
        is_connected: backend.is_some(),
        host_interface: backend.and_then(host_interface),
    })
}

/// The TAP interface, or the bridge into which QEMU plugs one that the kernel named.
fn host_interface(backend: &Keys) -> Option<String> {
    const DEFAULT_BRIDGE: &str = "br0";
    let name = match backend.get("type")? {
        "bridge" => Some(backend.get("br").unwrap_or(DEFAULT_BRIDGE)),
        "tap" => backend.get("ifname").or_else(|| backend.get("br")),
        _ => None,
    };
    // The name becomes a part of a path in sysfs.
    name.filter(|name| !name.is_empty() && !name.contains('/') && *name != "." && *name != "..").map(str::to_owned)
}

fn mac_address(text: &str) -> Option<String> {
    let bytes: Vec<u8> = text.split(['-', ':']).map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<_>>()?;
    let [a, b, c, d, e, f] = bytes.try_into().ok()?;
    let [a, b, c, d, e, f]: [u8; 6] = [a, b, c, d, e, f];
    Some(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
}

#[cfg(test)]
mod tests {
    use super::super::cmdline::arguments;
    use super::*;

    /// `label kind mac connected interface` of each, with a dash for what is unknown.
    fn check(line: &str, expected: &[&str]) {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let found: Vec<String> = parse(&arguments(line))
            .into_iter()
            .map(|nic| {
                let (kind, mac, interface) = (or_dash(nic.kind), or_dash(nic.mac_address), or_dash(nic.host_interface));
                format!("{} {kind} {mac} {} {interface}", nic.label, nic.is_connected)
            })
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn devices_with_netdevs() {
        check("", &[]);
        check(
            "-netdev user,id=n0 -device virtio-net-pci,netdev=n0,mac=52:54:00:AB:00:01",
            &["n0 virtio-net-pci 52:54:00:ab:00:01 true -"],
        );
        check(
            "-netdev type=tap,id=net0,ifname=tap100i0,script=no -device virtio-net-pci,mac=BC-24-11-0-0-1,netdev=net0,id=net0",
            &["net0 virtio-net-pci bc:24:11:00:00:01 true tap100i0"],
        );
        check(
            r#"-netdev {"type":"tap","fd":"29","vhost":true,"id":"hostnet0"} -device {"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:00:00:02"}"#,
            &["net0 virtio-net-pci 52:54:00:00:00:02 true -"],
        );
        check("-netdev bridge,id=n -device e1000,netdev=n", &["n e1000 - true br0"]);
        check("-netdev bridge,br=virbr0,id=n -device e1000e,netdev=n", &["n e1000e - true virbr0"]);
        check("-device rtl8139", &["nic0 rtl8139 - false -"]);
        check("-device virtio-net-pci,netdev=gone", &["gone virtio-net-pci - false -"]);
        check("-device virtio-blk-pci,drive=d -device usb-tablet", &[]);
        check("-netdev user,id=unused", &[]);
    }

    #[test]
    fn the_short_forms() {
        check("-nic user", &["nic0 - - true -"]);
        check("-nic none", &[]);
        check("-nic tap,model=e1000,ifname=tap0,mac=52:54:00:00:00:03", &["nic0 e1000 52:54:00:00:00:03 true tap0"]);
        check("-nic bridge,br=br1,id=a -nic user,id=b", &["a - - true br1", "b - - true -"]);
        check("-net nic,model=virtio,macaddr=52:54:00:00:00:04 -net user", &["nic0 virtio 52:54:00:00:00:04 true -"]);
        check("-net tap,ifname=tap1 -net nic", &["nic0 - - true tap1"]);
        check("-net nic", &["nic0 - - false -"]);
        check("-net none", &[]);
        check("-netdev tap,id=a,ifname=tap2 -net nic,netdev=a", &["a - - true tap2"]);
    }

    #[test]
    fn what_is_no_mac_or_interface_is_left_out() {
        check("-nic user,mac=52:54:00", &["nic0 - - true -"]);
        check("-nic user,mac=52:54:00:00:00:1zz", &["nic0 - - true -"]);
        check("-nic tap,ifname=../../../etc", &["nic0 - - true -"]);
    }
}
