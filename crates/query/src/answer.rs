//! Answers: which resources, and their values, straight from the columns.

use std::borrow::Cow;
use std::time::Instant;

use serde::Serialize;

use crate::arrange::{Arranger, Part};
use crate::column::{Spot, any_slot};
use crate::condition::Path;
use crate::eval::{Evaluator, Tally};
use crate::json;
use crate::key::{Key, Page};
use crate::leaf::Store;
use crate::node::{Node, Spans};
use crate::query::Query;
use crate::space::Row;
use crate::step::Step;
use crate::value::{ListRef, ListSource, ValueRef};
use crate::view::View;

/// What a query gives. Values are read from the view when they are asked for.
pub struct Answer<'v> {
    view: &'v View,
    query: &'v Query,
    rows: Vec<Row>,
    /// The columns of the query's paths, for each type on the page.
    columns: Vec<(u32, Vec<Projection<'v>>)>,
    total: Option<u64>,
    cost: Cost,
}

/// What it took to answer.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    /// Rows looked at one by one, in the table or in an index.
    pub rows_examined: u64,
    /// Resources that match the filter; unset when the page was full before all of them were known.
    pub rows_matched: Option<u64>,
    /// The indexes that were used, as `order VirtualMachine/name`.
    pub indexes: Vec<String>,
    /// Microseconds, without writing the values.
    pub micros: u64,
}

/// A path bound to the columns of a type.
struct Projection<'v> {
    path: &'v Path,
    /// One for each hop; empty when the path is of another type.
    hops: Vec<Hop<'v>>,
    /// Whether there is a list on the way, so that the value is a list.
    many: bool,
}

struct Hop<'v> {
    spot: Spot<'v>,
    /// The type that the next hop's property is of.
    next: Option<u32>,
}

/// One resource of an answer.
#[derive(Clone, Copy)]
pub struct Item<'a, 'v> {
    answer: &'a Answer<'v>,
    row: Row,
    projections: &'a [Projection<'v>],
}

impl View {
    /// Answers a query from this state. Indexes that it needs and that are not there are built on the way, which takes
    /// seconds for millions of resources, once.
    pub fn query<'v>(&'v self, query: &'v Query) -> Answer<'v> {
        let tally = Tally::default();
        self.answer(query, &tally, &mut |_, _| {})
    }

    pub(crate) fn answer<'v>(
        &'v self,
        query: &'v Query,
        tally: &Tally<'v>,
        explain: &mut dyn FnMut(u32, &Step<'v>),
    ) -> Answer<'v> {
        let started = Instant::now();
        let evaluator = Evaluator { view: self, tally };
        let arranger = Arranger { view: self, tally, filter_key: query.filter.key };
        let keys: Vec<Key<'v>> = query.sort.iter().filter_map(|key| Key::bind(self, key)).collect();
        let mut parts = Vec::new();
        let (mut total, mut page) = (0, Page::new(query.offset, query.limit));
        for name in &query.filter.types {
            let Some(space) = self.spaces.find_type(name.as_str()) else { continue };
            let step = evaluator.bind(&query.filter.condition, space);
            if query.filter.types.len() == 1 && !query.total && keys.len() == query.sort.len() && query.limit > 0 {
                let page = arranger.fill(&step, space, &keys, query.offset, query.limit);
                if let Some(rows) = page {
                    explain(space, &step);
                    return self.finish(query, rows, None, tally, started);
                }
            }
            let rows = evaluator.rows(&step, space);
            explain(space, &step);
            let count = rows.count(self.spaces.get(space));
            total += count as u64;
            if count > 0 {
                parts.push(Part { space, rows });
            }
        }
        if query.limit > 0 && total > query.offset as u64 {
            arranger.arrange(parts, &keys, &mut page);
        }
        self.finish(query, page.rows, Some(total), tally, started)
    }

    /// Finds the columns of the values on the page.
    fn finish<'v>(
        &'v self,
        query: &'v Query,
        rows: Vec<Row>,
        matched: Option<u64>,
        tally: &Tally<'v>,
        started: Instant,
    ) -> Answer<'v> {
        let mut columns: Vec<(u32, Vec<Projection<'v>>)> = Vec::new();
        for row in &rows {
            if !columns.iter().any(|(space, _)| *space == row.space) {
                columns.push((
                    row.space,
                    query.paths.iter().map(|path| Projection::bind(self, path, row.space)).collect(),
                ));
            }
        }
        for (space, projections) in &columns {
            let rows: Vec<u32> = rows.iter().filter(|row| row.space == *space).map(|row| row.row).collect();
            // One row's values come as they come.
            if rows.len() > 1 {
                std::hint::black_box(self.spaces.get(*space).touch(&rows));
                projections.iter().for_each(|projection| projection.touch(self, &rows));
            }
        }
        let indexes = tally.indexes.borrow().iter().map(|(kind, of)| format!("{kind} {of}")).collect();
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let cost = Cost { rows_examined: tally.examined.get(), rows_matched: matched, indexes, micros };
        Answer { view: self, query, rows, columns, total: matched.filter(|_| query.total), cost }
    }
}

