//! How long to wait after a failure, and how often to say so.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(30);
/// A failure that goes on is logged as often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Doubles from one second to half a minute.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure: at random between half of the time and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        // Without randomness all of it: it only spreads the load.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        full.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }
}

/// Lets a line through once a minute.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<Instant>,
}

impl Throttle {
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_begin_anew() {
        let mut backoff = Backoff::default();
        for full_s in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            let wait_s = backoff.next().as_secs_f64();
            assert!((full_s * 0.5..=full_s).contains(&wait_s), "{wait_s} of {full_s}");
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
        assert!((0..100).map(|_| backoff.next()).all(|wait| wait <= MAX));
    }

    #[test]
    fn a_line_is_let_through_once_a_minute() {
        let mut throttle = Throttle::default();
        assert!(throttle.is_due() && !throttle.is_due());
        throttle.last = Instant::now().checked_sub(LOG_INTERVAL);
        assert!(throttle.is_due());
    }
}
