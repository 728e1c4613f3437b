//! What a `put` carries: blocks, and entries of the map.
//!
//! ```text
//!   version   u8         1
//!   blocks    u32        how many
//!   runs      u32        how many
//!   a block:  hash       32 bytes, BLAKE3 of the plain bytes
//!             form       u8: 0 plain, 1 zstd
//!             plain      u32: length of the plain bytes, 1 to 65536
//!             length     u32: length of what follows; below `plain` for zstd, `plain` for plain
//!             bytes
//!   a run:    disk       u32: its key
//!             first      u32: number of the first block
//!             count      u32: blocks, one after the other
//!             kind       u8: 0 they are zeroes, 1 their hashes follow, 32 bytes each
//! ```
//! Numbers are little endian. All that is said of lengths is checked before anything is taken by it; whether the bytes have their hash,
//! the block store checks. A block costs 41 bytes here, and 32 and a little in the map: a sixth of a percent of 64 KiB.

use bytes::{Buf, Bytes};
use lockstep_contract::services::replication_receive::FRAME_BYTES_MAX;

/// The version that is written and read.
const VERSION: u8 = 1;

/// Length of what stands before the blocks.
const HEAD_BYTES: usize = 9;

/// Length of what stands before a block's bytes.
pub const BLOCK_HEAD_BYTES: usize = 41;

/// Length of a run without its hashes.
const RUN_BYTES: usize = 13;

/// Length of a hash.
pub const HASH_BYTES: usize = 32;

/// Most plain bytes of a block.
const PLAIN_BYTES_MAX: u32 = 65536;

/// Most entries of the map in a frame: runs of zeroes cost next to nothing on the wire, and each entry some 40 bytes where it arrives.
pub const ENTRIES_MAX: usize = 131_072;

/// A hash as it travels.
pub type Hash = [u8; HASH_BYTES];

/// A block as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// BLAKE3 of the plain bytes, as the sender says.
    pub hash: Hash,
    /// Whether `bytes` are compressed.
    pub is_zstd: bool,
    /// Length of the plain bytes.
    pub plain_bytes: u32,
    /// The bytes.
    pub bytes: Bytes,
}

/// What some blocks of a disk, one after the other, are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The disk's key.
    pub disk: u32,
    /// The first block's number.
    pub first: u32,
    /// What they are.
    pub content: Content,
}

/// What the blocks of a [`Run`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// So many blocks of zeroes.
    Zeroes(u32),
    /// Blocks with these hashes.
    Hashes(Vec<Hash>),
}

impl Run {
    fn count(&self) -> usize {
        match &self.content {
            Content::Zeroes(count) => *count as usize,
            Content::Hashes(hashes) => hashes.len(),
        }
    }

    /// The entries one by one.
    pub fn entries(&self) -> impl Iterator<Item = (u32, Option<Hash>)> {
        // The last number was checked to be one when the run was read.
        let hash = |i: u32| match &self.content {
            Content::Zeroes(_) => None,
            Content::Hashes(hashes) => hashes.get(i as usize).copied(),
        };
        (0..self.count() as u32).map(move |i| (self.first.wrapping_add(i), hash(i)))
    }
}

/// A frame that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// Blocks.
    pub blocks: Vec<Block>,
    /// Entries of the map.
    pub runs: Vec<Run>,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is larger than frames are.
    #[error("it has {0} bytes, and {FRAME_BYTES_MAX} are the most")]
    TooLarge(usize),
    /// It is of another version.
    #[error("its version is {0}, not {VERSION}")]
    Version(u8),
    /// It ends too early.
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    /// Something follows.
    #[error("{0} bytes follow its end")]
    Rest(usize),
    /// A block's form or lengths are none.
    #[error("block {number} has form {form}, {plain} plain bytes and {length} bytes")]
    Block {
        /// Which one.
        number: u32,
        /// The form.
        form: u8,
        /// Length of the plain bytes.
        plain: u32,
        /// Length of the bytes.
        length: u32,
    },
    /// A run's kind or range is none.
    #[error("run {number} is of kind {kind} and {count} blocks from {first} on")]
    Run {
        /// Which one.
        number: u32,
        /// The kind.
        kind: u8,
        /// The first block.
        first: u32,
        /// How many.
        count: u32,
    },
    /// It has too many entries.
    #[error("it has more than {ENTRIES_MAX} entries of the map")]
    TooManyEntries,
}

