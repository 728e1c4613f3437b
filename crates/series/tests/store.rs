//! The store from outside: real files, threads and processes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use lockstep_series::{AppendError, Batch, Clock, Config, Point, SeriesKey, Store, StoreError, Tier};

const NOW_S: i64 = 1_700_006_400;

fn config(clock: &Arc<AtomicI64>) -> Config {
    Config { clock: Clock::manual(clock.clone()), ..Config::default() }
}

fn clock() -> Arc<AtomicI64> {
    Arc::new(AtomicI64::new(NOW_S))
}

fn key(series: u64) -> SeriesKey {
    SeriesKey { counter: 3, address: series }
}

fn one(key: SeriesKey, time_s: i64, value: f64) -> Batch {
    let mut batch = Batch::new();
    batch.push_point(key, Point { time_s, value });
    batch
}

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), config(&clock())).unwrap();
    assert!(matches!(Store::open(dir.path(), config(&clock())), Err(StoreError::InUse(_))));
    drop(store);
    Store::open(dir.path(), config(&clock())).unwrap();
}

#[test]
fn a_retention_out_of_bounds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for raw_retention_s in [-1, 0, 3599, 15 * 86400, i64::MAX] {
        let config = Config { raw_retention_s, ..config(&clock()) };
        assert!(matches!(Store::open(dir.path(), config), Err(StoreError::Retention { what: "points", .. })));
    }
}

#[test]
fn points_too_old_or_too_new_are_counted_and_the_others_stored() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let store = Store::open(dir.path(), config(&clock)).unwrap();
    let mut batch = Batch::new();
    for offset in [-86401, -86400, 0, 600, 601] {
        batch.push_point(key(1), Point { time_s: NOW_S + offset, value: offset as f64 });
    }
    let appended = store.append(&batch).unwrap();
    assert_eq!((appended.stored, appended.too_old, appended.too_new), (3, 1, 1));
    let times: Vec<i64> = store.read(key(1), i64::MIN, i64::MAX, 9).unwrap().iter().map(|point| point.time_s).collect();
    assert_eq!(times, [NOW_S - 86400, NOW_S, NOW_S + 600]);
    let stats = store.stats();
    assert_eq!((stats.points_stored, stats.points_too_old, stats.points_too_new), (3, 1, 1));
}

#[test]
fn appends_are_refused_when_nobody_keeps_house_and_taken_when_somebody_did() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let store = Store::open(dir.path(), Config { head_bytes_max: 20_000, ..config(&clock) }).unwrap();
    let mut stored = 0;
    let refused = loop {
        match store.append(&one(key(1), NOW_S - 5000 + stored, 1.0)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::HeadFull { limit: 20_000, .. }), "{refused:?}");
    // Returns at once.
    store.wait_for_work(Duration::from_secs(3600));
    assert_eq!(store.housekeep().unwrap().points_sealed, stored as u64);
    store.append(&one(key(1), NOW_S, 2.0)).unwrap();
    assert_eq!(store.read(key(1), 0, i64::MAX, usize::MAX).unwrap().len() as i64, stored + 1);
}

#[test]
fn what_is_not_a_number_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let store = Store::open(dir.path(), config(&clock)).unwrap();
    for (nth, value) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0, f64::NAN].into_iter().enumerate() {
        store.append(&one(key(1), NOW_S + nth as i64, value)).unwrap();
    }
    store.seal_all().unwrap();
    drop(store);
    let store = Store::open(dir.path(), config(&clock)).unwrap();
    let points = store.read(key(1), 0, i64::MAX, 9).unwrap();
    assert_eq!(points.len(), 5);
    assert!(points[0].value.is_nan() && points[1].value == f64::INFINITY && points[3].value == 1.0);
    assert!(store.latest(key(1)).unwrap().is_some_and(|point| point.time_s == NOW_S + 4 && point.value.is_nan()));
    let rollups = store.read_tier(key(1), Tier::Hour, 0, i64::MAX, 9).unwrap();
    assert_eq!((rollups.len(), rollups[0].count, rollups[0].max), (1, 5, f64::INFINITY));
}

