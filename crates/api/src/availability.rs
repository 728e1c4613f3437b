//! The API of Cloud Director Availability: what of it is HTTP's.
//!
//! Its operations are those of the table that declare a place in it; what is special is how they are wrapped:
//! - paths begin at the root, and repeated slashes count as one;
//! - answers are `application/vnd.vmware.h4-v<N>+json`, in the version that `Accept` asks for. All versions are answered alike, and an unknown one
//!   is refused (406);
//! - a session's token travels in `X-VCAV-Auth`, in exactly that spelling where HTTP/1.1 shows it: scripts look for it with `grep`;
//! - unset members are null, not left out; what a request has that an operation does not know is left out;
//! - errors are `{code, msg, args, stacktrace}`, with statuses of their own;
//! - `?site=` runs the operation at a linked site;
//! - the header `operationID` comes back with the answer.
//!
//! Source: `api/vcda.md`, sections 1 to 5.

mod case;
mod lenient;
mod login;

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request};
use hyper::body::Incoming;
use lockstep_contract::services::replication::codes;
use lockstep_contract::{Data, Encoding, Error, ErrorKind, Opaque, Operation, PlainJson, Type, Wire as _};
use lockstep_site::caller::Caller;
use lockstep_site::table::{Answer, Context, Reply};

use crate::auth::Credentials;
use crate::body::{self, Body};
use crate::envelope::Envelope;
use crate::negotiate::{self, Format};
use crate::params;
use crate::refusal::Refusal;
use crate::request::{Call, Peer, Plan, Stopped, busy, unsupported_media};
use crate::router::Found;
use crate::running::What;
use crate::server::Server;

pub(crate) use login::{log_in, log_out};

/// Where sessions begin and end.
pub(crate) const SESSIONS_PATH: &str = "/sessions";

/// The header of a session's token.
const TOKEN: HeaderName = HeaderName::from_static("x-vcav-auth");

/// The header of the operation id, in answers.
const OPERATION_ID: HeaderName = HeaderName::from_static("operationid");

/// The first parts of the paths that belong to this API, whether there is such an operation or not.
const ROOTS: [&str; 11] = [
    "sessions",
    "sites",
    "config",
    "diagnostics",
    "tasks",
    "vm-replications",
    "vapp-replications",
    "replications",
    "inventory",
    "policies",
    "replicators",
];

/// Whether a path belongs to this API.
pub(crate) fn is_path(path: &str) -> bool {
    let first = path.split('/').find(|part| !part.is_empty());
    first.is_some_and(|first| ROOTS.contains(&first))
}

/// The path with one slash where there are several.
pub(crate) fn with_single_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        out.push('/');
        out.push_str(part);
    }
    if path.ends_with('/') || out.is_empty() {
        out.push('/');
    }
    Cow::Owned(out)
}

