//! What is checked of what a source sends, before anything is kept of it.

use std::cell::RefCell;

use lockstep_contract::Error;
use lockstep_contract::services::replication_receive::{DISKS_MAX, Disk};

use crate::frame::{Block, Frame, HASH_BYTES, Hash};
use crate::receive_store::{DiskSize, Key};
use crate::ship_map::read_hashes;
use crate::ship_plan::{BLOCK_BYTES, block_count};

/// What the name of an instance begins with; a UUID follows.
const INSTANCE_PREFIX: &str = "h4replica-";

/// Longest name of a replication, in bytes.
const REPLICATION_BYTES_MAX: usize = 100;

/// The refusal of a value.
pub(crate) fn invalid(place: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.replication.receive", place, message)
}

/// The names of a replication and an instance.
pub(crate) fn key(replication: String, instance: String) -> Result<Key, Error> {
    if !is_replication(&replication) {
        return Err(invalid("replication", "1 to 100 letters, digits and hyphens"));
    }
    if !is_instance(&instance) {
        return Err(invalid("instance", "h4replica- and a UUID in lower case"));
    }
    Ok(Key { replication, instance })
}

/// Whether a text is the name of a replication. It becomes part of the names of files.
pub(crate) fn is_replication(text: &str) -> bool {
    (1..=REPLICATION_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Whether a text is the name of an instance.
pub(crate) fn is_instance(text: &str) -> bool {
    let Some(uuid) = text.strip_prefix(INSTANCE_PREFIX) else { return false };
    let fits = |(i, byte): (usize, u8)| match i {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    uuid.len() == 36 && uuid.bytes().enumerate().all(fits)
}

/// The disks of an instance, by key.
pub(crate) fn disks(disks: &[Disk]) -> Result<Vec<DiskSize>, Error> {
    if disks.is_empty() || disks.len() > DISKS_MAX {
        return Err(invalid("disks", &format!("1 to {DISKS_MAX} disks")));
    }
    let read = |disk: &Disk| {
        let (Ok(key), Ok(bytes)) = (u32::try_from(disk.key), u64::try_from(disk.bytes)) else { return None };
        block_count(bytes).ok().map(|_| DiskSize { key, bytes })
    };
    let sizes: Option<Vec<DiskSize>> = disks.iter().map(read).collect();
    let Some(mut sizes) = sizes else {
        return Err(invalid("disks", "keys of 32 bits, and sizes that are multiples of 512 and at most 64 TiB"));
    };
    sizes.sort_unstable_by_key(|disk| disk.key);
    if sizes.windows(2).any(|pair| pair[0].key == pair[1].key) {
        return Err(invalid("disks", "two disks have the same key"));
    }
    Ok(sizes)
}

/// A number that the store counts by.
pub(crate) fn number(value: i64, place: &str) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| invalid(place, "a whole number of 32 bits"))
}

/// Hashes one behind the other, at most so many.
pub(crate) fn hashes(bytes: &[u8], most: usize) -> Result<Vec<Hash>, Error> {
    read_hashes(bytes)
        .filter(|hashes| hashes.len() <= most)
        .ok_or_else(|| invalid("hashes", &format!("at most {most} hashes of {HASH_BYTES} bytes")))
}

/// Checks that each block of a frame has its hash. Nothing longer than a block is ever unpacked.
pub(crate) fn blocks(frame: &Frame) -> Result<(), Error> {
    frame.blocks.iter().enumerate().try_for_each(|(i, block)| {
        let reason = check(block).err();
        reason.map_or(Ok(()), |reason| Err(invalid("frame", &format!("block {i}: {reason}"))))
    })
}

thread_local! {
    /// Unpacks, and takes what was unpacked. A new one for each block would cost more than the block.
    static UNPACKER: RefCell<Option<(zstd::bulk::Decompressor<'static>, Vec<u8>)>> = const { RefCell::new(None) };
}

fn check(block: &Block) -> Result<(), &'static str> {
    let hash = if block.is_zstd {
        UNPACKER.with_borrow_mut(|unpacker| {
            if unpacker.is_none() {
                let made = zstd::bulk::Decompressor::new().map_err(|_| "there is no memory to unpack it")?;
                *unpacker = Some((made, Vec::with_capacity(BLOCK_BYTES as usize)));
            }
            let Some((unpacker, plain)) = unpacker else { return Err("there is no memory to unpack it") };
            plain.clear();
            // Writes no further than the capacity, whatever the bytes say of themselves.
            let length = unpacker.decompress_to_buffer(&block.bytes[..], plain).map_err(|_| "it cannot be unpacked")?;
            if length != block.plain_bytes as usize {
                return Err("it is of another length");
            }
            Ok(blake3::hash(plain))
        })?
    } else {
        blake3::hash(&block.bytes)
    };
    if *hash.as_bytes() == block.hash { Ok(()) } else { Err("its bytes do not have its hash") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(plain: &[u8], packed: Vec<u8>, is_zstd: bool) -> Block {
        Block { hash: *blake3::hash(plain).as_bytes(), is_zstd, plain_bytes: plain.len() as u32, bytes: packed.into() }
    }

    #[test]
    fn only_blocks_with_their_hash_and_length_pass() {
        let plain = vec![7; 65536];
        let packed = zstd::bulk::compress(&plain, 1).unwrap();
        let good = block(&plain, packed.clone(), true);
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&block(b"short", b"short".to_vec(), false)), Ok(()));
        assert!(check(&Block { hash: [0; 32], ..good.clone() }).is_err());
        assert!(check(&Block { plain_bytes: 65535, ..good.clone() }).is_err());
        assert!(check(&Block { bytes: packed[..packed.len() - 1].to_vec().into(), ..good.clone() }).is_err());
        assert!(check(&Block { bytes: vec![9; 100].into(), ..good.clone() }).is_err());
        // Two frames behind one another.
        assert!(check(&Block { bytes: [&packed[..], &packed].concat().into(), ..good }).is_err());
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let gibibyte = {
            let mut packer = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
            for _ in 0..1024 {
                std::io::Write::write_all(&mut packer, &vec![0; 1 << 20]).unwrap();
            }
            packer.finish().unwrap()
        };
        let bomb = Block { hash: [0; 32], is_zstd: true, plain_bytes: 65536, bytes: gibibyte.into() };
        assert_eq!(check(&bomb), Err("it cannot be unpacked"));
        UNPACKER.with_borrow(|unpacker| assert!(unpacker.as_ref().unwrap().1.capacity() < 1 << 20));
    }

    #[test]
    fn names_are_those_of_files_and_nothing_else() {
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        let good = key("r-1".to_owned(), format!("h4replica-{uuid}"));
        assert!(good.is_ok());
        for (replication, instance) in [
            ("", format!("h4replica-{uuid}")),
            ("../x", format!("h4replica-{uuid}")),
            ("r_", format!("h4replica-{uuid}")),
            ("r", uuid.to_owned()),
            ("r", format!("h4replica-{}", uuid.to_uppercase())),
            ("r", format!("h4replica-{uuid}/")),
            ("r", "h4replica-..".to_owned()),
        ] {
            assert!(key(replication.to_owned(), instance).is_err());
        }
    }

    #[test]
    fn disks_have_keys_of_their_own_and_sizes() {
        let disk = |key: i64, bytes: i64| Disk { key, bytes };
        assert_eq!(
            disks(&[disk(2001, 512), disk(2000, 1 << 46)]).unwrap(),
            [DiskSize { key: 2000, bytes: 1 << 46 }, DiskSize { key: 2001, bytes: 512 }]
        );
        for bad in [
            vec![],
            vec![disk(0, 0)],
            vec![disk(0, -512)],
            vec![disk(0, 513)],
            vec![disk(-1, 512)],
            vec![disk(1 << 32, 512)],
            vec![disk(0, i64::MAX - 511)],
            vec![disk(7, 512), disk(7, 512)],
            (0..65).map(|i| disk(i, 512)).collect(),
        ] {
            assert!(disks(&bad).is_err(), "{bad:?}");
        }
    }
}
