//! The networks a VM of this host can be on.

use crate::identity::derived_id;
use crate::observed::{Observed, Properties, reference};
use crate::tree::Tree;

/// The resource type.
pub(crate) const NETWORK: &str = "Network";

/// A bridge, or the segment that a physical interface (or a bond of them) is on.
#[derive(Debug, PartialEq)]
pub(crate) struct Network {
    pub(crate) id: String,
    /// The name of the interface.
    pub(crate) name: String,
    pub(crate) is_bridge: bool,
}

impl Network {
    pub(crate) fn into_observed(self, host_id: &str, host_name: &str) -> Observed {
        let mut properties = Properties::default();
        properties
            .set("name", format!("{host_name}:{}", self.name))
            .set("kind", if self.is_bridge { "BRIDGE" } else { "PHYSICAL" })
            .set("interface", self.name)
            .set("host", reference(super::HOST_SYSTEM, host_id));
        Observed { resource_type: NETWORK, id: self.id, properties: properties.into_map() }
    }
}

/// All networks by interface name. A physical interface in a bridge or bond is not one of its own: what is on it is on
/// its master.
pub(crate) fn read(tree: &Tree, host_id: &str) -> Vec<Network> {
    let mut networks = Vec::new();
    for name in tree.names("sys/class/net") {
        let directory = format!("sys/class/net/{name}");
        let is_bridge = tree.exists(format!("{directory}/bridge"));
        let is_physical = tree.exists(format!("{directory}/device")) || tree.exists(format!("{directory}/bonding"));
        if is_bridge || (is_physical && tree.link(format!("{directory}/master")).is_none()) {
            networks.push(Network { id: derived_id("network", &[host_id, &name]), name, is_bridge });
        }
    }
    networks
}

/// The network that an interface belongs to: its own, or its master's.
pub(crate) fn of_interface<'a>(tree: &Tree, networks: &'a [Network], interface: &str) -> Option<&'a Network> {
    let master = tree.link_name(format!("sys/class/net/{interface}/master"));
    let name = master.as_deref().unwrap_or(interface);
    networks.iter().find(|network| network.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    #[test]
    fn bridges_and_free_physical_interfaces_are_networks() {
        let fixture = Fixture::new(&[
            ("sys/class/net/br0/bridge/bridge_id", ""),
            ("sys/class/net/eth0/device/vendor", ""),
            ("sys/class/net/eth1/device/vendor", ""),
            ("sys/class/net/vnet0/tun_flags", "0x1002"),
            ("sys/class/net/lo/mtu", "65536"),
        ]);
        fixture.link("sys/class/net/eth0/master", "../br0");
        fixture.link("sys/class/net/vnet0/master", "../br0");
        let tree = fixture.tree();
        let networks = read(&tree, "host-1");
        let found: Vec<_> = networks.iter().map(|network| (network.name.as_str(), network.is_bridge)).collect();
        assert_eq!(found, [("br0", true), ("eth1", false)]);

        let of = |interface| of_interface(&tree, &networks, interface).map(|network| network.name.as_str());
        assert_eq!(of("vnet0"), Some("br0"));
        assert_eq!(of("br0"), Some("br0"));
        assert_eq!(of("eth1"), Some("eth1"));
        assert_eq!(of("gone0"), None);
    }
}
