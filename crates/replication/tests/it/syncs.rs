//! Syncs that nothing disturbs: what is sent, and what comes of it.

use std::sync::atomic::Ordering;

use aegis::aegis128x2::Aegis128X2Mac;
use lockstep_replication::receive::DRAFTS_MAX;
use lockstep_replication::ship::{ShipError, TAG_BYTES, Tagger, Unlisted, abandon, ship};

use crate::pair::store::Trouble;
use crate::pair::{BLOCK, FileDisk, Machine, Mode, Pair, Random, TAG_KEY, progress};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_changed_and_is_missing_is_sent() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(1, &[64 * BLOCK + 512, 10 * BLOCK]);
    // Nothing at all.
    let empty = vm.sync(&pair, Mode::Full).await.unwrap();
    assert_eq!((empty.sent_blocks, empty.changed_blocks, empty.zero_blocks), (0, 0, 75));
    // Some of everything.
    vm.churn(60);
    let first = vm.sync(&pair, Mode::Compare).await.unwrap();
    assert!(first.sent_blocks > 0 && first.sent_blocks <= first.changed_blocks);
    // The same again, in every way.
    for mode in [Mode::Bitmap, Mode::Compare, Mode::Full] {
        let again = vm.sync(&pair, mode).await.unwrap();
        assert_eq!((again.sent_blocks, again.changed_blocks), (0, 0), "{mode:?}");
    }
    // A little.
    for mode in [Mode::Bitmap, Mode::Compare, Mode::Full] {
        vm.churn(5);
        let little = vm.sync(&pair, mode).await.unwrap();
        assert!(little.sent_blocks <= 5 && little.changed_blocks <= 5, "{mode:?}: {little:?}");
    }
    assert_eq!(pair.store().repeated.load(Ordering::Relaxed), 0, "no block was put twice");
    assert_eq!(pair.store().draft_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_may_grow_shrink_come_and_go() {
    resize(&Pair::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_may_do_so_with_the_real_store() {
    resize(&Pair::start_real().await).await;
}

async fn resize(pair: &Pair) {
    // Beyond a leaf of 4096 blocks, most of it holes.
    let mut vm = Machine::new(2, &[4100 * BLOCK, 20 * BLOCK + 512, BLOCK]);
    (4000..4100).step_by(7).for_each(|block| vm.write(0, block));
    vm.churn(20);
    vm.sync(pair, Mode::Compare).await.unwrap();
    let resize = |vm: &mut Machine, disk: usize, bytes: usize| vm.disks[disk].resize(bytes, 0);
    for (disk, bytes) in [
        (1, 20 * BLOCK + 1024),
        (1, 30 * BLOCK),
        (1, 7 * BLOCK + 512),
        (0, 4097 * BLOCK),
        (0, 4096 * BLOCK),
        (0, 100 * BLOCK),
        (0, 4098 * BLOCK + 512),
    ] {
        resize(&mut vm, disk, bytes);
        vm.churn(3);
        let shipped = vm.sync(pair, Mode::Compare).await.unwrap();
        assert!(shipped.changed_blocks < 60, "{disk} {bytes}: {shipped:?}");
    }
    vm.disks.pop();
    vm.changed.pop();
    vm.sync(pair, Mode::Full).await.unwrap();
    vm.disks.push(vec![7; 3 * BLOCK]);
    vm.changed.push(Default::default());
    vm.sync(pair, Mode::Compare).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_that_are_lost_or_damaged_are_asked_for() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(3, &[300 * BLOCK]);
    vm.is_local = Some(false);
    vm.churn(200);
    vm.sync(&pair, Mode::Compare).await.unwrap();
    let files = || kept_files(&pair);
    assert_eq!(files().len(), 1, "only the leaves of the last instance are kept");
    for (damage, is_local) in
        ["removed", "torn", "flipped"].into_iter().flat_map(|damage| [(damage, false), (damage, true)])
    {
        vm.is_local = Some(is_local);
        vm.sync(&pair, Mode::Full).await.unwrap();
        assert!(!is_local || files().len() == 2, "and the tags of what was read from a file");
        for file in files() {
            match damage {
                "removed" => std::fs::remove_file(file).unwrap(),
                "torn" => std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(100).unwrap(),
                _ => {
                    let mut bytes = std::fs::read(&file).unwrap();
                    bytes[50] ^= 1;
                    std::fs::write(&file, bytes).unwrap();
                }
            }
        }
        vm.churn(3);
        let shipped = vm.sync(&pair, Mode::Bitmap).await.unwrap();
        assert!(shipped.changed_blocks <= 3, "{damage}");
        let again = vm.sync(&pair, Mode::Full).await.unwrap();
        assert_eq!(again.changed_blocks, 0, "{damage}");
    }
    // And with nowhere to keep them.
    vm.churn(3);
    let mut way = pair.way();
    way.maps = None;
    let shipped = ship(vm.shipment(Mode::Bitmap), &way, progress()).await.unwrap();
    vm.committed(&shipped);
    vm.check(&pair);
}

/// What is kept from one sync to the next.
fn kept_files(pair: &Pair) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(pair.maps.path().join("1-vm")).unwrap().map(|file| file.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_its_tag_is_not_hashed_again() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(6, &[300 * BLOCK + 512]);
    vm.is_local = Some(true);
    vm.disks[0].fill(5);
    vm.churn(100);
    vm.sync(&pair, Mode::Full).await.unwrap();
    let is_tags = |file: &std::path::PathBuf| file.extension().is_some_and(|extension| extension == "tags");
    let kept = || kept_files(&pair).into_iter().find(is_tags);
    let Some(tags) = kept() else { return assert!(Tagger::new(&TAG_KEY).is_none(), "no tags are kept") };

    // Only who has the key can hide a change: the tag of what is there now, and the seal of all tags.
    vm.write(0, 3);
    vm.disks[0][3 * BLOCK] ^= 1;
    let mac = |nonce: u8, parts: &[&[u8]]| {
        let mut mac = Aegis128X2Mac::<TAG_BYTES>::new_with_nonce(&TAG_KEY, &[nonce; TAG_BYTES]);
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize()
    };
    let honest = std::fs::read(&tags).unwrap();
    let leaf = *blake3::Hash::from_hex(tags.file_stem().unwrap().to_str().unwrap()).unwrap().as_bytes();
    let mut forged = honest[..honest.len() - TAG_BYTES].to_vec();
    forged[3 * TAG_BYTES..4 * TAG_BYTES].copy_from_slice(&mac(0, &[&vm.disks[0][3 * BLOCK..4 * BLOCK]]));
    let seal = mac(1, &[&leaf, &forged]);
    for (seal, changed) in [(seal, 0), ([0; TAG_BYTES], 1)] {
        std::fs::write(&tags, [&forged[..], &seal].concat()).unwrap();
        let shipped = ship(vm.shipment(Mode::Full), &pair.way(), progress()).await.unwrap();
        assert_eq!(shipped.changed_blocks, changed, "unsealed, nothing is believed");
        if changed > 0 {
            vm.committed(&shipped);
            vm.check(&pair);
        }
    }

    // What changed has its tag at once, and what goes back has it again.
    assert_eq!(std::fs::read(kept().unwrap()).unwrap().len(), honest.len());
    for turn in 0..6 {
        vm.is_local = Some(turn % 3 > 0);
        let before = vm.disks.clone();
        vm.churn(20);
        vm.sync(&pair, Mode::Full).await.unwrap();
        vm.disks = before;
        vm.sync(&pair, Mode::Full).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_of_one_reading() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(4, &[10 * BLOCK]);
    vm.churn(10);
    let first = vm.shipment(Mode::Full);
    ship(first.clone(), &pair.way(), progress()).await.unwrap();
    let mut again = vm.shipment(Mode::Full);
    again.instance = first.instance.clone();
    let error = ship(again, &pair.way(), progress()).await.unwrap_err();
    assert!(matches!(&error, ShipError::Committed(instance) if instance.instance == first.instance), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sync_is_refused_at_once() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(5, &[10 * BLOCK]);
    vm.churn(10);
    let attempt = async |vm: &mut Machine, change: &dyn Fn(&mut lockstep_replication::ship::Shipment)| {
        let mut shipment = vm.shipment(Mode::Full);
        change(&mut shipment);
        ship(shipment, &pair.way(), progress()).await.unwrap_err()
    };
    let error = attempt(&mut vm, &|s| s.unlisted = Unlisted::Unchanged).await;
    assert!(matches!(error, ShipError::NoBase), "{error}");
    let error = attempt(&mut vm, &|s| s.disks.push(s.disks[0].clone())).await;
    assert!(matches!(error, ShipError::Disks(2)), "{error}");
    let error = attempt(&mut vm, &|s| s.disks.clear()).await;
    assert!(matches!(error, ShipError::Disks(0)), "{error}");
    let error = attempt(&mut vm, &|s| s.instance = "h4replica-x".to_owned()).await;
    assert!(matches!(error, ShipError::Refused(_)), "{error}");
    let error = attempt(&mut vm, &|s| s.replication = "../x".to_owned()).await;
    assert!(matches!(error, ShipError::Replication(_)), "{error}");
    let error = attempt(&mut vm, &|s| s.replication = "2-vm".to_owned()).await;
    assert!(error.to_string().contains("no such replication"), "{error}");
    vm.sync(&pair, Mode::Full).await.unwrap();
    let error = attempt(&mut vm, &|s| s.base.as_mut().unwrap().root = Some("0".repeat(64))).await;
    assert!(matches!(error, ShipError::BaseDiffers { .. }), "{error}");
    let error = attempt(&mut vm, &|s| s.base.as_mut().unwrap().instance = s.instance.clone()).await;
    assert!(error.to_string().contains("no instance"), "{error}");
    vm.disks[0].truncate(9 * BLOCK);
    let error = attempt(&mut vm, &|s| s.unlisted = Unlisted::Unchanged).await;
    assert!(matches!(error, ShipError::Resized(2000)), "{error}");
    assert_eq!(pair.store().instances().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_goes_away_leaves_a_draft_and_no_instance() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(6, &[640 * BLOCK]);
    Random::new(6).fill(&mut vm.disks[0]);
    for attempts in 1..=5 {
        let mut shipment = vm.shipment(Mode::Full);
        let disk = FileDisk::new(&vm.disks[0], shipment.disks[0].source.extents().await.unwrap());
        disk.left.store(28 << 20, Ordering::Relaxed);
        shipment.disks[0].source = std::sync::Arc::new(disk);
        let error = ship(shipment, &pair.way(), progress()).await.unwrap_err();
        assert!(matches!(error, ShipError::Source(_)), "{error}");
        assert!(pair.store().instances().is_empty());
        assert_eq!(pair.store().draft_count(), DRAFTS_MAX.min(attempts), "drafts of attempts that failed are few");
    }
    let blocks = pair.store().block_count();
    assert!(blocks > 50, "what arrived is kept");
    let shipped = vm.sync(&pair, Mode::Full).await.unwrap();
    // The oldest draft goes when the next one is begun, and with it what none of the others has found: how much that is, is chance.
    assert!(shipped.deduplicated_blocks > 50, "and not sent again: {shipped:?}");
    assert_eq!(shipped.sent_blocks + shipped.deduplicated_blocks, 640);
    assert_eq!(pair.store().draft_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafts_go_when_they_are_abandoned_or_their_replication_is_removed() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(8, &[40 * BLOCK]);
    vm.churn(60);
    let fail = async |vm: &mut Machine| {
        let mut shipment = vm.shipment(Mode::Full);
        let disk = FileDisk::new(&vm.disks[0], shipment.disks[0].source.extents().await.unwrap());
        disk.left.store(0, Ordering::Relaxed);
        shipment.disks[0].source = std::sync::Arc::new(disk);
        ship(shipment.clone(), &pair.way(), progress()).await.unwrap_err();
        shipment.instance
    };
    let instance = fail(&mut vm).await;
    assert_eq!(pair.store().draft_count(), 1);
    for _ in 0..2 {
        abandon(&vm.replication, &instance, &pair.way()).await.unwrap();
        assert_eq!(pair.store().draft_count(), 0);
    }
    fail(&mut vm).await;
    fail(&mut vm).await;
    assert_eq!(pair.store().draft_count(), 2);
    pair.receive().forget("1-other").await.unwrap();
    assert_eq!(pair.store().draft_count(), 2);
    pair.receive().forget(&vm.replication).await.unwrap();
    assert_eq!(pair.store().draft_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_ends_the_sync_and_one_that_is_away_holds_it_up() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(9, &[100 * BLOCK]);
    vm.churn(200);
    pair.store().trouble(Trouble::Full);
    let error = vm.sync(&pair, Mode::Full).await.unwrap_err();
    assert_eq!(error.to_string(), "the destination refuses: the store is full");
    pair.store().trouble(Trouble::Away);
    let mut way = pair.way();
    way.patience = std::time::Duration::from_millis(300);
    let error = ship(vm.shipment(Mode::Full), &way, progress()).await.unwrap_err();
    assert!(matches!(&error, ShipError::GaveUp { reason, .. } if reason.contains("cannot be reached")), "{error}");
    let store = pair.store();
    let back = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        store.trouble(Trouble::Nothing);
    });
    let shipped = vm.sync(&pair, Mode::Full).await.unwrap();
    assert!(shipped.breaks > 0);
    back.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_vanish_at_the_destination_are_no_instance() {
    let pair = Pair::start().await;
    let mut vm = Machine::new(10, &[100 * BLOCK]);
    vm.churn(200);
    vm.sync(&pair, Mode::Full).await.unwrap();
    vm.churn(3);
    pair.store().lose_blocks();
    let error = vm.sync(&pair, Mode::Bitmap).await.unwrap_err();
    assert!(matches!(error, ShipError::BlocksMissing), "{error}");
    assert_eq!(pair.store().instances().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_at_the_destination_is_brought_again() {
    let pair = Pair::start_real().await;
    let mut vm = Machine::new(11, &[100 * BLOCK]);
    vm.churn(200);
    vm.sync(&pair, Mode::Full).await.unwrap();
    let first = vm.base.clone().unwrap();
    let replication = vm.replication.clone();
    let leaf = |instance: &str| {
        let name = lockstep_blocks::Name::new(&replication, instance).unwrap();
        pair.stored().leaf_hashes(&name, 2000, 0, 1).unwrap()[0]
    };
    // Not known yet: it is met by who changes something there.
    pair.damage(&leaf(&first.instance));
    vm.churn(3);
    let error = vm.sync(&pair, Mode::Bitmap).await.unwrap_err();
    assert!(matches!(error, ShipError::BlocksMissing), "{error}");
    vm.base = None;
    let shipped = vm.sync(&pair, Mode::Full).await.unwrap();
    assert!(shipped.sent_blocks <= 3, "{shipped:?}");

    // Known: what was found by reading everything is not built upon, although nothing has changed.
    let second = vm.base.clone().unwrap();
    pair.damage(&leaf(&second.instance));
    assert!(!pair.stored().verify(&mut |_, _| {}).unwrap().damages.is_empty());
    let error = vm.sync(&pair, Mode::Bitmap).await.unwrap_err();
    assert!(matches!(error, ShipError::BlocksMissing), "{error}");
    vm.base = None;
    vm.sync(&pair, Mode::Full).await.unwrap();
    let left = pair.stored().verify(&mut |_, _| {}).unwrap().damages;
    let is_of_first = |name: &lockstep_blocks::Name| name.instance() == first.instance;
    let of = left.iter().flat_map(|damage| &damage.concerns);
    assert!(of.clone().all(|(name, ..)| is_of_first(name)), "what nobody has any more stays damaged: {left:?}");
}
