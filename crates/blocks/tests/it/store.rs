//! The store in a real directory: damage, full disks, readers, several at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_blocks::format::{encode_leaf, hash_of, leaf_blocks, leaf_count, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Block, DiskSize, Error, Hash, LEAF_BLOCKS, Rule, Store, export_raw};
use lockstep_storage::faulty::Disk;

use crate::harness::{BLOCKS, DISK, commit, content, draft, map, name, read, root, wait_until};

fn packs(directory: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("pack.")).collect()
}

#[test]
fn a_flipped_bit_is_found_named_and_healed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    commit(&store, "a", &[1, 2, 3]).unwrap();
    commit(&store, "b", &[2]).unwrap();
    drop(store);
    let [pack] = &packs(directory.path())[..] else { panic!("one pack was expected") };
    let mut bytes = std::fs::read(pack).unwrap();
    let start = &content(2)[..64];
    let at = bytes.windows(64).position(|window| window == start).unwrap();
    bytes[at + 5000] ^= 1;
    std::fs::write(pack, &bytes).unwrap();

    let store = Store::open(directory.path()).unwrap();
    assert_eq!(read(&store, "a", 0).unwrap(), content(1));
    let error = read(&store, "a", 1).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let verified = store.verify(&mut |_, _| {}).unwrap();
    let [damage] = &verified.damages[..] else { panic!("{verified:?}") };
    assert_eq!(damage.hash, hash_of(&content(2)));
    assert_eq!(damage.concerns, [(name("a"), 2000, 1), (name("b"), 2000, 0)]);
    let told = damage.to_string();
    assert!(
        told.contains("pack.00000000 is damaged; block 1 of disk 2000 of instance a of r and 1 other places"),
        "{told}"
    );

    // It counts as missing, so a source brings it again.
    let draft = store.begin(&name("c"), None, &[DISK]).unwrap();
    let block = Block::of_plain(&content(2));
    assert_eq!(draft.have(&[block.hash]).unwrap(), [false]);
    draft.put(&[block]).unwrap();
    draft.flush().unwrap();
    assert_eq!(read(&store, "a", 1).unwrap(), content(2));
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().damages, []);
}

#[test]
fn damage_in_the_pack_that_was_being_written_costs_nothing_else() {
    let disk = Disk::default();
    let store = Store::open_storage(Arc::new(disk.clone()), None).unwrap();
    commit(&store, "a", &[1, 2, 3]).unwrap();
    let killed = disk.after_kill();
    killed.tamper("pack.00000000", |bytes| {
        let start = &content(2)[..64];
        let at = bytes.windows(64).position(|window| window == start).unwrap();
        bytes[at] ^= 1;
    });
    let store = Store::open_storage(Arc::new(killed), None).unwrap();
    assert_eq!((read(&store, "a", 0).unwrap(), read(&store, "a", 2).unwrap()), (content(1), content(3)));
    let verified = store.verify(&mut |_, _| {}).unwrap();
    let [damage] = &verified.damages[..] else { panic!("{verified:?}") };
    assert_eq!((damage.hash, &damage.concerns[..]), (hash_of(&content(2)), &[(name("a"), 2000, 1)][..]));
}

#[test]
fn a_full_disk_leaves_what_was_there_and_the_draft_goes_on() {
    let disk = Disk::default();
    let store = Store::open_storage(Arc::new(disk.clone()), None).unwrap();
    commit(&store, "a", &[1, 2]).unwrap();
    let draft = store.begin(&name("b"), None, &[DISK]).unwrap();
    disk.set_space(Some(100_000));
    let blocks: Vec<Block> = (10..20).map(|seed| Block::of_plain(&content(seed))).collect();
    assert!(matches!(draft.put(&blocks), Err(Error::Full)));
    assert!(matches!(commit(&store, "c", &[30, 31]), Err(Error::Full)));
    assert_eq!(store.instances("r").len(), 1);
    assert_eq!(read(&store, "a", 1).unwrap(), content(2));
    disk.set_space(None);
    draft.put(&blocks).unwrap();
    let mut map = vec![None; BLOCKS as usize];
    map[7] = Some(blocks[9].hash);
    draft.set(2000, &[(7, map[7])]).unwrap();
    draft.commit(&root(&map), 1).unwrap();
    assert_eq!(read(&store, "b", 7).unwrap(), content(19));
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().damages, []);
}

