//! What is known of a recovery, and its file.
//!
//! The file `state` of a recovery's directory is one line of JSON, a [`Recovery`] with the format's version. It is written under another
//! name, flushed and renamed, so it is there whole; and always before what it announces is done.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use lockstep_blocks::format::{hex, read_hex};
use lockstep_blocks::{Hash, Instance, Name};
use lockstep_qemu::process::{Mark, Process};
use serde::{Deserialize, Serialize};

use super::error::{Error, io_error};

/// The format of the file.
const VERSION: u32 = 1;

/// Most bytes of the file: a hundred disks take a tenth of it.
const STATE_BYTES_MAX: u64 = 1 << 20;

/// What an instance is recovered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To be looked at, and thrown away.
    Test,
    /// To stay.
    Failover,
}

/// How far it is; drawn at the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Its disks are being made: after a restart they are thrown away.
    Preparing,
    /// Its disks are there.
    Ready,
    /// It is being thrown away: after a restart this goes on.
    Removing,
}

/// Whether its QEMU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// No.
    Off,
    /// It is being started: after a restart it is looked for, and started if it is not there.
    Starting,
    /// Yes.
    On(Process),
}

/// What runs a machine's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM; emulation when KVM is not there or does not work.
    Any,
    /// KVM.
    Kvm,
    /// Emulation, which is some ten times slower.
    Tcg,
}

/// What a recovered machine has besides disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Its name, for people.
    pub name: String,
    /// What its firmware says that it is.
    pub uuid: String,
    /// Processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The bridge of this host that its network card is put to; no network without one.
    pub bridge: Option<String>,
}

/// A disk of a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredDisk {
    /// Its key: 2000 for a machine's first disk.
    pub key: u32,
    /// Its size.
    pub bytes: u64,
    /// Whether it holds all that it needs; else the instance is read for what it lacks.
    pub is_independent: bool,
}

/// A recovered instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The replication.
    pub replication: String,
    /// The instance's key.
    pub instance: String,
    /// What all disks of the instance hold: BLAKE3, in hex digits.
    pub root: String,
    /// What for.
    pub purpose: Purpose,
    /// How far it is.
    pub step: Step,
    /// Whether it runs.
    pub power: Power,
    /// Why it is emulated, and slow, since its last start; none when it is not, or is meant to be.
    pub why_emulated: Option<String>,
    /// What it runs on.
    pub hardware: Hardware,
    /// Its disks, by key.
    pub disks: Vec<RecoveredDisk>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    recovery: Recovery,
}

impl Recovery {
    pub(super) fn new(instance: &Instance, purpose: Purpose, hardware: Hardware) -> Self {
        let disk =
            |disk: lockstep_blocks::DiskSize| RecoveredDisk { key: disk.key, bytes: disk.bytes, is_independent: false };
        Self {
            replication: instance.name.replication().to_owned(),
            instance: instance.name.instance().to_owned(),
            root: hex(&instance.root),
            purpose,
            step: Step::Preparing,
            power: Power::Off,
            why_emulated: None,
            hardware,
            disks: instance.disks().map(disk).collect(),
        }
    }

    /// Whether no disk needs the instance any more.
    pub fn is_independent(&self) -> bool {
        self.disks.iter().all(|disk| disk.is_independent)
    }

    pub(super) fn name(&self) -> Option<Name> {
        Name::new(&self.replication, &self.instance)
    }

    pub(super) fn root_hash(&self) -> Option<Hash> {
        read_hex(&self.root)
    }
}

/// The directory of a recovery.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(directory: &Path, replication: &str) -> Self {
        Self(directory.join(replication))
    }

    pub(super) fn disk(&self, key: u32) -> PathBuf {
        self.0.join(format!("disk-{key}.qcow2"))
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.0.join("qemu.pid")
    }

    /// What its QEMU is known by.
    pub(super) fn mark(&self) -> Mark {
        Mark::pid_file(&self.pid_file())
    }

    /// The monitor that Lockstep keeps to itself: a monitor serves one client at a time.
    pub(super) fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The monitor for who replicates the machine.
    pub(super) fn monitor(&self) -> PathBuf {
        self.0.join("monitor.sock")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Makes the directory, for nobody else.
    pub(super) fn make(&self) -> Result<(), Error> {
        make_private(&self.0)
    }

    pub(super) fn write(&self, recovery: &Recovery) -> Result<(), Error> {
        let stored = Stored { version: VERSION, recovery: recovery.clone() };
        write_durably(&self.state(), &stored)
    }

    /// None when there is none.
    pub(super) fn read(&self) -> Result<Option<Recovery>, Error> {
        let Some(stored) = read_file::<Stored>(&self.state())? else { return Ok(None) };
        let is_here =
            |recovery: &Recovery| Place::new(self.0.parent().unwrap_or(&self.0), &recovery.replication).0 == self.0;
        match stored {
            Stored { version: VERSION, recovery } if is_here(&recovery) && recovery.name().is_some() => {
                Ok(Some(recovery))
            }
            _ => Err(Error::Damaged { path: self.state() }),
        }
    }

    /// Whether there is nothing in it but what a first write of the state left.
    pub(super) fn is_void(&self) -> Result<bool, Error> {
        let what = || format!("reading {}", self.0.display());
        let entries = std::fs::read_dir(&self.0).map_err(io_error(what()))?;
        let names: Vec<_> =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(io_error(what()))?;
        Ok(names.iter().all(|path| *path == self.state().with_added_extension("new")))
    }

    /// Removes everything; the state last, so that what is interrupted goes on.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let what = || format!("removing {}", self.0.display());
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(io_error(what()))?,
        };
        for entry in entries {
            let path = entry.map_err(io_error(what()))?.path();
            if path != self.state() {
                std::fs::remove_file(&path).map_err(io_error(what()))?;
            }
        }
        std::fs::remove_dir_all(&self.0).map_err(io_error(what()))?;
        sync_directory(self.0.parent().unwrap_or(&self.0))
    }
}

/// Makes a directory that only its owner may look into, with those above it.
pub(super) fn make_private(directory: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let what = || format!("making {}", directory.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io_error(what()))?;
    // It may have been there.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(io_error(what()))
}

pub(super) fn write_durably(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let what = || format!("writing {}", path.display());
    let mut json = serde_json::to_vec(value).map_err(|error| io_error(what())(error.into()))?;
    json.push(b'\n');
    let new = path.with_added_extension("new");
    let written = (|| {
        let mut file = File::create(&new)?;
        file.write_all(&json)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    written.map_err(io_error(what()))?;
    sync_directory(path.parent().unwrap_or(path))
}

pub(super) fn read_file<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, Error> {
    let what = || format!("reading {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io_error(what()))?,
    };
    let mut bytes = Vec::new();
    file.take(STATE_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error(what()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| Error::Damaged { path: path.to_owned() })
}

fn sync_directory(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(io_error(format!("flushing {}", directory.display())))
}
