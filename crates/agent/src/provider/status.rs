//! What a provider does and has done.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lock;
use crate::sample::{Dropped, Now};
use crate::spool::Spool;

/// A provider at a moment. Counts are since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The id that the server gave; none until it has answered.
    pub provider: Option<String>,
    /// Acquisition specifications that it knows of.
    pub specs: u64,
    /// The epoch up to which it knows them, in seconds since 1970; 0: never synced.
    pub epoch: i64,
    /// Points that were taken.
    pub sampled_points: u64,
    /// Points that the server has taken.
    pub delivered_points: u64,
    /// Of those, what it did not keep: older than what it keeps, or of its future.
    pub unwanted_points: u64,
    /// Points that wait.
    pub waiting_points: u64,
    /// Bytes of the spool.
    pub waiting_bytes: u64,
    /// How old the oldest point is that waits, in seconds; none if none was seen to wait.
    pub lag_s: Option<i64>,
    /// Points that were lost: the spool was full or could not be written, or the server refused them.
    pub dropped_points: u64,
    /// Points that the storing thread could not take in time.
    pub overrun_points: u64,
    /// Ticks that were not done.
    pub dropped_ticks: Dropped,
    /// How long the last tick took.
    pub last_pass: Duration,
    /// What went wrong last; none while all goes well.
    pub last_error: Option<String>,
}

/// What the parts of a provider share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Held for appending, reading or acknowledging some frames; not while the disk is flushed or the server answers.
    spool: Mutex<Spool>,
    /// The texts, held for a copy.
    words: Mutex<Words>,
    pub(super) specs: AtomicU64,
    pub(super) epoch: AtomicI64,
    pub(super) sampled_points: AtomicU64,
    pub(super) delivered_points: AtomicU64,
    pub(super) unwanted_points: AtomicU64,
    pub(super) lost_points: AtomicU64,
    pub(super) overrun_points: AtomicU64,
    pub(super) late_ticks: AtomicU64,
    pub(super) clock_ticks: AtomicU64,
    pub(super) last_pass_us: AtomicU64,
    /// Of the oldest points that wait, in seconds since 1970; 0 if none do.
    pub(super) oldest_s: AtomicI64,
}

#[derive(Debug, Default)]
struct Words {
    provider: Option<String>,
    /// By what was done: each part takes back its own.
    errors: [Option<String>; 3],
}

/// What can go wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    Register,
    Sync,
    Deliver,
}

impl Shared {
    pub(super) fn new(spool: Spool) -> Self {
        Self {
            spool: Mutex::new(spool),
            words: Mutex::default(),
            specs: AtomicU64::default(),
            epoch: AtomicI64::default(),
            sampled_points: AtomicU64::default(),
            delivered_points: AtomicU64::default(),
            unwanted_points: AtomicU64::default(),
            lost_points: AtomicU64::default(),
            overrun_points: AtomicU64::default(),
            late_ticks: AtomicU64::default(),
            clock_ticks: AtomicU64::default(),
            last_pass_us: AtomicU64::default(),
            oldest_s: AtomicI64::default(),
        }
    }

    pub(super) fn spool(&self) -> MutexGuard<'_, Spool> {
        lock(&self.spool)
    }

    pub(super) fn provider(&self) -> Option<String> {
        lock(&self.words).provider.clone()
    }

    pub(super) fn set_provider(&self, id: String) {
        lock(&self.words).provider = Some(id);
    }

    /// Notes how a deed went.
    pub(super) fn note(&self, deed: Deed, error: Option<String>) {
        lock(&self.words).errors[deed as usize] = error;
    }

    pub(super) fn status(&self) -> Status {
        let (waiting_points, waiting_bytes, dropped_points) = {
            let spool = self.spool();
            (spool.points(), spool.bytes(), spool.dropped_points())
        };
        let (provider, last_error) = {
            let words = lock(&self.words);
            // Delivery matters most.
            (words.provider.clone(), words.errors.iter().rev().flatten().next().cloned())
        };
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let oldest_s = self.oldest_s.load(Ordering::Relaxed);
        Status {
            provider,
            specs: read(&self.specs),
            epoch: self.epoch.load(Ordering::Relaxed),
            sampled_points: read(&self.sampled_points),
            delivered_points: read(&self.delivered_points),
            unwanted_points: read(&self.unwanted_points),
            waiting_points,
            waiting_bytes,
            lag_s: (oldest_s != 0 && waiting_points > 0).then(|| (wall_ms() / 1000 - oldest_s).max(0)),
            dropped_points: dropped_points + read(&self.lost_points),
            overrun_points: read(&self.overrun_points),
            dropped_ticks: Dropped { late_ticks: read(&self.late_ticks), clock_ticks: read(&self.clock_ticks) },
            last_pass: Duration::from_micros(read(&self.last_pass_us)),
            last_error,
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// This moment by both clocks.
pub(super) fn now(start: std::time::Instant) -> Now {
    Now { wall_ms: wall_ms(), monotonic: start.elapsed() }
}
