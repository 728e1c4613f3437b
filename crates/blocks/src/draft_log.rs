//! The log of a draft: what it is of, and what has been said of its map.
//!
//! ```text
//!   record    length u32 of the payload │ crc32c u32 of the payload │ payload
//!   payload   kind u8
//!     1 begun    JSON of `Begun`; the first record
//!     2 entries  disk u32 │ count u32 │ (block u32 │ hash 32, of zeroes for a block of zeroes) × count
//!     3 flushed  bytes u64: how many were stored for it so far │ time u64: milliseconds since 1970
//! ```
//! Little endian. A torn end is cut: what was flushed is in front of it. A log is read a piece at a time, however long it is.

use std::sync::Arc;

use lockstep_storage::{Storage, StoredFile};
use serde::{Deserialize, Serialize};

use crate::format::HASH_BYTES;
use crate::instance::DiskSize;
use crate::writer::Writer;
use crate::{Error, Hash, Name};

/// What the files' names begin with.
pub(crate) const KIND: &str = "draft";

/// Most entries of a record.
const ENTRIES_MAX: usize = 16384;

const ENTRY_BYTES: usize = 4 + HASH_BYTES;

/// Most bytes of the payload of any record but the first, which has a hash for each leaf.
const PAYLOAD_BYTES_MAX: usize = 9 + ENTRIES_MAX * ENTRY_BYTES;

/// Bytes of a log that are read at a time.
const READ_BYTES: usize = 1 << 20;

const ZEROES: Hash = [0; HASH_BYTES];

/// What a draft is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) version: u32,
    /// Drafts have an order.
    pub(crate) number: u64,
    /// When, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) disks: Vec<DiskSize>,
    /// The leaves that each disk begins with, in hex digits.
    pub(crate) leaves: Vec<Vec<String>>,
    /// For each disk, the leaf in which it or the base's ends, when they do not end alike.
    pub(crate) resized: Vec<Option<u32>>,
}

/// Entries of the map of a disk: the number of a block, and what it is; none for zeroes.
pub(crate) type Entries = Vec<(u32, Option<Hash>)>;

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Begun(Begun),
    Entries(u32, Entries),
    /// Bytes that were stored so far, and when that was.
    Flushed(u64, u64),
}

/// A log that is appended to.
pub(crate) struct DraftLog {
    file: Arc<dyn StoredFile>,
    shown: String,
    end: u64,
}

impl DraftLog {
    /// A new log, in the place of one that may be there, durable.
    pub(crate) fn create(writer: &Writer, name: &Name, begun: &Begun) -> Result<Self, Error> {
        let storage = &writer.storage;
        let (file_name, temporary) = (name.file(KIND), name.file("beginning"));
        let shown = storage.shown(&file_name);
        let what = || format!("making {shown}");
        let json = serde_json::to_vec(begun).map_err(|error| Error::Invalid(error.to_string()))?;
        let file = storage.create(&temporary).map_err(Error::io(what()))?;
        let mut bytes = Vec::new();
        record(&mut bytes, 1, &[&json]);
        file.write_at(0, &bytes).map_err(Error::io(what()))?;
        file.sync().map_err(Error::io(what()))?;
        writer.publish(&temporary, &file_name)?;
        Ok(Self { file, end: bytes.len() as u64, shown })
    }

    /// Opens a log that is there, tells each record that it has, and cuts a torn end.
    pub(crate) fn open(
        storage: &dyn Storage,
        name: &Name,
        mut each: impl FnMut(Record) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut reader = Reader::open(storage, name)?;
        while let Some(found) = reader.record()? {
            each(found)?;
        }
        let Reader { file, shown, length, at, .. } = reader;
        if at < length {
            file.truncate(at).map_err(Error::io(format!("cutting {shown}")))?;
        }
        Ok(Self { file, end: at, shown })
    }

