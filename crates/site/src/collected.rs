//! Collected resources: kept by a collector as a source outside has them.
//!
//! A collector owns resources, those whose [`COLLECTED_BY`] points to it, and of each some properties. It writes what differs from its
//! source and nothing else, so that the feed carries real changes only; properties that it does not own, such as tags that people
//! attached, stay as they are.
//!
//! # Two collectors never fight
//! A resource that another collector keeps, or that came by a link, is left alone and told in [`Outcome::taken`]. One that nobody keeps, or
//! whose collector is gone, is taken over.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lockstep_journal::{Batch, Change, CommitError, Expect, Operation};
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAGS, is_taggable};
use lockstep_model::{COLLECTED_BY, Document, Misfit, ResourceId, TypeDef, Value};
use lockstep_query::View;
use serde_json::Map;

use crate::Site;
use crate::inventory::{ParentCache, change_to, collector_of, nearest_parent};

/// Tries before a batch gives up against others that keep changing its resources.
const TRIES_MAX: usize = 16;

/// So many resources are deleted in one commit.
const DELETIONS: usize = 500;

/// What a collector has seen of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// Its id here.
    pub id: ResourceId,
    /// What was seen.
    pub seen: Seen,
}

/// What is told of a resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// It is there.
    Present {
        /// Whether `paths` is all that the collector owns of it: then it is created when it is not here yet.
        is_whole: bool,
        /// The paths (`name`, `struct/field`) that were looked at. What is not in `properties` is unset.
        paths: Vec<&'static str>,
        /// The values as plain JSON, in the shape of a document.
        properties: Map<String, serde_json::Value>,
    },
    /// Its tags, of those that the collector collects. Other tags stay, and nothing is made that is not here.
    Tagged(BTreeSet<ResourceId>),
    /// It is not there, and may come back: what was looked at is written as with [`Seen::Present`], and nobody keeps it until it does, so
    /// that anyone may delete it. One that is not here is not created.
    LetGo {
        /// The paths that change.
        paths: Vec<&'static str>,
        /// Their values, in the shape of a document; what is not there is unset.
        properties: Map<String, serde_json::Value>,
    },
    /// It is gone.
    Gone,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Resources that were created.
    pub created: usize,
    /// Resources that were changed.
    pub changed: usize,
    /// Resources that were deleted.
    pub deleted: usize,
    /// Resources that are not the collector's, and were left alone.
    pub taken: Vec<ResourceId>,
    /// Resources of which a change was told and that are not here: their whole is needed.
    pub unknown: Vec<ResourceId>,
    /// Resources that do not fit their models, and were left as they were.
    pub misfits: Vec<(ResourceId, Misfit)>,
}

/// A batch on the view.
#[derive(Default)]
struct Planned {
    changes: Vec<(Change, Expect)>,
    outcome: Outcome,
}

/// Whether a collector may write the resource: it keeps it already, or nobody does.
fn is_free(view: &View, collector: &ResourceId, id: &ResourceId) -> bool {
    let is_linked = view.find(id).is_some_and(|found| found.linked_from().is_some());
    !is_linked && collector_of(view, id).is_none_or(|other| other == *collector || view.modified(&other).is_none())
}

/// The resource as it is to be.
struct Wanted {
    id: ResourceId,
    present: Option<(Arc<TypeDef>, Document)>,
}

