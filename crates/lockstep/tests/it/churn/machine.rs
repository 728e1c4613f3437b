//! The virtual machines of the scripted source: what they are, there in XML and here in paths.

use std::fmt::Write as _;

/// Folders that machines move between: the first stands above the others.
pub const FOLDERS: u32 = 5;

/// Hosts that machines move between.
pub const HOSTS: u32 = 8;

/// What moves here only in steps of a hundredth: what is added there is too little to be told.
const COMMITTED: u64 = 40 << 30;

/// A machine at the source. Its texts are made of numbers that never come twice, so that each is new to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub name: u64,
    pub annotation: u64,
    pub address: u32,
    pub is_on: bool,
    /// Seconds since some time; of the last time it was switched on.
    pub booted_s: u64,
    pub memory_mib: u64,
    pub folder: u32,
    pub host: u32,
    /// Snapshots, the oldest first, by their numbers.
    pub snapshots: Vec<u64>,
    /// What its disks take there, beyond a fixed size: less than is told here.
    pub committed_more: u64,
}

impl Machine {
    /// A machine of that number, as it is made.
    pub fn new(number: u32) -> Self {
        Self {
            name: 0,
            annotation: 0,
            address: number,
            is_on: number.is_multiple_of(2),
            booted_s: 0,
            memory_mib: 1024,
            folder: 1 + number % (FOLDERS - 1),
            host: number % HOSTS,
            snapshots: Vec::new(),
            committed_more: 0,
        }
    }

    /// The value of a property here, as the server writes it; `None` when it is unset.
    pub fn value(&self, number: u32, path: &str) -> Option<serde_json::Value> {
        use serde_json::json;
        Some(match path {
            "name" => json!(format!("machine-{number}-{}", self.name)),
            "annotation" => json!(note(number, self.annotation)),
            "ip_address" => json!(address(self.address)),
            "power_state" => json!(if self.is_on { "POWERED_ON" } else { "POWERED_OFF" }),
            "boot_time" => json!(booted(self.booted_s)),
            "memory_size_MiB" => json!(self.memory_mib),
            "folder" => json!({"type": "Folder", "id": folder(self.folder)}),
            "host" => json!({"type": "HostSystem", "id": host(self.host)}),
            "snapshots" if self.snapshots.is_empty() => return None,
            "snapshots" => {
                let last = self.snapshots.last();
                let one = |number: &u64| {
                    json!({"id": format!("snapshot-{number}"), "name": format!("before {number}"),
                        "created": booted(*number), "power_state": "POWERED_ON", "current": Some(number) == last})
                };
                json!(self.snapshots.iter().map(one).collect::<Vec<_>>())
            }
            other => panic!("no property {other}"),
        })
    }

    /// The paths here that differ from those of an earlier state.
    pub fn differs(&self, before: &Self) -> Vec<&'static str> {
        let differs = |path: &&'static str| self.value(0, path) != before.value(0, path);
        PATHS.iter().map(|(path, _)| *path).filter(differs).collect()
    }

    /// The properties there, as `changeSet` elements: those behind `paths` here and those that are `told` although nothing came of them here.
    pub fn change_sets(&self, number: u32, paths: &[&str], noise: bool) -> String {
        let mut out = String::new();
        for (_, there) in PATHS.iter().filter(|(path, _)| paths.contains(path)) {
            let _ =
                write!(out, "<changeSet><name>{there}</name><op>assign</op>{}</changeSet>", self.there(number, there));
        }
        if noise {
            let committed = COMMITTED + self.committed_more;
            let _ = write!(
                out,
                "<changeSet><name>summary.storage</name><op>assign</op><val xsi:type=\"VirtualMachineStorageSummary\">\
                 <committed>{committed}</committed><uncommitted>{COMMITTED}</uncommitted></val></changeSet>\
                 <changeSet><name>config.hardware.memoryMB</name><op>assign</op>{}</changeSet>",
                self.there(number, "config.hardware.memoryMB")
            );
        }
        out
    }

    fn there(&self, number: u32, path: &str) -> String {
        let text = |text: String| format!("<val xsi:type=\"xsd:string\">{text}</val>");
        let object = |kind: &str, id: String| format!("<val type=\"{kind}\">{id}</val>");
        match path {
            "name" => text(format!("machine-{number}-{}", self.name)),
            "config.annotation" => text(note(number, self.annotation)),
            "guest.ipAddress" => text(address(self.address)),
            "runtime.powerState" => text(if self.is_on { "poweredOn" } else { "poweredOff" }.to_owned()),
            "runtime.bootTime" => text(booted(self.booted_s)),
            "config.hardware.memoryMB" => text(self.memory_mib.to_string()),
            "parent" => object("Folder", folder(self.folder)),
            "runtime.host" => object("HostSystem", host(self.host)),
            "snapshot" if self.snapshots.is_empty() => String::new(),
            "snapshot" => {
                let current = self.snapshots.last().copied().unwrap_or_default();
                let one = |number: &u64| {
                    format!(
                        "<rootSnapshotList><snapshot type=\"VirtualMachineSnapshot\">snapshot-{number}</snapshot>\
                         <name>before {number}</name><createTime>{}</createTime><state>poweredOn</state></rootSnapshotList>",
                        booted(*number)
                    )
                };
                let all: String = self.snapshots.iter().map(one).collect();
                format!(
                    "<val><currentSnapshot type=\"VirtualMachineSnapshot\">snapshot-{current}</currentSnapshot>{all}</val>"
                )
            }
            other => panic!("no property {other}"),
        }
    }
}

/// Properties here, and the one there that each comes from.
pub const PATHS: [(&str, &str); 9] = [
    ("annotation", "config.annotation"),
    ("boot_time", "runtime.bootTime"),
    ("folder", "parent"),
    ("host", "runtime.host"),
    ("ip_address", "guest.ipAddress"),
    ("memory_size_MiB", "config.hardware.memoryMB"),
    ("name", "name"),
    ("power_state", "runtime.powerState"),
    ("snapshots", "snapshot"),
];

/// The id of a machine.
pub fn id(number: u32) -> String {
    format!("vm-{number}")
}

pub fn folder(number: u32) -> String {
    format!("group-v{number}")
}

pub fn host(number: u32) -> String {
    format!("host-{number}")
}

fn note(number: u32, annotation: u64) -> String {
    format!("vm-{number} was noted to be in order at inspection {annotation}")
}

/// The number of the inspection in an annotation.
pub fn inspection(annotation: &str) -> Option<u64> {
    annotation.rsplit(' ').next()?.parse().ok()
}

fn address(number: u32) -> String {
    let [_, b, c, d] = number.to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

fn booted(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 % 28, seconds % 86_400);
    let month = seconds / 86_400 / 28 % 12;
    format!(
        "20{:02}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        10 + seconds / 86_400 / 28 / 12 % 80,
        month + 1,
        days + 1,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Whether an id is one of a machine of the source; those of this machine's guests have more behind `vm-`.
pub fn is_machine(id: &str) -> bool {
    id.strip_prefix("vm-").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Whether an id is one of what the source's machines are in and on.
pub fn is_container(id: &str) -> bool {
    id.starts_with("group-") || id.strip_prefix("host-").is_some_and(|number| number.len() == 1)
}
