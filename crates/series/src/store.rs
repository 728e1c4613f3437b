//! The store: what its parts hold together, and what may be asked of all of it.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::catalog::Catalog;
use crate::files::io_error;
use crate::log::Extent;
use crate::part::PartKind;
use crate::parts::PartSet;
use crate::{Config, SeriesKey, StoreError, TimeRange};
use lockstep_storage::{Directory, Storage};

mod append;
#[cfg(test)]
mod crash;
mod forward;
mod housekeeping;
#[cfg(test)]
mod property;
mod read;
mod recover;
mod rollup;

pub use append::Appended;
pub use forward::{Cursor, ForwardLag};
pub use housekeeping::Housekept;

/// A series store in a directory; see the crate's page. All methods may be called from any thread.
pub struct Store {
    storage: Arc<dyn Storage>,
    /// Held until the store is dropped.
    _lock: Option<File>,
    config: Config,
    /// Batches on their way to the log. Held for a few lines.
    queue: Mutex<append::Queue>,
    /// Told when the writer is free or a batch is answered.
    turn: Condvar,
    /// The log's end. Held by who leads the queue, while it writes and flushes.
    writer: Mutex<append::Writer>,
    /// Held for reading while the points of one series are copied, for writing while a batch is applied.
    catalog: RwLock<Catalog>,
    /// Held while the pointer is taken or replaced.
    parts: RwLock<Arc<PartSet>>,
    /// The durable log: each segment's extent. Held for a few lines.
    log: Mutex<BTreeMap<u64, Extent>>,
    /// Held while the log is read for, or told of, forwarding.
    forward: Mutex<forward::Forward>,
    /// What housekeeping alone knows; one runs at a time.
    keeper: Mutex<housekeeping::Keeper>,
    /// Told when the head has grown to half of its limit.
    work: (Mutex<()>, Condvar),
    /// Set once the disk failed a flush.
    poisoned: OnceLock<Arc<str>>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    stored: AtomicU64,
    too_old: AtomicU64,
    too_new: AtomicU64,
}

/// How a store is doing. Counters begin at 0 when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Series known.
    pub series: usize,
    /// Points that are in memory and the log only.
    pub head_points: usize,
    /// Memory of series, waiting points and tops of parts, in bytes.
    pub memory_bytes: usize,
    /// Parts of points, in bytes on disk.
    pub raw_bytes: u64,
    /// Parts of five-minute rollups, in bytes on disk.
    pub five_minutes_bytes: u64,
    /// Parts of hourly rollups, in bytes on disk.
    pub hour_bytes: u64,
    /// The log, in bytes on disk.
    pub log_bytes: u64,
    /// Parts.
    pub parts: usize,
    /// Points in parts; one that was written twice may count twice until its parts are merged.
    pub raw_points: u64,
    /// Points stored since opening.
    pub points_stored: u64,
    /// Points refused since opening because they were older than retention.
    pub points_too_old: u64,
    /// Points refused since opening because they were too far ahead of the clock.
    pub points_too_new: u64,
}

impl Store {
    /// Opens the store in a directory, which is made if need be.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when it is open elsewhere; [`StoreError::Damaged`] when a file that it needs is not what was written. It does
    /// not open rather than forget.
    pub fn open(dir: &Path, config: Config) -> Result<Self, StoreError> {
        let shown = dir.display().to_string();
        std::fs::create_dir_all(dir).map_err(|source| io_error("cannot create", shown.clone(), source))?;
        let path = dir.join("lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = opened.map_err(|source| io_error("cannot open", path.display().to_string(), source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(shown)),
            Err(TryLockError::Error(source)) => {
                return Err(io_error("cannot lock", path.display().to_string(), source));
            }
        }
        Self::open_in(Arc::new(Directory::new(dir.to_owned())), Some(lock), config)
    }

    /// Every series with its first and last time, in no order: 32 bytes and some 10 ns each.
    pub fn series(&self) -> Vec<(SeriesKey, TimeRange)> {
        self.catalog.read().iter().collect()
    }

    /// Calls for every series. Appends wait meanwhile: only look.
    pub fn visit_series(&self, mut each: impl FnMut(SeriesKey, TimeRange)) {
        self.catalog.read().iter().for_each(|(key, range)| each(key, range));
    }

    /// First and last time of a series, if it is known.
    pub fn range(&self, key: SeriesKey) -> Option<TimeRange> {
        self.catalog.read().range(key)
    }

    /// Waits until the head has grown to half of its limit, or for `timeout`: what a background loop does before
    /// [`Store::housekeep`].
    pub fn wait_for_work(&self, timeout: Duration) {
        let mut guard = self.work.0.lock();
        if !self.is_head_large() {
            self.work.1.wait_for(&mut guard, timeout);
        }
    }

    /// Ends the waiting of [`Store::wait_for_work`], for a loop that is to stop.
    pub fn wake(&self) {
        let _guard = self.work.0.lock();
        self.work.1.notify_all();
    }

    /// How the store is doing.
    pub fn stats(&self) -> StoreStats {
        let parts = self.parts.read().clone();
        let (series, head_points, memory_bytes) = {
            let catalog = self.catalog.read();
            (catalog.len(), catalog.head_points, catalog.memory_bytes())
        };
        let bytes = PartKind::ALL.map(|kind| parts.bytes(kind));
        let raw_points = parts.partitions(PartKind::Raw).flat_map(|(_, parts)| parts).map(|part| part.rows).sum();
        StoreStats {
            series,
            head_points,
            memory_bytes: memory_bytes + parts.memory_bytes(),
            raw_bytes: bytes[0],
            five_minutes_bytes: bytes[1],
            hour_bytes: bytes[2],
            log_bytes: self.log.lock().values().map(|extent| extent.bytes).sum(),
            parts: parts.iter().count(),
            raw_points,
            points_stored: self.counters.stored.load(Ordering::Relaxed),
            points_too_old: self.counters.too_old.load(Ordering::Relaxed),
            points_too_new: self.counters.too_new.load(Ordering::Relaxed),
        }
    }

    fn is_head_large(&self) -> bool {
        self.catalog.read().head_bytes >= self.config.head_bytes_max / 2
    }

    /// Refuses everything from here on, and says why.
    fn poison(&self, reason: &dyn std::fmt::Display) -> Arc<str> {
        let reason = self.poisoned.get_or_init(|| {
            tracing::error!(%reason, "the series store takes nothing any more");
            reason.to_string().into()
        });
        reason.clone()
    }
}

impl Drop for Store {
    /// Records how far the log is durable, so that damage to its end is not mistaken for a torn write.
    fn drop(&mut self) {
        if self.poisoned.get().is_none()
            && let Err(error) = self.record_mark()
        {
            tracing::warn!(%error, "cannot record the end of the log");
        }
    }
}
