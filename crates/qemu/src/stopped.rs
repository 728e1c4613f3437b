//! Changed blocks of a machine that is off.
//!
//! A qcow2 image keeps the bitmaps of a QEMU that ended cleanly. The next one is added before the image is read, then `qemu-nbd` serves
//! it read-only. While it does, QEMU's lock keeps a machine from starting with the image; and that nobody wrote is known for certain.
//! Raw disks have no bitmaps and are read directly.
//!
//! `qemu-nbd` ends when its last client goes, so it ends with us, however we end. One whose client never came, since we were killed
//! in between, is ended by the next cycle ([`crate::process`]).

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::bitmaps::{Tag, resolve};
use crate::cycle::{Base, Cycle, CycleDisk, End, Method, NbdReader, Quiesced, Reader};
use crate::image::{self, Format};
use crate::live::{DISKS_MAX, blocking};
use crate::nbd::{Address, Client};
use crate::process::{Mark, Process};
use crate::raw::RawDisk;
use crate::{Error, Result};

/// How long `qemu-nbd` may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often that is tried.
const START_POLL: Duration = Duration::from_millis(10);
/// Connections of one `qemu-nbd`: the reader's, one that holds it, and a new one of the reader's while the old one is not yet gone.
const CONNECTIONS: &str = "8";

/// A disk of a machine that is off.
#[derive(Debug, Clone)]
pub struct StoppedDisk {
    /// As it is called in the cycle.
    pub index: u32,
    /// The image; absolute.
    pub path: PathBuf,
    /// How it is to be read.
    pub format: Format,
}

/// A machine that is off.
#[derive(Debug, Clone)]
pub struct StoppedVm {
    /// The replication.
    pub tag: Tag,
    /// The disks.
    pub disks: Vec<StoppedDisk>,
    /// A directory for sockets.
    pub scratch: PathBuf,
    /// Bytes that one bit of a bitmap stands for, as of [`LiveVm`](crate::LiveVm).
    pub granularity: u32,
    /// Reads raw disks that a program has open for writing too: blocks may be of different times then.
    pub may_be_in_use: bool,
}

/// What an open cycle has to put back.
pub(crate) struct Open {
    vm: StoppedVm,
    pub(crate) base: Option<u64>,
    servers: Mutex<Vec<Server>>,
    raw: Vec<Arc<RawDisk>>,
}

/// A `qemu-nbd`.
struct Server {
    path: PathBuf,
    child: Child,
    /// Keeps it from ending while the reader connects anew.
    _holder: Client,
}

impl StoppedVm {
    /// Begins a cycle: the disks as they are, and what changed since `base`.
    ///
    /// # Errors
    /// [`Error::InUse`] when the machine runs.
    pub async fn begin(&self, base: Option<&Base>) -> Result<Cycle> {
        if self.disks.is_empty() || self.disks.len() > DISKS_MAX {
            let what = format!("a machine with {} disks", self.disks.len());
            return Err(Error::Invalid { what, reason: format!("it has 1 to {DISKS_MAX}") });
        }
        // QEMU's programs take `name:rest` for something else than a file.
        if let Some(disk) = self.disks.iter().find(|disk| !disk.path.is_absolute()) {
            let what = format!("the image {}", disk.path.display());
            return Err(Error::Invalid { what, reason: "its path is absolute".into() });
        }
        let directory = self.directory();
        let what = format!("making {}", directory.display());
        let make = move || std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&directory);
        blocking(make).await.map_err(Error::io(what))?;
        let committed = base.map(|base| base.number);
        let servers = Mutex::new(Vec::new());
        let mut open = Box::new(Open { vm: self.clone(), base: committed, servers, raw: Vec::new() });
        let mut disks = Vec::new();
        for disk in &self.disks {
            let opened = match disk.format {
                Format::Qcow2 => open.qcow2(disk, base).await,
                Format::Raw => open.raw(disk, base).await,
            };
            match opened {
                Ok(disk) => disks.push(disk),
                Err(error) => {
                    drop(disks);
                    if let Err(other) = open.end(committed).await {
                        tracing::warn!(error = %other, "a cycle that failed to begin could not be put back");
                    }
                    return Err(error);
                }
            }
        }
        let number = committed.unwrap_or(0) + 1;
        Ok(Cycle::new(number, disks, Quiesced::Off, None, End::Stopped(open)))
    }

    fn directory(&self) -> PathBuf {
        self.scratch.join(self.tag.as_str())
    }

    /// Judges the bitmaps of an image and changes them accordingly; answers what [`resolve`] does, and the image's size.
    async fn settle(&self, path: &Path, committed: Option<u64>) -> Result<(image::Info, Result<u64, String>)> {
        let info = image::info(path, &self.tag).await?;
        let resolution = resolve(&info.bitmaps, committed);
        image::apply(path, &self.tag, &resolution.actions).await?;
        Ok((info, resolution.usable))
    }
}

