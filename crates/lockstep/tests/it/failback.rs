//! A machine that fails over to another site, is replicated back from there, and fails back; its instances, read where they are.
//!
//! `LOCKSTEP_FAILBACK=full` makes 24 instances, and turns the replication around ten times with kills at other moments.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_blocks::format::{block_count, encode_leaf, hash_of, hex, leaf_blocks, root_hash};
use lockstep_blocks::{BLOCK_BYTES, Hash, LEAF_BLOCKS};
use lockstep_qemu::nbd::{Address, Client};
use serde_json::{Value, json};

use crate::availability::{Api, BLOCK, id_of, image, instances, machine, pair, start, wait_for_instances, write_block};
use crate::links::SOON;
use crate::replication::{Machine, ask_monitor, content};
use crate::server::{Server, eventually, root};

/// Of both disks; the guest writes to one after the other of the first, from the sixteenth on.
const BLOCKS: [usize; 2] = [320, 24];

/// What all disks of a machine hold, as an instance of them says it.
fn root_of(disks: &[Vec<u8>]) -> String {
    let leaf = |blocks: &[Option<Hash>]| hash_of(&encode_leaf(blocks));
    let map = |disk: &Vec<u8>| {
        let block = |block: &[u8]| block.iter().any(|byte| *byte != 0).then(|| hash_of(block));
        let blocks: Vec<Option<Hash>> = disk.chunks(BLOCK_BYTES).map(block).collect();
        assert_eq!(leaf_blocks(block_count(disk.len() as u64), 0) as usize, blocks.len().min(LEAF_BLOCKS as usize));
        blocks.chunks(LEAF_BLOCKS as usize).map(leaf).collect()
    };
    let maps: Vec<Vec<Hash>> = disks.iter().map(map).collect();
    let parts = (2000..).zip(disks).zip(&maps).map(|((key, disk), leaves)| (key, disk.len() as u64, &**leaves));
    hex(&root_hash(parts))
}

fn files(disks: &[PathBuf]) -> Vec<Vec<u8>> {
    disks.iter().map(|disk| std::fs::read(disk).unwrap()).collect()
}

/// How many blocks differ.
fn differing(before: &[Vec<u8>], after: &[Vec<u8>]) -> usize {
    let of_disk = |(before, after): (&Vec<u8>, &Vec<u8>)| {
        assert_eq!(before.len(), after.len());
        before.chunks(BLOCK).zip(after.chunks(BLOCK)).filter(|(before, after)| before != after).count()
    };
    before.iter().zip(after).map(of_disk).sum()
}

/// The boot sector of the guest that the tests of recovery have.
fn boot_sector(directory: &Path) -> Vec<u8> {
    let source = root().join("crates/replication/tests/recovered/guest.S");
    let (object, image) = (directory.join("guest.o"), directory.join("guest.bin"));
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
    };
    let (object, image) = (object.to_str().unwrap(), image.to_str().unwrap());
    run("as", &["--32", source.to_str().unwrap(), "-o", object]);
    run("ld", &["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", image, object]);
    std::fs::read(image).unwrap()[..512].to_vec()
}

/// Asks a recovered machine's monitor.
fn monitor(place: &Path, command: &str, arguments: &Value) -> Value {
    ask_monitor(&place.join("monitor.sock"), command, arguments)
}

/// Waits until a guest has said something on its serial line.
fn wait_said(place: &Path, words: &str) {
    let mut said = String::new();
    eventually(SOON * 4, words, || {
        let answer = monitor(place, "ringbuf-read", &json!({"device": "console", "size": 65536}));
        said += answer.as_str().unwrap_or_default();
        said.contains(words).then_some(())
    });
}

/// Presses a guest's power button, and waits until its QEMU is gone.
fn shut_down(machine: &Machine) {
    monitor(&machine.0, "system_powerdown", &json!({}));
    eventually(SOON * 4, "the guest to power off", || machine.pid().is_none().then_some(()));
}

/// Two sites, and a machine of two disks that one replicates to the other.
struct Sites {
    /// The first source, then the other.
    servers: [Server; 2],
    id: String,
    at: String,
}

impl Sites {
    fn api(&self, which: usize) -> Api {
        Api::log_in(&self.servers[which])
    }

    fn uuid(&self) -> &str {
        self.id.strip_prefix("C4-").unwrap()
    }

    /// Where a machine is recovered.
    fn place(&self, which: usize) -> PathBuf {
        self.servers[which].data.path().join("recovered").join(self.uuid())
    }

