//! Collectors as they are stored.

use std::sync::Arc;

use lockstep_client::Thumbprint;
use lockstep_contract::Message;
use lockstep_contract::services::collectors::{Kind, Phase};
use lockstep_model::{Document, ResourceId, Value, builtin};
use lockstep_site::{Site, WriteError};

use crate::vim::About;
use lockstep_site::times;

/// Tries before a write gives up against others.
const TRIES_MAX: usize = 16;

/// A collector: where its source is, and what is decided once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Collector {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) thumbprint: Option<Thumbprint>,
    pub(crate) id_prefix: String,
    /// Which installation the source said it is.
    pub(crate) source_id: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) created_ms: i64,
    /// Sealed for [`purpose`].
    pub(crate) password: String,
}

/// The resource of a collector.
pub(crate) fn resource(name: &str) -> ResourceId {
    ResourceId::new(builtin::COLLECTOR, name)
}

/// What a collector's password is sealed for.
pub(crate) fn purpose(name: &str) -> String {
    format!("collector/{name}")
}

impl Collector {
    /// The collector in a document; `None` when it is of a kind that is not known here.
    pub(crate) fn from_document(name: &str, document: &Document) -> Option<Self> {
        let text = |path: &str| document.get(path).and_then(Value::as_str).map(str::to_owned);
        let owned = |path: &str| text(path).unwrap_or_default();
        Some(Self {
            name: name.to_owned(),
            kind: Kind::from_name(&owned("kind"))?,
            address: owned("address"),
            user: owned("user"),
            thumbprint: text("thumbprint").and_then(|text| text.parse().ok()),
            id_prefix: owned("id_prefix"),
            source_id: text("source_id"),
            product: text("product"),
            created_ms: text("created").and_then(|text| times::read_ms(&text)).unwrap_or_default(),
            password: owned("password"),
        })
    }

    /// The document that it is stored as.
    pub(crate) fn to_document(&self) -> Document {
        let mut document = Document::default();
        let mut set = |path: &str, text: &str| document.set(path, (!text.is_empty()).then(|| Value::from(text)));
        set("kind", self.kind.name());
        set("address", &self.address);
        set("user", &self.user);
        set("thumbprint", &self.thumbprint.map(|thumbprint| thumbprint.to_string()).unwrap_or_default());
        set("id_prefix", &self.id_prefix);
        set("source_id", self.source_id.as_deref().unwrap_or_default());
        set("product", self.product.as_deref().unwrap_or_default());
        set("created", &times::date_time(self.created_ms).0);
        set("password", &self.password);
        document
    }
}

/// All collectors of a site, by name.
pub(crate) fn all(site: &Site) -> Vec<Collector> {
    let view = site.view();
    let read = |id: ResourceId| Collector::from_document(&id.id, &view.get(&id)?.document);
    view.ids(builtin::COLLECTOR, None).filter_map(read).collect()
}

/// Writes down that a collector follows its source, or why it does not; nothing when that is written already.
pub(crate) async fn write_status(site: &Site, author: &Arc<str>, collector: &ResourceId, error: Option<&Message>) {
    let phase = if error.is_some() { Phase::Failed } else { Phase::Following };
    edit(site, author, collector, |document| {
        let message = error.map(|message| {
            let fields = [("id", &message.id), ("default_message", &message.default_message)];
            Value::Struct(fields.map(|(name, text)| (name.into(), Value::from(&**text))).into())
        });
        let is_same = document.get("status").and_then(Value::as_str) == Some(phase.name())
            && document.get("status_message/id") == message.as_ref().and_then(|message| message.field("id"));
        if is_same {
            return;
        }
        document.set("status", Some(Value::from(phase.name())));
        document.set("status_message", message);
        document.set("status_since", Some(Value::from(&*times::date_time(times::now_ms()).0)));
    })
    .await;
}

/// Writes down what the source said of itself.
pub(crate) async fn write_about(site: &Site, author: &Arc<str>, collector: &ResourceId, about: &About) {
    edit(site, author, collector, |document| {
        // The certificate says who is trusted. A source that was set up anew is compared like any other.
        document.set("source_id", about.instance.as_deref().map(Value::from));
        document.set("product", Some(&*about.product).filter(|text| !text.is_empty()).map(Value::from));
    })
    .await;
}

/// Changes a collector's resource, unless it is gone.
async fn edit(site: &Site, author: &Arc<str>, collector: &ResourceId, change: impl Fn(&mut Document)) {
    for _ in 0..TRIES_MAX {
        let Some(stored) = site.view().get(collector) else { return };
        let mut document = stored.document;
        change(&mut document);
        match site.write_document(author.clone(), collector.clone(), document, Some(stored.modified)).await {
            Ok(_) => return,
            Err(WriteError::Changed { .. } | WriteError::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(%error, collector = %collector.id, "the state of a collector was not written down");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_model::Registry;

    use super::*;

    #[test]
    fn a_collector_survives_being_stored_and_fits_its_model() {
        let full = Collector {
            name: "vc".into(),
            kind: Kind::Vcenter,
            address: "https://vc.test".into(),
            user: "u".into(),
            thumbprint: Some(Thumbprint([7; 32])),
            id_prefix: "vc:".into(),
            source_id: Some("x".into()),
            product: Some("VMware vCenter Server".into()),
            created_ms: 1_714_557_600_120,
            password: "c0ffee".into(),
        };
        let bare =
            Collector { thumbprint: None, id_prefix: String::new(), source_id: None, product: None, ..full.clone() };
        let registry = Registry::new();
        let def = registry.type_def(builtin::COLLECTOR).unwrap();
        for collector in [full, bare] {
            let document = collector.to_document();
            let read = def.read_document(&serde_json::to_string(&document).unwrap()).unwrap();
            assert_eq!(Collector::from_document("vc", &read), Some(collector));
        }
    }
}
