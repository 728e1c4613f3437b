//! Instances that are read where they are keep those who would remove them away; and how late a replication is, `/metrics` says.

use std::time::Duration;

use serde_json::{Value, json};

use crate::availability::Api;
use crate::links::{free_port, site, site_in};
use crate::replicated::{Replicated, is_full};
use crate::replication::content;
use crate::server::eventually;
use crate::wire::Wire;

#[test]
fn an_instance_that_a_test_reads_stays_whoever_wants_it_gone() {
    // The destination reaches the source over a wire of its own, so that the source need not hear of what happens there.
    let port = free_port();
    let back = Wire::lay(port, Duration::ZERO);
    let advertised = format!("https://127.0.0.1:{}", back.port);
    let source = site_in("site1", port, &["--advertise-url", &advertised], &[]);
    let one = json!({"retentionPolicy": {"rules": [{"numberOfInstances": 1, "distance": 0}]}});
    let mut replicated = Replicated::between(source, site("site2", &[]), 60, one);
    let first = replicated.instances().remove(0);
    let before = replicated.keep("first");
    let api = Api::log_in(&replicated.b);
    let test = format!("/vm-replications/{}/failover-test", replicated.id);
    back.cut_after(1);
    eventually(Duration::from_secs(60), "the way back to be cut", || {
        // Something is said to the source all the time.
        back.is_cut().then_some(())
    });
    let task = api.done("POST", &test, &json!({"type": "vcloud", "powerOn": false}));
    assert!(task["warnings"].to_string().contains("does not know yet"), "{task}");
    let uuid = replicated.id.strip_prefix("C4-").unwrap().to_owned();
    let overlay = replicated.b.data.path().join(format!("recovered/{uuid}/disk-2000.qcow2"));
    let shows = || content(&overlay) == std::fs::read(&before).unwrap();
    assert!(shows());

    // The source does not know of the test: the destination refuses.
    assert_eq!(replicated.shown()["destinationState"]["recoveryInfo"]["recoveryState"], "NOT_STARTED");
    let ended = replicated.ended(&replicated.a.ok("DELETE", &replicated.at(""), &Value::Null));
    println!("removed during a test: {}", ended["error"]);
    assert_eq!(
        (&ended["state"], &ended["error"]["code"]),
        (&json!("FAILED"), &json!("OperationNotAllowedInState")),
        "{ended}"
    );
    assert!(ended["error"]["msg"].as_str().unwrap().contains("TEST"), "{ended}");
    assert_eq!(replicated.instances(), std::slice::from_ref(&first));
    assert!(shows());
    back.mend();

    // Retention takes the others, and never this one.
    for _ in 0..3 {
        replicated.write(5);
        replicated.done(&replicated.sync_anew());
    }
    eventually(Duration::from_secs(60), "retention to take the others", || {
        (replicated.instances().len() == 2).then_some(())
    });
    assert_eq!(replicated.instances()[0], first);
    assert!(shows() && replicated.verify().0);
    api.done("DELETE", &test, &Value::Null);
    replicated.write(5);
    let last = replicated.keep("last");
    replicated.done(&replicated.sync_anew());
    eventually(Duration::from_secs(60), "retention to take it", || (replicated.instances().len() == 1).then_some(()));
    let instances = replicated.instances();
    replicated.check(&instances[0], &last);
}

#[test]
fn how_late_a_replication_is_stands_in_the_metrics() {
    let mut replicated = Replicated::between(site("site1", &[]), site("site2", &[]), 6, json!({"rpo": 1}));
    let of = |replicated: &Replicated, name: &str| Replicated::metric(&replicated.a, name);
    assert_eq!(of(&replicated, "lockstep_replication_rpo_violation_minutes"), Some(0.0));
    let lag = |replicated: &Replicated| of(replicated, "lockstep_replication_lag_seconds").unwrap();
    let young = lag(&replicated);
    eventually(Duration::from_secs(60), "the newest instance to age", || (lag(&replicated) > young).then_some(()));
    assert_eq!(Replicated::metric(&replicated.b, "lockstep_replication_store_drafts"), Some(0.0));
    if !is_full() {
        return;
    }
    // Without a destination no sync ends, and after a minute the RPO is broken: in the metrics, and in the state.
    replicated.b.kill();
    eventually(Duration::from_secs(180), "the RPO to be broken", || {
        of(&replicated, "lockstep_replication_rpo_violation_minutes").filter(|minutes| *minutes >= 1.0)
    });
    let shown = replicated.shown();
    println!("late: {} s, {}", lag(&replicated), shown["overallHealth"]);
    assert_ne!(shown["overallHealth"], "GREEN", "{shown}");
    replicated.b.restart();
    eventually(Duration::from_secs(180), "it to be in time again", || {
        of(&replicated, "lockstep_replication_rpo_violation_minutes").filter(|minutes| *minutes == 0.0)
    });
    replicated.write(1);
}
