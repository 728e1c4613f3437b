//! The kernel's files about the whole host, understood.

use crate::host::datastores::Datastores;
use crate::tree::Tree;

const SECTOR_BYTES: u64 = 512;

/// `/proc/stat`: CPU time in clock ticks, of all processors together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stat {
    /// Guests are in it, as in `nice`.
    pub(crate) user: u64,
    pub(crate) nice: u64,
    pub(crate) system: u64,
    pub(crate) idle: u64,
    pub(crate) iowait: u64,
    /// Soft interrupts too.
    pub(crate) irq: u64,
    pub(crate) steal: u64,
    pub(crate) guest: u64,
    pub(crate) guest_nice: u64,
    /// Logical processors that are online.
    pub(crate) cpus: u64,
    pub(crate) interrupts: Option<u64>,
    pub(crate) switches: Option<u64>,
    pub(crate) forks: Option<u64>,
    pub(crate) running: Option<u64>,
    pub(crate) blocked: Option<u64>,
}

impl Stat {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut stat = Self::default();
        let mut is_there = false;
        for line in text.lines() {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            // The line of interrupts is long: only its first number, the sum, is read.
            let number = || rest.split_ascii_whitespace().next()?.parse().ok();
            match name {
                "cpu" => {
                    let mut times = rest.split_ascii_whitespace().map(|time| time.parse::<u64>().unwrap_or(0));
                    let mut next = || times.next().unwrap_or(0);
                    (stat.user, stat.nice, stat.system, stat.idle, stat.iowait) =
                        (next(), next(), next(), next(), next());
                    stat.irq = next() + next();
                    (stat.steal, stat.guest, stat.guest_nice) = (next(), next(), next());
                    is_there = true;
                }
                "intr" => stat.interrupts = number(),
                "ctxt" => stat.switches = number(),
                "processes" => stat.forks = number(),
                "procs_running" => stat.running = number(),
                "procs_blocked" => stat.blocked = number(),
                _ if name.starts_with("cpu") => stat.cpus += 1,
                _ => {}
            }
        }
        (is_there && stat.cpus > 0).then_some(stat)
    }
}

/// `/proc/loadavg`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Load {
    /// Of one, five and fifteen minutes.
    pub(crate) averages: [f64; 3],
    pub(crate) tasks: u64,
}

impl Load {
    /// `0.71 0.49 0.39 3/110 17498`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace();
        let mut average = || fields.next()?.parse::<f64>().ok();
        let averages = [average()?, average()?, average()?];
        let tasks = fields.next()?.split_once('/')?.1.parse().ok()?;
        Some(Self { averages, tasks })
    }
}

/// The run delays of `/proc/schedstat`: the eighth of nine numbers of each processor's line.
pub(crate) fn parse_run_delay_ns(text: &str) -> Option<u64> {
    let mut delays = text
        .lines()
        .filter(|line| line.starts_with("cpu"))
        .map(|line| line.split_ascii_whitespace().nth(8)?.parse::<u64>().ok())
        .peekable();
    delays.peek()?;
    delays.try_fold(0u64, |sum, delay| Some(sum.wrapping_add(delay?)))
}

/// The total of the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=28021751`.
pub(crate) fn parse_pressure_us(text: &str) -> Option<u64> {
    text.lines().find(|line| line.starts_with("some "))?.rsplit_once("total=")?.1.trim().parse().ok()
}

/// `/proc/meminfo` in KiB.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) free: u64,
    pub(crate) available: Option<u64>,
    pub(crate) buffers: u64,
    /// Shared memory is in it.
    pub(crate) cached: u64,
    pub(crate) shared: u64,
    pub(crate) anonymous: u64,
    pub(crate) slab: u64,
    pub(crate) page_tables: u64,
    pub(crate) dirty: u64,
    pub(crate) writeback: u64,
    pub(crate) committed: u64,
    pub(crate) swap_total: u64,
    pub(crate) swap_free: u64,
    pub(crate) swap_cached: u64,
    pub(crate) huge_pages_used: u64,
}

impl Memory {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut memory = Self::default();
        let (mut huge_total, mut huge_free, mut huge_kib) = (0u64, 0u64, 0u64);
        for line in text.lines() {
            let Some((name, rest)) = line.split_once(':') else { continue };
            let Some(number) = rest.split_ascii_whitespace().next().and_then(|text| text.parse::<u64>().ok()) else {
                continue;
            };
            let field = match name {
                "MemTotal" => &mut memory.total,
                "MemFree" => &mut memory.free,
                "MemAvailable" => memory.available.insert(0),
                "Buffers" => &mut memory.buffers,
                "Cached" => &mut memory.cached,
                "Shmem" => &mut memory.shared,
                "AnonPages" => &mut memory.anonymous,
                "Slab" => &mut memory.slab,
                "PageTables" => &mut memory.page_tables,
                "Dirty" => &mut memory.dirty,
                "Writeback" => &mut memory.writeback,
                "Committed_AS" => &mut memory.committed,
                "SwapTotal" => &mut memory.swap_total,
                "SwapFree" => &mut memory.swap_free,
                "SwapCached" => &mut memory.swap_cached,
                "HugePages_Total" => &mut huge_total,
                "HugePages_Free" => &mut huge_free,
                "Hugepagesize" => &mut huge_kib,
                _ => continue,
            };
            *field = number;
        }
        memory.huge_pages_used = huge_total.saturating_sub(huge_free).saturating_mul(huge_kib);
        (memory.total > 0).then_some(memory)
    }
}

/// `/proc/vmstat` in pages and faults.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Paging {
    pub(crate) swapped_in: u64,
    pub(crate) swapped_out: u64,
    /// Major ones too.
    pub(crate) faults: u64,
    pub(crate) major_faults: u64,
}