impl Open {
    async fn qcow2(&self, disk: &StoppedDisk, base: Option<&Base>) -> Result<CycleDisk> {
        let vm = &self.vm;
        let socket = vm.directory().join(format!("q{}", disk.index));
        // A `qemu-nbd` ends when its last client goes; one whose first never came waits for ever, with the image locked.
        Process::kill_all(&Mark::socket(&socket)).await?;
        let (info, usable) = vm.settle(&disk.path, self.base).await?;
        let usable = match base.and_then(|base| base.mismatch(disk.index, info.bytes)) {
            Some(why) => Err(why),
            None => usable,
        };
        if info.keeps_bitmaps {
            let number = self.base.unwrap_or(0) + 1;
            image::add_bitmap(&disk.path, &vm.tag.bitmap(number), vm.granularity).await?;
        }
        let bitmap = usable.as_ref().ok().map(|number| vm.tag.bitmap(*number));
        let export = vm.tag.part('x', disk.index);
        let server = Server::start(&disk.path, &socket, &export, bitmap.as_deref()).await?;
        self.servers.lock().await.push(server);
        let reader = NbdReader::connect(Address::Unix(socket), export, bitmap.as_deref(), None).await?;
        let bytes = reader.bytes().await?;
        Ok(CycleDisk {
            index: disk.index,
            bytes,
            method: method(base, usable.is_ok()),
            why: usable.err(),
            reader: Reader::Nbd(Arc::new(reader)),
        })
    }

    async fn raw(&mut self, disk: &StoppedDisk, base: Option<&Base>) -> Result<CycleDisk> {
        let opened = Arc::new(RawDisk::open(&disk.path, self.vm.may_be_in_use).await?);
        self.raw.push(Arc::clone(&opened));
        let why = base.map_or("there is no instance yet", |_| "a raw disk keeps no bitmap");
        Ok(CycleDisk {
            index: disk.index,
            bytes: opened.bytes,
            method: method(base, false),
            why: Some(why.into()),
            reader: Reader::Raw(opened),
        })
    }

    /// Whether nobody can have written.
    pub(crate) async fn check(&self) -> Result<()> {
        for server in self.servers.lock().await.iter_mut() {
            if server.child.try_wait().map_err(Error::io("looking at qemu-nbd"))?.is_some() {
                let how = "qemu-nbd, which kept others from it, has ended".into();
                return Err(Error::Changed { path: server.path.clone(), how });
            }
        }
        for disk in &self.raw {
            disk.check().await?;
        }
        Ok(())
    }

    /// Lets the images go, and puts their bitmaps right.
    pub(crate) async fn end(self: Box<Self>, committed: Option<u64>) -> Result<()> {
        for mut server in self.servers.into_inner() {
            server.child.kill().await.map_err(Error::io("ending qemu-nbd"))?;
        }
        drop(self.raw);
        for disk in self.vm.disks.iter().filter(|disk| disk.format == Format::Qcow2) {
            match self.vm.settle(&disk.path, committed).await {
                // The machine was started the moment it could be. Its next cycle does it.
                Ok(_) | Err(Error::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn method(base: Option<&Base>, is_usable: bool) -> Method {
    match (base, is_usable) {
        (None, _) => Method::Full,
        (Some(_), true) => Method::StoppedBitmap,
        (Some(_), false) => Method::Compare,
    }
}

impl Server {
    async fn start(path: &Path, socket: &Path, export: &str, bitmap: Option<&str>) -> Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", socket.display()))(error));
            }
            _ => {}
        }
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-f", Format::Qcow2.name(), "-e", CONNECTIONS, "-x", export]);
        if let Some(bitmap) = bitmap {
            command.args(["-B", bitmap]);
        }
        command.arg("-k").arg(socket).arg("--").arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).env("LC_ALL", "C");
        let mut child = command.spawn().map_err(Error::io("starting qemu-nbd"))?;
        let started = Instant::now();
        loop {
            // A client at once: without one it would go on when we are killed.
            match Client::connect(&Address::Unix(socket.to_owned()), export, &[]).await {
                Ok(holder) => return Ok(Self { path: path.to_owned(), child, _holder: holder }),
                Err(Error::Io { .. }) => {}
                Err(error) => return Err(error),
            }
            if child.try_wait().map_err(Error::io("looking at qemu-nbd"))?.is_some() {
                let mut words = Vec::new();
                if let Some(stderr) = child.stderr.take() {
                    let _ = stderr.take(4096).read_to_end(&mut words).await;
                }
                return Err(image::failure("qemu-nbd", path, &words));
            }
            if started.elapsed() > START_LIMIT {
                return Err(Error::Timeout { what: "starting qemu-nbd".into(), limit: START_LIMIT });
            }
            tokio::time::sleep(START_POLL).await;
        }
    }
}
