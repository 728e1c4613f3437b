//! Changed blocks of a running QEMU, at one point in time of all disks.
//!
//! ```text
//!   guest ──► device ──► cN filter ──► disk's top node          guest writes: what the cycle still needs is copied first
//!                          │  └──────► sN scratch               (only blocks of the old bitmap, until they are released)
//!   us ──► export xN ──► rN reader of the filter's snapshot     reads: scratch where copied, else the disk
//!
//!   ready ── begin ──► settled ── pause: bitmaps, filters, devices ──► open ── finish, abandon ──► ready
//!                         ▲                                             │
//!                         └───────────────── crash, of any of us ◄──────┘
//! ```
//!
//! Names, with the replication's [`Tag`]: bitmap `ls-1b4e28ba-7` records since cycle 7; of the disk with index 0, filter `ls-1b4e28ba-c0`,
//! scratch `-s0`, reader `-r0`, export id and name `-x0`. Files are in a directory of the replication below the scratch directory:
//! `s0.qcow2`, `nbd` (the socket), and `paused`, which is there while the guest stands still on our behalf.
//!
//! **The pause.** While the guest stands still all disks' bitmaps and filters are switched: so each disk is exact, and together they
//! are one point in time. The commands go out in one write that ends with `cont`, from a task of its own. So the pause does not
//! depend on how fast we are, on one of the commands failing, or on the caller going away. If we are killed between `stop` and
//! `cont`, QEMU may drop the rest; then `paused` tells the next cycle to let the guest go on. A guest that did not run is neither
//! stopped nor continued. What the host has not yet written of the images is flushed before, since `stop` flushes.
//!
//! **The guest comes first.** When the scratch disk is full, or takes longer than [`SCRATCH_WRITE_LIMIT`], the snapshot is lost, reads
//! answer [`Error::PointLost`], and the guest goes on.
//!
//! **Others.** The connection to the monitor is held for all of the cycle, so no other cycle of the same monitor can begin. Nodes, bitmaps
//! and exports of others are left alone. QEMU has one NBD server: if somebody else's runs, the cycle fails. The top node of each disk is
//! looked up for each cycle, so a snapshot that moved it is noticed (its bitmap is not there: compare).

mod machine;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bitmaps::Tag;
use crate::cycle::{Base, Cycle, CycleDisk, End, Method, NbdReader, Quiesced, Reader};
use crate::guest::{Agent, FREEZE_LIMIT};
use crate::nbd::Address;
use crate::qmp::{ANSWER_TIMEOUT, Command, Event, Qmp, Version};
use crate::{Error, Result, image};
use machine::{Disk, is_running, settle, switch};

/// How long a guest's write may wait for the scratch disk before the snapshot is given up.
pub const SCRATCH_WRITE_LIMIT: Duration = Duration::from_secs(15);
/// Of the first QEMU whose filter can lose a snapshot instead of a guest's write.
pub const OLDEST: Version = Version { major: 7, minor: 1, micro: 0 };
/// How long the host may take to write out the images before the pause.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);
/// Disks of one machine.
pub const DISKS_MAX: usize = 256;
/// Bytes of the path of a UNIX socket.
const SOCKET_PATH_MAX: usize = 107;

/// Which of a machine's disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// The device's id (`-device virtio-blk-pci,id=vd0`), or its QOM path.
    Qdev(String),
    /// The image that it reads and writes.
    File(PathBuf),
}

impl std::fmt::Display for Select {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Qdev(id) => write!(f, "the device {id}"),
            Self::File(path) => write!(f, "the image {}", path.display()),
        }
    }
}

