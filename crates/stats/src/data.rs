//! The query over data points.
//!
//! Points come by counter, address and time, and a page's token says after which point it begins, so points that come in meanwhile
//! move nothing. Points are answered as they were sampled, as long as they are kept; the coarser resolutions that outlive them are for
//! `lockstep.stats.series`, since a mean is no data point. With a store outside to read from ([`crate::remote`]), the points come from
//! there, and what is asked, the order and the tokens are the same.
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
use crate::series::SeriesRef;

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

/// The name of the operation in tokens.
const OPERATION: &str = "data.query_data_points";

/// The place after a point: `mid:rid:ts`.
#[derive(Clone, Copy)]
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

/// A question that was understood.
pub(crate) struct Asked {
    /// The series, those of earlier pages left out.
    pub(crate) series: Vec<SeriesRef>,
    /// From when on the first series is wanted: a page may begin within it.
    pub(crate) from_s: i64,
    /// From when on the others are.
    pub(crate) start_s: i64,
    /// Before when.
    pub(crate) end_s: i64,
}

/// A page that is being filled.
pub(crate) struct Page {
    /// What was asked, for the next page's token.
    asked: String,
    points: Vec<DataPoint>,
    last: Option<After>,
    /// A point was found that has no room: there is a next page.
    is_full: bool,
}

impl Page {
    /// Whether nothing more is wanted.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// How many points are wanted: one more than there is room for tells that there is a next page.
    pub(crate) fn wanted(&self) -> usize {
        PAGE_POINTS + 1 - self.points.len()
    }

    /// Takes points of a series, in the order of time, as far as there is room.
    pub(crate) fn push(&mut self, one: SeriesRef, points: impl IntoIterator<Item = Point>) {
        let mid = one.counter.mid();
        let shown = mid.to_string();
        for Point { time_s, value } in points {
            if self.points.len() == PAGE_POINTS {
                self.is_full = true;
                return;
            }
            self.last = Some(After { mid, rid: one.rid, time_s });
            self.points.push(DataPoint {
                cid: one.counter.cid.to_owned(),
                mid: shown.clone(),
                rid: one.rid.to_string(),
                ts: time_s,
                val: value,
            });
        }
    }

    fn finish(self) -> DataPointsResult {
        let scope = Scope { operation: OPERATION, asked: &self.asked };
        let token = |After { mid, rid, time_s }| scope.token(&format!("{mid}:{rid}:{time_s}"));
        let next = self.last.filter(|_| self.is_full).map(token);
        DataPointsResult { data_points: self.points, next }
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
    match &stats.remote.reader {
        None => {
            let fill = move || {
                let (asked, mut page) = ask(&here, filter)?;
                here.fill_from_store(asked, &mut page)?;
                Ok(page.finish())
            };
            tokio::task::spawn_blocking(fill).await.map_err(|_| Error::internal())?
        }
        Some(reader) => {
            let (asked, mut page) =
                tokio::task::spawn_blocking(move || ask(&here, filter)).await.map_err(|_| Error::internal())??;
            stats.fill_from_outside(reader, asked, &mut page).await?;
            Ok(page.finish())
        }
    }
}

/// Understands a question.
fn ask(stats: &Stats, filter: FilterSpec) -> Result<(Asked, Page), Error> {
    let FilterSpec { start, end, cid, metric, types, resources, order, page } = filter;
    let asked = format!("{start:?} {end:?} {cid:?} {metric:?} {types:?} {resources:?}");
    let scope = Scope { operation: OPERATION, asked: &asked };
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
    let page = Page { asked, points: Vec::new(), last: None, is_full: false };
    Ok((Asked { series, from_s, start_s, end_s }, page))
}

impl Stats {
    /// Fills a page from the embedded store.
    fn fill_from_store(&self, asked: Asked, page: &mut Page) -> Result<(), Error> {
        let mut from_s = asked.from_s;
        for one in asked.series {
            let found = self.store.read(one.key(), from_s, asked.end_s, page.wanted());
            page.push(one, found.map_err(|error| store_error(&error))?);
            if page.is_full() {
                break;
            }
            from_s = asked.start_s;
        }
        Ok(())
    }
}
