//! Measured times and what is said of them: the median, the 99th percentile, the worst.

use std::time::Duration;

use serde_json::{Value, json};

/// A set of measured times.
#[derive(Debug, Default, Clone)]
pub struct Latencies {
    samples: Vec<Duration>,
}

impl Latencies {
    pub fn push(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    pub fn extend(&mut self, other: Latencies) {
        self.samples.extend(other.samples);
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Median, 99th percentile and maximum; `None` when nothing was measured.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let max = *sorted.last()?;
        Some(Summary { count: sorted.len(), p50: nearest_rank(&sorted, 0.50), p99: nearest_rank(&sorted, 0.99), max })
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Latencies { samples: samples.into_iter().collect() }
    }
}

/// The smallest sample that at least `share` of all samples do not exceed. `sorted` is not empty.
fn nearest_rank(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// What is printed of a set of times.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Summary {
    /// How far the slow requests are from the usual one.
    pub fn spread(&self) -> f64 {
        ratio(self.p99, self.p50)
    }

    /// The figures in microseconds.
    pub fn json(&self) -> Value {
        json!({"count": self.count, "p50_us": micros(self.p50), "p99_us": micros(self.p99), "max_us": micros(self.max)})
    }
}

/// `a / b`; infinite when `b` is zero and `a` is not.
pub fn ratio(a: Duration, b: Duration) -> f64 {
    if a == b { 1.0 } else { a.as_secs_f64() / b.as_secs_f64() }
}

/// A time in microseconds, with its fraction.
pub fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// A time for a table: three significant digits and a unit.
pub fn show(time: Duration) -> String {
    let us = micros(time);
    match us {
        _ if us < 1_000.0 => format!("{} µs", digits(us)),
        _ if us < 1_000_000.0 => format!("{} ms", digits(us / 1e3)),
        _ => format!("{} s", digits(us / 1e6)),
    }
}

fn digits(x: f64) -> String {
    match x {
        _ if x < 10.0 => format!("{x:.2}"),
        _ if x < 100.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_nearest_rank() {
        let times: Latencies = (1..=100).rev().map(Duration::from_millis).collect();
        let s = times.summary().unwrap();
        assert_eq!((s.p50.as_millis(), s.p99.as_millis(), s.max.as_millis()), (50, 99, 100));
        let one: Latencies = [Duration::from_millis(7)].into_iter().collect();
        let s = one.summary().unwrap();
        assert_eq!((s.p50.as_millis(), s.p99.as_millis(), s.max.as_millis()), (7, 7, 7));
        assert!(Latencies::default().summary().is_none());
    }

    #[test]
    fn times_are_shown_with_three_digits() {
        let check = |ns: u64, expected: &str| assert_eq!(show(Duration::from_nanos(ns)), expected);
        check(1_234, "1.23 µs");
        check(45_678, "45.7 µs");
        check(123_456, "123 µs");
        check(1_234_567, "1.23 ms");
        check(2_500_000_000, "2.50 s");
    }
}
