//! Lockstep contract.
