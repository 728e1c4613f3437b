//! The tree of the VIM schema over the inventory.
//!
//! Clients of SOAP walk from the root folder over datacenters and their four folders to what stands in them. An inventory need not have all of
//! that: what a vCenter was collected from has it, an import may have datacenters without folders, and a Linux host stands in nothing. So
//! the steps that are missing are made up, from nothing that is stored:
//!
//! ```text
//! Folder group-d1                      the root, whether stored or not
//!   Datacenter …                       stored ones
//!   Datacenter home                    for what stands in no datacenter, if there is any
//!     Folder v:DC h:DC s:DC n:DC       machines, hosts, datastores, networks; where no such folder is stored
//!       ComputeResource c:HOST         around a host that is in no cluster
//!         HostSystem HOST
//! ```
//!
//! Their ids begin with [`MADE_UP`], which begins no stored one of a vCenter.

use lockstep_model::{ResourceId, Value};
use lockstep_query::{StructRef, ValueRef, View};

use super::view::{ROOT_NAME, is_entity, root};

/// What the ids of objects begin with that are not stored.
const MADE_UP: &str = "lockstep:";

/// The datacenter of what is in none, and its name.
const HOME: &str = "lockstep:dc";
const HOME_NAME: &str = "lockstep";

/// The type of what is around a host that is in no cluster.
pub(super) const COMPUTE_RESOURCE: &str = "ComputeResource";

/// The four kinds of folders that a datacenter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Machines,
    Hosts,
    Datastores,
    Networks,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Machines, Self::Hosts, Self::Datastores, Self::Networks];

    /// The letter in made-up ids, the name of such a folder, the word for it in the inventory, the types of what is in it.
    fn parts(self) -> (char, &'static str, &'static str, [&'static str; 2]) {
        match self {
            Self::Machines => ('v', "vm", "VIRTUAL_MACHINE", ["VirtualMachine", "VirtualMachine"]),
            Self::Hosts => ('h', "host", "HOST", ["ClusterComputeResource", "HostSystem"]),
            Self::Datastores => ('s', "datastore", "DATASTORE", ["Datastore", "Datastore"]),
            Self::Networks => ('n', "network", "NETWORK", ["Network", "DistributedVirtualSwitch"]),
        }
    }

    /// Which types of the schema may stand in such a folder.
    pub(super) fn child_types(self) -> [&'static str; 2] {
        match self {
            Self::Machines => ["Folder", "VirtualMachine"],
            Self::Hosts => ["Folder", COMPUTE_RESOURCE],
            Self::Datastores => ["Folder", "Datastore"],
            Self::Networks => ["Folder", "Network"],
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.parts().2 == word)
    }

    fn holds(self, resource_type: &str) -> bool {
        self.parts().3.contains(&resource_type)
    }
}

/// What a made-up id stands for.
enum MadeUp<'a> {
    Home,
    Folder(Kind, &'a str),
    Around(&'a str),
}

fn made_up(id: &ResourceId) -> Option<MadeUp<'_>> {
    let rest = id.id.strip_prefix(MADE_UP)?;
    match (id.resource_type.as_str(), rest.split_once(':')) {
        ("Datacenter", None) if *id.id == *HOME => Some(MadeUp::Home),
        ("Folder", Some((letter, datacenter))) => {
            let kind = Kind::ALL.into_iter().find(|kind| letter.chars().eq([kind.parts().0]))?;
            Some(MadeUp::Folder(kind, datacenter))
        }
        (COMPUTE_RESOURCE, Some(("c", host))) => Some(MadeUp::Around(host)),
        _ => None,
    }
}

fn home() -> ResourceId {
    ResourceId::new("Datacenter", HOME)
}

/// The tree as the view has it.
pub(super) struct Tree<'v> {
    pub(super) view: &'v View,
}

