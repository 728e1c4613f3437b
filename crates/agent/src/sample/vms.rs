//! The VMs of the host, found again at each tick.
//!
//! What is dear to find out is kept: which processes are no QEMU, what a command line says, which interfaces and which monitor
//! a VM has. New processes are looked at when they appear, and a few times more, since they may still be on the way to
//! become a QEMU; everything is looked at anew now and then, for what was plugged in or has moved.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control_group::{self, Limits};
use super::needs::Needs;
use super::part::Part;
use super::vm_reading::{Blocks, Facts, Holdings, ProcessIo, ProcessKey, ProcessStat, Thread, VmReading};
use crate::qemu::guest::Guest;
use crate::qemu::process::{self, Process};
use crate::qemu::{monitor, netdevs, vm};
use crate::tree::Tree;

/// How long after its appearance a process may still become a QEMU: between fork and exec.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);
/// How old what is kept of a process may become.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How long a monitor is left alone that did not answer in time.
const MONITOR_PAUSE: Duration = Duration::from_secs(60);
/// What all monitors may take of one tick. The others are counted by what the kernel tells, this time.
const MONITORS_TIMEOUT: Duration = Duration::from_millis(500);

/// The VMs and what is kept of them.
#[derive(Debug, Default)]
pub(crate) struct Vms {
    /// Processes that are no QEMU.
    others: HashMap<u32, Other>,
    /// The oldest first.
    machines: Vec<Machine>,
}

#[derive(Debug)]
struct Other {
    first_seen: Instant,
    looked_at: Instant,
}

#[derive(Debug)]
struct Machine {
    id: Arc<str>,
    process: Process,
    facts: Facts,
    stat: Part<ProcessStat>,
    /// Whether a thread is a virtual processor, by its id.
    threads: HashMap<u32, bool>,
    balloon_bytes: Option<u64>,
    /// When the monitor was last asked for it.
    balloon_asked: Option<Instant>,
    /// None until they are needed.
    limits: Option<Limits>,
    monitor_pause_until: Option<Instant>,
    kept: Option<Kept>,
}

/// What is found out anew after [`KEPT_FOR`].
#[derive(Debug)]
struct Kept {
    since: Instant,
    taps: Arc<[String]>,
    /// The monitor's socket as its process calls it, and where it is reached.
    monitor: Option<(String, PathBuf)>,
    /// The network namespace, in which the table of sockets holds the monitor's.
    namespace: Option<OsString>,
}

impl Vms {
    /// Finds the VMs that run at this moment.
    pub(crate) fn find(&mut self, tree: &Tree, host_id: &str, buffer: &mut Vec<u8>) {
        let now = Instant::now();
        let pids: HashSet<u32> = pids(tree);
        self.others.retain(|pid, _| pids.contains(pid));
        self.machines.retain_mut(|machine| {
            pids.contains(&machine.process.pid)
                && read_stat(tree, machine.process.pid, buffer)
                    .filter(|stat| stat.value.started == machine.process.started_ticks)
                    .map(|stat| machine.stat = stat)
                    .is_some()
        });
        let known = self.machines.len();
        for pid in pids {
            if self.machines[..known].iter().any(|machine| machine.process.pid == pid) {
                continue;
            }
            let other = self.others.entry(pid).or_insert(Other { first_seen: now, looked_at: now });
            let is_new = now.duration_since(other.first_seen) < EXEC_TIMEOUT;
            if !is_new && now.duration_since(other.looked_at) < KEPT_FOR {
                continue;
            }
            other.looked_at = now;
            let Some(process) = process::read(tree, pid) else { continue };
            let Some(stat) = read_stat(tree, pid, buffer) else { continue };
            self.others.remove(&pid);
            self.machines.push(Machine::new(process, stat));
        }
        if self.machines.len() > known {
            self.machines.sort_unstable_by_key(|machine| (machine.process.started_ticks, machine.process.pid));
        }
        self.name(host_id);
    }

    /// Gives each VM the id that the inventory has for it; forks have none.
    fn name(&mut self, host_id: &str) {
        let forks = process::forks(self.machines.iter().map(|machine| &machine.process));
        let mut taken = BTreeSet::new();
        for machine in &mut self.machines {
            if forks.contains(&machine.process.pid) {
                machine.id = Arc::from("");
                continue;
            }
            let guest = Guest::parse(&machine.process.program, &machine.process.arguments);
            let id = vm::free_id(vm::vm_id(host_id, &guest, &machine.process), &mut taken);
            if *machine.id != *id {
                machine.id = id.into();
            }
        }
    }

