//! What the kernel tells of the whole host, source by source.

use std::collections::HashMap;

use super::kernel_files::{
    Disk, FileSystems, Interface, Links, Load, Memory, Paging, Stat, Tcp, parse_pressure_us, parse_run_delay_ns,
};
use super::needs::Needs;
use super::part::Part;
use super::sensors::{Package, Sensors};
use crate::host::{cpu, nics};
use crate::tree::Tree;

/// The host at a time. A part is there if it was needed and the kernel has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostReading {
    pub(crate) clock_mhz: Option<u64>,
    pub(crate) stat: Option<Part<Stat>>,
    pub(crate) load: Option<Part<Load>>,
    /// Nanoseconds that runnable tasks have waited, of all processors.
    pub(crate) run_delay_ns: Option<Part<u64>>,
    /// Microseconds in which some task was stalled.
    pub(crate) pressure_cpu_us: Option<Part<u64>>,
    pub(crate) pressure_memory_us: Option<Part<u64>>,
    pub(crate) pressure_io_us: Option<Part<u64>>,
    pub(crate) memory: Option<Part<Memory>>,
    pub(crate) paging: Option<Part<Paging>>,
    pub(crate) disks: Option<Part<Vec<Disk>>>,
    pub(crate) file_systems: Option<Part<FileSystems>>,
    /// By name.
    pub(crate) interfaces: Option<Part<Vec<Interface>>>,
    pub(crate) links: Option<Part<Links>>,
    pub(crate) tcp: Option<Part<Tcp>>,
    pub(crate) packages: Option<Part<Vec<Package>>>,
    pub(crate) power_limit_watts: Option<f64>,
    pub(crate) temperature_celsius: Option<f64>,
    pub(crate) uptime_s: Option<f64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) vm_count: Option<usize>,
    pub(crate) vm_totals: Option<VmTotals>,
}

impl HostReading {
    /// Takes over the parts that are missing.
    pub(crate) fn complete_by(&mut self, other: &Self) {
        macro_rules! complete {
            ($($part:ident),* $(,)?) => { $( if self.$part.is_none() { self.$part.clone_from(&other.$part); } )* };
        }
        complete!(
            clock_mhz,
            stat,
            load,
            run_delay_ns,
            pressure_cpu_us,
            pressure_memory_us,
            pressure_io_us,
            memory,
            paging,
            disks,
            file_systems,
            interfaces,
            links,
            tcp,
            packages,
            power_limit_watts,
            temperature_celsius,
            uptime_s,
            open_files,
            vm_count,
            vm_totals,
        );
    }

    /// The sources that are there.
    pub(crate) fn present(&self) -> Needs {
        let memory = self.memory.as_ref().map(|part| &part.value);
        let disks = self.disks.as_ref().map(|part| part.value.as_slice()).unwrap_or_default();
        let all = [
            (self.clock_mhz.is_some(), Needs::CLOCK),
            (self.stat.is_some(), Needs::STAT),
            (self.load.is_some(), Needs::LOAD),
            (self.run_delay_ns.is_some(), Needs::RUN_DELAY),
            (self.pressure_cpu_us.is_some(), Needs::PRESSURE_CPU),
            (self.pressure_memory_us.is_some(), Needs::PRESSURE_MEMORY),
            (self.pressure_io_us.is_some(), Needs::PRESSURE_IO),
            (memory.is_some(), Needs::MEMORY),
            (memory.is_some_and(|memory| memory.available.is_some()), Needs::AVAILABLE),
            (self.paging.is_some(), Needs::PAGING),
            (self.disks.is_some(), Needs::DISKS),
            (disks.iter().any(|disk| disk.flushes.is_some()), Needs::FLUSHES),
            (self.file_systems.is_some(), Needs::FILE_SYSTEMS),
            (self.interfaces.is_some(), Needs::INTERFACES),
            (self.links.is_some(), Needs::LINKS),
            (self.tcp.is_some(), Needs::TCP),
            (self.packages.is_some(), Needs::ENERGY),
            (self.power_limit_watts.is_some(), Needs::POWER_LIMIT),
            (self.temperature_celsius.is_some(), Needs::TEMPERATURE),
            (self.uptime_s.is_some(), Needs::UPTIME),
            (self.open_files.is_some(), Needs::FILES),
            (self.vm_count.is_some(), Needs::VMS),
            (self.vm_totals.is_some(), Needs::VM_TOTALS),
        ];
        all.into_iter().filter(|(is_there, _)| *is_there).fold(Needs::NONE, |present, (_, need)| present | need)
    }
}

/// What QEMU processes hold together, in KiB.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct VmTotals {
    pub(crate) held_kib: u64,
    pub(crate) anonymous_kib: u64,
}

/// Reads the host, and remembers what does not change.
#[derive(Debug)]
pub(crate) struct HostSource {
    clock_mhz: Option<u64>,
    sensors: Sensors,
    /// Whether a block device is a physical disk.
    disks: HashMap<String, bool>,
    /// Whether an interface is the host's own way out.
    interfaces: HashMap<String, bool>,
}

impl HostSource {
    pub(crate) fn new(tree: &Tree) -> Self {
        Self {
            clock_mhz: cpu::read(tree).rate_mhz,
            sensors: Sensors::find(tree),
            disks: HashMap::new(),
            interfaces: HashMap::new(),
        }
    }

