//! Tags: whether a block of a file is what it was in the base, told in a fraction of the time that its hash takes.
//!
//! A file that nobody keeps account of is compared block by block, and nearly all blocks are what they were. To find that out with BLAKE3
//! costs more than to read the file. So a tag is noted with each hash that was reckoned of a file: 128 bits of AEGIS-128X2 as a MAC, under a
//! key that this site derives from its own. A block that has the tag noted with a hash has that hash; any other is hashed.
//!
//! It is a MAC and no checksum because guests write the disks: who does not know the key cannot make a block that has the tag of
//! another one, and would go unnoticed. Tags stay at the source. They belong to a hash and not to an instance, so they are never
//! out of date: they are there, or the block is hashed.

use aegis::aegis128x2::Aegis128X2Mac;

use crate::frame::Hash;

/// Bytes of a tag, and of the key.
pub const TAG_BYTES: usize = 16;

/// The tag of a block.
pub(crate) type Tag = [u8; TAG_BYTES];

/// Stands where no tag is known. A block that has it, one in 2^128, is hashed each time.
pub(crate) const NO_TAG: Tag = [0; TAG_BYTES];

/// What is not a block has another nonce than blocks.
const LIST_NONCE: [u8; TAG_BYTES] = [1; TAG_BYTES];

/// Makes tags under one key.
#[derive(Debug, Clone)]
pub struct Tagger {
    blocks: Aegis128X2Mac<TAG_BYTES>,
    lists: Aegis128X2Mac<TAG_BYTES>,
}

impl Tagger {
    /// With a key that nobody else has. None where the processor has no instructions for AES: hashing is quicker there.
    pub fn new(key: &[u8; TAG_BYTES]) -> Option<Self> {
        has_aes()
            .then(|| Self { blocks: Aegis128X2Mac::new(key), lists: Aegis128X2Mac::new_with_nonce(key, &LIST_NONCE) })
    }

    /// The tag of a block.
    pub(crate) fn tag(&self, plain: &[u8]) -> Tag {
        let mut mac = self.blocks.clone();
        mac.update(plain);
        mac.finalize()
    }

    /// The tags of a leaf's blocks as they are kept: behind them a tag of all, and of the leaf that they belong to.
    pub(crate) fn encode(&self, leaf: &Hash, tags: &[Tag]) -> Vec<u8> {
        let mut bytes = tags.as_flattened().to_vec();
        let seal = self.seal(leaf, &bytes).finalize();
        bytes.extend_from_slice(&seal);
        bytes
    }

    /// The tags of a leaf of `count` blocks; none when they are not whole, or of another leaf, or under another key.
    pub(crate) fn decode(&self, leaf: &Hash, count: u32, bytes: &[u8]) -> Option<Vec<Tag>> {
        let (tags, seal) = bytes.split_last_chunk::<TAG_BYTES>()?;
        self.seal(leaf, tags).verify(seal).ok()?;
        let (tags, rest) = tags.as_chunks::<TAG_BYTES>();
        (rest.is_empty() && tags.len() == count as usize).then(|| tags.to_vec())
    }

    fn seal(&self, leaf: &Hash, tags: &[u8]) -> Aegis128X2Mac<TAG_BYTES> {
        let mut mac = self.lists.clone();
        mac.update(leaf);
        mac.update(tags);
        mac
    }
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_for_their_leaf_and_under_their_key_only() {
        let Some(tagger) = Tagger::new(&[7; TAG_BYTES]) else { return };
        let tags = [tagger.tag(b"one"), NO_TAG, tagger.tag(b"two")];
        assert!(tags[0] != tags[2] && tags[0] != NO_TAG && tags[0] == tagger.tag(b"one"));
        let kept = tagger.encode(&[1; 32], &tags);
        assert_eq!(tagger.decode(&[1; 32], 3, &kept).unwrap(), tags);
        assert_eq!(tagger.decode(&[2; 32], 3, &kept), None, "another leaf's");
        assert_eq!(tagger.decode(&[1; 32], 2, &kept), None, "another count");
        assert_eq!(Tagger::new(&[8; TAG_BYTES]).unwrap().decode(&[1; 32], 3, &kept), None, "another key's");
        for at in 0..kept.len() {
            let mut damaged = kept.clone();
            damaged[at] ^= 1;
            assert_eq!(tagger.decode(&[1; 32], 3, &damaged), None, "a bit at {at} differs");
            assert_eq!(tagger.decode(&[1; 32], 3, &kept[..at]), None, "torn at {at}");
        }
    }
}
