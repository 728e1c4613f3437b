//! Receivers that fail in every way there is.

use std::time::Duration;

use lockstep_stats::remote::{Pace, Trouble};

use crate::receiver::{Receiver, Reply};
use crate::site::{HURRIED, Home, Written, now_s, write_to};

fn points(count: i64) -> Vec<Written> {
    let start_s = now_s() - count;
    vec![Written::of_host("mem.capacity.usage.HOST", "h", (0..count).map(|i| (start_s + i, i as f64)).collect())]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_what_the_specification_says() {
    let receiver = Receiver::start(vec![]);
    let home = Home::new();
    let file = home.file("auth");
    std::fs::write(&file, "dG9rZW4\n").unwrap();
    let mut config = write_to(&receiver.url());
    config.auth_file = Some(file);
    let here = home.open(config).await;
    let mut written = points(3);
    written.extend(points(3));
    written.push(Written::of_vm("cpu.capacity.usage.VM", "v", "h", vec![(now_s(), 1.5)]));
    here.write(&written).await;
    here.until_forwarded().await;
    let got = receiver.got();
    let got = got.first().unwrap();
    for (name, value) in [
        ("content-encoding", "snappy"),
        ("content-type", "application/x-protobuf"),
        ("x-prometheus-remote-write-version", "0.1.0"),
        ("authorization", "Bearer dG9rZW4"),
    ] {
        assert_eq!(got.header(name), value);
    }
    assert!(got.header("user-agent").starts_with("lockstep/"));
    for series in got.read().series {
        let names: Vec<&str> = series.labels.iter().map(|label| &*label.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
        assert!(names.contains(&"__name__") && series.samples.is_sorted_by(|a, b| a.time_ms < b.time_ms));
    }
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_counted_and_the_rest_goes_on() {
    let receiver = Receiver::start(vec![Reply::Status(204, &[], ""), Reply::Status(400, &[], "out of\norder sample")]);
    let home = Home::new();
    let here = home.open(write_to(&receiver.url())).await;
    here.write(&points(1400)).await;
    let status = here.until_forwarded().await;
    assert_eq!((status.sent, status.refused, status.failing), (900, 500, None));
    let (_, trouble, text) = status.last_error.unwrap();
    assert_eq!(trouble, Trouble::Refused);
    assert!(text.ends_with("/write answers 400 Bad Request: out of order sample"), "{text}");
    assert_eq!(receiver.got().iter().map(|got| got.samples()).collect::<Vec<_>>(), [500, 500, 400]);
    assert_eq!(here.metric("lockstep_stats_remote_write_refused_total"), "500");
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_is_tried_until_it_is_taken() {
    let fails = [500, 503, 502, 404, 403, 307, 408];
    let mut replies: Vec<Reply> = fails.iter().map(|status| Reply::Status(*status, &[], "no")).collect();
    replies.extend([Reply::Garbage, Reply::Silence]);
    let receiver = Receiver::start(replies);
    let home = Home::new();
    let mut config = write_to(&receiver.url());
    config.pace = Pace { timeout: Duration::from_millis(300), ..HURRIED };
    let here = home.open(config).await;
    here.write(&points(600)).await;
    let status = here.until_forwarded().await;
    assert_eq!((status.sent, status.refused, status.failures), (600, 0, fails.len() as u64 + 2));
    assert_eq!(status.last_error.unwrap().1, Trouble::TimedOut);
    let got = receiver.got();
    assert_eq!(got.len(), fails.len() + 2 + 2);
    let (tries, last) = got.split_at(got.len() - 1);
    assert!(tries.iter().all(|one| one.body == tries[0].body));
    assert_eq!((tries[0].samples(), last[0].samples()), (500, 100));
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_patience_gets_it() {
    let receiver = Receiver::start(vec![Reply::Status(429, &[("retry-after", "2")], "slow down")]);
    let home = Home::new();
    let here = home.open(write_to(&receiver.url())).await;
    here.write(&points(10)).await;
    let status = here.until("it is told", |status| status.failing.is_some()).await;
    assert_eq!(status.failing, Some(Trouble::Throttled));
    here.until_forwarded().await;
    let got = receiver.got();
    assert_eq!(got.len(), 2);
    assert!(got[1].at - got[0].at >= Duration::from_secs(2), "{:?}", got[1].at - got[0].at);
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_of_small_requests_gets_small_ones() {
    let receiver = Receiver::start(vec![Reply::Status(413, &[], "too large"), Reply::Status(413, &[], "too large")]);
    let home = Home::new();
    let here = home.open(write_to(&receiver.url())).await;
    here.write(&points(600)).await;
    let status = here.until_forwarded().await;
    assert_eq!((status.sent, status.refused), (600, 0));
    let sizes: Vec<usize> = receiver.got().iter().map(|got| got.samples()).collect();
    assert_eq!(sizes, [500, 250, 125, 125, 125, 125, 100]);
    here.close().await;

    // One that takes nothing at all does not hold up the rest.
    let receiver = Receiver::start(vec![]);
    receiver.then(Reply::Status(413, &[], "too large"));
    let home = Home::new();
    let here = home.open(write_to(&receiver.url())).await;
    here.write(&points(150)).await;
    assert_eq!(here.until_forwarded().await.refused, 150);
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_a_request_for_a_moment_only_and_the_rest_is_sent_after_the_next_start() {
    let receiver = Receiver::start(vec![Reply::Silence]);
    let home = Home::new();
    let mut config = write_to(&receiver.url());
    config.pace = Pace { timeout: Duration::from_secs(60), ..HURRIED };
    let here = home.open(config.clone()).await;
    here.write(&points(10)).await;
    let started = std::time::Instant::now();
    while receiver.got().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stopping = std::time::Instant::now();
    here.close().await;
    assert!(stopping.elapsed() < Duration::from_secs(20), "{:?}", stopping.elapsed());
    let here = home.open(config).await;
    here.until_forwarded().await;
    let got = receiver.got();
    assert_eq!(got.iter().map(|got| got.samples()).collect::<Vec<_>>(), [10, 10]);
    here.close().await;
}
