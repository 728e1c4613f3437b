//! NBD: our server under QEMU's own tools, our client under servers that lie, and one with the other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use lockstep_qemu::nbd::{ALLOCATION, Address, Client, Disk, Exports, Limits, Listener, Reading, Server};
use lockstep_qemu::{Error, Extent, Kind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const BLOCK: u64 = 64 << 10;

/// A disk of 64 KiB blocks, of which every third holds data that its number gives.
struct Pattern {
    bytes: u64,
    is_broken: AtomicBool,
    in_flight: AtomicUsize,
    in_flight_most: AtomicUsize,
}

impl Pattern {
    fn new(bytes: u64) -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Self { bytes, is_broken: AtomicBool::new(false), in_flight: zero(), in_flight_most: zero() })
    }

    fn byte(at: u64) -> u8 {
        let block = at / BLOCK;
        if block.is_multiple_of(3) { (block * 7 + at % 251 + 1) as u8 } else { 0 }
    }

    fn write_to(&self, path: &Path) {
        let file = std::fs::File::create(path).unwrap();
        file.set_len(self.bytes).unwrap();
        for block in (0..self.bytes.div_ceil(BLOCK)).step_by(3) {
            let bytes: Vec<u8> = (block * BLOCK..((block + 1) * BLOCK).min(self.bytes)).map(Self::byte).collect();
            file.write_all_at(&bytes, block * BLOCK).unwrap();
        }
    }
}

impl Disk for Pattern {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, bytes: usize) -> Reading<'_, Bytes> {
        Box::pin(async move {
            if self.is_broken.load(Ordering::SeqCst) {
                return Err(io::Error::other("broken"));
            }
            let here = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.in_flight_most.fetch_max(here, Ordering::SeqCst);
            // Others get their turn.
            tokio::task::yield_now().await;
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            Ok((offset..offset + bytes as u64).map(Self::byte).collect())
        })
    }

    fn extents(&self, offset: u64, bytes: u64) -> Reading<'_, Vec<Extent>> {
        Box::pin(async move {
            let blocks = offset / BLOCK..(offset + bytes).div_ceil(BLOCK);
            // Stops early, as a disk may.
            let extent = |block: u64| {
                let kind = if block.is_multiple_of(3) { Kind::Data } else { Kind::Zero };
                Extent { offset: block * BLOCK, bytes: BLOCK, kind }
            };
            Ok(blocks.take(7).map(extent).collect())
        })
    }
}

struct Served {
    directory: TempDir,
    disk: Arc<Pattern>,
    exports: Exports,
    _server: Server,
}

impl Served {
    fn start(bytes: u64, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = Pattern::new(bytes);
        let exports = Exports::default();
        exports.insert("vm/disk 0", Arc::<Pattern>::clone(&disk));
        let listener = Listener::unix(&directory.path().join("nbd")).unwrap();
        let server = Server::start(listener, exports.clone(), limits);
        Self { directory, disk, exports, _server: server }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("nbd")
    }

    fn address(&self) -> Address {
        Address::Unix(self.path())
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///vm%2Fdisk%200?socket={}", self.path().display())
    }
}

/// Runs a program of QEMU's; none, with the reason printed, where it is not there.
async fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = match tokio::task::spawn_blocking(move || command.output()).await.unwrap() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: {program} cannot be started: {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    Some(text)
}

/// As `#[tokio::test]`, on two threads.
fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

#[test]
fn qemu_img_reads_and_maps_what_is_served() {
    block_on(async {
        let bytes = 40 * BLOCK + 512;
        let served = Served::start(bytes, Limits::default());
        let (copy, truth) = (served.directory.path().join("copy"), served.directory.path().join("truth"));
        served.disk.write_to(&truth);
        let uri = served.uri();
        let (copy, truth) = (copy.to_str().unwrap(), truth.to_str().unwrap());
        let Some(_) = run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, copy]).await else { return };
        assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(truth).unwrap());
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, truth]).await.unwrap();
        let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]).await.unwrap();
        let map: serde_json::Value = serde_json::from_str(&map).unwrap();
        let data: u64 =
            map.as_array().unwrap().iter().filter(|e| e["data"] == true).map(|e| e["length"].as_u64().unwrap()).sum();
        assert_eq!(data, 14 * BLOCK, "{map}");
        let info = run("qemu-img", &["info", "-f", "raw", "--output=json", &uri]).await.unwrap();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], bytes);
    });
}

