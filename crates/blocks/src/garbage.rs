//! Collecting garbage: what no instance and no draft needs goes.
//!
//! 1. From now on, what anybody asks for or stores is *wanted* ([`Index::wanted`](crate::index::Index)): it is none.
//! 2. What instances and drafts need is marked: their leaves, and the blocks that these name.
//! 3. Each sealed pack is looked at. One of which less than half is needed is emptied: what is needed of it is appended to another
//!    pack, and flushed; then, in one step under the index's lock, the rest is forgotten; then its file is removed.
//!
//! Killed anywhere, it leaves everything that is needed in at least one pack. A draft that begins meanwhile begins as an instance that was
//! there when marking began, or with what it wants.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_storage::StoredFile;

use crate::index::Hashes;
use crate::instance::Instance;
use crate::pack::{self, Place};
use crate::store::{Store, blocks_of};
use crate::{Error, Hash, Name};

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
                draft.needs(
                    |hash| _ = needed.insert(*hash),
                    |leaf, blocks, number| leaves.push((*leaf, blocks, number)),
                );
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
        // Of each pack, the bytes that are needed.
        let mut shares: HashMap<u32, u64> = sealed.iter().map(|number| (*number, 0)).collect();
        {
            let index = self.inner.index.read();
            let is_needed = |hash: &Hash| {
                needed.contains(hash) || index.wanted.as_ref().is_some_and(|wanted| wanted.contains(hash))
            };
            for (_, place) in index.places.iter().filter(|(hash, _)| is_needed(hash)) {
                if let Some(share) = shares.get_mut(&place.pack) {
                    *share += place.record_bytes();
                }
            }
        }
        let mut collected = Collected::default();
        for (number, share) in shares {
            let Some(bytes) = self.inner.index.read().packs.get(&number).map(|pack| pack.bytes) else { continue };
            if share * 2 < bytes || bytes == 0 {
                self.empty(number, bytes, needed, &mut collected)?;
            }
        }
        Ok(collected)
    }

    /// Moves what is needed of a pack, and removes it.
    fn empty(&self, number: u32, bytes: u64, needed: &Hashes, collected: &mut Collected) -> Result<(), Error> {
        let Some(file) = self.inner.index.read().packs.get(&number).map(|pack| pack.file.clone()) else {
            return Ok(());
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
                    index.packs.remove(&number);
                    break;
                }
                here
            };
            let mut batch = Vec::new();
            for (hash, place) in here {
                let Ok(block) = place.read_stored(&*file, &hash) else {
                    tracing::error!(pack = number, "a block is damaged: its pack is kept");
                    return Ok(());
                };
                batch.push(block);
                if batch.iter().map(|block| block.bytes.len()).sum::<usize>() >= MOVED_BYTES {
                    moved += self.inner.writer.move_here(&self.inner.index, &batch)?;
                    batch.clear();
                }
            }
            moved += self.inner.writer.move_here(&self.inner.index, &batch)?;
            self.inner.writer.flush()?;
            self.upload()?;
        }
        match self.inner.tier.as_ref().filter(|tier| tier.has(number)) {
            Some(tier) => tier.remove_pack(&*self.inner.storage, number)?,
            None => self.inner.writer.remove(&pack::file_name(number))?,
        }
        collected.packs += 1;
        collected.moved_bytes += moved;
        collected.freed_bytes += bytes.saturating_sub(moved);
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
