//! The processors, counted as `lscpu` counts them.

use std::collections::{BTreeSet, HashMap};

use crate::tree::Tree;

/// The processors of the machine.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    /// The name the processor gives itself; ARM processors give none.
    pub(crate) model: Option<String>,
    pub(crate) sockets: Option<u64>,
    /// Cores of all sockets together.
    pub(crate) cores: Option<u64>,
    /// Logical processors that are online.
    pub(crate) threads: Option<u64>,
    /// The rate the processor is built for; see [`rate_mhz`].
    pub(crate) rate_mhz: Option<u64>,
}

pub(crate) fn read(tree: &Tree) -> Cpu {
    let cpuinfo = tree.text("proc/cpuinfo").unwrap_or_default();
    let first = first_block(&cpuinfo);
    let online = match tree.text("sys/devices/system/cpu/online") {
        Some(list) => parse_cpu_list(&list),
        None => cpuinfo.lines().filter_map(|line| value_of(line, "processor")?.parse().ok()).collect(),
    };
    let (sockets, cores) = topology(tree, &online, &cpuinfo);
    let model = ["model name", "cpu model", "cpu"].iter().find_map(|key| first.get(key)).map(|name| name.to_string());
    Cpu {
        rate_mhz: rate_mhz(tree, &online, &first),
        model,
        sockets,
        cores,
        threads: (!online.is_empty()).then_some(online.len() as u64),
    }
}

/// The number of NUMA nodes, unless the kernel was built without NUMA.
pub(crate) fn numa_nodes(tree: &Tree) -> Option<u64> {
    let is_node = |name: &String| name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok());
    let nodes = tree.names("sys/devices/system/node").iter().filter(|name| is_node(name)).count() as u64;
    (nodes > 0).then_some(nodes)
}

/// Sockets and cores: the distinct sets of siblings of the processors that are online.
///
/// `lscpu` does the same; counting the ids instead is wrong where core ids repeat in each socket. Without the sets
/// (old kernels in containers) the ids of `/proc/cpuinfo` are all there is.
fn topology(tree: &Tree, online: &[u32], cpuinfo: &str) -> (Option<u64>, Option<u64>) {
    let mut packages = BTreeSet::new();
    let mut cores = BTreeSet::new();
    for cpu in online {
        let directory = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        let siblings = |names: [&str; 2]| names.iter().find_map(|name| tree.text(format!("{directory}/{name}")));
        packages.extend(siblings(["core_siblings_list", "package_cpus_list"]));
        cores.extend(siblings(["thread_siblings_list", "core_cpus_list"]));
    }
    if packages.is_empty() || cores.is_empty() {
        packages.clear();
        cores.clear();
        for block in cpuinfo.split("\n\n") {
            let find = |key| block.lines().find_map(|line| value_of(line, key));
            if let (Some(package), Some(core)) = (find("physical id"), find("core id")) {
                packages.insert(package.to_owned());
                cores.insert(format!("{package}/{core}"));
            }
        }
    }
    let count = |set: &BTreeSet<String>| (!set.is_empty()).then_some(set.len() as u64);
    (count(&packages), count(&cores))
}

/// A rate in MHz that does not change while the machine runs.
///
/// The current rate (`cpu MHz`) moves all the time and is never used. In this order: the highest rate that frequency
/// scaling knows, the one in the model's name (`… @ 2.60GHz`), POWER's nominal `clock`, and on x86 with an invariant
/// time stamp counter the counter's rate, which is half of the `bogomips`. That one is calibrated anew at each boot, so
/// it is rounded to 10 MHz.
fn rate_mhz(tree: &Tree, online: &[u32], first: &HashMap<&str, &str>) -> Option<u64> {
    let scaling_khz =
        |cpu: &u32| tree.number::<u64>(format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq"));
    if let Some(max_khz) = online.iter().filter_map(scaling_khz).max().filter(|khz| *khz > 0) {
        return Some((max_khz + 500) / 1000);
    }
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| (0.01..1e6).contains(number));
    let named = first.get("model name").and_then(|name| name.rsplit_once('@')).map(|(_, rate)| rate.trim());
    if let Some(ghz) = named.and_then(|rate| rate.strip_suffix("GHz")).and_then(number) {
        return Some((ghz * 1000.0).round() as u64);
    }
    if let Some(mhz) = first.get("clock").and_then(|rate| rate.strip_suffix("MHz")).and_then(number) {
        return Some(mhz.round() as u64);
    }
    let is_invariant = first.get("flags")?.split(' ').any(|flag| flag == "constant_tsc");
    let mhz = number(first.get("bogomips")?)? / 2.0;
    is_invariant.then_some((mhz / 10.0).round() as u64 * 10).filter(|mhz| *mhz > 0)
}

