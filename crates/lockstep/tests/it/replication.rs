//! Machines that are replicated between two real servers: syncs as the seed asks for them, restarts, recovery, the command line.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::availability::{
    Api, BLOCK, NEWEST, id_of, image, instances, machine, pair, start, wait_for_instances, write_block,
};
use crate::links::SOON;
use crate::server::eventually;

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
pub struct Machine(pub PathBuf);

impl Machine {
    pub fn pid(&self) -> Option<String> {
        let pid = std::fs::read_to_string(self.0.join("qemu.pid")).ok()?.trim().to_owned();
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        arguments.contains(self.0.to_str().unwrap()).then_some(pid)
    }

    /// What its monitor says first.
    fn greeting(&self) -> String {
        let mut monitor = std::os::unix::net::UnixStream::connect(self.0.join("monitor.sock")).unwrap();
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

/// What the image of a recovered disk holds, that of a running machine too.
pub fn content(disk: &Path) -> Vec<u8> {
    let out = tempfile::NamedTempFile::new().unwrap();
    let convert = ["convert", "-U", "-f", "qcow2", "-O", "raw"];
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
    let test = Machine(recovered.clone());
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
    assert!(content(&test.0.join("disk-2000.qcow2")) == before, "a test shows the instance that it was made of");
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
    let machine = Machine(recovered);
    assert!(machine.greeting().contains("QMP"));
    assert!(content(&machine.0.join("disk-2000.qcow2")) == std::fs::read(&disk).unwrap());
    let shown = eventually(SOON, "the source to hear of it", || {
        let shown = source.get(&at);
        (shown["destinationState"]["recoveryInfo"]["recoveryState"] == "COMPLETE").then_some(shown)
    });
    assert_eq!(
        (&shown["dataConnectionState"], &shown["destination"]["recoveredVappId"]),
        (&json!("FINISHED"), &json!(format!("vapp-recovered-{uuid}")))
    );
    source.refused("POST", &format!("{at}/sync"), &Value::Null, 409, "OperationNotAllowedInState");

    // It is switched as any other machine.
    let power = format!("/api/vcenter/vm/recovered-{uuid}/power");
    for (action, status, state) in [
        ("start", 400, "POWERED_ON"),
        ("stop", 204, "POWERED_OFF"),
        ("stop", 400, "POWERED_OFF"),
        ("start", 204, "POWERED_ON"),
    ] {
        let (found, body) = b.call("POST", &format!("{power}?action={action}"), &Value::Null);
        assert_eq!(found, status, "{action}: {body}");
        assert_eq!(b.ok("GET", &power, &Value::Null)["state"], state);
        assert_eq!(machine.pid().is_some(), state == "POWERED_ON");
    }
    assert!(machine.greeting().contains("QMP"));
    assert!(content(&machine.0.join("disk-2000.qcow2")) == std::fs::read(&disk).unwrap());
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

/// Asks the monitor of a machine.
pub fn ask_monitor(socket: &Path, command: &str, arguments: &Value) -> Value {
    use std::io::{BufRead as _, BufReader};
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
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
    let answer = ask(json!({"execute": command, "arguments": arguments}));
    assert!(answer.get("error").is_none(), "{command}: {answer}");
    answer["return"].clone()
}

/// Has QEMU itself write to a disk, as its guest would, through the monitor.
fn write_live(monitor: &Path, block: usize, pattern: u8) {
    let command = format!("qemu-io disk0 \"write -P {pattern} {} 64k\"", block * BLOCK);
    assert_eq!(ask_monitor(monitor, "human-monitor-command", &json!({"command-line": command})), "");
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
    let (disk, monitor) = (image(dir.path(), "a.raw", 64), dir.path().join("monitor.sock"));
    let status = std::process::Command::new("qemu-system-x86_64")
        .args(["-machine", "pc,accel=tcg", "-m", "32", "-display", "none", "-nic", "none", "-daemonize", "-no-reboot"])
        .arg("-pidfile")
        .arg(dir.path().join("qemu.pid"))
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
    let moved = b.data.path().join(format!("recovered/{}/disk-2000.qcow2", id.strip_prefix("C4-").unwrap()));
    let expected = std::fs::read(&disk).unwrap();
    assert_eq!((expected[5 * BLOCK], expected[6 * BLOCK]), (0x41, 0x42));
    assert!(content(&moved) == expected);
}
