//! An hour of a hundred series, as columns, as data points, and from VictoriaMetrics.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::http::Client;
use crate::latency::{Latencies, show};
use crate::report::Report;
use crate::stats::Programs;
use crate::stats::load::{self, HOST_COUNTERS, Load, Shape, host};
use crate::stats::site::{Site, call};
use crate::stats::victoria::{self, Victoria};

/// Hosts in the store; each query asks for other ones.
const HOSTS: usize = 500;
/// Hosts of one query, with [`HOST_COUNTERS`] series each.
const QUERY_HOSTS: usize = 5;
const HOUR_S: i64 = 3600;
const STEP_S: i64 = 10;
/// Points of an answer: 36,000.
const POINTS: usize = QUERY_HOSTS * HOST_COUNTERS * (HOUR_S / STEP_S) as usize;

/// The loading: 10,000 points a batch.
const BATCH: Shape = Shape { name: "loading", hosts: 50, points: 10, step_s: STEP_S };

/// The median of an hour's hundred series, by `lockstep.stats.series.query`.
const TIME_MAX: Duration = Duration::from_millis(10);

/// The server seals a partition of two hours ten minutes after its end.
const PARTITION_S: i64 = 2 * HOUR_S;
const CLOSE_AFTER_S: i64 = 600;
const SEAL_TIME_MAX: Duration = Duration::from_secs(180);
const SEAL_POLL: Duration = Duration::from_secs(6);

/// Measure the query for an hour of a hundred series, 36,000 points, beside VictoriaMetrics.
///
/// The store holds 10,000 series with two hours each: one that is sealed, and the last one, which is mostly in memory. Exits with 1 when the
/// target is missed.
#[derive(Args)]
pub struct QueryArgs {
    #[command(flatten)]
    programs: Programs,
    /// Requests of each kind for each of the two hours; other series each time.
    #[arg(long, default_value_t = 100)]
    requests: usize,
}

/// A way of asking.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Series,
    AllPages,
    OnePage,
    Export,
    QueryRange,
}

impl Way {
    const ALL: [Way; 5] = [Way::Series, Way::Export, Way::QueryRange, Way::AllPages, Way::OnePage];

    fn name(self) -> &'static str {
        match self {
            Way::Series => "ours: lockstep.stats.series.query",
            Way::AllPages => "ours: data/dp, all 36 pages",
            Way::OnePage => "ours: data/dp, one page of 1,000",
            Way::Export => "VictoriaMetrics: export",
            Way::QueryRange => "VictoriaMetrics: query_range, step 10 s",
        }
    }
}

/// The two engines with the same points.
struct Both {
    ours: Client,
    theirs: Client,
}

/// Runs the subcommand.
pub fn run(args: &QueryArgs) -> anyhow::Result<Report> {
    ensure!(args.requests > 0, "nothing to measure");
    let (site, victoria) = (Site::start(&args.programs, "--no-sample-host")?, Victoria::start(&args.programs)?);
    let now_s = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    // The first half of the last partition that is sealed: it ends before the last hour begins.
    let sealed_s = (now_s - CLOSE_AFTER_S) / PARTITION_S * PARTITION_S - PARTITION_S;
    let recent_s = now_s / STEP_S * STEP_S - HOUR_S;
    for from_s in [sealed_s, recent_s] {
        fill(&site, &victoria, from_s)?;
    }
    wait_until_sealed(&site)?;
    victoria.flush()?;
    let mut both = Both { ours: site.connect()?, theirs: victoria.connect_reader()? };
    let mut report = Report::default();
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    for (state, from_s) in [("sealed", sealed_s), ("the last hour", recent_s)] {
        let mut times = vec![Latencies::default(); Way::ALL.len()];
        let mut bytes = vec![0; Way::ALL.len()];
        // The first tenth warms up.
        let warm_up = args.requests.div_ceil(10);
        for k in 0..warm_up + args.requests {
            for (n, way) in Way::ALL.into_iter().enumerate() {
                let hosts: Vec<String> = (0..QUERY_HOSTS).map(|h| host((k * QUERY_HOSTS + h) % HOSTS)).collect();
                let (time, size) = both.ask(way, &hosts, from_s).with_context(|| way.name())?;
                if k >= warm_up {
                    times[n].push(time);
                }
                bytes[n] = size;
            }
        }
        for ((way, times), bytes) in Way::ALL.into_iter().zip(&times).zip(bytes) {
            let summary = times.summary().context("nothing was measured")?;
            if way == Way::Series && summary.p50 > TIME_MAX {
                report.failures.push(format!("{state}: {}: {} at the median", way.name(), show(summary.p50)));
            }
            rows.push(vec![
                way.name().to_owned(),
                state.to_owned(),
                show(summary.p50),
                show(summary.p99),
                show(summary.max),
                bytes.to_string(),
            ]);
            figures.push(json!({"way": way.name(), "state": state, "times": summary.json(), "bytes": bytes}));
        }
    }
    report.table(
        format!("An hour of {} series, {POINTS} points, {} requests each", QUERY_HOSTS * HOST_COUNTERS, args.requests),
        &["way", "points are", "p50", "p99", "max", "bytes"],
        rows,
    );
    report.figure("query", json!(figures));
    site.stop()?;
    victoria.stop()?;
    Ok(report)
}

