//! The operations on replications of vApps: those of their only machines.

use std::sync::Arc;

use lockstep_contract::Error;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::replication::vapp::{
    self as declared, Input, ListInput, Page, RecoverInput, Summary, VappReplication,
};
use lockstep_contract::services::replication::vm::{self, CreateInput, UpdateInput};
use lockstep_contract::services::replication::{Health, RecoveryState, Side};
use lockstep_contract::services::tasks::Task;
use lockstep_site::table::{Context, Table};
use lockstep_site::tasks::page;

use crate::operations::{begin, order, reconfigure, recover, uuid_of};
use crate::record::Record;
use crate::service::Replications;
use crate::settings::invalid;
use crate::show::{health, name_fits};
use crate::states::Verb;
use crate::verbs::Order;

pub(crate) fn register(service: &Arc<Replications>, table: &mut Table) {
    macro_rules! order {
        ($($operation:path => $verb:ident),* $(,)?) => {
            $( let here = service.clone();
               table.register($operation, move |context: Context, input: Input| {
                   let here = here.clone();
                   async move {
                       let record = here.find_vapp(&input.replication_id)?;
                       let wanted = Order { is_vapp: true, ..Order::new(Verb::$verb) };
                       order(&here, &context, record, wanted).await
                   }
               }); )*
        };
    }
    order! {
        declared::Delete => Stop,
        declared::Sync => Sync,
        declared::Pause => Pause,
        declared::Resume => Resume,
        declared::FailoverTestCleanup => FailoverTestCleanup,
        declared::Reverse => Reverse,
    }
    macro_rules! bring_up {
        ($($operation:path => $verb:ident),* $(,)?) => {
            $( let here = service.clone();
               table.register($operation, move |context: Context, input: RecoverInput| {
                   let here = here.clone();
                   async move {
                       let record = here.find_vapp(&input.replication_id)?;
                       let input = of_machine(&record, input)?;
                       recover(&here, &context, record, input, Verb::$verb, true).await
                   }
               }); )*
        };
    }
    bring_up! {
        declared::Failover => Failover,
        declared::FailoverTest => FailoverTest,
        declared::Migrate => Migrate,
    }
    let here = service.clone();
    table.register(declared::Update, move |context: Context, input: UpdateInput| {
        let here = here.clone();
        async move {
            let record = here.find_vapp(&input.replication_id)?;
            let input = UpdateInput { replication_id: record.api_id(), ..input };
            reconfigure(&here, &context, record, &input, true).await
        }
    });
    let here = service.clone();
    table.register(declared::GetSummary, move |_, _: NoInput| {
        let here = here.clone();
        async move { Ok(summary(&here)) }
    });
    let here = service.clone();
    table.register(declared::Create, move |context: Context, input: CreateInput| {
        let here = here.clone();
        async move { create(&here, &context, input).await }
    });
    let here = service.clone();
    table.register(declared::List, move |_, input: ListInput| {
        let here = here.clone();
        async move { list(&here, input) }
    });
    let here = service.clone();
    table.register(declared::Get, move |_, input: Input| {
        let here = here.clone();
        async move { get(&here, &input) }
    });
}

async fn create(here: &Arc<Replications>, context: &Context, input: CreateInput) -> Result<Task, Error> {
    begin(here, context, input, true).await
}

/// What is asked for of the vApp, as it is asked for of its machine.
fn of_machine(record: &Record, input: RecoverInput) -> Result<vm::RecoverInput, Error> {
    let mut instance_id = None;
    for (of, key) in input.instance_map.into_iter().flat_map(|map| map.0) {
        if uuid_of(&of) != record.id {
            let message = format!("{of} is not the replication of a machine of this vApp: it has {}", record.api_id());
            return Err(invalid("instanceMap", &message));
        }
        instance_id = Some(key);
    }
    let RecoverInput { power_on, consolidate, sync, .. } = input;
    Ok(vm::RecoverInput { replication_id: record.api_id(), instance_id, power_on, consolidate, sync })
}

fn summary(here: &Replications) -> Summary {
    let records = here.all();
    let count = |is: &dyn Fn(&Record) -> bool| records.iter().filter(|record| is(record)).count() as i64;
    Summary {
        total: count(&|_| true),
        outgoing: count(&|record| record.side == Side::Source),
        incoming: count(&|record| record.side == Side::Destination),
        green: count(&|record| health(record) == Health::Green),
        yellow: count(&|record| health(record) == Health::Yellow),
        red: count(&|record| health(record) == Health::Red),
        paused: count(&|record| record.source.is_paused),
        rpo_violations: count(&|record| record.source.rpo_violation_minutes > 0),
        in_test: count(&|record| record.recovery() == RecoveryState::Test),
        recovered: count(&|record| record.recovery() == RecoveryState::Complete),
    }
}

fn get(here: &Replications, input: &Input) -> Result<VappReplication, Error> {
    here.find_vapp(&input.replication_id).map(|record| here.show_vapp(&record))
}

fn list(here: &Replications, input: ListInput) -> Result<Page, Error> {
    let (offset, limit) = page(input.offset, input.limit)?;
    let ids: Option<Vec<&str>> = input.ids.as_deref().map(|ids| ids.split(',').map(uuid_of).collect());
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    let fits = |record: &Record| {
        let source = &record.source;
        is(&input.owner, &source.owner)
            && is(&input.source_site, &source.site)
            && is(&input.destination_site, &source.destination_site)
            && input.vapp_name.as_deref().is_none_or(|name| name_fits(name, &source.vm_name))
            && ids.as_ref().is_none_or(|ids| ids.contains(&&*source.vapp_id))
    };
    let found: Vec<Record> = here.all().into_iter().filter(fits).collect();
    let items = found.iter().skip(offset).take(limit).map(|record| here.show_vapp(record)).collect();
    Ok(Page { items, offset: offset as i64, limit: limit as i64, total: found.len() as i64 })
}
