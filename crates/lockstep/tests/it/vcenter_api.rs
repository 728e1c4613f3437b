//! The inventory as vCenter's clients list it, and switching real machines of QEMU.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::sdk;
use crate::server::{PASSWORD, Server, USER, eventually, root};
use crate::vcenter::{self, Vcsim};

fn to(resource_type: &str, id: &str) -> Value {
    json!({"type": resource_type, "id": id})
}

/// The inventory that `tests/sdk/vcenter.py` expects.
fn furnish(server: &Server) {
    let mut lines = vec![
        ("Datacenter", "dc-1".to_owned(), json!({"name": "fra"})),
        (
            "Folder",
            "group-v1".to_owned(),
            json!({"name": "vm", "kind": "VIRTUAL_MACHINE", "datacenter": to("Datacenter", "dc-1")}),
        ),
        (
            "ClusterComputeResource",
            "domain-c1".to_owned(),
            json!({"name": "cl", "drs_enabled": true, "datacenter": to("Datacenter", "dc-1")}),
        ),
        (
            "ResourcePool",
            "resgroup-1".to_owned(),
            json!({"name": "Resources", "cluster": to("ClusterComputeResource", "domain-c1"),
                "cpu": {"reservation_MHz": 0, "limit_MHz": -1, "shares": "NORMAL"}}),
        ),
        (
            "HostSystem",
            "host-1".to_owned(),
            json!({"name": "h1", "cluster": to("ClusterComputeResource", "domain-c1"), "connection_state": "CONNECTED",
                "power_state": "POWERED_ON"}),
        ),
        ("HostSystem", "host-2".to_owned(), json!({"name": "h2", "connection_state": "NOT_RESPONDING"})),
        (
            "Datastore",
            "datastore-1".to_owned(),
            json!({"name": "nfs", "kind": "NFS", "free_space": 5, "capacity": 9, "accessible": true}),
        ),
        ("Network", "net-1".to_owned(), json!({"name": "br0", "kind": "BRIDGE"})),
        (
            "VirtualMachine",
            "vm-1".to_owned(),
            json!({"name": "v1", "power_state": "POWERED_ON", "cpu_count": 4, "cores_per_socket": 2, "memory_size_MiB": 2048,
                "guest_OS": "UBUNTU_64", "hardware_version": "VMX_21", "host": to("HostSystem", "host-1"),
                "folder": to("Folder", "group-v1"), "resource_pool": to("ResourcePool", "resgroup-1"),
                "disks": [{"label": "d", "capacity": 1 << 30, "path": "/images/v1.qcow2"}],
                "nics": [{"label": "n", "mac_address": "52:54:00:00:00:01", "kind": "virtio-net-pci", "connected": true}],
                "networks": [to("Network", "net-1")]}),
        ),
        (
            "VirtualMachine",
            "vm-2".to_owned(),
            json!({"name": "v2", "power_state": "POWERED_OFF", "host": to("HostSystem", "host-1")}),
        ),
        ("VirtualMachine", "west~vm-1".to_owned(), json!({"name": "v1", "power_state": "POWERED_ON"})),
    ];
    for number in 0..1001 {
        let folder = json!({"name": "f", "kind": "HOST", "datacenter": to("Datacenter", "dc-many")});
        lines.push(("Folder", format!("many-{number}"), folder));
    }
    let line = |(resource_type, id, properties): &(&str, String, Value)| {
        json!({"type": resource_type, "id": id, "properties": properties}).to_string() + "\n"
    };
    let path = server.data.path().join("inventory.ndjson");
    std::fs::write(&path, lines.iter().map(line).collect::<String>()).unwrap();
    let mut import = server.cli(&["import"]);
    import.arg(&path).env("LOCKSTEP_SSL_THUMBPRINT", "").env("LOCKSTEP_INSECURE", "true");
    let done = import.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Runs the SDK's script; false, with the reason printed, where there is no SDK.
fn run_script(server: &Server, args: &[&str]) -> bool {
    let Some(python) = sdk::python("vmware.vapi") else { return false };
    sdk::run(python, "vcenter.py", sdk::address(server).iter().map(String::as_str).chain(args.iter().copied()));
    true
}

#[test]
fn the_python_sdk_lists_the_inventory() {
    let server = Server::start_with(&["--no-collect-host", "--no-sample-host"]);
    furnish(&server);
    run_script(&server, &["lists"]);
}

#[test]
fn both_generations_of_rest_list_the_inventory_by_their_own_urls() {
    let server = Server::start_with(&["--plain-http", "--no-collect-host", "--no-sample-host"]);
    furnish(&server);
    let get = |path: &str| server.ok("GET", path, &Value::Null);
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|vm| vm["vm"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&get("/api/vcenter/vm")), ["vm-1", "vm-2", "west~vm-1"]);
    for query in [
        "names=v2",
        "names=v2&names=none",
        "filter.names=v2",
        "power_states=POWERED_OFF&power_states=SUSPENDED",
        "clusters=domain-c1&power_states=POWERED_OFF",
        "vms=vm-2",
    ] {
        assert_eq!(ids(&get(&format!("/api/vcenter/vm?{query}"))), ["vm-2"], "{query}");
    }
    for path in ["/rest/vcenter/vm", "/rest/com/vmware/vcenter/vm"] {
        assert_eq!(ids(&get(path)["value"]), ["vm-1", "vm-2", "west~vm-1"]);
        assert_eq!(
            ids(&get(&format!("{path}?filter.names.1=v2&filter.power_states.1=POWERED_OFF"))["value"]),
            ["vm-2"]
        );
    }
    let current = get("/api/vcenter/vm/vm-1");
    assert_eq!(current["disks"]["2000"]["capacity"], 1 << 30);
    let legacy = get("/rest/vcenter/vm/vm-1");
    assert_eq!(legacy["value"]["disks"][0]["key"], "2000");
    assert_eq!(get("/api/vcenter/host?standalone=true")[0]["host"], "host-2");
    assert_eq!(get("/api/vcenter/resource-pool/resgroup-1")["name"], "Resources");
    assert_eq!(
        get("/rest/vcenter/vm/vm-2/power"),
        json!({"value": {"state": "POWERED_OFF", "clean_power_off": false}})
    );
    for (path, status, kind) in [
        ("/api/vcenter/vm/vm-9", 404, "NOT_FOUND"),
        ("/api/vcenter/vm?power_states=OFF", 400, "INVALID_ARGUMENT"),
        ("/api/vcenter/folder?datacenters=dc-many", 500, "UNABLE_TO_ALLOCATE_RESOURCE"),
    ] {
        let (found, body) = server.call("GET", path, &Value::Null);
        assert_eq!((found, &body["error_type"]), (status, &json!(kind)), "{path}: {body}");
    }
    // The action stands in the query of the current generation, and in the path of the other.
    for path in ["/api/vcenter/vm/vm-2/power?action=start", "/rest/vcenter/vm/vm-2/power/start"] {
        let (status, body) = server.call("POST", path, &Value::Null);
        assert_eq!(status, 400, "{path}: {body}");
        assert!(body.to_string().contains("switches no machine"), "{path}: {body}");
    }
}

