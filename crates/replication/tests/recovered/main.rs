//! Recovered machines, run by a real QEMU: tests, failovers, and what a restart finds.

#![allow(clippy::unwrap_used, reason = "tests")]

mod restarts;
mod site;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_replication::recovered::{Accelerator, Config, Error, Hardware, Power, PoweredOff, Purpose, power_off};
use site::{DISKS, INSTANCE, PATIENCE, REPLICATION, Site, block_on, kill, name, process, run, wait_off, wait_said};

#[test]
fn a_test_boots_over_the_instance_and_leaves_nothing_behind() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open().await;
        let before = DISKS.map(|disk| site.content(disk));
        let began = Instant::now();
        let recovery = recoveries.begin(site.wanted(Purpose::Test, true), Arc::new(())).await.unwrap();
        let started = began.elapsed();
        // The second disk's letter: the disks are in the order of their keys.
        let said = wait_said(&recoveries, "up Z\n").await;
        println!(
            "root {} checked; QEMU ready after {started:.0?}, guest up after {:.0?}",
            recovery.root,
            began.elapsed()
        );
        assert!(!said.contains('!'), "{said}");
        wait_said(&recoveries, "...").await;
        assert!(site.is_pinned() && recoveries.is_served(&name()));
        let again = recoveries.begin(site.wanted(Purpose::Failover, true), Arc::new(())).await.unwrap_err();
        assert!(matches!(again, Error::Exists { .. }), "{again}");
        let error = recoveries.make_independent(REPLICATION, Arc::new(())).await.unwrap_err();
        assert!(matches!(error, Error::State { .. }), "{error}");
        // What the guest wrote is in its disk and not in the instance.
        assert_eq!(recoveries.power_off(REPLICATION, PATIENCE).await.unwrap(), PoweredOff::ByGuest);
        assert_eq!(recoveries.get(REPLICATION).unwrap().power, Power::Off);
        let written = site.image_content(2000);
        assert_eq!(written[2048 * 512..][..512], 1u32.to_le_bytes().repeat(128));
        assert_eq!(before, DISKS.map(|disk| site.content(disk)));
        recoveries.discard(REPLICATION).await.unwrap();
        site.assert_nothing_left();
        assert_eq!(recoveries.all(), []);
        recoveries.discard(REPLICATION).await.unwrap();
    });
}

#[test]
fn a_running_test_is_ended_by_its_clean_up() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open().await;
        recoveries.begin(site.wanted(Purpose::Test, true), Arc::new(())).await.unwrap();
        wait_said(&recoveries, "up").await;
        recoveries.discard(REPLICATION).await.unwrap();
        site.assert_nothing_left();
        // One that was pinned before stays so.
        site.store.pin(&name(), true).unwrap();
        recoveries.begin(site.wanted(Purpose::Test, false), Arc::new(())).await.unwrap();
        recoveries.discard(REPLICATION).await.unwrap();
        assert!(site.is_pinned() && !recoveries.is_served(&name()));
    });
}

#[test]
fn a_failover_that_is_off_holds_what_the_instance_does() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open().await;
        recoveries.begin(site.wanted(Purpose::Failover, false), Arc::new(())).await.unwrap();
        assert_eq!(recoveries.unfinished(), [REPLICATION]);
        // Cancelled at the first report, it goes on at once.
        let cancelling = Arc::new(site::Watcher { is_cancelling: true, ..Default::default() });
        match recoveries.make_independent(REPLICATION, cancelling).await {
            Err(Error::Cancelled) | Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
        let recovery = recoveries.make_independent(REPLICATION, Arc::new(())).await.unwrap();
        assert!(recovery.is_independent() && recoveries.unfinished().is_empty());
        assert!(!site.is_pinned() && !recoveries.is_served(&name()));
        let urls = recoveries.serve(name()).await.unwrap();
        assert!(site.is_pinned());
        assert_eq!(recoveries.serve(name()).await.unwrap(), urls);
        for (disk, url) in urls {
            let file = site.disk(disk.key);
            let compared = tokio::task::spawn_blocking(move || {
                let info = run("qemu-img", &["info", "-U", &file]);
                assert!(!info.contains("backing file"), "{info}");
                run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &url, &file])
            });
            assert_eq!(compared.await.unwrap(), "Images are identical.\n");
        }
        recoveries.stop_serving(name()).await.unwrap();
        assert!(!site.is_pinned());
        for disk in DISKS {
            assert!(site.image_content(disk.key) == site.content(disk), "disk {}", disk.key);
        }
        // Its machine boots without the instance.
        site.store.remove(&name()).unwrap();
        let error = recoveries.serve(name()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("there is no instance {INSTANCE} of {REPLICATION}"));
        recoveries.power_on(REPLICATION).await.unwrap();
        wait_said(&recoveries, "up Z\n").await;
        let error = recoveries.power_on(REPLICATION).await.unwrap_err();
        assert!(matches!(error, Error::State { .. }), "{error}");
        let machine = recoveries.machine(REPLICATION).unwrap();
        let disks = machine.disks.iter().map(|disk| (disk.key, disk.path.to_str().unwrap().to_owned()));
        assert_eq!(disks.collect::<Vec<_>>(), [2000, 2001].map(|key| (key, site.disk(key))));
        // As a migration does, by the monitor of who replicates it.
        let monitor = machine.monitor.unwrap();
        assert_eq!(power_off(&monitor, PATIENCE).await.unwrap(), PoweredOff::ByGuest);
        wait_off(&recoveries).await;
        assert_eq!(power_off(&monitor, PATIENCE).await.unwrap(), PoweredOff::WasOff);
        assert_eq!(recoveries.power_off(REPLICATION, PATIENCE).await.unwrap(), PoweredOff::WasOff);
        recoveries.discard(REPLICATION).await.unwrap();
    });
}

