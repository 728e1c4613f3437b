//! Filters bound to the columns of one type: what is tested, and what it is estimated to cost.

use std::borrow::Cow;
use std::cell::Cell;

use lockstep_model::ResolvedHop;

use crate::bits::Bits;
use crate::column::{Column, any_slot};
use crate::condition::{Predicate, Range, TextTest};
use crate::leaf::Store;
use crate::rows::is_few;
use crate::space::Spaces;
use crate::text_test::Piece;

/// Part of a filter, bound to the columns of one type.
pub(crate) struct Step<'v> {
    pub(crate) what: What<'v>,
    /// About how many rows it holds for.
    pub(crate) estimate: usize,
    /// How many it gave, if it was asked for its rows.
    pub(crate) gave: Cell<Option<usize>>,
    /// How many rows were tested against it one by one.
    pub(crate) tested: Cell<usize>,
}

pub(crate) enum What<'v> {
    Nothing,
    Everything,
    One(u32),
    Property(Box<Bound<'v>>),
    All(Vec<Step<'v>>),
    Any(Vec<Step<'v>>),
}

/// A condition on a property, bound to its column.
pub(crate) struct Bound<'v> {
    pub(crate) predicate: &'v Predicate,
    /// Which of the path's hops this is.
    pub(crate) hop: usize,
    pub(crate) column: Column<'v>,
    pub(crate) test: SlotTest<'v>,
    /// The filter on the far end of a relation, answered, for explaining.
    pub(crate) far: Option<Box<Step<'v>>>,
    pub(crate) how: How,
}

/// Where the rows of a bound condition come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The rows of one code, or of some.
    Postings,
    /// A piece of the sorted index.
    Order,
    /// Texts that hold a piece, then their rows.
    Grams,
    /// Bits that are there.
    Bits,
    /// The whole column is read.
    Scan,
}

