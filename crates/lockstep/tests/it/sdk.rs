//! VMware's unmodified SDK, and how its scripts are run.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use crate::server::{PASSWORD, Server, USER, root};

/// The Python that has the SDK; none, with the reason printed, where it is not installed or lacks a module.
pub fn python(module: &str) -> Option<PathBuf> {
    let python = root().join(".tools/sdk/bin/python");
    let has_it = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if has_it.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: no Python SDK with {module} in .tools/sdk; scripts/test-tools.sh installs it");
    None
}

/// Runs a script of `tests/sdk` to its end.
pub fn run(python: PathBuf, script: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    let output = Command::new(python)
        .arg(root().join("tests/sdk").join(script))
        .args(arguments)
        // What is exported here would override what the SDK is given.
        .env_remove("REQUESTS_CA_BUNDLE")
        .env_remove("CURL_CA_BUNDLE")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.ends_with("done\n"), "{printed}");
    eprintln!("{printed}");
}

/// What a script is told of a server: its address, the account, the certificate to trust.
pub fn address(server: &Server) -> [String; 4] {
    let certificate = server.data.path().join("tls-cert.pem");
    let host = server.url.trim_start_matches("https://");
    [host, USER, PASSWORD, certificate.to_str().unwrap()].map(str::to_owned)
}

#[test]
fn the_python_sdk_logs_in_gets_its_session_and_logs_out_over_tls() {
    let Some(python) = python("vmware.vapi") else { return };
    let server = Server::start_with(&["--no-collect-host"]);
    run(python, "session.py", address(&server));
}
