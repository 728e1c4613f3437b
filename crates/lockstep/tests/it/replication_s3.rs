//! A real site that keeps the instances of another in an object store, which goes away in the middle of a sync.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::availability::Api;
use crate::links::{free_port, site, site_in};
use crate::moto::Moto;
use crate::replicated::{Replicated, is_full};
use crate::replication::content;
use crate::server::{Server, eventually};
use crate::wire::Wire;

/// How long the object store is away.
fn away() -> Duration {
    Duration::from_secs(if is_full() { 60 } else { 3 })
}

/// A site whose replicas are in the bucket that is behind a port.
fn destination(port: u16) -> Server {
    let endpoint = format!("http://127.0.0.1:{port}");
    let environment = [
        ("AWS_ENDPOINT_URL", &*endpoint),
        ("AWS_ACCESS_KEY_ID", "lockstep"),
        ("AWS_SECRET_ACCESS_KEY", "lockstepsecret"),
        ("AWS_REGION", "us-east-1"),
    ];
    site_in("site2", free_port(), &["--replica-store", "s3://replica/site2"], &environment)
}

#[test]
fn replicas_in_an_object_store_outlive_its_absence_and_the_sites_restart() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket();
    let wire = Wire::lay(moto.port, Duration::ZERO);
    let mut replicated = Replicated::between(site("site1", &[]), destination(wire.port), 240, json!({}));
    let before = replicated.keep("first");
    let first = replicated.instances();
    let packs = || {
        let files = std::fs::read_dir(replicated.b.data.path().join("replicas")).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("pack.")).count()
    };
    assert_eq!(packs(), 0, "what is finished is in the object store");

    // It goes while what was sent is brought there.
    replicated.write(160);
    let after = replicated.keep("second");
    wire.cut_after(2 << 20);
    let began = Instant::now();
    let task = replicated.sync();
    eventually(Duration::from_secs(60), "the object store to go", || wire.is_cut().then_some(()));
    let gone = Instant::now();
    eventually(away() + Duration::from_secs(60), "it to be away for long enough", || {
        assert_eq!(replicated.task(&task)["state"], "RUNNING", "{}", replicated.task(&task));
        // Nothing is there that is not whole; and that it is away hinders nobody from asking.
        assert_eq!(replicated.instances(), first);
        (gone.elapsed() >= away()).then_some(())
    });
    wire.mend();
    replicated.done(&task);
    println!("an object store that was away for {:?}: the sync took {:?}", away(), began.elapsed());
    replicated.check_all(&[&before, &after]);
    let instances = replicated.instances();

    // Everything is found again after a restart, and a test reads it where it is.
    replicated.b.restart();
    assert_eq!(replicated.instances(), instances);
    replicated.write(20);
    let newest = replicated.keep("third");
    replicated.done(&replicated.sync_anew());
    let instances = replicated.instances();
    replicated.check(&instances[2], &newest);
    let api = Api::log_in(&replicated.b);
    let test = format!("/vm-replications/{}/failover-test", replicated.id);
    api.done("POST", &test, &json!({"type": "vcloud", "powerOn": false, "instanceId": instances[1]}));
    let uuid = replicated.id.strip_prefix("C4-").unwrap();
    let overlay = replicated.b.data.path().join(format!("recovered/{uuid}/disk-2000.qcow2"));
    assert!(content(&overlay) == std::fs::read(&after).unwrap(), "a test shows the instance it was made of");
    api.done("DELETE", &test, &Value::Null);
    assert!(replicated.verify().0);
}
