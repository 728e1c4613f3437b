//! The provider against a server in this process that can be away, slow, forgetful and wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockstep_agent::provider::{Config, Provider};
use lockstep_agent::sample::Sampler;
use lockstep_agent::upstream::{Spooling, Upstream, UpstreamError};
use lockstep_client::{SpecCache, SyncSummary};
use lockstep_contract::counters::counter;
use lockstep_contract::points::Batch;
use lockstep_contract::services::stats::acq_specs::{CounterSpec, Status};
use lockstep_contract::services::stats::agents::{RegisterInput, Registered, Written};
use lockstep_contract::services::stats::cache::{AcqSpec, SyncResult};
use lockstep_contract::services::stats::{CidMid, Predicate, RsrcId};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the server does with a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Good,
    /// It is not there.
    Away,
    /// It stores points, and the answer is lost.
    Mute,
    /// It takes its time.
    Slow(Duration),
    /// It does not take points.
    Refusing,
}

/// A series and a time.
type Place = (String, String, i64);

#[derive(Debug)]
struct Server {
    mode: Mutex<Mode>,
    spooling: Spooling,
    /// All states that the specifications had; the epoch of each is 100 and its index.
    states: Mutex<Vec<BTreeMap<String, AcqSpec>>>,
    /// How often each point came.
    points: Mutex<BTreeMap<Place, u64>>,
    registrations: AtomicU64,
    offered: Mutex<Vec<String>>,
}

/// The server, as its provider calls it.
#[derive(Debug, Clone)]
struct InProcess(Arc<Server>);

const FIRST_EPOCH: i64 = 100;

impl Server {
    fn new(spooling: Spooling) -> Arc<Self> {
        Arc::new(Self {
            mode: Mutex::new(Mode::Good),
            spooling,
            states: Mutex::new(vec![BTreeMap::new()]),
            points: Mutex::default(),
            registrations: AtomicU64::default(),
            offered: Mutex::default(),
        })
    }

    fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn set_spec(&self, id: &str, spec: Option<AcqSpec>) {
        let mut states = self.states.lock().unwrap();
        let mut state = states.last().unwrap().clone();
        match spec {
            Some(spec) => state.insert(id.to_owned(), AcqSpec { id: id.to_owned(), ..spec }),
            None => state.remove(id),
        };
        states.push(state);
    }

    async fn answer(&self) -> Result<Mode, UpstreamError> {
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Away => return Err(UpstreamError::Away { reason: "connection refused".to_owned() }),
            Mode::Slow(time) => tokio::time::sleep(time).await,
            Mode::Good | Mode::Mute | Mode::Refusing => {}
        }
        Ok(mode)
    }

    /// The times of a series and how often each came.
    fn times(&self, cid: &str) -> Vec<(i64, u64)> {
        let points = self.points.lock().unwrap();
        points.iter().filter(|((found, _, _), _)| found == cid).map(|((_, _, time), count)| (*time, *count)).collect()
    }
}

impl Upstream for InProcess {
    async fn register(&self, input: RegisterInput) -> Result<Registered, UpstreamError> {
        self.0.answer().await?;
        self.0.registrations.fetch_add(1, Ordering::Relaxed);
        *self.0.offered.lock().unwrap() = input.counters;
        Ok(Registered { id: format!("provider-of-{}", input.host), absent_after_s: 6 })
    }

    async fn sync(&self, cache: &mut SpecCache) -> Result<SyncSummary, UpstreamError> {
        self.0.answer().await?;
        let states = self.0.states.lock().unwrap().clone();
        let mut pull = cache.pull();
        let end = FIRST_EPOCH + states.len() as i64 - 1;
        let now = states.last().unwrap();
        loop {
            let start = pull.request().start_epoch;
            let nothing = BTreeMap::new();
            let before = match start {
                0 => &nothing,
                start => match states.get(usize::try_from(start - FIRST_EPOCH).unwrap_or(usize::MAX)) {
                    Some(state) => state,
                    None => {
                        assert!(pull.restart_in_full());
                        continue;
                    }
                },
            };
            let page = SyncResult {
                next: None,
                created_acq_specs: now
                    .iter()
                    .filter(|(id, _)| !before.contains_key(*id))
                    .map(|(_, s)| s.clone())
                    .collect(),
                updated_acq_specs: now
                    .iter()
                    .filter(|(id, spec)| before.get(*id).is_some_and(|old| old != *spec))
                    .map(|(_, spec)| spec.clone())
                    .collect(),
                deleted_acq_specs: before.keys().filter(|id| !now.contains_key(*id)).cloned().collect(),
            };
            assert!(pull.take(page, Some(end)).unwrap());
            return Ok(cache.apply(pull));
        }
    }

