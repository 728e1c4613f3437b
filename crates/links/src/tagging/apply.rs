//! Writes what a frame says: categories and tags, deletions, attachments, conflicts, and then what settles them.
//!
//! Each step is planned on the view as the one before left it, and planned anew when somebody came in between. A step that a crash cuts
//! off is done again by the next reading of the frame.

use std::collections::HashSet;
use std::sync::Arc;

use lockstep_contract::services::links::tagging::Reason;
use lockstep_journal::{Batch, Change, CommitError, Expect, Operation};
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAGS, is_taggable};
use lockstep_model::{Document, ResourceId};
use lockstep_query::View;
use lockstep_site::stamps::{
    DELETED, EXISTS, GONE, Lost, Register, Stamp, Stamps, attached, fill, has_list, listed, stamps_id,
};
use lockstep_site::{Site, WriteError, deletions, put, update_tags};

use super::conflicts::Conflict;
use super::record::{self, Incoming};
use super::serve;
use super::settle::{self, Touched};
use crate::inventory::batch::prefix;
use crate::inventory::frame::Frame;
use crate::inventory::peer::malformed;
use crate::provider::AUTHOR;
use crate::{Run, SyncError};

/// Tries of a step against plain writes of the same resources.
const TRIES_MAX: usize = 16;

/// Objects that a tag is taken off at a time when it has more than one deletion may touch.
const DETACH_BATCH: usize = 20_000;

/// What a step writes.
#[derive(Default)]
pub(super) struct Step {
    pub(super) changes: Vec<(Change, Expect)>,
    /// Copies that were not there yet: what comes into being meanwhile has to be tagged.
    relies_on: Vec<(ResourceId, Expect)>,
    conflicts: HashSet<ResourceId>,
}

impl Step {
    /// Keeps that an edit was lost.
    pub(super) fn lose(&mut self, view: &View, edited: &ResourceId, reason: Reason, lost: Lost) {
        self.keep(view, &Conflict::new(view, edited, reason, lost));
    }

    pub(super) fn holds(&self, id: &ResourceId) -> bool {
        self.changes.iter().any(|(change, _)| change.id == *id)
    }

    fn keep(&mut self, view: &View, conflict: &Conflict) {
        if self.conflicts.insert(conflict.resource()) {
            self.changes.extend(conflict.keep(view));
        }
    }

    fn lose_all(&mut self, view: &View, edited: &ResourceId, lost: Vec<Lost>) {
        for one in lost {
            let reason = if one.is_deleted { Reason::Deleted } else { Reason::Later };
            self.lose(view, edited, reason, one);
        }
    }
}

/// What writes a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// What is known of edits: it comes with them.
    Merging,
    /// An edit of this site's own, to be stamped.
    Editing,
}

