//! Writing payloads.

use std::sync::Arc;

use lockstep_model::{Document, LeafChange, Name, ResourceId, Value};
use rustc_hash::FxHashMap;

use super::decode::{Step, StepOperation};
use super::{CREATE, DELETE, Tag, UPDATE, zigzag};
use crate::{Change, Operation, StateEntry, Tombstone};

/// Texts whose place in the table is remembered from payload to payload; beyond, all are forgotten.
const KNOWN_TEXTS_MAX: usize = 1 << 16;

/// Writes one payload after the other, keeping its buffers.
#[derive(Default)]
pub(crate) struct Encoder {
    out: Vec<u8>,
    table: Table,
    parents: Parents,
}

/// A place to roll back to.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    out_bytes: usize,
    table_bytes: usize,
    names: u32,
    parents: u32,
}

impl Encoder {
    /// Begins a payload of resources, of tombstones or of steps.
    pub(crate) fn begin(&mut self) {
        self.out.clear();
        self.out.extend_from_slice(&[0; 4]);
        self.table.clear();
        self.parents.clear();
    }

    /// Begins a payload of commits; one without any says that time has come so far.
    pub(crate) fn begin_commits(&mut self, time_ms: i64) {
        self.begin();
        varint(&mut self.out, zigzag(time_ms));
    }

    /// The payload's size so far.
    pub(crate) fn len(&self) -> usize {
        self.out.len() + self.table.bytes.len()
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            out_bytes: self.out.len(),
            table_bytes: self.table.bytes.len(),
            names: self.table.count,
            parents: self.parents.count,
        }
    }

    /// Takes back what was written since the mark.
    pub(crate) fn roll_back(&mut self, mark: Mark) {
        self.out.truncate(mark.out_bytes);
        self.table.roll_back(mark);
        self.parents.roll_back(mark);
    }

    pub(crate) fn commit<'a>(&mut self, author: &str, changes: impl ExactSizeIterator<Item = &'a Change>) {
        let author = self.table.text(author);
        varint(&mut self.out, author.into());
        varint(&mut self.out, changes.len() as u64);
        for change in changes {
            let (kind, body) = match &change.operation {
                Operation::Create(document) => (CREATE, Ok(document)),
                Operation::Delete(document) => (DELETE, Ok(document)),
                Operation::Update(leaves) => (UPDATE, Err(leaves)),
            };
            self.out.push(kind);
            self.id(&change.id);
            self.parent_list(&change.parents);
            match body {
                Ok(document) => self.document(document),
                Err(leaves) => {
                    varint(&mut self.out, leaves.len() as u64);
                    leaves.iter().for_each(|leaf| self.leaf(leaf));
                }
            }
        }
    }

    pub(crate) fn entry(&mut self, entry: &StateEntry) {
        self.id(&entry.id);
        varint(&mut self.out, entry.created.0);
        varint(&mut self.out, entry.modified.0);
        self.times(entry.created_ms, entry.modified_ms);
        self.document(&entry.document);
    }

    pub(crate) fn tombstone(&mut self, tombstone: &Tombstone) {
        self.id(&tombstone.id);
        varint(&mut self.out, tombstone.created.0);
        varint(&mut self.out, tombstone.deleted.0);
        self.times(tombstone.created_ms, tombstone.deleted_ms);
    }

    fn times(&mut self, first_ms: i64, then_ms: i64) {
        varint(&mut self.out, zigzag(first_ms));
        varint(&mut self.out, zigzag(then_ms.wrapping_sub(first_ms)));
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.out.push(match &step.operation {
            StepOperation::Create(_) => CREATE,
            StepOperation::Update(_) => UPDATE,
            StepOperation::Delete => DELETE,
        });
        self.id(&step.id);
        varint(&mut self.out, step.position.0);
        varint(&mut self.out, zigzag(step.time_ms));
        match &step.operation {
            StepOperation::Create(document) => self.document(document),
            StepOperation::Update(leaves) => {
                varint(&mut self.out, leaves.len() as u64);
                leaves.iter().for_each(|leaf| self.leaf(leaf));
            }
            StepOperation::Delete => {}
        }
    }

    /// Ends the payload and gives its bytes.
    pub(crate) fn finish(&mut self) -> &[u8] {
        let at = u32::try_from(self.out.len()).unwrap_or(u32::MAX);
        self.out[..4].copy_from_slice(&at.to_le_bytes());
        varint(&mut self.out, self.table.count.into());
        self.out.extend_from_slice(&self.table.bytes);
        &self.out
    }

    fn id(&mut self, id: &ResourceId) {
        let resource_type = self.table.text(id.resource_type.as_str());
        varint(&mut self.out, resource_type.into());
        text(&mut self.out, &id.id);
    }

    fn parent_list(&mut self, list: &Arc<[ResourceId]>) {
        if let Some(number) = self.parents.number(list) {
            varint(&mut self.out, number.into());
            return;
        }
        self.out.push(0);
        varint(&mut self.out, list.len() as u64);
        list.iter().for_each(|id| self.id(id));
    }

    fn document(&mut self, document: &Document) {
        varint(&mut self.out, document.fields().len() as u64);
        self.fields(document.fields());
    }

    fn fields(&mut self, fields: &[(Name, Value)]) {
        for (name, value) in fields {
            let name = self.table.name(name);
            varint(&mut self.out, name.into());
            self.value(value);
        }
    }

    fn leaf(&mut self, leaf: &LeafChange) {
        let path = self.table.text(leaf.path.as_str());
        varint(&mut self.out, path.into());
        self.out.push(u8::from(leaf.old.is_some()) | u8::from(leaf.new.is_some()) << 1);
        leaf.old.iter().chain(&leaf.new).for_each(|value| self.value(value));
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Boolean(truth) => self.head(Tag::Boolean, u64::from(*truth)),
            Value::Long(number) => self.head(Tag::Long, zigzag(*number)),
            Value::Double(number) => {
                self.head(Tag::Double, 0);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Value::String(text) => {
                self.head(Tag::String, text.len() as u64);
                self.out.extend_from_slice(text.as_bytes());
            }
            Value::Id(id) => {
                let resource_type = self.table.text(id.resource_type.as_str());
                self.head(Tag::Id, resource_type.into());
                text(&mut self.out, &id.id);
            }
            Value::List(items) => {
                self.head(Tag::List, items.len() as u64);
                items.iter().for_each(|item| self.value(item));
            }
            Value::Struct(fields) => {
                self.head(Tag::Struct, fields.len() as u64);
                self.fields(fields);
            }
        }
    }

    fn head(&mut self, tag: Tag, number: u64) {
        if number < 31 {
            self.out.push((number as u8) << 3 | tag as u8);
        } else {
            self.out.push(31 << 3 | tag as u8);
            varint(&mut self.out, number - 31);
        }
    }
}

