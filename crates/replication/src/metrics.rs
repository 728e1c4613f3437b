//! What is counted, in the text form of OpenMetrics.

use std::fmt::Write as _;

use lockstep_contract::services::replication::Side;
use lockstep_site::times;

use crate::record::Record;
use crate::service::Replications;

impl Replications {
    /// Appends the families of this service, each whole.
    pub fn write_metrics(&self, out: &mut String) {
        let records = self.all();
        let outgoing: Vec<&Record> = records.iter().filter(|record| record.side == Side::Source).collect();
        let now_ms = times::now_ms();
        family(
            out,
            "replication_rpo_violation_minutes",
            "Minutes by which the newest instance is older than it may be",
        );
        for record in &outgoing {
            let minutes = record.source.rpo_violation_minutes;
            sample(out, "replication_rpo_violation_minutes", record, minutes as f64);
        }
        family(out, "replication_lag_seconds", "Age of the newest instance");
        for record in outgoing.iter().filter(|record| record.source.last_sync.is_some()) {
            let time_ms = record.source.last_sync.as_ref().map_or(now_ms, |last| last.time);
            sample(out, "replication_lag_seconds", record, (now_ms - time_ms).max(0) as f64 / 1000.0);
        }
        family(out, "replication_late_seconds", "For how long the next sync has been due");
        for record in &outgoing {
            let due_ms = self.schedule.next_ms(&record.id).unwrap_or(now_ms);
            let is_late = !record.source.is_paused && self.turns.running(&record.id).is_none();
            let late_ms = if is_late { (now_ms - due_ms).max(0) } else { 0 };
            sample(out, "replication_late_seconds", record, late_ms as f64 / 1000.0);
        }
        family(out, "replication_tasks_running", "Replications that something is done with");
        // Writing to a string cannot fail.
        let _ = writeln!(out, "lockstep_replication_tasks_running {}", self.turns.count());
        if let Ok(store) = self.store() {
            let figures = store.figures();
            family(out, "replication_store_blocks", "Distinct blocks that are stored");
            let _ = writeln!(out, "lockstep_replication_store_blocks {}", figures.blocks);
            family(out, "replication_store_bytes", "Bytes of the files of blocks");
            let _ = writeln!(out, "lockstep_replication_store_bytes {}", figures.bytes);
            family(
                out,
                "replication_store_drafts",
                "Instances in the making, also those that a sync left which was broken off",
            );
            let _ = writeln!(out, "lockstep_replication_store_drafts {}", figures.drafts);
            family(out, "replication_store_instances", "Instances that are stored");
            let _ = writeln!(out, "lockstep_replication_store_instances {}", figures.instances);
        }
    }
}

fn family(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "# HELP lockstep_{name} {help}.\n# TYPE lockstep_{name} gauge");
}

fn sample(out: &mut String, name: &str, record: &Record, value: f64) {
    let vm = record.source.vm_name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let _ = writeln!(out, "lockstep_{name}{{replication=\"{}\",vm=\"{vm}\"}} {value}", record.api_id());
}
