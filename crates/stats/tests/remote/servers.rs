//! Real stores of time series.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::ClientBuilder;
use serde_json::Value;
use tempfile::TempDir;

/// How long a server may take to start, and points to arrive.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The path of a program, or a line that says why the test is skipped.
pub fn installed(program: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file()));
    if found.is_none() {
        eprintln!("skipped: no {program}; scripts/test-tools.sh installs it");
    }
    found
}

/// A client's TLS: it speaks plain HTTP only.
pub fn no_tls() -> rustls::ClientConfig {
    let provider = rustls::crypto::ring::default_provider();
    let builder = rustls::ClientConfig::builder_with_provider(provider.into());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// A process, killed when it is dropped.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program's arguments, for a directory and a port.
type Args = Box<dyn Fn(&Path, u16) -> Vec<String> + Send + Sync>;

/// A store with its data, which outlives its process.
pub struct Server {
    program: PathBuf,
    args: Args,
    pub data: TempDir,
    port: u16,
    running: Option<Running>,
    http: reqwest::Client,
    /// A user name and a password, if it wants them.
    login: Option<(&'static str, &'static str)>,
}

impl Server {
    /// VictoriaMetrics, with further flags.
    pub async fn victoria_metrics(more: &'static [&'static str]) -> Option<Self> {
        Self::start("victoria-metrics", None, move |dir, port| {
            let mut args = vec![
                format!("-storageDataPath={}", dir.join("vm").display()),
                format!("-httpListenAddr=127.0.0.1:{port}"),
                "-retentionPeriod=12".to_owned(),
            ];
            args.extend(more.iter().map(|flag| (*flag).to_owned()));
            args
        })
        .await
    }

    /// VictoriaMetrics with a password.
    pub async fn victoria_metrics_for(user: &'static str, password: &'static str) -> Option<Self> {
        Self::start("victoria-metrics", Some((user, password)), move |dir, port| {
            vec![
                format!("-storageDataPath={}", dir.join("vm").display()),
                format!("-httpListenAddr=127.0.0.1:{port}"),
                format!("-httpAuth.username={user}"),
                format!("-httpAuth.password={password}"),
            ]
        })
        .await
    }

    /// Prometheus as a receiver of remote write.
    pub async fn prometheus() -> Option<Self> {
        Self::start("prometheus", None, |dir, port| {
            let config = dir.join("prometheus.yml");
            std::fs::write(&config, "global: {scrape_interval: 15s}\nscrape_configs: []\n").unwrap();
            vec![
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", dir.join("tsdb").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
                "--web.enable-remote-write-receiver".to_owned(),
            ]
        })
        .await
    }

    async fn start(
        program: &str,
        login: Option<(&'static str, &'static str)>,
        args: impl Fn(&Path, u16) -> Vec<String> + Send + Sync + 'static,
    ) -> Option<Self> {
        let program = installed(program)?;
        let data = TempDir::new().unwrap();
        let http =
            ClientBuilder::new().tls_backend_preconfigured(no_tls()).no_proxy().timeout(PATIENCE).build().unwrap();
        let mut server = Self { program, args: Box::new(args), data, port: 0, running: None, http, login };
        // A port that was free may be taken a moment later by somebody else.
        for _ in 0..5 {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.try_start().await {
                return Some(server);
            }
        }
        panic!("{} does not start", server.program.display());
    }

    /// Starts it on its port and its data. Answers whether it came up.
    async fn try_start(&mut self) -> bool {
        let child = Command::new(&self.program)
            .args((self.args)(self.data.path(), self.port))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.data.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut running = Running(child);
        let is_up = eventually("a store has come up, or gone", async || {
            let is_gone = running.0.try_wait().unwrap().is_some();
            let health = self.http.get(format!("{}/-/healthy", self.url())).send().await;
            match (is_gone, health.is_ok_and(|answer| answer.status().is_success())) {
                (true, _) => Some(false),
                (false, true) => Some(true),
                (false, false) => None,
            }
        })
        .await;
        self.running = is_up.then_some(running);
        is_up
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn write_url(&self) -> String {
        format!("{}/api/v1/write", self.url())
    }

    /// Kills the process with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.running.take().unwrap().kill();
    }

    /// Starts it again on the same data and port.
    pub async fn restart(&mut self) {
        assert!(self.try_start().await, "it does not start again");
    }

    pub async fn get(&self, path: &str) -> String {
        let request = self.http.get(format!("{}{path}", self.url()));
        let request = match self.login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    /// Waits until all that VictoriaMetrics has taken would survive a kill: a snapshot is made of files.
    pub async fn settle(&self) {
        self.get("/snapshot/create").await;
        self.get("/snapshot/delete_all").await;
    }

    /// Everything in VictoriaMetrics: the samples of each series, each as often as it is there.
    pub async fn export(&self) -> BTreeMap<Labels, Vec<(i64, f64)>> {
        self.get("/internal/force_flush").await;
        let text = self.get("/api/v1/export?match[]=%7B__name__!=%22%22%7D").await;
        let mut series: BTreeMap<Labels, Vec<(i64, f64)>> = BTreeMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let numbers = |name: &str| line[name].as_array().unwrap().clone();
            let labels = line["metric"].as_object().unwrap().iter();
            let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
            let samples = numbers("timestamps").into_iter().zip(numbers("values"));
            let samples = samples.map(|(time, value)| (time.as_i64().unwrap(), value.as_f64().unwrap()));
            series.entry(labels).or_default().extend(samples);
        }
        series
    }
}

/// The labels of a series, by name.
pub type Labels = BTreeMap<String, String>;
