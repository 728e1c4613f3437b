//! Switching virtual machines on and off.
//!
//! | state | start | stop | suspend | reset |
//! |---|---|---|---|---|
//! | POWERED_ON | already in desired state | POWERED_OFF | SUSPENDED | begins anew |
//! | SUSPENDED | POWERED_ON | POWERED_OFF | already in desired state | not allowed |
//! | POWERED_OFF | see below | already in desired state | not allowed | not allowed |
//!
//! Libvirt starts what it manages. Otherwise a machine of QEMU is a process: stopped, the process is gone, and its owner alone knows how to start another. So a start is for machines that
//! are suspended, or whose process is still there. A machine of which no process is here (another host's, one that a vCenter or a link keeps, or
//! that has ended) is refused with what is known of it.

use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::vcenter::guest_power::{self, State as GuestState};
use lockstep_contract::services::vcenter::power::{self, IdInput, Info, State};
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::{COLLECTED_BY, Document, LINKED_FROM};
use lockstep_query::View;
use lockstep_site::Site;
use lockstep_site::table::{Context, Table};
use tokio::time::{Instant, timeout_at};

use crate::select::{self, id_in, text};
use crate::vm::{VIRTUAL_MACHINE, power_state};

/// How long a switch that was thrown is waited for in the inventory.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a collector's `kind` says that keeps the server's own machine.
const OWN_HOST: &str = "HOST";

/// What to do with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it go on.
    Start,
    /// Switch it off, as if the power were cut.
    Stop,
    /// Halt it.
    Suspend,
    /// Reset it.
    Reset,
    /// Press its power button.
    Shutdown,
}

/// Why a machine was not switched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is as it is to be.
    #[error("it is in that state already")]
    Already,
    /// It is in a state in which this cannot be done.
    #[error("its monitor says {status}")]
    NotNow {
        /// QEMU's word for the state.
        status: String,
    },
    /// No process of it runs on the machines that the switch reaches.
    #[error("no process of it runs on this host")]
    NotHere,
    /// It is there, and there is no way to switch it.
    #[error("{reason}")]
    NoWay {
        /// Why.
        reason: String,
    },
    /// Its monitor serves another client.
    #[error("its monitor serves another client")]
    Busy,
    /// Its monitor does not answer.
    #[error("its monitor does not answer")]
    Silent,
}

/// What switches the machines of a host.
pub trait Switch: Send + Sync {
    /// Switches the machine with an id of the inventory. Blocks for as long as its monitor or its manager takes: seconds, and half
    /// a minute for one that hangs.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was done then, but with [`Refusal::Silent`], where that is unknown.
    fn switch(&self, vm: &str, action: Action) -> Result<(), Refusal>;
}

type Power = Option<Arc<dyn Switch>>;

