//! The disks of a guest, from `-drive`, `-blockdev` with `-device`, and the short forms (`-hda`, an image alone).
//!
//! `-blockdev` builds a graph: a node of a format (`qcow2`) refers by `file` to the node of a protocol (`file`, `nbd`)
//! below it, by name or in place, with filters (`throttle`) anywhere between. A disk is a node that no other refers
//! to. Optical and floppy drives and firmware flash are no disks.

use std::collections::{BTreeMap, BTreeSet};

use super::cmdline::{Arguments, Keys};

/// How many nodes may lie below each other. A graph that is deeper has a loop; QEMU would refuse it.
const DEPTH_MAX: usize = 32;

/// Block drivers that pass data through.
const FILTERS: [&str; 9] = [
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "compress",
    "copy-before-write",
    "copy-on-read",
    "preallocate",
    "throttle",
];

/// One disk of a guest.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct GuestDisk {
    /// The id of the device, or else of the drive, or else QEMU's own name for it (`ide0-hd0`).
    pub(crate) label: String,
    pub(crate) medium: Medium,
    /// The block node's name, if one was given.
    pub(crate) node: Option<String>,
}

/// Where the data of a disk lies, and how.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Medium {
    pub(crate) place: Option<Place>,
    /// `qcow2`, `raw`, …; absent where QEMU finds it out by itself.
    pub(crate) format: Option<String>,
}

/// A file or device of the host, or something on the network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    /// A path as on the command line: absolute, or relative to the process's working directory.
    Path(String),
    /// An address, without user, password and options.
    Address(String),
}

/// The disks in the order of the command line.
pub(crate) fn parse(arguments: &Arguments) -> Vec<GuestDisk> {
    let graph = Graph::new(arguments);
    let mut positions = Positions::new(arguments);
    let mut disks = Vec::new();
    for (option, value) in arguments.iter() {
        let disk = match option {
            "hda" | "hdb" | "hdc" | "hdd" => {
                let index = u64::from(option.as_bytes()[2] - b'a');
                let label = positions.take(positions.default_interface, Some(index), "hd");
                Some(GuestDisk { label, medium: medium_of_file(value), node: None })
            }
            "sd" => {
                Some(GuestDisk { label: positions.take("sd", None, "hd"), medium: medium_of_file(value), node: None })
            }
            "cdrom" => {
                positions.take(positions.default_interface, Some(2), "cd");
                None
            }
            "drive" => graph.disk_of_drive(&Keys::parse(value, ""), &mut positions),
            "blockdev" => graph.disk_of_blockdev(&Keys::parse(value, "driver")),
            _ => None,
        };
        disks.extend(disk);
    }
    disks
}

/// What `-blockdev` and `-device` say, for looking up names.
#[derive(Default)]
struct Graph {
    nodes: BTreeMap<String, Keys>,
    /// Nodes that another node refers to.
    inner: BTreeSet<String>,
    /// The device that a drive or node is attached to: its driver and id.
    devices: BTreeMap<String, (String, Option<String>)>,
    /// Nodes and drives that hold the firmware.
    firmware: BTreeSet<String>,
}

impl Graph {
    fn new(arguments: &Arguments) -> Self {
        let nodes: BTreeMap<String, Keys> = arguments
            .each("blockdev", "driver")
            .filter_map(|keys| Some((keys.get("node-name")?.to_owned(), keys)))
            .collect();
        let mut inner = BTreeSet::new();
        for keys in nodes.values() {
            let is_reference = |key: &str| !matches!(key.rsplit('.').next(), Some("driver" | "node-name" | "filename"));
            let references = keys.iter().filter(|(key, value)| is_reference(key) && nodes.contains_key(*value));
            inner.extend(references.map(|(_, value)| value.to_owned()));
        }
        let devices = arguments
            .each("device", "driver")
            .filter_map(|keys| {
                let device = (keys.get("driver")?.to_owned(), keys.get("id").map(str::to_owned));
                Some((keys.get("drive")?.to_owned(), device))
            })
            .collect();
        let machine = arguments.merged(&["machine", "M"], "type");
        let firmware = machine.iter().filter(|(key, _)| key.starts_with("pflash"));
        let firmware = firmware.map(|(_, value)| value.to_owned()).collect();
        Self { nodes, inner, devices, firmware }
    }

    fn disk_of_blockdev(&self, keys: &Keys) -> Option<GuestDisk> {
        let node = keys.get("node-name")?;
        if self.inner.contains(node) {
            return None;
        }
        let label = self.label(node)?.unwrap_or_else(|| node.to_owned());
        Some(GuestDisk { label, medium: self.medium(keys, DEPTH_MAX), node: Some(node.to_owned()) })
    }

