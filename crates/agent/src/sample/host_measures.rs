//! The counters of hosts. What each means stands in the catalogue, `lockstep_contract::counters`.

use super::host_reading::HostReading;
use super::kernel_files::{Disk, Interface, Memory, Paging, Stat, Tcp, Traffic};
use super::measure::{Measure, percent};
use super::needs::Needs;
use super::part::{Part, Span};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;
const KIB_OF_MBPS: f64 = 1e6 / 8.0 / KIB;

/// The host now and at the tick before.
pub(crate) struct HostPair<'a> {
    pub(crate) now: &'a HostReading,
    pub(crate) before: Option<&'a HostReading>,
}

impl HostPair<'_> {
    fn span<'b, T>(&'b self, part: impl Fn(&'b HostReading) -> &'b Option<Part<T>>) -> Option<Span<'b, T>> {
        Span::new(part(self.now), self.before.map(&part))
    }

    fn stat(&self) -> Option<&Stat> {
        self.now.stat.as_ref().map(|part| &part.value)
    }

    fn memory(&self) -> Option<&Memory> {
        self.now.memory.as_ref().map(|part| &part.value)
    }

    /// A size of `/proc/meminfo` in MiB.
    fn memory_mib(&self, kib: impl Fn(&Memory) -> u64) -> Option<f64> {
        Some(kib(self.memory()?) as f64 / KIB)
    }

    /// The clock rates of all processors together.
    fn capacity_mhz(&self) -> Option<f64> {
        Some(self.now.clock_mhz? as f64 * self.stat()?.cpus as f64)
    }

    /// Shares of CPU time since the tick before.
    fn shares(&self) -> Option<Shares> {
        Shares::new(&self.span(|reading| &reading.stat)?)
    }

    fn share(&self, of: impl Fn(&Shares) -> f64) -> Option<f64> {
        let shares = self.shares()?;
        percent(of(&shares), shares.total)
    }

    fn busy_fraction(&self) -> Option<f64> {
        let shares = self.shares()?;
        Some(shares.busy() / shares.total)
    }

    /// Time that runnable tasks waited, as a part of all processors' time.
    fn waiting_fraction(&self) -> Option<f64> {
        let cpus = self.stat()?.cpus as f64;
        Some(self.span(|reading| &reading.run_delay_ns)?.rate(|delay| Some(*delay))? / 1e9 / cpus)
    }

    /// Stalled time in percent of the time that passed.
    fn pressure(&self, part: impl for<'b> Fn(&'b HostReading) -> &'b Option<Part<u64>>) -> Option<f64> {
        percent(Span::new(part(self.now), self.before.map(&part))?.rate(|stalled| Some(*stalled))?, 1e6)
    }

    fn stat_rate(&self, count: impl Fn(&Stat) -> Option<u64>) -> Option<f64> {
        self.span(|reading| &reading.stat)?.rate(count)
    }

    fn paging_rate(&self, count: impl Fn(&Paging) -> u64) -> Option<f64> {
        self.span(|reading| &reading.paging)?.rate(|paging| Some(count(paging)))
    }

    /// Pages a second in KiB a second.
    fn swap_rate(&self, pages: impl Fn(&Paging) -> u64) -> Option<f64> {
        Some(self.paging_rate(pages)? * rustix::param::page_size() as f64 / KIB)
    }

    /// The growth of a count of all physical disks, and the seconds in which. A disk that came in between counts from the
    /// next tick on; one whose counts went back makes the sum unknown.
    fn disk_growth(&self, count: impl Fn(&Disk) -> Option<u64>) -> Option<(f64, f64)> {
        let span = self.span(|reading| &reading.disks)?;
        let mut sum = 0.0;
        for now in span.now {
            let Some(before) = span.before.iter().find(|before| before.name == now.name) else { continue };
            sum += count(now)?.checked_sub(count(before)?)? as f64;
        }
        Some((sum, span.seconds))
    }

    fn disk_rate(&self, count: impl Fn(&Disk) -> Option<u64>) -> Option<f64> {
        self.disk_growth(count).map(|(growth, seconds)| growth / seconds)
    }

    /// Milliseconds a request.
    fn disk_latency(&self, ms: impl Fn(&Disk) -> u64, requests: impl Fn(&Disk) -> u64) -> Option<f64> {
        let (ms, _) = self.disk_growth(|disk| Some(ms(disk)))?;
        let (requests, _) = self.disk_growth(|disk| Some(requests(disk)))?;
        Some(if requests > 0.0 { ms / requests } else { 0.0 })
    }

    /// As [`HostPair::disk_growth`], of physical interfaces.
    fn net_rate(&self, count: impl Fn(&Interface) -> u64) -> Option<f64> {
        let span = self.span(|reading| &reading.interfaces)?;
        let mut sum = 0.0;
        for now in span.now.iter().filter(|interface| interface.is_physical) {
            let Some(before) = Interface::find(span.before, &now.name) else { continue };
            sum += count(now).checked_sub(count(before))? as f64;
        }
        Some(sum / span.seconds)
    }

    fn tcp(&self) -> Option<&Tcp> {
        self.now.tcp.as_ref().map(|part| &part.value)
    }
}

