//! The loop that sends points to the store outside.
//!
//! ```text
//!              nothing waits                       2xx, or refused for good
//!          ┌────────────────┐                ┌──────────────────────────────┐
//!          ▼                │                ▼                              │
//!       GATHERING ──────► TAKING ────────► TAKEN ──────► SENDING ───────────┤
//!                           ▲                               ▲               │ anything else
//!                           │ 413: fewer points             └── BACKING OFF ◄┘
//! ```
//! One batch is under way at a time, so that points of a series arrive in their order. While it is tried again it stays the same batch:
//! new points behind old ones of the same series could make a receiver that has the old ones refuse both.
//!
//! The loop ends when the site stops: a request under way may finish for [`STOP_GRACE`]; what it does not finish is sent again after
//! the next start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_contract::counters::{COUNTERS, Counter};
use lockstep_series::{Cursor, SeriesKey, StoreError};
use lockstep_site::Progress;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::peer::{Peer, PeerError, Trouble};
use super::wire::{self, Encoded, Label};
use super::{Pace, Remote};
use crate::Stats;
use crate::addresses::{Address, Rid};
use crate::metrics::{labels, metric_name};

/// How long a request may go on when the site stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Points of a request below which one that is too large for the receiver is refused, not cut again.
const POINTS_MIN: usize = 100;

/// How often a failure that goes on is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(600);

/// Sends points.
pub(crate) struct Writer {
    peer: Peer,
    pace: Pace,
    /// Held for a few lines.
    state: Mutex<State>,
}

struct State {
    status: WriteStatus,
    /// Points of the next request.
    points_max: usize,
    logged: Option<(Trouble, Instant)>,
}

/// How sending goes. Counts begin at 0 when the server is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteStatus {
    /// Points that the receiver has taken.
    pub sent: u64,
    /// Points that it refused for good.
    pub refused: u64,
    /// Points that were left out: their counter or address is not known here.
    pub unnamed: u64,
    /// Requests that the receiver has taken.
    pub requests: u64,
    /// Requests that came to nothing.
    pub failures: u64,
    /// When the receiver took something last, in seconds since 1970.
    pub last_success_s: Option<i64>,
    /// What hindered last, and when, in seconds since 1970.
    pub last_error: Option<(i64, Trouble, String)>,
    /// What hinders; `None` when the last request was taken, or nothing has been sent yet.
    pub failing: Option<Trouble>,
    /// Points that wait, those under way among them.
    pub waiting: u64,
    /// How far behind the receiver is: the age of the oldest point under way, in seconds; 0 when nothing waits.
    pub lag_s: u64,
    /// Points that waited too long and were dropped, since the store was made.
    pub dropped: u64,
    /// The oldest point under way, in seconds since 1970.
    oldest_s: Option<i64>,
}

/// What was taken from the log, ready to go.
struct Taken {
    cursor: Cursor,
    encoded: Encoded,
    is_full: bool,
}

/// What is to be done after a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The points are there.
    Taken,
    /// They never will be.
    Refused,
    /// Fewer at a time may be.
    TooLarge,
    /// Later.
    Again,
}

impl Verdict {
    fn of(error: &PeerError) -> Self {
        match (error.trouble, error.status) {
            (Trouble::Refused, Some(413)) => Self::TooLarge,
            (Trouble::Refused, _) => Self::Refused,
            _ => Self::Again,
        }
    }
}

impl Writer {
    pub(super) fn new(peer: Peer, pace: Pace) -> Self {
        let state = State { status: WriteStatus::default(), points_max: pace.points_max.max(1), logged: None };
        Self { peer, pace, state: Mutex::new(state) }
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), PeerError> {
        let build = |request: reqwest::RequestBuilder| {
            request
                .header("content-encoding", "snappy")
                .header("content-type", "application/x-protobuf")
                .header("x-prometheus-remote-write-version", "0.1.0")
                .body(body)
        };
        self.peer.post(build).await.map(drop)
    }

    /// The pause before try number `tries`, counted from 1: doubled each time, and from half of that to the whole, so that many
    /// servers do not come back in step.
    fn pause(&self, tries: u32, retry_after: Option<Duration>) -> Duration {
        let doubled = self.pace.backoff_min.saturating_mul(1 << tries.saturating_sub(1).min(16));
        let most = doubled.min(self.pace.backoff_max);
        most.mul_f64(0.5 + 0.5 * fraction()).max(retry_after.unwrap_or_default())
    }

    fn took(&self, encoded: &Encoded, now_s: i64) {
        let mut state = self.state.lock();
        let status = &mut state.status;
        status.sent += encoded.samples;
        status.requests += 1;
        status.last_success_s = Some(now_s);
        status.failing = None;
        if state.logged.take().is_some() {
            tracing::info!(url = self.peer.shown(), "the store outside takes points again");
        }
    }

