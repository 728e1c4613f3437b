//! Columns found by a path, and reading them by resource.

use lockstep_model::Name;

use crate::leaf::{Leaf, Store};
use crate::node::{Field, Node, Spans};
use crate::postings::Postings;
use crate::view::View;

/// Where a property path leads: through some lists to a node.
#[derive(Clone)]
pub(crate) struct Spot<'v> {
    /// The lists on the way, outermost first; not the node itself.
    pub(crate) lists: Vec<&'v Spans>,
    pub(crate) node: &'v Node,
}

/// A column whose values belong to resources, perhaps several to each.
#[derive(Clone)]
pub(crate) struct Column<'v> {
    /// The lists between the resource and the values, outermost first.
    pub(crate) lists: Vec<&'v Spans>,
    pub(crate) leaf: &'v Leaf,
}

impl<'v> Spot<'v> {
    /// Follows the names from the top of the document down.
    pub(crate) fn find(fields: &'v [Field], names: &[Name]) -> Option<Self> {
        let (first, rest) = names.split_first()?;
        let mut lists = Vec::new();
        let mut node = &fields.iter().find(|f| f.name == *first)?.node;
        for name in rest {
            if let Node::List(list) = node {
                lists.push(&list.spans);
                node = &list.element;
            }
            let Node::Struct(fields) = node else { return None };
            node = &fields.iter().find(|f| f.name == *name)?.node;
        }
        Some(Self { lists, node })
    }

    /// The column there; `None` at a structure.
    pub(crate) fn column(mut self) -> Option<Column<'v>> {
        if let Node::List(list) = self.node {
            self.lists.push(&list.spans);
            self.node = &list.element;
        }
        match self.node {
            Node::Leaf(leaf) => Some(Column { lists: self.lists, leaf }),
            Node::Struct(_) | Node::List(_) => None,
        }
    }
}

/// Calls back for the slots below a row until one is found for which `f` holds; whether one was.
#[inline]
pub(crate) fn any_slot(lists: &[&Spans], slot: u32, f: &mut dyn FnMut(u32) -> bool) -> bool {
    match lists.split_first() {
        None => f(slot),
        Some((spans, below)) => {
            spans.get(slot).is_some_and(|(from, to)| (from..to).any(|slot| any_slot(below, slot, f)))
        }
    }
}

impl<'v> Column<'v> {
    /// Whether each resource has one value at most, at the slot of its row.
    pub(crate) fn is_single(&self) -> bool {
        self.lists.is_empty()
    }

    /// The index of the column's codes, built if it is not there. The column is of text or identifiers.
    pub(crate) fn postings(&self, view: &View, space: u32) -> &'v Postings {
        self.leaf.postings.get_or_init(|| {
            let codes = match &self.leaf.store {
                Store::Text { dictionary, .. } => dictionary.len(),
                Store::Id(ids) => ids.codes_len(&view.spaces),
                _ => 0,
            };
            let rows = view.spaces.get(space).len();
            Postings::build(codes, rows, |each| {
                for row in 0..rows {
                    any_slot(&self.lists, row, &mut |slot| {
                        if let Some(code) = self.leaf.code(slot) {
                            each(code, row);
                        }
                        false
                    });
                }
            })
        })
    }
}
