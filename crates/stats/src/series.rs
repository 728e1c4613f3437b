//! Which series there are, and the operations on whole series.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lockstep_contract::Error;
use lockstep_contract::counters::{COUNTERS, Counter};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::stats::series::{FilterSpec, QueryInput, Resolution, Series, SeriesResult, StoreInfo};
use lockstep_series::{Batch, Point, SeriesKey, Store, Tier};
use lockstep_site::table::Context;
use parking_lot::RwLock;

use crate::Stats;
use crate::addresses::Rid;
use crate::data::store_error;
use crate::filter::{AddressFilter, selects_nothing};

/// Most points of one answer: with their times some 20 MiB of JSON.
const ANSWER_POINTS_MAX: usize = 1_000_000;

/// A series, by its counter and its address.
#[derive(Clone, Copy)]
pub(crate) struct SeriesRef {
    pub(crate) counter: &'static Counter,
    pub(crate) rid: Rid,
}

impl SeriesRef {
    pub(crate) fn key(self) -> SeriesKey {
        SeriesKey { counter: self.counter.mid(), address: self.rid }
    }
}

/// The series that have points, by counter in the order of ids.
pub(crate) struct SeriesIndex {
    /// Held for look-ups and insertions.
    by_cid: RwLock<BTreeMap<&'static str, BTreeSet<Rid>>>,
    by_mid: HashMap<i64, &'static Counter>,
}

impl SeriesIndex {
    /// What the store holds.
    pub(crate) fn read(store: &Store) -> Self {
        let by_mid: HashMap<_, _> = COUNTERS.iter().map(|counter| (counter.mid(), counter)).collect();
        let index = Self { by_cid: RwLock::default(), by_mid };
        let keys: Vec<SeriesKey> = store.series().into_iter().map(|(key, _)| key).collect();
        index.insert(&keys);
        index
    }

    /// Learns of the series of a batch that was stored.
    pub(crate) fn learn(&self, batch: &Batch) {
        let new: Vec<SeriesKey> = {
            let by_cid = self.by_cid.read();
            let is_new = |key: &SeriesKey| {
                let rids = self.by_mid.get(&key.counter).and_then(|counter| by_cid.get(counter.cid));
                rids.is_none_or(|rids| !rids.contains(&key.address))
            };
            batch.iter().map(|(key, _)| key).filter(is_new).collect()
        };
        if !new.is_empty() {
            self.insert(&new);
        }
    }

    fn insert(&self, keys: &[SeriesKey]) {
        let mut by_cid = self.by_cid.write();
        for key in keys {
            // A counter that this version does not know keeps its points, unseen.
            if let Some(counter) = self.by_mid.get(&key.counter) {
                by_cid.entry(counter.cid).or_default().insert(key.address);
            }
        }
    }

    /// The series of these counters and addresses, by counter and address; `rids` of `None` means all.
    pub(crate) fn select(&self, is_wanted: impl Fn(&Counter) -> bool, rids: Option<&BTreeSet<Rid>>) -> Vec<SeriesRef> {
        let by_cid = self.by_cid.read();
        let mut out = Vec::new();
        for (cid, known) in by_cid.iter() {
            let Some(counter) = lockstep_contract::counters::counter(cid).filter(|counter| is_wanted(counter)) else {
                continue;
            };
            let mut push = |rid: &Rid| out.push(SeriesRef { counter, rid: *rid });
            match rids {
                None => known.iter().for_each(&mut push),
                // The smaller set is walked.
                Some(wanted) if wanted.len() < known.len() => {
                    wanted.iter().filter(|r| known.contains(r)).for_each(&mut push)
                }
                Some(wanted) => known.iter().filter(|r| wanted.contains(r)).for_each(&mut push),
            }
        }
        out
    }
}

impl Stats {
    /// The numbers of the addresses that a filter takes; `None` for all.
    ///
    /// # Errors
    /// `invalid_argument` when it takes none.
    pub(crate) fn wanted_rids(&self, filter: &AddressFilter, place: &str) -> Result<Option<BTreeSet<Rid>>, Error> {
        if filter.takes_all() {
            return Ok(None);
        }
        let rids: BTreeSet<Rid> = self.addresses.select(filter).into_iter().collect();
        if rids.is_empty() { Err(selects_nothing(place)) } else { Ok(Some(rids)) }
    }
}

/// Columns of one series.
#[derive(Default)]
struct Columns {
    times: Vec<i64>,
    values: Vec<f64>,
    extremes: Option<(Vec<f64>, Vec<f64>)>,
}

pub(crate) async fn query(stats: &Arc<Stats>, _: Context, input: QueryInput) -> Result<SeriesResult, Error> {
    let here = stats.clone();
    tokio::task::spawn_blocking(move || answer(&here, input.filter)).await.map_err(|_| Error::internal())?
}

