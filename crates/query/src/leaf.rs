//! A column: the values of one property that is no structure, and the indexes over them.
//!
//! Values stand at *slots*. For a property of the resource itself the slot is the row; for one inside a list it is the
//! number of the element. Indexes speak of rows.

use std::cmp::Ordering;
use std::sync::OnceLock;

use lockstep_model::{Kind, Value};

use crate::bits::Bits;
use crate::dictionary::Dictionary;
use crate::grams::Grams;
use crate::ids::Ids;
use crate::instants::{InstantText, Instants};
use crate::numbers::{CodeVec, IntVec};
use crate::order::Order;
use crate::postings::Postings;
use crate::space::{Row, Spaces};
use crate::value::ValueRef;

/// A column with its indexes. An index is built when a query first needs it, and kept up to date from then on.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) store: Store,
    /// Code to rows; of text and identifiers.
    pub(crate) postings: OnceLock<Postings>,
    /// Rows by value, those that are set; not inside lists.
    pub(crate) order: OnceLock<Order>,
    /// Pieces of text to codes; of text.
    pub(crate) grams: OnceLock<Grams>,
}

/// The values of a column, by kind.
#[derive(Debug)]
pub(crate) enum Store {
    /// What is true is set too.
    Boolean {
        set: Bits,
        truth: Bits,
    },
    Long {
        set: Bits,
        numbers: IntVec,
    },
    Double {
        set: Bits,
        numbers: Vec<f64>,
    },
    Instant(Instants),
    Text {
        codes: CodeVec,
        dictionary: Dictionary,
    },
    Id(Ids),
}

/// What a change of one value needs to know about where it happens.
pub(crate) struct At {
    /// The slot in the column.
    pub(crate) slot: u32,
    /// The resource that the slot belongs to.
    pub(crate) owner: Row,
}

impl Leaf {
    /// An empty column; `None` for a structure.
    pub(crate) fn new(kind: &Kind, spaces: &mut Spaces) -> Option<Self> {
        let set = Bits::default();
        let store = match kind {
            Kind::Boolean => Store::Boolean { set, truth: Bits::default() },
            Kind::Long => Store::Long { set, numbers: IntVec::default() },
            Kind::Double => Store::Double { set, numbers: Vec::new() },
            Kind::DateTime => Store::Instant(Instants::default()),
            Kind::String => Store::Text { codes: CodeVec::default(), dictionary: Dictionary::default() },
            Kind::Id { targets, .. } => {
                let target = match &targets[..] {
                    [only] => Some(spaces.intern_type(only)),
                    _ => None,
                };
                Store::Id(Ids { target, ..Ids::default() })
            }
            Kind::Struct { .. } => return None,
        };
        Some(Self { store, postings: OnceLock::new(), order: OnceLock::new(), grams: OnceLock::new() })
    }

    /// Whether the column holds values of that kind.
    pub(crate) fn fits(&self, kind: &Kind, spaces: &Spaces) -> bool {
        match (&self.store, kind) {
            (Store::Boolean { .. }, Kind::Boolean)
            | (Store::Long { .. }, Kind::Long)
            | (Store::Double { .. }, Kind::Double)
            | (Store::Instant(_), Kind::DateTime)
            | (Store::Text { .. }, Kind::String) => true,
            (Store::Id(ids), Kind::Id { targets, .. }) => match &targets[..] {
                [only] => ids.target.is_some() && ids.target == spaces.find_type(only.as_str()),
                _ => ids.target.is_none(),
            },
            _ => false,
        }
    }

    /// The kind of its values.
    pub(crate) fn kind(&self, spaces: &Spaces) -> Kind {
        match &self.store {
            Store::Boolean { .. } => Kind::Boolean,
            Store::Long { .. } => Kind::Long,
            Store::Double { .. } => Kind::Double,
            Store::Instant(_) => Kind::DateTime,
            Store::Text { .. } => Kind::String,
            Store::Id(ids) => {
                let targets = ids.target.map(|space| spaces.get(space).name.clone()).into_iter().collect();
                Kind::Id { targets, parent: false }
            }
        }
    }

    #[inline]
    pub(crate) fn is_set(&self, slot: u32) -> bool {
        match &self.store {
            Store::Boolean { set, .. } | Store::Long { set, .. } | Store::Double { set, .. } => set.contains(slot),
            Store::Instant(instants) => instants.set_bits().contains(slot),
            Store::Text { codes, .. } | Store::Id(Ids { codes, .. }) => codes.get(slot) != 0,
        }
    }

