//! QEMU processes of the machine, found in `/proc`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::cmdline::Arguments;
use super::guest::is_enquiry;
use crate::tree::Tree;

/// One QEMU process that runs a guest.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// Start time in clock ticks since the machine was started. With the pid it names the process for good.
    pub(crate) started_ticks: u64,
    /// The file name of the binary.
    pub(crate) program: String,
    /// The arguments after the program.
    pub(crate) command: Vec<String>,
    pub(crate) arguments: Arguments,
    /// The working directory, unless it may not be read.
    pub(crate) directory: Option<PathBuf>,
}

/// What a process holds open, as far as it may be read.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    /// The inode of each socket, by the number of its descriptor.
    pub(crate) sockets: BTreeMap<u32, u64>,
    /// The names of its TAP interfaces.
    pub(crate) tap_interfaces: Vec<String>,
    /// Whether it holds a virtual machine of KVM; unknown if nothing could be read.
    pub(crate) has_kvm: Option<bool>,
}

/// All QEMU processes that run a guest, the oldest first. What ends while it is read is left out.
pub(crate) fn find(tree: &Tree) -> Vec<Process> {
    let pids = tree.names("proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
    let mut processes: Vec<Process> = pids.filter_map(|pid| read(tree, pid)).collect();
    processes.sort_unstable_by_key(|process| (process.started_ticks, process.pid));
    let forks = forks(processes.iter());
    processes.retain(|process| !forks.contains(&process.pid));
    processes
}

/// The pids of those that are no guests of their own: between fork and exec, and while it becomes a daemon, a QEMU is there
/// twice.
pub(crate) fn forks<'a>(processes: impl Iterator<Item = &'a Process> + Clone) -> Vec<u32> {
    let is_fork = |process: &&Process| {
        processes.clone().any(|other| other.pid == process.parent && other.command == process.command)
    };
    processes.clone().filter(is_fork).map(|process| process.pid).collect()
}

/// The process of that pid, if it is a QEMU that runs a guest.
pub(crate) fn read(tree: &Tree, pid: u32) -> Option<Process> {
    // Most processes are ruled out by one readlink. The link of another user's process cannot be read without
    // privileges; then the first argument must do.
    let executable = tree.link_name(format!("proc/{pid}/exe"));
    let executable = executable.as_deref().map(|name| name.trim_end_matches(" (deleted)"));
    if executable.is_some_and(|name| !is_qemu(name)) {
        return None;
    }
    // A process that has ended and is not reaped yet has no command line.
    let command_line = tree.bytes(format!("proc/{pid}/cmdline"))?;
    let text = String::from_utf8_lossy(&command_line);
    let mut words = text.strip_suffix('\0')?.split('\0').map(str::to_owned);
    let first = words.next()?;
    let program =
        executable.or_else(|| Path::new(&first).file_name()?.to_str()).filter(|name| is_qemu(name))?.to_owned();
    let command: Vec<String> = words.collect();
    let arguments = Arguments::parse(&command);
    if is_enquiry(&arguments) {
        return None;
    }
    let (parent, started_ticks) = parse_stat(&tree.text(format!("proc/{pid}/stat"))?)?;
    let directory = tree.link(format!("proc/{pid}/cwd"));
    Some(Process { pid, parent, started_ticks, program, command, arguments, directory })
}

fn is_qemu(name: &str) -> bool {
    name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm"
}

/// The parent and the start time of a process that has not ended. The name in parentheses can hold anything, so fields
/// are counted from its end.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let has_ended = matches!(*fields.first()?, "Z" | "X" | "x");
    let parent = fields.get(1)?.parse().ok()?;
    let started_ticks = fields.get(19)?.parse().ok()?;
    (!has_ended).then_some((parent, started_ticks))
}

