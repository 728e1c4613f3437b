//! A link as it is stored.

use lockstep_client::Thumbprint;
use lockstep_contract::Message;
use lockstep_contract::services::links::{Health, Role, State};
use lockstep_model::{Document, Value};

use crate::provider::LinkId;
use lockstep_site::times;

/// A link: where the other site is, and what it must show.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    /// What the other site is called here.
    pub(crate) domain: String,
    /// What it calls itself.
    pub(crate) site: String,
    /// The epoch of its log when the link was made.
    pub(crate) log: String,
    pub(crate) hostname: String,
    pub(crate) port: u16,
    pub(crate) url: String,
    /// None without TLS, which is for loopback addresses only.
    pub(crate) certificate: Option<Thumbprint>,
    pub(crate) role: Role,
    pub(crate) state: State,
    pub(crate) health: Health,
    pub(crate) created_ms: i64,
    pub(crate) admin_groups: Vec<String>,
    /// The access token there, sealed.
    pub(crate) token: String,
}

impl Link {
    /// The link in a document; what is not there is taken for empty.
    pub(crate) fn from_document(id: LinkId, document: &Document) -> Self {
        let text = |path: &str| document.get(path).and_then(Value::as_str);
        let owned = |path: &str| text(path).unwrap_or_default().to_owned();
        let port = match document.get("port") {
            Some(Value::Long(port)) => u16::try_from(*port).unwrap_or_default(),
            _ => 0,
        };
        let health = match (text("health"), message_at(document, "health_message")) {
            (Some("HEALTHY"), _) => Health::Healthy,
            (Some("UNHEALTHY"), Some(message)) => Health::Unhealthy(message),
            _ => Health::Unknown,
        };
        Self {
            id,
            domain: owned("domain_name"),
            site: owned("peer_site"),
            log: owned("peer_log"),
            hostname: owned("hostname"),
            port,
            url: owned("url"),
            certificate: text("thumbprint").and_then(|text| text.parse().ok()),
            role: text("role").and_then(Role::from_name).unwrap_or(Role::Origin),
            state: text("state").and_then(State::from_name).unwrap_or(State::Active),
            health,
            created_ms: text("created").and_then(times::read_ms).unwrap_or_default(),
            admin_groups: texts(document, "admin_groups"),
            token: owned("token"),
        }
    }

    /// The document that the link is stored as.
    pub(crate) fn to_document(&self) -> Document {
        let mut document = Document::default();
        let mut set = |path: &str, text: &str| document.set(path, Some(Value::from(text)));
        set("domain_name", &self.domain);
        set("hostname", &self.hostname);
        set("url", &self.url);
        set("role", self.role.name());
        set("peer_site", &self.site);
        set("peer_log", &self.log);
        set("state", self.state.name());
        set("created", &times::date_time(self.created_ms).0);
        set("token", &self.token);
        if let Some(certificate) = &self.certificate {
            set("thumbprint", &certificate.to_string());
        }
        document.set("port", Some(Value::from(i64::from(self.port))));
        document.set("admin_groups", list(&self.admin_groups));
        let (status, message) = self.health.clone().parts();
        document.set("health", status.map(|status| Value::from(status.name())));
        document.set("health_message", message.as_ref().map(message_value));
        document
    }
}

/// Texts as a list; an empty list is unset.
pub(crate) fn list(texts: &[String]) -> Option<Value> {
    let items: Box<[Value]> = texts.iter().map(|text| Value::from(&**text)).collect();
    (!items.is_empty()).then_some(Value::List(items))
}

/// The texts of a list.
pub(crate) fn texts(document: &Document, path: &str) -> Vec<String> {
    match document.get(path) {
        Some(Value::List(items)) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// A message as it is stored.
pub(crate) fn message_value(message: &Message) -> Value {
    let mut fields = vec![
        ("id".into(), Value::from(&*message.id)),
        ("default_message".into(), Value::from(&*message.default_message)),
    ];
    if let Some(args) = list(&message.args) {
        fields.push(("args".into(), args));
    }
    Value::Struct(fields.into())
}

/// The message stored at `path`.
pub(crate) fn message_at(document: &Document, path: &str) -> Option<Message> {
    let stored = document.get(path)?;
    let text = |name| stored.field(name).and_then(Value::as_str).map(str::to_owned);
    let args = match stored.field("args") {
        Some(Value::List(items)) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    };
    Some(Message::new(text("id")?, text("default_message")?, args))
}

#[cfg(test)]
mod tests {
    use lockstep_model::{Registry, builtin};

    use super::*;

    #[test]
    fn a_link_survives_being_stored_and_fits_its_model() {
        let mut link = Link {
            id: LinkId::new("l"),
            domain: "site2.local".into(),
            site: "fra02".into(),
            log: "00b1f0".into(),
            hostname: "10.0.0.2".into(),
            port: 8443,
            url: "https://10.0.0.2:8443".into(),
            certificate: Some(Thumbprint([7; 32])),
            role: Role::Target,
            state: State::Purging,
            health: Health::Unknown,
            created_ms: 1_714_557_600_120,
            admin_groups: vec!["admins@site2.local".into()],
            token: "c0ffee".into(),
        };
        let registry = Registry::new();
        let def = registry.type_def(builtin::LINK).unwrap();
        let unhealthy = Health::Unhealthy(Message::new("a", "b", vec!["c".into()]));
        for health in [Health::Unknown, Health::Healthy, unhealthy] {
            link.health = health;
            let document = link.to_document();
            let read = def.read_document(&serde_json::to_string(&document).unwrap()).unwrap();
            assert!(document.diff(&read).is_empty(), "{:?}", document.diff(&read));
            assert_eq!(Link::from_document(link.id.clone(), &read), link);
        }
        link.certificate = None;
        link.admin_groups.clear();
        assert_eq!(Link::from_document(link.id.clone(), &link.to_document()), link);
    }
}
