//! Opening: what is on the disk becomes a log, a versions table and, for the caller, the state and the commits after it.
//!
//! 1. The directory is flushed: what a killed process had renamed and not yet flushed is built upon from here on. Then unfinished
//!    files and states older than the newest are removed.
//! 2. `origin` is read, or made when the directory is empty.
//! 3. The newest state is read, then every segment that is not known to end before it. A second thread reads, checks and
//!    decompresses; this one decodes, fills the versions table and calls back. Segments must follow each other without a hole.
//! 4. A bad frame at the end of the last segment with nothing after it is a write that was never acknowledged: it is cut. Any
//!    other is damage, and so is one at a position that `origin` or the state knows to have been durable: refused, naming file and
//!    byte. Cutting the file there by hand is then somebody's decision to lose what follows.
//! 5. The last segment is flushed: what a killed process had written and not yet flushed is handed out, so it must be durable.
//! 6. When the log ends before what is known to have been durable (a disk that lied, a file cut by hand), the log gets a new
//!    epoch and goes on above that mark in a new segment: no position is given twice, and readers of before can be told. Its time goes
//!    on in the next second, and its deletions are known from there on only: who knows what was lost must not miss that it is.
//! 7. Since when deletions are known is handed out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use lockstep_model::Position;

use super::file::{FrameReader, Next, UNFINISHED, What, failed, random, remove};
use super::origin::Record;
use super::segment::{self, Frame, Segment, Tail, has_frame_after};
use super::state::{self, StateFile, StateOrder, decode_end};
use super::versions::{Fingerprinter, Versions};
use crate::codec::{CodecError, Interner, commits_time_ms, decode_commits, decode_entries, decode_tombstones};
use crate::frame::{Header, Kind};
use crate::{Complete, JournalError, Operation, Replayed};
use lockstep_storage::Storage;

/// Frames that are decompressed ahead of the decoding.
const PIECES_AHEAD: usize = 4;

/// What opening found and made.
pub(crate) struct Recovered {
    pub(crate) origin: Record,
    pub(crate) segments: VecDeque<Arc<Segment>>,
    pub(crate) state: Option<StateFile>,
    pub(crate) versions: Versions,
    pub(crate) head: u64,
    pub(crate) time_ms: i64,
    /// Of the last segment.
    pub(crate) tail: Tail,
}

/// A frame on its way from the reading thread.
struct Piece {
    header: Header,
    raw: Vec<u8>,
    file: Arc<str>,
    at: u64,
}

/// What the reading thread found.
struct Scanned {
    segments: VecDeque<Arc<Segment>>,
    /// Of the last segment.
    tail: Option<Tail>,
    /// How far time had come as far as frames or heads told.
    time_ms: i64,
}

