//! `GET /api/lockstep/feed/events`: the change feed as server-sent events.
//!
//! One event for each answer that the feed's operation gives, with the token behind it as the event's id: a browser that has lost its
//! connection sends that back as `Last-Event-ID`, and misses nothing. Without a filter the events are those of the change log, one
//! for each change; with one they are the net changes of the filtered feed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use lockstep_contract::services::{change_log, feed};
use lockstep_contract::{Data, Declared, Encoding, Error, ErrorKind, Operation, PlainJson};
use lockstep_site::caller::Caller;
use lockstep_site::table::{Answer, Context, Entry, Reply};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{PIECES_AHEAD, Query, invalid, parameter};
use crate::body::Body;
use crate::envelope::{current_error, with_body};
use crate::limits::Share;
use crate::negotiate::Format;
use crate::refusal::Refusal;
use crate::request::{Peer, busy};
use crate::server::Server;

/// How often a silent stream says that it is alive: proxies cut connections that say nothing for half a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long the stream's head waits for the first answer: what is wrong with the request is known by then, and gets its status.
const FIRST_ANSWER: Duration = Duration::from_millis(50);

/// What the stream asks the feed for, again and again.
struct Subscription {
    server: Arc<Server>,
    entry: usize,
    context: Context,
    /// The input but for the token.
    input: Vec<(String, Data)>,
}

/// The part of the feed's answers that the stream itself needs.
#[derive(Deserialize)]
struct Head {
    sequence: String,
    changes: Option<IgnoredAny>,
}

pub(super) async fn answer(
    server: &Arc<Server>,
    peer: &Peer,
    caller: Caller,
    mut query: Query,
    headers: &HeaderMap,
    id: Option<Arc<str>>,
) -> Result<Response<Body>, Refusal> {
    let asked = query.one("sequence_token")?;
    let types = query.all("resource_types");
    let filter = query.one("filter")?;
    let catch_up = query.one("catch_up")?;
    query.end()?;
    let operation_id = id.unwrap_or_else(|| "events".into());
    let context = Context { site: server.site.clone(), caller, operation_id };
    let mut input = Vec::new();
    if !types.is_empty() {
        input.push(("resource_types".to_owned(), Data::List(types.into_iter().map(Data::String).collect())));
    }
    if let Some(filter) = filter {
        let filter =
            Data::from_request(filter.as_bytes()).map_err(|e| invalid("filter", &format!("malformed JSON: {e}")))?;
        input.push(("filter".to_owned(), filter));
    }
    match catch_up.as_deref() {
        None | Some("false") => {}
        Some("true") => input.push(("catch_up".to_owned(), Data::Boolean(true))),
        Some(_) => return Err(invalid("catch_up", "expected true or false").into()),
    }
    let operation = if input.is_empty() { change_log::GetChanges::OPERATION } else { feed::GetChanges::OPERATION };
    let entry = find(server, &operation)?;
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    let token = match resumed.map(str::to_owned).or(asked) {
        Some(token) => token,
        None => current_token(server, &context).await?,
    };
    let place = server.parked.take(1).ok_or_else(busy)?;
    let subscription = Subscription { server: server.clone(), entry, context, input };
    let mut reply = subscription.ask(&token);
    let first = match timeout(FIRST_ANSWER, &mut reply).await {
        Ok(Err(error)) => return Err(error.into()),
        Ok(Ok(answer)) => Box::pin(std::future::ready(Ok(answer))),
        Err(_) => reply,
    };
    let (send, pieces) = mpsc::channel(PIECES_AHEAD);
    tokio::spawn(subscription.run(token, first, send, place));
    let mut response = with_body(StatusCode::OK, Format::Json, Body::stream(pieces, peer));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

fn find(server: &Server, operation: &Operation) -> Result<usize, Error> {
    server.table.find(operation.service, operation.name).ok_or_else(|| {
        let message = "the server has no change feed";
        Error::new(ErrorKind::OperationNotFound, "lockstep.request.operation_not_found", message, Vec::new())
    })
}

async fn current_token(server: &Server, context: &Context) -> Result<String, Error> {
    let entry = find(server, &change_log::GetCurrentSequence::OPERATION)?;
    let reply = server.table.entries()[entry].call(context.clone(), Data::object([]), Encoding::Plain, false);
    match Data::from_json(&plain_json(&reply.await?)) {
        Ok(Data::String(token)) => Ok(token),
        Ok(_) | Err(_) => Err(Error::internal()),
    }
}

fn plain_json(answer: &Answer) -> Bytes {
    answer.plain_json.clone().unwrap_or_else(|| {
        let mut w = PlainJson::default();
        answer.value.encode(&mut w);
        w.out.into()
    })
}

impl Subscription {
    fn entry(&self) -> &Entry {
        &self.server.table.entries()[self.entry]
    }

    fn ask(&self, token: &str) -> Reply {
        let mut input = self.input.clone();
        input.push(("sequence_token".to_owned(), Data::String(token.to_owned())));
        self.entry().call(self.context.clone(), Data::object(input), Encoding::Plain, false)
    }

    /// Sends events until the client goes, the session ends or the server stops.
    async fn run(self, mut token: String, mut reply: Reply, send: mpsc::Sender<io::Result<Bytes>>, place: Share) {
        let _place = place;
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = loop {
                tokio::select! {
                    result = &mut reply => break result,
                    _ = heartbeat.tick() => {
                        if send.send(Ok(Bytes::from_static(b":\n\n"))).await.is_err() {
                            return;
                        }
                    }
                    () = send.closed() => return,
                }
            };
            let event = match result {
                Ok(answer) => {
                    let json = plain_json(&answer);
                    let Ok(head) = serde_json::from_slice::<Head>(&json) else {
                        return tracing::error!("the change feed answered with what is no list of changes");
                    };
                    let event = event(&head, &token, &json);
                    token = head.sequence;
                    event
                }
                Err(error) => {
                    let _ = send.send(Ok(framed("event: error\n", &current_error(&error)))).await;
                    return;
                }
            };
            if !event.is_empty() && send.send(Ok(event)).await.is_err() {
                return;
            }
            if self.server.site.progress().borrow().is_stopping {
                return;
            }
            reply = self.ask(&token);
        }
    }
}

