//! The QEMU of a recovered machine.
//!
//! It goes into the background by itself (`-daemonize`), in a session of its own, once it is ready; so it does not end with Lockstep, and
//! its disks wait for Lockstep's NBD server to be back. Its parts have the names that the replication of running machines knows: device
//! `vd<i>` and node `disk<i>`, in the order of the disks' keys.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lockstep_qemu::process::{Held, Process};
use lockstep_qemu::qmp::Qmp;
use serde_json::{Value, json};
use tokio::process::Command;

use super::error::{Error, io_error};
use super::exports::{check_socket, export_name};
use super::image::{Images, escaped, shown};
use super::state::{Accelerator, Hardware, Place, Recovery};

/// How long QEMU may take until it is ready.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

/// How long QEMU may take to end when it was told to.
const QUIT_LIMIT: Duration = Duration::from_secs(10);

/// How long a machine's reads wait for Lockstep to be back; then it is stopped, and goes on when Lockstep is.
const RECONNECT_S: u32 = 24 * 3600;

/// Most disks: each takes one of the 32 places of the machine's bus.
const DISKS_MAX: usize = 26;

/// Most processors, as `-machine pc` has.
const CPUS_MAX: u32 = 255;

/// Most memory: 16 TiB.
const MEMORY_MIB_MAX: u64 = 16 << 20;

/// Bytes that are kept of what the machine says on its serial line.
const CONSOLE_BYTES: usize = 64 << 10;

/// Most characters of a machine's name that are shown to people.
const NAME_CHARS_MAX: usize = 60;

/// Most letters of a network interface's name, that Linux sets.
const INTERFACE_BYTES_MAX: usize = 15;

/// The serial line, for QEMU.
const CONSOLE: &str = "console";

/// The node that a guest's disk is.
pub(super) fn node(index: usize) -> String {
    format!("disk{index}")
}

/// The device that a guest sees.
pub(super) fn device(index: usize) -> String {
    format!("vd{index}")
}

/// The node of the instance's disk below.
pub(super) fn instance_node(index: usize) -> String {
    format!("instance{index}")
}

/// Refuses what cannot be run.
pub(super) fn check(hardware: &Hardware, disks: usize) -> Result<(), Error> {
    let limited = |what, found, limit| match found > limit {
        true => Err(Error::Limit { what, found, limit }),
        false => Ok(()),
    };
    limited("the number of disks", disks as u64, DISKS_MAX as u64)?;
    limited("the number of processors", u64::from(hardware.cpus), u64::from(CPUS_MAX))?;
    limited("the memory in MiB", hardware.memory_mib, MEMORY_MIB_MAX)?;
    if hardware.cpus == 0 || hardware.memory_mib == 0 {
        return Err(Error::Invalid { what: "the processors and the memory", right: "more than none" });
    }
    let is_name = |name: &String| {
        (1..=INTERFACE_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    if !hardware.bridge.iter().all(is_name) {
        return Err(Error::Invalid { what: "the bridge", right: "the name of a network interface" });
    }
    Ok(())
}

/// A machine that was started.
pub(super) struct Started {
    pub(super) process: Process,
    /// Why it is emulated, and slow, though that was not asked for.
    pub(super) why_emulated: Option<String>,
}

/// Starts it; it runs when this returns.
pub(super) async fn start(
    program: &Path,
    accelerator: Accelerator,
    images: &Images,
    place: &Place,
    recovery: &Recovery,
) -> Result<Started, Error> {
    check(&recovery.hardware, recovery.disks.len())?;
    for socket in [place.control(), place.monitor()] {
        check_socket(&socket)?;
    }
    let run = |accelerator| run(program, accelerator, images, place, recovery);
    match accelerator {
        Accelerator::Kvm => Ok(Started { process: run("kvm").await?, why_emulated: None }),
        Accelerator::Tcg => Ok(Started { process: run("tcg").await?, why_emulated: None }),
        // QEMU has a fall-back of its own, but not for a KVM that is there and broken, as nested ones are now and then.
        Accelerator::Any => match run("kvm").await {
            Ok(process) => Ok(Started { process, why_emulated: None }),
            Err(Error::Program { reason, .. }) => {
                Ok(Started { process: run("tcg").await?, why_emulated: Some(reason) })
            }
            Err(error) => Err(error),
        },
    }
}

async fn run(
    program: &Path,
    accelerator: &str,
    images: &Images,
    place: &Place,
    recovery: &Recovery,
) -> Result<Process, Error> {
    let pid_file = place.pid_file();
    // One of an earlier start would be taken for this one's.
    match std::fs::remove_file(&pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io_error(format!("removing {}", pid_file.display()))(error));
        }
        _ => {}
    }
    let mut command = Command::new(program);
    command.args(arguments(accelerator, images, place, recovery));
    command.stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let what = program.display().to_string();
    // What the first of its two processes meets is in its output, which the second one closes when it is ready.
    let output = match tokio::time::timeout(START_LIMIT, command.output()).await {
        Ok(output) => output.map_err(io_error(format!("starting {what}")))?,
        Err(_) => {
            Process::kill_all(&place.mark()).await?;
            return Err(Error::Program { program: what, reason: format!("it was not ready within {START_LIMIT:?}") });
        }
    };
    if !output.status.success() {
        return Err(Error::Program { program: what, reason: shown(&output.stderr, &output.status) });
    }
    Process::adopt(&pid_file, START_LIMIT).await.ok_or_else(|| {
        let reason = "it ended at once".to_owned();
        Error::Program { program: what, reason }
    })
}