    /// The ids of the VMs.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.machines.iter().map(|machine| &machine.id).filter(|id| !id.is_empty())
    }

    /// Reads of each VM what is needed; nothing of those of which nothing is.
    pub(crate) fn read(
        &mut self,
        tree: &Tree,
        needs: impl Fn(&str) -> Needs,
        buffer: &mut Vec<u8>,
    ) -> Vec<(Arc<str>, VmReading)> {
        let deadline = Instant::now() + MONITORS_TIMEOUT;
        let mut tables = Tables::default();
        let mut readings = Vec::new();
        for machine in self.machines.iter_mut().filter(|machine| !machine.id.is_empty()) {
            let needs = needs(&machine.id);
            if !needs.is_empty() {
                readings.push((machine.id.clone(), machine.read(tree, needs, buffer, &mut tables, deadline)));
            }
        }
        readings
    }
}

impl Machine {
    fn new(process: Process, stat: Part<ProcessStat>) -> Self {
        let guest = Guest::parse(&process.program, &process.arguments);
        Self {
            id: Arc::from(""),
            facts: Facts { vcpus: guest.cpus.map(|cpus| cpus.count), memory_bytes: guest.memory_bytes },
            process,
            stat,
            threads: HashMap::new(),
            balloon_bytes: None,
            balloon_asked: None,
            limits: None,
            monitor_pause_until: None,
            kept: None,
        }
    }

    fn key(&self) -> ProcessKey {
        (self.process.pid, self.process.started_ticks)
    }

    fn read(
        &mut self,
        tree: &Tree,
        needs: Needs,
        buffer: &mut Vec<u8>,
        tables: &mut Tables,
        deadline: Instant,
    ) -> VmReading {
        let pid = self.process.pid;
        self.keep(tree, needs);
        let threads = needs.has(Needs::THREADS).then(|| self.read_threads(tree, buffer)).flatten();
        // A balloon moves slowly, and a question costs more than all that is read of files.
        let is_balloon_old = self.balloon_asked.is_none_or(|asked| asked.elapsed() >= KEPT_FOR);
        let is_to_ask = needs.has(Needs::BLOCKS) || (needs.has(Needs::BALLOON) && is_balloon_old);
        let blocks = is_to_ask.then(|| self.ask(tree, tables, deadline)).flatten();
        if needs.has(Needs::GROUP) && self.limits.is_none() {
            let vcpus: Vec<u32> = self.threads.iter().filter(|(_, is)| **is).map(|(thread, _)| *thread).collect();
            self.limits = Some(control_group::limits(tree, pid, &vcpus, self.facts.vcpus.unwrap_or(1)));
        }
        let path = |name: &str| format!("proc/{pid}/{name}");
        let holdings = needs.has(Needs::HOLDINGS).then(|| tree.text_into(path("status"), buffer)).flatten();
        let holdings = holdings.and_then(Holdings::parse).map(Part::now);
        let io = needs.has(Needs::PROCESS_IO).then(|| tree.text_into(path("io"), buffer)).flatten();
        let io = io.and_then(ProcessIo::parse).map(Part::now);
        VmReading {
            key: self.key(),
            facts: self.facts,
            process: Some(self.stat.clone()),
            holdings,
            io,
            threads,
            blocks,
            balloon_bytes: self.balloon_bytes,
            limits: self.limits,
            taps: self.kept.as_ref().map(|kept| kept.taps.clone()).unwrap_or_default(),
        }
    }

