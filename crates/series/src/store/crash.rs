//! The store on a disk that loses power, runs full, fails to flush or rots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::manifest;
use crate::{AppendError, Batch, Clock, Point, Tier, log};
use lockstep_storage::faulty::{Disk, Random};

/// Appenders at once; each has a pair of series of its own, which every batch of its writes alike.
const APPENDERS: usize = 3;

const HOUR_S: i64 = 3600;

/// Small enough that a few dozen batches make segments, parts, merges and rollups.
fn config(now_s: &Arc<AtomicI64>) -> Config {
    Config {
        raw_retention_s: 3 * HOUR_S,
        keep_for_forwarding: true,
        segment_bytes_max: 700,
        log_bytes_max: 2_000,
        clock: Clock::manual(now_s.clone()),
        ..Config::default()
    }
}

fn open(disk: &Disk, now_s: &Arc<AtomicI64>) -> Result<Store, StoreError> {
    open_with(disk, config(now_s))
}

fn open_with(disk: &Disk, config: Config) -> Result<Store, StoreError> {
    Store::open_in(Arc::new(disk.clone()), None, config)
}

fn clock() -> Arc<AtomicI64> {
    Arc::new(AtomicI64::new(1_700_000_000))
}

fn pair(appender: usize) -> [SeriesKey; 2] {
    [1, 2].map(|counter| SeriesKey { counter, address: appender as u64 })
}

type Points = BTreeMap<i64, f64>;

/// What one appender knows: what was acknowledged, and the batch that may have been stored or not.
#[derive(Default, Clone)]
struct History {
    points: Points,
    open: Option<Points>,
    /// Every value is another number. These were acknowledged, in this order.
    values: Vec<f64>,
    next: u64,
}

impl History {
    /// A batch of points around the clock, some of them late, some written before.
    fn next_batch(&mut self, appender: usize, now_s: i64, random: &mut Random) -> (Batch, Points) {
        let start = match random.below(4) {
            0 => now_s - random.below(3 * HOUR_S as u64) as i64,
            _ => now_s - random.below(300) as i64,
        };
        let mut points = Points::new();
        for nth in 0..1 + random.below(12) {
            self.next += 1;
            points.insert(start + 10 * nth as i64, self.next as f64 / 10.0);
        }
        let listed: Vec<Point> =
            points.iter().map(|(time_s, value)| Point { time_s: *time_s, value: *value }).collect();
        let mut batch = Batch::new();
        pair(appender).into_iter().for_each(|key| batch.push(key, &listed));
        (batch, points)
    }

    fn work(&mut self, appender: usize, store: &Store, now_s: i64, random: &mut Random, batches: u64) {
        for _ in 0..batches {
            let (batch, points) = self.next_batch(appender, now_s, random);
            match store.append(&batch) {
                Ok(appended) => {
                    assert_eq!(appended.stored, batch.points());
                    self.values.extend(points.values());
                    self.points.extend(points);
                }
                Err(AppendError::Poisoned(_)) => {
                    self.open = Some(points);
                    return;
                }
                Err(error) => panic!("refused: {error}"),
            }
        }
    }

    /// Compares with what the store has, and goes on from it. Fails only as the store does.
    fn check(&mut self, appender: usize, store: &Store) -> Result<(), StoreError> {
        let mut with_open = self.points.clone();
        with_open.extend(self.open.clone().unwrap_or_default());
        let [one, other] = pair(appender);
        let found = all_of(store, one)?;
        assert_eq!(found, all_of(store, other)?, "half a batch");
        let floor_s = store.parts.read().raw_floor_s;
        let expected = |points: &Points| {
            let points = points.iter().map(|(time_s, value)| Point { time_s: *time_s, value: *value });
            let kept: Vec<Point> = points.clone().filter(|point| point.time_s >= floor_s).collect();
            let mut rollups: BTreeMap<i64, (u64, f64)> = BTreeMap::new();
            for point in points {
                let window = rollups.entry(point.time_s.div_euclid(300) * 300).or_default();
                *window = (window.0 + 1, point.value);
            }
            (kept, rollups)
        };
        if found == expected(&with_open) && self.open.is_some() {
            self.points = with_open;
        } else {
            assert_eq!(found, expected(&self.points), "neither the last batch nor the one before");
        }
        self.open = None;
        Ok(())
    }
}

