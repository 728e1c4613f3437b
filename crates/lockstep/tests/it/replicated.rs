//! A machine that is replicated between two real sites, over a wire that can be cut, and what may be asked of them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::availability::{Api, BLOCK, id_of, image, machine, start, write_block};
use crate::links::{site, spec, wait_for_health};
use crate::server::{PASSWORD, Server, USER, eventually, http, read};
use crate::wire::{Random, Wire};

/// Whether the long form was asked for.
pub fn is_full() -> bool {
    std::env::var("LOCKSTEP_REPLICATION_FIRE").is_ok_and(|text| text == "full")
}

/// How long a task may take on a loaded machine.
const TASK_LIMIT: Duration = Duration::from_secs(300);

/// Two sites of which the first replicates a machine to the second. Its sync calls go over the wire.
pub struct Replicated {
    pub a: Server,
    pub b: Server,
    pub wire: Wire,
    /// Where the machine's disk is, and whatever else a test keeps.
    pub dir: TempDir,
    pub disk: PathBuf,
    /// The replication, as the API calls it.
    pub id: String,
    random: Random,
    written: u64,
    exports: usize,
}

impl Replicated {
    /// A machine with a raw disk of so many blocks, a third of which hold something, and its first instance.
    pub fn begin(blocks: usize, destination: &[&str]) -> Self {
        let (a, b) = (site("site1", &[]), site("site2", destination));
        Self::between(a, b, blocks, json!({}))
    }

    /// The same between these sites; `settings` are the replication's.
    pub fn between(a: Server, b: Server, blocks: usize, settings: Value) -> Self {
        let wire = Wire::lay(b.url.rsplit(':').next().unwrap().parse().unwrap(), Duration::ZERO);
        let link = a.ok("POST", "/api/hvc/links", &spec(&b, "site2.local", json!({"port": wire.port.to_string()})));
        let link = link.as_str().unwrap().to_owned();
        wait_for_health(&a, &link, "HEALTHY");
        wait_for_health(&b, &link, "HEALTHY");
        let dir = tempfile::tempdir().unwrap();
        let disk = image(dir.path(), "disk", blocks);
        machine(&a, "vm-1", "one", &[&disk]);
        let mut more = json!({"rpo": 1440});
        settings.as_object().unwrap().iter().for_each(|(name, value)| more[name] = value.clone());
        let id = id_of(&Api::log_in(&a).done("POST", "/vm-replications", &start("vm-1", more)));
        let this = Self { a, b, wire, dir, disk, id, random: Random(5), written: 1 << 32, exports: 0 };
        eventually(TASK_LIMIT, "the first instance", || {
            let shown = this.shown();
            assert!(shown["destinationState"]["lastError"].is_null(), "{shown}");
            (this.instances().len() == 1 && shown["task"].is_null()).then_some(())
        });
        this
    }

    pub fn at(&self, rest: &str) -> String {
        format!("/api/lockstep/replication/vm-replications/{}{rest}", self.id)
    }

    pub fn shown(&self) -> Value {
        self.a.ok("GET", &self.at(""), &Value::Null)
    }

    /// The keys of the instances that the destination shows, the oldest first.
    pub fn instances(&self) -> Vec<String> {
        keys(&self.b.ok("GET", &self.at("/instances"), &Value::Null))
    }

    /// Writes so many blocks that hold nothing like it, each somewhere else; answers which, in order.
    pub fn write(&mut self, count: usize) -> Vec<usize> {
        let blocks = usize::try_from(std::fs::metadata(&self.disk).unwrap().len()).unwrap() / BLOCK;
        let mut all: Vec<usize> = (0..blocks).collect();
        let mut chosen: Vec<usize> = (0..count).map(|_| all.swap_remove(self.random.below(all.len()))).collect();
        chosen.sort_unstable();
        for block in &chosen {
            self.written += 1;
            write_block(&self.disk, *block, self.written);
        }
        chosen
    }

    /// Keeps the disk as it is, to be compared later.
    pub fn keep(&self, name: &str) -> PathBuf {
        let kept = self.dir.path().join(name);
        std::fs::copy(&self.disk, &kept).unwrap();
        kept
    }

    /// Begins a sync.
    pub fn sync(&self) -> Value {
        self.a.ok("POST", &self.at("/sync"), &Value::Null)
    }

    /// The same, when none is under way: one that the schedule has begun before shows an instant that was before.
    pub fn sync_anew(&self) -> Value {
        eventually(TASK_LIMIT, "nothing to be under way", || self.shown()["task"].is_null().then_some(()));
        self.sync()
    }

    /// A task of the source as it is.
    pub fn task(&self, task: &Value) -> Value {
        task_of(&self.a, task)
    }

