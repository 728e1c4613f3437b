//! Which counters of which resources are due when.
//!
//! # Rules
//! - Only ENABLED specifications count, and each until its expiration, whatever the server could tell meanwhile.
//! - A specification names one pattern of addresses. It matches a resource if each of its identifiers does, `ALL` any of the
//!   type, and if one of them is of the resource's own type. `ALL` is evaluated at each tick, for the VMs that run then.
//! - A series that several specifications ask for is sampled at the smallest of their intervals, once.
//! - Ticks are at the whole multiples of an interval since 1970, so that the times of a series, of all series of an interval and of
//!   all hosts agree.
//!
//! # When time does not go evenly
//! ```text
//! late, by less than the interval    the tick is done, with the time at which it was due
//! late, by more                      it is dropped; the latest that was due is done
//! the clock jumps ahead              the ticks that were jumped over are dropped
//! the clock jumps back               times that were given are passed over when they come again
//! ```
//! So points are never bunched up, and no series gets a time twice. Times that were jumped over ahead were not given: a clock
//! that was wrong for a while and is set right does not stop sampling until it comes where it was.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::counters::{Counter, CounterSet, ResourceKind, counter};
use lockstep_contract::services::stats::acq_specs::Status;
use lockstep_contract::services::stats::cache::AcqSpec;
use lockstep_contract::services::stats::{Predicate, RsrcId, SCHEME};

use super::host_measures::{HOST_MEASURES, HostMeasure};
use super::needs::Needs;
use super::reading::Wanted;
use super::vm_measures::{VM_MEASURES, VmMeasure};

/// A clock that runs otherwise than time passes by more than this has been set.
const JUMP: Duration = Duration::from_secs(1);

/// How many spans of given times are remembered. Each jump of the clock begins one; a clock that jumps more often has no times
/// worth keeping apart.
const SPANS_MAX: usize = 16;

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, by the clock that can be set.
    pub wall_ms: i64,
    /// By the clock that cannot.
    pub monotonic: Duration,
}

impl Now {
    /// Whole seconds since 1970.
    #[must_use]
    pub fn wall_s(self) -> i64 {
        self.wall_ms.div_euclid(1000)
    }
}

/// All counters of an interval are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The interval in seconds.
    pub interval_s: i64,
    /// The time of its points, in seconds since 1970.
    pub time_s: i64,
}

/// How many ticks were not done, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The machine was too busy, or stopped.
    pub late_ticks: u64,
    /// The clock was set.
    pub clock_ticks: u64,
}

/// What is sampled at an interval.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) host: Vec<&'static HostMeasure>,
    /// Of VMs that are not named.
    pub(crate) every_vm: Vec<&'static VmMeasure>,
    /// Of VMs that are: all that is sampled of them.
    pub(crate) vms: BTreeMap<Arc<str>, Vec<&'static VmMeasure>>,
    pub(crate) wanted: Wanted,
    next_s: i64,
}

impl Group {
    pub(crate) fn of_vm(&self, id: &str) -> &[&'static VmMeasure] {
        self.vms.get(id).unwrap_or(&self.every_vm)
    }
}

/// What is due when, by the specifications.
pub struct Schedule {
    host_id: Arc<str>,
    rules: Vec<Rule>,
    groups: BTreeMap<i64, Group>,
    /// When the next rule ends.
    expiration_s: i64,
    /// Spans of the times that were given to points, first and last, one for each time that the clock went evenly.
    given_s: VecDeque<(i64, i64)>,
    last: Option<Now>,
    dropped: Dropped,
}

/// A specification that this host may have to do with.
struct Rule {
    /// Indexes in the tables of measures.
    host: Vec<usize>,
    vm: Vec<usize>,
    /// The VM, unless all are meant.
    vm_id: Option<Arc<str>>,
    interval_s: i64,
    expiration_s: i64,
}

impl Schedule {
    /// A schedule of a host without anything to do.
    #[must_use]
    pub fn new(host_id: Arc<str>) -> Self {
        Self {
            host_id,
            rules: Vec::new(),
            groups: BTreeMap::new(),
            expiration_s: i64::MAX,
            given_s: VecDeque::new(),
            last: None,
            dropped: Dropped::default(),
        }
    }

