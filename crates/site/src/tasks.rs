//! Tasks: whatever takes long answers one at once, and goes on by itself.
//!
//! ```text
//!   begin ──► RUNNING ──┬── the work ends well ───► SUCCEEDED ──┐
//!               ▲       ├── the work fails ───────► FAILED ─────┼── after a while ──► removed
//!               │       ├── cancelled ────────────► FAILED ─────┤
//!               │       └── the server ends ──┐                 │
//!   resumed ────┴───────── at the next start ─┴── not resumed ─► FAILED
//! ```
//! # Promises
//! * A task is a resource from before it is answered to whoever asked: it is queried and watched like any, and no restart loses it.
//! * It has one writer. Progress only grows, and is written at most twice a second, whatever the work says.
//! * At a start, what was running goes on by whoever has said that it can take up that kind ([`Tasks::resume`]), or has failed with the reason.
//! * A cancelled work is told so, and has [`CANCEL_GRACE`] to put things in order. Then it is dropped.
//! * A panic of the work is a failure of its task and of nothing else.
//!
//! # Limits
//! [`RUNNING_MAX`] at a time; [`Limits::ended_max`] that have ended, for [`Limits::kept`]; [`LOG_LINES_MAX`] lines, [`WARNINGS_MAX`]
//! warnings, texts of [`TEXT_BYTES_MAX`]. What is more is cut: of lines the oldest.

mod handle;
mod operations;
mod record;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::replication::codes;
use lockstep_contract::services::tasks::{self as declared, State};
use lockstep_contract::{Data, Error, ErrorKind};
use lockstep_model::{Document, ResourceId, Value, builtin};
use parking_lot::Mutex;
use tracing::Instrument as _;

pub use handle::Handle;
pub use operations::page;
pub use record::{Asked, Record, error_of, error_value};

use crate::table::Table;
use crate::{Site, WriteError, times, uuid};

/// The author of what is written for tasks.
const AUTHOR: &str = "lockstep/tasks";

/// Most tasks that run at a time; beyond it nothing long can be asked for.
pub const RUNNING_MAX: usize = 2000;

/// Most lines of a log that are kept.
pub const LOG_LINES_MAX: usize = 100;

/// Most warnings of a task.
pub const WARNINGS_MAX: usize = 20;

/// Longest line, warning or message, in bytes.
pub const TEXT_BYTES_MAX: usize = 2000;

/// Longest result, in bytes of JSON.
pub const RESULT_BYTES_MAX: usize = 256 << 10;

/// How long a cancelled work has to put things in order.
pub const CANCEL_GRACE: Duration = Duration::from_secs(30);

/// Least time between two writes of a running task.
const WRITE_PAUSE: Duration = Duration::from_millis(500);

/// How often ended tasks are looked through for those that were kept long enough.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// How long tasks are kept after their end.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For so long.
    pub kept: Duration,
    /// And at most so many; the oldest go first.
    pub ended_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { kept: Duration::from_secs(7 * 24 * 3600), ended_max: 10_000 }
    }
}

/// What a work comes to when it goes well.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Done {
    /// What kind of result there is.
    pub result_type: Option<String>,
    /// The result.
    pub result: Option<Data>,
}

/// A work under way.
pub type Work = Pin<Box<dyn Future<Output = Result<Done, Error>> + Send>>;

/// Takes up a task of a kind that was running when the server ended; `None` when it cannot.
pub type Resume = Arc<dyn Fn(Record, Handle) -> Option<Work> + Send + Sync>;

/// The tasks of a site.
pub struct Tasks {
    site: Arc<Site>,
    limits: Limits,
    /// Who takes up which kind after a restart. Held for a look-up.
    kinds: Mutex<HashMap<&'static str, Resume>>,
    /// Those that run. Held for a look-up.
    running: Mutex<HashMap<String, Handle>>,
}

