//! Points that wait for delivery, in the order in which they were taken.
//!
//! # On disk
//! ```text
//! spool/0000000000000000.points   segments, filled one after the other, deleted when all in them is delivered
//! spool/0000000000000001.points
//! spool/delivered                 up to where all is delivered: segment, offset, check sum; 8 + 8 + 4 bytes, little endian
//! spool/refused/                  what the server did not take, for people to look at; the newest few
//!
//! segment = frame*
//! frame   = "LSPF"  length u32  points u32  check u32  payload
//!           payload: a points.Batch of protocol buffers, compressed by LZ4 with its size before it; length is the payload's,
//!           check is CRC-32C over length, points and payload; all little endian
//! ```
//! The number of a frame's points stands before it so that what is dropped can be counted without reading it.
//!
//! # What it promises
//! - What was [flushed](Spool::flush) survives `kill -9` and power loss. A frame that a crash tore off at the end is cut when the
//!   spool is opened; damage in between is skipped up to the next whole frame, with a line in the log.
//! - Frames are handed out oldest first, again and again until they are acknowledged. `delivered` is a hint, written without
//!   waiting for the disk: after a crash some frames may be sent again, which the server takes as one.
//! - It never takes more space than it was given: the oldest segment is dropped for the newest frame, counted and logged.
//!
//! In memory ([`Spool::in_memory`]) it holds the same frames and keeps the same order and limit, and nothing survives: for a
//! server that samples for itself and would only write everything twice.
//!
//! One thread at a time uses it. [`Spool::flush`] gives the file out, so that others need not wait for the disk.

mod frame;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_contract::points::Batch;
use prost::Message as _;
use tracing::warn;

use frame::{Merged, check, decode, encode, next_mark, split};

pub(crate) use frame::count;

/// A segment takes no further frame when it is as large; small enough that dropping the oldest loses little.
const SEGMENT_BYTES_MAX: u64 = 4 << 20;
/// Points of one frame; more are split into several.
pub const FRAME_POINTS_MAX: usize = 10_000;
/// Files of what the server did not take.
const REFUSED_FILES_MAX: usize = 16;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Points that cannot be written down.
    #[error("points of {bytes} bytes are more than a frame can hold")]
    TooLarge {
        /// Their size.
        bytes: usize,
    },
}

/// A place between frames: everything before it is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    segment: u64,
    offset: u64,
}

/// The oldest frames, together.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Their points, a series for each address and counter.
    pub batch: Batch,
    /// How many.
    pub points: u64,
    /// Where they end: to be acknowledged.
    pub end: Position,
}

/// Points that wait for delivery.
#[derive(Debug)]
pub struct Spool {
    store: Store,
    bytes_max: u64,
    /// Of each segment, the oldest first; the last one is being filled. Never empty.
    segments: VecDeque<Segment>,
    /// Up to where all is acknowledged.
    delivered: Position,
    dropped_points: u64,
}

#[derive(Debug)]
enum Store {
    Memory(VecDeque<Vec<u8>>),
    Disk { directory: PathBuf, current: Arc<File>, is_dirty: bool, written_delivered: Position },
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// Where frames begin, and their points.
    frames: VecDeque<(u64, u32)>,
}

impl Spool {
    /// A spool in memory of so many bytes at most.
    #[must_use]
    pub fn in_memory(bytes_max: u64) -> Self {
        Self {
            store: Store::Memory(VecDeque::from([Vec::new()])),
            bytes_max,
            segments: VecDeque::from([Segment { number: 0, bytes: 0, frames: VecDeque::new() }]),
            delivered: Position::default(),
            dropped_points: 0,
        }
    }

