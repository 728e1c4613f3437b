//! Edits that were lost, as resources of type `TagConflict`.
//!
//! The id is reckoned from what was edited, as its own site calls it, and from the stamp of the edit that was lost: so whichever sites find it
//! give it one id, and what comes from another site is known already. Sites stand in it by the epochs of their logs, which all of them know
//! them by; people are shown names.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_contract::services::TypedId;
use lockstep_contract::services::links::tagging::{Conflict as Shown, ConflictsInput, Reason};
use lockstep_contract::{DateTime, Error};
use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::builtin::{LINK, TAG_CONFLICT, TAG_STAMPS};
use lockstep_model::{Document, Registry, ResourceId, Value};
use lockstep_query::{ResourceRef, View};
use lockstep_site::Site;
use lockstep_site::stamps::{GONE, Lost, Register, Stamp, Stamps, is_edited_whole, stamped};
use lockstep_site::table::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::serve::Names;
use crate::SyncError;
use crate::inventory::frame::FrameWriter;
use crate::provider::AUTHOR;
use lockstep_site::times;

/// How long a conflict is kept.
const KEPT_MS: i64 = 30 * 24 * 3600 * 1000;

/// Most conflicts that are kept: the oldest go.
const KEPT_MAX: usize = 10_000;

/// Conflicts that one commit deletes.
const PRUNE_BATCH: usize = 1000;

/// Most conflicts that one answer lists.
const LIST_MAX: i64 = 1000;

/// An edit that was lost.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conflict {
    id: Arc<str>,
    /// What was edited, by its id here.
    edited: ResourceId,
    property: String,
    reason: Reason,
    lost: Register,
    /// The value that won, as JSON; none when what was edited is gone.
    kept: Option<String>,
    kept_stamp: Stamp,
}

/// A conflict on its way.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    yours: bool,
    resource_type: String,
    resource_id: String,
    property: String,
    reason: String,
    lost: String,
    lost_site: String,
    lost_time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
    kept_site: String,
    kept_time: String,
}

impl Conflict {
    /// An edit of `edited`, a resource here, that was lost.
    pub(crate) fn new(view: &View, edited: &ResourceId, reason: Reason, lost: Lost) -> Self {
        let Lost { key, lost, kept, is_deleted } = lost;
        let kept_value = (!is_deleted).then(|| kept.value.to_string());
        let id = reckon_id(&home(view, edited), &key, reason, &lost.stamp).into();
        Self { id, edited: edited.clone(), property: key, reason, lost, kept: kept_value, kept_stamp: kept.stamp }
    }

    /// The resource that it is kept as.
    pub(crate) fn resource(&self) -> ResourceId {
        ResourceId::new(TAG_CONFLICT, &*self.id)
    }

    fn document(&self) -> Document {
        let mut document = Document::default();
        let mut set = |name: &str, text: &str| {
            document.set(name, (!text.is_empty()).then(|| Value::from(text)));
        };
        set("resource_type", self.edited.resource_type.as_str());
        set("resource_id", &self.edited.id);
        set("property", &self.property);
        set("reason", self.reason.name());
        set("lost", &self.lost.value.to_string());
        set("lost_site", &self.lost.stamp.site);
        set("lost_time", &time_text(&self.lost.stamp));
        set("kept", self.kept.as_deref().unwrap_or_default());
        set("kept_site", &self.kept_stamp.site);
        set("kept_time", &time_text(&self.kept_stamp));
        document
    }

    /// The change that keeps it; `None` when it is kept already, has aged, or when there are too many.
    pub(crate) fn keep(&self, view: &View) -> Option<(Change, Expect)> {
        let id = self.resource();
        let has_aged = self.lost.stamp.tick > 0 && self.lost.stamp.time_ms() < times::now_ms() - KEPT_MS;
        if has_aged || view.modified(&id).is_some() {
            return None;
        }
        let operation = Operation::Create(self.document());
        Some((Change { id, operation, parents: Arc::from([]) }, Expect::Absent))
    }

