//! The block devices, named and sized as `lsblk -b` prints them.

use serde_json::Value;

use crate::observed::Properties;
use crate::tree::Tree;

/// `/sys/block/*/size` counts these, whatever the device's own block size is.
const SECTOR_BYTES: u64 = 512;
/// Major number of RAM disks (`/dev/ram*`), which `lsblk` leaves out.
const RAM_DISK_MAJOR: &str = "1:";

/// One block device: a disk, a partition, or what is made of them.
#[derive(Debug, PartialEq)]
pub(crate) struct Disk {
    pub(crate) name: String,
    /// `disk`, `part`, `rom`, `loop`, `lvm`, `crypt`, `mpath`, `raid1` and so on, in the words of `lsblk`.
    pub(crate) kind: String,
    pub(crate) model: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) is_rotational: Option<bool>,
    pub(crate) is_removable: Option<bool>,
}

impl Disk {
    pub(crate) fn into_value(self) -> Value {
        let mut properties = Properties::default();
        properties
            .set("name", self.name)
            .set("kind", self.kind)
            .set("model", self.model)
            .set("serial", self.serial)
            .set("capacity", self.capacity_bytes)
            .set("rotational", self.is_rotational)
            .set("removable", self.is_removable);
        properties.into_value()
    }
}

/// All block devices by name, each disk followed by its partitions.
pub(crate) fn read(tree: &Tree) -> Vec<Disk> {
    let mut disks = Vec::new();
    for device in tree.names("sys/block") {
        let directory = format!("sys/block/{device}");
        if is_hidden(tree, &directory) {
            continue;
        }
        disks.push(read_disk(tree, &device, &directory));
        for partition in tree.names(&directory) {
            let partition_directory = format!("{directory}/{partition}");
            if tree.exists(format!("{partition_directory}/partition")) {
                disks.push(read_partition(tree, &partition, &partition_directory, &directory));
            }
        }
    }
    disks
}

/// What `lsblk` leaves out: RAM disks, loop devices without a file, and paths of a multipath NVMe device.
fn is_hidden(tree: &Tree, directory: &str) -> bool {
    let is_ram_disk = tree.text(format!("{directory}/dev")).is_some_and(|dev| dev.starts_with(RAM_DISK_MAJOR));
    let is_free_loop =
        directory.starts_with("sys/block/loop") && !tree.exists(format!("{directory}/loop/backing_file"));
    is_ram_disk || is_free_loop || tree.flag(format!("{directory}/hidden")) == Some(true)
}

fn read_disk(tree: &Tree, device: &str, directory: &str) -> Disk {
    let text = |name: &str| tree.text(format!("{directory}/{name}"));
    Disk {
        name: text("dm/name").unwrap_or_else(|| device_name(device)),
        kind: kind(tree, directory),
        model: text("device/model"),
        serial: text("serial").or_else(|| text("device/serial")).or_else(|| scsi_serial(tree, directory)),
        capacity_bytes: capacity_bytes(tree, directory),
        is_rotational: tree.flag(format!("{directory}/queue/rotational")),
        is_removable: tree.flag(format!("{directory}/removable")),
    }
}

fn read_partition(tree: &Tree, partition: &str, directory: &str, disk_directory: &str) -> Disk {
    Disk {
        name: device_name(partition),
        kind: "part".to_owned(),
        model: None,
        serial: None,
        capacity_bytes: capacity_bytes(tree, directory),
        is_rotational: tree.flag(format!("{disk_directory}/queue/rotational")),
        is_removable: tree.flag(format!("{disk_directory}/removable")),
    }
}

/// In sysfs a slash in a device's name (`cciss/c0d0`) is written as an exclamation mark.
fn device_name(sysfs_name: &str) -> String {
    sysfs_name.replace('!', "/")
}

fn capacity_bytes(tree: &Tree, directory: &str) -> Option<u64> {
    tree.number::<u64>(format!("{directory}/size"))?.checked_mul(SECTOR_BYTES)
}

