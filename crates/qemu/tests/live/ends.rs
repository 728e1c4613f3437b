//! Cycles that end in no good way: of ours, of QEMU's, of the scratch disk's.

use std::path::Path;
use std::sync::Arc;

use lockstep_qemu::{Error, LiveVm, Method, Quiesced};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use super::guest::Small;
use super::machine::{Copies, Layout, Machine, base, block_on};

/// A first cycle, so that there is something to go on from.
async fn first(machine: &Machine, vm: &LiveVm) -> Copies {
    let copies = Copies::new();
    machine.wait_writes(100).await;
    let cycle = vm.begin(None).await.unwrap();
    copies.take(&cycle).await;
    cycle.finish().await.unwrap();
    copies.check().unwrap();
    copies
}

/// A cycle of a method, whose copies must be right.
async fn next(machine: &Machine, vm: &LiveVm, copies: &Copies, number: u64, method: Method) -> Option<String> {
    machine.wait_writes(50).await;
    let cycle = vm.begin(Some(&base(number))).await.unwrap();
    assert_eq!(cycle.method, method, "{:?}", cycle.why);
    let why = cycle.why.clone();
    copies.take(&cycle).await;
    cycle.finish().await.unwrap();
    copies.check().unwrap();
    machine.assert_clean(number + 1).await;
    why
}

#[test]
fn a_cycle_that_just_goes_away_is_judged_by_the_last_instance() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let vm = machine.vm();
        let copies = first(&machine, &vm).await;
        // Nothing of it was committed.
        machine.wait_writes(100).await;
        drop(vm.begin(Some(&base(1))).await.unwrap());
        next(&machine, &vm, &copies, 1, Method::LiveBitmap).await;
        // All of it was, and we never heard.
        machine.wait_writes(100).await;
        let cycle = vm.begin(Some(&base(2))).await.unwrap();
        copies.take(&cycle).await;
        drop(cycle);
        next(&machine, &vm, &copies, 3, Method::LiveBitmap).await;
        // The first cycle of all.
        vm.forget().await.unwrap();
        drop(vm.begin(None).await.unwrap());
        let copies = first(&machine, &vm).await;
        next(&machine, &vm, &copies, 1, Method::LiveBitmap).await;
        assert_eq!(machine.errors().await, 0);
    });
}

#[test]
fn a_guest_that_was_left_in_its_pause_goes_on() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let vm = machine.vm();
        let copies = first(&machine, &vm).await;
        // As after a SIGKILL between `stop` and `cont`, with the bitmaps switched and the filters not yet in place.
        std::fs::write(machine.path("scratch/ls-c0ffee00/paused"), b"").unwrap();
        machine.control("stop", Value::Null).await;
        for node in ["disk0", "disk1"] {
            let new = json!({"node": node, "name": "ls-c0ffee00-2", "persistent": true});
            machine.control("block-dirty-bitmap-add", new).await;
            machine.control("block-dirty-bitmap-disable", json!({"node": node, "name": "ls-c0ffee00-1"})).await;
        }
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        assert_eq!(cycle.method, Method::LiveBitmap);
        assert!(machine.is_running().await && cycle.pause.is_some());
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
        next(&machine, &vm, &copies, 2, Method::LiveBitmap).await;
    });
}

#[test]
fn a_caller_who_goes_away_leaves_no_guest_standing() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let vm = machine.vm();
        let copies = first(&machine, &vm).await;
        for step in 0..40 {
            machine.wait_writes(5).await;
            let begun = base(1);
            let beginning = vm.begin(Some(&begun));
            // Wherever it is by then.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(step * 7), beginning).await;
        }
        next(&machine, &vm, &copies, 1, Method::LiveBitmap).await;
        assert!(machine.is_running().await);
        assert_eq!(machine.errors().await, 0);
    });
}

#[test]
fn after_a_killed_qemu_nothing_is_believed() {
    block_on(async {
        let Some(mut machine) = Machine::start(Layout::default()).await else { return };
        let vm = machine.vm();
        let copies = first(&machine, &vm).await;
        machine.wait_writes(100).await;
        // In the middle of a cycle.
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        machine.kill();
        assert!(copies.take_with(&cycle, super::Fault::None).await.is_err());
        assert!(cycle.abandon().await.is_err());
        machine.power_on().await;
        // The guest would begin with 1 again, so it waits, and its disks are as they were left.
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        assert_eq!(cycle.method, Method::Compare);
        assert_eq!(cycle.why.as_deref(), Some("disk 1: the disk has no bitmap of the last instance"));
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
        machine.assert_clean(2).await;
        // One that was in the image before is there again, and not to be believed.
        machine.quit().await;
        machine.power_on().await;
        machine.assert_clean(2).await;
        machine.kill();
        machine.power_on().await;
        let cycle = vm.begin(Some(&base(2))).await.unwrap();
        assert_eq!(cycle.method, Method::Compare);
        assert_eq!(cycle.why.as_deref(), Some("disk 1: QEMU ended without saving the bitmap"));
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        machine.assert_clean(3).await;
        // From here on the new bitmap is good; and the copies are what a first cycle makes.
        let cycle = vm.begin(Some(&base(3))).await.unwrap();
        assert_eq!(cycle.method, Method::LiveBitmap);
        cycle.finish().await.unwrap();
        let other = Copies::new();
        let cycle = vm.begin(None).await.unwrap();
        other.take(&cycle).await;
        cycle.finish().await.unwrap();
        assert_eq!(other.check().unwrap(), copies.check().unwrap());
    });
}

