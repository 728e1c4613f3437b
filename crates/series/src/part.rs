//! Parts: immutable files with the rows of many series, of one partition of time.
//!
//! ```text
//! part     "lsPart1\n" | block … | index page … | top | footer
//! block    see `codec.rs`; a series' blocks follow each other in time, the series in the order of their keys
//! page     of up to 64 series; each: key as signed differences to the one before (the first: to the page's first key)
//!          | blocks varint | each block: bytes varint, rows varint, signed seconds from the end of the one before (the first:
//!          from the partition's start) to its first row, varint seconds from there to its last, CRC32C u32
//! top      each page: first key i64 u64 | page's offset u64, bytes u32, CRC32C u32 | offset of its first block u64
//! footer   offset of top u64 | CRC32C of top u32 | pages u32 | id u64 | partition i64 | series u64 | rows u64 | first i64 | last i64
//!          | kind u8, 3 zeroes | format u32 | CRC32C of the footer u32
//! ```
//! Only the top stays in memory, a byte per series or less: an index of all parts would take kilobytes a series. Who reads a series
//! reads a page of about a kilobyte, then its blocks at once; both come from the page cache in the usual case.

use std::sync::Arc;

use crate::codec::{self, Row};
use crate::error::Corrupt;
use crate::files::{FORMAT, failed, io_error};
use crate::input::Input;
use crate::{SeriesKey, StoreError, Tier};
use lockstep_storage::{Storage, StoredFile};

pub(crate) mod writer;

const MAGIC: &[u8; 8] = b"lsPart1\n";
const FOOTER_BYTES: usize = 76;
const TOP_ENTRY_BYTES: usize = 40;
/// Series of an index page.
const PAGE_SERIES: usize = 64;

/// What rows a part has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum PartKind {
    Raw,
    Rollups(Tier),
}

impl PartKind {
    pub(crate) const ALL: [PartKind; 3] =
        [PartKind::Raw, PartKind::Rollups(Tier::FiveMinutes), PartKind::Rollups(Tier::Hour)];

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Rollups(Tier::FiveMinutes) => 1,
            Self::Rollups(Tier::Hour) => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, Corrupt> {
        Self::ALL.into_iter().find(|kind| kind.code() == code).ok_or(Corrupt("unknown kind of part"))
    }

    /// Seconds of a partition.
    pub(crate) fn partition_s(self) -> i64 {
        match self {
            Self::Raw => crate::config::RAW_PARTITION_S,
            Self::Rollups(tier) => tier.partition_s(),
        }
    }

    /// The start of the partition that a time falls into.
    pub(crate) fn partition_of(self, time_s: i64) -> i64 {
        time_s.div_euclid(self.partition_s()) * self.partition_s()
    }
}

/// Which part. Of two parts of a partition the rows of the one with the higher id count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PartName {
    pub(crate) kind: PartKind,
    /// The partition's start, in seconds since 1970.
    pub(crate) partition: i64,
    pub(crate) id: u64,
}

impl PartName {
    pub(crate) fn file(&self) -> String {
        let kind = match self.kind {
            PartKind::Raw => "raw",
            PartKind::Rollups(Tier::FiveMinutes) => "5m",
            PartKind::Rollups(Tier::Hour) => "1h",
        };
        format!("{kind}-{}-{:08}.part", self.partition, self.id)
    }
}

/// An open part.
pub(crate) struct Part {
    pub(crate) name: PartName,
    pub(crate) file_name: String,
    /// The path for people.
    shown: String,
    file: Arc<dyn StoredFile>,
    pub(crate) bytes: u64,
    pub(crate) series: u64,
    pub(crate) rows: u64,
    pub(crate) first_s: i64,
    pub(crate) last_s: i64,
    pages: Vec<Page>,
}

/// A page of the index, as the top knows it.
struct Page {
    first_key: SeriesKey,
    offset: u64,
    bytes: u32,
    checksum: u32,
    blocks_offset: u64,
}

/// A block, as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    offset: u64,
    bytes: u32,
    pub(crate) rows: u32,
    pub(crate) first_s: i64,
    pub(crate) last_s: i64,
    checksum: u32,
}

