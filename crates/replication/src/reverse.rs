//! Turning a replication around after a failover: the recovered machine becomes the source, and the old source the destination.
//!
//! The old destination drives. Each step may be repeated, and each is written down before the next:
//!
//! 1. The recovered machine's disks become independent of their instance (`recover.rs`).
//! 2. The old source switches its machine off and stores what its disks hold (`seed.rs`).
//! 3. Here it is written down that the replication *is turning*. From here on it can only be finished.
//! 4. The old source becomes the destination, in one commit, and answers what both sites have from then on ([`Replications::turned`]).
//! 5. Here that is taken over, in one commit.
//!
//! Between 4 and 5 both sites are destinations, and nothing is shipped; recovering at the old source is possible then as after 5. A
//! crash, or a link that is cut, between 3 and 5 leaves a replication that is turning: `tell.rs` goes on until the other site has
//! answered. Which turn it is is counted, so that an answer that comes late changes nothing.
//!
//! What the new source stored as a destination stays until the replication ends: turned around once more, it has these instances again. What was
//! recovered at the new destination by an earlier failover is removed, as the seed holds it; a machine that was not is left, off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_contract::services::replication::peer::{Turn, TurnInput, Turned};
use lockstep_contract::services::replication::{RecoveryState, Side};
use lockstep_contract::{Data, Error, ErrorKind, Opaque};
use lockstep_site::tasks::{Handle, cancelled};
use lockstep_site::{times, uuid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::record::{Activity, Cycles, Record, ReplicaPart, SourcePart, StoredSettings};
use crate::recovered;
use crate::service::{Replications, peer_error};
use crate::states::Verb;
use crate::turns::Asked;

/// How long the other site may take to turn a replication around.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the other site may be away, or busy, before the task fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// Wait before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Wait before disks that something else copies are looked at again.
const COPY_PAUSE: Duration = Duration::from_secs(1);

fn opaque(part: &impl Serialize) -> Result<Opaque, Error> {
    let json = serde_json::to_vec(part).map_err(|_| Error::internal())?;
    Data::from_json(&json).map(Opaque).map_err(|_| Error::internal())
}

/// A part that another site answered.
fn part<T: DeserializeOwned>(part: &Opaque, site: &str) -> Result<T, Error> {
    serde_json::from_str(&part.0.to_json()).map_err(|error| malformed(site, &error.to_string()))
}

/// Whether the same may go well a moment later.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::ServiceUnavailable | ErrorKind::TimedOut | ErrorKind::ResourceBusy)
}

fn malformed(site: &str, why: &str) -> Error {
    let message = format!("{site} answers what is no replication: {why}");
    Error::new(ErrorKind::ResourceInaccessible, "lockstep.replication.malformed", message, vec![site.to_owned()])
}

impl Replications {
    /// Turns a replication around. The other site may end and come back meanwhile.
    ///
    /// # Errors
    /// What hinders it. Once it is turning it goes on by itself.
    pub(crate) async fn reverse(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let mut failing_since = None;
        loop {
            let began = Instant::now();
            let error = match self.try_reverse(id, handle).await {
                Err(error) if is_passing(&error) => error,
                done => return done,
            };
            // What went well for long has got on.
            if began.elapsed() > PATIENCE {
                failing_since = None;
            }
            if failing_since.get_or_insert(began).elapsed() > PATIENCE {
                return Err(error);
            }
            tracing::debug!(%error, replication = id, "a replication is not turned around yet");
            tokio::select! {
                () = tokio::time::sleep(RETRY_PAUSE) => {}
                () = handle.cancelled() => return Err(cancelled()),
            }
        }
    }

