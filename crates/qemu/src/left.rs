//! Servers of images that a process before this one has left.
//!
//! A `qemu-nbd` ends when its last client goes. When we are killed before its first client has come, it waits for one for ever, with its image
//! locked, and with or without a socket yet. It is known by the socket among its arguments, which lies in a directory of one replication.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::live::blocking;
use crate::{Error, Result};

/// How long a killed process may take to be gone: it may wait for a disk.
const KILLED_LIMIT: Duration = Duration::from_secs(10);

/// Kills whatever serves at a socket, or is about to; it is gone when this returns. Only for a socket that nothing of this process serves.
pub(crate) async fn end(socket: &Path) -> Result<()> {
    let at = socket.to_owned();
    let what = format!("ending what serves at {}", socket.display());
    blocking(move || {
        for pid in processes(&at) {
            kill(pid, &at)?;
        }
        Ok(())
    })
    .await
    .map_err(Error::io(what))
}

/// Those that have `-k` and the socket among their arguments.
fn processes(socket: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).filter(|pid| serves(*pid, socket)).collect()
}

fn serves(pid: Pid, socket: &Path) -> bool {
    let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.any(|argument| argument == b"-k") && arguments.next() == Some(socket.as_os_str().as_bytes())
}

fn kill(pid: Pid, socket: &Path) -> std::io::Result<()> {
    let held: OwnedFd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        held => held?,
    };
    // After it was opened: now its number cannot become another's.
    if !serves(pid, socket) {
        return Ok(());
    }
    match pidfd_send_signal(&held, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    let seconds = i64::try_from(KILLED_LIMIT.as_secs()).unwrap_or(i64::MAX);
    // It can be read from when all threads of the process are gone.
    match poll(&mut [PollFd::new(&held, PollFlags::IN)], Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })) {
        Ok(0) => Err(std::io::ErrorKind::TimedOut.into()),
        Ok(_) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_serves_at_the_socket_ends_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, others) = (directory.path().join("q0"), directory.path().join("q00"));
        let spawn = |socket: &Path| {
            let mut sleeper = std::process::Command::new("sh");
            sleeper.args(["-c", "read line", "-k"]).arg(socket).stdin(std::process::Stdio::piped());
            sleeper.spawn().unwrap()
        };
        let (mut left, mut other) = (spawn(&ours), spawn(&others));
        while processes(&ours).is_empty() || processes(&others).is_empty() {
            std::thread::yield_now();
        }
        end(&ours).await.unwrap();
        assert!(processes(&ours).is_empty() && !left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        end(&ours).await.unwrap();
    }
}
