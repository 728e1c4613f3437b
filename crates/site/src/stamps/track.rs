//! Stamps of edits: put into the batch that makes the edit, whoever makes it.
//!
//! The batch is looked at before the journal has it. The stamps are planned on the view, with preconditions of their own; should a link
//! have changed them meanwhile, the batch conflicts, and its author tries again as after any conflict. Who writes for a link brings the
//! stamps along, merged; a resource whose stamps are in the batch already is left alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::builtin::{LINK, TAG, TAG_STAMPS, TAGS};
use lockstep_model::{Document, LINKED_FROM, LeafChange, ResourceId};
use lockstep_query::View;
use serde_json::Value;

use super::{
    DELETED, EXISTS, Register, Stamp, Stamps, attached, fields, has_list, is_edited_whole, json, listed, properties,
    stamps_id,
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
        going: HashMap::new(),
        counts_from: HashMap::new(),
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
    /// What the batch deletes, and the last tick at which it was attached.
    going: HashMap<ResourceId, u64>,
    /// From which ticks on attachments of tags count.
    counts_from: HashMap<ResourceId, u64>,
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
        let (whole, objects): (Vec<&Change>, Vec<&Change>) =
            batch.changes.iter().map(|(change, _)| change).partition(|change| is_edited_whole(&change.id));
        for change in &whole {
            if matches!(change.operation, Operation::Delete(_)) {
                self.going.insert(change.id.clone(), 0);
            }
        }
        // A deletion comes after all attachments that it has seen.
        let listing: &[&Change] = if self.going.is_empty() { &[] } else { &objects };
        for change in listing {
            let Some(stamps) = stamps_id(&change.id).and_then(|at| self.view.get(&at)) else { continue };
            for (key, is) in Stamps::read(&stamps.document).is {
                if let Some(tick) = self.going.get_mut(&ResourceId::new(TAG, key)) {
                    *tick = is.stamp.tick.max(*tick);
                }
            }
        }
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
        if self.wanted(id).is_none() {
            return;
        }
        let mut stamps = Stamps::of(self.view, id);
        let stamp = self.stamp(&stamps, self.going.get(id).copied().unwrap_or(0));
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
            }
        }
        // An object of the same batch may have the tag that comes back.
        let from = if stamps.exists() { stamps.counts_from() } else { 0 };
        self.counts_from.insert(id.clone(), from);
        self.added.extend(stamps.store(self.view, id));
    }

    /// From which tick on attachments of a tag that is there count.
    fn counts_from(&mut self, tag: &ResourceId) -> u64 {
        if let Some(known) = self.counts_from.get(tag) {
            return *known;
        }
        let at = stamps_id(tag);
        let from = match at.as_ref().and_then(|at| self.given.get(at)) {
            Some(given) => given.counts_from(),
            None if at.is_some_and(|at| self.view.modified(&at).is_some()) => Stamps::of(self.view, tag).counts_from(),
            None => 0,
        };
        let from = if from == u64::MAX { 0 } else { from };
        self.counts_from.insert(tag.clone(), from);
        from
    }

    fn edit_list(&mut self, change: &Change) {
        let id = &change.id;
        let Some(at) = self.wanted(id) else { return };
        let is_stored = self.view.modified(&at).is_some();
        let (before, after) = match &change.operation {
            Operation::Delete(document) if document.get(LINKED_FROM).is_some() => {
                // Whoever brings the copy back brings its tags back, too. Edits that were made here stay, until the object's own site
                // says that it has heard of them.
                let stamps = Stamps::of(self.view, id);
                let is_ours = |is: &Register| is.stamp.site == self.site && is.stamp.tick > stamps.gone();
                if !stamps.is.values().any(is_ours)
                    && let Some(stored) = self.view.get(&at)
                {
                    let operation = Operation::Delete(stored.document);
                    let change = Change { id: at, operation, parents: Arc::from([]) };
                    self.added.push((change, Expect::At(stored.modified)));
                }
                return;
            }
            Operation::Delete(document) => {
                if is_stored || document.get(TAGS).is_some() && has_list(self.view, id.resource_type.as_str()) {
                    let mut stamps = Stamps::of(self.view, id);
                    let stamp = self.stamp(&stamps, 0);
                    stamps.bury(&stamp);
                    self.added.extend(stamps.store(self.view, id));
                }
                return;
            }
            _ if !has_list(self.view, id.resource_type.as_str()) => return,
            Operation::Create(document) => {
                let after = listed(document);
                // An object is new with all its tags, and nobody has seen it: its list says enough, but for tags that were deleted before,
                // and for an object that was.
                if !is_stored
                    && (document.get(LINKED_FROM).is_some() || !after.iter().any(|tag| self.counts_from(tag) > 0))
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
            // Its deletion makes all attachments void.
            if !self.going.contains_key(tag) {
                edits.push((tag, false));
            }
        }
        edits.retain(|(tag, _)| tag.resource_type.as_str() == TAG);
        if edits.is_empty() {
            return;
        }
        let above = edits.iter().map(|(tag, _)| self.counts_from(tag)).max().unwrap_or(0);
        let stamp = self.stamp(&stamps, above);
        edits.iter().for_each(|(tag, is_on)| stamps.set(&tag.id, Value::Bool(*is_on), &stamp));
        self.added.extend(stamps.store(self.view, id));
    }
}
