//! The tasks that speak with the server.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use lockstep_client::SpecCache;
use lockstep_contract::services::stats::agents::RegisterInput;
use tokio::sync::{Notify, oneshot, watch};
use tracing::{info, warn};

use super::BATCH_POINTS_MAX;
use super::backoff::{Backoff, Throttle};
use super::sampling::Command;
use super::status::{Deed, Shared};
use crate::spool::{Spool, SpoolError, Waiting};
use crate::upstream::{Upstream, UpstreamError};

/// A copy of the specifications that has not changed is saved as often, for its epoch.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// No more often does a provider register, however short the server's patience is.
const REGISTER_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What all tasks use.
pub(super) struct Around<U> {
    pub(super) upstream: Arc<U>,
    pub(super) shared: Arc<Shared>,
    pub(super) stopped: watch::Receiver<bool>,
}

impl<U> Clone for Around<U> {
    fn clone(&self) -> Self {
        Self { upstream: self.upstream.clone(), shared: self.shared.clone(), stopped: self.stopped.clone() }
    }
}

impl<U> Around<U> {
    /// Waits; false when it is time to stop.
    async fn wait(&mut self, time: Duration) -> bool {
        tokio::select! {
            biased;
            _ = self.stopped.wait_for(|is_stopped| *is_stopped) => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    /// Notes how a deed went, and says in the log when it begins to fail, and now and then while it does.
    fn note<T>(&self, deed: Deed, outcome: &Result<T, UpstreamError>, throttle: &mut Throttle) {
        let error = outcome.as_ref().err();
        self.shared.note(deed, error.map(ToString::to_string));
        match error {
            Some(error) if throttle.is_due() => warn!(?deed, %error, "the server did not do what it was asked"),
            Some(_) => {}
            None => *throttle = Throttle::default(),
        }
    }
}

/// What comes of something, unless it is time to stop before.
async fn unless_stopped<T>(stopped: &mut watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        _ = stopped.wait_for(|is_stopped| *is_stopped) => None,
        done = work => Some(done),
    }
}

/// Registers, again and again.
pub(super) async fn register<U: Upstream>(
    mut around: Around<U>,
    host: String,
    metadata: String,
    commands: mpsc::Sender<Command>,
) {
    let (mut backoff, mut throttle) = (Backoff::default(), Throttle::default());
    loop {
        let (answer, offered) = oneshot::channel();
        if commands.send(Command::Offer(answer)).is_err() {
            return;
        }
        let Some(Ok(offered)) = unless_stopped(&mut around.stopped, offered).await else { return };
        let counters = offered.into_iter().map(str::to_owned).collect();
        let input = RegisterInput { host: host.clone(), metadata: metadata.clone(), counters };
        let Some(outcome) = unless_stopped(&mut around.stopped, around.upstream.register(input)).await else { return };
        around.note(Deed::Register, &outcome, &mut throttle);
        let pause = match outcome {
            Ok(registered) => {
                backoff.reset();
                if around.shared.provider().as_ref() != Some(&registered.id) {
                    info!(provider = registered.id, host, "registered as a provider of samples");
                    around.shared.set_provider(registered.id);
                }
                let absent_after = Duration::from_secs(u64::try_from(registered.absent_after_s).unwrap_or(0));
                (absent_after / 3).max(REGISTER_INTERVAL_MIN)
            }
            Err(_) => backoff.next(),
        };
        if !around.wait(pause).await {
            return;
        }
    }
}

/// Keeps the specifications in sync.
pub(super) async fn sync<U: Upstream>(
    mut around: Around<U>,
    mut cache: SpecCache,
    file: PathBuf,
    interval: Duration,
    commands: mpsc::Sender<Command>,
) {
    let (mut backoff, mut throttle) = (Backoff::default(), Throttle::default());
    let mut saved: Option<Instant> = None;
    loop {
        let Some(outcome) = unless_stopped(&mut around.stopped, around.upstream.sync(&mut cache)).await else { break };
        around.shared.specs.store(cache.specs.len() as u64, Ordering::Relaxed);
        around.shared.epoch.store(cache.epoch, Ordering::Relaxed);
        around.note(Deed::Sync, &outcome, &mut throttle);
        let pause = match outcome {
            Ok(summary) => {
                backoff.reset();
                if !summary.is_unchanged() {
                    let specs = cache.specs.values().cloned().collect();
                    if commands.send(Command::Specs(specs)).is_err() {
                        return;
                    }
                }
                if !summary.is_unchanged() || saved.is_none_or(|saved| saved.elapsed() >= SAVE_INTERVAL) {
                    saved = Some(Instant::now());
                    save(&cache, &file).await;
                }
                interval
            }
            Err(error) => {
                if let UpstreamError::Refused { .. } = error {
                    // Another server than before, or one that was set back: what it has now is all that counts.
                    cache.epoch = 0;
                }
                backoff.next()
            }
        };
        if !around.wait(pause).await {
            break;
        }
    }
    save(&cache, &file).await;
}

async fn save(cache: &SpecCache, file: &std::path::Path) {
    if cache.epoch == 0 {
        // Never synced, or about to be in full.
        return;
    }
    let (cache, file) = (cache.clone(), file.to_owned());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || cache.save(&file)).await {
        warn!(%error, "cannot save the acquisition specifications: they are fetched again after a restart");
    }
}

