//! From a method and a URL to what answers: the operations of the table in every REST generation, and what is no operation.
//!
//! Source: `api/vapi-wire.md`, sections 1 and 3.

use std::collections::BTreeMap;

use http::header::ALLOW;
use http::{Method, StatusCode};
use lockstep_contract::{Error, ErrorKind};
use lockstep_site::table::Table;

use crate::availability;
use crate::params;
use crate::refusal::Refusal;
use crate::streams::Stream;

/// Longest URL, path and query; beyond it: 414.
pub(crate) const URL_BYTES_MAX: usize = 16 << 10;

/// The path of JSON-RPC, whose requests may carry their operation id in the body.
pub(crate) const RPC_PATH: &str = "/api";

/// The URL spaces, which differ in envelopes, statuses and what they read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// `/api/…`: bare results.
    Current,
    /// `/rest/…` with the same paths: results in an envelope.
    Mapped,
    /// `/rest/com/vmware/…`, paths made from service names by rule: results in an envelope, and XML.
    Ruled,
    /// `/vm-replications/…` and the like, from the root: as clients of Cloud Director Availability have it.
    Availability,
}

impl Space {
    /// Whether it is of the legacy generation.
    pub fn is_legacy(self) -> bool {
        matches!(self, Self::Mapped | Self::Ruled)
    }
}

/// What is not an operation and stands outside the REST spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Home,
    Health,
    Readiness,
    Metrics,
    OpenApi,
    VimVersions,
}

impl Page {
    /// The name that logs and counters have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Health => "healthz",
            Self::Readiness => "readyz",
            Self::Metrics => "metrics",
            Self::OpenApi => "openapi",
            Self::VimVersions => "vim_versions",
        }
    }
}

/// What answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// JSON-RPC: the body says which operation.
    Rpc,
    /// SOAP: the body says which method.
    Soap,
    /// The operation with this index in the table.
    Operation(usize, Space),
    /// Logins and logouts of Cloud Director Availability: their credentials stand in the body.
    AvailabilityLogin,
    AvailabilityLogout,
    Stream(Stream),
    Page(Page),
}

struct Endpoint {
    method: Method,
    action: Option<String>,
    /// The names of the path's parameters, in order: operations that share a path may name them differently.
    parameters: Vec<String>,
    target: Target,
}

/// A request that found its target.
#[derive(Debug)]
pub(crate) struct Found {
    pub target: Target,
    /// The parameters in the path, decoded.
    pub in_path: Vec<(String, String)>,
    /// The parameters in the query, but for the action.
    pub in_query: Vec<(String, String)>,
}

/// All that a server answers to.
pub(crate) struct Router {
    paths: matchit::Router<Vec<Endpoint>>,
}

impl Router {
    /// A router for the operations of the table, the streams and the pages.
    ///
    /// # Panics
    /// When two operations are declared with the same method, path and action, or with a path that is none.
    pub fn new(table: &Table) -> Self {
        let mut shapes = Shapes::new();
        add(&mut shapes, RPC_PATH, Method::POST, None, Target::Rpc);
        add(&mut shapes, "/sdk", Method::POST, None, Target::Soap);
        for (path, page) in [
            ("/", Page::Home),
            ("/healthz", Page::Health),
            ("/readyz", Page::Readiness),
            ("/metrics", Page::Metrics),
            ("/openapi.json", Page::OpenApi),
            ("/sdk/vimServiceVersions.xml", Page::VimVersions),
        ] {
            add(&mut shapes, path, Method::GET, None, Target::Page(page));
        }
        add(&mut shapes, availability::SESSIONS_PATH, Method::POST, None, Target::AvailabilityLogin);
        add(&mut shapes, availability::SESSIONS_PATH, Method::DELETE, None, Target::AvailabilityLogout);
        for stream in Stream::ALL {
            let (method, path, action) = stream.route();
            add(&mut shapes, path, method, action, Target::Stream(stream));
        }
        for (index, entry) in table.entries().iter().enumerate() {
            if let Some(rest) = entry.operation.rest {
                for (root, space) in [("/api", Space::Current), ("/rest", Space::Mapped)] {
                    let path = format!("{root}{}", rest.path);
                    add(&mut shapes, &path, method(rest.method), rest.action, Target::Operation(index, space));
                }
                if let Some(alias) = rest.alias {
                    let target = Target::Operation(index, Space::Mapped);
                    add(&mut shapes, &format!("/rest{alias}"), method(rest.method), None, target);
                }
            }
            if let Some(rest) = entry.operation.availability {
                for path in availability::paths(rest.path) {
                    let target = Target::Operation(index, Space::Availability);
                    add(&mut shapes, &path, method(rest.method), None, target);
                }
            }
            if let Some((verb, path, action)) = entry.operation.legacy_route() {
                let target = Target::Operation(index, Space::Ruled);
                add(&mut shapes, &path, method(verb), action.as_deref(), target);
            }
        }
        let mut paths = matchit::Router::new();
        for (shape, endpoints) in shapes {
            if let Err(error) = paths.insert(shape.as_str(), endpoints) {
                panic!("{shape} cannot be routed: {error}");
            }
        }
        Self { paths }
    }

