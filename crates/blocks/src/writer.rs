//! The pack that is being written.
//!
//! Appending and flushing are apart: many append, and those who wait for a flush share one. A flush covers all that was appended before
//! it began.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockstep_storage::{Storage, StoredFile};
use parking_lot::{Mutex, RwLock};

use crate::index::{Hashes, Index};
use crate::pack::{self, Block, Entries, HEAD_BYTES, PACK_BYTES, Place};
use crate::{Error, Hash};

/// Bytes that are written at a time. What is copied should be in the processor's cache still when it is written.
const WRITE_BYTES: usize = 1 << 20;

/// What new blocks leave free of the file system, one part in so many, and how much at the most. Whoever makes room has to write as well: the
/// journal, which may be on the same file system, and a collection of garbage.
const SPARED_SHARE: u64 = 50;
const SPARED_BYTES_MAX: u64 = 1 << 30;

/// The pack that is appended to.
struct Open {
    number: u32,
    file: Arc<dyn StoredFile>,
    end: u64,
    entries: Entries,
}

/// Appends to packs.
pub(crate) struct Writer {
    pub(crate) storage: Arc<dyn Storage>,
    // Held while bytes are written, not while they are flushed.
    state: Mutex<State>,
    /// What is durable: a number of `State::appended`. Held while flushing, so that one flush is under way.
    flushed: Mutex<u64>,
    is_poisoned: AtomicBool,
}

struct State {
    open: Option<Open>,
    next: u32,
    /// Counts appends.
    appended: u64,
    /// Where records are put together. Kept, since fresh memory costs more than what is written into it.
    records: Vec<u8>,
}

impl Writer {
    /// A writer whose first pack has the number `next`.
    pub(crate) fn new(storage: Arc<dyn Storage>, next: u32) -> Self {
        let state = Mutex::new(State { open: None, next, appended: 0, records: Vec::new() });
        Self { storage, state, flushed: Mutex::new(0), is_poisoned: AtomicBool::new(false) }
    }

    /// After a flush that failed, nobody knows what is durable.
    pub(crate) fn poison(&self) {
        self.is_poisoned.store(true, Ordering::SeqCst);
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_poisoned.load(Ordering::SeqCst) { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Gives a file that is whole and flushed its name, durably. When that fails, nobody knows which one it has.
    pub(crate) fn publish(&self, temporary: &str, name: &str) -> Result<(), Error> {
        let what = format!("naming {}", self.storage.shown(name));
        self.storage.rename(temporary, name).map_err(Error::io(what.clone())).inspect_err(|error| {
            // A full disk says so before it changes anything.
            if !matches!(error, Error::Full) {
                self.poison();
            }
        })?;
        self.flush_directory(what)
    }

    /// Removes a file, durably.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        let what = format!("removing {}", self.storage.shown(name));
        self.storage.remove(name).map_err(Error::io(what.clone()))?;
        self.flush_directory(what)
    }

    fn flush_directory(&self, what: String) -> Result<(), Error> {
        self.storage.sync_directory().map_err(Error::io(what)).inspect_err(|_| self.poison())
    }

    /// Stores what is not there yet. Answers the bytes that this took. Durable after the next [`Writer::flush`].
    pub(crate) fn append(&self, index: &RwLock<Index>, blocks: &[Block]) -> Result<u64, Error> {
        self.check()?;
        let mut state = self.state.lock();
        let missing: Vec<&Block> = {
            let mut index = index.write();
            let mut seen = Hashes::default();
            blocks.iter().filter(|block| !index.want(&block.hash) && seen.insert(block.hash)).collect()
        };
        self.check_room(missing.iter().map(|block| block.record_bytes()).sum())?;
        self.write(&mut state, index, &missing)
    }

    /// Whether so many bytes may be added.
    fn check_room(&self, bytes: u64) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let space = self.storage.space().map_err(Error::io("asking how much room is left"))?;
        let is_full = space.is_some_and(|space| {
            let spared = (space.total_bytes / SPARED_SHARE).min(SPARED_BYTES_MAX);
            space.free_bytes < spared.saturating_add(bytes)
        });
        if is_full { Err(Error::Full) } else { Ok(()) }
    }

    /// Stores what is in a pack that is to go. Answers the bytes that this took.
    pub(crate) fn move_here(&self, index: &RwLock<Index>, blocks: &[Block]) -> Result<u64, Error> {
        self.check()?;
        let all: Vec<&Block> = blocks.iter().collect();
        self.write(&mut self.state.lock(), index, &all)
    }

