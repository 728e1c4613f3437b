//! A store of samples outside, with the real server: killed while it forwards, and asked while the store is away.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lockstep_contract::points::Batch;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, eventually, http};
use crate::stats::{now_s, series};

/// VictoriaMetrics on a port of its own, killed when it is dropped.
struct Outside {
    child: Child,
    port: u16,
    _data: TempDir,
}

impl Outside {
    /// `None`, with a line that says why, where it is not installed.
    fn start() -> Option<Self> {
        let data = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let spawned = Command::new("victoria-metrics")
            .arg(format!("-storageDataPath={}", data.path().display()))
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
            // A batch may go out twice around a kill.
            .arg("-dedup.minScrapeInterval=1ms")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = spawned else {
            eprintln!("skipped: no victoria-metrics; scripts/test-tools.sh installs it");
            return None;
        };
        let outside = Self { child, port, _data: data };
        let http = http(Duration::from_secs(5));
        eventually(Duration::from_secs(20), "VictoriaMetrics is up", || {
            http.get(format!("{}/health", outside.url())).send().ok().filter(|answer| answer.status().is_success())
        });
        Some(outside)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All samples by host: times in milliseconds and values.
    fn samples(&self) -> BTreeMap<String, Vec<(i64, f64)>> {
        let http = http(Duration::from_secs(30));
        let get = |path: &str| http.get(format!("{}{path}", self.url())).send().unwrap().text().unwrap();
        get("/internal/force_flush");
        let mut samples: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
        for line in get("/api/v1/export?match[]=%7Bcid!=%22%22%7D").lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["metric"]["site"], "fra01", "{line}");
            let list = |name: &str| line[name].as_array().unwrap().clone();
            let pairs = list("timestamps").into_iter().zip(list("values"));
            let host = line["metric"]["host"].as_str().unwrap().to_owned();
            samples.entry(host).or_default().extend(pairs.map(|(t, v)| (t.as_i64().unwrap(), v.as_f64().unwrap())));
        }
        samples.values_mut().for_each(|samples| samples.sort_by_key(|(time, _)| *time));
        samples
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn metric(server: &Server, name: &str) -> Option<f64> {
    let text = server.request("GET", "/metrics").send().ok()?.text().ok()?;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line[name.len() + 1..].parse().ok()
}

#[test]
fn every_sample_is_outside_once_after_the_server_was_killed_while_it_sent_them() {
    let Some(outside) = Outside::start() else { return };
    let write = format!("{}/api/v1/write", outside.url());
    let base = ["--plain-http", "--no-collect-host", "--no-sample-host", "--site", "fra01"];
    let read = outside.url();
    let args = [&base[..], &["--stats-remote-write", &write, "--stats-remote-read", &read]].concat();
    let mut server = Server::start_with(&args);
    const HOSTS: i64 = 40;
    const ROUNDS: i64 = 6;
    const POINTS: i64 = 250;
    let start_s = now_s() - ROUNDS * POINTS;
    let value = |host: i64, at: i64| (host * 1000 + at) as f64 / 10.0;
    for round in 0..ROUNDS {
        let of_host = |host: i64| {
            let at = |i: i64| (start_s + round * POINTS + i, value(host, round * POINTS + i));
            let points: Vec<(i64, f64)> = (0..POINTS).map(at).collect();
            series("mem.capacity.usage.HOST", &[("HOST", &format!("h{host}"))], &points)
        };
        let batch = Batch { series: (0..HOSTS).map(of_host).collect() }.encode_to_vec();
        server.ok("POST", "/api/lockstep/stats/points", &json!({"points": STANDARD.encode(batch)}));
        // At another moment of its sending each time.
        std::thread::sleep(Duration::from_millis(170 * round.unsigned_abs()));
        server.restart();
    }
    eventually(Duration::from_secs(60), "everything is forwarded", || {
        (metric(&server, "lockstep_stats_points_waiting")? == 0.0).then_some(())
    });
    let expected: BTreeMap<String, Vec<(i64, f64)>> = (0..HOSTS)
        .map(|host| {
            let samples = (0..ROUNDS * POINTS).map(|i| ((start_s + i) * 1000, value(host, i))).collect();
            (format!("h{host}"), samples)
        })
        .collect();
    let found = outside.samples();
    let count = |samples: &BTreeMap<String, Vec<(i64, f64)>>| samples.values().map(Vec::len).sum::<usize>();
    assert_eq!(count(&found), count(&expected));
    assert!(found == expected);

    // What the API answers comes from there: all of it, and an error when it is away.
    let page = server.ok("GET", "/api/stats/data/dp?rsrcs=type.HOST=h7", &Value::Null);
    let times: Vec<i64> = page["data_points"].as_array().unwrap().iter().map(|p| p["ts"].as_i64().unwrap()).collect();
    assert_eq!(times, (start_s..start_s + 1000).collect::<Vec<_>>());
    drop(outside);
    let (status, error) = server.get("/api/stats/data/dp?rsrcs=type.HOST=h7");
    assert_eq!((status, &error["error_type"]), (503, &json!("SERVICE_UNAVAILABLE")), "{error}");
    assert!(server.stop().success());
}

#[test]
fn a_store_outside_that_cannot_be_is_told_at_the_start() {
    for (more, expected) in [
        (&["--stats-remote-read", "http://127.0.0.1:1"][..], "--stats-remote-write"),
        (&["--stats-remote-write", "tsdb:8428"][..], "expected http://HOST"),
        (&["--stats-remote-write", "http://u:p@127.0.0.1:1/"][..], "file of their own"),
        (&["--stats-remote-write", "http://127.0.0.1:1/", "--stats-remote-label", "rid=1"][..], "cannot be a label"),
        (&["--stats-remote-write", "http://127.0.0.1:1/", "--stats-remote-label", "x"][..], "NAME=VALUE"),
        (
            &["--stats-remote-write", "http://127.0.0.1:1/", "--stats-remote-auth-file", "/none"][..],
            "cannot read /none",
        ),
    ] {
        let data = TempDir::new().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args(["serve", "--plain-http", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .args(more)
            .env("RUST_LOG", "off")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(expected), "{more:?}: {told}");
    }
}
