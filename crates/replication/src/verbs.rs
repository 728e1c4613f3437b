//! What is asked for, begun as a task: here, or at the other site with a task here that follows it.

use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::links::Health;
use lockstep_contract::services::replication::peer::{Follow, FollowInput, Remove, RemoveInput, Run, RunInput};
use lockstep_contract::services::replication::vm::{RecoverInput, UpdateInput};
use lockstep_contract::services::replication::{RecoveryState, Side};
use lockstep_contract::services::tasks::{State, Task};
use lockstep_contract::{Data, Encoding, Error, ErrorKind, Opaque, Place, Wire};
use lockstep_site::tasks::{Asked as AskedTask, Done, Handle, Record as TaskRecord, Work, cancelled};
use lockstep_site::uuid;

use crate::record::{Activity, Record};
use crate::service::{Replications, no_replication, peer_error};
use crate::settings;
use crate::show::{ORG, tree};
use crate::states::{self, Verb};
use crate::turns::{Asked, Turn};

/// How often a task at the other site is looked at: soon at first, for those that are short.
const FOLLOW_PAUSE_MIN: Duration = Duration::from_millis(50);
const FOLLOW_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the other site may be away while one of its tasks is followed.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(300);

/// How long the other site may take to begin one.
const RUN_TIMEOUT: Duration = Duration::from_secs(20);

/// What is to be done with a replication.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) verb: Verb,
    /// Its parameters.
    pub(crate) input: Data,
    /// Whether it was asked of the vApp's replication, and is told so.
    pub(crate) is_vapp: bool,
}

impl Order {
    /// An order without parameters.
    pub(crate) fn new(verb: Verb) -> Self {
        Self { verb, input: Data::object([]), is_vapp: false }
    }

    fn to_json(&self) -> String {
        let fields = [
            ("verb".to_owned(), Data::String(self.verb.name().to_owned())),
            ("input".to_owned(), self.input.clone()),
            ("is_vapp".to_owned(), Data::Boolean(self.is_vapp)),
        ];
        Data::object(fields).to_json()
    }

    fn from_json(json: &str) -> Option<Self> {
        let data = Data::from_json(json.as_bytes()).ok()?;
        let verb = match data.member("verb")? {
            Data::String(name) => Verb::from_name(name)?,
            _ => return None,
        };
        let is_vapp = data.member("is_vapp") == Some(&Data::Boolean(true));
        Some(Self { verb, input: data.member("input")?.clone(), is_vapp })
    }

    /// The parameters as the type that an operation declares.
    pub(crate) fn input<T: Wire>(&self) -> Result<T, Error> {
        T::decode(self.input.clone(), &Place::root(Encoding::Plain)).map_err(|fault| Error::from_fault(fault, false))
    }
}

impl Replications {
    /// Begins what is asked for, wherever it is to be done.
    ///
    /// # Errors
    /// `not_allowed_in_current_state` and `resource_busy` at once; what hinders the other site.
    pub(crate) async fn order(
        self: &Arc<Self>,
        record: Record,
        order: Order,
        user: String,
        operation_id: String,
    ) -> Result<Task, Error> {
        states::check(&record, order.verb)?;
        // Where the source is lost, its replica must not stay for ever.
        let is_orphan = order.verb == Verb::Stop && record.side == Side::Destination && !self.is_reached(&record);
        if order.verb.side() == record.side || is_orphan {
            return self.run_here(record, order, user, Some(operation_id)).await;
        }
        self.run_there(record, order, user, operation_id).await
    }

    /// Whether the other site answered when it was last asked.
    fn is_reached(&self, record: &Record) -> bool {
        self.links.peer(&record.link).is_some_and(|peer| !matches!(peer.health, Health::Unhealthy(_)))
    }

    fn asked(&self, record: &Record, order: &Order, user: String, operation_id: Option<String>) -> AskedTask {
        let (resource_type, resource_id) = match order.is_vapp {
            true => ("vappReplication", record.vapp_api_id()),
            false => ("vmReplication", record.api_id()),
        };
        AskedTask {
            kind: order.verb.name().to_owned(),
            user,
            site: self.site.config.name.clone(),
            operation_id,
            resource_type: resource_type.to_owned(),
            resource_id,
            resource_name: record.source.vm_name.clone(),
            source_org: Some(ORG.to_owned()),
            destination_org: Some(ORG.to_owned()),
            input: Some(order.to_json()),
        }
    }

