//! Instances served over NBD, where they are: a test's machine reads them so, and nothing is copied.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_blocks::{DiskReader, Instance, Store};
use lockstep_contract::Error;
use lockstep_qemu::nbd::{Disk, Exports, Limits, Listener, Reading, Server};
use lockstep_qemu::{Extent, Kind};

use crate::service::blocking;

/// Runs that are asked for at a time.
const RUNS_MAX: usize = 1024;

/// A disk of an instance, as the server reads it.
struct StoredDisk {
    reader: Arc<DiskReader>,
}

async fn wait<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, lockstep_blocks::Error> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
    done.map_err(|error| {
        tracing::error!(%error, "an instance cannot be read");
        io::Error::other(error)
    })
}

impl Disk for StoredDisk {
    fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    fn read_at(&self, offset: u64, bytes: usize) -> Reading<'_, Bytes> {
        let reader = self.reader.clone();
        Box::pin(wait(move || {
            let mut buffer = vec![0; bytes];
            reader.read_at(offset, &mut buffer)?;
            Ok(buffer.into())
        }))
    }

    fn extents(&self, offset: u64, bytes: u64) -> Reading<'_, Vec<Extent>> {
        let reader = self.reader.clone();
        Box::pin(wait(move || {
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

/// The name of a disk's export.
pub(crate) fn export(key: u32) -> String {
    format!("disk-{key}")
}

/// Serves all disks of an instance at a UNIX socket, until the server is dropped.
///
/// # Errors
/// When the socket cannot be had.
pub(crate) async fn serve(store: &Store, instance: &Arc<Instance>, socket: &Path) -> Result<Server, Error> {
    let (store, instance) = (store.clone(), instance.clone());
    let disks = blocking(move || {
        let open = |disk: lockstep_blocks::DiskSize| Ok((disk.key, store.open_disk(&instance.name, disk.key)?));
        instance.disks().map(open).collect::<Result<Vec<_>, lockstep_blocks::Error>>()
    })
    .await?;
    let exports = Exports::default();
    for (key, reader) in disks {
        exports.insert(export(key), Arc::new(StoredDisk { reader: Arc::new(reader) }));
    }
    let listener = Listener::unix(socket).map_err(|error| {
        let message = format!("cannot listen at {}: {error}", socket.display());
        Error::new(lockstep_contract::ErrorKind::Error, "lockstep.replication.nbd", message, Vec::new())
    })?;
    Ok(Server::start(listener, exports, Limits::default()))
}
