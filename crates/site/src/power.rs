//! Switching virtual machines: what all who can do it have in common.
//!
//! The inventory says what is; a [`Switch`] does. Whoever reaches machines (the server's own host, the vCenters that are collected, the agents
//! of other hosts) is one, and the service that offers the operations knows which one reaches a machine.

use std::future::Future;
use std::pin::Pin;

use lockstep_model::ResourceId;

use crate::tasks::Handle;

pub use lockstep_contract::services::collectors::hosts::{Action, Outcome};

/// A machine to be switched.
#[derive(Clone)]
pub struct Order {
    /// The virtual machine.
    pub vm: ResourceId,
    /// The collector that keeps it; `None` for one that nobody keeps.
    pub collector: Option<ResourceId>,
    /// What to do.
    pub action: Action,
    /// The task of it: it is told what goes on, and says when nobody wants it any more.
    pub task: Handle,
}

/// Why a machine was not switched. Nothing was done then, but with [`Refusal::Silent`], where that is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is as it is to be.
    #[error("it is in that state already")]
    Already,
    /// It is in a state in which this cannot be done.
    #[error("it is {status}")]
    NotNow {
        /// Its state, in the words of what runs it.
        status: String,
    },
    /// No process of it runs on the machines that the switch reaches.
    #[error("no process of it runs on its host")]
    NotHere,
    /// It is there, and there is no way to switch it.
    #[error("{reason}")]
    NoWay {
        /// Why.
        reason: String,
    },
    /// What runs it does not allow it.
    #[error("{reason}")]
    Denied {
        /// Who lacks what.
        reason: String,
    },
    /// Something else is done with it.
    #[error("{reason}")]
    Busy {
        /// What.
        reason: String,
    },
    /// What runs it is not reached.
    #[error("{reason}")]
    Away {
        /// Why.
        reason: String,
    },
    /// It failed otherwise.
    #[error("{reason}")]
    Failed {
        /// What was said.
        reason: String,
    },
    /// No answer came in time: it may be done or not.
    #[error("{reason}")]
    Silent {
        /// Who did not answer.
        reason: String,
    },
}

/// A switch that is being thrown.
pub type Switching<'s> = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send + 's>>;

/// What switches machines.
pub trait Switch: Send + Sync {
    /// Switches a machine; ends when that is done. It has its own limit of time.
    ///
    /// # Errors
    /// [`Refusal`].
    fn switch(&self, order: Order) -> Switching<'_>;
}

impl Refusal {
    /// Nobody looks after the machines of the server's own host.
    pub fn unattended() -> Self {
        Self::NoWay { reason: "this server does not look after its host, so it switches no machine".to_owned() }
    }

    /// What the outcome of a switch on a host is to whoever asked for it.
    ///
    /// # Errors
    /// The refusal, unless it is done.
    pub fn of_outcome(outcome: Outcome, detail: Option<String>) -> Result<(), Self> {
        let said = |otherwise: &str| detail.clone().unwrap_or_else(|| otherwise.to_owned());
        Err(match outcome {
            Outcome::Done => return Ok(()),
            Outcome::Already => Self::Already,
            Outcome::NotNow => Self::NotNow { status: said("in a state that does not allow it") },
            Outcome::NotHere => Self::NotHere,
            Outcome::NoWay => Self::NoWay { reason: said("there is no way to switch it") },
            Outcome::Busy => Self::Busy { reason: said("its monitor serves another client") },
            Outcome::Silent => Self::Silent { reason: said("its monitor does not answer") },
            Outcome::Late => Self::Away { reason: said("its agent came to it too late, and did not do it") },
        })
    }
}
