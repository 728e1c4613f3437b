//! Which dirty bitmap may be trusted, and what is to be done with the others.
//!
//! A cycle has a number, and so has the bitmap that records from its point in time on: bitmap *n* tells what changed since instance
//! *n*. While cycle *n* is read there are two, *n-1*, which stands still, and *n*, which records. What is left of a cycle is
//! judged by one question, whether the destination has committed it, in one function, at a good end, at a bad end, and after a
//! crash of any of the three.
//!
//! | found | last instance there is | then |
//! |---|---|---|
//! | none of ours | any | compare |
//! | *n* | *n* | it may be used |
//! | *n-1*, *n* | *n* | remove *n-1*, *n* may be used |
//! | *n*, *n+1* | *n* | let *n* record again, merge *n+1* into it, remove *n+1*; *n* may be used: it tells a superset |
//! | *n* inconsistent, not recording alone, or others | *n* | remove all, compare |
//! | any | none | remove all, full |
//!
//! A bitmap is inconsistent when QEMU ended without writing it: it is never trusted then, nor is what comes after it.

use crate::{Error, Result};

/// What the names of a replication's bitmaps, nodes, exports and files begin with: `ls-` and the first eight hexadecimal digits of the
/// replication's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(String);

impl Tag {
    /// The tag of a replication, by its UUID.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it does not begin with eight hexadecimal digits.
    pub fn of(replication: &str) -> Result<Self> {
        match replication.get(..8) {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Ok(Self(format!("ls-{}", digits.to_ascii_lowercase())))
            }
            _ => Err(Error::Invalid {
                what: format!("the id of a replication, {replication:?},"),
                reason: "it is a UUID".into(),
            }),
        }
    }

    /// `ls-1b4e28ba`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of what belongs to a disk: `ls-1b4e28ba-c0`. QEMU takes 31 characters.
    pub(crate) fn part(&self, letter: char, index: u32) -> String {
        format!("{}-{letter}{index}", self.0)
    }

    /// Whether a name is one of [`Tag::part`]'s, with that letter.
    pub(crate) fn is_part(&self, name: &str, letter: char) -> bool {
        let digits = name.strip_prefix(self.as_str()).and_then(|rest| rest.strip_prefix('-')?.strip_prefix(letter));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// The name of the bitmap that records since cycle `number`.
    pub(crate) fn bitmap(&self, number: u64) -> String {
        format!("{}-{number}", self.0)
    }

    /// The inverse of [`Tag::bitmap`].
    pub(crate) fn number(&self, bitmap: &str) -> Option<u64> {
        let digits = bitmap.strip_prefix(self.as_str())?.strip_prefix('-')?;
        let number = digits.parse().ok()?;
        // Not `+7` or `007`, which are not ours.
        (self.bitmap(number) == bitmap).then_some(number)
    }

    /// The tag of any replication, if a name of a filter is one of ours.
    pub(crate) fn of_filter(name: &str) -> Option<Self> {
        let tag = Self::of(name.strip_prefix("ls-")?).ok()?;
        tag.is_part(name, 'c').then_some(tag)
    }
}

/// A bitmap of a replication, on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) is_recording: bool,
    pub(crate) is_inconsistent: bool,
}

/// A change of a disk's bitmaps; a list of them is done in order, and whole or not at all where that can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Enable(u64),
    Merge { target: u64, source: u64 },
    Remove(u64),
}

/// What is to be done with a disk's bitmaps, and what may be used then.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub(crate) actions: Vec<Action>,
    /// `Ok` when the bitmap of the last instance may be used; else why not, for people.
    pub(crate) usable: Result<u64, String>,
}

