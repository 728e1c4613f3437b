//! A server started by the bench tool itself, for what can only be measured around its start.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::http::Server;

/// How often readiness is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const READY_TIME_MAX: Duration = Duration::from_secs(600);
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// A running server process; killed when dropped.
pub struct Serve {
    child: Child,
}

impl Serve {
    /// Runs a shell command that serves, and waits until `GET /readyz` is 200. Returns the time that took.
    pub fn start(command: &str, server: &Server) -> anyhow::Result<(Self, Duration)> {
        Self::start_until(command, server, "/readyz")
    }

    /// As [`Serve::start`], for whatever server says at `ready_path` that it is ready.
    pub fn start_until(command: &str, server: &Server, ready_path: &str) -> anyhow::Result<(Self, Duration)> {
        ensure!(TcpStream::connect(&server.address).is_err(), "something listens on {} already", server.address);
        let begin = Instant::now();
        // A process group of its own, so that a signal reaches the server and not only the shell.
        let child = Command::new("sh").arg("-c").arg(command).process_group(0).spawn().context("run sh")?;
        let mut serve = Serve { child };
        loop {
            if let Some(status) = serve.child.try_wait()? {
                bail!("`{command}` ended before it was ready: {status}");
            }
            if is_ready(server, ready_path) {
                return Ok((serve, begin.elapsed()));
            }
            ensure!(begin.elapsed() < READY_TIME_MAX, "`{command}` was not ready after {READY_TIME_MAX:?}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The process started; a command that begins with `exec` becomes the server itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the server to stop, and waits for its end.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let begin = Instant::now();
        while begin.elapsed() < STOP_TIME_MAX {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        bail!("the server did not stop in {STOP_TIME_MAX:?}")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("pid"))?;
        kill_process_group(pid, signal).context("signal the server")
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Err(error) = self.signal(Signal::KILL) {
                eprintln!("{error:#}");
            }
            if let Err(error) = self.child.wait() {
                eprintln!("wait for the server: {error}");
            }
        }
    }
}

fn is_ready(server: &Server, path: &str) -> bool {
    let ask = || -> anyhow::Result<bool> { Ok(server.connect()?.request("GET", path, b"")?.status == 200) };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ServerArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        server: ServerArgs,
    }

    #[test]
    fn a_command_that_ends_is_reported() {
        let args = Args::parse_from(["x", "--url", "http://127.0.0.1:1", "--password", "p"]);
        let server = Server::new(&args.server).unwrap();
        let error = Serve::start("exit 3", &server).err().unwrap().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
    }
}
