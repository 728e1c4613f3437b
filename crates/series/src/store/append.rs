//! The write path. There is no writer thread: whoever finds the log free writes for all who wait.
//!
//! 1. [`Store::append`] sorts out points that are too old or too new and encodes the others, in the caller's thread.
//! 2. The batch is queued. If nobody leads the queue, the caller leads: it takes what waits, up to [`GROUP_BYTES_MAX`]. While it
//!    writes, the next group collects. Nobody is made to wait for company.
//! 3. A segment that is full is followed by a new one (written, flushed, renamed, its directory flushed) before that is used.
//! 4. The group becomes one frame: one write at the segment's end, one flush (`fdatasync`). So there is never more than one
//!    frame that is not durable, and a torn one can only be the last.
//! 5. The points are applied to the catalog in the order of the log, and each batch is answered.
//!
//! When a step fails:
//! - No space at 3 or 4: the segment is cut back to its last whole frame, the cut is flushed, the group is answered
//!   [`AppendError::Full`]. Later groups are tried anew.
//! - A failed flush, a cut that fails, any other error of the disk: poisoned. The kernel may have dropped what it could not
//!   flush and says so once only; a second flush that succeeds would prove nothing.

use std::cmp::Ordering as Order;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::Store;
use crate::files::NotPublished;
use crate::frame::{self, HEADER_BYTES, Kind};
use crate::log::{self, Tail};
use crate::{AppendError, BATCH_POINTS_MAX, Batch, StoreError, section};

/// A group makes at most about this many bytes, or is one batch. Larger ones save no time: at 4 MiB the flush is a small part.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Points that are durable now.
    pub stored: usize,
    /// Points that were refused because they are older than retention.
    pub too_old: usize,
    /// Points that were refused because they are too far ahead of the clock.
    pub too_new: usize,
}

/// Batches that wait.
pub(super) struct Queue {
    pending: Vec<Submission>,
    /// Whether somebody writes, or has the log for itself.
    is_led: bool,
    /// Points before are refused: their partitions are being rolled up, or have been.
    floor_s: i64,
}

impl Queue {
    pub(super) fn new(floor_s: i64) -> Self {
        Self { pending: Vec::new(), is_led: false, floor_s }
    }
}

struct Submission {
    batch: Batch,
    section: Vec<u8>,
    outcome: Arc<OnceLock<Result<(), AppendError>>>,
}

impl Drop for Submission {
    /// Lets nobody wait for a leader that panicked.
    fn drop(&mut self) {
        self.outcome.get_or_init(|| Err(AppendError::Poisoned("the writer is gone".into())));
    }
}

/// The end of the log, and room for a frame.
pub(super) struct Writer {
    pub(super) tail: Tail,
    frame: Vec<u8>,
}

impl Writer {
    pub(super) fn new(tail: Tail) -> Self {
        Self { tail, frame: Vec::new() }
    }
}

/// Lets the next one lead, also after a panic.
struct Lead<'a>(&'a Store);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().is_led = false;
        self.0.turn.notify_all();
    }
}

