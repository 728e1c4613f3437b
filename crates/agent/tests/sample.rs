//! The counters of the machine that runs the tests, against what its files and the usual tools say at the same time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_agent::HostReader;
use lockstep_agent::sample::{Now, Sampler, Worker};
use lockstep_contract::counters::{COUNTERS, CounterSet, ResourceKind, counter};
use lockstep_contract::services::stats::acq_specs::{CounterSpec, Status};
use lockstep_contract::services::stats::cache::AcqSpec;
use lockstep_contract::services::stats::counters::Units;
use lockstep_contract::services::stats::{Predicate, RsrcId};

fn spec(set: CounterSet) -> AcqSpec {
    AcqSpec {
        endpoints: Vec::new(),
        counters: CounterSpec { cid_mid: None, set_id: Some(set.id()) },
        resources: vec![RsrcId {
            key: None,
            resource_type: Some(set.kind.name().to_owned()),
            id_value: String::new(),
            predicate: Some(Predicate::All),
            scheme: None,
        }],
        interval: 1,
        expiration: i64::MAX,
        memo_: String::new(),
        id: set.id(),
        status_reason: String::new(),
        status: Status::Enabled,
    }
}

/// The counters of hosts, over the time that `work` takes: the times of readings by the real clock, of ticks by this test's.
fn sample(work: impl FnOnce()) -> BTreeMap<String, f64> {
    let mut worker = Worker::new(Sampler::new());
    let specs: Vec<AcqSpec> =
        CounterSet::all().into_iter().filter(|set| set.kind == ResourceKind::Host).map(spec).collect();
    worker.set(&specs, Now { wall_ms: 1_000_500, monotonic: Duration::ZERO });
    work();
    let pass = worker.pass(Now { wall_ms: 1_001_000, monotonic: Duration::from_millis(500) });
    let host_id = Sampler::new().host_id().to_string();
    assert!(pass.batch.series.iter().all(|series| series.address[0].id == host_id && series.times == [1001]));
    pass.batch
        .series
        .into_iter()
        .map(|series| (series.cid.trim_end_matches(".HOST").to_owned(), series.values[0]))
        .collect()
}

/// Counts of the kernel that only grow, each the sum of a field over the lines that begin so.
fn counts() -> Vec<(&'static str, f64)> {
    let field = |path: &str, is_wanted: &dyn Fn(&[&str]) -> bool, at: usize| -> f64 {
        let text = fs::read_to_string(path).unwrap().replace(':', ": ");
        let lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        lines.filter(|fields| is_wanted(fields)).map(|fields| fields[at].parse::<f64>().unwrap()).sum()
    };
    let is_disk = |fields: &[&str]| fs::exists(format!("/sys/block/{}/device", fields[2])).unwrap();
    let is_nic =
        |fields: &[&str]| fs::exists(format!("/sys/class/net/{}/device", fields[0].trim_end_matches(':'))).unwrap();
    let named = |name: &'static str| move |fields: &[&str]| fields[0] == name;
    vec![
        ("cpu.switches.usage", field("/proc/stat", &named("ctxt"), 1)),
        ("cpu.tasks.forks", field("/proc/stat", &named("processes"), 1)),
        ("mem.faults.major", field("/proc/vmstat", &named("pgmajfault"), 1)),
        ("disk.requests.write", field("/proc/diskstats", &is_disk, 7)),
        ("disk.throughput.read", field("/proc/diskstats", &is_disk, 5) / 2.0),
        ("disk.throughput.write", field("/proc/diskstats", &is_disk, 9) / 2.0),
        ("net.throughput.receive", field("/proc/net/dev", &is_nic, 1) / 1024.0),
        ("net.packets.transmit", field("/proc/net/dev", &is_nic, 10)),
    ]
}

#[test]
fn rates_are_those_of_the_kernels_counts() {
    // Counted by hand outside of what is sampled and inside of it: the rate must lie between.
    let outer_start = (counts(), Instant::now());
    let mut inner = Vec::new();
    let values = sample(|| {
        inner.push((counts(), Instant::now()));
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        file.write_all(&vec![7; 16 << 20]).unwrap();
        file.as_file().sync_all().unwrap();
        Command::new("true").status().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        inner.push((counts(), Instant::now()));
    });
    let outer_end = (counts(), Instant::now());
    let outer_s = (outer_end.1 - outer_start.1).as_secs_f64();
    let inner_s = (inner[1].1 - inner[0].1).as_secs_f64();
    for (at, (name, start)) in outer_start.0.iter().enumerate() {
        let least = (inner[1].0[at].1 - inner[0].0[at].1) / outer_s;
        let most = (outer_end.0[at].1 - start) / inner_s;
        let value = values[*name];
        // Values are rounded to a unit at most.
        assert!(least - 1.0 <= value && value <= most + 1.0, "{name}: {value} is not in {least}..{most}");
    }
    assert!(values["disk.throughput.write"] * outer_s >= 16.0 * 1024.0 * 0.5 || values["disk.requests.write"] > 0.0);
}

