//! What the kernel says of a process: its memory and the CPU time it used. Source: `proc(5)`.

use std::time::Duration;

use anyhow::{Context, anyhow};

/// A process that is watched through `/proc`.
#[derive(Clone, Copy)]
pub struct Process {
    pid: u32,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy)]
pub struct Memory {
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Process {
    pub fn new(pid: u32) -> Self {
        Process { pid }
    }

    pub fn memory(&self) -> anyhow::Result<Memory> {
        let text = self.read("status")?;
        Ok(Memory { resident: status_field(&text, "VmRSS:")?, peak: status_field(&text, "VmHWM:")? })
    }

    /// CPU time of all threads, in user space and in the kernel; its grain is one clock tick, usually 10 ms.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let ticks = stat_ticks(&self.read("stat")?)?;
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }
}

fn status_field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| anyhow!("no {name} in status"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name} {line}"))?;
    Ok(kib * 1024)
}

/// `utime + stime`: fields 14 and 15. The command's name, field 2, may hold blanks and parentheses.
fn stat_ticks(text: &str) -> anyhow::Result<u64> {
    let (_, rest) = text.rsplit_once(')').ok_or_else(|| anyhow!("stat has no command name"))?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |n: usize| -> anyhow::Result<u64> {
        fields.get(n - 3).ok_or_else(|| anyhow!("stat is short"))?.parse().context("stat")
    };
    Ok(field(14)? + field(15)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_name_may_hold_anything() {
        let text = "17 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 40 2 13 14";
        assert_eq!(stat_ticks(text).unwrap(), 42);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = Process::new(std::process::id()).memory().unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
    }
}
