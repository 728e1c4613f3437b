//! Reading primitives off a slice; each says what is wrong instead of running past the end.

use super::CodecError;

/// A slice that is read from the front.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        let (&first, rest) = self.rest.split_first().ok_or(CodecError("ends too early"))?;
        self.rest = rest;
        Ok(first)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError("ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// An unsigned LEB128 number of at most 64 bits.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, CodecError> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        self.long_varint(first)
    }

    fn long_varint(&mut self, first: u8) -> Result<u64, CodecError> {
        let mut number = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(CodecError("a number has more than 64 bits"))
    }

    /// A number of things that follow, each at least `each_bytes` long: more than can be there is refused, so that the answer
    /// may be allocated for.
    pub(crate) fn count(&mut self, each_bytes: usize) -> Result<usize, CodecError> {
        let count = self.varint()?;
        self.fits(count, each_bytes)
    }

    /// Checks a count that was read otherwise.
    pub(crate) fn fits(&self, count: u64, each_bytes: usize) -> Result<usize, CodecError> {
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len() / each_bytes)
            .ok_or(CodecError("a count is larger than what follows"))
    }

    /// UTF-8 of the given length.
    #[inline]
    pub(crate) fn text_of(&mut self, length: u64) -> Result<&'a str, CodecError> {
        let length = self.fits(length, 1)?;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| CodecError("a text is not UTF-8"))
    }

    /// A length and as much UTF-8.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, CodecError> {
        let length = self.varint()?;
        self.text_of(length)
    }
}
