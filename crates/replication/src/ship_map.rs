//! The maps of a sync at its source: what the base holds, and what the new instance will hold.
//!
//! The source reckons the new instance's root by itself, and the destination commits only what has that root: whatever went wrong in
//! between, an instance is what the source was. For that it needs the base's leaves where something changes. They are kept in a
//! directory from the sync before, each in a file named by its hash; one that is not there, or not whole, is asked for at the destination, and
//! believed when it has its hash. Beside the leaf of a disk that was read from a file stand the tags of its blocks (`ship_tags.rs`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use lockstep_blocks::format;
pub(crate) use lockstep_blocks::format::{hex, leaf_blocks, leaf_count};

use crate::frame::{HASH_BYTES, Hash};
use crate::ship_plan::LEAF_BLOCKS;
use crate::ship_tags::{NO_TAG, Tag, Tagger};
use crate::ship_unit::Entry;

/// The entries of a leaf: as many as the disk has blocks there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    entries: Vec<Option<Hash>>,
    /// As many, or none at all.
    tags: Vec<Tag>,
}

impl Leaf {
    /// A leaf of zeroes.
    pub(crate) fn zeroes(count: u32) -> Self {
        Self { entries: vec![None; count as usize], tags: Vec::new() }
    }

    /// What a block holds, by its number in the leaf; none for zeroes, and behind the end.
    pub(crate) fn get(&self, number: u32) -> Option<Hash> {
        self.entries.get(number as usize).copied().flatten()
    }

    /// The tag of what a block holds, by its number in the leaf; [`NO_TAG`] when none is known.
    pub(crate) fn tag(&self, number: u32) -> Tag {
        self.tags.get(number as usize).copied().unwrap_or(NO_TAG)
    }

    /// Whether there is nothing but zeroes.
    pub(crate) fn is_zero(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    fn set(&mut self, number: u32, hash: Option<Hash>, tag: Tag) {
        if let Some(entry) = self.entries.get_mut(number as usize) {
            *entry = hash;
        }
        self.set_tag(number, tag);
    }

    fn set_tag(&mut self, number: u32, tag: Tag) {
        if self.tags.is_empty() && tag != NO_TAG {
            self.tags.resize(self.entries.len(), NO_TAG);
        }
        if let Some(place) = self.tags.get_mut(number as usize) {
            *place = tag;
        }
    }

    /// The same with so many entries.
    pub(crate) fn resized(mut self, count: u32) -> Self {
        self.entries.resize(count as usize, None);
        if !self.tags.is_empty() {
            self.tags.resize(count as usize, NO_TAG);
        }
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        format::encode_leaf(&self.entries)
    }

    pub(crate) fn hash(&self) -> Hash {
        format::hash_of(&self.encode())
    }

    /// The leaf of so many blocks that has this hash.
    pub(crate) fn checked(bytes: &[u8], hash: &Hash, count: u32) -> Option<Self> {
        if format::hash_of(bytes) != *hash {
            return None;
        }
        let entries = format::decode_leaf(bytes)?;
        (entries.len() == count as usize).then_some(Self { entries, tags: Vec::new() })
    }
}

/// The map of one disk, as it becomes the new one.
#[derive(Debug)]
pub(crate) struct DiskMap {
    blocks: u32,
    /// The hashes of the leaves; those that are done are the new ones.
    pub(crate) leaves: Vec<Hash>,
    open: BTreeMap<u32, Open>,
}

/// A leaf that something is done about.
#[derive(Debug)]
struct Open {
    leaf: Leaf,
    is_changed: bool,
    has_new_tags: bool,
    /// Units on their way that touch it.
    units: usize,
}

impl DiskMap {
    /// The map of a disk of `blocks` that begins with leaves of these hashes.
    pub(crate) fn new(blocks: u32, leaves: Vec<Hash>) -> Self {
        Self { blocks, leaves, open: BTreeMap::new() }
    }

    /// How many blocks a leaf has.
    pub(crate) fn leaf_blocks(&self, number: u32) -> u32 {
        leaf_blocks(self.blocks, number)
    }

    /// A unit on its way touches a leaf, which is this in the base.
    pub(crate) fn touch(&mut self, number: u32, base: &Leaf) {
        let count = leaf_blocks(self.blocks, number);
        let open = || Open { leaf: base.clone().resized(count), is_changed: false, has_new_tags: false, units: 0 };
        self.open.entry(number).or_insert_with(open).units += 1;
    }

    /// Says what a block has become, in a leaf that is touched.
    pub(crate) fn set(&mut self, entry: Entry) {
        if let Some(open) = self.open.get_mut(&(entry.block / LEAF_BLOCKS)) {
            open.leaf.set(entry.block % LEAF_BLOCKS, entry.hash, entry.tag);
            open.is_changed = true;
        }
    }

    /// Says the tag of a block that has not changed, in a leaf that is touched.
    pub(crate) fn set_tag(&mut self, block: u32, tag: Tag) {
        if let Some(open) = self.open.get_mut(&(block / LEAF_BLOCKS)) {
            open.leaf.set_tag(block % LEAF_BLOCKS, tag);
            open.has_new_tags = true;
        }
    }

