//! Container views: the objects of some types below a container.
//!
//! What a view is of stands in its id, `view-` and the base64 of a JSON array; nothing is kept of it on the server. What it shows is what
//! the inventory has when it is fetched, as with a view of vCenter.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::ResourceId;
use lockstep_query::View;

use super::fault::Fault;
use super::tree::Tree;

/// The name of the root folder, as vCenter's is called.
pub(super) const ROOT_NAME: &str = "Datacenters";

/// The types of the inventory that are managed entities of the VIM schema. No other type of the site is shown.
pub(super) const ENTITIES: [&str; 8] = [
    "ClusterComputeResource",
    "Datacenter",
    "Datastore",
    "Folder",
    "HostSystem",
    "Network",
    "ResourcePool",
    "VirtualMachine",
];

/// Managed entities of the VIM schema that no site has: a view of them is empty.
const ABSENT: [&str; 6] = [
    "DistributedVirtualPortgroup",
    "DistributedVirtualSwitch",
    "OpaqueNetwork",
    "StoragePod",
    "VirtualApp",
    "VmwareDistributedVirtualSwitch",
];

/// Most objects of a view; one takes some hundred bytes of the answer. Who has more asks the query service, page by page.
const OBJECTS_MAX: usize = 200_000;

/// Longest id of a view.
const ID_BYTES_MAX: usize = 8 << 10;

/// The folder that everything stands below. It need not be in the inventory.
pub(super) fn root() -> ResourceId {
    ResourceId::new("Folder", "group-d1")
}

/// Whether objects of a type are shown.
pub(super) fn is_entity(type_name: &str) -> bool {
    ENTITIES.contains(&type_name)
}

/// The types of the inventory that a type of the VIM schema stands for; `None` for what is no managed entity.
fn types_of(name: &str) -> Option<Vec<&'static str>> {
    match name {
        "ManagedEntity" => Some(ENTITIES.to_vec()),
        "ComputeResource" => Some(vec!["ClusterComputeResource"]),
        _ if ABSENT.contains(&name) => Some(Vec::new()),
        _ => ENTITIES.iter().find(|entity| **entity == name).map(|entity| vec![*entity]),
    }
}

/// What a view is of.
#[derive(Debug, PartialEq)]
pub(super) struct ContainerView {
    pub container: ResourceId,
    /// Empty for all.
    pub types: Vec<String>,
    /// Whether it goes on below the container's own children.
    pub is_recursive: bool,
}

impl ContainerView {
    /// Whether there can be such a view.
    pub(super) fn check(&self, view: &View) -> Result<(), Fault> {
        if !(Tree { view }).exists(&self.container) {
            return Err(Fault::NoObject(self.container.clone()));
        }
        match self.types.iter().all(|name| types_of(name).is_some()) {
            true => Ok(()),
            false => Err(Fault::InvalidArgument("type")),
        }
    }

    pub(super) fn id(&self) -> Result<String, Fault> {
        let container = (self.container.resource_type.as_str(), &*self.container.id);
        let json = serde_json::to_vec(&(self.is_recursive, container, &self.types))
            .map_err(|_| Fault::Failed(Error::internal().into()))?;
        let id = format!("view-{}", URL_SAFE_NO_PAD.encode(json));
        if id.len() > ID_BYTES_MAX { Err(Fault::InvalidArgument("type")) } else { Ok(id) }
    }

    /// The view of that id; `None` when it is none's.
    pub(super) fn from_id(id: &str) -> Option<Self> {
        if id.len() > ID_BYTES_MAX {
            return None;
        }
        let json = URL_SAFE_NO_PAD.decode(id.strip_prefix("view-")?).ok()?;
        let (is_recursive, (type_name, id), types): (bool, (String, String), Vec<String>) =
            serde_json::from_slice(&json).ok()?;
        Some(Self { container: ResourceId::new(&*type_name, id), types, is_recursive })
    }

    /// The objects that it shows, by type and id.
    ///
    /// # Errors
    /// When there cannot be such a view any more, or it shows too many.
    pub(super) fn objects(&self, view: &View) -> Result<Vec<ResourceId>, Fault> {
        self.check(view)?;
        let mut types: Vec<&str> = match self.types.is_empty() {
            true => ENTITIES.to_vec(),
            false => self.types.iter().filter_map(|name| types_of(name)).flatten().collect(),
        };
        types.sort_unstable();
        types.dedup();
        let is_root = self.container == root();
        let tree = Tree { view };
        let is_below = |id: &ResourceId| match (is_root, self.is_recursive) {
            (true, true) => *id != self.container,
            // What stands in nothing is the root's own, too.
            (true, false) => view.parents(id).first().is_none_or(|parent| *parent == self.container) && *id != root(),
            // What is stored without the folders between is shown with them and without.
            (false, false) => {
                tree.parent(id).as_ref() == Some(&self.container) || view.parents(id).first() == Some(&self.container)
            }
            // Hosts contain their machines, too, and clusters those.
            (false, true) => tree.ancestors(id).contains(&self.container) || view.parents(id).contains(&self.container),
        };
        let below = types.into_iter().flat_map(|name| view.ids(name, None)).filter(is_below);
        let objects: Vec<ResourceId> = below.take(OBJECTS_MAX + 1).collect();
        if objects.len() > OBJECTS_MAX {
            let message = format!("the view shows more than {OBJECTS_MAX} objects: use the query service");
            let id = "lockstep.soap.view";
            let error = Error::new(ErrorKind::UnableToAllocateResource, id, message, Vec::new());
            return Err(Fault::Failed(error.into()));
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_views_id_says_what_it_is_of() {
        let view = ContainerView { container: root(), types: vec!["VirtualMachine".to_owned()], is_recursive: true };
        let id = view.id().unwrap();
        assert!(id.starts_with("view-") && id.is_ascii(), "{id}");
        assert_eq!(ContainerView::from_id(&id), Some(view));
        for wrong in ["", "view-", "view-x", "view-!!", "session[1]view-1", &format!("view-{}", "x".repeat(9000))] {
            assert_eq!(ContainerView::from_id(wrong), None, "{wrong}");
        }
        let long = ContainerView { container: root(), types: vec!["x".repeat(9000)], is_recursive: true };
        assert!(long.id().is_err());
    }

    #[test]
    fn only_managed_entities_are_shown() {
        assert_eq!(types_of("ComputeResource"), Some(vec!["ClusterComputeResource"]));
        assert_eq!(types_of("StoragePod"), Some(Vec::new()));
        assert_eq!(types_of("ManagedEntity").map(|types| types.len()), Some(ENTITIES.len()));
        for other in ["Account", "AcqSpec", "Tag", "", "Nothing"] {
            assert_eq!(types_of(other), None, "{other}");
        }
    }
}
