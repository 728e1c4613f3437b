//! Server, PostgreSQL and the bare round trip, side by side in one run.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::data::DataDir;
use crate::expected::Expected;
use crate::floor::Floor;
use crate::http::{Server, ServerArgs};
use crate::lane::{Effort, Lane, Measured, warm_up};
use crate::latency::{Latencies, Summary, ratio, show};
use crate::postgres::{self, Postgres, PostgresArgs, PostgresLane};
use crate::process::Process;
use crate::queries::{ServerLane, add_memory};
use crate::report::{Report, show_bytes};
use crate::workload::{Form, Query, Workload, WorkloadArgs};

/// Queries that must be at least [`FASTER_MIN`] times faster than PostgreSQL at the median. The others PostgreSQL answers in about the
/// time of a round trip: there the server may be slower by at most one bare round trip.
const MUST_BE_FASTER: [&str; 10] = ["Q3", "Q6", "Q8", "Q9", "Q10", "Q11", "X1", "X2", "X4", "X5"];
const FASTER_MIN: f64 = 10.0;

/// How far p99 may be from the median.
const SPREAD_MAX: f64 = 5.0;

/// Measure the server beside PostgreSQL and the bare HTTP round trip, in the same run.
///
/// The engines take turns on every query, so that whatever else the machine does disturbs all of them. Exits with 1 when a target
/// is missed.
#[derive(Args)]
pub struct CompareArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    effort: Effort,
    /// Data directory that the server's inventory was imported from.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    postgres: PostgresArgs,
    /// Process id of the server, to show its memory.
    #[arg(long)]
    pid: Option<u32>,
    /// How often the engines take turns on one query.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Everything measured of one query.
struct Comparison {
    ours: Summary,
    relational: Summary,
    jsonb: Summary,
    floor: Summary,
    items: f64,
    bytes: usize,
}

/// Runs the subcommand.
pub fn run(args: &CompareArgs) -> anyhow::Result<Report> {
    let data = DataDir::open(&args.data)?;
    let workload = Workload::load(&args.workload, &data)?;
    let mut expected = Expected::load(&data)?;
    let mut ours = ServerLane::connect(&Server::new(&args.server)?)?;
    let mut postgres = Postgres::start(&args.postgres, &data)?;
    let mut report = Report::default();
    let mut rows = Vec::new();
    for query in &workload.queries {
        let forms = workload.forms(query, args.effort.timed())?;
        let warming = workload.forms(query, args.effort.warming())?;
        let lanes = (&mut ours, &mut postgres.lanes);
        let Some(result) = compare(lanes, query, (&warming, &forms), args, &mut expected)? else { continue };
        rows.push(row(query, &result, &mut report));
    }
    expected.save()?;
    let header = [
        "query",
        "ours p50",
        "p99",
        "p99/p50",
        "PG relational",
        "PG jsonb",
        "PG/ours",
        "bare HTTP",
        "ours-PG",
        "items",
        "answer",
        "verdict",
    ];
    report.table(format!("Queries beside PostgreSQL {}", postgres.version), &header, rows);
    add_memory(&mut report, args.pid.map(Process::new))?;
    Ok(report)
}

fn compare(
    (ours, postgres): (&mut ServerLane, &mut [PostgresLane; 2]),
    query: &Query,
    (warming, forms): (&[Form], &[Form]),
    args: &CompareArgs,
    expected: &mut Expected,
) -> anyhow::Result<Option<Comparison>> {
    let effort = &args.effort;
    warm_up(ours, query, warming, effort)?;
    for lane in postgres.iter_mut() {
        lane.prepare(query, warming)?;
        warm_up(lane, query, warming, effort)?;
    }
    let [relational, jsonb] = postgres;
    let mut lanes: [(&mut dyn Lane, Measured); 3] =
        [(relational, Measured::default()), (jsonb, Measured::default()), (ours, Measured::default())];
    let mut floor: Option<Floor> = None;
    let mut floor_times = Latencies::default();
    for turn in forms.chunks(forms.len().div_ceil(args.rounds.max(1)).max(1)) {
        for (lane, measured) in &mut lanes {
            measured.run(*lane, query, turn, effort, expected)?;
        }
        let floor = match &mut floor {
            Some(floor) => floor,
            None => {
                // The server's answers of the first turn tell the size of the floor's.
                let started = floor.insert(Floor::start(lanes[2].1.median_bytes())?);
                for form in warming {
                    started.round_trip(&form.body)?;
                }
                started
            }
        };
        for form in turn {
            floor_times.push(floor.round_trip(&form.body)?);
        }
    }
    let [relational, jsonb, ours] = lanes.map(|(_, measured)| measured);
    let summaries = (ours.times.summary(), relational.times.summary(), jsonb.times.summary(), floor_times.summary());
    let (Some(ours_times), Some(relational), Some(jsonb), Some(floor)) = summaries else { return Ok(None) };
    Ok(Some(Comparison {
        ours: ours_times,
        relational,
        jsonb,
        floor,
        items: ours.mean_items(),
        bytes: ours.median_bytes(),
    }))
}

