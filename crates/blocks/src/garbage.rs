//! Collecting garbage: what no instance and no draft needs goes.
//!
//! 1. From now on, what anybody asks for or stores is *wanted* ([`Index::wanted`](crate::index::Index)): it is none.
//! 2. What instances and drafts need is marked: their leaves, and the blocks that these name.
//! 3. Each sealed pack is looked at. One of which less than half is needed is emptied: what is needed of it is appended to another
//!    pack; then, in one step under the index's lock, the rest is forgotten. When there are many small packs, these are emptied too, so
//!    that they become few.
//! 4. When what was moved is flushed, and in the object store, the files of emptied packs are removed.
//!
//! Killed anywhere, it leaves everything that is needed in at least one pack. A draft that begins meanwhile begins as an instance that was
//! there when marking began, or with what it wants.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_storage::StoredFile;

use crate::index::{Hashes, Index};
use crate::instance::Instance;
use crate::pack::{self, Damaged, PACK_BYTES, Place};
use crate::store::{Store, blocks_of};
use crate::{Error, Hash, Name};

/// A sealed pack of fewer bytes is small: what is sealed by collections and commits before it is full.
const SMALL_BYTES: u64 = PACK_BYTES / 4;

/// Most small packs that are left as they are. With more, all of them become one.
const SMALL_PACKS_MAX: usize = 16;

/// Hashes that are looked up at a time.
const LOOKED_UP_HASHES: usize = 4096;

/// Records that are moved at a time.
const MOVED_BYTES: usize = 4 << 20;

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Packs that were removed.
    pub packs: u64,
    /// Bytes that this freed, less what was moved.
    pub freed_bytes: u64,
    /// Bytes that were moved from packs that were removed.
    pub moved_bytes: u64,
}

impl Store {
    /// Collects garbage, beside whatever else goes on. Waits for a collection that is under way.
    ///
    /// # Errors
    /// [`Error::Damaged`] when an instance or a leaf cannot be read: nobody knows what they need, so nothing is removed.
    /// [`Error::Io`], [`Error::Full`], [`Error::Poisoned`].
    pub fn collect_garbage(&self) -> Result<Collected, Error> {
        let _one_at_a_time = self.inner.collecting.lock();
        let next = self.inner.writer.seal_open()?;
        let sealed: Vec<u32> = {
            let mut index = self.inner.index.write();
            index.wanted = Some(Hashes::default());
            index.packs.keys().copied().filter(|number| *number < next).collect()
        };
        let collected = self.mark().and_then(|needed| self.sweep(&sealed, &needed));
        self.inner.index.write().wanted = None;
        collected
    }

    /// All that instances and drafts need.
    ///
    /// A draft may become an instance meanwhile, another may begin as that one, and that one be removed. So instances are listed before
    /// the drafts are asked and again after it, with those that were removed in between: whatever a draft that nobody asked began as is
    /// in one of the lists, or is made of what is wanted.
    fn mark(&self) -> Result<Hashes, Error> {
        let (mut instances, drafts): (Vec<Arc<Instance>>, Vec<Name>) = {
            // What a draft that is about to begin has stored for itself may not be wanted.
            let _changing = self.inner.changing.lock();
            if let Some(tier) = &self.inner.tier {
                tier.settle_all()?;
            }
            let mut catalog = self.inner.catalog.lock();
            if let Some(name) = catalog.damaged.first() {
                return Err(Error::Damaged { what: format!("instance {name}") });
            }
            // Nobody reads it any more.
            catalog.leaving.retain(|instance| Arc::strong_count(instance) > 1);
            (catalog.known().cloned().collect(), catalog.drafts.keys().cloned().collect())
        };
        let mut needed = Hashes::default();
        let mut leaves = Vec::new();
        for name in drafts {
            // Outside of the catalog's lock: a draft may be waiting for its flush.
            if let Some(draft) = self.draft(&name)? {
                let one = |hash: &Hash| _ = needed.insert(*hash);
                draft.needs(self, one, |leaf, blocks, number| leaves.push((*leaf, blocks, number)))?;
            }
        }
        instances.extend(self.inner.catalog.lock().known().cloned());
        for disk in instances.iter().flat_map(|instance| &instance.disks) {
            let blocks = blocks_of(&disk.size);
            leaves.extend((0..).zip(&disk.leaves).map(|(number, leaf)| (*leaf, blocks, number)));
        }
        // A leaf that is marked need not have been read: it may be somebody's block as well.
        let mut read = Hashes::default();
        for (leaf, blocks, number) in leaves {
            // Most leaves belong to many instances.
            if read.insert(leaf) {
                needed.insert(leaf);
                needed.extend(self.read_leaf(&leaf, blocks, number)?.into_iter().flatten());
            }
        }
        Ok(needed)
    }