    /// Opens the spool of a directory, which is made if it is not there.
    ///
    /// A torn end is cut and damage is passed over, with a line in the log for each.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn open(directory: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Io { path, source }
        };
        fs::create_dir_all(directory).map_err(at(directory))?;
        let mut numbers: Vec<u64> = fs::read_dir(directory)
            .map_err(at(directory))?
            .filter_map(|entry| segment_number(entry.ok()?.file_name().to_str()?))
            .collect();
        numbers.sort_unstable();
        let mut segments = VecDeque::new();
        for number in numbers {
            let path = segment_path(directory, number);
            segments.push_back(Segment::open(&path, number).map_err(at(&path))?);
        }
        // A new one each time: a file that a crash may have torn is not written on.
        // Nor has it a number at which all is delivered already, should segments have been lost.
        let delivered = read_delivered(directory).unwrap_or_default();
        let after_last = segments.back().map_or(0, |last: &Segment| last.number + 1);
        let number = after_last.max(delivered.segment.saturating_add(1));
        let path = segment_path(directory, number);
        let current = create(&path).map_err(at(&path))?;
        segments.push_back(Segment { number, bytes: 0, frames: VecDeque::new() });
        let store = Store::Disk {
            directory: directory.to_owned(),
            current: Arc::new(current),
            is_dirty: false,
            written_delivered: delivered,
        };
        let mut spool = Self { store, bytes_max, segments, delivered: Position::default(), dropped_points: 0 };
        spool.acknowledge(delivered);
        Ok(spool)
    }

    /// Adds points behind all others. They are durable after the next flush.
    ///
    /// # Errors
    /// [`SpoolError`]; the points are not in the spool then.
    pub fn append(&mut self, batch: Batch) -> Result<(), SpoolError> {
        for part in split(batch) {
            let points = u32::try_from(count(&part)).unwrap_or(u32::MAX);
            let frame = encode(&part, points)?;
            self.append_frame(&frame, points)?;
        }
        Ok(())
    }

    fn append_frame(&mut self, frame: &[u8], points: u32) -> Result<(), SpoolError> {
        let bytes = frame.len() as u64;
        // Of a small spool not all must go when the oldest segment does.
        let segment_bytes_max = SEGMENT_BYTES_MAX.min(self.bytes_max / 4);
        let is_full = |segment: &Segment| segment.bytes > 0 && segment.bytes + bytes > segment_bytes_max;
        if self.segments.back().is_some_and(is_full) {
            self.begin_segment()?;
        }
        while self.bytes() + bytes > self.bytes_max && self.segments.len() > 1 {
            self.drop_oldest();
        }
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        match &mut self.store {
            Store::Memory(segments) => {
                segments.back_mut().map(|content| content.extend_from_slice(frame)).unwrap_or(())
            }
            Store::Disk { directory, current, is_dirty, .. } => {
                if let Err(source) = (&**current).write_all(frame) {
                    // What was written of it is behind the end, where nobody looks, and is written over.
                    let _ = current.set_len(segment.bytes);
                    let _ = (&**current).seek(SeekFrom::Start(segment.bytes));
                    return Err(SpoolError::Io { path: segment_path(directory, segment.number), source });
                }
                *is_dirty = true;
            }
        }
        segment.frames.push_back((segment.bytes, points));
        segment.bytes += bytes;
        Ok(())
    }

    /// The file to flush, if anything was written since the last time; `sync_data` on it makes all that durable.
    pub fn flush(&mut self) -> Option<Arc<File>> {
        match &mut self.store {
            Store::Memory(_) => None,
            Store::Disk { directory, current, is_dirty, written_delivered } => {
                if *written_delivered != self.delivered {
                    *written_delivered = self.delivered;
                    if let Err(error) = write_delivered(directory, self.delivered) {
                        warn!(%error, "cannot note what is delivered: it may be sent again");
                    }
                }
                std::mem::take(is_dirty).then(|| current.clone())
            }
        }
    }

    /// The oldest points, of whole frames, up to `points_max` unless one frame alone has more. None if nothing waits.
    ///
    /// A frame that cannot be read any more is passed over, with a line in the log.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn oldest(&mut self, points_max: usize) -> Result<Option<Waiting>, SpoolError> {
        let mut merged = Merged::default();
        let mut points = 0u64;
        let mut end = self.delivered;
        let mut damaged = Vec::new();
        'frames: for (at, segment) in self.segments.iter().enumerate() {
            let mut reader = None;
            for (index, (offset, frame_points)) in segment.frames.iter().enumerate() {
                if points > 0 && points + u64::from(*frame_points) > points_max as u64 {
                    break 'frames;
                }
                let next = segment.frames.get(index + 1).map_or(segment.bytes, |(next, _)| *next);
                match decode(&self.read_frame(at, *offset, next, &mut reader)?) {
                    Some(batch) => {
                        merged.add(batch);
                        points += u64::from(*frame_points);
                    }
                    None => {
                        warn!(segment = segment.number, offset, "points have been damaged and are passed over");
                        damaged.push((at, *offset, *frame_points));
                    }
                }
                end = Position { segment: segment.number, offset: next };
            }
        }
        for (at, offset, frame_points) in damaged {
            self.segments[at].frames.retain(|(found, _)| *found != offset);
            self.dropped_points += u64::from(frame_points);
        }
        if points == 0 {
            self.acknowledge(end);
            return Ok(None);
        }
        Ok(Some(Waiting { batch: merged.batch, points, end }))
    }

    fn read_frame(&self, at: usize, from: u64, to: u64, reader: &mut Option<File>) -> Result<Vec<u8>, SpoolError> {
        match &self.store {
            Store::Memory(segments) => {
                let range = usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(to).unwrap_or(usize::MAX);
                Ok(segments.get(at).and_then(|content| content.get(range)).unwrap_or_default().to_vec())
            }
            Store::Disk { directory, .. } => {
                let path = segment_path(directory, self.segments[at].number);
                let mut read = || {
                    let file = match reader {
                        Some(file) => file,
                        None => reader.insert(File::open(&path)?),
                    };
                    file.seek(SeekFrom::Start(from))?;
                    let mut frame = Vec::new();
                    file.take(to - from).read_to_end(&mut frame)?;
                    Ok(frame)
                };
                read().map_err(|source| SpoolError::Io { path: path.clone(), source })
            }
        }
    }

    /// All before a position is delivered, and goes.
    pub fn acknowledge(&mut self, end: Position) {
        self.delivered = self.delivered.max(end);
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|first| {
                first.number < self.delivered.segment
                    || (first.number == self.delivered.segment && first.bytes <= self.delivered.offset)
            })
        {
            self.remove_first();
        }
        if let Some(first) = self.segments.front_mut().filter(|first| first.number == self.delivered.segment) {
            while first.frames.front().is_some_and(|(offset, _)| *offset < self.delivered.offset) {
                first.frames.pop_front();
            }
        }
    }

    /// Puts points aside that the server does not take, so that people can look at them. Of a spool in memory they are lost.
    pub fn set_aside(&mut self, waiting: &Waiting) {
        self.dropped_points += waiting.points;
        if let Store::Disk { directory, .. } = &self.store {
            let refused = directory.join("refused");
            let name = format!("{:016x}-{:08x}.points", waiting.end.segment, waiting.end.offset);
            let written = fs::create_dir_all(&refused)
                .and_then(|()| fs::write(refused.join(name), waiting.batch.encode_to_vec()))
                .and_then(|()| keep_newest(&refused));
            if let Err(error) = written {
                warn!(%error, "cannot keep the points that the server refused");
            }
        }
        self.acknowledge(waiting.end);
    }

    /// Bytes in the spool, those too that are delivered while others of their segment are not.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Points that wait.
    #[must_use]
    pub fn points(&self) -> u64 {
        self.segments.iter().map(Segment::points).sum()
    }

    /// Points that were given up: dropped for newer ones, refused, or damaged.
    #[must_use]
    pub fn dropped_points(&self) -> u64 {
        self.dropped_points
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        let number = self.segments.back().map_or(0, |last| last.number + 1);
        match &mut self.store {
            Store::Memory(segments) => segments.push_back(Vec::new()),
            Store::Disk { directory, current, is_dirty, .. } => {
                let path = segment_path(directory, number);
                let failed = |source| SpoolError::Io { path: path.clone(), source };
                if *is_dirty {
                    current.sync_data().map_err(failed)?;
                }
                *current = Arc::new(create(&path).map_err(failed)?);
                *is_dirty = false;
            }
        }
        self.segments.push_back(Segment { number, bytes: 0, frames: VecDeque::new() });
        Ok(())
    }

    fn drop_oldest(&mut self) {
        let Some(first) = self.segments.front() else { return };
        let points = first.points();
        self.dropped_points += points;
        warn!(points, bytes_max = self.bytes_max, "the spool is full: the oldest points are dropped");
        self.remove_first();
    }

    fn remove_first(&mut self) {
        let Some(first) = self.segments.pop_front() else { return };
        match &mut self.store {
            Store::Memory(segments) => {
                segments.pop_front();
            }
            Store::Disk { directory, .. } => {
                let path = segment_path(directory, first.number);
                if let Err(error) = fs::remove_file(&path) {
                    warn!(%error, path = %path.display(), "cannot delete points that are not needed any more");
                }
            }
        }
    }
}

