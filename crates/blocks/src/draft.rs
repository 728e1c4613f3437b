//! Instances in the making.
//!
//! A draft begins as another instance, or as zeroes. Blocks are put, and entries of the map are set, in any order. What was flushed
//! is there after a crash. It becomes an instance whole or not at all: when all its blocks are there, and its root is the one that was expected.
//!
//! ```text
//!   begin ──► (have, put, set, flush)* ──► commit ──► instance
//!                      └───────────────► abandon, begin anew ──► over
//! ```
//! Leaves that are being changed are open, in memory; at most [`OPEN_LEAVES_MAX`], then the first ones are stored in packs. A leaf that is
//! changed again is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::draft_log::{self, Begun, DraftLog, Record};
use crate::format::{LEAF_BLOCKS, encode_leaf, hash_of, hex, leaf_blocks, leaf_count, read_hex};
use crate::index::Hashes;
use crate::instance::{DiskMap, DiskSize, Instance, InstanceState, root_of};
use crate::pack::{Block, PLAIN_BYTES_MAX};
use crate::store::{Store, blocks_of};
use crate::{BLOCK_BYTES, Error, Hash, Name};

/// Leaves of a draft in memory: 128 KiB each.
const OPEN_LEAVES_MAX: usize = 64;

/// An instance in the making. Clones are the same draft.
#[derive(Clone)]
pub struct Draft {
    store: std::sync::Weak<crate::store::Inner>,
    name: Name,
    number: u64,
    // Held while the map changes; never while packs are flushed.
    making: Arc<Mutex<Making>>,
}

struct Making {
    log: DraftLog,
    disks: Vec<DraftDisk>,
    stored_bytes: u64,
    /// Blocks that were found or put, and are in no map yet.
    pins: Hashes,
    /// How often the map was changed.
    edits: u64,
    is_over: bool,
}

/// One disk.
struct DraftDisk {
    size: DiskSize,
    blocks: u32,
    leaves: Vec<Hash>,
    open: BTreeMap<u32, Vec<Option<Hash>>>,
    /// Leaves that differ from the base's, perhaps.
    changed: BTreeSet<u32>,
}

/// The hash of a leaf of so many blocks of zeroes. It is not stored.
pub(crate) fn zero_leaf(count: u32) -> Hash {
    if count == LEAF_BLOCKS {
        static WHOLE: std::sync::LazyLock<Hash> =
            std::sync::LazyLock::new(|| hash_of(&encode_leaf(&vec![None; LEAF_BLOCKS as usize])));
        return *WHOLE;
    }
    hash_of(&encode_leaf(&vec![None; count as usize]))
}

impl DraftDisk {
    fn new(size: DiskSize, leaves: Vec<Hash>) -> Self {
        Self { blocks: blocks_of(&size), size, leaves, open: BTreeMap::new(), changed: BTreeSet::new() }
    }

    /// Stores an open leaf.
    fn close(&mut self, store: &Store, number: u32) -> Result<u64, Error> {
        let Some(entries) = self.open.get(&number) else { return Ok(0) };
        let (mut stored, mut hash) = (0, zero_leaf(leaf_blocks(self.blocks, number)));
        if entries.iter().any(Option::is_some) {
            let leaf = Block::of_plain(&encode_leaf(entries));
            hash = leaf.hash;
            stored = store.inner.writer.append(&store.inner.index, &[leaf])?;
        }
        if let Some(place) = self.leaves.get_mut(number as usize) {
            *place = hash;
        }
        self.open.remove(&number);
        Ok(stored)
    }

    fn close_all(&mut self, store: &Store) -> Result<u64, Error> {
        let open: Vec<u32> = self.open.keys().copied().collect();
        open.into_iter().map(|number| self.close(store, number)).sum()
    }

