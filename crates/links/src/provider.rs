//! What keeps one kind of data in step over a link, and what it works with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lockstep_client::{Client, ClientError};
use lockstep_contract::{Error, ErrorKind, Message};
use lockstep_journal::{Change, CommitError, Expect, Operation};
use lockstep_model::{Document, LeafChange, LeafPath, ResourceId, Value, builtin};
use lockstep_site::{Site, uuid};
use tokio::sync::watch;

/// The author of what is written for a link.
pub const AUTHOR: &str = "lockstep/link";

/// Longest answer that a provider takes unless it says otherwise: a frame is closed at one MiB, and one record of the largest size still
/// fits.
pub(crate) const SMALL_ANSWER_BYTES_MAX: usize = 16 << 20;

/// The id of a link: random, the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(Arc<str>);

impl LinkId {
    /// Takes the text as it is.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// A new id: a random UUID.
    ///
    /// # Errors
    /// `internal_server_error` when the operating system has no random numbers.
    pub fn random() -> Result<Self, Error> {
        Ok(Self(uuid::random()?.into()))
    }

    /// The id in a text that comes from outside: only what [`LinkId::random`] makes is one.
    pub fn read(text: &str) -> Option<Self> {
        uuid::is_uuid(text).then(|| Self::new(text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The resource of the link.
    pub fn resource(&self) -> ResourceId {
        ResourceId::new(builtin::LINK, self.as_str())
    }

    /// The resource of one of its providers.
    pub fn provider(&self, provider: &str) -> ResourceId {
        ResourceId::new(builtin::SYNC_PROVIDER, format!("{self}/{provider}"))
    }

    /// The resource of the place that one of its providers has come to.
    pub fn cursor(&self, provider: &str) -> ResourceId {
        ResourceId::new(builtin::SYNC_CURSOR, format!("{self}/{provider}"))
    }
}

impl std::fmt::Display for LinkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a provider's call answers with in time.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<(), SyncError>> + Send + 'a>>;

/// Keeps one kind of data in step over a link.
///
/// One instance serves all links of a site. For one link at most one call of [`SyncProvider::sync`] or [`SyncProvider::changed`]
/// runs at a time. A call is cancelled by being dropped, at any await: what was committed stands, and the next goes on from the
/// cursor that was committed with it. Tasks that it spawned must end with it.
pub trait SyncProvider: Send + Sync + 'static {
    /// The provider's id on the wire, e.g. `inventory`.
    fn name(&self) -> &'static str;

    /// How often it syncs when nothing wakes it.
    fn polling_interval(&self) -> Duration;

    /// Longest answer that it takes from the other site, in bytes. All providers of a link may hold one at a time.
    fn answer_bytes_max(&self) -> usize {
        SMALL_ANSWER_BYTES_MAX
    }

    /// The other site's position up to which a cursor tells all, when it says so: what a lag is counted from.
    fn reached(&self, cursor: &str) -> Option<u64> {
        let _ = cursor;
        None
    }

    /// Brings what is here up to the other site's present, from the stored cursor on. A batch that it commits carries the new
    /// cursor ([`Run::cursor_change`]).
    fn sync<'a>(&'a self, run: &'a Run) -> Running<'a>;

    /// Returns when the other site has something new behind the cursor, by a long poll; `Err` when it cannot be asked.
    ///
    /// It must not return for commits that it would not copy: both sites write down how their syncs went, and would wake each
    /// other for ever.
    fn changed<'a>(&'a self, run: &'a Run) -> Running<'a>;
}

/// What a provider is doing. What comes before and after is the runner's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Finding out which data differ.
    ChangeDetection,
    /// Collecting them.
    ChangeEnumeration,
    /// Writing them.
    ChangeApplication,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it is doing; `None` before it has said.
    pub stage: Option<Stage>,
    /// Units of work that are done.
    pub completed: u64,
    /// Units of work in all, as far as is known; never less than `completed`.
    pub total: u64,
}

/// One run of a provider: what it works with, and where its progress goes.
pub struct Run {
    /// This site.
    pub site: Arc<Site>,
    /// The other one.
    pub client: Client,
    /// The link.
    pub link: LinkId,
    /// The other site's name as it was given here: what linked ids begin with.
    pub domain: String,
    provider: &'static str,
    progress: watch::Sender<Progress>,
}

impl Run {
    /// A run of the provider of that name. The link's resources must be there ([`initial`]).
    pub fn new(site: Arc<Site>, client: Client, link: LinkId, domain: String, provider: &'static str) -> Self {
        Self { site, client, link, domain, provider, progress: watch::Sender::new(Progress::default()) }
    }

