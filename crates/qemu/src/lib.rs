//! Changed blocks of real disks: what of a virtual machine has to be shipped, and its bytes, at one point in time.
//!
//! # A cycle
//!
//! ```text
//! VmSource ── choose ──► Choice ── begin(base) ──► Cycle ── disks: extents, read, release ──► check ──► finish or abandon
//! ```
//!
//! A [`Cycle`] is a point in time of all disks of a machine, while it is read. Its number is one more than that of the [`Base`], the last
//! instance that the destination has. [`Cycle::finish`] says that the destination has committed it, [`Cycle::abandon`] that it never will;
//! a cycle that just goes away, with this process, with QEMU or with the host, is judged by the next one's base.
//!
//! # What is promised
//!
//! - Each disk is exactly as it was at one instant, and all disks of a running machine at the same one.
//! - What is not listed by [`CycleDisk::extents`] is as it was in the base. A bitmap is believed only when an unbroken row of names says
//!   that it recorded ever since ([`bitmaps`](mod@bitmaps)); in doubt, all data is listed and hashes decide ([`Method::Compare`]).
//! - The guest never sees an error or a wait without end on our account, and is never left standing still ([`live`]).
//! - Images are written by QEMU's own programs only, and only while nobody else has them open.
//!
//! # What may run at the same time
//!
//! | | another cycle of the machine | the guest | start or stop of the machine | snapshots, resizing |
//! |---|---|---|---|---|
//! | live cycle | [`Error::Busy`] | writes | the cycle fails; compare next time, or by the stopped bitmap after a clean end | fail, or the disk is compared next time |
//! | stopped cycle | [`Error::InUse`] | is off | the start fails until the cycle ends | fail until the cycle ends |
//!
//! Reads of a cycle may be in flight together, of one disk and of several.
//!
//! # Besides
//!
//! [`nbd`] also has a server, by which instances can be read where they are. [`qmp`] is QEMU's monitor, and [`process`] finds QEMU's
//! processes again that a process of ours has left. This crate knows nothing of
//! sites, replications (but a [`Tag`] for names) or where blocks go.

#![forbid(unsafe_code)]

pub mod bitmaps;
mod cycle;
mod error;
mod extent;
mod guest;
mod image;
pub mod live;
pub mod nbd;
pub mod process;
pub mod qmp;
mod raw;
mod source;
pub mod stopped;

pub use bitmaps::Tag;
pub use cycle::{Base, Cycle, CycleDisk, Method, Quiesced};
pub use error::{Error, Result};
pub use extent::{EXTENTS_MAX, Extent, Kind};
pub use guest::FREEZE_LIMIT;
pub use image::Format;
pub use live::{LiveVm, Select};
pub use source::{Choice, DiskSource, Source, VmSource};
pub use stopped::{StoppedDisk, StoppedVm};

/// Bytes of a block, the unit that is compared and shipped.
pub const BLOCK_BYTES: usize = 64 << 10;
