//! How fast the embedded engine commits, in groups and in bulk, and how fast it opens.
//!
//! `cargo bench -p lockstep-journal [-- RESOURCES]`; the directory is made under `TMPDIR`, which should be the disk in question.
//! Each figure stands beside what the machine can do at best: the same bytes in bare writes and flushes.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use lockstep_journal::{Batch, Change, Config, Embedded, Engine, Expect, Operation, Replayed, Retention};
use lockstep_model::{Document, Name, Position, ResourceId, Value};

const WRITERS: usize = 64;
/// Commits of each writer. All batches are made beforehand: the clients' work is not the journal's.
const EACH: usize = 1500;
const BULK: usize = 500;
/// Batches under way at once in bulk: what an import keeps in flight.
const BULK_AHEAD: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let resources = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(300_000);
    let dir = tempfile::tempdir()?;
    println!("{:<40} {:>10} {:>6} {:>12} {:>10} {:>6}", "", "a second", "cores", "a core-sec.", "bare disk", "ratio");

    for writers in [WRITERS, 1] {
        let journal = Embedded::open(&dir.path().join(format!("grouped-{writers}")), Config::default(), &mut |_| {})?;
        let (cost, records) = (grouped(&journal, writers), writers * EACH);
        let stored = journal.disk_bytes().0 as usize / records;
        drop(journal);
        let bare = bare(dir.path(), stored * writers, writers)?;
        row(&format!("{writers} writers, a create of 1.6 kB each"), records, &cost, Some(bare));
    }

    let bulk_dir = dir.path().join("bulk");
    // Folding is measured by itself.
    let config = Config { fold_bytes_min: u64::MAX, retention: kept_for_ever(), ..Config::default() };
    let journal = Embedded::open(&bulk_dir, config.clone(), &mut |_| {})?;
    let cost = bulk(&journal, resources);
    let in_log = journal.disk_bytes().0 as usize / resources;
    row("bulk, batches of 500 creates", resources, &cost, Some(bare(dir.path(), in_log * BULK, BULK)?));
    drop(journal);

    replay(&bulk_dir, &config, "open, from the log", resources)?;
    let journal = Embedded::open(&bulk_dir, config.clone(), &mut |_| {})?;
    let measured = measure();
    journal.compact(journal.head())?;
    row("fold into a state", resources, &measured(), None);
    let in_state = journal.disk_bytes().1 as usize / resources;
    drop(journal);
    replay(&bulk_dir, &config, "open, from the state", resources)?;
    println!("bytes a resource: {in_log} in the log, {in_state} in the state");
    Ok(())
}

fn kept_for_ever() -> Retention {
    Retention { age: Duration::MAX, bytes_max: u64::MAX, changes_max: u64::MAX, ..Retention::default() }
}

