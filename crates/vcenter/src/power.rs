//! Switching virtual machines: each action is a task, passed to whoever reaches the machine.
//!
//! | the machine is kept by | switched by |
//! |---|---|
//! | nobody, or the collector of the server's own host | the server itself ([`Switches::own_host`]) |
//! | the collector of a vCenter | that vCenter ([`Switches::vcenters`]) |
//! | the agent of another host | that agent, which takes orders ([`Switches::hosts`]) |
//! | a linked site | nobody here: it is refused with the link's name |
//!
//! A machine that is off may have been let go by its collector; then the collector of its host counts.
//!
//! | state | start | stop | suspend | reset |
//! |---|---|---|---|---|
//! | POWERED_ON | already in desired state | POWERED_OFF | SUSPENDED | begins anew |
//! | SUSPENDED | POWERED_ON | POWERED_OFF | already in desired state | not allowed |
//! | POWERED_OFF | see below | already in desired state | not allowed | not allowed |
//!
//! Libvirt and vCenter start what they manage. Otherwise a machine of QEMU is a process: stopped, the process is gone, and its owner alone knows
//! how to start another. So there a start is for machines that are suspended, or whose process is still there.
//!
//! # Tasks
//! A call makes a task of kind `power…` or `guest…`, waits for its end, and answers as that was; its header [`TASK_HEADER`] names the task, and
//! so does the second argument of an error. Who hangs up leaves the task running. A task is not taken up after a restart of the server: whether
//! it was done then, the inventory tells.

use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::vcenter::guest_power::{self, State as GuestState};
use lockstep_contract::services::vcenter::power::{self, IdInput, Info, State};
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::{COLLECTED_BY, Document, LINKED_FROM, ResourceId};
use lockstep_query::View;
use lockstep_site::Site;
use lockstep_site::table::{Answer, Context, Table};
use lockstep_site::tasks::{Asked, Done, Tasks};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::select::{self, id_in, text};
use crate::vm::{VIRTUAL_MACHINE, power_state};

pub use lockstep_site::power::{Action, Order, Refusal, Switch, Switching};

/// How long a switch that was thrown is waited for in the inventory.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits for its task. A client's own patience is a minute or two; the task goes on beyond it.
const TASK_TIMEOUT: Duration = Duration::from_secs(150);

/// The header of an answer that names the task.
pub const TASK_HEADER: &str = "lockstep-task";

/// What a collector's `kind` says that keeps a host.
const OF_HOST: &str = "HOST";

/// The collector of the server's own host.
const OWN_HOST: &str = "host";

/// What switches machines, by who keeps them. Where there is none, every attempt is refused and says so.
#[derive(Clone, Default)]
pub struct Switches {
    /// The machines of the server's own host.
    pub own_host: Option<Arc<dyn Switch>>,
    /// The machines that vCenters keep.
    pub vcenters: Option<Arc<dyn Switch>>,
    /// The machines of other hosts, which have an agent.
    pub hosts: Option<Arc<dyn Switch>>,
}

/// The service.
struct Power {
    switches: Switches,
    tasks: Arc<Tasks>,
}

pub(crate) fn register(table: &mut Table, switches: Switches, tasks: Arc<Tasks>) {
    let power = Arc::new(Power { switches, tasks });
    macro_rules! actions {
        ($($operation:path => $action:ident),* $(,)?) => {
            $({
                let power = power.clone();
                table.register_answer($operation, move |context, input| {
                    let power = power.clone();
                    async move { power.act(context, input.vm, Action::$action).await }
                });
            })*
        };
    }
    actions! {
        power::Start => Start,
        power::Stop => Stop,
        power::Suspend => Suspend,
        power::Reset => Reset,
        guest_power::Shutdown => Shutdown,
        guest_power::Reboot => Reboot,
        guest_power::Standby => Standby,
    }
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
    let is_reached = vm.get(LINKED_FROM).is_none()
        && (text(&vm, "qemu/qmp_socket").is_some()
            || text(&vm, "libvirt/state").is_some()
            || select::is(&vm, "guest/tools/running"));
    Ok(guest_power::Info { state, operations_ready: state == GuestState::Running && is_reached })
}

