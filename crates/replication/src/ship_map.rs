//! The maps of a sync at its source: what the base holds, and what the new instance will hold.
//!
//! The source reckons the new instance's root by itself, and the destination commits only what has that root: whatever went wrong in
//! between, an instance is what the source was. For that it needs the base's leaves where something changes. They are kept in a
//! directory from the sync before, each in a file named by its hash; one that is not there, or not whole, is asked for at the destination, and
//! believed when it has its hash.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use lockstep_blocks::format;
pub(crate) use lockstep_blocks::format::{hex, leaf_blocks, leaf_count};

use crate::frame::{HASH_BYTES, Hash};
use crate::ship_plan::LEAF_BLOCKS;
use crate::ship_unit::Entry;

/// The entries of a leaf: as many as the disk has blocks there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    entries: Vec<Option<Hash>>,
}

impl Leaf {
    /// A leaf of zeroes.
    pub(crate) fn zeroes(count: u32) -> Self {
        Self { entries: vec![None; count as usize] }
    }

    /// What a block holds, by its number in the leaf; none for zeroes, and behind the end.
    pub(crate) fn get(&self, number: u32) -> Option<Hash> {
        self.entries.get(number as usize).copied().flatten()
    }

    /// Whether there is nothing but zeroes.
    pub(crate) fn is_zero(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    fn set(&mut self, number: u32, hash: Option<Hash>) {
        if let Some(entry) = self.entries.get_mut(number as usize) {
            *entry = hash;
        }
    }

    /// The same with so many entries.
    pub(crate) fn resized(mut self, count: u32) -> Self {
        self.entries.resize(count as usize, None);
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
        (entries.len() == count as usize).then_some(Self { entries })
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
        let open = || Open { leaf: base.clone().resized(count), is_changed: false, units: 0 };
        self.open.entry(number).or_insert_with(open).units += 1;
    }

    /// Says what a block has become, in a leaf that is touched.
    pub(crate) fn set(&mut self, entry: Entry) {
        if let Some(open) = self.open.get_mut(&(entry.block / LEAF_BLOCKS)) {
            open.leaf.set(entry.block % LEAF_BLOCKS, entry.hash);
            open.is_changed = true;
        }
    }

    /// A unit that touched a leaf has arrived.
    pub(crate) fn let_go(&mut self, number: u32) {
        if let Some(open) = self.open.get_mut(&number) {
            open.units = open.units.saturating_sub(1);
        }
    }

    /// Reckons the leaves below `end` that nothing is under way for; those that changed come with their hash.
    pub(crate) fn close_below(&mut self, end: u32) -> Vec<(Hash, Vec<u8>)> {
        let closing: Vec<u32> = self.open.range(..end).filter(|(_, open)| open.units == 0).map(|(n, _)| *n).collect();
        let mut changed = Vec::new();
        for number in closing {
            let Some(open) = self.open.remove(&number) else { continue };
            if !open.is_changed {
                continue;
            }
            let bytes = open.leaf.encode();
            let hash = format::hash_of(&bytes);
            if let Some(place) = self.leaves.get_mut(number as usize) {
                *place = hash;
            }
            changed.push((hash, bytes));
        }
        changed
    }
}

/// Leaves in files of a directory.
#[derive(Debug)]
pub(crate) struct LeafFiles {
    directory: Option<PathBuf>,
}

impl LeafFiles {
    /// The files of one replication; none are kept without a directory.
    pub(crate) fn open(directory: Option<PathBuf>) -> Self {
        let made = directory.filter(|directory| match std::fs::create_dir_all(directory) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), "maps are not kept");
                false
            }
        });
        Self { directory: made }
    }

    fn path(&self, hash: &Hash) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(hex(hash)))
    }

    /// The leaf of that hash, when it is there and whole.
    pub(crate) fn read(&self, hash: &Hash, count: u32) -> Option<Leaf> {
        let bytes = std::fs::read(self.path(hash)?).ok()?;
        Leaf::checked(&bytes, hash, count)
    }

    /// Keeps a leaf. That it could not be kept costs a call the next time, and nothing else. Nothing is flushed: a torn file does not
    /// have its hash.
    pub(crate) fn write(&self, hash: &Hash, bytes: &[u8]) {
        let Some(path) = self.path(hash) else { return };
        let write = || -> std::io::Result<()> {
            let temporary = path.with_extension("new");
            std::fs::File::create(&temporary)?.write_all(bytes)?;
            std::fs::rename(&temporary, &path)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, path = %path.display(), "a leaf was not kept");
        }
    }

    /// Removes all but these.
    pub(crate) fn retain(&self, keep: &std::collections::HashSet<Hash>) {
        let Some(directory) = &self.directory else { return };
        let Ok(files) = std::fs::read_dir(directory) else { return };
        for file in files.flatten() {
            let name = file.file_name();
            let is_kept = name.to_str().and_then(read_hex).is_some_and(|hash| keep.contains(&hash));
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
