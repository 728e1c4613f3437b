//! Switching a QEMU machine, through its monitor.
//!
//! A monitor serves one client at a time and is given back after an exchange: the state is asked for first, then what leads from it to the
//! wanted one is said. In between another client may have changed it; QEMU then does what it is told in the new state, or refuses.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lockstep_contract::services::collectors::hosts::{Action as SwitchAction, Outcome};

use super::monitor::{self, Listener, Socket};
use super::process::{self, Process};
use crate::tree::Tree;

/// How long a monitor may take for one exchange: it may have to wait for the collector's to end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a process may take to end after it was told to. It flushes its disks.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an ending process is looked at.
const END_INTERVAL: Duration = Duration::from_millis(10);

/// Why a machine was not switched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// It is as it is to be.
    #[error("it is in that state already")]
    Already,
    /// It is in a state in which this cannot be done.
    #[error("its monitor says {status}")]
    NotNow {
        /// QEMU's word for the state.
        status: String,
    },
    /// No process of it runs on this machine.
    #[error("no process of it runs here")]
    NotHere,
    /// Libvirt manages it, and does not do it.
    #[error("libvirt manages it: {message}")]
    Libvirt {
        /// What it said.
        message: String,
    },
    /// It has no monitor that could be reached.
    #[error("its QEMU has no QMP socket to be switched by (-qmp unix:…)")]
    NoMonitor,
    /// It takes a program in the guest.
    #[error("a guest is not asked for this from outside")]
    NoTools,
    /// Its monitor has a client.
    #[error("its monitor serves another client")]
    Busy,
    /// Its monitor does not answer. Whether it does as it was told is unknown.
    #[error("its monitor does not answer")]
    Silent,
    /// The machine that it is on cannot be read.
    #[error("the host cannot be read")]
    Unreadable,
}

impl SwitchError {
    /// What it is to whoever ordered the switch, and the detail.
    #[must_use]
    pub fn outcome(&self) -> (Outcome, Option<String>) {
        let text = || Some(self.to_string());
        match self {
            Self::Already => (Outcome::Already, None),
            Self::NotNow { status } => (Outcome::NotNow, Some(status.clone())),
            Self::NotHere => (Outcome::NotHere, None),
            Self::Libvirt { .. } | Self::NoMonitor | Self::NoTools | Self::Unreadable => (Outcome::NoWay, text()),
            Self::Busy => (Outcome::Busy, text()),
            Self::Silent => (Outcome::Silent, text()),
        }
    }
}

/// Switches the machine that a process runs.
pub(crate) fn switch(tree: &Tree, pid: u32, action: SwitchAction) -> Result<(), SwitchError> {
    let process = process::read(tree, pid).ok_or(SwitchError::NotHere)?;
    let listener = monitor::listener(&process.arguments).ok_or(SwitchError::NoMonitor)?;
    let socket = free_socket(tree, &process, &listener)?;
    let path = process.reach(tree, &socket.path);
    let status = monitor::ask(&path, ANSWER_TIMEOUT).ok_or(SwitchError::Silent)?.status;
    match (action, &*status) {
        (SwitchAction::Start, "running") | (SwitchAction::Suspend, "paused") | (SwitchAction::Shutdown, "shutdown") => {
            Err(SwitchError::Already)
        }
        (SwitchAction::Start, "paused" | "prelaunch" | "io-error" | "debug" | "watchdog") => say(&path, ["cont"]),
        (SwitchAction::Start, "shutdown") => begin_anew(&path),
        (SwitchAction::Start, "suspended") => say(&path, ["system_wakeup"]),
        (SwitchAction::Suspend, "running") => say(&path, ["stop"]),
        (SwitchAction::Reset, "running") => say(&path, ["system_reset"]),
        (SwitchAction::Shutdown, "running") => say(&path, ["system_powerdown"]),
        (SwitchAction::Stop, _) => end(tree, &process, &path),
        (SwitchAction::Reboot | SwitchAction::Standby, _) => Err(SwitchError::NoTools),
        _ => Err(SwitchError::NotNow { status }),
    }
}

/// The socket, once no client is in the way. The collector and the sampler ask for a moment only, so a look or two later they are gone.
fn free_socket(tree: &Tree, process: &Process, listener: &Listener) -> Result<Socket, SwitchError> {
    let deadline = Instant::now() + 2 * monitor::ANSWER_TIMEOUT;
    loop {
        let descriptors = process.descriptors(tree);
        match monitor::socket(tree, process, listener, &descriptors) {
            None => return Err(SwitchError::NoMonitor),
            Some(socket) if !socket.is_busy => return Ok(socket),
            Some(_) if Instant::now() >= deadline => return Err(SwitchError::Busy),
            Some(_) => thread::sleep(END_INTERVAL),
        }
    }
}

/// Says commands that return nothing.
fn say<const N: usize>(path: &Path, commands: [&str; N]) -> Result<(), SwitchError> {
    let (_, returned) = monitor::exchange(path, commands, ANSWER_TIMEOUT).ok_or(SwitchError::Silent)?;
    match returned.iter().all(Option::is_some) {
        true => Ok(()),
        false => Err(SwitchError::NotNow { status: "another state by now".to_owned() }),
    }
}

/// Starts a machine whose guest has shut down and whose process is kept. QEMU resets it in its own time, and goes on only after that.
fn begin_anew(path: &Path) -> Result<(), SwitchError> {
    say(path, ["system_reset"])?;
    let deadline = Instant::now() + END_TIMEOUT;
    while monitor::ask(path, ANSWER_TIMEOUT).ok_or(SwitchError::Silent)?.status == "shutdown" {
        if Instant::now() >= deadline {
            return Err(SwitchError::Silent);
        }
        thread::sleep(END_INTERVAL);
    }
    say(path, ["cont"])
}

/// Ends a process and waits for it. It may be gone before it has answered.
fn end(tree: &Tree, process: &Process, path: &Path) -> Result<(), SwitchError> {
    let is_running = || process::read(tree, process.pid).is_some_and(|now| now.started_ticks == process.started_ticks);
    let said = say(path, ["quit"]);
    let deadline = Instant::now() + END_TIMEOUT;
    while is_running() {
        if Instant::now() >= deadline {
            return said.and(Err(SwitchError::Silent));
        }
        thread::sleep(END_INTERVAL);
    }
    Ok(())
}
