//! The block store's formats of leaves and roots, as the source reckons them.

use crate::frame::{HASH_BYTES, Hash};
use crate::ship::ShipError;

pub(crate) const BLOCK_BYTES: usize = 65536;
pub(crate) const LEAF_BLOCKS: usize = 4096;

pub(crate) fn encode_leaf(entries: &[Option<Hash>]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.unwrap_or_default()).collect()
}

pub(crate) fn decode_leaf(bytes: &[u8]) -> Option<Vec<Option<Hash>>> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    rest.is_empty().then(|| hashes.iter().map(|hash| (*hash != [0; HASH_BYTES]).then_some(*hash)).collect())
}

pub(crate) fn leaf_hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

pub(crate) fn root_hash(disks: &[(u32, u64, &[Hash])]) -> Result<Hash, ShipError> {
    let mut hasher = blake3::Hasher::new();
    for (key, bytes, leaves) in disks {
        hasher.update(&key.to_le_bytes());
        hasher.update(&bytes.to_le_bytes());
        for leaf in *leaves {
            hasher.update(leaf);
        }
    }
    Ok(*hasher.finalize().as_bytes())
}