/// A running machine, and how its disks are replicated.
#[derive(Debug, Clone)]
pub struct LiveVm {
    /// The UNIX socket of a monitor that is ours: one client at a time.
    pub monitor: PathBuf,
    /// The replication.
    pub tag: Tag,
    /// The disks: index and which.
    pub disks: Vec<(u32, Select)>,
    /// A directory on a local, fast disk for what the guest overwrites during a cycle. QEMU has to be able to open files there.
    pub scratch: PathBuf,
    /// Bytes that one bit of a bitmap stands for: a power of two, 512 to 2 GiB.
    pub granularity: u32,
    /// The UNIX socket of the guest agent, if the guest shall be asked to freeze.
    pub agent: Option<PathBuf>,
}

/// What an open cycle has to put back.
pub(crate) struct Open {
    vm: LiveVm,
    qmp: Arc<Qmp>,
    /// The number of the last instance.
    pub(crate) base: Option<u64>,
}

impl LiveVm {
    /// Begins a cycle: the disks as they are now, and what changed since `base`, the last instance that the destination has.
    ///
    /// # Errors
    /// [`Error::Io`] when no QEMU listens, [`Error::Busy`] when another has its monitor, [`Error::Unsupported`] when this QEMU or a
    /// device cannot do it. After any error the machine is as before, or the next cycle will make it so.
    pub async fn begin(&self, base: Option<&Base>) -> Result<Cycle> {
        self.validate()?;
        let qmp = Arc::new(Qmp::connect(&self.monitor).await?);
        if qmp.version() < OLDEST {
            let reason = format!("{} or later is needed", OLDEST);
            return Err(Error::Unsupported { what: format!("a live read of QEMU {}", qmp.version()), reason });
        }
        self.make_directory(qmp.owner()).await?;
        self.release_guest(&qmp).await?;
        let committed = base.map(|base| base.number);
        let disks = settle(&qmp, &self.tag, &self.socket(), &self.disks, committed).await?;
        let open = Box::new(Open { vm: self.clone(), qmp, base: committed });
        match open.start(&disks, base).await {
            Ok(started) => Ok(started.cycle(open)),
            Err(error) => {
                if let Err(other) = open.end(committed).await {
                    tracing::warn!(error = %other, "a cycle that failed to begin could not be put back");
                }
                Err(error)
            }
        }
    }

    /// Removes all that the replication has in the machine, its bitmaps too: the replication is no more.
    ///
    /// # Errors
    /// As of [`LiveVm::begin`].
    pub async fn forget(&self) -> Result<()> {
        let qmp = Qmp::connect(&self.monitor).await?;
        self.release_guest(&qmp).await?;
        machine::forget(&qmp, &self.tag, &self.socket()).await?;
        match std::fs::remove_dir_all(self.directory()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", self.directory().display()))(error))
            }
            _ => Ok(()),
        }
    }

    fn directory(&self) -> PathBuf {
        self.scratch.join(self.tag.as_str())
    }

    fn socket(&self) -> PathBuf {
        self.directory().join("nbd")
    }

    fn marker(&self) -> PathBuf {
        self.directory().join("paused")
    }

    fn scratch_image(&self, index: u32) -> PathBuf {
        self.directory().join(format!("s{index}.qcow2"))
    }

    fn validate(&self) -> Result<()> {
        let invalid = |what: String, reason: &str| Err(Error::Invalid { what, reason: reason.to_owned() });
        if !self.scratch.is_absolute() {
            return invalid(format!("the scratch directory {}", self.scratch.display()), "its path is absolute");
        }
        let socket = self.socket();
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return invalid(
                format!("the scratch directory {}", self.scratch.display()),
                "its path is too long for a socket in it",
            );
        }
        if !self.granularity.is_power_of_two() || !(512..=1 << 31).contains(&self.granularity) {
            return invalid(format!("the granularity {}", self.granularity), "it is a power of two, 512 to 2147483648");
        }
        if self.disks.is_empty() || self.disks.len() > DISKS_MAX {
            return invalid(format!("a machine with {} disks", self.disks.len()), "it has 1 to 256");
        }
        let is_twice = |at: usize| self.disks[..at].iter().any(|(index, _)| *index == self.disks[at].0);
        if (0..self.disks.len()).any(is_twice) {
            return invalid("the list of disks".into(), "each index is there once");
        }
        Ok(())
    }

    /// Makes the replication's directory, which QEMU has to write to.
    async fn make_directory(&self, owner: Option<(u32, u32)>) -> Result<()> {
        let directory = self.directory();
        let what = format!("making {}", directory.display());
        let make = move || -> std::io::Result<()> {
            std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&directory)?;
            if let Some((user, group)) = owner.filter(|(user, _)| *user != rustix::process::geteuid().as_raw()) {
                // QEMU runs as somebody else. We may do this as root only; else the administrator has seen to it.
                if std::os::unix::fs::chown(&directory, Some(user), Some(group)).is_err() {
                    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o711))?;
                }
            }
            Ok(())
        };
        blocking(make).await.map_err(Error::io(what))
    }

    /// Lets a guest go on that stands still since we were killed in the middle of its pause.
    async fn release_guest(&self, qmp: &Qmp) -> Result<()> {
        let marker = self.marker();
        if !marker.exists() {
            return Ok(());
        }
        // A QEMU that was started anew in the meantime is not `paused`, but waits for whoever started it.
        if qmp.execute("query-status", Value::Null).await?["status"] == "paused" {
            tracing::warn!(marker = %marker.display(), "the last cycle ended during its pause: the guest goes on");
            qmp.execute("cont", Value::Null).await?;
        }
        if let Some(agent) = &self.agent
            && let Err(error) = Agent::new(agent).thaw().await
        {
            tracing::error!(%error, "the guest's file systems could not be thawed");
            return Ok(());
        }
        remove(&marker)
    }
}

