//! Sites that edit, the network between them, and what must hold once all have heard of all.

use std::collections::{BTreeMap, HashSet};

use lockstep_contract::ErrorKind;
use lockstep_contract::services::links::tagging::{ConflictsInput, Reason};
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAG_CONFLICT, TAG_STAMPS};
use lockstep_model::{Position, ResourceId};
use lockstep_site::stamps::{DELETED, GONE, Stamp, Stamps, is_edited_whole, stamped};
use serde_json::{Value, json};

use super::super::{apply, conflicts};
use super::house::{CATEGORY, House, TAG_SERVICE, copy};
use crate::LinkId;
use crate::inventory::frame::Frame;

/// Enough like random.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    pub(super) fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }
}

/// A register of some resource, by what the resource's own site calls it.
pub(super) type Edit = (ResourceId, String, Stamp);

/// Sites, the links between them, and what was acknowledged.
pub(super) struct World {
    pub(super) houses: Vec<House>,
    pub(super) links: Vec<(usize, usize, LinkId)>,
    pub(super) acknowledged: Vec<(Edit, serde_json::Value)>,
    /// What somebody who saw it has overwritten or deleted.
    pub(super) overwritten: HashSet<Edit>,
}

impl World {
    pub(super) async fn new(count: usize, pairs: &[(usize, usize)]) -> Self {
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
    pub(super) fn ways(&self) -> Vec<(usize, usize, LinkId)> {
        self.links.iter().flat_map(|(a, b, link)| [(*a, *b, link.clone()), (*b, *a, link.clone())]).collect()
    }

    pub(super) async fn deliver(&mut self, to: usize, from: usize, link: &LinkId, frame: &Frame) {
        let run = self.houses[to].run(link, &self.houses[from]);
        apply::frame(&run, frame).await.unwrap();
        self.note(to);
    }

    pub(super) async fn copy(&mut self, to: usize, from: usize, link: &LinkId) {
        copy(&self.houses[from], &self.houses[to], link).await;
        self.note(to);
    }

    /// What the own site of a resource calls it.
    pub(super) fn home(id: &ResourceId) -> ResourceId {
        match id.id.split_once('~') {
            Some((_, own)) if !is_edited_whole(id) => ResourceId::new(id.resource_type.clone(), own),
            _ => id.clone(),
        }
    }

    /// Notes which edits a site has made since, and what it overwrote by them.
    pub(super) fn note(&mut self, at: usize) {
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
    pub(super) async fn edit(&mut self, at: usize, random: &mut Random) {
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
    pub(super) async fn heal(&mut self) {
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

    pub(super) fn check(&self) {
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

    pub(super) fn check_acknowledged(&self) {
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
pub(super) async fn live(seed: u64, count: usize, pairs: &[(usize, usize)], steps: usize) {
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
