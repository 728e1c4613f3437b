//! State files: `state-<position>.ckpt`, every resource as it is at a position, sorted by type and id, and what was deleted.
//!
//! A head, frames of resources, frames of tombstones in no order, and an end that says how many records there are, so that a file
//! that was cut between two frames is not taken for whole, and since when the tombstones are complete.

use std::sync::Arc;

use lockstep_model::Position;

use super::file::{self, FileHead, FrameReader, UNFINISHED, What, failed, random};
use crate::codec::{CodecError, Encoder, Input, Interner, decode_entries, decode_tombstones};
use crate::frame::{self, Kind, Label};
use crate::{Complete, JournalError, StateEntry, Tombstone};
use lockstep_storage::{Storage, StoredFile};

/// A frame is ended when it has this many bytes before compression.
const FRAME_BYTES: usize = 256 << 10;

/// Written bytes are flushed every so often, so that the log's own flushes never wait behind a whole state file.
const FLUSH_EVERY_BYTES: u64 = 8 << 20;

/// The state file in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateFile {
    pub(crate) name: String,
    /// The last commit it holds.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
}

/// The name of the state file at a position.
pub(crate) fn name(position: u64) -> String {
    format!("state-{position:020}.ckpt")
}

/// The position in a state file's name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let position = name.strip_prefix("state-")?.strip_suffix(".ckpt")?;
    position.parse().ok().filter(|position| self::name(*position) == name)
}

/// Writes frames of records to a new file: a state, or what a fold puts aside.
pub(crate) struct RecordWriter<'a> {
    storage: &'a dyn Storage,
    /// Without [`UNFINISHED`].
    name: String,
    file: Arc<dyn StoredFile>,
    salt: u32,
    what: What,
    kind: Kind,
    bytes: u64,
    flushed_bytes: u64,
    encoder: Encoder,
    /// Records in the frames written, and in the one being filled.
    written: u64,
    filling: u32,
    frame: Vec<u8>,
}

impl<'a> RecordWriter<'a> {
    /// Makes the file, under its unfinished name.
    pub(crate) fn create(
        storage: &'a dyn Storage,
        name: String,
        (what, kind): (What, Kind),
        (epoch, position, time_ms): (u64, u64, i64),
    ) -> Result<Self, JournalError> {
        let unfinished = format!("{name}{UNFINISHED}");
        let file = storage.create(&unfinished).map_err(failed(storage, "cannot create", &unfinished))?;
        let salt = random()? as u32;
        let mut frame = Vec::new();
        FileHead { what, salt, epoch, position, previous: 0, time_ms }.seal(&mut frame);
        let mut encoder = Encoder::default();
        encoder.begin();
        let mut writer = Self {
            storage,
            name,
            file,
            salt,
            what,
            kind,
            bytes: 0,
            flushed_bytes: 0,
            encoder,
            written: 0,
            filling: 0,
            frame,
        };
        writer.append()?;
        Ok(writer)
    }

    /// Adds a record, which `write` encodes.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Encoder)) -> Result<(), JournalError> {
        write(&mut self.encoder);
        self.filling += 1;
        if self.encoder.len() >= FRAME_BYTES { self.end_frame() } else { Ok(()) }
    }

    /// Ends the frame at hand; the records after it are of this kind.
    pub(crate) fn go_on_with(&mut self, kind: Kind) -> Result<(), JournalError> {
        self.end_frame()?;
        self.kind = kind;
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), JournalError> {
        if self.filling == 0 {
            return Ok(());
        }
        let label = Label { kind: self.kind, first: self.written, count: self.filling, changes: 0 };
        frame::seal(&mut self.frame, self.salt, label, self.encoder.finish());
        self.written += u64::from(self.filling);
        self.filling = 0;
        self.encoder.begin();
        self.append()?;
        if self.what == What::State && self.bytes - self.flushed_bytes >= FLUSH_EVERY_BYTES {
            self.file.sync().map_err(failed(self.storage, "cannot flush", &self.name))?;
            self.flushed_bytes = self.bytes;
        }
        Ok(())
    }

    fn append(&mut self) -> Result<(), JournalError> {
        self.file.write_at(self.bytes, &self.frame).map_err(failed(self.storage, "cannot write", &self.name))?;
        self.bytes += self.frame.len() as u64;
        self.frame.clear();
        Ok(())
    }

    /// Ends a file that is read by this process only: it stays unfinished and need not be durable.
    pub(crate) fn finish_temporary(mut self) -> Result<(), JournalError> {
        self.end_frame()
    }

    /// Ends a state file, durably, and gives it its name.
    pub(crate) fn finish_state(mut self, position: u64, complete: Complete) -> Result<StateFile, JournalError> {
        self.end_frame()?;
        let mut end = complete.since.0.to_le_bytes().to_vec();
        end.extend_from_slice(&complete.since_ms.to_le_bytes());
        frame::seal(
            &mut self.frame,
            self.salt,
            Label { kind: Kind::End, first: self.written, count: 0, changes: 0 },
            &end,
        );
        self.append()?;
        file::finish(self.storage, &self.name, &*self.file)?;
        Ok(StateFile { name: self.name, position, bytes: self.bytes })
    }
}