    /// Goes by these specifications from here on.
    pub fn set<'a>(&mut self, specs: impl IntoIterator<Item = &'a AcqSpec>, now: Now) {
        self.rules = specs.into_iter().filter_map(|spec| Rule::new(spec, &self.host_id)).collect();
        self.plan(now.wall_s());
    }

    /// The time of the next tick, in seconds since 1970.
    #[must_use]
    pub fn next_s(&self) -> Option<i64> {
        self.groups.values().map(|group| group.next_s).min()
    }

    /// What is due, each interval at most once.
    pub fn due(&mut self, now: Now) -> Vec<Tick> {
        let now_s = now.wall_s();
        if self.has_jumped(now) {
            self.skip_jump(now_s);
        }
        if now_s >= self.expiration_s {
            self.plan(now_s);
        }
        let mut ticks = Vec::new();
        for (&interval_s, group) in &mut self.groups {
            if group.next_s > now_s {
                continue;
            }
            let time_s = now_s - now_s.rem_euclid(interval_s);
            self.dropped.late_ticks += u64::try_from((time_s - group.next_s) / interval_s).unwrap_or(0);
            group.next_s = time_s.saturating_add(interval_s);
            if is_given(&self.given_s, time_s).is_some() {
                self.dropped.clock_ticks += 1;
            } else {
                ticks.push(Tick { interval_s, time_s });
            }
        }
        self.give(&ticks);
        ticks
    }

    /// Notes the times of ticks as given.
    fn give(&mut self, ticks: &[Tick]) {
        let times = || ticks.iter().map(|tick| tick.time_s);
        let (Some(first_s), Some(last_s)) = (times().min(), times().max()) else { return };
        match self.given_s.back_mut().filter(|(_, end_s)| *end_s != NOTHING_YET) {
            Some((_, end_s)) => *end_s = last_s.max(*end_s),
            None => {
                self.given_s.pop_back();
                self.given_s.push_back((first_s, last_s));
            }
        }
    }

    /// The ticks that were not done.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = (i64, &Group)> {
        self.groups.iter().map(|(interval_s, group)| (*interval_s, group))
    }

    pub(crate) fn group(&self, interval_s: i64) -> Option<&Group> {
        self.groups.get(&interval_s)
    }

    /// Whether the clock has been set since the last call.
    fn has_jumped(&mut self, now: Now) -> bool {
        let Some(last) = self.last.replace(now) else { return false };
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let passed = now.monotonic.saturating_sub(last.monotonic);
        now.wall_ms.abs_diff(last.wall_ms.saturating_add(ms(passed))) > ms(JUMP).unsigned_abs()
    }

    /// Goes on from a time that the clock was set to.
    fn skip_jump(&mut self, now_s: i64) {
        if self.given_s.back().is_some_and(|(_, end_s)| *end_s != NOTHING_YET) {
            self.given_s.push_back((NOTHING_YET, NOTHING_YET));
        }
        if self.given_s.len() > SPANS_MAX {
            self.given_s.pop_front();
        }
        for (&interval_s, group) in &mut self.groups {
            // Ahead, the last multiple is due at once: the ticks before it are dropped. Back, what was given is passed over.
            let natural_s = now_s - now_s.rem_euclid(interval_s);
            let natural_s = if group.next_s <= natural_s { natural_s } else { after(now_s, interval_s) };
            let next_s = first_not_given(&self.given_s, natural_s, interval_s);
            let ahead = u64::try_from((natural_s - group.next_s) / interval_s).unwrap_or(0);
            let again = u64::try_from((next_s - natural_s) / interval_s).unwrap_or(0);
            self.dropped.clock_ticks += ahead + again;
            group.next_s = next_s;
        }
    }

    /// Makes the groups of the rules that hold.
    fn plan(&mut self, now_s: i64) {
        let mut host = HashMap::new();
        let mut every_vm = HashMap::new();
        let mut vms: BTreeMap<Arc<str>, HashMap<usize, i64>> = BTreeMap::new();
        self.rules.retain(|rule| rule.expiration_s > now_s);
        self.expiration_s = self.rules.iter().map(|rule| rule.expiration_s).min().unwrap_or(i64::MAX);
        for rule in &self.rules {
            let at_smallest = |intervals: &mut HashMap<usize, i64>, measures: &[usize]| {
                for measure in measures {
                    let interval_s = intervals.entry(*measure).or_insert(rule.interval_s);
                    *interval_s = rule.interval_s.min(*interval_s);
                }
            };
            at_smallest(&mut host, &rule.host);
            match &rule.vm_id {
                None => at_smallest(&mut every_vm, &rule.vm),
                Some(id) => at_smallest(vms.entry(id.clone()).or_default(), &rule.vm),
            }
        }
        let mut groups: BTreeMap<i64, Group> = BTreeMap::new();
        for (measure, interval_s) in host {
            groups.entry(interval_s).or_default().host.extend(HOST_MEASURES.get(measure));
        }
        for (measure, interval_s) in &every_vm {
            groups.entry(*interval_s).or_default().every_vm.extend(VM_MEASURES.get(*measure));
        }
        for (id, mut own) in vms {
            for (measure, interval_s) in &every_vm {
                let smallest = own.entry(*measure).or_insert(*interval_s);
                *smallest = (*smallest).min(*interval_s);
            }
            for (measure, interval_s) in own {
                let group = groups.entry(interval_s).or_default();
                group.vms.entry(id.clone()).or_default().extend(VM_MEASURES.get(measure));
            }
            // Where it has no counters, it must not get those of the unnamed.
            for group in groups.values_mut() {
                group.vms.entry(id.clone()).or_default();
            }
        }
        for (interval_s, group) in &mut groups {
            group.settle();
            let first_s = first_not_given(&self.given_s, after(now_s, *interval_s), *interval_s);
            group.next_s = self.groups.get(interval_s).map_or(first_s, |before| before.next_s);
        }
        self.groups = groups;
    }
}

