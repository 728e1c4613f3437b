//! The interface that every engine implements.

use std::sync::Arc;
use std::time::Duration;

use lockstep_model::{Position, ResourceId};

use crate::{Batch, Commit, Complete, Expect, StateEntry, Tombstone};

/// What opening an engine hands out: the state at some position, then every commit after it, up to the head.
///
/// First come the entries, each resource once, and the tombstones, in no order; then the commits in order; at last, since when
/// deletions are known. Who has taken them all knows the state at [`Engine::head`], and goes on with [`Engine::follow`] from there.
#[derive(Debug, Clone, PartialEq)]
pub enum Replayed {
    /// A resource of the state.
    Entry(StateEntry),
    /// A deletion that the state remembers.
    Tombstone(Tombstone),
    /// A commit after the state.
    Commit(Arc<Commit>),
    /// Since when tombstones and commits together tell all deletions. Once, at the end.
    Complete(Complete),
}

/// How much of the past is kept beyond what the state needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Commits younger than this are kept, unless `bytes_max` is passed.
    pub age: Duration,
    /// The log may take about this many bytes on disk; the oldest commits go first.
    pub bytes_max: u64,
    /// The log may hold about this many changes; the oldest commits go first.
    pub changes_max: u64,
    /// That a resource was deleted is remembered for this long, unless `deletions_max` is passed.
    pub deletions_age: Duration,
    /// The state remembers this many deletions; the oldest go first.
    pub deletions_max: u64,
}

impl Default for Retention {
    /// A week, 4 GiB, twenty million changes; a month and a million deletions.
    fn default() -> Self {
        Self {
            age: Duration::from_secs(7 * 24 * 3600),
            bytes_max: 4 << 30,
            changes_max: 20_000_000,
            deletions_age: Duration::from_secs(30 * 24 * 3600),
            deletions_max: 1_000_000,
        }
    }
}

/// Which log this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Chosen at random when the log was made; another log has another one. When recovery finds less than had been
    /// acknowledged (a disk that lied), it is chosen anew, so that positions given before are never taken for new ones.
    pub epoch: u64,
}

/// Why a batch was not committed. Nothing of it is visible then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A resource is not as the batch expects it.
    #[error("{id} is not as expected: expected {expected:?}, found {found:?}")]
    Conflict {
        /// The resource.
        id: ResourceId,
        /// What the batch expected.
        expected: Expect,
        /// Where it was last changed; `None` when it does not exist.
        found: Option<Position>,
    },
    /// The batch breaks a rule of [`Batch`].
    #[error("malformed batch: {0}")]
    Malformed(&'static str),
    /// The batch is larger than an engine can commit at once.
    #[error("the batch takes {bytes} bytes, more than {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No room on the disk. Later batches may fit; nothing was lost.
    #[error("no space left for the journal")]
    Full,
    /// A flush failed or the store is broken; the engine refuses all writes until it is opened again. Whether this batch
    /// survives is unknown.
    #[error("the journal refuses writes: {0}")]
    Poisoned(Arc<str>),
    /// The engine is shutting down.
    #[error("the journal is closed")]
    Closed,
}

/// Why commits cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The commits after `asked` are no longer all there.
    #[error("position {asked} has expired; the oldest kept is {oldest}")]
    Expired {
        /// The position asked for.
        asked: Position,
        /// The least position that can be read after.
        oldest: Position,
    },
    /// The position has not been reached.
    #[error("position {asked} is beyond the last one, {head}")]
    Future {
        /// The position asked for.
        asked: Position,
        /// The last commit's.
        head: Position,
    },
    /// The store is broken.
    #[error("the journal cannot be read: {0}")]
    Broken(Arc<str>),
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refuses.
    #[error("{what} {path}")]
    Io {
        /// What was tried, e.g. `cannot open`.
        what: &'static str,
        /// On which file.
        path: String,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// A checksum or the order is wrong somewhere other than at the log's torn end.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The files were written by a version that this one does not know.
    #[error("{path} has format {found}; this version reads {known}")]
    Format {
        /// The file.
        path: String,
        /// The format found.
        found: u32,
        /// The format known.
        known: u32,
    },
}

