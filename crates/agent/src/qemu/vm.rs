//! A QEMU process as a `VirtualMachine`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::blocks::{self, GuestDisk, Place};
use super::guest::Guest;
use super::image::{self, Image};
use super::monitor::{self, Answer};
use super::netdevs;
use super::process::{self, Descriptors, Process};
use crate::host::datastores::{DATASTORE, Datastores};
use crate::host::networks::{self, NETWORK, Network};
use crate::host::{self, HOST_SYSTEM};
use crate::identity::derived_id;
use crate::observed::{Observed, Properties, reference};
use crate::tree::Tree;

pub(crate) const VIRTUAL_MACHINE: &str = "VirtualMachine";
const BYTES_PER_MIB: u64 = 1 << 20;

/// What all monitors together may take of one reading. After that the others keep their last known answers, so that a
/// host full of hanging VMs is still read in time.
const MONITORS_TIMEOUT: Duration = Duration::from_secs(2);

/// A process for good: its pid and start time.
type ProcessKey = (u32, u64);

/// The host that the VMs are on.
pub(crate) struct Surroundings<'a> {
    pub(crate) host_id: &'a str,
    pub(crate) boot_time_s: Option<i64>,
    pub(crate) datastores: &'a Datastores,
    pub(crate) networks: &'a [Network],
}

/// The last answer of each monitor, for the times when it is busy.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    // Held for a look-up; never while a monitor is asked.
    known: Mutex<HashMap<ProcessKey, Answer>>,
}

/// All VMs of the host, the longest running first.
pub(crate) fn read(tree: &Tree, around: &Surroundings<'_>, answers: &Answers) -> Vec<Observed> {
    let processes = process::find(tree);
    answers.forget_all_but(&processes);
    let deadline = Instant::now() + MONITORS_TIMEOUT;
    let mut ids = BTreeSet::new();
    let mut machines = Vec::new();
    for process in &processes {
        let Some((plain_id, properties)) = read_one(tree, around, answers, process, deadline) else { continue };
        let id = free_id(plain_id, &mut ids);
        machines.push(Observed { resource_type: VIRTUAL_MACHINE, id, properties: properties.into_map() });
    }
    machines
}

/// The id and properties of one VM; none if it is not running here (yet, or any more).
fn read_one(
    tree: &Tree,
    around: &Surroundings<'_>,
    answers: &Answers,
    process: &Process,
    deadline: Instant,
) -> Option<(String, Properties)> {
    let guest = Guest::parse(&process.program, &process.arguments);
    let descriptors = process.descriptors(tree);
    let listener = monitor::listener(&process.arguments);
    let socket = listener.and_then(|listener| monitor::socket(tree, process, &listener, &descriptors));
    let answer = answers.current(tree, process, socket.as_ref(), deadline);
    let power_state = power_state(answer.as_ref().map(|answer| answer.status.as_str()))?;

    let disks: Vec<Disk> =
        blocks::parse(&process.arguments).into_iter().map(|disk| Disk::read(tree, process, disk)).collect();
    let nics = netdevs::parse(&process.arguments);
    let datastores = references(DATASTORE, disks.iter().filter_map(|disk| disk.datastore(tree, process, around)));
    let interfaces = descriptors.tap_interfaces.iter().chain(nics.iter().filter_map(|nic| nic.host_interface.as_ref()));
    let networks = interfaces.filter_map(|interface| networks::of_interface(tree, around.networks, interface));
    let networks = references(NETWORK, networks.map(|network| network.id.as_str()));

    let mut qemu = Properties::default();
    qemu.set("pid", process.pid)
        .set("machine", guest.machine.clone())
        .set("accelerator", accelerator(&guest, &descriptors))
        .set("qmp_socket", socket.and_then(|socket| Some(process.absolute(&socket.path)?.display().to_string())))
        .set("version", answer.as_ref().and_then(|answer| answer.version.clone()))
        .set("status", answer.map(|answer| answer.status));

    let started_s = i64::try_from(process.started_ticks / rustix::param::clock_ticks_per_second()).ok();
    let boot_time =
        around.boot_time_s.zip(started_s).and_then(|(boot, started)| host::rfc3339(boot.checked_add(started)?));
    let mut properties = Properties::default();
    properties
        .set("name", guest.name.clone().unwrap_or_else(|| name_of_unnamed(process, &disks)))
        .set("power_state", power_state)
        .set("cpu_count", guest.cpus.map(|cpus| cpus.count))
        .set("cores_per_socket", guest.cpus.map(|cpus| cpus.cores_per_socket))
        .set("memory_size_MiB", guest.memory_bytes.map(|bytes| bytes / BYTES_PER_MIB))
        .set("host", reference(HOST_SYSTEM, around.host_id))
        .set("instance_uuid", guest.uuid.clone())
        .set("boot_time", boot_time)
        .set_list("disks", disks.into_iter().map(Disk::into_value))
        .set_list("nics", nics.into_iter().map(netdevs::GuestNic::into_value))
        .set_list("datastores", datastores)
        .set_list("networks", networks)
        .set_structure("qemu", qemu);
    Some((vm_id(around.host_id, &guest, process), properties))
}

