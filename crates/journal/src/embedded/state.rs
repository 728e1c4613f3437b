//! State files: `state-<position>.ckpt`, every resource as it is at a position, sorted by type and id.
//!
//! A head, frames of resources, and an end that says how many there are, so that a file that was cut between two frames is
//! not taken for whole.

use std::sync::Arc;

use super::file::{self, FileHead, FrameReader, UNFINISHED, What, failed, random};
use crate::codec::{CodecError, Encoder, Interner, decode_entries};
use crate::frame::{self, Kind, Label};
use crate::storage::{Storage, StoredFile};
use crate::{JournalError, StateEntry};

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

/// Writes frames of records to a new file: a state, or the sorted steps of a fold.
pub(crate) struct RecordWriter<'a> {
    storage: &'a dyn Storage,
    /// Without [`UNFINISHED`].
    name: String,
    file: Arc<dyn StoredFile>,
    salt: u32,
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
        if self.kind == Kind::Entries && self.bytes - self.flushed_bytes >= FLUSH_EVERY_BYTES {
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
    pub(crate) fn finish_state(mut self, position: u64) -> Result<StateFile, JournalError> {
        self.end_frame()?;
        frame::seal(
            &mut self.frame,
            self.salt,
            Label { kind: Kind::End, first: self.written, count: 0, changes: 0 },
            &[],
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
    has_ended: bool,
}

impl StateOrder {
    /// Takes the next frame's header; true when it is the end.
    pub(crate) fn next(&mut self, header: &frame::Header) -> Result<bool, CodecError> {
        let is_next = header.first == self.records && !self.has_ended;
        match header.kind {
            Kind::Entries if is_next => self.records += u64::from(header.count),
            Kind::End if is_next => self.has_ended = true,
            Kind::Head | Kind::Commits | Kind::Steps | Kind::Entries | Kind::End => {
                return Err(CodecError("the frames of the state are out of order"));
            }
        }
        Ok(self.has_ended)
    }

    /// Checks that the end was seen.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.has_ended { Ok(()) } else { Err(CodecError("the state is cut off")) }
    }
}

/// Reads the resources of a state file, in order.
pub(crate) struct StateReader {
    reader: FrameReader,
    order: StateOrder,
    names: Interner,
    raw: Vec<u8>,
    /// The frame at hand, the next resource last.
    ready: Vec<StateEntry>,
}

impl StateReader {
    pub(crate) fn open(storage: &dyn Storage, state: &StateFile) -> Result<Self, JournalError> {
        let (reader, _) = FrameReader::open(storage, &state.name, What::State)?;
        Ok(Self {
            reader,
            order: StateOrder::default(),
            names: Interner::default(),
            raw: Vec::new(),
            ready: Vec::new(),
        })
    }

    pub(crate) fn next(&mut self) -> Result<Option<StateEntry>, JournalError> {
        while self.ready.is_empty() {
            let Some((at, header)) = self.reader.next_whole(&mut self.raw)? else {
                return self.order.end().map(|()| None).map_err(|reason| self.reader.damaged(self.reader.at(), reason));
            };
            let has_ended = self.order.next(&header).map_err(|reason| self.reader.damaged(at, reason))?;
            if !has_ended {
                let ready = &mut self.ready;
                decode_entries(header.payload(&self.raw), header.count, &mut self.names, |entry| ready.push(entry))
                    .map_err(|reason| self.reader.damaged(at, reason))?;
                self.ready.reverse();
            }
        }
        Ok(self.ready.pop())
    }
}
