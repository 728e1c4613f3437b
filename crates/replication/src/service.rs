//! The replications of a site: where they are kept, and how they are changed.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockstep_blocks::Store;
use lockstep_client::{Client, ClientError};
use lockstep_contract::services::replication::{Side, codes};
use lockstep_contract::{Error, ErrorKind};
use lockstep_links::{Links, PeerSite};
use lockstep_model::{Position, ResourceId, builtin};
use lockstep_site::seal::Sealer;
use lockstep_site::sessions::SessionKey;
use lockstep_site::table::Table;
use lockstep_site::tasks::Tasks;
use lockstep_site::{Site, WriteError, uuid};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::limit::{Line, Memory};
use crate::receive::Receive;
use crate::record::{Record, resource};
use crate::recovered::{self, Accelerator, Recoveries};
use crate::schedule::Schedule;
use crate::ship::{self, Tagger};
use crate::turns::Turns;

/// The author of what is written for replications.
pub(crate) const AUTHOR: &str = "lockstep/replication";

/// Most replications of a site, incoming and outgoing.
pub const REPLICATIONS_MAX: usize = 10_000;

/// Tries before a change gives up against others that change the same replication.
const TRIES_MAX: usize = 16;

/// How the service is set up.
pub struct Config {
    /// Where instances are kept; none for a site that receives nothing.
    pub store: Option<Store>,
    /// Who reads this site's machines; none for a site that sends nothing.
    pub engine: Option<Arc<dyn Engine>>,
    /// A directory for what syncs keep from one to the next.
    pub maps: PathBuf,
    /// Where instances may be exported to.
    pub exports: PathBuf,
    /// Where recovered machines are: an absolute path.
    pub recovered: PathBuf,
    /// Most bytes a second that syncs send over one link.
    pub bytes_per_s: Option<u64>,
    /// How long a sync goes on trying when nothing gets done.
    pub patience: Duration,
    /// How long the guest of a machine that moves has to switch itself off, before it is switched off.
    pub power_off_after: Duration,
}

/// The service of one site.
pub struct Replications {
    pub(crate) site: Arc<Site>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) links: Arc<Links>,
    pub(crate) config: Config,
    pub(crate) receive: Option<Arc<Receive>>,
    pub(crate) turns: Turns,
    pub(crate) schedule: Schedule,
    pub(crate) memory: Memory,
    pub(crate) tagger: Option<Tagger>,
    /// Held while a replication is made.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// One for each link, shared by its syncs. Held for a look-up.
    lines: Mutex<HashMap<String, Arc<Line>>>,
    /// How syncs under way get on. Held for a look-up.
    pub(crate) underway: Mutex<HashMap<String, ship::Progress>>,
    /// What was recovered here; none for a site that receives nothing.
    pub(crate) recoveries: Option<Recoveries>,
    /// Sites that sessions were extended to. Held for a look-up.
    pub(crate) extended: Mutex<HashMap<SessionKey, HashMap<String, Client>>>,
    /// Replications that the other side is to be told of. Held for a look-up.
    pub(crate) untold: Mutex<BTreeSet<String>>,
    pub(crate) tell: Notify,
    /// Told when there may be garbage in the store.
    pub(crate) garbage: Notify,
    /// Differs for each start.
    pub(crate) runtime_id: String,
}

impl Replications {
    /// The service. Nothing is sent before [`Replications::start`]; what machines that were recovered read is served from now on.
    ///
    /// # Errors
    /// `internal_server_error` when the operating system has no random numbers, and what hinders the server of instances.
    pub async fn open(
        site: Arc<Site>,
        tasks: Arc<Tasks>,
        links: Arc<Links>,
        config: Config,
    ) -> Result<Arc<Self>, Error> {
        let sealer = Sealer::open(&site.config.data_dir).map_err(|error| {
            let message = format!("the site's key cannot be used: {error}");
            Error::new(ErrorKind::InternalServerError, "lockstep.replication.no_key", message, Vec::new())
        })?;
        let tagger = Tagger::new(&sealer.derive("lockstep tags of replicated blocks"));
        let owners = Arc::new(crate::peer::LinkOwners { site: site.clone(), links: links.clone() });
        let receive = match &config.store {
            Some(store) => Some(Receive::new(Arc::new(store.clone()), owners)?),
            None => None,
        };
        let recoveries = match &config.store {
            Some(store) => Some(Recoveries::open(recovered_config(&config, store)).await?),
            None => None,
        };
        let here = Arc::new(Self {
            site,
            tasks,
            links,
            config,
            receive,
            turns: Turns::default(),
            schedule: Schedule::default(),
            memory: Memory::default(),
            tagger,
            starting: tokio::sync::Mutex::default(),
            lines: Mutex::default(),
            underway: Mutex::default(),
            recoveries,
            extended: Mutex::default(),
            untold: Mutex::default(),
            tell: Notify::new(),
            garbage: Notify::new(),
            runtime_id: uuid::random()?,
        });
        here.take_up_tasks();
        Ok(here)
    }

