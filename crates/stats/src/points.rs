//! The way of points in: from a batch off the wire to the series store.
//!
//! # Steps
//! 1. The batch is decoded and checked as a whole; one thing wrong refuses all of it, and nothing of it is stored.
//! 2. Each run's counter and address are looked up; new addresses are committed to the journal.
//! 3. The points go to the store, which flushes them together with what others brought meanwhile.
//! 4. The index of series learns of new ones, and the answer goes out.
//!
//! # Back-pressure
//! [`BATCHES_AT_ONCE`] batches are under way at a time, and [`BATCHES_WAITING_MAX`] may wait; beyond that, and while the store has no
//! room for more, the answer is `service_unavailable`: agents keep what they have and come again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_contract::counters::{Counter, counter};
use lockstep_contract::points::{Batch as WireBatch, Series};
use lockstep_contract::services::stats::agents::{WriteInput, Written};
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::ResourceId;
use lockstep_series::{AppendError, Appended, BATCH_POINTS_MAX, Batch, Point, SeriesKey};
use lockstep_site::table::Context;
use prost::Message as _;
use tokio::sync::Semaphore;

use crate::Stats;
use crate::addresses::{Address, Rid};

/// Batches that are worked on at a time: enough that one can be decoded while another is flushed.
const BATCHES_AT_ONCE: usize = 4;

/// Batches that may wait for their turn, each with its body in memory.
const BATCHES_WAITING_MAX: usize = 64;

/// The turns of batches.
pub(crate) struct Intake {
    turns: Semaphore,
    waiting: Semaphore,
}

impl Default for Intake {
    fn default() -> Self {
        Self { turns: Semaphore::new(BATCHES_AT_ONCE), waiting: Semaphore::new(BATCHES_WAITING_MAX) }
    }
}

fn invalid(place: &str, message: impl AsRef<str>) -> Error {
    Error::invalid_argument("lockstep.stats.points", place, message.as_ref())
}

fn busy(message: &str) -> Error {
    Error::new(ErrorKind::ServiceUnavailable, "lockstep.stats.busy", message, Vec::new())
}

/// A batch that is known to make sense, with the addresses it speaks of.
struct Checked {
    addresses: Vec<Address>,
    runs: Vec<Run>,
    points: Vec<Point>,
}

struct Run {
    counter: &'static Counter,
    /// An index into `addresses`.
    address: usize,
    /// Where the run ends in `points`.
    end: usize,
}

/// Step 1.
fn check(bytes: &[u8]) -> Result<Checked, Error> {
    let batch = WireBatch::decode(bytes).map_err(|error| invalid("points", format!("no batch of points: {error}")))?;
    let count: usize = batch.series.iter().map(|series| series.values.len()).sum();
    if count > BATCH_POINTS_MAX {
        return Err(invalid("points", format!("{count} points; a batch has at most {BATCH_POINTS_MAX}")));
    }
    let mut checked = Checked {
        addresses: Vec::new(),
        runs: Vec::with_capacity(batch.series.len()),
        points: Vec::with_capacity(count),
    };
    let mut known: HashMap<Address, usize> = HashMap::new();
    let mut last: Option<(Vec<lockstep_contract::points::Identifier>, usize)> = None;
    for (i, series) in batch.series.into_iter().enumerate() {
        let counter = counter(&series.cid)
            .ok_or_else(|| invalid(&format!("points.series[{i}].cid"), format!("no counter {:?}", series.cid)))?;
        checked.push_points(&series, i)?;
        // Counters of one resource come in a row: the address is most often that of the run before.
        let address = match &last {
            Some((identifiers, index))
                if *identifiers == series.address && checked.addresses[*index].kind() == counter.kind =>
            {
                *index
            }
            _ => {
                let address = address(&series, counter, i)?;
                let index = *known.entry(address).or_insert_with_key(|address| {
                    checked.addresses.push(address.clone());
                    checked.addresses.len() - 1
                });
                last = Some((series.address, index));
                index
            }
        };
        checked.runs.push(Run { counter, address, end: checked.points.len() });
    }
    Ok(checked)
}

