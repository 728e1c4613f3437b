//! Data points read back from outside are those of the embedded store.

use std::time::Duration;

use lockstep_contract::ErrorKind;
use lockstep_stats::remote::{self, Pace};
use serde_json::{Value, json};

use crate::receiver::{Receiver, Reply};
use crate::servers::Server;
use crate::site::{HURRIED, Home, Written, now_s, write_to};

/// Series of every sort: dense, long, sparse, short, many, and with a gap.
fn points(now_s: i64) -> Vec<Written> {
    let start_s = now_s - 3000;
    let every = |step: i64, count: i64| -> Vec<(i64, f64)> {
        (0..count).map(|i| (start_s + i * step, (i * 7 % 1000) as f64 / 8.0 - 3.0)).collect()
    };
    let mut all = vec![
        // One page and a half, to the second; ends now.
        Written::of_host("mem.capacity.usage.HOST", "dense", every(1, 3001)),
        Written::of_host("mem.capacity.usage.HOST", "usual", every(10, 300)),
        Written::of_host("cpu.capacity.usage.HOST", "one", vec![(start_s + 50, -0.125)]),
        Written::of_host("cpu.capacity.usage.HOST", "gap", vec![(start_s, 1.0), (start_s + 1, 2.0), (now_s, 1e15)]),
    ];
    all.extend(
        (0..300).map(|i| {
            Written::of_vm("cpu.capacity.usage.VM", &format!("vm-{i}"), "dense", every(20 + i % 7, 3 + i % 11))
        }),
    );
    all
}

fn filters(now_s: i64) -> Vec<Value> {
    let start_s = now_s - 3000;
    vec![
        json!({}),
        json!({"start": start_s}),
        json!({"start": start_s + 100, "end": start_s + 200}),
        json!({"start": start_s + 100, "end": start_s + 101}),
        json!({"start": start_s + 100, "end": start_s + 100}),
        json!({"end": start_s + 1}),
        json!({"end": start_s}),
        json!({"start": now_s}),
        json!({"start": now_s + 1}),
        json!({"start": 0, "end": 1000}),
        json!({"start": i64::MIN, "end": i64::MAX}),
        json!({"cid": "mem.capacity.usage.HOST"}),
        json!({"cid": "mem.capacity.usage.HOST", "start": start_s + 999}),
        json!({"metric": "cpu.capacity.usage"}),
        json!({"metric": "cpu.capacity.usage", "start": start_s + 30, "end": start_s + 61}),
        json!({"cid": "net.none.HOST"}),
        json!({"types": ["VM"]}),
        json!({"resources": ["type.VM=vm-7", "type.VM=vm-8"]}),
        json!({"resources": ["type.HOST=gap"]}),
    ]
}

async fn reads_the_same(outside: &Server) {
    let home = Home::new();
    let here = home.open(write_to(&outside.write_url())).await;
    let now_s = now_s();
    here.write(&points(now_s)).await;
    here.until_forwarded().await;
    let mut embedded = Vec::new();
    for filter in filters(now_s) {
        embedded.push(here.pages(&filter).await);
    }
    let sizes: Vec<usize> = embedded[0].iter().map(Vec::len).collect();
    assert!(sizes.len() > 4 && sizes[..sizes.len() - 1].iter().all(|size| *size == 1000), "{sizes:?}");
    here.close().await;

    let config = remote::Config { read_url: Some(outside.url()), ..write_to(&outside.write_url()) };
    let here = home.open(config).await;
    // The newest points are shown outside a little after they were taken.
    let started = std::time::Instant::now();
    while here.pages(&json!({})).await != embedded[0] && started.elapsed() < crate::servers::PATIENCE {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    for (filter, expected) in filters(now_s).iter().zip(&embedded) {
        let found = here.pages(filter).await;
        let flat = |pages: &[Vec<Value>]| pages.concat();
        assert_eq!(flat(&found).len(), flat(expected).len(), "{filter}");
        assert!(found == *expected, "{filter}");
    }
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn victoria_metrics_answers_what_the_embedded_store_does() {
    let Some(outside) = Server::victoria_metrics(&[]).await else { return };
    reads_the_same(&outside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_answers_what_the_embedded_store_does() {
    let Some(outside) = Server::prometheus().await else { return };
    reads_the_same(&outside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_outside_that_is_away_is_an_error_and_not_what_is_kept_here() {
    let Some(mut outside) = Server::victoria_metrics(&[]).await else { return };
    let home = Home::new();
    let config = remote::Config { read_url: Some(outside.url()), ..write_to(&outside.write_url()) };
    let here = home.open(config).await;
    here.write(&points(now_s())).await;
    outside.kill();
    let error = here.page(json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ServiceUnavailable);
    assert!(error.messages[0].default_message.contains("does not answer"), "{error:?}");
    // What is wrong with the question is told without it.
    let error = here.page(json!({"order": "NONE"})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_store_outside_are_told_by_their_sort() {
    const PARTIAL: &str = r#"{"status":"success","isPartial":true,"data":{"resultType":"matrix","result":[]}}"#;
    const BAD: &str = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
    const TIMEOUT: &str = r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#;
    const SEVERAL: &str = r#"{"status":"error","errorType":"422","error":"limit reached"}"#;
    let unavailable = ErrorKind::ServiceUnavailable;
    for (reply, expected) in [
        (Reply::Status(400, &[], BAD), ErrorKind::Error),
        (Reply::Status(422, &[], SEVERAL), ErrorKind::Error),
        (Reply::Status(503, &[], TIMEOUT), unavailable),
        (Reply::Status(500, &[], "oops"), unavailable),
        (Reply::Status(429, &[], ""), unavailable),
        (Reply::Status(401, &[], ""), ErrorKind::Error),
        (Reply::Status(404, &[], "<html>"), ErrorKind::Error),
        (Reply::Status(200, &[], PARTIAL), unavailable),
        (Reply::Status(200, &[], "<html>"), ErrorKind::Error),
        (Reply::Garbage, unavailable),
        (Reply::Silence, unavailable),
    ] {
        let (receiver, sink) = (Receiver::start(vec![reply]), Receiver::start(vec![]));
        let home = Home::new();
        let pace = Pace { timeout: Duration::from_secs(1), ..HURRIED };
        let config = remote::Config { read_url: Some(receiver.url()), pace, ..write_to(&sink.url()) };
        let here = home.open(config).await;
        let now_s = now_s();
        here.write(&[Written::of_host("mem.capacity.usage.HOST", "h", vec![(now_s, 1.0)])]).await;
        let error = here.page(json!({})).await.unwrap_err();
        assert_eq!(error.kind, expected, "{error:?}");
        here.close().await;
    }
}
