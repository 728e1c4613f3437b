//! The store with an object store: moto's S3, over a real connection.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lockstep_blocks::format::hash_of;
use lockstep_blocks::{Block, Error, Remote, S3, S3Config, Store};
use tempfile::TempDir;

use crate::harness::{DISK, check, commit, content, draft, map, name, root, wait_until};
use crate::moto::Moto;

fn s3(port: u16, runtime: &tokio::runtime::Runtime) -> Arc<S3> {
    // Whoever speaks TLS chooses its provider, even where there is no TLS in the end.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = S3Config {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: "us-east-1".to_owned(),
        bucket: "replica".to_owned(),
        prefix: "site-a".to_owned(),
        access_key: "lockstep".to_owned(),
        secret_key: "lockstepsecret".to_owned(),
    };
    Arc::new(S3::new(&config, runtime.handle().clone()).unwrap())
}

fn local_packs(directory: &TempDir) -> usize {
    let files = std::fs::read_dir(directory.path()).unwrap();
    files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("pack.")).count()
}

#[test]
fn what_is_committed_is_in_the_object_store_and_survives_the_directory() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_remote(directory.path(), s3(moto.port, &runtime)).unwrap();
    commit(&store, "a", &[1, 2, 3]).unwrap();
    assert_eq!(local_packs(&directory), 0, "packs are uploaded");
    commit(&store, "b", &[2, 3, 4]).unwrap();
    let draft = store.begin(&name("c"), Some(&name("b")), &[DISK]).unwrap();
    draft.put(&[Block::of_plain(&content(9))]).unwrap();
    draft.flush().unwrap();
    drop(draft);
    drop(store);

    // The directory again: its draft goes on.
    let store = Store::open_remote(directory.path(), s3(moto.port, &runtime)).unwrap();
    check(&store, "a", &[1, 2, 3]);
    assert!(store.draft(&name("c")).unwrap().unwrap().have(&[hash_of(&content(9))]).unwrap()[0]);
    store.pin(&name("a"), true).unwrap();
    drop(store);

    // Another directory is refused, until somebody says that the first one is no more.
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open_remote(other.path(), s3(moto.port, &runtime)), Err(Error::Locked)));
    s3(moto.port, &runtime).remove("owner").unwrap();
    let store = Store::open_remote(other.path(), s3(moto.port, &runtime)).unwrap();
    check(&store, "a", &[1, 2, 3]);
    check(&store, "b", &[2, 3, 4]);
    assert!(store.instance(&name("a")).unwrap().state.is_pinned);
    assert!(store.drafts("r").is_empty());
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().damages, []);

    store.remove(&name("a")).unwrap();
    store.collect_garbage().unwrap();
    check(&store, "b", &[2, 3, 4]);
    store.remove(&name("b")).unwrap();
    store.collect_garbage().unwrap();
    let left: Vec<String> = s3(moto.port, &runtime).list().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["owner"]);
}

