//! Text without regard to case: Unicode simple folding, character by character.

use std::borrow::Cow;

/// Appends the folded text. Two texts that differ only in case fold to the same one; lengths in characters stay.
pub(crate) fn fold_into(text: &str, out: &mut String) {
    if text.is_ascii() {
        let from = out.len();
        out.push_str(text);
        out[from..].make_ascii_lowercase();
    } else {
        out.extend(text.chars().map(fold_char));
    }
}

/// The folded text.
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    if is_folded(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    fold_into(text, &mut out);
    Cow::Owned(out)
}

/// Whether folding leaves the text as it is.
pub(crate) fn is_folded(text: &str) -> bool {
    if text.is_ascii() {
        !text.bytes().any(|b| b.is_ascii_uppercase())
    } else {
        text.chars().all(|c| fold_char(c) == c)
    }
}

/// Lower case of the upper case, where each is one character: this is what joins `ς` with `σ` and `ſ` with `s`.
fn fold_char(c: char) -> char {
    fn only(mut chars: impl Iterator<Item = char>, otherwise: char) -> char {
        match (chars.next(), chars.next()) {
            (Some(one), None) => one,
            _ => otherwise,
        }
    }
    // Dotless i has no folding, though its upper case is I.
    if c == 'ı' {
        return c;
    }
    let upper = only(c.to_uppercase(), c);
    only(upper.to_lowercase(), upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_is_simple_and_joins_the_cases() {
        for (a, b) in [
            ("isPoweredOn", "ISPOWEREDON"),
            ("Größe", "GRÖßE"),
            ("ΣΟΦΟΣ", "σοφος"),
            ("σοφος", "σοφοΣ"),
            ("K", "\u{212a}"),
            ("ß", "ẞ"),
        ] {
            assert_eq!(fold(a), fold(b), "{a} {b}");
        }
        assert_ne!(fold("ß"), fold("ss"));
        assert_ne!(fold("ı"), fold("i"));
        assert!(is_folded("prd-web") && !is_folded("Prd-web") && is_folded("größe"));
    }
}