/// Clock ticks of each kind since the tick before.
struct Shares {
    user: f64,
    nice: f64,
    system: f64,
    idle: f64,
    iowait: f64,
    irq: f64,
    steal: f64,
    guest: f64,
    total: f64,
}

impl Shares {
    fn new(span: &Span<'_, Stat>) -> Option<Self> {
        // Some kinds go back a little when a processor's accounts are settled (iowait above all): that is no time then.
        let grown = |count: fn(&Stat) -> u64| count(span.now).saturating_sub(count(span.before)) as f64;
        // The kernel counts guests in user and nice as well.
        let user = grown(|stat| stat.user.saturating_sub(stat.guest));
        let nice = grown(|stat| stat.nice.saturating_sub(stat.guest_nice));
        let guest = grown(|stat| stat.guest) + grown(|stat| stat.guest_nice);
        let [system, idle, iowait, irq, steal] = [
            grown(|stat| stat.system),
            grown(|stat| stat.idle),
            grown(|stat| stat.iowait),
            grown(|stat| stat.irq),
            grown(|stat| stat.steal),
        ];
        let total = user + nice + guest + system + idle + iowait + irq + steal;
        (total > 0.0).then_some(Self { user, nice, system, idle, iowait, irq, steal, guest, total })
    }

    fn busy(&self) -> f64 {
        self.total - self.idle - self.iowait - self.steal
    }
}

/// A counter of hosts.
pub(crate) type HostMeasure = Measure<fn(&HostPair<'_>) -> Option<f64>>;

const fn of(cid: &'static str, needs: Needs, value: fn(&HostPair<'_>) -> Option<f64>) -> HostMeasure {
    Measure::new(cid, needs, value)
}

