//! The commands, as people and scripts run them.

use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::server::Server;

fn run(server: &Server, args: &[&str]) -> Output {
    server.cli(args).stdin(Stdio::null()).output().unwrap()
}

/// What a command that must succeed printed.
fn ok(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[test]
fn an_inventory_is_imported_queried_changed_checked_and_exported() {
    let server = Server::start();
    let file = server.data.path().join("in.ndjson");
    let line = |n: usize| json!({"type": "Folder", "id": format!("f{n}"), "properties": {"name": format!("folder {n}"), "kind": "X"}});
    let lines: Vec<String> = (0..1500).map(|n| line(n).to_string()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let path = file.to_str().unwrap();
    ok(&server, &["import", path]);

    let text = "Folder where name ends with ' 7' or id is f9 select name order by name desc count";
    let answer: Value = serde_json::from_str(&ok(&server, &["query", text, "--output", "json"])).unwrap();
    assert!(answer.to_string().contains("folder 9") && answer.to_string().contains("folder 7"), "{answer}");
    let table = ok(&server, &["query", text]);
    assert!(table.lines().count() == 3 && table.starts_with("id"), "{table}");
    let csv = ok(&server, &["query", "Folder select name limit 2", "--output", "csv"]);
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let all = ok(&server, &["query", "Folder select name", "--all", "--output", "csv"]);
    assert_eq!(all.lines().count(), 1501);

    ok(&server, &["resource", "patch", "Folder", "f1", "-p", "name=\"renamed\""]);
    let got = ok(&server, &["resource", "get", "Folder", "f1", "--output", "json"]);
    assert!(got.contains("renamed"), "{got}");
    ok(&server, &["resource", "delete", "Folder", "f2"]);
    ok(&server, &["check", "--seconds", "1"]);

    let exported = ok(&server, &["export", "--type", "Folder"]);
    assert_eq!(exported.lines().count(), 1499);
    assert!(ok(&server, &["model", "get", "Folder"]).contains("parent"));
    assert!(ok(&server, &["status", "--output", "json"]).contains("\"resources\""));
    assert!(ok(&server, &["completions", "bash"]).contains("lockstep"));
}

#[test]
fn failures_say_what_to_do_and_exit_with_1() {
    let server = Server::start();
    let check = |args: &[&str], code: i32, expected: &str| {
        let output = run(&server, args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    };
    check(&["query", "Folder where nme = x"], 1, "no property nme at column 14");
    check(&["query"], 2, "Usage");
    check(&["resource", "get", "Folder", "nope"], 1, "nope");
    check(&["--password", "wrong password", "status"], 1, "password");
    check(&["--url", "http://127.0.0.1:1", "status"], 1, "127.0.0.1:1");
    let bad = server.data.path().join("bad.ndjson");
    std::fs::write(&bad, "{\"type\":\"Folder\",\"id\":\"a\",\"properties\":{}}\n{\"type\":\"Folder\",\"id\":\"b\",\"properties\":{\"nme\":1}}\n").unwrap();
    check(&["import", bad.to_str().unwrap()], 1, "line 2");
}

#[test]
fn memory_is_bounded_when_a_client_sends_a_hundred_megabytes() {
    let server = Server::start();
    let body = vec![b'x'; 100 << 20];
    let sent =
        server.request("POST", "/api/lockstep/query").header("content-type", "application/json").body(body).send();
    // Refused by its length before it is read; the connection may close under the rest of it.
    if let Ok(answer) = sent {
        assert_eq!(answer.status(), 413);
    }
    let (status, error) = server.import(vec![b'x'; 30 << 20]);
    assert_eq!((status, &error["error_type"]), (400, &json!("INVALID_ARGUMENT")), "{error}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak_kib: u64 =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap();
    assert!(peak_kib < 200 << 10, "{peak_kib} KiB");
    assert_eq!(server.get("/healthz").0, 200);
}