#[test]
fn after_a_failed_flush_nothing_is_accepted() {
    let disk = Disk::default();
    let store = Store::open_storage(Arc::new(disk.clone()), None).unwrap();
    let draft = store.begin(&name("a"), None, &[DISK]).unwrap();
    draft.put(&[Block::of_plain(&content(1))]).unwrap();
    disk.fail_flushes_after(0);
    assert!(draft.flush().is_err());
    assert!(matches!(draft.put(&[Block::of_plain(&content(2))]), Err(Error::Poisoned)));
    assert!(matches!(store.begin(&name("b"), None, &[DISK]), Err(Error::Poisoned)));
}

#[test]
fn what_is_missing_or_too_large_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(Error::Locked)));
    let draft = store.begin(&name("a"), None, &[DISK]).unwrap();
    let hash = hash_of(b"nowhere");
    let mut map = vec![None; BLOCKS as usize];
    map[4] = Some(hash);
    draft.set(2000, &[(4, map[4])]).unwrap();
    assert!(matches!(draft.set(2000, &[(BLOCKS, None)]), Err(Error::Invalid(_))));
    assert!(matches!(draft.set(2001, &[(0, None)]), Err(Error::NoDisk(2001))));
    match draft.commit(&root(&map), 1) {
        Err(Error::BlockMissing { disk: 2000, number: 4, hash: missing }) => assert_eq!(missing, hash),
        other => panic!("{other:?}"),
    }
    draft.set(2000, &[(4, None)]).unwrap();
    draft.commit(&root(&[None; BLOCKS as usize]), 1).unwrap();
    assert!(matches!(draft.set(2000, &[]), Err(Error::NoDraft(_))));
    assert!(matches!(store.begin(&name("a"), None, &[DISK]), Err(Error::Exists(_))));
    let odd = DiskSize { key: 2000, bytes: 513 };
    assert!(matches!(store.begin(&name("b"), None, &[odd]), Err(Error::Invalid(_))));
    assert!(matches!(store.begin(&name("b"), Some(&name("x")), &[DISK]), Err(Error::NoInstance(_))));
}

#[test]
fn a_resized_disk_keeps_what_both_have() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    commit(&store, "a", &[1, 2]).unwrap();
    for (instance, blocks) in [("larger", BLOCKS + 5000), ("smaller", 1)] {
        let size = DiskSize { key: 2000, bytes: u64::from(blocks) * BLOCK_BYTES as u64 };
        let draft = store.begin(&name(instance), Some(&name("a")), &[size]).unwrap();
        let mut map = vec![None; blocks as usize];
        map[0] = Some(hash_of(&content(1)));
        if blocks > 1 {
            map[1] = Some(hash_of(&content(2)));
        }
        let leaf = |number: u32| {
            let from = (number * LEAF_BLOCKS) as usize;
            hash_of(&encode_leaf(&map[from..from + leaf_blocks(blocks, number) as usize]))
        };
        let leaves: Vec<Hash> = (0..leaf_count(blocks)).map(leaf).collect();
        draft.commit(&root_hash([(2000, size.bytes, &*leaves)]), 1).unwrap();
        assert_eq!(read(&store, instance, 0).unwrap(), content(1));
    }
}

#[test]
fn garbage_goes_while_others_write_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    commit(&store, "kept", &(0..40).collect::<Vec<_>>()).unwrap();
    let reader = store.open_disk(&name("kept"), 2000).unwrap();
    store.remove(&name("kept")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                store.collect_garbage().unwrap();
            }
        });
        for writer in 0..2u64 {
            let store = &store;
            threads.spawn(move || {
                for round in 0..30u64 {
                    // Contents that come and go, and that both writers have.
                    let seeds: Vec<u64> = (0..6).map(|i| (round / 3) * 4 + i + writer * (i % 2)).collect();
                    let instance = format!("w{writer}-{round}");
                    commit(store, &instance, &seeds).unwrap();
                    for (number, seed) in (0..).zip(&seeds) {
                        assert_eq!(read(store, &instance, number).unwrap(), content(*seed));
                    }
                    if round >= 2 {
                        store.remove(&name(&format!("w{writer}-{}", round - 2))).unwrap();
                    }
                }
            });
        }
        for round in 0..40u64 {
            let mut found = vec![0; BLOCK_BYTES];
            reader.read_at((round % 40) * BLOCK_BYTES as u64, &mut found).unwrap();
            assert_eq!(found, content(round % 40), "an instance that was removed while it is read");
        }
        is_over.store(true, Ordering::SeqCst);
    });
    drop(reader);
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().damages, []);
    let collected = store.collect_garbage().unwrap();
    assert!(store.figures().blocks <= 20 + 8, "{collected:?} {:?}", store.figures());
}