/// The paths that an operation is served at: what is done with a machine's replication has a second name of the lower layer.
pub(crate) fn paths(path: &str) -> Vec<String> {
    let lower = path.strip_prefix("/vm-replications").map(|rest| format!("/replications{rest}"));
    std::iter::once(path.to_owned()).chain(lower).collect()
}

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(&'static str);

const VERSIONS: [(&str, &str); 12] = [
    ("1", "application/vnd.vmware.h4-v1+json;charset=UTF-8"),
    ("2", "application/vnd.vmware.h4-v2+json;charset=UTF-8"),
    ("3", "application/vnd.vmware.h4-v3+json;charset=UTF-8"),
    ("3.5", "application/vnd.vmware.h4-v3.5+json;charset=UTF-8"),
    ("4", "application/vnd.vmware.h4-v4+json;charset=UTF-8"),
    ("4.1", "application/vnd.vmware.h4-v4.1+json;charset=UTF-8"),
    ("4.2", "application/vnd.vmware.h4-v4.2+json;charset=UTF-8"),
    ("4.3", "application/vnd.vmware.h4-v4.3+json;charset=UTF-8"),
    ("4.4", "application/vnd.vmware.h4-v4.4+json;charset=UTF-8"),
    ("4.5", "application/vnd.vmware.h4-v4.5+json;charset=UTF-8"),
    ("4.6", "application/vnd.vmware.h4-v4.6+json;charset=UTF-8"),
    ("4.7", NEWEST_TYPE),
];

const NEWEST_TYPE: &str = "application/vnd.vmware.h4-v4.7+json;charset=UTF-8";

impl Version {
    /// What is answered to who does not care.
    pub const NEWEST: Self = Self(NEWEST_TYPE);

    /// The version that a request asks for; `None` when it wants none of those that there are.
    fn wanted(headers: &HeaderMap) -> Option<Self> {
        let mut any = false;
        for range in headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
            let name = range.split(';').next().unwrap_or_default().trim();
            if name.is_empty() {
                continue;
            }
            any = true;
            let name = name.to_ascii_lowercase();
            if matches!(&*name, "*/*" | "application/*" | "application/json") {
                return Some(Self::NEWEST);
            }
            let number = name.strip_prefix("application/vnd.vmware.h4-v").and_then(|rest| rest.strip_suffix("+json"));
            if let Some((_, media_type)) = number.and_then(|number| VERSIONS.iter().find(|(known, _)| *known == number))
            {
                return Some(Self(media_type));
            }
        }
        (!any).then_some(Self::NEWEST)
    }

    /// The response for what an operation answered.
    pub fn answer(self, operation: &Operation, answer: &Answer) -> Response<Body> {
        let status = operation.availability.and_then(|rest| StatusCode::from_u16(rest.status).ok());
        if matches!((operation.output)(), Type::Void) {
            return self.with_body(StatusCode::NO_CONTENT, Body::Empty);
        }
        let mut w = PlainJson { keeps_unset: true, ..PlainJson::default() };
        answer.value.encode(&mut w);
        self.with_body(status.unwrap_or(StatusCode::OK), Body::one(w.out))
    }

    /// The response for an error.
    pub fn refuse(self, refusal: &Refusal) -> Response<Body> {
        let (status, code) = codes::code(&refusal.error);
        let mut error = codes::api_error(&refusal.error);
        let status = match refusal.own_status() {
            // What only HTTP knows has no code there; the status in words does.
            Some(status) => {
                error.code = status.canonical_reason().unwrap_or(code).replace([' ', '-'], "");
                status
            }
            None => StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let mut w = PlainJson::default();
        error.encode(&mut w);
        self.with_body(status, Body::one(w.out))
    }

    fn with_body(self, status: StatusCode, body: Body) -> Response<Body> {
        let has_body = !matches!(body, Body::Empty);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.0));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// Gives the operation id back in an answer of this API.
pub(crate) fn tell_operation_id(envelope: &Envelope, response: &mut Response<Body>, id: &str) {
    if let (Envelope::Availability(_), Ok(id)) = (envelope, HeaderValue::try_from(id)) {
        response.headers_mut().insert(OPERATION_ID, id);
    }
}

fn stopped(what: What, version: Version, refusal: impl Into<Refusal>) -> Box<Stopped> {
    Box::new(Stopped { what, envelope: Envelope::Availability(version), refusal: refusal.into() })
}

/// The version that is wanted, or the refusal.
fn version(what: What, headers: &HeaderMap) -> Result<Version, Box<Stopped>> {
    Version::wanted(headers).ok_or_else(|| {
        let known: Vec<&str> = VERSIONS.iter().map(|(number, _)| *number).collect();
        let message = format!("Accept asks for no version of this API: there are {}", known.join(", "));
        let refusal = Refusal::new(Error::invalid_request(message)).status(StatusCode::NOT_ACCEPTABLE);
        stopped(what, Version::NEWEST, refusal)
    })
}

/// Who asks: by this API's own header, or as everywhere.
async fn caller(server: &Server, peer: &Peer, parts: &request::Parts) -> Result<Caller, Error> {
    match parts.headers.get(TOKEN).map(|token| token.to_str().unwrap_or_default()) {
        Some(token) => {
            let user = server.site.sessions.find(token).or_else(|| server.site.find_token(token));
            user.map(Caller::User).ok_or_else(Error::unauthenticated)
        }
        None => {
            let credentials = Credentials::from_headers(&parts.method, &parts.uri, &parts.headers, true);
            credentials.caller(None, &server.site, peer.address).await
        }
    }
}

/// Reads a call of an operation.
pub(crate) async fn plan(
    server: &Server,
    peer: &Peer,
    parts: &request::Parts,
    body: Incoming,
    index: usize,
    found: Found,
) -> Result<Plan, Box<Stopped>> {
    let what = What::Operation(index);
    let version = version(what, &parts.headers)?;
    let operation = server.table.entries()[index].operation;
    let read = async {
        let caller = caller(server, peer, parts).await?;
        caller.check(operation.privilege)?;
        let body = read_json(server, parts, body).await?;
        let (input, site) = input(operation, found, body)?;
        Ok((caller, input, site.filter(|site| *site != server.site.config.name)))
    };
    let (caller, input, elsewhere) = read.await.map_err(|refusal: Refusal| stopped(what, version, refusal))?;
    let envelope = Envelope::Availability(version);
    Ok(Plan::Call(Call { index, caller, input, encoding: Encoding::Plain, envelope, elsewhere }))
}

/// The body as a tree; null when there is none.
async fn read_json(server: &Server, parts: &request::Parts, body: Incoming) -> Result<Data, Refusal> {
    let Some(mut share) = server.body_bytes.take(0) else { return Err(busy().into()) };
    let bytes = body::read(body, &server.limits, &mut share).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) || parts.method.is_safe() {
        return Ok(Data::Null);
    }
    if negotiate::of_request(&parts.headers) != Some(Format::Json) {
        return Err(unsupported_media(false));
    }
    Data::from_request(&bytes).map_err(|e| Error::invalid_request(format!("malformed JSON: {e}")).into())
}

