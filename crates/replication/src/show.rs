//! A replication as the API tells it.

use lockstep_contract::services::replication::vapp::{Descriptor, VappReplication};
use lockstep_contract::services::replication::{
    ConnectionState, Destination, DestinationState, Health, Instance, RecoveryInfo, RecoveryState, ReplicaState,
    Replication, RetentionPolicy, RetentionRule, Settings, Side, Source, SyncProgress, SyncReport,
};
use lockstep_contract::services::tasks::ApiError;
use lockstep_contract::{Data, Map, PlainJson, Wire};
use lockstep_site::times;

use crate::record::{Activity, LastSync, Record};
use crate::schedule::violation_minutes;
use crate::service::Replications;

/// The organization of all users: a site has one.
pub(crate) const ORG: &str = "System";

/// What the vApp of a machine is called.
pub(crate) fn vapp_of(vm: &str) -> String {
    format!("vapp-{vm}")
}

/// A value as a tree, with nulls where it is unset.
pub(crate) fn tree(value: &impl Wire) -> Option<Data> {
    let mut json = PlainJson { keeps_unset: true, ..PlainJson::default() };
    value.encode(&mut json);
    Data::from_json(&json.out).ok()
}

impl Replications {
    /// The replication in the API's words.
    pub(crate) fn show(&self, record: &Record) -> Replication {
        let source = &record.source;
        let running = self.turns.running(&record.id);
        Replication {
            id: record.api_id(),
            vapp_replication_id: record.vapp_api_id(),
            owner: source.owner.clone(),
            is_migration: source.is_migration,
            is_paused: source.is_paused,
            is_reversed: source.is_reversed,
            overall_health: health(record),
            data_connection_state: connection_state(record),
            last_updated: last_updated(record),
            computer_name: source.computer_name.clone(),
            metadata: Map(Vec::new()),
            guest_customization: Map(Vec::new()),
            source: Source {
                site: source.site.clone(),
                org: ORG.to_owned(),
                vdc_id: None,
                vdc_name: None,
                vapp_id: Some(vapp_of(&source.vm_id)),
                vapp_name: Some(source.vm_name.clone()),
                vm_id: source.vm_id.clone(),
                vm_name: source.vm_name.clone(),
            },
            destination: Destination {
                site: source.destination_site.clone(),
                org: ORG.to_owned(),
                vdc_id: source.vdc.clone(),
                vdc_name: source.vdc.clone(),
                recovered_vapp_id: record.replica.recovered_vm.as_deref().map(vapp_of),
            },
            settings: settings(record),
            destination_state: destination_state(record),
            side: record.side,
            link: record.link.clone(),
            last_sync: source.last_sync.as_ref().map(report),
            task: running.map(|(_, task)| task),
            sync_progress: self.underway.lock().get(&record.id).map(progress),
            next_sync: self.schedule.next_ms(&record.id).filter(|_| record.side == Side::Source && !source.is_paused),
        }
    }

    /// The same as that of its vApp.
    pub(crate) fn show_vapp(&self, record: &Record) -> VappReplication {
        let shown = self.show(record);
        VappReplication {
            id: record.vapp_api_id(),
            owner: shown.owner.clone(),
            is_migration: shown.is_migration,
            last_updated: shown.last_updated,
            overall_health: shown.overall_health,
            descriptor: Descriptor {
                name: record.source.vm_name.clone(),
                description: record.source.settings.description.clone(),
                networks: Vec::new(),
            },
            source: shown.source.clone(),
            destination: shown.destination.clone(),
            settings: shown.settings.clone(),
            vm_replications: vec![shown],
        }
    }
}

/// How it is, at a glance.
pub(crate) fn health(record: &Record) -> Health {
    let source = &record.source;
    match () {
        () if source.last_error.is_some() || record.replica.last_error.is_some() => Health::Red,
        () if source.is_paused || violation_minutes(record, times::now_ms()) > 0 => Health::Yellow,
        () => Health::Green,
    }
}

fn connection_state(record: &Record) -> ConnectionState {
    match (record.recovery(), record.source.activity, record.source.is_paused) {
        (RecoveryState::Complete, ..) => ConnectionState::Finished,
        (_, Activity::InitialSync, _) => ConnectionState::InitialSyncing,
        (_, Activity::Sync, _) => ConnectionState::Syncing,
        (_, Activity::Idle, true) => ConnectionState::Paused,
        (_, Activity::Idle, false) if record.source.last_error.is_some() => ConnectionState::Error,
        (_, Activity::Idle, false) => ConnectionState::Ok,
    }
}

