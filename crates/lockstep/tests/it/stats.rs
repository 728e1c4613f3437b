//! Stats over the wire: specifications, cache sync, points, and what is refused.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lockstep_contract::points::{Batch, Identifier, Series};
use prost::Message as _;
use serde_json::{Value, json};

use crate::sdk;
use crate::server::{Server, read};

fn server() -> Server {
    Server::start_with(&["--plain-http", "--no-collect-host", "--no-sample-host"])
}

pub fn now_s() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
}

fn spec(more: Value) -> Value {
    let mut spec = json!({"counters": {"cid_mid": {"cid": "cpu.capacity.usage.HOST"}},
        "resources": [{"predicate": "EQUAL", "scheme": "moid", "type": "HOST", "id_value": "host-35"}], "interval": 60});
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}

fn create(server: &Server, more: Value) -> String {
    server.ok("POST", "/api/stats/acq-specs", &spec(more)).as_str().unwrap().to_owned()
}

/// Registers a provider of these counters.
fn provide(server: &Server, counters: &[&str]) {
    let body = json!({"host": "host-35", "metadata": "test", "counters": counters});
    server.ok("POST", "/api/lockstep/stats/providers?action=register", &body);
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One page of a sync with the end that it tells.
fn sync(server: &Server, query: &str) -> (Value, i64) {
    let response = server.request("GET", &format!("/api/stats/cache/sync?{query}")).send().unwrap();
    let end = response.headers().get("lockstep-end-epoch").map(|v| v.to_str().unwrap().parse().unwrap());
    let (status, body) = read(response);
    assert_eq!(status, 200, "{body}");
    (body, end.unwrap())
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_str().or(item.as_str()).unwrap()).collect()
}

#[test]
fn a_specification_lives_as_the_clients_of_vcenter_expect() {
    let mut server = server();
    // Nobody offers the counter yet: the specification says so, and goes on by itself when somebody does.
    let id = create(&server, json!({}));
    let get = |server: &Server, id: &str| server.ok("GET", &format!("/api/stats/acq-specs/{id}"), &Value::Null);
    assert_eq!(id, "1", "ids are small decimal numbers");
    let info = get(&server, &id);
    let expiration = info["expiration"].as_i64().unwrap();
    assert!((now_s() + 5990..=now_s() + 6000).contains(&expiration), "100 minutes");
    let mut expected = spec(json!({"id": "1", "status": "DISABLED", "memo_": "", "expiration": expiration}));
    expected["counters"] = json!({"cid_mid": {"cid": "cpu.capacity.usage.HOST", "mid": ""}, "set_id": ""});
    assert_eq!(info, expected);
    provide(&server, &["cpu.capacity.usage.HOST"]);
    wait_until("the specification is enabled", || get(&server, &id)["status"] == "ENABLED");

    // A client sends back what it read, with another expiration: as Centreon's plugin does.
    let mut full = get(&server, &id);
    for member in ["id", "status"] {
        full.as_object_mut().unwrap().remove(member);
    }
    full["expiration"] = (now_s() + 1).into();
    let (status, body) = server.call("PATCH", &format!("/api/stats/acq-specs/{id}"), &full);
    assert_eq!((status, body), (204, json!("")));
    // It expires on time without anybody asking, and is revived by moving the expiration.
    let token = server.sequence();
    let (_, changes) = server.changes(&token);
    let event = &changes["value"]["changes"][0];
    assert_eq!(event["resource"], json!({"type": "AcqSpec", "id": "1"}), "{changes}");
    assert_eq!(event["properties"], json!(["status", "status_reason"]));
    assert_eq!(get(&server, &id)["status"], "EXPIRED");
    server.ok("PATCH", &format!("/api/stats/acq-specs/{id}"), &json!({"expiration": 0}));
    assert_eq!(get(&server, &id)["status"], "ENABLED");

    // Specifications are resources: queried by any property, and there after a crash.
    let found = server.query(json!({"resource_filter": {"filter_type": "PROPERTY", "property_filter":
        {"property": "AcqSpec/counters/cid", "operator": "STARTS_WITH", "comparable_type": "STRING", "comparable_string": "cpu."}},
        "property_spec": ["AcqSpec/status"]}));
    assert_eq!(found["items"][0]["property_values"][0]["value"], "ENABLED");
    server.restart();
    assert_eq!(get(&server, &id)["status"], "ENABLED");
    server.ok("DELETE", &format!("/api/stats/acq-specs/{id}"), &Value::Null);
    assert_eq!(server.get(&format!("/api/stats/acq-specs/{id}")).0, 404);
    // An id is not given twice, whatever happened between.
    server.restart();
    assert_eq!(create(&server, json!({})), "2");
    assert_eq!(server.ok("GET", "/rest/stats/acq-specs", &Value::Null)["value"]["acq_specs"][0]["id"], "2");
    let legacy = server.ok("GET", "/rest/com/vmware/vstats/acq-specs", &Value::Null);
    assert_eq!(legacy["value"]["acq_specs"][0]["id"], "2");
}

