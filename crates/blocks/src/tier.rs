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
//! that object and opens the store with a new one; drafts are lost then, instances are not. So it is asked again whose the objects are
//! before any is written or removed, and a pack is never put in the place of another: a directory that was taken for lost does no harm,
//! but for what it was sending at that very moment.
//!
//! A commit that failed may have brought its instance to the object store all the same. Such a name is in doubt: before its draft goes, or
//! garbage is collected, the object is removed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use lockstep_storage::{Storage, StoredFile};
use parking_lot::Mutex;

use crate::instance::{self, read_all};
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
    /// What `owner` must say.
    own: Bytes,
    /// Instances that may be in the object store though their commits failed. Held for a look-up.
    doubtful: Mutex<BTreeSet<Name>>,
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
        let is_taken = remote.create(OWNER, own.clone()).map_err(away("taking the object store"))?;
        let tier =
            Self { remote, uploaded: Mutex::default(), uploading: Mutex::default(), own, doubtful: Mutex::default() };
        if is_taken {
            tier.begin(storage)?;
        }
        tier.check_owner()?;
        let listed = tier.remote.list().map_err(away("listing the object store"))?;
        let uploaded = listed.iter().filter_map(|(name, bytes)| Some((pack::number_of(name)?, *bytes)));
        tier.uploaded.lock().extend(uploaded);
        Ok(tier)
    }

    /// The directory has just taken the object store, where another one may have been.
    fn begin(&self, storage: &dyn Storage) -> Result<(), Error> {
        let listed = self.remote.list().map_err(away("listing the object store"))?;
        for file in storage.list().map_err(Error::io("listing the store"))? {
            let is_instance = Name::of_file(&file, instance::KIND).is_some();
            if is_instance && !listed.iter().any(|(name, _)| *name == file) {
                // Were it taken for the truth, that would be the end of the directory's instances.
                self.remote.remove(OWNER).map_err(away("leaving the object store"))?;
                let shown = storage.shown(&file);
                return Err(Error::Invalid(format!("the object store has nothing of {shown}: it is another one's")));
            }
        }
        // Footers are of packs that this directory made, and another one may have given their numbers to its own. A pack that was not
        // uploaded takes a number that is free.
        let local = storage.list().map_err(Error::io("listing the store"))?;
        let numbers = listed.iter().map(|(name, _)| name).chain(&local).filter_map(|name| pack::number_of(name));
        let mut next = numbers.max().map_or(0, |last| last + 1);
        for file in &local {
            let what = || format!("making {} ready", storage.shown(file));
            if file.starts_with("footer.") {
                storage.remove(file).map_err(Error::io(what()))?;
            } else if pack::number_of(file).is_some() && listed.iter().any(|(name, _)| name == file) {
                storage.rename(file, &pack::file_name(next)).map_err(Error::io(what()))?;
                next += 1;
            }
        }
        storage.sync_directory().map_err(Error::io("flushing the directory of the store"))
    }

    /// Whether the objects are still this directory's to change.
    fn check_owner(&self) -> Result<(), Error> {
        let found = self.remote.get(OWNER).map_err(away("asking whose the object store is"))?;
        if found.as_ref() == Some(&self.own) { Ok(()) } else { Err(Error::Locked) }
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

    /// Flushed, since a number may have been that of an older pack. A name that is lost is fetched anew.
    fn keep_footer(&self, storage: &dyn Storage, number: u32, entries: &pack::Entries) -> Result<(), Error> {
        let name = footer_name(number);
        let what = || format!("writing {}", storage.shown(&name));
        let file = storage.create(&name).map_err(Error::io(what()))?;
        file.write_at(0, &pack::footer(entries, 0)).map_err(Error::io(what()))?;
        file.sync().map_err(Error::io(what()))
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
            self.check_owner()?;
            let name = pack::file_name(*number);
            let (bytes, entries) = sealed(storage, *number)?;
            let length = bytes.len() as u64;
            self.keep_footer(storage, *number, &entries)?;
            // It may be there already: when the answer was lost, or the store was killed. Another one of that name is another directory's.
            if !self.remote.create(&name, bytes.clone()).map_err(away("uploading a pack"))?
                && self.remote.get(&name).map_err(away("comparing a pack"))? != Some(bytes)
            {
                return Err(Error::Locked);
            }
            self.uploaded.lock().insert(*number, length);
            if let Some(file) = self.file(*number) {
                moved(*number, file);
            }
            storage.remove(&name).map_err(Error::io(format!("removing {}", storage.shown(&name))))?;
        }
        Ok(())
    }

    /// Uploads the file of an instance.
    pub(crate) fn put_instance(&self, name: &Name, bytes: Bytes) -> Result<(), Error> {
        self.check_owner()?;
        self.remote.put(&name.file(instance::KIND), bytes).map_err(away("uploading an instance"))
    }

    pub(crate) fn remove_instance(&self, name: &Name) -> Result<(), Error> {
        self.check_owner()?;
        self.remote.remove(&name.file(instance::KIND)).map_err(away("removing an instance"))
    }

    /// The commit of an instance has failed, or it has not.
    pub(crate) fn doubt(&self, name: &Name, has_failed: bool) {
        let mut doubtful = self.doubtful.lock();
        if has_failed {
            doubtful.insert(name.clone());
        } else {
            doubtful.remove(name);
        }
    }

    /// Removes what a commit that failed may have left.
    pub(crate) fn settle(&self, name: &Name) -> Result<(), Error> {
        if self.doubtful.lock().contains(name) {
            self.remove_instance(name)?;
            self.doubtful.lock().remove(name);
        }
        Ok(())
    }

    pub(crate) fn settle_all(&self) -> Result<(), Error> {
        let doubtful = self.doubtful.lock().clone();
        doubtful.iter().try_for_each(|name| self.settle(name))
    }

    /// Brings the files of instances that the directory lacks, and drops those that the object store lacks.
    pub(crate) fn fetch_instances(&self, storage: &dyn Storage) -> Result<(), Error> {
        let listed = self.remote.list().map_err(away("listing the object store"))?;
        let local = storage.list().map_err(Error::io("listing the store"))?;
        let is_instance = |file: &String| Name::of_file(file, instance::KIND).is_some();
        for file in listed.iter().map(|(name, _)| name).filter(|file| is_instance(file) && !local.contains(file)) {
            let Some(bytes) = self.remote.get(file).map_err(away("fetching an instance"))? else { continue };
            let what = || format!("writing {}", storage.shown(file));
            // Whole or not at all, as it is written here.
            let temporary = format!("writing{}", file.trim_start_matches(instance::KIND));
            let made = storage.create(&temporary).map_err(Error::io(what()))?;
            made.write_at(0, &bytes).map_err(Error::io(what()))?;
            made.sync().map_err(Error::io(what()))?;
            storage.rename(&temporary, file).map_err(Error::io(what()))?;
        }
        for file in local.iter().filter(|file| is_instance(file) && !listed.iter().any(|(name, _)| name == *file)) {
            storage.remove(file).map_err(Error::io(format!("removing {file}")))?;
        }
        storage.sync_directory().map_err(Error::io("flushing the store's directory"))
    }

    /// Removes an uploaded pack.
    pub(crate) fn remove_pack(&self, storage: &dyn Storage, number: u32) -> Result<(), Error> {
        self.check_owner()?;
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

/// A sealed pack of the directory, with its footer, and what it has.
fn sealed(storage: &dyn Storage, number: u32) -> Result<(Bytes, pack::Entries), Error> {
    let name = pack::file_name(number);
    let what = || format!("reading {}", storage.shown(&name));
    let file = pack::open(storage, number)?;
    let mut bytes = read_all(storage, &name)?;
    if let Some(entries) = pack::read_footer(&*file, number).map_err(Error::io(what()))? {
        return Ok((bytes.into(), entries));
    }
    // Its footer found no room on the disk.
    let (entries, end) = pack::read_records(&*file, number).map_err(Error::io(what()))?;
    bytes.truncate(end as usize);
    bytes.extend_from_slice(&pack::footer(&entries, end));
    Ok((bytes.into(), entries))
}

fn random_name() -> Result<Vec<u8>, Error> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Invalid(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
}
