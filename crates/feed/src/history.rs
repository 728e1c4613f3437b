//! What resources were at an earlier position, worked out backwards from what they are.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use lockstep_journal::{Change, Commit, Operation};
use lockstep_model::{Document, Position, ResourceId};
use lockstep_query::{Source, View};

/// The changes of an interval that ends at the view's position.
pub(crate) struct History<'v> {
    view: &'v View,
    commits: &'v [Arc<Commit>],
    /// Where each resource changes: the commit's and the change's place, in order.
    by_resource: HashMap<&'v ResourceId, Vec<(usize, usize)>>,
}

impl<'v> History<'v> {
    /// The history that `commits` tell: all commits from some position up to the view's.
    pub(crate) fn new(view: &'v View, commits: &'v [Arc<Commit>]) -> Self {
        let mut by_resource: HashMap<&ResourceId, Vec<(usize, usize)>> = HashMap::new();
        for (c, commit) in commits.iter().enumerate() {
            for (i, change) in commit.changes.iter().enumerate() {
                by_resource.entry(&change.id).or_default().push((c, i));
            }
        }
        Self { view, commits, by_resource }
    }

    /// The resources that change anywhere in the interval.
    pub(crate) fn changed(&self) -> Vec<ResourceId> {
        self.by_resource.keys().map(|id| (*id).clone()).collect()
    }

    /// The last change of a resource up to `position`, if there is one.
    pub(crate) fn last_change(&self, id: &ResourceId, position: Position) -> Option<&'v Change> {
        let places = self.by_resource.get(id)?;
        let (c, i) = places.iter().rev().find(|(c, _)| self.commits[*c].position <= position)?;
        Some(&self.commits[*c].changes[*i])
    }

    /// The state at a position of the interval, or at the one it begins behind.
    pub(crate) fn at(&self, position: Position) -> Past<'_, 'v> {
        Past { history: self, position }
    }
}

/// The state at an earlier position.
pub(crate) struct Past<'h, 'v> {
    history: &'h History<'v>,
    position: Position,
}

impl Past<'_, '_> {
    fn later(&self, id: &ResourceId) -> impl Iterator<Item = &Change> {
        let places = self.history.by_resource.get(id).map_or(&[][..], |places| places);
        let commits = self.history.commits;
        let later = places.iter().rev().take_while(|(c, _)| commits[*c].position > self.position);
        later.map(|(c, i)| &commits[*c].changes[*i])
    }
}

impl Source for Past<'_, '_> {
    fn document(&self, id: &ResourceId) -> Option<Cow<'_, Document>> {
        let mut document = self.history.view.get(id).map(|stored| stored.document);
        for change in self.later(id) {
            match &change.operation {
                Operation::Create(_) => document = None,
                Operation::Delete(before) => document = Some(before.clone()),
                Operation::Update(leaves) => {
                    let document = document.get_or_insert_default();
                    // Unset first: a structure's last field may go while another comes.
                    leaves.iter().for_each(|leaf| document.set(leaf.path.as_str(), None));
                    leaves
                        .iter()
                        .filter(|l| l.old.is_some())
                        .for_each(|l| document.set(l.path.as_str(), l.old.clone()));
                }
            }
        }
        document.map(Cow::Owned)
    }

    /// Those of the present. A resource that pointed there and does not any more has changed since, so whoever looks for what is
    /// affected has it among the changed ones.
    fn referrers(&self, id: &ResourceId, resource_type: &str, property: &str) -> Vec<ResourceId> {
        self.history.view.referrers(id, resource_type, property)
    }
}
