//! A client of QMP, the machine protocol of QEMU's monitor.
//!
//! ```text
//! QEMU                                                   Lockstep
//! {"QMP": {"version": {"qemu": {…}}, …}}            ->
//!                                                   <-   {"execute": "qmp_capabilities", "id": 0}
//! {"return": {}, "id": 0}                           ->
//!                                                   <-   {"execute": "stop", "id": 1}{"execute": "cont", "id": 2}
//! {"event": "STOP", "timestamp": {…}}               ->
//! {"return": {}, "id": 1}                           ->
//! {"event": "RESUME", "timestamp": {…}}             ->
//! {"return": {}, "id": 2}                           ->
//! ```
//!
//! A monitor serves one client at a time and lets the next one wait in silence, so a connection is also a lock: who has none within
//! [`GREETING_TIMEOUT`] is told that the machine is busy. Commands are executed in the order in which they are sent.
//! [`Qmp::execute_all`] sends several with one write, so that neither our being slow nor our being killed comes between them.
//!
//! A task reads all the time, also while nothing is asked: it keeps the latest [`EVENTS_MAX`] events, gives each answer to who waits
//! for it, and tells everybody when the connection is over.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};

use crate::{Error, Result};

/// How long QEMU may take to greet; it does not greet a second client until the first one is gone.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command may take. Those that drain disks wait for what the guest has in flight.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of one message. A machine with a hundred disks and chains of snapshots says less than one MiB of them.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Events that are kept until somebody asks for them; then the oldest go.
pub const EVENTS_MAX: usize = 1024;

const PEER: &str = "QEMU's monitor";

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Such as `blockdev-add`.
    pub name: &'static str,
    /// An object, or null for none.
    pub arguments: Value,
}

impl Command {
    /// A command without arguments.
    #[must_use]
    pub fn plain(name: &'static str) -> Self {
        Self { name, arguments: Value::Null }
    }

    /// A command with an object of arguments.
    #[must_use]
    pub fn new(name: &'static str, arguments: Value) -> Self {
        Self { name, arguments }
    }
}

/// QEMU's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 10 of 10.0.2.
    pub major: u32,
    /// 0 of 10.0.2.
    pub minor: u32,
    /// 2 of 10.0.2.
    pub micro: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Something that happened in the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Such as `STOP`.
    pub name: String,
    /// What belongs to it, or null.
    pub data: Value,
    /// QEMU's clock, since 1970.
    pub time: Duration,
}

/// A connection to a monitor. It ends when it is dropped.
pub struct Qmp {
    shared: Arc<Shared>,
    output: tokio::sync::Mutex<OwnedWriteHalf>,
    version: Version,
    owner: Option<(u32, u32)>,
    reading: tokio::task::AbortHandle,
}

#[derive(Default)]
struct Shared {
    /// Held for a look-up or an insertion.
    state: Mutex<State>,
    /// Told of each event and of the end.
    news: Notify,
}

