//! A few megabytes of a sync's disks on their way: read, compared, hashed, asked for, packed, put.
//!
//! A unit is done when the destination has told that all of it is durable. Until then its bytes are held here, so whatever breaks in
//! between, it goes on with the question which of its blocks are missing.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use lockstep_contract::Binary;
use lockstep_contract::services::replication_receive::{Have, HaveInput, Put, PutInput};
use tokio::task::JoinSet;

use crate::frame::{BLOCK_HEAD_BYTES, FrameWriter, HASH_BYTES, Hash};
use crate::limit::Flow;
use crate::ship::{Shared, ShipError};
use crate::ship_map::Leaf;
use crate::ship_peer::{Failed, is_name, malformed};
use crate::ship_plan::{BLOCK_BYTES, LEAF_BLOCKS};

/// Plain bytes of a unit: with a few units under way, enough to keep disk, processors and line busy.
pub(crate) const UNIT_BYTES: usize = 4 << 20;

/// Most entries of zeroes in a unit.
pub(crate) const UNIT_ENTRIES_MAX: usize = 65_536;

/// Most leaves that a unit touches: each takes some 130 KB while it does.
pub(crate) const UNIT_LEAVES_MAX: usize = 32;

/// Bytes of one read.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Bytes of one read of a file: little enough to be in the processor's cache still when they are hashed.
const LOCAL_READ_BYTES: usize = 256 << 10;

/// Most reads of a unit that are under way.
const READS_IN_FLIGHT_MAX: usize = 16;

/// How long a sync keeps what it need not read again.
const RELEASE_AFTER: Duration = Duration::from_secs(2);

/// Most bytes of a frame. With what stands before its blocks it stays below the contract's limit.
const FRAME_BYTES: usize = 4 << 20;

/// The level of zstd: blocks are packed once for each instance, on the machine that runs the guests.
const ZSTD_LEVEL: i32 = 1;

/// Blocks of a disk, one after the other and within a leaf, that must be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// Which of the sync's disks.
    pub(crate) disk: usize,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// What a block is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) disk: usize,
    pub(crate) block: u32,
    pub(crate) hash: Option<Hash>,
}

/// What there is to do.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    pub(crate) pieces: Vec<Piece>,
    /// Plain bytes of the pieces.
    pub(crate) bytes: usize,
    /// Blocks that are zeroes and were not before.
    pub(crate) entries: Vec<Entry>,
    /// The base's leaves for the pieces, by disk and number.
    pub(crate) leaves: HashMap<(usize, u32), Arc<Leaf>>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Done {
    /// What differs from the base.
    pub(crate) entries: Vec<Entry>,
    /// The leaves that it touched, by disk and number.
    pub(crate) leaves: Vec<(usize, u32)>,
}

/// A block that differs from the base and is not zeroes.
#[derive(Debug, Clone)]
struct Block {
    hash: Hash,
    plain: Bytes,
}

/// Brings a unit to the destination.
pub(crate) async fn run(shared: Arc<Shared>, unit: Unit) -> Result<Done, ShipError> {
    // Once as it was read, once as it is packed.
    let _memory = shared.memory.take(2 * unit.bytes).await;
    let touched = unit.leaves.keys().copied().collect();
    let pieces = Arc::new(unit.pieces);
    let (local, remote): (Vec<Piece>, Vec<Piece>) =
        pieces.iter().partition(|piece| shared.disks[piece.disk].source.local().is_some());
    let read = read(&shared, &remote).await?;
    let here = shared.clone();
    let search = blocking(move || {
        let mut search = Search { leaves: &unit.leaves, found: Vec::new(), zeroes: 0 };
        read.iter().for_each(|((disk, first), bytes)| search.read(*disk, *first, bytes));
        local.iter().try_for_each(|piece| search.local(&here, piece))?;
        Ok::<_, ShipError>(search.finish())
    });
    let (found, zeroes) = search.await??;
    let mut entries = unit.entries;
    shared.counts.zero_blocks.fetch_add(zeroes, Ordering::Relaxed);
    shared.counts.changed_blocks.fetch_add((entries.len() + found.len()) as u64, Ordering::Relaxed);
    let mut blocks = Vec::new();
    let mut seen = HashSet::new();
    for (entry, plain) in found {
        entries.push(entry);
        let Some(hash) = entry.hash else { continue };
        if seen.insert(hash) {
            blocks.push(Block { hash, plain });
        } else {
            shared.counts.deduplicated_blocks.fetch_add(1, Ordering::Relaxed);
        }
    }
    if !entries.is_empty() {
        bring(&shared, blocks, &entries).await?;
    }
    shared.tell(pieces.iter().map(|piece| range(&shared, piece).1).sum());
    release(&shared, &pieces).await?;
    Ok(Done { entries, leaves: touched })
}

