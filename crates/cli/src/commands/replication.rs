//! `lockstep replication`: virtual machines that are replicated to linked sites.

use std::process::ExitCode;

use anyhow::Result;
use indicatif::HumanBytes;
use lockstep_contract::services::replication::vm::{
    self, Create, CreateDestination, CreateInput, CreateSource, Delete, Export, ExportInput, Failover, FailoverTest,
    FailoverTestCleanup, Get, InstanceInput, Instances, List, ListInput, Migrate, Pause, RecoverInput, Resume, Reverse,
    Serve, StopServing, Sync, Update, UpdateInput, Verify,
};
use lockstep_contract::services::replication::{Instance, Replication, RetentionPolicy, RetentionRule, SyncReport};
use lockstep_contract::services::tasks::{State, Task};
use serde_json::{Value, json};

use super::Context;
use super::task::{outcome, there, wait};
use crate::json;
use crate::output::{Listing, print};
use crate::times;

/// Replications that one call asks for.
const PAGE_ITEMS: i64 = 1000;

/// Replicate virtual machines to a linked site, and bring them to life there.
#[derive(Debug, clap::Subcommand)]
pub enum ReplicationCommand {
    /// Replicate a virtual machine to a linked site. Prints the replication's id.
    ///
    /// The first sync begins at once, and copies all that the disks hold; `lockstep replication list` shows how far it is. From then on
    /// what changed is brought there as often as the RPO demands.
    #[command(after_help = "Examples:\n  lockstep replication create vm-42 fra02\n  \
        lockstep replication create vm-42 fra02 --rpo 15m --keep 12/1h --keep 7/1d --description 'web shop'")]
    Create {
        /// The machine's id
        vm: String,
        /// The linked site
        site: String,
        /// How far the newest instance may be behind: 1m to 1d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = minutes)]
        rpo: i64,
        /// Keep so many instances so far apart, besides the latest; may be given several times
        #[arg(long, value_name = "N/TIME", value_parser = rule)]
        keep: Vec<Rule>,
        /// Have the guest freeze its file systems for the instant of an instance
        #[arg(long)]
        quiesce: bool,
        /// Leave a disk out, by its key: 2000 is the first; may be given several times
        #[arg(long, value_name = "KEY")]
        without_disk: Vec<i64>,
        /// For people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List replications, incoming and outgoing, and how they are.
    #[command(
        after_help = "Examples:\n  lockstep replication list\n  lockstep replication list --vm 'web%' --output json"
    )]
    List {
        /// Only those of machines whose name holds this; % stands for anything
        #[arg(long, value_name = "NAME")]
        vm: Option<String>,
    },
    /// Show a replication.
    #[command(after_help = "Example:\n  lockstep replication get C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Get(Id),
    /// Change what a replication was told.
    #[command(after_help = "Example:\n  lockstep replication update C4-ec991bd5-af9d-446a-8599-5b693842c4a3 --rpo 5m")]
    Update {
        #[command(flatten)]
        id: Id,
        /// How far the newest instance may be behind: 1m to 1d
        #[arg(long, value_name = "TIME", value_parser = minutes)]
        rpo: Option<i64>,
        /// Keep so many instances so far apart, besides the latest; replaces all rules
        #[arg(long, value_name = "N/TIME", value_parser = rule)]
        keep: Vec<Rule>,
        /// For people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Bring what changed to the destination now.
    #[command(after_help = "Example:\n  lockstep replication sync C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Sync(Waited),
    /// Let a replication rest.
    #[command(after_help = "Example:\n  lockstep replication pause C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Pause(Waited),
    /// Let a replication go on.
    #[command(after_help = "Example:\n  lockstep replication resume C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Resume(Waited),
    /// List the instances of a replication, the oldest first.
    #[command(after_help = "Example:\n  lockstep replication instances C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Instances(Id),
    /// Bring the machine to life at the destination, for good.
    #[command(
        after_help = "Examples:\n  lockstep replication failover C4-ec991bd5-af9d-446a-8599-5b693842c4a3 --power-on\n  \
        lockstep replication failover C4-ec991bd5-af9d-446a-8599-5b693842c4a3 --instance h4replica-…"
    )]
    Failover(Recover),
    /// Bring a copy of the machine to life at the destination, while the replication goes on.
    #[command(after_help = "Example:\n  lockstep replication test C4-ec991bd5-af9d-446a-8599-5b693842c4a3 --power-on")]
    Test(Recover),
    /// Remove what a test has brought to life.
    #[command(after_help = "Example:\n  lockstep replication cleanup C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Cleanup(Waited),
    /// Move the machine: switched off at the source, synced a last time, brought to life at the destination.
    #[command(
        after_help = "Example:\n  lockstep replication migrate C4-ec991bd5-af9d-446a-8599-5b693842c4a3 --power-on"
    )]
    Migrate(Recover),
    /// Turn a replication around after a failover: the recovered machine is replicated back.
    ///
    /// The old machine is switched off, and what its disks hold is stored where it is, so that only what changed since is sent. From then on
    /// the replication goes the other way with the same id: sync it, and fail over to move back. Asked again after a failure it goes on.
    #[command(after_help = "Example:\n  lockstep replication reverse C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Reverse(Waited),
    /// End a replication, and remove its instances unless the machine was recovered from them.
    #[command(after_help = "Example:\n  lockstep replication delete C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Delete(Waited),
    /// Read every stored block of a replication's instances, and tell what is damaged.
    #[command(after_help = "Example:\n  lockstep replication verify C4-ec991bd5-af9d-446a-8599-5b693842c4a3")]
    Verify(Waited),
    /// Let the disks of an instance be read over NBD on the destination's host, at once and without a copy.
    ///
    /// It is asked of the destination, and lasts until --stop or the end of the server. The instance is pinned meanwhile.
    #[command(
        after_help = "Example:\n  lockstep replication serve C4-ec991bd5-af9d-446a-8599-5b693842c4a3 h4replica-…"
    )]
    Serve {
        #[command(flatten)]
        id: Id,
        /// The instance
        instance: String,
        /// Let it be read no longer
        #[arg(long)]
        stop: bool,
    },
    /// Write the disks of an instance as files at the destination.
    ///
    /// They come to be below the directory that the destination's server was told with --replica-exports, as disk-2000.raw and so on.
    #[command(
        after_help = "Examples:\n  lockstep replication export C4-ec991bd5-af9d-446a-8599-5b693842c4a3 monday\n  \
        lockstep replication export C4-ec991bd5-af9d-446a-8599-5b693842c4a3 monday --format qcow2 --instance h4replica-…"
    )]
    Export {
        #[command(flatten)]
        id: Id,
        /// The directory there
        directory: String,
        /// The instance; the latest unless given
        #[arg(long, value_name = "KEY")]
        instance: Option<String>,
        /// How the disks are written
        #[arg(long, value_name = "FORMAT", default_value = "raw", value_parser = ["raw", "qcow2"])]
        format: String,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// Which replication.
#[derive(Debug, clap::Args)]
pub struct Id {
    /// The replication's id
    replication: String,
}

/// Whether a task is waited for.
#[derive(Debug, clap::Args)]
pub struct Waiting {
    /// Print the task, and do not wait for it
    #[arg(long)]
    no_wait: bool,
}

/// What takes a replication and nothing else.
#[derive(Debug, clap::Args)]
pub struct Waited {
    #[command(flatten)]
    id: Id,
    #[command(flatten)]
    waiting: Waiting,
}

/// How a machine is brought to life.
#[derive(Debug, clap::Args)]
pub struct Recover {
    #[command(flatten)]
    id: Id,
    /// The instance; the latest unless given
    #[arg(long, value_name = "KEY")]
    instance: Option<String>,
    /// Start the machine
    #[arg(long)]
    power_on: bool,
    /// Bring what changed there first
    #[arg(long, conflicts_with = "instance")]
    sync: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// A rule of retention: how many, and minutes between.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    instances: i64,
    minutes: i64,
}

/// Whole minutes.
fn minutes(text: &str) -> Result<i64, String> {
    let seconds = times::seconds(text)?;
    if seconds % 60 != 0 {
        return Err("whole minutes".to_owned());
    }
    Ok(seconds / 60)
}

fn rule(text: &str) -> Result<Rule, String> {
    let (count, distance) = text.split_once('/').ok_or("expected N/TIME, such as 12/1h")?;
    let instances = count.trim().parse().map_err(|_| format!("{count:?} is no number of instances"))?;
    Ok(Rule { instances, minutes: minutes(distance)? })
}

fn policy(rules: &[Rule]) -> Option<RetentionPolicy> {
    let rule = |rule: &Rule| RetentionRule { number_of_instances: rule.instances, distance: rule.minutes };
    (!rules.is_empty()).then(|| RetentionPolicy { rules: rules.iter().map(rule).collect() })
}

impl ReplicationCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let client = &context.client;
        let of = |id: &Id| vm::Input { replication_id: id.replication.clone() };
        let task = match self {
            Self::Create { vm, site, rpo, keep, quiesce, without_disk, description } => {
                let input = CreateInput {
                    source: CreateSource {
                        kind: Some("vm".to_owned()),
                        site: None,
                        vm_id: Some(vm),
                        vapp_id: None,
                        mo_id: None,
                    },
                    destination: CreateDestination { kind: None, site, vdc: None, storage_profile: None },
                    description,
                    rpo: Some(rpo),
                    sla_profile_id: None,
                    data_connection_type: None,
                    quiesced: Some(quiesce),
                    retention_policy: policy(&keep),
                    target_disk_type: None,
                    initial_sync_time: None,
                    excluded_disk_keys: (!without_disk.is_empty()).then_some(without_disk),
                    is_migration: None,
                };
                let begun = client.call(Create, input).await?;
                (begun, false)
            }
            Self::List { vm } => {
                let replications = all(context, vm).await?;
                let columns =
                    ["replication", "vm", "to", "state", "health", "rpo", "newest", "behind", "last sync", "by"];
                let mut listing = Listing::new(columns).whole(&["replication"]).at_right(&["rpo", "last sync"]);
                replications.iter().for_each(|replication| listing.push(row(replication)));
                print(context.output, &listing, &json!(replications.iter().map(json::value).collect::<Vec<_>>()))?;
                return Ok(ExitCode::SUCCESS);
            }
            Self::Get(id) => {
                let found = client.call(Get, of(&id)).await?;
                let value = json::value(&found);
                print(context.output, &Listing::of_leaves(&value), &value)?;
                return Ok(ExitCode::SUCCESS);
            }
            Self::Instances(id) => {
                let instances = client.call(Instances, of(&id)).await?;
                let columns = ["instance", "number", "point in time", "age", "stored", "pinned", "quiesced"];
                let mut listing = Listing::new(columns).whole(&["instance"]).at_right(&["stored"]);
                instances.iter().for_each(|instance| listing.push(instance_row(instance)));
                print(context.output, &listing, &json!(instances.iter().map(json::value).collect::<Vec<_>>()))?;
                return Ok(ExitCode::SUCCESS);
            }
            Self::Update { id, rpo, keep, description, waiting } => {
                let input = UpdateInput {
                    replication_id: id.replication,
                    description,
                    rpo,
                    quiesced: None,
                    data_connection_type: None,
                    retention_policy: policy(&keep),
                    sla_profile_id: None,
                    excluded_disk_keys: None,
                };
                (client.call(Update, input).await?, waiting.no_wait)
            }
            Self::Sync(asked) => (client.call(Sync, of(&asked.id)).await?, asked.waiting.no_wait),
            Self::Pause(asked) => (client.call(Pause, of(&asked.id)).await?, asked.waiting.no_wait),
            Self::Resume(asked) => (client.call(Resume, of(&asked.id)).await?, asked.waiting.no_wait),
            Self::Cleanup(asked) => (client.call(FailoverTestCleanup, of(&asked.id)).await?, asked.waiting.no_wait),
            Self::Reverse(asked) => (client.call(Reverse, of(&asked.id)).await?, asked.waiting.no_wait),
            Self::Delete(asked) => (client.call(Delete, of(&asked.id)).await?, asked.waiting.no_wait),
            Self::Verify(asked) => (client.call(Verify, of(&asked.id)).await?, asked.waiting.no_wait),
            Self::Failover(asked) => {
                let no_wait = asked.waiting.no_wait;
                (client.call(Failover, recover(asked)).await?, no_wait)
            }
            Self::Test(asked) => {
                let no_wait = asked.waiting.no_wait;
                (client.call(FailoverTest, recover(asked)).await?, no_wait)
            }
            Self::Migrate(asked) => {
                let no_wait = asked.waiting.no_wait;
                (client.call(Migrate, recover(asked)).await?, no_wait)
            }
            Self::Serve { id, instance, stop } => {
                let input = InstanceInput { replication_id: id.replication, key: instance };
                if stop {
                    client.call(StopServing, input).await?;
                    return Ok(ExitCode::SUCCESS);
                }
                let disks = client.call(Serve, input).await?;
                let mut listing = Listing::new(["disk", "size", "url"]).whole(&["url"]).at_right(&["size"]);
                for disk in &disks {
                    listing.push([json!(disk.disk_key), json!(disk.bytes), json!(disk.url)]);
                }
                print(context.output, &listing, &json!(disks.iter().map(json::value).collect::<Vec<_>>()))?;
                return Ok(ExitCode::SUCCESS);
            }
            Self::Export { id, directory, instance, format, waiting } => {
                let input = ExportInput {
                    replication_id: id.replication,
                    instance_id: instance,
                    format: Some(format),
                    directory,
                };
                (client.call(Export, input).await?, waiting.no_wait)
            }
        };
        finish(context, task.0, task.1).await
    }
}

