//! `lockstep serve`: a server.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use lockstep_agent::LibvirtAddress;
use lockstep_api::{Elsewhere, MoreMetrics};
use lockstep_feed::Feed;
use lockstep_links::Links;
use lockstep_replication::Replications;
use lockstep_replication::switch::Recovered;
use lockstep_site::Site;
use lockstep_site::table::Table;
use lockstep_site::tasks::{self, Tasks};
use lockstep_stats::Stats;
use lockstep_vcenter::{Switch, Switches};
use lockstep_vsphere::Collectors;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::collector::{self, ThisHost};
use crate::in_process::InProcess;
use crate::links::{self, LinksArgs};
use crate::replication::{self, ReplicationArgs};
use crate::stats::{Running, StatsArgs};
use crate::{password, provider, stats};

/// What a server is told.
#[derive(Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  lockstep serve --data-dir /var/lib/lockstep
  lockstep serve --data-dir ./data --listen 0.0.0.0:8443 --site fra01
  lockstep serve --data-dir ./data --listen 127.0.0.1:8080 --plain-http

The first start makes a certificate, and the account administrator@lockstep.local with the password from
--admin-password-file, or with a generated one that is printed once and kept in DIR/admin-password.")]
pub struct ServeArgs {
    /// Where the journal, the certificate and the generated password are kept.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// The site's name, for people and for links.
    #[arg(long, value_name = "NAME", default_value = "site")]
    pub site: String,
    /// File whose first line is the administrator's password at the first start.
    #[arg(long, value_name = "FILE")]
    pub admin_password_file: Option<PathBuf>,
    /// Where the journal is: `embedded`.
    #[arg(long, value_name = "ENGINE", default_value = "embedded")]
    pub journal: String,
    /// Speak plain HTTP instead of TLS; on loopback addresses only.
    #[arg(long)]
    pub plain_http: bool,
    /// Certificate chain in PEM, instead of the self-signed one.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Further names and addresses for the self-signed certificate.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_names: Vec<String>,
    /// Do not keep this machine and its virtual machines in the inventory.
    #[arg(long)]
    pub no_collect_host: bool,
    /// Where libvirt is, e.g. `test+unix:///default?socket=/run/libvirt/libvirt-sock-ro` [default: qemu:///system, where it runs]
    #[arg(long, value_name = "URI", conflicts_with = "no_collect_host")]
    pub libvirt: Option<LibvirtAddress>,
    /// How long a change feed's answer waits for changes, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub poll_limit: u64,
    /// The greatest limit of a query, and the one of a query without.
    #[arg(long, value_name = "ITEMS", default_value_t = 1000)]
    pub page_limit: u32,
    /// How long the change feed goes back, in hours.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    pub retention_hours: u64,
    /// How many changes the change feed goes back at the most.
    #[arg(long, value_name = "CHANGES", default_value_t = 1_000_000)]
    pub retention_changes: u64,
    /// How large the change feed's log may grow, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub retention_mib: u64,
    /// A session ends when it was not used for this long, in minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 30)]
    pub session_idle: u64,
    #[command(flatten)]
    pub stats: StatsArgs,
    // Boxed, as those of stats.
    #[command(flatten)]
    pub links: Box<LinksArgs>,
    #[command(flatten)]
    pub replication: Box<ReplicationArgs>,
    /// Log lines as JSON. What is logged: RUST_LOG, e.g. `info,lockstep_api=debug`.
    #[arg(long)]
    pub log_json: bool,
}

