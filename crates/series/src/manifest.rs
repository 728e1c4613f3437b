//! The manifest: which parts there are, and from where on the log counts. Replaced as a whole, it makes every step of
//! housekeeping happen at once: a part that it does not name is not there, and may be removed.
//!
//! ```text
//! manifest  one frame; its payload: format u32 | next part u64 | log floor u64 | last segment u64
//!           | mark: segment u64, bytes u64 | raw floor i64 | parts varint | each: kind u8, partition i64, id u64, bytes u64
//! ```

use crate::StoreError;
use crate::error::Corrupt;
use crate::files::{FORMAT, NotPublished, damaged, publish, read_all};
use crate::frame::{self, Kind};
use crate::input::{Input, put_varint};
use crate::part::{PartKind, PartName};
use lockstep_storage::Storage;

pub(crate) const NAME: &str = "manifest";

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The id for the next part. Never given twice, even for parts that came to nothing.
    pub(crate) next_part: u64,
    /// Segments below are in parts.
    pub(crate) log_floor: u64,
    /// A segment that existed when the manifest was written; one below it that is missing was lost. 0: none.
    pub(crate) last_segment: u64,
    /// A segment and how many of its bytes were durable: a bad frame before that is damage, not a torn write.
    pub(crate) mark: (u64, u64),
    /// Points before are refused and not kept: their partitions have been rolled up. `i64::MIN` at first.
    pub(crate) raw_floor_s: i64,
    pub(crate) parts: Vec<(PartName, u64)>,
}

impl Manifest {
    /// Of an empty store.
    pub(crate) fn new() -> Self {
        Self { next_part: 1, log_floor: 1, last_segment: 0, mark: (0, 0), raw_floor_s: i64::MIN, parts: Vec::new() }
    }

    pub(crate) fn store(&self, storage: &dyn Storage) -> Result<(), NotPublished> {
        let mut payload = FORMAT.to_le_bytes().to_vec();
        for number in [self.next_part, self.log_floor, self.last_segment, self.mark.0, self.mark.1] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend_from_slice(&self.raw_floor_s.to_le_bytes());
        put_varint(&mut payload, self.parts.len() as u64);
        for (name, bytes) in &self.parts {
            payload.push(name.kind.code());
            payload.extend_from_slice(&name.partition.to_le_bytes());
            payload.extend_from_slice(&name.id.to_le_bytes());
            payload.extend_from_slice(&bytes.to_le_bytes());
        }
        publish(storage, NAME, &frame::whole_file(Kind::Manifest, &payload)).map(|_| ())
    }

    pub(crate) fn load(storage: &dyn Storage) -> Result<Self, StoreError> {
        let content = read_all(storage, NAME)?;
        let payload = open_file(&content, Kind::Manifest).map_err(|reason| damaged(storage, NAME, 0, reason))?;
        let mut input = Input::new(payload);
        let wrong = |reason| damaged(storage, NAME, frame::HEADER_BYTES as u64, reason);
        let found = input.u32().map_err(wrong)?;
        if found != FORMAT {
            return Err(StoreError::Format { path: storage.shown(NAME), found, known: FORMAT });
        }
        Self::decode(&mut input).map_err(wrong)
    }

    fn decode(input: &mut Input<'_>) -> Result<Self, Corrupt> {
        let (next_part, log_floor, last_segment) = (input.u64()?, input.u64()?, input.u64()?);
        let mark = (input.u64()?, input.u64()?);
        let raw_floor_s = input.i64()?;
        let mut parts = Vec::new();
        for _ in 0..input.count()? {
            let kind = PartKind::from_code(input.u8()?)?;
            parts.push((PartName { kind, partition: input.i64()?, id: input.u64()? }, input.u64()?));
        }
        input.end()?;
        Ok(Self { next_part, log_floor, last_segment, mark, raw_floor_s, parts })
    }
}

/// The payload of a file that is one frame.
pub(crate) fn open_file(content: &[u8], kind: Kind) -> Result<&[u8], Corrupt> {
    let (header, payload) = frame::open(content, 0)?;
    if header.kind != kind || header.frame_bytes() != content.len() as u64 {
        return Err(Corrupt("the file is of another kind"));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoreError, Tier};
    use lockstep_storage::faulty::Disk;

    #[test]
    fn a_manifest_comes_back_and_no_flipped_bit_goes_unnoticed() {
        let disk = Disk::default();
        let name = |kind, partition, id| PartName { kind, partition, id };
        let manifest = Manifest {
            next_part: 12,
            log_floor: 3,
            last_segment: 4,
            mark: (4, 999),
            raw_floor_s: -7200,
            parts: vec![
                (name(PartKind::Raw, -7200, 11), 5000),
                (name(PartKind::Rollups(Tier::Hour), 0, 2), 6000),
                (name(PartKind::Rollups(Tier::FiveMinutes), 86400, 7), 1),
            ],
        };
        manifest.store(&disk).unwrap();
        assert_eq!(Manifest::load(&disk).unwrap(), manifest);
        let bits = disk.tamper(NAME, |bytes| bytes.len() * 8);
        for bit in 0..bits {
            disk.tamper(NAME, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            assert!(matches!(Manifest::load(&disk), Err(StoreError::Damaged { .. })), "bit {bit}");
            disk.tamper(NAME, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        }
    }
}