/// Two processes can claim one identity: started twice by the same command, or moved within the host. The oldest, which asks
/// first, has the plain id; the others are numbered.
pub(crate) fn free_id(plain_id: String, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{plain_id}-{number}"));
    let free = std::iter::once(plain_id.clone()).chain(numbered).find(|id| !taken.contains(id));
    let id = free.unwrap_or(plain_id);
    taken.insert(id.clone());
    id
}

/// By the UUID a VM is the same on every host; a name identifies it on its host only.
pub(crate) fn vm_id(host_id: &str, guest: &Guest, process: &Process) -> String {
    if let Some(uuid) = &guest.uuid {
        return format!("vm-{uuid}");
    }
    if let Some(name) = &guest.name {
        return derived_id("vm", &[host_id, "name", name]);
    }
    let directory = process.directory.as_deref().map(|directory| directory.to_string_lossy()).unwrap_or_default();
    let mut parts = vec![host_id, "command", &process.program, &directory];
    parts.extend(process.command.iter().map(String::as_str));
    derived_id("vm", &parts)
}

/// A VM without a name is called after its first disk, or else after its program.
fn name_of_unnamed(process: &Process, disks: &[Disk]) -> String {
    let stem = |disk: &Disk| {
        let Some(Place::Path(path)) = &disk.parsed.medium.place else { return None };
        Some(std::path::Path::new(path).file_stem()?.to_str()?.to_owned())
    };
    disks.iter().find_map(stem).unwrap_or_else(|| process.program.clone())
}

/// The state for a status of `RunState` in QEMU's `run-state.json`. A process whose monitor has never answered is taken
/// to run. None for a VM that is arriving from elsewhere or has left: the other side tells of it.
fn power_state(status: Option<&str>) -> Option<&'static str> {
    match status {
        None | Some("running" | "colo") => Some("POWERED_ON"),
        // With -no-shutdown the process outlives its guest.
        Some("shutdown") => Some("POWERED_OFF"),
        Some("inmigrate" | "postmigrate") => None,
        Some(_) => Some("SUSPENDED"),
    }
}

/// The one asked for. Of several, the process itself tells whether it came to KVM.
fn accelerator(guest: &Guest, descriptors: &Descriptors) -> Option<String> {
    let named = |name: &str| guest.accelerators.iter().find(|accelerator| *accelerator == name).cloned();
    let first = guest.accelerators.first().cloned();
    match descriptors.has_kvm {
        Some(true) => named("kvm").or(first),
        Some(false) => guest.accelerators.iter().find(|accelerator| *accelerator != "kvm").cloned().or(first),
        None => first,
    }
}

