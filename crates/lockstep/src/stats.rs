//! The stats service of a server: how it is set up from flags, and what runs beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use lockstep_site::Site;
use lockstep_stats::{Config, Stats};
use tokio::task::JoinHandle;

/// A provider that is silent for this long counts as gone.
const ABSENT_AFTER: Duration = Duration::from_secs(90);

/// What a server is told of stats.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Stats")]
pub struct StatsArgs {
    /// How long samples are kept as they were taken, in hours.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=336))]
    pub stats_hours: u32,
    /// How long means of five minutes are kept, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub stats_five_minutes_days: u32,
    /// How long means of an hour are kept, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    pub stats_hour_days: u32,
    /// Do not sample this machine and its virtual machines, whatever acquisition specifications ask for.
    #[arg(long)]
    pub no_sample_host: bool,
}

/// Opens the service.
///
/// # Errors
/// When its store cannot be opened.
pub async fn open(args: &StatsArgs, data_dir: &Path, site: &Arc<Site>) -> Result<Arc<Stats>> {
    const DAY_S: i64 = 24 * 3600;
    let store = lockstep_series::Config {
        raw_retention_s: i64::from(args.stats_hours) * 3600,
        five_minutes_retention_s: i64::from(args.stats_five_minutes_days) * DAY_S,
        hour_retention_s: i64::from(args.stats_hour_days) * DAY_S,
        ..Default::default()
    };
    let config = Config {
        data_dir: data_dir.join("series"),
        store,
        absent_after: ABSENT_AFTER,
        sync_page: lockstep_stats::SYNC_PAGE,
    };
    let site = site.clone();
    let opened = tokio::task::spawn_blocking(move || Stats::open(site, config)).await;
    Ok(opened.context("the series store could not be opened")??)
}

/// What runs beside the service until the site stops.
pub struct Running {
    statuses: JoinHandle<()>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(stats: &Arc<Stats>) -> Result<Self> {
        // The thread ends with the site.
        drop(stats.keep_store().context("cannot start a thread for the series store")?);
        Ok(Self { statuses: tokio::spawn(stats.clone().keep_statuses()) })
    }

    /// Ends what has not ended by itself.
    pub fn stop(self) {
        self.statuses.abort();
    }
}
