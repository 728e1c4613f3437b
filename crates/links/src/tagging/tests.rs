//! Sites that edit tagging, each with its own journal, and a network between them that delays, reorders, doubles and loses what it carries.
//!
//! A message is a frame as one site fills it for another: a page of state, or what changed since a moment. Whatever happened before, once all
//! have heard of all, they are to be equal, and each edit that was acknowledged is in force, was overwritten by whoever saw it, or is kept
//! as lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod house;
mod world;

use std::collections::BTreeSet;

use lockstep_contract::services::links::tagging::Reason;
use lockstep_journal::Batch;
use lockstep_model::ResourceId;
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAG_STAMPS};
use lockstep_site::put;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::apply;
use crate::LinkId;
use crate::inventory::frame::{Frame, FrameWriter};
use house::{CATEGORY, House, TAG_SERVICE, copy};
use world::{World, live};

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
