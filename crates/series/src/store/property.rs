//! The store against a model: two maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::{AppendError, Appended, Batch, Clock, Point, Rollup, Tier};
use lockstep_storage::faulty::Disk;

const HOUR_S: i64 = 3600;
const RAW_RETENTION_S: i64 = 3 * HOUR_S;
const FUTURE_S: i64 = 600;
const RAW_PARTITION_S: i64 = 2 * HOUR_S;

/// Small enough that a few dozen steps make segments, parts, merges, rollups and removals.
fn config(now_s: &Arc<AtomicI64>) -> Config {
    Config {
        raw_retention_s: RAW_RETENTION_S,
        five_minutes_retention_s: 2 * 24 * HOUR_S,
        hour_retention_s: 20 * 24 * HOUR_S,
        future_s_max: FUTURE_S,
        head_bytes_max: 16 << 10,
        segment_bytes_max: 2 << 10,
        log_bytes_max: 6 << 10,
        clock: Clock::manual(now_s.clone()),
        ..Config::default()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Run>),
    Read { series: u8, start: i64, length: i64, limit: usize },
    Housekeep,
    SealAll,
    Advance(i64),
    Reopen,
    Kill,
}

/// Points of a series from so many seconds after the clock on.
#[derive(Debug, Clone)]
struct Run {
    series: u8,
    start: i64,
    step: i64,
    values: Vec<f64>,
}

fn run() -> impl Strategy<Value = Run> {
    let start = prop_oneof![4 => -300..300_i64, 2 => -3 * HOUR_S..0, 1 => -5 * HOUR_S..2 * FUTURE_S];
    let value = prop_oneof![
        (0..400_i32).prop_map(f64::from),
        (0..10_000_i32).prop_map(|hundredths| f64::from(hundredths) / 100.0),
        any::<f64>().prop_filter("a number", |value| value.is_finite()),
    ];
    let step = prop_oneof![Just(10), 0..40_i64];
    (0..5_u8, start, step, prop::collection::vec(value, 1..40)).prop_map(|(series, start, step, values)| Run {
        series,
        start,
        step,
        values,
    })
}

fn step() -> impl Strategy<Value = Step> {
    // Somebody may set the clock back.
    let advance = prop_oneof![6 => 0..HOUR_S, 2 => HOUR_S..4 * HOUR_S, 1 => 0..40 * 24 * HOUR_S, 1 => -3 * HOUR_S..0];
    let read = (0..5_u8, -6 * HOUR_S..HOUR_S, 0..6 * HOUR_S, prop_oneof![0..20_usize, Just(usize::MAX)]);
    prop_oneof![
        10 => prop::collection::vec(run(), 1..5).prop_map(Step::Append),
        4 => read.prop_map(|(series, start, length, limit)| Step::Read { series, start, length, limit }),
        4 => Just(Step::Housekeep),
        1 => Just(Step::SealAll),
        4 => advance.prop_map(Step::Advance),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

fn key(series: u8) -> SeriesKey {
    SeriesKey { counter: i64::from(series / 2) - 1, address: u64::from(series) << 60 }
}

#[derive(Default)]
struct Model {
    points: BTreeMap<(SeriesKey, i64), f64>,
    rollups: BTreeMap<(Tier, SeriesKey, i64), Rollup>,
    floor_s: i64,
}

/// The rollups of points in the order of time.
fn rolled(points: impl Iterator<Item = Point>, tier: Tier) -> Vec<Rollup> {
    let mut windows: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for point in points {
        windows.entry(point.time_s - point.time_s.rem_euclid(tier.window_s())).or_default().push(point.value);
    }
    let rollup = |(time_s, values): (i64, Vec<f64>)| Rollup {
        time_s,
        count: values.len() as u64,
        min: values.iter().copied().reduce(f64::min).unwrap(),
        max: values.iter().copied().reduce(f64::max).unwrap(),
        sum: values.iter().sum(),
        last: *values.last().unwrap(),
    };
    windows.into_iter().map(rollup).collect()
}

impl Model {
    fn append(&mut self, batch: &Batch, now_s: i64) -> Appended {
        let mut appended = Appended::default();
        for (key, points) in batch.iter() {
            for point in points {
                if point.time_s < self.floor_s.max(now_s - RAW_RETENTION_S) {
                    appended.too_old += 1;
                } else if point.time_s > now_s + FUTURE_S {
                    appended.too_new += 1;
                } else {
                    appended.stored += 1;
                    self.points.insert((key, point.time_s), point.value);
                }
            }
        }
        appended
    }

    fn housekeep(&mut self, config: &Config, now_s: i64) {
        let floor_s = (now_s - RAW_RETENTION_S).div_euclid(RAW_PARTITION_S) * RAW_PARTITION_S;
        self.floor_s = self.floor_s.max(floor_s);
        let old: BTreeSet<SeriesKey> = self.points.keys().map(|(key, _)| *key).collect();
        for key in old {
            for tier in Tier::ALL {
                for rollup in rolled(self.read(key, i64::MIN, self.floor_s).into_iter(), tier) {
                    let known = self.rollups.insert((tier, key, rollup.time_s), rollup);
                    assert_eq!(known, None, "a window was rolled up twice");
                }
            }
        }
        self.points.retain(|(_, time_s), _| *time_s >= self.floor_s);
        self.rollups.retain(|(tier, _, time_s), _| {
            let partition_end = (time_s.div_euclid(tier.partition_s()) + 1) * tier.partition_s();
            partition_end + config.tier_retention_s(*tier) > now_s
        });
    }

    fn read(&self, key: SeriesKey, start_s: i64, end_s: i64) -> Vec<Point> {
        let all = self.points.range((key, i64::MIN)..=(key, i64::MAX));
        let wanted = all.filter(|((_, time_s), _)| (start_s..end_s).contains(time_s));
        wanted.map(|((_, time_s), value)| Point { time_s: *time_s, value: *value }).collect()
    }

    fn read_tier(&self, key: SeriesKey, tier: Tier, start_s: i64, end_s: i64) -> Vec<Rollup> {
        let stored = self.rollups.range((tier, key, i64::MIN)..=(tier, key, i64::MAX)).map(|(_, rollup)| *rollup);
        let made = rolled(self.read(key, i64::MIN, i64::MAX).into_iter(), tier);
        stored.chain(made).filter(|rollup| (start_s..end_s).contains(&rollup.time_s)).collect()
    }

    fn series(&self) -> BTreeMap<SeriesKey, (i64, i64)> {
        let mut series: BTreeMap<SeriesKey, (i64, i64)> = BTreeMap::new();
        let rollups = self.rollups.keys().map(|(_, key, time_s)| (*key, *time_s));
        for (key, time_s) in self.points.keys().copied().chain(rollups) {
            let range = series.entry(key).or_insert((time_s, time_s));
            *range = (range.0.min(time_s), range.1.max(time_s));
        }
        series
    }

    fn check(&self, store: &Store, series: u8, start_s: i64, end_s: i64, limit: usize) {
        let key = key(series);
        let mut points = self.read(key, start_s, end_s);
        points.truncate(limit);
        assert_eq!(store.read(key, start_s, end_s, limit).unwrap(), points);
        for tier in Tier::ALL {
            let mut rollups = self.read_tier(key, tier, start_s, end_s);
            rollups.truncate(limit);
            assert_eq!(store.read_tier(key, tier, start_s, end_s, limit).unwrap(), rollups, "{tier:?}");
        }
    }

    fn check_all(&self, store: &Store) {
        for series in 0..5 {
            self.check(store, series, i64::MIN, i64::MAX, usize::MAX);
            let latest = self.read(key(series), i64::MIN, i64::MAX).pop();
            assert_eq!(store.latest(key(series)).unwrap(), latest);
        }
        let found = store.series().into_iter().map(|(key, range)| (key, (range.first_s, range.last_s)));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), self.series());
        assert_eq!(store.stats().series, self.series().len());
    }
}

