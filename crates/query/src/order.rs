//! Rows in the order of their values: a sorted index.
//!
//! A list of blocks, each a sorted run of rows. Looking up halves the blocks and then one block; inserting moves at most
//! a block's worth of numbers; the row at a place is found by adding up block lengths. What "less" means is the caller's:
//! the index holds rows only.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use crate::bits::Bits;
use crate::policy::size;

/// A block is split when it has this many rows.
const BLOCK_ROWS_MAX: usize = size(1024, 6);

/// Rows of a block that is made by building, so that there is room for some more.
const BLOCK_ROWS: usize = size(896, 4);

/// Match counts per block are remembered for this many filters.
const COUNTED_MAX: usize = size(8, 3);

/// Beyond this many changed rows counting anew is quicker than looking each of them up.
const CHANGED_MAX: usize = size(1000, 12);

/// Rows in order.
#[derive(Debug, Default)]
pub(crate) struct Order {
    blocks: Vec<Block>,
    len: usize,
    stamp: u64,
    /// Held for as long as it takes to clone or replace an `Arc`: readers only share what they counted.
    counted: Mutex<Vec<Arc<Counted>>>,
}

#[derive(Debug)]
struct Block {
    /// Another number after each change, and for each block.
    stamp: u64,
    rows: Vec<u32>,
}

/// A place between rows: before the row at `at` of block `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) block: usize,
    pub(crate) at: usize,
}

/// How many rows of each block are in a set.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Which filter the set came from.
    key: u64,
    set: Bits,
    /// Per block: its stamp when it was counted, the count.
    blocks: Vec<(u64, u32)>,
}

impl Order {
    /// Takes the rows in their order.
    pub(crate) fn build(rows: &[u32]) -> Self {
        let blocks = (1..)
            .zip(rows.chunks(BLOCK_ROWS))
            .map(|(stamp, rows)| Block { stamp, rows: rows.to_vec() })
            .collect::<Vec<_>>();
        Self { len: rows.len(), stamp: blocks.len() as u64, blocks, counted: Mutex::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The place before the first row for which `is_less` does not hold; it holds for a beginning of the order.
    pub(crate) fn place(&self, is_less: impl Fn(u32) -> bool) -> Place {
        // No block is empty, so the last block that begins with a lesser row holds the place, or the next one's start.
        let after = self.blocks.partition_point(|b| is_less(b.rows[0]));
        let Some(block) = after.checked_sub(1) else { return Place { block: 0, at: 0 } };
        Place { block, at: self.blocks[block].rows.partition_point(|&row| is_less(row)) }
    }

    /// How many rows are before the place.
    pub(crate) fn rank(&self, place: Place) -> usize {
        self.blocks[..place.block.min(self.blocks.len())].iter().map(|b| b.rows.len()).sum::<usize>() + place.at
    }

    /// The place before the row of that rank.
    pub(crate) fn select(&self, rank: usize) -> Place {
        let mut left = rank;
        for (block, rows) in self.blocks.iter().enumerate() {
            if left < rows.rows.len() {
                return Place { block, at: left };
            }
            left -= rows.rows.len();
        }
        self.end()
    }

    pub(crate) fn end(&self) -> Place {
        Place { block: self.blocks.len(), at: 0 }
    }

    /// The rows from one place up to another.
    pub(crate) fn rows(&self, from: Place, to: Place) -> impl Iterator<Item = u32> + '_ {
        self.slices(from, to).flatten().copied()
    }

    /// The same, in pieces.
    pub(crate) fn slices(&self, from: Place, to: Place) -> impl Iterator<Item = &[u32]> {
        let last = (to.block + 1).min(self.blocks.len());
        let blocks = self.blocks.get(from.block..last).unwrap_or_default();
        (from.block..).zip(blocks).map(move |(block, rows)| {
            let start = if block == from.block { from.at.min(rows.rows.len()) } else { 0 };
            let end = if block == to.block { to.at } else { rows.rows.len() };
            rows.rows.get(start..end).unwrap_or_default()
        })
    }

    /// The rows before a place in pieces, the nearest piece first; each piece is in the order of the index.
    pub(crate) fn slices_back(&self, to: Place) -> impl Iterator<Item = &[u32]> {
        let blocks = self.blocks.iter().take(to.block.saturating_add(1)).enumerate().rev();
        blocks.map(move |(block, rows)| {
            let end = if block == to.block { to.at.min(rows.rows.len()) } else { rows.rows.len() };
            &rows.rows[..end]
        })
    }

    /// The rows before a place, the nearest first.
    pub(crate) fn rows_back(&self, to: Place) -> impl Iterator<Item = u32> + '_ {
        self.slices_back(to).flat_map(|slice| slice.iter().rev().copied())
    }

