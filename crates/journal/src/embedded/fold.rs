//! Folding: old state and a stretch of the log become a new state.
//!
//! An external merge, whose memory does not depend on how large the state or the log is:
//! 1. The sealed segments after the old state are read in order. What they do to resources ([`Step`]s) is collected until it
//!    makes [`RUN_BYTES`], sorted by resource (and, of one resource, by position) and written to a *run*, a temporary file. After
//!    [`RUNS_MAX`] runs, no further segment is begun; the rest is for the next fold.
//! 2. The old state and all runs are read side by side in the order of resources; a resource and its steps make the new one,
//!    which goes to the new state file, or its tombstone, which is put aside in a file of its own ([`Graves`]).
//! 3. The old state's tombstones join the new ones there. Once it is known which of all are among those that are kept, these are
//!    added to the new state file. That is flushed, renamed, and its directory is flushed: only then does it count.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use lockstep_model::{Position, ResourceId};

use super::file::{FrameReader, UNFINISHED, What};
use super::segment::Segment;
use super::state::{self, RecordWriter, StateFile, StateReader};
use crate::codec::{Interner, Step, StepOperation, decode_commits, decode_steps, decode_tombstones};
use crate::frame::Kind;
use crate::{Change, Complete, JournalError, Operation, Retention, StateEntry, Tombstone, redo};
use lockstep_storage::Storage;

/// A run is sorted in memory, where it takes about four times as much.
const RUN_BYTES: usize = 16 << 20;

/// Most runs that are merged at once. Each has a frame in memory, about 1 MiB when decoded.
const RUNS_MAX: usize = 64;

/// What a fold works on.
pub(crate) struct Fold<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) epoch: u64,
    /// The state so far; without one, the log begins at its beginning.
    pub(crate) state: Option<StateFile>,
    /// How many tombstones are kept.
    pub(crate) retention: Retention,
    /// Asked from time to time; the fold gives up when it says so.
    pub(crate) is_cancelled: &'a dyn Fn() -> bool,
}

/// Why there is no new state.
pub(crate) enum FoldError {
    Cancelled,
    Journal(JournalError),
}

