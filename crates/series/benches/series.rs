//! How fast the store takes, gives back and compresses points, and what they cost.
//!
//! `cargo bench -p lockstep-series`; the directory is made under `TMPDIR`, which should be the disk in question.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use lockstep_series::{Batch, Clock, Config, Point, SeriesKey, Store, Tier};

const START_S: i64 = 1_700_006_400;
const INTERVAL_S: i64 = 10;
/// Two hours, a partition.
const SAMPLES: i64 = 720;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    appending(dir.path())?;
    compressing(dir.path())?;
    sustained(dir.path())?;
    reading(dir.path())?;
    idle(dir.path())
}

fn config(now_s: i64) -> (Config, Arc<AtomicI64>) {
    let clock = Arc::new(AtomicI64::new(now_s));
    let config = Config { clock: Clock::manual(clock.clone()), head_bytes_max: 4 << 30, ..Config::default() };
    (config, clock)
}

fn key(series: u64) -> SeriesKey {
    SeriesKey { counter: (series % 20) as i64, address: series / 20 * 7919 }
}

fn appending(dir: &Path) -> Result<()> {
    println!(
        "{:<58} {:>12} {:>7} {:>12} {:>9} {:>9}",
        "append, durable", "points/s", "cores", "a core-sec.", "B in log", "ms/batch"
    );
    // Each batch has one time, as an agent sends it, or a catch-up of a thousand points of ten series.
    let one_each = |nth: i64, writer: u64| -> Batch {
        let mut batch = Batch::with_capacity(10_000, 10_000);
        for series in 0..10_000 {
            let value = MADE[series as usize % MADE.len()].1(&mut Random(series * 31 + nth as u64), nth, &mut 0.0);
            batch.push_point(key(series + writer * 10_000), Point { time_s: START_S + nth, value });
        }
        batch
    };
    let runs = |nth: i64, writer: u64| -> Batch {
        let mut batch = Batch::with_capacity(10, 10_000);
        for series in 0..10 {
            let kind = MADE[series as usize % MADE.len()].1;
            let (mut random, mut state) = (Random(series * 31 + nth as u64), 0.0);
            let points: Vec<Point> =
                (0..1000).map(|at| Point { time_s: START_S + at, value: kind(&mut random, at, &mut state) }).collect();
            batch.push(key(series + 10 * (nth as u64 + 1000 * writer)), &points);
        }
        batch
    };
    type Make<'a> = &'a dyn Fn(i64, u64) -> Batch;
    for (what, make, writers) in [
        ("10,000 series, a point each per batch", &one_each as Make<'_>, 1_u64),
        ("10 series, 1,000 points each per batch", &runs, 1),
        ("10,000 series, a point each, 8 writers", &one_each, 8),
    ] {
        let each = 240 / writers as i64;
        let name = what.replace([' ', ','], "-");
        let store = Store::open(&dir.join(name), config(START_S + 1000).0)?;
        let batches: Vec<Vec<Batch>> =
            (0..writers).map(|writer| (0..each).map(|nth| make(nth, writer)).collect()).collect();
        let measured = measure();
        std::thread::scope(|threads| {
            for batches in &batches {
                let store = &store;
                threads.spawn(move || {
                    for batch in batches {
                        assert_eq!(store.append(batch).expect("appended").stored, 10_000);
                    }
                });
            }
        });
        let cost = measured();
        let points = (each * writers as i64 * 10_000) as f64;
        let rate = points / cost.elapsed.as_secs_f64();
        println!(
            "{what:<58} {rate:>12.0} {:>7.2} {:>12.0} {:>9.2} {:>9.2}",
            cost.cores,
            rate / cost.cores,
            store.stats().log_bytes as f64 / points,
            cost.elapsed.as_secs_f64() * 1000.0 / (each * writers as i64) as f64,
        );
        drop(store);
        let measured = measure();
        let store = Store::open(&dir.join(what.replace([' ', ','], "-")), config(START_S + 1000).0)?;
        let cost = measured();
        let rate = points / cost.elapsed.as_secs_f64();
        println!("{:<58} {rate:>12.0} {:>7.2} {:>12.0}", "    opened from the log", cost.cores, rate / cost.cores);
        drop(store);
    }
    println!();
    Ok(())
}

/// What a counter does from sample to sample.
type Kind = fn(&mut Random, i64, &mut f64) -> f64;

const MADE: [(&str, Kind); 6] = [
    ("MHz, whole, noise of 64", |random, _, _| 2300.0 + random.below(64) as f64),
    ("MHz, whole, noise of 600 and a daily wave", |random, nth, _| {
        (2300.0 + 500.0 * (nth as f64 / 1400.0).sin() + random.below(600) as f64).round()
    }),
    ("percent, 2 decimals, wandering", |random, _, state| {
        *state = (*state + random.below(200) as f64 / 100.0 - 1.0).clamp(-40.0, 40.0);
        ((50.0 + *state) * 100.0).round() / 100.0
    }),
    ("MiB, moving slowly", |random, _, state| {
        if random.below(6) == 0 {
            *state += random.below(33) as f64 - 16.0;
        }
        48_000.0 + *state
    }),
    ("KiB/s, bursts, 80 % zero", |random, _, _| match random.below(10) {
        0..8 => 0.0,
        8 => random.below(400) as f64,
        _ => random.below(60_000) as f64,
    }),
    ("seconds of CPU, a growing total with 2 decimals", |random, _, state| {
        *state += random.below(1000) as f64;
        *state / 100.0
    }),
];

fn compressing(dir: &Path) -> Result<()> {
    const SERIES: u64 = 500;
    println!(
        "{:<58} {:>9} {:>12} {:>12}",
        "two hours of 500 series at 10 s, sealed", "B a point", "sealed/s", "read back/s"
    );
    for (nth, (what, kind)) in MADE.into_iter().enumerate() {
        let store = Store::open(&dir.join(format!("kind-{nth}")), config(START_S + 7200).0)?;
        fill(&store, SERIES, |_| kind)?;
        let start = Instant::now();
        let points = store.seal_all()?;
        let sealed = points as f64 / start.elapsed().as_secs_f64();
        let bytes = store.stats().raw_bytes as f64 / points as f64;
        let start = Instant::now();
        let mut read = 0;
        for series in 0..SERIES {
            read += store.read(key(series), START_S, START_S + 7200, usize::MAX)?.len();
        }
        assert_eq!(read as u64, points);
        println!("{what:<58} {bytes:>9.3} {sealed:>12.0} {:>12.0}", read as f64 / start.elapsed().as_secs_f64());
    }
    println!();
    Ok(())
}

/// Two hours of series, in batches of all series with sixty points each.
fn fill(store: &Store, series: u64, kind_of: impl Fn(u64) -> Kind) -> Result<()> {
    let mut states = vec![0.0; series as usize];
    let mut random = Random(7);
    for chunk in 0..SAMPLES / 60 {
        let mut batch = Batch::with_capacity(series as usize, series as usize * 60);
        for (series, state) in states.iter_mut().enumerate() {
            for nth in chunk * 60..chunk * 60 + 60 {
                let value = kind_of(series as u64)(&mut random, nth, state);
                batch.push_point(key(series as u64), Point { time_s: START_S + nth * INTERVAL_S, value });
            }
            if batch.points() > 500_000 {
                store.append(&batch)?;
                batch.clear();
            }
        }
        store.append(&batch)?;
    }
    Ok(())
}

/// Hours of 10,000 series in a row while the background loop seals, rolls up and merges.
fn sustained(dir: &Path) -> Result<()> {
    const SERIES: u64 = 10_000;
    const BATCHES: i64 = 2500;
    let (config, clock) = config(START_S);
    let config = Config { head_bytes_max: 256 << 20, raw_retention_s: 3600, ..config };
    let store = Store::open(&dir.join("sustained"), config)?;
    let is_over = AtomicBool::new(false);
    let measured = measure();
    let mut times = Vec::new();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                store.wait_for_work(Duration::from_millis(100));
                store.housekeep().expect("keeps house");
            }
        });
        let mut states = vec![0.0; SERIES as usize];
        let mut random = Random(3);
        for nth in 0..BATCHES {
            let mut batch = Batch::with_capacity(SERIES as usize, SERIES as usize);
            for (series, state) in states.iter_mut().enumerate() {
                let value = MADE[series % MADE.len()].1(&mut random, nth, state);
                batch.push_point(key(series as u64), Point { time_s: START_S + nth * INTERVAL_S, value });
            }
            clock.store(START_S + nth * INTERVAL_S, Ordering::Relaxed);
            let start = Instant::now();
            while store.append(&batch).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
            times.push(start.elapsed());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let cost = measured();
    let total: Duration = times.iter().sum();
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let points = (BATCHES * SERIES as i64) as f64;
    let stats = store.stats();
    println!("25 million points of 10,000 series (7 hours), 10,000 a batch, with housekeeping");
    println!("{:<58} {:>10.0}", "points/s, of the time spent appending", points / total.as_secs_f64());
    println!("{:<58} {:>10.2}", "cores, with making the points", cost.cores);
    println!("{:<58} {:>10.2}", "ms an append: median", ms(times[times.len() / 2]));
    println!("{:<58} {:>10.2}", "    99 of 100", ms(times[times.len() * 99 / 100]));
    println!("{:<58} {:>10.2}", "    longest", ms(times[times.len() - 1]));
    println!("{:<58} {:>10}", "parts", stats.parts);
    println!("{:<58} {:>10.3}", "B a raw point", stats.raw_bytes as f64 / stats.raw_points as f64);
    println!("{:<58} {:>10.1}", "MiB on disk: raw", stats.raw_bytes as f64 / 1048576.0);
    println!("{:<58} {:>10.1}", "    rollups", (stats.five_minutes_bytes + stats.hour_bytes) as f64 / 1048576.0);
    println!("{:<58} {:>10.1}\n", "    log", stats.log_bytes as f64 / 1048576.0);
    Ok(())
}

