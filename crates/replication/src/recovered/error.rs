//! Why a recovery could not be made, changed or thrown away.

use std::io;
use std::path::PathBuf;

use lockstep_contract::ErrorKind;
use lockstep_site::tasks::cancelled;

use crate::service::store_error;

/// Why something about a recovery could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store of instances refused.
    #[error(transparent)]
    Store(#[from] lockstep_blocks::Error),
    /// QEMU refused, or cannot be reached.
    #[error(transparent)]
    Qemu(#[from] lockstep_qemu::Error),
    /// The operating system refused.
    #[error("{what} failed")]
    Io {
        /// What was done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// Which.
        program: String,
        /// What it printed.
        reason: String,
    },
    /// The instance does not hold what it is said to.
    #[error("the root of instance {instance} is {found}, not {expected}")]
    RootDiffers {
        /// The instance's key.
        instance: String,
        /// In hex digits.
        found: String,
        /// In hex digits.
        expected: String,
    },
    /// A file of ours is not what was written.
    #[error("{} is damaged: it is left alone", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Nothing is recovered of the replication.
    #[error("nothing is recovered of replication {0}")]
    Absent(String),
    /// Something is recovered of the replication already.
    #[error("instance {instance} of replication {replication} is recovered already")]
    Exists {
        /// The replication.
        replication: String,
        /// The instance's key.
        instance: String,
    },
    /// Something else is done with it.
    #[error("something else is being done with what is recovered of replication {0}")]
    Busy(String),
    /// It is not in a state for it.
    #[error("the recovered machine of replication {replication} {state}")]
    State {
        /// The replication.
        replication: String,
        /// What it is or is not.
        state: &'static str,
    },
    /// Too much of something.
    #[error("{what} is {found}, more than {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much may be.
        limit: u64,
    },
    /// A value makes no sense.
    #[error("{what} is to be {right}")]
    Invalid {
        /// Which.
        what: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// Somebody wanted it to end.
    #[error("it was cancelled")]
    Cancelled,
    /// A fault of this program.
    #[error("it ended by itself")]
    Ended,
}

/// For `map_err` on the operating system's errors.
pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// An error with what caused it, for people.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl From<Error> for lockstep_contract::Error {
    fn from(error: Error) -> Self {
        let text = chain(&error);
        let new = |kind, id: &str, args| Self::new(kind, id, text.clone(), args);
        match error {
            Error::Store(error) => store_error(&error),
            Error::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                new(ErrorKind::UnableToAllocateResource, "lockstep.replication.full", Vec::new())
            }
            Error::Io { .. } | Error::RootDiffers { .. } | Error::Damaged { .. } => {
                new(ErrorKind::Error, "lockstep.replication.recovery", Vec::new())
            }
            Error::Program { program, .. } => new(ErrorKind::Error, "lockstep.replication.program", vec![program]),
            Error::Qemu(_) => new(ErrorKind::Error, "lockstep.replication.qemu", Vec::new()),
            Error::Absent(replication) => {
                Self::not_found("lockstep.replication.not_recovered", text, vec![replication])
            }
            Error::Exists { replication, .. } | Error::State { replication, .. } => {
                new(ErrorKind::NotAllowedInCurrentState, "lockstep.replication.recovered", vec![replication])
            }
            Error::Busy(replication) => {
                new(ErrorKind::ResourceBusy, "lockstep.replication.recovery_busy", vec![replication])
            }
            Error::Limit { what, .. } => {
                new(ErrorKind::UnableToAllocateResource, "lockstep.replication.limit", vec![what.to_owned()])
            }
            Error::Invalid { what, right } => Self::invalid_argument("lockstep.replication.hardware", what, right),
            Error::Cancelled => cancelled(),
            Error::Ended => Self::internal(),
        }
    }
}