    /// The row just behind the place.
    pub(crate) fn at(&self, place: Place) -> Option<u32> {
        let block = self.blocks.get(place.block)?;
        block.rows.get(place.at).or_else(|| self.blocks.get(place.block + 1)?.rows.first()).copied()
    }

    /// Adds a row; `compare` says how a row in the index compares with it, never `Equal`.
    pub(crate) fn insert(&mut self, row: u32, compare: impl Fn(u32) -> Ordering) {
        let place = self.place(|other| compare(other).is_lt());
        self.len += 1;
        self.stamp += 1;
        if self.blocks.is_empty() {
            self.blocks.push(Block { stamp: self.stamp, rows: vec![row] });
            return;
        }
        let block = &mut self.blocks[place.block];
        if block.rows.len() == block.rows.capacity() {
            let room = (BLOCK_ROWS_MAX - block.rows.len()).min(block.rows.len().max(4));
            block.rows.reserve_exact(room);
        }
        block.rows.insert(place.at, row);
        block.stamp = self.stamp;
        if block.rows.len() >= BLOCK_ROWS_MAX {
            self.stamp += 1;
            let rows = block.rows.split_off(BLOCK_ROWS_MAX / 2);
            self.blocks.insert(place.block + 1, Block { stamp: self.stamp, rows });
        }
    }

    /// Takes a row out; `compare` as in [`Order::insert`], `Equal` for the row itself.
    pub(crate) fn remove(&mut self, row: u32, compare: impl Fn(u32) -> Ordering) {
        let place = self.place(|other| compare(other).is_lt());
        // The place may be the end of the block before.
        let place = match self.blocks.get(place.block) {
            Some(block) if place.at == block.rows.len() => Place { block: place.block + 1, at: 0 },
            _ => place,
        };
        let Some(block) = self.blocks.get_mut(place.block) else { return };
        debug_assert_eq!(block.rows.get(place.at), Some(&row), "an index out of step with its column");
        if block.rows.get(place.at) != Some(&row) {
            return;
        }
        self.len -= 1;
        self.stamp += 1;
        block.rows.remove(place.at);
        block.stamp = self.stamp;
        if block.rows.is_empty() {
            self.blocks.remove(place.block);
        }
    }

