//! The embedded engine: one process, one directory, segment files.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use lockstep_model::Position;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use crate::{Batch, Commit, CommitError, Done, Engine, Follower, JournalError, Origin, ReadError, Replayed, Retention};
use batch::Checked;
use housekeeping::Housekeeping;
use lockstep_storage::{Directory, Storage};
use log::Log;
use origin::{Record, Sealed};
use queue::{Closing, Queue, Submitted};
use read::{Cursor, EmbeddedFollower};
use recover::Recovered;
use state::StateFile;
use versions::Fingerprinter;
use writer::Writer;

mod batch;
mod file;
mod fold;
mod housekeeping;
mod log;
mod origin;
mod queue;
mod read;
mod recover;
mod segment;
mod state;
mod versions;
mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;

/// Cursors kept for [`Engine::read`], so that who reads on in pieces does not decode a frame for each.
const CURSORS_MAX: usize = 8;

/// How an [`Embedded`] journal is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// How much of the log is kept. Whole segments are dropped, so up to [`Config::segment_bytes_max`] more stays.
    pub retention: Retention,
    /// A segment that has reached this size is sealed before the next group is written.
    pub segment_bytes_max: u64,
    /// The log is folded into a new state file when its sealed segments since the last one take more than this, and more than
    /// half of that file: so writing states costs at most about twice what writing the log does.
    pub fold_bytes_min: u64,
    /// Recent commits are kept in memory up to this many encoded bytes; decoded they take about four times as much.
    pub ring_bytes_max: usize,
    /// Batches wait for the writer up to this many encoded bytes; beyond, [`Engine::submit`] blocks.
    pub queue_bytes_max: usize,
    /// Where commits get their time from.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            segment_bytes_max: 64 << 20,
            fold_bytes_min: 256 << 20,
            ring_bytes_max: 16 << 20,
            queue_bytes_max: 64 << 20,
            clock: Clock::default(),
        }
    }
}

