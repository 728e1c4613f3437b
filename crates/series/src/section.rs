//! Sections: batches as they stand in the log. A frame holds those that became durable together, one after the other.
//!
//! ```text
//! section bytes u32 | runs varint | points varint
//! runs     counter, address: signed differences to the run before; points varint
//! times    signed difference to the point before in the run; a run's first: to the first of the run before
//! values   trimmed, see `codec.rs`
//! ```
//! Made for the write path: a point takes 6 bytes in a long run and 9 in one of its own, and encoding some tens of nanoseconds.

use crate::codec::{put_trimmed, read_trimmed};
use crate::error::Corrupt;
use crate::input::{Input, put_signed, put_varint};
use crate::{BATCH_POINTS_MAX, Batch, Point, SeriesKey};

/// Appends a batch.
pub(crate) fn encode(batch: &Batch, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    put_varint(out, batch.runs() as u64);
    put_varint(out, batch.points() as u64);
    let mut before = SeriesKey { counter: 0, address: 0 };
    for (key, points) in batch.iter() {
        put_signed(out, key.counter.wrapping_sub(before.counter));
        put_signed(out, key.address.wrapping_sub(before.address) as i64);
        put_varint(out, points.len() as u64);
        before = key;
    }
    let mut first_s = 0_i64;
    for (_, points) in batch.iter() {
        let mut before_s = first_s;
        for point in points {
            put_signed(out, point.time_s.wrapping_sub(before_s));
            before_s = point.time_s;
        }
        first_s = points.first().map_or(first_s, |point| point.time_s);
    }
    put_trimmed(out, batch.all_points().iter().map(|point| point.value));
    let bytes = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// Reads all sections of a frame.
pub(crate) fn decode_all(payload: &[u8], mut each: impl FnMut(Batch)) -> Result<(), Corrupt> {
    let mut input = Input::new(payload);
    while input.left() > 0 {
        let bytes = input.u32()? as usize;
        each(decode(input.bytes(bytes)?)?);
    }
    Ok(())
}

fn decode(section: &[u8]) -> Result<Batch, Corrupt> {
    let mut input = Input::new(section);
    let runs = input.count()?;
    let points = input.count()?;
    if points > BATCH_POINTS_MAX {
        return Err(Corrupt("a batch is too large"));
    }
    let mut keys = Vec::with_capacity(runs);
    let mut key = SeriesKey { counter: 0, address: 0 };
    let mut left = points as u64;
    for _ in 0..runs {
        key.counter = key.counter.wrapping_add(input.signed()?);
        key.address = key.address.wrapping_add(input.signed()? as u64);
        let count = input.varint()?;
        left = left.checked_sub(count).ok_or(Corrupt("runs have more points than the batch"))?;
        keys.push((key, count as usize));
    }
    if left > 0 {
        return Err(Corrupt("runs have fewer points than the batch"));
    }
    let mut times = Vec::with_capacity(points);
    let mut first_s = 0_i64;
    for &(_, count) in &keys {
        let mut time_s = first_s;
        for nth in 0..count {
            time_s = time_s.wrapping_add(input.signed()?);
            if nth == 0 {
                first_s = time_s;
            }
            times.push(Point { time_s, value: 0.0 });
        }
    }
    read_trimmed(&mut input, points, |nth, value| times[nth].value = value)?;
    input.end()?;
    let mut batch = Batch::with_capacity(runs, points);
    let mut rest = &times[..];
    for (key, count) in keys {
        let (points, after) = rest.split_at(count);
        batch.push(key, points);
        rest = after;
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(payload: &[u8]) -> Result<Vec<Batch>, Corrupt> {
        let mut batches = Vec::new();
        decode_all(payload, |batch| batches.push(batch)).map(|()| batches)
    }

    proptest! {
        #[test]
        fn any_batches_come_back(
            runs in proptest::collection::vec((any::<i64>(), any::<u64>(), proptest::collection::vec((any::<i64>(), any::<f64>()), 1..5)), 0..20),
            split in 0..20_usize,
        ) {
            let mut batches = vec![Batch::new(), Batch::new()];
            for (nth, (counter, address, points)) in runs.into_iter().enumerate() {
                let points: Vec<Point> = points.into_iter().map(|(time_s, value)| Point { time_s, value }).collect();
                batches[usize::from(nth >= split)].push(SeriesKey { counter, address }, &points);
            }
            let mut payload = Vec::new();
            batches.iter().for_each(|batch| encode(batch, &mut payload));
            let found = decoded(&payload);
            prop_assert_eq!(found.as_ref(), Ok(&batches));
            payload.pop();
            prop_assert!(decoded(&payload).is_err());
        }

        #[test]
        fn anything_is_decoded_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decoded(&payload);
            let mut framed = (payload.len() as u32).to_le_bytes().to_vec();
            framed.extend_from_slice(&payload);
            let _ = decoded(&framed);
        }
    }
}
