//! Values as libvirt's protocol lays them out: XDR (RFC 4506), of which it needs integers, strings, and opaque bytes of a known length.

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer of libvirt is malformed")]
pub(super) struct Malformed;

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn i32(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// As they are; their number is a multiple of four.
    pub(super) fn opaque(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn string(self, text: &str) -> Self {
        // Names and URIs of ours are short.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut encoder = self.u32(length).opaque(text.as_bytes());
        encoder.0.resize(encoder.0.len().next_multiple_of(4), 0);
        encoder
    }

    /// A value that may be missing, and is not.
    pub(super) fn present(self) -> Self {
        self.u32(1)
    }

    /// A value that is missing.
    pub(super) fn absent(self) -> Self {
        self.u32(0)
    }
}

/// A result, read from its beginning.
#[derive(Debug)]
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn opaque<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.opaque()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.opaque()?))
    }

    pub(super) fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        let padded = length.checked_next_multiple_of(4).ok_or(Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(padded).ok_or(Malformed)?;
        self.0 = rest;
        std::str::from_utf8(&bytes[..length]).map_err(|_| Malformed)
    }

    /// A string that may be missing.
    pub(super) fn optional_string(&mut self) -> Result<Option<&'a str>, Malformed> {
        match self.u32()? {
            0 => Ok(None),
            1 => self.string().map(Some),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let encoder = Encoder::default().u32(7).i32(-2).string("abcde").string("").present().string("x").absent();
        assert_eq!(encoder.0.len() % 4, 0);
        let mut decoder = Decoder(&encoder.0);
        assert_eq!((decoder.u32(), decoder.i32()), (Ok(7), Ok(-2)));
        assert_eq!((decoder.string(), decoder.string()), (Ok("abcde"), Ok("")));
        assert_eq!((decoder.optional_string(), decoder.optional_string()), (Ok(Some("x")), Ok(None)));
        assert_eq!(decoder.u32(), Err(Malformed));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bytes in [
            &[0xff, 0xff, 0xff, 0xff][..],
            &[0, 0, 0, 5, b'a', b'b', b'c', b'd'],
            &[0, 0, 0, 4, 0xff, 0xfe, 0xff, 0xfe],
        ] {
            assert_eq!(Decoder(bytes).string(), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(Decoder(&[0, 0, 0, 2]).optional_string(), Err(Malformed));
    }
}
