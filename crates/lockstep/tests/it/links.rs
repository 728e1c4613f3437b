//! Two real servers: how they are linked, how the link is seen to be well or not, and how it ends.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::sdk;
use crate::server::{PASSWORD, Server, USER, eventually};

/// How long something may take that is told from one server to the other.
pub const SOON: Duration = Duration::from_secs(40);

const PROVIDER: &str = "inventory";

/// A port that is free, so that a server is found again where it was.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A site of that name, over TLS.
pub fn site(name: &str, more: &[&str]) -> Server {
    site_in(name, free_port(), more, &[])
}

/// The same, at that port and with more in its environment.
pub fn site_in(name: &str, port: u16, more: &[&str], environment: &[(&str, &str)]) -> Server {
    let listen = format!("127.0.0.1:{port}");
    let args = ["--site", name, "--listen", &listen, "--no-collect-host", "--no-sample-host"];
    Server::start_in(&[&args, more].concat(), environment)
}

fn port(server: &Server) -> String {
    server.url.rsplit(':').next().unwrap().to_owned()
}

/// The SHA-256 of the certificate that a server shows, as the server's own tools tell it.
fn thumbprint(server: &Server) -> String {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(server.data.path().join("tls-cert.pem"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split_once('=').unwrap().1.to_owned()
}

pub fn spec(peer: &Server, name: &str, more: Value) -> Value {
    let mut spec = json!({"psc_hostname": "127.0.0.1", "port": port(peer), "domain_name": name, "username": USER,
        "password": PASSWORD, "ssl_thumbprint": thumbprint(peer)});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

pub fn link(here: &Server, peer: &Server, name: &str) -> String {
    let made = here.ok("POST", "/api/hvc/links", &spec(peer, name, json!({})));
    made.as_str().unwrap().to_owned()
}

fn health(server: &Server, link: &str) -> Value {
    server.ok("GET", &format!("/api/hvc/links/{link}"), &Value::Null)
}

pub fn wait_for_health(server: &Server, link: &str, status: &str) -> Value {
    eventually(SOON, status, || Some(health(server, link)).filter(|info| info["connection_health_status"] == status))
}

fn links(server: &Server) -> Vec<String> {
    let list = server.ok("GET", "/api/hvc/links", &Value::Null);
    list.as_array().unwrap().iter().map(|link| link["link"].as_str().unwrap().to_owned()).collect()
}

/// Names of the accounts of links.
fn link_accounts(server: &Server) -> Vec<String> {
    let accounts = server.ok("GET", "/api/lockstep/accounts", &Value::Null);
    let names = accounts.as_array().unwrap().iter().map(|account| account["user"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("link-")).collect()
}

fn refused(server: &Server, method: &str, path: &str, body: &Value, status: u16, kind: &str) -> Value {
    let (found, error) = server.call(method, path, body);
    assert_eq!((found, error["error_type"].as_str()), (status, Some(kind)), "{method} {path} {body}: {error}");
    error
}

fn provider_path(link: &str) -> String {
    format!("/api/hvc/links/{link}/sync/providers/{PROVIDER}")
}

fn provider(server: &Server, link: &str) -> Value {
    server.ok("GET", &provider_path(link), &Value::Null)
}

#[test]
fn two_sites_are_linked_seen_from_both_and_parted_from_either() {
    let (mut a, b) = (site("site1.local", &[]), site("site2.local", &[]));
    let made = link(&a, &b, "site2.local");
    assert_eq!((links(&a), links(&b)), (vec![made.clone()], vec![made.clone()]));
    let names = |server: &Server| server.ok("GET", "/api/hvc/links", &Value::Null)[0]["display_name"].clone();
    assert_eq!((names(&a), names(&b)), (json!("site2.local"), json!("site1.local")));
    for server in [&a, &b] {
        let info = wait_for_health(server, &made, "HEALTHY");
        assert_eq!(info, json!({"connection_health_status": "HEALTHY"}));
        assert_eq!(link_accounts(server), [format!("link-{made}")]);
    }
    // Nothing that opens the other site is shown, or stands in a file as it is.
    let shown = a.ok("GET", &format!("/api/lockstep/resources/Link/{made}"), &Value::Null);
    assert!(shown["properties"]["token"].is_null(), "{shown}");
    let key = a.data.path().join("seal-key");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    let journal = std::fs::read_dir(a.data.path().join("journal")).unwrap();
    let needle = format!("link-{made}.");
    for file in journal.map(|file| file.unwrap().path()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(needle.len()).any(|part| part == needle.as_bytes()), "{}", file.display());
    }

    // The link is there after a restart, with the same token.
    a.restart();
    wait_for_health(&a, &made, "HEALTHY");
    assert_eq!(a.ok("GET", "/rest/hvc/links", &Value::Null)["value"][0]["link"], json!(made));

    assert_eq!(a.call("DELETE", &format!("/api/hvc/links/{made}"), &Value::Null).0, 204);
    assert!(
        links(&a).is_empty() && links(&b).is_empty() && link_accounts(&a).is_empty() && link_accounts(&b).is_empty()
    );
    refused(&a, "DELETE", &format!("/api/hvc/links/{made}"), &Value::Null, 404, "NOT_FOUND");
    for kind in ["SyncProvider", "SyncCursor", "Link"] {
        let left = a.ok("GET", &format!("/api/lockstep/resources/{kind}"), &Value::Null);
        assert_eq!(left["resources"], json!([]), "{kind}");
    }

    // From the side that was asked: with credentials, without any, and by the spelling of the second.
    let credentials = |password: &str| json!({"credentials": {"user_name": USER, "password": password}});
    for (action, body) in [
        ("delete", credentials(PASSWORD)),
        ("delete", Value::Null),
        ("delete-with-credentials", credentials(PASSWORD)),
        ("delete-with-credentials", json!({})),
    ] {
        let made = link(&a, &b, "site2.local");
        let path = format!("/api/hvc/links/{made}?action={action}");
        refused(&b, "POST", &path, &credentials("wrong horse"), 400, "INVALID_ARGUMENT");
        assert_eq!(links(&b), [made]);
        assert_eq!(b.call("POST", &path, &body).0, 204, "{path} {body}");
        assert!(links(&a).is_empty() && links(&b).is_empty());
    }
}

#[test]
fn a_link_is_made_only_with_a_certificate_that_is_known() {
    let b = site("site2.local", &[]);
    let pinned = b.data.path().join("tls-cert.pem");
    let (a, c) = (site("site1.local", &[]), site("site3.local", &["--trust-peer", pinned.to_str().unwrap()]));
    let unverified = |server: &Server, thumbprint_given: Value| {
        let body = spec(&b, "site2.local", json!({"ssl_thumbprint": thumbprint_given}));
        let error = refused(server, "POST", "/api/hvc/links", &body, 400, "UNVERIFIED_PEER");
        assert_eq!(error["data"], json!({"ssl_thumbprint": thumbprint(&b)}), "{error}");
        assert!(links(server).is_empty() && link_accounts(server).is_empty() && links(&b).is_empty());
    };
    unverified(&a, json!("00".repeat(32)));
    unverified(&a, Value::Null);
    // Over JSON-RPC the certificate is a structure with a name.
    let (_, answer) = a.call(
        "POST",
        "/api",
        &json!({"jsonrpc": "2.0", "id": "1", "method": "invoke", "params": {"serviceId": "com.vmware.vcenter.hvc.links",
            "operationId": "create", "ctx": {}, "input": {"STRUCTURE": {"operation-input": {"spec": {"STRUCTURE": {
            "com.vmware.vcenter.hvc.links.create_spec": {"psc_hostname": "127.0.0.1", "port": {"OPTIONAL": port(&b)},
            "domain_name": "site2.local", "username": USER, "password": {"SECRET": PASSWORD},
            "ssl_thumbprint": {"OPTIONAL": null}, "admin_groups": {"OPTIONAL": null}}}}}}}}}),
    );
    let error = &answer["result"]["error"]["ERROR"]["com.vmware.vapi.std.errors.unverified_peer"];
    let data = &error["data"]["OPTIONAL"]["STRUCTURE"]["com.vmware.vcenter.hvc.links.certificate_info"];
    assert_eq!(data["ssl_thumbprint"], json!(thumbprint(&b)), "{answer}");

    // A peer that the server was told to trust, and both forms of the body.
    let body =
        json!({"spec": spec(&b, "site2.local", json!({"ssl_thumbprint": null, "admin_groups": ["x@site2.local"]}))});
    let made = c.ok("POST", "/api/hvc/links", &body);
    assert_eq!(c.ok("GET", "/api/hvc/management/administrators", &Value::Null), json!(["x@site2.local"]));
    let details = c.ok("GET", "/api/lockstep/links", &Value::Null);
    assert_eq!(details[0]["ssl_thumbprint"], json!(thumbprint(&b)), "what was verified is held on to");
    // Another spelling of the thumbprint, and another name there for another site.
    let spelled = thumbprint(&b).replace(':', "").to_lowercase();
    a.ok("POST", "/api/hvc/links", &spec(&b, "site2.local", json!({"ssl_thumbprint": spelled})));
    let path = format!("/api/hvc/links/{}", made.as_str().unwrap());
    assert_eq!(c.call("DELETE", &path, &Value::Null).0, 204);
    assert_eq!(links(&b).len(), 1);
}

#[test]
fn what_cannot_be_linked_is_refused_and_leaves_nothing_behind() {
    let (a, b) = (site("site1.local", &[]), site("site2.local", &[]));
    let twin = site("site1.local", &[]);
    let sequence = (a.sequence(), b.sequence());
    let check = |more: Value, kind: &str, part: &str| {
        let status = if kind == "ERROR" { 500 } else { 400 };
        let began = Instant::now();
        let error = refused(&a, "POST", "/api/hvc/links", &spec(&b, "site2.local", more), status, kind);
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert!(began.elapsed() < Duration::from_secs(25));
    };
    let invalid = |more: Value, place: &str| check(more, "INVALID_ARGUMENT", place);
    invalid(json!({"psc_hostname": ""}), "spec.psc_hostname");
    invalid(json!({"psc_hostname": "a/b"}), "spec.psc_hostname");
    invalid(json!({"psc_hostname": "u:p@127.0.0.1"}), "spec.psc_hostname");
    invalid(json!({"psc_hostname": "a b"}), "spec.psc_hostname");
    for port in ["0", "-1", "65536", "x", "", "8443x", "+8443", "99999999999999999999"] {
        invalid(json!({"port": port}), "spec.port");
    }
    invalid(json!({"port": 8443}), "spec.port");
    for name in ["", "a~b", "a b", "a/b", "a\n", &"x".repeat(300)] {
        invalid(json!({"domain_name": name}), "spec.domain_name");
    }
    invalid(json!({"domain_name": "SITE1.local"}), "this site's own name");
    invalid(json!({"username": ""}), "spec.username");
    invalid(json!({"username": null}), "spec.username");
    invalid(json!({"password": ""}), "spec.password");
    invalid(json!({"password": "x".repeat(5000)}), "spec.password");
    for thumbprint in ["", "00", "zz", &"0".repeat(63), &"00".repeat(33)] {
        invalid(json!({"ssl_thumbprint": thumbprint}), "spec.ssl_thumbprint");
    }
    invalid(json!({"admin_groups": ["x"]}), "spec.admin_groups[0]");
    invalid(json!({"admin_groups": ["a@b", "@"]}), "spec.admin_groups[1]");
    check(json!({"more": 1}), "UNEXPECTED_INPUT", "more");
    // The other site refuses.
    invalid(json!({"password": "wrong horse"}), "refuses the login");
    invalid(json!({"username": "nobody@nowhere"}), "refuses the login");
    b.ok("PUT", "/api/lockstep/accounts/reader", &json!({"role": "READ_ONLY", "password": "a good password"}));
    invalid(json!({"username": "reader", "password": "a good password"}), "may not make links");
    // Nobody there, a name that nobody has, something else there, somebody who never answers.
    check(json!({"port": free_port().to_string()}), "ERROR", "lockstep.links.unreachable");
    check(json!({"psc_hostname": "no-such-host.invalid"}), "ERROR", "lockstep.links.unreachable");
    let plain = Server::start();
    check(json!({"port": port(&plain)}), "ERROR", "lockstep.links");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    check(json!({"port": silent.local_addr().unwrap().port().to_string()}), "ERROR", "lockstep.links.unreachable");
    // Itself, by any name; and a site that calls itself the same.
    let body = spec(&a, "myself", json!({}));
    let error = refused(&a, "POST", "/api/hvc/links", &body, 400, "INVALID_ARGUMENT");
    assert!(error.to_string().contains("linked with itself"), "{error}");
    let error = refused(&a, "POST", "/api/hvc/links", &spec(&twin, "twin", json!({})), 400, "INVALID_ARGUMENT");
    assert!(error.to_string().contains("another --site"), "{error}");
    assert!(links(&a).is_empty() && links(&b).is_empty() && links(&twin).is_empty());
    assert!(link_accounts(&a).is_empty() && link_accounts(&b).is_empty() && link_accounts(&twin).is_empty());

    // A second link to the same site, by the same name or, which the other side sees, by another.
    link(&a, &b, "site2.local");
    let error = refused(&a, "POST", "/api/hvc/links", &spec(&b, "Site2.LOCAL", json!({})), 400, "ALREADY_EXISTS");
    assert_eq!(error["messages"][0]["id"], "lockstep.links.exists");
    let error = refused(&a, "POST", "/api/hvc/links", &spec(&b, "again", json!({})), 400, "ALREADY_EXISTS");
    assert_eq!(error["messages"][0]["id"], "lockstep.links.exists_there");
    let error = refused(&b, "POST", "/api/hvc/links", &spec(&a, "site1.local", json!({})), 400, "ALREADY_EXISTS");
    assert_eq!(error["messages"][0]["id"], "lockstep.links.exists");
    assert_eq!((links(&a).len(), links(&b).len(), link_accounts(&a).len(), link_accounts(&b).len()), (1, 1, 1, 1));
    drop(sequence);
}

#[test]
fn a_link_whose_other_side_has_changed_is_unhealthy_and_trusts_nobody() {
    let (mut a, mut b) = (site("site1.local", &[]), site("site2.local", &[]));
    let made = link(&a, &b, "site2.local");
    wait_for_health(&a, &made, "HEALTHY");
    let unhealthy = |server: &Server, id: &str| {
        let info = eventually(SOON, id, || {
            let info = health(server, &made);
            (info["health_status_message"]["id"] == id).then_some(info)
        });
        assert_eq!(info["connection_health_status"], "UNHEALTHY");
        info
    };
    let sync_ends_with = |id: &str| {
        eventually(SOON, id, || {
            let info = provider(&a, &made);
            (info["status"] == "FAILED" && info["status_message"]["id"] == id).then_some(())
        });
    };

    // It is gone, and comes back.
    b.kill();
    unhealthy(&a, "lockstep.sync.unreachable");
    sync_ends_with("lockstep.sync.unreachable");
    b.restart();
    wait_for_health(&a, &made, "HEALTHY");
    eventually(SOON, "the sync goes on", || (provider(&a, &made)["status"] == "SUCCEEDED").then_some(()));

    // Another certificate, though for the same address: not trusted, whatever it says.
    let other = site("site3.local", &[]);
    let (cert, key) = (other.data.path().join("tls-cert.pem"), other.data.path().join("tls-key.pem"));
    let listen = format!("127.0.0.1:{}", port(&b));
    let as_before = ["--site", "site2.local", "--listen", &listen, "--no-collect-host", "--no-sample-host"];
    let changed = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    b.restart_with(&[&as_before[..], &changed[..]].concat());
    let info = unhealthy(&a, "lockstep.sync.unverified");
    assert!(info["health_status_message"]["args"][1] == json!(thumbprint(&other)), "{info}");
    sync_ends_with("lockstep.sync.unverified");
    b.restart_with(&as_before);
    wait_for_health(&a, &made, "HEALTHY");

    // The token is revoked there.
    assert_eq!(b.call("DELETE", &format!("/api/lockstep/accounts/link-{made}"), &Value::Null).0, 204);
    unhealthy(&a, "lockstep.sync.denied");
    sync_ends_with("lockstep.sync.denied");
    wait_for_health(&b, &made, "HEALTHY");

    // What is known is kept over a restart; and the link ends on both sides all the same, since each has a token of its own.
    let before = provider(&a, &made);
    a.kill();
    b.kill();
    a.restart();
    assert_eq!(health(&a, &made)["connection_health_status"], "UNHEALTHY");
    assert_eq!(provider(&a, &made)["status"], before["status"]);
    b.restart();
    assert_eq!(b.call("DELETE", &format!("/api/hvc/links/{made}"), &Value::Null).0, 204);
    assert!(links(&a).is_empty() && links(&b).is_empty());

    // The other side cannot be reached: this half ends, the other is told by its health.
    let made = link(&a, &b, "site2.local");
    wait_for_health(&b, &made, "HEALTHY");
    let mut gone = a;
    gone.kill();
    let began = Instant::now();
    assert_eq!(b.call("DELETE", &format!("/api/hvc/links/{made}"), &Value::Null).0, 204);
    assert!(began.elapsed() < Duration::from_secs(15) && links(&b).is_empty());
    gone.restart();
    let info = eventually(SOON, "the half that is left is unhealthy", || {
        Some(health(&gone, &made)).filter(|info| info["health_status_message"]["id"] == "lockstep.sync.denied")
    });
    assert_eq!(info["connection_health_status"], "UNHEALTHY");
    assert_eq!(gone.call("DELETE", &format!("/api/hvc/links/{made}"), &Value::Null).0, 204);
    assert!(links(&gone).is_empty() && link_accounts(&gone).is_empty());
}

#[test]
fn the_seeds_operation_answers_in_every_state() {
    let (a, b) = (site("site1.local", &[]), site("site2.local", &[]));
    let lines = (0..4000).map(|n| {
        json!({"type": "Folder", "id": format!("f{n}"), "properties": {"name": format!("folder {n}")}}).to_string()
    });
    b.import(lines.collect::<Vec<_>>().join("\n"));
    let made = link(&a, &b, "site2.local");
    let path = provider_path(&made);
    let list = a.ok("GET", &format!("/api/hvc/links/{made}/sync/providers"), &Value::Null);
    let all = [PROVIDER, "tagging", "acquisition-specs"].map(|name| json!({"provider": name}));
    assert_eq!(list, json!(all));

    // From never synced to the first success; then a forced one, watched from its beginning.
    let mut seen = Vec::new();
    eventually(SOON, "the first sync", || {
        let info = provider(&a, &made);
        check_unions(&info);
        seen.push(info["status"].as_str().unwrap().to_owned());
        (info["status"] == "SUCCEEDED").then_some(())
    });
    seen.dedup();
    assert!(seen.iter().all(|status| status == "NO_SYNC_FOUND" || status == "SUCCEEDED"), "{seen:?}");
    assert!(provider(&a, &made)["current_session_info"].is_null(), "none was forced");
    let start = format!("{path}?action=start");
    for body in [Value::Null, json!({}), json!({"credentials": {"user_name": USER, "password": PASSWORD}})] {
        eventually(SOON, "no sync is under way", || match a.call("POST", &start, &body) {
            (204, _) => Some(()),
            (500, error) => {
                assert_eq!(error["error_type"], "RESOURCE_BUSY", "{error}");
                None
            }
            other => panic!("{other:?}"),
        });
        let session = provider(&a, &made)["current_session_info"].clone();
        assert!(session.is_object(), "the session is there when start has answered");
        let (mut completed, mut stages) = (0, Vec::new());
        let info = eventually(SOON, "the session ends", || {
            let info = provider(&a, &made);
            check_unions(&info);
            let session = &info["current_session_info"];
            let now = session["completed_work"].as_i64().unwrap();
            assert!(now >= completed, "work only grows");
            completed = now;
            stages.push(session["stage"].as_str().unwrap().to_owned());
            (session["stage"] == "COMPLETED").then_some(info)
        });
        let order =
            ["WAITING", "CHANGE_DETECTION", "CHANGE_ENUMERATION", "CHANGE_APPLICATION", "COMPLETED"].map(str::to_owned);
        let places: Vec<_> =
            stages.iter().map(|stage| order.iter().position(|known| known == stage).unwrap()).collect();
        assert!(places.is_sorted(), "{stages:?}");
        assert_eq!(info["status"], "SUCCEEDED");
    }

    // By every spelling: the seed's, the legacy one, the one by rule, JSON-RPC.
    let info = provider(&a, &made);
    assert_eq!(a.ok("GET", &format!("/rest/hvc/links/{made}/sync/providers/{PROVIDER}"), &Value::Null)["value"], info);
    let by_rule = format!("/rest/com/vmware/vcenter/hvc/links/sync/providers/{PROVIDER}?link={made}");
    assert_eq!(a.ok("GET", &by_rule, &Value::Null)["value"], info);
    let rpc = json!({"jsonrpc": "2.0", "id": "4", "method": "invoke", "params": {"ctx": {}, "operationId": "get",
        "serviceId": "com.vmware.vcenter.hvc.links.sync.providers",
        "input": {"STRUCTURE": {"operation-input": {"link": made, "provider": PROVIDER}}}}});
    let (_, answer) = a.call("POST", "/api", &rpc);
    let typed = &answer["result"]["output"]["STRUCTURE"]["com.vmware.vcenter.hvc.links.sync.providers.info"];
    assert_eq!(
        (&typed["status"], &typed["status_message"]),
        (&json!("SUCCEEDED"), &json!({"OPTIONAL": null})),
        "{answer}"
    );

    // Not there, not logged in, not allowed.
    for (path, part) in [
        (provider_path("none"), "lockstep.links.not_found"),
        (format!("/api/hvc/links/{made}/sync/providers/none"), "lockstep.sync.not_found"),
    ] {
        let error = refused(&a, "GET", &path, &Value::Null, 404, "NOT_FOUND");
        assert_eq!(error["messages"][0]["id"], part);
        refused(&a, "POST", &format!("{path}?action=start"), &Value::Null, 404, "NOT_FOUND");
    }
    refused(&a, "GET", "/api/hvc/links/none/sync/providers", &Value::Null, 404, "NOT_FOUND");
    refused(&a, "POST", "/api/hvc/links/none/sync?action=reset", &Value::Null, 404, "NOT_FOUND");
    let anonymous = crate::server::http(Duration::from_secs(10));
    assert_eq!(anonymous.get(format!("{}{path}", a.url)).send().unwrap().status().as_u16(), 401);
    a.ok("PUT", "/api/lockstep/accounts/reader", &json!({"role": "READ_ONLY", "password": "a good password"}));
    let as_reader = |method: &str, path: &str, body: Value| {
        let request = anonymous.request(method.parse().unwrap(), format!("{}{path}", a.url));
        let request = request.basic_auth("reader", Some("a good password")).json(&body);
        crate::server::read(request.send().unwrap())
    };
    assert_eq!(as_reader("GET", &path, json!({})).0, 200);
    let administrators = "/api/hvc/management/administrators";
    for (method, path, body) in [
        ("POST", start.clone(), json!({})),
        ("POST", format!("/api/hvc/links/{made}/sync?action=reset"), json!({})),
        ("POST", "/api/hvc/links".to_owned(), spec(&b, "again", json!({}))),
        ("DELETE", format!("/api/hvc/links/{made}"), json!({})),
        ("POST", format!("/api/lockstep/links/{made}?action=leave"), json!({})),
        ("POST", "/api/lockstep/links?action=invite".to_owned(), json!({})),
        ("POST", format!("{administrators}?action=add"), json!({"group_name": "a@b"})),
        ("PUT", administrators.to_owned(), json!({"group_names": []})),
    ] {
        let (status, error) = as_reader(method, &path, body);
        assert_eq!((status, &error["error_type"]), (403, &json!("UNAUTHORIZED")), "{method} {path}");
    }

    // A failure, and what a reset forgets.
    drop(b);
    eventually(SOON, "a failed forced sync", || {
        a.call("POST", &start, &Value::Null);
        let info = provider(&a, &made);
        check_unions(&info);
        (info["status"] == "FAILED" && info["current_session_info"]["stage"] == "FAILED").then_some(())
    });
    assert_eq!(a.call("POST", &format!("/api/hvc/links/{made}/sync?action=reset"), &Value::Null).0, 204);
    let info = provider(&a, &made);
    check_unions(&info);
    assert!(info["current_session_info"].is_null(), "{info}");
}

/// What the clients check on arrival.
fn check_unions(info: &Value) {
    let is_set = |value: &Value| !value.is_null();
    assert_eq!(is_set(&info["status_message"]), info["status"] == "FAILED", "{info}");
    assert!(info["polling_interval_in_seconds"].as_i64().unwrap() > 0, "{info}");
    assert!(info["status"] == "NO_SYNC_FOUND" || is_set(&info["last_sync_time"]), "{info}");
    let session = &info["current_session_info"];
    if is_set(session) {
        let stage = session["stage"].as_str().unwrap();
        assert_eq!(is_set(&session["completion_time"]), matches!(stage, "COMPLETED" | "FAILED"), "{info}");
        assert_eq!(is_set(&session["exception"]), stage == "FAILED", "{info}");
        let work = |name: &str| session[name].as_i64().unwrap();
        let (completed, total) = (work("completed_work"), work("total_work"));
        assert!(0 <= completed && completed <= total, "{info}");
        assert!(stage != "WAITING" || total == 0, "{info}");
        assert!(stage != "COMPLETED" || completed == total, "{info}");
    }
}

#[test]
fn a_peer_that_lies_in_the_handshake_is_refused() {
    let a = site("site1.local", &[]);
    let accept = "/api/lockstep/links?action=accept";
    let id = "6f2c0000-0000-4000-8000-000000000001";
    let good = json!({"link": id, "site": "liar.local", "log": "00", "url": "https://127.0.0.1:1",
        "ssl_thumbprint": "00".repeat(32), "token": "link-x.00"});
    for (field, value) in [
        ("link", json!("not a uuid")),
        ("link", json!("../../etc")),
        ("site", json!("a~b")),
        ("site", json!("")),
        ("site", json!("Site1.Local")),
        ("log", json!("")),
        ("log", json!("x".repeat(5000))),
        ("url", json!("ftp://x")),
        ("url", json!("http://10.0.0.1:80")),
        ("url", json!("https://u:p@x")),
        ("ssl_thumbprint", json!("zz")),
        ("ssl_thumbprint", Value::Null),
        ("token", json!("a\r\nb")),
        ("token", json!("x".repeat(5000))),
    ] {
        let mut body = good.clone();
        body[field] = value;
        refused(&a, "POST", accept, &body, 400, "INVALID_ARGUMENT");
    }
    // Without a login, an invitation is what it takes.
    let anonymous = crate::server::http(Duration::from_secs(10));
    let mut body = good.clone();
    assert_eq!(anonymous.post(format!("{}{accept}", a.url)).json(&body).send().unwrap().status().as_u16(), 401);
    body["invitation"] = json!("0".repeat(64));
    assert_eq!(anonymous.post(format!("{}{accept}", a.url)).json(&body).send().unwrap().status().as_u16(), 403);
    assert!(links(&a).is_empty() && link_accounts(&a).is_empty());

    // A link to nobody: unhealthy, and the token given for it may leave that link and do nothing else.
    let answer = a.ok("POST", accept, &good);
    let token = answer["token"].as_str().unwrap();
    eventually(SOON, "unhealthy", || (health(&a, id)["connection_health_status"] == "UNHEALTHY").then_some(()));
    let as_peer = |method: &str, path: &str| {
        let request = anonymous.request(method.parse().unwrap(), format!("{}{path}", a.url)).bearer_auth(token);
        request.json(&json!({})).send().unwrap().status().as_u16()
    };
    assert_eq!(as_peer("POST", "/api/lockstep/links/6f2c0000-0000-4000-8000-000000000002?action=leave"), 403);
    assert_eq!(as_peer("DELETE", &format!("/api/hvc/links/{id}")), 403);
    assert_eq!(as_peer("POST", "/api/lockstep/resources"), 403);
    assert_eq!(as_peer("GET", "/api/lockstep/accounts"), 403);
    assert_eq!(as_peer("POST", &format!("/api/lockstep/links/{id}?action=leave")), 204);
    assert_eq!(as_peer("GET", "/api/hvc/links"), 401, "its token has gone with the link");
    assert!(links(&a).is_empty());

    // Somebody who answers without an end, in plain HTTP on this machine: the link is unhealthy, and the server as small as before.
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", endless.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in endless.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = client.read(&mut [0; 4096]);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
                let chunk = format!("100000\r\n{}\r\n", "[".repeat(1 << 20));
                let _ = client.write_all(head.as_bytes());
                while client.write_all(chunk.as_bytes()).is_ok() {}
            });
        }
    });
    let mut body = good;
    (body["url"], body["ssl_thumbprint"]) = (json!(url), Value::Null);
    a.ok("POST", accept, &body);
    let info = wait_for_health(&a, id, "UNHEALTHY");
    assert!(info["health_status_message"]["id"] == "lockstep.sync.malformed", "{info}");
    std::thread::sleep(Duration::from_secs(3));
    let status = std::fs::read_to_string(format!("/proc/{}/status", a.pid())).unwrap();
    let peak_kib: u64 =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap();
    assert!(peak_kib < 400 << 10, "{peak_kib} KiB");
    assert_eq!(a.call("DELETE", &format!("/api/hvc/links/{id}"), &Value::Null).0, 204);
}

