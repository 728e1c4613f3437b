//! How a query is answered, as a tree for people and programs.

use serde::Serialize;

use crate::answer::Cost;
use crate::eval::Tally;
use crate::query::Query;
use crate::step::{How, Step, What};
use crate::view::View;

/// How a query was answered.
#[derive(Debug, Clone, Serialize)]
pub struct Explain {
    /// For each type that can match, how the filter was evaluated.
    pub types: Vec<ExplainType>,
    /// The sort criteria, with their directions; empty when the order is by type and id.
    pub order: Vec<String>,
    /// Items of the page.
    pub items: usize,
    /// What it took in all.
    pub cost: Cost,
}

/// How the filter was evaluated for one type.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainType {
    /// The type.
    pub resource_type: String,
    /// Its resources.
    pub resources: usize,
    /// The filter.
    pub filter: ExplainFilter,
}

/// One part of a filter.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainFilter {
    /// `all`, `any`, or the condition as text.
    pub what: String,
    /// Where its rows come from if they are asked for: `postings`, `order`, `grams` (sorted and text indexes), `bits`, `scan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'static str>,
    /// About how many rows it was expected to hold for.
    pub estimate: usize,
    /// How many rows it gave; unset when it was not asked for its rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// How many rows, found by other parts, were tested against it one by one.
    #[serde(skip_serializing_if = "is_zero")]
    pub tested: usize,
    /// Its parts; of a condition on a related resource, the condition there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<ExplainFilter>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Query {
    /// Answers the query, and says how.
    pub fn explain(&self, view: &View) -> Explain {
        let tally = Tally::default();
        let mut types = Vec::new();
        let answer = view.answer(self, &tally, &mut |space, step| {
            let space = view.spaces.get(space);
            types.push(ExplainType {
                resource_type: space.name.to_string(),
                resources: space.live_count,
                filter: explain(step),
            });
        });
        let order = self
            .sort
            .iter()
            .map(|key| format!("{} {}", key.path.text, if key.descending { "descending" } else { "ascending" }));
        Explain { order: order.collect(), items: answer.len(), cost: answer.cost().clone(), types }
    }
}

fn explain(step: &Step<'_>) -> ExplainFilter {
    let (what, by, parts): (String, Option<&'static str>, Vec<&Step<'_>>) = match &step.what {
        What::Nothing => ("nothing".to_owned(), None, Vec::new()),
        What::Everything => ("every resource of the type".to_owned(), None, Vec::new()),
        What::One(_) => ("one resource by its id".to_owned(), None, Vec::new()),
        What::Property(bound) => {
            let by = match bound.how {
                How::Postings => "postings",
                How::Order => "order",
                How::Grams => "grams",
                How::Bits => "bits",
                How::Scan => "scan",
            };
            (bound.shown(), Some(by), bound.far.iter().map(|far| &**far).collect())
        }
        What::All(steps) => ("all".to_owned(), None, steps.iter().collect()),
        What::Any(steps) => ("any".to_owned(), None, steps.iter().collect()),
    };
    ExplainFilter {
        what,
        by,
        estimate: step.estimate,
        rows: step.gave.get(),
        tested: step.tested.get(),
        parts: parts.into_iter().map(explain).collect(),
    }
}
