//! Which container stands in which: what a source does not tell of the objects below them.
//!
//! A cluster, datastore or network names the folder that it is in, and not its datacenter; a host that is in no cluster stands in a compute
//! resource of its own, which is no resource here. Containers are few, so their places are kept in memory.

use std::collections::HashMap;

use crate::object::ObjectRef;

/// Longest way from an object up to the root; only a circle is as long.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Default)]
struct Place {
    kind: Box<str>,
    parent: Option<ObjectRef>,
    /// The first host of a compute resource.
    host: Option<ObjectRef>,
}

/// The places of a source's folders, datacenters and compute resources.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    places: HashMap<Box<str>, Place>,
}

impl Tree {
    fn place(&mut self, object: &ObjectRef) -> &mut Place {
        let place = self.places.entry(object.id.clone()).or_default();
        place.kind = object.kind.clone();
        place
    }

    pub(crate) fn set_parent(&mut self, object: &ObjectRef, parent: Option<ObjectRef>) {
        self.place(object).parent = parent;
    }

    pub(crate) fn set_host(&mut self, object: &ObjectRef, host: Option<ObjectRef>) {
        self.place(object).host = host;
    }

    pub(crate) fn remove(&mut self, object: &ObjectRef) {
        self.places.remove(&object.id);
    }

    /// The datacenter that `parent` is or is in.
    pub(crate) fn datacenter(&self, parent: &ObjectRef) -> Option<ObjectRef> {
        let mut at = parent.clone();
        for _ in 0..DEPTH_MAX {
            if &*at.kind == "Datacenter" {
                return Some(at);
            }
            at = self.places.get(&at.id)?.parent.clone()?;
        }
        None
    }

    /// The folder that a compute resource stands in.
    pub(crate) fn folder(&self, compute: &ObjectRef) -> Option<ObjectRef> {
        self.places.get(&compute.id)?.parent.clone()
    }

    /// The host of a compute resource that is no cluster.
    pub(crate) fn host(&self, compute: &ObjectRef) -> Option<ObjectRef> {
        self.places.get(&compute.id)?.host.clone()
    }

    /// How many containers stand above an object.
    pub(crate) fn depth(&self, object: &ObjectRef) -> usize {
        let mut depth = 0;
        let mut at = self.places.get(&object.id);
        while let Some(parent) = at.and_then(|place| place.parent.as_ref()).filter(|_| depth < DEPTH_MAX) {
            depth += 1;
            at = self.places.get(&parent.id);
        }
        depth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datacenter_is_found_above_and_a_circle_ends() {
        let object = |kind: &str, id: &str| ObjectRef { kind: kind.into(), id: id.into() };
        let (root, datacenter) = (object("Folder", "group-d1"), object("Datacenter", "datacenter-2"));
        let (folder, inner) = (object("Folder", "group-h4"), object("Folder", "group-h9"));
        let mut tree = Tree::default();
        tree.set_parent(&root, None);
        tree.set_parent(&datacenter, Some(root.clone()));
        tree.set_parent(&folder, Some(datacenter.clone()));
        tree.set_parent(&inner, Some(folder.clone()));
        assert_eq!(tree.datacenter(&inner), Some(datacenter.clone()));
        assert_eq!(tree.datacenter(&root), None);
        assert_eq!((tree.depth(&root), tree.depth(&inner)), (0, 3));
        tree.set_parent(&folder, Some(inner.clone()));
        assert_eq!((tree.datacenter(&inner), tree.depth(&inner)), (None, DEPTH_MAX));
        tree.remove(&folder);
        assert_eq!(tree.datacenter(&inner), None);
    }
}