impl Group {
    /// Puts the counters in the order of the catalogue and sums up what they need.
    fn settle(&mut self) {
        let of_vm = |measures: &mut Vec<&'static VmMeasure>| {
            measures.sort_unstable_by_key(|measure| std::ptr::from_ref(*measure));
            measures.iter().fold(Needs::NONE, |all, measure| all | measure.reads())
        };
        self.host.sort_unstable_by_key(|measure| std::ptr::from_ref(*measure));
        self.wanted = Wanted {
            host: self.host.iter().fold(Needs::NONE, |all, measure| all | measure.reads()),
            every_vm: of_vm(&mut self.every_vm),
            vms: self.vms.iter_mut().map(|(id, measures)| (id.clone(), of_vm(measures))).collect(),
        };
    }
}

/// The end of a span in which no time has been given yet.
const NOTHING_YET: i64 = i64::MIN;

/// The end of the span of given times that a time is in.
fn is_given(given_s: &VecDeque<(i64, i64)>, time_s: i64) -> Option<i64> {
    given_s.iter().find(|(first_s, last_s)| (*first_s..=*last_s).contains(&time_s)).map(|(_, last_s)| *last_s)
}

/// The first multiple of the interval, from one on, that was not given.
fn first_not_given(given_s: &VecDeque<(i64, i64)>, mut time_s: i64, interval_s: i64) -> i64 {
    while let Some(last_s) = is_given(given_s, time_s) {
        time_s = after(last_s, interval_s);
    }
    time_s
}

/// The first multiple of the interval after a time.
fn after(time_s: i64, interval_s: i64) -> i64 {
    time_s.saturating_sub(time_s.rem_euclid(interval_s)).saturating_add(interval_s)
}

