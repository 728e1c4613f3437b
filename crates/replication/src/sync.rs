//! One sync: from a point in time of the machine to an instance at the destination, written down on both sides.
//!
//! 1. What became of the sync before is found out, when that is not known: an instance may be there whose commit was not answered.
//! 2. A point in time of the machine is taken, by what the destination's last instance was made of.
//! 3. The instance-to-be is written down as *pending*, so that a crash from here on is found out by the next sync.
//! 4. The disks are shipped. Here all the time goes; a cancelled task stops here.
//! 5. The instance is written down as the last, and the point ended well. A failure ends it badly, and is written down.
//!
//! When the destination does not have the base any more, or has another, the sync begins anew without one: everything is compared.

use std::time::{Duration, Instant};

use lockstep_contract::services::replication::peer::{Input, Instances};
use lockstep_contract::services::replication::{Instance, codes};
use lockstep_contract::{Error, ErrorKind};
use lockstep_site::tasks::{Handle, cancelled};
use lockstep_site::{times, uuid};
use tokio::sync::watch;

use crate::engine::Point;
use crate::record::{Activity, Cycles, Known, LastSync, Pending, Record, Seed, StoredError};
use crate::service::Replications;
use crate::ship::{self, Base, Progress, ShipError, Shipment, Shipped, Way};
use crate::ship_peer::Peer;

/// Bytes of a block.
const BLOCK_BYTES: u64 = lockstep_blocks::BLOCK_BYTES as u64;

/// How often a sync tells how it gets on.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How often it writes a line about it.
const LOG_EVERY: Duration = Duration::from_secs(10);

