//! The collector and real QEMU processes: they appear with their values, and go when they are killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_agent::sample::{Now, Sampler, Worker};
use lockstep_agent::{HostReader, Observed};
use lockstep_contract::counters::{CounterSet, ResourceKind};
use lockstep_contract::services::stats::acq_specs::{CounterSpec, Status};
use lockstep_contract::services::stats::cache::AcqSpec;
use lockstep_contract::services::stats::{Predicate, RsrcId};
use serde_json::{Value, json};
use tempfile::TempDir;

const QEMU: &str = "qemu-system-x86_64";
/// Long enough for QEMU to start on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A QEMU in a directory of its own, killed at the end.
struct Qemu {
    child: Child,
    directory: TempDir,
}

impl Qemu {
    /// Starts QEMU without a guest system, with a monitor at `q.sock`; none, with the reason printed, where there is
    /// no QEMU.
    fn start(directory: TempDir, arguments: &str) -> Option<Self> {
        let child = Command::new(QEMU)
            .args(["-accel", "tcg", "-display", "none", "-nodefaults", "-qmp", "unix:q.sock,server=on,wait=off"])
            .args(arguments.split_ascii_whitespace())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Self { child, directory }),
            Err(error) => {
                eprintln!("skipped: {QEMU} cannot be started: {error}");
                None
            }
        }
    }

    fn find(&self, reader: &HostReader) -> Option<Observed> {
        let pid = self.child.id();
        reader
            .read()
            .unwrap()
            .into_iter()
            .find(|observed| observed.properties.get("qemu").is_some_and(|qemu| qemu["pid"] == pid))
    }

    /// Waits until the VM is there and its monitor has told its version.
    fn wait(&mut self, reader: &HostReader) -> Observed {
        let started = Instant::now();
        loop {
            if let Some(machine) = self.find(reader).filter(|machine| !machine.properties["qemu"]["version"].is_null())
            {
                return machine;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "QEMU ended");
            assert!(started.elapsed() < PATIENCE, "the VM did not appear: {:?}", self.find(reader));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn path(&self, name: &str) -> String {
        fs::canonicalize(self.directory.path()).unwrap().join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of a monitor: it has the monitor for itself from its greeting on.
struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut monitor = Self { reader: BufReader::new(stream) };
        assert!(!monitor.next()["QMP"].is_null());
        monitor.execute("qmp_capabilities");
        monitor
    }

    fn execute(&mut self, command: &str) {
        writeln!(self.reader.get_mut(), "{}", json!({ "execute": command })).unwrap();
        while self.next().get("return").is_none() {}
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

#[test]
fn a_paused_vm_appears_with_its_values_and_goes_when_it_is_killed() {
    const UUID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
    let arguments = format!(
        "-S -name guest=paused,debug-threads=on -uuid {UUID} -machine q35 -m 64 -smp 4,sockets=2 \
         -netdev user,id=n0 -device virtio-net-pci,netdev=n0,id=net0,mac=52:54:00:00:00:07"
    );
    let Some(mut qemu) = Qemu::start(tempfile::tempdir().unwrap(), &arguments) else { return };
    let reader = HostReader::new();
    let machine = qemu.wait(&reader);
    assert_eq!((machine.resource_type, machine.id), ("VirtualMachine", format!("vm-{UUID}")));

    let mut properties = machine.properties;
    assert!(properties["qemu"]["version"].as_str().unwrap().split('.').all(|part| part.parse::<u32>().is_ok()));
    properties["qemu"].as_object_mut().unwrap().remove("version");
    let host = reader.read().unwrap().remove(0);
    assert!(properties["boot_time"].as_str() >= host.properties["boot_time"].as_str());
    properties.remove("boot_time");
    assert_eq!(
        Value::Object(properties),
        json!({
            "name": "paused", "power_state": "SUSPENDED", "cpu_count": 4, "cores_per_socket": 2,
            "memory_size_MiB": 64, "host": {"type": "HostSystem", "id": host.id}, "instance_uuid": UUID,
            "disks": [], "datastores": [], "networks": [],
            "nics": [
                {"label": "net0", "mac_address": "52:54:00:00:00:07", "kind": "virtio-net-pci", "connected": true}
            ],
            "qemu": {
                "pid": qemu.child.id(), "machine": "q35", "accelerator": "tcg", "status": "prelaunch",
                "qmp_socket": qemu.path("q.sock"),
            },
        })
    );

    qemu.child.kill().unwrap();
    let started = Instant::now();
    // Not reaped yet, so it is still in /proc.
    while qemu.find(&reader).is_some() {
        assert!(started.elapsed() < PATIENCE, "a killed VM is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    qemu.child.wait().unwrap();
    assert_eq!(qemu.find(&reader), None);
}

#[test]
fn a_vm_with_a_disk_is_followed_through_its_states() {
    let directory = tempfile::tempdir().unwrap();
    let created = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "a.qcow2", "96M"])
        .current_dir(directory.path())
        .status();
    if !created.is_ok_and(|status| status.success()) {
        eprintln!("skipped: qemu-img is not there");
        return;
    }
    let arguments = "-name with-disk -m 64M -drive file=a.qcow2,format=qcow2,if=virtio";
    let Some(mut qemu) = Qemu::start(directory, arguments) else { return };
    let reader = HostReader::new();
    let machine = qemu.wait(&reader);
    let disk = json!({"label": "virtio0", "path": qemu.path("a.qcow2"), "format": "qcow2", "capacity": 96 << 20});
    assert_eq!(machine.properties["disks"], json!([disk]));
    assert_eq!(machine.properties["power_state"], "POWERED_ON");
    assert_eq!(machine.properties["qemu"]["status"], "running");
    assert_eq!(machine.properties.get("instance_uuid"), None);
    assert_eq!(qemu.wait(&HostReader::new()), machine, "another reader tells the same");

    let state = |qemu: &Qemu| qemu.find(&reader).unwrap().properties["power_state"].clone();
    let socket = qemu.directory.path().join("q.sock");
    let mut client = Monitor::connect(&socket);
    client.execute("stop");
    let started = Instant::now();
    assert_eq!(state(&qemu), "POWERED_ON", "the monitor is taken, so the last answer stands");
    assert!(started.elapsed() < Duration::from_secs(1), "and nobody waits for it: {:?}", started.elapsed());
    drop(client);
    let started = Instant::now();
    while state(&qemu) != "SUSPENDED" {
        assert!(started.elapsed() < PATIENCE, "the pause is not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The collector gave the monitor back.
    Monitor::connect(&socket).execute("cont");
    let started = Instant::now();
    while state(&qemu) != "POWERED_ON" {
        assert!(started.elapsed() < PATIENCE, "the resumption is not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A boot sector that reads the first sector of the first disk for ever: `xor ax, ax; mov es, ax; mov ax, 0x0201; mov cx, 1;
/// mov dx, 0x80; mov bx, 0x8000; int 0x13; jmp` back.
const READER: [u8; 20] = [
    0x31, 0xc0, 0x8e, 0xc0, 0xb8, 0x01, 0x02, 0xb9, 0x01, 0x00, 0xba, 0x80, 0x00, 0xbb, 0x00, 0x80, 0xcd, 0x13, 0xeb,
    0xec,
];

/// Asks for all counters of a VM.
fn specs_of_vm(id: &str) -> Vec<AcqSpec> {
    let sets = CounterSet::all().into_iter().filter(|set| set.kind == ResourceKind::Vm);
    sets.map(|set| AcqSpec {
        endpoints: Vec::new(),
        counters: CounterSpec { cid_mid: None, set_id: Some(set.id()) },
        resources: vec![RsrcId {
            key: None,
            resource_type: Some("VM".to_owned()),
            id_value: id.to_owned(),
            predicate: Some(Predicate::Equal),
            scheme: None,
        }],
        interval: 1,
        expiration: i64::MAX,
        memo_: String::new(),
        id: set.id(),
        status_reason: String::new(),
        status: Status::Enabled,
    })
    .collect()
}

#[test]
fn a_busy_vm_is_sampled() {
    let directory = tempfile::tempdir().unwrap();
    let mut image = vec![0; 1 << 20];
    image[..READER.len()].copy_from_slice(&READER);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(directory.path().join("boot.img"), image).unwrap();
    // Of this run alone: the id would change when a VM of the same name that another run has started ends.
    let uuid = format!("0a1b2c3d-4e5f-4a6b-8c7e-{:012x}", std::process::id());
    let arguments =
        format!("-name guest=busy,debug-threads=on -uuid {uuid} -smp 1 -m 64 -drive file=boot.img,format=raw,if=ide");
    let Some(mut qemu) = Qemu::start(directory, &arguments) else { return };
    let machine = qemu.wait(&HostReader::new());
    let mut worker = Worker::new(Sampler::new());
    let mut time_s = 1_000_000;
    let moment =
        |time_s: i64| Now { wall_ms: time_s * 1000, monotonic: Duration::from_secs(u64::try_from(time_s).unwrap()) };
    worker.set(&specs_of_vm(&machine.id), moment(time_s));
    let started = Instant::now();
    // The firmware comes before the boot sector.
    let values = loop {
        std::thread::sleep(Duration::from_millis(1000));
        time_s += 1;
        let pass = worker.pass(moment(time_s));
        let values: std::collections::BTreeMap<String, f64> = pass
            .batch
            .series
            .into_iter()
            .map(|series| {
                assert_eq!((series.address[0].r#type.as_str(), &series.address[0].id), ("VM", &machine.id));
                assert_eq!((series.address[1].r#type.as_str(), series.address.len()), ("HOST", 2));
                (series.cid.trim_end_matches(".VM").to_owned(), series.values[0])
            })
            .collect();
        let is_at_work = |name: &str, least: f64| values.get(name).is_some_and(|value| *value > least);
        if is_at_work("cpu.utilization.usage", 50.0) && is_at_work("disk.requests.read", 10.0) {
            break values;
        }
        assert_eq!(qemu.child.try_wait().unwrap(), None, "QEMU ended");
        assert!(started.elapsed() < PATIENCE, "the VM does not work: {values:?}");
    };
    eprintln!("{values:?}");
    let within = |name: &str, least: f64, most: f64| {
        let value = values[name];
        assert!((least..=most).contains(&value), "{name}: {value}");
    };
    within("cpu.corecount.provisioned", 1.0, 1.0);
    within("cpu.utilization.usage", 50.0, 250.0);
    within("cpu.capacity.contention", 0.0, 100.0);
    within("cpu.threads.total", 2.0, 100.0);
    within("cpu.switches.usage", 1.0, 1e7);
    within("mem.capacity.provisioned", 64.0, 64.0);
    within("mem.capacity.usage", 10.0, 1024.0);
    within("mem.swap.current", 0.0, 1e9);
    // A sector each.
    within("disk.throughput.read", values["disk.requests.read"] * 0.4, values["disk.requests.read"] * 0.6);
    within("disk.throughput.contention", 0.0, 1000.0);
    within("disk.requests.write", 0.0, 0.0);
    within("sys.uptime.current", 0.0, PATIENCE.as_secs_f64() * 2.0);
    assert!(!values.contains_key("net.throughput.usage"), "it has no interface");
    if let (Some(usage), Some(provisioned)) = (values.get("cpu.capacity.usage"), values.get("cpu.capacity.provisioned"))
    {
        let percent = usage / provisioned * 100.0;
        assert!((percent - values["cpu.utilization.usage"]).abs() < 1.0, "{percent}");
    }

    // Its monitor was given back each time, and while a client has it the kernel's counts go on.
    let client = Monitor::connect(&qemu.directory.path().join("q.sock"));
    std::thread::sleep(Duration::from_millis(300));
    let pass = worker.pass(moment(time_s + 1));
    let cids: Vec<&str> = pass.batch.series.iter().map(|series| series.cid.as_str()).collect();
    assert!(cids.contains(&"cpu.utilization.usage.VM") && !cids.contains(&"disk.requests.read.VM"), "{cids:?}");
    drop(client);
    qemu.child.kill().unwrap();
    let started = Instant::now();
    while !worker.pass(moment(time_s + 2)).batch.series.is_empty() {
        time_s += 1;
        assert!(started.elapsed() < PATIENCE, "a killed VM is still sampled");
        std::thread::sleep(Duration::from_millis(5));
    }
}
