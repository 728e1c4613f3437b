//! Two real servers and the API of Cloud Director Availability in front of them: as its real clients log in, page, poll and sync.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};

use crate::links::{SOON, link, site, wait_for_health};
use crate::server::{PASSWORD, Server, USER, eventually, http, read};

const NEWEST: &str = "application/vnd.vmware.h4-v4.7+json;charset=UTF-8";

const BLOCK: usize = 65536;

/// A client of the API with a session.
struct Api {
    http: Client,
    url: String,
    token: String,
}

impl Api {
    fn log_in(server: &Server) -> Self {
        let http = http(Duration::from_secs(30));
        let body = json!({"type": "localUser", "localUser": USER, "localPassword": PASSWORD});
        let response = http.post(format!("{}/sessions", server.url)).json(&body).send().unwrap();
        assert_eq!(response.status(), 200);
        let token = response.headers()["x-vcav-auth"].to_str().unwrap().to_owned();
        Self { http, url: server.url.clone(), token }
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Response {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        let request = request.header("X-VCAV-Auth", &self.token).header("operationID", "Powershell__4711");
        if body.is_null() { request.send().unwrap() } else { request.json(body).send().unwrap() }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        read(self.send(method, path, body))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, &Value::Null);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// A call that begins a task; answers the task at its end.
    fn task(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, task) = self.call(method, path, body);
        assert_eq!(status, 202, "{method} {path}: {task}");
        self.ended(&task, "")
    }

    /// Polls as the community's PowerShell module does.
    fn ended(&self, task: &Value, query: &str) -> Value {
        let path = format!("/tasks/{}{query}", task["id"].as_str().unwrap());
        eventually(SOON * 2, "the end of a task", || Some(self.get(&path)).filter(|task| task["state"] != "RUNNING"))
    }

    fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let task = self.task(method, path, body);
        assert_eq!(task["state"], "SUCCEEDED", "{method} {path}: {task}");
        task
    }

    fn refused(&self, method: &str, path: &str, body: &Value, status: u16, code: &str) -> Value {
        let (found, error) = self.call(method, path, body);
        assert_eq!((found, error["code"].as_str()), (status, Some(code)), "{method} {path} {body}: {error}");
        check_error(&error);
        error
    }
}

/// The four members that an error always has.
fn check_error(error: &Value) {
    let members: Vec<&String> = error.as_object().unwrap().keys().collect();
    assert_eq!(members, ["code", "msg", "args", "stacktrace"], "{error}");
    assert!(error["msg"].is_string() && error["args"].is_array() && error["stacktrace"].is_string(), "{error}");
}

/// Two linked sites.
fn pair(more: &[&str]) -> (Server, Server) {
    let (a, b) = (site("site1", more), site("site2", more));
    let made = link(&a, &b, "site2.local");
    wait_for_health(&a, &made, "HEALTHY");
    wait_for_health(&b, &made, "HEALTHY");
    (a, b)
}

/// A raw image in which every third block holds something.
fn image(dir: &Path, name: &str, blocks: usize) -> PathBuf {
    let path = dir.join(name);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len((blocks * BLOCK) as u64).unwrap();
    (0..blocks).step_by(3).for_each(|block| write_block(&path, block, block as u64 + 1));
    path
}

fn write_block(path: &Path, block: usize, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; BLOCK];
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&bytes, (block * BLOCK) as u64).unwrap();
}

fn machine(server: &Server, id: &str, name: &str, disks: &[&Path]) {
    let disk = |path: &&Path| json!({"label": "disk", "path": path, "format": "raw"});
    let disks: Vec<Value> = disks.iter().map(disk).collect();
    let properties = json!({"name": name, "power_state": "POWERED_OFF", "disks": disks});
    let path = format!("/api/lockstep/resources/VirtualMachine/{id}");
    server.ok("PUT", &path, &json!({"properties": properties}));
}

