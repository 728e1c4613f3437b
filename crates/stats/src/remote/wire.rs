//! Prometheus remote write 1.0: the messages, and how points become one.
//!
//! ```text
//! message WriteRequest { repeated TimeSeries timeseries = 1; }
//! message TimeSeries   { repeated Label labels = 1; repeated Sample samples = 2; }
//! message Label        { string name = 1; string value = 2; }
//! message Sample       { double value = 1; int64 timestamp = 2; }      timestamp: milliseconds since 1970
//! ```
//! Labels are sorted by name, `__name__` among them; a series comes once, its samples in the order of time, each time once. The
//! message is compressed with Snappy in its raw form, not the framed one.
//!
//! Source: the Prometheus Remote-Write 1.0 specification, "Protocol".

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use lockstep_series::{Batch, Point, SeriesKey};
use prost::Message as _;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Label {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Sample {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
    #[prost(int64, tag = "2")]
    pub(super) timestamp: i64,
}

/// A request that is ready to go.
#[derive(Debug, PartialEq)]
pub(super) struct Encoded {
    /// Compressed; empty when there is nothing to send.
    pub(super) body: Vec<u8>,
    /// Samples in it.
    pub(super) samples: u64,
    /// Points of series that have no name, left out.
    pub(super) unnamed: u64,
    /// The earliest time in it, in seconds.
    pub(super) oldest_s: Option<i64>,
}

/// The request that carries a batch; `name` gives the labels of a series, sorted by name, if it has any.
pub(super) fn encode(batch: &Batch, name: impl Fn(SeriesKey) -> Option<Vec<Label>>) -> Result<Encoded, snap::Error> {
    let mut series: Vec<(Vec<Label>, Vec<Point>)> = Vec::new();
    // Where a series is; `None` for one without a name.
    let mut places: HashMap<SeriesKey, Option<usize>> = HashMap::new();
    let mut unnamed = 0;
    for (key, points) in batch.iter() {
        let place = match places.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(name(key).map(|labels| {
                series.push((labels, Vec::new()));
                series.len() - 1
            })),
        };
        match place {
            Some(place) => series[place].1.extend_from_slice(points),
            None => unnamed += points.len() as u64,
        }
    }
    let mut encoded = Encoded { body: Vec::new(), samples: 0, unnamed, oldest_s: None };
    let mut request = WriteRequest { timeseries: Vec::with_capacity(series.len()) };
    for (labels, points) in series {
        let samples = samples(points);
        encoded.samples += samples.len() as u64;
        let first_s = samples.first().map(|sample| sample.timestamp.div_euclid(1000));
        encoded.oldest_s = [encoded.oldest_s, first_s].into_iter().flatten().min();
        request.timeseries.push(TimeSeries { labels, samples });
    }
    if encoded.samples > 0 {
        encoded.body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
    }
    Ok(encoded)
}

/// Points of one series in the order of time; of those of one second the one that came last counts.
fn samples(mut points: Vec<Point>) -> Vec<Sample> {
    // Most often sorted already, which this finds out in one pass. It must be stable.
    points.sort_by_key(|point| point.time_s);
    let mut samples: Vec<Sample> = Vec::with_capacity(points.len());
    for Point { time_s, value } in points {
        let sample = Sample { value, timestamp: time_s.saturating_mul(1000) };
        match samples.last_mut() {
            Some(last) if last.timestamp == sample.timestamp => *last = sample,
            Some(_) | None => samples.push(sample),
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(encoded: &Encoded) -> WriteRequest {
        let message = snap::raw::Decoder::new().decompress_vec(&encoded.body).unwrap();
        WriteRequest::decode(&*message).unwrap()
    }

    fn label(name: &str, value: &str) -> Label {
        Label { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn a_series_comes_once_in_the_order_of_time_and_the_last_of_a_second_counts() {
        let key = |counter| SeriesKey { counter, address: 1 };
        let point = |time_s, value| Point { time_s, value };
        let mut batch = Batch::new();
        batch.push(key(1), &[point(20, 2.0), point(30, 3.0)]);
        batch.push(key(2), &[point(5, 9.0)]);
        batch.push(key(1), &[point(10, 1.0), point(20, 2.5)]);
        batch.push(key(3), &[point(1, 1.0), point(2, 1.0)]);
        let name = |key: SeriesKey| (key.counter < 3).then(|| vec![label("cid", &key.counter.to_string())]);
        let encoded = encode(&batch, name).unwrap();
        assert_eq!((encoded.samples, encoded.unnamed, encoded.oldest_s), (4, 2, Some(5)));
        let sample = |timestamp, value| Sample { value, timestamp };
        let expected = [
            TimeSeries {
                labels: vec![label("cid", "1")],
                samples: vec![sample(10_000, 1.0), sample(20_000, 2.5), sample(30_000, 3.0)],
            },
            TimeSeries { labels: vec![label("cid", "2")], samples: vec![sample(5_000, 9.0)] },
        ];
        assert_eq!(read(&encoded).timeseries, expected);
    }

    #[test]
    fn a_batch_of_nothing_known_has_no_body() {
        let mut batch = Batch::new();
        batch.push_point(SeriesKey { counter: 1, address: 1 }, Point { time_s: 1, value: 1.0 });
        let encoded = encode(&batch, |_| None).unwrap();
        assert_eq!(encoded, Encoded { body: Vec::new(), samples: 0, unnamed: 1, oldest_s: None });
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let mut batch = Batch::new();
        batch.push_point(SeriesKey { counter: 1, address: 1 }, Point { time_s: 1, value: 1.0 });
        let encoded = encode(&batch, |_| Some(vec![label("a", "b")])).unwrap();
        let message = snap::raw::Decoder::new().decompress_vec(&encoded.body).unwrap();
        let expected = b"\x0a\x16\x0a\x06\x0a\x01a\x12\x01b\x12\x0c\x09\0\0\0\0\0\0\xf0\x3f\x10\xe8\x07";
        assert_eq!(message, expected);
    }
}
