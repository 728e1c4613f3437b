//! The collecting of one source: one path for the first start, a restart, and every repair.
//!
//! ```text
//!            ┌────────────── any error, after a pause ───────────────┐
//!            ▼                                                       │
//!   connect, log in ──► read everything, compare ──► delete what ──► follow
//!                       (pages; only differences     is not there    (waits for updates)
//!                        are written)                any more
//! ```
//! Nothing is remembered of a session that ended: the next one reads the source from the beginning and writes what differs. What the source
//! does not have any more is deleted only after it has told everything; a read that breaks off deletes nothing.
//!
//! # Memory
//! Objects are written as they come, [`BATCH_OBJECTS`] at a time, and an answer is read no faster than that. Kept for the length of a read are
//! the ids of all objects, for a while the folders and clusters, then the pools, and for the length of the session where these stand.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::Trust;
use lockstep_contract::Secret;
use lockstep_model::ResourceId;
use lockstep_site::Site;
use lockstep_site::collected::{self, Incoming, Seen};
use tokio::sync::watch;

use crate::changes::{Batch, Changes, Gone};
use crate::element::Answer;
use crate::error::CollectError;
use crate::object::{Hidden, Ids, Kind, ObjectRef, Update};
use crate::status::Status;
use crate::stored;
use crate::tags::{Tags, is_of_tagging};
use crate::tree::Tree;
use crate::vim::{Asked, Vim};

/// So many objects are written in one commit.
const BATCH_OBJECTS: usize = 250;

/// So many objects are asked for by name in one call.
const OBJECTS_ASKED: usize = 100;

/// How long a source is to wait for something to happen. Each answer, empty or not, confirms what is here.
const WAIT: Duration = Duration::from_secs(20);

/// The pause after an error, doubled with each that follows without a whole read in between.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The pause after a login that was refused: an account is locked soon by those who try.
const PAUSE_LOGIN: Duration = Duration::from_secs(300);

/// How long ending a session may take.
const LOGOUT_MAX: Duration = Duration::from_secs(3);

/// What stands above others: it is read first, so that everything has its parents when it comes.
const CONTAINERS: [&[&str]; 3] =
    [&["Folder", "Datacenter", "ComputeResource", "ClusterComputeResource"], HOSTS, &["ResourcePool"]];

/// Hosts are many and large, and none stands in another.
const HOSTS: &[&str] = &["HostSystem"];

/// A source, and how to get in.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) trust: Trust,
}

impl Source {
    /// Reaches the source and logs in.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn enter(&self) -> Result<Vim, CollectError> {
        let mut vim = Vim::connect(&self.address, self.trust.clone()).await?;
        vim.login(&self.user, &self.password).await?;
        Ok(vim)
    }
}

/// The collecting of one source.
pub(crate) struct Run {
    pub(crate) site: Arc<Site>,
    pub(crate) collector: ResourceId,
    pub(crate) author: Arc<str>,
    pub(crate) source: Source,
    pub(crate) ids: Ids,
    pub(crate) status: Arc<Status>,
}

/// Where a read is.
struct Reading {
    tree: Tree,
    changes: Changes,
    /// Objects that must be read anew.
    again: Vec<ObjectRef>,
    /// Everything that was told, during the first read.
    seen: Option<HashSet<ResourceId>>,
}