/// What a client of the vendor sends to replicate a machine.
fn start(vm: &str, more: Value) -> Value {
    let mut body = json!({
        "source": {"type": "vm", "site": "site1", "vmId": vm},
        "destination": {"type": "vcloud", "site": "site2", "vdc": "vdc-1", "storageProfile": "*"},
        "description": "d", "rpo": 60, "quiesced": false, "dataConnectionType": "encrypted_compressed",
        "targetDiskType": "thin", "retentionPolicy": {"rules": [{"numberOfInstances": 5, "distance": 0}]},
        "isMigration": false, "somethingElse": {"a": 1},
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn id_of(task: &Value) -> String {
    task["result"]["id"].as_str().unwrap().to_owned()
}

fn instances(api: &Api, id: &str) -> Vec<Value> {
    api.get(&format!("/vm-replications/{id}/instances")).as_array().unwrap().clone()
}

fn wait_for_instances(api: &Api, id: &str, count: usize) -> Vec<Value> {
    eventually(SOON * 2, "an instance", || {
        let shown = api.get(&format!("/vm-replications/{id}"));
        let found = instances(api, id);
        assert!(shown["destinationState"]["lastError"].is_null(), "{shown}");
        Some(found).filter(|found| found.len() >= count && shown["task"].is_null())
    })
}

#[test]
fn logins_go_by_all_bodies_and_the_header_is_spelled_as_scripts_look_for_it() {
    let server = Server::start();
    let http = http(Duration::from_secs(30));
    let post = |body: Value| http.post(format!("{}/sessions", server.url)).json(&body).send().unwrap();
    let made = post(json!({"type": "localUser", "localUser": USER, "localPassword": PASSWORD}));
    assert_eq!(made.status(), 200);
    let token = made.headers()["x-vcav-auth"].to_str().unwrap().to_owned();
    let answered_type = made.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(answered_type, NEWEST);
    let details: Value = made.json().unwrap();
    assert_eq!(details["authenticatedSites"], json!([{"site": "site", "org": "System"}]));
    assert!(details["roles"].as_array().unwrap().contains(&json!("ADMINISTRATORS")), "{details}");
    for body in [
        json!({"type": "vcdCredentials", "vcdUser": USER, "vcdPassword": PASSWORD, "more": 1}),
        json!({"type": "vcdCredentials", "vcdUser": format!("{USER}@System"), "vcdPassword": PASSWORD}),
        json!({"type": "vcdCookie", "vcdCookie": token}),
    ] {
        assert_eq!(post(body.clone()).status(), 200, "{body}");
    }
    for body in [
        json!({"type": "localUser", "localUser": USER, "localPassword": "wrong horse"}),
        json!({"type": "localUser", "localUser": "nobody", "localPassword": PASSWORD}),
        json!({"type": "vcdCookie", "vcdCookie": "x"}),
        json!({"type": "ssoToken", "samlToken": "x"}),
    ] {
        let (status, error) = read(post(body.clone()));
        assert_eq!((status, &error["code"]), (401, &json!("NotAuthenticated")), "{body}");
        check_error(&error);
    }
    let (status, error) = read(post(json!([1])));
    assert_eq!((status, &error["code"]), (400, &json!("InvalidArgument")));
    check_error(&error);

    // As the Ansible modules do: the type of the answer is what is accepted from then on.
    let get = |accept: &str, path: &str| {
        let request = http.get(format!("{}{path}", server.url)).header("X-VCAV-Auth", &token).header("Accept", accept);
        request.send().unwrap()
    };
    assert_eq!(get(&answered_type, "/sessions").status(), 200);
    let older = get("application/vnd.vmware.h4-v3+json;charset=UTF-8", "//sites");
    assert_eq!(
        (older.status().as_u16(), &older.headers()["content-type"]),
        (200, &"application/vnd.vmware.h4-v3+json;charset=UTF-8".parse().unwrap())
    );
    let (status, error) = read(get("application/vnd.vmware.h4-v9+json", "/sites"));
    assert_eq!((status, &error["code"]), (406, &json!("NotAcceptable")));
    check_error(&error);

    // By hand, since clients hide how a header was spelled.
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let body = json!({"type": "localUser", "localUser": USER, "localPassword": PASSWORD}).to_string();
    let head = format!(
        "POST //sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\nX-VCAV-Auth: "), "{answer}");

    let api = Api { http: http.clone(), url: server.url.clone(), token };
    assert_eq!(api.send("DELETE", "/sessions", &Value::Null).status(), 204);
    api.refused("GET", "/sessions", &Value::Null, 401, "NotAuthenticated");
    api.refused("DELETE", "/sessions", &Value::Null, 401, "NotAuthenticated");
    // What needs no login.
    let about = read(http.get(format!("{}/diagnostics/about", server.url)).send().unwrap()).1;
    assert!(about["buildVersion"].as_str().unwrap().starts_with("4."), "{about}");
    let configured = read(http.get(format!("{}/config/is-configured", server.url)).send().unwrap());
    assert_eq!(configured, (200, json!({"isConfigured": true})));
}

#[test]
fn a_login_before_every_request_is_cheap_and_leaves_few_sessions() {
    let server = Server::start();
    let began = Instant::now();
    for _ in 0..200 {
        let one = Instant::now();
        let api = Api::log_in(&server);
        api.get("/sites");
        assert!(one.elapsed() < Duration::from_secs(10), "{:?}", one.elapsed());
    }
    let metrics = server.request("GET", "/metrics").send().unwrap().text().unwrap();
    let sessions = metrics.lines().find_map(|line| line.strip_prefix("lockstep_sessions ")).unwrap();
    let sessions: u32 = sessions.parse().unwrap();
    println!("200 logins and requests took {:?}, and left {sessions} sessions", began.elapsed());
    assert!(sessions <= 64, "{sessions}");
}

#[test]
fn a_machine_is_replicated_as_the_seed_asks_for_it() {
    let (a, b) = pair(&[]);
    let dir = tempfile::tempdir().unwrap();
    let disks = [image(dir.path(), "a.raw", 96), image(dir.path(), "b.raw", 40)];
    machine(&a, "vm-1", "web 1", &[&disks[0], &disks[1]]);
    let (source, destination) = (Api::log_in(&a), Api::log_in(&b));

    let found = source.get("/inventory/vms?name=WEB");
    assert_eq!((&found["total"], &found["items"][0]["id"]), (&json!(1), &json!("vm-1")), "{found}");
    let task = source.done("POST", "/vm-replications", &start("vm-1", json!({})));
    assert_eq!(task["resultType"], "SingleVmReplicationInfo");
    assert_eq!((&task["workflowInfo"]["type"], &task["site"]), (&json!("start"), &json!("site1")));
    let id = id_of(&task);
    let first = wait_for_instances(&source, &id, 1);
    assert_eq!(first[0]["isPinned"], false);

    // The seed's request, as it is written.
    write_block(&disks[0], 1, 77);
    write_block(&disks[1], 39, 78);
    let response = source.send("POST", &format!("//vm-replications/{id}/sync?site=site1"), &Value::Null);
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["operationid"], "Powershell__4711");
    assert_eq!(response.headers()["content-type"], NEWEST);
    let begun: Value = response.json().unwrap();
    let members: Vec<&str> = begun.as_object().unwrap().keys().map(String::as_str).collect();
    for member in [
        "id",
        "user",
        "site",
        "state",
        "progress",
        "startTime",
        "lastUpdated",
        "endTime",
        "resultType",
        "result",
        "error",
        "warnings",
        "workflowInfo",
    ] {
        assert!(members.contains(&member), "{member}: {begun}");
    }
    assert_eq!((&begun["endTime"], &begun["error"], &begun["result"]), (&json!(-1), &Value::Null, &Value::Null));
    let ended = source.ended(&begun, "");
    assert_eq!((&ended["state"], &ended["progress"]), (&json!("SUCCEEDED"), &json!(100)), "{ended}");
    assert_eq!(ended["result"]["id"], json!(id));
    assert_eq!(
        ended["workflowInfo"],
        json!({"type": "sync", "resourceType": "vmReplication", "resourceId": id,
        "resourceName": "web 1"})
    );
    let found = source.get("/tasks?operationID=Powershell__4711&resourceType=vmReplication&state=SUCCEEDED");
    assert!(found["items"].as_array().unwrap().iter().any(|task| task["id"] == begun["id"]), "{found}");
    let log = a.ok("GET", &format!("/api/lockstep/tasks/{}/log", begun["id"].as_str().unwrap()), &Value::Null);
    assert!(log.to_string().contains("reads by"), "{log}");

    // Both sites tell the same, by either name; two blocks were sent.
    let both = instances(&source, &id);
    assert_eq!((both.len(), &both), (2, &instances(&destination, &id)));
    let shown = source.get(&format!("/replications/{}", id.replace("C4-", "H4-")));
    assert_eq!((&shown["side"], &shown["destinationState"]["state"]), (&json!("SOURCE"), &json!("idle")));
    assert_eq!(shown["lastSync"]["sentBytes"], json!(2 * BLOCK), "{shown}");
    assert_eq!(shown["destinationState"]["latestInstance"]["key"], both[1]["key"]);
    assert_eq!((&shown["overallHealth"], &shown["dataConnectionState"]), (&json!("GREEN"), &json!("OK")));
    let one = destination.get(&format!("/vm-replications/{id}/instances/{}", both[1]["key"].as_str().unwrap()));
    let keys: Vec<&Value> = one["disksInfo"].as_array().unwrap().iter().map(|disk| &disk["diskKey"]).collect();
    assert_eq!(keys, [&json!(2000), &json!(2001)]);
    eventually(SOON, "the destination to hear of it", || {
        let twin = destination.get(&format!("/vm-replications/{id}"));
        (twin["side"] == "DESTINATION" && twin["lastSync"] == shown["lastSync"]).then_some(())
    });

    // The instance, exported, is what the source is; the source is asked, and the destination does it.
    let export = json!({"directory": "one"});
    let path = format!("/api/lockstep/replication/vm-replications/{id}/export");
    let begun = a.ok("POST", &path, &export);
    assert_eq!(source.ended(&begun, "")["state"], "SUCCEEDED");
    for (key, disk) in [(2000, &disks[0]), (2001, &disks[1])] {
        let exported = b.data.path().join(format!("exports/one/disk-{key}.raw"));
        assert!(std::fs::read(exported).unwrap() == std::fs::read(disk).unwrap(), "disk {key}");
    }
    let begun = b.ok("POST", &format!("/api/lockstep/replication/vm-replications/{id}/verify"), &Value::Null);
    assert_eq!(destination.ended(&begun, "")["state"], "SUCCEEDED");
    for name in ["../x", "/etc", ".hidden", "a//b", ""] {
        let begun = b.ok("POST", &path, &json!({"directory": name}));
        assert_eq!(destination.ended(&begun, "")["error"]["code"], "InvalidArgument", "{name}");
    }

    // Pause and resume, from either side.
    source.done("POST", &format!("/vm-replications/{id}/pause"), &Value::Null);
    source.refused("POST", &format!("/vm-replications/{id}/sync"), &Value::Null, 409, "OperationNotAllowedInState");
    let resumed = destination.done("POST", &format!("/vm-replications/{id}/resume"), &Value::Null);
    assert_eq!(resumed["site"], "site2");
    assert_eq!(source.get(&format!("/vm-replications/{id}"))["isPaused"], false);
    let changed = source.done("PATCH", &format!("/vm-replications/{id}"), &json!({"rpo": 5, "unknown": 1}));
    assert_eq!(
        (&changed["result"]["settings"]["rpo"], &changed["result"]["settings"]["description"]),
        (&json!(5), &json!("d"))
    );
    let synced = destination.done("POST", &format!("/vm-replications/{id}/sync"), &Value::Null);
    assert_eq!(synced["state"], "SUCCEEDED");

    let ended = source.done("DELETE", &format!("/vm-replications/{id}"), &Value::Null);
    assert_eq!((&ended["result"], &ended["resultType"]), (&Value::Null, &Value::Null));
    for api in [&source, &destination] {
        api.refused("GET", &format!("/vm-replications/{id}"), &Value::Null, 404, "ReplicationNotFound");
    }
    let metrics = b.request("GET", "/metrics").send().unwrap().text().unwrap();
    assert!(metrics.contains("lockstep_replication_store_instances 0"), "{metrics}");
}

#[test]
fn calls_run_at_the_other_site_once_the_session_reaches_there() {
    let (a, b) = pair(&[]);
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "a.raw", 6);
    machine(&b, "vm-b", "b", &[&disk]);
    let api = Api::log_in(&a);
    let sites = api.get("/sites");
    let local: Vec<&Value> = sites.as_array().unwrap().iter().filter(|site| site["isLocal"] == true).collect();
    assert_eq!((local.len(), &local[0]["site"], sites.as_array().unwrap().len()), (1, &json!("site1"), 2), "{sites}");
    api.refused("GET", "/inventory/vms?site=nowhere", &Value::Null, 404, "SiteNotFound");
    api.refused("GET", "/inventory/vms?site=site2", &Value::Null, 401, "RemoteAuthenticationFailure");
    let extend =
        |password: &str| json!({"type": "credentials", "site": "site2", "vcdUser": USER, "vcdPassword": password});
    api.refused("POST", "/sessions/extend", &extend("wrong horse"), 401, "RemoteAuthenticationFailure");
    let (status, details) = api.call("POST", "/sessions/extend", &extend(PASSWORD));
    assert_eq!(status, 200, "{details}");
    assert_eq!(
        details["authenticatedSites"],
        json!([{"site": "site1", "org": "System"}, {"site": "site2", "org": "System"}])
    );
    let vms = api.get("/inventory/vms?site=site2");
    assert_eq!((&vms["items"][0]["id"], &vms["items"][0]["replicationId"]), (&json!("vm-b"), &Value::Null), "{vms}");

    // Started there, from here, the other way; its task is asked for there.
    let mut body = start("vm-b", json!({"destination": {"type": "vcloud", "site": "site1"}}));
    body["source"]["site"] = json!("site2");
    let (status, begun) = api.call("POST", "/vm-replications?site=site2", &body);
    assert_eq!(status, 202, "{begun}");
    let ended = api.ended(&begun, "?site=site2");
    assert_eq!((&ended["state"], &ended["site"]), (&json!("SUCCEEDED"), &json!("site2")), "{ended}");
    let found = api.get("/tasks?site=site2&operationID=Powershell__4711");
    assert_eq!(found["items"][0]["id"], begun["id"], "{found}");
    api.refused("GET", "/tasks/x?site=site2", &Value::Null, 404, "TaskNotFound");
    let vapps = api.get("/vapp-replications?sourceSite=site2");
    assert_eq!(vapps["total"], 1, "{vapps}");
    let vapp = vapps["items"][0]["id"].as_str().unwrap().to_owned();
    assert!(vapp.starts_with("C4VAPP-"));
    let synced = api.done("POST", &format!("/vapp-replications/{vapp}/sync"), &Value::Null);
    assert_eq!(
        (&synced["resultType"], &synced["result"]["id"]),
        (&json!("VappReplicationInfo"), &json!(vapp)),
        "{synced}"
    );
}

