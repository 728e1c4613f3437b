//! A file that only its owner may read, in place of another at once.
//!
//! The new file is made beside the old one, filled, flushed and renamed: who reads sees the one or the other, whole. It is made
//! before what goes into it is known, so that a secret that exists once is asked for only when there is a place for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// A file that is being written; forgotten when it is dropped before [`PrivateFile::finish`].
#[derive(Debug)]
pub(crate) struct PrivateFile {
    file: File,
    /// What it is called until it is finished.
    new: PathBuf,
    path: PathBuf,
    is_finished: bool,
}

impl PrivateFile {
    /// Begins the file that shall be at `path`; folders that are missing are made.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let Some(name) = path.file_name() else { return Err(io::Error::from(ErrorKind::InvalidInput)) };
        if path.is_dir() {
            return Err(io::Error::from(ErrorKind::IsADirectory));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut new = name.to_owned();
        new.push(".new");
        let new = path.with_file_name(new);
        // One that was left behind may have been opened to others.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&new)?;
        Ok(Self { file, new, path: path.to_owned(), is_finished: false })
    }

    /// Fills the file and puts it in its place.
    ///
    /// # Errors
    /// When it cannot be written; what was there before is there still.
    pub(crate) fn finish(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        fs::rename(&self.new, &self.path)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // What stays is empty, and removed by the next one.
            let _ = fs::remove_file(&self.new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_place_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/token");
        drop(PrivateFile::create(&path).unwrap());
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 0);
        PrivateFile::create(&path).unwrap().finish("one\n").unwrap();
        let second = PrivateFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        second.finish("two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(PrivateFile::create(folder.path()).is_err() && PrivateFile::create(Path::new("/")).is_err());
    }
}
