//! A disk of an instance as a raw file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{DiskReader, Error};

/// Bytes that are copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// Runs that are asked for at a time.
const RUNS_MAX: usize = 1024;

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportProgress {
    /// Bytes of the disk that are done, zeroes among them.
    pub done_bytes: u64,
    /// Bytes of the disk.
    pub total_bytes: u64,
}

/// Writes a disk to a new raw file with holes for zeroes. It has its name when it is whole and durable: `PATH.partial` before.
///
/// # Errors
/// [`Error::Full`] at once when there is less room than the disk may take, and when it ends on the way; what reading meets.
pub fn export_raw(disk: &DiskReader, path: &Path, progress: &mut dyn FnMut(ExportProgress)) -> Result<(), Error> {
    let partial = path.with_added_extension("partial");
    let what = || format!("writing {}", path.display());
    let total_bytes = disk.bytes();
    let written = (|| {
        let file = File::create(&partial).map_err(Error::io(what()))?;
        file.set_len(total_bytes).map_err(Error::io(what()))?;
        let mut runs = Vec::new();
        let mut at = 0;
        while at < total_bytes {
            let some = disk.runs(at, total_bytes - at, RUNS_MAX)?;
            at = some.last().map_or(total_bytes, |run| run.offset + run.bytes);
            runs.extend(some.into_iter().filter(|run| !run.is_zero));
        }
        let needed: u64 = runs.iter().map(|run| run.bytes).sum();
        let room = rustix::fs::fstatvfs(&file).map_err(|errno| Error::io(what())(errno.into()))?;
        if room.f_bavail.saturating_mul(room.f_frsize) < needed {
            return Err(Error::Full);
        }
        let mut buffer = Vec::new();
        for run in runs {
            let end = run.offset + run.bytes;
            let mut at = run.offset;
            while at < end {
                let length = (end - at).min(COPY_BYTES);
                // At most COPY_BYTES.
                buffer.resize(length as usize, 0);
                disk.read_at(at, &mut buffer)?;
                file.write_all_at(&buffer, at).map_err(Error::io(what()))?;
                at += length;
                progress(ExportProgress { done_bytes: at, total_bytes });
            }
        }
        file.sync_all().map_err(Error::io(what()))?;
        std::fs::rename(&partial, path).map_err(Error::io(what()))?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(Error::io(what()))?;
        progress(ExportProgress { done_bytes: total_bytes, total_bytes });
        Ok(())
    })();
    if written.is_err() {
        // It may not even be there.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
