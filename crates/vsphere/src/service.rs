//! The service `lockstep.collectors`: collectors are made, shown and ended, and each runs a task of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_client::{ClientError, Thumbprint, Trust};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::collectors::{
    self as declared, CollectorInput, Count, CreateInput, DeleteInput, Hidden, Info, Kind, Phase,
};
use lockstep_contract::{Error, ErrorData, ErrorKind, Message, Secret};
use lockstep_model::{COLLECTED_BY, ID_BYTES_MAX, ResourceId};
use lockstep_site::seal::{SealError, Sealer};
use lockstep_site::table::{Context, Table};
use lockstep_site::{Site, WriteError, collected, commit_error};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agents;
use crate::error::CollectError;
use crate::hosts::{self, Host, Rules};
use crate::object::Ids;
use crate::run::{Run, Source};
use crate::status::{self, Status};
use crate::stored::{self, Collector, purpose, resource};
use crate::{tags, vim};
use lockstep_site::times;

/// Collectors of vCenters at the most: each holds a connection and a task.
const COLLECTORS_MAX: usize = 100;

/// Longest name of a collector, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Longest prefix of ids, in bytes: the source's own ids come behind it, and the names of sites before it.
const PREFIX_BYTES_MAX: usize = ID_BYTES_MAX / 4;

/// The name of the collector of the server's own machine.
pub(crate) const HOST_NAME: &str = "host";

/// A collector that runs elsewhere in the server: it says how it is doing, and is shown with the others.
#[derive(Clone)]
pub struct Elsewhere {
    site: Arc<Site>,
    id: ResourceId,
    status: Arc<Status>,
}

impl Elsewhere {
    /// The collector's resource.
    pub fn id(&self) -> &ResourceId {
        &self.id
    }

    /// All is as it is there. Writes nothing while that goes on.
    pub async fn confirmed(&self, objects: usize) {
        let is_news = self.status.moment().phase != status::Phase::Following;
        self.status.all_here(objects as u64);
        if is_news {
            stored::write_status(&self.site, &author(&self.id.id), &self.id, None).await;
        }
    }

    /// All is as it was confirmed before.
    pub(crate) async fn confirmed_again(&self, objects: usize) {
        match self.status.moment().phase {
            status::Phase::Following => self.status.confirmed(),
            status::Phase::Connecting | status::Phase::Reading | status::Phase::Failed => self.confirmed(objects).await,
        }
    }

    /// So many resources are somebody else's, or do not fit their models.
    pub fn left_alone(&self, taken: &[ResourceId], misfits: usize) {
        self.status.left_alone(taken, misfits);
    }

    /// The source cannot be read. Writes nothing while that goes on.
    pub async fn failed(&self, why: String) {
        let message = Message::new("lockstep.collectors.host", why, Vec::new());
        self.status.failed(message.clone());
        stored::write_status(&self.site, &author(&self.id.id), &self.id, Some(&message)).await;
    }
}

