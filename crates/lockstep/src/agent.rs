//! `lockstep agent`: a provider of samples on a host of its own, and what keeps that host in the inventory.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use lockstep_agent::provider::{Config, Provider};
use lockstep_agent::upstream::HttpUpstream;
use lockstep_agent::{LibvirtAddress, keeper};
use lockstep_cli::Globals;
use lockstep_client::Client;
use lockstep_contract::Secret;
use tokio::sync::watch;

use crate::serve::{runtime, start_logging, stop_signal};

/// How often the machine is read for the inventory.
const COLLECT_INTERVAL: Duration = Duration::from_secs(5);

/// How often a line says how it goes.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);

/// What an agent is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  At the site:   lockstep account token agent-7 --role agent --file agent-7.token
  On the host:   lockstep agent --server https://site-a:8443 --token-file agent-7.token --ca-cert tls-cert.pem

What the acquisition specifications of the site ask for is sampled here and sent there. While the site is away, samples wait in
DIR/spool, through restarts of the agent too, and are sent when it is back.")]
pub struct AgentArgs {
    /// The site, e.g. https://site-a:8443.
    #[arg(long, value_name = "URL")]
    server: String,
    /// File whose first line is an access token of the role agent.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Where the samples wait and the copy of the specifications is kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lockstep-agent")]
    data_dir: PathBuf,
    /// How much room waiting samples may take, in MiB; beyond it the oldest are dropped.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    spool_mib: u64,
    /// How often to ask for changes of the specifications, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    sync_interval: u64,
    /// The directory that stands for `/`, as of a host whose root is mounted into a container.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Do not keep this machine and its virtual machines in the site's inventory.
    #[arg(long)]
    no_collect_host: bool,
    /// Do not switch virtual machines of this machine when the site orders it.
    #[arg(long)]
    no_power: bool,
    /// Where libvirt is, e.g. `test+unix:///default?socket=/run/libvirt/libvirt-sock-ro` [default: qemu:///system, where it runs]
    #[arg(long, value_name = "URI", conflicts_with = "no_collect_host")]
    libvirt: Option<LibvirtAddress>,
    /// Log lines as JSON.
    #[arg(long)]
    log_json: bool,
}

/// Runs an agent until it is told to stop by SIGINT or SIGTERM.
///
/// # Errors
/// What keeps the agent from starting.
pub fn run(args: &AgentArgs, globals: &Globals) -> Result<()> {
    start_logging(args.log_json, "info");
    let text = std::fs::read_to_string(&args.token_file)
        .with_context(|| format!("cannot read {}", args.token_file.display()))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        bail!("{} holds no access token in its first line", args.token_file.display());
    }
    let client = globals.client_with_token(&args.server, Secret(token.to_owned()))?;
    runtime()?.block_on(async {
        let config = Config {
            root: args.root.clone(),
            sync_interval: Duration::from_secs(args.sync_interval),
            spool_bytes_max: args.spool_mib << 20,
            ..Config::new(&args.data_dir)
        };
        let provider = Provider::start(config, HttpUpstream::new(client.clone()))?;
        tracing::info!(server = %args.server, data_dir = %args.data_dir.display(), "sampling this host");
        let (end, ended) = watch::channel(false);
        let config =
            keeper::Config { interval: COLLECT_INTERVAL, takes_orders: !args.no_power, libvirt: args.libvirt.clone() };
        let collector = (!args.no_collect_host).then(|| tokio::spawn(keep_host(client, config, ended)));
        let stopped = stop_signal();
        tokio::pin!(stopped);
        let mut report = tokio::time::interval_at(tokio::time::Instant::now() + REPORT_INTERVAL, REPORT_INTERVAL);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                _ = report.tick() => tell(&provider),
            }
        }
        end.send_replace(true);
        if let Some(collector) = collector {
            // It fails only when it panicked, and then it has ended, too.
            let _ = collector.await;
        }
        tell(&provider);
        provider.stop().await;
        Ok(())
    })
}

/// Keeps this host in the site's inventory.
async fn keep_host(client: Client, config: keeper::Config, mut ended: watch::Receiver<bool>) {
    loop {
        let mut stop = ended.clone();
        let stopped = async move {
            let _ = stop.wait_for(|is_ended| *is_ended).await;
        };
        let told = |event: keeper::Event| match event {
            keeper::Event::Away(error) => tracing::debug!(%error, "the site is away"),
            event => tracing::info!("{event}"),
        };
        match keeper::keep(&client, config.clone(), stopped, told).await {
            Ok(()) => return,
            // What does not mend by itself is tried again all the same: someone may mend it at the site.
            Err(error) => tracing::warn!(error = %error, "cannot keep this host in the inventory"),
        }
        tokio::select! {
            () = tokio::time::sleep(COLLECT_INTERVAL * 6) => {}
            _ = ended.wait_for(|is_ended| *is_ended) => return,
        }
    }
}

fn tell(provider: &Provider) {
    let status = provider.status();
    tracing::info!(
        specs = status.specs,
        sampled = status.sampled_points,
        delivered = status.delivered_points,
        waiting = status.waiting_points,
        lag_s = status.lag_s,
        dropped = status.dropped_points + status.overrun_points,
        last_error = status.last_error,
        "samples"
    );
}