impl ServeArgs {
    /// What `serve` would be told for a site of the demo.
    pub fn for_demo(site: &str, data_dir: PathBuf, listen: SocketAddr, plain_http: bool) -> Self {
        use clap::{Command, FromArgMatches};
        // The defaults stand at the flags, once.
        let mut words = vec!["serve".into(), "--data-dir".into(), data_dir.into_os_string()];
        words.extend(["--listen".into(), listen.to_string().into(), "--site".into(), site.into()]);
        words.extend(plain_http.then(|| "--plain-http".into()));
        let matches = Self::augment_args(Command::new("serve")).get_matches_from(words);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Runs a server until it is told to stop by SIGINT or SIGTERM.
///
/// # Errors
/// What keeps the server from starting.
pub fn run(args: &ServeArgs) -> Result<()> {
    start_logging(args.log_json, "info");
    runtime()?.block_on(async {
        let server = Server::start(args).await?;
        eprintln!("lockstep: site {} listens on {}", args.site, server.url);
        if let Some(password) = &server.new_password {
            eprintln!("lockstep: account {}, password {password}", password::ADMINISTRATOR);
        }
        server.run(stop_signal()).await
    })
}

/// The runtime of a server: a worker for each core.
///
/// # Errors
/// When the operating system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Sends log lines to standard error.
pub fn start_logging(json: bool, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only when logging has been started before, as the demo does.
    let _ = if json { lines.json().try_init() } else { lines.try_init() };
}

/// Ends when the process is told to stop.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without the signal there is still the other.
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
    tracing::info!("stopping");
}

/// A server that is ready to run.
pub struct Server {
    /// The site that it serves.
    pub site: Arc<Site>,
    /// Where clients reach it.
    pub url: String,
    /// The administrator's password, when it was generated at this start.
    pub new_password: Option<String>,
    /// Its stats service.
    pub stats: Arc<Stats>,
    links: Arc<Links>,
    collectors: Arc<Collectors>,
    tasks: Arc<Tasks>,
    replications: Arc<Replications>,
    table: Arc<Table>,
    listener: TcpListener,
    api: lockstep_api::ApiConfig,
    /// The machine that it runs on; `None` when it is left out of the inventory.
    host: Option<Arc<ThisHost>>,
    /// Where the built-in provider of samples keeps its files; `None` without one.
    provider_dir: Option<PathBuf>,
}

impl Server {
    /// Opens the site and listens.
    ///
    /// # Errors
    /// What keeps the server from starting.
    pub async fn start(args: &ServeArgs) -> Result<Self> {
        if args.journal != "embedded" {
            bail!("--journal {}: this version has the embedded journal only", args.journal);
        }
        if args.plain_http && !args.listen.ip().is_loopback() {
            bail!("--plain-http is for loopback addresses only; {} is none", args.listen.ip());
        }
        fs::create_dir_all(&args.data_dir).with_context(|| format!("cannot make {}", args.data_dir.display()))?;
        fs::set_permissions(&args.data_dir, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot protect {}", args.data_dir.display()))?;
        let listener =
            lockstep_api::listen(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
        let address = listener.local_addr().context("no local address")?;

        let config = site_config(args);
        let site = tokio::task::spawn_blocking(move || {
            Site::open(config, &mut |read| {
                if read.is_multiple_of(1 << 18) {
                    tracing::info!(resources = read, "reading the journal");
                }
            })
        })
        .await
        .context("the site could not be opened")??;

        let new_password = make_administrator(args, &site).await?;
        let feed = Feed::new(&site, Duration::from_secs(args.poll_limit));
        let mut table = Table::default();
        lockstep_site::register(&mut table);
        feed.register(&mut table);
        lockstep_tagging::register(&mut table);
        let host = (!args.no_collect_host).then(|| Arc::new(ThisHost::new(args.libvirt.clone())));
        let stats = stats::open(&args.stats, &args.data_dir, &site).await?;
        stats.register(&mut table);

        let tls = match (&args.tls_cert, &args.tls_key) {
            _ if args.plain_http => None,
            (Some(cert), Some(key)) => Some(lockstep_api::tls::load(cert, key)?),
            _ => {
                let mut names = args.tls_names.clone();
                names.push(address.ip().to_string());
                Some(lockstep_api::tls::load_or_create(&args.data_dir, &names)?)
            }
        };
        let (tls, certificate) = tls.unzip();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let links = links::open(&args.links, &site, &url, certificate.as_deref())?;
        links::register(&links, &mut table);
        let collectors = Collectors::open(site.clone(), collector::rules).context("the collectors cannot be read")?;
        collectors.register(&mut table);
        let tasks = Tasks::new(site.clone(), tasks::Limits::default());
        tasks.register(&mut table);
        let replications = replication::open(&args.replication, &args.data_dir, &site, &tasks, &links).await?;
        replications.register(&mut table);
        let own_host = host.clone().map(|host| host as Arc<dyn Switch>);
        let switches = Switches {
            own_host: Some(Arc::new(Recovered::new(replications.clone(), own_host))),
            vcenters: Some(collectors.clone()),
            hosts: Some(collectors.switch_of_hosts()),
        };
        lockstep_vcenter::register(&mut table, switches, tasks.clone());
        let metrics = (stats.clone(), replications.clone());
        let more_metrics = MoreMetrics(Arc::new(move |out: &mut String| {
            metrics.0.write_metrics(out);
            metrics.1.write_metrics(out);
        }));
        let service = replications.clone();
        let elsewhere = Elsewhere(Arc::new(move |context, site, operation, input| {
            let service = service.clone();
            Box::pin(async move { service.run_elsewhere(context, site, operation, input).await })
        }));
        Ok(Self {
            url,
            site,
            stats,
            links,
            collectors,
            host,
            tasks,
            replications,
            new_password,
            table: Arc::new(table),
            listener,
            api: lockstep_api::ApiConfig {
                tls,
                more_metrics: Some(more_metrics),
                elsewhere: Some(elsewhere),
                ..Default::default()
            },
            provider_dir: (!args.stats.no_sample_host).then(|| args.data_dir.clone()),
        })
    }

    /// Calls of a part of the server to its operations.
    pub fn calls(&self, part: &'static str) -> InProcess {
        InProcess { site: self.site.clone(), table: self.table.clone(), part }
    }

    /// Serves until `stop` ends; then lets calls finish for a moment.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let own_collector =
            self.host.as_ref().map(|host| tokio::spawn(host.clone().keep(self.site.clone(), self.collectors.clone())));
        let running = Running::start(&self.stats)?;
        let provider = match &self.provider_dir {
            Some(dir) => Some(provider::start(self.calls("provider"), self.stats.clone(), dir)?),
            None => None,
        };
        self.links.start().await;
        self.collectors.start();
        self.tasks.start().await;
        self.replications.start().await;
        let site = self.site.clone();
        let stopping = async move {
            stop.await;
            site.begin_stop();
        };
        let served = lockstep_api::serve(self.site.clone(), self.table, self.listener, self.api, stopping).await;
        if let Some(collector) = own_collector {
            collector.abort();
        }
        self.collectors.stop().await;
        if let Some(provider) = provider {
            provider.stop().await;
        }
        running.stop();
        self.site.close();
        served.context("the server failed")
    }
}

fn site_config(args: &ServeArgs) -> lockstep_site::Config {
    let retention = lockstep_journal::Retention {
        age: Duration::from_secs(args.retention_hours * 3600),
        bytes_max: args.retention_mib << 20,
        changes_max: args.retention_changes,
        ..Default::default()
    };
    lockstep_site::Config {
        name: args.site.clone(),
        data_dir: args.data_dir.clone(),
        journal: lockstep_journal::Config { retention, ..Default::default() },
        query_limits: lockstep_query::Limits { page_items: args.page_limit, ..Default::default() },
        sessions: lockstep_site::sessions::SessionLimits {
            idle: Duration::from_secs(args.session_idle * 60),
            ..Default::default()
        },
        epoch_types: lockstep_stats::EPOCH_TYPES.map(str::to_owned).to_vec(),
    }
}

/// Makes the first account. Answers its password when it was generated.
async fn make_administrator(args: &ServeArgs, site: &Arc<Site>) -> Result<Option<String>> {
    let (password, is_generated) = match &args.admin_password_file {
        Some(file) => (password::read(file)?, false),
        None if site.has_accounts() => return Ok(None),
        None => (password::generated(&args.data_dir)?.0, true),
    };
    let is_made =
        site.ensure_administrator(password::ADMINISTRATOR, &password).await.context("cannot make the first account")?;
    Ok((is_made && is_generated).then_some(password))
}
