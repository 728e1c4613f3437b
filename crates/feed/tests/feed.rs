//! The feed of a real site, without a transport between.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::{Data, Encoding, Error, PlainJson};
use lockstep_feed::Feed;
use lockstep_model::{Position, ResourceId};
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use lockstep_site::{Config, Site};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

struct House {
    site: Arc<Site>,
    table: Table,
    dir: TempDir,
}

fn config(dir: &TempDir) -> Config {
    // Small segments, so that a few commits make something to compact.
    let journal = lockstep_journal::Config { segment_bytes_max: 4096, ..Default::default() };
    Config {
        name: "test".to_owned(),
        data_dir: dir.path().to_owned(),
        journal,
        query_limits: lockstep_query::Limits::default(),
        sessions: lockstep_site::sessions::SessionLimits::default(),
        epoch_types: Vec::new(),
    }
}

impl House {
    fn new() -> Self {
        Self::open(TempDir::new().unwrap())
    }

    fn open(dir: TempDir) -> Self {
        let site = Site::open(config(&dir), &mut |_| {}).unwrap();
        let mut table = Table::default();
        lockstep_site::register(&mut table);
        Feed::new(&site, Duration::from_millis(50)).register(&mut table);
        Self { site, table, dir }
    }

    async fn call(&self, service: &str, operation: &str, input: Value) -> Result<Value, Error> {
        let entry = &self.table.entries()[self.table.find(service, operation).unwrap()];
        let context = Context { site: self.site.clone(), caller: Caller::Server("test"), operation_id: "test".into() };
        let data = Data::from_json(input.to_string().as_bytes()).unwrap();
        let answer = entry.call(context, data, Encoding::Plain, false).await?;
        let mut w = PlainJson::default();
        answer.value.encode(&mut w);
        Ok(serde_json::from_slice(&w.out).unwrap())
    }

    async fn sequence(&self) -> String {
        let token = self.call("com.vmware.cdc.change_log", "get_current_sequence", json!({})).await.unwrap();
        token.as_str().unwrap().to_owned()
    }

    async fn changes(&self, token: &str) -> Result<Value, Error> {
        self.call("com.vmware.cdc.change_log", "get_changes", json!({ "sequence_token": token })).await
    }

    async fn filtered(&self, input: Value) -> Result<Value, Error> {
        self.call("lockstep.feed", "get_changes", input).await
    }

    async fn put(&self, resource_type: &str, id: &str, properties: Value) {
        let id = ResourceId::new(resource_type, id);
        self.site.replace_resource("test".into(), id, &properties.to_string(), None).await.unwrap();
    }

    async fn delete(&self, resource_type: &str, id: &str) {
        self.site.delete_resource("test".into(), ResourceId::new(resource_type, id), None, true).await.unwrap();
    }