    /// Begins what this side does.
    ///
    /// # Errors
    /// As [`Replications::order`].
    pub(crate) async fn run_here(
        self: &Arc<Self>,
        record: Record,
        order: Order,
        user: String,
        operation_id: Option<String>,
    ) -> Result<Task, Error> {
        states::check(&record, order.verb)?;
        loop {
            let id = uuid::random()?;
            match self.turns.take(&record.id, order.verb, &id)? {
                Asked::Taken(turn) => {
                    // The state may have changed before the turn was had.
                    let record = self.find(&record.id)?;
                    states::check(&record, order.verb)?;
                    let asked = self.asked(&record, &order, user, operation_id);
                    let here = self.clone();
                    return self.tasks.begin_as(id, asked, |handle| here.work(record.id, order, turn, handle)).await;
                }
                Asked::Running(task) => {
                    if let Some(task) = self.begun(&record.id, &task).await {
                        return Ok(task);
                    }
                }
            }
        }
    }

    /// A task that was begun, as soon as it is there; `None` when its turn ended without it.
    async fn begun(&self, replication: &str, task: &str) -> Option<Task> {
        let mut progress = self.site.progress();
        loop {
            if let Ok(task) = self.tasks.get(task) {
                return Some(task);
            }
            if self.turns.running(replication).is_none_or(|(_, running)| running != task) {
                return None;
            }
            // It is there with a commit, or gone soon.
            let _ = tokio::time::timeout(Duration::from_millis(50), progress.changed()).await;
        }
    }

    /// Does it.
    async fn work(self: Arc<Self>, id: String, order: Order, turn: Turn, handle: Handle) -> Result<Done, Error> {
        let done = Box::pin(self.clone().perform(&id, &order, &handle)).await;
        drop(turn);
        self.schedule.wake();
        done?;
        Ok(self.result(&id, order.is_vapp))
    }

    /// What a task answers when all went well: the replication, unless it is gone.
    pub(crate) fn result(&self, id: &str, is_vapp: bool) -> Done {
        let Some((record, _)) = self.get(id) else { return Done::default() };
        let (name, result) = match is_vapp {
            true => ("VappReplicationInfo", tree(&self.show_vapp(&record))),
            false => ("SingleVmReplicationInfo", tree(&self.show(&record))),
        };
        Done { result_type: Some(name.to_owned()), result }
    }

    async fn perform(self: Arc<Self>, id: &str, order: &Order, handle: &Handle) -> Result<(), Error> {
        match order.verb {
            Verb::Sync => self.sync(id, handle).await,
            Verb::Pause | Verb::Resume => {
                let is_paused = order.verb == Verb::Pause;
                let record = self
                    .change(id, |record| {
                        record.source.is_paused = is_paused;
                        Ok(())
                    })
                    .await?;
                self.tell_or_warn(&record, handle).await;
                Ok(())
            }
            Verb::Reconfigure => self.reconfigure(id, order, handle).await,
            Verb::Stop => self.stop(id, handle).await,
            Verb::Verify => self.verify(id, handle).await,
            Verb::Export => self.export(id, order, handle).await,
            Verb::Failover => self.failover(id, order.input::<RecoverInput>()?, handle).await,
            Verb::FailoverTest => self.failover_test(id, order.input::<RecoverInput>()?, handle).await,
            Verb::FailoverTestCleanup => self.failover_test_cleanup(id, handle).await,
            Verb::Migrate => self.migrate(id, order.input::<RecoverInput>()?, handle).await,
            Verb::Reverse => self.reverse(id, handle).await,
            Verb::PowerOff => self.power_off(id, handle).await,
            Verb::Seed => self.seed(id, handle).await,
        }
    }

    /// Tells the other side before the task ends, so that who looks there next finds it; that it is away is no failure.
    pub(crate) async fn tell_or_warn(&self, record: &Record, handle: &Handle) {
        if let Err(error) = self.tell_now(record, false).await {
            handle.warn(format!("the other site does not know yet: {error}"));
        }
    }

