//! The writer: the one thread that appends to the log.
//!
//! # The write path
//! 1. `submit` checks the batch by itself, fingerprints its resources and queues it, in the caller's thread.
//! 2. The writer takes what waits, up to [`GROUP_BYTES_MAX`]: a group. While it writes, the next group collects. Nobody is
//!    made to wait for company: a lone batch is a group.
//! 3. Each batch in turn is checked against the versions table, which the batches before it in the group have changed. A batch
//!    refused because of something durable is answered at once; one refused because of a batch in its own group waits for
//!    the flush, so that nobody learns of a commit that might not come to be.
//! 4. Accepted batches get the next positions and are encoded as one frame.
//! 5. A segment that is full is sealed: the next one is made (written, flushed, renamed, its directory flushed) before it is
//!    used, and `origin` is told.
//! 6. One write of the frame at the segment's end.
//! 7. One flush (`fdatasync`).
//! 8. The commits are published to readers and followers, and each batch is answered.
//!
//! Closing an epoch is a group without batches whose time is the epoch's last millisecond, with steps 5 to 8. Nothing is written when
//! time has come so far already: so each second costs one flush at most, however often it is closed.
//!
//! # When a step fails
//! - No space at 5 or 6: the segment is cut back to its last whole frame, the cut is flushed, the versions are restored and the
//!   group is answered `Full`. Positions were not used up. Later groups are tried anew.
//! - A failed flush at 7, a cut that fails, any other error of the disk: `Poisoned`. The kernel may have dropped what it
//!   could not flush and reports it once only, so a second flush that succeeds would prove nothing.

use std::io;
use std::sync::Arc;

use lockstep_model::Position;

use super::Shared;
use super::log::Measured;
use super::queue::{Closing, Submitted, Work};
use super::segment::{Frame, Segment, Tail};
use super::versions::{Fingerprint, Versions};
use crate::codec::Encoder;
use crate::frame::{self, Kind, Label};
use crate::{Batch, Change, Commit, CommitError, Done, Expect, JournalError, ReadError};

/// A group makes at most about this many bytes before compression, or is one batch. Larger ones save no time: at 4 MiB the flush
/// is a small part of writing.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Most bytes of a batch, encoded. Readers hold a whole commit in memory, several times as large.
pub(crate) const BATCH_BYTES_MAX: usize = 64 << 20;

/// Groups without commits, since the last one with, take at most about this many bytes; then a new segment begins, or replaces one that
/// has no commits. So a site where nothing happens but epochs being closed does not fill the disk, nor opening's time.
const IDLE_BYTES_MAX: u64 = 1 << 20;

/// The thread's own; see the module.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) versions: Versions,
    /// The segment that grows, and its end.
    pub(crate) segment: Arc<Segment>,
    pub(crate) tail: Tail,
    /// The last durable commit's position.
    pub(crate) head: u64,
    /// How far time has come: its time, or the last millisecond of a second that was closed since.
    pub(crate) time_ms: i64,
    /// What groups without commits take at the segment's end.
    pub(crate) idle_bytes: u64,
    pub(crate) encoder: Encoder,
    /// The frame being written.
    pub(crate) frame: Vec<u8>,
}

/// A group on its way.
#[derive(Default)]
struct Group {
    accepted: Vec<Accepted>,
    /// Refused because of another batch of the group.
    refused: Vec<(Done, CommitError)>,
    /// What the versions table said before, in order.
    undo: Vec<(Fingerprint, Option<Position>)>,
    changes: u32,
}

struct Accepted {
    author: Arc<str>,
    changes: Vec<Change>,
    bytes: usize,
    done: Done,
}