#[test]
fn qemu_io_may_read_and_may_not_write() {
    block_on(async {
        let served = Served::start(4 * BLOCK, Limits::default());
        let uri = served.uri();
        let io = async |options: &[&str]| {
            let mut command = Command::new("qemu-io");
            command.args(options).arg(&uri);
            tokio::task::spawn_blocking(move || command.output()).await.unwrap()
        };
        let read = match io(&["-r", "-f", "raw", "-c", "read -v 0 16", "-c", "read 1 100000"]).await {
            Ok(read) => read,
            Err(error) => return eprintln!("skipped: qemu-io cannot be started: {error}"),
        };
        let text = String::from_utf8_lossy(&read.stdout);
        assert!(read.status.success() && text.contains("01 02 03 04 05 06 07 08"), "{text}");
        // QEMU does not even open a read-only export for writing.
        let write = io(&["-f", "raw", "-c", "write -P 9 0 512"]).await.unwrap();
        assert!(!write.status.success(), "{write:?}");
        assert!(served.exports.remove("vm/disk 0") && !served.exports.remove("vm/disk 0"));
        let gone = io(&["-r", "-f", "raw", "-c", "read 0 16"]).await.unwrap();
        assert!(!gone.status.success(), "{gone:?}");
    });
}

#[test]
fn many_reads_are_in_flight_at_once() {
    block_on(async {
        let served = Served::start(200 * BLOCK, Limits { in_flight: 8, ..Limits::default() });
        let client = Client::connect(&served.address(), "vm/disk 0", &[ALLOCATION]).await.unwrap();
        assert_eq!(client.bytes(), 200 * BLOCK);
        let mut reads = tokio::task::JoinSet::new();
        for block in 0..197 {
            let client = client.clone();
            reads.spawn(async move { (block, client.read(block * BLOCK + 5, 3 * BLOCK as usize).await.unwrap()) });
        }
        while let Some(read) = reads.join_next().await {
            let (block, data) = read.unwrap();
            let start = block * BLOCK + 5;
            assert!(
                data.len() == 3 * BLOCK as usize && (start..).zip(&data).all(|(at, byte)| Pattern::byte(at) == *byte)
            );
        }
        let most = served.disk.in_flight_most.load(Ordering::SeqCst);
        assert!((2..=8).contains(&most), "{most} at once");
        // Longer than a piece, and to the last byte.
        let data = client.read(0, 200 * BLOCK as usize).await.unwrap();
        assert!((0..).zip(&data).all(|(at, byte)| Pattern::byte(at) == *byte));
    });
}

#[test]
fn block_status_goes_on_to_the_end() {
    block_on(async {
        let served = Served::start(100 * BLOCK + 512, Limits::default());
        let client = Client::connect(&served.address(), "vm/disk 0", &[ALLOCATION]).await.unwrap();
        let statuses = client.statuses(ALLOCATION, 0, client.bytes(), 1000).await.unwrap();
        assert_eq!(statuses.iter().map(|status| status.bytes).sum::<u64>(), client.bytes());
        assert_eq!(statuses.len(), 68);
        assert!(statuses.iter().enumerate().all(|(i, status)| status.flags == if i % 2 == 0 { 0 } else { 3 }));
        let part = client.statuses(ALLOCATION, BLOCK / 2, BLOCK, 10).await.unwrap();
        assert_eq!(
            part.iter().map(|status| (status.offset, status.bytes)).collect::<Vec<_>>(),
            [(BLOCK / 2, BLOCK / 2), (BLOCK, BLOCK / 2)]
        );
        let error = client.statuses(ALLOCATION, 0, client.bytes(), 10).await.unwrap_err();
        assert!(matches!(error, Error::Limit { limit: 10, .. }), "{error}");
    });
}

#[test]
fn what_cannot_be_done_is_an_error_and_the_connection_goes_on() {
    block_on(async {
        let served = Served::start(100 * BLOCK, Limits::default());
        let error = Client::connect(&served.address(), "other", &[]).await.unwrap_err();
        assert!(matches!(error, Error::Export { .. }), "{error}");
        let error = Client::connect(&served.address(), "vm/disk 0", &["qemu:dirty-bitmap:b"]).await.unwrap_err();
        assert!(matches!(error, Error::Export { .. }), "{error}");
        let client = Client::connect(&served.address(), "vm/disk 0", &[]).await.unwrap();
        assert!(matches!(client.read(100 * BLOCK - 1, 2).await, Err(Error::Invalid { .. })));
        assert!(matches!(client.read(u64::MAX, 2).await, Err(Error::Invalid { .. })));
        assert!(matches!(client.read(0, 33 << 20).await, Err(Error::Limit { .. })));
        assert!(matches!(client.trim(0, 512).await, Err(Error::Unsupported { .. })));
        assert!(matches!(client.statuses(ALLOCATION, 0, 1, 1).await, Err(Error::Invalid { .. })));
        served.disk.is_broken.store(true, Ordering::SeqCst);
        let error = client.read(0, 20 * BLOCK as usize).await.unwrap_err();
        assert!(matches!(error, Error::Request { errno: 5, .. }), "{error}");
        served.disk.is_broken.store(false, Ordering::SeqCst);
        assert_eq!(client.read(0, 512).await.unwrap().len(), 512);
        assert!(client.read(0, 0).await.unwrap().is_empty());
    });
}