/// What a cycle has once it has begun.
struct Started {
    number: u64,
    disks: Vec<CycleDisk>,
    quiesced: Quiesced,
    pause: Option<Duration>,
}

impl Started {
    fn cycle(self, open: Box<Open>) -> Cycle {
        Cycle::new(self.number, self.disks, self.quiesced, self.pause, End::Live(open))
    }
}

impl Open {
    async fn start(&self, disks: &[Disk], base: Option<&Base>) -> Result<Started> {
        let number = base.map_or(0, |base| base.number) + 1;
        let (vm, qmp) = (&self.vm, &self.qmp);
        let mut bases = Vec::new();
        let mut whys = Vec::new();
        for disk in disks {
            let mismatch = base.and_then(|base| base.mismatch(disk.index, disk.device.bytes));
            let usable = match mismatch {
                Some(why) => Err(why),
                None => disk.usable.clone(),
            };
            bases.push(usable.as_ref().ok().copied());
            whys.push(usable.err());
        }
        for disk in disks {
            self.add_scratch(disk).await?;
        }
        flush(disks).await;
        let (quiesced, pause) = self.pause(switch(&vm.tag, disks, &bases, number, vm.granularity)).await?;
        let socket = vm.socket();
        for disk in disks {
            let (reader, filter) = (vm.tag.part('r', disk.index), vm.tag.part('c', disk.index));
            let arguments = json!({
                "driver": "snapshot-access", "node-name": reader, "file": filter, "discard": "unmap"});
            qmp.execute("blockdev-add", arguments).await?;
        }
        // Of each disk one to read and one to ask, and a new one while the old is not yet gone.
        let connections = 3 * disks.len();
        remove(&socket)?;
        let arguments = json!({
            "addr": {"type": "unix", "data": {"path": socket}}, "max-connections": connections});
        qmp.execute("nbd-server-start", arguments).await?;
        let mut found = Vec::new();
        for ((disk, base_number), why) in disks.iter().zip(&bases).zip(whys) {
            let export = vm.tag.part('x', disk.index);
            let bitmap = base_number.map(|number| vm.tag.bitmap(number));
            // Writable is for trimming only: the snapshot takes no writes.
            let mut arguments = json!({
                "type": "nbd", "id": export, "node-name": vm.tag.part('r', disk.index), "name": export, "writable": true});
            if let Some(bitmap) = &bitmap {
                arguments["bitmaps"] = json!([{"node": disk.device.node, "name": bitmap}]);
            }
            qmp.execute("block-export-add", arguments).await?;
            let address = Address::Unix(socket.clone());
            let reader = NbdReader::connect(address, export, bitmap.as_deref(), Some(vm.directory())).await?;
            let bytes = reader.bytes().await?;
            if bytes != disk.device.bytes {
                let problem = format!("a disk of {} bytes is exported with {bytes}", disk.device.bytes);
                return Err(Error::Protocol { peer: "the NBD server", problem });
            }
            found.push(CycleDisk {
                index: disk.index,
                bytes,
                method: match (base, base_number) {
                    (None, _) => Method::Full,
                    (Some(_), None) => Method::Compare,
                    (Some(_), Some(_)) => Method::LiveBitmap,
                },
                why,
                reader: Reader::Nbd(Arc::new(reader)),
            });
        }
        Ok(Started { number, disks: found, quiesced, pause })
    }

