//! Housekeeping: the thread that folds the log into states and drops what retention lets go.
//!
//! It works beside the writer and never holds anything that the writer waits for, but for the moment in which `origin` is
//! written. A pass compares what is there with what is wanted, and may be repeated at any time; it runs when a segment was sealed,
//! when somebody asks for compaction, and every [`PASS_EVERY`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::file::remove;
use super::fold::{Fold, FoldError};
use super::segment::Extent;
use super::{Shared, explain};
use crate::{JournalError, ReadError};

/// Commits grow too old though nothing else happens.
const PASS_EVERY: Duration = Duration::from_secs(60);

/// Added to the thread's nice value: a fold may take a core for seconds, and writes go first.
const NICE: i32 = 10;

/// The signals between the thread and the rest.
#[derive(Default)]
pub(crate) struct Housekeeping {
    orders: Mutex<Orders>,
    changed: Condvar,
    /// Read by a fold in progress.
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Orders {
    is_woken: bool,
    /// Compaction was asked up to here.
    compact_through: u64,
    /// Passes that began and ended.
    begun: u64,
    ended: u64,
    /// How the last pass ended.
    outcome: Option<Arc<str>>,
    has_ended: bool,
}

impl Housekeeping {
    /// Asks for a pass.
    pub(crate) fn wake(&self) {
        self.orders.lock().is_woken = true;
        self.changed.notify_all();
    }

    /// Asks for compaction and waits for a pass that knew of it.
    pub(crate) fn compact(&self, through: u64) -> Result<(), ReadError> {
        let mut orders = self.orders.lock();
        orders.compact_through = orders.compact_through.max(through);
        orders.is_woken = true;
        let wanted = orders.begun + 1;
        self.changed.notify_all();
        while orders.ended < wanted && !orders.has_ended {
            self.changed.wait(&mut orders);
        }
        match &orders.outcome {
            _ if orders.ended < wanted => Err(ReadError::Broken("the journal is closed".into())),
            Some(reason) => Err(ReadError::Broken(reason.clone())),
            None => Ok(()),
        }
    }

    /// Ends the thread; a fold in progress is given up.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// The thread.
    pub(crate) fn run(shared: &Shared) {
        // Only this thread's, on Linux. Without it, all works the same, less politely.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "cannot lower the priority of housekeeping");
        }
        let this = &shared.housekeeping;
        loop {
            let through = {
                let mut orders = this.orders.lock();
                if !orders.is_woken {
                    this.changed.wait_for(&mut orders, PASS_EVERY);
                }
                if this.is_closed.load(Ordering::Relaxed) {
                    orders.has_ended = true;
                    this.changed.notify_all();
                    return;
                }
                orders.is_woken = false;
                orders.begun += 1;
                orders.compact_through
            };
            let outcome = match pass(shared, through) {
                Ok(()) => None,
                Err(FoldError::Cancelled) => Some("the journal is closed".into()),
                Err(FoldError::Journal(error)) => {
                    let reason = explain(&error);
                    tracing::warn!(%reason, "the journal's housekeeping failed; it will be tried again");
                    Some(reason)
                }
            };
            let mut orders = this.orders.lock();
            orders.ended = orders.begun;
            orders.outcome = outcome;
            this.changed.notify_all();
        }
    }
}

/// Folds if that is due, then drops what may go.
fn pass(shared: &Shared, compact_through: u64) -> Result<(), FoldError> {
    if compact_through > shared.log.floor() {
        shared.log.raise_floor(compact_through);
        shared.store_origin_at(None)?;
    }
    loop {
        let segments = shared.log.segments();
        let extents: Vec<Extent> = segments.iter().map(|segment| segment.extent.lock().clone()).collect();
        let Some((_, sealed)) = extents.split_last() else { return Ok(()) };
        let state = shared.state.lock().clone();
        let covered = state.as_ref().map_or(0, |state| state.position);
        // What must go: what retention does not keep, and what compaction gave up.
        let compacted = sealed.iter().map(|extent| extent.last).take_while(|last| *last <= compact_through).last();
        let unwanted = beyond_retention(shared, &extents).max(compacted.unwrap_or(0));
        let unfolded_bytes: u64 = sealed.iter().filter(|extent| extent.last > covered).map(|extent| extent.bytes).sum();
        let state_bytes = state.as_ref().map_or(0, |state| state.bytes);
        let is_due = unfolded_bytes > shared.config.fold_bytes_min.max(state_bytes / 2);
        if covered < unwanted || is_due {
            let is_cancelled = || shared.housekeeping.is_closed.load(Ordering::Relaxed);
            let fold = Fold {
                storage: &*shared.storage,
                epoch: shared.epoch,
                state: state.clone(),
                retention: shared.config.retention,
                is_cancelled: &is_cancelled,
            };
            let folded = fold.run(&segments[..sealed.len()])?;
            tracing::info!(position = folded.position, bytes = folded.bytes, "folded the log into a state");
            *shared.state.lock() = Some(folded);
            if let Some(old) = state {
                remove(&*shared.storage, &old.name)?;
            }
            continue;
        }
        drop_through(shared, unwanted)?;
        return Ok(());
    }
}

/// The last position that retention does not keep, at the end of a sealed segment; 0 for none.
fn beyond_retention(shared: &Shared, extents: &[Extent]) -> u64 {
    let retention = &shared.config.retention;
    let kept_since_ms =
        shared.clock.now_ms().saturating_sub(i64::try_from(retention.age.as_millis()).unwrap_or(i64::MAX));
    let mut bytes: u64 = extents.iter().map(|extent| extent.bytes).sum();
    let mut changes: u64 = extents.iter().map(|extent| extent.changes).sum();
    let mut through = 0;
    for extent in &extents[..extents.len() - 1] {
        let is_kept =
            extent.time_ms >= kept_since_ms && bytes <= retention.bytes_max && changes <= retention.changes_max;
        if is_kept {
            break;
        }
        bytes -= extent.bytes;
        changes -= extent.changes;
        through = extent.last;
    }
    through
}

/// Removes the segments that end at or before `through`, oldest first: a crash in between leaves no hole.
fn drop_through(shared: &Shared, through: u64) -> Result<(), JournalError> {
    while let Some(segment) = shared.log.pop_segment(through) {
        remove(&*shared.storage, &segment.name)?;
        tracing::info!(segment = segment.name, "dropped a segment of the log");
    }
    Ok(())
}
