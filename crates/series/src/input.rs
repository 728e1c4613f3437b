//! Numbers in bytes.

use crate::error::Corrupt;

/// Bytes that are read from the front. Whatever is wrong with them is an error, never a panic.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

const SHORT: Corrupt = Corrupt("ends too early");

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Corrupt> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Corrupt> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Corrupt> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Corrupt> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Corrupt> {
        self.array().map(i64::from_le_bytes)
    }

    /// A number of 7 bits a byte, the low ones first.
    pub(crate) fn varint(&mut self) -> Result<u64, Corrupt> {
        let mut number = 0;
        for (nth, byte) in self.rest.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                // The tenth byte has room for one bit only.
                if nth == 9 && *byte > 1 {
                    return Err(Corrupt("a number is too large"));
                }
                self.rest = &self.rest[nth + 1..];
                return Ok(number);
            }
        }
        Err(if self.rest.len() < 10 { SHORT } else { Corrupt("a number is too large") })
    }

    /// A number that may be negative.
    pub(crate) fn signed(&mut self) -> Result<i64, Corrupt> {
        self.varint().map(|number| (number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// How many of something follow, each of at least a byte: bounded by what is there, so that nobody reserves more.
    pub(crate) fn count(&mut self) -> Result<usize, Corrupt> {
        let count = self.varint()?;
        if count > self.rest.len() as u64 {
            return Err(Corrupt("a count is too large"));
        }
        Ok(count as usize)
    }

    pub(crate) fn end(&self) -> Result<(), Corrupt> {
        if self.rest.is_empty() { Ok(()) } else { Err(Corrupt("bytes are left over")) }
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_varint(out, zigzag(number));
}

/// Small numbers of either sign become small numbers.
pub(crate) fn zigzag(number: i64) -> u64 {
    (number << 1) as u64 ^ (number >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_short_input_is_refused() {
        for number in [0, 1, -1, 63, 64, -64, -65, 1 << 40, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_signed(&mut out, number);
            assert_eq!(Input::new(&out).signed(), Ok(number));
            out.pop();
            assert_eq!(Input::new(&out).signed(), Err(SHORT));
        }
        assert!(Input::new(&[0xff; 12]).varint().is_err());
        assert!(Input::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint().is_err());
        assert!(Input::new(&[5, 0, 0]).count().is_err());
    }
}