impl Run {
    /// Collects until it is told to stop.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.status.moment().confirmed_ms;
            self.status.connecting();
            let Some(error) = self.session(&mut stop).await else { return };
            let message = error.message();
            tracing::warn!(collector = %self.collector.id, error = %message.default_message, "a source is not collected");
            let has_worked = self.status.moment().confirmed_ms != before;
            pause = match &error {
                CollectError::LoginRefused { .. } | CollectError::Password(_) => PAUSE_LOGIN,
                _ if has_worked => PAUSE_MIN,
                _ => (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX),
            };
            self.status.failed(message.clone());
            // An end of a session or a connection that is mended at once is no news.
            if !has_worked || !matches!(error, CollectError::SessionEnded | CollectError::Broken { .. }) {
                stored::write_status(&self.site, &self.author, &self.collector, Some(&message)).await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One session, until an error ends it; `None` when it was told to stop.
    async fn session(&self, stop: &mut watch::Receiver<bool>) -> Option<CollectError> {
        let mut vim = tokio::select! {
            entered = self.source.enter() => match entered {
                Ok(vim) => vim,
                Err(error) => return Some(error),
            },
            _ = stop.wait_for(|stop| *stop) => return None,
        };
        let outcome = tokio::select! {
            outcome = self.collect(&mut vim) => match outcome {
                Ok(never) => match never {},
                Err(error) => Some(error),
            },
            _ = stop.wait_for(|stop| *stop) => None,
        };
        if !matches!(&outcome, Some(CollectError::SessionEnded | CollectError::Broken { .. } | CollectError::Peer(_))) {
            // A session that is left behind ends by itself.
            let _ = tokio::time::timeout(LOGOUT_MAX, vim.logout()).await;
        }
        outcome
    }

    async fn collect(&self, vim: &mut Vim) -> Result<Infallible, CollectError> {
        let began = Instant::now();
        stored::write_about(&self.site, &self.author, &self.collector, &vim.about).await;
        let view = vim.create_view().await?;
        let watcher = vim.create_collector().await?;
        vim.watch(&watcher, &Asked { view: Some(&view), objects: &[], kinds: &[] }).await?;
        // The root is in no view.
        let total = vim.count(&view).await? + 1;
        self.status.reading(total);
        let mut reading = Reading { tree: Tree::default(), changes: Changes::default(), again: Vec::new(), seen: None };
        self.read_containers(vim, &view, &mut reading).await?;
        reading.seen = Some(HashSet::new());
        let mut tags = Tags::default();
        let mut version = String::new();
        loop {
            version = self.chain(vim, &watcher, version, &mut reading).await?;
            let Some(present) = reading.seen.take() else {
                self.status.confirmed();
                self.keep_tags(vim, &mut tags).await?;
                continue;
            };
            let is_gone = |id: &ResourceId| !is_of_tagging(id) && !present.contains(id);
            let deleted = collected::delete_where(&self.site, &self.author, &self.collector, is_gone).await;
            let deleted = deleted.map_err(CollectError::Journal)?;
            let took = began.elapsed();
            tracing::info!(collector = %self.collector.id, objects = present.len(), deleted, ?took, "a source was read");
            self.status.following(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            stored::write_status(&self.site, &self.author, &self.collector, None).await;
            self.keep_tags(vim, &mut tags).await?;
        }
    }

    /// Reads tags when it is time to. A source that does not tell them is collected without; it is shown as hidden.
    async fn keep_tags(&self, vim: &mut Vim, tags: &mut Tags) -> Result<(), CollectError> {
        let seen = match tags.read(vim, &self.source).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(()),
            Err(why) => {
                self.status.hidden([Hidden { kind: "Tag".to_owned(), path: String::new(), why }]);
                return Ok(());
            }
        };
        seen.write(&self.site, &self.author, &self.collector, &self.ids).await.map_err(CollectError::Journal)
    }

    /// Reads what stands above others, and writes it from the top down.
    async fn read_containers(
        &self,
        vim: &mut Vim,
        view: &ObjectRef,
        reading: &mut Reading,
    ) -> Result<(), CollectError> {
        for kinds in CONTAINERS {
            let mut answer = vim.retrieve(&Asked { view: Some(view), objects: &[], kinds }).await?;
            self.take_objects(vim, &mut answer, reading, kinds == HOSTS).await?;
            self.flush(reading).await?;
        }
        Ok(())
    }

    /// Waits for updates, and takes answers until the source has told all that there is for now. Answers the version that is reached.
    async fn chain(
        &self,
        vim: &mut Vim,
        watcher: &ObjectRef,
        mut version: String,
        reading: &mut Reading,
    ) -> Result<String, CollectError> {
        loop {
            let mut answer = vim.updates(watcher, &version, WAIT).await?;
            let mut is_truncated = false;
            while let Some(part) = vim.part(&mut answer).await? {
                match &*part.name {
                    "version" => version = part.text,
                    "truncated" => is_truncated = crate::element::boolean(part.text.trim()).unwrap_or_default(),
                    "objectSet" => {
                        let Some(update) = Update::read(part) else { continue };
                        self.take(reading, update);
                        if reading.changes.len() >= BATCH_OBJECTS {
                            self.flush(reading).await?;
                        }
                    }
                    "missingSet" => {
                        let kind = part.child("obj").and_then(ObjectRef::read).map(|object| object.kind.to_string());
                        let why = part.text_at("fault.fault.privilegeId").unwrap_or("System.View").to_owned();
                        let kind = kind.unwrap_or_default();
                        self.status.hidden([Hidden { kind, path: String::new(), why }]);
                    }
                    _ => {}
                }
            }
            if !is_truncated {
                break;
            }
        }
        self.flush(reading).await?;
        self.read_again(vim, reading).await?;
        let Gone { sure, doubtful } = reading.changes.take_gone();
        let gone = [sure, self.still_missing(vim, reading, doubtful).await?].concat();
        let gone: Vec<ResourceId> = gone.iter().filter_map(|object| self.ids.resource(object)).collect();
        if let Some(seen) = &mut reading.seen {
            for id in &gone {
                seen.remove(id);
            }
        }
        for part in gone.chunks(BATCH_OBJECTS) {
            self.write(part.iter().map(|id| Incoming { id: id.clone(), seen: Seen::Gone }).collect()).await?;
        }
        Ok(version)
    }

    /// Reads objects of which it is not certain whether they are there; answers those that are not.
    async fn still_missing(
        &self,
        vim: &mut Vim,
        reading: &mut Reading,
        doubtful: Vec<ObjectRef>,
    ) -> Result<Vec<ObjectRef>, CollectError> {
        for objects in doubtful.chunks(OBJECTS_ASKED) {
            let mut answer = vim.retrieve(&Asked { view: None, objects, kinds: &[] }).await?;
            self.take_objects(vim, &mut answer, reading, false).await?;
        }
        let entered = reading.changes.take_entered();
        self.flush(reading).await?;
        Ok(doubtful.into_iter().filter(|object| !entered.contains(object)).collect())
    }

    fn take(&self, reading: &mut Reading, update: Update) {
        if let Some(seen) = &mut reading.seen {
            self.status.advance(1);
            if let Some(id) = self.ids.resource(&update.object).filter(|_| update.kind != Kind::Leave) {
                seen.insert(id);
            }
        }
        let hidden = reading.changes.take(&mut reading.tree, update);
        self.status.hidden(hidden);
    }

    /// Writes what has been taken.
    async fn flush(&self, reading: &mut Reading) -> Result<(), CollectError> {
        let batch = reading.changes.batch(&self.site.view(), &self.ids, &reading.tree);
        let Batch { incoming, objects, partial } = batch;
        reading.again.extend(partial);
        let mut incoming = incoming.into_iter().peekable();
        while incoming.peek().is_some() {
            let part: Vec<Incoming> = incoming.by_ref().take(BATCH_OBJECTS).collect();
            let unknown = self.write(part).await?;
            reading.again.extend(unknown.iter().filter_map(|id| objects.get(id).cloned()));
        }
        Ok(())
    }

    /// Reads objects whole of which something was told that means nothing alone.
    async fn read_again(&self, vim: &mut Vim, reading: &mut Reading) -> Result<(), CollectError> {
        let mut again = std::mem::take(&mut reading.again);
        again.sort_by(|a, b| (&a.kind, &a.id).cmp(&(&b.kind, &b.id)));
        again.dedup();
        for objects in again.chunks(OBJECTS_ASKED) {
            let mut answer = vim.retrieve(&Asked { view: None, objects, kinds: &[] }).await?;
            self.take_objects(vim, &mut answer, reading, false).await?;
            self.flush(reading).await?;
        }
        Ok(())
    }

    /// Takes the objects of a retrieval; writes them as they come, or leaves that to whoever asked.
    async fn take_objects(
        &self,
        vim: &mut Vim,
        answer: &mut Answer,
        reading: &mut Reading,
        as_they_come: bool,
    ) -> Result<(), CollectError> {
        loop {
            let mut token = None;
            while let Some(part) = vim.part(answer).await? {
                match &*part.name {
                    "token" => token = Some(part.text),
                    "objects" => {
                        if let Some(update) = Update::read(part) {
                            reading.changes.take(&mut reading.tree, update);
                        }
                    }
                    _ => {}
                }
                if as_they_come && reading.changes.len() >= BATCH_OBJECTS {
                    self.flush(reading).await?;
                }
            }
            match token {
                Some(token) => *answer = vim.retrieve_more(&token).await?,
                None => return Ok(()),
            }
        }
    }

    /// Writes a batch; answers the resources whose whole is needed.
    async fn write(&self, incoming: Vec<Incoming>) -> Result<Vec<ResourceId>, CollectError> {
        if incoming.is_empty() {
            return Ok(Vec::new());
        }
        let written = collected::write(&self.site, &self.author, &self.collector, incoming).await;
        let outcome = written.map_err(CollectError::Journal)?;
        for (id, misfit) in &outcome.misfits {
            tracing::warn!(collector = %self.collector.id, %id, %misfit, "what a source tells does not fit the model");
        }
        self.status.left_alone(&outcome.taken, outcome.misfits.len());
        Ok(outcome.unknown)
    }
}
