//! Switching machines that others keep: at a vCenter, and on a host with an agent; and who keeps a host.

use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::blocking::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent;
use crate::server::{Server, eventually, http, read};
use crate::vcenter::{self, READ, Vcsim, vm_id};
use crate::vcenter_api::{machine_of, start_qemu};

/// How long something may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Switches a machine; answers the status and the kind of the error.
fn switch(server: &Server, vm: &str, action: &str) -> (u16, String) {
    let place = if matches!(action, "shutdown" | "reboot" | "standby") { "guest/power" } else { "power" };
    let (status, body) = server.call("POST", &format!("/api/vcenter/vm/{vm}/{place}?action={action}"), &json!(null));
    eprintln!("{action}: {status} {body}");
    (status, body["error_type"].as_str().unwrap_or_default().to_owned())
}

fn state(server: &Server, vm: &str) -> Value {
    server.ok("GET", &format!("/api/vcenter/vm/{vm}/power"), &json!(null))["state"].clone()
}

/// The tasks about a machine, the youngest first.
fn tasks(server: &Server, vm: &str) -> Vec<Value> {
    let page = server.ok("GET", &format!("/api/lockstep/tasks?resourceId={vm}"), &json!(null));
    page["items"].as_array().unwrap().clone()
}

#[test]
fn a_machine_of_a_vcenter_is_switched_there_and_each_action_is_a_task() {
    if !vcenter::is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-vm", "2"]);
    let server = vcenter::server();
    vcsim.collect(&server, "vc", vcsim.address());
    let name = "DC0_H0_VM0";
    let vm = vm_id(&vcsim, name);
    let token = server.sequence();
    let there = || vcsim.govc(&["object.collect", "-s", &format!("/DC0/vm/{name}"), "runtime.powerState"]);
    for (action, expected, shown, at_source) in [
        ("start", (400, "ALREADY_IN_DESIRED_STATE"), "POWERED_ON", "poweredOn"),
        ("suspend", (204, ""), "SUSPENDED", "suspended"),
        ("suspend", (400, "ALREADY_IN_DESIRED_STATE"), "SUSPENDED", "suspended"),
        ("start", (204, ""), "POWERED_ON", "poweredOn"),
        ("reset", (204, ""), "POWERED_ON", "poweredOn"),
        ("stop", (204, ""), "POWERED_OFF", "poweredOff"),
        ("stop", (400, "ALREADY_IN_DESIRED_STATE"), "POWERED_OFF", "poweredOff"),
        ("reset", (400, "NOT_ALLOWED_IN_CURRENT_STATE"), "POWERED_OFF", "poweredOff"),
        ("start", (204, ""), "POWERED_ON", "poweredOn"),
        ("shutdown", (204, ""), "POWERED_OFF", "poweredOff"),
    ] {
        let (status, kind) = switch(&server, &vm, action);
        assert_eq!((status, &*kind), expected, "{action}");
        // A guest that was asked takes its time, and so may the inventory on a busy machine.
        let is_shown = || (state(&server, &vm) == shown && there().trim() == at_source).then_some(());
        eventually(PATIENCE, &format!("{action}: {shown}"), is_shown);
    }
    let all = tasks(&server, &vm);
    let told: Vec<(&str, &str)> = all
        .iter()
        .rev()
        .map(|task| (task["workflowInfo"]["type"].as_str().unwrap(), task["state"].as_str().unwrap()))
        .collect();
    let suspended = told.iter().filter(|(kind, _)| *kind == "powerSuspend").map(|(_, state)| *state);
    assert_eq!((told.len(), suspended.collect::<Vec<_>>()), (10, vec!["SUCCEEDED", "FAILED"]), "{told:?}");
    assert!(all.iter().all(|task| task["workflowInfo"]["resourceName"] == name), "{all:?}");
    // They are watched like any resource, and people see them.
    let (_, answer) = server.changes(&token);
    let changes = answer["value"]["changes"].as_array().unwrap();
    assert!(changes.iter().any(|change| change["resource"]["type"] == "Task"), "{changes:?}");
    let listed = server.cli(&["task", "list", "--resource", &vm]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("powerStop") && listed.contains("guestShutdown"), "{listed}");
    let shown = server.cli(&["task", "get", all[0]["id"].as_str().unwrap()]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("ShutdownGuest"), "{shown}");
    // The other generation and the answer's header.
    let answer = server.request("POST", &format!("/rest/vcenter/vm/{vm}/power/start")).send().unwrap();
    let task = answer.headers().get("lockstep-task").unwrap().to_str().unwrap().to_owned();
    assert!(answer.status().is_success(), "{answer:?}");
    assert_eq!(server.ok("GET", &format!("/api/lockstep/tasks/{task}"), &json!(null))["state"], "SUCCEEDED");
    // No session of ours is left but the collector's.
    let sessions = vcsim.govc(&["session.ls"]);
    assert_eq!(sessions.lines().filter(|line| line.contains("lockstep/")).count(), 1, "{sessions}");
}

