//! Collectors under churn: a source with 500 changes a second, a simulator that is renamed all the time, and this machine with a virtual
//! machine that comes and goes, all in one server. The feed has exactly what happened, and memory does not grow.
//!
//! `LOCKSTEP_CHURN_SECONDS=3600` for the long run.

mod driver;
mod follower;
mod machine;
mod process;
#[path = "../../../vsphere/tests/support/session.rs"]
mod session;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Server, eventually};
use crate::vcenter::{self, Vcsim};

use self::follower::{Follower, SIMULATED, Seen};
use self::machine::{Machine, PATHS, is_machine};
use self::process::Process;
use self::source::Source;

/// Changes a second at the source.
const RATE: u64 = 500;

/// Renames a second at the simulator.
const RENAMES: u64 = 10;

/// How long what has happened may take to be here on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

/// So many changes the feed goes back, so that an hour's log does not fill the disk.
const RETAINED: &str = "100000";

/// A run of that length shows whether memory grows.
const LONG: Duration = Duration::from_secs(300);

/// Memory may differ by so many parts in a hundred from how it was at the beginning.
const GROWTH_PERCENT: u64 = 10;

fn export(server: &Server, resource_type: &str) -> HashMap<String, Value> {
    let output = server.cli(&["export", "--type", resource_type]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let resources = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    resources.map(|one| (one["id"].as_str().unwrap().to_owned(), one["properties"].clone())).collect()
}

/// Property for property.
fn assert_equal(server: &Server, machines: &BTreeMap<u32, Machine>) {
    let mut here = export(server, "VirtualMachine");
    for (number, there) in machines {
        let id = machine::id(*number);
        let stored = here.remove(&id).unwrap_or_else(|| panic!("{id} is not here"));
        for (path, _) in PATHS {
            assert_eq!(stored.get(path), there.value(*number, path).as_ref(), "{id} {path}");
        }
        assert_eq!(stored["collected_by"]["id"], "churn", "{id}");
    }
    let left: Vec<&String> = here.keys().filter(|id| is_machine(id)).collect();
    assert!(left.is_empty(), "not at the source any more: {left:?}");
}

/// Memory at a moment, in KiB, since the beginning.
type Sample = (Duration, u64);

/// The middle one of those between two moments.
fn median(samples: &[Sample], from: Duration, to: Duration) -> Option<u64> {
    let mut within: Vec<u64> = samples.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, kib)| *kib).collect();
    within.sort_unstable();
    within.get(within.len() / 2).copied()
}

fn power_state(server: &Server, name: &str) -> Value {
    let filter = json!({"filter_type": "PROPERTY", "property_filter": {"property": "VirtualMachine/name",
        "operator": "EQUAL", "comparable_type": "STRING", "comparable_string": name}});
    let spec = json!({"resource_filter": filter, "property_spec": ["VirtualMachine/power_state"]});
    server.query(spec).pointer("/items/0/property_values/0/value").cloned().unwrap_or_default()
}

/// Queries whose indexes, once they are built, are kept in step with every change.
fn ask(server: &Server) {
    let filter = |property: &str, operator: &str, text: &str| {
        json!({"filter_type": "PROPERTY", "property_filter": {"property": format!("VirtualMachine/{property}"),
            "operator": operator, "comparable_type": "STRING", "comparable_string": text}})
    };
    for (filter, sorted_by) in [
        (filter("annotation", "CONTAINS", "in order at inspection"), "VirtualMachine/name"),
        (filter("ip_address", "STARTS_WITH", "10."), "VirtualMachine/boot_time"),
        (filter("power_state", "EQUAL", "POWERED_ON"), "VirtualMachine/ip_address"),
    ] {
        let sort = [json!({"property": sorted_by, "sort_direction": "ASCENDING"})];
        let spec = json!({"resource_filter": filter, "property_spec": [sorted_by], "sort_criteria": sort, "limit": 10});
        let answer = server.query(spec);
        assert_eq!(answer["items"].as_array().map(Vec::len), Some(10), "{answer}");
    }
}

