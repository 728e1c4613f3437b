//! From the stretches that a source lists to runs of whole blocks.

use lockstep_blocks::format::{self, DISK_BYTES_MAX};

use crate::ship::{ShipError, Unlisted};
use crate::ship_source::{Extent, Kind};

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: u64 = lockstep_blocks::BLOCK_BYTES as u64;

/// Blocks of a leaf of the map.
pub(crate) const LEAF_BLOCKS: u32 = lockstep_blocks::LEAF_BLOCKS;

/// Blocks of one disk, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) kind: Kind,
}

impl Run {
    /// The number behind the last block.
    fn end(self) -> u32 {
        self.first + self.count
    }

    /// How many bytes of a disk of `size` they are.
    pub(crate) fn bytes(self, size: u64) -> u64 {
        (u64::from(self.end()) * BLOCK_BYTES).min(size).saturating_sub(u64::from(self.first) * BLOCK_BYTES)
    }

    /// The same blocks, in pieces of one leaf each.
    pub(crate) fn by_leaf(self) -> impl Iterator<Item = Run> {
        let mut left = self;
        std::iter::from_fn(move || {
            let room = LEAF_BLOCKS - left.first % LEAF_BLOCKS;
            let count = left.count.min(room);
            let piece = Run { count, ..left };
            left = Run { first: left.first + count, count: left.count - count, ..left };
            (count > 0).then_some(piece)
        })
    }
}

/// How many blocks a disk of that size has.
///
/// # Errors
/// [`ShipError::DiskSize`].
pub(crate) fn block_count(bytes: u64) -> Result<u32, ShipError> {
    let is_size = bytes > 0 && bytes <= DISK_BYTES_MAX && bytes.is_multiple_of(512);
    if is_size { Ok(format::block_count(bytes)) } else { Err(ShipError::DiskSize(bytes)) }
}

/// The runs of a disk of `bytes`, by number, without overlap. A block that is only in part within zeroes is data.
///
/// # Errors
/// [`ShipError::Extents`] when they are not sorted, or reach beyond the disk; [`ShipError::DiskSize`].
pub(crate) fn runs(extents: &[Extent], bytes: u64, unlisted: Unlisted) -> Result<Vec<Run>, ShipError> {
    let count = block_count(bytes)?;
    let mut out: Vec<Run> = Vec::new();
    // All below has been dealt with.
    let mut next = 0u32;
    let mut before = 0u64;
    for extent in extents {
        let end = extent.offset.checked_add(extent.bytes).filter(|end| *end <= block_end(bytes));
        let Some(end) = end.filter(|_| extent.offset >= before) else {
            return Err(ShipError::Extents { offset: extent.offset, bytes: extent.bytes });
        };
        before = end;
        if extent.bytes == 0 {
            continue;
        }
        // Block numbers of a disk fit; see `block_count`.
        let block = |at: u64| (at / BLOCK_BYTES) as u32;
        let (first, behind) = (block(extent.offset), block(end.min(bytes).div_ceil(BLOCK_BYTES) * BLOCK_BYTES));
        match extent.kind {
            Kind::Data => push(&mut out, &mut next, first, behind, Kind::Data, unlisted),
            Kind::Zero => {
                let whole_first = block(extent.offset.div_ceil(BLOCK_BYTES) * BLOCK_BYTES);
                // The end of the disk ends its last block.
                let whole_behind = if end >= bytes { count } else { block(end) };
                if whole_first >= whole_behind {
                    push(&mut out, &mut next, first, behind, Kind::Data, unlisted);
                } else {
                    push(&mut out, &mut next, first, whole_first, Kind::Data, unlisted);
                    push(&mut out, &mut next, whole_first, whole_behind, Kind::Zero, unlisted);
                    push(&mut out, &mut next, whole_behind, behind, Kind::Data, unlisted);
                }
            }
        }
    }
    if unlisted == Unlisted::Zero {
        push(&mut out, &mut next, count, count, Kind::Data, unlisted);
    }
    Ok(out)
}