/// Writes an hour of all series to both.
fn fill(site: &Site, victoria: &Victoria, from_s: i64) -> anyhow::Result<()> {
    let (mut ours, mut theirs) = (site.connect()?, victoria.connect()?);
    let mut loads: Vec<Load> = (0..HOSTS).step_by(BATCH.hosts).map(|host| Load::new(BATCH, host, from_s)).collect();
    for _ in 0..HOUR_S / BATCH.batch_s() {
        for load in &mut loads {
            let batch = load.batch();
            let answer = ours.request("POST", load::WRITE_PATH, &load::write_body(&batch))?;
            ensure!(answer.status == 200, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
            let answer = theirs.request("POST", victoria::WRITE_PATH, &victoria::write_body(&batch)?)?;
            ensure!(answer.status == 204, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
    }
    Ok(())
}

/// Waits until nothing is sealed any more: the bytes of parts and log stand still.
fn wait_until_sealed(site: &Site) -> anyhow::Result<()> {
    let mut client = site.connect()?;
    let (begin, mut before) = (Instant::now(), Value::Null);
    loop {
        std::thread::sleep(SEAL_POLL);
        let info = call(&mut client, "GET", "/api/lockstep/stats/store", &Value::Null)?;
        let now = json!([info["raw_bytes"], info["log_bytes"]]);
        if now == before && info["raw_bytes"].as_i64() > Some(0) {
            return Ok(());
        }
        before = now;
        ensure!(begin.elapsed() < SEAL_TIME_MAX, "the server still seals after {SEAL_TIME_MAX:?}: {info}");
    }
}

impl Both {
    /// Asks, checks that the answer has all points, and tells the time and the size.
    fn ask(&mut self, way: Way, hosts: &[String], from_s: i64) -> anyhow::Result<(Duration, usize)> {
        let until_s = from_s + HOUR_S;
        let any = hosts.join("%7C");
        let selector = format!("%7Bhost%3D~%22{any}%22%7D");
        match way {
            Way::Series => {
                let resources: Vec<String> = hosts.iter().map(|host| format!("type.HOST={host}")).collect();
                let filter = json!({"filter": {"start": from_s, "end": until_s, "resources": resources}}).to_string();
                let path = "/api/lockstep/stats/series?action=query";
                let (body, time) = timed(&mut self.ours, "POST", path, filter.as_bytes())?;
                let answer: Value = serde_json::from_slice(&body)?;
                check(lengths(answer["series"].as_array().into_iter().flatten().map(|one| &one["values"])))?;
                Ok((time, body.len()))
            }
            Way::AllPages | Way::OnePage => {
                let hosts: String = hosts.iter().map(|host| format!("&rsrcs=type.HOST={host}")).collect();
                let question = format!("/api/stats/data/dp?start={from_s}&end={until_s}{hosts}");
                let (mut time, mut size, mut found) = (Duration::ZERO, 0, 0);
                let mut page = String::new();
                loop {
                    let (body, took) = timed(&mut self.ours, "GET", &format!("{question}{page}"), b"")?;
                    let answer: Value = serde_json::from_slice(&body)?;
                    (time, size) = (time + took, size + body.len());
                    found += answer["data_points"].as_array().map_or(0, Vec::len);
                    match answer["next"].as_str() {
                        _ if way == Way::OnePage => {
                            ensure!(found == 1000, "a page of {found} points");
                            break;
                        }
                        Some(next) => page = format!("&page={next}"),
                        None => {
                            check(found)?;
                            break;
                        }
                    }
                }
                Ok((time, size))
            }
            Way::Export => {
                // Its end is the last second that is wanted.
                let path = format!("/api/v1/export?match[]={selector}&start={from_s}&end={}", until_s - 1);
                let (body, time) = timed(&mut self.theirs, "GET", &path, b"")?;
                let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
                let series = lines.map(serde_json::from_slice).collect::<Result<Vec<Value>, _>>()?;
                check(lengths(series.iter().map(|one| &one["values"])))?;
                Ok((time, body.len()))
            }
            Way::QueryRange => {
                let end_s = until_s - STEP_S;
                let path =
                    format!("/api/v1/query_range?query={selector}&start={from_s}&end={end_s}&step={STEP_S}&nocache=1");
                let (body, time) = timed(&mut self.theirs, "GET", &path, b"")?;
                let answer: Value = serde_json::from_slice(&body)?;
                check(lengths(
                    answer["data"]["result"].as_array().into_iter().flatten().map(|series| &series["values"]),
                ))?;
                Ok((time, body.len()))
            }
        }
    }
}

fn timed(client: &mut Client, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(Vec<u8>, Duration)> {
    let (answer, time) = client.timed(method, path, body)?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok((answer.body.into_owned(), time))
}

fn lengths<'a>(lists: impl Iterator<Item = &'a Value>) -> usize {
    lists.map(|list| list.as_array().map_or(0, Vec::len)).sum()
}

fn check(found: usize) -> anyhow::Result<()> {
    ensure!(found == POINTS, "{found} points instead of {POINTS}");
    Ok(())
}