impl Checked {
    fn push_points(&mut self, series: &Series, index: usize) -> Result<(), Error> {
        if series.times.len() != series.values.len() {
            let message = format!("{} times and {} values", series.times.len(), series.values.len());
            return Err(invalid(&format!("points.series[{index}]"), message));
        }
        for (time_s, value) in series.times_s().zip(&series.values) {
            if !value.is_finite() {
                return Err(invalid(&format!("points.series[{index}].values"), "a value is not a finite number"));
            }
            self.points.push(Point { time_s, value: *value });
        }
        Ok(())
    }

    /// The batch for the store, given the numbers of the addresses.
    fn into_batch(self, rids: &[Rid]) -> Batch {
        let mut batch = Batch::with_capacity(self.runs.len(), self.points.len());
        let mut start = 0;
        for run in &self.runs {
            let key = SeriesKey { counter: run.counter.mid(), address: rids[run.address] };
            batch.push(key, &self.points[start..run.end]);
            start = run.end;
        }
        batch
    }
}

fn address(series: &Series, counter: &Counter, index: usize) -> Result<Address, Error> {
    let place = || format!("points.series[{index}].address");
    let types = counter.kind.address_types();
    let are_right = series.address.len() == types.len()
        && series.address.iter().zip(types).all(|(identifier, kind)| identifier.r#type == kind.name());
    if !are_right {
        let names: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
        return Err(invalid(&place(), format!("{} takes identifiers of the types {}", counter.cid, names.join(", "))));
    }
    for identifier in &series.address {
        // An identifier is the id of a resource, so what is no id is refused.
        ResourceId::new(&*identifier.r#type, &*identifier.id).check().map_err(|e| invalid(&place(), e.to_string()))?;
    }
    Ok(match &series.address[..] {
        [vm, host] => Address::Vm { vm: (&*vm.id).into(), host: (&*host.id).into() },
        [host] => Address::Host { host: (&*host.id).into() },
        // The types above are one or two.
        _ => return Err(Error::internal()),
    })
}

impl Stats {
    /// Stores a batch of points: durable when it answers. `provider` was heard by this.
    ///
    /// # Errors
    /// `invalid_argument`, naming the series, or for a provider that never registered; `service_unavailable` while too much is under way; `unable_to_allocate_resource` on a
    /// full disk.
    pub async fn write_points(self: &Arc<Self>, provider: Option<&str>, bytes: Bytes) -> Result<Written, Error> {
        if let Some(provider) = provider
            && !self.presence.heard(provider, self.now_s())
        {
            let message = format!("no provider {provider}: register first");
            return Err(Error::invalid_argument("lockstep.stats.provider_unknown", "provider", &message));
        }
        let _place = self.intake.waiting.try_acquire().map_err(|_| busy("too many batches of points at once"))?;
        let _turn = self.intake.turns.acquire().await.map_err(|_| Error::internal())?;
        let checked = tokio::task::spawn_blocking(move || check(&bytes)).await.map_err(|_| Error::internal())??;
        let rids = self.rids(&checked.addresses).await?;
        let here = self.clone();
        let stored = tokio::task::spawn_blocking(move || here.append(&checked.into_batch(&rids)));
        let appended = stored.await.map_err(|_| Error::internal())??;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Written {
            stored: number(appended.stored as u64),
            too_old: number(appended.too_old as u64),
            too_new: number(appended.too_new as u64),
        })
    }

    /// Step 2: the numbers of the addresses.
    async fn rids(&self, addresses: &[Address]) -> Result<Vec<Rid>, Error> {
        let mut found = self.addresses.find(addresses);
        if found.iter().any(Option::is_none) {
            let new = addresses.iter().zip(&found).filter(|(_, rid)| rid.is_none()).map(|(address, _)| address.clone());
            self.addresses.add(&self.site, new.collect()).await?;
            found = self.addresses.find(addresses);
        }
        found.into_iter().collect::<Option<Vec<_>>>().ok_or_else(Error::internal)
    }

    /// Steps 3 and 4.
    fn append(&self, batch: &Batch) -> Result<Appended, Error> {
        let appended = self.store.append(batch).map_err(|error| match error {
            AppendError::TooLarge { .. } => invalid("points", error.to_string()),
            AppendError::HeadFull { .. } => busy("the series store is behind; come again in a moment"),
            AppendError::Full => {
                tracing::error!("no space left for the series store");
                Error::new(ErrorKind::UnableToAllocateResource, "lockstep.stats.full", error.to_string(), Vec::new())
            }
            AppendError::Poisoned(_) => {
                tracing::error!(%error, "points cannot be stored");
                busy("the series store takes nothing; the server's log says why")
            }
        })?;
        self.index.learn(batch);
        Ok(appended)
    }
}

pub(crate) async fn write(stats: &Arc<Stats>, _: Context, input: WriteInput) -> Result<Written, Error> {
    stats.write_points(input.provider.as_deref(), input.points.0).await
}

#[cfg(test)]
mod tests {
    use lockstep_contract::points::Identifier;

    use super::*;

    fn series(cid: &str, address: &[(&str, &str)], points: &[(i64, f64)]) -> Series {
        let identifier = |(kind, id): &(&str, &str)| Identifier { r#type: (*kind).to_owned(), id: (*id).to_owned() };
        Series {
            cid: cid.to_owned(),
            address: address.iter().map(identifier).collect(),
            times: Series::deltas(points.iter().map(|(time, _)| *time)),
            values: points.iter().map(|(_, value)| *value).collect(),
        }
    }

    fn read(series: Vec<Series>) -> Result<Batch, String> {
        let checked = check(&WireBatch { series }.encode_to_vec()).map_err(|error| error.to_string())?;
        let rids: Vec<Rid> = (0..checked.addresses.len() as u64).collect();
        Ok(checked.into_batch(&rids))
    }

    const HOST: &[(&str, &str)] = &[("HOST", "h1")];
    const VM: &[(&str, &str)] = &[("VM", "v1"), ("HOST", "h1")];

    #[test]
    fn a_batch_becomes_runs_of_numbered_series() {
        let batch = read(vec![
            series("cpu.capacity.usage.HOST", HOST, &[(10, 1.0), (20, 2.0)]),
            series("cpu.capacity.usage.VM", VM, &[(10, 3.0)]),
            series("mem.capacity.usage.HOST", HOST, &[(10, 4.0)]),
        ])
        .unwrap();
        let mid = |cid: &str| counter(cid).unwrap().mid();
        let runs: Vec<_> = batch.iter().map(|(key, points)| (key.counter, key.address, points.to_vec())).collect();
        let point = |time_s, value| Point { time_s, value };
        assert_eq!(
            runs,
            [
                (mid("cpu.capacity.usage.HOST"), 0, vec![point(10, 1.0), point(20, 2.0)]),
                (mid("cpu.capacity.usage.VM"), 1, vec![point(10, 3.0)]),
                (mid("mem.capacity.usage.HOST"), 0, vec![point(10, 4.0)]),
            ]
        );
    }

    #[test]
    fn one_thing_wrong_refuses_the_batch_and_names_the_series() {
        let good = || series("cpu.capacity.usage.HOST", HOST, &[(10, 1.0)]);
        let refused = |bad: Series, part: &str| {
            let error = read(vec![good(), bad]).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refused(series("cpu.none.HOST", HOST, &[]), "points.series[1].cid: no counter");
        refused(series("cpu.capacity.usage.VM", HOST, &[]), "points.series[1].address");
        refused(series("cpu.capacity.usage.HOST", VM, &[]), "points.series[1].address");
        refused(series("cpu.capacity.usage.HOST", &[("HOST", "")], &[]), "points.series[1].address");
        refused(series("cpu.capacity.usage.VM", &[("HOST", "h"), ("VM", "v")], &[]), "types VM, HOST");
        refused(Series { times: vec![1, 2], ..good() }, "2 times and 1 values");
        for value in [f64::NAN, f64::INFINITY] {
            refused(series("cpu.capacity.usage.HOST", HOST, &[(1, value)]), "finite");
        }
        assert!(check(b"\xff\xff\xff").is_err());
        assert!(check(b"").unwrap().runs.is_empty());
    }
}
