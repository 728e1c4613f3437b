//! The site itself: journal, view, and the thread between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockstep_journal::{
    Batch, Commit, CommitError, Complete, Embedded, Engine, JournalError, Origin, ReadError, Replayed,
};
use lockstep_model::{Position, Registry, ResourceId};
use lockstep_query::{Limits, View};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{oneshot, watch};

use crate::accounts::LoginGuard;
use crate::deletions::Deletions;
use crate::epochs::Epochs;
use crate::sessions::{SessionLimits, Sessions};
use crate::stamps;

/// How long the applying thread waits for commits before it looks whether it should stop.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(1);

/// How a site is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, for people and links.
    pub name: String,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// The embedded journal.
    pub journal: lockstep_journal::Config,
    /// What queries may ask at most.
    pub query_limits: Limits,
    /// How long sessions last.
    pub sessions: SessionLimits,
    /// Resource types whose net change between epochs can be asked for ([`Site::net_change`]).
    pub epoch_types: Vec<String>,
}

/// Why a site cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal cannot.
    #[error("cannot open the journal")]
    Journal(#[from] JournalError),
    /// The journal opened, and failed at once.
    #[error("cannot follow the journal")]
    Read(#[from] ReadError),
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// How far the site is: what long calls wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The position that the view has reached.
    pub position: Position,
    /// Whether the server is stopping: who waits answers with what there is.
    pub is_stopping: bool,
}

/// A site.
pub struct Site {
    /// How it was set up.
    pub config: Config,
    /// Who is logged in.
    pub sessions: Sessions,
    pub(crate) logins: LoginGuard,
    /// Held from the look at the view to the commit by edits of tagging whose preconditions cannot tell of each other: for reading by
    /// whoever attaches and detaches tags, alone by whoever changes or deletes tags and categories. Edits of one site come
    /// through one server; what another process wrote to the journal, it would not hold back.
    pub tagging: tokio::sync::RwLock<()>,
    engine: Arc<dyn Engine>,
    /// Written by the applying thread alone, for one commit at a time.
    view: RwLock<View>,
    progress: watch::Sender<Progress>,
    /// Goes with the view: written while the view is locked for writing.
    deletions: Mutex<Deletions>,
    /// Goes with the view, too. Whoever locks both locks the view first.
    pub(crate) epochs: Mutex<Epochs>,
}

impl Site {
    /// Opens the embedded journal, builds the view from it, and starts to follow.
    ///
    /// Takes some seconds for a million resources. `progress` hears how many resources have been read.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: Config, progress: &mut dyn FnMut(u64)) -> Result<Arc<Self>, OpenError> {
        let mut view = View::new(Registry::new());
        let deletions_max = usize::try_from(config.journal.retention.deletions_max).unwrap_or(usize::MAX);
        let mut deletions = Deletions::new(deletions_max);
        let mut epochs = Epochs::new(&config.epoch_types, deletions_max);
        let mut complete = Complete::default();
        let mut read = 0u64;
        let engine = Embedded::open(&config.data_dir.join("journal"), config.journal.clone(), &mut |replayed| {
            match replayed {
                Replayed::Entry(entry) => {
                    view.load(&entry);
                    epochs.load(&entry);
                    read += 1;
                }
                Replayed::Tombstone(tombstone) => {
                    epochs.load_tombstone(&tombstone);
                    deletions.load(tombstone);
                    read += 1;
                }
                Replayed::Commit(commit) => {
                    deletions.apply(&commit);
                    epochs.apply(&commit, &view);
                    view.apply(&commit);
                    read += commit.changes.len() as u64;
                }
                Replayed::Complete(found) => complete = found,
            }
            if read.is_multiple_of(1 << 14) {
                progress(read);
            }
        })?;
        let head = engine.head();
        view.set_position(head);
        deletions.settle(complete.since);
        epochs.settle(complete, engine.closed_s());
        let site = Arc::new(Self {
            sessions: Sessions::new(config.sessions),
            logins: LoginGuard::default(),
            tagging: tokio::sync::RwLock::default(),
            config,
            engine: Arc::new(engine),
            view: RwLock::new(view),
            progress: watch::Sender::new(Progress { position: head, is_stopping: false }),
            deletions: Mutex::new(deletions),
            epochs: Mutex::new(epochs),
        });
        site.clone().follow(head)?;
        Ok(site)
    }

    /// Starts the thread that applies commits to the view.
    fn follow(self: Arc<Self>, after: Position) -> Result<(), OpenError> {
        let mut follower = self.engine.follow(after)?;
        // The thread must not keep the site alive: a site that nobody holds stops.
        let weak = Arc::downgrade(&self);
        let run = move || {
            loop {
                let commits = match follower.next(FOLLOW_TIMEOUT) {
                    Ok(commits) => commits,
                    Err(error) => {
                        // The view would fall behind in silence: better to stop, and start again from the journal.
                        tracing::error!(%error, "cannot follow the journal; stopping");
                        std::process::abort();
                    }
                };
                let Some(site) = weak.upgrade() else { return };
                commits.iter().for_each(|commit| site.apply(commit));
            }
        };
        std::thread::Builder::new().name("apply".to_owned()).spawn(run).map_err(OpenError::Thread)?;
        Ok(())
    }

    fn apply(&self, commit: &Arc<Commit>) {
        {
            let mut view = self.view.write();
            self.epochs.lock().apply(commit, &view);
            view.apply(commit);
            self.deletions.lock().apply(commit);
        }
        self.progress.send_modify(|progress| progress.position = commit.position);
    }

    /// The state, for as long as the guard lives: keep it short, and never across an `await`.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read()
    }

    /// What was deleted after `after`, as of the view; `None` when that is not known any more.
    pub fn deleted_since(&self, _: &View, after: Position) -> Option<Vec<ResourceId>> {
        self.deletions.lock().after(after)
    }

    /// Every deletion that is remembered, as of the view, the oldest first.
    pub fn remembered_deletions(&self, _: &View) -> Vec<ResourceId> {
        self.deletions.lock().all()
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Which log this is.
    pub fn origin(&self) -> Origin {
        self.engine.origin()
    }

    /// The position that reads are answered at.
    pub fn position(&self) -> Position {
        self.progress.borrow().position
    }

    /// Tells when the view has reached a further position, and when the server stops.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Ends when the site stops.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut progress = self.progress();
        // A site that is gone has stopped.
        async move { drop(progress.wait_for(|now| now.is_stopping).await) }
    }

    /// Waits until the view has reached `position`. A site that is going never reaches it.
    pub(crate) async fn reach(&self, position: Position) -> Result<(), CommitError> {
        let mut progress = self.progress();
        progress.wait_for(|p| p.position >= position).await.map(|_| ()).map_err(|_| CommitError::Closed)
    }

    /// Wakes everyone who waits: the server is about to stop.
    pub fn begin_stop(&self) {
        self.progress.send_modify(|progress| progress.is_stopping = true);
    }

    /// Whether the view has reached the journal's end.
    pub fn is_ready(&self) -> bool {
        self.position() >= self.engine.head()
    }

    /// Commits the batch, and waits until the view has reached it.
    ///
    /// # Errors
    /// [`CommitError`]; nothing of the batch is visible then.
    pub async fn commit(&self, batch: Batch) -> Result<Position, CommitError> {
        self.begin_commit(batch).await
    }

    /// Commits a batch that brings along what there is to know of its edits of tagging ([`stamps`]), or makes none.
    ///
    /// # Errors
    /// As [`Site::commit`].
    pub async fn commit_stamped(&self, batch: Batch) -> Result<Position, CommitError> {
        let position = self.hand_over(batch).await?;
        self.reach(position).await?;
        Ok(position)
    }

    /// Hands the batch to the journal at once, before the answer is awaited: batches handed over in an order are committed in it.
    pub(crate) fn begin_commit(&self, batch: Batch) -> impl Future<Output = Result<Position, CommitError>> + Send {
        let durable = self.submit(batch);
        async move {
            let position = durable.await?;
            self.reach(position).await?;
            Ok(position)
        }
    }

    /// As [`Site::begin_commit`], without waiting for the view: for who has something to do meanwhile.
    pub(crate) fn submit(
        &self,
        mut batch: Batch,
    ) -> impl Future<Output = Result<Position, CommitError>> + Send + use<> {
        stamps::track(self, &mut batch);
        self.hand_over(batch)
    }

    fn hand_over(&self, batch: Batch) -> impl Future<Output = Result<Position, CommitError>> + Send + use<> {
        let (send, receive) = oneshot::channel();
        let done = move |result| {
            // Nobody waits for it when the caller hung up; the commit stands all the same.
            let _ = send.send(result);
        };
        self.engine.submit(batch, Box::new(done));
        async move { receive.await.map_err(|_| CommitError::Closed)? }
    }

    /// Refuses further writes and finishes those under way.
    pub fn close(&self) {
        self.engine.close();
    }
}
