//! What a net change costs when ten of many resources changed, what a page of a full copy costs, and what the index takes.
//!
//! `cargo bench -p lockstep-site --bench epochs [-- RESOURCES]`; the directory is made under `TMPDIR`. Each figure is for a thousand resources and for
//! RESOURCES (a million), so that one sees what grows.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::{Document, Position, ResourceId, Value};
use lockstep_site::epochs::{NetChange, Place};
use lockstep_site::{Config, Site};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const TYPE: &str = "Tracked";
const BATCH: usize = 500;
const PAGE: usize = 1000;
const REPEATS: usize = 201;

/// Counts the bytes that are in use.
struct Counting(AtomicUsize);

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(AtomicUsize::new(0));

fn main() -> Result<()> {
    let many = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let few = measure(1000)?;
    let many = measure(many)?;
    println!("{:<44} {:>12} {:>12} {:>6}", "", few.resources, many.resources, "ratio");
    for (what, few, many) in [
        ("net change of ten", few.ten, many.ten),
        ("net change of ten, taken back", few.ten_back, many.ten_back),
        ("page of a full copy", few.page, many.page),
    ] {
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        println!("{:<44} {:>9.1} us {:>9.1} us {ratio:>6.2}", what, micros(few), micros(many));
    }
    println!("{:<44} {:>12} {:>9.2} s", "open", "", many.open.as_secs_f64());
    println!("{:<44} {:>12} {:>9.2} s", "open, nothing tracked", "", many.open_untracked.as_secs_f64());
    println!("{:<44} {:>12} {:>10} B", "index a resource", "", many.index_bytes / many.resources);
    println!("{:<44} {:>12} {:>10} B", "all else a resource", "", many.other_bytes / many.resources);
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

struct Measured {
    resources: usize,
    ten: Duration,
    ten_back: Duration,
    page: Duration,
    open: Duration,
    open_untracked: Duration,
    index_bytes: usize,
    other_bytes: usize,
}

fn open(dir: &Path, epoch_types: Vec<String>) -> Result<Arc<Site>> {
    let config = Config {
        name: "bench".to_owned(),
        data_dir: dir.to_owned(),
        journal: lockstep_journal::Config::default(),
        query_limits: Default::default(),
        sessions: Default::default(),
        epoch_types,
    };
    Ok(Site::open(config, &mut |_| {})?)
}

fn id(n: usize) -> ResourceId {
    ResourceId::new(TYPE, format!("{:08x}-0000-4000-8000-{n:012x}", n.wrapping_mul(2_654_435_761) as u32))
}

fn document(n: usize, number: i64) -> Document {
    Document::new(vec![
        ("name".into(), Value::String(format!("specification {n}").into())),
        ("interval".into(), Value::Long(number)),
        ("counter".into(), Value::from("cpu.capacity.usage.HOST")),
    ])
}

fn batch(changes: impl Iterator<Item = (ResourceId, Operation, Expect)>) -> Batch {
    let change = |(id, operation, expect)| (Change { id, operation, parents: [].into() }, expect);
    Batch { author: "bench".into(), changes: changes.map(change).collect(), relies_on: Vec::new() }
}

fn create(n: usize) -> (ResourceId, Operation, Expect) {
    (id(n), Operation::Create(document(n, 10)), Expect::Absent)
}

fn update(site: &Site, n: usize, number: i64) -> (ResourceId, Operation, Expect) {
    let view = site.view();
    let stored = view.get(&id(n)).unwrap_or_else(|| panic!("no {n}"));
    (id(n), Operation::Update(stored.document.diff(&document(n, number))), Expect::At(stored.modified))
}

fn delete(site: &Site, n: usize) -> (ResourceId, Operation, Expect) {
    let view = site.view();
    let stored = view.get(&id(n)).unwrap_or_else(|| panic!("no {n}"));
    (id(n), Operation::Delete(stored.document), Expect::At(stored.modified))
}

/// The present second, closed.
fn close(runtime: &tokio::runtime::Runtime, site: &Site) -> Result<i64> {
    let now_s = site.log_now_s();
    runtime.block_on(site.close_epoch(now_s))?;
    Ok(now_s)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The median time of a page, and the last of them.
fn time(site: &Site, start_s: i64, end_s: i64, after: Option<&Place>) -> Result<(Duration, NetChange)> {
    let mut times = Vec::new();
    let mut last = NetChange::default();
    for _ in 0..REPEATS {
        let after = after.cloned();
        let begun = Instant::now();
        last = site.net_change(TYPE, start_s, end_s, after, PAGE)?;
        times.push(begun.elapsed());
    }
    Ok((median(times), last))
}

fn measure(resources: usize) -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let site = open(dir.path(), vec![TYPE.to_owned()])?;
    for first in (0..resources).step_by(BATCH) {
        runtime.block_on(site.commit(batch((first..resources.min(first + BATCH)).map(create))))?;
    }
    site.journal().compact(Position(site.position().0))?;
    drop(site);

    let opened = |epoch_types: Vec<String>| -> Result<(Duration, usize, Arc<Site>)> {
        let (before, begun) = (ALLOCATOR.0.load(Ordering::Relaxed), Instant::now());
        let site = open(dir.path(), epoch_types)?;
        Ok((begun.elapsed(), ALLOCATOR.0.load(Ordering::Relaxed) - before, site))
    };
    let (open_untracked, other_bytes, untracked) = opened(Vec::new())?;
    untracked.close();
    drop(untracked);
    // The thread that applies commits ends when it sees that the site is gone.
    std::thread::sleep(Duration::from_secs(2));
    let (open, all_bytes, site) = opened(vec![TYPE.to_owned()])?;

    let start_s = close(&runtime, &site)?;
    // Over the whole range of ids: three changed, three deleted, four made.
    let step = resources / 7;
    let changes = (0..3).map(|n| update(&site, n * step, 20)).collect::<Vec<_>>();
    let changes =
        changes.into_iter().chain((3..6).map(|n| delete(&site, n * step))).chain((0..4).map(|n| create(resources + n)));
    runtime.block_on(site.commit(batch(changes.collect::<Vec<_>>().into_iter())))?;
    let end_s = close(&runtime, &site)?;
    let (ten, found) = time(&site, start_s, end_s, None)?;
    assert_eq!((found.created.len(), found.updated.len(), found.deleted.len(), found.next), (4, 3, 3, None));
    // The order by id is built by the first who needs it.
    let first = site.net_change(TYPE, 0, end_s, None, PAGE / 10)?;
    let (page, found) = time(&site, 0, end_s, first.next.as_ref())?;
    assert!(found.created.len() > PAGE / 2);
    // All that changed changes again, so that the end must be worked out.
    let changes: Vec<_> = (0..3).map(|n| update(&site, n * step, 30)).collect();
    let created: Vec<_> = (0..4).map(|n| delete(&site, resources + n)).collect();
    runtime.block_on(site.commit(batch(changes.into_iter().chain(created))))?;
    let (ten_back, found) = time(&site, start_s, end_s, None)?;
    assert_eq!((found.created.len(), found.updated.len(), found.deleted.len()), (4, 3, 3));
    assert!(found.updated.iter().all(|(_, document)| document.get("interval") == Some(&Value::Long(20))));
    let index_bytes = all_bytes.saturating_sub(other_bytes);
    Ok(Measured { resources, ten, ten_back, page, open, open_untracked, index_bytes, other_bytes })
}
