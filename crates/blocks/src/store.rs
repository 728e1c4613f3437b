//! The store: opening it, and what instances there are.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_storage::{Directory, Storage};
use parking_lot::{Mutex, RwLock};

use crate::draft::{self, Draft};
use crate::draft_log;
use crate::format::{DISK_BYTES_MAX, block_count, decode_leaf, encode_leaf, leaf_blocks};
use crate::index::Index;
use crate::instance::{self, DiskSize, Instance};
use crate::pack::{self, Damaged};
use crate::remote::Remote;
use crate::tier::Tier;
use crate::writer::Writer;
use crate::{BLOCK_BYTES, Error, Hash, Name, Rule, expired};

/// Most disks of an instance.
const DISKS_MAX: usize = 64;

/// A store of blocks and instances. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) writer: Writer,
    /// An object store, when there is one.
    pub(crate) tier: Option<Tier>,
    // Held for look-ups, never while a file is read.
    pub(crate) index: RwLock<Index>,
    /// Held while instances and drafts come, change and go, with all that this reads and writes, also in the object store.
    // Locked first of all, but for `collecting`.
    pub(crate) changing: Mutex<()>,
    // Held for look-ups, never while a file is read or written. Locked before a draft.
    pub(crate) catalog: Mutex<Catalog>,
    /// Held by the one collection of garbage that is under way.
    pub(crate) collecting: Mutex<()>,
    /// Locked for as long as the store is open.
    _lock: Option<File>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without a footer it is read record by record.
        if let Err(error) = self.writer.seal_open() {
            tracing::warn!(%error, "the last pack was not sealed");
        }
    }
}

/// What there is.
#[derive(Default)]
pub(crate) struct Catalog {
    pub(crate) instances: BTreeMap<Name, Arc<Instance>>,
    /// Those that were removed, and may still be read: until a collection begins and nobody does.
    pub(crate) leaving: Vec<Arc<Instance>>,
    /// Instances whose files are damaged: nobody knows what they need.
    pub(crate) damaged: Vec<Name>,
    pub(crate) drafts: BTreeMap<Name, DraftPlace>,
}

/// A draft that there is.
pub(crate) struct DraftPlace {
    /// Its place in the order of drafts.
    number: u64,
    /// None until it is used for the first time since the start.
    draft: Option<Draft>,
}

impl Catalog {
    /// The instances, and those that were removed and may still be read.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values().chain(&self.leaving)
    }
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Distinct blocks and leaves.
    pub blocks: u64,
    /// Files of them.
    pub packs: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Instances.
    pub instances: u64,
    /// Drafts.
    pub drafts: u64,
}

