//! Reading a disk of an instance, anywhere, checked.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::format::{BLOCK_BYTES, LEAF_BLOCKS};
use crate::instance::Instance;
use crate::store::{Store, blocks_of};
use crate::{Error, Hash, Name};

/// Blocks that are kept for who reads on nearby: 4 MiB.
const CACHED_BLOCKS: usize = 64;

/// Leaves that are kept: half a megabyte.
const CACHED_LEAVES: usize = 4;

/// A disk of an instance. The instance's blocks stay for as long as this lives.
pub struct DiskReader {
    store: Store,
    instance: Arc<Instance>,
    /// Which one of the instance's.
    disk: usize,
    // Both held for a look-up, not while something is read.
    leaves: Mutex<Recent<u32, Arc<Vec<Option<Hash>>>>>,
    blocks: Mutex<Recent<Hash, Bytes>>,
}

/// A stretch of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Whether it is nothing but zeroes.
    pub is_zero: bool,
}

/// The last few of something, the newest at the end.
struct Recent<K, V> {
    all: Vec<(K, V)>,
    most: usize,
}

impl<K: PartialEq + Copy, V: Clone> Recent<K, V> {
    fn new(most: usize) -> Self {
        Self { all: Vec::new(), most }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        let at = self.all.iter().position(|(known, _)| known == key)?;
        let found = self.all.remove(at);
        let value = found.1.clone();
        self.all.push(found);
        Some(value)
    }

    fn put(&mut self, key: K, value: V) {
        if self.all.len() >= self.most {
            self.all.remove(0);
        }
        self.all.push((key, value));
    }
}

impl Store {
    /// Opens a disk of an instance.
    ///
    /// # Errors
    /// [`Error::NoInstance`], [`Error::NoDisk`].
    pub fn open_disk(&self, name: &Name, disk: u32) -> Result<DiskReader, Error> {
        let instance = self.instance(name).ok_or_else(|| Error::NoInstance(name.clone()))?;
        let found = instance.disks.iter().position(|one| one.size.key == disk).ok_or(Error::NoDisk(disk))?;
        let (leaves, blocks) = (Mutex::new(Recent::new(CACHED_LEAVES)), Mutex::new(Recent::new(CACHED_BLOCKS)));
        Ok(DiskReader { store: self.clone(), instance, disk: found, leaves, blocks })
    }
}

impl DiskReader {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.map().size.bytes
    }

    fn map(&self) -> &crate::instance::DiskMap {
        &self.instance.disks[self.disk]
    }

    fn leaf(&self, number: u32) -> Result<Arc<Vec<Option<Hash>>>, Error> {
        if let Some(leaf) = self.leaves.lock().get(&number) {
            return Ok(leaf);
        }
        let map = self.map();
        let behind = || Error::Invalid(format!("the disk has no leaf {number}"));
        let hash = map.leaves.get(number as usize).ok_or_else(behind)?;
        let leaf = Arc::new(self.store.read_leaf(hash, blocks_of(&map.size), number)?);
        self.leaves.lock().put(number, leaf.clone());
        Ok(leaf)
    }

    /// What a block holds, by its number; none for zeroes.
    fn entry(&self, block: u32) -> Result<Option<Hash>, Error> {
        Ok(self.leaf(block / LEAF_BLOCKS)?.get((block % LEAF_BLOCKS) as usize).copied().flatten())
    }

    fn block(&self, hash: &Hash) -> Result<Bytes, Error> {
        if let Some(block) = self.blocks.lock().get(hash) {
            return Ok(block);
        }
        let block = self.store.read(hash)?;
        self.blocks.lock().put(*hash, block.clone());
        Ok(block)
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`Error::Invalid`] behind the end of the disk, [`Error::Damaged`], [`Error::Io`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.bytes());
        end.ok_or_else(|| Error::Invalid(format!("{} bytes at {offset} are not on the disk", buffer.len())))?;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            // A disk has fewer than 2^32 blocks.
            let (block, within) = ((at / BLOCK_BYTES as u64) as u32, (at % BLOCK_BYTES as u64) as usize);
            let length = (BLOCK_BYTES - within).min(buffer.len() - done);
            let out = &mut buffer[done..done + length];
            match self.entry(block)? {
                None => out.fill(0),
                Some(hash) => {
                    let content = self.block(&hash)?;
                    let part = content.get(within..within + length);
                    let short = || Error::Damaged { what: format!("block {block}, which is too short,") };
                    out.copy_from_slice(part.ok_or_else(short)?);
                }
            }
            done += length;
        }
        Ok(())
    }

    /// What a part of the disk is made of, cut at its ends: runs of data and of zeroes in turn. At most `most` of them; what is behind is
    /// asked for again.
    ///
    /// # Errors
    /// [`Error::Invalid`] behind the end of the disk, [`Error::Damaged`], [`Error::Io`].
    pub fn runs(&self, offset: u64, bytes: u64, most: usize) -> Result<Vec<Run>, Error> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.bytes());
        let end = end.ok_or_else(|| Error::Invalid(format!("{bytes} bytes at {offset} are not on the disk")))?;
        let mut runs: Vec<Run> = Vec::new();
        let mut at = offset;
        while at < end {
            let block = at / BLOCK_BYTES as u64;
            let stop = ((block + 1) * BLOCK_BYTES as u64).min(end);
            let is_zero = self.entry(block as u32)?.is_none();
            let is_full = runs.len() == most;
            match runs.last_mut().filter(|last| last.is_zero == is_zero) {
                Some(last) => last.bytes += stop - at,
                None if is_full => break,
                None => runs.push(Run { offset: at, bytes: stop - at, is_zero }),
            }
            at = stop;
        }
        Ok(runs)
    }
}