/// Opens the journal in `storage`.
pub(crate) fn recover(
    storage: &dyn Storage,
    prints: &Fingerprinter,
    each: &mut dyn FnMut(Replayed),
) -> Result<Recovered, JournalError> {
    storage.sync_directory().map_err(failed(storage, "cannot flush the directory of", "origin"))?;
    let names = storage.list().map_err(failed(storage, "cannot list the directory of", "origin"))?;
    let state = clean(storage, &names)?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment::parse_name(name)).collect();
    firsts.sort_unstable();
    let mut origin = match Record::load(storage, &names)? {
        Some(origin) => origin,
        None if firsts.is_empty() && state.is_none() => {
            let origin = Record::new()?;
            origin.store(storage)?;
            origin
        }
        None => return Err(missing(storage, "origin", "the file is missing")),
    };
    let covered = state.as_ref().map_or(0, |state| state.position);
    let mark = origin.mark.max(covered);
    if firsts.is_empty() && mark > 0 {
        return Err(missing(storage, &segment::name(mark + 1), "the log is missing"));
    }

    let scan = Scan { storage, origin: &origin, state: state.as_ref(), firsts: &firsts, covered, mark };
    let mut versions = Versions::new();
    let (pieces_in, pieces) = sync_channel(PIECES_AHEAD);
    let (spent_in, spent) = channel();
    let scanned = std::thread::scope(|threads| {
        let scanning = threads.spawn(move || scan.run(&pieces_in, &spent));
        // Owned by the block, so that an error here ends the scan.
        let replayed = replay(pieces, spent_in, covered, prints, &mut versions, each);
        let scanned = match scanning.join() {
            Ok(scanned) => scanned,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // A scan that was cut short by an error of the replay knows no error of its own.
        Ok((replayed?, scanned?))
    })?;
    let (complete, Scanned { mut segments, tail, mut time_ms }) = scanned;
    time_ms = time_ms.max(origin.time_ms);

    let end = segments.back().map_or(0, |segment| segment.extent.lock().last);
    let mark = mark.max(segments.back().map_or(0, |segment| segment.first - 1));
    let tail = match tail {
        Some(tail) if end >= mark => {
            let name = segments.back().map_or("", |segment| &segment.name);
            tail.file.sync().map_err(failed(storage, "cannot flush", name))?;
            tail
        }
        Some(_) => {
            tracing::error!(end, mark, "the log ends before what was acknowledged; it goes on under a new epoch");
            origin.epoch = random()?;
            origin.mark = mark;
            // Whatever was lost was committed, or closed, in a second that may be the last one known.
            time_ms = time_ms.saturating_add(1000);
            origin.time_ms = time_ms;
            origin.lost = Complete { since: Position(mark), since_ms: time_ms };
            // Commits between the log's end and the state are lost to readers, though not to the state.
            origin.floor = origin.floor.max(if covered > end { covered } else { 0 });
            origin.store(storage)?;
            begin_segment(storage, &mut segments, origin.epoch, mark + 1, end, time_ms)?
        }
        None => begin_segment(storage, &mut segments, origin.epoch, 1, 0, 0)?,
    };
    let head = end.max(mark);
    each(Replayed::Complete(complete.and(origin.lost)));
    Ok(Recovered { origin, segments, state, versions, head, time_ms, tail })
}

fn begin_segment(
    storage: &dyn Storage,
    segments: &mut VecDeque<Arc<Segment>>,
    epoch: u64,
    first: u64,
    previous: u64,
    time_ms: i64,
) -> Result<Tail, JournalError> {
    let (segment, tail) = Segment::create(storage, epoch, first, previous, time_ms)?;
    segments.push_back(segment);
    Ok(tail)
}

fn missing(storage: &dyn Storage, name: &str, reason: &str) -> JournalError {
    JournalError::Damaged { path: storage.shown(name), offset: 0, reason: reason.to_owned() }
}

/// Step 1; the newest state.
fn clean(storage: &dyn Storage, names: &[String]) -> Result<Option<StateFile>, JournalError> {
    let newest = names.iter().filter_map(|name| state::parse_name(name)).max();
    for name in names {
        if name.ends_with(UNFINISHED) || state::parse_name(name).is_some_and(|position| Some(position) < newest) {
            remove(storage, name)?;
        }
    }
    let Some(position) = newest else { return Ok(None) };
    let name = state::name(position);
    let file = storage.open(&name).map_err(failed(storage, "cannot open", &name))?;
    let bytes = file.bytes().map_err(failed(storage, "cannot measure", &name))?;
    Ok(Some(StateFile { name, position, bytes }))
}

