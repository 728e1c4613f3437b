//! What a source tells, put together until it can be written: one entry for each object, whatever happened to it in between.

use std::collections::{HashMap, HashSet};

use lockstep_model::{ResourceId, Value};
use lockstep_query::View;
use lockstep_site::collected::{Incoming, Seen};

use crate::element::Element;
use crate::map::{Mapped, Scope, map};
use crate::object::{Hidden, Ids, Kind, ObjectRef, Update};
use crate::tree::Tree;

/// A measure moves here when it has moved by more than one part in so many there: a datastore's free space would be a change all the time.
const STEADY_PARTS: i64 = 100;

/// Measures that are kept steady: type, property, and the property that the step is a part of.
const STEADY: [(&str, &str, &str); 3] = [
    ("Datastore", "free_space", "capacity"),
    ("VirtualMachine", "storage/committed", "storage/committed"),
    ("VirtualMachine", "storage/uncommitted", "storage/uncommitted"),
];

/// What was told since the last write, by object, in the order in which objects came.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    updates: Vec<Update>,
    by_object: HashMap<ObjectRef, usize>,
    /// Objects that went in a chain of answers and have not come back in it.
    gone: HashSet<ObjectRef>,
    /// Objects that came in the chain.
    entered: HashSet<ObjectRef>,
}

/// Objects that have gone by the end of a chain of answers.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    /// They are not there any more.
    pub(crate) sure: Vec<ObjectRef>,
    /// They came and went in one chain. Which was last is not certain, since an update set has no order within: one that moves may be told
    /// as come before it is told as gone.
    pub(crate) doubtful: Vec<ObjectRef>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) incoming: Vec<Incoming>,
    /// The objects that the resources stand for.
    pub(crate) objects: HashMap<ResourceId, ObjectRef>,
    /// Objects of which a part was told that means nothing alone.
    pub(crate) partial: Vec<ObjectRef>,
}

impl Changes {
    /// How many objects are waiting to be written.
    pub(crate) fn len(&self) -> usize {
        self.updates.len()
    }

    /// Takes an update, and keeps the tree in step with it. Answers what the source hides.
    pub(crate) fn take(&mut self, tree: &mut Tree, mut update: Update) -> Vec<Hidden> {
        let hidden = update.hidden.clone();
        place(tree, &update);
        if update.kind == Kind::Leave {
            if let Some(at) = self.by_object.get(&update.object) {
                // The place is kept, so that the others keep theirs.
                self.updates[*at].told.clear();
                self.updates[*at].kind = Kind::Leave;
            }
            self.gone.insert(update.object);
            return hidden;
        }
        self.gone.remove(&update.object);
        if update.kind == Kind::Enter {
            self.entered.insert(update.object.clone());
        }
        match self.by_object.get(&update.object) {
            Some(at) if update.kind == Kind::Modify && self.updates[*at].kind != Kind::Leave => {
                let before = &mut self.updates[*at];
                before.told.retain(|told| !update.told.iter().any(|newer| newer.path == told.path));
                before.told.append(&mut update.told);
                before.hidden.append(&mut update.hidden);
            }
            Some(at) => self.updates[*at] = update,
            None => {
                self.by_object.insert(update.object.clone(), self.updates.len());
                self.updates.push(update);
            }
        }
        hidden
    }

    /// The objects that have gone, at the end of a chain of answers.
    pub(crate) fn take_gone(&mut self) -> Gone {
        let entered = std::mem::take(&mut self.entered);
        let (doubtful, sure) = self.gone.drain().partition(|object| entered.contains(object));
        Gone { sure, doubtful }
    }

    /// The objects that came since the last time this was asked, or a chain ended.
    pub(crate) fn take_entered(&mut self) -> HashSet<ObjectRef> {
        std::mem::take(&mut self.entered)
    }