#[test]
fn one_client_more_than_may_be_is_closed() {
    block_on(async {
        let served = Served::start(BLOCK, Limits { clients: 2, ..Limits::default() });
        let first = Client::connect(&served.address(), "vm/disk 0", &[]).await.unwrap();
        let second = Client::connect(&served.address(), "vm/disk 0", &[]).await.unwrap();
        assert!(Client::connect(&served.address(), "vm/disk 0", &[]).await.is_err());
        second.disconnect();
        // Its place is free once the server has seen it go.
        while Client::connect(&served.address(), "vm/disk 0", &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(first.read(0, 512).await.unwrap().len(), 512);
    });
}

#[test]
fn a_server_that_ends_is_told_to_all_who_wait() {
    block_on(async {
        let Served { directory, disk, exports, _server: server } = Served::start(BLOCK, Limits::default());
        let client = Client::connect(&Address::Unix(directory.path().join("nbd")), "vm/disk 0", &[]).await.unwrap();
        drop(server);
        let error = client.read(0, 512).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }) && client.is_closed(), "{error}");
        // The socket that is left is taken over; one that is listened on is not.
        let listener = Listener::unix(&directory.path().join("nbd")).unwrap();
        let _server = Server::start(listener, exports, Limits::default());
        assert!(Listener::unix(&directory.path().join("nbd")).is_err());
        drop(disk);
    });
}

