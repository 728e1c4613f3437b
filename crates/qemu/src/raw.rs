//! A raw disk, in a file or a block device, that no machine has open.
//!
//! QEMU says by locks on single bytes of an image what it does with it, and what it suffers others to do. While a disk is read, a
//! shared lock on all of it is held, which keeps a QEMU from starting with it. A POSIX lock is lost when this process closes
//! any other descriptor of the same file; so [`RawDisk::check`] looks again whether anything happened.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FlockOperation, SeekFrom};
use rustix::io::Errno;

use crate::extent::{Blocks, Extent, Kind};
use crate::live::blocking;
use crate::nbd::READ_BYTES_MAX;
use crate::{Error, Result};

/// The bytes that QEMU locks when it may write to an image, or resize it.
const QEMU_WRITE_LOCKS: [u64; 2] = [101, 103];

/// An open raw disk.
#[derive(Debug)]
pub(crate) struct RawDisk {
    file: File,
    path: PathBuf,
    /// The size, in whole sectors.
    pub(crate) bytes: u64,
    /// Of the file.
    length: u64,
    /// When it was written last; none of a block device.
    changed: Option<(i64, i64)>,
    may_be_in_use: bool,
}

impl RawDisk {
    /// Opens a disk. With `may_be_in_use`, a disk that is written meanwhile is taken as it comes.
    pub(crate) async fn open(path: &Path, may_be_in_use: bool) -> Result<Self> {
        let path = path.to_owned();
        let what = format!("opening {}", path.display());
        let opening = move || Ok(Self::open_here(path, may_be_in_use));
        blocking(opening).await.map_err(Error::io(what))?
    }

    fn open_here(path: PathBuf, may_be_in_use: bool) -> Result<Self> {
        let failed = || Error::io(format!("opening {}", path.display()));
        let kind = std::fs::metadata(&path).map_err(failed())?.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            let reason = "it is a file or a block device".into();
            return Err(Error::Invalid { what: format!("the disk {}", path.display()), reason });
        }
        let mut options = OpenOptions::new();
        options.read(true);
        if is_device && !may_be_in_use {
            // The kernel refuses this for what is mounted or part of another device, and refuses that meanwhile.
            options.custom_flags(rustix::fs::OFlags::EXCL.bits() as i32);
        }
        let file = match options.open(&path) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                return Err(Error::InUse { path, by: "the host (it is mounted, or part of another device)".into() });
            }
            other => other.map_err(failed())?,
        };
        let metadata = file.metadata().map_err(failed())?;
        let length = match is_device {
            true => rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|error| failed()(error.into()))?,
            false => metadata.len(),
        };
        let changed = (!is_device).then(|| (metadata.mtime(), metadata.mtime_nsec()));
        let bytes = length.next_multiple_of(512);
        let disk = Self { file, path, bytes, length, changed, may_be_in_use };
        if !may_be_in_use {
            // Before looking, so that nobody comes in between.
            // Some file systems of a network have no locks.
            if let Err(Errno::AGAIN | Errno::ACCESS) =
                rustix::fs::fcntl_lock(&disk.file, FlockOperation::NonBlockingLockShared)
            {
                return Err(Error::InUse { path: disk.path, by: "a program that locks it".into() });
            }
            disk.check_unused()?;
        }
        Ok(disk)
    }

    /// Ranges with data and without.
    pub(crate) async fn extents(self: &Arc<Self>) -> Result<Vec<Extent>> {
        let disk = Arc::clone(self);
        let what = format!("looking for the data of {}", self.path.display());
        blocking(move || Ok(disk.extents_here())).await.map_err(Error::io(what))?
    }

    fn extents_here(&self) -> Result<Vec<Extent>> {
        let mut blocks = Blocks::new(self.bytes);
        let mut at = 0;
        while at < self.length {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data,
                // There is none after it.
                Err(Errno::NXIO) => break,
                // The file system, or the device, does not know.
                Err(_) => at,
            };
            blocks.push(at, data - at, Kind::Zero)?;
            let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data)).unwrap_or(self.length).max(data);
            if hole == data {
                return Err(self.changed("data disappeared"));
            }
            blocks.push(data, hole - data, Kind::Data)?;
            at = hole;
        }
        blocks.push(at, self.bytes.saturating_sub(at), Kind::Zero)?;
        Ok(blocks.finish())
    }

    pub(crate) async fn read(self: &Arc<Self>, offset: u64, bytes: usize) -> Result<Bytes> {
        if bytes > READ_BYTES_MAX {
            let (limit, found) = (READ_BYTES_MAX as u64, bytes as u64);
            return Err(Error::Limit { what: "the length of a read", limit, found });
        }
        let disk = Arc::clone(self);
        let what = format!("reading {}", self.path.display());
        let reading = move || {
            let mut buffer = vec![0; bytes];
            Ok(disk.read_here(offset, &mut buffer).map(|()| Bytes::from(buffer)))
        };
        blocking(reading).await.map_err(Error::io(what))?
    }

    /// Fills the buffer from `offset` on, and waits for it.
    pub(crate) fn read_here(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = buffer.len();
        if offset.checked_add(bytes as u64).is_none_or(|end| end > self.bytes) {
            let (what, reason) =
                (format!("the range of {bytes} bytes at {offset}"), format!("the disk has {}", self.bytes));
            return Err(Error::Invalid { what, reason });
        }
        let there = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes);
        let (inside, missing) = buffer.split_at_mut(there);
        // What is missing of the last sector is zeroes.
        missing.fill(0);
        match self.file.read_exact_at(inside, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed("it was cut")),
            other => other.map_err(Error::io(format!("reading {}", self.path.display()))),
        }
    }

    /// Whether it is as it was when it was opened.
    pub(crate) async fn check(self: &Arc<Self>) -> Result<()> {
        if self.may_be_in_use {
            return Ok(());
        }
        let disk = Arc::clone(self);
        let what = format!("looking at {}", self.path.display());
        let checking = move || {
            let metadata = disk.file.metadata()?;
            if disk.changed.is_some_and(|changed| changed != (metadata.mtime(), metadata.mtime_nsec())) {
                return Ok(Err(disk.changed("its time of change is another")));
            }
            Ok(disk.check_unused())
        };
        blocking(checking).await.map_err(Error::io(what))?
    }

    fn changed(&self, how: &str) -> Error {
        Error::Changed { path: self.path.clone(), how: how.to_owned() }
    }

    fn check_unused(&self) -> Result<()> {
        let failed = || Error::io(format!("looking who uses {}", self.path.display()));
        let metadata = self.file.metadata().map_err(failed())?;
        match writer(&metadata).map_err(failed())? {
            Some(by) => Err(Error::InUse { path: self.path.clone(), by }),
            None => Ok(()),
        }
    }
}

