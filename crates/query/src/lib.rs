//! Lockstep query.
