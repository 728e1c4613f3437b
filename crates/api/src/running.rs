//! A request under way: its operation is called, waited for, answered, counted and logged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response};
use http_body::Body as _;
use lockstep_contract::{Error, Privilege};
use lockstep_site::caller::Caller;
use lockstep_site::table::{Answer, Context, Entry, Reply};
use tokio::net::TcpStream;

use crate::availability;
use crate::body::Body;
use crate::envelope::Envelope;
use crate::limits::Share;
use crate::operation_id;
use crate::refusal::Refusal;
use crate::request::{Call, Peer, Plan, Planned, Stopped, busy};
use crate::server::Server;
use crate::socket::poll_hang_up;

/// A request that took longer is logged as a warning, unless waiting is what it does.
const SLOW: Duration = Duration::from_secs(2);

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

impl What {
    fn entry(self, server: &Server) -> Option<&Entry> {
        match self {
            Self::Operation(index) => server.table.entries().get(index),
            Self::Other(_) => None,
        }
    }
}

/// Runs a request to its answer. `planning` reads it.
///
/// # Errors
/// [`HungUp`]; every other failure is an answer.
pub(crate) async fn run(
    server: Arc<Server>,
    peer: Arc<Peer>,
    planning: Pin<Box<impl Future<Output = Planned>>>,
    is_head: bool,
) -> Result<Response<Body>, HungUp> {
    let started = Instant::now();
    match begin(&server, &peer, caught(planning).await, started) {
        Begun::Done(id, response) => Ok(finish(response, &id, is_head)),
        Begun::Running(mut running) => {
            let result = running.wait().await?;
            let id = running.id.clone();
            Ok(finish(running.respond(&server, result), &id, is_head))
        }
    }
}

/// What a request came to when its operation, if there is one, was called.
enum Begun {
    Done(Arc<str>, Response<Body>),
    Running(Running),
}

/// An operation under way: all that is held of a request while it waits.
struct Running {
    id: Arc<str>,
    index: usize,
    caller: Caller,
    envelope: Envelope,
    reply: Reply,
    /// The connection, when the operation waits and the client can be seen to hang up.
    watched: Option<Arc<TcpStream>>,
    /// Its share of the requests that are worked on, or of those that wait.
    _place: Option<Share>,
    started: Instant,
}

fn begin(server: &Arc<Server>, peer: &Peer, planned: Option<Planned>, started: Instant) -> Begun {
    let Some(Planned { id, mut place, plan }) = planned else {
        let refusal = Refusal::from(Error::internal());
        tell(server, What::Other(""), None, Some(&refusal.error), started.elapsed());
        return Begun::Done(operation_id::new(), Envelope::of_path("").refuse(None, refusal));
    };
    let Call { index, caller, input, encoding, envelope, elsewhere } = match plan {
        Ok(Plan::Call(call)) => call,
        Ok(Plan::Done(what, error, response)) => {
            tell(server, what, None, error.as_ref(), started.elapsed());
            return Begun::Done(id, response);
        }
        Err(stopped) => {
            let Stopped { what, envelope, refusal } = *stopped;
            tell(server, what, None, Some(&refusal.error), started.elapsed());
            let operation = what.entry(server).map(|entry| entry.operation);
            let mut response = envelope.refuse(operation, refusal);
            availability::tell_operation_id(&envelope, &mut response, &id);
            return Begun::Done(id, response);
        }
    };
    let entry = &server.table.entries()[index];
    let waits = entry.operation.waits;
    if waits {
        place = server.parked.take(1);
    }
    let context = Context { site: server.site.clone(), caller: caller.clone(), operation_id: id.clone() };
    let reply = if place.is_none() {
        failed(busy())
    } else {
        let call = || match elsewhere {
            None => entry.call(context, input, encoding, envelope.is_legacy()),
            Some(site) => availability::run_elsewhere(server, context, site, entry.operation, input),
        };
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| failed(panicked()))
    };
    let watched = peer.stream.clone().filter(|_| waits);
    Begun::Running(Running { id, index, caller, envelope, reply, watched, _place: place, started })
}

fn failed(error: Error) -> Reply {
    Box::pin(std::future::ready(Err(error)))
}

impl Running {
    /// The operation's result. It is ended when it panics, and when nobody waits for it any more.
    async fn wait(&mut self) -> Result<Result<Answer, Error>, HungUp> {
        std::future::poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| self.reply.as_mut().poll(cx))) {
                Ok(Poll::Ready(result)) => return Poll::Ready(Ok(result)),
                Ok(Poll::Pending) => {}
                Err(_) => return Poll::Ready(Ok(Err(panicked()))),
            }
            match self.watched.as_ref().map(|stream| poll_hang_up(stream, cx)) {
                Some(Poll::Ready(true)) => return Poll::Ready(Err(HungUp)),
                Some(Poll::Ready(false)) => self.watched = None,
                Some(Poll::Pending) | None => {}
            }
            Poll::Pending
        })
        .await
    }

    fn respond(self, server: &Server, result: Result<Answer, Error>) -> Response<Body> {
        let operation = server.table.entries()[self.index].operation;
        tell(server, What::Operation(self.index), Some(&self.caller), result.as_ref().err(), self.started.elapsed());
        let wrap = || match result {
            Ok(answer) => self.envelope.answer(operation, answer),
            Err(error) => self.envelope.refuse(Some(operation), error.into()),
        };
        let mut response =
            catch_unwind(AssertUnwindSafe(wrap)).unwrap_or_else(|_| self.envelope.refuse(None, panicked().into()));
        availability::tell_operation_id(&self.envelope, &mut response, &self.id);
        response
    }
}

/// What all responses have, and what a HEAD leaves out.
fn finish(mut response: Response<Body>, id: &str, is_head: bool) -> Response<Body> {
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(operation_id::HEADER, id);
    }
    if is_head {
        if let Some(bytes) = response.body().size_hint().exact() {
            response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
        }
        *response.body_mut() = Body::Empty;
    }
    response
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
    let is_read =
        operation.is_none_or(|o| matches!(o.privilege, Privilege::Read | Privilege::Session | Privilege::Replicate));
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
