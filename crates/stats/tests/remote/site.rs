//! A site with the stats service, and the points that tests write to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_contract::counters::{Counter, ResourceKind, counter};
use lockstep_contract::points::{Batch, Identifier, Series};
use lockstep_contract::{Data, Encoding, Error, PlainJson};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use lockstep_stats::remote::{self, Pace, WriteStatus};
use lockstep_stats::{Config, Stats};
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::servers::{Labels, PATIENCE};

/// The label that tests give to every series.
pub const SITE: &str = "fra \"1\"";

pub fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A pace for tests.
pub const HURRIED: Pace = Pace {
    points_max: 500,
    gather: Duration::from_millis(20),
    backoff_min: Duration::from_millis(50),
    backoff_max: Duration::from_millis(200),
    timeout: Duration::from_secs(20),
};

/// A store outside for writing only.
pub fn write_to(url: &str) -> remote::Config {
    remote::Config {
        write_url: Some(url.to_owned()),
        labels: vec![("site".to_owned(), SITE.to_owned())],
        pace: HURRIED,
        ..remote::Config::default()
    }
}

/// A site's directory, over openings.
pub struct Home(TempDir);

/// An open site with its service.
pub struct Here {
    site: Arc<Site>,
    pub stats: Arc<Stats>,
    forwarding: JoinHandle<()>,
}

impl Home {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A file beside its data.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Opens it, and begins to forward.
    pub async fn open(&self, remote: remote::Config) -> Here {
        let site = retried(|| {
            let config = lockstep_site::Config {
                name: "a".to_owned(),
                data_dir: self.0.path().to_owned(),
                journal: lockstep_journal::Config::default(),
                query_limits: lockstep_query::Limits::default(),
                sessions: lockstep_site::sessions::SessionLimits::default(),
                epoch_types: lockstep_stats::EPOCH_TYPES.map(str::to_owned).to_vec(),
            };
            Site::open(config, &mut |_| {}).map_err(|error| error.to_string())
        })
        .await;
        let stats = retried(|| {
            let config = Config {
                data_dir: self.0.path().join("series"),
                store: lockstep_series::Config::default(),
                absent_after: Duration::from_secs(90),
                sync_page: lockstep_stats::SYNC_PAGE,
                remote: Some(remote.clone()),
            };
            Stats::open(site.clone(), config).map_err(|error| format!("{error:?}"))
        })
        .await;
        let forwarding = tokio::spawn(stats.clone().forward());
        Here { site, stats, forwarding }
    }
}

/// What was open before may be held by a thread that is just ending.
async fn retried<T>(mut open: impl FnMut() -> Result<T, String>) -> T {
    let started = std::time::Instant::now();
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Here {
    /// Stops as a server does.
    pub async fn close(self) {
        self.site.begin_stop();
        self.forwarding.await.unwrap();
        self.site.close();
    }

    pub async fn write(&self, points: &[Written]) {
        let batch = Batch { series: points.iter().map(Written::series).collect() };
        let count: usize = points.iter().map(|one| one.points.len()).sum();
        let written = self.stats.write_points(None, batch.encode_to_vec().into()).await.unwrap();
        assert_eq!((written.stored, written.too_old, written.too_new), (count as i64, 0, 0));
    }

    pub fn status(&self) -> WriteStatus {
        self.stats.write_status().unwrap()
    }

    /// Waits until the status is as wanted.
    pub async fn until(&self, what: &str, is_so: impl Fn(&WriteStatus) -> bool) -> WriteStatus {
        let started = std::time::Instant::now();
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn until_forwarded(&self) -> WriteStatus {
        self.until("everything is forwarded", |status| status.waiting == 0).await
    }

    /// A page of `data.query_data_points`, as plain JSON.
    pub async fn page(&self, filter: Value) -> Result<Value, Error> {
        let mut table = Table::default();
        self.stats.register(&mut table);
        let entry = &table.entries()[table.find("com.vmware.vstats.data", "query_data_points").unwrap()];
        let input = serde_json::to_vec(&serde_json::json!({ "filter": filter })).unwrap();
        let context = Context { site: self.site.clone(), caller: Caller::Server("test"), operation_id: "test".into() };
        let answer = entry.call(context, Data::from_json(&input).unwrap(), Encoding::Plain, false).await?;
        let mut json = PlainJson::default();
        answer.value.encode(&mut json);
        Ok(serde_json::from_slice(&json.out).unwrap())
    }

    /// The points of all pages, page by page.
    pub async fn pages(&self, filter: &Value) -> Vec<Vec<Value>> {
        let mut filter = filter.clone();
        let mut pages = Vec::new();
        loop {
            let page = self.page(filter.clone()).await.unwrap_or_else(|error| panic!("{filter}: {error:?}"));
            pages.push(page["data_points"].as_array().unwrap().clone());
            match page.get("next").and_then(Value::as_str) {
                Some(next) => filter["page"] = next.into(),
                None => return pages,
            }
        }
    }

    /// The `/metrics` of the service: the value behind a name with its labels.
    pub fn metric(&self, name: &str) -> String {
        let mut text = String::new();
        self.stats.write_metrics(&mut text);
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))[name.len() + 1..].to_owned()
    }
}

