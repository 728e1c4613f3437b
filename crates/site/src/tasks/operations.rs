//! Tasks as they are listed, read and cancelled.

use std::sync::Arc;

use lockstep_contract::Error;
use lockstep_contract::services::replication::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use lockstep_contract::services::tasks::{self as declared, ListInput, LogLine, Page, Task, TaskInput};

use super::Tasks;
use super::record::Record;
use crate::table::{Context, Table};

pub(super) fn register(tasks: &Arc<Tasks>, table: &mut Table) {
    macro_rules! serve {
        ($($operation:path => $handler:path),* $(,)?) => {
            $( let here = tasks.clone();
               table.register($operation, move |context, input| {
                   let here = here.clone();
                   async move { $handler(&here, &context, input) }
               }); )*
        };
    }
    serve! {
        declared::List => list,
        declared::Get => get,
        declared::Cancel => cancel,
        declared::Log => log,
    }
}

/// How many to pass over and how many to answer, as a caller asks for it.
///
/// # Errors
/// `invalid_argument` for numbers below zero. More than [`PAGE_ITEMS_MAX`] are that many.
pub fn page(offset: Option<i64>, limit: Option<i64>) -> Result<(usize, usize), Error> {
    let checked = |place: &str, value: i64| {
        usize::try_from(value)
            .map_err(|_| Error::invalid_argument("lockstep.input.page", place, "a number that is not below zero"))
    };
    let limit = limit.unwrap_or(PAGE_ITEMS_DEFAULT).min(PAGE_ITEMS_MAX);
    Ok((checked("offset", offset.unwrap_or(0))?, checked("limit", limit)?))
}

fn list(tasks: &Tasks, _: &Context, input: ListInput) -> Result<Page, Error> {
    let (offset, limit) = page(input.offset, input.limit)?;
    let types: Option<Vec<&str>> =
        input.resource_type.as_deref().map(|types| types.split(',').map(str::trim).collect());
    let fits = |record: &Record| {
        let asked = &record.asked;
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|w| Some(w) == found);
        is(&input.user, Some(&asked.user))
            && input.state.is_none_or(|state| state == record.state)
            && types.as_ref().is_none_or(|types| types.contains(&&*asked.resource_type))
            && is(&input.resource_id, Some(&asked.resource_id))
            && is(&input.source_org, asked.source_org.as_deref())
            && is(&input.destination_org, asked.destination_org.as_deref())
            && input.start_time_after.is_none_or(|after| record.start_ms > after)
            && input.start_time_before.is_none_or(|before| record.start_ms < before)
            && is(&input.operation_id, asked.operation_id.as_deref())
    };
    let mut found: Vec<Record> = tasks.records().into_iter().filter(fits).collect();
    found.sort_by(|a, b| b.start_ms.cmp(&a.start_ms).then_with(|| a.id.cmp(&b.id)));
    let total = found.len();
    let items = found.iter().skip(offset).take(limit).map(Record::to_task).collect();
    Ok(Page { items, offset: offset as i64, limit: limit as i64, total: total as i64 })
}

fn get(tasks: &Tasks, _: &Context, input: TaskInput) -> Result<Task, Error> {
    tasks.get(&input.task)
}

fn cancel(tasks: &Tasks, context: &Context, input: TaskInput) -> Result<Task, Error> {
    let task = tasks.get(&input.task)?;
    if tasks.cancel(&input.task) {
        tracing::info!(task = %input.task, user = %context.caller.name(), "a task is to end");
    }
    Ok(task)
}

fn log(tasks: &Tasks, _: &Context, input: TaskInput) -> Result<Vec<LogLine>, Error> {
    tasks.record(&input.task).map(|record| record.lines())
}