    async fn add_scratch(&self, disk: &Disk) -> Result<()> {
        let vm = &self.vm;
        let path = vm.scratch_image(disk.index);
        remove(&path)?;
        image::create(&path, disk.device.bytes).await?;
        if let Some((user, group)) = self.qmp.owner() {
            // As of the directory: nobody else gets into it.
            if std::os::unix::fs::chown(&path, Some(user), Some(group)).is_err() {
                let permissions = std::fs::Permissions::from_mode(0o666);
                std::fs::set_permissions(&path, permissions)
                    .map_err(Error::io(format!("opening {}", path.display())))?;
            }
        }
        let arguments = json!({
            "driver": "qcow2", "node-name": vm.tag.part('s', disk.index), "discard": "unmap",
            "file": {"driver": "file", "filename": path, "discard": "unmap"}});
        self.qmp.execute("blockdev-add", arguments).await.map(drop)
    }

    /// Executes commands while the guest stands still and, if it was asked to, is frozen.
    async fn pause(&self, commands: Vec<Command>) -> Result<(Quiesced, Option<Duration>)> {
        let pause = Pause {
            qmp: Arc::clone(&self.qmp),
            agent: self.vm.agent.as_deref().map(Agent::new),
            marker: self.vm.marker(),
            commands,
        };
        // A task of its own goes on to the end when who waits for it goes away.
        tokio::spawn(pause.run())
            .await
            .map_err(|error| Error::Closed { peer: "the pausing task", reason: error.to_string() })?
    }

    /// Puts all back.
    pub(crate) async fn end(self: Box<Self>, committed: Option<u64>) -> Result<()> {
        let vm = &self.vm;
        let qmp = match &self.qmp {
            qmp if !qmp.is_closed() => Arc::clone(qmp),
            _ => Arc::new(Qmp::connect(&vm.monitor).await?),
        };
        settle(&qmp, &vm.tag, &vm.socket(), &vm.disks, committed).await?;
        for (index, _) in &vm.disks {
            remove(&vm.scratch_image(*index))?;
        }
        Ok(())
    }
}

/// The moment in which the guest stands still.
struct Pause {
    qmp: Arc<Qmp>,
    agent: Option<Agent>,
    marker: PathBuf,
    commands: Vec<Command>,
}

