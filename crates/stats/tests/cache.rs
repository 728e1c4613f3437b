//! Cache sync against what really happened: clients, writers, expirations and restarts at once, and every copy at every end compared with
//! the log.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use lockstep_contract::{Data, Encoding, Error, PlainJson};
use lockstep_journal::{Operation, redo};
use lockstep_model::builtin::ACQ_SPEC;
use lockstep_model::{Document, Position};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use lockstep_stats::{Config, Stats};
use serde_json::{Value, json};
use tempfile::TempDir;

struct House {
    site: Arc<Site>,
    stats: Arc<Stats>,
    table: Arc<Table>,
    statuses: tokio::task::JoinHandle<()>,
}

impl House {
    async fn open(dir: &TempDir, page: usize) -> Self {
        let site_config = lockstep_site::Config {
            name: "test".to_owned(),
            data_dir: dir.path().to_owned(),
            // Small segments, so that there is something to fold.
            journal: lockstep_journal::Config { segment_bytes_max: 16 << 10, ..Default::default() },
            query_limits: lockstep_query::Limits::default(),
            sessions: lockstep_site::sessions::SessionLimits::default(),
            epoch_types: lockstep_stats::EPOCH_TYPES.map(str::to_owned).to_vec(),
        };
        let site = Site::open(site_config, &mut |_| {}).unwrap();
        let config = Config {
            data_dir: dir.path().join("series"),
            store: lockstep_series::Config::default(),
            absent_after: Duration::from_secs(90),
            sync_page: page,
            remote: None,
        };
        let stats = Stats::open(site.clone(), config).unwrap();
        let mut table = Table::default();
        lockstep_site::register(&mut table);
        stats.register(&mut table);
        let statuses = tokio::spawn(stats.clone().keep_statuses());
        let house = Self { site, stats, table: Arc::new(table), statuses };
        house.caller().call("lockstep.stats.providers", "register", provider()).await.unwrap();
        house
    }

    fn caller(&self) -> Calls {
        Calls { site: self.site.clone(), table: self.table.clone() }
    }

    /// Closes the journal and lets go of everything, as a process that ends does.
    async fn close(self) {
        let Self { site, stats, table, statuses } = self;
        statuses.abort();
        let _ = statuses.await;
        site.close();
        drop((stats, table));
        // The applying thread notices that nobody holds the site.
        for _ in 0..100 {
            if Arc::strong_count(&site) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(site);
    }
}

fn provider() -> Value {
    json!({"host": "h1", "metadata": "test", "counters": ["cpu.capacity.usage.HOST"]})
}

#[derive(Clone)]
struct Calls {
    site: Arc<Site>,
    table: Arc<Table>,
}

impl Calls {
    async fn ask(&self, service: &str, operation: &str, input: Value) -> Result<(Value, Option<i64>), Error> {
        let entry = &self.table.entries()[self.table.find(service, operation).unwrap()];
        let context = Context { site: self.site.clone(), caller: Caller::Server("test"), operation_id: "test".into() };
        let data = Data::from_json(input.to_string().as_bytes()).unwrap();
        let answer = entry.call(context, data, Encoding::Plain, false).await?;
        let mut w = PlainJson::default();
        answer.value.encode(&mut w);
        let end = answer.headers.iter().find(|(name, _)| *name == "lockstep-end-epoch");
        Ok((serde_json::from_slice(&w.out).unwrap(), end.map(|(_, value)| value.parse().unwrap())))
    }

    async fn call(&self, service: &str, operation: &str, input: Value) -> Result<Value, Error> {
        self.ask(service, operation, input).await.map(|(value, _)| value)
    }

    async fn spec(&self, operation: &str, input: Value) -> Result<Value, Error> {
        self.call("com.vmware.vstats.acq_specs", operation, input).await
    }
}

/// A client's copy: what it knows, and up to when.
#[derive(Default)]
struct Copy {
    epoch: i64,
    specs: BTreeMap<String, Value>,
}

impl Copy {
    /// One sync, all its pages, up to `end` or the present.
    async fn sync(&mut self, calls: &Calls, end: Option<i64>) -> Result<(), Error> {
        let mut input = json!({"start_epoch": self.epoch});
        if let Some(end) = end {
            input["end_epoch"] = end.into();
        }
        let mut specs = if self.epoch == 0 { BTreeMap::new() } else { self.specs.clone() };
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let (answer, told) = calls.ask("com.vmware.vstats.cache", "get", input.clone()).await?;
            let list = |name: &str| answer[name].as_array().unwrap().clone();
            for spec in list("created_acq_specs").into_iter().chain(list("updated_acq_specs")) {
                let id = spec["id"].as_str().unwrap().to_owned();
                assert!(seen.insert(id.clone()), "{id} twice in one sync");
                specs.insert(id, spec);
            }
            for id in list("deleted_acq_specs") {
                let id = id.as_str().unwrap();
                assert!(seen.insert(id.to_owned()), "{id} twice in one sync");
                assert!(specs.remove(id).is_some(), "{id} was deleted and not there");
            }
            let is_full = self.epoch == 0;
            assert!(!is_full || (list("updated_acq_specs").is_empty() && list("deleted_acq_specs").is_empty()));
            match answer["next"].as_str() {
                Some(next) => input["page"] = next.into(),
                None => {
                    (self.epoch, self.specs) = (told.unwrap(), specs);
                    return Ok(());
                }
            }
        }
    }
}