#[test]
fn a_machine_is_not_switched_by_who_may_not_and_not_where_its_vcenter_is_away() {
    if !vcenter::is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-vm", "1"]);
    let server = vcenter::server();
    vcsim.collect(&server, "vc", vcsim.address());
    let vm = vm_id(&vcsim, "DC0_H0_VM0");
    let client = http(Duration::from_secs(30));
    for (role, may) in [("OPERATOR", true), ("READ_ONLY", false), ("AGENT", false), ("LINK", false)] {
        let user = format!("u-{}", role.to_lowercase().replace('_', "-"));
        let body = json!({"role": role, "password": "correct horse battery"});
        server.ok("PUT", &format!("/api/lockstep/accounts/{user}"), &body);
        let url = format!("{}/api/vcenter/vm/{vm}/power?action=reset", server.url);
        let (status, body) = read(client.post(url).basic_auth(&user, Some("correct horse battery")).send().unwrap());
        assert_eq!(status, if may { 204 } else { 403 }, "{role}: {body}");
    }
    assert_eq!(tasks(&server, &vm).len(), 1, "who may not leaves no task");
    drop(vcsim);
    let (status, kind) = switch(&server, &vm, "stop");
    assert_eq!((status, &*kind), (503, "SERVICE_UNAVAILABLE"));
}

/// Calls an operation of agents with a token.
fn as_agent(client: &Client, server: &Server, token: &str, action: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/api/lockstep/hosts?action={action}", server.url);
    read(client.post(url).bearer_auth(token).json(body).send().unwrap())
}

fn collector_of_agent(server: &Server) -> Option<Value> {
    let all = server.ok("GET", "/api/lockstep/collectors", &json!(null));
    let is_followed = |one: &&Value| one["kind"] == "HOST" && one["phase"] == "FOLLOWING";
    all.as_array().unwrap().iter().find(is_followed).cloned()
}

#[test]
fn a_machine_of_another_host_is_switched_by_its_agent_and_by_no_other() {
    let directory = TempDir::new().unwrap();
    let name = format!("ordered-{}", std::process::id());
    let Some(mut qemu) = start_qemu(directory.path(), &name, &[]) else { return };
    let server = Server::start_with(&["--plain-http", "--no-collect-host", "--no-sample-host", "--poll-limit", "1"]);
    let token = agent::token_file(&server, "agent-1");
    let data_dir = TempDir::new().unwrap();
    let running = agent::start(&server.url, &token, data_dir.path());
    let (vm, _) = machine_of(&server, &qemu);
    for (action, expected, shown) in [
        ("suspend", (204, ""), "SUSPENDED"),
        ("suspend", (400, "ALREADY_IN_DESIRED_STATE"), "SUSPENDED"),
        ("reset", (400, "NOT_ALLOWED_IN_CURRENT_STATE"), "SUSPENDED"),
        ("start", (204, ""), "POWERED_ON"),
        ("reboot", (400, "UNSUPPORTED"), "POWERED_ON"),
        ("stop", (204, ""), "POWERED_OFF"),
    ] {
        let (status, kind) = switch(&server, &vm, action);
        assert_eq!((status, &*kind), expected, "{action}");
        eventually(PATIENCE, shown, || (state(&server, &vm) == shown).then_some(()));
    }
    assert!(qemu.0.wait().unwrap().success(), "it was told to quit, not killed");
    let newest = &tasks(&server, &vm)[0];
    let log = server.ok("GET", &format!("/api/lockstep/tasks/{}/log", newest["id"].as_str().unwrap()), &json!(null));
    assert!(log.to_string().contains("waits for the agent"), "{log}");

    // Orders are for the account and the run that keep the host.
    let collector = collector_of_agent(&server).unwrap();
    assert_eq!(collector["user"], "agent-1", "{collector}");
    let host = collector["collector"].as_str().unwrap();
    let other = std::fs::read_to_string(agent::token_file(&server, "agent-2")).unwrap();
    let first = std::fs::read_to_string(&token).unwrap();
    let client = http(Duration::from_secs(60));
    for token in [&other, &first] {
        let body = json!({"collector": host, "run": "0123456789abcdef"});
        let (status, answer) = as_agent(&client, &server, token, "take-orders", &body);
        assert_eq!((status, &answer["error_type"]), (400, &json!("NOT_ALLOWED_IN_CURRENT_STATE")), "{answer}");
    }
    let (status, answer) =
        as_agent(&client, &server, "no-token", "take-orders", &json!({"collector": host, "run": "x"}));
    assert_eq!(status, 401, "{answer}");
    // A second one for the same host is refused, and told the first.
    let attach = json!({"host": host, "name": "h", "run": "0123456789abcdef", "interval_s": 5, "takes_orders": true});
    for token in [&other, &first] {
        let (status, answer) = as_agent(&client, &server, token, "attach", &attach);
        assert_eq!((status, &answer["error_type"]), (400, &json!("RESOURCE_IN_USE")), "{answer}");
        assert!(answer.to_string().contains("agent-1"), "{answer}");
    }
    let second = server.cli(&["collect", "host", "--once"]).output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && told.contains(&format!("the collector {host}")), "{told}");
    let listed = server.cli(&["collect"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(host) && listed.contains("FOLLOWING"), "{listed}");
    let (status, answer) = server.call("DELETE", &format!("/api/lockstep/collectors/{host}"), &json!(null));
    assert!(status == 400 && answer.to_string().contains("agent-1"), "{answer}");

    // Told to end, it lets go: the host is free, its resources stay as they are, and nobody is there to take an order.
    let pid = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let refused = eventually(PATIENCE, "the agent has let go", || {
        let (status, body) = server.call("POST", &format!("/api/vcenter/vm/{vm}/power?action=start"), &json!(null));
        (status == 503).then_some(body)
    });
    assert!(refused.to_string().contains("no agent keeps its host"), "{refused}");
    let told = server.ok("GET", &format!("/api/lockstep/collectors/{host}"), &json!(null));
    assert!(told["phase"] == "FAILED" && told["error"].to_string().contains("lockstep agent"), "{told}");
    let once = server.cli(&["collect", "host", "--once"]).output().unwrap();
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
}

