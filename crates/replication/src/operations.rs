//! The operations on replications of machines.

use std::sync::Arc;

use lockstep_contract::services::replication::vm::{
    self as declared, ChownInput, CreateInput, ExportInput, Input, InstanceInput, ListInput, Page, RecoverInput,
    StorageProfileInput, Traffic, TrafficInput, TrafficSample, UpdateInput,
};
use lockstep_contract::services::replication::{Instance, Replication, Side};
use lockstep_contract::services::tasks::Task;
use lockstep_contract::{Data, Error, ErrorKind, PlainJson, Wire};
use lockstep_model::{LINKED_FROM, Value};
use lockstep_site::table::{Context, Table};
use lockstep_site::tasks::{Asked as AskedTask, Handle, page};
use lockstep_site::{times, uuid};

use crate::record::{Record, ReplicaPart, SourcePart};
use crate::service::{Replications, no_site};
use crate::settings::{self, invalid};
use crate::show::{ORG, name_fits};
use crate::states::Verb;
use crate::vault::no_instance;
use crate::verbs::Order;

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
    // The verbs that have no parameters.
    macro_rules! order {
        ($($operation:path => $verb:ident),* $(,)?) => {
            $( let here = service.clone();
               table.register($operation, move |context: Context, input: Input| {
                   let here = here.clone();
                   async move {
                       let record = here.find(&input.replication_id)?;
                       order(&here, &context, record, Order::new(Verb::$verb)).await
                   }
               }); )*
        };
    }
    serve! {
        declared::Create => create,
        declared::List => list,
        declared::Get => get,
        declared::Update => update,
        declared::Instances => instances,
        declared::GetInstance => instance,
        declared::Failover => failover,
        declared::FailoverTest => failover_test,
        declared::Migrate => migrate,
        declared::Chown => chown,
        declared::GetTraffic => traffic,
        declared::GetRealTimeTraffic => real_time_traffic,
        declared::SetStorageProfile => storage_profile,
        declared::Export => export,
    }
    order! {
        declared::Delete => Stop,
        declared::Sync => Sync,
        declared::Pause => Pause,
        declared::Resume => Resume,
        declared::FailoverTestCleanup => FailoverTestCleanup,
        declared::Reverse => Reverse,
        declared::Verify => Verify,
    }
}

/// Begins what a user asks for.
pub(crate) async fn order(
    here: &Arc<Replications>,
    context: &Context,
    record: Record,
    order: Order,
) -> Result<Task, Error> {
    here.order(record, order, context.caller.name().to_string(), context.operation_id.to_string()).await
}

/// The parameters as a tree, to be kept with the task.
fn parameters(input: &impl Wire) -> Data {
    let mut json = PlainJson::default();
    input.encode(&mut json);
    Data::from_json(&json.out).unwrap_or(Data::Null)
}

async fn create(here: &Arc<Replications>, context: Context, input: CreateInput) -> Result<Task, Error> {
    begin(here, &context, input, false).await
}