impl Store {
    /// Stores points; durable when it returns. Callers at the same time share a flush.
    ///
    /// A point with the series and the time of another replaces it, also one of an earlier batch: a batch that is sent twice
    /// counts once. Points may be late, as long as they are within [`Config::raw_retention_s`](crate::Config::raw_retention_s).
    ///
    /// # Errors
    /// See [`AppendError`]. Points that are too old or too new are no error, but counted.
    pub fn append(&self, batch: &Batch) -> Result<Appended, AppendError> {
        if batch.points() > BATCH_POINTS_MAX {
            return Err(AppendError::TooLarge { points: batch.points(), limit: BATCH_POINTS_MAX });
        }
        let (bytes, limit) = (self.catalog.read().head_bytes, self.config.head_bytes_max);
        if bytes >= limit {
            return Err(AppendError::HeadFull { bytes, limit });
        }
        let mut section = Vec::new();
        let (mut queue, kept, refused) = loop {
            let floor_s = self.queue.lock().floor_s;
            let now_s = self.config.clock.now_s();
            let times = floor_s.max(now_s - self.config.raw_retention_s)..=now_s + self.config.future_s_max;
            let (kept, refused) = batch.filtered(|time_s| match time_s {
                _ if time_s < *times.start() => Order::Less,
                _ if time_s > *times.end() => Order::Greater,
                _ => Order::Equal,
            });
            section.clear();
            section::encode(&kept, &mut section);
            let queue = self.queue.lock();
            // Housekeeping may have begun to roll up what was still wanted a moment ago.
            if kept.oldest_s().is_none_or(|oldest_s| oldest_s >= queue.floor_s) {
                break (queue, kept, refused);
            }
        };
        self.counters.too_old.fetch_add(refused.too_old as u64, Ordering::Relaxed);
        self.counters.too_new.fetch_add(refused.too_new as u64, Ordering::Relaxed);
        let appended = Appended { stored: kept.points(), too_old: refused.too_old, too_new: refused.too_new };
        if kept.is_empty() {
            return Ok(appended);
        }
        let outcome = Arc::new(OnceLock::new());
        queue.pending.push(Submission { batch: kept, section, outcome: outcome.clone() });
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone().map(|()| appended);
            }
            if queue.is_led {
                self.turn.wait(&mut queue);
                continue;
            }
            queue.is_led = true;
            let group = take_group(&mut queue.pending);
            drop(queue);
            {
                let _lead = Lead(self);
                self.write_group(&mut self.writer.lock(), group);
            }
            queue = self.queue.lock();
        }
    }

    /// Has the log for itself, with all batches written that were queued before. Points before `floor_s` are refused from
    /// here on, and none of them is queued any more.
    pub(super) fn exclusively<T>(&self, floor_s: i64, work: impl FnOnce(&mut Writer) -> T) -> T {
        let mut queue = self.queue.lock();
        queue.floor_s = queue.floor_s.max(floor_s);
        while queue.is_led {
            self.turn.wait(&mut queue);
        }
        queue.is_led = true;
        let mut waiting = std::mem::take(&mut queue.pending);
        drop(queue);
        let _lead = Lead(self);
        let mut writer = self.writer.lock();
        while !waiting.is_empty() {
            self.write_group(&mut writer, take_group(&mut waiting));
        }
        work(&mut writer)
    }

    /// Steps 3 to 5.
    fn write_group(&self, writer: &mut Writer, group: Vec<Submission>) {
        let written = self.write_frame(writer, &group);
        if written.is_ok() {
            let mut head_bytes = 0;
            for submission in &group {
                let mut catalog = self.catalog.write();
                catalog.apply(&submission.batch, i64::MIN);
                head_bytes = catalog.head_bytes;
            }
            if head_bytes >= self.config.head_bytes_max / 2 {
                self.wake();
            }
            let points: usize = group.iter().map(|submission| submission.batch.points()).sum();
            self.counters.stored.fetch_add(points as u64, Ordering::Relaxed);
        }
        for submission in group {
            submission.outcome.get_or_init(|| written.clone());
        }
    }

    fn write_frame(&self, writer: &mut Writer, group: &[Submission]) -> Result<(), AppendError> {
        if let Some(reason) = self.poisoned.get() {
            return Err(AppendError::Poisoned(reason.clone()));
        }
        if writer.tail.extent.bytes >= self.config.segment_bytes_max {
            self.begin_segment(writer)?;
        }
        let Writer { tail, frame } = writer;
        let points = group.iter().map(|submission| submission.batch.points() as u32).sum();
        frame.clear();
        frame.resize(HEADER_BYTES, 0);
        group.iter().for_each(|submission| frame.extend_from_slice(&submission.section));
        frame::seal(frame, tail.salt, Kind::Batches, tail.number, points);
        let at = tail.extent.bytes;
        if let Err(error) = tail.file.write_at(at, frame) {
            if !is_full(&error) {
                return Err(self.broken("cannot write to the log", &error));
            }
            return match tail.file.truncate(at).and_then(|()| tail.file.sync()) {
                Ok(()) => Err(AppendError::Full),
                Err(error) => Err(self.broken("cannot cut the log back", &error)),
            };
        }
        tail.file.sync().map_err(|error| self.broken("cannot flush the log", &error))?;
        tail.number += 1;
        tail.extent.bytes += frame.len() as u64;
        tail.extent.points += u64::from(points);
        self.log.lock().insert(tail.segment, tail.extent);
        Ok(())
    }

    /// Step 3. A segment without frames is as good as a new one.
    pub(super) fn begin_segment(&self, writer: &mut Writer) -> Result<(), AppendError> {
        if writer.tail.number == 1 {
            return Ok(());
        }
        let created = log::create(&*self.storage, writer.tail.segment + 1, writer.tail.extent);
        writer.tail = created.map_err(|error| match error {
            NotPublished::Surely(StoreError::Full { .. }) => AppendError::Full,
            NotPublished::Surely(error) | NotPublished::Perhaps(error) => {
                AppendError::Poisoned(self.poison(&explain(&error)))
            }
        })?;
        self.log.lock().insert(writer.tail.segment, writer.tail.extent);
        Ok(())
    }

    fn broken(&self, what: &str, error: &io::Error) -> AppendError {
        AppendError::Poisoned(self.poison(&format_args!("{what}: {error}")))
    }
}

/// An error and its sources, in a line.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(&format!(": {error}"));
        source = error.source();
    }
    line
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Takes the first batches, as many as make a group.
fn take_group(pending: &mut Vec<Submission>) -> Vec<Submission> {
    let mut bytes = 0;
    let fits = pending.iter().take_while(|submission| {
        let is_first = bytes == 0;
        bytes += submission.section.len();
        is_first || bytes <= GROUP_BYTES_MAX
    });
    let count = fits.count();
    pending.drain(..count).collect()
}
