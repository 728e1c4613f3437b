//! Import, export and events.

use serde_json::{Value, json};

use crate::harness::{Client, PASSWORD, Request, Server, USER, wait_until};

const IMPORT: &str = "/api/lockstep/resources?action=import";

fn line(id: usize) -> String {
    format!("{{\"type\":\"Folder\",\"id\":\"f{id:05}\",\"properties\":{{\"name\":\"folder {id}\"}}}}\n")
}

fn import(url: &str, lines: &str) -> Request {
    Request::new("POST", url).basic(USER, PASSWORD).body("application/x-ndjson", lines)
}

#[test]
fn what_was_imported_is_exported() {
    let server = Server::start();
    let lines: String = (0..5000).map(line).collect();
    let report = server.ask(&import(IMPORT, &lines));
    assert_eq!(report.status, 200, "{report:?}");
    let report = report.json();
    for (name, count) in [("lines", 5000), ("created", 5000), ("replaced", 0), ("unchanged", 0), ("skipped", 0)] {
        assert_eq!(report[name], count, "{name}: {report}");
    }
    assert!(report["position"].as_i64().unwrap() > 0 && report["sequence"].is_string());
    let again = server.ask(&import(&format!("{IMPORT}&on_existing=skip&batch=100"), &lines)).json();
    assert_eq!((&again["skipped"], &again["created"]), (&json!(5000), &json!(0)));

    let export = |more: &str| {
        let url = format!("/api/lockstep/resources?action=export{more}");
        let response = server.ask(&Request::new("GET", &url).basic(USER, PASSWORD));
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/x-ndjson")));
        assert_eq!(response.header("lockstep-sequence"), report["sequence"].as_str());
        response.body
    };
    assert_eq!(export("&type=Folder"), lines);
    assert_eq!(export("&type=Folder&after_type=Folder&after_id=f04998"), line(4999));
    assert!(export("").ends_with(&lines));
}

#[test]
fn a_failed_import_says_where_to_resume() {
    let server = Server::start();
    let mut lines: String = (0..25).map(line).collect();
    lines.push_str("{\"type\":\"Folder\",\"id\":\"bad\",\"properties\":{\"other\":1}}\n");
    let response = server.ask(&import(&format!("{IMPORT}&batch=10"), &lines));
    assert_eq!((response.status, &*response.error()), (400, "INVALID_ARGUMENT"), "{response:?}");
    assert_eq!(response.header("lockstep-lines-committed"), Some("20"));
    let message = response.json()["messages"][0]["default_message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("line 26:") && message.contains("other"), "{message}");
    let exists = server.ask(&import(&format!("{IMPORT}&on_existing=fail"), &line(3)));
    assert_eq!((exists.status, exists.header("lockstep-lines-committed")), (400, Some("0")), "{exists:?}");
}

#[test]
fn an_import_goes_in_while_it_is_still_being_sent() {
    let server = Server::start();
    let mut client = server.connect();
    let head = import(&format!("{IMPORT}&batch=10"), "").header("Transfer-Encoding", "chunked");
    client.send(&head.bytes());
    let first: String = (0..30).map(line).collect();
    let before = server.site.position();
    client.send(format!("{:x}\r\n{first}\r\n", first.len()).as_bytes());
    wait_until("two batches are in", || server.site.position().0 >= before.0 + 2);
    client.send(b"0\r\n\r\n");
    assert_eq!(client.response().json()["created"], 30);
}

/// The next event's id and data.
fn next_event(client: &mut Client) -> (String, Value) {
    loop {
        let block = client.until("\n\n");
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        if let Some(data) = field("data: ") {
            return (field("id: ").unwrap_or_default(), serde_json::from_str(&data).unwrap());
        }
    }
}

#[test]
fn events_follow_the_feed_and_resume_behind_the_last() {
    let server = Server::start();
    let token = server.log_in();
    let open = |query: &str, last: Option<&str>| {
        let mut request = Request::new("GET", &format!("/api/lockstep/feed/events{query}")).session(&token);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let mut client = server.connect();
        client.send(&request.bytes());
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
        client
    };
    let mut all = open("", None);
    let filter = "%7B%22filter_type%22:%22PROPERTY%22,%22property_filter%22:%7B%22property%22:%22Folder/name%22,%22operator%22:%22EQUAL%22,%22comparable_type%22:%22STRING%22,%22comparable_string%22:%22b%22%7D%7D";
    let mut filtered = open(&format!("?filter={filter}"), None);
    let mut datacenters = open("?resource_types=Datacenter&resource_types=Datastore", None);
    let write = |id: &str, name: &str| {
        let body = format!(r#"{{"type":"Folder","id":"{id}","properties":{{"name":"{name}"}}}}"#);
        assert_eq!(
            server.ask(&Request::new("POST", "/api/lockstep/resources").session(&token).json(&body)).status,
            201
        );
    };
    write("one", "a");
    let (first, data) = next_event(&mut all);
    assert_eq!((&data["changes"][0]["kind"], &data["changes"][0]["resource"]["id"]), (&json!("CREATE"), &json!("one")));
    assert_eq!(data["sequence"], first.as_str());
    write("two", "b");
    assert_eq!(next_event(&mut all).1["changes"][0]["resource"]["id"], "two");
    assert_eq!(next_event(&mut filtered).1["changes"][0]["resource"]["id"], "two");
    drop(all);
    let mut resumed = open("?sequence_token=overruled", Some(&first));
    assert_eq!(next_event(&mut resumed).1["changes"][0]["resource"]["id"], "two");
    drop(filtered);
    wait_until("the streams that were dropped are gone", || server.metric("lockstep_readers_parked") == 2.0);
    // The session's end is the streams' end.
    assert_eq!(server.ask(&Request::new("DELETE", "/api/session").session(&token)).status, 204);
    for client in [&mut resumed, &mut datacenters] {
        let (_, error) = next_event(client);
        assert_eq!(error["error_type"], "UNAUTHENTICATED");
    }
    wait_until("all streams are gone", || server.metric("lockstep_readers_parked") == 0.0);
}
