//! Changed blocks of real disks.
#![forbid(unsafe_code)]
mod error;
mod extent;
pub mod nbd;
pub mod qmp;

pub use error::{Error, Result};
pub use extent::{EXTENTS_MAX, Extent, Kind};

/// Bytes of a block, the unit that is compared and shipped.
pub const BLOCK_BYTES: usize = 64 << 10;
