//! What is stored: points of series, and the batches that bring them.

/// A series: a counter of a resource. Both numbers are the caller's and opaque here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SeriesKey {
    /// Which counter.
    pub counter: i64,
    /// Of which resource.
    pub address: u64,
}

/// A measured value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    /// When, in seconds since 1970. A series has one point a second: a later write of the same second replaces the value.
    pub time_s: i64,
    /// How much.
    pub value: f64,
}

/// All points of a series that fall into one window of a [`Tier`](crate::Tier), in short.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rollup {
    /// Where the window begins, in seconds since 1970; a multiple of the tier's width.
    pub time_s: i64,
    /// How many points; never 0.
    pub count: u64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The sum of the values, added in the order of time; `sum / count` is the mean.
    pub sum: f64,
    /// The value of the latest point.
    pub last: f64,
}

/// Points of many series that become durable together.
///
/// Runs of points lie one after the other in one vector, so that a batch of 10,000 series with a point each takes two allocations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Each run's series, and where the run ends in `points`.
    runs: Vec<(SeriesKey, u32)>,
    points: Vec<Point>,
}

/// Most points of a batch: 16 MiB of points, which bounds what a frame of the log and its reader take.
pub const BATCH_POINTS_MAX: usize = 1 << 20;

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for so many runs and points.
    pub fn with_capacity(runs: usize, points: usize) -> Self {
        Self { runs: Vec::with_capacity(runs), points: Vec::with_capacity(points) }
    }

    /// Adds points of a series, in any order. Of points with the same time the one added last counts.
    ///
    /// Points beyond 2^32 in one batch are left out; such a batch is refused anyhow ([`BATCH_POINTS_MAX`]).
    pub fn push(&mut self, key: SeriesKey, points: &[Point]) {
        let Ok(end) = u32::try_from(self.points.len() + points.len()) else { return };
        if points.is_empty() {
            return;
        }
        self.points.extend_from_slice(points);
        match self.runs.last_mut() {
            Some((last, last_end)) if *last == key => *last_end = end,
            Some(_) | None => self.runs.push((key, end)),
        }
    }

    /// Adds a point of a series.
    pub fn push_point(&mut self, key: SeriesKey, point: Point) {
        self.push(key, &[point]);
    }

    /// The runs in the order they were added. A series may have several.
    pub fn iter(&self) -> impl Iterator<Item = (SeriesKey, &[Point])> {
        let mut start = 0;
        self.runs.iter().map(move |&(key, end)| {
            let points = &self.points[start..end as usize];
            start = end as usize;
            (key, points)
        })
    }

    /// Number of runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Number of points.
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Removes all points and keeps the room.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.points.clear();
    }

    /// The points whose time `takes`; and the number of the others before and after the times taken, as `takes` says.
    pub(crate) fn filtered(&self, takes: impl Fn(i64) -> std::cmp::Ordering) -> (Batch, Refused) {
        let mut refused = Refused::default();
        for point in &self.points {
            match takes(point.time_s) {
                std::cmp::Ordering::Less => refused.too_old += 1,
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => refused.too_new += 1,
            }
        }
        if refused == Refused::default() {
            return (self.clone(), refused);
        }
        let mut kept = Batch::with_capacity(self.runs.len(), self.points.len());
        for (key, points) in self.iter() {
            for point in points.iter().filter(|point| takes(point.time_s).is_eq()) {
                kept.push_point(key, *point);
            }
        }
        (kept, refused)
    }

    pub(crate) fn all_points(&self) -> &[Point] {
        &self.points
    }

    /// The earliest time.
    pub(crate) fn oldest_s(&self) -> Option<i64> {
        self.points.iter().map(|point| point.time_s).min()
    }
}

/// How many points were left out, and why.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) too_old: usize,
    pub(crate) too_new: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filtered_batch_keeps_its_runs_and_counts_what_it_left_out() {
        let key = |counter| SeriesKey { counter, address: 1 };
        let point = |time_s| Point { time_s, value: time_s as f64 };
        let mut batch = Batch::new();
        batch.push(key(1), &[point(5), point(15)]);
        batch.push(key(2), &[point(25)]);
        batch.push(key(2), &[point(12), point(35)]);
        assert_eq!((batch.runs(), batch.points(), batch.oldest_s()), (2, 5, Some(5)));
        let in_range = |time_s| match time_s {
            ..10 => std::cmp::Ordering::Less,
            10..30 => std::cmp::Ordering::Equal,
            30.. => std::cmp::Ordering::Greater,
        };
        let (kept, refused) = batch.filtered(in_range);
        assert_eq!(refused, Refused { too_old: 1, too_new: 1 });
        let kept: Vec<_> = kept.iter().map(|(key, points)| (key.counter, points.to_vec())).collect();
        assert_eq!(kept, [(1, vec![point(15)]), (2, vec![point(25), point(12)])]);
    }
}