    fn failed(&self, trouble: Trouble, text: &str, now_s: i64) {
        let mut state = self.state.lock();
        state.status.failures += 1;
        state.status.failing = Some(trouble);
        state.status.last_error = Some((now_s, trouble, text.to_owned()));
        // Tries go on for days: a line for each would bury the rest.
        let is_news = state.logged.is_none_or(|(known, at)| known != trouble || at.elapsed() >= LOG_INTERVAL);
        if is_news {
            state.logged = Some((trouble, Instant::now()));
            tracing::warn!(reason = trouble.name(), "points cannot be sent to the store outside: {text}");
        }
    }

    fn refused(&self, points: u64, text: &str, now_s: i64) {
        let mut state = self.state.lock();
        let status = &mut state.status;
        status.refused += points;
        status.failures += 1;
        status.failing = Some(Trouble::Refused);
        status.last_error = Some((now_s, Trouble::Refused, text.to_owned()));
        // Each is a loss.
        tracing::error!(points, "the store outside refuses points, which are given up: {text}");
    }
}

/// A number from 0 up to 1, from the randomness that hash maps start with.
fn fraction() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0u8);
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// The counters by the number that series have.
fn by_mid() -> BTreeMap<i64, &'static Counter> {
    COUNTERS.iter().map(|counter| (counter.mid(), counter)).collect()
}

impl Remote {
    /// What a series is called outside: its labels by name, `__name__` first.
    pub(super) fn name(&self, counter: &Counter, rid: Rid, address: &Address) -> Vec<(String, String)> {
        let own = labels(counter, rid, address).into_iter().map(|(name, value)| (name.to_owned(), value));
        let mut all: Vec<_> = own.chain(self.labels.iter().cloned()).collect();
        all.push(("__name__".to_owned(), metric_name(counter)));
        all.sort();
        all
    }
}

impl Stats {
    /// Sends points to the store outside until the site stops; ends at once when there is none.
    pub async fn forward(self: Arc<Self>) {
        let Some(writer) = &self.remote.writer else { return };
        tracing::info!(url = writer.peer.shown(), "points are sent to a store outside");
        let mut progress = self.site.progress();
        let mut tries = 0;
        while !progress.borrow().is_stopping {
            let pause = match self.take().await {
                Ok(Some(taken)) => {
                    tries = 0;
                    let is_full = taken.is_full;
                    if !self.deliver(writer, taken, &mut progress).await {
                        return;
                    }
                    if is_full { Duration::ZERO } else { writer.pace.gather }
                }
                Ok(None) => writer.pace.gather,
                Err(text) => {
                    tries += 1;
                    writer.failed(Trouble::Buffer, &text, self.now_s());
                    writer.pause(tries, None)
                }
            };
            if !pause.is_zero() && is_stopped_within(&mut progress, pause).await {
                return;
            }
        }
    }

    /// How sending goes; `None` when there is no store outside to send to.
    pub fn write_status(&self) -> Option<WriteStatus> {
        let writer = self.remote.writer.as_ref()?;
        // In this order: a point that does not wait any more is counted in what became of it.
        let lag = self.store.forward_lag();
        let mut status = writer.state.lock().status.clone();
        status.waiting = lag.points;
        status.dropped = lag.points_dropped;
        let oldest_s = status.oldest_s.filter(|_| lag.points > 0);
        status.lag_s = oldest_s.map_or(0, |oldest_s| u64::try_from(self.now_s() - oldest_s).unwrap_or_default());
        Some(status)
    }

    /// The next batch from the log.
    async fn take(self: &Arc<Self>) -> Result<Option<Taken>, String> {
        let here = self.clone();
        let taken = tokio::task::spawn_blocking(move || here.take_blocking()).await;
        taken.map_err(|error| error.to_string())?
    }

    fn take_blocking(&self) -> Result<Option<Taken>, String> {
        let Some(writer) = &self.remote.writer else { return Ok(None) };
        let points_max = writer.state.lock().points_max;
        let explain = |error: StoreError| format!("the log cannot be read: {}", chain(&error));
        let taken = self.store.unforwarded(points_max).map_err(explain)?;
        let Some((cursor, batch)) = taken else {
            let status = &mut writer.state.lock().status;
            status.oldest_s = None;
            // The log can be read again, and there is no request that would say so.
            status.failing = status.failing.filter(|trouble| *trouble != Trouble::Buffer);
            return Ok(None);
        };
        let counters = by_mid();
        let name = |key: SeriesKey| {
            let counter = counters.get(&key.counter)?;
            let address = self.addresses.get(key.address)?;
            let pairs = self.remote.name(counter, key.address, &address);
            Some(pairs.into_iter().map(|(name, value)| Label { name, value }).collect())
        };
        let encoded = wire::encode(&batch, name).map_err(|error| format!("a batch cannot be compressed: {error}"))?;
        writer.state.lock().status.oldest_s = encoded.oldest_s;
        Ok(Some(Taken { cursor, encoded, is_full: batch.points() >= points_max }))
    }