    async fn write(&self, provider: Option<&str>, batch: &Batch) -> Result<Written, UpstreamError> {
        let mode = self.0.answer().await?;
        assert!(provider.is_none_or(|id| id.starts_with("provider-of-host-")));
        if mode == Mode::Refusing {
            return Err(UpstreamError::Refused { reason: "no such series".to_owned() });
        }
        let mut points = self.0.points.lock().unwrap();
        let mut stored = 0;
        for series in &batch.series {
            let address: Vec<&str> = series.address.iter().map(|identifier| identifier.id.as_str()).collect();
            for time_s in series.times_s() {
                *points.entry((series.cid.clone(), address.join(" "), time_s)).or_default() += 1;
                stored += 1;
            }
        }
        match mode {
            Mode::Mute => Err(UpstreamError::Away { reason: "the connection broke".to_owned() }),
            _ => Ok(Written { stored, too_old: 0, too_new: 0 }),
        }
    }

    fn spooling(&self) -> Spooling {
        self.0.spooling
    }
}

fn spec(cid: &str, interval: i64) -> AcqSpec {
    AcqSpec {
        endpoints: Vec::new(),
        counters: CounterSpec { cid_mid: Some(CidMid { cid: cid.to_owned(), mid: None }), set_id: None },
        resources: vec![RsrcId {
            key: None,
            resource_type: Some("HOST".to_owned()),
            id_value: String::new(),
            predicate: Some(Predicate::All),
            scheme: None,
        }],
        interval,
        expiration: i64::MAX,
        memo_: String::new(),
        id: String::new(),
        status_reason: String::new(),
        status: Status::Enabled,
    }
}