impl Process {
    /// A path of the command line, absolute in the process's own view.
    pub(crate) fn absolute(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path);
        if path.is_absolute() { Some(path.to_owned()) } else { Some(self.directory.as_ref()?.join(path)) }
    }

    /// Where the collector finds a path of the command line. A process in a container has another root, and a working
    /// directory can have been moved, so it goes through the process where that may be read.
    pub(crate) fn reach(&self, tree: &Tree, path: &str) -> PathBuf {
        let pid = self.pid;
        let Some(below_root) = path.strip_prefix('/') else { return tree.path(format!("proc/{pid}/cwd/{path}")) };
        let through_process = format!("proc/{pid}/root");
        let root = if tree.link(&through_process).is_some() { tree.path(through_process) } else { tree.path("") };
        root.join(below_root.trim_start_matches('/'))
    }

    pub(crate) fn descriptors(&self, tree: &Tree) -> Descriptors {
        let mut descriptors = Descriptors::default();
        for name in tree.names(format!("proc/{}/fd", self.pid)) {
            let Some(target) = tree.link(format!("proc/{}/fd/{name}", self.pid)) else { continue };
            let (Ok(number), Some(target)) = (name.parse::<u32>(), target.to_str()) else { continue };
            let has_kvm = descriptors.has_kvm.get_or_insert(false);
            if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                descriptors.sockets.extend(inode.parse().ok().map(|inode| (number, inode)));
            } else if target == "anon_inode:kvm-vm" {
                *has_kvm = true;
            } else if target == "/dev/net/tun" {
                descriptors.tap_interfaces.extend(self.tap_interface(tree, number));
            }
        }
        descriptors.tap_interfaces.sort_unstable();
        descriptors.tap_interfaces.dedup();
        descriptors
    }

    fn tap_interface(&self, tree: &Tree, descriptor: u32) -> Option<String> {
        let info = tree.text(format!("proc/{}/fdinfo/{descriptor}", self.pid))?;
        let name = info.lines().find_map(|line| line.strip_prefix("iff:"))?.trim();
        (!name.is_empty()).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    fn add(fixture: &Fixture, pid: u32, parent: u32, started_ticks: u64, command: &str) {
        let command_line = command.replace(' ', "\0") + "\0";
        fixture.write(&format!("proc/{pid}/cmdline"), if command.is_empty() { "" } else { &command_line });
        let stat = format!("{pid} (a) b) (c) S {parent} 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 5 0 {started_ticks} 1 1");
        fixture.write(&format!("proc/{pid}/stat"), stat);
    }

    fn pids(fixture: &Fixture) -> Vec<u32> {
        find(&fixture.tree()).iter().map(|process| process.pid).collect()
    }

    #[test]
    fn qemu_processes_are_found_oldest_first() {
        let fixture = Fixture::new(&[("proc/self/stat", ""), ("proc/11/stat", "torn")]);
        add(&fixture, 10, 1, 500, "/usr/bin/qemu-system-x86_64 -m 64");
        add(&fixture, 20, 1, 400, "/usr/libexec/qemu-kvm -name b");
        add(&fixture, 30, 1, 300, "/usr/bin/kvm -name c");
        add(&fixture, 40, 1, 200, "vim /usr/bin/kvm");
        add(&fixture, 50, 1, 100, "qemu-img convert a b");
        add(&fixture, 60, 1, 100, "");
        add(&fixture, 70, 1, 600, "qemu-system-aarch64 -machine none -qmp stdio");
        assert_eq!(pids(&fixture), [30, 20, 10]);
    }

    #[test]
    fn the_executable_counts_more_than_what_a_process_calls_itself() {
        let fixture = Fixture::new(&[]);
        add(&fixture, 10, 1, 1, "kvm -name shell-script");
        fixture.link("proc/10/exe", "/bin/bash");
        add(&fixture, 20, 1, 2, "a-name-of-its-own -m 64");
        fixture.link("proc/20/exe", "/usr/bin/qemu-system-x86_64 (deleted)");
        assert_eq!(pids(&fixture), [20]);
        assert_eq!(find(&fixture.tree())[0].program, "qemu-system-x86_64");
    }

    #[test]
    fn forks_are_not_guests() {
        let fixture = Fixture::new(&[]);
        add(&fixture, 10, 1, 1, "qemu-system-x86_64 -name a");
        add(&fixture, 20, 10, 2, "qemu-system-x86_64 -name a");
        add(&fixture, 30, 10, 3, "qemu-system-x86_64 -name started-by-a");
        assert_eq!(pids(&fixture), [10, 30]);
    }

    #[test]
    fn what_has_ended_or_is_torn_is_left_out() {
        fn check(stat: &str, expected: Option<(u32, u64)>) {
            assert_eq!(parse_stat(stat), expected, "{stat}");
        }
        check("5 (q) S 4 5 5 0 -1 4 0 0 0 0 0 0 0 0 20 0 5 0 777 1 1", Some((4, 777)));
        check("5 (q) Z 4 5 5 0 -1 4 0 0 0 0 0 0 0 0 20 0 5 0 777 1 1", None);
        check("5 (q) S 4 5 5", None);
        check("5 (q", None);
        check("", None);
    }

    #[test]
    fn descriptors_tell_of_kvm_taps_and_sockets() {
        let fixture = Fixture::new(&[("proc/10/fdinfo/7", "pos:\t0\nflags:\t0104002\niff:\tvnet3\n")]);
        add(&fixture, 10, 1, 1, "qemu-system-x86_64");
        assert_eq!(find(&fixture.tree())[0].descriptors(&fixture.tree()).has_kvm, None);
        fixture.link("proc/10/fd/3", "socket:[8836]");
        fixture.link("proc/10/fd/7", "/dev/net/tun");
        fixture.link("proc/10/fd/9", "anon_inode:kvm-vm");
        let descriptors = find(&fixture.tree())[0].descriptors(&fixture.tree());
        assert_eq!(descriptors.sockets, BTreeMap::from([(3, 8836)]));
        assert_eq!(descriptors.tap_interfaces, ["vnet3"]);
        assert_eq!(descriptors.has_kvm, Some(true));
    }
}
