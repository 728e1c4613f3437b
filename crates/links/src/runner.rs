//! Runs the syncs of one provider of one link, one at a time, until the link or the server ends.
//!
//! ```text
//!            ┌────────────────────── woken by: a change there, the interval, a forced sync, a link that is well again
//!            ▼                                                                              │
//!   start ► sync ── well ──► wait for a change (long poll), at most the interval ───────────┤
//!            └── failed ──► wait longer after each failure in a row that did nothing ────────┘
//! ```
//! There is one way: the first sync, the resumed one and the one after a failure all go on from the stored cursor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_model::Position;

use crate::Links;
use crate::live::Live;
use crate::provider::{Progress, Run, SyncError};
use crate::sessions::Sync;

/// How often a session's progress is written down at the most.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// A run that does not get on for this long is broken off: the other site keeps the connection and sends nothing.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// Wait after the first failure; doubled by each that follows.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);

/// Longest wait after failures, unless the interval is shorter.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Least time between a change that was told and the next sync: a peer that cries all the time does not keep this site busy.
const SYNC_PAUSE: Duration = Duration::from_millis(20);

/// Keeps one provider of a link in step; ends with the server, or by being aborted.
pub(crate) async fn keep(links: Arc<Links>, live: Arc<Live>, sync: Arc<Sync>) {
    let stopping = links.site.stopping();
    let work = async {
        let mut failures = 0;
        loop {
            let before = place(&links, &sync);
            match round(&links, &live, &sync).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    // What gets on, however often it is cut, need not wait ever longer.
                    failures = if place(&links, &sync) != before { 1 } else { failures + 1 };
                    tracing::warn!(%error, link = %live.id, provider = sync.provider.name(), failures, "a sync failed");
                    live.probe.notify_one();
                }
            }
            wait(&links, &live, &sync, failures).await;
        }
    };
    tokio::select! {
        () = stopping => sync.drop_run(),
        () = work => {}
    }
}

fn new_run(links: &Links, live: &Live, sync: &Sync) -> Result<Run, SyncError> {
    let client = live.client.clone().map_err(SyncError::NoClient)?.answers_up_to(sync.provider.answer_bytes_max());
    Ok(Run::new(links.site.clone(), client, live.id.clone(), live.domain.clone(), sync.provider.name()))
}

/// Where the last commit of a sync has come to.
fn place(links: &Links, sync: &Sync) -> Option<Position> {
    links.site.view().modified(&sync.link.cursor(sync.provider.name()))
}

/// One sync, from its begin to its end in what is shown and stored.
async fn round(links: &Links, live: &Live, sync: &Sync) -> Result<(), SyncError> {
    let run = new_run(links, live, sync);
    let progress = run.as_ref().map_or_else(|_| tokio::sync::watch::channel(Progress::default()).1, Run::progress);
    if sync.begin(progress) {
        sync.write(&links.site).await;
    }
    let result = match run {
        Ok(run) => tokio::select! {
            result = sync.provider.sync(&run) => result,
            error = watch(links, sync, &run) => Err(error),
        },
        Err(error) => Err(error),
    };
    if sync.end(&result, &live.domain) {
        sync.write(&links.site).await;
    }
    result
}

/// Writes a session's progress down as it goes; ends when there is none for too long.
async fn watch(links: &Links, sync: &Sync, run: &Run) -> SyncError {
    let progress = run.progress();
    let (mut last, mut moved) = (*progress.borrow(), Instant::now());
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let now = *progress.borrow();
        if now != last {
            (last, moved) = (now, Instant::now());
        } else if moved.elapsed() > STALLED_AFTER {
            return SyncError::Stalled { seconds: STALLED_AFTER.as_secs() };
        }
        if sync.step() {
            sync.write(&links.site).await;
        }
    }
}

/// Waits until there is something to do.
async fn wait(links: &Links, live: &Live, sync: &Sync, failures: u32) {
    let interval = sync.provider.polling_interval();
    let delay = match failures {
        0 => interval,
        count => BACK_OFF_MIN.saturating_mul(1 << count.min(10).saturating_sub(1)).min(BACK_OFF_MAX).min(interval),
    };
    let told = async {
        let run = match new_run(links, live, sync) {
            Ok(run) if failures == 0 => run,
            Ok(_) | Err(_) => return std::future::pending().await,
        };
        let _following = Following::begin(sync);
        if let Err(error) = sync.provider.changed(&run).await {
            tracing::debug!(%error, link = %live.id, "the other site cannot be followed");
            live.probe.notify_one();
        }
        // Whatever it was, a sync tells.
        tokio::time::sleep(SYNC_PAUSE).await;
    };
    let written = async {
        if let Some(due) = sync.due() {
            tokio::time::sleep(due).await;
            sync.write(&links.site).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = told => {}
        () = written => {}
        () = tokio::time::sleep(delay) => {}
        () = sync.wake.notified() => {}
    }
}

/// While it is there, the other site tells changes as they happen.
struct Following<'a>(&'a Sync);

impl<'a> Following<'a> {
    fn begin(sync: &'a Sync) -> Self {
        sync.follow(true);
        Self(sync)
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.follow(false);
    }
}