#[test]
fn a_cache_is_told_each_change_once() {
    let mut server = server();
    provide(&server, &["cpu.capacity.usage.HOST"]);
    let (a, b, c) = (create(&server, json!({})), create(&server, json!({})), create(&server, json!({})));
    let (full, end) = sync(&server, "start_epoch=0");
    assert_eq!(ids(&full["created_acq_specs"]), [&*a, &b, &c]);
    assert_eq!((&full["updated_acq_specs"], &full["deleted_acq_specs"]), (&json!([]), &json!([])));
    assert!(full["next"].is_null());
    let first = &full["created_acq_specs"][0];
    assert_eq!(
        (&first["endpoints"], &first["status"], &first["status_reason"], &first["interval"]),
        (&json!([]), &json!("ENABLED"), &json!(""), &json!(60))
    );

    // The epoch has closed: what happens in the same second belongs to a later one.
    server.ok("PATCH", &format!("/api/stats/acq-specs/{a}"), &json!({"interval": 30}));
    server.ok("DELETE", &format!("/api/stats/acq-specs/{b}"), &Value::Null);
    let d = create(&server, json!({}));
    let gone = create(&server, json!({}));
    server.ok("DELETE", &format!("/api/stats/acq-specs/{gone}"), &Value::Null);
    let again = sync(&server, &format!("start_epoch=0&end_epoch={end}")).0;
    assert_eq!(again["created_acq_specs"], full["created_acq_specs"], "what was answered stays true");
    server.restart();
    let (change, next_end) = sync(&server, &format!("start_epoch={end}&end_epoch={}", end + 2));
    assert_eq!(next_end, end + 2);
    assert_eq!(ids(&change["created_acq_specs"]), [&*d]);
    assert_eq!(ids(&change["updated_acq_specs"]), [&*a]);
    assert_eq!(change["updated_acq_specs"][0]["interval"], 30);
    assert_eq!(ids(&change["deleted_acq_specs"]), [&*b]);
    let nothing = sync(&server, &format!("start_epoch={next_end}&end_epoch={next_end}")).0;
    assert_eq!(nothing, json!({"created_acq_specs": [], "updated_acq_specs": [], "deleted_acq_specs": []}));
    // JSON-RPC has the same.
    let rpc = json!({"jsonrpc": "2.0", "id": "7", "method": "invoke", "params": {"serviceId": "com.vmware.vstats.cache",
        "operationId": "get", "ctx": {}, "input": {"STRUCTURE": {"operation-input": {"start_epoch": end, "end_epoch": {"OPTIONAL": next_end},
        "page": {"OPTIONAL": null}}}}}});
    let answer = server.ok("POST", "/api", &rpc);
    let result = &answer["result"]["output"]["STRUCTURE"]["com.vmware.vstats.cache.sync_result"];
    assert_eq!(result["deleted_acq_specs"], json!([b]), "{answer}");
}

