//! How a counter's value comes from readings.

use lockstep_contract::counters::{Counter, counter};

use super::needs::Needs;

/// A counter with the sources that it is read from, and the function that makes its value of them.
///
/// The function answers none where there is nothing to tell: at the first reading of a rate, for a count that began anew.
#[derive(Clone, Copy)]
pub(crate) struct Measure<F> {
    pub(crate) cid: &'static str,
    /// Without these there is no value.
    pub(crate) needs: Needs,
    /// With these there may be a better one.
    wants: Needs,
    pub(crate) value: F,
}

impl<F: Copy> Measure<F> {
    pub(crate) const fn new(cid: &'static str, needs: Needs, value: F) -> Self {
        Self { cid, needs, wants: Needs::NONE, value }
    }

    pub(crate) const fn wanting(self, wants: Needs) -> Self {
        Self { cid: self.cid, needs: self.needs, wants, value: self.value }
    }

    /// The counter in the catalogue.
    pub(crate) fn counter(&self) -> Option<&'static Counter> {
        counter(self.cid)
    }

    /// All that is read for it.
    pub(crate) fn reads(&self) -> Needs {
        self.needs | self.wants
    }
}

/// A part of a whole in percent, within what percentages can be.
pub(crate) fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole * 100.0).clamp(0.0, 100.0))
}
