//! A few megabytes of a sync's disks on their way: read, compared, hashed, asked for, packed, put.
//!
//! A unit is done when the destination has told that all of it is durable. Until then its bytes are held here, so whatever breaks in
//! between, it goes on with the question which of its blocks are missing.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use lockstep_contract::Binary;
use lockstep_contract::services::replication_receive::{Have, HaveInput, Put, PutInput};
use tokio::task::JoinSet;
use zstd::bulk::Compressor;

use crate::frame::{BLOCK_HEAD_BYTES, FrameWriter, HASH_BYTES, Hash};
use crate::limit::Flow;
use crate::ship::{Shared, ShipError};
use crate::ship_map::Leaf;
use crate::ship_peer::{Failed, is_name, malformed};
use crate::ship_plan::{BLOCK_BYTES, LEAF_BLOCKS};
use crate::ship_tags::{NO_TAG, Tag, Tagger};

/// Plain bytes of a unit that are held: with a few units under way, enough to keep disk, processors and line busy.
pub(crate) const UNIT_BYTES: usize = 4 << 20;

/// Bytes of a unit's files. They are not held: of what is compared in place only what differs is, and that is little as a rule.
pub(crate) const LOCAL_UNIT_BYTES: usize = 64 << 20;

/// Most entries of zeroes in a unit.
pub(crate) const UNIT_ENTRIES_MAX: usize = 65_536;

/// Most leaves that a unit touches: each takes some 130 KB while it does, or 200 with tags.
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
    /// The tag of what it is to be, when it was read from a file.
    pub(crate) tag: Tag,
}

/// What there is to do.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    /// To be read whole.
    pub(crate) pieces: Vec<Piece>,
    /// Plain bytes of these.
    pub(crate) bytes: usize,
    /// To be compared in place: their disks are local.
    pub(crate) local: Vec<Piece>,
    /// Plain bytes of these.
    pub(crate) local_bytes: usize,
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
    /// Tags of what does not: the disk, the block, the tag.
    pub(crate) tags: Vec<(usize, u32, Tag)>,
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
    let _memory = shared.memory.take(2 * (unit.bytes + unit.local_bytes.min(UNIT_BYTES))).await;
    let touched = unit.leaves.keys().copied().collect();
    let read = read(&shared, &unit.pieces).await?;
    let mut search = Search::new(&shared, unit.leaves, read, unit.local);
    let (mut entries, mut tags, mut brought) = (unit.entries, Vec::new(), 0);
    shared.counts.changed_blocks.fetch_add(entries.len() as u64, Ordering::Relaxed);
    loop {
        let (back, found) = blocking(move || search.go_on().map(|found| (search, found))).await??;
        search = back;
        shared.counts.zero_blocks.fetch_add(found.zeroes, Ordering::Relaxed);
        shared.counts.changed_blocks.fetch_add(found.blocks.len() as u64, Ordering::Relaxed);
        tags.extend(found.tags);
        let mut blocks = Vec::new();
        let mut seen = HashSet::new();
        for (entry, plain) in found.blocks {
            entries.push(entry);
            let Some(hash) = entry.hash else { continue };
            if seen.insert(hash) {
                blocks.push(Block { hash, plain });
            } else {
                shared.counts.deduplicated_blocks.fetch_add(1, Ordering::Relaxed);
            }
        }
        if entries.len() > brought {
            bring(&shared, blocks, &entries[brought..]).await?;
            brought = entries.len();
        }
        shared.tell(found.looked_at);
        if search.is_over() {
            break;
        }
    }
    release(&shared, &unit.pieces).await?;
    Ok(Done { entries, tags, leaves: touched })
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