    /// Registers the service's operations.
    pub fn register(self: &Arc<Self>, table: &mut Table) {
        crate::operations::register(self, table);
        crate::vapp::register(self, table);
        crate::sites::register(self, table);
        crate::sessions::register(self, table);
        crate::peer::register(self, table);
        if let Some(receive) = &self.receive {
            receive.register(table);
        }
    }

    /// Starts to keep replications within their RPO; ends by itself when the site stops.
    pub async fn start(self: &Arc<Self>) {
        self.settle().await;
        tokio::spawn(crate::tell::keep_telling(self.clone()));
        tokio::spawn(crate::vault::keep_tidy(self.clone()));
        tokio::spawn(crate::schedule::keep(self.clone()));
        tokio::spawn(crate::recover::keep_independent(self.clone()));
    }

    /// A replication by what the API or another site calls it.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn find(&self, name: &str) -> Result<Record, Error> {
        let id = ["C4-", "H4-"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        self.get(id).map(|(record, _)| record).ok_or_else(|| no_replication(name))
    }

    /// A replication by its vApp's.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn find_vapp(&self, name: &str) -> Result<Record, Error> {
        let vapp = name.strip_prefix("C4VAPP-").unwrap_or(name);
        self.all().into_iter().find(|record| record.source.vapp_id == vapp).ok_or_else(|| no_replication(name))
    }

    pub(crate) fn get(&self, id: &str) -> Option<(Record, Position)> {
        let stored = self.site.view().get(&resource(id))?;
        Some((Record::from_document(id, &stored.document)?, stored.modified))
    }

    /// All replications, by id.
    pub(crate) fn all(&self) -> Vec<Record> {
        let view = self.site.view();
        let read = |id: ResourceId| Record::from_document(&id.id, &view.get(&id)?.document);
        view.ids(builtin::VM_REPLICATION, None).filter_map(read).collect()
    }

    /// The outgoing replication of a machine.
    pub(crate) fn of_vm(&self, vm: &str) -> Option<Record> {
        let ids = {
            let view = self.site.view();
            view.referring(builtin::VM_REPLICATION, "vm", &ResourceId::new("VirtualMachine", vm))
        };
        ids.iter().filter_map(|id| self.get(&id.id)).map(|(record, _)| record).find(|r| r.side == Side::Source)
    }

    /// Stores a new replication.
    ///
    /// # Errors
    /// `already_exists`, and what hinders a write.
    pub(crate) async fn create(&self, record: &Record) -> Result<(), Error> {
        if self.site.view().count(builtin::VM_REPLICATION) >= REPLICATIONS_MAX {
            let message = format!("a site has at most {REPLICATIONS_MAX} replications");
            return Err(Error::new(
                ErrorKind::UnableToAllocateResource,
                "lockstep.replication.too_many",
                message,
                Vec::new(),
            ));
        }
        let document = self.document(record)?;
        let made = self.site.create_document(AUTHOR.into(), resource(&record.id), &document).await;
        made.map_err(WriteError::into_error)?;
        Ok(())
    }

    /// Changes the part of a replication that this side owns, and has the other side told. `edit` may be called several times.
    ///
    /// # Errors
    /// `not_found`, what `edit` refuses, and what hinders a write.
    pub(crate) async fn change(
        &self,
        id: &str,
        edit: impl Fn(&mut Record) -> Result<(), Error> + Send,
    ) -> Result<Record, Error> {
        for _ in 0..TRIES_MAX {
            let (before, position) = self.get(id).ok_or_else(|| no_replication(id))?;
            let mut record = before.clone();
            edit(&mut record)?;
            if record == before {
                return Ok(record);
            }
            match record.side {
                Side::Source => record.source.revision += 1,
                Side::Destination => record.replica.revision += 1,
            }
            if self.write(&record, position).await? {
                self.untold.lock().insert(id.to_owned());
                self.tell.notify_one();
                return Ok(record);
            }
        }
        Err(Error::new(
            ErrorKind::ConcurrentChange,
            "lockstep.replication.contended",
            "the replication is changed by others all the time",
            vec![id.to_owned()],
        ))
    }

    /// Writes a replication that was read at `position`; `false` when it has changed since.
    pub(crate) async fn write(&self, record: &Record, position: Position) -> Result<bool, Error> {
        let document = self.document(record)?;
        match self.site.write_document(AUTHOR.into(), resource(&record.id), document, Some(position)).await {
            Ok(_) => Ok(true),
            Err(WriteError::Changed { .. } | WriteError::Contended(_)) => {
                self.site.catch_up().await;
                Ok(false)
            }
            Err(error) => Err(error.into_error()),
        }
    }

    fn document(&self, record: &Record) -> Result<lockstep_model::Document, Error> {
        let view = self.site.view();
        let type_def = view.registry().type_def(builtin::VM_REPLICATION).cloned().ok_or_else(Error::internal)?;
        drop(view);
        record
            .to_document(&type_def)
            .map_err(|misfit| Error::invalid_argument("lockstep.replication.invalid", "properties", &misfit))
    }

    /// Forgets a replication.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), Error> {
        match self.site.delete_resource(AUTHOR.into(), resource(id), None, false).await {
            Ok(_) | Err(WriteError::NotFound(_)) => {}
            Err(error) => return Err(error.into_error()),
        }
        self.untold.lock().remove(id);
        let maps = self.config.maps.join(id);
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(maps)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, replication = id, "the maps of a replication were not removed");
        }
        Ok(())
    }

    /// The other site of a replication.
    ///
    /// # Errors
    /// `not_found` when the link is gone.
    pub(crate) fn other(&self, record: &Record) -> Result<PeerSite, Error> {
        let name = match record.side {
            Side::Source => &record.source.destination_site,
            Side::Destination => &record.source.site,
        };
        self.links.peer(&record.link).ok_or_else(|| no_site(name))
    }

    /// What all syncs over a link share.
    pub(crate) fn line(&self, link: &str) -> Arc<Line> {
        let mut lines = self.lines.lock();
        lines.entry(link.to_owned()).or_insert_with(|| Line::new(self.config.bytes_per_s)).clone()
    }

    /// The store of instances.
    ///
    /// # Errors
    /// `unsupported` when this site has none.
    pub(crate) fn store(&self) -> Result<&Store, Error> {
        self.config.store.as_ref().ok_or_else(|| {
            let message = "this site has no store for instances: start it with --replica-store";
            Error::new(ErrorKind::Unsupported, "lockstep.replication.no_store", message, Vec::new())
        })
    }
}