fn kind(tree: &Tree, directory: &str) -> String {
    if directory.starts_with("sys/block/loop") {
        return "loop".to_owned();
    }
    if tree.exists(format!("{directory}/dm")) {
        // The part of the UUID before the first dash names who made the device: LVM, CRYPT, mpath, part1, …
        let maker = tree.text(format!("{directory}/dm/uuid"));
        let maker = maker.as_deref().and_then(|uuid| uuid.split_once('-')).map(|(maker, _)| maker);
        return match maker {
            Some(maker) if maker.starts_with("part") => "part".to_owned(),
            Some(maker) if !maker.is_empty() => maker.to_ascii_lowercase(),
            Some(_) | None => "dm".to_owned(),
        };
    }
    if tree.exists(format!("{directory}/md")) {
        return tree.text(format!("{directory}/md/level")).unwrap_or_else(|| "md".to_owned());
    }
    // SCSI peripheral device types; devices of other buses have no such file and are disks.
    let kind = match tree.number::<u8>(format!("{directory}/device/type")) {
        Some(1) => "tape",
        Some(4) => "worm",
        Some(5) => "rom",
        Some(7) => "mo-disk",
        Some(_) | None => "disk",
    };
    kind.to_owned()
}

/// The unit serial number page of a SCSI disk: four bytes of head, the last two of which are the length, and the text.
fn scsi_serial(tree: &Tree, directory: &str) -> Option<String> {
    let page = tree.bytes(format!("{directory}/device/vpd_pg80"))?;
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let serial = String::from_utf8_lossy(page.get(4..4 + length)?).trim().to_owned();
    (!serial.is_empty()).then_some(serial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    fn named(disks: &[Disk]) -> Vec<(&str, &str, Option<u64>)> {
        disks.iter().map(|disk| (disk.name.as_str(), disk.kind.as_str(), disk.capacity_bytes)).collect()
    }

    #[test]
    fn devices_are_named_and_typed_as_lsblk_does() {
        let fixture = Fixture::new(&[
            ("sys/block/sda/size", "2048\n"),
            ("sys/block/sda/device/type", "0\n"),
            ("sys/block/sda/device/model", "Samsung SSD 870 \n"),
            ("sys/block/sda/device/vpd_pg80", "\0\u{1}\0\u{6} S3Z8N"),
            ("sys/block/sda/queue/rotational", "0\n"),
            ("sys/block/sda/removable", "0\n"),
            ("sys/block/sda/sda1/partition", "1\n"),
            ("sys/block/sda/sda1/size", "1024\n"),
            ("sys/block/sr0/size", "0\n"),
            ("sys/block/sr0/device/type", "5\n"),
            ("sys/block/dm-0/size", "8\n"),
            ("sys/block/dm-0/dm/name", "vg-root\n"),
            ("sys/block/dm-0/dm/uuid", "LVM-abc\n"),
            ("sys/block/dm-1/size", "8\n"),
            ("sys/block/dm-1/dm/uuid", "part1-mpath-1\n"),
            ("sys/block/md0/size", "16\n"),
            ("sys/block/md0/md/level", "raid1\n"),
            ("sys/block/cciss!c0d0/size", "4\n"),
            ("sys/block/loop0/size", "0\n"),
            ("sys/block/loop1/size", "6\n"),
            ("sys/block/loop1/loop/backing_file", "/image\n"),
            ("sys/block/ram0/dev", "1:0\n"),
            ("sys/block/nvme0c0n1/hidden", "1\n"),
        ]);
        let disks = read(&fixture.tree());
        assert_eq!(
            named(&disks),
            [
                ("cciss/c0d0", "disk", Some(2048)),
                ("vg-root", "lvm", Some(4096)),
                ("dm-1", "part", Some(4096)),
                ("loop1", "loop", Some(3072)),
                ("md0", "raid1", Some(8192)),
                ("sda", "disk", Some(1 << 20)),
                ("sda1", "part", Some(1 << 19)),
                ("sr0", "rom", Some(0)),
            ]
        );
        let sda = &disks[5];
        assert_eq!((sda.model.as_deref(), sda.serial.as_deref()), (Some("Samsung SSD 870"), Some("S3Z8N")));
        assert_eq!((sda.is_rotational, sda.is_removable), (Some(false), Some(false)));
        assert_eq!(disks[6].is_rotational, Some(false), "a partition is on the disk's medium");
    }

    #[test]
    fn a_torn_serial_page_is_no_serial() {
        for page in ["", "\0\u{1}", "\0\u{1}\0\u{7f}short", "\0\u{1}\0\u{2}  "] {
            let fixture = Fixture::new(&[("sys/block/sda/device/vpd_pg80", page)]);
            assert_eq!(read(&fixture.tree())[0].serial, None, "{page:?}");
        }
    }

    #[test]
    fn a_size_beyond_64_bits_is_no_size() {
        let fixture = Fixture::new(&[("sys/block/sda/size", "18446744073709551615")]);
        assert_eq!(read(&fixture.tree())[0].capacity_bytes, None);
    }
}
