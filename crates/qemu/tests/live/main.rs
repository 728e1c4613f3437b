//! Cycles of a real QEMU whose guest never stops writing: every point in time must be exactly the state after some number of writes.
//!
//! `LOCKSTEP_QEMU_CYCLES=100` for the long run of the pause's length.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ends;
mod guest;
mod machine;
mod stopped;

use std::time::Duration;

use lockstep_qemu::{Error, Method, Quiesced};
use machine::{Copies, Fault, Layout, Machine, base, block_on};
use serde_json::{Value, json};

#[test]
fn every_cycle_is_one_point_in_time() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let cycles = std::env::var("LOCKSTEP_QEMU_CYCLES").ok().and_then(|count| count.parse().ok()).unwrap_or(8);
        let (vm, copies) = (machine.vm(), Copies::new());
        machine.wait_writes(500).await;
        let cycle = vm.begin(None).await.unwrap();
        assert_eq!((cycle.number, cycle.method, &cycle.quiesced), (1, Method::Full, &Quiesced::NotAsked));
        // The guest goes on under our feet.
        machine.wait_writes(200).await;
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        let mut last = copies.check().unwrap();
        machine.assert_clean(1).await;
        let mut pauses = Vec::new();
        for number in 1..=cycles {
            machine.wait_writes(50).await;
            let cycle = vm.begin(Some(&base(number))).await.unwrap();
            assert_eq!((cycle.number, cycle.method, &cycle.why), (number + 1, Method::LiveBitmap, &None));
            pauses.push(cycle.pause.unwrap());
            machine.wait_writes(50).await;
            let taken = copies.take(&cycle).await;
            cycle.finish().await.unwrap();
            let found = copies.check().unwrap();
            assert!(found > last, "cycle {number}: {found:?} after {last:?}, {taken} bytes");
            last = found;
        }
        machine.assert_clean(cycles + 1).await;
        assert_eq!(machine.errors().await, 0);
        pauses.sort();
        let at = |percent: usize| pauses[(pauses.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1e3;
        println!("{} pauses: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms", pauses.len(), at(50), at(99), at(100));
        vm.forget().await.unwrap();
        assert!(machine.bitmaps("disk0").await.is_empty() && !machine.path("scratch/ls-c0ffee00").exists());
    });
}

#[test]
fn the_check_sees_a_forgotten_extent() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let (vm, copies) = (machine.vm(), Copies::new());
        machine.wait_writes(100).await;
        let cycle = vm.begin(None).await.unwrap();
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
        machine.wait_writes(100).await;
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        copies.take_with(&cycle, Fault::ForgetsAnExtent).await.unwrap();
        cycle.finish().await.unwrap();
        let words = copies.check().unwrap_err();
        assert!(words.contains("disk 0") && words.contains("are not as after write"), "{words}");
    });
}

#[test]
fn the_check_sees_a_bitmap_that_stood_still_for_a_moment() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let (vm, copies) = (machine.vm(), Copies::new());
        machine.wait_writes(100).await;
        let cycle = vm.begin(None).await.unwrap();
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        let bitmap = json!({"node": "disk0", "name": "ls-c0ffee00-1"});
        machine.control("block-dirty-bitmap-disable", bitmap.clone()).await;
        machine.wait_writes(100).await;
        machine.control("block-dirty-bitmap-enable", bitmap.clone()).await;
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        assert_eq!(cycle.method, Method::LiveBitmap);
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap_err();
        // One that still stands still is seen by ourselves.
        let bitmap = json!({"node": "disk0", "name": "ls-c0ffee00-2"});
        machine.control("block-dirty-bitmap-disable", bitmap).await;
        let cycle = vm.begin(Some(&base(2))).await.unwrap();
        assert_eq!(cycle.why.as_deref(), Some("disk 0: the bitmap does not record"));
        assert_eq!(cycle.disks[1].method, Method::LiveBitmap);
        machine.wait_writes(50).await;
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
    });
}

