//! The sliver of SOAP that clients use to log in and to find an object by its name: `POST /sdk` beside the version list.
//!
//! Scripts that use the tagging service find the object to tag with pyVmomi: they log in, let the server list the objects of a type, and
//! fetch their names until one fits. That much is here, answered from the site's view; whoever wants more of the inventory asks the
//! query service, which needs one call for it.
//!
//! | method | on | does |
//! |---|---|---|
//! | `RetrieveServiceContent` | `ServiceInstance` | names the other objects; anyone may |
//! | `Login`, `Logout` | `SessionManager` | begin and end a session, which is one of the site's like any other |
//! | `CreateContainerView`, `DestroyView` | `ViewManager`, a view | a view of the objects of some types below a container |
//! | `Fetch` | the service, a view, an object | one property: `content`, `view`, `name` |
//! | `RetrieveProperties`, `RetrievePropertiesEx` | `PropertyCollector` | some properties of objects, and of what is reached from them: `collect` |
//!
//! By the last ones `govc` and the finders of others walk the tree of the schema (`tree`), and read what is known of hosts and machines
//! (`property`). Nothing is written by SOAP, and nothing is waited for: who follows changes reads the feed.
//!
//! A session travels in the cookie `vmware_soap_session`. A browser that a foreign page made send it gets nothing for it: such a request
//! counts as one without a session. A view is not kept: its id says what it is of ([`view`]), so a client that never destroys its views
//! costs nothing, and one that goes on after a restart finds them again.
//!
//! Failures are faults of the VIM schema in a SOAP fault. Bodies are small ([`BODY_BYTES_MAX`]), flat and without document type.
//!
//! Source: `api/vapi-wire.md`, section 6.

mod collect;
mod fault;
mod message;
mod property;
mod tree;
mod value;
mod view;

use bytes::Bytes;
use http::header::{SET_COOKIE, USER_AGENT};
use http::{HeaderValue, Response, StatusCode, request};
use hyper::body::Incoming;
use lockstep_contract::{Error, ErrorKind, Privilege, Secret};
use lockstep_model::{ResourceId, Value};
use lockstep_site::caller::{Caller, User};
use lockstep_site::table::Basic;
use sha2::{Digest as _, Sha256};

use self::fault::Fault;
use self::message::{Element, escaped};
use self::tree::Tree;
use self::view::ContainerView;
use crate::auth;
use crate::body::{self, Body};
use crate::envelope::with_body;
use crate::limits::Limits;
use crate::negotiate::{self, Format};
use crate::request::{Peer, busy};
use crate::server::Server;

/// The largest request: the longest is a login.
const BODY_BYTES_MAX: u64 = 64 << 10;

/// The cookie of a session's token.
const COOKIE: &str = "vmware_soap_session";

/// The version of the VIM API that the answers are in, and those before it whose clients understand them: pyVmomi takes the newest that it
/// knows.
const VERSION: &str = "8.0.3.0";
const PRIOR_VERSIONS: [&str; 16] = [
    "8.0.2.0", "8.0.1.0", "8.0.0.2", "8.0.0.1", "8.0.0.0", "7.0.3.2", "7.0.3.1", "7.0.3.0", "7.0.2.0", "7.0.1.1",
    "7.0.1.0", "7.0.0.0", "6.7.3", "6.7", "6.5", "6.0",
];

/// What a request came to.
pub(crate) struct Answered {
    /// The method, as logs and counters name it.
    pub name: &'static str,
    pub error: Option<Error>,
    pub response: Response<Body>,
}

/// The list of versions: `GET /sdk/vimServiceVersions.xml`.
pub(crate) fn versions() -> Response<Body> {
    let prior: String = PRIOR_VERSIONS.iter().map(|version| format!("<version>{version}</version>")).collect();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<namespaces version=\"1.0\"><namespace><name>urn:vim25</name>\
         <version>{VERSION}</version><priorVersions>{prior}</priorVersions></namespace></namespaces>\n"
    );
    with_body(StatusCode::OK, Format::TextXml, Body::one(text))
}