/// Recovered machines by QEMU's programs, as they are found.
fn recovered_config(config: &Config, store: &Store) -> recovered::Config {
    recovered::Config {
        directory: config.recovered.clone(),
        store: store.clone(),
        qemu: "qemu-system-x86_64".into(),
        accelerator: Accelerator::Any,
        qemu_img: "qemu-img".into(),
    }
}

/// The refusal of a replication that is not there.
pub(crate) fn no_replication(name: &str) -> Error {
    let message = format!("there is no replication {name:?}");
    Error::not_found(codes::REPLICATION_NOT_FOUND, message, vec![name.to_owned()])
}

/// The refusal of a site that is not linked.
pub(crate) fn no_site(name: &str) -> Error {
    let message = format!("no linked site is called {name:?}");
    Error::not_found(codes::SITE_NOT_FOUND, message, vec![name.to_owned()])
}

/// What people are told of a call of another site that failed.
pub(crate) fn peer_error(error: ClientError, site: &str) -> Error {
    match error {
        ClientError::Refusal { error, .. } => error,
        other => {
            let kind =
                if other.is_transient() { ErrorKind::ServiceUnavailable } else { ErrorKind::ResourceInaccessible };
            let message = format!("{site} cannot be asked: {other}");
            Error::new(kind, "lockstep.replication.unreachable", message, vec![site.to_owned()])
        }
    }
}

/// Does something that waits for a disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, lockstep_blocks::Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal())?;
    done.map_err(|error| store_error(&error))
}

/// The contract's error of the store's.
pub(crate) fn store_error(error: &lockstep_blocks::Error) -> Error {
    use lockstep_blocks::Error as E;
    let text = error.to_string();
    match error {
        E::NoInstance(name) => {
            let instance = name.instance().to_owned();
            Error::not_found(codes::INSTANCE_NOT_FOUND, format!("there is no instance {instance}"), vec![instance])
        }
        E::NoDraft(_) | E::NoDisk(_) => Error::not_found("lockstep.replication.store", text, Vec::new()),
        E::Full => Error::new(ErrorKind::UnableToAllocateResource, "lockstep.replication.full", text, Vec::new()),
        E::Damaged { .. } | E::Poisoned | E::Locked | E::BlockMissing { .. } | E::RootDiffers { .. } | E::Io { .. } => {
            tracing::error!(%error, "the store of instances fails");
            Error::new(ErrorKind::Error, "lockstep.replication.store", text, Vec::new())
        }
        E::Away { .. } => Error::new(ErrorKind::ServiceUnavailable, "lockstep.replication.store", text, Vec::new()),
        E::Exists(_) | E::Invalid(_) => Error::new(ErrorKind::Error, "lockstep.replication.store", text, Vec::new()),
    }
}
