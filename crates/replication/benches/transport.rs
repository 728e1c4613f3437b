//! What a sync costs: bytes on the wire beside zstd of the blocks that changed, and processor time beside `b3sum` of the image.
//!
//! ```text
//! cargo bench -p lockstep-replication --bench transport -- [--data-mib N] [--dir DIR]
//! ```
//!
//! The image is four times as large as its data, which stand in runs of 16 MiB between holes; 1 % of its blocks change, all among the
//! data. Source and destination are in this process, the destination with its store in a directory, so the processor time of the
//! copies is of both sides; a comparison of an image that did not change is the source's alone.

#![allow(clippy::unwrap_used, reason = "a bench ends where it fails")]

#[path = "../tests/it/pair.rs"]
mod pair;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use lockstep_replication::ship::{Base, Disk, Extent, Kind, Shipment, Shipped, Unlisted, ship};
use pair::{BLOCK, FileDisk, Pair, Random, progress};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Blocks of a run of data.
const RUN_BLOCKS: usize = 256;

/// One part of the image that is data.
const DATA_SHARE: usize = 4;

struct Image {
    path: PathBuf,
    blocks: usize,
}

impl Image {
    fn make(dir: &Path, data_blocks: usize) -> Self {
        let image = Self { path: dir.join("image.raw"), blocks: data_blocks * DATA_SHARE };
        let file = File::create(&image.path).unwrap();
        file.set_len((image.blocks * BLOCK) as u64).unwrap();
        let mut random = Random::new(1);
        for extent in image.data() {
            for at in (extent.offset..extent.offset + extent.bytes).step_by(BLOCK) {
                file.write_all_at(&block(&mut random), at).unwrap();
            }
        }
        file.sync_all().unwrap();
        image
    }

    fn bytes(&self) -> u64 {
        (self.blocks * BLOCK) as u64
    }

    fn data(&self) -> Vec<Extent> {
        let run = RUN_BLOCKS * BLOCK;
        let starts = (0..self.blocks * BLOCK).step_by(run * DATA_SHARE);
        starts.map(|at| Extent { offset: at as u64, bytes: run as u64, kind: Kind::Data }).collect()
    }

    fn shipment(&self, extents: Vec<Extent>, unlisted: Unlisted, base: Option<Base>, seed: u64) -> Shipment {
        let mut file = FileDisk::of(File::open(&self.path).unwrap(), self.bytes(), extents);
        file.is_local = true;
        let source = Arc::new(file);
        Shipment {
            replication: "1-vm".to_owned(),
            instance: Random::new(seed).instance(),
            base,
            disks: vec![Disk { key: 2000, source }],
            unlisted,
            time_ms: 0,
            is_again: false,
        }
    }
}

/// A block that is in part noise and in part text, as disks are.
fn block(random: &mut Random) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let noise = random.below(BLOCK as u64) as usize;
    random.fill(&mut block[..noise]);
    for (i, byte) in block[noise..].iter_mut().enumerate() {
        *byte = b"the quick brown fox jumps over the lazy dog; "[i % 45];
    }
    block
}

/// Processor time so far, in seconds: this process's, and that of children that have ended.
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap().split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    ((fields[11] + fields[12]) / 100.0, (fields[13] + fields[14]) / 100.0)
}

struct Measured {
    shipped: Shipped,
    wire: u64,
    seconds: f64,
    cpu: f64,
}

async fn measure(pair: &Pair, name: &str, shipment: Shipment) -> Measured {
    let (begun, before, sent) = (Instant::now(), cpu().0, pair.wire.sent());
    let shipped = ship(shipment, &pair.way(), progress()).await.unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let measured = Measured { wire: pair.wire.sent() - sent, seconds, cpu: cpu().0 - before, shipped };
    let Measured { shipped, wire, seconds, cpu } = &measured;
    println!(
        "{name}: {seconds:.2} s, {cpu:.2} s of processor, read {} MiB ({:.0} MiB/s), changed {} blocks, sent {}, deduplicated {}, \
         {:.2} MiB on the wire",
        shipped.read_bytes >> 20,
        (shipped.read_bytes >> 20) as f64 / seconds,
        shipped.changed_blocks,
        shipped.sent_blocks,
        shipped.deduplicated_blocks,
        *wire as f64 / f64::from(1 << 20),
    );
    measured
}

