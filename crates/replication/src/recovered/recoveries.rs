//! Making recoveries, running them, and throwing them away.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lockstep_blocks::{DiskSize, Hash, Name, Store};
use lockstep_qemu::process::Held;
use lockstep_site::tasks::Handle;

use super::error::Error;
use super::guest;
use super::power::{PoweredOff, power_off};
use super::state::{Accelerator, Hardware, Power, Purpose, Recovery, Step};
use super::work::{Shared, blocking, detached};

/// How long a QEMU whose monitor has closed may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(30);

/// How recoveries are set up.
#[derive(Clone)]
pub struct Config {
    /// Where they are: an absolute path.
    pub directory: PathBuf,
    /// Where instances are.
    pub store: Store,
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// What it is to run machines with.
    pub accelerator: Accelerator,
    /// `qemu-img`.
    pub qemu_img: PathBuf,
}

/// Who is told how a recovery gets on, and may end it.
pub trait Observer: Send + Sync + 'static {
    /// So many bytes of all are copied.
    fn copied(&self, done_bytes: u64, total_bytes: u64);

    /// A line for people.
    fn log(&self, text: String);

    /// Returns when it is to end.
    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Nobody.
impl Observer for () {
    fn copied(&self, _: u64, _: u64) {}

    fn log(&self, text: String) {
        tracing::info!("{text}");
    }

    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

impl Observer for Handle {
    fn copied(&self, done_bytes: u64, total_bytes: u64) {
        let percent = u128::from(done_bytes) * 100 / u128::from(total_bytes.max(1));
        self.progress(i64::try_from(percent).unwrap_or(100));
    }

    fn log(&self, text: String) {
        Handle::log(self, text);
    }

    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(Handle::cancelled(self))
    }
}

/// What is to be recovered.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The instance.
    pub instance: Name,
    /// What its disks are to hold, when somebody else knows it too.
    pub root: Option<Hash>,
    /// What for.
    pub purpose: Purpose,
    /// What it is to run on.
    pub hardware: Hardware,
    /// Whether it is to be started.
    pub power_on: bool,
}

/// A disk of a recovered machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    /// Its key in the instance.
    pub key: u32,
    /// Its size.
    pub bytes: u64,
    /// Its image, a qcow2.
    pub path: PathBuf,
}

/// A recovered machine, as whoever replicates it needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredMachine {
    /// The monitor for who replicates the machine; none when it is off.
    pub monitor: Option<PathBuf>,
    /// The disks, by key.
    pub disks: Vec<MachineDisk>,
}

impl RecoveredMachine {
    /// Whether it runs, in the inventory's words.
    pub(crate) fn power_state(&self) -> &'static str {
        if self.monitor.is_some() { "POWERED_ON" } else { "POWERED_OFF" }
    }
}

/// The recoveries of a site. Clones are the same.
#[derive(Clone)]
pub struct Recoveries {
    pub(super) shared: Arc<Shared>,
}

impl Recoveries {
    /// What is recovered of a replication.
    pub fn get(&self, replication: &str) -> Option<Recovery> {
        let slots = self.shared.slots.lock();
        let recovery = slots.get(replication)?.recovery.clone()?;
        drop(slots);
        Some(self.shared.seen(recovery))
    }

    /// All that is recovered, by replication.
    pub fn all(&self) -> Vec<Recovery> {
        let slots = self.shared.slots.lock();
        let all: Vec<Recovery> = slots.values().filter_map(|slot| slot.recovery.clone()).collect();
        drop(slots);
        all.into_iter().map(|recovery| self.shared.seen(recovery)).collect()
    }

    /// The replications whose failover is not independent yet, as after a restart: [`Recoveries::make_independent`] goes on.
    pub fn unfinished(&self) -> Vec<String> {
        let is_unfinished = |recovery: &Recovery| {
            recovery.purpose == Purpose::Failover && recovery.step == Step::Ready && !recovery.is_independent()
        };
        self.all().into_iter().filter(is_unfinished).map(|recovery| recovery.replication).collect()
    }

    /// Serves an instance for people, as long as it is not told otherwise or Lockstep ends. Answers its disks with the URL of each, by key. One
    /// that is served for people already is served once.
    ///
    /// # Errors
    /// [`Error::Store`] when there is no such instance, [`Error::RootDiffers`], [`Error::Limit`] beyond [`SERVED_MAX`].
    pub async fn serve(&self, instance: Name) -> Result<Vec<(DiskSize, String)>, Error> {
        let shared = self.shared.clone();
        blocking(move || {
            let held = shared.offers.show(&instance)?;
            Ok(held.disks().map(|disk| (disk, shared.images.url(&instance, disk.key))).collect())
        })
        .await
    }

    /// Serves it for people no longer; who reads it already reads on.
    ///
    /// # Errors
    /// [`Error::Store`] when it cannot be unpinned.
    pub async fn stop_serving(&self, instance: Name) -> Result<(), Error> {
        let shared = self.shared.clone();
        blocking(move || shared.offers.hide(&instance)).await
    }

    /// Whether an instance is served, for a recovery or for people: then it should not be removed.
    pub fn is_served(&self, instance: &Name) -> bool {
        self.shared.offers.is_held(instance)
    }

