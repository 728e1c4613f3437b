//! Frames: the unit of writing, checking and cutting. Every file of the journal is a run of frames.
//!
//! ```text
//! byte  0  magic            "lsF1"
//!       4  header checksum  CRC32C of bytes 8..40, begun with the file's salt
//!       8  first            u64: the first commit's position, or the first record's number
//!      16  count            u32: commits, or records
//!      20  changes          u32: changes in the commits; 0 elsewhere
//!      24  kind, flags      u8, u8 (bit 0: LZ4), u16 zero
//!      28  raw bytes        u32: of the payload before compression
//!      32  stored bytes     u32: of the payload as it stands here
//!      36  payload checksum CRC32C of the stored payload
//!      40  payload
//! ```
//! All numbers are little-endian. The header has a checksum of its own so that its lengths can be trusted before the payload
//! is read, and so that a search for frames behind a damaged one decides on 40 bytes. Both checksums are needed for a frame to
//! be whole: the header's covers the payload's. The salt is chosen at random for each file: a string that somebody stores can
//! then not be mistaken for a frame, and neither can what a reused disk block held before.

use crate::codec::CodecError;

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 40;

/// Most bytes of a payload before compression: the largest batch, and room for its names.
pub(crate) const RAW_BYTES_MAX: usize = 128 << 20;

const MAGIC: [u8; 4] = *b"lsF1";
const LZ4: u8 = 1;

/// What a frame's records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The first frame of any file: what the file is. Its salt is 0; it names that of the frames after it.
    Head = 1,
    /// Commits; without any, the end of a second that was closed.
    Commits = 2,
    /// Resources of a state, sorted.
    Entries = 3,
    /// Sorted steps of a fold in progress.
    Steps = 4,
    /// The last frame of a state: how many records it has, and since when its tombstones are complete.
    End = 5,
    /// Tombstones of a state.
    Tombstones = 6,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) changes: u32,
    pub(crate) is_compressed: bool,
    pub(crate) raw_bytes: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) payload_checksum: u32,
}

/// What the writer of a frame says of its records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label {
    pub(crate) kind: Kind,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) changes: u32,
}

impl Header {
    /// Reads a header.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES], salt: u32) -> Result<Self, CodecError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC {
            return Err(CodecError("no frame begins here"));
        }
        if u32_at(4) != crc32c::crc32c_append(salt, &bytes[8..]) {
            return Err(CodecError("the checksum of a frame's header is wrong"));
        }
        let kind = match bytes[24] {
            1 => Kind::Head,
            2 => Kind::Commits,
            3 => Kind::Entries,
            4 => Kind::Steps,
            5 => Kind::End,
            6 => Kind::Tombstones,
            _ => return Err(CodecError("unknown kind of frame")),
        };
        let header = Self {
            kind,
            first: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            count: u32_at(16),
            changes: u32_at(20),
            is_compressed: bytes[25] == LZ4,
            raw_bytes: u32_at(28),
            stored_bytes: u32_at(32),
            payload_checksum: u32_at(36),
        };
        // A byte of LZ4 stands for at most 255, so a small frame cannot claim to be a large one.
        let raw_bytes_max =
            if header.is_compressed { u64::from(header.stored_bytes) * 255 } else { header.stored_bytes.into() };
        if bytes[25] > LZ4 || header.raw_bytes as usize > RAW_BYTES_MAX || u64::from(header.raw_bytes) > raw_bytes_max {
            return Err(CodecError("the lengths of a frame cannot be"));
        }
        Ok(header)
    }

    /// The position of the last commit, or of the one before when the frame has none; of frames of commits only.
    pub(crate) fn last(&self) -> u64 {
        self.first.saturating_sub(1).saturating_add(self.count.into())
    }

    /// The size of the whole frame on disk.
    pub(crate) fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.stored_bytes)
    }

    /// Checks the stored payload and puts what it holds at the beginning of `raw`, which grows as needed and never shrinks:
    /// zeroing it anew for every frame would cost as much as decompressing. Gives the payload.
    pub(crate) fn open<'a>(&self, stored: &[u8], raw: &'a mut Vec<u8>) -> Result<&'a [u8], CodecError> {
        if stored.len() != self.stored_bytes as usize || crc32c::crc32c(stored) != self.payload_checksum {
            return Err(CodecError("the checksum of a frame is wrong"));
        }
        let raw_bytes = self.raw_bytes as usize;
        if raw.len() < raw_bytes {
            raw.resize(raw_bytes, 0);
        }
        let payload = &mut raw[..raw_bytes];
        if !self.is_compressed {
            if raw_bytes != stored.len() {
                return Err(CodecError("the lengths of a frame cannot be"));
            }
            payload.copy_from_slice(stored);
            return Ok(payload);
        }
        match lz4_flex::block::decompress_into(stored, payload) {
            Ok(length) if length == raw_bytes => Ok(payload),
            Ok(_) | Err(_) => Err(CodecError("a frame does not decompress")),
        }
    }

    /// The payload that [`Header::open`] put into `raw`.
    pub(crate) fn payload<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        &raw[..self.raw_bytes as usize]
    }
}