fn last_updated(record: &Record) -> i64 {
    let synced = record.source.last_sync.as_ref().map_or(0, |sync| sync.ended);
    record.source.activity_since.max(record.source.created).max(synced)
}

fn settings(record: &Record) -> Settings {
    let stored = &record.source.settings;
    let rule = |rule: &crate::record::StoredRule| RetentionRule {
        number_of_instances: rule.instances,
        distance: rule.distance_minutes,
    };
    Settings {
        description: stored.description.clone(),
        rpo: stored.rpo_minutes,
        quiesced: stored.quiesced,
        data_connection_type: stored.connection(),
        retention_policy: RetentionPolicy { rules: stored.retention.iter().map(rule).collect() },
        initial_sync_time: stored.initial_sync,
        excluded_disk_keys: stored.excluded_disk_keys.clone(),
        target_disk_type: stored.target_disk_type.clone(),
        sla_profile_id: stored.sla_profile.clone(),
    }
}

fn destination_state(record: &Record) -> DestinationState {
    let source = &record.source;
    let state = match (source.activity, record.recovery(), source.is_paused, &source.last_sync) {
        (Activity::InitialSync, ..) => ReplicaState::FullSync,
        (Activity::Sync, ..) => ReplicaState::Lwd,
        (Activity::Idle, RecoveryState::Test, ..) => ReplicaState::Opened,
        (Activity::Idle, _, true, _) => ReplicaState::Paused,
        (Activity::Idle, _, false, None) => ReplicaState::Passive,
        (Activity::Idle, _, false, Some(_)) => ReplicaState::Idle,
    };
    let error = record.replica.last_error.as_ref().or(source.last_error.as_ref());
    DestinationState {
        state,
        state_age: (times::now_ms() - source.activity_since).max(0),
        // Reckoned anew: a source that is lost tells nothing any more.
        current_rpo_violation: violation_minutes(record, times::now_ms()),
        is_moving_replica: false,
        last_error: error.map(ApiError::from),
        latest_instance: source.last_sync.as_ref().map(latest),
        recovery_info: RecoveryInfo {
            recovery_state: record.recovery(),
            vapp_id: record.replica.recovered_vm.as_deref().map(vapp_of),
            vcd_vm_id: record.replica.recovered_vm.clone(),
        },
        space_requirement: record.replica.bytes,
    }
}

fn latest(sync: &LastSync) -> Instance {
    Instance {
        key: sync.instance.clone(),
        is_pinned: false,
        quiesced_type: if sync.quiesced.is_empty() { "none".to_owned() } else { sync.quiesced.clone() },
        sequence_number: sync.sequence,
        timestamp: sync.time,
        transfer_bytes: sync.wire_bytes,
        transfer_seconds: sync.took_ms / 1000,
        disks_info: None,
    }
}

fn progress(now: &crate::ship::Progress) -> SyncProgress {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let block_bytes = lockstep_blocks::BLOCK_BYTES as u64;
    SyncProgress {
        total_bytes: signed(now.total_bytes),
        done_bytes: signed(now.done_bytes),
        changed_bytes: signed(now.changed_blocks * block_bytes),
        sent_bytes: signed(now.sent_blocks * block_bytes),
        wire_bytes: signed(now.wire_bytes),
    }
}

fn report(sync: &LastSync) -> SyncReport {
    SyncReport {
        instance: sync.instance.clone(),
        timestamp: sync.time,
        method: sync.method.clone(),
        reason: sync.reason.clone(),
        read_bytes: sync.read_bytes,
        changed_bytes: sync.changed_bytes,
        sent_bytes: sync.sent_bytes,
        wire_bytes: sync.wire_bytes,
        took_ms: sync.took_ms,
        pause_ms: sync.pause_ms,
    }
}

/// Whether a name fits what was asked for: it holds that, whatever the case, and `%` stands for anything.
pub(crate) fn name_fits(wanted: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    let mut rest = &*name;
    wanted.to_lowercase().split('%').filter(|part| !part.is_empty()).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_by_parts() {
        for (wanted, name, fits) in [
            ("", "a", true),
            ("web", "my-Web-1", true),
            ("%web%", "my-web-1", true),
            ("my%1", "my-web-1", true),
            ("1%my", "my-web-1", false),
            ("db", "my-web-1", false),
        ] {
            assert_eq!(name_fits(wanted, name), fits, "{wanted} {name}");
        }
    }
}
