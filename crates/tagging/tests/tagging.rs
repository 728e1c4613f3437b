//! The rules of tagging, against a real site: what is refused, what goes along, what races may not do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lockstep_contract::{Data, Encoding, Error, ErrorKind, PlainJson};
use lockstep_journal::{Operation, redo};
use lockstep_model::{Document, Position, ResourceId, Value as Stored};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use serde_json::{Value, json};
use tempfile::TempDir;

const CATEGORY: &str = "com.vmware.cis.tagging.category";
const TAG: &str = "com.vmware.cis.tagging.tag";
const ASSOCIATION: &str = "com.vmware.cis.tagging.tag_association";

#[derive(Clone)]
struct House {
    site: Arc<Site>,
    table: Arc<Table>,
    _dir: Arc<TempDir>,
}

impl House {
    fn open() -> Self {
        let dir = TempDir::new().unwrap();
        let config = lockstep_site::Config {
            name: "test".to_owned(),
            data_dir: dir.path().to_owned(),
            journal: lockstep_journal::Config::default(),
            query_limits: lockstep_query::Limits::default(),
            sessions: lockstep_site::sessions::SessionLimits::default(),
            epoch_types: Vec::new(),
        };
        let site = Site::open(config, &mut |_| {}).unwrap();
        let mut table = Table::default();
        lockstep_site::register(&mut table);
        lockstep_tagging::register(&mut table);
        Self { site, table: Arc::new(table), _dir: Arc::new(dir) }
    }

    async fn call(&self, service: &str, operation: &str, input: Value) -> Result<Value, Error> {
        let entry = &self.table.entries()[self.table.find(service, operation).unwrap()];
        let context = Context { site: self.site.clone(), caller: Caller::Server("test"), operation_id: "test".into() };
        let data = Data::from_json(input.to_string().as_bytes()).unwrap();
        let answer = entry.call(context, data, Encoding::Plain, false).await?;
        let mut w = PlainJson::default();
        answer.value.encode(&mut w);
        Ok(serde_json::from_slice(&w.out).unwrap())
    }

    async fn category(&self, name: &str, cardinality: &str, types: &[&str]) -> String {
        let spec = json!({"name": name, "description": "", "cardinality": cardinality, "associable_types": types});
        self.call(CATEGORY, "create", json!({ "create_spec": spec })).await.unwrap().as_str().unwrap().to_owned()
    }

    async fn try_tag(&self, name: &str, category: &str) -> Result<String, Error> {
        let spec = json!({"name": name, "description": "d", "category_id": category});
        let id = self.call(TAG, "create", json!({ "create_spec": spec })).await?;
        Ok(id.as_str().unwrap().to_owned())
    }

    async fn tag(&self, name: &str, category: &str) -> String {
        self.try_tag(name, category).await.unwrap()
    }

    async fn resource(&self, resource_type: &str, id: &str, properties: Value) {
        let input = json!({"type": resource_type, "id": id, "properties": properties});
        self.call("lockstep.resources", "create", input).await.unwrap();
    }

    async fn vms(&self, count: usize) {
        for n in 0..count {
            self.resource("VirtualMachine", &format!("vm-{n}"), json!({ "name": format!("v{n}") })).await;
        }
    }

    async fn attach(&self, tag: &str, object: Value) -> Result<(), Error> {
        self.call(ASSOCIATION, "attach", json!({"tag_id": tag, "object_id": object})).await.map(drop)
    }

    async fn detach(&self, tag: &str, object: Value) -> Result<(), Error> {
        self.call(ASSOCIATION, "detach", json!({"tag_id": tag, "object_id": object})).await.map(drop)
    }

    async fn tags_of(&self, object: Value) -> Value {
        self.call(ASSOCIATION, "list_attached_tags", json!({ "object_id": object })).await.unwrap()
    }

    async fn objects_of(&self, tag: &str) -> Result<Value, Error> {
        self.call(ASSOCIATION, "list_attached_objects", json!({ "tag_id": tag })).await
    }

