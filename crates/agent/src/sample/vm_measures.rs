//! The counters of VMs. What each means stands in the catalogue, `lockstep_contract::counters`.

use super::host_reading::HostReading;
use super::kernel_files::Interface;
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::reading::{Reading, Wanted};
    use super::super::{Sampler, VM_MEASURES};
    use super::*;
    use crate::tree::fixture::Fixture;

    const UUID: &str = "6f1c2f44-7a4b-4e0e-9a35-0d9c3a1f2b11";

    /// `/proc/PID/stat` of a process that was started 100 s after the machine.
    fn stat(started: u64, minor: u64, major: u64, user: u64, system: u64, guest: u64) -> String {
        let hz = rustix::param::clock_ticks_per_second();
        let (user, system, guest, started) = (user * hz, system * hz, guest * hz, started * hz);
        format!(
            "10 (q) S 1 1 1 0 -1 4 {minor} 0 {major} 0 {user} {system} 0 0 20 0 4 0 {started} 1 2 3 4 5 6 7 8 9 10 11 12 13 \
             14 15 16 17 18 19 20 {guest} 0"
        )
    }

    /// A host of 2000 MHz with a VM of two processors, 1024 MiB and one TAP interface, held to 1.5 processors and 512 MiB.
    fn machine() -> Fixture {
        let command = format!(
            "/usr/bin/qemu-system-x86_64\0-uuid\0{UUID}\0-smp\02\0-m\01024\0-netdev\0tap,id=n,ifname=vnet0\0-qmp\0unix:/q,server=on\0"
        );
        let fixture = Fixture::new(&[
            ("proc/cpuinfo", "model name : X @ 2.00GHz\n"),
            ("proc/uptime", "160.5 1\n"),
            ("proc/net/dev", DEV),
            ("proc/10/cmdline", &command),
            ("proc/10/stat", &stat(100, 500, 10, 30, 10, 20)),
            (
                "proc/10/status",
                "VmRSS: 524288 kB\nRssAnon: 1 kB\nRssFile: 1024 kB\nRssShmem: 2048 kB\nVmSwap: 64 kB\nHugetlbPages: 0 kB\n",
            ),
            ("proc/10/io", "read_bytes: 1000\nwrite_bytes: 1000\n"),
            ("proc/10/task/10/comm", "qemu\n"),
            ("proc/10/task/10/schedstat", "5 1000000000 100\n"),
            ("proc/10/task/11/comm", "CPU 0/KVM\n"),
            ("proc/10/task/11/schedstat", "5 1000000000 200\n"),
            ("proc/10/task/12/comm", "CPU 1/KVM\n"),
            ("proc/10/task/12/schedstat", "5 0 0\n"),
            ("proc/10/cgroup", "0::/vm\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory"),
            ("sys/fs/cgroup/vm/cpu.max", "150000 100000"),
            ("sys/fs/cgroup/vm/memory.max", "536870912"),
        ]);
        // Its socket, and nobody is connected.
        fixture.write("proc/10/net/unix", "Num RefCount Protocol Flags Type St Inode Path\n");
        fixture
    }

    const DEV: &str = "a\nb\n vnet0: 1024 10 0 1 0 0 0 0 2048 20 0 2 0 0 0 0\n eth0: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n";

    /// The machine ten seconds later.
    fn pass_time(fixture: &Fixture) {
        fixture.write("proc/10/stat", stat(100, 700, 20, 39, 13, 27));
        fixture.write("proc/10/io", "read_bytes: 11240\nwrite_bytes: 21480\n");
        fixture.write("proc/10/task/10/schedstat", "5 2000000000 150\n");
        fixture.write("proc/10/task/11/schedstat", "5 4000000000 300\n");
        fixture.write("proc/10/task/12/schedstat", "5 1000000000 30\n");
        fixture.write("proc/10/task/13/comm", "worker\n");
        fixture.write("proc/10/task/13/schedstat", "5 0 20\n");
        fixture
            .write("proc/net/dev", DEV.replace("1024 10 0 1", "11264 30 0 2").replace("2048 20 0 2", "22528 70 0 3"));
    }

    fn read(sampler: &mut Sampler) -> Reading {
        let all = VM_MEASURES.iter().fold(Needs::NONE, |all, measure| all | measure.reads());
        sampler.read(&Wanted { every_vm: all, ..Wanted::default() })
    }

    fn set_times(reading: &mut Reading, taken: Instant) {
        if let Some(part) = &mut reading.host.interfaces {
            part.taken = taken;
        }
        for vm in reading.vms.values_mut() {
            macro_rules! set {
                ($($part:ident),*) => { $( if let Some(part) = &mut vm.$part { part.taken = taken; } )* };
            }
            set!(process, holdings, io, threads, blocks);
        }
    }

    fn id() -> Arc<str> {
        format!("vm-{UUID}").into()
    }

    /// Values ten seconds after `before`.
    fn check(before: &mut Reading, now: &mut Reading, expected: &[(&str, Option<f64>)]) {
        let then = Instant::now();
        set_times(before, then);
        set_times(now, then + Duration::from_secs(10));
        let pair = VmPair::new((&now.vms[&id()], before.vms.get(&id())), (&now.host, Some(&before.host)));
        for (cid, expected) in expected {
            let measure = VM_MEASURES.iter().find(|measure| measure.cid.trim_end_matches(".VM") == *cid).unwrap();
            let counter = measure.counter().unwrap();
            assert_eq!((measure.value)(&pair).map(|value| counter.round(value)), *expected, "{cid}");
        }
    }

    #[test]
    fn values_are_those_that_the_catalogue_says() {
        let fixture = machine();
        let mut sampler = Sampler::with_root(fixture.root());
        let mut before = read(&mut sampler);
        pass_time(&fixture);
        let mut now = read(&mut sampler);
        let expected = [
            ("cpu.capacity.provisioned", Some(4000.0)),
            ("cpu.capacity.entitlement", Some(3000.0)),
            ("cpu.capacity.usage", Some(2400.0)),
            ("cpu.capacity.demand", Some(3400.0)),
            ("cpu.capacity.contention", Some(20.0)),
            ("cpu.utilization.usage", Some(60.0)),
            ("cpu.time.user", Some(10.0)),
            ("cpu.time.system", Some(15.0)),
            ("cpu.time.guest", Some(35.0)),
            ("cpu.corecount.provisioned", Some(2.0)),
            ("cpu.threads.total", Some(4.0)),
            ("cpu.switches.usage", Some(20.0)),
            ("mem.capacity.provisioned", Some(1024.0)),
            ("mem.capacity.entitlement", Some(512.0)),
            ("mem.capacity.usage", Some(512.0)),
            ("mem.capacity.shared", Some(3.0)),
            ("mem.swap.current", Some(64.0)),
            ("mem.faults.minor", Some(20.0)),
            ("mem.faults.major", Some(1.0)),
            ("disk.throughput.usage", Some(3.0)),
            ("disk.throughput.read", Some(1.0)),
            ("disk.throughput.write", Some(2.0)),
            ("disk.throughput.contention", Some(0.0)),
            ("disk.requests.read", None),
            ("disk.requests.write", None),
            ("disk.requests.flush", None),
            ("net.throughput.usage", Some(3.0)),
            ("net.throughput.receive", Some(2.0)),
            ("net.throughput.transmit", Some(1.0)),
            ("net.throughput.contention", Some(0.2)),
            ("net.packets.receive", Some(5.0)),
            ("net.packets.transmit", Some(2.0)),
            ("sys.uptime.current", Some(61.0)),
        ];
        assert_eq!(expected.len(), VM_MEASURES.len());
        check(&mut before, &mut now, &expected);
    }

    #[test]
    fn a_monitor_that_is_free_tells_of_requests() {
        let fixture = machine();
        let listener = UnixListener::bind(fixture.root().join("q")).unwrap();
        fixture.write(
            "proc/10/net/unix",
            "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 00010000 0001 01 8836 /q\n",
        );
        std::thread::spawn(move || {
            for round in 1..=2u64 {
                let mut stream = BufReader::new(listener.accept().unwrap().0);
                let (reads, ns) = (round * 100, round * 500_000_000);
                let script = format!(
                    "{{\"QMP\": {{}}}}\n{{\"return\": {{}}}}\n{{\"return\": [{{\"stats\": {{\"rd_operations\": {reads}, \
                     \"rd_total_time_ns\": {ns}, \"rd_bytes\": {}, \"wr_bytes\": 0}}}}], \"id\": \"query-blockstats\"}}\n\
                     {{\"return\": {{\"actual\": 268435456}}, \"id\": \"query-balloon\"}}\n",
                    round * 102_400
                );
                stream.get_mut().write_all(script.as_bytes()).unwrap();
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap() > 0 {}
            }
        });
        let mut sampler = Sampler::with_root(fixture.root());
        let mut before = read(&mut sampler);
        pass_time(&fixture);
        let mut now = read(&mut sampler);
        let expected = [
            ("disk.requests.read", Some(10.0)),
            ("disk.requests.write", Some(0.0)),
            ("disk.throughput.read", Some(10.0)),
            ("disk.throughput.contention", Some(5.0)),
            ("mem.capacity.entitlement", Some(256.0)),
        ];
        check(&mut before, &mut now, &expected);

        // A client takes it: then the kernel's counts are all there is.
        fixture.write("proc/10/net/unix", "head\n0: 3 0 00000000 0001 03 8840 /q\n");
        let mut later = read(&mut sampler);
        let expected = [("disk.requests.read", None), ("disk.throughput.read", Some(0.0))];
        check(&mut now, &mut later, &expected);
    }

    #[test]
    fn a_vm_that_was_started_anew_gives_no_rates_at_first() {
        let fixture = machine();
        let mut sampler = Sampler::with_root(fixture.root());
        let mut before = read(&mut sampler);
        pass_time(&fixture);
        fixture.write("proc/10/stat", stat(150, 700, 20, 39, 13, 27));
        let mut now = read(&mut sampler);
        let expected = [
            ("cpu.utilization.usage", None),
            ("cpu.switches.usage", None),
            ("disk.throughput.contention", None),
            ("net.throughput.usage", None),
            ("mem.capacity.usage", Some(512.0)),
            ("sys.uptime.current", Some(11.0)),
        ];
        check(&mut before, &mut now, &expected);

        std::fs::remove_dir_all(fixture.root().join("proc/10")).unwrap();
        assert!(read(&mut sampler).vms.is_empty());
        assert_eq!(read(&mut sampler).host.vm_count, Some(0));
    }

    #[test]
    fn a_vm_without_interfaces_on_the_host_has_no_traffic_and_unnamed_threads_all_count() {
        let fixture = machine();
        let command = format!("qemu-system-x86_64\0-uuid\0{UUID}\0-smp\02\0-netdev\0user,id=n\0");
        fixture.write("proc/10/cmdline", command);
        for thread in [11, 12] {
            fixture.write(&format!("proc/10/task/{thread}/comm"), "qemu\n");
        }
        let mut sampler = Sampler::with_root(fixture.root());
        let mut before = read(&mut sampler);
        pass_time(&fixture);
        let mut now = read(&mut sampler);
        let expected = [("net.throughput.usage", None), ("cpu.capacity.contention", Some(25.0))];
        check(&mut before, &mut now, &expected);
    }
}
