//! A machine that is off, and the choice between the sources.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use lockstep_qemu::{DiskSource, Error, Format, Method, Quiesced, Source, VmSource};
use serde_json::Value;

use super::machine::{Copies, DISK_BYTES, Layout, Machine, PATIENCE, base, block_on, tag};

fn source(machine: &Machine, formats: [Format; 2]) -> VmSource {
    source_in(machine.directory.path(), formats)
}

fn source_in(directory: &Path, formats: [Format; 2]) -> VmSource {
    let disk = |index: u32| DiskSource {
        index,
        qdev: None,
        path: Some(directory.join(format!("disk{index}"))),
        format: Some(formats[index as usize]),
    };
    VmSource {
        tag: tag(),
        monitor: Some(directory.join("ours")),
        agent: None,
        disks: vec![disk(0), disk(1)],
        scratch: directory.join("scratch"),
        granularity: 65536,
        may_be_in_use: false,
    }
}

#[test]
fn a_bitmap_goes_on_over_stops_and_starts() {
    block_on(async {
        let Some(mut machine) = Machine::start(Layout::default()).await else { return };
        let (source, copies) = (source(&machine, [Format::Qcow2; 2]), Copies::new());
        machine.wait_writes(200).await;
        let choice = source.choose().await.unwrap();
        assert!(matches!(&choice.source, Source::Live(_)), "{choice:?}");
        let cycle = choice.begin(None).await.unwrap();
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        machine.wait_writes(200).await;
        machine.quit().await;

        // Off: what was written between the last cycle and the end, by the bitmap that QEMU left.
        let choice = source.choose().await.unwrap();
        assert!(matches!(&choice.source, Source::Stopped(_)) && choice.why.contains("nobody listens"), "{choice:?}");
        let cycle = choice.begin(Some(&base(1))).await.unwrap();
        assert_eq!((cycle.method, &cycle.why, &cycle.quiesced), (Method::StoppedBitmap, &None, &Quiesced::Off));
        let listed: u64 = cycle.disks[0].extents().await.unwrap().iter().map(|extent| extent.bytes).sum();
        assert!(listed > 0 && listed < 40 << 20, "{listed}");
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        let (first, second) = copies.check().unwrap();

        // One that is given up changes nothing, and one that goes away neither.
        let cycle = choice.begin(Some(&base(2))).await.unwrap();
        assert!(cycle.disks.iter().all(|disk| disk.method == Method::StoppedBitmap));
        assert!(cycle.disks[0].extents().await.unwrap().is_empty());
        cycle.abandon().await.unwrap();
        drop(choice.begin(Some(&base(2))).await.unwrap());

        // While a cycle reads, the machine cannot be started and the images not be changed; and when it runs it cannot be read so.
        let cycle = choice.begin(Some(&base(2))).await.unwrap();
        let compared = std::process::Command::new("qemu-img")
            .args(["bitmap", "--add"])
            .arg(machine.path("disk0"))
            .arg("x")
            .output();
        assert!(!compared.unwrap().status.success());
        cycle.check().await.unwrap();
        cycle.finish().await.unwrap();
        machine.power_on().await;
        let error = choice.begin(Some(&base(3))).await.unwrap_err();
        assert!(matches!(&error, Error::InUse { .. }), "{error}");

        // On again, and the bitmap still knows: nothing was written, for the guest waits.
        let choice = source.choose().await.unwrap();
        let cycle = choice.begin(Some(&base(3))).await.unwrap();
        assert_eq!((cycle.method, &cycle.why), (Method::LiveBitmap, &None));
        assert!(cycle.disks[1].extents().await.unwrap().is_empty());
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        assert_eq!(copies.check().unwrap(), (first, second));
        machine.assert_clean(4).await;
    });
}