/// A program that may write to a file, as far as we are let see.
fn writer(file: &Metadata) -> io::Result<Option<String>> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    if is_locked_by_qemu(&locks, &format!("{major:02x}:{minor:02x}:{}", file.ino())) {
        return Ok(Some("a QEMU that runs".into()));
    }
    for process in std::fs::read_dir("/proc")? {
        let Ok(process) = process else { continue };
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        // It may have ended, or be somebody else's.
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let is_it = std::fs::metadata(descriptor.path()).is_ok_and(|found| is_same(&found, file));
            if is_it && is_for_writing(&process.path().join("fdinfo").join(descriptor.file_name())) {
                let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Ok(Some(format!("{} (process {pid})", command.trim())));
            }
        }
    }
    Ok(None)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    match (one.file_type().is_block_device(), other.file_type().is_block_device()) {
        (true, true) => one.rdev() == other.rdev(),
        (false, false) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn is_for_writing(info: &Path) -> bool {
    let info = std::fs::read_to_string(info).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 3 != 0)
}

/// Whether the table of the kernel's locks has one by which QEMU says that it writes: `1: OFDLCK ADVISORY READ -1 fe:00:77 100 101`.
fn is_locked_by_qemu(locks: &str, file: &str) -> bool {
    locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().filter(|field| *field != "->").collect();
        let [_, kind, _, _, _, found, start, end] = fields.as_slice() else { return false };
        let (start, end) = (start.parse().unwrap_or(0), end.parse().unwrap_or(u64::MAX));
        *kind == "OFDLCK" && *found == file && QEMU_WRITE_LOCKS.iter().any(|byte| (start..=end).contains(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_qemu_are_read() {
        let check = |line: &str, expected: bool| assert_eq!(is_locked_by_qemu(line, "fe:00:77"), expected, "{line}");
        check("1: OFDLCK ADVISORY  READ -1 fe:00:77 100 101", true);
        check("1: OFDLCK ADVISORY  READ -1 fe:00:77 103 103", true);
        check("1: OFDLCK ADVISORY  READ -1 fe:00:77 100 100", false);
        check("1: OFDLCK ADVISORY  READ -1 fe:00:77 201 203", false);
        check("1: OFDLCK ADVISORY  READ -1 fe:00:78 100 101", false);
        check("1: OFDLCK ADVISORY  WRITE -1 fe:00:77 0 EOF", true);
        check("1: POSIX  ADVISORY  READ 99 fe:00:77 0 EOF", false);
        check("rubbish", false);
    }

    #[tokio::test]
    async fn holes_are_zeroes_and_the_last_sector_is_filled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let file = File::create(&path).unwrap();
        file.set_len(1000 << 10).unwrap();
        file.write_all_at(&[7; 100], 300 << 10).unwrap();
        file.write_all_at(&[8; 10], 1000 << 10).unwrap();
        drop(file);
        let disk = Arc::new(RawDisk::open(&path, false).await.unwrap());
        assert_eq!(disk.bytes, (1000 << 10) + 512);
        let extents = disk.extents().await.unwrap();
        assert_eq!(extents.iter().map(|extent| extent.bytes).sum::<u64>(), disk.bytes);
        let of = |at: u64| {
            extents.iter().find(|extent| (extent.offset..extent.offset + extent.bytes).contains(&at)).unwrap()
        };
        assert_eq!(of(300 << 10).kind, Kind::Data);
        assert_eq!(of(1000 << 10).kind, Kind::Data);
        assert_eq!(of(600 << 10).kind, Kind::Zero);
        let tail = disk.read(1000 << 10, 512).await.unwrap();
        assert!(tail[..10] == [8; 10] && tail[10..] == [0; 502]);
        assert!(disk.read(1000 << 10, 513).await.is_err());
        disk.check().await.unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(&[9], 5).unwrap();
        assert!(matches!(disk.check().await, Err(Error::Changed { .. })));
    }

    #[tokio::test]
    async fn a_disk_that_a_program_may_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let writer = File::create(&path).unwrap();
        writer.set_len(4096).unwrap();
        let error = RawDisk::open(&path, false).await.unwrap_err();
        assert!(matches!(&error, Error::InUse { by, .. } if by.contains(&std::process::id().to_string())), "{error}");
        RawDisk::open(&path, true).await.unwrap();
        drop(writer);
        RawDisk::open(&path, false).await.unwrap();
        assert!(RawDisk::open(directory.path(), false).await.is_err());
    }
}
