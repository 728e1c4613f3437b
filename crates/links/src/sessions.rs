//! What is known of one provider of one link: the last sync, the one under way, the forced one.
//!
//! ```text
//!   start ──► WAITING ──► CHANGE_DETECTION ──► CHANGE_ENUMERATION ──► CHANGE_APPLICATION ──► COMPLETED
//!                │               │                     │                      │
//!                └───────────────┴─────────────────────┴──────────────────────┴──► FAILED
//! ```
//! Only a forced sync is a session; the last one is kept until the next, or a reset. A sync in the background goes the same way and shows
//! in the outcome alone.
//!
//! It is kept in memory, which is what is answered, and written down when a session is made, moves or ends, when the outcome changes,
//! and otherwise at most every [`WRITTEN_EVERY`]: a site that changes all the time would fill the log with times of syncs. A session
//! that was under way when the server died is FAILED at the next start; what it had written stands, and the background goes on there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_contract::services::links::providers::{
    Info, Outcome, RunningStage, SessionInfo, SessionState, Stage as WireStage, Status,
};
use lockstep_contract::{DateTime, Error, ErrorKind, Message};
use lockstep_model::{Document, Value};
use lockstep_site::{Site, WriteError};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::link::{message_at, message_value};
use crate::provider::{AUTHOR, LinkId, Progress, Stage, SyncError, SyncProvider};
use lockstep_site::times;

/// How often times of syncs are written down when nothing else changes.
pub(crate) const WRITTEN_EVERY: Duration = Duration::from_secs(10);

/// Tries to write against somebody who writes the same, which only a deletion or a reset does.
const TRIES_MAX: usize = 4;

/// A forced sync.
#[derive(Debug, Clone, PartialEq)]
struct Session {
    start: DateTime,
    state: SessionState,
    completed: i64,
    total: i64,
}

/// A run under way.
struct Running {
    since: Instant,
    since_ms: i64,
    progress: watch::Receiver<Progress>,
}

#[derive(Default)]
struct State {
    last_sync: Option<DateTime>,
    outcome: Outcome,
    session: Option<Session>,
    running: Option<Running>,
    is_following: bool,
    /// When what is here was the other site's state for certain, in milliseconds since 1970.
    in_step_ms: Option<i64>,
    /// Units a second of the last run that did something.
    rate: Option<f64>,
    /// When the state was written, and whether it has changed since.
    written: Option<Instant>,
    is_dirty: bool,
}

/// One provider of one link.
pub(crate) struct Sync {
    pub(crate) link: LinkId,
    pub(crate) provider: Arc<dyn SyncProvider>,
    /// Rung when there is something to do: a forced sync, or a link that has become well.
    pub(crate) wake: Notify,
    /// Held to read or change it, never across an await.
    state: Mutex<State>,
}

/// What is known of the run under way or the last one, for people.
pub(crate) struct Pace {
    pub(crate) running: Option<WireStage>,
    pub(crate) completed: i64,
    pub(crate) total: i64,
    pub(crate) rate: Option<f64>,
    pub(crate) is_following: bool,
    pub(crate) lag_s: Option<i64>,
}

