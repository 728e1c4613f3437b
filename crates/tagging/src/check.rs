//! Checks of what clients send, before anything is looked up.

use std::collections::HashSet;

use lockstep_contract::Error;
use lockstep_model::{IdError, ResourceId};

/// Most characters of a name, of a type and of a user.
const NAME_CHARS_MAX: usize = 256;

/// Most characters of a description.
const DESCRIPTION_CHARS_MAX: usize = 4096;

/// Most associable types of a category, and most users of a category or a tag.
pub(crate) const SET_MAX: usize = 100;

/// Most objects or tags that one call names.
const ITEMS_MAX: usize = 10_000;

pub(crate) fn invalid(place: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.tagging.invalid", place, message)
}

/// A name, a type or a user: text of one line that shows something.
pub(crate) fn name(place: &str, text: &str) -> Result<(), Error> {
    match text {
        _ if text.trim().is_empty() => Err(invalid(place, "it is empty")),
        _ if text.chars().count() > NAME_CHARS_MAX => {
            Err(invalid(place, &format!("it is longer than {NAME_CHARS_MAX} characters")))
        }
        _ if text.chars().any(char::is_control) => Err(invalid(place, "it holds a control character")),
        _ => Ok(()),
    }
}

pub(crate) fn description(place: &str, text: &str) -> Result<(), Error> {
    match text.chars().count() > DESCRIPTION_CHARS_MAX {
        true => Err(invalid(place, &format!("it is longer than {DESCRIPTION_CHARS_MAX} characters"))),
        false => Ok(()),
    }
}

/// A set of names.
pub(crate) fn set(place: &str, names: &[String]) -> Result<(), Error> {
    if names.len() > SET_MAX {
        return Err(invalid(place, &format!("more than {SET_MAX} elements")));
    }
    let mut seen = HashSet::new();
    for (index, text) in names.iter().enumerate() {
        let place = format!("{place}[{index}]");
        name(&place, text)?;
        if !seen.insert(text) {
            return Err(invalid(&place, &format!("{text} stands there twice")));
        }
    }
    Ok(())
}

/// How many objects or tags a call names.
pub(crate) fn items<T>(place: &str, items: &[T]) -> Result<(), Error> {
    match items.len() > ITEMS_MAX {
        true => Err(invalid(place, &format!("more than {ITEMS_MAX} elements"))),
        false => Ok(()),
    }
}

/// An id that a client chose for something new.
pub(crate) fn new_id(place: &str, id: &ResourceId) -> Result<(), Error> {
    id.check().map_err(|error: IdError| invalid(place, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_something_in_one_line_and_sets_have_no_element_twice() {
        let check = |text: &str| name("n", text).map_err(|e| e.to_string());
        assert_eq!(check("gold"), Ok(()));
        assert_eq!(check(&"ä".repeat(256)), Ok(()));
        for wrong in ["", "  ", "a\nb", "\u{7}", &"x".repeat(257)] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        assert!(description("d", "a\nb").is_ok() && description("d", &"x".repeat(4097)).is_err());
        let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert!(set("s", &[]).is_ok() && set("s", &texts(&["a", "b"])).is_ok());
        let twice = set("s", &texts(&["a", "b", "a"])).unwrap_err();
        assert_eq!(twice.to_string(), "s[2]: a stands there twice");
        assert!(set("s", &(0..101).map(|n| n.to_string()).collect::<Vec<_>>()).is_err());
    }
}
