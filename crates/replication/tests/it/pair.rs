//! A destination behind a real server, a wire to it that can be cut, and machines whose disks are replicated there.

#![allow(dead_code, clippy::unwrap_used, reason = "for tests and benches, which use different parts of it")]

#[path = "store.rs"]
pub mod store;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lockstep_api::ApiConfig;
use lockstep_blocks::Name;
use lockstep_client::{Client, Config, Login, Trust};
use lockstep_contract::services::accounts::{IssueTokenInput, Role};
use lockstep_contract::{Error, Secret};
use lockstep_query::Limits;
use lockstep_replication::limit::{Line, Memory};
use lockstep_replication::receive::{InstanceStore, Key, Owners, Receive};
use lockstep_replication::ship::{
    Base, Disk, DiskSource, Extent, Kind, LocalDisk, Progress, Reading, ShipError, Shipment, Shipped, SourceError,
    TAG_BYTES, Tagger, Unlisted, Way, ship,
};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::Table;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use store::Store;

pub const BLOCK: usize = 65536;

/// What tags are made under.
pub const TAG_KEY: [u8; TAG_BYTES] = [7; TAG_BYTES];

/// Enough like random.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// The name of an instance.
    pub fn instance(&mut self) -> String {
        let hex = format!("{:016x}{:016x}", self.next(), self.next());
        format!("h4replica-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// The link `link-N` has the replications `N-…`.
struct ByName;

impl Owners for ByName {
    fn check(&self, caller: &Caller, replication: &str) -> Result<(), Error> {
        let owner = replication.split('-').next().unwrap_or_default();
        if *caller.name() == *format!("link-{owner}") {
            return Ok(());
        }
        Err(Error::not_found("lockstep.replication.not_found", "there is no such replication", Vec::new()))
    }
}

/// A wire that may break, and counts what goes to the destination.
pub struct Wire {
    pub address: SocketAddr,
    state: Arc<WireState>,
}

struct WireState {
    to: Mutex<Option<SocketAddr>>,
    sent: AtomicU64,
    /// Told of whenever bytes went, with their sum.
    told: watch::Sender<u64>,
    /// Changes when all connections break.
    breaks: watch::Sender<u64>,
}

impl Wire {
    async fn lay() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(WireState {
            to: Mutex::default(),
            sent: AtomicU64::new(0),
            told: watch::Sender::new(0),
            breaks: watch::Sender::new(0),
        });
        let here = state.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = here.clone();
                let mut broken = state.breaks.subscribe();
                let breaks = *broken.borrow_and_update();
                tokio::spawn(async move {
                    let to = *state.to.lock();
                    let Some(to) = to else { return };
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let (mut near_in, mut near_out) = near.into_split();
                    let (mut far_in, mut far_out) = far.into_split();
                    tokio::select! {
                        () = carry(&mut near_in, &mut far_out, &state, breaks, true) => {}
                        () = carry(&mut far_in, &mut near_out, &state, breaks, false) => {}
                        _ = broken.changed() => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    /// Bytes that went to the destination.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes have gone.
    pub async fn wait_for(&self, bytes: u64) {
        let mut told = self.state.told.subscribe();
        let _ = told.wait_for(|sent| *sent >= bytes).await;
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.state.breaks.send_modify(|breaks| *breaks += 1);
    }
}

async fn carry(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    state: &WireState,
    breaks: u64,
    is_counted: bool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if *state.breaks.borrow() != breaks {
            return;
        }
        if is_counted {
            let sent = state.sent.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
            state.told.send_replace(sent);
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// The destination, the wire to it, and what the source has of it.
pub struct Pair {
    site: Arc<Site>,
    dir: tempfile::TempDir,
    pub maps: tempfile::TempDir,
    store: Mutex<Store>,
    /// The store of the product, in a directory, in place of the one that forgets.
    real: Option<Real>,
    server: Mutex<Option<Server>>,
    pub wire: Wire,
    tokens: [Secret; 2],
    pub line: Arc<Line>,
    pub memory: Memory,
}

struct Real {
    dir: tempfile::TempDir,
    store: Mutex<Option<lockstep_blocks::Store>>,
}

impl Real {
    /// Opens it again, as soon as the server that was killed has let go of it.
    fn open(&self) -> lockstep_blocks::Store {
        *self.store.lock() = None;
        let store = loop {
            match lockstep_blocks::Store::open(self.dir.path()) {
                Ok(store) => break store,
                Err(lockstep_blocks::Error::Locked) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        };
        *self.store.lock() = Some(store.clone());
        store
    }
}

struct Server {
    runtime: Runtime,
    receive: Arc<Receive>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open_site(dir: &Path) -> Arc<Site> {
    let config = lockstep_site::Config {
        name: "s".to_owned(),
        data_dir: dir.to_owned(),
        journal: lockstep_journal::Config::default(),
        query_limits: Limits::default(),
        sessions: lockstep_site::sessions::SessionLimits::default(),
        epoch_types: Vec::new(),
    };
    Site::open(config, &mut |_| {}).unwrap()
}

impl Pair {
    /// With the store that forgets all it may.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With the product's store.
    pub async fn start_real() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_with(Some(Real { dir, store: Mutex::default() })).await
    }

    async fn start_with(real: Option<Real>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = open_site(dir.path());
        let issue = async |user: &str| {
            let input = IssueTokenInput { user: user.to_owned(), role: Role::Link, description: None };
            site.issue_token(&Caller::Server("test"), input).await.unwrap()
        };
        let tokens = [issue("link-1").await, issue("link-2").await];
        let pair = Self {
            site,
            dir,
            maps: tempfile::tempdir().unwrap(),
            store: Mutex::new(Store::new()),
            real,
            server: Mutex::default(),
            wire: Wire::lay().await,
            tokens,
            line: Line::new(None),
            memory: Memory::default(),
        };
        pair.revive();
        pair
    }

    pub fn store(&self) -> Store {
        self.store.lock().clone()
    }

    /// A disk of an instance, whole.
    pub fn content(&self, key: &Key, disk: u32) -> Vec<u8> {
        let Some(real) = &self.real else { return self.store().content(key, disk) };
        let store = real.store.lock().clone().unwrap();
        let reader = store.open_disk(&Name::new(&key.replication, &key.instance).unwrap(), disk).unwrap();
        let mut content = vec![0; reader.bytes() as usize];
        reader.read_at(0, &mut content).unwrap();
        content
    }

    /// How many instances and drafts a replication has.
    pub fn counts(&self, replication: &str) -> (usize, usize) {
        let Some(real) = &self.real else { return (self.store().instances().len(), self.store().draft_count()) };
        let store = real.store.lock().clone().unwrap();
        (store.instances(replication).len(), store.drafts(replication).len())
    }

    /// The product's store.
    pub fn stored(&self) -> lockstep_blocks::Store {
        self.real.as_ref().unwrap().store.lock().clone().unwrap()
    }

    /// Flips a bit of something that the product's store has, by its hash.
    pub fn damage(&self, hash: &[u8; 32]) {
        // The bytes follow the head of the record, which begins with the hash.
        const RECORD_HEAD_BYTES: usize = 48;
        for file in std::fs::read_dir(self.real.as_ref().unwrap().dir.path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let is_pack = path.file_name().unwrap().to_str().unwrap().starts_with("pack.");
            let Some(at) = bytes.windows(32).position(|part| part == hash).filter(|_| is_pack) else { continue };
            bytes[at + RECORD_HEAD_BYTES] ^= 1;
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&bytes[at..=at + RECORD_HEAD_BYTES], at as u64).unwrap();
            return;
        }
        panic!("it is not there");
    }

    pub fn receive(&self) -> Arc<Receive> {
        self.server.lock().as_ref().unwrap().receive.clone()
    }

    /// Ends the server at once, as if it were killed.
    pub fn kill(&self) {
        *self.wire.state.to.lock() = None;
        // First of all: who is killed answers nobody.
        self.wire.cut();
        if let Some(server) = self.server.lock().take() {
            server.runtime.shutdown_background();
        }
    }

    /// Starts it, with what was durable.
    pub fn revive(&self) {
        let store = {
            let mut store = self.store.lock();
            *store = store.crashed();
            store.clone()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store: Arc<dyn InstanceStore> = match &self.real {
            Some(real) => Arc::new(real.open()),
            None => Arc::new(store),
        };
        let receive = Receive::new(store, Arc::new(ByName)).unwrap();
        let mut table = Table::default();
        receive.register(&mut table);
        let (tell, told) = std::sync::mpsc::channel();
        let site = self.site.clone();
        runtime.spawn(async move {
            let listener = lockstep_api::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let never = std::future::pending::<()>();
            lockstep_api::serve(site, Arc::new(table), listener, ApiConfig::default(), never).await.unwrap();
        });
        *self.wire.state.to.lock() = Some(told.recv().unwrap());
        *self.server.lock() = Some(Server { runtime, receive });
    }

    /// Serves other operations with the same accounts.
    pub async fn serve(&self, table: Table) -> SocketAddr {
        let listener = lockstep_api::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let never = std::future::pending::<()>();
        tokio::spawn(lockstep_api::serve(self.site.clone(), Arc::new(table), listener, ApiConfig::default(), never));
        address
    }

    pub fn login(&self) -> Login {
        Login::Token(self.tokens[0].clone())
    }

    /// A client as the link of that number.
    pub fn client(&self, link: usize) -> Client {
        let url = format!("http://{}", self.wire.address);
        Client::new(Config { url, login: Login::Token(self.tokens[link - 1].clone()), trust: Trust::Anything }).unwrap()
    }

    pub fn way(&self) -> Way {
        Way {
            client: self.client(1),
            line: self.line.clone(),
            memory: self.memory.clone(),
            maps: Some(self.maps.path().to_owned()),
            tagger: Tagger::new(&TAG_KEY),
            patience: Duration::from_secs(60),
        }
    }
}

/// A disk's image in a file, and which stretches of it are listed.
pub struct FileDisk {
    file: Arc<std::fs::File>,
    bytes: u64,
    extents: Vec<Extent>,
    released: Mutex<Vec<(u64, u64)>>,
    /// What is left of the bytes that can be read before it fails.
    pub left: AtomicU64,
    /// Whether it says that it is a file.
    pub is_local: bool,
}

impl FileDisk {
    /// A copy of `content`.
    pub fn new(content: &[u8], extents: Vec<Extent>) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(content.len() as u64).unwrap();
        for (i, block) in content.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, (i * BLOCK) as u64).unwrap();
            }
        }
        Self::of(file, content.len() as u64, extents)
    }

    pub fn of(file: std::fs::File, bytes: u64, extents: Vec<Extent>) -> Self {
        Self {
            file: Arc::new(file),
            bytes,
            extents,
            released: Mutex::default(),
            left: AtomicU64::new(u64::MAX),
            is_local: false,
        }
    }
}

impl FileDisk {
    fn check_released(&self, offset: u64, bytes: usize) {
        let end = offset + bytes as u64;
        for (first, behind) in &*self.released.lock() {
            assert!(end <= *first || offset >= *behind, "{offset} was released and is read again");
        }
    }
}

impl LocalDisk for FileDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.check_released(offset, buffer.len());
        self.file.read_exact_at(buffer, offset).map_err(|error| SourceError::of("reading the image", error))
    }
}

impl DiskSource for FileDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn extents(&self) -> Reading<'_, Vec<Extent>> {
        Box::pin(std::future::ready(Ok(self.extents.clone())))
    }

    fn local(&self) -> Option<&dyn LocalDisk> {
        self.is_local.then_some(self)
    }

    fn read(&self, offset: u64, bytes: usize) -> Reading<'_, Bytes> {
        self.check_released(offset, bytes);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes as u64)).is_err()
        {
            return Box::pin(std::future::ready(Err(SourceError::new("the machine is gone"))));
        }
        let file = self.file.clone();
        Box::pin(async move {
            let read = move || {
                let mut out = Vec::with_capacity(bytes);
                while out.len() < bytes {
                    let at = offset + out.len() as u64;
                    // Not filled with zeroes first: that would cost a good part of what hashing costs.
                    if rustix::io::pread(&*file, rustix::buffer::spare_capacity(&mut out), at)? == 0 {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                    }
                }
                out.truncate(bytes);
                Ok(Bytes::from(out))
            };
            let read = tokio::task::spawn_blocking(read).await.map_err(|e| SourceError::of("reading", e))?;
            read.map_err(|error| SourceError::of("reading the image", error))
        })
    }

    fn release(&self, offset: u64, bytes: u64) -> Reading<'_, ()> {
        self.released.lock().push((offset, offset + bytes));
        Box::pin(std::future::ready(Ok(())))
    }
}