    /// The name of the provider that runs.
    pub(crate) fn provider(&self) -> &'static str {
        self.provider
    }

    /// The place that was committed last; `None` at the beginning and after a reset.
    pub fn cursor(&self) -> Option<String> {
        let stored = self.site.view().get(&self.link.cursor(self.provider))?;
        stored.document.get("cursor").and_then(Value::as_str).map(str::to_owned)
    }

    /// The change that stores `new` as the place, to be put into the batch whose data lead there; `None` when it is stored already.
    ///
    /// It conflicts when the link was deleted or reset meanwhile, so that nothing is written for a link that is gone.
    ///
    /// # Errors
    /// [`SyncError::Cancelled`] when the link is gone.
    pub fn cursor_change(&self, new: &str) -> Result<Option<(Change, Expect)>, SyncError> {
        let id = self.link.cursor(self.provider);
        let stored = self.site.view().get(&id).ok_or(SyncError::Cancelled)?;
        let old = stored.document.get("cursor").cloned();
        let new = Some(Value::from(new));
        if old == new {
            return Ok(None);
        }
        let leaf = LeafChange { path: LeafPath::new("cursor"), old, new };
        let change = Change { id, operation: Operation::Update(vec![leaf]), parents: Arc::from([]) };
        Ok(Some((change, Expect::At(stored.modified))))
    }

    /// Says what is being done. A stage before the present one is left out: a session goes forward only.
    pub fn stage(&self, stage: Stage) {
        self.progress.send_if_modified(|now| {
            let is_new = now.stage < Some(stage);
            if is_new {
                now.stage = Some(stage);
            }
            is_new
        });
    }

    /// Says how much work there is in all; it only grows.
    pub fn total(&self, total: u64) {
        self.progress.send_if_modified(|now| {
            let is_new = total > now.total;
            now.total = now.total.max(total);
            is_new
        });
    }

    /// Adds to the work that is done.
    pub fn advance(&self, units: u64) {
        self.progress.send_modify(|now| {
            now.completed = now.completed.saturating_add(units);
            now.total = now.total.max(now.completed);
        });
    }

    /// How far the run is, as it goes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

/// The resources that a provider of a link has from the beginning, e.g. for the batch that makes the link.
pub fn initial(link: &LinkId, provider: &dyn SyncProvider) -> Vec<(Change, Expect)> {
    let link_id = Value::from(link.resource());
    let mut state = Document::default();
    state.set("link", Some(link_id.clone()));
    state.set("provider", Some(Value::from(provider.name())));
    state.set("status", Some(Value::from("NO_SYNC_FOUND")));
    let interval_s = i64::try_from(provider.polling_interval().as_secs().max(1)).unwrap_or(i64::MAX);
    state.set("polling_interval_s", Some(Value::from(interval_s)));
    let mut cursor = Document::default();
    cursor.set("link", Some(link_id));
    let create =
        |id, document| (Change { id, operation: Operation::Create(document), parents: Arc::from([]) }, Expect::Absent);
    vec![create(link.provider(provider.name()), state), create(link.cursor(provider.name()), cursor)]
}

/// Why a sync ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The other site was not reached, refused, or answered something else.
    #[error(transparent)]
    Peer(#[from] ClientError),
    /// The other site cannot be called at all: what the link has stored for it is of no use.
    #[error("{}", .0.default_message)]
    NoClient(Message),
    /// The other site answers what cannot be: too large, malformed, against its own promises.
    #[error("the other site answers what cannot be: {what}")]
    Malformed {
        /// What was wrong, for people.
        what: String,
    },
    /// The other site has a model of that name that differs from the one here.
    #[error("the model {name} is declared differently at the other site")]
    Model {
        /// The model.
        name: String,
    },
    /// The place that was stored is not known there any more, and the provider found no way to go on.
    #[error("the other site does not know any more what changed since the last sync")]
    Expired,
    /// Nothing came for too long.
    #[error("nothing came for {seconds} s")]
    Stalled {
        /// How long.
        seconds: u64,
    },
    /// What came cannot be written here.
    #[error("cannot write here")]
    Commit(#[from] CommitError),
    /// The link was deleted or reset, or the server stops.
    #[error("cancelled")]
    Cancelled,
}

impl SyncError {
    /// Whether it may go well later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Peer(error) => error.is_transient(),
            Self::Commit(error) => matches!(error, CommitError::Conflict { .. } | CommitError::Full),
            Self::Stalled { .. } => true,
            Self::NoClient(_) | Self::Malformed { .. } | Self::Model { .. } | Self::Expired | Self::Cancelled => false,
        }
    }

