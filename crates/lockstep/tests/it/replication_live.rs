//! A guest that never stops writing, replicated between two real servers: each instance is exported and checked to the last block, also
//! when the destination, the source, QEMU or the scratch disk fails in the middle of a sync.
//!
//! The short form runs with the others. `LOCKSTEP_REPLICATION_LIVE=100` has a hundred syncs, and each failure ten times.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::availability::{Api, BLOCK, id_of, pair, start, wait_for_instances};
use crate::links::SOON;
use crate::replication::content;
use crate::server::{Server, eventually};
use guest::{Layout, Machine, Small, check_instant};

#[path = "../../../qemu/tests/live/guest.rs"]
mod guest;

/// Syncs of the short form.
const SYNCS: usize = 5;

/// Blocks of each disk that are damaged, for the check to find.
const FAULTS: usize = 3;

/// The write of the guest with which each cluster of 64 KiB of its images has been written to.
const ALLOCATED_AFTER: u32 = 3411;

/// How many syncs the full form has; none in the short one.
fn full() -> Option<usize> {
    std::env::var("LOCKSTEP_REPLICATION_LIVE").ok()?.parse().ok()
}

/// A guest, the servers between which it is replicated, and what is known of its instances.
struct Live {
    runtime: Runtime,
    machine: Machine,
    source: Server,
    destination: Server,
    api: Api,
    /// A session at the destination.
    exporter: Api,
    replication: String,
    /// After which writes of the guest the newest instance was taken.
    newest: (u32, u32),
}

impl Live {
    /// The first instance is there. None, with the reason printed, where there are no programs for the guest.
    fn start() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let machine = runtime.block_on(Machine::start(Layout::default()))?;
        let (source, destination) = pair(&[]);
        let disk =
            |index: usize| json!({"label": "disk", "path": machine.path(&format!("disk{index}")), "format": "qcow2"});
        let properties = json!({"name": "live", "power_state": "POWERED_ON", "memory_size_MiB": 32,
            "disks": [disk(0), disk(1)], "qemu": {"qmp_socket": machine.path("ours")}});
        let path = "/api/lockstep/resources/VirtualMachine/vm-1";
        source.ok("PUT", path, &json!({"properties": properties}));
        let api = Api::log_in(&source);
        runtime.block_on(machine.wait_writes(100));
        let retention = json!({"rules": [{"numberOfInstances": 3, "distance": 0}]});
        let task = api.done("POST", "/vm-replications", &start("vm-1", json!({"retentionPolicy": retention})));
        let replication = id_of(&task);
        wait_for_instances(&api, &replication, 1);
        let exporter = Api::log_in(&destination);
        Some(Self { runtime, machine, source, destination, api, exporter, replication, newest: (0, 0) })
    }

    fn path(&self) -> String {
        format!("/vm-replications/{}", self.replication)
    }

    /// Begins a sync; answers its task.
    fn begin(&self) -> Value {
        let (status, task) = self.api.call("POST", &format!("{}/sync", self.path()), &Value::Null);
        assert_eq!(status, 202, "{task}");
        task
    }

    /// Syncs after the guest has written something; answers the report.
    fn sync(&self) -> Value {
        self.guest_writes(50);
        self.report()
    }

    fn report(&self) -> Value {
        let task = self.api.ended(&self.begin(), "");
        assert_eq!(task["state"], "SUCCEEDED", "{task}");
        task["result"]["lastSync"].clone()
    }

    /// Syncs by the bitmap, and checks what came of it.
    fn sync_by_bitmap(&mut self) -> Value {
        let report = self.sync();
        assert_eq!((&report["method"], &report["reason"]), (&json!("LIVE_BITMAP"), &Value::Null), "{report}");
        self.check();
        report
    }

    /// The disks of the newest instance, as the destination exports them.
    fn export(&self) -> [Vec<u8>; 2] {
        let path = format!("/api/lockstep/replication{}/export", self.path());
        let begun = self.destination.ok("POST", &path, &json!({"directory": "newest"}));
        let task = self.exporter.ended(&begun, "");
        assert_eq!(task["state"], "SUCCEEDED", "{task}");
        let directory = self.destination.data.path().join("exports/newest");
        let disks = [2000, 2001].map(|key| std::fs::read(directory.join(format!("disk-{key}.raw"))).unwrap());
        std::fs::remove_dir_all(directory).unwrap();
        disks
    }

    /// The newest instance is of one instant, after the one that was the newest before; answers its disks.
    fn check(&mut self) -> [Vec<u8>; 2] {
        let disks = self.export();
        let found = check_instant(&disks[0], &disks[1]).unwrap();
        assert!(found > self.newest, "{found:?} after {:?}", self.newest);
        self.newest = found;
        disks
    }

    /// Waits until the guest has made so many writes more: it stands still neither for us nor for an error.
    fn guest_writes(&self, count: u32) {
        self.runtime.block_on(self.machine.wait_writes(count));
    }

    fn guest_errors(&self) -> u32 {
        self.runtime.block_on(self.machine.errors())
    }

    /// Waits until the machine has a point in time open.
    fn wait_for_point(&self) {
        let exports = || self.runtime.block_on(self.machine.control("query-block-exports", Value::Null));
        eventually(SOON, "a point in time of the machine", || (exports().as_array().unwrap().len() == 2).then_some(()));
    }

    /// How long the guest stood still since this was asked last, by QEMU's own clock and seen by somebody else.
    fn pause(&self) -> Duration {
        let events = self.machine.control.as_ref().unwrap().take_events();
        let time = |name: &str| events.iter().rev().find(|event| event.name == name).map(|event| event.time);
        time("RESUME").unwrap() - time("STOP").unwrap()
    }
}