impl Pause {
    async fn run(self) -> Result<(Quiesced, Option<Duration>)> {
        let is_running = is_running(&self.qmp).await?;
        if !is_running {
            let answers = self.qmp.execute_all(&self.batch(false), ANSWER_TIMEOUT).await?;
            check(answers)?;
            return Ok((Quiesced::NotAsked, None));
        }
        std::fs::write(&self.marker, b"").map_err(Error::io(format!("writing {}", self.marker.display())))?;
        let frozen = Instant::now();
        let mut quiesced = match &self.agent {
            None => Quiesced::NotAsked,
            Some(agent) => match agent.freeze().await {
                Ok(()) => Quiesced::Yes,
                Err(error) => Quiesced::Failed(error.to_string()),
            },
        };
        let _ = self.qmp.take_events();
        let batch = self.batch(true);
        let mut switching = std::pin::pin!(self.qmp.execute_all(&batch, ANSWER_TIMEOUT));
        let mut answers = None;
        if quiesced == Quiesced::Yes {
            let left = FREEZE_LIMIT.saturating_sub(frozen.elapsed());
            match tokio::time::timeout(left, &mut switching).await {
                Ok(done) => answers = Some(done),
                Err(_) => quiesced = Quiesced::Failed(format!("QEMU did not pause within {FREEZE_LIMIT:?}")),
            }
        }
        let (answers, thawed) = match (answers, &self.agent) {
            (Some(answers), Some(agent)) => (answers, agent.thaw().await),
            (None, Some(agent)) => tokio::join!(&mut switching, agent.thaw()),
            (Some(answers), None) => (answers, Ok(())),
            (None, None) => (switching.await, Ok(())),
        };
        if let Err(error) = &thawed {
            tracing::error!(%error, "the guest's file systems could not be thawed");
        }
        let answers = match answers {
            Err(error @ Error::Timeout { .. }) => {
                // `cont` is in the monitor's queue, and would be dropped with the connection.
                let qmp = Arc::clone(&self.qmp);
                tokio::spawn(async move { qmp.wait_event(|event| event.name == "RESUME", 10 * ANSWER_TIMEOUT).await });
                return Err(error);
            }
            other => other?,
        };
        let is_continued = answers.last().is_some_and(Result::is_ok);
        if is_continued && thawed.is_ok() {
            remove(&self.marker)?;
        }
        check(answers)?;
        Ok((quiesced, paused(&self.qmp.take_events())))
    }

    /// The commands, in a pause of their own if the guest runs, with the question whether it stood still to the end.
    fn batch(&self, is_running: bool) -> Vec<Command> {
        let mut batch = Vec::with_capacity(self.commands.len() + 3);
        if is_running {
            batch.push(Command::plain("stop"));
        }
        batch.extend(self.commands.iter().cloned());
        batch.push(Command::plain("query-status"));
        if is_running {
            batch.push(Command::plain("cont"));
        }
        batch
    }
}

/// The first error of the batch, or that somebody else let the guest run in the middle of it.
fn check(answers: Vec<Result<Value>>) -> Result<()> {
    for answer in answers {
        let answer = answer.map_err(|error| match error {
            Error::Command { command, reason, .. } if command == "qom-set" => {
                Error::Unsupported { what: "exchanging the disk of a device".into(), reason }
            }
            other => other,
        })?;
        if answer.get("running") == Some(&Value::Bool(true)) {
            return Err(Error::Busy { reason: "another client let the guest run during its pause".into() });
        }
    }
    Ok(())
}

/// How long the guest stood still, by the times of QEMU's events.
fn paused(events: &[Event]) -> Option<Duration> {
    let time = |name: &str| events.iter().find(|event| event.name == name).map(|event| event.time);
    time("RESUME")?.checked_sub(time("STOP")?)
}

/// Writes out what the host holds of the images, so that `stop`, which does so too, has little left to do. Only saves time.
async fn flush(disks: &[Disk]) {
    let files: Vec<PathBuf> = disks.iter().filter_map(|disk| disk.file.clone()).collect();
    let flushing = blocking(move || {
        for file in files.iter().filter(|file| file.is_absolute()) {
            // Of what cannot be opened, QEMU's own flush takes longer.
            let _ = std::fs::File::open(file).and_then(|file| file.sync_data());
        }
        Ok(())
    });
    let _ = tokio::time::timeout(FLUSH_LIMIT, flushing).await;
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Runs what waits for the disk where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
