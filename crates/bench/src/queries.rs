//! The workload over HTTP.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::data::DataDir;
use crate::expected::Expected;
use crate::http::{Client, Server, ServerArgs};
use crate::lane::{Answer, Effort, Lane, Measured, warm_up};
use crate::latency::show;
use crate::process::Process;
use crate::report::{Report, show_bytes};
use crate::workload::{Form, Query, Workload, WorkloadArgs};

/// The query operation.
pub const QUERY_PATH: &str = "/rest/com/vmware/cis/data/legacy/resource-model?~action=query";

/// Run the queries over HTTP with kept connections.
///
/// Each request of a query takes the next entry of its value pools. Every answer must be 200 and have the expected number of items;
/// expected counts come from `verify`, `postgres` or `compare` on the same data, and are reported as unchecked where none ran.
#[derive(Args)]
pub struct QueriesArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    effort: Effort,
    /// Data directory that the server's inventory was imported from.
    #[arg(long, value_name = "DIR")]
    data: std::path::PathBuf,
    /// Connections that send at the same time, each its own requests.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Process id of the server, to show its memory.
    #[arg(long)]
    pid: Option<u32>,
}

/// A connection to the server as an engine.
pub struct ServerLane {
    client: Client,
}

impl ServerLane {
    pub fn connect(server: &Server) -> anyhow::Result<Self> {
        Ok(ServerLane { client: server.connect_logged_in()? })
    }
}

impl Lane for ServerLane {
    fn name(&self) -> &str {
        "lockstep"
    }

    fn answer(&mut self, query: &Query, form: &Form) -> anyhow::Result<Answer> {
        let (message, time) = self.client.timed("POST", QUERY_PATH, &form.body)?;
        let text = || String::from_utf8_lossy(&message.body).chars().take(500).collect::<String>();
        ensure!(message.status == 200, "{} form {}: status {}: {}", query.name, form.number, message.status, text());
        let result: ResultSet<IgnoredAny> =
            serde_json::from_slice(&message.body).with_context(|| format!("{}: {}", query.name, text()))?;
        let ResultValue { items, total_item_count } = result.value;
        Ok(Answer { time, items: items.len(), total: total_item_count, bytes: message.body.len() })
    }
}

/// The answer of a query; `T` is how much of an item is looked at.
#[derive(Deserialize)]
pub struct ResultSet<T> {
    pub value: ResultValue<T>,
}

#[derive(Deserialize)]
pub struct ResultValue<T> {
    pub items: Vec<T>,
    pub total_item_count: Option<u64>,
}

/// Runs the subcommand.
pub fn run(args: &QueriesArgs) -> anyhow::Result<Report> {
    ensure!(args.connections > 0, "--connections must be at least 1");
    let data = DataDir::open(&args.data)?;
    let workload = Workload::load(&args.workload, &data)?;
    let server = Server::new(&args.server)?;
    let process = args.pid.map(Process::new);
    let mut expected = Expected::load(&data)?;
    let mut lanes = (0..args.connections).map(|_| ServerLane::connect(&server)).collect::<anyhow::Result<Vec<_>>>()?;

    let mut report = Report::default();
    let mut rows = Vec::new();
    for query in &workload.queries {
        let forms = workload.forms(query, args.effort.timed())?;
        let checked = if expected.knows(query, &forms) { "yes" } else { "no" };
        let warming = workload.forms(query, args.effort.warming())?;
        for lane in &mut lanes {
            warm_up(lane, query, &warming, &args.effort)?;
        }
        let (measured, wall) = run_query(&mut lanes, query, &forms, &args.effort, &mut expected)?;
        let Some(summary) = measured.times.summary() else { continue };
        let throughput = summary.count as f64 / wall.as_secs_f64();
        rows.push(vec![
            format!("{} {}", query.name, query.title),
            summary.count.to_string(),
            show(summary.p50),
            show(summary.p99),
            show(summary.max),
            format!("{:.1}", summary.spread()),
            format!("{throughput:.0}"),
            format!("{:.1}", measured.mean_items()),
            show_bytes(measured.median_bytes() as u64),
            checked.to_owned(),
        ]);
        report.figure(
            &query.name,
            json!({"server": summary.json(), "requests_per_s": throughput, "items_mean": measured.mean_items(),
                   "answer_bytes_median": measured.median_bytes(), "checked": checked == "yes"}),
        );
    }
    report.table(
        format!(
            "Queries over HTTP, {} connection(s), {}",
            args.connections,
            if server.is_tls() { "TLS" } else { "plain" }
        ),
        &["query", "requests", "p50", "p99", "max", "p99/p50", "requests/s", "items", "answer", "checked"],
        rows,
    );
    add_memory(&mut report, process)?;
    Ok(report)
}

/// Adds the server's memory, when its process is known.
pub fn add_memory(report: &mut Report, process: Option<Process>) -> anyhow::Result<()> {
    let Some(process) = process else { return Ok(()) };
    let memory = process.memory()?;
    report.table(
        "Memory of the server",
        &["", "bytes"],
        vec![
            vec!["resident (VmRSS)".into(), show_bytes(memory.resident)],
            vec!["peak (VmHWM)".into(), show_bytes(memory.peak)],
        ],
    );
    report.figure("memory", json!({"resident": memory.resident, "peak": memory.peak}));
    Ok(())
}

/// Each connection takes every n-th form, on a thread of its own.
fn run_query(
    lanes: &mut [ServerLane],
    query: &Query,
    forms: &[Form],
    effort: &Effort,
    expected: &mut Expected,
) -> anyhow::Result<(Measured, Duration)> {
    let mut all = Measured::default();
    if let [lane] = lanes {
        all.run(lane, query, forms, effort, expected)?;
        // The time between requests goes into checking answers, not into the server.
        let busy = all.busy;
        return Ok((all, busy));
    }
    let stride = lanes.len();
    let begin = Instant::now();
    let shares = std::thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .iter_mut()
            .enumerate()
            .map(|(first, lane)| {
                scope.spawn(move || {
                    forms
                        .iter()
                        .skip(first)
                        .step_by(stride)
                        .map(|form| Ok((form, lane.answer(query, form)?)))
                        .collect::<anyhow::Result<Vec<_>>>()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect::<Vec<_>>()
    });
    let wall = begin.elapsed();
    for share in shares {
        for (form, answer) in share? {
            expected.check("lockstep", query, form, &answer)?;
            all.record(&answer);
        }
    }
    Ok((all, wall))
}
