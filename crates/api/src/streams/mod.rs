//! What has no end, and so is no operation of the table: import, export and events.

mod events;
mod export;
mod import;

use std::sync::Arc;

use http::{Method, Response, request};
use hyper::body::Incoming;
use lockstep_contract::{Error, ErrorKind, Privilege};
use serde_json::{Map, Value, json};

use crate::auth::Credentials;
use crate::body::Body;
use crate::refusal::Refusal;
use crate::request::Peer;
use crate::router::Found;
use crate::server::Server;

/// Pieces of an answer that wait for the client to take them.
const PIECES_AHEAD: usize = 4;

/// The content type of resources, one a line.
const NDJSON: &str = "application/x-ndjson";

/// The streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Import,
    Export,
    Events,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Import, Self::Export, Self::Events];

    /// Method, path and action.
    pub fn route(self) -> (Method, &'static str, Option<&'static str>) {
        match self {
            Self::Import => (Method::POST, "/api/lockstep/resources", Some("import")),
            Self::Export => (Method::GET, "/api/lockstep/resources", Some("export")),
            Self::Events => (Method::GET, "/api/lockstep/feed/events", None),
        }
    }

    /// The name that logs and counters have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Export => "export",
            Self::Events => "events",
        }
    }

    fn privilege(self) -> Privilege {
        match self {
            Self::Import => Privilege::Write,
            Self::Export | Self::Events => Privilege::Read,
        }
    }
}

/// Answers a request for a stream.
///
/// # Errors
/// What is wrong with the request; for an import also with its lines.
pub(crate) async fn answer(
    server: &Arc<Server>,
    peer: &Peer,
    stream: Stream,
    found: Found,
    parts: &request::Parts,
    body: Incoming,
    id: &Option<Arc<str>>,
) -> Result<Response<Body>, Refusal> {
    let credentials = Credentials::from_headers(&parts.method, &parts.uri, &parts.headers, true);
    let caller = credentials.caller(None, &server.site, peer.address).await?;
    caller.check(stream.privilege())?;
    let query = Query(found.in_query);
    match stream {
        Stream::Import => import::answer(server, &caller, query, &parts.headers, body).await,
        Stream::Export => export::answer(server, peer, query),
        Stream::Events => events::answer(server, peer, caller, query, &parts.headers, id.clone()).await,
    }
}

/// The paths of the streams for the OpenAPI document.
pub(crate) fn describe() -> Map<String, Value> {
    let mut paths = Map::new();
    for stream in Stream::ALL {
        let (method, path, action) = stream.route();
        let path = action.map_or_else(|| path.to_owned(), |action| format!("{path}?action={action}"));
        let mut operation = match stream {
            Stream::Import => import::describe(),
            Stream::Export => export::describe(),
            Stream::Events => events::describe(),
        };
        operation["operationId"] = format!("lockstep.{}", stream.name()).into();
        operation["x-lockstep-privilege"] = format!("{:?}", stream.privilege()).into();
        operation["security"] = json!([{ "session": [] }, { "basic": [] }]);
        paths.insert(path, json!({ method.as_str().to_lowercase(): operation }));
    }
    paths
}

/// A parameter in the query, for the OpenAPI document.
fn parameter(name: &str, description: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
}

/// The parameters in a query, taken out one by one.
struct Query(Vec<(String, String)>);

impl Query {
    /// All values of a parameter.
    fn all(&mut self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.0.retain_mut(|(known, value)| {
            let is_other = known != name;
            if !is_other {
                values.push(std::mem::take(value));
            }
            is_other
        });
        values
    }

    /// The one value of a parameter.
    fn one(&mut self, name: &str) -> Result<Option<String>, Error> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(invalid(name, "the parameter stands there more than once")),
        }
    }

    /// Refuses what has not been taken.
    fn end(self) -> Result<(), Error> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("{name} is not a parameter of this stream");
                Err(Error::new(ErrorKind::UnexpectedInput, "lockstep.input.unexpected", message, vec![name]))
            }
        }
    }
}

fn invalid(parameter: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.input.parameter", parameter, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_once_and_the_rest_is_refused() {
        let pairs = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")];
        let query = || Query(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
        let mut taken = query();
        assert_eq!(
            (taken.all("a"), taken.one("b"), taken.one("x")),
            (vec!["1".to_owned(), "3".to_owned()], Ok(Some("2".to_owned())), Ok(None))
        );
        assert_eq!(taken.end().unwrap_err().kind, ErrorKind::UnexpectedInput);
        assert_eq!(query().one("a").unwrap_err().kind, ErrorKind::InvalidArgument);
    }

    #[test]
    fn every_stream_is_described() {
        assert_eq!(describe().len(), Stream::ALL.len());
    }
}
