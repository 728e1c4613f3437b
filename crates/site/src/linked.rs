//! Linked resources: copies of another site's, which only the provider of their link writes, but for what they are tagged with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lockstep_journal::{Change, Expect, Operation};
use lockstep_model::{Document, LINKED_FROM, ResourceId, TypeDef, Value};
use lockstep_query::View;

use crate::inventory::{ParentCache, change_to, nearest_parent};
use crate::stamps::{self, Stamps};

/// What a linked resource is to be.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Its id here.
    pub id: ResourceId,
    /// Its type and properties, without [`LINKED_FROM`], and without tags: those it has stay; `None` when it is gone.
    pub present: Option<(Arc<TypeDef>, Document)>,
}

/// A resource of that id is here, and did not come by the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is here already, and not from that link")]
pub struct Taken(pub ResourceId);

/// The changes that make linked resources what they are to be: none for one that is like that, or gone, already.
///
/// `incoming` names no resource twice. What came by a link that is not here any more is taken over.
///
/// # Errors
/// [`Taken`]; a resource that is gone and not of this link is left alone.
pub fn plan(view: &View, link: &ResourceId, incoming: Vec<Incoming>) -> Result<Vec<(Change, Expect)>, Taken> {
    let parents: Vec<_> = {
        let nearest = |one: &Incoming| {
            let (type_def, document) = one.present.as_ref()?;
            Some((one.id.clone(), nearest_parent(type_def, document).cloned()))
        };
        let in_batch: HashMap<ResourceId, Option<ResourceId>> = incoming.iter().filter_map(nearest).collect();
        let mut cache = ParentCache::new(|id| in_batch.get(id).cloned());
        let mut of =
            |one: &Incoming| one.present.as_ref().map(|(type_def, document)| cache.parents(view, type_def, document));
        incoming.iter().map(&mut of).collect()
    };
    let mut changes = Vec::with_capacity(incoming.len());
    for (Incoming { id, present }, parents) in incoming.into_iter().zip(parents) {
        let stored = view.find(&id);
        let is_ours = stored.is_none_or(|stored| match stored.linked_from() {
            Some(other) => {
                other == &*link.id || view.modified(&ResourceId::new(link.resource_type.clone(), other)).is_none()
            }
            None => false,
        });
        match (present, parents) {
            (Some((_, mut document)), Some(parents)) => {
                if !is_ours {
                    return Err(Taken(id));
                }
                document.set(LINKED_FROM, Some(Value::from(link.clone())));
                keep_tags(view, &id, &mut document);
                changes.extend(change_to(view, id, document, parents));
            }
            _ if is_ours => changes.extend(delete(view, id)),
            _ => {}
        }
    }
    Ok(changes)
}

/// What a plan of [`plan`] relies on besides: what was known of the tags of copies that come into being, and those tags themselves. Who
/// learns of an attachment or deletes a tag meanwhile finds no copy to change.
pub fn relies_on(view: &View, changes: &[(Change, Expect)]) -> Vec<(ResourceId, Expect)> {
    let mut relies_on: BTreeMap<ResourceId, Expect> = BTreeMap::new();
    let mut rely = |id: ResourceId| {
        let expect = view.modified(&id).map_or(Expect::Absent, Expect::At);
        relies_on.insert(id, expect);
    };
    for (change, _) in changes {
        if let Operation::Create(document) = &change.operation
            && stamps::has_list(view, change.id.resource_type.as_str())
        {
            stamps::stamps_id(&change.id).into_iter().for_each(&mut rely);
            stamps::listed(document).into_iter().for_each(&mut rely);
        }
    }
    relies_on.into_iter().collect()
}

/// What a copy is tagged with is not its link's to say: it stays, and one that is new has what is known of it.
fn keep_tags(view: &View, id: &ResourceId, document: &mut Document) {
    if !stamps::has_list(view, id.resource_type.as_str()) {
        return;
    }
    let before = view.get(id).map(|stored| stamps::listed(&stored.document)).unwrap_or_default();
    let tags = stamps::attached(view, &Stamps::of(view, id), &before);
    stamps::set_list(document, &tags);
}

fn delete(view: &View, id: ResourceId) -> Option<(Change, Expect)> {
    let stored = view.get(&id)?;
    let parents = view.parents(&id).into();
    Some((Change { id, operation: Operation::Delete(stored.document), parents }, Expect::At(stored.modified)))
}
