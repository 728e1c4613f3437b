//! The log of a draft: what it is of, and what has been said of its map.
//!
//! ```text
//!   record    length u32 of the payload │ crc32c u32 of the payload │ payload
//!   payload   kind u8
//!     1 begun    JSON of `Begun`; the first record
//!     2 entries  disk u32 │ count u32 │ (block u32 │ hash 32, of zeroes for a block of zeroes) × count
//!     3 stored   bytes u64: how many were stored for it so far
//! ```
//! Little endian. A torn end is cut: what was flushed is in front of it.

use std::sync::Arc;

use lockstep_storage::{Storage, StoredFile};
use serde::{Deserialize, Serialize};

use crate::format::HASH_BYTES;
use crate::instance::{DiskSize, read_all};
use crate::writer::Writer;
use crate::{Error, Hash, Name};

/// What the files' names begin with.
pub(crate) const KIND: &str = "draft";

/// Most entries of a record.
const ENTRIES_MAX: usize = 16384;

const ENTRY_BYTES: usize = 4 + HASH_BYTES;
const ZEROES: Hash = [0; HASH_BYTES];

/// What a draft is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) version: u32,
    /// Drafts have an order.
    pub(crate) number: u64,
    pub(crate) disks: Vec<DiskSize>,
    /// The leaves that each disk begins with, in hex digits.
    pub(crate) leaves: Vec<Vec<String>>,
}

/// Entries of the map of a disk: the number of a block, and what it is; none for zeroes.
pub(crate) type Entries = Vec<(u32, Option<Hash>)>;

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Begun(Begun),
    Entries(u32, Entries),
    Stored(u64),
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

    /// Opens a log that is there, cuts a torn end, and gives what it has.
    pub(crate) fn open(storage: &dyn Storage, name: &Name) -> Result<(Self, Vec<Record>), Error> {
        let file_name = name.file(KIND);
        let shown = storage.shown(&file_name);
        let what = || format!("opening {shown}");
        let bytes = read_all(storage, &file_name)?;
        let file = storage.open(&file_name).map_err(Error::io(what()))?;
        let (mut records, mut at) = (Vec::new(), 0);
        while let Some((found, length)) = read_record(&bytes[at..]) {
            records.push(found);
            at += length;
        }
        if at < bytes.len() {
            file.truncate(at as u64).map_err(Error::io(what()))?;
        }
        Ok((Self { file, end: at as u64, shown }, records))
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

    /// Appends how many bytes were stored so far.
    pub(crate) fn append_stored(&mut self, stored: u64) -> Result<(), Error> {
        let mut bytes = Vec::new();
        record(&mut bytes, 3, &[&stored.to_le_bytes()]);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // What was written in vain is overwritten by the next one.
        self.file.write_at(self.end, bytes).map_err(Error::io(format!("writing {}", self.shown)))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn flush(&self) -> Result<(), Error> {
        self.file.sync().map_err(Error::io(format!("flushing {}", self.shown)))
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
        3 => Record::Stored(u64::from_le_bytes(*content.first_chunk()?)),
        _ => return None,
    };
    Some((found, 8 + payload.len()))
}

#[cfg(test)]
mod tests {
    use lockstep_storage::faulty::Disk;

    use super::*;

    #[test]
    fn a_log_reads_back_up_to_a_torn_end() {
        let (disk, name) = (Disk::default(), Name::new("r", "i").unwrap());
        let begun = Begun {
            version: 1,
            number: 7,
            disks: vec![DiskSize { key: 2000, bytes: 1 << 20 }],
            leaves: vec![vec!["00".to_owned()]],
        };
        let entries = vec![(3, Some([9; 32])), (4, None)];
        let mut log = DraftLog::create(&Writer::new(Arc::new(disk.clone()), 0), &name, &begun).unwrap();
        log.append(2000, &entries).unwrap();
        let whole = log.end;
        log.append_stored(77).unwrap();
        let all = [Record::Begun(begun), Record::Entries(2000, entries), Record::Stored(77)];
        assert_eq!(DraftLog::open(&disk, &name).unwrap().1, all);
        for cut in 1..log.end - whole {
            log.file.truncate(log.end - cut).unwrap();
            let (opened, records) = DraftLog::open(&disk, &name).unwrap();
            assert_eq!((opened.end, records.len()), (whole, 2), "cut by {cut}");
            log.end = whole;
            log.append_stored(77).unwrap();
        }
    }
}
