//! From a filter to the rows that match it.
//!
//! A filter is first *bound* to the columns of one type: tests become comparisons of codes and numbers, and every part gets
//! an estimate of how many rows it holds for. A conjunction then starts with its smallest part, and each other part either
//! gives its own rows, from an index or by reading its column, or is tested row by row, whichever is estimated to be
//! quicker. A condition on a related resource is first answered on the far end; the rows that refer to those come from the
//! identifiers' index, or are tested by where they point to.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use lockstep_model::ResolvedHop;

use crate::bits::Bits;
use crate::column::{Column, Spot, any_slot};
use crate::condition::{Condition, Predicate, Range, Test, TextTest, is_above, is_below};
use crate::grams::Found;
use crate::leaf::{Leaf, Store};
use crate::numbers::{CodeVec, IntVec};
use crate::order::{Order, Place};
use crate::policy::{prefer_first, size};
use crate::rows::{Rows, is_few};
use crate::space::{Row, Spaces};
use crate::text_test::{Piece, TextMatch};
use crate::view::View;

/// Dictionaries up to this many texts are searched text by text; an index would cost more than it saves.
const SMALL_DICTIONARY: u32 = size(4096, 3) as u32;

/// Reverse lookups are counted one by one up to this many far rows, and guessed beyond.
const COUNTED_FAR_ROWS: usize = size(4096, 3);

/// What answering a query costs, as it goes.
#[derive(Debug, Default)]
pub(crate) struct Tally<'q> {
    pub(crate) examined: Cell<u64>,
    pub(crate) indexes: RefCell<Vec<(&'static str, Cow<'q, str>)>>,
}

impl<'q> Tally<'q> {
    pub(crate) fn examine(&self, rows: usize) {
        self.examined.set(self.examined.get() + rows as u64);
    }

    pub(crate) fn index(&self, kind: &'static str, of: impl Into<Cow<'q, str>>) {
        let of = of.into();
        let mut indexes = self.indexes.borrow_mut();
        if !indexes.iter().any(|(k, o)| *k == kind && *o == of) {
            indexes.push((kind, of));
        }
    }
}

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
    predicate: &'v Predicate,
    /// Which of the path's hops this is.
    hop: usize,
    column: Column<'v>,
    test: SlotTest<'v>,
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
enum SlotTest<'v> {
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

pub(crate) struct Evaluator<'v, 't> {
    pub(crate) view: &'v View,
    pub(crate) tally: &'t Tally<'v>,
}

impl<'v> Step<'v> {
    fn new(what: What<'v>, estimate: usize) -> Self {
        Self { what, estimate, gave: Cell::new(None), tested: Cell::new(0) }
    }

