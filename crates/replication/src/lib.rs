//! Replication of machines' disks to another site.
//!
//! # The transport of one sync
//! The source drives: with the link's client it calls `lockstep.replication.receive` at the destination.
//!
//! ```text
//!   source                                              destination
//!   disks at one instant ─► ship ──── open, map, leaf ────► receive ─► store of blocks and instances
//!                             ├────── have (hashes) ─────►
//!                             ├────── put (blocks, map) ─►     durable when it answers
//!                             └────── commit (root) ─────►     whole or not at all
//! ```
//! * [`ship`]: reading, hashing, packing and sending; what is sent and what a break costs.
//! * [`receive`]: what is checked of it, whose it is, and what becomes of drafts.
//! * [`frame`]: how blocks travel.
//! * [`limit`]: memory, turns and bytes a second.
//!
//! [`recovered`]: what failovers and their tests make of an instance.
//!
//! # Promises
//! * An instance is there whole or not at all, and what it holds is what the source was: every block is checked against its hash as it
//!   arrives, and the whole map against the root that the source reckoned.
//! * Nothing is sent that the destination has; zeroes never; what a break, a kill or a cancellation wastes is bounded ([`limit`]).
//! * The same calls do for a first copy, an increment, a comparison, and going on after a break.

pub mod engine;
pub mod frame;
pub mod limit;
mod machine;
mod operations;
mod peer;
pub mod receive;
mod receive_blocks;
mod receive_check;
mod receive_store;
pub mod record;
mod recover;
pub mod recovered;
mod schedule;
mod service;
mod sessions;
mod settings;
pub mod ship;
mod ship_map;
mod ship_peer;
mod ship_plan;
mod ship_source;
mod ship_unit;
mod show;
mod sites;
pub mod states;
mod sync;
mod tell;
mod turns;
mod vapp;
mod vault;
mod verbs;

pub use schedule::SYNCS_MAX;
pub use service::{Config, REPLICATIONS_MAX, Replications};