/// A collector at work.
pub(crate) struct Live {
    pub(crate) collector: Collector,
    /// Who keeps it, of a host with an agent.
    pub(crate) host: Option<Arc<Host>>,
    status: Arc<Status>,
    stop: watch::Sender<bool>,
    /// Taken by who ends it.
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The collectors of one site.
pub struct Collectors {
    pub(crate) site: Arc<Site>,
    pub(crate) sealer: Sealer,
    /// How a host's resources are to be.
    pub(crate) rules: Rules,
    /// Held for a look-up.
    live: Mutex<BTreeMap<String, Arc<Live>>>,
    /// Held while a collector is made or ended: names and prefixes are looked at before.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Collectors {
    /// The service of a site; `rules` say what a host's reading comes to. Nothing is reached for before [`Collectors::start`].
    ///
    /// # Errors
    /// [`SealError`]: the key that seals passwords cannot be read or made.
    pub fn open(site: Arc<Site>, rules: Rules) -> Result<Arc<Self>, SealError> {
        let sealer = Sealer::open(&site.config.data_dir)?;
        let (live, changing) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { site, sealer, rules, live, changing }))
    }

    /// Registers the service's operations.
    pub fn register(self: &Arc<Self>, table: &mut Table) {
        let here = self.clone();
        table.register(declared::Create, move |context, input| {
            let here = here.clone();
            async move { here.create(&context, input).await }
        });
        let here = self.clone();
        table.register(declared::List, move |_, _: NoInput| {
            let here = here.clone();
            async move { Ok(here.list()) }
        });
        let here = self.clone();
        table.register(declared::Get, move |_, input: CollectorInput| {
            let here = here.clone();
            async move { Ok(here.info(&*here.find(&input.collector)?)) }
        });
        let here = self.clone();
        table.register(declared::Delete, move |context, input| {
            let here = here.clone();
            async move { here.delete(&context, input).await }
        });
        agents::register(self, table);
    }

    /// Starts the collectors that are stored.
    pub fn start(&self) {
        for collector in stored::all(&self.site) {
            if collector.kind == Kind::Host {
                // The server's own host comes by itself, if at all.
                if collector.name != HOST_NAME {
                    self.keep_host(collector, Arc::default());
                }
                continue;
            }
            match self.sealer.open_sealed(&purpose(&collector.name), &collector.password) {
                Ok(password) => self.launch(collector, Ok(password)),
                Err(error) => self.launch(collector, Err(CollectError::Password(error.to_string()))),
            }
        }
    }

    /// The collector of the server's own machine, which runs elsewhere; made at the first need.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn host(&self, host_name: &str) -> Result<Elsewhere, WriteError> {
        let id = resource(HOST_NAME);
        let stored = self.site.view().get(&id);
        let known = stored.and_then(|stored| Collector::from_document(HOST_NAME, &stored.document));
        let collector = match known.filter(|known| known.kind == Kind::Host && known.address == host_name) {
            Some(known) => known,
            None => {
                let collector = Collector {
                    name: HOST_NAME.to_owned(),
                    kind: Kind::Host,
                    address: host_name.to_owned(),
                    user: String::new(),
                    thumbprint: None,
                    id_prefix: String::new(),
                    source_id: None,
                    product: None,
                    created_ms: times::now_ms(),
                    password: String::new(),
                };
                let document = collector.to_document();
                self.site.write_document(author(HOST_NAME), id.clone(), document, None).await?;
                collector
            }
        };
        let status = Arc::new(Status::default());
        let (stop, _) = watch::channel(false);
        let live = Live { collector, host: None, status: status.clone(), stop, task: Mutex::default() };
        self.live.lock().insert(HOST_NAME.to_owned(), Arc::new(live));
        Ok(Elsewhere { site: self.site.clone(), id, status })
    }

    /// Shows the collector of a host with an agent among the others.
    pub(crate) fn keep_host(&self, collector: Collector, host: Arc<Host>) {
        let name = collector.name.clone();
        let mut all = self.live.lock();
        let status = all.get(&name).map_or_else(Arc::default, |live| live.status.clone());
        let (stop, _) = watch::channel(false);
        let live = Live { collector, host: Some(host), status, stop, task: Mutex::default() };
        all.insert(name, Arc::new(live));
    }

    /// How the collector of a host with an agent says that it is doing.
    pub(crate) fn elsewhere(&self, live: &Live) -> Elsewhere {
        Elsewhere { site: self.site.clone(), id: resource(&live.collector.name), status: live.status.clone() }
    }

    /// Stops all collectors, and waits until each has ended its session.
    pub async fn stop(&self) {
        let all: Vec<Arc<Live>> = self.live.lock().values().cloned().collect();
        for live in &all {
            live.stop.send_replace(true);
        }
        for live in all {
            live.ended().await;
        }
    }

    fn launch(&self, collector: Collector, password: Result<Secret, CollectError>) {
        let status = Arc::new(Status::default());
        let (stop, stopped) = watch::channel(false);
        let task = match password {
            Ok(password) => {
                let run = Run {
                    site: self.site.clone(),
                    collector: resource(&collector.name),
                    author: author(&collector.name),
                    source: source(&collector, password),
                    ids: Ids { prefix: collector.id_prefix.clone() },
                    status: status.clone(),
                };
                Some(tokio::spawn(run.run(stopped)))
            }
            Err(error) => {
                tracing::error!(collector = collector.name, %error, "a collector cannot start");
                status.failed(error.message());
                None
            }
        };
        let name = collector.name.clone();
        let live = Live { collector, host: None, status, stop, task: Mutex::new(task) };
        self.live.lock().insert(name, Arc::new(live));
    }

    async fn create(&self, context: &Context, input: CreateInput) -> Result<String, Error> {
        let spec = input.spec;
        if spec.kind != Kind::Vcenter {
            return Err(invalid("kind", "only collectors of kind VCENTER are made; a host is collected by its server"));
        }
        let url = vim::url_of(&spec.address).map_err(|error| refused(&error))?;
        let name = spec.name.unwrap_or_else(|| url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned());
        check_name(&name)?;
        let thumbprint = match spec.ssl_thumbprint.as_deref().map(str::parse::<Thumbprint>) {
            None => None,
            Some(Ok(thumbprint)) => Some(thumbprint),
            Some(Err(why)) => return Err(invalid("ssl_thumbprint", &why)),
        };
        if spec.user.is_empty() {
            return Err(invalid("user", "it is empty"));
        }
        let _turn = self.changing.lock().await;
        let others = stored::all(&self.site);
        if others.iter().filter(|other| other.kind == Kind::Vcenter).count() >= COLLECTORS_MAX {
            return Err(invalid("name", &format!("there are {COLLECTORS_MAX} collectors, which is the most")));
        }
        if others.iter().any(|other| other.name == name) || self.live.lock().contains_key(&name) {
            let text = format!("a collector {name} is there; delete it, or give this one another name");
            return Err(Error::new(ErrorKind::AlreadyExists, "lockstep.collectors.exists", text, vec![name]));
        }
        let id_prefix = match spec.id_prefix {
            Some(prefix) => prefix,
            None if others.iter().all(|other| other.kind != spec.kind || !other.id_prefix.is_empty()) => String::new(),
            None => format!("{name}:"),
        };
        check_prefix(&id_prefix, &others)?;
        let mut collector = Collector {
            kind: spec.kind,
            address: url.as_str().trim_end_matches('/').to_owned(),
            user: spec.user,
            thumbprint,
            id_prefix,
            source_id: None,
            product: None,
            created_ms: times::now_ms(),
            password: String::new(),
            name,
        };
        if let Some(same) = others.iter().find(|other| other.address == collector.address) {
            let text = format!("{} is collected by {} already", collector.address, same.name);
            let args = vec![same.name.clone()];
            return Err(Error::new(ErrorKind::AlreadyExists, "lockstep.collectors.same_source", text, args));
        }
        let mut there = source(&collector, spec.password.clone()).enter().await.map_err(|error| refused(&error))?;
        collector.source_id = there.about.instance.clone();
        collector.product = Some(there.about.product.clone());
        // It ends by itself otherwise.
        let _ = there.logout().await;
        collector.password = self.sealer.seal(&purpose(&collector.name), &spec.password).map_err(|error| {
            tracing::error!(%error, "a password cannot be sealed");
            Error::internal()
        })?;
        let id = resource(&collector.name);
        let created = self.site.create_document(context.caller.name(), id, &collector.to_document()).await;
        created.map_err(WriteError::into_error)?;
        let name = collector.name.clone();
        self.launch(collector, Ok(spec.password));
        Ok(name)
    }

    async fn delete(&self, context: &Context, input: DeleteInput) -> Result<(), Error> {
        let _turn = self.changing.lock().await;
        let live = match self.find(&input.collector) {
            // A host that this server does not collect is stored, and nothing else.
            Err(_) if input.collector == HOST_NAME && self.is_stored(HOST_NAME) => None,
            found => Some(found?),
        };
        let host = live.as_ref().and_then(|live| live.host.clone());
        if let Some((account, silent)) = host.as_ref().and_then(|host| host.keeper()) {
            let silent_s = silent.as_secs();
            let text = format!("its agent (account {account}) was heard {silent_s} seconds ago: end that first");
            let kind = ErrorKind::NotAllowedInCurrentState;
            return Err(Error::new(kind, "lockstep.collectors.kept", text, vec![input.collector]));
        }
        if host.is_none() && live.as_ref().is_some_and(|live| live.collector.kind == Kind::Host) {
            let text = "this server collects its host: start it with --no-collect-host to end that";
            let kind = ErrorKind::NotAllowedInCurrentState;
            return Err(Error::new(kind, "lockstep.collectors.host", text, vec![input.collector]));
        }
        if let Some(live) = live {
            live.stop.send_replace(true);
            live.ended().await;
        }
        let id = resource(&input.collector);
        if input.purge == Some(true) {
            let author = author(&input.collector);
            let detached = tags::detach(&self.site, &author, &id).await;
            detached.map_err(|error| commit_error(&error))?;
            let deleted = collected::delete_where(&self.site, &author, &id, |_| true).await;
            deleted.map_err(|error| commit_error(&error))?;
        }
        let deleted = self.site.delete_resource(context.caller.name(), id, None, false).await;
        match deleted {
            Ok(_) | Err(WriteError::NotFound(_)) => {}
            Err(error) => return Err(error.into_error()),
        }
        self.live.lock().remove(&input.collector);
        Ok(())
    }

    fn is_stored(&self, name: &str) -> bool {
        self.site.view().modified(&resource(name)).is_some()
    }

    /// The collector of that name that is at work.
    pub(crate) fn collector(&self, name: &str) -> Option<Collector> {
        self.live.lock().get(name).map(|live| live.collector.clone())
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<Live>, Error> {
        self.live.lock().get(name).cloned().ok_or_else(|| {
            let text = format!("no collector {name:?}");
            Error::not_found("lockstep.collectors.not_found", text, vec![name.to_owned()])
        })
    }

    fn list(&self) -> Vec<Info> {
        let all: Vec<Arc<Live>> = self.live.lock().values().cloned().collect();
        all.iter().map(|live| self.info(live)).collect()
    }

    fn info(&self, live: &Live) -> Info {
        let moment = live.status.moment();
        let id = resource(&live.collector.name);
        let (resources, product) = {
            let view = self.site.view();
            let count = |def: &Arc<lockstep_model::TypeDef>| {
                let kept = view.referring(def.name.as_str(), COLLECTED_BY, &id).len();
                (kept > 0).then(|| Count { resource_type: def.name.to_string(), count: long(kept) })
            };
            let product = view.get(&id).and_then(|stored| Collector::from_document(&id.id, &stored.document)?.product);
            (view.registry().types().filter_map(count).collect(), product)
        };
        let silent = live.host.as_ref().filter(|host| host.keeper().is_none()).map(|host| {
            let collector = &live.collector;
            hosts::silence(&collector.name, &collector.user, host.silent())
        });
        let phase = match moment.phase {
            _ if silent.is_some() => Phase::Failed,
            status::Phase::Connecting => Phase::Connecting,
            status::Phase::Reading => Phase::Reading,
            status::Phase::Following => Phase::Following,
            status::Phase::Failed => Phase::Failed,
        };
        let since = |ms: i64| (times::now_ms() - ms).max(0) / 1000;
        let hidden = moment.hidden.into_iter().map(|(hidden, objects)| Hidden {
            object_type: hidden.kind,
            property: hidden.path,
            privilege: hidden.why,
            objects: long(objects),
        });
        Info {
            collector: live.collector.name.clone(),
            kind: live.collector.kind,
            address: live.collector.address.clone(),
            user: live.collector.user.clone(),
            ssl_thumbprint: live.collector.thumbprint.map(|thumbprint| thumbprint.to_string()),
            id_prefix: live.collector.id_prefix.clone(),
            product,
            created: times::date_time(live.collector.created_ms),
            phase,
            completed_work: long(moment.done),
            total_work: long(moment.total),
            confirmed: moment.confirmed_ms.map(times::date_time),
            lag_s: moment.confirmed_ms.map(|ms| if phase == Phase::Following { 0 } else { since(ms) }),
            read_ms: moment.read_ms.map(long),
            resources,
            hidden: hidden.collect(),
            left_alone: long(moment.taken + moment.misfits),
            error: silent.or(moment.error),
        }
    }
}

