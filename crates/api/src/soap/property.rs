//! The properties of the VIM schema that objects have here: as far as the inventory knows them. What it does not know is not set.

use lockstep_model::{Document, ResourceId, Value as Stored};

use super::tree::{COMPUTE_RESOURCE, Kind, Tree};
use super::value::Value;

/// A structure under construction: fields that are not known are left out.
type Fields = Vec<Option<(&'static str, Value)>>;

/// All properties that are served of a type, for a client that wants all.
pub(super) fn names(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "Folder" => &["name", "parent", "childType", "childEntity"],
        "Datacenter" => &["name", "parent", "vmFolder", "hostFolder", "datastoreFolder", "networkFolder"],
        COMPUTE_RESOURCE | "ClusterComputeResource" => &["name", "parent", "host", "resourcePool"],
        "HostSystem" => &["name", "parent", "summary", "runtime", "vm", "datastore", "network"],
        "ResourcePool" => &["name", "parent", "owner", "resourcePool", "vm"],
        "Datastore" => &["name", "parent", "summary"],
        "Network" => &["name", "parent"],
        "VirtualMachine" => {
            &["name", "parent", "summary", "runtime", "guest", "config", "resourcePool", "datastore", "network"]
        }
        _ => &[],
    }
}

/// The value of a property at the top of an object; none when there is none, or it is not served.
pub(super) fn property(tree: &Tree<'_>, id: &ResourceId, name: &str) -> Option<Value> {
    let objects = |ids: Vec<ResourceId>| Some(Value::Objects(ids));
    match (id.resource_type.as_str(), name) {
        // What would part a path is escaped in names.
        (_, "name") => Some(Value::string(escape_name(&tree.name(id)))),
        (_, "parent") => tree.parent(id).map(Value::Object),
        ("Folder", "childEntity") => objects(tree.children(id)),
        ("Folder", "childType") => {
            let types = match tree.kind(id) {
                Some(kind) => kind.child_types(),
                None => ["Folder", "Datacenter"],
            };
            Some(Value::Texts(types.into_iter().map(str::to_owned).collect()))
        }
        ("Datacenter", name) => {
            let folders = ["vmFolder", "hostFolder", "datastoreFolder", "networkFolder"];
            let kind = folders.into_iter().zip(Kind::ALL).find(|(folder, _)| *folder == name)?.1;
            Some(Value::Object(tree.folder_of(id, kind)))
        }
        (COMPUTE_RESOURCE | "ClusterComputeResource", "host") => objects(tree.hosts(id)),
        (COMPUTE_RESOURCE | "ClusterComputeResource", "resourcePool") => tree.pool(id).map(Value::Object),
        ("ResourcePool", "resourcePool") => objects(tree.view.referring("ResourcePool", "parent", id)),
        ("ResourcePool", "owner") => {
            let is_compute =
                |id: &ResourceId| matches!(id.resource_type.as_str(), COMPUTE_RESOURCE | "ClusterComputeResource");
            tree.ancestors(id).into_iter().find(is_compute).map(Value::Object)
        }
        ("ResourcePool", "vm") => objects(tree.view.referring("VirtualMachine", "resource_pool", id)),
        ("HostSystem", "vm") => objects(tree.view.referring("VirtualMachine", "host", id)),
        ("HostSystem" | "VirtualMachine" | "Datastore", name) => {
            let document = tree.view.get(id)?.document;
            let of = Of { id, document: &document };
            match (id.resource_type.as_str(), name) {
                (_, "datastore") => objects(of.ids("datastores")),
                (_, "network") => objects(of.ids("networks")),
                ("HostSystem", "summary") => Some(of.host_summary()),
                ("HostSystem", "runtime") => Some(of.host_runtime()),
                ("Datastore", "summary") => Some(of.datastore_summary()),
                ("VirtualMachine", "summary") => Some(of.machine_summary()),
                ("VirtualMachine", "runtime") => Some(of.machine_runtime()),
                ("VirtualMachine", "guest") => Some(of.guest("GuestInfo")),
                ("VirtualMachine", "config") => Some(of.machine_config()),
                ("VirtualMachine", "resourcePool") => of.object("resource_pool"),
                _ => None,
            }
        }
        _ => None,
    }
}

fn escape_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

fn structure(kind: &'static str, fields: Fields) -> Value {
    Value::Struct(kind, fields.into_iter().flatten().collect())
}