#[test]
fn errors_have_their_code_and_all_four_members() {
    let (a, b) = pair(&[]);
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "a.raw", 6);
    machine(&a, "vm-1", "one", &[&disk]);
    machine(&a, "vm-none", "none", &[]);
    let api = Api::log_in(&a);
    let nobody = Api { token: "0000".into(), http: api.http.clone(), url: api.url.clone() };
    let some = "/vm-replications/C4-ec991bd5-af9d-446a-8599-5b693842c4a3";
    nobody.refused("POST", &format!("/{some}/sync?site=site1"), &Value::Null, 401, "NotAuthenticated");
    let (status, error) = read(api.http.get(format!("{}/tasks", a.url)).send().unwrap());
    assert_eq!((status, &error["code"]), (401, &json!("NotAuthenticated")));
    api.refused("POST", &format!("/{some}/sync?site=site9"), &Value::Null, 404, "SiteNotFound");
    api.refused("POST", &format!("{some}/sync"), &Value::Null, 404, "ReplicationNotFound");
    api.refused("GET", "/tasks/ec991bd5-af9d-446a-8599-5b693842c4a3", &Value::Null, 404, "TaskNotFound");
    api.refused("GET", "/vm-replications/no/such/path", &Value::Null, 404, "NotFound");
    api.refused("PUT", "/sites", &Value::Null, 405, "MethodNotAllowed");
    let create = |more: Value, status: u16, code: &str| {
        api.refused("POST", "/vm-replications", &start("vm-1", more), status, code)
    };
    for rpo in [json!(0), json!(1441), json!("soon")] {
        let error = create(json!({"rpo": rpo}), 400, "InvalidArgument");
        assert!(error["msg"].as_str().unwrap().contains("rpo"), "{error}");
    }
    create(json!({"retentionPolicy": {"rules": [{"numberOfInstances": 25, "distance": 1}]}}), 400, "InvalidArgument");
    create(json!({"source": {"type": "vm", "site": "site1", "vmId": "vm-9"}}), 404, "VmNotFound");
    create(json!({"source": {"type": "vm", "site": "site2", "vmId": "vm-1"}}), 400, "InvalidArgument");
    create(json!({"destination": {"type": "vcloud", "site": "site9"}}), 404, "SiteNotFound");
    let text = api.http.post(format!("{}/vm-replications", a.url)).header("X-VCAV-Auth", &api.token);
    let (status, error) = read(text.header("content-type", "application/json").body("{").send().unwrap());
    assert_eq!((status, &error["code"]), (400, &json!("BadRequest")));

    // Who may only read is told so.
    a.ok("PUT", "/api/lockstep/accounts/reader", &json!({"role": "READ_ONLY", "password": PASSWORD}));
    let body = json!({"type": "localUser", "localUser": "reader", "localPassword": PASSWORD});
    let made = api.http.post(format!("{}/sessions", a.url)).json(&body).send().unwrap();
    let token = made.headers()["x-vcav-auth"].to_str().unwrap().to_owned();
    let reader = Api { token, http: api.http.clone(), url: api.url.clone() };
    reader.get("/vm-replications");
    reader.refused("POST", &format!("{some}/sync"), &Value::Null, 403, "Forbidden");

    // What a task fails of is in the task; the call that tells it is fine.
    let id = id_of(&api.done("POST", "/vm-replications", &start("vm-none", json!({}))));
    let failed = eventually(SOON, "the first sync to fail", || {
        let found = api.get("/tasks?resourceType=vmReplication&state=FAILED");
        found["items"].as_array().unwrap().iter().find(|task| task["workflowInfo"]["resourceId"] == json!(id)).cloned()
    });
    check_error(&failed["error"]);
    assert_eq!((&failed["error"]["code"], &failed["result"]), (&json!("OperationNotAllowedInState"), &Value::Null));
    let shown = eventually(SOON, "the failure to show", || {
        Some(api.get(&format!("/vm-replications/{id}"))).filter(|shown| shown["overallHealth"] == "RED")
    });
    assert_eq!(
        (&shown["dataConnectionState"], &shown["destinationState"]["lastError"]["code"]),
        (&json!("ERROR"), &json!("OperationNotAllowedInState"))
    );
    api.refused("POST", "/vm-replications", &start("vm-none", json!({})), 409, "OperationNotAllowedInState");
    api.refused("POST", &format!("/vm-replications/{id}/reverse"), &Value::Null, 409, "OperationNotAllowedInState");
    api.refused(
        "DELETE",
        &format!("/vm-replications/{id}/failover-test"),
        &Value::Null,
        409,
        "OperationNotAllowedInState",
    );
    let both = json!({"type": "vcloud", "sync": true, "instanceId": "h4replica-x"});
    api.refused("POST", &format!("/vm-replications/{id}/failover-test"), &both, 400, "InvalidArgument");
    let unknown = json!({"type": "vcloud", "instanceId": "h4replica-ec991bd5-af9d-446a-8599-5b693842c4a3"});
    api.refused("POST", &format!("/vm-replications/{id}/failover"), &unknown, 404, "InstanceNotFound");
    api.refused("GET", &format!("/vm-replications/{id}/instances/x"), &Value::Null, 404, "InstanceNotFound");
    api.refused("GET", "/vm-replications?limit=-1", &Value::Null, 400, "InvalidArgument");
    drop(b);
}