fn long(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn running_stage(stage: Option<Stage>) -> RunningStage {
    match stage {
        None => RunningStage::Waiting,
        Some(Stage::ChangeDetection) => RunningStage::ChangeDetection,
        Some(Stage::ChangeEnumeration) => RunningStage::ChangeEnumeration,
        Some(Stage::ChangeApplication) => RunningStage::ChangeApplication,
    }
}

impl Session {
    fn info(&self) -> SessionInfo {
        SessionInfo::new(self.start.clone(), self.state.clone(), self.completed, self.total)
    }

    fn is_running(&self) -> bool {
        matches!(self.state, SessionState::Running(_))
    }

    fn take(&mut self, progress: Progress) {
        self.state = SessionState::Running(running_stage(progress.stage));
        self.completed = self.completed.max(long(progress.completed));
        self.total = self.total.max(long(progress.total)).max(self.completed);
    }
}

impl State {
    fn session_now(&self) -> Option<Session> {
        let mut session = self.session.clone()?;
        if let (true, Some(running)) = (session.is_running(), &self.running) {
            session.take(*running.progress.borrow());
        }
        Some(session)
    }
}

impl Sync {
    /// A provider of a link as it was written down last, or as it is at first.
    pub(crate) fn read(site: &Site, link: &LinkId, provider: Arc<dyn SyncProvider>) -> Self {
        let stored = site.view().get(&link.provider(provider.name()));
        let state = stored.map(|stored| read_state(&stored.document)).unwrap_or_default();
        Self { link: link.clone(), provider, wake: Notify::new(), state: Mutex::new(state) }
    }

    /// Makes a session, and wakes who runs it.
    ///
    /// # Errors
    /// `resource_busy` while a sync is under way.
    pub(crate) fn start(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.running.is_some() || state.session.as_ref().is_some_and(Session::is_running) {
            let name = self.provider.name();
            let message = format!("a sync of {name} is under way");
            let args = vec![self.link.to_string(), name.to_owned()];
            return Err(Error::new(ErrorKind::ResourceBusy, "lockstep.sync.busy", message, args));
        }
        state.session = Some(Session {
            start: times::date_time(times::now_ms()),
            state: SessionState::Running(RunningStage::Waiting),
            completed: 0,
            total: 0,
        });
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// What the contract shows.
    pub(crate) fn info(&self) -> Info {
        let state = self.state.lock();
        let interval_s = long(self.provider.polling_interval().as_secs());
        let session = state.session_now().map(|session| session.info());
        Info::new(state.last_sync.clone(), state.outcome.clone(), interval_s, session)
    }

    /// What people are shown besides.
    pub(crate) fn pace(&self) -> Pace {
        let state = self.state.lock();
        let progress = state.running.as_ref().map(|running| (*running.progress.borrow(), running.since.elapsed()));
        let lag_s = match (state.is_following, state.in_step_ms) {
            (true, _) => Some(0),
            (false, Some(at)) => Some((times::now_ms() - at).max(0) / 1000),
            (false, None) => None,
        };
        let (done, took) = progress.unwrap_or_default();
        let running = progress.map(|(now, _)| {
            let state = SessionState::Running(running_stage(now.stage));
            SessionInfo::new(times::date_time(0), state, 0, 0).stage
        });
        Pace {
            running,
            completed: long(done.completed),
            total: long(done.total),
            rate: rate(done.completed, took).or(state.rate),
            is_following: state.is_following,
            lag_s,
        }
    }

    /// A run begins. Answers whether it is worth writing down.
    pub(crate) fn begin(&self, progress: watch::Receiver<Progress>) -> bool {
        let mut state = self.state.lock();
        let now_ms = times::now_ms();
        let is_first = state.last_sync.is_none();
        state.last_sync = Some(times::date_time(now_ms));
        state.running = Some(Running { since: Instant::now(), since_ms: now_ms, progress });
        state.is_dirty = true;
        is_first || state.session.as_ref().is_some_and(Session::is_running)
    }

    /// The session takes what the run has done. Answers whether that is new.
    pub(crate) fn step(&self) -> bool {
        let mut state = self.state.lock();
        let now = state.session_now();
        let is_new = now != state.session;
        state.session = now;
        is_new
    }

    /// The run has ended. Answers whether that must be written down now.
    pub(crate) fn end(&self, result: &Result<(), SyncError>, domain: &str) -> bool {
        let mut state = self.state.lock();
        let mut session = state.session_now();
        let Some(running) = state.running.take() else { return false };
        let done = *running.progress.borrow();
        state.rate = rate(done.completed, running.since.elapsed()).or(state.rate);
        let outcome = match result {
            Ok(()) => Outcome::Succeeded,
            Err(error) => Outcome::Failed(error.message(domain)),
        };
        if result.is_ok() {
            state.in_step_ms = Some(running.since_ms);
        }
        let is_session = session.as_ref().is_some_and(Session::is_running);
        if let Some(session) = session.as_mut().filter(|session| session.is_running()) {
            let now = times::date_time(times::now_ms());
            session.state = match &outcome {
                Outcome::Failed(why) => SessionState::Failed(now, why.clone()),
                Outcome::Succeeded | Outcome::NoSyncFound => SessionState::Completed(now),
            };
        }
        state.session = session;
        let is_new = outcome != state.outcome;
        state.outcome = outcome;
        state.is_dirty = true;
        is_session || is_new
    }

    /// The run was broken off for a reason that is no failure: the server stops.
    pub(crate) fn drop_run(&self) {
        self.state.lock().running = None;
    }

    /// Whether the other site tells each change as it happens.
    pub(crate) fn follow(&self, is_following: bool) {
        let mut state = self.state.lock();
        if state.is_following && !is_following {
            state.in_step_ms = Some(times::now_ms());
        }
        state.is_following = is_following;
    }

    /// How long the state may stay unwritten; `None` when it is written.
    pub(crate) fn due(&self) -> Option<Duration> {
        let state = self.state.lock();
        let since = state.written.map_or(WRITTEN_EVERY, |at| at.elapsed());
        state.is_dirty.then(|| WRITTEN_EVERY.saturating_sub(since))
    }

    /// Forgets all that has happened.
    pub(crate) fn reset(&self) {
        *self.state.lock() = State { is_dirty: true, ..State::default() };
    }

    /// Writes the state down. What cannot be written is only logged: the next time makes up for it.
    pub(crate) async fn write(&self, site: &Site) {
        let id = self.link.provider(self.provider.name());
        for _ in 0..TRIES_MAX {
            // A link that is gone must not come back.
            let Some(stored) = site.view().get(&id) else { return };
            let mut document = stored.document;
            {
                let mut state = self.state.lock();
                (state.written, state.is_dirty) = (Some(Instant::now()), false);
                set_state(&mut document, &state);
            }
            match site.write_document(AUTHOR.into(), id.clone(), document, Some(stored.modified)).await {
                Ok(_) => return,
                Err(WriteError::Changed { .. } | WriteError::NotFound(_)) => {}
                Err(error) => {
                    self.state.lock().is_dirty = true;
                    tracing::warn!(%error, link = %self.link, "the state of a sync was not written down");
                    return;
                }
            }
        }
    }
}

fn rate(completed: u64, took: Duration) -> Option<f64> {
    // Fewer digits than a double has are enough for a rate.
    #[allow(clippy::cast_precision_loss)]
    let units = completed as f64;
    (completed > 0).then(|| units / took.as_secs_f64().max(0.001))
}

fn set_state(document: &mut Document, state: &State) {
    let text = |at: &DateTime| Value::from(&*at.0);
    document.set("last_sync_time", state.last_sync.as_ref().map(text));
    let (status, message) = state.outcome.clone().parts();
    document.set("status", Some(Value::from(status.name())));
    document.set("status_message", message.as_ref().map(message_value));
    let session = state.session.as_ref().map(Session::info).map(|info| {
        let mut session = Document::default();
        session.set("stage", Some(Value::from(info.stage.name())));
        session.set("completed_work", Some(Value::from(info.completed_work)));
        session.set("total_work", Some(Value::from(info.total_work)));
        session.set("start_time", Some(text(&info.start_time)));
        session.set("completion_time", info.completion_time.as_ref().map(text));
        session.set("exception", info.exception.as_ref().map(message_value));
        Value::Struct(session.into_fields().into())
    });
    document.set("session", session);
}

fn read_state(document: &Document) -> State {
    let text = |path: &str| document.get(path).and_then(Value::as_str);
    let number = |path: &str| match document.get(path) {
        Some(Value::Long(number)) => *number,
        _ => 0,
    };
    let outcome = match (text("status").and_then(Status::from_name), message_at(document, "status_message")) {
        (Some(Status::Succeeded), _) => Outcome::Succeeded,
        (Some(Status::Failed), Some(message)) => Outcome::Failed(message),
        _ => Outcome::NoSyncFound,
    };
    let last_sync = text("last_sync_time").map(|text| DateTime(text.to_owned()));
    let session = text("session/start_time").map(|start| {
        let ended = || DateTime(text("session/completion_time").unwrap_or(start).to_owned());
        let state = match text("session/stage").and_then(WireStage::from_name) {
            Some(WireStage::Completed) => SessionState::Completed(ended()),
            Some(WireStage::Failed) => {
                SessionState::Failed(ended(), message_at(document, "session/exception").unwrap_or_else(interrupted))
            }
            _ => SessionState::Failed(times::date_time(times::now_ms()), interrupted()),
        };
        let (completed, total) = (number("session/completed_work"), number("session/total_work"));
        Session { start: DateTime(start.to_owned()), state, completed, total }
    });
    let in_step_ms = match (&outcome, &last_sync) {
        (Outcome::Succeeded, Some(at)) => times::read_ms(&at.0),
        _ => None,
    };
    let is_dirty = text("session/stage") != session.as_ref().map(|session| session.info().stage.name());
    State { last_sync, outcome, session, in_step_ms, is_dirty, ..State::default() }
}

fn interrupted() -> Message {
    let text = "the server stopped while the sync was under way; the next one goes on where it was";
    Message::new("lockstep.sync.interrupted", text, Vec::new())
}

#[cfg(test)]
mod tests {
    use lockstep_model::{Registry, builtin};

    use super::*;
    use crate::provider::Run;
    use crate::provider::Running as Answer;

    struct Nothing;

    impl SyncProvider for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }

        fn polling_interval(&self) -> Duration {
            Duration::from_secs(300)
        }

        fn sync<'a>(&'a self, _: &'a Run) -> Answer<'a> {
            Box::pin(async { Ok(()) })
        }

        fn changed<'a>(&'a self, _: &'a Run) -> Answer<'a> {
            Box::pin(std::future::pending())
        }
    }

    fn sync() -> Sync {
        Sync { link: LinkId::new("l"), provider: Arc::new(Nothing), wake: Notify::new(), state: Mutex::default() }
    }

    /// What is read back after the state was written, checked against the model.
    fn stored(sync: &Sync) -> Sync {
        let mut document = Document::default();
        set_state(&mut document, &sync.state.lock());
        let registry = Registry::new();
        let def = registry.type_def(builtin::SYNC_PROVIDER).unwrap();
        let document = def.read_document(&serde_json::to_string(&document).unwrap()).unwrap();
        let read = self::sync();
        *read.state.lock() = read_state(&document);
        read
    }

    #[test]
    fn a_forced_sync_is_a_session_whose_work_only_grows() {
        let sync = sync();
        let info = sync.info();
        assert_eq!((info.status, info.last_sync_time, info.current_session_info), (Status::NoSyncFound, None, None));
        assert_eq!(info.polling_interval_in_seconds, 300);
        sync.start().unwrap();
        let session = sync.info().current_session_info.unwrap();
        assert_eq!((session.stage, session.completed_work, session.total_work), (WireStage::Waiting, 0, 0));
        assert_eq!(sync.start().unwrap_err().kind, ErrorKind::ResourceBusy);

        let progress = watch::Sender::new(Progress::default());
        assert!(sync.begin(progress.subscribe()));
        let info = sync.info();
        assert!(info.last_sync_time.is_some() && info.status == Status::NoSyncFound, "it has begun and not ended");
        progress.send_replace(Progress { stage: Some(Stage::ChangeApplication), completed: 3, total: 9 });
        assert!(sync.step() && !sync.step());
        let session = sync.info().current_session_info.unwrap();
        assert_eq!((session.stage, session.completed_work, session.total_work), (WireStage::ChangeApplication, 3, 9));
        assert!(sync.end(&Ok(()), "site2"));
        let info = sync.info();
        assert_eq!(info.status, Status::Succeeded);
        let session = info.current_session_info.clone().unwrap();
        assert_eq!((session.stage, session.completed_work, session.total_work), (WireStage::Completed, 9, 9));
        assert_eq!(stored(&sync).info(), info);

        // A sync in the background leaves the session as it is.
        sync.begin(watch::Sender::new(Progress::default()).subscribe());
        assert_eq!(sync.start().unwrap_err().kind, ErrorKind::ResourceBusy);
        assert!(!sync.end(&Ok(()), "site2"), "nothing new");
        assert_eq!(sync.info().current_session_info, info.current_session_info);
        sync.reset();
        assert_eq!(sync.info(), Info::new(None, Outcome::NoSyncFound, 300, None));
    }

    #[test]
    fn a_failure_is_told_and_kept() {
        let sync = sync();
        sync.start().unwrap();
        sync.begin(watch::Sender::new(Progress::default()).subscribe());
        assert!(sync.end(&Err(SyncError::Model { name: "com.acme.Person".into() }), "site2"));
        let info = sync.info();
        let message = info.status_message.clone().unwrap();
        assert_eq!(
            (&*message.id, &message.args[..]),
            ("lockstep.sync.model", &["site2".to_owned(), "com.acme.Person".to_owned()][..])
        );
        let session = info.current_session_info.as_ref().unwrap();
        assert_eq!((session.stage, session.exception.as_ref()), (WireStage::Failed, Some(&message)));
        assert_eq!(stored(&sync).info(), info);
    }

    #[test]
    fn a_session_that_a_crash_cut_off_has_failed() {
        let sync = sync();
        sync.start().unwrap();
        let progress = watch::Sender::new(Progress { stage: Some(Stage::ChangeEnumeration), completed: 4, total: 8 });
        sync.begin(progress.subscribe());
        sync.step();
        let after = stored(&sync);
        let session = after.info().current_session_info.unwrap();
        assert_eq!((session.stage, session.completed_work, session.total_work), (WireStage::Failed, 4, 8));
        assert_eq!(session.exception.unwrap().id, "lockstep.sync.interrupted");
        assert!(after.due().is_some(), "to be written down");
        after.start().unwrap();
    }
}