/// Answers `POST /sdk`.
pub(crate) async fn answer(server: &Server, peer: &Peer, parts: &request::Parts, body: Incoming) -> Answered {
    let mut name = "soap";
    match call(server, peer, parts, body, &mut name).await {
        Ok(Reply { text, cookie }) => {
            let mut response = with_body(StatusCode::OK, Format::TextXml, Body::one(message::envelope(&text)));
            if let Some(mut cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
                cookie.set_sensitive(true);
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            Answered { name, error: None, response }
        }
        Err(fault) => {
            let text = message::envelope(&fault.text());
            let response = with_body(fault.status(), Format::TextXml, Body::one(text));
            Answered { name, error: Some(fault.into_error()), response }
        }
    }
}

/// The body of an answer, and what it sets.
struct Reply {
    text: String,
    cookie: Option<String>,
}

impl Reply {
    /// What `method` returns.
    fn of(method: &str, returned: &str) -> Self {
        Self { text: format!("<{method}Response xmlns=\"urn:vim25\">{returned}</{method}Response>"), cookie: None }
    }
}

async fn call(
    server: &Server,
    peer: &Peer,
    parts: &request::Parts,
    body: Incoming,
    name: &mut &'static str,
) -> Result<Reply, Fault> {
    if negotiate::of_request(&parts.headers) != Some(Format::TextXml) {
        return Err(Fault::Malformed("the content type is not text/xml".to_owned()));
    }
    let bytes = read(server, body).await?;
    let method = message::read(&bytes).map_err(Fault::Malformed)?;
    let this = method.object("_this")?;
    let request = Request { server, peer, parts, method: &method, this };
    match &*method.name {
        "RetrieveServiceContent" => {
            *name = "soap.RetrieveServiceContent";
            request.expect_this("ServiceInstance")?;
            let content = service_content(server);
            Ok(Reply::of(&method.name, &format!("<returnval>{content}</returnval>")))
        }
        "Login" => {
            *name = "soap.Login";
            request.login().await
        }
        "Logout" => {
            *name = "soap.Logout";
            request.logout()
        }
        "CreateContainerView" => {
            *name = "soap.CreateContainerView";
            request.create_container_view()
        }
        "DestroyView" => {
            *name = "soap.DestroyView";
            request.user()?;
            request.container_view()?;
            Ok(Reply::of(&method.name, ""))
        }
        "RetrieveProperties" => {
            *name = "soap.RetrieveProperties";
            request.retrieve_properties("returnval").await
        }
        "RetrievePropertiesEx" => {
            *name = "soap.RetrievePropertiesEx";
            request.retrieve_properties("objects").await
        }
        "Fetch" => {
            *name = "soap.Fetch";
            request.fetch()
        }
        other => Err(Fault::UnknownMethod(other.to_owned())),
    }
}

async fn read(server: &Server, body: Incoming) -> Result<Bytes, Fault> {
    let mut share = server.body_bytes.take(0).ok_or_else(|| Fault::Failed(busy().into()))?;
    let limits = Limits { body_bytes_max: BODY_BYTES_MAX.min(server.limits.body_bytes_max), ..server.limits };
    body::read(body, &limits, &mut share).await.map_err(Fault::Failed)
}

/// A call of a method.
struct Request<'r> {
    server: &'r Server,
    peer: &'r Peer,
    parts: &'r request::Parts,
    method: &'r Element,
    /// The object that it is called on.
    this: ResourceId,
}

