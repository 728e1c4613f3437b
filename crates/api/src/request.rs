//! One request: what it asks for, who asks, what comes of it, and what the log and the counters hear.
//!
//! A request is first read whole and made into a [`Call`]; only that lives on while an operation runs, so that a reader who waits
//! holds neither the headers nor the body of its request.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use hyper::body::Incoming;
use lockstep_contract::{Data, Encoding, Error, ErrorKind, Privilege};
use lockstep_site::caller::Caller;
use lockstep_site::table::{Answer, Context, Entry, Reply};
use tokio::net::TcpStream;
use tracing::Instrument as _;

use crate::auth::Credentials;
use crate::body::{self, Body};
use crate::envelope::Envelope;
use crate::limits::Share;
use crate::negotiate::{self, Format};
use crate::refusal::Refusal;
use crate::router::{Found, Space, Target};
use crate::server::Server;
use crate::socket::poll_hang_up;
use crate::{pages, rest, rpc, streams};

/// The header that names the operation id, in requests and answers.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that may carry an operation id, the first that does counts.
const ID_HEADERS: [&str; 4] = ["x-request-id", "vapi-ctx-opid", "operationid", "opid"];

/// Longest operation id that is taken over from a client.
const ID_BYTES_MAX: usize = 128;

/// A request that took longer is logged as a warning, unless waiting is what it does.
const SLOW: Duration = Duration::from_secs(2);

/// The other side of a connection.
pub(crate) struct Peer {
    pub address: IpAddr,
    /// The connection, where a request that waits can see the client hang up by it.
    pub stream: Option<Arc<TcpStream>>,
}

/// The client hung up while its request waited: there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the client hung up")]
pub(crate) struct HungUp;

/// What a request asked for, as logs and counters name it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// The operation with this index in the table.
    Operation(usize),
    /// Something else; empty when there is nothing of that path.
    Other(&'static str),
}

/// A call of an operation, ready to run.
struct Call {
    index: usize,
    caller: Caller,
    input: Data,
    encoding: Encoding,
    envelope: Envelope,
}

/// What a request came to when it was read.
enum Plan {
    Call(Call),
    /// The answer, when no operation needs to be called for it.
    Done(What, Response<Body>),
}

/// A request that is refused before an operation is called.
pub(crate) struct Stopped {
    what: What,
    envelope: Envelope,
    refusal: Refusal,
}

