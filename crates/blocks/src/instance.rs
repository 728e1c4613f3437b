//! Instances: the disks of a machine at one point in time.
//!
//! An instance is a file of two lines: what [`Stored`] says as JSON, and the CRC-32C of that line in hex digits. It is written under another name,
//! flushed, and renamed; so it is there whole or not at all.

use lockstep_storage::Storage;
use serde::{Deserialize, Serialize};

use crate::format::{hex, read_hex, root_hash};
use crate::writer::Writer;
use crate::{Error, Hash, Name};

/// What the files' names begin with.
pub(crate) const KIND: &str = "instance";

/// A disk of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSize {
    /// Its key: 2000 for the first disk of a machine.
    pub key: u32,
    /// Its size in bytes, a multiple of 512.
    pub bytes: u64,
}

/// A disk and its map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskMap {
    pub(crate) size: DiskSize,
    /// The hashes of its leaves.
    pub(crate) leaves: Vec<Hash>,
}

/// What can be changed of an instance, and what is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceState {
    /// The point in time it shows, in milliseconds since 1970.
    pub time_ms: i64,
    /// Its number among the instances of its replication, from 1.
    pub sequence: u64,
    /// Bytes that were stored for it.
    pub stored_bytes: u64,
    /// Whether retention leaves it alone.
    pub is_pinned: bool,
}

/// An instance that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: Name,
    /// BLAKE3 over its disks' maps: what all of them hold.
    pub root: Hash,
    /// The rest.
    pub state: InstanceState,
    pub(crate) disks: Vec<DiskMap>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    root: String,
    state: InstanceState,
    disks: Vec<StoredDisk>,
}

#[derive(Serialize, Deserialize)]
struct StoredDisk {
    size: DiskSize,
    leaves: Vec<String>,
}

impl Instance {
    /// Its disks, by key.
    pub fn disks(&self) -> impl Iterator<Item = DiskSize> {
        self.disks.iter().map(|disk| disk.size)
    }

    pub(crate) fn disk(&self, key: u32) -> Result<&DiskMap, Error> {
        self.disks.iter().find(|disk| disk.size.key == key).ok_or(Error::NoDisk(key))
    }

    /// What its file holds.
    pub(crate) fn encode(&self) -> Result<String, Error> {
        let disk = |disk: &DiskMap| StoredDisk { size: disk.size, leaves: disk.leaves.iter().map(hex).collect() };
        let stored = Stored {
            version: 1,
            root: hex(&self.root),
            state: self.state.clone(),
            disks: self.disks.iter().map(disk).collect(),
        };
        let json = serde_json::to_string(&stored).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes())))
    }

    /// Writes its file, durably.
    pub(crate) fn write(&self, writer: &Writer) -> Result<(), Error> {
        let storage = &writer.storage;
        let text = self.encode()?;
        let (name, temporary) = (self.name.file(KIND), self.name.file("writing"));
        let what = || format!("writing {}", storage.shown(&name));
        let file = storage.create(&temporary).map_err(Error::io(what()))?;
        file.write_at(0, text.as_bytes()).map_err(Error::io(what()))?;
        file.sync().map_err(Error::io(what()))?;
        writer.publish(&temporary, &name)
    }

    /// Reads the file of an instance.
    pub(crate) fn read(storage: &dyn Storage, name: Name) -> Result<Self, Error> {
        let file_name = name.file(KIND);
        let bytes = read_all(storage, &file_name)?;
        let damaged = || Error::Damaged { what: storage.shown(&file_name) };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
        let (json, checksum) = text.split_once('\n').ok_or_else(damaged)?;
        let told = u32::from_str_radix(checksum.trim_end(), 16).map_err(|_| damaged())?;
        if told != crc32c::crc32c(json.as_bytes()) {
            return Err(damaged());
        }
        let stored: Stored = serde_json::from_str(json).map_err(|_| damaged())?;
        let disk = |disk: StoredDisk| -> Option<DiskMap> {
            let leaves = disk.leaves.iter().map(|leaf| read_hex(leaf)).collect::<Option<_>>()?;
            Some(DiskMap { size: disk.size, leaves })
        };
        let disks = stored.disks.into_iter().map(disk).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let root = read_hex(&stored.root).filter(|root| *root == root_of(&disks)).ok_or_else(damaged)?;
        Ok(Self { name, root, state: stored.state, disks })
    }
}

/// The root over maps.
pub(crate) fn root_of(disks: &[DiskMap]) -> Hash {
    root_hash(disks.iter().map(|disk| (disk.size.key, disk.size.bytes, &*disk.leaves)))
}

/// All bytes of a file.
pub(crate) fn read_all(storage: &dyn Storage, name: &str) -> Result<Vec<u8>, Error> {
    let what = || format!("reading {}", storage.shown(name));
    let file = storage.open(name).map_err(Error::io(what()))?;
    let length = usize::try_from(file.bytes().map_err(Error::io(what()))?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes).map_err(Error::io(what()))?;
    bytes.truncate(read);
    Ok(bytes)
}