/// Points of one series.
#[derive(Clone)]
pub struct Written {
    counter: &'static Counter,
    vm: Option<String>,
    host: String,
    /// Seconds and values.
    pub points: Vec<(i64, f64)>,
}

impl Written {
    pub fn of_host(cid: &str, host: &str, points: Vec<(i64, f64)>) -> Self {
        Self { counter: counter(cid).unwrap(), vm: None, host: host.to_owned(), points }
    }

    pub fn of_vm(cid: &str, vm: &str, host: &str, points: Vec<(i64, f64)>) -> Self {
        Self { vm: Some(vm.to_owned()), ..Self::of_host(cid, host, points) }
    }

    fn series(&self) -> Series {
        let identifier =
            |kind: ResourceKind, id: &str| Identifier { r#type: kind.name().to_owned(), id: id.to_owned() };
        let vm = self.vm.iter().map(|vm| identifier(ResourceKind::Vm, vm));
        Series {
            cid: self.counter.cid.to_owned(),
            address: vm.chain([identifier(ResourceKind::Host, &self.host)]).collect(),
            times: Series::deltas(self.points.iter().map(|(time, _)| *time)),
            values: self.points.iter().map(|(_, value)| *value).collect(),
        }
    }

    /// What the series is called outside, but for its `rid`.
    fn labels(&self) -> Labels {
        let mut labels = vec![
            ("__name__", format!("lockstep_{}", self.counter.metric.replace('.', "_"))),
            ("cid", self.counter.cid.to_owned()),
            ("host", self.host.clone()),
            ("mid", self.counter.mid().to_string()),
            ("site", SITE.to_owned()),
            ("type", self.counter.kind.name().to_owned()),
        ];
        labels.extend(self.vm.iter().map(|vm| ("vm", vm.clone())));
        labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What a store outside must hold when it was sent these, each series with its samples in the order of time, times in milliseconds;
/// the number of an address is not part of it.
fn expected(written: &[Written]) -> BTreeMap<Labels, Vec<(i64, f64)>> {
    let mut all: BTreeMap<Labels, Vec<(i64, f64)>> = BTreeMap::new();
    for one in written {
        let samples = one.points.iter().map(|(time_s, value)| (time_s * 1000, *value));
        all.entry(one.labels()).or_default().extend(samples);
    }
    for samples in all.values_mut() {
        samples.sort_by_key(|(time_ms, _)| *time_ms);
    }
    all
}

/// What was found outside, in the same form. The number of an address must be there.
fn without_rid(found: BTreeMap<Labels, Vec<(i64, f64)>>) -> BTreeMap<Labels, Vec<(i64, f64)>> {
    let strip = |(mut labels, mut samples): (Labels, Vec<(i64, f64)>)| {
        assert!(labels.remove("rid").is_some_and(|rid| rid.parse::<u64>().is_ok()), "{labels:?}");
        samples.sort_by_key(|(time_ms, _)| *time_ms);
        (labels, samples)
    };
    found.into_iter().map(strip).collect()
}

/// Compares what was found outside with what was written, and says in short where they differ.
pub fn assert_holds(found: BTreeMap<Labels, Vec<(i64, f64)>>, written: &[Written]) {
    let (found, expected) = (without_rid(found), expected(written));
    for labels in found.keys().chain(expected.keys()) {
        let (none, found, expected) = (Vec::new(), found.get(labels), expected.get(labels));
        let (found, expected) = (found.unwrap_or(&none), expected.unwrap_or(&none));
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        let at = differs.map(|at| (at, found[at], expected[at]));
        assert!(
            at.is_none() && found.len() == expected.len(),
            "{labels:?}: {} samples, expected {}; {at:?}",
            found.len(),
            expected.len()
        );
    }
}
