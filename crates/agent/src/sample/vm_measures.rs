//! The counters of VMs. What each means stands in the catalogue, `lockstep_contract::counters`.

use super::host_reading::{HostReading, Interface};
use super::measure::{Measure, percent};
use super::needs::Needs;
use super::part::Span;
use super::vm_reading::{Blocks, Facts, Holdings, ProcessIo, ProcessStat, Thread, VmReading};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// A VM and its host now and at the tick before.
pub(crate) struct VmPair<'a> {
    pub(crate) now: &'a VmReading,
    /// None as well if the VM was started anew since.
    pub(crate) before: Option<&'a VmReading>,
    pub(crate) host: &'a HostReading,
    pub(crate) host_before: Option<&'a HostReading>,
}

impl<'a> VmPair<'a> {
    pub(crate) fn new(
        (now, before): (&'a VmReading, Option<&'a VmReading>),
        (host, host_before): (&'a HostReading, Option<&'a HostReading>),
    ) -> Self {
        Self { now, before: before.filter(|before| before.key == now.key), host, host_before }
    }

    fn facts(&self) -> Facts {
        self.now.facts
    }

    fn vcpus(&self) -> Option<f64> {
        self.facts().vcpus.map(|vcpus| vcpus as f64)
    }

    fn clock_mhz(&self) -> Option<f64> {
        self.host.clock_mhz.map(|mhz| mhz as f64)
    }

    fn process(&self) -> Option<&ProcessStat> {
        self.now.process.as_ref().map(|part| &part.value)
    }

    fn process_rate(&self, count: impl Fn(&ProcessStat) -> u64) -> Option<f64> {
        self.process_span()?.rate(|process| Some(count(process)))
    }

    fn process_span(&self) -> Option<Span<'_, ProcessStat>> {
        Span::new(&self.now.process, self.before.map(|before| &before.process))
    }

    /// CPU time of a kind, in processors' worth.
    fn busy_cpus(&self, ticks: impl Fn(&ProcessStat) -> u64) -> Option<f64> {
        Some(self.process_rate(ticks)? / rustix::param::clock_ticks_per_second() as f64)
    }

    fn busy_percent(&self, ticks: impl Fn(&ProcessStat) -> u64) -> Option<f64> {
        Some(self.busy_cpus(ticks)? / self.vcpus()? * 100.0)
    }

    /// What a count of threads has grown by in a second. A thread that came in between counts from its start; what one that
    /// has ended did last is lost.
    fn threads_rate(&self, count: impl Fn(&Thread) -> u64, is_wanted: impl Fn(&Thread) -> bool) -> Option<f64> {
        let span = Span::new(&self.now.threads, self.before.map(|before| &before.threads))?;
        let mut sum = 0.0;
        for now in span.now.iter().filter(|thread| is_wanted(thread)) {
            let before = span.before.binary_search_by_key(&now.id, |before| before.id).ok();
            let before = before.map_or(0, |at| count(&span.before[at]));
            sum += count(now).checked_sub(before)? as f64;
        }
        Some(sum / span.seconds)
    }

    fn holdings(&self) -> Option<&Holdings> {
        self.now.holdings.as_ref().map(|part| &part.value)
    }

    fn block_span(&self) -> Option<Span<'_, Blocks>> {
        Span::new(&self.now.blocks, self.before.map(|before| &before.blocks))
    }

    /// What the guest moved by the monitor or, where there is none to ask at both times, what the process moved by the kernel.
    fn disk_rate(&self, of_guest: fn(&Blocks) -> u64, of_process: fn(&ProcessIo) -> u64) -> Option<f64> {
        if let Some(rate) = self.block_span().and_then(|span| span.rate(|blocks| Some(of_guest(blocks)))) {
            return Some(rate / KIB);
        }
        let span = Span::new(&self.now.io, self.before.map(|before| &before.io))?;
        Some(span.rate(|io| Some(of_process(io)))? / KIB)
    }

    fn request_rate(&self, count: fn(&Blocks) -> u64) -> Option<f64> {
        self.block_span()?.rate(|blocks| Some(count(blocks)))
    }

    /// Growth a second of a count of the VM's interfaces on the host; none if it has none there.
    fn net_rate(&self, count: impl Fn(&Interface) -> u64) -> Option<f64> {
        self.before?;
        let span = Span::new(&self.host.interfaces, self.host_before.map(|before| &before.interfaces))?;
        let mut sum = None;
        for tap in self.now.taps.iter() {
            let (Some(now), Some(before)) = (Interface::find(span.now, tap), Interface::find(span.before, tap)) else {
                continue;
            };
            *sum.get_or_insert(0.0) += count(now).checked_sub(count(before))? as f64;
        }
        Some(sum? / span.seconds)
    }

    fn limit_cpus(&self) -> Option<f64> {
        let vcpus = self.vcpus()?;
        Some(self.now.limits.and_then(|limits| limits.cpus).map_or(vcpus, |cpus| cpus.min(vcpus)))
    }
}

