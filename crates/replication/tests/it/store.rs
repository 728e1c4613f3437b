//! A store that forgets, when it is told to crash, all that was not flushed, and throws away at every chance what nothing needs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lockstep_replication::frame::{Block, Hash};
use lockstep_replication::receive::{Changes, Committed, DiskSize, Doing, Draft, InstanceStore, Key, StoreError};
use parking_lot::Mutex;

const BLOCK_BYTES: usize = 65536;
const LEAF_BLOCKS: usize = 4096;

type DiskMap = Vec<Option<Hash>>;

#[derive(Clone)]
struct Instance {
    committed: Committed,
    maps: BTreeMap<u32, DiskMap>,
}

#[derive(Clone)]
struct Making {
    disks: Vec<DiskSize>,
    maps: BTreeMap<u32, DiskMap>,
    pins: HashSet<Hash>,
    put_bytes: u64,
    number: u64,
}

#[derive(Clone, Default)]
struct World {
    blocks: HashMap<Hash, Bytes>,
    instances: HashMap<Key, Instance>,
    drafts: HashMap<Key, Making>,
    numbers: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Nothing,
    Full,
    Away,
}

struct Inner {
    durable: World,
    now: World,
    trouble: Trouble,
}

/// The store as one start of the server sees it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
    starts: Arc<AtomicU64>,
    start: u64,
    /// How often a block was put that was there already.
    pub repeated: Arc<AtomicU64>,
    pub flushes: Arc<AtomicU64>,
}

impl Store {
    pub fn new() -> Self {
        let inner = Inner { durable: World::default(), now: World::default(), trouble: Trouble::Nothing };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            starts: Arc::default(),
            start: 0,
            repeated: Arc::default(),
            flushes: Arc::default(),
        }
    }

    /// The store after a crash. What the start before still does fails.
    pub fn crashed(&self) -> Self {
        let mut inner = self.inner.lock();
        inner.now = inner.durable.clone();
        inner.now.collect();
        let start = self.starts.fetch_add(1, Ordering::SeqCst) + 1;
        Self { start, ..self.clone() }
    }

    pub fn trouble(&self, trouble: Trouble) {
        self.inner.lock().trouble = trouble;
    }

    /// A disk of an instance, whole.
    pub fn content(&self, key: &Key, disk: u32) -> Vec<u8> {
        let inner = self.inner.lock();
        let instance = &inner.durable.instances[key];
        let bytes = instance.committed.disks.iter().find(|d| d.key == disk).unwrap().bytes as usize;
        let mut out = vec![0; bytes];
        for (i, hash) in instance.maps[&disk].iter().enumerate() {
            if let Some(hash) = hash {
                let block = &inner.durable.blocks[hash];
                assert_eq!(blake3::hash(block).as_bytes(), hash);
                out[i * BLOCK_BYTES..][..block.len()].copy_from_slice(block);
            }
        }
        out
    }

    pub fn instances(&self) -> Vec<String> {
        self.inner.lock().durable.instances.keys().map(|key| key.instance.clone()).collect()
    }

    pub fn draft_count(&self) -> usize {
        self.inner.lock().now.drafts.len()
    }

    pub fn block_count(&self) -> usize {
        self.inner.lock().now.blocks.len()
    }

    /// A block's bytes are no longer those of its hash.
    pub fn lose_blocks(&self) {
        let mut inner = self.inner.lock();
        inner.now.blocks.clear();
        inner.durable.blocks.clear();
    }

    fn work<T>(&self, work: impl FnOnce(&mut Inner) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut inner = self.inner.lock();
        if self.starts.load(Ordering::SeqCst) != self.start {
            return Err(StoreError::Failed(KILLED.to_owned()));
        }
        if inner.trouble == Trouble::Away {
            return Err(StoreError::Away("for a test".to_owned()));
        }
        work(&mut inner)
    }
}

impl World {
    /// Removes the blocks that nothing needs.
    fn collect(&mut self) {
        let mut needed: HashSet<Hash> = HashSet::new();
        needed.extend(self.instances.values().flat_map(|i| i.maps.values().flatten().flatten().copied()));
        needed.extend(self.drafts.values().flat_map(|d| d.pins.iter().copied()));
        self.blocks.retain(|hash, _| needed.contains(hash));
    }
}

