//! Starting and ending the machines that were recovered, with QEMU.
//!
//! A machine is a process of its own that outlives this server. Its directory has what is needed to find it again: `pid`, written by QEMU, and
//! `qmp`, the socket of its monitor. A process is taken for the machine only while it has that very file of the directory in its arguments.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lockstep_contract::{Error, ErrorKind};
use lockstep_qemu::qmp::Qmp;
use serde_json::Value as Json;

use crate::vault::run;

/// How long QEMU may take to be gone once it was told to.
const QUIT_LIMIT: Duration = Duration::from_secs(10);

/// How often is looked whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Disks of one machine that are started: a PCI bus has no more places.
const DISKS_MAX: usize = 24;

/// A machine to start.
pub(crate) struct Boot {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) cpus: i64,
    pub(crate) memory_mib: i64,
    /// Its disks in order, and in which format.
    pub(crate) disks: Vec<(PathBuf, &'static str)>,
}

fn failed(message: String) -> Error {
    Error::new(ErrorKind::Error, "lockstep.replication.machine", message, Vec::new())
}

/// The monitor's socket of a machine in a directory.
pub(crate) fn monitor(directory: &Path) -> PathBuf {
    directory.join("qmp")
}

/// What stands behind a comma in one of QEMU's options is escaped by another.
fn option(text: &str) -> String {
    text.replace(',', ",,")
}

/// Starts a machine whose files are in a directory.
///
/// # Errors
/// Why QEMU does not run.
pub(crate) async fn start(directory: &Path, boot: &Boot) -> Result<(), Error> {
    if boot.disks.len() > DISKS_MAX {
        return Err(failed(format!("a machine is started with at most {DISKS_MAX} disks, not {}", boot.disks.len())));
    }
    let pid = directory.join("pid");
    let mut qemu = tokio::process::Command::new("qemu-system-x86_64");
    let name: String = boot.name.chars().filter(|c| !c.is_control()).take(60).collect();
    qemu.arg("-name").arg(option(&name)).arg("-uuid").arg(&boot.uuid);
    qemu.args(["-machine", "pc,accel=kvm:tcg", "-display", "none", "-serial", "none", "-parallel", "none"]);
    qemu.args(["-nic", "none", "-no-user-config", "-daemonize"]);
    qemu.arg("-m").arg(boot.memory_mib.clamp(16, 1 << 20).to_string());
    qemu.arg("-smp").arg(boot.cpus.clamp(1, 128).to_string());
    let path = |path: &Path| option(&path.display().to_string());
    qemu.arg("-pidfile").arg(&pid);
    qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", path(&monitor(directory))));
    for (index, (file, format)) in boot.disks.iter().enumerate() {
        qemu.arg("-drive").arg(format!("file={},format={format},if=none,id=disk{index}", path(file)));
        let bootindex = index + 1;
        qemu.arg("-device").arg(format!("virtio-blk-pci,drive=disk{index},id=device{index},bootindex={bootindex}"));
    }
    qemu.stdout(Stdio::null());
    run(qemu, "qemu-system-x86_64").await
}

/// The machine's process, if it runs.
fn process(directory: &Path) -> Option<rustix::process::Pid> {
    let file = directory.join("pid");
    let pid: i32 = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let needle = file.as_os_str().as_encoded_bytes();
    let is_ours = arguments.split(|byte| *byte == 0).any(|argument| argument == needle);
    is_ours.then(|| rustix::process::Pid::from_raw(pid)).flatten()
}

async fn is_gone(directory: &Path, limit: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    while process(directory).is_some() {
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

/// Ends a machine that was started here at once; one that does not run is no error.
///
/// # Errors
/// When it does not end.
pub(crate) async fn kill(directory: &Path) -> Result<(), Error> {
    let Some(pid) = process(directory) else { return Ok(()) };
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        .map_err(|errno| failed(format!("the machine cannot be ended: {errno}")))?;
    match is_gone(directory, QUIT_LIMIT).await {
        true => Ok(()),
        false => Err(failed("the machine does not end".to_owned())),
    }
}

/// Switches a machine off by its monitor: the guest is asked, and after so long not asked any more. Answers whether the guest did it itself.
///
/// # Errors
/// When nobody answers at the monitor.
pub(crate) async fn power_off(monitor: &Path, limit: Duration) -> Result<bool, Error> {
    let told = |error: lockstep_qemu::Error| failed(format!("the machine cannot be switched off: {error}"));
    let qmp = Qmp::connect(monitor).await.map_err(told)?;
    qmp.execute("system_powerdown", Json::Null).await.map_err(told)?;
    let ended = qmp.wait_event(|event| event.name == "SHUTDOWN", limit).await;
    let by_itself = ended.is_ok() || qmp.is_closed();
    if !qmp.is_closed() {
        // QEMU may be on its way out already, and not answer any more.
        let _ = qmp.execute("quit", Json::Null).await;
    }
    drop(qmp);
    let deadline = tokio::time::Instant::now() + QUIT_LIMIT;
    while tokio::net::UnixStream::connect(monitor).await.is_ok() {
        if tokio::time::Instant::now() >= deadline {
            return Err(failed("the machine does not end".to_owned()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(by_itself)
}
