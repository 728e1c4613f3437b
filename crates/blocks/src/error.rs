//! Why something could not be done.

use std::io;

use crate::format::hex;
use crate::{Hash, Name};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such instance.
    #[error("there is no instance {0}")]
    NoInstance(Name),
    /// There is no such draft.
    #[error("there is no draft {0}")]
    NoDraft(Name),
    /// There is no such disk.
    #[error("there is no disk {0}")]
    NoDisk(u32),
    /// There is an instance of that name already.
    #[error("there is an instance {0} already")]
    Exists(Name),
    /// What was asked for does not fit the disks, or a limit.
    #[error("{0}")]
    Invalid(String),
    /// No room is left.
    #[error("the store is full")]
    Full,
    /// The map's root is another one than expected.
    #[error("the map's root is {}, not {}", hex(.found), hex(.expected))]
    RootDiffers {
        /// The one that was expected.
        expected: Hash,
        /// The one that it has.
        found: Hash,
    },
    /// A block that a map names is not there.
    #[error("block {number} of disk {disk}, {}, is not there", hex(.hash))]
    BlockMissing {
        /// The disk's key.
        disk: u32,
        /// The block's number.
        number: u32,
        /// Its hash.
        hash: Hash,
    },
    /// Something stored is not what it was.
    #[error("{what} is damaged")]
    Damaged {
        /// What.
        what: String,
    },
    /// A flush failed before: what was written since the one before it may be lost.
    #[error("the store is poisoned: a flush failed, and it must be opened again")]
    Poisoned,
    /// Another process, or another directory of an object store, uses it.
    #[error("the store is used by another process, or its object store by another directory")]
    Locked,
    /// The object store cannot be reached, or refuses.
    #[error("{what} failed")]
    Away {
        /// What was done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{what} failed")]
    Io {
        /// What was done, and with which file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { what: what.into(), source },
        }
    }
}
