//! The loop that keeps the status of every specification what it should be, and lets expired ones go.
//!
//! One round compares wanted with actual: what has passed its expiration becomes EXPIRED; what nobody offers DISABLED, what somebody
//! offers ENABLED; what has been expired for a day is deleted. It finds what to look at by queries on the view's indexes, so a round costs
//! what there is to do. It is woken at the next expiration, by a change of who is present, and by every write of a specification.

use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::stats::acq_specs::Status;
use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::ResourceId;
use lockstep_model::builtin::ACQ_SPEC;
use lockstep_query::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, Query, QuerySpec, SortDirection,
    SortSpec, View,
};

use crate::Stats;
use crate::spec::Spec;

/// How long an expired specification is kept, so that it can be revived: a day.
pub const KEPT_AFTER_EXPIRATION_S: i64 = 24 * 3600;

/// Specifications that one commit changes.
const BATCH_SPECS: usize = 500;

/// Longest sleep of the loop: what it misses by a clock that jumps is made up for after this long.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// The author of the commits.
const AUTHOR: &str = "lockstep/stats";

fn property(name: &str) -> String {
    format!("{ACQ_SPEC}/{name}")
}

fn condition(name: &str, operator: Operator, comparable: Comparable) -> FilterSpec {
    FilterSpec::Property(PropertyFilter { property: property(name), operator, comparable })
}

fn all_of(filters: Vec<FilterSpec>) -> FilterSpec {
    FilterSpec::Composite { operator: CompositeOperator::Intersect, filters }
}

fn status_is(operator: Operator, status: Status) -> FilterSpec {
    condition("status", operator, Comparable::String(status.name().to_owned()))
}

/// Those whose time is over and that do not say so.
fn due(now_s: i64) -> FilterSpec {
    let past = condition("expiration", Operator::LessOrEqual, Comparable::Long(now_s));
    all_of(vec![past, status_is(Operator::NotEqual, Status::Expired)])
}

/// Those whose time was moved ahead by others than this service.
fn revived(now_s: i64) -> FilterSpec {
    let ahead = condition("expiration", Operator::Greater, Comparable::Long(now_s));
    all_of(vec![ahead, status_is(Operator::Equal, Status::Expired)])
}

/// Those that have been over for long.
fn forgotten(now_s: i64) -> FilterSpec {
    let past = condition("expiration", Operator::LessOrEqual, Comparable::Long(now_s - KEPT_AFTER_EXPIRATION_S));
    all_of(vec![past, status_is(Operator::Equal, Status::Expired)])
}

/// The first specifications that match, by expiration.
fn first(view: &View, filter: FilterSpec, limit: usize, offset: usize) -> Vec<ResourceId> {
    let sort = SortSpec { property: property("expiration"), direction: SortDirection::Ascending };
    let spec = QuerySpec {
        resource_filter: filter,
        property_spec: Vec::new(),
        sort_criteria: vec![sort],
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        limit: i64::try_from(limit).ok(),
        compute_total_item_count: false,
    };
    match Query::compile(&spec, view.registry(), &Limits::default()) {
        Ok(query) => view.query(&query).items().map(|item| ResourceId::new(item.id().0, item.id().1)).collect(),
        // The model is built in.
        Err(error) => {
            tracing::error!(%error, "a query of the service's own was refused");
            Vec::new()
        }
    }
}

impl Stats {
    /// Wakes the loop: a specification was written, or somebody came or went.
    pub(crate) fn spec_changed(&self) {
        self.presence.wake.notify_one();
    }

    /// Keeps every status what it should be; ends when the site stops.
    pub async fn keep_statuses(self: Arc<Self>) {
        let stopping = self.site.stopping();
        tokio::pin!(stopping);
        let mut offered = None;
        loop {
            let now_offered = self.presence.offered();
            let is_new_offer = offered.as_ref() != Some(&now_offered);
            match self.round(is_new_offer).await {
                Ok(()) => offered = Some(now_offered),
                Err(error) => tracing::warn!(%error, "statuses of acquisition specifications could not be written"),
            }
            tokio::select! {
                _ = tokio::time::sleep(self.sleep()) => {}
                () = self.presence.wake.notified() => {}
                () = &mut stopping => return,
            }
        }
    }