impl<'v> Tree<'v> {
    /// The properties of a stored object; none for one that is made up.
    pub(super) fn stored(&self, id: &ResourceId) -> Option<StructRef<'v>> {
        let view: &'v View = self.view;
        is_entity(id.resource_type.as_str()).then(|| view.find(id)).flatten().map(|found| found.fields())
    }

    /// The text of a stored object's property.
    fn text(&self, id: &ResourceId, name: &str) -> Option<&'v str> {
        self.stored(id)?.iter().find_map(|(found, value)| match value {
            ValueRef::Str(text) if found == name => Some(text),
            _ => None,
        })
    }

    pub(super) fn exists(&self, id: &ResourceId) -> bool {
        if *id == root() || self.view.modified(id).is_some() {
            return *id == root() || is_entity(id.resource_type.as_str());
        }
        match made_up(id) {
            Some(MadeUp::Home) => true,
            Some(MadeUp::Folder(_, datacenter)) => {
                datacenter == HOME || self.view.modified(&ResourceId::new("Datacenter", datacenter)).is_some()
            }
            Some(MadeUp::Around(host)) => self.view.modified(&ResourceId::new("HostSystem", host)).is_some(),
            None => false,
        }
    }

    /// The name of an object; its id when it has none, since every object of the schema has a name.
    pub(super) fn name(&self, id: &ResourceId) -> String {
        if let Some(name) = self.text(id, "name") {
            return name.to_owned();
        }
        match made_up(id) {
            Some(MadeUp::Home) => HOME_NAME.to_owned(),
            Some(MadeUp::Folder(kind, _)) => kind.parts().1.to_owned(),
            Some(MadeUp::Around(host)) => self.name(&ResourceId::new("HostSystem", host)),
            None if *id == root() => ROOT_NAME.to_owned(),
            None => id.id.to_string(),
        }
    }

    /// What an object says to stand in, as the inventory knows it.
    fn stated_parent(&self, id: &ResourceId) -> Option<ResourceId> {
        self.view.parents(id).into_iter().next()
    }

    /// The datacenter that an object of the inventory is in, at whatever depth.
    fn datacenter_of(&self, id: &ResourceId) -> ResourceId {
        let stated = self.view.parents(id).into_iter().find(|above| above.resource_type.as_str() == "Datacenter");
        stated.unwrap_or_else(home)
    }

    /// The folder of a datacenter for a kind: the stored one, or one that is made up.
    pub(super) fn folder_of(&self, datacenter: &ResourceId, kind: Kind) -> ResourceId {
        let word = kind.parts().2;
        let folders = self.view.referring("Folder", "datacenter", datacenter);
        let is_root = |folder: &ResourceId| {
            self.text(folder, "kind") == Some(word) && self.stated_parent(folder).as_ref() == Some(datacenter)
        };
        let made_up = || ResourceId::new("Folder", format!("{MADE_UP}{}:{}", kind.parts().0, datacenter.id));
        folders.into_iter().find(is_root).unwrap_or_else(made_up)
    }

    /// The datacenter and kind whose folder this is, if it is one's.
    fn root_folder(&self, folder: &ResourceId) -> Option<(ResourceId, Kind)> {
        if let Some(MadeUp::Folder(kind, datacenter)) = made_up(folder) {
            return Some((ResourceId::new("Datacenter", datacenter), kind));
        }
        let datacenter = self.stated_parent(folder).filter(|above| above.resource_type.as_str() == "Datacenter")?;
        let kind = self.kind(folder)?;
        (self.folder_of(&datacenter, kind) == *folder).then_some((datacenter, kind))
    }

    /// What a folder is for; none for one of datacenters, and where it is not known.
    pub(super) fn kind(&self, folder: &ResourceId) -> Option<Kind> {
        match made_up(folder) {
            Some(MadeUp::Folder(kind, _)) => Some(kind),
            _ => Kind::of_word(self.text(folder, "kind")?),
        }
    }

    /// What is around a host that is in no cluster.
    fn around(host: &ResourceId) -> ResourceId {
        ResourceId::new(COMPUTE_RESOURCE, format!("{MADE_UP}c:{}", host.id))
    }

    /// What an object stands in; none for the root.
    pub(super) fn parent(&self, id: &ResourceId) -> Option<ResourceId> {
        if *id == root() {
            return None;
        }
        match made_up(id) {
            Some(MadeUp::Home) => return Some(root()),
            Some(MadeUp::Folder(_, datacenter)) => return Some(ResourceId::new("Datacenter", datacenter)),
            Some(MadeUp::Around(host)) => {
                let host = ResourceId::new("HostSystem", host);
                return Some(self.in_folder(self.stated_parent(&host), &host, Kind::Hosts));
            }
            None => {}
        }
        let stated = self.stated_parent(id);
        match id.resource_type.as_str() {
            "Datacenter" | "Folder" => Some(stated.unwrap_or_else(root)),
            "ClusterComputeResource" => Some(self.in_folder(stated, id, Kind::Hosts)),
            "HostSystem" => match stated {
                Some(cluster) if cluster.resource_type.as_str() == "ClusterComputeResource" => Some(cluster),
                _ => Some(Self::around(id)),
            },
            "ResourcePool" => match stated {
                Some(host) if host.resource_type.as_str() == "HostSystem" => Some(Self::around(&host)),
                stated => stated,
            },
            "Datastore" => Some(self.in_folder(stated, id, Kind::Datastores)),
            "Network" => Some(self.in_folder(stated, id, Kind::Networks)),
            "VirtualMachine" => Some(self.in_folder(stated, id, Kind::Machines)),
            _ => None,
        }
    }

    /// The folder that an object says to stand in, or else that of its datacenter.
    fn in_folder(&self, stated: Option<ResourceId>, id: &ResourceId, kind: Kind) -> ResourceId {
        match stated {
            Some(folder) if folder.resource_type.as_str() == "Folder" => folder,
            _ => self.folder_of(&self.datacenter_of(id), kind),
        }
    }

    /// What an object stands below, the nearest first, up to the root. A circle ends where it closes.
    pub(super) fn ancestors(&self, id: &ResourceId) -> Vec<ResourceId> {
        let mut above: Vec<ResourceId> = Vec::new();
        let mut at = id.clone();
        while let Some(parent) = self.parent(&at).filter(|parent| parent != id && !above.contains(parent)) {
            above.push(parent.clone());
            at = parent;
        }
        above
    }

    /// What stands in a folder, by type and id.
    pub(super) fn children(&self, folder: &ResourceId) -> Vec<ResourceId> {
        let mut children: Vec<ResourceId> = if *folder == root() {
            let is_top = |id: &ResourceId| self.parent(id).is_some_and(|parent| parent == *folder);
            let tops = ["Datacenter", "Folder"].into_iter().flat_map(|name| self.view.ids(name, None)).filter(is_top);
            let is_needed = Kind::ALL.into_iter().any(|kind| !self.without_folder(&home(), kind).is_empty());
            tops.chain(is_needed.then(home)).collect()
        } else {
            self.view.children(folder)
        };
        if let Some((datacenter, kind)) = self.root_folder(folder) {
            children.extend(self.without_folder(&datacenter, kind));
        }
        children.retain(|child| is_entity(child.resource_type.as_str()) && child != folder);
        for child in &mut children {
            if child.resource_type.as_str() == "HostSystem" {
                *child = Self::around(child);
            }
        }
        children.sort();
        children.dedup();
        children
    }

    /// What is in a datacenter and says no folder.
    fn without_folder(&self, datacenter: &ResourceId, kind: Kind) -> Vec<ResourceId> {
        let mut found: Vec<ResourceId> = self.view.children(datacenter);
        if kind != Kind::Hosts {
            let is_here = |host: &ResourceId| self.datacenter_of(host) == *datacenter;
            for host in self.view.ids("HostSystem", None).filter(is_here) {
                found.extend(self.view.children(&host));
            }
        }
        if *datacenter == home() {
            let [first, second] = kind.parts().3;
            let others = (second != first).then_some(second);
            let all = [Some(first), others].into_iter().flatten().flat_map(|name| self.view.ids(name, None));
            found.extend(all.filter(|id| self.stated_parent(id).is_none()));
        }
        found.retain(|id| kind.holds(id.resource_type.as_str()));
        found
    }

    /// The host that a made-up compute resource is around.
    pub(super) fn host_in(id: &ResourceId) -> Option<ResourceId> {
        match made_up(id) {
            Some(MadeUp::Around(host)) => Some(ResourceId::new("HostSystem", host)),
            _ => None,
        }
    }

    /// The hosts of a compute resource.
    pub(super) fn hosts(&self, compute: &ResourceId) -> Vec<ResourceId> {
        match Self::host_in(compute) {
            Some(host) => vec![host],
            None => self.view.referring("HostSystem", "cluster", compute),
        }
    }

    /// The root pool of a compute resource, when the inventory has one.
    pub(super) fn pool(&self, compute: &ResourceId) -> Option<ResourceId> {
        let pools = match Self::host_in(compute) {
            Some(host) => self.view.referring("ResourcePool", "host", &host),
            None => self.view.referring("ResourcePool", "cluster", compute),
        };
        let is_inner = |pool: &ResourceId| {
            let document = self.view.get(pool).map(|stored| stored.document);
            matches!(document.as_ref().and_then(|pool| pool.get("parent")), Some(Value::Id(_)))
        };
        pools.into_iter().find(|pool| !is_inner(pool))
    }
}
