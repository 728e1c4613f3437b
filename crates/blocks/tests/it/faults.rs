//! The store on a disk that is killed, loses power, runs full, and fails to flush.

use std::sync::Arc;

use lockstep_blocks::format::{encode_leaf, hash_of, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Block, DiskSize, Error, Hash, LEAF_BLOCKS, Store};
use lockstep_storage::faulty::{Disk, Random};

use crate::harness::{DISK, check, content, draft, map, name, root};

fn open(disk: &Disk) -> Result<Store, Error> {
    Store::open_storage(Arc::new(disk.clone()), None)
}

#[test]
fn what_was_found_after_a_kill_is_there_after_the_power_went_too() {
    let mut relied_on = 0;
    for calls in 0..14 {
        let disk = Disk::default();
        let store = open(&disk).unwrap();
        let before = draft(&store, "before", &[]).unwrap();
        before.put(&[Block::of_plain(&content(5))]).unwrap();
        disk.power_off_after(calls);
        // Seals the pack: a footer, and a flush.
        let _ = store.collect_garbage();
        drop((before, store));
        let disk = disk.after_kill();
        let store = open(&disk).unwrap();
        let after = draft(&store, "after", &[]).unwrap();
        if !after.have(&[hash_of(&content(5))]).unwrap()[0] {
            continue;
        }
        relied_on += 1;
        after.set(DISK.key, &[(0, Some(hash_of(&content(5))))]).unwrap();
        after.commit(&root(&map(&[5])), 1).unwrap();
        for seed in 0..12 {
            let store = open(&disk.after_power_loss(&mut Random::new(seed))).unwrap();
            check(&store, "after", &[5]);
        }
    }
    assert!(relied_on > 0);
}

#[test]
fn an_instance_that_is_there_after_a_kill_is_there_after_the_power_went_too() {
    let mut was_there = 0;
    for calls in 0..40 {
        let disk = Disk::default();
        let store = open(&disk).unwrap();
        let made = draft(&store, "a", &[]).unwrap();
        disk.power_off_after(calls);
        let _ = made.commit(&root(&map(&[])), 1);
        drop((made, store));
        let disk = disk.after_kill();
        if open(&disk).unwrap().instance(&name("a")).is_none() {
            continue;
        }
        was_there += 1;
        for seed in 0..8 {
            let store = open(&disk.after_power_loss(&mut Random::new(seed))).unwrap();
            assert!(store.instance(&name("a")).is_some(), "after {calls} calls");
        }
    }
    assert!(was_there > 0);
}

#[test]
fn a_commit_that_failed_to_flush_does_not_come_back_without_its_blocks() {
    let mut failed = 0;
    for flushes in 0..8 {
        let disk = Disk::default();
        let store = open(&disk).unwrap();
        let made = draft(&store, "a", &[5]).unwrap();
        disk.fail_flushes_after(flushes);
        if made.commit(&root(&map(&[5])), 1).is_ok() {
            continue;
        }
        failed += 1;
        disk.fail_flushes_after(u64::MAX);
        let went_on = made.abandon().is_ok() && store.collect_garbage().is_ok();
        if !went_on {
            // Nobody knows whether it is an instance, so nothing goes on.
            assert!(matches!(store.collect_garbage(), Err(Error::Poisoned)), "after {flushes} flushes");
        }
        drop((made, store));
        let store = open(&disk).unwrap();
        match store.instance(&name("a")) {
            Some(_) if went_on => panic!("it was abandoned, and came back, after {flushes} flushes"),
            Some(_) => check(&store, "a", &[5]),
            None if went_on => assert!(store.draft(&name("a")).unwrap().is_none()),
            None => drop(store.draft(&name("a")).unwrap().unwrap().commit(&root(&map(&[5])), 1).unwrap()),
        }
    }
    assert!(failed > 2);
}

