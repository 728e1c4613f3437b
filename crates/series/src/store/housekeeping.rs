//! Housekeeping: what turns the log into parts and lets go of what is old.
//!
//! Each step is idempotent and ends with a new manifest, which makes it happen at once; a crash in between leaves files that the next
//! opening removes.
//!
//! 1. *Seal.* When the head or the log is large, or a partition is over, a new segment of the log begins and the live points are
//!    frozen. They are written into a part per partition; the manifest names these and raises the log's floor; the points leave
//!    the memory.
//! 2. *Roll up.* A partition that is older than retention gets no points any more ([`Queue`](super::append::Queue)'s floor saw to that before
//!    step 1). Its points become rollups of both tiers; the manifest names these in the place of the points, and raises the raw
//!    floor. So each window is rolled up once, whole, and readers never see it twice or half.
//! 3. *Merge.* Parts of a partition are merged when the newer ones together are a sizable part of an older one, so that there are
//!    few and every point is rewritten a logarithmic number of times.
//! 4. *Drop.* Rollups older than their retention, and log that is sealed and forwarded, are removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Store;
use super::append::explain;
use super::rollup::{ROLLUP_COLUMNS, roll_up};
use crate::codec::settle;
use crate::files::{NotPublished, discard, failed};
use crate::log;
use crate::manifest::Manifest;
use crate::part::writer::{PartWriter, Unpublished};
use crate::part::{Part, PartKind, PartName, walk_all};
use crate::parts::PartSet;
use crate::{AppendError, StoreError, Tier};

/// How long after its end a partition of points is sealed, in seconds: most late points then go into the same part.
const CLOSE_AFTER_S: i64 = 600;

/// A part of a partition that still grows is merged with the newer ones when these have at least a half of its rows.
const GROWING_SHARE: u64 = 2;

/// In a partition that is over, an eighth is enough: it will be read for long, and late points are few.
const CLOSED_SHARE: u64 = 8;

/// What a run of housekeeping did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Housekept {
    /// Points that went from memory into parts.
    pub points_sealed: u64,
    /// Parts that were merged into fewer.
    pub parts_merged: usize,
    /// Partitions of points, of two hours each, that were rolled up and dropped.
    pub partitions_rolled_up: usize,
    /// Parts of rollups that were dropped.
    pub rollup_parts_dropped: usize,
    /// Segments of the log that were removed.
    pub segments_removed: usize,
}

/// What housekeeping knows.
pub(super) struct Keeper {
    /// As it is on the disk.
    manifest: Manifest,
    /// The segment in which the log went on when the points that are frozen were.
    frozen_floor: u64,
}

impl Keeper {
    pub(super) fn new(manifest: Manifest) -> Self {
        Self { manifest, frozen_floor: 0 }
    }

    /// A name that no part has had.
    fn name_part(&mut self, kind: PartKind, partition: i64) -> PartName {
        let id = self.manifest.next_part;
        self.manifest.next_part += 1;
        PartName { kind, partition, id }
    }
}

impl Store {
    /// Does what there is to do; see the module's head. Meant for a background loop, after each [`Store::wait_for_work`]. Reading
    /// and appending go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Full`] and other errors leave everything readable; the next run tries again. After
    /// [`StoreError::Poisoned`] none does.
    pub fn housekeep(&self) -> Result<Housekept, StoreError> {
        let keeper = &mut *self.keeper.lock();
        if let Some(reason) = self.poisoned.get() {
            return Err(StoreError::Poisoned(reason.clone()));
        }
        let now_s = self.config.clock.now_s();
        let floor_s = PartKind::Raw.partition_of(now_s - self.config.raw_retention_s);
        let mut done = Housekept::default();
        self.seal(keeper, now_s, floor_s, &mut done)?;
        self.roll_up_until(keeper, floor_s, now_s, &mut done)?;
        self.merge(keeper, now_s, &mut done)?;
        self.drop_rollups(keeper, now_s, &mut done)?;
        self.drop_log(keeper, &mut done)?;
        if done.partitions_rolled_up + done.rollup_parts_dropped > 0 {
            let ranges = self.parts.read().clone().ranges()?;
            self.catalog.write().set_ranges(&ranges);
        }
        Ok(done)
    }

