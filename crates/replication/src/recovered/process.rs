//! QEMU's process, which outlives ours.
//!
//! It is known by its number, by when it began, and by the path of its pid file among its arguments; so another process that got the same
//! number is never taken for it. Signals go to a file descriptor of the process, not to a number.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::error::{Error, io_error};

/// How long a killed process may take to be gone: it may wait for a disk.
const KILLED_LIMIT: Duration = Duration::from_secs(30);

/// How often a process that is being started is looked at.
const START_PAUSE: Duration = Duration::from_millis(20);

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since the host's start.
    pub start_ticks: u64,
}

impl Process {
    /// Of that number, when its arguments name the pid file.
    fn of_number(pid: i32, pid_file: &Path) -> Option<Self> {
        match names(pid, pid_file)? {
            Named::Yes => Some(Self { pid, start_ticks: start_ticks(pid)? }),
            Named::No | Named::Ending => None,
        }
    }

    /// Whether it is still there; so it is said to be when that cannot be found out.
    pub(super) fn is_alive(self, pid_file: &Path) -> bool {
        !matches!(Held::new(self, pid_file), Ok(None))
    }

    /// All that have the pid file among their arguments.
    fn all(pid_file: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter_map(|pid| Self::of_number(pid, pid_file)).collect()
    }

    /// The one that says in the pid file that it is ready, when it is the only one: its parent waits for it to be so.
    pub(super) fn ready(pid_file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(pid_file).ok()?;
        let process = Self::of_number(text.trim().parse().ok()?, pid_file)?;
        (Self::all(pid_file) == [process]).then_some(process)
    }

    /// The one that somebody began to start, once it is ready; none when there is none, or not in time. Those that are not are killed.
    pub(super) async fn adopt(pid_file: &Path, limit: Duration) -> Option<Self> {
        let waiting = async {
            loop {
                if let Some(process) = Self::ready(pid_file) {
                    return Some(process);
                }
                if Self::all(pid_file).is_empty() {
                    return None;
                }
                tokio::time::sleep(START_PAUSE).await;
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(found) => found,
            Err(_) => {
                Self::kill_all(pid_file).await.unwrap_or_else(|error| tracing::warn!(%error, "QEMU was not killed"));
                None
            }
        }
    }

    /// Kills all that have the pid file among their arguments, and waits until they are gone.
    pub(super) async fn kill_all(pid_file: &Path) -> Result<(), Error> {
        for process in Self::all(pid_file) {
            if let Some(held) = Held::new(process, pid_file)? {
                held.kill().await?;
            }
        }
        Ok(())
    }
}

/// Whether a process names a pid file.
enum Named {
    Yes,
    No,
    /// It has no arguments any more.
    Ending,
}

/// None when there is no such process.
fn names(pid: i32, pid_file: &Path) -> Option<Named> {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    if arguments.is_empty() {
        return Some(Named::Ending);
    }
    let mut arguments = arguments.split(|byte| *byte == 0);
    let is_named =
        arguments.any(|argument| argument == b"-pidfile") && arguments.next() == Some(pid_file.as_os_str().as_bytes());
    Some(if is_named { Named::Yes } else { Named::No })
}

/// A process that cannot be mistaken.
pub(super) struct Held(Arc<OwnedFd>);

impl Held {
    /// None when it is gone.
    pub(super) fn new(process: Process, pid_file: &Path) -> Result<Option<Self>, Error> {
        let what = || format!("looking for process {}", process.pid);
        let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            held => held.map_err(|errno| io_error(what())(errno.into()))?,
        };
        // After it was opened: now its number cannot become another's.
        let is_it = matches!(names(process.pid, pid_file), Some(Named::Yes | Named::Ending))
            && start_ticks(process.pid) == Some(process.start_ticks);
        // It may look dead while one of its threads still has its images open.
        if !is_it || has_ended(&held, Duration::ZERO)? {
            return Ok(None);
        }
        Ok(Some(Self(Arc::new(held))))
    }

    /// Kills it; it is gone when this returns.
    pub(super) async fn kill(&self) -> Result<(), Error> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(io_error("killing QEMU")(errno.into())),
        }
        match self.has_ended(KILLED_LIMIT).await? {
            true => Ok(()),
            false => Err(io_error("killing QEMU")(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Whether it is gone, within that time.
    pub(super) async fn has_ended(&self, limit: Duration) -> Result<bool, Error> {
        let held = self.0.clone();
        tokio::task::spawn_blocking(move || has_ended(&held, limit)).await.unwrap_or(Err(Error::Ended))
    }
}

fn has_ended(held: &OwnedFd, limit: Duration) -> Result<bool, Error> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        // It can be read from when all threads of the process are gone.
        match poll(&mut [PollFd::new(held, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(io_error("waiting for QEMU's end")(errno.into())),
        }
    }
}

/// When a process began; none when there is none.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything, brackets too.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    // The 22nd field of all, proc_pid_stat(5).
    fields.nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_more_than_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, others) = (directory.path().join("a"), directory.path().join("b"));
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "-pidfile"])
            .arg(&ours)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = loop {
            // Until sh is what it runs.
            if let Some(process) = Process::of_number(pid, &ours) {
                break process;
            }
        };
        assert!(process.is_alive(&ours));
        assert!(!process.is_alive(&others));
        assert!(!Process { start_ticks: process.start_ticks + 1, ..process }.is_alive(&ours));
        assert_eq!(Process::ready(&ours), None);
        std::fs::write(&ours, format!("{pid}\n")).unwrap();
        assert_eq!(Process::ready(&ours), Some(process));
        child.kill().unwrap();
        while process.is_alive(&ours) {
            std::thread::yield_now();
        }
        assert_eq!(Process::all(&ours), []);
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn what_is_killed_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("a");
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "-pidfile"])
            .arg(&pid_file)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while Process::all(&pid_file).is_empty() {
            std::thread::yield_now();
        }
        Process::kill_all(&pid_file).await.unwrap();
        assert_eq!(Process::all(&pid_file), []);
        assert!(!child.wait().unwrap().success());
    }
}
