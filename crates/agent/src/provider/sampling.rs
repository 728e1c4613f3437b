//! The thread that samples.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use lockstep_contract::points::Batch;
use lockstep_contract::services::stats::cache::AcqSpec;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::backoff::Throttle;
use super::status::{Shared, now};
use crate::sample::{Dropped, Worker};
use crate::spool::count;

/// How long it sleeps at most, so that a clock that is set is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What the thread is told.
pub(super) enum Command {
    /// Go by these specifications.
    Specs(Vec<AcqSpec>),
    /// Say what this host can tell.
    Offer(oneshot::Sender<Vec<&'static str>>),
}

/// Samples until nobody can command any more.
pub(super) fn run(mut worker: Worker, commands: &Receiver<Command>, batches: &SyncSender<Batch>, shared: &Shared) {
    let start = Instant::now();
    let mut throttle = Throttle::default();
    let (mut logged, mut told) = (Dropped::default(), Dropped::default());
    loop {
        let until_next = worker.next_s().map_or(SLEEP_MAX, |next_s| {
            let ms = next_s.saturating_mul(1000).saturating_sub(now(start).wall_ms);
            Duration::from_millis(u64::try_from(ms).unwrap_or(0))
        });
        match commands.recv_timeout(until_next.min(SLEEP_MAX)) {
            Ok(Command::Specs(specs)) => worker.set(&specs, now(start)),
            Ok(Command::Offer(answer)) => {
                let _ = answer.send(worker.offered());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let began = Instant::now();
        let pass = worker.pass(now(start));
        if pass.ticks.is_empty() {
            continue;
        }
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.last_pass_us.store(took_us, Ordering::Relaxed);
        let points = count(&pass.batch) as u64;
        if points > 0 {
            shared.sampled_points.fetch_add(points, Ordering::Relaxed);
            match batches.try_send(pass.batch) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    shared.overrun_points.fetch_add(points, Ordering::Relaxed);
                }
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
        let dropped = worker.dropped();
        shared.late_ticks.store(dropped.late_ticks, Ordering::Relaxed);
        shared.clock_ticks.store(dropped.clock_ticks, Ordering::Relaxed);
        let overrun = shared.overrun_points.load(Ordering::Relaxed);
        let Dropped { late_ticks, clock_ticks } = dropped;
        if dropped != told {
            told = dropped;
            debug!(late_ticks, clock_ticks, "ticks were dropped");
        }
        if dropped != logged && throttle.is_due() {
            logged = dropped;
            warn!(late_ticks, clock_ticks, overrun, "ticks were dropped, all since the start");
        }
    }
}
