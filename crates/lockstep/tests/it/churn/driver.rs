//! What makes things happen: at the source, at the simulator, at this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use reqwest::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};

use super::machine::{FOLDERS, HOSTS, Machine};
use super::source::Source;
use crate::agent::Killed;
use crate::server::http;

/// How often changes are made, so many at a time that the rate is right.
const TICK: Duration = Duration::from_millis(10);

/// A small generator of numbers, so that a run can be repeated by its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Xorshift: any state but nought is followed by all others.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Changes machines of the source, `rate` a second, until it is told to stop.
pub fn churn(source: &Source, rate: u64, random: &mut Random, stop: &AtomicBool) {
    let (began, mut made) = (Instant::now(), 0);
    let mut numbers = Numbers { there: source.machines().into_keys().collect(), next: 0 };
    numbers.next = numbers.there.iter().max().map_or(1, |greatest| greatest + 1);
    while !stop.load(Ordering::SeqCst) {
        let due = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(rate) / 1000;
        // What a halt of the machine has held up is made good for bit by bit.
        let now = due.saturating_sub(made).min(rate / 10);
        source.change(|machines| (1..=now).map(|at| step(machines, made + at, &mut numbers, random)).collect());
        made += now;
        // A machine has less than a hundredth part more in use, and is told with the rest as it was.
        source.make_noise(numbers.any(random), random.below(100 << 20));
        std::thread::sleep(TICK);
    }
}

/// The machines that there are, by number, in any order: each is as likely as the others to be changed next.
struct Numbers {
    there: Vec<u32>,
    next: u32,
}

impl Numbers {
    fn any_at(&self, random: &mut Random) -> usize {
        usize::try_from(random.below(self.there.len() as u64)).unwrap_or_default()
    }

    fn any(&self, random: &mut Random) -> u32 {
        self.there[self.any_at(random)]
    }
}

/// One change, the `count`th; which machine it was of.
fn step(machines: &mut BTreeMap<u32, Machine>, count: u64, numbers: &mut Numbers, random: &mut Random) -> u32 {
    let what = random.below(1000);
    if what < 10 || machines.len() < 2 {
        let made = numbers.next;
        numbers.next += 1;
        numbers.there.push(made);
        machines.insert(made, Machine::new(made));
        return made;
    }
    let at = numbers.any_at(random);
    let number = numbers.there[at];
    if what < 20 {
        numbers.there.swap_remove(at);
        machines.remove(&number);
        return number;
    }
    let Some(machine) = machines.get_mut(&number) else { return number };
    match what {
        20..130 => machine.name = count,
        130..230 => {
            machine.is_on = !machine.is_on;
            if machine.is_on {
                machine.booted_s = count;
            }
        }
        230..310 => machine.memory_mib = 1024 + (machine.memory_mib + 512) % 8192,
        310..370 => machine.host = (machine.host + 1) % HOSTS,
        370..410 => machine.folder = 1 + machine.folder % (FOLDERS - 1),
        410..450 => machine.address = u32::try_from(count).unwrap_or(u32::MAX),
        450..480 if machine.snapshots.len() < 3 => machine.snapshots.push(count),
        450..480 => drop(machine.snapshots.remove(0)),
        _ => machine.annotation = count,
    }
    number
}

/// A session at the simulator, over one connection.
pub struct Session {
    http: Client,
    url: String,
    cookie: String,
}

impl Session {
    pub fn open(address: SocketAddr) -> Self {
        let mut session =
            Self { http: http(Duration::from_secs(60)), url: format!("https://{address}/sdk"), cookie: String::new() };
        session.call(
            "Login",
            "<_this type=\"SessionManager\">SessionManager</_this><userName>user</userName><password>pass</password>",
        );
        session
    }

    fn call(&mut self, method: &str, arguments: &str) {
        let body = format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body>\
             <{method} xmlns=\"urn:vim25\">{arguments}</{method}></soapenv:Body></soapenv:Envelope>"
        );
        let request = self.http.post(&self.url).header(CONTENT_TYPE, "text/xml").header("SOAPAction", "urn:vim25/6.5");
        let answer = request.header(COOKIE, &self.cookie).body(body).send().unwrap();
        if let Some(cookie) = answer.headers().get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok()) {
            self.cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        }
        let (status, text) = (answer.status(), answer.text().unwrap_or_default());
        assert!(status.is_success(), "{method}: {status} {text}");
    }

    /// Renames machines in turn, so many a second, until it is told to stop; how many times.
    pub fn rename(&mut self, ids: &[String], rate: u64, stop: &AtomicBool) -> u64 {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            for id in ids {
                count += 1;
                let arguments = format!("<_this type=\"VirtualMachine\">{id}</_this><newName>{id}-{count}</newName>");
                self.call("Rename_Task", &arguments);
                std::thread::sleep(Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1));
            }
        }
        count
    }
}

/// Starts a virtual machine on this one, which does nothing.
pub fn start_guest(name: &str, uuid: &str) -> Killed {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-display", "none", "-S", "-name", name, "-uuid", uuid, "-m", "64"]);
    Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}
