//! The write-ahead log: segments of frames, the last of which grows.
//!
//! ```text
//! log-<number>.seg   head frame | frame of batches | frame of batches | …
//! head's payload     format u32 | salt u32 | segment u64 | previous bytes u64 | previous points u64
//! ```
//! A head says how long the segment before is and how many points it has: a cut of a segment that is not the last one is noticed, and
//! what waits for being forwarded is known without reading it. Segments are numbered without holes.

use std::sync::Arc;

use crate::StoreError;
use crate::error::Corrupt;
use crate::files::{FORMAT, NotPublished, damaged, failed, publish};
use crate::frame::{self, HEADER_BYTES, Kind};
use crate::input::Input;
use lockstep_storage::{Storage, StoredFile};

/// Bytes of a segment's head frame.
pub(crate) const HEAD_BYTES: u64 = HEADER_BYTES as u64 + 32;

/// How much of a segment is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    pub(crate) points: u64,
}

/// What a segment's head says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentHead {
    pub(crate) salt: u32,
    pub(crate) previous: Extent,
}

/// The end of the last segment, where frames are appended.
pub(crate) struct Tail {
    pub(crate) file: Arc<dyn StoredFile>,
    pub(crate) segment: u64,
    pub(crate) salt: u32,
    /// The number of the next frame.
    pub(crate) number: u64,
    pub(crate) extent: Extent,
}

pub(crate) fn name(segment: u64) -> String {
    format!("log-{segment:016}.seg")
}

/// The number of the segment with this name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    let number = digits.parse().ok()?;
    // Another spelling of a number is no file of ours.
    (self::name(number) == name).then_some(number)
}

/// Makes a segment, durably.
pub(crate) fn create(storage: &dyn Storage, segment: u64, previous: Extent) -> Result<Tail, NotPublished> {
    let name = name(segment);
    let salt = getrandom::u32().map_err(|error| {
        let source = std::io::Error::other(error);
        let what = "cannot draw a random number for";
        NotPublished::Surely(StoreError::Io { what, path: storage.shown(&name), source })
    })?;
    let mut head = vec![0; HEADER_BYTES];
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&salt.to_le_bytes());
    for number in [segment, previous.bytes, previous.points] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    frame::seal(&mut head, 0, Kind::Head, 0, 0);
    debug_assert_eq!(head.len() as u64, HEAD_BYTES);
    let file = publish(storage, &name, &head)?;
    Ok(Tail { file, segment, salt, number: 1, extent: Extent { bytes: HEAD_BYTES, points: 0 } })
}

/// Reads the head at the beginning of a segment's content.
pub(crate) fn read_head(storage: &dyn Storage, segment: u64, content: &[u8]) -> Result<SegmentHead, StoreError> {
    let name = name(segment);
    let wrong = |reason| damaged(storage, &name, 0, reason);
    let (header, payload) = frame::open(content, 0).map_err(wrong)?;
    if header.kind != Kind::Head {
        return Err(wrong(Corrupt("the file is of another kind")));
    }
    let mut input = Input::new(payload);
    let found = input.u32().map_err(wrong)?;
    if found != FORMAT {
        return Err(StoreError::Format { path: storage.shown(&name), found, known: FORMAT });
    }
    let mut read = || {
        let salt = input.u32()?;
        let number = input.u64()?;
        let previous = Extent { bytes: input.u64()?, points: input.u64()? };
        input.end()?;
        if number != segment {
            return Err(Corrupt("the segment has another's name"));
        }
        Ok(SegmentHead { salt, previous })
    };
    read().map_err(wrong)
}

/// Reads only the head of a segment.
pub(crate) fn load_head(storage: &dyn Storage, segment: u64) -> Result<SegmentHead, StoreError> {
    let name = name(segment);
    let file = storage.open(&name).map_err(failed(storage, "cannot open", &name))?;
    let mut content = [0; HEAD_BYTES as usize];
    let read = file.read_at(0, &mut content).map_err(failed(storage, "cannot read", &name))?;
    read_head(storage, segment, &content[..read])
}

/// Reads frames of batches one after the other from a segment's content.
pub(crate) struct Frames<'a> {
    pub(crate) content: &'a [u8],
    pub(crate) salt: u32,
    pub(crate) at: usize,
    pub(crate) number: u64,
}

impl<'a> Frames<'a> {
    /// From behind the head.
    pub(crate) fn new(content: &'a [u8], salt: u32) -> Self {
        Self { content, salt, at: HEAD_BYTES as usize, number: 1 }
    }

    /// The next frame's number of points and payload; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Result<(u32, &'a [u8]), Corrupt>> {
        let rest = self.content.get(self.at..).filter(|rest| !rest.is_empty())?;
        let (header, payload) = match frame::open(rest, self.salt) {
            Ok(opened) => opened,
            Err(reason) => return Some(Err(reason)),
        };
        if header.kind != Kind::Batches || header.number != self.number {
            return Some(Err(Corrupt("a frame is out of place")));
        }
        self.at += header.frame_bytes() as usize;
        self.number += 1;
        Some(Ok((header.points, payload)))
    }
}
