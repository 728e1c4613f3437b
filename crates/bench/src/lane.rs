//! One of the engines that run side by side, and what is measured of it.

use std::time::{Duration, Instant};

use crate::expected::Expected;
use crate::latency::Latencies;
use crate::workload::{Form, Query};

/// How many varied forms a value pool of the generator holds: forms are numbered below it.
const POOL_ENTRIES: usize = 1000;

/// An engine that answers queries.
pub trait Lane {
    /// How the engine is named in tables and errors.
    fn name(&self) -> &str;

    /// Answers one form. The time is taken inside, so that checking an answer is not counted.
    fn answer(&mut self, query: &Query, form: &Form) -> anyhow::Result<Answer>;
}

/// One answer, and how long it took.
#[derive(Clone, Copy)]
pub struct Answer {
    pub time: Duration,
    /// Rows on the page.
    pub items: usize,
    /// All matches, when the query asks for them.
    pub total: Option<u64>,
    /// Size of the answer's body.
    pub bytes: usize,
}

/// Everything measured of one lane and one query.
#[derive(Default)]
pub struct Measured {
    pub times: Latencies,
    items: usize,
    sizes: Vec<usize>,
    /// Sum of the times.
    pub busy: Duration,
}

/// How much to measure.
#[derive(clap::Args, Clone)]
pub struct Effort {
    /// Timed requests of each query, each in another form.
    #[arg(long, default_value_t = 300)]
    pub requests: usize,
    /// Untimed requests of each query before, in forms that are not timed.
    #[arg(long, default_value_t = 20)]
    pub warm_up: usize,
    /// Stop timing a query after this many seconds; at least 10 requests are timed in any case.
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
}

impl Effort {
    /// Numbers of the timed forms.
    pub fn timed(&self) -> std::ops::Range<usize> {
        0..self.requests
    }

    /// Numbers of the forms of the warm-up: behind the timed ones in the pools.
    pub fn warming(&self) -> std::ops::Range<usize> {
        let begin = self.requests.min(POOL_ENTRIES.saturating_sub(self.warm_up));
        begin..begin + self.warm_up
    }

    /// Whether a lane has had its share of one query.
    pub fn is_spent(&self, measured: &Measured) -> bool {
        measured.times.len() >= 10 && measured.busy.as_secs_f64() > self.seconds
    }
}

impl Measured {
    /// Runs `forms`, timed, until `effort` is spent. Every answer is checked.
    pub fn run(
        &mut self,
        lane: &mut dyn Lane,
        query: &Query,
        forms: &[Form],
        effort: &Effort,
        expected: &mut Expected,
    ) -> anyhow::Result<()> {
        for form in forms {
            if effort.is_spent(self) {
                break;
            }
            let answer = lane.answer(query, form)?;
            expected.check(lane.name(), query, form, &answer)?;
            self.record(&answer);
        }
        Ok(())
    }

    /// Adds one answer.
    pub fn record(&mut self, answer: &Answer) {
        self.times.push(answer.time);
        self.busy += answer.time;
        self.items += answer.items;
        self.sizes.push(answer.bytes);
    }

    /// Mean number of rows of an answer.
    pub fn mean_items(&self) -> f64 {
        self.items as f64 / self.times.len().max(1) as f64
    }

    /// The median size of an answer's body.
    pub fn median_bytes(&self) -> usize {
        let mut sizes = self.sizes.clone();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).copied().unwrap_or(0)
    }
}

/// Untimed requests, so that caches, plans and branch predictors are warm.
pub fn warm_up(lane: &mut dyn Lane, query: &Query, forms: &[Form], effort: &Effort) -> anyhow::Result<()> {
    let begin = Instant::now();
    for form in forms {
        lane.answer(query, form)?;
        if begin.elapsed().as_secs_f64() > effort.seconds / 4.0 {
            break;
        }
    }
    Ok(())
}
