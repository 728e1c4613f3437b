//! What can go wrong.

use std::io;
use std::sync::Arc;

/// Why a store cannot be opened, read or kept in order.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another part of this one, has the store open.
    #[error("the series store {0} is in use")]
    InUse(String),
    /// A duration of the configuration is out of its bounds.
    #[error("{what} cannot be kept for {given_s} s, only for {min_s} to {max_s} s")]
    #[allow(missing_docs)]
    Retention { what: &'static str, given_s: i64, min_s: i64, max_s: i64 },
    /// The disk has no room for what housekeeping must write. Nothing is lost; it may be tried again.
    #[error("no space left for {path}")]
    #[allow(missing_docs)]
    Full { path: String },
    /// The system refused something.
    #[error("{what} {path}")]
    #[allow(missing_docs)]
    Io { what: &'static str, path: String, source: io::Error },
    /// A file is not what was written.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    #[allow(missing_docs)]
    Damaged { path: String, offset: u64, reason: &'static str },
    /// A file of another release.
    #[error("{path} has format {found}, this program knows {known}")]
    #[allow(missing_docs)]
    Format { path: String, found: u32, known: u32 },
    /// The disk failed to make something durable, and what it holds is not known any more. Open the store anew.
    #[error("the series store takes nothing any more: {0}")]
    Poisoned(Arc<str>),
}

/// Why points were not stored. None of the batch's are, but for [`AppendError::Poisoned`], after which some may be found
/// at the next opening.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too many points at once.
    #[error("a batch has {points} points, at most {limit} are allowed")]
    #[allow(missing_docs)]
    TooLarge { points: usize, limit: usize },
    /// More points wait for being sealed than [`Config::head_bytes_max`](crate::Config::head_bytes_max) allows: housekeeping is behind.
    #[error("{bytes} bytes of points wait for being sealed, at most {limit} are allowed")]
    #[allow(missing_docs)]
    HeadFull { bytes: usize, limit: usize },
    /// The disk is full. Later batches are tried anew.
    #[error("no space left for the series store's log")]
    Full,
    /// The disk failed to make something durable. Nothing is taken any more until the store is opened anew.
    #[error("the series store takes nothing any more: {0}")]
    Poisoned(Arc<str>),
}

/// Bytes that are not what they should be; a place is added by who read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Corrupt(pub(crate) &'static str);
