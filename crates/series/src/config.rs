//! What a store is told when it is opened.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::StoreError;

const HOUR_S: i64 = 3600;
const DAY_S: i64 = 24 * HOUR_S;

/// Width of a partition of raw points, in seconds: what is sealed, merged and dropped as one. A multiple of every tier's width, so
/// that a window is in one partition; 720 points of a counter sampled every 10 s, enough for a block that compresses well.
pub(crate) const RAW_PARTITION_S: i64 = 2 * HOUR_S;

/// Most of [`Config::raw_retention_s`], in seconds: each partition keeps some files open.
pub const RAW_RETENTION_S_MAX: i64 = 14 * DAY_S;

/// A width of windows over which points are rolled up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// Windows of five minutes.
    FiveMinutes,
    /// Windows of an hour.
    Hour,
}

impl Tier {
    /// Both, the finer one first.
    pub const ALL: [Tier; 2] = [Tier::FiveMinutes, Tier::Hour];

    /// Seconds of a window.
    pub fn window_s(self) -> i64 {
        match self {
            Self::FiveMinutes => 300,
            Self::Hour => HOUR_S,
        }
    }

    /// Width of a partition in seconds: some hundred windows, for blocks that compress well.
    pub(crate) fn partition_s(self) -> i64 {
        match self {
            Self::FiveMinutes => DAY_S,
            Self::Hour => 16 * DAY_S,
        }
    }
}

/// How a store works. Every value of a field is valid but for the retentions, which [`Store::open`](crate::Store::open) checks.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long points are kept, in seconds: 1 hour to [`RAW_RETENTION_S_MAX`]. Older ones are refused. They go two hours'
    /// worth at a time, so some stay up to two hours longer.
    pub raw_retention_s: i64,
    /// How long five-minute rollups are kept, in seconds; they go a day's worth at a time.
    pub five_minutes_retention_s: i64,
    /// How long hourly rollups are kept, in seconds; they go 16 days' worth at a time.
    pub hour_retention_s: i64,
    /// How far ahead of the clock a point may be, in seconds; later ones are refused: a machine with a wrong clock would hold back
    /// the sealing of its partition, and be its series' latest point for good.
    pub future_s_max: i64,
    /// Memory for points that are not in a part yet, in bytes. [`Store::wait_for_work`](crate::Store::wait_for_work) wakes at half
    /// of it; beyond it, appends are refused until housekeeping has sealed.
    pub head_bytes_max: usize,
    /// Keep the log for [`Store::unforwarded`](crate::Store::unforwarded).
    pub keep_for_forwarding: bool,
    /// Log that may wait for being forwarded, in bytes. Beyond it, the oldest is dropped and counted in
    /// [`ForwardLag::points_dropped`](crate::ForwardLag::points_dropped): a receiver that never comes back must not fill the disk.
    pub forward_bytes_max: u64,
    /// Size at which a segment of the log is closed, in bytes.
    pub segment_bytes_max: u64,
    /// Log that is not sealed yet, in bytes: beyond it the head is sealed, which bounds how long opening takes (some
    /// seconds for the default).
    pub log_bytes_max: u64,
    /// The time.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            raw_retention_s: DAY_S,
            five_minutes_retention_s: 30 * DAY_S,
            hour_retention_s: 366 * DAY_S,
            future_s_max: 600,
            head_bytes_max: 512 << 20,
            keep_for_forwarding: false,
            forward_bytes_max: 8 << 30,
            segment_bytes_max: 64 << 20,
            log_bytes_max: 256 << 20,
            clock: Clock::system(),
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let retention = |what, given_s, min_s, max_s| match (min_s..=max_s).contains(&given_s) {
            true => Ok(()),
            false => Err(StoreError::Retention { what, given_s, min_s, max_s }),
        };
        retention("points", self.raw_retention_s, HOUR_S, RAW_RETENTION_S_MAX)?;
        // Upper bounds only keep the arithmetic of times from overflowing.
        retention("five-minute rollups", self.five_minutes_retention_s, 0, 100 * 366 * DAY_S)?;
        retention("hourly rollups", self.hour_retention_s, 0, 100 * 366 * DAY_S)?;
        retention("points ahead of the clock", self.future_s_max, 0, DAY_S)
    }

    pub(crate) fn tier_retention_s(&self, tier: Tier) -> i64 {
        match tier {
            Tier::FiveMinutes => self.five_minutes_retention_s,
            Tier::Hour => self.hour_retention_s,
        }
    }
}

/// Tells the time; tests set it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(|| match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_secs() as i64,
            Err(_) => 0,
        }))
    }

    /// A clock that shows what `seconds` holds, in seconds since 1970.
    pub fn manual(seconds: Arc<AtomicI64>) -> Self {
        Self(Arc::new(move || seconds.load(Ordering::Relaxed)))
    }

    /// Seconds since 1970. Kept well inside of what an `i64` holds, so that adding a retention needs no check.
    pub(crate) fn now_s(&self) -> i64 {
        (self.0)().clamp(-(1 << 50), 1 << 50)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now_s())
    }
}