#[derive(Default)]
struct State {
    next_id: u64,
    pending: HashMap<u64, (&'static str, oneshot::Sender<Result<Value>>)>,
    events: VecDeque<Event>,
    fault: Option<String>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qmp").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Qmp {
    /// Connects to a monitor.
    ///
    /// # Errors
    /// [`Error::Io`] when nobody listens there, [`Error::Busy`] when another client has it.
    pub async fn connect(path: &Path) -> Result<Self> {
        let connecting = UnixStream::connect(path);
        let busy =
            || Error::Busy { reason: format!("the monitor {} does not answer: another client has it", path.display()) };
        let stream = tokio::time::timeout(GREETING_TIMEOUT, connecting)
            .await
            .map_err(|_| busy())?
            .map_err(Error::io(format!("connecting to QEMU's monitor {}", path.display())))?;
        let owner = stream.peer_cred().ok().map(|credentials| (credentials.uid(), credentials.gid()));
        let (input, output) = stream.into_split();
        let mut lines = Lines::new(input);
        let greeting = tokio::time::timeout(GREETING_TIMEOUT, lines.next()).await.map_err(|_| busy())??;
        let greeting = greeting.ok_or_else(|| closed("it closed at once"))?;
        let version = version(&greeting).ok_or_else(|| protocol("it does not greet as QMP does".into()))?;
        let shared = Arc::new(Shared::default());
        let reading = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let fault = match read(&mut lines, &shared).await {
                    Ok(()) => "QEMU closed it or ended".to_owned(),
                    Err(error) => error.to_string(),
                };
                shared.fail(fault);
            })
        };
        let output = tokio::sync::Mutex::new(output);
        let qmp = Self { shared, output, version, owner, reading: reading.abort_handle() };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// QEMU's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// User and group of the process that made the socket: QEMU, or who started it.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// Executes a command and gives what it returns.
    ///
    /// # Errors
    /// [`Error::Command`] when QEMU refuses it, [`Error::Timeout`] and [`Error::Closed`].
    pub async fn execute(&self, name: &'static str, arguments: Value) -> Result<Value> {
        let mut answers = self.execute_all(&[Command { name, arguments }], ANSWER_TIMEOUT).await?;
        answers.pop().unwrap_or_else(|| Err(closed("it answered nothing")))
    }

    /// Sends commands with one write, and gives what each returned. QEMU executes all of them in order, also when one fails.
    ///
    /// # Errors
    /// When they cannot be sent, or not all are answered within `limit`. What each answered is in the list.
    pub async fn execute_all(&self, commands: &[Command], limit: Duration) -> Result<Vec<Result<Value>>> {
        let mut frame = Vec::new();
        let mut answers = Vec::with_capacity(commands.len());
        {
            let mut state = self.shared.state.lock();
            if let Some(fault) = &state.fault {
                return Err(closed(fault));
            }
            for command in commands {
                let id = state.next_id;
                state.next_id += 1;
                let mut message = json!({"execute": command.name, "id": id});
                if let (Some(message), false) = (message.as_object_mut(), command.arguments.is_null()) {
                    message.insert("arguments".into(), command.arguments.clone());
                }
                frame.extend_from_slice(message.to_string().as_bytes());
                frame.push(b'\n');
                let (answer, receiver) = oneshot::channel();
                state.pending.insert(id, (command.name, answer));
                answers.push(receiver);
            }
        }
        let exchange = async {
            {
                let mut output = self.output.lock().await;
                // A caller who goes away in the middle leaves a message torn: what comes after it would be misread.
                let mut torn = TornUnlessSent { shared: &self.shared, is_sent: false };
                output.write_all(&frame).await.map_err(Error::io("writing to QEMU's monitor"))?;
                torn.is_sent = true;
            }
            let mut results = Vec::with_capacity(answers.len());
            for answer in answers {
                results.push(answer.await.unwrap_or_else(|_| Err(self.closed())));
            }
            Ok(results)
        };
        let what =
            || format!("the answer to {}", commands.iter().map(|command| command.name).collect::<Vec<_>>().join(", "));
        tokio::time::timeout(limit, exchange).await.map_err(|_| Error::Timeout { what: what(), limit })?
    }

    /// Takes the oldest event that `is_wanted`, waiting for it if it has not come.
    ///
    /// # Errors
    /// [`Error::Timeout`] and [`Error::Closed`].
    pub async fn wait_event(&self, is_wanted: impl Fn(&Event) -> bool, limit: Duration) -> Result<Event> {
        let waiting = async {
            loop {
                let news = self.shared.news.notified();
                let mut news = std::pin::pin!(news);
                // From here on nothing is missed.
                news.as_mut().enable();
                {
                    let mut state = self.shared.state.lock();
                    if let Some(at) = state.events.iter().position(&is_wanted)
                        && let Some(event) = state.events.remove(at)
                    {
                        return Ok(event);
                    }
                    if let Some(fault) = &state.fault {
                        return Err(closed(fault));
                    }
                }
                news.await;
            }
        };
        let what = "an event of QEMU's".to_owned();
        tokio::time::timeout(limit, waiting).await.map_err(|_| Error::Timeout { what, limit })?
    }

    /// Takes all events that have come.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        self.shared.state.lock().events.drain(..).collect()
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().fault.is_some()
    }

    fn closed(&self) -> Error {
        closed(self.shared.state.lock().fault.as_deref().unwrap_or("it ended"))
    }
}

