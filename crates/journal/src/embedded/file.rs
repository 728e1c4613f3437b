//! What all files of the journal have in common: how they are born, how they begin, how they are read.

use std::io;
use std::sync::Arc;

use crate::JournalError;
use crate::codec::{CodecError, Input};
use crate::frame::{self, HEADER_BYTES, Header, Kind, Label};
use lockstep_storage::{Storage, StoredFile};

/// The version of all formats of this directory.
pub(crate) const FORMAT: u32 = 2;

/// Ends the name of a file that is being written; what a crash leaves of such files is removed at the next opening.
pub(crate) const UNFINISHED: &str = ".tmp";

/// Bytes read at once: large enough that a disk streams, small enough for a buffer per open file of a merge.
const CHUNK_BYTES: usize = 256 << 10;

/// What a file is: the payload of its first frame.
///
/// ```text
/// format u32 | salt u32 | what u8 | epoch u64 | position u64 | previous u64 | time_ms i64
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHead {
    pub(crate) what: What,
    /// The salt of the frames after this one.
    pub(crate) salt: u32,
    /// The log's epoch when the file was made.
    pub(crate) epoch: u64,
    /// A segment's first position; the position that a state stands for; an origin's mark.
    pub(crate) position: u64,
    /// A segment: the last position before it in the log. An origin: its floor.
    pub(crate) previous: u64,
    /// How far time had come before the segment, at the end of the state, or as known to the origin.
    pub(crate) time_ms: i64,
}

/// The kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum What {
    Origin = 1,
    Segment = 2,
    State = 3,
    Steps = 4,
}

impl FileHead {
    /// The head's frame, to begin a file with.
    pub(crate) fn seal(&self, out: &mut Vec<u8>) {
        let mut raw = Vec::with_capacity(41);
        raw.extend_from_slice(&FORMAT.to_le_bytes());
        raw.extend_from_slice(&self.salt.to_le_bytes());
        raw.push(self.what as u8);
        for number in [self.epoch, self.position, self.previous, self.time_ms as u64] {
            raw.extend_from_slice(&number.to_le_bytes());
        }
        frame::seal(out, 0, Label { kind: Kind::Head, first: 0, count: 1, changes: 0 }, &raw);
    }

    fn decode(payload: &[u8]) -> Result<Result<Self, u32>, CodecError> {
        let mut input = Input::new(payload);
        let format = u32::from_le_bytes(input.array()?);
        if format != FORMAT {
            return Ok(Err(format));
        }
        let salt = u32::from_le_bytes(input.array()?);
        let what = match input.byte()? {
            1 => What::Origin,
            2 => What::Segment,
            3 => What::State,
            4 => What::Steps,
            _ => return Err(CodecError("unknown kind of file")),
        };
        let mut number = || input.array().map(u64::from_le_bytes);
        let (epoch, position, previous) = (number()?, number()?, number()?);
        Ok(Ok(Self { what, salt, epoch, position, previous, time_ms: number()? as i64 }))
    }
}

/// A random number for an epoch or a salt.
pub(crate) fn random() -> Result<u64, JournalError> {
    getrandom::u64().map_err(|error| JournalError::Io {
        what: "cannot draw a random number for",
        path: "the journal".to_owned(),
        source: io::Error::other(error),
    })
}

/// Names the file and the deed in an error.
pub(crate) fn failed<'a>(
    storage: &'a dyn Storage,
    what: &'static str,
    name: &'a str,
) -> impl Fn(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io { what, path: storage.shown(name), source }
}