    async fn reconfigure(&self, id: &str, order: &Order, handle: &Handle) -> Result<(), Error> {
        let profile = match order.input.member("storageProfileId") {
            Some(Data::String(profile)) => Some(settings::text("storageProfileId", profile.clone())?),
            _ => None,
        };
        let input: Option<UpdateInput> = if profile.is_some() { None } else { Some(order.input()?) };
        let record = self
            .change(id, |record| {
                if let Some(profile) = &profile {
                    record.source.storage_profile = Some(profile.clone());
                }
                match &input {
                    Some(input) => settings::update(&mut record.source.settings, input),
                    None => Ok(()),
                }
            })
            .await?;
        self.tell_or_warn(&record, handle).await;
        Ok(())
    }

    async fn stop(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        let instances = record.recovery() != RecoveryState::Complete;
        let told = async {
            let peer = self.other(&record)?;
            let input = RemoveInput { replication: record.id.clone(), instances };
            peer.client()?.call(Remove, input).await.map_err(|error| peer_error(error, &peer.site))
        };
        if let Err(error) = told.await {
            // A link that is gone is gone at both sites; and whoever ends a replica knows that its source is lost.
            if record.side == Side::Source && self.links.peer(&record.link).is_some() {
                return Err(error);
            }
            handle.warn(format!("the other site was not told: {error}"));
        }
        self.remove_here(&record, instances).await
    }

    /// Begins what the other side does, and a task here that follows it.
    async fn run_there(
        self: &Arc<Self>,
        record: Record,
        order: Order,
        user: String,
        operation_id: String,
    ) -> Result<Task, Error> {
        let peer = self.other(&record)?;
        let client = peer.client()?.with_operation_id(&*operation_id);
        let input = RunInput {
            replication: record.id.clone(),
            verb: order.verb.name().to_owned(),
            input: Opaque(order.input.clone()),
            user: user.clone(),
        };
        let begun = match tokio::time::timeout(RUN_TIMEOUT, client.call(Run, input)).await {
            Ok(begun) => begun.map_err(|error| peer_error(error, &peer.site))?,
            Err(_) => {
                let message = format!("{} did not answer within {} s", peer.site, RUN_TIMEOUT.as_secs());
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "lockstep.replication.unreachable",
                    message,
                    vec![peer.site],
                ));
            }
        };
        let asked = self.asked(&record, &order, user, Some(operation_id));
        let here = self.clone();
        let work = |handle: Handle| async move {
            handle.log(format!("runs at {}, as task {}", peer.site, begun.id));
            here.follow_there(&record, &begun.id, &client, &peer.site, &handle).await?;
            Ok(here.result(&record.id, order.is_vapp))
        };
        self.tasks.begin(asked, work).await
    }

    /// Follows a task of the other site to its end.
    pub(crate) async fn follow_there(
        &self,
        record: &Record,
        task: &str,
        client: &lockstep_client::Client,
        site: &str,
        handle: &Handle,
    ) -> Result<Task, Error> {
        let mut heard = tokio::time::Instant::now();
        let mut pause = FOLLOW_PAUSE_MIN;
        loop {
            let cancel = handle.is_cancelled();
            let input = FollowInput { replication: record.id.clone(), task: task.to_owned(), cancel };
            match client.call(Follow, input).await {
                Ok(found) => {
                    heard = tokio::time::Instant::now();
                    handle.progress(found.progress);
                    match found.state {
                        State::Running => {}
                        State::Succeeded => {
                            for warning in &found.warnings {
                                handle.warn(warning.msg.clone());
                            }
                            return Ok(found);
                        }
                        State::Failed if cancel => return Err(cancelled()),
                        State::Failed => return Err(failed(&found, site)),
                    }
                }
                // What was stopped there is gone there, with its tasks out of reach.
                Err(error) if error.kind() == Some(ErrorKind::NotFound) && self.get(&record.id).is_none() => {
                    return Err(no_replication(&record.id));
                }
                Err(error) if error.is_transient() && heard.elapsed() < FOLLOW_PATIENCE => {
                    tracing::debug!(%error, task, "a task of the other site cannot be followed");
                }
                Err(error) => return Err(peer_error(error, site)),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(FOLLOW_PAUSE_MAX),
                () = handle.cancelled(), if !cancel => {}
            }
        }
    }

    /// Says that this service takes up its tasks after a restart.
    pub(crate) fn take_up_tasks(self: &Arc<Self>) {
        // The others would not find things as they left them.
        let verbs = [
            Verb::Sync,
            Verb::Pause,
            Verb::Resume,
            Verb::Reconfigure,
            Verb::Stop,
            Verb::Verify,
            Verb::Reverse,
            Verb::Seed,
        ];
        for verb in verbs {
            let here = Arc::downgrade(self);
            let resume = move |task: TaskRecord, handle: Handle| -> Option<Work> {
                let here = here.upgrade()?;
                let order = Order::from_json(task.asked.input.as_deref()?)?;
                let record = match order.is_vapp {
                    true => here.find_vapp(&task.asked.resource_id),
                    false => here.find(&task.asked.resource_id),
                };
                // One that was turned around has changed sides, and its task just ends.
                let is_ours = |record: &Record| record.side == order.verb.side() || order.verb == Verb::Reverse;
                let record = record.ok().filter(is_ours)?;
                let Ok(Asked::Taken(turn)) = here.turns.take(&record.id, order.verb, &task.id) else { return None };
                Some(Box::pin(here.work(record.id, order, turn, handle)))
            };
            self.tasks.resume(verb.name(), Arc::new(resume));
        }
    }

    /// Puts in order what a crash left: nothing goes on that no task works on.
    pub(crate) async fn settle(self: &Arc<Self>) {
        for record in self.all() {
            // Whatever happened meanwhile, the other side gets it.
            self.untold.lock().insert(record.id.clone());
            if self.turns.running(&record.id).is_some() {
                continue;
            }
            let changed = match record.side {
                Side::Source if record.source.activity != Activity::Idle => {
                    self.change(&record.id, |record| {
                        record.source.activity = Activity::Idle;
                        Ok(())
                    })
                    .await
                }
                // Of a recovery that was not complete nothing stays.
                Side::Destination if record.recovery() == RecoveryState::InProgress => {
                    match self.clear(&record.id).await {
                        Ok(()) => self.recovery_failed(&record.id, &interrupted()).await,
                        Err(error) => Err(error),
                    }
                }
                // Turned around, the old machine is in the seed.
                Side::Destination
                    if record.recovery() == RecoveryState::NotStarted
                        && self.recoveries.as_ref().is_some_and(|recoveries| recoveries.get(&record.id).is_some()) =>
                {
                    self.clear(&record.id).await.map(|()| record.clone())
                }
                Side::Source | Side::Destination => continue,
            };
            if let Err(error) = changed {
                tracing::warn!(%error, replication = record.id, "a replication was not put in order");
            }
        }
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Error, "lockstep.tasks.interrupted", "interrupted by a restart of the server", Vec::new())
}

