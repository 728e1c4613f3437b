//! The agent as a process of its own: what it samples, and what becomes of it when it is killed and cut off.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, eventually};
use crate::stats::now_s;

/// A process that is killed when the test ends, however it ends.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A way to the server that can be cut.
struct Proxy {
    port: u16,
    is_cut: Arc<AtomicBool>,
    /// Both ends of every connection.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = server.url.split("://").nth(1).unwrap().to_owned();
        let (is_cut, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let proxy = Self { port, is_cut: is_cut.clone(), open: open.clone() };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let both = |a: &TcpStream, b: &TcpStream| (a.try_clone().unwrap(), b.try_clone().unwrap());
                for (from, to) in [both(&client, &server), both(&server, &client)] {
                    thread::spawn(move || pump(from, to));
                }
                open.lock().unwrap().extend([client, server]);
            }
        });
        proxy
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// An access token of the role agent, in a file.
pub(crate) fn token_file(server: &Server, name: &str) -> std::path::PathBuf {
    let path = format!("/api/lockstep/accounts/{name}?action=issue-token");
    let token = server.ok("POST", &path, &json!({"role": "AGENT"}));
    let file = server.data.path().join(format!("{name}.token"));
    std::fs::write(&file, token.as_str().unwrap()).unwrap();
    file
}

pub(crate) fn start(url: &str, token: &Path, data_dir: &Path) -> Killed {
    let child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .args(["agent", "--server", url, "--sync-interval", "1", "--token-file"])
        .arg(token)
        .arg("--data-dir")
        .arg(data_dir)
        .env("RUST_LOG", "warn,lockstep_agent=debug")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stderr(File::options().create(true).append(true).open(data_dir.join("log")).unwrap())
        .spawn()
        .unwrap();
    Killed(child)
}

/// The machines of this test are told by it: others on this host come and go.
const OURS: &str = "5f0c8ed6-0000-4000-9000-";

/// The points of this host and of this test's machines: values by time, by series.
fn points(server: &Server) -> BTreeMap<String, BTreeMap<i64, f64>> {
    let answer = server.ok("POST", "/api/lockstep/stats/series?action=query", &json!({"filter": {}}));
    let numbers = |list: &Value| list.as_array().unwrap().clone();
    let series = |one: &Value| {
        let times = numbers(&one["times"]).into_iter().map(|time| time.as_i64().unwrap());
        let points = times.zip(numbers(&one["values"]).into_iter().map(|value| value.as_f64().unwrap())).collect();
        (format!("{}@{}", one["cid"].as_str().unwrap(), one["rid"].as_str().unwrap()), points)
    };
    let is_ours = |one: &&Value| {
        let id = one["resources"][0]["id_value"].as_str().unwrap();
        one["cid"].as_str().unwrap().ends_with(".HOST") || id.contains(OURS)
    };
    answer["series"].as_array().unwrap().iter().filter(is_ours).map(series).collect()
}

fn ask_for_all(server: &Server, groups: &[&str], kind: &str) {
    for group in groups {
        let body = json!({"counters": {"set_id": format!("{group}.{kind}")}, "interval": 1,
            "resources": [{"type": kind, "id_value": "", "predicate": "ALL"}]});
        server.ok("POST", "/api/stats/acq-specs", &body);
    }
}

/// Machines without anything in them, which cost little and are sampled all the same.
pub fn idle_machines(count: usize) -> Vec<Killed> {
    let start = |number: usize| {
        let uuid = format!("{OURS}{number:012x}");
        let name = format!("idle-{number}");
        let args =
            ["-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-S", "-name", &name, "-uuid", &uuid];
        Command::new("qemu-system-x86_64")
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()
            .map(Killed)
    };
    let started: Vec<Killed> = (0..count).map_while(start).collect();
    if started.len() < count {
        eprintln!("without virtual machines: no qemu-system-x86_64; scripts/test-tools.sh installs it");
    }
    started
}