/// Tells the time in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// A clock of one's own, for tests.
    pub fn new(now_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    fn now_ms(&self) -> i64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The embedded engine. See the crate's essay for what it keeps on disk, and how.
///
/// Dropping it closes it. When [`Engine::close`] has returned, the directory can be opened again.
pub struct Embedded {
    shared: Arc<Shared>,
    /// The writer and housekeeping, until they are joined.
    threads: Mutex<Vec<JoinHandle<()>>>,
    cursors: Mutex<Vec<Cursor>>,
}

/// What the engine's threads and callers share.
pub(crate) struct Shared {
    storage: Arc<dyn Storage>,
    config: Config,
    clock: Clock,
    epoch: u64,
    fingerprinter: Fingerprinter,
    queue: Queue,
    log: Log,
    housekeeping: Housekeeping,
    /// The newest state file. Changed by housekeeping only.
    state: Mutex<Option<StateFile>>,
    /// What `origin` says. Held while the file is written, by the writer at each new segment and by housekeeping.
    origin: Mutex<Record>,
    /// Held until the threads have ended: by then nothing more is written here.
    lock: Mutex<Option<File>>,
}

impl Embedded {
    /// Opens the journal in the directory `dir`, which is made when it is not there, and hands out what it holds.
    ///
    /// `each` is called in this thread with what [`Replayed`] says. Then the engine is ready, and [`Engine::follow`] from [`Engine::head`] gives what is committed later.
    ///
    /// # Errors
    /// [`JournalError`]. What `each` was given until then must be thrown away.
    pub fn open(dir: &Path, config: Config, each: &mut dyn FnMut(Replayed)) -> Result<Self, JournalError> {
        let failed = |what, path: &Path| {
            let path = path.display().to_string();
            move |source| JournalError::Io { what, path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed("cannot create", dir))?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("cannot flush", parent))?;
        let lock_path = dir.join("lock");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).to_owned();
        let lock = options.open(&lock_path).map_err(failed("cannot open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::InUse(dir.display().to_string())),
            Err(error) => return Err(failed("cannot lock", &lock_path)(error.into())),
        }
        Self::open_in(Arc::new(Directory::new(dir.to_owned())), Some(lock), config, each)
    }

    pub(crate) fn open_in(
        storage: Arc<dyn Storage>,
        lock: Option<File>,
        config: Config,
        each: &mut dyn FnMut(Replayed),
    ) -> Result<Self, JournalError> {
        let fingerprinter = Fingerprinter::default();
        let recovered = recover::recover(&*storage, &fingerprinter, each)?;
        let Recovered { origin, segments, state, versions, head, time_ms, tail } = recovered;
        let Some(segment) = segments.back().cloned() else {
            // Recovery gives at least the segment that grows.
            return Err(JournalError::Damaged { path: String::new(), offset: 0, reason: "no segment".to_owned() });
        };
        tracing::info!(head, resources = versions.len(), segments = segments.len(), "opened the journal");
        let shared = Arc::new(Shared {
            storage,
            clock: config.clock.clone(),
            epoch: origin.epoch,
            fingerprinter,
            queue: Queue::new(config.queue_bytes_max),
            log: Log::new(segments, (head, time_ms), origin.floor, config.ring_bytes_max),
            housekeeping: Housekeeping::default(),
            state: Mutex::new(state),
            origin: Mutex::new(origin),
            config,
            lock: Mutex::new(lock),
        });
        let writer = Writer {
            shared: shared.clone(),
            versions,
            segment,
            tail,
            head,
            time_ms,
            idle_bytes: 0,
            encoder: Default::default(),
            frame: Vec::new(),
        };
        let keeper = shared.clone();
        let embedded = Self { shared, threads: Mutex::default(), cursors: Mutex::default() };
        embedded.spawn("journal writer", move || writer.run())?;
        embedded.spawn("journal keeper", move || Housekeeping::run(&keeper))?;
        embedded.shared.housekeeping.wake();
        Ok(embedded)
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), JournalError> {
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let thread = spawned.map_err(|source| JournalError::Io {
            what: "cannot start a thread for",
            path: self.shared.storage.shown("origin"),
            source,
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }
}

impl Engine for Embedded {
    fn submit(&self, batch: Batch, done: Done) {
        match batch::check(&batch, &self.shared.fingerprinter) {
            Ok(Checked { prints, bytes }) => self.shared.queue.push(Submitted { batch, prints, bytes, done }),
            Err(error) => done(Err(error)),
        }
    }

    fn origin(&self) -> Origin {
        Origin { epoch: self.shared.epoch }
    }

    fn head(&self) -> Position {
        self.shared.log.head()
    }

    fn oldest(&self) -> Position {
        self.shared.log.oldest()
    }

    fn read(&self, after: Position, bytes_max: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        let mut cursor = {
            let mut cursors = self.cursors.lock();
            let known = cursors.iter().position(|cursor| cursor.after() == after.0);
            known.map(|known| cursors.swap_remove(known)).or_else(|| cursors.pop()).unwrap_or_default()
        };
        let read = self.shared.read_with(&mut cursor, after, bytes_max);
        let mut cursors = self.cursors.lock();
        if cursors.len() < CURSORS_MAX {
            cursors.push(cursor);
        }
        read.map(|(commits, _)| commits)
    }

    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, ReadError> {
        self.shared.log.check(after)?;
        Ok(Box::new(EmbeddedFollower { shared: self.shared.clone(), after, cursor: Cursor::default() }))
    }

    fn close_epoch(&self, epoch_s: i64, done: Done) {
        let Some(end_ms) = epoch_s.checked_add(1).and_then(|next| next.checked_mul(1000)).map(|begin| begin - 1) else {
            return done(Err(CommitError::Malformed("an epoch beyond all time")));
        };
        let (head, time_ms) = self.shared.log.head_and_time_ms();
        if time_ms >= end_ms {
            return done(Ok(head));
        }
        self.shared.queue.close_epoch(Closing { end_ms, done });
    }

    fn closed_s(&self) -> i64 {
        let (_, time_ms) = self.shared.log.head_and_time_ms();
        time_ms.saturating_add(1).div_euclid(1000) - 1
    }

    fn now_ms(&self) -> i64 {
        let (_, time_ms) = self.shared.log.head_and_time_ms();
        self.shared.clock.now_ms().max(time_ms)
    }

    fn compact(&self, through: Position) -> Result<(), ReadError> {
        let head = self.head();
        if through > head {
            return Err(ReadError::Future { asked: through, head });
        }
        // Only sealed segments are folded and dropped; nothing is gained by sealing one that is needed in part.
        if through == head {
            let (sealing, sealed) = std::sync::mpsc::channel();
            self.shared.queue.seal(sealing);
            sealed.recv().map_err(|_| ReadError::Broken("the journal is closed".into()))??;
        }
        self.shared.housekeeping.compact(through.0)
    }

    fn disk_bytes(&self) -> (u64, u64) {
        let log = self.shared.log.segments().iter().map(|segment| segment.extent.lock().bytes).sum();
        let state = self.shared.state.lock().as_ref().map_or(0, |state| state.bytes);
        (log, state)
    }

    fn close(&self) {
        self.shared.queue.close();
        self.shared.housekeeping.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        // The last owner may be a closure that the writer runs, which cannot wait for itself. Then the lock goes when the last reader does.
        let (own, others): (Vec<_>, Vec<_>) =
            threads.into_iter().partition(|thread| thread.thread().id() == std::thread::current().id());
        for thread in others {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal panicked");
            }
        }
        self.shared.log.close();
        if own.is_empty() {
            drop(self.shared.lock.lock().take());
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Writes `origin`, with a new mark when one is given.
    fn store_origin_at(&self, mark: Option<(u64, i64)>) -> Result<(), JournalError> {
        let mut origin = self.origin.lock();
        if let Some((mark, time_ms)) = mark {
            (origin.mark, origin.time_ms) = (mark, time_ms);
        }
        origin.floor = self.log.floor();
        let segments = self.log.segments();
        let sealed = segments.split_last().map_or(&[][..], |(_, sealed)| sealed).iter().map(|segment| {
            let extent = segment.extent.lock();
            let (last, bytes, changes, time_ms) = (extent.last, extent.bytes, extent.changes, extent.time_ms);
            Sealed { first: segment.first, last, bytes, changes, time_ms }
        });
        origin.sealed = sealed.collect();
        origin.store(&*self.storage)
    }

    /// Writes `origin` with a new mark. That it fails is no harm: it then says less than is true.
    fn store_origin(&self, mark: u64, time_ms: i64) {
        if let Err(error) = self.store_origin_at(Some((mark, time_ms))) {
            tracing::warn!(reason = %explain(&error), "cannot write the journal's origin");
        }
    }
}

/// An error and its sources in one line.
fn explain(error: &dyn std::error::Error) -> Arc<str> {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.into()
}
