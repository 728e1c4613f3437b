//! Collectors that run on their hosts: who keeps which host, and what it is ordered to do.
//!
//! ```text
//!              attach                    not heard for a while
//!   free ─────────────────► attached ──────────────────────────► silent ──┐
//!    ▲                        │   ▲                                │      │ the same account attaches
//!    └──────── detach ────────┘   └────────────────────────────────┴──────┘
//!    └──────── the collector is deleted, once it is silent ────────┘
//! ```
//! # Promises
//! * One run keeps a host at a time. Another one is refused and told which is in the way; one of another account also when that is
//!   silent, since a host's resources are its account's until somebody ends the collector.
//! * A reading is all that a host has. What differs from what is here is written in one commit, and what is missing goes then and only then.
//! * A host is only what its agent reads: a reading has the host itself, and what stands on it, and nothing of other hosts.
//! * An order is given once, to the run that keeps its host, in its account's name. So it is done once at the most. After
//!   [`ORDER_TIMEOUT`] it is given to nobody any more.
//!
//! Who is attached, and the orders, are in memory: after a restart of the server agents attach themselves anew, and tasks whose orders
//! were under way have failed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::TypedId;
use lockstep_contract::services::collectors::hosts::{
    self as declared, AttachInput, Attached, KeepInput, Kept, RunInput,
};
use lockstep_contract::{Error, ErrorKind, Message};
use lockstep_model::ResourceId;
use lockstep_site::caller::Caller;
use lockstep_site::collected::Incoming;
use lockstep_site::power::{Action, Outcome};
use lockstep_site::{Site, collected, commit_error};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::service::Elsewhere;

/// Collectors of a site, when a further host comes: each takes some kilobytes.
pub(crate) const HOSTS_MAX: usize = 10_000;

/// Resources of one reading.
const RESOURCES_MAX: usize = 20_000;

/// The least time after which a run counts as silent; it is three times the pause between its readings otherwise.
const ABSENT_MIN: Duration = Duration::from_secs(30);

/// The longest pause between two readings, in seconds.
const INTERVAL_MAX_S: i64 = 3600;

/// How long a call waits for an order.
const ORDERS_WAIT: Duration = Duration::from_secs(25);

/// How long an order may be begun with.
pub(crate) const ORDER_TIMEOUT: Duration = Duration::from_secs(60);

/// Orders of one host that wait; beyond it a further one is refused.
const ORDERS_MAX: usize = 200;

/// Orders of one answer. An agent does them beside each other.
const ORDERS_GIVEN: usize = 16;

/// What is told by example in an answer.
const EXAMPLES_MAX: usize = 20;

/// Longest text that an agent may send for people, in bytes.
const TEXT_BYTES_MAX: usize = 2000;

/// The types of what an agent reads.
const TYPES: [&str; 4] = ["HostSystem", "VirtualMachine", "Datastore", "Network"];

/// A resource of a host, as it was read.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its type.
    pub resource_type: &'static str,
    /// Its id.
    pub id: String,
    /// Its properties as plain JSON.
    pub properties: Map<String, Value>,
}

/// What all that was read of a host is to come to here: the rules of who knows hosts. Called on a blocking thread.
pub type Rules = fn(&Site, &[Told]) -> Vec<Incoming>;

/// What became of an order.
pub(crate) type Outcomes = oneshot::Receiver<(Outcome, Option<String>)>;

/// A run that keeps a host.
struct Run {
    account: Arc<str>,
    id: String,
    heard: Instant,
    absent_after: Duration,
    takes_orders: bool,
    /// Resources of the last reading; none before the first.
    objects: Option<usize>,
}

/// An order that was not given yet.
struct Waiting {
    id: String,
    vm: String,
    action: Action,
    until: Instant,
    tell: oneshot::Sender<(Outcome, Option<String>)>,
}

#[derive(Default)]
struct State {
    run: Option<Run>,
    /// The last run has detached itself, so that any account may follow.
    is_released: bool,
    waiting: VecDeque<Waiting>,
    /// Orders that were given, and whom to tell.
    given: HashMap<String, oneshot::Sender<(Outcome, Option<String>)>>,
}

