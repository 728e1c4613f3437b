//! Instants as documents and the wire have them: milliseconds since 1970, and text.

use jiff::Timestamp;

/// Milliseconds since 1970, by the system's clock.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The instant as `YYYY-MM-DDThh:mm:ss.fffZ`.
pub fn text(ms: i64) -> String {
    // Out of range only for a clock that is off by thousands of years.
    let at = Timestamp::from_millisecond(ms).unwrap_or_default();
    format!("{at:.3}")
}

/// The instant that a text means.
pub fn read_ms(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}
