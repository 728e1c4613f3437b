//! How files are born, read and removed.

use std::io;
use std::sync::Arc;

use crate::StoreError;
use crate::error::Corrupt;
use lockstep_storage::{Storage, StoredFile};

/// The version of all formats of the directory.
pub(crate) const FORMAT: u32 = 1;

/// Ends the name of a file that is being written; what a crash leaves of such files is removed at the next opening.
pub(crate) const UNFINISHED: &str = ".tmp";

/// Names the file and the deed in an error.
pub(crate) fn failed<'a>(
    storage: &'a dyn Storage,
    what: &'static str,
    name: &'a str,
) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| io_error(what, storage.shown(name), source)
}

pub(crate) fn io_error(what: &'static str, path: String, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
        _ => StoreError::Io { what, path, source },
    }
}

pub(crate) fn damaged(storage: &dyn Storage, name: &str, offset: u64, Corrupt(reason): Corrupt) -> StoreError {
    StoreError::Damaged { path: storage.shown(name), offset, reason }
}

pub(crate) fn missing(storage: &dyn Storage, name: &str) -> StoreError {
    damaged(storage, name, 0, Corrupt("the file is missing"))
}

/// Makes a file under its final name whose content is durable before the name is: no crash leaves a part of it.
///
/// 1. write under a name that ends in [`UNFINISHED`]; 2. flush the file; 3. rename; 4. flush the directory.
///
/// # Errors
/// [`NotPublished`] tells whether it is known that the name stands for what it stood for before.
pub(crate) fn publish(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<Arc<dyn StoredFile>, NotPublished> {
    let unfinished = format!("{name}{UNFINISHED}");
    let prepare = || {
        let file = storage.create(&unfinished).map_err(failed(storage, "cannot create", &unfinished))?;
        file.write_at(0, bytes).map_err(failed(storage, "cannot write", &unfinished))?;
        file.sync().map_err(failed(storage, "cannot flush", &unfinished))?;
        Ok(file)
    };
    let file = prepare().map_err(|error| {
        discard(storage, &unfinished);
        NotPublished::Surely(error)
    })?;
    storage
        .rename(&unfinished, name)
        .map_err(failed(storage, "cannot rename", &unfinished))
        .and_then(|()| storage.sync_directory().map_err(failed(storage, "cannot flush the directory of", name)))
        .map_err(NotPublished::Perhaps)?;
    Ok(file)
}

/// Why a file was not published.
#[derive(Debug)]
pub(crate) enum NotPublished {
    /// The name is what it was.
    Surely(StoreError),
    /// After a power loss the name may stand for the old file or the new one: nothing may be built upon either.
    Perhaps(StoreError),
}

impl From<NotPublished> for StoreError {
    fn from((NotPublished::Surely(error) | NotPublished::Perhaps(error)): NotPublished) -> Self {
        error
    }
}

/// Steps 2 and 3 of [`publish`], for a file that is written piece by piece.
pub(crate) fn finish(storage: &dyn Storage, name: &str, file: &dyn StoredFile) -> Result<(), StoreError> {
    let unfinished = format!("{name}{UNFINISHED}");
    file.sync().map_err(failed(storage, "cannot flush", &unfinished))?;
    storage.rename(&unfinished, name).map_err(failed(storage, "cannot rename", &unfinished))
}

/// Removes a file that nothing refers to. If that fails, the next opening removes it.
pub(crate) fn discard(storage: &dyn Storage, name: &str) {
    if let Err(error) = storage.remove(name) {
        tracing::debug!(%error, name, "cannot remove a file that is not needed");
    }
}

/// The whole content of a file.
pub(crate) fn read_all(storage: &dyn Storage, name: &str) -> Result<Vec<u8>, StoreError> {
    let file = storage.open(name).map_err(failed(storage, "cannot open", name))?;
    let bytes = file.bytes().map_err(failed(storage, "cannot measure", name))?;
    let mut content = vec![0; bytes as usize];
    let read = file.read_at(0, &mut content).map_err(failed(storage, "cannot read", name))?;
    content.truncate(read);
    Ok(content)
}
