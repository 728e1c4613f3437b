//! The network interfaces that belong to the machine itself.

use std::net::IpAddr;

use serde_json::Value;

use super::addresses::Addresses;
use crate::observed::Properties;
use crate::tree::Tree;

/// One network interface.
#[derive(Debug, PartialEq)]
pub(crate) struct Nic {
    pub(crate) name: String,
    pub(crate) mac_address: Option<String>,
    pub(crate) is_connected: bool,
    pub(crate) speed_mbps: Option<u64>,
    pub(crate) mtu: Option<u64>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Nic {
    pub(crate) fn into_value(self) -> Value {
        let mut properties = Properties::default();
        properties
            .set("label", self.name)
            .set("mac_address", self.mac_address)
            .set("connected", self.is_connected)
            .set("speed_Mbps", self.speed_mbps)
            .set("mtu", self.mtu)
            .set_list("ip_addresses", self.addresses.iter().map(|address| address.to_string().into()));
        properties.into_value()
    }
}

/// Devices, bonds of them, and whatever interface has the default route (a bridge on many hosts, a pair's end in a
/// container). The interfaces of VMs and containers come and go with these and are no part of the host.
pub(crate) fn read(tree: &Tree, addresses: &Addresses) -> Vec<Nic> {
    let routed = default_interface(tree);
    let is_of_machine = |name: &String| {
        let directory = format!("sys/class/net/{name}");
        tree.exists(format!("{directory}/device"))
            || tree.exists(format!("{directory}/bonding"))
            || (routed.as_ref() == Some(name) && tree.exists(directory))
    };
    tree.names("sys/class/net").into_iter().filter(is_of_machine).map(|name| read_nic(tree, name, addresses)).collect()
}

fn read_nic(tree: &Tree, name: String, addresses: &Addresses) -> Nic {
    let directory = format!("sys/class/net/{name}");
    let index = tree.number::<u32>(format!("{directory}/ifindex"));
    Nic {
        mac_address: tree.text(format!("{directory}/address")).filter(|mac| mac != "00:00:00:00:00:00"),
        // The file cannot be read while the interface is down.
        is_connected: tree.flag(format!("{directory}/carrier")).unwrap_or(false),
        // -1 where the driver does not know, as for most virtual devices.
        speed_mbps: tree.number::<i64>(format!("{directory}/speed")).and_then(|speed| u64::try_from(speed).ok()),
        mtu: tree.number(format!("{directory}/mtu")),
        addresses: index.and_then(|index| addresses.get(&index)).cloned().unwrap_or_default(),
        name,
    }
}

/// The address at which the host is best reached: of the interface with the default route, IPv4 before IPv6, and no
/// link-local one.
pub(crate) fn management_address(tree: &Tree, nics: &[Nic]) -> Option<IpAddr> {
    let routed = default_interface(tree)?;
    let nic = nics.iter().find(|nic| nic.name == routed)?;
    let is_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
    };
    nic.addresses.iter().filter(|address| !is_local(address)).min_by_key(|address| address.is_ipv6()).copied()
}

/// The interface of the default route with the lowest metric, of IPv4 or else of IPv6.
pub(crate) fn default_interface(tree: &Tree) -> Option<String> {
    const ZEROS: &str = "00000000000000000000000000000000";
    const LOOPBACK: &str = "lo";
    let v4 = tree.text("proc/net/route").unwrap_or_default();
    // Iface Destination Gateway Flags RefCnt Use Metric Mask …
    let v4 = v4.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default = *fields.get(1)? == "00000000" && *fields.get(7)? == "00000000";
        is_default.then(|| Some((fields[6].parse::<u32>().ok()?, fields[0].to_owned()))).flatten()
    });
    if let Some((_, name)) = v4.min() {
        return Some(name);
    }
    let v6 = tree.text("proc/net/ipv6_route").unwrap_or_default();
    // destination length source length next-hop metric references uses flags interface; metric in hexadecimal.
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let name = *fields.get(9)?;
        // The loopback interface holds the kernel's own "unreachable" default.
        let is_default = fields[0] == ZEROS && fields[1] == "00" && name != LOOPBACK;
        is_default.then(|| Some((u32::from_str_radix(fields[5], 16).ok()?, name.to_owned()))).flatten()
    });
    v6.min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
br0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
br0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    fn machine() -> Fixture {
        let fixture = Fixture::new(&[
            ("proc/net/route", ROUTES),
            ("sys/class/net/eth0/address", "52:54:00:00:00:01\n"),
            ("sys/class/net/eth0/carrier", "1\n"),
            ("sys/class/net/eth0/speed", "10000\n"),
            ("sys/class/net/eth0/mtu", "9000\n"),
            ("sys/class/net/eth0/device/vendor", ""),
            ("sys/class/net/eth1/device/vendor", ""),
            ("sys/class/net/eth1/speed", "-1\n"),
            ("sys/class/net/br0/ifindex", "7\n"),
            ("sys/class/net/br0/bridge/bridge_id", ""),
            ("sys/class/net/bond0/bonding/mode", ""),
            ("sys/class/net/bond0/address", "00:00:00:00:00:00\n"),
            ("sys/class/net/lo/mtu", "65536\n"),
            ("sys/class/net/vnet0/tun_flags", "0x1002\n"),
        ]);
        fixture.write("sys/class/net/bonding_masters", "bond0");
        fixture
    }

    #[test]
    fn the_machines_own_interfaces_are_listed() {
        let addresses = Addresses::from([(7, vec!["192.0.2.2".parse().unwrap()])]);
        let nics = read(&machine().tree(), &addresses);
        let names: Vec<_> = nics.iter().map(|nic| nic.name.as_str()).collect();
        assert_eq!(names, ["bond0", "br0", "eth0", "eth1"]);
        assert_eq!(nics[0].mac_address, None);
        assert_eq!(nics[1].addresses, addresses[&7]);
        assert_eq!(
            nics[2],
            Nic {
                name: "eth0".into(),
                mac_address: Some("52:54:00:00:00:01".into()),
                is_connected: true,
                speed_mbps: Some(10_000),
                mtu: Some(9000),
                addresses: Vec::new(),
            }
        );
        assert_eq!((nics[3].is_connected, nics[3].speed_mbps), (false, None));
    }

    #[test]
    fn the_default_route_of_the_lowest_metric_leads_to_the_management_address() {
        fn check(addresses: &[&str], expected: Option<&str>) {
            let fixture = machine();
            let list = addresses.iter().map(|address| address.parse().unwrap()).collect();
            let nics = read(&fixture.tree(), &Addresses::from([(7, list)]));
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(management_address(&fixture.tree(), &nics), expected, "{addresses:?}");
        }
        check(&["192.0.2.2", "198.51.100.1", "fd00::2"], Some("192.0.2.2"));
        check(&["fe80::1", "fd00::2"], Some("fd00::2"));
        check(&["169.254.0.1", "fe80::1"], None);
        check(&[], None);
    }

    #[test]
    fn a_default_route_of_ipv6_alone_counts() {
        const ZERO: &str = "00000000000000000000000000000000";
        let routes = format!(
            "{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200 lo\n\
             {ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
        );
        let fixture = Fixture::new(&[("proc/net/ipv6_route", &routes)]);
        assert_eq!(default_interface(&fixture.tree()).as_deref(), Some("eth0"));
        assert_eq!(default_interface(&Fixture::new(&[("proc/net/route", "eth0 00000000\n")]).tree()), None);
    }
}
