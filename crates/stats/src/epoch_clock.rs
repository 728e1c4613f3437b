//! The present, as cache sync counts it.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// Seconds since 1970 by the system's clock.
pub(crate) fn system_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A clock that never goes back: it goes with the system's, and by itself while that is behind.
///
/// A sync without an end closes the present second. Were the present what the log says, its last commit or more, a commit and a sync in
/// turn would each push it a second further, as often as they come, and the log's time would run away from the world's. This clock goes
/// a second a second whatever they do.
pub(crate) struct EpochClock {
    /// A moment and what the clock showed then. Held to read it or move it ahead.
    known: Mutex<(Instant, Duration)>,
}

impl EpochClock {
    /// A clock that shows the system's time, or `at_least_s` where that is later: the log of a server whose clock was ahead.
    pub(crate) fn new(at_least_s: i64) -> Self {
        let shown = Duration::from_secs(at_least_s.max(system_s()).max(0).unsigned_abs());
        Self { known: Mutex::new((Instant::now(), shown)) }
    }

    /// Seconds since 1970.
    pub(crate) fn now_s(&self) -> i64 {
        let system = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.read(Instant::now(), system)
    }

    fn read(&self, at: Instant, system: Duration) -> i64 {
        let mut known = self.known.lock();
        let shown = known.1 + at.saturating_duration_since(known.0);
        let now = shown.max(system);
        *known = (at.max(known.0), now);
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_while_the_system_clock_is_behind() {
        let start = Instant::now();
        let clock = EpochClock { known: Mutex::new((start, Duration::from_secs(1000))) };
        let read = |after_s: u64, system_s: u64| {
            clock.read(start + Duration::from_secs(after_s), Duration::from_secs(system_s))
        };
        assert_eq!(read(0, 1000), 1000);
        assert_eq!(read(5, 2000), 2000, "a jump ahead is followed");
        assert_eq!(read(7, 1500), 2002, "a jump back is not");
        assert_eq!(read(6, 1500), 2002, "nor is a late look at an early moment");
        assert_eq!(read(600, 2599), 2599);
    }
}
