//! How a result or an error is wrapped for each transport.
//!
//! Source: `api/vapi-wire.md`, 2.3, 3.4 and 3.5; `api/cis-data-and-cdc.md`, A8.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use lockstep_contract::xml::XmlWriter;
use lockstep_contract::{Data, Error, ErrorKind, Login, Operation, PlainJson, Type, TypedJson, Writer};
use lockstep_site::table::Answer;

use crate::auth::SESSION;
use crate::availability;
use crate::body::Body;
use crate::negotiate::Format;
use crate::refusal::Refusal;
use crate::router::Space;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// What the answer of one request is wrapped in.
#[derive(Debug)]
pub(crate) enum Envelope {
    /// JSON-RPC, with the id of the request as it came.
    Rpc { id: Data },
    /// REST.
    Rest {
        space: Space,
        format: Format,
        /// Whether a login sets a cookie: legacy clients that do not send the token in a header.
        sets_cookie: bool,
    },
    /// Cloud Director Availability.
    Availability(availability::Version),
}

impl Envelope {
    /// What an error is wrapped in when nothing is known of the request but its path.
    pub fn of_path(path: &str) -> Self {
        if availability::is_path(path) {
            return Self::Availability(availability::Version::NEWEST);
        }
        let space = if path == "/rest" || path.starts_with("/rest/") { Space::Mapped } else { Space::Current };
        Self::Rest { space, format: Format::Json, sets_cookie: false }
    }

    /// Whether unknown fields are refused as the legacy generation does.
    pub fn is_legacy(&self) -> bool {
        matches!(self, Self::Rest { space, .. } if space.is_legacy())
    }

    /// The response for what an operation answered.
    pub fn answer(&self, operation: &Operation, answer: Answer) -> Response<Body> {
        let mut response = match self {
            Self::Rpc { id } => {
                let mut w = TypedJson { out: rpc_head(id) };
                w.out.extend_from_slice(b"\"result\":{\"output\":");
                answer.value.encode(&mut w);
                w.out.extend_from_slice(b"}}");
                with_body(StatusCode::OK, Format::Json, Body::one(w.out))
            }
            Self::Availability(version) => version.answer(operation, &answer),
            Self::Rest { space, format, sets_cookie } => {
                let status = match (space, operation.rest) {
                    (Space::Current, Some(rest)) => StatusCode::from_u16(rest.status).unwrap_or(StatusCode::OK),
                    _ => StatusCode::OK,
                };
                let mut response = if matches!((operation.output)(), Type::Void) {
                    with_body(status, Format::Json, Body::Empty)
                } else if format.is_xml() {
                    with_body(status, *format, Body::one(xml_result(operation, &answer)))
                } else {
                    with_body(status, Format::Json, json_result(space.is_legacy(), &answer))
                };
                tell_login(&mut response, operation, &answer, *sets_cookie);
                response
            }
        };
        for (name, value) in answer.headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => _ = response.headers_mut().insert(name, value),
                _ => tracing::error!(header = name, "an operation answered with a header that cannot be sent"),
            }
        }
        response
    }

    /// The response for an error. `operation` is missing when none was found.
    pub fn refuse(&self, operation: Option<&Operation>, refusal: Refusal) -> Response<Body> {
        let error = &refusal.error;
        let mut response = match self {
            Self::Rpc { id } => {
                let mut w = TypedJson { out: rpc_head(id) };
                w.out.extend_from_slice(b"\"result\":{\"error\":");
                error.encode(&mut w);
                w.out.extend_from_slice(b"}}");
                let mut response = with_body(StatusCode::OK, Format::Json, Body::one(w.out));
                if let Ok(name) = HeaderValue::try_from(error.kind.structure_name()) {
                    response.headers_mut().insert("vapi-error", name);
                }
                response
            }
            Self::Availability(version) => version.refuse(&refusal),
            Self::Rest { space, format, .. } => {
                let status = refusal.status_in(space.is_legacy());
                let body = match (format.is_xml(), space.is_legacy()) {
                    (true, _) => xml_error(error).into_bytes(),
                    (false, true) => legacy_error(error),
                    (false, false) => current_error(error),
                };
                with_body(status, *format, Body::one(body))
            }
        };
        // Only where a login begins: elsewhere a browser would ask its user for a password.
        let begins = operation.is_some_and(|operation| operation.login == Some(Login::Begins));
        if begins && error.kind == ErrorKind::Unauthenticated && matches!(self, Self::Rest { .. }) {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"lockstep\""));
        }
        response.headers_mut().extend(refusal.headers);
        response
    }
}