    async fn matching(&self, filter: &Value) -> BTreeSet<String> {
        let spec = json!({"query_spec": {"resource_filter": filter, "property_spec": []}});
        let answer = self.call("com.vmware.cis.data.legacy.resource_model", "query", spec).await.unwrap();
        answer["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["resource_id"]["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn reference(resource_type: &str, id: &str) -> Value {
    json!({"type": resource_type, "id": id})
}

fn kinds(answer: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let changes = answer["changes"].as_array().cloned().unwrap_or_default();
    changes.iter().map(|c| (text(&c["kind"]), text(&c["resource"]["id"]))).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Virtual machines of hosts whose cluster has the name `x`.
fn in_cluster_x() -> Value {
    json!({"filter_type": "PROPERTY", "property_filter": {
        "property": "VirtualMachine/host->HostSystem/cluster->ClusterComputeResource/name",
        "operator": "EQUAL", "comparable_type": "STRING", "comparable_string": "x"}})
}

#[test]
fn changes_come_whole_in_order_with_their_parents() {
    runtime().block_on(async {
        let house = House::new();
        let start = house.sequence().await;
        house.put("Folder", "f", json!({"name": "f"})).await;
        house.put("VirtualMachine", "v", json!({"name": "a", "cpu_count": 1, "folder": reference("Folder", "f")})).await;
        house.put("VirtualMachine", "v", json!({"name": "b", "guest": {"family": "LINUX"}, "folder": reference("Folder", "f")})).await;
        let token = house.sequence().await;
        house.delete("VirtualMachine", "v").await;

        let all = house.changes(&start).await.unwrap();
        let parents = json!([reference("Folder", "f")]);
        let vm = reference("VirtualMachine", "v");
        assert_eq!(
            all["changes"],
            json!([
                {"resource": reference("Folder", "f"), "kind": "CREATE", "parent_resources": []},
                {"resource": vm, "kind": "CREATE", "parent_resources": parents},
                {"resource": vm, "kind": "UPDATE", "properties": ["cpu_count", "guest/family", "name"], "parent_resources": parents},
                {"resource": vm, "kind": "DELETE", "parent_resources": parents},
            ])
        );
        let rest = house.changes(&token).await.unwrap();
        assert_eq!(kinds(&rest), [("DELETE".to_owned(), "v".to_owned())]);
        assert_eq!(rest["sequence"], all["sequence"]);
        let none = house.changes(all["sequence"].as_str().unwrap()).await.unwrap();
        assert_eq!(none, json!({"sequence": all["sequence"]}), "no member `changes` when there are none");
    });
}

#[test]
fn a_token_that_cannot_be_continued_is_refused() {
    runtime().block_on(async {
        let house = House::new();
        let foreign = House::new().sequence().await;
        let here = house.sequence().await;
        let future = lockstep_site::token::write(house.site.origin(), Position(1 << 40));
        for token in ["", "x", "1.2.3", &here[1..], &foreign, &future] {
            let error = house.changes(token).await.unwrap_err();
            assert_eq!(
                (error.kind.name(), &*error.messages[0].id),
                ("INVALID_ARGUMENT", "lockstep.cdc.invalid"),
                "{token}"
            );
        }
    });
}

#[test]
fn a_parked_reader_is_woken_by_the_first_commit_and_tokens_outlive_a_restart() {
    runtime().block_on(async {
        let house = Arc::new(House::new());
        let token = house.sequence().await;
        let reader = tokio::spawn({
            let (house, token) = (house.clone(), token.clone());
            async move {
                loop {
                    let answer = house.changes(&token).await.unwrap();
                    if answer.get("changes").is_some() {
                        return answer;
                    }
                }
            }
        });
        house.put("Folder", "f", json!({"name": "f"})).await;
        let answer = reader.await.unwrap();
        assert_eq!(kinds(&answer), [("CREATE".to_owned(), "f".to_owned())]);
        let House { site, dir, .. } = Arc::into_inner(house).unwrap();
        site.close();
        drop(site);
        let again = House::open(dir);
        assert_eq!(again.changes(&token).await.unwrap(), answer);
    });
}

#[test]
fn a_change_elsewhere_makes_resources_enter_and_leave() {
    runtime().block_on(async {
        let house = House::new();
        house.put("ClusterComputeResource", "c", json!({"name": "y"})).await;
        house.put("HostSystem", "h", json!({"cluster": reference("ClusterComputeResource", "c")})).await;
        house.put("VirtualMachine", "v", json!({"name": "v", "host": reference("HostSystem", "h")})).await;
        let mut token = house.sequence().await;
        let mut next = async || {
            let input = json!({"sequence_token": token, "filter": in_cluster_x()});
            let answer = house.filtered(input).await.unwrap();
            token = answer["sequence"].as_str().unwrap().to_owned();
            answer
        };
        let one = |kind: &str| [(kind.to_owned(), "v".to_owned())];
        assert_eq!(kinds(&next().await), []);
        house.put("ClusterComputeResource", "c", json!({"name": "x"})).await;
        let entered = next().await;
        assert_eq!(kinds(&entered), one("ENTER"));
        assert!(entered["changes"][0].get("properties").is_none(), "it did not change itself: {entered}");
        house.put("VirtualMachine", "v", json!({"name": "w", "host": reference("HostSystem", "h")})).await;
        assert_eq!(kinds(&next().await), one("UPDATE"));
        house.put("HostSystem", "h", json!({"name": "moved"})).await;
        assert_eq!(kinds(&next().await), one("LEAVE"));
        house.put("HostSystem", "h", json!({"cluster": reference("ClusterComputeResource", "c")})).await;
        assert_eq!(kinds(&next().await), one("ENTER"));
        house.put("ClusterComputeResource", "c", json!({"name": "z"})).await;
        assert_eq!(kinds(&next().await), one("LEAVE"));
        house.put("ClusterComputeResource", "c", json!({"name": "x"})).await;
        house.delete("VirtualMachine", "v").await;
        assert_eq!(kinds(&next().await), [], "it entered and went between two answers");
        house.put("VirtualMachine", "v", json!({"host": reference("HostSystem", "h")})).await;
        assert_eq!(kinds(&next().await), one("CREATE"));
        house.delete("ClusterComputeResource", "c").await;
        assert_eq!(kinds(&next().await), one("DELETE"), "it went with its cluster");
    });
}

#[test]
fn an_aged_token_is_refused_and_caught_up_on_request() {
    runtime().block_on(async {
        let house = House::new();
        for n in 0..200 {
            house.put("Folder", &format!("f{n}"), json!({"name": "x".repeat(100)})).await;
        }
        let token = house.sequence().await;
        house.put("Folder", "f1", json!({"name": "changed"})).await;
        house.delete("Folder", "f2").await;
        for n in 0..200 {
            house.put("Network", &format!("n{n}"), json!({"name": "y".repeat(100)})).await;
        }
        let head = house.site.journal().head();
        house.site.journal().compact(head).unwrap();
        assert!(house.site.journal().oldest() > Position(210), "nothing was compacted");
        let error = house.changes(&token).await.unwrap_err();
        assert_eq!(&*error.messages[0].id, "lockstep.cdc.expired");
        let input = json!({"sequence_token": token, "resource_types": ["Folder"]});
        assert_eq!(&*house.filtered(input.clone()).await.unwrap_err().messages[0].id, "lockstep.cdc.expired");
        let mut input = input;
        input["catch_up"] = json!(true);
        let answer = house.filtered(input).await.unwrap();
        assert_eq!(answer["caught_up"], true);
        assert_eq!(kinds(&answer), [("DELETE".to_owned(), "f2".to_owned()), ("UPDATE".to_owned(), "f1".to_owned())]);
        let next = house.changes(answer["sequence"].as_str().unwrap()).await.unwrap();
        assert!(next.get("changes").is_none());
    });
}

#[derive(Debug, Clone)]
enum Step {
    Cluster(u8, Option<&'static str>),
    Host(u8, Option<u8>),
    Vm(u8, Option<u8>, u8),
    DeleteVm(u8),
    DeleteHost(u8),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3u8, prop::option::of(prop_oneof![Just("x"), Just("y")])).prop_map(|(c, n)| Step::Cluster(c, n)),
        (0..4u8, prop::option::of(0..3u8)).prop_map(|(h, c)| Step::Host(h, c)),
        (0..6u8, prop::option::of(0..4u8), 0..3u8).prop_map(|(v, h, n)| Step::Vm(v, h, n)),
        (0..6u8).prop_map(Step::DeleteVm),
        (0..4u8).prop_map(Step::DeleteHost),
        Just(Step::Read),
    ]
}

async fn take(house: &House, step: &Step) {
    match step {
        Step::Cluster(c, Some(name)) => {
            house.put("ClusterComputeResource", &format!("c{c}"), json!({ "name": name })).await
        }
        Step::Cluster(c, None) => {
            // A cluster with hosts stays: deleting it would take them along.
            let id = ResourceId::new("ClusterComputeResource", format!("c{c}"));
            let _ = house.site.delete_resource("test".into(), id, None, false).await;
        }
        Step::Host(h, cluster) => {
            let cluster = cluster.map(|c| reference("ClusterComputeResource", &format!("c{c}")));
            house.put("HostSystem", &format!("h{h}"), json!({ "cluster": cluster })).await;
        }
        Step::Vm(v, host, n) => {
            let host = host.map(|h| reference("HostSystem", &format!("h{h}")));
            house.put("VirtualMachine", &format!("v{v}"), json!({ "cpu_count": n, "host": host })).await;
        }
        Step::DeleteVm(v) => {
            let _ = house
                .site
                .delete_resource("test".into(), ResourceId::new("VirtualMachine", format!("v{v}")), None, true)
                .await;
        }
        Step::DeleteHost(h) => {
            let _ = house
                .site
                .delete_resource("test".into(), ResourceId::new("HostSystem", format!("h{h}")), None, true)
                .await;
        }
        Step::Read => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whoever keeps a set by the filtered feed has what the query gives, at every answer; and whoever replays the whole feed has all.
    #[test]
    fn a_set_kept_by_the_feed_is_what_the_query_gives(steps in prop::collection::vec(step(), 1..60)) {
        runtime().block_on(async {
            let house = House::new();
            let filter = in_cluster_x();
            let (mut filtered_token, mut token) = (house.sequence().await, house.sequence().await);
            let mut kept: BTreeSet<String> = BTreeSet::new();
            let mut all: BTreeMap<String, ()> = BTreeMap::new();
            for step in steps.iter().chain([&Step::Read]) {
                take(&house, step).await;
                if !matches!(step, Step::Read) {
                    continue;
                }
                let input = json!({"sequence_token": filtered_token, "filter": filter});
                let answer = house.filtered(input).await.unwrap();
                for (kind, id) in kinds(&answer) {
                    let fits = match &*kind {
                        "CREATE" | "ENTER" => kept.insert(id.clone()),
                        "DELETE" | "LEAVE" => kept.remove(&id),
                        _ => kept.contains(&id),
                    };
                    assert!(fits, "{kind} {id} after {kept:?}");
                }
                filtered_token = answer["sequence"].as_str().unwrap().to_owned();
                assert_eq!(kept, house.matching(&filter).await);

                let answer = house.changes(&token).await.unwrap();
                for change in answer["changes"].as_array().cloned().unwrap_or_default() {
                    let id = change["resource"].to_string();
                    let fits = match change["kind"].as_str().unwrap() {
                        "CREATE" => all.insert(id, ()).is_none(),
                        "DELETE" => all.remove(&id).is_some(),
                        _ => all.contains_key(&id),
                    };
                    assert!(fits, "{change}");
                }
                token = answer["sequence"].as_str().unwrap().to_owned();
            }
            for resource_type in ["ClusterComputeResource", "HostSystem", "VirtualMachine"] {
                let stored = house.matching(&json!({"filter_type": "TYPE", "resource_type": resource_type})).await;
                let told = all.keys().filter(|k| k.contains(&format!("\"{resource_type}\""))).count();
                assert_eq!(stored.len(), told, "{resource_type}");
            }
        });
    }
}
