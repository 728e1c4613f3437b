//! What may be done with a replication, in which of its states, and where.
//!
//! ```text
//!                    failover, migrate                        reverse
//!   NOT_STARTED ───────────────────────► IN_PROGRESS ──► COMPLETE ───► NOT_STARTED, the other way round
//!     │   ▲  ▲                                │
//!     │   │  └────── it failed ───────────────┘
//!     │   └── cleanup ── TEST
//!     └── failover-test ──► ▲
//! ```
//! What is not allowed is refused at once, without a task. What is allowed runs on one of the two sides; asked of the other, it is passed on
//! and its task followed there.

use lockstep_contract::services::replication::{RecoveryState, Side};
use lockstep_contract::{Error, ErrorKind};

use crate::record::Record;

/// What can be done with a replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Bring what changed to the destination.
    Sync,
    /// Let it rest.
    Pause,
    /// Let it go on.
    Resume,
    /// Change what it was told.
    Reconfigure,
    /// End it.
    Stop,
    /// Bring the machine to life at the destination.
    Failover,
    /// Bring a copy to life at the destination.
    FailoverTest,
    /// Remove that.
    FailoverTestCleanup,
    /// Move the machine.
    Migrate,
    /// Turn it around.
    Reverse,
    /// Read all instances.
    Verify,
    /// Write an instance as files.
    Export,
    /// Switch the machine off, for a migration; the other site alone asks for it.
    PowerOff,
    /// Store what the machine's disks hold, for turning around; the other site alone asks for it.
    Seed,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Sync,
        Self::Pause,
        Self::Resume,
        Self::Reconfigure,
        Self::Stop,
        Self::Failover,
        Self::FailoverTest,
        Self::FailoverTestCleanup,
        Self::Migrate,
        Self::Reverse,
        Self::Verify,
        Self::Export,
        Self::PowerOff,
        Self::Seed,
    ];

    /// What its tasks are called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reconfigure => "reconfigure",
            Self::Stop => "stop",
            Self::Failover => "failover",
            Self::FailoverTest => "failoverTest",
            Self::FailoverTestCleanup => "failoverTestCleanup",
            Self::Migrate => "migrate",
            Self::Reverse => "reverse",
            Self::Verify => "verify",
            Self::Export => "export",
            Self::PowerOff => "powerOff",
            Self::Seed => "seed",
        }
    }

    /// The verb whose tasks are called so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// Whether it brings a machine to life, or ends one, of an instance.
    pub const fn recovers(self) -> bool {
        match self {
            Self::Failover | Self::FailoverTest | Self::FailoverTestCleanup | Self::Migrate | Self::Reverse => true,
            Self::Sync
            | Self::Pause
            | Self::Resume
            | Self::Reconfigure
            | Self::Stop
            | Self::Verify
            | Self::Export
            | Self::PowerOff
            | Self::Seed => false,
        }
    }

    /// The side that does it.
    pub const fn side(self) -> Side {
        match self {
            Self::Sync | Self::Pause | Self::Resume | Self::Reconfigure | Self::Stop | Self::PowerOff | Self::Seed => {
                Side::Source
            }
            Self::Failover
            | Self::FailoverTest
            | Self::FailoverTestCleanup
            | Self::Migrate
            | Self::Reverse
            | Self::Verify
            | Self::Export => Side::Destination,
        }
    }
}

/// Whether a verb is allowed in the state that a replication is in.
///
/// # Errors
/// `not_allowed_in_current_state`.
pub fn check(record: &Record, verb: Verb) -> Result<(), Error> {
    use RecoveryState::{Complete, InProgress, NotStarted, Test};
    let state = record.recovery();
    let is_paused = record.source.is_paused;
    let is_allowed = match (verb, state) {
        (Verb::Sync, NotStarted | Test) => !is_paused,
        (Verb::Sync, InProgress | Complete) => false,
        (Verb::Pause, NotStarted | Test) => !is_paused,
        (Verb::Resume, NotStarted | Test) => is_paused,
        (Verb::Pause | Verb::Resume, InProgress | Complete) => false,
        (Verb::Reconfigure | Verb::Verify | Verb::Export, InProgress) => false,
        (Verb::Reconfigure | Verb::Verify | Verb::Export, NotStarted | Test | Complete) => true,
        // A test's machine reads the instance: it goes first.
        (Verb::Stop, NotStarted | Complete) => true,
        (Verb::Stop, InProgress | Test) => false,
        (Verb::Failover | Verb::FailoverTest | Verb::Migrate | Verb::PowerOff, NotStarted) => true,
        (Verb::Failover | Verb::FailoverTest | Verb::Migrate | Verb::PowerOff, InProgress | Test | Complete) => false,
        (Verb::FailoverTestCleanup, state) => state == Test,
        (Verb::Reverse | Verb::Seed, state) => state == Complete,
    };
    if is_allowed {
        return Ok(());
    }
    let rests = if is_paused { " and paused" } else { "" };
    let message = format!("{} is not possible while the replication is {}{rests}", verb.name(), state.name());
    let args = vec![record.api_id(), verb.name().to_owned(), state.name().to_owned()];
    Err(Error::new(ErrorKind::NotAllowedInCurrentState, "lockstep.replication.state", message, args))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    #[test]
    fn each_state_allows_what_the_diagram_shows() {
        let allowed = |state: RecoveryState, is_paused: bool| {
            let mut record = record();
            record.replica.recovery_state = state.name().to_owned();
            record.source.is_paused = is_paused;
            let fits = Verb::ALL.into_iter().filter(|verb| check(&record, *verb).is_ok());
            fits.map(Verb::name).collect::<Vec<_>>().join(" ")
        };
        for (state, is_paused, expected) in [
            (
                RecoveryState::NotStarted,
                false,
                "sync pause reconfigure stop failover failoverTest migrate verify export powerOff",
            ),
            (
                RecoveryState::NotStarted,
                true,
                "resume reconfigure stop failover failoverTest migrate verify export powerOff",
            ),
            (RecoveryState::InProgress, false, ""),
            (RecoveryState::Test, false, "sync pause reconfigure failoverTestCleanup verify export"),
            (RecoveryState::Complete, false, "reconfigure stop reverse verify export seed"),
        ] {
            assert_eq!(allowed(state, is_paused), expected, "{state:?} {is_paused}");
        }
        assert!(Verb::ALL.iter().all(|verb| Verb::from_name(verb.name()) == Some(*verb)));
    }
}
