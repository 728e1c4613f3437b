//! Frames: the unit of writing, checking and cutting in the log, and all there is in the small files.
//!
//! ```text
//! byte  0  magic            "lsT1"
//!       4  header checksum  CRC32C of bytes 8..32, begun with the file's salt
//!       8  number           u64: of the frame in its file; the head's is 0
//!      16  kind             u8, three zeroes
//!      20  points           u32: in the batches; 0 elsewhere
//!      24  payload bytes    u32
//!      28  payload checksum CRC32C of the payload
//!      32  payload
//! ```
//! All numbers are little-endian. The header has a checksum of its own, so that its length can be trusted before the payload is
//! read and a search for frames behind a damaged one decides on 32 bytes. The salt is random for each segment: what a reused
//! disk block held before cannot be mistaken for a frame, nor can a value that somebody stores.

use crate::error::Corrupt;

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 32;

/// Most bytes of a payload: a group of batches, the last of which may be the largest possible.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 128 << 20;

const MAGIC: [u8; 4] = *b"lsT1";

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The first of a segment: what the file is. Its salt is 0; it names that of the frames after it.
    Head = 1,
    /// Batches that became durable by one flush.
    Batches = 2,
    /// The manifest.
    Manifest = 3,
    /// How far the log was forwarded.
    Cursor = 4,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
    pub(crate) points: u32,
    pub(crate) payload_bytes: u32,
    payload_checksum: u32,
}

impl Header {
    /// Reads a header.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES], salt: u32) -> Result<Self, Corrupt> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC {
            return Err(Corrupt("no frame begins here"));
        }
        if u32_at(4) != crc32c::crc32c_append(salt, &bytes[8..]) {
            return Err(Corrupt("the checksum of a frame's header is wrong"));
        }
        let kind = match bytes[16] {
            1 => Kind::Head,
            2 => Kind::Batches,
            3 => Kind::Manifest,
            4 => Kind::Cursor,
            _ => return Err(Corrupt("unknown kind of frame")),
        };
        if u32_at(24) as usize > PAYLOAD_BYTES_MAX {
            return Err(Corrupt("a frame is too long"));
        }
        Ok(Self {
            kind,
            number: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            points: u32_at(20),
            payload_bytes: u32_at(24),
            payload_checksum: u32_at(28),
        })
    }

    /// The size of the whole frame.
    pub(crate) fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

/// Reads the frame at the beginning of `bytes`: its header and payload, both checked.
pub(crate) fn open(bytes: &[u8], salt: u32) -> Result<(Header, &[u8]), Corrupt> {
    let (header, rest) = bytes.split_first_chunk().ok_or(Corrupt("a frame is cut off"))?;
    let header = Header::parse(header, salt)?;
    let payload = rest.get(..header.payload_bytes as usize).ok_or(Corrupt("a frame is cut off"))?;
    if crc32c::crc32c(payload) != header.payload_checksum {
        return Err(Corrupt("the checksum of a frame is wrong"));
    }
    Ok((header, payload))
}

/// Makes a frame of what stands in `out` behind the first [`HEADER_BYTES`], which it fills.
pub(crate) fn seal(out: &mut [u8], salt: u32, kind: Kind, number: u64, points: u32) {
    debug_assert!(out.len() - HEADER_BYTES <= PAYLOAD_BYTES_MAX);
    let (header, payload) = out.split_at_mut(HEADER_BYTES);
    header.fill(0);
    header[..4].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&number.to_le_bytes());
    header[16] = kind as u8;
    header[20..24].copy_from_slice(&points.to_le_bytes());
    header[24..28].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[28..32].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let checksum = crc32c::crc32c_append(salt, &header[8..]);
    header[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// A frame that is a file by itself: no salt, nothing after it.
pub(crate) fn whole_file(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    out.extend_from_slice(payload);
    seal(&mut out, 0, kind, 0, 0);
    out
}

/// Whether a whole frame with a number above `after` begins anywhere in `bytes`. Only there what came before is damage; else
/// it may be a write that a crash tore.
pub(crate) fn is_frame_in(bytes: &[u8], salt: u32, after: u64) -> bool {
    bytes.windows(HEADER_BYTES).enumerate().any(|(at, window)| {
        window[..4] == MAGIC
            && window.first_chunk().is_some_and(|header| {
                Header::parse(header, salt).is_ok_and(|header| header.number > after)
                    && open(&bytes[at..], salt).is_ok()
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_with_any_bit_flipped_or_cut_is_refused() {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(b"some payload");
        seal(&mut frame, 77, Kind::Batches, 9, 3);
        let (header, payload) = open(&frame, 77).unwrap();
        assert_eq!((header.kind, header.number, header.points, payload), (Kind::Batches, 9, 3, &b"some payload"[..]));
        assert_eq!(header.frame_bytes(), frame.len() as u64);
        assert!(open(&frame, 78).is_err(), "the salt counts");
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped, 77).is_err(), "bit {bit}");
        }
        for length in 0..frame.len() {
            assert!(open(&frame[..length], 77).is_err());
        }
        let behind = [&[1, 2, 3][..], &frame].concat();
        assert!(is_frame_in(&behind, 77, 8) && !is_frame_in(&behind, 77, 9) && !is_frame_in(&frame[1..], 77, 0));
    }
}