#[test]
fn a_large_set_is_synced_in_pages_that_stay_what_they_were() {
    let server = server();
    let lines: String = (1..=2500)
        .map(|id| {
            let properties = json!({"counters": {"cid": "cpu.capacity.usage.HOST"}, "interval": 10, "expiration": now_s() + 600,
                "resources": [{"type": "HOST", "id_value": "h", "predicate": "EQUAL", "scheme": "moid"}], "status": "DISABLED"});
            json!({"type": "AcqSpec", "id": format!("{id}"), "properties": properties}).to_string() + "\n"
        })
        .collect();
    let (status, report) = server.import(lines);
    assert_eq!(status, 200, "{report}");
    let end = now_s() + 1;
    let mut found: Vec<String> = Vec::new();
    let mut page = String::new();
    let mut pages = 0;
    loop {
        let (answer, _) = sync(&server, &format!("start_epoch=0&end_epoch={end}{page}"));
        found.extend(ids(&answer["created_acq_specs"]).into_iter().map(str::to_owned));
        pages += 1;
        // Meanwhile the world goes on.
        create(&server, json!({}));
        server.ok("DELETE", &format!("/api/stats/acq-specs/{}", 100 + pages), &Value::Null);
        server.ok("PATCH", &format!("/api/stats/acq-specs/{}", 200 + pages), &json!({"interval": 5}));
        match answer["next"].as_str() {
            Some(next) => page = format!("&page={next}"),
            None => break,
        }
    }
    let mut expected: Vec<String> = (1..=2500).map(|id| id.to_string()).collect();
    expected.sort();
    assert_eq!((pages, found), (3, expected));
    let listed = server.ok("GET", "/api/stats/acq-specs", &Value::Null);
    assert_eq!(listed["acq_specs"].as_array().unwrap().len(), 1000);
    assert!(server.get(&format!("/api/stats/acq-specs?page={}", listed["next"].as_str().unwrap())).0 == 200);
}