fn answer(stats: &Stats, filter: FilterSpec) -> Result<SeriesResult, Error> {
    let invalid = |place: &str, message: &str| Error::invalid_argument("lockstep.stats.series", place, message);
    let wanted = AddressFilter::read(filter.types, filter.resources, "filter.resources")?;
    let rids = stats.wanted_rids(&wanted, "filter.resources")?;
    let (start_s, end_s) = (filter.start.unwrap_or(i64::MIN), filter.end.unwrap_or(i64::MAX));
    if start_s > end_s {
        return Err(invalid("filter.end", "it is before start"));
    }
    let cids = filter.cids.filter(|cids| !cids.is_empty());
    let is_wanted = |counter: &Counter| {
        cids.as_ref().is_none_or(|cids| cids.iter().any(|cid| cid == counter.cid))
            && filter.metric.as_ref().is_none_or(|metric| metric == counter.metric)
    };
    let selected = stats.index.select(is_wanted, rids.as_ref());
    let is_latest = filter.latest.unwrap_or(false);
    let resolution =
        if is_latest { Resolution::Raw } else { filter.resolution.unwrap_or_else(|| stats.finest(filter.start)) };
    let mut left = ANSWER_POINTS_MAX;
    let mut series = Vec::with_capacity(selected.len());
    for one in selected {
        let columns = if is_latest {
            let latest = stats
                .store
                .latest(one.key())
                .map_err(|error| store_error(&error))?
                .filter(|point| (start_s..end_s).contains(&point.time_s));
            from_points(latest.into_iter().collect())
        } else {
            stats.columns(one.key(), resolution, start_s, end_s, left + 1)?
        };
        left = left.checked_sub(columns.times.len()).ok_or_else(|| {
            let message = format!(
                "more than {ANSWER_POINTS_MAX} points: ask for a shorter time, fewer series or a coarser resolution"
            );
            invalid("filter", &message)
        })?;
        if columns.times.is_empty() {
            continue;
        }
        let (minima, maxima) = columns.extremes.unzip();
        series.push(Series {
            cid: one.counter.cid.to_owned(),
            mid: one.counter.mid().to_string(),
            rid: one.rid.to_string(),
            resources: stats.addresses.get(one.rid).map(|address| address.show()).unwrap_or_default(),
            times: columns.times,
            values: columns.values,
            minima,
            maxima,
        });
    }
    Ok(SeriesResult { resolution, series })
}

fn from_points(points: Vec<Point>) -> Columns {
    let (times, values) = points.into_iter().map(|point| (point.time_s, point.value)).unzip();
    Columns { times, values, extremes: None }
}

impl Stats {
    /// The finest resolution that reaches back to `start`.
    fn finest(&self, start: Option<i64>) -> Resolution {
        let Some(start_s) = start else { return Resolution::Raw };
        let age_s = self.now_s().saturating_sub(start_s);
        let config = &self.config.store;
        if age_s <= config.raw_retention_s {
            Resolution::Raw
        } else if age_s <= config.five_minutes_retention_s {
            Resolution::FiveMinutes
        } else {
            Resolution::Hour
        }
    }

    fn columns(
        &self,
        key: SeriesKey,
        resolution: Resolution,
        start_s: i64,
        end_s: i64,
        limit: usize,
    ) -> Result<Columns, Error> {
        let tier = match resolution {
            Resolution::Raw => {
                let points = self.store.read(key, start_s, end_s, limit).map_err(|error| store_error(&error))?;
                return Ok(from_points(points));
            }
            Resolution::FiveMinutes => Tier::FiveMinutes,
            Resolution::Hour => Tier::Hour,
        };
        let rollups = self.store.read_tier(key, tier, start_s, end_s, limit).map_err(|error| store_error(&error))?;
        Ok(Columns {
            times: rollups.iter().map(|rollup| rollup.time_s).collect(),
            values: rollups.iter().map(|rollup| rollup.sum / rollup.count as f64).collect(),
            extremes: Some(rollups.iter().map(|rollup| (rollup.min, rollup.max)).unzip()),
        })
    }
}

pub(crate) async fn store_info(stats: &Arc<Stats>, _: Context, _: NoInput) -> Result<StoreInfo, Error> {
    let figures = stats.store.stats();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Ok(StoreInfo {
        series: number(figures.series as u64),
        points: number(figures.raw_points + figures.head_points as u64),
        raw_bytes: number(figures.raw_bytes),
        tier_bytes: number(figures.five_minutes_bytes + figures.hour_bytes),
        log_bytes: number(figures.log_bytes),
        memory_bytes: number(figures.memory_bytes as u64),
        stored: number(figures.points_stored),
        refused: number(figures.points_too_old + figures.points_too_new),
        waiting: stats.config.store.keep_for_forwarding.then(|| number(stats.store.forward_lag().points)),
    })
}