/// A host that has an agent.
#[derive(Default)]
pub(crate) struct Host {
    /// Held for some steps.
    state: Mutex<State>,
    /// Rung for who waits for orders.
    ordered: Notify,
    /// Held while a reading is written: two would see each other's halves.
    keeping: tokio::sync::Mutex<()>,
}

/// Why a run is not attached, in the way of a message.
fn detached(collector: &str) -> Error {
    let text = format!("this run does not keep {collector}, or not any more: attach again");
    Error::new(ErrorKind::NotAllowedInCurrentState, "lockstep.collectors.detached", text, vec![collector.to_owned()])
}

fn invalid(field: &str, message: &str) -> Error {
    Error::invalid_argument(format!("lockstep.collectors.{field}"), field, message)
}

/// Checks what does not depend on who else is there.
pub(crate) fn check(input: &AttachInput) -> Result<(), Error> {
    if input.name.is_empty() || input.name.len() > 255 || input.name.chars().any(char::is_control) {
        return Err(invalid("name", "a host's name: 1 to 255 bytes"));
    }
    if !(8..=64).contains(&input.run.len()) || !input.run.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(invalid("run", "a random id: 8 to 64 letters and digits"));
    }
    if !(1..=INTERVAL_MAX_S).contains(&input.interval_s) {
        return Err(invalid("interval_s", &format!("1 to {INTERVAL_MAX_S} seconds")));
    }
    Ok(())
}

impl Host {
    /// Who keeps it at the moment: the account, and how long ago it was heard. `None` when nobody does, or nobody that is still heard.
    pub(crate) fn keeper(&self) -> Option<(Arc<str>, Duration)> {
        let state = self.state.lock();
        let run = state.run.as_ref()?;
        let silent = run.heard.elapsed();
        (silent < run.absent_after).then(|| (run.account.clone(), silent))
    }

    /// How long ago whoever keeps it was heard; `None` when nobody does.
    pub(crate) fn silent(&self) -> Option<Duration> {
        self.state.lock().run.as_ref().map(|run| run.heard.elapsed())
    }

    /// Whether the run of that id keeps it.
    pub(crate) fn is_run(&self, account: &str, id: &str) -> bool {
        self.state.lock().run.as_ref().is_some_and(|run| run.id == id && *run.account == *account)
    }

    /// Whether the last run said that it ended.
    pub(crate) fn is_released(&self) -> bool {
        self.state.lock().is_released
    }

