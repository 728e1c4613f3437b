//! What people copy disk images with.

use std::path::Path;

use anyhow::{Context, anyhow};
use tempfile::TempDir;

use super::ReplicationArgs;
use super::timed::{Timed, is_installed, run};
use crate::files::{bytes_below, quoted};

/// A program that copies what has changed.
#[derive(Clone, Copy, PartialEq)]
pub enum Peer {
    /// Its delta algorithm, in place, flushed.
    Rsync,
    /// In fixed pieces of 64 KiB, which suits an image better than its default, with zstd.
    Borg,
    /// With its own defaults, which are pieces cut by content and zstd.
    Restic,
}

/// A peer's directory, with the first copy in it.
pub struct Copies {
    peer: Peer,
    dir: TempDir,
}

impl Peer {
    pub const ALL: [Self; 3] = [Self::Rsync, Self::Borg, Self::Restic];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rsync => "rsync",
            Self::Borg => "borg",
            Self::Restic => "restic",
        }
    }

    /// Copies the image for the first time; nothing where the program is not installed.
    pub fn first_copy(self, image: &Path, args: &ReplicationArgs) -> anyhow::Result<Option<Copies>> {
        if !is_installed(self.name()) {
            return Ok(None);
        }
        let copies = Copies { peer: self, dir: args.fresh_dir()? };
        let repository = quoted(&copies.repository());
        let prepare = match self {
            Self::Rsync => None,
            Self::Borg => Some(format!("borg init -e none {repository}")),
            Self::Restic => Some(format!("restic -q -r {repository} init")),
        };
        if let Some(command) = prepare {
            copies.run(&command)?;
        }
        copies.copy(image, "first")?;
        Ok(Some(copies))
    }
}

impl Copies {
    fn repository(&self) -> std::path::PathBuf {
        self.dir.path().join("copies")
    }

    fn bytes(&self) -> anyhow::Result<u64> {
        match self.peer {
            // A single file, whose size says nothing of what was sent.
            Peer::Rsync => Ok(0),
            Peer::Borg | Peer::Restic => bytes_below(&self.repository()),
        }
    }

    /// Programs keep caches and state in the home directory: they get one that goes away.
    fn run(&self, command: &str) -> anyhow::Result<Timed> {
        let home = self.dir.path().to_str().ok_or_else(|| anyhow!("the directory's name is no text"))?;
        let environment = [
            ("HOME", home),
            ("XDG_CACHE_HOME", home),
            ("BORG_BASE_DIR", home),
            ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes"),
            ("RESTIC_PASSWORD", "measured"),
        ];
        run(command, &environment)
    }

    fn copy(&self, image: &Path, name: &str) -> anyhow::Result<Timed> {
        let (image, repository) = (quoted(image), quoted(&self.repository()));
        let command = match self.peer {
            Peer::Rsync => {
                format!("rsync --inplace --no-whole-file --ignore-times --fsync --stats {image} {repository}")
            }
            Peer::Borg => {
                format!("borg create --compression zstd,1 --chunker-params fixed,65536 {repository}::{name} {image}")
            }
            Peer::Restic => format!("restic -q -r {repository} backup {image}"),
        };
        self.run(&command)
    }

    /// Copies the changed image. Answers the bytes that were sent (rsync) or added to the repository.
    pub fn next_copy(self, image: &Path) -> anyhow::Result<(Timed, u64)> {
        let before = self.bytes()?;
        let timed = self.copy(image, "next")?;
        let bytes = match self.peer {
            Peer::Rsync => sent(&timed.output)?,
            Peer::Borg | Peer::Restic => self.bytes()?.saturating_sub(before),
        };
        Ok((timed, bytes))
    }
}

/// Bytes that went either way, by rsync's statistics.
fn sent(statistics: &str) -> anyhow::Result<u64> {
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = statistics.lines().find_map(|line| line.strip_prefix(name));
        let digits = line.ok_or_else(|| anyhow!("rsync does not tell {name:?}"))?.replace(',', "");
        digits.trim().parse().with_context(|| format!("{name} {digits}"))
    };
    Ok(field("Total bytes sent:")? + field("Total bytes received:")?)
}

/// One b3sum of the image, by all cores.
pub fn b3sum(image: &Path) -> anyhow::Result<Timed> {
    run(&format!("b3sum {}", quoted(image)), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rsync_sent_is_read() {
        assert_eq!(sent("x: 1\nTotal bytes sent: 42,951,302\nTotal bytes received: 1,048\n").unwrap(), 42_952_350);
        assert!(sent("").is_err());
    }
}