#[test]
fn many_replications_come_in_pages_without_gap_or_repetition() {
    let (a, _b) = pair(&[]);
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "a.raw", 1);
    let api = Api::log_in(&a);
    // None syncs meanwhile.
    let later = json!({"initialSyncTime": "2099-01-01T00:00:00Z"});
    let tasks: Vec<Value> = (0..250)
        .map(|at| {
            let vm = format!("vm-{at}");
            machine(&a, &vm, &format!("machine {at}"), &[&disk]);
            let (status, task) = api.call("POST", "/vm-replications", &start(&vm, later.clone()));
            assert_eq!(status, 202, "{task}");
            task
        })
        .collect();
    for task in &tasks {
        let ended = api.ended(task, "");
        assert_eq!(ended["state"], "SUCCEEDED", "{ended}");
    }
    let mut seen = Vec::new();
    for offset in [0, 100, 200] {
        let page = api.get(&format!("/vm-replications?offset={offset}&limit=100"));
        assert_eq!((&page["total"], &page["offset"], &page["limit"]), (&json!(250), &json!(offset), &json!(100)));
        let ids = page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned());
        seen.extend(ids);
    }
    assert_eq!(seen.len(), 250);
    let in_order = seen.clone();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, in_order);
    let some = api.get("/vm-replications?vmName=%25machine%2024%25&limit=100");
    assert_eq!(some["total"], 11, "machine 24 and 240 to 249");
    let two = api.get(&format!("/vm-replications?ids={},{}", seen[3], seen[7]));
    assert_eq!(two["total"], 2);
    assert_eq!(api.get("/tasks?resourceType=vmReplication&limit=100")["total"], 250);
}