struct TornUnlessSent<'a> {
    shared: &'a Shared,
    is_sent: bool,
}

impl Drop for TornUnlessSent<'_> {
    fn drop(&mut self) {
        if !self.is_sent {
            self.shared.fail("a command was not sent whole".into());
        }
    }
}

impl Shared {
    /// The first fault stays.
    fn fail(&self, fault: String) {
        let pending = {
            let mut state = self.state.lock();
            state.fault.get_or_insert_with(|| fault.clone());
            std::mem::take(&mut state.pending)
        };
        for (_, (_, answer)) in pending {
            let _ = answer.send(Err(closed(&fault)));
        }
        self.news.notify_waiters();
    }
}

/// Takes messages until QEMU closes.
async fn read(lines: &mut Lines, shared: &Shared) -> Result<()> {
    while let Some(mut message) = lines.next().await? {
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            let event = Event { name: name.to_owned(), data: message["data"].clone(), time: time(&message) };
            let mut state = shared.state.lock();
            if state.events.len() == EVENTS_MAX {
                state.events.pop_front();
            }
            state.events.push_back(event);
            drop(state);
            shared.news.notify_waiters();
            continue;
        }
        let error = message.get("error").map(|error| {
            let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("class"), text("desc"))
        });
        let Some(id) = message.get("id").and_then(Value::as_u64) else {
            let (class, reason) = error.unwrap_or_default();
            return Err(protocol(format!("it answered nobody: {class} {reason}")));
        };
        let Some((command, answer)) = shared.state.lock().pending.remove(&id) else {
            return Err(protocol("it answered what was not asked".into()));
        };
        let result = match error {
            Some((class, reason)) => Err(Error::Command { command: command.to_owned(), class, reason }),
            None => match message.get_mut("return") {
                Some(value) => Ok(value.take()),
                None => Err(protocol("an answer has neither a return nor an error".into())),
            },
        };
        // Who asked may be gone.
        let _ = answer.send(result);
    }
    Ok(())
}

/// The messages of a monitor, one a line.
pub(crate) struct Lines {
    input: BufReader<OwnedReadHalf>,
}

impl Lines {
    pub(crate) fn new(input: OwnedReadHalf) -> Self {
        Self { input: BufReader::new(input) }
    }

    /// None at the end of the stream. Must not be dropped in the middle: what was read of a line is lost then.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        let mut line = Vec::new();
        let limit = MESSAGE_BYTES_MAX as u64;
        let count = (&mut self.input).take(limit).read_until(b'\n', &mut line).await;
        count.map_err(|error| closed(&error.to_string()))?;
        if line.last() != Some(&b'\n') {
            return match line.len() {
                MESSAGE_BYTES_MAX => {
                    Err(Error::Limit { what: "the length of a message of QEMU's monitor", limit, found: limit + 1 })
                }
                _ => Ok(None),
            };
        }
        // The guest agent begins its answer to a sync with this byte, which no JSON has.
        let text = line.strip_prefix(&[0xff]).unwrap_or(&line);
        serde_json::from_slice(text).map(Some).map_err(|error| protocol(format!("it sent no JSON: {error}")))
    }
}

fn version(greeting: &Value) -> Option<Version> {
    let part = |name: &str| u32::try_from(greeting.pointer(&format!("/QMP/version/qemu/{name}"))?.as_u64()?).ok();
    Some(Version { major: part("major")?, minor: part("minor")?, micro: part("micro")? })
}

fn time(message: &Value) -> Duration {
    let part = |name: &str| message.pointer(&format!("/timestamp/{name}")).and_then(Value::as_u64).unwrap_or_default();
    Duration::from_secs(part("seconds")).saturating_add(Duration::from_micros(part("microseconds")))
}

