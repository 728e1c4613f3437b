//! What can be sampled: counters, metadata, sets, metrics, types and schemas, all from the catalogue.
//!
//! The catalogue is the same at every site, whoever offers its counters: what nobody offers is DISABLED when it is asked for, and says so.
//!
//! Source: `api/vstats.md`, sections 2 and 3.

use std::collections::BTreeSet;
use std::sync::Arc;

use lockstep_contract::counters::{COUNTERS, Counter, CounterSet, ResourceKind, counter};
use lockstep_contract::services::stats::addresses::{GetSchema, IdDefinition, QueryOptions, SchemaInfo};
use lockstep_contract::services::stats::counters::{
    FilterSpec, Get, GetDefaultMetadata, GetMetadata, GetSet, Info, ListInput, ListMetadata, ListMetrics,
    ListResourceTypes, ListSets, Metadata, MetadataStatus, MetricSummary, SetInfo, TypeSummary,
};
use lockstep_contract::services::stats::{CidMid, UserInfo};
use lockstep_contract::{Error, Message};
use lockstep_site::table::{Context, Table};

use crate::Stats;

/// Registers the operations that need no more than the catalogue.
pub(crate) fn register(table: &mut Table) {
    table.register(Get, async |_, input| find(&input.cid).map(info));
    table.register(ListMetadata, async |_, input| {
        let metadata = metadata(find(&input.cid)?);
        let wanted = input.filter.and_then(|filter| filter.status);
        Ok(if wanted.is_none_or(|status| status == metadata.status) { vec![metadata] } else { Vec::new() })
    });
    table.register(GetDefaultMetadata, async |_, input| Ok(vec![metadata(find(&input.cid)?)]));
    table.register(GetMetadata, async |_, input| {
        let metadata = metadata(find(&input.cid)?);
        if metadata.mid == input.mid {
            return Ok(metadata);
        }
        let message = format!("the counter {} has no metadata {}", input.cid, input.mid);
        Err(Error::not_found("lockstep.stats.metadata_not_found", message, vec![input.cid, input.mid]))
    });
    table.register(ListSets, async |_, _| Ok(CounterSet::all().into_iter().map(set_info).collect()));
    table.register(GetSet, async |_, input| match CounterSet::find(&input.counter_set) {
        Some(set) => Ok(set_info(set)),
        None => Err(unknown("counter set", input.counter_set)),
    });
    table.register(ListMetrics, async |_, _| {
        let metrics: BTreeSet<&str> = COUNTERS.iter().map(|counter| counter.metric).collect();
        Ok(metrics.into_iter().map(|metric| MetricSummary { metric: metric.to_owned() }).collect())
    });
    table.register(ListResourceTypes, async |_, _| {
        Ok(ResourceKind::ALL.into_iter().map(|kind| TypeSummary { resource_type: kind.name().to_owned() }).collect())
    });
    table.register(GetSchema, async |_, input| match ResourceKind::from_name(&input.id) {
        Some(kind) => Ok(schema(kind)),
        None => Err(unknown("resource address schema", input.id)),
    });
}

pub(crate) async fn list_counters(_: &Arc<Stats>, _: Context, input: ListInput) -> Result<Vec<Info>, Error> {
    let filter = input.filter.unwrap_or(FilterSpec { cid: None, types: None, metric: None });
    let is_wanted = |counter: &&Counter| {
        filter.cid.as_ref().is_none_or(|cid| cid == counter.cid)
            && filter.metric.as_ref().is_none_or(|metric| metric == counter.metric)
            && filter
                .types
                .as_ref()
                .is_none_or(|types| types.is_empty() || types.iter().any(|t| t == counter.kind.name()))
    };
    Ok(COUNTERS.iter().filter(is_wanted).map(info).collect())
}

fn unknown(what: &str, id: String) -> Error {
    Error::not_found("lockstep.stats.not_found", format!("no {what} {id}"), vec![id])
}

fn find(cid: &str) -> Result<&'static Counter, Error> {
    counter(cid).ok_or_else(|| unknown("counter", cid.to_owned()))
}

fn info(counter: &Counter) -> Info {
    Info {
        cid: counter.cid.to_owned(),
        metric: counter.metric.to_owned(),
        resource_address_schema: counter.kind.name().to_owned(),
    }
}

fn metadata(counter: &Counter) -> Metadata {
    let message = |part: &str, text: &str| {
        Message::new(format!("lockstep.stats.counter.{}.{part}", counter.cid), text, Vec::new())
    };
    Metadata {
        cid: counter.cid.to_owned(),
        mid: counter.mid().to_string(),
        status: MetadataStatus::Default,
        sample_type: counter.sample,
        units: counter.units,
        scale: Some(counter.scale),
        user_info: Some(UserInfo {
            label: message("label", counter.metric),
            description: message("description", counter.doc),
        }),
        pid: None,
    }
}

fn set_info(set: CounterSet) -> SetInfo {
    let counters =
        set.counters().map(|counter| CidMid { cid: counter.cid.to_owned(), mid: Some(counter.mid().to_string()) });
    SetInfo { id: set.id(), counters: counters.collect(), user_info: None }
}

fn schema(kind: ResourceKind) -> SchemaInfo {
    let position = |kind: &ResourceKind| IdDefinition {
        key: kind.name().to_owned(),
        resource_type: kind.name().to_owned(),
        query_options: QueryOptions::EqualAll,
    };
    SchemaInfo { id: kind.name().to_owned(), schema: kind.address_types().iter().map(position).collect() }
}