#[test]
fn a_resized_disk_and_missing_bitmaps_are_compared() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let vm = machine.vm();
        let copies = first(&machine, &vm).await;
        let mut smaller = base(1);
        smaller.disks[1].1 -= 512;
        let cycle = vm.begin(Some(&smaller)).await.unwrap();
        assert!(cycle.why.as_deref().unwrap().starts_with("disk 1: the disk was resized from"), "{:?}", cycle.why);
        assert_eq!(cycle.disks[0].method, Method::LiveBitmap);
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
        let why = next(&machine, &vm, &copies, 7, Method::Compare).await;
        assert_eq!(why.as_deref(), Some("disk 1: the disk has bitmaps of cycle 2, and the last instance is of 7"));
        next(&machine, &vm, &copies, 8, Method::LiveBitmap).await;
        machine.control("block-dirty-bitmap-remove", json!({"node": "disk1", "name": "ls-c0ffee00-9"})).await;
        next(&machine, &vm, &copies, 9, Method::Compare).await;
    });
}

#[test]
fn a_full_scratch_disk_costs_the_snapshot_and_never_the_guest() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let mut vm = machine.vm();
        let copies = first(&machine, &vm).await;
        let Some(small) = Small::mount(machine.path("small")) else { return };
        machine.wait_writes(500).await;
        vm.scratch.clone_from(&small.0);
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        // Far more than fits.
        machine.wait_writes(500).await;
        let error = copies.take_with(&cycle, super::Fault::None).await.unwrap_err();
        assert!(matches!(&error, Error::PointLost { .. }), "{error}");
        machine.wait_writes(50).await;
        assert_eq!(machine.errors().await, 0);
        cycle.abandon().await.unwrap();
        machine.assert_clean(1).await;
        vm.scratch = machine.path("scratch");
        next(&machine, &vm, &copies, 1, Method::LiveBitmap).await;
        assert_eq!(machine.errors().await, 0);
    });
}

/// An agent as a guest has it, of which no real one can be here: freezing is of the host's own file systems then.
struct FakeAgent {
    asked: Arc<Mutex<Vec<String>>>,
    _task: tokio::task::JoinSet<()>,
}

impl FakeAgent {
    /// Answers a freeze with `frozen`, or with nothing at all.
    fn start(path: &Path, frozen: Option<Value>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListener::bind(path).unwrap();
        let mut task = tokio::task::JoinSet::new();
        let log = Arc::clone(&asked);
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (input, mut output) = stream.into_split();
                // What is left of the answer to somebody before us.
                output.write_all(b"{\"return\": 7}\n").await.unwrap();
                let mut input = BufReader::new(input);
                let mut line = Vec::new();
                while input.read_until(b'\n', &mut line).await.is_ok_and(|count| count > 0) {
                    let text = line.strip_prefix(b"\xff").unwrap_or(&line);
                    let message: Value = serde_json::from_slice(text).unwrap();
                    let command = message["execute"].as_str().unwrap().to_owned();
                    let answer = match command.as_str() {
                        "guest-sync-delimited" => json!({"return": message["arguments"]["id"]}).to_string(),
                        "guest-fsfreeze-freeze" => match &frozen {
                            Some(answer) => answer.to_string(),
                            None => String::new(),
                        },
                        _ => json!({"return": 1}).to_string(),
                    };
                    if command == "guest-sync-delimited" {
                        let _ = output.write_all(b"\xff").await;
                    } else {
                        log.lock().push(command);
                    }
                    if !answer.is_empty() {
                        let _ = output.write_all(format!("{answer}\n").as_bytes()).await;
                    }
                    line.clear();
                }
            }
        });
        Self { asked, _task: task }
    }
}

#[test]
fn a_guest_is_frozen_for_the_moment_and_always_thawed() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let cases = [
            (Some(json!({"return": 2})), Ok(())),
            (Some(json!({"error": {"class": "GenericError", "desc": "busy"}})), Err("busy")),
            (Some(json!({"return": 0})), Err("no file system")),
            (None, Err("longer than 10s")),
        ];
        for (number, (answer, expected)) in cases.into_iter().enumerate() {
            let path = machine.path(&format!("agent{number}"));
            let agent = FakeAgent::start(&path, answer);
            let mut vm = machine.vm();
            vm.agent = Some(path);
            let cycle = vm.begin(None).await.unwrap();
            match (&cycle.quiesced, expected) {
                (Quiesced::Yes, Ok(())) => {}
                (Quiesced::Failed(why), Err(words)) => assert!(why.contains(words), "{why}"),
                other => panic!("{other:?}"),
            }
            cycle.abandon().await.unwrap();
            assert_eq!(*agent.asked.lock(), ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]);
            assert!(machine.is_running().await && !machine.path("scratch/ls-c0ffee00/paused").exists());
        }
        // None listens.
        let mut vm = machine.vm();
        vm.agent = Some(machine.path("agent9"));
        let cycle = vm.begin(None).await.unwrap();
        assert!(matches!(&cycle.quiesced, Quiesced::Failed(why) if why.contains("connecting to the guest agent")));
        assert!(machine.is_running().await);
        cycle.abandon().await.unwrap();
    });
}
