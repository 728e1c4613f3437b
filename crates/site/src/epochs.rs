//! Epochs: what changed between two seconds, for clients that keep a copy of one resource type.
//!
//! # What is answered
//! An epoch is a second since 1970; a commit's is that of its time. Let S(e) be the resources of a type, with their documents, after
//! the last commit whose epoch is at most e. The *net change* in (start, end] is the difference of S(start) and S(end):
//!
//! | list | holds |
//! |---|---|
//! | created | what is in S(end) and not in S(start), as it is in S(end) |
//! | updated | what is in both and was touched in between, as it is in S(end); also what was deleted and created again |
//! | deleted | what is in S(start) and not in S(end) |
//!
//! What came and went in between is in no list. A start of 0 asks for a full copy: all of S(end) as created.
//!
//! Both epochs are closed, so no commit will ever get one of them, and S(start) and S(end) are fixed for good. Therefore pages need no
//! snapshot and no memory of the client: the interval and the last id of the page before say all. A client that passes its last end
//! as the next start misses nothing, whatever is committed meanwhile.
//!
//! # How
//! Epochs become positions: the last commit known of an epoch bounds it. An index beside the view ([`index`]) holds, for each tracked type,
//! the resources by the commit that touched them last, and the lives that have ended. What has a last touch after start is all
//! that can have changed. Each id is then looked at by itself: the lives that contain the bounds tell in which of the two states
//! it was. So an answer costs what changed since start, and a page of a full copy costs the page.
//!
//! A document as it was at end is the one at hand, with the commits that touched the resource after end taken back, newest first. The
//! index knows which these are, so no other commit is read, and in the usual case (end is the present) none is.
//!
//! # How far back
//! - A start must not be older than the deletions that are known: [`Retention`] says how many the journal's state remembers.
//! - An end must not be so old that the journal has dropped a commit that is to be taken back. The index remembers
//!   [`TOUCHES_MAX`] touches; after a restart only those that are not in the journal's state. For an older end the journal is read
//!   backwards until there, once.
//!
//! Beyond, the answer is [`EpochError::Expired`], and the client copies afresh.
//!
//! # Locks
//! The index goes with the view: it is changed while the view is locked for writing, and read while it is locked for reading. No lock is held
//! while the journal is read, and none for more than [`STEPS_MAX`] resources at a time: whatever is done between two steps cannot change
//! the answer, as both epochs are closed.
//!
//! # Memory
//! A tracked resource takes about a hundred bytes beside the view, most of them its id; a deletion 200, a remembered touch 150; a second in which
//! something tracked changed, 30.
//!
//! [`Retention`]: lockstep_journal::Retention

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_journal::{Commit, CommitError, Operation, ReadError, redo};
use lockstep_model::{Document, LeafChange, Position, ResourceId};
use lockstep_query::View;
use tokio::sync::oneshot;

use crate::Site;
pub(crate) use index::Epochs;
use index::{Bounds, Found};

mod index;
#[cfg(test)]
mod tests;

/// Touches of tracked resources that are remembered, over all types. Older ends are expired when more resources than that were touched since.
pub const TOUCHES_MAX: usize = size(1 << 18, 60);

/// Resources that are looked at without letting go of the view: a few milliseconds.
const STEPS_MAX: usize = size(4096, 6);

/// Positions that are read at once when the journal is read backwards.
const STRIDE: u64 = size(8192, 5) as u64;

/// What the journal is read in, in encoded bytes.
const READ_BYTES: usize = size(1 << 20, 200);

/// A limit, and what stands for it in this module's tests, so that they reach it.
const fn size(real: usize, in_tests: usize) -> usize {
    if cfg!(test) { in_tests } else { real }
}

/// The lists of a net change, in the order of their pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListKind {
    /// What is there at the end and was not at the start.
    Created,
    /// What is there at both and was touched in between.
    Updated,
    /// What was there at the start and is not at the end.
    Deleted,
}

/// The place after which a page begins: a list and an id in it.
pub type Place = (ListKind, Arc<str>);

