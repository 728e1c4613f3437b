//! Tells the other side of replications what this side owns of them: whenever it changes, and until it got there. One that is turning around is
//! turned instead, until it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::replication::Side;
use lockstep_contract::services::replication::peer::{Put, PutInput, Remove, RemoveInput};
use lockstep_contract::{Data, Error, ErrorKind, Opaque};

use crate::record::Record;
use crate::service::{Replications, peer_error};

/// Wait before what was not told is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long the other site may take to take one.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The part of a replication that this side owns, as it is told.
///
/// # Errors
/// `internal_server_error`: it was read from the journal, so it can be written.
pub(crate) fn put(record: &Record, create: bool) -> Result<PutInput, Error> {
    let (revision, json) = match record.side {
        Side::Source => (record.source.revision, serde_json::to_vec(&record.source)),
        Side::Destination => (record.replica.revision, serde_json::to_vec(&record.replica)),
    };
    let properties = json.ok().and_then(|json| Data::from_json(&json).ok()).ok_or_else(Error::internal)?;
    let replication = record.id.clone();
    Ok(PutInput { replication, side: record.side, revision, properties: Opaque(properties), create })
}

impl Replications {
    /// Tells the other side now.
    ///
    /// # Errors
    /// Why it was not told.
    pub(crate) async fn tell_now(&self, record: &Record, create: bool) -> Result<(), Error> {
        let peer = self.other(record)?;
        let call = peer.client()?;
        let told = tokio::time::timeout(TIMEOUT, call.call(Put, put(record, create)?)).await;
        match told {
            Ok(told) => told.map_err(|error| peer_error(error, &peer.site)),
            Err(_) => {
                let message = format!("{} did not answer within {} s", peer.site, TIMEOUT.as_secs());
                Err(Error::new(ErrorKind::TimedOut, "lockstep.replication.unreachable", message, vec![peer.site]))
            }
        }
    }
}

impl Replications {
    /// Has the other side forget a replication that could not be made here.
    pub(crate) async fn take_back(&self, record: &Record) {
        let taken = async {
            let peer = self.other(record)?;
            let input = RemoveInput { replication: record.id.clone(), instances: true };
            peer.client()?.call(Remove, input).await.map_err(|error| peer_error(error, &peer.site))
        };
        if let Err(error) = taken.await {
            tracing::warn!(%error, replication = record.id, "the other site keeps a replica of nothing");
        }
    }
}

/// Tells for ever; ends when the site stops.
pub(crate) async fn keep_telling(here: Arc<Replications>) {
    let stopping = here.site.stopping();
    let work = async {
        loop {
            let untold: BTreeSet<String> = std::mem::take(&mut *here.untold.lock());
            let mut left = BTreeSet::new();
            for id in untold {
                let Some((record, _)) = here.get(&id) else { continue };
                let told = match record.replica.is_turning && record.side == Side::Destination {
                    true => here.go_on_turning(&id).await,
                    false => here.tell_now(&record, false).await,
                };
                match told {
                    Ok(()) => {}
                    // It was removed there: whoever did so tells, or told, this side.
                    Err(error) if error.kind == ErrorKind::NotFound => {
                        tracing::debug!(%error, replication = id, "the other side does not know a replication");
                    }
                    Err(error) => {
                        tracing::debug!(%error, replication = id, "the other side was not told");
                        left.insert(id);
                    }
                }
            }
            let has_left = !left.is_empty();
            here.untold.lock().extend(left);
            if has_left {
                tokio::time::sleep(RETRY).await;
            } else {
                here.tell.notified().await;
            }
        }
    };
    tokio::select! {
        () = stopping => {}
        () = work => {}
    }
}
