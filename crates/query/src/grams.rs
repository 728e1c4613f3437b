//! Which texts hold a piece of text: an index over groups of three bytes.
//!
//! Texts are folded and put between two marks that no UTF-8 text holds, so that "begins with" and "ends with" are
//! "holds" too. An index answers with *candidates*, to be compared with the text itself; a piece shorter than a group is
//! answered exactly.

use rustc_hash::FxHashMap;

use crate::bits::Bits;
use crate::dictionary::Dictionary;
use crate::fold::fold_into;
use crate::policy::size;
use crate::text_test::TextMatch;

const BEGIN: u8 = 0xfe;
const END: u8 = 0xff;

/// Candidates are compared with the text once there are so few; merging more lists would cost more than it saves.
const CANDIDATES_FEW: usize = size(256, 1);

/// The codes of the texts that hold a group: differences, seven bits a byte, the lowest first.
#[derive(Debug, Default)]
struct List {
    bytes: Vec<u8>,
    last: u32,
    count: u32,
}

impl List {
    fn push(&mut self, code: u32) {
        if self.count > 0 && self.last == code {
            return;
        }
        let mut delta = code - self.last;
        while delta >= 0x80 {
            self.bytes.push(delta as u8 | 0x80);
            delta >>= 7;
        }
        self.bytes.push(delta as u8);
        self.last = code;
        self.count += 1;
    }

    fn codes(&self) -> Vec<u32> {
        let mut codes = Vec::with_capacity(self.count as usize);
        self.each(|code| codes.push(code));
        codes
    }

    /// Those of `codes`, which ascend, that are in the list.
    fn intersect(&self, codes: &[u32]) -> Vec<u32> {
        let mut bits = Bits::with_len(codes.last().map_or(0, |&last| last as usize + 1));
        codes.iter().for_each(|&code| {
            bits.insert(code);
        });
        // Written in any case, counted only if it is in both: the outcome cannot be guessed, a branch would be.
        let mut both = vec![0; codes.len() + 1];
        let mut count = 0;
        self.each(|code| {
            both[count] = code;
            count += usize::from(bits.contains(code));
        });
        both.truncate(count);
        both
    }

    #[inline]
    fn each(&self, mut f: impl FnMut(u32)) {
        let mut code = 0;
        let mut bytes = self.bytes.iter();
        while let Some(&byte) = bytes.next() {
            // Nine in ten differences take one byte.
            let mut delta = u32::from(byte & 0x7f);
            if byte >= 0x80 {
                let mut shift = 7;
                for &byte in bytes.by_ref() {
                    delta |= u32::from(byte & 0x7f) << shift;
                    shift += 7;
                    if byte < 0x80 {
                        break;
                    }
                }
            }
            code += delta;
            f(code);
        }
    }
}

/// The index over the texts of one dictionary.
#[derive(Debug, Default)]
pub(crate) struct Grams {
    lists: FxHashMap<u32, List>,
    scratch: String,
}

/// What the index knows about a piece of text.
pub(crate) enum Found {
    /// Exactly these codes, ascending; some may be of texts that nobody uses any more.
    Exact(Vec<u32>),
    /// All that can be, ascending, to be compared.
    Candidates(Vec<u32>),
}

impl Grams {
    pub(crate) fn build(dictionary: &Dictionary) -> Self {
        let mut index = Self::default();
        for code in 0..dictionary.len() {
            index.push(code, dictionary.text(code));
        }
        index.lists.values_mut().for_each(|list| list.bytes.shrink_to_fit());
        index
    }

    /// Adds a text whose code is greater than all before.
    pub(crate) fn push(&mut self, code: u32, text: &str) {
        let mut folded = std::mem::take(&mut self.scratch);
        folded.clear();
        fold_into(text, &mut folded);
        groups(folded.as_bytes(), true, true, |group| self.lists.entry(group).or_default().push(code));
        self.scratch = folded;
    }

    /// About how many texts match, without looking.
    pub(crate) fn estimate(&self, how: TextMatch, folded: &str) -> Option<usize> {
        let mut least = None;
        groups(folded.as_bytes(), how == TextMatch::StartsWith, how == TextMatch::EndsWith, |group| {
            let count = self.lists.get(&group).map_or(0, |list| list.count as usize);
            least = Some(least.map_or(count, |l: usize| l.min(count)));
        });
        least
    }

    /// The texts that may match; `folded` is not empty.
    pub(crate) fn find(&self, how: TextMatch, folded: &str) -> Found {
        // The lists of the piece's groups, with where in the piece each group begins.
        let mut lists: Vec<(usize, &List)> = Vec::new();
        let (mut missing, mut at) = (false, 0);
        groups(folded.as_bytes(), how == TextMatch::StartsWith, how == TextMatch::EndsWith, |group| {
            match self.lists.get(&group) {
                Some(list) => lists.push((at, list)),
                None => missing = true,
            }
            at += 1;
        });
        if missing {
            return Found::Exact(Vec::new());
        }
        let Some((mut codes, first)) =
            lists.iter().min_by_key(|(_, list)| list.count).map(|(at, list)| (list.codes(), *at))
        else {
            return Found::Exact(self.short(how, folded));
        };
        // Groups that overlap say nearly the same, so the next one is the rarest of those that are apart from the last.
        let mut seen = vec![first];
        while codes.len() > CANDIDATES_FEW {
            let unseen = lists.iter().filter(|(at, _)| !seen.contains(at));
            let apart = |at: usize| seen.iter().all(|&s| s.abs_diff(at) >= 3);
            let Some((at, list)) = unseen.min_by_key(|(at, list)| (!apart(*at), list.count)) else { break };
            // Reading a list takes about a nanosecond a member, comparing a candidate about fifty.
            if list.count as usize > codes.len() * 50 {
                break;
            }
            codes = list.intersect(&codes);
            seen.push(*at);
        }
        Found::Candidates(codes)
    }

    /// The texts that hold a piece too short to make a group, marks included: every group that holds it names some of them.
    fn short(&self, how: TextMatch, folded: &str) -> Vec<u32> {
        let mut piece = folded.as_bytes().to_vec();
        match how {
            TextMatch::StartsWith => piece.insert(0, BEGIN),
            TextMatch::EndsWith => piece.push(END),
            TextMatch::Contains => {}
        }
        let mut codes = Bits::default();
        for (&group, list) in &self.lists {
            let bytes = [(group >> 16) as u8, (group >> 8) as u8, group as u8];
            if bytes.windows(piece.len()).any(|w| w == piece) {
                list.each(|code| {
                    codes.insert(code);
                });
            }
        }
        codes.iter().collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        let lists: usize = self.lists.values().map(|list| list.bytes.capacity()).sum();
        lists + self.lists.capacity() * (size_of::<(u32, List)>() + 1)
    }
}

fn groups(text: &[u8], begin: bool, end: bool, mut each: impl FnMut(u32)) {
    let bytes = begin.then_some(BEGIN).into_iter().chain(text.iter().copied()).chain(end.then_some(END));
    let (mut group, mut read) = (0u32, 0);
    for byte in bytes {
        group = (group << 8 | u32::from(byte)) & 0xff_ffff;
        read += 1;
        if read >= 3 {
            each(group);
        }
    }
}
