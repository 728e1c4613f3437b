//! Sparklines: a series as a line of blocks, time from left to right.
//!
//! The series of a table share an [`Axis`], so that what happened at one time stands in one column. A slot of the axis shows the
//! mean of its points; one without points shows the point before while the next one is not due yet by the series' own step, and is
//! blank otherwise: a gap. Heights go from the least to the greatest of the line itself.

/// From low to high.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A time line cut into slots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    start_s: i64,
    slot_s: f64,
    slots: usize,
}

impl Axis {
    /// The axis that holds all these times, each ascending, in at most `slots_max` slots. None without any time.
    pub(crate) fn new<'t>(times: impl IntoIterator<Item = &'t [i64]>, slots_max: usize) -> Option<Self> {
        let (mut start_s, mut end_s, mut step_s) = (i64::MAX, i64::MIN, f64::INFINITY);
        for times in times {
            let (Some(first), Some(last)) = (times.first(), times.last()) else { continue };
            start_s = start_s.min(*first);
            end_s = end_s.max(*last);
            step_s = step(times).map_or(step_s, |step| step.min(step_s));
        }
        let length_s = end_s.checked_sub(start_s).filter(|length| *length >= 0)? as f64;
        if step_s.is_infinite() {
            step_s = length_s.max(1.0);
        }
        let natural = (length_s / step_s).floor() + 1.0;
        let slots = natural.min(slots_max.max(1) as f64) as usize;
        Some(Self { start_s, slot_s: (length_s + step_s) / slots as f64, slots })
    }

    fn slot(&self, time_s: i64) -> usize {
        let at = time_s.saturating_sub(self.start_s).max(0) as f64 / self.slot_s;
        (at as usize).min(self.slots - 1)
    }

    /// The series as a line, a character a slot.
    pub(crate) fn line(&self, times: &[i64], values: &[f64]) -> String {
        let mut sums = vec![(0.0, 0u32); self.slots];
        let points = || times.iter().copied().zip(values.iter().copied()).filter(|(_, value)| value.is_finite());
        for (time, value) in points() {
            if let Some((sum, count)) = sums.get_mut(self.slot(time)) {
                // Halved, so that no sum of two great values is infinite; the heights are relative.
                *sum += value / 2.0;
                *count += 1;
            }
        }
        let step_s = step(times).unwrap_or(0.0);
        let mut before = points().peekable();
        let mut last = None;
        let heights: Vec<Option<f64>> = sums
            .into_iter()
            .enumerate()
            .map(|(slot, (sum, count))| {
                let start_s = self.start_s as f64 + slot as f64 * self.slot_s;
                while let Some(point) = before.next_if(|(time, _)| self.slot(*time) <= slot) {
                    last = Some(point);
                }
                if count > 0 {
                    return Some(sum / f64::from(count)).filter(|mean| mean.is_finite());
                }
                last.filter(|(time, _)| start_s - (*time as f64) < step_s).map(|(_, value)| value / 2.0)
            })
            .collect();
        draw(&heights)
    }
}

/// The values as a line, a character each, blank where there is none.
pub(crate) fn draw(heights: &[Option<f64>]) -> String {
    let heights: Vec<Option<f64>> = heights.iter().map(|h| h.filter(|h| h.is_finite())).collect();
    let low = heights.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let high = heights.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let top = BLOCKS.len() - 1;
    let block = |height: f64| {
        let level = match high / 2.0 - low / 2.0 {
            range if range > 0.0 => ((height / 2.0 - low / 2.0) / range * top as f64).round() as usize,
            // Nothing changes: the floor for nothing at all, else the middle.
            _ if height == 0.0 => 0,
            _ => top / 2,
        };
        BLOCKS[level.min(top)]
    };
    heights.into_iter().map(|height| height.map_or(' ', block)).collect()
}

/// The usual time between two points, in seconds: the median.
fn step(times: &[i64]) -> Option<f64> {
    let mut steps: Vec<i64> =
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).filter(|step| *step > 0).collect();
    let middle = steps.len() / 2;
    (!steps.is_empty()).then(|| *steps.select_nth_unstable(middle).1 as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(times: &[i64], values: &[f64], width: usize, expected: &str) {
        let axis = Axis::new([times], width).unwrap();
        assert_eq!(axis.line(times, values), expected);
    }

    fn every_10_s(count: usize) -> Vec<i64> {
        (0..count as i64).map(|i| 1000 + i * 10).collect()
    }

    #[test]
    fn the_least_is_low_and_the_greatest_high() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        check(&every_10_s(8), &values, 80, "▁▂▃▄▅▆▇█");
        check(&every_10_s(8), &values.map(|v| v - 100.0), 80, "▁▂▃▄▅▆▇█");
    }

    #[test]
    fn a_constant_series_is_level() {
        check(&every_10_s(4), &[5.0; 4], 80, "▄▄▄▄");
        check(&every_10_s(4), &[0.0; 4], 80, "▁▁▁▁");
        check(&[1000], &[5.0], 80, "▄");
    }

    #[test]
    fn a_gap_is_blank() {
        check(&[0, 10, 20, 60, 70], &[1.0, 1.0, 2.0, 2.0, 1.0], 80, "▁▁█   █▁");
        // A point that comes early or late leaves none.
        check(&[0, 10, 24, 30, 40], &[1.0; 5], 80, "▄▄▄▄▄");
        check(&[0, 10, 19, 30, 40], &[1.0; 5], 80, "▄▄▄▄▄");
    }

    #[test]
    fn more_points_than_slots_are_means() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i / 25)).collect();
        check(&every_10_s(100), &values, 4, "▁▃▆█");
        check(&every_10_s(100), &values, 0, "▄");
    }

    #[test]
    fn what_is_no_number_is_a_gap() {
        check(&every_10_s(4), &[1.0, f64::NAN, f64::INFINITY, 2.0], 80, "▁  █");
        check(&every_10_s(3), &[f64::NAN; 3], 80, "   ");
        check(&every_10_s(3), &[f64::MIN, 0.0, f64::MAX], 80, "▁▅█");
        assert_eq!(draw(&[None, Some(f64::NAN), Some(1.0)]), "  ▄");
    }

    #[test]
    fn series_of_a_table_stand_below_each_other() {
        let (fine, coarse, late): (Vec<i64>, [i64; 2], [i64; 1]) = (every_10_s(8), [1000, 1040], [1070]);
        let axis = Axis::new([&*fine, &coarse, &late, &[]], 80).unwrap();
        assert_eq!(axis.line(&fine, &[1.0; 8]), "▄▄▄▄▄▄▄▄");
        assert_eq!(axis.line(&coarse, &[1.0, 2.0]), "▁▁▁▁████");
        assert_eq!(axis.line(&late, &[1.0]), "       ▄");
        assert_eq!(axis.line(&[], &[]), "        ");
        assert_eq!(Axis::new([&[][..]], 80), None);
    }

    #[test]
    fn extreme_times_do_no_harm() {
        let times = [i64::MIN, i64::MAX];
        assert_eq!(Axis::new([&times[..]], 80), None);
        check(&[0, i64::MAX], &[1.0, 2.0], 10, "▁█");
    }
}