/// One page of a net change. Ids are in byte order within each list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetChange {
    /// Ids and properties, secret ones too, as of the end.
    pub created: Vec<(Arc<str>, Document)>,
    /// Ids and properties, secret ones too, as of the end.
    pub updated: Vec<(Arc<str>, Document)>,
    /// Ids.
    pub deleted: Vec<Arc<str>>,
    /// Where the next page begins; `None` when this is the last one.
    pub next: Option<Place>,
}

/// Why there is no net change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// The site does not track the type.
    #[error("resource type {0} is not tracked by epochs")]
    Untracked(String),
    /// An epoch is not closed, so its commits may not all be there.
    #[error("epoch {asked} is not closed; the last one that is, is {closed}")]
    Open {
        /// The epoch asked for.
        asked: i64,
        /// The last one that is closed.
        closed: i64,
    },
    /// What happened since is not known any more: a client copies afresh.
    #[error("epoch {asked} has expired; the oldest known is {oldest}")]
    Expired {
        /// The epoch asked for.
        asked: i64,
        /// The least one that may be asked for in its place.
        oldest: i64,
    },
    /// The journal cannot be read.
    #[error("the journal cannot be read: {0}")]
    Broken(Arc<str>),
}

/// A document on its way back to the end.
struct Draft {
    kind: ListKind,
    id: Arc<str>,
    /// As it is at hand; `None` when the resource does not exist.
    document: Option<Document>,
}

/// Drafts, and what must be taken back in them.
#[derive(Default)]
struct Drafts {
    drafts: Vec<Draft>,
    /// Commits after the end, each with a draft that it touched.
    touched: Vec<(Position, usize)>,
}

/// The interval asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interval {
    /// The type's number in the index.
    tracked: usize,
    start_s: i64,
    end_s: i64,
}

impl Site {
    /// Closes an epoch, in seconds since 1970, and those before it: no later commit gets one of them. Then waits until the view has
    /// all commits that have. Without the disk when it is closed already.
    ///
    /// # Errors
    /// [`CommitError`]; [`CommitError::Full`] when there is no room to make it durable: then nothing has changed.
    pub async fn close_epoch(&self, epoch_s: i64) -> Result<(), CommitError> {
        let (send, receive) = oneshot::channel();
        let done = move |result| {
            // Nobody waits for it when the caller hung up; the epoch is closed all the same.
            let _ = send.send(result);
        };
        self.journal().close_epoch(epoch_s, Box::new(done));
        let position = receive.await.map_err(|_| CommitError::Closed)??;
        self.reach(position).await?;
        self.epochs.lock().close(epoch_s);
        Ok(())
    }

    /// The log's present second: that of the clock, but never before that of a commit or a closed epoch.
    pub fn log_now_s(&self) -> i64 {
        self.journal().now_ms().div_euclid(1000)
    }

    /// The last epoch in which a tracked resource was touched, as of the view; `None` when none ever was.
    pub fn last_touched_s(&self) -> Option<i64> {
        self.epochs.lock().last_touched_s()
    }

    /// One page of the net change of a tracked resource type in `(start_s, end_s]`, seconds since 1970, both closed by
    /// [`Site::close_epoch`]; a start of 0 asks for a full copy. At most `limit` ids, and at least one, after `after`.
    ///
    /// May read the journal's files: not for an async thread.
    ///
    /// # Errors
    /// [`EpochError`].
    pub fn net_change(
        &self,
        resource_type: &str,
        start_s: i64,
        end_s: i64,
        after: Option<Place>,
        limit: usize,
    ) -> Result<NetChange, EpochError> {
        let limit = limit.max(1);
        let interval = {
            let epochs = self.epochs.lock();
            let untracked = || EpochError::Untracked(resource_type.to_owned());
            let tracked = epochs.find(resource_type).ok_or_else(untracked)?;
            epochs.check(start_s, end_s)?;
            Interval { tracked, start_s, end_s }
        };
        if start_s != 0 && start_s >= end_s {
            return Ok(NetChange::default());
        }
        self.know_touches_since(end_s)?;
        let (drafts, next) = match start_s {
            0 => self.page_of_all(interval, after, limit)?,
            _ => self.page_of_changed(interval, after, limit)?,
        };
        let mut page = NetChange { next, ..NetChange::default() };
        for Draft { kind, id, document } in self.take_back(drafts, resource_type, end_s)? {
            match (kind, document) {
                (ListKind::Created, Some(document)) => page.created.push((id, document)),
                (ListKind::Updated, Some(document)) => page.updated.push((id, document)),
                (ListKind::Deleted, _) => page.deleted.push(id),
                (ListKind::Created | ListKind::Updated, None) => {
                    return Err(EpochError::Broken(format!("{id} was not there when it should have been").into()));
                }
            }
        }
        Ok(page)
    }