    /// Seals the head whatever its size: for a quick opening after a planned stop.
    ///
    /// # Errors
    /// As [`Store::housekeep`].
    pub fn seal_all(&self) -> Result<u64, StoreError> {
        let keeper = &mut *self.keeper.lock();
        if let Some(reason) = self.poisoned.get() {
            return Err(StoreError::Poisoned(reason.clone()));
        }
        let mut done = Housekept::default();
        if self.catalog.read().has_frozen {
            self.write_frozen(keeper, &mut done)?;
        }
        if self.catalog.read().head_points > 0 {
            self.freeze(keeper, i64::MIN, |_| true)?;
            self.write_frozen(keeper, &mut done)?;
        }
        self.drop_log(keeper, &mut done)?;
        Ok(done.points_sealed)
    }

    /// Step 1.
    fn seal(&self, keeper: &mut Keeper, now_s: i64, floor_s: i64, done: &mut Housekept) -> Result<(), StoreError> {
        // Of a run that did not come to its end.
        if self.catalog.read().has_frozen {
            self.write_frozen(keeper, done)?;
        }
        let log_bytes: u64 = self.log.lock().range(keeper.manifest.log_floor..).map(|(_, extent)| extent.bytes).sum();
        let is_large = self.is_head_large() || log_bytes >= self.config.log_bytes_max;
        let wants = |live_first_s: i64| {
            live_first_s < i64::MAX
                && (is_large
                    || live_first_s < floor_s
                    || PartKind::Raw.partition_of(live_first_s) + PartKind::Raw.partition_s() + CLOSE_AFTER_S <= now_s)
        };
        let is_floor_new = floor_s > keeper.manifest.raw_floor_s;
        if (is_floor_new || wants(self.catalog.read().live_first_s)) && self.freeze(keeper, floor_s, wants)? {
            self.write_frozen(keeper, done)?;
        }
        Ok(())
    }

    /// Raises the floor of what is taken, and freezes the live points if they, given the earliest one's time, are wanted.
    fn freeze(&self, keeper: &mut Keeper, floor_s: i64, wants: impl FnOnce(i64) -> bool) -> Result<bool, StoreError> {
        let frozen = self.exclusively(floor_s, |writer| {
            if !wants(self.catalog.read().live_first_s) {
                return Ok(None);
            }
            self.begin_segment(writer)?;
            self.catalog.write().freeze();
            Ok(Some(writer.tail.segment))
        });
        match frozen {
            Ok(None) => Ok(false),
            Ok(Some(segment)) => {
                keeper.frozen_floor = segment;
                Ok(true)
            }
            Err(AppendError::Poisoned(reason)) => Err(StoreError::Poisoned(reason)),
            Err(AppendError::Full | AppendError::TooLarge { .. } | AppendError::HeadFull { .. }) => {
                Err(StoreError::Full { path: self.storage.shown("log") })
            }
        }
    }

    /// Writes the frozen points into parts.
    fn write_frozen(&self, keeper: &mut Keeper, done: &mut Housekept) -> Result<(), StoreError> {
        let keys = self.catalog.read().frozen_keys();
        let mut writers: BTreeMap<i64, PartWriter<'_>> = BTreeMap::new();
        let mut rows = Vec::new();
        let mut points = 0;
        for key in keys {
            rows.clear();
            self.catalog.read().frozen(key, &mut rows);
            settle(&mut rows);
            points += rows.len() as u64;
            let partition_of = |time_s| PartKind::Raw.partition_of(time_s);
            for rows in rows.chunk_by(|one, next| partition_of(one.time_s) == partition_of(next.time_s)) {
                let partition = partition_of(rows[0].time_s);
                let writer = match writers.entry(partition) {
                    std::collections::btree_map::Entry::Occupied(writer) => writer.into_mut(),
                    std::collections::btree_map::Entry::Vacant(place) => {
                        let name = keeper.name_part(PartKind::Raw, partition);
                        place.insert(PartWriter::new(&*self.storage, name)?)
                    }
                };
                writer.add(key, rows)?;
            }
        }
        let mut made = Unpublished::new(&*self.storage);
        for writer in writers.into_values() {
            made.finish(writer)?;
        }
        let manifest = Manifest { log_floor: keeper.frozen_floor, ..keeper.manifest.clone() };
        self.replace(keeper, manifest, made, &[])?;
        self.catalog.write().thaw();
        done.points_sealed += points;
        Ok(())
    }

