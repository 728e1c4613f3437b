//! What is done to the recovery of one replication, step by step. Each is written down before it is done.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use lockstep_blocks::{Hash, Name};
use lockstep_qemu::process::Process;
use parking_lot::Mutex;

use super::copy::{self, Streamed};
use super::error::Error;
use super::exports::Offers;
use super::guest::{self, Started};
use super::image::Images;
use super::recoveries::{Config, Observer, Wanted};
use super::state::{Place, Power, Recovery, Step};

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) offers: Offers,
    pub(super) images: Images,
    /// By replication. Held for a look-up.
    pub(super) slots: Mutex<BTreeMap<String, Slot>>,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) recovery: Option<Recovery>,
    /// Whether the recovery holds its instance.
    is_holding: bool,
    is_busy: bool,
}

/// The right to change what is recovered of a replication; others wait for its end in vain.
pub(super) struct Turn {
    shared: Arc<Shared>,
    replication: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut slots = self.shared.slots.lock();
        if let Some(slot) = slots.get_mut(&self.replication) {
            slot.is_busy = false;
            if slot.recovery.is_none() {
                slots.remove(&self.replication);
            }
        }
    }
}

impl Shared {
    pub(super) fn place(&self, replication: &str) -> Place {
        Place::new(&self.config.directory, replication)
    }

    pub(super) fn turn(self: &Arc<Self>, replication: &str) -> Result<Turn, Error> {
        let mut slots = self.slots.lock();
        let slot = slots.entry(replication.to_owned()).or_default();
        if slot.is_busy {
            return Err(Error::Busy(replication.to_owned()));
        }
        slot.is_busy = true;
        Ok(Turn { shared: self.clone(), replication: replication.to_owned() })
    }

    /// What is recovered, with the power as it was stored.
    pub(super) fn stored(&self, replication: &str) -> Option<Recovery> {
        self.slots.lock().get(replication)?.recovery.clone()
    }

    /// A machine that ended by itself is off.
    pub(super) fn seen(&self, mut recovery: Recovery) -> Recovery {
        if let Power::On(process) = recovery.power
            && !process.is_alive(&self.place(&recovery.replication).mark())
        {
            recovery.power = Power::Off;
        }
        recovery
    }

    pub(super) fn ready(&self, replication: &str) -> Result<Recovery, Error> {
        let recovery = self.stored(replication).ok_or_else(|| Error::Absent(replication.to_owned()))?;
        match recovery.step {
            Step::Ready => Ok(self.seen(recovery)),
            Step::Preparing | Step::Removing => {
                Err(Error::State { replication: replication.to_owned(), state: "is being thrown away" })
            }
        }
    }

    /// Writes down what is to be.
    pub(super) async fn put(self: &Arc<Self>, recovery: Recovery) -> Result<Recovery, Error> {
        let (shared, stored) = (self.clone(), recovery.clone());
        blocking(move || {
            let place = shared.place(&stored.replication);
            place.make()?;
            place.write(&stored)?;
            let replication = stored.replication.clone();
            shared.slots.lock().entry(replication).or_default().recovery = Some(stored);
            Ok(())
        })
        .await?;
        Ok(recovery)
    }