    /// Changes entries, whose numbers have been checked.
    fn set(&mut self, store: &Store, entries: &[(u32, Option<Hash>)]) -> Result<u64, Error> {
        let mut stored = 0;
        for (block, hash) in entries {
            let number = block / LEAF_BLOCKS;
            if !self.open.contains_key(&number) {
                let leaf = store.read_leaf(&self.leaves[number as usize], self.blocks, number)?;
                self.open.insert(number, leaf);
                self.changed.insert(number);
                if self.open.len() > OPEN_LEAVES_MAX
                    && let Some(first) = self.open.keys().copied().find(|open| *open != number)
                {
                    stored += self.close(store, first)?;
                }
            }
            if let Some(entry) =
                self.open.get_mut(&number).and_then(|leaf| leaf.get_mut((block % LEAF_BLOCKS) as usize))
            {
                *entry = *hash;
            }
        }
        Ok(stored)
    }
}

impl Making {
    fn disk(&mut self, key: u32) -> Result<&mut DraftDisk, Error> {
        self.disks.iter_mut().find(|disk| disk.size.key == key).ok_or(Error::NoDisk(key))
    }
}

impl Draft {
    pub(crate) fn begin(
        store: &Store,
        name: &Name,
        base: Option<&Instance>,
        disks: &[DiskSize],
        number: u64,
    ) -> Result<Self, Error> {
        store.inner.writer.check()?;
        let begin = |size: &DiskSize| -> Result<DraftDisk, Error> {
            let blocks = blocks_of(size);
            let zeroes = (0..leaf_count(blocks)).map(|number| zero_leaf(leaf_blocks(blocks, number)));
            let Some(old) = base.and_then(|base| base.disk(size.key).ok()) else {
                return Ok(DraftDisk::new(*size, zeroes.collect()));
            };
            let mut leaves: Vec<Hash> = zeroes.collect();
            let common = leaves.len().min(old.leaves.len());
            leaves[..common].copy_from_slice(&old.leaves[..common]);
            let mut disk = DraftDisk::new(*size, leaves);
            // The last leaf of a disk that was resized has another number of entries.
            let (old_blocks, last) = (blocks_of(&old.size), common.saturating_sub(1) as u32);
            if common > 0 && leaf_blocks(old_blocks, last) != leaf_blocks(blocks, last) {
                let mut leaf = store.read_leaf(&old.leaves[last as usize], old_blocks, last)?;
                leaf.resize(leaf_blocks(blocks, last) as usize, None);
                disk.open.insert(last, leaf);
                disk.changed.insert(last);
            }
            Ok(disk)
        };
        let mut making: Vec<DraftDisk> = disks.iter().map(begin).collect::<Result<_, Error>>()?;
        let mut stored_bytes = 0;
        for disk in &mut making {
            stored_bytes += disk.close_all(store)?;
        }
        store.inner.writer.flush()?;
        let leaves = making.iter().map(|disk| disk.leaves.iter().map(hex).collect()).collect();
        let begun = Begun { version: 1, number, disks: disks.to_vec(), leaves };
        let log = DraftLog::create(&store.inner.writer, name, &begun)?;
        Ok(Self::new(store, name, number, log, making, stored_bytes))
    }

    fn new(store: &Store, name: &Name, number: u64, log: DraftLog, disks: Vec<DraftDisk>, stored_bytes: u64) -> Self {
        let making = Making { log, disks, stored_bytes, pins: Hashes::default(), edits: 0, is_over: false };
        Self { store: Arc::downgrade(&store.inner), name: name.clone(), number, making: Arc::new(Mutex::new(making)) }
    }

