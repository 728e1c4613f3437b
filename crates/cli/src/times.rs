//! Times as people write and read them: spans such as `1h30m`, instants such as `2026-11-26T10:00:00Z`.

use std::time::Duration;

use jiff::Timestamp;

/// Units of spans, the longest first: name and seconds.
const UNITS_S: [(&str, i64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// A span: one number or several with their units, as in `5s`, `500ms`, `1.5h` or `1h30m`; a number alone is seconds.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("no time; such as 5s".to_owned());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let scale_s = match unit {
            "ms" => 0.001,
            "" if number.len() == text.trim().len() => 1.0,
            unit => match UNITS_S.iter().find(|(name, _)| *name == unit) {
                Some((_, seconds)) => *seconds as f64,
                None => return Err(format!("{unit:?} is no unit of time: ms, s, m, h, d or w")),
            },
        };
        let seconds = number.parse::<f64>().map_err(|_| format!("{text:?} is no time such as 5s"))? * scale_s;
        let part = Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is too long"))?;
        total = total.checked_add(part).ok_or_else(|| format!("{text:?} is too long"))?;
        rest = behind.trim_start();
    }
    Ok(total)
}

/// A span for which something is shown or waited for again and again: so long that a machine does more than that.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn pause(text: &str) -> Result<Duration, String> {
    let found = duration(text)?;
    if found < Duration::from_millis(100) {
        return Err("less than 100ms would do nothing but read".to_owned());
    }
    Ok(found)
}

/// A span of whole seconds, one at least.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    let found = duration(text)?;
    if found.subsec_nanos() != 0 || found.is_zero() {
        return Err("whole seconds, at least one".to_owned());
    }
    i64::try_from(found.as_secs()).map_err(|_| format!("{text:?} is too long"))
}

/// An instant in seconds since 1970: a date and time with its zone, or those seconds themselves.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn instant(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds);
    }
    let wrong = |_| format!("{text:?} is no time such as 2026-11-26T10:00:00Z, nor seconds since 1970");
    text.parse::<Timestamp>().map(Timestamp::as_second).map_err(wrong)
}

/// The present, in seconds since 1970.
pub(crate) fn now_s() -> i64 {
    Timestamp::now().as_second()
}

/// An instant, given in seconds since 1970, as text that [`instant`] reads.
pub(crate) fn utc(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
}

/// A span for people: its two greatest units, rounded down.
pub(crate) fn span(seconds: i64) -> String {
    let mut left = seconds.max(0);
    let mut parts = Vec::new();
    for (name, unit_s) in UNITS_S.into_iter().skip(1) {
        let count = left / unit_s;
        left %= unit_s;
        if count > 0 {
            parts.push(format!("{count}{name}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// How long ago or ahead an instant is, both in seconds since 1970.
pub(crate) fn relative(at_s: i64, now_s: i64) -> String {
    match at_s.saturating_sub(now_s) {
        0 => "now".to_owned(),
        ahead if ahead > 0 => format!("in {}", span(ahead)),
        ago => format!("{} ago", span(ago.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        for (text, expected_ms) in [
            ("5", 5000),
            ("5s", 5000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1d", 86_400_000),
            ("1w", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected_ms)), "{text}");
        }
        for text in ["", " ", "s", "1y", "1 2", "1h30", "-1s", "1..2s", "1e400s", "99999999999999999999w", "5 s x", "é"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_repeats_waits_a_while() {
        assert_eq!(pause("100ms"), Ok(Duration::from_millis(100)));
        assert!(pause("0").is_err() && pause("99ms").is_err());
        assert_eq!((seconds("1h"), seconds("1.0s")), (Ok(3600), Ok(1)));
        assert!(seconds("0s").is_err() && seconds("1.5s").is_err() && seconds("100ms").is_err());
    }

    #[test]
    fn instants_have_a_zone_or_are_seconds() {
        assert_eq!(instant("2026-11-26T10:00:00Z"), Ok(1_795_687_200));
        assert_eq!(instant("2026-11-26T12:00:00+02:00"), Ok(1_795_687_200));
        assert_eq!(instant("1795687200"), Ok(1_795_687_200));
        assert!(instant("2026-11-26T10:00:00").is_err() && instant("tomorrow").is_err() && instant("").is_err());
        assert_eq!(utc(1_795_687_200), "2026-11-26T10:00:00Z");
        assert_eq!(utc(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn spans_are_shown_by_two_units() {
        for (seconds, expected) in [
            (-1, "0s"),
            (0, "0s"),
            (10, "10s"),
            (60, "1m"),
            (90, "1m 30s"),
            (6000, "1h 40m"),
            (3601, "1h"),
            (90_000, "1d 1h"),
            (86_400 * 30, "30d"),
        ] {
            assert_eq!(span(seconds), expected);
        }
        assert_eq!(relative(6000, 0), "in 1h 40m");
        assert_eq!(relative(0, 12), "12s ago");
        assert_eq!(relative(7, 7), "now");
        assert_eq!(relative(i64::MIN, i64::MAX), format!("{} ago", span(i64::MAX)));
    }
}
