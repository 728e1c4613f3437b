//! The virtual machines of a host, as the feed tells them: of QEMU alone, and of a real libvirtd.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::libvirtd::{Libvirtd, PATIENCE};
use crate::server::{Server, eventually};
use crate::vcenter_api::{machine_of, start_qemu};

/// How soon the feed tells what happens to a machine. Demanded of a run of its own (`LOCKSTEP_HOSTS_FIRE=full`); beside other tests it is
/// printed.
const SOON: Duration = Duration::from_secs(5);

/// What the feed has told since a token.
struct Feed<'s> {
    server: &'s Server,
    token: String,
    changes: Vec<Value>,
}

impl<'s> Feed<'s> {
    fn of(server: &'s Server) -> Self {
        Self { server, token: server.sequence(), changes: Vec::new() }
    }

    /// Reads on until a machine has been told as changed in a way, and the inventory shows it in a state.
    fn until(&mut self, what: &str, machine: &str, kind: &str, state: &str) {
        let (began, mut at) = (Instant::now(), self.changes.len());
        loop {
            let (status, answer) = self.server.changes(&self.token);
            assert_eq!(status, 200, "{answer}");
            self.token = answer["value"]["sequence"].as_str().unwrap().to_owned();
            self.changes.extend(answer["value"]["changes"].as_array().cloned().unwrap_or_default());
            let is_told = |change: &Value| change["resource"]["id"] == machine && change["kind"] == kind;
            if let Some(found) = self.changes[at..].iter().position(is_told) {
                at += found + 1;
                if state_of(self.server, machine) == *state {
                    break;
                }
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {kind} {state} of {machine} is not told");
        }
        let took = began.elapsed();
        eprintln!("{what}: in the feed after {took:?}");
        let is_full = std::env::var("LOCKSTEP_HOSTS_FIRE").is_ok_and(|form| form == "full");
        assert!(took < SOON || !is_full, "{what}: {took:?}");
    }

    fn never(&self, machine: &str, kind: &str) {
        let stray = self.changes.iter().find(|c| c["resource"]["id"] == machine && c["kind"] == kind);
        assert!(stray.is_none(), "{stray:?}");
    }
}

fn state_of(server: &Server, machine: &str) -> Value {
    let path = format!("/api/lockstep/resources/VirtualMachine/{machine}");
    server.call("GET", &path, &json!(null)).1["properties"]["power_state"].clone()
}

/// Says a command to a monitor, as its owner would; tries again while somebody else has it.
fn say(directory: &Path, command: &str) {
    let said = || -> Option<()> {
        let stream = UnixStream::connect(directory.join("q.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        for command in ["qmp_capabilities", command] {
            writeln!(reader.get_mut(), "{}", json!({ "execute": command })).ok()?;
            loop {
                line.clear();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                if line.contains("\"return\"") {
                    break;
                }
            }
        }
        Some(())
    };
    eventually(PATIENCE, command, said);
}

#[test]
fn machines_of_qemu_that_start_pause_stop_and_are_killed_are_told_and_stay() {
    let server = Server::start_with(&["--plain-http", "--no-sample-host", "--poll-limit", "1"]);
    let host = || {
        let told = server.ok("GET", "/api/lockstep/collectors", &json!(null));
        (told[0]["phase"] == "FOLLOWING").then_some(())
    };
    eventually(PATIENCE, "the host is in the inventory", host);
    let mut feed = Feed::of(&server);
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let uuid = |n: usize| format!("5f0c8ed6-0000-4000-a{n:03x}-{:012x}", std::process::id());
    let start = |n: usize| start_qemu(directories[n].path(), &format!("told-{n}"), &["-uuid", &uuid(n)]);
    let ids = [0, 1].map(|n| format!("vm-{}", uuid(n)));
    let mut machines = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let Some(machine) = start(n) else { return };
        feed.until("started", id, "CREATE", "POWERED_ON");
        machines.push(machine);
    }
    // The monitor is known now: a pause is told by it.
    let known: Vec<String> = machines.iter().map(|machine| machine_of(&server, machine).0).collect();
    assert_eq!(known, ids);
    say(directories[0].path(), "stop");
    feed.until("paused", &ids[0], "UPDATE", "SUSPENDED");
    say(directories[0].path(), "cont");
    feed.until("going on", &ids[0], "UPDATE", "POWERED_ON");
    say(directories[0].path(), "quit");
    feed.until("stopped", &ids[0], "UPDATE", "POWERED_OFF");
    machines[1].0.kill().unwrap();
    feed.until("killed", &ids[1], "UPDATE", "POWERED_OFF");
    // Started again it is the same machine.
    let Some(again) = start(1) else { return };
    feed.until("started again", &ids[1], "UPDATE", "POWERED_ON");
    drop(again);
    feed.until("killed again", &ids[1], "UPDATE", "POWERED_OFF");
    ids.iter().for_each(|id| feed.never(id, "DELETE"));
}

#[test]
fn machines_of_libvirt_are_told_by_its_events_and_switched_by_it() {
    let Some(mut daemon) = Libvirtd::start() else { return };
    let uri = daemon.uri("libvirt-sock-ro");
    let args = ["--plain-http", "--no-sample-host", "--poll-limit", "1", "--libvirt", &uri];
    let server = Server::start_with(&args);
    let test = "vm-6695eb01-f6a4-8304-79aa-97f2502e193f";
    eventually(PATIENCE, "the machine of the test driver", || (state_of(&server, test) == "POWERED_ON").then_some(()));
    let mut feed = Feed::of(&server);
    for (told, state) in
        [("suspend", "SUSPENDED"), ("resume", "POWERED_ON"), ("destroy", "POWERED_OFF"), ("start", "POWERED_ON")]
    {
        daemon.tell(&[told, "test"]);
        feed.until(told, test, "UPDATE", state);
    }
    // As clients of vCenter switch it.
    for (action, state) in
        [("suspend", "SUSPENDED"), ("start", "POWERED_ON"), ("stop", "POWERED_OFF"), ("start", "POWERED_ON")]
    {
        server.ok("POST", &format!("/api/vcenter/vm/{test}/power?action={action}"), &json!(null));
        feed.until(action, test, "UPDATE", state);
    }
    feed.never(test, "DELETE");
    let definition = daemon.path().join("other.xml");
    let uuid = "5f0c8ed6-0000-4000-b000-000000000001";
    let xml = format!(
        "<domain type='test'><name>other</name><uuid>{uuid}</uuid><memory unit='GiB'>1</memory><os><type>hvm</type></os></domain>"
    );
    std::fs::write(&definition, xml).unwrap();
    let other = format!("vm-{uuid}");
    daemon.tell(&["define", definition.to_str().unwrap()]);
    feed.until("defined", &other, "CREATE", "POWERED_OFF");
    daemon.tell(&["start", "other"]);
    feed.until("started", &other, "UPDATE", "POWERED_ON");
    daemon.tell(&["destroy", "other"]);
    feed.until("stopped", &other, "UPDATE", "POWERED_OFF");
    // Who knows which machines there are has said that this one is no more.
    daemon.tell(&["undefine", "other"]);
    let is_gone = || (state_of(&server, &other) == Value::Null).then_some(());
    eventually(PATIENCE, "what is not defined any more goes", is_gone);
    // A daemon that ends takes no machine with it.
    daemon.kill();
    let is_connected = |expected: bool| {
        let spec = json!({"resource_filter": {"filter_type": "TYPE", "resource_type": "HostSystem"},
            "property_spec": ["HostSystem/libvirt/connected"]});
        let told = server.query(spec)["items"][0]["property_values"][0]["value"].clone();
        (told == expected).then_some(())
    };
    eventually(PATIENCE, "the host tells that its libvirt is gone", || is_connected(false));
    assert_eq!(state_of(&server, test), "POWERED_ON");
    daemon.restart();
    // The test driver keeps its machines for as long as somebody is connected.
    eventually(PATIENCE, "the host tells that its libvirt is back", || is_connected(true));
    daemon.tell(&["suspend", "test"]);
    feed.until("told by a new daemon", test, "UPDATE", "SUSPENDED");
}
