//! A server under test, and the way to talk to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const USER: &str = "administrator@lockstep.local";
pub const PASSWORD: &str = "correct horse battery";

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A running `lockstep serve` on a port of its own, killed when it is dropped.
pub struct Server {
    child: Child,
    pub url: String,
    pub data: TempDir,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    http: Client,
}

impl Server {
    /// Starts a server on plain HTTP that does not collect its host.
    pub fn start() -> Self {
        Self::start_with(&["--plain-http", "--no-collect-host"])
    }

    pub fn start_with(args: &[&str]) -> Self {
        Self::start_in(args, &[])
    }

    /// Starts a server that finds more in its environment.
    pub fn start_in(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let data = TempDir::new().unwrap();
        std::fs::write(data.path().join("password"), PASSWORD).unwrap();
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(own).collect();
        let (child, url) = spawn(data.path(), &args, &environment);
        let http = http(Duration::from_secs(60));
        Self { child, url, data, args, environment, http }
    }

    /// Kills the process with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same data, on another port.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.url) = spawn(self.data.path(), &self.args, &self.environment);
    }

    /// Starts it again on the same data with other arguments.
    pub fn restart_with(&mut self, args: &[&str]) {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.restart();
    }

    /// Asks it to stop, and waits for the end.
    pub fn stop(mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.child.wait().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = method.parse().unwrap();
        self.http.request(method, format!("{}{path}", self.url)).basic_auth(USER, Some(PASSWORD))
    }

    /// Sends JSON, or nothing for null, and answers status and body.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.request(method, path);
        read(if body.is_null() { request } else { request.json(body) }.send().unwrap())
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        read(self.request("GET", path).send().unwrap())
    }

    /// A call that must succeed.
    pub fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Runs a query, and answers its `value`.
    pub fn query(&self, spec: Value) -> Value {
        let path = "/rest/com/vmware/cis/data/legacy/resource-model?~action=query";
        self.ok("POST", path, &json!({ "query_spec": spec }))["value"].clone()
    }

    /// Imports NDJSON lines.
    pub fn import(&self, lines: impl Into<reqwest::blocking::Body>) -> (u16, Value) {
        let request = self.request("POST", "/api/lockstep/resources?action=import");
        read(request.header("content-type", "application/x-ndjson").body(lines).send().unwrap())
    }

    pub fn sequence(&self) -> String {
        let value = self.ok("POST", "/rest/com/vmware/cdc/change-log?~action=get-current-sequence", &json!({}));
        value["value"].as_str().unwrap().to_owned()
    }

    pub fn changes(&self, token: &str) -> (u16, Value) {
        self.call("POST", "/rest/com/vmware/cdc/change-log?~action=get-changes", &json!({ "sequence_token": token }))
    }

    /// The command line of a client for this server.
    pub fn cli(&self, args: &[&str]) -> Command {
        // TLS of a server that was started here: no need to look at its certificate.
        let is_tls = self.url.starts_with("https");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command
            .args(args)
            .env("LOCKSTEP_URL", &self.url)
            .env("LOCKSTEP_USERNAME", USER)
            .env("LOCKSTEP_PASSWORD", PASSWORD);
        command.env("XDG_CONFIG_HOME", self.data.path()).env_remove("LOCKSTEP_CA_CERT");
        command.envs(is_tls.then_some(("LOCKSTEP_INSECURE", "1")));
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP client that waits so long for an answer.
pub fn http(timeout: Duration) -> Client {
    // Without a provider the client panics, even for plain HTTP; fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Whom the programs under test trust is tested; this one talks to servers that it has started itself.
    Client::builder().timeout(timeout).tls_danger_accept_invalid_certs(true).build().unwrap()
}

pub fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = response.bytes().unwrap();
    let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    (status, value)
}

fn spawn(data: &Path, args: &[String], environment: &[(String, String)]) -> (Child, String) {
    // A server that others must find again after a restart says itself where it listens.
    let listens = args.iter().any(|arg| arg == "--listen");
    let mut child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .arg("serve")
        .args((!listens).then_some(["--listen", "127.0.0.1:0"]).into_iter().flatten())
        .arg("--data-dir")
        .arg(data)
        .arg("--admin-password-file")
        .arg(data.join("password"))
        .args(args)
        .env("RUST_LOG", "warn")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    let url = loop {
        let line = match lines.next() {
            Some(line) => line.unwrap(),
            None => panic!("the server ended before it listened:\n{}", seen.join("\n")),
        };
        if let Some((_, url)) = line.split_once(" listens on ") {
            break url.trim().to_owned();
        }
        seen.push(line);
    };
    // The log goes on to the test's own output; a full pipe would stop the server.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
    (child, url)
}

/// Waits until `condition` gives something, at most `limit`.
pub fn eventually<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