/// A stored object.
struct Of<'a> {
    id: &'a ResourceId,
    document: &'a Document,
}

impl Of<'_> {
    fn plain(&self, path: &str) -> Option<&str> {
        self.document.get(path).and_then(Stored::as_str)
    }

    fn number(&self, path: &str) -> Option<i64> {
        match self.document.get(path) {
            Some(Stored::Long(number)) => Some(*number),
            _ => None,
        }
    }

    fn text(&self, path: &str) -> Option<Value> {
        self.plain(path).map(Value::string)
    }

    fn int(&self, path: &str) -> Option<Value> {
        self.number(path).map(Value::int)
    }

    fn long(&self, path: &str) -> Option<Value> {
        self.number(path).map(Value::long)
    }

    fn boolean(&self, path: &str) -> Option<Value> {
        match self.document.get(path) {
            Some(Stored::Boolean(claim)) => Some(Value::boolean(*claim)),
            _ => None,
        }
    }

    fn instant(&self, path: &str) -> Option<Value> {
        self.plain(path).map(|text| Value::Text("xsd:dateTime", text.to_owned()))
    }

    fn object(&self, path: &str) -> Option<Value> {
        match self.document.get(path) {
            Some(Stored::Id(id)) => Some(Value::Object((**id).clone())),
            _ => None,
        }
    }

    fn ids(&self, path: &str) -> Vec<ResourceId> {
        let items = match self.document.get(path) {
            Some(Stored::List(items)) => &items[..],
            _ => &[],
        };
        let id = |item: &Stored| match item {
            Stored::Id(id) => Some((**id).clone()),
            _ => None,
        };
        items.iter().filter_map(id).collect()
    }

    fn name(&self) -> Value {
        Value::string(self.plain("name").unwrap_or(&self.id.id))
    }

    /// A word of an enumeration: `POWERED_ON` is `poweredOn` there.
    fn word(&self, kind: &'static str, path: &str) -> Option<Value> {
        let mut words = self.plain(path)?.split('_').map(str::to_lowercase);
        let mut camel = words.next()?;
        for word in words {
            let mut letters = word.chars();
            camel.extend(letters.next().into_iter().flat_map(char::to_uppercase));
            camel.push_str(letters.as_str());
        }
        Some(Value::Text(kind, camel))
    }

    fn machine_summary(&self) -> Value {
        let set = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        let config = structure(
            "VirtualMachineConfigSummary",
            vec![
                Some(("name", self.name())),
                set("template", self.boolean("template")),
                set("vmPathName", self.text("path")),
                set("memorySizeMB", self.int("memory_size_MiB")),
                set("numCpu", self.int("cpu_count")),
                set("uuid", self.text("bios_uuid").or_else(|| self.text("instance_uuid"))),
                set("instanceUuid", self.text("instance_uuid")),
                set("guestFullName", self.text("guest_OS")),
                set("annotation", self.text("annotation")),
            ],
        );
        structure(
            "VirtualMachineSummary",
            vec![
                Some(("vm", Value::Object(self.id.clone()))),
                Some(("runtime", self.machine_runtime())),
                Some(("guest", self.guest("VirtualMachineGuestSummary"))),
                Some(("config", config)),
                Some(("overallStatus", Value::Text("ManagedEntityStatus", "gray".to_owned()))),
            ],
        )
    }

    fn machine_runtime(&self) -> Value {
        let set = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        structure(
            "VirtualMachineRuntimeInfo",
            vec![
                set("host", self.object("host")),
                set("connectionState", self.word("VirtualMachineConnectionState", "connection_state")),
                set("powerState", self.word("VirtualMachinePowerState", "power_state")),
                set("bootTime", self.instant("boot_time")),
            ],
        )
    }

    /// The guest, in one of the two structures that the schema has for it.
    fn guest(&self, kind: &'static str) -> Value {
        let set = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        structure(kind, vec![set("hostName", self.text("guest/hostname")), set("ipAddress", self.text("ip_address"))])
    }

    fn machine_config(&self) -> Value {
        let set = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        let hardware = structure(
            "VirtualHardware",
            vec![
                set("numCPU", self.int("cpu_count")),
                set("numCoresPerSocket", self.int("cores_per_socket")),
                set("memoryMB", self.int("memory_size_MiB")),
            ],
        );
        structure(
            "VirtualMachineConfigInfo",
            vec![
                Some(("name", self.name())),
                set("guestFullName", self.text("guest_OS")),
                set("uuid", self.text("bios_uuid").or_else(|| self.text("instance_uuid"))),
                set("instanceUuid", self.text("instance_uuid")),
                set("template", self.boolean("template")),
                set("annotation", self.text("annotation")),
                Some(("hardware", hardware)),
            ],
        )
    }

    fn host_summary(&self) -> Value {
        let set = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        let bytes = self.long("hardware/memory_size_bytes");
        let hardware = structure(
            "HostHardwareSummary",
            vec![
                set("vendor", self.text("hardware/vendor")),
                set("model", self.text("hardware/model")),
                set("uuid", self.text("hardware/uuid")),
                set("memorySize", bytes.or_else(|| Some(Value::long(self.number("hardware/memory_size_MiB")? << 20)))),
                set("cpuModel", self.text("hardware/cpu_model")),
                set("cpuMhz", self.int("hardware/cpu_MHz")),
                set("numCpuPkgs", self.int("hardware/cpu_sockets").map(as_short)),
                set("numCpuCores", self.int("hardware/cpu_cores").map(as_short)),
                set("numCpuThreads", self.int("hardware/cpu_threads").map(as_short)),
            ],
        );
        let config = structure("HostConfigSummary", vec![Some(("name", self.name()))]);
        structure(
            "HostListSummary",
            vec![
                Some(("host", Value::Object(self.id.clone()))),
                Some(("hardware", hardware)),
                Some(("runtime", self.host_runtime())),
                Some(("config", config)),
                Some(("quickStats", structure("HostListSummaryQuickStats", Vec::new()))),
                Some(("overallStatus", Value::Text("ManagedEntityStatus", "gray".to_owned()))),
            ],
        )
    }

    fn host_runtime(&self) -> Value {
        let set = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        structure(
            "HostRuntimeInfo",
            vec![
                set("connectionState", self.word("HostSystemConnectionState", "connection_state")),
                set("powerState", self.word("HostSystemPowerState", "power_state")),
                set("inMaintenanceMode", self.boolean("in_maintenance_mode")),
                set("bootTime", self.instant("boot_time")),
            ],
        )
    }

    fn datastore_summary(&self) -> Value {
        let set = |name: &'static str, value: Option<Value>| value.map(|value| (name, value));
        structure(
            "DatastoreSummary",
            vec![
                Some(("datastore", Value::Object(self.id.clone()))),
                Some(("name", self.name())),
                set("url", self.text("mount_point")),
                set("capacity", self.long("capacity")),
                set("freeSpace", self.long("free_space")),
                set("accessible", self.boolean("accessible")),
                set("multipleHostAccess", self.boolean("multiple_host_access")),
                set("type", self.text("kind")),
            ],
        )
    }
}

