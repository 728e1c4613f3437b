//! Instances brought to life at the destination.
//!
//! A *recovery* is an instance whose disks can be written, and a machine that has them: for a test, or to stay. Of each replication there
//! is at most one. Its disks are qcow2 images over the instance, which is read where it is over NBD; so a machine is up at once, however
//! large it is, and the instance never changes. For a failover the rest is copied while the machine works, until it needs the instance no more.
//!
//! # States
//!
//! ```text
//!             begin                                    make_independent (of a failover)
//!   (none) ────────► Preparing ────────► Ready ──────────────────────────────► Ready, independent
//!      ▲                 │ fails           │ ▲                                        │
//!      │                 ▼                 │ └── power: Off ─► Starting ─► On ─► Off  │
//!      └───────────── Removing ◄───────────┴──────────────────────────────────────────┘ discard
//! ```
//!
//! # What is where
//!
//! | below the directory | holds |
//! |---|---|
//! | `nbd.sock` | the NBD server of instances (`exports.rs`) |
//! | `holds` | which instances were pinned before we pinned them |
//! | `<replication>/state` | a [`Recovery`], written before each step (`state.rs`) |
//! | `<replication>/disk-<key>.qcow2` | its disks |
//! | `<replication>/qemu.pid`, `control.sock`, `monitor.sock` | its QEMU: our monitor, and that for replicating it |
//!
//! # Promises
//! - An instance is checked before it is offered, and pinned while it is. What is read of it is checked block by block.
//! - A recovered machine outlives Lockstep; its disks wait while Lockstep is away. [`Recoveries::open`] finds it, finishes what was begun
//!   and cleans up what cannot be finished, whenever it was killed.
//! - What fails or is cancelled before the machine is up leaves nothing behind. Nothing that a failover's machine wrote is ever removed but
//!   by [`Recoveries::discard`].
//!
//! # What may run at the same time
//! Recoveries of several replications; of one replication one call at a time, others are [`Error::Busy`]. A call goes on when its caller
//! goes away.

mod copy;
mod error;
mod exports;
mod guest;
mod image;
mod power;
mod recoveries;
mod state;
mod takeup;
mod work;

pub use error::Error;
pub use exports::SERVED_MAX;
pub use lockstep_qemu::process::Process;
pub use power::{PoweredOff, power_off};
pub use recoveries::{Config, MachineDisk, Observer, RecoveredMachine, Recoveries, Wanted};
pub use state::{Accelerator, Hardware, Power, Purpose, RecoveredDisk, Recovery, Step};