    /// How long nothing is due.
    fn sleep(&self) -> Duration {
        let now_s = self.now_s();
        let view = self.site.view();
        let next = first(&view, status_is(Operator::NotEqual, Status::Expired), 1, 0);
        let expiration =
            next.first().and_then(|id| view.get(id)).map(|s| Spec::from_document(&s.document).expiration_s);
        let seconds = expiration.map_or(i64::MAX, |at| at - now_s).clamp(0, 3600);
        // A little after the second has begun, so that it has for the log's clock too.
        (Duration::from_secs(seconds.unsigned_abs()) + Duration::from_millis(20)).min(SLEEP_MAX)
    }

    async fn round(&self, is_new_offer: bool) -> Result<(), lockstep_journal::CommitError> {
        let now_s = self.now_s();
        loop {
            let ids = {
                let view = self.site.view();
                let mut ids = first(&view, due(now_s), BATCH_SPECS, 0);
                ids.extend(first(&view, revived(now_s), BATCH_SPECS, 0));
                ids
            };
            if ids.is_empty() || !self.settle(&ids, now_s).await? {
                break;
            }
        }
        loop {
            let ids = first(&self.site.view(), forgotten(now_s), BATCH_SPECS, 0);
            if ids.is_empty() || !self.forget(&ids).await? {
                break;
            }
        }
        if is_new_offer {
            let mut offset = 0;
            loop {
                // Settling moves nothing in this order: a status is no part of it.
                let ids = first(&self.site.view(), status_is(Operator::NotEqual, Status::Expired), BATCH_SPECS, offset);
                if ids.is_empty() {
                    break;
                }
                offset += ids.len();
                self.settle(&ids, now_s).await?;
            }
        }
        Ok(())
    }

    /// Writes the statuses that differ. Answers whether anything was written.
    async fn settle(&self, ids: &[ResourceId], now_s: i64) -> Result<bool, lockstep_journal::CommitError> {
        let offered = self.presence.offered();
        let changes = {
            let view = self.site.view();
            let change = |id: &ResourceId| {
                let stored = view.get(id)?;
                let mut spec = Spec::from_document(&stored.document);
                (spec.status, spec.status_reason) = self.status_of(&spec, &offered, now_s);
                let leaves = stored.document.diff(&spec.to_document());
                let status_only =
                    leaves.into_iter().filter(|leaf| leaf.path.as_str().starts_with("status")).collect::<Vec<_>>();
                let operation = (!status_only.is_empty()).then_some(Operation::Update(status_only))?;
                Some((Change { id: id.clone(), operation, parents: Arc::from([]) }, Expect::At(stored.modified)))
            };
            ids.iter().filter_map(change).collect::<Vec<_>>()
        };
        self.write(changes).await
    }

    async fn forget(&self, ids: &[ResourceId]) -> Result<bool, lockstep_journal::CommitError> {
        let changes = {
            let view = self.site.view();
            let change = |id: &ResourceId| {
                let stored = view.get(id)?;
                let operation = Operation::Delete(stored.document);
                Some((Change { id: id.clone(), operation, parents: Arc::from([]) }, Expect::At(stored.modified)))
            };
            ids.iter().filter_map(change).collect::<Vec<_>>()
        };
        self.write(changes).await
    }

    async fn write(&self, changes: Vec<(Change, Expect)>) -> Result<bool, lockstep_journal::CommitError> {
        if changes.is_empty() {
            return Ok(false);
        }
        let batch = Batch { author: AUTHOR.into(), changes, relies_on: Vec::new() };
        match self.site.commit(batch).await {
            Ok(_) => Ok(true),
            // Somebody changed one of them meanwhile: the next round, which that change wakes, sees it.
            Err(lockstep_journal::CommitError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