/// Begins a replication.
pub(crate) async fn begin(
    here: &Arc<Replications>,
    context: &Context,
    input: CreateInput,
    is_vapp: bool,
) -> Result<Task, Error> {
    let settings = settings::of_new(&input)?;
    let site = &here.site.config.name;
    if let Some(source) = input.source.site.as_ref().filter(|source| *source != site) {
        let message = format!("machines of {source} are replicated by {source}: run this there, with ?site={source}");
        return Err(invalid("source.site", &message));
    }
    let named = [&input.source.vm_id, &input.source.vapp_id, &input.source.mo_id].into_iter().flatten().next();
    let named = named.ok_or_else(|| invalid("source.vmId", "the machine is missing"))?;
    let vm = match here.vm(named) {
        Ok(_) => &**named,
        Err(error) => named.strip_prefix("vapp-").filter(|vm| here.vm(vm).is_ok()).ok_or(error)?,
    };
    let document = here.vm(vm)?;
    if document.get(LINKED_FROM).is_some() {
        return Err(invalid("source.vmId", &format!("{vm} is a copy of another site's machine: replicate it there")));
    }
    let peer = here.links.peer_named(&input.destination.site).ok_or_else(|| no_site(&input.destination.site))?;
    peer.client()?;
    if let Some(known) = here.of_vm(vm) {
        let message = format!("{vm} is replicated already, by {}", known.api_id());
        let args = vec![vm.to_owned(), known.api_id()];
        return Err(Error::new(ErrorKind::AlreadyExists, "lockstep.replication.exists", message, args));
    }
    let text = |path: &str| document.get(path).and_then(Value::as_str).map(str::to_owned);
    let now_ms = times::now_ms();
    let optional = |place: &str, value: Option<String>| value.map(|value| settings::text(place, value)).transpose();
    let record = Record {
        id: uuid::random()?,
        link: peer.link.to_string(),
        side: Side::Source,
        vm: vm.to_owned(),
        source: SourcePart {
            revision: 1,
            vm_id: vm.to_owned(),
            vm_name: text("name").unwrap_or_else(|| vm.to_owned()),
            computer_name: text("guest/hostname"),
            vapp_id: uuid::random()?,
            site: site.clone(),
            destination_site: peer.site.clone(),
            owner: format!("{ORG}@{site}"),
            vdc: optional("destination.vdc", input.destination.vdc)?,
            storage_profile: optional("destination.storageProfile", input.destination.storage_profile)?,
            is_migration: input.is_migration.unwrap_or(false),
            created: now_ms,
            activity_since: now_ms,
            settings,
            ..SourcePart::default()
        },
        replica: ReplicaPart::default(),
    };
    let asked = AskedTask {
        kind: "start".to_owned(),
        user: context.caller.name().to_string(),
        site: site.clone(),
        operation_id: Some(context.operation_id.to_string()),
        resource_type: if is_vapp { "vappReplication" } else { "vmReplication" }.to_owned(),
        resource_id: if is_vapp { record.vapp_api_id() } else { record.api_id() },
        resource_name: record.source.vm_name.clone(),
        source_org: Some(ORG.to_owned()),
        destination_org: Some(ORG.to_owned()),
        input: None,
    };
    let service = here.clone();
    let work = |handle: Handle| async move {
        // Two who ask at once find each other here.
        let _turn = service.starting.lock().await;
        if let Some(known) = service.of_vm(&record.vm) {
            let message = format!("{} is replicated already, by {}", record.vm, known.api_id());
            return Err(Error::new(ErrorKind::AlreadyExists, "lockstep.replication.exists", message, vec![]));
        }
        // The other side first: a crash leaves a replica that is removed by hand, and never a replication without one.
        service.tell_now(&record, true).await?;
        handle.progress(50);
        if let Err(error) = service.create(&record).await {
            handle.log("takes it back at the destination");
            service.take_back(&record).await;
            return Err(error);
        }
        handle.log("is made at both sites; the first sync begins when it is due");
        service.schedule.wake();
        Ok(service.result(&record.id, is_vapp))
    };
    here.tasks.begin(asked, work).await
}

async fn list(here: &Arc<Replications>, _: Context, input: ListInput) -> Result<Page, Error> {
    let (offset, limit) = page(input.offset, input.limit)?;
    let ids: Option<Vec<&str>> = input.ids.as_deref().map(|ids| ids.split(',').map(uuid_of).collect());
    let is = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|w| Some(w) == found);
    let fits = |record: &Record| {
        let source = &record.source;
        is(&input.owner, Some(&source.owner))
            && is(&input.source_vdc_id, None)
            && is(&input.source_vdc_name, None)
            && is(&input.source_site, Some(&source.site))
            && is(&input.source_org, Some(ORG))
            && input.vm_id.as_deref().is_none_or(|vm| vm == source.vm_id || vm == record.vm)
            && input.vm_name.as_deref().is_none_or(|name| name_fits(name, &source.vm_name))
            && is(&input.destination_site, Some(&source.destination_site))
            && is(&input.destination_org, Some(ORG))
            && is(&input.destination_vdc_id, source.vdc.as_deref())
            && is(&input.destination_vdc_name, source.vdc.as_deref())
            && ids.as_ref().is_none_or(|ids| ids.contains(&&*record.id))
    };
    let found: Vec<Record> = here.all().into_iter().filter(fits).collect();
    let items = found.iter().skip(offset).take(limit).map(|record| here.show(record)).collect();
    Ok(Page { items, offset: offset as i64, limit: limit as i64, total: found.len() as i64 })
}

/// The UUID in an id of the API.
pub(crate) fn uuid_of(id: &str) -> &str {
    let id = id.trim();
    ["C4-", "H4-", "C4VAPP-"].iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id)
}

async fn get(here: &Arc<Replications>, _: Context, input: Input) -> Result<Replication, Error> {
    here.find(&input.replication_id).map(|record| here.show(&record))
}

async fn update(here: &Arc<Replications>, context: Context, input: UpdateInput) -> Result<Task, Error> {
    let record = here.find(&input.replication_id)?;
    reconfigure(here, &context, record, &input, false).await
}

/// Changes what a replication was told.
pub(crate) async fn reconfigure(
    here: &Arc<Replications>,
    context: &Context,
    record: Record,
    input: &UpdateInput,
    is_vapp: bool,
) -> Result<Task, Error> {
    // What makes no sense is refused now, and not by a task.
    settings::update(&mut record.source.settings.clone(), input)?;
    let wanted = Order { verb: Verb::Reconfigure, input: parameters(input), is_vapp };
    order(here, context, record, wanted).await
}