    fn nothing() -> Self {
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

impl<'v> Evaluator<'v, '_> {
    /// Binds a condition to the columns of a type.
    pub(crate) fn bind(&self, condition: &'v Condition, space: u32) -> Step<'v> {
        let rows = self.view.spaces.get(space);
        match condition {
            Condition::Type(name) if *name == rows.name => Step::new(What::Everything, rows.live_count),
            Condition::Type(_) => Step::nothing(),
            Condition::Id(id) if id.resource_type == rows.name => {
                rows.find_live(&id.id).map_or_else(Step::nothing, |row| Step::new(What::One(row), 1))
            }
            Condition::Id(_) => Step::nothing(),
            Condition::Property(predicate) if *predicate.path.first_type() == rows.name => {
                self.bind_property(predicate, 0, space)
            }
            Condition::Property(_) => Step::nothing(),
            Condition::All(conditions) => {
                let mut steps: Vec<Step<'v>> = Vec::with_capacity(conditions.len());
                for condition in conditions {
                    let step = self.bind(condition, space);
                    match step.what {
                        What::Nothing => return Step::nothing(),
                        What::Everything => {}
                        _ => steps.push(step),
                    }
                }
                if steps.is_empty() {
                    return Step::new(What::Everything, rows.live_count);
                }
                if steps.len() == 1 {
                    return steps.swap_remove(0);
                }
                let estimate = steps.iter().map(|s| s.estimate).min().unwrap_or(0);
                Step::new(What::All(steps), estimate)
            }
            Condition::Any(conditions) => {
                let mut steps: Vec<Step<'v>> = Vec::with_capacity(conditions.len());
                for condition in conditions {
                    let step = self.bind(condition, space);
                    match step.what {
                        What::Nothing => {}
                        What::Everything => return step,
                        _ => steps.push(step),
                    }
                }
                if steps.is_empty() {
                    return Step::nothing();
                }
                if steps.len() == 1 {
                    return steps.swap_remove(0);
                }
                let estimate = steps.iter().map(|s| s.estimate).sum::<usize>().min(rows.live_count);
                Step::new(What::Any(steps), estimate)
            }
        }
    }

    /// Binds a condition from its `hop`th hop on, which is a property of the resources of `space`.
    fn bind_property(&self, predicate: &'v Predicate, hop: usize, space: u32) -> Step<'v> {
        let view = self.view;
        let hops = &predicate.path.hops;
        let ResolvedHop { names, .. } = &hops[hop];
        let Some(column) = Spot::find(view.fields(space), names).and_then(Spot::column) else { return Step::nothing() };
        let all = view.spaces.get(space).live_count;
        let label = || -> Cow<'v, str> {
            if hops.len() == 1 { Cow::Borrowed(&*predicate.path.text) } else { Cow::Owned(hop_text(&hops[hop])) }
        };
        if let Some(next) = hops.get(hop + 1) {
            let Store::Id(ids) = &column.leaf.store else { return Step::nothing() };
            let Some(far_space) = view.spaces.find_type(next.resource_type.as_str()) else { return Step::nothing() };
            let far = self.bind_property(predicate, hop + 1, far_space);
            let far_rows = self.rows(&far, far_space);
            let far_all = view.spaces.get(far_space);
            let far_count = far_rows.count(far_all);
            if far_count == 0 {
                return Step::nothing();
            }
            let estimate = if far_count <= COUNTED_FAR_ROWS {
                let postings = column.postings(view, space);
                self.tally.index("postings", label());
                let mut sum = 0;
                far_rows.each(far_all, |row| {
                    sum += ids.code_of(Row { space: far_space, row }).map_or(0, |code| postings.get(code).count());
                });
                sum.min(all)
            } else {
                (all as u128 * far_count as u128 / far_all.live_count.max(1) as u128) as usize
            };
            let rows = Cow::Owned(far_rows.to_bits(far_all).into_owned());
            let how = if is_few(estimate, all) || far_count <= COUNTED_FAR_ROWS && prefer_first(estimate * 2, all) {
                How::Postings
            } else {
                How::Scan
            };
            let test = SlotTest::Far { space: far_space, rows };
            return Step::new(
                What::Property(Box::new(Bound { predicate, hop, column, test, far: Some(Box::new(far)), how })),
                estimate,
            );
        }
        let Some((test, estimate, how)) = self.bind_test(predicate, &column, space, &label) else {
            return Step::nothing();
        };
        Step::new(What::Property(Box::new(Bound { predicate, hop, column, test, far: None, how })), estimate.min(all))
    }

    /// The test of a column's slots, about how many rows pass, and where they come from. `None` when none can.
    fn bind_test(
        &self,
        predicate: &'v Predicate,
        column: &Column<'v>,
        space: u32,
        label: &dyn Fn() -> Cow<'v, str>,
    ) -> Option<(SlotTest<'v>, usize, How)> {
        let view = self.view;
        let spaces = &view.spaces;
        let all = spaces.get(space).live_count;
        let leaf = column.leaf;
        let by_order = |test: SlotTest<'v>| {
            if !column.is_single() {
                return Some((test, all / 2, How::Scan));
            }
            let (order, from, to) = self.range(leaf, &test, space)?;
            self.tally.index("order", label());
            let estimate = order.rank(to).saturating_sub(order.rank(from));
            // A piece of the index is copied row by row, a column is compared many values at a time.
            let how = if prefer_first(estimate * 4, all) { How::Order } else { How::Scan };
            (estimate > 0).then_some((test, estimate, how))
        };
        let by_code = |code: u32| {
            self.tally.index("postings", label());
            let estimate = column.postings(view, space).get(code).count();
            (estimate > 0).then_some((SlotTest::Code(code), estimate, How::Postings))
        };
        let by_codes = |codes: Vec<u32>| {
            self.tally.index("postings", label());
            let postings = column.postings(view, space);
            let estimate = codes.iter().map(|&code| postings.get(code).count()).sum();
            let set = codes.iter().copied().collect();
            (estimate > 0).then_some((SlotTest::Codes { codes, set }, estimate, How::Postings))
        };
        match (&predicate.test, &leaf.store) {
            (Test::Long(range @ Range::Between(..)), Store::Long { .. }) => by_order(SlotTest::Long(*range)),
            (Test::Double(range @ Range::Between(..)), Store::Double { .. }) => by_order(SlotTest::Double(*range)),
            (Test::Instant(range @ Range::Between(..)), Store::Instant(_)) => by_order(SlotTest::Instant(*range)),
            (Test::Long(range), Store::Long { .. }) => Some((SlotTest::Long(*range), all, How::Scan)),
            (Test::Double(range), Store::Double { .. }) => Some((SlotTest::Double(*range), all, How::Scan)),
            (Test::Instant(range), Store::Instant(_)) => Some((SlotTest::Instant(*range), all, How::Scan)),
            (Test::Boolean(wanted), Store::Boolean { set, truth }) if column.is_single() => {
                let truths = truth.count();
                let estimate = if *wanted { truths } else { set.count() - truths };
                (estimate > 0).then_some((SlotTest::Boolean(*wanted), estimate, How::Bits))
            }
            (Test::Boolean(wanted), Store::Boolean { .. }) => Some((SlotTest::Boolean(*wanted), all / 2, How::Scan)),
            (Test::Piece(piece), Store::Instant(_)) => Some((SlotTest::InstantPiece(piece), all / 2, How::Scan)),
            (Test::Text(TextTest::Equal(text)), Store::Text { dictionary, .. }) => by_code(dictionary.find(text)?),
            (Test::Text(TextTest::NotEqual(text)), Store::Text { dictionary, .. }) => {
                let code = dictionary.find(text);
                let others = all - code.map_or(0, |code| column.postings(view, space).get(code).count()).min(all);
                Some((SlotTest::NotCode(code), others, How::Scan))
            }
            (Test::Text(test @ TextTest::Between(..)), Store::Text { .. }) => by_order(SlotTest::Text(test)),
            (Test::Piece(piece), Store::Text { dictionary, .. }) => {
                if piece.folded.is_empty() {
                    return Some((SlotTest::NotCode(None), all, How::Scan));
                }
                if dictionary.len() <= SMALL_DICTIONARY {
                    return by_codes(
                        (0..dictionary.len()).filter(|&code| piece.matches(dictionary.text(code))).collect(),
                    );
                }
                if piece.how == TextMatch::StartsWith && column.is_single() && dictionary.is_folded() {
                    return by_order(SlotTest::Piece(piece));
                }
                let grams = leaf.grams.get_or_init(|| crate::grams::Grams::build(dictionary));
                self.tally.index("grams", label());
                match grams.estimate(piece.how, &piece.folded) {
                    Some(0) => None,
                    estimate => Some((SlotTest::Piece(piece), estimate.unwrap_or(all / 2).min(all), How::Grams)),
                }
            }
            (Test::Id { id, equal }, Store::Id(ids)) => {
                let code = spaces.find(id).and_then(|row| ids.code_of(row));
                match (equal, code) {
                    (true, code) => by_code(code?),
                    (false, code) => {
                        let others =
                            all - code.map_or(0, |code| column.postings(view, space).get(code).count()).min(all);
                        Some((SlotTest::NotCode(code), others, How::Scan))
                    }
                }
            }
            (Test::IdPart { id, equal: true }, Store::Id(ids)) => {
                let rows = spaces.all().filter_map(|(space, s)| Some(Row { space, row: s.find(id)? }));
                by_codes(rows.filter_map(|row| ids.code_of(row)).collect())
            }
            (Test::IdPart { id, equal: false }, Store::Id(ids)) => {
                let other = |row: Row| spaces.get(row.space).id(row.row) != &**id;
                by_codes(ids.candidates(spaces).filter(|(_, row)| other(*row)).map(|(code, _)| code).collect())
            }
            (Test::Piece(piece), Store::Id(ids)) => {
                let fits = |row: Row| piece.matches(spaces.get(row.space).id(row.row));
                by_codes(ids.candidates(spaces).filter(|(_, row)| fits(*row)).map(|(code, _)| code).collect())
            }
            // A stored column of another kind than the model now declares holds nothing that passes.
            _ => None,
        }
    }

    /// The piece of a column's sorted index that passes a test, which is of a range or of a beginning.
    fn range(&self, leaf: &'v Leaf, test: &SlotTest<'v>, space: u32) -> Option<(&'v Order, Place, Place)> {
        let order = leaf.order(space, &self.view.spaces);
        let (from, to) = match (test, &leaf.store) {
            (SlotTest::Long(Range::Between(low, high)), Store::Long { numbers, .. }) => {
                (order.place(|row| numbers.get(row) < *low), order.place(|row| numbers.get(row) <= *high))
            }
            (SlotTest::Double(Range::Between(low, high)), Store::Double { numbers, .. }) => {
                let number = |row: u32| numbers.get(row as usize).copied().unwrap_or_default();
                (order.place(|row| number(row) < *low), order.place(|row| number(row) <= *high))
            }
            (SlotTest::Instant(Range::Between(low, high)), Store::Instant(instants)) => {
                let instant = |row: u32| instants.instant(row).unwrap_or_default();
                (order.place(|row| instant(row) < *low), order.place(|row| instant(row) <= *high))
            }
            (SlotTest::Text(TextTest::Between(low, high)), Store::Text { codes, dictionary }) => {
                let text = |row: u32| dictionary.text(codes.get(row).saturating_sub(1));
                (order.place(|row| is_below(text(row), low)), order.place(|row| !is_above(text(row), high)))
            }
            (SlotTest::Piece(piece), Store::Text { codes, dictionary }) => {
                let begin = &*piece.folded;
                let text = |row: u32| dictionary.text(codes.get(row).saturating_sub(1));
                (
                    order.place(|row| text(row) < begin),
                    order.place(|row| text(row) < begin || text(row).starts_with(begin)),
                )
            }
            _ => return None,
        };
        Some((order, from, to.max(from)))
    }

    /// The rows for which a step holds.
    pub(crate) fn rows(&self, step: &Step<'v>, space: u32) -> Rows<'v> {
        let ids = self.view.spaces.get(space);
        let all = ids.live_count;
        let rows = match &step.what {
            What::Nothing => Rows::none(),
            What::Everything => Rows::All,
            What::One(row) => Rows::List(vec![*row]),
            What::Property(bound) => self.bound_rows(bound, step.estimate, space),
            What::Any(steps) => {
                if is_few(step.estimate, all) {
                    let mut list = Vec::with_capacity(step.estimate);
                    steps.iter().for_each(|s| list.append(&mut self.rows(s, space).into_list(ids)));
                    list.sort_unstable();
                    list.dedup();
                    Rows::List(list)
                } else {
                    let mut bits = Bits::with_len(ids.len() as usize);
                    for part in steps {
                        match self.rows(part, space) {
                            Rows::List(rows) => rows.into_iter().for_each(|row| {
                                bits.insert(row);
                            }),
                            rows => bits.unite(&rows.to_bits(ids)),
                        }
                    }
                    Rows::bits(bits)
                }
            }
            What::All(steps) => {
                let mut parts: Vec<&Step<'v>> = steps.iter().collect();
                parts.sort_by_key(|s| s.estimate);
                let mut parts = parts.into_iter();
                let first = parts.next().map_or(Rows::All, |s| self.rows(s, space));
                parts.fold(first, |rows, part| self.narrow(rows, part, space))
            }
        };
        step.gave.set(Some(rows.count(ids)));
        rows
    }

    /// Those of `rows` for which a step holds.
    fn narrow(&self, rows: Rows<'v>, step: &Step<'v>, space: u32) -> Rows<'v> {
        let ids = self.view.spaces.get(space);
        let (all, count) = (ids.live_count, rows.count(ids));
        let test_ns = count * step.test_ns();
        let rows_ns = step.rows_ns(all) + all / 64;
        let rows = if matches!(rows, Rows::All) { Rows::Bits(Cow::Borrowed(&ids.live), count) } else { rows };
        if prefer_first(test_ns, rows_ns) {
            step.tested.set(step.tested.get() + count);
            self.tally.examine(count);
            return match rows {
                Rows::List(mut list) => {
                    list.retain(|&row| step.test(row, &self.view.spaces));
                    Rows::List(list)
                }
                rows => {
                    let mut bits = rows.to_bits(ids).into_owned();
                    bits.retain(|row| step.test(row, &self.view.spaces));
                    Rows::bits(bits)
                }
            };
        }
        match (rows, self.rows(step, space)) {
            (rows, Rows::All) => rows,
            (Rows::List(mut list), other) => {
                let other = other.to_bits(ids);
                list.retain(|&row| other.contains(row));
                Rows::List(list)
            }
            (rows, Rows::List(mut list)) => {
                let bits = rows.to_bits(ids);
                list.retain(|&row| bits.contains(row));
                Rows::List(list)
            }
            (rows, Rows::Bits(other, _)) => {
                let mut bits = rows.to_bits(ids).into_owned();
                bits.intersect(&other);
                Rows::bits(bits)
            }
        }
    }

    fn bound_rows(&self, bound: &Bound<'v>, estimate: usize, space: u32) -> Rows<'v> {
        let view = self.view;
        let ids = view.spaces.get(space);
        let all = ids.live_count;
        let column = &bound.column;
        let collect = |codes: &mut dyn Iterator<Item = u32>| {
            let postings = column.postings(view, space);
            let mut codes = codes.peekable();
            let Some(first) = codes.next() else { return Rows::none() };
            if codes.peek().is_none()
                && let crate::postings::Posting::Many(bits, count) = postings.get(first)
            {
                return Rows::Bits(Cow::Borrowed(bits), count);
            }
            let codes = std::iter::once(first).chain(codes);
            if is_few(estimate, all) {
                let mut rows = Vec::with_capacity(estimate);
                codes.for_each(|code| postings.get(code).each(|row| rows.push(row)));
                // A resource can have several of the codes only in a list.
                if !column.is_single() {
                    rows.sort_unstable();
                    rows.dedup();
                }
                self.tally.examine(rows.len());
                Rows::List(rows)
            } else {
                let mut rows = Bits::with_len(ids.len() as usize);
                codes.for_each(|code| match postings.get(code) {
                    crate::postings::Posting::Many(bits, _) => rows.unite(bits),
                    posting => posting.each(|row| {
                        rows.insert(row);
                    }),
                });
                self.tally.examine(estimate);
                Rows::bits(rows)
            }
        };
        match (&bound.test, bound.how) {
            (SlotTest::Code(code), How::Postings) => collect(&mut std::iter::once(*code)),
            (SlotTest::Codes { codes, .. }, How::Postings) => collect(&mut codes.iter().copied()),
            (SlotTest::Far { space, rows }, How::Postings) => {
                let Store::Id(far) = &column.leaf.store else { return Rows::none() };
                collect(&mut rows.iter().filter_map(|row| far.code_of(Row { space: *space, row })))
            }
            (SlotTest::Piece(piece), How::Grams) => {
                let (Store::Text { dictionary, .. }, Some(grams)) = (&column.leaf.store, column.leaf.grams.get())
                else {
                    return Rows::none();
                };
                let codes = match grams.find(piece.how, &piece.folded) {
                    Found::Exact(codes) => codes,
                    Found::Candidates(mut codes) => {
                        self.tally.examine(codes.len());
                        let folded = dictionary.is_folded();
                        codes.retain(|&code| {
                            let text = dictionary.text(code);
                            if folded { piece.matches_folded(text) } else { piece.matches(text) }
                        });
                        codes
                    }
                };
                collect(&mut codes.into_iter())
            }
            (test, How::Order) => {
                let Some((order, from, to)) = self.range(column.leaf, test, space) else { return Rows::none() };
                self.tally.examine(estimate);
                if is_few(estimate, all) {
                    let mut rows = Vec::with_capacity(estimate);
                    order.slices(from, to).for_each(|slice| rows.extend_from_slice(slice));
                    Rows::List(rows)
                } else {
                    let mut bits = Bits::with_len(ids.len() as usize);
                    order.rows(from, to).for_each(|row| {
                        bits.insert(row);
                    });
                    Rows::Bits(Cow::Owned(bits), estimate)
                }
            }
            (SlotTest::Boolean(wanted), How::Bits) => {
                let Store::Boolean { set, truth } = &column.leaf.store else { return Rows::none() };
                if *wanted {
                    return Rows::Bits(Cow::Borrowed(truth), estimate);
                }
                let mut bits = set.clone();
                bits.subtract(truth);
                Rows::Bits(Cow::Owned(bits), estimate)
            }
            _ => {
                self.tally.examine(all);
                self.scan(bound, space)
            }
        }
    }

    /// Reads the whole column.
    fn scan(&self, bound: &Bound<'v>, space: u32) -> Rows<'v> {
        let ids = self.view.spaces.get(space);
        let spaces = &self.view.spaces;
        let len = ids.len() as usize;
        if bound.column.is_single() {
            match (&bound.test, &bound.column.leaf.store) {
                (SlotTest::Long(range), Store::Long { set, numbers }) => {
                    return Rows::bits(scan_longs(numbers, set, range));
                }
                (SlotTest::Double(range), Store::Double { set, numbers }) => {
                    return Rows::bits(scan_slice(numbers, set.clone(), |n| range.holds(n)));
                }
                (SlotTest::NotCode(code), Store::Text { codes, .. }) => return Rows::bits(scan_codes(codes, *code)),
                _ => {}
            }
        }
        let mut bits = Bits::with_len(len);
        for row in ids.live.iter() {
            if bound.test(row, spaces) {
                bits.insert(row);
            }
        }
        Rows::bits(bits)
    }
}

/// Those of `set` whose number passes.
fn scan_slice<T: Copy>(numbers: &[T], set: Bits, holds: impl Fn(T) -> bool) -> Bits {
    let mut words = vec![0; set.words().len()];
    for ((out, word), chunk) in words.iter_mut().zip(set.words()).zip(numbers.chunks(64)) {
        let passed = chunk.iter().enumerate().fold(0u64, |bits, (i, &n)| bits | u64::from(holds(n)) << i);
        *out = passed & word;
    }
    Bits::from_words(words)
}

fn scan_longs(numbers: &IntVec, set: &Bits, range: &Range<i64>) -> Bits {
    // Numbers beyond the end are 0 without being there.
    let mut set = set.clone();
    let end = numbers.len() as u32;
    let mut tail = Bits::default();
    set.iter().filter(|&row| row >= end).filter(|_| range.holds(0)).for_each(|row| {
        tail.insert(row);
    });
    set = match numbers {
        IntVec::I8(v) => scan_slice(v, set, |n| range.holds(n.into())),
        IntVec::I16(v) => scan_slice(v, set, |n| range.holds(n.into())),
        IntVec::I32(v) => scan_slice(v, set, |n| range.holds(n.into())),
        IntVec::I64(v) => scan_slice(v, set, |n| range.holds(n)),
    };
    set.unite(&tail);
    set
}

/// The slots whose code is set and not that one.
fn scan_codes(codes: &CodeVec, not: Option<u32>) -> Bits {
    let not = not.map_or(0, |code| code + 1);
    let every = Bits::from_words(vec![u64::MAX; codes.len().div_ceil(64)]);
    match codes {
        CodeVec::U8(v) => scan_slice(v, every, |c| c != 0 && u32::from(c) != not),
        CodeVec::U16(v) => scan_slice(v, every, |c| c != 0 && u32::from(c) != not),
        CodeVec::U32(v) => scan_slice(v, every, |c| c != 0 && c != not),
    }
}

impl Bound<'_> {
    /// The condition as text, from this hop on.
    pub(crate) fn shown(&self) -> String {
        let hops = self.predicate.path.hops[self.hop..].iter().map(hop_text).collect::<Vec<_>>();
        format!("{} {}", hops.join("->"), self.predicate.shown)
    }

    #[inline]
    fn test(&self, row: u32, spaces: &Spaces) -> bool {
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
