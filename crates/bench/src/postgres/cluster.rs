//! A private PostgreSQL cluster: made, started and stopped here, reached over a Unix socket in its own directory.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, ensure};

/// The database superuser of the cluster.
const USER: &str = "bench";

/// A running cluster; dropping it stops the server.
pub struct Cluster {
    bin: PathBuf,
    directory: PathBuf,
    account: Option<Account>,
}

/// The system account that the server runs as: PostgreSQL refuses to run as root.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Cluster {
    /// Starts the cluster in `directory`, making it first when it is not there.
    pub fn start(bin: &Path, directory: &Path) -> anyhow::Result<Self> {
        ensure!(bin.join("initdb").exists(), "no initdb in {}: pass --pg-bin", bin.display());
        let account = if rustix::process::geteuid().is_root() { Some(account("postgres")?) } else { None };
        let cluster = Cluster { bin: bin.to_owned(), directory: directory.to_owned(), account };
        if !cluster.data().join("PG_VERSION").exists() {
            cluster.create()?;
        }
        std::fs::write(cluster.data().join("bench.conf"), settings()?).context("write the settings")?;
        // A run that was interrupted leaves its server behind, with the settings of that run.
        if cluster.data().join("postmaster.pid").exists() {
            cluster
                .run("pg_ctl", &["stop", "-w", "-s", "-m", "immediate"])
                .unwrap_or_else(|error| eprintln!("{error:#}"));
        }
        cluster.run("pg_ctl", &["start", "-w", "-s", "-t", "60"])?;
        Ok(cluster)
    }

    /// How to connect: a connection string for `tokio_postgres`.
    pub fn connection_string(&self) -> String {
        format!("host='{}' user={USER} dbname=postgres", self.directory.display())
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn create(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.directory).with_context(|| format!("create {}", self.directory.display()))?;
        std::fs::set_permissions(&self.directory, std::fs::Permissions::from_mode(0o700))?;
        if let Some(Account { uid, gid }) = self.account {
            chown(&self.directory, Some(uid), Some(gid))?;
        }
        // The C locale sorts text by code point and needs no operator classes for prefixes.
        self.run("initdb", &["-U", USER, "--locale=C", "-E", "UTF8", "-A", "trust", "-N"])?;
        let config = self.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
        let socket = self.directory.display();
        let own =
            format!("{text}\nlisten_addresses = ''\nunix_socket_directories = '{socket}'\ninclude 'bench.conf'\n");
        std::fs::write(&config, own).with_context(|| format!("write {}", config.display()))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let log = self.directory.join("server.log");
        let mut command = Command::new(self.bin.join(program));
        command.arg("-D").arg(self.data()).args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        if program == "pg_ctl" {
            command.arg("-l").arg(&log);
        }
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        let status = command.status().with_context(|| format!("run {program}"))?;
        ensure!(
            status.success(),
            "{program}: {status}; see {}. The account that runs the server must be able to enter this directory",
            log.display()
        );
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.run("pg_ctl", &["stop", "-w", "-s", "-m", "fast"]) {
            eprintln!("the PostgreSQL server in {} was not stopped: {error:#}", self.directory.display());
        }
    }
}

/// Settings for a read-mostly load on this machine: everything in memory, no compilation of plans, no work in the background.
///
/// `synchronous_commit` stays on: rows whose commit is not yet in the log cannot be marked as visible to all, and then no index
/// alone answers a query. It costs nothing without `fsync`.
fn settings() -> anyhow::Result<String> {
    let memory_mib = memory_bytes()? >> 20;
    Ok(format!(
        "shared_buffers = {}MB\n\
         effective_cache_size = {}MB\n\
         work_mem = 256MB\n\
         maintenance_work_mem = 1GB\n\
         random_page_cost = 1.1\n\
         effective_io_concurrency = 200\n\
         jit = off\n\
         max_parallel_workers_per_gather = 2\n\
         fsync = off\n\
         full_page_writes = off\n\
         wal_level = minimal\n\
         max_wal_senders = 0\n\
         max_wal_size = 8GB\n\
         autovacuum = off\n",
        (memory_mib / 3).clamp(256, 8192),
        memory_mib / 2,
    ))
}

fn memory_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:")).ok_or_else(|| anyhow!("no MemTotal"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("MemTotal")?;
    Ok(kib * 1024)
}

fn account(name: &str) -> anyhow::Result<Account> {
    let text = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let fields = text
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .ok_or_else(|| anyhow!("PostgreSQL cannot run as root, and there is no account {name}"))?;
    let number = |n: usize| fields.get(n).and_then(|f| f.parse().ok()).ok_or_else(|| anyhow!("account {name}"));
    Ok(Account { uid: number(2)?, gid: number(3)? })
}