    /// A unit that touched a leaf has arrived.
    pub(crate) fn let_go(&mut self, number: u32) {
        if let Some(open) = self.open.get_mut(&number) {
            open.units = open.units.saturating_sub(1);
        }
    }

    /// Reckons the leaves below `end` that nothing is under way for. Answers what there is to keep of them.
    pub(crate) fn close_below(&mut self, end: u32) -> Vec<Kept> {
        let closing: Vec<u32> = self.open.range(..end).filter(|(_, open)| open.units == 0).map(|(n, _)| *n).collect();
        let mut kept = Vec::new();
        for number in closing {
            let Some(open) = self.open.remove(&number) else { continue };
            let Some(place) = self.leaves.get_mut(number as usize) else { continue };
            let bytes = open.is_changed.then(|| open.leaf.encode());
            if let Some(bytes) = &bytes {
                *place = format::hash_of(bytes);
            }
            if open.is_changed || open.has_new_tags {
                kept.push(Kept { hash: *place, bytes, tags: open.leaf.tags });
            }
        }
        kept
    }
}

/// What is kept of a leaf.
#[derive(Debug)]
pub(crate) struct Kept {
    hash: Hash,
    /// The leaf, when it is not kept yet.
    bytes: Option<Vec<u8>>,
    /// The tags of its blocks, or none.
    tags: Vec<Tag>,
}

/// Leaves in files of a directory.
#[derive(Debug)]
pub(crate) struct LeafFiles {
    directory: Option<PathBuf>,
    tagger: Option<Tagger>,
}

/// What a file of tags is named, behind its leaf's hash.
const TAGS_EXTENSION: &str = "tags";

impl LeafFiles {
    /// The files of one replication; none are kept without a directory.
    pub(crate) fn open(directory: Option<PathBuf>, tagger: Option<Tagger>) -> Self {
        let made = directory.filter(|directory| match std::fs::create_dir_all(directory) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), "maps are not kept");
                false
            }
        });
        Self { directory: made, tagger }
    }

    fn path(&self, hash: &Hash) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(hex(hash)))
    }

    /// The leaf of that hash, when it is there and whole.
    pub(crate) fn read(&self, hash: &Hash, count: u32) -> Option<Leaf> {
        let bytes = std::fs::read(self.path(hash)?).ok()?;
        Leaf::checked(&bytes, hash, count)
    }

    /// The leaf with the tags of its blocks, as far as they are kept.
    pub(crate) fn with_tags(&self, mut leaf: Leaf, hash: &Hash) -> Leaf {
        let count = leaf.entries.len() as u32;
        let read = || {
            let bytes = std::fs::read(self.path(hash)?.with_extension(TAGS_EXTENSION)).ok()?;
            self.tagger.as_ref()?.decode(hash, count, &bytes)
        };
        leaf.tags = read().unwrap_or_default();
        leaf
    }

    /// Keeps a leaf and its tags.
    pub(crate) fn keep(&self, kept: &Kept) {
        if let Some(bytes) = &kept.bytes {
            self.write(&kept.hash, bytes);
        }
        if let (Some(tagger), Some(path)) = (&self.tagger, self.path(&kept.hash))
            && !kept.tags.is_empty()
        {
            Self::write_file(&path.with_extension(TAGS_EXTENSION), &tagger.encode(&kept.hash, &kept.tags));
        }
    }

    /// Keeps a leaf.
    pub(crate) fn write(&self, hash: &Hash, bytes: &[u8]) {
        if let Some(path) = self.path(hash) {
            Self::write_file(&path, bytes);
        }
    }

    /// That it could not be kept costs a call the next time, or hashing, and nothing else. Nothing is flushed: a torn file does not
    /// have its hash, or its seal.
    fn write_file(path: &Path, bytes: &[u8]) {
        let write = || -> std::io::Result<()> {
            let temporary = path.with_extension("new");
            std::fs::File::create(&temporary)?.write_all(bytes)?;
            std::fs::rename(&temporary, path)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, path = %path.display(), "what is known of a leaf was not kept");
        }
    }

    /// Removes all but these.
    pub(crate) fn retain(&self, keep: &std::collections::HashSet<Hash>) {
        let Some(directory) = &self.directory else { return };
        let Ok(files) = std::fs::read_dir(directory) else { return };
        for file in files.flatten() {
            let name = PathBuf::from(file.file_name());
            let is_known = name.extension().is_none_or(|extension| extension == TAGS_EXTENSION);
            let stem = name.file_stem().filter(|_| is_known);
            let is_kept =
                stem.and_then(|stem| stem.to_str()).and_then(read_hex).is_some_and(|hash| keep.contains(&hash));
            if !is_kept {
                // What cannot be removed is removed another time.
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

/// The hash in hex digits of lower case.
pub(crate) fn read_hex(text: &str) -> Option<Hash> {
    let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    blake3::Hash::from_hex(text).ok().filter(|_| is_lower).map(|hash| *hash.as_bytes())
}

/// Hashes one behind the other; none when it does not come out even.
pub(crate) fn read_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// The root of a map: BLAKE3 over its disks, by key.
pub(crate) fn root_hash(disks: &[(u32, u64, &[Hash])]) -> Hash {
    format::root_hash(disks.iter().copied())
}
