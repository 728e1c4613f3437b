//! A source's content at a time, and the same source at two times.

use std::time::Instant;

/// What a source held, and when. Each part of a reading has its own time: a reading is completed later where another
/// counter becomes due.
#[derive(Debug, Clone)]
pub(crate) struct Part<T> {
    pub(crate) taken: Instant,
    pub(crate) value: T,
}

impl<T> Part<T> {
    pub(crate) fn now(value: T) -> Self {
        Self { taken: Instant::now(), value }
    }
}

/// Readings nearer to each other say nothing of a rate: the kernel counts in hundredths of a second.
const SPAN_SECONDS_MIN: f64 = 0.1;

/// A source at two times.
pub(crate) struct Span<'a, T> {
    pub(crate) now: &'a T,
    pub(crate) before: &'a T,
    /// By the monotonic clock.
    pub(crate) seconds: f64,
}

impl<'a, T> Span<'a, T> {
    /// None where one of the two is not there, or they are too near.
    pub(crate) fn new(now: &'a Option<Part<T>>, before: Option<&'a Option<Part<T>>>) -> Option<Self> {
        let now = now.as_ref()?;
        let before = before?.as_ref()?;
        let seconds = now.taken.saturating_duration_since(before.taken).as_secs_f64();
        (seconds >= SPAN_SECONDS_MIN).then_some(Self { now: &now.value, before: &before.value, seconds })
    }

    /// What a count has grown by; none where it went back: it wrapped, or what it is of began anew.
    pub(crate) fn growth(&self, count: impl Fn(&T) -> Option<u64>) -> Option<f64> {
        count(self.now)?.checked_sub(count(self.before)?).map(|grown| grown as f64)
    }

    /// Growth a second.
    pub(crate) fn rate(&self, count: impl Fn(&T) -> Option<u64>) -> Option<f64> {
        Some(self.growth(count)? / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_over_the_time_that_passed_and_never_of_a_count_that_went_back() {
        let start = Instant::now();
        let part = |value: u64, ms: u64| Some(Part { taken: start + Duration::from_millis(ms), value });
        let rate = |before: &Option<Part<u64>>, now: &Option<Part<u64>>| {
            Span::new(now, Some(before))?.rate(|count| Some(*count))
        };
        assert_eq!(rate(&part(10, 0), &part(30, 2500)), Some(8.0));
        assert_eq!(rate(&part(30, 0), &part(10, 2500)), None);
        assert_eq!(rate(&part(10, 0), &part(30, 50)), None);
        assert_eq!(rate(&part(10, 2500), &part(30, 0)), None);
        assert_eq!(rate(&None, &part(30, 0)), None);
    }
}
