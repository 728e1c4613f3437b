//! QMP, the machine protocol of QEMU's monitor: where a process listens for it, and questions asked there.
//!
//! A monitor serves one client at a time and lets the next one wait in silence. So a socket that has a client is not
//! connected to, and one that is free is given back after one exchange:
//!
//! ```text
//! QEMU                                                   collector
//! {"QMP": {"version": {"qemu": {…}}, …}}            ->
//!                                                   <-   {"execute": "qmp_capabilities"}
//!                                                   <-   {"execute": "query-status", "id": "query-status"}
//! {"return": {}}                                    ->
//! {"return": {"status": "running", …}, "id": …}     ->   (closes)
//! ```

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;

use super::cmdline::{Arguments, Keys};
use super::process::{Descriptors, Process};
use crate::tree::Tree;

/// How long one monitor may take for all of the exchange.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);
/// A monitor that says more than this before the answer is given up.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Socket states of `/proc/net/unix`.
const STATE_CONNECTED: &str = "03";

/// Where a process listens for QMP on a UNIX socket.
#[derive(Debug, PartialEq)]
pub(crate) enum Listener {
    /// A path as on the command line.
    Path(String),
    /// A socket that QEMU was started with, by the number of its descriptor.
    Descriptor(u32),
}

/// What a monitor answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// QEMU's word for what the guest does: `running`, `paused`, `prelaunch`, `io-error`, …
    pub(crate) status: String,
    /// `10.0.2`.
    pub(crate) version: Option<String>,
}

/// The first QMP listener of the command line: of `-qmp`, or of `-mon mode=control` with its `-chardev`.
pub(crate) fn listener(arguments: &Arguments) -> Option<Listener> {
    let chardev = |id: &str| arguments.each("chardev", "backend").find(|chardev| chardev.get("id") == Some(id));
    arguments.iter().find_map(|(option, value)| match option {
        "qmp" | "qmp-pretty" => {
            let keys = Keys::parse(value, "address");
            match keys.get("address")?.split_once(':')? {
                ("unix", path) => is_server(&keys).then(|| Listener::Path(path.to_owned())),
                ("chardev", id) => of_chardev(&chardev(id)?),
                _ => None,
            }
        }
        "mon" => {
            let keys = Keys::parse(value, "chardev");
            (keys.get("mode") == Some("control")).then(|| of_chardev(&chardev(keys.get("chardev")?)?))?
        }
        _ => None,
    })
}

fn of_chardev(chardev: &Keys) -> Option<Listener> {
    if chardev.get("backend") != Some("socket") || !is_server(chardev) || chardev.is_on("abstract") {
        return None;
    }
    let descriptor = || chardev.get("fd")?.parse().ok().map(Listener::Descriptor);
    chardev.get("path").map(|path| Listener::Path(path.to_owned())).or_else(descriptor)
}

fn is_server(keys: &Keys) -> bool {
    keys.is_on("server")
}

/// A UNIX socket of a process that listens for QMP.
#[derive(Debug, PartialEq)]
pub(crate) struct Socket {
    /// The path it is bound to, as its process gave it.
    pub(crate) path: String,
    /// Whether it has a client, who would be in the way or be disturbed.
    pub(crate) is_busy: bool,
}

/// Looks up a listener among the UNIX sockets of the process's network namespace.
pub(crate) fn socket(tree: &Tree, process: &Process, listener: &Listener, descriptors: &Descriptors) -> Option<Socket> {
    let table = tree.text(format!("proc/{}/net/unix", process.pid)).unwrap_or_default();
    // Num RefCount Protocol Flags Type St Inode Path; a path may hold spaces.
    let rows: Vec<(&str, u64, &str)> = table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let state = fields.nth(5)?;
            let inode = fields.next()?;
            let path = line.split_once(&format!(" {inode} "))?.1;
            Some((state, inode.parse().ok()?, path))
        })
        .collect();
    let path = match listener {
        Listener::Path(path) => path.as_str(),
        Listener::Descriptor(number) => {
            let inode = descriptors.sockets.get(number)?;
            rows.iter().find(|(_, found, _)| found == inode)?.2
        }
    };
    // An accepted connection carries the path of its listener. Relative paths of two processes can be equal, so it
    // must also be this process's.
    let is_own = |inode: &u64| descriptors.sockets.values().any(|own| own == inode);
    let is_busy = rows.iter().any(|(state, inode, found)| *state == STATE_CONNECTED && *found == path && is_own(inode));
    Some(Socket { path: path.to_owned(), is_busy })
}

