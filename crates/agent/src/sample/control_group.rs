//! The limits that control groups put on a VM.
//!
//! A limit may stand at any level: on the VM's own group, on one above for many VMs, or, as libvirt does it, on a group below
//! for each virtual processor. So processors are summed from the leaves up, and at each group cut to its quota.

use std::collections::BTreeMap;

use crate::tree::Tree;

/// Limits of version 1 above this are none: the kernel rounds "no limit" to a page below 2^63.
const MEMORY_BYTES_MAX: u64 = 1 << 60;

/// What a VM may use at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Limits {
    /// Processors' worth of time; none without a limit below the number of virtual processors.
    pub(crate) cpus: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
}

/// The limits of a process with so many virtual processors, whose threads are `threads` as far as they are known.
pub(crate) fn limits(tree: &Tree, pid: u32, threads: &[u32], vcpus: u64) -> Limits {
    let Some(own) = tree.text(format!("proc/{pid}/cgroup")) else { return Limits::default() };
    Limits { cpus: cpu_limit(tree, pid, &own, threads, vcpus), memory_bytes: memory_limit(tree, &own) }
}

/// Where a hierarchy is mounted, and which version it is.
struct Hierarchy {
    root: String,
    is_unified: bool,
}

impl Hierarchy {
    /// The hierarchy that has a controller, of one that `groups`, the content of a `cgroup` file, is in.
    fn of(tree: &Tree, groups: &str, controller: &str) -> Option<(Self, String)> {
        let lines = || {
            groups.lines().filter_map(|line| {
                let (_, rest) = line.split_once(':')?;
                rest.split_once(':')
            })
        };
        // A path above the root of one's own namespace cannot be followed.
        let is_inside = |path: &&str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
        let has = |names: &str| names.split(',').any(|name| name == controller);
        if let Some((names, path)) = lines().find(|(names, _)| has(names)) {
            let mounts = [controller.to_owned(), names.to_owned()];
            let root = mounts.into_iter().map(|name| format!("sys/fs/cgroup/{name}")).find(|root| tree.exists(root))?;
            return Some((Self { root, is_unified: false }, is_inside(&path).then(|| path.to_owned())?));
        }
        let (_, path) = lines().find(|(names, _)| names.is_empty())?;
        let roots = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
        let root = roots.into_iter().find(|root| tree.exists(format!("{root}/cgroup.controllers")))?;
        Some((Self { root: root.to_owned(), is_unified: true }, is_inside(&path).then(|| path.to_owned())?))
    }

