//! The guest's own agent, asked to freeze file systems for the moment of the point in time.
//!
//! A frozen guest cannot write, and soon cannot work: so freezing has a limit, [`FREEZE_LIMIT`], and whatever happens a thaw is sent after
//! it, on a new connection if need be, several times if it is not answered. Thawing what is not frozen does nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

use crate::qmp::Lines;
use crate::{Error, Result};

/// How long a guest may take to freeze, and stay frozen.
pub const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long the agent may take to say that it is there.
const SYNC_LIMIT: Duration = Duration::from_secs(5);
/// How long one try of a thaw may take, and how many there are.
const THAW_LIMIT: Duration = Duration::from_secs(10);
const THAW_TRIES: u32 = 6;
/// Messages of an agent that are skipped: answers to somebody who went away.
const STALE_MAX: usize = 64;

/// A guest agent, by the socket of its channel.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    path: PathBuf,
}

impl Agent {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Freezes. Whatever it answers, [`Agent::thaw`] has to be called: a guest may freeze after it was given up.
    pub(crate) async fn freeze(&self) -> Result<()> {
        let mut channel = self.open().await?;
        let freezing = channel.execute("guest-fsfreeze-freeze", Value::Null);
        let answer = tokio::time::timeout(FREEZE_LIMIT, freezing)
            .await
            .map_err(|_| Error::Timeout { what: "freezing the guest's file systems".into(), limit: FREEZE_LIMIT })??;
        match answer.as_i64() {
            Some(count) if count > 0 => Ok(()),
            _ => Err(agent_error("guest-fsfreeze-freeze", "it froze no file system")),
        }
    }

    /// Thaws, several times if it must.
    pub(crate) async fn thaw(&self) -> Result<()> {
        let mut tries = 0;
        loop {
            let thawing = async { self.open().await?.execute("guest-fsfreeze-thaw", Value::Null).await };
            let result = match tokio::time::timeout(THAW_LIMIT, thawing).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => Error::Timeout { what: "thawing the guest's file systems".into(), limit: THAW_LIMIT },
            };
            tries += 1;
            tracing::warn!(error = %result, tries, "the guest's file systems could not be thawed");
            if tries == THAW_TRIES {
                return Err(result);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Connects and skips what the agent still has to say to others.
    async fn open(&self) -> Result<Channel> {
        let opening = async {
            let stream = UnixStream::connect(&self.path)
                .await
                .map_err(Error::io(format!("connecting to the guest agent at {}", self.path.display())))?;
            let (input, output) = stream.into_split();
            let mut channel = Channel { lines: Lines::new(input), output };
            static NEXT: AtomicU64 = AtomicU64::new(1);
            let id = u64::from(std::process::id()) << 20 | (NEXT.fetch_add(1, Ordering::Relaxed) & 0xf_ffff);
            // The byte makes the agent forget half a message of somebody before us.
            channel.output.write_all(&[0xff]).await.map_err(Error::io("writing to the guest agent"))?;
            channel.send("guest-sync-delimited", json!({"id": id})).await?;
            for _ in 0..STALE_MAX {
                if channel.next().await?.get("return").and_then(Value::as_u64) == Some(id) {
                    return Ok(channel);
                }
            }
            Err(agent_error("guest-sync-delimited", "it answers other things"))
        };
        tokio::time::timeout(SYNC_LIMIT, opening)
            .await
            .map_err(|_| Error::Timeout { what: "the guest agent's greeting".into(), limit: SYNC_LIMIT })?
    }
}

struct Channel {
    lines: Lines,
    output: OwnedWriteHalf,
}

impl Channel {
    async fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        let mut message = json!({"execute": command});
        if let (Some(message), false) = (message.as_object_mut(), arguments.is_null()) {
            message.insert("arguments".into(), arguments);
        }
        let frame = format!("{message}\n");
        self.output.write_all(frame.as_bytes()).await.map_err(Error::io("writing to the guest agent"))
    }

    async fn next(&mut self) -> Result<Value> {
        let message = self.lines.next().await?;
        message.ok_or_else(|| Error::Closed { peer: "the guest agent", reason: "it closed the channel".into() })
    }

    async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments).await?;
        let mut answer = self.next().await?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => {
                let reason = answer.pointer("/error/desc").and_then(Value::as_str).unwrap_or("it gave no reason");
                Err(agent_error(command, reason))
            }
        }
    }
}

fn agent_error(command: &str, reason: &str) -> Error {
    Error::Agent { command: command.to_owned(), reason: reason.to_owned() }
}