impl Frame {
    /// Reads a frame. The blocks share its bytes.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn read(mut bytes: Bytes) -> Result<Self, FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        let demand = |bytes: &Bytes, length: usize, what| match bytes.len() >= length {
            true => Ok(()),
            false => Err(FrameError::Short(what)),
        };
        demand(&bytes, HEAD_BYTES, "its head")?;
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let (blocks, runs) = (bytes.get_u32_le(), bytes.get_u32_le());
        let mut frame = Self::default();
        for number in 0..blocks {
            demand(&bytes, BLOCK_HEAD_BYTES, "a block's head")?;
            let mut hash = [0; HASH_BYTES];
            bytes.copy_to_slice(&mut hash);
            let (form, plain, length) = (bytes.get_u8(), bytes.get_u32_le(), bytes.get_u32_le());
            let fits = (1..=PLAIN_BYTES_MAX).contains(&plain)
                && match form {
                    0 => length == plain,
                    1 => (1..plain).contains(&length),
                    _ => false,
                };
            if !fits {
                return Err(FrameError::Block { number, form, plain, length });
            }
            demand(&bytes, length as usize, "a block")?;
            let bytes = bytes.split_to(length as usize);
            frame.blocks.push(Block { hash, is_zstd: form == 1, plain_bytes: plain, bytes });
        }
        let mut entries = 0usize;
        for number in 0..runs {
            demand(&bytes, RUN_BYTES, "a run's head")?;
            let (disk, first, count) = (bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le());
            let kind = bytes.get_u8();
            if count == 0 || first.checked_add(count - 1).is_none() || kind > 1 {
                return Err(FrameError::Run { number, kind, first, count });
            }
            entries = entries.saturating_add(count as usize);
            if entries > ENTRIES_MAX {
                return Err(FrameError::TooManyEntries);
            }
            let content = if kind == 0 {
                Content::Zeroes(count)
            } else {
                demand(&bytes, count as usize * HASH_BYTES, "a run's hashes")?;
                let hashes = bytes.split_to(count as usize * HASH_BYTES);
                Content::Hashes(hashes.as_chunks().0.to_vec())
            };
            frame.runs.push(Run { disk, first, content });
        }
        if bytes.is_empty() { Ok(frame) } else { Err(FrameError::Rest(bytes.len())) }
    }
}

/// A frame that is being made.
#[derive(Debug)]
pub struct FrameWriter {
    /// The frame as it will be sent, up to its last block.
    bytes: Vec<u8>,
    block_count: u32,
    runs: Vec<Run>,
    entries: usize,
    run_bytes: usize,
}

impl Default for FrameWriter {
    fn default() -> Self {
        Self::with_room(0)
    }
}

impl FrameWriter {
    /// An empty one, with room for so many bytes.
    pub fn with_room(bytes: usize) -> Self {
        let mut head = Vec::with_capacity(bytes.max(HEAD_BYTES));
        // How much there is of what is filled in at the end.
        head.resize(HEAD_BYTES, 0);
        Self { bytes: head, block_count: 0, runs: Vec::new(), entries: 0, run_bytes: 0 }
    }