/// Where the last block of a disk would end if it were whole: a source may round up to it.
fn block_end(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// Adds the blocks from `first` to before `behind`, as far as they are not there yet, and what is between them and `next`.
fn push(out: &mut Vec<Run>, next: &mut u32, first: u32, behind: u32, kind: Kind, unlisted: Unlisted) {
    // A block that two stretches share is data to be read, whatever the first of them was.
    if kind == Kind::Data
        && first < *next
        && first < behind
        && let Some(last) = out.last_mut()
        && last.kind == Kind::Zero
    {
        last.count -= 1;
        *next -= 1;
        if last.count == 0 {
            out.pop();
        }
    }
    if first > *next && unlisted == Unlisted::Zero {
        add(out, Run { first: *next, count: first - *next, kind: Kind::Zero });
    }
    let first = first.max(*next);
    if behind > first {
        add(out, Run { first, count: behind - first, kind });
    }
    *next = behind.max(first);
}

fn add(out: &mut Vec<Run>, run: Run) {
    match out.last_mut() {
        Some(last) if last.kind == run.kind && last.end() == run.first => last.count += run.count,
        _ => out.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = BLOCK_BYTES;

    fn check(extents: &[(u64, u64, Kind)], bytes: u64, unlisted: Unlisted, expected: &[(u32, u32, Kind)]) {
        let extents: Vec<_> = extents.iter().map(|&(offset, bytes, kind)| Extent { offset, bytes, kind }).collect();
        let runs = runs(&extents, bytes, unlisted).unwrap();
        let runs: Vec<_> = runs.iter().map(|run| (run.first, run.count, run.kind)).collect();
        assert_eq!(runs, expected, "{extents:?} of {bytes}");
    }

    #[test]
    fn stretches_become_whole_blocks() {
        use Kind::{Data, Zero};
        use Unlisted::{Unchanged, Zero as Zeroes};
        check(&[], 10 * B, Unchanged, &[]);
        check(&[], 10 * B, Zeroes, &[(0, 10, Zero)]);
        check(&[(B, B, Data), (2 * B, B, Data), (4 * B, B, Zero)], 6 * B, Unchanged, &[(1, 2, Data), (4, 1, Zero)]);
        check(&[(B, B, Data)], 3 * B, Zeroes, &[(0, 1, Zero), (1, 1, Data), (2, 1, Zero)]);
        // Parts of blocks, and blocks that two stretches share.
        check(&[(100, 1, Data), (200, B, Data)], 3 * B, Unchanged, &[(0, 2, Data)]);
        check(&[(100, B, Zero)], 3 * B, Unchanged, &[(0, 2, Data)]);
        check(&[(100, 3 * B, Zero)], 4 * B, Unchanged, &[(0, 1, Data), (1, 2, Zero), (3, 1, Data)]);
        check(&[(0, B + 1, Zero), (B + 1, B, Data)], 4 * B, Unchanged, &[(0, 1, Zero), (1, 2, Data)]);
        check(
            &[(0, B, Data), (B, B, Zero), (2 * B, 1, Data)],
            3 * B,
            Unchanged,
            &[(0, 1, Data), (1, 1, Zero), (2, 1, Data)],
        );
        // The last block is short, and a source may round up to a whole one.
        check(&[(B, 512, Zero)], B + 512, Unchanged, &[(1, 1, Zero)]);
        check(&[(0, 2 * B, Data)], B + 512, Unchanged, &[(0, 2, Data)]);
        check(&[(0, 2 * B, Zero)], B + 512, Zeroes, &[(0, 2, Zero)]);
        check(&[(0, 0, Data)], B, Unchanged, &[]);
    }

    #[test]
    fn what_is_no_list_of_stretches_of_the_disk_is_refused() {
        let refused = |extents: &[(u64, u64)], bytes: u64| {
            let extents: Vec<_> =
                extents.iter().map(|&(offset, bytes)| Extent { offset, bytes, kind: Kind::Data }).collect();
            assert!(runs(&extents, bytes, Unlisted::Unchanged).is_err(), "{extents:?}");
        };
        refused(&[(0, 3 * B)], 2 * B);
        refused(&[(B, B), (0, B)], 2 * B);
        refused(&[(0, B), (B - 1, B)], 2 * B);
        refused(&[(u64::MAX, 2)], 2 * B);
        refused(&[], 0);
        refused(&[], 511);
        refused(&[], DISK_BYTES_MAX + 512);
    }

    #[test]
    fn a_run_is_cut_where_leaves_end() {
        let run = Run { first: LEAF_BLOCKS - 1, count: LEAF_BLOCKS + 2, kind: Kind::Data };
        let pieces: Vec<_> = run.by_leaf().map(|piece| (piece.first, piece.count)).collect();
        assert_eq!(pieces, [(LEAF_BLOCKS - 1, 1), (LEAF_BLOCKS, LEAF_BLOCKS), (2 * LEAF_BLOCKS, 1)]);
    }
}
