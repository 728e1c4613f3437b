//! What the tests share: a small disk, blocks that do not compress, and instances made of them.

use std::time::{Duration, Instant};

use lockstep_blocks::format::{encode_leaf, hash_of, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Block, DiskSize, Draft, Error, Hash, Name, Store};
use lockstep_storage::faulty::Random;

pub const BLOCKS: u32 = 300;
pub const DISK: DiskSize = DiskSize { key: 2000, bytes: BLOCKS as u64 * BLOCK_BYTES as u64 };

/// How long something that comes soon is waited for, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn name(instance: &str) -> Name {
    Name::new("r", instance).unwrap()
}

/// A block that does not compress.
pub fn content(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..BLOCK_BYTES / 8).flat_map(|_| random.number().to_le_bytes()).collect()
}

/// The map of a disk that begins with these contents.
pub fn map(seeds: &[u64]) -> Vec<Option<Hash>> {
    let mut map: Vec<_> = seeds.iter().map(|seed| Some(hash_of(&content(*seed)))).collect();
    map.resize(BLOCKS as usize, None);
    map
}

/// The root of an instance whose one disk has this map, of one leaf.
pub fn root(map: &[Option<Hash>]) -> Hash {
    root_hash([(DISK.key, DISK.bytes, &[hash_of(&encode_leaf(map))][..])])
}

/// Begins a draft, and puts these contents in its first blocks.
pub fn draft(store: &Store, instance: &str, seeds: &[u64]) -> Result<Draft, Error> {
    let draft = store.begin(&name(instance), None, &[DISK])?;
    for (number, seed) in (0..).zip(seeds) {
        let block = Block::of_plain(&content(*seed));
        let hash = block.hash;
        draft.put(&[block])?;
        draft.set(DISK.key, &[(number, Some(hash))])?;
    }
    draft.flush()?;
    Ok(draft)
}

/// Commits an instance with these contents in its first blocks.
pub fn commit(store: &Store, instance: &str, seeds: &[u64]) -> Result<(), Error> {
    draft(store, instance, seeds)?.commit(&root(&map(seeds)), 1).map(drop)
}

pub fn read(store: &Store, instance: &str, number: u64) -> Result<Vec<u8>, Error> {
    let mut found = vec![0; BLOCK_BYTES];
    store.open_disk(&name(instance), DISK.key)?.read_at(number * BLOCK_BYTES as u64, &mut found)?;
    Ok(found)
}

pub fn check(store: &Store, instance: &str, seeds: &[u64]) {
    for (number, seed) in (0..).zip(seeds) {
        assert!(read(store, instance, number).unwrap() == content(*seed), "block {number} of {instance}");
    }
}

/// Waits until something is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
