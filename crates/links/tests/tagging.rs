//! Tagging and acquisition specifications over a link: two sites with their journals, joined by the real server on loopback, over a wire
//! that is cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "it/pair.rs"]
mod pair;

use std::sync::Arc;
use std::time::Duration;

use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_links::inventory::Inventory;
use lockstep_links::provider::initial;
use lockstep_links::tagging::Tagging;
use lockstep_links::{LinkId, Run, SyncError, SyncProvider};
use lockstep_model::builtin::{ACQ_SPEC, LINKED_ACQ_SPEC, TAG, TAG_CATEGORY};
use lockstep_model::{Document, ResourceId, Value};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::import::Importer;
use pair::{DOMAIN, Pair, Random};

/// The target's run of another provider.
async fn run(pair: &Pair, provider: &dyn SyncProvider) -> Run {
    let (site, link) = (pair.target().site().clone(), LinkId::new("link-1"));
    if site.view().modified(&link.cursor(provider.name())).is_none() {
        let batch = Batch { author: "test".into(), changes: initial(&link, provider), relies_on: Vec::new() };
        site.commit(batch).await.unwrap();
    }
    Run::new(site, pair.target().run().client, link, DOMAIN.to_owned(), provider.name())
}

/// The source's half of the link: what it tells of objects depends on it.
async fn link_source(site: &Site) {
    let mut document = Document::default();
    document.set("domain_name", Some(Value::from("site1.local")));
    let id = LinkId::new("link-1").resource();
    let change = Change { id, operation: Operation::Create(document), parents: Arc::from([]) };
    let batch = Batch { author: "test".into(), changes: vec![(change, Expect::Absent)], relies_on: Vec::new() };
    site.commit(batch).await.unwrap();
}

fn names(site: &Site, resource_type: &str) -> Vec<(String, String)> {
    let view = site.view();
    let name = |id: ResourceId| {
        let stored = view.get(&id)?;
        Some((id.id.to_string(), stored.document.get("name")?.as_str()?.to_owned()))
    };
    view.ids(resource_type, None).filter_map(name).collect()
}

fn tags(site: &Site, vm: &str) -> Vec<String> {
    let stored = site.view().get(&ResourceId::new("VirtualMachine", vm));
    let tags = stored.map(|stored| lockstep_site::stamps::listed(&stored.document)).unwrap_or_default();
    tags.into_iter().map(|tag| tag.id.into()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tagging_comes_over_a_wire_that_is_cut_and_both_sites_restart() {
    let mut pair = Pair::start().await;
    link_source(&pair.source).await;
    pair.create(TAG_CATEGORY, "c", r#"{"name":"env","cardinality":"MULTIPLE"}"#).await;
    let caller = Caller::Server("test");
    let mut importer = Importer::new(pair.source.clone(), &caller, Default::default());
    for i in 0..3000 {
        let tag = format!(
            r#"{{"type":"Tag","id":"t{i:04}","properties":{{"name":"tag {i}","category":{{"type":"TagCategory","id":"c"}}}}}}"#
        );
        let vm = format!(
            r#"{{"type":"VirtualMachine","id":"v{i:04}","properties":{{"name":"vm {i}","tags":[{{"type":"Tag","id":"t{i:04}"}}]}}}}"#
        );
        for line in [tag, vm] {
            importer.push(line.as_bytes()).await.unwrap();
            importer.push(b"\n").await.unwrap();
        }
    }
    importer.finish().await.unwrap();
    let provider = Tagging::new();
    let mut random = Random::new(3);
    let (mut tries, mut cuts) = (0, 0);
    loop {
        tries += 1;
        assert!(tries < 500, "it gets nowhere");
        // Ever later, so that it gets through in the end, however well a page can be packed.
        pair.cut_after(random.below(3000) as usize + tries * 3000);
        let run = run(&pair, &provider).await;
        match provider.sync(&run).await {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, SyncError::Peer(_)), "{error:?}"),
        }
        cuts += 1;
        if random.below(3) == 0 {
            pair.reopen_target().await;
        }
    }
    pair.mend();
    assert!(cuts > 2, "it was cut");
    // Machines come after what they are tagged with.
    pair.target().sync().await.unwrap();
    let site = pair.target().site().clone();
    assert_eq!(names(&site, TAG), names(&pair.source, TAG));
    for i in [0, 7, 2999] {
        assert_eq!(tags(&site, &format!("{DOMAIN}~v{i:04}")), [format!("t{i:04}")]);
    }
    // A delta is told as one, and wakes who waits.
    let run = run(&pair, &provider).await;
    let (woken, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(20), provider.changed(&run)),
        pair.rename(TAG, "t0007", "seven")
    );
    woken.unwrap().unwrap();
    let before = *run.progress().borrow();
    provider.sync(&run).await.unwrap();
    let progress = *run.progress().borrow();
    assert_eq!(progress.completed - before.completed, 1);
    assert_eq!(names(&site, TAG)[7].1, "seven");
    assert!(provider.reached(&run.cursor().unwrap()).unwrap() > 5, "{:?}", run.cursor());
    // When the log has gone on, all is read again, and nothing but what differs is written.
    pair.rename(TAG, "t0008", "eight").await;
    pair.forget_log();
    let position = site.position();
    provider.sync(&run).await.unwrap();
    assert_eq!(names(&site, TAG)[8].1, "eight");
    let mut changed = 0;
    let mut at = position;
    while let Some(last) = site.journal().read(at, 1 << 20).unwrap().last().cloned() {
        let commits = site.journal().read(at, 1 << 20).unwrap();
        let is_data = |change: &&Change| change.id.resource_type.as_str() != "SyncCursor";
        changed += commits.iter().flat_map(|commit| &commit.changes).filter(is_data).count();
        at = last.position;
    }
    assert_eq!(changed, 2, "the tag and its stamps");
}

