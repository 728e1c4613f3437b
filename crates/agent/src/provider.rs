//! A provider of samples: it follows the acquisition specifications of a server, samples this host by them, and delivers.
//!
//! ```text
//!              specifications                     points                    frames
//!   syncing ------------------> sampling thread ----------> storing thread ---------> spool
//!   (task)                            ^                                                 |
//!                                     | what is offered                                 v
//!                               registering (task)                               delivering (task)
//! ```
//! Each part waits only for what stands before it in the picture:
//! - **Sampling** has a thread of its own and never waits for the network or the disk. What the storing thread cannot take in
//!   time is dropped and counted.
//! - **Storing** appends to the spool and flushes it once a second, so at most a second of points is lost to `kill -9`.
//! - **Delivering** sends the oldest points, up to [`BATCH_POINTS_MAX`] at once and one request at a time, as fast as the server
//!   answers. While it is away it tries again after a second, then after twice as long, up to half a minute, each time a
//!   random part less, so that agents do not come all at once when a server is back. What the server refuses is set aside.
//! - **Syncing** fetches what has changed of the specifications. They are kept in `specs.json` as well, so that a restarted agent
//!   samples before its server answers.
//! - **Registering** says what this host can tell, at first and then thrice within the time after which the server would take
//!   the provider for gone.
//!
//! # Files
//! `DATA_DIR/specs.json` and, unless the server says that it needs none, `DATA_DIR/spool/`. One provider at a time uses a directory.

mod backoff;
mod sampling;
mod status;
mod storing;
mod tasks;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use lockstep_client::SpecCache;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::sample::{Sampler, Worker};
use crate::spool::{FRAME_POINTS_MAX, Spool, SpoolError};
use crate::upstream::{Spooling, Upstream};
use sampling::Command;
use status::Shared;

pub use status::Status;

/// Points of one request at most.
pub const BATCH_POINTS_MAX: usize = FRAME_POINTS_MAX;
/// What a spool on disk may take unless it is said otherwise.
pub const SPOOL_BYTES_MAX: u64 = 512 << 20;
/// What a spool in memory takes at most.
const MEMORY_SPOOL_BYTES_MAX: u64 = 32 << 20;
/// How long stopping may go on delivering.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// How a provider works.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where its files are. Made if it is not there.
    pub data_dir: PathBuf,
    /// The directory that stands for `/`, where `/proc` and `/sys` are.
    pub root: PathBuf,
    /// How often it asks for changes of the specifications.
    pub sync_interval: Duration,
    /// What the spool on disk may take, in bytes.
    pub spool_bytes_max: u64,
    /// What it says of itself.
    pub metadata: String,
}

impl Config {
    /// What fits most hosts.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            root: PathBuf::from("/"),
            sync_interval: Duration::from_secs(2),
            spool_bytes_max: SPOOL_BYTES_MAX,
            metadata: concat!("lockstep ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why a provider cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("cannot make {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The spool cannot be opened.
    #[error("cannot open the spool")]
    Spool(#[from] SpoolError),
    /// A thread cannot be made.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// A provider that runs. Dropped, it stops at once; what is flushed is delivered by the next one.
pub struct Provider {
    shared: Arc<Shared>,
    /// Ends syncing, registering and with them sampling and storing.
    stop: watch::Sender<bool>,
    /// Ends delivering, when nothing more can come.
    end: watch::Sender<bool>,
    /// Syncing and registering.
    tasks: Vec<JoinHandle<()>>,
    delivering: Option<JoinHandle<()>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Provider {
    /// Starts on the tokio runtime that this is called on, with two threads besides.
    ///
    /// It looks through the spool first: a second for half a gigabyte that waits. Call it from a blocking thread where that matters.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start<U: Upstream>(config: Config, upstream: U) -> Result<Self, StartError> {
        let path = config.data_dir.clone();
        std::fs::create_dir_all(&path).map_err(|source| StartError::DataDir { path, source })?;
        let spool = match upstream.spooling() {
            Spooling::Disk => Spool::open(&config.data_dir.join("spool"), config.spool_bytes_max)?,
            Spooling::Memory => Spool::in_memory(MEMORY_SPOOL_BYTES_MAX.min(config.spool_bytes_max)),
        };
        let spec_file = config.data_dir.join("specs.json");
        let cache = SpecCache::load(&spec_file).unwrap_or_else(|error| {
            warn!(%error, "the acquisition specifications are fetched in full");
            SpecCache::default()
        });

        let worker = Worker::new(Sampler::with_root(&config.root));
        let host_id = worker.host_id().to_string();
        let shared = Arc::new(Shared::new(spool));
        let stored = Arc::new(Notify::new());
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let (commands, requests) = mpsc::channel();
        let (batches, points) = mpsc::sync_channel(storing::QUEUE_BATCHES_MAX);
        let _ = commands.send(Command::Specs(cache.specs.values().cloned().collect()));
        let threads = vec![
            spawn("stats-sampling", {
                let shared = shared.clone();
                move || sampling::run(worker, &requests, &batches, &shared)
            })?,
            spawn("stats-storing", {
                let (shared, stored) = (shared.clone(), stored.clone());
                move || storing::run(&points, &shared, &stored)
            })?,
        ];
        let upstream = Arc::new(upstream);
        let around = tasks::Around { upstream, shared: shared.clone(), stopped };
        let registering = tasks::register(around.clone(), host_id, config.metadata, commands.clone());
        let syncing = tasks::sync(around.clone(), cache, spec_file, config.sync_interval, commands);
        let delivering = tasks::deliver(tasks::Around { stopped: ended, ..around }, stored);
        Ok(Self {
            shared,
            stop,
            end,
            tasks: vec![tokio::spawn(registering), tokio::spawn(syncing)],
            delivering: Some(tokio::spawn(delivering)),
            threads,
        })
    }

    /// What it does and has done.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Stops: takes no further samples, delivers for a moment what waits, and flushes the rest.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        // The tasks hold the way to the sampling thread, which ends when they have let go of it, and the storing thread after it.
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        let _ = self.end.send(true);
        if let Some(delivering) = self.delivering.take() {
            let abort = delivering.abort_handle();
            if tokio::time::timeout(FAREWELL_TIMEOUT, delivering).await.is_err() {
                abort.abort();
            }
        }
        let shared = self.shared.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            let file = shared.spool().flush();
            file.map_or(Ok(()), |file| file.sync_data())
        });
        if let Ok(Err(error)) = flushed.await {
            warn!(%error, "cannot flush the points that wait");
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.tasks.iter().chain(&self.delivering).for_each(JoinHandle::abort);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, StartError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StartError::Thread)
}

/// A mutex whose holders leave whole values behind even when they panic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