#[test]
fn an_agent_that_comes_back_writes_differences_alone_and_a_taken_host_stays_its_accounts() {
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let name = |n: usize| format!("back-{}-{n}", std::process::id());
    let Some(stays) = start_qemu(directories[0].path(), &name(0), &[]) else { return };
    let Some(goes) = start_qemu(directories[1].path(), &name(1), &[]) else { return };
    let mut server =
        Server::start_with(&["--plain-http", "--no-collect-host", "--no-sample-host", "--poll-limit", "1"]);
    let token = agent::token_file(&server, "agent-1");
    let data_dir = TempDir::new().unwrap();
    let running = agent::start(&server.url, &token, data_dir.path());
    let ids = [machine_of(&server, &stays).0, machine_of(&server, &goes).0];
    let host = collector_of_agent(&server).unwrap()["collector"].as_str().unwrap().to_owned();
    let by = json!({"type": "Collector", "id": host});
    let stored = |server: &Server, resource_type: &str, id: &str| {
        server.ok("GET", &format!("/api/lockstep/resources/{resource_type}/{id}"), &json!(null))["properties"].clone()
    };
    assert_eq!(stored(&server, "VirtualMachine", &ids[0])["collected_by"], by);
    assert_eq!(stored(&server, "HostSystem", &host)["collected_by"], by);
    // People's own properties stay.
    let path = format!("/api/lockstep/resources/VirtualMachine/{}", ids[0]);
    server.ok("PATCH", &path, &json!({"properties": {"annotation": "mine"}}));
    let (status, answer) = server.call("DELETE", &path, &json!(null));
    assert!(status == 400 && answer.to_string().contains("kept by the collector"), "{answer}");

    // Killed: nothing changes while it is away, though a machine ends meanwhile. The server starts anew, too.
    drop(running);
    let token_of_feed = server.sequence();
    drop(goes);
    server.restart();
    let told = server.ok("GET", &format!("/api/lockstep/collectors/{host}"), &json!(null));
    assert!(told["phase"] == "FAILED" && told["error"].to_string().contains("agent-1"), "{told}");
    assert_eq!(stored(&server, "VirtualMachine", &ids[1])["power_state"], "POWERED_ON");
    let other = std::fs::read_to_string(agent::token_file(&server, "agent-2")).unwrap();
    let attach = json!({"host": host, "name": "h", "run": "0123456789abcdef", "interval_s": 5, "takes_orders": true});
    let (status, answer) = as_agent(&http(PATIENCE), &server, &other, "attach", &attach);
    assert!(status == 400 && answer.to_string().contains("of the account agent-1"), "{answer}");

    let _running = agent::start(&server.url, &token, data_dir.path());
    eventually(PATIENCE, "the machine that ended is off", || {
        (stored(&server, "VirtualMachine", &ids[1])["power_state"] == "POWERED_OFF").then_some(())
    });
    let (status, answer) = server.changes(&token_of_feed);
    assert_eq!(status, 200, "{answer}");
    let changes = answer["value"]["changes"].as_array().unwrap();
    let of =
        |id: &str| changes.iter().filter(|c| c["resource"]["id"] == id).map(|c| c["kind"].clone()).collect::<Vec<_>>();
    assert_eq!(of(&ids[0]), Vec::<Value>::new(), "what did not change is not written: {changes:?}");
    assert_eq!(of(&ids[1]), ["UPDATE"], "{changes:?}");
    let anew = changes.iter().find(|c| c["resource"]["type"] == "HostSystem" && c["kind"] != "UPDATE");
    assert!(anew.is_none(), "{anew:?}");
    assert_eq!(stored(&server, "VirtualMachine", &ids[0])["annotation"], "mine");
    let lag = eventually(READ, "it follows again", || collector_of_agent(&server));
    assert_eq!((&lag["lag_s"], lag.get("error")), (&json!(0), None), "{lag}");
}

