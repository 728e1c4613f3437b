//! Stamps of edits: put into the batch that makes the edit, whoever makes it.
//!
//! The batch is looked at before the journal has it. The stamps are planned on the view, with preconditions of their own; should a link
//! have changed them meanwhile, the batch conflicts, and its author tries again as after any conflict. Who writes for a link brings the
//! stamps along, merged; a resource whose stamps are in the batch already is left alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::builtin::{LINK, TAG, TAG_STAMPS, TAGS};
use lockstep_model::{Document, LINKED_FROM, LeafChange, ResourceId};
use lockstep_query::View;
use serde_json::Value;

use super::{
    DELETED, EXISTS, Stamp, Stamps, attached, fields, has_list, is_edited_whole, json, listed, properties, stamps_id,
};
use crate::Site;

/// Adds the stamps of the edits in a batch.
pub(crate) fn track(site: &Site, batch: &mut Batch) {
    if !batch.changes.iter().any(|(change, _)| may_concern(change)) {
        return;
    }
    let view = site.view();
    let has_links = view.count(LINK) > 0;
    if !has_links && view.count(TAG_STAMPS) == 0 {
        return;
    }
    let mut tracking = Tracking {
        view: &view,
        has_links,
        site: format!("{:016x}", site.origin().epoch).into(),
        now_ms: site.journal().now_ms(),
        given: HashMap::new(),
        deletions: HashMap::new(),
        going: HashSet::new(),
        added: Vec::new(),
    };
    tracking.look(batch);
    let added = tracking.added;
    drop(view);
    batch.changes.extend(added);
}

/// Whether a change may be an edit of tagging, as far as it shows by itself.
fn may_concern(change: &Change) -> bool {
    is_edited_whole(&change.id)
        || match &change.operation {
            Operation::Create(document) => document.get(TAGS).is_some(),
            Operation::Update(leaves) => list_change(leaves).is_some(),
            Operation::Delete(_) => change.id.resource_type.as_str() != TAG_STAMPS,
        }
}

fn list_change(leaves: &[LeafChange]) -> Option<&LeafChange> {
    leaves.iter().find(|leaf| leaf.path.as_str() == TAGS)
}

struct Tracking<'v> {
    view: &'v View,
    has_links: bool,
    site: Arc<str>,
    now_ms: i64,
    /// The stamps that the batch brings along.
    given: HashMap<ResourceId, Stamps>,
    /// The ticks of the last deletions of tags, as they are after the batch.
    deletions: HashMap<ResourceId, u64>,
    /// What the batch deletes.
    going: HashSet<ResourceId>,
    added: Vec<(Change, Expect)>,
}