    /// Step 2, partition by partition: readers look at rollups for what is before the floor and at points for the rest.
    fn roll_up_until(
        &self,
        keeper: &mut Keeper,
        floor_s: i64,
        now_s: i64,
        done: &mut Housekept,
    ) -> Result<(), StoreError> {
        loop {
            let parts = self.parts.read().clone();
            let next = parts.partitions(PartKind::Raw).next().filter(|(partition, _)| *partition < floor_s);
            let Some((partition, points)) = next else { break };
            let mut made = Unpublished::new(&*self.storage);
            let mut writers = Vec::new();
            for tier in Tier::ALL {
                let kind = PartKind::Rollups(tier);
                let tier_partition = kind.partition_of(partition);
                if tier_partition + kind.partition_s() + self.config.tier_retention_s(tier) > now_s {
                    let name = keeper.name_part(kind, tier_partition);
                    writers.push((tier, PartWriter::new(&*self.storage, name)?));
                }
            }
            let mut rollups = Vec::new();
            walk_all::<1>(points, |key, rows| {
                for (tier, writer) in &mut writers {
                    rollups.clear();
                    roll_up(rows, *tier, &mut rollups);
                    writer.add(key, &rollups)?;
                }
                Ok(())
            })?;
            for (_, writer) in writers {
                made.finish(writer)?;
            }
            let raw_floor_s = partition + PartKind::Raw.partition_s();
            let manifest = Manifest { raw_floor_s, ..keeper.manifest.clone() };
            self.replace(keeper, manifest, made, points)?;
            done.partitions_rolled_up += 1;
        }
        if floor_s > keeper.manifest.raw_floor_s {
            let manifest = Manifest { raw_floor_s: floor_s, ..keeper.manifest.clone() };
            self.replace(keeper, manifest, Unpublished::new(&*self.storage), &[])?;
        }
        Ok(())
    }

    /// Step 3.
    fn merge(&self, keeper: &mut Keeper, now_s: i64, done: &mut Housekept) -> Result<(), StoreError> {
        let parts = self.parts.read().clone();
        for kind in PartKind::ALL {
            for (partition, parts) in parts.partitions(kind) {
                let is_closed = partition + kind.partition_s() + CLOSE_AFTER_S <= now_s;
                let share = if is_closed { CLOSED_SHARE } else { GROWING_SHARE };
                let Some(run) = run_to_merge(parts, share) else { continue };
                let name = keeper.name_part(kind, partition);
                let mut writer = PartWriter::new(&*self.storage, name)?;
                match kind {
                    PartKind::Raw => walk_all::<1>(run, |key, rows| writer.add(key, rows))?,
                    PartKind::Rollups(_) => walk_all::<ROLLUP_COLUMNS>(run, |key, rows| writer.add(key, rows))?,
                }
                let mut made = Unpublished::new(&*self.storage);
                made.finish(writer)?;
                self.replace(keeper, keeper.manifest.clone(), made, run)?;
                done.parts_merged += run.len();
            }
        }
        Ok(())
    }

    /// Step 4, rollups.
    fn drop_rollups(&self, keeper: &mut Keeper, now_s: i64, done: &mut Housekept) -> Result<(), StoreError> {
        let parts = self.parts.read().clone();
        let mut old = Vec::new();
        for tier in Tier::ALL {
            let kind = PartKind::Rollups(tier);
            let end_s = now_s - self.config.tier_retention_s(tier);
            let partitions = parts.partitions(kind).filter(|(partition, _)| partition + kind.partition_s() <= end_s);
            old.extend(partitions.flat_map(|(_, parts)| parts.iter().cloned()));
        }
        if !old.is_empty() {
            self.replace(keeper, keeper.manifest.clone(), Unpublished::new(&*self.storage), &old)?;
            done.rollup_parts_dropped += old.len();
        }
        Ok(())
    }