/// What the batch means for what the view has. `incoming` names no resource twice.
fn plan(view: &View, collector: &ResourceId, incoming: &[Incoming]) -> Planned {
    let mut planned = Planned::default();
    let mut wanted = Vec::with_capacity(incoming.len());
    for Incoming { id, seen } in incoming {
        // A collected tag may be on anybody's object.
        let is_open = match seen {
            Seen::Tagged(_) => view.find(id).is_some_and(|found| found.linked_from().is_none()),
            Seen::Present { .. } | Seen::LetGo { .. } | Seen::Gone => is_free(view, collector, id),
        };
        if !is_open {
            planned.outcome.taken.push(id.clone());
            continue;
        }
        match seen {
            Seen::Gone => wanted.push(Wanted { id: id.clone(), present: None }),
            Seen::Tagged(tags) => {
                let type_def = view.registry().type_def(id.resource_type.as_str()).filter(|def| is_taggable(def));
                let Some((stored, type_def)) = view.get(id).zip(type_def) else { continue };
                let document = tagged(view, collector, stored.document, tags);
                wanted.push(Wanted { id: id.clone(), present: Some((type_def.clone(), document)) });
            }
            Seen::LetGo { paths, properties } => {
                let type_def = view.registry().type_def(id.resource_type.as_str());
                let Some((stored, type_def)) = view.get(id).zip(type_def) else { continue };
                match merged(type_def, Some(stored.document), paths, properties) {
                    Ok(mut document) => {
                        document.set(COLLECTED_BY, None);
                        wanted.push(Wanted { id: id.clone(), present: Some((type_def.clone(), document)) });
                    }
                    Err(misfit) => planned.outcome.misfits.push((id.clone(), misfit)),
                }
            }
            Seen::Present { is_whole, paths, properties } => {
                let stored = view.get(id).map(|stored| stored.document);
                if stored.is_none() && !is_whole {
                    planned.outcome.unknown.push(id.clone());
                    continue;
                }
                let Some(type_def) = view.registry().type_def(id.resource_type.as_str()).cloned() else { continue };
                match merged(&type_def, stored, paths, properties) {
                    Ok(mut document) => {
                        document.set(COLLECTED_BY, Some(Value::from(collector.clone())));
                        wanted.push(Wanted { id: id.clone(), present: Some((type_def, document)) });
                    }
                    Err(misfit) => planned.outcome.misfits.push((id.clone(), misfit)),
                }
            }
        }
    }
    let in_batch: HashMap<ResourceId, Option<ResourceId>> = wanted
        .iter()
        .filter_map(|one| {
            let (type_def, document) = one.present.as_ref()?;
            Some((one.id.clone(), nearest_parent(type_def, document).cloned()))
        })
        .collect();
    let mut cache = ParentCache::new(|id| in_batch.get(id).cloned());
    for Wanted { id, present } in wanted {
        match present {
            Some((type_def, document)) => {
                let parents = cache.parents(view, &type_def, &document);
                let Some(change) = change_to(view, id, document, parents) else { continue };
                match &change.0.operation {
                    Operation::Create(_) => planned.outcome.created += 1,
                    Operation::Update(_) | Operation::Delete(_) => planned.outcome.changed += 1,
                }
                planned.changes.push(change);
            }
            None => {
                let Some(stored) = view.get(&id) else { continue };
                let parents = view.parents(&id).into();
                planned.outcome.deleted += 1;
                let change = Change { id, operation: Operation::Delete(stored.document), parents };
                planned.changes.push((change, Expect::At(stored.modified)));
            }
        }
    }
    planned
}

