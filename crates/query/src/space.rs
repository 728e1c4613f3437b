//! Identities: which row number stands for which resource.
//!
//! A row number is given to a resource when it is created *or first referred to*, so a reference is a row number even
//! while its target does not exist. A row is free again when its resource is gone and nothing refers to it.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use lockstep_model::{Position, ResourceId, ResourceType};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::bits::Bits;
use crate::numbers::IntVec;
use crate::policy::size;

/// Bits of a span that hold the length; ids are at most [`lockstep_model::ID_BYTES_MAX`] bytes.
const LENGTH_BITS: u32 = 16;

/// So many bytes of ids that are gone are never worth packing.
const GARBAGE_BYTES: usize = size(4096, 16);

/// The rows of one resource type.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) name: ResourceType,
    texts: String,
    /// Per row where its id stands in `texts`: offset above, length in the lowest bits.
    spans: Vec<u64>,
    garbage: usize,
    rows: HashTable<u32>,
    free: Vec<u32>,
    /// Rows whose resource exists.
    pub(crate) live: Bits,
    pub(crate) live_count: usize,
    /// References to each row; shorter than the rows when the last ones have none.
    references: Vec<u32>,
    created: IntVec,
    modified: IntVec,
}

impl Space {
    fn new(name: ResourceType) -> Self {
        Self {
            name,
            texts: String::new(),
            spans: Vec::new(),
            garbage: 0,
            rows: HashTable::new(),
            free: Vec::new(),
            live: Bits::default(),
            live_count: 0,
            references: Vec::new(),
            created: IntVec::default(),
            modified: IntVec::default(),
        }
    }

    /// One more than the greatest row number in use.
    pub(crate) fn len(&self) -> u32 {
        self.spans.len() as u32
    }

    #[inline]
    pub(crate) fn id(&self, row: u32) -> &str {
        let span = self.spans[row as usize];
        let start = (span >> LENGTH_BITS) as usize;
        &self.texts[start..start + (span & ((1 << LENGTH_BITS) - 1)) as usize]
    }

    /// Reads a little of each id, so that all of them are on their way from memory at once.
    pub(crate) fn touch(&self, rows: &[u32]) -> u64 {
        let spans = rows.iter().map(|&row| self.spans[row as usize] >> LENGTH_BITS).fold(0, u64::wrapping_add);
        rows.iter()
            .fold(spans, |sum, &row| sum.wrapping_add(u64::from(self.id(row).as_bytes().first().copied().unwrap_or(0))))
    }

    /// The row that stands for the id, whether the resource exists or not.
    pub(crate) fn find(&self, id: &str) -> Option<u32> {
        self.rows.find(FxBuildHasher.hash_one(id), |&row| self.id(row) == id).copied()
    }

    /// The row of a resource that exists.
    pub(crate) fn find_live(&self, id: &str) -> Option<u32> {
        self.find(id).filter(|&row| self.live.contains(row))
    }

    /// The row that [`Space::find`] will probably find, without a look at its id.
    #[inline]
    pub(crate) fn guess(&self, hash: u64) -> Option<u32> {
        self.rows.find(hash, |_| true).copied()
    }

    /// Reads what finding a row reads at some depth: first what leads to its id, then the id.
    #[inline]
    pub(crate) fn peek(&self, row: u32, depth: u32) -> u64 {
        match depth {
            0 => self.spans[row as usize] ^ u64::from(self.references.get(row as usize).copied().unwrap_or(0)),
            _ => u64::from(self.id(row).as_bytes().first().copied().unwrap_or(0)),
        }
    }

