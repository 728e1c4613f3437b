//! What a restart finds. A runtime that is shut down ends everything of ours at once, wherever it is, and nothing of QEMU.

use std::sync::Arc;

use lockstep_replication::recovered::{Power, Purpose, Step};

use crate::site::{
    DISKS, PATIENCE, REPLICATION, Site, Watcher, block_on, kill, name, process, run, runtime, wait_said,
};

#[test]
fn a_machine_outlives_us_and_finds_its_disks_again() {
    let Some(site) = Site::new() else { return };
    let first = runtime();
    let before = first.block_on(async {
        let recoveries = site.open().await;
        recoveries.begin(site.wanted(Purpose::Test, true), Arc::new(())).await.unwrap();
        wait_said(&recoveries, "up").await;
        process(&recoveries)
    });
    first.shutdown_background();
    block_on(async {
        let recoveries = site.open().await;
        assert_eq!(process(&recoveries), before);
        assert!(recoveries.is_served(&name()) && site.is_pinned());
        // Each write is to a new block, for which the instance is read.
        recoveries.console(REPLICATION).await.unwrap();
        let said = wait_said(&recoveries, "....................").await;
        assert!(!said.contains('!'), "{said}");
        recoveries.discard(REPLICATION).await.unwrap();
        site.assert_nothing_left();
    });
}

#[test]
fn a_copy_that_was_cut_goes_on() {
    let Some(site) = Site::new() else { return };
    let first = runtime();
    let before = first.block_on(async {
        let recoveries = site.open().await;
        recoveries.begin(site.wanted(Purpose::Failover, true), Arc::new(())).await.unwrap();
        let before = process(&recoveries);
        let watcher = Arc::new(Watcher::default());
        let (copying, watching) = (recoveries.clone(), watcher.clone());
        tokio::spawn(async move { copying.make_independent(REPLICATION, watching).await });
        tokio::time::timeout(PATIENCE, watcher.begun.notified()).await.unwrap();
        before
    });
    first.shutdown_background();
    block_on(async {
        let recoveries = site.open().await;
        assert_eq!(process(&recoveries), before);
        let recovery = recoveries.make_independent(REPLICATION, Arc::new(())).await.unwrap();
        assert!(recovery.is_independent() && !site.is_pinned());
        wait_said(&recoveries, "...").await;
        recoveries.power_off(REPLICATION, PATIENCE).await.unwrap();
        assert!(!run("qemu-img", &["info", &site.disk(2001)]).contains("backing file"));
        assert!(site.image_content(2001) == site.content(DISKS[1]));
        // An independent one needs nothing after another restart.
        drop(recoveries);
        let recoveries = site.open().await;
        assert!(recoveries.unfinished().is_empty() && !recoveries.is_served(&name()));
        recoveries.discard(REPLICATION).await.unwrap();
        site.assert_nothing_left();
    });
}

#[test]
fn what_was_begun_is_finished_or_removed() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open().await;
        recoveries.begin(site.wanted(Purpose::Failover, true), Arc::new(())).await.unwrap();
        let before = process(&recoveries);
        let on = format!("{{\"On\":{{\"pid\":{},\"start_ticks\":{}}}}}", before.pid, before.start_ticks);
        // Killed after QEMU was started, before that was written down.
        drop(recoveries);
        site.edit_state(&on, "\"Starting\"");
        let recoveries = site.open().await;
        assert_eq!(process(&recoveries), before);
        // Killed before it was started.
        drop(recoveries);
        kill(before.pid).await;
        site.edit_state(&on, "\"Starting\"");
        let recoveries = site.open().await;
        let after = process(&recoveries);
        assert_ne!(after, before);
        wait_said(&recoveries, "up").await;
        // The host was restarted.
        drop(recoveries);
        kill(after.pid).await;
        let recoveries = site.open().await;
        let recovery = recoveries.get(REPLICATION).unwrap();
        assert_eq!((recovery.step, recovery.power), (Step::Ready, Power::Off));
        recoveries.power_on(REPLICATION).await.unwrap();
        // Killed while it was thrown away.
        drop(recoveries);
        site.edit_state("\"Ready\"", "\"Removing\"");
        std::fs::remove_file(site.disk(2000)).unwrap();
        let recoveries = site.open().await;
        assert_eq!(recoveries.all(), []);
        site.assert_nothing_left();
        // Killed while it was made.
        recoveries.begin(site.wanted(Purpose::Test, false), Arc::new(())).await.unwrap();
        drop(recoveries);
        site.edit_state("\"Ready\"", "\"Preparing\"");
        let recoveries = site.open().await;
        site.assert_nothing_left();
        // Served for people when it ended: nobody asks for it any more.
        recoveries.serve(name()).await.unwrap();
        drop(recoveries);
        assert!(site.is_pinned());
        let recoveries = site.open().await;
        site.assert_nothing_left();
        // A state that cannot be read hinders nothing, and is left alone.
        recoveries.begin(site.wanted(Purpose::Failover, false), Arc::new(())).await.unwrap();
        drop(recoveries);
        site.edit_state("\"version\":1", "\"version\":9");
        let recoveries = site.open().await;
        assert_eq!(recoveries.all(), []);
        assert!(std::fs::exists(site.disk(2000)).unwrap());
    });
}