impl Rule {
    /// None for one that this host has nothing to do with.
    fn new(spec: &AcqSpec, host_id: &str) -> Option<Self> {
        if spec.status != Status::Enabled || spec.interval < 1 {
            return None;
        }
        let mut vm_id = None;
        let mut kinds = Vec::new();
        for identifier in &spec.resources {
            let kind = ResourceKind::from_name(identifier.resource_type.as_deref()?)?;
            match (kind, wanted_id(identifier)?) {
                (ResourceKind::Host, Some(id)) if id != host_id => return None,
                (ResourceKind::Vm, Some(id)) if vm_id.is_some_and(|other| other != id) => return None,
                (ResourceKind::Vm, Some(id)) => vm_id = Some(id),
                (ResourceKind::Host, _) | (ResourceKind::Vm, None) => {}
            }
            kinds.push(kind);
        }
        // The resource's own type must be there, and no type that its addresses do not have.
        let fits = |counter: &Counter| {
            kinds.contains(&counter.kind) && kinds.iter().all(|kind| counter.kind.address_types().contains(kind))
        };
        let (mut host, mut vm) = (Vec::new(), Vec::new());
        for counter in counters_of(spec).into_iter().filter(|counter| fits(counter)) {
            match counter.kind {
                ResourceKind::Host => host.extend(HOST_MEASURES.iter().position(|m| m.cid == counter.cid)),
                ResourceKind::Vm => vm.extend(VM_MEASURES.iter().position(|m| m.cid == counter.cid)),
            }
        }
        let is_idle = host.is_empty() && vm.is_empty();
        (!is_idle).then_some(Self {
            host,
            vm,
            vm_id: vm_id.map(Arc::from),
            interval_s: spec.interval,
            expiration_s: spec.expiration,
        })
    }
}

/// The id that an identifier asks for, the inner none being `ALL`. None for a scheme that is not the inventory's.
fn wanted_id(identifier: &RsrcId) -> Option<Option<&str>> {
    match identifier.predicate {
        Some(Predicate::All) => Some(None),
        Some(Predicate::Equal) | None => {
            let scheme = identifier.scheme.as_deref().unwrap_or_default();
            matches!(scheme, "" | SCHEME).then_some(Some(identifier.id_value.as_str()))
        }
    }
}