/// Whether a table of UNIX sockets has a connection that was accepted at a path.
pub(crate) fn has_client(table: &str, path: &str) -> bool {
    table.lines().filter(|line| line.ends_with(path)).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let is_connected = fields.nth(5) == Some(STATE_CONNECTED);
        let inode = fields.next().unwrap_or_default();
        is_connected && line.split_once(&format!(" {inode} ")).is_some_and(|(_, found)| found == path)
    })
}

/// Asks a monitor for the status of its guest; none if it does not answer within `timeout`.
pub(crate) fn ask(path: &Path, timeout: Duration) -> Option<Answer> {
    let (version, [answer]) = exchange(path, ["query-status"], timeout)?;
    Some(Answer { status: answer?.get("status")?.as_str()?.to_owned(), version })
}

/// Asks a monitor questions, and answers QEMU's version and what each question returned, none where it is refused. None if
/// not all was said within `timeout`.
pub(crate) fn exchange<const N: usize>(
    path: &Path,
    questions: [&str; N],
    timeout: Duration,
) -> Option<(Option<String>, [Option<Value>; N])> {
    let deadline = Instant::now() + timeout;
    let mut stream = open(path)?;
    let mut lines = Lines { buffer: Vec::new(), taken: 0, searched: 0 };
    let greeting = lines.next(&mut stream, deadline)?;
    let version = version(greeting.get("QMP")?);
    let mut requests = "{\"execute\": \"qmp_capabilities\"}\n".to_owned();
    for question in questions {
        let _ = writeln!(requests, "{{\"execute\": \"{question}\", \"id\": \"{question}\"}}");
    }
    stream.set_write_timeout(Some(remaining(deadline)?)).ok()?;
    stream.write_all(requests.as_bytes()).ok()?;
    let mut answers = [const { None }; N];
    let mut open_questions = N;
    // Events may come in between.
    while open_questions > 0 {
        let mut message = lines.next(&mut stream, deadline)?;
        let id = message.get("id").and_then(Value::as_str);
        match questions.iter().position(|question| Some(*question) == id) {
            Some(at) => {
                answers[at] = message.get_mut("return").map(Value::take);
                open_questions -= 1;
            }
            None if message.get("error").is_some() => return None,
            None => {}
        }
    }
    Some((version, answers))
}

/// Connects without waiting: QEMU keeps one client in its queue, and a plain connect would wait for a place there.
fn open(path: &Path) -> Option<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// The messages of a monitor, one a line.
struct Lines {
    buffer: Vec<u8>,
    taken: usize,
    /// Up to where there is no end of the line, so that a long one is not searched again for each piece of it.
    searched: usize,
}

impl Lines {
    fn next(&mut self, stream: &mut UnixStream, deadline: Instant) -> Option<Value> {
        loop {
            if let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + length;
                let line = &self.buffer[self.taken..end];
                (self.taken, self.searched) = (end + 1, end + 1);
                return serde_json::from_slice(line).ok();
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return None;
            }
            stream.set_read_timeout(Some(remaining(deadline)?)).ok()?;
            let mut chunk = [0; 16 << 10];
            let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }
}

fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