    fn sweep(&self, sealed: &[u32], needed: &Hashes) -> Result<Collected, Error> {
        let shares = self.shares(sealed, needed);
        let bytes_of = |number: u32| self.inner.index.read().packs.get(&number).map(|pack| pack.bytes);
        let all = shares.into_iter().filter_map(|(number, share)| Some((number, share, bytes_of(number)?)));
        let (mut chosen, left): (Vec<_>, Vec<_>) = all.partition(|(_, share, bytes)| share * 2 < *bytes || *bytes == 0);
        let small: Vec<_> = left.into_iter().filter(|(_, _, bytes)| *bytes < SMALL_BYTES).collect();
        if small.len() > SMALL_PACKS_MAX {
            chosen.extend(small);
        }
        chosen.sort_unstable();
        let mut collected = Collected::default();
        let (mut emptied, mut moved) = (Vec::new(), 0);
        for (number, _, bytes) in chosen {
            if let Some(of_it) = self.empty(number, needed)? {
                emptied.push(number);
                moved += of_it;
                collected.packs += 1;
                collected.moved_bytes += of_it;
                collected.freed_bytes += bytes.saturating_sub(of_it);
            }
            // Together, since each upload ends a pack; but not all together, since what goes makes room.
            if moved >= PACK_BYTES {
                self.remove_emptied(&mut emptied)?;
                moved = 0;
            }
        }
        self.remove_emptied(&mut emptied)?;
        Ok(collected)
    }

    /// Of each pack, the bytes that are needed.
    fn shares(&self, sealed: &[u32], needed: &Hashes) -> HashMap<u32, u64> {
        let mut shares: HashMap<u32, u64> = sealed.iter().map(|number| (*number, 0)).collect();
        let mut count = |index: &Index, hash: &Hash| {
            if let Some(place) = index.places.get(hash)
                && let Some(share) = shares.get_mut(&place.pack)
            {
                *share += place.record_bytes();
            }
        };
        // A few at a time: writers wait for the index meanwhile.
        let mut rest = needed.iter().peekable();
        while rest.peek().is_some() {
            let index = self.inner.index.read();
            rest.by_ref().take(LOOKED_UP_HASHES).for_each(|hash| count(&index, hash));
        }
        let index = self.inner.index.read();
        let wanted = index.wanted.iter().flatten().filter(|hash| !needed.contains(*hash));
        wanted.for_each(|hash| count(&index, hash));
        shares
    }

    /// Moves what is needed of a pack, and forgets the rest. Answers the bytes that were moved; none when a damaged block keeps the pack.
    fn empty(&self, number: u32, needed: &Hashes) -> Result<Option<u64>, Error> {
        let Some(file) = self.inner.index.read().packs.get(&number).map(|pack| pack.file.clone()) else {
            return Ok(None);
        };
        let all = self.records(number, &*file)?;
        let mut moved = 0;
        loop {
            // What is wanted since the last look is moved in another round.
            let here: Vec<(Hash, Place)> = {
                let mut index = self.inner.index.write();
                let is_here = |hash: &Hash| index.places.get(hash).is_some_and(|place| place.pack == number);
                let is_needed = |hash: &Hash| {
                    needed.contains(hash) || index.wanted.as_ref().is_some_and(|wanted| wanted.contains(hash))
                };
                let left: Vec<_> = all.iter().filter(|(hash, _)| is_here(hash)).copied().collect();
                let here: Vec<_> = left.iter().filter(|(hash, _)| is_needed(hash)).copied().collect();
                if here.is_empty() {
                    for (hash, _) in &left {
                        index.places.remove(hash);
                    }
                    return Ok(Some(moved));
                }
                here
            };
            let mut batch = Vec::new();
            for (hash, place) in here {
                match place.read_stored(&*file, &hash) {
                    Ok(block) => batch.push(block),
                    Err(Damaged::Record | Damaged::Content) => {
                        tracing::error!(pack = number, "a block is damaged: its pack is kept");
                        return Ok(None);
                    }
                    Err(Damaged::Unreadable(source)) => {
                        let what = format!("reading {}", self.inner.storage.shown(&pack::file_name(number)));
                        return Err(Error::Io { what, source });
                    }
                }
                if batch.iter().map(|block| block.bytes.len()).sum::<usize>() >= MOVED_BYTES {
                    moved += self.inner.writer.move_here(&self.inner.index, &batch)?;
                    batch.clear();
                }
            }
            moved += self.inner.writer.move_here(&self.inner.index, &batch)?;
        }
    }

    /// Removes packs of which nothing is needed, when what was moved from them is durable.
    fn remove_emptied(&self, emptied: &mut Vec<u32>) -> Result<(), Error> {
        if emptied.is_empty() {
            return Ok(());
        }
        self.inner.writer.flush()?;
        self.upload()?;
        for number in emptied.drain(..) {
            match self.inner.tier.as_ref().filter(|tier| tier.has(number)) {
                Some(tier) => tier.remove_pack(&*self.inner.storage, number)?,
                None => self.inner.writer.remove(&pack::file_name(number))?,
            }
            self.inner.index.write().packs.remove(&number);
        }
        Ok(())
    }

    /// What a sealed pack has.
    fn records(&self, number: u32, file: &dyn StoredFile) -> Result<pack::Entries, Error> {
        let what = || format!("reading {}", self.inner.storage.shown(&pack::file_name(number)));
        match pack::read_footer(file, number).map_err(Error::io(what()))? {
            Some(entries) => Ok(entries),
            // Its footer found no room.
            None => Ok(pack::read_records(file, number).map_err(Error::io(what()))?.0),
        }
    }
}
