//! One point in time of a machine's disks, while it is read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::RwLock;

use crate::extent::{Blocks, EXTENTS_MAX, Extent, Kind};
use crate::nbd::{ALLOCATION, Address, Client, wire};
use crate::raw::RawDisk;
use crate::{Error, Result, live, stopped};

/// Where it is asked whether changed blocks hold zeroes only: for shorter runs, reading them costs no more than asking.
const ZERO_RUN_BYTES: u64 = 1 << 20;

/// How it is known what changed, the cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// By the dirty bitmap of a running QEMU.
    LiveBitmap,
    /// By the dirty bitmap that QEMU left in a qcow2 image.
    StoppedBitmap,
    /// It is not: all that holds data is listed, and the blocks' hashes decide.
    Compare,
    /// There is nothing to compare with.
    Full,
}

/// The last instance that the destination has of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The number of the cycle that made it.
    pub number: u64,
    /// Its disks: index and size in bytes.
    pub disks: Vec<(u32, u64)>,
}

impl Base {
    /// Why a disk of now cannot be told by what changed since; none if it can.
    pub(crate) fn mismatch(&self, index: u32, bytes: u64) -> Option<String> {
        match self.disks.iter().find(|(found, _)| *found == index) {
            None => Some("the last instance does not have the disk".into()),
            Some((_, before)) if *before != bytes => {
                Some(format!("the disk was resized from {before} to {bytes} bytes"))
            }
            Some(_) => None,
        }
    }
}

/// Whether the guest knew of the point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quiesced {
    /// It was not asked to: the disks are as after a loss of power.
    NotAsked,
    /// Its file systems were frozen.
    Yes,
    /// It was asked and could not, for this reason: the disks are as after a loss of power.
    Failed(String),
    /// The machine is off.
    Off,
}

/// A point in time of all disks of a machine.
///
/// It ends by [`Cycle::finish`] or [`Cycle::abandon`]. One that is dropped instead, as by a crash, is found by the next cycle of the
/// same replication, which judges by the last instance of the destination, [`Base`], which of the two it should have been.
/// So a caller whose commit went unanswered asks the destination before it abandons.
#[must_use = "a running machine pays for its point in time until the cycle ends"]
pub struct Cycle {
    /// The instance that is made of it has this number: the base's and one.
    pub number: u64,
    /// The disks, in the order in which they were asked for.
    pub disks: Vec<CycleDisk>,
    /// The dearest method of all disks.
    pub method: Method,
    /// Why it is not cheaper, for people.
    pub why: Option<String>,
    /// Whether the guest knew.
    pub quiesced: Quiesced,
    /// How long the guest stood still, by QEMU's clock; none if it did not run.
    pub pause: Option<Duration>,
    pub(crate) end: End,
}

/// What has to be put back.
pub(crate) enum End {
    Live(Box<live::Open>),
    Stopped(Box<stopped::Open>),
}

impl std::fmt::Debug for Cycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cycle")
            .field("number", &self.number)
            .field("method", &self.method)
            .field("why", &self.why)
            .field("quiesced", &self.quiesced)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

impl Cycle {
    pub(crate) fn new(
        number: u64,
        disks: Vec<CycleDisk>,
        quiesced: Quiesced,
        pause: Option<Duration>,
        end: End,
    ) -> Self {
        let dearest = disks.iter().max_by_key(|disk| disk.method);
        let method = dearest.map_or(Method::Full, |disk| disk.method);
        let why = dearest.and_then(|disk| disk.why.as_ref().map(|why| format!("disk {}: {why}", disk.index)));
        Self { number, disks, method, why, quiesced, pause, end }
    }

    /// Whether what was read is one point in time: to be asked after the last read and before the destination commits.
    ///
    /// # Errors
    /// [`Error::Changed`] when a stopped machine's disk was written, or may have been.
    pub async fn check(&self) -> Result<()> {
        match &self.end {
            // A lost point in time fails the read that needs it.
            End::Live(_) => Ok(()),
            End::Stopped(open) => open.check().await,
        }
    }

    /// The destination has committed the instance: the next cycle tells what changed since.
    ///
    /// # Errors
    /// When not all could be put back. The instance is good all the same, and the next cycle puts the rest back.
    pub async fn finish(self) -> Result<()> {
        let number = self.number;
        self.end(Some(number)).await
    }

