//! Made-up points: many hosts with the same counters, each value a random walk with the counter's own digits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lockstep_contract::counters::{COUNTERS, Counter, ResourceKind};
use lockstep_contract::points::{Batch, Identifier, Series};
use prost::Message as _;

/// Counters of each host: the first ones of the catalogue.
pub const HOST_COUNTERS: usize = 20;

/// What each batch holds.
#[derive(Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    /// Hosts in a batch, each with [`HOST_COUNTERS`] series.
    pub hosts: usize,
    /// Points of each series in a batch.
    pub points: usize,
    /// Seconds between them.
    pub step_s: i64,
}

impl Shape {
    /// Series in a batch.
    pub fn series(&self) -> usize {
        self.hosts * HOST_COUNTERS
    }

    /// Points in a batch.
    pub fn batch_points(&self) -> usize {
        self.series() * self.points
    }

    /// Seconds that a batch covers.
    pub fn batch_s(&self) -> i64 {
        self.step_s * self.points as i64
    }
}

/// The counters of [`HOST_COUNTERS`].
pub fn counters() -> impl Iterator<Item = &'static Counter> {
    COUNTERS.iter().filter(|counter| counter.kind == ResourceKind::Host).take(HOST_COUNTERS)
}

/// The name of a host.
pub fn host(number: usize) -> String {
    format!("host-{number:05}")
}

/// Makes the batches of some hosts, one after the other in time.
pub struct Load {
    shape: Shape,
    first_host: usize,
    next_s: i64,
    /// Values by host and counter, in thousandths.
    values: Vec<i64>,
    random: u64,
}

impl Load {
    /// Batches of `shape` for the hosts from `first_host` on, the first point at `from_s`.
    pub fn new(shape: Shape, first_host: usize, from_s: i64) -> Self {
        let random = 0x9e37_79b9_7f4a_7c15 ^ (first_host as u64 + 1);
        let values = (0..shape.series()).map(|i| 1_000_000 + 1_000 * i as i64).collect();
        Load { shape, first_host, next_s: from_s, values, random }
    }

    /// xorshift64.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// The next batch.
    pub fn batch(&mut self) -> Batch {
        let mut series = Vec::with_capacity(self.shape.series());
        for h in 0..self.shape.hosts {
            let address = vec![Identifier { r#type: "HOST".to_owned(), id: host(self.first_host + h) }];
            for (c, counter) in counters().enumerate() {
                let at = h * HOST_COUNTERS + c;
                let mut values = Vec::with_capacity(self.shape.points);
                for _ in 0..self.shape.points {
                    self.values[at] += (self.random() % 5001) as i64 - 2500;
                    values.push(counter.round(self.values[at] as f64 / 1000.0));
                }
                let times = (0..self.shape.points as i64).map(|n| self.next_s + n * self.shape.step_s);
                series.push(Series {
                    cid: counter.cid.to_owned(),
                    address: address.clone(),
                    times: Series::deltas(times),
                    values,
                });
            }
        }
        self.next_s += self.shape.batch_s();
        Batch { series }
    }
}

/// Where the server takes points.
pub const WRITE_PATH: &str = "/api/lockstep/stats/points";

/// A batch as the body of a write to the server.
pub fn write_body(batch: &Batch) -> Vec<u8> {
    let mut body = String::from(r#"{"points":""#);
    STANDARD.encode_string(batch.encode_to_vec(), &mut body);
    body.push_str(r#""}"#);
    body.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_each_other_in_time() {
        let shape = Shape { name: "x", hosts: 2, points: 3, step_s: 10 };
        let mut load = Load::new(shape, 7, 1000);
        let (first, second) = (load.batch(), load.batch());
        assert_eq!(first.series.len(), shape.series());
        assert!(first.series[0].times_s().eq([1000, 1010, 1020]));
        assert!(second.series[0].times_s().eq([1030, 1040, 1050]));
        let last = first.series.last().unwrap();
        assert_eq!((last.values.len(), &*last.address[0].id), (3, "host-00008"));
        assert_eq!(Load::new(shape, 7, 1000).batch(), first, "the same at every run");
    }
}
