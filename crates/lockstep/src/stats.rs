//! The stats service of a server: how it is set up from flags, and what runs beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use lockstep_site::Site;
use lockstep_stats::{Config, Stats, remote};
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
    // Boxed: they would make the enum of all commands too large for most of them.
    #[command(flatten)]
    pub remote: Box<RemoteArgs>,
}

/// What a server is told of a store of samples outside.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Stats")]
pub struct RemoteArgs {
    /// Send every sample to a store outside by Prometheus remote write, e.g. `http://tsdb.example:8428/api/v1/write`.
    ///
    /// VictoriaMetrics, Mimir, Thanos and Prometheus take them, under the names that `/metrics` shows. Samples wait on this server's disk
    /// until the store outside has them, up to 8 GiB. One may be sent twice: give VictoriaMetrics -dedup.minScrapeInterval=1ms, and
    /// Prometheus an out_of_order_time_window.
    #[arg(long, value_name = "URL")]
    pub stats_remote_write: Option<String>,
    /// Read data points from the store outside, e.g. `http://tsdb.example:8428`: its PromQL is at /api/v1/query below that.
    ///
    /// GET /api/stats/data/dp then reaches back as far as the store outside does, and fails when that is away. Charts are still drawn from
    /// this server's own store.
    #[arg(long, value_name = "URL", requires = "stats_remote_write")]
    pub stats_remote_read: Option<String>,
    /// File whose first line is what to log in to the store outside with: `user:password`, or a bearer token, which has no colon.
    ///
    /// It is read again when the store outside refuses it.
    #[arg(long, value_name = "FILE", requires = "stats_remote_write")]
    pub stats_remote_auth_file: Option<PathBuf>,
    /// File with certificates in PEM that vouch for the store outside, besides the system's.
    #[arg(long, value_name = "FILE", requires = "stats_remote_write")]
    pub stats_remote_ca: Option<PathBuf>,
    /// Label for every series outside, to tell this site's from those of others; may be repeated. Without any: `site=` and the site's name.
    ///
    /// Points are read back by these labels: change them, and older points are not found any more.
    #[arg(long, value_name = "NAME=VALUE", requires = "stats_remote_write", value_parser = label)]
    pub stats_remote_label: Vec<(String, String)>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    // A label without a value is the same as none to PromQL.
    if value.is_empty() { Err("the value is empty".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

impl RemoteArgs {
    fn config(&self, site: &str) -> Option<remote::Config> {
        let write_url = self.stats_remote_write.clone()?;
        let labels = match &self.stats_remote_label[..] {
            [] => vec![("site".to_owned(), site.to_owned())],
            given => given.to_vec(),
        };
        Some(remote::Config {
            write_url: Some(write_url),
            read_url: self.stats_remote_read.clone(),
            auth_file: self.stats_remote_auth_file.clone(),
            ca_file: self.stats_remote_ca.clone(),
            labels,
            pace: remote::Pace::default(),
        })
    }
}

/// Opens the service.
///
/// # Errors
/// When its store cannot be opened, or the flags of the store outside make no sense.
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
        remote: args.remote.config(&site.config.name),
    };
    let site = site.clone();
    let opened = tokio::task::spawn_blocking(move || Stats::open(site, config)).await;
    Ok(opened.context("the series store could not be opened")??)
}

/// What runs beside the service until the site stops.
pub struct Running {
    statuses: JoinHandle<()>,
    forwarding: JoinHandle<()>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(stats: &Arc<Stats>) -> Result<Self> {
        // The thread ends with the site.
        drop(stats.keep_store().context("cannot start a thread for the series store")?);
        Ok(Self {
            statuses: tokio::spawn(stats.clone().keep_statuses()),
            forwarding: tokio::spawn(stats.clone().forward()),
        })
    }

    /// Ends what has not ended by itself.
    pub fn stop(self) {
        self.statuses.abort();
        // It had the time that calls under way had; a request that is cut off is sent again after the next start.
        self.forwarding.abort();
    }
}