/// Called once with the outcome of a batch or of closing an epoch, from a thread of the engine or from within [`Engine::submit`]. Must not block and
/// must not submit: other batches wait meanwhile.
pub type Done = Box<dyn FnOnce(Result<Position, CommitError>) + Send>;

/// A store of one ordered log.
///
/// # What every engine promises
/// - Commits are atomic and totally ordered; a commit's position is greater than that of every commit before it.
/// - Preconditions are checked against the state in which the commit takes place, whoever else writes.
/// - A batch that was acknowledged is durable, and is seen by every read and follower, in order, exactly once.
/// - A follower sees a commit only once it is durable.
/// - Commits' times never go back, and a closed epoch gets no more commits, over restarts and whatever clocks do.
///
/// # Epochs
/// An *epoch* is a second since 1970; a commit's is that of its time. Closing one makes sure that no commit to come gets it, or one
/// before it: who then reads up to [`Engine::head`] has seen all that it will ever hold. It is a lower bound for the times of
/// commits, kept in the log, so that it binds every process that writes to it.
pub trait Engine: Send + Sync {
    /// Commits the batch; `done` hears of it when it is durable, or when it is refused. Blocks while too much waits to be
    /// written: that is the engine's back-pressure.
    fn submit(&self, batch: Batch, done: Done);

    /// Which log this is.
    fn origin(&self) -> Origin;

    /// The position of the last durable commit, or the position up to which a damaged log had to give up;
    /// [`Position::ZERO`] when there is none.
    fn head(&self) -> Position;

    /// The least position after which [`Engine::read`] still works.
    fn oldest(&self) -> Position;

    /// The commits after `after`, in order, all of them complete: at least one and at most about `bytes_max` bytes of encoded
    /// size. Fewer than would fit do not mean that the head was reached; none do.
    ///
    /// # Errors
    /// [`ReadError::Expired`] and [`ReadError::Future`].
    fn read(&self, after: Position, bytes_max: usize) -> Result<Vec<Arc<Commit>>, ReadError>;

    /// Follows the log: all commits after `after`, and those to come.
    ///
    /// # Errors
    /// As [`Engine::read`].
    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, ReadError>;

    /// Closes the epoch `epoch_s` and all before it. When `done` hears of success, no later commit, of this or another process, gets
    /// one of them, and every commit that has is durable and at or before the position that `done` is given, which the head has
    /// reached. What is closed already is answered at once, without the disk. Never blocks.
    ///
    /// An epoch ahead of the clock can be closed: commits are dated after it, so let nobody close what is far ahead.
    ///
    /// # Errors
    /// As for a batch. After [`CommitError::Full`] the epoch is as open as it was, and nothing else has changed.
    fn close_epoch(&self, epoch_s: i64, done: Done);

    /// The last epoch that is known here to be closed, in seconds since 1970. Another process may have closed later ones.
    fn closed_s(&self) -> i64;

    /// The log's time in milliseconds since 1970: the clock's, but never less than the time of the last commit and the end of the last
    /// closed epoch.
    fn now_ms(&self) -> i64;

    /// Forgets the commits up to `through`, beyond what retention does; [`Engine::oldest`] is at least `through` then. The
    /// state stays whole. Returns when it is done, which may take as long as writing the state does.
    ///
    /// # Errors
    /// [`ReadError::Future`] beyond the head, [`ReadError::Broken`] when the store fails.
    fn compact(&self, through: Position) -> Result<(), ReadError>;

    /// Bytes on disk: of the log and of the state.
    fn disk_bytes(&self) -> (u64, u64);

    /// Refuses further writes, finishes those under way, and wakes followers.
    fn close(&self);
}

/// A reader that waits for commits.
pub trait Follower: Send {
    /// The next commits in order: at least one, or none when `timeout` has passed or the engine was closed.
    ///
    /// # Errors
    /// [`ReadError::Expired`] when the reader fell behind what is kept.
    fn next(&mut self, timeout: Duration) -> Result<Vec<Arc<Commit>>, ReadError>;
}