    /// Opens a draft by its log.
    pub(crate) fn open(store: &Store, name: &Name) -> Result<Self, Error> {
        let (log, records) = DraftLog::open(&*store.inner.storage, name)?;
        let damaged = || Error::Damaged { what: format!("the log of draft {name}") };
        let mut records = records.into_iter();
        let Some(Record::Begun(begun)) = records.next() else { return Err(damaged()) };
        if begun.disks.len() != begun.leaves.len() {
            return Err(damaged());
        }
        let disk = |(size, leaves): (&DiskSize, &Vec<String>)| {
            let leaves: Vec<Hash> = leaves.iter().map(|leaf| read_hex(leaf)).collect::<Option<_>>()?;
            let is_whole = leaves.len() == leaf_count(blocks_of(size)) as usize;
            is_whole.then(|| DraftDisk::new(*size, leaves))
        };
        let disks = begun.disks.iter().zip(&begun.leaves).map(disk).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let draft = Self::new(store, name, begun.number, log, disks, 0);
        let mut making = draft.making.lock();
        for record in records {
            match record {
                Record::Begun(_) => return Err(damaged()),
                Record::Stored(bytes) => making.stored_bytes = bytes,
                Record::Entries(key, entries) => {
                    let disk = making.disk(key)?;
                    check_entries(disk, &entries).map_err(|_| damaged())?;
                    disk.set(store, &entries)?;
                }
            }
        }
        drop(making);
        Ok(draft)
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its place in the order of drafts.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn store(&self) -> Result<Store, Error> {
        self.store.upgrade().map(|inner| Store { inner }).ok_or(Error::Poisoned)
    }

    fn making(&self) -> Result<parking_lot::MutexGuard<'_, Making>, Error> {
        let making = self.making.lock();
        if making.is_over { Err(Error::NoDraft(self.name.clone())) } else { Ok(making) }
    }