/// A test of the value at a slot.
pub(crate) enum SlotTest<'v> {
    Boolean(bool),
    Long(Range<i64>),
    Double(Range<f64>),
    Instant(Range<i128>),
    InstantPiece(&'v Piece),
    Code(u32),
    NotCode(Option<u32>),
    Codes { codes: Vec<u32>, set: Bits },
    Text(&'v TextTest),
    Piece(&'v Piece),
    Far { space: u32, rows: Cow<'v, Bits> },
}

impl<'v> Step<'v> {
    pub(crate) fn new(what: What<'v>, estimate: usize) -> Self {
        Self { what, estimate, gave: Cell::new(None), tested: Cell::new(0) }
    }

    pub(crate) fn nothing() -> Self {
        Self::new(What::Nothing, 0)
    }

    /// Whether the resource at the row, which exists, matches.
    #[inline]
    pub(crate) fn test(&self, row: u32, spaces: &Spaces) -> bool {
        match &self.what {
            What::Nothing => false,
            What::Everything => true,
            What::One(one) => *one == row,
            What::Property(bound) => bound.test(row, spaces),
            What::All(steps) => steps.iter().all(|step| step.test(row, spaces)),
            What::Any(steps) => steps.iter().any(|step| step.test(row, spaces)),
        }
    }

    /// About how long a test takes, in nanoseconds.
    pub(crate) fn test_ns(&self) -> usize {
        match &self.what {
            What::Nothing | What::Everything | What::One(_) => 1,
            What::Property(bound) => bound.test_ns(),
            What::All(steps) | What::Any(steps) => steps.iter().map(Step::test_ns).sum(),
        }
    }

    /// About how long it takes to get all rows, in nanoseconds.
    pub(crate) fn rows_ns(&self, all: usize) -> usize {
        match &self.what {
            What::Nothing | What::Everything | What::One(_) => 1,
            What::Property(bound) => bound.rows_ns(self.estimate, all),
            What::All(steps) => steps.iter().map(|s| s.rows_ns(all)).min().unwrap_or(0) + self.estimate * 4,
            What::Any(steps) => steps.iter().map(|s| s.rows_ns(all)).sum::<usize>() + all / 64,
        }
    }
}

impl Bound<'_> {
    /// The condition as text, from this hop on.
    pub(crate) fn shown(&self) -> String {
        let hops = self.predicate.path.hops[self.hop..].iter().map(hop_text).collect::<Vec<_>>();
        format!("{} {}", hops.join("->"), self.predicate.shown)
    }

    #[inline]
    pub(crate) fn test(&self, row: u32, spaces: &Spaces) -> bool {
        if self.column.is_single() {
            self.test_slot(row, spaces)
        } else {
            any_slot(&self.column.lists, row, &mut |slot| self.test_slot(slot, spaces))
        }
    }

    #[inline]
    fn test_slot(&self, slot: u32, spaces: &Spaces) -> bool {
        let leaf = self.column.leaf;
        match (&self.test, &leaf.store) {
            (SlotTest::Boolean(wanted), Store::Boolean { set, truth }) => {
                set.contains(slot) && truth.contains(slot) == *wanted
            }
            (SlotTest::Long(range), Store::Long { set, numbers }) => {
                set.contains(slot) && range.holds(numbers.get(slot))
            }
            (SlotTest::Double(range), Store::Double { set, numbers }) => {
                set.contains(slot) && numbers.get(slot as usize).is_some_and(|&n| range.holds(n))
            }
            (SlotTest::Instant(range), Store::Instant(instants)) => {
                instants.instant(slot).is_some_and(|i| range.holds(i))
            }
            (SlotTest::InstantPiece(piece), Store::Instant(_)) => match leaf.value(slot, spaces) {
                Some(crate::ValueRef::Str(text)) => piece.matches(text),
                Some(crate::ValueRef::DateTime(text)) => piece.matches(text.as_str()),
                _ => false,
            },
            (SlotTest::Far { space, rows }, Store::Id(ids)) => {
                ids.get(slot).is_some_and(|at| at.space == *space && rows.contains(at.row))
            }
            (test, store) => {
                let Some(code) = leaf.code(slot) else { return false };
                match (test, store) {
                    (SlotTest::Code(wanted), _) => code == *wanted,
                    (SlotTest::NotCode(other), _) => Some(code) != *other,
                    (SlotTest::Codes { set, .. }, _) => set.contains(code),
                    (SlotTest::Text(test), Store::Text { dictionary, .. }) => test.holds(dictionary.text(code)),
                    (SlotTest::Piece(piece), Store::Text { dictionary, .. }) => piece.matches(dictionary.text(code)),
                    _ => false,
                }
            }
        }
    }

    fn test_ns(&self) -> usize {
        let slot = match self.test {
            SlotTest::Boolean(_)
            | SlotTest::Long(_)
            | SlotTest::Double(_)
            | SlotTest::Code(_)
            | SlotTest::NotCode(_) => 2,
            SlotTest::Codes { .. } | SlotTest::Far { .. } => 4,
            SlotTest::Instant(_) => 8,
            // Mostly waiting for memory.
            SlotTest::InstantPiece(_) | SlotTest::Text(_) | SlotTest::Piece(_) => 200,
        };
        slot * (1 + 4 * self.column.lists.len())
    }

    fn rows_ns(&self, estimate: usize, all: usize) -> usize {
        match self.how {
            // A set kept as bits is there already.
            How::Postings if matches!(self.test, SlotTest::Code(_)) && !is_few(estimate, all) => all / 500,
            How::Postings | How::Order => estimate * 2 + 200,
            How::Bits => all / 300,
            // Lists of the rarest groups are read; few candidates are left to compare.
            How::Grams => estimate * 6 + 10_000,
            How::Scan
                if self.column.is_single()
                    && matches!(self.test, SlotTest::Long(_) | SlotTest::Double(_) | SlotTest::NotCode(_)) =>
            {
                all / 2
            }
            How::Scan => all * self.test_ns(),
        }
    }
}

/// A hop as text, without a model: for people.
pub(crate) fn hop_text(hop: &ResolvedHop) -> String {
    let mut text = hop.resource_type.as_str().to_owned();
    hop.names.iter().for_each(|name| {
        text.push('/');
        text.push_str(name);
    });
    text
}