impl Tasks {
    /// The tasks of a site. Nothing is done about those that were running before [`Tasks::start`].
    pub fn new(site: Arc<Site>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { site, limits, kinds: Mutex::default(), running: Mutex::default() })
    }

    /// Registers the operations.
    pub fn register(self: &Arc<Self>, table: &mut Table) {
        operations::register(self, table);
    }

    /// Says who takes up tasks of a kind after a restart. To be called before [`Tasks::start`].
    pub fn resume(&self, kind: &'static str, resume: Resume) {
        self.kinds.lock().insert(kind, resume);
    }

    /// Looks after the tasks that were running when the server ended, and from now on removes those that were kept long enough.
    pub async fn start(self: &Arc<Self>) {
        for mut record in self.records().into_iter().filter(|record| record.state == State::Running) {
            let handle = Handle::new(&record);
            let kind = self.kinds.lock().get(&*record.asked.kind).cloned();
            let work = kind.and_then(|resume| resume(record.clone(), handle.clone()));
            match work {
                Some(work) => {
                    tracing::info!(task = %record.id, kind = %record.asked.kind, "a task goes on");
                    handle.log("goes on after a restart of the server");
                    self.drive(record, handle, work);
                }
                None => {
                    tracing::warn!(task = %record.id, kind = %record.asked.kind, "a task was interrupted");
                    let error = Error::new(
                        ErrorKind::Error,
                        "lockstep.tasks.interrupted",
                        "interrupted by a restart of the server",
                        Vec::new(),
                    );
                    record.end(Err(error));
                    self.write(&record).await;
                }
            }
        }
        let tasks = self.clone();
        tokio::spawn(async move {
            let stopping = tasks.site.stopping();
            let work = async {
                loop {
                    tasks.sweep().await;
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                }
            };
            tokio::select! {
                () = stopping => {}
                () = work => {}
            }
        });
    }

    /// Begins a task: it is there when this answers.
    ///
    /// # Errors
    /// `service_unavailable` when too many run, and what hinders a write.
    pub async fn begin<R>(
        self: &Arc<Self>,
        asked: Asked,
        work: impl FnOnce(Handle) -> R,
    ) -> Result<declared::Task, Error>
    where
        R: Future<Output = Result<Done, Error>> + Send + 'static,
    {
        self.begin_as(uuid::random()?, asked, work).await
    }

    /// As [`Tasks::begin`], with an id that the caller has made: for who must tell others of the task before it is there.
    ///
    /// # Errors
    /// As [`Tasks::begin`].
    pub async fn begin_as<R>(
        self: &Arc<Self>,
        id: String,
        asked: Asked,
        work: impl FnOnce(Handle) -> R,
    ) -> Result<declared::Task, Error>
    where
        R: Future<Output = Result<Done, Error>> + Send + 'static,
    {
        if self.running.lock().len() >= RUNNING_MAX {
            let message = format!("{RUNNING_MAX} tasks are running: try again when some have ended");
            return Err(Error::new(ErrorKind::ServiceUnavailable, "lockstep.tasks.busy", message, Vec::new()));
        }
        let record = Record::new(id, asked);
        let id = ResourceId::new(builtin::TASK, &*record.id);
        self.site.create_document(AUTHOR.into(), id, &record.to_document()).await.map_err(WriteError::into_error)?;
        let handle = Handle::new(&record);
        let task = record.to_task();
        let work = work(handle.clone());
        self.drive(record, handle, Box::pin(work));
        Ok(task)
    }

    /// Runs a work to its end, and writes down how it goes.
    fn drive(self: &Arc<Self>, mut record: Record, handle: Handle, work: Work) {
        self.running.lock().insert(record.id.clone(), handle.clone());
        let span = tracing::info_span!("task", task = %record.id, kind = %record.asked.kind,
            id = record.asked.operation_id.as_deref());
        let tasks = self.clone();
        let run = async move {
            let mut job = tokio::spawn(work.in_current_span());
            let outcome = loop {
                tokio::select! {
                    ended = &mut job => break ended,
                    () = handle.overdue(CANCEL_GRACE) => {
                        job.abort();
                        break job.await;
                    }
                    () = handle.changed() => {
                        handle.read_into(&mut record);
                        tasks.write(&record).await;
                        tokio::select! {
                            ended = &mut job => break ended,
                            () = tokio::time::sleep(WRITE_PAUSE) => {}
                        }
                    }
                }
            };
            let outcome = match outcome {
                Ok(Err(_)) | Err(_) if handle.is_cancelled() => Err(cancelled()),
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::error!(%error, "a task panicked: this is a defect");
                    Err(Error::internal())
                }
            };
            match &outcome {
                Ok(_) => tracing::info!("succeeded"),
                Err(error) => tracing::warn!(error = %error, code = codes::code(error).1, "failed"),
            }
            handle.read_into(&mut record);
            record.end(outcome);
            tasks.write(&record).await;
            tasks.running.lock().remove(&record.id);
        };
        tokio::spawn(run.instrument(span));
    }

    async fn write(&self, record: &Record) {
        let id = ResourceId::new(builtin::TASK, &*record.id);
        match self.site.write_document(AUTHOR.into(), id, record.to_document(), None).await {
            Ok(_) => {}
            // At the next start it is running still, and dealt with then.
            Err(error) => tracing::warn!(%error, task = %record.id, "a task was not written down"),
        }
    }

    /// Asks a task to end; `false` when it has ended.
    pub fn cancel(&self, id: &str) -> bool {
        let handle = self.running.lock().get(id).cloned();
        handle.as_ref().inspect(|handle| handle.cancel()).is_some()
    }

    /// Waits until a task has ended, and answers it.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn ended(&self, id: &str) -> Result<declared::Task, Error> {
        let mut progress = self.site.progress();
        loop {
            // Before the task is looked at: what is said from here on wakes.
            let is_stopping = progress.borrow_and_update().is_stopping;
            let task = self.get(id)?;
            if task.state != State::Running || is_stopping {
                return Ok(task);
            }
            if progress.changed().await.is_err() {
                return Ok(task);
            }
        }
    }

    /// A task.
    ///
    /// # Errors
    /// `not_found`.
    pub fn get(&self, id: &str) -> Result<declared::Task, Error> {
        self.record(id).map(|record| record.to_task())
    }

    fn record(&self, id: &str) -> Result<Record, Error> {
        let missing = || {
            let message = format!("there is no task {id:?}, or not any more");
            Error::not_found(codes::TASK_NOT_FOUND, message, vec![id.to_owned()])
        };
        let stored = self.site.view().get(&ResourceId::new(builtin::TASK, id)).ok_or_else(missing)?;
        Ok(Record::from_document(id, &stored.document))
    }

    fn records(&self) -> Vec<Record> {
        let view = self.site.view();
        let read = |id: ResourceId| Some(Record::from_document(&id.id, &view.get(&id)?.document));
        view.ids(builtin::TASK, None).filter_map(read).collect()
    }

    /// Removes what was kept long enough, and the oldest of too many.
    async fn sweep(&self) {
        let oldest = times::now_ms() - i64::try_from(self.limits.kept.as_millis()).unwrap_or(i64::MAX);
        let mut ended: Vec<(i64, String)> = {
            let view = self.site.view();
            let read = |id: ResourceId| {
                let document: Document = view.get(&id)?.document;
                let at = document.get("end_time").and_then(Value::as_str).and_then(times::read_ms)?;
                Some((at, String::from(id.id)))
            };
            view.ids(builtin::TASK, None).filter_map(read).collect()
        };
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(self.limits.ended_max);
        let goes = |(at, (end, _)): &(usize, (i64, String))| *at < too_many || *end < oldest;
        for (_, (_, id)) in ended.into_iter().enumerate().filter(goes) {
            let id = ResourceId::new(builtin::TASK, id);
            match self.site.delete_resource(AUTHOR.into(), id, None, false).await {
                Ok(_) | Err(WriteError::NotFound(_)) => {}
                Err(error) => return tracing::warn!(%error, "old tasks were not removed"),
            }
        }
    }
}

/// The error of a task that was cancelled.
pub fn cancelled() -> Error {
    Error::new(ErrorKind::Canceled, "lockstep.tasks.canceled", "the task was cancelled", Vec::new())
}

#[cfg(test)]
mod tests;