impl Paging {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut paging = Self::default();
        let mut found = 0;
        for line in text.lines() {
            let Some((name, number)) = line.split_once(' ') else { continue };
            let field = match name {
                "pswpin" => &mut paging.swapped_in,
                "pswpout" => &mut paging.swapped_out,
                "pgfault" => &mut paging.faults,
                "pgmajfault" => &mut paging.major_faults,
                _ => continue,
            };
            *field = number.trim().parse().ok()?;
            found += 1;
        }
        // A kernel without swapping has no lines of it.
        (found >= 2).then_some(paging)
    }
}

/// A physical disk in `/proc/diskstats`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) read_ms: u64,
    pub(crate) writes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) write_ms: u64,
    pub(crate) outstanding: u64,
    pub(crate) busy_ms: u64,
    /// Since Linux 5.5.
    pub(crate) flushes: Option<u64>,
}

impl Disk {
    /// `254 0 vda 53041 22664 3996826 19233 6430 38077 4769272 12322 0 9504 31871 4505 35 132752 313 45 1`.
    pub(crate) fn parse(line: &str, is_wanted: impl FnOnce(&str) -> bool) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let name = fields.next()?;
        if !is_wanted(name) {
            return None;
        }
        let mut numbers = [0u64; 16];
        let mut count = 0;
        for (number, field) in numbers.iter_mut().zip(fields) {
            *number = field.parse().ok()?;
            count += 1;
        }
        let [reads, _, read_sectors, read_ms, writes, _, write_sectors, write_ms, outstanding, busy_ms, ..] = numbers;
        (count >= 10).then(|| Self {
            name: name.to_owned(),
            reads,
            read_bytes: read_sectors.wrapping_mul(SECTOR_BYTES),
            read_ms,
            writes,
            write_bytes: write_sectors.wrapping_mul(SECTOR_BYTES),
            write_ms,
            outstanding,
            busy_ms,
            flushes: (count >= 16).then_some(numbers[15]),
        })
    }
}

/// The file systems on block devices, together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FileSystems {
    pub(crate) bytes: u64,
    pub(crate) used_bytes: u64,
}

impl FileSystems {
    pub(crate) fn read(tree: &Tree) -> Option<Self> {
        let mut total = Self::default();
        for datastore in Datastores::read(tree, "").list {
            let point = datastore.mount_point.strip_prefix("/").unwrap_or(&datastore.mount_point);
            let Ok(space) = rustix::fs::statvfs(tree.path(point)) else { continue };
            total.bytes += space.f_blocks.saturating_mul(space.f_frsize);
            // What is kept for the superuser is not in use.
            total.used_bytes += space.f_blocks.saturating_sub(space.f_bfree).saturating_mul(space.f_frsize);
        }
        (total.bytes > 0).then_some(total)
    }
}

/// An interface in `/proc/net/dev`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// Whether it is the host's own way out.
    pub(crate) is_physical: bool,
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
}

/// One direction of an interface.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

impl Interface {
    /// `  eth0: 83038176 4475 0 0 0 0 0 0 263457 2433 0 0 0 0 0 0`; the number may follow the colon at once.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (name, rest) = line.split_once(':')?;
        let mut numbers = [0u64; 16];
        let mut fields = rest.split_ascii_whitespace();
        for number in &mut numbers {
            *number = fields.next()?.parse().ok()?;
        }
        let traffic = |at: usize| Traffic {
            bytes: numbers[at],
            packets: numbers[at + 1],
            errors: numbers[at + 2],
            dropped: numbers[at + 3],
        };
        Some(Self { name: name.trim().to_owned(), is_physical: false, received: traffic(0), sent: traffic(8) })
    }

    /// The one of that name among interfaces by name.
    pub(crate) fn find<'a>(interfaces: &'a [Self], name: &str) -> Option<&'a Self> {
        let at = interfaces.binary_search_by(|interface| interface.name.as_str().cmp(name)).ok()?;
        interfaces.get(at)
    }
}

/// Link speeds of the physical interfaces that are up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Links {
    pub(crate) mbps: u64,
    /// Of those that have carried traffic.
    pub(crate) in_use_mbps: u64,
}

impl Links {
    pub(crate) fn read(tree: &Tree, interfaces: &[Interface]) -> Self {
        let mut links = Self::default();
        for interface in interfaces.iter().filter(|interface| interface.is_physical) {
            let directory = format!("sys/class/net/{}", interface.name);
            if tree.flag(format!("{directory}/carrier")) != Some(true) {
                continue;
            }
            // -1 where the driver does not know.
            let speed = tree.number::<i64>(format!("{directory}/speed")).and_then(|speed| u64::try_from(speed).ok());
            let speed = speed.filter(|mbps| *mbps < u64::from(u32::MAX)).unwrap_or(0);
            links.mbps += speed;
            if interface.received.packets > 0 || interface.sent.packets > 0 {
                links.in_use_mbps += speed;
            }
        }
        links
    }
}

/// TCP in `/proc/net/snmp`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tcp {
    pub(crate) established: u64,
    pub(crate) retransmits: u64,
}

impl Tcp {
    /// A line of names and one of numbers, both beginning with `Tcp:`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let (names, numbers) = (lines.next()?, lines.next()?);
        let find = |wanted: &str| {
            let at = names.split_ascii_whitespace().position(|name| name == wanted)?;
            numbers.split_ascii_whitespace().nth(at)?.parse().ok()
        };
        Some(Self { established: find("CurrEstab")?, retransmits: find("RetransSegs")? })
    }
}