    /// Its length so far, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.run_bytes
    }

    /// The same without entries of the map.
    pub fn blocks_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.block_count == 0 && self.runs.is_empty()
    }

    /// Entries so far.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Adds a block. `plain_bytes` is that of its plain bytes; `append` appends these, or fewer that they were compressed to.
    pub fn block(&mut self, hash: &Hash, plain_bytes: usize, append: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(hash);
        let head = self.bytes.len();
        // Filled in when it is known what follows.
        self.bytes.extend_from_slice(&[0; BLOCK_HEAD_BYTES - HASH_BYTES]);
        let start = self.bytes.len();
        append(&mut self.bytes);
        let length = self.bytes.len() - start;
        self.bytes[head] = u8::from(length < plain_bytes);
        // Blocks have at most 64 KiB.
        self.bytes[head + 1..head + 5].copy_from_slice(&(plain_bytes as u32).to_le_bytes());
        self.bytes[head + 5..start].copy_from_slice(&(length as u32).to_le_bytes());
        self.block_count += 1;
    }

    /// Says what a block of a disk is to be. Entries that follow one another become one run.
    pub fn entry(&mut self, disk: u32, number: u32, hash: Option<Hash>) {
        self.entries += 1;
        if let Some(run) = self.runs.last_mut()
            && run.disk == disk
            && (run.first as usize + run.count()) == number as usize
        {
            match (&mut run.content, hash) {
                (Content::Zeroes(count), None) => {
                    *count += 1;
                    return;
                }
                (Content::Hashes(hashes), Some(hash)) => {
                    hashes.push(hash);
                    self.run_bytes += HASH_BYTES;
                    return;
                }
                (Content::Zeroes(_), Some(_)) | (Content::Hashes(_), None) => {}
            }
        }
        self.run_bytes += RUN_BYTES + hash.map_or(0, |_| HASH_BYTES);
        let content = hash.map_or(Content::Zeroes(1), |hash| Content::Hashes(vec![hash]));
        self.runs.push(Run { disk, first: number, content });
    }

    /// The frame.
    pub fn finish(self) -> Vec<u8> {
        let mut out = self.bytes;
        out.reserve(self.run_bytes);
        out[0] = VERSION;
        out[1..5].copy_from_slice(&self.block_count.to_le_bytes());
        // There are fewer runs than entries, and those are counted.
        out[5..HEAD_BYTES].copy_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            out.extend_from_slice(&run.disk.to_le_bytes());
            out.extend_from_slice(&run.first.to_le_bytes());
            out.extend_from_slice(&(run.count() as u32).to_le_bytes());
            match &run.content {
                Content::Zeroes(_) => out.push(0),
                Content::Hashes(hashes) => {
                    out.push(1);
                    out.extend(hashes.iter().flatten());
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut writer = FrameWriter::default();
        writer.block(&[1; 32], 3, |out| out.extend_from_slice(b"abc"));
        writer.block(&[2; 32], 65536, |out| out.extend_from_slice(b"small"));
        writer.entry(2000, 7, Some([1; 32]));
        writer.entry(2000, 8, Some([2; 32]));
        writer.entry(2000, 9, None);
        writer.entry(2000, 10, None);
        writer.entry(2001, 11, None);
        writer.entry(2001, 0, Some([3; 32]));
        assert_eq!((writer.entries(), writer.is_empty()), (6, false));
        let length = writer.len();
        let out = writer.finish();
        assert_eq!(out.len(), length);
        out
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let frame = Frame::read(sample().into()).unwrap();
        assert_eq!(
            frame.blocks.iter().map(|b| (b.is_zstd, b.plain_bytes)).collect::<Vec<_>>(),
            [(false, 3), (true, 65536)]
        );
        assert_eq!(frame.blocks[1].bytes, "small");
        assert_eq!(frame.runs.len(), 4);
        let entries: Vec<_> = frame.runs.iter().flat_map(|r| r.entries().map(|(n, h)| (r.disk, n, h))).collect();
        let expected = [
            (2000, 7, Some([1; 32])),
            (2000, 8, Some([2; 32])),
            (2000, 9, None),
            (2000, 10, None),
            (2001, 11, None),
            (2001, 0, Some([3; 32])),
        ];
        assert_eq!(entries, expected);
        assert_eq!(Frame::read(FrameWriter::default().finish().into()).unwrap(), Frame::default());
    }

    #[test]
    fn what_is_cut_or_longer_is_refused() {
        let whole = sample();
        for length in 0..whole.len() {
            let cut = Frame::read(whole[..length].to_vec().into());
            assert!(matches!(cut, Err(FrameError::Short(_))), "{length}: {cut:?}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(Frame::read(longer.into()), Err(FrameError::Rest(1)));
        let huge = vec![0; FRAME_BYTES_MAX + 1];
        assert_eq!(Frame::read(huge.into()), Err(FrameError::TooLarge(FRAME_BYTES_MAX + 1)));
        assert_eq!(Frame::read(vec![2; 9].into()), Err(FrameError::Version(2)));
    }

    #[test]
    fn lies_about_lengths_take_nothing() {
        let head = |blocks: u32, runs: u32| [&[1][..], &blocks.to_le_bytes(), &runs.to_le_bytes()].concat();
        let block = |form: u8, plain: u32, length: u32| {
            [&head(1, 0)[..], &[0; 32], &[form], &plain.to_le_bytes(), &length.to_le_bytes(), &[0; 100]].concat()
        };
        let cases = [(0, 0, 0), (0, 65537, 65537), (0, 4, 3), (1, 4, 4), (1, 4, 0), (2, 4, 4), (1, u32::MAX, 7)];
        for (form, plain, length) in cases {
            let read = Frame::read(block(form, plain, length).into());
            assert!(matches!(read, Err(FrameError::Block { .. })), "{form} {plain} {length}: {read:?}");
        }
        let run = |first: u32, count: u32, kind: u8| {
            let numbers = [2000u32.to_le_bytes(), first.to_le_bytes(), count.to_le_bytes()].concat();
            Frame::read([&head(0, 1)[..], &numbers, &[kind]].concat().into())
        };
        assert!(run(u32::MAX, 1, 0).is_ok());
        for (first, count, kind) in [(0, 0, 0), (u32::MAX, 2, 0), (0, 1, 2)] {
            assert!(matches!(run(first, count, kind), Err(FrameError::Run { .. })));
        }
        assert_eq!(run(0, ENTRIES_MAX as u32 + 1, 0), Err(FrameError::TooManyEntries));
        assert_eq!(run(0, 2, 1), Err(FrameError::Short("a run's hashes")));
        assert_eq!(Frame::read(head(u32::MAX, u32::MAX).into()), Err(FrameError::Short("a block's head")));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::read(bytes.clone().into());
            let mut with_head = vec![1, 1, 0, 0, 0, 1, 0, 0, 0];
            with_head.extend(bytes);
            let _ = Frame::read(with_head.into());
        }
    }
}
