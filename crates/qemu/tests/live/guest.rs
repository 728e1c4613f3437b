//! A real QEMU with a guest that writes to two disks for ever, and what its disks must hold after so many writes.
//!
//! What the guest does is told at the head of `guest.S`. The tests of the whole replication have this file too.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_qemu::qmp::Qmp;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for anything on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Where the guest writes: 8192 places of 4 KiB.
const SLOTS: usize = 8192;
const SLOT_BYTES: usize = 4096;
/// A little more than the guest writes to. The last block is a short one.
pub const DISK_BYTES: u64 = (34 << 20) + 1536;
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
    /// The monitor of somebody who is not us.
    pub control: Option<Qmp>,
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
        std::fs::write(directory.path().join("guest.S"), include_str!("guest.S")).unwrap();
        run("as", &["--32", "guest.S", "-o", "guest.o"], directory.path());
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A file system of one MiB, which takes the right to mount.
pub struct Small(pub PathBuf);

impl Small {
    /// None, with a word printed, where that right is not had.
    pub fn mount(path: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(path)),
            _ => {
                eprintln!("skipped: a small file system cannot be mounted");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether the images are of one instant of the guest: each exactly the state after a number of writes, and the first at most one ahead.
/// Answers the numbers.
pub fn check_instant(first: &[u8], second: &[u8]) -> Result<(u32, u32), String> {
    let (first, second) = (check_disk(0, first)?, check_disk(1, second)?);
    if first == second || first == second + 1 {
        return Ok((first, second));
    }
    Err(format!("disk 0 is after write {first}, disk 1 after write {second}"))
}

fn check_disk(index: usize, image: &[u8]) -> Result<u32, String> {
    if image.len() as u64 != DISK_BYTES {
        return Err(format!("disk {index}: {} bytes", image.len()));
    }
    let mut found = vec![0; SLOTS];
    for (slot, place) in image.chunks_exact(SLOT_BYTES).take(SLOTS).enumerate() {
        let number = u32::from_le_bytes(place[..4].try_into().unwrap());
        let pair = [&number.to_le_bytes()[..], &(if number == 0 { 0 } else { slot as u32 }).to_le_bytes()].concat();
        if place != pair.repeat(SLOT_BYTES / pair.len()) {
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