impl From<JournalError> for FoldError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl Fold<'_> {
    /// Folds as many of the segments, which are sealed, as one merge can take. Removes its temporary files, whatever happens.
    pub(crate) fn run(&self, segments: &[Arc<Segment>]) -> Result<StateFile, FoldError> {
        let mut runs = Vec::new();
        let sorted = self.sort(segments, &mut runs);
        let folded = sorted.and_then(|(position, time_ms)| {
            let merged = self.merge(&mut runs, position, time_ms);
            if merged.is_err() {
                // It may not have come to be. What cannot be removed is removed at the next opening.
                let _ = self.storage.remove(&format!("{}{UNFINISHED}", state::name(position)));
            }
            merged
        });
        for run in &runs {
            let _ = self.storage.remove(run);
        }
        folded
    }

    /// Step 1; the position and time of the last commit that was read.
    fn sort(&self, segments: &[Arc<Segment>], runs: &mut Vec<String>) -> Result<(u64, i64), FoldError> {
        let after = self.state.as_ref().map_or(0, |state| state.position);
        let mut through = (after, 0);
        let mut names = Interner::default();
        let (mut raw, mut steps, mut steps_bytes) = (Vec::new(), Vec::new(), 0);
        for segment in segments {
            let extent = segment.extent.lock().clone();
            if extent.last <= after {
                continue;
            }
            if runs.len() >= RUNS_MAX {
                break;
            }
            let (mut reader, _) = FrameReader::open(self.storage, &segment.name, What::Segment)?;
            reader.seek(reader.at(), extent.bytes);
            while let Some((at, header)) = reader.next_whole(&mut raw)? {
                if (self.is_cancelled)() {
                    return Err(FoldError::Cancelled);
                }
                if header.last() <= after {
                    continue;
                }
                decode_commits(header.payload(&raw), header.first, header.count, &mut names, |commit| {
                    if commit.position.0 > after {
                        steps.extend(
                            commit.changes.into_iter().map(|change| step(change, commit.position, commit.time_ms)),
                        );
                    }
                })
                .map_err(|reason| reader.damaged(at, reason))?;
                steps_bytes += header.raw_bytes as usize;
                if steps_bytes >= RUN_BYTES {
                    self.write_run(&mut steps, runs)?;
                    steps_bytes = 0;
                }
            }
            through = (extent.last, extent.time_ms);
        }
        self.write_run(&mut steps, runs)?;
        Ok(through)
    }

    fn write_run(&self, steps: &mut Vec<Step>, runs: &mut Vec<String>) -> Result<(), FoldError> {
        steps.sort_by(|a, b| a.id.cmp(&b.id));
        let name = format!("run-{:04}", runs.len());
        runs.push(format!("{name}{UNFINISHED}"));
        let mut writer = RecordWriter::create(self.storage, name, (What::Steps, Kind::Steps), (self.epoch, 0, 0))?;
        for step in steps.drain(..) {
            writer.push(|encoder| encoder.step(&step))?;
        }
        writer.finish_temporary()?;
        Ok(())
    }

    /// Steps 2 and 3. `runs` gets the names of temporary files.
    fn merge(&self, runs: &mut Vec<String>, position: u64, time_ms: i64) -> Result<StateFile, FoldError> {
        let mut old = self.state.as_ref().map(|state| StateReader::open(self.storage, state)).transpose()?;
        let mut steps = MergedSteps::open(self.storage, runs)?;
        let head = (self.epoch, position, time_ms);
        let mut new = RecordWriter::create(self.storage, state::name(position), (What::State, Kind::Entries), head)?;
        let mut graves = Graves::new(self, time_ms);
        let mut next_old = advance(&mut old)?;
        let mut next_step = steps.next()?;
        for merged in 1u64.. {
            if merged % 1024 == 0 && (self.is_cancelled)() {
                return Err(FoldError::Cancelled);
            }
            let untouched = next_old.take_if(|entry| next_step.as_ref().is_none_or(|step| entry.id < step.id));
            if let Some(entry) = untouched {
                new.push(|encoder| encoder.entry(&entry))?;
                next_old = advance(&mut old)?;
                continue;
            }
            let Some(step) = next_step.take() else { break };
            let mut resource = next_old.take_if(|entry| entry.id == step.id);
            if resource.is_some() {
                next_old = advance(&mut old)?;
            }
            let mut same = Some(step);
            while let Some(step) = same {
                let id = step.id.clone();
                let applied = apply(resource, step).map_err(|reason| self.contradiction(position, &id, reason))?;
                resource = match applied {
                    Applied::Lives(entry) => Some(entry),
                    Applied::Ended(tombstone) => {
                        graves.push(&tombstone, runs)?;
                        None
                    }
                };
                next_step = steps.next()?;
                same = next_step.take_if(|step| step.id == id);
            }
            if let Some(entry) = resource {
                new.push(|encoder| encoder.entry(&entry))?;
            }
        }
        let mut complete = Complete::default();
        if let Some(mut old) = old {
            while let Some(tombstone) = old.next_tombstone()? {
                graves.push(&tombstone, runs)?;
            }
            complete = old.complete();
        }
        let complete = complete.and(graves.finish(&mut new)?);
        Ok(new.finish_state(position, complete)?)
    }

    fn contradiction(&self, position: u64, id: &ResourceId, reason: &'static str) -> JournalError {
        let path = self.storage.shown(&state::name(position));
        JournalError::Damaged { path, offset: 0, reason: format!("state and log contradict each other: {id} {reason}") }
    }
}

fn advance(old: &mut Option<StateReader>) -> Result<Option<StateEntry>, JournalError> {
    old.as_mut().map_or(Ok(None), StateReader::next)
}