fn closed(reason: &str) -> Error {
    Error::Closed { peer: PEER, reason: reason.to_owned() }
}

fn protocol(problem: String) -> Error {
    Error::Protocol { peer: PEER, problem }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": []}}"#;

    /// A monitor that greets, takes the capabilities, then sends `script` and keeps the connection.
    async fn monitor(script: Vec<u8>) -> (tempfile::TempDir, Result<Qmp>) {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("q")).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hello = format!("{GREETING}\n{{\"return\": {{}}, \"id\": 0}}\n");
            stream.write_all(hello.as_bytes()).await.unwrap();
            let mut input = BufReader::new(&mut stream);
            let mut line = String::new();
            // What the client asks first, and then the one question of the test.
            input.read_line(&mut line).await.unwrap();
            input.read_line(&mut line).await.unwrap();
            let _ = stream.write_all(&script).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let qmp = Qmp::connect(&directory.path().join("q")).await;
        (directory, qmp)
    }

    async fn ask(script: impl Into<Vec<u8>>) -> Result<Value> {
        let (_directory, qmp) = monitor(script.into()).await;
        qmp.unwrap().execute("query-status", Value::Null).await
    }

    #[tokio::test]
    async fn answers_find_who_asked_and_events_wait() {
        let script = "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 7, \"microseconds\": 5}}\n\
                      {\"return\": {\"status\": \"paused\"}, \"id\": 1}\n";
        let (_directory, qmp) = monitor(script.into()).await;
        let qmp = qmp.unwrap();
        assert_eq!(qmp.version(), Version { major: 10, minor: 0, micro: 2 });
        assert_eq!(qmp.execute("query-status", Value::Null).await.unwrap()["status"], "paused");
        let event = qmp.wait_event(|event| event.name == "STOP", ANSWER_TIMEOUT).await.unwrap();
        assert_eq!(event.time, Duration::from_micros(7_000_005));
        let late = qmp.wait_event(|event| event.name == "STOP", Duration::from_millis(1)).await;
        assert!(matches!(late, Err(Error::Timeout { .. })));
    }

    #[tokio::test]
    async fn a_refusal_says_what_was_refused() {
        let error = ask("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 1}\n").await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused query-status: no");
    }

    #[tokio::test]
    async fn rubbish_ends_the_connection() {
        for script in [
            "not json\n".to_owned(),
            "{\"return\": {}, \"id\": 99}\n".to_owned(),
            "{\"return\": {}}\n".to_owned(),
            "{\"error\": {}}\n".to_owned(),
            "7\n".to_owned(),
        ] {
            let error = ask(script.clone()).await.unwrap_err();
            assert!(matches!(error, Error::Closed { .. }), "{script}: {error}");
        }
        let error = ask("{\"id\": 1}\n").await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        let error = ask(vec![b'x'; MESSAGE_BYTES_MAX + 1]).await.unwrap_err();
        assert!(error.to_string().contains("more than the 16777216"), "{error}");
    }

    #[tokio::test]
    async fn events_have_a_limit() {
        let mut script = "{\"event\": \"X\"}\n".repeat(EVENTS_MAX + 9);
        script += "{\"return\": {}, \"id\": 1}\n";
        let (_directory, qmp) = monitor(script.into()).await;
        let qmp = qmp.unwrap();
        qmp.execute("query-status", Value::Null).await.unwrap();
        assert_eq!(qmp.take_events().len(), EVENTS_MAX);
        assert!(qmp.take_events().is_empty());
    }

    #[tokio::test]
    async fn a_monitor_that_is_not_there_is_told_from_one_that_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("q");
        assert!(matches!(Qmp::connect(&path).await, Err(Error::Io { .. })));
        let _silent = UnixListener::bind(&path).unwrap();
        assert!(matches!(Qmp::connect(&path).await, Err(Error::Busy { .. })));
    }
}
