//! What runs beside each other: collections of garbage, drafts, commits, readers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_blocks::format::encode_leaf;
use lockstep_blocks::{BLOCK_BYTES, Block, Name, Store};

use lockstep_storage::faulty::Disk;
use lockstep_storage::{Storage, StoredFile};

use crate::harness::{DISK, check, commit, content, draft, map, name, root, wait_until};

#[test]
fn puts_and_collections_do_not_wait_for_each_other_for_ever() {
    // In memory, so that a busy disk does not look like two that wait.
    let store = Store::open_storage(Arc::new(Disk::default()), None).unwrap();
    let (puts, collections, is_over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    // Detached, so that two that wait for each other fail the test rather than hang it.
    let shared: &'static _ = Box::leak(Box::new((puts, collections, is_over)));
    let (puts, collections, is_over) = shared;
    let writers = [0u64, 1].map(|writer| {
        let store = store.clone();
        std::thread::spawn(move || {
            let draft = store.begin(&name(&format!("w{writer}")), None, &[DISK]).unwrap();
            while !is_over.load(Ordering::SeqCst) {
                let number = puts.fetch_add(1, Ordering::SeqCst);
                // A few hundred, or what there is to mark grows for as long as this lasts.
                draft.put(&[Block::of_plain(&(number % 512).to_le_bytes())]).unwrap();
            }
        })
    });
    let collector = std::thread::spawn(move || {
        while !is_over.load(Ordering::SeqCst) {
            store.collect_garbage().unwrap();
            collections.fetch_add(1, Ordering::SeqCst);
        }
    });
    wait_until("puts and collections go on", || {
        puts.load(Ordering::SeqCst) > 20_000 && collections.load(Ordering::SeqCst) > 2000
    });
    is_over.store(true, Ordering::SeqCst);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
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

/// A disk that holds flushes of files whose name ends in `slow` while its gate is shut.
#[derive(Clone, Default)]
struct Gated {
    disk: Disk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    is_shut: AtomicBool,
    held: AtomicU64,
}

struct GatedFile {
    file: Arc<dyn StoredFile>,
    is_slow: bool,
    gate: Arc<Gate>,
}

impl Gated {
    fn wrap(&self, name: &str, file: Arc<dyn StoredFile>) -> Arc<dyn StoredFile> {
        Arc::new(GatedFile { file, is_slow: name.ends_with("slow"), gate: self.gate.clone() })
    }
}

impl Storage for Gated {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        Ok(self.wrap(name, self.disk.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn shown(&self, name: &str) -> String {
        self.disk.shown(name)
    }
}

impl StoredFile for GatedFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        if self.is_slow && self.gate.is_shut.load(Ordering::SeqCst) {
            self.gate.held.fetch_add(1, Ordering::SeqCst);
            wait_until("the gate opens", || !self.gate.is_shut.load(Ordering::SeqCst));
        }
        self.file.sync()
    }
}

#[test]
fn a_draft_that_is_committed_while_garbage_is_marked_keeps_its_blocks() {
    let storage = Gated::default();
    let gate = storage.gate.clone();
    let store = Store::open_storage(Arc::new(storage), None).unwrap();
    // Marking comes to it first, and waits until it is flushed.
    let _slow = store.begin(&Name::new("a", "slow").unwrap(), None, &[DISK]).unwrap();
    let made = mostly_garbage(&store, || {
        let made = draft(&store, "z", &[77]).unwrap();
        // Its leaf is stored, as it would be had it more than may be open.
        made.commit(&[1; 32], 1).unwrap_err();
        made
    });
    made.flush().unwrap();
    gate.is_shut.store(true, Ordering::SeqCst);
    std::thread::scope(|threads| {
        threads.spawn(|| store.collect_garbage().unwrap());
        wait_until("marking comes to it", || gate.held.load(Ordering::SeqCst) > 0);
        made.commit(&root(&map(&[77])), 1).unwrap();
        gate.is_shut.store(false, Ordering::SeqCst);
    });
    check(&store, "z", &[77]);
}

#[test]
fn who_reads_an_instance_reads_on_when_it_is_pinned_let_go_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    commit(&store, "a", &[1, 2]).unwrap();
    commit(&store, "b", &[9]).unwrap();
    let reader = store.open_disk(&name("a"), DISK.key).unwrap();
    store.pin(&name("a"), true).unwrap();
    store.pin(&name("a"), false).unwrap();
    assert_eq!(store.apply_retention("r", &[]).unwrap(), [name("a")]);
    store.collect_garbage().unwrap();
    let mut found = vec![0; BLOCK_BYTES];
    reader.read_at(0, &mut found).unwrap();
    assert!(found == content(1));
    drop(reader);
    store.collect_garbage().unwrap();
    let blocks_of_b = 2;
    assert_eq!(store.figures().blocks, blocks_of_b);
}

#[test]
fn many_small_packs_become_one_and_stay_few() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut most = 0;
    for round in 0..60 {
        commit(&store, &format!("i{round}"), &[round]).unwrap();
        // It seals the pack that is open.
        store.collect_garbage().unwrap();
        most = most.max(store.figures().packs);
    }
    assert!((10..20).contains(&most), "{most}");
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    (0..60).for_each(|round| check(&store, &format!("i{round}"), &[round]));
    assert_eq!(store.figures().blocks, 120);
}
