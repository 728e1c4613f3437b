//! Binding: from a filter to the columns, codes and ranges that answer it for one type.

use std::borrow::Cow;

use lockstep_model::ResolvedHop;

use crate::column::{Column, Spot};
use crate::condition::{Condition, Predicate, Range, Test, TextTest, is_above, is_below};
use crate::eval::Evaluator;
use crate::leaf::{Leaf, Store};
use crate::order::{Order, Place};
use crate::policy::{prefer_first, size};
use crate::rows::is_few;
use crate::space::Row;
use crate::step::{Bound, How, SlotTest, Step, What, hop_text};
use crate::text_test::TextMatch;

/// Dictionaries up to this many texts are searched text by text; an index would cost more than it saves.
const SMALL_DICTIONARY: u32 = size(4096, 3) as u32;

/// Reverse lookups are counted one by one up to this many far rows, and guessed beyond.
const COUNTED_FAR_ROWS: usize = size(4096, 3);

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
    pub(crate) fn range(&self, leaf: &'v Leaf, test: &SlotTest<'v>, space: u32) -> Option<(&'v Order, Place, Place)> {
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
}
