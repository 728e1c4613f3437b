//! Calls of the destination, made again until they get through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_client::{Client, ClientError};
use lockstep_contract::{Declared, Error};
use parking_lot::Mutex;

use crate::ship::ShipError;

/// Longest answer that is taken: a leaf or hashes of leaves, in base64.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// How long an answer may take: a put waits for a flush, a commit for a look at each block of the map.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for a commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(600);

/// Wait after the first failure; doubled by each that follows without anything got done in between.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);

/// Longest wait after failures.
const BACK_OFF_MAX: Duration = Duration::from_secs(20);

/// Longest text that an answer may hold where a name is expected, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// The destination of one sync.
#[derive(Debug)]
pub(crate) struct Peer {
    client: Client,
    patience: Duration,
    breaks: AtomicU64,
    /// Held for a few steps.
    trouble: Mutex<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    /// When the first call failed since something got done.
    since: Option<Instant>,
    failures: u32,
    /// Until when those wait who have failed: calls that one break has failed wait together.
    until: Instant,
}

/// Why a call did not get through.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It may get through later.
    Later(String),
    /// It will not.
    Never(ShipError),
}

impl From<ShipError> for Failed {
    fn from(error: ShipError) -> Self {
        Self::Never(error)
    }
}

impl Peer {
    /// A destination that may be away for as long as `patience`.
    pub(crate) fn new(client: Client, patience: Duration) -> Self {
        let trouble = Mutex::new(Trouble { since: None, failures: 0, until: Instant::now() });
        Self { client: client.answers_up_to(ANSWER_BYTES_MAX), patience, breaks: AtomicU64::new(0), trouble }
    }

    /// How often something broke.
    pub(crate) fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Relaxed)
    }

    /// Calls an operation once.
    pub(crate) async fn try_call<O: Declared>(&self, operation: O, input: O::Input) -> Result<O::Output, Failed> {
        let limit = if O::OPERATION.name == "commit" { COMMIT_TIMEOUT } else { CALL_TIMEOUT };
        // Boxed: a call's future is large, and there are several at a time.
        let call = Box::pin(self.client.call(operation, input));
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) if error.is_transient() || is_slow(&error) => Err(Failed::Later(error.to_string())),
            Ok(Err(ClientError::Refusal { error, .. })) => Err(Failed::Never(refusal(error))),
            Ok(Err(error)) => Err(Failed::Never(ShipError::Peer(error))),
            Err(_) => Err(Failed::Later(format!("no answer in {} seconds", limit.as_secs()))),
        }
    }

    /// Calls an operation until it gets through.
    pub(crate) async fn call<O: Declared + Copy>(
        &self,
        operation: O,
        input: impl Fn() -> O::Input,
    ) -> Result<O::Output, ShipError> {
        loop {
            match self.try_call(operation, input()).await {
                Ok(output) => return Ok(output),
                Err(failed) => self.pause(failed).await?,
            }
        }
    }

    /// Something got done.
    pub(crate) fn got_on(&self) {
        let mut trouble = self.trouble.lock();
        trouble.since = None;
        trouble.failures = 0;
    }

    /// Waits after a failure.
    ///
    /// # Errors
    /// Its error when it is no use to try again; [`ShipError::GaveUp`] when nothing got done for too long.
    pub(crate) async fn pause(&self, failed: Failed) -> Result<(), ShipError> {
        let reason = match failed {
            Failed::Never(error) => return Err(error),
            Failed::Later(reason) => reason,
        };
        let wait = {
            let mut trouble = self.trouble.lock();
            let now = Instant::now();
            let silent = now.duration_since(*trouble.since.get_or_insert(now));
            if silent > self.patience {
                return Err(ShipError::GaveUp { after_s: silent.as_secs(), reason });
            }
            if trouble.until <= now {
                self.breaks.fetch_add(1, Ordering::Relaxed);
                let wait = BACK_OFF_MIN.saturating_mul(1 << trouble.failures.min(10)).min(BACK_OFF_MAX);
                trouble.failures = trouble.failures.saturating_add(1);
                trouble.until = now + wait;
                tracing::info!(reason, wait_ms = wait.as_millis() as u64, "a sync was broken off and goes on");
            }
            trouble.until.duration_since(now)
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Whether the destination has not got the whole request in time: with smaller ones it may.
fn is_slow(error: &ClientError) -> bool {
    matches!(error, ClientError::Refusal { status: 408, .. } | ClientError::Foreign { status: 408, .. })
}

fn refusal(error: Error) -> ShipError {
    let is = |id: &str| error.messages.first().is_some_and(|message| message.id == id);
    if is(crate::receive::ROOT_DIFFERS) {
        ShipError::RootDiffers
    } else if is(crate::receive::BLOCKS_MISSING) {
        ShipError::BlocksMissing
    } else {
        ShipError::Refused(error)
    }
}

/// Whether a text of the destination is short enough to be kept.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
}

/// What an answer that makes no sense is.
pub(crate) fn malformed(what: &'static str) -> ShipError {
    ShipError::Malformed(what)
}
