//! The pull side: what this site knows of edits of tagging, for the other site of a link.
//!
//! Objects are told that are this site's own, or copies of the asker's; what came by other links is for their own site to tell.

use std::collections::HashSet;

use lockstep_contract::services::TypedId;
use lockstep_journal::{Change, Operation};
use lockstep_model::builtin::{LINK, TAG, TAG_CATEGORY, TAG_CONFLICT, TAG_STAMPS, TAGS, is_taggable};
use lockstep_model::{ResourceId, Value};
use lockstep_query::{ResourceRef, View};
use lockstep_site::stamps::{Stamps, has_list, is_edited_whole, stamped, stamps_id};

use super::{conflicts, record};
use crate::LinkId;
use crate::inventory::batch::prefix;
use crate::inventory::frame::FrameWriter;
use crate::inventory::serve::SCAN_MAX;

/// About how many records there are: what was attached and never edited is not counted.
pub(crate) fn count(view: &View) -> usize {
    [TAG, TAG_CATEGORY, TAG_STAMPS, TAG_CONFLICT].into_iter().map(|name| view.count(name)).sum()
}

/// How the objects of both sites are told over a link.
pub(crate) struct Names {
    link: LinkId,
    /// What ids of copies of the asker's objects begin with.
    prefix: String,
}

impl Names {
    /// `None` for a link that is not there.
    pub(crate) fn new(view: &View, link: &LinkId) -> Option<Self> {
        let stored = view.get(&link.resource())?;
        let domain = stored.document.get("domain_name").and_then(Value::as_str)?;
        Some(Self { link: link.clone(), prefix: prefix(domain) })
    }

    /// As [`Names::told`], for one that may be gone.
    pub(crate) fn told_id(&self, view: &View, id: &ResourceId) -> Option<(String, bool)> {
        match view.find(id) {
            Some(object) => self.told(&object).map(|(id, yours)| (id.to_owned(), yours)),
            None => match id.id.strip_prefix(&*self.prefix) {
                Some(there) => Some((there.to_owned(), true)),
                None => (!is_copy(view, id)).then(|| (id.id.to_string(), false)),
            },
        }
    }

    /// The id that an object is told by, and whether it is the asker's own; `None` when it is not told.
    pub(crate) fn told<'v>(&self, object: &ResourceRef<'v>) -> Option<(&'v str, bool)> {
        match object.linked_from() {
            None => Some((object.id(), false)),
            Some(link) if link == self.link.as_str() => Some((object.id().strip_prefix(&*self.prefix)?, true)),
            Some(_) => None,
        }
    }
}

/// Fills a frame with what is behind `after`: categories, tags, what was edited and is gone or has tags, what has tags as it always had,
/// conflicts. Where the next page begins; `None` at the end.
pub(crate) fn page(view: &View, link: &LinkId, after: Option<&TypedId>, frame: &mut FrameWriter) -> Option<TypedId> {
    let names = Names::new(view, link)?;
    let taggable = view.registry().types().filter(|def| is_taggable(def)).map(|def| def.name.as_str());
    let parts: Vec<&str> = [TAG_CATEGORY, TAG, TAG_STAMPS].into_iter().chain(taggable).chain([TAG_CONFLICT]).collect();
    let begin = after.and_then(|after| parts.iter().position(|part| *part == after.resource_type));
    let mut behind = begin.and(after).map(|after| &*after.id);
    let mut seen = 0;
    for part in &parts[begin.unwrap_or(0)..] {
        for resource in view.resources(part, behind.take()) {
            seen += 1;
            match *part {
                TAG_CATEGORY | TAG => put(view, &names, &resource.resource_id(), frame),
                TAG_STAMPS => {
                    // What is there is told among the others.
                    let id = stamped(resource.id()).filter(|id| !is_edited_whole(id) || view.find(id).is_none());
                    id.iter().for_each(|id| put(view, &names, id, frame));
                }
                TAG_CONFLICT => conflicts::put(view, &names, &resource, frame),
                _ if has_tags(&resource) => {
                    let id = resource.resource_id();
                    if !is_stored(view, &id) {
                        put(view, &names, &id, frame);
                    }
                }
                _ => {}
            }
            if frame.is_full() || seen >= SCAN_MAX {
                return Some(TypedId { resource_type: (*part).to_owned(), id: resource.id().to_owned() });
            }
        }
    }
    None
}

fn is_stored(view: &View, id: &ResourceId) -> bool {
    stamps_id(id).is_some_and(|stamps| view.modified(&stamps).is_some())
}

/// Whether an id is that of a copy, by its look.
pub(super) fn is_copy(view: &View, id: &ResourceId) -> bool {
    view.ids(LINK, None).any(|link| {
        let link = view.get(&link);
        let domain = link.as_ref().and_then(|link| link.document.get("domain_name")).and_then(Value::as_str);
        domain.is_some_and(|domain| id.id.strip_prefix(domain).is_some_and(|rest| rest.starts_with('~')))
    })
}

fn has_tags(resource: &ResourceRef<'_>) -> bool {
    resource.fields().iter().any(|(name, _)| name == TAGS)
}

/// Tells what is known of a category, a tag or an object.
fn put(view: &View, names: &Names, id: &ResourceId, frame: &mut FrameWriter) {
    let resource = view.find(id);
    let (told, is_yours) = match (&resource, is_edited_whole(id)) {
        (Some(resource), false) => match names.told(resource) {
            Some(told) => told,
            None => return,
        },
        (Some(resource), true) if resource.linked_from().is_some() => return,
        (_, true) => (&*id.id, false),
        // One of ours that is gone has left a mark; and its own site may not have heard of edits of a copy that is gone.
        (None, false) if !is_stored(view, id) => return,
        (None, false) => match id.id.strip_prefix(&*names.prefix) {
            Some(there) => (there, true),
            None if is_copy(view, id) => return,
            None => (&*id.id, false),
        },
    };
    frame.line(id.resource_type.as_str(), told, &record::write(&Stamps::of(view, id), is_yours));
}

/// Tells of a change what an asker should know.
pub(crate) fn tell(
    link: &LinkId,
    change: &Change,
    view: &View,
    frame: &mut FrameWriter,
    told: &mut HashSet<ResourceId>,
) {
    let id = match change.id.resource_type.as_str() {
        TAG_STAMPS => match stamped(&change.id.id) {
            Some(id) => id,
            None => return,
        },
        TAG | TAG_CATEGORY | TAG_CONFLICT => change.id.clone(),
        resource_type => {
            let concerns = match &change.operation {
                Operation::Create(document) | Operation::Delete(document) => document.get(TAGS).is_some(),
                Operation::Update(leaves) => leaves.iter().any(|leaf| leaf.path.as_str() == TAGS),
            };
            if !concerns || !has_list(view, resource_type) {
                return;
            }
            change.id.clone()
        }
    };
    let Some(names) = Names::new(view, link) else { return };
    if !told.insert(id.clone()) {
        return;
    }
    if id.resource_type.as_str() == TAG_CONFLICT {
        if let Some(resource) = view.find(&id) {
            conflicts::put(view, &names, &resource, frame);
        }
        return;
    }
    put(view, &names, &id, frame);
}