/// Sorted references without repeats.
fn references<'a>(resource_type: &str, ids: impl Iterator<Item = &'a str>) -> Vec<Value> {
    let ids: BTreeSet<&str> = ids.collect();
    ids.into_iter().map(|id| reference(resource_type, id)).collect()
}

/// A disk with what its image tells.
struct Disk {
    parsed: GuestDisk,
    /// The absolute path or the address.
    place: Option<String>,
    image: Image,
}

impl Disk {
    fn read(tree: &Tree, process: &Process, parsed: GuestDisk) -> Self {
        let format = parsed.medium.format.clone();
        let (place, image) = match &parsed.medium.place {
            Some(Place::Path(path)) => {
                let absolute = process.absolute(path).map(|path| path.display().to_string());
                let image = image::read(tree, &process.reach(tree, path), format);
                (absolute.or_else(|| Some(path.clone())), image)
            }
            Some(Place::Address(address)) => (Some(address.clone()), Image { format, capacity_bytes: None }),
            None => (None, Image { format, capacity_bytes: None }),
        };
        Self { parsed, place, image }
    }

    fn datastore<'a>(&self, tree: &Tree, process: &Process, around: &Surroundings<'a>) -> Option<&'a str> {
        let Some(Place::Path(path)) = &self.parsed.medium.place else { return None };
        let real = process.reach(tree, path).canonicalize().ok()?;
        Some(around.datastores.holding(&tree.absolute(&real)?)?.id.as_str())
    }

    fn into_value(self) -> Value {
        let mut properties = Properties::default();
        properties
            .set("label", self.parsed.label)
            .set("path", self.place)
            .set("format", self.image.format)
            .set("capacity", self.image.capacity_bytes)
            .set("node", self.parsed.node);
        properties.into_value()
    }
}

impl Answers {
    /// What the monitor says, or said last. No socket, no answer.
    fn current(
        &self,
        tree: &Tree,
        process: &Process,
        socket: Option<&monitor::Socket>,
        deadline: Instant,
    ) -> Option<Answer> {
        let key = (process.pid, process.started_ticks);
        let left = deadline.saturating_duration_since(Instant::now()).min(monitor::ANSWER_TIMEOUT);
        let free = socket.filter(|socket| !socket.is_busy && !left.is_zero());
        if let Some(answer) = free.and_then(|socket| monitor::ask(&process.reach(tree, &socket.path), left)) {
            self.lock().insert(key, answer.clone());
            return Some(answer);
        }
        self.lock().get(&key).cloned()
    }

    fn forget_all_but(&self, processes: &[Process]) {
        let keys: BTreeSet<ProcessKey> = processes.iter().map(|process| (process.pid, process.started_ticks)).collect();
        self.lock().retain(|key, _| keys.contains(key));
    }

    /// A panic elsewhere leaves whole entries behind.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ProcessKey, Answer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::thread::{self, JoinHandle};

    use serde_json::json;

    use super::*;
    use crate::tree::fixture::Fixture;

    const UUID: &str = "6f1c2f44-7a4b-4e0e-9a35-0d9c3a1f2b11";

    /// A host with a data file system, a bridge, and a TAP interface in it.
    fn host() -> Fixture {
        let fixture = Fixture::new(&[
            ("proc/self/mountinfo", "27 1 8:1 / / rw - ext4 /dev/sda1 rw\n28 27 8:2 / /data rw - xfs /dev/sda2 rw"),
            ("sys/class/net/br0/bridge/bridge_id", ""),
        ]);
        fixture.link("sys/class/net/vnet0/master", "../br0");
        fixture.write("data/a.raw", vec![0; 1 << 20]);
        fixture
    }

