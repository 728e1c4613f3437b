//! From a filter to the rows that match it.
//!
//! A filter is first *bound* to the columns of one type: tests become comparisons of codes and numbers, and every part gets
//! an estimate of how many rows it holds for. A conjunction then starts with its smallest part, and each other part either
//! gives its own rows, from an index or by reading its column, or is tested row by row, whichever is estimated to be
//! quicker. A condition on a related resource is first answered on the far end; the rows that refer to those come from the
//! identifiers' index, or are tested by where they point to.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use crate::bits::Bits;
use crate::condition::Range;
use crate::grams::Found;
use crate::leaf::Store;
use crate::numbers::{CodeVec, IntVec};
use crate::policy::prefer_first;
use crate::rows::{Rows, is_few};
use crate::space::Row;
use crate::step::{Bound, How, SlotTest, Step, What};
use crate::view::View;

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

pub(crate) struct Evaluator<'v, 't> {
    pub(crate) view: &'v View,
    pub(crate) tally: &'t Tally<'v>,
}

impl<'v> Evaluator<'v, '_> {
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