    /// The processors' worth of time of a group; none without a quota.
    fn quota(&self, tree: &Tree, group: &str) -> Option<f64> {
        let directory = format!("{}{group}", self.root);
        let (quota, period) = if self.is_unified {
            let text = tree.text(format!("{directory}/cpu.max"))?;
            let (quota, period) = text.split_once(' ')?;
            (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
        } else {
            let number = |name: &str| tree.number::<f64>(format!("{directory}/{name}"));
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    }

    fn memory_bytes(&self, tree: &Tree, group: &str) -> Option<u64> {
        let name = if self.is_unified { "memory.max" } else { "memory.limit_in_bytes" };
        tree.number::<u64>(format!("{}{group}/{name}", self.root)).filter(|bytes| *bytes < MEMORY_BYTES_MAX)
    }
}

/// The group above; none above the root.
fn parent(group: &str) -> Option<&str> {
    let (above, name) = group.rsplit_once('/')?;
    (!name.is_empty()).then_some(above)
}

fn cpu_limit(tree: &Tree, pid: u32, own: &str, threads: &[u32], vcpus: u64) -> Option<f64> {
    let (hierarchy, own_group) = Hierarchy::of(tree, own, "cpu")?;
    // By depth and name, so that the deepest comes last.
    let mut groups: BTreeMap<(usize, String), f64> = BTreeMap::new();
    let key = |group: &str| (group.matches('/').count(), group.trim_end_matches('/').to_owned());
    for thread in threads {
        let of_thread = tree.text(format!("proc/{pid}/task/{thread}/cgroup"));
        let group = of_thread.and_then(|text| Some(Hierarchy::of(tree, &text, "cpu")?.1));
        *groups.entry(key(&group.unwrap_or_else(|| own_group.clone()))).or_default() += 1.0;
    }
    if groups.is_empty() {
        groups.insert(key(&own_group), vcpus as f64);
    }
    let wanted: f64 = groups.values().sum();
    while let Some(((_, group), cpus)) = groups.pop_last() {
        let cpus = hierarchy.quota(tree, &group).map_or(cpus, |quota| quota.min(cpus));
        match parent(&group) {
            Some(above) => *groups.entry(key(above)).or_default() += cpus,
            None => return (cpus < wanted).then_some(cpus),
        }
    }
    None
}

fn memory_limit(tree: &Tree, own: &str) -> Option<u64> {
    let (hierarchy, group) = Hierarchy::of(tree, own, "memory")?;
    let group = group.trim_end_matches('/');
    let groups = std::iter::successors(Some(group), |group| parent(group));
    groups.filter_map(|group| hierarchy.memory_bytes(tree, group)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    fn check(files: &[(&str, &str)], threads: &[u32], cpus: Option<f64>, memory_bytes: Option<u64>) {
        let found = limits(&Fixture::new(files).tree(), 10, threads, 4);
        assert_eq!(found, Limits { cpus, memory_bytes }, "{files:?}");
    }

    #[test]
    fn the_unified_hierarchy() {
        let root = ("sys/fs/cgroup/cgroup.controllers", "cpu memory");
        let own = ("proc/10/cgroup", "0::/machine.slice/vm.scope\n");
        check(&[root, own], &[], None, None);
        check(&[root, ("proc/10/cgroup", "0::/")], &[], None, None);
        let free = ("sys/fs/cgroup/machine.slice/vm.scope/cpu.max", "max 100000\n");
        check(&[root, own, free], &[], None, None);
        let quota = ("sys/fs/cgroup/machine.slice/vm.scope/cpu.max", "150000 100000\n");
        check(&[root, own, quota], &[], Some(1.5), None);
        let above = ("sys/fs/cgroup/machine.slice/cpu.max", "50000 100000\n");
        check(&[root, own, quota, above], &[], Some(0.5), None);
        let memory = ("sys/fs/cgroup/machine.slice/vm.scope/memory.max", "max\n");
        let memory_above = ("sys/fs/cgroup/machine.slice/memory.max", "1073741824\n");
        check(&[root, own, memory, memory_above], &[], None, Some(1 << 30));
        check(&[root, ("proc/10/cgroup", "0::/../../other\n")], &[], None, None);
    }

    #[test]
    fn quotas_of_each_virtual_processor_add_up() {
        let files = [
            ("sys/fs/cgroup/cgroup.controllers", "cpu"),
            ("proc/10/cgroup", "0::/vm/libvirt/emulator\n"),
            ("proc/10/task/11/cgroup", "0::/vm/libvirt/vcpu0\n"),
            ("proc/10/task/12/cgroup", "0::/vm/libvirt/vcpu1\n"),
            ("sys/fs/cgroup/vm/libvirt/vcpu0/cpu.max", "25000 100000\n"),
            ("sys/fs/cgroup/vm/libvirt/vcpu1/cpu.max", "200000 100000\n"),
            ("sys/fs/cgroup/vm/cpu.max", "max 100000\n"),
        ];
        check(&files, &[11, 12], Some(1.25), None);
    }

    #[test]
    fn version_one() {
        let files = [
            ("proc/10/cgroup", "9:name=systemd:/\n4:memory:/vm\n2:cpu,cpuacct:/vm\n0::/\n"),
            ("sys/fs/cgroup/cpu,cpuacct/vm/cpu.cfs_quota_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/vm/cpu.cfs_period_us", "50000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/memory/vm/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        check(&files, &[], Some(2.0), Some(512 << 20));
        check(&[("proc/10/cgroup", "torn"), ("proc/11/cgroup", "")], &[], None, None);
    }
}
