//! A column of date_times: compared as instants, given back as they were written.

use lockstep_model::Instant;
use rustc_hash::FxHashMap;

use crate::bits::Bits;
use crate::numbers::IntVec;

const SECOND_NS: i64 = 1_000_000_000;

/// A date_time as text, made on the spot.
#[derive(Clone, Copy)]
pub struct DateTimeText {
    bytes: [u8; 32],
    len: u8,
}

impl DateTimeText {
    /// The text.
    pub fn as_str(&self) -> &str {
        // Digits and punctuation only, see `canonical`.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

/// Date_times, as whole numbers of the coarsest unit that holds all of them.
#[derive(Debug)]
pub(crate) struct Instants {
    set: Bits,
    /// Nanoseconds in a unit: a power of a thousand, up to a second.
    unit_ns: i64,
    numbers: IntVec,
    /// Values that the number does not give back: written with an offset or unusual digits, or outside the numbers' range.
    odd: FxHashMap<u32, Odd>,
}

#[derive(Debug)]
struct Odd {
    instant: i128,
    text: Box<str>,
}

/// How a value reads: from the number, or as it was written.
pub(crate) enum InstantText<'v> {
    Made(DateTimeText),
    Kept(&'v str),
}

impl Default for Instants {
    fn default() -> Self {
        Self { set: Bits::default(), unit_ns: SECOND_NS, numbers: IntVec::default(), odd: FxHashMap::default() }
    }
}

impl Instants {
    pub(crate) fn set_bits(&self) -> &Bits {
        &self.set
    }

    pub(crate) fn instant(&self, slot: u32) -> Option<i128> {
        self.set.contains(slot).then(|| self.instant_of(slot))
    }

    fn instant_of(&self, slot: u32) -> i128 {
        if !self.odd.is_empty()
            && let Some(odd) = self.odd.get(&slot)
        {
            return odd.instant;
        }
        i128::from(self.numbers.get(slot)) * i128::from(self.unit_ns)
    }

    pub(crate) fn text(&self, slot: u32) -> Option<InstantText<'_>> {
        if !self.set.contains(slot) {
            return None;
        }
        if let Some(odd) = self.odd.get(&slot) {
            return Some(InstantText::Kept(&odd.text));
        }
        canonical(self.instant_of(slot)).map(InstantText::Made)
    }

    pub(crate) fn unset(&mut self, slot: u32) {
        self.set.remove(slot);
        self.odd.remove(&slot);
    }

    /// Stores a date_time; whether the text is one.
    pub(crate) fn set(&mut self, slot: u32, text: &str) -> bool {
        let Some(instant) = parse(text) else { return false };
        self.odd.remove(&slot);
        self.set.insert(slot);
        while instant % i128::from(self.unit_ns) != 0 {
            self.refine();
        }
        let number = i64::try_from(instant / i128::from(self.unit_ns));
        self.numbers.set(slot, number.unwrap_or_default());
        if number.is_err() || canonical(instant).is_none_or(|made| made.as_str() != text) {
            self.odd.insert(slot, Odd { instant, text: text.into() });
        }
        true
    }

    /// Goes to the next finer unit. What no longer fits then is kept as it was written.
    fn refine(&mut self) {
        let mut numbers = IntVec::default();
        for slot in self.set.iter() {
            let instant = self.instant_of(slot);
            let number = i64::try_from(instant / i128::from(self.unit_ns / 1000));
            if number.is_err()
                && !self.odd.contains_key(&slot)
                && let Some(made) = canonical(instant)
            {
                self.odd.insert(slot, Odd { instant, text: made.as_str().into() });
            }
            numbers.set(slot, number.unwrap_or_default());
        }
        self.numbers = numbers;
        self.unit_ns /= 1000;
    }

    pub(crate) fn bytes(&self) -> usize {
        let odd = self.odd.capacity() * (size_of::<(u32, Odd)>() + 1)
            + self.odd.values().map(|o| o.text.len()).sum::<usize>();
        self.set.bytes() + self.numbers.bytes() + odd
    }
}

/// The instant in nanoseconds. The common form is read by hand: loading a million resources reads millions of them.
pub(crate) fn parse(text: &str) -> Option<i128> {
    fast(text).or_else(|| Instant::parse(text).map(|i| i.0))
}

fn fast(text: &str) -> Option<i128> {
    let b: &[u8; 20] = text.as_bytes().try_into().ok()?;
    let shaped = b[4] == b'-' && b[7] == b'-' && b[10] == b'T' && b[13] == b':' && b[16] == b':' && b[19] == b'Z';
    let two = |at: usize| -> Option<i64> {
        let (tens, ones) = (b[at].wrapping_sub(b'0'), b[at + 1].wrapping_sub(b'0'));
        (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
    };
    let (year, month, day) = (two(0)? * 100 + two(2)?, two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    // Days that not every month has, and leap seconds, are left to the thorough reader.
    let plain = (1..=12).contains(&month) && (1..=28).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !shaped || !plain {
        return None;
    }
    Some(i128::from(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second) * i128::from(SECOND_NS))
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar. Years begin in March here, so that the leap day ends one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// UTC with `Z` and no, 3, 6 or 9 digits of fraction, as few as hold it; `None` outside the years 0 to 9999.
fn canonical(instant: i128) -> Option<DateTimeText> {
    let seconds = i64::try_from(instant.div_euclid(i128::from(SECOND_NS))).ok()?;
    let nanos = instant.rem_euclid(i128::from(SECOND_NS)) as u64;
    let (day, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u64);
    let (year, month, of_month) = date(day);
    if !(0..=9999).contains(&year) {
        return None;
    }
    let mut out = DateTimeText { bytes: *b"0000-00-00T00:00:00.000000000Z\0\0", len: 20 };
    let mut put = |at: usize, digits: usize, mut number: u64| {
        for i in (at..at + digits).rev() {
            out.bytes[i] = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(0, 4, year as u64);
    put(5, 2, month as u64);
    put(8, 2, of_month as u64);
    put(11, 2, time / 3600);
    put(14, 2, time / 60 % 60);
    put(17, 2, time % 60);
    put(20, 9, nanos);
    let end = match nanos {
        0 => 19,
        n if n % 1_000_000 == 0 => 23,
        n if n % 1000 == 0 => 26,
        _ => 29,
    };
    out.bytes[end] = b'Z';
    out.len = end as u8 + 1;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times_come_back_as_written_and_compare_as_instants() {
        let texts = [
            "2024-05-01T10:00:00Z",
            "2024-02-29T23:59:59Z",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "2024-05-01T12:00:00+02:00",
            "9999-12-30T22:00:00Z",
            "2024-05-01T10:00:00.120Z",
            "2024-05-01T10:00:00.12Z",
            "2024-05-01T10:00:00.000001Z",
            "2024-05-01T10:00:00.000000001Z",
            "9999-12-30T22:00:00Z",
        ];
        let mut column = Instants::default();
        for (slot, text) in texts.iter().enumerate() {
            assert!(column.set(slot as u32, text), "{text}");
        }
        for (slot, text) in texts.iter().enumerate() {
            let read = match column.text(slot as u32) {
                Some(InstantText::Made(made)) => made.as_str().to_owned(),
                Some(InstantText::Kept(kept)) => kept.to_owned(),
                None => String::new(),
            };
            assert_eq!(read, *text);
            assert_eq!(column.instant(slot as u32), Instant::parse(text).map(|i| i.0), "{text}");
        }
        assert_eq!(column.instant(0), column.instant(4));
        assert!(!column.set(99, "2024-13-01T00:00:00Z") && !column.set(99, "2023-02-29T00:00:00Z"));
    }

    #[test]
    fn every_day_of_four_centuries_goes_both_ways() {
        for day in days(1900, 1, 1)..days(2300, 1, 1) {
            let (y, m, d) = date(day);
            assert_eq!(days(y, m, d), day);
        }
    }
}
