//! What the destination's side asks of the place where instances are kept.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::frame::{Block, Hash};

/// An instance, or the draft of one: `replication` and `instance` are names that were checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The replication.
    pub replication: String,
    /// The instance.
    pub instance: String,
}

/// A disk's key and its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSize {
    /// The key.
    pub key: u32,
    /// The size.
    pub bytes: u64,
}

/// An instance that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The point in time that it shows, in milliseconds since 1970.
    pub time_ms: i64,
    /// BLAKE3 of the root of its map.
    pub root: Hash,
    /// Its number among the instances of the replication.
    pub sequence: u64,
    /// Bytes that were stored for it.
    pub transfer_bytes: u64,
    /// Its disks, by key.
    pub disks: Vec<DiskSize>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such instance, draft or disk.
    #[error("there is no {0}")]
    NotFound(&'static str),
    /// There is no room left.
    #[error("the store is full")]
    Full,
    /// The store cannot be reached: later it may be.
    #[error("the store cannot be reached: {0}")]
    Away(String),
    /// A block's bytes do not have its hash.
    #[error("a block's bytes do not have its hash")]
    HashDiffers,
    /// The map's root is not the one that was expected.
    #[error("the map has another root")]
    RootDiffers,
    /// The map names blocks that are not there, or are damaged.
    #[error("the map names blocks that are not there, or are damaged")]
    BlocksMissing,
    /// What was asked for does not fit the disks or the limits of the store.
    #[error("{0}")]
    Invalid(String),
    /// The store is damaged, or has failed.
    #[error("the store has failed: {0}")]
    Failed(String),
}

/// Something that a store is doing.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where instances are kept.
pub trait InstanceStore: Send + Sync + 'static {
    /// An instance that was committed.
    fn committed<'a>(&'a self, key: &'a Key) -> Doing<'a, Option<Committed>>;

    /// The hashes of so many leaves of a committed instance's disk, fewer at the end.
    fn leaves<'a>(&'a self, key: &'a Key, disk: u32, first: u32, count: u32) -> Doing<'a, Vec<Hash>>;

    /// A leaf of a committed instance's disk: what its hash is of.
    fn leaf<'a>(&'a self, key: &'a Key, disk: u32, number: u32) -> Doing<'a, Bytes>;

    /// Begins a draft as `base`, an instance of the same replication, or as zeroes. One of that key that is there begins anew.
    fn begin<'a>(&'a self, key: &'a Key, base: Option<&'a str>, disks: &'a [DiskSize]) -> Doing<'a, Arc<dyn Draft>>;

    /// A draft that was begun, also before a restart.
    fn draft<'a>(&'a self, key: &'a Key) -> Doing<'a, Option<Arc<dyn Draft>>>;

    /// The instances that a replication has drafts of, the oldest first.
    fn drafts<'a>(&'a self, replication: &'a str) -> Doing<'a, Vec<String>>;
}

/// What blocks of a disk are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The disk's key.
    pub disk: u32,
    /// Numbers of blocks, and what they are; none for zeroes.
    pub entries: Vec<(u32, Option<Hash>)>,
}

/// An instance in the making. What it holds, and what it found, is kept until it is committed or abandoned.
pub trait Draft: Send + Sync + 'static {
    /// Which of these blocks are there.
    fn have<'a>(&'a self, hashes: &'a [Hash]) -> Doing<'a, Vec<bool>>;

    /// Stores blocks, which have been checked, and changes the maps of disks; it is durable then.
    fn store(&self, blocks: Vec<Block>, changes: Vec<Changes>) -> Doing<'_, ()>;

    /// Makes it an instance, whole or not at all, if the root of its map is `root` and all blocks are there.
    fn commit(&self, root: Hash, time_ms: i64) -> Doing<'_, Committed>;

    /// Drops it.
    fn abandon(&self) -> Doing<'_, ()>;
}