/// Offset and length of a piece, in bytes.
fn range(shared: &Shared, piece: &Piece) -> (u64, u64) {
    let offset = u64::from(piece.first) * BLOCK_BYTES;
    (offset, (u64::from(piece.count) * BLOCK_BYTES).min(shared.disks[piece.disk].source.bytes() - offset))
}

/// Nobody will read these again. A sync that is over soon does not tell: for a running machine each piece is one more request to
/// the QEMU that is being read, and what is kept of the others goes with the point in time.
async fn release(shared: &Arc<Shared>, pieces: &[Piece]) -> Result<(), ShipError> {
    let pieces: Vec<Piece> = {
        let mut unreleased = shared.unreleased.lock();
        unreleased.extend_from_slice(pieces);
        if shared.begun.elapsed() < RELEASE_AFTER {
            return Ok(());
        }
        std::mem::take(&mut *unreleased)
    };
    let mut releases = JoinSet::new();
    for piece in pieces {
        if releases.len() >= READS_IN_FLIGHT_MAX {
            ended(releases.join_next().await)?;
        }
        let shared = shared.clone();
        releases.spawn(async move {
            let (offset, bytes) = range(&shared, &piece);
            shared.disks[piece.disk].source.release(offset, bytes).await.map_err(ShipError::from)
        });
    }
    while !releases.is_empty() {
        ended(releases.join_next().await)?;
    }
    Ok(())
}

fn ended(release: Option<Result<Result<(), ShipError>, tokio::task::JoinError>>) -> Result<(), ShipError> {
    match release {
        None => Ok(()),
        Some(Ok(done)) => done,
        Some(Err(_)) => Err(ShipError::Stopped),
    }
}

/// Work for a processor, off the threads that wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ShipError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ShipError::Stopped)
}

/// Reads pieces; with each part where it begins: the disk and the block.
async fn read(shared: &Arc<Shared>, pieces: &[Piece]) -> Result<Vec<((usize, u32), Bytes)>, ShipError> {
    let mut parts = Vec::new();
    for piece in pieces {
        let size = shared.disks[piece.disk].source.bytes();
        let mut offset = u64::from(piece.first) * BLOCK_BYTES;
        let end = (offset + u64::from(piece.count) * BLOCK_BYTES).min(size);
        while offset < end {
            let bytes = (end - offset).min(READ_BYTES_MAX);
            parts.push((piece.disk, offset, bytes as usize));
            offset += bytes;
        }
    }
    let mut read = Vec::with_capacity(parts.len());
    let mut reads = JoinSet::new();
    let mut parts = parts.into_iter();
    loop {
        while reads.len() < READS_IN_FLIGHT_MAX
            && let Some((disk, offset, bytes)) = parts.next()
        {
            let shared = shared.clone();
            reads.spawn(async move {
                let data = shared.disks[disk].source.read(offset, bytes).await?;
                if data.len() != bytes {
                    return Err(ShipError::ShortRead { offset, asked: bytes, got: data.len() });
                }
                Ok(((disk, (offset / BLOCK_BYTES) as u32), data))
            });
        }
        match reads.join_next().await {
            None => return Ok(read),
            Some(Ok(part)) => read.push(part?),
            Some(Err(_)) => return Err(ShipError::Stopped),
        }
    }
}

thread_local! {
    /// What a file is read into. It stays in the processor's cache, and is not filled with zeroes each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Looks for the blocks that differ from the base's.
struct Search<'a> {
    leaves: &'a HashMap<(usize, u32), Arc<Leaf>>,
    found: Vec<(Entry, Bytes)>,
    zeroes: u64,
}