impl Segment {
    fn points(&self) -> u64 {
        self.frames.iter().map(|(_, points)| u64::from(*points)).sum()
    }

    /// Finds the whole frames of a file, and cuts what is behind the last of them.
    fn open(path: &Path, number: u64) -> io::Result<Self> {
        let content = fs::read(path)?;
        let mut segment = Self { number, bytes: 0, frames: VecDeque::new() };
        let (mut at, mut end, mut damaged) = (0, 0, 0);
        while at < content.len() {
            match check(&content[at..]) {
                Some((length, points)) => {
                    damaged += at - end;
                    segment.frames.push_back((at as u64, points));
                    at += length;
                    end = at;
                }
                // The next frame begins with the next mark, unless that is a payload's, which its check tells.
                None => at = next_mark(&content, at + 1).unwrap_or(content.len()),
            }
        }
        if damaged > 0 {
            warn!(path = %path.display(), bytes = damaged, "damaged points are passed over");
        }
        if end < content.len() {
            let bytes = content.len() - end;
            warn!(path = %path.display(), bytes, "the torn end of the spool is cut off");
            OpenOptions::new().write(true).open(path)?.set_len(end as u64)?;
        }
        segment.bytes = end as u64;
        Ok(segment)
    }
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.points"))
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".points").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A new file whose name is durable.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

