//! A server on a free port, and a client that is not helpful: it sends what it is told and reads what comes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use lockstep_api::{ApiConfig, Limits};
use lockstep_feed::Feed;
use lockstep_site::Site;
use lockstep_site::table::Table;
use tokio::sync::oneshot;

pub const USER: &str = "administrator@lockstep.local";
pub const PASSWORD: &str = "correct horse";

/// How long the feed waits: short, so that tests of its end are.
pub const POLL_LIMIT: Duration = Duration::from_secs(2);

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub address: SocketAddr,
    pub site: Arc<Site>,
    pub data: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

/// What a test adds to the table before the server starts.
pub type More = fn(&mut Table);

impl Server {
    pub fn start() -> Self {
        Self::start_with(Limits::default(), false, |_| {})
    }

    pub fn start_with(limits: Limits, has_tls: bool, more: More) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let data = tempfile::tempdir().unwrap();
        let config = lockstep_site::Config {
            name: "site <1>".to_owned(),
            data_dir: data.path().to_owned(),
            journal: lockstep_journal::Config::default(),
            query_limits: lockstep_query::Limits::default(),
            sessions: lockstep_site::sessions::SessionLimits::default(),
            epoch_types: Vec::new(),
        };
        let (stop, stopped) = oneshot::channel();
        let (address, site, served) = runtime.block_on(async {
            let site = Site::open(config, &mut |_| {}).unwrap();
            site.ensure_administrator(USER, PASSWORD).await.unwrap();
            let mut table = Table::default();
            lockstep_site::register(&mut table);
            Feed::new(&site, POLL_LIMIT).register(&mut table);
            more(&mut table);
            let tls = has_tls.then(|| lockstep_api::tls::load_or_create(data.path(), &[]).unwrap().0);
            let listener = lockstep_api::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let config = ApiConfig { tls, limits, ..Default::default() };
            let served = tokio::spawn(lockstep_api::serve(site.clone(), Arc::new(table), listener, config, async {
                let _ = stopped.await;
            }));
            (address, site, served)
        });
        Self { address, site, data, runtime: Some(runtime), stop: Some(stop), served: Some(served) }
    }

    pub fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// Sends a request on its own connection, and answers with the response.
    pub fn ask(&self, request: &Request) -> Response {
        let mut client = self.connect();
        client.send(&request.bytes());
        client.response()
    }

    /// Logs in, and answers the session's token.
    pub fn log_in(&self) -> String {
        let response = self.ask(&Request::new("POST", "/api/session").basic(USER, PASSWORD));
        assert_eq!(response.status, 201, "{response:?}");
        response.body.trim_matches('"').to_owned()
    }

    /// A value of the server's metrics.
    pub fn metric(&self, line_start: &str) -> f64 {
        let text = self.ask(&Request::new("GET", "/metrics")).body;
        let line = text.lines().find(|line| line.starts_with(line_start));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(-1.0)
    }

    /// Tells the server to stop; [`Server::join`] waits for it.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub fn join(&mut self) {
        let served = self.served.take().unwrap();
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, served).await }).unwrap().unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.site.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until `is_so`; the name says for what.
pub fn wait_until(name: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, url: &str) -> Self {
        Self { method: method.to_owned(), url: url.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn basic(self, user: &str, password: &str) -> Self {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.header("Authorization", &format!("Basic {encoded}"))
    }

    pub fn session(self, token: &str) -> Self {
        self.header("vmware-api-session-id", token)
    }

    pub fn json(self, body: &str) -> Self {
        self.body("application/json", body)
    }

    pub fn body(self, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        let mut with = self.header("Content-Type", content_type);
        with.body = body.as_ref().to_vec();
        with
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\nHost: test\r\n", self.method, self.url);
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            out.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        out.extend_from_slice(&self.body);
        out
    }
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The kind of the error in whatever envelope; empty when there is none.
    pub fn error(&self) -> String {
        if let Some(from) = self.body.find("<error_type>") {
            return self.body[from + 12..].split('<').next().unwrap().to_owned();
        }
        let Ok(json) = serde_json::from_str::<serde_json::Value>(&self.body) else { return String::new() };
        if let Some(code) = json.pointer("/error/code") {
            return code.to_string();
        }
        if let Some(named) = json.pointer("/result/error/ERROR").and_then(|e| e.as_object()) {
            let name = named.keys().next().unwrap().rsplit('.').next().unwrap().to_uppercase();
            assert_eq!(
                self.header("vapi-error").map(|n| n.rsplit('.').next().unwrap().to_uppercase()),
                Some(name.clone())
            );
            return name;
        }
        let error = json.pointer("/error_type").or_else(|| json.pointer("/value/error_type"));
        error.and_then(|kind| kind.as_str()).unwrap_or_default().to_owned()
    }
}

pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads more; false at the end, however it comes.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.read.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}; so far {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// Everything up to the connection's end.
    pub fn rest(&mut self) -> String {
        while self.more() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// Reads until the text has come, and answers everything before it.
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(text.len()).position(|w| w == text.as_bytes()) {
                let rest = self.read.split_off(at + text.len());
                let found = std::mem::replace(&mut self.read, rest);
                return String::from_utf8_lossy(&found[..at]).into_owned();
            }
            assert!(self.more(), "the connection ended before {text:?}; got {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// One response.
    pub fn response(&mut self) -> Response {
        let head = self.until("\r\n\r\n");
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let find = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let body = match (find("content-length"), find("transfer-encoding")) {
            (Some(length), _) => {
                let length: usize = length.parse().unwrap();
                while self.read.len() < length {
                    assert!(self.more(), "the body ended early");
                }
                let rest = self.read.split_off(length);
                std::mem::replace(&mut self.read, rest)
            }
            (None, Some(_)) => {
                let mut body = Vec::new();
                loop {
                    let length = usize::from_str_radix(&self.until("\r\n"), 16).unwrap();
                    while self.read.len() < length + 2 {
                        assert!(self.more(), "the body ended early");
                    }
                    body.extend(self.read.drain(..length));
                    self.read.drain(..2);
                    if length == 0 {
                        break body;
                    }
                }
            }
            (None, None) => Vec::new(),
        };
        Response { status, headers, body: String::from_utf8(body).unwrap() }
    }
}
