//! `lockstep demo`: a server with a generated inventory that keeps changing.

mod churn;
mod inventory;
mod samples;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use lockstep_site::caller::Caller;
use lockstep_site::import::{ImportOptions, Importer};

use crate::password;
use crate::serve::{ServeArgs, Server, runtime, start_logging, stop_signal};

/// What the demo is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lockstep demo
  lockstep demo --vms 100000 --listen 127.0.0.1:9443")]
pub struct DemoArgs {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// How many virtual machines to generate.
    #[arg(long, value_name = "N", default_value_t = 9000)]
    vms: usize,
    /// Where to keep the data; a directory that is removed at the end otherwise.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Speak plain HTTP; the address must be a loopback one.
    #[arg(long)]
    plain_http: bool,
    /// How many changes to make in a second.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rate: u32,
}

/// Runs the demo until it is told to stop.
///
/// # Errors
/// What keeps the server from starting.
pub fn run(args: &DemoArgs) -> Result<()> {
    start_logging(false, "warn");
    let scratch =
        tempfile::Builder::new().prefix("lockstep-demo-").tempdir().context("cannot make a directory for the demo")?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| scratch.path().to_owned());
    runtime()?.block_on(serve(args, data_dir))
}

async fn serve(args: &DemoArgs, data_dir: PathBuf) -> Result<()> {
    let serve = ServeArgs::for_demo(data_dir.clone(), args.listen, args.plain_http);
    let server = Server::start(&serve).await?;
    let began = Instant::now();
    let caller = Caller::Server("demo");
    let mut importer = Importer::new(server.site.clone(), &caller, ImportOptions::default());
    for chunk in inventory::chunks(args.vms) {
        importer.push(chunk.as_bytes()).await.context("cannot load the demo's inventory")?;
    }
    let report = importer.finish().await.context("cannot load the demo's inventory")?;
    let (password, _) = password::generated(&data_dir)?;
    println!(
        "{} generated resources in {:.1} s; this machine is in the inventory too.",
        report.created + report.unchanged + report.replaced,
        began.elapsed().as_secs_f64()
    );
    introduce(&server, &data_dir, &password, args.plain_http);
    let churn = tokio::spawn(churn::keep_changing(server.site.clone(), args.vms, args.rate));
    let samples = tokio::spawn(samples::keep_sampling(server.calls("demo"), server.stats.clone(), args.vms));
    let served = server.run(stop_signal()).await;
    churn.abort();
    samples.abort();
    served
}

/// What a newcomer can paste.
fn introduce(server: &Server, data_dir: &std::path::Path, password: &str, plain_http: bool) {
    let program = std::env::current_exe().map_or_else(|_| "lockstep".to_owned(), |path| path.display().to_string());
    let ca = data_dir.join("tls-cert.pem");
    println!("\nServing on {}\n  user      {}\n  password  {password}\n", server.url, password::ADMINISTRATOR);
    println!("In another terminal:\n");
    println!(
        "  export LOCKSTEP_URL={} LOCKSTEP_USERNAME={} LOCKSTEP_PASSWORD={password}",
        server.url,
        password::ADMINISTRATOR
    );
    if !plain_http {
        println!("  export LOCKSTEP_CA_CERT={}", ca.display());
    }
    println!();
    for command in [
        "query 'VirtualMachine where power_state = POWERED_ON and host.cluster.name = demo-cl01 select name, cpu_count, memory_size_MiB, host.name order by memory_size_MiB desc limit 10 count'",
        "watch --type VirtualMachine",
        "stats top",
        "query 'HostSystem where kernel.name = Linux select name, hardware.cpu_model, hardware.cpu_threads, hardware.memory_size_MiB'",
    ] {
        println!("  {program} {command}");
    }
    println!("\nStop with Ctrl-C.");
}