    /// The destination has no instance of it, and will have none: the next cycle tells what changed since the last one.
    ///
    /// # Errors
    /// As of [`Cycle::finish`].
    pub async fn abandon(self) -> Result<()> {
        let committed = match &self.end {
            End::Live(open) => open.base,
            End::Stopped(open) => open.base,
        };
        self.end(committed).await
    }

    async fn end(self, committed: Option<u64>) -> Result<()> {
        for disk in &self.disks {
            disk.close().await;
        }
        match self.end {
            End::Live(open) => open.end(committed).await,
            End::Stopped(open) => open.end(committed).await,
        }
    }
}

/// A disk at a point in time. Clones are the same disk, and may be read at once.
#[derive(Clone)]
pub struct CycleDisk {
    /// As it was asked for.
    pub index: u32,
    /// The size.
    pub bytes: u64,
    /// How it is known what changed on this disk.
    pub method: Method,
    /// Why it is not cheaper, for people.
    pub why: Option<String>,
    pub(crate) reader: Reader,
}

/// Where a disk's point in time is read.
#[derive(Clone)]
pub(crate) enum Reader {
    Nbd(Arc<NbdReader>),
    Raw(Arc<RawDisk>),
}

impl std::fmt::Debug for CycleDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CycleDisk")
            .field("index", &self.index)
            .field("bytes", &self.bytes)
            .field("method", &self.method)
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl CycleDisk {
    /// What has to be shipped: whole blocks of [`BLOCK_BYTES`](crate::BLOCK_BYTES) (the disk's last may be shorter), in order.
    ///
    /// By a bitmap, what is not listed did not change. By the other methods, all of the disk is listed.
    ///
    /// # Errors
    /// [`Error::Limit`] when there are more than [`EXTENTS_MAX`], and what reading answers.
    pub async fn extents(&self) -> Result<Vec<Extent>> {
        match &self.reader {
            Reader::Nbd(reader) => reader.extents(self.bytes).await.map_err(|error| self.explain(error)),
            Reader::Raw(disk) => disk.extents().await,
        }
    }

    /// Reads a range inside of what [`CycleDisk::extents`] lists; at most [`READ_BYTES_MAX`](crate::nbd::READ_BYTES_MAX) bytes.
    /// Several reads may be in flight.
    ///
    /// # Errors
    /// [`Error::PointLost`] when the cycle is to be abandoned.
    pub async fn read(&self, offset: u64, bytes: usize) -> Result<Bytes> {
        match &self.reader {
            Reader::Nbd(reader) => reader.read(offset, bytes).await.map_err(|error| self.explain(error)),
            Reader::Raw(disk) => disk.read(offset, bytes).await,
        }
    }

    /// Whether the disk is a file that nobody writes, so that [`CycleDisk::read_here`] does.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.reader, Reader::Raw(_))
    }

    /// Fills the buffer from `offset` on, without a copy in between. The thread waits for the file meanwhile, and for nothing else.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the disk is not local, and what reading answers.
    pub fn read_here(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.reader {
            Reader::Raw(disk) => disk.read_here(offset, buffer),
            Reader::Nbd(_) => {
                let reason = "an NBD server has it".to_owned();
                Err(Error::Unsupported { what: format!("reading disk {} in place", self.index), reason })
            }
        }
    }

    /// Tells that the destination has stored a range, which will not be read again: what was kept of it for this cycle is freed, and
    /// the guest's next write there costs nothing extra. Does nothing where nothing is kept.
    ///
    /// # Errors
    /// What the connection answers. It is a matter of room only.
    pub async fn release(&self, offset: u64, bytes: u64) -> Result<()> {
        match &self.reader {
            Reader::Nbd(reader) => reader.release(offset, bytes).await.map_err(|error| self.explain(error)),
            Reader::Raw(_) => Ok(()),
        }
    }

    async fn close(&self) {
        if let Reader::Nbd(reader) = &self.reader
            && let Some(client) = reader.client.write().await.take()
        {
            client.disconnect();
        }
    }

    /// Reads that fail on a snapshot of a running machine mean that it is lost.
    fn explain(&self, error: Error) -> Error {
        let scratch = match &self.reader {
            Reader::Nbd(reader) => reader.scratch.clone(),
            Reader::Raw(_) => None,
        };
        match (error, scratch) {
            (Error::Request { errno, .. }, Some(scratch)) => Error::PointLost { disk: self.index, errno, scratch },
            (error, _) => error,
        }
    }
}