async fn storage_profile(
    here: &Arc<Replications>,
    context: Context,
    input: StorageProfileInput,
) -> Result<Task, Error> {
    let record = here.find(&input.replication_id)?;
    let wanted = Order { input: parameters(&input), ..Order::new(Verb::Reconfigure) };
    order(here, &context, record, wanted).await
}

async fn instances(here: &Arc<Replications>, _: Context, input: Input) -> Result<Vec<Instance>, Error> {
    let record = here.find(&input.replication_id)?;
    let mut instances = here.instances(&record).await?;
    instances.iter_mut().for_each(|instance| instance.disks_info = None);
    Ok(instances)
}

async fn instance(here: &Arc<Replications>, _: Context, input: InstanceInput) -> Result<Instance, Error> {
    let record = here.find(&input.replication_id)?;
    let instances = here.instances(&record).await?;
    instances.into_iter().find(|instance| instance.key == input.key).ok_or_else(|| no_instance(&input.key))
}

/// Brings the machine of a replication to life.
pub(crate) async fn recover(
    here: &Arc<Replications>,
    context: &Context,
    record: Record,
    input: RecoverInput,
    verb: Verb,
    is_vapp: bool,
) -> Result<Task, Error> {
    if input.sync == Some(true) && input.instance_id.is_some() {
        return Err(invalid("sync", "an instance that is there cannot be synced: give one or the other"));
    }
    crate::states::check(&record, verb)?;
    if let Some(key) = &input.instance_id {
        let instances = here.instances(&record).await?;
        if !instances.iter().any(|instance| instance.key == *key) {
            return Err(no_instance(key));
        }
    }
    order(here, context, record, Order { verb, input: parameters(&input), is_vapp }).await
}

async fn failover(here: &Arc<Replications>, context: Context, input: RecoverInput) -> Result<Task, Error> {
    let record = here.find(&input.replication_id)?;
    recover(here, &context, record, input, Verb::Failover, false).await
}

async fn failover_test(here: &Arc<Replications>, context: Context, input: RecoverInput) -> Result<Task, Error> {
    let record = here.find(&input.replication_id)?;
    recover(here, &context, record, input, Verb::FailoverTest, false).await
}

async fn migrate(here: &Arc<Replications>, context: Context, input: RecoverInput) -> Result<Task, Error> {
    let record = here.find(&input.replication_id)?;
    recover(here, &context, record, input, Verb::Migrate, false).await
}

async fn export(here: &Arc<Replications>, context: Context, input: ExportInput) -> Result<Task, Error> {
    let record = here.find(&input.replication_id)?;
    let wanted = Order { input: parameters(&input), ..Order::new(Verb::Export) };
    order(here, &context, record, wanted).await
}

async fn chown(here: &Arc<Replications>, _: Context, input: ChownInput) -> Result<Replication, Error> {
    let record = here.find(&input.replication_id)?;
    if record.side == Side::Destination {
        let message = format!("the owner is kept at {}: run this there", record.source.site);
        return Err(Error::new(ErrorKind::NotAllowedInCurrentState, "lockstep.replication.side", message, vec![]));
    }
    let owner = input.owner.unwrap_or_else(|| format!("{ORG}@{}", here.site.config.name));
    let owner = settings::text("owner", owner)?;
    if !owner.split_once('@').is_some_and(|(org, site)| !org.is_empty() && !site.is_empty()) {
        return Err(invalid("owner", "an organization and a site: org@site"));
    }
    let record = here
        .change(&record.id, |record| {
            record.source.owner.clone_from(&owner);
            Ok(())
        })
        .await?;
    Ok(here.show(&record))
}

async fn traffic(here: &Arc<Replications>, _: Context, input: TrafficInput) -> Result<Traffic, Error> {
    let record = here.find(&input.replication_id)?;
    let (start, end) = (input.start.unwrap_or(0), input.end.unwrap_or_else(times::now_ms));
    let sample = |instance: Instance| TrafficSample { timestamp: instance.timestamp, value: instance.transfer_bytes };
    let samples = here.instances(&record).await?.into_iter().map(sample);
    let samples = samples.filter(|sample| (start..=end).contains(&sample.timestamp)).collect();
    Ok(Traffic { label: "bytes".to_owned(), resolution: 0, start, end, samples })
}

async fn real_time_traffic(here: &Arc<Replications>, _: Context, input: Input) -> Result<TrafficSample, Error> {
    let record = here.find(&input.replication_id)?;
    let bytes = here.underway.lock().get(&record.id).map_or(0, |progress| progress.wire_bytes);
    Ok(TrafficSample { timestamp: times::now_ms(), value: i64::try_from(bytes).unwrap_or(i64::MAX) })
}
