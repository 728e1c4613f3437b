//! Making recoveries, running them, and throwing them away.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lockstep_blocks::{Hash, Name, Store};
use lockstep_site::tasks::Handle;
use parking_lot::Mutex;

use super::copy::{self, Streamed};
use super::error::Error;
use super::exports::{Offers, export_name};
use super::guest::{self, Started};
use super::image::Images;
use super::power::{PoweredOff, power_off};
use super::process::{Held, Process};
use super::state::{Accelerator, Hardware, Place, Power, Purpose, Recovery, Step};

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

/// A recovered disk, as whoever replicates it needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDisk {
    /// Which of the machine's.
    pub index: u32,
    /// Its key in the instance.
    pub key: u32,
    /// Its size.
    pub bytes: u64,
    /// Its image, a qcow2.
    pub path: PathBuf,
    /// The device that its QEMU has it in.
    pub device: String,
}

/// What the reverse direction begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisks {
    /// The instance that the disks were made of. What has not been written since equals it; so it is the base that is compared with.
    pub instance: Name,
    /// What the instance holds.
    pub root: Hash,
    /// The monitor for who replicates the machine; none when it is off.
    pub monitor: Option<PathBuf>,
    /// The disks.
    pub disks: Vec<SourceDisk>,
}

/// The recoveries of a site. Clones are the same.
#[derive(Clone)]
pub struct Recoveries {
    pub(super) shared: Arc<Shared>,
}

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

    /// Serves an instance for people, as long as it is not told otherwise or Lockstep ends. Answers the URL of each disk, by key.
    ///
    /// # Errors
    /// [`Error::Store`] when there is no such instance, [`Error::RootDiffers`].
    pub async fn serve(&self, instance: Name) -> Result<Vec<(u32, String)>, Error> {
        let shared = self.shared.clone();
        blocking(move || {
            let held = shared.offers.hold(&instance, None)?;
            Ok(held.disks().map(|disk| (disk.key, shared.images.url(&instance, disk.key))).collect())
        })
        .await
    }

    /// Serves it no longer; who reads it already reads on.
    ///
    /// # Errors
    /// [`Error::Store`] when it cannot be unpinned.
    pub async fn stop_serving(&self, instance: Name) -> Result<(), Error> {
        let shared = self.shared.clone();
        blocking(move || shared.offers.let_go(&instance)).await
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
            let Some(held) = Held::new(process, &place.pid_file())? else { return Ok(PoweredOff::WasOff) };
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

    /// What a replication of the recovered machine reads, and compares with.
    ///
    /// # Errors
    /// [`Error::Absent`]; [`Error::State`] for a test.
    pub fn source(&self, replication: &str) -> Result<MachineDisks, Error> {
        let absent = || Error::Absent(replication.to_owned());
        let recovery = self.get(replication).ok_or_else(absent)?;
        if recovery.purpose == Purpose::Test {
            return Err(Error::State { replication: replication.to_owned(), state: "is a test, and not replicated" });
        }
        let place = self.shared.place(replication);
        let disk = |(index, disk): (usize, &super::state::RecoveredDisk)| SourceDisk {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            key: disk.key,
            bytes: disk.bytes,
            path: place.disk(disk.key),
            device: guest::device(index),
        };
        Ok(MachineDisks {
            instance: recovery.name().ok_or_else(absent)?,
            root: recovery.root_hash().ok_or_else(absent)?,
            monitor: matches!(recovery.power, Power::On(_)).then(|| place.monitor()),
            disks: recovery.disks.iter().enumerate().map(disk).collect(),
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

    /// The name by which an NBD client reads a disk of an instance that is served.
    pub fn export_name(instance: &Name, disk: u32) -> String {
        export_name(instance, disk)
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
    fn stored(&self, replication: &str) -> Option<Recovery> {
        self.slots.lock().get(replication)?.recovery.clone()
    }

    /// A machine that ended by itself is off.
    fn seen(&self, mut recovery: Recovery) -> Recovery {
        if let Power::On(process) = recovery.power
            && !process.is_alive(&self.place(&recovery.replication).pid_file())
        {
            recovery.power = Power::Off;
        }
        recovery
    }

    fn ready(&self, replication: &str) -> Result<Recovery, Error> {
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

    async fn let_go(self: &Arc<Self>, recovery: &Recovery) -> Result<(), Error> {
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

    async fn make(self: &Arc<Self>, wanted: &Wanted, observer: &dyn Observer) -> Result<(), Error> {
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
    async fn copy_disk(
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
        Process::kill_all(&place.pid_file()).await?;
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
async fn detached<T: Send + 'static>(
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
