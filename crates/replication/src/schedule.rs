//! Keeps replications within their RPO.
//!
//! A sync begins after half the RPO, a little earlier for some than for others, so that those that were made together do not sync
//! together. The newest instance is then never older than the RPO, as long as a sync takes less than the other half. After a failure the
//! next try waits, longer each time, up to half the RPO.
//!
//! The loop has no state that matters: what is due follows from what is stored. It looks every second, and when it is woken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::replication::{RecoveryState, Side};
use lockstep_model::Position;
use lockstep_site::times;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::record::Record;
use crate::service::Replications;
use crate::states::{self, Verb};
use crate::verbs::Order;

/// How often is looked what is due.
const TICK: Duration = Duration::from_secs(1);

/// Syncs that the schedule has under way at a time; what people ask for comes on top.
pub const SYNCS_MAX: usize = 8;

/// First wait after a failure.
const BACK_OFF_MS: i64 = 15_000;

/// What the schedule remembers besides what is stored.
#[derive(Default)]
pub(crate) struct Schedule {
    /// Held for a look-up.
    of: Mutex<HashMap<String, Entry>>,
    wake: Notify,
}

#[derive(Default, Clone, Copy)]
struct Entry {
    /// Failures in a row, and when the last was.
    failures: u32,
    failed_ms: i64,
    next_ms: Option<i64>,
}

impl Schedule {
    /// A sync has ended.
    pub(crate) fn ended(&self, id: &str, is_good: bool) {
        let mut of = self.of.lock();
        let entry = of.entry(id.to_owned()).or_default();
        entry.failures = if is_good { 0 } else { entry.failures.saturating_add(1) };
        entry.failed_ms = times::now_ms();
    }

    /// When the next sync is due.
    pub(crate) fn next_ms(&self, id: &str) -> Option<i64> {
        self.of.lock().get(id).and_then(|entry| entry.next_ms)
    }

    /// Has it look now.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// When a replication is due: after half its RPO, a tenth of that earlier at the most.
fn due_ms(record: &Record, failures: u32, failed_ms: i64) -> i64 {
    let source = &record.source;
    let half_ms = source.settings.rpo_minutes.max(1) * 30_000;
    let regular = match &source.last_sync {
        None => source.settings.initial_sync.max(source.created),
        Some(last) => last.time + half_ms - half_ms / 10 * i64::from(jitter(&record.id)) / 255,
    };
    if failures == 0 {
        return regular;
    }
    let pause_ms = BACK_OFF_MS.saturating_mul(1 << (failures - 1).min(8)).min(half_ms.max(BACK_OFF_MS));
    regular.max(failed_ms + pause_ms)
}

/// The same for a replication at all times, and evenly spread.
fn jitter(id: &str) -> u8 {
    id.bytes().fold(0x9du8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

/// Minutes by which the newest instance is older than it may be.
pub(crate) fn violation_minutes(record: &Record, now_ms: i64) -> i64 {
    let source = &record.source;
    if source.is_paused || record.recovery() != RecoveryState::NotStarted && record.recovery() != RecoveryState::Test {
        return 0;
    }
    let newest_ms =
        source.last_sync.as_ref().map_or(source.settings.initial_sync.max(source.created), |last| last.time);
    let late_ms = now_ms - newest_ms - source.settings.rpo_minutes.max(1) * 60_000;
    if late_ms <= 0 { 0 } else { late_ms / 60_000 + 1 }
}

/// Runs the schedule; ends when the site stops.
pub(crate) async fn keep(here: Arc<Replications>) {
    let stopping = here.site.stopping();
    let work = async {
        let mut records = Vec::new();
        let mut read_at = None;
        loop {
            let position = here.site.position();
            if read_at != Some(position) {
                records = outgoing(&here);
                read_at = Some(position);
            }
            round(&here, &records, &mut read_at).await;
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = here.schedule.wake.notified() => {}
            }
        }
    };
    tokio::select! {
        () = stopping => {}
        () = work => {}
    }
}

fn outgoing(here: &Replications) -> Vec<Record> {
    let records: Vec<Record> = here.all().into_iter().filter(|record| record.side == Side::Source).collect();
    here.schedule.of.lock().retain(|id, _| records.iter().any(|record| record.id == *id));
    records
}

async fn round(here: &Arc<Replications>, records: &[Record], read_at: &mut Option<Position>) {
    let now_ms = times::now_ms();
    let mut due = Vec::new();
    for record in records {
        let violation = violation_minutes(record, now_ms);
        if violation != record.source.rpo_violation_minutes {
            if violation > 0 && record.source.rpo_violation_minutes == 0 {
                tracing::warn!(replication = record.id, vm = record.source.vm_name, "is older than its RPO allows");
            }
            let changed = here
                .change(&record.id, |record| {
                    record.source.rpo_violation_minutes = violation;
                    Ok(())
                })
                .await;
            // Gone, or changed by others: the next round sees.
            drop(changed);
            *read_at = None;
        }
        let at = {
            let mut of = here.schedule.of.lock();
            let entry = of.entry(record.id.clone()).or_default();
            let at = due_ms(record, entry.failures, entry.failed_ms);
            entry.next_ms = Some(at);
            at
        };
        if at <= now_ms && states::check(record, Verb::Sync).is_ok() && here.turns.running(&record.id).is_none() {
            due.push((at, record));
        }
    }
    // Whoever has waited longest goes first.
    due.sort_by_key(|(at, _)| *at);
    let room = SYNCS_MAX.saturating_sub(here.turns.count());
    for (_, record) in due.into_iter().take(room) {
        let begun = here.run_here(record.clone(), Order::new(Verb::Sync), "lockstep".to_owned(), None).await;
        if let Err(error) = begun {
            tracing::debug!(%error, replication = record.id, "a sync that is due did not begin");
            here.schedule.ended(&record.id, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn a_sync_is_due_before_half_the_rpo_and_later_after_failures() {
        let mut record = record();
        record.source.settings.rpo_minutes = 60;
        let last = record.source.last_sync.as_ref().unwrap().time;
        let due = due_ms(&record, 0, 0);
        assert!((last + 27 * MINUTE_MS..=last + 30 * MINUTE_MS).contains(&due), "{}", (due - last) / 1000);
        assert_eq!(due_ms(&record, 1, due), due + BACK_OFF_MS);
        assert_eq!(due_ms(&record, 40, due), due + 30 * MINUTE_MS);
        record.source.last_sync = None;
        record.source.settings.initial_sync = last + MINUTE_MS;
        assert_eq!(due_ms(&record, 0, 0), record.source.created.max(last + MINUTE_MS));
    }

    #[test]
    fn lateness_is_told_in_minutes_begun() {
        let mut record = record();
        record.source.is_paused = false;
        record.replica.recovery_state = "NOT_STARTED".into();
        record.source.settings.rpo_minutes = 15;
        let last = record.source.last_sync.as_ref().unwrap().time;
        for (after_ms, expected) in [(0, 0), (15 * MINUTE_MS, 0), (15 * MINUTE_MS + 1, 1), (17 * MINUTE_MS, 3)] {
            assert_eq!(violation_minutes(&record, last + after_ms), expected, "{after_ms}");
        }
        record.source.is_paused = true;
        assert_eq!(violation_minutes(&record, last + 100 * MINUTE_MS), 0);
    }
}
