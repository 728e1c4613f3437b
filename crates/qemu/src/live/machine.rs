//! What a running QEMU says of its disks, and what is put back there after a cycle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Select;
use crate::bitmaps::{Action, Found, Resolution, Tag, resolve};
use crate::qmp::{Command, Qmp};
use crate::{Error, Result};

/// How long QEMU may take to close an export.
const EXPORT_LIMIT: Duration = Duration::from_secs(60);
/// How often it is asked whether it has.
const EXPORT_POLL: Duration = Duration::from_millis(10);

/// A disk that the machine has now.
#[derive(Debug, Clone)]
pub(super) struct Device {
    /// The QOM path of the device, whose property `drive` is its disk.
    pub(super) path: String,
    /// The node that it reads and writes.
    pub(super) node: String,
    /// The image's path, as QEMU opened it.
    file: Option<PathBuf>,
    pub(super) bytes: u64,
}

/// A node, as far as its bitmaps matter.
#[derive(Debug)]
struct Node {
    name: String,
    /// Of a replication, by name.
    bitmaps: Vec<Found>,
    keeps_bitmaps: bool,
    file: Option<PathBuf>,
}

/// A disk of the configuration, found, with its bitmaps judged.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) index: u32,
    pub(super) device: Device,
    /// Whether bitmaps may be persistent there.
    pub(super) keeps_bitmaps: bool,
    pub(super) usable: Result<u64, String>,
    /// Of the whole chain of images, for a flush.
    pub(super) file: Option<PathBuf>,
}

/// Whether the guest runs.
pub(super) async fn is_running(qmp: &Qmp) -> Result<bool> {
    let status = qmp.execute("query-status", Value::Null).await?;
    Ok(status["running"] == true)
}

/// The machine's disks. A drive without a medium is none.
async fn devices(qmp: &Qmp) -> Result<Vec<Device>> {
    let blocks = qmp.execute("query-block", Value::Null).await?;
    let blocks = blocks.as_array().map(Vec::as_slice).unwrap_or_default();
    let device = |block: &Value| {
        let qdev = block["qdev"].as_str().filter(|qdev| !qdev.is_empty())?;
        let inserted = &block["inserted"];
        Some(Device {
            path: if qdev.starts_with('/') { qdev.to_owned() } else { format!("/machine/peripheral/{qdev}") },
            node: inserted["node-name"].as_str()?.to_owned(),
            file: inserted["file"].as_str().map(PathBuf::from),
            bytes: inserted["image"]["virtual-size"].as_u64()?,
        })
    };
    Ok(blocks.iter().filter_map(device).collect())
}

async fn nodes(qmp: &Qmp, tag: &Tag) -> Result<Vec<Node>> {
    let nodes = qmp.execute("query-named-block-nodes", json!({"flat": true})).await?;
    let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    let node = |node: &Value| {
        let bitmaps = node["dirty-bitmaps"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = bitmaps.iter().filter_map(|bitmap| {
            Some(Found {
                number: tag.number(bitmap["name"].as_str()?)?,
                is_recording: bitmap["recording"] == true,
                is_inconsistent: bitmap["inconsistent"] == true,
            })
        });
        Some(Node {
            name: node["node-name"].as_str()?.to_owned(),
            bitmaps: found.collect(),
            keeps_bitmaps: node["drv"] == "qcow2"
                && node["ro"] == false
                && node["image"]["format-specific"]["data"]["compat"] != "0.10",
            file: node["file"].as_str().map(PathBuf::from),
        })
    };
    Ok(nodes.iter().filter_map(node).collect())
}

impl Select {
    fn is(&self, device: &Device) -> bool {
        match self {
            // Of a virtio disk QEMU names the part behind the bus: `/machine/peripheral/vd0/virtio-backend`.
            Self::Qdev(id) if !id.starts_with('/') => {
                let path = device.path.strip_prefix("/machine/peripheral/");
                path.is_some_and(|path| path.split('/').next() == Some(id))
            }
            Self::Qdev(path) => {
                device.path == *path || device.path.strip_prefix(path.as_str()) == Some("/virtio-backend")
            }
            Self::File(path) => device.file.as_deref().is_some_and(|file| is_same(file, path)),
        }
    }
}

/// Paths of one file; of relative ones, which are QEMU's, only the text can be compared.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.is_absolute().then(|| std::fs::canonicalize(path).ok()).flatten();
    one == other || real(one).zip(real(other)).is_some_and(|(one, other)| one == other)
}