impl<'v> Answer<'v> {
    /// The items in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Item<'_, 'v>> {
        self.rows.iter().map(move |&row| self.item(row))
    }

    fn item(&self, row: Row) -> Item<'_, 'v> {
        let columns = self.columns.iter().find(|(space, _)| *space == row.space);
        Item { answer: self, row, projections: columns.map_or(&[], |(_, projections)| projections) }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many resources match; only if it was asked for.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// What it took.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Writes the items as a JSON array of `{"property_values":[{"property":…,"value":…}],"resource_id":{"id":…,"type":…}}`.
    pub fn write_plain_json(&self, out: &mut Vec<u8>) {
        // `{"property":"…","value":` is the same for each item.
        let heads: Vec<Vec<u8>> = self.query.paths.iter().map(|path| json::property_head(&path.text)).collect();
        out.push(b'[');
        for (i, item) in self.items().enumerate() {
            out.extend_from_slice(if i == 0 { b"{\"property_values\":[" } else { b",{\"property_values\":[" });
            let mut is_first = true;
            for (projection, head) in item.projections.iter().zip(&heads) {
                let Some(value) = projection.value(self.view, item.row.row) else { continue };
                out.extend_from_slice(&head[usize::from(is_first)..]);
                json::write_value(&value, out);
                out.push(b'}');
                is_first = false;
            }
            let (resource_type, id) = item.id();
            out.extend_from_slice(b"],\"resource_id\":{\"id\":");
            json::write_str(id, out);
            out.extend_from_slice(b",\"type\":");
            json::write_str(resource_type, out);
            out.extend_from_slice(b"}}");
        }
        out.push(b']');
    }
}

impl<'a, 'v> Item<'a, 'v> {
    /// The resource's type and id.
    pub fn id(&self) -> (&'v str, &'v str) {
        let space = self.answer.view.spaces.get(self.row.space);
        (space.name.as_str(), space.id(self.row.row))
    }

    /// The values that are set, each with its path as it was asked for.
    pub fn values(&self) -> impl Iterator<Item = (&'v str, ValueRef<'v>)> + 'a {
        let Self { answer, row, projections } = *self;
        projections.iter().filter_map(move |p| Some((&*p.path.text, p.value(answer.view, row.row)?)))
    }
}

