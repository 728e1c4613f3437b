//! Sort criteria bound to columns, and the page that is filled by them.

use std::cmp::Ordering;

use crate::column::{Column, Spot};
use crate::leaf::Store;
use crate::query::SortKey;
use crate::space::Row;
use crate::view::View;

/// A criterion, bound to the columns of its type.
pub(crate) struct Key<'v> {
    /// The type of the resources that have it.
    pub(crate) space: u32,
    /// The identifiers that lead to the far end, each with the type it leads to; none when the value is the resource's own.
    pub(crate) hops: Vec<(Column<'v>, u32)>,
    /// The type of the far end, or the same as `space`.
    pub(crate) far_space: u32,
    pub(crate) column: Column<'v>,
    pub(crate) descending: bool,
    pub(crate) text: &'v str,
}

impl<'v> Key<'v> {
    /// `None` when no resource has a value there.
    pub(crate) fn bind(view: &'v View, key: &'v SortKey) -> Option<Self> {
        let mut ends = Vec::with_capacity(key.path.hops.len());
        for hop in &key.path.hops {
            let space = view.spaces.find_type(hop.resource_type.as_str())?;
            ends.push((Spot::find(view.fields(space), &hop.names)?.column()?, space));
        }
        let space = ends.first()?.1;
        let spaces: Vec<u32> = ends.iter().map(|end| end.1).collect();
        let (column, far_space) = ends.pop()?;
        let hops = ends.into_iter().zip(spaces.into_iter().skip(1)).map(|((column, _), to)| (column, to)).collect();
        Some(Self { space, hops, far_space, column, descending: key.descending, text: &key.path.text })
    }

    /// The row at the far end, if its value is set.
    #[inline]
    pub(crate) fn far(&self, view: &View, row: u32) -> Option<u32> {
        let mut row = row;
        for (hop, to) in &self.hops {
            let Store::Id(ids) = &hop.leaf.store else { return None };
            let target = ids.get(row).filter(|target| target.space == *to && view.spaces.is_live(*target))?;
            row = target.row;
        }
        self.column.leaf.is_set(row).then_some(row)
    }

    /// A number that orders the rows as the criterion does, as far as it goes; unset ones last.
    #[inline]
    pub(crate) fn number(&self, view: &View, at: Row) -> u128 {
        let far = if at.space == self.space { self.far(view, at.row) } else { None };
        far.map_or(u128::MAX, |far| {
            let key = self.column.leaf.key(far, &view.spaces);
            // No key is the greatest number, see `Leaf::key`.
            if self.descending { u128::MAX - 1 - key } else { key }
        })
    }

    pub(crate) fn compare(&self, view: &View, a: Row, b: Row) -> Ordering {
        let far = |at: Row| if at.space == self.space { self.far(view, at.row) } else { None };
        match (far(a), far(b)) {
            (Some(a), Some(b)) => {
                let order = self.column.leaf.compare(a, b, &view.spaces);
                if self.descending { order.reverse() } else { order }
            }
            (a, b) => b.is_some().cmp(&a.is_some()),
        }
    }
}

/// The part of an order that is still wanted.
pub(crate) struct Page {
    pub(crate) skip: usize,
    pub(crate) take: usize,
    pub(crate) rows: Vec<Row>,
}

impl Page {
    pub(crate) fn new(skip: usize, take: usize) -> Self {
        Self { skip, take, rows: Vec::with_capacity(take.min(1024)) }
    }

    #[inline]
    pub(crate) fn push(&mut self, row: Row) {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.take > 0 {
            self.take -= 1;
            self.rows.push(row);
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.take == 0
    }
}