#[test]
fn a_cycle_that_is_cut_is_made_up_for_by_the_next() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let (vm, copies) = (machine.vm(), Copies::new());
        machine.wait_writes(100).await;
        let cycle = vm.begin(None).await.unwrap();
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        machine.wait_writes(200).await;
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        let sum = |extents: &[lockstep_qemu::Extent]| extents.iter().map(|extent| extent.bytes).sum::<u64>();
        let before = sum(&cycle.disks[0].extents().await.unwrap());
        // Some of it is read and released, then the link is cut.
        let first = cycle.disks[0].extents().await.unwrap()[0];
        cycle.disks[0].read(first.offset, first.bytes.min(1 << 20) as usize).await.unwrap();
        cycle.disks[0].release(first.offset, first.bytes).await.unwrap();
        machine.wait_writes(100).await;
        cycle.abandon().await.unwrap();
        machine.assert_clean(1).await;
        let cycle = vm.begin(Some(&base(1))).await.unwrap();
        assert_eq!(cycle.method, Method::LiveBitmap);
        let after = sum(&cycle.disks[0].extents().await.unwrap());
        assert!(after >= before, "{after} of {before}");
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
        // The connection to QEMU's NBD server breaks: the point in time is still there.
        machine.wait_writes(100).await;
        let cycle = vm.begin(Some(&base(2))).await.unwrap();
        for disk in 0..2 {
            let arguments = json!({"id": format!("ls-c0ffee00-x{disk}"), "mode": "hard"});
            machine.control("block-export-del", arguments).await;
            let bitmap = json!([{"node": format!("disk{disk}"), "name": "ls-c0ffee00-2"}]);
            let name = format!("ls-c0ffee00-x{disk}");
            let arguments = json!({"type": "nbd", "id": name, "node-name": format!("ls-c0ffee00-r{disk}"), "name": name,
                "writable": true, "bitmaps": bitmap});
            let started = std::time::Instant::now();
            let control = lockstep_qemu::qmp::Command::new("block-export-add", arguments);
            while machine.try_control(&control).await.is_err() {
                assert!(started.elapsed() < machine::PATIENCE);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
    });
}

#[test]
fn a_guest_that_stands_still_is_left_so() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let (vm, copies) = (machine.vm(), Copies::new());
        machine.wait_writes(100).await;
        machine.control("stop", Value::Null).await;
        let cycle = vm.begin(None).await.unwrap();
        assert!(!machine.is_running().await && cycle.pause.is_none());
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
        assert!(!machine.is_running().await);
        // A cycle that fails to begin lets the guest go on, and leaves nothing.
        machine.control("cont", Value::Null).await;
        let mut other = machine.vm();
        other.disks[1].1 = lockstep_qemu::Select::Qdev("vd9".into());
        assert!(matches!(other.begin(Some(&base(1))).await, Err(Error::NoDisk { .. })));
        machine.assert_clean(1).await;
        let arguments = json!({"node": "disk1", "name": "ls-c0ffee00-2"});
        machine.control("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": "foreign"}}})).await;
        let error = vm.begin(Some(&base(1))).await.unwrap_err();
        assert!(matches!(&error, Error::Command { command, .. } if command == "nbd-server-start"), "{error}");
        machine.control("nbd-server-stop", Value::Null).await;
        machine.assert_clean(1).await;
        machine.control("block-dirty-bitmap-add", arguments.clone()).await;
        machine.wait_writes(10).await;
        assert!(machine.is_running().await);
    });
}

#[test]
fn one_cycle_at_a_time() {
    block_on(async {
        let Some(machine) = Machine::start(Layout::default()).await else { return };
        let vm = machine.vm();
        let cycle = vm.begin(None).await.unwrap();
        assert!(matches!(vm.begin(None).await, Err(Error::Busy { .. })));
        drop(cycle);
        // Another replication's open cycle, found by its filter.
        let mut other = machine.vm();
        other.tag = lockstep_qemu::Tag::of("0123456789").unwrap();
        let error = other.begin(None).await.unwrap_err();
        assert!(matches!(&error, Error::Busy { reason } if reason.contains("ls-c0ffee00")), "{error}");
        vm.forget().await.unwrap();
        let cycle = other.begin(None).await.unwrap();
        cycle.finish().await.unwrap();
    });
}

#[test]
fn other_devices_and_raw_disks() {
    block_on(async {
        for layout in [
            Layout {
                format: ["raw", "qcow2"],
                device: ["scsi-hd,bus=scsi.0,drive={drive},id={id},werror=report", machine::VIRTIO],
            },
            Layout {
                format: ["raw", "qcow2"],
                device: [
                    "ide-hd,bus=ide.1,drive={drive},id={id},werror=report",
                    "nvme-ns,bus=nvme,drive={drive},id={id}",
                ],
            },
        ] {
            let Some(machine) = Machine::start(layout).await else { return };
            let (vm, copies) = (machine.vm(), Copies::new());
            machine.wait_writes(100).await;
            let cycle = vm.begin(None).await.unwrap();
            copies.take(&cycle).await;
            cycle.finish().await.unwrap();
            copies.check().unwrap();
            for number in 1..=2 {
                machine.wait_writes(50).await;
                let cycle = vm.begin(Some(&base(number))).await.unwrap();
                assert_eq!((cycle.method, &cycle.why), (Method::LiveBitmap, &None));
                copies.take(&cycle).await;
                cycle.finish().await.unwrap();
                copies.check().unwrap();
            }
        }
    });
}
