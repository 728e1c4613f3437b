//! The catalog: every series in memory, with its range of time and the points that are in no part yet.
//!
//! Points wait in two stages. *Live* ones come from appends. Housekeeping *freezes* them all at once, writes the frozen ones into
//! parts while new live ones come, and lets them go when the parts are published. Within a series points lie in the order in which
//! they were written: late and repeated ones are put right by who reads or seals, not on the write path.

use hashbrown::HashMap;

use crate::codec::Row;
use crate::{Batch, Point, SeriesKey};

/// When a series has its first and its last point, or a rollup's window that is all that is left of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeRange {
    /// The earliest time, in seconds since 1970.
    pub first_s: i64,
    /// The latest, inclusive.
    pub last_s: i64,
}

impl TimeRange {
    pub(crate) const EMPTY: TimeRange = TimeRange { first_s: i64::MAX, last_s: i64::MIN };

    pub(crate) fn cover(&mut self, first_s: i64, last_s: i64) {
        self.first_s = self.first_s.min(first_s);
        self.last_s = self.last_s.max(last_s);
    }
}

/// All series.
pub(crate) struct Catalog {
    series: HashMap<SeriesKey, Entry>,
    /// Points that wait, and what their vectors take.
    pub(crate) head_points: usize,
    pub(crate) head_bytes: usize,
    /// The earliest live point; `i64::MAX` when there is none.
    pub(crate) live_first_s: i64,
    pub(crate) has_frozen: bool,
}

/// A series; 90 bytes, and about 120 with its share of the table's room, when nothing waits.
struct Entry {
    range: TimeRange,
    /// The value at `range.last_s`; not a number when it must be looked up in a part.
    last_value: f64,
    live: Vec<Point>,
    frozen: Vec<Point>,
}

impl Entry {
    fn new() -> Self {
        Self { range: TimeRange::EMPTY, last_value: f64::NAN, live: Vec::new(), frozen: Vec::new() }
    }

    fn waiting(&self) -> impl Iterator<Item = &Point> {
        self.frozen.iter().chain(&self.live)
    }
}

impl Catalog {
    pub(crate) fn new() -> Self {
        Self { series: HashMap::new(), head_points: 0, head_bytes: 0, live_first_s: i64::MAX, has_frozen: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.series.allocation_size() + self.head_bytes
    }

    /// Takes the points of a batch from `floor_s` on.
    pub(crate) fn apply(&mut self, batch: &Batch, floor_s: i64) {
        for (key, points) in batch.iter() {
            let entry = self.series.entry(key).or_insert_with(Entry::new);
            let before = entry.live.capacity();
            for point in points.iter().filter(|point| point.time_s >= floor_s) {
                entry.live.push(*point);
                entry.range.first_s = entry.range.first_s.min(point.time_s);
                if point.time_s >= entry.range.last_s {
                    entry.range.last_s = point.time_s;
                    entry.last_value = point.value;
                }
                self.live_first_s = self.live_first_s.min(point.time_s);
                self.head_points += 1;
            }
            self.head_bytes += (entry.live.capacity() - before) * size_of::<Point>();
        }
    }

    /// Makes a part's range known.
    pub(crate) fn cover(&mut self, key: SeriesKey, range: TimeRange) {
        let known = &mut self.series.entry(key).or_insert_with(Entry::new);
        if range.last_s > known.range.last_s {
            known.last_value = f64::NAN;
        }
        known.range.cover(range.first_s, range.last_s);
    }

    /// Sets all ranges to what parts have, given here, and what waits; removes series that have neither.
    pub(crate) fn set_ranges(&mut self, parts: &HashMap<SeriesKey, TimeRange>) {
        self.series.retain(|key, entry| {
            let mut range = parts.get(key).copied().unwrap_or(TimeRange::EMPTY);
            entry.waiting().for_each(|point| range.cover(point.time_s, point.time_s));
            if range.last_s != entry.range.last_s {
                entry.last_value = f64::NAN;
            }
            entry.range = range;
            range != TimeRange::EMPTY
        });
        self.series.shrink_to_fit();
    }

    pub(crate) fn range(&self, key: SeriesKey) -> Option<TimeRange> {
        self.series.get(&key).map(|entry| entry.range)
    }

    /// The time of the last point and, if it is known, its value.
    pub(crate) fn latest(&self, key: SeriesKey) -> Option<Point> {
        self.series.get(&key).map(|entry| Point { time_s: entry.range.last_s, value: entry.last_value })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SeriesKey, TimeRange)> {
        self.series.iter().map(|(key, entry)| (*key, entry.range))
    }

    /// Appends the waiting points of a series in `[start_s, end_s)`, in the order they were written.
    pub(crate) fn waiting(&self, key: SeriesKey, start_s: i64, end_s: i64, out: &mut Vec<Row<1>>) {
        if let Some(entry) = self.series.get(&key) {
            let wanted = entry.waiting().filter(|point| (start_s..end_s).contains(&point.time_s));
            out.extend(wanted.map(|point| Row::from(*point)));
        }
    }

    /// Freezes all live points. There must be no frozen ones.
    pub(crate) fn freeze(&mut self) {
        debug_assert!(!self.has_frozen);
        for entry in self.series.values_mut() {
            entry.frozen = std::mem::take(&mut entry.live);
        }
        self.has_frozen = true;
        self.live_first_s = i64::MAX;
    }

    /// The series that have frozen points, in order.
    pub(crate) fn frozen_keys(&self) -> Vec<SeriesKey> {
        let frozen = self.series.iter().filter(|(_, entry)| !entry.frozen.is_empty());
        let mut keys: Vec<SeriesKey> = frozen.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Appends the frozen points of a series in the order they were written.
    pub(crate) fn frozen(&self, key: SeriesKey, out: &mut Vec<Row<1>>) {
        if let Some(entry) = self.series.get(&key) {
            out.extend(entry.frozen.iter().map(|point| Row::from(*point)));
        }
    }

    /// Lets the frozen points go.
    pub(crate) fn thaw(&mut self) {
        for entry in self.series.values_mut() {
            self.head_points -= entry.frozen.len();
            self.head_bytes -= entry.frozen.capacity() * size_of::<Point>();
            entry.frozen = Vec::new();
        }
        self.has_frozen = false;
    }
}