/// Appends a frame to `out`; the payload is compressed when that makes it smaller.
pub(crate) fn seal(out: &mut Vec<u8>, salt: u32, label: Label, raw: &[u8]) {
    let at = out.len();
    let payload_at = at + HEADER_BYTES;
    out.resize(payload_at + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    let compressed =
        lz4_flex::block::compress_into(raw, &mut out[payload_at..]).ok().filter(|length| *length < raw.len());
    out.truncate(payload_at + compressed.unwrap_or(0));
    if compressed.is_none() {
        out.extend_from_slice(raw);
    }
    let stored_bytes = (out.len() - payload_at) as u32;
    let payload_checksum = crc32c::crc32c(&out[payload_at..]);
    let header = &mut out[at..payload_at];
    header[..4].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&label.first.to_le_bytes());
    header[16..20].copy_from_slice(&label.count.to_le_bytes());
    header[20..24].copy_from_slice(&label.changes.to_le_bytes());
    header[24] = label.kind as u8;
    header[25] = if compressed.is_some() { LZ4 } else { 0 };
    header[28..32].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    header[32..36].copy_from_slice(&stored_bytes.to_le_bytes());
    header[36..40].copy_from_slice(&payload_checksum.to_le_bytes());
    let checksum = crc32c::crc32c_append(salt, &header[8..]);
    header[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the first frame of `bytes` as commits: what the fuzzer feeds.
///
/// # Errors
/// [`CodecError`] for anything that is not a whole frame of commits of a file with salt 0.
#[doc(hidden)]
pub fn decode_frame(bytes: &[u8]) -> Result<Vec<crate::Commit>, CodecError> {
    let (header, rest) = bytes.split_first_chunk().ok_or(CodecError("ends too early"))?;
    let header = Header::parse(header, 0)?;
    if header.kind != Kind::Commits {
        return Err(CodecError("not a frame of commits"));
    }
    let stored = rest.get(..header.stored_bytes as usize).ok_or(CodecError("ends too early"))?;
    let mut scratch = Vec::new();
    decode_payload(header.open(stored, &mut scratch)?, header.first, header.count)
}

/// Reads a payload of commits that no checksum guards: what the fuzzer reaches the decoder with.
///
/// # Errors
/// [`CodecError`] when it is none.
#[doc(hidden)]
pub fn decode_payload(payload: &[u8], first: u64, count: u32) -> Result<Vec<crate::Commit>, CodecError> {
    let mut commits = Vec::new();
    crate::codec::decode_commits(payload, first, count, &mut Default::default(), |commit| commits.push(commit))?;
    Ok(commits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &[u8], salt: u32) -> Vec<u8> {
        let mut out = vec![7; 3];
        seal(&mut out, salt, Label { kind: Kind::Commits, first: u64::MAX - 2, count: 3, changes: 9 }, raw);
        let frame = out.split_off(3);
        let header = Header::parse(frame.first_chunk().unwrap(), salt).unwrap();
        assert_eq!((header.first, header.count, header.changes, header.last()), (u64::MAX - 2, 3, 9, u64::MAX));
        assert_eq!(header.frame_bytes(), frame.len() as u64);
        let mut opened = Vec::new();
        assert_eq!(header.open(&frame[HEADER_BYTES..], &mut opened), Ok(raw));
        frame
    }

    #[test]
    fn frames_read_back_as_they_were_sealed() {
        let noise =
            std::iter::successors(Some(1u64), |n| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
        let noise: Vec<u8> = noise.map(|n| (n >> 56) as u8).take(999).collect();
        assert!(check(&[b'a'; 9999], 1).len() < 200);
        assert_eq!(check(&noise, 2).len(), noise.len() + HEADER_BYTES);
        check(b"", 3);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let frame = check(&[b'a'; 300], 5);
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let header = Header::parse(bad.first_chunk().unwrap(), 5);
            let mut raw = Vec::new();
            let opened = header.and_then(|h| h.open(&bad[HEADER_BYTES..], &mut raw).map(<[u8]>::len));
            assert!(opened.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_file_is_none() {
        assert!(Header::parse(check(b"abc", 1).first_chunk().unwrap(), 2).is_err());
    }
}
