//! Tokens that name the next page of an answer.
//!
//! A token says where the next page begins, and carries a check over that, the operation and everything that must stay the same. It is
//! no secret and holds no promise: it keeps a client from going on with another question than it began with.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lockstep_contract::Error;

/// Longest token; the longest that is given is some hundred bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// What a page belongs to: the operation, and what it was asked for.
pub(crate) struct Scope<'a> {
    pub(crate) operation: &'static str,
    /// Everything but the page, in one form.
    pub(crate) asked: &'a str,
}

impl Scope<'_> {
    fn check(&self, at: &[u8]) -> [u8; 4] {
        let mut sum = crc32c::crc32c(self.operation.as_bytes());
        for part in [self.asked.as_bytes(), at] {
            sum = crc32c::crc32c_append(sum, &(part.len() as u64).to_le_bytes());
            sum = crc32c::crc32c_append(sum, part);
        }
        sum.to_le_bytes()
    }

    /// The token of the page that begins at `at`.
    pub(crate) fn token(&self, at: &str) -> String {
        let mut bytes = self.check(at.as_bytes()).to_vec();
        bytes.extend_from_slice(at.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Where the page of a token begins. `place` is the field that holds the token.
    ///
    /// # Errors
    /// `invalid_argument` for what is no token, or one of another question.
    pub(crate) fn read(&self, token: &str, place: &str) -> Result<String, Error> {
        let refuse = || {
            let message = "no page of this question: pass the `next` of its previous page, and ask the same";
            Error::invalid_argument("lockstep.stats.page", place, message)
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refuse());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refuse())?;
        let (check, at) = bytes.split_first_chunk::<4>().ok_or_else(refuse)?;
        if self.check(at) != *check {
            return Err(refuse());
        }
        String::from_utf8(at.to_vec()).map_err(|_| refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_question() {
        let scope = Scope { operation: "a", asked: "x=1" };
        let token = scope.token("17");
        assert_eq!(scope.read(&token, "page"), Ok("17".to_owned()));
        for other in [Scope { operation: "b", asked: "x=1" }, Scope { operation: "a", asked: "x=2" }] {
            assert!(other.read(&token, "page").is_err());
        }
        for token in ["", "x", "%%%", "AAAAAAAA", &token[1..], &"A".repeat(5000)] {
            assert!(scope.read(token, "page").is_err(), "{token}");
        }
    }
}