/// The input of an operation: what stands in the path, else in the query, else in the body; and the site that it is to run at.
fn input(operation: &Operation, found: Found, body: Data) -> Result<(Data, Option<String>), Error> {
    let Found { in_path, mut in_query, .. } = found;
    let site = in_query.iter().position(|(name, _)| name == "site").map(|at| in_query.swap_remove(at).1);
    let mut fields: Vec<(String, Data)> = match body {
        Data::Null => Vec::new(),
        Data::Struct(_, fields) => fields,
        other => return Err(Error::invalid_request(format!("the body is {}, not an object", other.kind_name()))),
    };
    let in_query = params::from_query(operation, in_query)?;
    let in_path = in_path.into_iter().map(|(name, value)| (name, Data::String(value)));
    for (name, value) in in_query.into_iter().chain(in_path) {
        fields.retain(|(known, _)| *known != name);
        fields.push((name, value));
    }
    let input = lenient::fit(Type::Struct((operation.input)()), Data::object(fields));
    Ok((input, site))
}

/// Runs an operation at another site.
pub(crate) fn run_elsewhere(
    server: &Arc<Server>,
    context: Context,
    site: String,
    operation: &'static Operation,
    input: Data,
) -> Reply {
    let call = server.elsewhere.clone();
    Box::pin(async move {
        let Some(call) = call else {
            let message = format!("there is no site {site:?} here");
            return Err(Error::not_found(codes::SITE_NOT_FOUND, message, vec![site]));
        };
        let data = (call.0)(context, site, operation, input).await?;
        Ok(Answer::new(Opaque(lenient::complete((operation.output)(), data))))
    })
}

/// What nobody may do without a login.
fn refused_login() -> Error {
    let text = "wrong user name or password, or a way to log in that this site does not have";
    Error::new(ErrorKind::Unauthenticated, "lockstep.session.unauthenticated", text, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_chooses_a_version_or_none() {
        let check = |accept: Option<&str>, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            let found = Version::wanted(&headers).map(|version| version.0.to_owned());
            assert_eq!(
                found,
                expected.map(|n| format!("application/vnd.vmware.h4-v{n}+json;charset=UTF-8")),
                "{accept:?}"
            );
        };
        check(None, Some("4.7"));
        check(Some(""), Some("4.7"));
        check(Some("*/*"), Some("4.7"));
        check(Some("application/json;charset=UTF-8"), Some("4.7"));
        check(Some("text/html, application/xhtml+xml, */*;q=0.8"), Some("4.7"));
        for number in ["1", "3", "3.5", "4", "4.5", "4.7"] {
            check(Some(&format!("application/vnd.vmware.h4-v{number}+json;charset=UTF-8")), Some(number));
        }
        check(Some("application/vnd.vmware.h4-v9+json, APPLICATION/vnd.vmware.H4-v3+json"), Some("3"));
        check(Some("application/vnd.vmware.h4-v9+json"), None);
        check(Some("text/xml"), None);
    }

    #[test]
    fn paths_are_known_with_any_number_of_slashes() {
        for (path, single) in [("/a/b", "/a/b"), ("//a//b", "/a/b"), ("///", "/"), ("/a//", "/a/")] {
            assert_eq!(with_single_slashes(path), single);
        }
        assert!(is_path("//vm-replications/x/sync") && is_path("/tasks") && !is_path("/api/tasks") && !is_path("/"));
        assert_eq!(paths("/vm-replications/{id}"), ["/vm-replications/{id}", "/replications/{id}"]);
        assert_eq!(paths("/tasks"), ["/tasks"]);
    }
}
