//! What runs beside each other: collections of garbage, drafts, commits, readers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_blocks::format::encode_leaf;
use lockstep_blocks::{Block, Name, Store};

use crate::harness::{DISK, check, commit, content, map, name, wait_until};

#[test]
fn puts_and_collections_do_not_wait_for_each_other_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let (puts, collections, is_over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    // Detached, so that two that wait for each other fail the test rather than hang it.
    let shared: &'static _ = Box::leak(Box::new((puts, collections, is_over)));
    let (puts, collections, is_over) = shared;
    let putting = store.clone();
    let writer = std::thread::spawn(move || {
        let draft = putting.begin(&name("a"), None, &[DISK]).unwrap();
        while !is_over.load(Ordering::SeqCst) {
            let number = puts.fetch_add(1, Ordering::SeqCst);
            draft.put(&[Block::of_plain(&number.to_le_bytes())]).unwrap();
        }
    });
    let collector = std::thread::spawn(move || {
        while !is_over.load(Ordering::SeqCst) {
            store.collect_garbage().unwrap();
            collections.fetch_add(1, Ordering::SeqCst);
        }
    });
    wait_until("puts and collections go on", || {
        puts.load(Ordering::SeqCst) > 3000 && collections.load(Ordering::SeqCst) > 300
    });
    is_over.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    collector.join().unwrap();
}

/// Leaves a pack of which most is garbage, so that a collection empties it: what is needed of it is in the instance or draft that `with` makes.
fn mostly_garbage<T>(store: &Store, with: impl FnOnce() -> T) -> T {
    let garbage = store.begin(&name("garbage"), None, &[DISK]).unwrap();
    garbage.put(&(100..130).map(|seed| Block::of_plain(&content(seed))).collect::<Vec<_>>()).unwrap();
    let made = with();
    garbage.abandon().unwrap();
    made
}

#[test]
fn a_block_that_equals_a_leaf_hides_nothing_from_a_collection() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    mostly_garbage(&store, || commit(&store, "a", &[1, 2]).unwrap());
    let other = store.begin(&Name::new("other", "b").unwrap(), None, &[DISK]).unwrap();
    other.put(&[Block::of_plain(&encode_leaf(&map(&[1, 2])))]).unwrap();
    assert_eq!(store.collect_garbage().unwrap().packs, 1);
    check(&store, "a", &[1, 2]);
}