/// Plans and commits until nobody came in between; what the last plan found besides.
pub(super) async fn commit<T: Send + 'static>(
    site: &Arc<Site>,
    by: By,
    plan: impl Fn(&View) -> Result<(Step, T), SyncError> + Clone + Send + 'static,
) -> Result<T, SyncError> {
    let mut conflict = None;
    for _ in 0..TRIES_MAX {
        let (here, plan) = (site.clone(), plan.clone());
        let planned = tokio::task::spawn_blocking(move || plan(&here.view())).await;
        let (step, found) = planned.map_err(|_| SyncError::Cancelled)??;
        if step.changes.is_empty() {
            return Ok(found);
        }
        let batch = Batch { author: AUTHOR.into(), changes: step.changes, relies_on: step.relies_on };
        let committed = match by {
            By::Merging => site.commit_stamped(batch).await,
            By::Editing => site.commit(batch).await,
        };
        match committed {
            Ok(_) => return Ok(found),
            Err(error @ CommitError::Conflict { .. }) => {
                conflict = Some(error);
                site.catch_up().await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(conflict.map_or(SyncError::Cancelled, SyncError::Commit))
}

/// Writes what a frame of the other site says.
///
/// # Errors
/// [`SyncError::Malformed`] for what cannot be; nothing is written then.
pub(super) async fn frame(run: &Run, frame: &Frame) -> Result<(), SyncError> {
    let (registry, prefix, text) = (run.site.view().registry().clone(), prefix(&run.domain), frame.clone());
    let reading = tokio::task::spawn_blocking(move || record::read(&text, &registry, &prefix)).await;
    let incoming = Arc::new(reading.map_err(|_| SyncError::Cancelled)??);
    let _alone = run.site.tagging.write().await;

    let told = incoming.clone();
    let found = commit(&run.site, By::Merging, move |view| Ok(whole(view, &told))).await?;
    let mut deletions = found.deletions;
    // Tags first: those that are left when their category goes were not known where it was deleted.
    deletions.sort_by_key(|(id, _)| id.resource_type.as_str() == TAG_CATEGORY);
    for (id, stamps) in deletions {
        delete(&run.site, &id, &stamps).await?;
    }
    let (told, site) = (incoming.clone(), run.site.clone());
    commit(&run.site, By::Merging, move |view| Ok((lists(view, &told, &site), ()))).await?;

    let mut touched = Touched { revived: found.revived, ..Touched::default() };
    for one in incoming.iter() {
        match one {
            Incoming::Whole(id, _) if id.resource_type.as_str() == TAG_CATEGORY => touched.categories.push(id.clone()),
            Incoming::Whole(id, _) => touched.tags.push(id.clone()),
            Incoming::List { id, .. } => touched.objects.push(id.clone()),
            Incoming::Conflict(_) => {}
        }
    }
    settle::settle(&run.site, touched).await
}

/// What was found of categories and tags.
#[derive(Default)]
struct Whole {
    /// What is gone there and not here yet.
    deletions: Vec<(ResourceId, Stamps)>,
    /// Tags that were deleted somewhere and are there again, or still.
    revived: Vec<ResourceId>,
}

/// Categories and tags that are there, and the stamps of those that are gone here, too.
fn whole(view: &View, incoming: &[Incoming]) -> (Step, Whole) {
    let (mut step, mut found) = (Step::default(), Whole::default());
    for (id, theirs) in incoming.iter().filter_map(|one| match one {
        Incoming::Whole(id, theirs) => Some((id, theirs)),
        Incoming::List { .. } | Incoming::Conflict(_) => None,
    }) {
        let before = Stamps::of(view, id);
        let mut merged = before.clone();
        let lost = merged.merge(theirs);
        let present = view.get(id);
        if merged == before && merged.exists() == present.is_some() {
            continue;
        }
        step.lose_all(view, id, lost);
        match (merged.exists(), present) {
            (true, present) => {
                if merged.counts_from() != before.counts_from() && id.resource_type.as_str() == TAG {
                    found.revived.push(id.clone());
                }
                let mut document = present.map_or_else(Document::default, |stored| stored.document);
                fill(&merged, &mut document, id.resource_type.as_str());
                // The types are built in.
                step.changes.extend(put(view, id.clone(), document).ok().flatten());
            }
            (false, Some(_)) => {
                found.deletions.push((id.clone(), merged));
                continue;
            }
            (false, None) => {}
        }
        if !merged.is_base() {
            step.changes.extend(merged.store(view, id));
        }
    }
    (step, found)
}

/// Deletes a category or tag that was deleted at another site, and keeps what is known of it.
async fn delete(site: &Arc<Site>, id: &ResourceId, stamps: &Stamps) -> Result<(), SyncError> {
    loop {
        let (gone, stamps) = (id.clone(), stamps.clone());
        let is_done = commit(site, By::Editing, move |view| {
            let mut step = Step::default();
            // Everything is under the lock that other edits of tags hold, but plain writes are not.
            let mut merged = Stamps::of(view, &gone);
            merged.merge(&stamps);
            if view.modified(&gone).is_none() || merged.exists() {
                return Ok((step, true));
            }
            match deletions(view, &gone, true) {
                Ok(changes) => {
                    lose_attachments(view, &mut step, &gone, &merged, &changes);
                    step.changes.extend(changes);
                    step.changes.extend(merged.store(view, &gone));
                    Ok((step, true))
                }
                Err(WriteError::CascadeTooLarge(_)) => {
                    step.changes = detach_some(view, &gone);
                    let is_stuck = step.changes.is_empty();
                    let stuck = || malformed(format!("the deletion of {gone}, which is too large to be done here"));
                    if is_stuck { Err(stuck()) } else { Ok((step, false)) }
                }
                Err(error) => Err(malformed(format!("the deletion of {gone}: {error}"))),
            }
        })
        .await?;
        if is_done {
            return Ok(());
        }
    }
}

/// Attachments that the deletion of a tag makes void, and that were made after it: nobody who deleted it can have seen them. And tags that
/// go with their category.
fn lose_attachments(view: &View, step: &mut Step, tag: &ResourceId, stamps: &Stamps, changes: &[(Change, Expect)]) {
    let Some(deleted) = stamps.is.get(DELETED) else { return };
    for (change, _) in changes {
        if change.id != *tag
            && change.id.resource_type.as_str() == TAG
            && matches!(change.operation, Operation::Delete(_))
            && let Some(exists) = Stamps::of(view, &change.id).is.remove(EXISTS)
        {
            let lost = Lost { key: EXISTS.to_owned(), lost: exists, kept: deleted.clone(), is_deleted: true };
            step.lose(view, &change.id, Reason::Deleted, lost);
            continue;
        }
        if change.id == *tag || stamps_id(&change.id).is_none_or(|id| view.modified(&id).is_none()) {
            continue;
        }
        if let Some(is) = Stamps::of(view, &change.id).is.get(&*tag.id)
            && is.value == true
            && is.stamp > deleted.stamp
        {
            let lost = Lost { key: tag.id.to_string(), lost: is.clone(), kept: deleted.clone(), is_deleted: true };
            step.lose(view, &change.id, Reason::Deleted, lost);
        }
    }
}

/// Takes a tag, or the first of a category that is on anything, off some of its objects.
fn detach_some(view: &View, id: &ResourceId) -> Vec<(Change, Expect)> {
    let tags = match id.resource_type.as_str() {
        TAG_CATEGORY => view.referring(TAG, "category", id),
        _ => vec![id.clone()],
    };
    for tag in tags {
        let changes: Vec<_> = objects(view, &tag)
            .take(DETACH_BATCH)
            .filter_map(|object| {
                let mut left = listed(&view.get(&object)?.document);
                left.retain(|on| *on != tag);
                update_tags(view, &object, &left)
            })
            .collect();
        if !changes.is_empty() {
            return changes;
        }
    }
    Vec::new()
}

/// What a tag is attached to.
pub(super) fn objects<'v>(view: &'v View, tag: &'v ResourceId) -> impl Iterator<Item = ResourceId> + 'v {
    let types = view.registry().types().filter(|def| is_taggable(def));
    types.flat_map(move |def| view.referring(def.name.as_str(), TAGS, tag))
}

/// Attachments and conflicts.
fn lists(view: &View, incoming: &[Incoming], site: &Site) -> Step {
    let mut step = Step::default();
    for one in incoming {
        match one {
            Incoming::Whole(..) => {}
            Incoming::Conflict(conflict) => step.keep(view, conflict),
            Incoming::List { id, is_ours, stamps } => list(view, &mut step, id, *is_ours, stamps, site),
        }
    }
    step
}

fn list(view: &View, step: &mut Step, id: &ResourceId, is_ours: bool, theirs: &Stamps, site: &Site) {
    let present = view.get(id);
    let is_linked = view.find(id).and_then(|resource| resource.linked_from()).is_some();
    // An id that says that it is a copy and is none, or the other way round.
    if present.is_some() && is_linked == is_ours || present.is_none() && is_ours && serve::is_copy(view, id) {
        return;
    }
    if present.is_some() && !has_list(view, id.resource_type.as_str()) {
        return;
    }
    let before = Stamps::of(view, id);
    let mut merged = before.clone();
    let lost = merged.merge(theirs);
    step.lose_all(view, id, lost);
    lose_void(view, step, id, &before, theirs);
    let own = own_site(site);
    let is_any = |_: &Register| true;
    if !is_ours && theirs.gone() > before.gone() {
        // What was edited here while the object was deleted there.
        lose_gone(view, step, id, theirs, &before, |is| *is.stamp.site == *own);
    }
    if present.is_none() {
        step.relies_on.push((id.clone(), Expect::Absent));
    }
    match present {
        Some(stored) => {
            let tags = attached(view, &merged, &listed(&stored.document));
            let list = update_tags(view, id, &tags);
            let known = (merged != before && !merged.is_base()).then(|| merged.store(view, id)).flatten();
            if list.is_none() && known.is_some() {
                step.relies_on.push((id.clone(), Expect::At(stored.modified)));
            }
            step.changes.extend(list.into_iter().chain(known));
        }
        None if is_ours => {
            lose_gone(view, step, id, &before, theirs, is_any);
            // The mark comes after all that was heard of, so that it is known to be over wherever it was made.
            if merged.is.keys().any(|key| key != GONE) {
                let site: Arc<str> = own.into();
                let tick = merged.tick(lockstep_site::times::now_ms(), 0);
                merged.bury(&Stamp { tick, site });
            }
            if merged != before {
                step.changes.extend(merged.store(view, id));
            }
        }
        // A copy that is on its way is told what it is tagged with when it comes; of one that is gone, what was edited here stays until the
        // object's own site has heard of it.
        None if merged.gone() == 0 || merged.is.values().any(|is| is.stamp.tick > merged.gone()) => {
            step.changes.extend(merged.store(view, id));
        }
        None => {
            let at = stamps_id(id).and_then(|at| Some((view.get(&at)?, at)));
            step.changes.extend(at.map(|(stored, id)| {
                let operation = Operation::Delete(stored.document);
                (Change { id, operation, parents: Arc::from([]) }, Expect::At(stored.modified))
            }));
        }
    }
}

/// Attachments that are void here since the tag was deleted, which whoever made them did not know.
fn lose_void(view: &View, step: &mut Step, object: &ResourceId, before: &Stamps, theirs: &Stamps) {
    for (key, is) in theirs.is.iter().filter(|(_, is)| is.value == true && !before.has_seen(&is.stamp)) {
        let stamps = Stamps::of(view, &ResourceId::new(TAG, &**key));
        if let (Some(deleted), true) = (stamps.is.get(DELETED), is.stamp.tick < stamps.counts_from()) {
            let lost = Lost { key: key.clone(), lost: is.clone(), kept: deleted.clone(), is_deleted: true };
            step.lose(view, object, Reason::Deleted, lost);
        }
    }
}

/// Edits of an object that is gone, of which the site where it was deleted had not seen anything.
fn lose_gone(
    view: &View,
    step: &mut Step,
    object: &ResourceId,
    there: &Stamps,
    edited: &Stamps,
    is_meant: impl Fn(&Register) -> bool,
) {
    let last = edited.is.values().max_by(|a, b| a.stamp.cmp(&b.stamp));
    let Some(kept) = there.is.get(GONE).or(last).cloned() else { return };
    for (key, is) in edited.is.iter().filter(|(key, is)| *key != GONE && !there.has_seen(&is.stamp) && is_meant(is)) {
        let lost = Lost { key: key.clone(), lost: is.clone(), kept: kept.clone(), is_deleted: true };
        step.lose(view, object, Reason::Deleted, lost);
    }
}

fn own_site(site: &Site) -> String {
    format!("{:016x}", site.origin().epoch)
}