    /// Finds out what is kept, unless that is known and not too old.
    fn keep(&mut self, tree: &Tree, needs: Needs) {
        let is_needed = needs.has_any(Needs::INTERFACES | Needs::BLOCKS | Needs::BALLOON | Needs::GROUP);
        if !is_needed || self.kept.as_ref().is_some_and(|kept| kept.since.elapsed() < KEPT_FOR) {
            return;
        }
        let process = &self.process;
        let descriptors = process.descriptors(tree);
        let mut taps = netdevs::tap_interfaces(&process.arguments);
        taps.extend(descriptors.tap_interfaces.iter().cloned());
        taps.sort_unstable();
        taps.dedup();
        let socket = monitor::listener(&process.arguments)
            .and_then(|listener| monitor::socket(tree, process, &listener, &descriptors));
        self.kept = Some(Kept {
            since: Instant::now(),
            taps: taps.into(),
            monitor: socket.map(|socket| {
                let reach = process.reach(tree, &socket.path);
                (socket.path, reach)
            }),
            namespace: tree.link(format!("proc/{}/ns/net", process.pid)).map(PathBuf::into_os_string),
        });
        // Limits are of the same age.
        self.limits = None;
    }

    fn read_threads(&mut self, tree: &Tree, buffer: &mut Vec<u8>) -> Option<Part<Vec<Thread>>> {
        let directory = format!("proc/{}/task", self.process.pid);
        let taken = Instant::now();
        let mut threads = Vec::with_capacity(self.threads.len());
        for entry in std::fs::read_dir(tree.path(&directory)).ok()?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let is_vcpu = *self
                .threads
                .entry(id)
                .or_insert_with(|| tree.text_into(format!("{directory}/{id}/comm"), buffer).is_some_and(is_vcpu_name));
            // One that ends meanwhile is left out.
            let stat = tree.text_into(format!("{directory}/{id}/schedstat"), buffer);
            threads.extend(stat.and_then(|text| Thread::parse(text, id, is_vcpu)));
        }
        if self.threads.len() > threads.len() {
            self.threads.retain(|id, _| threads.iter().any(|thread| thread.id == *id));
        }
        threads.sort_unstable_by_key(|thread| thread.id);
        (!threads.is_empty()).then_some(Part { taken, value: threads })
    }

    /// Asks the monitor for its counts, if it is free and answers in time.
    fn ask(&mut self, tree: &Tree, tables: &mut Tables, deadline: Instant) -> Option<Part<Blocks>> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now).min(monitor::ANSWER_TIMEOUT);
        let kept = self.kept.as_ref()?;
        let (name, path) = kept.monitor.as_ref()?;
        let is_paused = self.monitor_pause_until.is_some_and(|until| now < until);
        if left.is_zero() || is_paused || tables.is_busy(tree, self.process.pid, kept.namespace.as_ref(), name) {
            return None;
        }
        let Some((_, [blocks, balloon])) = monitor::exchange(path, ["query-blockstats", "query-balloon"], left) else {
            self.monitor_pause_until = Some(now + MONITOR_PAUSE);
            return None;
        };
        // A VM without a balloon refuses the question.
        self.balloon_asked = Some(now);
        self.balloon_bytes = balloon.and_then(|balloon| balloon.get("actual")?.as_u64());
        blocks.as_ref().and_then(Blocks::parse).map(|value| Part { taken: now, value })
    }
}

/// Which sockets have a client, by network namespace. A table is read once a tick for all VMs of a namespace.
#[derive(Default)]
struct Tables(HashMap<Option<OsString>, String>);

impl Tables {
    /// Relative paths of two VMs can be equal: then a client of one makes the other busy as well, which does no harm.
    fn is_busy(&mut self, tree: &Tree, pid: u32, namespace: Option<&OsString>, path: &str) -> bool {
        let read = || tree.text(format!("proc/{pid}/net/unix")).unwrap_or_default();
        let table = self.0.entry(namespace.cloned()).or_insert_with(read);
        monitor::has_client(table, path)
    }
}

fn pids(tree: &Tree) -> HashSet<u32> {
    let Ok(entries) = std::fs::read_dir(tree.path("proc")) else { return HashSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn read_stat(tree: &Tree, pid: u32, buffer: &mut Vec<u8>) -> Option<Part<ProcessStat>> {
    tree.text_into(format!("proc/{pid}/stat"), buffer).and_then(ProcessStat::parse).map(Part::now)
}

/// The names that QEMU gives the threads of virtual processors with `debug-threads=on`: `CPU 0/KVM`, `CPU 1/TCG`, `ALL CPUs/TCG`.
fn is_vcpu_name(comm: &str) -> bool {
    comm.starts_with("CPU ") || comm.starts_with("ALL CPUs")
}