    /// What answers a request.
    ///
    /// # Errors
    /// 404 for an unknown path or action, 405 for a method that the path does not have, 414 for a URL that is too long, 400 for
    /// one that is malformed.
    pub fn find(&self, verb: &Method, path: &str, query: &str) -> Result<Found, Refusal> {
        if path.len() + query.len() > URL_BYTES_MAX {
            let error = Error::invalid_request(format!("the URL is longer than {URL_BYTES_MAX} bytes"));
            return Err(Refusal::new(error).status(StatusCode::URI_TOO_LONG));
        }
        // The reference of Cloud Director Availability itself writes two slashes behind the host.
        let path = availability::with_single_slashes(path);
        let trimmed = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(&path);
        let Ok(found) = self.paths.at(trimmed) else { return Err(unknown("no operation has this path")) };
        let mut in_query = params::pairs(query)?;
        let action = in_query.iter().position(|(name, _)| name == "action" || name == "~action");
        let action = action.map(|at| in_query.remove(at).1);
        let with_action = || found.value.iter().filter(|e| e.action.as_deref() == action.as_deref());
        if with_action().next().is_none() {
            return Err(unknown("no operation of this path has this action"));
        }
        // Whoever answers GET answers HEAD; the body is left out further down.
        let wanted = if *verb == Method::HEAD { &Method::GET } else { verb };
        let Some(endpoint) = with_action().find(|e| e.method == *wanted) else {
            let mut allowed: Vec<&str> = with_action().map(|e| e.method.as_str()).collect();
            allowed.sort_unstable();
            allowed.dedup();
            let allowed = allowed.join(", ");
            let error = Error::invalid_request(format!("this path answers {allowed} only"));
            return Err(Refusal::new(error).status(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, allowed));
        };
        let is_ruled = matches!(endpoint.target, Target::Operation(_, Space::Ruled));
        let mut in_path = Vec::with_capacity(endpoint.parameters.len());
        for (name, (_, value)) in endpoint.parameters.iter().zip(found.params.iter()) {
            let value = params::decode(value, false)?;
            // In paths made by rule an id may be written `id:<id>`.
            let value = value.strip_prefix("id:").filter(|_| is_ruled).map(str::to_owned).unwrap_or(value);
            in_path.push((name.clone(), value));
        }
        Ok(Found { target: endpoint.target, in_path, in_query })
    }
}

/// Endpoints by the shape of their path: `/api/x/{p0}`.
type Shapes = BTreeMap<String, Vec<Endpoint>>;

fn add(shapes: &mut Shapes, path: &str, method: Method, action: Option<&str>, target: Target) {
    let mut parameters = Vec::new();
    let mut shape = String::new();
    for part in path.split('/').skip(1) {
        shape.push('/');
        match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(name) => {
                shape.push_str(&format!("{{p{}}}", parameters.len()));
                parameters.push(name.to_owned());
            }
            None => shape.push_str(part),
        }
    }
    let action = action.map(str::to_owned);
    let endpoints = shapes.entry(shape).or_default();
    let is_taken = endpoints.iter().any(|e| e.method == method && e.action == action);
    assert!(!is_taken, "{method} {path} with action {action:?} is declared twice");
    endpoints.push(Endpoint { method, action, parameters, target });
}

fn method(method: lockstep_contract::Method) -> Method {
    match method {
        lockstep_contract::Method::Get => Method::GET,
        lockstep_contract::Method::Post => Method::POST,
        lockstep_contract::Method::Put => Method::PUT,
        lockstep_contract::Method::Patch => Method::PATCH,
        lockstep_contract::Method::Delete => Method::DELETE,
    }
}

fn unknown(message: &str) -> Refusal {
    Refusal::new(Error::new(ErrorKind::OperationNotFound, "lockstep.request.operation_not_found", message, Vec::new()))
}

#[cfg(test)]
mod tests {
    use lockstep_contract::Declared;
    use lockstep_contract::services::{change_log, resource_model, resources, session};

    use super::*;

    fn router() -> (Table, Router) {
        async fn never<I, O>(_: lockstep_site::table::Context, _: I) -> Result<O, Error> {
            Err(Error::internal())
        }
        let mut table = Table::default();
        table.register(session::Create, never);
        table.register(session::Get, never);
        table.register(session::Delete, never);
        table.register(change_log::GetChanges, never);
        table.register(resource_model::Query, never);
        table.register(resources::Create, never);
        table.register(resources::Get, never);
        table.register(resources::List, never);
        table.register(resources::Delete, never);
        let router = Router::new(&table);
        (table, router)
    }

