//! The operations on acquisition specifications.
//!
//! Source: `api/vstats.md`, sections 2 and 3.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_contract::Error;
use lockstep_contract::services::stats::acq_specs::{
    CreateInput, IdInput, Info, ListInput, ListResult, Status, UpdateInput,
};
use lockstep_model::builtin::ACQ_SPEC;
use lockstep_model::{Position, ResourceId};
use lockstep_query::View;
use lockstep_site::table::Context;
use lockstep_site::{Site, WriteError};

use crate::Stats;
use crate::page::Scope;
use crate::presence::Offered;
use crate::spec::Spec;

/// Specifications of one page of a list.
const PAGE_SPECS: usize = 1000;

/// Tries before an update gives up against others that keep changing the same specification.
const TRIES_MAX: usize = 16;

/// Gives ids: decimal numbers that go up and were not given before, as far as the site remembers.
pub(crate) struct Ids {
    last: AtomicU64,
}

impl Ids {
    /// Goes on behind the greatest id that is, or is known to have been.
    pub(crate) fn read(site: &Site) -> Self {
        let view = site.view();
        let number = |id: &ResourceId| id.id.parse::<u64>().ok();
        let live = view.ids(ACQ_SPEC, None).filter_map(|id| number(&id)).max();
        let deleted = site.remembered_deletions(&view);
        let deleted = deleted.iter().filter(|id| id.resource_type.as_str() == ACQ_SPEC).filter_map(number).max();
        Self { last: AtomicU64::new(live.max(deleted).unwrap_or(0)) }
    }

    fn next(&self) -> String {
        (self.last.fetch_add(1, Ordering::Relaxed) + 1).to_string()
    }
}

fn not_found(id: &str) -> Error {
    Error::not_found(
        "lockstep.stats.acq_spec_not_found",
        format!("no acquisition specification {id}"),
        vec![id.to_owned()],
    )
}

fn resource(id: &str) -> ResourceId {
    ResourceId::new(ACQ_SPEC, id)
}

/// The specification, and where it was last changed.
fn find(view: &View, id: &str) -> Option<(Spec, Position)> {
    let stored = view.get(&resource(id))?;
    Some((Spec::from_document(&stored.document), stored.modified))
}

impl Stats {
    /// What the status of a specification should be, and why.
    pub(crate) fn status_of(&self, spec: &Spec, offered: &Offered, now_s: i64) -> (Status, String) {
        if now_s >= spec.expiration_s {
            return (Status::Expired, "its expiration has passed".to_owned());
        }
        let counters = spec.counters.each();
        if counters.iter().any(|counter| offered.contains(counter.cid)) {
            return (Status::Enabled, String::new());
        }
        let what = match &counters[..] {
            [] => "its counters do not exist".to_owned(),
            [one] => format!("no provider that is present offers {}", one.cid),
            _ => "no provider that is present offers any counter of the set".to_owned(),
        };
        (Status::Disabled, what)
    }

    fn with_status(&self, mut spec: Spec, now_s: i64) -> Spec {
        (spec.status, spec.status_reason) = self.status_of(&spec, &self.presence.offered(), now_s);
        spec
    }
}

pub(crate) async fn create(stats: &Arc<Stats>, context: Context, input: CreateInput) -> Result<String, Error> {
    let now_s = stats.now_s();
    let document = stats.with_status(Spec::create(input.acq_spec, now_s)?, now_s).to_document();
    loop {
        let id = stats.ids.next();
        match stats.site.create_document(context.caller.name(), resource(&id), &document).await {
            Ok(_) => {
                stats.spec_changed();
                return Ok(id);
            }
            // An import or a link brought one with this id: the next is as good.
            Err(WriteError::Exists(_)) => {}
            Err(error) => return Err(error.into_error()),
        }
    }
}

pub(crate) async fn get(stats: &Arc<Stats>, _: Context, input: IdInput) -> Result<Info, Error> {
    let (spec, _) = find(&stats.site.view(), &input.id).ok_or_else(|| not_found(&input.id))?;
    Ok(spec.info(&input.id))
}

pub(crate) async fn list(stats: &Arc<Stats>, _: Context, input: ListInput) -> Result<ListResult, Error> {
    let scope = Scope { operation: "acq_specs.list", asked: "" };
    let page = input.filter.and_then(|filter| filter.page).filter(|page| !page.is_empty());
    let after = page.map(|page| scope.read(&page, "filter.page")).transpose()?;
    let view = stats.site.view();
    // One more than a page tells whether there is a next.
    let ids: Vec<ResourceId> = view.ids(ACQ_SPEC, after.as_deref()).take(PAGE_SPECS + 1).collect();
    let shown = &ids[..ids.len().min(PAGE_SPECS)];
    let next = (ids.len() > PAGE_SPECS).then(|| shown.last().map(|last| scope.token(&last.id))).flatten();
    let acq_specs = shown.iter().filter_map(|id| find(&view, &id.id).map(|(spec, _)| spec.info(&id.id))).collect();
    Ok(ListResult { acq_specs, next })
}

pub(crate) async fn update(stats: &Arc<Stats>, context: Context, input: UpdateInput) -> Result<(), Error> {
    for _ in 0..TRIES_MAX {
        let now_s = stats.now_s();
        let (spec, modified) = find(&stats.site.view(), &input.id).ok_or_else(|| not_found(&input.id))?;
        let spec = stats.with_status(spec.update(input.acq_spec.clone(), now_s)?, now_s);
        let author = context.caller.name();
        match stats.site.write_document(author, resource(&input.id), spec.to_document(), Some(modified)).await {
            Ok(_) => {
                stats.spec_changed();
                return Ok(());
            }
            Err(WriteError::Changed { .. } | WriteError::NotFound(_)) => {}
            Err(error) => return Err(error.into_error()),
        }
    }
    Err(WriteError::Contended(resource(&input.id)).into_error())
}

pub(crate) async fn delete(stats: &Arc<Stats>, context: Context, input: IdInput) -> Result<(), Error> {
    match stats.site.delete_resource(context.caller.name(), resource(&input.id), None, false).await {
        Ok(_) => Ok(()),
        Err(WriteError::NotFound(_)) => Err(not_found(&input.id)),
        Err(error) => Err(error.into_error()),
    }
}
