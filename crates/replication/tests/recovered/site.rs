//! A destination with an instance of a machine that can be booted.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_blocks::format::{block_count, encode_leaf, hash_of, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Block, DiskSize, Hash, LEAF_BLOCKS, Name, Store};
use lockstep_replication::recovered::{
    Accelerator, Config, Hardware, Observer, Power, Process, Purpose, Recoveries, Wanted,
};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Long enough for anything on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const REPLICATION: &str = "c0ffee00-0000-4000-8000-000000000001";
pub const INSTANCE: &str = "h4replica-c0ffee00-0000-4000-8000-0000000000aa";
pub const DISKS: [DiskSize; 2] = [
    // 1024 blocks, and a part of one.
    DiskSize { key: 2000, bytes: (64 << 20) + 1536 },
    DiskSize { key: 2001, bytes: 8 << 20 },
];

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Whether the programs are there; says which is not.
fn has_programs() -> bool {
    ["qemu-system-x86_64", "qemu-img", "as", "ld"].iter().all(|program| {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.inspect_err(|error| eprintln!("skipped: {program} cannot be started: {error}")).is_ok()
    })
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn name() -> Name {
    Name::new(REPLICATION, INSTANCE).unwrap()
}

/// A directory with a store that has the instance; whatever QEMU is left in it is killed at the end.
pub struct Site {
    pub directory: TempDir,
    pub store: Store,
    pub root: Hash,
}

impl Drop for Site {
    fn drop(&mut self) {
        let place = self.directory.path().to_string_lossy().into_owned();
        for pid in processes_of(&place) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

/// Those whose arguments name a path.
pub fn processes_of(path: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let names = |pid: &i32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(path)
    };
    pids.filter(names).collect()
}

impl Site {
    /// None, with the reason printed, where there are no programs for it.
    pub fn new() -> Option<Self> {
        if !has_programs() {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("ls").tempdir().unwrap();
        std::fs::create_dir(directory.path().join("store")).unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let boot = boot_sector(directory.path());
        let draft = store.begin(&name(), None, &DISKS).unwrap();
        let mut leaves = BTreeMap::new();
        for disk in DISKS {
            let mut map = vec![None; block_count(disk.bytes) as usize];
            // Some data and many zeroes; the last block is a short one.
            for number in
                (0..map.len()).filter(|number| number % 7 < 2 || number + 1 == block_count(disk.bytes) as usize)
            {
                let at = number as u64 * BLOCK_BYTES as u64;
                let mut content = vec![0; (disk.bytes - at).min(BLOCK_BYTES as u64) as usize];
                let mut seed = number as u32 ^ disk.key;
                for word in content.chunks_mut(4) {
                    seed = seed.wrapping_mul(69069).wrapping_add(1);
                    word.copy_from_slice(&seed.to_le_bytes()[..word.len()]);
                }
                if (disk.key, number) == (2000, 0) {
                    content[..512].copy_from_slice(&boot);
                }
                if (disk.key, number) == (2001, 0) {
                    content[512] = b'Z';
                }
                let block = Block::of_plain(&content);
                map[number] = Some(block.hash);
                draft.put(&[block]).unwrap();
                draft.set(disk.key, &[(number as u32, map[number])]).unwrap();
            }
            let hashes: Vec<Hash> = map.chunks(LEAF_BLOCKS as usize).map(|leaf| hash_of(&encode_leaf(leaf))).collect();
            leaves.insert(disk.key, hashes);
        }
        draft.flush().unwrap();
        let root = root_hash(DISKS.iter().map(|disk| (disk.key, disk.bytes, &*leaves[&disk.key])));
        draft.commit(&root, 1).unwrap();
        Some(Self { directory, store, root })
    }

    pub fn recovered(&self) -> PathBuf {
        self.directory.path().join("recovered")
    }

    pub fn place(&self) -> PathBuf {
        self.recovered().join(REPLICATION)
    }

    pub fn config(&self) -> Config {
        Config {
            directory: self.recovered(),
            store: self.store.clone(),
            qemu: "qemu-system-x86_64".into(),
            accelerator: Accelerator::Tcg,
            qemu_img: "qemu-img".into(),
        }
    }

    /// Once those of before are gone: a process that is killed closes its socket at once, but what is dropped ends a moment later.
    pub async fn open_with(&self, config: Config) -> Recoveries {
        let began = Instant::now();
        while UnixStream::connect(self.recovered().join("nbd.sock")).is_ok() {
            assert!(began.elapsed() < PATIENCE, "a server of before listens");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Recoveries::open(config).await.unwrap()
    }

    pub async fn open(&self) -> Recoveries {
        self.open_with(self.config()).await
    }

    pub fn wanted(&self, purpose: Purpose, power_on: bool) -> Wanted {
        let uuid = "c0ffee00-0000-4000-8000-000000000002".to_owned();
        let hardware = Hardware { name: "one, and only".to_owned(), uuid, cpus: 1, memory_mib: 32, bridge: None };
        Wanted { instance: name(), root: Some(self.root), purpose, hardware, power_on }
    }

    pub fn is_pinned(&self) -> bool {
        self.store.instance(&name()).unwrap().state.is_pinned
    }

    /// Nothing is left but the server's socket and the list of what is held, which is empty.
    pub fn assert_nothing_left(&self) {
        let mut left: Vec<_> =
            std::fs::read_dir(self.recovered()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        left.retain(|name| name != "nbd.sock" && name != "holds");
        assert_eq!(left, Vec::<std::ffi::OsString>::new());
        let holds = std::fs::read_to_string(self.recovered().join("holds")).unwrap_or("[]\n".into());
        assert_eq!(holds, "[]\n");
        let place = self.place();
        assert_eq!(processes_of(place.to_str().unwrap()), Vec::<i32>::new());
        assert!(!self.is_pinned());
    }

    /// All bytes of a disk of the instance.
    pub fn content(&self, disk: DiskSize) -> Vec<u8> {
        let mut content = vec![0; disk.bytes as usize];
        self.store.open_disk(&name(), disk.key).unwrap().read_at(0, &mut content).unwrap();
        content
    }

    /// Changes the state's file, as if it had been written at another moment.
    pub fn edit_state(&self, from: &str, to: &str) {
        let path = self.place().join("state");
        let before = std::fs::read_to_string(&path).unwrap();
        assert!(before.contains(from), "{before}");
        std::fs::write(&path, before.replace(from, to)).unwrap();
    }

    pub fn disk(&self, key: u32) -> String {
        self.place().join(format!("disk-{key}.qcow2")).to_str().unwrap().to_owned()
    }

    /// A disk that nobody has open, as raw bytes; what it has of the instance is read from the instance.
    pub fn image_content(&self, key: u32) -> Vec<u8> {
        let raw = self.directory.path().join("read.raw");
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &self.disk(key), raw.to_str().unwrap()]);
        let content = std::fs::read(&raw).unwrap();
        std::fs::remove_file(raw).unwrap();
        content
    }
}

fn boot_sector(directory: &Path) -> [u8; 512] {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recovered/guest.S");
    let (object, image) = (directory.join("guest.o"), directory.join("guest.raw"));
    let (object, image) = (object.to_str().unwrap(), image.to_str().unwrap());
    run("as", &["--32", source.to_str().unwrap(), "-o", object]);
    run("ld", &["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", image, object]);
    let mut sector = [0; 512];
    File::open(image).unwrap().read_exact_at(&mut sector, 0).unwrap();
    sector
}

/// Kills a process; it is gone when this returns, though nobody may have asked how it ended.
pub async fn kill(pid: i32) {
    run("kill", &["-9", &pid.to_string()]);
    let began = Instant::now();
    // Its other threads may be there for longer than the first one.
    let is_there = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        threads > 1 || threads == 1 && !stat.contains(") Z ")
    };
    while is_there() {
        assert!(began.elapsed() < PATIENCE, "{pid} is not gone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a machine has said something, and answers all that it said since the last call.
pub async fn wait_said(recoveries: &Recoveries, words: &str) -> String {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        said += &recoveries.console(REPLICATION).await.unwrap();
        if said.contains(words) {
            return said;
        }
        assert!(began.elapsed() < PATIENCE, "the machine said {said:?}, not {words:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a machine is off.
pub async fn wait_off(recoveries: &Recoveries) {
    let began = Instant::now();
    while recoveries.get(REPLICATION).unwrap().power != Power::Off {
        assert!(began.elapsed() < PATIENCE, "the machine is on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn process(recoveries: &Recoveries) -> Process {
    match recoveries.get(REPLICATION).unwrap().power {
        Power::On(process) => process,
        other => panic!("the machine is {other:?}"),
    }
}

/// Notes the first report of progress, and may cancel.
#[derive(Default)]
pub struct Watcher {
    pub is_cancelling: bool,
    pub begun: Notify,
}

impl Observer for Watcher {
    fn copied(&self, done_bytes: u64, total_bytes: u64) {
        assert!(done_bytes <= total_bytes);
        self.begun.notify_one();
    }

    fn log(&self, _: String) {}

    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            match self.is_cancelling {
                true => self.begun.notified().await,
                false => std::future::pending().await,
            }
        })
    }
}