impl Live {
    /// Waits for the end of the task that was told to stop.
    async fn ended(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            // It fails only when it panicked, and then it has ended, too.
            let _ = task.await;
        }
    }
}

/// The name that a collector's commits carry.
pub(crate) fn author(name: &str) -> Arc<str> {
    format!("lockstep/collect/{name}").into()
}

pub(crate) fn source(collector: &Collector, password: Secret) -> Source {
    Source {
        address: collector.address.clone(),
        user: collector.user.clone(),
        password,
        trust: collector.thumbprint.map_or(Trust::System, Trust::Thumbprint),
    }
}

fn long(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

fn invalid(field: &str, message: &str) -> Error {
    Error::invalid_argument(format!("lockstep.collectors.{field}"), &format!("spec.{field}"), message)
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let is_name = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if is_name {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(invalid(
        "name",
        &format!("{shown:?} is no name: letters, digits, dots and dashes, {NAME_BYTES_MAX} bytes at the most"),
    ))
}

/// Ids of two sources must differ: no prefix may begin another, but for the empty one, behind which no id has a colon.
fn check_prefix(prefix: &str, others: &[Collector]) -> Result<(), Error> {
    let is_prefix = prefix.is_empty()
        || prefix.len() <= PREFIX_BYTES_MAX
            && prefix.ends_with(':')
            && !prefix.contains('~')
            && !prefix.chars().any(char::is_control);
    if !is_prefix {
        let message =
            format!("it must be empty, or end with a colon and have no ~, {PREFIX_BYTES_MAX} bytes at the most");
        return Err(invalid("id_prefix", &message));
    }
    let is_same = |other: &&Collector| other.kind == Kind::Vcenter && other.id_prefix == prefix;
    if let Some(other) = others.iter().find(is_same) {
        let message = format!("the ids of collector {} begin with {prefix:?} already", other.name);
        return Err(invalid("id_prefix", &message));
    }
    Ok(())
}

/// The error of the contract for a source that cannot be entered.
fn refused(error: &CollectError) -> Error {
    let message = error.message();
    let kind = match error {
        CollectError::Address(_) | CollectError::LoginRefused { .. } => ErrorKind::InvalidArgument,
        CollectError::Peer(ClientError::Untrusted { .. }) => ErrorKind::UnverifiedPeer,
        CollectError::Peer(_)
        | CollectError::Broken { .. }
        | CollectError::Foreign { .. }
        | CollectError::SessionEnded
        | CollectError::Denied { .. }
        | CollectError::Fault { .. }
        | CollectError::Journal(_)
        | CollectError::Password(_) => ErrorKind::Error,
    };
    let mut refused = Error { kind, messages: vec![message], data: None };
    if let CollectError::Peer(ClientError::Untrusted { thumbprint, .. }) = error {
        refused.data = Some(ErrorData::Certificate { ssl_thumbprint: thumbprint.to_string() });
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_two_collectors_differ() {
        let other = |prefix: &str| Collector {
            name: "a".into(),
            kind: Kind::Vcenter,
            address: String::new(),
            user: String::new(),
            thumbprint: None,
            id_prefix: prefix.into(),
            source_id: None,
            product: None,
            created_ms: 0,
            password: String::new(),
        };
        let others = [other(""), other("fra:")];
        for (prefix, is_free) in [("", false), ("fra:", false), ("ber:", true), ("ber", false), ("b~er:", false)] {
            assert_eq!(check_prefix(prefix, &others).is_ok(), is_free, "{prefix}");
        }
        for (name, is_name) in [("vc.example-1", true), ("", false), ("a/b", false), ("a:b", false)] {
            assert_eq!(check_name(name).is_ok(), is_name, "{name}");
        }
    }
}
