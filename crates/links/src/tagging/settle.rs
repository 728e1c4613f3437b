//! Puts right what edits at two sites broke together: two of one name, two tags of a SINGLE category on one object, a tag without its
//! category.
//!
//! What is put right is put right by an edit of this site, stamped as any ([`lockstep_site::stamps`]). The choice depends on what the sites
//! share alone, stamps and ids, so all who see the same choose the same; whoever sees less chooses again when more comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lockstep_contract::services::links::tagging::Reason;
use lockstep_model::builtin::{TAG, TAG_STAMPS};
use lockstep_model::{Document, ResourceId, Value};
use lockstep_query::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, Query, QuerySpec, View,
};
use lockstep_site::stamps::{
    DELETED, EXISTS, Lost, Register, Stamp, Stamps, attached, is_edited_whole, listed, stamped,
};
use lockstep_site::{Site, deletions, put, update_tags};
use sha2::{Digest, Sha256};

use super::apply::{By, Step, commit, objects};
use crate::SyncError;

/// Objects and tags that one commit puts right.
const BATCH: usize = 1000;

/// Most commits that settle one frame: what needs more goes round.
const ROUNDS_MAX: usize = 100_000;

/// Longest name, in characters, that is kept before what tells two apart.
const NAME_CHARS_MAX: usize = 240;

/// What a frame spoke of.
#[derive(Debug, Clone, Default)]
pub(super) struct Touched {
    pub(super) categories: Vec<ResourceId>,
    pub(super) tags: Vec<ResourceId>,
    pub(super) objects: Vec<ResourceId>,
    /// Tags that were deleted and are there again: other attachments count.
    pub(super) revived: Vec<ResourceId>,
}

/// Puts right what the frame broke.
pub(super) async fn settle(site: &Arc<Site>, touched: Touched) -> Result<(), SyncError> {
    let touched = Arc::new(touched);
    type Plan = fn(&View, &Touched) -> Step;
    let plans: [(By, Plan); 4] =
        [(By::Editing, orphans), (By::Editing, names), (By::Merging, revived), (By::Editing, singles)];
    for (by, plan) in plans {
        for round in 0.. {
            let touched = touched.clone();
            let is_done = commit(site, by, move |view| {
                let step = plan(view, &touched);
                let is_done = step.changes.is_empty();
                Ok((step, is_done))
            })
            .await?;
            if is_done {
                break;
            }
            if round >= ROUNDS_MAX {
                return Err(SyncError::Malformed { what: "tagging that cannot be settled".to_owned() });
            }
        }
    }
    Ok(())
}

fn category_of(document: &Document) -> Option<ResourceId> {
    match document.get("category") {
        Some(Value::Id(id)) => Some((**id).clone()),
        _ => None,
    }
}

/// Tags whose category was deleted: one in each round, with what goes along.
fn orphans(view: &View, touched: &Touched) -> Step {
    let mut step = Step::default();
    for tag in &touched.tags {
        let Some(stored) = view.get(tag) else { continue };
        let Some(category) = category_of(&stored.document).filter(|id| view.modified(id).is_none()) else { continue };
        let gone = Stamps::of(view, &category);
        let (Some(deleted), false) = (gone.is.get(DELETED), gone.exists()) else { continue };
        let stamps = Stamps::of(view, tag);
        // Deletes nothing that is read-only, and a tag that is on too many objects stays until somebody has detached it.
        let Ok(changes) = deletions(view, tag, true) else { continue };
        if let Some(exists) = stamps.is.get(EXISTS) {
            let lost = Lost { key: EXISTS.to_owned(), lost: exists.clone(), kept: deleted.clone(), is_deleted: true };
            step.lose(view, tag, Reason::Deleted, lost);
        }
        step.changes.extend(changes);
        return step;
    }
    step
}

/// Who has had a name for how long: the least keeps it.
fn since(view: &View, id: &ResourceId) -> (Stamp, Box<str>) {
    (name_of(view, id).stamp, id.id.clone())
}