    /// A page of all that was there at the end.
    fn page_of_all(
        &self,
        interval: Interval,
        after: Option<Place>,
        limit: usize,
    ) -> Result<(Drafts, Option<Place>), EpochError> {
        let mut after = match after {
            None => None,
            Some((ListKind::Created, id)) => Some(id),
            // A full copy has no further lists.
            Some((ListKind::Updated | ListKind::Deleted, _)) => return Ok(Default::default()),
        };
        let mut drafts = Drafts::default();
        loop {
            let view = self.view();
            let epochs = self.epochs.lock();
            let bounds = epochs.bounds(interval)?;
            let (mut steps, mut last) = (0, None);
            for id in epochs.ids(interval.tracked, &view, after.as_deref()).take(STEPS_MAX) {
                if epochs.was_there(interval.tracked, &view, &id, bounds.end) {
                    if drafts.drafts.len() == limit {
                        let next = drafts.drafts.last().map(|draft| (ListKind::Created, draft.id.clone()));
                        return Ok((drafts, next));
                    }
                    drafts.push(&epochs, &view, interval, (ListKind::Created, id.clone()), bounds);
                }
                steps += 1;
                last = Some(id);
            }
            if steps < STEPS_MAX {
                return Ok((drafts, None));
            }
            after = last;
        }
    }

    /// A page of what changed between start and end.
    fn page_of_changed(
        &self,
        interval: Interval,
        after: Option<Place>,
        limit: usize,
    ) -> Result<(Drafts, Option<Place>), EpochError> {
        let listed = self.list_changed(interval, limit)?;
        let from = after.map_or(0, |after| listed.partition_point(|place| *place <= after));
        let through = listed.len().min(from.saturating_add(limit));
        let next = (through < listed.len()).then(|| listed[through - 1].clone());
        let mut drafts = Drafts::default();
        for some in listed[from..through].chunks(STEPS_MAX) {
            let view = self.view();
            let epochs = self.epochs.lock();
            let bounds = epochs.bounds(interval)?;
            some.iter().for_each(|place| drafts.push(&epochs, &view, interval, place.clone(), bounds));
        }
        Ok((drafts, next))
    }

    /// All that changed between start and end, in order. Kept for the pages to come when it does not fit one.
    fn list_changed(&self, interval: Interval, limit: usize) -> Result<Arc<[Place]>, EpochError> {
        if let Some(listed) = self.epochs.lock().listed(interval) {
            return Ok(listed);
        }
        let mut listed: Vec<Place> = Vec::new();
        let mut cursor = None;
        loop {
            let view = self.view();
            let epochs = self.epochs.lock();
            let bounds = epochs.bounds(interval)?;
            // Whatever is touched from here on goes to the end of what is walked through: it is met there, if for the second time.
            let (some, reached) = epochs.touched_last_after(interval.tracked, bounds.start, cursor, STEPS_MAX);
            let kind_of = |id: &Arc<str>| epochs.kind_of(interval.tracked, &view, id, bounds);
            listed.extend(some.into_iter().filter_map(|id| Some((kind_of(&id)?, id))));
            cursor = reached;
            if cursor.is_none() {
                break;
            }
        }
        listed.sort_unstable();
        listed.dedup();
        let listed: Arc<[Place]> = listed.into();
        if listed.len() > limit {
            self.epochs.lock().keep_listed(interval, listed.clone());
        }
        Ok(listed)
    }

