//! What is kept in step over a link.

use super::{DateTime, Message, Method, Rest, Secret, enumeration, operation, structure};

enumeration! {
    /// How the last finished sync ended.
    pub enum Status = "com.vmware.vcenter.hvc.links.sync.providers.info.status" {
        /// All that the other site has is here.
        Succeeded = "SUCCEEDED",
        /// It was not done.
        Failed = "FAILED",
        /// None has finished yet.
        NoSyncFound = "NO_SYNC_FOUND",
    }
}

enumeration! {
    /// What a session is doing.
    pub enum Stage = "com.vmware.vcenter.hvc.links.sync.providers.session_info.stage" {
        /// It was made; how much there is to do is not known.
        Waiting = "WAITING",
        /// Finding out which data differ.
        ChangeDetection = "CHANGE_DETECTION",
        /// Collecting them.
        ChangeEnumeration = "CHANGE_ENUMERATION",
        /// Writing them.
        ChangeApplication = "CHANGE_APPLICATION",
        /// All is done.
        Completed = "COMPLETED",
        /// It ended before its end.
        Failed = "FAILED",
    }
}

structure! {
    /// A provider in a list.
    pub struct Summary = "com.vmware.vcenter.hvc.links.sync.providers.summary" {
        /// The provider's id.
        provider: String,
    }
}

structure! {
    /// A forced sync. Made by [`SessionInfo::new`], which keeps the rule of the union.
    pub struct SessionInfo = "com.vmware.vcenter.hvc.links.sync.providers.session_info" {
        /// What it is doing.
        stage: Stage,
        /// Units of work that are done; only grows.
        completed_work: i64,
        /// Units of work in all, as far as is known; never less than what is done.
        total_work: i64,
        /// When it began.
        start_time: DateTime,
        /// When it ended; set when, and only when, it is COMPLETED or FAILED.
        completion_time: Option<DateTime>,
        /// Why it failed; set when, and only when, it is FAILED.
        exception: Option<Message>,
    }
}

/// Where a session is.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionState {
    /// Under way.
    Running(RunningStage),
    /// Ended at this time, all done.
    Completed(DateTime),
    /// Ended at this time, for this reason.
    Failed(DateTime, Message),
}

/// The stages of a session that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunningStage {
    /// [`Stage::Waiting`].
    Waiting,
    /// [`Stage::ChangeDetection`].
    ChangeDetection,
    /// [`Stage::ChangeEnumeration`].
    ChangeEnumeration,
    /// [`Stage::ChangeApplication`].
    ChangeApplication,
}

impl SessionInfo {
    /// What is shown of a session with so much work done and in all.
    pub fn new(start_time: DateTime, state: SessionState, completed: i64, total: i64) -> Self {
        let (stage, completion_time, exception) = match state {
            SessionState::Running(RunningStage::Waiting) => (Stage::Waiting, None, None),
            SessionState::Running(RunningStage::ChangeDetection) => (Stage::ChangeDetection, None, None),
            SessionState::Running(RunningStage::ChangeEnumeration) => (Stage::ChangeEnumeration, None, None),
            SessionState::Running(RunningStage::ChangeApplication) => (Stage::ChangeApplication, None, None),
            SessionState::Completed(at) => (Stage::Completed, Some(at), None),
            SessionState::Failed(at, why) => (Stage::Failed, Some(at), Some(why)),
        };
        let completed = completed.max(0);
        let (completed_work, total_work) = match stage {
            Stage::Waiting => (0, 0),
            Stage::Completed => (completed.max(total), completed.max(total)),
            Stage::ChangeDetection | Stage::ChangeEnumeration | Stage::ChangeApplication | Stage::Failed => {
                (completed, total.max(completed))
            }
        };
        Self { stage, completed_work, total_work, start_time, completion_time, exception }
    }
}

structure! {
    /// How a provider is. Made by [`Info::new`], which keeps the rule of the union.
    pub struct Info = "com.vmware.vcenter.hvc.links.sync.providers.info" union status { FAILED => status_message } {
        /// When the last sync began, in the background or forced; unset when there was none.
        last_sync_time: Option<DateTime>,
        /// How the last finished sync ended.
        status: Status,
        /// Seconds between syncs when nothing wakes them.
        polling_interval_in_seconds: i64,
        /// The forced sync that is under way or was the last; unset when there was none since the link was made or reset.
        current_session_info: Option<SessionInfo>,
        /// Why the last finished sync failed; set when, and only when, it did.
        status_message: Option<Message>,
    }
}

/// How the last finished sync ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Outcome {
    /// None has finished yet.
    #[default]
    NoSyncFound,
    /// All that the other site had is here.
    Succeeded,
    /// It was not done, for this reason.
    Failed(Message),
}

impl Outcome {
    /// The status and the message that belong together.
    pub fn parts(self) -> (Status, Option<Message>) {
        match self {
            Self::NoSyncFound => (Status::NoSyncFound, None),
            Self::Succeeded => (Status::Succeeded, None),
            Self::Failed(why) => (Status::Failed, Some(why)),
        }
    }
}

impl Info {
    /// What is shown of a provider.
    pub fn new(
        last_sync_time: Option<DateTime>,
        outcome: Outcome,
        polling_interval_in_seconds: i64,
        current_session_info: Option<SessionInfo>,
    ) -> Self {
        let (status, status_message) = outcome.parts();
        let polling_interval_in_seconds = polling_interval_in_seconds.max(1);
        Self { last_sync_time, status, polling_interval_in_seconds, current_session_info, status_message }
    }
}

structure! {
    /// An account of the other site. Taken for the clients that send one; the link's own token is used.
    pub struct Credentials = "com.vmware.vcenter.hvc.links.sync.providers.credentials" {
        /// The user's name there.
        user_name: String,
        /// The password there.
        password: Secret,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// The link's id.
        link: String,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct GetInput = "operation-input" {
        /// The link's id.
        link: String,
        /// The provider's id.
        provider: String,
    }
}

structure! {
    /// The parameters of `start`.
    pub struct StartInput = "operation-input" {
        /// The link's id.
        link: String,
        /// The provider's id.
        provider: String,
        /// Not used.
        credentials: Option<Credentials>,
    }
}

operation! {
    /// Lists what is kept in step over a link.
    pub List = "com.vmware.vcenter.hvc.links.sync.providers"."list"(ListInput) -> Vec<Summary>,
    errors: [Error, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/hvc/links/{link}/sync/providers", 200),
}

operation! {
    /// How a provider of a link is: its last sync, and the forced one.
    pub Get = "com.vmware.vcenter.hvc.links.sync.providers"."get"(GetInput) -> Info,
    errors: [Error, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/hvc/links/{link}/sync/providers/{provider}", 200),
    id: "provider",
}

operation! {
    /// Forces a sync. Answers when the session is made; `get` shows how it goes.
    pub Start = "com.vmware.vcenter.hvc.links.sync.providers"."start"(StartInput) -> (),
    errors: [Error, NotFound, ResourceBusy, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/hvc/links/{link}/sync/providers/{provider}", 204).action("start"),
    id: "provider",
}

structure! {
    /// The parameters of `reset`.
    pub struct ResetInput = "operation-input" {
        /// The link's id.
        link: String,
        /// Not used.
        credentials: Option<Credentials>,
    }
}

operation! {
    /// Forgets how far the providers of a link have come and starts them from the beginning; one that is running is cancelled.
    pub Reset = "com.vmware.vcenter.hvc.links.sync"."reset"(ResetInput) -> (),
    errors: [Error, NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/hvc/links/{link}/sync", 204).action("reset"),
}