/// CPU time of the process, time in the guest included.
fn all_ticks(process: &ProcessStat) -> u64 {
    process.user + process.system
}

/// A counter of VMs.
pub(crate) type VmMeasure = Measure<fn(&VmPair<'_>) -> Option<f64>>;

const fn of(cid: &'static str, needs: Needs, value: fn(&VmPair<'_>) -> Option<f64>) -> VmMeasure {
    Measure::new(cid, needs, value)
}

const DISKS: Needs = Needs::BLOCKS.and(Needs::PROCESS_IO);
const CPU: Needs = Needs::GUEST.and(Needs::PROCESS);

/// In the order of the catalogue.
pub(crate) static VM_MEASURES: &[VmMeasure] = &[
    of("cpu.capacity.provisioned.VM", Needs::CLOCK.and(Needs::GUEST), |pair| Some(pair.vcpus()? * pair.clock_mhz()?)),
    of("cpu.capacity.entitlement.VM", Needs::CLOCK.and(Needs::GUEST), |pair| {
        Some(pair.limit_cpus()? * pair.clock_mhz()?)
    })
    .wanting(Needs::GROUP.and(Needs::THREADS)),
    of("cpu.capacity.usage.VM", Needs::CLOCK.and(Needs::PROCESS), |pair| {
        Some(pair.busy_cpus(all_ticks)? * pair.clock_mhz()?)
    }),
    of("cpu.capacity.demand.VM", Needs::CLOCK.and(Needs::PROCESS).and(Needs::THREADS), |pair| {
        let waiting_cpus = pair.threads_rate(|thread| thread.delay_ns, |_| true)? / 1e9;
        Some((pair.busy_cpus(all_ticks)? + waiting_cpus) * pair.clock_mhz()?)
    }),
    of("cpu.capacity.contention.VM", Needs::GUEST.and(Needs::THREADS), |pair| {
        // Without names of threads (`debug-threads=off`) they are not told apart: all count, and QEMU's own wait little.
        let threads = &pair.now.threads.as_ref()?.value;
        let are_named = threads.iter().any(|thread| thread.is_vcpu);
        let waiting_ns = pair.threads_rate(|thread| thread.delay_ns, |thread| thread.is_vcpu || !are_named)?;
        percent(waiting_ns / 1e9, pair.vcpus()?)
    }),
    of("cpu.utilization.usage.VM", CPU, |pair| pair.busy_percent(all_ticks)),
    // The kernel counts time in the guest as user time too.
    of("cpu.time.user.VM", CPU, |pair| pair.busy_percent(|process| process.user.saturating_sub(process.guest))),
    of("cpu.time.system.VM", CPU, |pair| pair.busy_percent(|process| process.system)),
    of("cpu.time.guest.VM", CPU.and(Needs::GUEST_TIME), |pair| pair.busy_percent(|process| process.guest)),
    of("cpu.corecount.provisioned.VM", Needs::GUEST, |pair| pair.vcpus()),
    of("cpu.threads.total.VM", Needs::PROCESS, |pair| Some(pair.process()?.threads as f64)),
    of("cpu.switches.usage.VM", Needs::THREADS, |pair| pair.threads_rate(|thread| thread.switches, |_| true)),
    of("mem.capacity.provisioned.VM", Needs::GUEST, |pair| Some(pair.facts().memory_bytes? as f64 / MIB)),
    of("mem.capacity.entitlement.VM", Needs::GUEST, |pair| {
        let limits = [pair.now.balloon_bytes, pair.now.limits.and_then(|limits| limits.memory_bytes)];
        let bytes = limits.into_iter().flatten().fold(pair.facts().memory_bytes?, u64::min);
        Some(bytes as f64 / MIB)
    })
    .wanting(Needs::GROUP.and(Needs::BALLOON)),
    of("mem.capacity.usage.VM", Needs::HOLDINGS, |pair| Some(pair.holdings()?.resident as f64 / KIB)),
    of("mem.capacity.shared.VM", Needs::HOLDINGS, |pair| Some(pair.holdings()?.shared as f64 / KIB)),
    of("mem.swap.current.VM", Needs::HOLDINGS, |pair| Some(pair.holdings()?.swapped as f64)),
    of("mem.faults.minor.VM", Needs::PROCESS, |pair| pair.process_rate(|process| process.minor_faults)),
    of("mem.faults.major.VM", Needs::PROCESS, |pair| pair.process_rate(|process| process.major_faults)),
    of("disk.throughput.usage.VM", Needs::NONE, |pair| {
        pair.disk_rate(|blocks| blocks.read_bytes + blocks.write_bytes, |io| io.read_bytes + io.write_bytes)
    })
    .wanting(DISKS),
    of("disk.throughput.read.VM", Needs::NONE, |pair| pair.disk_rate(|blocks| blocks.read_bytes, |io| io.read_bytes))
        .wanting(DISKS),
    of("disk.throughput.write.VM", Needs::NONE, |pair| {
        pair.disk_rate(|blocks| blocks.write_bytes, |io| io.write_bytes)
    })
    .wanting(DISKS),
    of("disk.throughput.contention.VM", Needs::NONE, |pair| {
        // The first reading tells nothing; later ones without a monitor tell 0.
        pair.before?;
        let Some(span) = pair.block_span() else { return Some(0.0) };
        let requests = span.growth(|blocks| Some(blocks.reads + blocks.writes))?;
        let ns = span.growth(|blocks| Some(blocks.read_ns + blocks.write_ns))?;
        Some(if requests > 0.0 { ns / 1e6 / requests } else { 0.0 })
    })
    .wanting(Needs::BLOCKS),
    of("disk.requests.read.VM", Needs::BLOCKS, |pair| pair.request_rate(|blocks| blocks.reads)),
    of("disk.requests.write.VM", Needs::BLOCKS, |pair| pair.request_rate(|blocks| blocks.writes)),
    of("disk.requests.flush.VM", Needs::BLOCKS, |pair| pair.request_rate(|blocks| blocks.flushes)),
    // What the host receives on a TAP interface, the guest has sent.
    of("net.throughput.usage.VM", Needs::INTERFACES, |pair| {
        Some(pair.net_rate(|nic| nic.received.bytes + nic.sent.bytes)? / KIB)
    }),
    of("net.throughput.receive.VM", Needs::INTERFACES, |pair| Some(pair.net_rate(|nic| nic.sent.bytes)? / KIB)),
    of("net.throughput.transmit.VM", Needs::INTERFACES, |pair| Some(pair.net_rate(|nic| nic.received.bytes)? / KIB)),
    of("net.throughput.contention.VM", Needs::INTERFACES, |pair| {
        pair.net_rate(|nic| nic.received.dropped + nic.sent.dropped)
    }),
    of("net.packets.receive.VM", Needs::INTERFACES, |pair| pair.net_rate(|nic| nic.sent.packets)),
    of("net.packets.transmit.VM", Needs::INTERFACES, |pair| pair.net_rate(|nic| nic.received.packets)),
    of("sys.uptime.current.VM", Needs::PROCESS.and(Needs::UPTIME), |pair| {
        let started_s = pair.process()?.started as f64 / rustix::param::clock_ticks_per_second() as f64;
        Some((pair.host.uptime_s? - started_s).max(0.0))
    }),
];
