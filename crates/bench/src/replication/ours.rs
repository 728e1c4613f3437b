//! Two linked servers of our own, and a machine that one replicates to the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ReplicationArgs;
use super::timed::Timed;
use crate::files::quoted;
use crate::http::{Client, Server};
use crate::process::Process;
use crate::serve::Serve;
use crate::stats::{call, free_address};

/// The administrator's password of servers that live as long as a measurement.
const PASSWORD: &str = "measured-Once-7";

/// How long a task may take.
const TASK_TIME_MAX: Duration = Duration::from_secs(600);

/// How often a task is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Where replications are.
const REPLICATIONS: &str = "/api/lockstep/replication/vm-replications";

/// A server.
struct Site {
    serve: Serve,
    server: Server,
}

/// Two sites, and a replication of an image from the first to the second.
pub struct Pair {
    source: Site,
    destination: Site,
    client: Client,
    replication: String,
    _dir: TempDir,
}

impl Site {
    /// Starts a server with TLS that neither collects nor samples by itself.
    fn start(args: &ReplicationArgs, name: &str, dir: &Path) -> anyhow::Result<Self> {
        let password = dir.join("password");
        std::fs::write(&password, PASSWORD).context("write the password's file")?;
        let server = Server::with_tls(&free_address()?, PASSWORD)?;
        let command = format!(
            "exec {} serve --data-dir {} --listen {} --site {name} --no-collect-host --no-sample-host \
             --admin-password-file {} 2>{}",
            quoted(&args.lockstep),
            quoted(&dir.join(name)),
            server.address,
            quoted(&password),
            quoted(&dir.join(format!("{name}.log"))),
        );
        let (serve, _) = Serve::start(&command, &server)?;
        Ok(Self { serve, server })
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        Process::new(self.serve.pid()).cpu()
    }
}

/// What a sync did.
pub struct Synced {
    /// With the CPU time of both servers.
    pub timed: Timed,
    /// Of that, the source's.
    pub source_cpu: Duration,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Bytes that differ.
    pub changed_bytes: u64,
    /// How the changed blocks were found.
    pub method: String,
}

impl Pair {
    /// Links two servers, and replicates a raw image for the first time.
    pub fn first_copy(args: &ReplicationArgs, image: &Path) -> anyhow::Result<Self> {
        let dir = args.fresh_dir()?;
        let source = Site::start(args, "source", dir.path())?;
        let destination = Site::start(args, "destination", dir.path())?;
        let (mut client, mut other) = (source.server.connect_logged_in()?, destination.server.connect_logged_in()?);
        let invitation = call(&mut other, "POST", "/api/lockstep/links?action=invite", &json!({}))?;
        let join = json!({"invitation": invitation["line"]});
        call(&mut client, "POST", "/api/lockstep/links?action=join", &join)?;
        let image = image.to_str().context("the image's name is no text")?;
        let machine = json!({
            "type": "VirtualMachine", "id": "vm-bench",
            "properties": {"name": "bench", "power_state": "POWERED_OFF",
                "disks": [{"label": "disk0", "path": image, "format": "raw"}]},
        });
        call(&mut client, "POST", "/api/lockstep/resources", &machine)?;
        let create = json!({
            "source": {"type": "vm", "vmId": "vm-bench"},
            "destination": {"type": "vm", "site": "destination"},
            "rpo": 1440,
        });
        let task = call(&mut client, "POST", REPLICATIONS, &create)?;
        let ended = wait(&mut client, &task)?;
        let replication = ended["workflowInfo"]["resourceId"].as_str().context("a task without a replication")?;
        let mut pair = Self { replication: replication.to_owned(), source, destination, client, _dir: dir };
        // The first sync may have been begun by the schedule: this one comes with it, or after it.
        pair.sync()?;
        Ok(pair)
    }

    /// Syncs now. What it takes is counted from the request to the end of the task, when the instance is durable.
    pub fn sync(&mut self) -> anyhow::Result<Synced> {
        let (source, destination, began) = (self.source.cpu()?, self.destination.cpu()?, Instant::now());
        let path = format!("{REPLICATIONS}/{}/sync", self.replication);
        let task = call(&mut self.client, "POST", &path, &Value::Null)?;
        wait(&mut self.client, &task)?;
        let wall = began.elapsed();
        let source_cpu = self.source.cpu()?.saturating_sub(source);
        let cpu = source_cpu + self.destination.cpu()?.saturating_sub(destination);
        let found = call(&mut self.client, "GET", &format!("{REPLICATIONS}/{}", self.replication), &Value::Null)?;
        let last = &found["lastSync"];
        let wire_bytes = last["wireBytes"].as_u64().with_context(|| format!("no report of a sync: {found}"))?;
        let method = last["method"].as_str().unwrap_or_default().to_owned();
        let changed_bytes = last["changedBytes"].as_u64().unwrap_or_default();
        let timed = Timed { wall, cpu, output: String::new() };
        Ok(Synced { timed, source_cpu, wire_bytes, changed_bytes, method })
    }

    /// The machine runs: its disk is read through this monitor of its QEMU. What changes from now on is known by a bitmap.
    pub fn power_on(&mut self, monitor: &Path) -> anyhow::Result<()> {
        let monitor = monitor.to_str().context("the monitor's name is no text")?;
        let running = json!({"properties": {"power_state": "POWERED_ON", "qemu/qmp_socket": monitor}});
        call(&mut self.client, "PATCH", "/api/lockstep/resources/VirtualMachine/vm-bench", &running)?;
        self.sync().map(drop)
    }
}

/// Waits for a task, which must succeed.
fn wait(client: &mut Client, task: &Value) -> anyhow::Result<Value> {
    let id = task["id"].as_str().with_context(|| format!("no task: {task}"))?;
    let began = Instant::now();
    loop {
        let found = call(client, "GET", &format!("/api/lockstep/tasks/{id}"), &Value::Null)?;
        match found["state"].as_str() {
            Some("RUNNING") => {}
            Some("SUCCEEDED") => return Ok(found),
            _ => anyhow::bail!("the task failed: {found}"),
        }
        ensure!(began.elapsed() < TASK_TIME_MAX, "the task does not end: {found}");
        std::thread::sleep(POLL_INTERVAL);
    }
}
