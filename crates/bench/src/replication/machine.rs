//! A running QEMU that has the image for a disk, and what is written through it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lockstep_qemu::qmp::Qmp;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::ReplicationArgs;

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// How long it may take to answer for the first time.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// The disk, as QEMU calls it.
const DISK: &str = "disk0";

/// The device that has it.
const DEVICE: &str = "/machine/peripheral/vd0/virtio-backend";

/// A machine whose firmware finds nothing to start. It is killed when dropped.
pub struct Machine {
    child: Child,
    dir: TempDir,
    control: Qmp,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Starts QEMU, without KVM, on a raw image.
    pub fn start(args: &ReplicationArgs, image: &Path, runtime: &Runtime) -> anyhow::Result<Self> {
        let dir = args.fresh_dir()?;
        let mut command = Command::new(QEMU);
        command.args(["-machine", "q35,accel=tcg", "-m", "32", "-nodefaults", "-display", "none"]);
        for socket in ["control", "ours", "theirs"] {
            command.arg("-qmp").arg(format!("unix:{socket},server=on,wait=off"));
        }
        let image = std::path::absolute(image)?;
        let node = json!({"driver": "raw", "node-name": DISK, "file": {"driver": "file", "filename": image}});
        command.arg("-blockdev").arg(node.to_string());
        command.arg("-device").arg(format!("virtio-blk-pci,drive={DISK},id=vd0"));
        let child = command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut child = child.with_context(|| format!("start {QEMU}"))?;
        let (socket, began) = (dir.path().join("control"), Instant::now());
        let control = loop {
            match runtime.block_on(Qmp::connect(&socket)) {
                Ok(control) => break control,
                Err(error) if began.elapsed() > START_TIME_MAX => {
                    let _ = child.kill();
                    return Err(error).context("QEMU did not start");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        Ok(Self { child, dir, control })
    }

    /// A monitor that the replication has to itself.
    pub fn ours(&self) -> PathBuf {
        self.dir.path().join("ours")
    }

    /// A monitor that the plain pull has to itself.
    pub fn theirs(&self) -> PathBuf {
        self.dir.path().join("theirs")
    }

    /// Writes to the disk as a guest would.
    pub fn write(&self, offset: u64, content: &[u8], runtime: &Runtime) -> anyhow::Result<()> {
        let file = self.dir.path().join("content");
        std::fs::write(&file, content).context("write what is to be written")?;
        let line = format!("qemu-io -d {DEVICE} \"write -q -s {} {offset} {}\"", file.display(), content.len());
        let said = runtime.block_on(self.control.execute("human-monitor-command", json!({"command-line": line})))?;
        ensure!(said == "", "qemu-io: {said}");
        Ok(())
    }
}
