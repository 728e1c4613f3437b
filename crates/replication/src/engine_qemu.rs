//! Machines of QEMU: by the bitmap of one that runs, by that which one that is off has left in its images, or by comparing.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use lockstep_contract::{Error, ErrorKind};
use lockstep_qemu::{Base, Cycle, CycleDisk, Format, Method, Quiesced, Tag, VmSource};

use crate::engine::{About, Doing, Engine, FIRST_DISK_KEY, Machine, MachineDisk, Point};
use crate::record::Known;
use crate::ship::{Disk, DiskSource, Extent, LocalDisk, Reading, SourceError, Unlisted};

/// Reads machines of QEMU.
pub struct Qemu {
    /// A directory for what a running machine overwrites while its point in time is read.
    pub scratch: PathBuf,
}

impl Engine for Qemu {
    fn begin<'a>(&'a self, machine: &'a Machine, base: Option<&'a Known>) -> Doing<'a, Box<dyn Point>> {
        Box::pin(async move {
            let source = self.source(machine)?;
            let choice = source.choose().await.map_err(|error| told(&error))?;
            tracing::debug!(vm = machine.vm, why = choice.why, "a source of changed blocks is chosen");
            let base = base.map(|known| Base { number: known.number, disks: known.disks.clone() });
            let cycle = choice.begin(base.as_ref()).await.map_err(|error| told(&error))?;
            Ok(Box::new(QemuPoint::new(cycle, machine.quiesce)) as Box<dyn Point>)
        })
    }
}

impl Qemu {
    fn source(&self, machine: &Machine) -> Result<VmSource, Error> {
        let disk = |disk: &MachineDisk| lockstep_qemu::DiskSource {
            index: disk.index,
            // What the inventory calls the device is a node's name to QEMU, which a snapshot moves: the file is what stays.
            qdev: None,
            path: disk.path.clone(),
            format: match disk.format.as_deref() {
                Some("qcow2") => Some(Format::Qcow2),
                Some("raw") => Some(Format::Raw),
                _ => None,
            },
        };
        Ok(VmSource {
            tag: Tag::of(&machine.replication).map_err(|error| told(&error))?,
            monitor: machine.monitor.clone(),
            agent: None,
            disks: machine.disks.iter().map(disk).collect(),
            scratch: self.scratch.clone(),
            granularity: lockstep_qemu::BLOCK_BYTES as u32,
            may_be_in_use: false,
        })
    }
}

struct QemuPoint {
    about: About,
    cycle: Arc<Cycle>,
}

impl QemuPoint {
    fn new(cycle: Cycle, quiesce: bool) -> Self {
        let known =
            Known { number: cycle.number, disks: cycle.disks.iter().map(|disk| (disk.index, disk.bytes)).collect() };
        let is_bitmap = |disk: &CycleDisk| matches!(disk.method, Method::LiveBitmap | Method::StoppedBitmap);
        // Whoever compares lists all of a disk, so that nothing hangs on this where both are mixed.
        let unlisted = if cycle.disks.iter().any(is_bitmap) { Unlisted::Unchanged } else { Unlisted::Zero };
        let warning = match &cycle.quiesced {
            Quiesced::Failed(why) => Some(format!("the guest's file systems were not frozen: {why}")),
            Quiesced::NotAsked if quiesce => {
                Some("the guest's file systems were not frozen: no socket of a guest agent is known".to_owned())
            }
            Quiesced::NotAsked | Quiesced::Yes | Quiesced::Off => None,
        };
        let about = About {
            known,
            unlisted,
            method: match cycle.method {
                Method::LiveBitmap => "LIVE_BITMAP",
                Method::StoppedBitmap => "STOPPED_BITMAP",
                Method::Compare => "COMPARE",
                Method::Full => "FULL",
            },
            reason: cycle.why.clone(),
            is_quiesced: cycle.quiesced == Quiesced::Yes,
            warning,
            pause_ms: cycle.pause.and_then(|pause| u64::try_from(pause.as_millis()).ok()),
        };
        Self { about, cycle: Arc::new(cycle) }
    }

    fn cycle(self) -> Result<Cycle, Error> {
        // Whoever checked it is done by now.
        Arc::into_inner(self.cycle).ok_or_else(Error::internal)
    }
}

impl Point for QemuPoint {
    fn about(&self) -> &About {
        &self.about
    }

    fn disks(&self) -> Vec<Disk> {
        let disk = |disk: &CycleDisk| Disk {
            key: FIRST_DISK_KEY + disk.index,
            source: Arc::new(QemuDisk { disk: disk.clone(), cycle: Arc::downgrade(&self.cycle) }),
        };
        self.cycle.disks.iter().map(disk).collect()
    }

    fn finish(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move { (*self).cycle()?.finish().await.map_err(|error| told(&error)) })
    }

    fn abandon(self: Box<Self>) -> Doing<'static, ()> {
        Box::pin(async move { (*self).cycle()?.abandon().await.map_err(|error| told(&error)) })
    }
}

/// A disk of a point in time.
struct QemuDisk {
    disk: CycleDisk,
    /// Not kept from ending by who reads it.
    cycle: Weak<Cycle>,
}

impl DiskSource for QemuDisk {
    fn bytes(&self) -> u64 {
        self.disk.bytes
    }

    fn extents(&self) -> Reading<'_, Vec<Extent>> {
        Box::pin(async move { self.disk.extents().await.map_err(|e| SourceError::of("asking what changed", e)) })
    }

    fn read(&self, offset: u64, bytes: usize) -> Reading<'_, Bytes> {
        Box::pin(async move {
            let what = || format!("reading {bytes} bytes at {offset} of disk {}", self.disk.index);
            self.disk.read(offset, bytes).await.map_err(|error| SourceError::of(what(), error))
        })
    }

    fn local(&self) -> Option<&dyn LocalDisk> {
        self.disk.is_local().then_some(self as &dyn LocalDisk)
    }

    fn release(&self, offset: u64, bytes: u64) -> Reading<'_, ()> {
        Box::pin(async move {
            self.disk.release(offset, bytes).await.map_err(|error| SourceError::of("releasing what was read", error))
        })
    }

    fn check(&self) -> Reading<'_, ()> {
        Box::pin(async move {
            let Some(cycle) = self.cycle.upgrade() else { return Err(SourceError::new("the point in time has ended")) };
            cycle.check().await.map_err(|error| SourceError::of("checking what was read", error))
        })
    }
}

impl LocalDisk for QemuDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let bytes = buffer.len();
        let what = || format!("reading {bytes} bytes at {offset} of disk {}", self.disk.index);
        self.disk.read_here(offset, buffer).map_err(|error| SourceError::of(what(), error))
    }
}

/// The contract's error of QEMU's.
fn told(error: &lockstep_qemu::Error) -> Error {
    let kind = match error {
        lockstep_qemu::Error::Busy { .. } | lockstep_qemu::Error::InUse { .. } => ErrorKind::ResourceBusy,
        lockstep_qemu::Error::Invalid { .. } => ErrorKind::NotAllowedInCurrentState,
        _ => ErrorKind::Error,
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Error::new(kind, "lockstep.replication.machine", message, Vec::new())
}
