//! The provider of samples that is built into a server, for its own host.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use lockstep_agent::provider::{Config, Provider};
use lockstep_agent::upstream::{Spooling, Upstream, UpstreamError};
use lockstep_client::{SpecCache, SyncSummary, is_sync_expired};
use lockstep_contract::Error;
use lockstep_contract::points::Batch;
use lockstep_contract::services::stats::agents::{Register, RegisterInput, Registered, Written};
use lockstep_contract::services::stats::cache;
use lockstep_stats::Stats;
use prost::Message as _;

use crate::in_process::InProcess;

/// Starts sampling the machine that the server runs on.
///
/// # Errors
/// When its directory or its threads cannot be made.
pub fn start(calls: InProcess, stats: Arc<Stats>, data_dir: &Path) -> Result<Provider> {
    let config = Config { metadata: "built into the server".to_owned(), ..Config::new(data_dir.join("provider")) };
    Provider::start(config, Local { calls, stats }).context("this machine cannot be sampled")
}

/// The server that the provider is built into. It makes points durable when it takes them, so none are spooled before.
struct Local {
    calls: InProcess,
    stats: Arc<Stats>,
}

impl Upstream for Local {
    async fn register(&self, input: RegisterInput) -> Result<Registered, UpstreamError> {
        Ok(self.calls.call(Register, &input).await.map_err(refuse)?.output)
    }

    async fn sync(&self, cache: &mut SpecCache) -> Result<SyncSummary, UpstreamError> {
        let mut pull = cache.pull();
        loop {
            match self.calls.call(cache::Get, &pull.request()).await {
                Ok(page) => {
                    let end_epoch = page.header(cache::END_EPOCH_HEADER).and_then(|text| text.parse().ok());
                    if pull.take(page.output, end_epoch)? {
                        return Ok(cache.apply(pull));
                    }
                }
                Err(error) if is_sync_expired(&error) && pull.restart_in_full() => {}
                Err(error) => return Err(refuse(error)),
            }
        }
    }

    async fn write(&self, provider: Option<&str>, batch: &Batch) -> Result<Written, UpstreamError> {
        self.stats.write_points(provider, batch.encode_to_vec().into()).await.map_err(refuse)
    }

    fn spooling(&self) -> Spooling {
        Spooling::Memory
    }
}

fn refuse(error: Error) -> UpstreamError {
    UpstreamError::from_kind(error.kind, error.to_string())
}
