//! The few things that what is durable asks of a file system: the journal and the series store.
//!
//! Few, so that they can be answered by a disk that loses power, runs full and fails to flush ([`faulty`], feature `faulty`): the crash
//! tests of both run on it. It is all in one flat directory; whoever wants order among files makes it by names, renames and
//! [`Storage::sync_directory`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "faulty")]
pub mod faulty;

/// A directory. Implemented by real files and, in tests, by a disk that loses power, runs full and fails to flush.
pub trait Storage: Send + Sync {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file, in the place of one that may be there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StoredFile>>;
    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StoredFile>>;
    /// Gives a file another name, in the place of one that may have it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Those who have it open go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes what was created, renamed and removed so far durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// The name to show for a file in errors.
    fn shown(&self, name: &str) -> String;
    /// How much room there is; none where nobody knows.
    fn space(&self) -> io::Result<Option<Space>> {
        Ok(None)
    }
}

/// The room of a file system, which others may use as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes that there are in all.
    pub total_bytes: u64,
}

/// An open file.
pub trait StoredFile: Send + Sync {
    /// Its length.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset` on, as far as the file goes; how much that was.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`; after an error any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Makes what was written so far durable, and the length.
    fn sync(&self) -> io::Result<()>;
}

/// Real files in a real directory.
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, which exists.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Storage for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).to_owned();
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn space(&self) -> io::Result<Option<Space>> {
        let found = rustix::fs::statvfs(&self.path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Some(Space { free_bytes: bytes(found.f_bavail), total_bytes: bytes(found.f_blocks) }))
    }
}

impl StoredFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