/// How a sync finds out what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is told what changed.
    Bitmap,
    /// It reads everything that is no hole.
    Compare,
    /// It reads everything.
    Full,
}

/// A machine with disks in memory.
pub struct Machine {
    pub replication: String,
    pub disks: Vec<Vec<u8>>,
    /// Blocks that changed since the last commit, by disk.
    pub changed: Vec<BTreeSet<u32>>,
    pub base: Option<Base>,
    pub random: Random,
    /// Whether its disks are read as files; without it either way has its turn.
    pub is_local: Option<bool>,
}

impl Machine {
    pub fn new(seed: u64, sizes: &[usize]) -> Self {
        Self {
            replication: "1-vm".to_owned(),
            disks: sizes.iter().map(|bytes| vec![0; *bytes]).collect(),
            changed: vec![BTreeSet::new(); sizes.len()],
            base: None,
            random: Random::new(seed),
            is_local: None,
        }
    }

    /// Fills a block with what the random number says: noise, text, zeroes, or what another block has.
    pub fn write(&mut self, disk: usize, block: usize) {
        let size = self.disks[disk].len();
        let from = block * BLOCK;
        let to = (from + BLOCK).min(size);
        let mut new = vec![0; to - from];
        match self.random.below(8) {
            0 => {}
            1 => {
                let other = self.random.below(size.div_ceil(BLOCK) as u64) as usize * BLOCK;
                let end = (other + new.len()).min(size);
                new[..end - other].copy_from_slice(&self.disks[disk][other..end]);
            }
            2..4 => {
                let letter = self.random.next() as u8;
                new.iter_mut().enumerate().for_each(|(i, byte)| *byte = letter.wrapping_add((i / 100) as u8));
            }
            _ => self.random.fill(&mut new),
        }
        self.disks[disk][from..to].copy_from_slice(&new);
        self.changed[disk].insert(block as u32);
    }

