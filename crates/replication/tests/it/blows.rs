//! Syncs that are dealt blows.

use std::collections::HashMap;

use lockstep_replication::limit::{WINDOW_BROKEN_MIN, WINDOW_MIN};
use lockstep_replication::ship::{ShipError, Shipment, Shipped, ship};
use proptest::prelude::*;

use crate::pair::{BLOCK, Machine, Mode, Pair, Random, progress};

/// What happens to a sync, in the order of the bytes that have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// The wire is cut.
    Cut,
    /// The destination is killed and started again.
    Destination,
    /// The source is killed, and reads the machine anew.
    Source,
}

/// What a sync came to with all its attempts.
struct Struck {
    shipped: Shipped,
    wire_bytes: u64,
    blows: usize,
    /// What the blocks that changed, each once, take when they are packed.
    packed_bytes: u64,
    /// What the blows may have cost.
    lost_bytes: u64,
}

/// Syncs, and deals a blow whenever so many bytes more have gone. `change` is done to the machine before it is read anew.
async fn strike(
    pair: &Pair,
    vm: &mut Machine,
    mode: Mode,
    blows: &[(u64, Blow)],
    change: impl Fn(&mut Machine),
) -> Result<Struck, ShipError> {
    let before = pair.wire.sent();
    let mut dealt = 0;
    let mut packed = HashMap::new();
    let mut lost_bytes = 0;
    let mut at = before;
    let mut shipment = vm.shipment(mode);
    let mut window = WINDOW_MIN;
    loop {
        vm.pack_changed(&mut packed);
        let way = pair.way();
        let sync = ship(shipment, &way, progress());
        let mut sync = std::pin::pin!(sync);
        let outcome = loop {
            let Some((bytes, blow)) = blows.get(dealt) else { break Some(sync.as_mut().await) };
            tokio::select! {
                outcome = sync.as_mut() => break Some(outcome),
                () = pair.wire.wait_for(at + bytes) => {}
            }
            dealt += 1;
            // A block more than the window may be under way.
            lost_bytes += window + (128 << 10);
            window = WINDOW_BROKEN_MIN;
            at = pair.wire.sent();
            match blow {
                Blow::Cut => pair.wire.cut(),
                Blow::Destination => {
                    pair.kill();
                    pair.revive();
                }
                Blow::Source => break None,
            }
        };
        match outcome {
            None => {
                change(vm);
                shipment = Shipment { is_again: true, ..vm.shipment(mode) };
            }
            // The source was killed after its commit had arrived: the machine knows as little of it as its restart does.
            Some(outcome) => {
                let shipped = outcome?;
                vm.committed(&shipped);
                vm.check(pair);
                assert_eq!(pair.counts(&vm.replication).1, 0);
                let packed_bytes = packed.values().sum();
                let wire_bytes = pair.wire.sent() - before;
                return Ok(Struck { shipped, wire_bytes, blows: dealt, packed_bytes, lost_bytes });
            }
        }
    }
}

/// Twenty cuts, five deaths of the destination and five of the source, in any order.
fn thirty_blows(random: &mut Random, every: u64) -> Vec<(u64, Blow)> {
    let mut kinds: Vec<Blow> = Vec::new();
    kinds.extend([Blow::Cut; 20]);
    kinds.extend([Blow::Destination; 5]);
    kinds.extend([Blow::Source; 5]);
    let mut blows = Vec::new();
    while !kinds.is_empty() {
        let at = random.below(kinds.len() as u64) as usize;
        blows.push((every / 2 + random.below(every), kinds.swap_remove(at)));
    }
    blows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_blows_cost_a_twentieth_at_the_most() {
    cost_of_blows(&Pair::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_real_store_too() {
    cost_of_blows(&Pair::start_real().await).await;
}

async fn cost_of_blows(pair: &Pair) {
    let mut vm = Machine::new(7, &[96 << 20, (64 << 20) + 512]);
    // Noise: what goes over the wire is what was written.
    for disk in 0..2 {
        let mut random = vm.random.clone();
        random.fill(&mut vm.disks[disk]);
        vm.random = random;
        vm.random.next();
    }
    let delta: u64 = vm.disks.iter().map(|disk| disk.len() as u64).sum();
    let mut random = vm.random.clone();
    let blows = thirty_blows(&mut random, delta / 40);
    let struck = strike(pair, &mut vm, Mode::Full, &blows, |_| ()).await.unwrap();
    assert_eq!(struck.blows, 30);
    assert!(struck.wire_bytes as f64 <= 1.05 * delta as f64, "{} of {delta}", struck.wire_bytes);
    assert!(struck.shipped.breaks > 0);
    assert_eq!(pair.counts(&vm.replication).0, 1, "nothing but what was committed was ever there");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_breaks_the_instance_is_what_the_machine_was(seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut random = Random::new(seed);
            let pair = if random.below(2) == 0 { Pair::start().await } else { Pair::start_real().await };
            let sizes = [random.below(200) as usize * 512 + 512, random.below(300) as usize * BLOCK + 512];
            let mut vm = Machine::new(random.next(), &sizes);
            for _ in 0..4 {
                vm.churn(random.below(200) as usize);
                let mode = [Mode::Bitmap, Mode::Compare, Mode::Full][random.below(3) as usize];
                let kinds = [Blow::Cut, Blow::Cut, Blow::Destination, Blow::Source];
                let mut blow = || (random.below(1 << 20), kinds[random.below(4) as usize]);
                let count = 8;
                let blows: Vec<_> = (0..count).map(|_| blow()).collect();
                let most = random.below(8) as usize;
                let struck = strike(&pair, &mut vm, mode, &blows, |vm| vm.churn(most)).await.unwrap();
                let allowed = struck.packed_bytes + struck.packed_bytes / 20 + struck.lost_bytes + (256 << 10);
                assert!(struck.wire_bytes <= allowed, "{} of {allowed}, {} blows", struck.wire_bytes, struck.blows);
            }
        });
    }
}
