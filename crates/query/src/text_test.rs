//! The three operators that look for a piece of text without regard to case.

use std::cell::RefCell;

use memchr::memmem::Finder;

use crate::fold::{fold_into, is_folded};

/// Where the piece must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextMatch {
    StartsWith,
    EndsWith,
    Contains,
}

/// A piece of text to look for.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) how: TextMatch,
    /// Folded.
    pub(crate) folded: Box<str>,
    finder: Finder<'static>,
}

thread_local! {
    /// Folding needs room; a test of a million texts must not ask for it a million times.
    static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Piece {
    pub(crate) fn new(how: TextMatch, text: &str) -> Self {
        let folded: Box<str> = crate::fold::fold(text).into();
        let finder = Finder::new(folded.as_bytes()).into_owned();
        Self { how, folded, finder }
    }

    /// Whether the text has the piece where it must stand.
    pub(crate) fn matches(&self, text: &str) -> bool {
        if is_folded(text) {
            return self.matches_folded(text);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            fold_into(text, scratch);
            self.matches_folded(scratch)
        })
    }

    pub(crate) fn matches_folded(&self, text: &str) -> bool {
        match self.how {
            TextMatch::StartsWith => text.starts_with(&*self.folded),
            TextMatch::EndsWith => text.ends_with(&*self.folded),
            TextMatch::Contains => self.finder.find(text.as_bytes()).is_some(),
        }
    }
}