fn as_short(number: Value) -> Value {
    match number {
        Value::Text(_, text) => Value::Text("xsd:short", text),
        other => other,
    }
}

/// Whether an object of a type is one of another type of the schema.
pub(super) fn is_a(type_name: &str, wanted: &str) -> bool {
    type_name == wanted
        || match wanted {
            "ManagedEntity" => !names(type_name).is_empty(),
            COMPUTE_RESOURCE => type_name == "ClusterComputeResource",
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use lockstep_journal::StateEntry;
    use lockstep_model::{Position, Registry};
    use lockstep_query::View;
    use serde_json::json;

    use super::*;
    use crate::soap::view::{ENTITIES, root};

    fn view() -> View {
        let to = |resource_type: &str, id: &str| json!({"type": resource_type, "id": id});
        let mut view = View::new(Registry::new());
        for (resource_type, id, json) in [
            ("Datacenter", "dc-1", json!({"name": "fra"})),
            (
                "Folder",
                "group-v1",
                json!({"name": "machines", "kind": "VIRTUAL_MACHINE", "datacenter": to("Datacenter", "dc-1")}),
            ),
            ("ClusterComputeResource", "cl", json!({"name": "cl", "datacenter": to("Datacenter", "dc-1")})),
            ("ResourcePool", "pool", json!({"name": "Resources", "cluster": to("ClusterComputeResource", "cl")})),
            ("HostSystem", "h1", json!({"name": "h1", "cluster": to("ClusterComputeResource", "cl")})),
            ("HostSystem", "kvm", json!({"name": "kvm"})),
            ("Datastore", "ds", json!({"name": "/a", "host": to("HostSystem", "kvm")})),
            (
                "VirtualMachine",
                "vm-1",
                json!({"name": "one", "host": to("HostSystem", "h1"), "folder": to("Folder", "group-v1"),
                "power_state": "POWERED_ON", "cpu_count": 2}),
            ),
            ("VirtualMachine", "vm-2", json!({"name": "two", "host": to("HostSystem", "h1")})),
            ("VirtualMachine", "vm-3", json!({"name": "three", "host": to("HostSystem", "kvm")})),
        ] {
            let document = view.registry().type_def(resource_type).unwrap().read_document(&json.to_string()).unwrap();
            let id = ResourceId::new(resource_type, id);
            let (created, modified) = (Position(1), Position(1));
            view.load(&StateEntry { id, document, created, modified, created_ms: 0, modified_ms: 0 });
        }
        view
    }

    fn all(view: &View) -> impl Iterator<Item = ResourceId> {
        ENTITIES.into_iter().flat_map(|name| view.ids(name, None))
    }

    fn names_of(tree: &Tree<'_>, ids: &[ResourceId]) -> Vec<String> {
        ids.iter().map(|id| format!("{} {}", id.resource_type, tree.name(id))).collect()
    }

    #[test]
    fn everything_stands_in_one_tree_and_is_found_both_ways() {
        let view = view();
        let tree = Tree { view: &view };
        let tops = tree.children(&root());
        assert_eq!(names_of(&tree, &tops), ["Datacenter fra", "Datacenter lockstep"]);
        let within = |datacenter: &ResourceId, kind: Kind| {
            let folder = tree.folder_of(datacenter, kind);
            assert!(tree.exists(&folder) && tree.parent(&folder).as_ref() == Some(datacenter));
            names_of(&tree, &tree.children(&folder))
        };
        assert_eq!(within(&tops[0], Kind::Machines), ["VirtualMachine one", "VirtualMachine two"]);
        assert_eq!(within(&tops[0], Kind::Hosts), ["ClusterComputeResource cl"]);
        assert_eq!(within(&tops[0], Kind::Datastores), [""; 0]);
        assert_eq!(within(&tops[1], Kind::Machines), ["VirtualMachine three"]);
        assert_eq!(within(&tops[1], Kind::Hosts), ["ComputeResource kvm"]);
        assert_eq!(within(&tops[1], Kind::Datastores), ["Datastore /a"]);
        let mut seen = 0;
        for id in all(&view) {
            let above = tree.ancestors(&id);
            assert_eq!(above.last(), Some(&root()), "{id}: {above:?}");
            let parent = above.first().unwrap();
            if parent.resource_type.as_str() == "Folder" && id.resource_type.as_str() != "HostSystem" {
                assert!(tree.children(parent).contains(&id), "{id} in {parent}");
                seen += 1;
            }
        }
        assert_eq!(seen, 6);
        let around = tree.parent(&ResourceId::new("HostSystem", "kvm")).unwrap();
        assert_eq!(tree.hosts(&around), [ResourceId::new("HostSystem", "kvm")]);
        assert_eq!(
            tree.pool(&ResourceId::new("ClusterComputeResource", "cl")),
            Some(ResourceId::new("ResourcePool", "pool"))
        );
    }

    #[test]
    fn properties_are_those_of_the_schema() {
        let view = view();
        let tree = Tree { view: &view };
        let vm = ResourceId::new("VirtualMachine", "vm-1");
        let summary = property(&tree, &vm, "summary").unwrap();
        assert_eq!(summary.at("config.numCpu"), Some(&Value::int(2)));
        let state = Value::Text("VirtualMachinePowerState", "poweredOn".to_owned());
        assert_eq!((summary.at("runtime.powerState"), summary.at("config.uuid")), (Some(&state), None));
        let name = property(&tree, &ResourceId::new("Datastore", "ds"), "name");
        assert_eq!(name, Some(Value::string("%2fa")));
        for id in all(&view) {
            for name in names(id.resource_type.as_str())
                .iter()
                .filter(|name| !["parent", "resourcePool", "owner"].contains(name))
            {
                assert!(property(&tree, &id, name).is_some(), "{id} {name}");
            }
        }
        assert_eq!(property(&tree, &vm, "nothing"), None);
        assert!(is_a("ClusterComputeResource", "ComputeResource") && !is_a("ContainerView", "ManagedEntity"));
    }
}
