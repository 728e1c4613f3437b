//! Instants: what a `date_time` property means, apart from how it is written.

use jiff::Timestamp;

/// A point in time, in nanoseconds since 1970-01-01T00:00:00Z; ordered by time, whatever offset the text had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(pub i128);

impl Instant {
    /// Reads `YYYY-MM-DDThh:mm:ss[.fraction](Z|±hh:mm)`: the `T` and the offset are required.
    ///
    /// Source: `api/vapi-wire.md`, 2.2, date_time.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        // jiff also takes a blank for the `T` and leaves out seconds; the wire does not.
        if bytes.len() < 20 || bytes[10] != b'T' || bytes[13] != b':' || bytes[16] != b':' || !text.is_ascii() {
            return None;
        }
        // No annotation such as `[Europe/Paris]`, which jiff would accept.
        if bytes.last() == Some(&b']') {
            return None;
        }
        text.parse::<Timestamp>().ok().map(|t| Self(t.as_nanosecond()))
    }

    /// Writes the instant in UTC as `YYYY-MM-DDThh:mm:ssZ`, with as many fraction digits as it has.
    pub fn to_text(self) -> Option<String> {
        Timestamp::from_nanosecond(self.0).ok().map(|t| t.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_compare_by_time_and_demand_t_and_offset() {
        let at = |s| Instant::parse(s);
        assert_eq!(at("2024-05-01T10:00:00Z"), at("2024-05-01T12:00:00+02:00"));
        assert!(at("2024-05-01T10:00:00.001Z") > at("2024-05-01T10:00:00Z"));
        for bad in [
            "2024-05-01 10:00:00Z",
            "2024-05-01T10:00:00",
            "2024-05-01",
            "",
            "2024-13-01T10:00:00Z",
            "yesterday at noon or so",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
        assert_eq!(at("2024-05-01T10:00:00Z").and_then(Instant::to_text).as_deref(), Some("2024-05-01T10:00:00Z"));
    }
}
