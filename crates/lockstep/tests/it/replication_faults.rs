//! What goes wrong around a sync between two real sites: no room, a disk that changes its size, a machine that goes, others who want the
//! same, somebody who calls it off. Each is a clear error or a right result, and never harms an instance.
//!
//! The short form runs with the others. `LOCKSTEP_REPLICATION_FIRE=full` calls off ten syncs, and has an object store away for a minute.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::availability::{BLOCK, write_block};
use crate::links::site;
use crate::replicated::{Replicated, Watch, is_full};
use crate::replication::content;
use crate::server::eventually;
use crate::wire::Random;

/// So slow that a sync of some MiB takes seconds: a piece of 16 KiB in 5 ms.
const SLOW: Duration = Duration::from_millis(5);

/// Begins a sync on a slow wire, and waits until so many bytes of it have gone.
fn begin_slowly(replicated: &Replicated, bytes: u64) -> Value {
    replicated.wire.pace(SLOW);
    let before = replicated.wire.sent();
    let task = replicated.sync();
    eventually(Duration::from_secs(60), "the sync to get on", || {
        let state = replicated.task(&task);
        assert_eq!(state["state"], "RUNNING", "{state}");
        (replicated.wire.sent() >= before + bytes).then_some(())
    });
    task
}

fn text(error: &Value) -> &str {
    error["msg"].as_str().unwrap()
}

/// A small file system; gone when it is dropped.
struct Small(PathBuf);

impl Small {
    /// None, with the reason printed, where none may be mounted.
    fn mount(at: &Path, mib: usize) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).output().unwrap();
        if !mounted.status.success() {
            println!("skipped: nothing may be mounted: {}", String::from_utf8_lossy(&mounted.stderr).trim());
            return None;
        }
        Some(Self(at.to_owned()))
    }

    /// Puts what is in a directory on a small file system, which is then in its place.
    fn under(directory: &Path, mib: usize) -> Option<Self> {
        let kept = tempfile::tempdir().unwrap();
        let copy = |from: &Path, to: &Path| {
            assert!(Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap().success());
        };
        copy(directory, kept.path());
        let small = Self::mount(directory, mib)?;
        copy(kept.path(), directory);
        Some(small)
    }

    fn resize(&self, mib: usize) {
        let options = format!("remount,size={mib}m");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_store_fails_the_sync_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&place.path().join("replicas"), 64) else { return };
    let store = small.0.to_str().unwrap().to_owned();
    let mut replicated = Replicated::begin(1200, &["--replica-store", &store]);
    let first = replicated.instances();
    let before = replicated.keep("first");
    replicated.write(1200);
    let after = replicated.keep("second");
    let watch = Watch::begin(&replicated);
    let error = replicated.sync_fails();
    println!("a full store: {error}");
    assert!(text(&error).contains("full"), "{error}");
    assert_eq!(replicated.shown()["destinationState"]["lastError"]["code"], error["code"]);
    assert_eq!(watch.end(), std::slice::from_ref(&first));
    replicated.check(&first[0], &before);
    assert!(replicated.verify().0);

    // Also over a restart, when there is no room for anything.
    replicated.b.restart();
    assert_eq!(replicated.instances(), first);
    replicated.check(&first[0], &before);
    small.resize(200);
    replicated.done(&replicated.sync_anew());
    replicated.check_all(&[&before, &after]);
    replicated.check_nothing_is_left(&small.0);
}

#[test]
fn a_site_whose_replicas_fill_its_disk_can_still_be_told_to_remove_them() {
    let mut replicated = Replicated::begin(1400, &[]);
    let first = replicated.instances();
    replicated.b.kill();
    // Of everything, and not of the replicas alone.
    let Some(_small) = Small::under(replicated.b.data.path(), 96) else { return };
    replicated.b.restart();
    replicated.write(1400);
    let error = replicated.sync_fails();
    assert!(text(&error).contains("full"), "{error}");
    for nth in 0..20 {
        let path = format!("/api/lockstep/resources/VirtualMachine/other-{nth}");
        replicated.b.ok("PUT", &path, &json!({"properties": {"name": "x".repeat(1000)}}));
    }
    assert_eq!(replicated.instances(), first);
    assert!(replicated.verify().0);
    replicated.b.restart();
    assert_eq!(replicated.instances(), first);
    eventually(Duration::from_secs(60), "nothing to be under way", || {
        replicated.shown()["task"].is_null().then_some(())
    });
    replicated.done(&replicated.a.ok("DELETE", &replicated.at(""), &Value::Null));
    eventually(Duration::from_secs(60), "what was stored to go", || {
        Replicated::metric(&replicated.b, "lockstep_replication_store_bytes").filter(|bytes| *bytes == 0.0)
    });
}

