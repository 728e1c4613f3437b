//! The file `origin`: which log this is, and what of it is known to be durable.
//!
//! A head, in which `position` is the mark and `previous` the floor, and one frame: what was lost, and the sealed segments.
//!
//! ```text
//! lost     u64 position | i64 time_ms
//! segment  u64 first | u64 last | u64 bytes | u64 changes | i64 time_ms
//! ```
//!
//! It is written anew, beside the old one and renamed over it, whenever a segment is sealed, when the log is closed, compacted
//! or given a new epoch. Between these it may say less than is true, never more.

use lockstep_model::Position;

use crate::codec::{CodecError, Input};
use crate::frame::{self, Kind, Label};
use crate::{Complete, JournalError};
use lockstep_storage::Storage;

use super::file::{self, FileHead, FrameReader, What, random};

const NAME: &str = "origin";

/// What `origin` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The log's epoch.
    pub(crate) epoch: u64,
    /// Every position up to this one was given, and its commit durable: recovery must find that much, or say that it did not.
    pub(crate) mark: u64,
    /// Commits up to here were given up by compaction, or lost; they are not read again even while their segment exists.
    pub(crate) floor: u64,
    /// How far time had come with the commit at the mark.
    pub(crate) time_ms: i64,
    /// Deletions up to here may have been lost with commits that the disk had acknowledged.
    pub(crate) lost: Complete,
    /// The segments that are sealed, so that opening need not read those that the state covers.
    pub(crate) sealed: Vec<Sealed>,
}

/// What is known of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) changes: u64,
    pub(crate) time_ms: i64,
}

impl Record {
    /// The record of a log that begins.
    pub(crate) fn new() -> Result<Self, JournalError> {
        Ok(Self { epoch: random()?, mark: 0, floor: 0, time_ms: 0, lost: Complete::default(), sealed: Vec::new() })
    }

    /// Reads the file; `None` when there is none.
    pub(crate) fn load(storage: &dyn Storage, names: &[String]) -> Result<Option<Self>, JournalError> {
        if !names.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let (mut reader, head) = FrameReader::open(storage, NAME, What::Origin)?;
        let mut raw = Vec::new();
        let Some((at, frame)) = reader.next_whole(&mut raw)? else {
            return Err(reader.damaged(reader.at(), CodecError("the segments are missing")));
        };
        let (lost, sealed) = decode(frame.payload(&raw), frame.count).map_err(|reason| reader.damaged(at, reason))?;
        let FileHead { epoch, position: mark, previous: floor, time_ms, .. } = head;
        Ok(Some(Self { epoch, mark, floor, time_ms, lost, sealed }))
    }

    /// Writes the file, durably.
    pub(crate) fn store(&self, storage: &dyn Storage) -> Result<(), JournalError> {
        let salt = random()? as u32;
        let mut out = Vec::new();
        let Self { epoch, mark, floor, time_ms, .. } = *self;
        FileHead { what: What::Origin, salt, epoch, position: mark, previous: floor, time_ms }.seal(&mut out);
        let mut raw = Vec::with_capacity(16 + self.sealed.len() * 40);
        raw.extend_from_slice(&self.lost.since.0.to_le_bytes());
        raw.extend_from_slice(&self.lost.since_ms.to_le_bytes());
        for sealed in &self.sealed {
            for number in [sealed.first, sealed.last, sealed.bytes, sealed.changes, sealed.time_ms as u64] {
                raw.extend_from_slice(&number.to_le_bytes());
            }
        }
        let count = self.sealed.len() as u32;
        frame::seal(&mut out, salt, Label { kind: Kind::Entries, first: 0, count, changes: 0 }, &raw);
        file::publish(storage, NAME, &out).map(drop)
    }
}

fn decode(payload: &[u8], count: u32) -> Result<(Complete, Vec<Sealed>), CodecError> {
    let mut input = Input::new(payload);
    let since = Position(u64::from_le_bytes(input.array()?));
    let lost = Complete { since, since_ms: i64::from_le_bytes(input.array()?) };
    let count = input.fits(count.into(), 40)?;
    let mut number = || input.array().map(u64::from_le_bytes);
    let mut sealed = Vec::with_capacity(count);
    for _ in 0..count {
        let (first, last, bytes, changes) = (number()?, number()?, number()?, number()?);
        sealed.push(Sealed { first, last, bytes, changes, time_ms: number()? as i64 });
    }
    if input.left() > 0 { Err(CodecError("bytes after the segments")) } else { Ok((lost, sealed)) }
}