    /// Writes so many blocks anywhere.
    pub fn churn(&mut self, blocks: usize) {
        for _ in 0..blocks {
            let disk = self.random.below(self.disks.len() as u64) as usize;
            let block = self.random.below(self.disks[disk].len().div_ceil(BLOCK) as u64) as usize;
            self.write(disk, block);
        }
    }

    fn extents(&self, disk: usize, mode: Mode) -> Vec<Extent> {
        let size = self.disks[disk].len();
        let extent = |block: u32, kind| Extent {
            offset: u64::from(block) * BLOCK as u64,
            bytes: (size - block as usize * BLOCK).min(BLOCK) as u64,
            kind,
        };
        match mode {
            Mode::Bitmap => {
                let is_zero = |block: u32| {
                    let from = block as usize * BLOCK;
                    self.disks[disk][from..(from + BLOCK).min(size)].iter().all(|byte| *byte == 0)
                };
                // Some zeroes are known to be ones, others have to be found.
                let kind = |block: u32| if is_zero(block) && block.is_multiple_of(2) { Kind::Zero } else { Kind::Data };
                self.changed[disk].iter().map(|block| extent(*block, kind(*block))).collect()
            }
            Mode::Compare => {
                let blocks = self.disks[disk].chunks(BLOCK).enumerate();
                let data = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
                data.map(|(i, _)| extent(i as u32, Kind::Data)).collect()
            }
            Mode::Full => vec![Extent { offset: 0, bytes: size as u64, kind: Kind::Data }],
        }
    }

