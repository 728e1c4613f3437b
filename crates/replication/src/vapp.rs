//! The operations on replications of vApps: those of their only machines.

use std::sync::Arc;

use lockstep_contract::Error;
use lockstep_contract::services::replication::vapp::{self as declared, Input, ListInput, Page, VappReplication};
use lockstep_contract::services::replication::vm::CreateInput;
use lockstep_contract::services::tasks::Task;
use lockstep_site::table::{Context, Table};
use lockstep_site::tasks::page;

use crate::operations::{begin, order, uuid_of};
use crate::record::Record;
use crate::service::Replications;
use crate::show::name_fits;
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
    }
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
