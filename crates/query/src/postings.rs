//! Which rows have a value: an equality index over the codes of a column.

use crate::bits::Bits;
use crate::policy::size;

/// No row has the code.
const NONE: u32 = u32::MAX;

/// The head is not a row but the number of a set. Rows are below this.
const SET: u32 = 1 << 31;

/// A set is kept as bits when it has more than one row in this many: a bit a row is then smaller than 32 bits a member.
const BITS_PER_MEMBER: usize = 32;

/// Sets smaller than this are never bits.
const FEW_MAX: usize = size(256, 3);

/// For each code the rows that have it. A code that one row has, as most do in a column of names, takes four bytes.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    heads: Vec<u32>,
    sets: Vec<Set>,
    free: Vec<u32>,
    rows: usize,
}

#[derive(Debug)]
enum Set {
    /// Ascending.
    Few(Vec<u32>),
    Many {
        bits: Bits,
        count: usize,
    },
}

/// The rows that have a code.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Posting<'v> {
    None,
    One(u32),
    /// Ascending.
    Few(&'v [u32]),
    Many(&'v Bits, usize),
}

impl Posting<'_> {
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Few(rows) => rows.len(),
            Self::Many(_, count) => *count,
        }
    }

    pub(crate) fn each(&self, mut f: impl FnMut(u32)) {
        match self {
            Self::None => {}
            Self::One(row) => f(*row),
            Self::Few(rows) => rows.iter().copied().for_each(f),
            Self::Many(bits, _) => bits.iter().for_each(f),
        }
    }
}

impl Postings {
    /// Builds the index; `each` calls back for every pair of code and row, the rows ascending, twice with the same result.
    pub(crate) fn build(codes: u32, rows: u32, each: impl Fn(&mut dyn FnMut(u32, u32))) -> Self {
        let mut counts = vec![0u32; codes as usize];
        each(&mut |code, _| counts[code as usize] += 1);
        let mut index = Self { heads: vec![NONE; codes as usize], rows: rows as usize, ..Self::default() };
        for (code, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 1) {
            let set = if index.wants_bits(count as usize) {
                Set::Many { bits: Bits::with_len(rows as usize), count: 0 }
            } else {
                Set::Few(Vec::with_capacity(count as usize))
            };
            index.heads[code] = SET | index.sets.len() as u32;
            index.sets.push(set);
        }
        each(&mut |code, row| match index.heads[code as usize] {
            NONE => index.heads[code as usize] = row,
            head if head & SET == 0 => {}
            head => match &mut index.sets[(head & !SET) as usize] {
                // A list may hold a value twice.
                Set::Few(rows) if rows.last() != Some(&row) => rows.push(row),
                Set::Few(_) => {}
                Set::Many { bits, count } => *count += usize::from(bits.insert(row)),
            },
        });
        index
    }

    fn wants_bits(&self, count: usize) -> bool {
        count > FEW_MAX && count * BITS_PER_MEMBER > self.rows
    }

    pub(crate) fn get(&self, code: u32) -> Posting<'_> {
        match self.heads.get(code as usize) {
            None | Some(&NONE) => Posting::None,
            Some(&head) if head & SET == 0 => Posting::One(head),
            Some(&head) => match &self.sets[(head & !SET) as usize] {
                Set::Few(rows) => Posting::Few(rows),
                Set::Many { bits, count } => Posting::Many(bits, *count),
            },
        }
    }

    pub(crate) fn insert(&mut self, code: u32, row: u32) {
        self.rows = self.rows.max(row as usize + 1);
        if self.heads.len() <= code as usize {
            self.heads.resize(code as usize + 1, NONE);
        }
        let head = self.heads[code as usize];
        if head == NONE {
            self.heads[code as usize] = row;
        } else if head & SET == 0 {
            if head != row {
                let set = Set::Few(vec![head.min(row), head.max(row)]);
                let at = self.free.pop().unwrap_or(self.sets.len() as u32);
                match self.sets.get_mut(at as usize) {
                    Some(place) => *place = set,
                    None => self.sets.push(set),
                }
                self.heads[code as usize] = SET | at;
            }
        } else {
            let at = (head & !SET) as usize;
            match &mut self.sets[at] {
                Set::Many { bits, count } => *count += usize::from(bits.insert(row)),
                Set::Few(rows) => {
                    if let Err(place) = rows.binary_search(&row) {
                        rows.insert(place, row);
                    }
                    let count = rows.len();
                    if count > FEW_MAX && count * BITS_PER_MEMBER > self.rows {
                        let bits = rows.iter().copied().collect();
                        self.sets[at] = Set::Many { bits, count };
                    }
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, code: u32, row: u32) {
        let Some(head) = self.heads.get_mut(code as usize) else { return };
        if *head == row {
            *head = NONE;
        } else if *head != NONE && *head & SET != 0 {
            let at = *head & !SET;
            let left = match &mut self.sets[at as usize] {
                Set::Many { bits, count } => {
                    *count -= usize::from(bits.remove(row));
                    *count
                }
                Set::Few(rows) => {
                    if let Ok(place) = rows.binary_search(&row) {
                        rows.remove(place);
                    }
                    rows.len()
                }
            };
            if left == 0 {
                *head = NONE;
                self.sets[at as usize] = Set::Few(Vec::new());
                self.free.push(at);
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let sets = self.sets.iter().map(|set| match set {
            Set::Few(rows) => rows.capacity() * 4 + 16,
            Set::Many { bits, .. } => bits.bytes(),
        });
        self.heads.len() * 4 + self.sets.len() * size_of::<Set>() + sets.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn postings_hold_what_was_put_in(pairs in prop::collection::vec((0u32..4, 0u32..900, prop::bool::weighted(0.8)), 0..1500), built in 0usize..1500) {
            let mut model: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            let mut start: Vec<(u32, u32)> = pairs.iter().take(built).map(|(c, r, _)| (*r, *c)).collect();
            start.sort();
            let mut index = Postings::build(4, 900, |f| start.iter().for_each(|(r, c)| f(*c, *r)));
            start.iter().for_each(|(r, c)| { model.entry(*c).or_default().insert(*r); });
            for (code, row, put) in pairs.iter().skip(built) {
                if *put {
                    index.insert(*code, *row);
                    model.entry(*code).or_default().insert(*row);
                } else {
                    index.remove(*code, *row);
                    model.entry(*code).or_default().remove(row);
                }
            }
            for code in 0..5 {
                let mut rows = Vec::new();
                index.get(code).each(|r| rows.push(r));
                prop_assert_eq!(&rows, &model.get(&code).into_iter().flatten().copied().collect::<Vec<_>>());
                prop_assert_eq!(index.get(code).count(), rows.len());
            }
        }
    }
}
