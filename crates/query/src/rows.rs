//! Sets of rows, as filters give them.

use std::borrow::Cow;

use crate::bits::Bits;
use crate::policy::size;
use crate::space::Space;

/// A set of rows of one type. All of them are live.
#[derive(Debug, Clone)]
pub(crate) enum Rows<'v> {
    /// All resources of the type.
    All,
    /// These rows, none twice, in any order.
    List(Vec<u32>),
    /// These, and how many.
    Bits(Cow<'v, Bits>, usize),
}

/// A set with fewer rows than one in this many of the type is a list, else bits: at this share both take as long to make.
const LIST_SHARE: usize = size(64, 3);

/// A set with fewer rows than this is always a list.
const LIST_ROWS: usize = size(64, 2);

/// Whether a set of `count` rows out of `all` is better listed.
pub(crate) fn is_few(count: usize, all: usize) -> bool {
    count <= LIST_ROWS || count * LIST_SHARE < all
}

impl<'v> Rows<'v> {
    pub(crate) fn none() -> Self {
        Self::List(Vec::new())
    }

    pub(crate) fn bits(bits: Bits) -> Self {
        let count = bits.count();
        Self::Bits(Cow::Owned(bits), count)
    }

    pub(crate) fn count(&self, space: &Space) -> usize {
        match self {
            Self::All => space.live_count,
            Self::List(rows) => rows.len(),
            Self::Bits(_, count) => *count,
        }
    }

    /// The set as bits.
    pub(crate) fn to_bits<'a>(&'a self, space: &'a Space) -> Cow<'a, Bits> {
        match self {
            Self::All => Cow::Borrowed(&space.live),
            Self::List(rows) => {
                let mut bits = Bits::with_len(space.len() as usize);
                rows.iter().for_each(|&row| {
                    bits.insert(row);
                });
                Cow::Owned(bits)
            }
            Self::Bits(bits, _) => Cow::Borrowed(bits),
        }
    }

    /// The set as a list, in any order.
    pub(crate) fn into_list(self, space: &Space) -> Vec<u32> {
        match self {
            Self::All => space.live.iter().collect(),
            Self::List(rows) => rows,
            Self::Bits(bits, count) => {
                let mut rows = Vec::with_capacity(count);
                rows.extend(bits.iter());
                rows
            }
        }
    }

    pub(crate) fn each(&self, space: &Space, f: impl FnMut(u32)) {
        match self {
            Self::All => space.live.iter().for_each(f),
            Self::List(rows) => rows.iter().copied().for_each(f),
            Self::Bits(bits, _) => bits.iter().for_each(f),
        }
    }
}
