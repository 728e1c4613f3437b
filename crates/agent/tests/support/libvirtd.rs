//! A libvirtd of a test's own, with the drivers that are built in.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long something may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon of its own, with nothing but the drivers that are built in; killed at the end.
pub struct Libvirtd {
    child: Child,
    directory: TempDir,
}

impl Libvirtd {
    /// None, with the reason printed, where there is no libvirtd.
    pub fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let child = Self::spawn(&directory)?;
        let daemon = Self { child, directory };
        daemon.wait_for_socket();
        Some(daemon)
    }

    fn spawn(directory: &TempDir) -> Option<Child> {
        let path = directory.path().display();
        let config = format!(
            "listen_tls = 0\nlisten_tcp = 0\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_dir = \"{path}\"\n"
        );
        std::fs::write(directory.path().join("config"), config).unwrap();
        let child = Command::new("libvirtd")
            .arg("-f")
            .arg(directory.path().join("config"))
            .arg("-p")
            .arg(directory.path().join("pid"))
            // Drivers of hypervisors would look for users and directories of a whole installation.
            .env("LIBVIRT_DRIVER_DIR", directory.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(child),
            Err(error) => {
                eprintln!("skipped: libvirtd cannot be started: {error}");
                None
            }
        }
    }

    fn wait_for_socket(&self) {
        let started = Instant::now();
        while !self.virsh(&["version"]).status.success() {
            assert!(started.elapsed() < PATIENCE, "libvirtd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it again, with the test driver's machines as they are at first.
    pub fn restart(&mut self) {
        self.kill();
        self.child = Self::spawn(&self.directory).unwrap();
        self.wait_for_socket();
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its test driver, by way of a socket of it.
    pub fn uri(&self, socket: &str) -> String {
        format!("test+unix:///default?socket={}", self.socket(socket).display())
    }

    fn virsh(&self, arguments: &[&str]) -> std::process::Output {
        Command::new("virsh").args(["-q", "-c", &self.uri("libvirt-sock")]).args(arguments).output().unwrap()
    }

    /// Tells it something by `virsh`.
    pub fn tell(&self, arguments: &[&str]) {
        let output = self.virsh(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