/// A small generator of numbers: which ones does not matter, that a failure repeats does.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
}

fn new_spec(dice: &mut Dice) -> Value {
    // Some end within the test, some are over when they are made.
    let expiration = now_s() + [1, 2, 600, -5, 1][dice.roll(5) as usize];
    let interval = dice.roll(60) + 1;
    json!({"acq_spec": {"counters": {"cid_mid": {"cid": "cpu.capacity.usage.HOST"}}, "interval": interval,
        "expiration": expiration, "resources": [{"type": "HOST", "id_value": "h1"}]}})
}

async fn write(calls: Calls, seed: u64, stop: Arc<AtomicBool>) {
    let mut dice = Dice(seed);
    let mut mine: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match dice.roll(10) {
            0..5 => {
                let id = calls.spec("create", new_spec(&mut dice)).await.unwrap();
                mine.push(id.as_str().unwrap().to_owned());
            }
            5..8 if !mine.is_empty() => {
                let id = &mine[dice.roll(mine.len() as u64) as usize];
                let mut spec = new_spec(&mut dice)["acq_spec"].clone();
                spec["memo_"] = format!("{}", dice.roll(1000)).into();
                calls.spec("update", json!({"id": id, "acq_spec": spec})).await.unwrap();
            }
            8..10 if !mine.is_empty() => {
                let id = mine.swap_remove(dice.roll(mine.len() as u64) as usize);
                calls.spec("delete", json!({"id": id})).await.unwrap();
            }
            _ => {}
        }
        // Bursts and pauses, so that seconds have few and many commits.
        if dice.roll(20) == 0 {
            tokio::time::sleep(Duration::from_millis(dice.roll(400))).await;
        }
    }
}

/// What a client had at an end: compared when all is over.
type Seen = Vec<(i64, BTreeMap<String, Value>)>;

async fn follow(calls: Calls, seed: u64, stop: Arc<AtomicBool>, mut copy: Copy) -> (Copy, Seen) {
    let mut dice = Dice(seed);
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if dice.roll(15) == 0 {
            copy = Copy::default();
        }
        let end = match dice.roll(4) {
            0 => None,
            1 => Some(now_s() - dice.roll(3) as i64),
            2 => Some(now_s()),
            _ => Some(now_s() + dice.roll(2) as i64),
        };
        // A client does not go back.
        copy.sync(&calls, end.map(|end| end.max(copy.epoch))).await.unwrap();
        seen.push((copy.epoch, copy.specs.clone()));
        tokio::time::sleep(Duration::from_millis(dice.roll(150))).await;
    }
    (copy, seen)
}

/// The set after the last commit of an epoch, from the log's first commit on.
fn replay(site: &Site, epoch_s: i64) -> BTreeMap<String, Document> {
    let mut specs: BTreeMap<String, Document> = BTreeMap::new();
    let mut at = Position::ZERO;
    loop {
        let commits = site.journal().read(at, 1 << 20).unwrap();
        let Some(last) = commits.last() else { return specs };
        at = last.position;
        for commit in commits {
            if commit.time_ms.div_euclid(1000) > epoch_s {
                return specs;
            }
            for change in commit.changes.iter().filter(|c| c.id.resource_type.as_str() == ACQ_SPEC) {
                let id = change.id.id.to_string();
                match &change.operation {
                    Operation::Create(document) => drop(specs.insert(id, document.clone())),
                    Operation::Update(leaves) => redo(specs.get_mut(&id).unwrap(), leaves),
                    Operation::Delete(_) => drop(specs.remove(&id)),
                }
            }
        }
    }
}

/// The parts of a stored specification that its cached form shows as they are.
fn outline(document: &Document) -> Value {
    let stored = serde_json::to_value(document).unwrap();
    json!([
        stored["interval"],
        stored["expiration"],
        stored["memo"].as_str().unwrap_or(""),
        stored["status"],
        stored["status_reason"].as_str().unwrap_or("")
    ])
}

fn outline_of_cached(spec: &Value) -> Value {
    json!([spec["interval"], spec["expiration"], spec["memo_"], spec["status"], spec["status_reason"]])
}

