//! A disk in memory that loses power, runs full and fails to flush, as far as POSIX lets a real one do.
//!
//! What was flushed stays. Of what was written since, a power loss keeps any part: none, all, the first writes, or sectors
//! here and there. Of names that were made, changed or removed since the directory was flushed, it keeps any part as well.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Storage, StoredFile};

const SECTOR_BYTES: usize = 512;

/// Random numbers that a seed repeats.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    renamings: Vec<Renaming>,
    /// Calls that change something, until the power goes.
    calls_left: Option<u64>,
    is_off: bool,
    /// Bytes that may still be written.
    space_left: Option<u64>,
    /// Flushes until they fail.
    flushes_left: Option<u64>,
    truncates_fail: bool,
}

#[derive(Default, Clone)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    unflushed: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(u64, Vec<u8>),
    Truncate(u64),
}

/// A name that goes and a name that comes, in one stroke.
#[derive(Clone)]
struct Renaming {
    removed: Option<String>,
    made: Option<(String, usize)>,
}

struct DiskFile {
    disk: Disk,
    file: usize,
}

impl Disk {
    /// Lets the power go after so many calls that change something. The last one may take effect in part.
    pub fn power_off_after(&self, calls: u64) {
        self.inner.lock().calls_left = Some(calls);
    }

    /// Whether it has lost power.
    pub fn is_off(&self) -> bool {
        self.inner.lock().is_off
    }

