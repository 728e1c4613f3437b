//! The bench tool: measures a running Lockstep server on a generated inventory, beside PostgreSQL on the same data and beside the
//! least that the machine needs for the same exchange.
//!
//! Every figure stands next to what it is compared with, measured in the same run on the same machine: absolute times of one machine
//! say little about another. How each published number is made is in `docs/benchmarks.md`.

mod compare;
mod data;
mod expected;
mod feed;
mod files;
mod floor;
mod http;
mod import;
mod lane;
mod latency;
mod postgres;
mod process;
mod queries;
mod replication;
mod report;
mod serve;
mod stats;
mod verify;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::report::Report;

#[derive(Parser)]
#[command(
    name = "lockstep-bench",
    version,
    about = "Measure a Lockstep server, PostgreSQL, and the bare machine in one run"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Also write the figures to this file, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    Data(data::DataArgs),
    Queries(queries::QueriesArgs),
    Verify(verify::VerifyArgs),
    Postgres(postgres::PostgresCommand),
    Compare(compare::CompareArgs),
    Feed(feed::FeedArgs),
    Import(import::ImportArgs),
    Floor(floor::FloorArgs),
    Stats(stats::StatsCommand),
    Replication(replication::ReplicationArgs),
    /// The bare epoll loop that `feed --baseline` starts.
    #[command(hide = true)]
    Baseline(feed::baseline::BaselineArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(report) => {
            print!("{report}");
            if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("lockstep-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Report> {
    let report = match &cli.command {
        Command::Data(args) => data::generate(args).map(|()| Report::default())?,
        Command::Queries(args) => queries::run(args)?,
        Command::Verify(args) => verify::run(args)?,
        Command::Postgres(args) => postgres::run(args)?,
        Command::Compare(args) => compare::run(args)?,
        Command::Feed(args) => feed::run(args)?,
        Command::Import(args) => import::run(args)?,
        Command::Floor(args) => floor::run(args)?,
        Command::Stats(args) => stats::run(args)?,
        Command::Replication(args) => replication::run(args)?,
        Command::Baseline(args) => feed::baseline::run(args).map(|()| Report::default())?,
    };
    if let Some(path) = &cli.json {
        report.write_json(path)?;
    }
    Ok(report)
}
