//! Export: the inventory as NDJSON, in the form that import takes: what is the site's own, without what came by links.

use std::sync::Arc;

use bytes::Bytes;
use lockstep_model::{Kind, ResourceId, ResourceType, TypeDef, builtin};
use lockstep_query::ResourceRef;

use crate::Site;

/// About how many bytes a chunk has. The view is locked while one is written: some milliseconds.
const CHUNK_BYTES: usize = 256 << 10;

/// Where an export begins, and what it holds.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Only these types; empty: all but accounts and stamps of tagging, which are secret.
    pub types: Vec<String>,
    /// Go on behind this resource, when an export broke off.
    pub after: Option<ResourceId>,
}

/// An export under way. Chunks are from different moments: what changes meanwhile is told by the feed from the token taken before.
pub struct Exporter {
    site: Arc<Site>,
    types: Vec<ResourceType>,
    /// The last id written of the first type in `types`.
    after: Option<Box<str>>,
}

impl Exporter {
    /// An export of `site`. Unknown types give nothing: the caller checks them.
    pub fn new(site: &Arc<Site>, options: ExportOptions) -> Self {
        let view = site.view();
        let wanted = |t: &&Arc<TypeDef>| match &options.types[..] {
            [] => !matches!(t.name.as_str(), builtin::ACCOUNT | builtin::TAG_STAMPS),
            types => types.iter().any(|name| name == t.name.as_str()),
        };
        // Models first: an import into an empty site needs them before the resources they declare.
        let mut types: Vec<ResourceType> = view.registry().types().filter(wanted).map(|t| t.name.clone()).collect();
        types.sort_by_key(|t| t.as_str() != builtin::RESOURCE_MODEL);
        let mut after = None;
        if let Some(last) = &options.after
            && let Some(at) = types.iter().position(|t| *t == last.resource_type)
        {
            types.drain(..at);
            after = Some(last.id.clone());
        }
        drop(view);
        Self { site: site.clone(), types, after }
    }

    /// The next lines; `None` at the end. Blocks for the view's lock.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 3));
        let view = self.site.view();
        while let Some(name) = self.types.first() {
            for resource in view.resources(name.as_str(), self.after.as_deref()) {
                if resource.linked_from().is_some() {
                    continue;
                }
                write_line(&mut out, &resource);
                self.after = Some(resource.id().into());
                if out.len() >= CHUNK_BYTES {
                    return Some(out.into());
                }
            }
            self.types.remove(0);
            self.after = None;
        }
        (!out.is_empty()).then(|| out.into())
    }
}

/// The paths of a type's secret properties.
pub fn secrets(type_def: &TypeDef) -> Vec<String> {
    fn collect(properties: &[lockstep_model::Property], at: &str, out: &mut Vec<String>) {
        for property in properties {
            let path = if at.is_empty() { property.name.to_string() } else { format!("{at}/{}", property.name) };
            match &property.kind {
                _ if property.secret => out.push(path),
                Kind::Struct { fields } if !property.list => collect(fields, &path, out),
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    collect(&type_def.properties, "", &mut out);
    out
}

fn write_line(out: &mut Vec<u8>, resource: &ResourceRef<'_>) {
    out.extend_from_slice(b"{\"type\":");
    write_text(out, resource.resource_type());
    out.extend_from_slice(b",\"id\":");
    write_text(out, resource.id());
    out.extend_from_slice(b",\"properties\":");
    resource.write_json(out);
    out.extend_from_slice(b"}\n");
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Text can always be written as JSON, and a vector always be written to.
    let _ = serde_json::to_writer(out, text);
}