#[test]
fn administrators_are_a_set_without_regard_to_case() {
    let a = site("site1.local", &[]);
    let path = "/api/hvc/management/administrators";
    let get = || a.ok("GET", path, &Value::Null);
    let change =
        |action: &str, name: &str| a.call("POST", &format!("{path}?action={action}"), &json!({"group_name": name})).0;
    assert_eq!(get(), json!([]));
    assert_eq!((change("add", "Ops@Site2.local"), change("add", "ops@site2.local")), (204, 204));
    assert_eq!((change("remove", "none@site2.local"), get()), (204, json!(["Ops@Site2.local"])));
    assert_eq!(a.call("PUT", path, &json!({"group_names": ["a@b", "A@B", "c@d"]})).0, 204);
    assert_eq!((get(), change("remove", "A@b"), get()), (json!(["a@b", "c@d"]), 204, json!(["c@d"])));
    assert_eq!(a.ok("GET", "/rest/hvc/management/administrators", &Value::Null)["value"], json!(["c@d"]));
    for bad in [json!({"group_name": "x"}), json!({"group_name": ""}), json!({}), json!({"group_name": 7})] {
        refused(&a, "POST", &format!("{path}?action=add"), &bad, 400, "INVALID_ARGUMENT");
    }
    refused(&a, "PUT", path, &json!({"group_names": ["a@b", "x"]}), 400, "INVALID_ARGUMENT");
    let many: Vec<String> = (0..1001).map(|n| format!("g{n}@d")).collect();
    refused(&a, "PUT", path, &json!({"group_names": many}), 400, "INVALID_ARGUMENT");
    assert_eq!(get(), json!(["c@d"]));
}

