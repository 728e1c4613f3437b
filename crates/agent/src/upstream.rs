//! The server that a provider serves: over HTTP, or the process that it is built into.

use std::future::Future;

use lockstep_client::{Client, ClientError, SpecCache, SyncError, SyncSummary};
use lockstep_contract::points::Batch;
use lockstep_contract::services::stats::agents::{Register, RegisterInput, Registered, Write, WriteInput, Written};
use lockstep_contract::{Binary, ErrorKind};
use prost::Message as _;

/// Where points wait for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spooling {
    /// On disk: the server can be away for long, and the agent be killed meanwhile.
    Disk,
    /// In memory: the server is this process, and makes durable what it is given.
    Memory,
}

/// Why the server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// It is not there, busy, or has a fault of its own: the same may succeed later.
    #[error("the server cannot be used now: {reason}")]
    Away {
        /// What was met.
        reason: String,
    },
    /// It does not take what it was given: that will not change.
    #[error("the server refuses it: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// The login is refused, or does not allow it: that changes when someone changes it there.
    #[error("the server does not let the agent: {reason}")]
    Denied {
        /// What it says.
        reason: String,
    },
}

/// A server, as a provider needs it. Calls may be made at the same time.
pub trait Upstream: Send + Sync + 'static {
    /// Says that the provider is there, and what it offers.
    fn register(&self, input: RegisterInput) -> impl Future<Output = Result<Registered, UpstreamError>> + Send;

    /// Brings a copy of the acquisition specifications up to date: as [`SpecCache::sync`], all or nothing. A server in the same
    /// process drives [`SpecCache::pull`].
    fn sync(&self, cache: &mut SpecCache) -> impl Future<Output = Result<SyncSummary, UpstreamError>> + Send;

    /// Stores points: durable when it answers. `provider` is the id that registering gave, none before.
    ///
    /// Points may come again; the server stores one of a series and time.
    fn write(
        &self,
        provider: Option<&str>,
        batch: &Batch,
    ) -> impl Future<Output = Result<Written, UpstreamError>> + Send;

    /// Where points shall wait for it.
    fn spooling(&self) -> Spooling;
}

/// A server over HTTP. The client logs in, and again when its session ends.
#[derive(Debug, Clone)]
pub struct HttpUpstream {
    client: Client,
}

impl HttpUpstream {
    /// The server that a client speaks to.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Upstream for HttpUpstream {
    async fn register(&self, input: RegisterInput) -> Result<Registered, UpstreamError> {
        Box::pin(self.client.call(Register, input)).await.map_err(UpstreamError::from)
    }

    async fn sync(&self, cache: &mut SpecCache) -> Result<SyncSummary, UpstreamError> {
        Box::pin(cache.sync(&self.client)).await.map_err(UpstreamError::from)
    }

    async fn write(&self, provider: Option<&str>, batch: &Batch) -> Result<Written, UpstreamError> {
        let input = WriteInput { provider: provider.map(str::to_owned), points: Binary(batch.encode_to_vec().into()) };
        Box::pin(self.client.call(Write, input)).await.map_err(UpstreamError::from)
    }

    fn spooling(&self) -> Spooling {
        Spooling::Disk
    }
}

impl From<ClientError> for UpstreamError {
    fn from(error: ClientError) -> Self {
        let reason = error.to_string();
        match &error {
            _ if error.is_transient() => Self::Away { reason },
            ClientError::Refusal { error, .. } => Self::from_kind(error.kind, reason),
            ClientError::LoginRefused { .. } | ClientError::LoginMissing { .. } | ClientError::SessionEnded { .. } => {
                Self::Denied { reason }
            }
            // A proxy, or a server of another kind: what is between may change. That a body is too large will not.
            ClientError::Foreign { status: 413, .. } => Self::Refused { reason },
            _ => Self::Away { reason },
        }
    }
}

impl UpstreamError {
    /// An operation's error, by its kind.
    #[must_use]
    pub fn from_kind(kind: ErrorKind, reason: String) -> Self {
        match kind {
            ErrorKind::Unauthenticated | ErrorKind::Unauthorized => Self::Denied { reason },
            ErrorKind::InvalidArgument | ErrorKind::InvalidRequest | ErrorKind::UnexpectedInput => {
                Self::Refused { reason }
            }
            // A fault of the server, a lack of space, an older server without the operation.
            _ => Self::Away { reason },
        }
    }
}

impl From<SyncError> for UpstreamError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Call(error) => error.into(),
            SyncError::NoEpoch | SyncError::WrongEpoch { .. } | SyncError::Endless => {
                Self::Refused { reason: error.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_contract::{Error, ErrorKind};

    use super::*;

    #[test]
    fn errors_are_sorted_by_what_the_provider_can_do() {
        let refusal = |kind: ErrorKind| ClientError::Refusal {
            status: kind.status(),
            error: Error::new(kind, "an.id", "a message", Vec::new()),
        };
        let foreign = |status| ClientError::Foreign { url: String::new(), status, excerpt: String::new() };
        let url = || "https://site".to_owned();
        for (error, expected) in [
            (refusal(ErrorKind::ServiceUnavailable), "away"),
            (refusal(ErrorKind::UnableToAllocateResource), "away"),
            (refusal(ErrorKind::InternalServerError), "away"),
            (refusal(ErrorKind::OperationNotFound), "away"),
            (refusal(ErrorKind::InvalidArgument), "refused"),
            (refusal(ErrorKind::InvalidRequest), "refused"),
            (refusal(ErrorKind::UnexpectedInput), "refused"),
            (refusal(ErrorKind::Unauthorized), "denied"),
            (ClientError::SessionEnded { url: url() }, "denied"),
            (ClientError::LoginRefused { url: url(), username: "a".to_owned() }, "denied"),
            (ClientError::Refused { url: url() }, "away"),
            (ClientError::Broken { url: url(), reason: String::new() }, "away"),
            (foreign(413), "refused"),
            (foreign(502), "away"),
            (foreign(404), "away"),
        ] {
            let text = error.to_string();
            let found = match UpstreamError::from(error) {
                UpstreamError::Away { .. } => "away",
                UpstreamError::Refused { .. } => "refused",
                UpstreamError::Denied { .. } => "denied",
            };
            assert_eq!(found, expected, "{text}");
        }
    }
}
