//! Operation ids: what ties a request's log lines together, here and at the client.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName};

/// The header that names the operation id, in requests and answers.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that may carry an operation id, the first that does counts.
const HEADERS: [&str; 4] = ["x-request-id", "vapi-ctx-opid", "operationid", "opid"];

/// Longest operation id that is taken over from a client.
const BYTES_MAX: usize = 128;

/// The operation id that a client gave in a header.
pub(crate) fn given(headers: &HeaderMap) -> Option<Arc<str>> {
    HEADERS.iter().find_map(|name| checked(headers.get(*name)?.to_str().ok()?))
}

/// The id when it is short and holds nothing that could mislead a reader of the log.
pub(crate) fn checked(id: &str) -> Option<Arc<str>> {
    let fits = !id.is_empty() && id.len() <= BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| id.into())
}

/// An operation id that no other request of this process has, and hardly one of another.
pub(crate) fn new() -> Arc<str> {
    static START: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}", START.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_ids_are_taken_over_only_when_they_are_harmless() {
        assert_eq!(checked("5192ab82-003a").as_deref(), Some("5192ab82-003a"));
        for bad in ["", "a b", "a\u{7f}", "ä", &"x".repeat(BYTES_MAX + 1)] {
            assert_eq!(checked(bad), None, "{bad:?}");
        }
        assert_ne!(new(), new());
    }
}
