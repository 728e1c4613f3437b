//! The query over data points.
//!
//! Points come by counter, address and time, and a page's token says after which point it begins, so points that come in meanwhile
//! move nothing. Points are answered as they were sampled, as long as they are kept; the coarser resolutions that outlive them are for
//! `lockstep.stats.series`, since a mean is no data point.
//!
//! Source: `api/vstats.md`, section 5.

use std::sync::Arc;

use lockstep_contract::Error;
use lockstep_contract::counters::Counter;
use lockstep_contract::services::stats::data::{DataPoint, DataPointsResult, FilterSpec, QueryInput};
use lockstep_series::{Point, StoreError};
use lockstep_site::table::Context;

use crate::Stats;
use crate::filter::AddressFilter;
use crate::page::Scope;

/// Points of one page.
const PAGE_POINTS: usize = 1000;

fn invalid(place: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.stats.data", place, message)
}

/// The error of the contract for a store that cannot be read.
pub(crate) fn store_error(error: &StoreError) -> Error {
    tracing::error!(error = error as &dyn std::error::Error, "the series store cannot be read");
    Error::internal()
}

/// The place after a point: `mid:rid:ts`.
struct After {
    mid: i64,
    rid: u64,
    time_s: i64,
}

impl After {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next();
        Some(Self { mid: number()?.parse().ok()?, rid: number()?.parse().ok()?, time_s: number()?.parse().ok()? })
    }
}

pub(crate) async fn query_data_points(
    stats: &Arc<Stats>,
    _: Context,
    input: QueryInput,
) -> Result<DataPointsResult, Error> {
    let here = stats.clone();
    let filter = input.filter.unwrap_or(FilterSpec {
        start: None,
        end: None,
        cid: None,
        metric: None,
        types: None,
        resources: None,
        order: None,
        page: None,
    });
    tokio::task::spawn_blocking(move || page(&here, filter)).await.map_err(|_| Error::internal())?
}

fn page(stats: &Stats, filter: FilterSpec) -> Result<DataPointsResult, Error> {
    let FilterSpec { start, end, cid, metric, types, resources, order, page } = filter;
    let asked = format!("{start:?} {end:?} {cid:?} {metric:?} {types:?} {resources:?}");
    let scope = Scope { operation: "data.query_data_points", asked: &asked };
    if order.as_ref().is_some_and(|order| !order.is_empty() && order != "DEFAULT") {
        return Err(invalid("filter.order", "DEFAULT is the only order"));
    }
    let (start_s, end_s) = (start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX));
    if start_s > end_s {
        return Err(invalid("filter.end", "it is before start"));
    }
    let wanted = AddressFilter::read(types, resources, "filter.resources")?;
    let rids = stats.wanted_rids(&wanted, "filter.resources")?;
    let after = match page.filter(|page| !page.is_empty()) {
        None => None,
        Some(token) => {
            let text = scope.read(&token, "filter.page")?;
            Some(After::read(&text).ok_or_else(|| invalid("filter.page", "no page of this question"))?)
        }
    };
    let is_wanted = |counter: &Counter| {
        cid.as_ref().filter(|cid| !cid.is_empty()).is_none_or(|cid| cid == counter.cid)
            && metric.as_ref().filter(|metric| !metric.is_empty()).is_none_or(|metric| metric == counter.metric)
    };
    let mut series = stats.index.select(is_wanted, rids.as_ref());
    let mut from_s = start_s;
    if let Some(after) = &after {
        let place = series.iter().position(|one| one.counter.mid() == after.mid && one.rid >= after.rid);
        series.drain(..place.unwrap_or(series.len()));
        if series.first().is_some_and(|one| one.rid == after.rid) {
            from_s = after.time_s.saturating_add(1).max(start_s);
        }
    }
    let mut points: Vec<DataPoint> = Vec::new();
    let mut last = None;
    for one in series {
        let wanted = PAGE_POINTS + 1 - points.len();
        let found = stats.store.read(one.key(), from_s, end_s, wanted).map_err(|error| store_error(&error))?;
        from_s = start_s;
        let mid = one.counter.mid().to_string();
        for Point { time_s, value } in found {
            if points.len() == PAGE_POINTS {
                let next =
                    last.map(|(mid, rid, time_s): (i64, u64, i64)| scope.token(&format!("{mid}:{rid}:{time_s}")));
                return Ok(DataPointsResult { data_points: points, next });
            }
            last = Some((one.counter.mid(), one.rid, time_s));
            points.push(DataPoint {
                cid: one.counter.cid.to_owned(),
                mid: mid.clone(),
                rid: one.rid.to_string(),
                ts: time_s,
                val: value,
            });
        }
    }
    Ok(DataPointsResult { data_points: points, next: None })
}