    /// Holds the instance of a recovery.
    pub(super) async fn hold(self: &Arc<Self>, name: Name, root: Option<Hash>) -> Result<(), Error> {
        let shared = self.clone();
        blocking(move || {
            shared.offers.hold(&name, root.as_ref())?;
            if let Some(slot) = shared.slots.lock().get_mut(name.replication()) {
                slot.is_holding = true;
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn let_go(self: &Arc<Self>, recovery: &Recovery) -> Result<(), Error> {
        let Some(name) = recovery.name() else { return Ok(()) };
        let shared = self.clone();
        blocking(move || {
            let mut slots = shared.slots.lock();
            let is_holding = slots.get_mut(name.replication()).is_some_and(|slot| std::mem::take(&mut slot.is_holding));
            drop(slots);
            if is_holding { shared.offers.let_go(&name) } else { Ok(()) }
        })
        .await
    }

    pub(super) async fn make(self: &Arc<Self>, wanted: &Wanted, observer: &dyn Observer) -> Result<(), Error> {
        let name = &wanted.instance;
        let no_instance = || lockstep_blocks::Error::NoInstance(name.clone());
        let instance = self.config.store.instance(name).ok_or_else(no_instance)?;
        let recovery = self.put(Recovery::new(&instance, wanted.purpose, wanted.hardware.clone())).await?;
        self.hold(name.clone(), wanted.root).await?;
        observer.log(format!("instance {} is checked: its root is {}", name.instance(), recovery.root));
        let place = self.place(name.replication());
        for disk in instance.disks() {
            let path = place.disk(disk.key);
            let creating = self.images.create(&path, name, disk.key, disk.bytes);
            unless_cancelled(observer, creating).await?;
        }
        let recovery = self.put(Recovery { step: Step::Ready, ..recovery }).await?;
        if wanted.power_on {
            let recovery = unless_cancelled(observer, self.start(recovery)).await?;
            observer.log(match recovery.why_emulated {
                None => "the machine is up".to_owned(),
                Some(reason) => format!("the machine is up, but emulated, and slow: {reason}"),
            });
        }
        Ok(())
    }

    /// Starts the machine of a recovery; it is off again when that fails.
    pub(super) async fn start(self: &Arc<Self>, recovery: Recovery) -> Result<Recovery, Error> {
        let place = self.place(&recovery.replication);
        let recovery = self.put(Recovery { power: Power::Starting, ..recovery }).await?;
        match guest::start(&self.config.qemu, self.config.accelerator, &self.images, &place, &recovery).await {
            Ok(Started { process, why_emulated }) => {
                if let Some(reason) = &why_emulated {
                    tracing::warn!(replication = recovery.replication, reason, "a machine is emulated, and slow");
                }
                self.put(Recovery { power: Power::On(process), why_emulated, ..recovery }).await
            }
            Err(error) => {
                self.put(Recovery { power: Power::Off, ..recovery }).await?;
                Err(error)
            }
        }
    }

    /// Copies one disk, by the machine's QEMU while it runs.
    pub(super) async fn copy_disk(
        self: &Arc<Self>,
        replication: &str,
        index: usize,
        tell: &(dyn Fn(f64) + Send + Sync),
        observer: &dyn Observer,
    ) -> Result<(), Error> {
        let place = self.place(replication);
        let recovery = self.ready(replication)?;
        let mut is_whole = false;
        if let Power::On(process) = recovery.power {
            let mut streamed = |done: u64, all: u64| tell(done as f64 / all.max(1) as f64);
            let streaming = copy::stream(&place, index, &mut streamed);
            let streamed = tokio::select! {
                streamed = streaming => streamed?,
                () = observer.cancelled() => {
                    copy::cancel(&place, index).await?;
                    return Err(Error::Cancelled);
                }
            };
            is_whole = streamed == Streamed::Whole;
            if !is_whole {
                // Its monitor is closed before its images are.
                guest::end(process, &place).await?;
                observer.log("the machine was powered off, and is copied as it is".to_owned());
            }
        }
        if !is_whole {
            let key = recovery.disks.get(index).map_or(0, |disk| disk.key);
            let path = place.disk(key);
            let mut told = |percent: f64| tell(percent / 100.0);
            self.images.make_independent(&path, &mut told, observer.cancelled()).await?;
        }
        let mut recovery = self.ready(replication)?;
        if let Some(disk) = recovery.disks.get_mut(index) {
            disk.is_independent = true;
        }
        self.put(recovery).await.map(drop)
    }

    /// Ends and removes whatever there is.
    pub(super) async fn throw_away(self: &Arc<Self>, replication: &str) -> Result<(), Error> {
        let Some(recovery) = self.stored(replication) else { return Ok(()) };
        let place = self.place(replication);
        let recovery = self.put(Recovery { step: Step::Removing, ..recovery }).await?;
        if let Power::On(process) = recovery.power {
            guest::end(process, &place).await?;
        }
        // One that was being started, too.
        Process::kill_all(&place.mark()).await?;
        self.let_go(&recovery).await?;
        let shared = self.clone();
        let replication = replication.to_owned();
        blocking(move || {
            shared.place(&replication).remove()?;
            if let Some(slot) = shared.slots.lock().get_mut(&replication) {
                slot.recovery = None;
            }
            Ok(())
        })
        .await
    }
}

/// Does something that may be dropped at any point.
async fn unless_cancelled<T>(
    observer: &dyn Observer,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        done = work => done,
        () = observer.cancelled() => Err(Error::Cancelled),
    }
}

/// Goes on when whoever waits for it goes away.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or(Err(Error::Ended))
}

/// Does something that waits for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Ended))
}