#[test]
fn a_task_that_a_restart_interrupts_goes_on_or_says_so() {
    let (mut a, b) = pair(&["--replication-limit", "1"]);
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "a.raw", 600);
    machine(&a, "vm-1", "one", &[&disk]);
    let api = Api::log_in(&a);
    let id = id_of(&api.done("POST", "/vm-replications", &start("vm-1", json!({}))));
    let running = eventually(SOON, "the first sync to get on", || {
        let shown = api.get(&format!("/vm-replications/{id}"));
        let task = shown["task"].as_str()?.to_owned();
        let task = api.get(&format!("/tasks/{task}"));
        (task["progress"].as_i64()? > 0 && task["state"] == "RUNNING").then_some(task)
    });
    // One sync at a time: who asks for another gets the one that runs.
    let (_, same) = api.call("POST", &format!("/vm-replications/{id}/sync"), &Value::Null);
    assert_eq!(same["id"], running["id"]);
    api.refused("POST", &format!("/vm-replications/{id}/pause"), &Value::Null, 409, "ConcurrentOperation");
    a.restart();
    let api = Api::log_in(&a);
    let ended = api.ended(&running, "");
    assert_eq!((&ended["state"], &ended["result"]["id"]), (&json!("SUCCEEDED"), &json!(id)), "{ended}");
    assert_eq!(instances(&api, &id).len(), 1);
    let twin = Api::log_in(&b).get(&format!("/vm-replications/{id}/instances"));
    assert_eq!(twin, json!(instances(&api, &id)));

    // Cancelled, a task has failed, and the replication goes on as if nothing had been.
    (0..600).for_each(|block| write_block(&disk, block, 5000 + block as u64));
    let (_, begun) = api.call("POST", &format!("/vm-replications/{id}/sync"), &Value::Null);
    let path = format!("/api/lockstep/tasks/{}?action=cancel", begun["id"].as_str().unwrap());
    a.ok("POST", &path, &Value::Null);
    let ended = api.ended(&begun, "");
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("FAILED"), &json!("TaskCanceled")), "{ended}");
    let shown = api.get(&format!("/vm-replications/{id}"));
    assert_eq!((&shown["dataConnectionState"], &shown["destinationState"]["lastError"]), (&json!("OK"), &Value::Null));
    assert_eq!(instances(&api, &id).len(), 1);
}

