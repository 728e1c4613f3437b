//! What is asked of the journal (a batch) and what happened (a commit).

use std::sync::Arc;

use lockstep_model::{Document, LeafChange, Position, ResourceId};

/// What a batch demands of a resource before it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The resource does not exist.
    Absent,
    /// The resource was last changed by the commit at this position.
    At(Position),
}

/// What happens to one resource in a commit.
///
/// An operation holds both what was before and what is after, so that a reader can go either way through the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// The resource comes into being with these properties.
    Create(Document),
    /// These leaves change; at least one, sorted by path, none twice, each different before and after.
    Update(Vec<LeafChange>),
    /// The resource ends; these were its properties.
    Delete(Document),
}

/// One resource's part of a commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which resource.
    pub id: ResourceId,
    /// What happens to it.
    pub operation: Operation,
    /// Its parents, the nearest first, up to the root: after a create or an update, before a delete. Siblings share one list.
    pub parents: Arc<[ResourceId]>,
}

/// What is to be committed, all of it or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Who asks: a user, a collector, a link. Kept in the log.
    pub author: Arc<str>,
    /// At least one change, no resource twice. A create goes with [`Expect::Absent`], an update or a delete with
    /// [`Expect::At`] the position at which the values before were read: so they are true.
    pub changes: Vec<(Change, Expect)>,
    /// Resources that the batch does not change but relies on, e.g. a model.
    pub relies_on: Vec<(ResourceId, Expect)>,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The commit's place in the log.
    pub position: Position,
    /// When it was committed, in milliseconds since 1970-01-01T00:00:00Z by the committing server's clock. Never less than
    /// the commit before, whatever the clock does.
    pub time_ms: i64,
    /// Who asked.
    pub author: Arc<str>,
    /// What changed.
    pub changes: Vec<Change>,
}

/// One resource of the state that an engine gives when it is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct StateEntry {
    /// Which resource.
    pub id: ResourceId,
    /// Its properties.
    pub document: Document,
    /// The commit that created it.
    pub created: Position,
    /// The commit that last changed it.
    pub modified: Position,
    /// The time of the commit that created it, in milliseconds since 1970.
    pub created_ms: i64,
    /// The time of the commit that last changed it.
    pub modified_ms: i64,
}

/// What is left of a resource that was deleted: that it was there, and when. A resource that was created again keeps the tombstones
/// of its earlier lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Which resource.
    pub id: ResourceId,
    /// The commit that created it.
    pub created: Position,
    /// The commit that deleted it.
    pub deleted: Position,
    /// The time of the commit that created it, in milliseconds since 1970.
    pub created_ms: i64,
    /// The time of the commit that deleted it.
    pub deleted_ms: i64,
}

/// Since when all deletions are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Complete {
    /// Every deletion by a commit after this position has its tombstone.
    pub since: Position,
    /// Every deletion of which none is known was committed at this time or before, in milliseconds since 1970.
    pub since_ms: i64,
}

impl Complete {
    /// What is left when both hold.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { since: self.since.max(other.since), since_ms: self.since_ms.max(other.since_ms) }
    }
}

/// Makes a document what it is after an update: the one way in which an update's leaves are applied, whoever does it.
///
/// Properties that stay keep their place; new ones go to the end.
pub fn redo(document: &mut Document, changes: &[LeafChange]) {
    // What goes, goes first: a leaf may come where a structure was.
    for change in changes.iter().filter(|change| change.new.is_none()) {
        document.set(change.path.as_str(), None);
    }
    for change in changes.iter().filter(|change| change.new.is_some()) {
        document.set(change.path.as_str(), change.new.clone());
    }
}