    /// Recovers an instance. Its machine is up when this returns, if that is wanted.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Busy`], [`Error::RootDiffers`], [`Error::Cancelled`], and what hinders it. Nothing is left then.
    pub async fn begin(&self, wanted: Wanted, observer: Arc<dyn Observer>) -> Result<Recovery, Error> {
        let shared = self.shared.clone();
        detached(async move {
            let replication = wanted.instance.replication().to_owned();
            let turn = shared.turn(&replication)?;
            if let Some(found) = shared.stored(&replication) {
                return Err(Error::Exists { replication, instance: found.instance });
            }
            // Before anything is made.
            let disks = shared.config.store.instance(&wanted.instance).map_or(0, |instance| instance.disks().count());
            if wanted.power_on {
                guest::check(&wanted.hardware, disks)?;
            }
            if let Err(error) = shared.make(&wanted, &*observer).await {
                if let Err(error) = shared.throw_away(&replication).await {
                    tracing::warn!(%error, replication, "what is left of a recovery is cleaned up at the next start");
                }
                return Err(error);
            }
            drop(turn);
            shared.stored(&replication).ok_or(Error::Ended)
        })
        .await
    }

    /// Copies what the disks of a failover lack, until they need the instance no more. It can be cancelled, and goes on where it was.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Busy`], [`Error::State`] for a test, [`Error::Cancelled`], and what hinders it; the machine works on then.
    pub async fn make_independent(&self, replication: &str, observer: Arc<dyn Observer>) -> Result<Recovery, Error> {
        let (shared, replication) = (self.shared.clone(), replication.to_owned());
        detached(async move {
            let _turn = shared.turn(&replication)?;
            let recovery = shared.ready(&replication)?;
            if recovery.purpose == Purpose::Test {
                return Err(Error::State { replication, state: "is a test, and stays one" });
            }
            let total: u64 = recovery.disks.iter().map(|disk| disk.bytes).sum();
            let mut before = 0;
            for (index, disk) in recovery.disks.iter().enumerate() {
                if !disk.is_independent {
                    let tell = |share: f64| {
                        let done = (disk.bytes as f64 * share.clamp(0.0, 1.0)) as u64;
                        observer.copied(before + done, total);
                    };
                    shared.copy_disk(&replication, index, &tell, &*observer).await?;
                    observer.log(format!("disk {} needs the instance no more", disk.key));
                }
                before += disk.bytes;
                observer.copied(before, total);
            }
            let recovery = shared.ready(&replication)?;
            shared.let_go(&recovery).await?;
            Ok(recovery)
        })
        .await
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Busy`], [`Error::State`] when it runs, and what QEMU says.
    pub async fn power_on(&self, replication: &str) -> Result<Recovery, Error> {
        let (shared, replication) = (self.shared.clone(), replication.to_owned());
        detached(async move {
            let _turn = shared.turn(&replication)?;
            let recovery = shared.ready(&replication)?;
            if recovery.power != Power::Off {
                return Err(Error::State { replication, state: "is on already" });
            }
            shared.start(recovery).await
        })
        .await
    }

    /// Powers the machine off; its guest has `patience` to shut down.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Busy`], and what QEMU says.
    pub async fn power_off(&self, replication: &str, patience: Duration) -> Result<PoweredOff, Error> {
        let (shared, replication) = (self.shared.clone(), replication.to_owned());
        detached(async move {
            let _turn = shared.turn(&replication)?;
            let recovery = shared.ready(&replication)?;
            let Power::On(process) = recovery.power else { return Ok(PoweredOff::WasOff) };
            let place = shared.place(&replication);
            let Some(held) = Held::new(process, &place.mark())? else { return Ok(PoweredOff::WasOff) };
            let how = power_off(&place.control(), patience).await?;
            if !held.has_ended(GONE_LIMIT).await? {
                guest::end(process, &place).await?;
            }
            shared.put(Recovery { power: Power::Off, ..recovery }).await?;
            Ok(how)
        })
        .await
    }

    /// Throws a recovery away: its machine is ended, its disks are removed, and the instance is unpinned if nothing else needs it. It does
    /// nothing when there is none.
    ///
    /// # Errors
    /// [`Error::Busy`], and what hinders it; what is left is removed by the next call or start.
    pub async fn discard(&self, replication: &str) -> Result<(), Error> {
        let (shared, replication) = (self.shared.clone(), replication.to_owned());
        detached(async move {
            let _turn = shared.turn(&replication)?;
            shared.throw_away(&replication).await
        })
        .await
    }

    /// The recovered machine of a replication.
    ///
    /// # Errors
    /// [`Error::Absent`].
    pub fn machine(&self, replication: &str) -> Result<RecoveredMachine, Error> {
        let recovery = self.get(replication).ok_or_else(|| Error::Absent(replication.to_owned()))?;
        let place = self.shared.place(replication);
        let disk = |disk: &super::state::RecoveredDisk| MachineDisk {
            key: disk.key,
            bytes: disk.bytes,
            path: place.disk(disk.key),
        };
        Ok(RecoveredMachine {
            monitor: matches!(recovery.power, Power::On(_)).then(|| place.monitor()),
            disks: recovery.disks.iter().map(disk).collect(),
        })
    }

    /// The latest that a running machine said on its serial line, at most 64 KiB, and nobody has taken yet.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::State`] when it is off, and what QEMU says.
    pub async fn console(&self, replication: &str) -> Result<String, Error> {
        let recovery = self.get(replication).ok_or_else(|| Error::Absent(replication.to_owned()))?;
        if !matches!(recovery.power, Power::On(_)) {
            return Err(Error::State { replication: replication.to_owned(), state: "is off" });
        }
        guest::console(&self.shared.place(replication)).await
    }
}