#[test]
fn a_reading_is_of_one_host_and_whole() {
    let server = Server::start_with(&["--plain-http", "--no-collect-host", "--no-sample-host"]);
    let token = std::fs::read_to_string(agent::token_file(&server, "agent-1")).unwrap();
    let client = http(PATIENCE);
    let call = |action: &str, body: &Value| as_agent(&client, &server, &token, action, body);
    let run = "0123456789abcdef";
    let attach = json!({"host": "host-x", "name": "x", "run": run, "interval_s": 5, "takes_orders": false});
    assert_eq!(call("attach", &attach).0, 200);
    assert_eq!(call("attach", &attach).0, 200, "said again by the same run it is the same");
    let one = |resource_type: &str, id: &str, properties: Value| json!({"resource_type": resource_type, "id": id, "properties": properties});
    let of = |host: &str| json!({"name": "a", "host": {"type": "HostSystem", "id": host}});
    let host = one("HostSystem", "host-x", json!({"name": "x"}));
    let keep = |resources: &Value| call("keep", &json!({"collector": "host-x", "run": run, "resources": resources}));
    for (resources, why) in [
        (json!([]), "itself is missing"),
        (json!([host, host]), "comes twice"),
        (json!([host, one("VirtualMachine", "vm-1", of("host-y"))]), "not of the host"),
        (json!([host, one("HostSystem", "host-y", json!({}))]), "not of the host"),
        (json!([host, one("Account", "a", of("host-x"))]), "its type is none of"),
    ] {
        let (status, answer) = keep(&resources);
        assert_eq!(status, 400, "{answer}");
        assert!(answer.to_string().contains(why), "{why}: {answer}");
    }
    let (status, answer) = keep(&json!(null));
    assert_eq!(status, 400, "there is nothing yet that it could be as: {answer}");
    let all = json!([host, one("VirtualMachine", "vm-1", of("host-x")), one("Network", "net-1", of("host-x"))]);
    let (status, kept) = keep(&all);
    assert_eq!((status, &kept["created"]), (200, &json!(3)), "{kept}");
    let position = server.sequence();
    assert_eq!(keep(&all).1["changed"], 0);
    assert_eq!(keep(&json!(null)).0, 200);
    assert_eq!(server.sequence(), position, "what is as it was writes nothing");
    let (_, kept) = keep(&json!([host]));
    assert_eq!((&kept["deleted"], &kept["changed"]), (&json!(1), &json!(1)), "a machine that stops is off: {kept}");
    // An agent that takes none gets none.
    let (status, body) = server.call("POST", "/api/vcenter/vm/vm-1/power?action=start", &json!(null));
    assert!(status == 400 && body.to_string().contains("--no-power"), "{status} {body}");
    assert_eq!(call("detach", &json!({"collector": "host-x", "run": run})).0, 204);
    assert_eq!(keep(&all).0, 400);
    let ended = server.cli(&["collect", "delete", "host-x", "--purge"]).stdout(Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(server.call("GET", "/api/lockstep/resources/HostSystem/host-x", &json!(null)).0, 404);
}