/// A response with the headers that all have.
pub(crate) fn with_body(status: StatusCode, format: Format, body: Body) -> Response<Body> {
    let has_body = !matches!(body, Body::Empty);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if has_body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The beginning of a JSON-RPC answer, up to the comma behind its id.
pub(crate) fn rpc_head(id: &Data) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.to_json().as_bytes());
    out.push(b',');
    out
}

fn json_result(is_legacy: bool, answer: &Answer) -> Body {
    const HEAD: &[u8] = b"{\"value\":";
    match (&answer.plain_json, is_legacy) {
        (Some(json), false) => Body::one(json.clone()),
        (Some(json), true) => Body::Pieces([Bytes::from_static(HEAD), json.clone(), Bytes::from_static(b"}")]),
        (None, false) => {
            let mut w = PlainJson::default();
            answer.value.encode(&mut w);
            Body::one(w.out)
        }
        (None, true) => {
            let mut w = PlainJson { out: HEAD.to_vec(), maps_as_lists: true, aside: None, keeps_unset: false };
            answer.value.encode(&mut w);
            w.out.push(b'}');
            Body::one(w.out)
        }
    }
}

fn xml_result(operation: &Operation, answer: &Answer) -> String {
    let (_, root, namespace) = operation.xml_root();
    let mut w = XmlWriter::element("value");
    w.out = format!("<ns0:{root} xmlns:ns0=\"{namespace}\" xmlns:xsi=\"{XSI}\">");
    answer.value.encode(&mut w);
    w.out.push_str(&format!("</ns0:{root}>"));
    w.out
}

/// An error as the current generation has it.
pub(crate) fn current_error(error: &Error) -> Vec<u8> {
    let mut w = PlainJson::default();
    error.encode(&mut w);
    w.out
}

fn legacy_error(error: &Error) -> Vec<u8> {
    let mut w = PlainJson { out: b"{\"type\":".to_vec(), maps_as_lists: true, aside: None, keeps_unset: false };
    w.string(&error.kind.structure_name());
    w.out.extend_from_slice(b",\"value\":");
    error.encode(&mut w);
    w.out.push(b'}');
    w.out
}

fn xml_error(error: &Error) -> String {
    let mut w = XmlWriter::element("type");
    w.out = format!("<error xmlns:xsi=\"{XSI}\">");
    w.string(&error.kind.structure_name());
    let mut value = XmlWriter::element("value");
    error.encode(&mut value);
    w.out.push_str(&value.out);
    w.out.push_str("</error>");
    w.out
}

/// What a login or a logout adds to the response's headers.
fn tell_login(response: &mut Response<Body>, operation: &Operation, answer: &Answer, sets_cookie: bool) {
    let cookie =
        |token: &str, more: &str| format!("{SESSION}={token}; Path=/rest; HttpOnly; Secure; SameSite=Strict{more}");
    let (token, cookie) = match operation.login {
        None => return,
        Some(Login::Ends) => (None, cookie("", "; Max-Age=0")),
        Some(Login::Begins) => {
            let mut w = PlainJson::default();
            answer.value.encode(&mut w);
            let token = match Data::from_json(&w.out) {
                Ok(Data::String(token)) => token,
                Ok(_) | Err(_) => return,
            };
            let cookie = cookie(&token, "");
            (HeaderValue::try_from(token).ok(), cookie)
        }
    };
    if let Some(mut token) = token {
        token.set_sensitive(true);
        response.headers_mut().insert(SESSION, token);
    }
    if let (true, Ok(mut cookie)) = (sets_cookie, HeaderValue::try_from(cookie)) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
}