#[test]
fn of_two_that_take_an_object_store_one_gets_it() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directories: Vec<TempDir> = (0..6).map(|_| tempfile::tempdir().unwrap()).collect();
    let opened: Vec<bool> = std::thread::scope(|threads| {
        let open = |directory: &TempDir| Store::open_remote(directory.path(), s3(moto.port, &runtime)).is_ok();
        let all: Vec<_> = directories.iter().map(|directory| threads.spawn(move || open(directory))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(opened.iter().filter(|is_open| **is_open).count(), 1, "{opened:?}");
}

/// A way to the server that can be cut.
struct Way {
    port: u16,
    state: Arc<WayState>,
}

#[derive(Default)]
struct WayState {
    is_cut: AtomicBool,
    /// Connections that came while it was cut.
    refused: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Way {
    fn to(moto: &Moto) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), moto.port);
        let state = Arc::new(WayState::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                {
                    // Either it is refused, or it is among those that are cut.
                    let mut open = shared.open.lock().unwrap();
                    if shared.is_cut.load(Ordering::SeqCst) {
                        shared.refused.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    open.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                }
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { port, state }
    }

    fn cut(&self, is_cut: bool) {
        let mut open = self.state.open.lock().unwrap();
        self.state.is_cut.store(is_cut, Ordering::SeqCst);
        if is_cut {
            open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
    }
}

#[test]
fn a_commit_waits_for_an_object_store_that_is_away_and_others_do_not() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let way = Way::to(&moto);
    let store = Store::open_remote(directory.path(), s3(way.port, &runtime)).unwrap();
    commit(&store, "a", &[1]).unwrap();
    let made = draft(&store, "b", &[1, 2]).unwrap();
    let other = draft(&store, "c", &[3]).unwrap();
    way.cut(true);
    std::thread::scope(|threads| {
        let committing = threads.spawn(|| made.commit(&root(&map(&[1, 2])), 1).map(drop));
        let refused = || way.state.refused.load(Ordering::SeqCst);
        wait_until("the commit asks in vain, and again", || refused() > 1 || committing.is_finished());
        if committing.is_finished() {
            panic!("it did not wait: {:?}, {} refused", committing.join().unwrap(), refused());
        }
        assert_eq!(store.instances("r").len(), 1, "nothing half is there");
        assert_eq!(store.drafts("r"), [name("b"), name("c")]);
        other.put(&[Block::of_plain(&content(4))]).unwrap();
        other.set(DISK.key, &[(1, Some(hash_of(&content(4))))]).unwrap();
        other.flush().unwrap();
        way.cut(false);
        committing.join().unwrap().unwrap();
    });
    check(&store, "b", &[1, 2]);
    other.commit(&root(&map(&[3, 4])), 1).unwrap();
    drop((made, other, store));
    let directory = tempfile::tempdir().unwrap();
    s3(way.port, &runtime).remove("owner").unwrap();
    let store = Store::open_remote(directory.path(), s3(way.port, &runtime)).unwrap();
    check(&store, "c", &[3, 4]);
}

#[test]
fn a_directory_that_was_replaced_changes_nothing_any_more() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let old = Store::open_remote(directories[0].path(), s3(moto.port, &runtime)).unwrap();
    commit(&old, "a", &[1]).unwrap();
    let made = draft(&old, "b", &[2]).unwrap();
    s3(moto.port, &runtime).remove("owner").unwrap();
    let new = Store::open_remote(directories[1].path(), s3(moto.port, &runtime)).unwrap();
    commit(&new, "c", &[3]).unwrap();
    let there = s3(moto.port, &runtime).list().unwrap();

    assert!(matches!(made.commit(&root(&map(&[2])), 1), Err(Error::Locked)));
    assert!(matches!(old.pin(&name("a"), true), Err(Error::Locked)));
    assert!(matches!(old.remove(&name("a")), Err(Error::Locked)));
    let _ = old.collect_garbage();
    assert_eq!(s3(moto.port, &runtime).list().unwrap(), there);
    check(&new, "a", &[1]);
    check(&new, "c", &[3]);

    // It takes its place again, and keeps both what it was making and what the other one made.
    drop((made, old, new));
    s3(moto.port, &runtime).remove("owner").unwrap();
    let old = Store::open_remote(directories[0].path(), s3(moto.port, &runtime)).unwrap();
    old.draft(&name("b")).unwrap().unwrap().commit(&root(&map(&[2])), 1).unwrap();
    for (instance, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        check(&old, instance, &[seed]);
    }
    assert_eq!(old.verify(&mut |_, _| {}).unwrap().damages, []);
}

#[test]
fn a_directory_of_other_instances_is_no_place_for_an_object_store() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    commit(&Store::open(directory.path()).unwrap(), "a", &[1]).unwrap();
    assert!(matches!(Store::open_remote(directory.path(), s3(moto.port, &runtime)), Err(Error::Invalid(_))));
    check(&Store::open(directory.path()).unwrap(), "a", &[1]);
    assert_eq!(s3(moto.port, &runtime).list().unwrap(), []);
}

/// A bucket whose answers to what is put can be lost on the way.
struct Lossy {
    inner: Arc<S3>,
    is_losing: AtomicBool,
}

impl Remote for Lossy {
    fn put(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        self.inner.put(name, bytes)?;
        if self.is_losing.load(Ordering::SeqCst) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    fn create(&self, name: &str, bytes: Bytes) -> io::Result<bool> {
        let is_new = self.inner.create(name, bytes)?;
        // As after another attempt at what was done already.
        Ok(is_new && !self.is_losing.load(Ordering::SeqCst))
    }

    fn get(&self, name: &str) -> io::Result<Option<Bytes>> {
        self.inner.get(name)
    }

    fn get_range(&self, name: &str, offset: u64, bytes: u64) -> io::Result<Bytes> {
        self.inner.get_range(name, offset, bytes)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
}

#[test]
fn a_commit_whose_answer_was_lost_can_be_made_again_or_abandoned() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lossy = Arc::new(Lossy { inner: s3(moto.port, &runtime), is_losing: AtomicBool::new(false) });
    let store = Store::open_remote(directory.path(), lossy.clone()).unwrap();
    let (again, abandoned) = (draft(&store, "again", &[1]).unwrap(), draft(&store, "abandoned", &[2]).unwrap());
    lossy.is_losing.store(true, Ordering::SeqCst);
    assert!(matches!(again.commit(&root(&map(&[1])), 1), Err(Error::Away { .. })));
    assert!(matches!(abandoned.commit(&root(&map(&[2])), 1), Err(Error::Away { .. })));
    lossy.is_losing.store(false, Ordering::SeqCst);
    again.commit(&root(&map(&[1])), 1).unwrap();
    abandoned.abandon().unwrap();
    store.collect_garbage().unwrap();
    drop((again, abandoned, store));
    let store = Store::open_remote(directory.path(), lossy).unwrap();
    assert_eq!(store.instances("r").iter().map(|one| one.name.clone()).collect::<Vec<_>>(), [name("again")]);
    check(&store, "again", &[1]);
    assert!(store.drafts("r").is_empty());
}

#[test]
fn the_packs_of_many_commits_become_few() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_remote(directory.path(), s3(moto.port, &runtime)).unwrap();
    (0..20).for_each(|round| commit(&store, &format!("i{round}"), &[round]).unwrap());
    let packs = || s3(moto.port, &runtime).list().unwrap().iter().filter(|(name, _)| name.starts_with("pack.")).count();
    assert_eq!(packs(), 20);
    store.collect_garbage().unwrap();
    assert_eq!((packs(), local_packs(&directory)), (1, 0));
    (0..20).for_each(|round| check(&store, &format!("i{round}"), &[round]));
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().damages, []);
}