/// Delivers what is in the spool. Told to stop, it goes on until nothing waits or a request fails.
pub(super) async fn deliver<U: Upstream>(mut around: Around<U>, stored: Arc<Notify>) {
    let (mut backoff, mut throttle) = (Backoff::default(), Throttle::default());
    let mut refusals = Throttle::default();
    loop {
        let is_ending = *around.stopped.borrow();
        let waiting = match with_spool(&around.shared, |spool| spool.oldest(BATCH_POINTS_MAX)).await {
            Some(Ok(Some(waiting))) => waiting,
            Some(Ok(None)) if is_ending => return,
            Some(Ok(None)) => {
                around.shared.oldest_s.store(0, Ordering::Relaxed);
                // The end is a reason to look once more.
                unless_stopped(&mut around.stopped, stored.notified()).await;
                continue;
            }
            Some(Err(error)) => {
                let unreadable = unreadable(&error);
                around.note::<()>(Deed::Deliver, &Err(unreadable), &mut throttle);
                if is_ending || !around.wait(backoff.next()).await {
                    return;
                }
                continue;
            }
            None => return,
        };
        let oldest_s = waiting.batch.series.iter().filter_map(|series| series.times_s().next()).min();
        around.shared.oldest_s.store(oldest_s.unwrap_or(0), Ordering::Relaxed);
        let provider = around.shared.provider();
        let outcome = around.upstream.write(provider.as_deref(), &waiting.batch).await;
        if !matches!(outcome, Err(UpstreamError::Refused { .. })) {
            around.note(Deed::Deliver, &outcome, &mut throttle);
        }
        match outcome {
            Ok(written) => {
                backoff.reset();
                let unwanted = written.too_old.saturating_add(written.too_new);
                around.shared.unwanted_points.fetch_add(u64::try_from(unwanted).unwrap_or(0), Ordering::Relaxed);
                around.shared.delivered_points.fetch_add(waiting.points, Ordering::Relaxed);
                with_spool(&around.shared, move |spool| spool.acknowledge(waiting.end)).await;
            }
            Err(error @ UpstreamError::Refused { .. }) => {
                around.shared.note(Deed::Deliver, Some(error.to_string()));
                if refusals.is_due() {
                    warn!(points = waiting.points, %error, "points that the server does not take are set aside");
                }
                with_spool(&around.shared, move |spool: &mut Spool| spool.set_aside(&waiting)).await;
            }
            Err(UpstreamError::Away { .. } | UpstreamError::Denied { .. }) => {
                drop::<Waiting>(waiting);
                if is_ending || !around.wait(backoff.next()).await {
                    return;
                }
            }
        }
    }
}

fn unreadable(error: &SpoolError) -> UpstreamError {
    UpstreamError::Away { reason: error.to_string() }
}

/// Does something with the spool on a thread that may wait for the disk. None when the runtime ends.
async fn with_spool<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&mut Spool) -> T + Send + 'static,
) -> Option<T> {
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || work(&mut shared.spool())).await.ok()
}
