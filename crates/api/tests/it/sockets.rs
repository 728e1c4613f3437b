//! HTTP as it comes off the wire: in pieces, in heaps, too slow, too large, or broken.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use lockstep_api::Limits;

use crate::harness::{PASSWORD, POLL_LIMIT, Request, Server, USER, wait_until};

fn session() -> Request {
    Request::new("GET", "/api/session")
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let token = server.log_in();
    let mut client = server.connect();
    let one = |id: usize| {
        Request::new("GET", "/api/session").session(&token).header("X-Request-ID", &format!("r{id}")).bytes()
    };
    client.send(&(0..50).flat_map(one).collect::<Vec<_>>());
    for id in 0..50 {
        let response = client.response();
        assert_eq!((response.status, response.header("x-request-id")), (200, Some(&*format!("r{id}"))));
    }
}

#[test]
fn a_request_may_come_byte_by_byte_and_in_chunks() {
    let server = Server::start();
    let token = server.log_in();
    let mut client = server.connect();
    for byte in session().session(&token).bytes() {
        client.send(&[byte]);
    }
    assert_eq!(client.response().status, 200);
    let head = format!(
        "POST /api/lockstep/query HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nvmware-api-session-id: {token}\r\n\r\n"
    );
    let text = r#"{"text":"Folder select name"}"#;
    let (a, b) = text.split_at(9);
    let chunks = format!("{:x};ext=1\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\nTrailer: t\r\n\r\n", a.len(), b.len());
    client.send(head.as_bytes());
    client.send(chunks.as_bytes());
    let response = client.response();
    assert_eq!((response.status, &*response.body), (200, r#"{"items":[]}"#));
    // A chunk of no size ends the request, not the server.
    client.send(head.as_bytes());
    client.send(b"zz\r\nnonsense");
    let response = client.response();
    assert_eq!((response.status, &*response.error()), (400, "INVALID_REQUEST"));
    assert_eq!(client.rest(), "");
    assert_eq!(server.ask(&session().session(&token)).status, 200);
}

#[test]
fn http_1_0_gets_an_answer_and_an_end() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(b"GET /healthz HTTP/1.0\r\n\r\n");
    let all = client.rest();
    assert!(all.starts_with("HTTP/1.0 200") && all.ends_with("\r\n\r\nalive\n"), "{all}");
}

#[test]
fn a_client_that_has_sent_all_and_closed_its_half_is_answered() {
    let server = Server::start();
    // A login takes a blocking thread, so the end of the client's half is seen before the answer is there.
    let mut client = server.connect();
    client.send(&Request::new("POST", "/api/session").basic(USER, PASSWORD).bytes());
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.response().status, 201);
    assert_eq!(client.rest(), "");
}

#[test]
fn a_head_that_is_too_large_or_malformed_is_refused() {
    let server = Server::start();
    let ask = |request: &str| {
        let mut client = server.connect();
        client.send(request.as_bytes());
        let response = client.rest();
        response.get(9..12).map(str::to_owned)
    };
    assert_eq!(ask(&format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(100_000))).as_deref(), Some("431"));
    assert_eq!(ask(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200))).as_deref(), Some("431"));
    assert_eq!(ask("nonsense\r\n\r\n").as_deref(), Some("400"));
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n").as_deref(), Some("400"));
    assert_eq!(ask("GET /\u{1} HTTP/1.1\r\n\r\n").as_deref(), Some("400"));
    assert_eq!(ask("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}").as_deref(), Some("400"));
}

#[test]
fn a_body_beyond_its_limit_is_refused_and_the_answer_arrives() {
    let limits = Limits { body_bytes_max: 1000, ..Limits::default() };
    let server = Server::start_with(limits, false, |_| {});
    let token = server.log_in();
    let post = Request::new("POST", "/api/lockstep/query").session(&token);
    let refused = |response: &crate::harness::Response| {
        assert_eq!((response.status, &*response.error()), (413, "INVALID_REQUEST"), "{response:?}");
    };
    // The client sends all of it, as most do, before it reads.
    refused(&server.ask(&post.clone().json(&"x".repeat(4 << 20))));
    refused(&server.ask(&Request::new("POST", "/api").json(&"x".repeat(1001))));
    let mut client = server.connect();
    let head = post.header("Content-Type", "application/json").header("Transfer-Encoding", "chunked").bytes();
    client.send(&head);
    client.send(format!("7d0\r\n{}\r\n", "x".repeat(2000)).as_bytes());
    refused(&client.response());
    assert_eq!(server.metric("lockstep_request_body_bytes"), 0.0);
}