/// Checks that the frames of a state come in order and are all there.
#[derive(Default)]
pub(crate) struct StateOrder {
    records: u64,
    section: Section,
}

/// Where in a state file a reader is.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Section {
    #[default]
    Resources,
    Tombstones,
    End,
}

impl StateOrder {
    /// Takes the next frame's header.
    pub(crate) fn next(&mut self, header: &frame::Header) -> Result<(), CodecError> {
        let is_next = header.first == self.records;
        match (header.kind, self.section) {
            (Kind::Entries, Section::Resources) if is_next => {}
            (Kind::Tombstones, Section::Resources | Section::Tombstones) if is_next => {
                self.section = Section::Tombstones;
            }
            (Kind::End, Section::Resources | Section::Tombstones) if is_next => self.section = Section::End,
            (Kind::Head | Kind::Commits | Kind::Steps | Kind::Entries | Kind::Tombstones | Kind::End, _) => {
                return Err(CodecError("the frames of the state are out of order"));
            }
        }
        self.records += u64::from(header.count);
        Ok(())
    }

    /// Checks that the end was seen.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.section == Section::End { Ok(()) } else { Err(CodecError("the state is cut off")) }
    }
}

/// The payload of a state's last frame: since when its tombstones are complete.
///
/// ```text
/// u64 position | i64 time_ms
/// ```
pub(crate) fn decode_end(payload: &[u8]) -> Result<Complete, CodecError> {
    let mut input = Input::new(payload);
    let since = Position(u64::from_le_bytes(input.array()?));
    Ok(Complete { since, since_ms: i64::from_le_bytes(input.array()?) })
}

/// Reads the records of a state file: the resources in order, then the tombstones.
pub(crate) struct StateReader {
    reader: FrameReader,
    order: StateOrder,
    names: Interner,
    raw: Vec<u8>,
    /// Of the frame at hand, the next record last.
    entries: Vec<StateEntry>,
    tombstones: Vec<Tombstone>,
    has_ended: bool,
    complete: Complete,
}

impl StateReader {
    pub(crate) fn open(storage: &dyn Storage, state: &StateFile) -> Result<Self, JournalError> {
        let (reader, _) = FrameReader::open(storage, &state.name, What::State)?;
        Ok(Self {
            reader,
            order: StateOrder::default(),
            names: Interner::default(),
            raw: Vec::new(),
            entries: Vec::new(),
            tombstones: Vec::new(),
            has_ended: false,
            complete: Complete::default(),
        })
    }

    /// The next resource; `None` when all have been read.
    pub(crate) fn next(&mut self) -> Result<Option<StateEntry>, JournalError> {
        while self.entries.is_empty() && self.tombstones.is_empty() && !self.has_ended {
            self.load()?;
        }
        Ok(self.entries.pop())
    }

    /// The next tombstone, once all resources have been read.
    pub(crate) fn next_tombstone(&mut self) -> Result<Option<Tombstone>, JournalError> {
        while self.tombstones.is_empty() && !self.has_ended {
            self.load()?;
        }
        Ok(self.tombstones.pop())
    }

    /// Since when the tombstones are complete, once all have been read.
    pub(crate) fn complete(&self) -> Complete {
        self.complete
    }

    fn load(&mut self) -> Result<(), JournalError> {
        let Some((at, header)) = self.reader.next_whole(&mut self.raw)? else {
            self.has_ended = true;
            return self.order.end().map_err(|reason| self.reader.damaged(self.reader.at(), reason));
        };
        let payload = header.payload(&self.raw);
        let loaded = self.order.next(&header).and_then(|()| match header.kind {
            Kind::Tombstones => {
                let tombstones = &mut self.tombstones;
                decode_tombstones(payload, header.count, &mut self.names, |tombstone| tombstones.push(tombstone))
            }
            Kind::End => decode_end(payload).map(|complete| self.complete = complete),
            Kind::Head | Kind::Commits | Kind::Steps | Kind::Entries => {
                let entries = &mut self.entries;
                decode_entries(payload, header.count, &mut self.names, |entry| entries.push(entry))
            }
        });
        loaded.map_err(|reason| self.reader.damaged(at, reason))?;
        self.entries.reverse();
        self.tombstones.reverse();
        Ok(())
    }
}
