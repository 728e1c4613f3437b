//! The catalogue of counters: what can be sampled, in which units, and what each value means.
//!
//! One table for all who must agree: the service lists it, agents sample by it, clients complete from it. Names are those of
//! `api/vstats.md`, section 6, and its scheme for the rest: `<group>.<aspect>.<measure>`, with the resource type behind it.

use crate::services::stats::counters::{SampleType, Scale, Units};

/// The type of the resource that a counter is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A host.
    Host,
    /// A virtual machine. Its addresses name the host it runs on as well.
    Vm,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Host, Self::Vm];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "HOST",
            Self::Vm => "VM",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The types of identifiers that an address of the kind has, in order: its own first.
    pub const fn address_types(self) -> &'static [ResourceKind] {
        match self {
            Self::Host => &[Self::Host],
            Self::Vm => &[Self::Vm, Self::Host],
        }
    }
}

/// A counter of the catalogue.
#[derive(Debug)]
pub struct Counter {
    /// The id: metric and resource type.
    pub cid: &'static str,
    /// The measurable aspect.
    pub metric: &'static str,
    /// What it is measured of.
    pub kind: ResourceKind,
    /// The units of its values.
    pub units: Units,
    /// What the units are multiplied with.
    pub scale: Scale,
    /// What sort of number it is.
    pub sample: SampleType,
    /// Digits behind the point that mean something: values are rounded to them before they are sent.
    pub decimals: u8,
    /// What it measures, for people.
    pub doc: &'static str,
}

impl Counter {
    /// The id of the counter's metadata: a hash of all that they say, so the same (cid, mid) means the same everywhere.
    pub const fn mid(&self) -> i64 {
        let mut hash = FNV_OFFSET;
        hash = fnv(hash, self.cid.as_bytes());
        hash = fnv(hash, self.units.name().as_bytes());
        hash = fnv(hash, self.scale.name().as_bytes());
        hash = fnv(hash, self.sample.name().as_bytes());
        hash as i64
    }

    /// The value with the digits that mean something.
    pub fn round(&self, value: f64) -> f64 {
        let factor = [1.0, 10.0, 100.0, 1000.0][usize::from(self.decimals.min(3))];
        // A quotient, not a product with 0.01: it is the double nearest to the decimal number, which compresses well.
        (value * factor).round() / factor
    }