    /// A task of the source at its end.
    pub fn ended(&self, task: &Value) -> Value {
        eventually(TASK_LIMIT, "the end of a task", || Some(self.task(task)).filter(|task| task["state"] != "RUNNING"))
    }

    /// A task of the destination at its end.
    pub fn ended_there(&self, task: &Value) -> Value {
        let state = || Some(task_of(&self.b, task)).filter(|task| task["state"] != "RUNNING");
        eventually(TASK_LIMIT, "the end of a task", state)
    }

    pub fn done(&self, task: &Value) -> Value {
        let ended = self.ended(task);
        assert_eq!(ended["state"], "SUCCEEDED", "{ended} {}", self.log(task));
        ended
    }

    /// Syncs, which must fail; answers the error.
    pub fn sync_fails(&self) -> Value {
        let ended = self.ended(&self.sync());
        assert_eq!(ended["state"], "FAILED", "{ended}");
        ended["error"].clone()
    }

    pub fn log(&self, task: &Value) -> Value {
        self.a.ok("GET", &format!("/api/lockstep/tasks/{}/log", task["id"].as_str().unwrap()), &Value::Null)
    }

    /// Exports an instance; the disk that comes of it.
    pub fn export(&mut self, instance: &str) -> PathBuf {
        self.exports += 1;
        let name = format!("export-{}", self.exports);
        let begun = self.b.ok("POST", &self.at("/export"), &json!({"directory": name, "instanceId": instance}));
        let ended = self.ended_there(&begun);
        assert_eq!(ended["state"], "SUCCEEDED", "{ended}");
        self.b.data.path().join("exports").join(name).join("disk-2000.raw")
    }

    /// An instance holds what is in a file.
    pub fn check(&mut self, instance: &str, content: &Path) {
        let exported = self.export(instance);
        assert!(is_same(&exported, content), "{instance} is not {}", content.display());
        std::fs::remove_dir_all(exported.parent().unwrap()).unwrap();
    }

    /// Reads the whole store with the command line; whether it is as it should be, and what it says.
    pub fn verify(&self) -> (bool, String) {
        let output = self.b.cli(&["replication", "verify", &self.id]).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    }

    /// The whole store is as it should be.
    pub fn check_store(&self) {
        let (is_clean, said) = self.verify();
        assert!(is_clean, "{said}");
    }

    /// The instances are these, as what is in files, and the store is as it should be.
    pub fn check_all(&mut self, contents: &[&Path]) {
        let instances = self.instances();
        assert_eq!(instances.len(), contents.len());
        instances.iter().zip(contents).for_each(|(instance, content)| self.check(instance, content));
        self.check_store();
    }

    /// The store holds nothing but what instances need: no draft, no file that was being written.
    pub fn check_nothing_is_left(&self, store: &Path) {
        let files = std::fs::read_dir(store).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = files
            .filter(|file| ["draft.", "writing.", "beginning."].iter().any(|kind| file.starts_with(kind)))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// What a metric says.
    pub fn metric(server: &Server, name: &str) -> Option<f64> {
        let text = server.request("GET", "/metrics").send().unwrap().text().unwrap();
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

fn task_of(server: &Server, task: &Value) -> Value {
    server.ok("GET", &format!("/api/lockstep/tasks/{}", task["id"].as_str().unwrap()), &Value::Null)
}

fn keys(instances: &Value) -> Vec<String> {
    instances.as_array().unwrap().iter().map(|instance| instance["key"].as_str().unwrap().to_owned()).collect()
}

/// Whether two files hold the same.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (std::fs::File::open(one).unwrap(), std::fs::File::open(other).unwrap());
    if one.metadata().unwrap().len() != other.metadata().unwrap().len() {
        return false;
    }
    let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut here).unwrap();
        if count == 0 {
            return true;
        }
        other.read_exact(&mut there[..count]).unwrap();
        if here[..count] != there[..count] {
            return false;
        }
    }
}

/// Looks at the destination's instances all the time, whether it answers or not.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<String>>>,
}

impl Watch {
    pub fn begin(replicated: &Replicated) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (stop, url) = (is_over.clone(), format!("{}{}", replicated.b.url, replicated.at("/instances")));
        let http = http(Duration::from_secs(10));
        let thread = std::thread::spawn(move || {
            let mut seen: Vec<Vec<String>> = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                if let Ok(response) = http.get(&url).basic_auth(USER, Some(PASSWORD)).send()
                    && let (200, answer) = read(response)
                {
                    let keys = keys(&answer);
                    if seen.last() != Some(&keys) {
                        seen.push(keys);
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            seen
        });
        Self { is_over, thread }
    }

    /// The lists that were seen, each once as long as it stayed.
    pub fn end(self) -> Vec<Vec<String>> {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}
