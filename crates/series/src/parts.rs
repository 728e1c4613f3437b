//! The set of parts that there are at a moment. Readers take a set and keep it; housekeeping makes a new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::catalog::TimeRange;
use crate::part::{Part, PartKind, PartName};
use crate::{SeriesKey, StoreError};

/// Parts by kind and partition, within a partition from the oldest to the newest.
#[derive(Clone)]
pub(crate) struct PartSet {
    parts: BTreeMap<(PartKind, i64), Vec<Arc<Part>>>,
    /// Rollups of windows before are in parts; those of later ones are made from points. The start of a partition.
    pub(crate) raw_floor_s: i64,
}

impl PartSet {
    pub(crate) fn new(raw_floor_s: i64) -> Self {
        Self { parts: BTreeMap::new(), raw_floor_s }
    }

    pub(crate) fn add(&mut self, part: Arc<Part>) {
        let parts = self.parts.entry((part.name.kind, part.name.partition)).or_default();
        parts.push(part);
        parts.sort_by_key(|part| part.name.id);
    }

    pub(crate) fn remove(&mut self, name: &PartName) {
        if let Some(parts) = self.parts.get_mut(&(name.kind, name.partition)) {
            parts.retain(|part| part.name != *name);
            if parts.is_empty() {
                self.parts.remove(&(name.kind, name.partition));
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Part>> {
        self.parts.values().flatten()
    }

    /// The partitions of a kind that have parts, in the order of time.
    pub(crate) fn partitions(&self, kind: PartKind) -> impl Iterator<Item = (i64, &[Arc<Part>])> {
        self.parts.range((kind, i64::MIN)..=(kind, i64::MAX)).map(|((_, partition), parts)| (*partition, &parts[..]))
    }

    /// Those that have a time in `[start_s, end_s)`.
    pub(crate) fn partitions_in(
        &self,
        kind: PartKind,
        start_s: i64,
        end_s: i64,
    ) -> impl Iterator<Item = (i64, &[Arc<Part>])> {
        let first = kind.partition_of(start_s);
        let parts = self.parts.range((kind, first)..(kind, end_s.max(first)));
        parts.map(|((_, partition), parts)| (*partition, &parts[..]))
    }

    pub(crate) fn bytes(&self, kind: PartKind) -> u64 {
        self.partitions(kind).flat_map(|(_, parts)| parts).map(|part| part.bytes).sum()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.iter().map(|part| part.memory_bytes()).sum()
    }

    /// Every series with its range of time over all parts.
    pub(crate) fn ranges(&self) -> Result<HashMap<SeriesKey, TimeRange>, StoreError> {
        let mut ranges = HashMap::new();
        for part in self.iter() {
            part.scan(|key, blocks| {
                if let (Some(first), Some(last)) = (blocks.first(), blocks.last()) {
                    ranges.entry(key).or_insert(TimeRange::EMPTY).cover(first.first_s, last.last_s);
                }
            })?;
        }
        Ok(ranges)
    }
}
