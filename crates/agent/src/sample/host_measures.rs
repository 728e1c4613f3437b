//! The counters of hosts. What each means stands in the catalogue, `lockstep_contract::counters`.

use super::host_reading::{Disk, HostReading, Interface, Memory, Paging, Stat, Tcp, Traffic};
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