/// The ids of all specifications, page by page.
async fn list(calls: &Calls) -> Vec<String> {
    let (mut ids, mut page) = (Vec::new(), Value::Null);
    loop {
        let listed = calls.spec("list", json!({"filter": {"page": page}})).await.unwrap();
        ids.extend(listed["acq_specs"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()));
        page = listed["next"].clone();
        if page.is_null() {
            return ids;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_copy_is_what_the_log_had_at_its_end() {
    let dir = TempDir::new().unwrap();
    let mut copies: Vec<Copy> = (0..4).map(|_| Copy::default()).collect();
    let mut seen: Seen = Vec::new();
    for round in 0..4u64 {
        let house = House::open(&dir, [1, 7, 100, 1000][round as usize]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> =
            (0..3).map(|i| tokio::spawn(write(house.caller(), round * 100 + i, stop.clone()))).collect();
        let clients: Vec<_> = copies
            .drain(..)
            .enumerate()
            .map(|(i, copy)| tokio::spawn(follow(house.caller(), 1000 + round * 10 + i as u64, stop.clone(), copy)))
            .collect();
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        for client in clients {
            let (copy, more) = client.await.unwrap();
            copies.push(copy);
            seen.extend(more);
        }
        house.close().await;
    }

    let house = House::open(&dir, 1000).await;
    assert!(seen.len() > 100, "{} syncs", seen.len());
    let mut known: BTreeMap<i64, BTreeMap<String, Value>> = BTreeMap::new();
    for (epoch, specs) in &seen {
        let expected = known.entry(*epoch).or_insert_with(|| {
            replay(&house.site, *epoch).iter().map(|(id, document)| (id.clone(), outline(document))).collect()
        });
        let found: BTreeMap<String, Value> =
            specs.iter().map(|(id, spec)| (id.clone(), outline_of_cached(spec))).collect();
        assert_eq!(&found, expected, "at epoch {epoch}");
    }
    // And the last word: in the end all copies are the server's set.
    for copy in &mut copies {
        // The log's time may be some seconds ahead, after so many syncs between so many writes.
        let end = now_s() + 30;
        copy.sync(&house.caller(), Some(end)).await.unwrap();
        let ids = list(&house.caller()).await;
        assert!(ids.iter().eq(copy.specs.keys()), "{ids:?}");
    }
    let epochs: std::collections::BTreeSet<_> = seen.iter().map(|(epoch, _)| epoch).collect();
    eprintln!("{} syncs at {} epochs, {} specifications at the end", seen.len(), epochs.len(), copies[0].specs.len());
    house.close().await;
}

#[tokio::test]
async fn what_cannot_be_synced_is_refused_and_closes_nothing() {
    let dir = TempDir::new().unwrap();
    let house = House::open(&dir, 2).await;
    let calls = house.caller();
    for _ in 0..5 {
        calls.spec("create", new_spec(&mut Dice(1))).await.unwrap();
    }
    let refused = async |input: Value, place: &str| {
        let error = calls.call("com.vmware.vstats.cache", "get", input.clone()).await.unwrap_err();
        assert!(error.to_string().starts_with(place), "{input}: {error}");
    };
    let now = now_s();
    refused(json!({}), "start_epoch").await;
    refused(json!({"start_epoch": -1}), "start_epoch").await;
    refused(json!({"start_epoch": i64::MIN, "end_epoch": 0}), "start_epoch").await;
    refused(json!({"start_epoch": now, "end_epoch": now - 1}), "end_epoch").await;
    refused(json!({"start_epoch": 0, "end_epoch": now + 120}), "end_epoch").await;
    refused(json!({"start_epoch": 0, "end_epoch": i64::MAX}), "end_epoch").await;
    refused(json!({"start_epoch": now + 120}), "start_epoch").await;
    refused(json!({"start_epoch": 0, "page": "nonsense"}), "page").await;
    let first =
        calls.call("com.vmware.vstats.cache", "get", json!({"start_epoch": 0, "end_epoch": now})).await.unwrap();
    let page = first["next"].as_str().unwrap();
    refused(json!({"start_epoch": 1, "end_epoch": now, "page": page}), "page").await;
    refused(json!({"start_epoch": 0, "page": page}), "page").await;
    // A specification made after the first page is of a later epoch: the pages are those of the first.
    calls.spec("create", new_spec(&mut Dice(2))).await.unwrap();
    let second = json!({"start_epoch": 0, "end_epoch": now, "page": page});
    let second = calls.call("com.vmware.vstats.cache", "get", second).await.unwrap();
    assert_eq!(second["created_acq_specs"].as_array().unwrap().len(), 2);
    house.close().await;
}