pub fn series(cid: &str, address: &[(&str, &str)], points: &[(i64, f64)]) -> Series {
    let identifier = |(kind, id): &(&str, &str)| Identifier { r#type: (*kind).to_owned(), id: (*id).to_owned() };
    Series {
        cid: cid.to_owned(),
        address: address.iter().map(identifier).collect(),
        times: Series::deltas(points.iter().map(|(time, _)| *time)),
        values: points.iter().map(|(_, value)| *value).collect(),
    }
}

fn batch(series: Vec<Series>) -> Value {
    json!({"points": STANDARD.encode(Batch { series }.encode_to_vec())})
}

/// All points of a query, page by page.
fn points(server: &Server, query: &str) -> Vec<(String, i64, f64)> {
    let mut out = Vec::new();
    let mut page = String::new();
    loop {
        let (status, answer) = server.get(&format!("/api/stats/data/dp?{query}{page}"));
        assert_eq!(status, 200, "{answer}");
        out.extend(answer["data_points"].as_array().unwrap().iter().map(|p| {
            (
                format!("{}@{}", p["cid"].as_str().unwrap(), p["rid"].as_str().unwrap()),
                p["ts"].as_i64().unwrap(),
                p["val"].as_f64().unwrap(),
            )
        }));
        match answer["next"].as_str() {
            Some(next) => page = format!("&page={next}"),
            None => return out,
        }
    }
}

#[test]
fn points_are_stored_once_and_queried_by_every_filter() {
    let mut server = server();
    let now = now_s();
    let run = |from: i64, count: i64| -> Vec<(i64, f64)> { (0..count).map(|i| (from + i, i as f64 / 4.0)).collect() };
    let host = |host: &'static str| vec![("HOST", host)];
    let vm = |vm: &'static str, host: &'static str| vec![("VM", vm), ("HOST", host)];
    let all = || {
        batch(vec![
            series("cpu.capacity.usage.HOST", &host("h1"), &run(now - 3000, 2500)),
            series("cpu.capacity.usage.HOST", &host("h2"), &run(now - 100, 10)),
            series("disk.throughput.usage.VM", &vm("v1", "h1"), &run(now - 100, 5)),
            series("disk.throughput.usage.VM", &vm("v2", "h2"), &run(now - 100, 5)),
        ])
    };
    let written = server.ok("POST", "/api/lockstep/stats/points", &all());
    assert_eq!(written, json!({"stored": 2520, "too_old": 0, "too_new": 0}));
    server.ok("POST", "/api/lockstep/stats/points", &all());
    server.restart();
    server.ok("POST", "/api/lockstep/stats/points", &all());
    let stale = batch(vec![series(
        "mem.capacity.usage.HOST",
        &host("h1"),
        &[(now - 400_000, 1.0), (now + 7200, 1.0), (now, 1.0)],
    )]);
    let written = server.ok("POST", "/api/lockstep/stats/points", &stale);
    assert_eq!(written, json!({"stored": 1, "too_old": 1, "too_new": 1}));

    let count = |query: &str| points(&server, query).len();
    let everything = points(&server, "");
    assert_eq!(everything.len(), 2521);
    assert!(everything.is_sorted_by(|a, b| (&a.0, a.1) < (&b.0, b.1)), "by counter, address and time");
    assert_eq!(count("cid=cpu.capacity.usage.HOST"), 2510);
    assert_eq!(count("metric=disk.throughput.usage"), 10);
    assert_eq!(count("cid=no.such.counter"), 0);
    assert_eq!(count("types=VM"), 10);
    assert_eq!(count("types=HOST"), 2521);
    assert_eq!(count("types=VM&types=HOST&cid=disk.throughput.usage.VM"), 10);
    assert_eq!(count("rsrcs=type.VM.moid=v1"), 5);
    assert_eq!(count("rsrcs=type.VM%3Dv1"), 5);
    assert_eq!(count("rsrcs=type.HOST=h2"), 15);
    assert_eq!(count("rsrcs=type.HOST=h2&rsrcs=type.HOST=h1&order=DEFAULT"), 2521);
    assert_eq!(count("rsrcs=type.HOST=h2&rsrcs=type.VM=v1&rsrcs=type.VM=v2"), 5);
    assert_eq!(count(&format!("start={}&end={}&cid=cpu.capacity.usage.HOST", now - 3000, now - 2990)), 10, "half open");
    assert_eq!(count(&format!("start={now}&end={now}")), 0);
    // The last element is the newest, as a well-known client relies on.
    let newest = points(&server, &format!("rsrcs=type.HOST.moid=h2&cid=cpu.capacity.usage.HOST&start={}", now - 120));
    assert_eq!(newest.last().map(|p| (p.1, p.2)), Some((now - 91, 2.25)));

    // A page's token holds its place while points come in before and after it.
    let first = server.ok("GET", "/api/stats/data/dp?cid=cpu.capacity.usage.HOST", &Value::Null);
    let more = batch(vec![series("cpu.capacity.usage.HOST", &host("h1"), &[(now - 3500, 9.0), (now, 9.0)])]);
    server.ok("POST", "/api/lockstep/stats/points", &more);
    let next = first["next"].as_str().unwrap();
    let second = server.ok("GET", &format!("/api/stats/data/dp?cid=cpu.capacity.usage.HOST&page={next}"), &Value::Null);
    let last = first["data_points"].as_array().unwrap().last().unwrap()["ts"].as_i64().unwrap();
    assert_eq!(second["data_points"][0]["ts"].as_i64().unwrap(), last + 1);

    let address = server.ok("GET", "/api/stats/rsrc-addrs?rsrcs=type.VM=v1", &Value::Null);
    let address = &address["rsrc_addrs"][0];
    let types: Vec<&str> =
        address["resource_ids"].as_array().unwrap().iter().map(|i| i["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["VM", "HOST"]);
    assert_eq!(
        server.ok("GET", &format!("/api/stats/rsrc-addrs/{}", address["id"].as_str().unwrap()), &Value::Null),
        *address
    );

    let columns = server.ok(
        "POST",
        "/api/lockstep/stats/series?action=query",
        &json!({"filter": {"cids": ["cpu.capacity.usage.HOST"], "resources": ["type.HOST=h2"]}}),
    );
    assert_eq!(columns["resolution"], "RAW");
    assert_eq!(columns["series"][0]["times"].as_array().unwrap().len(), 10);
    let latest = server.ok(
        "POST",
        "/api/lockstep/stats/series?action=query",
        &json!({"filter": {"latest": true, "types": ["VM"]}}),
    );
    assert_eq!(latest["series"].as_array().unwrap().len(), 2);
    let means = server.ok("POST", "/api/lockstep/stats/series?action=query",
        &json!({"filter": {"cids": ["cpu.capacity.usage.HOST"], "resources": ["type.HOST=h1"], "resolution": "FIVE_MINUTES"}}));
    assert_eq!(means["resolution"], "FIVE_MINUTES");

    let metrics = server.request("GET", "/metrics").send().unwrap().text().unwrap();
    let line =
        metrics.lines().find(|l| l.starts_with("lockstep_cpu_capacity_usage{") && l.contains("host=\"h2\"")).unwrap();
    assert!(line.ends_with(&format!("}} 2.25 {}", now - 91)), "{line}");
    assert!(metrics.ends_with("# EOF\n") && metrics.matches("# EOF").count() == 1);
}

#[test]
fn an_agent_may_do_its_work_and_no_more() {
    let server = server();
    let issue = json!({"role": "AGENT", "description": "the agent of host-35"});
    let token = server.ok("POST", "/api/lockstep/accounts/agent-35?action=issue-token", &issue);
    let token = token.as_str().unwrap().to_owned();
    let http = crate::server::http(Duration::from_secs(10));
    let call = |token: &str, method: &str, path: &str, body: &Value| {
        let request = http.request(method.parse().unwrap(), format!("{}{path}", server.url)).bearer_auth(token);
        read(if body.is_null() { request } else { request.json(body) }.send().unwrap())
    };
    let register = json!({"host": "host-35", "metadata": "x", "counters": ["cpu.capacity.usage.HOST"]});
    let path = "/api/lockstep/stats/providers?action=register";
    let (status, registered) = call(&token, "POST", path, &register);
    assert_eq!((status, &registered["id"]), (200, &json!("host-35")), "{registered}");
    assert_eq!(call(&token, "GET", "/api/stats/cache/sync?start_epoch=0", &Value::Null).0, 200);
    let mut points = batch(vec![series("cpu.capacity.usage.HOST", &[("HOST", "host-35")], &[(now_s(), 1.0)])]);
    points["provider"] = "host-35".into();
    assert_eq!(call(&token, "POST", "/api/lockstep/stats/points", &points).0, 200);
    points["provider"] = "nobody".into();
    let (status, error) = call(&token, "POST", "/api/lockstep/stats/points", &points);
    assert_eq!((status, &error["messages"][0]["id"]), (400, &json!("lockstep.stats.provider_unknown")));
    assert_eq!(call(&token, "GET", "/api/lockstep/accounts", &Value::Null).0, 403);
    assert_eq!(call(&format!("{token}0"), "GET", "/api/stats/providers", &Value::Null).0, 401);
    assert_eq!(
        call(&token.replace("agent-35", "administrator@lockstep.local"), "GET", "/api/stats/providers", &Value::Null).0,
        401
    );
    // Whoever may only read is no provider.
    let reader = server.ok("POST", "/api/lockstep/accounts/reader?action=issue-token", &json!({"role": "READ_ONLY"}));
    let reader = reader.as_str().unwrap();
    assert_eq!(call(reader, "POST", path, &register).0, 403);
    assert_eq!(call(reader, "POST", "/api/stats/acq-specs", &spec(json!({}))).0, 403);
    // The next token ends the one before, and so does the account.
    let next = server.ok("POST", "/api/lockstep/accounts/agent-35?action=issue-token", &issue);
    assert_eq!(call(&token, "GET", "/api/stats/providers", &Value::Null).0, 401);
    let next = next.as_str().unwrap();
    assert_eq!(call(next, "GET", "/api/stats/providers", &Value::Null).0, 200);
    let accounts = server.ok("GET", "/api/lockstep/accounts", &Value::Null);
    assert!(
        !accounts.to_string().contains(&next[..12.min(next.len())][9..]) || accounts.to_string().contains("has_token")
    );
    server.ok("DELETE", "/api/lockstep/accounts/agent-35", &Value::Null);
    assert_eq!(call(next, "GET", "/api/stats/providers", &Value::Null).0, 401);
}

#[test]
fn bad_input_gets_the_error_of_the_contract_and_changes_nothing() {
    let server = server();
    provide(&server, &["cpu.capacity.usage.HOST"]);
    let id = create(&server, json!({}));
    let before = server.sequence();
    let refused = |method: &str, path: &str, body: Value, status: u16, kind: &str| {
        let (found, answer) = server.call(method, path, &body);
        assert_eq!((found, answer["error_type"].as_str()), (status, Some(kind)), "{method} {path} {body}: {answer}");
        assert!(!answer["messages"][0]["default_message"].as_str().unwrap().is_empty());
    };
    let invalid = |method: &str, path: &str, body: Value| refused(method, path, body, 400, "INVALID_ARGUMENT");
    let specs = "/api/stats/acq-specs";
    invalid("POST", specs, json!({}));
    invalid("POST", specs, json!({"counters": {}, "resources": []}));
    for wrong in [
        json!({"counters": {}}),
        json!({"counters": {"set_id": "", "cid_mid": {"cid": ""}}}),
        json!({"counters": {"cid_mid": {"cid": "x"}}}),
        json!({"counters": {"cid_mid": {}}}),
        json!({"counters": {"cid_mid": {"cid": "cpu.capacity.usage.HOST", "mid": "17"}}}),
        json!({"counters": {"cid_mid": {"cid": "cpu.capacity.usage.HOST"}, "set_id": "cpu.HOST"}}),
        json!({"counters": {"set_id": "nothing"}}),
        json!({"counters": 7}),
        json!({"resources": []}),
        json!({"resources": [{}]}),
        json!({"resources": [{"id_value": "h"}]}),
        json!({"resources": [{"type": "VM", "id_value": "v"}]}),
        json!({"resources": [{"type": "HOST", "id_value": ""}]}),
        json!({"resources": [{"type": "HOST", "id_value": "h", "predicate": "ALL"}]}),
        json!({"resources": [{"type": "HOST", "id_value": "h", "predicate": "PARENT"}]}),
        json!({"resources": [{"type": "HOST", "id_value": "h", "scheme": "uuid"}]}),
        json!({"resources": [{"type": "HOST", "id_value": "h", "key": "k"}]}),
        json!({"resources": [{"type": "HOST", "id_value": "h"}, {"type": "HOST", "id_value": "i"}]}),
        json!({"interval": 0}),
        json!({"interval": -5}),
        json!({"interval": 86_401}),
        json!({"interval": 1.5}),
        json!({"interval": "10"}),
        json!({"expiration": -1}),
        json!({"expiration": i64::MAX}),
        json!({"memo_": "x".repeat(2000)}),
    ] {
        invalid("POST", specs, spec(wrong.clone()));
        if wrong["counters"] != json!({}) {
            invalid("PATCH", &format!("{specs}/{id}"), wrong);
        }
    }
    refused("POST", specs, spec(json!({"memo": "x"})), 400, "UNEXPECTED_INPUT");
    refused("POST", specs, json!([]), 400, "INVALID_ARGUMENT");
    invalid("GET", "/api/stats/acq-specs?page=zzz", Value::Null);
    for (method, path) in [("GET", "/api/stats/acq-specs/99"), ("DELETE", "/api/stats/acq-specs/99")] {
        refused(method, path, Value::Null, 404, "NOT_FOUND");
    }
    refused("PATCH", "/api/stats/acq-specs/99", json!({"interval": 5}), 404, "NOT_FOUND");
    for path in [
        "/api/stats/counters/none",
        "/api/stats/counters/none/metadata",
        "/api/stats/counters/none/metadata/default",
        "/api/stats/counters/none/metadata/1",
        "/api/stats/counters/cpu.capacity.usage.HOST/metadata/1",
        "/api/stats/counter-sets/none",
        "/api/stats/rsrc-addrs/7",
        "/api/stats/rsrc-addrs/x",
        "/api/stats/rsrc-addr-schemas/none",
    ] {
        refused("GET", path, Value::Null, 404, "NOT_FOUND");
    }
    invalid("GET", "/api/stats/counters/cpu.capacity.usage.HOST/metadata?status=GOOD", Value::Null);
    for query in [
        "start=2&end=1",
        "start=x",
        "end=1.5",
        "order=RANDOM",
        "page=zzz",
        "rsrcs=HOST",
        "rsrcs=type.HOST",
        "rsrcs=type.HOST=none",
        "types=NONE",
        "start=99999999999999999999",
    ] {
        invalid("GET", &format!("/api/stats/data/dp?{query}"), Value::Null);
    }
    let error = server.get("/api/stats/data/dp?rsrcs=type.HOST=none").1;
    assert_eq!(error["messages"][0]["id"], "com.vmware.vstats.data_points_invalid_resource_filter");
    for query in ["rsrcs=HOST", "page=zzz", "types=NONE", "rsrcs=type.HOST=none"] {
        invalid("GET", &format!("/api/stats/rsrc-addrs?{query}"), Value::Null);
    }
    let now = now_s();
    for query in [
        String::new(),
        "start_epoch=".to_owned(),
        "start_epoch=-1".to_owned(),
        "start_epoch=x".to_owned(),
        "start_epoch=1.5".to_owned(),
        format!("start_epoch={now}&end_epoch={}", now - 1),
        format!("start_epoch=0&end_epoch={}", now + 100),
        format!("start_epoch=0&end_epoch={}", i64::MAX),
        "start_epoch=0&page=zzz".to_owned(),
        "start_epoch=0&start_epoch=0".to_owned(),
    ] {
        invalid("GET", &format!("/api/stats/cache/sync?{query}"), Value::Null);
    }
    refused("GET", "/api/stats/cache/sync?start_epoch=0&more=1", Value::Null, 400, "UNEXPECTED_INPUT");
    let points = "/api/lockstep/stats/points";
    let good = || series("cpu.capacity.usage.HOST", &[("HOST", "h")], &[(now, 1.0)]);
    invalid("POST", points, json!({}));
    invalid("POST", points, json!({"points": "%%%"}));
    invalid("POST", points, json!({"points": STANDARD.encode(b"\xff\xff")}));
    invalid("POST", points, batch(vec![good(), series("none", &[("HOST", "h")], &[])]));
    invalid("POST", points, batch(vec![good(), series("cpu.capacity.usage.HOST", &[], &[])]));
    invalid(
        "POST",
        points,
        batch(vec![good(), series("cpu.capacity.usage.HOST", &[("HOST", "h")], &[(now, f64::NAN)])]),
    );
    assert_eq!(
        server.ok("GET", "/api/stats/data/dp", &Value::Null)["data_points"],
        json!([]),
        "nothing of a refused batch is there"
    );
    let register = "/api/lockstep/stats/providers?action=register";
    invalid("POST", register, json!({"host": "", "metadata": "", "counters": []}));
    invalid("POST", register, json!({"host": "h", "metadata": "", "counters": ["none"]}));
    invalid("POST", register, json!({"host": "h", "metadata": "x".repeat(5000), "counters": []}));
    refused("DELETE", "/api/lockstep/stats/providers/none", Value::Null, 404, "NOT_FOUND");
    let series_path = "/api/lockstep/stats/series?action=query";
    invalid("POST", series_path, json!({}));
    invalid("POST", series_path, json!({"filter": {"start": 2, "end": 1}}));
    invalid("POST", series_path, json!({"filter": {"resources": ["x"]}}));
    // What has a service of its own is written by nobody else.
    invalid("POST", "/api/lockstep/resources", json!({"type": "AcqSpec", "id": "7", "properties": {}}));
    invalid("DELETE", &format!("/api/lockstep/resources/AcqSpec/{id}"), Value::Null);
    let anonymous = crate::server::http(Duration::from_secs(10));
    for path in ["/api/stats/cache/sync?start_epoch=0", "/api/stats/acq-specs", "/api/stats/data/dp"] {
        assert_eq!(anonymous.get(format!("{}{path}", server.url)).send().unwrap().status().as_u16(), 401);
    }
    assert_eq!(server.sequence(), before, "nothing changed");
}

#[test]
fn the_python_sdk_discovers_acquires_and_queries_over_tls() {
    let Some(python) = sdk::python("vmware.vapi") else { return };
    // With a virtual machine, if there can be one, the disk counters of machines have points too.
    let qemu = crate::agent::idle_machines(1);
    let server = Server::start_with(&[]);
    let machine = (!qemu.is_empty()).then(|| "--vm".to_owned());
    sdk::run(python, "stats.py", sdk::address(&server).into_iter().chain(machine));
}
