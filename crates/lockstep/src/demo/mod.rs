//! `lockstep demo`: two linked sites with generated inventories that keep changing.

mod churn;
mod inventory;
mod replica;
mod samples;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use lockstep_contract::Error;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::links::{Invite, Join, JoinInput, ListDetails};
use lockstep_site::caller::Caller;
use lockstep_site::import::{ImportOptions, Importer};
use tokio::sync::watch;

use self::inventory::Inventory;
use crate::in_process::InProcess;
use crate::password;
use crate::serve::{ServeArgs, Server, runtime, start_logging, stop_signal};

/// The site that people are shown.
const FIRST: &str = "demo";

/// The site that it is linked with.
const SECOND: &str = "branch";

/// What the demo is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lockstep demo
  lockstep demo --vms 100000 --listen 127.0.0.1:9443
  lockstep demo --data-dir ./demo     (and again later: the sites go on where they were)")]
pub struct DemoArgs {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Address and port of the second site [default: the next port]
    #[arg(long, value_name = "ADDR:PORT")]
    second_listen: Option<SocketAddr>,
    /// How many virtual machines to generate; the second site gets a third as many.
    #[arg(long, value_name = "N", default_value_t = 9000)]
    vms: usize,
    /// Where to keep the data, a directory for each site; they are removed at the end otherwise.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Speak plain HTTP; the addresses must be loopback ones.
    #[arg(long)]
    plain_http: bool,
    /// How many changes to make in a second, at each site.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rate: u32,
}

impl DemoArgs {
    fn second_listen(&self) -> SocketAddr {
        self.second_listen.unwrap_or_else(|| {
            let port = self.listen.port();
            // Port 0 is any free one; behind the last one there is none.
            let next = if port == 0 { 0 } else { port.checked_add(1).unwrap_or(port - 1) };
            SocketAddr::new(self.listen.ip(), next)
        })
    }
}

/// Runs the demo until it is told to stop.
///
/// # Errors
/// What keeps a server from starting, or ends it.
pub fn run(args: &DemoArgs) -> Result<()> {
    start_logging(false, "warn");
    let scratch =
        tempfile::Builder::new().prefix("lockstep-demo-").tempdir().context("cannot make a directory for the demo")?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| scratch.path().to_owned());
    runtime()?.block_on(serve(args, &data_dir))
}

async fn serve(args: &DemoArgs, data_dir: &Path) -> Result<()> {
    let (first_dir, second_dir) = (data_dir.join(FIRST), data_dir.join(SECOND));
    let first = Server::start(&ServeArgs::for_demo(FIRST, first_dir.clone(), args.listen, args.plain_http)).await?;
    let mut second_args = ServeArgs::for_demo(SECOND, second_dir.clone(), args.second_listen(), args.plain_http);
    // This machine is in one inventory only.
    second_args.no_collect_host = true;
    second_args.stats.no_sample_host = true;
    let second = Server::start(&second_args).await.context("the second site (--second-listen)")?;
    let here = Inventory { site: FIRST, vms: args.vms, category: "tier", tags: ["gold", "silver", "bronze"] };
    let there =
        Inventory { site: SECOND, vms: args.vms.div_ceil(3), category: "backup", tags: ["hourly", "daily", "weekly"] };
    let began = Instant::now();
    let resources = load(&first, here).await? + load(&second, there).await?;
    println!(
        "{resources} generated resources in {:.1} s; this machine is in the inventory too.",
        began.elapsed().as_secs_f64()
    );

    let introduction = Introduction::new(&first, &second, &first_dir, args.plain_http)?;
    let (calls, second_calls) = (first.calls("demo"), second.calls("demo"));
    let mut background = vec![
        tokio::spawn(churn::keep_changing(first.site.clone(), here, args.rate)),
        tokio::spawn(churn::keep_changing(second.site.clone(), there, args.rate)),
        tokio::spawn(samples::keep_sampling(calls.clone(), first.stats.clone(), here)),
    ];
    let (stop, stopped) = watch::channel(false);
    let mut first = tokio::spawn(first.run(until_told(stopped.clone())));
    let mut second = tokio::spawn(second.run(until_told(stopped)));
    match link(&calls, &second_calls).await {
        Ok(()) => {
            background.push(tokio::spawn(replica::keep_replicating(calls, first_dir, SECOND)));
            introduction.print();
        }
        Err(error) => eprintln!("lockstep: the demo's sites could not be linked: {error}"),
    }
    // One that ends by itself has failed, and the other ends with it.
    let ended = tokio::select! {
        () = stop_signal() => None,
        ended = &mut first => Some(ended),
        ended = &mut second => Some(ended),
    };
    // Fails when both have ended.
    let _ = stop.send(true);
    background.iter().for_each(tokio::task::JoinHandle::abort);
    match ended {
        Some(ended) => ended.context("a site of the demo failed")?,
        None => {
            let (first, second) = tokio::join!(first, second);
            first.and(second).context("a site of the demo failed")?
        }
    }
}

