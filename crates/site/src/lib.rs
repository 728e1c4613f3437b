//! A site: what every service stands on.
//!
//! # One way in, one way out
//! A write is always: check the caller, check against the model, build a batch with preconditions, [`Site::commit`]. Nothing else
//! writes. The journal decides; one thread follows it and applies each commit to the [`View`](lockstep_query::View), from which every
//! read is answered. A write is answered when the view has reached it, so a client reads its own writes.
//!
//! # What runs at the same time
//! Readers share the view's lock; the applying thread takes it alone for one commit at a time, so a reader never sees half of one.
//! Nobody holds it across an `await` or a flush. Writers do not hold it at all while they wait: two that change one resource are
//! told apart by the journal's preconditions, and the one who lost tries again on what it finds.
//!
//! # Linked resources
//! A resource with [`linked_from`](lockstep_model::LINKED_FROM) set is a copy of another site's: only the provider of its link writes
//! it ([`linked`]), everyone else reads; but anyone tags it, as what is tagged is shared by both sites ([`stamps`]).
//!
//! # Collected resources
//! A resource with [`collected_by`](lockstep_model::COLLECTED_BY) set is kept by a collector as its source has it ([`collected`]):
//! the collector alone creates and deletes it and owns some of its properties; the others are everyone's.
//!
//! # Epochs
//! A client that keeps a copy of one resource type asks for the net change between two closed seconds: module [`epochs`]. What was
//! deleted is remembered for longer than the log lasts, there and for the feed.
//!
//! # Secrets
//! Passwords are kept as argon2 hashes in properties that no read shows, session tokens as hashes in memory.

pub mod accounts;
pub mod caller;
pub mod collected;
mod deletions;
pub mod epochs;
pub mod export;
pub mod import;
mod inventory;
pub mod linked;
mod operations;
pub mod power;
pub mod seal;
pub mod sessions;
mod site;
pub mod stamps;
pub mod table;
pub mod tasks;
pub mod times;
pub mod token;
pub mod uuid;

pub use inventory::{WriteError, Written, commit_error, deletions, put, update, update_tags};
pub use operations::{filter_spec, register};
pub use site::{Config, OpenError, Progress, Site};
