//! The virtual size and the format of a disk image, as far as a look at its first bytes gives them.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::tree::Tree;

const QCOW2: &str = "qcow2";
const RAW: &str = "raw";

/// What images of other formats than raw begin with.
const MAGIC_NUMBERS: [(&[u8], &str); 5] =
    [(b"QFI\xfb", QCOW2), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"), (b"QED\0", "qed"), (b"COWD", "vmdk")];

/// ```text
/// qcow2 header, big-endian:  magic u32 | version u32 | backing file offset u64 | its length u32 | cluster bits u32 |
///                            virtual size u64 (at 24)
/// ```
const QCOW2_SIZE_AT: usize = 24;
const HEADER_BYTES: usize = 32;
const SECTOR_BYTES: u64 = 512;

/// What can be told of an image.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Image {
    pub(crate) format: Option<String>,
    /// The size of the disk that the guest sees.
    pub(crate) capacity_bytes: Option<u64>,
}

/// Looks at the image at `path`, which may be any file; `format` is what QEMU was told, if anything.
///
/// Nothing but regular files is opened: opening a pipe would wait, and opening a device can have effects.
pub(crate) fn read(tree: &Tree, path: &Path, format: Option<String>) -> Image {
    let Ok(metadata) = path.metadata() else { return Image { format, capacity_bytes: None } };
    if metadata.file_type().is_block_device() {
        let is_raw = format.as_deref() == Some(RAW);
        return Image { format, capacity_bytes: is_raw.then(|| device_bytes(tree, &metadata)).flatten() };
    }
    if !metadata.is_file() {
        return Image { format, capacity_bytes: None };
    }
    let header = header(path);
    let format = format.or_else(|| header.as_deref().map(|header| probe(header).to_owned()));
    let capacity_bytes = match format.as_deref() {
        Some(RAW) => Some(metadata.len()),
        Some(QCOW2) => header.as_deref().and_then(qcow2_bytes),
        Some(_) | None => None,
    };
    Image { format, capacity_bytes }
}

fn header(path: &Path) -> Option<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    File::open(path).ok()?.take(HEADER_BYTES as u64).read_to_end(&mut header).ok()?;
    Some(header)
}

fn probe(header: &[u8]) -> &'static str {
    MAGIC_NUMBERS.iter().find(|(magic, _)| header.starts_with(magic)).map_or(RAW, |(_, format)| format)
}

fn qcow2_bytes(header: &[u8]) -> Option<u64> {
    let size = header.get(QCOW2_SIZE_AT..HEADER_BYTES)?.try_into().ok()?;
    (probe(header) == QCOW2).then_some(u64::from_be_bytes(size))
}

fn device_bytes(tree: &Tree, metadata: &Metadata) -> Option<u64> {
    let device = metadata.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    tree.number::<u64>(format!("sys/dev/block/{major}:{minor}/size"))?.checked_mul(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    fn check(content: &[u8], format: Option<&str>, expected: (Option<&str>, Option<u64>)) {
        let fixture = Fixture::new(&[]);
        fixture.write("image", content);
        let image = read(&fixture.tree(), &fixture.root().join("image"), format.map(str::to_owned));
        assert_eq!((image.format.as_deref(), image.capacity_bytes), expected, "{content:?} {format:?}");
    }

    #[test]
    fn sizes_and_formats() {
        let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
        qcow2.resize(QCOW2_SIZE_AT, 0);
        qcow2.extend((5u64 << 30).to_be_bytes());
        qcow2.resize(4096, 0);
        check(&qcow2, None, (Some("qcow2"), Some(5 << 30)));
        check(&qcow2, Some("qcow2"), (Some("qcow2"), Some(5 << 30)));
        check(&qcow2, Some("raw"), (Some("raw"), Some(4096)));
        check(&qcow2[..30], None, (Some("qcow2"), None));
        check(&[0; 1024], None, (Some("raw"), Some(1024)));
        check(&[0; 1024], Some("qcow2"), (Some("qcow2"), None));
        check(b"KDMV", None, (Some("vmdk"), None));
        check(b"", None, (Some("raw"), Some(0)));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let fixture = Fixture::new(&[]);
        for path in ["gone", "."] {
            assert_eq!(read(&fixture.tree(), &fixture.root().join(path), None), Image::default());
        }
        assert_eq!(read(&fixture.tree(), Path::new("/dev/zero"), None), Image::default());
    }
}
