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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use crate::draft_log::{self, Begun, DraftLog, Record};
use crate::format::{LEAF_BLOCKS, encode_leaf, hash_of, hex, leaf_blocks, leaf_count, read_hex};
use crate::index::Hashes;
use crate::instance::{DiskMap, DiskSize, Instance, InstanceState, root_of};
use crate::pack::{Block, PLAIN_BYTES_MAX};
use crate::store::{Store, block_bytes, blocks_of};
use crate::{BLOCK_BYTES, Error, Hash, Name};

/// Leaves of a draft in memory: 128 KiB each.
const OPEN_LEAVES_MAX: usize = 64;

/// An instance in the making. Clones are the same draft.
#[derive(Clone)]
pub struct Draft {
    store: std::sync::Weak<crate::store::Inner>,
    name: Name,
    // Held while the map changes; never while packs or the log are flushed, or the object store is asked for an instance.
    making: Arc<Mutex<Making>>,
    /// What is durable: a number of `Making::edits`. Held while the log is flushed, so that those who wait for a flush share one.
    flushed: Arc<Mutex<u64>>,
    /// Told when a map may be changed again.
    released: Arc<Condvar>,
}

/// A map that nobody changes, because it is being committed.
struct Held<'a> {
    draft: &'a Draft,
    stored_bytes: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.draft.making.lock().is_held = false;
        self.draft.released.notify_all();
    }
}

struct Making {
    log: DraftLog,
    disks: Vec<DraftDisk>,
    stored_bytes: u64,
    /// When it was begun or flushed last, in milliseconds since 1970.
    used_ms: u64,
    /// Blocks that were found or put, and are in no map yet.
    pins: Hashes,
    /// How often the map was changed.
    edits: u64,
    /// Whether it is being committed: nobody changes the map meanwhile.
    is_held: bool,
    is_over: bool,
}

/// One disk.
struct DraftDisk {
    size: DiskSize,
    blocks: u32,
    leaves: Vec<Hash>,
    open: BTreeMap<u32, Vec<Option<Hash>>>,
    /// Leaves that differ from the base's, perhaps, or must.
    changed: BTreeSet<u32>,
    /// The leaf in which the base's disk ends, or this one, when they do not end alike.
    resized: Option<u32>,
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
        Self { blocks: blocks_of(&size), size, leaves, open: BTreeMap::new(), changed: BTreeSet::new(), resized: None }
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

/// The disks that a draft began with; none when the record makes no sense.
fn begun_disks(begun: &Begun) -> Option<Vec<DraftDisk>> {
    let disk = |((size, leaves), resized): ((&DiskSize, &Vec<String>), &Option<u32>)| {
        let leaves: Vec<Hash> = leaves.iter().map(|leaf| read_hex(leaf)).collect::<Option<_>>()?;
        let is_whole = leaves.len() == leaf_count(blocks_of(size)) as usize;
        let is_whole = is_whole && resized.is_none_or(|leaf| (leaf as usize) < leaves.len());
        is_whole.then(|| DraftDisk {
            changed: resized.iter().copied().collect(),
            resized: *resized,
            ..DraftDisk::new(*size, leaves)
        })
    };
    let is_whole = begun.disks.len() == begun.leaves.len() && begun.disks.len() == begun.resized.len();
    is_whole.then(|| begun.disks.iter().zip(&begun.leaves).zip(&begun.resized).map(disk).collect()).flatten()
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
            if common > 0 && old.size.bytes != size.bytes {
                // The block at the shorter one's end has another length.
                disk.resized = Some(common as u32 - 1);
                disk.changed.extend(disk.resized);
            }
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
        let resized = making.iter().map(|disk| disk.resized).collect();
        let begun = Begun { version: 1, number, time_ms: now_ms(), disks: disks.to_vec(), leaves, resized };
        let log = DraftLog::create(&store.inner.writer, name, &begun)?;
        Ok(Self::new(store, name, log, making, stored_bytes, begun.time_ms))
    }

    fn new(store: &Store, name: &Name, log: DraftLog, disks: Vec<DraftDisk>, stored_bytes: u64, used_ms: u64) -> Self {
        let making = Making {
            log,
            disks,
            stored_bytes,
            used_ms,
            pins: Hashes::default(),
            edits: 0,
            is_held: false,
            is_over: false,
        };
        Self {
            store: Arc::downgrade(&store.inner),
            name: name.clone(),
            making: Arc::new(Mutex::new(making)),
            flushed: Arc::default(),
            released: Arc::default(),
        }
    }

    /// Opens a draft by its log.
    pub(crate) fn open(store: &Store, name: &Name) -> Result<Self, Error> {
        let damaged = || Error::Damaged { what: format!("the log of draft {name}") };
        let (mut has_begun, mut disks, mut stored_bytes, mut used_ms) = (false, Vec::new(), 0, 0);
        let log = DraftLog::open(&*store.inner.storage, name, |record| match record {
            Record::Begun(begun) if !has_begun => {
                has_begun = true;
                used_ms = begun.time_ms;
                disks = begun_disks(&begun).ok_or_else(damaged)?;
                Ok(())
            }
            Record::Begun(_) => Err(damaged()),
            Record::Flushed(bytes, time_ms) => {
                (stored_bytes, used_ms) = (bytes, time_ms);
                Ok(())
            }
            Record::Entries(key, entries) => {
                let disk = disks.iter_mut().find(|disk| disk.size.key == key).ok_or_else(damaged)?;
                check_entries(disk, &entries).map_err(|_| damaged())?;
                disk.set(store, &entries).map(drop)
            }
        })?;
        if has_begun { Ok(Self::new(store, name, log, disks, stored_bytes, used_ms)) } else { Err(damaged()) }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
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
        self.released.wait_while(&mut guard, |making| making.is_held);
        if guard.is_over {
            return Err(Error::NoDraft(self.name.clone()));
        }
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
        let wanted = {
            let mut making = self.making()?;
            making.used_ms = now_ms();
            making.edits
        };
        // Blocks first: a map that is durable must not name what is not.
        store.inner.writer.flush()?;
        let mut flushed = self.flushed.lock();
        // Blocks that no map names yet have nothing in the log.
        if *flushed >= wanted {
            return self.making().map(drop);
        }
        let (covered, log) = {
            let mut making = self.making()?;
            let (stored, used) = (making.stored_bytes, making.used_ms);
            making.log.append_flushed(stored, used)?;
            (making.edits, making.log.flusher())
        };
        log.flush().inspect_err(|_| store.inner.writer.poison())?;
        *flushed = covered;
        Ok(())
    }