/// Answers one request.
///
/// # Errors
/// [`HungUp`]; every other failure is an answer.
pub(crate) async fn answer(
    server: Arc<Server>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<Body>, HungUp> {
    let given = given_id(request.headers());
    let span = tracing::info_span!("request", id = tracing::field::Empty);
    if let Some(id) = &given {
        span.record("id", &**id);
    }
    run(server, peer, request, given).instrument(span).await
}

async fn run(
    server: Arc<Server>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
    mut id: Option<Arc<str>>,
) -> Result<Response<Body>, HungUp> {
    let started = Instant::now();
    let is_head = request.method() == Method::HEAD;
    let mut place = server.in_flight.take(1);
    // Boxed: it is large, and gone before a reader waits.
    let planned = caught(Box::pin(plan(&server, &peer, request, &mut id, place.is_some()))).await;
    let id = id.unwrap_or_else(|| {
        let id = new_id();
        tracing::Span::current().record("id", &*id);
        id
    });
    let mut response = match planned {
        Some(Ok(Plan::Done(what, response))) => {
            tell(&server, what, None, None, started.elapsed());
            response
        }
        Some(Err(stopped)) => {
            let Stopped { what, envelope, refusal } = *stopped;
            tell(&server, what, None, Some(&refusal.error), started.elapsed());
            envelope.refuse(what.entry(&server).map(|entry| entry.operation), refusal)
        }
        None => {
            let refusal = Refusal::from(Error::internal());
            tell(&server, What::Other(""), None, Some(&refusal.error), started.elapsed());
            Envelope::of_path("").refuse(None, refusal)
        }
        Some(Ok(Plan::Call(Call { index, caller, input, encoding, envelope }))) => {
            let entry = &server.table.entries()[index];
            let context =
                Context { site: server.site.clone(), caller: caller.clone(), operation_id: id.clone(), basic: None };
            let result = perform(&server, &peer, entry, &mut place, || {
                entry.call(context, input, encoding, envelope.is_legacy())
            });
            let result = result.await?;
            tell(&server, What::Operation(index), Some(&caller), result.as_ref().err(), started.elapsed());
            let wrap = || match result {
                Ok(answer) => envelope.answer(entry.operation, answer),
                Err(error) => envelope.refuse(Some(entry.operation), error.into()),
            };
            catch_unwind(AssertUnwindSafe(wrap)).unwrap_or_else(|_| envelope.refuse(None, Error::internal().into()))
        }
    };
    if let Ok(id) = HeaderValue::try_from(&*id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if is_head {
        if let Some(bytes) = response.body().size_hint().exact() {
            response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
        }
        *response.body_mut() = Body::Empty;
    }
    Ok(response)
}

/// Reads a request and finds out what answers it.
async fn plan(
    server: &Arc<Server>,
    peer: &Peer,
    request: Request<Incoming>,
    id: &mut Option<Arc<str>>,
    has_place: bool,
) -> Result<Plan, Box<Stopped>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let stopped =
        |refusal: Refusal| Box::new(Stopped { what: What::Other(""), envelope: Envelope::of_path(path), refusal });
    if !has_place {
        return Err(stopped(busy().into()));
    }
    let found = server.router.find(&parts.method, path, parts.uri.query().unwrap_or_default()).map_err(stopped)?;
    match found.target {
        Target::Rpc => plan_rpc(server, peer, &parts, body, id).await,
        Target::Operation(index, space) => plan_rest(server, peer, &parts, body, (index, space), found).await,
        Target::Page(page) => {
            let what = What::Other(page.name());
            let answered = pages::answer(server, peer, page, &parts).await;
            finished(what, path, answered)
        }
        Target::Stream(stream) => {
            let what = What::Other(stream.name());
            let answered = streams::answer(server, peer, stream, found, &parts, body, id).await;
            finished(what, path, answered)
        }
    }
}

fn finished(what: What, path: &str, answered: Result<Response<Body>, Refusal>) -> Result<Plan, Box<Stopped>> {
    match answered {
        Ok(response) => Ok(Plan::Done(what, response)),
        Err(refusal) => Err(Box::new(Stopped { what, envelope: Envelope::of_path(path), refusal })),
    }
}

async fn plan_rest(
    server: &Server,
    peer: &Peer,
    parts: &request::Parts,
    body: Incoming,
    (index, space): (usize, Space),
    found: Found,
) -> Result<Plan, Box<Stopped>> {
    let operation = server.table.entries()[index].operation;
    let takes_xml = space == Space::Ruled;
    let own = negotiate::of_request(&parts.headers).filter(|format| takes_xml || *format == Format::Json);
    let format = match takes_xml {
        true => negotiate::of_answer(&parts.headers, own.unwrap_or(Format::Json)),
        false => Format::Json,
    };
    let sets_cookie = space.is_legacy() && !parts.headers.contains_key("vmware-use-header-authn");
    let envelope = Envelope::Rest { space, format, sets_cookie };
    let read = async {
        // Who may not call the operation is not listened to any further.
        let credentials = Credentials::from_headers(&parts.method, &parts.uri, &parts.headers, true);
        let caller = credentials.caller(Some(operation), &server.site, peer.address).await?;
        caller.check(operation.privilege)?;
        let mut share = server.body_bytes.take(0);
        let mut bytes = match &mut share {
            Some(share) => body::read(body, &server.limits, share).await?,
            None => return Err(busy().into()),
        };
        // Nobody says what the body of a GET means. Some clients send their filter in it.
        if parts.method.is_safe() && (own.is_none() || !found.in_query.is_empty()) {
            bytes.clear();
        }
        if own.is_none() && !bytes.is_empty() {
            return Err(unsupported_media(takes_xml));
        }
        let (input, encoding) = rest::input(operation, found, &bytes, own.unwrap_or(Format::Json))?;
        Ok((caller, input, encoding))
    };
    match read.await {
        Ok((caller, input, encoding)) => Ok(Plan::Call(Call { index, caller, input, encoding, envelope })),
        Err(refusal) => Err(Box::new(Stopped { what: What::Operation(index), envelope, refusal })),
    }
}

async fn plan_rpc(
    server: &Server,
    peer: &Peer,
    parts: &request::Parts,
    body: Incoming,
    id: &mut Option<Arc<str>>,
) -> Result<Plan, Box<Stopped>> {
    let what = What::Other("json_rpc");
    let transport = |refusal: Refusal| Box::new(Stopped { what, envelope: Envelope::of_path("/api"), refusal });
    if negotiate::content_type(&parts.headers) != "application/json" {
        return Err(transport(Error::invalid_request("the content type is not application/json").into()));
    }
    let Some(mut share) = server.body_bytes.take(0) else { return Err(transport(busy().into())) };
    let bytes = body::read(body, &server.limits, &mut share).await.map_err(transport)?;
    let shown = Credentials::from_headers(&parts.method, &parts.uri, &parts.headers, false);
    let request = match rpc::read(&bytes, &parts.headers, shown, &server.table) {
        Ok(request) => request,
        Err(failure) => return Ok(Plan::Done(what, failure.response())),
    };
    if id.is_none()
        && let Some(given) = request.operation_id.as_deref().and_then(checked_id)
    {
        tracing::Span::current().record("id", &*given);
        *id = Some(given);
    }
    let envelope = Envelope::Rpc { id: request.id };
    let Some(index) = request.operation else {
        let message = "the server has no such operation";
        let refusal =
            Error::new(ErrorKind::OperationNotFound, "lockstep.request.operation_not_found", message, Vec::new())
                .into();
        return Err(Box::new(Stopped { what, envelope, refusal }));
    };
    let operation = server.table.entries()[index].operation;
    let known = async {
        let caller = request.credentials?.caller(Some(operation), &server.site, peer.address).await?;
        caller.check(operation.privilege)?;
        let missing = || Error::invalid_argument("lockstep.input.missing", "input", "the field is required");
        Ok::<_, Error>((caller, request.input.ok_or_else(missing)?))
    };
    match known.await {
        Ok((caller, input)) => Ok(Plan::Call(Call { index, caller, input, encoding: Encoding::Typed, envelope })),
        Err(error) => Err(Box::new(Stopped { what: What::Operation(index), envelope, refusal: error.into() })),
    }
}

/// Runs an operation: gives it its place, and ends it when it panics or when nobody waits for it any more.
async fn perform(
    server: &Server,
    peer: &Peer,
    entry: &Entry,
    place: &mut Option<Share>,
    call: impl FnOnce() -> Reply,
) -> Result<Result<Answer, Error>, HungUp> {
    let waits = entry.operation.waits;
    let parked = if waits { server.parked.take(1) } else { None };
    if waits {
        *place = None;
        if parked.is_none() {
            return Ok(Err(busy()));
        }
    }
    let Ok(mut reply) = catch_unwind(AssertUnwindSafe(call)) else { return Ok(Err(panicked())) };
    let mut watched = peer.stream.as_deref().filter(|_| waits);
    std::future::poll_fn(move |cx| {
        match catch_unwind(AssertUnwindSafe(|| reply.as_mut().poll(cx))) {
            Ok(Poll::Ready(result)) => return Poll::Ready(Ok(result)),
            Ok(Poll::Pending) => {}
            Err(_) => return Poll::Ready(Ok(Err(panicked()))),
        }
        match watched.map(|stream| poll_hang_up(stream, cx)) {
            Some(Poll::Ready(true)) => return Poll::Ready(Err(HungUp)),
            Some(Poll::Ready(false)) => watched = None,
            Some(Poll::Pending) | None => {}
        }
        Poll::Pending
    })
    .await
}

/// The future's output; `None` when it panics, so that a defect fails one request and not its connection.
async fn caught<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut future).poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
        Err(_) => {
            panicked();
            Poll::Ready(None)
        }
    })
    .await
}

