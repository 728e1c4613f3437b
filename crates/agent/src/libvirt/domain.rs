//! A domain's definition as a `VirtualMachine`. Source: libvirt's documentation, "Domain XML format".

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde_json::Value;

use crate::host::HOST_SYSTEM;
use crate::host::datastores::DATASTORE;
use crate::host::networks::{self, NETWORK};
use crate::observed::{Observed, Properties, reference};
use crate::qemu::image;
use crate::qemu::vm::{Surroundings, VIRTUAL_MACHINE};
use crate::tree::Tree;

/// What libvirt says of a domain.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Domain {
    pub(crate) uuid: String,
    name: String,
    state: &'static str,
    driver: String,
    cpu_count: Option<u64>,
    cores_per_socket: Option<u64>,
    memory_bytes: Option<u64>,
    machine: Option<String>,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Disk {
    label: Option<String>,
    path: Option<String>,
    format: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Nic {
    label: Option<String>,
    mac_address: Option<String>,
    kind: Option<String>,
    /// A bridge or an interface of the host.
    interface: Option<String>,
    is_down: bool,
}

impl Domain {
    /// Reads a definition; none when it is not one. `state` is a number of `virDomainState`.
    pub(super) fn read(xml: &str, state: i32, driver: &str) -> Option<Self> {
        let elements = elements(xml)?;
        let text = |path: &str| elements.iter().find(|e| e.path == path).map(|e| e.text.clone());
        let number = |path: &str| text(path)?.parse().ok();
        let attribute =
            |path: &str, name: &str| elements.iter().find(|e| e.path == path)?.attributes.get(name).cloned();
        let memory = elements.iter().find(|e| e.path == "/domain/memory");
        Some(Self {
            uuid: text("/domain/uuid")?.to_ascii_lowercase(),
            name: text("/domain/name")?,
            state: state_name(state),
            driver: driver.to_owned(),
            cpu_count: number("/domain/vcpu"),
            cores_per_socket: attribute("/domain/cpu/topology", "cores").and_then(|cores| cores.parse().ok()),
            memory_bytes: memory.and_then(|memory| bytes(&memory.text, memory.attributes.get("unit"))),
            machine: attribute("/domain/os/type", "machine"),
            disks: disks(&elements),
            nics: nics(&elements),
        })
    }

    /// The id that its process has too, when it runs.
    pub(crate) fn id(&self) -> String {
        format!("vm-{}", self.uuid)
    }

    /// What is told of a domain that is a process too: who manages it.
    pub(crate) fn management(&self) -> Value {
        let mut libvirt = Properties::default();
        libvirt.set("driver", self.driver.clone()).set("state", self.state);
        libvirt.into_value()
    }

    /// The whole resource, for one without a process.
    pub(crate) fn into_observed(self, tree: &Tree, around: &Surroundings<'_>) -> Observed {
        let paths = self.disks.iter().filter_map(|disk| disk.path.as_deref());
        let datastores: BTreeSet<&str> =
            paths.filter_map(|path| Some(around.datastores.holding(Path::new(path))?.id.as_str())).collect();
        let interfaces = self.nics.iter().filter_map(|nic| nic.interface.as_deref());
        let networks: BTreeSet<&str> = interfaces
            .filter_map(|interface| Some(networks::of_interface(tree, around.networks, interface)?.id.as_str()))
            .collect();
        let (id, management) = (self.id(), self.management());
        let mut properties = Properties::default();
        properties
            .set("name", self.name)
            .set("power_state", power_state(self.state))
            .set("cpu_count", self.cpu_count)
            .set("cores_per_socket", self.cores_per_socket)
            .set("memory_size_MiB", self.memory_bytes.map(|bytes| bytes >> 20))
            .set("host", reference(HOST_SYSTEM, around.host_id))
            .set("instance_uuid", self.uuid)
            .set_list("disks", self.disks.into_iter().map(|disk| disk.into_value(tree)))
            .set_list("nics", self.nics.into_iter().map(Nic::into_value))
            .set_list("datastores", datastores.into_iter().map(|id| reference(DATASTORE, id)))
            .set_list("networks", networks.into_iter().map(|id| reference(NETWORK, id)))
            .set("libvirt", management);
        if let Some(machine) = self.machine {
            let mut qemu = Properties::default();
            qemu.set("machine", machine);
            properties.set_structure("qemu", qemu);
        }
        Observed { resource_type: VIRTUAL_MACHINE, id, properties: properties.into_map() }
    }
}

impl Disk {
    fn into_value(self, tree: &Tree) -> Value {
        let path = self.path.as_deref().and_then(|path| path.strip_prefix('/'));
        let image = path.map(|path| image::read(tree, &tree.path(path), self.format.clone())).unwrap_or_default();
        let mut properties = Properties::default();
        properties
            .set("label", self.label)
            .set("path", self.path)
            .set("format", image.format.or(self.format))
            .set("capacity", image.capacity_bytes);
        properties.into_value()
    }
}

impl Nic {
    fn into_value(self) -> Value {
        let mut properties = Properties::default();
        properties
            .set("label", self.label)
            .set("mac_address", self.mac_address)
            .set("kind", self.kind)
            .set("connected", !self.is_down);
        properties.into_value()
    }
}

/// The names of `virDomainState`, by its numbers.
pub(super) fn state_name(state: i32) -> &'static str {
    const NAMES: [&str; 8] =
        ["NOSTATE", "RUNNING", "BLOCKED", "PAUSED", "SHUTDOWN", "SHUTOFF", "CRASHED", "PMSUSPENDED"];
    usize::try_from(state).ok().and_then(|state| NAMES.get(state)).unwrap_or(&"NOSTATE")
}