fn batch(runs: &[Run], now_s: i64) -> Batch {
    let mut batch = Batch::new();
    for run in runs {
        let point = |(value, nth): (&f64, i64)| Point { time_s: now_s + run.start + nth * run.step, value: *value };
        let points: Vec<Point> = run.values.iter().zip(0..).map(point).collect();
        batch.push(key(run.series), &points);
    }
    batch
}

fn live(steps: Vec<Step>) {
    let now_s = Arc::new(AtomicI64::new(1_700_000_000));
    let config = config(&now_s);
    let mut disk = Disk::default();
    let open = |disk: &Disk| Store::open_in(Arc::new(disk.clone()), None, config.clone()).unwrap();
    let mut store = open(&disk);
    let mut model = Model { floor_s: i64::MIN, ..Model::default() };
    for step in steps {
        let now = now_s.load(Ordering::Relaxed);
        match step {
            Step::Append(runs) => {
                let batch = batch(&runs, now);
                let appended = match store.append(&batch) {
                    Err(AppendError::HeadFull { .. }) => {
                        store.housekeep().unwrap();
                        model.housekeep(&config, now);
                        store.append(&batch)
                    }
                    other => other,
                };
                assert_eq!(appended, Ok(model.append(&batch, now)));
            }
            Step::Read { series, start, length, limit } => {
                model.check(&store, series, now + start, now + start + length, limit);
            }
            Step::Housekeep => {
                store.housekeep().unwrap();
                model.housekeep(&config, now);
                let again = store.housekeep().unwrap();
                assert_eq!((again.points_sealed, again.partitions_rolled_up), (0, 0), "housekeeping is idempotent");
            }
            Step::SealAll => {
                store.seal_all().unwrap();
                assert_eq!(store.stats().head_points, 0);
            }
            Step::Advance(seconds) => {
                now_s.fetch_add(seconds, Ordering::Relaxed);
            }
            Step::Reopen => {
                drop(store);
                store = open(&disk);
                model.check_all(&store);
            }
            Step::Kill => {
                disk = disk.after_kill();
                store = open(&disk);
                model.check_all(&store);
            }
        }
    }
    model.check_all(&store);
    store.housekeep().unwrap();
    model.housekeep(&config, now_s.load(Ordering::Relaxed));
    model.check_all(&store);
    drop(store);
    model.check_all(&open(&disk));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_store_answers_as_two_maps_do(steps in prop::collection::vec(step(), 1..60)) {
        live(steps);
    }
}
