//! The collector on the machine that runs the tests, against what the usual tools print there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use lockstep_agent::{HostReader, Observed, ReadError};
use serde_json::Value;

/// The JSON that a tool prints; none, with the reason printed, if it is not there or fails.
fn printed(tool: &str, arguments: &[&str]) -> Option<Value> {
    let output = Command::new(tool).args(arguments).env("LC_ALL", "C").output();
    let json = output
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| serde_json::from_slice(&output.stdout).ok());
    if json.is_none() {
        eprintln!("skipped: {tool} {arguments:?} is not there or prints no JSON");
    }
    json
}

fn host() -> Observed {
    HostReader::new().read().unwrap().into_iter().find(|observed| observed.resource_type == "HostSystem").unwrap()
}

#[test]
fn processors_are_those_of_lscpu() {
    let Some(lscpu) = printed("lscpu", &["-J"]) else { return };
    let entries = lscpu["lscpu"].as_array().unwrap();
    let field = |name: &str| {
        let mut stack: Vec<&Value> = entries.iter().collect();
        while let Some(entry) = stack.pop() {
            if entry["field"] == name {
                return entry["data"].as_str().map(str::to_owned);
            }
            stack.extend(entry["children"].as_array().into_iter().flatten());
        }
        None
    };
    let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
    let host = host();
    let hardware = &host.properties["hardware"];
    assert_eq!(hardware["architecture"].as_str(), field("Architecture:").as_deref());
    if cfg!(target_arch = "x86_64") {
        assert_eq!(hardware["cpu_model"].as_str(), field("Model name:").as_deref());
    }
    if let (Some(sockets), Some(cores)) = (number("Socket(s):"), number("Core(s) per socket:")) {
        assert_eq!(hardware["cpu_sockets"].as_u64(), Some(sockets));
        assert_eq!(hardware["cpu_cores"].as_u64(), Some(sockets * cores));
    }
    if field("Off-line CPU(s) list:").is_none() {
        assert_eq!(hardware["cpu_threads"].as_u64(), number("CPU(s):"));
    }
    assert_eq!(host.properties.get("numa_nodes").and_then(Value::as_u64), number("NUMA node(s):"));
}

#[test]
fn memory_is_that_of_free() {
    for (unit, property) in [("-b", "memory_size_bytes"), ("-m", "memory_size_MiB")] {
        let Ok(output) = Command::new("free").arg(unit).env("LC_ALL", "C").output() else {
            eprintln!("skipped: free is not there");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("Mem:")?.split_ascii_whitespace().next());
        assert_eq!(host().properties["hardware"][property].as_u64(), total.unwrap().parse().ok(), "free {unit}");
    }
}

#[test]
fn disks_are_those_of_lsblk() {
    let Some(lsblk) = printed("lsblk", &["-J", "-b", "-o", "NAME,TYPE,SIZE,RM,ROTA"]) else { return };
    let mut expected = Vec::new();
    let mut stack: Vec<&Value> = lsblk["blockdevices"].as_array().unwrap().iter().collect();
    while let Some(device) = stack.pop() {
        stack.extend(device["children"].as_array().into_iter().flatten());
        let text = |name: &str| device[name].as_str().unwrap_or_default().to_owned();
        expected.push((
            text("name"),
            text("type"),
            device["size"].as_u64(),
            device["rm"].as_bool(),
            device["rota"].as_bool(),
        ));
    }
    let host = host();
    let disks = host.properties["disks"].as_array().unwrap();
    let mut found: Vec<_> = disks
        .iter()
        .map(|disk| {
            let text = |name: &str| disk[name].as_str().unwrap_or_default().to_owned();
            let flag = |name: &str| disk[name].as_bool();
            (text("name"), text("kind"), disk["capacity"].as_u64(), flag("removable"), flag("rotational"))
        })
        .collect();
    // A device on several others is printed below each of them.
    expected.sort();
    expected.dedup();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn addresses_are_those_of_ip() {
    let Some(links) = printed("ip", &["-j", "addr", "show"]) else { return };
    let host = host();
    for nic in host.properties["nics"].as_array().unwrap() {
        let link = links.as_array().unwrap().iter().find(|link| link["ifname"] == nic["label"]).unwrap();
        let is_lasting = |address: &&Value| address["temporary"] != true && address["tentative"] != true;
        let mut expected: Vec<&str> = link["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter(is_lasting)
            .filter_map(|address| address["local"].as_str())
            .collect();
        let mut found: Vec<&str> = nic["ip_addresses"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "{nic}");
        assert_eq!(nic["mtu"], link["mtu"]);
    }
}

#[test]
fn file_systems_are_those_of_df() {
    let observed = HostReader::new().read().unwrap();
    for datastore in observed.iter().filter(|observed| observed.resource_type == "Datastore") {
        let mount_point = datastore.properties["mount_point"].as_str().unwrap();
        let Ok(output) = Command::new("df").args(["-B1", "--output=size", mount_point]).output() else {
            eprintln!("skipped: df is not there");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let size = text.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
        assert_eq!(datastore.properties["capacity"].as_u64(), size, "{mount_point}");
    }
}

#[test]
fn two_readings_and_two_readers_agree() {
    let reader = HostReader::new();
    let fixed = |mut observed: Vec<Observed>| {
        // Other tests start VMs and write files meanwhile.
        observed.retain(|observed| observed.resource_type != "VirtualMachine");
        for datastore in observed.iter_mut().filter(|observed| observed.resource_type == "Datastore") {
            datastore.properties.remove("free_space");
        }
        observed
    };
    let first = fixed(reader.read().unwrap());
    assert_eq!(fixed(reader.read().unwrap()), first);
    assert_eq!(fixed(HostReader::new().read().unwrap()), first);
    assert!(first.iter().skip(1).all(|observed| observed.properties["host"]["id"] == *first[0].id));
}

#[test]
fn a_root_without_proc_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let error = HostReader::with_root(root.path()).read().unwrap_err();
    let ReadError::NotLinux { path, .. } = &error;
    assert_eq!(*path, root.path().join("proc/stat"));
}