    fn find(verb: &str, url: &str) -> Result<(String, Space, Vec<String>), (u16, String)> {
        let (table, router) = router();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let found = router.find(&verb.parse().unwrap(), path, query);
        let allow = |r: &Refusal| r.headers.first().map(|(_, v)| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let found = found.map_err(|r| (r.status_in(true).as_u16(), allow(&r)))?;
        let Target::Operation(index, space) = found.target else { panic!("{:?} is no operation", found.target) };
        let name = table.entries()[index].operation.full_name();
        Ok((name, space, found.in_path.into_iter().map(|(_, value)| value).collect()))
    }

    #[test]
    fn every_spelling_of_a_url_finds_its_operation() {
        let check = |verb: &str, url: &str, operation: &lockstep_contract::Operation, space: Space, ids: &[&str]| {
            let found = find(verb, url).unwrap_or_else(|e| panic!("{verb} {url}: {e:?}"));
            assert_eq!((found.0, found.1), (operation.full_name(), space), "{verb} {url}");
            assert_eq!(found.2, ids, "{verb} {url}");
        };
        let (create, get) = (&session::Create::OPERATION, &session::Get::OPERATION);
        check("POST", "/api/session", create, Space::Current, &[]);
        check("POST", "/api/session/", create, Space::Current, &[]);
        check("POST", "/rest/session", create, Space::Mapped, &[]);
        check("POST", "/rest/com/vmware/cis/session", create, Space::Ruled, &[]);
        check("HEAD", "/api/session", get, Space::Current, &[]);
        check("POST", "/rest/com/vmware/cis/session?~action=get", get, Space::Ruled, &[]);
        check("POST", "/rest/com/vmware/cis/session?%7Eaction=get", get, Space::Ruled, &[]);
        check("DELETE", "/rest/com/vmware/cis/session", &session::Delete::OPERATION, Space::Ruled, &[]);
        let changes = &change_log::GetChanges::OPERATION;
        check("POST", "/rest/com/vmware/cdc/change-log?~action=get-changes", changes, Space::Ruled, &[]);
        check("POST", "/api/cdc/change-log?action=get-changes", changes, Space::Current, &[]);
        let query = &resource_model::Query::OPERATION;
        check("POST", "/rest/com/vmware/cis/data/legacy/resource-model?~action=query", query, Space::Ruled, &[]);
        let resource = &resources::Get::OPERATION;
        check("GET", "/api/lockstep/resources/a%2Fb/c%20d+e", resource, Space::Current, &["a/b", "c d+e"]);
        check("GET", "/api/lockstep/resources/T/id:x", resource, Space::Current, &["T", "id:x"]);
        check("GET", "/api/lockstep/resources/T", &resources::List::OPERATION, Space::Current, &["T"]);
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        let check = |verb: &str, url: &str, status: u16, allow: &str| {
            assert_eq!(find(verb, url), Err((status, allow.to_owned())), "{verb} {url}");
        };
        check("GET", "/api/nothing", 404, "");
        check("GET", "/api/session/more", 404, "");
        check("POST", "/api/session?action=other", 404, "");
        check("POST", "/api/cdc/change-log", 404, "");
        check("PUT", "/api/session", 405, "DELETE, GET, POST");
        check("OPTIONS", "/api/lockstep/resources/T/x", 405, "DELETE, GET");
        check("GET", "/api", 405, "POST");
        check("GET", "/api/cdc/change-log?action=get-changes", 405, "POST");
        check("GET", "/api/lockstep/resources/T/%f", 400, "");
        check("GET", "/api/lockstep/resources/T/%ff", 400, "");
        check("GET", &format!("/api/{}", "x".repeat(URL_BYTES_MAX)), 414, "");
    }

    #[test]
    fn an_id_in_a_path_by_rule_may_be_marked_as_one() {
        use lockstep_contract::{operation, structure};
        structure! {
            /// Parameters.
            pub struct Input = "operation-input" {
                /// A tag.
                tag_id: String,
            }
        }
        operation! {
            /// For tests.
            pub Get = "com.vmware.cis.tagging.tag"."get"(Input) -> (),
            errors: [],
            privilege: Read,
            id: "tag_id",
        }
        let mut table = Table::default();
        table.register(Get, async |_, _| Ok(()));
        let router = Router::new(&table);
        for id in ["urn:vmomi:Tag:1:GLOBAL", "id:urn:vmomi:Tag:1:GLOBAL", "id%3Aurn:vmomi:Tag:1:GLOBAL"] {
            let found = router.find(&Method::GET, &format!("/rest/com/vmware/cis/tagging/tag/{id}"), "").unwrap();
            assert_eq!(found.in_path, [("tag_id".to_owned(), "urn:vmomi:Tag:1:GLOBAL".to_owned())]);
        }
    }
}