fn base(measured: &Measured) -> Option<Base> {
    let instance = &measured.shipped.instance;
    Some(Base { instance: instance.instance.clone(), root: Some(instance.root.clone()) })
}

/// Processor time of `b3sum` of a file, in seconds.
fn b3sum(path: &Path) -> Option<f64> {
    let before = cpu().1;
    let outcome = Command::new("b3sum").arg(path).output().ok()?;
    assert!(outcome.status.success());
    Some(cpu().1 - before)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
    let data_mib: usize = flag("--data-mib").map_or(1024, |n| n.parse().unwrap());
    let data_blocks = (data_mib << 20) / BLOCK;
    assert!(data_blocks.is_multiple_of(RUN_BLOCKS), "--data-mib: a multiple of 16");
    let dir = match flag("--dir") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let image = Image::make(dir.path(), data_blocks);
    println!("image: {} MiB, {data_mib} MiB of them data", image.bytes() >> 20);
    let pair = Pair::start_real().await;

    let first = measure(&pair, "first copy", image.shipment(image.data(), Unlisted::Zero, None, 1)).await;

    // One in a hundred of the image's blocks.
    let mut random = Random::new(2);
    let file = File::options().write(true).open(&image.path).unwrap();
    let data: Vec<u64> = image.data().iter().flat_map(|e| (e.offset..e.offset + e.bytes).step_by(BLOCK)).collect();
    let mut changed = BTreeSet::new();
    while changed.len() < image.blocks / 100 {
        changed.insert(data[random.below(data.len() as u64) as usize]);
    }
    let mut packed = 0;
    for at in &changed {
        let block = block(&mut random);
        packed += zstd::bulk::compress(&block, 1).unwrap().len().min(BLOCK) as u64;
        file.write_all_at(&block, *at).unwrap();
    }
    let listed =
        changed.iter().map(|at| Extent { offset: *at, bytes: BLOCK as u64, kind: Kind::Data }).collect::<Vec<_>>();
    let ratio = |measured: &Measured| measured.wire as f64 / packed as f64;
    let delta = measure(&pair, "1 % by a bitmap", image.shipment(listed, Unlisted::Unchanged, base(&first), 3)).await;
    println!("  {:.4} of zstd -1 of the changed blocks ({:.2} MiB)", ratio(&delta), packed as f64 / f64::from(1 << 20));
    let all_again = image.shipment(image.data(), Unlisted::Zero, base(&first), 4);
    let found = measure(&pair, "1 % by comparison, blocks known", all_again).await;
    println!("  {:.4} of zstd -1 of the changed blocks", found.wire as f64 / packed as f64);

    // The processor time of a comparison, in turns with b3sum of the same bytes.
    let dense = dir.path().join("dense.raw");
    let out = File::create(&dense).unwrap();
    let mut buffer = vec![0; RUN_BLOCKS * BLOCK];
    for (i, extent) in image.data().iter().enumerate() {
        File::open(&image.path).unwrap().read_exact_at(&mut buffer, extent.offset).unwrap();
        out.write_all_at(&buffer, (i * buffer.len()) as u64).unwrap();
    }
    drop(file);
    let dense = Image { path: dense, blocks: data_blocks };
    let whole = || vec![Extent { offset: 0, bytes: dense.bytes(), kind: Kind::Data }];
    let mut last = measure(&pair, "dense, first", dense.shipment(whole(), Unlisted::Zero, None, 5)).await;
    let (mut ours, mut theirs) = (0.0, 0.0);
    const ROUNDS: u64 = 5;
    for round in 0..ROUNDS {
        theirs += b3sum(&dense.path).unwrap_or(f64::NAN);
        let shipment = dense.shipment(whole(), Unlisted::Zero, base(&last), 6 + round);
        last = measure(&pair, "dense, by comparison", shipment).await;
        ours += last.cpu;
    }
    println!(
        "comparison of {data_mib} MiB: {:.3} s of processor; b3sum: {:.3} s; {:.2} times",
        ours / ROUNDS as f64,
        theirs / ROUNDS as f64,
        ours / theirs
    );
}