    /// Whoever checked that nobody is in the way makes the run the one that keeps the host.
    pub(crate) fn attach(&self, account: Arc<str>, input: &AttachInput) -> Attached {
        let interval = Duration::from_secs(input.interval_s.unsigned_abs());
        let absent_after = ABSENT_MIN.max(interval * 3);
        let run = Run {
            account,
            id: input.run.clone(),
            heard: Instant::now(),
            absent_after,
            takes_orders: input.takes_orders,
            objects: None,
        };
        {
            let mut state = self.state.lock();
            (state.run, state.is_released) = (Some(run), false);
        }
        // Who waited in the name of an earlier run goes.
        self.ordered.notify_waiters();
        Attached {
            collector: input.host.clone(),
            absent_after_s: i64::try_from(absent_after.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// Notes that a run was heard, if it keeps the host; answers how many resources its last reading had.
    fn hear(&self, caller: &Caller, collector: &str, id: &str) -> Result<Option<usize>, Error> {
        let name = caller.name();
        match &mut self.state.lock().run {
            Some(run) if run.id == id && run.account == name => {
                run.heard = Instant::now();
                Ok(run.objects)
            }
            Some(_) | None => Err(detached(collector)),
        }
    }

    pub(crate) fn detach(&self, caller: &Caller, input: &RunInput) -> Result<(), Error> {
        self.hear(caller, &input.collector, &input.run)?;
        {
            let mut state = self.state.lock();
            (state.run, state.is_released) = (None, true);
        }
        self.ordered.notify_waiters();
        Ok(())
    }

    /// Keeps the host as it was read.
    pub(crate) async fn keep(
        &self,
        site: &Arc<Site>,
        elsewhere: &Elsewhere,
        rules: Rules,
        caller: &Caller,
        input: KeepInput,
    ) -> Result<Kept, Error> {
        let known = self.hear(caller, &input.collector, &input.run)?;
        let mut kept = Kept { created: 0, changed: 0, deleted: 0, left_alone: Vec::new(), misfits: Vec::new() };
        let Some(resources) = input.resources else {
            let Some(objects) = known else {
                return Err(invalid("resources", "there is no reading before this one: all that there is is needed"));
            };
            elsewhere.confirmed_again(objects).await;
            return Ok(kept);
        };
        let _turn = self.keeping.lock().await;
        let told = read(&input.collector, resources)?;
        let objects = told.len();
        let here = site.clone();
        let incoming = tokio::task::spawn_blocking(move || rules(&here, &told)).await.map_err(|_| Error::internal())?;
        // Another run may have come while this one waited.
        self.hear(caller, &input.collector, &input.run)?;
        let author: Arc<str> = format!("lockstep/collect/{}", input.collector).into();
        let written = collected::write(site, &author, elsewhere.id(), incoming).await;
        let outcome = match written {
            Ok(outcome) => outcome,
            Err(error) => {
                elsewhere.failed(format!("the inventory cannot be written: {error}; it is tried again")).await;
                return Err(commit_error(&error));
            }
        };
        if let Some(run) = self.state.lock().run.as_mut().filter(|run| run.id == input.run) {
            run.objects = Some(objects);
        }
        elsewhere.confirmed(objects).await;
        elsewhere.left_alone(&outcome.taken, outcome.misfits.len());
        let long = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        (kept.created, kept.changed, kept.deleted) =
            (long(outcome.created), long(outcome.changed), long(outcome.deleted));
        let typed = |id: &ResourceId| TypedId { resource_type: id.resource_type.to_string(), id: id.id.to_string() };
        kept.left_alone = outcome.taken.iter().take(EXAMPLES_MAX).map(typed).collect();
        kept.misfits = outcome.misfits.iter().take(EXAMPLES_MAX).map(|(id, why)| format!("{id}: {why}")).collect();
        Ok(kept)
    }

    /// What there is to do; waits for the first.
    pub(crate) async fn take_orders(
        &self,
        site: &Site,
        caller: &Caller,
        input: &RunInput,
    ) -> Result<Vec<declared::Order>, Error> {
        let deadline = Instant::now() + ORDERS_WAIT;
        let stopping = site.stopping();
        tokio::pin!(stopping);
        loop {
            // From here on no ring is missed.
            let rung = self.ordered.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            self.hear(caller, &input.collector, &input.run)?;
            let orders = self.give();
            if !orders.is_empty() {
                return Ok(orders);
            }
            let outcome = tokio::select! {
                outcome = timeout_at(deadline, rung) => outcome,
                () = &mut stopping => return Ok(Vec::new()),
            };
            if outcome.is_err() {
                self.hear(caller, &input.collector, &input.run)?;
                return Ok(Vec::new());
            }
        }
    }

    /// Gives what waits, and is not too old: to one caller only.
    fn give(&self) -> Vec<declared::Order> {
        let mut state = self.state.lock();
        state.given.retain(|_, tell| !tell.is_closed());
        let mut orders = Vec::new();
        while orders.len() < ORDERS_GIVEN {
            let Some(Waiting { id, vm, action, until, tell }) = state.waiting.pop_front() else { break };
            let left = until.saturating_duration_since(Instant::now());
            // Who waited for it is gone, or about to say that nobody took it.
            if left.is_zero() || tell.is_closed() {
                continue;
            }
            state.given.insert(id.clone(), tell);
            let valid_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
            orders.push(declared::Order { order: id, vm, action, valid_ms });
        }
        orders
    }

    /// Places an order; answers where its outcome comes.
    ///
    /// # Errors
    /// In words, when nobody could take it.
    pub(crate) fn place(&self, id: &str, vm: &str, action: Action) -> Result<Outcomes, Unplaced> {
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock();
        let run = state.run.as_ref().ok_or(Unplaced::Detached)?;
        let silent = run.heard.elapsed();
        if silent >= run.absent_after {
            return Err(Unplaced::Silent(silent));
        }
        if !run.takes_orders {
            return Err(Unplaced::TakesNone);
        }
        if state.waiting.len() >= ORDERS_MAX {
            return Err(Unplaced::TooMany);
        }
        let until = Instant::now() + ORDER_TIMEOUT;
        state.waiting.push_back(Waiting { id: id.to_owned(), vm: vm.to_owned(), action, until, tell });
        drop(state);
        self.ordered.notify_waiters();
        Ok(told)
    }

    /// Takes an order back; `false` when it was given already.
    pub(crate) fn withdraw(&self, id: &str) -> bool {
        let mut state = self.state.lock();
        let before = state.waiting.len();
        state.waiting.retain(|waiting| waiting.id != id);
        state.waiting.len() < before
    }

    /// Nobody waits for the outcome any more.
    pub(crate) fn forget(&self, id: &str) {
        self.state.lock().given.remove(id);
    }

    /// What became of an order.
    pub(crate) fn answer(&self, caller: &Caller, input: declared::AnswerInput) -> Result<(), Error> {
        self.hear(caller, &input.collector, &input.run)?;
        let tell = self.state.lock().given.remove(&input.order);
        if let Some(tell) = tell {
            let detail = input.detail.map(|detail| clipped(&detail));
            // Nobody may wait any more.
            let _ = tell.send((input.outcome, detail));
        }
        Ok(())
    }
}

/// Why nobody could take an order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unplaced {
    /// No agent keeps the host.
    Detached,
    /// The agent was not heard for so long.
    Silent(Duration),
    /// The agent takes no orders.
    TakesNone,
    /// Too many wait.
    TooMany,
}

fn clipped(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The reading of a host: the host itself once, and what stands on it.
fn read(host: &str, resources: Vec<declared::Reading>) -> Result<Vec<Told>, Error> {
    if resources.len() > RESOURCES_MAX {
        return Err(invalid("resources", &format!("{RESOURCES_MAX} resources at the most")));
    }
    let mut seen = std::collections::HashSet::new();
    let mut told = Vec::with_capacity(resources.len());
    for (index, reading) in resources.into_iter().enumerate() {
        let wrong = |why: String| invalid(&format!("resources.{index}"), &why);
        let resource_type = TYPES.into_iter().find(|known| *known == reading.resource_type);
        let resource_type = resource_type.ok_or_else(|| wrong(format!("its type is none of {}", TYPES.join(", "))))?;
        ResourceId::new(resource_type, &*reading.id).check().map_err(|error| wrong(error.to_string()))?;
        let properties = match serde_json::from_str(&reading.properties.0.to_json()) {
            Ok(Value::Object(properties)) => properties,
            Ok(_) | Err(_) => return Err(wrong("its properties are no structure".to_owned())),
        };
        let of = properties.get("host").and_then(|of| of.get("id")).and_then(Value::as_str);
        let is_of_host = if resource_type == "HostSystem" { reading.id == host } else { of == Some(host) };
        if !is_of_host {
            return Err(wrong(format!("it is not of the host {host}")));
        }
        if !seen.insert((resource_type, reading.id.clone())) {
            return Err(wrong(format!("{} comes twice", reading.id)));
        }
        told.push(Told { resource_type, id: reading.id, properties });
    }
    if !seen.contains(&("HostSystem", host.to_owned())) {
        return Err(invalid(
            "resources",
            &format!("the host {host} itself is missing: a reading has all that there is"),
        ));
    }
    Ok(told)
}

/// What is wrong with a host of which nothing is heard.
pub(crate) fn silence(collector: &str, account: &str, silent: Option<Duration>) -> Message {
    let since = silent.map_or_else(
        || "does not keep it since the server started, or has ended".to_owned(),
        |silent| format!("was not heard for {} seconds", silent.as_secs()),
    );
    let text = format!(
        "its agent (account {account}) {since}; start `lockstep agent` on the host, or end the collector with \
         `lockstep collect delete {collector}`"
    );
    Message::new("lockstep.collectors.silent", text, vec![collector.to_owned(), account.to_owned()])
}

#[cfg(test)]
mod tests {
    use lockstep_contract::services::accounts::Role;
    use lockstep_site::caller::User;

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::User(User { name: name.into(), role: Role::Agent, session: None })
    }

    fn attached(takes_orders: bool) -> Host {
        let host = Host::default();
        let (name, run) = ("h".to_owned(), "run-number-1".to_owned());
        let input = AttachInput { host: "host-1".to_owned(), name, run, interval_s: 5, takes_orders };
        check(&input).unwrap();
        assert_eq!(host.attach("a".into(), &input).absent_after_s, 30);
        host
    }

    fn answer_of(order: &str, run: &str) -> declared::AnswerInput {
        let (collector, run, order) = ("host-1".to_owned(), run.to_owned(), order.to_owned());
        declared::AnswerInput { collector, run, order, outcome: Outcome::Done, detail: None }
    }

    #[test]
    fn an_order_is_given_once_and_to_nobody_when_its_time_is_over() {
        let host = attached(true);
        let mut told = host.place("t-1", "vm-1", Action::Stop).unwrap();
        let late = host.place("t-2", "vm-2", Action::Stop).unwrap();
        host.state.lock().waiting[1].until = Instant::now();
        drop(host.place("t-3", "vm-3", Action::Stop).unwrap());
        let ids = || host.give().into_iter().map(|order| (order.order, order.vm)).collect::<Vec<_>>();
        assert_eq!(
            ids(),
            [("t-1".to_owned(), "vm-1".to_owned())],
            "neither the late one, nor one that nobody waits for"
        );
        assert!(ids().is_empty(), "once");
        assert!(!host.withdraw("t-1"), "it was given");
        drop(late);
        assert!(told.try_recv().is_err(), "not answered yet");
        // Only the account and the run that keep the host answer.
        for (account, run) in [("b", "run-number-1"), ("a", "run-number-2")] {
            let refused = host.answer(&caller(account), answer_of("t-1", run)).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::NotAllowedInCurrentState, "{account} {run}");
        }
        host.answer(&caller("a"), answer_of("t-1", "run-number-1")).unwrap();
        assert_eq!(told.try_recv().unwrap(), (Outcome::Done, None));
        host.answer(&caller("a"), answer_of("t-1", "run-number-1")).unwrap();
        let back = host.place("t-4", "vm-1", Action::Start).unwrap();
        assert!(host.withdraw("t-4") && ids().is_empty());
        drop(back);
    }

    #[test]
    fn an_order_that_nobody_could_take_is_not_placed() {
        let placed = |host: &Host, id: &str| host.place(id, "vm-1", Action::Reset).map(drop);
        assert_eq!(placed(&Host::default(), "t"), Err(Unplaced::Detached));
        assert_eq!(placed(&attached(false), "t"), Err(Unplaced::TakesNone));
        let host = attached(true);
        let waiting: Vec<_> = (0..ORDERS_MAX).map(|n| host.place(&n.to_string(), "vm-1", Action::Reset)).collect();
        assert!(waiting.iter().all(Result::is_ok));
        assert_eq!(placed(&host, "t"), Err(Unplaced::TooMany));
        if let Some(run) = host.state.lock().run.as_mut() {
            run.absent_after = Duration::ZERO;
        }
        assert!(matches!(placed(&host, "t"), Err(Unplaced::Silent(_))));
        assert!(host.keeper().is_none());
        let run = RunInput { collector: "host-1".to_owned(), run: "run-number-1".to_owned() };
        assert!(host.detach(&caller("b"), &run).is_err() && !host.is_released());
        host.detach(&caller("a"), &run).unwrap();
        assert!(host.is_released() && host.silent().is_none());
    }
}
