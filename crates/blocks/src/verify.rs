//! Reading everything again, and saying what is not what it was.

use std::sync::Arc;

use crate::format::{LEAF_BLOCKS, hex};
use crate::index::Hashes;
use crate::instance::Instance;
use crate::pack::{self, Damaged, Place};
use crate::store::{Store, blocks_of};
use crate::{Error, Hash, Name};

/// Blocks of instances that a damage is told to concern.
const CONCERNS_MAX: usize = 100;

/// Something that is damaged, or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What, by its hash.
    pub hash: Hash,
    /// Which file and where in it; none when it is missing.
    pub file: Option<(String, u64)>,
    /// What needs it: an instance, a disk's key, a block's number. At most a hundred; empty when nothing does.
    pub concerns: Vec<(Name, u32, u32)>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            Some((file, offset)) => write!(f, "{} at {offset} of {file} is damaged", hex(&self.hash))?,
            None => write!(f, "{} is missing", hex(&self.hash))?,
        }
        match self.concerns.first() {
            None => f.write_str("; no instance needs it"),
            Some((name, disk, block)) => {
                write!(f, "; block {block} of disk {disk} of instance {name}")?;
                match self.concerns.len() - 1 {
                    0 => Ok(()),
                    others => write!(f, " and {others} other places need it"),
                }
            }
        }
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks and leaves that were read.
    pub records: u64,
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// Instances whose maps were walked.
    pub instances: u64,
    /// What is wrong.
    pub damages: Vec<Damage>,
    /// Instances whose own files are damaged.
    pub damaged_instances: Vec<Name>,
}

impl Store {
    /// Reads all packs and the maps of all instances. `progress` is told the bytes read, and those that there are.
    ///
    /// What is found damaged counts as missing from then on, so that a source brings it again.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read at all.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified, Error> {
        let mut verified = Verified::default();
        let mut places: Vec<(Hash, Place)> =
            self.inner.index.read().places.iter().map(|(hash, place)| (*hash, *place)).collect();
        places.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
        let total = places.iter().map(|(_, place)| place.record_bytes()).sum();
        let mut bad = Hashes::default();
        for (hash, place) in places {
            verified.records += 1;
            verified.bytes += place.record_bytes();
            if let Some(damage) = self.check(&hash, place)? {
                bad.insert(hash);
                verified.damages.push(damage);
            }
            progress(verified.bytes, total);
        }
        self.inner.index.write().damaged.extend(bad.iter().copied());
        let instances: Vec<Arc<Instance>> = {
            let catalog = self.inner.catalog.lock();
            verified.damaged_instances = catalog.damaged.clone();
            catalog.instances.values().cloned().collect()
        };
        for instance in instances {
            verified.instances += 1;
            self.walk(&instance, &bad, &mut verified.damages);
        }
        Ok(verified)
    }

    fn check(&self, hash: &Hash, place: Place) -> Result<Option<Damage>, Error> {
        // It may have been moved, or collected, since.
        let found = self.inner.index.read().find(hash);
        let Some((now, file)) = found else { return Ok(None) };
        let name = self.inner.storage.shown(&pack::file_name(now.pack));
        match now.read(&*file, hash) {
            Ok(_) => Ok(None),
            Err(_) if now != place => Ok(None),
            Err(Damaged::Unreadable(source)) => Err(Error::Io { what: format!("reading {name}"), source }),
            Err(Damaged::Record | Damaged::Content) => {
                let file = Some((name, u64::from(place.offset)));
                Ok(Some(Damage { hash: *hash, file, concerns: Vec::new() }))
            }
        }
    }

    /// Finds what an instance needs and is damaged or missing.
    fn walk(&self, instance: &Instance, bad: &Hashes, damages: &mut Vec<Damage>) {
        let mut concern = |hash: &Hash, disk: u32, block: u32| {
            let place = (instance.name.clone(), disk, block);
            match damages.iter_mut().find(|damage| damage.hash == *hash) {
                Some(damage) if damage.concerns.len() < CONCERNS_MAX => damage.concerns.push(place),
                Some(_) => {}
                None => damages.push(Damage { hash: *hash, file: None, concerns: vec![place] }),
            }
        };
        for disk in &instance.disks {
            let blocks = blocks_of(&disk.size);
            for (number, leaf) in (0..).zip(&disk.leaves) {
                let entries = match self.read_leaf(leaf, blocks, number) {
                    Ok(entries) => entries,
                    Err(_) => {
                        concern(leaf, disk.size.key, number * LEAF_BLOCKS);
                        continue;
                    }
                };
                let index = self.inner.index.read();
                for (at, hash) in (0..).zip(entries) {
                    if let Some(hash) = hash.filter(|hash| bad.contains(hash) || !index.places.contains_key(hash)) {
                        concern(&hash, disk.size.key, number * LEAF_BLOCKS + at);
                    }
                }
            }
        }
    }
}
