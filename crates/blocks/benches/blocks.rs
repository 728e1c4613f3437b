//! How fast the store takes blocks, commits, looks up and reads, beside what the disk does with the same bytes.
//!
//! `cargo bench -p lockstep-blocks`; the directory is made under `TMPDIR`, which should be the disk in question.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_blocks::format::{encode_leaf, hash_of, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Block, DiskSize, Hash, LEAF_BLOCKS, Name, Store};

const MIB: f64 = (1 << 20) as f64;

/// Blocks between two flushes: 16 MiB.
const BATCH_BLOCKS: usize = 256;

/// Blocks that are put: 512 MiB.
const PUT_BLOCKS: usize = 8192;

/// A disk of 4 GiB.
const DISK: DiskSize = DiskSize { key: 2000, bytes: 4 << 30 };

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let blocks = putting(directory.path())?;
    reading(directory.path(), blocks)?;
    committing(directory.path())
}

/// A block that does not compress, told by a number.
fn random_block(seed: u64) -> Vec<u8> {
    let mut content = vec![0; BLOCK_BYTES];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

/// A block that compresses well, told by a number.
fn small_block(seed: u64) -> Block {
    Block::of_plain(&seed.to_le_bytes().repeat(BLOCK_BYTES / 8))
}

fn told(what: &str, bytes: usize, took: Duration) {
    println!("{what:<64} {:>8.0} MiB/s {:>9.3} s", bytes as f64 / MIB / took.as_secs_f64(), took.as_secs_f64());
}

fn name(instance: &str) -> Result<Name> {
    Ok(Name::new("bench", instance).ok_or("a name")?)
}

fn root(map: &[Option<Hash>]) -> Hash {
    let leaves: Vec<Hash> = map.chunks(LEAF_BLOCKS as usize).map(|leaf| hash_of(&encode_leaf(leaf))).collect();
    root_hash([(DISK.key, DISK.bytes, &*leaves)])
}

/// Puts blocks, beside a plain file of the same bytes. In turns, since a disk is not as fast at all times.
fn putting(directory: &Path) -> Result<Vec<Hash>> {
    let store = Store::open(&directory.join("put"))?;
    let draft = store.begin(&name("put")?, None, &[DISK])?;
    let mut file = File::create(directory.join("plain"))?;
    let (mut plain, mut put, mut made) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut hashes = Vec::new();
    for first in (0..PUT_BLOCKS).step_by(BATCH_BLOCKS) {
        let contents: Vec<Vec<u8>> = (first..first + BATCH_BLOCKS).map(|seed| random_block(seed as u64)).collect();
        let begun = Instant::now();
        contents.iter().try_for_each(|content| file.write_all(content))?;
        file.sync_data()?;
        plain += begun.elapsed();

        let begun = Instant::now();
        let blocks: Vec<Block> = contents.iter().map(|content| Block::of_plain(content)).collect();
        made += begun.elapsed();

        let begun = Instant::now();
        draft.put(&blocks)?;
        let entries: Vec<_> = (first as u32..).zip(blocks.iter().map(|block| Some(block.hash))).collect();
        draft.set(DISK.key, &entries)?;
        draft.flush()?;
        put += begun.elapsed();
        hashes.extend(blocks.iter().map(|block| block.hash));
    }
    let bytes = PUT_BLOCKS * BLOCK_BYTES;
    told("plain: write and flush, 16 MiB each", bytes, plain);
    told("store: put, set and flush, 16 MiB each", bytes, put);
    told("       hashing and trying to compress them, one core", bytes, made);
    println!("{:<64} {:>8.0} %", "store beside plain", 100.0 * plain.as_secs_f64() / put.as_secs_f64());

    let begun = Instant::now();
    let there = draft.have(&hashes)?.into_iter().filter(|is_there| *is_there).count();
    let took = begun.elapsed();
    println!("{:<64} {:>8.0} a ms ({there} there)", "have", hashes.len() as f64 / took.as_secs_f64() / 1000.0);

    let mut map: Vec<Option<Hash>> = hashes.iter().copied().map(Some).collect();
    map.resize((DISK.bytes / BLOCK_BYTES as u64) as usize, None);
    draft.commit(&root(&map), 1)?;
    Ok(hashes)
}

/// Reads what was put, from the page cache, as the plain file beside it.
fn reading(directory: &Path, hashes: Vec<Hash>) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let store = Store::open(&directory.join("put"))?;
    let disk = store.open_disk(&name("put")?, DISK.key)?;
    let file = File::open(directory.join("plain"))?;
    let bytes = hashes.len() * BLOCK_BYTES;
    for (what, length) in [("1 MiB", 1 << 20), ("64 KiB", BLOCK_BYTES), ("4 KiB", 4096)] {
        let mut buffer = vec![0; length];
        let begun = Instant::now();
        for at in (0..bytes).step_by(length) {
            file.read_exact_at(&mut buffer, at as u64)?;
        }
        let plain = begun.elapsed();
        let begun = Instant::now();
        for at in (0..bytes).step_by(length) {
            disk.read_at(at as u64, &mut buffer)?;
        }
        told(&format!("plain: read in sequence, {what} each, cached"), bytes, plain);
        told(&format!("store: read in sequence, {what} each, cached, checked"), bytes, begun.elapsed());
    }
    Ok(())
}

