//! Lockstep cli.
