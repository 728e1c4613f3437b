//! Which files are where, when a store has an object store besides its directory.
//!
//! The directory is where packs are written and drafts are kept. Before an instance counts as committed, the packs that were not yet uploaded
//! are, and its own file is; after that a pack's file is removed, and its footer kept, so that opening need not fetch it.
//!
//! ```text
//!   pack.<n>        directory ── uploaded ──► object;   footer.<n> in the directory
//!   instance.<…>    object, and a copy in the directory
//!   draft.<…>       directory
//!   owner           object: which directory writes here
//! ```
//! One directory writes to a bucket's prefix: the first that came, as `owner` says. Another is refused. Whoever has lost the directory removes
//! that object and opens the store with a new one; drafts are lost then, instances are not.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_storage::{Storage, StoredFile};
use parking_lot::Mutex;

use crate::instance::read_all;
use crate::pack;
use crate::remote::{Remote, RemoteFile};
use crate::{Error, Name};

/// The object that says who writes, and the file that says who this is.
const OWNER: &str = "owner";

/// The object store of a store.
pub(crate) struct Tier {
    remote: Arc<dyn Remote>,
    /// Packs that are uploaded, and their lengths. Held for a look-up.
    uploaded: Mutex<HashMap<u32, u64>>,
    /// Held by the one upload of packs that is under way.
    uploading: Mutex<()>,
}

fn footer_name(number: u32) -> String {
    format!("footer.{number:08x}")
}

fn away(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Away { what, source }
}

impl Tier {
    /// Opens the object store, and takes it for this directory.
    pub(crate) fn open(remote: Arc<dyn Remote>, storage: &dyn Storage) -> Result<Self, Error> {
        let own = match storage.list().map_err(Error::io("listing the store"))?.iter().any(|file| file == OWNER) {
            true => read_all(storage, OWNER)?,
            false => {
                let own = random_name()?;
                let what = || format!("making {}", storage.shown(OWNER));
                let file = storage.create(OWNER).map_err(Error::io(what()))?;
                file.write_at(0, &own).map_err(Error::io(what()))?;
                file.sync().map_err(Error::io(what()))?;
                storage.sync_directory().map_err(Error::io(what()))?;
                own
            }
        };
        let own = Bytes::from(own);
        if !remote.create(OWNER, own.clone()).map_err(away("taking the object store"))? {
            let found = remote.get(OWNER).map_err(away("asking whose the object store is"))?;
            if found != Some(own) {
                return Err(Error::Locked);
            }
        }
        let listed = remote.list().map_err(away("listing the object store"))?;
        let uploaded = listed.iter().filter_map(|(name, bytes)| Some((pack::number_of(name)?, *bytes))).collect();
        Ok(Self { remote, uploaded: Mutex::new(uploaded), uploading: Mutex::new(()) })
    }

    /// The numbers of the packs that are uploaded.
    pub(crate) fn packs(&self) -> Vec<u32> {
        self.uploaded.lock().keys().copied().collect()
    }

    /// A pack that is uploaded, as a file.
    pub(crate) fn file(&self, number: u32) -> Option<Arc<dyn StoredFile>> {
        let bytes = *self.uploaded.lock().get(&number)?;
        Some(Arc::new(RemoteFile::new(self.remote.clone(), pack::file_name(number), bytes)))
    }

    /// What an uploaded pack has: by the footer in the directory, or else by the object.
    pub(crate) fn entries(&self, storage: &dyn Storage, number: u32) -> Result<pack::Entries, Error> {
        let name = footer_name(number);
        let local = storage.open(&name).ok().and_then(|file| pack::read_footer_alone(&*file, number).ok().flatten());
        if let Some(entries) = local {
            return Ok(entries);
        }
        let file = self.file(number).ok_or(Error::Damaged { what: name })?;
        let found = pack::read_footer(&*file, number).map_err(away("reading a pack's footer"))?;
        let entries = found.ok_or_else(|| Error::Damaged { what: format!("object {}", pack::file_name(number)) })?;
        self.keep_footer(storage, number, &entries)?;
        Ok(entries)
    }

