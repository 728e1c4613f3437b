//! Packs: files of blocks and leaves.
//!
//! ```text
//!   head      magic "LOCKPACK" │ version u32 │ zero u32
//!   record    hash 32 │ plain u32 │ stored u32 │ form u8 │ zero u8×3 │ crc32c u32 of the record's head and bytes │ bytes
//!   ...
//!   footer    an entry for each record: hash 32 │ offset u32 │ plain u32 │ stored u32 │ form u8 │ zero u8×3
//!   tail      magic "PACKTAIL" │ offset of the footer u64 │ entries u32 │ crc32c u32 of the footer and the tail so far
//! ```
//! Numbers are little endian. A pack is appended to until it has its size; then it gets its footer, and is sealed. The footer is what an
//! opening store reads. A pack without one was being written when the store was killed: its records are read one by one, those that are not
//! whole are left out, what is behind the last whole one is cut, and it is sealed.

use std::sync::Arc;

use bytes::Bytes;
use lockstep_storage::{Storage, StoredFile};

use crate::format::{HASH_BYTES, hash_of};
use crate::{Error, Hash};

/// A pack is sealed when it has as many bytes.
pub(crate) const PACK_BYTES: u64 = 64 << 20;

/// Most plain bytes of a record: a leaf's.
pub(crate) const PLAIN_BYTES_MAX: u32 = 128 << 10;

const MAGIC: &[u8; 8] = b"LOCKPACK";
const TAIL_MAGIC: &[u8; 8] = b"PACKTAIL";
const VERSION: u32 = 1;
pub(crate) const HEAD_BYTES: u64 = 16;
pub(crate) const RECORD_HEAD_BYTES: usize = 48;
const ENTRY_BYTES: usize = 48;
const TAIL_BYTES: usize = 24;

/// How bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// A zstd frame of them.
    Zstd,
}

/// A block or a leaf, to be stored. Its bytes have been checked against its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// How `bytes` are.
    pub form: Form,
    /// Length of the plain bytes.
    pub plain_bytes: u32,
    /// The bytes.
    pub bytes: Bytes,
}

impl Block {
    /// A block of plain bytes, at most 128 KiB, compressed if that pays.
    pub fn of_plain(plain: &[u8]) -> Self {
        // Compressing to a level that is known does not fail; were it to, the bytes are stored as they are.
        let packed = zstd::bulk::compress(plain, 1).ok().filter(|packed| packed.len() < plain.len());
        let (form, bytes) = match packed {
            Some(packed) => (Form::Zstd, packed.into()),
            None => (Form::Plain, Bytes::copy_from_slice(plain)),
        };
        Self { hash: hash_of(plain), form, plain_bytes: u32::try_from(plain.len()).unwrap_or(u32::MAX), bytes }
    }

    /// Bytes of its record.
    pub(crate) fn record_bytes(&self) -> u64 {
        (RECORD_HEAD_BYTES + self.bytes.len()) as u64
    }

    /// Appends its record.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&self.plain_bytes.to_le_bytes());
        // Both lengths were checked to be at most PLAIN_BYTES_MAX.
        out.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&[form_byte(self.form), 0, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), &self.bytes);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }
}

fn form_byte(form: Form) -> u8 {
    match form {
        Form::Plain => 0,
        Form::Zstd => 1,
    }
}

fn read_form(byte: u8) -> Option<Form> {
    match byte {
        0 => Some(Form::Plain),
        1 => Some(Form::Zstd),
        _ => None,
    }
}

/// Where something is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    /// Of its record.
    pub(crate) offset: u32,
    pub(crate) plain_bytes: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) form: Form,
}

impl Place {
    pub(crate) fn record_bytes(&self) -> u64 {
        RECORD_HEAD_BYTES as u64 + u64::from(self.stored_bytes)
    }

