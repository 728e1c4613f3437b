//! `lockstep stats sync`: a copy of the acquisition specifications, kept by cache sync.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lockstep_client::{SpecCache, SyncError, SyncSummary};
use lockstep_contract::services::stats::acq_specs::Status;
use lockstep_contract::services::stats::cache::AcqSpec;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::resources::shown_all;
use super::specs::shown_counters;
use crate::commands::Context;
use crate::output::{Format, Paint, print_line, visible};
use crate::{json, times};

/// Where the copy is, and how often it is brought up to date.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep stats sync\n  \
    lockstep stats sync --cache specs.json\n  \
    lockstep stats sync --cache specs.json --follow --interval 2s\n  \
    lockstep stats sync --follow --output json | jq .created")]
pub struct SyncArgs {
    /// File with the copy; made when it is not there [default: only in memory]
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Go on until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// How often to sync
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::pause, requires = "follow")]
    interval: Duration,
}

impl SyncArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut cache = self.cache.as_deref().map_or_else(|| Ok(SpecCache::default()), SpecCache::load)?;
        let mut timer = tokio::time::interval(self.interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A sync that Ctrl-C breaks off changes nothing.
            let synced = tokio::select! {
                synced = async { timer.tick().await; Box::pin(cache.sync(&context.client)).await } => synced,
                interrupted = tokio::signal::ctrl_c() => return interrupted.map_err(Into::into),
            };
            match synced {
                Ok(summary) => {
                    if let Some(file) = &self.cache {
                        cache.save(file)?;
                    }
                    tell(context.output, &summary, &cache, self.follow)?;
                }
                // The next sync is the retry.
                Err(SyncError::Call(error)) if self.follow && error.is_transient() => eprintln!("lockstep: {error}"),
                Err(error) => return Err(error.into()),
            }
            if !self.follow {
                return Ok(());
            }
        }
    }
}

/// Tells what a sync did. One of many that did nothing is not worth a line.
fn tell(output: Format, summary: &SyncSummary, cache: &SpecCache, is_quiet: bool) -> Result<()> {
    if is_quiet && summary.is_unchanged() && !summary.full {
        return Ok(());
    }
    if output == Format::Json || output == Format::Yaml {
        return print_line(&record(summary, cache).to_string());
    }
    let mut out = std::io::stdout().lock();
    for line in lines(summary, cache, Paint::new()) {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    drop(out);
    eprintln!("{}", footer(summary, cache));
    Ok(())
}

/// A line for each specification that changed.
fn lines(summary: &SyncSummary, cache: &SpecCache, paint: Paint) -> Vec<String> {
    let line = |colour: u8, what: &str, id: &String| {
        let about = cache.specs.get(id).map(|spec| format!("  {}", shown(spec))).unwrap_or_default();
        format!("{} {}{about}", paint.apply(colour, what), visible(id))
    };
    let created = summary.created.iter().map(|id| line(32, "created", id));
    let updated = summary.updated.iter().map(|id| line(33, "updated", id));
    let deleted = summary.deleted.iter().map(|id| line(31, "deleted", id));
    created.chain(updated).chain(deleted).collect()
}

/// A specification in a line.
fn shown(spec: &AcqSpec) -> String {
    let mut text = format!(
        "{} of {} every {}, {}",
        shown_counters(&spec.counters),
        shown_all(&spec.resources),
        times::span(spec.interval),
        spec.status.name()
    );
    if spec.status != Status::Expired {
        text += &format!(" until {}", times::utc(spec.expiration));
    }
    if !spec.status_reason.is_empty() {
        text += &format!(" ({})", spec.status_reason);
    }
    if !spec.memo_.is_empty() {
        text += &format!(": {}", spec.memo_);
    }
    visible(&text)
}

fn footer(summary: &SyncSummary, cache: &SpecCache) -> String {
    let (created, updated, deleted) = (summary.created.len(), summary.updated.len(), summary.deleted.len());
    let kind = if summary.full { "all" } else { "changes" };
    let total = cache.specs.len();
    format!(
        "{kind} up to epoch {}: {created} created, {updated} updated, {deleted} deleted; {total} in the copy",
        cache.epoch
    )
}

/// A sync for programs.
fn record(summary: &SyncSummary, cache: &SpecCache) -> Value {
    let specs =
        |ids: &[String]| -> Vec<Value> { ids.iter().filter_map(|id| cache.specs.get(id)).map(json::value).collect() };
    json!({
        "end_epoch": cache.epoch,
        "full": summary.full,
        "created": specs(&summary.created),
        "updated": specs(&summary.updated),
        "deleted": summary.deleted,
        "total": cache.specs.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_told_line_by_line() {
        let spec = |id: &str, reason: &str| -> AcqSpec {
            let status = if reason.is_empty() { "ENABLED" } else { "DISABLED" };
            let text = json!({
                "id": id, "endpoints": [], "counters": {"cid_mid": {"cid": "cpu.time.user.VM", "mid": ""}, "set_id": ""},
                "resources": [{"type": "VM", "id_value": "", "predicate": "ALL", "scheme": "moid"}],
                "interval": 10, "expiration": 1_795_687_200, "memo_": "m\u{1b}", "status": status, "status_reason": reason,
            });
            json::decode(text.to_string().as_bytes()).unwrap()
        };
        let mut cache = SpecCache { epoch: 7, ..SpecCache::default() };
        for (id, reason) in [("1", ""), ("2", "no provider")] {
            cache.specs.insert(id.to_owned(), spec(id, reason));
        }
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let summary =
            SyncSummary { created: ids(&["1"]), updated: ids(&["2"]), deleted: ids(&["3"]), pages: 1, full: false };
        assert_eq!(
            lines(&summary, &cache, Paint::plain()),
            [
                "created 1  cpu.time.user.VM of VM=ALL every 10s, ENABLED until 2026-11-26T10:00:00Z: m\u{fffd}",
                "updated 2  cpu.time.user.VM of VM=ALL every 10s, DISABLED until 2026-11-26T10:00:00Z (no provider): m\u{fffd}",
                "deleted 3",
            ]
        );
        let expected = "changes up to epoch 7: 1 created, 1 updated, 1 deleted; 2 in the copy";
        assert_eq!(footer(&summary, &cache), expected);
        let record = record(&summary, &cache);
        assert_eq!((&record["end_epoch"], &record["created"][0]["id"]), (&json!(7), &json!("1")));
        assert_eq!(record["deleted"], json!(["3"]));
    }
}