    /// Appends entries; durable after [`DraftLog::flush`].
    pub(crate) fn append(&mut self, disk: u32, entries: &[(u32, Option<Hash>)]) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES + 32);
        for entries in entries.chunks(ENTRIES_MAX) {
            let mut payload = Vec::with_capacity(8 + entries.len() * ENTRY_BYTES);
            payload.extend_from_slice(&disk.to_le_bytes());
            // At most ENTRIES_MAX.
            payload.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for (number, hash) in entries {
                payload.extend_from_slice(&number.to_le_bytes());
                payload.extend_from_slice(&hash.unwrap_or(ZEROES));
            }
            record(&mut bytes, 2, &[&payload]);
        }
        self.write(&bytes)
    }

    /// Appends how many bytes were stored so far, and when.
    pub(crate) fn append_flushed(&mut self, stored: u64, time_ms: u64) -> Result<(), Error> {
        let mut bytes = Vec::new();
        record(&mut bytes, 3, &[&stored.to_le_bytes(), &time_ms.to_le_bytes()]);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // What was written in vain is overwritten by the next one.
        self.file.write_at(self.end, bytes).map_err(Error::io(format!("writing {}", self.shown)))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// What makes all that was appended durable, beside whoever appends more.
    pub(crate) fn flusher(&self) -> Flusher {
        Flusher { file: self.file.clone(), shown: self.shown.clone() }
    }
}

/// Flushes a log.
pub(crate) struct Flusher {
    file: Arc<dyn StoredFile>,
    shown: String,
}

impl Flusher {
    pub(crate) fn flush(&self) -> Result<(), Error> {
        self.file.sync().map_err(Error::io(format!("flushing {}", self.shown)))
    }
}

/// What the draft of a log is of; none when it never began.
pub(crate) fn begun(storage: &dyn Storage, name: &Name) -> Result<Option<Begun>, Error> {
    match Reader::open(storage, name)?.record()? {
        Some(Record::Begun(begun)) => Ok(Some(begun)),
        _ => Ok(None),
    }
}

/// A log that is read.
struct Reader {
    file: Arc<dyn StoredFile>,
    shown: String,
    length: u64,
    /// Where the next record begins.
    at: u64,
    /// Bytes of the file from `from` on.
    buffer: Vec<u8>,
    from: u64,
}

impl Reader {
    fn open(storage: &dyn Storage, name: &Name) -> Result<Self, Error> {
        let file_name = name.file(KIND);
        let shown = storage.shown(&file_name);
        let file = storage.open(&file_name).map_err(Error::io(format!("opening {shown}")))?;
        let length = file.bytes().map_err(Error::io(format!("opening {shown}")))?;
        Ok(Self { file, shown, length, at: 0, buffer: Vec::new(), from: 0 })
    }

    /// So many bytes from the next record's beginning on, fewer at the end of the file.
    fn bytes(&mut self, count: usize) -> Result<&[u8], Error> {
        let mut skipped = (self.at - self.from) as usize;
        if skipped + count > self.buffer.len() {
            self.buffer.drain(..skipped.min(self.buffer.len()));
            (self.from, skipped) = (self.at, 0);
            let kept = self.buffer.len();
            let there = usize::try_from(self.length - self.at).unwrap_or(usize::MAX);
            self.buffer.resize(count.max(READ_BYTES).min(there).max(kept), 0);
            let what = || format!("reading {}", self.shown);
            let read =
                self.file.read_at(self.from + kept as u64, &mut self.buffer[kept..]).map_err(Error::io(what()))?;
            self.buffer.truncate(kept + read);
        }
        let end = self.buffer.len().min(skipped + count);
        Ok(&self.buffer[skipped..end])
    }

    /// The next record; none when there is none that is whole.
    fn record(&mut self) -> Result<Option<Record>, Error> {
        let is_first = self.at == 0;
        let Some(length) = self.bytes(8)?.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) else {
            return Ok(None);
        };
        if !is_first && length > PAYLOAD_BYTES_MAX || length as u64 > self.length - self.at {
            return Ok(None);
        }
        let Some((found, bytes)) = read_record(self.bytes(8 + length)?) else { return Ok(None) };
        self.at += bytes as u64;
        Ok(Some(found))
    }
}

