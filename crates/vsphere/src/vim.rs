//! The SOAP API, as far as collecting needs it: a dozen methods that every version since 5.5 has.
//!
//! A call is sent once; whoever calls knows whether to try again. Answers are read while they come ([`Answer`]).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use lockstep_client::{Connector, Trust};
use lockstep_contract::Secret;
use quick_xml::escape::escape;
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE};

use crate::element::{Answer, Element};
use crate::error::{CollectError, quoted};
use crate::map::property_sets;
use crate::object::ObjectRef;

/// How long a source may take for an answer, and be silent while it sends one. A wait for updates has its own time on top.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is spoken before the source has said which version it is.
const FIRST_VERSION: (u32, u32) = (5, 5);

/// Most objects that a source is to tell in one answer.
const UPDATES_MAX: u32 = 200;

/// What a source says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// E.g. `VMware vCenter Server 8.0.2 build-22617221`.
    pub(crate) product: String,
    /// The installation; an ESXi host does not tell one.
    pub(crate) instance: Option<String>,
    /// Whether it is a vCenter, not a host.
    pub(crate) is_vcenter: bool,
    /// The version of the API.
    pub(crate) version: (u32, u32),
    version_text: String,
}

/// A source, and the session there.
pub(crate) struct Vim {
    pub(crate) connector: Connector,
    /// `https://HOST[:PORT]`, for people.
    pub(crate) url: String,
    pub(crate) about: About,
    root: ObjectRef,
    property_collector: ObjectRef,
    view_manager: ObjectRef,
    session_manager: ObjectRef,
    cookie: Option<HeaderValue>,
}

/// What is asked of a source about its objects.
pub(crate) struct Asked<'a> {
    /// A view of them; with it comes the root folder, which is in no view.
    pub(crate) view: Option<&'a ObjectRef>,
    /// Single objects.
    pub(crate) objects: &'a [ObjectRef],
    /// Only these types; empty: all that there are rules for.
    pub(crate) kinds: &'a [&'static str],
}

/// The URL that an address means.
///
/// # Errors
/// [`CollectError::Address`].
pub(crate) fn url_of(address: &str) -> Result<reqwest::Url, CollectError> {
    let wrong = || CollectError::Address(address.chars().take(200).collect());
    let text = address.trim();
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = reqwest::Url::parse(&text).map_err(|_| wrong())?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    // A password in the clear never leaves the machine.
    let is_scheme = url.scheme() == "https" || url.scheme() == "http" && is_loopback;
    let is_path = matches!(url.path().trim_end_matches('/'), "" | "/sdk");
    let is_bare = url.username().is_empty() && url.password().is_none();
    if !is_scheme || !is_path || !is_bare || url.query().is_some() || url.fragment().is_some() || host.is_empty() {
        return Err(wrong());
    }
    url.set_path("/");
    Ok(url)
}