fn read_delivered(directory: &Path) -> Option<Position> {
    let content = fs::read(directory.join("delivered")).ok()?;
    let (place, sum) = content.split_at_checked(16)?;
    let is_whole = crc32c::crc32c(place).to_le_bytes() == *sum;
    let number = |at: usize| Some(u64::from_le_bytes(place.get(at..at + 8)?.try_into().ok()?));
    is_whole.then_some(Position { segment: number(0)?, offset: number(8)? })
}

fn write_delivered(directory: &Path, delivered: Position) -> io::Result<()> {
    let mut content = Vec::with_capacity(20);
    content.extend_from_slice(&delivered.segment.to_le_bytes());
    content.extend_from_slice(&delivered.offset.to_le_bytes());
    content.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
    let temporary = directory.join("delivered.tmp");
    fs::write(&temporary, content)?;
    fs::rename(temporary, directory.join("delivered"))
}

/// Deletes the oldest files of a directory until so many are left. Names are in the order of age.
fn keep_newest(directory: &Path) -> io::Result<()> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable();
    let surplus = paths.len().saturating_sub(REFUSED_FILES_MAX);
    paths.into_iter().take(surplus).try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use lockstep_contract::points::{Identifier, Series};

    use super::frame::HEAD_BYTES;
    use super::*;

    /// A point of one of a few series, told apart by its value.
    fn point(number: i64) -> Batch {
        let id = format!("vm-{}", number % 3);
        let series = Series {
            cid: "cpu.capacity.usage.VM".to_owned(),
            address: vec![Identifier { r#type: "VM".to_owned(), id }],
            times: Series::deltas([1_000_000 + number]),
            values: vec![number as f64],
        };
        Batch { series: vec![series] }
    }

    /// The numbers of points, by the value and, which must agree, by the time.
    fn numbers(batch: &Batch) -> Vec<i64> {
        let points = batch.series.iter().flat_map(|series| series.times_s().zip(&series.values));
        let mut numbers: Vec<i64> = points
            .map(|(time_s, value)| {
                assert_eq!(time_s - 1_000_000, *value as i64);
                *value as i64
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    fn waiting(spool: &mut Spool) -> Vec<i64> {
        spool.oldest(usize::MAX).unwrap().map(|waiting| numbers(&waiting.batch)).unwrap_or_default()
    }

    fn fill(spool: &mut Spool, range: std::ops::Range<i64>) {
        range.for_each(|number| spool.append(point(number)).unwrap());
        if let Some(file) = spool.flush() {
            file.sync_data().unwrap();
        }
    }

    /// Runs a check on both kinds.
    fn on_each(check: impl Fn(Spool)) {
        check(Spool::in_memory(1 << 20));
        let directory = tempfile::tempdir().unwrap();
        check(Spool::open(&directory.path().join("spool"), 1 << 20).unwrap());
    }

    #[test]
    fn points_come_out_oldest_first_until_they_are_acknowledged() {
        on_each(|mut spool| {
            assert_eq!(spool.oldest(10).unwrap(), None);
            fill(&mut spool, 0..10);
            let first = spool.oldest(4).unwrap().unwrap();
            assert_eq!((numbers(&first.batch), first.points), (vec![0, 1, 2, 3], 4));
            assert_eq!(first.batch.series.len(), 3, "the points of a series are put together");
            assert_eq!(spool.oldest(4).unwrap().unwrap(), first, "again and again");
            spool.acknowledge(first.end);
            assert_eq!((waiting(&mut spool), spool.points()), ((4..10).collect(), 6));
            spool.acknowledge(first.end);
            assert_eq!(spool.points(), 6, "an acknowledgement that comes twice");
            let rest = spool.oldest(100).unwrap().unwrap();
            fill(&mut spool, 10..12);
            spool.acknowledge(rest.end);
            assert_eq!(waiting(&mut spool), [10, 11]);
            assert_eq!(spool.dropped_points(), 0);
        });
    }

    #[test]
    fn the_oldest_is_dropped_for_the_newest_and_counted() {
        let check = |mut spool: Spool| {
            for number in 0..1000 {
                fill(&mut spool, number..number + 1);
                assert!(spool.bytes() <= 10_000, "{}", spool.bytes());
            }
            let kept = waiting(&mut spool);
            assert!(kept.len() > 50, "{}", kept.len());
            assert_eq!(kept, (1000 - kept.len() as i64..1000).collect::<Vec<_>>(), "the newest are kept");
            assert_eq!((spool.points(), spool.dropped_points()), (kept.len() as u64, 1000 - kept.len() as u64));
        };
        check(Spool::in_memory(10_000));
        let directory = tempfile::tempdir().unwrap();
        check(Spool::open(directory.path(), 10_000).unwrap());
        let files: u64 = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(files <= 10_100, "{files}");
    }

    #[test]
    fn a_batch_of_many_points_is_split() {
        let series = point(0).series.remove(0);
        let batch = Batch { series: vec![series; 2 * FRAME_POINTS_MAX + 1] };
        let mut spool = Spool::in_memory(64 << 20);
        spool.append(batch).unwrap();
        assert_eq!(spool.points(), 2 * FRAME_POINTS_MAX as u64 + 1);
        assert_eq!(spool.oldest(FRAME_POINTS_MAX).unwrap().unwrap().points, FRAME_POINTS_MAX as u64);
        spool.append(Batch::default()).unwrap();
        assert_eq!(spool.points(), 2 * FRAME_POINTS_MAX as u64 + 1);
    }

    #[test]
    fn what_waits_is_there_when_the_spool_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Spool::open(directory.path(), 1 << 20).unwrap();
        let mut spool = open();
        fill(&mut spool, 0..10);
        let first = spool.oldest(4).unwrap().unwrap();
        spool.acknowledge(first.end);
        spool.flush();
        drop(spool);
        let mut spool = open();
        assert_eq!(waiting(&mut spool), (4..10).collect::<Vec<_>>(), "what is delivered is not sent again");
        fill(&mut spool, 10..12);
        assert_eq!(waiting(&mut open()), (4..12).collect::<Vec<_>>());
        let all = spool.oldest(100).unwrap().unwrap();
        spool.acknowledge(all.end);
        spool.flush();
        drop(spool);
        // All segments but the mark of what is delivered are lost: new points do not count as delivered.
        for entry in fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some() {
                fs::remove_file(path).unwrap();
            }
        }
        let mut spool = open();
        fill(&mut spool, 0..2);
        assert_eq!(waiting(&mut spool), [0, 1]);
    }

    /// A segment of three frames, and where each begins.
    fn segment() -> (tempfile::TempDir, PathBuf, Vec<u8>, Vec<usize>) {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        fill(&mut spool, 0..3);
        let number = spool.segments[0].number;
        let mut ends: Vec<usize> = spool.segments[0].frames.iter().map(|(offset, _)| *offset as usize).collect();
        drop(spool);
        let path = segment_path(directory.path(), number);
        let content = fs::read(&path).unwrap();
        ends.push(content.len());
        (directory, path, content, ends)
    }

    #[test]
    fn a_torn_end_is_cut_at_the_last_whole_frame() {
        let (directory, path, content, ends) = segment();
        for length in 0..=content.len() {
            fs::write(&path, &content[..length]).unwrap();
            let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
            let whole = ends.iter().skip(1).filter(|end| **end <= length).count();
            assert_eq!(waiting(&mut spool), (0..whole as i64).collect::<Vec<_>>(), "{length}");
            if whole > 0 {
                assert_eq!(fs::metadata(&path).unwrap().len(), ends[whole] as u64);
            }
            // The next opening must not find the segments of this one.
            let last = segment_path(directory.path(), spool.segments.back().unwrap().number);
            fs::remove_file(last).unwrap();
        }
    }

    #[test]
    fn a_flipped_bit_costs_its_frame_alone() {
        let (directory, path, content, ends) = segment();
        for bit in 0..content.len() * 8 {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
            let hit = ends.iter().skip(1).filter(|end| **end <= bit / 8).count() as i64;
            let expected: Vec<i64> = (0..3).filter(|number| *number != hit).collect();
            assert_eq!(waiting(&mut spool), expected, "{bit}");
            let last = segment_path(directory.path(), spool.segments.back().unwrap().number);
            fs::remove_file(last).unwrap();
        }
    }

    #[test]
    fn damage_after_opening_is_passed_over_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        fill(&mut spool, 0..3);
        let path = segment_path(directory.path(), spool.segments[0].number);
        let mut content = fs::read(&path).unwrap();
        content[HEAD_BYTES + 3] ^= 1;
        fs::write(&path, &content).unwrap();
        assert_eq!(waiting(&mut spool), [1, 2]);
        assert_eq!((waiting(&mut spool), spool.dropped_points(), spool.points()), (vec![1, 2], 1, 2));
    }

    #[test]
    fn refused_points_are_kept_for_people() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        fill(&mut spool, 0..40);
        for number in 0..20 {
            let refused = spool.oldest(1).unwrap().unwrap();
            assert_eq!(numbers(&refused.batch), [number]);
            spool.set_aside(&refused);
        }
        assert_eq!((waiting(&mut spool), spool.dropped_points()), ((20..40).collect(), 20));
        let mut kept: Vec<_> =
            fs::read_dir(directory.path().join("refused")).unwrap().map(|e| e.unwrap().path()).collect();
        kept.sort();
        assert_eq!(kept.len(), REFUSED_FILES_MAX);
        let newest = Batch::decode(fs::read(kept.last().unwrap()).unwrap().as_slice()).unwrap();
        assert_eq!(numbers(&newest), [19]);
    }
}