    fn start(fixture: &Fixture, pid: u32, started_s: u64, command: &str) {
        let words: Vec<&str> = command.split_ascii_whitespace().collect();
        fixture.write(&format!("proc/{pid}/cmdline"), words.join("\0") + "\0");
        let ticks = started_s * rustix::param::clock_ticks_per_second();
        let stat = format!("{pid} (q) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 5 0 {ticks} 1 1");
        fixture.write(&format!("proc/{pid}/stat"), stat);
    }

    fn read_all(fixture: &Fixture, answers: &Answers) -> Vec<Observed> {
        let tree = fixture.tree();
        let datastores = Datastores::read(&tree, "host-1");
        let networks = networks::read(&tree, "host-1");
        let around = Surroundings {
            host_id: "host-1",
            boot_time_s: Some(1_767_225_600),
            datastores: &datastores,
            networks: &networks,
        };
        read(&tree, &around, answers)
    }

    fn ids(fixture: &Fixture) -> Vec<String> {
        read_all(fixture, &Answers::default()).into_iter().map(|machine| machine.id).collect()
    }

    #[test]
    fn a_process_becomes_a_virtual_machine() {
        let fixture = host();
        start(
            &fixture,
            4711,
            60,
            &format!(
                "/usr/bin/qemu-system-x86_64 -name guest=web1,debug-threads=on -uuid {UUID} -machine pc-q35-8.2,accel=kvm \
                 -smp 4,sockets=2,cores=2,threads=1 -m 2G \
                 -blockdev driver=raw,node-name=d0,file.driver=file,file.filename=/data/a.raw \
                 -device virtio-blk-pci,drive=d0,id=disk0 -netdev tap,id=n0,fd=7 \
                 -device virtio-net-pci,netdev=n0,id=net0,mac=52:54:00:00:00:01"
            ),
        );
        fixture.link("proc/4711/fd/7", "/dev/net/tun");
        fixture.write("proc/4711/fdinfo/7", "iff:\tvnet0\n");
        let machines = read_all(&fixture, &Answers::default());
        assert_eq!(machines.len(), 1);
        assert_eq!((machines[0].resource_type, machines[0].id.as_str()), ("VirtualMachine", &*format!("vm-{UUID}")));
        assert_eq!(
            Value::Object(machines[0].properties.clone()),
            json!({
                "name": "web1", "power_state": "POWERED_ON", "cpu_count": 4, "cores_per_socket": 2,
                "memory_size_MiB": 2048, "host": {"type": "HostSystem", "id": "host-1"}, "instance_uuid": UUID,
                "boot_time": "2026-01-01T00:01:00Z",
                "disks": [
                    {"label": "disk0", "path": "/data/a.raw", "format": "raw", "capacity": 1 << 20, "node": "d0"}
                ],
                "nics": [
                    {"label": "net0", "mac_address": "52:54:00:00:00:01", "kind": "virtio-net-pci", "connected": true}
                ],
                "datastores": [{"type": "Datastore", "id": derived_id("datastore", &["host-1", "/data"])}],
                "networks": [{"type": "Network", "id": derived_id("network", &["host-1", "br0"])}],
                "qemu": {"pid": 4711, "machine": "pc-q35-8.2", "accelerator": "kvm"},
            })
        );
    }

    #[test]
    fn an_id_survives_a_restart_of_the_vm() {
        for command in ["kvm -name a", "kvm -m 64 disk.img", &format!("kvm -name b -uuid {UUID}")] {
            let fixture = host();
            start(&fixture, 10, 1, command);
            let before = ids(&fixture);
            let fixture = host();
            start(&fixture, 99, 500, command);
            assert_eq!(ids(&fixture), before, "{command}");
        }
    }

    #[test]
    fn an_unnamed_vm_is_called_after_its_disk_or_program() {
        fn check(command: &str, expected: &str) {
            let fixture = host();
            start(&fixture, 10, 1, command);
            assert_eq!(read_all(&fixture, &Answers::default())[0].properties["name"], expected, "{command}");
        }
        check("qemu-system-x86_64 /images/debian-12.qcow2", "debian-12");
        check("/usr/bin/qemu-system-x86_64 -m 64", "qemu-system-x86_64");
    }