fn name_of(view: &View, id: &ResourceId) -> Register {
    let register = Stamps::of(view, id).is.remove("name");
    register.unwrap_or_else(|| Register { stamp: Stamp { tick: 0, site: "".into() }, value: serde_json::Value::Null })
}

/// Categories, or tags of a category, of one name.
fn names(view: &View, touched: &Touched) -> Step {
    let mut step = Step::default();
    let mut renamed: BTreeSet<ResourceId> = BTreeSet::new();
    for id in touched.categories.iter().chain(&touched.tags) {
        let Some(stored) = view.get(id) else { continue };
        let Some(name) = stored.document.get("name").and_then(Value::as_str) else { continue };
        let scope = category_of(&stored.document);
        let mut same = named(view, id.resource_type.as_str(), name, scope.as_ref());
        if same.len() < 2 {
            continue;
        }
        same.sort_by_cached_key(|id| since(view, id));
        let keeper = name_of(view, &same[0]);
        for later in &same[1..] {
            if !renamed.insert(later.clone()) {
                continue;
            }
            let Some(mut document) = view.get(later).map(|stored| stored.document) else { continue };
            document.set("name", Some(Value::from(&*apart(name, later))));
            let lost =
                Lost { key: "name".to_owned(), lost: name_of(view, later), kept: keeper.clone(), is_deleted: false };
            step.lose(view, later, Reason::Name, lost);
            step.changes.extend(put(view, later.clone(), document).ok().flatten());
        }
    }
    step
}

