//! PostgreSQL on the same data, as well as it can be made to do: two schemas, fair indexes, prepared statements, and for each query
//! the fastest of several ways to write it and of both ways to plan it.

mod cluster;
mod lane;
mod load;
mod statement;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::rc::Rc;

use clap::Args;
use serde_json::json;

use crate::data::DataDir;
use crate::expected::Expected;
use crate::lane::{Effort, Lane, Measured, warm_up};
use crate::latency::{Summary, show};
use crate::report::Report;
use crate::workload::{Workload, WorkloadArgs};
use cluster::Cluster;
pub use lane::PostgresLane;

/// Where Debian has PostgreSQL 15.
const PG_BIN: &str = "/usr/lib/postgresql/15/bin";

/// How the inventory is laid out in tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// A table per type, a column per property.
    Relational,
    /// One table with a JSONB document per resource.
    Jsonb,
}

impl Layout {
    pub const ALL: [Layout; 2] = [Layout::Relational, Layout::Jsonb];

    /// The name of the schema in the database, and of the lane.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Relational => "relational",
            Layout::Jsonb => "jsonb",
        }
    }
}

/// Measure PostgreSQL on the same data and queries.
///
/// Makes a private cluster in the data directory at the first run and keeps it. As root, the server runs as the account `postgres`,
/// which must be able to enter the data directory.
#[derive(Args)]
pub struct PostgresCommand {
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    effort: Effort,
    /// Data directory, made by `data`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    postgres: PostgresArgs,
    /// Print the plan of each query.
    #[arg(long)]
    plans: bool,
}

/// Which PostgreSQL, and with which indexes.
#[derive(Args, Clone)]
pub struct PostgresArgs {
    /// Where `initdb` and `pg_ctl` are.
    #[arg(long, value_name = "DIR", default_value = PG_BIN)]
    pg_bin: PathBuf,
    /// Add indexes that cover single queries of the workload: more than the fair set.
    #[arg(long)]
    covering: bool,
}

/// A started cluster with the data of one inventory, and a connection for each layout.
pub struct Postgres {
    // Declared before the cluster: connections end before the server stops.
    pub lanes: [PostgresLane; 2],
    pub version: String,
    _cluster: Cluster,
}

impl Postgres {
    pub fn start(args: &PostgresArgs, data: &DataDir) -> anyhow::Result<Self> {
        let cluster = Cluster::start(&args.pg_bin, &data.postgres())?;
        let address = cluster.connection_string();
        let runtime = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        let version = runtime.block_on(async {
            let client = lane::connect(&address).await?;
            load::load(&client, data, args.covering).await?;
            let version = client.query_one("SELECT current_setting('server_version')", &[]).await?;
            Ok::<_, anyhow::Error>(version.get(0))
        })?;
        let lane = |layout| PostgresLane::connect(&address, layout, runtime.clone());
        Ok(Postgres { lanes: [lane(Layout::Relational)?, lane(Layout::Jsonb)?], version, _cluster: cluster })
    }
}

/// The layout with the lower median.
pub fn best(relational: Summary, jsonb: Summary) -> (Layout, Summary) {
    if relational.p50 <= jsonb.p50 { (Layout::Relational, relational) } else { (Layout::Jsonb, jsonb) }
}

/// Runs the subcommand.
pub fn run(args: &PostgresCommand) -> anyhow::Result<Report> {
    let data = DataDir::open(&args.data)?;
    let workload = Workload::load(&args.workload, &data)?;
    let mut expected = Expected::load(&data)?;
    let mut postgres = Postgres::start(&args.postgres, &data)?;
    let mut report = Report::default();
    let mut rows = Vec::new();
    let mut plans = Vec::new();
    for query in &workload.queries {
        let forms = workload.forms(query, args.effort.timed())?;
        let warming = workload.forms(query, args.effort.warming())?;
        let mut summaries = Vec::new();
        let mut items = 0.0;
        for lane in &mut postgres.lanes {
            lane.prepare(query, &warming)?;
            warm_up(lane, query, &warming, &args.effort)?;
            let mut measured = Measured::default();
            measured.run(lane, query, &forms, &args.effort, &mut expected)?;
            items = measured.mean_items();
            summaries.extend(measured.times.summary());
            if let (true, [form, ..]) = (args.plans, &warming[..]) {
                let (sql, mode) = lane.chosen(query).unwrap_or_default();
                let text = format!("{sql}\n\n{}", lane.explain(query, form)?.join("\n\n"));
                plans.push((format!("{} {}, {mode}", query.name, lane.name()), text));
            }
        }
        let [relational, jsonb] = summaries[..] else { continue };
        let (layout, fastest) = best(relational, jsonb);
        rows.push(vec![
            format!("{} {}", query.name, query.title),
            show(relational.p50),
            show(relational.p99),
            show(jsonb.p50),
            show(jsonb.p99),
            layout.name().to_owned(),
            show(fastest.p50),
            format!("{items:.1}"),
        ]);
        report.figure(
            &query.name,
            json!({"relational": relational.json(), "jsonb": jsonb.json(), "best": layout.name(), "items_mean": items}),
        );
    }
    expected.save()?;
    let header =
        ["query", "relational p50", "relational p99", "jsonb p50", "jsonb p99", "better", "better p50", "items"];
    report.table(format!("PostgreSQL {}", postgres.version), &header, rows);
    for (title, plan) in plans {
        report.text(title, plan);
    }
    Ok(report)
}
