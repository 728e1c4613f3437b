//! Whether single resources match a filter, before and after a change: what a filtered feed asks.
//!
//! A query finds all matches at once, by indexes; a feed asks about the few resources that a commit concerns, in two
//! states. So this is plain and reads from any [`Source`]: a [`View`], or a view with some commits [`Rewound`].

use lockstep_journal::{Change, Commit, Operation};
use lockstep_model::{Document, Name, ResourceId, ResourceType, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::column::{Spot, any_slot};
use crate::condition::{Condition, Path, Predicate};
use crate::query::Filter;
use crate::space::Row;
use crate::value::ValueRef;
use crate::view::View;

/// A state in which filters can be evaluated.
pub trait Source {
    /// Whether the resource exists.
    fn exists(&self, id: &ResourceId) -> bool;

    /// Whether `f` holds for a value of the resource at these names, from the top of the document down. Lists are looked
    /// into, at the end of the path too; a structure is no value.
    fn any_value(&self, id: &ResourceId, names: &[Name], f: &mut dyn FnMut(&ValueRef<'_>) -> bool) -> bool;

    /// Calls back for the resources of a type that have `target`, which need not exist, as a value at these names.
    fn referrers(
        &self,
        target: &ResourceId,
        resource_type: &ResourceType,
        names: &[Name],
        each: &mut dyn FnMut(ResourceId),
    );
}

impl Filter {
    /// Whether a resource exists and matches.
    pub fn matches(&self, id: &ResourceId, source: &dyn Source) -> bool {
        self.types.contains(&id.resource_type) && source.exists(id) && holds(&self.condition, id, source)
    }

    /// The resources that may match before the changes and not after, or the other way round: those that change, and those
    /// that a path of the filter leads from to what changed. Sorted, none twice; some may not exist.
    ///
    /// `source` is the state before or after the changes; which one does not matter, as a reference that is in one of them
    /// only belongs to a resource that changes itself.
    pub fn affected(&self, changes: &[Change], source: &dyn Source) -> Vec<ResourceId> {
        let mut found: FxHashSet<ResourceId> = FxHashSet::default();
        for change in changes {
            if self.types.contains(&change.id.resource_type) {
                found.insert(change.id.clone());
            }
        }
        self.condition.each_path(&mut |path| {
            for (i, hop) in path.hops.iter().enumerate().skip(1) {
                let concerned =
                    changes.iter().filter(|c| c.id.resource_type == hop.resource_type && touches(c, &hop.names));
                let far = concerned.map(|change| change.id.clone()).collect();
                found.extend(walk_back(path, i, far, source));
            }
        });
        let mut found: Vec<ResourceId> = found.into_iter().collect();
        found.sort();
        found
    }
}

/// Whether a change concerns what stands at these names.
fn touches(change: &Change, names: &[Name]) -> bool {
    match &change.operation {
        Operation::Create(_) | Operation::Delete(_) => true,
        // A change of a list names the list, whatever is below it.
        Operation::Update(leaves) => leaves.iter().any(|leaf| leaf.path.names().zip(names).all(|(a, b)| a == &**b)),
    }
}

/// The resources from which the hops before the `hop`th lead to those of `far`.
fn walk_back(path: &Path, hop: usize, far: FxHashSet<ResourceId>, source: &dyn Source) -> FxHashSet<ResourceId> {
    path.hops[..hop].iter().rev().fold(far, |far, hop| {
        let mut near = FxHashSet::default();
        for target in &far {
            source.referrers(target, &hop.resource_type, &hop.names, &mut |id| {
                near.insert(id);
            });
        }
        near
    })
}

fn holds(condition: &Condition, id: &ResourceId, source: &dyn Source) -> bool {
    match condition {
        Condition::Type(name) => *name == id.resource_type,
        Condition::Id(other) => other == id,
        Condition::Property(predicate) => passes(predicate, 0, id, source),
        Condition::All(conditions) => conditions.iter().all(|c| holds(c, id, source)),
        Condition::Any(conditions) => conditions.iter().any(|c| holds(c, id, source)),
    }
}

fn passes(predicate: &Predicate, hop: usize, id: &ResourceId, source: &dyn Source) -> bool {
    let hops = &predicate.path.hops;
    if hops[hop].resource_type != id.resource_type {
        return false;
    }
    source.any_value(id, &hops[hop].names, &mut |value| match value {
        value if hop + 1 == hops.len() => predicate.test.holds(value),
        ValueRef::Id { resource_type, id } => {
            let target = ResourceId::new(*resource_type, *id);
            source.exists(&target) && passes(predicate, hop + 1, &target, source)
        }
        _ => false,
    })
}

impl Source for View {
    fn exists(&self, id: &ResourceId) -> bool {
        self.spaces.find_live(id).is_some()
    }

    fn any_value(&self, id: &ResourceId, names: &[Name], f: &mut dyn FnMut(&ValueRef<'_>) -> bool) -> bool {
        let Some(row) = self.spaces.find_live(id) else { return false };
        let Some(column) = Spot::find(self.fields(row.space), names).and_then(Spot::column) else { return false };
        any_slot(&column.lists, row.row, &mut |slot| {
            column.leaf.value(slot, &self.spaces).is_some_and(|value| f(&value))
        })
    }

    fn referrers(
        &self,
        target: &ResourceId,
        resource_type: &ResourceType,
        names: &[Name],
        each: &mut dyn FnMut(ResourceId),
    ) {
        let Some(target) = self.spaces.find(target) else { return };
        let Some(space) = self.spaces.find_type(resource_type.as_str()) else { return };
        if let Some(column) = Spot::find(self.fields(space), names).and_then(Spot::column) {
            View::referrers(self, &column, space, target, &mut |row| each(self.spaces.id(Row { space, row })));
        }
    }
}

/// The state before some commits, seen from a view that has applied them.
pub struct Rewound<'v> {
    view: &'v View,
    /// What the commits changed, as it was before the first of them; `None` for what did not exist.
    before: FxHashMap<ResourceId, Option<Document>>,
}

impl<'v> Rewound<'v> {
    /// The state before `commits`, which are in order and the last ones that `view` has applied.
    pub fn new<'c>(view: &'v View, commits: impl DoubleEndedIterator<Item = &'c Commit>) -> Self {
        let mut before: FxHashMap<ResourceId, Option<Document>> = FxHashMap::default();
        for change in commits.rev().flat_map(|commit| commit.changes.iter().rev()) {
            let document = match &change.operation {
                Operation::Create(_) => None,
                Operation::Delete(document) => Some(document.clone()),
                Operation::Update(leaves) => {
                    let later =
                        before.remove(&change.id).unwrap_or_else(|| view.get(&change.id).map(|stored| stored.document));
                    later.map(|mut document| {
                        leaves.iter().for_each(|leaf| document.set(leaf.path.as_str(), leaf.old.clone()));
                        document
                    })
                }
            };
            before.insert(change.id.clone(), document);
        }
        Self { view, before }
    }

    /// A resource as it was; `None` when it did not exist.
    pub fn document(&self, id: &ResourceId) -> Option<Document> {
        match self.before.get(id) {
            Some(before) => before.clone(),
            None => self.view.get(id).map(|stored| stored.document),
        }
    }
}

impl Source for Rewound<'_> {
    fn exists(&self, id: &ResourceId) -> bool {
        self.before.get(id).map_or_else(|| self.view.exists(id), Option::is_some)
    }

    fn any_value(&self, id: &ResourceId, names: &[Name], f: &mut dyn FnMut(&ValueRef<'_>) -> bool) -> bool {
        match self.before.get(id) {
            None => self.view.any_value(id, names, f),
            Some(None) => false,
            Some(Some(document)) => any_value(document.fields(), names, f),
        }
    }

    fn referrers(
        &self,
        target: &ResourceId,
        resource_type: &ResourceType,
        names: &[Name],
        each: &mut dyn FnMut(ResourceId),
    ) {
        Source::referrers(self.view, target, resource_type, names, &mut |id| {
            if !self.before.contains_key(&id) {
                each(id);
            }
        });
        let is_target = |value: &ValueRef<'_>| matches!(value, ValueRef::Id { resource_type, id } if *resource_type == target.resource_type.as_str() && *id == &*target.id);
        for (id, document) in self.before.iter().filter(|(id, _)| id.resource_type == *resource_type) {
            if document.as_ref().is_some_and(|d| any_value(d.fields(), names, &mut |v| is_target(v))) {
                each(id.clone());
            }
        }
    }
}

/// [`Source::any_value`] in a document.
fn any_value(fields: &[(Name, Value)], names: &[Name], f: &mut dyn FnMut(&ValueRef<'_>) -> bool) -> bool {
    let Some((first, rest)) = names.split_first() else { return false };
    let Some((_, value)) = fields.iter().find(|(n, _)| n == first) else { return false };
    let values = match value {
        Value::List(values) => &values[..],
        value => std::slice::from_ref(value),
    };
    values.iter().any(|value| match (rest, value) {
        (rest, Value::Struct(fields)) => any_value(fields, rest, f),
        ([], Value::Boolean(v)) => f(&ValueRef::Boolean(*v)),
        ([], Value::Long(v)) => f(&ValueRef::Long(*v)),
        ([], Value::Double(v)) => f(&ValueRef::Double(*v)),
        ([], Value::String(v)) => f(&ValueRef::Str(v)),
        ([], Value::Id(v)) => f(&ValueRef::Id { resource_type: v.resource_type.as_str(), id: &v.id }),
        _ => false,
    })
}