    fn write(&self, state: &mut State, index: &RwLock<Index>, missing: &[&Block]) -> Result<u64, Error> {
        let mut stored = 0;
        let mut rest = missing;
        let mut bytes = std::mem::take(&mut state.records);
        while !rest.is_empty() {
            bytes.clear();
            let open = self.opened(state, index)?;
            let room = PACK_BYTES.saturating_sub(open.end);
            let mut places: Vec<(Hash, Place)> = Vec::new();
            while let Some((block, behind)) = rest.split_first() {
                let is_full = bytes.len() >= WRITE_BYTES || bytes.len() as u64 + block.record_bytes() > room;
                if !places.is_empty() && is_full {
                    break;
                }
                // Packs end far below 4 GiB, and records have at most 128 KiB.
                let offset = (open.end + bytes.len() as u64) as u32;
                let stored_bytes = block.bytes.len() as u32;
                let place =
                    Place { pack: open.number, offset, plain_bytes: block.plain_bytes, stored_bytes, form: block.form };
                places.push((block.hash, place));
                block.write(&mut bytes);
                rest = behind;
            }
            // What was written of it in vain is overwritten by the next one.
            let what = || format!("writing {}", self.storage.shown(&pack::file_name(open.number)));
            open.file.write_at(open.end, &bytes).map_err(Error::io(what()))?;
            open.end += bytes.len() as u64;
            stored += bytes.len() as u64;
            open.entries.extend_from_slice(&places);
            let is_full = open.end >= PACK_BYTES;
            state.appended += 1;
            {
                let mut index = index.write();
                places.into_iter().for_each(|(hash, place)| index.put(hash, place));
            }
            if is_full {
                self.seal(state)?;
            }
        }
        state.records = bytes;
        Ok(stored)
    }

    fn opened<'a>(&self, state: &'a mut State, index: &RwLock<Index>) -> Result<&'a mut Open, Error> {
        if state.open.is_none() {
            let number = state.next;
            let name = pack::file_name(number);
            let what = || format!("making {}", self.storage.shown(&name));
            let file = self.storage.create(&name).map_err(Error::io(what()))?;
            file.write_at(0, &pack::head()).map_err(Error::io(what()))?;
            // Its name must last before anything in it counts as stored.
            self.flush_directory(what())?;
            index.write().add_pack(number, file.clone(), &Entries::new());
            state.next += 1;
            state.open = Some(Open { number, file, end: HEAD_BYTES, entries: Entries::new() });
        }
        state.open.as_mut().ok_or(Error::Poisoned)
    }

    /// Ends the pack that is open.
    fn seal(&self, state: &mut State) -> Result<(), Error> {
        let Some(open) = state.open.take() else { return Ok(()) };
        let what = || format!("sealing {}", self.storage.shown(&pack::file_name(open.number)));
        let footer = pack::footer(&open.entries, open.end);
        let written = open.file.write_at(open.end, &footer).map_err(Error::io(what()));
        // The records must be durable before others believe so, with or without a footer.
        open.file.sync().map_err(Error::io(what())).inspect_err(|_| self.poison())?;
        if let Err(error) = written {
            // It is read record by record the next time, as after a crash.
            tracing::warn!(%error, "a pack has no footer");
        }
        Ok(())
    }

    /// Makes all that was appended durable.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        self.check()?;
        let wanted = self.state.lock().appended;
        let mut flushed = self.flushed.lock();
        if *flushed >= wanted {
            return self.check();
        }
        // Packs that were sealed in between are durable already.
        let (covered, open) = {
            let state = self.state.lock();
            (state.appended, state.open.as_ref().map(|open| (open.number, open.file.clone())))
        };
        if let Some((number, file)) = open {
            let what = || format!("flushing {}", self.storage.shown(&pack::file_name(number)));
            file.sync().map_err(Error::io(what())).inspect_err(|_| self.poison())?;
        }
        *flushed = covered;
        self.check()
    }

    /// Ends the pack that is open. Answers the number that the next one will have: those below it are sealed.
    // The index is locked after the state, everywhere: nobody may ask for this with the index locked.
    pub(crate) fn seal_open(&self) -> Result<u32, Error> {
        self.check()?;
        let mut state = self.state.lock();
        self.seal(&mut state)?;
        Ok(state.next)
    }
}