    /// What the disks of a recovered machine hold.
    fn recovered(&self, which: usize) -> Vec<Vec<u8>> {
        [2000, 2001].map(|key| content(&self.place(which).join(format!("disk-{key}.qcow2")))).to_vec()
    }

    /// Writes a block of a recovered disk of a machine that is off.
    fn write(&self, which: usize, key: u32, block: usize, pattern: u8) {
        let disk = self.place(which).join(format!("disk-{key}.qcow2"));
        let write = format!("write -P {pattern} {} 64k", block * BLOCK);
        let status = Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(disk).output().unwrap().status;
        assert!(status.success());
    }

    /// What the last sync of the replication said, at its source, and the root that it reckoned.
    fn last_sync(&self, source: usize) -> (Value, String) {
        let shown = self.api(source).get(&self.at);
        let path = format!("/api/lockstep/resources/VmReplication/{}", self.uuid());
        let stored = self.servers[source].ok("GET", &path, &Value::Null);
        let root = stored["properties"]["source"]["last_sync"]["root"].as_str().unwrap().to_owned();
        (shown["lastSync"].clone(), root)
    }

    fn serve(&self, which: usize, key: &str) -> Vec<(u64, String)> {
        let path = format!("/api/lockstep/replication/vm-replications/{}/instances/{key}/serve", self.id);
        let served = self.servers[which].ok("POST", &path, &Value::Null);
        let disk = |disk: &Value| (disk["bytes"].as_u64().unwrap(), disk["url"].as_str().unwrap().to_owned());
        served.as_array().unwrap().iter().map(disk).collect()
    }

    fn stop_serving(&self, which: usize, key: &str) {
        let path = format!("/api/lockstep/replication/vm-replications/{}/instances/{key}/serve", self.id);
        assert_eq!(self.servers[which].call("DELETE", &path, &Value::Null).0, 204);
    }
}

/// Reads a disk that is served, or says why not.
async fn read(url: &str, bytes: u64) -> Result<Vec<u8>, String> {
    let (export, socket) = url.strip_prefix("nbd+unix:///").unwrap().split_once("?socket=").unwrap();
    let address = Address::Unix(socket.into());
    let client = Client::connect(&address, export, &[]).await.map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    while (content.len() as u64) < bytes {
        let count = (bytes - content.len() as u64).min(1 << 20) as usize;
        let read = client.read(content.len() as u64, count).await.map_err(|error| error.to_string())?;
        content.extend_from_slice(&read);
    }
    client.disconnect();
    Ok(content)
}