#[test]
fn a_failover_becomes_independent_while_its_machine_works() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open().await;
        recoveries.begin(site.wanted(Purpose::Failover, true), Arc::new(())).await.unwrap();
        wait_said(&recoveries, "up").await;
        let cancelling = Arc::new(site::Watcher { is_cancelling: true, ..Default::default() });
        let error = recoveries.make_independent(REPLICATION, cancelling).await.unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert!(site.is_pinned());
        let began = Instant::now();
        let recovery = recoveries.make_independent(REPLICATION, Arc::new(())).await.unwrap();
        println!("independent after {:.0?}", began.elapsed());
        assert!(recovery.is_independent() && !site.is_pinned() && !recoveries.is_served(&name()));
        // Whatever becomes of QEMU, what was copied is in the image.
        kill(process(&recoveries).pid).await;
        let (found, instance) = (site.image_content(2000), site.content(DISKS[0]));
        assert!(!run("qemu-img", &["info", &site.disk(2000)]).contains("backing file"));
        // Only the sectors that the guest wrote differ.
        let is_guests = |sector: usize| sector >= 2048 && sector.is_multiple_of(128);
        let differ =
            (0..found.len() / 512).filter(|sector| found[sector * 512..][..512] != instance[sector * 512..][..512]);
        let differ: Vec<usize> = differ.collect();
        assert!(differ.iter().all(|sector| is_guests(*sector)), "{differ:?}");
        assert!(site.image_content(2001) == site.content(DISKS[1]));
        recoveries.discard(REPLICATION).await.unwrap();
        site.assert_nothing_left();
    });
}

#[test]
fn a_machine_starts_whether_kvm_works_or_not() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open_with(Config { accelerator: Accelerator::Any, ..site.config() }).await;
        let recovery = recoveries.begin(site.wanted(Purpose::Test, true), Arc::new(())).await.unwrap();
        println!("emulated because: {:?}", recovery.why_emulated);
        wait_said(&recoveries, "up Z\n").await;
        recoveries.discard(REPLICATION).await.unwrap();
        site.assert_nothing_left();
    });
}

#[test]
fn what_fails_leaves_nothing_behind() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open().await;
        let mut wanted = site.wanted(Purpose::Failover, true);
        wanted.root = Some([7; 32]);
        let error = recoveries.begin(wanted, Arc::new(())).await.unwrap_err();
        assert!(matches!(error, Error::RootDiffers { .. }), "{error}");
        site.assert_nothing_left();
        let mut wanted = site.wanted(Purpose::Failover, true);
        wanted.hardware = Hardware { cpus: 0, ..wanted.hardware };
        let error = recoveries.begin(wanted, Arc::new(())).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        site.assert_nothing_left();
        // QEMU is told why it cannot start, and tells us.
        let mut wanted = site.wanted(Purpose::Failover, true);
        wanted.hardware.bridge = Some("no-such-bridge".into());
        let error = recoveries.begin(wanted, Arc::new(())).await.unwrap_err();
        assert!(matches!(&error, Error::Program { reason, .. } if reason.contains("bridge")), "{error}");
        site.assert_nothing_left();
        drop(recoveries);
        let recoveries = site.open_with(Config { qemu_img: "/nowhere/qemu-img".into(), ..site.config() }).await;
        let error = recoveries.begin(site.wanted(Purpose::Test, true), Arc::new(())).await.unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        site.assert_nothing_left();
        let error = recoveries.power_on(REPLICATION).await.unwrap_err();
        assert!(matches!(error, Error::Absent(_)), "{error}");
    });
}

#[test]
fn a_guest_that_does_not_shut_down_is_powered_off() {
    block_on(async {
        let Some(site) = Site::new() else { return };
        let recoveries = site.open().await;
        recoveries.begin(site.wanted(Purpose::Failover, true), Arc::new(())).await.unwrap();
        // Before the guest listens, or with no time for it: no matter which.
        let how = recoveries.power_off(REPLICATION, Duration::ZERO).await.unwrap();
        assert!(matches!(how, PoweredOff::ByForce | PoweredOff::ByGuest), "{how:?}");
        assert_eq!(recoveries.get(REPLICATION).unwrap().power, Power::Off);
        // Copying goes on by other means when the machine ends in the middle.
        recoveries.power_on(REPLICATION).await.unwrap();
        let process = process(&recoveries);
        run("kill", &["-9", &process.pid.to_string()]);
        let recovery = recoveries.make_independent(REPLICATION, Arc::new(())).await.unwrap();
        assert!(recovery.is_independent());
        assert!(site.image_content(2001) == site.content(DISKS[1]));
        recoveries.discard(REPLICATION).await.unwrap();
        site.assert_nothing_left();
    });
}
