//! Replication of machines' disks to another site.
//!
//! # What is where
//! | what | kept in | by |
//! |---|---|---|
//! | replications: what they were told, how they go, how far recovery is | the journals of both sites, as `VmReplication` | [`record`]; each side owns a part and tells the other (`tell.rs`, `peer.rs`) |
//! | what is being done | the journal, as `Task` | [`states`] says what may be, `turns.rs` that it is one thing at a time, `verbs.rs` does it |
//! | instances, and drafts of them | the block store of the destination | [`receive`], `vault.rs` |
//! | maps of the last instance, what a running machine overwrites meanwhile | files of the source | [`ship`], [`engine_qemu`] |
//! | recovered machines | images at the destination, over an instance until they need it no more | [`recovered`]; `recover.rs` says when |
//!
//! # Who does what
//! The source has the schedule (`schedule.rs`) and drives each sync (`sync.rs`, where its steps are numbered). The destination keeps
//! instances by the rules and brings machines to life. After a failover they may change sides (`reverse.rs`, `seed.rs`). Either site may
//! be asked for anything: what the other does is passed on, and followed by a task here.
//!
//! # What may run at the same time
//! One task for each replication; a sync that is asked for while one runs is that one. Syncs share the memory of the server and the line of
//! their link ([`limit`]); the schedule has [`SYNCS_MAX`] of them under way. A crash at any moment leaves a task that goes on or has failed
//! (`verbs.rs`), and an instance that is found out about by the next sync (`sync.rs`).
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
//! # Promises
//! * An instance is there whole or not at all, and what it holds is what the source was: every block is checked against its hash as it
//!   arrives, and the whole map against the root that the source reckoned.
//! * Nothing is sent that the destination has; zeroes never; what a break, a kill or a cancellation wastes is bounded ([`limit`]).
//! * What is damaged at the destination is not built upon: the next sync compares everything, and brings again what is missing.
//! * The same calls do for a first copy, an increment, a comparison, and going on after a break.

pub mod engine;
pub mod engine_qemu;
pub mod frame;
pub mod limit;
mod machine;
mod metrics;
mod operations;
mod peer;
pub mod receive;
mod receive_blocks;
mod receive_check;
mod receive_store;
pub mod record;
mod recover;
pub mod recovered;
mod reverse;
mod schedule;
mod seed;
mod service;
mod sessions;
mod settings;
pub mod ship;
mod ship_base;
mod ship_map;
mod ship_peer;
mod ship_plan;
mod ship_source;
mod ship_tags;
mod ship_unit;
mod show;
mod sites;
pub mod states;
pub mod switch;
mod sync;
mod tell;
mod turns;
mod vapp;
mod vault;
mod verbs;

pub use schedule::SYNCS_MAX;
pub use service::{Config, REPLICATIONS_MAX, Replications};