/// How many ticks the agents say they left out, over all their lives.
fn ticks_left_out(data_dir: &Path) -> usize {
    let log = std::fs::read_to_string(data_dir.join("log")).unwrap();
    let count = |line: &str, name: &str| -> Option<usize> {
        line.split_once(name)?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let told = log.lines().filter_map(|line| Some(count(line, "late_ticks=")? + count(line, "clock_ticks=")?));
    // Each life counts from its start: a smaller count is that of another life.
    let (sum, last) = told.fold((0, 0), |(sum, last), now| if now < last { (sum + last, now) } else { (sum, now) });
    sum + last
}

#[test]
fn an_agent_that_is_killed_and_cut_off_delivers_every_point_once() {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    // A short time for every run of the tests; two minutes and thirty machines for a thousand points a second on request.
    let (seconds, machines) = (number("LOCKSTEP_AGENT_SECONDS", 6), number("LOCKSTEP_AGENT_MACHINES", 2));
    let server = Server::start_with(&["--plain-http", "--no-collect-host", "--no-sample-host"]);
    let proxy = Proxy::to(&server);
    let running = idle_machines(machines as usize);
    let machines = running.len() as u64;
    let token = token_file(&server, "agent-1");
    let data_dir = TempDir::new().unwrap();
    let agent = start(&proxy.url(), &token, data_dir.path());
    ask_for_all(&server, &["cpu", "mem", "disk", "net", "sys"], "HOST");
    ask_for_all(&server, &["cpu", "mem", "disk", "net", "sys"], "VM");
    let all_are_there = || {
        let found = points(&server);
        let hosts = found.keys().filter(|key| key.contains(".HOST@")).count();
        let vms = found.keys().filter(|key| key.starts_with("sys.uptime.current.VM@")).count() as u64;
        (hosts > 50 && vms >= machines).then_some(found.len())
    };
    let series =
        eventually(Duration::from_secs(20), "the counters of the host and its machines are sampled", all_are_there);

    // Cut off; killed meanwhile, and started again while there is still no server.
    thread::sleep(Duration::from_secs(1));
    let cut_s = now_s();
    proxy.cut();
    thread::sleep(Duration::from_secs(seconds / 2));
    let killed_s = now_s();
    drop(agent);
    let _agent = start(&proxy.url(), &token, data_dir.path());
    thread::sleep(Duration::from_secs(seconds - seconds / 2));
    let mended_s = now_s();
    let before: usize = points(&server).values().map(|points| points.range(cut_s + 2..).count()).sum();
    assert_eq!(before, 0, "nothing comes through a cut");
    proxy.mend();
    let caught_up = || {
        points(&server)
            .values()
            .all(|points| points.last_key_value().is_some_and(|p| *p.0 > mended_s + 2))
            .then_some(())
    };
    eventually(Duration::from_secs(60), "the agent has caught up", caught_up);

    // Every second has its point, but for those in which the agent was dead, the one that it had not flushed, and those that it says
    // it had to leave out, on a machine that is busy with other tests.
    let left_out = ticks_left_out(data_dir.path());
    let found = points(&server);
    let (mut expected, mut dead) = (0, 0);
    let mut missing: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for (key, points) in &found {
        let (first, last) = (*points.keys().next().unwrap(), *points.keys().next_back().unwrap());
        for time_s in (first..=last).filter(|time_s| !points.contains_key(time_s)) {
            if (killed_s - 1..killed_s + 4).contains(&time_s) {
                dead += 1;
            } else {
                missing.entry(time_s).or_default().push(key);
            }
        }
        expected += last - first + 1;
    }
    assert!(
        missing.len() <= left_out,
        "the agent left {left_out} seconds out; missing is {missing:?}; cut {cut_s}, killed {killed_s}, mended {mended_s}"
    );
    let store = server.ok("GET", "/api/lockstep/stats/store", &Value::Null);
    eprintln!(
        "{series} series, {expected} points of which the agent was dead for {dead}, {left_out} seconds left out; the server took {} in all",
        store["stored"]
    );
}