    #[test]
    fn of_two_with_one_identity_the_older_keeps_the_id() {
        let fixture = host();
        start(&fixture, 30, 2, "kvm -name a");
        start(&fixture, 20, 1, "kvm -name a");
        start(&fixture, 10, 3, "kvm -name a -S");
        let found = ids(&fixture);
        let plain = derived_id("vm", &["host-1", "name", "a"]);
        assert_eq!(found, [plain.clone(), format!("{plain}-2"), format!("{plain}-3")]);
    }

    #[test]
    fn power_states() {
        fn check(status: Option<&str>, expected: Option<&str>) {
            assert_eq!(power_state(status), expected, "{status:?}");
        }
        check(None, Some("POWERED_ON"));
        check(Some("running"), Some("POWERED_ON"));
        check(Some("paused"), Some("SUSPENDED"));
        check(Some("prelaunch"), Some("SUSPENDED"));
        check(Some("io-error"), Some("SUSPENDED"));
        check(Some("shutdown"), Some("POWERED_OFF"));
        check(Some("inmigrate"), None);
        check(Some("postmigrate"), None);
    }

    #[test]
    fn the_accelerator_is_the_one_in_use() {
        fn check(accelerators: &[&str], has_kvm: Option<bool>, expected: &str) {
            let accelerators = accelerators.iter().map(|name| (*name).to_owned()).collect();
            let guest = Guest { accelerators, ..Guest::default() };
            let descriptors = Descriptors { has_kvm, ..Descriptors::default() };
            assert_eq!(accelerator(&guest, &descriptors).as_deref(), Some(expected));
        }
        check(&["kvm", "tcg"], None, "kvm");
        check(&["kvm", "tcg"], Some(true), "kvm");
        check(&["kvm", "tcg"], Some(false), "tcg");
        check(&["tcg"], Some(false), "tcg");
        check(&["kvm"], Some(false), "kvm");
        check(&["xen"], Some(true), "xen");
    }

    /// A monitor that tells each of so many clients that the guest is paused.
    fn monitor(path: &Path, clients: usize) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for _ in 0..clients {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"{\"QMP\": {}}\n").unwrap();
                let requests = BufReader::new(stream.try_clone().unwrap()).lines().take(2);
                assert_eq!(requests.count(), 2);
                stream.write_all(b"{\"return\": {\"status\": \"paused\"}, \"id\": \"query-status\"}\n").unwrap();
            }
        })
    }

    #[test]
    fn a_busy_monitor_keeps_its_last_answer_until_the_process_is_another() {
        let fixture = host();
        let directory = tempfile::tempdir().unwrap();
        let server = monitor(&directory.path().join("q"), 1);
        fixture.link("proc/10/cwd", directory.path());
        fixture.link("proc/10/fd/5", "socket:[77]");
        start(&fixture, 10, 1, "kvm -name a -qmp unix:q,server=on,wait=off");

        let answers = Answers::default();
        let state = |answers: &Answers| read_all(&fixture, answers)[0].properties["power_state"].clone();
        assert_eq!(state(&answers), "SUSPENDED");
        server.join().unwrap();
        fixture.write("proc/10/net/unix", "Num\n1: 00000003 00000000 00000000 0001 03 77 q\n");
        assert_eq!(state(&answers), "SUSPENDED");
        assert_eq!(state(&Answers::default()), "POWERED_ON", "without an answer it is taken to run");
        start(&fixture, 10, 2, "kvm -name a -qmp unix:q,server=on,wait=off");
        assert_eq!(state(&answers), "POWERED_ON", "the pid is of another process");
        let machine = &read_all(&fixture, &answers)[0];
        assert_eq!(machine.properties["qemu"]["qmp_socket"], directory.path().join("q").to_str().unwrap());
    }
}