/// What a task answered; none when there was no task.
fn ended<T>(task: Option<Result<Result<T, ShipError>, tokio::task::JoinError>>) -> Result<Option<T>, ShipError> {
    match task {
        None => Ok(None),
        Some(Ok(done)) => done.map(Some),
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
    for (disk, offset, bytes) in parts {
        if reads.len() >= READS_IN_FLIGHT_MAX {
            read.extend(ended(reads.join_next().await)?);
        }
        let shared = shared.clone();
        reads.spawn(async move {
            let data = shared.disks[disk].source.read(offset, bytes).await?;
            if data.len() != bytes {
                return Err(ShipError::ShortRead { offset, asked: bytes, got: data.len() });
            }
            Ok(((disk, (offset / BLOCK_BYTES) as u32), data))
        });
    }
    while !reads.is_empty() {
        read.extend(ended(reads.join_next().await)?);
    }
    Ok(read)
}

thread_local! {
    /// What a file is read into. It stays in the processor's cache, and is not filled with zeroes each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Looks for the blocks that differ from the base's.
struct Search {
    shared: Arc<Shared>,
    leaves: HashMap<(usize, u32), Arc<Leaf>>,
    /// What was read; with each part its disk and its first block.
    read: Vec<((usize, u32), Bytes)>,
    /// What is to be read yet, where it is looked at.
    local: VecDeque<Piece>,
    found: Found,
}

/// What a search has found.
#[derive(Default)]
struct Found {
    /// Blocks that differ.
    blocks: Vec<(Entry, Bytes)>,
    /// Plain bytes of these.
    bytes: usize,
    /// Tags that were not known, of blocks that do not differ.
    tags: Vec<(usize, u32, Tag)>,
    /// Blocks that are zeroes.
    zeroes: u64,
    /// Bytes that were looked at.
    looked_at: u64,
}

impl Search {
    fn new(
        shared: &Arc<Shared>,
        leaves: HashMap<(usize, u32), Arc<Leaf>>,
        read: Vec<((usize, u32), Bytes)>,
        local: Vec<Piece>,
    ) -> Self {
        Self { shared: shared.clone(), leaves, read, local: local.into(), found: Found::default() }
    }

    /// Looks on until there is as much to bring as may be held. Answers what was found, in order.
    fn go_on(&mut self) -> Result<Found, ShipError> {
        for ((disk, first), bytes) in std::mem::take(&mut self.read) {
            for (block, plain) in (first..).zip(bytes.chunks(BLOCK_BYTES as usize)) {
                self.look(disk, block, plain, None, || bytes.slice_ref(plain));
            }
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(LOCAL_READ_BYTES, 0);
            while self.found.bytes < UNIT_BYTES
                && let Some(piece) = self.local.pop_front()
            {
                self.look_in_place(piece, buffer)?;
            }
            Ok::<_, ShipError>(())
        })?;
        let mut found = std::mem::take(&mut self.found);
        // Parts come as they are read; in order they make longer runs.
        found.blocks.sort_unstable_by_key(|(entry, _)| (entry.disk, entry.block));
        Ok(found)
    }

    /// Whether all was looked at.
    fn is_over(&self) -> bool {
        self.local.is_empty()
    }

    /// Looks at the first blocks of a piece; what is left of it is next.
    fn look_in_place(&mut self, piece: Piece, buffer: &mut [u8]) -> Result<(), ShipError> {
        let shared = self.shared.clone();
        let Some(local) = shared.disks[piece.disk].source.local() else { return Ok(()) };
        let count = piece.count.min((buffer.len() / BLOCK_BYTES as usize) as u32);
        let (offset, length) = range(&shared, &Piece { count, ..piece });
        let part = &mut buffer[..length as usize];
        local.read_at(offset, part)?;
        for (block, plain) in (piece.first..).zip(part.chunks(BLOCK_BYTES as usize)) {
            // Looked at where it was read, and copied only if it differs.
            self.look(piece.disk, block, plain, shared.tagger.as_ref(), || Bytes::copy_from_slice(plain));
        }
        if count < piece.count {
            self.local.push_front(Piece { first: piece.first + count, count: piece.count - count, ..piece });
        }
        Ok(())
    }

    /// Looks at a block, and keeps it when it differs. With a tagger, one that has its tag is not hashed.
    fn look(&mut self, disk: usize, block: u32, plain: &[u8], tagger: Option<&Tagger>, keep: impl FnOnce() -> Bytes) {
        self.found.looked_at += plain.len() as u64;
        let is_zero = is_zero(plain);
        let tag = tagger.filter(|_| !is_zero).map_or(NO_TAG, |tagger| tagger.tag(plain));
        let leaf = self.leaves.get(&(disk, block / LEAF_BLOCKS));
        if tag != NO_TAG && leaf.is_some_and(|leaf| leaf.tag(block % LEAF_BLOCKS) == tag) {
            return;
        }
        let hash = (!is_zero).then(|| *blake3::hash(plain).as_bytes());
        self.found.zeroes += u64::from(hash.is_none());
        if leaf.and_then(|leaf| leaf.get(block % LEAF_BLOCKS)) != hash {
            self.found.bytes += plain.len();
            self.found.blocks.push((Entry { disk, block, hash, tag }, keep()));
        } else if tag != NO_TAG {
            self.found.tags.push((disk, block, tag));
        }
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
            Ok(true) => {
                shared.peer.got_on();
                return Ok(());
            }
            Ok(false) => {}
            Err(failed) => shared.peer.pause(failed).await?,
        }
    }
}