fn start(server: &Arc<Server>, directory: &Path) -> Provider {
    let config = Config { sync_interval: Duration::from_millis(50), ..Config::new(directory) };
    Provider::start(config, InProcess(server.clone())).unwrap()
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Times without a gap but for the ticks that the provider says it was too late for, as it can be on a machine that is busy.
fn assert_unbroken(times: &[(i64, u64)], provider: &Provider) {
    let missing: i64 = times.windows(2).map(|pair| pair[1].0 - pair[0].0 - 1).sum();
    let late = provider.status().dropped_ticks.late_ticks;
    assert!(missing.unsigned_abs() <= late, "{missing} missing, {late} late: {times:?}");
}

const CPU: &str = "cpu.utilization.usage.HOST";
const LOAD: &str = "cpu.load.minute.HOST";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_is_sampled_and_delivered_and_a_server_that_was_away_misses_nothing() {
    let server = Server::new(Spooling::Disk);
    let directory = tempfile::tempdir().unwrap();
    let provider = start(&server, directory.path());
    assert_eq!(provider.status().sampled_points, 0);
    server.set_spec("1", Some(spec(CPU, 1)));
    server.set_spec("2", Some(spec(CPU, 3)));
    wait_for("points come", || server.times(CPU).len() >= 2).await;
    let address = server.points.lock().unwrap().keys().next().unwrap().1.clone();
    assert_eq!(*address, **Sampler::new().host_id());
    assert!(server.offered.lock().unwrap().iter().any(|cid| cid == CPU));
    assert_eq!(provider.status().provider, Some(format!("provider-of-{address}")));

    server.set_mode(Mode::Away);
    wait_for("points wait", || provider.status().waiting_points >= 3).await;
    let status = provider.status();
    assert!(status.last_error.is_some_and(|error| error.contains("connection refused")));
    assert!(status.lag_s.is_some_and(|lag_s| lag_s <= 10));
    server.set_mode(Mode::Slow(Duration::from_millis(400)));
    wait_for("all is delivered", || provider.status().waiting_points == 0).await;
    server.set_mode(Mode::Mute);
    let before = server.times(CPU).len();
    wait_for("points come whose answers are lost", || server.times(CPU).len() > before).await;
    server.set_mode(Mode::Good);
    wait_for("all is delivered again", || provider.status().waiting_points == 0).await;

    let times = server.times(CPU);
    assert_unbroken(&times, &provider);
    assert!(times.iter().any(|(_, count)| *count > 1), "sent again: {times:?}");
    wait_for("no error is left", || provider.status().last_error.is_none()).await;
    assert!(server.registrations.load(Ordering::Relaxed) >= 2, "again within a third of six seconds");

    server.set_spec("1", None);
    server.set_spec("2", None);
    server.set_spec("3", Some(spec(LOAD, 1)));
    wait_for("the other counter comes", || server.times(LOAD).len() >= 2).await;
    assert_unbroken(&server.times(LOAD), &provider);
    let sampled = server.times(CPU).len();
    provider.stop().await;
    assert_eq!(server.times(CPU).len(), sampled, "what is not asked for any more is not sampled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_provider_delivers_what_waited_and_samples_before_its_server_is_there() {
    let server = Server::new(Spooling::Disk);
    let directory = tempfile::tempdir().unwrap();
    server.set_spec("1", Some(spec(LOAD, 1)));
    let provider = start(&server, directory.path());
    wait_for("points come", || !server.times(LOAD).is_empty()).await;
    server.set_mode(Mode::Away);
    wait_for("points wait", || provider.status().waiting_points >= 2).await;
    provider.stop().await;

    let provider = start(&server, directory.path());
    let waiting = provider.status().waiting_points;
    assert!(waiting >= 2, "{waiting}");
    wait_for("it samples by the file", || provider.status().sampled_points >= 2).await;
    assert_eq!(provider.status().delivered_points, 0);
    server.set_mode(Mode::Good);
    wait_for("all is delivered", || provider.status().waiting_points == 0).await;
    let late = usize::try_from(provider.status().dropped_ticks.late_ticks).unwrap();
    provider.stop().await;
    let times = server.times(LOAD);
    let gaps: Vec<i64> = times.windows(2).map(|pair| pair[1].0 - pair[0].0).filter(|step| *step != 1).collect();
    assert!(gaps.len() <= 1 + late, "only while it was stopped: {times:?}");

    // A site whose clock was set back answers with an epoch before the one in the file.
    server.states.lock().unwrap().truncate(1);
    server.set_spec("9", Some(spec(CPU, 1)));
    server.states.lock().unwrap().remove(0);
    let provider = start(&server, directory.path());
    wait_for("the other specification is heeded", || server.times(CPU).len() >= 2).await;
    assert_eq!(provider.status().specs, 1);
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_that_the_server_refuses_are_set_aside() {
    let server = Server::new(Spooling::Disk);
    let directory = tempfile::tempdir().unwrap();
    server.set_mode(Mode::Refusing);
    server.set_spec("1", Some(spec(LOAD, 1)));
    let provider = start(&server, directory.path());
    wait_for("points are refused", || provider.status().dropped_points >= 1).await;
    server.set_mode(Mode::Good);
    wait_for("later ones are delivered", || server.times(LOAD).len() >= 2).await;
    provider.stop().await;
    assert!(directory.path().join("spool/refused").read_dir().unwrap().count() >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_the_same_process_needs_no_files_for_points() {
    let server = Server::new(Spooling::Memory);
    let directory = tempfile::tempdir().unwrap();
    server.set_spec("1", Some(spec(CPU, 1)));
    server.set_spec("2", Some(spec(LOAD, 1)));
    let provider = start(&server, directory.path());
    wait_for("points come", || server.times(CPU).len() >= 2).await;
    server.set_mode(Mode::Slow(Duration::from_millis(300)));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let sampled = provider.status().sampled_points;
    for cid in [CPU, LOAD] {
        assert!(counter(cid).is_some());
        assert_unbroken(&server.times(cid), &provider);
    }
    provider.stop().await;
    let delivered = server.points.lock().unwrap().len() as u64;
    assert!(delivered >= sampled, "stopping delivers what waits: {delivered} of {sampled}");
    assert!(!directory.path().join("spool").exists());
}
