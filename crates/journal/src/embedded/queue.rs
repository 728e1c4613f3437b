//! Batches on their way to the writer.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;

use parking_lot::{Condvar, Mutex};

use super::versions::Fingerprint;
use crate::{Batch, CommitError, Done, ReadError};

/// What waits for the writer.
pub(crate) struct Queue {
    /// Held to push and to take.
    waiting: Mutex<Waiting>,
    /// There is something, or the queue was closed.
    filled: Condvar,
    /// There is room again.
    drained: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    is_closed: bool,
}

enum Item {
    Batch(Submitted),
    Close(Closing),
    Seal(Sealing),
}

/// A batch, checked as far as that needs no knowledge of the log.
pub(crate) struct Submitted {
    pub(crate) batch: Batch,
    /// Of the changes' resources and then of those relied on.
    pub(crate) prints: Vec<Fingerprint>,
    /// About how many bytes it takes encoded.
    pub(crate) bytes: usize,
    pub(crate) done: Done,
}

/// Who asked for the segment at hand to be sealed.
pub(crate) type Sealing = Sender<Result<(), ReadError>>;

/// An epoch to be closed.
pub(crate) struct Closing {
    /// The log's time once it is closed: its last millisecond.
    pub(crate) end_ms: i64,
    pub(crate) done: Done,
}

/// What the writer does next.
pub(crate) enum Work {
    /// Commit these together.
    Group(Vec<Submitted>),
    /// Close an epoch.
    Close(Closing),
    /// Go on in a new segment.
    Seal(Sealing),
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Condvar::new(), drained: Condvar::new(), bytes_max }
    }

    /// Adds a batch; waits for room first.
    pub(crate) fn push(&self, submitted: Submitted) {
        let mut waiting = self.waiting.lock();
        // A batch larger than all the room there is goes in alone.
        while !waiting.is_closed && waiting.bytes > 0 && waiting.bytes + submitted.bytes > self.bytes_max {
            self.drained.wait(&mut waiting);
        }
        if waiting.is_closed {
            drop(waiting);
            (submitted.done)(Err(CommitError::Closed));
            return;
        }
        waiting.bytes += submitted.bytes;
        waiting.items.push_back(Item::Batch(submitted));
        drop(waiting);
        self.filled.notify_one();
    }

    /// Asks for an epoch to be closed. Takes no room and does not wait for any.
    pub(crate) fn close_epoch(&self, closing: Closing) {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            drop(waiting);
            (closing.done)(Err(CommitError::Closed));
            return;
        }
        waiting.items.push_back(Item::Close(closing));
        self.filled.notify_one();
    }

    /// Asks for a new segment. When the queue is closed, nobody answers: the sender is dropped.
    pub(crate) fn seal(&self, sealing: Sealing) {
        let mut waiting = self.waiting.lock();
        if !waiting.is_closed {
            waiting.items.push_back(Item::Seal(sealing));
            self.filled.notify_one();
        }
    }

    /// What to do next: waits for it; `None` when the queue is closed and empty. A group makes at most about
    /// `group_bytes_max` bytes.
    pub(crate) fn take(&self, group_bytes_max: usize) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        while waiting.items.is_empty() {
            if waiting.is_closed {
                return None;
            }
            self.filled.wait(&mut waiting);
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(item) = waiting.items.pop_front() {
            match item {
                Item::Batch(submitted) if group.is_empty() || bytes + submitted.bytes <= group_bytes_max => {
                    bytes += submitted.bytes;
                    group.push(submitted);
                }
                Item::Close(closing) if group.is_empty() => return Some(Work::Close(closing)),
                Item::Seal(sealing) if group.is_empty() => return Some(Work::Seal(sealing)),
                Item::Batch(_) | Item::Close(_) | Item::Seal(_) => {
                    waiting.items.push_front(item);
                    break;
                }
            }
        }
        waiting.bytes -= bytes;
        drop(waiting);
        self.drained.notify_all();
        Some(Work::Group(group))
    }

    /// Refuses further batches; those that wait are still taken.
    pub(crate) fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }
}
