//! Small files below a root directory: the kernel's `/proc` and `/sys`, and a few of `/etc`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What is read of one file at most; the largest real one is `/proc/cpuinfo` of a machine with thousands of threads.
/// The rest of a longer file is not seen.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The directory that stands for `/`. Every path below is relative to it and has no leading slash.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether this is the running system's own root, so that what only the kernel can be asked is true of it.
    pub(crate) fn is_system(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The path that something in the tree has in the machine's own view; none if it lies outside.
    pub(crate) fn absolute(&self, path: &Path) -> Option<PathBuf> {
        let root = self.root.canonicalize().ok()?;
        Some(Path::new("/").join(path.strip_prefix(root).ok()?))
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    pub(crate) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(path)).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The trimmed text of a file, unless it is empty. Device tree files end in a NUL, which is trimmed too.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The text of a file in a buffer that is used again and again: what is sampled every second is read in this way.
    pub(crate) fn text_into<'a>(&self, path: impl AsRef<Path>, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
        buffer.clear();
        File::open(self.path(path)).ok()?.take(FILE_BYTES_MAX).read_to_end(buffer).ok()?;
        if std::str::from_utf8(buffer).is_err() {
            // Names of processes and interfaces may hold any byte; they must not hide what else is in the file.
            buffer.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        }
        std::str::from_utf8(buffer).ok()
    }

    pub(crate) fn number<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// A file that holds `0` or `1`.
    pub(crate) fn flag(&self, path: impl AsRef<Path>) -> Option<bool> {
        self.number::<u8>(path).map(|value| value != 0)
    }

    /// The sorted names in a directory; none if it cannot be read.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn link(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        fs::read_link(self.path(path)).ok()
    }

    /// The last component of what a symbolic link points to, as `master -> ../br0`.
    pub(crate) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.link(path)?.file_name()?.to_str()?.to_owned())
    }
}

/// A root directory that a test fills with the files it is about.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    pub(crate) struct Fixture {
        directory: tempfile::TempDir,
    }

    impl Fixture {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            let fixture = Self { directory: tempfile::tempdir().unwrap() };
            for (path, content) in files {
                fixture.write(path, content);
            }
            fixture
        }

        pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        }

        pub(crate) fn root(&self) -> &Path {
            self.directory.path()
        }

        pub(crate) fn tree(&self) -> Tree {
            Tree::new(self.root().to_owned())
        }
    }
}
