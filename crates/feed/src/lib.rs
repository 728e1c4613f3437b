//! Lockstep feed.
