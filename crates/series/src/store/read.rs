//! Reading.
//!
//! A reader copies the waiting points of its series first and takes the set of parts afterwards. Housekeeping publishes parts first and
//! lets the points they hold go afterwards. So a point is in what the reader has once or twice, and never not at all.

use std::sync::Arc;

use super::Store;
use super::rollup::{ROLLUP_COLUMNS, roll_up};
use crate::codec::{Row, settle};
use crate::part::PartKind;
use crate::parts::PartSet;
use crate::{Point, Rollup, SeriesKey, StoreError, Tier};

/// Times beyond are taken as these, in seconds: nothing is stored there, and sums of them do not overflow.
const TIMES_S: (i64, i64) = (-(1 << 52), 1 << 52);

/// What there is of a series at a moment.
struct View {
    key: SeriesKey,
    parts: Arc<PartSet>,
    /// Settled, from `raw_floor_s` on.
    waiting: Vec<Row<1>>,
}

impl Store {
    /// The points of a series in `[start_s, end_s)`, in the order of time, each time once; the first `limit` of them.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a file is not what was written.
    pub fn read(&self, key: SeriesKey, start_s: i64, end_s: i64, limit: usize) -> Result<Vec<Point>, StoreError> {
        let mut points = Vec::new();
        let (start_s, end_s) = (start_s.clamp(TIMES_S.0, TIMES_S.1), end_s.clamp(TIMES_S.0, TIMES_S.1));
        self.view(key, start_s, end_s).visit(start_s, end_s, |rows| {
            let wanted = rows.iter().take(limit - points.len());
            points.extend(wanted.map(|row| Point::from(*row)));
            points.len() < limit
        })?;
        Ok(points)
    }

    /// The rollups of a series whose windows begin in `[start_s, end_s)`, in the order of time; the first `limit` of them. A window
    /// without points has none; any other has all its points.
    ///
    /// While a window's points are kept, it is made from them at each reading: late points count at once.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a file is not what was written.
    pub fn read_tier(
        &self,
        key: SeriesKey,
        tier: Tier,
        start_s: i64,
        end_s: i64,
        limit: usize,
    ) -> Result<Vec<Rollup>, StoreError> {
        let first_window = |time_s: i64| -> i64 {
            // Rounded up; the bounds leave room for it.
            let time_s = time_s.clamp(TIMES_S.0, TIMES_S.1);
            (time_s + tier.window_s() - 1).div_euclid(tier.window_s()) * tier.window_s()
        };
        let (start_s, end_s) = (first_window(start_s), first_window(end_s));
        let view = self.view(key, start_s, end_s);
        let floor_s = view.parts.raw_floor_s;
        let mut rollups: Vec<Row<ROLLUP_COLUMNS>> = Vec::new();
        let kind = PartKind::Rollups(tier);
        for (_, parts) in view.parts.partitions_in(kind, start_s, end_s.min(floor_s)) {
            let before = rollups.len();
            for part in parts {
                part.read_series(key, start_s, end_s, &mut rollups)?;
            }
            // Each window was rolled up once, so only their order may be wrong.
            rollups[before..].sort_by_key(|row| row.time_s);
            if rollups.len() >= limit {
                break;
            }
        }
        if rollups.len() < limit {
            view.visit(start_s, end_s, |rows| {
                roll_up(rows, tier, &mut rollups);
                rollups.len() < limit
            })?;
        }
        Ok(rollups.into_iter().take(limit).map(Rollup::from).collect())
    }

    /// The latest point of a series; `None` when the series is unknown or its points are older than retention.
    ///
    /// # Errors
    /// As [`Store::read`]; the value is looked up in a part when it was not written since the store was opened.
    pub fn latest(&self, key: SeriesKey) -> Result<Option<Point>, StoreError> {
        let Some(known) = self.catalog.read().latest(key) else { return Ok(None) };
        if known.time_s < self.parts.read().raw_floor_s {
            return Ok(None);
        }
        if !known.value.is_nan() {
            return Ok(Some(known));
        }
        Ok(self.read(key, known.time_s, known.time_s + 1, 1)?.pop())
    }

    fn view(&self, key: SeriesKey, start_s: i64, end_s: i64) -> View {
        let mut waiting = Vec::new();
        self.catalog.read().waiting(key, start_s, end_s, &mut waiting);
        let parts = self.parts.read().clone();
        // Points that were sealed and rolled up since they were copied.
        waiting.retain(|row| row.time_s >= parts.raw_floor_s);
        settle(&mut waiting);
        View { key, parts, waiting }
    }
}

impl View {
    /// Calls with the points in `[start_s, end_s)` in the order of time, whole partitions at a time, until told to stop.
    fn visit(&self, start_s: i64, end_s: i64, mut each: impl FnMut(&[Row<1>]) -> bool) -> Result<(), StoreError> {
        let start_s = start_s.max(self.parts.raw_floor_s);
        let mut waiting = &self.waiting[..];
        let mut rows = Vec::new();
        for (partition, parts) in self.parts.partitions_in(PartKind::Raw, start_s, end_s) {
            // Those of partitions without parts come along: they are older.
            let partition_end = partition + PartKind::Raw.partition_s();
            let (now, later) = waiting.split_at(waiting.partition_point(|row| row.time_s < partition_end));
            waiting = later;
            rows.clear();
            for part in parts {
                part.read_series(self.key, start_s, end_s, &mut rows)?;
            }
            rows.extend_from_slice(now);
            settle(&mut rows);
            if !rows.is_empty() && !each(&rows) {
                return Ok(());
            }
        }
        if !waiting.is_empty() {
            each(waiting);
        }
        Ok(())
    }
}
