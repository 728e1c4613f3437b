//! The log as readers see it: what is durable, the most recent of it in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use lockstep_model::Position;
use parking_lot::{Condvar, Mutex};

use super::segment::{Frame, Segment};
use crate::{Commit, ReadError};

/// Published copies of what the writer owns. Followers sleep on `grown`.
pub(crate) struct Log {
    /// Held to look up and to publish, never while a file is touched.
    published: Mutex<Published>,
    grown: Condvar,
    ring_bytes_max: usize,
}

struct Published {
    head: u64,
    /// How far time has come.
    time_ms: i64,
    floor: u64,
    /// Oldest first; the last one grows. Never empty.
    segments: VecDeque<Arc<Segment>>,
    /// All commits after `ring_after`, with their encoded sizes.
    ring: VecDeque<Measured>,
    ring_bytes: usize,
    ring_after: u64,
    is_closed: bool,
}

/// A commit and about how many bytes it takes encoded.
pub(crate) type Measured = (Arc<Commit>, usize);

/// Where the commits after a position are.
pub(crate) enum Found {
    /// Here. When there are none, there are none up to `head`: positions that recovery skipped have no commits.
    Recent {
        /// The first of them.
        commits: Vec<Arc<Commit>>,
        /// The head at that moment.
        head: Position,
    },
    /// In this segment.
    In(Arc<Segment>),
}

/// Takes commits off the front: as many as make at least one and about `bytes_max` bytes.
pub(crate) fn take_some<'a>(commits: impl Iterator<Item = &'a Measured>, bytes_max: usize) -> Vec<Arc<Commit>> {
    let mut left = bytes_max;
    let mut taken = Vec::new();
    for (commit, bytes) in commits {
        if !taken.is_empty() && *bytes > left {
            break;
        }
        left = left.saturating_sub(*bytes);
        taken.push(commit.clone());
    }
    taken
}

impl Log {
    pub(crate) fn new(
        segments: VecDeque<Arc<Segment>>,
        (head, time_ms): (u64, i64),
        floor: u64,
        ring_bytes_max: usize,
    ) -> Self {
        let ring = VecDeque::new();
        let published =
            Published { head, time_ms, floor, segments, ring, ring_bytes: 0, ring_after: head, is_closed: false };
        Self { published: Mutex::new(published), grown: Condvar::new(), ring_bytes_max }
    }

    pub(crate) fn head(&self) -> Position {
        Position(self.published.lock().head)
    }

    /// The head, and how far time has come with it.
    pub(crate) fn head_and_time_ms(&self) -> (Position, i64) {
        let published = self.published.lock();
        (Position(published.head), published.time_ms)
    }

    pub(crate) fn oldest(&self) -> Position {
        self.published.lock().oldest()
    }

    /// Makes a durable group visible: its frame at the end of the last segment, its commits to followers.
    pub(crate) fn grow(&self, frame: &Frame, time_ms: i64, commits: impl Iterator<Item = Measured>) {
        let mut forgotten = Vec::new();
        let mut published = self.published.lock();
        if let Some(segment) = published.segments.back() {
            let mut extent = segment.extent.lock();
            extent.grow(frame);
            extent.time_ms = time_ms;
        }
        (published.head, published.time_ms) = (frame.last, time_ms);
        for (commit, bytes) in commits {
            published.ring_bytes += bytes;
            published.ring.push_back((commit, bytes));
        }
        while published.ring_bytes > self.ring_bytes_max
            && let Some((commit, bytes)) = published.ring.pop_front()
        {
            published.ring_bytes -= bytes;
            published.ring_after = commit.position.0;
            forgotten.push(commit);
        }
        drop(published);
        self.grown.notify_all();
        // Freeing commits takes longer than all the rest: not under the lock.
        drop(forgotten);
    }

    /// Adds the segment that grows from here on. The last one goes when the new one has its place: it has no commits, so nobody reads it.
    pub(crate) fn push_segment(&self, segment: Arc<Segment>) {
        let mut published = self.published.lock();
        if published.segments.back().is_some_and(|last| last.first == segment.first) {
            published.segments.pop_back();
        }
        published.segments.push_back(segment);
    }

    /// All segments, oldest first; the last one is the one that grows.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.published.lock().segments.iter().cloned().collect()
    }

    /// Takes the oldest segment out, if it ends at or before `through` and is not the one that grows.
    pub(crate) fn pop_segment(&self, through: u64) -> Option<Arc<Segment>> {
        let mut published = self.published.lock();
        let is_over = published.segments.len() > 1
            && published.segments.front().is_some_and(|segment| segment.extent.lock().last <= through);
        if is_over { published.segments.pop_front() } else { None }
    }

    /// Refuses to read after less than `floor` from here on.
    pub(crate) fn raise_floor(&self, floor: u64) {
        let mut published = self.published.lock();
        published.floor = published.floor.max(floor);
    }

    pub(crate) fn floor(&self) -> u64 {
        self.published.lock().floor
    }

    /// Whether the segment is still part of the log.
    pub(crate) fn has(&self, segment: &Segment) -> bool {
        self.published.lock().segments.iter().any(|known| known.first == segment.first)
    }

    /// Checks that the log can be read after `after`.
    pub(crate) fn check(&self, after: Position) -> Result<(), ReadError> {
        self.published.lock().check(after)
    }

    /// Where the commits after `after` are.
    pub(crate) fn find(&self, after: Position, bytes_max: usize) -> Result<Found, ReadError> {
        let published = self.published.lock();
        published.check(after)?;
        let head = Position(published.head);
        if after.0 >= published.ring_after {
            let from = published.ring.partition_point(|(commit, _)| commit.position <= after);
            return Ok(Found::Recent { commits: take_some(published.ring.range(from..), bytes_max), head });
        }
        let at = published.segments.partition_point(|segment| segment.extent.lock().last <= after.0);
        let segment = published.segments.range(at..).find(|segment| segment.extent.lock().last >= segment.first);
        Ok(segment.map_or(Found::Recent { commits: Vec::new(), head }, |segment| Found::In(segment.clone())))
    }

    /// Waits until there may be commits after `after`; false when the deadline has passed or the log was closed first.
    pub(crate) fn wait(&self, after: Position, deadline: Instant) -> bool {
        let mut published = self.published.lock();
        while published.head <= after.0 {
            if published.is_closed || self.grown.wait_until(&mut published, deadline).timed_out() {
                return published.head > after.0;
            }
        }
        true
    }

    /// Wakes all followers for good.
    pub(crate) fn close(&self) {
        self.published.lock().is_closed = true;
        self.grown.notify_all();
    }
}

impl Published {
    fn oldest(&self) -> Position {
        let kept_after = self.segments.front().map_or(self.head, |segment| segment.previous);
        Position(kept_after.max(self.floor))
    }

    fn check(&self, after: Position) -> Result<(), ReadError> {
        let (oldest, head) = (self.oldest(), Position(self.head));
        if after > head {
            return Err(ReadError::Future { asked: after, head });
        }
        if after < oldest {
            return Err(ReadError::Expired { asked: after, oldest });
        }
        Ok(())
    }
}
