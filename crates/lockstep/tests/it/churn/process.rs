//! What a process takes of this machine.

use std::time::Duration;

/// A process by its id.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    fn read(self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap()
    }

    /// Memory of its own that is resident, in KiB. Pages of files that are mapped are not counted: the system takes them away when it likes.
    pub fn resident_kib(self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// CPU time that it has had.
    pub fn cpu(self) -> Duration {
        let stat = self.read("stat");
        // The name may hold blanks; user and system time are the 14th and 15th of all.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}
