//! The journal: one ordered log of commits, from which everything a site shows is built.
//!
//! A [`Commit`] is an atomic set of [`Change`]s at one [`Position`](lockstep_model::Position). Positions only grow and are never
//! given twice, and a commit that was acknowledged is durable. An [`Engine`] keeps the log; the module `suite` (feature
//! `suite`) is the set of tests that any engine must pass. [`Embedded`] is the engine of a single server, and the rest of this page is
//! about it.
//!
//! # What is on the disk
//! | file | what |
//! |---|---|
//! | `lock` | held by the process that has the journal open |
//! | `origin` | the log's epoch, how far it is known to be durable, the sealed segments |
//! | `log-<position>.seg` | commits, from that position on; the last of these files grows, the others are sealed |
//! | `state-<position>.ckpt` | every resource as it is at that position, sorted by type and id, and tombstones of deleted ones |
//! | `*.tmp` | a file that is being written; removed at the next opening |
//!
//! Every file is a run of *frames* with two checksums (drawn in `frame.rs`), and begins with a head that names its format, its kind
//! and the random salt of its frames. A frame of a segment is one *group*: the batches that were made durable by one flush. Payloads
//! (drawn in `codec.rs`) are LZ4-compressed when that makes them smaller. Whatever is read is checked first: a flipped bit is
//! an error that names file and byte, never data.
//!
//! A file other than the last segment is written under a temporary name, flushed, renamed, and its directory flushed: it is there
//! in whole or not at all. Only the last segment is ever appended to, and only it can have a torn end.
//!
//! # Who does what
//! | thread | does | never waits for |
//! |---|---|---|
//! | a submitter | checks a batch by itself, fingerprints, queues | the disk (but for room in the queue) |
//! | the writer | preconditions, encoding, one write and one flush per group, publishing | readers, housekeeping's folds |
//! | housekeeping | folds sealed segments into a new state, drops what retention lets go | – |
//! | a reader or follower | recent commits from memory, older ones from the files | anything but new commits |
//!
//! The write path is numbered at the head of `embedded/writer.rs`, recovery at that of `embedded/recover.rs`, folding at that of
//! `embedded/fold.rs`.
//!
//! # What may happen at the same time
//! - *Reading and writing.* A reader looks at a segment only as far as has been published as durable; the bytes before do not change.
//! - *Reading and dropping.* A segment leaves the list before its file is removed. A reader that had found it looks again and is told
//!   [`ReadError::Expired`].
//! - *Folding and writing.* A fold reads sealed segments only, and flushes in small portions, so that the writer's flushes do not queue
//!   behind a whole state.
//! - *Folding and a crash.* The old state and all segments after it stay until the new state is durable.
//!
//! # What is promised after a crash
//! - Every acknowledged commit is there; a commit that was not acknowledged is there in whole or not at all, and if it is handed
//!   out once, it stays.
//! - Torn writes at the log's end are cut. Damage elsewhere, also damage to an end that is known to have been durable, is
//!   [`JournalError::Damaged`]: the journal does not open rather than forget.
//! - Positions are not given twice even if the disk lost what it had acknowledged: the log goes on above the highest position it
//!   is known to have had, under a new [`Origin::epoch`].
//!
//! - Times of commits never go back, and a closed epoch gets no more commits.
//!
//! # Times and epochs
//! The log has one time, in milliseconds, that only grows: that of its last commit, or the last millisecond of the last second (*epoch*)
//! that was closed, whichever is later. A commit takes the clock's time, or the log's when the clock is behind; but the
//! last millisecond of a second, once the log has come to it, is used up, and the next commit belongs to the next second. So
//! "closed" needs no number of its own: closing an epoch is a group without commits whose time is the epoch's last millisecond, with
//! the write, the flush and the recovery of any group, and every head that says how far time had come says which epochs are closed.
//!
//! # Deletions
//! The log forgets sooner than clients come back. So the state keeps a tombstone for each deletion, as long as [`Retention`] says, and
//! since when these are complete. One for each deletion, not one for each resource: what existed at some moment of the past
//! can be told only from all lives of a resource.
//!
//! # Limits
//! A batch makes at most 64 MiB encoded ([`CommitError::TooLarge`]), values nest at most 32 levels, a leaf's path has at most
//! 4096 bytes. The versions table takes 30 to 38 bytes of memory a resource; recent commits and the queue what [`Config`] says.
//! Retention drops whole segments, so the log may exceed it by one segment, and the newest segment is kept whatever its age.

mod codec;
mod commit;
mod embedded;
mod engine;
mod frame;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use codec::CodecError;
pub use commit::{Batch, Change, Commit, Complete, Expect, Operation, StateEntry, Tombstone, redo};
pub use embedded::{Clock, Config, Embedded};
pub use engine::{CommitError, Done, Engine, Follower, JournalError, Origin, ReadError, Replayed, Retention};
#[doc(hidden)]
pub use frame::{decode_frame, decode_payload};