    /// A torn one is fetched anew, so it need not be flushed.
    fn keep_footer(&self, storage: &dyn Storage, number: u32, entries: &pack::Entries) -> Result<(), Error> {
        let name = footer_name(number);
        let what = || format!("writing {}", storage.shown(&name));
        let file = storage.create(&name).map_err(Error::io(what()))?;
        file.write_at(0, &pack::footer(entries, 0)).map_err(Error::io(what()))
    }

    /// Uploads sealed packs of the directory. `moved` is told of each, with the file that it is now; then its own is removed.
    pub(crate) fn upload(
        &self,
        storage: &dyn Storage,
        packs: &[u32],
        mut moved: impl FnMut(u32, Arc<dyn StoredFile>),
    ) -> Result<(), Error> {
        let _one_at_a_time = self.uploading.lock();
        for number in packs {
            if self.uploaded.lock().contains_key(number) {
                continue;
            }
            let name = pack::file_name(*number);
            let bytes = Bytes::from(read_all(storage, &name)?);
            let length = bytes.len() as u64;
            let file = pack::open(storage, *number)?;
            let what = || format!("reading {}", storage.shown(&name));
            let Some(entries) = pack::read_footer(&*file, *number).map_err(Error::io(what()))? else {
                return Err(Error::Damaged { what: storage.shown(&name) });
            };
            self.remote.put(&name, bytes).map_err(away("uploading a pack"))?;
            self.keep_footer(storage, *number, &entries)?;
            self.uploaded.lock().insert(*number, length);
            if let Some(file) = self.file(*number) {
                moved(*number, file);
            }
            storage.remove(&name).map_err(Error::io(format!("removing {}", storage.shown(&name))))?;
        }
        Ok(())
    }

    /// Uploads the file of an instance.
    pub(crate) fn put_instance(&self, file: &str, bytes: Bytes) -> Result<(), Error> {
        self.remote.put(file, bytes).map_err(away("uploading an instance"))
    }

    pub(crate) fn remove_instance(&self, file: &str) -> Result<(), Error> {
        self.remote.remove(file).map_err(away("removing an instance"))
    }

    /// Brings the files of instances that the directory lacks, and drops those that the object store lacks.
    pub(crate) fn fetch_instances(&self, storage: &dyn Storage, kind: &str) -> Result<(), Error> {
        let listed = self.remote.list().map_err(away("listing the object store"))?;
        let local = storage.list().map_err(Error::io("listing the store"))?;
        let is_instance = |file: &String| Name::of_file(file, kind).is_some();
        for file in listed.iter().map(|(name, _)| name).filter(|file| is_instance(file) && !local.contains(file)) {
            let Some(bytes) = self.remote.get(file).map_err(away("fetching an instance"))? else { continue };
            let what = || format!("writing {}", storage.shown(file));
            let made = storage.create(file).map_err(Error::io(what()))?;
            made.write_at(0, &bytes).map_err(Error::io(what()))?;
            made.sync().map_err(Error::io(what()))?;
        }
        for file in local.iter().filter(|file| is_instance(file) && !listed.iter().any(|(name, _)| name == *file)) {
            storage.remove(file).map_err(Error::io(format!("removing {file}")))?;
        }
        storage.sync_directory().map_err(Error::io("flushing the store's directory"))
    }

    /// Removes an uploaded pack.
    pub(crate) fn remove_pack(&self, storage: &dyn Storage, number: u32) -> Result<(), Error> {
        self.remote.remove(&pack::file_name(number)).map_err(away("removing a pack"))?;
        self.uploaded.lock().remove(&number);
        // One that stays is of a pack that is not listed any more.
        let _ = storage.remove(&footer_name(number));
        Ok(())
    }

    /// Whether a pack is uploaded.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.uploaded.lock().contains_key(&number)
    }
}

fn random_name() -> Result<Vec<u8>, Error> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Invalid(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
}
