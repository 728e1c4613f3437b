//! The thread that writes points into the spool.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use lockstep_contract::points::Batch;
use tokio::sync::Notify;
use tracing::warn;

use super::backoff::Throttle;
use super::status::Shared;
use crate::spool::count;

/// Batches that may wait for the disk: a minute of one a second.
pub(super) const QUEUE_BATCHES_MAX: usize = 64;
/// What may be lost to a crash.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Stores until the sampling thread has ended, and flushes then.
pub(super) fn run(batches: &Receiver<Batch>, shared: &Shared, stored: &Notify) {
    let mut throttle = Throttle::default();
    let mut flushed = Instant::now();
    loop {
        let received = batches.recv_timeout(FLUSH_INTERVAL.saturating_sub(flushed.elapsed()));
        let is_end = received == Err(RecvTimeoutError::Disconnected);
        if let Ok(batch) = received {
            let points = count(&batch) as u64;
            let appended = shared.spool().append(batch);
            match appended {
                Ok(()) => stored.notify_one(),
                Err(error) => {
                    shared.lost_points.fetch_add(points, Ordering::Relaxed);
                    if throttle.is_due() {
                        warn!(%error, points, "points cannot be stored and are lost");
                    }
                }
            }
        }
        if is_end || flushed.elapsed() >= FLUSH_INTERVAL {
            // The disk is waited for without the lock.
            let file = shared.spool().flush();
            if let Some(Err(error)) = file.map(|file| file.sync_data())
                && throttle.is_due()
            {
                warn!(%error, "points cannot be flushed and may be lost in a crash");
            }
            flushed = Instant::now();
        }
        if is_end {
            return;
        }
    }
}