    /// Reads the record, whose checksum and hash are checked. Its bytes as they are stored.
    pub(crate) fn read_stored(&self, file: &dyn StoredFile, hash: &Hash) -> Result<Block, Damaged> {
        let mut record = vec![0; RECORD_HEAD_BYTES + self.stored_bytes as usize];
        let read = file.read_at(u64::from(self.offset), &mut record).map_err(Damaged::Unreadable)?;
        let whole = read == record.len();
        let found = whole.then(|| read_record(&record)).flatten().ok_or(Damaged::Record)?;
        let is_it = found.hash == *hash && found.plain_bytes == self.plain_bytes && found.form == self.form;
        if is_it { Ok(found) } else { Err(Damaged::Record) }
    }

    /// Reads the plain bytes, which have the hash.
    pub(crate) fn read(&self, file: &dyn StoredFile, hash: &Hash) -> Result<Bytes, Damaged> {
        plain(&self.read_stored(file, hash)?)
    }
}

/// The plain bytes of a block, which have its hash.
pub(crate) fn plain(block: &Block) -> Result<Bytes, Damaged> {
    let plain: Bytes = match block.form {
        Form::Plain => block.bytes.clone(),
        Form::Zstd => {
            let limit = block.plain_bytes as usize;
            zstd::bulk::decompress(&block.bytes, limit).map_err(|_| Damaged::Content)?.into()
        }
    };
    let is_it = plain.len() == block.plain_bytes as usize && hash_of(&plain) == block.hash;
    if is_it { Ok(plain) } else { Err(Damaged::Content) }
}

/// What is wrong with a record.
#[derive(Debug)]
pub(crate) enum Damaged {
    Unreadable(std::io::Error),
    /// It is torn, or has another checksum.
    Record,
    /// Its bytes do not have its hash.
    Content,
}

/// How long a record at the beginning of `bytes` says to be; none when that is no length of one.
fn record_length(bytes: &[u8]) -> Option<u64> {
    let stored = u32::from_le_bytes(*bytes.get(HASH_BYTES + 4..)?.first_chunk()?);
    (stored <= PLAIN_BYTES_MAX).then(|| RECORD_HEAD_BYTES as u64 + u64::from(stored))
}

/// The record at the beginning of `bytes`; none when it is not whole.
fn read_record(bytes: &[u8]) -> Option<Block> {
    let (head, rest) = bytes.split_at_checked(RECORD_HEAD_BYTES)?;
    let (hash, numbers) = head.split_first_chunk::<HASH_BYTES>()?;
    let number = |at: usize| Some(u32::from_le_bytes(*numbers.get(at..)?.first_chunk()?));
    let (plain_bytes, stored_bytes, checksum) = (number(0)?, number(4)?, number(12)?);
    let form = read_form(numbers[8])?;
    if plain_bytes > PLAIN_BYTES_MAX || stored_bytes > PLAIN_BYTES_MAX {
        return None;
    }
    let bytes = rest.get(..stored_bytes as usize)?;
    let found = crc32c::crc32c_append(crc32c::crc32c(&head[..RECORD_HEAD_BYTES - 4]), bytes);
    (found == checksum).then(|| Block { hash: *hash, form, plain_bytes, bytes: Bytes::copy_from_slice(bytes) })
}

/// The name of a pack's file.
pub(crate) fn file_name(number: u32) -> String {
    format!("pack.{number:08x}")
}

/// The number in a file's name.
pub(crate) fn number_of(file: &str) -> Option<u32> {
    let digits = file.strip_prefix("pack.").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}