/// Ends the machine that runs from a directory, whatever becomes of the test.
struct Machine(PathBuf);

impl Machine {
    fn pid(&self) -> Option<String> {
        let pid = std::fs::read_to_string(self.0.join("pid")).ok()?.trim().to_owned();
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        arguments.contains(self.0.to_str().unwrap()).then_some(pid)
    }

    /// What its monitor says first.
    fn greeting(&self) -> String {
        let mut monitor = std::os::unix::net::UnixStream::connect(self.0.join("qmp")).unwrap();
        let mut bytes = [0; 256];
        let count = monitor.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = std::process::Command::new("kill").args(["-KILL", &pid]).status();
        }
    }
}

/// What a disk holds that QEMU reads, a running machine's too.
fn content(disk: &Path, format: &str) -> Vec<u8> {
    let out = tempfile::NamedTempFile::new().unwrap();
    let convert = ["convert", "-U", "-f", format, "-O", "raw"];
    let status = std::process::Command::new("qemu-img").args(convert).arg(disk).arg(out.path()).status().unwrap();
    assert!(status.success());
    std::fs::read(out.path()).unwrap()
}

#[test]
fn a_test_reads_the_instance_where_it_is_and_a_failover_brings_the_machine_up() {
    if std::process::Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return println!("skipped: there is no qemu-system-x86_64");
    }
    let (a, mut b) = pair(&[]);
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "a.raw", 48);
    machine(&a, "vm-1", "one, and only", &[&disk]);
    let source = Api::log_in(&a);
    let id = id_of(&source.done("POST", "/vm-replications", &start("vm-1", json!({}))));
    let uuid = id.strip_prefix("C4-").unwrap();
    let first = wait_for_instances(&source, &id, 1);
    let before = std::fs::read(&disk).unwrap();

    // Asked of the source, done by the destination.
    let (tested, at) = (format!("/vm-replications/{id}/failover-test"), format!("/vm-replications/{id}"));
    let task =
        source.done("POST", &tested, &json!({"type": "vcloud", "powerOn": true, "snapshotOptions": "DO_NOTHING"}));
    assert_eq!(task["result"]["destinationState"]["recoveryInfo"]["recoveryState"], "TEST", "{task}");
    let recovered = b.data.path().join("recovered").join(uuid);
    let test = Machine(recovered.join("test"));
    assert!(test.greeting().contains("QMP") && test.pid().is_some());
    let vm = b.ok("GET", &format!("/api/lockstep/resources/VirtualMachine/test-{uuid}"), &Value::Null);
    assert_eq!(vm["properties"]["power_state"], "POWERED_ON", "{vm}");
    source.refused("POST", &tested, &json!({"type": "vcloud"}), 409, "OperationNotAllowedInState");
    source.refused("DELETE", &at, &Value::Null, 409, "OperationNotAllowedInState");

    // The replication goes on meanwhile, and the test outlives its server.
    write_block(&disk, 7, 99);
    source.done("POST", &format!("{at}/sync"), &Value::Null);
    let both = instances(&source, &id);
    assert_eq!((both.len(), &both[0]["key"], &both[0]["isPinned"]), (2, &first[0]["key"], &json!(true)));
    b.restart();
    let destination = Api::log_in(&b);
    assert!(test.pid().is_some());
    assert!(
        content(&test.0.join("disk-2000.qcow2"), "qcow2") == before,
        "a test shows the instance that it was made of"
    );
    let cleaned = destination.done("DELETE", &tested, &Value::Null);
    assert_eq!(cleaned["result"]["destinationState"]["recoveryInfo"]["recoveryState"], "NOT_STARTED");
    assert!(test.pid().is_none() && !test.0.exists());
    assert_eq!(b.call("GET", &format!("/api/lockstep/resources/VirtualMachine/test-{uuid}"), &Value::Null).0, 404);
    assert_eq!(instances(&destination, &id)[0]["isPinned"], false);

    // For good: what changed meanwhile is brought there first.
    write_block(&disk, 8, 100);
    let body = json!({"type": "vcloud", "powerOn": true, "instanceId": null, "consolidate": true});
    let task = destination.done("POST", &format!("{at}/failover"), &body);
    assert_eq!(task["warnings"], json!([]), "{task}");
    let machine = Machine(recovered.join("machine"));
    assert!(machine.greeting().contains("QMP"));
    assert!(content(&machine.0.join("disk-2000.raw"), "raw") == std::fs::read(&disk).unwrap());
    let shown = eventually(SOON, "the source to hear of it", || {
        let shown = source.get(&at);
        (shown["destinationState"]["recoveryInfo"]["recoveryState"] == "COMPLETE").then_some(shown)
    });
    assert_eq!(
        (&shown["dataConnectionState"], &shown["destination"]["recoveredVappId"]),
        (&json!("FINISHED"), &json!(format!("vapp-recovered-{uuid}")))
    );
    source.refused("POST", &format!("{at}/sync"), &Value::Null, 409, "OperationNotAllowedInState");
    source.done("DELETE", &at, &Value::Null);
    assert!(machine.pid().is_some(), "what was recovered stays");
}