#[test]
fn a_raw_disk_is_compared_and_not_read_while_it_is_used() {
    block_on(async {
        let layout = Layout { format: ["raw", "qcow2"], ..Layout::default() };
        let Some(mut machine) = Machine::start(layout).await else { return };
        let mut source = source(&machine, [Format::Raw, Format::Qcow2]);
        let copies = Copies::new();
        machine.wait_writes(200).await;
        let live = source.choose().await.unwrap();
        source.monitor = None;
        let stopped = source.choose().await.unwrap();
        let error = stopped.begin(None).await.unwrap_err();
        assert!(matches!(&error, Error::InUse { .. }), "{error}");
        let cycle = live.begin(None).await.unwrap();
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        machine.wait_writes(200).await;
        machine.quit().await;

        let cycle = stopped.begin(Some(&base(1))).await.unwrap();
        assert_eq!(
            cycle.disks.iter().map(|disk| disk.method).collect::<Vec<_>>(),
            [Method::Compare, Method::StoppedBitmap]
        );
        assert_eq!(cycle.why.as_deref(), Some("disk 0: a raw disk keeps no bitmap"));
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();

        // Started and written meanwhile: by QEMU it cannot be, by others it is noticed.
        let cycle = stopped.begin(Some(&base(2))).await.unwrap();
        let io = std::process::Command::new("qemu-io")
            .args(["-f", "raw", "-c", "write 0 512"])
            .arg(machine.path("disk0"))
            .output();
        assert!(!io.unwrap().status.success());
        cycle.check().await.unwrap();
        std::fs::File::options().append(true).open(machine.path("disk0")).unwrap().set_len(DISK_BYTES + 512).unwrap();
        assert!(matches!(cycle.check().await, Err(Error::Changed { .. })));
        cycle.abandon().await.unwrap();

        machine.power_on().await;
        machine.control("cont", Value::Null).await;
        let error = stopped.begin(Some(&base(2))).await.unwrap_err();
        assert!(matches!(&error, Error::InUse { .. }), "{error}");
    });
}

/// With a directory of a machine and the last instance's number in this variable, the test below is a process that opens a cycle, says
/// so, and waits to be killed.
const CHILD: &str = "LOCKSTEP_QEMU_CHILD";

#[test]
fn child_that_is_killed() {
    let Ok(machine) = std::env::var(CHILD) else { return };
    let (number, directory) = machine.split_once(' ').unwrap();
    block_on(async {
        let source = source_in(directory.as_ref(), [Format::Qcow2; 2]);
        let cycle = source.choose().await.unwrap().begin(Some(&base(number.parse().unwrap()))).await.unwrap();
        let extents = cycle.disks[0].extents().await.unwrap();
        cycle.disks[0].read(extents[0].offset, 65536).await.unwrap();
        println!("\n{OPEN}");
        std::future::pending().await
    });
}

const OPEN: &str = "the cycle is open";

/// Opens a cycle in another process and kills it.
fn open_and_kill(machine: &Machine, number: u64) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "stopped::child_that_is_killed", "--nocapture"]);
    command.env(CHILD, format!("{number} {}", machine.directory.path().display()));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let is_open = BufReader::new(child.stdout.take().unwrap()).lines().any(|line| line.unwrap() == OPEN);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_open, "the child did not open a cycle");
}

#[test]
fn a_killed_process_leaves_nothing_that_the_next_cannot_put_right() {
    block_on(async {
        let Some(mut machine) = Machine::start(Layout::default()).await else { return };
        let (source, copies) = (source(&machine, [Format::Qcow2; 2]), Copies::new());
        machine.wait_writes(200).await;
        let cycle = source.choose().await.unwrap().begin(None).await.unwrap();
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        machine.wait_writes(200).await;
        open_and_kill(&machine, 1);
        machine.wait_writes(200).await;
        let cycle = source.choose().await.unwrap().begin(Some(&base(1))).await.unwrap();
        assert_eq!((cycle.method, &cycle.why), (Method::LiveBitmap, &None));
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
        machine.wait_writes(200).await;
        machine.quit().await;
        open_and_kill(&machine, 2);
        // The reader sees us go, and lets go of the images.
        let started = Instant::now();
        let cycle = loop {
            match source.choose().await.unwrap().begin(Some(&base(2))).await {
                Ok(cycle) => break cycle,
                Err(error) => assert!(matches!(error, Error::InUse { .. }) && started.elapsed() < PATIENCE, "{error}"),
            }
        };
        assert_eq!((cycle.method, &cycle.why), (Method::StoppedBitmap, &None));
        copies.take(&cycle).await;
        cycle.finish().await.unwrap();
        copies.check().unwrap();
    });
}

#[test]
fn what_is_not_known_is_said() {
    block_on(async {
        let source = VmSource {
            tag: tag(),
            monitor: None,
            agent: None,
            disks: vec![DiskSource { index: 5, ..DiskSource::default() }],
            scratch: "/nonexistent".into(),
            granularity: 65536,
            may_be_in_use: false,
        };
        let error = source.choose().await.unwrap_err();
        assert!(error.to_string().contains("disk 5"), "{error}");
        let mut source = source;
        source.disks[0].path = Some("/disk".into());
        assert!(source.choose().await.unwrap_err().to_string().contains("never guessed"));
        source.disks[0].path = Some("json:{}".into());
        source.disks[0].format = Some(Format::Qcow2);
        let error = source.choose().await.unwrap().begin(None).await.unwrap_err();
        assert!(error.to_string().contains("absolute"), "{error}");
    });
}
