//! What the kernel and QEMU tell of one VM, source by source.

use std::sync::Arc;

use serde_json::Value;

use super::control_group::Limits;
use super::part::Part;

/// A process for good: its pid and start time.
pub(crate) type ProcessKey = (u32, u64);

/// A VM at a time. A part is there if it was needed and can be had.
#[derive(Debug, Clone)]
pub(crate) struct VmReading {
    /// Counts of another process are those of another run.
    pub(crate) key: ProcessKey,
    pub(crate) facts: Facts,
    pub(crate) process: Option<Part<ProcessStat>>,
    pub(crate) holdings: Option<Part<Holdings>>,
    pub(crate) io: Option<Part<ProcessIo>>,
    /// By id.
    pub(crate) threads: Option<Part<Vec<Thread>>>,
    pub(crate) blocks: Option<Part<Blocks>>,
    pub(crate) balloon_bytes: Option<u64>,
    pub(crate) limits: Option<Limits>,
    /// Its interfaces on the host.
    pub(crate) taps: Arc<[String]>,
}

impl VmReading {
    /// Takes over the parts that are missing from a reading of the same run.
    pub(crate) fn complete_by(&mut self, other: &Self) {
        macro_rules! complete {
            ($($part:ident),* $(,)?) => { $( if self.$part.is_none() { self.$part.clone_from(&other.$part); } )* };
        }
        if self.key == other.key {
            complete!(process, holdings, io, threads, blocks, balloon_bytes, limits);
        }
    }
}

/// What the command line says of the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) vcpus: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
}

/// `/proc/PID/stat`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ProcessStat {
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    /// Clock ticks. Guests are in it.
    pub(crate) user: u64,
    pub(crate) system: u64,
    pub(crate) threads: u64,
    pub(crate) started: u64,
    pub(crate) guest: u64,
}

impl ProcessStat {
    /// None of a process that has ended. The name in parentheses can hold anything, so fields are counted from its end.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut stat = Self::default();
        for (at, field) in fields.split_ascii_whitespace().enumerate() {
            let number = || field.parse::<u64>().ok();
            // The state is the third field of proc(5) and has the number 0 here.
            match at {
                0 if matches!(field, "Z" | "X" | "x") => return None,
                7 => stat.minor_faults = number()?,
                9 => stat.major_faults = number()?,
                11 => stat.user = number()?,
                12 => stat.system = number()?,
                17 => stat.threads = number()?,
                19 => stat.started = number()?,
                40 => {
                    stat.guest = number()?;
                    return Some(stat);
                }
                _ => {}
            }
        }
        // Kernels of long ago and fixtures end before the time in guests.
        (stat.started > 0).then_some(stat)
    }
}

/// `/proc/PID/status` in KiB.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Holdings {
    /// Huge pages too, which the kernel does not count as resident.
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) shared: u64,
    pub(crate) swapped: u64,
}

impl Holdings {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut holdings = Self::default();
        let mut has_resident = false;
        for line in text.lines() {
            let Some((name, rest)) = line.split_once(':') else { continue };
            let number = || rest.split_ascii_whitespace().next()?.parse::<u64>().ok();
            match name {
                "VmRSS" => {
                    holdings.resident += number()?;
                    has_resident = true;
                }
                "HugetlbPages" => holdings.resident += number()?,
                "RssAnon" => holdings.anonymous = number()?,
                "RssFile" | "RssShmem" => holdings.shared += number()?,
                "VmSwap" => holdings.swapped = number()?,
                _ => {}
            }
        }
        has_resident.then_some(holdings)
    }
}

/// `/proc/PID/io`: what reached the block devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ProcessIo {
    pub(crate) read_bytes: u64,
    pub(crate) write_bytes: u64,
}

impl ProcessIo {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let find = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
        Some(Self { read_bytes: find("read_bytes:")?, write_bytes: find("write_bytes:")? })
    }
}

/// A thread of the process.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Thread {
    pub(crate) id: u32,
    pub(crate) is_vcpu: bool,
    /// Nanoseconds that it could run and waited.
    pub(crate) delay_ns: u64,
    /// How often it came to run.
    pub(crate) switches: u64,
}

