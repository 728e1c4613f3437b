//! What the other site of a replication asks, with the link's account.

use std::sync::Arc;

use lockstep_contract::services::replication::peer::{
    self as declared, FollowInput, Input, PutInput, RemoveInput, RunInput, TurnInput, Turned,
};
use lockstep_contract::services::replication::{Instance, Side};
use lockstep_contract::services::tasks::Task;
use lockstep_contract::{Error, ErrorKind};
use lockstep_links::Links;
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use lockstep_site::{Site, uuid};

use crate::receive::Owners;
use crate::record::{Record, ReplicaPart, SourcePart, resource};
use crate::service::{Replications, blocking, no_replication, no_site};
use crate::settings::invalid;
use crate::states::{self, Verb};
use crate::turns::busy;
use crate::verbs::Order;

/// Replications belong to the link that their record names.
pub(crate) struct LinkOwners {
    pub(crate) site: Arc<Site>,
    pub(crate) links: Arc<Links>,
}

impl Owners for LinkOwners {
    fn check(&self, caller: &Caller, replication: &str) -> Result<(), Error> {
        let stored = self.site.view().get(&resource(replication));
        let record = stored.and_then(|stored| Record::from_document(replication, &stored.document));
        let link = self.links.link_of(caller);
        match (record, link) {
            (Some(record), Some(link)) if record.link == link.as_str() && record.side == Side::Destination => Ok(()),
            _ => Err(no_replication(replication)),
        }
    }
}

pub(crate) fn register(service: &Arc<Replications>, table: &mut Table) {
    macro_rules! serve {
        ($($operation:path => $handler:path),* $(,)?) => {
            $( let here = service.clone();
               table.register($operation, move |context, input| {
                   let here = here.clone();
                   async move { $handler(&here, context, input).await }
               }); )*
        };
    }
    serve! {
        declared::Put => put,
        declared::Remove => remove,
        declared::Instances => instances,
        declared::Run => run,
        declared::Follow => follow,
        declared::Turn => turn,
    }
}

impl Replications {
    /// A replication of the link that somebody calls with.
    ///
    /// # Errors
    /// `not_found`, also for one of another link.
    fn of_link(&self, caller: &Caller, id: &str) -> Result<Record, Error> {
        let link = self.links.link_of(caller);
        let record = self.get(id).map(|(record, _)| record);
        let record = record.filter(|record| link.is_some_and(|link| link.as_str() == record.link));
        record.ok_or_else(|| no_replication(id))
    }
}

async fn put(here: &Arc<Replications>, context: Context, input: PutInput) -> Result<(), Error> {
    let link = here.links.link_of(&context.caller).ok_or_else(Error::unauthorized)?;
    let peer = here.links.peer(link.as_str()).ok_or_else(|| no_site(link.as_str()))?;
    if !uuid::is_uuid(&input.replication) {
        return Err(invalid("replication", "a UUID in lower case"));
    }
    let json = input.properties.0.to_json();
    let misfit = |error: serde_json::Error| invalid("properties", &error.to_string());
    loop {
        let (record, position) = match here.get(&input.replication) {
            Some((record, _)) if record.link != link.as_str() => return Err(no_replication(&input.replication)),
            Some(found) => found,
            None if input.create && input.side == Side::Source => {
                let source: SourcePart = serde_json::from_str(&json).map_err(misfit)?;
                if !uuid::is_uuid(&source.vapp_id) {
                    return Err(invalid("properties.vapp_id", "a UUID in lower case"));
                }
                here.store()?;
                let record = Record {
                    id: input.replication.clone(),
                    link: link.to_string(),
                    side: Side::Destination,
                    // Linked inventory has the other site's resources so.
                    vm: format!("{}~{}", peer.domain, source.vm_id),
                    source,
                    replica: ReplicaPart { revision: 1, ..ReplicaPart::default() },
                };
                here.create(&record).await?;
                tracing::info!(replication = %record.id, vm = %record.source.vm_name, from = %peer.site, "a replica begins");
                return Ok(());
            }
            None => return Err(no_replication(&input.replication)),
        };
        let mut new = record.clone();
        match (input.side, record.side) {
            (Side::Source, Side::Destination) => {
                new.source = serde_json::from_str(&json).map_err(misfit)?;
                if new.source.revision <= record.source.revision {
                    return Ok(());
                }
            }
            (Side::Destination, Side::Source) => {
                new.replica = serde_json::from_str(&json).map_err(misfit)?;
                if new.replica.revision <= record.replica.revision {
                    return Ok(());
                }
            }
            (Side::Source, Side::Source) | (Side::Destination, Side::Destination) => {
                let message = "both sites take themselves for the same side of this replication";
                return Err(Error::new(
                    ErrorKind::NotAllowedInCurrentState,
                    "lockstep.replication.side",
                    message,
                    vec![input.replication],
                ));
            }
        }
        if here.write(&new, position).await? {
            here.after_told(&record, &new);
            return Ok(());
        }
    }
}