#[test]
fn retention_removes_and_pins_stay() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for instance in ["a", "b", "c"] {
        commit(&store, instance, &[1]).unwrap();
    }
    store.pin(&name("a"), true).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.apply_retention("r", &[]).unwrap(), [name("b")]);
    store.pin(&name("a"), false).unwrap();
    assert_eq!(store.apply_retention("r", &[Rule { instances: 2, distance_minutes: 0 }]).unwrap(), []);
    assert_eq!(store.apply_retention("r", &[]).unwrap(), [name("a")]);
}

#[test]
fn an_export_is_the_disk_with_holes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    commit(&store, "a", &[5, 6]).unwrap();
    let path = directory.path().join("disk.raw");
    let mut last = 0;
    let disk = store.open_disk(&name("a"), 2000).unwrap();
    export_raw(&disk, &path, &mut |progress| {
        assert!(progress.done_bytes >= last);
        last = progress.done_bytes;
    })
    .unwrap();
    assert_eq!(last, DISK.bytes);
    let mut expected = [content(5), content(6)].concat();
    expected.resize(DISK.bytes as usize, 0);
    assert!(std::fs::read(&path).unwrap() == expected);
    use std::os::unix::fs::MetadataExt;
    assert!(path.metadata().unwrap().blocks() * 512 < DISK.bytes / 4, "zeroes take room");
}

#[test]
fn every_leaf_of_an_instance_is_told_also_one_of_zeroes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    commit(&store, "a", &[1]).unwrap();
    commit(&store, "zeroes", &[]).unwrap();
    for (instance, map) in [("a", map(&[1])), ("zeroes", map(&[]))] {
        let leaf = store.leaf(&name(instance), DISK.key, 0).unwrap();
        assert_eq!(leaf, encode_leaf(&map));
        assert_eq!(store.leaf_hashes(&name(instance), DISK.key, 0, 9).unwrap(), [hash_of(&leaf)]);
        assert!(matches!(store.leaf(&name(instance), DISK.key, 1), Err(Error::Invalid(_))));
    }
}

#[test]
fn a_block_of_another_length_than_the_disk_has_there_is_not_committed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let draft = store.begin(&name("a"), None, &[DISK]).unwrap();
    let (short, whole) = (Block::of_plain(b"short"), Block::of_plain(&content(1)));
    draft.put(&[short.clone(), whole.clone()]).unwrap();
    let mut map = map(&[]);
    map[3] = Some(short.hash);
    draft.set(DISK.key, &[(3, map[3])]).unwrap();
    let error = draft.commit(&root(&map), 1).unwrap_err();
    assert_eq!(error.to_string(), "block 3 of disk 2000 has 5 bytes, not 65536");
    map[3] = Some(whole.hash);
    draft.set(DISK.key, &[(3, map[3])]).unwrap();
    draft.commit(&root(&map), 1).unwrap();

    // Of a disk that was cut within a block, what was whole is too long; also after a restart.
    let cut = DiskSize { key: DISK.key, bytes: 3 * BLOCK_BYTES as u64 + 512 };
    let root = |map: &[Option<Hash>]| root_hash([(cut.key, cut.bytes, &[hash_of(&encode_leaf(map))][..])]);
    store.begin(&name("b"), Some(&name("a")), &[cut]).unwrap();
    drop((draft, store));
    let store = Store::open(directory.path()).unwrap();
    let draft = store.draft(&name("b")).unwrap().unwrap();
    let error = draft.commit(&root(&map[..4]), 1).unwrap_err();
    assert_eq!(error.to_string(), "block 3 of disk 2000 has 65536 bytes, not 512");
    let end = Block::of_plain(&content(1)[..512]);
    map[3] = Some(end.hash);
    draft.put(&[end]).unwrap();
    draft.set(DISK.key, &[(3, map[3])]).unwrap();
    draft.commit(&root(&map[..4]), 1).unwrap();
}

#[test]
fn drafts_go_when_nobody_has_flushed_them_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let old = draft(&store, "old", &[1]).unwrap();
    let begun = Instant::now();
    wait_until("it is older", || begun.elapsed() > Duration::from_millis(50));
    drop((old, store));
    // Its age is in its log.
    let store = Store::open(directory.path()).unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(store.drop_old_drafts(hour).unwrap(), []);
    assert_eq!(store.drop_old_drafts(Duration::from_millis(40)).unwrap(), [name("old")]);
    assert!(store.drafts("r").is_empty() && store.draft(&name("old")).unwrap().is_none());
    let young = draft(&store, "young", &[2]).unwrap();
    assert_eq!(store.drop_old_drafts(hour).unwrap(), []);
    young.commit(&root(&map(&[2])), 1).unwrap();
}