#[test]
fn a_raw_disk_that_changes_its_size_has_the_new_one_in_the_next_instance() {
    let mut replicated = Replicated::begin(200, &[]);
    let resize = |path: &Path, bytes: usize| {
        std::fs::File::options().write(true).open(path).unwrap().set_len(bytes as u64).unwrap();
    };
    // Between syncs: larger with something in it, smaller, and to where no block ends.
    for (nth, bytes) in [300 * BLOCK, 120 * BLOCK, 130 * BLOCK + 512, 90 * BLOCK + 1024].into_iter().enumerate() {
        resize(&replicated.disk, bytes);
        replicated.write(5);
        write_block(&replicated.disk, bytes / BLOCK - 1, 900 + nth as u64);
        let content = replicated.keep("now");
        replicated.done(&replicated.sync());
        let newest = replicated.instances().pop().unwrap();
        replicated.check(&newest, &content);
        let shown = replicated.b.ok("GET", &replicated.at(&format!("/instances/{newest}")), &Value::Null);
        assert_eq!(shown["disksInfo"][0]["bytes"], json!(bytes), "{shown}");
    }
    // In the middle of one: what was read is not of one instant.
    let before = replicated.instances();
    for bytes in [320 * BLOCK, 64 * BLOCK] {
        resize(&replicated.disk, 200 * BLOCK);
        replicated.write(60);
        let task = begin_slowly(&replicated, 512 << 10);
        resize(&replicated.disk, bytes);
        replicated.wire.hurry();
        let ended = replicated.ended(&task);
        println!("resized to {bytes} bytes: {}", ended["error"]);
        assert_eq!(ended["state"], "FAILED", "{ended}");
        assert!(text(&ended["error"]).contains(replicated.disk.to_str().unwrap()), "{ended}");
        assert_eq!(replicated.instances(), before);
    }
    let content = replicated.keep("now");
    replicated.done(&replicated.sync_anew());
    let newest = replicated.instances().pop().unwrap();
    replicated.check(&newest, &content);
    assert!(replicated.verify().0);
}

#[test]
fn a_machine_that_goes_during_a_sync_is_named_and_its_instances_stay() {
    let mut replicated = Replicated::begin(200, &[]);
    let before = replicated.keep("first");
    replicated.write(100);
    let after = replicated.keep("second");
    let task = begin_slowly(&replicated, 512 << 10);
    std::fs::remove_file(&replicated.disk).unwrap();
    replicated.a.ok("DELETE", "/api/lockstep/resources/VirtualMachine/vm-1", &Value::Null);
    replicated.wire.hurry();
    // What was read is open still, and of one instant: it may end well.
    let ended = replicated.ended(&task);
    let instances = replicated.instances();
    println!("gone during a sync: {} {}", ended["state"], ended["error"]);
    match ended["state"].as_str().unwrap() {
        "SUCCEEDED" => {
            assert_eq!(instances.len(), 2);
            replicated.check(&instances[1], &after);
        }
        _ => assert_eq!(instances.len(), 1, "{ended}"),
    }
    let error = replicated.sync_fails();
    assert!(error["code"] == "VmNotFound" && text(&error).contains("vm-1"), "{error}");
    assert_eq!(replicated.instances(), instances);
    replicated.check(&instances[0], &before);
    assert!(replicated.verify().0);
}

#[test]
fn syncs_that_are_asked_for_at_once_are_one() {
    let mut replicated = Replicated::begin(200, &[]);
    replicated.write(100);
    let content = replicated.keep("second");
    replicated.wire.pace(SLOW);
    let (begun, passed_on) = std::thread::scope(|threads| {
        let here: Vec<_> = (0..4).map(|_| threads.spawn(|| replicated.sync())).collect();
        let there = || replicated.b.ok("POST", &replicated.at("/sync"), &Value::Null);
        let there: Vec<_> = (0..2).map(|_| threads.spawn(there)).collect();
        let joined = |threads: Vec<std::thread::ScopedJoinHandle<'_, Value>>| -> Vec<Value> {
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        };
        (joined(here), joined(there))
    });
    assert!(begun.iter().all(|task| task["id"] == begun[0]["id"]), "{begun:?}");
    replicated.wire.hurry();
    replicated.done(&begun[0]);
    for task in &passed_on {
        assert_eq!(replicated.ended_there(task)["state"], "SUCCEEDED");
    }
    let instances = replicated.instances();
    assert_eq!(instances.len(), 2);
    replicated.check(&instances[1], &content);
}

