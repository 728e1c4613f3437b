//! A source that changes as fast as it is told to, and knows what the feed must have of it.
//!
//! It speaks as much of the SOAP API as collecting needs, and tells its changes as a vCenter does: an update set holds each object once,
//! with what is different from how it was last told, however often it changed in between; a large one comes in several answers. What it tells
//! is what must be in the feed, so each update that differs is remembered as expected, and nothing else is.
//!
//! Debian's simulator cannot be churned like this: for each update, and a rename makes five with those of its task, it collects all
//! properties of all objects anew. Measured on two busy cores, it gets through 130 renames/s with ten machines and through 13 with a
//! hundred.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::machine::{FOLDERS, HOSTS, Machine, PATHS, folder, host, id};
use super::session;

/// How many objects an answer tells.
const ANSWER_OBJECTS: usize = 200;

/// What the feed must say of a machine next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Create,
    /// Exactly these properties differ.
    Update(Vec<&'static str>),
    Delete,
}

/// A source, and the server that tells of it.
pub struct Source {
    address: SocketAddr,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    machines: BTreeMap<u32, Machine>,
    /// As they were last told.
    told: BTreeMap<u32, Machine>,
    /// Those that changed, or that something is told of although nothing did, since they were last told.
    changed: BTreeSet<u32>,
    /// What is left to be told of the update set that is being told.
    rest: VecDeque<u32>,
    /// Whether that set is a read of everything.
    is_read: bool,
    version: u64,
    /// What must still come in the feed, by id.
    expected: HashMap<String, VecDeque<Expected>>,
    tally: Tally,
}

/// What happened.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Changes at the source.
    pub changes: u64,
    /// Updates of objects told, without those of the first read.
    pub updates: u64,
    /// Of them those that bring nothing new.
    pub noise: u64,
    /// What the feed must have had by now, or have soon.
    pub expected: u64,
    /// Sessions that were begun.
    pub logins: u64,
    /// Update sets that were begun with everything.
    pub reads: u64,
}

impl Source {
    /// A source of so many machines, on a port of its own.
    pub fn start(machines: u32) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let machines = (1..=machines).map(|number| (number, Machine::new(number))).collect();
        let source = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            state: Mutex::new(State { machines, ..State::default() }),
            news: Condvar::new(),
        });
        let serving = source.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        source
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes machines: the closure gets all of them, and answers which ones it changed, made or ended.
    pub fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, Machine>) -> Vec<u32>) {
        let mut state = self.state();
        let changed = change(&mut state.machines);
        state.tally.changes += changed.len() as u64;
        state.changed.extend(changed);
        self.news.notify_all();
    }

    /// Tells something of a machine that is nothing new.
    pub fn make_noise(&self, number: u32, committed_more: u64) {
        let mut state = self.state();
        if let Some(machine) = state.machines.get_mut(&number) {
            machine.committed_more = committed_more;
            state.changed.insert(number);
            self.news.notify_all();
        }
    }

    /// What the feed must say next of the machine with that id, which it is then done with; `None` when it must say nothing.
    pub fn expected(&self, id: &str) -> Option<Expected> {
        let mut state = self.state();
        let queue = state.expected.get_mut(id)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            state.expected.remove(id);
        }
        next
    }

    /// Whether all is told and was in the feed.
    pub fn is_through(&self) -> bool {
        let state = self.state();
        state.changed.is_empty() && state.rest.is_empty() && state.expected.is_empty()
    }

    /// Some of what is still missing in the feed.
    pub fn missing(&self) -> String {
        let state = self.state();
        let some: Vec<_> = state.expected.iter().take(5).collect();
        format!("{} untold, missing in the feed of {} machines: {some:?}", state.changed.len(), state.expected.len())
    }

    pub fn machines(&self) -> BTreeMap<u32, Machine> {
        self.state().machines.clone()
    }

    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(body) = read_request(&mut stream, &mut buffer) {
            let body = String::from_utf8_lossy(&body).into_owned();
            let called = body.split_once("<soapenv:Body><").map_or("", |(_, rest)| rest);
            let method = called.split([' ', '>']).next().unwrap_or_default();
            let content = self.answer(method, &body);
            let xml = format!(
                "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
                 xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><{method}Response xmlns=\"urn:vim25\">\
                 {content}</{method}Response></soapenv:Body></soapenv:Envelope>"
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\nset-cookie: vmware_soap_session=s; Path=/\r\ncontent-length: {}\r\n\r\n",
                xml.len()
            );
            if stream.write_all(format!("{head}{xml}").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, method: &str, body: &str) -> String {
        if method == "Login" {
            self.state().tally.logins += 1;
        }
        if let Some(content) = session::answer(method) {
            return content.to_owned();
        }
        match method {
            "RetrievePropertiesEx" if body.contains("<type>ContainerView</type><pathSet>view") => {
                let count = self.state().machines.len() as u32 + FOLDERS + HOSTS;
                let all = "<ManagedObjectReference type=\"Folder\">x</ManagedObjectReference>".repeat(count as usize);
                format!(
                    "<returnval><objects><obj type=\"ContainerView\">view</obj><propSet><name>view</name><val>{all}</val>\
                     </propSet></objects></returnval>"
                )
            }
            "RetrievePropertiesEx" => {
                let all = containers(|kind| body.contains(&format!("<type>{kind}</type><pathSet>")));
                format!(
                    "<returnval>{}</returnval>",
                    all.replace("objectSet", "objects").replace("changeSet", "propSet")
                )
            }
            "WaitForUpdatesEx" => {
                let between = |from: &str, to: &str| {
                    let after = body.split_once(from).map_or("", |(_, after)| after);
                    after.split_once(to).map_or("", |(found, _)| found).to_owned()
                };
                let wait = Duration::from_secs(between("<maxWaitSeconds>", "</").parse().unwrap_or(1));
                self.updates(between("<version>", "</").is_empty(), wait)
            }
            _ => String::new(),
        }
    }

    /// The next answer of updates; empty when nothing happened for so long.
    fn updates(&self, is_first: bool, wait: Duration) -> String {
        let mut state = self.state();
        let mut objects = String::new();
        if is_first {
            // Everything is told whole, and compared there: what is different from how it was told last is expected of the feed.
            state.tally.reads += 1;
            state.is_read = true;
            state.changed.clear();
            let known: BTreeSet<u32> = state.machines.keys().chain(state.told.keys()).copied().collect();
            state.rest = known.into_iter().collect();
            objects = containers(|_| true);
        }
        let began = Instant::now();
        while state.rest.is_empty() {
            if !state.changed.is_empty() {
                state.rest = std::mem::take(&mut state.changed).into_iter().collect();
                break;
            }
            let Some(left) = wait.checked_sub(began.elapsed()) else { return String::new() };
            state = self.news.wait_timeout(state, left).unwrap().0;
        }
        for _ in 0..ANSWER_OBJECTS {
            let Some(number) = state.rest.pop_front() else { break };
            objects.push_str(&state.tell(number));
        }
        let is_truncated = !state.rest.is_empty();
        if !is_truncated {
            state.version += 1;
            state.is_read = false;
        }
        format!(
            "<returnval><version>{}-{}</version><filterSet><filter type=\"PropertyFilter\">f</filter>{objects}</filterSet>\
             <truncated>{is_truncated}</truncated></returnval>",
            state.version,
            state.rest.len()
        )
    }
}

