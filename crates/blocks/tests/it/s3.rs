//! The store with an object store: moto's S3, over a real connection.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lockstep_blocks::format::hash_of;
use lockstep_blocks::{Block, Error, Remote, S3, S3Config, Store};
use tempfile::TempDir;

use crate::harness::{DISK, check, commit, content, name, wait_until};

/// An S3 server; killed at the end.
struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// None, with the reason printed, where it is not installed.
    fn start(port: Option<u16>) -> Option<Self> {
        // Whoever speaks TLS chooses its provider, even where there is no TLS in the end.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/moto/bin/moto_server");
        if !std::path::Path::new(program).exists() {
            eprintln!("skipped: no moto_server in .tools/moto (scripts/test-tools.sh installs it)");
            return None;
        }
        let port = port.unwrap_or_else(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { child, port };
        wait_until("moto listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(moto)
    }

    fn make_bucket(&self) {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = "PUT /replica HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn s3(&self, runtime: &tokio::runtime::Runtime) -> Arc<S3> {
        let config = S3Config {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: "us-east-1".to_owned(),
            bucket: "replica".to_owned(),
            prefix: "site-a".to_owned(),
            access_key: "lockstep".to_owned(),
            secret_key: "lockstepsecret".to_owned(),
        };
        Arc::new(S3::new(&config, runtime.handle().clone()).unwrap())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn local_packs(directory: &TempDir) -> usize {
    let files = std::fs::read_dir(directory.path()).unwrap();
    files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("pack.")).count()
}

#[test]
fn what_is_committed_is_in_the_object_store_and_survives_the_directory() {
    let Some(moto) = Moto::start(None) else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_remote(directory.path(), moto.s3(&runtime)).unwrap();
    commit(&store, "a", &[1, 2, 3]).unwrap();
    assert_eq!(local_packs(&directory), 0, "packs are uploaded");
    commit(&store, "b", &[2, 3, 4]).unwrap();
    let draft = store.begin(&name("c"), Some(&name("b")), &[DISK]).unwrap();
    draft.put(&[Block::of_plain(&content(9))]).unwrap();
    draft.flush().unwrap();
    drop(draft);
    drop(store);

    // The directory again: its draft goes on.
    let store = Store::open_remote(directory.path(), moto.s3(&runtime)).unwrap();
    check(&store, "a", &[1, 2, 3]);
    assert!(store.draft(&name("c")).unwrap().unwrap().have(&[hash_of(&content(9))]).unwrap()[0]);
    store.pin(&name("a"), true).unwrap();
    drop(store);

    // Another directory is refused, until somebody says that the first one is no more.
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open_remote(other.path(), moto.s3(&runtime)), Err(Error::Locked)));
    moto.s3(&runtime).remove("owner").unwrap();
    let store = Store::open_remote(other.path(), moto.s3(&runtime)).unwrap();
    check(&store, "a", &[1, 2, 3]);
    check(&store, "b", &[2, 3, 4]);
    assert!(store.instance(&name("a")).unwrap().state.is_pinned);
    assert!(store.drafts("r").unwrap().is_empty());
    assert_eq!(store.verify(&mut |_, _| {}).unwrap().damages, []);

    store.remove(&name("a")).unwrap();
    store.collect_garbage().unwrap();
    check(&store, "b", &[2, 3, 4]);
    store.remove(&name("b")).unwrap();
    store.collect_garbage().unwrap();
    let left: Vec<String> = moto.s3(&runtime).list().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["owner"]);
}

#[test]
fn of_two_that_take_an_object_store_one_gets_it() {
    let Some(moto) = Moto::start(None) else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directories: Vec<TempDir> = (0..6).map(|_| tempfile::tempdir().unwrap()).collect();
    let opened: Vec<bool> = std::thread::scope(|threads| {
        let open = |directory: &TempDir| Store::open_remote(directory.path(), moto.s3(&runtime)).is_ok();
        let all: Vec<_> = directories.iter().map(|directory| threads.spawn(move || open(directory))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(opened.iter().filter(|is_open| **is_open).count(), 1, "{opened:?}");
}

#[test]
fn a_commit_waits_for_an_object_store_that_is_away() {
    let Some(moto) = Moto::start(None) else { return };
    moto.make_bucket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_remote(directory.path(), moto.s3(&runtime)).unwrap();
    commit(&store, "a", &[1]).unwrap();
    let port = moto.port;
    drop(moto);
    std::thread::scope(|threads| {
        let committing = threads.spawn(|| commit(&store, "b", &[1, 2]));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!committing.is_finished(), "it waits");
        assert_eq!(store.instances("r").len(), 1, "nothing half is there");
        // A new one has forgotten everything, so the bucket is made again; what is asked for now is the upload alone.
        let back = Moto::start(Some(port)).unwrap();
        back.make_bucket();
        committing.join().unwrap().unwrap();
        assert_eq!(store.instances("r").len(), 2);
    });
}