fn recover(asked: Recover) -> RecoverInput {
    RecoverInput {
        replication_id: asked.id.replication,
        instance_id: asked.instance,
        power_on: Some(asked.power_on),
        consolidate: None,
        sync: asked.sync.then_some(true),
    }
}

/// Waits for a task unless told not to, and prints what came of it.
async fn finish(context: &Context, task: Task, no_wait: bool) -> Result<ExitCode> {
    let ended = if no_wait { task } else { wait(&context.client, task).await? };
    let result = ended.result.as_ref().map(|result| json::of_data(&result.0));
    let replication =
        result.as_ref().and_then(|result| json::decode::<Replication>(result.to_string().as_bytes()).ok());
    let mut listing = Listing::new(["task", "what", "replication", "state"]).whole(&["task", "replication"]);
    let workflow = &ended.workflow_info;
    listing.push([json!(ended.id), json!(workflow.kind), json!(workflow.resource_id), json!(ended.state.name())]);
    print(context.output, &listing, &json::value(&ended))?;
    if let Some(report) = replication.as_ref().filter(|_| workflow.kind == "sync").and_then(|r| r.last_sync.as_ref()) {
        eprintln!("{}", said(report));
    }
    if no_wait && ended.state == State::Running {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(outcome(&ended))
}

/// What a sync did, in a sentence.
fn said(report: &SyncReport) -> String {
    let bytes = |count: i64| HumanBytes(u64::try_from(count).unwrap_or(0));
    let pause = report.pause_ms.map(|ms| format!("; the guest stood still for {ms} ms")).unwrap_or_default();
    format!(
        "read {} by {}, {} changed,{} {} on the wire, in {:.1} s{pause}",
        bytes(report.read_bytes),
        report.method.to_lowercase().replace('_', " "),
        bytes(report.changed_bytes),
        there(report.changed_bytes, report.sent_bytes),
        bytes(report.wire_bytes),
        report.took_ms as f64 / 1000.0
    )
}

/// All replications that fit, page by page.
async fn all(context: &Context, vm_name: Option<String>) -> Result<Vec<Replication>> {
    let mut found = Vec::new();
    loop {
        let input = ListInput {
            owner: None,
            source_vdc_id: None,
            source_vdc_name: None,
            source_site: None,
            source_site_type: None,
            source_org: None,
            vm_id: None,
            vm_name: vm_name.clone(),
            destination_site: None,
            destination_org: None,
            destination_vdc_id: None,
            destination_vdc_name: None,
            ids: None,
            offset: Some(found.len() as i64),
            limit: Some(PAGE_ITEMS),
        };
        let page = context.client.call(List, input).await?;
        let is_last = page.items.is_empty() || found.len() + page.items.len() >= page.total.max(0) as usize;
        found.extend(page.items);
        if is_last {
            return Ok(found);
        }
    }
}

fn row(replication: &Replication) -> [Value; 10] {
    let now_s = times::now_s();
    let state = &replication.destination_state;
    let recovery = state.recovery_info.recovery_state.name();
    let doing = replication.data_connection_state.name();
    let newest = state.latest_instance.as_ref().map(|instance| times::relative(instance.timestamp / 1000, now_s));
    let behind = match state.current_rpo_violation {
        0 => String::new(),
        minutes => format!("{minutes} min over"),
    };
    let sync = replication.last_sync.as_ref();
    let took = sync
        .map(|sync| format!("{}, {:.1} s", HumanBytes(sync.wire_bytes.max(0) as u64), sync.took_ms as f64 / 1000.0));
    [
        json!(replication.id),
        json!(replication.source.vm_name),
        json!(format!("{} → {}", replication.source.site, replication.destination.site)),
        json!(if recovery == "NOT_STARTED" { doing } else { recovery }),
        json!(replication.overall_health.name()),
        json!(times::span(replication.settings.rpo * 60)),
        json!(newest),
        json!(behind),
        json!(took),
        json!(sync.map(|sync| sync.method.to_lowercase())),
    ]
}

fn instance_row(instance: &Instance) -> [Value; 7] {
    let at_s = instance.timestamp / 1000;
    [
        json!(instance.key),
        json!(instance.sequence_number),
        json!(times::utc(at_s)),
        json!(times::relative(at_s, times::now_s())),
        json!(HumanBytes(u64::try_from(instance.transfer_bytes).unwrap_or(0)).to_string()),
        json!(if instance.is_pinned { "yes" } else { "" }),
        json!(if instance.quiesced_type == "none" { "" } else { &instance.quiesced_type }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_minutes_are_read() {
        let found = rule("12/1h").unwrap();
        assert_eq!((found.instances, found.minutes), (12, 60));
        assert_eq!(minutes("1d").unwrap(), 1440);
        for bad in ["12", "x/1h", "12/90s", "12/"] {
            assert!(rule(bad).is_err(), "{bad}");
        }
    }
}
