//! The store against a simple model: instances are their bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_blocks::format::{block_count, encode_leaf, hash_of, leaf_blocks, leaf_count, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Block, DiskSize, Draft, Error, Hash, LEAF_BLOCKS, Name, Store};
use lockstep_storage::faulty::{Disk, Random};
use proptest::prelude::*;

/// The disks of a test: one of two leaves and a bit, and one that ends within a block.
const DISKS: [DiskSize; 2] = [
    DiskSize { key: 2000, bytes: (2 * LEAF_BLOCKS as u64 + 3) * BLOCK_BYTES as u64 },
    DiskSize { key: 2001, bytes: 70_144 },
];

/// What a disk holds: blocks by number; others are zeroes. A block is a number that its content follows from.
type Content = BTreeMap<(u32, u32), u64>;

fn bytes_of(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> = (0..16).flat_map(|_| random.number().to_le_bytes()).collect();
    bytes.resize(length, seed as u8);
    bytes
}

fn block_length(disk: DiskSize, number: u32) -> usize {
    (disk.bytes - u64::from(number) * BLOCK_BYTES as u64).min(BLOCK_BYTES as u64) as usize
}

fn block_of(disk: DiskSize, number: u32, seed: u64) -> Block {
    Block::of_plain(&bytes_of(seed, block_length(disk, number)))
}

/// The root by the formats alone.
fn root_of(content: &Content) -> Hash {
    let leaves: Vec<(u32, u64, Vec<Hash>)> = DISKS
        .iter()
        .map(|disk| {
            let blocks = block_count(disk.bytes);
            let leaf = |number: u32| {
                let entry = |at: u32| {
                    let number = number * LEAF_BLOCKS + at;
                    content.get(&(disk.key, number)).map(|seed| block_of(*disk, number, *seed).hash)
                };
                hash_of(&encode_leaf(&(0..leaf_blocks(blocks, number)).map(entry).collect::<Vec<_>>()))
            };
            (disk.key, disk.bytes, (0..leaf_count(blocks)).map(leaf).collect())
        })
        .collect();
    root_hash(leaves.iter().map(|(key, bytes, leaves)| (*key, *bytes, &**leaves)))
}