/// The head of a new pack.
pub(crate) fn head() -> [u8; HEAD_BYTES as usize] {
    let mut head = [0; HEAD_BYTES as usize];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// What a pack has: each record by its hash, in their order.
pub(crate) type Entries = Vec<(Hash, Place)>;

/// Footer and tail of a pack whose records end at `end`.
pub(crate) fn footer(entries: &Entries, end: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_BYTES + TAIL_BYTES);
    for (hash, place) in entries {
        out.extend_from_slice(hash);
        for number in [place.offset, place.plain_bytes, place.stored_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[form_byte(place.form), 0, 0, 0]);
    }
    out.extend_from_slice(TAIL_MAGIC);
    out.extend_from_slice(&end.to_le_bytes());
    // A pack of 64 MiB has at most some million records.
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// What a sealed pack has; none when it is not sealed.
pub(crate) fn read_footer(file: &dyn StoredFile, pack: u32) -> std::io::Result<Option<Entries>> {
    read_footer_of(file, pack, HEAD_BYTES)
}

/// `least` is where a footer can begin; that of one that begins at 0 tells of records elsewhere.
fn read_footer_of(file: &dyn StoredFile, pack: u32, least: u64) -> std::io::Result<Option<Entries>> {
    let length = file.bytes()?;
    let mut tail = [0; TAIL_BYTES];
    if length < least + TAIL_BYTES as u64 || file.read_at(length - TAIL_BYTES as u64, &mut tail)? < TAIL_BYTES {
        return Ok(None);
    }
    let Some((magic, numbers)) = tail.split_first_chunk::<8>() else { return Ok(None) };
    let Some((start, numbers)) = numbers.split_first_chunk::<8>() else { return Ok(None) };
    let Some(count) = numbers.first_chunk::<4>() else { return Ok(None) };
    let (start, count) = (u64::from_le_bytes(*start), u32::from_le_bytes(*count) as u64);
    let bytes = count * ENTRY_BYTES as u64;
    let fits = start.checked_add(bytes).and_then(|end| end.checked_add(TAIL_BYTES as u64)) == Some(length);
    if magic != TAIL_MAGIC || !fits {
        return Ok(None);
    }
    let mut footer = vec![0; bytes as usize + TAIL_BYTES];
    let read = file.read_at(start, &mut footer)?;
    let Some((told, checksum)) = footer.split_last_chunk::<4>() else { return Ok(None) };
    if read < footer.len() || crc32c::crc32c(told) != u32::from_le_bytes(*checksum) {
        return Ok(None);
    }
    let entries = footer[..bytes as usize].chunks_exact(ENTRY_BYTES).map(|entry| {
        let (hash, numbers) = entry.split_first_chunk::<HASH_BYTES>()?;
        let number = |at: usize| Some(u32::from_le_bytes(*numbers.get(at..)?.first_chunk()?));
        let form = read_form(numbers[12])?;
        let place = Place { pack, offset: number(0)?, plain_bytes: number(4)?, stored_bytes: number(8)?, form };
        let fits = start == 0 || u64::from(place.offset) + place.record_bytes() <= start;
        fits.then_some((*hash, place))
    });
    Ok(entries.collect())
}

/// What a pack has, by a file that holds its footer and nothing else.
pub(crate) fn read_footer_alone(file: &dyn StoredFile, pack: u32) -> std::io::Result<Option<Entries>> {
    read_footer_of(file, pack, 0)
}

/// The whole records of a pack that is not sealed, and where they end.
pub(crate) fn read_records(file: &dyn StoredFile, pack: u32) -> std::io::Result<(Entries, u64)> {
    let length = file.bytes()?;
    let (mut entries, mut at, mut end) = (Entries::new(), HEAD_BYTES, HEAD_BYTES);
    let mut record = vec![0; RECORD_HEAD_BYTES + PLAIN_BYTES_MAX as usize];
    let mut found = [0; HEAD_BYTES as usize];
    file.read_at(0, &mut found)?;
    if found != head() {
        return Ok((entries, 0));
    }
    while at < length {
        let read = file.read_at(at, &mut record)?;
        let Ok(offset) = u32::try_from(at) else { break };
        let Some(block) = read_record(&record[..read]) else {
            // A torn end, or damage in the middle: what is whole behind it must not be lost with it. Zeroes are room that was made and
            // not written: no record begins so, and millions of empty ones would be looked for there.
            let is_hole = record[..read.min(RECORD_HEAD_BYTES)].iter().all(|byte| *byte == 0);
            let Some(length) = record_length(&record[..read]).filter(|_| !is_hole) else { break };
            at += length;
            continue;
        };
        let (plain_bytes, form) = (block.plain_bytes, block.form);
        // At most PLAIN_BYTES_MAX.
        let stored_bytes = block.bytes.len() as u32;
        let place = Place { pack, offset, plain_bytes, stored_bytes, form };
        at += place.record_bytes();
        end = at;
        entries.push((block.hash, place));
    }
    Ok((entries, end))
}

/// Opens a pack's file.
pub(crate) fn open(storage: &dyn Storage, number: u32) -> Result<Arc<dyn StoredFile>, Error> {
    let name = file_name(number);
    storage.open(&name).map_err(Error::io(format!("opening {}", storage.shown(&name))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use lockstep_storage::faulty::Disk;

    use super::*;

    fn pack(blocks: &[Block]) -> (Disk, Entries, u64) {
        let disk = Disk::default();
        let file = disk.create("pack.00000001").unwrap();
        let mut bytes = head().to_vec();
        blocks.iter().for_each(|block| block.write(&mut bytes));
        file.write_at(0, &bytes).unwrap();
        let (entries, end) = read_records(&*file, 1).unwrap();
        assert_eq!(end, bytes.len() as u64);
        (disk, entries, end)
    }

    #[test]
    fn records_read_back_from_the_footer_and_without() {
        let blocks = [Block::of_plain(&[1; 65536]), Block::of_plain(b"short"), Block::of_plain(&[])];
        let (disk, entries, end) = pack(&blocks);
        let file = disk.open("pack.00000001").unwrap();
        assert_eq!(read_footer(&*file, 1).unwrap(), None);
        file.write_at(end, &footer(&entries, end)).unwrap();
        assert_eq!(read_footer(&*file, 1).unwrap().as_ref(), Some(&entries));
        for (block, (hash, place)) in blocks.iter().zip(&entries) {
            assert_eq!((block.hash, block), (*hash, &place.read_stored(&*file, hash).unwrap()));
            assert_eq!(place.read(&*file, hash).unwrap(), plain(block).unwrap());
        }
    }

    #[test]
    fn a_torn_end_is_not_read() {
        let (disk, entries, end) = pack(&[Block::of_plain(b"one"), Block::of_plain(b"two")]);
        let file = disk.open("pack.00000001").unwrap();
        for cut in 1..end - u64::from(entries[1].1.offset) {
            file.truncate(end - cut).unwrap();
            let (found, at) = read_records(&*file, 1).unwrap();
            assert_eq!((found.len(), at), (1, u64::from(entries[1].1.offset)), "cut by {cut}");
        }
    }

    /// Some bytes, and a hole behind them.
    struct Hole {
        bytes: Vec<u8>,
        reads: AtomicU64,
    }

    impl StoredFile for Hole {
        fn bytes(&self) -> std::io::Result<u64> {
            Ok(PACK_BYTES)
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let there = self.bytes.get(offset as usize..).unwrap_or_default();
            let length = there.len().min(buffer.len());
            buffer.fill(0);
            buffer[..length].copy_from_slice(&there[..length]);
            Ok(buffer.len())
        }

        fn write_at(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Unsupported.into())
        }

        fn truncate(&self, _: u64) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Unsupported.into())
        }

        fn sync(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_hole_behind_the_records_is_not_searched() {
        let mut bytes = head().to_vec();
        Block::of_plain(b"one").write(&mut bytes);
        let end = bytes.len() as u64;
        let file = Hole { bytes, reads: AtomicU64::new(0) };
        let (found, at) = read_records(&file, 1).unwrap();
        assert_eq!((found.len(), at), (1, end));
        assert!(file.reads.load(Ordering::SeqCst) < 10);
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        let (disk, entries, end) = pack(&[Block::of_plain(b"some bytes")]);
        let file = disk.open("pack.00000001").unwrap();
        for at in u64::from(entries[0].1.offset)..end {
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[byte[0] ^ 4]).unwrap();
            let (hash, place) = &entries[0];
            assert!(place.read(&*file, hash).is_err(), "byte {at}");
            file.write_at(at, &byte).unwrap();
        }
    }

    #[test]
    fn names_of_files_are_read() {
        assert_eq!(number_of(&file_name(77)), Some(77));
        for name in ["pack.", "pack.1", "pack.0000000g", "instance.a.b"] {
            assert_eq!(number_of(name), None);
        }
    }
}
