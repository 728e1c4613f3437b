//! Cache sync over HTTP: what ten changes cost among few specifications and among many, and a full copy.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::http::Client;
use crate::http::client::Upload;
use crate::latency::{Latencies, Summary, ratio, show};
use crate::report::{Report, show_bytes};
use crate::stats::Programs;
use crate::stats::site::{Site, call};

const IMPORT_PATH: &str = "/api/lockstep/resources?action=import";

/// Specifications that change in a round.
const CHANGES: usize = 10;

/// How much more the changes may cost among the most specifications than among the fewest.
const RATIO_MAX: f64 = 2.0;

/// A round must take longer than a second: each closes an epoch, and a server's epochs go a second a second.
const ROUND: Duration = Duration::from_millis(1100);

/// Measure a cache's sync of ten changes among few and among many specifications, and a full copy of each.
///
/// A server for each size. In each round ten specifications change in each of them; then a sync from the epoch before is asked for, which closes
/// an epoch, and is asked for again, as another cache would. Exits with 1 when the target is missed.
#[derive(Args)]
pub struct SyncArgs {
    #[command(flatten)]
    programs: Programs,
    /// How many specifications there are.
    #[arg(long, value_delimiter = ',', default_value = "1000,1000000")]
    specs: Vec<usize>,
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// How often the same sync is asked for again in a round.
    #[arg(long, default_value_t = 20)]
    again: usize,
}

/// A server with its specifications.
struct Cached {
    site: Site,
    client: Client,
    specs: usize,
    end: i64,
    first: Latencies,
    again: Latencies,
    pages: Latencies,
    copied: Duration,
}

/// Runs the subcommand.
pub fn run(args: &SyncArgs) -> anyhow::Result<Report> {
    ensure!(args.rounds > 0 && args.again > 0 && !args.specs.is_empty(), "nothing to measure");
    ensure!(args.specs.iter().all(|&specs| specs >= CHANGES), "fewer specifications than change");
    let mut all = args.specs.iter().map(|&specs| Cached::start(args, specs)).collect::<anyhow::Result<Vec<_>>>()?;
    for round in 0..args.rounds {
        let begin = Instant::now();
        // Whoever is first finds the caches cold; so they take turns.
        let first = round % all.len();
        all.rotate_left(first);
        for cached in &mut all {
            cached.change_and_sync(round, args.again)?;
        }
        all.rotate_right(first);
        std::thread::sleep(ROUND.saturating_sub(begin.elapsed()));
    }
    let mut report = Report::default();
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    let mut least: Option<(Summary, Summary)> = None;
    for cached in all {
        let summary = |times: &Latencies| times.summary().context("nothing was measured");
        let (first, again, pages) = (summary(&cached.first)?, summary(&cached.again)?, summary(&cached.pages)?);
        let (base_first, base_again) = *least.get_or_insert((first, again));
        let (ratio_first, ratio_again) = (ratio(first.p50, base_first.p50), ratio(again.p50, base_again.p50));
        for (what, ratio) in [("first asked", ratio_first), ("asked again", ratio_again)] {
            if ratio > RATIO_MAX {
                report.failures.push(format!("{} specs, {what}: {ratio:.2} times the smallest set", cached.specs));
            }
        }
        let rate = pages.count as f64 / cached.copied.as_secs_f64();
        let resident = cached.site.process().memory()?.resident;
        rows.push(vec![
            cached.specs.to_string(),
            show(first.p50),
            show(first.p99),
            format!("{ratio_first:.2}"),
            show(again.p50),
            show(again.p99),
            format!("{ratio_again:.2}"),
            show(cached.copied),
            format!("{rate:.1}"),
            show(pages.p50),
            show(pages.p99),
            show_bytes(resident),
        ]);
        figures.push(json!({"specs": cached.specs, "first": first.json(), "again": again.json(), "page": pages.json(),
            "ratio_first": ratio_first, "ratio_again": ratio_again, "copy_s": cached.copied.as_secs_f64(),
            "pages_per_s": rate, "resident": resident}));
        cached.site.stop()?;
    }
    report.table(
        format!("Sync of {CHANGES} changes, {} rounds; a full copy", args.rounds),
        &[
            "specs",
            "first asked p50",
            "p99",
            "ratio",
            "again p50",
            "p99",
            "ratio",
            "full copy",
            "pages/s",
            "page p50",
            "p99",
            "resident",
        ],
        rows,
    );
    report.figure("sync", json!(figures));
    Ok(report)
}

