//! Where everything is, by its hash.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use lockstep_storage::StoredFile;

use crate::Hash;
use crate::pack::{Entries, Place};

/// A hash is as random as can be: eight of its bytes are the number that a table needs.
#[derive(Default)]
pub(crate) struct First(u64);

impl Hasher for First {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length that slices and arrays put in front.
    fn write_usize(&mut self, _: usize) {}
}

pub(crate) type HashTable<V> = HashMap<Hash, V, BuildHasherDefault<First>>;
pub(crate) type Hashes = HashSet<Hash, BuildHasherDefault<First>>;

/// A pack that is there.
#[derive(Clone)]
pub(crate) struct Pack {
    pub(crate) file: Arc<dyn StoredFile>,
    /// Of all its records.
    pub(crate) bytes: u64,
}

/// What is stored. Its owner locks it for a look-up, or to change it.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) places: HashTable<Place>,
    pub(crate) packs: HashMap<u32, Pack>,
    /// What was found damaged, and counts as missing.
    pub(crate) damaged: Hashes,
    /// While garbage is collected: what was asked for since it began, and so is none.
    pub(crate) wanted: Option<Hashes>,
}

impl Index {
    pub(crate) fn add_pack(&mut self, number: u32, file: Arc<dyn StoredFile>, entries: &Entries) {
        let bytes = entries.iter().map(|(_, place)| place.record_bytes()).sum();
        self.packs.insert(number, Pack { file, bytes });
        self.places.extend(entries.iter().copied());
    }

    /// Whether something is there and whole, as far as is known. If it is, it stays until a collection that begins later.
    pub(crate) fn want(&mut self, hash: &Hash) -> bool {
        let is_there = self.places.contains_key(hash) && !self.damaged.contains(hash);
        if is_there && let Some(wanted) = &mut self.wanted {
            wanted.insert(*hash);
        }
        is_there
    }

    /// Where something is, and the file.
    pub(crate) fn find(&self, hash: &Hash) -> Option<(Place, Arc<dyn StoredFile>)> {
        let place = self.places.get(hash)?;
        Some((*place, self.packs.get(&place.pack)?.file.clone()))
    }

    /// Something was stored.
    pub(crate) fn put(&mut self, hash: Hash, place: Place) {
        if let Some(pack) = self.packs.get_mut(&place.pack) {
            pack.bytes += place.record_bytes();
        }
        self.places.insert(hash, place);
        self.damaged.remove(&hash);
        if let Some(wanted) = &mut self.wanted {
            wanted.insert(hash);
        }
    }
}
