//! Switching a machine where it is: at the vCenter or the ESXi host that its collector reads.
//!
//! Each action has a session of its own, so that it neither waits for what the collector reads nor ends its session. The method is called once.
//! Most make a task there, whose `info` is looked at until it has ended; the others have asked the guest when they answer.

use std::time::Duration;

use lockstep_contract::services::collectors::Kind;
use lockstep_site::power::{Action, Order, Refusal, Switch, Switching};
use tokio::time::{Instant, sleep, timeout};

use crate::element::Element;
use crate::error::{CollectError, quoted};
use crate::object::{Ids, ObjectRef};
use crate::run::Source;
use crate::service::{Collectors, source};
use crate::stored::purpose;
use crate::vim::{Vim, of_detail};

/// How long an action may take. A start waits for resources, and for a human's answer at the worst.
const ACTION_TIMEOUT: Duration = Duration::from_secs(600);

/// How long ending the session may take.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause between two looks at a task, doubled each time.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(100);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The method that does it.
fn method(action: Action) -> (&'static str, HasTask) {
    match action {
        Action::Start => ("PowerOnVM_Task", HasTask(true)),
        Action::Stop => ("PowerOffVM_Task", HasTask(true)),
        Action::Suspend => ("SuspendVM_Task", HasTask(true)),
        Action::Reset => ("ResetVM_Task", HasTask(true)),
        Action::Shutdown => ("ShutdownGuest", HasTask(false)),
        Action::Reboot => ("RebootGuest", HasTask(false)),
        Action::Standby => ("StandbyGuest", HasTask(false)),
    }
}

/// Whether a method answers a task.
struct HasTask(bool);

impl Switch for Collectors {
    fn switch(&self, order: Order) -> Switching<'_> {
        Box::pin(async move {
            let (source, ids) = self.source_of(&order)?;
            let object = order.vm.id.strip_prefix(&*ids.prefix).unwrap_or(&order.vm.id);
            let machine = ObjectRef { kind: "VirtualMachine".into(), id: object.into() };
            let switching = at_source(&source, &machine, &order);
            tokio::select! {
                outcome = timeout(ACTION_TIMEOUT, switching) => outcome.unwrap_or_else(|_| {
                    let limit_s = ACTION_TIMEOUT.as_secs();
                    Err(Refusal::Silent { reason: format!("{} has not ended it within {limit_s} seconds", source.address) })
                }),
                () = order.task.cancelled() => {
                    Err(Refusal::Silent { reason: format!("it is not waited for any more; at {} it may go on", source.address) })
                }
            }
        })
    }
}

impl Collectors {
    /// Where the machine of an order is, and how its collector calls what is there.
    fn source_of(&self, order: &Order) -> Result<(Source, Ids), Refusal> {
        let name = order.collector.as_ref().map_or("", |collector| &collector.id);
        let away = |reason: String| Refusal::Away { reason };
        let collector = self.collector(name).filter(|collector| collector.kind == Kind::Vcenter);
        let collector = collector.ok_or_else(|| away(format!("there is no collector {name:?} any more")))?;
        let password = self.sealer.open_sealed(&purpose(&collector.name), &collector.password);
        let password =
            password.map_err(|why| away(CollectError::Password(why.to_string()).message().default_message))?;
        Ok((source(&collector, password), Ids { prefix: collector.id_prefix }))
    }
}

async fn at_source(source: &Source, machine: &ObjectRef, order: &Order) -> Result<(), Refusal> {
    // Nothing is asked for before the login, so whatever hinders it has done nothing.
    let entered = source.enter().await;
    let mut vim = entered.map_err(|error| Refusal::Away { reason: error.message().default_message })?;
    let outcome = ask(&mut vim, machine, order).await;
    if !matches!(outcome, Err(Refusal::Silent { .. })) {
        // A session that is left behind ends by itself.
        let _ = timeout(LOGOUT_TIMEOUT, vim.logout()).await;
    }
    outcome
}

async fn ask(vim: &mut Vim, machine: &ObjectRef, order: &Order) -> Result<(), Refusal> {
    let (method, HasTask(has_task)) = method(order.action);
    order.task.log(format!("asks {} for {method} of {}", vim.url, machine.id));
    let task = vim.tell(method, machine, has_task).await.map_err(|error| refusal(order.action, &error))?;
    match task {
        Some(task) => follow(vim, method, &task, order).await,
        None => Ok(()),
    }
}

