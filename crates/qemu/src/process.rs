//! Processes of QEMU's programs, which outlive ours.
//!
//! One is known by its number, by when it began, and by a path among its arguments that no other has (a [`Mark`]); so another process that got
//! the same number is never taken for it. Signals go to a file descriptor of the process, not to a number.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::live::blocking;
use crate::{Error, Result};

/// How long a killed process may take to be gone: it may wait for a disk.
const KILLED_LIMIT: Duration = Duration::from_secs(30);

/// How often a process that is being started is looked at.
const START_PAUSE: Duration = Duration::from_millis(20);

/// What a process is known by: an option among its arguments, and the path that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    option: &'static str,
    path: PathBuf,
}

impl Mark {
    /// A QEMU with this pid file.
    #[must_use]
    pub fn pid_file(path: &Path) -> Self {
        Self { option: "-pidfile", path: path.to_owned() }
    }

    /// A `qemu-nbd` that serves at this socket, or is about to.
    #[must_use]
    pub fn socket(path: &Path) -> Self {
        Self { option: "-k", path: path.to_owned() }
    }
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since the host's start.
    pub start_ticks: u64,
}

impl Process {
    /// Of that number, when it has the mark.
    fn of_number(pid: i32, mark: &Mark) -> Option<Self> {
        match marked(pid, mark)? {
            Marked::Yes => Some(Self { pid, start_ticks: start_ticks(pid)? }),
            Marked::No | Marked::Ending => None,
        }
    }

    /// Whether it is still there; so it is said to be when that cannot be found out.
    #[must_use]
    pub fn is_alive(self, mark: &Mark) -> bool {
        !matches!(Held::new(self, mark), Ok(None))
    }

    /// All that have the mark.
    fn all(mark: &Mark) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter_map(|pid| Self::of_number(pid, mark)).collect()
    }

    /// The one that says in the pid file that it is ready, when it is the only one: its parent waits for it to be so.
    fn ready(pid_file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(pid_file).ok()?;
        let mark = Mark::pid_file(pid_file);
        let process = Self::of_number(text.trim().parse().ok()?, &mark)?;
        (Self::all(&mark) == [process]).then_some(process)
    }

    /// The one that somebody began to start, once it is ready; none when there is none, or not in time. Those that are not are killed.
    pub async fn adopt(pid_file: &Path, limit: Duration) -> Option<Self> {
        let mark = Mark::pid_file(pid_file);
        let waiting = async {
            loop {
                if let Some(process) = Self::ready(pid_file) {
                    return Some(process);
                }
                if Self::all(&mark).is_empty() {
                    return None;
                }
                tokio::time::sleep(START_PAUSE).await;
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(found) => found,
            Err(_) => {
                Self::kill_all(&mark).await.unwrap_or_else(|error| tracing::warn!(%error, "QEMU was not killed"));
                None
            }
        }
    }

    /// Kills all that have the mark, and waits until they are gone.
    ///
    /// # Errors
    /// [`Error::Io`] when one cannot be killed, or is not gone in time.
    pub async fn kill_all(mark: &Mark) -> Result<()> {
        for process in Self::all(mark) {
            if let Some(held) = Held::new(process, mark)? {
                held.kill().await?;
            }
        }
        Ok(())
    }
}

/// Whether a process has a mark.
enum Marked {
    Yes,
    No,
    /// It has no arguments any more.
    Ending,
}

/// None when there is no such process.
fn marked(pid: i32, mark: &Mark) -> Option<Marked> {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    if arguments.is_empty() {
        return Some(Marked::Ending);
    }
    let mut arguments = arguments.split(|byte| *byte == 0);
    let is_marked = arguments.any(|argument| argument == mark.option.as_bytes())
        && arguments.next() == Some(mark.path.as_os_str().as_bytes());
    Some(if is_marked { Marked::Yes } else { Marked::No })
}

/// A process that cannot be mistaken.
pub struct Held(Arc<OwnedFd>);

impl Held {
    /// None when it is gone.
    ///
    /// # Errors
    /// [`Error::Io`] when that cannot be found out.
    pub fn new(process: Process, mark: &Mark) -> Result<Option<Self>> {
        let what = || format!("looking for process {}", process.pid);
        let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            held => held.map_err(|errno| Error::io(what())(errno.into()))?,
        };
        // After it was opened: now its number cannot become another's.
        let is_it = matches!(marked(process.pid, mark), Some(Marked::Yes | Marked::Ending))
            && start_ticks(process.pid) == Some(process.start_ticks);
        // It may look dead while one of its threads still has its images open.
        if !is_it || has_ended(&held, Duration::ZERO).map_err(Error::io(what()))? {
            return Ok(None);
        }
        Ok(Some(Self(Arc::new(held))))
    }

    /// Kills it; it is gone when this returns.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be killed, or is not gone in time.
    pub async fn kill(&self) -> Result<()> {
        let what = "killing QEMU";
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(Error::io(what)(errno.into())),
        }
        match self.has_ended(KILLED_LIMIT).await? {
            true => Ok(()),
            false => Err(Error::io(what)(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Whether it is gone, within that time.
    ///
    /// # Errors
    /// [`Error::Io`] when that cannot be found out.
    pub async fn has_ended(&self, limit: Duration) -> Result<bool> {
        let held = self.0.clone();
        blocking(move || has_ended(&held, limit)).await.map_err(Error::io("waiting for QEMU's end"))
    }
}

fn has_ended(held: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        // It can be read from when all threads of the process are gone.
        match poll(&mut [PollFd::new(held, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
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
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process with such arguments, that ends when it is killed.
    fn child(mark: &Mark) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "read line", mark.option]).arg(&mark.path).stdin(Stdio::piped());
        command.spawn().unwrap()
    }

    #[test]
    fn a_process_is_told_by_more_than_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("a");
        let (ours, others) = (Mark::pid_file(&pid_file), Mark::pid_file(&directory.path().join("b")));
        let mut child = child(&ours);
        let pid = i32::try_from(child.id()).unwrap();
        let process = loop {
            // Until sh is what it runs.
            if let Some(process) = Process::of_number(pid, &ours) {
                break process;
            }
        };
        assert!(process.is_alive(&ours));
        assert!(!process.is_alive(&others) && !process.is_alive(&Mark::socket(&pid_file)));
        assert!(!Process { start_ticks: process.start_ticks + 1, ..process }.is_alive(&ours));
        assert_eq!(Process::ready(&pid_file), None);
        std::fs::write(&pid_file, format!("{pid}\n")).unwrap();
        assert_eq!(Process::ready(&pid_file), Some(process));
        child.kill().unwrap();
        while process.is_alive(&ours) {
            std::thread::yield_now();
        }
        assert_eq!(Process::all(&ours), []);
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn what_is_killed_is_gone_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, others) = (directory.path().join("q0"), directory.path().join("q00"));
        let (ours, others) = (Mark::socket(&ours), Mark::socket(&others));
        let (mut left, mut other) = (child(&ours), child(&others));
        while Process::all(&ours).is_empty() || Process::all(&others).is_empty() {
            std::thread::yield_now();
        }
        Process::kill_all(&ours).await.unwrap();
        assert!(Process::all(&ours).is_empty() && !left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        Process::kill_all(&ours).await.unwrap();
    }
}
