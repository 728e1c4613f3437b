//! `POST /api/lockstep/resources?action=import`: many resources at once, as NDJSON.
//!
//! The body may have any length. It is read no faster than the site commits it, so a client that sends too fast is slowed down by
//! the connection itself.

use http::{HeaderMap, HeaderName, Response, StatusCode};
use hyper::body::Incoming;
use lockstep_contract::Error;
use lockstep_site::caller::Caller;
use lockstep_site::import::{BATCH_LINES_DEFAULT, BATCH_LINES_MAX, ImportOptions, Importer, OnExisting, Report};
use lockstep_site::token;
use serde_json::{Value, json};

use super::{NDJSON, Query, invalid, parameter};
use crate::body::{self, Body};
use crate::envelope::with_body;
use crate::negotiate::{self, Format};
use crate::refusal::Refusal;
use crate::server::Server;

/// How many lines of a failed import are in.
const LINES_COMMITTED: HeaderName = HeaderName::from_static("lockstep-lines-committed");

/// The content types of NDJSON that are in use.
const CONTENT_TYPES: [&str; 5] =
    [NDJSON, "application/ndjson", "application/json-lines", "application/jsonl", "application/x-jsonlines"];

pub(super) async fn answer(
    server: &Server,
    caller: &Caller,
    query: Query,
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let options = options(query)?;
    let content_type = negotiate::content_type(headers);
    if !CONTENT_TYPES.iter().any(|known| content_type.eq_ignore_ascii_case(known)) {
        let error = Error::invalid_request(format!("the content type is not {NDJSON}"));
        return Err(Refusal::new(error).status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let mut importer = Importer::new(server.site.clone(), caller, options);
    match take_all(server, &mut importer, &mut body).await {
        Ok(report) => {
            let sequence = token::write(server.site.origin(), report.position);
            Ok(with_body(StatusCode::OK, Format::Json, Body::one(summary(&report, &sequence).to_string())))
        }
        Err(refusal) => {
            // Also when it is the body that broke off, what was sent before may be on its way still.
            importer.abandon().await;
            Err(refusal.header(LINES_COMMITTED, importer.report().lines))
        }
    }
}

async fn take_all(server: &Server, importer: &mut Importer, body: &mut Incoming) -> Result<Report, Refusal> {
    loop {
        // Only the client's silence is limited: the time that commits take is not its fault.
        let piece = tokio::time::timeout(server.limits.body_timeout, body::next_piece(body));
        match piece.await.map_err(|_| body::too_slow())?? {
            Some(piece) => importer.push(&piece).await?,
            None => return Ok(importer.finish().await?),
        }
    }
}

fn summary(report: &Report, sequence: &str) -> Value {
    json!({
        "lines": report.lines,
        "created": report.created,
        "replaced": report.replaced,
        "unchanged": report.unchanged,
        "skipped": report.skipped,
        "position": report.position.0,
        "sequence": sequence,
    })
}

fn options(mut query: Query) -> Result<ImportOptions, Error> {
    let on_existing = match query.one("on_existing")?.as_deref() {
        None | Some("replace") => OnExisting::Replace,
        Some("skip") => OnExisting::Skip,
        Some("fail") => OnExisting::Fail,
        Some(_) => return Err(invalid("on_existing", "expected replace, skip or fail")),
    };
    let batch_lines = match query.one("batch")? {
        None => BATCH_LINES_DEFAULT,
        Some(text) => match text.parse() {
            Ok(lines @ 1..=BATCH_LINES_MAX) => lines,
            _ => return Err(invalid("batch", &format!("expected 1 to {BATCH_LINES_MAX} lines"))),
        },
    };
    query.end()?;
    Ok(ImportOptions { on_existing, batch_lines })
}

pub(super) fn describe() -> Value {
    let count = json!({ "type": "integer", "format": "int64" });
    json!({
        "tags": ["lockstep.resources"],
        "summary": "Imports resources, one a line",
        "description": "Each line is {\"type\": …, \"id\": …, \"properties\": {…}}. Lines are committed in batches, in order, each \
            whole or not at all. An error names the line it is about; the header Lockstep-Lines-Committed says how many lines are in, \
            and so where to resume.",
        "parameters": [
            parameter("on_existing", "What to do with a resource that exists", &json!({ "type": "string", "enum": ["replace", "skip", "fail"] })),
            parameter("batch", "Lines of a batch", &json!({ "type": "integer", "minimum": 1, "maximum": BATCH_LINES_MAX })),
        ],
        "requestBody": { "required": true, "content": { NDJSON: { "schema": { "type": "string" } } } },
        "responses": { "200": { "description": "what was done", "content": { "application/json": { "schema": {
            "type": "object",
            "properties": {
                "lines": count, "created": count, "replaced": count, "unchanged": count, "skipped": count, "position": count,
                "sequence": { "type": "string" },
            },
        } } } } },
    })
}