#[test]
fn what_comes_too_slowly_is_given_up() {
    let short = Duration::from_millis(300);
    let limits = Limits { head_timeout: short, body_timeout: short, ..Limits::default() };
    let server = Server::start_with(limits, false, |_| {});
    let token = server.log_in();
    let mut silent = server.connect();
    let mut slow_head = server.connect();
    slow_head.send(b"GET / HTTP/1.1\r\nA: b");
    let mut slow_body = server.connect();
    slow_body.send(
        &Request::new("POST", "/api/lockstep/query").session(&token).header("Content-Length", "100").json("").bytes(),
    );
    let mut slow_import = server.connect();
    let import = Request::new("POST", "/api/lockstep/resources?action=import").session(&token);
    slow_import.send(&import.header("Content-Length", "100").body("application/x-ndjson", "").bytes());
    for client in [&mut slow_body, &mut slow_import] {
        let response = client.response();
        assert_eq!((response.status, &*response.error()), (408, "INVALID_REQUEST"));
    }
    assert_eq!((silent.rest(), slow_head.rest()), (String::new(), String::new()));
    wait_until("only the asking connection is left", || server.metric("lockstep_connections ") == 1.0);
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let limits = Limits { stall_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start_with(limits, false, |_| {});
    let token = server.log_in();
    let name = "n".repeat(100_000);
    for i in 0..100 {
        let body = format!(r#"{{"type":"Folder","id":"f{i}","properties":{{"name":"{name}"}}}}"#);
        assert_eq!(
            server.ask(&Request::new("POST", "/api/lockstep/resources").session(&token).json(&body)).status,
            201
        );
    }
    let mut client = server.connect();
    client.send(&Request::new("GET", "/api/lockstep/resources?action=export").session(&token).bytes());
    client.until("\r\n\r\n");
    wait_until("the export's place is free", || server.metric("lockstep_requests_in_flight") == 1.0);
    wait_until("the connection is gone", || server.metric("lockstep_connections ") == 1.0);
}

#[test]
fn limits_of_connections_and_requests_are_answers() {
    let limits = Limits { connections_max: 3, parked_max: 1, ..Limits::default() };
    let server = Server::start_with(limits, false, |_| {});
    let token = server.log_in();
    let current =
        server.ask(&Request::new("POST", "/api/cdc/change-log?action=get-current-sequence").session(&token)).json();
    let changes = Request::new("POST", "/api/cdc/change-log?action=get-changes")
        .session(&token)
        .json(&format!(r#"{{"sequence_token":{current}}}"#));
    let mut parked = server.connect();
    parked.send(&changes.bytes());
    wait_until("the reader is parked", || server.metric("lockstep_readers_parked") == 1.0);
    let mut second = server.connect();
    second.send(&changes.bytes());
    let refused = second.response();
    assert_eq!((refused.status, &*refused.error()), (503, "SERVICE_UNAVAILABLE"));
    assert_eq!(refused.json()["data"]["is_transient"], true);
    let mut third = server.connect();
    third.send(&session().session(&token).bytes());
    assert_eq!(third.response().status, 200);
    let fourth = server.connect().rest();
    assert!(fourth.starts_with("HTTP/1.1 503"), "{fourth}");
    assert_eq!(parked.response().status, 200);
}

#[test]
fn a_parked_reader_that_hangs_up_is_gone_at_once() {
    let server = Server::start();
    let token = server.log_in();
    let current =
        server.ask(&Request::new("POST", "/api/cdc/change-log?action=get-current-sequence").session(&token)).json();
    let changes = Request::new("POST", "/rest/com/vmware/cdc/change-log?~action=get-changes")
        .session(&token)
        .json(&format!(r#"{{"sequence_token":{current}}}"#));
    let started = Instant::now();
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&changes.bytes()));
    wait_until("all are parked", || server.metric("lockstep_readers_parked") == 20.0);
    assert_eq!(server.metric("lockstep_requests_in_flight"), 1.0);
    drop(clients);
    wait_until("all are gone", || server.metric("lockstep_readers_parked") == 0.0);
    assert!(started.elapsed() < POLL_LIMIT, "{:?}", started.elapsed());
    // One that sends its next request ahead is answered twice.
    let mut eager = server.connect();
    eager.send(&[changes.bytes(), session().session(&token).bytes()].concat());
    let waited = eager.response().json();
    assert_eq!(waited, serde_json::json!({ "value": { "sequence": current } }));
    assert_eq!(eager.response().status, 200);
}
