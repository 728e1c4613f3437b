//! The journal: one ordered log of commits, from which everything a site shows is built.
//!
//! A [`Commit`] is an atomic set of [`Change`]s at one [`Position`]. Positions only grow and are never given twice, and a
//! commit that was acknowledged is durable. An [`Engine`] keeps the log.

mod codec;
mod commit;
mod embedded;
mod engine;
mod frame;
mod storage;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use codec::CodecError;
pub use commit::{Batch, Change, Commit, Expect, Operation, StateEntry, redo};
pub use embedded::{Clock, Config, Embedded};
pub use engine::{CommitError, Done, Engine, Follower, JournalError, Origin, ReadError, Replayed, Retention};
#[doc(hidden)]
pub use frame::{decode_frame, decode_payload};
