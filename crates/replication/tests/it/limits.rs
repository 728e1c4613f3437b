//! Limits, shares, and syncs that are cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_replication::limit::{Line, Memory};
use lockstep_replication::ship::ship;

use crate::pair::{BLOCK, Machine, Mode, Pair, Random, progress};

/// A machine with a disk of noise.
fn noise(seed: u64, replication: &str, blocks: usize) -> Machine {
    let mut vm = Machine::new(seed, &[blocks * BLOCK]);
    vm.replication = replication.to_owned();
    Random::new(seed).fill(&mut vm.disks[0]);
    vm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_bytes_a_second_is_kept_and_can_be_lifted() {
    let pair = Pair::start().await;
    let mut vm = noise(1, "1-vm", 96);
    pair.line.set_bytes_per_s(Some(4 << 20));
    let begun = Instant::now();
    vm.sync(&pair, Mode::Full).await.unwrap();
    // 6 MiB; the first frames go before their time.
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    let mut other = noise(2, "1-vm", 960);
    // It would take ten minutes.
    pair.line.set_bytes_per_s(Some(100_000));
    let line = pair.line.clone();
    let lift = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        line.set_bytes_per_s(None);
    });
    other.sync(&pair, Mode::Full).await.unwrap();
    lift.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_sync_does_not_wait_for_a_large_one() {
    let pair = Pair::start().await;
    let (mut large, mut small) = (noise(3, "1-large", 1600), noise(4, "1-small", 160));
    pair.line.set_bytes_per_s(Some(40 << 20));
    let way = pair.way();
    let sent = progress();
    let told = sent.subscribe();
    let shipment = large.shipment(Mode::Full);
    let sync = tokio::spawn({
        let way = way.clone();
        async move { ship(shipment, &way, sent).await }
    });
    pair.wire.wait_for(4 << 20).await;
    let before = told.borrow().wire_bytes;
    ship(small.shipment(Mode::Full), &way, progress()).await.unwrap();
    let meanwhile = told.borrow().wire_bytes - before;
    // Both have the same share of the line, so the large one got about as far: 10 MiB, and what was under way at either end.
    assert!(meanwhile < 32 << 20, "{meanwhile}");
    assert!(!sync.is_finished());
    let shipped = sync.await.unwrap().unwrap();
    large.committed(&shipped);
    large.check(&pair);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_is_cancelled_at_any_moment_leaves_nothing_under_way() {
    let pair = Pair::start().await;
    let mut vm = noise(5, "1-vm", 400);
    let line = Line::with_puts(None, 1);
    let memory = Memory::new(10 << 20);
    let cancelled = Arc::new(AtomicU64::new(0));
    for part in 0..20 {
        let mut way = pair.way();
        (way.line, way.memory) = (line.clone(), memory.clone());
        let at = pair.wire.sent() + part * (1 << 20);
        let sync = ship(vm.shipment(Mode::Full), &way, progress());
        tokio::select! {
            outcome = sync => drop(outcome.unwrap()),
            () = pair.wire.wait_for(at) => drop(cancelled.fetch_add(1, Ordering::Relaxed)),
        }
    }
    assert!(cancelled.load(Ordering::Relaxed) > 5);
    // The one turn and all the memory are there again.
    let mut way = pair.way();
    (way.line, way.memory) = (line, memory.clone());
    let shipped = ship(vm.shipment(Mode::Full), &way, progress()).await.unwrap();
    vm.committed(&shipped);
    vm.check(&pair);
    memory.take(10 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_machines_share_one_memory_and_their_blocks() {
    let pair = Pair::start().await;
    let mut way = pair.way();
    way.memory = Memory::new(9 << 20);
    let mut machines: Vec<Machine> = (0..6).map(|i| noise(7, &format!("1-vm{i}"), 200)).collect();
    let mut syncs = Vec::new();
    for vm in &mut machines {
        let (shipment, way) = (vm.shipment(Mode::Full), way.clone());
        syncs.push(tokio::spawn(async move { ship(shipment, &way, progress()).await }));
    }
    let mut sent = 0;
    for (vm, sync) in machines.iter_mut().zip(syncs) {
        let shipped = sync.await.unwrap().unwrap();
        sent += shipped.sent_blocks;
        vm.committed(&shipped);
        vm.check(&pair);
    }
    // All have the same disk. What two bring at the very same time goes twice.
    assert!(sent < 3 * 200, "{sent}");
    assert_eq!(pair.store().block_count(), 200);
}