/// Judges the bitmaps of a disk by the last instance that the destination has.
pub(crate) fn resolve(found: &[Found], committed: Option<u64>) -> Resolution {
    let remove_all = |why: String| Resolution {
        actions: found.iter().map(|bitmap| Action::Remove(bitmap.number)).collect(),
        usable: Err(why),
    };
    let Some(committed) = committed else { return remove_all("there is no instance yet".into()) };
    let Some(base) = found.iter().find(|bitmap| bitmap.number == committed) else {
        let mut numbers: Vec<String> = found.iter().map(|bitmap| bitmap.number.to_string()).collect();
        numbers.sort();
        return remove_all(match numbers.as_slice() {
            [] => "the disk has no bitmap of the last instance".into(),
            _ => {
                format!("the disk has bitmaps of cycle {}, and the last instance is of {committed}", numbers.join(", "))
            }
        });
    };
    if base.is_inconsistent {
        return remove_all("QEMU ended without saving the bitmap".into());
    }
    let mut actions = Vec::new();
    let later: Vec<&Found> = found.iter().filter(|bitmap| bitmap.number > committed).collect();
    match later.as_slice() {
        [] if base.is_recording => {}
        [] => return remove_all("the bitmap does not record".into()),
        [next] if next.number == committed + 1 && next.is_recording && !next.is_inconsistent => {
            if !base.is_recording {
                actions.push(Action::Enable(committed));
            }
            actions.push(Action::Merge { target: committed, source: next.number });
            actions.push(Action::Remove(next.number));
        }
        _ => {
            return remove_all("a bitmap between the last instance and the present is missing or was not saved".into());
        }
    }
    actions.extend(found.iter().filter(|bitmap| bitmap.number < committed).map(|bitmap| Action::Remove(bitmap.number)));
    Resolution { actions, usable: Ok(committed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `7` records, `7-` stands still, `7!` is inconsistent.
    fn check(found: &str, committed: Option<u64>, actions: &str, is_usable: bool) {
        let bitmaps: Vec<Found> = found
            .split_ascii_whitespace()
            .map(|text| Found {
                number: text.trim_end_matches(['-', '!']).parse().unwrap(),
                is_recording: !text.ends_with(['-', '!']),
                is_inconsistent: text.ends_with('!'),
            })
            .collect();
        let resolution = resolve(&bitmaps, committed);
        let done: Vec<String> = resolution
            .actions
            .iter()
            .map(|action| match action {
                Action::Enable(number) => format!("+{number}"),
                Action::Merge { target, source } => format!("{source}>{target}"),
                Action::Remove(number) => format!("-{number}"),
            })
            .collect();
        assert_eq!(done.join(" "), actions, "{found} with {committed:?}");
        assert_eq!(resolution.usable.is_ok(), is_usable, "{found} with {committed:?}");
    }

    #[test]
    fn the_table() {
        check("", None, "", false);
        check("", Some(7), "", false);
        check("7", Some(7), "", true);
        check("6- 7", Some(7), "-6", true);
        check("7- 8", Some(7), "+7 8>7 -8", true);
        check("7 8", Some(7), "8>7 -8", true);
        check("6- 7- 8", Some(7), "+7 8>7 -8 -6", true);
        check("6! 7", Some(7), "-6", true);
        check("1 2", None, "-1 -2", false);
    }

    #[test]
    fn what_cannot_be_trusted_is_removed() {
        check("7!", Some(7), "-7", false);
        check("7-", Some(7), "-7", false);
        check("7- 8!", Some(7), "-7 -8", false);
        check("7- 8-", Some(7), "-7 -8", false);
        check("7- 9", Some(7), "-7 -9", false);
        check("7- 8- 9", Some(7), "-7 -8 -9", false);
        check("6", Some(7), "-6", false);
        check("8", Some(7), "-8", false);
        check("6- 8", Some(7), "-6 -8", false);
    }

    #[test]
    fn names_are_read_back_and_others_left_alone() {
        let tag = Tag::of("1B4E28BA-2fa1-11d2-883f-0016d3cca427").unwrap();
        assert_eq!(tag.bitmap(7), "ls-1b4e28ba-7");
        assert_eq!(tag.number("ls-1b4e28ba-7"), Some(7));
        for other in ["ls-1b4e28bb-7", "ls-1b4e28ba-07", "ls-1b4e28ba-+7", "ls-1b4e28ba-", "ls-1b4e28ba-c7", "b"] {
            assert_eq!(tag.number(other), None, "{other}");
        }
        assert!(tag.is_part(&tag.part('c', 12), 'c') && !tag.is_part(&tag.part('c', 12), 's'));
        assert!(!tag.is_part("ls-1b4e28ba-c", 'c') && !tag.is_part("ls-1b4e28bb-c1", 'c'));
        assert_eq!(Tag::of_filter("ls-1b4e28ba-c0"), Some(tag));
        assert_eq!(Tag::of_filter("ls-1b4e28ba-s0"), None);
        assert!(Tag::of("1b4e28").is_err() && Tag::of("1b4e28bö").is_err() && Tag::of("xxxxxxxxx").is_err());
    }
}
