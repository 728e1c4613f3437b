//! Syncs between two sites: over a wire that breaks, from a source and to a destination that die, or lie.

#![allow(clippy::unwrap_used, reason = "tests")]

mod blows;
mod lies;
mod limits;
mod pair;
mod receiving;
mod syncs;