fn check(store: &Store, name: &Name, content: &Content) {
    let instance = store.instance(name).unwrap();
    assert_eq!(instance.root, root_of(content), "{name}");
    for disk in DISKS {
        let reader = store.open_disk(name, disk.key).unwrap();
        for ((_, number), seed) in content.iter().filter(|((key, _), _)| *key == disk.key) {
            let length = block_length(disk, *number);
            let mut found = vec![1; length];
            reader.read_at(u64::from(*number) * BLOCK_BYTES as u64, &mut found).unwrap();
            assert!(found == bytes_of(*seed, length), "block {number} of {} of {name}", disk.key);
        }
        let runs = reader.runs(0, disk.bytes, usize::MAX).unwrap();
        let data: u64 = runs.iter().filter(|run| !run.is_zero).map(|run| run.bytes).sum();
        let expected: usize =
            content.keys().filter(|(key, _)| *key == disk.key).map(|(_, number)| block_length(disk, *number)).sum();
        assert_eq!(data, expected as u64);
        assert_eq!(runs.iter().map(|run| run.bytes).sum::<u64>(), disk.bytes);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Begins a draft as the newest instance, or as zeroes.
    Begin {
        from_newest: bool,
    },
    /// Writes blocks of a few contents, so that many are the same; `None` are zeroes.
    Write {
        blocks: Vec<(bool, u32, Option<u8>)>,
        flushes: bool,
    },
    Commit,
    Abandon,
    Remove {
        which: u8,
    },
    Collect,
    Reopen,
    LosePower {
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = prop_oneof![0u32..6, 4094..4100u32, 8190..8195u32];
    let block = (any::<bool>(), number, proptest::option::weighted(0.8, 0u8..12));
    prop_oneof![
        2 => any::<bool>().prop_map(|from_newest| Step::Begin { from_newest }),
        6 => (proptest::collection::vec(block, 1..12), any::<bool>()).prop_map(|(blocks, flushes)| Step::Write { blocks, flushes }),
        3 => Just(Step::Commit),
        1 => Just(Step::Abandon),
        1 => any::<u8>().prop_map(|which| Step::Remove { which }),
        2 => Just(Step::Collect),
        1 => Just(Step::Reopen),
        2 => any::<u64>().prop_map(|seed| Step::LosePower { seed }),
    ]
}

/// A draft and what it holds: now, and when it was last flushed.
struct Making {
    draft: Draft,
    now: Content,
}

fn run(steps: Vec<Step>) {
    let mut disk = Disk::default();
    let mut store = Store::open_storage(Arc::new(disk.clone()), None).unwrap();
    let mut instances: Vec<(Name, Content)> = Vec::new();
    let mut making: Option<Making> = None;
    let mut count = 0;
    for step in steps {
        match step {
            Step::Begin { from_newest } => {
                count += 1;
                let name = Name::new("r", &format!("i{count}")).unwrap();
                let base = instances.last().filter(|_| from_newest);
                let draft = store.begin(&name, base.map(|(name, _)| name), &DISKS).unwrap();
                making = Some(Making { draft, now: base.map(|(_, content)| content.clone()).unwrap_or_default() });
            }
            Step::Write { blocks, flushes } => {
                let Some(making) = &mut making else { continue };
                for (is_second, number, seed) in blocks {
                    let size = if is_second { DISKS[1] } else { DISKS[0] };
                    let number = number % block_count(size.bytes);
                    let seed = seed.map(u64::from);
                    if let Some(seed) = seed {
                        let block = block_of(size, number, seed);
                        // Found, or put: either way it stays.
                        if !making.draft.have(&[block.hash]).unwrap()[0] {
                            making.draft.put(&[block]).unwrap();
                        }
                    }
                    let hash = seed.map(|seed| block_of(size, number, seed).hash);
                    making.draft.set(size.key, &[(number, hash)]).unwrap();
                    match seed {
                        Some(seed) => drop(making.now.insert((size.key, number), seed)),
                        None => drop(making.now.remove(&(size.key, number))),
                    }
                }
                if flushes {
                    making.draft.flush().unwrap();
                }
            }
            Step::Commit => {
                let Some(Making { draft, now }) = making.take() else { continue };
                let wrong = draft.commit(&[1; 32], 5).unwrap_err();
                assert!(matches!(wrong, Error::RootDiffers { .. }), "{wrong}");
                draft.commit(&root_of(&now), 5).unwrap();
                instances.push((draft.name().clone(), now));
            }
            Step::Abandon => {
                if let Some(making) = making.take() {
                    making.draft.abandon().unwrap();
                    assert!(making.draft.have(&[]).is_err());
                }
            }
            Step::Remove { which } => {
                if !instances.is_empty() {
                    let (name, _) = instances.remove(usize::from(which) % instances.len());
                    store.remove(&name).unwrap();
                }
            }
            Step::Collect => {
                store.collect_garbage().unwrap();
            }
            Step::Reopen | Step::LosePower { .. } => {
                let is_clean = matches!(step, Step::Reopen);
                if let (true, Some(making)) = (is_clean, &making) {
                    making.draft.flush().unwrap();
                }
                let name = making.as_ref().map(|making| making.draft.name().clone());
                drop(store);
                if let Step::LosePower { seed } = step {
                    disk = disk.after_power_loss(&mut Random::new(seed));
                }
                store = Store::open_storage(Arc::new(disk.clone()), None).unwrap();
                // What was flushed of a draft is there; what was not may be, so after a loss of power a new one begins.
                making = match (name, making) {
                    (Some(name), Some(before)) if is_clean => {
                        let draft = store.draft(&name).unwrap().unwrap();
                        Some(Making { draft, now: before.now })
                    }
                    _ => None,
                };
            }
        }
        for (name, content) in &instances {
            check(&store, name, content);
        }
        assert_eq!(store.instances("r").len(), instances.len());
    }
    let verified = store.verify(&mut |_, _| {}).unwrap();
    assert!(verified.damages.is_empty() && verified.damaged_instances.is_empty(), "{verified:?}");
    // With nothing left that needs anything, nothing is left.
    for name in instances.iter().map(|(name, _)| name) {
        store.remove(name).unwrap();
    }
    for name in store.drafts("r") {
        store.draft(&name).unwrap().unwrap().abandon().unwrap();
    }
    store.collect_garbage().unwrap();
    assert_eq!(store.figures().blocks, 0, "{:?}", store.figures());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn instances_are_what_was_committed_whatever_happens(steps in proptest::collection::vec(step(), 1..60)) {
        run(steps);
    }
}

/// Three instances, one removed, garbage collected: all that changes files. Ends at the first error, as the power has gone.
fn work(disk: &Disk, committed: &mut Vec<(Name, Content)>) -> Result<(), Error> {
    let store = Store::open_storage(Arc::new(disk.clone()), None)?;
    let mut content = Content::new();
    for round in 0..3u32 {
        let name = Name::new("r", &format!("i{round}")).unwrap();
        let draft = store.begin(&name, committed.last().map(|(name, _)| name), &DISKS)?;
        for number in [round, 4095 + round, 8190 + round] {
            let seed = u64::from(round * 10 + number % 3);
            let block = block_of(DISKS[0], number, seed);
            let hash = block.hash;
            draft.put(&[block])?;
            draft.set(2000, &[(number, Some(hash))])?;
            draft.flush()?;
            content.insert((2000, number), seed);
        }
        // Acknowledged or not: were it to be there, this is what it must be.
        committed.push((name.clone(), content.clone()));
        draft.commit(&root_of(&content), 7)?;
    }
    // From now on it may be there or not.
    let (removed, _) = committed.remove(1);
    store.remove(&removed)?;
    store.collect_garbage()?;
    // Enough that a pack holds little that is needed.
    let name = Name::new("r", "last").unwrap();
    let draft = store.begin(&name, None, &DISKS)?;
    committed.push((name, Content::new()));
    draft.commit(&root_of(&Content::new()), 8)?;
    let (removed, _) = committed.remove(0);
    store.remove(&removed)?;
    store.collect_garbage()?;
    Ok(())
}

#[test]
fn power_lost_anywhere_leaves_whole_instances() {
    for calls in 1..1000 {
        let (disk, mut committed) = (Disk::default(), Vec::new());
        disk.power_off_after(calls);
        let outcome = work(&disk, &mut committed);
        for seed in 0..4 {
            let after = disk.after_power_loss(&mut Random::new(seed));
            let store = Store::open_storage(Arc::new(after), None).unwrap();
            let there = store.instances("r");
            // All but the last one were acknowledged before the power went.
            let acknowledged = committed.len().saturating_sub(usize::from(outcome.is_err()));
            for (name, content) in &committed[..acknowledged] {
                check(&store, name, content);
            }
            for instance in &there {
                if let Some((name, content)) = committed.iter().find(|(name, _)| *name == instance.name) {
                    check(&store, name, content);
                }
            }
            let verified = store.verify(&mut |_, _| {}).unwrap();
            assert!(verified.damages.is_empty() && verified.damaged_instances.is_empty(), "{calls}: {verified:?}");
            store.collect_garbage().unwrap();
            let verified = store.verify(&mut |_, _| {}).unwrap();
            assert!(verified.damages.is_empty(), "{calls}, after a collection: {verified:?}");
        }
        if outcome.is_ok() {
            return;
        }
    }
    panic!("the work does not end");
}