/// Decodes what the reading thread sends, until it ends; since when the state's tombstones are complete.
fn replay(
    pieces: Receiver<Piece>,
    spent: Sender<Vec<u8>>,
    covered: u64,
    prints: &Fingerprinter,
    versions: &mut Versions,
    each: &mut dyn FnMut(Replayed),
) -> Result<Complete, JournalError> {
    let mut names = Interner::default();
    let mut complete = Complete::default();
    for Piece { header, raw, file, at } in pieces {
        let payload = header.payload(&raw);
        let decoded = match header.kind {
            Kind::Entries => decode_entries(payload, header.count, &mut names, |entry| {
                versions.set(prints.of(&entry.id), Some(entry.modified));
                each(Replayed::Entry(entry));
            }),
            Kind::Commits => decode_commits(payload, header.first, header.count, &mut names, |commit| {
                if commit.position.0 > covered {
                    for change in &commit.changes {
                        let exists = !matches!(change.operation, Operation::Delete(_));
                        versions.set(prints.of(&change.id), exists.then_some(commit.position));
                    }
                    each(Replayed::Commit(Arc::new(commit)));
                }
            }),
            Kind::Tombstones => decode_tombstones(payload, header.count, &mut names, |tombstone| {
                each(Replayed::Tombstone(tombstone));
            }),
            Kind::End => decode_end(payload).map(|found| complete = found),
            Kind::Head | Kind::Steps => Ok(()),
        };
        decoded.map_err(|reason| damaged(&file, at, reason))?;
        // The scan may have ended.
        let _ = spent.send(raw);
    }
    Ok(complete)
}

fn damaged(file: &str, at: u64, reason: CodecError) -> JournalError {
    JournalError::Damaged { path: file.to_owned(), offset: at, reason: reason.to_string() }
}

/// The work of the reading thread.
struct Scan<'a> {
    storage: &'a dyn Storage,
    origin: &'a Record,
    state: Option<&'a StateFile>,
    /// The segments' first positions, sorted.
    firsts: &'a [u64],
    /// The state's position, or 0.
    covered: u64,
    /// Commits up to here were durable once.
    mark: u64,
}

/// Sends pieces and takes their buffers back: allocating megabytes anew for each costs more than reading them.
struct Conveyor<'a> {
    pieces: &'a SyncSender<Piece>,
    spent: &'a Receiver<Vec<u8>>,
}

impl Conveyor<'_> {
    fn buffer(&self) -> Vec<u8> {
        self.spent.try_recv().unwrap_or_default()
    }

    /// False when nobody takes pieces any more.
    fn send(&self, piece: Piece) -> bool {
        self.pieces.send(piece).is_ok()
    }
}

