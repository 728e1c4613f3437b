//! Reading commits that are no longer in memory, and following.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_model::Position;

use super::log::{Found, Measured, take_some};
use super::segment::Segment;
use super::{Shared, explain};
use crate::codec::{CodecError, Interner, decode_commits};
use crate::embedded::file::FrameReader;
use crate::{Commit, Follower, JournalError, ReadError};

/// What a follower is given at once, in encoded bytes.
const FOLLOW_BYTES: usize = 1 << 20;

/// A place in the segment files, from which reading goes on without searching or decoding anything twice.
#[derive(Default)]
pub(crate) struct Cursor {
    /// The position after which it would go on.
    after: u64,
    /// Commits that were decoded with the ones given last.
    ready: VecDeque<Measured>,
    /// The segment being read, by its first position.
    open: Option<(u64, FrameReader)>,
    names: Interner,
    raw: Vec<u8>,
}

impl Cursor {
    /// The position after which the cursor would go on.
    pub(crate) fn after(&self) -> u64 {
        self.after
    }

    /// Lets the file go, and what was decoded of it: the two belong together.
    fn leave(&mut self) {
        self.ready.clear();
        self.open = None;
    }

    /// Commits of the segment after `after`: at least one, which must exist, and about `bytes_max` bytes.
    fn read(
        &mut self,
        shared: &Shared,
        segment: &Segment,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Commit>>, JournalError> {
        if self.after != after {
            self.leave();
        }
        let reader = match &mut self.open {
            Some((first, reader)) if *first == segment.first => {
                reader.extend(segment.extent.lock().bytes);
                reader
            }
            _ => {
                // What was decoded before is read again from here.
                self.ready.clear();
                let reader = segment.reader_after(&*shared.storage, after)?;
                &mut self.open.insert((segment.first, reader)).1
            }
        };
        let mut ready_bytes: usize = self.ready.iter().map(|(_, bytes)| bytes).sum();
        while ready_bytes < bytes_max || self.ready.is_empty() {
            let Some((at, header)) = reader.next_whole(&mut self.raw)? else { break };
            if header.last() <= after {
                continue;
            }
            // How a frame's bytes divide among its commits is not known any more.
            let bytes = header.raw_bytes as usize / (header.count as usize).max(1);
            decode_commits(header.payload(&self.raw), header.first, header.count, &mut self.names, |commit| {
                if commit.position.0 > after {
                    ready_bytes += bytes;
                    self.ready.push_back((Arc::new(commit), bytes));
                }
            })
            .map_err(|reason| reader.damaged(at, reason))?;
        }
        let taken = take_some(self.ready.iter(), bytes_max);
        self.ready.drain(..taken.len());
        match taken.last() {
            Some(last) => self.after = last.position.0,
            None => return Err(reader.damaged(reader.at(), CodecError("commits are missing"))),
        }
        Ok(taken)
    }
}

impl Shared {
    /// The commits after `after`, from memory or with the cursor's help from the files, and the position up to which that is
    /// all.
    pub(crate) fn read_with(
        &self,
        cursor: &mut Cursor,
        after: Position,
        bytes_max: usize,
    ) -> Result<(Vec<Arc<Commit>>, Position), ReadError> {
        loop {
            let segment = match self.log.find(after, bytes_max)? {
                Found::Recent { commits, head } => {
                    // The files are needed no more, until the reader falls behind again.
                    cursor.leave();
                    let through = commits.last().map_or(head, |last| last.position);
                    return Ok((commits, through));
                }
                Found::In(segment) => segment,
            };
            match cursor.read(self, &segment, after.0, bytes_max) {
                Ok(commits) => return Ok((commits, Position(cursor.after))),
                // Retention removed the file before it could be opened: the next look says how far it went.
                Err(_) if !self.log.has(&segment) => {}
                Err(error) => return Err(ReadError::Broken(explain(&error))),
            }
        }
    }
}

/// A reader that goes on from files to memory and back as it must.
pub(crate) struct EmbeddedFollower {
    pub(crate) shared: Arc<Shared>,
    pub(crate) after: Position,
    pub(crate) cursor: Cursor,
}

impl Follower for EmbeddedFollower {
    fn next(&mut self, timeout: Duration) -> Result<Vec<Arc<Commit>>, ReadError> {
        // A timeout beyond what the clock can say is as good as a year.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let deadline = Instant::now() + timeout.min(YEAR);
        loop {
            let (commits, through) = self.shared.read_with(&mut self.cursor, self.after, FOLLOW_BYTES)?;
            self.after = through;
            if !commits.is_empty() {
                return Ok(commits);
            }
            if !self.shared.log.wait(self.after, deadline) {
                return Ok(Vec::new());
            }
        }
    }
}