impl Tracking<'_> {
    fn look(&mut self, batch: &Batch) {
        for (change, _) in &batch.changes {
            if change.id.resource_type.as_str() == TAG_STAMPS {
                let stamps = match &change.operation {
                    Operation::Create(document) => Stamps::read(document),
                    Operation::Update(leaves) => {
                        let mut document = Document::default();
                        lockstep_journal::redo(&mut document, leaves);
                        Stamps::read(&document)
                    }
                    Operation::Delete(_) => Stamps::default(),
                };
                self.given.insert(change.id.clone(), stamps);
            }
        }
        // Deletions of tags decide about attachments.
        let (whole, objects): (Vec<&Change>, Vec<&Change>) =
            batch.changes.iter().map(|(change, _)| change).partition(|change| is_edited_whole(&change.id));
        whole.into_iter().for_each(|change| self.edit_whole(change));
        objects.into_iter().filter(|change| may_concern(change)).for_each(|change| self.edit_list(change));
    }

    /// Where the stamps of a resource are, unless the batch has them or nobody needs them.
    fn wanted(&self, id: &ResourceId) -> Option<ResourceId> {
        let at = stamps_id(id)?;
        let is_wanted = !self.given.contains_key(&at) && (self.has_links || self.view.modified(&at).is_some());
        is_wanted.then_some(at)
    }

    fn stamp(&self, stamps: &Stamps, above: u64) -> Stamp {
        Stamp { tick: stamps.tick(self.now_ms, above), site: self.site.clone() }
    }

    fn edit_whole(&mut self, change: &Change) {
        let id = &change.id;
        if matches!(change.operation, Operation::Delete(_)) {
            self.going.insert(id.clone());
        }
        if self.wanted(id).is_none() {
            return;
        }
        let mut stamps = Stamps::of(self.view, id);
        let stamp = self.stamp(&stamps, 0);
        match &change.operation {
            Operation::Create(document) => {
                stamps.set(EXISTS, Value::Bool(true), &stamp);
                fields(id, document).for_each(|(name, value)| stamps.set(name, value, &stamp));
            }
            Operation::Update(leaves) => {
                let known = properties(id.resource_type.as_str());
                let edits: Vec<_> = leaves.iter().filter(|leaf| known.contains(&leaf.path.as_str())).collect();
                if edits.is_empty() {
                    return;
                }
                edits.iter().for_each(|leaf| stamps.set(leaf.path.as_str(), json(leaf.new.as_ref()), &stamp));
            }
            Operation::Delete(document) => {
                if document.get(LINKED_FROM).is_some() {
                    return;
                }
                stamps.set(EXISTS, Value::Bool(false), &stamp);
                stamps.set(DELETED, Value::Bool(true), &stamp);
                self.deletions.insert(id.clone(), stamp.tick);
            }
        }
        self.added.extend(stamps.store(self.view, id));
    }

    /// The tick of a tag's last deletion.
    fn deleted(&mut self, tag: &ResourceId) -> u64 {
        if let Some(known) = self.deletions.get(tag) {
            return *known;
        }
        let at = stamps_id(tag);
        let deleted = match at.as_ref().and_then(|at| self.given.get(at)) {
            Some(given) => given.deleted(),
            None if at.is_some_and(|at| self.view.modified(&at).is_some()) => Stamps::of(self.view, tag).deleted(),
            None => 0,
        };
        self.deletions.insert(tag.clone(), deleted);
        deleted
    }

    fn edit_list(&mut self, change: &Change) {
        let id = &change.id;
        let Some(at) = self.wanted(id) else { return };
        let is_stored = self.view.modified(&at).is_some();
        let (before, after) = match &change.operation {
            Operation::Delete(_) => {
                // An object's stamps go with it.
                let stored = self.view.get(&at);
                self.added.extend(stored.map(|stored| {
                    let operation = Operation::Delete(stored.document);
                    (Change { id: at, operation, parents: Arc::from([]) }, Expect::At(stored.modified))
                }));
                return;
            }
            _ if !has_list(self.view, id.resource_type.as_str()) => return,
            Operation::Create(document) => {
                let after = listed(document);
                // An object is new with all its tags, and nobody has seen it: its list says enough, but for tags that were deleted before.
                if !is_stored && (document.get(LINKED_FROM).is_some() || !after.iter().any(|tag| self.deleted(tag) > 0))
                {
                    return;
                }
                let before = if is_stored { attached(self.view, &Stamps::of(self.view, id), &[]) } else { Vec::new() };
                (before, after)
            }
            Operation::Update(leaves) => {
                let Some(leaf) = list_change(leaves) else { return };
                let list = |value: &Option<lockstep_model::Value>| {
                    let mut document = Document::default();
                    document.set(TAGS, value.clone());
                    listed(&document)
                };
                (list(&leaf.old), list(&leaf.new))
            }
        };
        let (old, new): (BTreeSet<&ResourceId>, BTreeSet<&ResourceId>) =
            (before.iter().collect(), after.iter().collect());
        let mut stamps = Stamps::of(self.view, id);
        let mut edits: Vec<(&ResourceId, bool)> = new.difference(&old).map(|tag| (*tag, true)).collect();
        for tag in old.difference(&new) {
            // An attachment that is older than the tag's deletion is void by that.
            let tick = stamps.is.get(&*tag.id).map_or(0, |is| is.stamp.tick);
            if !self.going.contains(tag) || tick >= self.deleted(tag) {
                edits.push((tag, false));
            }
        }
        edits.retain(|(tag, _)| tag.resource_type.as_str() == TAG);
        if edits.is_empty() {
            return;
        }
        let above = edits.iter().map(|(tag, _)| self.deleted(tag)).max().unwrap_or(0);
        let stamp = self.stamp(&stamps, above);
        edits.iter().for_each(|(tag, is_on)| stamps.set(&tag.id, Value::Bool(*is_on), &stamp));
        self.added.extend(stamps.store(self.view, id));
    }
}
