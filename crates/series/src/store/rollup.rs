//! Points in short.

use crate::codec::Row;
use crate::{Rollup, Tier};

/// Columns of a rollup in a part: count, min, max, sum, last.
pub(crate) const ROLLUP_COLUMNS: usize = 5;

/// Appends the rollups of points, which ascend and make whole windows.
pub(crate) fn roll_up(points: &[Row<1>], tier: Tier, out: &mut Vec<Row<ROLLUP_COLUMNS>>) {
    let window_of = |point: &Row<1>| point.time_s.div_euclid(tier.window_s());
    for window in points.chunk_by(|one, next| window_of(one) == window_of(next)) {
        let values = window.iter().map(|point| point.values[0]);
        let (Some(first), Some(last)) = (values.clone().next(), values.clone().next_back()) else { continue };
        let time_s = window_of(&window[0]) * tier.window_s();
        let min = values.clone().fold(first, f64::min);
        let max = values.clone().fold(first, f64::max);
        out.push(Row { time_s, values: [window.len() as f64, min, max, values.sum(), last] });
    }
}

impl From<Row<ROLLUP_COLUMNS>> for Rollup {
    fn from(row: Row<ROLLUP_COLUMNS>) -> Self {
        let [count, min, max, sum, last] = row.values;
        Self { time_s: row.time_s, count: count as u64, min, max, sum, last }
    }
}
