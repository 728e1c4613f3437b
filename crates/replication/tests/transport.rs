//! Syncs between two sites, over a wire that breaks, from a source and to a destination that die.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "it/pair.rs"]
mod pair;

use std::sync::atomic::Ordering;

use pair::{BLOCK, Machine, Mode, Pair};

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
