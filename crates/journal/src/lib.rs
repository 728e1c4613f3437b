//! The journal: one ordered log of commits, from which everything a site shows is built.
//!
//! A [`Commit`] is an atomic set of [`Change`]s at one [`Position`]. Positions only grow and are never given twice, and a
//! commit that was acknowledged is durable. An [`Engine`] keeps the log; [`suite`] is the set of tests that any engine
//! must pass.

mod commit;
mod engine;

pub use commit::{Batch, Change, Commit, Expect, Operation, StateEntry};
pub use engine::{CommitError, Done, Engine, Follower, JournalError, Origin, ReadError, Retention};