#[tokio::test(flavor = "multi_thread")]
async fn acquisition_specs_are_told_as_a_type_of_their_own() {
    let pair = Pair::start().await;
    let spec = r#"{"counters":{"cid":"cpu.usage"},"resources":[{"type":"HOST","id_value":"h1"}],"interval":10,"status":"ENABLED"}"#;
    pair.create(ACQ_SPEC, "7", spec).await;
    pair.create(ACQ_SPEC, "8", spec).await;
    pair.create("Datastore", "d", r#"{"name":"d"}"#).await;
    let provider = Inventory::acquisition_specs();
    let run = run(&pair, &provider).await;
    provider.sync(&run).await.unwrap();
    let target = pair.target();
    let id = ResourceId::new(LINKED_ACQ_SPEC, format!("{DOMAIN}~7"));
    let json: serde_json::Value = serde_json::from_str(&target.json(&id).unwrap()).unwrap();
    assert_eq!((&json["counters"]["cid"], &json["linked_from"]["id"]), (&"cpu.usage".into(), &"link-1".into()));
    let asked = format!("LinkedAcqSpec where linked_from.domain_name = '{DOMAIN}'");
    assert_eq!(target.query(&asked), [format!("{DOMAIN}~7"), format!("{DOMAIN}~8")]);
    assert_eq!(target.query("AcqSpec"), Vec::<String>::new(), "nobody here samples by it");
    assert_eq!(target.query("Datastore"), Vec::<String>::new());
    // Changes and deletions, and a comparison that finds them.
    pair.delete(ACQ_SPEC, "8").await;
    provider.sync(&run).await.unwrap();
    assert_eq!(target.query(&asked), [format!("{DOMAIN}~7")]);
    let fields = [("interval".to_owned(), "20".to_owned())];
    pair.source.patch_resource("test".into(), ResourceId::new(ACQ_SPEC, "7"), &fields, None).await.unwrap();
    pair.create(ACQ_SPEC, "9", spec).await;
    pair.forget_log();
    let writes = target.writes();
    provider.sync(&run).await.unwrap();
    assert_eq!(target.query(&asked), [format!("{DOMAIN}~7"), format!("{DOMAIN}~9")]);
    assert_eq!(target.writes() - writes, 2);
    assert!(target.json(&id).unwrap().contains(r#""interval":20"#));
    // It is as read-only as any copy.
    let written = target.site().patch_resource("me".into(), id, &fields, None).await;
    assert!(matches!(written, Err(lockstep_site::WriteError::Linked { .. })), "{written:?}");
    // What came by the inventory is not touched by it.
    target.sync().await.unwrap();
    assert_eq!(target.query("Datastore"), [format!("{DOMAIN}~d")]);
    provider.sync(&run).await.unwrap();
    assert_eq!(target.query("Datastore"), [format!("{DOMAIN}~d")]);
}