    /// The code at the slot, of text and identifiers.
    #[inline]
    pub(crate) fn code(&self, slot: u32) -> Option<u32> {
        match &self.store {
            Store::Text { codes, .. } | Store::Id(Ids { codes, .. }) => codes.get(slot).checked_sub(1),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn value<'v>(&'v self, slot: u32, spaces: &'v Spaces) -> Option<ValueRef<'v>> {
        Some(match &self.store {
            Store::Boolean { set, truth } => {
                set.contains(slot).then_some(())?;
                ValueRef::Boolean(truth.contains(slot))
            }
            Store::Long { set, numbers } => {
                set.contains(slot).then_some(())?;
                ValueRef::Long(numbers.get(slot))
            }
            Store::Double { set, numbers } => {
                set.contains(slot).then_some(())?;
                ValueRef::Double(*numbers.get(slot as usize)?)
            }
            Store::Instant(instants) => match instants.text(slot)? {
                InstantText::Made(text) => ValueRef::DateTime(text),
                InstantText::Kept(text) => ValueRef::Str(text),
            },
            Store::Text { codes, dictionary } => ValueRef::Str(dictionary.text(codes.get(slot).checked_sub(1)?)),
            Store::Id(ids) => {
                let row = ids.get(slot)?;
                let space = spaces.get(row.space);
                ValueRef::Id { resource_type: space.name.as_str(), id: space.id(row.row) }
            }
        })
    }

    /// Reads a little of each value. Values of far apart rows wait for memory one after the other if they are read one after
    /// the other; in a tight loop they wait together, which makes writing a page of an answer some times quicker.
    pub(crate) fn touch(&self, slots: &[u32], spaces: &Spaces) {
        let sum = match &self.store {
            Store::Boolean { set, .. } | Store::Double { set, .. } => {
                slots.iter().filter(|&&slot| set.contains(slot)).count() as u64
            }
            Store::Long { set, numbers } => {
                let set = slots.iter().filter(|&&slot| set.contains(slot)).count() as u64;
                set.wrapping_add(numbers.touch(slots))
            }
            Store::Instant(instants) => {
                slots.iter().filter_map(|&slot| instants.instant(slot)).fold(0, |sum, i| sum ^ i as u64)
            }
            Store::Text { codes, dictionary } => {
                std::hint::black_box(codes.touch(slots));
                let codes: Vec<u32> = slots.iter().filter_map(|&slot| codes.get(slot).checked_sub(1)).collect();
                dictionary.touch(&codes) as u64
            }
            Store::Id(ids) => {
                let mut rows: Vec<Row> = slots.iter().filter_map(|&slot| ids.get(slot)).collect();
                let mut sum = 0u64;
                while let Some(space) = rows.first().map(|row| row.space) {
                    let of_space: Vec<u32> = rows.iter().filter(|row| row.space == space).map(|row| row.row).collect();
                    sum = sum.wrapping_add(spaces.get(space).touch(&of_space));
                    rows.retain(|row| row.space != space);
                }
                sum
            }
        };
        std::hint::black_box(sum);
    }

    /// Sets or unsets the value at a slot, and tells the indexes. A value of another kind than the column's unsets it;
    /// whether the value was taken.
    pub(crate) fn set(&mut self, at: &At, value: Option<&Value>, spaces: &mut Spaces) -> bool {
        let old_code = self.code(at.slot);
        if value.is_none() && !self.is_set(at.slot) {
            return true;
        }
        if let Some(mut order) = self.order.take() {
            if self.is_set(at.slot) {
                order.remove(at.slot, |other| self.compare_rows(other, at.slot, at.owner.space, spaces));
            }
            let taken = self.store(at, old_code, value, spaces);
            if self.is_set(at.slot) {
                order.insert(at.slot, |other| self.compare_rows(other, at.slot, at.owner.space, spaces));
            }
            // Empty, because it was taken above.
            let _ = self.order.set(order);
            taken
        } else {
            self.store(at, old_code, value, spaces)
        }
    }

    fn store(&mut self, at: &At, old_code: Option<u32>, value: Option<&Value>, spaces: &mut Spaces) -> bool {
        let slot = at.slot;
        let mut new_text = None;
        let mut taken = true;
        match (&mut self.store, value) {
            (Store::Boolean { set, truth }, Some(Value::Boolean(v))) => {
                set.insert(slot);
                if *v {
                    truth.insert(slot)
                } else {
                    truth.remove(slot)
                };
            }
            (Store::Long { set, numbers }, Some(Value::Long(v))) => {
                set.insert(slot);
                numbers.set(slot, *v);
            }
            (Store::Double { set, numbers }, Some(Value::Double(v))) => {
                set.insert(slot);
                if numbers.len() <= slot as usize {
                    numbers.resize(slot as usize + 1, 0.0);
                }
                numbers[slot as usize] = *v;
            }
            (Store::Instant(instants), Some(Value::String(v))) => taken = instants.set(slot, v),
            (Store::Text { codes, dictionary }, Some(Value::String(v))) => {
                let (code, is_new) = dictionary.intern(v);
                codes.set(slot, code + 1);
                new_text = is_new.then_some(code);
            }
            (Store::Id(ids), Some(Value::Id(v))) => {
                let row = match ids.target {
                    None => Some(spaces.refer(v)),
                    Some(space) => (spaces.get(space).name == v.resource_type).then(|| spaces.refer_in(space, v)),
                };
                taken = row.is_some();
                if let Some(row) = row {
                    let code = ids.intern(row);
                    ids.codes.set(slot, code + 1);
                }
            }
            (_, None) => {}
            (_, Some(_)) => taken = false,
        }
        if value.is_none() || !taken {
            match &mut self.store {
                Store::Boolean { set, truth } => {
                    set.remove(slot);
                    truth.remove(slot);
                }
                Store::Long { set, .. } | Store::Double { set, .. } => {
                    set.remove(slot);
                }
                Store::Instant(instants) => instants.unset(slot),
                Store::Text { codes, .. } | Store::Id(Ids { codes, .. }) => codes.set(slot, 0),
            }
        }
        let new_code = self.code(slot);
        if let Some(postings) = self.postings.get_mut() {
            if let Some(code) = old_code {
                postings.remove(code, at.owner.row);
            }
            if let Some(code) = new_code {
                postings.insert(code, at.owner.row);
            }
        }
        match &mut self.store {
            Store::Text { dictionary, codes } => {
                if let (Some(grams), Some(code)) = (self.grams.get_mut(), new_text) {
                    grams.push(code, dictionary.text(code));
                }
                if let Some(code) = old_code {
                    dictionary.release(code);
                }
                if dictionary.wants_packing() {
                    let used: Bits =
                        (0..codes.len() as u32).filter_map(|slot| codes.get(slot).checked_sub(1)).collect();
                    let map = dictionary.pack(&used);
                    for slot in 0..codes.len() as u32 {
                        if let Some(code) = codes.get(slot).checked_sub(1) {
                            codes.set(slot, map[code as usize] + 1);
                        }
                    }
                    self.grams.take();
                    self.postings.take();
                }
            }
            Store::Id(ids) => {
                if let Some(code) = old_code {
                    spaces.release(ids.row_of(code));
                }
            }
            _ => {}
        }
        taken
    }

    /// Forgets the indexes: quicker than keeping them when much of the column changes at once.
    pub(crate) fn drop_indexes(&mut self) {
        self.postings.take();
        self.order.take();
        self.grams.take();
    }

    /// Compares the values at two slots that are set.
    pub(crate) fn compare(&self, a: u32, b: u32, spaces: &Spaces) -> Ordering {
        match &self.store {
            Store::Boolean { truth, .. } => truth.contains(a).cmp(&truth.contains(b)),
            Store::Long { numbers, .. } => numbers.get(a).cmp(&numbers.get(b)),
            Store::Double { numbers, .. } => {
                let number = |at: u32| numbers.get(at as usize).copied().unwrap_or_default();
                // Finite, so there is an order; 0.0 and -0.0 are the same.
                number(a).partial_cmp(&number(b)).unwrap_or(Ordering::Equal)
            }
            Store::Instant(instants) => instants.instant(a).cmp(&instants.instant(b)),
            Store::Text { codes, dictionary } => {
                let (a, b) = (codes.get(a), codes.get(b));
                if a == b || a == 0 || b == 0 { a.cmp(&b) } else { dictionary.text(a - 1).cmp(dictionary.text(b - 1)) }
            }
            Store::Id(ids) => match (ids.get(a), ids.get(b)) {
                (Some(a), Some(b)) if a != b => {
                    let (of_a, of_b) = (spaces.get(a.space), spaces.get(b.space));
                    of_a.name.cmp(&of_b.name).then_with(|| of_a.id(a.row).cmp(of_b.id(b.row)))
                }
                (a, b) => a.is_some().cmp(&b.is_some()),
            },
        }
    }

    /// Compares two rows by value, then by id: never equal for two rows.
    pub(crate) fn compare_rows(&self, a: u32, b: u32, space: u32, spaces: &Spaces) -> Ordering {
        self.compare(a, b, spaces).then_with(|| {
            let space = spaces.get(space);
            space.id(a).cmp(space.id(b))
        })
    }

    /// A number that orders slots as their values do, as far as it goes: values that differ may have the same one, and
    /// where [`Leaf::is_key_exact`] they do not. Slots must be set.
    #[inline]
    pub(crate) fn key(&self, slot: u32, spaces: &Spaces) -> u128 {
        /// So that signed numbers order as unsigned ones.
        const FLIP: u64 = 1 << 63;
        match &self.store {
            Store::Boolean { truth, .. } => u128::from(truth.contains(slot)),
            Store::Long { numbers, .. } => u128::from(numbers.get(slot) as u64 ^ FLIP),
            Store::Double { numbers, .. } => {
                u128::from(double_key(numbers.get(slot as usize).copied().unwrap_or_default()))
            }
            // Nanoseconds take less than 96 bits.
            Store::Instant(instants) => (instants.instant(slot).unwrap_or_default() + (1 << 100)) as u128,
            Store::Text { codes, dictionary } => {
                codes.get(slot).checked_sub(1).map_or(0, |code| text_key(dictionary.text(code)))
            }
            Store::Id(ids) => ids.get(slot).map_or(0, |row| {
                // The type weighs more than the id; with one type only the id counts.
                if ids.target.is_some() {
                    text_key(spaces.get(row.space).id(row.row))
                } else {
                    text_key(spaces.get(row.space).name.as_str())
                }
            }),
        }
    }

    /// Whether equal keys mean equal values.
    pub(crate) fn is_key_exact(&self) -> bool {
        !matches!(self.store, Store::Text { .. } | Store::Id(_))
    }

    /// The rows of `space` by value, those that are set. The column is not inside a list.
    pub(crate) fn order(&self, space: u32, spaces: &Spaces) -> &Order {
        self.order.get_or_init(|| {
            let rows = spaces.get(space).live.iter().filter(|&row| self.is_set(row));
            let mut rows: Vec<(u128, u32)> = rows.map(|row| (self.key(row, spaces), row)).collect();
            rows.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.compare_rows(a.1, b.1, space, spaces)));
            Order::build(&rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>())
        })
    }