    /// Reads what is needed. Counts of VMs are the caller's to fill in.
    pub(crate) fn read(&mut self, tree: &Tree, needs: Needs, buffer: &mut Vec<u8>) -> HostReading {
        let mut parsed = Parsed { tree, needs, buffer };
        let mut reading = HostReading {
            clock_mhz: self.clock_mhz,
            stat: parsed.part(Needs::STAT, "proc/stat", Stat::parse),
            load: parsed.part(Needs::LOAD, "proc/loadavg", Load::parse),
            run_delay_ns: parsed.part(Needs::RUN_DELAY, "proc/schedstat", parse_run_delay_ns),
            pressure_cpu_us: parsed.part(Needs::PRESSURE_CPU, "proc/pressure/cpu", parse_pressure_us),
            pressure_memory_us: parsed.part(Needs::PRESSURE_MEMORY, "proc/pressure/memory", parse_pressure_us),
            pressure_io_us: parsed.part(Needs::PRESSURE_IO, "proc/pressure/io", parse_pressure_us),
            memory: parsed.part(Needs::MEMORY.and(Needs::AVAILABLE), "proc/meminfo", Memory::parse),
            paging: parsed.part(Needs::PAGING, "proc/vmstat", Paging::parse),
            tcp: parsed.part(Needs::TCP, "proc/net/snmp", Tcp::parse),
            uptime_s: parsed.value(Needs::UPTIME, "proc/uptime", |text| text.split(' ').next()?.trim().parse().ok()),
            open_files: parsed
                .value(Needs::FILES, "proc/sys/fs/file-nr", |text| text.split_ascii_whitespace().next()?.parse().ok()),
            disks: parsed.part(Needs::DISKS.and(Needs::FLUSHES), "proc/diskstats", |text| {
                Some(physical_disks(tree, text, &mut self.disks))
            }),
            interfaces: parsed.part(Needs::INTERFACES.and(Needs::LINKS), "proc/net/dev", |text| {
                Some(interfaces(tree, text, &mut self.interfaces))
            }),
            ..HostReading::default()
        };
        if needs.has(Needs::LINKS) {
            reading.links = reading.interfaces.as_ref().map(|part| Part::now(Links::read(tree, part.value.as_slice())));
        }
        if needs.has(Needs::FILE_SYSTEMS) {
            reading.file_systems = FileSystems::read(tree).map(Part::now);
        }
        if needs.has(Needs::ENERGY) {
            reading.packages = self.sensors.packages(tree).map(Part::now);
        }
        if needs.has(Needs::POWER_LIMIT) {
            reading.power_limit_watts = self.sensors.power_limit_watts(tree);
        }
        if needs.has(Needs::TEMPERATURE) {
            reading.temperature_celsius = self.sensors.temperature_celsius(tree);
        }
        reading
    }
}

/// Reads files if they are needed.
struct Parsed<'a> {
    tree: &'a Tree,
    needs: Needs,
    buffer: &'a mut Vec<u8>,
}

impl Parsed<'_> {
    fn value<T>(&mut self, any_of: Needs, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        if !self.needs.has_any(any_of) {
            return None;
        }
        parse(self.tree.text_into(path, self.buffer)?)
    }

    fn part<T>(&mut self, any_of: Needs, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Part<T>> {
        self.value(any_of, path, |text| parse(text).map(Part::now))
    }
}

/// The physical disks: block devices with a device behind them, not what is made of others, and no removable media.
fn physical_disks(tree: &Tree, diskstats: &str, known: &mut HashMap<String, bool>) -> Vec<Disk> {
    let mut is_physical = |name: &str| {
        if let Some(is_physical) = known.get(name) {
            return *is_physical;
        }
        // In sysfs a slash in a device's name is written as an exclamation mark. Partitions are not there.
        let directory = format!("sys/block/{}", name.replace('/', "!"));
        let is_disk = !matches!(tree.number::<u8>(format!("{directory}/device/type")), Some(1 | 4 | 5 | 7));
        let is_path = tree.flag(format!("{directory}/hidden")) == Some(true);
        let is_physical = tree.exists(format!("{directory}/device")) && is_disk && !is_path;
        known.insert(name.to_owned(), is_physical);
        is_physical
    };
    diskstats.lines().filter_map(|line| Disk::parse(line, &mut is_physical)).collect()
}

/// All interfaces. Physical are those with a device behind them or, where there is none, as in a container, the one with the
/// default route. A bond or bridge of devices would count their traffic twice.
fn interfaces(tree: &Tree, dev: &str, known: &mut HashMap<String, bool>) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = dev.lines().skip(2).filter_map(Interface::parse).collect();
    interfaces.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let is_known = |interface: &Interface| known.contains_key(&interface.name);
    if interfaces.len() != known.len() || !interfaces.iter().all(is_known) {
        known.clear();
        let is_device = |name: &str| tree.exists(format!("sys/class/net/{name}/device"));
        known.extend(interfaces.iter().map(|interface| (interface.name.clone(), is_device(&interface.name))));
        if !known.values().any(|is_physical| *is_physical)
            && let Some(routed) = nics::default_interface(tree)
        {
            known.entry(routed).and_modify(|is_physical| *is_physical = true);
        }
    }
    for interface in &mut interfaces {
        interface.is_physical = known.get(&interface.name).copied().unwrap_or(false);
    }
    interfaces
}
