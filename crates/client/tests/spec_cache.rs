//! Cache sync over HTTP, against a site that answers from a script.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use lockstep_client::{Client, Config, Login, SpecCache, SyncError, Trust};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

/// A site that gives its answers in their order, and what it was asked.
async fn site(answers: Vec<(u16, Option<i64>, String)>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    tokio::spawn(async move {
        for (status, epoch, body) in answers {
            let (stream, _) = listener.accept().await.unwrap();
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).await.unwrap();
            log.lock().unwrap().push(line.split(' ').nth(1).unwrap().to_owned());
            while line.trim() != "" {
                line.clear();
                reader.read_line(&mut line).await.unwrap();
            }
            let epoch = epoch.map(|epoch| format!("Lockstep-End-Epoch: {epoch}\r\n")).unwrap_or_default();
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status} X\r\n{epoch}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
            reader.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (Client::new(Config { url, login: Login::Anonymous, trust: Trust::System }).unwrap(), asked)
}

fn page(created: &[&str], deleted: &[&str], next: Option<&str>) -> String {
    let spec = |id: &&str| {
        format!(
            r#"{{"endpoints":[],"counters":{{"set_id":"mem.HOST"}},"resources":[{{"type":"HOST","id_value":"host-1",
            "predicate":"EQUAL","scheme":"moid"}}],"interval":10,"expiration":2000000000,"memo_":"","id":"{id}",
            "status_reason":"","status":"ENABLED"}}"#
        )
    };
    let created: Vec<String> = created.iter().map(spec).collect();
    let deleted: Vec<String> = deleted.iter().map(|id| format!("{id:?}")).collect();
    let next = next.map(|next| format!(r#""next":"{next}","#)).unwrap_or_default();
    format!(
        r#"{{{next}"created_acq_specs":[{}],"updated_acq_specs":[],"deleted_acq_specs":[{}]}}"#,
        created.join(","),
        deleted.join(",")
    )
}

const EXPIRED: &str = r#"{"messages":[{"id":"lockstep.stats.sync_expired","default_message":"sync in full","args":[]}],
    "error_type":"INVALID_ARGUMENT"}"#;

#[tokio::test]
async fn a_copy_follows_the_site_and_starts_over_when_its_epoch_has_expired() {
    let (client, asked) = site(vec![
        (200, Some(100), page(&["1"], &[], Some("p2"))),
        (200, Some(100), page(&["2"], &[], None)),
        (200, Some(110), page(&["3"], &["1"], None)),
        (400, None, EXPIRED.to_owned()),
        (200, Some(200), page(&["3", "4"], &[], None)),
    ])
    .await;
    let mut cache = SpecCache::default();
    let ids = |cache: &SpecCache| cache.specs.keys().cloned().collect::<Vec<_>>().join(" ");

    let summary = cache.sync(&client).await.unwrap();
    assert_eq!((ids(&cache), cache.epoch, summary.pages, summary.full), ("1 2".to_owned(), 100, 2, true));
    let summary = cache.sync(&client).await.unwrap();
    assert_eq!((ids(&cache), cache.epoch, summary.full), ("2 3".to_owned(), 110, false));
    let summary = cache.sync(&client).await.unwrap();
    assert_eq!((ids(&cache), cache.epoch, summary.full), ("3 4".to_owned(), 200, true));
    assert_eq!((summary.created, summary.deleted), (vec!["4".to_owned()], vec!["2".to_owned()]));
    assert_eq!(
        *asked.lock().unwrap(),
        [
            "/api/stats/cache/sync?start_epoch=0",
            "/api/stats/cache/sync?start_epoch=0&page=p2",
            "/api/stats/cache/sync?start_epoch=100",
            "/api/stats/cache/sync?start_epoch=110",
            "/api/stats/cache/sync?start_epoch=0",
        ]
    );
}

#[tokio::test]
async fn a_page_that_fails_leaves_the_copy_as_it_was() {
    let (client, _) = site(vec![
        (200, Some(100), page(&["1"], &[], None)),
        (200, Some(110), page(&["2"], &["1"], Some("p2"))),
        (503, None, r#"{"messages":[],"data":{"is_transient":true},"error_type":"SERVICE_UNAVAILABLE"}"#.to_owned()),
        (200, None, page(&["2"], &[], None)),
    ])
    .await;
    let mut cache = SpecCache::default();
    cache.sync(&client).await.unwrap();
    let before = cache.clone();
    assert!(matches!(cache.sync(&client).await, Err(SyncError::Call(error)) if error.is_transient()));
    assert_eq!(cache, before);
    assert!(matches!(cache.sync(&client).await, Err(SyncError::NoEpoch)));
    assert_eq!(cache, before);
}
