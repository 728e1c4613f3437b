//! Forwarding: the log as the buffer of points that another store is to get.
//!
//! A cursor says how far the log was forwarded. Segments behind it may go once they are sealed; those before it stay, sealed or
//! not. After a crash forwarding goes on at the cursor that was made durable last, so points may go out twice, which a receiver
//! that identifies points by series and time does not notice.
//!
//! ```text
//! forwarded  one frame; its payload: format u32 | segment u64 | offset u64 | point u64 | points of the segment u64 | dropped u64
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Store;
use super::append::explain;
use crate::error::Corrupt;
use crate::files::{FORMAT, NotPublished, damaged, failed, publish, read_all};
use crate::frame::{self, HEADER_BYTES, Header, Kind};
use crate::input::Input;
use crate::log::{self, Extent, HEAD_BYTES};
use crate::manifest::open_file;
use crate::{AppendError, Batch, Point, StoreError, section};
use lockstep_storage::{Storage, StoredFile};

pub(super) const NAME: &str = "forwarded";

/// A place in the log; later ones are greater. It means something to the store it comes from only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cursor {
    pub(super) segment: u64,
    /// Where a frame begins.
    offset: u64,
    /// Points of that frame that come before.
    point: u64,
    /// Points of the segment that come before.
    segment_points: u64,
}

/// What waits for being forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ForwardLag {
    /// Points that wait.
    pub points: u64,
    /// Their log, in bytes.
    pub bytes: u64,
    /// Points that waited too long and were dropped, see [`Config::forward_bytes_max`](crate::Config::forward_bytes_max).
    pub points_dropped: u64,
}

/// How far the log was forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Forward {
    pub(super) cursor: Cursor,
    points_dropped: u64,
}

impl Forward {
    /// From the beginning of a segment.
    pub(super) fn from_segment(segment: u64) -> Self {
        Self { cursor: Cursor { segment, offset: HEAD_BYTES, point: 0, segment_points: 0 }, points_dropped: 0 }
    }

    pub(super) fn store(&self, storage: &dyn Storage) -> Result<(), NotPublished> {
        let Cursor { segment, offset, point, segment_points } = self.cursor;
        let mut payload = FORMAT.to_le_bytes().to_vec();
        for number in [segment, offset, point, segment_points, self.points_dropped] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        publish(storage, NAME, &frame::whole_file(Kind::Cursor, &payload)).map(|_| ())
    }

    pub(super) fn load(storage: &dyn Storage) -> Result<Self, StoreError> {
        let content = read_all(storage, NAME)?;
        let wrong = |reason| damaged(storage, NAME, 0, reason);
        let mut input = Input::new(open_file(&content, Kind::Cursor).map_err(wrong)?);
        let found = input.u32().map_err(wrong)?;
        if found != FORMAT {
            return Err(StoreError::Format { path: storage.shown(NAME), found, known: FORMAT });
        }
        let mut read = || {
            let (segment, offset, point) = (input.u64()?, input.u64()?, input.u64()?);
            let cursor = Cursor { segment, offset, point, segment_points: input.u64()? };
            let points_dropped = input.u64()?;
            input.end()?;
            Ok(Self { cursor, points_dropped })
        };
        read().map_err(wrong)
    }

    fn lag(&self, log: &BTreeMap<u64, Extent>) -> ForwardLag {
        let mut lag = ForwardLag { points_dropped: self.points_dropped, ..ForwardLag::default() };
        for (_, extent) in log.range(self.cursor.segment..) {
            lag.points += extent.points;
            lag.bytes += extent.bytes - HEAD_BYTES.min(extent.bytes);
        }
        lag.points = lag.points.saturating_sub(self.cursor.segment_points);
        lag.bytes = lag.bytes.saturating_sub(self.cursor.offset - HEAD_BYTES.min(self.cursor.offset));
        lag
    }
}

impl Store {
    /// The next points to forward, at most `max_points`, in the order in which they were appended, and the cursor to give to
    /// [`Store::forwarded`] when the receiver has them. `None` when nothing waits, or the log is not kept for forwarding.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the log is not what was written.
    pub fn unforwarded(&self, max_points: usize) -> Result<Option<(Cursor, Batch)>, StoreError> {
        if !self.config.keep_for_forwarding {
            return Ok(None);
        }
        let max_points = max_points.max(1);
        let forward = self.forward.lock();
        let log: Vec<(u64, Extent)> =
            self.log.lock().range(forward.cursor.segment..).map(|(segment, extent)| (*segment, *extent)).collect();
        let mut cursor = forward.cursor;
        let mut taken = Batch::new();
        for (segment, extent) in log {
            if taken.points() >= max_points {
                break;
            }
            if segment > cursor.segment {
                cursor = Forward::from_segment(segment).cursor;
            }
            let mut reader = None;
            while cursor.offset < extent.bytes && taken.points() < max_points {
                let reader = match &mut reader {
                    Some(reader) => reader,
                    None => reader.insert(SegmentReader::open(&*self.storage, segment)?),
                };
                let (header, payload) = reader.frame_at(cursor.offset)?;
                let before = taken.points();
                let (mut skipped, mut frame_points) = (0, 0);
                let decoded = section::decode_all(&payload, |batch| {
                    for (key, points) in batch.iter() {
                        frame_points += points.len() as u64;
                        // Points of the frame that were given out before.
                        let skip = (cursor.point - skipped).min(points.len() as u64);
                        skipped += skip;
                        let rest: &[Point] = &points[skip as usize..];
                        taken.push(key, &rest[..rest.len().min(max_points - taken.points())]);
                    }
                });
                decoded.map_err(|reason| reader.damaged(cursor.offset, reason))?;
                if frame_points != u64::from(header.points) {
                    return Err(reader.damaged(cursor.offset, Corrupt("a frame has other points than it says")));
                }
                let gained = (taken.points() - before) as u64;
                cursor.segment_points += gained;
                cursor.point += gained;
                if cursor.point == frame_points {
                    cursor = Cursor { offset: cursor.offset + header.frame_bytes(), point: 0, ..cursor };
                }
            }
        }
        Ok((!taken.is_empty()).then_some((cursor, taken)))
    }