    /// What people are told, of the link to `domain`.
    pub fn message(&self, domain: &str) -> Message {
        match self {
            Self::Peer(error) => peer_message(error, domain),
            Self::NoClient(why) => why.clone(),
            Self::Malformed { what } => {
                message("malformed", format!("{domain} answers what cannot be: {what}"), domain, &[what])
            }
            Self::Model { name } => {
                message("model", format!("the model {name} is declared differently at {domain}"), domain, &[name])
            }
            Self::Expired => message(
                "expired",
                format!("{domain} does not know any more what changed since the last sync"),
                domain,
                &[],
            ),
            Self::Stalled { seconds } => {
                let text = format!("nothing came from {domain} for {seconds} s");
                message("stalled", text, domain, &[&seconds.to_string()])
            }
            Self::Commit(error) => {
                message("commit", format!("what came from {domain} cannot be written here: {error}"), domain, &[])
            }
            Self::Cancelled => message("cancelled", format!("the sync with {domain} was cancelled"), domain, &[]),
        }
    }
}

fn message(id: &str, text: String, domain: &str, more: &[&String]) -> Message {
    let args = std::iter::once(domain.to_owned()).chain(more.iter().map(|arg| (*arg).clone())).collect();
    Message::new(format!("lockstep.sync.{id}"), text, args)
}

/// What people are told of a call that failed: of a sync as well as of a link's health.
pub(crate) fn peer_message(error: &ClientError, domain: &str) -> Message {
    let reason = error.to_string();
    match error {
        ClientError::Refused { .. } | ClientError::Unreachable { .. } | ClientError::Broken { .. } => {
            message("unreachable", format!("{domain} does not answer: {reason}"), domain, &[&reason])
        }
        ClientError::Untrusted { thumbprint, .. } => {
            let thumbprint = thumbprint.to_string();
            let text = format!(
                "{domain} shows another certificate than the link was made with: its thumbprint is {thumbprint}"
            );
            message("unverified", text, domain, &[&thumbprint])
        }
        ClientError::LoginRefused { .. } | ClientError::SessionEnded { .. } | ClientError::LoginMissing { .. } => {
            let text = format!("{domain} does not accept this site any more: its access token was revoked there");
            message("denied", text, domain, &[])
        }
        ClientError::Refusal {
            error: Error { kind: ErrorKind::Unauthorized | ErrorKind::Unauthenticated, .. },
            ..
        } => message("denied", format!("{domain} refuses: {reason}"), domain, &[&reason]),
        ClientError::Refusal { .. } => message("refused", format!("{domain} refuses: {reason}"), domain, &[&reason]),
        ClientError::Foreign { .. } | ClientError::Misfit { .. } => {
            message("malformed", format!("{domain} does not answer like a site: {reason}"), domain, &[&reason])
        }
        ClientError::Url { .. } | ClientError::Roots(_) | ClientError::Setup(_) | ClientError::Unaddressable(_) => {
            message("failed", format!("{domain} cannot be asked: {reason}"), domain, &[&reason])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_and_read_back() {
        let (a, b) = (LinkId::random().unwrap(), LinkId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(LinkId::read(a.as_str()), Some(a.clone()));
        for bad in ["", "l", &a.as_str().to_uppercase(), &a.as_str().replace('-', "0"), &format!("{a}0")] {
            assert!(LinkId::read(bad).is_none() || bad == a.as_str(), "{bad}");
        }
    }
}