/// The document with the values that were seen, and everything else as it was.
fn merged(
    type_def: &TypeDef,
    stored: Option<Document>,
    paths: &[&'static str],
    properties: &Map<String, serde_json::Value>,
) -> Result<Document, Misfit> {
    // The text of a map that was made in memory can always be written.
    let json = serde_json::to_string(properties).unwrap_or_default();
    let seen = type_def.read_document(&json)?;
    let Some(mut document) = stored else { return Ok(seen) };
    for path in paths {
        document.set(path, seen.get(path).cloned());
    }
    Ok(document)
}

/// The document with those tags, of the ones that the collector keeps.
fn tagged(view: &View, collector: &ResourceId, mut document: Document, tags: &BTreeSet<ResourceId>) -> Document {
    let before: Vec<ResourceId> = match document.get(TAGS) {
        Some(Value::List(items)) => items.iter().filter_map(|item| item.as_id().cloned()).collect(),
        _ => Vec::new(),
    };
    let is_ours = |tag: &ResourceId| collector_of(view, tag).as_ref() == Some(collector);
    let (mut after, gone): (Vec<ResourceId>, Vec<ResourceId>) =
        before.into_iter().partition(|tag| tags.contains(tag) || !is_ours(tag));
    let added: Vec<ResourceId> = tags.iter().filter(|tag| !after.contains(tag)).cloned().collect();
    if gone.is_empty() && added.is_empty() {
        return document;
    }
    after.extend(added);
    let items: Box<[Value]> = after.into_iter().map(Value::from).collect();
    document.set(TAGS, (!items.is_empty()).then_some(Value::List(items)));
    document
}

/// Writes what differs between what a collector has seen and what is here, in one commit, or in none when nothing does.
///
/// `incoming` names no resource twice.
///
/// # Errors
/// [`CommitError`]; nothing was written then.
pub async fn write(
    site: &Arc<Site>,
    author: &Arc<str>,
    collector: &ResourceId,
    incoming: Vec<Incoming>,
) -> Result<Outcome, CommitError> {
    let incoming: Arc<[Incoming]> = incoming.into();
    let is_of_tagging = |one: &Incoming| matches!(one.id.resource_type.as_str(), TAG | TAG_CATEGORY);
    let is_attaching = incoming.iter().any(|one| matches!(one.seen, Seen::Tagged(_)));
    // As whoever else edits tags: see [`Site::tagging`].
    let (mut _alone, mut _shared) = (None, None);
    if incoming.iter().any(is_of_tagging) {
        _alone = Some(site.tagging.write().await);
    } else if is_attaching {
        _shared = Some(site.tagging.read().await);
    }
    let mut last = CommitError::Closed;
    for _ in 0..TRIES_MAX {
        let (here, collector, incoming) = (site.clone(), collector.clone(), incoming.clone());
        // Documents are read and compared for some milliseconds.
        let planned = tokio::task::spawn_blocking(move || plan(&here.view(), &collector, &incoming));
        let Planned { changes, outcome } = planned.await.map_err(|_| CommitError::Closed)?;
        if changes.is_empty() {
            return Ok(outcome);
        }
        match site.commit(Batch { author: author.clone(), changes, relies_on: Vec::new() }).await {
            Ok(_) => return Ok(outcome),
            Err(conflict @ CommitError::Conflict { .. }) => {
                last = conflict;
                site.catch_up().await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// All resources that a collector keeps.
pub fn kept(view: &View, collector: &ResourceId) -> Vec<ResourceId> {
    view.registry().types().flat_map(|def| view.referring(def.name.as_str(), COLLECTED_BY, collector)).collect()
}

/// Deletes those of the resources that a collector keeps of which `is_gone` says so.
///
/// Answers how many there were.
///
/// # Errors
/// [`CommitError`]; some may be deleted then.
pub async fn delete_where(
    site: &Arc<Site>,
    author: &Arc<str>,
    collector: &ResourceId,
    is_gone: impl Fn(&ResourceId) -> bool,
) -> Result<usize, CommitError> {
    let mut gone = kept(&site.view(), collector);
    gone.retain(|id| is_gone(id));
    let mut deleted = 0;
    // What is deepest goes first, so that what is left always has the parents it says.
    let depths: HashMap<ResourceId, usize> = {
        let view = site.view();
        gone.iter().map(|id| (id.clone(), view.parents(id).len())).collect()
    };
    gone.sort_by_key(|id| std::cmp::Reverse(depths.get(id).copied().unwrap_or_default()));
    for part in gone.chunks(DELETIONS) {
        let incoming = part.iter().map(|id| Incoming { id: id.clone(), seen: Seen::Gone }).collect();
        deleted += write(site, author, collector, incoming).await?.deleted;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use lockstep_journal::StateEntry;
    use lockstep_model::{Position, Registry};
    use serde_json::json;

    use super::*;

    fn view(resources: &[(&str, &str, serde_json::Value)]) -> View {
        let mut view = View::new(Registry::new());
        for (resource_type, id, json) in resources {
            let document = view.registry().type_def(resource_type).unwrap().read_document(&json.to_string()).unwrap();
            let (created, modified) = (Position(1), Position(2));
            let id = ResourceId::new(*resource_type, *id);
            view.load(&StateEntry { id, document, created, modified, created_ms: 0, modified_ms: 0 });
        }
        view
    }

    fn present(id: &str, is_whole: bool, paths: &[&'static str], properties: serde_json::Value) -> Incoming {
        let properties = properties.as_object().cloned().unwrap();
        let seen = Seen::Present { is_whole, paths: paths.to_vec(), properties };
        Incoming { id: ResourceId::new("VirtualMachine", id), seen }
    }

    #[test]
    fn what_is_let_go_is_nobodys_until_it_is_seen_again() {
        let me = ResourceId::new("Collector", "host");
        let by = json!({"type": "Collector", "id": "host"});
        let on =
            json!({"name": "a", "power_state": "POWERED_ON", "qemu": {"pid": 7, "machine": "q35"}, "collected_by": by});
        let off = json!({"name": "a", "power_state": "POWERED_OFF"});
        let view = view(&[
            ("Collector", "host", json!({"kind": "HOST"})),
            ("VirtualMachine", "on", on),
            ("VirtualMachine", "off", off),
        ]);
        let let_go = |id: &str| Incoming {
            id: ResourceId::new("VirtualMachine", id),
            seen: Seen::LetGo {
                paths: vec!["power_state", "qemu/pid"],
                properties: json!({"power_state": "POWERED_OFF"}).as_object().cloned().unwrap(),
            },
        };
        let changed = |incoming: &[Incoming]| -> Vec<String> {
            let changes = plan(&view, &me, incoming).changes;
            let leaves = |(change, _): (Change, Expect)| match change.operation {
                Operation::Update(leaves) => leaves.iter().map(|leaf| leaf.path.to_string()).collect(),
                _ => vec!["more than that".to_owned()],
            };
            changes.into_iter().flat_map(leaves).collect()
        };
        assert_eq!(changed(&[let_go("on")]), [COLLECTED_BY, "power_state", "qemu/pid"]);
        assert!(changed(&[let_go("off"), let_go("never-here")]).is_empty());
        let again = present("off", true, &["power_state"], json!({"power_state": "POWERED_ON"}));
        assert_eq!(changed(&[again]), [COLLECTED_BY, "power_state"]);
    }

    #[test]
    fn only_what_differs_is_planned_and_what_others_set_stays() {
        let me = ResourceId::new("Collector", "vc");
        let by = |name: &str| json!({"type": "Collector", "id": name});
        let view = view(&[
            ("Collector", "vc", json!({"kind": "VCENTER"})),
            ("Collector", "other", json!({"kind": "VCENTER"})),
            ("VirtualMachine", "same", json!({"name": "a", "annotation": "mine", "collected_by": by("vc")})),
            ("VirtualMachine", "new-name", json!({"name": "a", "annotation": "mine", "collected_by": by("vc")})),
            ("VirtualMachine", "theirs", json!({"name": "a", "collected_by": by("other")})),
            ("VirtualMachine", "orphan", json!({"name": "a", "collected_by": by("gone")})),
            ("VirtualMachine", "nobodys", json!({"name": "a"})),
            ("VirtualMachine", "gone", json!({"name": "a", "collected_by": by("vc")})),
        ]);
        let seen = [
            present("same", true, &["name"], json!({"name": "a"})),
            present("new-name", false, &["name", "guest/hostname"], json!({"name": "b"})),
            present("theirs", true, &["name"], json!({"name": "b"})),
            present("orphan", true, &["name"], json!({"name": "a"})),
            present("nobodys", true, &["name"], json!({"name": "a"})),
            present("unknown", false, &["name"], json!({"name": "b"})),
            present("fresh", true, &["name"], json!({"name": "b"})),
            present("odd", true, &["name"], json!({"name": 7})),
            Incoming { id: ResourceId::new("VirtualMachine", "gone"), seen: Seen::Gone },
            Incoming { id: ResourceId::new("VirtualMachine", "never-here"), seen: Seen::Gone },
        ];
        let Planned { changes, outcome } = plan(&view, &me, &seen);
        assert_eq!((outcome.created, outcome.changed, outcome.deleted), (1, 3, 1));
        let vm = |id: &str| ResourceId::new("VirtualMachine", id);
        assert_eq!((outcome.taken, outcome.unknown), (vec![vm("theirs")], vec![vm("unknown")]));
        assert_eq!(outcome.misfits[0].0, vm("odd"));
        let leaves = |id: &str| {
            let (change, _) = changes.iter().find(|(change, _)| change.id == vm(id)).unwrap();
            match &change.operation {
                Operation::Update(leaves) => leaves.iter().map(|leaf| leaf.path.to_string()).collect::<Vec<_>>(),
                _ => Vec::new(),
            }
        };
        assert_eq!(leaves("new-name"), ["name"]);
        assert_eq!(leaves("orphan"), [COLLECTED_BY], "taken over");
        assert_eq!(leaves("nobodys"), [COLLECTED_BY]);
        assert_eq!(kept(&view, &me), [vm("gone"), vm("new-name"), vm("same")]);
    }
}
