//! What a sync asks of whoever can read a machine's disks.
//!
//! A *point* is all disks of a machine as they were at one instant, while it is read. It ends well, when the destination has committed an
//! instance of it, or badly, when it never will. One that is just dropped, as by a crash, is judged by what the next one is told.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use lockstep_contract::Error;

use crate::record::Known;
use crate::ship::{Disk, Unlisted};

/// The key of a machine's first disk.
pub const FIRST_DISK_KEY: u32 = 2000;

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    /// Which of the machine's.
    pub index: u32,
    /// Its image.
    pub path: Option<PathBuf>,
    /// In which format.
    pub format: Option<String>,
    /// The device that a running QEMU has it in.
    pub device: Option<String>,
}

/// A machine, as the inventory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The replication: a UUID.
    pub replication: String,
    /// The machine's id.
    pub vm: String,
    /// The monitor of the QEMU that runs it.
    pub monitor: Option<PathBuf>,
    /// Whether the guest is to be asked to freeze its file systems.
    pub quiesce: bool,
    /// The disks that are to be read.
    pub disks: Vec<MachineDisk>,
}

/// Something that an engine is doing.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Reads machines.
pub trait Engine: Send + Sync + 'static {
    /// Takes a point in time of a machine. `base` is that of the destination's last instance, to tell what changed since.
    fn begin<'a>(&'a self, machine: &'a Machine, base: Option<&'a Known>) -> Doing<'a, Box<dyn Point>>;
}

/// How a point in time came about.
#[derive(Debug, Clone)]
pub struct About {
    /// What is to be remembered of it, when an instance is made of it.
    pub known: Known,
    /// What the disks do not list.
    pub unlisted: Unlisted,
    /// How the changed blocks are found: `LIVE_BITMAP`, `STOPPED_BITMAP`, `COMPARE` or `FULL`.
    pub method: &'static str,
    /// Why not by a cheaper way.
    pub reason: Option<String>,
    /// Whether the guest froze its file systems.
    pub is_quiesced: bool,
    /// What went otherwise than wished.
    pub warning: Option<String>,
    /// How long the guest stood still, in milliseconds.
    pub pause_ms: Option<u64>,
}

/// A machine's disks at one instant.
pub trait Point: Send + Sync {
    /// How it came about.
    fn about(&self) -> &About;

    /// The disks, by key.
    fn disks(&self) -> Vec<Disk>;

    /// The destination has committed an instance of it.
    fn finish(self: Box<Self>) -> Doing<'static, ()>;

    /// The destination has none, and will have none.
    fn abandon(self: Box<Self>) -> Doing<'static, ()>;
}