/// Lets a virtual machine here come and go until it is told to stop; how many times it came.
fn come_and_go(server: &Server, name: &str, uuid: &str, hold: Duration, stop: &AtomicBool) -> usize {
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        let guest = driver::start_guest(name, uuid);
        count += 1;
        eventually(SOON, "the guest is on", || (power_state(server, name) == "POWERED_ON").then_some(()));
        std::thread::sleep(hold);
        drop(guest);
        eventually(SOON, "the guest is off", || (power_state(server, name) == "POWERED_OFF").then_some(()));
    }
    count
}

/// Ends what runs until it is told to stop, also when the test fails in between.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What a run is of.
struct Plan {
    length: Duration,
    machines: u32,
    /// How often memory is looked at.
    sample: Duration,
    /// How long the guest is on.
    hold: Duration,
}

impl Plan {
    fn chosen() -> Self {
        let seconds = std::env::var("LOCKSTEP_CHURN_SECONDS").ok().and_then(|text| text.parse().ok());
        match seconds {
            Some(seconds) => Self {
                length: Duration::from_secs(seconds),
                machines: 2000,
                sample: Duration::from_secs(10),
                hold: Duration::from_secs(30),
            },
            None => Self {
                length: Duration::from_secs(6),
                machines: 300,
                sample: Duration::from_secs(1),
                hold: Duration::from_millis(100),
            },
        }
    }
}

