//! `GET /api/lockstep/resources?action=export`: the inventory as NDJSON, in the form that import takes.

use std::io;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use lockstep_contract::Error;
use lockstep_model::ResourceId;
use lockstep_site::export::{ExportOptions, Exporter};
use lockstep_site::token;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{NDJSON, PIECES_AHEAD, Query, invalid, parameter};
use crate::body::Body;
use crate::envelope::with_body;
use crate::negotiate::Format;
use crate::refusal::Refusal;
use crate::request::{Peer, busy};
use crate::server::Server;

/// The token from which the feed goes on to what changes while the export runs.
const SEQUENCE: HeaderName = HeaderName::from_static("lockstep-sequence");

pub(super) fn answer(server: &Arc<Server>, peer: &Peer, query: Query) -> Result<Response<Body>, Refusal> {
    let options = options(server, query)?;
    // Held as long as the export runs, which is longer than the request is worked on.
    let place = server.in_flight.take(1).ok_or_else(busy)?;
    let sequence = token::write(server.site.origin(), server.site.position());
    let mut exporter = Exporter::new(&server.site, options);
    let (send, pieces) = mpsc::channel(PIECES_AHEAD);
    tokio::spawn(async move {
        let _place = place;
        loop {
            // A chunk takes the view's lock and some milliseconds.
            let next = tokio::task::spawn_blocking(move || {
                let chunk = exporter.next_chunk();
                (exporter, chunk)
            });
            let piece = match next.await {
                Ok((rest, Some(chunk))) => {
                    exporter = rest;
                    Ok(chunk)
                }
                Ok((_, None)) => return,
                Err(error) => {
                    tracing::error!(%error, "an export failed");
                    let _ = send.send(Err(io::Error::other("the export failed"))).await;
                    return;
                }
            };
            if send.send(piece).await.is_err() {
                // The client has gone.
                return;
            }
        }
    });
    let mut response = with_body(StatusCode::OK, Format::Json, Body::stream(pieces, peer));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    if let Ok(sequence) = HeaderValue::try_from(sequence) {
        response.headers_mut().insert(SEQUENCE, sequence);
    }
    Ok(response)
}

fn options(server: &Server, mut query: Query) -> Result<ExportOptions, Error> {
    let types = query.all("type");
    let after = match (query.one("after_type")?, query.one("after_id")?) {
        (None, None) => None,
        (Some(of), Some(id)) => Some((of, id)),
        (Some(_), None) => return Err(invalid("after_id", "after_type and after_id belong together")),
        (None, Some(_)) => return Err(invalid("after_type", "after_type and after_id belong together")),
    };
    query.end()?;
    let view = server.site.view();
    let known = |parameter: &str, name: &str| match view.registry().type_def(name) {
        Some(type_def) => Ok(type_def.name.clone()),
        None => Err(invalid(parameter, &format!("there is no resource type {name}"))),
    };
    for name in &types {
        known("type", name)?;
    }
    let after = after.map(|(of, id)| known("after_type", &of).map(|of| ResourceId::new(of, &*id))).transpose()?;
    Ok(ExportOptions { types, after })
}

pub(super) fn describe() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "tags": ["lockstep.resources"],
        "summary": "Exports resources, one a line",
        "description": "The lines are what import takes. The header Lockstep-Sequence holds the token from which the feed goes on to \
            what changed while the export ran. One that broke off is resumed behind the last whole line.",
        "parameters": [
            parameter("type", "Only this type; may be repeated", &json!({ "type": "array", "items": text })),
            parameter("after_type", "Go on behind the resource of this type", &text),
            parameter("after_id", "and this id", &text),
        ],
        "responses": { "200": { "description": "the resources", "content": { NDJSON: { "schema": text } } } },
    })
}
