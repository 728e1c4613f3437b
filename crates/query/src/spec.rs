//! Query specs: what a client asks, before it is checked against the models.
//!
//! The types mirror the wire's structures one to one, without its encodings: a union is an enum, an unset list is empty.
//!
//! Source: seed 003; `api/cis-data-and-cdc.md`, A2.

use lockstep_model::ResourceId;
use serde::Serialize;

/// A query.
#[derive(Debug, Clone, PartialEq)]
pub struct QuerySpec {
    /// Which resources.
    pub resource_filter: FilterSpec,
    /// The property and relation paths to return.
    pub property_spec: Vec<String>,
    /// The order; the first criterion weighs most. Empty: by type and id.
    pub sort_criteria: Vec<SortSpec>,
    /// How many matches to leave out at the beginning.
    pub offset: i64,
    /// The most items to return; `None` for the service's limit.
    pub limit: Option<i64>,
    /// Whether to count all matches.
    pub compute_total_item_count: bool,
}

/// Which resources a query, or a feed, is about.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterSpec {
    /// Resources of that type.
    Type(String),
    /// That resource or nothing.
    Id(ResourceId),
    /// Resources whose property fits.
    Property(PropertyFilter),
    /// Resources that several filters agree on.
    Composite {
        /// How the filters are joined.
        operator: CompositeOperator,
        /// At least one.
        filters: Vec<FilterSpec>,
    },
}

/// A condition on a property of the resource or of a related one.
#[derive(Debug, Clone, PartialEq)]
pub struct PropertyFilter {
    /// The property or relation path.
    pub property: String,
    /// How to compare.
    pub operator: Operator,
    /// With what.
    pub comparable: Comparable,
}

/// How a property is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Operator {
    /// The same value.
    Equal,
    /// A set value that is another one.
    NotEqual,
    /// Greater.
    Greater,
    /// Greater or the same.
    GreaterOrEqual,
    /// Less.
    Less,
    /// Less or the same.
    LessOrEqual,
    /// Begins with, whatever the case.
    StartsWith,
    /// Ends with, whatever the case.
    EndsWith,
    /// Holds, whatever the case.
    Contains,
}

impl Operator {
    /// The operator's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "EQUAL",
            Self::NotEqual => "NOT_EQUAL",
            Self::Greater => "GREATER",
            Self::GreaterOrEqual => "GREATER_OR_EQUAL",
            Self::Less => "LESS",
            Self::LessOrEqual => "LESS_OR_EQUAL",
            Self::StartsWith => "STARTS_WITH",
            Self::EndsWith => "ENDS_WITH",
            Self::Contains => "CONTAINS",
        }
    }
}

/// What a property is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Comparable {
    /// A whole number.
    Long(i64),
    /// A number; one that is not finite is refused.
    Double(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// Text.
    String(String),
    /// The identity of a resource.
    Id(ResourceId),
}

impl Comparable {
    /// The wire's name of the case, and of the member that holds it.
    pub fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Long(_) => ("LONG", "comparable_long"),
            Self::Double(_) => ("DOUBLE", "comparable_double"),
            Self::Boolean(_) => ("BOOLEAN", "comparable_boolean"),
            Self::String(_) => ("STRING", "comparable_string"),
            Self::Id(_) => ("ID", "comparable_id"),
        }
    }
}

/// How several filters are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompositeOperator {
    /// Resources that match all of them.
    Intersect,
    /// Resources that match any of them.
    Union,
}

/// One criterion of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortSpec {
    /// The property or relation path whose value decides.
    pub property: String,
    /// Which way.
    pub direction: SortDirection,
}

/// Which way to sort. Unset values come last either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortDirection {
    /// The least first.
    #[default]
    Ascending,
    /// The greatest first.
    Descending,
}

/// What a query may ask at most; more is refused, never cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The greatest `limit`, and the one that holds when a query has none.
    pub page_items: u32,
    /// How deep filters may nest.
    pub filter_depth: usize,
    /// How many filters a query may have, composites included.
    pub filters: usize,
    /// How many paths `property_spec` may have.
    pub paths: usize,
    /// How many criteria an order may have.
    pub sort_keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { page_items: 1000, filter_depth: 32, filters: 1000, paths: 200, sort_keys: 16 }
    }
}

/// Why a query was refused. Nothing was read then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SpecError {
    /// The member at fault, e.g. `query_spec.resource_filter.composite_filter.filters[1].property_filter.property`.
    pub path: String,
    /// The message's stable id, e.g. `lockstep.query.limit`.
    pub id: &'static str,
    /// The message in English.
    pub message: String,
    /// What the message speaks of, in the order of the text; begins with `path` unless the id says which member it is.
    pub args: Vec<String>,
}

impl SpecError {
    pub(crate) fn new(path: &str, id: &'static str, message: impl Into<String>, args: &[&str]) -> Self {
        let args = std::iter::once(path).chain(args.iter().copied()).map(str::to_owned).collect();
        Self { path: path.to_owned(), id, message: message.into(), args }
    }
}