    /// Reads one that came from another site.
    pub(crate) fn read(there: &ResourceId, json: &str, registry: &Registry, prefix: &str) -> Result<Self, String> {
        let line: Line = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let reason = Reason::from_name(&line.reason).ok_or("no reason")?;
        let mut edited = ResourceId::new(&*line.resource_type, &*line.resource_id);
        edited.check().map_err(|e| e.to_string())?;
        if !line.yours && !is_edited_whole(&edited) {
            edited.id = format!("{prefix}{}", edited.id).into();
        }
        let stamp = |site: &str, time: &str| {
            let ms = times::read_ms(time).and_then(|ms| u64::try_from(ms).ok()).ok_or("no time")?;
            Ok::<_, String>(Stamp { tick: ms << 16, site: site.into() })
        };
        let lost = Register {
            stamp: stamp(&line.lost_site, &line.lost_time)?,
            value: serde_json::from_str(&line.lost).map_err(|e| e.to_string())?,
        };
        let kept_stamp = stamp(&line.kept_site, &line.kept_time)?;
        let conflict =
            Self { id: (*there.id).into(), edited, property: line.property, reason, lost, kept: line.kept, kept_stamp };
        // Held against the model as anything that comes from elsewhere.
        let def = registry.type_def(TAG_CONFLICT).ok_or("no model")?;
        let text = serde_json::to_string(&conflict.document()).map_err(|e| e.to_string())?;
        def.read_document(&text).map_err(|e| e.to_string())?;
        Ok(conflict)
    }
}

/// What the object's own site calls it; others are called alike everywhere.
fn home(view: &View, edited: &ResourceId) -> ResourceId {
    let is_own = is_edited_whole(edited) || view.find(edited).is_some_and(|object| object.linked_from().is_none());
    if is_own {
        return edited.clone();
    }
    let own = view.ids(LINK, None).find_map(|link| {
        let link = view.get(&link)?;
        let domain = link.document.get("domain_name").and_then(Value::as_str)?;
        edited.id.strip_prefix(domain)?.strip_prefix('~').map(str::to_owned)
    });
    ResourceId::new(edited.resource_type.clone(), own.as_deref().unwrap_or(&edited.id))
}