/// Puts back what a cycle of the replication changed, if there was one, and judges its bitmaps by the last instance.
///
/// The one way for a good end, a bad end and what a crash left: each step looks at what is there, so it can be repeated.
pub(super) async fn settle(
    qmp: &Qmp,
    tag: &Tag,
    socket: &Path,
    wanted: &[(u32, Select)],
    committed: Option<u64>,
) -> Result<Vec<Disk>> {
    remove_exports(qmp, tag, socket).await?;
    remove_nodes(qmp, tag).await?;
    let devices = devices(qmp).await?;
    let nodes = nodes(qmp, tag).await?;
    let mut disks = Vec::new();
    for (index, select) in wanted {
        let mut matching = devices.iter().filter(|device| select.is(device));
        let device = matching.next().ok_or_else(|| Error::NoDisk { what: select.to_string() })?;
        if matching.next().is_some() {
            let reason = "more than one disk of the machine is that".into();
            return Err(Error::Invalid { what: select.to_string(), reason });
        }
        let node = nodes.iter().find(|node| node.name == device.node);
        let Resolution { actions, usable } = resolve(node.map_or(&[], |node| &node.bitmaps), committed);
        change(qmp, tag, &device.node, &actions).await?;
        disks.push(Disk {
            index: *index,
            device: device.clone(),
            keeps_bitmaps: node.is_some_and(|node| node.keeps_bitmaps),
            usable,
            file: node.and_then(|node| node.file.clone()),
        });
    }
    // What is left on nodes that are no disk's top any more, since a snapshot was taken, tells nothing and costs.
    for node in nodes.iter().filter(|node| !disks.iter().any(|disk| disk.device.node == node.name)) {
        let actions: Vec<Action> = node.bitmaps.iter().map(|bitmap| Action::Remove(bitmap.number)).collect();
        match change(qmp, tag, &node.name, &actions).await {
            Ok(()) => {}
            // Of an image that is only read now, they cannot be removed.
            Err(Error::Command { reason, .. }) => {
                tracing::debug!(node = node.name, reason, "a bitmap that is not needed is left");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(disks)
}

/// Removes all that the replication has in the machine.
pub(super) async fn forget(qmp: &Qmp, tag: &Tag, socket: &Path) -> Result<()> {
    settle(qmp, tag, socket, &[], None).await.map(drop)
}

async fn remove_exports(qmp: &Qmp, tag: &Tag, socket: &Path) -> Result<()> {
    let ours = async || -> Result<Vec<String>> {
        let exports = qmp.execute("query-block-exports", Value::Null).await?;
        let ids = exports.as_array().map(Vec::as_slice).unwrap_or_default().iter();
        Ok(ids.filter_map(|e| e["id"].as_str()).filter(|id| tag.is_part(id, 'x')).map(str::to_owned).collect())
    };
    let mut had_any = false;
    for id in ours().await? {
        had_any = true;
        match qmp.execute("block-export-del", json!({"id": id, "mode": "hard"})).await {
            // It is going already, or has gone.
            Ok(_) | Err(Error::Command { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let gone = async {
        while !ours().await?.is_empty() {
            tokio::time::sleep(EXPORT_POLL).await;
        }
        Ok(())
    };
    let limit = EXPORT_LIMIT;
    let what = "closing the exports of the last cycle".to_owned();
    tokio::time::timeout(limit, gone).await.map_err(|_| Error::Timeout { what, limit })??;
    // QEMU has one NBD server. It is ours if it has had an export of ours, or listens at our socket.
    if had_any || tokio::net::UnixStream::connect(socket).await.is_ok() {
        match qmp.execute("nbd-server-stop", Value::Null).await {
            Ok(_) | Err(Error::Command { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes readers, filters and scratch disks, after the devices have their own disks again.
async fn remove_nodes(qmp: &Qmp, tag: &Tag) -> Result<()> {
    let of = |nodes: &[Node], letter: char| -> Vec<String> {
        nodes.iter().map(|node| &node.name).filter(|name| tag.is_part(name, letter)).cloned().collect()
    };
    let nodes = nodes(qmp, tag).await?;
    for name in of(&nodes, 'r') {
        qmp.execute("blockdev-del", json!({"node-name": name})).await?;
    }
    for device in devices(qmp).await? {
        match Tag::of_filter(&device.node) {
            Some(found) if found == *tag => {
                let below = below(qmp, &device.node).await?;
                swap(qmp, &device.path, &below).await?;
            }
            Some(found) => {
                return Err(Error::Busy { reason: format!("a cycle of the replication {} is open", found.as_str()) });
            }
            None => {}
        }
    }
    for letter in ['c', 's'] {
        for name in of(&nodes, letter) {
            qmp.execute("blockdev-del", json!({"node-name": name})).await?;
        }
    }
    Ok(())
}

async fn swap(qmp: &Qmp, path: &str, node: &str) -> Result<()> {
    qmp.execute("qom-set", swap_arguments(path, node)).await.map(drop)
}

pub(super) fn swap_arguments(path: &str, node: &str) -> Value {
    json!({"path": path, "property": "drive", "value": node})
}

/// The node that a filter stands on. Only the graph tells, whose command is not a stable one of QEMU's, but is there since 4.0.
async fn below(qmp: &Qmp, filter: &str) -> Result<String> {
    let graph = qmp.execute("x-debug-query-block-graph", Value::Null).await?;
    let list = |name: &str| graph[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let node = |by: &str, value: &Value| list("nodes").iter().find(|node| node[by] == *value);
    let child = node("name", &Value::from(filter)).and_then(|filter| {
        let edge = list("edges").iter().find(|edge| edge["parent"] == filter["id"] && edge["name"] == "file")?;
        node("id", &edge["child"])?["name"].as_str()
    });
    child.map(str::to_owned).ok_or_else(|| Error::Protocol {
        peer: "QEMU's monitor",
        problem: format!("its graph does not tell what is below {filter}"),
    })
}

/// Does the changes of a disk's bitmaps, whole or not at all.
async fn change(qmp: &Qmp, tag: &Tag, node: &str, actions: &[Action]) -> Result<()> {
    if actions.is_empty() {
        return Ok(());
    }
    let action = |action: &Action| match action {
        Action::Enable(number) => {
            json!({"type": "block-dirty-bitmap-enable", "data": {"node": node, "name": tag.bitmap(*number)}})
        }
        Action::Merge { target, source } => {
            let (target, source) = (tag.bitmap(*target), tag.bitmap(*source));
            json!({"type": "block-dirty-bitmap-merge", "data": {"node": node, "target": target, "bitmaps": [source]}})
        }
        Action::Remove(number) => {
            json!({"type": "block-dirty-bitmap-remove", "data": {"node": node, "name": tag.bitmap(*number)}})
        }
    };
    let actions: Vec<Value> = actions.iter().map(action).collect();
    qmp.execute("transaction", json!({ "actions": actions })).await.map(drop)
}

/// The commands between `stop` and `cont`: bitmaps first, then a filter on each disk, then each device's disk.
pub(super) fn switch(tag: &Tag, disks: &[Disk], bases: &[Option<u64>], number: u64, granularity: u32) -> Vec<Command> {
    let mut actions = Vec::new();
    let mut commands = Vec::new();
    for (disk, base) in disks.iter().zip(bases) {
        let (node, filter) = (&disk.device.node, tag.part('c', disk.index));
        actions.push(json!({"type": "block-dirty-bitmap-add", "data": {
            "node": node, "name": tag.bitmap(number), "persistent": disk.keeps_bitmaps, "granularity": granularity}}));
        // A snapshot that breaks is our loss and not the guest's.
        let mut options = json!({
            "driver": "copy-before-write", "node-name": filter, "file": node, "target": tag.part('s', disk.index),
            "on-cbw-error": "break-snapshot", "cbw-timeout": super::SCRATCH_WRITE_LIMIT.as_secs()});
        if let Some(base) = base {
            let bitmap = json!({"node": node, "name": tag.bitmap(*base)});
            actions.push(json!({"type": "block-dirty-bitmap-disable", "data": bitmap}));
            // Only what is read is kept: the guest's other writes cost nothing.
            options["bitmap"] = bitmap;
        }
        commands.push(Command::new("blockdev-add", options));
        commands.push(Command::new("qom-set", swap_arguments(&disk.device.path, &filter)));
    }
    commands.insert(0, Command::new("transaction", json!({ "actions": actions })));
    commands
}
