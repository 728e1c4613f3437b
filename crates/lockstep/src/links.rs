//! The links of a server: how they are set up from flags.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use lockstep_client::{Thumbprint, Trust};
use lockstep_links::inventory::Inventory;
use lockstep_links::tagging::Tagging;
use lockstep_links::{Config, Links, PROBE_INTERVAL, SyncProvider};
use lockstep_site::Site;
use lockstep_site::table::Table;

/// What a server is told of links.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Links")]
pub struct LinksArgs {
    /// Where linked sites reach this one [default: https:// and the address that it listens on]
    #[arg(long, value_name = "URL")]
    pub advertise_url: Option<String>,
    /// Trust another site that shows a certificate in this PEM file, or one that such a certificate has signed, when a link is made
    /// without a thumbprint. May be given several times.
    #[arg(long, value_name = "FILE")]
    pub trust_peer: Vec<PathBuf>,
}

/// Reads the site's links.
///
/// `url` is where the server listens, `certificate` what it shows there.
///
/// # Errors
/// For flags that make no sense, and when the key that seals tokens cannot be read.
pub fn open(args: &LinksArgs, site: &Arc<Site>, url: &str, certificate: Option<&str>) -> Result<Arc<Links>> {
    let advertise_url = args.advertise_url.as_deref().unwrap_or(url).trim_end_matches('/').to_owned();
    if !["https://", "http://"].iter().any(|scheme| advertise_url.starts_with(scheme)) {
        bail!("--advertise-url {advertise_url}: expected https://HOST[:PORT]");
    }
    let read = |file: &PathBuf| {
        let pem = std::fs::read(file).with_context(|| format!("--trust-peer: cannot read {}", file.display()))?;
        Trust::from_pem(&pem).with_context(|| format!("--trust-peer {}", file.display()))
    };
    let certificate = certificate.map(str::parse::<Thumbprint>).transpose().map_err(anyhow::Error::msg)?;
    let config = Config {
        // One that is told by its thumbprint is one that TLS shows.
        certificate: certificate.filter(|_| advertise_url.starts_with("https://")),
        advertise_url,
        trusted_peers: args.trust_peer.iter().map(read).collect::<Result<_>>()?,
        probe_interval: PROBE_INTERVAL,
    };
    let providers: Vec<Arc<dyn SyncProvider>> =
        vec![Arc::new(Inventory::new()), Arc::new(Tagging::new()), Arc::new(Inventory::acquisition_specs())];
    Links::open(site.clone(), config, providers).context("the links cannot be read")
}

/// Registers what links are made and followed by.
pub fn register(links: &Arc<Links>, table: &mut Table) {
    links.register(table);
    lockstep_links::inventory::register(table);
}