    /// Makes it known that the receiver has everything before a cursor; durable when it returns. Older cursors change nothing.
    ///
    /// # Errors
    /// [`AppendError::Full`] or [`AppendError::Poisoned`].
    pub fn forwarded(&self, cursor: Cursor) -> Result<(), AppendError> {
        let mut forward = self.forward.lock();
        if cursor <= forward.cursor {
            return Ok(());
        }
        let next = Forward { cursor, ..*forward };
        self.store_forward(&mut forward, next)
    }

    fn store_forward(&self, forward: &mut Forward, next: Forward) -> Result<(), AppendError> {
        if let Some(reason) = self.poisoned.get() {
            return Err(AppendError::Poisoned(reason.clone()));
        }
        next.store(&*self.storage).map_err(|error| match error {
            NotPublished::Surely(StoreError::Full { .. }) => AppendError::Full,
            NotPublished::Surely(error) | NotPublished::Perhaps(error) => {
                AppendError::Poisoned(self.poison(&explain(&error)))
            }
        })?;
        *forward = next;
        Ok(())
    }

    /// What waits for being forwarded; nothing when the log is not kept for it.
    pub fn forward_lag(&self) -> ForwardLag {
        if !self.config.keep_for_forwarding {
            return ForwardLag::default();
        }
        let forward = self.forward.lock();
        let log = self.log.lock();
        forward.lag(&log)
    }

    /// Lets go of the oldest log that waits, beyond the limit. Only sealed segments, below `log_floor`, may go.
    pub(super) fn drop_unforwarded(&self, log_floor: u64) -> Result<(), AppendError> {
        let mut forward = self.forward.lock();
        let mut next = *forward;
        let log = self.log.lock().clone();
        while next.lag(&log).bytes > self.config.forward_bytes_max && next.cursor.segment < log_floor {
            let points = log.get(&next.cursor.segment).map_or(0, |extent| extent.points);
            let points_dropped = next.points_dropped + points.saturating_sub(next.cursor.segment_points);
            next = Forward { points_dropped, ..Forward::from_segment(next.cursor.segment + 1) };
        }
        if next == *forward {
            return Ok(());
        }
        let points = next.points_dropped - forward.points_dropped;
        tracing::warn!(points, "points waited too long for being forwarded and were dropped");
        self.store_forward(&mut forward, next)
    }
}

/// Reads frames here and there in a segment.
struct SegmentReader<'a> {
    storage: &'a dyn Storage,
    name: String,
    file: Arc<dyn StoredFile>,
    salt: u32,
}

impl<'a> SegmentReader<'a> {
    fn open(storage: &'a dyn Storage, segment: u64) -> Result<Self, StoreError> {
        let head = log::load_head(storage, segment)?;
        let name = log::name(segment);
        let file = storage.open(&name).map_err(failed(storage, "cannot open", &name))?;
        Ok(Self { storage, name, file, salt: head.salt })
    }

    /// The header and the payload of the frame that begins at `offset`.
    fn frame_at(&self, offset: u64) -> Result<(Header, Vec<u8>), StoreError> {
        let mut content = vec![0; HEADER_BYTES];
        self.fill(offset, &mut content)?;
        let wrong = |reason| self.damaged(offset, reason);
        let header = match content.first_chunk() {
            Some(header) => Header::parse(header, self.salt).map_err(wrong)?,
            None => return Err(wrong(Corrupt("a frame is cut off"))),
        };
        content.resize(header.frame_bytes() as usize, 0);
        self.fill(offset, &mut content)?;
        let (header, _) = frame::open(&content, self.salt).map_err(wrong)?;
        if header.kind != Kind::Batches {
            return Err(wrong(Corrupt("a frame is out of place")));
        }
        content.drain(..HEADER_BYTES);
        Ok((header, content))
    }

    fn fill(&self, offset: u64, content: &mut [u8]) -> Result<(), StoreError> {
        let read = self.file.read_at(offset, content).map_err(failed(self.storage, "cannot read", &self.name))?;
        if read < content.len() { Err(self.damaged(offset, Corrupt("a frame is cut off"))) } else { Ok(()) }
    }

    fn damaged(&self, offset: u64, reason: Corrupt) -> StoreError {
        damaged(self.storage, &self.name, offset, reason)
    }
}