    /// The group that the counter belongs to: the first word of its name.
    pub fn group(&self) -> &'static str {
        self.metric.split('.').next().unwrap_or(self.metric)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over the bytes and a mark of their end.
const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i <= bytes.len() {
        let byte = if i < bytes.len() { bytes[i] } else { 0 };
        hash = (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// The counter of that id.
pub fn counter(cid: &str) -> Option<&'static Counter> {
    static BY_CID: std::sync::LazyLock<std::collections::HashMap<&'static str, &'static Counter>> =
        std::sync::LazyLock::new(|| COUNTERS.iter().map(|counter| (counter.cid, counter)).collect());
    BY_CID.get(cid).copied()
}

/// A group of counters of one resource type, e.g. `mem.HOST`: all that begin with the same word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterSet {
    /// The first word of its counters' names.
    pub group: &'static str,
    /// The type of its counters.
    pub kind: ResourceKind,
}

impl CounterSet {
    /// Every set, in the order of the catalogue.
    pub fn all() -> Vec<Self> {
        let mut sets = Vec::new();
        for counter in COUNTERS {
            let set = Self { group: counter.group(), kind: counter.kind };
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
        sets
    }

    /// The set of that id.
    pub fn find(id: &str) -> Option<Self> {
        Self::all().into_iter().find(|set| set.id() == id)
    }

    /// The id, e.g. `mem.HOST`.
    pub fn id(self) -> String {
        format!("{}.{}", self.group, self.kind.name())
    }

    /// Its counters, in the order of the catalogue.
    pub fn counters(self) -> impl Iterator<Item = &'static Counter> {
        COUNTERS.iter().filter(move |counter| counter.kind == self.kind && counter.group() == self.group)
    }
}

macro_rules! counters {
    ($( $kind:ident $type:literal { $( $metric:literal $scale:ident $units:ident $sample:ident $decimals:literal $doc:literal; )* } )*) => {
        &[ $( $( Counter {
            cid: concat!($metric, ".", $type),
            metric: $metric,
            kind: ResourceKind::$kind,
            units: Units::$units,
            scale: Scale::$scale,
            sample: SampleType::$sample,
            decimals: $decimals,
            doc: $doc,
        }, )* )* ]
    };
}

/// Every counter that there is. A rate is the mean since the sample before; `CPU time` of a host is summed over its processors, so that
/// percentages of a host are of all its processors together and those of a VM are of the processors it is given.
pub const COUNTERS: &[Counter] = counters! {
    Host "HOST" {
        "cpu.capacity.provisioned" Mega Hertz Absolute 0 "clock rate of all logical processors together";
        "cpu.capacity.usage" Mega Hertz Rate 0 "the part of that which did work: all CPU time but idle, iowait and steal";
        "cpu.capacity.demand" Mega Hertz Rate 0 "usage and what runnable tasks waited for, from the scheduler's run delay; usage where the kernel does not tell";
        "cpu.capacity.contention" One Percent Fraction 2 "time that runnable tasks waited for a processor, of all processors' time; at most 100";
        "cpu.utilization.usage" One Percent Fraction 2 "CPU time at work";
        "cpu.time.user" One Percent Fraction 2 "CPU time in user space, guests and nice ones not counted";
        "cpu.time.nice" One Percent Fraction 2 "CPU time in user space at low priority";
        "cpu.time.system" One Percent Fraction 2 "CPU time in the kernel";
        "cpu.time.idle" One Percent Fraction 2 "CPU time idle";
        "cpu.time.iowait" One Percent Fraction 2 "CPU time idle while I/O was under way";
        "cpu.time.irq" One Percent Fraction 2 "CPU time in interrupts, soft ones too";
        "cpu.time.steal" One Percent Fraction 2 "CPU time that a hypervisor below gave to others";
        "cpu.time.guest" One Percent Fraction 2 "CPU time that guests ran";
        "cpu.corecount.provisioned" One Number Absolute 0 "logical processors";
        "cpu.corecount.usage" One Number Rate 2 "processors' worth of CPU time at work";
        "cpu.corecount.contention" One Percent Fraction 2 "time in which at least one task waited for a processor (pressure stall information)";
        "cpu.load.minute" One Number Absolute 2 "load average of one minute";
        "cpu.load.fiveminutes" One Number Absolute 2 "load average of five minutes";
        "cpu.load.quarter" One Number Absolute 2 "load average of fifteen minutes";
        "cpu.tasks.running" One Number Absolute 0 "tasks that run or could";
        "cpu.tasks.blocked" One Number Absolute 0 "tasks that wait for I/O";
        "cpu.tasks.total" One Number Absolute 0 "tasks, threads counted";
        "cpu.tasks.forks" One Number Rate 1 "tasks made a second";
        "cpu.switches.usage" One Number Rate 0 "context switches a second";
        "cpu.interrupts.usage" One Number Rate 0 "interrupts a second";

        "mem.capacity.provisioned" Mebi Byte Absolute 1 "memory that the kernel manages";
        "mem.capacity.usable" Mebi Byte Absolute 1 "memory that can be had without swapping, in use or not: available and in use by processes";
        "mem.capacity.usage" Mebi Byte Absolute 1 "memory in use: all but what is available";
        "mem.capacity.available" Mebi Byte Absolute 1 "memory that can be had without swapping";
        "mem.capacity.free" Mebi Byte Absolute 1 "memory that nobody uses for anything";
        "mem.capacity.contention" One Percent Fraction 2 "time in which at least one task waited for memory (pressure stall information)";
        "mem.reservedCapacityPct" One Percent Fraction 2 "memory promised to processes (committed address space), of all; may pass 100";
        "mem.consumed.vms" Mebi Byte Absolute 1 "memory that QEMU processes hold";
        "mem.consumed.userworlds" Mebi Byte Absolute 1 "anonymous memory of all other processes";
        "mem.cache.usage" Mebi Byte Absolute 1 "page cache, without buffers and shared memory";
        "mem.buffers.usage" Mebi Byte Absolute 1 "buffers of block devices";
        "mem.shared.usage" Mebi Byte Absolute 1 "shared memory and tmpfs";
        "mem.anonymous.usage" Mebi Byte Absolute 1 "anonymous memory of processes";
        "mem.slab.usage" Mebi Byte Absolute 1 "memory of the kernel's own objects";
        "mem.pagetables.usage" Mebi Byte Absolute 1 "memory of page tables";
        "mem.dirty.usage" Mebi Byte Absolute 1 "pages that wait to be written to disk";
        "mem.writeback.usage" Mebi Byte Absolute 1 "pages being written to disk";
        "mem.hugepages.usage" Mebi Byte Absolute 1 "reserved huge pages in use";
        "mem.swap.provisioned" Kibi Byte Absolute 0 "swap space";
        "mem.swap.current" Kibi Byte Absolute 0 "swap space in use";
        "mem.swap.target" Kibi Byte Absolute 0 "swap space whose pages are in no cache: what would have to be read back";
        "mem.swap.readrate" Kibi BytesPerSecond Rate 2 "pages swapped in";
        "mem.swap.writerate" Kibi BytesPerSecond Rate 2 "pages swapped out";
        "mem.faults.minor" One Number Rate 0 "page faults a second that needed no I/O";
        "mem.faults.major" One Number Rate 1 "page faults a second that needed I/O";

        "disk.throughput.usage" Kibi BytesPerSecond Rate 2 "read from and written to physical disks";
        "disk.throughput.read" Kibi BytesPerSecond Rate 2 "read from physical disks";
        "disk.throughput.write" Kibi BytesPerSecond Rate 2 "written to physical disks";
        "disk.throughput.contention" Milli Second Rate 2 "mean time that a request to a physical disk took; 0 without requests";
        "disk.requests.read" One Number Rate 1 "reads a second of physical disks";
        "disk.requests.write" One Number Rate 1 "writes a second to physical disks";
        "disk.requests.flush" One Number Rate 1 "flushes a second of physical disks";
        "disk.requests.outstanding" One Number Absolute 0 "requests under way";
        "disk.latency.read" Milli Second Rate 2 "mean time that a read took; 0 without reads";
        "disk.latency.write" Milli Second Rate 2 "mean time that a write took; 0 without writes";
        "disk.utilization.usage" One Percent Fraction 2 "time in which the busiest physical disk had a request under way";
        "disk.capacity.provisioned" Mebi Byte Absolute 0 "size of the file systems on block devices";
        "disk.capacity.usage" Mebi Byte Absolute 0 "space in use on them";
        "disk.capacity.contention" One Percent Fraction 2 "time in which at least one task waited for I/O (pressure stall information)";

        "net.throughput.provisioned" Kibi BytesPerSecond Absolute 0 "link speed of the physical interfaces that are up; 0 where drivers do not tell";
        "net.throughput.usable" Kibi BytesPerSecond Absolute 0 "the same, of those that carry traffic";
        "net.throughput.usage" Kibi BytesPerSecond Rate 2 "received and sent by physical interfaces";
        "net.throughput.receive" Kibi BytesPerSecond Rate 2 "received by physical interfaces";
        "net.throughput.transmit" Kibi BytesPerSecond Rate 2 "sent by physical interfaces";
        "net.throughput.contention" One Number Rate 2 "packets a second that were dropped, in and out";
        "net.packets.receive" One Number Rate 1 "packets received a second";
        "net.packets.transmit" One Number Rate 1 "packets sent a second";
        "net.errors.receive" One Number Rate 2 "packets a second that were received broken";
        "net.errors.transmit" One Number Rate 2 "packets a second that could not be sent";
        "net.tcp.established" One Number Absolute 0 "TCP connections that are open";
        "net.tcp.retransmits" One Number Rate 2 "TCP segments sent again a second";

        "power.capacity.usable" One Watt Absolute 1 "the most that the processors' packages may draw over time, where the kernel tells (RAPL)";
        "power.capacity.usage" One Watt Rate 1 "what the processors' packages drew, where the kernel tells (RAPL)";
        "thermal.cpu.temperature" One Celsius Absolute 1 "the hottest sensor of the processors, where there is one";
        "sys.uptime.current" One Second Absolute 0 "time since the host was started";
        "sys.files.open" One Number Absolute 0 "open files of all processes";
        "sys.vms.running" One Number Absolute 0 "QEMU processes";
    }
    Vm "VM" {
        "cpu.capacity.provisioned" Mega Hertz Absolute 0 "its virtual processors at the host's clock rate";
        "cpu.capacity.entitlement" Mega Hertz Absolute 0 "what it may use: provisioned, or less by the quota of its control group";
        "cpu.capacity.usage" Mega Hertz Rate 0 "CPU time that its process took, at the host's clock rate";
        "cpu.capacity.demand" Mega Hertz Rate 0 "usage and what its threads waited for a processor";
        "cpu.capacity.contention" One Percent Fraction 2 "time that its virtual processors' threads waited for a processor, of their time";
        "cpu.utilization.usage" One Percent Fraction 2 "CPU time of its process, of its virtual processors; may pass 100 by what QEMU itself needs";
        "cpu.time.user" One Percent Fraction 2 "CPU time of its process in user space, of its virtual processors";
        "cpu.time.system" One Percent Fraction 2 "CPU time of its process in the kernel, of its virtual processors";
        "cpu.time.guest" One Percent Fraction 2 "CPU time in the guest (KVM only), of its virtual processors";
        "cpu.corecount.provisioned" One Number Absolute 0 "virtual processors";
        "cpu.threads.total" One Number Absolute 0 "threads of its process";
        "cpu.switches.usage" One Number Rate 0 "context switches a second of its process";

        "mem.capacity.provisioned" Mebi Byte Absolute 1 "memory of the guest";
        "mem.capacity.entitlement" Mebi Byte Absolute 1 "what it may use: provisioned, or less by its balloon or control group";
        "mem.capacity.usage" Mebi Byte Absolute 1 "memory of the host that its process holds";
        "mem.capacity.shared" Mebi Byte Absolute 1 "of that, what is shared with others";
        "mem.swap.current" Kibi Byte Absolute 0 "what of its process is swapped out";
        "mem.faults.minor" One Number Rate 0 "page faults a second that needed no I/O";
        "mem.faults.major" One Number Rate 1 "page faults a second that needed I/O";

        "disk.throughput.usage" Kibi BytesPerSecond Rate 2 "read from and written to its disks";
        "disk.throughput.read" Kibi BytesPerSecond Rate 2 "read from its disks";
        "disk.throughput.write" Kibi BytesPerSecond Rate 2 "written to its disks";
        "disk.throughput.contention" Milli Second Rate 2 "mean time that a request of the guest took; 0 without requests or without a monitor to ask";
        "disk.requests.read" One Number Rate 1 "reads a second of its disks";
        "disk.requests.write" One Number Rate 1 "writes a second to its disks";
        "disk.requests.flush" One Number Rate 1 "flushes a second of its disks";

        "net.throughput.usage" Kibi BytesPerSecond Rate 2 "received and sent by the guest, of interfaces with a device on the host";
        "net.throughput.receive" Kibi BytesPerSecond Rate 2 "received by the guest";
        "net.throughput.transmit" Kibi BytesPerSecond Rate 2 "sent by the guest";
        "net.throughput.contention" One Number Rate 2 "packets a second that were dropped on the way to or from the guest";
        "net.packets.receive" One Number Rate 1 "packets the guest received a second";
        "net.packets.transmit" One Number Rate 1 "packets the guest sent a second";

        "sys.uptime.current" One Second Absolute 0 "time since its process was started";
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_well_formed() {
        let mut cids: Vec<&str> = COUNTERS.iter().map(|c| c.cid).collect();
        let mut mids: Vec<i64> = COUNTERS.iter().map(Counter::mid).collect();
        assert!(cids.len() >= 60, "{}", cids.len());
        cids.sort_unstable();
        mids.sort_unstable();
        cids.dedup();
        mids.dedup();
        assert_eq!((cids.len(), mids.len()), (COUNTERS.len(), COUNTERS.len()));
        for c in COUNTERS {
            assert_eq!(c.cid, format!("{}.{}", c.metric, c.kind.name()));
            assert!(c.decimals <= 3 && !c.doc.is_empty());
            assert_eq!(counter(c.cid).map(|c| c.cid), Some(c.cid));
        }
    }

    #[test]
    fn metadata_ids_do_not_change() {
        // They are in the data of every site: a new value would split its series.
        assert_eq!(counter("cpu.capacity.usage.HOST").map(Counter::mid), Some(MID_OF_CPU_USAGE));
    }

    const MID_OF_CPU_USAGE: i64 = 2_592_735_330_599_845_283;

    #[test]
    fn a_set_holds_the_counters_of_one_group_and_type() {
        let set = CounterSet::find("disk.VM").expect("a set");
        assert_eq!(set.counters().count(), 7);
        assert!(set.counters().all(|c| c.cid.ends_with(".VM")));
        let in_sets: usize = CounterSet::all().into_iter().map(|set| set.counters().count()).sum();
        assert_eq!(in_sets, COUNTERS.len());
        assert_eq!(CounterSet::find("disk.NONE"), None);
    }

    #[test]
    fn values_are_rounded_to_what_means_something() {
        let percent = counter("cpu.time.user.HOST").expect("a counter");
        assert_eq!(percent.round(12.3449), 12.34);
        assert_eq!(counter("cpu.capacity.usage.VM").expect("a counter").round(1233.5), 1234.0);
    }
}