#[test]
fn a_machine_fails_over_is_replicated_back_and_fails_back() {
    for program in ["qemu-system-x86_64", "qemu-io", "as", "ld"] {
        if Command::new(program).arg("--version").output().is_err() {
            return println!("skipped: there is no {program}");
        }
    }
    let is_full = std::env::var("LOCKSTEP_FAILBACK").is_ok_and(|value| value == "full");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (a, b) = pair(&["--migrate-power-off", "1"]);
    let dir = tempfile::tempdir().unwrap();
    let disks = [image(dir.path(), "a.raw", BLOCKS[0]), image(dir.path(), "b.raw", BLOCKS[1])];
    File::options().write(true).open(&disks[0]).unwrap().write_all_at(&boot_sector(dir.path()), 0).unwrap();
    File::options().write(true).open(&disks[1]).unwrap().write_all_at(b"Z", 512).unwrap();
    machine(&a, "vm-1", "one", &[&disks[0], &disks[1]]);
    let api = Api::log_in(&a);
    let keep = json!({"retentionPolicy": {"rules": [{"numberOfInstances": 24, "distance": 0}]}});
    let id = id_of(&api.done("POST", "/vm-replications", &start("vm-1", keep)));
    let at = format!("/vm-replications/{id}");
    let mut sites = Sites { servers: [a, b], id, at };
    wait_for_instances(&api, &sites.id, 1);

    // Every instance is what the disks were, and can be read as soon as it is asked for.
    let count = if is_full { 24 } else { 4 };
    let mut roots = vec![root_of(&files(&disks))];
    for number in 1..count {
        write_block(&disks[0], 10 + number, 1000 + number as u64);
        write_block(&disks[1], number % BLOCKS[1], 2000 + number as u64);
        File::options().write(true).open(&disks[1]).unwrap().write_all_at(b"Z", 512).unwrap();
        api.done("POST", &format!("{}/sync", sites.at), &Value::Null);
        roots.push(root_of(&files(&disks)));
        assert_eq!(sites.last_sync(0).1, roots[number]);
    }
    let found = instances(&api, &sites.id);
    assert_eq!(found.len(), count);
    let keys: Vec<&str> = found.iter().map(|instance| instance["key"].as_str().unwrap()).collect();
    let mut slowest = Duration::ZERO;
    for (key, root) in keys.iter().zip(&roots) {
        let began = Instant::now();
        let served = sites.serve(1, key);
        let first = runtime.block_on(read(&served[0].1, 65536)).unwrap();
        slowest = slowest.max(began.elapsed());
        let whole: Vec<Vec<u8>> =
            served.iter().map(|(bytes, url)| runtime.block_on(read(url, *bytes)).unwrap()).collect();
        assert!(whole[0].starts_with(&first));
        assert_eq!(root_of(&whole), *root, "{key}");
    }
    println!("{count} instances are what the disks were; the slowest was read {slowest:.0?} after it was asked for");
    assert!(!is_full || slowest < Duration::from_secs(1), "{slowest:?}");
    keys.iter().for_each(|key| sites.stop_serving(1, key));

    // One bit of the store: what it is in is refused, and named.
    let block = std::fs::read(&disks[0]).unwrap()[300 * BLOCK..][..64].to_vec();
    let (pack, place) = find(&sites.servers[1].data.path().join("replicas"), &block);
    flip(&pack, place);
    let damaged = sites.serve(1, keys[0]);
    let refused = runtime.block_on(read(&damaged[0].1, damaged[0].0)).unwrap_err();
    let path = format!("/api/lockstep/replication/vm-replications/{}/verify", sites.id);
    let begun = sites.servers[1].ok("POST", &path, &Value::Null);
    let verified = sites.api(1).ended(&begun, "");
    let message = verified["error"]["msg"].as_str().unwrap();
    assert!(message.contains(keys[0]) || message.contains("block"), "{message}");
    println!("a flipped bit: {refused}; {message}");
    flip(&pack, place);
    sites.stop_serving(1, keys[0]);

    // A machine boots from one of them, where it is.
    let test = Machine(sites.place(1));
    let body = json!({"type": "vcloud", "powerOn": true, "instanceId": keys[count / 2]});
    sites.api(1).done("POST", &format!("{}/failover-test", sites.at), &body);
    wait_said(&test.0, "up Z\n");
    wait_said(&test.0, "...");
    sites.api(1).done("DELETE", &format!("{}/failover-test", sites.at), &Value::Null);
    assert!(test.pid().is_none() && !test.0.exists());
    let served = sites.serve(1, keys[count / 2]);
    let whole: Vec<Vec<u8>> = served.iter().map(|(bytes, url)| runtime.block_on(read(url, *bytes)).unwrap()).collect();
    assert_eq!(root_of(&whole), roots[count / 2], "a test changes no instance");
    sites.stop_serving(1, keys[count / 2]);

    // The machine goes there and works; then it is replicated back.
    api.refused("POST", &format!("{}/reverse", sites.at), &Value::Null, 409, "OperationNotAllowedInState");
    let body = json!({"type": "vcloud", "powerOn": true});
    api.done("POST", &format!("{}/failover", sites.at), &body);
    let machine = Machine(sites.place(1));
    wait_said(&machine.0, "...");
    let mut before = files(&disks);
    let rounds = if is_full { 10 } else { 2 };
    for round in 0..rounds {
        let (old, new) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        before = turn_and_fail_back(&mut sites, round, old, new, &before, &runtime);
    }
    sites.api(0).done("DELETE", &sites.at, &Value::Null);
    for which in [0, 1] {
        sites.api(which).refused("GET", &sites.at, &Value::Null, 404, "ReplicationNotFound");
    }
}

