//! The distinct texts of one column.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use crate::bits::Bits;
use crate::fold::is_folded;
use crate::policy::size;

/// A segment is closed when it has this many bytes, so that 32 bits address every byte in it.
const SEGMENT_BYTES_MAX: usize = 1 << 31;

/// So many holes are never worth closing.
const HOLES: usize = size(4096, 4);

/// Uses of a text are counted up to here; a text that reached it stays until the column is packed.
const USES_MAX: u8 = size(u8::MAX as usize, 9) as u8;

/// Texts numbered in the order they came.
///
/// Codes only grow: a text that nobody uses any more leaves a hole, and [`Dictionary::pack`] closes the holes once they
/// make up half of it. So an index over the texts can be appended to.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    segments: Vec<Segment>,
    /// Where the text of a code begins in its segment.
    starts: Vec<u32>,
    uses: Vec<u8>,
    codes: HashTable<u32>,
    dead: usize,
    /// How many texts, dead ones too, are not in folded form.
    unfolded: usize,
}

#[derive(Debug)]
struct Segment {
    first: u32,
    text: String,
}

fn hash(text: &str) -> u64 {
    FxBuildHasher.hash_one(text)
}

impl Dictionary {
    /// One more than the greatest code.
    pub(crate) fn len(&self) -> u32 {
        self.starts.len() as u32
    }

    /// Whether every text is in folded form, so that comparing without regard to case is comparing.
    pub(crate) fn is_folded(&self) -> bool {
        self.unfolded == 0
    }

    /// The text of a code that [`Dictionary::intern`] gave.
    #[inline]
    pub(crate) fn text(&self, code: u32) -> &str {
        let at = if self.segments.len() == 1 { 0 } else { self.segments.partition_point(|s| s.first <= code) - 1 };
        let segment = &self.segments[at];
        let next = code as usize + 1;
        let last = self.segments.get(at + 1).map_or(self.starts.len(), |s| s.first as usize) == next;
        let end = if last { segment.text.len() } else { self.starts[next] as usize };
        &segment.text[self.starts[code as usize] as usize..end]
    }

    /// Reads a little of each text, so that all of them are on their way from memory at once.
    pub(crate) fn touch(&self, codes: &[u32]) -> usize {
        let starts = codes.iter().map(|&code| self.starts[code as usize] as usize).sum::<usize>();
        codes.iter().fold(starts, |sum, &code| {
            let text = self.text(code).as_bytes();
            sum + usize::from(text.first().copied().unwrap_or(0)) + usize::from(text.last().copied().unwrap_or(0))
        })
    }

    /// The code of a text, if it is in use.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.codes.find(hash(text), |&code| self.text(code) == text).copied()
    }

    /// The code that [`Dictionary::find`] will probably find, without a look at the text.
    #[inline]
    pub(crate) fn guess(&self, hash: u64) -> Option<u32> {
        self.codes.find(hash, |_| true).copied()
    }

    /// Reads what finding a code reads at some depth: first what leads to its text, then the text.
    #[inline]
    pub(crate) fn peek(&self, code: u32, depth: u32) -> u64 {
        match depth {
            0 => u64::from(self.starts[code as usize]) + u64::from(self.uses[code as usize]),
            _ => u64::from(self.text(code).as_bytes().first().copied().unwrap_or(0)),
        }
    }

    /// The code of a text, which is used once more than before; whether it is new.
    pub(crate) fn intern(&mut self, text: &str) -> (u32, bool) {
        let hash_of = hash(text);
        if let Some(&code) = self.codes.find(hash_of, |&code| self.text(code) == text) {
            let uses = &mut self.uses[code as usize];
            *uses += u8::from(*uses < USES_MAX);
            return (code, false);
        }
        if self.segments.last().is_none_or(|s| s.text.len() + text.len() > SEGMENT_BYTES_MAX) {
            self.segments.push(Segment { first: self.starts.len() as u32, text: String::new() });
        }
        let code = self.starts.len() as u32;
        // There is one: it was pushed above if there was none.
        if let Some(segment) = self.segments.last_mut() {
            self.starts.push(segment.text.len() as u32);
            segment.text.push_str(text);
        }
        self.uses.push(1);
        self.unfolded += usize::from(!is_folded(text));
        if self.codes.len() == self.codes.capacity() {
            self.grow();
        }
        let mut codes = std::mem::take(&mut self.codes);
        codes.insert_unique(hash_of, code, |&code| hash(self.text(code)));
        self.codes = codes;
        (code, true)
    }

    /// Makes room for as many codes again. The table would do so by itself, but in its own order; in the order of the codes
    /// the texts are read one after the other, which is several times quicker when there are millions.
    fn grow(&mut self) {
        let mut codes = HashTable::with_capacity(self.codes.len() * 2);
        let last = self.len() - 1;
        for code in (0..last).filter(|&code| self.uses[code as usize] > 0) {
            codes.insert_unique(hash(self.text(code)), code, |&code| hash(self.text(code)));
        }
        self.codes = codes;
    }

    /// Ends one use of a text.
    pub(crate) fn release(&mut self, code: u32) {
        let uses = self.uses[code as usize];
        if uses == USES_MAX {
            return;
        }
        self.uses[code as usize] = uses - 1;
        if uses == 1 {
            self.dead += 1;
            let hash_of = hash(self.text(code));
            if let Ok(entry) = self.codes.find_entry(hash_of, |&c| c == code) {
                entry.remove();
            }
        }
    }

    /// Whether holes make up half of it.
    pub(crate) fn wants_packing(&self) -> bool {
        self.dead > HOLES && self.dead > self.starts.len() / 2
    }

    /// Keeps only the texts in `used`, in their order; says which new code each old one has.
    pub(crate) fn pack(&mut self, used: &Bits) -> Vec<u32> {
        let mut packed = Self::default();
        let mut map = vec![u32::MAX; self.starts.len()];
        for code in used.iter() {
            let (new, _) = packed.intern(self.text(code));
            packed.uses[new as usize] = self.uses[code as usize];
            map[code as usize] = new;
        }
        *self = packed;
        map
    }

    pub(crate) fn bytes(&self) -> usize {
        let texts: usize = self.segments.iter().map(|s| s.text.len()).sum();
        texts + self.starts.len() * 4 + self.uses.len() + self.codes.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_codes_until_packed() {
        let mut d = Dictionary::default();
        assert_eq!(d.intern("a"), (0, true));
        assert_eq!(d.intern("B"), (1, true));
        assert_eq!(d.intern("a"), (0, false));
        assert_eq!(d.intern(""), (2, true));
        assert!(!d.is_folded());
        d.release(0);
        assert_eq!(d.find("a"), Some(0));
        d.release(0);
        assert_eq!((d.find("a"), d.find("B"), d.find("")), (None, Some(1), Some(2)));
        assert_eq!(d.intern("a"), (3, true));
        d.release(1);
        let map = d.pack(&[2, 3].into_iter().collect());
        assert_eq!((map[2], map[3]), (0, 1));
        assert_eq!((d.text(0), d.text(1), d.find("a"), d.is_folded()), ("", "a", Some(1), true));
    }
}
