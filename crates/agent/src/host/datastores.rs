//! The file systems a disk image can lie in: those mounted from local block devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::identity::derived_id;
use crate::observed::{Observed, Properties, reference};
use crate::tree::Tree;

/// The resource type.
pub(crate) const DATASTORE: &str = "Datastore";

/// Read-only images; no disk is ever put there.
const IMAGE_FILE_SYSTEMS: [&str; 5] = ["cramfs", "erofs", "iso9660", "squashfs", "udf"];

/// One mounted file system. Of several mounts of it, the one that shows most.
#[derive(Debug, PartialEq)]
pub(crate) struct Datastore {
    pub(crate) id: String,
    pub(crate) mount_point: PathBuf,
    /// As in the mount table: `/dev/vda1`, or the pool of a ZFS file system.
    pub(crate) device: String,
    pub(crate) file_system: String,
    /// Capacity and free space for unprivileged users in bytes; unknown where the file system does not answer.
    pub(crate) space_bytes: Option<(u64, u64)>,
}

impl Datastore {
    /// The resource, with the free space that the caller chose to tell.
    pub(crate) fn into_observed(self, host_id: &str, host_name: &str, free_bytes: Option<u64>) -> Observed {
        let mount_point = self.mount_point.display().to_string();
        let mut properties = Properties::default();
        properties
            .set("name", format!("{host_name}:{mount_point}"))
            .set("kind", self.file_system.to_ascii_uppercase())
            .set("capacity", self.space_bytes.map(|(capacity, _)| capacity))
            .set("free_space", free_bytes)
            .set("accessible", self.space_bytes.is_some())
            .set("multiple_host_access", false)
            .set("host", reference(super::HOST_SYSTEM, host_id))
            .set("mount_point", mount_point)
            .set("device", self.device);
        Observed { resource_type: DATASTORE, id: self.id, properties: properties.into_map() }
    }
}

/// The mounts of the machine and the datastores among them.
#[derive(Debug)]
pub(crate) struct Datastores {
    mounts: Vec<Mount>,
    pub(crate) list: Vec<Datastore>,
}

impl Datastores {
    pub(crate) fn read(tree: &Tree, host_id: &str) -> Self {
        let mountinfo = tree.text("proc/self/mountinfo").unwrap_or_default();
        let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        // A file system is often mounted many times: bind mounts, containers, subvolumes.
        let mut chosen: BTreeMap<&str, &Mount> = BTreeMap::new();
        for mount in &mounts {
            let Some(device) = mount.device() else { continue };
            if is_for_booting(&mount.point) || !tree.path(relative(&mount.point)).is_dir() {
                continue;
            }
            let best = chosen.entry(device).or_insert(mount);
            if mount.rank() < best.rank() {
                *best = mount;
            }
        }
        let mut list: Vec<Datastore> = chosen
            .into_iter()
            .map(|(device, mount)| Datastore {
                id: derived_id("datastore", &[host_id, &mount.point.to_string_lossy()]),
                mount_point: mount.point.clone(),
                device: device.to_owned(),
                file_system: mount.file_system.clone(),
                space_bytes: space_bytes(&tree.path(relative(&mount.point))),
            })
            .collect();
        list.sort_unstable_by(|a, b| a.mount_point.cmp(&b.mount_point));
        Self { mounts, list }
    }

    /// The datastore in which an absolute path without symbolic links lies.
    pub(crate) fn holding(&self, path: &Path) -> Option<&Datastore> {
        // Of equal mount points the last one covers the others.
        let mount = self
            .mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())?;
        let device = mount.device()?;
        self.list.iter().find(|datastore| datastore.device == device)
    }
}

/// One line of the mount table.
#[derive(Debug)]
struct Mount {
    /// The directory of the file system that is mounted; `/` for all of it.
    root: String,
    point: PathBuf,
    file_system: String,
    source: String,
}

impl Mount {
    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; the fields before the dash
    /// vary in number.
    fn parse(line: &str) -> Option<Self> {
        let (place, device) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut device = device.split(' ');
        Some(Self {
            root: unescape(place.next()?),
            point: PathBuf::from(unescape(place.next()?)),
            file_system: device.next()?.to_owned(),
            source: unescape(device.next()?),
        })
    }