    /// Takes back what happened to the drafts after the end.
    fn take_back(&self, drafts: Drafts, resource_type: &str, end_s: i64) -> Result<Vec<Draft>, EpochError> {
        let Drafts { mut drafts, mut touched } = drafts;
        // Newest first, and each commit once for all that it touched.
        touched.sort_unstable_by(|a, b| b.cmp(a));
        for group in touched.chunk_by(|a, b| a.0 == b.0) {
            let commit = self.commit_at(group[0].0, end_s)?;
            let of_ids: HashMap<Arc<str>, usize> =
                group.iter().map(|(_, nth)| (drafts[*nth].id.clone(), *nth)).collect();
            for change in commit.changes.iter().filter(|change| change.id.resource_type.as_str() == resource_type) {
                if let Some(nth) = of_ids.get(&*change.id.id) {
                    undo(&mut drafts[*nth].document, &change.operation);
                }
            }
        }
        Ok(drafts)
    }

    /// The commit at a position that the index knows.
    fn commit_at(&self, position: Position, end_s: i64) -> Result<Arc<Commit>, EpochError> {
        let read = self.journal().read(Position(position.0.saturating_sub(1)), 0);
        let commits = read.map_err(|error| self.unreadable(error, end_s))?;
        let missing = || EpochError::Broken(format!("the commit at position {position} is missing").into());
        commits.into_iter().next().filter(|commit| commit.position == position).ok_or_else(missing)
    }

    /// Sees to it that the index has every touch after the epoch `end_s`, if need be from the journal.
    fn know_touches_since(&self, end_s: i64) -> Result<(), EpochError> {
        loop {
            let known = self.epochs.lock().known();
            if known.since_s <= end_s {
                return Ok(());
            }
            let oldest = self.journal().oldest().0;
            if oldest >= known.after {
                return Err(EpochError::Expired { asked: end_s, oldest: known.since_s });
            }
            let from = oldest.max(known.after.saturating_sub(STRIDE));
            let mut found = Found { after: from, since_s: None, touches: Vec::new() };
            let mut at = Position(from);
            'stride: loop {
                let commits = self.journal().read(at, READ_BYTES).map_err(|error| self.unreadable(error, end_s))?;
                if commits.is_empty() {
                    break;
                }
                for commit in commits {
                    at = commit.position;
                    if at.0 > known.after {
                        break 'stride;
                    }
                    found.since_s.get_or_insert(commit.time_ms.div_euclid(1000));
                    found.touches.extend(self.epochs.lock().touches_of(&commit));
                }
            }
            if !self.epochs.lock().prepend(known, found) {
                return Err(EpochError::Expired { asked: end_s, oldest: known.since_s });
            }
        }
    }

    fn unreadable(&self, error: ReadError, end_s: i64) -> EpochError {
        match error {
            ReadError::Expired { oldest, .. } => {
                EpochError::Expired { asked: end_s, oldest: self.epochs.lock().epoch_of(oldest) }
            }
            ReadError::Future { .. } | ReadError::Broken(_) => EpochError::Broken(error.to_string().into()),
        }
    }
}

impl Drafts {
    fn push(&mut self, epochs: &Epochs, view: &View, interval: Interval, (kind, id): Place, bounds: Bounds) {
        let document = match kind {
            ListKind::Deleted => None,
            ListKind::Created | ListKind::Updated => {
                let touches = epochs.touches_after(interval.tracked, &id, bounds.end);
                self.touched.extend(touches.map(|position| (Position(position), self.drafts.len())));
                let id = ResourceId::new(epochs.resource_type(interval.tracked).clone(), &*id);
                view.get(&id).map(|stored| stored.document)
            }
        };
        self.drafts.push(Draft { kind, id, document });
    }
}

/// Makes a document what it was before.
fn undo(document: &mut Option<Document>, operation: &Operation) {
    match operation {
        Operation::Create(_) => *document = None,
        Operation::Delete(before) => *document = Some(before.clone()),
        Operation::Update(leaves) => {
            let back = |leaf: &LeafChange| LeafChange {
                path: leaf.path.clone(),
                old: leaf.new.clone(),
                new: leaf.old.clone(),
            };
            if let Some(document) = document {
                redo(document, &leaves.iter().map(back).collect::<Vec<_>>());
            }
        }
    }
}
