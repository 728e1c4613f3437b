//! The stats service, beside VictoriaMetrics with the same points in the same run.
//!
//! Each subcommand starts the servers that it measures, on directories of its own and free ports of 127.0.0.1, and stops them. What is compared
//! takes turns, so that whatever else the machine does disturbs all of it, and of several rounds the medians are told.
//!
//! VictoriaMetrics answers a write when the points are in its memory and flushes them within seconds; the server answers when they are
//! on the disk. Nothing makes up for that in the figures.

mod footprint;
mod ingest;
mod load;
mod queries;
mod site;
mod sync;
mod victoria;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use tempfile::TempDir;

use crate::report::Report;

pub use self::site::call;

/// Measure the stats service, beside VictoriaMetrics where it can do the same.
#[derive(Args)]
pub struct StatsCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Ingest(ingest::IngestArgs),
    Footprint(footprint::FootprintArgs),
    Query(queries::QueryArgs),
    Sync(sync::SyncArgs),
}

/// Which programs are measured, and where they keep their files.
#[derive(Args)]
pub struct Programs {
    /// The server.
    #[arg(long, value_name = "PROGRAM", default_value = "lockstep")]
    lockstep: PathBuf,
    /// VictoriaMetrics.
    #[arg(long, value_name = "PROGRAM", default_value = "victoria-metrics")]
    victoria_metrics: PathBuf,
    /// Directory for the servers' files; they are removed in the end.
    #[arg(long, value_name = "DIR", default_value = ".")]
    work_dir: PathBuf,
}

impl Programs {
    /// A fresh directory, removed when dropped.
    fn fresh_dir(&self) -> anyhow::Result<TempDir> {
        let within = &self.work_dir;
        tempfile::Builder::new()
            .prefix("lockstep-bench-")
            .tempdir_in(within)
            .with_context(|| format!("make a directory in {}", within.display()))
    }
}

/// Runs the subcommand.
pub fn run(command: &StatsCommand) -> anyhow::Result<Report> {
    match &command.what {
        What::Ingest(args) => ingest::run(args),
        What::Footprint(args) => footprint::run(args),
        What::Query(args) => queries::run(args),
        What::Sync(args) => sync::run(args),
    }
}

/// `127.0.0.1` with a port that was free a moment ago.
pub fn free_address() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.to_string())
}

/// The middle one of some numbers; of two the greater. 0 without any.
fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([1.0, 2.0]), 2.0);
        assert_eq!(median([]), 0.0);
    }
}
