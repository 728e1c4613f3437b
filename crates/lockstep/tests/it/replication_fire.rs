//! One sync of a delta under fire: its link is cut again and again, or either site is killed. It goes on by itself, sends hardly more than
//! there is to send, and nobody ever sees an instance that is not whole. And what then is damaged in the store is found, and told by its name.
//!
//! The short form runs with the others. `LOCKSTEP_REPLICATION_FIRE=full` has twenty cuts, and ten kills of each site, in a sync of 200 MiB of
//! a disk of 1 GiB; there it must not have sent more than 1.05 times that. What little the short form sends, the first break alone may
//! cost more of.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::availability::BLOCK;
use crate::replicated::{Replicated, Watch, is_full};
use crate::server::eventually;
use crate::wire::Random;

/// What is under way when something breaks for the first time, and what then may be: see `lockstep_replication::limit`.
const FIRST_BREAK_BYTES: u64 = 2 << 20;
const BREAK_BYTES: u64 = 256 << 10;

/// Blocks of the disk, of those that change, and how many blows there are of each kind.
fn extent(cuts: bool) -> (usize, usize, usize) {
    match (is_full(), cuts) {
        (true, true) => (16_384, 3200, 20),
        (true, false) => (16_384, 3200, 10),
        (false, true) => (768, 320, 5),
        (false, false) => (768, 320, 2),
    }
}

/// Syncs a delta while blows fall, and checks what came of it.
fn strike(what: &str, blocks: usize, changed: usize, blows: usize, mut blow: impl FnMut(&mut Replicated, usize)) {
    let mut replicated = Replicated::begin(blocks, &[]);
    let first = replicated.instances().remove(0);
    let before = replicated.keep("first");
    let written = replicated.write(changed);
    let after = replicated.keep("second");
    let delta = (changed * BLOCK) as u64;
    replicated.wire.pace(Duration::from_micros(200));
    let watch = Watch::begin(&replicated);
    let (sent, began) = (replicated.wire.sent(), Instant::now());
    let task = replicated.sync();
    // At every so many bytes of what there is to send, some more or some fewer.
    let mut random = Random(23);
    for nth in 0..blows {
        let step = changed * BLOCK * 8 / 10 / blows;
        let bytes = step / 2 + random.below(step);
        let at = replicated.wire.sent();
        eventually(Duration::from_secs(120), "the sync to get on", || {
            let state = replicated.task(&task);
            assert_eq!(state["state"], "RUNNING", "after {nth} blows: {state}");
            (replicated.wire.sent() >= at + bytes as u64).then_some(())
        });
        blow(&mut replicated, nth);
    }
    replicated.done(&task);
    let took = began.elapsed();
    let sent = replicated.wire.sent() - sent;
    let instances = replicated.instances();
    assert_eq!((instances.len(), &instances[0]), (2, &first));
    let seen = watch.end();
    let whole = [&instances[..1], &instances[..]];
    assert!(seen.iter().all(|seen| whole.contains(&&seen[..])), "{seen:?}");
    replicated.check(&instances[0], &before);
    replicated.check(&instances[1], &after);
    replicated.check_store();
    replicated.check_nothing_is_left(&replicated.b.data.path().join("replicas"));
    let ratio = sent as f64 / delta as f64;
    println!("{what}: {sent} bytes were sent of a delta of {delta}, {ratio:.4} times, in {:.1} s", took.as_secs_f64());
    let short = FIRST_BREAK_BYTES + blows as u64 * BREAK_BYTES;
    let most = delta + delta / 20 + if is_full() { 0 } else { short };
    assert!(sent <= most, "{sent} of {most}");
    flip(&mut replicated, &after, &instances[1], written[written.len() / 2]);
}

/// Flips a bit of a block in the store: a verification names the replication, the instance, the disk and the block.
fn flip(replicated: &mut Replicated, disk: &Path, instance: &str, block: usize) {
    let mut content = vec![0; BLOCK];
    std::fs::File::open(disk).unwrap().read_exact_at(&mut content, (block * BLOCK) as u64).unwrap();
    let packs = std::fs::read_dir(replicated.b.data.path().join("replicas")).unwrap().map(|file| file.unwrap().path());
    let packs = packs.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with("pack."));
    let found: Vec<_> = packs
        .filter_map(|pack| {
            let bytes = std::fs::read(&pack).unwrap();
            // What does not shrink is stored as it is.
            let at = find(&bytes, &content)?;
            Some((pack, at, bytes[at + 1000]))
        })
        .collect();
    let [(pack, at, byte)] = &found[..] else { panic!("the block is in {} packs", found.len()) };
    let file = std::fs::File::options().write(true).open(pack).unwrap();
    file.write_all_at(&[byte ^ 1], (at + 1000) as u64).unwrap();
    let (is_clean, said) = replicated.verify();
    println!("{}", said.trim());
    let id = replicated.id.strip_prefix("C4-").unwrap();
    let named = format!("block {block} of disk 2000 of instance {instance} of {id}");
    assert!(!is_clean && said.contains(&named), "{named}: {said}");
    let export = replicated.b.ok("POST", &replicated.at("/export"), &json!({"directory": "x", "instanceId": instance}));
    let ended = replicated.ended_there(&export);
    assert!(ended["state"] == "FAILED" && ended["error"]["msg"].as_str().unwrap().contains("damaged"), "{ended}");

    // It counts as missing from then on, and nothing is built upon it: the next sync brings it again, although nothing has changed.
    let ended = replicated.done(&replicated.sync_anew());
    assert!(ended["warnings"].to_string().contains("compared anew"), "{ended}");
    assert_eq!(ended["result"]["lastSync"]["sentBytes"], json!(BLOCK), "{ended}");
    replicated.check(instance, disk);
    replicated.check_store();
}

/// Where a block begins in a pack.
fn find(bytes: &[u8], content: &[u8]) -> Option<usize> {
    let head = &content[..64];
    (0..bytes.len().checked_sub(content.len())? + 1)
        .find(|at| bytes[*at..].starts_with(head) && bytes[*at..].starts_with(content))
}

#[test]
fn a_sync_whose_link_is_cut_again_and_again_goes_on_and_sends_hardly_more_than_it_must() {
    let (blocks, changed, cuts) = extent(true);
    strike(&format!("{cuts} cuts"), blocks, changed, cuts, |replicated, _| {
        replicated.wire.cut_after(1);
        eventually(Duration::from_secs(60), "the wire is cut", || replicated.wire.is_cut().then_some(()));
        replicated.wire.mend();
    });
}

#[test]
fn a_sync_outlives_both_sites_being_killed() {
    let (blocks, changed, kills) = extent(false);
    strike(&format!("{kills} kills of each site"), blocks, changed, 2 * kills, |replicated, nth| {
        let victim = if nth % 2 == 0 { &mut replicated.b } else { &mut replicated.a };
        victim.restart();
    });
}
