//! Folding: old state and a stretch of the log become a new state.
//!
//! An external merge, whose memory does not depend on how large the state or the log is:
//! 1. The sealed segments after the old state are read in order. What they do to resources ([`Step`]s) is collected until it
//!    makes [`RUN_BYTES`], sorted by resource (and, of one resource, by position) and written to a *run*, a temporary file. After
//!    [`RUNS_MAX`] runs, no further segment is begun; the rest is for the next fold.
//! 2. The old state and all runs are read side by side in the order of resources; a resource and its steps make the new one,
//!    which goes to the new state file. That is flushed, renamed, and its directory is flushed: only then does it count.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use lockstep_model::{Position, ResourceId};

use super::file::{FrameReader, UNFINISHED, What};
use super::segment::Segment;
use super::state::{self, RecordWriter, StateFile, StateReader};
use crate::codec::{Interner, Step, StepOperation, decode_commits, decode_steps};
use crate::frame::Kind;
use crate::storage::Storage;
use crate::{Change, JournalError, Operation, StateEntry, redo};

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
            let merged = self.merge(&runs, position, time_ms);
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
                        steps.extend(commit.changes.into_iter().map(|change| step(change, commit.position)));
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

    /// Step 2.
    fn merge(&self, runs: &[String], position: u64, time_ms: i64) -> Result<StateFile, FoldError> {
        let mut old = self.state.as_ref().map(|state| StateReader::open(self.storage, state)).transpose()?;
        let mut steps = MergedSteps::open(self.storage, runs)?;
        let head = (self.epoch, position, time_ms);
        let mut new = RecordWriter::create(self.storage, state::name(position), (What::State, Kind::Entries), head)?;
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
                resource = apply(resource, step).map_err(|reason| self.contradiction(position, &id, reason))?;
                next_step = steps.next()?;
                same = next_step.take_if(|step| step.id == id);
            }
            if let Some(entry) = resource {
                new.push(|encoder| encoder.entry(&entry))?;
            }
        }
        Ok(new.finish_state(position)?)
    }

    fn contradiction(&self, position: u64, id: &ResourceId, reason: &'static str) -> JournalError {
        let path = self.storage.shown(&state::name(position));
        JournalError::Damaged { path, offset: 0, reason: format!("state and log contradict each other: {id} {reason}") }
    }
}

fn advance(old: &mut Option<StateReader>) -> Result<Option<StateEntry>, JournalError> {
    old.as_mut().map_or(Ok(None), StateReader::next)
}

fn step(change: Change, position: Position) -> Step {
    let operation = match change.operation {
        Operation::Create(document) => StepOperation::Create(document),
        Operation::Update(mut leaves) => {
            leaves.iter_mut().for_each(|leaf| leaf.old = None);
            StepOperation::Update(leaves)
        }
        Operation::Delete(_) => StepOperation::Delete,
    };
    Step { id: change.id, position, operation }
}

fn apply(resource: Option<StateEntry>, step: Step) -> Result<Option<StateEntry>, &'static str> {
    let Step { id, position, operation } = step;
    match (operation, resource) {
        (StepOperation::Create(document), None) => {
            Ok(Some(StateEntry { id, document, created: position, modified: position }))
        }
        (StepOperation::Update(leaves), Some(mut entry)) => {
            redo(&mut entry.document, &leaves);
            entry.modified = position;
            Ok(Some(entry))
        }
        (StepOperation::Delete, Some(_)) => Ok(None),
        (StepOperation::Create(_), Some(_)) => Err("is created twice"),
        (StepOperation::Update(_) | StepOperation::Delete, None) => Err("is changed and does not exist"),
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
