//! The least that an incremental copy of a running machine's disk is: a plain pull over NBD of what a dirty bitmap lists.
//!
//! Nothing is hashed, packed, encrypted or kept: the blocks are written to a file, which is flushed. The bitmap is one of its own, switched
//! at a point in time of its own, so that this and a sync have the same blocks to bring.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lockstep_qemu::{Base, Cycle, CycleDisk, LiveVm, Method, Select, Tag};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::ReplicationArgs;
use super::timed::Timed;
use crate::process::Process;

/// Most bytes of one read.
const READ_BYTES: u64 = 1 << 20;

/// Reads under way.
const READS_IN_FLIGHT: usize = 16;

/// Pulls from one machine, again and again.
pub struct Puller {
    vm: LiveVm,
    base: Base,
    copy: Arc<File>,
    _dir: TempDir,
}

/// What one pull took.
pub struct Pulled {
    /// From before the point in time is taken until it is given back.
    pub whole: Timed,
    /// Of this, asking the bitmap, reading, writing and flushing.
    pub blocks: Duration,
    pub bytes: u64,
}

impl Puller {
    /// Begins a bitmap, which knows of what is written from now on.
    pub fn begin(args: &ReplicationArgs, monitor: PathBuf, runtime: &Runtime) -> anyhow::Result<Self> {
        let dir = args.fresh_dir()?;
        let vm = LiveVm {
            monitor,
            tag: Tag::of("beadfeed").context("the name of the bitmap")?,
            disks: vec![(0, Select::Qdev("vd0".to_owned()))],
            scratch: std::path::absolute(dir.path())?,
            granularity: lockstep_qemu::BLOCK_BYTES as u32,
            agent: None,
        };
        let copy = Arc::new(File::create(dir.path().join("copy.raw")).context("make the copy")?);
        let first = runtime.block_on(async {
            let cycle = vm.begin(None).await?;
            let base = Base { number: cycle.number, disks: cycle.disks.iter().map(|d| (d.index, d.bytes)).collect() };
            cycle.finish().await?;
            Ok::<_, lockstep_qemu::Error>(base)
        });
        let base = first.context("begin a bitmap")?;
        copy.set_len(base.disks.iter().map(|(_, bytes)| bytes).sum())?;
        Ok(Self { vm, base, copy, _dir: dir })
    }

    /// Brings what changed since the last time.
    pub fn pull(&mut self, runtime: &Runtime) -> anyhow::Result<Pulled> {
        let here = Process::new(std::process::id());
        let (before, began) = (here.cpu()?, Instant::now());
        let (blocks, bytes) = runtime.block_on(async {
            let cycle = self.vm.begin(Some(&self.base)).await?;
            ensure!(cycle.method == Method::LiveBitmap, "no bitmap: {:?}", cycle.why);
            let number = cycle.number;
            let began = Instant::now();
            let bytes = copy(&cycle, &self.copy).await?;
            let took = began.elapsed();
            cycle.finish().await?;
            self.base.number = number;
            Ok::<_, anyhow::Error>((took, bytes))
        })?;
        let whole = Timed { wall: began.elapsed(), cpu: here.cpu()? - before, output: String::new() };
        Ok(Pulled { whole, blocks, bytes })
    }
}

async fn copy(cycle: &Cycle, copy: &Arc<File>) -> anyhow::Result<u64> {
    let mut total = 0;
    let mut reads = JoinSet::new();
    for disk in &cycle.disks {
        for extent in disk.extents().await? {
            let end = extent.offset + extent.bytes;
            for offset in (extent.offset..end).step_by(READ_BYTES as usize) {
                if reads.len() == READS_IN_FLIGHT {
                    reads.join_next().await.context("no read")???;
                }
                let bytes = (end - offset).min(READ_BYTES);
                reads.spawn(copy_one(disk.clone(), copy.clone(), offset, bytes as usize));
                total += bytes;
            }
        }
    }
    while let Some(read) = reads.join_next().await {
        read??;
    }
    let copy = copy.clone();
    tokio::task::spawn_blocking(move || copy.sync_data()).await??;
    Ok(total)
}

async fn copy_one(disk: CycleDisk, copy: Arc<File>, offset: u64, bytes: usize) -> anyhow::Result<()> {
    let data = disk.read(offset, bytes).await?;
    // Into the page cache only.
    copy.write_all_at(&data, offset).context("write the copy")
}