    /// Sends until the receiver has decided. Answers whether to go on: the site may stop before that.
    async fn deliver(
        self: &Arc<Self>,
        writer: &Writer,
        taken: Taken,
        progress: &mut watch::Receiver<Progress>,
    ) -> bool {
        let Taken { cursor, encoded, .. } = taken;
        let mut tries = 0;
        loop {
            let verdict = if encoded.body.is_empty() {
                Verdict::Taken
            } else {
                let sent = writer.post(encoded.body.clone());
                let grace = async {
                    stopping(progress).await;
                    tokio::time::sleep(STOP_GRACE).await;
                };
                let answer = tokio::select! {
                    answer = sent => answer,
                    () = grace => return false,
                };
                match answer {
                    Ok(()) => {
                        writer.took(&encoded, self.now_s());
                        Verdict::Taken
                    }
                    Err(error) => {
                        let verdict = self.judge(writer, &encoded, &error);
                        if verdict == Verdict::Again {
                            tries += 1;
                            if is_stopped_within(progress, writer.pause(tries, error.retry_after)).await {
                                return false;
                            }
                        }
                        verdict
                    }
                }
            };
            match verdict {
                Verdict::Again => {}
                Verdict::TooLarge => return true,
                Verdict::Taken | Verdict::Refused => {
                    writer.state.lock().status.unnamed += encoded.unnamed;
                    return self.advance(writer, cursor, progress).await;
                }
            }
        }
    }

    /// What an error means for the batch, and what is told of it.
    fn judge(&self, writer: &Writer, encoded: &Encoded, error: &PeerError) -> Verdict {
        let mut verdict = Verdict::of(error);
        if verdict == Verdict::TooLarge {
            let mut state = writer.state.lock();
            if state.points_max > POINTS_MIN {
                state.points_max = (state.points_max / 2).max(POINTS_MIN);
                tracing::warn!(points = state.points_max, "the store outside takes smaller requests only");
            } else {
                verdict = Verdict::Refused;
            }
        }
        match verdict {
            Verdict::Refused => writer.refused(encoded.samples, &error.text, self.now_s()),
            Verdict::Taken | Verdict::TooLarge => {}
            Verdict::Again => writer.failed(error.trouble, &error.text, self.now_s()),
        }
        verdict
    }

    /// Makes it durable that a batch is done with. Answers whether to go on.
    async fn advance(
        self: &Arc<Self>,
        writer: &Writer,
        cursor: Cursor,
        progress: &mut watch::Receiver<Progress>,
    ) -> bool {
        let mut tries = 0;
        loop {
            let here = self.clone();
            let moved = tokio::task::spawn_blocking(move || here.store.forwarded(cursor)).await;
            let text = match moved {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => format!("what was sent cannot be recorded: {}", chain(&error)),
                Err(error) => error.to_string(),
            };
            // On a full disk the batch would go out again and again.
            tries += 1;
            writer.failed(Trouble::Buffer, &text, self.now_s());
            if is_stopped_within(progress, writer.pause(tries, None)).await {
                return false;
            }
        }
    }
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Ends when the site stops.
async fn stopping(progress: &mut watch::Receiver<Progress>) {
    // A site that is gone has stopped.
    drop(progress.wait_for(|progress| progress.is_stopping).await);
}

/// Waits for a time, but not beyond the site's stop. Answers whether it stops.
async fn is_stopped_within(progress: &mut watch::Receiver<Progress>, time: Duration) -> bool {
    tokio::time::timeout(time, stopping(progress)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Config;

    fn error(status: u16) -> PeerError {
        let response = Trouble::ALL.into_iter().find(|t| *t == trouble(status)).unwrap();
        PeerError { trouble: response, status: Some(status), text: String::new(), body: Vec::new(), retry_after: None }
    }

    fn trouble(status: u16) -> Trouble {
        Trouble::of(reqwest::StatusCode::from_u16(status).unwrap())
    }

    #[test]
    fn only_what_says_that_the_data_is_wrong_gives_points_up() {
        for status in [400, 409, 415, 422, 451] {
            assert_eq!(Verdict::of(&error(status)), Verdict::Refused, "{status}");
        }
        for status in [301, 307, 401, 403, 404, 405, 408, 429, 500, 502, 503, 504] {
            assert_eq!(Verdict::of(&error(status)), Verdict::Again, "{status}");
        }
        assert_eq!(Verdict::of(&error(413)), Verdict::TooLarge);
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_are_not_in_step() {
        let config = Config { write_url: Some("http://127.0.0.1:9/".to_owned()), ..Config::default() };
        let writer = Remote::new(&config).unwrap().writer.unwrap();
        for (tries, most_s) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)] {
            let most = Duration::from_secs(most_s);
            let pauses: Vec<Duration> = (0..50).map(|_| writer.pause(tries, None)).collect();
            assert!(pauses.iter().all(|pause| (most / 2..=most).contains(pause)), "{tries}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
        assert_eq!(writer.pause(1, Some(Duration::from_secs(90))), Duration::from_secs(90));
    }
}
