//! SIGKILL at random moments under load.
//!
//! Writers count: each owns some resources, and every write raises their counter by one. So the number of UPDATE events of a resource must
//! equal its counter, whatever was killed when: one less is a gap, one more a repeat. What a writer sends in one batch must be in
//! whole or not at all: the counters of a group are always equal.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::server::{PASSWORD, Server, USER, http, read};

const WRITERS: usize = 4;
const GROUP: usize = 8;

/// Rounds of kill and restart, unless `LOCKSTEP_CRASH_ROUNDS` says otherwise.
const ROUNDS: usize = 12;

fn client() -> Client {
    http(Duration::from_secs(10))
}

fn id(writer: usize, member: usize) -> String {
    format!("w{writer}-{member}")
}

/// Raises the counters of one writer's group until the server is gone. Answers the last value that was acknowledged.
fn write(url: &str, writer: usize, from: i64, stop: &AtomicBool) -> i64 {
    let http = client();
    let mut acknowledged = from;
    while !stop.load(Ordering::Relaxed) {
        let next = acknowledged + 1;
        let line = |m| {
            json!({"type": "test.Counter", "id": id(writer, m), "properties": {"n": next, "group": writer}}).to_string()
                + "\n"
        };
        let body: String = (0..GROUP).map(line).collect();
        let sent = http
            .post(format!("{url}/api/lockstep/resources?action=import"))
            .basic_auth(USER, Some(PASSWORD))
            .header("content-type", "application/x-ndjson")
            .body(body)
            .send();
        match sent.map(read) {
            Ok((200, _)) => acknowledged = next,
            Ok((503, _)) | Err(_) => break,
            Ok((status, answer)) => panic!("writer {writer}: {status} {answer}"),
        }
    }
    acknowledged
}

/// A reader of the feed that goes on with its token over restarts.
struct Reader {
    token: String,
    /// Per resource: whether it is there, and its UPDATE events.
    seen: HashMap<String, i64>,
}

impl Reader {
    fn read(&mut self, http: &Client, url: &str) -> Result<usize, ()> {
        let sent = http
            .post(format!("{url}/rest/com/vmware/cdc/change-log?~action=get-changes"))
            .basic_auth(USER, Some(PASSWORD))
            .json(&json!({"sequence_token": self.token}))
            .send();
        // An answer that breaks off is no answer: the token stays.
        let Ok(answer) = sent.and_then(|r| r.error_for_status()).and_then(|r| r.json::<Value>()) else {
            return Err(());
        };
        let value = &answer["value"];
        let changes = value["changes"].as_array().cloned().unwrap_or_default();
        for change in &changes {
            let id = change["resource"]["id"].as_str().unwrap().to_owned();
            match change["kind"].as_str().unwrap() {
                "CREATE" => assert!(self.seen.insert(id.clone(), 0).is_none(), "{id} was created twice"),
                "UPDATE" => {
                    *self.seen.get_mut(&id).unwrap_or_else(|| panic!("{id} is updated before it was created")) += 1
                }
                other => panic!("{other} {id}"),
            }
        }
        self.token = value["sequence"].as_str().unwrap().to_owned();
        Ok(changes.len())
    }
}

fn counters(server: &Server, writer: usize) -> Vec<i64> {
    let filter = json!({"filter_type": "PROPERTY", "property_filter":
        {"property": "test.Counter/group", "operator": "EQUAL", "comparable_type": "LONG", "comparable_long": writer}});
    let answer = server.query(json!({"resource_filter": filter, "property_spec": ["test.Counter/n"]}));
    let items = answer["items"].as_array().unwrap();
    items.iter().map(|i| i["property_values"][0]["value"].as_i64().unwrap()).collect()
}

#[test]
fn killed_at_random_moments_nothing_acknowledged_is_lost_and_no_reader_is_misled() {
    let rounds = std::env::var("LOCKSTEP_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(ROUNDS);
    // Small segments and folds, so that the kills meet them too.
    let mut server = Server::start_with(&["--plain-http", "--no-collect-host", "--poll-limit", "1"]);
    let model = json!({"name": "test.Counter", "resource_type": "test.Counter",
        "properties": [{"name": "n", "kind": "LONG"}, {"name": "group", "kind": "LONG"}]});
    server.ok("POST", "/api/lockstep/models", &model);
    let mut reader = Reader { token: server.sequence(), seen: HashMap::new() };
    let mut acknowledged = [0i64; WRITERS];
    let mut seed = std::process::id() as u64 | 1;
    let mut last_position = 0;
    for round in 0..rounds {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lifetime = Duration::from_millis(30 + (seed >> 33) % 400);
        let stop = AtomicBool::new(false);
        let url = server.url.clone();
        let shared = Mutex::new(&mut reader);
        let results: Vec<i64> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|w| (w, acknowledged[w]))
                .map(|(w, from)| {
                    scope.spawn({
                        let (url, stop) = (&url, &stop);
                        move || write(url, w, from, stop)
                    })
                })
                .collect();
            let (url, stop, shared) = (&url, &stop, &shared);
            scope.spawn(move || {
                let http = client();
                let mut reader = shared.lock().unwrap();
                while !stop.load(Ordering::Relaxed) && reader.read(&http, url).is_ok() {}
            });
            std::thread::sleep(lifetime);
            server.kill();
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        server.restart();
        let position = server.ok("GET", "/api/lockstep/site", &json!(null))["position"].as_i64().unwrap();
        assert!(position >= last_position, "round {round}: the position went back from {last_position} to {position}");
        last_position = position;
        for (writer, reached) in results.into_iter().enumerate() {
            let stored = counters(&server, writer);
            if reached == 0 && stored.is_empty() {
                continue;
            }
            assert_eq!(stored.len(), GROUP, "round {round}, writer {writer}: part of a batch");
            assert!(
                stored.iter().all(|n| *n == stored[0]),
                "round {round}, writer {writer}: part of a batch: {stored:?}"
            );
            // What was sent and not answered may be in; nothing that was acknowledged may be missing.
            assert!(
                (reached..=reached + 1).contains(&stored[0]),
                "round {round}, writer {writer}: acknowledged {reached}, stored {stored:?}"
            );
            acknowledged[writer] = stored[0];
        }
    }
    let http = client();
    while reader.read(&http, &server.url).unwrap() > 0 {}
    for (writer, reached) in acknowledged.iter().enumerate().filter(|(_, n)| **n > 0) {
        for member in 0..GROUP {
            let updates = reader.seen.get(&id(writer, member)).copied();
            assert_eq!(updates, Some(reached - 1), "events of {}", id(writer, member));
        }
    }
    eprintln!("{rounds} kills, {last_position} commits, {} resources", reader.seen.len());
    assert!(acknowledged.iter().sum::<i64>() > 0, "no write was ever acknowledged");
}