impl<'v> Projection<'v> {
    fn bind(view: &'v View, path: &'v Path, space: u32) -> Self {
        let mut out = Self { path, hops: Vec::new(), many: false };
        let mut at = space;
        for (i, hop) in path.hops.iter().enumerate() {
            let next = path.hops.get(i + 1).map(|hop| view.spaces.find_type(hop.resource_type.as_str()));
            let right = hop.resource_type == view.spaces.get(at).name;
            let Some(spot) = Spot::find(view.fields(at), &hop.names).filter(|_| right && next != Some(None)) else {
                out.hops.clear();
                return out;
            };
            out.many |= !spot.lists.is_empty() || next.is_some() && hop.is_many;
            out.hops.push(Hop { spot, next: next.flatten() });
            at = next.flatten().unwrap_or(at);
        }
        out
    }

    /// Reads a little of what the values of some rows are made of, see [`crate::leaf::Leaf::touch`].
    fn touch(&self, view: &View, rows: &[u32]) {
        let mut rows = Cow::Borrowed(rows);
        for hop in &self.hops {
            let mut slots = rows.into_owned();
            for spans in &hop.spot.lists {
                slots = slots.iter().filter_map(|&slot| spans.get(slot)).flat_map(|(from, to)| from..to).collect();
            }
            let Some(next) = hop.next else { return hop.spot.node.touch(&slots, &view.spaces) };
            let leaf = match hop.spot.node {
                Node::Leaf(leaf) => leaf,
                Node::List(list) => {
                    let Node::Leaf(leaf) = &list.element else { return };
                    slots =
                        slots.iter().filter_map(|&slot| list.spans.get(slot)).flat_map(|(from, to)| from..to).collect();
                    leaf
                }
                Node::Struct(_) => return,
            };
            let Store::Id(ids) = &leaf.store else { return };
            let targets = slots.iter().filter_map(|&slot| ids.get(slot)).filter(|target| target.space == next);
            rows = Cow::Owned(targets.map(|target| target.row).collect());
        }
    }

    #[inline]
    fn value(&self, view: &'v View, row: u32) -> Option<ValueRef<'v>> {
        if let [hop] = &self.hops[..]
            && !self.many
        {
            return hop.spot.node.value(row, &view.spaces, false);
        }
        if self.many {
            let mut values = Vec::new();
            self.gather(view, 0, row, &mut values);
            return (!values.is_empty()).then_some(ValueRef::List(ListRef(ListSource::Gathered(values))));
        }
        let (last, hops) = self.hops.split_last()?;
        let mut row = row;
        for hop in hops {
            let Node::Leaf(leaf) = hop.spot.node else { return None };
            let Store::Id(ids) = &leaf.store else { return None };
            row = ids.get(row).filter(|at| Some(at.space) == hop.next && view.spaces.is_live(*at))?.row;
        }
        last.spot.node.value(row, &view.spaces, false)
    }

    /// Collects the values at the end of all ways from a row; lists among them are taken apart.
    fn gather(&self, view: &'v View, at: usize, row: u32, out: &mut Vec<ValueRef<'v>>) {
        let Some(hop) = self.hops.get(at) else { return };
        let spaces = &view.spaces;
        if hop.next.is_none() {
            any_slot(&hop.spot.lists, row, &mut |slot| {
                match hop.spot.node.value(slot, spaces, false) {
                    Some(ValueRef::List(list)) => out.extend(list.iter()),
                    Some(value) => out.push(value),
                    None => {}
                }
                false
            });
            return;
        }
        let mut lists: Vec<&Spans> = hop.spot.lists.clone();
        let mut node = hop.spot.node;
        if let Node::List(list) = node {
            lists.push(&list.spans);
            node = &list.element;
        }
        let Node::Leaf(leaf) = node else { return };
        let Store::Id(ids) = &leaf.store else { return };
        any_slot(&lists, row, &mut |slot| {
            if let Some(target) = ids.get(slot).filter(|at| Some(at.space) == hop.next && spaces.is_live(*at)) {
                self.gather(view, at + 1, target.row, out);
            }
            false
        });
    }
}

impl std::fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("items", &self.rows.len())
            .field("total", &self.total)
            .field("cost", &self.cost)
            .finish()
    }
}
