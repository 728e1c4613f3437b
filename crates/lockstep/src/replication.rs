//! The replication of a server: how it is set up from flags.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use lockstep_blocks::{S3, S3Config, Store};
use lockstep_links::Links;
use lockstep_replication::engine_qemu::Qemu;
use lockstep_replication::{Config, Replications};
use lockstep_site::Site;
use lockstep_site::tasks::Tasks;

/// How long a sync goes on trying when nothing gets done.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a server is told of replication.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Replication")]
pub struct ReplicationArgs {
    /// Where the instances of other sites' machines are kept: a directory, or s3://BUCKET[/PREFIX] [default: DATA_DIR/replicas]
    ///
    /// With s3:// the environment has AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for other stores than AWS,
    /// AWS_ENDPOINT_URL; what is not finished stays in DATA_DIR/replicas.
    #[arg(long, value_name = "DIR|s3://…")]
    pub replica_store: Option<String>,
    /// Where `lockstep replication export` may write [default: DATA_DIR/exports]
    #[arg(long, value_name = "DIR")]
    pub replica_exports: Option<PathBuf>,
    /// Most MiB a second that syncs send over one link; without it as much as there is.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub replication_limit: Option<u64>,
    /// How long the guest of a machine that migrates has to switch itself off, before it is switched off.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub migrate_power_off: u64,
}

/// Opens the service.
///
/// # Errors
/// When the store cannot be opened.
pub async fn open(
    args: &ReplicationArgs,
    data_dir: &Path,
    site: &Arc<Site>,
    tasks: &Arc<Tasks>,
    links: &Arc<Links>,
) -> Result<Arc<Replications>> {
    let place = args.replica_store.clone();
    let directory = data_dir.join("replicas");
    let runtime = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || open_store(place.as_deref(), directory, runtime)).await;
    let store = opened.context("the store of replicas could not be opened")??;
    // QEMU is told these, and has a working directory of its own.
    let absolute = |path: PathBuf| std::path::absolute(&path).with_context(|| format!("no path {}", path.display()));
    let work = absolute(data_dir.join("replication"))?;
    let config = Config {
        store: Some(store),
        engine: Some(Arc::new(Qemu { scratch: work.join("scratch") })),
        maps: work.join("maps"),
        exports: absolute(args.replica_exports.clone().unwrap_or_else(|| data_dir.join("exports")))?,
        recovered: absolute(data_dir.join("recovered"))?,
        bytes_per_s: args.replication_limit.map(|mib| mib << 20),
        patience: PATIENCE,
        power_off_after: Duration::from_secs(args.migrate_power_off),
    };
    let opened = Replications::open(site.clone(), tasks.clone(), links.clone(), config).await;
    opened.context("replication cannot start")
}

fn open_store(place: Option<&str>, directory: PathBuf, runtime: tokio::runtime::Handle) -> Result<Store> {
    let Some(bucket) = place.and_then(|place| place.strip_prefix("s3://")) else {
        let directory = place.map_or(directory, PathBuf::from);
        return Store::open(&directory).with_context(|| format!("cannot open the replicas in {}", directory.display()));
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let demanded = |name: &str| variable(name).with_context(|| format!("--replica-store s3://…: {name} is not set"));
    let (bucket, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
    if bucket.is_empty() {
        bail!("--replica-store s3://BUCKET[/PREFIX]: the bucket is missing");
    }
    let config = S3Config {
        endpoint: variable("AWS_ENDPOINT_URL"),
        region: variable("AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned()),
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        access_key: demanded("AWS_ACCESS_KEY_ID")?,
        secret_key: demanded("AWS_SECRET_ACCESS_KEY")?,
    };
    let remote = S3::new(&config, runtime).context("--replica-store: the object store cannot be used")?;
    Store::open_remote(&directory, Arc::new(remote))
        .with_context(|| format!("cannot open the replicas in s3://{bucket}"))
}