/// Makes a file under its final name whose content is durable before the name is: no crash leaves a part of it.
///
/// 1. write under a name that ends in [`UNFINISHED`]; 2. flush the file; 3. rename; 4. flush the directory.
pub(crate) fn publish(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<Arc<dyn StoredFile>, JournalError> {
    let unfinished = format!("{name}{UNFINISHED}");
    let file = storage.create(&unfinished).map_err(failed(storage, "cannot create", &unfinished))?;
    file.write_at(0, bytes).map_err(failed(storage, "cannot write", &unfinished))?;
    finish(storage, name, &*file)?;
    Ok(file)
}

/// The last three steps of [`publish`].
pub(crate) fn finish(storage: &dyn Storage, name: &str, file: &dyn StoredFile) -> Result<(), JournalError> {
    let unfinished = format!("{name}{UNFINISHED}");
    file.sync().map_err(failed(storage, "cannot flush", &unfinished))?;
    storage.rename(&unfinished, name).map_err(failed(storage, "cannot rename", &unfinished))?;
    storage.sync_directory().map_err(failed(storage, "cannot flush the directory of", name))
}

/// Removes a file, durably: removals then reach the disk in the order they were made.
pub(crate) fn remove(storage: &dyn Storage, name: &str) -> Result<(), JournalError> {
    storage.remove(name).map_err(failed(storage, "cannot remove", name))?;
    storage.sync_directory().map_err(failed(storage, "cannot flush the directory of", name))
}

/// Reads the frames of a file one after the other.
pub(crate) struct FrameReader {
    file: Arc<dyn StoredFile>,
    shown: Arc<str>,
    salt: u32,
    /// Where the next frame begins, and where reading ends.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// What of the buffer is the file from `at` on.
    ready: std::ops::Range<usize>,
}

/// What a [`FrameReader`] finds.
pub(crate) enum Next<'a> {
    /// A frame whose header is whole; [`Header::open`] checks the payload.
    Frame(Header, &'a [u8]),
    /// A header that is whole, of a frame that the file does not hold to its end.
    Short(Header),
    /// No frame.
    Bad(CodecError),
    /// The end, right after the last frame.
    End,
}

impl FrameReader {
    /// Opens a file and reads its head.
    pub(crate) fn open(storage: &dyn Storage, name: &str, what: What) -> Result<(Self, FileHead), JournalError> {
        let file = storage.open(name).map_err(failed(storage, "cannot open", name))?;
        let end = file.bytes().map_err(failed(storage, "cannot measure", name))?;
        let shown = storage.shown(name).into();
        let mut reader = Self { file, shown, salt: 0, at: 0, end, buffer: Vec::new(), ready: 0..0 };
        let mut scratch = Vec::new();
        let head = match reader.next()? {
            Next::Frame(header, stored) if header.kind == Kind::Head => {
                header.open(stored, &mut scratch).and_then(FileHead::decode)
            }
            Next::Bad(reason) => Err(reason),
            Next::Frame(..) | Next::Short(_) | Next::End => Err(CodecError("the file does not begin as it should")),
        };
        let head = match head {
            Ok(Ok(head)) if head.what == what => head,
            Ok(Ok(_)) => return Err(reader.damaged(0, CodecError("the file is of another kind"))),
            Ok(Err(found)) => {
                return Err(JournalError::Format { path: reader.shown.to_string(), found, known: FORMAT });
            }
            Err(reason) => return Err(reader.damaged(0, reason)),
        };
        reader.salt = head.salt;
        Ok((reader, head))
    }

    /// Goes on at `at`, and no further than `end`.
    pub(crate) fn seek(&mut self, at: u64, end: u64) {
        self.at = at;
        self.end = end;
        self.ready = 0..0;
    }

    /// Reads on to `end`, to which the file has grown.
    pub(crate) fn extend(&mut self, end: u64) {
        self.end = end;
    }

    /// Where the next frame begins.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// What the checksums of the file's frames begin with.
    pub(crate) fn salt(&self) -> u32 {
        self.salt
    }

    /// Where reading ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The file's name for people.
    pub(crate) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    pub(crate) fn file(&self) -> &Arc<dyn StoredFile> {
        &self.file
    }

    /// The error for what is wrong at `at`.
    pub(crate) fn damaged(&self, at: u64, reason: CodecError) -> JournalError {
        JournalError::Damaged { path: self.shown.to_string(), offset: at, reason: reason.0.to_owned() }
    }

    /// The next frame. Goes past it only when it is all there.
    pub(crate) fn next(&mut self) -> Result<Next<'_>, JournalError> {
        let left = self.end.saturating_sub(self.at);
        if left == 0 {
            return Ok(Next::End);
        }
        if left < HEADER_BYTES as u64 || self.fill(HEADER_BYTES)? < HEADER_BYTES {
            return Ok(Next::Bad(CodecError("a frame's header is cut off")));
        }
        let header = match self.buffer[self.ready.clone()].first_chunk().map(|bytes| Header::parse(bytes, self.salt)) {
            Some(Ok(header)) => header,
            Some(Err(reason)) => return Ok(Next::Bad(reason)),
            None => return Ok(Next::Bad(CodecError("a frame's header is cut off"))),
        };
        let frame_bytes = header.frame_bytes();
        if frame_bytes > left || self.fill(frame_bytes as usize)? < frame_bytes as usize {
            return Ok(Next::Short(header));
        }
        let stored = self.ready.start + HEADER_BYTES..self.ready.start + frame_bytes as usize;
        self.ready.start = stored.end;
        self.at += frame_bytes;
        Ok(Next::Frame(header, &self.buffer[stored]))
    }

    /// The next frame of a file that must be whole, and where it begins; `None` at the end. Its payload is put into `raw`.
    pub(crate) fn next_whole(&mut self, raw: &mut Vec<u8>) -> Result<Option<(u64, Header)>, JournalError> {
        let at = self.at;
        let reason = match self.next()? {
            Next::Frame(header, stored) => match header.open(stored, raw) {
                Ok(_) => return Ok(Some((at, header))),
                Err(reason) => reason,
            },
            Next::Short(_) => CodecError("a frame is cut off"),
            Next::Bad(reason) => reason,
            Next::End => return Ok(None),
        };
        Err(self.damaged(at, reason))
    }

    /// Sees to it that `wanted` bytes from `at` on are ready, as far as the file has them; how many are.
    fn fill(&mut self, wanted: usize) -> Result<usize, JournalError> {
        if self.ready.len() >= wanted {
            return Ok(self.ready.len());
        }
        self.buffer.copy_within(self.ready.clone(), 0);
        let have = self.ready.len();
        let ahead = self.end.saturating_sub(self.at).min(wanted.max(CHUNK_BYTES) as u64) as usize;
        if self.buffer.len() < ahead {
            self.buffer.resize(ahead, 0);
        }
        let read = self
            .file
            .read_at(self.at + have as u64, &mut self.buffer[have..ahead])
            .map_err(|source| JournalError::Io { what: "cannot read", path: self.shown.to_string(), source })?;
        self.ready = 0..have + read;
        Ok(self.ready.len())
    }
}
