//! The query engine: the state of a site in memory, and everything that is asked of it.
//!
//! A [`View`] is the state at one position of the journal. It is built from the journal's state ([`View::load`]) and goes
//! forward commit by commit ([`View::apply`]). A [`QuerySpec`], from the wire or from text ([`parse_text`]), is checked
//! against the models once ([`Query::compile`]) and then answered from the view ([`View::query`]). A [`Filter`] can also be
//! asked about single resources before and after a commit, which is what a filtered feed needs.
//!
//! # Promises
//! - An answer is of one position. A commit is applied whole under `&mut`; readers share `&`.
//! - Every property can be filtered and sorted by, with no index to declare. Totals are exact.
//! - What was stored comes back as it was stored: numbers, the text of date_times, references to what does not exist.
//! - A query that compiles is answered; nothing about its data can make it fail. A secret property is in no answer.
//!
//! # Columns
//! Each resource type has a table. A resource is a *row*, a number that is free again when the resource is gone. A
//! property is a *column*, stored at the slot of the row: truth values as bits, whole numbers in as few bytes as the
//! greatest of the column needs, date_times as numbers of the coarsest unit that holds them, text as the number of an
//! entry in the column's dictionary. A reference is the row number of its target; a target that does not exist has a row
//! too, without being there. The elements of a list have slots of their own, and a structure is the columns of its fields,
//! so lists of structures with lists in them are columns like all others.
//!
//! # Indexes
//! Three kinds, each built by the first query that needs it and kept up to date by every commit from then on:
//!
//! | index | from | to | for |
//! |---|---|---|---|
//! | postings | code of a text or reference | rows: one, a list, or bits | equality, relations backwards |
//! | order | place | row, sorted by value and id, in blocks | ranges, beginnings, sorting, deep pages |
//! | grams | three bytes of folded text | codes of the texts that hold them | beginnings, endings, pieces |
//!
//! A commit that changes a large part of a type's resources drops the type's indexes instead: building them again is then
//! quicker than keeping them. Building happens under `&View`: whoever asks first waits, and so does the next commit.
//!
//! # From a query to a page
//! 1. The filter is bound to the columns of each type it can match, and every part estimates how many rows it holds for.
//!    A condition on a related resource is answered on the far end first.
//! 2. The smallest part of a conjunction gives its rows; each other one gives its own to intersect, or is tested row by
//!    row, by the estimated time of both. Sets of rows are lists while they are small, bits when they are large.
//! 3. The page is found by selecting among the matches when they are few, and by walking through a sorted index when they
//!    are many. In the index, counts of matches per block lead to deep pages; they are remembered, and corrected by what
//!    changed since when the same filter comes again.
//! 4. Values are read from the columns while the answer is written, without copies in between.
//!
//! # Deliberately absent
//! No I/O. No lock around the view: its owner has one. No statistics kept beside the indexes. No cache of answers: what is
//! remembered, counts of matches per block, is checked against the state before it is used.

mod answer;
mod arrange;
mod bind;
mod bits;
#[cfg(test)]
mod checks;
mod column;
mod condition;
mod dictionary;
mod eval;
mod explain;
mod fold;
mod grams;
mod ids;
mod instants;
mod json;
mod key;
mod leaf;
mod matching;
mod memory;
mod node;
mod numbers;
#[cfg(test)]
mod oracle;
mod order;
mod policy;
mod postings;
mod promote;
mod query;
mod resource;
mod rows;
mod shorthand;
mod space;
mod spec;
mod step;
mod text;
mod text_test;
mod value;
mod view;
mod walk;
mod warm;

pub use answer::{Answer, Cost, Item};
pub use explain::{Explain, ExplainFilter, ExplainType};
pub use instants::DateTimeText;
pub use matching::{Rewound, Source};
pub use memory::{MemoryReport, TypeMemory};
pub use query::{Filter, Query};
pub use resource::ResourceRef;
pub use spec::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, QuerySpec, SortDirection, SortSpec,
    SpecError,
};
pub use text::{TextError, parse_text};
pub use value::{ListRef, StructRef, ValueRef};
pub use view::{Stored, View};