    /// The block device or ZFS pool, if it is one on which disks can lie. File systems on loop devices are left out:
    /// they lie in another one, whose space would count twice.
    fn device(&self) -> Option<&str> {
        if self.file_system == "zfs" {
            return self.source.split('/').next();
        }
        let is_real = self.source.starts_with("/dev/")
            && !self.source.starts_with("/dev/loop")
            && !IMAGE_FILE_SYSTEMS.contains(&self.file_system.as_str())
            && self.file_system != "fuse"
            && !self.file_system.starts_with("fuse.")
            && self.file_system != "devtmpfs";
        is_real.then_some(self.source.as_str())
    }

    /// The lower, the better it stands for its file system: mounted whole, from the top of a pool, near the root.
    fn rank(&self) -> (bool, usize, usize, &Path) {
        (self.root != "/", self.source.len(), self.point.components().count(), &self.point)
    }
}

fn is_for_booting(point: &Path) -> bool {
    point.starts_with("/boot") || point.starts_with("/efi")
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn space_bytes(mount_point: &Path) -> Option<(u64, u64)> {
    let space = rustix::fs::statvfs(mount_point).ok()?;
    Some((space.f_blocks.checked_mul(space.f_frsize)?, space.f_bavail.checked_mul(space.f_frsize)?))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        rest = match code {
            Some(code) => {
                text.push(char::from(code));
                &after[3..]
            }
            None => {
                text.push('\\');
                after
            }
        };
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs /dev/udev rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 27 254:0 /var/lib/x /etc/hosts rw - ext4 /dev/vda rw
31 27 254:1 / /boot rw - ext2 /dev/vda1 rw
32 27 254:17 / /srv/my\\040disks rw - xfs /dev/mapper/vg-data rw
33 27 254:17 /images /var/lib/images rw - xfs /dev/mapper/vg-data rw
34 27 7:0 / /snap/core ro - squashfs /dev/loop0 ro
35 27 0:44 / /mnt/nfs rw - nfs4 server:/export rw
36 27 0:50 / /tank/vm rw - zfs tank/vm rw
37 27 0:51 / /tank rw - zfs tank rw
38 27 0:52 / /home/a/doc rw - fuse.portal portal rw
a torn line";

    fn machine() -> Fixture {
        let fixture = Fixture::new(&[("proc/self/mountinfo", MOUNTS), ("etc/hosts", "")]);
        for point in ["boot", "srv/my disks", "var/lib/images", "snap/core", "mnt/nfs", "tank/vm", "home/a/doc"] {
            std::fs::create_dir_all(fixture.root().join(point)).unwrap();
        }
        fixture
    }

    #[test]
    fn each_real_file_system_is_there_once() {
        let fixture = machine();
        let datastores = Datastores::read(&fixture.tree(), "host-1");
        let found: Vec<_> = datastores
            .list
            .iter()
            .map(|store| (store.mount_point.to_str().unwrap(), store.device.as_str(), store.file_system.as_str()))
            .collect();
        assert_eq!(
            found,
            [("/", "/dev/vda", "ext4"), ("/srv/my disks", "/dev/mapper/vg-data", "xfs"), ("/tank", "tank", "zfs")]
        );
        assert!(datastores.list[0].space_bytes.is_some());
    }

    #[test]
    fn a_path_is_in_the_datastore_that_its_deepest_mount_shows() {
        fn check(path: &str, expected: Option<&str>) {
            let fixture = machine();
            let datastores = Datastores::read(&fixture.tree(), "host-1");
            let found = datastores.holding(Path::new(path)).map(|store| store.device.as_str());
            assert_eq!(found, expected, "{path}");
        }
        check("/root/a.qcow2", Some("/dev/vda"));
        check("/var/lib/images/a.qcow2", Some("/dev/mapper/vg-data"));
        check("/var/lib/imagesque/a.qcow2", Some("/dev/vda"));
        check("/srv/my disks/a.qcow2", Some("/dev/mapper/vg-data"));
        check("/mnt/nfs/a.qcow2", None);
        check("/dev/vg/lv", None);
        check("/tank/vm/a.raw", Some("tank"));
    }

    #[test]
    fn octal_escapes() {
        fn check(field: &str, expected: &str) {
            assert_eq!(unescape(field), expected);
        }
        check("/a\\040b\\134c", "/a b\\c");
        check("/a\\", "/a\\");
        check("/a\\9zz\\04", "/a\\9zz\\04");
        check("/é\\040é", "/é é");
    }
}