/// Has a process stand still, or go on.
fn signal(server: &Server, name: &str) {
    assert!(Command::new("kill").args([name, &server.pid().to_string()]).status().unwrap().success());
}

#[test]
fn each_instance_of_a_guest_that_writes_is_one_instant() {
    let Some(mut live) = Live::start() else { return };
    let began = Instant::now();
    let syncs = full().unwrap_or(SYNCS);
    let (mut pauses, mut before) = (Vec::new(), live.check());
    for nth in 1..=syncs {
        let report = live.sync();
        assert_eq!((&report["method"], &report["reason"]), (&json!("LIVE_BITMAP"), &Value::Null), "{report}");
        // What is told of the pause is what it was.
        let pause = live.pause();
        assert_eq!(report["pauseMs"].as_u64().map(u128::from), Some(pause.as_millis()), "{report}");
        pauses.push(pause);
        let disks = live.check();
        if nth == syncs {
            faults_are_seen(&before, disks);
            break;
        }
        before = disks;
    }
    assert_eq!(live.guest_errors(), 0);
    pauses.sort();
    let at = |percent: usize| pauses[(pauses.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1e3;
    println!(
        "{syncs} syncs of a guest that made {} writes, in {:.1} s: the pause was {:.1} ms p50, {:.1} ms p99, {:.1} ms at most",
        live.newest.0,
        began.elapsed().as_secs_f64(),
        at(50),
        at(99),
        at(100)
    );
    if full().is_some() {
        assert!(at(99) <= 100.0, "the guest stood still for {:.1} ms", at(99));
    }
}

/// The check would have seen an instance that is not what it should be.
fn faults_are_seen(before: &[Vec<u8>; 2], mut now: [Vec<u8>; 2]) {
    let seen = |first: &[u8], second: &[u8], words: &str| {
        let found = check_instant(first, second).unwrap_err();
        assert!(found.contains(words), "{found}");
    };
    // Disks of two instances.
    seen(&now[0], &before[1], "disk 1 after write");
    seen(&before[0], &now[1], "disk 1 after write");
    let last = check_instant(&now[0], &now[1]).unwrap().0.to_le_bytes();
    for disk in 0..2 {
        // Without the very last write, a disk is what it was after the write before: that block is no fault to find.
        let is_fault = |block: &usize| {
            let (now, before) = (block_of(&now[disk], *block), block_of(&before[disk], *block));
            now != before && !now.chunks_exact(4).any(|number| number == last)
        };
        let faulty: Vec<usize> = (0..now[disk].len() / BLOCK).filter(is_fault).take(FAULTS).collect();
        for block in faulty {
            let right = block_of(&now[disk], block).to_vec();
            let mut one_bit = right.clone();
            one_bit[BLOCK / 2] ^= 4;
            // Left as it was, one bit of it turned, and dropped.
            for wrong in [block_of(&before[disk], block), &one_bit, &[0; BLOCK]] {
                now[disk][block * BLOCK..][..BLOCK].copy_from_slice(wrong);
                seen(&now[0], &now[1], &format!("disk {disk}"));
            }
            now[disk][block * BLOCK..][..BLOCK].copy_from_slice(&right);
        }
    }
    check_instant(&now[0], &now[1]).unwrap();
}

fn block_of(image: &[u8], block: usize) -> &[u8] {
    &image[block * BLOCK..][..BLOCK]
}

#[test]
fn a_guest_goes_on_when_either_site_dies_in_the_middle_of_a_sync() {
    let Some(mut live) = Live::start() else { return };
    for nth in 0..10 {
        // The destination says nothing any more, for certain while a point in time is open; then it is gone.
        live.guest_writes(200);
        signal(&live.destination, "-STOP");
        let task = live.begin();
        live.wait_for_point();
        live.guest_writes(200);
        live.destination.restart();
        live.exporter = Api::log_in(&live.destination);
        live.ends_and_goes_on(&task, "the destination fell silent and was killed");

        // The source is gone while it has a point in time.
        live.guest_writes(200);
        signal(&live.destination, "-STOP");
        let task = live.begin();
        live.wait_for_point();
        live.source.kill();
        signal(&live.destination, "-CONT");
        live.guest_writes(200);
        live.source.restart();
        live.api = Api::log_in(&live.source);
        live.ends_and_goes_on(&task, "the source was killed with a point in time open");
        if full().is_none() {
            break;
        }

        // Either of them at some moment.
        live.guest_writes(200);
        let task = live.begin();
        std::thread::sleep(Duration::from_millis(nth * 37 % 300));
        live.destination.kill();
        live.guest_writes(200);
        live.destination.restart();
        live.exporter = Api::log_in(&live.destination);
        live.ends_and_goes_on(&task, "the destination was killed");
        live.guest_writes(200);
        let task = live.begin();
        std::thread::sleep(Duration::from_millis(nth * 53 % 400));
        live.source.kill();
        live.guest_writes(200);
        live.source.restart();
        live.api = Api::log_in(&live.source);
        live.ends_and_goes_on(&task, "the source was killed");
    }
    assert_eq!(live.guest_errors(), 0);
}

impl Live {
    /// A sync ends well or not; whatever it left behind, the next one is exact.
    fn ends_and_goes_on(&mut self, task: &Value, what: &str) {
        let began = Instant::now();
        let ended = self.api.ended(task, "");
        println!("{what}: {} after {:.1} s {}", ended["state"], began.elapsed().as_secs_f64(), ended["error"]);
        if ended["state"] == "SUCCEEDED" {
            self.check();
        }
        self.sync_by_bitmap();
        assert!(self.runtime.block_on(self.machine.is_running()));
        assert_eq!(self.guest_errors(), 0);
    }
}

#[test]
fn a_full_scratch_disk_and_a_killed_qemu_cost_a_sync_and_no_write() {
    let Some(mut live) = Live::start() else { return };
    let scratch = live.source.data.path().join("replication/scratch");
    for _ in 0..if full().is_some() { 10 } else { 1 } {
        let Some(small) = Small::mount(scratch.clone()) else { break };
        live.guest_writes(500);
        // Nothing is released while the destination says nothing, and the guest overwrites far more than there is room for.
        signal(&live.destination, "-STOP");
        let task = live.begin();
        live.wait_for_point();
        live.guest_writes(500);
        signal(&live.destination, "-CONT");
        let ended = live.api.ended(&task, "");
        assert_eq!(ended["state"], "FAILED", "{ended}");
        let why = ended["error"]["msg"].as_str().unwrap();
        assert!(why.contains("scratch"), "{why}");
        println!("scratch full: {why}");
        live.guest_writes(50);
        drop(small);
        live.sync_by_bitmap();
        assert_eq!(live.guest_errors(), 0);
    }

    // What QEMU has not saved is not believed, and the disks are read and compared. What it held of the images' tables is lost with it, so
    // the disks are of one instant only if that has not changed since the last sync: all of the image is allocated by then.
    let missing = ALLOCATED_AFTER.saturating_sub(live.runtime.block_on(live.machine.writes()));
    live.guest_writes(missing);
    live.sync_by_bitmap();
    live.guest_writes(200);
    live.machine.kill();
    live.runtime.block_on(live.machine.power_on());
    let report = live.report();
    assert_eq!(report["method"], "COMPARE", "{report}");
    assert!(report["reason"].as_str().unwrap().ends_with("the disk has no bitmap of the last instance"), "{report}");
    assert_eq!(report["pauseMs"], Value::Null, "nobody ran: {report}");
    println!("QEMU killed: {report}");
    for (index, disk) in live.check().iter().enumerate() {
        assert!(*disk == content(&live.machine.path(&format!("disk{index}"))), "disk {index}");
    }
    // From here on the bitmap is good again. The guest waits, for it would begin with its first write once more.
    let report = live.report();
    assert_eq!((&report["method"], &report["changedBytes"]), (&json!("LIVE_BITMAP"), &json!(0)), "{report}");

    // A clean end leaves it in the images.
    live.runtime.block_on(live.machine.quit());
    let report = live.report();
    assert_eq!((&report["method"], &report["changedBytes"]), (&json!("STOPPED_BITMAP"), &json!(0)), "{report}");
}
