//! Lockstep site.