impl Part {
    /// Opens a part and reads its top.
    pub(crate) fn open(storage: &dyn Storage, name: PartName) -> Result<Self, StoreError> {
        let file_name = name.file();
        let file = storage.open(&file_name).map_err(failed(storage, "cannot open", &file_name))?;
        let bytes = file.bytes().map_err(failed(storage, "cannot measure", &file_name))?;
        let mut part = Self {
            name,
            shown: storage.shown(&file_name),
            file_name,
            file,
            bytes,
            series: 0,
            rows: 0,
            first_s: 0,
            last_s: 0,
            pages: Vec::new(),
        };
        if bytes < (MAGIC.len() + FOOTER_BYTES) as u64 || part.read(0, MAGIC.len())? != MAGIC {
            return Err(part.damaged(0, Corrupt("the file does not begin as it should")));
        }
        let footer_at = bytes - FOOTER_BYTES as u64;
        let footer = part.read(footer_at, FOOTER_BYTES)?;
        let (top_at, top_checksum, pages) =
            part.take_footer(&footer).map_err(|reason| part.damaged(footer_at, reason))??;
        let top_bytes = pages as usize * TOP_ENTRY_BYTES;
        if top_at.checked_add(top_bytes as u64) != Some(footer_at) {
            return Err(part.damaged(footer_at, Corrupt("the top has an impossible length")));
        }
        let top = part.read(top_at, top_bytes)?;
        if crc32c::crc32c(&top) != top_checksum {
            return Err(part.damaged(top_at, Corrupt("the checksum of the top is wrong")));
        }
        part.pages = read_top(&top).map_err(|reason| part.damaged(top_at, reason))?;
        Ok(part)
    }

    /// Offset, checksum and pages of the top; the inner error is another format.
    #[allow(clippy::type_complexity)]
    fn take_footer(&mut self, footer: &[u8]) -> Result<Result<(u64, u32, u32), StoreError>, Corrupt> {
        let mut input = Input::new(footer);
        let checked = input.bytes(FOOTER_BYTES - 4)?;
        if crc32c::crc32c(checked) != input.u32()? {
            return Err(Corrupt("the checksum of the footer is wrong"));
        }
        let mut input = Input::new(checked);
        let (top_at, top_checksum, pages) = (input.u64()?, input.u32()?, input.u32()?);
        let (id, partition) = (input.u64()?, input.i64()?);
        (self.series, self.rows) = (input.u64()?, input.u64()?);
        (self.first_s, self.last_s) = (input.i64()?, input.i64()?);
        let [kind, ..] = input.array::<4>()?;
        let found = input.u32()?;
        if found != FORMAT {
            return Ok(Err(StoreError::Format { path: self.shown.clone(), found, known: FORMAT }));
        }
        if (PartName { kind: PartKind::from_code(kind)?, partition, id }) != self.name {
            return Err(Corrupt("the part has another's name"));
        }
        Ok(Ok((top_at, top_checksum, pages)))
    }

    /// Bytes of memory that the part takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Page>() + size_of::<Self>()
    }

    /// Appends the rows of a series in `[start_s, end_s)` in the order of time.
    pub(crate) fn read_series<const K: usize>(
        &self,
        key: SeriesKey,
        start_s: i64,
        end_s: i64,
        out: &mut Vec<Row<K>>,
    ) -> Result<(), StoreError> {
        if self.last_s < start_s || self.first_s >= end_s {
            return Ok(());
        }
        let mut wanted: Vec<Block> = Vec::new();
        let Some(nth) = self.pages.partition_point(|page| page.first_key <= key).checked_sub(1) else { return Ok(()) };
        self.read_page(nth, |found, blocks| {
            if found == key {
                wanted.extend(blocks.iter().filter(|block| block.last_s >= start_s && block.first_s < end_s));
            }
            found < key
        })?;
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(()) };
        let content = self.read(first.offset, (last.offset - first.offset) as usize + last.bytes as usize)?;
        for block in &wanted {
            let before = out.len();
            self.decode(block, &content[(block.offset - first.offset) as usize..][..block.bytes as usize], out)?;
            if block.first_s < start_s || block.last_s >= end_s {
                let mut at = before;
                out.retain(|row| {
                    at += 1;
                    at <= before || (start_s..end_s).contains(&row.time_s)
                });
            }
        }
        Ok(())
    }

    /// Calls for every series with its blocks, in the order of keys. The blocks themselves are not read.
    pub(crate) fn scan(&self, mut each: impl FnMut(SeriesKey, &[Block])) -> Result<(), StoreError> {
        for nth in 0..self.pages.len() {
            self.read_page(nth, |key, blocks| {
                each(key, blocks);
                true
            })?;
        }
        Ok(())
    }

    /// Calls for the series of a page until told to stop.
    fn read_page(&self, nth: usize, mut each: impl FnMut(SeriesKey, &[Block]) -> bool) -> Result<(), StoreError> {
        let page = &self.pages[nth];
        let content = self.read(page.offset, page.bytes as usize)?;
        if crc32c::crc32c(&content) != page.checksum {
            return Err(self.damaged(page.offset, Corrupt("the checksum of an index page is wrong")));
        }
        let mut read = || {
            let mut input = Input::new(&content);
            let mut key = page.first_key;
            let mut offset = page.blocks_offset;
            let mut blocks = Vec::new();
            while input.left() > 0 {
                key.counter = key.counter.wrapping_add(input.signed()?);
                key.address = key.address.wrapping_add(input.signed()? as u64);
                blocks.clear();
                let mut at_s = self.name.partition;
                for _ in 0..input.count()? {
                    let bytes = u32::try_from(input.varint()?).map_err(|_| Corrupt("a block is too long"))?;
                    let rows = u32::try_from(input.varint()?).map_err(|_| Corrupt("a block is too long"))?;
                    let first_s = at_s.wrapping_add(input.signed()?);
                    let last_s = first_s.wrapping_add(input.varint()? as i64);
                    blocks.push(Block { offset, bytes, rows, first_s, last_s, checksum: input.u32()? });
                    offset = offset.checked_add(bytes.into()).ok_or(Corrupt("a block is too long"))?;
                    at_s = last_s;
                }
                if offset > self.bytes {
                    return Err(Corrupt("a block lies outside of the file"));
                }
                if !each(key, &blocks) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|reason| self.damaged(page.offset, reason))
    }

    /// Checks a block and appends its rows.
    fn decode<const K: usize>(&self, block: &Block, content: &[u8], out: &mut Vec<Row<K>>) -> Result<(), StoreError> {
        if crc32c::crc32c(content) != block.checksum {
            return Err(self.damaged(block.offset, Corrupt("the checksum of a block is wrong")));
        }
        codec::decode(content, block.rows as usize, block.first_s, out)
            .and_then(|()| match out.last() {
                Some(row) if row.time_s == block.last_s => Ok(()),
                Some(_) | None => Err(Corrupt("a block ends at another time")),
            })
            .map_err(|reason| self.damaged(block.offset, reason))
    }

    fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, StoreError> {
        let mut content = vec![0; bytes];
        let read = self.file.read_at(offset, &mut content);
        match read.map_err(|source| io_error("cannot read", self.shown.clone(), source))? {
            read if read == bytes => Ok(content),
            _ => Err(self.damaged(offset, Corrupt("the file is cut off"))),
        }
    }

    fn damaged(&self, offset: u64, Corrupt(reason): Corrupt) -> StoreError {
        StoreError::Damaged { path: self.shown.clone(), offset, reason }
    }
}