#[test]
fn the_command_line_replicates_and_follows_tasks() {
    let (a, _b) = pair(&[]);
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), "a.raw", 30);
    machine(&a, "vm-1", "one", &[&disk]);
    let run = |args: &[&str]| {
        let output = a.cli(args).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.code(), out, err)
    };
    let good = |args: &[&str]| {
        let (code, out, err) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {out}{err}");
        (out, err)
    };
    let (made, _) =
        good(&["replication", "create", "vm-1", "site2", "--rpo", "15m", "--keep", "3/1h", "--output", "json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let id = made["result"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        made["result"]["settings"]["retentionPolicy"],
        json!({"rules": [{"numberOfInstances": 3, "distance": 60}]})
    );
    wait_for_instances(&Api::log_in(&a), &id, 1);
    write_block(&disk, 2, 5);
    let (out, err) = good(&["replication", "sync", &id]);
    assert!(out.contains("SUCCEEDED") && err.contains("64.00 KiB changed"), "{out}{err}");
    let (list, _) = good(&["replication", "list"]);
    assert!(list.contains(&id) && list.contains("site1 → site2") && list.contains("GREEN"), "{list}");
    assert!(good(&["replication", "instances", &id]).0.contains("h4replica-"));
    assert!(good(&["replication", "get", &id]).0.contains("settings/rpo"));
    let (begun, _) = good(&["replication", "verify", &id, "--no-wait", "--output", "json"]);
    let begun: Value = serde_json::from_str(&begun).unwrap();
    let task = begun["id"].as_str().unwrap();
    assert!(good(&["task", "watch", task]).0.contains("SUCCEEDED"));
    assert!(good(&["task", "list", "--resource", &id]).0.contains("verify"));
    assert!(good(&["task", "get", task]).0.contains("runs at site2"));
    good(&["task", "cancel", task]);
    good(&["replication", "pause", &id]);
    let (code, _, err) = run(&["replication", "sync", &id]);
    assert!(code == Some(1) && err.contains("paused"), "{code:?} {err}");
    good(&["replication", "resume", &id]);
    good(&["replication", "delete", &id]);
    assert!(!good(&["replication", "list"]).0.contains(&id));
}