impl Store {
    /// Opens the store in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open; [`Error::Io`].
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let lock = lock(directory)?;
        Self::open_in(Arc::new(Directory::new(directory.to_owned())), None, Some(lock))
    }

    /// Opens the store that keeps what is finished in an object store, and the rest in a directory.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has the directory open, or another directory the object store; [`Error::Away`],
    /// [`Error::Io`].
    pub fn open_remote(directory: &Path, remote: Arc<dyn Remote>) -> Result<Self, Error> {
        let lock = lock(directory)?;
        Self::open_in(Arc::new(Directory::new(directory.to_owned())), Some(remote), Some(lock))
    }

    /// Opens the store in any storage, as that of tests which loses power.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_storage(storage: Arc<dyn Storage>, remote: Option<Arc<dyn Remote>>) -> Result<Self, Error> {
        Self::open_in(storage, remote, None)
    }

    fn open_in(storage: Arc<dyn Storage>, remote: Option<Arc<dyn Remote>>, lock: Option<File>) -> Result<Self, Error> {
        let tier = remote.map(|remote| Tier::open(remote, &*storage)).transpose()?;
        if let Some(tier) = &tier {
            tier.fetch_instances(&*storage)?;
        }
        let (mut index, mut catalog, mut packs) = (Index::default(), Catalog::default(), Vec::new());
        for file in storage.list().map_err(Error::io("listing the store"))? {
            if let Some(number) = pack::number_of(&file) {
                packs.push(number);
            } else if let Some(name) = Name::of_file(&file, instance::KIND) {
                match Instance::read(&*storage, name.clone()) {
                    Ok(instance) => drop(catalog.instances.insert(name, Arc::new(instance))),
                    Err(Error::Damaged { what }) => {
                        tracing::error!(what, "an instance is damaged: it cannot be used, and no garbage is collected");
                        catalog.damaged.push(name);
                    }
                    Err(error) => return Err(error),
                }
            } else if let Some(name) = Name::of_file(&file, draft_log::KIND) {
                match draft_log::begun(&*storage, &name)? {
                    Some(begun) => {
                        drop(catalog.drafts.insert(name, DraftPlace { number: begun.number, draft: None }));
                    }
                    None => {
                        tracing::warn!(draft = %name, "a draft is dropped: it never began, or is damaged");
                        storage.remove(&file).map_err(Error::io(format!("removing {file}")))?;
                    }
                }
            } else if file.starts_with("writing.") || file.starts_with("beginning.") {
                storage.remove(&file).map_err(Error::io(format!("removing {file}")))?;
            }
        }
        // A crash came between a commit and the removal of its log.
        for name in catalog.instances.keys() {
            if catalog.drafts.remove(name).is_some() {
                let file = name.file(draft_log::KIND);
                storage.remove(&file).map_err(Error::io(format!("removing {file}")))?;
            }
        }
        let uploaded = tier.as_ref().map(Tier::packs).unwrap_or_default();
        packs.extend(uploaded.iter().filter(|number| !packs.contains(number)).copied().collect::<Vec<_>>());
        packs.sort_unstable();
        for number in &packs {
            match tier.as_ref().filter(|tier| tier.has(*number)) {
                None => open_pack(&*storage, *number, &mut index)?,
                Some(tier) => {
                    let entries = tier.entries(&*storage, *number)?;
                    if let Some(file) = tier.file(*number) {
                        index.add_pack(*number, file, &entries);
                    }
                    // A crash came between its upload and its removal.
                    let _ = storage.remove(&pack::file_name(*number));
                }
            }
        }
        // A process that was killed may have left a footer and names that are not durable, and from now on others rely on them. Packs
        // before the last one were flushed before the next one began.
        if let Some(last) = packs.last().and_then(|last| index.packs.get(last)) {
            last.file.sync().map_err(Error::io("flushing the last pack"))?;
        }
        storage.sync_directory().map_err(Error::io("flushing the directory of the store"))?;
        let next = packs.last().map_or(0, |last| last + 1);
        let writer = Writer::new(storage.clone(), next);
        let inner = Inner {
            storage,
            writer,
            tier,
            index: RwLock::new(index),
            changing: Mutex::new(()),
            catalog: Mutex::new(catalog),
            collecting: Mutex::new(()),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the store holds.
    pub fn figures(&self) -> Figures {
        let (blocks, packs, bytes) = {
            let index = self.inner.index.read();
            let bytes = index.packs.values().map(|pack| pack.bytes).sum();
            (index.places.len() as u64, index.packs.len() as u64, bytes)
        };
        let catalog = self.inner.catalog.lock();
        let (instances, drafts) = (catalog.instances.len() as u64, catalog.drafts.len() as u64);
        Figures { blocks, packs, bytes, instances, drafts }
    }

    /// The instances of a replication, the oldest first.
    pub fn instances(&self, replication: &str) -> Vec<Arc<Instance>> {
        let catalog = self.inner.catalog.lock();
        let of_it = catalog.instances.values().filter(|instance| instance.name.replication() == replication);
        let mut instances: Vec<_> = of_it.cloned().collect();
        instances.sort_by_key(|instance| instance.state.sequence);
        instances
    }

    /// The replications that have instances or drafts.
    pub fn replications(&self) -> Vec<String> {
        let catalog = self.inner.catalog.lock();
        let names = catalog.instances.keys().chain(catalog.drafts.keys());
        let mut replications: Vec<String> = names.map(|name| name.replication().to_owned()).collect();
        replications.sort_unstable();
        replications.dedup();
        replications
    }

    /// An instance.
    pub fn instance(&self, name: &Name) -> Option<Arc<Instance>> {
        self.inner.catalog.lock().instances.get(name).cloned()
    }

    /// The hashes of so many leaves of a disk, fewer at its end.
    ///
    /// # Errors
    /// [`Error::NoInstance`], [`Error::NoDisk`].
    pub fn leaf_hashes(&self, name: &Name, disk: u32, first: u32, count: u32) -> Result<Vec<Hash>, Error> {
        let instance = self.instance(name).ok_or_else(|| Error::NoInstance(name.clone()))?;
        let leaves = &instance.disk(disk)?.leaves;
        Ok(leaves.iter().skip(first as usize).take(count as usize).copied().collect())
    }

    /// A leaf of a disk, encoded.
    ///
    /// # Errors
    /// [`Error::NoInstance`], [`Error::NoDisk`], [`Error::Invalid`] behind the disk's end, and what reading meets.
    pub fn leaf(&self, name: &Name, disk: u32, number: u32) -> Result<Bytes, Error> {
        let instance = self.instance(name).ok_or_else(|| Error::NoInstance(name.clone()))?;
        let map = instance.disk(disk)?;
        let hash = map.leaves.get(number as usize);
        let hash = hash.ok_or_else(|| Error::Invalid(format!("disk {disk} has no leaf {number}")))?;
        let count = leaf_blocks(blocks_of(&map.size), number);
        // Leaves of zeroes are not stored.
        if *hash == draft::zero_leaf(count) {
            return Ok(encode_leaf(&vec![None; count as usize]).into());
        }
        self.read(hash)
    }

    /// Begins a draft, as an instance of the same replication or as zeroes. One of that name that is there begins anew.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is an instance of that name, [`Error::NoInstance`] for the base, [`Error::Invalid`] for disks that
    /// are none, [`Error::Damaged`] when the base is known to be: begun as zeroes, with everything brought again, the new one is not.
    pub fn begin(&self, name: &Name, base: Option<&Name>, disks: &[DiskSize]) -> Result<Draft, Error> {
        check_disks(disks)?;
        let _changing = self.inner.changing.lock();
        let (base, number) = {
            let catalog = self.inner.catalog.lock();
            if catalog.instances.contains_key(name) {
                return Err(Error::Exists(name.clone()));
            }
            let find =
                |base: &Name| catalog.instances.get(base).cloned().ok_or_else(|| Error::NoInstance(base.clone()));
            let last = catalog.drafts.values().map(|place| place.number).max();
            (base.map(find).transpose()?, last.map_or(0, |last| last + 1))
        };
        if let Some(base) = &base {
            self.check_whole(base)?;
        }
        self.settle(name)?;
        let draft = Draft::begin(self, name, base.as_deref(), disks, number)?;
        let place = DraftPlace { number, draft: Some(draft.clone()) };
        let before = self.inner.catalog.lock().drafts.insert(name.clone(), place);
        if let Some(before) = before.and_then(|before| before.draft) {
            before.end();
        }
        Ok(draft)
    }

    /// Whether anything that was found damaged belongs to an instance.
    fn check_whole(&self, instance: &Instance) -> Result<(), Error> {
        let damaged = self.inner.index.read().damaged.clone();
        if damaged.is_empty() {
            return Ok(());
        }
        let hurt = || Error::Damaged { what: format!("instance {}", instance.name) };
        for disk in &instance.disks {
            let blocks = blocks_of(&disk.size);
            for (number, leaf) in (0..).zip(&disk.leaves) {
                let is_hurt = damaged.contains(leaf)
                    || self.read_leaf(leaf, blocks, number)?.iter().flatten().any(|hash| damaged.contains(hash));
                if is_hurt {
                    return Err(hurt());
                }
            }
        }
        Ok(())
    }

    /// A draft that was begun, also before a restart. One whose log is damaged is dropped: its source begins anew.
    ///
    /// # Errors
    /// What reading its log meets; [`Error::Full`] when there is no room for the leaves that it has.
    pub fn draft(&self, name: &Name) -> Result<Option<Draft>, Error> {
        let known = || self.inner.catalog.lock().drafts.get(name).map(|place| place.draft.clone());
        match known() {
            None => return Ok(None),
            Some(Some(draft)) => return Ok(Some(draft)),
            Some(None) => {}
        }
        // One opens it: an open log has one end.
        let _changing = self.inner.changing.lock();
        match known() {
            None => return Ok(None),
            Some(Some(draft)) => return Ok(Some(draft)),
            Some(None) => {}
        }
        match Draft::open(self, name) {
            Ok(opened) => {
                if let Some(place) = self.inner.catalog.lock().drafts.get_mut(name) {
                    place.draft = Some(opened.clone());
                }
                Ok(Some(opened))
            }
            Err(Error::Damaged { what }) => {
                tracing::warn!(what, draft = %name, "a draft is dropped: it is damaged");
                self.inner.writer.remove(&name.file(draft_log::KIND))?;
                self.inner.catalog.lock().drafts.remove(name);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The drafts of a replication, the oldest first.
    pub fn drafts(&self, replication: &str) -> Vec<Name> {
        let catalog = self.inner.catalog.lock();
        let of_it = catalog.drafts.iter().filter(|(name, _)| name.replication() == replication);
        let mut drafts: Vec<_> = of_it.map(|(name, place)| (place.number, name.clone())).collect();
        drafts.sort_unstable();
        drafts.into_iter().map(|(_, name)| name).collect()
    }

    /// Abandons the drafts that were neither begun nor flushed for so long: their sources do not come back. Answers which.
    ///
    /// # Errors
    /// As of [`Store::draft`] and [`Draft::abandon`]; some may be gone then.
    pub fn drop_old_drafts(&self, age: Duration) -> Result<Vec<Name>, Error> {
        let names: Vec<Name> = self.inner.catalog.lock().drafts.keys().cloned().collect();
        let mut dropped = Vec::new();
        for name in names {
            let Some(draft) = self.draft(&name)?.filter(|draft| draft.unused() >= age) else { continue };
            match draft.abandon() {
                Ok(()) => dropped.push(name),
                // Somebody was faster.
                Err(Error::NoDraft(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }

    /// Removes an instance. Its blocks go with the next collection of garbage; who reads it reads on.
    ///
    /// # Errors
    /// [`Error::NoInstance`], [`Error::Io`].
    pub fn remove(&self, name: &Name) -> Result<(), Error> {
        self.inner.writer.check()?;
        let _changing = self.inner.changing.lock();
        self.instance(name).ok_or_else(|| Error::NoInstance(name.clone()))?;
        if let Some(tier) = &self.inner.tier {
            tier.remove_instance(name)?;
        }
        self.inner.writer.remove(&name.file(instance::KIND))?;
        let mut catalog = self.inner.catalog.lock();
        let removed = catalog.instances.remove(name);
        catalog.leaving.extend(removed);
        Ok(())
    }

    /// Pins an instance, so that retention leaves it alone, or lets it go.
    ///
    /// # Errors
    /// [`Error::NoInstance`], [`Error::Io`].
    pub fn pin(&self, name: &Name, is_pinned: bool) -> Result<(), Error> {
        self.inner.writer.check()?;
        let _changing = self.inner.changing.lock();
        let found = self.instance(name).ok_or_else(|| Error::NoInstance(name.clone()))?;
        let mut changed = Instance::clone(&found);
        changed.state.is_pinned = is_pinned;
        self.write_instance(&changed)?;
        let mut catalog = self.inner.catalog.lock();
        // Whoever reads the instance holds the one from before.
        let before = catalog.instances.insert(name.clone(), Arc::new(changed));
        catalog.leaving.extend(before);
        Ok(())
    }

    /// Removes the instances of a replication that its rules do not keep. Answers which.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn apply_retention(&self, replication: &str, rules: &[Rule]) -> Result<Vec<Name>, Error> {
        let instances = self.instances(replication);
        let removed = expired(&instances, rules);
        removed.iter().try_for_each(|name| self.remove(name))?;
        Ok(removed)
    }

    /// Writes the file of an instance, here and in the object store, which comes first: it counts.
    pub(crate) fn write_instance(&self, instance: &Instance) -> Result<(), Error> {
        if let Some(tier) = &self.inner.tier {
            tier.put_instance(&instance.name, instance.encode()?.into())?;
        }
        instance.write(&self.inner.writer)
    }

    /// As above, of an instance that there was not before: when this fails, it must not come back from the object store.
    pub(crate) fn write_new_instance(&self, instance: &Instance) -> Result<(), Error> {
        let written = self.write_instance(instance);
        if let Some(tier) = &self.inner.tier {
            tier.doubt(&instance.name, written.is_err());
        }
        written
    }

    /// Makes sure that the object store has no instance of a commit that failed.
    pub(crate) fn settle(&self, name: &Name) -> Result<(), Error> {
        self.inner.tier.as_ref().map_or(Ok(()), |tier| tier.settle(name))
    }

    /// Brings all that was stored so far to the object store, when there is one.
    pub(crate) fn upload(&self) -> Result<(), Error> {
        let Some(tier) = &self.inner.tier else { return Ok(()) };
        let next = self.inner.writer.seal_open()?;
        let mut packs: Vec<u32> = self.inner.index.read().packs.keys().copied().collect();
        packs.retain(|number| *number < next && !tier.has(*number));
        packs.sort_unstable();
        tier.upload(&*self.inner.storage, &packs, |number, file| {
            if let Some(pack) = self.inner.index.write().packs.get_mut(&number) {
                pack.file = file;
            }
        })
    }

    /// The plain bytes of something by its hash.
    pub(crate) fn read(&self, hash: &Hash) -> Result<Bytes, Error> {
        let missing =
            || Error::Damaged { what: format!("the content of hash {}, which is gone,", crate::format::hex(hash)) };
        // It may be moved between the look-up and the reading, but not for ever.
        let mut last = None;
        loop {
            let (place, file) = self.inner.index.read().find(hash).ok_or_else(missing)?;
            match place.read(&*file, hash) {
                Ok(bytes) => return Ok(bytes),
                Err(_) if last != Some(place) => last = Some(place),
                Err(Damaged::Unreadable(source)) => {
                    let what = format!("reading {}", self.inner.storage.shown(&pack::file_name(place.pack)));
                    return Err(Error::Io { what, source });
                }
                Err(Damaged::Record | Damaged::Content) => {
                    self.inner.index.write().damaged.insert(*hash);
                    let name = self.inner.storage.shown(&pack::file_name(place.pack));
                    let (offset, hash) = (place.offset, crate::format::hex(hash));
                    return Err(Error::Damaged { what: format!("the content of hash {hash} at {offset} of {name}") });
                }
            }
        }
    }

    /// The entries of leaf `number` of a disk of `blocks`.
    pub(crate) fn read_leaf(&self, hash: &Hash, blocks: u32, number: u32) -> Result<Vec<Option<Hash>>, Error> {
        let count = leaf_blocks(blocks, number);
        if *hash == draft::zero_leaf(count) {
            return Ok(vec![None; count as usize]);
        }
        let entries = decode_leaf(&self.read(hash)?).filter(|entries| entries.len() == count as usize);
        entries.ok_or_else(|| Error::Damaged { what: format!("leaf {}", crate::format::hex(hash)) })
    }
}

/// Makes the directory, and takes it for this process.
fn lock(directory: &Path) -> Result<File, Error> {
    let shown = directory.display();
    std::fs::create_dir_all(directory).map_err(Error::io(format!("making {shown}")))?;
    let lock = directory.join("lock");
    let lock = File::create(&lock).map_err(Error::io(format!("making {}", lock.display())))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Locked)?;
    Ok(lock)
}

fn check_disks(disks: &[DiskSize]) -> Result<(), Error> {
    if !(1..=DISKS_MAX).contains(&disks.len()) {
        return Err(Error::Invalid(format!("an instance has 1 to {DISKS_MAX} disks, not {}", disks.len())));
    }
    if !disks.is_sorted_by(|a, b| a.key < b.key) {
        return Err(Error::Invalid("disks come in the order of their keys, each once".to_owned()));
    }
    match disks.iter().find(|disk| disk.bytes > DISK_BYTES_MAX || !disk.bytes.is_multiple_of(512)) {
        Some(disk) => {
            Err(Error::Invalid(format!("disk {} has {} bytes: a multiple of 512 up to 64 TiB", disk.key, disk.bytes)))
        }
        None => Ok(()),
    }
}

/// Reads what a pack has; one that was being written is cut at its last whole record, and sealed.
fn open_pack(storage: &dyn Storage, number: u32, index: &mut Index) -> Result<(), Error> {
    let file = pack::open(storage, number)?;
    let what = || format!("reading {}", storage.shown(&pack::file_name(number)));
    if let Some(entries) = pack::read_footer(&*file, number).map_err(Error::io(what()))? {
        index.add_pack(number, file, &entries);
        return Ok(());
    }
    let (entries, end) = pack::read_records(&*file, number).map_err(Error::io(what()))?;
    if entries.is_empty() {
        drop(file);
        storage.remove(&pack::file_name(number)).map_err(Error::io(what()))?;
        return Ok(());
    }
    file.truncate(end).map_err(Error::io(what()))?;
    match file.write_at(end, &pack::footer(&entries, end)) {
        Ok(()) => {}
        // It is read in the same way the next time.
        Err(error) => tracing::warn!(%error, pack = number, "a pack has no footer"),
    }
    file.sync().map_err(Error::io(what()))?;
    index.add_pack(number, file, &entries);
    Ok(())
}

/// The number of blocks of a disk.
pub(crate) fn blocks_of(disk: &DiskSize) -> u32 {
    block_count(disk.bytes)
}

/// The length of a block of a disk: that of the last one ends with the disk.
pub(crate) fn block_bytes(disk: &DiskSize, number: u32) -> u32 {
    let left = disk.bytes.saturating_sub(u64::from(number) * BLOCK_BYTES as u64);
    // At most BLOCK_BYTES.
    left.min(BLOCK_BYTES as u64) as u32
}