fn block_count(bytes: u64) -> usize {
    (bytes as usize).div_ceil(BLOCK_BYTES)
}

fn encode(entries: &[Option<Hash>]) -> Bytes {
    entries.iter().flat_map(|entry| entry.unwrap_or_default()).collect()
}

fn root(disks: &[DiskSize], maps: &BTreeMap<u32, DiskMap>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for disk in disks {
        hasher.update(&disk.key.to_le_bytes());
        hasher.update(&disk.bytes.to_le_bytes());
        for leaf in maps[&disk.key].chunks(LEAF_BLOCKS) {
            hasher.update(blake3::hash(&encode(leaf)).as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// What is answered to a server that was killed: it answers nobody any more.
const KILLED: &str = "this server was killed";

fn done<'a, T: Send + 'a>(outcome: Result<T, StoreError>) -> Doing<'a, T> {
    match outcome {
        Err(StoreError::Failed(reason)) if reason == KILLED => Box::pin(std::future::pending()),
        outcome => Box::pin(std::future::ready(outcome)),
    }
}

impl InstanceStore for Store {
    fn committed<'a>(&'a self, key: &'a Key) -> Doing<'a, Option<Committed>> {
        done(self.work(|inner| Ok(inner.now.instances.get(key).map(|instance| instance.committed.clone()))))
    }

    fn leaves<'a>(&'a self, key: &'a Key, disk: u32, first: u32, count: u32) -> Doing<'a, Vec<Hash>> {
        done(self.work(|inner| {
            let instance = inner.now.instances.get(key).ok_or(StoreError::NotFound("instance"))?;
            let map = instance.maps.get(&disk).ok_or(StoreError::NotFound("disk"))?;
            let leaves = map.chunks(LEAF_BLOCKS).skip(first as usize).take(count as usize);
            Ok(leaves.map(|leaf| *blake3::hash(&encode(leaf)).as_bytes()).collect())
        }))
    }

    fn leaf<'a>(&'a self, key: &'a Key, disk: u32, number: u32) -> Doing<'a, Bytes> {
        done(self.work(|inner| {
            let instance = inner.now.instances.get(key).ok_or(StoreError::NotFound("instance"))?;
            let map = instance.maps.get(&disk).ok_or(StoreError::NotFound("disk"))?;
            map.chunks(LEAF_BLOCKS).nth(number as usize).map(encode).ok_or(StoreError::NotFound("leaf"))
        }))
    }

    fn begin<'a>(&'a self, key: &'a Key, base: Option<&'a str>, disks: &'a [DiskSize]) -> Doing<'a, Arc<dyn Draft>> {
        let begun = self.work(|inner| {
            if inner.trouble == Trouble::Full {
                return Err(StoreError::Full);
            }
            let before = match base {
                None => BTreeMap::new(),
                Some(base) => {
                    let at = Key { replication: key.replication.clone(), instance: base.to_owned() };
                    inner.now.instances.get(&at).ok_or(StoreError::NotFound("base"))?.maps.clone()
                }
            };
            let map = |disk: &DiskSize| {
                let mut map = before.get(&disk.key).cloned().unwrap_or_default();
                map.resize(block_count(disk.bytes), None);
                (disk.key, map)
            };
            inner.now.numbers += 1;
            let maps: BTreeMap<u32, DiskMap> = disks.iter().map(map).collect();
            let pins = maps.values().flatten().flatten().copied().collect();
            let making = Making { disks: disks.to_vec(), maps, pins, put_bytes: 0, number: inner.now.numbers };
            inner.now.drafts.insert(key.clone(), making.clone());
            // A draft that was begun is there after a crash; nothing else becomes durable by it.
            inner.durable.drafts.insert(key.clone(), making);
            inner.now.collect();
            Ok(())
        });
        let draft = Open { store: self.clone(), key: key.clone() };
        done(begun.map(|()| Arc::new(draft) as Arc<dyn Draft>))
    }

    fn draft<'a>(&'a self, key: &'a Key) -> Doing<'a, Option<Arc<dyn Draft>>> {
        done(self.work(|inner| {
            let open = || Arc::new(Open { store: self.clone(), key: key.clone() }) as Arc<dyn Draft>;
            Ok(inner.now.drafts.contains_key(key).then(open))
        }))
    }

    fn drafts<'a>(&'a self, replication: &'a str) -> Doing<'a, Vec<String>> {
        done(self.work(|inner| {
            let drafts = inner.now.drafts.iter().filter(|(key, _)| key.replication == replication);
            let mut drafts: Vec<_> = drafts.map(|(key, making)| (making.number, key.instance.clone())).collect();
            drafts.sort();
            Ok(drafts.into_iter().map(|(_, instance)| instance).collect())
        }))
    }
}

struct Open {
    store: Store,
    key: Key,
}

impl Open {
    fn work<T>(&self, work: impl FnOnce(&mut Making, &mut World) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.store.work(|inner| {
            if inner.trouble == Trouble::Full {
                return Err(StoreError::Full);
            }
            let mut making = inner.now.drafts.remove(&self.key).ok_or(StoreError::NotFound("draft"))?;
            let outcome = work(&mut making, &mut inner.now);
            inner.now.drafts.insert(self.key.clone(), making);
            outcome
        })
    }
}

impl Draft for Open {
    fn have<'a>(&'a self, hashes: &'a [Hash]) -> Doing<'a, Vec<bool>> {
        done(self.work(|making, world| {
            let found: Vec<bool> = hashes.iter().map(|hash| world.blocks.contains_key(hash)).collect();
            making.pins.extend(hashes.iter().zip(&found).filter(|(_, found)| **found).map(|(hash, _)| *hash));
            Ok(found)
        }))
    }

    fn store(&self, blocks: Vec<Block>, changes: Vec<Changes>) -> Doing<'_, ()> {
        let stored = self.work(|making, world| {
            for block in blocks {
                let plain: Bytes = match block.is_zstd {
                    true => zstd::bulk::decompress(&block.bytes, BLOCK_BYTES).unwrap().into(),
                    // As the frame is shared, a copy is what keeps the rest of it from being kept.
                    false => Bytes::copy_from_slice(&block.bytes),
                };
                making.put_bytes += block.bytes.len() as u64;
                making.pins.insert(block.hash);
                if world.blocks.insert(block.hash, plain).is_some() {
                    self.store.repeated.fetch_add(1, Ordering::Relaxed);
                }
            }
            for Changes { disk, entries } in changes {
                let map = making.maps.get_mut(&disk).ok_or(StoreError::NotFound("disk"))?;
                for (number, hash) in entries {
                    let entry = map.get_mut(number as usize);
                    *entry.ok_or_else(|| StoreError::Invalid("a block behind the end of the disk".to_owned()))? = hash;
                }
            }
            Ok(())
        });
        let flush = |()| {
            self.store.work(|inner| {
                self.store.flushes.fetch_add(1, Ordering::Relaxed);
                inner.durable = inner.now.clone();
                Ok(())
            })
        };
        done(stored.and_then(flush))
    }

    fn commit(&self, root_expected: Hash, time_ms: i64) -> Doing<'_, Committed> {
        done(self.store.work(|inner| {
            let making = inner.now.drafts.get(&self.key).ok_or(StoreError::NotFound("draft"))?.clone();
            let root = root(&making.disks, &making.maps);
            if root != root_expected {
                return Err(StoreError::RootDiffers);
            }
            if making.maps.values().flatten().flatten().any(|hash| !inner.now.blocks.contains_key(hash)) {
                return Err(StoreError::BlocksMissing);
            }
            inner.now.numbers += 1;
            let sequence = inner.now.numbers;
            let committed =
                Committed { time_ms, root, sequence, transfer_bytes: making.put_bytes, disks: making.disks.clone() };
            let instance = Instance { committed: committed.clone(), maps: making.maps };
            inner.now.instances.insert(self.key.clone(), instance);
            inner.now.drafts.remove(&self.key);
            inner.now.collect();
            inner.durable = inner.now.clone();
            Ok(committed)
        }))
    }

    fn abandon(&self) -> Doing<'_, ()> {
        done(self.store.work(|inner| {
            inner.now.drafts.remove(&self.key);
            inner.durable.drafts.remove(&self.key);
            inner.now.collect();
            Ok(())
        }))
    }
}