    /// A reading of the machine as it is now.
    pub fn shipment(&mut self, mode: Mode) -> Shipment {
        let mode = if self.base.is_none() && mode == Mode::Bitmap { Mode::Compare } else { mode };
        let turn = self.random.next() as usize;
        let disk = |(i, content): (usize, &Vec<u8>)| {
            let mut file = FileDisk::new(content, self.extents(i, mode));
            file.is_local = self.is_local.unwrap_or((turn + i).is_multiple_of(2));
            Disk { key: 2000 + i as u32, source: Arc::new(file) }
        };
        Shipment {
            replication: self.replication.clone(),
            disks: self.disks.iter().enumerate().map(disk).collect(),
            base: self.base.clone(),
            unlisted: if mode == Mode::Bitmap { Unlisted::Unchanged } else { Unlisted::Zero },
            time_ms: 1_800_000_000_000,
            instance: self.random.instance(),
            is_again: false,
        }
    }

    /// Adds what each block that changed, and is not zeroes, takes when it is packed.
    pub fn pack_changed(&self, packed: &mut HashMap<blake3::Hash, u64>) {
        for (disk, changed) in self.disks.iter().zip(&self.changed) {
            for block in changed {
                let from = *block as usize * BLOCK;
                let plain = &disk[from..(from + BLOCK).min(disk.len())];
                if plain.iter().any(|byte| *byte != 0) {
                    let size = || zstd::bulk::compress(plain, 1).unwrap().len().min(plain.len()) as u64;
                    packed.entry(blake3::hash(plain)).or_insert_with(size);
                }
            }
        }
    }

    /// A sync was committed.
    pub fn committed(&mut self, shipped: &Shipped) {
        let instance = &shipped.instance;
        self.base = Some(Base { instance: instance.instance.clone(), root: Some(instance.root.clone()) });
        self.changed.iter_mut().for_each(BTreeSet::clear);
    }

    /// A sync that nothing disturbs.
    pub async fn sync(&mut self, pair: &Pair, mode: Mode) -> Result<Shipped, ShipError> {
        let shipment = self.shipment(mode);
        let shipped = ship(shipment, &pair.way(), progress()).await?;
        self.committed(&shipped);
        self.check(pair);
        Ok(shipped)
    }

    /// The instance that was committed last is what the disks are.
    pub fn check(&self, pair: &Pair) {
        let instance = self.base.as_ref().unwrap().instance.clone();
        let key = Key { replication: self.replication.clone(), instance };
        for (i, disk) in self.disks.iter().enumerate() {
            let there = pair.content(&key, 2000 + i as u32);
            assert!(there == *disk, "disk {i} differs");
        }
    }
}

pub fn progress() -> watch::Sender<Progress> {
    watch::Sender::new(Progress::default())
}
