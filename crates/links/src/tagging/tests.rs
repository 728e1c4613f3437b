//! Sites that edit tagging, each with its own journal, and a network between them that delays, reorders, doubles and loses what it carries.
//!
//! A message is a frame as one site fills it for another: a page of state, or what changed since a moment. Whatever happened before, once all
//! have heard of all, they are to be equal, and each edit that was acknowledged is in force, was overwritten by whoever saw it, or is kept
//! as lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use lockstep_client::{Client, Config, Login, Trust};
use lockstep_contract::services::links::tagging::{ConflictsInput, Reason};
use lockstep_contract::{Data, Encoding, Error, ErrorKind, Secret};
use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAG_CONFLICT, TAG_STAMPS, TAGS};
use lockstep_model::{Document, Position, ResourceId, Value as Stored};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::linked::{self, Incoming};
use lockstep_site::put;
use lockstep_site::stamps::{DELETED, GONE, Stamp, Stamps, is_edited_whole, listed, stamped};
use lockstep_site::table::{Context, Table};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{apply, conflicts, serve};
use crate::inventory::frame::{Frame, FrameWriter};
use crate::inventory::set::TAGGING;
use crate::{LinkId, Run};

const CATEGORY: &str = "com.vmware.cis.tagging.category";
const TAG_SERVICE: &str = "com.vmware.cis.tagging.tag";
const ASSOCIATION: &str = "com.vmware.cis.tagging.tag_association";

/// Enough like random.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }
}

/// A register of some resource, by what the resource's own site calls it.
type Edit = (ResourceId, String, Stamp);

struct House {
    name: String,
    site: Arc<Site>,
    table: Arc<Table>,
    dir: TempDir,
    registers: BTreeMap<ResourceId, Stamps>,
}

fn open(dir: &TempDir, name: &str) -> Arc<Site> {
    let config = lockstep_site::Config {
        name: name.to_owned(),
        data_dir: dir.path().to_owned(),
        journal: lockstep_journal::Config::default(),
        query_limits: lockstep_query::Limits::default(),
        sessions: lockstep_site::sessions::SessionLimits::default(),
        epoch_types: Vec::new(),
    };
    Site::open(config, &mut |_| {}).unwrap()
}

impl House {
    fn new(name: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let site = open(&dir, name);
        let mut table = Table::default();
        lockstep_site::register(&mut table);
        lockstep_tagging::register(&mut table);
        Self { name: name.to_owned(), site, table: Arc::new(table), dir, registers: BTreeMap::new() }
    }

    /// Stops and starts.
    async fn reopen(&mut self) {
        let old = self.site.clone();
        tokio::task::spawn_blocking(move || old.close()).await.unwrap();
        self.site = open(&self.dir, &self.name);
    }

    fn log(&self) -> String {
        format!("{:016x}", self.site.origin().epoch)
    }

    async fn link(&self, link: &LinkId, peer: &Self) {
        let mut document = Document::default();
        document.set("domain_name", Some(Stored::from(&*peer.name)));
        document.set("peer_log", Some(Stored::from(&*peer.log())));
        let change = Change { id: link.resource(), operation: Operation::Create(document), parents: Arc::from([]) };
        let batch = Batch { author: "test".into(), changes: vec![(change, Expect::Absent)], relies_on: Vec::new() };
        self.site.commit(batch).await.unwrap();
    }

    fn run(&self, link: &LinkId, peer: &Self) -> Run {
        // Nobody is called: frames are carried by hand.
        let config = Config {
            url: "http://127.0.0.1:9".to_owned(),
            login: Login::Token(Secret("t".to_owned())),
            trust: Trust::Anything,
        };
        Run::new(self.site.clone(), Client::new(config).unwrap(), link.clone(), peer.name.clone(), TAGGING)
    }

    async fn call(&self, service: &str, operation: &str, input: Value) -> Result<Value, Error> {
        let entry = &self.table.entries()[self.table.find(service, operation).unwrap()];
        let context = self.context();
        let data = Data::from_json(input.to_string().as_bytes()).unwrap();
        let answer = entry.call(context, data, Encoding::Plain, false).await?;
        let mut w = lockstep_contract::PlainJson::default();
        answer.value.encode(&mut w);
        Ok(serde_json::from_slice(&w.out).unwrap())
    }

