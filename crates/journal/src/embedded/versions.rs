//! Where each resource was last changed: what preconditions are checked against.

use std::hash::{BuildHasher, RandomState};

use lockstep_model::{Position, ResourceId};

/// A resource's id in 128 bits.
///
/// Two SipHashes of the type and id under random keys. Among n resources the chance that any two share a fingerprint is
/// n² / 2^129: for ten million, one in 10^24, and as the keys are drawn anew by every process and never leave it, nobody can
/// search for such a pair. So the table does without the ids, which would triple its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fingerprint([u64; 2]);

/// Makes fingerprints.
#[derive(Default)]
pub(crate) struct Fingerprinter {
    keys: [RandomState; 2],
}

impl Fingerprinter {
    pub(crate) fn of(&self, id: &ResourceId) -> Fingerprint {
        let text = (id.resource_type.as_str(), &*id.id);
        Fingerprint([self.keys[0].hash_one(text), self.keys[1].hash_one(text)])
    }
}

/// Shards grow one at a time, so growing never doubles the table's memory nor stops the writer for long.
const SHARDS: usize = 256;

/// Fewest slots of a shard.
const SLOTS_MIN: usize = 16;

/// The table: open addressing with linear probing, 24 bytes a slot, at most four fifths full, growing by a quarter: 30 to 38
/// bytes a resource.
pub(crate) struct Versions {
    shards: Vec<Shard>,
}

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    used: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    print: Fingerprint,
    /// Zero in an empty slot: no commit has that position.
    modified: u64,
}

const EMPTY: Slot = Slot { print: Fingerprint([0; 2]), modified: 0 };

impl Versions {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    /// The commit that last changed the resource; `None` when it does not exist.
    pub(crate) fn get(&self, print: Fingerprint) -> Option<Position> {
        let shard = &self.shards[shard_of(print)];
        if shard.slots.is_empty() {
            return None;
        }
        let slot = shard.slots[shard.find(print)];
        (slot.modified > 0).then_some(Position(slot.modified))
    }

    /// Sets or, with `None`, forgets where the resource was last changed; what it was before.
    pub(crate) fn set(&mut self, print: Fingerprint, modified: Option<Position>) -> Option<Position> {
        let shard = &mut self.shards[shard_of(print)];
        match modified {
            Some(position) => shard.insert(print, position.0),
            None => shard.remove(print),
        }
    }

    /// How many resources exist.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.used).sum()
    }
}

fn shard_of(print: Fingerprint) -> usize {
    (print.0[0] >> 56) as usize
}

impl Shard {
    /// The slot where a search begins. The fingerprint is random, so its high bits spread evenly over any number of slots.
    fn home(&self, print: Fingerprint) -> usize {
        ((u128::from(print.0[1]) * self.slots.len() as u128) >> 64) as usize
    }

    /// The slot that holds the fingerprint, or the empty one where it would go. There is always an empty one.
    fn find(&self, print: Fingerprint) -> usize {
        let mut at = self.home(print);
        loop {
            let slot = &self.slots[at];
            if slot.modified == 0 || slot.print == print {
                return at;
            }
            at = self.after(at);
        }
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    fn insert(&mut self, print: Fingerprint, modified: u64) -> Option<Position> {
        if (self.used + 1) * 5 > self.slots.len() * 4 {
            self.grow();
        }
        let at = self.find(print);
        let before = std::mem::replace(&mut self.slots[at], Slot { print, modified }).modified;
        self.used += usize::from(before == 0);
        (before > 0).then_some(Position(before))
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 5 / 4).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
        for slot in old.into_iter().filter(|slot| slot.modified > 0) {
            let at = self.find(slot.print);
            self.slots[at] = slot;
        }
    }

    fn remove(&mut self, print: Fingerprint) -> Option<Position> {
        if self.slots.is_empty() {
            return None;
        }
        let mut hole = self.find(print);
        let before = self.slots[hole].modified;
        if before == 0 {
            return None;
        }
        // Later slots of the same run move up, so that no search ends at the hole too early.
        let mut at = self.after(hole);
        while self.slots[at].modified > 0 {
            let home = self.home(self.slots[at].print);
            let length = self.slots.len();
            if (at + length - home) % length >= (at + length - hole) % length {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.slots[hole] = EMPTY;
        self.used -= 1;
        Some(Position(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn the_table_is_a_map(operations in prop::collection::vec((0u64..60, any::<bool>(), 1u64..9), 0..400)) {
            let (mut table, mut model) = (Versions::new(), HashMap::new());
            for (key, sets, position) in operations {
                // One shard, and homes close together, so that runs form, wrap around and are cut.
                let print = Fingerprint([0, u64::MAX - key % 7 * (1 << 60) - key]);
                let position = sets.then_some(Position(position));
                let before = match position {
                    Some(position) => model.insert(print.0, position),
                    None => model.remove(&print.0),
                };
                prop_assert_eq!(table.set(print, position), before);
                prop_assert_eq!(table.len(), model.len());
                for (print, position) in &model {
                    prop_assert_eq!(table.get(Fingerprint(*print)), Some(*position));
                }
            }
        }
    }

    #[test]
    fn a_resource_takes_at_most_forty_bytes() {
        let (mut table, prints) = (Versions::new(), Fingerprinter::default());
        for n in 0..200_000 {
            table.set(prints.of(&ResourceId::new("T", format!("r-{n}"))), Some(Position(n + 1)));
        }
        let slots: usize = table.shards.iter().map(|shard| shard.slots.capacity()).sum();
        assert!(slots * size_of::<Slot>() <= 200_000 * 40, "{slots} slots");
    }
}
