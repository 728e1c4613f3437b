//! Instances that can be read over NBD.
//!
//! One server, on a socket that only its owner may connect to, serves each disk of an instance as `<replication>/<instance>/<disk key>`.
//! An instance is *held* for that: by a recovery that needs it, or for people. It is pinned while anybody holds it, and afterwards only if it
//! was before. The file `holds` says which were, and is written before the first pin; so a pin of ours never outlives what it was for by
//! more than a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lockstep_blocks::format::{hex, root_hash};
use lockstep_blocks::{DiskReader, Hash, Instance, Name, Store};
use lockstep_qemu::nbd::{Disk, Exports, Limits, Listener, Reading, Server};
use lockstep_qemu::{Extent, Kind};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::error::{Error, io_error};
use super::state::{read_file, write_durably};

/// Disks that are read at a time, and requests of each that are worked on: together at most 2 GiB of pieces of answers.
const LIMITS: Limits = Limits { clients: 256, in_flight: 8 };

/// Most instances that are served for people at a time: each has its disks open.
pub const SERVED_MAX: usize = 64;

/// Runs of an answer about what a disk holds.
const RUNS_MAX: usize = 4096;

/// Most bytes of a socket's path, that the operating system sets.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A disk of an instance, as a server reads it.
struct InstanceDisk(Arc<DiskReader>);

impl Disk for InstanceDisk {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn read_at(&self, offset: u64, bytes: usize) -> Reading<'_, Bytes> {
        let reader = self.0.clone();
        Box::pin(reading(move || {
            let mut buffer = vec![0; bytes];
            reader.read_at(offset, &mut buffer)?;
            Ok(buffer.into())
        }))
    }

    fn extents(&self, offset: u64, bytes: u64) -> Reading<'_, Vec<Extent>> {
        let reader = self.0.clone();
        Box::pin(reading(move || {
            let runs = reader.runs(offset, bytes, RUNS_MAX)?;
            let extent = |run: lockstep_blocks::Run| Extent {
                offset: run.offset,
                bytes: run.bytes,
                kind: if run.is_zero { Kind::Zero } else { Kind::Data },
            };
            Ok(runs.into_iter().map(extent).collect())
        }))
    }
}

/// Reads on a thread that may wait for a disk. Whoever reads is told little of what went wrong, so it is logged.
async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, lockstep_blocks::Error> + Send + 'static,
) -> io::Result<T> {
    let read = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        // We are ending. Without an answer the reader waits for us to be back; an error it would believe.
        Err(error) if error.is_cancelled() => return std::future::pending().await,
        Err(error) => return Err(io::Error::other(error)),
    };
    read.map_err(|error| {
        tracing::error!(%error, "an instance cannot be read");
        io::Error::other(error)
    })
}

/// What an instance is called for clients of NBD.
pub(super) fn export_name(name: &Name, disk: u32) -> String {
    format!("{}/{}/{disk}", name.replication(), name.instance())
}

