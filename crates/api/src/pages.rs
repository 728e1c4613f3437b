//! What stands beside the API: a page for people, health, metrics, the OpenAPI document and the versions of the VIM API.

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderValue, Response, StatusCode, request};
use lockstep_contract::{Error, ErrorKind, Privilege};
use lockstep_site::table::Table;

use crate::auth::Credentials;
use crate::body::Body;
use crate::envelope::with_body;
use crate::metrics;
use crate::negotiate::Format;
use crate::refusal::Refusal;
use crate::request::Peer;
use crate::router::Page;
use crate::server::Server;
use crate::{soap, streams};

const HOME: &str = include_str!("home.html");

/// Nothing is loaded from elsewhere, nothing runs, and no other page shows this one in a frame.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Answers a request for a page.
///
/// # Errors
/// `unauthenticated` and `unauthorized` for the metrics, 503 when the server is not ready.
pub(crate) async fn answer(
    server: &Server,
    peer: &Peer,
    page: Page,
    parts: &request::Parts,
) -> Result<Response<Body>, Refusal> {
    match page {
        Page::Home => {
            let mut response = text("text/html; charset=utf-8", home(server));
            let headers = response.headers_mut();
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            Ok(response)
        }
        Page::Health => Ok(text("text/plain", "alive\n")),
        Page::Readiness if server.site.is_ready() => Ok(text("text/plain", "ready\n")),
        Page::Readiness => {
            let message = "the server has not caught up with its journal";
            Err(Error::new(ErrorKind::ServiceUnavailable, "lockstep.site.catching_up", message, Vec::new()).into())
        }
        Page::Metrics => {
            // Whoever is on the machine itself may scrape without a login; others need one that may read.
            if !peer.address.to_canonical().is_loopback() {
                let credentials = Credentials::from_headers(&parts.method, &parts.uri, &parts.headers, true);
                credentials.caller(None, &server.site, peer.address).await?.check(Privilege::Read)?;
            }
            Ok(text(metrics::CONTENT_TYPE, server.metrics.render(server)))
        }
        Page::VimVersions => Ok(soap::versions()),
        Page::OpenApi => Ok(with_body(StatusCode::OK, Format::Json, Body::one(server.openapi.clone()))),
    }
}

fn text(content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = with_body(StatusCode::OK, Format::Json, Body::one(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn home(server: &Server) -> String {
    let name = &server.site.config.name;
    let version = env!("CARGO_PKG_VERSION");
    HOME.replace("{name}", &escaped(name)).replace("{version}", version)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The OpenAPI document of the operations and the streams.
pub(crate) fn openapi(table: &Table) -> Bytes {
    let operations = table.entries().iter().map(|entry| entry.operation);
    let mut document = lockstep_contract::openapi::document(operations, env!("CARGO_PKG_VERSION"));
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.extend(streams::describe());
    }
    document.to_string().into()
}