async fn remove(here: &Arc<Replications>, context: Context, input: RemoveInput) -> Result<(), Error> {
    let Ok(record) = here.of_link(&context.caller, &input.replication) else { return Ok(()) };
    // The source may not have heard yet what its machine's copy is doing here.
    states::check(&record, Verb::Stop)?;
    if record.side == Side::Destination
        && let Some((verb, task)) = here.turns.running(&record.id).filter(|(verb, _)| verb.recovers())
    {
        return Err(busy(verb, &task));
    }
    here.remove_here(&record, input.instances).await
}

async fn instances(here: &Arc<Replications>, context: Context, input: Input) -> Result<Vec<Instance>, Error> {
    let record = here.of_link(&context.caller, &input.replication)?;
    here.stored_instances(&record).await
}

async fn run(here: &Arc<Replications>, context: Context, input: RunInput) -> Result<Task, Error> {
    let record = here.of_link(&context.caller, &input.replication)?;
    let verb = Verb::from_name(&input.verb).filter(|verb| verb.side() == record.side);
    let verb = verb.ok_or_else(|| invalid("verb", "nothing that this side does"))?;
    let user = format!("{}@{}", input.user, context.caller.name());
    let order = Order { verb, input: input.input.0, is_vapp: false };
    here.run_here(record, order, user, Some(context.operation_id.to_string())).await
}

async fn follow(here: &Arc<Replications>, context: Context, input: FollowInput) -> Result<Task, Error> {
    let record = here.of_link(&context.caller, &input.replication)?;
    let task = here.tasks.get(&input.task)?;
    if task.workflow_info.resource_id != record.api_id() {
        return Err(Error::not_found(
            lockstep_contract::services::replication::codes::TASK_NOT_FOUND,
            "there is no such task of this replication",
            vec![input.task],
        ));
    }
    if input.cancel {
        here.tasks.cancel(&input.task);
    }
    Ok(task)
}

async fn turn(here: &Arc<Replications>, context: Context, input: TurnInput) -> Result<Turned, Error> {
    let record = here.of_link(&context.caller, &input.replication)?;
    let peer = here.links.peer(&record.link).ok_or_else(|| no_site(&record.link))?;
    here.turn(record, &input, &peer.domain).await
}

impl Replications {
    /// Removes a replication here: what it has stored too, when that is wanted.
    pub(crate) async fn remove_here(&self, record: &Record, instances: bool) -> Result<(), Error> {
        // A source has some of when it was the destination; nothing needs these any more.
        if record.side == Side::Source || instances {
            if let Some(receive) = &self.receive {
                let dropped = receive.forget(&record.id).await;
                dropped.map_err(|error| {
                    Error::new(ErrorKind::Error, "lockstep.replication.store", error.to_string(), Vec::new())
                })?;
            }
            if let Ok(store) = self.store() {
                let (store, id) = (store.clone(), record.id.clone());
                for instance in store.instances(&id) {
                    if let Some(recoveries) = &self.recoveries {
                        recoveries.stop_serving(instance.name.clone()).await?;
                    }
                }
                blocking(move || {
                    for instance in store.instances(&id) {
                        store.remove(&instance.name)?;
                    }
                    Ok(())
                })
                .await?;
                self.garbage.notify_one();
            }
        }
        self.forget(&record.id).await
    }
}