impl Vim {
    /// Reaches a source and asks what it is.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn connect(address: &str, trust: Trust) -> Result<Self, CollectError> {
        let url = url_of(address)?;
        let connector = Connector::new(&url, trust).map_err(CollectError::Peer)?;
        let nothing = ObjectRef { kind: "ServiceInstance".into(), id: "ServiceInstance".into() };
        let mut vim = Self {
            connector,
            url: url.as_str().trim_end_matches('/').to_owned(),
            about: About { version: FIRST_VERSION, version_text: "5.5".to_owned(), ..About::default() },
            root: nothing.clone(),
            property_collector: nothing.clone(),
            view_manager: nothing.clone(),
            session_manager: nothing.clone(),
            cookie: None,
        };
        let content = vim.returned("RetrieveServiceContent", &nothing, "").await?;
        let object = |name: &str| {
            let found = content.child(name).and_then(ObjectRef::read);
            found.ok_or_else(|| vim.foreign(format!("its service content has no {name}")))
        };
        let text = |path: &str| content.text_at(path).unwrap_or_default().to_owned();
        let version_text = text("about.apiVersion");
        let mut parts = version_text.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        let version = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let is_version = !version_text.is_empty() && version_text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !is_version || version < FIRST_VERSION {
            return Err(vim.foreign(format!("API version {version_text:?}; 5.5 is the oldest that is spoken")));
        }
        let root = object("rootFolder")?;
        let property_collector = object("propertyCollector")?;
        let view_manager = object("viewManager")?;
        let session_manager = object("sessionManager")?;
        let instance = Some(text("about.instanceUuid")).filter(|uuid| !uuid.is_empty());
        let is_vcenter = text("about.apiType") == "VirtualCenter";
        let about = About { product: text("about.fullName"), instance, is_vcenter, version, version_text };
        Ok(Self { about, root, property_collector, view_manager, session_manager, ..vim })
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`CollectError::LoginRefused`], and what hinders a call.
    pub(crate) async fn login(&mut self, user: &str, password: &Secret) -> Result<(), CollectError> {
        let arguments = format!("<userName>{}</userName><password>{}</password>", escape(user), escape(&*password.0));
        match self.returned("Login", &self.session_manager.clone(), &arguments).await {
            Ok(_) => Ok(()),
            Err(CollectError::Fault { fault, .. }) if fault == "InvalidLogin" => {
                Err(CollectError::LoginRefused { url: self.url.clone(), user: user.to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the session.
    ///
    /// # Errors
    /// What hinders a call.
    pub(crate) async fn logout(&mut self) -> Result<(), CollectError> {
        self.done("Logout", &self.session_manager.clone(), "").await
    }

    /// A property collector of this session's own.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn create_collector(&mut self) -> Result<ObjectRef, CollectError> {
        let returned = self.returned("CreatePropertyCollector", &self.property_collector.clone(), "").await?;
        ObjectRef::read(&returned).ok_or_else(|| self.foreign("CreatePropertyCollector answers no object".to_owned()))
    }

    /// A view of everything below the root.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn create_view(&mut self) -> Result<ObjectRef, CollectError> {
        let mut arguments = format!("{}<recursive>true</recursive>", tagged("container", &self.root));
        // `type` stands before `recursive`.
        let kinds = [
            "Datacenter",
            "Folder",
            "ComputeResource",
            "HostSystem",
            "ResourcePool",
            "Datastore",
            "Network",
            "DistributedVirtualSwitch",
            "VirtualMachine",
        ];
        let types: String = kinds.iter().map(|kind| format!("<type>{kind}</type>")).collect();
        arguments.insert_str(arguments.len() - "<recursive>true</recursive>".len(), &types);
        let returned = self.returned("CreateContainerView", &self.view_manager.clone(), &arguments).await?;
        ObjectRef::read(&returned).ok_or_else(|| self.foreign("CreateContainerView answers no object".to_owned()))
    }

    /// How many objects a view has.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn count(&mut self, view: &ObjectRef) -> Result<u64, CollectError> {
        let spec = format!(
            "<propSet><type>ContainerView</type><pathSet>view</pathSet></propSet><objectSet>{}</objectSet>",
            tagged("obj", view)
        );
        let mut answer = self.retrieve_spec(&spec).await?;
        let mut count = 0;
        while let Some(part) = self.part(&mut answer).await? {
            count +=
                part.all("propSet").filter_map(|set| set.child("val")).map(|v| v.children.len() as u64).sum::<u64>();
        }
        Ok(count)
    }

    /// Lets a property collector watch objects.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn watch(&mut self, collector: &ObjectRef, asked: &Asked<'_>) -> Result<(), CollectError> {
        let arguments = format!("<spec>{}</spec><partialUpdates>false</partialUpdates>", self.spec(asked));
        self.done("CreateFilter", collector, &arguments).await
    }

    /// Waits for what a property collector watches to differ from how it was at `version`, which is empty at first, at most `wait`.
    ///
    /// The parts of the answer are `version`, `objectSet`, `missingSet` and `truncated`; there are none when nothing happened.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn updates(
        &mut self,
        collector: &ObjectRef,
        version: &str,
        wait: Duration,
    ) -> Result<Answer, CollectError> {
        let arguments = format!(
            "<version>{}</version><options><maxWaitSeconds>{}</maxWaitSeconds>\
             <maxObjectUpdates>{UPDATES_MAX}</maxObjectUpdates></options>",
            escape(version),
            wait.as_secs()
        );
        let containers = &["WaitForUpdatesExResponse", "returnval", "filterSet"];
        self.call("WaitForUpdatesEx", collector, &arguments, containers, SILENCE_MAX + wait).await
    }

    /// Retrieves objects. The parts of the answer are `objects`, and `token` when there are more ([`Vim::retrieve_more`]).
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn retrieve(&mut self, asked: &Asked<'_>) -> Result<Answer, CollectError> {
        let spec = self.spec(asked);
        self.retrieve_spec(&spec).await
    }

    async fn retrieve_spec(&mut self, spec: &str) -> Result<Answer, CollectError> {
        let arguments = format!("<specSet>{spec}</specSet><options><maxObjects>{UPDATES_MAX}</maxObjects></options>");
        let containers = &["RetrievePropertiesExResponse", "returnval"];
        let collector = self.property_collector.clone();
        self.call("RetrievePropertiesEx", &collector, &arguments, containers, SILENCE_MAX).await
    }

    /// Goes on with a retrieval.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn retrieve_more(&mut self, token: &str) -> Result<Answer, CollectError> {
        let arguments = format!("<token>{}</token>", escape(token));
        let containers = &["ContinueRetrievePropertiesExResponse", "returnval"];
        let collector = self.property_collector.clone();
        self.call("ContinueRetrievePropertiesEx", &collector, &arguments, containers, SILENCE_MAX).await
    }

    /// Calls a method of a machine. Answers the task that it makes, for one that makes one.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn tell(
        &mut self,
        method: &'static str,
        machine: &ObjectRef,
        has_task: bool,
    ) -> Result<Option<ObjectRef>, CollectError> {
        if !has_task {
            return self.done(method, machine, "").await.map(|()| None);
        }
        let returned = self.returned(method, machine, "").await?;
        let task = ObjectRef::read(&returned).ok_or_else(|| self.foreign(format!("{method} answers no task")))?;
        Ok(Some(task))
    }

    /// What a task says of itself: `state`, `progress`, `error`.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn task_info(&mut self, task: &ObjectRef) -> Result<Element, CollectError> {
        let spec = format!(
            "<propSet><type>Task</type><pathSet>info</pathSet></propSet><objectSet>{}</objectSet>",
            tagged("obj", task)
        );
        let mut answer = self.retrieve_spec(&spec).await?;
        let mut info = None;
        while let Some(part) = self.part(&mut answer).await? {
            if let Some(hidden) = part.at("missingSet.fault") {
                return Err(of_detail("Task.info", hidden.child("fault"), ""));
            }
            info = part.at("propSet.val").cloned().or(info);
        }
        info.ok_or_else(|| self.foreign(format!("{} {} says nothing of itself", task.kind, task.id)))
    }

    /// The next part of an answer; `None` at its end.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn part(&self, answer: &mut Answer) -> Result<Option<Element>, CollectError> {
        answer.next().await.map_err(|error| CollectError::of_stream(&self.url, error))
    }

    fn spec(&self, asked: &Asked<'_>) -> String {
        let mut out = String::new();
        for (kind, paths) in property_sets(self.about.version, asked.kinds) {
            let _ = write!(out, "<propSet><type>{kind}</type>");
            paths.iter().for_each(|path| {
                let _ = write!(out, "<pathSet>{path}</pathSet>");
            });
            out.push_str("</propSet>");
        }
        if let Some(view) = asked.view {
            let _ = write!(
                out,
                "<objectSet>{}<skip>true</skip><selectSet xsi:type=\"TraversalSpec\"><name>view</name>\
                 <type>ContainerView</type><path>view</path><skip>false</skip></selectSet></objectSet>\
                 <objectSet>{}</objectSet>",
                tagged("obj", view),
                tagged("obj", &self.root)
            );
        }
        for object in asked.objects {
            let _ = write!(out, "<objectSet>{}</objectSet>", tagged("obj", object));
        }
        // What has gone meanwhile is left out instead of failing the whole call.
        out.push_str("<reportMissingObjectsInResults>true</reportMissingObjectsInResults>");
        out
    }

    /// Calls a method that returns a value.
    async fn returned(
        &mut self,
        method: &'static str,
        this: &ObjectRef,
        arguments: &str,
    ) -> Result<Element, CollectError> {
        let mut answer = self.call(method, this, arguments, &[], SILENCE_MAX).await?;
        let response = self.part(&mut answer).await?;
        let returned = response.and_then(|response| response.children.into_iter().find(|c| &*c.name == "returnval"));
        returned.ok_or_else(|| self.foreign(format!("{method} answers nothing")))
    }

    /// Calls a method whose value nobody needs.
    async fn done(&mut self, method: &'static str, this: &ObjectRef, arguments: &str) -> Result<(), CollectError> {
        let mut answer = self.call(method, this, arguments, &[], SILENCE_MAX).await?;
        while self.part(&mut answer).await?.is_some() {}
        Ok(())
    }

    async fn call(
        &mut self,
        method: &'static str,
        this: &ObjectRef,
        arguments: &str,
        containers: &'static [&'static str],
        silence_max: Duration,
    ) -> Result<Answer, CollectError> {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>\
             <{method} xmlns=\"urn:vim25\">{}{arguments}</{method}></soapenv:Body></soapenv:Envelope>",
            tagged("_this", this)
        );
        let action = format!("\"urn:vim25/{}\"", self.about.version_text);
        let mut request = self
            .connector
            .http()
            .post(format!("{}/sdk", self.url))
            .header(CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", action)
            .body(body);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie.clone());
        }
        let silent = |_| CollectError::Broken {
            url: self.url.clone(),
            reason: format!("no answer to {method} within {} seconds", silence_max.as_secs()),
        };
        let began = Instant::now();
        let response = tokio::time::timeout(silence_max, request.send()).await.map_err(silent)?;
        tracing::debug!(method, took = ?began.elapsed(), "a source began to answer");
        let response = response.map_err(|error| CollectError::Peer(self.connector.failure(&self.url, &error)))?;
        let status = response.status();
        for cookie in response.headers().get_all(SET_COOKIE) {
            let pair = cookie.to_str().ok().and_then(|text| text.split(';').next()).map(str::trim);
            if let Some(pair) = pair.filter(|pair| pair.starts_with("vmware_soap_session=")) {
                self.cookie = HeaderValue::from_str(pair).ok().map(|mut value| {
                    value.set_sensitive(true);
                    value
                });
            }
        }
        let is_xml = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.contains("xml"));
        match status.as_u16() {
            200 if is_xml => {
                let chunks = Box::pin(response.bytes_stream());
                Ok(Answer::new(chunks, containers, silence_max))
            }
            500 if is_xml => {
                let mut answer = Answer::new(Box::pin(response.bytes_stream()), &[], silence_max);
                let fault = self.part(&mut answer).await?.unwrap_or_default();
                Err(of_fault(method, &fault))
            }
            503 => Err(CollectError::Broken {
                url: self.url.clone(),
                reason: "it answers 503: it is starting, or overloaded".to_owned(),
            }),
            other => Err(self.foreign(format!("status {other} to {method}"))),
        }
    }

    fn foreign(&self, reason: String) -> CollectError {
        CollectError::Foreign { url: self.url.clone(), reason }
    }
}