impl Replications {
    /// Syncs a replication.
    ///
    /// # Errors
    /// Whatever hinders it; it is written down too.
    pub(crate) async fn sync(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let outcome = Box::pin(self.try_sync(id, handle)).await;
        self.underway.lock().remove(id);
        let error = outcome.as_ref().err().filter(|error| error.kind != ErrorKind::Canceled);
        let stored = error.map(|error| StoredError::from(&codes::api_error(error)));
        let is_good = outcome.is_ok();
        self.schedule.ended(id, is_good);
        let changed = self
            .change(id, |record| {
                if record.source.activity != Activity::Idle {
                    record.source.activity = Activity::Idle;
                    record.source.activity_since = times::now_ms();
                }
                if is_good || stored.is_some() {
                    record.source.last_error.clone_from(&stored);
                }
                Ok(())
            })
            .await;
        match changed {
            Ok(record) if is_good => self.tell_or_warn(&record, handle).await,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, replication = id, "the end of a sync was not written down"),
        }
        outcome
    }

    async fn try_sync(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        let engine = self.config.engine.as_ref().ok_or_else(|| {
            let message = "this site cannot read machines' disks";
            Error::new(ErrorKind::Unsupported, "lockstep.replication.no_engine", message, Vec::new())
        })?;
        let peer = self.other(&record)?;
        let mut client = peer.client()?;
        if let Some(operation_id) = handle.operation_id() {
            client = client.with_operation_id(operation_id);
        }
        let way = Way {
            client,
            line: self.line(&record.link),
            memory: self.memory.clone(),
            maps: Some(self.config.maps.clone()),
            tagger: self.tagger.clone(),
            patience: self.config.patience,
        };
        // Of one that ended, nothing is pending.
        let is_again = record.cycles().pending.is_some();
        let record = self.resolve(record, &way, &peer.site, handle).await?;
        let machine = self.machine(&record)?;
        let last = record.source.last_sync.as_ref().filter(|last| !last.instance.is_empty());
        let Cycles { committed, seed, .. } = record.cycles();
        let mut known = committed.filter(|_| last.is_some());
        let (activity, mut base) = match last {
            Some(last) => (Activity::Sync, Some(Base { instance: last.instance.clone(), root: last.root.clone() })),
            // What the destination has from when it was the source.
            None => {
                let base = |seed: &Seed| Base { instance: seed.instance.clone(), root: Some(seed.root.clone()) };
                (Activity::InitialSync, seed.as_ref().map(base))
            }
        };
        self.change(id, |record| {
            record.source.activity = activity;
            record.source.activity_since = times::now_ms();
            Ok(())
        })
        .await?;
        for _ in 0..2 {
            let began = Instant::now();
            let time_ms = times::now_ms();
            let point = engine.begin(&machine, known.as_ref()).await?;
            let about = point.about().clone();
            handle.log(match &about.reason {
                Some(reason) => format!("reads by {}, since {reason}", about.method),
                None => format!("reads by {}", about.method),
            });
            if let Some(pause) = about.pause_ms {
                handle.log(format!("the guest stood still for {pause} ms"));
            }
            if let Some(warning) = &about.warning {
                handle.warn(warning.clone());
            }
            let instance = format!("h4replica-{}", uuid::random()?);
            let pending = Pending { instance: instance.clone(), known: about.known.clone() };
            let cycles = Cycles { committed: known.clone(), pending: Some(pending), seed: seed.clone() };
            let noted = self.note(id, cycles).await;
            if let Err(error) = noted {
                end(point, false).await;
                return Err(error);
            }
            let shipment = Shipment {
                replication: id.to_owned(),
                instance,
                base: base.clone(),
                disks: point.disks(),
                unlisted: about.unlisted,
                time_ms,
                is_again,
            };
            match self.ship(id, shipment, &way, handle).await {
                Ok(shipped) => {
                    let is_first = activity == Activity::InitialSync;
                    let last = last_sync(&shipped, &about, time_ms, began.elapsed());
                    handle.log(summary(&shipped, is_first));
                    // Killed before it is written down, the next sync finds the instance at the destination.
                    let (noted, ()) = tokio::join!(self.committed(id, last, about.known.clone()), end(point, true));
                    return noted.map(drop);
                }
                Err(Stopped::Cancelled) => {
                    end(point, false).await;
                    return Err(cancelled());
                }
                Err(Stopped::Failed(error)) if base.is_some() && is_baseless(&error) => {
                    end(point, false).await;
                    handle.warn(format!("everything is compared anew: {error}"));
                    (base, known) = (None, None);
                }
                Err(Stopped::Failed(error)) => {
                    // One whose commit went unanswered may be there: the next sync asks, and this point is judged by that.
                    if !may_be_committed(&error) {
                        end(point, false).await;
                    }
                    return Err(ship_error(error, &peer.site));
                }
            }
        }
        Err(Error::internal())
    }

    /// Finds out what became of an instance whose commit was not answered.
    async fn resolve(&self, record: Record, way: &Way, site: &str, handle: &Handle) -> Result<Record, Error> {
        let cycles = record.cycles();
        let Some(pending) = cycles.pending else { return Ok(record) };
        // Whatever broke the sync before may go on for a while.
        let peer = Peer::new(way.client.clone(), way.patience);
        let input = || Input { replication: record.id.clone() };
        let found = tokio::select! {
            found = peer.call(Instances, input) => found.map_err(|error| ship_error(error, site))?,
            () = handle.cancelled() => return Err(cancelled()),
        };
        match found.into_iter().find(|instance| instance.key == pending.instance) {
            Some(instance) => {
                tracing::info!(replication = record.id, instance = instance.key, "was committed, and not answered");
                self.committed(&record.id, adopted(&instance), pending.known).await
            }
            None => self.note(&record.id, Cycles { pending: None, ..cycles }).await,
        }
    }

    async fn note(&self, id: &str, cycles: Cycles) -> Result<Record, Error> {
        let json = serde_json::to_string(&cycles).map_err(|_| Error::internal())?;
        self.change(id, |record| {
            record.source.cycle = Some(json.clone());
            Ok(())
        })
        .await
    }

    /// An instance is there.
    async fn committed(&self, id: &str, last: LastSync, known: Known) -> Result<Record, Error> {
        let cycles = Cycles { committed: Some(known), pending: None, seed: None };
        let json = serde_json::to_string(&cycles).map_err(|_| Error::internal())?;
        self.change(id, |record| {
            record.source.cycle = Some(json.clone());
            record.source.last_sync = Some(last.clone());
            record.source.last_error = None;
            record.source.rpo_violation_minutes = 0;
            // With the same commit: it would be one more, and one more thing to tell, before the task may end.
            record.source.activity = Activity::Idle;
            record.source.activity_since = times::now_ms();
            Ok(())
        })
        .await
    }

    async fn ship(&self, id: &str, shipment: Shipment, way: &Way, handle: &Handle) -> Result<Shipped, Stopped> {
        let (progress, mut told) = watch::channel(Progress::default());
        let shipping = ship::ship(shipment, way, progress);
        tokio::pin!(shipping);
        let began = Instant::now();
        let mut logged = began;
        let mut ticks = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                shipped = &mut shipping => return shipped.map_err(Stopped::Failed),
                () = handle.cancelled() => return Err(Stopped::Cancelled),
                _ = ticks.tick() => {
                    let now = *told.borrow_and_update();
                    self.underway.lock().insert(id.to_owned(), now);
                    if let Some(percent) = (now.done_bytes * 98).checked_div(now.total_bytes) {
                        handle.progress(i64::try_from(percent).unwrap_or(0));
                    }
                    if logged.elapsed() >= LOG_EVERY {
                        logged = Instant::now();
                        handle.log(underway(&now, began.elapsed()));
                    }
                }
            }
        }
    }
}

