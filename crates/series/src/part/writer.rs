//! Making a part.

use std::sync::Arc;

use super::{FOOTER_BYTES, MAGIC, PAGE_SERIES, Part, PartName};
use crate::codec::{self, BLOCK_ROWS_MAX, Row, Scratch};
use crate::files::{self, FORMAT, UNFINISHED, failed};
use crate::input::{put_signed, put_varint};
use crate::{SeriesKey, StoreError};
use lockstep_storage::{Storage, StoredFile};

/// Bytes written at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes a part under a temporary name. Dropped before it is finished, it removes the file.
pub(crate) struct PartWriter<'a> {
    storage: &'a dyn Storage,
    name: PartName,
    file_name: String,
    file: Arc<dyn StoredFile>,
    scratch: Scratch,
    /// What is not written yet, and where it goes.
    buffer: Vec<u8>,
    at: u64,
    /// Finished pages of the index, and the one being made.
    index: Vec<u8>,
    pages: Vec<(SeriesKey, usize, u64)>,
    page_series: usize,
    key: Option<SeriesKey>,
    series: u64,
    rows: u64,
    first_s: i64,
    last_s: i64,
    is_finished: bool,
}

impl<'a> PartWriter<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, name: PartName) -> Result<Self, StoreError> {
        let file_name = name.file();
        let unfinished = format!("{file_name}{UNFINISHED}");
        let file = storage.create(&unfinished).map_err(failed(storage, "cannot create", &unfinished))?;
        Ok(Self {
            storage,
            name,
            file_name,
            file,
            scratch: Scratch::default(),
            buffer: MAGIC.to_vec(),
            at: 0,
            index: Vec::new(),
            pages: Vec::new(),
            page_series: 0,
            key: None,
            series: 0,
            rows: 0,
            first_s: i64::MAX,
            last_s: i64::MIN,
            is_finished: false,
        })
    }

    /// Adds a series, whose key is above those before; its rows ascend strictly.
    pub(crate) fn add<const K: usize>(&mut self, key: SeriesKey, rows: &[Row<K>]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        debug_assert!(self.key.is_none_or(|before| before < key) && rows.is_sorted_by(|a, b| a.time_s < b.time_s));
        debug_assert_eq!(self.name.kind.partition_of(first.time_s), self.name.partition);
        debug_assert_eq!(self.name.kind.partition_of(last.time_s), self.name.partition);
        let before = match self.key {
            Some(before) if self.page_series < PAGE_SERIES => before,
            Some(_) | None => {
                self.pages.push((key, self.index.len(), self.at + self.buffer.len() as u64));
                self.page_series = 0;
                key
            }
        };
        put_signed(&mut self.index, key.counter.wrapping_sub(before.counter));
        put_signed(&mut self.index, key.address.wrapping_sub(before.address) as i64);
        // Blocks of about the same length: a short rest would compress badly.
        let blocks = rows.len().div_ceil(BLOCK_ROWS_MAX);
        put_varint(&mut self.index, blocks as u64);
        let mut before_s = self.name.partition;
        for block in rows.chunks(rows.len().div_ceil(blocks)) {
            let (first_s, last_s) = (block[0].time_s, block[block.len() - 1].time_s);
            let at = self.buffer.len();
            codec::encode(block, &mut self.scratch, &mut self.buffer);
            put_varint(&mut self.index, (self.buffer.len() - at) as u64);
            put_varint(&mut self.index, block.len() as u64);
            put_signed(&mut self.index, first_s.wrapping_sub(before_s));
            put_varint(&mut self.index, last_s.wrapping_sub(first_s) as u64);
            self.index.extend_from_slice(&crc32c::crc32c(&self.buffer[at..]).to_le_bytes());
            before_s = last_s;
        }
        self.key = Some(key);
        self.page_series += 1;
        self.series += 1;
        self.rows += rows.len() as u64;
        self.first_s = self.first_s.min(first.time_s);
        self.last_s = self.last_s.max(last.time_s);
        if self.buffer.len() >= CHUNK_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let written = self.file.write_at(self.at, &self.buffer);
        written.map_err(failed(self.storage, "cannot write", &self.file_name))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes index and footer, flushes the file and gives it its name. The directory is not flushed yet.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        self.write()?;
        let index_at = self.at;
        self.buffer.extend_from_slice(&self.index);
        self.write()?;
        let mut top = Vec::new();
        for (nth, &(key, start, blocks_offset)) in self.pages.iter().enumerate() {
            let end = self.pages.get(nth + 1).map_or(self.index.len(), |next| next.1);
            let page = &self.index[start..end];
            top.extend_from_slice(&key.counter.to_le_bytes());
            top.extend_from_slice(&key.address.to_le_bytes());
            top.extend_from_slice(&(index_at + start as u64).to_le_bytes());
            top.extend_from_slice(&(page.len() as u32).to_le_bytes());
            top.extend_from_slice(&crc32c::crc32c(page).to_le_bytes());
            top.extend_from_slice(&blocks_offset.to_le_bytes());
        }
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend_from_slice(&self.at.to_le_bytes());
        footer.extend_from_slice(&crc32c::crc32c(&top).to_le_bytes());
        footer.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        footer.extend_from_slice(&self.name.id.to_le_bytes());
        footer.extend_from_slice(&self.name.partition.to_le_bytes());
        footer.extend_from_slice(&self.series.to_le_bytes());
        footer.extend_from_slice(&self.rows.to_le_bytes());
        footer.extend_from_slice(&self.first_s.to_le_bytes());
        footer.extend_from_slice(&self.last_s.to_le_bytes());
        footer.extend_from_slice(&[self.name.kind.code(), 0, 0, 0]);
        footer.extend_from_slice(&FORMAT.to_le_bytes());
        footer.extend_from_slice(&crc32c::crc32c(&footer).to_le_bytes());
        debug_assert_eq!(footer.len(), FOOTER_BYTES);
        self.buffer = top;
        self.buffer.extend_from_slice(&footer);
        self.write()?;
        files::finish(self.storage, &self.file_name, &*self.file)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for PartWriter<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            files::discard(self.storage, &format!("{}{UNFINISHED}", self.file_name));
        }
    }
}

/// Parts that are finished and not in the manifest yet. Dropped, it removes them.
pub(crate) struct Unpublished<'a> {
    storage: &'a dyn Storage,
    names: Vec<PartName>,
}

impl<'a> Unpublished<'a> {
    pub(crate) fn new(storage: &'a dyn Storage) -> Self {
        Self { storage, names: Vec::new() }
    }

    /// Finishes a part.
    pub(crate) fn finish(&mut self, writer: PartWriter<'_>) -> Result<(), StoreError> {
        let name = writer.name;
        writer.finish()?;
        self.names.push(name);
        Ok(())
    }

    /// Makes the names durable and opens the parts, which checks what was written.
    pub(crate) fn open(&self) -> Result<Vec<Arc<Part>>, StoreError> {
        self.storage.sync_directory().map_err(failed(self.storage, "cannot flush the directory of", "parts"))?;
        self.names.iter().map(|name| Part::open(self.storage, *name).map(Arc::new)).collect()
    }

    /// The parts stay.
    pub(crate) fn keep(mut self) {
        self.names.clear();
    }
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            files::discard(self.storage, &name.file());
        }
    }
}
