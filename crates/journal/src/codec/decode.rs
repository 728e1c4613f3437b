//! Reading payloads.

use std::collections::HashSet;
use std::sync::Arc;

use lockstep_model::{Document, LeafChange, LeafPath, Name, Position, ResourceId, ResourceType, Value};
use rustc_hash::FxBuildHasher;

use super::{CREATE, CodecError, DELETE, DEPTH_MAX, Input, PATH_BYTES_MAX, Tag, UPDATE, unzigzag};
use crate::{Change, Commit, Operation, StateEntry, Tombstone};

/// Names that are shared between payloads; beyond, all are forgotten.
const NAMES_MAX: usize = 1 << 16;

/// Gives every name that one reader meets one allocation, however many payloads repeat it.
#[derive(Default)]
pub(crate) struct Interner {
    names: HashSet<Name, FxBuildHasher>,
    /// The table of the payload at hand.
    table: Vec<Name>,
}

/// One resource's part of a commit as the folding of the log needs it: without what was before, and without parents.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) id: ResourceId,
    pub(crate) position: Position,
    pub(crate) time_ms: i64,
    pub(crate) operation: StepOperation,
}

/// What a [`Step`] does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StepOperation {
    Create(Document),
    Update(Vec<LeafChange>),
    Delete,
}

/// Reads a payload of `count` commits, the first at `first`.
pub(crate) fn decode_commits(
    payload: &[u8],
    first: u64,
    count: u32,
    names: &mut Interner,
    mut each: impl FnMut(Commit),
) -> Result<(), CodecError> {
    let mut reader = Reader::new(payload, names)?;
    let time_ms = unzigzag(reader.input.varint()?);
    for nth in 0..u64::from(count) {
        let position = first.checked_add(nth).map(Position).ok_or(CodecError("a position has more than 64 bits"))?;
        each(reader.commit(position, time_ms)?);
    }
    reader.end()
}

/// The time of a payload of commits.
pub(crate) fn commits_time_ms(payload: &[u8]) -> Result<i64, CodecError> {
    let mut input = Input::new(payload);
    input.bytes(4)?;
    input.varint().map(unzigzag)
}

/// Reads a payload of `count` resources.
pub(crate) fn decode_entries(
    payload: &[u8],
    count: u32,
    names: &mut Interner,
    mut each: impl FnMut(StateEntry),
) -> Result<(), CodecError> {
    let mut reader = Reader::new(payload, names)?;
    for _ in 0..count {
        let id = reader.id()?;
        let created = Position(reader.input.varint()?);
        let modified = Position(reader.input.varint()?);
        let (created_ms, modified_ms) = reader.times()?;
        each(StateEntry { id, document: reader.document()?, created, modified, created_ms, modified_ms });
    }
    reader.end()
}

/// Reads a payload of `count` tombstones.
pub(crate) fn decode_tombstones(
    payload: &[u8],
    count: u32,
    names: &mut Interner,
    mut each: impl FnMut(Tombstone),
) -> Result<(), CodecError> {
    let mut reader = Reader::new(payload, names)?;
    for _ in 0..count {
        let id = reader.id()?;
        let created = Position(reader.input.varint()?);
        let deleted = Position(reader.input.varint()?);
        let (created_ms, deleted_ms) = reader.times()?;
        each(Tombstone { id, created, deleted, created_ms, deleted_ms });
    }
    reader.end()
}

/// Reads a payload of `count` steps.
pub(crate) fn decode_steps(
    payload: &[u8],
    count: u32,
    names: &mut Interner,
    mut each: impl FnMut(Step),
) -> Result<(), CodecError> {
    let mut reader = Reader::new(payload, names)?;
    for _ in 0..count {
        let kind = reader.input.byte()?;
        let id = reader.id()?;
        let position = Position(reader.input.varint()?);
        let time_ms = unzigzag(reader.input.varint()?);
        let operation = match kind {
            CREATE => StepOperation::Create(reader.document()?),
            UPDATE => StepOperation::Update(reader.leaves()?),
            DELETE => StepOperation::Delete,
            _ => return Err(CodecError("unknown kind of change")),
        };
        each(Step { id, position, time_ms, operation });
    }
    reader.end()
}

impl Interner {
    fn load(&mut self, mut input: Input<'_>) -> Result<(), CodecError> {
        self.table.clear();
        if self.names.len() > NAMES_MAX {
            self.names.clear();
        }
        for _ in 0..input.count(1)? {
            let text = input.text()?;
            let name = match self.names.get(text) {
                Some(name) => name.clone(),
                None => {
                    let name: Name = text.into();
                    self.names.insert(name.clone());
                    name
                }
            };
            self.table.push(name);
        }
        if input.left() > 0 { Err(CodecError("bytes after the table")) } else { Ok(()) }
    }
}

struct Reader<'a> {
    input: Input<'a>,
    names: &'a [Name],
    parents: Vec<Arc<[ResourceId]>>,
}