fn read_top(top: &[u8]) -> Result<Vec<Page>, Corrupt> {
    let mut input = Input::new(top);
    let mut pages = Vec::with_capacity(top.len() / TOP_ENTRY_BYTES);
    while input.left() > 0 {
        let first_key = SeriesKey { counter: input.i64()?, address: input.u64()? };
        let (offset, bytes, checksum) = (input.u64()?, input.u32()?, input.u32()?);
        pages.push(Page { first_key, offset, bytes, checksum, blocks_offset: input.u64()? });
    }
    Ok(pages)
}

/// Walks through a part series by series, a page's blocks at a time.
pub(crate) struct Walk {
    part: Arc<Part>,
    next_page: usize,
    /// The series of the page read last, backwards, and its blocks.
    series: Vec<(SeriesKey, Vec<Block>)>,
    content: Vec<u8>,
    content_at: u64,
}

impl Walk {
    pub(crate) fn new(part: Arc<Part>) -> Result<Self, StoreError> {
        let mut walk = Self { part, next_page: 0, series: Vec::new(), content: Vec::new(), content_at: 0 };
        walk.fill()?;
        Ok(walk)
    }

    fn fill(&mut self) -> Result<(), StoreError> {
        while self.series.is_empty() && self.next_page < self.part.pages.len() {
            let series = &mut self.series;
            self.part.read_page(self.next_page, |key, blocks| {
                series.push((key, blocks.to_vec()));
                true
            })?;
            self.content_at = self.part.pages[self.next_page].blocks_offset;
            let last = self.series.last().and_then(|(_, blocks)| blocks.last());
            let end = last.map_or(self.content_at, |block| block.offset + u64::from(block.bytes));
            self.content = self.part.read(self.content_at, (end - self.content_at) as usize)?;
            self.series.reverse();
            self.next_page += 1;
        }
        Ok(())
    }

    /// The series it stands at; `None` at the end.
    pub(crate) fn key(&self) -> Option<SeriesKey> {
        self.series.last().map(|(key, _)| *key)
    }

    /// Appends the rows of the series it stands at, and goes on to the next.
    pub(crate) fn take<const K: usize>(&mut self, out: &mut Vec<Row<K>>) -> Result<(), StoreError> {
        if let Some((_, blocks)) = self.series.pop() {
            for block in &blocks {
                let at = (block.offset - self.content_at) as usize;
                self.part.decode(block, &self.content[at..at + block.bytes as usize], out)?;
            }
        }
        self.fill()
    }
}

/// Calls for every series of some parts, given from the oldest to the newest, with its settled rows, in the order of keys.
pub(crate) fn walk_all<const K: usize>(
    parts: &[Arc<Part>],
    mut each: impl FnMut(SeriesKey, &[Row<K>]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut walks = parts.iter().cloned().map(Walk::new).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    while let Some(key) = walks.iter().filter_map(Walk::key).min() {
        rows.clear();
        for walk in walks.iter_mut().filter(|walk| walk.key() == Some(key)) {
            walk.take(&mut rows)?;
        }
        codec::settle(&mut rows);
        each(key, &rows)?;
    }
    Ok(())
}
