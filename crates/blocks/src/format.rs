//! What hashes are of: blocks, leaves and roots. Both sides of a replication reckon them, so they are part of the wire.
//!
//! ```text
//!   block   BLAKE3 of its plain bytes; one of nothing but zeroes has no hash
//!   leaf    BLAKE3 of its entries, 32 bytes each, a block's hash or zeroes: as many as the disk has blocks there, at most 4096
//!   root    BLAKE3 of, for each disk by key:  key u32 │ bytes u64 │ the hashes of its leaves      (little endian)
//! ```

/// Bytes of a block; the last one of a disk may be shorter.
pub const BLOCK_BYTES: usize = 65536;

/// Blocks of a leaf: 256 MiB of a disk.
pub const LEAF_BLOCKS: u32 = 4096;

/// Length of a hash.
pub const HASH_BYTES: usize = 32;

/// Most bytes of a disk: 64 TiB.
pub const DISK_BYTES_MAX: u64 = 64 << 40;

/// BLAKE3 of something.
pub type Hash = [u8; HASH_BYTES];

/// What stands in a leaf for a block of zeroes.
const ZEROES: Hash = [0; HASH_BYTES];

/// A hash as hex digits.
pub fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// The hash in hex digits; none when it is none.
pub fn read_hex(text: &str) -> Option<Hash> {
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

/// The hash of some bytes.
pub fn hash_of(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// How many blocks a disk of `bytes` has. At most [`DISK_BYTES_MAX`] of them are asked for.
pub fn block_count(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES as u64)).unwrap_or(u32::MAX)
}

/// How many leaves a disk of so many blocks has.
pub fn leaf_count(blocks: u32) -> u32 {
    blocks.div_ceil(LEAF_BLOCKS)
}

/// How many blocks leaf `number` of a disk of `blocks` has.
pub fn leaf_blocks(blocks: u32, number: u32) -> u32 {
    blocks.saturating_sub(number.saturating_mul(LEAF_BLOCKS)).min(LEAF_BLOCKS)
}

/// What a leaf's hash is of.
pub fn encode_leaf(entries: &[Option<Hash>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * HASH_BYTES);
    entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.unwrap_or(ZEROES)));
    bytes
}

/// The entries of a leaf; none when its length is none.
pub fn decode_leaf(bytes: &[u8]) -> Option<Vec<Option<Hash>>> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    let is_leaf = rest.is_empty() && hashes.len() <= LEAF_BLOCKS as usize;
    is_leaf.then(|| hashes.iter().map(|hash| (*hash != ZEROES).then_some(*hash)).collect())
}

/// The root over disks, by key: key, bytes, and the hashes of the leaves of each.
pub fn root_hash<'a>(disks: impl IntoIterator<Item = (u32, u64, &'a [Hash])>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for (key, bytes, leaves) in disks {
        hasher.update(&key.to_le_bytes());
        hasher.update(&bytes.to_le_bytes());
        for leaf in leaves {
            hasher.update(leaf);
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_read_back_and_odd_lengths_are_none() {
        let entries = [None, Some([7; 32]), None];
        assert_eq!(decode_leaf(&encode_leaf(&entries)).unwrap(), entries);
        assert_eq!(decode_leaf(&[0; 33]), None);
        assert_eq!(decode_leaf(&vec![0; 32 * 4097]), None);
    }

    #[test]
    fn disks_are_cut_into_blocks_and_leaves() {
        assert_eq!((block_count(0), block_count(1), block_count(65536), block_count(65537)), (0, 1, 1, 2));
        assert_eq!((leaf_count(0), leaf_count(4096), leaf_count(4097)), (0, 1, 2));
        assert_eq!((leaf_blocks(4097, 0), leaf_blocks(4097, 1), leaf_blocks(4097, 2)), (4096, 1, 0));
    }

    #[test]
    fn a_hash_is_hex_and_back() {
        let hash = hash_of(b"x");
        assert_eq!(read_hex(&hex(&hash)), Some(hash));
        assert_eq!(read_hex("00"), None);
    }
}
