//! What a new destination has already: the disks of the machine that it had when it was the source.
//!
//! They are read once, from where they are, and stored as an instance, the *seed*. The first sync of the other direction begins as that:
//! what has not been written since is never sent. It is an instance like any other, found, thinned and recovered like one; what it shows
//! is the machine as its last source left it.
//!
//! Nothing depends on a seed but what a sync costs: what differs from it is found by hashes. So disks that are gone, or cannot be read, are a
//! warning. A machine that is still in use is none: it would write to disks that are not replicated any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_blocks::format::{block_count, encode_leaf, hash_of, hex, leaf_blocks, leaf_count, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Block, DiskSize, Draft, Hash, LEAF_BLOCKS, Name, Store};
use lockstep_contract::{Error, ErrorKind};
use lockstep_qemu::Kind;
use lockstep_site::tasks::{Handle, cancelled};
use lockstep_site::{times, uuid};

use crate::engine::{FIRST_DISK_KEY, Point};
use crate::record::{Cycles, Seed};
use crate::service::{Replications, blocking};
use crate::ship::{DiskSource, Unlisted};
use crate::ship_plan::{Run, runs};

/// Blocks that are read and stored at a time: 4 MiB.
const PIECE_BLOCKS: u32 = 64;

/// How long the disks may be in use after the machine is off: a program of QEMU's that a server which was killed has begun ends by itself.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// Wait before they are tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Why there is no seed.
enum Stopped {
    /// The disks cannot be read.
    Unread(Error),
    /// They cannot be stored, or it was called off.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// For `map_err` on what reading answers.
fn unread(error: impl std::fmt::Display) -> Stopped {
    Stopped::Unread(Error::new(ErrorKind::Error, "lockstep.replication.machine", error.to_string(), Vec::new()))
}

impl Replications {
    /// Stores what the disks of this site's machine hold, once it is off. Done before, it does nothing.
    ///
    /// # Errors
    /// `unsupported` when this site has no store, `resource_busy` when the machine is in use, and what hinders storing.
    pub(crate) async fn seed(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let store = self.store()?.clone();
        let record = self.find(id)?;
        let name_of = |seed: &Seed| Name::new(id, &seed.instance);
        if record.cycles().seed.as_ref().and_then(name_of).is_some_and(|name| store.instance(&name).is_some()) {
            handle.log("what the old disks hold is stored already");
            return Ok(());
        }
        let machine = match self.machine(&record) {
            Ok(machine) => machine,
            Err(error) => {
                handle.warn(format!("the old machine cannot be read, and everything will be sent: {error}"));
                return Ok(());
            }
        };
        self.power_off(id, handle).await?;
        let Some(engine) = &self.config.engine else {
            handle.warn("this site cannot read machines' disks, and everything will be sent");
            return Ok(());
        };
        let key = format!("h4replica-{}", uuid::random()?);
        let name = Name::new(id, &key).ok_or_else(Error::internal)?;
        let deadline = Instant::now() + BUSY_LIMIT;
        let begun = loop {
            match engine.begin(&machine, None).await {
                Err(error) if error.kind == ErrorKind::ResourceBusy && Instant::now() < deadline => tokio::select! {
                    () = tokio::time::sleep(BUSY_PAUSE) => {}
                    () = handle.cancelled() => return Err(cancelled()),
                },
                begun => break begun,
            }
        };
        let stored = match begun {
            Ok(point) => {
                let stored = store_point(&store, &name, &*point, handle).await;
                if let Err(error) = point.abandon().await {
                    tracing::warn!(%error, replication = id, "a point in time did not end as it should");
                }
                stored
            }
            Err(error) if error.kind == ErrorKind::ResourceBusy => return Err(error),
            Err(error) => Err(Stopped::Unread(error)),
        };
        let root = match stored {
            Ok(root) => root,
            Err(Stopped::Unread(error)) => {
                handle.warn(format!("the old disks cannot be read, and everything will be sent: {error}"));
                return Ok(());
            }
            Err(Stopped::Failed(error)) => return Err(error),
        };
        let cycles = Cycles { seed: Some(Seed { instance: key, root: hex(&root) }), ..record.cycles() };
        let json = serde_json::to_string(&cycles).map_err(|_| Error::internal())?;
        self.change(id, |record| {
            record.source.cycle = Some(json.clone());
            Ok(())
        })
        .await?;
        Ok(())
    }
}

/// Makes an instance of a point in time, in the store of this site; none when that fails.
async fn store_point(store: &Store, name: &Name, point: &dyn Point, handle: &Handle) -> Result<Hash, Stopped> {
    if point.about().unlisted != Unlisted::Zero {
        return Err(unread("its changes alone are known, not what it holds"));
    }
    // The recovered machine has them one after the other, without those that were left out.
    let disks: Vec<(DiskSize, Arc<dyn DiskSource>)> = (FIRST_DISK_KEY..)
        .zip(point.disks())
        .map(|(key, disk)| (DiskSize { key, bytes: disk.source.bytes() }, disk.source))
        .collect();
    let (begun, wanted) = (store.clone(), name.clone());
    let sizes: Vec<DiskSize> = disks.iter().map(|(size, _)| *size).collect();
    let draft = Arc::new(blocking(move || begun.begin(&wanted, None, &sizes)).await?);
    let stored = store_disks(&draft, &disks, handle).await;
    if stored.is_err() {
        let left = blocking(move || draft.abandon()).await;
        left.unwrap_or_else(|error| tracing::warn!(%error, instance = %name, "the draft of a seed is left"));
    }
    stored
}

async fn store_disks(
    draft: &Arc<Draft>,
    disks: &[(DiskSize, Arc<dyn DiskSource>)],
    handle: &Handle,
) -> Result<Hash, Stopped> {
    let total: u64 = disks.iter().map(|(size, _)| size.bytes).sum();
    let (mut done, mut new_bytes) = (0, 0);
    let mut maps: Vec<(DiskSize, Vec<Hash>)> = Vec::new();
    for (size, source) in disks {
        let extents = source.extents().await.map_err(unread)?;
        let mut pieces = runs(&extents, size.bytes, Unlisted::Zero).map_err(unread)?.into_iter().flat_map(Run::by_leaf);
        let mut next = pieces.next();
        let blocks = block_count(size.bytes);
        let mut leaves = Vec::new();
        for leaf in 0..leaf_count(blocks) {
            let mut entries: Vec<Option<Hash>> = vec![None; leaf_blocks(blocks, leaf) as usize];
            while let Some(piece) = next.filter(|piece| piece.first / LEAF_BLOCKS == leaf) {
                if piece.kind == Kind::Data {
                    new_bytes += store_run(draft, size, &**source, piece, &mut entries, handle).await?;
                }
                next = pieces.next();
            }
            leaves.push(hash_of(&encode_leaf(&entries)));
            let set: Vec<(u32, Option<Hash>)> =
                (leaf * LEAF_BLOCKS..).zip(entries).filter(|(_, hash)| hash.is_some()).collect();
            let (draft, key) = (draft.clone(), size.key);
            blocking(move || draft.set(key, &set)).await?;
            done += u64::from(leaf_blocks(blocks, leaf)) * BLOCK_BYTES as u64;
            let percent = (done * 98).checked_div(total).unwrap_or(0);
            handle.progress(i64::try_from(percent.min(98)).unwrap_or(0));
        }
        source.check().await.map_err(unread)?;
        maps.push((*size, leaves));
    }
    let root = root_hash(maps.iter().map(|(size, leaves)| (size.key, size.bytes, &**leaves)));
    let draft = draft.clone();
    blocking(move || {
        draft.flush()?;
        draft.commit(&root, times::now_ms())
    })
    .await?;
    handle.log(format!(
        "the old disks of {} MiB are stored, {} MiB of them were not there yet",
        total >> 20,
        new_bytes >> 20
    ));
    Ok(root)
}

/// Stores the blocks of a run within a leaf, and says what they are. Answers how many bytes were not there.
async fn store_run(
    draft: &Arc<Draft>,
    size: &DiskSize,
    source: &dyn DiskSource,
    run: Run,
    entries: &mut [Option<Hash>],
    handle: &Handle,
) -> Result<u64, Stopped> {
    let mut new_bytes = 0;
    let end = run.first + run.count;
    let mut first = run.first;
    while first < end {
        if handle.is_cancelled() {
            return Err(cancelled().into());
        }
        let count = PIECE_BLOCKS.min(end - first);
        let offset = u64::from(first) * BLOCK_BYTES as u64;
        let bytes = (u64::from(count) * BLOCK_BYTES as u64).min(size.bytes - offset);
        let read = source.read(offset, usize::try_from(bytes).unwrap_or(0)).await.map_err(unread)?;
        let draft = draft.clone();
        let (hashes, stored) = blocking(move || store_piece(&draft, &read)).await?;
        new_bytes += stored;
        let at = (first % LEAF_BLOCKS) as usize;
        for (entry, hash) in entries.iter_mut().skip(at).zip(hashes) {
            *entry = hash;
        }
        first += count;
    }
    Ok(new_bytes)
}

/// Stores what is not there yet of some blocks, and answers what each is; none for zeroes.
fn store_piece(draft: &Draft, read: &Bytes) -> Result<(Vec<Option<Hash>>, u64), lockstep_blocks::Error> {
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let hashes: Vec<Option<Hash>> =
        read.chunks(BLOCK_BYTES).map(|block| (!is_zero(block)).then(|| hash_of(block))).collect();
    let wanted: Vec<Hash> = hashes.iter().flatten().copied().collect();
    let mut there = draft.have(&wanted)?.into_iter();
    let mut missing = Vec::new();
    for (block, hash) in read.chunks(BLOCK_BYTES).zip(&hashes) {
        if hash.is_some() && there.next() == Some(false) {
            missing.push(Block::of_plain(block));
        }
    }
    let bytes = missing.iter().map(|block| u64::from(block.plain_bytes)).sum();
    if !missing.is_empty() {
        draft.put(&missing)?;
    }
    Ok((hashes, bytes))
}
