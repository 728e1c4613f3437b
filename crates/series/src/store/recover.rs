//! Opening: what is on the disk becomes a store.
//!
//! 1. The directory is flushed: what a killed process had renamed and not yet flushed is built upon from here on.
//! 2. The manifest is read, or made when the directory is empty. Unfinished files and parts it does not name are removed: they are
//!    housekeeping that did not come to its end.
//! 3. The parts are opened; their indexes tell which series there are. Blocks are checked when they are read.
//! 4. The log is read from the manifest's floor on, and its points are applied. Segments must follow each other without a hole, and
//!    each but the last must be as long as the next one's head says.
//! 5. A bad frame at the end of the last segment with no whole one behind it is a write that was never acknowledged: it is cut. Any
//!    other is damage, and so is one at a place that the manifest knows to have been durable: refused, naming file and byte.
//! 6. The last segment is flushed: what a killed process had written and not flushed is shown to readers, so it must be durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex, RwLock};

use super::append::{Queue, Writer};
use super::forward::{self, Forward};
use super::housekeeping::Keeper;
use super::{Counters, Store};
use crate::catalog::{Catalog, TimeRange};
use crate::error::Corrupt;
use crate::files::{UNFINISHED, damaged, discard, failed, missing, read_all};
use crate::frame::is_frame_in;
use crate::log::{self, Extent, Frames, HEAD_BYTES, Tail};
use crate::manifest::{self, Manifest};
use crate::part::Part;
use crate::parts::PartSet;
use crate::{Config, SeriesKey, StoreError, section};
use lockstep_storage::Storage;

impl Store {
    /// Opens the store in `storage`.
    pub(super) fn open_in(storage: Arc<dyn Storage>, lock: Option<File>, config: Config) -> Result<Self, StoreError> {
        config.check()?;
        let disk = &*storage;
        disk.sync_directory().map_err(failed(disk, "cannot flush the directory of", manifest::NAME))?;
        let names = disk.list().map_err(failed(disk, "cannot list the directory of", manifest::NAME))?;
        let manifest = load_manifest(disk, &names)?;
        let parts = open_parts(disk, &manifest, &names)?;
        let mut catalog = Catalog::new();
        parts.ranges()?.into_iter().for_each(|(key, range): (SeriesKey, TimeRange)| catalog.cover(key, range));

        let segments: BTreeSet<u64> = names.iter().filter_map(|name| log::parse_name(name)).collect();
        let forward = load_forward(disk, &config, &names, &segments, &manifest)?;
        let needed = match &forward {
            Some(forward) => manifest.log_floor.min(forward.cursor.segment),
            None => manifest.log_floor,
        };
        let (tail, log) = replay(disk, &manifest, &segments, needed, &mut catalog)?;
        let forward = forward.unwrap_or(Forward::from_segment(needed));
        if config.keep_for_forwarding && !names.iter().any(|name| name == forward::NAME) {
            forward.store(disk)?;
        }
        Ok(Self {
            _lock: lock,
            queue: Mutex::new(Queue::new(manifest.raw_floor_s)),
            turn: Condvar::new(),
            writer: Mutex::new(Writer::new(tail)),
            catalog: RwLock::new(catalog),
            parts: RwLock::new(Arc::new(parts)),
            log: Mutex::new(log),
            forward: Mutex::new(forward),
            keeper: Mutex::new(Keeper::new(manifest)),
            work: (Mutex::new(()), Condvar::new()),
            poisoned: OnceLock::new(),
            counters: Counters::default(),
            config,
            storage,
        })
    }
}

/// Step 2.
fn load_manifest(disk: &dyn Storage, names: &[String]) -> Result<Manifest, StoreError> {
    let manifest = match names.iter().any(|name| name == manifest::NAME) {
        true => Manifest::load(disk)?,
        false if names.iter().any(|name| log::parse_name(name).is_some() || name.ends_with(".part")) => {
            return Err(missing(disk, manifest::NAME));
        }
        false => {
            let manifest = Manifest::new();
            manifest.store(disk)?;
            manifest
        }
    };
    let known: BTreeSet<String> = manifest.parts.iter().map(|(name, _)| name.file()).collect();
    for name in names {
        if name.ends_with(UNFINISHED) || (name.ends_with(".part") && !known.contains(name)) {
            discard(disk, name);
        }
    }
    Ok(manifest)
}

/// Step 3.
fn open_parts(disk: &dyn Storage, manifest: &Manifest, names: &[String]) -> Result<PartSet, StoreError> {
    let mut parts = PartSet::new(manifest.raw_floor_s);
    for &(name, bytes) in &manifest.parts {
        if !names.contains(&name.file()) {
            return Err(missing(disk, &name.file()));
        }
        let part = Part::open(disk, name)?;
        if part.bytes != bytes {
            return Err(damaged(disk, &part.file_name, bytes.min(part.bytes), Corrupt("the file has another length")));
        }
        parts.add(Arc::new(part));
    }
    Ok(parts)
}

