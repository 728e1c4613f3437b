//! Cycles of the guest's machine, and copies of its disks that are checked to the last block.

use std::fs::File;
use std::os::unix::fs::FileExt;

use lockstep_qemu::{Base, Cycle, Kind, LiveVm, Select, Tag};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest::check_instant;
pub use super::guest::{DISK_BYTES, Layout, Machine, PATIENCE, VIRTIO};

pub const REPLICATION: &str = "c0ffee00-0000-4000-8000-000000000001";

impl Machine {
    pub async fn try_control(&self, command: &lockstep_qemu::qmp::Command) -> Result<Value, lockstep_qemu::Error> {
        self.control.as_ref().unwrap().execute(command.name, command.arguments.clone()).await
    }

    /// The names of our bitmaps on a node.
    pub async fn bitmaps(&self, node: &str) -> Vec<String> {
        let nodes = self.control("query-named-block-nodes", json!({"flat": true})).await;
        let node = nodes.as_array().unwrap().iter().find(|found| found["node-name"] == node).unwrap();
        let bitmaps = node["dirty-bitmaps"].as_array().map(Vec::as_slice).unwrap_or_default();
        bitmaps.iter().filter_map(|bitmap| Some(bitmap["name"].as_str()?.to_owned())).collect()
    }

    /// Nothing of ours is left but one bitmap a disk.
    pub async fn assert_clean(&self, number: u64) {
        let nodes = self.control("query-named-block-nodes", json!({"flat": true})).await;
        let names: Vec<&str> = nodes.as_array().unwrap().iter().filter_map(|node| node["node-name"].as_str()).collect();
        assert!(!names.iter().any(|name| name.starts_with("ls-")), "{names:?}");
        assert_eq!(self.control("query-block-exports", Value::Null).await, json!([]));
        for disk in ["disk0", "disk1"] {
            assert_eq!(self.bitmaps(disk).await, [format!("{}-{number}", tag().as_str())]);
        }
    }

    pub fn vm(&self) -> LiveVm {
        LiveVm {
            monitor: self.path("ours"),
            tag: tag(),
            disks: vec![(0, Select::Qdev("vd0".into())), (1, Select::File(self.path("disk1")))],
            scratch: self.path("scratch"),
            granularity: 65536,
            agent: None,
        }
    }
}

pub fn tag() -> Tag {
    Tag::of(REPLICATION).unwrap()
}

pub fn base(number: u64) -> Base {
    Base { number, disks: vec![(0, DISK_BYTES), (1, DISK_BYTES)] }
}

/// The copies of both disks, as a destination has them.
pub struct Copies {
    _directory: TempDir,
    files: [File; 2],
}

/// What a copier does wrong on purpose.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    ForgetsAnExtent,
}

impl Copies {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = [0, 1].map(|index| {
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).open(directory.path().join(index.to_string()));
            let file = file.unwrap();
            file.set_len(DISK_BYTES).unwrap();
            file
        });
        Self { _directory: directory, files }
    }

    /// Reads what a cycle lists into the copies; answers how many bytes.
    pub async fn take(&self, cycle: &Cycle) -> u64 {
        self.take_with(cycle, Fault::None).await.unwrap()
    }

    pub async fn take_with(&self, cycle: &Cycle, fault: Fault) -> Result<u64, lockstep_qemu::Error> {
        let mut taken = 0;
        for (file, disk) in self.files.iter().zip(&cycle.disks) {
            assert_eq!(disk.bytes, DISK_BYTES);
            let mut extents = disk.extents().await?;
            if fault == Fault::ForgetsAnExtent && disk.index == 0 {
                let last = extents.iter().rposition(|extent| extent.kind == Kind::Data).unwrap();
                extents.remove(last);
            }
            let pieces = extents.iter().flat_map(|extent| {
                let end = extent.offset + extent.bytes;
                let piece = 1 << 20;
                (extent.offset..end).step_by(piece as usize).map(move |at| (at, (end - at).min(piece), extent.kind))
            });
            let mut pieces = pieces.peekable();
            while pieces.peek().is_some() {
                let mut reads = tokio::task::JoinSet::new();
                for (at, bytes, kind) in pieces.by_ref().take(8) {
                    let disk = disk.clone();
                    let file = file.try_clone().unwrap();
                    reads.spawn(async move {
                        let data = match kind {
                            Kind::Data => disk.read(at, bytes as usize).await?,
                            Kind::Zero => vec![0; bytes as usize].into(),
                        };
                        file.write_all_at(&data, at).unwrap();
                        disk.release(at, bytes).await?;
                        Ok(bytes)
                    });
                }
                while let Some(read) = reads.join_next().await {
                    taken += read.unwrap()?;
                }
            }
        }
        cycle.check().await?;
        Ok(taken)
    }

    /// Whether the copies are of one instant; answers after which writes.
    pub fn check(&self) -> Result<(u32, u32), String> {
        let [first, second] = [0, 1].map(|index: usize| {
            let mut image = vec![0; DISK_BYTES as usize];
            self.files[index].read_exact_at(&mut image, 0).unwrap();
            image
        });
        check_instant(&first, &second)
    }
}

/// Runs a test on two threads.
pub fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}