/// Why shipping ended.
enum Stopped {
    Cancelled,
    Failed(ShipError),
}

/// Ends a point in time; that something was not put back is put back by the next.
async fn end(point: Box<dyn Point>, is_good: bool) {
    let ended = if is_good { point.finish().await } else { point.abandon().await };
    if let Err(error) = ended {
        tracing::warn!(%error, "a point in time did not end as it should");
    }
}

/// Whether the base is at fault.
fn is_baseless(error: &ShipError) -> bool {
    match error {
        ShipError::BaseDiffers { .. } | ShipError::NoBase | ShipError::Resized(_) | ShipError::BlocksMissing => true,
        ShipError::Refused(error) => error.kind == ErrorKind::NotFound,
        _ => false,
    }
}

/// Whether the destination may have committed although it failed here.
fn may_be_committed(error: &ShipError) -> bool {
    matches!(error, ShipError::GaveUp { .. } | ShipError::Stopped | ShipError::Peer(_) | ShipError::Committed(_))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn last_sync(shipped: &Shipped, about: &crate::engine::About, time_ms: i64, took: Duration) -> LastSync {
    LastSync {
        instance: shipped.instance.instance.clone(),
        root: Some(shipped.instance.root.clone()),
        time: time_ms,
        ended: times::now_ms(),
        sequence: shipped.instance.sequence,
        quiesced: if about.is_quiesced { "fileSystemQuiesced" } else { "none" }.to_owned(),
        method: about.method.to_owned(),
        reason: about.reason.clone(),
        read_bytes: signed(shipped.read_bytes),
        changed_bytes: signed(shipped.changed_blocks * BLOCK_BYTES),
        sent_bytes: signed(shipped.sent_blocks * BLOCK_BYTES),
        wire_bytes: signed(shipped.wire_bytes),
        took_ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
        pause_ms: about.pause_ms.map(signed),
    }
}

/// What is known of an instance that only the destination saw committed.
fn adopted(instance: &Instance) -> LastSync {
    LastSync {
        instance: instance.key.clone(),
        time: instance.timestamp,
        ended: times::now_ms(),
        sequence: instance.sequence_number,
        quiesced: instance.quiesced_type.clone(),
        wire_bytes: instance.transfer_bytes,
        ..LastSync::default()
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

fn underway(now: &Progress, took: Duration) -> String {
    let rate = now.done_bytes as f64 / took.as_secs_f64().max(0.001);
    let left = now.total_bytes.saturating_sub(now.done_bytes) as f64 / rate.max(1.0);
    format!(
        "{} of {} read, {} differ, {} sent, {:.0} s left",
        mib(now.done_bytes),
        mib(now.total_bytes),
        mib(now.changed_blocks * BLOCK_BYTES),
        mib(now.wire_bytes),
        left
    )
}

fn summary(shipped: &Shipped, is_first: bool) -> String {
    let what = if is_first { "the first instance" } else { "an instance" };
    format!(
        "{what} is there: {} read, {} differ, {} were missing there, {} on the wire, in {:.1} s",
        mib(shipped.read_bytes),
        mib(shipped.changed_blocks * BLOCK_BYTES),
        mib(shipped.sent_blocks * BLOCK_BYTES),
        mib(shipped.wire_bytes),
        shipped.took.as_secs_f64()
    )
}

/// What people are told of a sync that failed.
fn ship_error(error: ShipError, site: &str) -> Error {
    let kind = match &error {
        ShipError::Refused(refused) => {
            // Who reads it looks at this site's task, and the trouble is at the other.
            let mut refused = refused.clone();
            if let Some(message) = refused.messages.first_mut() {
                message.default_message = format!("at {site}: {}", message.default_message);
            }
            return refused;
        }
        ShipError::GaveUp { .. } | ShipError::Stopped => ErrorKind::ServiceUnavailable,
        ShipError::Peer(_) => ErrorKind::ResourceInaccessible,
        _ => ErrorKind::Error,
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Error::new(kind, "lockstep.replication.sync", message, vec![site.to_owned()])
}