#[inline]
fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// The names of the payload being written.
///
/// Property names are shared with their model, so almost every look-up is by address: it costs a tenth of hashing the text.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    count: u32,
    /// Keeps each name alive: its address must not be given to another while it is a key.
    by_address: FxHashMap<usize, (Name, u32)>,
    /// Texts, in which payload they were last used, and where they stand in its table.
    by_text: FxHashMap<Box<str>, (u64, u32)>,
    payload: u64,
}

impl Table {
    fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.by_address.clear();
        self.payload += 1;
        if self.by_text.len() > KNOWN_TEXTS_MAX {
            self.by_text.clear();
        }
    }

    #[inline]
    fn name(&mut self, name: &Name) -> u32 {
        let address = name.as_ptr() as usize;
        if let Some((known, index)) = self.by_address.get(&address)
            && Arc::ptr_eq(known, name)
        {
            return *index;
        }
        let index = self.text(name);
        self.by_address.insert(address, (name.clone(), index));
        index
    }

    fn text(&mut self, text: &str) -> u32 {
        match self.by_text.get_mut(text) {
            Some((payload, index)) if *payload == self.payload => return *index,
            Some(known) => *known = (self.payload, self.count),
            None => {
                self.by_text.insert(text.into(), (self.payload, self.count));
            }
        }
        self::text(&mut self.bytes, text);
        self.count += 1;
        self.count - 1
    }

    fn roll_back(&mut self, mark: Mark) {
        self.bytes.truncate(mark.table_bytes);
        self.count = mark.names;
        self.by_address.retain(|_, (_, index)| *index < mark.names);
        self.by_text.retain(|_, (_, index)| *index < mark.names);
    }
}

/// The lists of parents of the payload being written, numbered from 1.
#[derive(Default)]
struct Parents {
    count: u32,
    /// Keeps each list alive, as [`Table::by_address`] does.
    by_address: FxHashMap<usize, (Arc<[ResourceId]>, u32)>,
    by_content: FxHashMap<Arc<[ResourceId]>, u32>,
}

impl Parents {
    fn clear(&mut self) {
        self.count = 0;
        self.by_address.clear();
        self.by_content.clear();
    }

    /// The number of a list that was written before. A new one is numbered, and is the caller's to write.
    fn number(&mut self, list: &Arc<[ResourceId]>) -> Option<u32> {
        let address = list.as_ptr() as usize;
        if let Some((known, number)) = self.by_address.get(&address)
            && Arc::ptr_eq(known, list)
        {
            return Some(*number);
        }
        let known = self.by_content.get(list).copied();
        let number = known.unwrap_or(self.count + 1);
        if known.is_none() {
            self.count = number;
            self.by_content.insert(list.clone(), number);
        }
        self.by_address.insert(address, (list.clone(), number));
        known
    }

    fn roll_back(&mut self, mark: Mark) {
        self.count = mark.parents;
        self.by_address.retain(|_, (_, number)| *number <= mark.parents);
        self.by_content.retain(|_, number| *number <= mark.parents);
    }
}
