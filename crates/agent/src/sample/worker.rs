//! Makes points at ticks.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_contract::counters::{Counter, ResourceKind};
use lockstep_contract::points::{Batch, Identifier, Series};
use lockstep_contract::services::stats::cache::AcqSpec;

use super::Sampler;
use super::host_measures::HostPair;
use super::reading::{Reading, Wanted};
use super::schedule::{Dropped, Group, Now, Schedule, Tick};
use super::vm_measures::VmPair;

/// The points of the ticks that were due at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pass {
    /// A series for each point; empty if nothing was due or nothing can be told yet.
    pub batch: Batch,
    /// The ticks.
    pub ticks: Vec<Tick>,
}

/// A sampler with a schedule, and what the ticks before have read.
pub struct Worker {
    sampler: Sampler,
    schedule: Schedule,
    /// The last reading of each interval.
    before: HashMap<i64, Arc<Reading>>,
}

impl Worker {
    /// A worker without anything to do.
    #[must_use]
    pub fn new(sampler: Sampler) -> Self {
        let schedule = Schedule::new(sampler.host_id().clone());
        Self { sampler, schedule, before: HashMap::new() }
    }

    /// The id of the host in the inventory.
    #[must_use]
    pub fn host_id(&self) -> &Arc<str> {
        self.sampler.host_id()
    }

    /// Goes by these specifications from here on. What is new is read at once, so that its first tick can tell rates.
    pub fn set<'a>(&mut self, specs: impl IntoIterator<Item = &'a AcqSpec>, now: Now) {
        self.schedule.set(specs, now);
        self.before.retain(|interval_s, _| self.schedule.group(*interval_s).is_some());
        let is_new = |(interval_s, group): &(i64, &Group)| {
            self.before.get(interval_s).is_none_or(|before| !before.wanted.covers(&group.wanted))
        };
        let new: Vec<(i64, &Group)> = self.schedule.groups().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        let mut wanted = Wanted::default();
        new.iter().for_each(|(_, group)| wanted.join(&group.wanted));
        let reading = Arc::new(self.sampler.read(&wanted));
        for (interval_s, _) in new {
            match self.before.get_mut(&interval_s) {
                Some(before) => Arc::make_mut(before).complete_by(&reading),
                None => {
                    self.before.insert(interval_s, reading.clone());
                }
            }
        }
    }

    /// The time of the next tick, in seconds since 1970.
    #[must_use]
    pub fn next_s(&self) -> Option<i64> {
        self.schedule.next_s()
    }

    /// The ticks that were not done.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.schedule.dropped()
    }

    /// The ids of the counters that this machine can tell.
    pub fn offered(&mut self) -> Vec<&'static str> {
        self.sampler.offered()
    }

    /// Does what is due.
    pub fn pass(&mut self, now: Now) -> Pass {
        let ticks = self.schedule.due(now);
        let due: Vec<(Tick, &Group)> =
            ticks.iter().filter_map(|tick| Some((*tick, self.schedule.group(tick.interval_s)?))).collect();
        let mut wanted = Wanted::default();
        match due.as_slice() {
            [] => return Pass::default(),
            [(_, group)] => wanted.clone_from(&group.wanted),
            _ => due.iter().for_each(|(_, group)| wanted.join(&group.wanted)),
        }
        let reading = Arc::new(self.sampler.read(&wanted));
        let host_id = self.sampler.host_id();
        let mut batch = Batch::default();
        for (tick, group) in due {
            let before = self.before.insert(tick.interval_s, reading.clone());
            add_points(&mut batch, tick.time_s, group, host_id, &reading, before.as_deref());
        }
        Pass { batch, ticks }
    }
}

fn add_points(batch: &mut Batch, time_s: i64, group: &Group, host_id: &str, now: &Reading, before: Option<&Reading>) {
    let mut add = |counter: Option<&Counter>, value: Option<f64>, address: &dyn Fn() -> Vec<Identifier>| {
        let (Some(counter), Some(value)) = (counter, value.filter(|value| value.is_finite())) else { return };
        batch.series.push(Series {
            cid: counter.cid.to_owned(),
            address: address(),
            times: Series::deltas([time_s]),
            values: vec![counter.round(value)],
        });
    };
    let identifier = |kind: ResourceKind, id: &str| Identifier { r#type: kind.name().to_owned(), id: id.to_owned() };
    let host_pair = HostPair { now: &now.host, before: before.map(|before| &before.host) };
    for measure in &group.host {
        add(measure.counter(), (measure.value)(&host_pair), &|| vec![identifier(ResourceKind::Host, host_id)]);
    }
    for (id, vm) in &now.vms {
        let measures = group.of_vm(id);
        if measures.is_empty() {
            continue;
        }
        let vm_before = before.and_then(|before| before.vms.get(id));
        let pair = VmPair::new((vm, vm_before), (&now.host, before.map(|before| &before.host)));
        for measure in measures {
            add(measure.counter(), (measure.value)(&pair), &|| {
                vec![identifier(ResourceKind::Vm, id), identifier(ResourceKind::Host, host_id)]
            });
        }
    }
}