impl Cached {
    /// Starts a server, imports its specifications, and copies them in full.
    fn start(args: &SyncArgs, specs: usize) -> anyhow::Result<Self> {
        let site = Site::start(&args.programs, "--no-sample-host")?;
        let mut client = site.connect()?;
        let lines = lines(specs)?;
        let answer = client.upload(IMPORT_PATH, "application/x-ndjson", Upload::Bytes(lines.as_bytes()))?;
        ensure!(answer.status == 200, "import: status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        let mut cached = Cached {
            site,
            client,
            specs,
            end: 0,
            first: Latencies::default(),
            again: Latencies::default(),
            pages: Latencies::default(),
            copied: Duration::ZERO,
        };
        cached.copy()?;
        Ok(cached)
    }

    /// A full sync, page by page.
    fn copy(&mut self) -> anyhow::Result<()> {
        let (mut found, mut page) = (0, String::new());
        loop {
            let path = format!("/api/stats/cache/sync?start_epoch=0{page}");
            let (answer, end, time) = ask(&mut self.client, &path)?;
            (self.end, self.copied) = (end, self.copied + time);
            self.pages.push(time);
            found += answer["created_acq_specs"].as_array().map_or(0, Vec::len);
            match answer["next"].as_str() {
                Some(next) => page = format!("&page={next}"),
                None => break,
            }
        }
        ensure!(found == self.specs, "{found} specifications of {} were copied", self.specs);
        Ok(())
    }

    fn change_and_sync(&mut self, round: usize, again: usize) -> anyhow::Result<()> {
        let interval = 11 + round % 1000;
        for n in 0..CHANGES {
            // Spread over all ids, and others in each round.
            let id = 1 + (n * (self.specs / CHANGES) + round) % self.specs;
            call(&mut self.client, "PATCH", &format!("/api/stats/acq-specs/{id}"), &json!({"interval": interval}))?;
        }
        let path = format!("/api/stats/cache/sync?start_epoch={}", self.end);
        let (answer, end, time) = ask(&mut self.client, &path)?;
        check(&answer, interval)?;
        self.first.push(time);
        let path = format!("{path}&end_epoch={end}");
        for _ in 0..again {
            let (answer, _, time) = ask(&mut self.client, &path)?;
            check(&answer, interval)?;
            self.again.push(time);
        }
        self.end = end;
        Ok(())
    }
}

/// A page of a sync, the end that it tells, and how long it took.
fn ask(client: &mut Client, path: &str) -> anyhow::Result<(Value, i64, Duration)> {
    let (answer, time) = client.timed("GET", path, b"")?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "{path}: status {}: {text}", answer.status);
    let end = answer.header("lockstep-end-epoch").context("no end of the epoch")?.parse()?;
    Ok((serde_json::from_str(&text)?, end, time))
}

fn check(answer: &Value, interval: usize) -> anyhow::Result<()> {
    let updated = answer["updated_acq_specs"].as_array().context("no list of updates")?;
    let is_right = updated.len() == CHANGES && updated.iter().all(|spec| spec["interval"] == interval);
    ensure!(is_right, "not the {CHANGES} changes: {answer}");
    Ok(())
}

/// The specifications as lines of an import.
fn lines(specs: usize) -> anyhow::Result<String> {
    let expiration = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 24 * 3600;
    let mut lines = String::with_capacity(specs * 300);
    for id in 1..=specs {
        let properties = json!({"counters": {"cid": "cpu.capacity.usage.HOST"}, "interval": 10, "expiration": expiration,
            "resources": [{"type": "HOST", "id_value": format!("host-{id}"), "predicate": "EQUAL", "scheme": "moid"}],
            "status": "DISABLED"});
        writeln!(lines, "{}", json!({"type": "AcqSpec", "id": id.to_string(), "properties": properties}))?;
    }
    Ok(lines)
}