/// Points and rollups of a series: count and last of each window.
type Found = (Vec<Point>, BTreeMap<i64, (u64, f64)>);

fn all_of(store: &Store, key: SeriesKey) -> Result<Found, StoreError> {
    let points = store.read(key, i64::MIN, i64::MAX, usize::MAX)?;
    let rollups = store.read_tier(key, Tier::FiveMinutes, i64::MIN, i64::MAX, usize::MAX)?;
    let hours = store.read_tier(key, Tier::Hour, i64::MIN, i64::MAX, usize::MAX)?;
    let count = |rollups: &[crate::Rollup]| rollups.iter().map(|rollup| rollup.count).sum::<u64>();
    assert_eq!(count(&rollups), count(&hours));
    Ok((points, rollups.iter().map(|rollup| (rollup.time_s, (rollup.count, rollup.last))).collect()))
}

/// What another store was sent.
#[derive(Default)]
struct Receiver {
    values: BTreeMap<SeriesKey, Vec<f64>>,
}

impl Receiver {
    /// Takes what waits, and sometimes says so.
    fn work(&mut self, store: &Store, random: &mut Random, batches: u64) {
        for _ in 0..batches {
            let Ok(Some((cursor, batch))) = store.unforwarded(1 + random.below(40) as usize) else { return };
            for (key, points) in batch.iter() {
                self.values.entry(key).or_default().extend(points.iter().map(|point| point.value));
            }
            if random.below(4) == 0 || store.forwarded(cursor).is_err() {
                return;
            }
        }
    }

    /// Every acknowledged value came, and for the first time in the order of acknowledgement.
    fn check(&self, histories: &[History]) {
        for (appender, history) in histories.iter().enumerate() {
            for key in pair(appender) {
                let mut seen = BTreeSet::new();
                let received = self.values.get(&key).into_iter().flatten().filter(|value| seen.insert(value.to_bits()));
                let acknowledged: BTreeSet<u64> = history.values.iter().map(|value| value.to_bits()).collect();
                let received: Vec<f64> =
                    received.copied().filter(|value| acknowledged.contains(&value.to_bits())).collect();
                assert_eq!(received, history.values);
            }
        }
    }
}