/// The counters that a specification asks for, of the catalogue's edition.
fn counters_of(spec: &AcqSpec) -> Vec<&'static Counter> {
    let set = spec.counters.set_id.as_deref().filter(|id| !id.is_empty());
    if let Some(set) = set {
        return CounterSet::find(set).map(|set| set.counters().collect()).unwrap_or_default();
    }
    let Some(named) = &spec.counters.cid_mid else { return Vec::new() };
    let mid = named.mid.as_deref().filter(|mid| !mid.is_empty());
    let is_edition = |counter: &&Counter| mid.is_none_or(|mid| mid == counter.mid().to_string());
    counter(&named.cid).filter(is_edition).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use lockstep_contract::services::stats::CidMid;
    use lockstep_contract::services::stats::acq_specs::CounterSpec;

    use super::*;

    const HOST: &str = "host-1";

    /// `what` is a counter or, without a type behind the last dot but of two words, a set; resources are `TYPE=ID` or `TYPE`.
    fn spec(what: &str, interval: i64, resources: &str) -> AcqSpec {
        let is_set = CounterSet::find(what).is_some();
        AcqSpec {
            endpoints: Vec::new(),
            counters: CounterSpec {
                cid_mid: (!is_set).then(|| CidMid { cid: what.to_owned(), mid: Some(String::new()) }),
                set_id: Some(if is_set { what.to_owned() } else { String::new() }),
            },
            resources: resources
                .split_ascii_whitespace()
                .map(|identifier| {
                    let (kind, id) = identifier.split_once('=').unwrap_or((identifier, ""));
                    RsrcId {
                        key: None,
                        resource_type: Some(kind.to_owned()),
                        id_value: id.to_owned(),
                        predicate: Some(if id.is_empty() { Predicate::All } else { Predicate::Equal }),
                        scheme: Some("moid".to_owned()),
                    }
                })
                .collect(),
            interval,
            expiration: i64::MAX,
            memo_: String::new(),
            id: "1".to_owned(),
            status_reason: String::new(),
            status: Status::Enabled,
        }
    }

    fn at(wall_ms: i64, monotonic_ms: u64) -> Now {
        Now { wall_ms, monotonic: Duration::from_millis(monotonic_ms) }
    }

    fn schedule(specs: &[AcqSpec]) -> Schedule {
        let mut schedule = Schedule::new(HOST.into());
        schedule.set(specs, at(1_000_500, 500));
        schedule
    }

    /// What is sampled: `interval: counters of the host | of every VM | id: of a named VM`.
    fn check_plan(specs: &[AcqSpec], expected: &[&str]) {
        let schedule = schedule(specs);
        let of_vm = |measures: &[&VmMeasure]| measures.iter().map(|m| m.cid).collect::<Vec<_>>().join(" ");
        let found: Vec<String> = schedule
            .groups()
            .map(|(interval_s, group)| {
                let host = group.host.iter().map(|m| m.cid).collect::<Vec<_>>().join(" ");
                let mut line = format!("{interval_s}: {host} | {}", of_vm(&group.every_vm));
                for (id, measures) in &group.vms {
                    line += &format!(" | {id}: {}", of_vm(measures));
                }
                line
            })
            .collect();
        assert_eq!(found, expected, "{specs:?}");
    }

    const CPU: &str = "cpu.capacity.usage.HOST";
    const LOAD: &str = "cpu.load.minute.HOST";
    const VM_CPU: &str = "cpu.capacity.usage.VM";
    const VM_NET: &str = "net.throughput.usage.VM";

    #[test]
    fn identifiers_match_the_addresses_of_this_host() {
        let cpu = "10: cpu.capacity.usage.HOST | ";
        let vm_cpu = "10:  | cpu.capacity.usage.VM";
        let named = "10:  |  | vm-7: cpu.capacity.usage.VM";
        for (what, resources, expected) in [
            (CPU, "HOST=host-1", cpu),
            (CPU, "HOST", cpu),
            (CPU, "HOST HOST=host-1", cpu),
            (CPU, "HOST=host-2", ""),
            (CPU, "HOST=host-1 HOST=host-2", ""),
            (CPU, "VM", ""),
            (CPU, "VM HOST=host-1", ""),
            (CPU, "VCPU=1", ""),
            (CPU, "", ""),
            (VM_CPU, "VM", vm_cpu),
            (VM_CPU, "VM HOST=host-1", vm_cpu),
            (VM_CPU, "HOST VM", vm_cpu),
            (VM_CPU, "VM HOST=host-2", ""),
            (VM_CPU, "HOST=host-1", ""),
            (VM_CPU, "VM=vm-7", named),
            (VM_CPU, "VM VM=vm-7", named),
            (VM_CPU, "VM=vm-8 VM=vm-7", ""),
            (VM_CPU, "VM=vm-7 HOST=host-2", ""),
            ("no.such.counter.HOST", "HOST", ""),
            ("", "HOST", ""),
        ] {
            let expected: Vec<&str> = Some(expected).filter(|text| !text.is_empty()).into_iter().collect();
            check_plan(&[spec(what, 10, resources)], &expected);
        }
    }

    #[test]
    fn a_set_means_each_of_its_counters() {
        let schedule = schedule(&[spec("mem.HOST", 10, "HOST"), spec("disk.VM", 20, "VM")]);
        let counts: Vec<_> = schedule.groups().map(|(i, group)| (i, group.host.len(), group.every_vm.len())).collect();
        let in_set = |id| CounterSet::find(id).map_or(0, |set| set.counters().count());
        assert_eq!(counts, [(10, in_set("mem.HOST"), 0), (20, 0, in_set("disk.VM"))]);
    }

    #[test]
    fn only_enabled_specifications_of_the_inventorys_ids_and_the_catalogues_edition_count() {
        check_plan(&[AcqSpec { status: Status::Disabled, ..spec(CPU, 10, "HOST") }], &[]);
        check_plan(&[AcqSpec { status: Status::Expired, ..spec(CPU, 10, "HOST") }], &[]);
        check_plan(&[AcqSpec { interval: 0, ..spec(CPU, 10, "HOST") }], &[]);
        check_plan(&[AcqSpec { expiration: 1000, ..spec(CPU, 10, "HOST") }], &[]);
        let mut by_uuid = spec(CPU, 10, "HOST=host-1");
        by_uuid.resources[0].scheme = Some("uuid".to_owned());
        check_plan(&[by_uuid], &[]);
        let of_edition = |mid: String| {
            let mut of_edition = spec(CPU, 10, "HOST");
            of_edition.counters.cid_mid = Some(CidMid { cid: CPU.to_owned(), mid: Some(mid) });
            of_edition
        };
        check_plan(&[of_edition("1".to_owned())], &[]);
        let mid = counter(CPU).map(|counter| counter.mid().to_string()).unwrap_or_default();
        check_plan(&[of_edition(mid)], &["10: cpu.capacity.usage.HOST | "]);
    }

    #[test]
    fn a_series_is_sampled_at_the_smallest_interval_that_is_asked_for() {
        check_plan(
            &[spec(CPU, 10, "HOST"), spec(CPU, 60, "HOST"), spec(CPU, 5, "HOST=host-2"), spec(LOAD, 60, "HOST")],
            &["10: cpu.capacity.usage.HOST | ", "60: cpu.load.minute.HOST | "],
        );
        check_plan(
            &[spec(VM_CPU, 10, "VM"), spec(VM_CPU, 5, "VM=a"), spec(VM_CPU, 20, "VM=b"), spec(VM_NET, 10, "VM=b")],
            &[
                "5:  |  | a: cpu.capacity.usage.VM | b: ",
                "10:  | cpu.capacity.usage.VM | a:  | b: cpu.capacity.usage.VM net.throughput.usage.VM",
            ],
        );
    }

    /// Moves the clock to each moment in turn, `wall/monotonic` in milliseconds, and lists the ticks, `interval@time`.
    fn check_ticks(intervals: &[i64], moments: &[(i64, u64)], expected: &[&str], dropped: (u64, u64)) {
        let counters = [CPU, LOAD, "cpu.load.quarter.HOST"];
        let specs: Vec<AcqSpec> = intervals.iter().zip(counters).map(|(i, cid)| spec(cid, *i, "HOST")).collect();
        let mut schedule = Schedule::new(HOST.into());
        schedule.set(&specs, at(moments[0].0, moments[0].1));
        let mut found = Vec::new();
        for (wall_ms, monotonic_ms) in moments {
            let ticks = schedule.due(at(*wall_ms, *monotonic_ms));
            found.push(ticks.iter().map(|t| format!("{}@{}", t.interval_s, t.time_s)).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(found, expected, "{moments:?}");
        assert_eq!((schedule.dropped.late_ticks, schedule.dropped.clock_ticks), dropped, "{moments:?}");
    }

    #[test]
    fn ticks_are_at_whole_multiples_of_the_interval() {
        check_ticks(
            &[10],
            &[(1_003_200, 0), (1_009_999, 6_799), (1_010_000, 6_800), (1_010_900, 7_700), (1_020_001, 16_801)],
            &["", "", "10@1010", "", "10@1020"],
            (0, 0),
        );
        check_ticks(
            &[2, 3],
            &[
                (1_000_000, 0),
                (1_001_000, 1_000),
                (1_002_000, 2_000),
                (1_003_000, 3_000),
                (1_004_000, 4_000),
                (1_005_000, 5_000),
                (1_006_000, 6_000),
            ],
            &["", "", "2@1002 3@1002", "", "2@1004", "3@1005", "2@1006"],
            (0, 0),
        );
    }

    #[test]
    fn a_late_tick_keeps_its_time_and_later_ones_are_not_bunched_up() {
        // Ten seconds of a stopped machine: of interval 1 nine are dropped, of interval 5 one, the latest are done.
        check_ticks(
            &[1, 5],
            &[(1_000_000, 0), (1_001_000, 1_000), (1_011_700, 11_700), (1_012_000, 12_000)],
            &["", "1@1001", "1@1011 5@1010", "1@1012"],
            (9 + 1, 0),
        );
        check_ticks(
            &[10],
            &[(1_005_000, 0), (1_019_900, 14_900), (1_020_000, 15_000)],
            &["", "10@1010", "10@1020"],
            (0, 0),
        );
    }

    #[test]
    fn a_clock_that_is_set_ahead_skips_ticks() {
        check_ticks(
            &[10],
            &[(1_005_000, 0), (1_105_000, 1_000), (1_110_000, 6_000)],
            &["", "10@1100", "10@1110"],
            (0, 9),
        );
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_time_twice() {
        check_ticks(
            &[10],
            &[
                (995_000, 0),
                (1_000_000, 5_000),
                (1_010_000, 15_000),
                (985_000, 16_000),
                (990_000, 21_000),
                (1_000_000, 31_000),
                (1_010_500, 41_500),
                (1_020_000, 51_000),
            ],
            &["", "10@1000", "10@1010", "", "10@990", "", "", "10@1020"],
            (0, 2),
        );
        // Into the midst of what was given, and by way of another interval.
        let mut schedule = schedule(&[spec(CPU, 10, "HOST")]);
        for wall_s in [1010, 1020, 1030] {
            assert_eq!(schedule.due(at(wall_s * 1000, wall_s.unsigned_abs() * 1000)).len(), 1);
        }
        assert_eq!(schedule.due(at(1_015_000, 1_031_000)), []);
        assert_eq!(schedule.next_s(), Some(1040));
        schedule.set(&[spec(CPU, 3, "HOST")], at(1_015_000, 1_031_000));
        assert_eq!(schedule.next_s(), Some(1032));
    }

    #[test]
    fn a_clock_that_was_far_ahead_and_is_set_right_does_not_stop_sampling() {
        check_ticks(
            &[10],
            &[
                (1_005_000, 0),
                (1_010_000, 5_000),
                (9_000_000, 6_000),
                (9_010_000, 16_000),
                (1_022_000, 17_000),
                (1_030_000, 25_000),
                (1_040_000, 35_000),
            ],
            &["", "10@1010", "10@9000", "10@9010", "", "10@1030", "10@1040"],
            (0, (9000 - 1020) / 10),
        );
    }

    #[test]
    fn a_clock_that_jumps_all_the_time_takes_no_memory() {
        let mut schedule = schedule(&[spec(CPU, 10, "HOST")]);
        for round in 0..1000u64 {
            let jump_ms = if round % 2 == 0 { 50_000_000 } else { 0 };
            schedule.due(at(2_000_000 + jump_ms + 10_000 * round.cast_signed(), 1_000 * round));
        }
        assert!(schedule.given_s.len() <= SPANS_MAX);
    }

    #[test]
    fn changes_of_other_specifications_do_not_move_a_series() {
        let mut schedule = schedule(&[spec(CPU, 10, "HOST")]);
        assert_eq!(schedule.next_s(), Some(1010));
        // The tick of 1010 is late, and the specifications change before it is done.
        schedule.set(&[spec(CPU, 10, "HOST"), spec(LOAD, 10, "HOST")], at(1_010_800, 10_800));
        let tick = Tick { interval_s: 10, time_s: 1010 };
        assert_eq!(schedule.due(at(1_010_900, 10_900)), [tick]);
        schedule.set(&[], at(1_011_000, 11_000));
        assert_eq!((schedule.next_s(), schedule.due(at(1_020_000, 20_000)).len()), (None, 0));
    }

    #[test]
    fn a_specification_ends_by_itself() {
        let mut schedule = schedule(&[AcqSpec { expiration: 1020, ..spec(CPU, 10, "HOST") }]);
        assert_eq!(schedule.due(at(1_010_000, 10_000)).len(), 1);
        assert_eq!(schedule.due(at(1_020_000, 20_000)).len(), 0);
        assert_eq!(schedule.next_s(), None);
    }
}