/// In the order of the catalogue.
pub(crate) static HOST_MEASURES: &[HostMeasure] = &[
    of("cpu.capacity.provisioned.HOST", Needs::CLOCK.and(Needs::STAT), |pair| pair.capacity_mhz()),
    of("cpu.capacity.usage.HOST", Needs::CLOCK.and(Needs::STAT), |pair| {
        Some(pair.busy_fraction()? * pair.capacity_mhz()?)
    }),
    of("cpu.capacity.demand.HOST", Needs::CLOCK.and(Needs::STAT), |pair| {
        let waiting = pair.waiting_fraction().unwrap_or(0.0);
        Some((pair.busy_fraction()? + waiting) * pair.capacity_mhz()?)
    })
    .wanting(Needs::RUN_DELAY),
    of("cpu.capacity.contention.HOST", Needs::STAT.and(Needs::RUN_DELAY), |pair| {
        percent(pair.waiting_fraction()?, 1.0)
    }),
    of("cpu.utilization.usage.HOST", Needs::STAT, |pair| pair.share(Shares::busy)),
    of("cpu.time.user.HOST", Needs::STAT, |pair| pair.share(|shares| shares.user)),
    of("cpu.time.nice.HOST", Needs::STAT, |pair| pair.share(|shares| shares.nice)),
    of("cpu.time.system.HOST", Needs::STAT, |pair| pair.share(|shares| shares.system)),
    of("cpu.time.idle.HOST", Needs::STAT, |pair| pair.share(|shares| shares.idle)),
    of("cpu.time.iowait.HOST", Needs::STAT, |pair| pair.share(|shares| shares.iowait)),
    of("cpu.time.irq.HOST", Needs::STAT, |pair| pair.share(|shares| shares.irq)),
    of("cpu.time.steal.HOST", Needs::STAT, |pair| pair.share(|shares| shares.steal)),
    of("cpu.time.guest.HOST", Needs::STAT, |pair| pair.share(|shares| shares.guest)),
    of("cpu.corecount.provisioned.HOST", Needs::STAT, |pair| Some(pair.stat()?.cpus as f64)),
    of("cpu.corecount.usage.HOST", Needs::STAT, |pair| Some(pair.busy_fraction()? * pair.stat()?.cpus as f64)),
    of("cpu.corecount.contention.HOST", Needs::PRESSURE_CPU, |pair| pair.pressure(|now| &now.pressure_cpu_us)),
    of("cpu.load.minute.HOST", Needs::LOAD, |pair| Some(pair.now.load.as_ref()?.value.averages[0])),
    of("cpu.load.fiveminutes.HOST", Needs::LOAD, |pair| Some(pair.now.load.as_ref()?.value.averages[1])),
    of("cpu.load.quarter.HOST", Needs::LOAD, |pair| Some(pair.now.load.as_ref()?.value.averages[2])),
    of("cpu.tasks.running.HOST", Needs::STAT, |pair| Some(pair.stat()?.running? as f64)),
    of("cpu.tasks.blocked.HOST", Needs::STAT, |pair| Some(pair.stat()?.blocked? as f64)),
    of("cpu.tasks.total.HOST", Needs::LOAD, |pair| Some(pair.now.load.as_ref()?.value.tasks as f64)),
    of("cpu.tasks.forks.HOST", Needs::STAT, |pair| pair.stat_rate(|stat| stat.forks)),
    of("cpu.switches.usage.HOST", Needs::STAT, |pair| pair.stat_rate(|stat| stat.switches)),
    of("cpu.interrupts.usage.HOST", Needs::STAT, |pair| pair.stat_rate(|stat| stat.interrupts)),
    of("mem.capacity.provisioned.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.total)),
    of("mem.capacity.usable.HOST", Needs::AVAILABLE, |pair| {
        let memory = pair.memory()?;
        // What processes hold is anonymous, shared, or of reserved huge pages; the rest that is not available is the kernel's.
        let held = memory.anonymous + memory.shared + memory.huge_pages_used;
        Some((memory.available? + held).min(memory.total) as f64 / KIB)
    }),
    of("mem.capacity.usage.HOST", Needs::AVAILABLE, |pair| {
        let memory = pair.memory()?;
        Some(memory.total.saturating_sub(memory.available?) as f64 / KIB)
    }),
    of("mem.capacity.available.HOST", Needs::AVAILABLE, |pair| Some(pair.memory()?.available? as f64 / KIB)),
    of("mem.capacity.free.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.free)),
    of("mem.capacity.contention.HOST", Needs::PRESSURE_MEMORY, |pair| pair.pressure(|now| &now.pressure_memory_us)),
    of("mem.reservedCapacityPct.HOST", Needs::MEMORY, |pair| {
        let memory = pair.memory()?;
        Some(memory.committed as f64 / memory.total as f64 * 100.0)
    }),
    of("mem.consumed.vms.HOST", Needs::VM_TOTALS, |pair| Some(pair.now.vm_totals.as_ref()?.held_kib as f64 / KIB)),
    of("mem.consumed.userworlds.HOST", Needs::MEMORY.and(Needs::VM_TOTALS), |pair| {
        let of_vms = pair.now.vm_totals.as_ref()?.anonymous_kib;
        pair.memory_mib(|memory| memory.anonymous.saturating_sub(of_vms))
    }),
    of("mem.cache.usage.HOST", Needs::MEMORY, |pair| {
        pair.memory_mib(|memory| memory.cached.saturating_sub(memory.shared))
    }),
    of("mem.buffers.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.buffers)),
    of("mem.shared.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.shared)),
    of("mem.anonymous.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.anonymous)),
    of("mem.slab.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.slab)),
    of("mem.pagetables.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.page_tables)),
    of("mem.dirty.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.dirty)),
    of("mem.writeback.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.writeback)),
    of("mem.hugepages.usage.HOST", Needs::MEMORY, |pair| pair.memory_mib(|memory| memory.huge_pages_used)),
    of("mem.swap.provisioned.HOST", Needs::MEMORY, |pair| Some(pair.memory()?.swap_total as f64)),
    of("mem.swap.current.HOST", Needs::MEMORY, |pair| {
        let memory = pair.memory()?;
        Some(memory.swap_total.saturating_sub(memory.swap_free) as f64)
    }),
    of("mem.swap.target.HOST", Needs::MEMORY, |pair| {
        let memory = pair.memory()?;
        Some(memory.swap_total.saturating_sub(memory.swap_free).saturating_sub(memory.swap_cached) as f64)
    }),
    of("mem.swap.readrate.HOST", Needs::PAGING, |pair| pair.swap_rate(|paging| paging.swapped_in)),
    of("mem.swap.writerate.HOST", Needs::PAGING, |pair| pair.swap_rate(|paging| paging.swapped_out)),
    of("mem.faults.minor.HOST", Needs::PAGING, |pair| {
        pair.paging_rate(|paging| paging.faults.saturating_sub(paging.major_faults))
    }),
    of("mem.faults.major.HOST", Needs::PAGING, |pair| pair.paging_rate(|paging| paging.major_faults)),
    of("disk.throughput.usage.HOST", Needs::DISKS, |pair| {
        Some(pair.disk_rate(|disk| disk.read_bytes.checked_add(disk.write_bytes))? / KIB)
    }),
    of("disk.throughput.read.HOST", Needs::DISKS, |pair| Some(pair.disk_rate(|disk| Some(disk.read_bytes))? / KIB)),
    of("disk.throughput.write.HOST", Needs::DISKS, |pair| Some(pair.disk_rate(|disk| Some(disk.write_bytes))? / KIB)),
    of("disk.throughput.contention.HOST", Needs::DISKS, |pair| {
        pair.disk_latency(|disk| disk.read_ms + disk.write_ms, |disk| disk.reads + disk.writes)
    }),
    of("disk.requests.read.HOST", Needs::DISKS, |pair| pair.disk_rate(|disk| Some(disk.reads))),
    of("disk.requests.write.HOST", Needs::DISKS, |pair| pair.disk_rate(|disk| Some(disk.writes))),
    of("disk.requests.flush.HOST", Needs::DISKS.and(Needs::FLUSHES), |pair| pair.disk_rate(|disk| disk.flushes)),
    of("disk.requests.outstanding.HOST", Needs::DISKS, |pair| {
        Some(pair.now.disks.as_ref()?.value.iter().map(|disk| disk.outstanding as f64).sum())
    }),
    of("disk.latency.read.HOST", Needs::DISKS, |pair| pair.disk_latency(|disk| disk.read_ms, |disk| disk.reads)),
    of("disk.latency.write.HOST", Needs::DISKS, |pair| pair.disk_latency(|disk| disk.write_ms, |disk| disk.writes)),
    of("disk.utilization.usage.HOST", Needs::DISKS, |pair| {
        let span = pair.span(|reading| &reading.disks)?;
        let busy_ms = |now: &Disk| {
            let before = span.before.iter().find(|before| before.name == now.name)?;
            now.busy_ms.checked_sub(before.busy_ms)
        };
        let busiest_ms = span.now.iter().filter_map(busy_ms).max().unwrap_or(0);
        percent(busiest_ms as f64, span.seconds * 1000.0)
    }),
    of("disk.capacity.provisioned.HOST", Needs::FILE_SYSTEMS, |pair| {
        Some(pair.now.file_systems.as_ref()?.value.bytes as f64 / MIB)
    }),
    of("disk.capacity.usage.HOST", Needs::FILE_SYSTEMS, |pair| {
        Some(pair.now.file_systems.as_ref()?.value.used_bytes as f64 / MIB)
    }),
    of("disk.capacity.contention.HOST", Needs::PRESSURE_IO, |pair| pair.pressure(|now| &now.pressure_io_us)),
    of("net.throughput.provisioned.HOST", Needs::LINKS, |pair| {
        Some(pair.now.links.as_ref()?.value.mbps as f64 * KIB_OF_MBPS)
    }),
    of("net.throughput.usable.HOST", Needs::LINKS, |pair| {
        Some(pair.now.links.as_ref()?.value.in_use_mbps as f64 * KIB_OF_MBPS)
    }),
    of("net.throughput.usage.HOST", Needs::INTERFACES, |pair| {
        let both = |count: fn(&Traffic) -> u64| pair.net_rate(|nic| count(&nic.received) + count(&nic.sent));
        Some(both(|traffic| traffic.bytes)? / KIB)
    }),
    of("net.throughput.receive.HOST", Needs::INTERFACES, |pair| Some(pair.net_rate(|nic| nic.received.bytes)? / KIB)),
    of("net.throughput.transmit.HOST", Needs::INTERFACES, |pair| Some(pair.net_rate(|nic| nic.sent.bytes)? / KIB)),
    of("net.throughput.contention.HOST", Needs::INTERFACES, |pair| {
        pair.net_rate(|nic| nic.received.dropped + nic.sent.dropped)
    }),
    of("net.packets.receive.HOST", Needs::INTERFACES, |pair| pair.net_rate(|nic| nic.received.packets)),
    of("net.packets.transmit.HOST", Needs::INTERFACES, |pair| pair.net_rate(|nic| nic.sent.packets)),
    of("net.errors.receive.HOST", Needs::INTERFACES, |pair| pair.net_rate(|nic| nic.received.errors)),
    of("net.errors.transmit.HOST", Needs::INTERFACES, |pair| pair.net_rate(|nic| nic.sent.errors)),
    of("net.tcp.established.HOST", Needs::TCP, |pair| Some(pair.tcp()?.established as f64)),
    of("net.tcp.retransmits.HOST", Needs::TCP, |pair| {
        pair.span(|reading| &reading.tcp)?.rate(|tcp| Some(tcp.retransmits))
    }),
    of("power.capacity.usable.HOST", Needs::POWER_LIMIT, |pair| pair.now.power_limit_watts),
    of("power.capacity.usage.HOST", Needs::ENERGY, |pair| {
        let span = pair.span(|reading| &reading.packages)?;
        let pairs = span.now.iter().zip(span.before);
        pairs.map(|(now, before)| now.watts_since(before, span.seconds)).sum()
    }),
    of("thermal.cpu.temperature.HOST", Needs::TEMPERATURE, |pair| pair.now.temperature_celsius),
    of("sys.uptime.current.HOST", Needs::UPTIME, |pair| pair.now.uptime_s),
    of("sys.files.open.HOST", Needs::FILES, |pair| Some(pair.now.open_files? as f64)),
    of("sys.vms.running.HOST", Needs::VMS, |pair| Some(pair.now.vm_count? as f64)),
];

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::host_reading::{HostSource, VmTotals};
    use super::*;
    use crate::tree::fixture::Fixture;

    /// Two processors of 2600 MHz, a disk with a partition and a disk made of it, two interfaces and their bridge.
    const FILES: [(&str, &str); 29] = [
        ("proc/cpuinfo", "processor : 0\nmodel name : Xeon @ 2.60GHz\n"),
        (
            "proc/stat",
            "cpu  1000 100 500 8000 200 30 20 50 300 40\ncpu0 1 1\ncpu1 1 1\nintr 7000 1 2 3\nctxt 9000\nbtime 1\n\
             processes 100\nprocs_running 3\nprocs_blocked 1\nsoftirq 5 6\n",
        ),
        ("proc/loadavg", "0.71 0.49 0.39 3/110 17498\n"),
        (
            "proc/schedstat",
            "version 17\ntimestamp 1\ncpu0 0 0 0 0 0 0 100 1000000000 5\ndomain0 3 1\ncpu1 0 0 0 0 0 0 1 0 2\n",
        ),
        ("proc/pressure/cpu", "some avg10=5.87 avg60=2.27 avg300=1.73 total=1000000\nfull avg10=0.00 total=7\n"),
        ("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0 total=0\n"),
        ("proc/pressure/io", "some avg10=0.00 avg60=0.00 avg300=0.00 total=500\nfull avg10=0 total=9\n"),
        (
            "proc/meminfo",
            "MemTotal: 8388608 kB\nMemFree: 1048576 kB\nMemAvailable: 4194304 kB\nBuffers: 102400 kB\nCached: 2048000 kB\n\
             SwapCached: 1024 kB\nSwapTotal: 2097152 kB\nSwapFree: 2094080 kB\nDirty: 512 kB\nWriteback: 256 kB\n\
             AnonPages: 1024000 kB\nShmem: 51200 kB\nSlab: 204800 kB\nPageTables: 10240 kB\nCommitted_AS: 12582912 kB\n\
             HugePages_Total: 10\nHugePages_Free: 6\nHugepagesize: 2048 kB\n",
        ),
        ("proc/vmstat", "nr_free_pages 1\npgfault 5000\npgmajfault 100\npswpin 10\npswpout 20\n"),
        (
            "proc/diskstats",
            "   7 0 loop0 9 9 9 9 9 9 9 9 9 9 9 0 0 0 0 0 0\n 8 0 sda 100 5 2000 300 50 6 1000 400 2 700 800 0 0 0 0 40 4\n\
             \x20 8 1 sda1 9 9 9 9 9 9 9 9 9 9 9 0 0 0 0 0 0\n 8 16 sdb 10 0 0 0 0 0 0 0 1 100 1 0 0 0 0 0 0\n\
             253 0 dm-0 9 9 9 9 9 9 9 9 9 9 9 0 0 0 0 0 0\n",
        ),
        (
            "proc/net/dev",
            "Inter-|\n face |\n    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n  eth0:10240 100 1 2 0 0 0 0 20480 200 3 4 0 0 0 0\n\
             \x20 eth1: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n   br0: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n",
        ),
        ("proc/net/snmp", "Ip: A B\nIp: 1 2\nTcp: RtoMin CurrEstab InSegs RetransSegs\nTcp: 200 12 5 30\n"),
        ("proc/uptime", "3600.52 7000.00\n"),
        ("proc/sys/fs/file-nr", "573\t0\t2466183\n"),
        ("sys/block/loop0/size", "1"),
        ("sys/block/sda/device/type", "0"),
        ("sys/block/sdb/device/type", "0"),
        ("sys/block/dm-0/dm/name", "root"),
        ("sys/class/net/eth0/device/vendor", ""),
        ("sys/class/net/eth0/carrier", "1\n"),
        ("sys/class/net/eth0/speed", "10000\n"),
        ("sys/class/net/eth1/device/vendor", ""),
        ("sys/class/net/eth1/carrier", "1\n"),
        ("sys/class/net/eth1/speed", "1000\n"),
        ("sys/class/powercap/intel-rapl:0/name", "package-0"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "5000000"),
        ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850"),
        ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp"),
        ("sys/class/thermal/thermal_zone0/temp", "48500"),
    ];

    /// The same machine ten seconds later.
    const LATER: [(&str, &str); 10] = [
        (
            "proc/stat",
            "cpu  1700 200 800 8400 150 60 40 100 700 60\ncpu0 1 1\ncpu1 1 1\nintr 8000 1 2 3\nctxt 9500\nbtime 1\n\
             processes 120\nprocs_running 5\nprocs_blocked 0\nsoftirq 5 6\n",
        ),
        ("proc/schedstat", "version 17\ncpu0 0 0 0 0 0 0 100 3000000000 5\ncpu1 0 0 0 0 0 0 1 1000000000 2\n"),
        ("proc/pressure/cpu", "some avg10=5.87 avg60=2.27 avg300=1.73 total=2500000\n"),
        ("proc/pressure/io", "some avg10=0.00 avg60=0.00 avg300=0.00 total=99000500\n"),
        ("proc/vmstat", "pgfault 6000\npgmajfault 150\npswpin 110\npswpout 20\n"),
        (
            "proc/diskstats",
            " 8 0 sda 200 5 22480 800 150 6 5096 900 4 3700 900 0 0 0 0 60 4\n 8 16 sdb 10 0 0 0 0 0 0 0 0 8100 1 0 0 0 0 0 0\n\
             \x20 8 32 sdc 999 0 99999 1 0 0 0 0 0 1 1 0 0 0 0 0 0\n",
        ),
        (
            "proc/net/dev",
            "Inter-|\n face |\n  eth0: 112640 300 11 4 0 0 0 0 71680 300 5 10 0 0 0 0\n  eth1: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        ),
        ("proc/net/snmp", "Tcp: RtoMin CurrEstab InSegs RetransSegs\nTcp: 200 14 5 35\n"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "655000000"),
        ("sys/block/sdc/device/type", "0"),
    ];

    fn all_needs() -> Needs {
        HOST_MEASURES.iter().fold(Needs::NONE, |all, measure| all | measure.reads()) | Needs::INTERFACES
    }

    /// The readings of both times, ten seconds apart.
    fn readings() -> (HostReading, HostReading) {
        let fixture = Fixture::new(&FILES);
        let tree = fixture.tree();
        let mut source = HostSource::new(&tree);
        let mut before = source.read(&tree, all_needs(), &mut Vec::new());
        LATER.iter().for_each(|(path, content)| fixture.write(path, content));
        let mut now = source.read(&tree, all_needs(), &mut Vec::new());
        now.vm_count = Some(2);
        now.vm_totals = Some(VmTotals { held_kib: 2048, anonymous_kib: 1024 });
        let then = Instant::now();
        set_times(&mut before, then);
        set_times(&mut now, then + Duration::from_secs(10));
        (before, now)
    }

    fn set_times(reading: &mut HostReading, taken: Instant) {
        macro_rules! set {
            ($($part:ident),*) => { $( if let Some(part) = &mut reading.$part { part.taken = taken; } )* };
        }
        set!(
            stat,
            run_delay_ns,
            pressure_cpu_us,
            pressure_memory_us,
            pressure_io_us,
            paging,
            disks,
            interfaces,
            tcp,
            packages
        );
    }

    fn value(cid: &str, now: &HostReading, before: Option<&HostReading>) -> Option<f64> {
        let measure = HOST_MEASURES.iter().find(|measure| measure.cid.trim_end_matches(".HOST") == cid).unwrap();
        let counter = measure.counter().unwrap();
        (measure.value)(&HostPair { now, before }).map(|value| counter.round(value))
    }

    #[test]
    fn values_are_those_that_the_catalogue_says() {
        let (before, now) = readings();
        // Of 1600 ticks in between: user 300, nice 80, guests 420, system 300, idle 400, irq 50, steal 50, and iowait went back.
        // So 1150 were work.
        let expected = [
            ("cpu.capacity.provisioned", 5200.0),
            ("cpu.capacity.usage", 3738.0),
            ("cpu.capacity.demand", 4518.0),
            ("cpu.capacity.contention", 15.0),
            ("cpu.utilization.usage", 71.88),
            ("cpu.time.user", 18.75),
            ("cpu.time.nice", 5.0),
            ("cpu.time.system", 18.75),
            ("cpu.time.idle", 25.0),
            ("cpu.time.iowait", 0.0),
            ("cpu.time.irq", 3.13),
            ("cpu.time.steal", 3.13),
            ("cpu.time.guest", 26.25),
            ("cpu.corecount.provisioned", 2.0),
            ("cpu.corecount.usage", 1.44),
            ("cpu.corecount.contention", 15.0),
            ("cpu.load.minute", 0.71),
            ("cpu.load.fiveminutes", 0.49),
            ("cpu.load.quarter", 0.39),
            ("cpu.tasks.running", 5.0),
            ("cpu.tasks.blocked", 0.0),
            ("cpu.tasks.total", 110.0),
            ("cpu.tasks.forks", 2.0),
            ("cpu.switches.usage", 50.0),
            ("cpu.interrupts.usage", 100.0),
            ("mem.capacity.provisioned", 8192.0),
            ("mem.capacity.usable", 5154.0),
            ("mem.capacity.usage", 4096.0),
            ("mem.capacity.available", 4096.0),
            ("mem.capacity.free", 1024.0),
            ("mem.capacity.contention", 0.0),
            ("mem.reservedCapacityPct", 150.0),
            ("mem.consumed.vms", 2.0),
            ("mem.consumed.userworlds", 999.0),
            ("mem.cache.usage", 1950.0),
            ("mem.buffers.usage", 100.0),
            ("mem.shared.usage", 50.0),
            ("mem.anonymous.usage", 1000.0),
            ("mem.slab.usage", 200.0),
            ("mem.pagetables.usage", 10.0),
            ("mem.dirty.usage", 0.5),
            ("mem.writeback.usage", 0.3),
            ("mem.hugepages.usage", 8.0),
            ("mem.swap.provisioned", 2_097_152.0),
            ("mem.swap.current", 3072.0),
            ("mem.swap.target", 2048.0),
            ("mem.swap.readrate", 10.0 * rustix::param::page_size() as f64 / 1024.0),
            ("mem.swap.writerate", 0.0),
            ("mem.faults.minor", 95.0),
            ("mem.faults.major", 5.0),
            ("disk.throughput.usage", 1228.8),
            ("disk.throughput.read", 1024.0),
            ("disk.throughput.write", 204.8),
            ("disk.throughput.contention", 5.0),
            ("disk.requests.read", 10.0),
            ("disk.requests.write", 10.0),
            ("disk.requests.flush", 2.0),
            ("disk.requests.outstanding", 4.0),
            ("disk.latency.read", 5.0),
            ("disk.latency.write", 5.0),
            ("disk.utilization.usage", 80.0),
            ("disk.capacity.contention", 100.0),
            ("net.throughput.provisioned", 1_342_773.0),
            ("net.throughput.usable", 1_220_703.0),
            ("net.throughput.usage", 15.0),
            ("net.throughput.receive", 10.0),
            ("net.throughput.transmit", 5.0),
            ("net.throughput.contention", 0.8),
            ("net.packets.receive", 20.0),
            ("net.packets.transmit", 10.0),
            ("net.errors.receive", 1.0),
            ("net.errors.transmit", 0.2),
            ("net.tcp.established", 14.0),
            ("net.tcp.retransmits", 0.5),
            ("power.capacity.usage", 65.0),
            ("thermal.cpu.temperature", 48.5),
            ("sys.uptime.current", 3601.0),
            ("sys.files.open", 573.0),
            ("sys.vms.running", 2.0),
        ];
        for (cid, expected) in expected {
            assert_eq!(value(cid, &now, Some(&before)), Some(expected), "{cid}");
        }
        // No limit is in the fixture, and no mount table.
        let absent = ["power.capacity.usable", "disk.capacity.provisioned", "disk.capacity.usage"];
        assert!(absent.iter().all(|cid| value(cid, &now, Some(&before)).is_none()));
        assert_eq!(expected.len() + absent.len(), HOST_MEASURES.len());
    }

    #[test]
    fn the_first_reading_tells_no_rates() {
        let (_, now) = readings();
        for measure in HOST_MEASURES {
            let is_rate = matches!(
                measure.counter().unwrap().sample,
                lockstep_contract::services::stats::counters::SampleType::Rate
            );
            let value = (measure.value)(&HostPair { now: &now, before: None });
            assert!(!is_rate || value.is_none(), "{}: {value:?}", measure.cid);
        }
    }

    #[test]
    fn counts_that_went_back_give_no_point() {
        let (before, now) = readings();
        for cid in ["disk.throughput.usage", "disk.requests.flush", "net.throughput.receive", "mem.faults.major"] {
            assert!(value(cid, &now, Some(&before)).is_some());
            // The earlier reading as the later one.
            let (mut earlier, mut later) = (now.clone(), before.clone());
            let then = Instant::now();
            set_times(&mut earlier, then);
            set_times(&mut later, then + Duration::from_secs(10));
            assert_eq!(value(cid, &later, Some(&earlier)), None, "{cid}");
        }
    }

    #[test]
    fn a_machine_without_a_source_does_not_have_it() {
        let fixture = Fixture::new(&[("proc/stat", "cpu 1 1 1 1\ncpu0 1 1 1 1\n")]);
        let tree = fixture.tree();
        let reading = HostSource::new(&tree).read(&tree, all_needs(), &mut Vec::new());
        let present = reading.present();
        assert_eq!(present, Needs::STAT);
        let offered: Vec<_> = HOST_MEASURES.iter().filter(|measure| present.has(measure.needs)).collect();
        assert!(offered.iter().all(|measure| measure.cid.starts_with("cpu.")) && offered.len() > 10);
    }
}