    fn disk_of_drive(&self, keys: &Keys, positions: &mut Positions) -> Option<GuestDisk> {
        let interface = keys.get("if").unwrap_or(positions.default_interface).to_owned();
        let is_optical = keys.get("media") == Some("cdrom");
        let place = if is_optical { "cd" } else { "hd" };
        let automatic = positions.take(&interface, position(keys), place);
        if is_optical || matches!(interface.as_str(), "pflash" | "floppy" | "mtd") {
            return None;
        }
        let id = keys.get("id");
        let label = match id {
            Some(id) => self.label(id)?.unwrap_or_else(|| id.to_owned()),
            None => automatic,
        };
        let mut medium = match keys.get("file") {
            Some(file) => medium_of_file(file),
            None => self.medium(keys, DEPTH_MAX),
        };
        let format = keys.get("format").or_else(|| keys.get("driver")).filter(|format| !is_transparent(format));
        medium.format = format.map(str::to_owned).or(medium.format);
        let node = keys.get("node-name").map(str::to_owned);
        medium.place.is_some().then_some(GuestDisk { label, medium, node })
    }

    /// The id of the device that a drive or node is attached to, if it has one. None if it is no disk.
    fn label(&self, name: &str) -> Option<Option<String>> {
        if self.firmware.contains(name) {
            return None;
        }
        let Some((driver, id)) = self.devices.get(name) else { return Some(None) };
        let is_disk = !matches!(driver.as_str(), "scsi-cd" | "ide-cd" | "floppy" | "cfi.pflash01");
        is_disk.then(|| id.clone())
    }

    /// Follows a node down to the protocol at its end.
    fn medium(&self, keys: &Keys, depth: usize) -> Medium {
        let driver = keys.get("driver").unwrap_or("raw");
        if let Some(place) = place_of_protocol(driver, keys) {
            return Medium { place, format: Some("raw".to_owned()) };
        }
        let child = ["file", "image"].into_iter().find_map(|key| match keys.get(key) {
            Some(name) => self.nodes.get(name).cloned(),
            None => Some(keys.below(key)).filter(|below| !below.is_empty()),
        });
        let below = match child {
            Some(child) if depth > 0 => self.medium(&child, depth - 1),
            Some(_) | None => Medium::default(),
        };
        let format = if FILTERS.contains(&driver) { below.format } else { Some(driver.to_owned()) };
        Medium { place: below.place, format }
    }
}

/// Filters and protocols say nothing of the format.
fn is_transparent(driver: &str) -> bool {
    FILTERS.contains(&driver) || place_of_protocol(driver, &Keys::default()).is_some()
}

/// The place a protocol driver stands for; none if the driver is not one. The inner none is a protocol without a place
/// worth telling (`null-co`).
fn place_of_protocol(driver: &str, keys: &Keys) -> Option<Option<Place>> {
    let text = |key: &str| keys.get(key).unwrap_or_default();
    let server = || {
        let server =
            |field: &str| keys.get(&format!("server.{field}")).or_else(|| keys.get(&format!("server.0.{field}")));
        let host = server("host").or_else(|| keys.get("host"));
        match (host, server("port").or_else(|| keys.get("port")), server("path").or_else(|| keys.get("path"))) {
            (Some(host), Some(port), _) => format!("{host}:{port}"),
            (Some(host), None, _) => host.to_owned(),
            (None, _, path) => path.unwrap_or_default().to_owned(),
        }
    };
    Some(match driver {
        "file" | "host_device" | "host_cdrom" => keys.get("filename").map(|name| Place::Path(name.to_owned())),
        "nbd" => Some(Place::Address(format!("nbd://{}/{}", server(), text("export")))),
        "rbd" => Some(Place::Address(format!("rbd:{}/{}", text("pool"), text("image")))),
        "ssh" | "nfs" => Some(Place::Address(format!("{driver}://{}{}", server(), text("path")))),
        "gluster" => Some(Place::Address(format!("gluster://{}/{}/{}", server(), text("volume"), text("path")))),
        "iscsi" => Some(Place::Address(format!("iscsi://{}/{}/{}", text("portal"), text("target"), text("lun")))),
        "http" | "https" | "ftp" | "ftps" => keys.get("url").map(|url| Place::Address(public_address(url))),
        "nvme" => Some(Place::Address(format!("nvme://{}/{}", text("device"), text("namespace")))),
        "null-co"
        | "null-aio"
        | "vvfat"
        | "nvme-io_uring"
        | "virtio-blk-vhost-user"
        | "virtio-blk-vhost-vdpa"
        | "virtio-blk-vfio-pci"
        | "io_uring" => None,
        _ => return None,
    })
}

