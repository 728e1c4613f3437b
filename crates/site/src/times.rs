//! Instants as documents and the wire have them: milliseconds since 1970, and text.

use jiff::Timestamp;
use lockstep_contract::DateTime;

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

/// The instant as the contract writes it.
pub fn date_time(ms: i64) -> DateTime {
    DateTime(text(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_have_milliseconds_and_read_back() {
        for (ms, text) in [(0, "1970-01-01T00:00:00.000Z"), (1_714_557_600_120, "2024-05-01T10:00:00.120Z")] {
            assert_eq!(date_time(ms).0, text);
            assert_eq!(read_ms(text), Some(ms));
        }
    }
}