    fn context(&self) -> Context {
        Context { site: self.site.clone(), caller: Caller::Server("test"), operation_id: "test".into() }
    }

    async fn category(&self, name: &str, cardinality: &str) -> String {
        let spec = json!({"name": name, "description": "", "cardinality": cardinality, "associable_types": []});
        self.call(CATEGORY, "create", json!({ "create_spec": spec })).await.unwrap().as_str().unwrap().to_owned()
    }

    async fn tag(&self, name: &str, category: &str) -> String {
        let spec = json!({"name": name, "description": "", "category_id": category});
        self.call(TAG_SERVICE, "create", json!({ "create_spec": spec })).await.unwrap().as_str().unwrap().to_owned()
    }

    /// Waits until an edit here is later than all that the other has made: within a millisecond, neither is.
    async fn outlast(&self, other: &Self) {
        let now = other.site.journal().now_ms();
        while self.site.journal().now_ms() <= now {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    async fn pair(&self, what: &str, tag: &str, vm: &str) -> Result<(), Error> {
        let object = json!({"type": "VirtualMachine", "id": vm});
        self.call(ASSOCIATION, what, json!({"tag_id": tag, "object_id": object})).await.map(drop)
    }

    async fn vm(&self, id: &str, properties: &str) {
        let id = ResourceId::new("VirtualMachine", id);
        self.site.replace_resource("test".into(), id, properties, None).await.unwrap();
    }

    fn ids(&self, resource_type: &str) -> Vec<String> {
        self.site.view().ids(resource_type, None).map(|id| id.id.into()).collect()
    }

    fn tags_of(&self, vm: &str) -> BTreeSet<String> {
        let view = self.site.view();
        let stored = view.get(&ResourceId::new("VirtualMachine", vm));
        let tags = stored.map(|stored| listed(&stored.document)).unwrap_or_default();
        tags.into_iter().filter(|tag| view.modified(tag).is_some()).map(|tag| tag.id.into()).collect()
    }

    fn get(&self, resource_type: &str, id: &str) -> Option<Document> {
        self.site.view().get(&ResourceId::new(resource_type, id)).map(|stored| stored.document)
    }

    fn text(&self, resource_type: &str, id: &str, path: &str) -> String {
        let document = self.get(resource_type, id).unwrap();
        document.get(path).and_then(Stored::as_str).unwrap_or_default().to_owned()
    }

    fn conflicts(&self) -> Vec<(Reason, String, String)> {
        let all = conflicts::list(&self.context(), &ConflictsInput { limit: None }).unwrap();
        all.into_iter().map(|one| (one.reason, one.property, one.lost)).collect()
    }

    /// All that is known here for the other site, in frames.
    fn state(&self, link: &LinkId) -> Vec<Frame> {
        let view = self.site.view();
        let (mut frames, mut after) = (Vec::new(), None);
        loop {
            let mut frame = FrameWriter::default();
            after = serve::page(&view, link, after.as_ref(), &mut frame);
            frames.push(Frame::open(&frame.finish()).unwrap());
            if after.is_none() {
                return frames;
            }
        }
    }

    /// What changed since a moment, for the other site.
    fn since(&self, link: &LinkId, after: Position) -> Frame {
        let mut frame = FrameWriter::default();
        let mut told = HashSet::new();
        let mut at = after;
        loop {
            let commits = self.site.journal().read(at, 1 << 20).unwrap();
            let Some(last) = commits.last() else { return Frame::open(&frame.finish()).unwrap() };
            at = last.position;
            let view = self.site.view();
            for change in commits.iter().flat_map(|commit| &commit.changes) {
                serve::tell(link, change, &view, &mut frame, &mut told);
            }
        }
    }
}

/// What a copy has of its original.
async fn copy(from: &House, to: &House, link: &LinkId) {
    let prefix = format!("{}~", from.name);
    let incoming = {
        let (view, there) = (to.site.view(), from.site.view());
        let def = view.registry().type_def("VirtualMachine").unwrap().clone();
        let mut incoming: Vec<Incoming> = Vec::new();
        for original in there.resources("VirtualMachine", None).filter(|vm| vm.linked_from().is_none()) {
            let mut document = there.get(&original.resource_id()).unwrap().document;
            document.set(TAGS, None);
            let id = ResourceId::new("VirtualMachine", format!("{prefix}{}", original.id()));
            incoming.push(Incoming { id, present: Some((def.clone(), document)) });
        }
        let is_gone = |id: &ResourceId| {
            let own = id.id.strip_prefix(&*prefix).unwrap();
            there.modified(&ResourceId::new("VirtualMachine", own)).is_none()
        };
        let gone = view.ids("VirtualMachine", None).filter(|id| id.id.starts_with(&prefix)).filter(is_gone);
        incoming.extend(gone.map(|id| Incoming { id, present: None }));
        incoming
    };
    let changes = linked::plan(&to.site.view(), &link.resource(), incoming).unwrap();
    if !changes.is_empty() {
        to.site.commit(Batch { author: "link".into(), changes, relies_on: Vec::new() }).await.unwrap();
    }
}

/// Sites, the links between them, and what was acknowledged.
struct World {
    houses: Vec<House>,
    links: Vec<(usize, usize, LinkId)>,
    acknowledged: Vec<(Edit, serde_json::Value)>,
    /// What somebody who saw it has overwritten or deleted.
    overwritten: HashSet<Edit>,
}

impl World {
    async fn new(count: usize, pairs: &[(usize, usize)]) -> Self {
        let houses: Vec<House> = (0..count).map(|n| House::new(&format!("s{n}"))).collect();
        let mut links = Vec::new();
        for (a, b) in pairs {
            let link = LinkId::new(format!("link-{a}{b}"));
            houses[*a].link(&link, &houses[*b]).await;
            houses[*b].link(&link, &houses[*a]).await;
            links.push((*a, *b, link));
        }
        Self { houses, links, acknowledged: Vec::new(), overwritten: HashSet::new() }
    }

    /// Each link in both directions: who asks, whom, over which.
    fn ways(&self) -> Vec<(usize, usize, LinkId)> {
        self.links.iter().flat_map(|(a, b, link)| [(*a, *b, link.clone()), (*b, *a, link.clone())]).collect()
    }

    async fn deliver(&mut self, to: usize, from: usize, link: &LinkId, frame: &Frame) {
        let run = self.houses[to].run(link, &self.houses[from]);
        apply::frame(&run, frame).await.unwrap();
        self.note(to);
    }

    async fn copy(&mut self, to: usize, from: usize, link: &LinkId) {
        copy(&self.houses[from], &self.houses[to], link).await;
        self.note(to);
    }

    /// What the own site of a resource calls it.
    fn home(id: &ResourceId) -> ResourceId {
        match id.id.split_once('~') {
            Some((_, own)) if !is_edited_whole(id) => ResourceId::new(id.resource_type.clone(), own),
            _ => id.clone(),
        }
    }

    /// Notes which edits a site has made since, and what it overwrote by them.
    fn note(&mut self, at: usize) {
        let log = self.houses[at].log();
        let now: BTreeMap<ResourceId, Stamps> = {
            let view = self.houses[at].site.view();
            let stamped = view.ids(TAG_STAMPS, None).filter_map(|id| stamped(&id.id));
            stamped.map(|id| (id.clone(), Stamps::of(&view, &id))).collect()
        };
        for (id, stamps) in &now {
            let old = self.houses[at].registers.get(id).cloned().unwrap_or_default();
            let home = Self::home(id);
            let mut is_deletion = false;
            for (key, register) in &stamps.is {
                let before = old.is.get(key);
                // Another edit did the same: there is nothing to be lost.
                let same = before.filter(|before| before.value == register.value && **before != *register);
                self.overwritten.extend(same.map(|is| (home.clone(), key.clone(), is.stamp.clone())));
                if before == Some(register) || *register.stamp.site != *log || old.has_seen(&register.stamp) {
                    continue;
                }
                self.acknowledged.push(((home.clone(), key.clone(), register.stamp.clone()), register.value.clone()));
                self.overwritten.extend(before.map(|is| (home.clone(), key.clone(), is.stamp.clone())));
                // What did the same as another edit has been seen, and is in no register.
                let is_seen = |edit: &&Edit| edit.0 == home && edit.1 == *key && old.has_seen(&edit.2);
                let seen: Vec<Edit> = self.acknowledged.iter().map(|(edit, _)| edit).filter(is_seen).cloned().collect();
                self.overwritten.extend(seen);
                is_deletion |= matches!(&**key, DELETED | GONE);
            }
            if is_deletion {
                // Whoever deletes has seen all edits of it; and what a tag is attached to.
                let is_seen = |edit: &&Edit| edit.0 == home && old.has_seen(&edit.2);
                let seen: Vec<Edit> = self.acknowledged.iter().map(|(edit, _)| edit).filter(is_seen).cloned().collect();
                self.overwritten.extend(seen);
                for (object, stamps) in &self.houses[at].registers {
                    if let (TAG, Some(is)) = (id.resource_type.as_str(), stamps.is.get(&*id.id)) {
                        let object = Self::home(object);
                        self.overwritten.insert((object, id.id.to_string(), is.stamp.clone()));
                    }
                }
            }
        }
        self.houses[at].registers = now;
    }

    /// One call of a client, whatever it comes to.
    async fn edit(&mut self, at: usize, random: &mut Random) {
        let house = &self.houses[at];
        let (categories, tags, vms) = (house.ids(TAG_CATEGORY), house.ids(TAG), house.ids("VirtualMachine"));
        let name = format!("n{}", random.below(4));
        let cardinality = if random.below(2) == 0 { "SINGLE" } else { "MULTIPLE" };
        let none = String::from("none");
        let category = random.one(&categories).unwrap_or(&none).clone();
        let tag = random.one(&tags).unwrap_or(&none).clone();
        let vm = random.one(&vms).unwrap_or(&none).clone();
        let answer = match random.below(20) {
            0 => {
                let spec = json!({"name": name, "description": "", "cardinality": cardinality, "associable_types": []});
                house.call(CATEGORY, "create", json!({ "create_spec": spec })).await
            }
            1 => {
                let spec = json!({"name": name, "description": name, "cardinality": cardinality});
                house.call(CATEGORY, "update", json!({"category_id": category, "update_spec": spec})).await
            }
            2 if random.below(3) == 0 => house.call(CATEGORY, "delete", json!({"category_id": category})).await,
            3..=5 => {
                let spec = json!({"name": name, "description": "", "category_id": category});
                house.call(TAG_SERVICE, "create", json!({ "create_spec": spec })).await
            }
            6 => {
                let spec = json!({"name": name, "description": format!("d{}", random.below(9))});
                house.call(TAG_SERVICE, "update", json!({"tag_id": tag, "update_spec": spec})).await
            }
            7 => house.call(TAG_SERVICE, "delete", json!({"tag_id": tag})).await,
            8 => {
                // The same id as one that may have been deleted anywhere.
                let id = format!("t{}", random.below(3));
                let spec = json!({"name": name, "description": "", "category_id": category, "tag_id": id});
                house.call(TAG_SERVICE, "create", json!({ "create_spec": spec })).await
            }
            9 => {
                let user = format!("u{}", random.below(3));
                house.call(TAG_SERVICE, "add_to_used_by", json!({"tag_id": tag, "used_by_entity": user})).await
            }
            10 => {
                let own = format!("{}-vm-{}", house.name, random.below(3));
                let id = ResourceId::new("VirtualMachine", own);
                let _ = house.site.delete_resource("test".into(), id, None, false).await;
                Ok(Value::Null)
            }
            11 | 12 => {
                let own = ResourceId::new("VirtualMachine", format!("{}-vm-{}", house.name, random.below(3)));
                let tags = match random.below(3) {
                    0 => json!([]),
                    _ => json!([{"type": "Tag", "id": tag}]),
                };
                let properties = json!({"name": "vm", "tags": tags}).to_string();
                house.site.replace_resource("test".into(), own, &properties, None).await.unwrap();
                Ok(Value::Null)
            }
            13..=14 => house.pair("detach", &tag, &vm).await.map(|()| Value::Null),
            _ => house.pair("attach", &tag, &vm).await.map(|()| Value::Null),
        };
        if let Err(error) = answer {
            let is_refusal =
                matches!(error.kind, ErrorKind::NotFound | ErrorKind::InvalidArgument | ErrorKind::AlreadyExists);
            assert!(is_refusal, "{error:?}");
        }
        self.note(at);
    }

    /// Lets everybody hear of everybody, until there is nothing new.
    async fn heal(&mut self) {
        for round in 0.. {
            assert!(round < 40, "it goes round for ever");
            let before: Vec<Position> = self.houses.iter().map(|house| house.site.position()).collect();
            for (to, from, link) in self.ways() {
                self.copy(to, from, &link).await;
                for frame in self.houses[from].state(&link) {
                    self.deliver(to, from, &link, &frame).await;
                }
            }
            if before == self.houses.iter().map(|house| house.site.position()).collect::<Vec<_>>() {
                return;
            }
        }
    }

    fn check(&self) {
        let shared = |house: &House| {
            let view = house.site.view();
            let mut all = BTreeMap::new();
            for resource_type in [TAG_CATEGORY, TAG] {
                for resource in view.resources(resource_type, None) {
                    let mut json = Vec::new();
                    resource.write_json(&mut json);
                    let json: Value = serde_json::from_slice(&json).unwrap();
                    all.insert((resource_type, resource.id().to_owned()), json);
                }
            }
            all
        };
        let first = shared(&self.houses[0]);
        for house in &self.houses[1..] {
            let other = shared(house);
            assert_eq!(first, other, "{} and {}", self.houses[0].name, house.name);
        }
        // Names are unique, and tags have categories.
        let mut names = HashSet::new();
        for ((kind, id), json) in &first {
            let scope = json["category"]["id"].as_str().unwrap_or_default();
            assert!(names.insert((*kind, scope, json["name"].as_str().unwrap())), "{id}: {json}");
            if *kind == TAG {
                assert!(first.contains_key(&(TAG_CATEGORY, scope.to_owned())), "{json}");
            }
        }
        for (to, from, _) in self.ways() {
            for vm in self.houses[from].ids("VirtualMachine").iter().filter(|id| !id.contains('~')) {
                let own = self.houses[from].tags_of(vm);
                let copied = self.houses[to].tags_of(&format!("{}~{vm}", self.houses[from].name));
                assert_eq!(own, copied, "{vm} of {} at {}", self.houses[from].name, self.houses[to].name);
                let mut of_category: BTreeMap<&str, usize> = BTreeMap::new();
                for tag in &own {
                    let category = first[&(TAG, tag.clone())]["category"]["id"].as_str().unwrap();
                    if first[&(TAG_CATEGORY, category.to_owned())]["cardinality"] == "SINGLE" {
                        *of_category.entry(category).or_default() += 1;
                    }
                }
                assert!(of_category.values().all(|count| *count == 1), "{vm}: {own:?}");
            }
        }
        self.check_acknowledged();
    }

    fn check_acknowledged(&self) {
        let mut now: HashSet<Edit> = HashSet::new();
        for house in &self.houses {
            for (id, stamps) in &house.registers {
                let home = Self::home(id);
                now.extend(stamps.is.iter().map(|(key, is)| (home.clone(), key.clone(), is.stamp.clone())));
            }
        }
        let kept: HashSet<String> = self.houses.iter().flat_map(|house| house.ids(TAG_CONFLICT)).collect();
        let lost_tags: BTreeMap<String, String> = {
            let all = self
                .houses
                .iter()
                .flat_map(|house| conflicts::list(&house.context(), &ConflictsInput { limit: None }).unwrap());
            let made = all.filter(|one| one.property == "+" && one.reason == Reason::Deleted);
            made.map(|one| (one.resource.id, one.id)).collect()
        };
        let view = self.houses[0].site.view();
        for (edit, value) in &self.acknowledged {
            let (id, key, stamp) = edit;
            let reasons = [Reason::Later, Reason::Deleted, Reason::Name, Reason::Cardinality];
            let is_kept = |key: &str, stamp: &Stamp| {
                reasons.iter().any(|reason| kept.contains(&conflicts::reckon_id(id, key, *reason, stamp)))
            };
            // A tag that is lost with its category is kept as one, and not property by property.
            let made = lost_tags.get(&id.id.to_string());
            let is_lost = is_kept(key, stamp) || made.is_some();
            let is_in_force = now.contains(edit) && {
                // Of what is deleted, only the deletion is in force; of a tag that is, no attachment.
                let is_gone = |id: &ResourceId| view.modified(id).is_none();
                match is_edited_whole(id) {
                    true => !is_gone(id) || key == DELETED || key == "+" && *value == false,
                    false => {
                        let tag = ResourceId::new(TAG, &**key);
                        *value == false
                            || *key == GONE
                            || Stamps::of(&view, &tag).is.is_empty()
                            // A deletion takes a tag off all it was attached to before, whether or not it was known there.
                            || Stamps::of(&view, &tag).is.get(DELETED).is_some_and(|deleted| *stamp < deleted.stamp)
                            || !is_gone(&tag) && stamp.tick >= Stamps::of(&view, &tag).counts_from()
                    }
                }
            };
            assert!(
                is_in_force || is_lost || self.overwritten.contains(edit),
                "{id} {key} = {value} at {stamp:?} is gone without a word"
            );
        }
    }
}

/// Lives through some time, and heals.
async fn live(seed: u64, count: usize, pairs: &[(usize, usize)], steps: usize) {
    let mut random = Random(seed);
    let mut world = World::new(count, pairs).await;
    for at in 0..count {
        for n in 0..2 {
            let house = &world.houses[at];
            house.vm(&format!("{}-vm-{n}", house.name), r#"{"name":"vm"}"#).await;
        }
    }
    let ways = world.ways();
    let mut wire: Vec<(usize, usize, LinkId, Frame)> = Vec::new();
    let mut heard: BTreeMap<(usize, usize), Position> = BTreeMap::new();
    for _ in 0..steps {
        let (to, from, link) = random.one(&ways).unwrap().clone();
        match random.below(20) {
            0..=9 => world.edit(to, &mut random).await,
            10 => {
                let frames = world.houses[from].state(&link);
                wire.extend(frames.into_iter().map(|frame| (to, from, link.clone(), frame)));
            }
            11..=13 => {
                let after = heard.get(&(to, from)).copied().unwrap_or_default();
                let frame = world.houses[from].since(&link, after);
                heard.insert((to, from), world.houses[from].site.position());
                wire.push((to, from, link, frame));
            }
            14..=16 if !wire.is_empty() => {
                // Any of them: late, out of order; now and then it stays, to come again.
                let n = random.below(wire.len());
                let (to, from, link, frame) = wire[n].clone();
                if random.below(3) != 0 {
                    wire.swap_remove(n);
                }
                world.deliver(to, from, &link, &frame).await;
            }
            17 if !wire.is_empty() => {
                // The connection is cut.
                let n = random.below(wire.len());
                wire.swap_remove(n);
            }
            18 => world.copy(to, from, &link).await,
            19 if random.below(4) == 0 => world.houses[to].reopen().await,
            _ => {}
        }
    }
    world.heal().await;
    world.check();
    for house in &world.houses {
        let site = house.site.clone();
        tokio::task::spawn_blocking(move || site.close()).await.unwrap();
    }
}

fn cases() -> u32 {
    std::env::var("LOCKSTEP_TAGGING_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(16)
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn two_sites_converge_whatever_the_network_does(seed in any::<u64>(), steps in 1..200usize) {
        block_on(live(seed, 2, &[(0, 1)], steps));
    }

    #[test]
    fn three_sites_in_a_row_converge(seed in any::<u64>(), steps in 1..200usize) {
        block_on(live(seed, 3, &[(0, 1), (1, 2)], steps));
    }

    #[test]
    fn three_sites_in_a_ring_converge(seed in any::<u64>(), steps in 1..200usize) {
        block_on(live(seed, 3, &[(0, 1), (1, 2), (2, 0)], steps));
    }
}

/// Two linked sites, one of which has machine `v` as its own.
async fn two() -> World {
    let mut world = World::new(2, &[(0, 1)]).await;
    world.houses[0].vm("v", r#"{"name":"v"}"#).await;
    world.heal().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_tagged_at_either_site() {
    let mut world = two().await;
    let category = world.houses[0].category("env", "MULTIPLE").await;
    let gold = world.houses[0].tag("gold", &category).await;
    world.heal().await;
    let [a, b] = &world.houses[..] else { return };
    assert_eq!(b.text(TAG, &gold, "name"), "gold");
    a.pair("attach", &gold, "v").await.unwrap();
    let silver = b.tag("silver", &category).await;
    b.pair("attach", &silver, "s0~v").await.unwrap();
    world.heal().await;
    let both: BTreeSet<String> = [gold.clone(), silver.clone()].into();
    let [a, b] = &world.houses[..] else { return };
    assert_eq!((a.tags_of("v"), b.tags_of("s0~v")), (both.clone(), both));
    b.pair("detach", &gold, "s0~v").await.unwrap();
    world.heal().await;
    assert_eq!(world.houses[0].tags_of("v"), [silver].into());
    assert_eq!(world.houses[0].conflicts(), [], "nobody lost anything");
    // The object comes back under its id: its tags do not.
    let id = ResourceId::new("VirtualMachine", "v");
    world.houses[0].site.delete_resource("test".into(), id, None, false).await.unwrap();
    world.houses[0].vm("v", r#"{"name":"v"}"#).await;
    world.heal().await;
    let [a, b] = &world.houses[..] else { return };
    assert_eq!((a.tags_of("v"), b.tags_of("s0~v")), (BTreeSet::new(), BTreeSet::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_edits_go_by_the_rule_and_the_loser_is_kept_at_both_sites() {
    let mut world = two().await;
    let category = world.houses[0].category("env", "SINGLE").await;
    let gold = world.houses[0].tag("gold", &category).await;
    let silver = world.houses[0].tag("silver", &category).await;
    world.heal().await;
    let [a, b] = &world.houses[..] else { return };
    let rename = |name: &str| json!({"category_id": category, "update_spec": {"name": name}});
    a.call(CATEGORY, "update", rename("first")).await.unwrap();
    a.pair("attach", &gold, "v").await.unwrap();
    let mine = a.category("twin", "MULTIPLE").await;
    b.outlast(a).await;
    b.call(CATEGORY, "update", rename("second")).await.unwrap();
    b.pair("attach", &silver, "s0~v").await.unwrap();
    let theirs = b.category("twin", "MULTIPLE").await;
    let bronze = b.tag("bronze", &theirs).await;
    world.heal().await;
    for house in &world.houses {
        assert_eq!(house.text(TAG_CATEGORY, &category, "name"), "second");
        assert_eq!(house.text(TAG_CATEGORY, &mine, "name"), "twin");
        let other = house.text(TAG_CATEGORY, &theirs, "name");
        assert!(other.starts_with("twin (") && other.ends_with(')'), "{other}");
        let conflicts = house.conflicts();
        let has =
            |reason, property: &str, lost: &str| conflicts.contains(&(reason, property.to_owned(), lost.to_owned()));
        assert!(has(Reason::Later, "name", "\"first\""), "{conflicts:?}");
        assert!(has(Reason::Cardinality, &gold, "true"), "{conflicts:?}");
        assert!(has(Reason::Name, "name", "\"twin\""), "{conflicts:?}");
        assert_eq!(conflicts.len(), 3, "{conflicts:?}");
    }
    assert_eq!(world.houses[0].tags_of("v"), [silver].into());
    assert_eq!(world.houses[1].text(TAG, &bronze, "name"), "bronze");

    // A deletion beats an edit that it has not seen.
    let [a, b] = &world.houses[..] else { return };
    a.call(TAG_SERVICE, "delete", json!({ "tag_id": gold })).await.unwrap();
    let spec = json!({"description": "shines"});
    b.call(TAG_SERVICE, "update", json!({"tag_id": gold, "update_spec": spec})).await.unwrap();
    b.pair("attach", &bronze, "s0~v").await.unwrap();
    a.call(CATEGORY, "delete", json!({ "category_id": theirs })).await.unwrap();
    let late = b.tag("late", &theirs).await;
    world.heal().await;
    for house in &world.houses {
        assert!(
            house.get(TAG, &gold).is_none() && house.get(TAG, &late).is_none() && house.get(TAG, &bronze).is_none()
        );
        let conflicts = house.conflicts();
        let has = |property: &str| conflicts.iter().any(|one| one.0 == Reason::Deleted && one.1 == property);
        assert!(has("description") && has(&bronze), "{conflicts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_a_link_is_shared_without_stamps() {
    let (a, b) = (House::new("s0"), House::new("s1"));
    let category = a.category("env", "MULTIPLE").await;
    let gold = a.tag("gold", &category).await;
    a.vm("v", &json!({"name": "v", "tags": [{"type": "Tag", "id": gold}]}).to_string()).await;
    assert_eq!(a.ids(TAG_STAMPS), Vec::<String>::new(), "a site without links keeps none");
    let link = LinkId::new("l");
    a.link(&link, &b).await;
    b.link(&link, &a).await;
    // Tags come before the machine does.
    let run = b.run(&link, &a);
    for frame in a.state(&link) {
        apply::frame(&run, &frame).await.unwrap();
    }
    copy(&a, &b, &link).await;
    assert_eq!(b.tags_of("s0~v"), [gold.clone()].into());
    let before = b.site.position();
    for frame in a.state(&link) {
        apply::frame(&run, &frame).await.unwrap();
    }
    assert_eq!(b.site.position(), before, "what is known is passed over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_comes_back_is_on_what_has_it_in_the_same_batch() {
    let world = two().await;
    let [a, b] = &world.houses[..] else { return };
    let (_, _, link) = &world.links[0];
    // Somebody whose clock is ahead has deleted it.
    let ahead = ((a.site.journal().now_ms() + 600_000) as u64) << 16;
    let registers = json!({"+": [ahead, "x", false], "-": [ahead, "x", true]});
    let mut frame = FrameWriter::default();
    frame.line("Tag", "t", &json!({"seen": {"x": ahead}, "is": registers}).to_string());
    apply::frame(&a.run(link, b), &Frame::open(&frame.finish()).unwrap()).await.unwrap();
    let category = a.category("env", "MULTIPLE").await;
    a.vm("known", r#"{"name":"known"}"#).await;
    let kept = a.tag("kept", &category).await;
    a.pair("attach", &kept, "known").await.unwrap();
    // As an import has them: all in one.
    let tags = json!([{"type": "Tag", "id": "t"}, {"type": "Tag", "id": kept}]);
    let puts = [
        (TAG, "t", json!({"name": "back", "category": {"type": "TagCategory", "id": category}})),
        ("VirtualMachine", "known", json!({"name": "known", "tags": tags})),
        ("VirtualMachine", "new", json!({"name": "new", "tags": tags})),
    ];
    let changes = {
        let view = a.site.view();
        let change = |(resource_type, id, properties): (&str, &str, Value)| {
            let def = view.registry().type_def(resource_type).unwrap();
            let document = def.read_document(&properties.to_string()).unwrap();
            put(&view, ResourceId::new(resource_type, id), document).unwrap()
        };
        puts.into_iter().filter_map(change).collect()
    };
    a.site.commit(Batch { author: "import".into(), changes, relies_on: Vec::new() }).await.unwrap();
    copy(a, b, link).await;
    let run = b.run(link, a);
    for frame in a.state(link) {
        apply::frame(&run, &frame).await.unwrap();
    }
    for vm in ["s0~known", "s0~new"] {
        assert_eq!(b.tags_of(vm), ["t".to_owned(), kept.clone()].into(), "{vm}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_lies_is_refused() {
    let world = two().await;
    let (_, _, link) = world.links[0].clone();
    let run = world.houses[0].run(&link, &world.houses[1]);
    for (kind, id, line) in [
        ("Tag", "t", "{"),
        ("Tag", "t", "{}"),
        ("Tag", "t", r#"{"seen":{"x":5},"is":{"+":[5,"x",true],"name":[5,"x",7]}}"#),
        ("Tag", "t", r#"{"seen":{"x":4},"is":{"+":[5,"x",true]}}"#),
        ("Tag", "t", r#"{"seen":{"x":9223372036854775807},"is":{"+":[9223372036854775807,"x",true]}}"#),
        ("Tag", "t", r#"{"seen":{"x":5},"is":{"+":[5,"x",true],"color":[5,"x","red"]}}"#),
        ("VirtualMachine", "v", r#"{"yours":true,"seen":{"x":5},"is":{"t":[5,"x","yes"]}}"#),
        ("TagConflict", "c", r#"{"resource_type":"Tag"}"#),
        ("VirtualMachine", "v", ""),
    ] {
        let mut frame = FrameWriter::default();
        frame.line(kind, id, line);
        let before = world.houses[0].site.position();
        let refused = apply::frame(&run, &Frame::open(&frame.finish()).unwrap()).await;
        assert!(matches!(refused, Err(crate::SyncError::Malformed { .. })), "{kind} {line}: {refused:?}");
        assert_eq!(world.houses[0].site.position(), before);
    }
}
