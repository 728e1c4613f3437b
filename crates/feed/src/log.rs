//! The feed of the seed: all changes after a token, in the order of their commits.
//!
//! Source: seed 002; `api/cis-data-and-cdc.md`, B3.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_contract::services::TypedId;
use lockstep_contract::services::change_log::{ChangeEvent, ChangeKind, ChangeList, GetChangesInput};
use lockstep_contract::{Data, Encoding, Error, Place, PlainJson, Wire, Writer};
use lockstep_journal::{Change, Commit, Operation, ReadError};
use lockstep_model::{Position, ResourceId, builtin};
use lockstep_site::Site;
use lockstep_site::table::{Answer, Context, Encode};
use lockstep_site::token::{self, TokenError};
use parking_lot::Mutex;

use crate::Feed;
use crate::parking::{Woken, still_there};

/// About how many events an answer holds at the most; a commit is never cut, so one large commit makes it larger.
pub const EVENTS_MAX: usize = 1000;

/// About how many bytes of the journal are read for one answer.
const READ_BYTES: usize = 1 << 20;

/// Encoded commits that are kept, in bytes: what readers who are a little apart share.
const ENCODED_BYTES_MAX: usize = 8 << 20;

/// A reader this many positions behind probably needs the disk, so it reads on a blocking thread.
const NEAR_POSITIONS: u64 = 256;

/// The journal as its readers get it.
pub(crate) struct Log {
    site: Arc<Site>,
    /// Commits as JSON by position, the latest ones asked for. Held to look up or insert.
    encoded: Mutex<Encoded>,
    /// The last answer, by the position it goes on from: what all who were parked at the end get.
    last: Mutex<Option<Served>>,
}

#[derive(Default)]
struct Encoded {
    by_position: BTreeMap<Position, EncodedCommit>,
    bytes: usize,
}

/// A commit's events as JSON, with commas between and none around.
#[derive(Clone)]
struct EncodedCommit {
    events: usize,
    json: Bytes,
}

/// An answer as plain JSON.
#[derive(Clone)]
struct Served {
    after: Position,
    /// How far the view had come: a later reader of the same token must get what came since.
    reached: Position,
    json: Bytes,
}

impl Log {
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self { site, encoded: Mutex::default(), last: Mutex::default() }
    }

    /// The answer to a token at `after`, when the view has reached `reached`. May read the disk.
    fn serve(&self, after: Position, reached: Position) -> Result<Bytes, ReadError> {
        let mut last = self.last.lock();
        if let Some(served) = last.as_ref().filter(|s| s.after == after && s.reached == reached) {
            return Ok(served.json.clone());
        }
        // The lock is kept: ten thousand readers woken together wait for the first instead of each doing its work.
        let json = self.assemble(after, reached)?;
        *last = Some(Served { after, reached, json: json.clone() });
        Ok(json)
    }

    fn assemble(&self, after: Position, reached: Position) -> Result<Bytes, ReadError> {
        let mut events = BytesMut::new();
        let (mut count, mut at) = (0, after);
        'reading: while at < reached && count < EVENTS_MAX {
            let commits = self.site.journal().read(at, READ_BYTES)?;
            if commits.is_empty() {
                // A journal that is shared has positions that are no commits.
                at = reached;
            }
            for commit in commits {
                if commit.position > reached {
                    at = reached;
                    break 'reading;
                }
                let encoded = self.encoded(&commit);
                if count > 0 && count + encoded.events > EVENTS_MAX {
                    break 'reading;
                }
                if !events.is_empty() && !encoded.json.is_empty() {
                    events.put_u8(b',');
                }
                events.extend_from_slice(&encoded.json);
                count += encoded.events;
                at = commit.position;
            }
        }
        let sequence = token::write(self.site.origin(), at);
        let mut out = BytesMut::with_capacity(events.len() + sequence.len() + 40);
        out.extend_from_slice(b"{\"sequence\":\"");
        out.extend_from_slice(sequence.as_bytes());
        out.put_u8(b'"');
        if !events.is_empty() {
            out.extend_from_slice(b",\"changes\":[");
            out.extend_from_slice(&events);
            out.put_u8(b']');
        }
        out.put_u8(b'}');
        Ok(out.freeze())
    }

    /// The commit as JSON, encoded once however many read it.
    fn encoded(&self, commit: &Commit) -> EncodedCommit {
        if let Some(known) = self.encoded.lock().by_position.get(&commit.position) {
            return known.clone();
        }
        let encoded = encode(commit);
        let mut all = self.encoded.lock();
        all.bytes += encoded.json.len();
        if let Some(twice) = all.by_position.insert(commit.position, encoded.clone()) {
            all.bytes -= twice.json.len();
        }
        while all.bytes > ENCODED_BYTES_MAX {
            let Some((_, oldest)) = all.by_position.pop_first() else { break };
            all.bytes -= oldest.json.len();
        }
        encoded
    }
}

