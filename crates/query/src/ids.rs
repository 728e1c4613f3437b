//! Columns of identifiers: references to resources, which need not exist.

use rustc_hash::FxHashMap;

use crate::numbers::CodeVec;
use crate::space::{Row, Spaces};

/// A column of identifiers.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// The only type the identifiers can point to, by number; then a code is a row of it.
    pub(crate) target: Option<u32>,
    /// Codes + 1; 0 is unset.
    pub(crate) codes: CodeVec,
    /// Without an only type: what the codes stand for.
    pub(crate) targets: Vec<Row>,
    pub(crate) known: FxHashMap<Row, u32>,
}

impl Ids {
    #[inline]
    pub(crate) fn row_of(&self, code: u32) -> Row {
        match self.target {
            Some(space) => Row { space, row: code },
            None => self.targets[code as usize],
        }
    }

    /// The row that the identifier at the slot stands for, whether its resource exists or not.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<Row> {
        self.codes.get(slot).checked_sub(1).map(|code| self.row_of(code))
    }

    /// The code of a row, if it may be in use.
    pub(crate) fn code_of(&self, row: Row) -> Option<u32> {
        match self.target {
            Some(space) => (space == row.space).then_some(row.row),
            None => self.known.get(&row).copied(),
        }
    }

    pub(crate) fn intern(&mut self, row: Row) -> u32 {
        if self.target.is_some() {
            return row.row;
        }
        *self.known.entry(row).or_insert_with(|| {
            self.targets.push(row);
            self.targets.len() as u32 - 1
        })
    }

    /// One more than the greatest code.
    pub(crate) fn codes_len(&self, spaces: &Spaces) -> u32 {
        self.target.map_or(self.targets.len() as u32, |space| spaces.get(space).len())
    }

    /// All rows that identifiers may point to, with their codes.
    pub(crate) fn candidates<'a>(&'a self, spaces: &'a Spaces) -> Box<dyn Iterator<Item = (u32, Row)> + 'a> {
        match self.target {
            Some(space) => Box::new((0..spaces.get(space).len()).map(move |row| (row, Row { space, row }))),
            None => Box::new((0..).zip(self.targets.iter().copied())),
        }
    }
}