#[test]
fn time_of_processors_is_that_of_proc_stat() {
    let ticks = || -> Vec<f64> {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        stat.lines().next().unwrap().split_ascii_whitespace().skip(1).map(|text| text.parse().unwrap()).collect()
    };
    let mut start = Vec::new();
    let mut end = Vec::new();
    let values = sample(|| {
        start = ticks();
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            std::hint::black_box(0u64);
        }
        end = ticks();
    });
    let spent: Vec<f64> = start.iter().zip(&end).map(|(start, end)| end - start).collect();
    let total: f64 = spent.iter().take(8).sum();
    let idle = (spent[3] + spent[4] + spent[7]) / total * 100.0;
    let near = |name: &str, expected: f64| {
        let value = values[name];
        assert!((value - expected).abs() <= 5.0, "{name}: {value}, expected {expected}");
    };
    near("cpu.utilization.usage", 100.0 - idle);
    near("cpu.time.user", (spent[0] - spent[8]) / total * 100.0);
    near("cpu.time.system", spent[2] / total * 100.0);
    near("cpu.time.idle", spent[3] / total * 100.0);
    let parts = ["user", "nice", "system", "idle", "iowait", "irq", "steal", "guest"];
    let sum: f64 = parts.iter().map(|part| values[&format!("cpu.time.{part}")]).sum();
    assert!((sum - 100.0).abs() < 0.1, "{sum}");
    let cpus = values["cpu.corecount.provisioned"];
    assert_eq!(cpus, std::thread::available_parallelism().unwrap().get() as f64);
    assert!((values["cpu.corecount.usage"] - cpus * values["cpu.utilization.usage"] / 100.0).abs() < 0.02);
}

#[test]
fn memory_is_that_of_free_and_space_that_of_df() {
    let printed = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
        let text = output.ok().filter(|output| output.status.success()).map(|o| String::from_utf8(o.stdout).unwrap());
        if text.is_none() {
            eprintln!("skipped: {program} is not there");
        }
        text
    };
    // Other tests and builds take and give memory and space meanwhile.
    let near = |value: f64, bytes: f64, what: &str| {
        let expected = bytes / 1048576.0;
        assert!((value - expected).abs() <= 300.0, "{what}: {value}, expected {expected}");
    };
    let values = sample(|| std::thread::sleep(Duration::from_millis(150)));
    if let Some(free) = printed("free", &["-b", "-w"]) {
        let line = |name: &str| -> Vec<f64> {
            let line = free.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect()
        };
        let (memory, swap) = (line("Mem:"), line("Swap:"));
        assert_eq!(values["mem.capacity.provisioned"], (memory[0] / 1048576.0 * 10.0).round() / 10.0);
        near(values["mem.capacity.free"], memory[2], "free");
        near(values["mem.shared.usage"], memory[3], "shared");
        near(values["mem.buffers.usage"], memory[4], "buffers");
        near(values["mem.capacity.available"], memory[6], "available");
        assert_eq!(values["mem.swap.provisioned"], swap[0] / 1024.0);
        let all = values["mem.capacity.usage"] + values["mem.capacity.available"];
        assert!((all - values["mem.capacity.provisioned"]).abs() < 0.2);
    }
    let observed = HostReader::new().read().unwrap();
    let mounts = observed.iter().filter(|observed| observed.resource_type == "Datastore");
    let points: Vec<&str> = mounts.map(|store| store.properties["mount_point"].as_str().unwrap()).collect();
    if let (Some(capacity), false) = (values.get("disk.capacity.provisioned"), points.is_empty())
        && let Some(df) = printed("df", &[&["-B1", "--output=size,used"], points.as_slice()].concat())
    {
        let column = |at: usize| -> f64 {
            df.lines().skip(1).map(|l| l.split_ascii_whitespace().nth(at).unwrap().parse::<f64>().unwrap()).sum()
        };
        near(*capacity, column(0), "size");
        near(values["disk.capacity.usage"], column(1), "used");
    }
}

#[test]
fn what_is_offered_has_values_and_nothing_else_has() {
    let values = sample(|| std::thread::sleep(Duration::from_millis(300)));
    let offered = Sampler::new().offered();
    eprintln!(
        "not offered here: {:?}",
        COUNTERS.iter().map(|c| c.cid).filter(|cid| !offered.contains(cid)).collect::<Vec<_>>()
    );
    for counter in COUNTERS.iter().filter(|counter| counter.kind == ResourceKind::Host) {
        let value = values.get(counter.metric);
        assert_eq!(value.is_some(), offered.contains(&counter.cid), "{}", counter.cid);
        let Some(value) = value else { continue };
        assert!(value.is_finite() && *value >= 0.0, "{}: {value}", counter.cid);
        let may_pass_100 = counter.metric == "mem.reservedCapacityPct";
        assert!(counter.units != Units::Percent || *value <= 100.0 || may_pass_100, "{}: {value}", counter.cid);
        assert_eq!(counter.round(*value), *value, "{} is rounded", counter.cid);
    }
    assert!(offered.len() > 80, "{}", offered.len());
    assert!(offered.iter().all(|cid| counter(cid).is_some()));
}

#[test]
fn ids_are_those_of_the_inventory() {
    let observed = HostReader::new().read().unwrap();
    assert_eq!(**Sampler::new().host_id(), *observed[0].id);
}