impl Scan<'_> {
    fn run(&self, pieces: &SyncSender<Piece>, spent: &Receiver<Vec<u8>>) -> Result<Scanned, JournalError> {
        let conveyor = Conveyor { pieces, spent };
        let mut scanned = Scanned { segments: VecDeque::new(), tail: None, time_ms: 0 };
        if let Some(state) = self.state {
            scanned.time_ms = self.scan_state(state, &conveyor)?;
        }
        for (nth, first) in self.firsts.iter().enumerate() {
            let is_last = nth + 1 == self.firsts.len();
            self.scan_segment(*first, is_last, &mut scanned, &conveyor)?;
        }
        Ok(scanned)
    }

    /// The time of the state's last commit.
    fn scan_state(&self, state: &StateFile, conveyor: &Conveyor<'_>) -> Result<i64, JournalError> {
        let (mut reader, head) = FrameReader::open(self.storage, &state.name, What::State)?;
        if head.position != state.position {
            return Err(reader.damaged(0, CodecError("the state's position does not fit its name")));
        }
        let mut order = StateOrder::default();
        loop {
            let mut raw = conveyor.buffer();
            let Some((at, header)) = reader.next_whole(&mut raw)? else { break };
            order.next(&header).map_err(|reason| reader.damaged(at, reason))?;
            if !conveyor.send(Piece { header, raw, file: reader.shown().clone(), at }) {
                return Ok(0);
            }
        }
        order.end().map_err(|reason| reader.damaged(reader.at(), reason))?;
        Ok(head.time_ms)
    }

    fn scan_segment(
        &self,
        first: u64,
        is_last: bool,
        scanned: &mut Scanned,
        conveyor: &Conveyor<'_>,
    ) -> Result<(), JournalError> {
        let (segment, mut reader, head) = Segment::open(self.storage, first)?;
        match scanned.segments.back().map(|before| before.extent.lock().last) {
            Some(last) if last != head.previous => {
                return Err(reader.damaged(0, CodecError("the segment before this one is missing or ends too early")));
            }
            None if head.previous > self.covered => {
                return Err(reader.damaged(0, CodecError("the log before this segment is missing")));
            }
            Some(_) | None => {}
        }
        let sealed = self.origin.sealed.iter().find(|sealed| sealed.first == first);
        match sealed {
            // It was sealed when the next one was durable; without that, nobody knows how far the log went.
            Some(_) if is_last => {
                return Err(reader.damaged(reader.end(), CodecError("the segment after this one is missing")));
            }
            Some(sealed) if sealed.last <= self.covered => {
                if sealed.bytes != reader.end() {
                    return Err(reader.damaged(reader.end(), CodecError("the segment's length is not what it was")));
                }
                let mut extent = segment.extent.lock();
                (extent.last, extent.bytes, extent.changes) = (sealed.last, sealed.bytes, sealed.changes);
                (extent.time_ms, extent.index) = (sealed.time_ms, None);
            }
            Some(_) | None => self.scan_frames(&segment, &mut reader, is_last, conveyor)?,
        }
        scanned.time_ms = scanned.time_ms.max(segment.extent.lock().time_ms);
        scanned.tail = Some(Tail { file: reader.file().clone(), salt: head.salt });
        scanned.segments.push_back(Arc::new(segment));
        Ok(())
    }

    fn scan_frames(
        &self,
        segment: &Segment,
        reader: &mut FrameReader,
        is_last: bool,
        conveyor: &Conveyor<'_>,
    ) -> Result<(), JournalError> {
        let mut extent = segment.extent.lock();
        loop {
            let at = reader.at();
            let mut raw = conveyor.buffer();
            // What is wrong, and whether the header at least is right.
            let (reason, header) = match reader.next()? {
                Next::End => return Ok(()),
                Next::Frame(header, stored) => match header.open(stored, &mut raw) {
                    Ok(payload) => {
                        let time_ms = commits_time_ms(payload).map_err(|reason| reader.damaged(at, reason))?;
                        if header.kind != Kind::Commits || header.first != extent.last + 1 {
                            return Err(reader.damaged(at, CodecError("a frame is out of order")));
                        }
                        let last = header.last();
                        let bytes = header.frame_bytes();
                        extent.grow(&Frame { first: header.first, last, bytes, changes: header.changes });
                        extent.time_ms = time_ms;
                        let file = reader.shown().clone();
                        if header.count > 0 && last > self.covered && !conveyor.send(Piece { header, raw, file, at }) {
                            return Ok(());
                        }
                        continue;
                    }
                    Err(reason) => (reason, Some(header)),
                },
                Next::Short(header) => (CodecError("a frame is cut off"), Some(header)),
                Next::Bad(reason) => (reason, None),
            };
            // The writer begins a frame when the one before is durable: anything behind a frame proves that it was whole.
            let file = reader.file();
            let is_followed =
                match header {
                    Some(header) => at + header.frame_bytes() < reader.end(),
                    None => false,
                } || has_frame_after(self.storage, &segment.name, &**file, reader.salt(), at, reader.end())?;
            // What `origin` knows of the log's time was durable as well.
            let is_known = extent.last < self.mark || extent.time_ms < self.origin.time_ms;
            if !is_last || is_followed || is_known {
                return Err(reader.damaged(at, reason));
            }
            let cut = reader.end() - at;
            tracing::warn!(file = %reader.shown(), at, bytes = cut, "cut the torn end of the log");
            file.truncate(at).and_then(|()| file.sync()).map_err(failed(self.storage, "cannot cut", &segment.name))?;
            return Ok(());
        }
    }
}