fn power_state(state: &str) -> Option<&'static str> {
    match state {
        // SHUTDOWN is one that is about to be off.
        "RUNNING" | "BLOCKED" | "SHUTDOWN" => Some("POWERED_ON"),
        "PAUSED" | "PMSUSPENDED" => Some("SUSPENDED"),
        "SHUTOFF" | "CRASHED" => Some("POWERED_OFF"),
        _ => None,
    }
}

fn disks(elements: &[Element]) -> Vec<Disk> {
    let of = groups(elements, "/domain/devices/disk");
    let disks = of.filter(|disk| disk[0].attributes.get("device").is_none_or(|device| device == "disk"));
    let disk = |parts: &[Element]| Disk {
        label: attribute(parts, "/domain/devices/disk/target", &["dev"]),
        // A file, a block device, a directory, a network disk or a volume of a pool.
        path: attribute(parts, "/domain/devices/disk/source", &["file", "dev", "dir", "name", "volume"]),
        format: attribute(parts, "/domain/devices/disk/driver", &["type"]),
    };
    disks.map(disk).collect()
}

fn nics(elements: &[Element]) -> Vec<Nic> {
    let nic = |parts: &[Element]| Nic {
        label: attribute(parts, "/domain/devices/interface/alias", &["name"])
            .or_else(|| attribute(parts, "/domain/devices/interface/target", &["dev"])),
        mac_address: attribute(parts, "/domain/devices/interface/mac", &["address"]),
        kind: attribute(parts, "/domain/devices/interface/model", &["type"]),
        interface: attribute(parts, "/domain/devices/interface/source", &["bridge", "dev"]),
        is_down: attribute(parts, "/domain/devices/interface/link", &["state"]).as_deref() == Some("down"),
    };
    groups(elements, "/domain/devices/interface").map(nic).collect()
}

/// One element of a definition, with the path of names that leads to it.
#[derive(Debug)]
struct Element {
    path: String,
    attributes: HashMap<String, String>,
    text: String,
}

/// The elements at a path, each with those within it.
fn groups<'a>(elements: &'a [Element], path: &'static str) -> impl Iterator<Item = &'a [Element]> {
    let starts = elements.iter().enumerate().filter(move |(_, element)| element.path == path);
    starts.map(move |(start, _)| {
        let within = |element: &Element| element.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let count = elements[start + 1..].iter().take_while(|element| within(element)).count();
        &elements[start..=start + count]
    })
}

fn attribute(parts: &[Element], path: &str, names: &[&str]) -> Option<String> {
    let element = parts.iter().find(|element| element.path == path)?;
    names.iter().find_map(|name| element.attributes.get(*name)).cloned()
}