/// Has QEMU itself write to a disk, as its guest would, through the monitor.
fn write_live(monitor: &Path, block: usize, pattern: u8) {
    use std::io::{BufRead as _, BufReader};
    let stream = std::os::unix::net::UnixStream::connect(monitor).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |request: Value| {
        (&stream).write_all(format!("{request}\n").as_bytes()).unwrap();
        loop {
            let answer: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if answer.get("return").is_some() || answer.get("error").is_some() {
                break answer;
            }
        }
    };
    ask(json!({"execute": "qmp_capabilities"}));
    let command = format!("qemu-io disk0 \"write -P {pattern} {} 64k\"", block * BLOCK);
    let answer = ask(json!({"execute": "human-monitor-command", "arguments": {"command-line": command}}));
    assert_eq!(answer["return"], "", "{answer}");
}

#[test]
fn a_running_machine_is_replicated_by_its_bitmap_and_migrated() {
    if std::process::Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return println!("skipped: there is no qemu-system-x86_64");
    }
    // No guest is there to switch itself off.
    let (a, b) = pair(&["--migrate-power-off", "1"]);
    let dir = tempfile::tempdir().unwrap();
    let running = Machine(dir.path().to_owned());
    let (disk, monitor) = (image(dir.path(), "a.raw", 64), dir.path().join("qmp"));
    let status = std::process::Command::new("qemu-system-x86_64")
        .args(["-machine", "pc,accel=tcg", "-m", "32", "-display", "none", "-nic", "none", "-daemonize", "-no-reboot"])
        .arg("-pidfile")
        .arg(dir.path().join("pid"))
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", monitor.display()))
        .arg("-drive")
        .arg(format!("file={},format=raw,if=none,id=disk0", disk.display()))
        .args(["-device", "virtio-blk-pci,drive=disk0"])
        .status()
        .unwrap();
    assert!(status.success());
    machine(&a, "vm-1", "live", &[&disk]);
    let socket =
        json!({"properties": {"qemu/qmp_socket": monitor, "power_state": "POWERED_ON", "memory_size_MiB": 32}});
    a.ok("PATCH", "/api/lockstep/resources/VirtualMachine/vm-1", &socket);
    let source = Api::log_in(&a);
    let id = id_of(&source.done("POST", "/vm-replications", &start("vm-1", json!({"quiesced": true}))));
    let at = format!("/vm-replications/{id}");
    wait_for_instances(&source, &id, 1);
    write_live(&monitor, 5, 0x41);
    let task = source.done("POST", &format!("{at}/sync"), &Value::Null);
    assert!(task["warnings"].to_string().contains("not frozen"), "{task}");
    let report = &task["result"]["lastSync"];
    assert_eq!((&report["method"], &report["sentBytes"]), (&json!("LIVE_BITMAP"), &json!(BLOCK)), "{report}");

    write_live(&monitor, 6, 0x42);
    let task = source.done("POST", &format!("{at}/migrate"), &json!({"type": "vcloud", "powerOn": false}));
    assert!(running.pid().is_none(), "the source is off: {task}");
    assert_eq!(task["result"]["destinationState"]["recoveryInfo"]["recoveryState"], "COMPLETE", "{task}");
    let moved = b.data.path().join(format!("recovered/{}/machine/disk-2000.raw", id.strip_prefix("C4-").unwrap()));
    let content = std::fs::read(&disk).unwrap();
    assert_eq!((content[5 * BLOCK], content[6 * BLOCK]), (0x41, 0x42));
    assert!(std::fs::read(moved).unwrap() == content);
}