fn row(what: &str, done: usize, cost: &Cost, bare: Option<f64>) {
    let rate = done as f64 / cost.elapsed.as_secs_f64();
    print!("{what:<40} {rate:>10.0} {:>6.2} {:>12.0}", cost.cores, rate / cost.cores);
    match bare {
        Some(bare) => println!(" {bare:>10.0} {:>6.2}", rate / bare),
        None => println!(" {:>10} {:>6}", "-", "-"),
    }
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

/// Writers that each wait for their commit before the next.
fn grouped(journal: &Embedded, writers: usize) -> Cost {
    let names = Names::new();
    let start = Barrier::new(writers + 1);
    let measured = std::thread::scope(|threads| {
        for writer in 0..writers {
            let (names, start) = (&names, &start);
            threads.spawn(move || {
                let batches: Vec<Batch> = (0..EACH).map(|n| batch(names, writer * EACH + n, 1)).collect();
                start.wait();
                for next in batches {
                    let (sender, outcome) = sync_channel(1);
                    journal.submit(next, Box::new(move |result| drop(sender.send(result))));
                    outcome.recv().expect("an answer").expect("committed");
                }
            });
        }
        start.wait();
        measure()
    });
    measured()
}

fn bulk(journal: &Embedded, resources: usize) -> Cost {
    let names = Names::new();
    let batches: Vec<Batch> = (0..resources / BULK).map(|n| batch(&names, n * BULK, BULK)).collect();
    let measured = measure();
    let (sender, outcomes) = channel();
    let mut under_way = 0;
    for batch in batches {
        if under_way == BULK_AHEAD {
            let outcome: Result<Position, _> = outcomes.recv().expect("an answer");
            outcome.expect("committed");
            under_way -= 1;
        }
        let sender = sender.clone();
        journal.submit(batch, Box::new(move |result| drop(sender.send(result))));
        under_way += 1;
    }
    for outcome in outcomes.iter().take(under_way) {
        outcome.expect("committed");
    }
    measured()
}

fn replay(dir: &Path, config: &Config, what: &str, resources: usize) -> Result<(), Box<dyn std::error::Error>> {
    let measured = measure();
    let mut seen = 0;
    let journal = Embedded::open(dir, config.clone(), &mut |replayed| {
        seen += match replayed {
            Replayed::Entry(_) => 1,
            Replayed::Commit(commit) => commit.changes.len(),
            Replayed::Tombstone(_) | Replayed::Complete(_) => 0,
        }
    })?;
    let cost = measured();
    assert_eq!(seen, resources / BULK * BULK);
    row(what, seen, &cost, None);
    drop(journal);
    Ok(())
}

/// Things a second, when `things` of them take one write of `bytes` and one flush.
fn bare(dir: &Path, bytes: usize, things: usize) -> std::io::Result<f64> {
    let mut file = File::create(dir.join("bare"))?;
    let (content, start) = (vec![0x5a; bytes], Instant::now());
    let mut writes = 0;
    while start.elapsed() < Duration::from_secs(2) {
        file.write_all(&content)?;
        file.sync_data()?;
        writes += 1;
    }
    Ok((writes * things) as f64 / start.elapsed().as_secs_f64())
}

/// Processor time of this process and its threads so far, to the hundredth of a second; zero where `/proc` does not tell.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses and may hold blanks; user and system time are the 14th and 15th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// Property names, shared as a model shares them.
struct Names {
    names: Vec<Name>,
}

const NAMES: [&str; 44] = [
    "name",
    "power_state",
    "cpu_count",
    "cores_per_socket",
    "memory_size_MiB",
    "guest_OS",
    "ip_address",
    "host",
    "resource_pool",
    "folder",
    "datastores",
    "networks",
    "tags",
    "template",
    "hardware_version",
    "instance_uuid",
    "created",
    "boot_time",
    "uptime_seconds",
    "guest",
    "hostname",
    "family",
    "tools",
    "running",
    "version",
    "ip_addresses",
    "stats",
    "cpu_usage_MHz",
    "memory_usage_MiB",
    "cpu_ready_percent",
    "storage",
    "committed",
    "uncommitted",
    "nics",
    "mac",
    "network",
    "connected",
    "disks",
    "capacity",
    "datastore",
    "custom",
    "owner",
    "cost_center",
    "annotation",
];

impl Names {
    fn new() -> Self {
        Self { names: NAMES.iter().map(|name| Name::from(*name)).collect() }
    }

    fn name(&self, name: &str) -> Name {
        NAMES.iter().position(|known| *known == name).map_or_else(|| name.into(), |at| self.names[at].clone())
    }

    fn fields<const N: usize>(&self, fields: [(&str, Value); N]) -> Vec<(Name, Value)> {
        fields.into_iter().map(|(name, value)| (self.name(name), value)).collect()
    }

    fn structure<const N: usize>(&self, fields: [(&str, Value); N]) -> Value {
        Value::Struct(self.fields(fields).into())
    }
}

/// A batch that creates virtual machines, each about 1.6 kB of JSON.
fn batch(names: &Names, first: usize, count: usize) -> Batch {
    let changes = (first..first + count).map(|n| {
        let id = ResourceId::new("VirtualMachine", format!("vm-{n}"));
        let parents: Arc<[ResourceId]> = [
            ResourceId::new("HostSystem", format!("host-{}", n % 997)),
            ResourceId::new("ClusterComputeResource", format!("domain-c{}", n % 61)),
            ResourceId::new("Datacenter", format!("datacenter-{}", n % 7)),
        ]
        .into();
        (Change { id, operation: Operation::Create(machine(names, n)), parents }, Expect::Absent)
    });
    Batch { author: "bench".into(), changes: changes.collect(), relies_on: Vec::new() }
}

fn machine(names: &Names, n: usize) -> Document {
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let id = |kind: &str, prefix: &str, n: u64| Value::from(ResourceId::new(kind, format!("{prefix}-{n}")));
    let text = |text: String| Value::String(text.into());
    let list = |items: Vec<Value>| Value::List(items.into());
    let address = || text(format!("10.{}.{}.{}", mixed >> 56, mixed >> 48 & 255, mixed >> 40 & 255));
    let nics = (0..1 + n as u64 % 2).map(|nic| {
        names.structure([
            ("mac", text(format!("00:50:56:{:02x}:{:02x}:{:02x}", mixed >> 8 & 255, mixed >> 16 & 255, nic))),
            ("network", id("Network", "network", mixed >> 20 & 255)),
            ("connected", Value::Boolean(true)),
        ])
    });
    let disks = (0..1 + n as u64 % 3).map(|disk| {
        names.structure([
            ("name", text(format!("Hard disk {}", disk + 1))),
            ("capacity", Value::Long(1 << (32 + disk))),
            ("datastore", id("Datastore", "datastore", mixed >> 30 & 1023)),
        ])
    });
    Document::new(names.fields([
        ("name", text(format!("prod-billing-fra1-{n:06}"))),
        ("power_state", text(if n.is_multiple_of(5) { "POWERED_OFF" } else { "POWERED_ON" }.to_owned())),
        ("cpu_count", Value::Long(1 << (n % 5))),
        ("cores_per_socket", Value::Long(1)),
        ("memory_size_MiB", Value::Long(1024 << (n % 6))),
        ("guest_OS", text(format!("UBUNTU_{}_64", n % 11))),
        ("ip_address", address()),
        ("host", id("HostSystem", "host", n as u64 % 997)),
        ("resource_pool", id("ResourcePool", "resgroup", mixed >> 24 & 63)),
        ("folder", id("Folder", "group", mixed >> 28 & 127)),
        ("datastores", list((0..2).map(|d| id("Datastore", "datastore", mixed >> (30 + d) & 1023)).collect())),
        ("networks", list(vec![id("Network", "network", mixed >> 20 & 255)])),
        ("tags", list((0..4).map(|t| id("Tag", "tag", mixed >> (33 + t * 3) & 127)).collect())),
        ("template", Value::Boolean(false)),
        ("hardware_version", text("VMX_19".to_owned())),
        ("instance_uuid", text(format!("{mixed:016x}-{:016x}", mixed.rotate_left(17)))),
        ("created", text(format!("2024-{:02}-{:02}T10:{:02}:00Z", 1 + n % 12, 1 + n % 28, n % 60))),
        ("boot_time", text(format!("2025-{:02}-{:02}T10:{:02}:00Z", 1 + n % 12, 1 + n % 27, n % 59))),
        ("uptime_seconds", Value::Long((mixed >> 40) as i64)),
        (
            "guest",
            names.structure([
                ("hostname", text(format!("prod-billing-fra1-{n:06}.example.com"))),
                ("family", text("LINUX".to_owned())),
                (
                    "tools",
                    names.structure([("running", Value::Boolean(true)), ("version", text(format!("12.{}.0", n % 9)))]),
                ),
                ("ip_addresses", list(vec![address(), text(format!("fe80::250:56ff:fe{:06x}", mixed & 0xff_ffff))])),
            ]),
        ),
        (
            "stats",
            names.structure([
                ("cpu_usage_MHz", Value::Long((mixed >> 50) as i64)),
                ("memory_usage_MiB", Value::Long((mixed >> 48) as i64)),
                ("cpu_ready_percent", Value::Double((mixed >> 54) as f64 / 100.0)),
            ]),
        ),
        (
            "storage",
            names.structure([
                ("committed", Value::Long((mixed >> 24) as i64)),
                ("uncommitted", Value::Long((mixed >> 25) as i64)),
            ]),
        ),
        ("nics", list(nics.collect())),
        ("disks", list(disks.collect())),
        (
            "custom",
            names.structure([
                ("owner", text(format!("team-{}@example.com", n % 300))),
                ("cost_center", text(format!("CC-{}", n % 40))),
            ]),
        ),
        ("annotation", text(format!("Provisioned by pipeline {n}, request REQ{:07}; owner team-{}", n * 7, n % 300))),
    ]))
}