fn version(greeting: &Value) -> Option<String> {
    let part = |name: &str| greeting.pointer(&format!("/version/qemu/{name}"))?.as_u64();
    Some(format!("{}.{}.{}", part("major")?, part("minor")?, part("micro")?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::super::cmdline::arguments;
    use super::super::process::find;
    use super::*;
    use crate::tree::fixture::Fixture;

    #[test]
    fn listeners() {
        fn check(line: &str, expected: Option<&str>) {
            let found = listener(&arguments(line)).map(|listener| match listener {
                Listener::Path(path) => path,
                Listener::Descriptor(number) => format!("fd {number}"),
            });
            assert_eq!(found.as_deref(), expected, "{line}");
        }
        check("", None);
        check("-qmp unix:q.sock,server=on,wait=off", Some("q.sock"));
        check("-qmp unix:/run/a,server,nowait", Some("/run/a"));
        check("-qmp unix:/run/a", None);
        check("-qmp unix:/run/a,server=off", None);
        check("-qmp tcp:localhost:4444,server=on,wait=off", None);
        check("-qmp stdio", None);
        check("-qmp stdio -qmp-pretty unix:/b,server=on", Some("/b"));
        check("-chardev socket,id=m,path=/q,server=on,wait=off -mon chardev=m,mode=control", Some("/q"));
        check("-chardev socket,id=m,path=/q,server=on,wait=off -mon m,mode=control,pretty=on", Some("/q"));
        check("-chardev socket,id=m,path=/q,server=on,wait=off -mon chardev=m,mode=readline", None);
        check("-chardev socket,id=m,path=/q,server=on,wait=off -qmp chardev:m", Some("/q"));
        check(
            "-chardev socket,id=charmonitor,fd=30,server=on,wait=off -mon chardev=charmonitor,id=m,mode=control",
            Some("fd 30"),
        );
        check("-chardev socket,id=m,path=/q,server=on,abstract=on -mon chardev=m,mode=control", None);
        check("-chardev socket,id=m,host=localhost,port=1,server=on -mon chardev=m,mode=control", None);
        check("-mon chardev=gone,mode=control", None);
        check("-monitor unix:/hmp,server=on", None);
    }

    #[test]
    fn a_socket_with_a_client_is_busy() {
        const LISTENING: &str = "4: 00000002 00000000 00010000 0001 01 8836 q s.sock\n";
        const OF_ANOTHER: &str = "5: 00000003 00000000 00000000 0001 03 9999 q s.sock\n";
        const ACCEPTED: &str = "6: 00000003 00000000 00000000 0001 03 8840 q s.sock\n";
        let fixture = Fixture::new(&[
            ("proc/10/cmdline", "qemu-system-x86_64\0"),
            ("proc/10/stat", "10 (q) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 5 0 1 1 1"),
        ]);
        fixture.link("proc/10/fd/3", "socket:[8836]");
        fixture.link("proc/10/fd/11", "socket:[8840]");
        let tree = fixture.tree();
        let process = &find(&tree)[0];
        let descriptors = process.descriptors(&tree);
        assert!(!has_client(LISTENING, "q s.sock") && has_client(ACCEPTED, "q s.sock"));
        assert!(!has_client(ACCEPTED, "s.sock") && !has_client("torn q s.sock", "q s.sock"));
        let check = |table: String, listener: Listener, expected: Option<bool>| {
            fixture.write("proc/10/net/unix", format!("Num RefCount Protocol Flags Type St Inode Path\n{table}"));
            let found = socket(&tree, process, &listener, &descriptors);
            assert_eq!(found, expected.map(|is_busy| Socket { path: "q s.sock".into(), is_busy }), "{table}");
        };
        let path = || Listener::Path("q s.sock".into());
        check(String::new(), path(), Some(false));
        check(LISTENING.into(), path(), Some(false));
        check(format!("{LISTENING}{OF_ANOTHER}"), path(), Some(false));
        check(format!("{LISTENING}{ACCEPTED}"), path(), Some(true));
        check(format!("{LISTENING}{ACCEPTED}"), Listener::Descriptor(3), Some(true));
        check(LISTENING.into(), Listener::Descriptor(4), None);
    }

    /// Answers one client with `script`, then waits until it goes.
    fn check_exchange(script: &'static str, expected: Option<Answer>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(script.as_bytes());
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(ask(&path, ANSWER_TIMEOUT), expected, "{script}");
        server.join().unwrap();
    }

    #[test]
    fn answers_are_understood_and_anything_else_is_none() {
        const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}}}"#;
        let answer = |status: &str| Some(Answer { status: status.into(), version: Some("10.0.2".into()) });
        let script = |rest: &str| -> &'static str { format!("{GREETING}\n{rest}").leak() };
        check_exchange(
            script(
                "{\"return\": {}}\n{\"event\": \"STOP\", \"timestamp\": {}}\n\
                 {\"return\": {\"status\": \"paused\", \"running\": false}, \"id\": \"query-status\"}\n",
            ),
            answer("paused"),
        );
        check_exchange(script("{\"error\": {\"class\": \"CommandNotFound\"}}\n"), None);
        check_exchange(script("{\"return\": {}}\n{\"return\": 5, \"id\": \"query-status\"}\n"), None);
        check_exchange(script("not json\n"), None);
        check_exchange("{\"hello\": 1}\n", None);
        check_exchange("", None);
        check_exchange("x".repeat(2 * ANSWER_BYTES_MAX).leak(), None);
    }

    #[test]
    fn a_monitor_whose_queue_is_full_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("q");
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let waiting: Vec<UnixStream> = std::iter::from_fn(|| open(&path)).take(8).collect();
        assert!(waiting.len() < 8, "the queue is full after {}", waiting.len());
        assert_eq!(ask(&path, ANSWER_TIMEOUT), None);
    }

    #[test]
    fn no_socket_is_no_answer() {
        assert_eq!(ask(Path::new("/nonexistent/q"), ANSWER_TIMEOUT), None);
        assert_eq!(ask(Path::new(&"/long".repeat(100)), ANSWER_TIMEOUT), None);
    }
}