#[test]
fn a_draft_that_failed_to_begin_or_to_go_leaves_nothing_in_doubt() {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let before = draft(&store, "a", &[5]).unwrap();
    // Of its file, and of the directory.
    disk.fail_flushes_after(1);
    assert!(matches!(store.begin(&name("a"), None, &[DISK]), Err(Error::Io { .. })));
    assert!(matches!(before.set(DISK.key, &[(1, None)]).and_then(|()| before.flush()), Err(Error::Poisoned)));

    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let before = draft(&store, "a", &[5]).unwrap();
    disk.fail_flushes_after(0);
    assert!(matches!(before.abandon(), Err(Error::Io { .. })));
    assert!(matches!(before.flush(), Err(Error::Poisoned)));
}

#[test]
fn a_collection_leaves_what_the_flushed_map_of_a_draft_names() {
    for seed in 0..16 {
        let disk = Disk::default();
        let store = open(&disk).unwrap();
        let garbage = draft(&store, "garbage", &(100..130).collect::<Vec<_>>()).unwrap();
        let made = draft(&store, "a", &[5]).unwrap();
        garbage.abandon().unwrap();
        // Not flushed: the map may be this one after the power went, or the one before.
        let block = Block::of_plain(&content(6));
        let hash = block.hash;
        made.put(&[block]).unwrap();
        made.set(DISK.key, &[(0, Some(hash))]).unwrap();
        assert_eq!(store.collect_garbage().unwrap().packs, 1);
        let store = open(&disk.after_power_loss(&mut Random::new(seed))).unwrap();
        let made = store.draft(&name("a")).unwrap().unwrap();
        let committed = [5, 6].iter().find(|content| made.commit(&root(&map(&[**content])), 1).is_ok());
        check(&store, "a", &[*committed.unwrap()]);
    }
}

#[test]
fn a_draft_stays_when_there_is_no_room_to_open_it() {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    // More leaves than may be open: some are stored again whenever the log is read.
    let leaves = 70;
    let large = DiskSize { key: DISK.key, bytes: u64::from(leaves * LEAF_BLOCKS) * BLOCK_BYTES as u64 };
    let garbage = draft(&store, "garbage", &(100..130).collect::<Vec<_>>()).unwrap();
    let made = store.begin(&name("a"), None, &[large]).unwrap();
    let block = Block::of_plain(&content(1));
    let mut map = vec![None; (leaves * LEAF_BLOCKS) as usize];
    for round in 0..3 {
        for leaf in 0..leaves {
            let number = leaf * LEAF_BLOCKS + round;
            map[number as usize] = Some(block.hash);
            made.set(DISK.key, &[(number, Some(block.hash))]).unwrap();
        }
    }
    made.put(&[block]).unwrap();
    made.flush().unwrap();
    // Leaves that were stored on the way are garbage.
    garbage.abandon().unwrap();
    assert_eq!(store.collect_garbage().unwrap().packs, 1);
    drop((garbage, made, store));
    disk.set_space(Some(0));
    let store = open(&disk).unwrap();
    assert!(matches!(store.draft(&name("a")), Err(Error::Full)));
    assert_eq!(store.drafts("r"), [name("a")]);
    drop(store);
    disk.set_space(None);
    let store = open(&disk).unwrap();
    let made = store.draft(&name("a")).unwrap().unwrap();
    let hashes: Vec<Hash> = map.chunks(LEAF_BLOCKS as usize).map(|leaf| hash_of(&encode_leaf(leaf))).collect();
    made.commit(&root_hash([(DISK.key, large.bytes, &*hashes)]), 1).unwrap();
}

#[test]
fn a_draft_whose_log_is_damaged_begins_anew() {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    drop(draft(&store, "a", &[1]).unwrap());
    drop(store);
    disk.tamper("draft.r.a", |bytes| bytes[20] ^= 1);
    let store = open(&disk).unwrap();
    assert!(store.draft(&name("a")).unwrap().is_none() && store.drafts("r").is_empty());
    store.collect_garbage().unwrap();
    draft(&store, "a", &[1]).unwrap().commit(&root(&map(&[1])), 1).unwrap();
}