/// Sends bytes to a server and gives what it answers before it closes.
async fn talk(served: &Served, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(served.path()).await.unwrap();
    // It may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[test]
fn a_client_that_talks_rubbish_is_closed_and_others_go_on() {
    block_on(async {
        let served = Served::start(BLOCK, Limits::default());
        let hello = |rest: &[u8]| [&[0, 0, 0, 3], rest].concat();
        let option = |kind: u32, length: u32, data: &[u8]| {
            [b"IHAVEOPT".as_slice(), &kind.to_be_bytes(), &length.to_be_bytes(), data].concat()
        };
        for rubbish in [
            Vec::new(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            hello(b"IHAVE"),
            hello(&option(7, u32::MAX, b"")),
            hello(&option(7, 4, &[255; 4])),
            hello(&option(10, 12, &[0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0])),
            hello(&option(1, 2, &[0xff, 0xff])),
            hello(&option(99, 0, b"").repeat(1000)),
            [hello(&option(1, 9, b"vm/disk 0")), vec![0xff; 28]].concat(),
        ] {
            let answer = talk(&served, &rubbish).await;
            assert!(answer.len() < 4096, "{} bytes to {rubbish:?}", answer.len());
        }
        let client = Client::connect(&served.address(), "vm/disk 0", &[]).await.unwrap();
        assert_eq!(client.read(0, 512).await.unwrap().len(), 512);
    });
}

#[test]
fn a_write_is_refused_and_its_data_skipped() {
    block_on(async {
        let served = Served::start(BLOCK, Limits::default());
        let request = |command: u16, cookie: u64, bytes: u32| {
            let head = [&[0x25, 0x60, 0x95, 0x13, 0, 0][..], &command.to_be_bytes(), &cookie.to_be_bytes()].concat();
            [&head[..], &0u64.to_be_bytes(), &bytes.to_be_bytes()].concat()
        };
        let mut bytes = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x09vm/disk 0".to_vec();
        bytes.extend(request(1, 7, 1 << 20));
        bytes.extend(vec![0x25; 1 << 20]);
        bytes.extend(request(0, 8, 4));
        bytes.extend(request(2, 9, 0));
        let mut stream = UnixStream::connect(served.path()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        // Greeting, size and flags; then two simple replies in either order.
        let replies = &answer[18 + 10..];
        let refused = [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 1][..], &7u64.to_be_bytes()].concat();
        let data = [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &8u64.to_be_bytes(), &[1, 2, 3, 4]].concat();
        let is_either = replies == [&refused[..], &data].concat() || replies == [&data[..], &refused].concat();
        assert!(is_either, "{replies:?}");
    });
}

/// Serves one client a handshake and then `script` to its first request.
async fn lie(handshake: &'static [u8], script: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Result<Bytes, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").await.unwrap();
        let mut head = [0; 4 + 16];
        stream.read_exact(&mut head).await.unwrap();
        let reply = |option: u8, kind: [u8; 4], data: &[u8]| {
            let length = (data.len() as u32).to_be_bytes();
            [&0x3_e889_0455_65a9_u64.to_be_bytes()[..], &[0, 0, 0, option], &kind, &length, data].concat()
        };
        stream.write_all(&reply(8, [0, 0, 0, 1], &[])).await.unwrap();
        let mut go = [0; 16 + 4 + 1 + 4];
        stream.read_exact(&mut go).await.unwrap();
        if !handshake.is_empty() {
            let _ = stream.write_all(handshake).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            return;
        }
        let size = [&[0, 0][..], &(1u64 << 20).to_be_bytes(), &[0, 3]].concat();
        stream.write_all(&reply(7, [0, 0, 0, 3], &size)).await.unwrap();
        stream.write_all(&reply(7, [0, 0, 0, 1], &[])).await.unwrap();
        let mut request = [0; 28];
        stream.read_exact(&mut request).await.unwrap();
        let cookie = u64::from_be_bytes(request[8..16].try_into().unwrap());
        let _ = stream.write_all(&script(cookie)).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let answer = async { Client::connect(&Address::Unix(path), "d", &[]).await?.read(4096, 1024).await }.await;
    server.await.unwrap();
    answer
}

/// A chunk of a structured reply.
fn chunk(flags: u8, kind: u16, cookie: u64, length: u32, body: &[u8]) -> Vec<u8> {
    [&[0x66, 0x8e, 0x33, 0xef, 0, flags][..], &kind.to_be_bytes(), &cookie.to_be_bytes(), &length.to_be_bytes(), body]
        .concat()
}

#[test]
fn a_lying_server_is_told_from_a_good_one() {
    block_on(async {
        let data = |offset: u64, bytes: usize| [&offset.to_be_bytes()[..], &vec![9; bytes]].concat();
        let good = lie(b"", move |cookie| {
            let first = chunk(0, 1, cookie, 8 + 512, &data(4096 + 512, 512));
            let hole = [&4096u64.to_be_bytes()[..], &512u32.to_be_bytes()].concat();
            [first, chunk(0, 2, cookie, 12, &hole), chunk(1, 0, cookie, 0, &[])].concat()
        });
        assert_eq!(good.await.unwrap(), [[0; 512], [9; 512]].concat());
        type Script = Box<dyn Fn(u64) -> Vec<u8> + Send>;
        let lies: Vec<(&str, Script)> = vec![
            ("too little", Box::new(move |c| chunk(1, 1, c, 8 + 512, &data(4096, 512)))),
            ("elsewhere", Box::new(move |c| chunk(1, 1, c, 8 + 1024, &data(0, 1024)))),
            ("too much", Box::new(move |c| chunk(1, 1, c, 8 + 2048, &data(4096, 2048)))),
            ("twice", Box::new(move |c| chunk(0, 1, c, 8 + 1024, &data(4096, 1024)).repeat(2))),
            ("huge", Box::new(move |c| chunk(1, 1, c, u32::MAX, &data(4096, 0)))),
            ("huge error", Box::new(move |c| chunk(1, 0x8001, c, u32::MAX, &[]))),
            (
                "huge hole",
                Box::new(move |c| chunk(1, 2, c, 12, &[&4096u64.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat())),
            ),
            ("offset at the end", Box::new(move |c| chunk(1, 1, c, 8 + 16, &data(u64::MAX, 16)))),
            ("error without a number", Box::new(move |c| chunk(1, 0x8001, c, 2, &[0, 5]))),
            ("another's", Box::new(move |c| chunk(1, 1, c + 1, 8 + 1024, &data(4096, 1024)))),
            ("status", Box::new(move |c| chunk(1, 5, c, 12, &[0; 12]))),
            ("unknown", Box::new(move |c| chunk(1, 77, c, 0, &[]))),
            ("simple", Box::new(move |c| [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &c.to_be_bytes()].concat())),
            ("rubbish", Box::new(move |_| b"HTTP/1.1 400 Bad Request".to_vec())),
            ("nothing", Box::new(move |_| Vec::new())),
        ];
        for (name, script) in lies {
            let script: Script = Box::new(move |cookie| {
                let mut bytes = script(cookie);
                // So that it is not the end of the stream that is noticed.
                bytes.extend([0; 64]);
                bytes
            });
            let error = lie(b"", script).await.expect_err(name);
            assert!(
                matches!(error, Error::Protocol { .. } | Error::Closed { .. } | Error::Limit { .. }),
                "{name}: {error}"
            );
        }
        for handshake in [&b"nonsense"[..], b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\xff\xff\xff\xff"] {
            let handshake: Vec<u8> = [handshake, &[0; 64]].concat();
            let error = lie(handshake.leak(), |_| Vec::new()).await.unwrap_err();
            assert!(matches!(error, Error::Protocol { .. } | Error::Limit { .. }), "{error}");
        }
    });
}
