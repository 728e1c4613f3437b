//! The source's side of one sync: from a machine's disks, as they were at one instant, to an instance at another site.
//!
//! ```text
//!   stretches ─► units ─► read ─► zero? ─► BLAKE3 ─► as in the base? ─► have? ─► zstd ─► put ─► release
//!    (plan)     (4 MiB)   └──────────────── a unit, four of them at a time ─────────────────────┘
//!                                                                        all done ─► root ─► commit
//! ```
//! * A unit of a disk that is compared in place is 64 MiB, of which no more than 4 MiB that differ are held at a time. What has the tag
//!   that it had in the base is not hashed (`ship_tags.rs`).
//! * What is shipped is what differs from the base, and of that what the destination lacks: never zeroes, never a block twice.
//! * Every answer counts for good: what was put is durable. A call that fails is made again with growing pauses, until nothing got done for
//!   as long as [`Way::patience`] ([`ShipError::GaveUp`]). A unit that was cut off asks again what is missing of it.
//! * Memory is bounded: a few units of each sync, and all syncs of a server together by [`Memory`].
//! * A sync is a future: dropped, it stops at once. Its draft stays, and keeps the blocks that arrived for the next attempt.
//! * The root of the new map is reckoned here, and the destination commits nothing else (`ship_map.rs`).
//!
//! A draft belongs to one reading of the disks. Who reads the machine anew, after a restart or a failure, takes a new name for the instance;
//! the blocks that have arrived are found again.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_client::{Client, ClientError};
use lockstep_contract::services::replication_receive::{
    Abandon, Commit, CommitInput, DISKS_MAX, GetLeaf, Instance, InstanceInput, LeafInput,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::frame::Hash;
use crate::limit::{Flow, Line, Memory};
use crate::receive_check::is_replication;
use crate::ship_base::{BaseMap, check_sizes, open};
use crate::ship_map::{DiskMap, Leaf, LeafFiles, hex, leaf_blocks, leaf_count, root_hash};
use crate::ship_peer::{Peer, malformed};
use crate::ship_plan::{BLOCK_BYTES, LEAF_BLOCKS, Run, block_count, runs};
pub use crate::ship_source::{DiskSource, Extent, Kind, LocalDisk, Reading, SourceError};
use crate::ship_tags::NO_TAG;
pub use crate::ship_tags::{TAG_BYTES, Tagger};
use crate::ship_unit::{
    self, Done, Entry, LOCAL_UNIT_BYTES, Piece, UNIT_BYTES, UNIT_ENTRIES_MAX, UNIT_LEAVES_MAX, Unit, blocking,
};

/// Units of one sync that are under way.
const UNITS_IN_FLIGHT_MAX: usize = 4;

/// What the stretches hold that a source does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// What they held in the base: the source knows what changed since.
    Unchanged,
    /// Zeroes: the source lists all that there is.
    Zero,
}

/// A disk to ship.
#[derive(Clone)]
pub struct Disk {
    /// Its key at the destination.
    pub key: u32,
    /// Where it is read.
    pub source: Arc<dyn DiskSource>,
}

/// What is to be shipped.
#[derive(Clone)]
pub struct Shipment {
    /// The replication.
    pub replication: String,
    /// The name of the instance to be, new for each reading of the machine.
    pub instance: String,
    /// The instance that it differs little from.
    pub base: Option<Base>,
    /// All disks of the machine.
    pub disks: Vec<Disk>,
    /// What the disks do not list.
    pub unlisted: Unlisted,
    /// The instant that the disks show, in milliseconds since 1970.
    pub time_ms: i64,
    /// Whether the attempt before was broken off: less is sent ahead then.
    pub is_again: bool,
}

/// The instance that a new one begins as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its name.
    pub instance: String,
    /// Its root as it was committed, as hex digits. With another one at the destination nothing is shipped.
    pub root: Option<String>,
}

