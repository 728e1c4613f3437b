//! A reader of the feed that knows what it must have.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;

use super::machine::{inspection, is_container, is_machine};
use super::source::{Expected, Source};
use crate::server::Server;

/// What the ids of the simulator's machines begin with: it is the second source of its kind.
pub const SIMULATED: &str = "sim:";

/// What the feed had.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of the source with the high rate.
    pub events: u64,
    /// Renames of the simulator's machines.
    pub renames: u64,
    /// Of the virtual machine here.
    pub process: Vec<String>,
    /// Of this machine, and whatever else runs on it.
    pub host: BTreeMap<String, u64>,
    /// Values that were looked at when an event of them came.
    pub looks: u64,
}

/// Follows the feed until it is told to stop and nothing more comes.
pub struct Follower<'a> {
    server: &'a Server,
    source: &'a Source,
    /// The id of the virtual machine here, if there is one.
    process: Option<&'a str>,
    /// The greatest inspection that was seen of a machine.
    inspections: HashMap<String, u64>,
    seen: Seen,
    /// Counted up with each event, for who wants to see that they come.
    events: &'a AtomicU64,
}

impl<'a> Follower<'a> {
    pub fn new(server: &'a Server, source: &'a Source, process: Option<&'a str>, events: &'a AtomicU64) -> Self {
        Self { server, source, process, inspections: HashMap::new(), seen: Seen::default(), events }
    }

    /// What the feed had, and where it ended.
    pub fn follow(mut self, mut token: String, stop: &AtomicBool) -> (Seen, String) {
        loop {
            let is_last = stop.load(Ordering::SeqCst);
            let (status, answer) = self.server.changes(&token);
            assert_eq!(status, 200, "{answer}");
            token = answer["value"]["sequence"].as_str().unwrap().to_owned();
            let changes = answer["value"]["changes"].as_array().cloned().unwrap_or_default();
            for change in &changes {
                self.take(change);
            }
            if let Some(id) = changes.iter().rev().find_map(|change| self.is_note(change)) {
                self.look(&id);
            }
            if changes.is_empty() && is_last {
                return (self.seen, token);
            }
        }
    }

    fn take(&mut self, change: &Value) {
        self.events.fetch_add(1, Ordering::Relaxed);
        let text = |pointer: &str| change.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (resource_type, id, kind) = (text("/resource/type"), text("/resource/id"), text("/kind"));
        let properties: Vec<&str> =
            change["properties"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(kind != "UPDATE" || !properties.is_empty(), "an update of nothing: {change}");
        if resource_type == "VirtualMachine" && is_machine(id) {
            self.seen.events += 1;
            let expected = self.source.expected(id);
            let expected = expected.unwrap_or_else(|| panic!("nothing of it happened at the source: {change}"));
            match expected {
                Expected::Create => assert_eq!(kind, "CREATE", "{change}"),
                Expected::Delete => assert_eq!(kind, "DELETE", "{change}"),
                Expected::Update(paths) => {
                    let mut names = properties;
                    names.sort_unstable();
                    assert_eq!((kind, names), ("UPDATE", paths), "{change}");
                }
            }
        } else if let Some(simulated) = id.strip_prefix(SIMULATED) {
            assert_eq!((resource_type, kind), ("VirtualMachine", "UPDATE"), "{simulated}: {change}");
            assert_eq!(properties, ["name"], "{change}");
            self.seen.renames += 1;
        } else if self.process.is_some_and(|process| id.contains(process)) {
            self.seen.process.push(format!("{kind} {properties:?}"));
        } else {
            // Whatever else goes on at this machine: other virtual machines, file systems that fill.
            let is_of_host = matches!(resource_type, "HostSystem" | "VirtualMachine" | "Datastore" | "Network");
            assert!(is_of_host && !is_container(id), "{change}");
            *self.seen.host.entry(format!("{kind} {resource_type}")).or_default() += 1;
        }
    }

    fn is_note(&self, change: &Value) -> Option<String> {
        let id = change["resource"]["id"].as_str().filter(|id| is_machine(id))?;
        let is_note = change["properties"].as_array()?.iter().any(|path| path == "annotation");
        is_note.then(|| id.to_owned())
    }

    /// What is here is something that was there, and never something older than what was here before.
    fn look(&mut self, id: &str) {
        let (status, stored) = self.server.get(&format!("/api/lockstep/resources/VirtualMachine/{id}"));
        // It may be gone already.
        if status == 404 {
            return;
        }
        let annotation = stored["properties"]["annotation"].as_str().unwrap_or_default();
        assert!(annotation.starts_with(&format!("{id} was noted")), "{annotation}");
        let inspection = inspection(annotation).unwrap();
        let before = self.inspections.insert(id.to_owned(), inspection).unwrap_or_default();
        assert!(before <= inspection && inspection <= self.source.tally().changes, "{id}: {before}, then {inspection}");
        self.seen.looks += 1;
    }
}