/// The error for a panic. Where it happened, the panic's own message says.
fn panicked() -> Error {
    tracing::error!("a request panicked: this is a defect");
    Error::internal()
}

/// The refusal of what does not fit into the server's limits.
pub(crate) fn busy() -> Error {
    let message = "the server has as many requests as it takes; try again in a moment";
    Error::new(ErrorKind::ServiceUnavailable, "lockstep.request.busy", message, Vec::new())
}

/// The refusal of a body in a format that is not read here.
fn unsupported_media(takes_xml: bool) -> Refusal {
    let formats = if takes_xml { "application/json, application/xml or text/xml" } else { "application/json" };
    let error = Error::invalid_request(format!("the content type is not {formats}"));
    Refusal::new(error).status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

impl What {
    fn entry(self, server: &Server) -> Option<&Entry> {
        match self {
            Self::Operation(index) => server.table.entries().get(index),
            Self::Other(_) => None,
        }
    }
}

/// Counts a request, and logs it: changes and logins as information, reads for debugging, what is slow or our fault as a warning.
fn tell(server: &Server, what: What, caller: Option<&Caller>, error: Option<&Error>, took: Duration) {
    let name = match what {
        What::Operation(index) => {
            server.metrics.operation(index, error, took);
            server.metrics.name(index)
        }
        What::Other(name) => {
            server.metrics.other(name, error.map(|error| error.kind));
            name
        }
    };
    let operation = what.entry(server).map(|entry| entry.operation);
    let is_slow = took > SLOW && operation.is_some_and(|operation| !operation.waits);
    let is_ours = error.is_some_and(|error| error.kind.status() >= 500);
    let is_read = operation.is_none_or(|o| matches!(o.privilege, Privilege::Read | Privilege::Session));
    let user = caller.map(Caller::name);
    let user = user.as_deref().unwrap_or_default();
    let (error, took_us) = (error.map_or("", |error| error.kind.name()), took.as_micros());
    if is_slow || is_ours {
        tracing::warn!(operation = name, user, error, took_us, "answered");
    } else if is_read {
        tracing::debug!(operation = name, user, error, took_us, "answered");
    } else {
        tracing::info!(operation = name, user, error, took_us, "answered");
    }
}

/// The operation id that a client gave in a header.
fn given_id(headers: &HeaderMap) -> Option<Arc<str>> {
    ID_HEADERS.iter().find_map(|name| checked_id(headers.get(*name)?.to_str().ok()?))
}

/// The id when it is short and holds nothing that could mislead a reader of the log.
fn checked_id(id: &str) -> Option<Arc<str>> {
    let fits = !id.is_empty() && id.len() <= ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| id.into())
}

/// An operation id that no other request of this process has, and hardly one of another.
fn new_id() -> Arc<str> {
    static START: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}", START.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_ids_are_taken_over_only_when_they_are_harmless() {
        assert_eq!(checked_id("5192ab82-003a").as_deref(), Some("5192ab82-003a"));
        for bad in ["", "a b", "a\u{7f}", "ä", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(checked_id(bad), None, "{bad:?}");
        }
        assert_ne!(new_id(), new_id());
    }
}