/// Tries it once. What is durable afterwards is taken out of `left`. False when the frames have become too large on the way.
async fn attempt(shared: &Arc<Shared>, left: &mut Vec<Block>, entries: &[Entry]) -> Result<bool, Failed> {
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
        if !put(shared, frame, &mut life, left).await? {
            return Ok(false);
        }
    }
    for entry in entries {
        last.writer.entry(shared.disks[entry.disk].key, entry.block, entry.hash);
    }
    if !put(shared, last, &mut life, left).await? {
        return Ok(false);
    }
    shared.counts.deduplicated_blocks.fetch_add(found, Ordering::Relaxed);
    Ok(true)
}

/// Which blocks are there, and in which life.
async fn have(shared: &Shared, blocks: &[Block]) -> Result<(String, Vec<bool>), Failed> {
    let hashes: Vec<u8> = blocks.iter().flat_map(|block| block.hash).collect();
    let sent = hashes.len() as u64;
    shared.counts.wire_bytes.fetch_add(sent, Ordering::Relaxed);
    let input = HaveInput {
        replication: shared.replication.clone(),
        instance: shared.instance.clone(),
        hashes: Binary(hashes.into()),
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

thread_local! {
    /// A new one for each frame would cost more than a block of it.
    static PACKER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// Packs blocks into frames of at most so many bytes, or of one block.
fn pack(blocks: Vec<Block>, frame_bytes: usize) -> Result<Vec<Packed>, ShipError> {
    PACKER.with_borrow_mut(|packer| {
        let packer = match packer {
            Some(packer) => packer,
            None => packer.insert(Compressor::new(ZSTD_LEVEL).map_err(ShipError::Pack)?),
        };
        let mut frames: Vec<Packed> = Vec::new();
        let mut left: usize = blocks.iter().map(|block| BLOCK_HEAD_BYTES + block.plain.len()).sum();
        for Block { hash, plain } in blocks {
            let most = BLOCK_HEAD_BYTES + plain.len();
            if frames.last().is_none_or(|frame| frame.writer.len() + most > frame_bytes) {
                frames.push(Packed { writer: FrameWriter::with_room(left.min(frame_bytes)), hashes: HashSet::new() });
            }
            left -= most;
            if let Some(frame) = frames.last_mut() {
                frame.writer.block(&hash, plain.len(), |out| append(packer, &plain, out));
                frame.hashes.insert(hash);
            }
        }
        Ok(frames)
    })
}

/// Appends a block, compressed where that makes it shorter.
fn append(packer: &mut Compressor<'_>, plain: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(plain.len());
    let mut behind = Cursor::new(out);
    behind.set_position(start as u64);
    // It fails when it does not get shorter than there is room for, among other things; none of them hinders sending it as it is.
    let packed = packer.compress_to_buffer(plain, &mut behind);
    let out = behind.into_inner();
    if !packed.is_ok_and(|length| length < plain.len()) {
        out.truncate(start);
        out.extend_from_slice(plain);
    }
}

/// Puts a frame. Its blocks are durable when it is there, and leave `left`. False when it is too large by now and has not been sent.
async fn put(shared: &Shared, frame: Packed, life: &mut Option<String>, left: &mut Vec<Block>) -> Result<bool, Failed> {
    let flow: &Flow = &shared.flow;
    // Packed anew, it would come in more frames; its entries stay together.
    let divisible_bytes = if frame.hashes.len() > 1 { frame.writer.blocks_len() } else { 0 };
    let bytes = frame.writer.finish();
    let Some(sent) = flow.send(bytes.len() as u64, divisible_bytes as u64).await else { return Ok(false) };
    shared.counts.wire_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    let input = PutInput {
        replication: shared.replication.clone(),
        instance: shared.instance.clone(),
        frame: Binary(bytes.into()),
    };
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
            Ok(true)
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
        let blocks = vec![block(1, &noise), block(2, &[7; 65536]), block(3, &noise[..60_000]), block(4, &noise)];
        let frames = pack(blocks, 140_000).unwrap();
        assert_eq!(frames.iter().map(|f| f.hashes.len()).collect::<Vec<_>>(), [3, 1]);
        let read: Vec<_> = frames
            .into_iter()
            .flat_map(|f| crate::frame::Frame::read(f.writer.finish().into()).unwrap().blocks)
            .map(|block| (block.hash[0], block.is_zstd, block.plain_bytes, block.bytes.len() < 100))
            .collect();
        assert_eq!(
            read,
            [(1, false, 65536, false), (2, true, 65536, true), (3, false, 60_000, false), (4, false, 65536, false)]
        );
    }
}