impl Search<'_> {
    /// What a block is, when it differs.
    fn look(&mut self, disk: usize, block: u32, plain: &[u8]) -> Option<Entry> {
        let hash = (!is_zero(plain)).then(|| *blake3::hash(plain).as_bytes());
        self.zeroes += u64::from(hash.is_none());
        let before = self.leaves.get(&(disk, block / LEAF_BLOCKS)).and_then(|leaf| leaf.get(block % LEAF_BLOCKS));
        (before != hash).then_some(Entry { disk, block, hash })
    }

    /// In bytes that were read.
    fn read(&mut self, disk: usize, first: u32, bytes: &Bytes) {
        for (block, plain) in (first..).zip(bytes.chunks(BLOCK_BYTES as usize)) {
            if let Some(entry) = self.look(disk, block, plain) {
                self.found.push((entry, bytes.slice_ref(plain)));
            }
        }
    }

    /// In a file: hashed where it was read, and copied only if it differs.
    fn local(&mut self, shared: &Shared, piece: &Piece) -> Result<(), ShipError> {
        let source = &shared.disks[piece.disk].source;
        let Some(local) = source.local() else { return Ok(()) };
        let end = (u64::from(piece.first + piece.count) * BLOCK_BYTES).min(source.bytes());
        let (mut offset, mut block) = (u64::from(piece.first) * BLOCK_BYTES, piece.first);
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(LOCAL_READ_BYTES, 0);
            while offset < end {
                let length = (end - offset).min(LOCAL_READ_BYTES as u64) as usize;
                let part = &mut buffer[..length];
                local.read_at(offset, part)?;
                for plain in part.chunks(BLOCK_BYTES as usize) {
                    if let Some(entry) = self.look(piece.disk, block, plain) {
                        self.found.push((entry, Bytes::copy_from_slice(plain)));
                    }
                    block += 1;
                }
                offset += length as u64;
            }
            Ok(())
        })
    }

    /// The blocks that were found, in order, and how many of all that were looked at are zeroes.
    fn finish(mut self) -> (Vec<(Entry, Bytes)>, u64) {
        // Parts come as they are read; in order they make longer runs.
        self.found.sort_unstable_by_key(|(entry, _)| (entry.disk, entry.block));
        (self.found, self.zeroes)
    }
}

/// Whether there are zeroes only. Told from the first bytes for nearly all that is not, and by one comparison of memory for the rest.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const HEAD: usize = 16;
    let head = bytes.len().min(HEAD);
    bytes[..head].iter().all(|byte| *byte == 0) && bytes[head..] == bytes[..bytes.len() - head]
}

/// The blocks that this unit brings, so that another one does not bring them as well.
struct Claims<'a> {
    shared: &'a Shared,
    hashes: Vec<Hash>,
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        let mut claimed = self.shared.claimed.lock();
        for hash in &self.hashes {
            claimed.remove(hash);
        }
    }
}

/// Brings blocks and entries, until they are durable.
async fn bring(shared: &Arc<Shared>, blocks: Vec<Block>, entries: &[Entry]) -> Result<(), ShipError> {
    let count = blocks.len() as u64;
    let mine: Vec<Block> = {
        let mut claimed = shared.claimed.lock();
        blocks.into_iter().filter(|block| claimed.insert(block.hash)).collect()
    };
    let _claims = Claims { shared, hashes: mine.iter().map(|block| block.hash).collect() };
    let others = count - mine.len() as u64;
    shared.counts.deduplicated_blocks.fetch_add(others, Ordering::Relaxed);
    let mut left = mine;
    loop {
        match attempt(shared, &mut left, entries).await {
            Ok(()) => {
                shared.peer.got_on();
                return Ok(());
            }
            Err(failed) => shared.peer.pause(failed).await?,
        }
    }
}

/// Tries it once. What is durable afterwards is taken out of `left`.
async fn attempt(shared: &Arc<Shared>, left: &mut Vec<Block>, entries: &[Entry]) -> Result<(), Failed> {
    let mut life = None;
    let mut missing = Vec::new();
    if !left.is_empty() {
        let (told, present) = have(shared, left).await?;
        life = Some(told);
        let blocks = left.iter().zip(present);
        missing = blocks.filter(|(_, is_there)| !is_there).map(|(block, _)| block.clone()).collect();
    }
    let found = (left.len() - missing.len()) as u64;
    let frame_bytes = shared.flow.frame_bytes(FRAME_BYTES);
    let packed = blocking(move || pack(missing, frame_bytes)).await??;
    let mut frames = packed.into_iter();
    let mut last = frames.next_back().unwrap_or_default();
    for frame in frames {
        put(shared, frame, &mut life, left).await?;
    }
    for entry in entries {
        last.writer.entry(shared.disks[entry.disk].key, entry.block, entry.hash);
    }
    put(shared, last, &mut life, left).await?;
    shared.counts.deduplicated_blocks.fetch_add(found, Ordering::Relaxed);
    Ok(())
}