#[test]
fn the_feed_has_exactly_what_happened_under_churn_and_memory_does_not_grow() {
    let plan = Plan::chosen();
    let with_simulator = vcenter::is_there();
    let with_guest = std::process::Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !with_guest {
        eprintln!("without a guest: no qemu-system-x86_64; scripts/test-tools.sh installs it");
    }
    let mut server = Server::start_with(&[
        "--plain-http",
        "--poll-limit",
        "1",
        "--retention-changes",
        RETAINED,
        "--retention-mib",
        "256",
    ]);
    let source = Source::start(plan.machines);
    collect(&server, &source);
    let simulator = with_simulator.then(|| Vcsim::start(&["-vm", "4", "-standalone-host", "0"]));
    if let Some(simulator) = &simulator {
        simulator.collect(&server, "sim", simulator.address());
    }
    // What the simulator starts by itself is over when nothing was told for a while.
    let token = eventually(SOON, "all is at rest", || {
        let token = server.sequence();
        std::thread::sleep(Duration::from_secs(1));
        (server.sequence() == token).then_some(token)
    });
    let seed = u64::from(std::process::id());
    let (name, uuid) = (format!("churn-{seed}"), format!("5f0c8ed6-0000-4000-8000-{seed:012x}"));
    let process = Process(server.pid());
    let (stop, stop_following, events) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let cpu_before = process.cpu();
    let mut samples: Vec<Sample> = Vec::new();
    let (seen, token, renamed, came) = std::thread::scope(|scope| {
        let (ending, ending_feed) = (Ending(&stop), Ending(&stop_following));
        let guest = with_guest.then_some(&*uuid);
        let follower = Follower::new(&server, &source, guest, &events);
        let follower = scope.spawn(|| follower.follow(token, &stop_following));
        let churn = scope.spawn(|| driver::churn(&source, RATE, &mut driver::Random::new(seed), &stop));
        let renaming = simulator.as_ref().map(|simulator| {
            let ids: Vec<String> = ["DC0_C0_RP0_VM0", "DC0_C0_RP0_VM1", "DC0_C0_RP0_VM2", "DC0_C0_RP0_VM3"]
                .map(|name| vcenter::vm_id(simulator, name))
                .into();
            let (address, stop) = (simulator.address(), &stop);
            scope.spawn(move || driver::Session::open(address).rename(&ids, RENAMES, stop))
        });
        let guest = with_guest.then(|| scope.spawn(|| come_and_go(&server, &name, &uuid, plan.hold, &stop)));
        let began = Instant::now();
        while began.elapsed() < plan.length && !follower.is_finished() && !churn.is_finished() {
            ask(&server);
            samples.push((began.elapsed(), process.resident_kib()));
            if samples.len().is_multiple_of(6) {
                let events = events.load(Ordering::Relaxed);
                eprintln!(
                    "{:?}: {events} events, {:?}, {} KiB",
                    began.elapsed(),
                    source.tally(),
                    samples[samples.len() - 1].1
                );
            }
            std::thread::sleep(plan.sample);
        }
        drop(ending);
        churn.join().unwrap();
        let renamed = renaming.map(|renaming| renaming.join().unwrap()).unwrap_or_default();
        let came = guest.map(|guest| guest.join().unwrap()).unwrap_or_default();
        let quieting = Instant::now();
        while !source.is_through() && !follower.is_finished() {
            assert!(quieting.elapsed() < SOON, "{}", source.missing());
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(simulator) = simulator.as_ref().filter(|_| !follower.is_finished()) {
            vcenter::equal(&server, simulator, SIMULATED, SOON);
        }
        drop(ending_feed);
        let (seen, token) = follower.join().unwrap();
        (seen, token, renamed, came)
    });
    let cpu = process.cpu() - cpu_before;
    report(&plan, &source, &seen, (renamed, came), cpu, &samples);
    assert_equal(&server, &source.machines());

    // The journal alone makes the same of it, and what is compared again then is no news.
    server.restart();
    eventually(SOON, "it is read again", || (source.tally().reads == 2 && source.is_through()).then_some(()));
    eventually(SOON, "it follows", || {
        let told = server.ok("GET", "/api/lockstep/collectors/churn", &json!(null));
        (told["phase"] == "FOLLOWING").then_some(())
    });
    assert_equal(&server, &source.machines());
    let (status, answer) = server.changes(&token);
    assert_eq!(status, 200, "{answer}");
    let changes = answer["value"]["changes"].as_array().cloned().unwrap_or_default();
    let stray = changes.iter().find(|change| change["resource"]["id"].as_str().is_some_and(is_machine));
    assert!(stray.is_none(), "{stray:?}");
    // Before its sources end.
    drop(server);
}

/// Lets a server collect from the source, and waits for the first read.
fn collect(server: &Server, source: &Source) {
    let password = server.data.path().join("source-password");
    std::fs::write(&password, "pass\n").unwrap();
    let mut command =
        server.cli(&["collect", "vcenter", &source.url(), "--name", "churn", "--source-username", "user"]);
    let output = command.arg("--source-password-file").arg(&password).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(source.tally().updates, 0, "the first read is over");
}

/// Says what came out, and whether memory grew.
fn report(plan: &Plan, source: &Source, seen: &Seen, outside: (u64, usize), cpu: Duration, samples: &[Sample]) {
    let tally = source.tally();
    let seconds = plan.length.as_secs().max(1);
    eprintln!(
        "{} changes of {} machines in {seconds} s ({}/s); {} updates told, {} of them nothing new; {} events in the feed, so \
         {} changes were told with another; {} values looked at",
        tally.changes,
        plan.machines,
        tally.changes / seconds,
        tally.updates,
        tally.noise,
        seen.events,
        tally.changes.saturating_sub(seen.events),
        seen.looks
    );
    let (renamed, came) = outside;
    eprintln!(
        "{renamed} renames at the simulator: {} events; a guest came {came} times: {} events; this machine besides: {:?}",
        seen.renames,
        seen.process.len(),
        seen.host
    );
    assert_eq!(seen.events, tally.expected, "the feed has what was told, and nothing else");
    assert_eq!((tally.logins, tally.reads), (2, 1), "one session, and one to try the password");
    assert!(seen.renames <= renamed, "{} of {renamed}", seen.renames);
    assert_eq!(seen.process.len(), 2 * came, "on and off: {:?}", seen.process);
    let (length, cpu_percent) = (plan.length, cpu.as_millis() * 100 / plan.length.as_millis().max(1));
    let (begin, end) = (median(samples, length / 12, length / 4), median(samples, length - length / 6, length));
    eprintln!("the server took {cpu_percent} % of a core; its memory went from {begin:?} to {end:?} KiB (medians)");
    // In a short run what is kept has not come to what it is to be.
    if let (Some(begin), Some(end), true) = (begin, end, length >= LONG) {
        assert!(end * 100 <= begin * (100 + GROWTH_PERCENT), "memory grew from {begin} to {end} KiB: {samples:?}");
    }
}