/// Looks at a task until it has ended.
async fn follow(vim: &mut Vim, method: &'static str, task: &ObjectRef, order: &Order) -> Result<(), Refusal> {
    let (began, mut pause) = (Instant::now(), LOOK_PAUSE_MIN);
    order.task.log(format!("its task there is {}", task.id));
    loop {
        let info = vim.task_info(task).await.map_err(|error| match error {
            // What was asked for goes on without us.
            CollectError::Denied { .. } => Refusal::Silent { reason: error.message().default_message },
            error => refusal(order.action, &error),
        })?;
        match info.text_at("state") {
            Some("success") => return Ok(()),
            Some("error") => {
                let fault = info.child("error").cloned().unwrap_or_default();
                return Err(refusal(order.action, &of_task(method, &fault)));
            }
            _ => {}
        }
        if let Some(percent) = info.long_at("progress") {
            // The last tenth is for the inventory.
            order.task.progress(percent.clamp(0, 100) * 9 / 10);
        }
        tracing::debug!(task = %task.id, waited = ?began.elapsed(), "a task of a source goes on");
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_PAUSE_MAX);
    }
}

/// The error that a task ended with.
fn of_task(method: &'static str, error: &Element) -> CollectError {
    of_detail(method, error.child("fault"), error.text_at("localizedMessage").unwrap_or_default())
}

/// What a fault means for what was asked for.
fn refusal(action: Action, error: &CollectError) -> Refusal {
    let reason = quoted(&error.to_string());
    match error {
        CollectError::Denied { .. } => Refusal::Denied { reason },
        CollectError::Fault { fault, existing, .. } => match &**fault {
            "InvalidPowerState" | "InvalidState" => {
                let existing = existing.as_deref().unwrap_or("in a state that does not allow it");
                match (action, existing) {
                    (Action::Start, "poweredOn")
                    | (Action::Stop | Action::Shutdown, "poweredOff")
                    | (Action::Suspend | Action::Standby, "suspended") => Refusal::Already,
                    (_, existing) => Refusal::NotNow { status: existing.to_owned() },
                }
            }
            "NotSupported" | "NotImplemented" | "MethodNotFound" | "MethodDisabled" | "MethodAlreadyDisabledFault" => {
                Refusal::NoWay { reason }
            }
            "TaskInProgress" | "ResourceInUse" | "ConcurrentAccess" => Refusal::Busy { reason },
            "ToolsUnavailable" => Refusal::Away { reason: "VMware Tools do not run in its guest".to_owned() },
            _ => Refusal::Failed { reason },
        },
        // The call was under way.
        CollectError::Broken { .. } => Refusal::Silent { reason },
        CollectError::Peer(error) if !error.is_unsent() => Refusal::Silent { reason },
        CollectError::Peer(_) | CollectError::SessionEnded => Refusal::Away { reason },
        CollectError::Address(_)
        | CollectError::Foreign { .. }
        | CollectError::LoginRefused { .. }
        | CollectError::Journal(_)
        | CollectError::Password(_) => Refusal::Failed { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::tests::element;

    async fn of(action: Action, fault: &str) -> Refusal {
        let text = format!(
            r#"<error xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><fault {fault}</fault>
            <localizedMessage>it said   this</localizedMessage></error>"#
        );
        refusal(action, &of_task("PowerOnVM_Task", &element(&text).await))
    }

    #[tokio::test]
    async fn faults_of_a_source_become_what_a_caller_can_act_on() {
        let state = |existing: &str| format!(r#"i:type="InvalidPowerState"><existingState>{existing}</existingState>"#);
        assert_eq!(of(Action::Start, &state("poweredOn")).await, Refusal::Already);
        assert_eq!(of(Action::Shutdown, &state("poweredOff")).await, Refusal::Already);
        let not_now = Refusal::NotNow { status: "poweredOff".to_owned() };
        assert_eq!(of(Action::Reset, &state("poweredOff")).await, not_now);
        let no_way = of(Action::Start, r#"i:type="NotSupported">"#).await;
        assert!(matches!(&no_way, Refusal::NoWay { reason } if reason.contains("it said this")), "{no_way:?}");
        let denied = r#"i:type="NoPermission"><object type="VirtualMachine">vm-1</object>
            <privilegeId>VirtualMachine.Interact.PowerOn</privilegeId>"#;
        let denied = of(Action::Start, denied).await;
        let names = |reason: &str| reason.contains("VirtualMachine.Interact.PowerOn on VirtualMachine vm-1");
        assert!(matches!(&denied, Refusal::Denied { reason } if names(reason)), "{denied:?}");
        assert!(matches!(of(Action::Stop, r#"i:type="TaskInProgress">"#).await, Refusal::Busy { .. }));
        assert!(matches!(of(Action::Shutdown, r#"i:type="ToolsUnavailable">"#).await, Refusal::Away { .. }));
        assert!(matches!(of(Action::Start, r#"i:type="InsufficientResourcesFault">"#).await, Refusal::Failed { .. }));
    }
}