    /// Leaves room for so many bytes; `None` for any.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.inner.lock().space_left = bytes;
    }

    /// Lets flushes fail after so many.
    pub fn fail_flushes_after(&self, flushes: u64) {
        self.inner.lock().flushes_left = Some(flushes);
    }

    /// Lets no file be cut any more.
    pub fn fail_truncates(&self) {
        self.inner.lock().truncates_fail = true;
    }

    /// The disk as it may be found after the power went.
    pub fn after_power_loss(&self, random: &mut Random) -> Disk {
        let inner = self.inner.lock();
        let files: Vec<Content> = inner.files.iter().map(|content| content.survive(random)).collect();
        let mut names = inner.durable_names.clone();
        let kept = random.below(inner.renamings.len() as u64 + 1) as usize;
        let in_order = random.below(2) == 0;
        for (nth, renaming) in inner.renamings.iter().enumerate() {
            if if in_order { nth < kept } else { random.below(2) == 0 } {
                renaming.apply(&mut names);
            }
        }
        let durable_names = names.clone();
        let inner = Inner { files, names, durable_names, ..Inner::default() };
        Disk { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The disk as it is found after the program was killed: nothing is lost, but a power loss still may take it.
    pub fn after_kill(&self) -> Disk {
        let Inner { files, names, durable_names, renamings, .. } = &*self.inner.lock();
        let (files, names, durable_names) = (files.clone(), names.clone(), durable_names.clone());
        let inner = Inner { files, names, durable_names, renamings: renamings.clone(), ..Inner::default() };
        Disk { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A copy of what programs see.
    pub fn copy(&self) -> Disk {
        let inner = self.inner.lock();
        let settled = |c: &Content| Content { live: c.live.clone(), durable: c.live.clone(), unflushed: Vec::new() };
        let files = inner.files.iter().map(settled).collect();
        let (names, durable_names) = (inner.names.clone(), inner.names.clone());
        Disk { inner: Arc::new(Mutex::new(Inner { files, names, durable_names, ..Inner::default() })) }
    }

    /// The content of a file, to be tampered with.
    pub fn tamper<T>(&self, name: &str, with: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let inner = &mut *self.inner.lock();
        let content = &mut inner.files[inner.names[name]];
        let result = with(&mut content.live);
        content.durable = content.live.clone();
        result
    }

    fn handle(&self, file: usize) -> Arc<dyn StoredFile> {
        Arc::new(DiskFile { disk: self.clone(), file })
    }
}

impl Inner {
    /// Counts a call; true when it is the last one, which fails but may still have an effect.
    fn call(&mut self) -> io::Result<bool> {
        if self.is_off {
            return Err(power_lost());
        }
        match &mut self.calls_left {
            Some(0) => {
                self.is_off = true;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.flushes_left {
            Some(0) => Err(io::Error::other("flush failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn rename(&mut self, renaming: Renaming) -> io::Result<()> {
        let is_last = self.call()?;
        renaming.apply(&mut self.names);
        self.renamings.push(renaming);
        if is_last { Err(power_lost()) } else { Ok(()) }
    }
}

fn power_lost() -> io::Error {
    io::Error::other("power lost")
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.removed {
            names.remove(name);
        }
        if let Some((name, file)) = &self.made {
            names.insert(name.clone(), *file);
        }
    }
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, bytes) => {
                let end = *at as usize + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at as usize..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => content.truncate(*length as usize),
        }
    }

    /// The write sector by sector, as they reach the disk.
    fn sectors(&self) -> Vec<Write> {
        match self {
            Self::Bytes(at, bytes) => {
                let mut sectors = Vec::new();
                let (mut at, mut rest) = (*at, &bytes[..]);
                while !rest.is_empty() {
                    let length = rest.len().min(SECTOR_BYTES - at as usize % SECTOR_BYTES);
                    sectors.push(Write::Bytes(at, rest[..length].to_vec()));
                    at += length as u64;
                    rest = &rest[length..];
                }
                sectors
            }
            Self::Truncate(_) => vec![self.clone()],
        }
    }
}

impl Content {
    fn survive(&self, random: &mut Random) -> Content {
        let mut durable = self.durable.clone();
        let sectors: Vec<Write> = self.unflushed.iter().flat_map(Write::sectors).collect();
        let (way, kept) = (random.below(4), random.below(sectors.len() as u64 + 1) as usize);
        for (nth, sector) in sectors.iter().enumerate() {
            let survives = match way {
                0 => false,
                1 => true,
                2 => nth < kept,
                _ => random.below(2) == 0,
            };
            if survives {
                sector.apply(&mut durable);
            }
        }
        Content { live: durable.clone(), durable, unflushed: Vec::new() }
    }

    fn write(&mut self, write: Write) {
        write.apply(&mut self.live);
        self.unflushed.push(write);
    }
}

impl Storage for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        let mut inner = self.inner.lock();
        let file = inner.files.len();
        inner.files.push(Content::default());
        inner.rename(Renaming { removed: None, made: Some((name.to_owned(), file)) })?;
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        let inner = self.inner.lock();
        if inner.is_off {
            return Err(power_lost());
        }
        let file = inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(*file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let file = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.rename(Renaming { removed: Some(from.to_owned()), made: Some((to.to_owned(), file)) })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.rename(Renaming { removed: Some(name.to_owned()), made: None })
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if inner.call()? {
            return Err(power_lost());
        }
        inner.flush()?;
        inner.durable_names = inner.names.clone();
        inner.renamings.clear();
        Ok(())
    }

    fn shown(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl StoredFile for DiskFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.inner.lock().files[self.file].live.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = self.disk.inner.lock();
        if inner.is_off {
            return Err(power_lost());
        }
        let rest = inner.files[self.file].live.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let is_last = inner.call()?;
        let fits = inner.space_left.map_or(bytes.len(), |left| bytes.len().min(left as usize));
        if let Some(left) = &mut inner.space_left {
            *left -= fits as u64;
        }
        inner.files[self.file].write(Write::Bytes(offset, bytes[..fits].to_vec()));
        if is_last {
            return Err(power_lost());
        }
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        if inner.truncates_fail {
            return Err(io::Error::other("truncate failed"));
        }
        let is_last = inner.call()?;
        let freed = (inner.files[self.file].live.len() as u64).saturating_sub(bytes);
        if let Some(left) = &mut inner.space_left {
            *left += freed;
        }
        inner.files[self.file].write(Write::Truncate(bytes));
        if is_last { Err(power_lost()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        if inner.call()? {
            return Err(power_lost());
        }
        inner.flush()?;
        let content = &mut inner.files[self.file];
        content.durable = content.live.clone();
        content.unflushed.clear();
        Ok(())
    }
}