/// An instance that is held.
struct Hold {
    /// None for what was left by a process before this one.
    holders: usize,
    was_pinned: bool,
    /// What is served of it.
    exported: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredHold {
    replication: String,
    instance: String,
    was_pinned: bool,
}

/// The server, and who holds what.
pub(super) struct Offers {
    store: Store,
    socket: PathBuf,
    file: PathBuf,
    exports: Exports,
    /// Held while the file and a pin are written.
    holds: Mutex<BTreeMap<Name, Hold>>,
    /// Those that are held for people. Held while one comes or goes.
    shown: Mutex<BTreeSet<Name>>,
    _server: Server,
}

impl Offers {
    /// Serves what is held from now on.
    pub(super) async fn open(store: Store, directory: &Path) -> Result<Self, Error> {
        let socket = directory.join("nbd.sock");
        check_socket(&socket)?;
        let file = directory.join("holds");
        let stored: Vec<StoredHold> = read_file(&file)?.unwrap_or_default();
        let left = stored.into_iter().filter_map(|hold| {
            let name = Name::new(&hold.replication, &hold.instance)?;
            Some((name, Hold { holders: 0, was_pinned: hold.was_pinned, exported: Vec::new() }))
        });
        let exports = Exports::default();
        let what = || format!("listening on {}", socket.display());
        let listener = Listener::unix(&socket).map_err(io_error(what()))?;
        set_private(&socket).map_err(io_error(what()))?;
        let server = Server::start(listener, exports.clone(), LIMITS);
        Ok(Self {
            store,
            file,
            exports,
            holds: Mutex::new(left.collect()),
            shown: Mutex::default(),
            _server: server,
            socket,
        })
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Checks an instance, pins it and serves its disks, until [`Offers::let_go`] was called as often.
    pub(super) fn hold(&self, name: &Name, expected: Option<&Hash>) -> Result<Arc<Instance>, Error> {
        let no_instance = || lockstep_blocks::Error::NoInstance(name.clone());
        let instance = self.store.instance(name).ok_or_else(no_instance)?;
        self.check(&instance, expected)?;
        let mut holds = self.holds.lock();
        if let Some(hold) = holds.get_mut(name).filter(|hold| hold.holders > 0) {
            hold.holders += 1;
            return Ok(instance);
        }
        let was_pinned = holds.get(name).map_or(instance.state.is_pinned, |left| left.was_pinned);
        holds.insert(name.clone(), Hold { holders: 1, was_pinned, exported: Vec::new() });
        match self.offer(&instance, &mut holds) {
            Ok(()) => Ok(instance),
            Err(error) => {
                if let Err(error) = self.release(name, &mut holds) {
                    tracing::warn!(%error, instance = %name, "an instance stays pinned until the next start");
                }
                Err(error)
            }
        }
    }

    /// Holds an instance for people, if it is not yet.
    pub(super) fn show(&self, name: &Name) -> Result<Arc<Instance>, Error> {
        let mut shown = self.shown.lock();
        if shown.contains(name) {
            return self.store.instance(name).ok_or_else(|| lockstep_blocks::Error::NoInstance(name.clone()).into());
        }
        if shown.len() >= SERVED_MAX {
            let what = "the number of instances that are served";
            return Err(Error::Limit { what, found: shown.len() as u64 + 1, limit: SERVED_MAX as u64 });
        }
        let instance = self.hold(name, None)?;
        shown.insert(name.clone());
        Ok(instance)
    }

    /// Lets it go, if it is held for people.
    pub(super) fn hide(&self, name: &Name) -> Result<(), Error> {
        let mut shown = self.shown.lock();
        if shown.remove(name) { self.let_go(name) } else { Ok(()) }
    }

    fn offer(&self, instance: &Instance, holds: &mut BTreeMap<Name, Hold>) -> Result<(), Error> {
        let name = &instance.name;
        self.write(holds)?;
        if !instance.state.is_pinned {
            self.store.pin(name, true)?;
        }
        for disk in instance.disks() {
            let reader = self.store.open_disk(name, disk.key)?;
            let export = export_name(name, disk.key);
            self.exports.insert(export.clone(), Arc::new(InstanceDisk(Arc::new(reader))));
            if let Some(hold) = holds.get_mut(name) {
                hold.exported.push(export);
            }
        }
        Ok(())
    }

    /// One holds it no longer.
    pub(super) fn let_go(&self, name: &Name) -> Result<(), Error> {
        let mut holds = self.holds.lock();
        let Some(hold) = holds.get_mut(name) else { return Ok(()) };
        hold.holders = hold.holders.saturating_sub(1);
        if hold.holders > 0 {
            return Ok(());
        }
        self.release(name, &mut holds)
    }

    /// Lets go what a process before this one held, and this one does not.
    pub(super) fn release_left(&self) -> Result<(), Error> {
        let mut holds = self.holds.lock();
        let left = holds.iter().filter(|(_, hold)| hold.holders == 0).map(|(name, _)| name.clone());
        for name in left.collect::<Vec<_>>() {
            self.release(&name, &mut holds)?;
        }
        Ok(())
    }

    /// Whether anybody holds it.
    pub(super) fn is_held(&self, name: &Name) -> bool {
        self.holds.lock().get(name).is_some_and(|hold| hold.holders > 0)
    }

    fn release(&self, name: &Name, holds: &mut BTreeMap<Name, Hold>) -> Result<(), Error> {
        let Some(hold) = holds.get_mut(name) else { return Ok(()) };
        for export in hold.exported.drain(..) {
            // It is there: nobody else removes it.
            let _ = self.exports.remove(&export);
        }
        hold.holders = 0;
        if !hold.was_pinned {
            match self.store.pin(name, false) {
                // It was removed meanwhile.
                Ok(()) | Err(lockstep_blocks::Error::NoInstance(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Only now: a pin that is not written down would stay.
        holds.remove(name);
        self.write(holds)
    }

    /// The root over all leaves is what was committed, and what is expected. Each leaf and each block is checked when it is read.
    fn check(&self, instance: &Instance, expected: Option<&Hash>) -> Result<(), Error> {
        let mut disks = Vec::new();
        for disk in instance.disks() {
            disks.push((disk.key, disk.bytes, self.store.leaf_hashes(&instance.name, disk.key, 0, u32::MAX)?));
        }
        let found = root_hash(disks.iter().map(|(key, bytes, leaves)| (*key, *bytes, &**leaves)));
        for expected in [Some(&instance.root), expected].into_iter().flatten() {
            if found != *expected {
                let instance = instance.name.instance().to_owned();
                return Err(Error::RootDiffers { instance, found: hex(&found), expected: hex(expected) });
            }
        }
        Ok(())
    }

    fn write(&self, holds: &BTreeMap<Name, Hold>) -> Result<(), Error> {
        let stored = |(name, hold): (&Name, &Hold)| StoredHold {
            replication: name.replication().to_owned(),
            instance: name.instance().to_owned(),
            was_pinned: hold.was_pinned,
        };
        write_durably(&self.file, &holds.iter().map(stored).collect::<Vec<_>>())
    }
}

/// Refuses a socket's path that the operating system would.
pub(super) fn check_socket(path: &Path) -> Result<(), Error> {
    match path.as_os_str().len() {
        found if found > SOCKET_PATH_BYTES_MAX => {
            let what = "the length of a socket's path below the data directory, in bytes,";
            Err(Error::Limit { what, found: found as u64, limit: SOCKET_PATH_BYTES_MAX as u64 })
        }
        _ => Ok(()),
    }
}

fn set_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}
