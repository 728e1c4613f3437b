//! Where replicas live: a store of blocks by their content, and of instances that are made of them.
//!
//! A *block* is 64 KiB of a disk, stored once however many disks, instances and replications hold it. An *instance* is all disks of a
//! machine at one point in time. It is there whole or not at all.
//!
//! # What is where
//! Files of one flat directory; other names are left alone.
//!
//! | file | holds | drawn in |
//! |---|---|---|
//! | `pack.<number>` | blocks and leaves, each with its hash | `pack.rs` |
//! | `instance.<replication>.<instance>` | an instance: its disks, and the hashes of their leaves | `instance.rs` |
//! | `draft.<replication>.<instance>` | an instance in the making, as a log | `draft_log.rs` |
//! | `owner`, `footer.<number>` | with an object store: whose it is, and what its packs have | `tier.rs` |
//! | `lock` | nothing: whoever uses the store locks it | |
//!
//! ```text
//!   instance ──► leaf, one for each 4096 blocks of a disk ──► block
//! ```
//! A leaf is content like a block, so instances that differ in little share nearly all of theirs. BLAKE3 over the leaves' hashes is the
//! instance's *root*: it says what all its disks hold.
//!
//! With an object store besides, what is finished is there: `tier.rs`.
//!
//! # Promises
//! - What [`Draft::flush`] returned for is there after `kill -9` and a loss of power. A torn end is cut, never read.
//! - An instance that was committed has all its blocks. Garbage collection removes nothing that an instance, a draft or a call of
//!   [`Draft::have`] under way relies on, whenever it is killed.
//! - What is read is checked against its hash. A damaged block is an error that names it, and is healed when it is put again. No draft begins as
//!   an instance that is known to be damaged: so everything of it is put again that its source still has.
//! - A full disk is [`Error::Full`]; what was there stays, and work goes on when there is room. A fiftieth of the file system is left to
//!   others, a gibibyte at the most: a site whose replicas fill its disk must still be able to write down that they are removed.
//! - After a flush that failed, nothing is accepted any more ([`Error::Poisoned`]) until the store is opened again.
//!
//! # Memory
//! The index takes some 64 bytes for each distinct block: a gigabyte for each terabyte that is stored. A draft holds 64 open leaves.
//!
//! # What may run at the same time
//! All calls may, from any thread. Writers append to one pack, one after the other; flushes that wait for the same bytes share one. One
//! collection of garbage runs at a time, beside everything else. Instances and drafts come and go one at a time: while an object store is
//! away, who begins, commits, pins or removes waits, for two minutes at most each; who looks up, puts, sets, flushes or reads locally does
//! not. Two processes cannot open one store.
//!
//! Locks are taken in this order: collecting, changing, the catalog, a draft; then the writer's state, then the index.

mod draft;
mod draft_log;
mod error;
mod export;
pub mod format;
mod garbage;
mod index;
mod instance;
mod names;
mod pack;
mod reader;
mod remote;
mod retention;
mod store;
mod tier;
mod verify;
mod writer;

pub use draft::Draft;
pub use error::Error;
pub use export::{ExportProgress, export_raw};
pub use format::{BLOCK_BYTES, Hash, LEAF_BLOCKS};
pub use garbage::Collected;
pub use instance::{DiskSize, Instance, InstanceState};
pub use names::Name;
pub use pack::{Block, Form};
pub use reader::{DiskReader, Run};
pub use remote::{Remote, S3, S3Config};
pub use retention::{INSTANCES_MAX, Rule, expired};
pub use store::{Figures, Store};
pub use verify::{Damage, Verified};
