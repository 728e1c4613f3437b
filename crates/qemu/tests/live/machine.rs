//! A real QEMU with a guest that always writes, and copies of its disks that are checked to the last block.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_qemu::qmp::Qmp;
use lockstep_qemu::{Base, Cycle, Kind, LiveVm, Select, Tag};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for anything on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Where the guest writes: 8192 places of 4 KiB.
const SLOTS: usize = 8192;
const SLOT_BYTES: usize = 4096;
/// The last block is a short one.
pub const DISK_BYTES: u64 = (64 << 20) + 1536;
pub const REPLICATION: &str = "c0ffee00-0000-4000-8000-000000000001";

/// How the two disks are attached.
#[derive(Clone, Copy)]
pub struct Layout {
    pub format: [&'static str; 2],
    /// With `{drive}` and `{id}`.
    pub device: [&'static str; 2],
}

pub const VIRTIO: &str = "virtio-blk-pci,drive={drive},id={id},werror=report";

impl Default for Layout {
    fn default() -> Self {
        Self { format: ["qcow2", "qcow2"], device: [VIRTIO, VIRTIO] }
    }
}

/// Whether the programs are there; says which is not.
pub fn has_programs() -> bool {
    ["qemu-system-x86_64", "qemu-img", "qemu-nbd", "as", "ld"].iter().all(|program| {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.inspect_err(|error| eprintln!("skipped: {program} cannot be started: {error}")).is_ok()
    })
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A machine in a directory of its own. It can be ended and started again.
pub struct Machine {
    pub directory: TempDir,
    layout: Layout,
    child: Option<Child>,
    control: Option<Qmp>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Machine {
    /// None, with the reason printed, where there are no programs for it.
    pub async fn start(layout: Layout) -> Option<Self> {
        if !has_programs() {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("ls").tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/guest.S");
        run("as", &["--32", source.to_str().unwrap(), "-o", "guest.o"], directory.path());
        let link = ["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", "guest.raw", "guest.o"];
        run("ld", &link, directory.path());
        File::options().write(true).open(directory.path().join("guest.raw")).unwrap().set_len(1 << 20).unwrap();
        for (index, format) in layout.format.iter().enumerate() {
            let (name, bytes) = (format!("disk{index}"), DISK_BYTES.to_string());
            run("qemu-img", &["create", "-q", "-f", format, &name, &bytes], directory.path());
        }
        std::fs::create_dir(directory.path().join("scratch")).unwrap();
        let mut machine = Self { directory, layout, child: None, control: None };
        machine.power_on().await;
        machine.control("cont", Value::Null).await;
        Some(machine)
    }

    /// Starts QEMU; the guest waits.
    pub async fn power_on(&mut self) {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35,accel=tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"]);
        command.args(["-qmp", "unix:ours,server=on,wait=off", "-qmp", "unix:theirs,server=on,wait=off"]);
        command.args(["-blockdev", "driver=raw,node-name=boot,read-only=on,file.driver=file,file.filename=guest.raw"]);
        command.args(["-device", "virtio-blk-pci,drive=boot,bootindex=0"]);
        command.args(["-device", "virtio-scsi-pci,id=scsi", "-device", "nvme,id=nvme,serial=1"]);
        for (index, (format, device)) in self.layout.format.iter().zip(self.layout.device).enumerate() {
            // The firmware knows no write cache: each of its writes would be flushed to the host's disk.
            let cache = json!({"no-flush": true});
            let path = self.directory.path().join(format!("disk{index}"));
            let disk = json!({"driver": format, "node-name": format!("disk{index}"), "cache": cache,
                "file": {"driver": "file", "filename": path, "cache": cache}});
            command.arg("-blockdev").arg(disk.to_string());
            let device = device.replace("{drive}", &format!("disk{index}")).replace("{id}", &format!("vd{index}"));
            command.arg("-device").arg(format!("{device},bootindex={}", index + 1));
        }
        command.current_dir(self.directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let started = Instant::now();
        let control = loop {
            match Qmp::connect(&self.directory.path().join("theirs")).await {
                Ok(control) => break control,
                Err(error) => assert!(started.elapsed() < PATIENCE, "QEMU did not start: {error}"),
            }
            assert_eq!(self.child.as_mut().unwrap().try_wait().unwrap(), None, "QEMU ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.control = Some(control);
    }

    /// A clean end.
    pub async fn quit(&mut self) {
        let _ = self.control.take().unwrap().execute("quit", Value::Null).await;
        let mut child = self.child.take().unwrap();
        tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    }

    /// `SIGKILL`.
    pub fn kill(&mut self) {
        self.control = None;
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Executes a command as somebody else.
    pub async fn control(&self, command: &'static str, arguments: Value) -> Value {
        self.control.as_ref().unwrap().execute(command, arguments).await.unwrap()
    }

    pub async fn try_control(&self, command: &lockstep_qemu::qmp::Command) -> Result<Value, lockstep_qemu::Error> {
        self.control.as_ref().unwrap().execute(command.name, command.arguments.clone()).await
    }

    async fn memory(&self, address: u32) -> u32 {
        let line = json!({"command-line": format!("xp /1wx {address:#x}")});
        let text = self.control("human-monitor-command", line).await;
        u32::from_str_radix(text.as_str().unwrap().split("0x").nth(1).unwrap().trim(), 16).unwrap()
    }

    /// How many writes the guest has begun.
    pub async fn writes(&self) -> u32 {
        self.memory(0x600).await
    }

    /// How many of its writes failed.
    pub async fn errors(&self) -> u32 {
        self.memory(0x604).await
    }

    /// Waits until the guest has made so many writes more.
    pub async fn wait_writes(&self, count: u32) {
        let (first, started) = (self.writes().await, Instant::now());
        while self.writes().await < first + count {
            assert!(started.elapsed() < PATIENCE, "the guest does not write");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn is_running(&self) -> bool {
        self.control("query-status", Value::Null).await["running"] == true
    }

    /// The names of our bitmaps on a node.
    pub async fn bitmaps(&self, node: &str) -> Vec<String> {
        let nodes = self.control("query-named-block-nodes", json!({"flat": true})).await;
        let node = nodes.as_array().unwrap().iter().find(|found| found["node-name"] == node).unwrap();
        let bitmaps = node["dirty-bitmaps"].as_array().map(Vec::as_slice).unwrap_or_default();
        bitmaps.iter().filter_map(|bitmap| Some(bitmap["name"].as_str()?.to_owned())).collect()
    }

    /// Nothing of ours is left but one bitmap a disk.
    pub async fn assert_clean(&self, number: u64) {
        let nodes = self.control("query-named-block-nodes", json!({"flat": true})).await;
        let names: Vec<&str> = nodes.as_array().unwrap().iter().filter_map(|node| node["node-name"].as_str()).collect();
        assert!(!names.iter().any(|name| name.starts_with("ls-")), "{names:?}");
        assert_eq!(self.control("query-block-exports", Value::Null).await, json!([]));
        for disk in ["disk0", "disk1"] {
            assert_eq!(self.bitmaps(disk).await, [format!("{}-{number}", tag().as_str())]);
        }
    }

    pub fn vm(&self) -> LiveVm {
        LiveVm {
            monitor: self.path("ours"),
            tag: tag(),
            disks: vec![(0, Select::Qdev("vd0".into())), (1, Select::File(self.path("disk1")))],
            scratch: self.path("scratch"),
            granularity: 65536,
            agent: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

pub fn tag() -> Tag {
    Tag::of(REPLICATION).unwrap()
}

pub fn base(number: u64) -> Base {
    Base { number, disks: vec![(0, DISK_BYTES), (1, DISK_BYTES)] }
}

/// The copies of both disks, as a destination has them.
pub struct Copies {
    _directory: TempDir,
    files: [File; 2],
}

/// What a copier does wrong on purpose.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    ForgetsAnExtent,
}

impl Copies {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = [0, 1].map(|index| {
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).open(directory.path().join(index.to_string()));
            let file = file.unwrap();
            file.set_len(DISK_BYTES).unwrap();
            file
        });
        Self { _directory: directory, files }
    }

    /// Reads what a cycle lists into the copies; answers how many bytes.
    pub async fn take(&self, cycle: &Cycle) -> u64 {
        self.take_with(cycle, Fault::None).await.unwrap()
    }

    pub async fn take_with(&self, cycle: &Cycle, fault: Fault) -> Result<u64, lockstep_qemu::Error> {
        let mut taken = 0;
        for (file, disk) in self.files.iter().zip(&cycle.disks) {
            assert_eq!(disk.bytes, DISK_BYTES);
            let mut extents = disk.extents().await?;
            if fault == Fault::ForgetsAnExtent && disk.index == 0 {
                let last = extents.iter().rposition(|extent| extent.kind == Kind::Data).unwrap();
                extents.remove(last);
            }
            let pieces = extents.iter().flat_map(|extent| {
                let end = extent.offset + extent.bytes;
                let piece = 1 << 20;
                (extent.offset..end).step_by(piece as usize).map(move |at| (at, (end - at).min(piece), extent.kind))
            });
            let mut pieces = pieces.peekable();
            while pieces.peek().is_some() {
                let mut reads = tokio::task::JoinSet::new();
                for (at, bytes, kind) in pieces.by_ref().take(8) {
                    let disk = disk.clone();
                    let file = file.try_clone().unwrap();
                    reads.spawn(async move {
                        let data = match kind {
                            Kind::Data => disk.read(at, bytes as usize).await?,
                            Kind::Zero => vec![0; bytes as usize].into(),
                        };
                        file.write_all_at(&data, at).unwrap();
                        disk.release(at, bytes).await?;
                        Ok(bytes)
                    });
                }
                while let Some(read) = reads.join_next().await {
                    taken += read.unwrap()?;
                }
            }
        }
        cycle.check().await?;
        Ok(taken)
    }

    /// Whether each copy is exactly the state after a number of writes, and together they are one point in time; answers the numbers.
    pub fn check(&self) -> Result<(u32, u32), String> {
        let first = self.check_one(0)?;
        let second = self.check_one(1)?;
        if first == second || first == second + 1 {
            return Ok((first, second));
        }
        Err(format!("disk 0 is after write {first}, disk 1 after write {second}"))
    }

    fn check_one(&self, index: usize) -> Result<u32, String> {
        let mut image = vec![0; DISK_BYTES as usize];
        self.files[index].read_exact_at(&mut image, 0).unwrap();
        let mut found = vec![0; SLOTS];
        for (slot, place) in image.chunks_exact(SLOT_BYTES).take(SLOTS).enumerate() {
            let number = u32::from_le_bytes(place[..4].try_into().unwrap());
            let pair = [&number.to_le_bytes()[..], &(if number == 0 { 0 } else { slot as u32 }).to_le_bytes()].concat();
            if place.chunks_exact(8).any(|found| found != pair) {
                return Err(format!("disk {index}: place {slot} is not of one write"));
            }
            found[slot] = number;
        }
        if image[SLOTS * SLOT_BYTES..].iter().any(|byte| *byte != 0) {
            return Err(format!("disk {index}: there is data where nothing is written"));
        }
        let last = found.iter().copied().max().unwrap();
        let (mut x, mut expected) = (0_u32, vec![0; SLOTS]);
        for number in 1..=last {
            x = x.wrapping_mul(69069).wrapping_add(1);
            expected[(x >> 19) as usize] = number;
        }
        match (0..SLOTS).filter(|slot| found[*slot] != expected[*slot]).count() {
            0 => Ok(last),
            count => Err(format!("disk {index}: {count} places are not as after write {last}")),
        }
    }
}

/// Runs a test on two threads.
pub fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}