/// The name that tells a resource from others of its name.
fn apart(name: &str, id: &ResourceId) -> String {
    let hash: String = Sha256::digest(id.id.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let short: String = name.chars().take(NAME_CHARS_MAX).collect();
    format!("{short} ({hash})")
}

/// The resources of a type, and of one category if it is given, that have a name to the letter.
fn named(view: &View, resource_type: &str, name: &str, category: Option<&ResourceId>) -> Vec<ResourceId> {
    let equal = |property: &str, comparable| {
        let property = format!("{resource_type}/{property}");
        FilterSpec::Property(PropertyFilter { property, operator: Operator::Equal, comparable })
    };
    let mut filters = vec![equal("name", Comparable::String(name.to_owned()))];
    filters.extend(category.map(|id| equal("category", Comparable::Id(id.clone()))));
    let spec = QuerySpec {
        resource_filter: FilterSpec::Composite { operator: CompositeOperator::Intersect, filters },
        property_spec: vec![format!("{resource_type}/name")],
        sort_criteria: Vec::new(),
        offset: 0,
        limit: None,
        compute_total_item_count: false,
    };
    let Ok(query) = Query::compile(&spec, view.registry(), &Limits::default()) else { return Vec::new() };
    let answer = view.query(&query);
    let ids = answer.items().map(|item| ResourceId::new(item.id().0, item.id().1));
    let is_same = |id: &ResourceId| {
        view.get(id).is_some_and(|stored| {
            stored.document.get("name").and_then(Value::as_str) == Some(name)
                && category_of(&stored.document).as_ref() == category
        })
    };
    ids.filter(is_same).collect()
}

/// Objects that have, or had, a tag which is there again.
fn revived(view: &View, touched: &Touched) -> Step {
    let mut step = Step::default();
    if touched.revived.is_empty() {
        return step;
    }
    let now: BTreeSet<ResourceId> = touched.revived.iter().flat_map(|tag| objects(view, tag)).collect();
    let edited = view.ids(TAG_STAMPS, None).filter_map(|stamps| stamped(&stamps.id).filter(|id| !is_edited_whole(id)));
    for object in now.into_iter().chain(edited) {
        let Some(stored) = view.get(&object).filter(|_| !step.holds(&object)) else { continue };
        let known = Stamps::of(view, &object);
        let met: Vec<_> = touched.revived.iter().filter_map(|tag| Some((tag, known.is.get(&*tag.id)?))).collect();
        for (tag, is) in &met {
            let stamps = Stamps::of(view, tag);
            if let Some(deleted) = stamps.is.get(DELETED)
                && is.value == true
                && is.stamp > deleted.stamp
                && is.stamp.tick < stamps.counts_from()
            {
                let lost =
                    Lost { key: tag.id.to_string(), lost: (*is).clone(), kept: deleted.clone(), is_deleted: true };
                step.lose(view, &object, Reason::Deleted, lost);
            }
        }
        if !met.is_empty() {
            let tags = attached(view, &known, &listed(&stored.document));
            step.changes.extend(update_tags(view, &object, &tags));
        }
        if step.changes.len() >= BATCH {
            break;
        }
    }
    step
}

fn is_single(view: &View, category: &ResourceId) -> bool {
    let stored = view.get(category);
    stored.is_some_and(|stored| stored.document.get("cardinality").and_then(Value::as_str) == Some("SINGLE"))
}

/// Objects with more than one tag of a category that allows one.
fn singles(view: &View, touched: &Touched) -> Step {
    let mut categories: BTreeSet<ResourceId> = touched.categories.iter().cloned().collect();
    categories.extend(touched.tags.iter().filter_map(|tag| category_of(&view.get(tag)?.document)));
    let mut suspects: BTreeSet<ResourceId> = touched.objects.iter().cloned().collect();
    for category in categories.iter().filter(|category| is_single(view, category)) {
        let mut met: BTreeMap<ResourceId, usize> = BTreeMap::new();
        for tag in view.referring(TAG, "category", category) {
            objects(view, &tag).for_each(|object| *met.entry(object).or_default() += 1);
        }
        suspects.extend(met.into_iter().filter(|(_, count)| *count > 1).map(|(object, _)| object));
    }
    let mut step = Step::default();
    for object in suspects {
        let Some(stored) = view.get(&object) else { continue };
        let mut tags = listed(&stored.document);
        if tags.len() < 2 {
            continue;
        }
        let stamps = Stamps::of(view, &object);
        let mut by_category: BTreeMap<ResourceId, Vec<&ResourceId>> = BTreeMap::new();
        for tag in &tags {
            if let Some(category) = view.get(tag).and_then(|tag| category_of(&tag.document)) {
                by_category.entry(category).or_default().push(tag);
            }
        }
        let mut off: Vec<ResourceId> = Vec::new();
        for (category, mut group) in by_category {
            if group.len() < 2 || !is_single(view, &category) {
                continue;
            }
            let register = |tag: &ResourceId| stamps.is.get(&*tag.id).cloned();
            group.sort_by_cached_key(|tag| (register(tag).map(|is| is.stamp), (*tag).clone()));
            let Some(keeper) = group.pop() else { continue };
            let Some(kept) = register(keeper) else { continue };
            let kept = Register { value: serde_json::Value::from(&*keeper.id), ..kept };
            for tag in group {
                if let Some(lost) = register(tag) {
                    let lost = Lost { key: tag.id.to_string(), lost, kept: kept.clone(), is_deleted: false };
                    step.lose(view, &object, Reason::Cardinality, lost);
                }
                off.push(tag.clone());
            }
        }
        if !off.is_empty() {
            tags.retain(|tag| !off.contains(tag));
            step.changes.extend(update_tags(view, &object, &tags));
        }
        if step.changes.len() >= BATCH {
            break;
        }
    }
    step
}

#[cfg(test)]
mod tests {
    use lockstep_model::builtin::TAG_CATEGORY;

    use super::*;

    #[test]
    fn names_told_apart_are_the_same_at_every_site_and_not_too_long() {
        let id = ResourceId::new(TAG_CATEGORY, "urn:x");
        assert_eq!(apart("env", &id), apart("env", &id));
        assert_ne!(apart("env", &id), apart("env", &ResourceId::new(TAG_CATEGORY, "urn:y")));
        assert!(apart(&"ä".repeat(256), &id).chars().count() <= 256);
    }
}