/// The medium that the file name of a drive stands for. QEMU takes a colon before the first slash as the end of a
/// protocol's name.
fn medium_of_file(file: &str) -> Medium {
    if file.is_empty() {
        return Medium::default();
    }
    if let Some(json) = file.strip_prefix("json:") {
        return Keys::parse_json(json).map(|keys| Graph::default().medium(&keys, DEPTH_MAX)).unwrap_or_default();
    }
    let has_protocol = file.find(':').is_some_and(|colon| !file[..colon].contains('/'));
    let place = match file.strip_prefix("file:") {
        Some(path) => Place::Path(path.to_owned()),
        None if has_protocol => Place::Address(public_address(file)),
        None => Place::Path(file.to_owned()),
    };
    Medium { place: Some(place), format: None }
}

/// An address without what may be secret: `user:password@` before the host, and options after the path.
fn public_address(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        // `rbd:pool/image:key=…` and `nbd:host:port:exportname=…`: options begin with the first part that has a value.
        let plain: Vec<&str> = address.split(':').take_while(|part| !part.contains('=')).collect();
        return plain.join(":");
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// The place among the drives of an interface that the keys ask for: `index`, or `bus` and `unit`.
fn position(keys: &Keys) -> Option<u64> {
    let number = |key: &str| keys.get(key).and_then(|value| value.parse::<u64>().ok());
    number("index").or_else(|| number("unit").filter(|_| keys.get("bus").is_none()))
}

/// Hands out QEMU's own names for drives: the interface, its bus, and the unit on it.
struct Positions {
    default_interface: &'static str,
    /// How many drives one IDE bus of this machine has.
    ide_units: u64,
    taken: BTreeSet<(String, u64)>,
}

impl Positions {
    fn new(arguments: &Arguments) -> Self {
        let machine = arguments.merged(&["machine", "M"], "type");
        let machine = machine.get("type").unwrap_or_default();
        let is_virtio = ["virt", "microvm", "s390"].iter().any(|name| machine.starts_with(name));
        Self {
            default_interface: if is_virtio { "virtio" } else { "ide" },
            ide_units: if machine.contains("q35") { 1 } else { 2 },
            taken: BTreeSet::new(),
        }
    }

    fn take(&mut self, interface: &str, wanted: Option<u64>, place: &str) -> String {
        let free = (0..).find(|index| !self.taken.contains(&(interface.to_owned(), *index)));
        let index = wanted.or(free).unwrap_or_default();
        self.taken.insert((interface.to_owned(), index));
        match interface {
            "ide" => format!("ide{}-{place}{}", index / self.ide_units, index % self.ide_units),
            "scsi" => format!("scsi0-{place}{index}"),
            other => format!("{other}{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cmdline::arguments;
    use super::*;

    /// `label format place node` of each disk, with a dash for what is unknown.
    fn check(line: &str, expected: &[&str]) {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let found: Vec<String> = parse(&arguments(line))
            .into_iter()
            .map(|disk| {
                let place = disk.medium.place.map(|place| match place {
                    Place::Path(path) => path,
                    Place::Address(address) => format!("@{address}"),
                });
                format!("{} {} {} {}", disk.label, or_dash(disk.medium.format), or_dash(place), or_dash(disk.node))
            })
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn the_short_forms() {
        check("", &[]);
        check("a.img", &["ide0-hd0 - a.img -"]);
        check("-hda a.img -hdc /b.img", &["ide0-hd0 - a.img -", "ide1-hd0 - /b.img -"]);
        check("-M q35 -hdb a.img", &["ide1-hd0 - a.img -"]);
        check("-M virt -hda a.img", &["virtio0 - a.img -"]);
        check("-sd a.img -fda f.img -pflash e.fd", &["sd0 - a.img -"]);
        check("-cdrom a.iso -drive file=b,index=1", &["ide0-hd1 - b -"]);
    }

    #[test]
    fn drives() {
        check("-drive file=a.qcow2,format=qcow2,if=virtio", &["virtio0 qcow2 a.qcow2 -"]);
        check(
            "-drive file=a -drive file=b -drive if=virtio,file=c",
            &["ide0-hd0 - a -", "ide0-hd1 - b -", "virtio0 - c -"],
        );
        check("-drive file=a,,b.raw,format=raw,id=d", &["d raw a,b.raw -"]);
        check("-drive file=a.iso,media=cdrom -drive file=b", &["ide0-hd1 - b -"]);
        check("-drive if=pflash,format=raw,readonly=on,file=/OVMF.fd", &[]);
        check("-drive if=none,id=cd,media=cdrom,readonly=on -device ide-cd,drive=cd", &[]);
        check("-drive if=none,id=d,file=a -device scsi-cd,drive=d", &[]);
        check(
            "-drive if=none,file=/d,id=drive0,format=raw -device virtio-blk-pci,drive=drive0,id=v0",
            &["v0 raw /d -"],
        );
        check("-drive if=none,file=/d,id=drive0 -device virtio-blk-pci,drive=drive0", &["drive0 - /d -"]);
        check("-drive driver=qcow2,file.driver=file,file.filename=/d,node-name=n,if=none,id=x", &["x qcow2 /d n"]);
        check("-drive file.filename=/d,file.driver=file", &["ide0-hd0 raw /d -"]);
        check("-drive if=scsi,file=a -drive if=scsi,file=b", &["scsi0-hd0 - a -", "scsi0-hd1 - b -"]);
        check("-drive id=empty,if=none", &[]);
        check(r#"-drive file=json:{"driver":"qcow2"},,"x":1"#, &[]);
        check(r#"-hda json:{"driver":"qcow2","file":{"driver":"file","filename":"/d"}}"#, &["ide0-hd0 qcow2 /d -"]);
    }

    #[test]
    fn block_nodes() {
        check(
            "-blockdev driver=file,node-name=f0,filename=/a -blockdev driver=qcow2,node-name=d0,file=f0 \
             -device virtio-blk-pci,drive=d0,id=disk0",
            &["disk0 qcow2 /a d0"],
        );
        check("-blockdev qcow2,node-name=d0,file.driver=file,file.filename=/a", &["d0 qcow2 /a d0"]);
        check(
            r#"-blockdev {"driver":"file","filename":"/b","node-name":"libvirt-1-storage"} -blockdev {"node-name":"libvirt-1-format","driver":"qcow2","file":"libvirt-1-storage","backing":null} -device {"driver":"virtio-blk-pci","drive":"libvirt-1-format","id":"virtio-disk0"}"#,
            &["virtio-disk0 qcow2 /b libvirt-1-format"],
        );
        check(
            r#"-blockdev {"driver":"throttle","node-name":"t","throttle-group":"g","file":{"driver":"qcow2","node-name":"q","file":{"driver":"file","filename":"/c"}}}"#,
            &["t qcow2 /c t"],
        );
        check(
            "-blockdev file,node-name=base,filename=/base -blockdev file,node-name=top,filename=/top \
             -blockdev qcow2,node-name=b,file=base -blockdev qcow2,node-name=t,file=top,backing=b",
            &["t qcow2 /top t"],
        );
        check(
            "-machine q35,pflash0=fw -blockdev file,node-name=fw,filename=/OVMF.fd,read-only=on \
             -blockdev host_device,node-name=d,filename=/dev/vg/a",
            &["d raw /dev/vg/a d"],
        );
        check("-blockdev file,node-name=iso,filename=/a.iso -device ide-cd,drive=iso", &[]);
        check("-blockdev null-co,node-name=n", &["n raw - n"]);
        check("-blockdev driver=qcow2,file.filename=/a", &[]);
    }

    #[test]
    fn graphs_that_are_torn_or_loop_end() {
        check("-blockdev qcow2,node-name=a,file=gone", &["a qcow2 - a"]);
        check("-blockdev qcow2,node-name=a,file=b -blockdev qcow2,node-name=b,file=a", &[]);
        check(
            "-blockdev qcow2,node-name=a,file=b -blockdev throttle,node-name=b,file=c -blockdev throttle,node-name=c,file=b",
            &["a qcow2 - a"],
        );
    }

    #[test]
    fn network_disks_lose_their_secrets() {
        check(
            "-drive file=https://user:secret@host:8443/a.raw?token=secret,format=raw",
            &["ide0-hd0 raw @https://host:8443/a.raw -"],
        );
        check("-drive file=rbd:pool/image:id=admin:key=secret,format=raw", &["ide0-hd0 raw @rbd:pool/image -"]);
        check("-drive file=nbd:host:10809:exportname=x", &["ide0-hd0 - @nbd:host:10809 -"]);
        check("-drive file=nbd+unix:///x?socket=/s", &["ide0-hd0 - @nbd+unix:///x -"]);
        check(
            "-blockdev nbd,node-name=n,server.type=inet,server.host=h,server.port=1,export=e",
            &["n raw @nbd://h:1/e n"],
        );
        check("-blockdev rbd,node-name=n,pool=p,image=i,user=u,key-secret=k", &["n raw @rbd:p/i n"]);
        check("-blockdev http,node-name=n,url=http://u:p@h/x", &["n raw @http://h/x n"]);
        check("-drive file=file:/a:b", &["ide0-hd0 - /a:b -"]);
        check("-drive file=./a:b", &["ide0-hd0 - ./a:b -"]);
        check("-drive file=/d/a:b", &["ide0-hd0 - /d/a:b -"]);
    }
}