fn step(change: Change, position: Position, time_ms: i64) -> Step {
    let operation = match change.operation {
        Operation::Create(document) => StepOperation::Create(document),
        Operation::Update(mut leaves) => {
            leaves.iter_mut().for_each(|leaf| leaf.old = None);
            StepOperation::Update(leaves)
        }
        Operation::Delete(_) => StepOperation::Delete,
    };
    Step { id: change.id, position, time_ms, operation }
}

/// What a step makes of a resource.
enum Applied {
    Lives(StateEntry),
    Ended(Tombstone),
}

fn apply(resource: Option<StateEntry>, step: Step) -> Result<Applied, &'static str> {
    let Step { id, position, time_ms, operation } = step;
    match (operation, resource) {
        (StepOperation::Create(document), None) => {
            let (created_ms, modified_ms) = (time_ms, time_ms);
            Ok(Applied::Lives(StateEntry {
                id,
                document,
                created: position,
                modified: position,
                created_ms,
                modified_ms,
            }))
        }
        (StepOperation::Update(leaves), Some(mut entry)) => {
            redo(&mut entry.document, &leaves);
            (entry.modified, entry.modified_ms) = (position, time_ms);
            Ok(Applied::Lives(entry))
        }
        (StepOperation::Delete, Some(StateEntry { created, created_ms, .. })) => {
            Ok(Applied::Ended(Tombstone { id, created, deleted: position, created_ms, deleted_ms: time_ms }))
        }
        (StepOperation::Create(_), Some(_)) => Err("is created twice"),
        (StepOperation::Update(_) | StepOperation::Delete, None) => Err("is changed and does not exist"),
    }
}

/// The tombstones of a new state, until it is known which of them are kept.
struct Graves<'a> {
    fold: &'a Fold<'a>,
    /// Tombstones of this time and before are not kept.
    forgotten_ms: i64,
    kept_max: usize,
    /// The last deletion that was dropped.
    dropped: Complete,
    /// Where the deletions in the file were committed. Cut back to the last ones now and then, so that its size has a bound.
    positions: Vec<u64>,
    /// Made by the first tombstone.
    file: Option<RecordWriter<'a>>,
}

/// The file's name, but for its ending.
const GRAVES: &str = "graves";

impl<'a> Graves<'a> {
    fn new(fold: &'a Fold<'a>, time_ms: i64) -> Self {
        let age_ms = i64::try_from(fold.retention.deletions_age.as_millis()).unwrap_or(i64::MAX);
        Self {
            fold,
            // By the log's own time: a clock that is wrong for a while then forgets no more than the commits it dates.
            forgotten_ms: time_ms.saturating_sub(age_ms),
            kept_max: usize::try_from(fold.retention.deletions_max).unwrap_or(usize::MAX),
            dropped: Complete::default(),
            positions: Vec::new(),
            file: None,
        }
    }

