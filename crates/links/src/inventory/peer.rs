//! Calls to the other site, and what is not believed of its answers.

use std::time::Duration;

use lockstep_client::{Client, ClientError};
use lockstep_contract::Declared;
use lockstep_contract::services::TypedId;
use lockstep_model::ResourceId;

use super::set::Set;
use crate::SyncError;

/// How long an answer may take beside what it was asked to wait: whoever needs longer is as good as gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls an operation of the other site, which must answer in time.
pub(crate) async fn call<O: Declared>(
    client: &Client,
    operation: O,
    input: O::Input,
    wait: Duration,
) -> Result<O::Output, SyncError> {
    let timeout = ANSWER_TIMEOUT + wait;
    match tokio::time::timeout(timeout, client.call(operation, input)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => {
            let reason = format!("no answer within {} s", timeout.as_secs());
            Err(SyncError::Peer(ClientError::Broken { url: client.url().to_owned(), reason }))
        }
    }
}

/// Whether the other site does not know the token any more, or never did: its log has gone on, or is another one.
pub(crate) fn is_expired(error: &SyncError) -> bool {
    match error {
        SyncError::Peer(ClientError::Refusal { error, .. }) => {
            error.messages.iter().any(|m| matches!(&*m.id, "lockstep.cdc.expired" | "lockstep.cdc.invalid"))
        }
        _ => false,
    }
}

/// What is wrong with an answer.
pub(crate) fn malformed(what: impl Into<String>) -> SyncError {
    SyncError::Malformed { what: what.into() }
}

/// The place to go on from, which must be behind `after`: so that no answer can make a copy go in circles.
pub(crate) fn next_place(set: Set, place: TypedId, after: Option<&ResourceId>) -> Result<ResourceId, SyncError> {
    let id = ResourceId::new(&*place.resource_type, place.id);
    id.check().map_err(|e| malformed(format!("a place that is none: {e}")))?;
    if !set.holds(id.resource_type.as_str()) {
        return Err(malformed(format!("a place among {}", id.resource_type)));
    }
    match after {
        Some(after) if id <= *after => Err(malformed(format!("the place {id} behind {after}"))),
        _ => Ok(id),
    }
}