    /// What is waiting, with what stands above others first.
    pub(crate) fn batch(&mut self, view: &View, ids: &Ids, tree: &Tree) -> Batch {
        self.by_object.clear();
        let mut updates = std::mem::take(&mut self.updates);
        updates.retain(|update| update.kind != Kind::Leave);
        updates.sort_by_key(|update| (rank(&update.object.kind), tree.depth(&update.object)));
        let scope = Scope { ids, tree };
        let mut batch = Batch::default();
        for update in updates {
            let Some(id) = ids.resource(&update.object) else { continue };
            let is_whole = update.kind == Kind::Enter;
            let Mapped { paths, mut properties, is_partial } = map(&scope, &update, is_whole);
            if is_partial {
                batch.partial.push(update.object.clone());
            }
            if paths.is_empty() && !is_whole {
                continue;
            }
            keep_steady(view, &id, &mut properties);
            batch.objects.insert(id.clone(), update.object);
            batch.incoming.push(Incoming { id, seen: Seen::Present { is_whole, paths, properties } });
        }
        batch
    }
}

/// What stands above others comes before them.
fn rank(kind: &str) -> u8 {
    match kind {
        "Folder" | "StoragePod" | "Datacenter" => 0,
        "ComputeResource" | "ClusterComputeResource" => 1,
        "HostSystem" => 2,
        "ResourcePool" | "VirtualApp" => 3,
        "DistributedVirtualSwitch" | "VmwareDistributedVirtualSwitch" => 4,
        _ => 5,
    }
}

/// Keeps the tree in step with an update of a container.
fn place(tree: &mut Tree, update: &Update) {
    if rank(&update.object.kind) > 3 || &*update.object.kind == "HostSystem" {
        return;
    }
    if update.kind == Kind::Leave {
        tree.remove(&update.object);
        return;
    }
    for told in &update.told {
        let value = told.value.as_ref();
        match &*told.path {
            "parent" => tree.set_parent(&update.object, value.and_then(ObjectRef::read)),
            "host" => {
                let first = value.and_then(|hosts: &Element| hosts.children.first());
                tree.set_host(&update.object, first.and_then(ObjectRef::read));
            }
            _ => {}
        }
    }
}