    fn push(&mut self, tombstone: &Tombstone, temporary: &mut Vec<String>) -> Result<(), JournalError> {
        if tombstone.deleted_ms <= self.forgotten_ms {
            self.drop(tombstone);
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                temporary.push(format!("{GRAVES}{UNFINISHED}"));
                let kinds = (What::Steps, Kind::Tombstones);
                let head = (self.fold.epoch, 0, 0);
                self.file.insert(RecordWriter::create(self.fold.storage, GRAVES.to_owned(), kinds, head)?)
            }
        };
        file.push(|encoder| encoder.tombstone(tombstone))?;
        self.positions.push(tombstone.deleted.0);
        if self.positions.len() >= self.kept_max.saturating_mul(2).max(1024) {
            let kept = self.positions.len().min(self.kept_max);
            let first = self.positions.len() - kept;
            // The last one that goes stays: it says from where on all are known.
            let first = first.saturating_sub(1);
            self.positions.select_nth_unstable(first);
            self.positions.drain(..first);
        }
        Ok(())
    }

    fn drop(&mut self, tombstone: &Tombstone) {
        self.dropped = self.dropped.and(Complete { since: tombstone.deleted, since_ms: tombstone.deleted_ms });
    }

    /// Adds those that are kept to the state; since when they are complete. A commit's deletions are kept or dropped together.
    fn finish(mut self, new: &mut RecordWriter<'_>) -> Result<Complete, JournalError> {
        let Some(file) = self.file.take() else { return Ok(self.dropped) };
        file.finish_temporary()?;
        let mut dropped_through = self.dropped.since.0;
        if let Some(last) = self.positions.len().checked_sub(self.kept_max.saturating_add(1)) {
            let (_, last, _) = self.positions.select_nth_unstable(last);
            dropped_through = dropped_through.max(*last);
        }
        new.go_on_with(Kind::Tombstones)?;
        let (mut reader, _) = FrameReader::open(self.fold.storage, &format!("{GRAVES}{UNFINISHED}"), What::Steps)?;
        let (mut names, mut raw, mut ready) = (Interner::default(), Vec::new(), Vec::new());
        while let Some((at, header)) = reader.next_whole(&mut raw)? {
            decode_tombstones(header.payload(&raw), header.count, &mut names, |tombstone| ready.push(tombstone))
                .map_err(|reason| reader.damaged(at, reason))?;
            for tombstone in ready.drain(..) {
                if tombstone.deleted.0 > dropped_through {
                    new.push(|encoder| encoder.tombstone(&tombstone))?;
                } else {
                    self.drop(&tombstone);
                }
            }
        }
        Ok(self.dropped)
    }
}

/// The steps of all runs, by resource and position.
struct MergedSteps {
    runs: Vec<RunReader>,
    /// The first step of each run that has one.
    firsts: BinaryHeap<Reverse<First>>,
}

struct First {
    step: Step,
    run: usize,
}

/// Runs are numbered in the order of the log, and a step is in one run only: so steps of one resource come by position.
impl Ord for First {
    fn cmp(&self, other: &Self) -> Ordering {
        self.step.id.cmp(&other.step.id).then(self.run.cmp(&other.run))
    }
}

impl PartialOrd for First {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for First {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for First {}

impl MergedSteps {
    fn open(storage: &dyn Storage, names: &[String]) -> Result<Self, JournalError> {
        let mut merged = Self { runs: Vec::new(), firsts: BinaryHeap::new() };
        for (run, name) in names.iter().enumerate() {
            let (reader, _) = FrameReader::open(storage, name, What::Steps)?;
            let mut reader = RunReader { reader, names: Interner::default(), raw: Vec::new(), ready: Vec::new() };
            merged.firsts.extend(reader.next()?.map(|step| Reverse(First { step, run })));
            merged.runs.push(reader);
        }
        Ok(merged)
    }

    fn next(&mut self) -> Result<Option<Step>, JournalError> {
        let Some(mut first) = self.firsts.peek_mut() else { return Ok(None) };
        let run = first.0.run;
        match self.runs[run].next()? {
            Some(step) => Ok(Some(std::mem::replace(&mut first.0.step, step))),
            None => Ok(Some(PeekMut::pop(first).0.step)),
        }
    }
}

struct RunReader {
    reader: FrameReader,
    names: Interner,
    raw: Vec<u8>,
    /// The frame at hand, the next step last.
    ready: Vec<Step>,
}

impl RunReader {
    fn next(&mut self) -> Result<Option<Step>, JournalError> {
        while self.ready.is_empty() {
            let Some((at, header)) = self.reader.next_whole(&mut self.raw)? else { return Ok(None) };
            let ready = &mut self.ready;
            decode_steps(header.payload(&self.raw), header.count, &mut self.names, |step| ready.push(step))
                .map_err(|reason| self.reader.damaged(at, reason))?;
            self.ready.reverse();
        }
        Ok(self.ready.pop())
    }
}
