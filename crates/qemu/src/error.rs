//! What can go wrong between Lockstep and a virtual machine's disks.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why something about a disk could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; `what` names the file, the socket or the program.
    #[error("{what} failed")]
    Io {
        /// What was tried.
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// A peer does not speak the protocol, or lies.
    #[error("{peer} does not keep to the protocol: {problem}")]
    Protocol {
        /// `the NBD server`, `QEMU's monitor`, …
        peer: &'static str,
        /// What it said.
        problem: String,
    },
    /// The peer closed the connection, or it was given up.
    #[error("the connection to {peer} is closed: {reason}")]
    Closed {
        /// As in [`Error::Protocol`].
        peer: &'static str,
        /// Why, as far as it is known.
        reason: String,
    },
    /// A peer did not answer in time.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// Something is larger than Lockstep takes.
    #[error("{what} is {found}, more than the {limit} that are taken")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The most that is taken.
        limit: u64,
        /// What was found.
        found: u64,
    },
    /// QEMU's monitor refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Command {
        /// The command's name.
        command: String,
        /// QEMU's class of the error, such as `GenericError` or `CommandNotFound`.
        class: String,
        /// QEMU's words.
        reason: String,
    },
    /// The guest agent refused a command.
    #[error("the guest agent refused {command}: {reason}")]
    Agent {
        /// The command's name.
        command: String,
        /// The agent's words.
        reason: String,
    },
    /// The NBD server refused to serve an export.
    #[error("the NBD server refused {what}: {reason}")]
    Export {
        /// The option that was refused.
        what: &'static str,
        /// Its reason.
        reason: String,
    },
    /// The NBD server answered a request with an error.
    #[error("the NBD server answered {what} at byte {offset} with error {errno}")]
    Request {
        /// `read`, `block status` or `trim`.
        what: &'static str,
        /// Where.
        offset: u64,
        /// NBD's number of the error: 1 no permission, 5 input or output, 12 no memory, 22 invalid, 28 no space, 108 shutdown.
        errno: u32,
    },
    /// The point in time is lost, mostly since the scratch disk was full or slow; the guest saw nothing of it. The cycle is to
    /// be abandoned and tried again.
    #[error(
        "the point in time of disk {disk} is lost (NBD error {errno}): the scratch disk in {scratch} may be full or slow"
    )]
    PointLost {
        /// The disk's index.
        disk: u32,
        /// NBD's number of the error.
        errno: u32,
        /// Where the scratch disk is.
        scratch: PathBuf,
    },
    /// The disk was written, or could have been, while a point in time was read.
    #[error("{path} was changed while it was read: {how}")]
    Changed {
        /// The image.
        path: PathBuf,
        /// What shows it.
        how: String,
    },
    /// A running program may write to the image.
    #[error("{path} is in use: {by}")]
    InUse {
        /// The image.
        path: PathBuf,
        /// Who uses it, as far as it is known.
        by: String,
    },
    /// Another client has the monitor, or another replication's cycle is open.
    #[error("the virtual machine is busy: {reason}")]
    Busy {
        /// With what.
        reason: String,
    },
    /// The virtual machine has no such disk.
    #[error("no disk of the virtual machine is {what}")]
    NoDisk {
        /// What was looked for.
        what: String,
    },
    /// This QEMU, this device or this format cannot do it.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What cannot be done.
        what: String,
        /// Why.
        reason: String,
    },
    /// The configuration makes no sense.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// Which value.
        what: String,
        /// What would be right.
        reason: String,
    },
    /// A program of QEMU's failed.
    #[error("{program} failed: {reason}")]
    Tool {
        /// The program.
        program: String,
        /// What it printed.
        reason: String,
    },
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` on the operating system's errors.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether a connection is what failed, so that a new one may help.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Io { .. } | Self::Timeout { .. } | Self::Protocol { .. })
    }
}
