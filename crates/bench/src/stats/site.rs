//! The server under test, started on a fresh directory.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::files::quoted;
use crate::http::{Client, Server};
use crate::process::Process;
use crate::serve::Serve;
use crate::stats::{Programs, free_address};

/// The administrator's password of a server that lives as long as a measurement.
const PASSWORD: &str = "measured-Once-7";

/// A running server with its own directory.
pub struct Site {
    serve: Serve,
    server: Server,
    dir: TempDir,
}

impl Site {
    /// Starts a server that neither collects nor samples by itself, plus `flags`.
    pub fn start(programs: &Programs, flags: &str) -> anyhow::Result<Self> {
        let dir = programs.fresh_dir()?;
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).context("write the password's file")?;
        let server = Server::plain(&free_address()?, PASSWORD);
        let command = format!(
            "exec {} serve --data-dir {} --listen {} --plain-http --no-collect-host --admin-password-file {} {flags} 2>{}",
            quoted(&programs.lockstep),
            quoted(&dir.path().join("data")),
            server.address,
            quoted(&password),
            quoted(&dir.path().join("log")),
        );
        let (serve, _) = Serve::start(&command, &server).with_context(|| last_lines(&dir.path().join("log")))?;
        Ok(Site { serve, server, dir })
    }

    /// A kept connection with a session.
    pub fn connect(&self) -> anyhow::Result<Client> {
        self.server.connect_logged_in()
    }

    pub fn process(&self) -> Process {
        Process::new(self.serve.pid())
    }

    /// Stops the server. Its files are there until the directory that is returned is dropped.
    pub fn stop(self) -> anyhow::Result<(TempDir, PathBuf)> {
        let status: ExitStatus = self.serve.stop()?;
        ensure!(status.success(), "the server stopped with {status}");
        let data = self.dir.path().join("data");
        Ok((self.dir, data))
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let from = text.len().saturating_sub(1000);
    format!("the server's log ends: {}", text.get(from..).unwrap_or(&text))
}

/// Calls and reads the answer, which must be a success.
pub fn call(client: &mut Client, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.request(method, path, text.as_bytes())?;
    let said = String::from_utf8_lossy(&answer.body);
    ensure!((200..300).contains(&answer.status), "{method} {path}: status {}: {said}", answer.status);
    if said.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&said).context("read an answer") }
}