/// Writers, readers, a forwarder and housekeeping at once: a reader sees every point that was acknowledged before it looked, in
/// order, whichever way the point is going through the store meanwhile.
#[test]
fn readers_miss_nothing_while_points_are_sealed_rolled_up_and_merged() {
    const WRITERS: u64 = 2;
    const POINTS: i64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let config = Config {
        raw_retention_s: 3600,
        head_bytes_max: 150_000,
        segment_bytes_max: 10_000,
        log_bytes_max: 40_000,
        keep_for_forwarding: true,
        ..config(&clock)
    };
    let store = Store::open(dir.path(), config.clone()).unwrap();
    let acknowledged: Vec<AtomicI64> = (0..WRITERS).map(|_| AtomicI64::new(0)).collect();
    let is_over = AtomicBool::new(false);
    let mut forwarded = vec![Vec::new(); WRITERS as usize];
    let (mut rolled_up, mut merged, mut late) = (0, 0, 0_u64);
    std::thread::scope(|threads| {
        let (store, clock, acknowledged, is_over) = (&store, &clock, &acknowledged, &is_over);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                threads.spawn(move || {
                    let mut next = 0;
                    while next < POINTS {
                        let mut batch = Batch::new();
                        for nth in next..next + 50 {
                            let point = Point { time_s: NOW_S + nth, value: nth as f64 };
                            batch.push_point(key(writer), point);
                            batch.push_point(key(writer + 100), point);
                        }
                        // Both write this one; whose value stays is told by the log.
                        batch.push_point(key(999), Point { time_s: NOW_S + next, value: writer as f64 });
                        // The slower writer must not fall out of retention.
                        let slowest = acknowledged.iter().map(|done| done.load(Ordering::SeqCst)).min().unwrap_or(0);
                        if next > slowest + 500 {
                            std::thread::yield_now();
                            continue;
                        }
                        clock.fetch_max(NOW_S + next, Ordering::SeqCst);
                        match store.append(&batch) {
                            Ok(appended) => assert_eq!(appended.stored, 101),
                            Err(AppendError::HeadFull { .. }) => {
                                std::thread::yield_now();
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        }
                        next += 50;
                        acknowledged[writer as usize].store(next, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                threads.spawn(move || {
                    while !is_over.load(Ordering::SeqCst) {
                        let before = acknowledged[writer as usize].load(Ordering::SeqCst);
                        let points = store.read(key(writer), i64::MIN, i64::MAX, usize::MAX).unwrap();
                        let first = points.first().map_or(0, |point| point.time_s - NOW_S);
                        assert!(points.iter().zip(first..).all(|(point, nth)| point.value == nth as f64), "a hole");
                        let end = first + points.len() as i64;
                        assert!(end >= before, "acknowledged {before}, read up to {end}");
                        let rollups = store
                            .read_tier(key(writer + 100), Tier::FiveMinutes, i64::MIN, i64::MAX, usize::MAX)
                            .unwrap();
                        let counted: u64 = rollups.iter().map(|rollup| rollup.count).sum();
                        assert!(counted as i64 >= before, "acknowledged {before}, counted {counted}");
                        let whole = &rollups[..rollups.len().saturating_sub(1)];
                        assert!(whole.iter().all(|rollup| rollup.count == 300), "half a window");
                        store.latest(key(writer)).unwrap();
                    }
                })
            })
            .collect();
        let (rolled_up, merged) = (&mut rolled_up, &mut merged);
        let keeper = threads.spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let done = store.housekeep().unwrap();
                *rolled_up += done.partitions_rolled_up;
                *merged += done.parts_merged;
            }
        });
        // At the edge of retention, where partitions are being rolled up.
        let late = &mut late;
        let latecomer = threads.spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let time_s = clock.load(Ordering::SeqCst) - 3600 + (*late % 3) as i64;
                if store.read(key(500), time_s, time_s + 1, 1).unwrap().is_empty()
                    && store.append(&one(key(500), time_s, 1.0)).is_ok_and(|appended| appended.stored == 1)
                {
                    *late += 1;
                }
            }
        });
        let forwarded = &mut forwarded;
        let forwarder = threads.spawn(move || {
            loop {
                let is_last = is_over.load(Ordering::SeqCst);
                match store.unforwarded(777).unwrap() {
                    Some((cursor, batch)) => {
                        for (key, points) in batch.iter().filter(|(key, _)| key.address < WRITERS) {
                            forwarded[key.address as usize].extend(points.iter().map(|point| point.value as i64));
                        }
                        store.forwarded(cursor).unwrap();
                    }
                    None if is_last => break,
                    None => std::thread::yield_now(),
                }
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_over.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        latecomer.join().unwrap();
        keeper.join().unwrap();
        forwarder.join().unwrap();
    });
    assert!(rolled_up > 1 && merged > 1, "{rolled_up} partitions rolled up, {merged} parts merged");
    let rollups = store.read_tier(key(500), Tier::Hour, i64::MIN, i64::MAX, usize::MAX).unwrap();
    assert_eq!(rollups.iter().map(|rollup| rollup.count).sum::<u64>(), late);
    for values in forwarded {
        assert!(values.into_iter().eq(0..POINTS), "forwarded once, in order");
    }
    let contested = store.read(key(999), i64::MIN, i64::MAX, usize::MAX).unwrap();
    drop(store);
    let store = Store::open(dir.path(), config).unwrap();
    assert_eq!(store.read(key(999), i64::MIN, i64::MAX, usize::MAX).unwrap(), contested);
}

/// Not a test by itself: the process that [`what_was_acknowledged_survives_kill_9`] kills. It tells what was acknowledged.
#[test]
fn writer_process() {
    let Ok(dir) = std::env::var("SERIES_TEST_DIR") else { return };
    let config = Config { segment_bytes_max: 20_000, log_bytes_max: 60_000, ..config(&clock()) };
    let store = Store::open(Path::new(&dir), config).unwrap();
    let first = store.latest(key(1)).unwrap().map_or(0, |point| point.value as i64 + 1);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            loop {
                store.housekeep().unwrap();
            }
        });
        for nth in first.. {
            let mut batch = Batch::new();
            for series in 1..=20 {
                batch.push_point(key(series), Point { time_s: NOW_S - 80_000 + nth, value: nth as f64 });
            }
            store.append(&batch).unwrap();
            println!("acknowledged {nth}");
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = -1;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env("SERIES_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let acknowledged =
            |line: &str| line.trim().strip_prefix("acknowledged ").and_then(|nth| nth.parse::<i64>().ok());
        let goal = last + 300 + 137 * round;
        while last < goal {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the writer ended");
            last = acknowledged(&line).unwrap_or(last);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        // The last line may be cut.
        let whole = rest.rsplit_once('\n').map_or("", |(whole, _)| whole);
        last = whole.lines().filter_map(acknowledged).next_back().unwrap_or(last);

        let store = Store::open(dir.path(), config(&clock())).unwrap();
        for series in 1..=20 {
            let points = store.read(key(series), i64::MIN, i64::MAX, usize::MAX).unwrap();
            assert!(points.len() as i64 > last, "acknowledged {last}, found {}", points.len());
            assert!(points.len() as i64 <= last + 2, "more than the batch that was under way");
            assert!(points.iter().zip(0..).all(|(point, nth)| point.value == f64::from(nth)));
        }
        last = store.latest(key(1)).unwrap().unwrap().value as i64;
    }
}
