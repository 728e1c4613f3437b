//! Frames: points as they are written down, and how they are put together and apart.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use lockstep_contract::points::{Batch, Identifier, Series};
use prost::Message as _;

use super::{FRAME_POINTS_MAX, SpoolError};

/// What begins a frame.
const MAGIC: [u8; 4] = *b"LSPF";
/// Mark, length, points and check sum.
pub(super) const HEAD_BYTES: usize = 16;
/// A payload that claims to be larger is damage.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Where the next mark of a frame is.
pub(super) fn next_mark(content: &[u8], from: usize) -> Option<usize> {
    let rest = content.get(from..)?;
    rest.windows(MAGIC.len()).position(|window| window == MAGIC).map(|at| from + at)
}

/// The length of the whole frame at the beginning, and its points.
pub(super) fn check(content: &[u8]) -> Option<(usize, u32)> {
    let word = |at: usize| Some(u32::from_le_bytes(content.get(at..at + 4)?.try_into().ok()?));
    if content.get(..4)? != MAGIC {
        return None;
    }
    let (length, points, expected) = (word(4)? as usize, word(8)?, word(12)?);
    let payload = content.get(HEAD_BYTES..)?.get(..length).filter(|payload| payload.len() <= PAYLOAD_BYTES_MAX)?;
    (checksum(&content[4..12], payload) == expected).then_some((HEAD_BYTES + length, points))
}

fn checksum(numbers: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(numbers), payload)
}

pub(super) fn encode(batch: &Batch, points: u32) -> Result<Vec<u8>, SpoolError> {
    let plain = batch.encode_to_vec();
    let too_large = || SpoolError::TooLarge { bytes: plain.len() };
    let payload = lz4_flex::compress_prepend_size(&plain);
    let length = u32::try_from(payload.len()).map_err(|_| too_large())?;
    if plain.len() > PAYLOAD_BYTES_MAX {
        return Err(too_large());
    }
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&points.to_le_bytes());
    let sum = checksum(&frame[4..12], &payload);
    frame.extend_from_slice(&sum.to_le_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

pub(super) fn decode(frame: &[u8]) -> Option<Batch> {
    let (length, _) = check(frame)?;
    let payload = frame.get(HEAD_BYTES..length)?;
    // The size before the content decides how much memory is taken.
    let size = u32::from_le_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    if size > PAYLOAD_BYTES_MAX {
        return None;
    }
    Batch::decode(lz4_flex::decompress_size_prepended(payload).ok()?.as_slice()).ok()
}

/// How many points there are.
pub(crate) fn count(batch: &Batch) -> usize {
    batch.series.iter().map(|series| series.values.len()).sum()
}

/// Batches of [`FRAME_POINTS_MAX`] points at most, unless a series alone has more.
pub(super) fn split(batch: Batch) -> Vec<Batch> {
    if count(&batch) <= FRAME_POINTS_MAX {
        return if batch.series.is_empty() { Vec::new() } else { vec![batch] };
    }
    let mut parts = Vec::new();
    let mut part = Batch::default();
    let mut points = 0;
    for series in batch.series {
        if points > 0 && points + series.values.len() > FRAME_POINTS_MAX {
            parts.push(std::mem::take(&mut part));
            points = 0;
        }
        points += series.values.len();
        part.series.push(series);
    }
    parts.push(part);
    parts
}

/// Batches put together, the points of a series in one place: so its counter and address travel once.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) batch: Batch,
    /// Where a series is, and its last time.
    places: HashMap<(String, Vec<Identifier>), (usize, i64)>,
}

impl Merged {
    pub(super) fn add(&mut self, batch: Batch) {
        for series in batch.series {
            let Some(last_s) = series.times_s().last() else { continue };
            let Series { cid, address, times, values } = series;
            match self.places.entry((cid, address)) {
                Entry::Vacant(entry) => {
                    let (cid, address) = entry.key().clone();
                    entry.insert((self.batch.series.len(), last_s));
                    self.batch.series.push(Series { cid, address, times, values });
                }
                Entry::Occupied(mut entry) => {
                    let (place, before_s) = entry.get_mut();
                    let Some(series) = self.batch.series.get_mut(*place) else { continue };
                    // The first time is whole, and becomes the difference to the last one that is there.
                    let mut times = times.into_iter();
                    series.times.extend(times.next().map(|first| first.wrapping_sub(*before_s)));
                    series.times.extend(times);
                    series.values.extend(values);
                    *before_s = last_s;
                }
            }
        }
    }
}