fn record(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    // Records are cut far below 4 GiB.
    out.extend_from_slice(&(length as u32).to_le_bytes());
    let checksum = parts.iter().fold(crc32c::crc32c(&[kind]), |sum, part| crc32c::crc32c_append(sum, part));
    out.extend_from_slice(&checksum.to_le_bytes());
    out.push(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The record at the beginning, and its length; none when it is not whole.
fn read_record(bytes: &[u8]) -> Option<(Record, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if crc32c::crc32c(payload) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (kind, content) = payload.split_first()?;
    let found = match kind {
        1 => Record::Begun(serde_json::from_slice(content).ok()?),
        2 => {
            let (disk, content) = content.split_first_chunk::<4>()?;
            let (_count, content) = content.split_first_chunk::<4>()?;
            let entry = |entry: &[u8]| {
                let (number, hash) = entry.split_first_chunk::<4>()?;
                let hash = *hash.first_chunk::<HASH_BYTES>()?;
                Some((u32::from_le_bytes(*number), (hash != ZEROES).then_some(hash)))
            };
            let entries = content.chunks_exact(ENTRY_BYTES).map(entry).collect::<Option<_>>()?;
            Record::Entries(u32::from_le_bytes(*disk), entries)
        }
        3 => {
            let (stored, time_ms) = content.split_first_chunk::<8>()?;
            Record::Flushed(u64::from_le_bytes(*stored), u64::from_le_bytes(*time_ms.first_chunk()?))
        }
        _ => return None,
    };
    Some((found, 8 + payload.len()))
}

#[cfg(test)]
mod tests {
    use lockstep_storage::faulty::Disk;

    use super::*;

    fn read(disk: &Disk, name: &Name) -> (DraftLog, Vec<Record>) {
        let mut records = Vec::new();
        let log = DraftLog::open(disk, name, |record| {
            records.push(record);
            Ok(())
        });
        (log.unwrap(), records)
    }

    #[test]
    fn a_log_reads_back_up_to_a_torn_end() {
        let (disk, name) = (Disk::default(), Name::new("r", "i").unwrap());
        let begun = Begun {
            version: 1,
            number: 7,
            time_ms: 3,
            disks: vec![DiskSize { key: 2000, bytes: 1 << 20 }],
            leaves: vec![vec!["00".to_owned()]],
            resized: vec![None],
        };
        let entries = vec![(3, Some([9; 32])), (4, None)];
        let mut log = DraftLog::create(&Writer::new(Arc::new(disk.clone()), 0), &name, &begun).unwrap();
        log.append(2000, &entries).unwrap();
        let whole = log.end;
        log.append_flushed(77, 5).unwrap();
        let all = [Record::Begun(begun), Record::Entries(2000, entries), Record::Flushed(77, 5)];
        assert_eq!(read(&disk, &name).1, all);
        for cut in 1..log.end - whole {
            log.file.truncate(log.end - cut).unwrap();
            let (opened, records) = read(&disk, &name);
            assert_eq!((opened.end, records.len()), (whole, 2), "cut by {cut}");
            log.end = whole;
            log.append_flushed(77, 5).unwrap();
        }
    }

    #[test]
    fn a_long_log_is_read_in_pieces() {
        let (disk, name) = (Disk::default(), Name::new("r", "i").unwrap());
        let begun =
            Begun { version: 1, number: 1, time_ms: 3, disks: Vec::new(), leaves: Vec::new(), resized: Vec::new() };
        let mut log = DraftLog::create(&Writer::new(Arc::new(disk.clone()), 0), &name, &begun).unwrap();
        let entries: Entries = (0..40_000).map(|number| (number, Some([number as u8 | 1; 32]))).collect();
        for _ in 0..3 {
            log.append(2000, &entries).unwrap();
        }
        assert!(log.end > 4 * READ_BYTES as u64);
        let (opened, records) = read(&disk, &name);
        assert_eq!(opened.end, log.end);
        let found: Entries = records
            .into_iter()
            .flat_map(|record| match record {
                Record::Entries(_, entries) => entries,
                Record::Begun(_) | Record::Flushed(..) => Vec::new(),
            })
            .collect();
        assert_eq!(found, [&entries[..], &entries, &entries].concat());
        let mut reader = Reader::open(&disk, &name).unwrap();
        while reader.record().unwrap().is_some() {
            assert!(reader.buffer.len() <= READ_BYTES + PAYLOAD_BYTES_MAX);
        }
    }
}