/// All elements in the order of their beginnings; none when it is not XML.
fn elements(xml: &str) -> Option<Vec<Element>> {
    let mut reader = Reader::from_str(xml);
    let mut elements: Vec<Element> = Vec::new();
    // The path so far, and which elements it leads through.
    let (mut path, mut open) = (String::new(), Vec::new());
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                open.push((path.len(), elements.len()));
                elements.push(begin(&mut path, &start)?);
            }
            Event::Empty(start) => {
                let length = path.len();
                elements.push(begin(&mut path, &start)?);
                path.truncate(length);
            }
            Event::End(_) => {
                let (length, element) = open.pop()?;
                path.truncate(length);
                let text = &mut elements[element].text;
                *text = text.trim().to_owned();
            }
            Event::Text(text) => {
                if let Some((_, element)) = open.last() {
                    elements[*element].text.push_str(&text.xml_content(XmlVersion::default()));
                }
            }
            Event::GeneralRef(entity) => {
                if let Some((_, element)) = open.last() {
                    elements[*element].text.push(lockstep_contract::xml::predefined(&entity).ok()?);
                }
            }
            Event::Eof => return Some(elements),
            _ => {}
        }
    }
}

fn begin(path: &mut String, start: &BytesStart<'_>) -> Option<Element> {
    path.push('/');
    path.push_str(start.name().as_ref());
    let mut attributes = HashMap::new();
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        let name = attribute.key.as_ref().to_owned();
        attributes.insert(name, attribute.normalized_value(XmlVersion::default()).ok()?.into_owned());
    }
    Some(Element { path: path.clone(), attributes, text: String::new() })
}

/// An amount of memory; without a unit it is KiB.
fn bytes(text: &str, unit: Option<&String>) -> Option<u64> {
    let factor: u64 = match unit.map_or("KiB", String::as_str) {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    text.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='kvm'>
  <name>web &amp; mail</name><uuid>6695EB01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='MiB'>2048</memory><vcpu placement='static'>4</vcpu>
  <os><type arch='x86_64' machine='pc-q35-8.2'>hvm</type></os>
  <cpu><topology sockets='2' dies='1' cores='2' threads='1'/></cpu>
  <devices>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/images/web.qcow2'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='disk'><source dev='/dev/vg/data'/><target dev='vdb'/></disk>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/><link state='down'/>
    </interface>
  </devices></domain>";

    #[test]
    fn a_definition_is_read() {
        let domain = Domain::read(XML, 5, "qemu:///system").unwrap();
        assert_eq!((&*domain.name, &*domain.id()), ("web & mail", "vm-6695eb01-f6a4-8304-79aa-97f2502e193f"));
        assert_eq!((domain.state, power_state(domain.state)), ("SHUTOFF", Some("POWERED_OFF")));
        assert_eq!((domain.cpu_count, domain.cores_per_socket), (Some(4), Some(2)));
        assert_eq!((domain.memory_bytes, domain.machine.as_deref()), (Some(2 << 30), Some("pc-q35-8.2")));
        let disks: Vec<_> = domain.disks.iter().map(|d| (d.label.as_deref(), d.path.as_deref())).collect();
        assert_eq!(disks, [(Some("vda"), Some("/images/web.qcow2")), (Some("vdb"), Some("/dev/vg/data"))]);
        assert_eq!(domain.disks[0].format.as_deref(), Some("qcow2"));
        assert_eq!(domain.nics[0].interface.as_deref(), Some("br0"));
        assert!(domain.nics[0].is_down);
    }

    #[test]
    fn what_is_no_definition_is_none() {
        for xml in
            ["", "<domain>", "<domain><name>a</name></domain>", "<a></b>", "\u{0}", "<domain><name>&unknown;</name>"]
        {
            assert_eq!(Domain::read(xml, 1, "qemu:///system"), None, "{xml:?}");
        }
    }

    #[test]
    fn memory_has_units() {
        let check = |text: &str, unit: Option<&str>, expected| {
            assert_eq!(bytes(text, unit.map(str::to_owned).as_ref()), expected, "{text} {unit:?}");
        };
        check("2", None, Some(2048));
        check("2", Some("GiB"), Some(2 << 30));
        check("2", Some("GB"), Some(2_000_000_000));
        check("2", Some("horses"), None);
        check("99999999999999", Some("TiB"), None);
        check("x", None, None);
    }
}