pub(crate) fn register(table: &mut Table, switch: Power) {
    macro_rules! actions {
        ($($operation:path => $action:expr),* $(,)?) => {
            $({
                let switch = switch.clone();
                table.register($operation, move |context, input| act(context, switch.clone(), input.vm, $action));
            })*
        };
    }
    actions! {
        power::Start => Action::Start,
        power::Stop => Action::Stop,
        power::Suspend => Action::Suspend,
        power::Reset => Action::Reset,
        guest_power::Shutdown => Action::Shutdown,
    }
    table.register(guest_power::Reboot, async |context, input| no_tools(&context.site.view(), &input.vm));
    table.register(guest_power::Standby, async |context, input| no_tools(&context.site.view(), &input.vm));
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<Info, Error> {
    let vm = select::find(view, VIRTUAL_MACHINE, &input.vm)?;
    let state = power_state(text(&vm, "power_state"));
    // Clients demand it of a machine that is off, and one of which nothing is known may have been cut off.
    let is_clean = text(&vm, "qemu/status") == Some("shutdown");
    Ok(Info { state, clean_power_off: (state == State::PoweredOff).then_some(is_clean) })
}

pub(crate) fn get_guest(view: &View, input: guest_power::IdInput) -> Result<guest_power::Info, Error> {
    let vm = select::find(view, VIRTUAL_MACHINE, &input.vm)?;
    let state = match power_state(text(&vm, "power_state")) {
        State::PoweredOn => GuestState::Running,
        State::PoweredOff | State::Suspended => GuestState::NotRunning,
        State::Unknown => GuestState::Unavailable,
    };
    let has_monitor = text(&vm, "qemu/qmp_socket").is_some() && vm.get(LINKED_FROM).is_none();
    Ok(guest_power::Info { state, operations_ready: state == GuestState::Running && has_monitor })
}

/// What needs a program in the guest.
fn no_tools(view: &View, id: &str) -> Result<(), Error> {
    select::find(view, VIRTUAL_MACHINE, id)?;
    let message = format!("virtual machine {id}: a guest is not asked for this from outside");
    Err(error(ErrorKind::Unsupported, message, id))
}

async fn act(context: Context, switch: Power, id: String, action: Action) -> Result<(), Error> {
    let site = context.site;
    let vm = select::find(&site.view(), VIRTUAL_MACHINE, &id)?;
    let elsewhere = kept_elsewhere(&site.view(), &vm);
    if let Some(elsewhere) = elsewhere {
        return Err(no_way(action, &id, &elsewhere));
    }
    let Some(switch) = switch else {
        return Err(no_way(action, &id, "this server does not look after its host, so it switches no machine"));
    };
    let vm_id = id.clone();
    let thrown = tokio::task::spawn_blocking(move || switch.switch(&vm_id, action)).await;
    let thrown = thrown.map_err(|_| {
        tracing::error!(vm = id, ?action, "a switch panicked");
        Error::internal()
    })?;
    match thrown {
        Ok(()) => {
            tracing::info!(vm = id, ?action, by = %context.caller.name(), "switched a virtual machine");
            wait_until_shown(&site, &id, action).await;
            Ok(())
        }
        Err(refusal) => Err(refused(&refusal, action, &id, power_state(text(&vm, "power_state")))),
    }
}

/// Who keeps a machine that is not of this site's own hosts.
fn kept_elsewhere(view: &View, vm: &Document) -> Option<String> {
    if let Some(link) = id_in(vm.get(LINKED_FROM)) {
        return Some(format!("it is a linked site's (link {}): switch it there", link.id));
    }
    let collector = id_in(vm.get(COLLECTED_BY))?;
    let stored = view.get(collector)?.document;
    // The server's own machine has a collector, too.
    if text(&stored, "kind") == Some(OWN_HOST) {
        return None;
    }
    Some(format!("the collector {} keeps it as its source has it: switch it there", collector.id))
}

fn refused(refusal: &Refusal, action: Action, id: &str, state: State) -> Error {
    let say = |kind: ErrorKind| error(kind, format!("virtual machine {id}: {refusal}"), id);
    match refusal {
        Refusal::Already => say(ErrorKind::AlreadyInDesiredState),
        Refusal::NotNow { .. } => match action {
            Action::Suspend | Action::Reset | Action::Shutdown => say(ErrorKind::NotAllowedInCurrentState),
            Action::Start | Action::Stop => say(ErrorKind::Error),
        },
        Refusal::Busy => say(ErrorKind::ResourceBusy),
        Refusal::Silent => say(ErrorKind::ServiceUnavailable),
        Refusal::NoWay { .. } => no_way(action, id, &refusal.to_string()),
        Refusal::NotHere if state == State::PoweredOff => {
            let message = |text: &str| format!("virtual machine {id}: {text}");
            match action {
                Action::Stop | Action::Shutdown => {
                    error(ErrorKind::AlreadyInDesiredState, message("it is off already"), id)
                }
                Action::Suspend | Action::Reset => error(ErrorKind::NotAllowedInCurrentState, message("it is off"), id),
                Action::Start => no_way(action, id, "its process has ended: start it where it is defined"),
            }
        }
        Refusal::NotHere => no_way(action, id, &refusal.to_string()),
    }
}

/// The error that says why a machine cannot be switched at all: the fitting one where the operation declares it.
fn no_way(action: Action, id: &str, why: &str) -> Error {
    let kind = match action {
        Action::Start | Action::Shutdown => ErrorKind::Unsupported,
        Action::Stop | Action::Suspend | Action::Reset => ErrorKind::Error,
    };
    error(kind, format!("virtual machine {id}: {why}"), id)
}

fn error(kind: ErrorKind, message: String, id: &str) -> Error {
    Error::new(kind, "lockstep.vcenter.power", message, vec![id.to_owned()])
}

/// Waits until the inventory shows what was done, so that whoever asks next sees it.
async fn wait_until_shown(site: &Arc<Site>, id: &str, action: Action) {
    let wanted = match action {
        Action::Start => State::PoweredOn,
        Action::Stop => State::PoweredOff,
        Action::Suspend => State::Suspended,
        // Nothing changes, or only when the guest has come to it.
        Action::Reset | Action::Shutdown => return,
    };
    let is_shown = || {
        let vm = select::find(&site.view(), VIRTUAL_MACHINE, id);
        vm.map_or(true, |vm| power_state(text(&vm, "power_state")) == wanted)
    };
    let deadline = Instant::now() + SHOWN_TIMEOUT;
    let mut progress = site.progress();
    while !is_shown() {
        if !matches!(timeout_at(deadline, progress.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}