    async fn try_reverse(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        // Done before this server ended.
        if record.side == Side::Source {
            return Ok(());
        }
        if !record.replica.is_turning {
            let recoveries = self.recoveries()?;
            recoveries.machine(id)?;
            // There it is seeded only when it is known that the machine is here now.
            self.tell_now(&record, false).await?;
            self.wait_independent(id, handle).await?;
            handle.log(format!("{} stores what its disks hold", record.source.site));
            self.ask_source(&record, Verb::Seed, handle).await?;
            self.change(id, |record| {
                record.replica.is_turning = true;
                Ok(())
            })
            .await?;
        }
        self.finish_turn(id).await?;
        let record = self.find(id)?;
        handle.log(format!(
            "{} of {} is replicated to {} from now on",
            record.vm, record.source.site, record.source.destination_site
        ));
        Ok(())
    }

    async fn wait_independent(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let recoveries = self.recoveries()?;
        loop {
            match recoveries.make_independent(id, Arc::new(handle.clone())).await {
                Ok(_) => return Ok(()),
                Err(recovered::Error::Busy(_)) => tokio::select! {
                    () = tokio::time::sleep(COPY_PAUSE) => {}
                    () = handle.cancelled() => return Err(cancelled()),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Goes on with a replication that is turning; one that has turned is left as it is.
    ///
    /// # Errors
    /// What hinders the other site.
    pub(crate) async fn finish_turn(&self, id: &str) -> Result<(), Error> {
        let record = self.find(id)?;
        if record.side == Side::Source || !record.replica.is_turning {
            return Ok(());
        }
        let peer = self.other(&record)?;
        let turns = record.source.turns + 1;
        let vm = record.replica.recovered_vm.clone().ok_or_else(Error::internal)?;
        let input = TurnInput { replication: id.to_owned(), turns, vm: vm.clone() };
        let answered = tokio::time::timeout(TURN_TIMEOUT, peer.client()?.call(Turn, input)).await.map_err(|_| {
            let message = format!("{} did not answer within {} s", peer.site, TURN_TIMEOUT.as_secs());
            Error::new(ErrorKind::TimedOut, "lockstep.replication.unreachable", message, vec![peer.site.clone()])
        })?;
        let turned = answered.map_err(|error| peer_error(error, &peer.site))?;
        let source: SourcePart = part(&turned.source, &peer.site)?;
        let replica: ReplicaPart = part(&turned.replica, &peer.site)?;
        if source.turns != turns || source.vm_id != vm || source.vapp_id != record.source.vapp_id {
            return Err(malformed(&peer.site, "it was turned otherwise"));
        }
        loop {
            let (now, position) = self.get(id).ok_or_else(|| crate::service::no_replication(id))?;
            if now.side == Side::Source {
                break;
            }
            let (source, replica) = (source.clone(), replica.clone());
            let new = Record { side: Side::Source, vm: vm.clone(), source, replica, ..now };
            if self.write(&new, position).await? {
                break;
            }
        }
        tracing::info!(replication = id, vm, to = peer.site, "a replication was turned around");
        // Drafts of syncs that will never go on.
        if let Some(receive) = &self.receive
            && let Err(error) = receive.forget(id).await
        {
            tracing::warn!(%error, replication = id, "drafts that are not needed any more were not dropped");
        }
        self.schedule.wake();
        Ok(())
    }

    /// Goes on with it where no task does.
    ///
    /// # Errors
    /// `resource_busy` when one does, and as [`Replications::finish_turn`].
    pub(crate) async fn go_on_turning(&self, id: &str) -> Result<(), Error> {
        match self.turns.take(id, Verb::Reverse, &uuid::random()?)? {
            Asked::Taken(_turn) => self.finish_turn(id).await,
            Asked::Running(_) => Ok(()),
        }
    }

    /// Makes this site the destination of a replication that it was the source of, as the other site asks.
    ///
    /// # Errors
    /// `not_allowed_in_current_state` when it is not recovered there, or was turned otherwise; `resource_busy`; `unsupported` without a store.
    pub(crate) async fn turn(&self, record: Record, input: &TurnInput, domain: &str) -> Result<Turned, Error> {
        let answer =
            |record: &Record| Ok(Turned { source: opaque(&record.source)?, replica: opaque(&record.replica)? });
        self.store()?;
        let id = record.id;
        let _turn = match self.turns.take(&id, Verb::Reverse, &uuid::random()?)? {
            Asked::Taken(turn) => turn,
            Asked::Running(_) => return Err(Error::internal()),
        };
        loop {
            let (record, position) = self.get(&id).ok_or_else(|| crate::service::no_replication(&id))?;
            if record.side == Side::Destination && record.source.turns == input.turns {
                return answer(&record);
            }
            let is_next = record.source.turns.checked_add(1) == Some(input.turns);
            if record.side != Side::Source || !is_next || record.recovery() != RecoveryState::Complete {
                let message = "the replication cannot be turned around as it is here";
                let args = vec![record.api_id()];
                let kind = ErrorKind::NotAllowedInCurrentState;
                return Err(Error::new(kind, "lockstep.replication.state", message, args));
            }
            let new = turned(&record, &input.vm, domain)?;
            if self.write(&new, position).await? {
                tracing::info!(
                    replication = id,
                    vm = input.vm,
                    "a replication was turned around: this is its destination"
                );
                // What an earlier failover recovered here is in the seed.
                if let Err(error) = self.clear(&id).await {
                    tracing::warn!(%error, replication = id, "the old machine is removed by the next failover");
                }
                return answer(&new);
            }
        }
    }
}

/// A replication at its old source, turned around: `vm` is the machine at the other site, `domain` that of the site.
fn turned(record: &Record, vm: &str, domain: &str) -> Result<Record, Error> {
    let now_ms = times::now_ms();
    let old = &record.source;
    let cycles = Cycles { committed: None, pending: None, ..record.cycles() };
    let source = SourcePart {
        revision: old.revision + 1,
        vm_id: vm.to_owned(),
        site: old.destination_site.clone(),
        destination_site: old.site.clone(),
        // These are places of the old destination.
        vdc: None,
        storage_profile: None,
        is_paused: false,
        is_reversed: !old.is_reversed,
        turns: old.turns + 1,
        activity: Activity::Idle,
        activity_since: now_ms,
        rpo_violation_minutes: 0,
        cycle: Some(serde_json::to_string(&cycles).map_err(|_| Error::internal())?),
        settings: StoredSettings {
            // The recovered machine has only the disks that were replicated.
            excluded_disk_keys: Vec::new(),
            initial_sync: now_ms,
            ..old.settings.clone()
        },
        last_sync: None,
        last_error: None,
        ..old.clone()
    };
    Ok(Record {
        side: Side::Destination,
        vm: format!("{domain}~{vm}"),
        source,
        replica: ReplicaPart { revision: record.replica.revision + 1, ..ReplicaPart::default() },
        ..record.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    #[test]
    fn what_is_turned_goes_the_other_way_with_the_same_id() {
        let before = record();
        let after = turned(&before, "recovered-x", "b.local").unwrap();
        assert_eq!(
            (after.id.as_str(), after.side, after.vm.as_str()),
            (before.id.as_str(), Side::Destination, "b.local~recovered-x")
        );
        let (old, new) = (&before.source, &after.source);
        assert_eq!((&new.site, &new.destination_site), (&old.destination_site, &old.site));
        assert_eq!((new.turns, new.is_reversed, new.is_paused), (1, true, false));
        assert!(new.revision > old.revision && after.replica.revision > before.replica.revision);
        assert_eq!((&new.last_sync, &new.vapp_id, after.recovery()), (&None, &old.vapp_id, RecoveryState::NotStarted));
        assert!(new.settings.excluded_disk_keys.is_empty());
        let cycles = after.cycles();
        assert_eq!((cycles.committed, cycles.pending, cycles.seed), (None, None, before.cycles().seed));
        // And back.
        let again = turned(&after, "vm-1", "a.local").unwrap();
        assert_eq!((again.source.turns, again.source.is_reversed, &again.source.site), (2, false, &old.site));
    }
}
