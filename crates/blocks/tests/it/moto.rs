//! moto's S3, over a real connection. The tests of whole servers use it as well.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// An S3 server; killed at the end.
pub struct Moto {
    child: Child,
    pub port: u16,
}

impl Moto {
    /// None, with the reason printed, where it is not installed.
    pub fn start() -> Option<Self> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/moto/bin/moto_server");
        if !std::path::Path::new(program).exists() {
            eprintln!("skipped: no moto_server in .tools/moto (scripts/test-tools.sh installs it)");
            return None;
        }
        // By its own Python: the script has the path of it that was when it was installed.
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/moto/bin/python3"))
            .arg(program)
            // A port of its own choice: one that was free a moment ago may be another test's.
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.split_once("http://127.0.0.1:")?.1.trim().parse().ok());
        // It tells of each request, and must be listened to.
        std::thread::spawn(move || lines.for_each(drop));
        let mut moto = Self { child, port: 0 };
        moto.port = port.unwrap();
        Some(moto)
    }

    /// Makes the bucket `replica`.
    pub fn make_bucket(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = "PUT /replica HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