impl Thread {
    /// `/proc/PID/task/TID/schedstat`: time run, time waited, and how often it came to run.
    pub(crate) fn parse(text: &str, id: u32, is_vcpu: bool) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace().skip(1);
        Some(Self { id, is_vcpu, delay_ns: fields.next()?.parse().ok()?, switches: fields.next()?.parse().ok()? })
    }
}

/// `query-blockstats`: what the guest asked of its disks, of all together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Blocks {
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) read_ns: u64,
    pub(crate) writes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) write_ns: u64,
    pub(crate) flushes: u64,
}

impl Blocks {
    /// Each element is a device of the guest; what lies below it (images and their backing files) is nested in it and left
    /// out, as it does the same work again.
    pub(crate) fn parse(answer: &Value) -> Option<Self> {
        let mut blocks = Self::default();
        for device in answer.as_array()? {
            let stats = device.get("stats")?;
            let number = |name: &str| stats.get(name).and_then(Value::as_u64).unwrap_or(0);
            blocks.reads += number("rd_operations");
            blocks.read_bytes += number("rd_bytes");
            blocks.read_ns += number("rd_total_time_ns");
            blocks.writes += number("wr_operations");
            blocks.write_bytes += number("wr_bytes");
            blocks.write_ns += number("wr_total_time_ns");
            blocks.flushes += number("flush_operations");
        }
        Some(blocks)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_process() {
        let text = "10 (q) (x) S 1 2 3 4 5 6 700 8 900 10 1100 1200 13 14 20 0 5 0 777 1 2 3 4 5 6 7 8 9 10 11 12 13 14 \
                    15 16 17 18 19 20 4100 21";
        let expected = ProcessStat {
            minor_faults: 700,
            major_faults: 900,
            user: 1100,
            system: 1200,
            threads: 5,
            started: 777,
            guest: 4100,
        };
        assert_eq!(ProcessStat::parse(text), Some(expected));
        assert_eq!(ProcessStat::parse(&text.replace(") S ", ") Z ")), None);
        assert_eq!(ProcessStat::parse("10 (q) S 1 2"), None);
        assert_eq!(ProcessStat::parse(""), None);
    }

    #[test]
    fn what_a_process_holds_includes_huge_pages() {
        let text = "Name:\tq\nVmRSS:\t  1000 kB\nRssAnon:\t 600 kB\nRssFile:\t 300 kB\nRssShmem:\t 100 kB\nVmSwap:\t 7 kB\n\
                    HugetlbPages:\t 2048 kB\nThreads:\t3\n";
        let expected = Holdings { resident: 3048, anonymous: 600, shared: 400, swapped: 7 };
        assert_eq!(Holdings::parse(text), Some(expected));
        assert_eq!(Holdings::parse("Name:\tkthread\n"), None);
    }

    #[test]
    fn input_and_output() {
        let text =
            "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 5\n";
        assert_eq!(ProcessIo::parse(text), Some(ProcessIo { read_bytes: 4096, write_bytes: 8192 }));
        assert_eq!(ProcessIo::parse(""), None);
    }

    #[test]
    fn disks_of_a_guest_are_summed_without_what_lies_below_them() {
        let stats = json!({"rd_bytes": 100, "wr_bytes": 200, "rd_operations": 1, "wr_operations": 2, "flush_operations": 3,
            "rd_total_time_ns": 5, "wr_total_time_ns": 7});
        let answer = json!([
            {"qdev": "a", "stats": stats, "parent": {"stats": stats}, "backing": {"stats": stats}},
            {"device": "b", "stats": stats},
        ]);
        let expected =
            Blocks { reads: 2, read_bytes: 200, read_ns: 10, writes: 4, write_bytes: 400, write_ns: 14, flushes: 6 };
        assert_eq!(Blocks::parse(&answer), Some(expected));
        assert_eq!(Blocks::parse(&json!([])), Some(Blocks::default()));
        assert_eq!(Blocks::parse(&json!({})), None);
    }
}