/// Why a group was not written.
enum Failure {
    Full,
    Broken(Arc<str>),
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        let _wake = CloseOnExit(self.shared.clone());
        let mut poisoned: Option<Arc<str>> = None;
        while let Some(work) = self.shared.queue.take(GROUP_BYTES_MAX) {
            match (work, &poisoned) {
                (Work::Group(group), None) => poisoned = self.write(group).err(),
                (Work::Group(group), Some(reason)) => {
                    group.into_iter().for_each(|batch| (batch.done)(Err(CommitError::Poisoned(reason.clone()))));
                }
                (Work::Close(closing), None) => poisoned = self.close_epoch(closing).err(),
                (Work::Close(closing), Some(reason)) => {
                    (closing.done)(Err(CommitError::Poisoned(reason.clone())));
                }
                (Work::Seal(sealing), None) => {
                    // A segment without commits is as good as a new one.
                    let sealed = if self.head < self.segment.first { Ok(()) } else { self.begin_segment() };
                    poisoned = match &sealed {
                        Err(Failure::Broken(reason)) => Some(reason.clone()),
                        Err(Failure::Full) | Ok(()) => None,
                    };
                    // Whoever asked may have gone.
                    let _ = sealing.send(sealed.map_err(ReadError::from));
                }
                (Work::Seal(sealing), Some(reason)) => {
                    let _ = sealing.send(Err(ReadError::Broken(reason.clone())));
                }
            }
        }
        if poisoned.is_none() {
            self.shared.store_origin(self.head, self.time_ms);
        }
    }

    /// Steps 3 to 8; the error is the reason to refuse all that follows.
    fn write(&mut self, batches: Vec<Submitted>) -> Result<(), Arc<str>> {
        let time_ms = self.shared.clock.now_ms().max(next_time_ms(self.time_ms));
        self.encoder.begin_commits(time_ms);
        let mut group = Group::default();
        for submitted in batches {
            self.admit(submitted, &mut group);
        }
        if group.accepted.is_empty() {
            return Ok(());
        }
        let count = group.accepted.len() as u32;
        let label = Label { kind: Kind::Commits, first: self.head + 1, count, changes: group.changes };
        match self.append(label) {
            Ok(()) => {
                self.answer(group, time_ms, label);
                Ok(())
            }
            Err(Failure::Full) => {
                tracing::warn!("no space left for the journal; refused {count} batches");
                for (print, before) in group.undo.drain(..).rev() {
                    self.versions.set(print, before);
                }
                group.refuse(&CommitError::Full);
                Ok(())
            }
            Err(Failure::Broken(reason)) => {
                tracing::error!(%reason, "the journal refuses writes from here on");
                group.refuse(&CommitError::Poisoned(reason.clone()));
                Err(reason)
            }
        }
    }

    /// Closes an epoch; the error is the reason to refuse all that follows.
    fn close_epoch(&mut self, closing: Closing) -> Result<(), Arc<str>> {
        let Closing { end_ms, done } = closing;
        if self.time_ms >= end_ms {
            done(Ok(Position(self.head)));
            return Ok(());
        }
        self.encoder.begin_commits(end_ms);
        let label = Label { kind: Kind::Commits, first: self.head + 1, count: 0, changes: 0 };
        match self.append(label) {
            Ok(()) => {
                let idle_bytes = self.idle_bytes + self.frame.len() as u64;
                self.answer(Group::default(), end_ms, label);
                self.idle_bytes = idle_bytes;
                done(Ok(Position(self.head)));
                Ok(())
            }
            Err(Failure::Full) => {
                done(Err(CommitError::Full));
                Ok(())
            }
            Err(Failure::Broken(reason)) => {
                tracing::error!(%reason, "the journal refuses writes from here on");
                done(Err(CommitError::Poisoned(reason.clone())));
                Err(reason)
            }
        }
    }

    /// Steps 3 and 4 for one batch.
    fn admit(&mut self, submitted: Submitted, group: &mut Group) {
        let Submitted { batch, prints, done, .. } = submitted;
        if let Err(error) = self.check(&batch, &prints) {
            match error {
                CommitError::Conflict { found: Some(found), .. } if found.0 > self.head => {
                    group.refused.push((done, error))
                }
                // It may have been deleted in this group; that the wait is for nothing when it was not is no harm.
                CommitError::Conflict { found: None, .. } if !group.accepted.is_empty() => {
                    group.refused.push((done, error))
                }
                _ => done(Err(error)),
            }
            return;
        }
        let mark = self.encoder.mark();
        let before = self.encoder.len();
        self.encoder.commit(&batch.author, batch.changes.iter().map(|(change, _)| change));
        let bytes = self.encoder.len() - before;
        if bytes > BATCH_BYTES_MAX {
            self.encoder.roll_back(mark);
            done(Err(CommitError::TooLarge { bytes, limit: BATCH_BYTES_MAX }));
            return;
        }
        let position = Position(self.head + 1 + group.accepted.len() as u64);
        for ((change, _), print) in batch.changes.iter().zip(&prints) {
            let exists = !matches!(change.operation, crate::Operation::Delete(_));
            group.undo.push((*print, self.versions.set(*print, exists.then_some(position))));
        }
        group.changes += batch.changes.len() as u32;
        let changes = batch.changes.into_iter().map(|(change, _)| change).collect();
        group.accepted.push(Accepted { author: batch.author, changes, bytes, done });
    }

    fn check(&self, batch: &Batch, prints: &[Fingerprint]) -> Result<(), CommitError> {
        let changed = batch.changes.iter().map(|(change, expect)| (&change.id, *expect));
        let relied_on = batch.relies_on.iter().map(|(id, expect)| (id, *expect));
        for ((id, expected), print) in changed.chain(relied_on).zip(prints) {
            let found = self.versions.get(*print);
            let is_as_expected = match expected {
                Expect::Absent => found.is_none(),
                Expect::At(position) => found == Some(position),
            };
            if !is_as_expected {
                return Err(CommitError::Conflict { id: id.clone(), expected, found });
            }
        }
        Ok(())
    }

    /// Steps 5 to 7.
    fn append(&mut self, label: Label) -> Result<(), Failure> {
        // One with nothing in it would be replaced by its like.
        let is_fresh = self.head < self.segment.first && self.idle_bytes == 0;
        if !is_fresh && (self.end() >= self.shared.config.segment_bytes_max || self.idle_bytes >= IDLE_BYTES_MAX) {
            self.begin_segment()?;
        }
        self.frame.clear();
        frame::seal(&mut self.frame, self.tail.salt, label, self.encoder.finish());
        let at = self.end();
        let write = self.tail.file.write_at(at, &self.frame);
        if let Err(error) = write {
            let failure = Failure::of(&error, "cannot write to the log");
            return match failure {
                Failure::Full => match self.tail.file.truncate(at).and_then(|()| self.tail.file.sync()) {
                    Ok(()) => Err(Failure::Full),
                    Err(error) => Err(Failure::broken("cannot cut the log back", &error)),
                },
                Failure::Broken(_) => Err(failure),
            };
        }
        self.tail.file.sync().map_err(|error| Failure::broken("cannot flush the log", &error))
    }

    /// Where the next frame goes.
    fn end(&self) -> u64 {
        self.segment.extent.lock().bytes
    }

    /// Step 5. A segment without commits is replaced: its head says how far time had come, which is all that was in it.
    fn begin_segment(&mut self) -> Result<(), Failure> {
        let shared = &self.shared;
        let previous = if self.head < self.segment.first { self.segment.previous } else { self.head };
        let created = Segment::create(&*shared.storage, shared.epoch, self.head + 1, previous, self.time_ms);
        let (segment, tail) = created.map_err(|error| Failure::of_journal(&error))?;
        shared.log.push_segment(segment.clone());
        (self.segment, self.tail, self.idle_bytes) = (segment, tail, 0);
        shared.store_origin(self.head, self.time_ms);
        shared.housekeeping.wake();
        Ok(())
    }

    /// Step 8.
    fn answer(&mut self, group: Group, time_ms: i64, label: Label) {
        let last = self.head + u64::from(label.count);
        let frame = Frame { first: label.first, last, bytes: self.frame.len() as u64, changes: label.changes };
        let mut dones = Vec::with_capacity(group.accepted.len());
        let commits: Vec<Measured> = group
            .accepted
            .into_iter()
            .zip(label.first..)
            .map(|(accepted, position)| {
                let Accepted { author, changes, bytes, done } = accepted;
                let position = Position(position);
                dones.push((done, position));
                (Arc::new(Commit { position, time_ms, author, changes }), bytes)
            })
            .collect();
        self.head = last;
        (self.time_ms, self.idle_bytes) = (time_ms, 0);
        self.shared.log.grow(&frame, time_ms, commits.into_iter());
        dones.into_iter().for_each(|(done, position)| done(Ok(position)));
        group.refused.into_iter().for_each(|(done, error)| done(Err(error)));
    }
}