    async fn properties(&self, resource_type: &str, id: &str) -> Value {
        let input = json!({"type": resource_type, "id": id});
        self.call("lockstep.resources", "get", input).await.unwrap()["properties"].clone()
    }

    /// How many commits a call made, whatever it came to.
    async fn commits<T>(&self, call: impl Future<Output = T>) -> (T, u64) {
        let before = self.site.position();
        let outcome = call.await;
        (outcome, self.site.position().0 - before.0)
    }
}

fn vm(n: usize) -> Value {
    json!({"type": "VirtualMachine", "id": format!("vm-{n}")})
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind
}

#[tokio::test]
async fn an_attachment_is_the_objects_list_read_either_way_and_made_once() {
    let house = House::open();
    house.vms(2).await;
    let category = house.category("tier", "MULTIPLE", &[]).await;
    assert!(category.starts_with("urn:vmomi:InventoryServiceCategory:") && category.ends_with(":GLOBAL"), "{category}");
    let (gold, cheap) = (house.tag("gold", &category).await, house.tag("cheap", &category).await);

    for (expected, object) in [(1, vm(0)), (0, vm(0)), (1, vm(1))] {
        let (done, commits) = house.commits(house.attach(&gold, object)).await;
        assert_eq!((done.is_ok(), commits), (true, expected));
    }
    house.attach(&cheap, vm(0)).await.unwrap();
    assert_eq!(house.tags_of(vm(0)).await, json!([gold, cheap]));
    assert_eq!(house.objects_of(&gold).await.unwrap(), json!([vm(0), vm(1)]));
    let reference = |id: &str| json!({"type": "Tag", "id": id});
    let vm_0 = house.properties("VirtualMachine", "vm-0").await;
    assert_eq!(vm_0, json!({"name": "v0", "tags": [reference(&gold), reference(&cheap)]}));

    // A collector writes what it owns, an import the list itself.
    let patch = json!({"type": "VirtualMachine", "id": "vm-0", "properties": {"name": "renamed"}});
    house.call("lockstep.resources", "patch", patch).await.unwrap();
    assert_eq!(house.tags_of(vm(0)).await, json!([gold, cheap]));
    house.resource("HostSystem", "h", json!({"tags": [reference(&cheap), reference(&cheap), reference("gone")]})).await;
    let host = json!({"type": "HostSystem", "id": "h"});
    assert_eq!(house.tags_of(host.clone()).await, json!([cheap]));
    assert_eq!(house.objects_of(&cheap).await.unwrap(), json!([host, vm(0)]));

    for expected in [1, 0] {
        let (done, commits) = house.commits(house.detach(&cheap, host.clone())).await;
        assert_eq!((done.is_ok(), commits), (true, expected));
    }
    assert_eq!(house.properties("HostSystem", "h").await, json!({"tags": [reference("gone")]}));
    house.detach(&gold, vm(1)).await.unwrap();
    assert_eq!(house.properties("VirtualMachine", "vm-1").await, json!({"name": "v1"}), "as if nothing had been");

    // An object that goes takes its attachments along.
    house.call("lockstep.resources", "delete", json!({"type": "VirtualMachine", "id": "vm-0"})).await.unwrap();
    assert_eq!(house.objects_of(&gold).await.unwrap(), json!([]));
    assert_eq!(house.tags_of(vm(0)).await, json!([]));
}