/// A replication whose machine was recovered at `new` is turned around, while one of the servers is killed, and brings back to `old` what
/// changed. Then the machine fails back. `before` is what the disks held that `old` had; answers what they hold in the end.
fn turn_and_fail_back(
    sites: &mut Sites,
    round: usize,
    old: usize,
    new: usize,
    before: &[Vec<u8>],
    runtime: &tokio::runtime::Runtime,
) -> Vec<Vec<u8>> {
    let machine = Machine(sites.place(new));
    // In the first round the guest works on, so that nobody knows what the disks hold at an instant.
    let is_on = machine.pid().is_some();
    if !is_on {
        sites.write(new, 2001, 10, 0x50 + round as u8);
    }
    let held = (!is_on).then(|| sites.recovered(new));
    let (status, begun) = sites.api(new).call("POST", &format!("{}/reverse", sites.at), &Value::Null);
    assert_eq!(status, 202, "{begun}");
    // Sooner or later within it, on either side.
    std::thread::sleep(Duration::from_millis(round as u64 / 2 * 40));
    let killed = if round.is_multiple_of(2) { new } else { old };
    sites.servers[killed].restart();
    let ended = sites.api(new).ended(&begun, "");
    assert_eq!(ended["state"], "SUCCEEDED", "{ended}");
    let (names, sides) = (["site1", "site2"], [(new, "SOURCE"), (old, "DESTINATION")]);
    for (which, side) in sides {
        let shown = eventually(SOON, "both sites to agree", || {
            Some(sites.api(which).get(&sites.at)).filter(|shown| shown["side"] == side)
        });
        assert_eq!((&shown["source"]["site"], &shown["destination"]["site"]), (&json!(names[new]), &json!(names[old])));
        assert_eq!(shown["isReversed"], json!(round.is_multiple_of(2)), "{shown}");
        assert_eq!(shown["destinationState"]["recoveryInfo"]["recoveryState"], "NOT_STARTED", "{shown}");
    }
    // What was recovered before is in the seed.
    eventually(SOON, "the old machine to go", || (!sites.place(old).exists()).then_some(()));

    // The first sync begins by itself, and sends what changed.
    let (first, root) = eventually(SOON * 4, "the first sync back", || {
        let shown = sites.api(new).get(&sites.at);
        let is_done = shown["lastSync"].is_object() && shown["task"].is_null();
        is_done.then(|| sites.last_sync(new))
    });
    if is_on {
        sites.api(new).done("POST", &format!("{}/sync", sites.at), &Value::Null);
        let (live, _) = sites.last_sync(new);
        assert_eq!(live["method"], "LIVE_BITMAP", "{live}");
        shut_down(&machine);
    }
    // Whatever the guest wrote meanwhile is among it.
    let moved = sites.recovered(new);
    let changed = differing(before, &moved);
    let [sent, wire, found] = ["sentBytes", "wireBytes", "changedBytes"].map(|name| first[name].as_u64().unwrap());
    println!(
        "round {round}: {changed} blocks changed, {found} bytes of them were found by {}, {sent} sent, {wire} on the wire",
        first["method"]
    );
    assert!(sent <= (changed * BLOCK) as u64 && wire <= (changed * BLOCK) as u64 + (64 << 10), "{first}");
    if let Some(held) = held {
        assert_eq!((&root, found), (&root_of(&held), (changed * BLOCK) as u64), "{first}");
    }

    // And the next one only what changed since.
    sites.api(new).done("POST", &format!("{}/sync", sites.at), &Value::Null);
    sites.write(new, 2000, 30 + round, 0x80 + round as u8);
    sites.write(new, 2001, 1 + round, 0xa0 + round as u8);
    sites.api(new).done("POST", &format!("{}/sync", sites.at), &Value::Null);
    let (second, root) = sites.last_sync(new);
    assert_eq!(second["sentBytes"], json!(2 * BLOCK), "{second}");
    let now = sites.recovered(new);
    assert_eq!(root, root_of(&now));
    let newest = instances(&sites.api(old), &sites.id).pop().unwrap()["key"].as_str().unwrap().to_owned();
    let served = sites.serve(old, &newest);
    let whole: Vec<Vec<u8>> = served.iter().map(|(bytes, url)| runtime.block_on(read(url, *bytes)).unwrap()).collect();
    assert!(whole == now, "round {round}");
    sites.stop_serving(old, &newest);

    // Back.
    sites.api(old).done("POST", &format!("{}/failover", sites.at), &json!({"type": "vcloud", "powerOn": false}));
    assert!(sites.recovered(old) == now, "round {round}");
    now
}

/// Where some bytes are in the files of a directory.
fn find(directory: &Path, bytes: &[u8]) -> (PathBuf, u64) {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found = names.filter(|path| path.is_file()).find_map(|path| {
        let content = std::fs::read(&path).unwrap();
        let place = content.windows(bytes.len()).position(|window| window == bytes)?;
        Some((path, place as u64))
    });
    found.unwrap()
}

fn flip(path: &Path, place: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place).unwrap();
}