/// The event for an answer; only the new id when nothing happened, and nothing when that is the old one.
fn event(head: &Head, before: &str, json: &[u8]) -> Bytes {
    match &head.changes {
        Some(_) => framed(&format!("id: {}\nevent: changes\n", head.sequence), json),
        None if head.sequence == before => Bytes::new(),
        None => format!("id: {}\n\n", head.sequence).into(),
    }
}

/// An event with its data, which is JSON without line breaks.
fn framed(head: &str, json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(head.len() + json.len() + 8);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

pub(super) fn describe() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "tags": ["lockstep.feed"],
        "summary": "The change feed as server-sent events",
        "description": "Events are named `changes`; their data is what get_changes answers, their id the token behind it. The header \
            Last-Event-ID wins over sequence_token; without both the events begin at this moment. An event `error` is the last.",
        "parameters": [
            parameter("sequence_token", "Where to go on", &text),
            parameter("resource_types", "Only resources of this type; may be repeated", &json!({ "type": "array", "items": text })),
            parameter("filter", "Only resources that match: a resource filter as JSON", &text),
            parameter("catch_up", "Answer a token that has aged out by a catch-up", &json!({ "type": "boolean" })),
        ],
        "responses": { "200": { "description": "the events", "content": { "text/event-stream": { "schema": text } } } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_carries_the_token_behind_it() {
        let read = |json: &str| {
            let head: Head = serde_json::from_str(json).unwrap();
            String::from_utf8(event(&head, "old", json.as_bytes()).to_vec()).unwrap()
        };
        let json = r#"{"sequence":"new","changes":[{"kind":"CREATE"}]}"#;
        assert_eq!(read(json), format!("id: new\nevent: changes\ndata: {json}\n\n"));
        assert_eq!(read(r#"{"sequence":"new"}"#), "id: new\n\n");
        assert_eq!(read(r#"{"sequence":"old"}"#), "");
    }
}