pub(super) fn reckon_id(home: &ResourceId, key: &str, reason: Reason, lost: &Stamp) -> String {
    let tick = lost.tick.to_string();
    let mut hash = Sha256::new();
    for part in [home.resource_type.as_str(), &home.id, key, reason.name(), &tick, &lost.site] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn time_text(stamp: &Stamp) -> String {
    // A stamp of 2^62 is some millions of years ahead, and no date: it shows as 1970.
    times::text(stamp.time_ms())
}

/// Tells a conflict.
pub(crate) fn put(view: &View, names: &Names, resource: &ResourceRef<'_>, frame: &mut FrameWriter) {
    let Some(stored) = view.get(&resource.resource_id()) else { return };
    let text = |name: &str| stored.document.get(name).and_then(Value::as_str).map(str::to_owned);
    let owned = |name: &str| text(name).unwrap_or_default();
    let edited = ResourceId::new(&*owned("resource_type"), owned("resource_id"));
    let (id, yours) = if is_edited_whole(&edited) {
        (edited.id.to_string(), false)
    } else {
        match names.told_id(view, &edited) {
            Some(told) => told,
            None => return,
        }
    };
    let line = Line {
        yours,
        resource_type: owned("resource_type"),
        resource_id: id,
        property: owned("property"),
        reason: owned("reason"),
        lost: owned("lost"),
        lost_site: owned("lost_site"),
        lost_time: owned("lost_time"),
        kept: text("kept"),
        kept_site: owned("kept_site"),
        kept_time: owned("kept_time"),
    };
    frame.line(TAG_CONFLICT, resource.id(), &serde_json::to_string(&line).unwrap_or_default());
}

/// Deletes conflicts that have aged, or are too many, and marks of objects that are long gone.
pub(crate) async fn prune(site: &Site) -> Result<(), SyncError> {
    loop {
        let gone: Vec<(Change, Expect)> = {
            let view = site.view();
            let mut all: Vec<(i64, ResourceId)> = view
                .ids(TAG_CONFLICT, None)
                .map(|id| (view.get(&id).map_or(0, |stored| lost_ms(&stored.document)), id))
                .collect();
            all.sort_unstable();
            let extra = all.len().saturating_sub(KEPT_MAX);
            let oldest = times::now_ms() - KEPT_MS;
            let aged = |(n, (ms, _)): &(usize, (i64, ResourceId))| *n < extra || *ms > 0 && *ms < oldest;
            let delete = |(_, (_, id)): (usize, (i64, ResourceId))| {
                let stored = view.get(&id)?;
                let operation = Operation::Delete(stored.document);
                Some((Change { id, operation, parents: Arc::from([]) }, Expect::At(stored.modified)))
            };
            let conflicts = all.into_iter().enumerate().filter(aged).take(PRUNE_BATCH).filter_map(delete);
            conflicts.chain(old_marks(&view, oldest)).collect()
        };
        if gone.is_empty() {
            return Ok(());
        }
        site.commit_stamped(Batch { author: AUTHOR.into(), changes: gone, relies_on: Vec::new() }).await?;
    }
}

/// The deletions of marks of objects that were deleted before `oldest`.
fn old_marks(view: &View, oldest: i64) -> Vec<(Change, Expect)> {
    let delete = |id: ResourceId| {
        let object = stamped(&id.id).filter(|object| !is_edited_whole(object) && view.modified(object).is_none())?;
        let gone = Stamps::of(view, &object).is.remove(GONE)?;
        let stored = view.get(&id).filter(|_| gone.stamp.time_ms() < oldest)?;
        let operation = Operation::Delete(stored.document);
        Some((Change { id, operation, parents: Arc::from([]) }, Expect::At(stored.modified)))
    };
    view.ids(TAG_STAMPS, None).filter_map(delete).take(PRUNE_BATCH).collect()
}

fn lost_ms(document: &Document) -> i64 {
    document.get("lost_time").and_then(Value::as_str).and_then(times::read_ms).unwrap_or(0)
}

/// The operation that lists them.
pub(crate) fn list(context: &Context, input: &ConflictsInput) -> Result<Vec<Shown>, Error> {
    let limit = input.limit.unwrap_or(LIST_MAX);
    let limit = usize::try_from(limit)
        .ok()
        .filter(|_| (0..=LIST_MAX).contains(&limit))
        .ok_or_else(|| Error::invalid_argument("lockstep.links.invalid", "limit", &format!("0 to {LIST_MAX}")))?;
    let view = context.site.view();
    let mut sites: HashMap<String, String> = HashMap::new();
    for id in view.ids(LINK, None) {
        let Some(link) = view.get(&id) else { continue };
        let text = |name: &str| link.document.get(name).and_then(Value::as_str).map(str::to_owned);
        sites.extend(text("peer_log").zip(text("domain_name")));
    }
    sites.insert(format!("{:016x}", context.site.origin().epoch), context.site.config.name.clone());
    let mut all: Vec<(i64, ResourceId, Document)> = view
        .ids(TAG_CONFLICT, None)
        .filter_map(|id| view.get(&id).map(|stored| (lost_ms(&stored.document), id, stored.document)))
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let show = |(_, id, document): (i64, ResourceId, Document)| {
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
        let owned = |name: &str| text(name).unwrap_or_default();
        let site = |name: &str| {
            let log = owned(name);
            sites.get(&log).cloned().unwrap_or(log)
        };
        Shown {
            id: id.id.into(),
            resource: TypedId { resource_type: owned("resource_type"), id: owned("resource_id") },
            property: owned("property"),
            reason: text("reason").and_then(|name| Reason::from_name(&name)).unwrap_or(Reason::Later),
            lost: owned("lost"),
            lost_site: site("lost_site"),
            lost_time: DateTime(owned("lost_time")),
            kept: text("kept"),
            kept_site: site("kept_site"),
            kept_time: DateTime(owned("kept_time")),
        }
    };
    Ok(all.into_iter().take(limit).map(show).collect())
}
