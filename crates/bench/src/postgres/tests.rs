//! All SQL against a real server, on an inventory small enough to count by hand.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::statement::{Parameter, parameters};
use super::{Layout, PG_BIN, Postgres, PostgresArgs};
use crate::data::DataDir;
use crate::lane::Lane;
use crate::workload::{Form, Query};

#[test]
fn every_query_gives_the_rows_of_the_api_in_both_schemas() {
    if !Path::new(PG_BIN).exists() {
        println!("skipped: no PostgreSQL in {PG_BIN}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // The account that the server runs as must get in.
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    write_inventory(&directory.path().join("inv.ndjson"));
    let data = DataDir::open(directory.path()).unwrap();
    for covering in [false, true] {
        let args = PostgresArgs { pg_bin: PG_BIN.into(), covering };
        let mut postgres = Postgres::start(&args, &data).unwrap();
        for lane in &mut postgres.lanes {
            let mut check = |query: &str, values: Value, items: usize, total: Option<u64>| {
                let form = Form::new(0, spec(query, &values)).unwrap();
                let query = Query::sample(query);
                lane.prepare(&query, std::slice::from_ref(&form)).unwrap();
                let answer = lane.answer(&query, &form).unwrap();
                assert_eq!((answer.items, answer.total), (items, total), "{} {values} {}", query.name, lane.name());
                assert!(!lane.explain(&query, &form).unwrap().is_empty());
            };
            check("Q1", json!(["vm-2"]), 1, None);
            check("Q1", json!(["vm-9"]), 0, None);
            check("Q2", json!([2]), 2, None);
            check("Q3", json!(["POWERED_ON", 10]), 3, None);
            check("Q4", json!(["prd-web-1", 10]), 0, None);
            check("Q4", json!(["Prd-Web-1", 10]), 1, None);
            check("Q5", json!(["PRD-", 10]), 2, None);
            check("Q6", json!(["web", 10]), 2, None);
            check("Q6", json!(["e_", 10]), 0, None);
            check("Q7", json!(["-1", 10]), 1, None);
            check("Q8", json!([100, 300, 10]), 2, None);
            check("Q9", json!(["cl-1", 10]), 2, None);
            check("Q10", json!(["RHEL", "tag-1", 10]), 2, Some(2));
            check("Q10", json!(["none", "tag-1", 1]), 1, Some(2));
            check("Q10", json!(["none", "none", 10]), 1, Some(1));
            check("Q11", json!(["POWERED_ON", 2, 10]), 1, Some(3));
            check("Q12", json!(["folder-1", 10]), 4, None);
            check("X1", json!(["POWERED_OFF", 1]), 1, Some(1));
            check("X2", json!([3, 10]), 1, None);
            check("X3", json!(["ds-b", 10]), 2, None);
            check("X4", json!(["dc", 1]), 1, Some(3));
            // A VM without a host has no place in the order, and is still there.
            check("X5", json!(["POWERED_ON", 10]), 3, None);
        }
    }
}

#[test]
fn every_query_has_its_sql_in_both_schemas() {
    for query in (1..=12).map(|n| format!("Q{n}")).chain((1..=5).map(|n| format!("X{n}"))) {
        for layout in Layout::ALL {
            super::statement::statement(&query, layout).unwrap();
            parameters(&query).unwrap();
        }
    }
}

fn write_inventory(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut add = |kind: &str, id: &str, properties: Value| {
        writeln!(file, "{}", json!({"type": kind, "id": id, "properties": properties})).unwrap();
    };
    let to = |kind: &str, id: &str| json!({"type": kind, "id": id});
    add("TagCategory", "category-1", json!({"name": "c"}));
    add("Tag", "tag-1", json!({"name": "t", "category": to("TagCategory", "category-1")}));
    add("Datacenter", "dc-1", json!({"name": "dc", "created": "2024-01-01T00:00:00Z"}));
    add("Folder", "folder-1", json!({"name": "f", "datacenter": to("Datacenter", "dc-1")}));
    add("Network", "net-1", json!({"name": "n", "vlan_id": 7}));
    for n in [1, 2] {
        let cluster = format!("domain-{n}");
        let name = format!("cl-{n}");
        add("ClusterComputeResource", &cluster, json!({"name": name, "datacenter": to("Datacenter", "dc-1")}));
        let (name, is_down) = (format!("host-{n}"), n == 2);
        let host = json!({"name": name, "cluster": to("ClusterComputeResource", &cluster), "in_maintenance_mode": is_down,
                          "datastores": [to("Datastore", "ds-1")]});
        add("HostSystem", &format!("host-{n}"), host);
    }
    add("ResourcePool", "pool-1", json!({"name": "p"}));
    add("Datastore", "ds-1", json!({"name": "ds-a"}));
    add("Datastore", "ds-2", json!({"name": "ds-b"}));
    let mut vm = |id: &str, name: &str, host: Value, state: &str, os: &str, cpus: i64, usage: i64, stores: &[&str]| {
        let datastores: Vec<Value> = stores.iter().map(|store| to("Datastore", store)).collect();
        let properties = json!({"name": name, "power_state": state, "guest_OS": os, "cpu_count": cpus,
            "memory_size_MiB": cpus * 16384, "host": host, "folder": to("Folder", "folder-1"),
            "resource_pool": to("ResourcePool", "pool-1"), "datastores": datastores,
            "networks": [to("Network", "net-1")], "tags": [to("Tag", "tag-1")],
            "guest": {"hostname": format!("{name}.example"), "ip_addresses": ["10.0.0.1"]},
            "stats": {"cpu_usage_MHz": usage}});
        add("VirtualMachine", id, properties);
    };
    let host = |n: i64| to("HostSystem", &format!("host-{n}"));
    vm("vm-1", "Prd-Web-1", host(1), "POWERED_ON", "RHEL", 16, 100, &["ds-1"]);
    vm("vm-2", "prd-db-2", host(1), "POWERED_ON", "OTHER", 2, 299, &["ds-1", "ds-2"]);
    vm("vm-3", "dev-web-3", host(2), "POWERED_OFF", "RHEL", 2, 300, &["ds-2"]);
    vm("vm-4", "dev-db-4", Value::Null, "POWERED_ON", "RHEL", 16, 400, &[]);
}

/// A spec that has the values where the query's parameters look for them.
fn spec(query: &str, values: &Value) -> Value {
    let mut spec = json!({});
    let mut pointers: Vec<&str> = Vec::new();
    for parameter in parameters(query).unwrap() {
        use Parameter::{Contains, Long, Prefix, PrefixEnd, Suffix, SuffixEnd, Text};
        let (Text(p) | Long(p) | Prefix(p) | PrefixEnd(p) | Suffix(p) | SuffixEnd(p) | Contains(p)) = parameter;
        if !pointers.contains(p) {
            pointers.push(p);
        }
    }
    assert_eq!(pointers.len(), values.as_array().unwrap().len(), "{query}");
    for (pointer, value) in pointers.into_iter().zip(values.as_array().unwrap()) {
        let mut at = &mut spec;
        for part in pointer.split('/').skip(1) {
            at = match part.parse::<usize>() {
                Ok(index) => {
                    if at.is_null() {
                        *at = json!([null, null, null]);
                    }
                    &mut at[index]
                }
                Err(_) => &mut at[part],
            };
        }
        *at = value.clone();
    }
    spec
}