impl Power {
    async fn act(&self, context: Context, id: String, action: Action) -> Result<Answer, Error> {
        let site = &context.site;
        let (vm, route) = {
            let view = site.view();
            let vm = select::find(&view, VIRTUAL_MACHINE, &id)?;
            let route = self.route(&view, &vm).map_err(|why| no_way(action, &id, &why))?;
            (vm, route)
        };
        let (switch, collector) = route;
        let state = power_state(text(&vm, "power_state"));
        let asked = Asked {
            kind: kind(action).to_owned(),
            user: context.caller.name().to_string(),
            site: site.config.name.clone(),
            operation_id: Some(context.operation_id.to_string()),
            resource_type: VIRTUAL_MACHINE.to_owned(),
            resource_id: id.clone(),
            resource_name: select::name(&vm, &id),
            ..Asked::default()
        };
        let (tell, told) = oneshot::channel();
        let (here, vm_id) = (site.clone(), id.clone());
        let task = self.tasks.begin(asked, move |task| async move {
            let vm = ResourceId::new(VIRTUAL_MACHINE, &*vm_id);
            match &collector {
                Some(collector) => task.log(format!("passed on by the collector {}", collector.id)),
                None => task.log("done by this server"),
            }
            let thrown = switch.switch(Order { vm, collector, action, task: task.clone() }).await;
            let outcome = match thrown {
                Ok(()) => {
                    task.progress(90);
                    wait_until_shown(&here, &vm_id, action).await;
                    Ok(())
                }
                Err(refusal) => {
                    let mut error = refused(&refusal, action, &vm_id, state);
                    error.messages.iter_mut().for_each(|message| message.args.push(task.id().to_owned()));
                    Err(error)
                }
            };
            // Nobody may be there any more to be told.
            let _ = tell.send(outcome.clone());
            outcome.map(|()| Done::default())
        });
        let task = task.await?.id;
        let ended = async {
            let outcome = told.await;
            // The task is told as ended to whoever looks at it after this answer.
            let task = self.tasks.ended(&task).await?;
            match (outcome, task.error) {
                (Ok(outcome), _) => outcome,
                // It was dropped: cancelled, or by a defect.
                (Err(_), Some(why)) => Err(error(ErrorKind::Error, format!("virtual machine {id}: {}", why.msg), &id)),
                (Err(_), None) => Err(Error::internal()),
            }
        };
        let Ok(outcome) = timeout(TASK_TIMEOUT, ended).await else {
            let waited_s = TASK_TIMEOUT.as_secs();
            let message = format!("virtual machine {id}: not done within {waited_s} seconds; the task {task} goes on");
            return Err(error(ErrorKind::Error, message, &id));
        };
        outcome?;
        Ok(Answer { headers: vec![(TASK_HEADER, task)], ..Answer::new(()) })
    }

    /// What reaches a machine, and by which collector; or why nothing does.
    fn route(&self, view: &View, vm: &Document) -> Result<(Arc<dyn Switch>, Option<ResourceId>), String> {
        if let Some(link) = id_in(vm.get(LINKED_FROM)) {
            return Err(format!("it is a linked site's (link {}): switch it there", link.id));
        }
        let keeper = |document: &Document| {
            let collector = id_in(document.get(COLLECTED_BY))?;
            Some((collector.clone(), view.get(collector)?.document))
        };
        let host = || view.get(id_in(vm.get("host"))?);
        let keeper = keeper(vm).or_else(|| keeper(&host()?.document));
        let own = || {
            let none = || Refusal::unattended().to_string();
            self.switches.own_host.clone().map(|switch| (switch, None)).ok_or_else(none)
        };
        let Some((collector, stored)) = keeper else { return own() };
        let switch = match text(&stored, "kind") {
            Some(OF_HOST) if &*collector.id == OWN_HOST => return own(),
            Some(OF_HOST) => self.switches.hosts.clone(),
            _ => self.switches.vcenters.clone(),
        };
        let none = format!("the collector {} keeps it, and switches no machine", collector.id);
        switch.map(|switch| (switch, Some(collector))).ok_or(none)
    }
}

/// What a task says that it does.
fn kind(action: Action) -> &'static str {
    match action {
        Action::Start => "powerStart",
        Action::Stop => "powerStop",
        Action::Suspend => "powerSuspend",
        Action::Reset => "powerReset",
        Action::Shutdown => "guestShutdown",
        Action::Reboot => "guestReboot",
        Action::Standby => "guestStandby",
    }
}

fn refused(refusal: &Refusal, action: Action, id: &str, state: State) -> Error {
    let say = |kind: ErrorKind| error(kind, format!("virtual machine {id}: {refusal}"), id);
    match refusal {
        Refusal::Already => say(ErrorKind::AlreadyInDesiredState),
        Refusal::NotNow { .. } => match action {
            Action::Suspend | Action::Reset | Action::Shutdown | Action::Reboot | Action::Standby => {
                say(ErrorKind::NotAllowedInCurrentState)
            }
            Action::Start | Action::Stop => say(ErrorKind::Error),
        },
        Refusal::Busy { .. } => say(ErrorKind::ResourceBusy),
        Refusal::Silent { .. } | Refusal::Away { .. } => say(ErrorKind::ServiceUnavailable),
        Refusal::Denied { .. } => say(ErrorKind::Unauthorized),
        Refusal::Failed { .. } => say(ErrorKind::Error),
        Refusal::NoWay { .. } => no_way(action, id, &refusal.to_string()),
        Refusal::NotHere if state == State::PoweredOff => {
            let message = |text: &str| format!("virtual machine {id}: {text}");
            match action {
                Action::Stop | Action::Shutdown => {
                    error(ErrorKind::AlreadyInDesiredState, message("it is off already"), id)
                }
                Action::Suspend | Action::Reset | Action::Reboot | Action::Standby => {
                    error(ErrorKind::NotAllowedInCurrentState, message("it is off"), id)
                }
                Action::Start => no_way(action, id, "its process has ended: start it where it is defined"),
            }
        }
        Refusal::NotHere => no_way(action, id, &refusal.to_string()),
    }
}

/// The error that says why a machine cannot be switched at all: the fitting one where the operation declares it.
fn no_way(action: Action, id: &str, why: &str) -> Error {
    let kind = match action {
        Action::Start | Action::Shutdown | Action::Reboot | Action::Standby => ErrorKind::Unsupported,
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
        Action::Reset | Action::Shutdown | Action::Reboot | Action::Standby => return,
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