/// One life of a disk: again and again the store is opened, works, and loses power.
fn power_losses(seed: u64, losses: u64) {
    let mut random = Random::new(seed);
    let now_s = clock();
    let mut disk = Disk::default();
    let mut histories = vec![History::default(); APPENDERS];
    let mut receiver = Receiver::default();
    // Where nobody forwards, sealed segments go at once.
    let config = Config { keep_for_forwarding: !seed.is_multiple_of(4), ..config(&now_s) };
    for _ in 0..losses {
        let calls_max = [15, 200, 400][random.below(3) as usize];
        disk.power_off_after(random.below(calls_max));
        let Ok(store) = open_with(&disk, config.clone()) else {
            assert!(disk.is_off(), "seed {seed}: refused to open though the power is on");
            disk = disk.after_power_loss(&mut random);
            continue;
        };
        for (appender, history) in histories.iter_mut().enumerate() {
            // The power may go while it is read.
            let checked = history.check(appender, &store);
            assert!(checked.is_ok() || disk.is_off(), "seed {seed}: {checked:?}");
        }
        for _ in 0..random.below(4) {
            let now = now_s.load(Ordering::Relaxed);
            std::thread::scope(|threads| {
                for (appender, history) in histories.iter_mut().enumerate() {
                    let (store, mut random) = (&store, Random::new(random.number()));
                    threads.spawn(move || {
                        let batches = random.below(12);
                        if history.open.is_none() {
                            history.work(appender, store, now, &mut random, batches);
                        }
                    });
                }
                let batches = random.below(30);
                receiver.work(&store, &mut random, batches);
                // Fails when the power goes.
                let _ = match random.below(3) {
                    0 => store.seal_all().map(|_| ()),
                    _ => store.housekeep().map(|_| ()),
                };
            });
            now_s.fetch_add([60, 1800, 6 * HOUR_S][random.below(3) as usize], Ordering::Relaxed);
        }
        // The power goes, or the process is killed, before it is closed or after; the power may go some other time.
        let is_closed = random.below(2) == 0;
        let store = if is_closed {
            drop(store);
            None
        } else {
            Some(store)
        };
        disk = if random.below(4) > 0 { disk.after_power_loss(&mut random) } else { disk.after_kill() };
        drop(store);
    }
    let store = open_with(&disk, config.clone()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    for (appender, history) in histories.iter_mut().enumerate() {
        history.check(appender, &store).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    while let Ok(Some(_)) = store.unforwarded(1) {
        receiver.work(&store, &mut random, 100);
    }
    if config.keep_for_forwarding {
        receiver.check(&histories);
    }
    assert_eq!(store.forward_lag(), ForwardLag::default(), "seed {seed}");
}

#[test]
fn power_loss_at_any_moment_loses_nothing_acknowledged_and_keeps_nothing_half() {
    for seed in 0..300 {
        power_losses(seed, 10);
    }
}

/// A closed store that has everything: a log with sealed and unsealed segments, parts of points, rollups, a cursor.
fn filled(seed: u64) -> (Disk, Arc<AtomicI64>, Vec<History>) {
    let (disk, now_s) = (Disk::default(), clock());
    let mut random = Random::new(seed);
    let mut histories = vec![History::default(); APPENDERS];
    let store = open(&disk, &now_s).expect("opens");
    let mut work = |batches| {
        for (appender, history) in histories.iter_mut().enumerate() {
            history.work(appender, &store, now_s.load(Ordering::Relaxed), &mut random, batches);
        }
    };
    work(6);
    store.seal_all().expect("seals");
    let (cursor, _) = store.unforwarded(100).expect("reads").expect("something waits");
    store.forwarded(cursor).expect("forwarded");
    now_s.fetch_add(8 * HOUR_S, Ordering::Relaxed);
    work(6);
    store.housekeep().expect("keeps house");
    store.seal_all().expect("seals");
    work(6);
    drop(store);
    (disk, now_s, histories)
}

/// Opens and reads everything there is.
fn read_all(disk: &Disk, now_s: &Arc<AtomicI64>, histories: &[History]) -> Result<(), StoreError> {
    let store = open(disk, now_s)?;
    for (appender, history) in histories.iter().enumerate() {
        history.clone().check(appender, &store)?;
    }
    while let Some((cursor, _)) = store.unforwarded(1000)? {
        store.forwarded(cursor).expect("forwarded");
    }
    Ok(())
}

/// Changes files in some way and sees that what is wrong is told, and where.
fn check_damage(what: &str, damage: impl Fn(&mut Vec<u8>, &mut Random)) {
    for seed in 0..25 {
        let (disk, now_s, histories) = filled(seed);
        read_all(&disk.copy(), &now_s, &histories).expect("is whole");
        let mut random = Random::new(seed);
        // Of the segment where forwarding goes on, what was forwarded and sealed is read by nobody.
        let cursor = forward::Forward::load(&disk).expect("loaded").cursor;
        let half_read = log::name(cursor.segment);
        for name in disk.list().expect("listed") {
            for _ in 0..4 {
                let disk = disk.copy();
                disk.tamper(&name, |bytes| damage(bytes, &mut random));
                match read_all(&disk, &now_s, &histories) {
                    Err(StoreError::Damaged { path, .. }) => assert_eq!(path, name, "seed {seed}"),
                    Ok(()) if name == half_read => {}
                    other => panic!("seed {seed}: {what} in {name} went unnoticed: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_reported_and_never_served() {
    check_damage("a flipped bit", |bytes, random| {
        let bit = random.below(bytes.len() as u64 * 8);
        bytes[bit as usize / 8] ^= 1 << (bit % 8);
    });
}

#[test]
fn a_cut_file_is_reported() {
    check_damage("a cut", |bytes, random| {
        let length = random.below(bytes.len() as u64);
        bytes.truncate(length as usize);
    });
}

#[test]
fn a_missing_file_is_reported() {
    for seed in 0..5 {
        let (disk, now_s, histories) = filled(seed);
        for name in disk.list().expect("listed") {
            let disk = disk.copy();
            disk.remove(&name).expect("removed");
            match read_all(&disk, &now_s, &histories) {
                Err(StoreError::Damaged { path, .. }) => assert_eq!(path, name),
                // The cursor is made anew, and everything is forwarded again.
                Ok(()) => assert_eq!(name, forward::NAME),
                other => panic!("seed {seed}: {name}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_torn_end_of_the_log_is_cut_at_any_byte() {
    let (disk, now_s) = (Disk::default(), clock());
    let store = open(&disk, &now_s).expect("opens");
    let key = SeriesKey { counter: 5, address: 6 };
    let time_s = now_s.load(Ordering::Relaxed);
    let mut ends = Vec::new();
    for nth in 0..4 {
        let mut batch = Batch::new();
        batch.push(key, &[Point { time_s: time_s + nth, value: nth as f64 }]);
        store.append(&batch).expect("appended");
        ends.push(store.stats().log_bytes as usize);
    }
    let disk = disk.after_kill();
    for length in ends[0]..=ends[3] {
        let disk = disk.copy();
        disk.tamper(&log::name(1), |bytes| bytes.truncate(length));
        // Twice: what was cut does not come again.
        for _ in 0..2 {
            let store = open(&disk, &now_s).expect("opens");
            let whole = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(store.read(key, 0, i64::MAX, 9).expect("reads").len(), whole);
        }
    }
    // The first frame is damaged and others follow: that is no torn write.
    disk.tamper(&log::name(1), |bytes| bytes[ends[0] - 1] ^= 1);
    assert!(matches!(open(&disk, &now_s), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    for seed in 0..60 {
        let (disk, now_s) = (Disk::default(), clock());
        let mut random = Random::new(seed);
        let store = open(&disk, &now_s).expect("opens");
        let mut history = History::default();
        let (mut full, mut not_kept) = (0, 0);
        for number in 0..80 {
            // Sometimes not even a frame's header fits, sometimes all but its last byte; or some files of several.
            let space = (number % 3 == 0).then(|| random.below([150, 1500][number / 3 % 2]));
            disk.set_space(space);
            let (batch, points) = history.next_batch(0, now_s.load(Ordering::Relaxed), &mut random);
            match store.append(&batch) {
                Ok(_) => {
                    history.values.extend(points.values());
                    history.points.extend(points);
                }
                Err(AppendError::Full) => {
                    assert!(space.is_some());
                    full += 1;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            if number % 5 == 0 {
                match store.housekeep().and_then(|_| store.seal_all()) {
                    Ok(_) => {}
                    Err(StoreError::Full { .. }) => {
                        assert!(space.is_some());
                        not_kept += 1;
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
                now_s.fetch_add(1800, Ordering::Relaxed);
            }
            history.clone().check(0, &store).expect("reads");
        }
        assert!(full > 5 && not_kept > 0, "{full}, {not_kept}");
        disk.set_space(None);
        store.housekeep().expect("keeps house");
        history.check(0, &store).expect("reads");
        let found = disk.after_power_loss(&mut random);
        drop(store);
        let store = open(&found, &now_s).expect("opens");
        history.check(0, &store).expect("reads");
        // Nothing is left lying about.
        let parts = found.list().expect("listed").iter().filter(|name| name.ends_with(".part")).count();
        assert_eq!(parts, store.stats().parts);
    }
}

#[test]
fn a_failed_flush_poisons_for_good() {
    for breaks in [false, true] {
        let (disk, now_s) = (Disk::default(), clock());
        let store = open(&disk, &now_s).expect("opens");
        let (mut history, mut random) = (History::default(), Random::new(1));
        history.work(0, &store, now_s.load(Ordering::Relaxed), &mut random, 1);
        if breaks {
            // A write that does not fit and a cut that fails.
            disk.set_space(Some(30));
            disk.fail_truncates();
        } else {
            disk.fail_flushes_after(0);
        }
        let (batch, _) = History::default().next_batch(1, now_s.load(Ordering::Relaxed), &mut random);
        let refused = store.append(&batch);
        assert!(matches!(refused, Err(AppendError::Poisoned(_))), "{refused:?}");
        disk.set_space(None);
        disk.fail_flushes_after(1000);
        // Also refused, though the disk would do it: the flush that failed may have lost what was before.
        assert_eq!(store.append(&batch), refused);
        history.check(0, &store).expect("is still readable");
        assert_eq!(store.range(pair(1)[0]), None);
        assert!(matches!(store.housekeep(), Err(StoreError::Poisoned(_))));
        assert!(matches!(store.seal_all(), Err(StoreError::Poisoned(_))));
    }
}

#[test]
fn a_manifest_that_is_perhaps_durable_poisons_and_its_parts_stay() {
    let mut poisoned = 0;
    for flushes in 0..12 {
        let (disk, now_s) = (Disk::default(), clock());
        let store = open(&disk, &now_s).expect("opens");
        let (mut history, mut random) = (History::default(), Random::new(1));
        history.work(0, &store, now_s.load(Ordering::Relaxed), &mut random, 3);
        disk.fail_flushes_after(flushes);
        let sealed = store.seal_all();
        disk.fail_flushes_after(1000);
        match sealed {
            Ok(_) => {}
            // The flush of a part, or of a manifest without its name, failed: it is written anew.
            Err(StoreError::Io { .. }) => assert!(store.seal_all().is_ok()),
            Err(StoreError::Poisoned(_)) => poisoned += 1,
            Err(error) => panic!("{error}"),
        }
        history.check(0, &store).expect("reads");
        for _ in 0..20 {
            let found = disk.after_power_loss(&mut random);
            history.check(0, &open(&found, &now_s).expect("opens")).expect("reads");
        }
    }
    assert!(poisoned > 1);
}

#[test]
fn what_waits_too_long_for_being_forwarded_is_dropped_and_counted() {
    let (disk, now_s) = (Disk::default(), clock());
    let config = Config { forward_bytes_max: 3_000, ..config(&now_s) };
    let store = Store::open_in(Arc::new(disk.clone()), None, config.clone()).expect("opens");
    let (mut history, mut random) = (History::default(), Random::new(3));
    for _ in 0..20 {
        history.work(0, &store, now_s.load(Ordering::Relaxed), &mut random, 5);
        store.seal_all().expect("seals");
    }
    let lag = store.forward_lag();
    assert!(lag.bytes <= 3_000 && lag.points_dropped > 0, "{lag:?}");
    drop(store);
    let store = Store::open_in(Arc::new(disk), None, config).expect("opens");
    assert_eq!(store.forward_lag(), lag);
    let mut received = 0;
    while let Some((cursor, batch)) = store.unforwarded(7).expect("reads") {
        received += batch.points() as u64;
        store.forwarded(cursor).expect("forwarded");
    }
    assert_eq!(received, lag.points);
    assert_eq!(received + lag.points_dropped, 2 * history.values.len() as u64);
    history.check(0, &store).expect("reads");
}

#[test]
fn a_store_whose_manifest_is_gone_does_not_begin_anew() {
    let (disk, now_s, _) = filled(1);
    disk.remove(manifest::NAME).expect("removed");
    assert!(matches!(open(&disk, &now_s), Err(StoreError::Damaged { path, .. }) if path == manifest::NAME));
}