impl State {
    /// The update of a machine, as XML, from how it was last told to how it is; whole in a read of everything.
    fn tell(&mut self, number: u32) -> String {
        let is_read = self.is_read;
        let (now, before) = (self.machines.get(&number).cloned(), self.told.remove(&number));
        let all: Vec<&'static str> = PATHS.iter().map(|(path, _)| *path).collect();
        let (kind, changes, expected) = match (&now, &before) {
            (None, None) => return String::new(),
            (Some(now), None) => ("enter", now.change_sets(number, &all, true), Some(Expected::Create)),
            (None, Some(_)) => ("leave", String::new(), Some(Expected::Delete)),
            (Some(now), Some(before)) => {
                let paths = now.differs(before);
                let is_noise = paths.is_empty() || now.committed_more != before.committed_more;
                let changes = now.change_sets(number, if is_read { &all } else { &paths }, is_noise || is_read);
                let expected = (!paths.is_empty()).then_some(Expected::Update(paths));
                (if is_read { "enter" } else { "modify" }, changes, expected)
            }
        };
        if let Some(now) = now {
            self.told.insert(number, now);
        }
        // What comes with the first read is there before anybody looks at the feed.
        if self.tally.reads > 1 || self.version > 0 {
            self.tally.updates += 1;
            match expected {
                Some(expected) => {
                    self.tally.expected += 1;
                    self.expected.entry(id(number)).or_default().push_back(expected);
                }
                None => self.tally.noise += 1,
            }
        }
        if is_read && kind == "leave" {
            // It is not told at all.
            return String::new();
        }
        format!("<objectSet><kind>{kind}</kind><obj type=\"VirtualMachine\">{}</obj>{changes}</objectSet>", id(number))
    }
}

/// Folders and hosts, those of types that are asked for.
fn containers(is_asked: impl Fn(&str) -> bool) -> String {
    let object = |kind: &str, id: &str, name: &str, parent: &str| {
        format!(
            "<objectSet><kind>enter</kind><obj type=\"{kind}\">{id}</obj><changeSet><name>name</name><op>assign</op>\
             <val>{name}</val></changeSet>{parent}</objectSet>"
        )
    };
    let below = |parent: &str| {
        format!("<changeSet><name>parent</name><op>assign</op><val type=\"Folder\">{parent}</val></changeSet>")
    };
    let mut out = String::new();
    if is_asked("Folder") {
        out.push_str(&object("Folder", "group-d1", "Datacenters", ""));
        for number in 0..FOLDERS {
            let above = if number == 0 { "group-d1".to_owned() } else { folder(0) };
            out.push_str(&object("Folder", &folder(number), &format!("folder {number}"), &below(&above)));
        }
    }
    if is_asked("HostSystem") {
        for number in 0..HOSTS {
            out.push_str(&object("HostSystem", &host(number), &format!("esx{number}.test"), ""));
        }
    }
    out
}

/// The body of the next request; `None` at the end of the connection.
fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut chunk = [0; 16 << 10];
    loop {
        if let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length = length.and_then(|length| length.trim().parse::<usize>().ok()).unwrap_or_default();
            if buffer.len() >= head + 4 + length {
                let body = buffer[head + 4..head + 4 + length].to_vec();
                buffer.drain(..head + 4 + length);
                return Some(body);
            }
        }
        let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        buffer.extend_from_slice(&chunk[..count]);
    }
}