/// Where forwarding goes on; `None` when the log is not kept for it, or was not until this opening.
fn load_forward(
    disk: &dyn Storage,
    config: &Config,
    names: &[String],
    segments: &BTreeSet<u64>,
    manifest: &Manifest,
) -> Result<Option<Forward>, StoreError> {
    if !names.iter().any(|name| name == forward::NAME) {
        return Ok(None);
    }
    if !config.keep_for_forwarding {
        // Were it switched on again later, the segments that the cursor needs would be gone.
        discard(disk, forward::NAME);
        disk.sync_directory().map_err(failed(disk, "cannot flush the directory of", forward::NAME))?;
        return Ok(None);
    }
    let forward = Forward::load(disk)?;
    match segments.last() {
        Some(last) if forward.cursor.segment > *last => Err(missing(disk, &log::name(forward.cursor.segment))),
        None if manifest.last_segment > 0 => Err(missing(disk, &log::name(forward.cursor.segment))),
        Some(_) | None => Ok(Some(forward)),
    }
}

/// Steps 4 to 6: applies the points that are not in parts, and gives the log's end and extents, from `needed` on.
fn replay(
    disk: &dyn Storage,
    manifest: &Manifest,
    segments: &BTreeSet<u64>,
    needed: u64,
    catalog: &mut Catalog,
) -> Result<(Tail, BTreeMap<u64, Extent>), StoreError> {
    let Some(&last) = segments.last() else {
        if manifest.last_segment > 0 {
            return Err(missing(disk, &log::name(manifest.last_segment)));
        }
        let tail = log::create(disk, 1, Extent { bytes: 0, points: 0 })?;
        let log = BTreeMap::from([(1, tail.extent)]);
        return Ok((tail, log));
    };
    if let Some(lost) = (needed..=last.max(manifest.last_segment)).find(|segment| !segments.contains(segment)) {
        return Err(missing(disk, &log::name(lost)));
    }
    // Their removal was under way.
    segments.range(..needed).for_each(|segment| discard(disk, &log::name(*segment)));
    let mut extents = BTreeMap::new();
    for segment in needed + 1..=manifest.log_floor {
        extents.insert(segment - 1, log::load_head(disk, segment)?.previous);
    }
    let mut before: Option<Extent> = None;
    for segment in manifest.log_floor..=last {
        let replayed = replay_segment(disk, manifest, segment, segment == last, catalog)?;
        if let Some(before) = before.filter(|before| *before != replayed.previous) {
            let reason = Corrupt("the segment has another length than the next one says");
            return Err(damaged(disk, &log::name(segment - 1), before.bytes.min(replayed.previous.bytes), reason));
        }
        before = Some(replayed.extent);
        extents.insert(segment, replayed.extent);
        if segment == last {
            let name = log::name(segment);
            let file = disk.open(&name).map_err(failed(disk, "cannot open", &name))?;
            if replayed.torn_bytes > 0 {
                tracing::info!(name, bytes = replayed.torn_bytes, "cut off a write that was never acknowledged");
                file.truncate(replayed.extent.bytes).map_err(failed(disk, "cannot cut", &name))?;
            }
            file.sync().map_err(failed(disk, "cannot flush", &name))?;
            let Replayed { salt, number, extent, .. } = replayed;
            return Ok((Tail { file, segment, salt, number, extent }, extents));
        }
    }
    Err(missing(disk, &log::name(manifest.log_floor)))
}

/// What a segment was found to be.
struct Replayed {
    salt: u32,
    previous: Extent,
    extent: Extent,
    /// The number for the next frame.
    number: u64,
    torn_bytes: u64,
}

fn replay_segment(
    disk: &dyn Storage,
    manifest: &Manifest,
    segment: u64,
    is_last: bool,
    catalog: &mut Catalog,
) -> Result<Replayed, StoreError> {
    let name = log::name(segment);
    let content = read_all(disk, &name)?;
    let head = log::read_head(disk, segment, &content)?;
    let durable = if manifest.mark.0 == segment { manifest.mark.1 } else { HEAD_BYTES };
    let mut frames = Frames::new(&content, head.salt);
    let mut points = 0;
    let mut torn_bytes = 0;
    loop {
        let at = frames.at;
        let wrong = |reason| damaged(disk, &name, at as u64, reason);
        match frames.next() {
            None => break,
            Some(Ok((frame_points, payload))) => {
                let mut found = 0;
                let decoded = section::decode_all(payload, |batch| {
                    found += batch.points();
                    catalog.apply(&batch, manifest.raw_floor_s);
                });
                decoded.map_err(wrong)?;
                if found != frame_points as usize {
                    return Err(wrong(Corrupt("a frame has other points than it says")));
                }
                points += u64::from(frame_points);
            }
            Some(Err(reason)) => {
                let is_torn =
                    is_last && at as u64 >= durable && !is_frame_in(&content[at + 1..], head.salt, frames.number);
                if !is_torn {
                    return Err(wrong(reason));
                }
                torn_bytes = (content.len() - at) as u64;
                break;
            }
        }
    }
    let extent = Extent { bytes: frames.at as u64, points };
    if extent.bytes < durable {
        return Err(damaged(disk, &name, extent.bytes, Corrupt("the end of the log is missing")));
    }
    Ok(Replayed { salt: head.salt, previous: head.previous, extent, number: frames.number, torn_bytes })
}
