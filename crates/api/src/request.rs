//! One request: what it asks for and who asks.
//!
//! A request is read whole and made into a [`Call`]; only that lives on while its operation runs, so that a reader who waits holds
//! neither the headers nor the body of its request.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use lockstep_contract::{Data, Encoding, Error, ErrorKind};
use lockstep_site::caller::Caller;
use tokio::net::TcpStream;
use tracing::{Instrument as _, Span};

use crate::auth::Credentials;
use crate::body::{self, Body};
use crate::envelope::Envelope;
use crate::limits::Share;
use crate::negotiate::{self, Format};
use crate::refusal::Refusal;
use crate::router::{Found, RPC_PATH, Space, Target};
use crate::running::{HungUp, What, run};
use crate::server::Server;
use crate::{availability, operation_id, pages, rest, rpc, soap, streams};

/// The other side of a connection.
pub(crate) struct Peer {
    pub address: IpAddr,
    /// The connection, where a request that waits can see the client hang up by it.
    pub stream: Option<Arc<TcpStream>>,
}

/// A call of an operation, ready to run.
pub(crate) struct Call {
    pub index: usize,
    pub caller: Caller,
    pub input: Data,
    pub encoding: Encoding,
    pub envelope: Envelope,
    /// The other site that it is to run at.
    pub elsewhere: Option<String>,
}

/// What a request came to when it was read.
pub(crate) enum Plan {
    Call(Call),
    /// The answer, when no operation needs to be called for it; with the error that it tells of.
    Done(What, Option<Error>, Response<Body>),
}

/// A request that is refused before an operation is called.
pub(crate) struct Stopped {
    pub what: What,
    pub envelope: Envelope,
    pub refusal: Refusal,
}

/// A request that was read.
pub(crate) struct Planned {
    pub id: Arc<str>,
    /// Its share of the requests that are worked on.
    pub place: Option<Share>,
    pub plan: Result<Plan, Box<Stopped>>,
}

/// Answers one request.
///
/// # Errors
/// [`HungUp`]; every other failure is an answer.
pub(crate) fn answer(
    server: Arc<Server>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, HungUp>> {
    let is_head = request.method() == Method::HEAD;
    let mut id = operation_id::given(request.headers());
    if id.is_none() && request.uri().path() != RPC_PATH {
        id = Some(operation_id::new());
    }
    let span = tracing::info_span!("request", id = id.as_deref());
    // Boxed: it is large, and gone before a reader waits.
    let planning = Box::pin(plan(server.clone(), peer.clone(), request, id));
    run(server, peer, planning, is_head).instrument(span)
}

/// Reads a request and finds out what answers it.
async fn plan(server: Arc<Server>, peer: Arc<Peer>, request: Request<Incoming>, mut id: Option<Arc<str>>) -> Planned {
    let place = server.in_flight.take(1);
    let (parts, body) = request.into_parts();
    let plan = if place.is_some() {
        route(&server, &peer, &parts, body, &mut id).await
    } else {
        let envelope = Envelope::of_path(parts.uri.path());
        Err(Box::new(Stopped { what: What::Other(""), envelope, refusal: busy().into() }))
    };
    let id = id.unwrap_or_else(|| {
        let id = operation_id::new();
        Span::current().record("id", &*id);
        id
    });
    Planned { id, place, plan }
}

async fn route(
    server: &Arc<Server>,
    peer: &Peer,
    parts: &request::Parts,
    body: Incoming,
    id: &mut Option<Arc<str>>,
) -> Result<Plan, Box<Stopped>> {
    let path = parts.uri.path();
    let found = server.router.find(&parts.method, path, parts.uri.query().unwrap_or_default());
    let found = found
        .map_err(|refusal| Box::new(Stopped { what: What::Other(""), envelope: Envelope::of_path(path), refusal }))?;
    match found.target {
        Target::Rpc => plan_rpc(server, peer, parts, body, id).await,
        Target::Operation(index, Space::Availability) => {
            availability::plan(server, peer, parts, body, index, found).await
        }
        Target::AvailabilityLogin => availability::log_in(server, peer, parts, body).await,
        Target::AvailabilityLogout => availability::log_out(server, parts),
        Target::Operation(index, space) => plan_rest(server, peer, parts, body, (index, space), found).await,
        Target::Soap => {
            let soap::Answered { name, error, response } = soap::answer(server, peer, parts, body).await;
            Ok(Plan::Done(What::Other(name), error, response))
        }
        Target::Page(page) => {
            let answered = pages::answer(server, peer, page, parts).await;
            finished(What::Other(page.name()), path, answered)
        }
        Target::Stream(stream) => {
            let answered = streams::answer(server, peer, stream, found, parts, body, id).await;
            finished(What::Other(stream.name()), path, answered)
        }
    }
}

fn finished(what: What, path: &str, answered: Result<Response<Body>, Refusal>) -> Result<Plan, Box<Stopped>> {
    match answered {
        Ok(response) => Ok(Plan::Done(what, None, response)),
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
    let own = negotiate::of_request(&parts.headers).filter(|format| match format {
        Format::Json => true,
        Format::Xml | Format::TextXml => takes_xml,
        Format::Bytes => operation.bytes_parameter().is_some(),
    });
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
        let (input, encoding) = rest::input(operation, found, bytes, own.unwrap_or(Format::Json))?;
        Ok((caller, input, encoding))
    };
    match read.await {
        Ok((caller, input, encoding)) => {
            Ok(Plan::Call(Call { index, caller, input, encoding, envelope, elsewhere: None }))
        }
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
        Err(failure) => return Ok(Plan::Done(what, Some(failure.as_error()), failure.response())),
    };
    if id.is_none()
        && let Some(given) = request.operation_id.as_deref().and_then(operation_id::checked)
    {
        Span::current().record("id", &*given);
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
        Ok((caller, input)) => {
            let encoding = Encoding::Typed;
            Ok(Plan::Call(Call { index, caller, input, encoding, envelope, elsewhere: None }))
        }
        Err(error) => Err(Box::new(Stopped { what: What::Operation(index), envelope, refusal: error.into() })),
    }
}

/// The refusal of what does not fit into the server's limits.
pub(crate) fn busy() -> Error {
    let message = "the server has as many requests as it takes; try again in a moment";
    Error::new(ErrorKind::ServiceUnavailable, "lockstep.request.busy", message, Vec::new())
}

/// The refusal of a body in a format that is not read here.
pub(crate) fn unsupported_media(takes_xml: bool) -> Refusal {
    let formats = if takes_xml { "application/json, application/xml or text/xml" } else { "application/json" };
    let error = Error::invalid_request(format!("the content type is not {formats}"));
    Refusal::new(error).status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}