#[test]
fn a_sync_that_is_called_off_at_any_moment_leaves_nothing() {
    let destination = site("site2", &[]);
    let one = json!({"retentionPolicy": {"rules": [{"numberOfInstances": 1, "distance": 0}]}});
    let mut replicated = Replicated::between(site("site1", &[]), destination, 200, one);
    let store = replicated.b.data.path().join("replicas");
    let mut newest = replicated.instances();
    let mut random = Random(3);
    let times = if is_full() { 10 } else { 4 };
    for nth in 0..times {
        replicated.write(80);
        let task = begin_slowly(&replicated, random.below(60 * BLOCK) as u64);
        replicated.a.ok(
            "POST",
            &format!("/api/lockstep/tasks/{}?action=cancel", task["id"].as_str().unwrap()),
            &Value::Null,
        );
        replicated.wire.hurry();
        let ended = replicated.ended(&task);
        let is_called_off = ended["state"] == "FAILED";
        println!("called off {nth}: {} {}", ended["state"], ended["error"]["code"]);
        if is_called_off {
            assert_eq!(ended["error"]["code"], "TaskCanceled", "{ended}");
            assert_eq!(replicated.instances(), newest);
        } else {
            newest = replicated.instances();
        }
        assert_eq!(replicated.shown()["destinationState"]["lastError"], Value::Null);
    }
    let content = replicated.keep("last");
    replicated.done(&replicated.sync());
    eventually(Duration::from_secs(60), "the instances before to go", || {
        (replicated.instances().len() == 1).then_some(())
    });
    let instances = replicated.instances();
    replicated.check(&instances[0], &content);
    replicated.check_store();
    replicated.check_nothing_is_left(&store);
    assert_eq!(Replicated::metric(&replicated.b, "lockstep_replication_store_drafts"), Some(0.0));
    // Packs of which less than half is needed are emptied, when an instance goes. What somebody looked at just then goes with the next.
    let needed = std::fs::metadata(&content).unwrap().len() as f64;
    let bytes = eventually(Duration::from_secs(60), "what is not needed to go", || {
        replicated.write(1);
        replicated.done(&replicated.sync_anew());
        Replicated::metric(&replicated.b, "lockstep_replication_store_bytes").filter(|bytes| *bytes <= 2.0 * needed)
    });
    println!("{times} syncs were called off: the store has {bytes} bytes for a disk of {needed}");
}

/// One of QEMU's programs; whether it did what it was told.
fn qemu(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output().unwrap();
    if !output.status.success() {
        println!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success()
}

#[test]
fn a_qcow2_image_that_changes_its_size_is_told_by_its_bitmap_again_afterwards() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        return println!("skipped: there is no qemu-img");
    }
    let mut replicated = Replicated::begin(120, &[]);
    let image = replicated.dir.path().join("disk.qcow2");
    let (raw, path) = (replicated.disk.to_str().unwrap().to_owned(), image.to_str().unwrap().to_owned());
    assert!(qemu("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw, &path]));
    let disks = json!({"properties": {"disks": [{"label": "disk", "path": path, "format": "qcow2"}]}});
    replicated.a.ok("PATCH", "/api/lockstep/resources/VirtualMachine/vm-1", &disks);
    let synced = |replicated: &mut Replicated| {
        let ended = replicated.done(&replicated.sync_anew());
        let newest = replicated.instances().pop().unwrap();
        let now = replicated.dir.path().join("now");
        std::fs::write(&now, content(&image)).unwrap();
        replicated.check(&newest, &now);
        let report = &ended["result"]["lastSync"];
        println!("{} bytes: {report}", std::fs::metadata(&now).unwrap().len());
        report["method"].as_str().unwrap().to_owned()
    };
    let write = |block: usize| {
        let command = format!("write -P 7 {} 64k", block * BLOCK);
        assert!(qemu("qemu-io", &["-f", "qcow2", "-c", &command, &path]));
    };
    assert_eq!(synced(&mut replicated), "COMPARE");
    write(3);
    assert_eq!(synced(&mut replicated), "STOPPED_BITMAP");
    for (blocks, shrinks) in [(200, false), (80, true), (90, false)] {
        let size = (blocks * BLOCK).to_string();
        let shrink = if shrinks { &["--shrink"][..] } else { &[] };
        assert!(qemu("qemu-img", &[&["resize", "-q", "-f", "qcow2"][..], shrink, &[&path, &size]].concat()));
        write(blocks - 1);
        assert_eq!(synced(&mut replicated), "COMPARE", "what changed of a disk of another size is not known");
        write(blocks / 2);
        assert_eq!(synced(&mut replicated), "STOPPED_BITMAP");
    }

    // In the middle of a sync QEMU's lock keeps everybody from it.
    replicated.write(60);
    assert!(qemu("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw, &path]));
    let task = begin_slowly(&replicated, 512 << 10);
    let is_resized = qemu("qemu-img", &["resize", "-q", "-f", "qcow2", &path, "16M"]);
    replicated.wire.hurry();
    let ended = replicated.ended(&task);
    assert_eq!((is_resized, &ended["state"]), (false, &json!("SUCCEEDED")), "{ended}");
    synced(&mut replicated);
    assert!(replicated.verify().0);
}