    fn intern(&mut self, id: &str) -> u32 {
        let hash = FxBuildHasher.hash_one(id);
        if let Some(&row) = self.rows.find(hash, |&row| self.id(row) == id) {
            return row;
        }
        if self.garbage > GARBAGE_BYTES && self.garbage > self.texts.len() / 2 {
            self.pack_texts();
        }
        let span = (self.texts.len() as u64) << LENGTH_BITS | id.len() as u64;
        self.texts.push_str(id);
        let row = match self.free.pop() {
            Some(row) => {
                self.spans[row as usize] = span;
                row
            }
            None => {
                self.spans.push(span);
                self.spans.len() as u32 - 1
            }
        };
        if self.rows.len() == self.rows.capacity() {
            self.grow(row);
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.insert_unique(hash, row, |&row| FxBuildHasher.hash_one(self.id(row)));
        self.rows = rows;
        row
    }

    /// Makes room for as many rows again, in the order of the rows, as `Dictionary` does; all but `new` are in the table.
    fn grow(&mut self, new: u32) {
        let mut rows = HashTable::with_capacity(self.rows.len() * 2);
        // The span of a free row is empty, and no id is.
        for row in (0..self.len()).filter(|&row| row != new && self.spans[row as usize] != 0) {
            rows.insert_unique(FxBuildHasher.hash_one(self.id(row)), row, |&row| FxBuildHasher.hash_one(self.id(row)));
        }
        self.rows = rows;
    }

    fn pack_texts(&mut self) {
        let mut texts = String::with_capacity(self.texts.len() - self.garbage);
        for row in 0..self.spans.len() {
            let id = self.id(row as u32);
            let span = (texts.len() as u64) << LENGTH_BITS | id.len() as u64;
            texts.push_str(id);
            self.spans[row] = span;
        }
        self.texts = texts;
        self.garbage = 0;
    }

    /// Frees the row if nothing needs it.
    fn sweep(&mut self, row: u32) {
        if self.live.contains(row) || self.references.get(row as usize).is_some_and(|&n| n > 0) {
            return;
        }
        let id = self.id(row);
        let (hash, len) = (FxBuildHasher.hash_one(id), id.len());
        if let Ok(entry) = self.rows.find_entry(hash, |&r| r == row) {
            entry.remove();
        }
        self.garbage += len;
        self.spans[row as usize] = 0;
        self.free.push(row);
    }

    pub(crate) fn created(&self, row: u32) -> Position {
        Position(self.created.get(row) as u64)
    }

    pub(crate) fn modified(&self, row: u32) -> Position {
        Position(self.modified.get(row) as u64)
    }

    pub(crate) fn set_modified(&mut self, row: u32, at: Position) {
        self.modified.set(row, at.0 as i64);
    }

    /// Bytes of the ids, and of everything else.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let index = self.rows.allocation_size() + self.free.len() * 4 + self.references.len() * 4 + self.live.bytes();
        (self.texts.len() + self.spans.len() * 8, index + self.created.bytes() + self.modified.bytes())
    }
}

/// The rows of all types.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    spaces: Vec<Space>,
    by_type: FxHashMap<ResourceType, u32>,
}

/// A resource inside the view: the number of its type, and its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) space: u32,
    pub(crate) row: u32,
}

impl Spaces {
    pub(crate) fn get(&self, space: u32) -> &Space {
        &self.spaces[space as usize]
    }

    pub(crate) fn get_mut(&mut self, space: u32) -> &mut Space {
        &mut self.spaces[space as usize]
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Space)> {
        (0..).zip(&self.spaces)
    }

    pub(crate) fn find_type(&self, name: &str) -> Option<u32> {
        self.by_type.get(name).copied()
    }

    pub(crate) fn intern_type(&mut self, name: &ResourceType) -> u32 {
        if let Some(&space) = self.by_type.get(name) {
            return space;
        }
        let space = self.spaces.len() as u32;
        self.spaces.push(Space::new(name.clone()));
        self.by_type.insert(name.clone(), space);
        space
    }

    pub(crate) fn find(&self, id: &ResourceId) -> Option<Row> {
        let space = self.find_type(id.resource_type.as_str())?;
        Some(Row { space, row: self.get(space).find(&id.id)? })
    }

    pub(crate) fn find_live(&self, id: &ResourceId) -> Option<Row> {
        self.find(id).filter(|&row| self.is_live(row))
    }

    pub(crate) fn is_live(&self, at: Row) -> bool {
        self.get(at.space).live.contains(at.row)
    }

    pub(crate) fn id(&self, at: Row) -> ResourceId {
        let space = self.get(at.space);
        ResourceId { resource_type: space.name.clone(), id: space.id(at.row).into() }
    }

    /// Makes a resource exist; its row.
    pub(crate) fn create(&mut self, id: &ResourceId, created: Position, modified: Position) -> Row {
        let space = self.intern_type(&id.resource_type);
        let rows = &mut self.spaces[space as usize];
        let row = rows.intern(&id.id);
        rows.live_count += usize::from(rows.live.insert(row));
        rows.created.set(row, created.0 as i64);
        rows.modified.set(row, modified.0 as i64);
        Row { space, row }
    }

    /// Ends a resource whose properties are already unset.
    pub(crate) fn delete(&mut self, at: Row) {
        let rows = &mut self.spaces[at.space as usize];
        rows.live_count -= usize::from(rows.live.remove(at.row));
        rows.sweep(at.row);
    }

    /// The row that stands for the id, with one more reference to it.
    pub(crate) fn refer(&mut self, id: &ResourceId) -> Row {
        let space = self.intern_type(&id.resource_type);
        self.refer_in(space, id)
    }

    /// The same, when the number of the id's type is known.
    pub(crate) fn refer_in(&mut self, space: u32, id: &ResourceId) -> Row {
        let rows = &mut self.spaces[space as usize];
        let row = rows.intern(&id.id);
        if rows.references.len() <= row as usize {
            rows.references.resize(row as usize + 1, 0);
        }
        rows.references[row as usize] += 1;
        Row { space, row }
    }

    /// Ends one reference.
    pub(crate) fn release(&mut self, at: Row) {
        let rows = &mut self.spaces[at.space as usize];
        if let Some(count) = rows.references.get_mut(at.row as usize) {
            *count = count.saturating_sub(1);
        }
        rows.sweep(at.row);
    }
}