    /// Whether two slots that are set have the same value.
    #[inline]
    pub(crate) fn is_same(&self, a: u32, b: u32, spaces: &Spaces) -> bool {
        match &self.store {
            Store::Text { codes, .. } | Store::Id(Ids { codes, .. }) => codes.get(a) == codes.get(b),
            Store::Long { numbers, .. } => numbers.get(a) == numbers.get(b),
            Store::Boolean { .. } | Store::Double { .. } | Store::Instant(_) => self.compare(a, b, spaces).is_eq(),
        }
    }

    /// Bytes of the texts, of the other values, and of the indexes.
    pub(crate) fn bytes(&self) -> (usize, usize, usize) {
        let (texts, values) = match &self.store {
            Store::Boolean { set, truth } => (0, set.bytes() + truth.bytes()),
            Store::Long { set, numbers } => (0, set.bytes() + numbers.bytes()),
            Store::Double { set, numbers } => (0, set.bytes() + numbers.len() * 8),
            Store::Instant(instants) => (0, instants.bytes()),
            Store::Text { codes, dictionary } => (dictionary.bytes(), codes.bytes()),
            Store::Id(ids) => (0, ids.codes.bytes() + ids.targets.len() * 8 + ids.known.capacity() * 13),
        };
        let indexes = self.postings.get().map_or(0, Postings::bytes)
            + self.order.get().map_or(0, Order::bytes)
            + self.grams.get().map_or(0, Grams::bytes);
        (texts, values, indexes)
    }
}

/// Orders as the numbers do; 0.0 and -0.0 have the same key.
fn double_key(number: f64) -> u64 {
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The first 16 bytes.
pub(crate) fn text_key(text: &str) -> u128 {
    let bytes = text.as_bytes();
    match bytes.first_chunk::<16>() {
        Some(first) => u128::from_be_bytes(*first),
        None => {
            let mut padded = [0; 16];
            padded[..bytes.len()].copy_from_slice(bytes);
            u128::from_be_bytes(padded)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_values_do() {
        let doubles = [f64::MIN, -1.5, -1e-300, 0.0, 1e-300, 2.0, f64::MAX];
        assert!(doubles.windows(2).all(|w| double_key(w[0]) < double_key(w[1])));
        assert_eq!(double_key(-0.0), double_key(0.0));
        let texts = ["", "a", "a\u{1}", "ab", "b", "é"];
        assert!(texts.windows(2).all(|w| text_key(w[0]) < text_key(w[1])));
    }
}