/// A disk behind an NBD server that this cycle started.
pub(crate) struct NbdReader {
    address: Address,
    export: String,
    /// The context of the bitmap that tells what changed.
    bitmap: Option<String>,
    /// Where the scratch disk of a running machine is.
    scratch: Option<PathBuf>,
    /// None once the cycle has ended. Written to connect anew.
    client: RwLock<Option<Client>>,
}

impl NbdReader {
    pub(crate) async fn connect(
        address: Address,
        export: String,
        bitmap: Option<&str>,
        scratch: Option<PathBuf>,
    ) -> Result<Self> {
        let bitmap = bitmap.map(|name| format!("qemu:dirty-bitmap:{name}"));
        let reader = Self { address, export, bitmap, scratch, client: RwLock::new(None) };
        let client = reader.dial().await?;
        *reader.client.write().await = Some(client);
        Ok(reader)
    }

    pub(crate) async fn bytes(&self) -> Result<u64> {
        self.client().await.map(|client| client.bytes())
    }

    async fn dial(&self) -> Result<Client> {
        Client::connect(&self.address, &self.export, &[ALLOCATION]).await
    }

    async fn client(&self) -> Result<Client> {
        self.client
            .read()
            .await
            .clone()
            .ok_or_else(|| Error::Closed { peer: "the NBD server", reason: "the cycle has ended".into() })
    }

    /// The connection, a new one if it broke: the point in time is held by the server and not by it.
    async fn again(&self) -> Result<Client> {
        let mut client = self.client.write().await;
        match client.as_ref() {
            Some(open) if !open.is_closed() => Ok(open.clone()),
            Some(_) => Ok(client.insert(self.dial().await?).clone()),
            None => Err(Error::Closed { peer: "the NBD server", reason: "the cycle has ended".into() }),
        }
    }

    async fn read(&self, offset: u64, bytes: usize) -> Result<Bytes> {
        match self.client().await?.read(offset, bytes).await {
            Err(error) if error.is_connection() => self.again().await?.read(offset, bytes).await,
            other => other,
        }
    }

    async fn release(&self, offset: u64, bytes: u64) -> Result<()> {
        let client = self.client().await?;
        if client.can_trim() { client.trim(offset, bytes).await } else { Ok(()) }
    }

    async fn extents(&self, disk_bytes: u64) -> Result<Vec<Extent>> {
        match self.extents_once(disk_bytes).await {
            Err(error) if error.is_connection() => {
                self.again().await?;
                self.extents_once(disk_bytes).await
            }
            other => other,
        }
    }

    async fn extents_once(&self, disk_bytes: u64) -> Result<Vec<Extent>> {
        let client = self.client().await?;
        let mut blocks = Blocks::new(disk_bytes);
        let kind = |flags: u32| if flags & wire::STATE_ZERO != 0 { Kind::Zero } else { Kind::Data };
        let Some(bitmap) = &self.bitmap else {
            for status in client.statuses(ALLOCATION, 0, disk_bytes, 2 * EXTENTS_MAX).await? {
                blocks.push(status.offset, status.bytes, kind(status.flags))?;
            }
            return Ok(blocks.finish());
        };
        // On a connection of its own: a server tells of all contexts that a connection has, or of none, and what a snapshot that
        // keeps only the bitmap's blocks has elsewhere cannot be told.
        let asking = Client::connect(&self.address, &self.export, &[bitmap]).await?;
        let dirty = asking.statuses(bitmap, 0, disk_bytes, 2 * EXTENTS_MAX).await?;
        asking.disconnect();
        for run in dirty.iter().filter(|status| status.flags & wire::STATE_DIRTY != 0) {
            if run.bytes < ZERO_RUN_BYTES {
                blocks.push(run.offset, run.bytes, Kind::Data)?;
                continue;
            }
            match client.statuses(ALLOCATION, run.offset, run.bytes, 2 * EXTENTS_MAX).await {
                Ok(statuses) => {
                    for status in statuses {
                        blocks.push(status.offset, status.bytes, kind(status.flags))?;
                    }
                }
                // It only saves reading.
                Err(Error::Request { .. }) => blocks.push(run.offset, run.bytes, Kind::Data)?,
                Err(error) => return Err(error),
            }
        }
        Ok(blocks.finish())
    }
}
