//! What runs beside each other: collections of garbage, drafts, commits, readers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_blocks::{Block, Store};

use crate::harness::{DISK, name, wait_until};

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
