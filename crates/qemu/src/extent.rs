//! Ranges of a disk: what a source says of them, and the whole blocks that are shipped.

use crate::{BLOCK_BYTES, Error, Result};

/// What a range holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything; it has to be read.
    Data,
    /// Zeroes only; need not be read.
    Zero,
}

/// A range of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; never zero.
    pub bytes: u64,
    /// What it holds.
    pub kind: Kind,
}

/// Extents of a disk; more would take more memory than a list of them is worth. A disk of 2 TiB of which every other block
/// changed has as many.
pub const EXTENTS_MAX: usize = 1 << 24;

/// Collects a source's ranges, in order, into extents of whole blocks.
///
/// A block of which any byte is data is data; one of which some bytes are zero and the rest is not listed is data too, since its
/// other bytes must be read. Neighbours of one kind are one extent.
pub(crate) struct Blocks {
    disk_bytes: u64,
    extents: Vec<Extent>,
}

impl Blocks {
    pub(crate) fn new(disk_bytes: u64) -> Self {
        Self { disk_bytes, extents: Vec::new() }
    }

    /// Adds a range that does not begin before the last one's end.
    pub(crate) fn push(&mut self, offset: u64, bytes: u64, kind: Kind) -> Result<()> {
        let end = offset.saturating_add(bytes).min(self.disk_bytes);
        if offset >= end {
            return Ok(());
        }
        let block = BLOCK_BYTES as u64;
        match kind {
            Kind::Data => self.add(offset / block * block, self.round_up(end), Kind::Data),
            Kind::Zero => {
                let inner_start = offset.next_multiple_of(block);
                let inner_end = if end == self.disk_bytes { end } else { end / block * block };
                if inner_start >= inner_end {
                    return self.add(offset / block * block, self.round_up(end), Kind::Data);
                }
                if offset < inner_start {
                    self.add(inner_start - block, inner_start, Kind::Data)?;
                }
                self.add(inner_start, inner_end, Kind::Zero)?;
                if inner_end < end {
                    self.add(inner_end, self.round_up(end), Kind::Data)?;
                }
                Ok(())
            }
        }
    }

    pub(crate) fn finish(self) -> Vec<Extent> {
        self.extents
    }

    fn round_up(&self, end: u64) -> u64 {
        end.next_multiple_of(BLOCK_BYTES as u64).min(self.disk_bytes)
    }

    /// Adds whole blocks; the first may be the last extent's last one, which then was data.
    fn add(&mut self, start: u64, end: u64, kind: Kind) -> Result<()> {
        let done = self.extents.last().map_or(0, |last| last.offset + last.bytes);
        let start = start.max(done);
        if start >= end {
            return Ok(());
        }
        if let Some(last) = self.extents.last_mut()
            && last.kind == kind
            && done == start
        {
            last.bytes += end - start;
            return Ok(());
        }
        if self.extents.len() == EXTENTS_MAX {
            return Err(Error::Limit {
                what: "the number of extents of a disk",
                limit: EXTENTS_MAX as u64,
                found: EXTENTS_MAX as u64 + 1,
            });
        }
        self.extents.push(Extent { offset: start, bytes: end - start, kind });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1024;

    fn check(disk: u64, ranges: &[(u64, u64, char)], expected: &[(u64, u64, char)]) {
        let mut blocks = Blocks::new(disk * K);
        for (offset, bytes, kind) in ranges {
            blocks.push(offset * K, bytes * K, if *kind == 'd' { Kind::Data } else { Kind::Zero }).unwrap();
        }
        let found: Vec<_> = blocks
            .finish()
            .iter()
            .map(|e| (e.offset / K, e.bytes / K, if e.kind == Kind::Data { 'd' } else { 'z' }))
            .collect();
        assert_eq!(found, expected, "{ranges:?}");
    }

    #[test]
    fn ranges_become_whole_blocks() {
        check(256, &[], &[]);
        check(256, &[(0, 256, 'd')], &[(0, 256, 'd')]);
        check(256, &[(4, 4, 'd')], &[(0, 64, 'd')]);
        check(256, &[(60, 8, 'd')], &[(0, 128, 'd')]);
        check(256, &[(4, 4, 'd'), (12, 4, 'd'), (200, 4, 'd')], &[(0, 64, 'd'), (192, 64, 'd')]);
        check(256, &[(0, 4, 'd'), (4, 252, 'z')], &[(0, 64, 'd'), (64, 192, 'z')]);
        check(256, &[(0, 100, 'z'), (100, 156, 'd')], &[(0, 64, 'z'), (64, 192, 'd')]);
        check(256, &[(4, 8, 'z')], &[(0, 64, 'd')]);
        check(256, &[(60, 72, 'z')], &[(0, 64, 'd'), (64, 64, 'z'), (128, 64, 'd')]);
        check(256, &[(0, 64, 'z'), (64, 64, 'z')], &[(0, 128, 'z')]);
    }

    #[test]
    fn the_last_block_may_be_short() {
        check(100, &[(70, 4, 'd')], &[(64, 36, 'd')]);
        check(100, &[(0, 100, 'z')], &[(0, 100, 'z')]);
        check(100, &[(64, 900, 'z')], &[(64, 36, 'z')]);
        check(100, &[(64, 20, 'z')], &[(64, 36, 'd')]);
        check(100, &[(100, 20, 'd'), (900, 1, 'd')], &[]);
    }
}