    /// Makes it an instance, whole or not at all.
    ///
    /// # Errors
    /// [`Error::RootDiffers`] when the map has another root than `root`, [`Error::BlockMissing`], [`Error::Invalid`] for a block that is
    /// shorter or longer than that of the disk; the draft is as it was then. [`Error::Away`], [`Error::Io`]; then it may be tried again.
    pub fn commit(&self, root: &Hash, time_ms: i64) -> Result<Arc<Instance>, Error> {
        let store = self.store()?;
        loop {
            let (disks, edits) = self.checked_map(&store, root)?;
            store.inner.writer.flush()?;
            store.upload()?;
            let _changing = store.inner.changing.lock();
            let Some(held) = self.hold(edits)? else {
                // Somebody has set something meanwhile.
                continue;
            };
            let of_it = store.instances(self.name.replication());
            let sequence = of_it.last().map_or(0, |last| last.state.sequence) + 1;
            let state = InstanceState { time_ms, sequence, stored_bytes: held.stored_bytes, is_pinned: false };
            let instance = Arc::new(Instance { name: self.name.clone(), root: *root, state, disks });
            store.write_new_instance(&instance)?;
            {
                // Both at once: it is one or the other to whoever looks.
                let mut catalog = store.inner.catalog.lock();
                catalog.instances.insert(self.name.clone(), instance.clone());
                catalog.drafts.remove(&self.name);
                self.making.lock().is_over = true;
            }
            // One that stays is removed at the next start.
            if let Err(error) = store.inner.storage.remove(&self.name.file(draft_log::KIND)) {
                tracing::warn!(%error, draft = %self.name, "the log of a draft that was committed was not removed");
            }
            return Ok(instance);
        }
    }

    /// Lets nobody change the map until what this answers is dropped; none when it was changed since so many edits.
    fn hold(&self, edits: u64) -> Result<Option<Held<'_>>, Error> {
        let mut making = self.making()?;
        if making.edits != edits {
            return Ok(None);
        }
        making.is_held = true;
        Ok(Some(Held { draft: self, stored_bytes: making.stored_bytes }))
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

    /// Whether all blocks of the leaves that it changed are there, and as long as the disk's are. Those of the others belong to its base,
    /// and stay while it lasts.
    fn check_blocks(&self, store: &Store, disk: &DraftDisk) -> Result<(), Error> {
        let key = disk.size.key;
        for leaf in &disk.changed {
            let entries = store.read_leaf(&disk.leaves[*leaf as usize], disk.blocks, *leaf)?;
            let mut index = store.inner.index.write();
            for (number, hash) in (leaf * LEAF_BLOCKS..).zip(entries) {
                let Some(hash) = hash else { continue };
                if !index.want(&hash) {
                    return Err(Error::BlockMissing { disk: key, number, hash });
                }
                let expected = block_bytes(&disk.size, number);
                let found = index.places.get(&hash).map_or(0, |place| place.plain_bytes);
                if found != expected {
                    let what = format!("block {number} of disk {key} has {found} bytes, not {expected}");
                    return Err(Error::Invalid(what));
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
        let _changing = store.inner.changing.lock();
        drop(self.making()?);
        store.settle(&self.name)?;
        let mut making = self.making()?;
        store.inner.writer.remove(&self.name.file(draft_log::KIND))?;
        making.is_over = true;
        drop(making);
        store.inner.catalog.lock().drafts.remove(&self.name);
        Ok(())
    }

    /// How long it has been neither begun nor flushed.
    pub(crate) fn unused(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.making.lock().used_ms))
    }

    /// Another draft has taken its name.
    pub(crate) fn end(&self) {
        self.making.lock().is_over = true;
    }

    /// What garbage collection leaves alone for it: single hashes, and its map as it is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn needs(
        &self,
        store: &Store,
        mut one: impl FnMut(&Hash),
        mut leaf: impl FnMut(&Hash, u32, u32),
    ) -> Result<(), Error> {
        let making = self.making.lock();
        if making.is_over {
            return Ok(());
        }
        // The map as it is must be the one that is found after a crash: what an older one needs besides is not told.
        making.log.flusher().flush().inspect_err(|_| store.inner.writer.poison())?;
        making.pins.iter().for_each(&mut one);
        for disk in &making.disks {
            for (number, hash) in (0..).zip(&disk.leaves) {
                leaf(hash, disk.blocks, number);
            }
            disk.open.values().flatten().flatten().for_each(&mut one);
        }
        Ok(())
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    // A clock that stands before 1970 makes all drafts young.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
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
