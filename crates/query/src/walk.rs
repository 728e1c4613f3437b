//! Going through a sorted index: matches, counts of them, and runs of equal values.

use std::borrow::Cow;
use std::sync::Arc;

use crate::bits::Bits;
use crate::key::Page;
use crate::leaf::Leaf;
use crate::order::{Counted, Order, Place};
use crate::policy::size;
use crate::space::{Row, Spaces};

/// Up to this many rows are skipped one by one; beyond, by counts of blocks.
pub(crate) const SKIP_FEW: usize = size(1000, 2);

/// Matches on their way through an index.
pub(crate) struct Walk<'a> {
    pub(crate) space: u32,
    /// `None`: every row of the index.
    pub(crate) set: Option<Cow<'a, Bits>>,
    pub(crate) order: &'a Order,
}

impl Walk<'_> {
    #[inline]
    pub(crate) fn is_match(&self, row: u32) -> bool {
        self.set.as_ref().is_none_or(|set| set.contains(row))
    }
}

/// How many of the rows of an index are in a set, or that all are.
pub(crate) enum Counts {
    Every,
    Some(Arc<Counted>),
}

impl Counts {
    pub(crate) fn total(&self, order: &Order) -> usize {
        match self {
            Self::Every => order.len(),
            Self::Some(counted) => order.matches(counted),
        }
    }

    pub(crate) fn before(&self, order: &Order, place: Place) -> usize {
        match self {
            Self::Every => order.rank(place),
            Self::Some(counted) => order.matches_before(counted, place),
        }
    }

    pub(crate) fn select(&self, order: &Order, rank: usize) -> Place {
        match self {
            Self::Every => order.select(rank),
            Self::Some(counted) => order.select_match(counted, rank),
        }
    }
}

/// Matches in an index, by runs of equal values.
pub(crate) struct Runs<'a> {
    pub(crate) leaf: &'a Leaf,
    pub(crate) spaces: &'a Spaces,
    pub(crate) walk: &'a Walk<'a>,
    pub(crate) descending: bool,
}

impl Runs<'_> {
    /// The place before the run that a row is in.
    pub(crate) fn first_of(&self, row: u32) -> Place {
        self.walk.order.place(|other| self.leaf.compare(other, row, self.spaces).is_lt())
    }

    /// The place behind it.
    pub(crate) fn last_of(&self, row: u32) -> Place {
        self.walk.order.place(|other| self.leaf.compare(other, row, self.spaces).is_le())
    }

    /// Where to walk from: the beginning of the run that the first wanted match is in; all runs before it are skipped.
    /// `None` when the page begins behind all matches.
    pub(crate) fn begin(&self, counts: Option<&Counts>, page: &mut Page) -> Option<Place> {
        let order = self.walk.order;
        let Some(counts) = counts else {
            return Some(if self.descending { order.end() } else { Place { block: 0, at: 0 } });
        };
        let total = counts.total(order);
        if total <= page.skip {
            page.skip -= total;
            return None;
        }
        let rank = if self.descending { total - 1 - page.skip } else { page.skip };
        let row = order.at(counts.select(order, rank))?;
        let (from, skipped) = if self.descending {
            let from = self.last_of(row);
            (from, total - counts.before(order, from))
        } else {
            let from = self.first_of(row);
            (from, counts.before(order, from))
        };
        page.skip -= skipped;
        Some(from)
    }

    /// Puts the matches of the run that a row is in on the page, in the order of the index; the place before the run.
    pub(crate) fn push_run(&self, row: u32, counts: Option<&Counts>, page: &mut Page) -> Place {
        let order = self.walk.order;
        let (first, last) = (self.first_of(row), self.last_of(row));
        let mut start = first;
        if let Some(counts) = counts.filter(|_| page.skip > SKIP_FEW) {
            let before = counts.before(order, first);
            let skip = page.skip.min(counts.before(order, last) - before);
            page.skip -= skip;
            start = counts.select(order, before + skip);
        }
        for row in order.rows(start, last.max(start)).filter(|&row| self.walk.is_match(row)) {
            page.push(Row { space: self.walk.space, row });
            if page.is_full() {
                break;
            }
        }
        first
    }
}
