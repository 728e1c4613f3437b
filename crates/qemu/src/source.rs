//! Which source of changed blocks a machine has: the cheapest one that is safe.
//!
//! | monitor | disks | source |
//! |---|---|---|
//! | somebody listens there | any | live: what runs is only read through QEMU |
//! | nobody listens, or none is known | path and format of each | stopped: qcow2 by its bitmap, raw by comparing |
//! | another client has it | any | none: [`Error::Busy`] |
//!
//! That the machine is off is concluded from a socket nobody listens at, and never relied on: the images' locks decide, and a disk that
//! something has open for writing is refused. Within a source each disk falls back by itself, and says why in
//! [`CycleDisk::why`](crate::CycleDisk::why).

use std::path::PathBuf;

use crate::bitmaps::Tag;
use crate::cycle::{Base, Cycle};
use crate::image::Format;
use crate::live::{LiveVm, Select};
use crate::stopped::{StoppedDisk, StoppedVm};
use crate::{Error, Result};

/// What is known of a disk.
#[derive(Debug, Clone, Default)]
pub struct DiskSource {
    /// As it is called in the cycle.
    pub index: u32,
    /// The device's id or QOM path; without it, a running machine's disk is found by its path.
    pub qdev: Option<String>,
    /// The image, as QEMU and we call it; absolute.
    pub path: Option<PathBuf>,
    /// How the image is read when the machine is off.
    pub format: Option<Format>,
}

/// What is known of a machine.
#[derive(Debug, Clone)]
pub struct VmSource {
    /// The replication.
    pub tag: Tag,
    /// The UNIX socket of a QMP monitor of our own, if there is one.
    pub monitor: Option<PathBuf>,
    /// The UNIX socket of the guest agent, if the guest shall be asked to freeze.
    pub agent: Option<PathBuf>,
    /// The disks to replicate.
    pub disks: Vec<DiskSource>,
    /// As of [`LiveVm::scratch`].
    pub scratch: PathBuf,
    /// As of [`LiveVm::granularity`].
    pub granularity: u32,
    /// As of [`StoppedVm::may_be_in_use`].
    pub may_be_in_use: bool,
}

/// A source, and why it is that one, for people.
#[derive(Debug, Clone)]
pub struct Choice {
    /// What will be read.
    pub source: Source,
    /// Why.
    pub why: String,
}

/// A source of changed blocks.
#[derive(Debug, Clone)]
pub enum Source {
    /// A running QEMU.
    Live(LiveVm),
    /// Images of a machine that is off.
    Stopped(StoppedVm),
}

impl Choice {
    /// Begins a cycle of the source.
    ///
    /// # Errors
    /// As of [`LiveVm::begin`] and [`StoppedVm::begin`].
    pub async fn begin(&self, base: Option<&Base>) -> Result<Cycle> {
        match &self.source {
            Source::Live(vm) => vm.begin(base).await,
            Source::Stopped(vm) => vm.begin(base).await,
        }
    }
}

impl VmSource {
    /// Chooses, by whether somebody listens at the monitor's socket.
    ///
    /// # Errors
    /// [`Error::Invalid`] when what is known does not do for the source.
    pub async fn choose(&self) -> Result<Choice> {
        let why = match &self.monitor {
            None => "there is no monitor: the machine is taken to be off".to_owned(),
            Some(monitor) => match tokio::net::UnixStream::connect(monitor).await {
                Ok(_) => {
                    let why = format!("a QEMU listens at {}", monitor.display());
                    return Ok(Choice { source: Source::Live(self.live(monitor)?), why });
                }
                Err(error) => match error.kind() {
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                        format!("nobody listens at {}: the machine is off", monitor.display())
                    }
                    _ => return Err(Error::io(format!("connecting to {}", monitor.display()))(error)),
                },
            },
        };
        Ok(Choice { source: Source::Stopped(self.stopped()?), why })
    }

    fn live(&self, monitor: &std::path::Path) -> Result<LiveVm> {
        let select = |disk: &DiskSource| match (&disk.qdev, &disk.path) {
            (Some(qdev), _) => Ok((disk.index, Select::Qdev(qdev.clone()))),
            (None, Some(path)) => Ok((disk.index, Select::File(path.clone()))),
            (None, None) => Err(missing(disk, "a device or a path")),
        };
        Ok(LiveVm {
            monitor: monitor.to_owned(),
            tag: self.tag.clone(),
            disks: self.disks.iter().map(select).collect::<Result<_>>()?,
            scratch: self.scratch.clone(),
            granularity: self.granularity,
            agent: self.agent.clone(),
        })
    }

    fn stopped(&self) -> Result<StoppedVm> {
        let disk = |disk: &DiskSource| match (&disk.path, disk.format) {
            (Some(path), Some(format)) => Ok(StoppedDisk { index: disk.index, path: path.clone(), format }),
            (None, _) => Err(missing(disk, "a path, to be read while the machine is off")),
            (_, None) => Err(missing(disk, "a format, to be read while the machine is off; it is never guessed")),
        };
        Ok(StoppedVm {
            tag: self.tag.clone(),
            disks: self.disks.iter().map(disk).collect::<Result<_>>()?,
            scratch: self.scratch.clone(),
            granularity: self.granularity,
            may_be_in_use: self.may_be_in_use,
        })
    }
}

fn missing(disk: &DiskSource, reason: &str) -> Error {
    Error::Invalid { what: format!("what is known of disk {}", disk.index), reason: format!("it has {reason}") }
}