/// Which blocks are there, and in which life.
async fn have(shared: &Shared, blocks: &[Block]) -> Result<(String, Vec<bool>), Failed> {
    let hashes: Vec<u8> = blocks.iter().flat_map(|block| block.hash).collect();
    let sent = hashes.len() as u64;
    shared.counts.wire_bytes.fetch_add(sent, Ordering::Relaxed);
    let input = HaveInput {
        replication: shared.replication.clone(),
        instance: shared.instance.clone(),
        hashes: Binary(hashes),
    };
    let had = shared.peer.try_call(Have, input).await?;
    let bits = had.present.0;
    if bits.len() != blocks.len().div_ceil(8) || !is_name(&had.life) {
        return Err(malformed("which blocks are there").into());
    }
    let present = (0..blocks.len()).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
    Ok((had.life, present))
}

/// A frame with what its blocks are.
#[derive(Default)]
struct Packed {
    writer: FrameWriter,
    hashes: HashSet<Hash>,
}

/// Packs blocks into frames of about so many bytes.
fn pack(blocks: Vec<Block>, frame_bytes: usize) -> Result<Vec<Packed>, ShipError> {
    let mut packer = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(ShipError::Pack)?;
    let mut buffer = vec![0; zstd::zstd_safe::compress_bound(BLOCK_BYTES as usize)];
    let mut frames: Vec<Packed> = Vec::new();
    let mut left: usize = blocks.iter().map(|block| BLOCK_HEAD_BYTES + block.plain.len()).sum();
    for Block { hash, plain } in blocks {
        let length = packer.compress_to_buffer(&plain[..], &mut buffer).map_err(ShipError::Pack)?;
        let bytes = if length < plain.len() { &buffer[..length] } else { &plain[..] };
        let fits = |frame: &Packed| frame.writer.len() + BLOCK_HEAD_BYTES + bytes.len() <= frame_bytes;
        if !frames.last().is_some_and(fits) {
            frames.push(Packed { writer: FrameWriter::with_room(left.min(frame_bytes)), hashes: HashSet::new() });
        }
        left -= BLOCK_HEAD_BYTES + plain.len();
        if let Some(frame) = frames.last_mut() {
            frame.writer.block(&hash, plain.len(), bytes);
            frame.hashes.insert(hash);
        }
    }
    Ok(frames)
}

/// Puts a frame. Its blocks are durable when it is there, and leave `left`.
async fn put(shared: &Shared, frame: Packed, life: &mut Option<String>, left: &mut Vec<Block>) -> Result<(), Failed> {
    let flow: &Flow = &shared.flow;
    let bytes = frame.writer.finish();
    let sent = flow.send(bytes.len() as u64).await;
    shared.counts.wire_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    let input =
        PutInput { replication: shared.replication.clone(), instance: shared.instance.clone(), frame: Binary(bytes) };
    let taken = shared.peer.try_call(Put, input).await?;
    sent.arrived();
    if !is_name(&taken.life) {
        return Err(malformed("the answer to a put").into());
    }
    shared.counts.sent_blocks.fetch_add(frame.hashes.len() as u64, Ordering::Relaxed);
    left.retain(|block| !frame.hashes.contains(&block.hash));
    match life {
        Some(life) if *life != taken.life => Err(Failed::Later("the destination was started anew".to_owned())),
        _ => {
            *life = Some(taken.life);
            Ok(())
        }
    }
}

const _: () = assert!(UNIT_BYTES / BLOCK_BYTES as usize * HASH_BYTES < FRAME_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_told_from_all_else() {
        for length in [1, 15, 16, 17, 512, 65536] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn blocks_are_packed_into_frames_and_plain_when_they_do_not_shrink() {
        let mut noise = vec![0; BLOCK_BYTES as usize];
        getrandom::fill(&mut noise).unwrap();
        let block = |i: u8, plain: &[u8]| Block { hash: [i; 32], plain: Bytes::copy_from_slice(plain) };
        let blocks = vec![block(1, &noise), block(2, &[7; 65536]), block(3, &noise), block(4, &noise[..512])];
        let frames = pack(blocks, 70_000).unwrap();
        assert_eq!(frames.iter().map(|f| f.hashes.len()).collect::<Vec<_>>(), [2, 2]);
        let read: Vec<_> = frames
            .into_iter()
            .flat_map(|f| crate::frame::Frame::read(f.writer.finish().into()).unwrap().blocks)
            .map(|block| (block.hash[0], block.is_zstd, block.plain_bytes, block.bytes.len() < 100))
            .collect();
        assert_eq!(
            read,
            [(1, false, 65536, false), (2, true, 65536, true), (3, false, 65536, false), (4, false, 512, false)]
        );
    }
}