    /// Which of these blocks are there. They stay for this draft, until the store is closed.
    ///
    /// # Errors
    /// [`Error::NoDraft`] when it is over.
    pub fn have(&self, hashes: &[Hash]) -> Result<Vec<bool>, Error> {
        let store = self.store()?;
        let mut making = self.making()?;
        let mut index = store.inner.index.write();
        let mut present = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let is_there = index.want(hash);
            if is_there {
                making.pins.insert(*hash);
            }
            present.push(is_there);
        }
        Ok(present)
    }

    /// Stores blocks that have been checked against their hashes. Those that are there already cost nothing.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Poisoned`], [`Error::Io`]; then some of them may be stored.
    pub fn put(&self, blocks: &[Block]) -> Result<(), Error> {
        let fits =
            |block: &Block| block.plain_bytes as usize <= BLOCK_BYTES && block.bytes.len() <= PLAIN_BYTES_MAX as usize;
        if !blocks.iter().all(fits) {
            return Err(Error::Invalid(format!("a block has at most {BLOCK_BYTES} bytes")));
        }
        let store = self.store()?;
        self.making()?.pins.extend(blocks.iter().map(|block| block.hash));
        let stored = store.inner.writer.append(&store.inner.index, blocks)?;
        self.making()?.stored_bytes += stored;
        Ok(())
    }

    /// Changes the map of a disk: numbers of blocks, and what they hold; none for zeroes.
    ///
    /// # Errors
    /// [`Error::NoDisk`], [`Error::Invalid`] for a number behind the disk's end; then nothing is changed. [`Error::Io`].
    pub fn set(&self, disk: u32, entries: &[(u32, Option<Hash>)]) -> Result<(), Error> {
        let store = self.store()?;
        let mut guard = self.making()?;
        let making = &mut *guard;
        check_entries(making.disk(disk)?, entries)?;
        making.log.append(disk, entries)?;
        making.edits += 1;
        let stored = making.disk(disk)?.set(&store, entries)?;
        making.stored_bytes += stored;
        for hash in entries.iter().filter_map(|(_, hash)| hash.as_ref()) {
            making.pins.remove(hash);
        }
        Ok(())
    }

    /// Makes all of the above durable.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`].
    pub fn flush(&self) -> Result<(), Error> {
        let store = self.store()?;
        // Blocks first: a map that is durable must not name what is not.
        store.inner.writer.flush()?;
        let mut making = self.making()?;
        let stored = making.stored_bytes;
        making.log.append_stored(stored)?;
        making.log.flush().inspect_err(|_| store.inner.writer.poison())
    }

    /// Makes it an instance, whole or not at all.
    ///
    /// # Errors
    /// [`Error::RootDiffers`] when the map has another root than `root`, [`Error::BlockMissing`]; the draft is as it was then.
    pub fn commit(&self, root: &Hash, time_ms: i64) -> Result<Arc<Instance>, Error> {
        let store = self.store()?;
        loop {
            let (disks, edits) = self.checked_map(&store, root)?;
            store.inner.writer.flush()?;
            store.upload()?;
            // The catalog is locked before a draft, everywhere.
            let mut catalog = store.inner.catalog.lock();
            let mut making = self.making()?;
            if making.edits != edits {
                // Somebody has set something meanwhile.
                continue;
            }
            let of_it = catalog.instances.values().filter(|one| one.name.replication() == self.name.replication());
            let sequence = of_it.map(|one| one.state.sequence).max().unwrap_or(0) + 1;
            let state = InstanceState { time_ms, sequence, stored_bytes: making.stored_bytes, is_pinned: false };
            let instance = Arc::new(Instance { name: self.name.clone(), root: *root, state, disks });
            store.write_instance(&instance)?;
            catalog.instances.insert(self.name.clone(), instance.clone());
            making.is_over = true;
            catalog.drafts.remove(&self.name);
            // One that stays is removed at the next start.
            if let Err(error) = store.inner.storage.remove(&self.name.file(draft_log::KIND)) {
                tracing::warn!(%error, draft = %self.name, "the log of a draft that was committed was not removed");
            }
            return Ok(instance);
        }
    }

    /// The map, which has the root and all of its blocks, and how often it was changed.
    fn checked_map(&self, store: &Store, root: &Hash) -> Result<(Vec<DiskMap>, u64), Error> {
        let mut guard = self.making()?;
        let making = &mut *guard;
        for disk in &mut making.disks {
            making.stored_bytes += disk.close_all(store)?;
        }
        let map = |disk: &DraftDisk| DiskMap { size: disk.size, leaves: disk.leaves.clone() };
        let disks: Vec<DiskMap> = making.disks.iter().map(map).collect();
        let found = root_of(&disks);
        if found != *root {
            return Err(Error::RootDiffers { expected: *root, found });
        }
        making.disks.iter().try_for_each(|disk| self.check_blocks(store, disk))?;
        Ok((disks, making.edits))
    }

    /// Whether all blocks of the leaves that it changed are there. Those of the others belong to its base, and stay while it lasts.
    fn check_blocks(&self, store: &Store, disk: &DraftDisk) -> Result<(), Error> {
        for number in &disk.changed {
            let entries = store.read_leaf(&disk.leaves[*number as usize], disk.blocks, *number)?;
            let mut index = store.inner.index.write();
            for (at, hash) in entries.iter().enumerate() {
                if let Some(hash) = hash
                    && !index.want(hash)
                {
                    // A leaf has at most 4096 entries.
                    let number = number * LEAF_BLOCKS + at as u32;
                    return Err(Error::BlockMissing { disk: disk.size.key, number, hash: *hash });
                }
            }
        }
        Ok(())
    }

    /// Drops it. Its blocks go with the next collection of garbage, unless others hold them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn abandon(&self) -> Result<(), Error> {
        let store = self.store()?;
        store.inner.writer.check()?;
        let mut catalog = store.inner.catalog.lock();
        let mut making = self.making()?;
        store.inner.writer.remove(&self.name.file(draft_log::KIND))?;
        making.is_over = true;
        catalog.drafts.remove(&self.name);
        Ok(())
    }

    /// Another draft has taken its name.
    pub(crate) fn end(&self) {
        self.making.lock().is_over = true;
    }

    /// What garbage collection leaves alone for it: single hashes, and its map as it is.
    pub(crate) fn needs(&self, mut one: impl FnMut(&Hash), mut leaf: impl FnMut(&Hash, u32, u32)) {
        let making = self.making.lock();
        if making.is_over {
            return;
        }
        making.pins.iter().for_each(&mut one);
        for disk in &making.disks {
            for (number, hash) in (0..).zip(&disk.leaves) {
                leaf(hash, disk.blocks, number);
            }
            disk.open.values().flatten().flatten().for_each(&mut one);
        }
    }
}

fn check_entries(disk: &DraftDisk, entries: &[(u32, Option<Hash>)]) -> Result<(), Error> {
    match entries.iter().find(|(number, _)| *number >= disk.blocks) {
        Some((number, _)) => {
            let (key, blocks) = (disk.size.key, disk.blocks);
            Err(Error::Invalid(format!("disk {key} has {blocks} blocks, and none of number {number}")))
        }
        None => Ok(()),
    }
}