fn reading(dir: &Path) -> Result<()> {
    const SERIES: u64 = 10_000;
    println!(
        "{:<58} {:>10} {:>10} {:>10}",
        "reading 100 of 10,000 series (mixed kinds)", "median ms", "best ms", "points"
    );
    let (config, clock) = config(START_S + 7200);
    let store = Store::open(&dir.join("reading"), config)?;
    fill(&store, SERIES, |series| MADE[series as usize % MADE.len()].1)?;
    let hour = |store: &Store, first: u64| -> Result<usize> {
        let mut points = 0;
        for series in 0..100 {
            points += store.read(key(first + series * 97 % SERIES), START_S + 1800, START_S + 5400, usize::MAX)?.len();
        }
        Ok(points)
    };
    row("an hour, from memory", || hour(&store, 0))?;
    let start = Instant::now();
    let points = store.seal_all()?;
    println!(
        "{:<58} {:>10.0} points/s, {:.3} B a point",
        "    sealed",
        points as f64 / start.elapsed().as_secs_f64(),
        store.stats().raw_bytes as f64 / points as f64
    );
    row("an hour, from parts", || hour(&store, 0))?;
    row("5 minutes, from parts", || {
        let mut points = 0;
        for series in 0..100 {
            points += store.read(key(series * 97), START_S + 3000, START_S + 3300, usize::MAX)?.len();
        }
        Ok(points)
    })?;
    let rollups = |store: &Store| -> Result<usize> {
        let mut rollups = 0;
        for series in 0..100 {
            rollups += store.read_tier(key(series * 97), Tier::FiveMinutes, START_S, START_S + 7200, usize::MAX)?.len();
        }
        Ok(rollups)
    };
    row("two hours of 5-minute rollups, made from points", || rollups(&store))?;
    clock.fetch_add(30 * 3600, Ordering::Relaxed);
    let start = Instant::now();
    store.housekeep()?;
    let stats = store.stats();
    println!(
        "{:<58} {:>10.0} points/s, {:.2} B a 5-minute rollup, {:.2} B an hourly one",
        "    rolled up",
        points as f64 / start.elapsed().as_secs_f64(),
        stats.five_minutes_bytes as f64 / (SERIES * 24) as f64,
        stats.hour_bytes as f64 / (SERIES * 2) as f64
    );
    row("two hours of 5-minute rollups, stored", || rollups(&store))?;
    println!();
    Ok(())
}

