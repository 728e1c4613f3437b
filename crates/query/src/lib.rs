//! Lockstep query.

mod answer;
mod arrange;
mod bits;
mod column;
mod condition;
mod dictionary;
mod eval;
mod explain;
mod fold;
mod grams;
mod instants;
mod json;
mod leaf;
mod matching;
mod memory;
mod node;
mod numbers;
mod order;
mod postings;
mod query;
mod rows;
mod space;
mod spec;
mod text;
mod text_test;
mod value;
mod view;

pub use answer::{Answer, Cost, Item};
pub use explain::{Explain, ExplainFilter, ExplainType};
pub use instants::DateTimeText;
pub use matching::{Rewound, Source};
pub use memory::{MemoryReport, TypeMemory};
pub use query::{Filter, Query};
pub use spec::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, QuerySpec, SortDirection, SortSpec,
    SpecError,
};
pub use text::{TextError, parse_text};
pub use value::{ListRef, StructRef, ValueRef};
pub use view::{Stored, View};
