//! VMware's unmodified SDK.

use std::process::Command;

use crate::server::{PASSWORD, Server, USER, root};

#[test]
fn the_python_sdk_logs_in_gets_its_session_and_logs_out_over_tls() {
    let python = root().join(".tools/sdk/bin/python");
    if !python.exists() {
        eprintln!("skipped: no Python SDK in .tools/sdk; scripts/test-tools.sh installs it");
        return;
    }
    let server = Server::start_with(&["--no-collect-host"]);
    let output = Command::new(python)
        .arg(root().join("tests/sdk/session.py"))
        .arg(server.url.trim_start_matches("https://"))
        .args([USER, PASSWORD])
        .arg(server.data.path().join("tls-cert.pem"))
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
