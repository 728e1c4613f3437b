//! The API of Cloud Director Availability as its clients use it: logins, errors, pages, calls that run at the other site.

use crate::links::{SOON, link, site, wait_for_health};
use crate::server::{PASSWORD, Server, USER, eventually, http, read};
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const NEWEST: &str = "application/vnd.vmware.h4-v4.7+json;charset=UTF-8";

pub const BLOCK: usize = 65536;

/// A client of the API with a session.
pub struct Api {
    http: Client,
    url: String,
    token: String,
}

impl Api {
    pub fn log_in(server: &Server) -> Self {
        let http = http(Duration::from_secs(30));
        let body = json!({"type": "localUser", "localUser": USER, "localPassword": PASSWORD});
        let response = http.post(format!("{}/sessions", server.url)).json(&body).send().unwrap();
        assert_eq!(response.status(), 200);
        let token = response.headers()["x-vcav-auth"].to_str().unwrap().to_owned();
        Self { http, url: server.url.clone(), token }
    }

    pub fn send(&self, method: &str, path: &str, body: &Value) -> Response {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        let request = request.header("X-VCAV-Auth", &self.token).header("operationID", "Powershell__4711");
        if body.is_null() { request.send().unwrap() } else { request.json(body).send().unwrap() }
    }

    pub fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        read(self.send(method, path, body))
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, &Value::Null);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// A call that begins a task; answers the task at its end.
    pub fn task(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, task) = self.call(method, path, body);
        assert_eq!(status, 202, "{method} {path}: {task}");
        self.ended(&task, "")
    }

    /// Polls as the community's PowerShell module does.
    pub fn ended(&self, task: &Value, query: &str) -> Value {
        let path = format!("/tasks/{}{query}", task["id"].as_str().unwrap());
        eventually(SOON * 2, "the end of a task", || Some(self.get(&path)).filter(|task| task["state"] != "RUNNING"))
    }

    pub fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let task = self.task(method, path, body);
        assert_eq!(task["state"], "SUCCEEDED", "{method} {path}: {task}");
        task
    }

    pub fn refused(&self, method: &str, path: &str, body: &Value, status: u16, code: &str) -> Value {
        let (found, error) = self.call(method, path, body);
        assert_eq!((found, error["code"].as_str()), (status, Some(code)), "{method} {path} {body}: {error}");
        check_error(&error);
        error
    }
}

/// The four members that an error always has.
pub fn check_error(error: &Value) {
    let members: Vec<&String> = error.as_object().unwrap().keys().collect();
    assert_eq!(members, ["code", "msg", "args", "stacktrace"], "{error}");
    assert!(error["msg"].is_string() && error["args"].is_array() && error["stacktrace"].is_string(), "{error}");
}

/// Two linked sites.
pub fn pair(more: &[&str]) -> (Server, Server) {
    let (a, b) = (site("site1", more), site("site2", more));
    let made = link(&a, &b, "site2.local");
    wait_for_health(&a, &made, "HEALTHY");
    wait_for_health(&b, &made, "HEALTHY");
    (a, b)
}

/// A raw image in which every third block holds something.
pub fn image(dir: &Path, name: &str, blocks: usize) -> PathBuf {
    let path = dir.join(name);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len((blocks * BLOCK) as u64).unwrap();
    (0..blocks).step_by(3).for_each(|block| write_block(&path, block, block as u64 + 1));
    path
}

pub fn write_block(path: &Path, block: usize, seed: u64) {
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

pub fn machine(server: &Server, id: &str, name: &str, disks: &[&Path]) {
    let disk = |path: &&Path| json!({"label": "disk", "path": path, "format": "raw"});
    let disks: Vec<Value> = disks.iter().map(disk).collect();
    let properties = json!({"name": name, "power_state": "POWERED_OFF", "disks": disks});
    let path = format!("/api/lockstep/resources/VirtualMachine/{id}");
    server.ok("PUT", &path, &json!({"properties": properties}));
}

/// What a client of the vendor sends to replicate a machine.
pub fn start(vm: &str, more: Value) -> Value {
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

pub fn id_of(task: &Value) -> String {
    task["result"]["id"].as_str().unwrap().to_owned()
}

pub fn instances(api: &Api, id: &str) -> Vec<Value> {
    api.get(&format!("/vm-replications/{id}/instances")).as_array().unwrap().clone()
}

pub fn wait_for_instances(api: &Api, id: &str, count: usize) -> Vec<Value> {
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
    let replicators = api.get("/replicators");
    let of = replicators.as_array().unwrap().iter().map(|one| one["site"].as_str().unwrap());
    assert_eq!(of.collect::<Vec<_>>(), ["site1", "site2"], "{replicators}");
    let policies = api.get("/policies?site=site2");
    assert_eq!((&policies[0]["minRpo"], &policies[0]["maxInstances"]), (&json!(1), &json!(24)), "{policies}");
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

    // A vApp's verbs are those of its machine, by its own name.
    let path = format!("/vapp-replications/{vapp}");
    let machine = synced["result"]["vmReplications"][0]["id"].as_str().unwrap();
    let changed = api.done("PATCH", &path, &json!({"rpo": 77}));
    assert_eq!(changed["result"]["settings"]["rpo"], 77, "{changed}");
    let instances = api.get(&format!("/vm-replications/{machine}/instances"));
    let foreign = json!({"instanceMap": {"C4-ec991bd5-af9d-446a-8599-5b693842c4a3": instances[0]["key"]}});
    let error = api.refused("POST", &format!("{path}/failover-test"), &foreign, 400, "InvalidArgument");
    assert!(error["msg"].as_str().unwrap().contains("instanceMap"), "{error}");
    let tested = api.done(
        "POST",
        &format!("{path}/failover-test"),
        &json!({"type": "vcloud", "instanceMap": {machine: instances[0]["key"]}}),
    );
    let state =
        |task: &Value| task["result"]["vmReplications"][0]["destinationState"]["recoveryInfo"]["recoveryState"].clone();
    assert_eq!((&tested["resultType"], state(&tested)), (&json!("VappReplicationInfo"), json!("TEST")), "{tested}");
    let summary = api.get("/vapp-replications/summary");
    let counts = ["total", "outgoing", "incoming", "inTest", "recovered"].map(|name| summary[name].as_i64().unwrap());
    assert_eq!(counts, [1, 0, 1, 1, 0], "{summary}");
    let cleaned = api.done("DELETE", &format!("{path}/failover-test"), &Value::Null);
    assert_eq!(state(&cleaned), "NOT_STARTED", "{cleaned}");
    api.refused("POST", &format!("{path}/reverse"), &Value::Null, 409, "OperationNotAllowedInState");
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