/// What a command that must succeed printed.
pub fn cli(server: &Server, args: &[&str]) -> String {
    let output = server.cli(args).env("LOCKSTEP_PEER_PASSWORD", PASSWORD).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[test]
fn people_link_sites_from_the_command_line() {
    let (a, b) = (site("site1.local", &[]), site("site2.local", &[]));
    b.ok("POST", "/api/lockstep/resources", &json!({"type": "Folder", "id": "f", "properties": {"name": "x"}}));
    let peer = b.url.trim_start_matches("https://");
    let unknown =
        a.cli(&["link", "create", peer, "fra02"]).env("LOCKSTEP_PEER_PASSWORD", PASSWORD).stdin(Stdio::null()).output();
    let told = String::from_utf8_lossy(&unknown.unwrap().stderr).into_owned();
    assert!(told.contains(&thumbprint(&b)) && told.contains("--peer-thumbprint"), "{told}");

    let made = cli(&a, &["link", "create", peer, "fra02", "--peer-thumbprint", &thumbprint(&b)]);
    assert_eq!(made.trim(), links(&a)[0]);
    let synced = cli(&a, &["link", "sync", "fra02"]);
    assert!(synced.contains("inventory") && synced.contains("COMPLETED"), "{synced}");
    assert!(synced.contains("tagging") && synced.contains("acquisition-specs"), "{synced}");
    cli(&a, &["link", "sync", made.trim(), "inventory", "--reset"]);
    cli(&a, &["link", "conflicts"]);
    let copied = cli(&a, &["query", "Folder where linked_from.domain_name = fra02 select name", "--output", "csv"]);
    assert!(copied.contains("fra02~f"), "{copied}");
    let table =
        eventually(SOON, "in step", || Some(cli(&a, &["link", "list"])).filter(|table| table.contains("IN STEP")));
    assert!(table.contains("fra02") && table.contains("HEALTHY") && table.contains("0 s"), "{table}");
    eprintln!("{table}");
    eprintln!("{}", cli(&a, &["link", "providers", "fra02"]));
    assert!(cli(&a, &["link", "list", "--output", "json"]).contains("\"lag_s\": 0"));
    let groups = cli(&a, &["link", "administrators", "--add", "ops@fra02"]);
    assert!(groups.contains("ops@fra02"), "{groups}");

    // What came over a link goes with it when that is asked for.
    cli(&a, &["link", "delete", "fra02", "--purge"]);
    eventually(SOON, "the link is purged", || links(&a).is_empty().then_some(()));
    let left = a.ok("GET", "/api/lockstep/resources/Folder", &Value::Null);
    assert_eq!(left["resources"], json!([]));
    assert!(links(&b).is_empty());

    // By invitation, with no account of the other site; once.
    let line = cli(&b, &["link", "invite"]);
    let made = cli(&a, &["link", "join", line.trim()]);
    assert_eq!((links(&a), links(&b)), (vec![made.trim().to_owned()], vec![made.trim().to_owned()]));
    wait_for_health(&a, made.trim(), "HEALTHY");
    wait_for_health(&b, made.trim(), "HEALTHY");
    let name = a.ok("GET", "/api/hvc/links", &Value::Null)[0]["display_name"].clone();
    assert_eq!(name, "site2.local", "what the other calls itself");
    cli(&a, &["link", "delete", "site2.local"]);
    let again = a.cli(&["link", "join", line.trim()]).output().unwrap();
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && told.contains("does not take the invitation"), "{told}");
    let nonsense = a.cli(&["link", "join", "https://x"]).output().unwrap();
    assert!(String::from_utf8_lossy(&nonsense.stderr).contains("no invitation"));
}

#[test]
fn the_python_sdk_links_sites_over_tls() {
    let Some(python) = sdk::python("vmware.vapi") else { return };
    let b = site("site2.local", &[]);
    let peer_ca = b.data.path().join("tls-cert.pem");
    let peer_ca = peer_ca.to_str().unwrap();
    let a = site("site1.local", &["--trust-peer", peer_ca]);
    let ca = a.data.path().join("tls-cert.pem");
    let host = |server: &Server| server.url.trim_start_matches("https://").to_owned();
    let (here, there, thumbprint) = (host(&a), host(&b), thumbprint(&b));
    let arguments = [&here, ca.to_str().unwrap(), &there, peer_ca, USER, PASSWORD, "site2.local", &thumbprint];
    sdk::run(python, "links.py", arguments);
}