    /// How many rows of each block are in `set`. Remembered under `key`, and brought up to date by what changed since in
    /// the set and in the blocks, so that turning pages does not count everything for each.
    ///
    /// `place_of` gives the place of a row of the index, `None` for a row that is not in it.
    pub(crate) fn count(&self, key: u64, set: &Bits, place_of: impl Fn(u32) -> Option<Place>) -> Arc<Counted> {
        let known = self.counted.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|c| c.key == key).cloned();
        let fresh = match &known {
            Some(known) => match self.recount(known, set, place_of) {
                Some(changed) => Arc::new(changed),
                None => return Arc::clone(known),
            },
            None => Arc::new(Counted {
                key,
                set: set.clone(),
                blocks: self.blocks.iter().map(|b| (b.stamp, b.matches(set))).collect(),
            }),
        };
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|c| c.key != key);
        counted.insert(0, Arc::clone(&fresh));
        counted.truncate(COUNTED_MAX);
        fresh
    }

    /// `None` when nothing changed.
    fn recount(&self, known: &Counted, set: &Bits, place_of: impl Fn(u32) -> Option<Place>) -> Option<Counted> {
        let (old, new) = (known.set.words(), set.words());
        let word = |words: &[u64], i: usize| words.get(i).copied().unwrap_or(0);
        let changed: Vec<(usize, u64)> = (0..old.len().max(new.len()))
            .map(|i| (i, word(old, i) ^ word(new, i)))
            .filter(|(_, diff)| *diff != 0)
            .collect();
        let same_blocks = self.blocks.len() == known.blocks.len()
            && self.blocks.iter().zip(&known.blocks).all(|(b, k)| b.stamp == k.0);
        if changed.is_empty() && same_blocks {
            return None;
        }
        let rows: u32 = changed.iter().map(|(_, diff)| diff.count_ones()).sum();
        if rows as usize > CHANGED_MAX {
            let blocks = self.blocks.iter().map(|b| (b.stamp, b.matches(set))).collect();
            return Some(Counted { key: known.key, set: set.clone(), blocks });
        }
        // A block that changed is counted; one that did not has its old count, and is then corrected row by row.
        let old_counts: rustc_hash::FxHashMap<u64, u32> = known.blocks.iter().copied().collect();
        let mut fresh = vec![false; self.blocks.len()];
        let mut blocks: Vec<(u64, u32)> = Vec::with_capacity(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            let same_place = known.blocks.get(i).filter(|k| k.0 == block.stamp).map(|k| k.1);
            let count = same_place.or_else(|| old_counts.get(&block.stamp).copied()).unwrap_or_else(|| {
                fresh[i] = true;
                block.matches(set)
            });
            blocks.push((block.stamp, count));
        }
        for (i, diff) in changed {
            for row in (crate::bits::BitsOf { word: diff, base: i as u32 * 64 }) {
                if let Some(place) = place_of(row)
                    && let Some(at) = self.block_of(place)
                    && !fresh[at]
                {
                    let count = &mut blocks[at].1;
                    *count = if set.contains(row) { *count + 1 } else { count.saturating_sub(1) };
                }
            }
        }
        Some(Counted { key: known.key, set: set.clone(), blocks })
    }

    fn block_of(&self, place: Place) -> Option<usize> {
        let block = self.blocks.get(place.block)?;
        Some(if place.at == block.rows.len() { place.block + 1 } else { place.block })
            .filter(|&b| b < self.blocks.len())
    }

    /// How many rows of the index are in the counted set.
    pub(crate) fn matches(&self, counted: &Counted) -> usize {
        counted.blocks.iter().map(|b| b.1 as usize).sum()
    }

    /// How many rows before the place are in the counted set.
    pub(crate) fn matches_before(&self, counted: &Counted, place: Place) -> usize {
        let whole: usize = counted.blocks.iter().take(place.block).map(|b| b.1 as usize).sum();
        let rows = self.blocks.get(place.block).map_or(&[][..], |b| &b.rows[..place.at.min(b.rows.len())]);
        whole + rows.iter().filter(|&&row| counted.set.contains(row)).count()
    }

    /// The place before the row that has `matches` rows of the counted set before it, and is of the set itself.
    pub(crate) fn select_match(&self, counted: &Counted, matches: usize) -> Place {
        let mut left = matches;
        for (block, (rows, count)) in self.blocks.iter().zip(&counted.blocks).enumerate() {
            if left < count.1 as usize {
                for (at, &row) in rows.rows.iter().enumerate() {
                    if counted.set.contains(row) {
                        if left == 0 {
                            return Place { block, at };
                        }
                        left -= 1;
                    }
                }
            }
            left = left.saturating_sub(count.1 as usize);
        }
        self.end()
    }

    pub(crate) fn bytes(&self) -> usize {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered: usize = counted.iter().map(|c| c.set.bytes() + c.blocks.len() * 16).sum();
        self.blocks.iter().map(|b| b.rows.capacity() * 4 + size_of::<Block>() + 16).sum::<usize>() + remembered
    }
}

impl Block {
    fn matches(&self, set: &Bits) -> u32 {
        self.rows.iter().filter(|&&row| set.contains(row)).count() as u32
    }
}
