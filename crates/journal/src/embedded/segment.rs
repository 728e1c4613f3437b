//! Log segments: `log-<first position>.seg`, a head and frames of commits, one group of batches a frame.

use std::sync::Arc;

use parking_lot::Mutex;

use super::file::{self, FileHead, FrameReader, Next, What, failed, random};
use crate::JournalError;
use crate::codec::CodecError;
use crate::frame::{HEADER_BYTES, Kind};
use lockstep_storage::{Storage, StoredFile};

/// Distance between the places of a segment that its index knows. A reader walks at most this far over headers.
const INDEX_EVERY_BYTES: u64 = 64 << 10;

/// One segment. Only the last one of the log grows.
pub(crate) struct Segment {
    /// The position of its first commit, or the one it will have.
    pub(crate) first: u64,
    /// The last position before it in the log; less than `first - 1` where recovery had to skip positions.
    pub(crate) previous: u64,
    pub(crate) name: String,
    /// Changed by the writer when a group is durable, and by whoever builds the index; held for a few lines.
    pub(crate) extent: Mutex<Extent>,
}

/// What it takes to append to a segment.
pub(crate) struct Tail {
    pub(crate) file: Arc<dyn StoredFile>,
    /// The salt of the segment's frames.
    pub(crate) salt: u32,
}

/// How far a segment goes, in what is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The position of its last commit; `first - 1` while there is none.
    pub(crate) last: u64,
    /// The length of the file.
    pub(crate) bytes: u64,
    /// Changes in its commits.
    pub(crate) changes: u64,
    /// How far time had come at its end.
    pub(crate) time_ms: i64,
    /// First positions of some frames, with where they begin. `None` until somebody needs it.
    pub(crate) index: Option<Vec<(u64, u64)>>,
}

impl Extent {
    /// Takes a frame into account that was found or written at `bytes`.
    pub(crate) fn grow(&mut self, frame: &Frame) {
        if let Some(index) = &mut self.index
            && index.last().is_none_or(|(_, at)| self.bytes - at >= INDEX_EVERY_BYTES)
        {
            index.push((frame.first, self.bytes));
        }
        self.last = frame.last;
        self.bytes += frame.bytes;
        self.changes += u64::from(frame.changes);
    }
}

/// What a frame adds to its segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) changes: u32,
}

/// The name of the segment that begins at a position. Twenty digits hold any, so names sort as positions do.
pub(crate) fn name(first: u64) -> String {
    format!("log-{first:020}.seg")
}

/// The position in a segment's name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let first = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    first.parse().ok().filter(|first| self::name(*first) == name)
}

impl Segment {
    /// Makes an empty segment, durably. One without commits that has the same place is replaced.
    pub(crate) fn create(
        storage: &dyn Storage,
        epoch: u64,
        first: u64,
        previous: u64,
        time_ms: i64,
    ) -> Result<(Arc<Self>, Tail), JournalError> {
        let salt = random()? as u32;
        let mut head = Vec::new();
        FileHead { what: What::Segment, salt, epoch, position: first, previous, time_ms }.seal(&mut head);
        let name = name(first);
        let file = file::publish(storage, &name, &head)?;
        let extent = Extent { last: first - 1, bytes: head.len() as u64, changes: 0, time_ms, index: Some(Vec::new()) };
        Ok((Arc::new(Self { first, previous, name, extent: Mutex::new(extent) }), Tail { file, salt }))
    }

    /// Opens a segment that is there, to read it from its first frame.
    pub(crate) fn open(storage: &dyn Storage, first: u64) -> Result<(Self, FrameReader, FileHead), JournalError> {
        let name = name(first);
        let (reader, head) = FrameReader::open(storage, &name, What::Segment)?;
        if head.position != first || first == 0 || head.previous >= first {
            return Err(reader.damaged(0, CodecError("the segment's positions do not fit its name")));
        }
        let extent =
            Extent { last: first - 1, bytes: reader.at(), changes: 0, time_ms: head.time_ms, index: Some(Vec::new()) };
        Ok((Self { first, previous: head.previous, name, extent: Mutex::new(extent) }, reader, head))
    }

    /// A reader of the frames after `after`, from the nearest place that the index knows.
    pub(crate) fn reader_after(&self, storage: &dyn Storage, after: u64) -> Result<FrameReader, JournalError> {
        let (mut reader, _) = FrameReader::open(storage, &self.name, What::Segment)?;
        let begin = reader.at();
        let extent = self.extent.lock().clone();
        let index = match extent.index {
            Some(index) => index,
            None => {
                reader.seek(begin, extent.bytes);
                let index = build_index(&mut reader)?;
                self.extent.lock().index = Some(index.clone());
                index
            }
        };
        let nearest = index.partition_point(|(first, _)| *first <= after.saturating_add(1)).checked_sub(1);
        reader.seek(nearest.map_or(begin, |nearest| index[nearest].1), extent.bytes);
        Ok(reader)
    }
}

fn build_index(reader: &mut FrameReader) -> Result<Vec<(u64, u64)>, JournalError> {
    let mut index: Vec<(u64, u64)> = Vec::new();
    loop {
        let at = reader.at();
        let reason = match reader.next()? {
            Next::Frame(header, _) => {
                if index.last().is_none_or(|(_, known)| at - known >= INDEX_EVERY_BYTES) {
                    index.push((header.first, at));
                }
                continue;
            }
            Next::End => return Ok(index),
            Next::Short(_) => CodecError("a frame is cut off"),
            Next::Bad(reason) => reason,
        };
        return Err(reader.damaged(at, reason));
    }
}

/// Whether anything that looks like a frame header of this segment begins after `at`.
///
/// The writer begins a frame only when the one before is durable, so a header behind a bad frame proves that the bad frame was
/// whole once.
pub(crate) fn has_frame_after(
    storage: &dyn Storage,
    name: &str,
    file: &dyn StoredFile,
    salt: u32,
    at: u64,
    end: u64,
) -> Result<bool, JournalError> {
    const WINDOW_BYTES: usize = 1 << 20;
    let mut window = vec![0; WINDOW_BYTES];
    let mut from = at + 1;
    while from + HEADER_BYTES as u64 <= end {
        let wanted = (end - from).min(WINDOW_BYTES as u64) as usize;
        let read = file.read_at(from, &mut window[..wanted]).map_err(failed(storage, "cannot read", name))?;
        if read < HEADER_BYTES {
            break;
        }
        let found = window[..read].windows(HEADER_BYTES).filter_map(|bytes| bytes.first_chunk()).any(|bytes| {
            bytes[0] == b'l' && crate::frame::Header::parse(bytes, salt).is_ok_and(|h| h.kind == Kind::Commits)
        });
        if found {
            return Ok(true);
        }
        from += (read - HEADER_BYTES + 1) as u64;
    }
    Ok(false)
}