    /// Step 4, log.
    fn drop_log(&self, keeper: &Keeper, done: &mut Housekept) -> Result<(), StoreError> {
        let mut end = keeper.manifest.log_floor;
        // Held so that nobody is reading for forwarding what goes.
        if self.config.keep_for_forwarding {
            self.drop_unforwarded(end).map_err(|error| match error {
                AppendError::Poisoned(reason) => StoreError::Poisoned(reason),
                AppendError::Full | AppendError::TooLarge { .. } | AppendError::HeadFull { .. } => {
                    StoreError::Full { path: self.storage.shown(super::forward::NAME) }
                }
            })?;
            end = end.min(self.forward.lock().cursor.segment);
        }
        let going: Vec<u64> = self.log.lock().range(..end).map(|(segment, _)| *segment).collect();
        for segment in &going {
            discard(&*self.storage, &log::name(*segment));
            self.log.lock().remove(segment);
        }
        if !going.is_empty() {
            let flushed = self.storage.sync_directory();
            flushed.map_err(failed(&*self.storage, "cannot flush the directory of", "log"))?;
            done.segments_removed += going.len();
        }
        Ok(())
    }

    /// Makes a step happen: `made` are there from here on and `gone` are not, on the disk and then for readers.
    fn replace(
        &self,
        keeper: &mut Keeper,
        mut manifest: Manifest,
        made: Unpublished<'_>,
        gone: &[Arc<Part>],
    ) -> Result<(), StoreError> {
        let new = made.open()?;
        manifest.next_part = keeper.manifest.next_part;
        manifest.parts.retain(|(name, _)| !gone.iter().any(|part| part.name == *name));
        manifest.parts.extend(new.iter().map(|part| (part.name, part.bytes)));
        self.store_manifest(keeper, manifest, Some(made))?;
        let mut set = PartSet::clone(&self.parts.read());
        set.raw_floor_s = keeper.manifest.raw_floor_s;
        gone.iter().for_each(|part| set.remove(&part.name));
        new.into_iter().for_each(|part| set.add(part));
        *self.parts.write() = Arc::new(set);
        gone.iter().for_each(|part| discard(&*self.storage, &part.file_name));
        Ok(())
    }

    fn store_manifest(
        &self,
        keeper: &mut Keeper,
        mut manifest: Manifest,
        made: Option<Unpublished<'_>>,
    ) -> Result<(), StoreError> {
        if let Some((segment, extent)) = self.log.lock().last_key_value() {
            manifest.last_segment = *segment;
            manifest.mark = (*segment, extent.bytes);
        }
        match manifest.store(&*self.storage) {
            Ok(()) => {
                made.into_iter().for_each(Unpublished::keep);
                keeper.manifest = manifest;
                Ok(())
            }
            Err(NotPublished::Surely(error)) => Err(error),
            Err(NotPublished::Perhaps(error)) => {
                // The manifest that is found later may name them.
                made.into_iter().for_each(Unpublished::keep);
                Err(StoreError::Poisoned(self.poison(&explain(&error))))
            }
        }
    }

    /// Tells the manifest how far the log is durable.
    pub(super) fn record_mark(&self) -> Result<(), StoreError> {
        let keeper = &mut *self.keeper.lock();
        let manifest = keeper.manifest.clone();
        self.store_manifest(keeper, manifest, None)
    }
}

/// The newest parts of a partition, from the first on whose newer ones together have at least the given share of its rows.
fn run_to_merge(parts: &[Arc<Part>], share: u64) -> Option<&[Arc<Part>]> {
    let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
    first_to_merge(&rows, share).map(|first| &parts[first..])
}

fn first_to_merge(rows: &[u64], share: u64) -> Option<usize> {
    (0..rows.len()).find(|&first| {
        let newer: u64 = rows[first + 1..].iter().sum();
        newer > 0 && rows[first] <= newer.saturating_mul(share)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_merged_when_the_newer_ones_are_a_sizable_share() {
        assert_eq!(first_to_merge(&[100], 2), None);
        assert_eq!(first_to_merge(&[100, 10], 2), None);
        assert_eq!(first_to_merge(&[100, 10, 5], 2), Some(1));
        assert_eq!(first_to_merge(&[100, 30, 20], 2), Some(0));
        assert_eq!(first_to_merge(&[100, 10, 5], 8), Some(0));
    }
}