fn encode(commit: &Commit) -> EncodedCommit {
    let mut w = PlainJson::default();
    let mut events = 0;
    for change in commit.changes.iter().filter(|c| is_public(&c.id)) {
        if events > 0 {
            w.out.push(b',');
        }
        Wire::encode(&event(change), &mut w);
        events += 1;
    }
    EncodedCommit { events, json: w.out.into() }
}

/// Whether changes of the resource are for everyone who may read: accounts are not.
pub(crate) fn is_public(id: &ResourceId) -> bool {
    id.resource_type.as_str() != builtin::ACCOUNT
}

pub(crate) fn typed(id: &ResourceId) -> TypedId {
    TypedId { resource_type: id.resource_type.to_string(), id: id.id.to_string() }
}

fn event(change: &Change) -> ChangeEvent {
    let (kind, properties) = match &change.operation {
        Operation::Create(_) => (ChangeKind::Create, None),
        Operation::Update(leaves) => {
            (ChangeKind::Update, Some(leaves.iter().map(|leaf| leaf.path.to_string()).collect()))
        }
        Operation::Delete(_) => (ChangeKind::Delete, None),
    };
    ChangeEvent {
        resource: typed(&change.id),
        kind,
        properties,
        parent_resources: change.parents.iter().map(typed).collect(),
    }
}

/// The error for a token that cannot be continued.
pub(crate) fn refuse(error: &TokenError) -> Error {
    Error::invalid_argument(error.message_id(), "sequence_token", &error.to_string())
}

/// The error for a journal that cannot be read: the token's fault, or the store's.
pub(crate) fn refuse_read(error: &ReadError) -> Error {
    match TokenError::from_read(error) {
        Some(token) => refuse(&token),
        None => {
            tracing::error!(%error, "the journal cannot be read");
            Error::internal()
        }
    }
}

/// The position of a token that can be continued.
pub(crate) fn check(site: &Site, sequence_token: &str) -> Result<Position, TokenError> {
    let position = token::read(site.origin(), sequence_token)?;
    if position > site.journal().head() {
        return Err(TokenError::Future);
    }
    if position < site.journal().oldest() {
        return Err(TokenError::Expired);
    }
    Ok(position)
}

pub(crate) async fn get_changes(feed: Arc<Feed>, context: Context, input: GetChangesInput) -> Result<Answer, Error> {
    let site = &context.site;
    let after = check(site, &input.sequence_token).map_err(|e| refuse(&e))?;
    drop(input);
    let mut progress = site.progress();
    let mut reached = site.position();
    if reached <= after {
        let place = feed.parking.enter()?;
        let woken = place.wait(&mut progress, after).await;
        still_there(site, &context.caller)?;
        // Without changes the answer carries the same position: nothing has happened up to it.
        reached = match woken {
            Woken::Progress => site.position(),
            Woken::TimeUp => after,
        };
    }
    let read = if reached.0.saturating_sub(after.0) <= NEAR_POSITIONS {
        feed.log.serve(after, reached)
    } else {
        let feed = feed.clone();
        tokio::task::spawn_blocking(move || feed.log.assemble(after, reached)).await.map_err(|_| Error::internal())?
    };
    let json = read.map_err(|e| refuse_read(&e))?;
    Ok(Answer { value: Box::new(ChangesJson(json.clone())), plain_json: Some(json), headers: Vec::new() })
}

/// An answer that was written as plain JSON, for the encodings that want something else.
struct ChangesJson(Bytes);

impl Encode for ChangesJson {
    fn encode(&self, w: &mut dyn Writer) {
        let data = Data::from_json(&self.0).ok();
        match data.and_then(|data| ChangeList::decode(data, &Place::root(Encoding::Plain)).ok()) {
            Some(list) => Wire::encode(&list, w),
            // Written by this server a moment ago.
            None => tracing::error!("a change list does not read back"),
        }
    }
}