/// The error of a task of the other site.
fn failed(task: &Task, site: &str) -> Error {
    let (msg, args) = match &task.error {
        Some(error) => (error.msg.clone(), error.args.clone()),
        None => ("it does not say why".to_owned(), Vec::new()),
    };
    let code = task.error.as_ref().map_or("", |error| &*error.code);
    // Told under its own name where that has a kind here.
    let (kind, id) = match code {
        "InstanceNotFound" => {
            (ErrorKind::NotFound, lockstep_contract::services::replication::codes::INSTANCE_NOT_FOUND)
        }
        "VmNotFound" => (ErrorKind::NotFound, lockstep_contract::services::replication::codes::VM_NOT_FOUND),
        "OperationNotAllowedInState" => (ErrorKind::NotAllowedInCurrentState, "lockstep.replication.state"),
        "InvalidArgument" => (ErrorKind::InvalidArgument, "lockstep.replication.invalid"),
        "TaskCanceled" => return cancelled(),
        _ => (ErrorKind::Error, "lockstep.replication.remote_task"),
    };
    Error::new(kind, id, format!("at {site}: {msg}"), args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_back() {
        let input = Data::object([("rpo".to_owned(), Data::Long(5))]);
        let order = Order { verb: Verb::Reconfigure, input, is_vapp: true };
        assert_eq!(Order::from_json(&order.to_json()), Some(order));
        assert_eq!(Order::from_json("{}"), None);
    }
}