/// What `govc` prints, line by line in order.
fn govc(server: &Server, args: &[&str]) -> Vec<String> {
    let address = server.url.trim_start_matches("http://").trim_start_matches("https://");
    let output = Command::new(root().join(".tools/vcsim/bin/govc"))
        .args(args)
        .env("GOVC_URL", format!("https://{address}/sdk"))
        .env("GOVC_USERNAME", USER)
        .env("GOVC_PASSWORD", PASSWORD)
        .env("GOVC_TLS_CA_CERTS", server.data.path().join("tls-cert.pem"))
        // Where it keeps its session, and finds it again.
        .env("HOME", server.data.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {printed}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = printed.lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn govc_walks_the_inventory_and_tells_of_machines_and_hosts() {
    if !root().join(".tools/vcsim/bin/govc").exists() {
        eprintln!("skipped: no govc in .tools/vcsim; scripts/test-tools.sh builds it");
        return;
    }
    let server = Server::start_with(&["--no-collect-host", "--no-sample-host"]);
    furnish(&server);
    // What stands in no datacenter is shown in one of its own.
    assert_eq!(govc(&server, &["find", "/", "-type", "m"]), ["/fra/vm/v1", "/fra/vm/v2", "/lockstep/vm/v1"]);
    assert_eq!(govc(&server, &["find", "/", "-type", "h"]), ["/fra/host/cl/h1", "/lockstep/host/h2/h2"]);
    assert_eq!(govc(&server, &["find", "/fra/vm", "-type", "m", "-name", "v2"]), ["/fra/vm/v2"]);
    assert_eq!(govc(&server, &["ls", "/fra"]), ["/fra/datastore", "/fra/host", "/fra/network", "/fra/vm"]);
    assert_eq!(govc(&server, &["ls", "/fra/vm"]), ["/fra/vm/v1", "/fra/vm/v2"]);
    assert_eq!(govc(&server, &["ls", "/fra/host/cl"]), ["/fra/host/cl/Resources", "/fra/host/cl/h1"]);
    assert_eq!(govc(&server, &["ls", "/lockstep/datastore"]), ["/lockstep/datastore/nfs"]);
    let told = govc(&server, &["vm.info", "-dc", "fra", "v1"]);
    for part in [
        "Path:         /fra/vm/v1",
        "Memory:       2048MB",
        "CPU:          4 vCPU(s)",
        "Power state:  poweredOn",
        "Host:         h1",
    ] {
        assert!(told.iter().any(|line| line == part), "{part}: {told:?}");
    }
    let told = govc(&server, &["host.info", "-host", "/fra/host/cl/h1"]);
    assert!(told.iter().any(|line| line == "State:           connected"), "{told:?}");
}

#[test]
fn a_collected_vcenter_is_listed_as_it_lists_itself() {
    if !vcenter::is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-dc", "2", "-host", "2", "-cluster", "2", "-vm", "3", "-folder", "1"]);
    let server = Server::start_with(&["--no-collect-host", "--no-sample-host"]);
    vcsim.collect(&server, "vc", vcsim.address());
    let sorted = |printed: String| {
        let mut lines: Vec<String> = printed.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    for kind in ["m", "h", "c", "s", "n", "p", "d", "f"] {
        for find in [&["find", "/", "-type", kind][..], &["find", "-i", "/", "-type", kind]] {
            // Port groups of distributed switches are networks here.
            let there = vcsim.govc(find).replace("DistributedVirtualPortgroup:", "Network:");
            assert_eq!(govc(&server, find), sorted(there), "{find:?}");
        }
    }
    let machines = sorted(vcsim.govc(&["find", "/", "-type", "m"]));
    let name = |path: &String| path.rsplit('/').next().unwrap().to_owned();
    let names: BTreeSet<String> = machines.iter().map(name).collect();
    let list = server.ok("GET", "/api/vcenter/vm", &Value::Null);
    let listed = list.as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap().to_owned());
    assert_eq!(listed.collect::<BTreeSet<_>>(), names);
    for path in &machines {
        let told = |printed: Vec<String>| -> Vec<String> {
            let parts = ["Name:", "Path:", "UUID:", "Memory:", "CPU:", "Power state:", "Host:"];
            printed.into_iter().filter(|line| parts.iter().any(|part| line.starts_with(part))).collect()
        };
        let info = ["vm.info", path.as_str()];
        assert_eq!(told(govc(&server, &info)), told(sorted(vcsim.govc(&info))), "{path}");
    }
    let clusters = server.ok("GET", "/api/vcenter/cluster", &Value::Null);
    for cluster in clusters.as_array().unwrap() {
        let cluster = cluster["cluster"].as_str().unwrap();
        let info = server.ok("GET", &format!("/api/vcenter/cluster/{cluster}"), &Value::Null);
        assert!(info["resource_pool"].as_str().unwrap().starts_with("resgroup-"), "{info}");
    }
    let datacenters = server.ok("GET", "/api/vcenter/datacenter", &Value::Null);
    for datacenter in datacenters.as_array().unwrap() {
        let id = datacenter["datacenter"].as_str().unwrap();
        let info = server.ok("GET", &format!("/api/vcenter/datacenter/{id}"), &Value::Null);
        for folder in ["vm_folder", "host_folder", "datastore_folder", "network_folder"] {
            assert!(!info[folder].as_str().unwrap().is_empty(), "{folder}: {info}");
        }
        let inside = server.ok("GET", &format!("/api/vcenter/vm?datacenters={id}"), &Value::Null);
        let path = format!("/{}/", datacenter["name"].as_str().unwrap());
        let expected = machines.iter().filter(|machine| machine.contains(&path)).count();
        assert_eq!(inside.as_array().unwrap().len(), expected);
    }
}

/// A process that is killed when the test ends, however it ends.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine of QEMU in a directory of its own; none, with the reason printed, where there is no QEMU.
pub(crate) fn start_qemu(directory: &Path, name: &str, more: &[&str]) -> Option<Killed> {
    let started = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-display", "none", "-nodefaults", "-m", "32", "-name", name])
        .args(["-qmp", "unix:q.sock,server=on,wait=off"])
        .args(more)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(child) => Some(Killed(child)),
        Err(error) => {
            eprintln!("skipped: qemu-system-x86_64 cannot be started: {error}; scripts/test-tools.sh installs it");
            None
        }
    }
}

/// The machine that a process runs, once the inventory knows its monitor.
pub(crate) fn machine_of(server: &Server, process: &Killed) -> (String, Value) {
    let pid = process.0.id();
    let spec = json!({
        "resource_filter": {"filter_type": "PROPERTY", "property_filter": {"property": "VirtualMachine/qemu/pid",
            "operator": "EQUAL", "comparable_type": "LONG", "comparable_long": pid}},
        "property_spec": ["VirtualMachine/qemu/version", "VirtualMachine/power_state"]});
    let found = eventually(Duration::from_secs(60), "the machine is in the inventory", || {
        let item = server.query(spec.clone())["items"].as_array()?.first().cloned()?;
        item.to_string().contains("qemu/version").then_some(item)
    });
    (found["resource_id"]["id"].as_str().unwrap().to_owned(), found)
}

#[test]
fn real_machines_are_switched_and_a_stopped_one_stays_in_the_inventory() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let name = format!("switched-{}", std::process::id());
    let Some(mut first) = start_qemu(directories[0].path(), &name, &[]) else { return };
    let Some(second) = start_qemu(directories[1].path(), "resets", &["-no-reboot"]) else { return };
    let server = Server::start_with(&["--no-sample-host"]);
    let (id, _) = machine_of(&server, &first);
    let (second_id, _) = machine_of(&server, &second);
    let token = server.sequence();
    if !run_script(&server, &["power", &id, &second_id]) {
        return;
    }
    assert!(first.0.try_wait().unwrap().unwrap().success(), "it was told to quit, not killed");

    let stored = server.ok("GET", &format!("/api/lockstep/resources/VirtualMachine/{id}"), &json!(null));
    let properties = &stored["properties"];
    assert_eq!((&properties["name"], &properties["power_state"]), (&json!(name), &json!("POWERED_OFF")));
    assert_eq!((properties["qemu"].get("pid"), properties.get("boot_time")), (None, None), "{properties}");
    assert_eq!(properties["memory_size_MiB"], 32);
    let changes = server.changes(&token).1["value"]["changes"].clone();
    let of_first = |change: &&Value| change["resource"]["id"] == *id;
    let kinds: Vec<&Value> =
        changes.as_array().unwrap().iter().filter(of_first).map(|change| &change["kind"]).collect();
    assert!(kinds.len() >= 3 && kinds.iter().all(|kind| **kind == "UPDATE"), "{changes}");

    // Started again it is the same machine.
    let Some(again) = start_qemu(directories[0].path(), &name, &[]) else { return };
    let (found, _) = machine_of(&server, &again);
    assert_eq!(found, id);
    // What is off for good is deleted by its owner, and does not come back.
    drop(second);
    let path = format!("/api/lockstep/resources/VirtualMachine/{second_id}");
    server.ok("DELETE", &path, &json!(null));
    assert_eq!(server.call("GET", &path, &json!(null)).0, 404);
}

#[test]
fn a_machine_whose_guest_shut_down_is_started_from_there() {
    // A boot sector that switches the machine off by its power management: `outw 0x2000, 0x604`.
    let mut sector = vec![0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd];
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("disk.raw"), sector).unwrap();
    let disk = ["-no-shutdown", "-drive", "file=disk.raw,format=raw,if=ide"];
    let Some(mut qemu) = start_qemu(directory.path(), "shuts-down", &disk) else { return };
    let server = Server::start_with(&["--plain-http", "--no-sample-host"]);
    let (id, _) = machine_of(&server, &qemu);
    let is_off = || {
        let state = server.ok("GET", &format!("/api/vcenter/vm/{id}/power"), &json!(null));
        (state["state"] == "POWERED_OFF").then_some(())
    };
    eventually(Duration::from_secs(60), "its guest has shut down", is_off);
    let (status, body) = server.call("POST", &format!("/api/vcenter/vm/{id}/power?action=start"), &json!(null));
    assert_eq!(status, 204, "{body}");
    eventually(Duration::from_secs(60), "its guest has shut down again", is_off);
    assert!(qemu.0.try_wait().unwrap().is_none(), "its process is still there");
}