/// The least time that a commit can have once time has come to `time_ms`: the last millisecond of a second closes it.
fn next_time_ms(time_ms: i64) -> i64 {
    if time_ms.rem_euclid(1000) == 999 { time_ms.saturating_add(1) } else { time_ms }
}

impl Group {
    /// Answers all alike: who was refused because of the group does not know why any more.
    fn refuse(self, error: &CommitError) {
        self.accepted.into_iter().for_each(|accepted| (accepted.done)(Err(error.clone())));
        self.refused.into_iter().for_each(|(done, _)| done(Err(error.clone())));
    }
}

impl Failure {
    fn of(error: &io::Error, what: &str) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::broken(what, error),
        }
    }

    fn of_journal(error: &JournalError) -> Self {
        match error {
            JournalError::Io { source, what, .. } => Self::of(source, what),
            JournalError::InUse(_) | JournalError::Damaged { .. } | JournalError::Format { .. } => {
                Self::Broken(super::explain(error))
            }
        }
    }

    fn broken(what: &str, error: &io::Error) -> Self {
        Self::Broken(format!("{what}: {error}").into())
    }
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        Self::Broken(match failure {
            Failure::Full => "no space left for the journal".into(),
            Failure::Broken(reason) => reason,
        })
    }
}

/// Lets nobody wait for a writer that is gone, even if it panicked.
struct CloseOnExit(Arc<Shared>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        self.0.queue.close();
        while let Some(work) = self.0.queue.take(usize::MAX) {
            match work {
                Work::Group(group) => group.into_iter().for_each(|batch| (batch.done)(Err(CommitError::Closed))),
                // Dropping the sender tells whoever waits.
                Work::Seal(_) => {}
                Work::Close(closing) => (closing.done)(Err(CommitError::Closed)),
            }
        }
        self.0.log.close();
    }
}