fn row(what: &str, mut read: impl FnMut() -> Result<usize>) -> Result<()> {
    let mut times = Vec::new();
    let mut points = 0;
    for _ in 0..100 {
        let start = Instant::now();
        points = read()?;
        times.push(start.elapsed());
    }
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("{what:<58} {:>10.3} {:>10.3} {:>10}", ms(times[50]), ms(times[0]), points);
    Ok(())
}

/// What series cost that have a past and no present.
fn idle(dir: &Path) -> Result<()> {
    const SERIES: u64 = 100_000;
    let path = dir.join("idle");
    let (config, _) = config(START_S + 7200);
    let store = Store::open(&path, config.clone())?;
    for nth in 0..12 {
        let mut batch = Batch::with_capacity(SERIES as usize, SERIES as usize);
        for series in 0..SERIES {
            batch.push_point(key(series), Point { time_s: START_S + nth * 600, value: series as f64 });
        }
        store.append(&batch)?;
    }
    let waiting = store.stats().memory_bytes;
    let start = Instant::now();
    store.seal_all()?;
    let sealed = start.elapsed();
    let idle = store.stats().memory_bytes;
    let start = Instant::now();
    assert_eq!(store.series().len() as u64, SERIES);
    let listed = start.elapsed();
    drop(store);
    let start = Instant::now();
    let store = Store::open(&path, config)?;
    let opened = start.elapsed();
    println!("100,000 series");
    println!("{:<58} {:>10.1}", "bytes of memory a series, 12 points waiting", waiting as f64 / SERIES as f64);
    println!("{:<58} {:>10.1}", "bytes of memory an idle series", idle as f64 / SERIES as f64);
    println!("{:<58} {:>10.1}", "ms to seal them", sealed.as_secs_f64() * 1000.0);
    println!("{:<58} {:>10.1}", "ms to list them", listed.as_secs_f64() * 1000.0);
    println!("{:<58} {:>10.1}", "ms to open the store", opened.as_secs_f64() * 1000.0);
    drop(store);
    Ok(())
}

/// What took so long, in time and in processor time.
struct Cost {
    elapsed: Duration,
    cores: f64,
}

/// Begins to measure; the answer ends it.
fn measure() -> impl FnOnce() -> Cost {
    let (start, cpu) = (Instant::now(), cpu_time());
    move || {
        let elapsed = start.elapsed();
        Cost { elapsed, cores: (cpu_time() - cpu).as_secs_f64() / elapsed.as_secs_f64() }
    }
}

/// Processor time of this process and its threads so far, to the hundredth of a second; zero where `/proc` does not tell.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses and may hold blanks; user and system time are the 14th and 15th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// Random numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