/// The way to the destination, and what a sync may use.
#[derive(Clone)]
pub struct Way {
    /// The other site.
    pub client: Client,
    /// The link, shared by all its syncs.
    pub line: Arc<Line>,
    /// The server's memory for syncs.
    pub memory: Memory,
    /// Where the maps of replications are kept from one sync to the next: a directory, or nowhere.
    pub maps: Option<PathBuf>,
    /// Makes the tags that are kept with the maps of disks that are files, if any are.
    pub tagger: Option<Tagger>,
    /// How long nothing may get done before the sync gives up.
    pub patience: Duration,
}

/// How a sync gets on. The numbers only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the disks that there are to read.
    pub total_bytes: u64,
    /// Of these, those that are done with.
    pub done_bytes: u64,
    /// Blocks that differ from the base so far, zeroes among them.
    pub changed_blocks: u64,
    /// Blocks that were put so far.
    pub sent_blocks: u64,
    /// Bytes on the wire so far.
    pub wire_bytes: u64,
}

/// What became of a sync.
#[derive(Debug, Clone, PartialEq)]
pub struct Shipped {
    /// The instance.
    pub instance: Instance,
    /// Bytes that were read of the disks.
    pub read_bytes: u64,
    /// Blocks that were read and are zeroes.
    pub zero_blocks: u64,
    /// Blocks that differ from the base, zeroes among them.
    pub changed_blocks: u64,
    /// Blocks that were put.
    pub sent_blocks: u64,
    /// Blocks that differ and were there already.
    pub deduplicated_blocks: u64,
    /// Bytes on the wire: frames, hashes and maps, also those that were sent again.
    pub wire_bytes: u64,
    /// Bytes that were under way when something broke.
    pub wasted_bytes: u64,
    /// How often something broke.
    pub breaks: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why a sync failed. Its draft stays, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// A disk cannot be read.
    #[error("a disk cannot be read")]
    Source(#[from] SourceError),
    /// A disk gave less than it has.
    #[error("a disk gave {got} bytes of {asked} at offset {offset}")]
    ShortRead {
        /// Where.
        offset: u64,
        /// How many were wanted.
        asked: usize,
        /// How many came.
        got: usize,
    },
    /// The stretches of a disk are not sorted or not within it.
    #[error("a disk lists {bytes} bytes at offset {offset}: behind its end, or before the stretch before")]
    Extents {
        /// Where.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// A disk's size is none.
    #[error("a disk of {0} bytes cannot be replicated: a multiple of 512, and at most 64 TiB")]
    DiskSize(u64),
    /// There are no disks, too many, or two of one key.
    #[error("1 to {DISKS_MAX} disks with keys of their own, not {0}")]
    Disks(usize),
    /// The name of the replication is none: it becomes that of a directory.
    #[error("{0:?} is no name of a replication: 1 to 100 letters, digits and hyphens")]
    Replication(String),
    /// A source that knows what changed, of a disk that the base has not, or in another size.
    #[error("the source lists only changes of disk {0}, which the base has not, or in another size")]
    Resized(u32),
    /// A source that knows what changed, and nothing that it changed from.
    #[error("the source lists only changes, and there is no base")]
    NoBase,
    /// The base at the destination is not what was committed.
    #[error("the base instance has root {there} at the destination, not {here}")]
    BaseDiffers {
        /// What was committed.
        here: String,
        /// What is there.
        there: String,
    },
    /// The instance is there: it was committed from another reading.
    #[error("instance {} was committed before", .0.instance)]
    Committed(Box<Instance>),
    /// The map that the destination has is not the one that was shipped.
    #[error("the destination's map differs from the source's")]
    RootDiffers,
    /// Blocks have gone at the destination, or are damaged.
    #[error("the destination lacks blocks of the map, or they are damaged")]
    BlocksMissing,
    /// Nothing got done for too long.
    #[error("nothing got done for {after_s} seconds; last: {reason}")]
    GaveUp {
        /// How long, in seconds.
        after_s: u64,
        /// The last failure.
        reason: String,
    },
    /// The destination refuses.
    #[error("the destination refuses: {}", .0.messages.first().map_or("no reason given", |m| &m.default_message))]
    Refused(lockstep_contract::Error),
    /// The destination cannot be called.
    #[error("the destination cannot be called")]
    Peer(#[source] ClientError),
    /// An answer of the destination makes no sense.
    #[error("the destination answers nonsense: {0}")]
    Malformed(&'static str),
    /// zstd failed.
    #[error("blocks cannot be packed")]
    Pack(#[source] std::io::Error),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
}

/// What the units of a sync share.
pub(crate) struct Shared {
    pub(crate) replication: String,
    pub(crate) instance: String,
    pub(crate) disks: Vec<Disk>,
    pub(crate) peer: Peer,
    pub(crate) flow: Flow,
    pub(crate) memory: Memory,
    /// None without a place for tags.
    pub(crate) tagger: Option<Tagger>,
    /// Hashes of the blocks that units under way bring. Held for a few steps.
    pub(crate) claimed: Mutex<HashSet<Hash>>,
    pub(crate) counts: Counts,
    pub(crate) begun: Instant,
    /// What is at the destination, and is not released yet. Held for a few steps.
    pub(crate) unreleased: Mutex<Vec<Piece>>,
    progress: watch::Sender<Progress>,
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) zero_blocks: AtomicU64,
    pub(crate) changed_blocks: AtomicU64,
    pub(crate) sent_blocks: AtomicU64,
    pub(crate) deduplicated_blocks: AtomicU64,
    pub(crate) wire_bytes: AtomicU64,
}

impl Shared {
    /// So many bytes are done with.
    pub(crate) fn tell(&self, bytes: u64) {
        self.progress.send_modify(|progress| {
            progress.done_bytes += bytes;
            progress.changed_blocks = self.counts.changed_blocks.load(Ordering::Relaxed);
            progress.sent_blocks = self.counts.sent_blocks.load(Ordering::Relaxed);
            progress.wire_bytes = self.counts.wire_bytes.load(Ordering::Relaxed);
        });
    }

    pub(crate) fn count_wire(&self, bytes: usize) {
        self.counts.wire_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Ships a machine's disks.
///
/// # Errors
/// [`ShipError`].
pub async fn ship(shipment: Shipment, way: &Way, progress: watch::Sender<Progress>) -> Result<Shipped, ShipError> {
    let begun = Instant::now();
    let Shipment { replication, instance, base, disks, unlisted, time_ms, is_again } = shipment;
    check_disks(&disks)?;
    if !is_replication(&replication) {
        return Err(ShipError::Replication(replication));
    }
    if base.is_none() && unlisted == Unlisted::Unchanged {
        return Err(ShipError::NoBase);
    }
    let shared = Arc::new(Shared {
        peer: Peer::new(way.client.clone(), way.patience),
        flow: if is_again { way.line.join_again() } else { way.line.join() },
        memory: way.memory.clone(),
        tagger: way.tagger.clone().filter(|_| way.maps.is_some()),
        claimed: Mutex::default(),
        counts: Counts::default(),
        begun,
        unreleased: Mutex::default(),
        progress,
        replication,
        instance,
        disks,
    });
    let base = open(&shared, base.as_ref()).await?;
    if unlisted == Unlisted::Unchanged {
        check_sizes(&shared.disks, base.as_ref())?;
    }
    let directory = way.maps.as_ref().map(|maps| maps.join(&shared.replication));
    let tagger = shared.tagger.clone();
    let files = Arc::new(blocking(move || LeafFiles::open(directory, tagger)).await?);
    let mut loading = Loading::begin(shared.clone(), files, base).await?;
    let read_bytes = loading.run(unlisted).await?;
    let Loading { files, maps, .. } = loading;
    for disk in &shared.disks {
        disk.source.check().await?;
    }
    let instance = commit(&shared, &maps, time_ms).await?;
    let keep: HashSet<Hash> = maps.into_iter().flat_map(|map| map.leaves).collect();
    blocking(move || files.retain(&keep)).await?;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Ok(Shipped {
        instance,
        read_bytes,
        zero_blocks: count(&shared.counts.zero_blocks),
        changed_blocks: count(&shared.counts.changed_blocks),
        sent_blocks: count(&shared.counts.sent_blocks),
        deduplicated_blocks: count(&shared.counts.deduplicated_blocks),
        wire_bytes: count(&shared.counts.wire_bytes),
        wasted_bytes: shared.flow.wasted_bytes(),
        breaks: shared.peer.breaks(),
        took: begun.elapsed(),
    })
}

/// Drops the draft of a sync that will not go on.
///
/// # Errors
/// [`ShipError`].
pub async fn abandon(replication: &str, instance: &str, way: &Way) -> Result<(), ShipError> {
    let peer = Peer::new(way.client.clone(), way.patience);
    let input = || InstanceInput { replication: replication.to_owned(), instance: instance.to_owned() };
    peer.call(Abandon, input).await
}

fn check_disks(disks: &[Disk]) -> Result<(), ShipError> {
    let keys: HashSet<u32> = disks.iter().map(|disk| disk.key).collect();
    if disks.is_empty() || disks.len() > DISKS_MAX || keys.len() != disks.len() {
        return Err(ShipError::Disks(disks.len()));
    }
    disks.iter().try_for_each(|disk| block_count(disk.source.bytes()).map(|_| ()))
}

/// A sync at work: units are made, sent off and taken back.
struct Loading {
    shared: Arc<Shared>,
    /// The instance that leaves are asked of.
    base: Option<String>,
    files: Arc<LeafFiles>,
    maps: Vec<DiskMap>,
    /// Leaves that are none of the base's: those where a disk that changed its size ends.
    resized: HashMap<Hash, Arc<Leaf>>,
    /// The leaf that was looked at last.
    current: Option<((usize, u32), Arc<Leaf>)>,
    /// The unit that is being made.
    unit: Unit,
    units: JoinSet<Result<Done, ShipError>>,
    /// Disk and leaf that units are being made of: what is before is closed when they have arrived.
    at: (usize, u32),
}

impl Loading {
    /// The maps begin as the base's.
    async fn begin(shared: Arc<Shared>, files: Arc<LeafFiles>, base: Option<BaseMap>) -> Result<Self, ShipError> {
        let (instance, mut before) = match base {
            Some(base) => (Some(base.instance), base.disks),
            None => (None, Vec::new()),
        };
        let mut loading = Self {
            shared: shared.clone(),
            base: instance,
            files,
            maps: Vec::new(),
            resized: HashMap::new(),
            current: None,
            unit: Unit::default(),
            units: JoinSet::new(),
            at: (0, 0),
        };
        for disk in &shared.disks {
            let blocks = block_count(disk.source.bytes())?;
            let old = before.iter().position(|old| old.key == disk.key).map(|at| before.swap_remove(at));
            let (old_blocks, old_leaves) = match old {
                Some(old) => (block_count(old.bytes)?, old.leaves),
                None => (0, Vec::new()),
            };
            let mut leaves = Vec::with_capacity(leaf_count(blocks) as usize);
            for number in 0..leaf_count(blocks) {
                let (count, old_count) = (leaf_blocks(blocks, number), leaf_blocks(old_blocks, number));
                leaves.push(match old_leaves.get(number as usize) {
                    Some(hash) if count == old_count => *hash,
                    Some(hash) => {
                        let leaf = loading.load(disk, number, hash, old_count).await?.resized(count);
                        let hash = leaf.hash();
                        loading.resized.insert(hash, Arc::new(leaf));
                        hash
                    }
                    None => Leaf::zeroes(count).hash(),
                });
            }
            loading.maps.push(DiskMap::new(blocks, leaves));
        }
        Ok(loading)
    }

    /// Does all that there is to do; answers how many bytes were read.
    async fn run(&mut self, unlisted: Unlisted) -> Result<u64, ShipError> {
        let shared = self.shared.clone();
        let mut all: Vec<Vec<Run>> = Vec::new();
        let mut total = 0;
        for disk in &shared.disks {
            let extents = disk.source.extents().await?;
            let runs = runs(&extents, disk.source.bytes(), unlisted)?;
            let data = runs.iter().filter(|run| run.kind == Kind::Data);
            total += data.map(|run| run.bytes(disk.source.bytes())).sum::<u64>();
            all.push(runs);
        }
        shared.progress.send_modify(|progress| progress.total_bytes = total);
        for (disk, runs) in all.into_iter().enumerate() {
            for piece in runs.into_iter().flat_map(Run::by_leaf) {
                let number = piece.first / LEAF_BLOCKS;
                self.at = (disk, number);
                match piece.kind {
                    Kind::Data => self.read(disk, number, piece).await?,
                    Kind::Zero => self.clear(disk, number, piece).await?,
                }
            }
        }
        self.send_off().await?;
        self.at = (shared.disks.len(), 0);
        while self.take_back().await? {}
        Ok(total)
    }

    /// These blocks must be read.
    async fn read(&mut self, disk: usize, number: u32, piece: Run) -> Result<(), ShipError> {
        let leaf = self.leaf(disk, number).await?;
        let is_local = self.shared.disks[disk].source.local().is_some();
        let (mut first, mut left) = (piece.first, piece.count);
        while left > 0 {
            let bytes_left = match is_local {
                // Where nothing was, all of it will differ: in small units it goes in the order of the disk, in which whoever begins
                // anew asks for it.
                true if leaf.is_zero() => UNIT_BYTES.saturating_sub(self.unit.local_bytes),
                true => LOCAL_UNIT_BYTES - self.unit.local_bytes,
                false => UNIT_BYTES - self.unit.bytes,
            };
            let room = bytes_left / BLOCK_BYTES as usize;
            if room == 0 {
                self.send_off().await?;
                continue;
            }
            self.touch(disk, number, &leaf).await?;
            let count = left.min(room as u32);
            let unit = &mut self.unit;
            let (pieces, bytes) = match is_local {
                true => (&mut unit.local, &mut unit.local_bytes),
                false => (&mut unit.pieces, &mut unit.bytes),
            };
            pieces.push(Piece { disk, first, count });
            *bytes += count as usize * BLOCK_BYTES as usize;
            (first, left) = (first + count, left - count);
        }
        Ok(())
    }

    /// These blocks are zeroes.
    async fn clear(&mut self, disk: usize, number: u32, piece: Run) -> Result<(), ShipError> {
        let leaf = self.leaf(disk, number).await?;
        if leaf.is_zero() {
            return Ok(());
        }
        for block in piece.first..piece.first + piece.count {
            if leaf.get(block % LEAF_BLOCKS).is_none() {
                continue;
            }
            if self.unit.entries.len() >= UNIT_ENTRIES_MAX {
                self.send_off().await?;
            }
            self.touch(disk, number, &leaf).await?;
            self.unit.entries.push(Entry { disk, block, hash: None, tag: NO_TAG });
        }
        Ok(())
    }

    /// The unit that is being made touches this leaf.
    async fn touch(&mut self, disk: usize, number: u32, leaf: &Arc<Leaf>) -> Result<(), ShipError> {
        if self.unit.leaves.contains_key(&(disk, number)) {
            return Ok(());
        }
        if self.unit.leaves.len() >= UNIT_LEAVES_MAX {
            self.send_off().await?;
        }
        self.maps[disk].touch(number, leaf);
        self.unit.leaves.insert((disk, number), leaf.clone());
        Ok(())
    }

    /// A leaf of the base.
    async fn leaf(&mut self, disk: usize, number: u32) -> Result<Arc<Leaf>, ShipError> {
        if let Some((at, leaf)) = &self.current
            && *at == (disk, number)
        {
            return Ok(leaf.clone());
        }
        let hash = self.maps[disk].leaves[number as usize];
        let count = self.maps[disk].leaf_blocks(number);
        let leaf = match self.resized.get(&hash) {
            Some(leaf) => leaf.clone(),
            None => Arc::new(self.load(&self.shared.disks[disk], number, &hash, count).await?),
        };
        self.current = Some(((disk, number), leaf.clone()));
        Ok(leaf)
    }

    /// A leaf by its hash: from the files, or from the destination.
    async fn load(&self, disk: &Disk, number: u32, hash: &Hash, count: u32) -> Result<Leaf, ShipError> {
        let zeroes = Leaf::zeroes(count);
        if zeroes.hash() == *hash {
            return Ok(zeroes);
        }
        let (files, wanted, is_local) = (self.files.clone(), *hash, disk.source.local().is_some());
        let read = move || {
            let leaf = files.read(&wanted, count)?;
            Some(if is_local { files.with_tags(leaf, &wanted) } else { leaf })
        };
        if let Some(leaf) = blocking(read).await? {
            return Ok(leaf);
        }
        let Some(base) = &self.base else { return Err(malformed("a leaf of no base")) };
        let input = || LeafInput {
            replication: self.shared.replication.clone(),
            instance: base.clone(),
            disk: i64::from(disk.key),
            leaf: i64::from(number),
        };
        let bytes = self.shared.peer.call(GetLeaf, input).await?.leaf.0;
        self.shared.peer.got_on();
        self.shared.count_wire(bytes.len());
        let leaf = Leaf::checked(&bytes, hash, count).ok_or_else(|| malformed("a leaf does not have its hash"))?;
        let files = self.files.clone();
        blocking(move || files.write(&wanted, &bytes)).await?;
        Ok(leaf)
    }

    /// Sends the unit off that has been made, when there is room for one.
    async fn send_off(&mut self) -> Result<(), ShipError> {
        let unit = std::mem::take(&mut self.unit);
        if unit.leaves.is_empty() {
            return Ok(());
        }
        while self.units.len() >= UNITS_IN_FLIGHT_MAX {
            self.take_back().await?;
        }
        self.units.spawn(ship_unit::run(self.shared.clone(), unit));
        Ok(())
    }

    /// Waits for a unit to arrive; false when there is none.
    async fn take_back(&mut self) -> Result<bool, ShipError> {
        let done = match self.units.join_next().await {
            None => return Ok(false),
            Some(Err(_)) => return Err(ShipError::Stopped),
            Some(Ok(done)) => done?,
        };
        for entry in done.entries {
            self.maps[entry.disk].set(entry);
        }
        for (disk, block, tag) in done.tags {
            self.maps[disk].set_tag(block, tag);
        }
        for (disk, number) in done.leaves {
            self.maps[disk].let_go(number);
        }
        let at = self.at;
        let mut kept = Vec::new();
        for (disk, map) in self.maps.iter_mut().enumerate().take(at.0 + 1) {
            kept.extend(map.close_below(if disk < at.0 { u32::MAX } else { at.1 }));
        }
        if !kept.is_empty() {
            let files = self.files.clone();
            blocking(move || kept.iter().for_each(|kept| files.keep(kept))).await?;
        }
        Ok(true)
    }
}

/// Makes the draft an instance.
async fn commit(shared: &Shared, maps: &[DiskMap], time_ms: i64) -> Result<Instance, ShipError> {
    let disks = shared.disks.iter().zip(maps);
    let mut parts: Vec<(u32, u64, &[Hash])> =
        disks.map(|(disk, map)| (disk.key, disk.source.bytes(), &map.leaves[..])).collect();
    parts.sort_unstable_by_key(|(key, ..)| *key);
    let root = hex(&root_hash(&parts));
    let input = || CommitInput {
        replication: shared.replication.clone(),
        instance: shared.instance.clone(),
        root: root.clone(),
        time_ms,
    };
    let instance = shared.peer.call(Commit, input).await?;
    if instance.root != root || instance.instance != shared.instance {
        return Err(malformed("another instance was committed"));
    }
    Ok(instance)
}
