//! The feed over real connections.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Server, http};

fn put(server: &Server, id: &str, name: &str) {
    server.ok("PUT", &format!("/api/lockstep/resources/Folder/{id}"), &json!({"properties": {"name": name}}));
}

#[test]
fn from_a_querys_position_the_feed_goes_on_without_gap_or_repeat() {
    let server = Server::start();
    put(&server, "a", "before");
    let spec = json!({"query_spec": {"resource_filter": {"filter_type": "TYPE", "resource_type": "Folder"}, "property_spec": []}});
    let path = "/rest/com/vmware/cis/data/legacy/resource-model?~action=query";
    let answer = server.request("POST", path).json(&spec).send().unwrap();
    let token = answer.headers()["lockstep-sequence"].to_str().unwrap().to_owned();
    assert!(answer.headers()["lockstep-cost"].to_str().unwrap().contains("rows_examined="));
    put(&server, "b", "after");
    let (status, changes) = server.changes(&token);
    assert_eq!(status, 200);
    let ids: Vec<&Value> =
        changes["value"]["changes"].as_array().unwrap().iter().map(|c| &c["resource"]["id"]).collect();
    assert_eq!(ids, [&json!("b")]);
}

#[test]
fn a_held_answer_is_released_by_a_commit_and_by_the_limit() {
    let server = Server::start_with(&["--plain-http", "--no-collect-host", "--poll-limit", "2"]);
    let token = server.sequence();
    let began = Instant::now();
    let (status, nothing) = server.changes(&token);
    assert_eq!((status, &nothing["value"]), (200, &json!({"sequence": token})));
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    std::thread::scope(|scope| {
        let held = scope.spawn(|| server.changes(&token));
        std::thread::sleep(Duration::from_millis(300));
        put(&server, "a", "x");
        let (_, changes) = held.join().unwrap();
        assert_eq!(changes["value"]["changes"][0]["resource"]["id"], "a");
    });
}

#[test]
fn a_stopping_server_answers_who_waits_and_ends_well() {
    let server = Server::start();
    let token = server.sequence();
    let request = server.request("POST", "/rest/com/vmware/cdc/change-log?~action=get-changes");
    let held = std::thread::spawn(move || request.json(&json!({"sequence_token": token})).send().unwrap().status());
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    let status = server.stop();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(held.join().unwrap(), 200);
}

#[test]
fn events_stream_what_the_long_poll_gives() {
    let server = Server::start();
    let token = server.sequence();
    let path = format!("/api/lockstep/feed/events?sequence_token={token}&resource_types=Folder");
    let stream = server.request("GET", &path).send().unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    put(&server, "a", "x");
    let data = BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    let data: Value = serde_json::from_str(&data.unwrap()).unwrap();
    assert_eq!((&data["changes"][0]["kind"], &data["changes"][0]["resource"]["id"]), (&json!("CREATE"), &json!("a")));
}

#[test]
fn a_session_that_ends_while_it_waits_is_told_so() {
    let server = Server::start();
    let token = server.sequence();
    let session: Value = server.request("POST", "/api/session").send().unwrap().json().unwrap();
    let session = session.as_str().unwrap().to_owned();
    let http = http(Duration::from_secs(60));
    let url = server.url.clone();
    let held = std::thread::spawn({
        let (http, session, token) = (http.clone(), session.clone(), token.clone());
        move || {
            let request = http.post(format!("{url}/rest/com/vmware/cdc/change-log?~action=get-changes"));
            request
                .header("vmware-api-session-id", session)
                .json(&json!({"sequence_token": token}))
                .send()
                .unwrap()
                .status()
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    let ended =
        http.delete(format!("{}/api/session", server.url)).header("vmware-api-session-id", session).send().unwrap();
    assert_eq!(ended.status(), 204);
    put(&server, "a", "x");
    assert_eq!(held.join().unwrap(), 401);
}