#[tokio::test]
async fn what_goes_takes_its_attachments_along_in_one_commit_whoever_deletes_it() {
    let house = House::open();
    house.vms(3).await;
    let category = house.category("tier", "MULTIPLE", &[]).await;
    let mut tags = Vec::new();
    for name in ["a", "b", "c"] {
        let tag = house.tag(name, &category).await;
        house.attach(&tag, vm(0)).await.unwrap();
        house.attach(&tag, vm(1)).await.unwrap();
        tags.push(tag);
    }
    let (done, commits) = house.commits(house.call(TAG, "delete", json!({"tag_id": tags[0]}))).await;
    assert_eq!((done.is_ok(), commits), (true, 1));
    assert_eq!(house.tags_of(vm(0)).await, json!(tags[1..]));
    assert_eq!(kind(house.objects_of(&tags[0]).await), ErrorKind::NotFound);
    let plain = json!({"type": "Tag", "id": tags[1]});
    let (done, commits) = house.commits(house.call("lockstep.resources", "delete", plain)).await;
    assert_eq!((done.is_ok(), commits), (true, 1));
    let stored = house.properties("VirtualMachine", "vm-1").await;
    assert_eq!(stored["tags"], json!([{"type": "Tag", "id": tags[2]}]));
    let (done, commits) = house.commits(house.call(CATEGORY, "delete", json!({"category_id": category}))).await;
    assert_eq!((done.is_ok(), commits), (true, 1));
    assert_eq!(house.properties("VirtualMachine", "vm-1").await, json!({"name": "v1"}));
    assert_eq!(house.call(TAG, "list", json!({})).await.unwrap(), json!([]));
    assert_eq!(kind(house.call(CATEGORY, "delete", json!({"category_id": category})).await), ErrorKind::NotFound);
    assert_eq!(kind(house.call(TAG, "delete", json!({"tag_id": tags[2]})).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn cardinality_and_associable_types_are_held_to() {
    let house = House::open();
    house.vms(2).await;
    house.resource("HostSystem", "h", json!({})).await;
    let single = house.category("tier", "SINGLE", &["VirtualMachine"]).await;
    let (gold, silver) = (house.tag("gold", &single).await, house.tag("silver", &single).await);
    let host = json!({"type": "HostSystem", "id": "h"});
    assert_eq!(kind(house.attach(&gold, host.clone()).await), ErrorKind::InvalidArgument);
    house.attach(&gold, vm(0)).await.unwrap();
    let (refused, commits) = house.commits(house.attach(&silver, vm(0))).await;
    assert_eq!((kind(refused), commits), (ErrorKind::InvalidArgument, 0));
    let attachable = |object: Value| {
        let house = house.clone();
        async move {
            let input = json!({ "object_id": object });
            house.call(ASSOCIATION, "list_attachable_tags", input).await.unwrap().as_array().unwrap().len()
        }
    };
    assert_eq!((attachable(vm(0)).await, attachable(vm(1)).await, attachable(host.clone()).await), (0, 2, 0));

    // Batches do what fits, and say what does not.
    let input = json!({"object_id": vm(1), "tag_ids": [silver, "no-tag", gold, silver]});
    let (result, commits) = house.commits(house.call(ASSOCIATION, "attach_multiple_tags_to_object", input)).await;
    let result = result.unwrap();
    assert_eq!((&result["success"], commits), (&json!(false), 1), "{result}");
    let ids: Vec<_> = result["error_messages"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, ["lockstep.tagging.tag_not_found", "lockstep.tagging.invalid"]);
    assert_eq!(house.tags_of(vm(1)).await, json!([silver]));
    let input = json!({"tag_id": gold, "object_ids": [vm(0), vm(1), host, vm(9), {"type": "Tag", "id": gold}]});
    let (result, commits) = house.commits(house.call(ASSOCIATION, "attach_tag_to_multiple_objects", input)).await;
    let result = result.unwrap();
    assert_eq!((result["error_messages"].as_array().unwrap().len(), commits), (4, 0), "{result}");
    let input = json!({"tag_id": silver, "object_ids": [vm(0), vm(1)]});
    let result = house.call(ASSOCIATION, "detach_tag_from_multiple_objects", input).await.unwrap();
    assert_eq!(result, json!({"success": true, "error_messages": []}));
    assert_eq!(house.tags_of(vm(1)).await, json!([]));

    // What is allowed can only grow, and be made narrower only while nobody notices.
    let update = |spec: Value| house.call(CATEGORY, "update", json!({"category_id": single, "update_spec": spec}));
    assert_eq!(kind(update(json!({"associable_types": ["HostSystem"]})).await), ErrorKind::InvalidArgument);
    update(json!({"associable_types": ["HostSystem", "VirtualMachine"], "cardinality": "MULTIPLE"})).await.unwrap();
    let (same, commits) = house.commits(update(json!({"associable_types": ["VirtualMachine", "HostSystem"]}))).await;
    assert_eq!((same.is_ok(), commits), (true, 0));
    house.attach(&silver, vm(0)).await.unwrap();
    assert_eq!(kind(update(json!({"cardinality": "SINGLE"})).await), ErrorKind::InvalidArgument);
    house.detach(&gold, vm(0)).await.unwrap();
    update(json!({"cardinality": "SINGLE", "associable_types": []})).await.unwrap();
    assert_eq!(kind(update(json!({"associable_types": ["HostSystem"]})).await), ErrorKind::InvalidArgument);
    let model = house.call(CATEGORY, "get", json!({"category_id": single})).await.unwrap();
    let expected = json!({"id": single, "name": "tier", "description": "", "cardinality": "SINGLE",
        "associable_types": [], "used_by": []});
    assert_eq!(model, expected);
}

#[tokio::test]
async fn names_are_unique_and_ids_may_be_chosen() {
    let house = House::open();
    let (a, b) = (house.category("a", "SINGLE", &[]).await, house.category("b", "SINGLE", &[]).await);
    let spec = json!({"name": "a", "description": "", "cardinality": "SINGLE", "associable_types": []});
    assert_eq!(kind(house.call(CATEGORY, "create", json!({ "create_spec": spec })).await), ErrorKind::AlreadyExists);
    let gold = house.tag("gold", &a).await;
    assert_eq!(kind(house.try_tag("gold", &a).await), ErrorKind::AlreadyExists);
    house.tag("gold", &b).await;
    let other = house.tag("Gold", &a).await;
    let rename = |id: &str, name: &str| house.call(TAG, "update", json!({"tag_id": id, "update_spec": {"name": name}}));
    assert_eq!(kind(rename(&other, "gold").await), ErrorKind::AlreadyExists);
    rename(&gold, "gold").await.unwrap();
    rename(&gold, "golden").await.unwrap();
    rename(&other, "gold").await.unwrap();
    let update = json!({"category_id": b, "update_spec": {"name": "a"}});
    assert_eq!(kind(house.call(CATEGORY, "update", update).await), ErrorKind::AlreadyExists);
    let (empty, commits) = house.commits(house.call(TAG, "update", json!({"tag_id": gold, "update_spec": {}}))).await;
    assert_eq!((empty.is_ok(), commits), (true, 0));

    let chosen = |id: &str, name: &str| {
        let spec = json!({"name": name, "description": "", "category_id": a, "tag_id": id});
        house.call(TAG, "create", json!({ "create_spec": spec }))
    };
    assert_eq!(chosen("tag-7", "seven").await.unwrap(), "tag-7");
    assert_eq!(kind(chosen("tag-7", "eight").await), ErrorKind::AlreadyExists);
    assert_eq!(kind(chosen("", "nine").await), ErrorKind::InvalidArgument);
    assert_eq!(kind(house.try_tag("x", "no-category").await), ErrorKind::NotFound);
    let in_a = house.call(TAG, "list_tags_for_category", json!({"category_id": a})).await.unwrap();
    assert_eq!(in_a.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn users_are_noted_once_and_imports_need_not_keep_the_rules() {
    let house = House::open();
    let category = house.category("tier", "SINGLE", &[]).await;
    for (operation, expected) in [("add_to_used_by", 1), ("add_to_used_by", 0), ("remove_from_used_by", 1)] {
        let input = json!({"category_id": category, "used_by_entity": "backup"});
        let (done, commits) = house.commits(house.call(CATEGORY, operation, input)).await;
        assert_eq!((done.is_ok(), commits), (true, expected), "{operation}");
        let used = house.call(CATEGORY, "list_used_categories", json!({"used_by_entity": "backup"})).await.unwrap();
        assert_eq!(used.as_array().unwrap().len(), usize::from(operation == "add_to_used_by"));
    }
    // Two of one name, a category that says nothing of itself, and a tag of a category that is not there.
    house.resource("TagCategory", "c-1", json!({})).await;
    house.resource("TagCategory", "c-2", json!({"name": "tier"})).await;
    house.resource("Tag", "t-1", json!({"name": "x", "category": {"type": "TagCategory", "id": "gone"}})).await;
    house.resource("Tag", "t-2", json!({})).await;
    house.vms(1).await;
    house.attach("t-1", vm(0)).await.unwrap();
    house.attach("t-2", vm(0)).await.unwrap();
    assert_eq!(house.tags_of(vm(0)).await, json!(["t-1", "t-2"]));
    let bare = house.call(CATEGORY, "get", json!({"category_id": "c-1"})).await.unwrap();
    assert_eq!((&bare["cardinality"], &bare["name"]), (&json!("MULTIPLE"), &json!("")));
    let bare = house.call(TAG, "get", json!({"tag_id": "t-2"})).await.unwrap();
    assert_eq!(bare, json!({"id": "t-2", "category_id": "", "name": "", "description": "", "used_by": []}));
    let all = house.call(CATEGORY, "list", json!({})).await.unwrap();
    assert_eq!(all.as_array().unwrap().len(), 3);
}

/// What must hold after every commit of the log, when all that was done was done by the service.
fn check_log(site: &Site) {
    let mut state: BTreeMap<ResourceId, Document> = BTreeMap::new();
    let mut after = Position::ZERO;
    while let Some(last) = {
        let commits = site.journal().read(after, 1 << 20).unwrap();
        for commit in &commits {
            for change in &commit.changes {
                match &change.operation {
                    Operation::Create(document) => _ = state.insert(change.id.clone(), document.clone()),
                    Operation::Update(leaves) => redo(state.get_mut(&change.id).unwrap(), leaves),
                    Operation::Delete(_) => _ = state.remove(&change.id),
                }
            }
            check_state(&state);
        }
        commits.last().map(|commit| commit.position)
    } {
        after = last;
    }
}

fn check_state(state: &BTreeMap<ResourceId, Document>) {
    let mut names = BTreeSet::new();
    let text = |d: &Document, path: &str| d.get(path).and_then(Stored::as_str).unwrap_or_default().to_owned();
    let category_of = |tag: &ResourceId| match state[tag].get("category") {
        Some(Stored::Id(id)) => (**id).clone(),
        other => panic!("{tag} is of {other:?}"),
    };
    for (id, document) in state {
        match id.resource_type.as_str() {
            "TagCategory" => assert!(names.insert((None, text(document, "name"))), "{id}"),
            "Tag" => {
                let category = category_of(id);
                assert!(state.contains_key(&category), "{id} is of {category}, which is gone");
                assert!(names.insert((Some(category), text(document, "name"))), "{id}");
            }
            _ => {
                let mut of_single = BTreeSet::new();
                let Some(Stored::List(tags)) = document.get("tags") else { continue };
                for tag in tags {
                    let Stored::Id(tag) = tag else { panic!("{tag:?}") };
                    assert!(state.contains_key(&**tag), "{id} has {tag}, which is gone");
                    let category = category_of(tag);
                    if text(&state[&category], "cardinality") == "SINGLE" {
                        assert!(of_single.insert(category), "{id} has two tags of one category");
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_create_one_name_one_succeeds() {
    let house = House::open();
    for round in 0..20 {
        let create = |_| {
            let (house, name) = (house.clone(), format!("c{round}"));
            tokio::spawn(async move {
                let spec = json!({"name": name, "description": "", "cardinality": "SINGLE", "associable_types": []});
                house.call(CATEGORY, "create", json!({ "create_spec": spec })).await
            })
        };
        let created: Vec<_> = (0..4).map(create).collect();
        let mut ids = Vec::new();
        for one in created {
            match one.await.unwrap() {
                Ok(id) => ids.push(id.as_str().unwrap().to_owned()),
                Err(error) => assert_eq!(error.kind, ErrorKind::AlreadyExists),
            }
        }
        let [category] = &ids[..] else { panic!("{ids:?}") };
        let create = |_| {
            let (house, category) = (house.clone(), category.clone());
            tokio::spawn(async move { house.try_tag("gold", &category).await })
        };
        let created: Vec<_> = (0..4).map(create).collect();
        let mut count = 0;
        for one in created {
            count += usize::from(one.await.unwrap().is_ok());
        }
        assert_eq!(count, 1);
    }
    check_log(&house.site);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_meets_whatever_every_commit_leaves_the_rules_whole() {
    const VMS: usize = 6;
    let house = House::open();
    house.vms(VMS).await;
    let categories = ["one", "two", "three"];
    // A few names, so that everybody meets everybody.
    let work = |seed: u64| {
        let house = house.clone();
        async move {
            let mut state = seed;
            let mut next = |limit: usize| {
                // An xorshift generator: the same work for the same seed.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % limit as u64) as usize
            };
            for _ in 0..150 {
                let (category, tag) = (categories[next(3)], format!("{}-t{}", categories[next(3)], next(3)));
                let cardinality = ["SINGLE", "MULTIPLE"][next(2)];
                let object = vm(next(VMS));
                let outcome = match next(10) {
                    0 => {
                        let spec = json!({"name": category, "description": "", "cardinality": cardinality,
                            "associable_types": [], "category_id": category});
                        house.call(CATEGORY, "create", json!({ "create_spec": spec })).await.map(drop)
                    }
                    1 | 2 => {
                        let of = tag.split('-').next().unwrap();
                        let name = ["red", "blue"][next(2)];
                        let spec = json!({"name": name, "description": "", "category_id": of, "tag_id": tag});
                        house.call(TAG, "create", json!({ "create_spec": spec })).await.map(drop)
                    }
                    3 => house.call(TAG, "delete", json!({ "tag_id": tag })).await.map(drop),
                    4 if next(3) == 0 => {
                        house.call(CATEGORY, "delete", json!({ "category_id": category })).await.map(drop)
                    }
                    4 => {
                        let spec = json!({ "cardinality": cardinality });
                        let input = json!({"category_id": category, "update_spec": spec});
                        house.call(CATEGORY, "update", input).await.map(drop)
                    }
                    5 => house.detach(&tag, object).await,
                    6 => {
                        let objects: Vec<_> = (0..VMS).map(vm).collect();
                        let input = json!({"tag_id": tag, "object_ids": objects});
                        house.call(ASSOCIATION, "attach_tag_to_multiple_objects", input).await.map(drop)
                    }
                    7 => {
                        let properties = json!({"uptime_seconds": next(1000)});
                        let input = json!({"type": "VirtualMachine", "id": object["id"], "properties": properties});
                        house.call("lockstep.resources", "patch", input).await.map(drop)
                    }
                    _ => house.attach(&tag, object).await,
                };
                if let Err(error) = outcome {
                    let expected = [ErrorKind::NotFound, ErrorKind::AlreadyExists, ErrorKind::InvalidArgument];
                    assert!(expected.contains(&error.kind), "{error:?}");
                }
            }
        }
    };
    let running: Vec<_> = (1..=4u64).map(|n| tokio::spawn(work(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))).collect();
    for one in running {
        one.await.unwrap();
    }
    check_log(&house.site);
    // Both directions tell the same.
    for tag in house.call(TAG, "list", json!({})).await.unwrap().as_array().unwrap() {
        let objects = house.objects_of(tag.as_str().unwrap()).await.unwrap();
        for n in 0..VMS {
            let has = house.tags_of(vm(n)).await.as_array().unwrap().contains(tag);
            assert_eq!(has, objects.as_array().unwrap().contains(&vm(n)), "{tag} of vm-{n}");
        }
    }
}