/// A reference as an element.
fn tagged(name: &str, object: &ObjectRef) -> String {
    format!("<{name} type=\"{}\">{}</{name}>", escape(&*object.kind), escape(&*object.id))
}

fn of_fault(method: &'static str, fault: &Element) -> CollectError {
    let detail = fault.child("detail").and_then(|detail| detail.children.first());
    of_detail(method, detail, fault.text_at("faultstring").unwrap_or_default())
}

/// The error that the structure of a fault says, of a call or of a task.
pub(crate) fn of_detail(method: &'static str, detail: Option<&Element>, text: &str) -> CollectError {
    let kind = detail.map(|detail| {
        let name = detail.name.strip_suffix("Fault").unwrap_or(&detail.name);
        detail.value_type.as_deref().unwrap_or(name)
    });
    match (kind.unwrap_or("a fault"), detail) {
        ("NotAuthenticated", _) => CollectError::SessionEnded,
        // The collector that watched, or what it has told, is gone with the session, or by a restart of the service behind.
        ("InvalidCollectorVersion" | "ManagedObjectNotFound", _) if method == "WaitForUpdatesEx" => {
            CollectError::SessionEnded
        }
        ("NoPermission", Some(detail)) => CollectError::Denied {
            method,
            privilege: detail.text_at("privilegeId").unwrap_or("unknown").to_owned(),
            object: detail
                .child("object")
                .and_then(ObjectRef::read)
                .map_or_else(|| "an object".to_owned(), |object| format!("{} {}", object.kind, object.id)),
        },
        (kind, _) => CollectError::Fault {
            method,
            fault: kind.to_owned(),
            text: quoted(text),
            existing: detail.and_then(|detail| detail.text_at("existingState")).map(str::to_owned),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::tests::element;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (good, expected) in [
            ("vc.test", "https://vc.test/"),
            (" vc.test:8443\n", "https://vc.test:8443/"),
            ("https://vc.test/sdk", "https://vc.test/"),
            ("http://127.0.0.1:8989", "http://127.0.0.1:8989/"),
            ("https://[::1]:1/", "https://[::1]:1/"),
        ] {
            assert_eq!(url_of(good).unwrap().as_str(), expected);
        }
        for bad in ["", "http://vc.test", "ftp://vc.test", "https://u:p@vc.test", "https://vc.test/ui", "vc.test?x"] {
            assert!(matches!(url_of(bad), Err(CollectError::Address(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn faults_are_told_apart() {
        let fault = async |detail: &str| {
            let text = format!(
                r#"<Fault xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><faultcode>x</faultcode>
                <faultstring>it   failed</faultstring><detail>{detail}</detail></Fault>"#
            );
            of_fault("Foo", &element(&text).await)
        };
        let ended = fault(r#"<NotAuthenticatedFault i:type="NotAuthenticated"/>"#).await;
        assert!(matches!(ended, CollectError::SessionEnded));
        let denied = r#"<NoPermissionFault><object type="Folder">group-d1</object><privilegeId>System.View</privilegeId></NoPermissionFault>"#;
        let denied = fault(denied).await.message().default_message;
        assert!(denied.contains("System.View on Folder group-d1") && denied.contains("Read-only"), "{denied}");
        assert_eq!(fault("").await.to_string(), "Foo failed with a fault: it failed");
    }
}
