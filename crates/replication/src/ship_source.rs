//! Where a sync reads from: one disk of a machine as it was at one instant.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
pub use lockstep_qemu::{Extent, Kind};

/// Why a disk cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SourceError {
    /// What was tried, and on what.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SourceError {
    /// An error without another behind it.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// An error with the one behind it.
    pub fn of(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { what: what.into(), source: Some(Box::new(source)) }
    }
}

/// Something that a disk is asked for, under way.
pub type Reading<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// One disk of a machine, at one instant.
pub trait DiskSource: Send + Sync + 'static {
    /// The size, in bytes.
    fn bytes(&self) -> u64;

    /// Which stretches there are to ship, by offset and without overlap. What the others hold, [`Unlisted`](crate::ship::Unlisted) says.
    fn extents(&self) -> Reading<'_, Vec<Extent>>;

    /// So many bytes from `offset` on. Several reads may be under way.
    fn read(&self, offset: u64, bytes: usize) -> Reading<'_, Bytes>;

    /// The same disk, when it can be read from a file in place: comparing then costs hardly more than hashing.
    fn local(&self) -> Option<&dyn LocalDisk> {
        None
    }

    /// The destination holds this stretch for good: nobody will read it again.
    fn release(&self, offset: u64, bytes: u64) -> Reading<'_, ()>;

    /// Whether all that was read is of one instant: asked after the last read, before an instance is made of it.
    fn check(&self) -> Reading<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A disk that is read from a file. A read waits for the file and nothing else.
pub trait LocalDisk: Send + Sync {
    /// Fills the buffer from `offset` on.
    ///
    /// # Errors
    /// [`SourceError`], also for an end before the buffer is full.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError>;
}