/// The first processor's lines, and on machines that print the common ones apart (POWER, s390) those too.
fn first_block(cpuinfo: &str) -> HashMap<&str, &str> {
    let mut first = HashMap::new();
    for (key, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
        first.entry(key.trim()).or_insert(value.trim());
    }
    first
}

fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    (found.trim() == key).then_some(value.trim())
}

/// The numbers of a list as `0-3,8`. A number above any real machine's makes the range empty, not huge.
fn parse_cpu_list(list: &str) -> Vec<u32> {
    const CPU_MAX: u32 = 1 << 16;
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>())
            && last < CPU_MAX
        {
            cpus.extend(first..=last);
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    /// Two sockets of two cores of two threads, whose core ids repeat in each socket.
    fn two_sockets() -> Fixture {
        let fixture = Fixture::new(&[("sys/devices/system/cpu/online", "0-7\n")]);
        for (cpu, core, package) in [
            (0, "0,4", "0-1,4-5"),
            (1, "1,5", "0-1,4-5"),
            (2, "2,6", "2-3,6-7"),
            (3, "3,7", "2-3,6-7"),
            (4, "0,4", "0-1,4-5"),
            (5, "1,5", "0-1,4-5"),
            (6, "2,6", "2-3,6-7"),
            (7, "3,7", "2-3,6-7"),
        ] {
            let directory = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            fixture.write(&format!("{directory}/thread_siblings_list"), core);
            fixture.write(&format!("{directory}/core_siblings_list"), package);
        }
        fixture
    }

    #[test]
    fn sockets_and_cores_are_distinct_sets_of_siblings() {
        let fixture = two_sockets();
        let cpu = read(&fixture.tree());
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (Some(2), Some(4), Some(8)));
        fixture.write("sys/devices/system/cpu/online", "0-1\n");
        let cpu = read(&fixture.tree());
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (Some(1), Some(2), Some(2)));
    }

    #[test]
    fn without_sysfs_the_ids_of_cpuinfo_are_counted() {
        let block = |cpu, package, core| format!("processor\t: {cpu}\nphysical id\t: {package}\ncore id\t\t: {core}\n");
        let cpuinfo = [block(0, 0, 0), block(1, 0, 1), block(2, 1, 0), block(3, 1, 1)].join("\n");
        let cpu = read(&Fixture::new(&[("proc/cpuinfo", &cpuinfo)]).tree());
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (Some(2), Some(4), Some(4)));
    }

    #[test]
    fn nothing_is_known_of_an_empty_tree() {
        assert_eq!(read(&Fixture::new(&[]).tree()), Cpu::default());
        assert_eq!(numa_nodes(&Fixture::new(&[]).tree()), None);
    }

    #[test]
    fn the_rate_is_one_that_does_not_move() {
        fn check(files: &[(&str, &str)], expected: Option<u64>) {
            let fixture = Fixture::new(files);
            fixture.write("sys/devices/system/cpu/online", "0-1");
            assert_eq!(read(&fixture.tree()).rate_mhz, expected, "{files:?}");
        }
        let max = ("sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq", "4200000\n");
        let named = ("proc/cpuinfo", "model name : Intel(R) Xeon(R) CPU @ 2.60GHz\ncpu MHz : 1234.5\n");
        check(&[max, named], Some(4200));
        check(&[named], Some(2600));
        check(&[("proc/cpuinfo", "flags : fpu constant_tsc\nbogomips : 5192.24\ncpu MHz : 3000.1\n")], Some(2600));
        check(&[("proc/cpuinfo", "flags : fpu tsc\nbogomips : 5192.24\n")], None);
        check(&[("proc/cpuinfo", "BogoMIPS : 50.00\nCPU architecture: 8\n")], None);
        check(&[("proc/cpuinfo", "cpu : POWER9\nclock : 3425.000000MHz\n")], Some(3425));
        check(&[("proc/cpuinfo", "flags : constant_tsc\nbogomips : nonsense\n")], None);
        check(&[("proc/cpuinfo", "flags : constant_tsc\nbogomips : 1e300\n")], None);
    }

    #[test]
    fn cpu_lists() {
        fn check(list: &str, expected: &[u32]) {
            assert_eq!(parse_cpu_list(list), expected, "{list}");
        }
        check("0", &[0]);
        check("0-3,8\n", &[0, 1, 2, 3, 8]);
        check("", &[]);
        check("3-1", &[]);
        check("0-4294967295", &[]);
        check("x,2", &[2]);
    }

    #[test]
    fn numa_nodes_are_counted() {
        let fixture = Fixture::new(&[
            ("sys/devices/system/node/node0/cpulist", "0"),
            ("sys/devices/system/node/node1/cpulist", "1"),
            ("sys/devices/system/node/possible", "0-1"),
        ]);
        assert_eq!(numa_nodes(&fixture.tree()), Some(2));
    }
}