/// A disk of 4 GiB, whose blocks are small when stored, so that it is the map that counts; then 1 % of it changes.
fn committing(directory: &Path) -> Result<()> {
    let store = Store::open(&directory.join("commit"))?;
    let count = (DISK.bytes / BLOCK_BYTES as u64) as u32;
    let draft = store.begin(&name("base")?, None, &[DISK])?;
    let mut map = vec![None; count as usize];
    for first in (0..count).step_by(LEAF_BLOCKS as usize) {
        let blocks: Vec<Block> =
            (first..first + LEAF_BLOCKS).map(|number| small_block(u64::from(number) + 1)).collect();
        draft.put(&blocks)?;
        let entries: Vec<_> = (first..).zip(blocks.iter().map(|block| Some(block.hash))).collect();
        entries.iter().for_each(|(number, hash)| map[*number as usize] = *hash);
        draft.set(DISK.key, &entries)?;
    }
    draft.flush()?;
    let expected = root(&map);
    let begun = Instant::now();
    draft.commit(&expected, 1)?;
    println!("{:<64} {:>8.1} ms", "commit: 4 GiB, all of it new", begun.elapsed().as_secs_f64() * 1000.0);

    let draft = store.begin(&name("changed")?, Some(&name("base")?), &[DISK])?;
    let changed: Vec<u32> = (0..count).step_by(100).collect();
    let blocks: Vec<Block> = changed.iter().map(|number| small_block(u64::from(*number) + 1_000_000)).collect();
    let entries: Vec<_> = changed.iter().copied().zip(blocks.iter().map(|block| Some(block.hash))).collect();
    entries.iter().for_each(|(number, hash)| map[*number as usize] = *hash);
    let expected = root(&map);
    let begun = Instant::now();
    draft.put(&blocks)?;
    draft.set(DISK.key, &entries)?;
    draft.flush()?;
    let flushed = begun.elapsed();
    draft.commit(&expected, 2)?;
    println!("{:<64} {:>8.1} ms", "put, set and flush 1 % of it", flushed.as_secs_f64() * 1000.0);
    let took = begun.elapsed() - flushed;
    println!("{:<64} {:>8.1} ms", "commit: 4 GiB, 1 % of it changed, all 16 leaves", took.as_secs_f64() * 1000.0);

    let begun = Instant::now();
    let collected = store.collect_garbage()?;
    println!("{:<64} {:>8.1} ms, {} packs", "collect garbage", begun.elapsed().as_secs_f64() * 1000.0, collected.packs);
    drop((draft, store));
    let begun = Instant::now();
    let store = Store::open(&directory.join("commit"))?;
    let (took, blocks) = (begun.elapsed().as_secs_f64() * 1000.0, store.figures().blocks);
    println!("{:<64} {took:>8.1} ms, {blocks} blocks", "open");
    Ok(())
}