impl<'a> Reader<'a> {
    fn new(payload: &'a [u8], names: &'a mut Interner) -> Result<Self, CodecError> {
        let mut input = Input::new(payload);
        let records_bytes = u32::from_le_bytes(input.array()?).checked_sub(4).ok_or(CodecError("no table"))?;
        let records = input.bytes(records_bytes as usize)?;
        names.load(input)?;
        Ok(Self { input: Input::new(records), names: &names.table, parents: Vec::new() })
    }

    fn end(self) -> Result<(), CodecError> {
        if self.input.left() > 0 { Err(CodecError("bytes after the last record")) } else { Ok(()) }
    }

    #[inline]
    fn name(&mut self) -> Result<&'a Name, CodecError> {
        let index = self.input.varint()?;
        self.named(index)
    }

    #[inline]
    fn named(&self, index: u64) -> Result<&'a Name, CodecError> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.names.get(index))
            .ok_or(CodecError("a name is not in the table"))
    }

    fn id(&mut self) -> Result<ResourceId, CodecError> {
        let resource_type = ResourceType::new(self.name()?.clone());
        Ok(ResourceId { resource_type, id: self.input.text()?.into() })
    }

    fn times(&mut self) -> Result<(i64, i64), CodecError> {
        let first_ms = unzigzag(self.input.varint()?);
        Ok((first_ms, first_ms.wrapping_add(unzigzag(self.input.varint()?))))
    }

    fn commit(&mut self, position: Position, time_ms: i64) -> Result<Commit, CodecError> {
        let author = self.name()?.clone();
        // Kind, type, id's length, parents, body: a byte each.
        let count = self.input.count(5)?;
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = self.input.byte()?;
            let id = self.id()?;
            let parents = self.parent_list()?;
            let operation = match kind {
                CREATE => Operation::Create(self.document()?),
                UPDATE => Operation::Update(self.leaves()?),
                DELETE => Operation::Delete(self.document()?),
                _ => return Err(CodecError("unknown kind of change")),
            };
            changes.push(Change { id, operation, parents });
        }
        Ok(Commit { position, time_ms, author, changes })
    }

    fn parent_list(&mut self) -> Result<Arc<[ResourceId]>, CodecError> {
        let number = self.input.varint()?;
        if number > 0 {
            let index = usize::try_from(number - 1).ok();
            return index
                .and_then(|i| self.parents.get(i))
                .cloned()
                .ok_or(CodecError("a list of parents is not there"));
        }
        let count = self.input.count(2)?;
        let list = (0..count).map(|_| self.id()).collect::<Result<Arc<[_]>, _>>()?;
        self.parents.push(list.clone());
        Ok(list)
    }

    fn document(&mut self) -> Result<Document, CodecError> {
        let count = self.input.count(2)?;
        self.fields(count, DEPTH_MAX).map(Document::new)
    }

    fn fields(&mut self, count: usize, depth: usize) -> Result<Vec<(Name, Value)>, CodecError> {
        let mut fields = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.name()?.clone();
            fields.push((name, self.value(depth)?));
        }
        Ok(fields)
    }

    fn leaves(&mut self) -> Result<Vec<LeafChange>, CodecError> {
        let count = self.input.count(2)?;
        let mut leaves = Vec::with_capacity(count);
        for _ in 0..count {
            let path = self.name()?;
            if path.len() > PATH_BYTES_MAX {
                return Err(CodecError("a path is too long"));
            }
            let path = LeafPath::new(&**path);
            let has = self.input.byte()?;
            if has > 3 {
                return Err(CodecError("unknown kind of leaf change"));
            }
            let old = if has & 1 > 0 { Some(self.value(DEPTH_MAX)?) } else { None };
            let new = if has & 2 > 0 { Some(self.value(DEPTH_MAX)?) } else { None };
            leaves.push(LeafChange { path, old, new });
        }
        Ok(leaves)
    }

    fn value(&mut self, depth: usize) -> Result<Value, CodecError> {
        let head = self.input.byte()?;
        let mut number = u64::from(head >> 3);
        if number == 31 {
            number = self.input.varint()?.checked_add(31).ok_or(CodecError("a number has more than 64 bits"))?;
        }
        Ok(match Tag::of(head)? {
            Tag::Boolean => Value::Boolean(number != 0),
            Tag::Long => Value::Long(unzigzag(number)),
            Tag::Double => Value::Double(f64::from_le_bytes(self.input.array()?)),
            Tag::String => Value::String(self.input.text_of(number)?.into()),
            Tag::Id => {
                let resource_type = ResourceType::new(self.named(number)?.clone());
                Value::Id(Box::new(ResourceId { resource_type, id: self.input.text()?.into() }))
            }
            Tag::List => {
                let depth = depth.checked_sub(1).ok_or(CodecError("nested too deep"))?;
                let count = self.input.fits(number, 1)?;
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.value(depth)?);
                }
                Value::List(items.into())
            }
            Tag::Struct => {
                let depth = depth.checked_sub(1).ok_or(CodecError("nested too deep"))?;
                let count = self.input.fits(number, 2)?;
                Value::Struct(self.fields(count, depth)?.into())
            }
        })
    }
}
