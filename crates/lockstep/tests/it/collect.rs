//! The machine itself, and a virtual machine that comes and goes.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Server, eventually};

fn printed(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn hosts(server: &Server) -> Vec<Value> {
    let spec = json!({"resource_filter": {"filter_type": "TYPE", "resource_type": "HostSystem"}, "property_spec":
        ["HostSystem/hardware/cpu_threads", "HostSystem/hardware/memory_size_bytes", "HostSystem/hardware/cpu_model"]});
    server.query(spec)["items"].as_array().cloned().unwrap_or_default()
}

#[test]
fn this_machine_is_in_the_inventory_with_what_the_usual_tools_print() {
    let server = Server::start_with(&["--plain-http"]);
    let host =
        eventually(Duration::from_secs(10), "the host is in the inventory", || hosts(&server).into_iter().next());
    let id = host["resource_id"]["id"].as_str().unwrap();
    let stored = server.ok("GET", &format!("/api/lockstep/resources/HostSystem/{id}"), &json!(null));
    let hardware = &stored["properties"]["hardware"];
    if let Some(lscpu) = printed("lscpu", &["-J"]) {
        let lscpu: Value = serde_json::from_str(&lscpu).unwrap();
        let text = lscpu.to_string();
        assert!(
            text.contains(&format!("\"field\":\"CPU(s):\",\"data\":\"{}\"", hardware["cpu_threads"])),
            "{text}\n{hardware}"
        );
        assert!(text.contains(hardware["cpu_model"].as_str().unwrap()), "{text}");
    }
    if let Some(free) = printed("free", &["-b"]) {
        let total = free.lines().nth(1).and_then(|l| l.split_whitespace().nth(1)).unwrap();
        assert_eq!(hardware["memory_size_bytes"].to_string(), total);
    }
    if let Some(lsblk) = printed("lsblk", &["-J", "-b", "-d", "-o", "NAME,SIZE,TYPE"]) {
        let lsblk: Value = serde_json::from_str(&lsblk).unwrap();
        let disks = stored["properties"]["disks"].as_array().cloned().unwrap_or_default();
        for disk in lsblk["blockdevices"].as_array().unwrap().iter().filter(|d| d["type"] == "disk") {
            let ours = disks.iter().find(|d| d["name"] == disk["name"]).unwrap_or_else(|| panic!("no disk {disk}"));
            assert_eq!(ours["capacity"], disk["size"], "{disk}");
        }
    }
    // It says who keeps it, and that collector is shown with the others.
    assert_eq!(stored["properties"]["collected_by"], json!({"type": "Collector", "id": "host"}));
    let told = eventually(Duration::from_secs(10), "the collector follows", || {
        let told = server.ok("GET", "/api/lockstep/collectors/host", &json!(null));
        (told["phase"] == "FOLLOWING").then_some(told)
    });
    assert_eq!((&told["kind"], &told["lag_s"]), (&json!("HOST"), &json!(0)), "{told}");
    let (status, _) = server.call("DELETE", "/api/lockstep/collectors/host", &json!(null));
    assert_eq!(status, 400, "it runs");
    // A machine at rest is no news; virtual machines of other tests may come and go.
    let token = server.sequence();
    std::thread::sleep(Duration::from_secs(5));
    let changes = server.ok(
        "POST",
        "/api/lockstep/feed?action=get-changes",
        &json!({"sequence_token": token, "resource_types": ["HostSystem", "Datastore", "Network"]}),
    );
    // Disks are shared with other tests, which fill and free them.
    let is_news = |change: &&Value| change["properties"] != json!(["free_space"]);
    let changes: Vec<Value> = changes["changes"].as_array().cloned().unwrap_or_default();
    assert_eq!(changes.iter().filter(is_news).count(), 0, "{changes:?}");
}

/// A process that is killed when the test ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_qemu_process_arrives_in_the_feed_and_is_off_when_it_ends() {
    if printed("qemu-system-x86_64", &["--version"]).is_none() {
        eprintln!("skipped: no qemu-system-x86_64; scripts/test-tools.sh installs it");
        return;
    }
    let server = Server::start_with(&["--plain-http"]);
    eventually(Duration::from_secs(10), "the host is in the inventory", || hosts(&server).into_iter().next());
    let token = server.sequence();
    let uuid = "5f0c8ed6-0000-4000-8000-00000000c0de";
    let qemu = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg",
            "-display",
            "none",
            "-S",
            "-name",
            "lockstep-it",
            "-uuid",
            uuid,
            "-m",
            "64",
            "-smp",
            "2",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let qemu = Killed(qemu);
    let find = |token: &str, kind: &str| {
        let (status, answer) = server.changes(token);
        assert_eq!(status, 200, "{answer}");
        let changes = answer["value"]["changes"].as_array().cloned().unwrap_or_default();
        let is_ours = |c: &Value| c["resource"]["id"].as_str().is_some_and(|id| id.contains(uuid)) && c["kind"] == kind;
        changes.into_iter().find(is_ours)
    };
    let created = eventually(Duration::from_secs(5), "the VM is in the feed", || find(&token, "CREATE"));
    assert_eq!(created["resource"]["type"], "VirtualMachine");
    assert_eq!(created["parent_resources"][0]["type"], "HostSystem", "{created}");
    let id = created["resource"]["id"].as_str().unwrap();
    let stored = server.ok("GET", &format!("/api/lockstep/resources/VirtualMachine/{id}"), &json!(null));
    let properties = &stored["properties"];
    assert_eq!(
        (&properties["name"], &properties["cpu_count"], &properties["memory_size_MiB"]),
        (&json!("lockstep-it"), &json!(2), &json!(64))
    );
    drop(qemu);
    let is_off = |change: &Value| change["properties"].to_string().contains("power_state");
    let ended = eventually(Duration::from_secs(5), "the end of the VM is in the feed", || {
        find(&token, "UPDATE").filter(is_off)
    });
    assert_eq!(ended["parent_resources"], created["parent_resources"]);
    let stored = server.ok("GET", &format!("/api/lockstep/resources/VirtualMachine/{id}"), &json!(null));
    assert_eq!(stored["properties"]["power_state"], "POWERED_OFF");
    assert!(find(&token, "DELETE").is_none(), "a machine that stops is off, not gone");
}