fn arguments(accelerator: &str, images: &Images, place: &Place, recovery: &Recovery) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let mut add = |arguments: &[&str]| all.extend(arguments.iter().map(OsString::from));
    let hardware = &recovery.hardware;
    let name: String = hardware.name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    // A comma would begin another option.
    add(&["-name", &format!("guest={}", name.replace(',', ",,")), "-uuid", &hardware.uuid]);
    add(&["-no-user-config", "-nodefaults", "-display", "none", "-vga", "std"]);
    add(&["-machine", "pc", "-accel", accelerator, "-cpu", "max"]);
    add(&["-smp", &hardware.cpus.to_string(), "-m", &format!("{}M", hardware.memory_mib)]);
    match &hardware.bridge {
        None => add(&["-nic", "none"]),
        Some(bridge) => add(&["-nic", &format!("bridge,br={bridge},model=virtio-net-pci")]),
    }
    add(&["-chardev", &format!("ringbuf,id={CONSOLE},size={CONSOLE_BYTES}"), "-serial", &format!("chardev:{CONSOLE}")]);
    for (index, disk) in recovery.disks.iter().enumerate() {
        let (node, below) = (node(index), instance_node(index));
        let mut below_it = Value::Null;
        if let Some(name) = recovery.name().filter(|_| !disk.is_independent) {
            let instance = json!({
                "driver": "nbd",
                "node-name": below,
                "read-only": true,
                "server": {"type": "unix", "path": images.socket},
                "export": export_name(&name, disk.key),
                "reconnect-delay": RECONNECT_S,
                "open-timeout": START_LIMIT.as_secs() / 2,
            });
            add(&["-blockdev", &instance.to_string()]);
            below_it = Value::from(below);
        }
        let image = json!({
            "driver": "qcow2",
            "node-name": node,
            "discard": "unmap",
            "backing": below_it,
            "file": {"driver": "file", "filename": place.disk(disk.key), "discard": "unmap"},
        });
        add(&["-blockdev", &image.to_string()]);
        let device = device(index);
        let boot = index + 1;
        // A disk that cannot be read stops the machine, which goes on when it can; its file systems see no error.
        add(&["-device", &format!("virtio-blk-pci,id={device},drive={node},bootindex={boot},werror=stop,rerror=stop")]);
    }
    for (id, path) in [("control", place.control()), ("monitor", place.monitor())] {
        let mut socket = OsString::from(format!("socket,id={id},server=on,wait=off,path="));
        socket.push(escaped(path.as_os_str()));
        all.extend(["-chardev".into(), socket, "-mon".into(), format!("chardev={id},mode=control").into()]);
    }
    all.extend(["-daemonize".into(), "-pidfile".into(), place.pid_file().into()]);
    all
}

/// Ends it, whatever it does; it is gone when this returns.
pub(super) async fn end(process: Process, place: &Place) -> Result<(), Error> {
    let Some(held) = Held::new(process, &place.mark())? else { return Ok(()) };
    let quit = async {
        let control = Qmp::connect(&place.control()).await?;
        control.execute("quit", Value::Null).await
    };
    match tokio::time::timeout(QUIT_LIMIT, quit).await {
        Ok(Ok(_)) if held.has_ended(QUIT_LIMIT).await? => return Ok(()),
        Ok(Err(error)) => tracing::warn!(%error, pid = process.pid, "QEMU does not quit, and is killed"),
        _ => tracing::warn!(pid = process.pid, "QEMU does not quit in time, and is killed"),
    }
    Ok(held.kill().await?)
}

/// Lets a guest go on that was stopped since its disks could not be read.
pub(super) async fn go_on(place: &Place) -> Result<(), Error> {
    let control = Qmp::connect(&place.control()).await?;
    let status = control.execute("query-status", Value::Null).await?;
    if status["status"] == "io-error" {
        control.execute("cont", Value::Null).await?;
    }
    Ok(())
}

/// The latest that the machine said on its serial line and nobody has taken yet.
pub(super) async fn console(place: &Place) -> Result<String, Error> {
    let control = Qmp::connect(&place.control()).await?;
    let arguments = json!({"device": CONSOLE, "size": CONSOLE_BYTES});
    let said = control.execute("ringbuf-read", arguments).await?;
    Ok(said.as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_refused() {
        let check = |cpus, memory_mib, bridge: Option<&str>, disks, expected: &str| {
            let (name, uuid) = ("m".to_owned(), "c0ffee00-0000-4000-8000-000000000002".to_owned());
            let hardware = Hardware { name, uuid, cpus, memory_mib, bridge: bridge.map(str::to_owned) };
            let found = super::check(&hardware, disks).err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(found, expected);
        };
        check(1, 32, None, 1, "");
        check(255, 1024, Some("br-0.1"), 26, "");
        check(256, 1024, None, 1, "the number of processors is 256, more than 255");
        check(1, 1024, None, 27, "the number of disks is 27, more than 26");
        check(1, (16 << 20) + 1, None, 1, "the memory in MiB is 16777217, more than 16777216");
        check(0, 32, None, 1, "the processors and the memory is to be more than none");
        check(1, 32, Some("br0,script=x"), 1, "the bridge is to be the name of a network interface");
    }
}