impl Request<'_> {
    /// Whether it is called on one of the objects that are named after their types.
    fn expect_this(&self, type_name: &str) -> Result<(), Fault> {
        match &*self.this.id == type_name {
            true => Ok(()),
            false => Err(Fault::NoObject(self.this.clone())),
        }
    }

    /// The token of the session that the request shows.
    fn token(&self) -> Option<String> {
        let token = auth::cookie(&self.parts.headers, COOKIE)?;
        (!auth::is_cross_site(&self.parts.uri, &self.parts.headers)).then_some(token)
    }

    /// The user, who must be logged in and may read.
    fn user(&self) -> Result<User, Fault> {
        let user = self.token().and_then(|token| self.server.site.sessions.find(&token));
        let user = user.ok_or_else(|| Fault::NotAuthenticated(self.this.clone()))?;
        match Caller::User(user.clone()).check(Privilege::Read) {
            Ok(()) => Ok(user),
            Err(_) => Err(Fault::NoPermission(self.this.clone())),
        }
    }

    async fn login(&self) -> Result<Reply, Fault> {
        self.expect_this("SessionManager")?;
        let user = self.method.text_of("userName")?.to_owned();
        let basic = Basic { user, password: Secret(self.method.text_of("password")?.to_owned()) };
        let site = &self.server.site;
        let user = site.log_in(&basic, self.peer.address).await.map_err(|error| match error.kind {
            ErrorKind::Unauthenticated => Fault::InvalidLogin,
            _ => Fault::Failed(error.into()),
        })?;
        let token = site.sessions.create(&user.name, user.role).map_err(|error| Fault::Failed(error.into()))?;
        let now = jiff::Timestamp::now();
        let agent = self.parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let (name, agent) = (escaped(&user.name), escaped(agent));
        let returned = format!(
            "<returnval><key>{}</key><userName>{name}</userName><fullName>{name}</fullName><loginTime>{now:.3}</loginTime>\
             <lastActiveTime>{now:.3}</lastActiveTime><locale>en</locale><messageLocale>en</messageLocale>\
             <extensionSession>false</extensionSession><ipAddress>{}</ipAddress><userAgent>{agent}</userAgent>\
             <callCount>0</callCount></returnval>",
            key_of(&token),
            self.peer.address.to_canonical(),
        );
        // The client sends all of it back, attributes too.
        let cookie = Some(format!("{COOKIE}=\"{token}\"; Path=/; HttpOnly; Secure;"));
        Ok(Reply { cookie, ..Reply::of("Login", &returned) })
    }

    fn logout(&self) -> Result<Reply, Fault> {
        self.expect_this("SessionManager")?;
        let session = self.user()?.session;
        session.into_iter().for_each(|key| _ = self.server.site.sessions.delete(key));
        Ok(Reply::of("Logout", ""))
    }

    fn create_container_view(&self) -> Result<Reply, Fault> {
        self.expect_this("ViewManager")?;
        self.user()?;
        let types =
            self.method.children.iter().filter(|child| child.name == "type").map(|child| child.text.trim().to_owned());
        let container = self.method.object("container")?;
        let is_recursive = match self.method.text_of("recursive")?.trim() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err(Fault::InvalidArgument("recursive")),
        };
        let view = ContainerView { container, types: types.collect(), is_recursive };
        view.check(&self.server.site.view())?;
        let id = view.id()?;
        Ok(Reply::of("CreateContainerView", &format!("<returnval type=\"ContainerView\">{id}</returnval>")))
    }

    /// The view that the method is called on.
    fn container_view(&self) -> Result<ContainerView, Fault> {
        ContainerView::from_id(&self.this.id).ok_or_else(|| Fault::NoObject(self.this.clone()))
    }

    /// The objects of specifications, each in an `element`; all of them at once, so there is never more to be asked for.
    async fn retrieve_properties(&self, element: &'static str) -> Result<Reply, Fault> {
        self.expect_this("propertyCollector")?;
        self.user()?;
        let (site, method) = (self.server.site.clone(), self.method.clone());
        // A large inventory is read for some hundred milliseconds.
        let reading =
            tokio::task::spawn_blocking(move || collect::collect(&Tree { view: &site.view() }, &method, element));
        let objects = reading.await.map_err(|_| Fault::Failed(Error::internal().into()))??;
        let returned = match element {
            // Nothing is found: nothing is returned.
            "objects" if !objects.is_empty() => format!("<returnval>{objects}</returnval>"),
            _ => objects,
        };
        Ok(Reply::of(&self.method.name, &returned))
    }

    fn fetch(&self) -> Result<Reply, Fault> {
        let property = self.method.text_of("prop")?;
        let returned = match (self.this.resource_type.as_str(), property) {
            ("ServiceInstance", "content") => {
                format!("<returnval xsi:type=\"ServiceContent\">{}</returnval>", service_content(self.server))
            }
            ("ContainerView", "view") => {
                self.user()?;
                let objects = self.container_view()?.objects(&self.server.site.view())?;
                let mut text = "<returnval xsi:type=\"ArrayOfManagedObjectReference\">".to_owned();
                for object in &objects {
                    let (type_name, id) = (object.resource_type.as_str(), escaped(&object.id));
                    text.push_str(&format!(
                        "<ManagedObjectReference type=\"{type_name}\" xsi:type=\"ManagedObjectReference\">{id}\
                         </ManagedObjectReference>"
                    ));
                }
                text + "</returnval>"
            }
            (_, "name") => {
                self.user()?;
                format!("<returnval xsi:type=\"xsd:string\">{}</returnval>", escaped(&self.name_of_this()?))
            }
            (_, other) => {
                self.user()?;
                return Err(Fault::InvalidProperty(other.to_owned()));
            }
        };
        Ok(Reply::of("Fetch", &returned))
    }

    /// The name of the object; its id when it has none, since every object of the VIM schema has a name.
    fn name_of_this(&self) -> Result<String, Fault> {
        let stored = match view::is_entity(self.this.resource_type.as_str()) {
            true => self.server.site.view().get(&self.this),
            false => None,
        };
        match stored {
            Some(stored) => {
                let name = stored.document.get("name").and_then(Value::as_str).unwrap_or(&self.this.id);
                Ok(name.to_owned())
            }
            None if self.this == view::root() => Ok(view::ROOT_NAME.to_owned()),
            None => Err(Fault::NoObject(self.this.clone())),
        }
    }
}

/// What a session is called in answers: not its token, so that who logs an answer logs no login.
fn key_of(token: &str) -> String {
    let digest = Sha256::digest(format!("soap session {token}").as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn service_content(server: &Server) -> String {
    let version = env!("CARGO_PKG_VERSION");
    // Stays as long as the site's log does.
    let epoch = server.site.origin().epoch.to_be_bytes();
    let hex: String = Sha256::digest(epoch).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let uuid = format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32]);
    let root = view::root();
    format!(
        "<rootFolder type=\"Folder\">{}</rootFolder>\
         <propertyCollector type=\"PropertyCollector\">propertyCollector</propertyCollector>\
         <viewManager type=\"ViewManager\">ViewManager</viewManager>\
         <about><name>Lockstep</name><fullName>Lockstep {version}</fullName><vendor>Lockstep</vendor>\
         <version>8.0.3</version><build>0</build><localeVersion>INTL</localeVersion><localeBuild>000</localeBuild>\
         <osType>linux-x64</osType><productLineId>vpx</productLineId><apiType>VirtualCenter</apiType>\
         <apiVersion>{VERSION}</apiVersion><instanceUuid>{uuid}</instanceUuid></about>\
         <sessionManager type=\"SessionManager\">SessionManager</sessionManager>\
         <searchIndex type=\"SearchIndex\">SearchIndex</searchIndex>",
        root.id
    )
}