/// Leaves measures as they are here that have hardly moved.
fn keep_steady(view: &View, id: &ResourceId, properties: &mut serde_json::Map<String, serde_json::Value>) {
    let is_of_type = |(resource_type, ..): &&(&str, &str, &str)| *resource_type == id.resource_type.as_str();
    let mut stored = None;
    for (_, path, of) in STEADY.iter().filter(is_of_type) {
        let names: Vec<&str> = path.split('/').collect();
        let pointer = format!("/{path}");
        let root = serde_json::Value::Object(std::mem::take(properties));
        let new = root.pointer(&pointer).and_then(serde_json::Value::as_i64);
        let whole = root.pointer(&format!("/{of}")).and_then(serde_json::Value::as_i64);
        if let serde_json::Value::Object(back) = root {
            *properties = back;
        }
        let (Some(new), Some(whole)) = (new, whole) else { continue };
        let stored = stored.get_or_insert_with(|| view.get(id).map(|stored| stored.document).unwrap_or_default());
        let Some(Value::Long(old)) = stored.get(path) else { continue };
        if *old != new && old.abs_diff(new) <= (whole / STEADY_PARTS).unsigned_abs() {
            let (last, above) = (names[names.len() - 1], &names[..names.len() - 1]);
            let mut at = &mut *properties;
            for name in above {
                let Some(serde_json::Value::Object(inner)) = at.get_mut(*name) else { return };
                at = inner;
            }
            at.insert(last.to_owned(), (*old).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_journal::StateEntry;
    use lockstep_model::{Position, Registry};

    use super::*;
    use crate::element::tests::element;

    fn view() -> View {
        let mut view = View::new(Registry::new());
        let def = view.registry().type_def("Datastore").unwrap();
        let document = def.read_document(r#"{"name":"a","capacity":1000,"free_space":500}"#).unwrap();
        let (created, modified) = (Position(1), Position(2));
        let id = ResourceId::new("Datastore", "datastore-1");
        view.load(&StateEntry { id, document, created, modified, created_ms: 0, modified_ms: 0 });
        view
    }

    async fn update(object_type: &str, id: &str, kind: &str, changes: &[(&str, &str)]) -> Update {
        let changes: String = changes
            .iter()
            .map(|(name, value)| format!("<changeSet><name>{name}</name><op>assign</op>{value}</changeSet>"))
            .collect();
        let text = format!("<o><kind>{kind}</kind><obj type=\"{object_type}\">{id}</obj>{changes}</o>");
        Update::read(element(&text).await).unwrap()
    }

    fn told(batch: &Batch) -> Vec<(String, bool, String)> {
        let one = |incoming: &Incoming| match &incoming.seen {
            Seen::Present { is_whole, properties, .. } => {
                let json = serde_json::Value::Object(properties.clone()).to_string();
                (incoming.id.id.to_string(), *is_whole, json)
            }
            Seen::Tagged(_) | Seen::LetGo { .. } | Seen::Gone => (incoming.id.id.to_string(), false, "other".into()),
        };
        batch.incoming.iter().map(one).collect()
    }

    #[tokio::test]
    async fn an_object_that_goes_and_comes_back_is_not_deleted() {
        let (view, ids, mut tree, mut changes) = (view(), Ids::default(), Tree::default(), Changes::default());
        let vm = "VirtualMachine";
        for one in [
            update(vm, "vm-1", "modify", &[("name", "<val>a</val>"), ("config.annotation", "<val>x</val>")]).await,
            update(vm, "vm-1", "leave", &[]).await,
            update(vm, "vm-1", "enter", &[("name", "<val>b</val>")]).await,
            update(vm, "vm-1", "modify", &[("name", "<val>c</val>")]).await,
            update(vm, "vm-2", "enter", &[("name", "<val>d</val>")]).await,
            update(vm, "vm-2", "leave", &[]).await,
            update(vm, "vm-3", "modify", &[("name", "<val>d</val>")]).await,
            update(vm, "vm-3", "leave", &[]).await,
            update("Folder", "group-v1", "enter", &[("name", "<val>e</val>")]).await,
            update("Task", "task-1", "enter", &[("name", "<val>e</val>")]).await,
        ] {
            changes.take(&mut tree, one);
        }
        let batch = changes.batch(&view, &ids, &tree);
        let expected = [
            ("group-v1".to_owned(), true, r#"{"name":"e"}"#.to_owned()),
            ("vm-1".to_owned(), true, r#"{"name":"c"}"#.to_owned()),
        ];
        assert_eq!(told(&batch), expected);
        let gone = changes.take_gone();
        let ids = |objects: &[ObjectRef]| objects.iter().map(|object| object.id.to_string()).collect::<Vec<_>>();
        assert_eq!((ids(&gone.sure), ids(&gone.doubtful)), (vec!["vm-3".to_owned()], vec!["vm-2".to_owned()]));
        assert_eq!(changes.len(), 0);
    }

    #[tokio::test]
    async fn a_measure_that_hardly_moved_stays() {
        let (view, ids, mut tree, mut changes) = (view(), Ids::default(), Tree::default(), Changes::default());
        for (free, expected) in [(495, 500), (505, 500), (490, 500), (489, 489), (0, 0)] {
            let summary = format!("<val><capacity>1000</capacity><freeSpace>{free}</freeSpace></val>");
            let one = update("Datastore", "datastore-1", "modify", &[("summary", &summary)]).await;
            changes.take(&mut tree, one);
            let batch = changes.batch(&view, &ids, &tree);
            assert_eq!(told(&batch)[0].2, format!(r#"{{"capacity":1000,"free_space":{expected}}}"#));
        }
    }
}