async fn until_told(mut stopped: watch::Receiver<bool>) {
    // Fails when the demo is gone, which is a reason to stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Loads a generated inventory. Answers how many resources it has.
async fn load(server: &Server, inventory: Inventory) -> Result<u64> {
    let caller = Caller::Server("demo");
    let mut importer = Importer::new(server.site.clone(), &caller, ImportOptions::default());
    for chunk in inventory.chunks() {
        importer.push(chunk.as_bytes()).await.context("cannot load the demo's inventory")?;
    }
    let report = importer.finish().await.context("cannot load the demo's inventory")?;
    Ok(report.created + report.unchanged + report.replaced)
}

/// Links the sites as people do, by an invitation, unless they are linked already.
async fn link(first: &InProcess, second: &InProcess) -> Result<(), Error> {
    let links = first.call(ListDetails, &NoInput {}).await?.output;
    if links.iter().any(|link| link.domain_name == SECOND) {
        return Ok(());
    }
    let invitation = second.call(Invite, &NoInput {}).await?.output.line;
    first.call(Join, &JoinInput { invitation, domain_name: None, admin_groups: None }).await?;
    Ok(())
}

/// What a newcomer can paste.
struct Introduction {
    first: String,
    second: String,
    password: String,
    /// The certificate to trust; none without TLS.
    ca_cert: Option<PathBuf>,
}

impl Introduction {
    fn new(first: &Server, second: &Server, first_dir: &Path, plain_http: bool) -> Result<Self> {
        let (password, _) = password::generated(first_dir)?;
        let ca_cert = (!plain_http).then(|| first_dir.join("tls-cert.pem"));
        Ok(Self { first: first.url.clone(), second: second.url.clone(), password, ca_cert })
    }

    fn print(&self) {
        let program = std::env::current_exe().map_or_else(|_| "lockstep".to_owned(), |path| path.display().to_string());
        let (url, user, password) = (&self.first, password::ADMINISTRATOR, &self.password);
        println!(
            "
Site {FIRST} serves on {url}
  user      {user}
  password  {password}"
        );
        println!(
            "Site {SECOND}, linked with it, serves on {}
",
            self.second
        );
        println!(
            "In another terminal:
"
        );
        println!("  export LOCKSTEP_URL={url} LOCKSTEP_USERNAME={user} LOCKSTEP_PASSWORD={password}");
        if let Some(file) = &self.ca_cert {
            println!("  export LOCKSTEP_CA_CERT={}", file.display());
        }
        println!();
        for command in [
            "query 'VirtualMachine where power_state = POWERED_ON and host.cluster.name = demo-cl01 select name, cpu_count, memory_size_MiB, host.name order by memory_size_MiB desc limit 10 count'",
            "watch --type VirtualMachine",
            "link list",
            "query 'VirtualMachine where linked_from.domain_name = branch select name, power_state, host.name limit 10 count'",
            "replication list",
            "stats top",
            "query 'HostSystem where kernel.name = Linux select name, hardware.cpu_model, hardware.cpu_threads, hardware.memory_size_MiB'",
        ] {
            println!("  {program} {command}");
        }
        println!(
            "
Stop with Ctrl-C."
        );
    }
}
