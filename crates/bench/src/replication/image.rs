//! A disk image that is made up, and its changes.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::Context;

/// What changes at once.
pub const BLOCK_BYTES: usize = 64 << 10;

const WORDS: [&str; 8] = ["journal ", "position ", "commit ", "replica ", "instance ", "block ", "site ", "link "];

/// A raw image, and how often it was changed.
pub struct Image {
    pub path: PathBuf,
    blocks: u64,
    generation: u64,
}

/// What a change was.
#[derive(Clone, Copy)]
pub struct Changed {
    pub blocks: u64,
    /// The changed blocks, each compressed by itself with zstd at level 1.
    pub zstd_bytes: u64,
}

impl Image {
    /// Writes an image of that many bytes, a multiple of [`BLOCK_BYTES`].
    pub fn create(path: PathBuf, bytes: u64) -> anyhow::Result<Self> {
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let blocks = bytes / BLOCK_BYTES as u64;
        for number in 0..blocks {
            file.write_all(&block(number, 0)).context("write the image")?;
        }
        file.sync_all()?;
        Ok(Self { path, blocks, generation: 0 })
    }

    /// Gives one in `one_in` blocks another content, in place; which ones differs from change to change.
    pub fn change(&mut self, one_in: u64) -> anyhow::Result<Changed> {
        let file = File::options().write(true).open(&self.path).context("open the image")?;
        self.change_by(one_in, |offset, content| file.write_all_at(content, offset).context("change the image"))
    }

    /// The same, with the blocks written by somebody else: `write` gets the offset and the content of each.
    pub fn change_by(
        &mut self,
        one_in: u64,
        mut write: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Changed> {
        self.generation += 1;
        let mut changed = Changed { blocks: 0, zstd_bytes: 0 };
        for group in 0..self.blocks.div_ceil(one_in) {
            let number = group * one_in + Random::new(group, self.generation).next() % one_in;
            if number >= self.blocks {
                continue;
            }
            let content = block(number, self.generation);
            write(number * BLOCK_BYTES as u64, &content)?;
            changed.blocks += 1;
            changed.zstd_bytes += zstd::bulk::compress(&content, 1)?.len() as u64;
        }
        // What is measured does not begin with writing out somebody else's pages.
        File::open(&self.path).and_then(|file| file.sync_all()).context("write out the image")?;
        Ok(changed)
    }
}

/// The content of a block: the first half random, the second text.
fn block(number: u64, generation: u64) -> Vec<u8> {
    let mut random = Random::new(number, generation);
    let mut content = Vec::with_capacity(BLOCK_BYTES + 16);
    while content.len() < BLOCK_BYTES / 2 {
        content.extend_from_slice(&random.next().to_le_bytes());
    }
    while content.len() < BLOCK_BYTES {
        let word = WORDS[(random.next() >> 61) as usize];
        content.extend_from_slice(word.as_bytes());
    }
    content.truncate(BLOCK_BYTES);
    content
}

/// Numbers that look random and are the same in every run: xorshift64*.
struct Random(u64);

impl Random {
    fn new(number: u64, generation: u64) -> Self {
        let mixed = (number << 20 ^ generation).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // A state of nothing but zeroes stays there.
        Self(mixed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_touches_one_block_in_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::create(dir.path().join("image"), 200 * BLOCK_BYTES as u64).unwrap();
        let before = std::fs::read(&image.path).unwrap();
        let changed = image.change(50).unwrap();
        let after = std::fs::read(&image.path).unwrap();
        let differing =
            before.chunks(BLOCK_BYTES).zip(after.chunks(BLOCK_BYTES)).filter(|(before, after)| before != after);
        assert_eq!((changed.blocks, differing.count()), (4, 4));
        let bytes = 4 * BLOCK_BYTES as u64;
        assert!(changed.zstd_bytes > bytes / 2 && changed.zstd_bytes < bytes * 3 / 4, "{}", changed.zstd_bytes);
    }
}
