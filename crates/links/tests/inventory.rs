//! The inventory over a link: two sites with their journals, joined by the real server on loopback.

#[path = "it/pair.rs"]
mod pair;

use std::time::Duration;

use lockstep_contract::services::TypedId;
use lockstep_contract::{Binary, ErrorKind};
use lockstep_links::inventory::Inventory;
use lockstep_links::{SyncError, SyncProvider};
use lockstep_model::ResourceId;
use lockstep_site::WriteError;
use pair::{DOMAIN, Liar, Pair, Random, Target};

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_read_only_and_points_to_copies() {
    let pair = Pair::start().await;
    pair.create("HostSystem", "h1", r#"{"name":"host"}"#).await;
    let vm = r#"{"name":"vm","host":{"type":"HostSystem","id":"h1"},"datastores":[{"type":"Datastore","id":"d~1"}]}"#;
    pair.create("VirtualMachine", "v1", vm).await;
    pair.target().sync().await.unwrap();
    let target = pair.target();
    let id = ResourceId::new("VirtualMachine", format!("{DOMAIN}~v1"));
    assert_eq!(
        target.json(&id).unwrap(),
        format!(
            r#"{{"name":"vm","host":{{"type":"HostSystem","id":"{DOMAIN}~h1"}},"datastores":[{{"type":"Datastore","id":"{DOMAIN}~d~1"}}],"linked_from":{{"type":"Link","id":"link-1"}}}}"#
        )
    );
    // The feed tells the parents as of the copy.
    assert_eq!(target.site().view().parents(&id), [ResourceId::new("HostSystem", format!("{DOMAIN}~h1"))]);
    let is_linked = |result: Result<lockstep_site::Written, WriteError>| {
        let error = result.unwrap_err();
        assert!(matches!(&error, WriteError::Linked { link, .. } if &**link == "link-1"), "{error:?}");
        assert_eq!(error.into_error().kind, ErrorKind::NotAllowedInCurrentState);
    };
    let (site, me) = (target.site(), || "me".into());
    is_linked(site.patch_resource(me(), id.clone(), &[("name".to_owned(), r#""x""#.to_owned())], None).await);
    is_linked(site.replace_resource(me(), id.clone(), "{}", None).await);
    is_linked(site.delete_resource(me(), id.clone(), None, false).await);
    is_linked(site.delete_resource(me(), ResourceId::new("HostSystem", format!("{DOMAIN}~h1")), None, true).await);
    let own = ResourceId::new("Tag", "t");
    let claims = site.create_resource(me(), own, r#"{"name":"t","linked_from":{"type":"Link","id":"link-1"}}"#).await;
    assert!(matches!(claims, Err(WriteError::LinkedFrom(_))));
    let line = format!("{{\"type\":\"VirtualMachine\",\"id\":\"{DOMAIN}~v1\",\"properties\":{{\"name\":\"x\"}}}}\n");
    let caller = lockstep_site::caller::Caller::Server("test");
    let mut importer = lockstep_site::import::Importer::new(site.clone(), &caller, Default::default());
    importer.push(line.as_bytes()).await.unwrap();
    assert_eq!(importer.finish().await.unwrap_err().kind, ErrorKind::NotAllowedInCurrentState);
    // Queries tell copies from the site's own.
    site.create_resource(me(), ResourceId::new("VirtualMachine", "own"), r#"{"name":"own"}"#).await.unwrap();
    let asked = format!("VirtualMachine where linked_from.domain_name = '{DOMAIN}'");
    assert_eq!(target.query(&asked), [format!("{DOMAIN}~v1")]);
    assert_eq!(target.query("VirtualMachine"), ["own".to_owned(), format!("{DOMAIN}~v1")]);
    // What is copied here is not passed on, and no export has it.
    let back = pair.target().start_answer();
    assert_eq!(back.total, 1);
    let exported = lockstep_site::export::Exporter::new(site, Default::default()).next_chunk().unwrap();
    let exported = std::str::from_utf8(&exported).unwrap();
    assert!(exported.contains(r#""id":"own""#) && !exported.contains("~v1"), "{exported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_shared_stays_at_home() {
    let pair = Pair::start().await;
    pair.create("Tag", "t", r#"{"name":"t"}"#).await;
    let tagged = r#"{"name":"d","tags":[{"type":"Tag","id":"t"}]}"#;
    pair.create("Datastore", "d", tagged).await;
    pair.target().sync().await.unwrap();
    let copies = pair.target().copies();
    let datastore = ("Datastore".to_owned(), "d".to_owned());
    assert_eq!(copies.keys().collect::<Vec<_>>(), [&datastore], "no accounts, no tags");
    assert_eq!(
        copies[&datastore],
        serde_json::json!({"name": "d"}),
        "what it is tagged with is told by another provider"
    );
    // Nor is it seen by a comparison.
    let writes = pair.target().writes();
    pair.target().reset().await;
    pair.target().sync().await.unwrap();
    assert_eq!(pair.target().writes(), writes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_writes_each_resource_once_and_a_delta_only_itself() {
    let mut pair = Pair::start().await;
    pair.fill(7000).await;
    // Cut again and again: what was written stays written.
    let mut random = Random::new(1);
    let mut tries = 0;
    loop {
        tries += 1;
        assert!(tries < 500, "it gets nowhere");
        pair.cut_after(random.below(250_000) as usize + 2000);
        match pair.target().sync().await {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, SyncError::Peer(_)), "{error:?}"),
        }
        if random.below(3) == 0 {
            pair.reopen_target().await;
        }
    }
    pair.mend();
    assert!(tries > 3, "it was cut");
    assert_eq!(pair.target().writes(), 7000, "each once, over {tries} tries");
    pair.check();
    for i in 0..10 {
        pair.rename("VirtualMachine", &format!("vm-{i:06}"), "new").await;
    }
    pair.target().sync().await.unwrap();
    assert_eq!(pair.target().writes(), 7010);
    pair.check();
    pair.target().sync().await.unwrap();
    assert_eq!(pair.target().writes(), 7010, "nothing to do");
    // From zero: all is compared, nothing is written.
    pair.target().reset().await;
    pair.rename("VirtualMachine", "vm-000003", "newer").await;
    pair.target().sync().await.unwrap();
    assert_eq!(pair.target().writes(), 7011);
    pair.check();
    // A log that has gone on: the same.
    pair.rename("VirtualMachine", "vm-000004", "newer").await;
    pair.delete("VirtualMachine", "vm-000005").await;
    pair.forget_log();
    pair.target().sync().await.unwrap();
    assert_eq!(pair.target().writes(), 7013);
    pair.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_the_copy_ends_equal() {
    for seed in 0..6 {
        eprintln!("seed {seed}");
        let mut random = Random::new(seed);
        let mut pair = Pair::start().await;
        pair.model("t.Model", r#"{"name":"t.Model","resource_type":"t.Thing","properties":[{"name":"a","kind":"LONG"},{"name":"to","kind":"ID"}]}"#).await;
        pair.fill(3000).await;
        for _ in 0..30 {
            match random.below(10) {
                0..4 => pair.change(&mut random, 40).await,
                4..7 => {
                    // Ended at some moment, by its caller or by the network.
                    let writer = pair.churn(random.next());
                    if random.below(2) == 0 {
                        pair.cut_after(random.below(300_000) as usize);
                        let _ = pair.target().sync().await;
                        pair.mend();
                    } else {
                        let limit = Duration::from_millis(random.below(60));
                        let _ = tokio::time::timeout(limit, pair.target().sync()).await;
                    }
                    writer.await.unwrap();
                }
                7 => pair.reopen_target().await,
                8 => pair.forget_log(),
                _ => pair.target().reset().await,
            }
        }
        pair.target().sync().await.unwrap();
        pair.check();
        let writes = pair.target().writes();
        pair.target().sync().await.unwrap();
        assert_eq!(pair.target().writes(), writes, "seed {seed}: it wrote what it had");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_there_ends_the_wait_and_what_is_not_told_does_not() {
    let pair = Pair::start().await;
    pair.create("Datacenter", "t", r#"{"name":"t"}"#).await;
    pair.target().sync().await.unwrap();
    let wait = pair.target().changed();
    tokio::pin!(wait);
    let quiet = tokio::time::timeout(Duration::from_millis(300), &mut wait);
    let (waited, ()) = tokio::join!(quiet, async {
        // An account is not told, so it does not wake anyone.
        pair.issue_token("nobody").await;
    });
    assert!(waited.is_err(), "an account ended the wait");
    let (woken, ()) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(5), &mut wait), pair.rename("Datacenter", "t", "x"));
    woken.unwrap().unwrap();
    pair.target().sync().await.unwrap();
    pair.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_come_along_and_a_contradiction_is_named() {
    let pair = Pair::start().await;
    let model = |kind: &str, more: &str| {
        format!(r#"{{"name":"t.Model","resource_type":"t.Thing","properties":[{{"name":"a","kind":"{kind}"}}{more}]}}"#)
    };
    pair.model("t.Model", &model("LONG", "")).await;
    pair.create("t.Thing", "x", r#"{"a":7}"#).await;
    pair.target().sync().await.unwrap();
    pair.check();
    // It grows there, and here.
    pair.model("t.Model", &model("LONG", r#",{"name":"b","kind":"STRING"}"#)).await;
    pair.create("t.Thing", "y", r#"{"a":7,"b":"s"}"#).await;
    pair.target().sync().await.unwrap();
    pair.check();
    let other = Target::open_new(pair.url(), pair.token()).await;
    other.model("t.Model", &model("STRING", "")).await;
    let error = other.sync().await.unwrap_err();
    assert!(matches!(&error, SyncError::Model { name } if name == "t.Model"), "{error:?}");
    assert!(other.copies().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_taken_is_named() {
    let pair = Pair::start().await;
    pair.create("Datacenter", "t", r#"{"name":"t"}"#).await;
    let id = ResourceId::new("Datacenter", format!("{DOMAIN}~t"));
    pair.target().site().create_resource("me".into(), id, r#"{"name":"mine"}"#).await.unwrap();
    let error = pair.target().sync().await.unwrap_err().to_string();
    assert!(error.contains(&format!("Datacenter {DOMAIN}~t")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_revoked_ends_the_sync_and_the_wait() {
    let pair = Pair::start().await;
    pair.create("Datacenter", "t", r#"{"name":"t"}"#).await;
    pair.target().sync().await.unwrap();
    let wait = tokio::time::timeout(Duration::from_secs(20), pair.target().changed());
    let (ended, ()) = tokio::join!(wait, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pair.revoke().await;
        pair.rename("Datacenter", "t", "secret").await;
    });
    assert!(matches!(ended.unwrap(), Err(SyncError::Peer(_))));
    assert!(matches!(pair.target().sync().await, Err(SyncError::Peer(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lies_is_told_so_and_writes_nothing() {
    let frame = |text: &[u8]| Binary(lz4_flex::block::compress_prepend_size(text).into());
    let mut bomb = lz4_flex::block::compress_prepend_size(b"Datacenter\ta\t{}\n");
    bomb[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let long = "x".repeat(505);
    for (frame, expected) in [
        (Binary(bomb.into()), "a frame of 4294967295 bytes"),
        (Binary(vec![0; 3].into()), ""),
        (frame(b"Datacenter\ta\t{}\nDatacenter\ta\t{}\n"), "Datacenter a where it has no place"),
        (frame(b"Datacenter\tb\t{}\nDatacenter\ta\t{}\n"), "Datacenter a where it has no place"),
        (frame(b"Datacenter\ta\t\n"), "Datacenter a where it has no place"),
        (frame(b"Tag\ta\t{\"name\":\"a\"}\n"), "a resource of type \"Tag\""),
        (frame(b"Account\ta\t{\"name\":\"a\"}\n"), "a resource of type \"Account\""),
        (frame(b"Link\ta\t{}\n"), "a resource of type \"Link\""),
        (frame(b"No\ta\t{}\n"), "a resource of type \"No\""),
        (frame(b"Datacenter\ta\t{\"name\":7}\n"), "property name: expected a string"),
        (frame(b"Datacenter\ta\t{\"nome\":\"\"}\n"), "property nome"),
        (
            frame(b"Datacenter\ta\t{\"linked_from\":{\"type\":\"Link\",\"id\":\"x\"}}\n"),
            "property linked_from, which is not told",
        ),
        (frame(b"Datacenter\t\x01\t{}\n"), "control character"),
        (frame(b"Datacenter\t\t{}\n"), "empty"),
        (frame(format!("Datacenter\t{long}\t{{}}\n").as_bytes()), "longer than 512 bytes"),
        (frame(format!("Datacenter\ta\t{}\n", "[".repeat(100_000)).as_bytes()), "not JSON"),
    ] {
        let liar = Liar { page: Some((frame, None)), ..Liar::default() };
        let target = liar.serve().await;
        let Err(error) = target.sync().await else { panic!("it was taken, not {expected}") };
        assert!(matches!(error, SyncError::Malformed { .. }), "{expected}: {error:?}");
        assert!(error.to_string().contains(expected), "{error}, not {expected}");
        assert!(target.copies().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_in_circles_is_stopped() {
    let frame = |text: &[u8]| Binary(lz4_flex::block::compress_prepend_size(text).into());
    let place = |id: &str| TypedId { resource_type: "Datacenter".to_owned(), id: id.to_owned() };
    let circle = Liar { page: Some((frame(b""), Some(place("a")))), ..Liar::default() };
    let error = circle.serve().await.sync().await.unwrap_err().to_string();
    assert!(error.contains("the place Datacenter a behind Datacenter a"), "{error}");
    let endless = Liar { more: true, ..Liar::default() };
    let error = endless.serve().await.sync().await.unwrap_err().to_string();
    assert!(error.contains("a promise of changes that do not come"), "{error}");
    let models = Liar { models: vec!["{".to_owned()], ..Liar::default() };
    let error = models.serve().await.sync().await.unwrap_err().to_string();
    assert!(error.contains("a model that is none"), "{error}");
    let token = Liar { token: "x".repeat(10_000), ..Liar::default() };
    let error = token.serve().await.sync().await.unwrap_err().to_string();
    assert!(error.contains("a token that is none"), "{error}");
}

#[test]
fn the_provider_is_the_inventory() {
    let provider = Inventory::new();
    assert_eq!(provider.name(), "inventory");
    assert!(provider.polling_interval() >= Duration::from_secs(60));
}
