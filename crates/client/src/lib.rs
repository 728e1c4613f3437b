//! Lockstep client.
