//! Points arrive outside: each one, once, over failures of either side.

use lockstep_stats::remote::Trouble;

use crate::receiver::{Receiver, Reply};
use crate::servers::Server;
use crate::site::{Home, Written, assert_holds, now_s, write_to};

/// Points of some series that end now, `count` each; a further `round` is later and has other values. They are decimal numbers of few
/// digits, as counters are rounded to: VictoriaMetrics keeps some 15.
fn points(round: i64, count: i64) -> Vec<Written> {
    let start_s = now_s() - 3000 + round * count;
    let series =
        |first: i64| (0..count).map(|i| (start_s + i, (first + round * count + i) as f64 / 100.0)).collect::<Vec<_>>();
    vec![
        Written::of_host("cpu.capacity.usage.HOST", "host-1", series(0)),
        Written::of_host("mem.capacity.usage.HOST", "host-1", series(100_000_000_000)),
        Written::of_host("mem.capacity.usage.HOST", "host \"2\"\\", series(-500)),
        Written::of_vm("cpu.capacity.usage.VM", "vm-1", "host-1", series(25)),
        Written::of_vm("cpu.capacity.usage.VM", "vm-1", "host-2", series(409_600)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn points_arrive_once_with_their_values_and_labels() {
    let Some(outside) = Server::victoria_metrics(&[]).await else { return };
    let home = Home::new();
    let here = home.open(write_to(&outside.write_url())).await;
    let mut all = Vec::new();
    for round in 0..3 {
        let written = points(round, 400);
        here.write(&written).await;
        all.extend(written);
    }
    // A point that comes again in the same request is one.
    let status = here.until_forwarded().await;
    assert_eq!((status.sent, status.refused, status.unnamed, status.failing), (6000, 0, 0, None));
    assert!(status.last_success_s.is_some() && status.last_error.is_none() && status.lag_s == 0, "{status:?}");
    assert_eq!(here.metric("lockstep_stats_remote_write_sent_total"), "6000");
    assert_eq!(here.metric("lockstep_stats_points_waiting"), "0");
    assert_holds(outside.export().await, &all);
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_the_store_outside_is_killed_and_away() {
    let Some(mut outside) = Server::victoria_metrics(&[]).await else { return };
    let home = Home::new();
    let here = home.open(write_to(&outside.write_url())).await;
    let mut all = points(0, 300);
    here.write(&all).await;
    here.until_forwarded().await;
    // What it has acknowledged and not written to its disk is its own to lose.
    outside.settle().await;
    outside.kill();

    let written = points(1, 300);
    here.write(&written).await;
    all.extend(written);
    let status = here.until("it is noticed", |status| status.failing.is_some() && status.failures > 2).await;
    assert_eq!((status.failing, status.waiting), (Some(Trouble::Unreachable), 1500));
    let (_, _, text) = status.last_error.unwrap();
    assert!(text.contains("connection refused") && text.contains("/api/v1/write"), "{text}");
    assert_eq!(here.metric("lockstep_stats_remote_write_failing{reason=\"unreachable\"}"), "1");
    assert_ne!(here.metric("lockstep_stats_remote_write_lag_seconds"), "0");
    here.close().await;

    let here = home.open(write_to(&outside.write_url())).await;
    assert_eq!(here.status().waiting, 1500);
    let written = points(2, 300);
    here.write(&written).await;
    all.extend(written);
    here.until("it is away still", |status| status.failures > 2).await;

    outside.restart().await;
    let status = here.until_forwarded().await;
    assert_eq!((status.sent, status.failing), (3000, None));
    assert_holds(outside.export().await, &all);
    here.close().await;

    // Nothing goes out again after a further start.
    let here = home.open(write_to(&outside.write_url())).await;
    assert_eq!(here.status().waiting, 0);
    here.close().await;
}

/// Answers of VictoriaMetrics that are lost on the way: the points are there, and nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_is_lost_goes_out_again_and_counts_once() {
    let Some(outside) = Server::victoria_metrics(&["-dedup.minScrapeInterval=1ms"]).await else { return };
    let lost = || Reply::Lost(outside.write_url());
    let receiver = Receiver::start(vec![lost(), Reply::Passed(outside.write_url()), lost(), lost()]);
    receiver.then(Reply::Passed(outside.write_url()));
    let home = Home::new();
    let here = home.open(write_to(&receiver.url())).await;
    let written = points(0, 400);
    here.write(&written).await;
    let status = here.until_forwarded().await;
    assert_eq!((status.sent, status.requests, status.failures), (2000, 4, 3));
    assert_eq!(status.last_error.unwrap().1, Trouble::Broken);
    assert_holds(outside.export().await, &written);
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_loses_nothing_and_may_be_put_right() {
    let Some(outside) = Server::victoria_metrics_for("writer", "right").await else { return };
    let home = Home::new();
    let file = outside.data.path().join("auth");
    std::fs::write(&file, "writer:wrong\n").unwrap();
    let mut config = write_to(&outside.write_url());
    config.auth_file = Some(file.clone());
    let here = home.open(config).await;
    let written = points(0, 100);
    here.write(&written).await;
    let status = here.until("it is refused", |status| status.failures > 1).await;
    assert_eq!((status.failing, status.sent, status.refused, status.waiting), (Some(Trouble::Login), 0, 0, 500));
    let (_, _, text) = status.last_error.unwrap();
    assert!(text.contains("401") && !text.contains("wrong"), "{text}");
    assert_eq!(here.metric("lockstep_stats_remote_write_failing{reason=\"login\"}"), "1");

    std::fs::write(&file, "writer:right\n").unwrap();
    let status = here.until_forwarded().await;
    assert_eq!((status.failing, status.sent), (None, 500));
    assert_holds(outside.export().await, &written);
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_trusted_when_its_file_vouches_for_it() {
    let receiver = Receiver::start_with_tls(vec![]);
    receiver.then(Reply::Status(204, &[], ""));
    let home = Home::new();
    let here = home.open(write_to(&receiver.url())).await;
    here.write(&points(0, 10)).await;
    let status = here.until("it is refused", |status| status.failures > 0).await;
    assert_eq!(status.failing, Some(Trouble::Untrusted), "{status:?}");
    here.close().await;

    let file = home.file("ca.pem");
    std::fs::write(&file, receiver.certificate()).unwrap();
    let mut config = write_to(&receiver.url());
    config.ca_file = Some(file);
    let here = home.open(config).await;
    assert_eq!(here.until_forwarded().await.sent, 50);
    here.close().await;
}