fn row(query: &Query, result: &Comparison, report: &mut Report) -> Vec<String> {
    let Comparison { ours, relational, jsonb, floor, items, bytes } = *result;
    let (layout, best) = postgres::best(relational, jsonb);
    let faster = ratio(best.p50, ours.p50);
    let slower_by = ours.p50.saturating_sub(best.p50);
    let missed = misses(&query.name, result);
    report.failures.extend(missed.iter().map(|miss| format!("{}: {miss}", query.name)));
    report.figure(
        &query.name,
        json!({"ours": ours.json(), "relational": relational.json(), "jsonb": jsonb.json(), "floor": floor.json(),
               "best": layout.name(), "faster": faster, "spread": ours.spread(), "items_mean": items,
               "answer_bytes_median": bytes, "missed": missed}),
    );
    vec![
        format!("{} {}", query.name, query.title),
        show(ours.p50),
        show(ours.p99),
        format!("{:.1}", ours.spread()),
        show(relational.p50),
        show(jsonb.p50),
        format!("{faster:.1}"),
        show(floor.p50),
        if slower_by == Duration::ZERO { "-".to_owned() } else { show(slower_by) },
        format!("{items:.1}"),
        show_bytes(bytes as u64),
        if missed.is_empty() { "ok".to_owned() } else { "missed".to_owned() },
    ]
}

/// The targets that a query missed.
fn misses(query: &str, result: &Comparison) -> Vec<String> {
    let (_, best) = postgres::best(result.relational, result.jsonb);
    let faster = ratio(best.p50, result.ours.p50);
    let mut missed = Vec::new();
    if MUST_BE_FASTER.contains(&query) {
        if faster < FASTER_MIN {
            missed.push(format!("{faster:.1} times faster than PostgreSQL, not {FASTER_MIN}"));
        }
    } else if result.ours.p50 > best.p50 + result.floor.p50 {
        missed.push("slower than PostgreSQL by more than a bare round trip".to_owned());
    }
    if result.ours.spread() > SPREAD_MAX {
        missed.push(format!("p99 is {:.1} times p50, more than {SPREAD_MAX}", result.ours.spread()));
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, ours_us: u64, postgres_us: u64, expected: usize) {
        let times = |us: u64| {
            let time = Duration::from_micros(us);
            Summary { count: 1, p50: time, p99: time, max: time }
        };
        let (ours, relational, jsonb, floor) = (times(ours_us), times(postgres_us), times(postgres_us * 2), times(30));
        let result = Comparison { ours, relational, jsonb, floor, items: 1.0, bytes: 1 };
        assert_eq!(misses(query, &result).len(), expected, "{query} {ours_us} {postgres_us}");
    }

    #[test]
    fn targets_depend_on_the_query() {
        check("Q8", 100, 1000, 0);
        check("Q8", 101, 1000, 1);
        check("Q1", 60, 30, 0);
        check("Q1", 61, 30, 1);
    }

    #[test]
    fn a_long_tail_is_a_miss() {
        let us = Duration::from_micros;
        let ours = Summary { count: 1, p50: us(10), p99: us(51), max: us(51) };
        let postgres = Summary { count: 1, p50: us(1000), p99: us(1000), max: us(1000) };
        let result = Comparison { ours, relational: postgres, jsonb: postgres, floor: ours, items: 1.0, bytes: 1 };
        assert_eq!(misses("Q8", &result).len(), 1);
    }
}
