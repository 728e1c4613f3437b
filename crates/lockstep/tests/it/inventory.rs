//! Resources and models over HTTP: writes with preconditions, import and export.

use serde_json::{Value, json};

use crate::server::Server;

const TAG: &str = "/api/lockstep/resources/TagCategory/c1";

#[test]
fn a_resource_is_created_read_changed_and_deleted_under_preconditions() {
    let server = Server::start();
    let body = json!({"type": "TagCategory", "id": "c1", "properties": {"name": "tier", "cardinality": null}});
    let written = server.ok("POST", "/api/lockstep/resources", &body);
    assert_eq!(written["changed"], true);
    let (status, error) = server.call("POST", "/api/lockstep/resources", &body);
    assert_eq!((status, &error["error_type"]), (400, &json!("ALREADY_EXISTS")));

    let stored = server.ok("GET", TAG, &json!(null));
    assert_eq!(stored["properties"], json!({"name": "tier"}));
    let position = stored["modified"].as_i64().unwrap();

    let stale = json!({"properties": {"name": "x"}, "expected_position": position - 1});
    let (status, error) = server.call("PATCH", TAG, &stale);
    assert_eq!((status, &error["error_type"]), (409, &json!("CONCURRENT_CHANGE")), "{error}");
    let fresh = json!({"properties": {"name": "x", "description": "d"}, "expected_position": position});
    assert!(server.ok("PATCH", TAG, &fresh)["position"].as_i64().unwrap() > position);
    let again = server.ok("PATCH", TAG, &json!({"properties": {"name": "x"}}));
    assert_eq!(again["changed"], false);
    assert_eq!(server.ok("PUT", TAG, &json!({"properties": {"name": "y"}}))["changed"], true);
    assert_eq!(server.ok("GET", TAG, &json!(null))["properties"], json!({"name": "y"}));

    let tag = json!({"type": "Tag", "id": "t1", "properties": {"name": "gold", "category": {"type": "TagCategory", "id": "c1"}}});
    server.ok("POST", "/api/lockstep/resources", &tag);
    let (status, error) = server.call("DELETE", TAG, &json!(null));
    assert_eq!((status, &error["error_type"]), (400, &json!("RESOURCE_IN_USE")), "{error}");
    let token = server.sequence();
    server.ok("DELETE", &format!("{TAG}?cascade=true"), &json!(null));
    let changes = server.changes(&token).1["value"]["changes"].clone();
    let ids: Vec<&Value> = changes.as_array().unwrap().iter().map(|c| &c["resource"]["id"]).collect();
    assert_eq!(ids, [&json!("t1"), &json!("c1")], "children first");
    assert_eq!(changes[0]["parent_resources"], json!([{"type": "TagCategory", "id": "c1"}]));
    assert_eq!(server.get(TAG).0, 404);
}

#[test]
fn writes_that_do_not_fit_the_model_name_the_property_and_change_nothing() {
    let server = Server::start();
    let token = server.sequence();
    let check = |properties: Value, place: &str| {
        let body = json!({"type": "VirtualMachine", "id": "v", "properties": properties});
        let (status, error) = server.call("POST", "/api/lockstep/resources", &body);
        assert_eq!((status, &error["error_type"]), (400, &json!("INVALID_ARGUMENT")), "{error}");
        assert_eq!(error["messages"][0]["args"][0], json!(place), "{error}");
    };
    check(json!({"nam": "x"}), "properties.nam");
    check(json!({"name": 1}), "properties.name");
    check(json!({"cpu_count": 1.5}), "properties.cpu_count");
    check(json!({"guest": {"tools": {"running": "yes"}}}), "properties.guest/tools/running");
    check(json!({"nics": [{"label": "a"}, {"connected": 1}]}), "properties.nics[1]/connected");
    check(json!({"host": {"type": "Folder", "id": "f"}}), "properties.host");
    check(json!({"host": "host-1"}), "properties.host");
    check(json!({"created": "yesterday"}), "properties.created");
    check(json!([]), "properties");
    assert_eq!(server.sequence(), token);
}

#[test]
fn an_import_is_atomic_per_batch_and_an_export_imports_again() {
    let server = Server::start();
    let line = |n: usize| {
        json!({"type": "Datacenter", "id": format!("dc{n}"), "properties": {"name": format!("DC {n}")}}).to_string()
            + "\n"
    };
    let good: String = (0..2500).map(line).collect();
    let bad =
        good + "\n" + &line(2500) + "{\"type\":\"Datacenter\",\"id\":\"x\",\"properties\":{\"nam\":1}}\n" + &line(2501);
    let (status, error) = server.import(bad);
    assert_eq!((status, &error["error_type"]), (400, &json!("INVALID_ARGUMENT")));
    let text = error["messages"][0]["default_message"].as_str().unwrap();
    assert!(text.starts_with("line 2503: ") && text.contains("nam"), "{text}");
    let count = || {
        let all = json!({"filter_type": "TYPE", "resource_type": "Datacenter"});
        server.query(json!({"resource_filter": all, "property_spec": [], "limit": 0, "compute_total_item_count": true}))
            ["total_item_count"]
            .clone()
    };
    assert_eq!(count(), 2000, "whole batches of 1000");

    let (status, report) = server.import((1990..2600).map(line).collect::<String>());
    assert_eq!((status, &report["created"], &report["unchanged"]), (200, &json!(600), &json!(10)), "{report}");
    assert_eq!(count(), 2600);

    let exported =
        server.request("GET", "/api/lockstep/resources?action=export&type=Datacenter").send().unwrap().text().unwrap();
    assert_eq!(exported.lines().count(), 2600);
    let other = Server::start();
    let (status, report) = other.import(exported.clone());
    assert_eq!((status, &report["created"]), (200, &json!(2600)), "{report}");
    let again =
        other.request("GET", "/api/lockstep/resources?action=export&type=Datacenter").send().unwrap().text().unwrap();
    assert_eq!(again, exported);
}

#[test]
fn a_model_is_registered_used_extended_and_removed() {
    let mut server = Server::start();
    let mut model = json!({"name": "com.acme.PersonModel", "resource_type": "com.acme.Person", "properties": [
        {"name": "name", "kind": "STRING"},
        {"name": "relatives", "kind": "STRUCT", "fields": [{"name": "father", "kind": "ID", "targets": ["com.acme.Person"]}]}]});
    server.ok("POST", "/api/lockstep/models", &model);
    let person = |id: &str, properties: Value| json!({"type": "com.acme.Person", "id": id, "properties": properties});
    server.ok("POST", "/api/lockstep/resources", &person("1", json!({"name": "Ann"})));
    let father = json!({"name": "Bob", "relatives": {"father": {"type": "com.acme.Person", "id": "1"}}});
    server.ok("POST", "/api/lockstep/resources", &person("2", father));
    server.restart();
    let filter = json!({"filter_type": "PROPERTY", "property_filter": {
        "property": "com.acme.PersonModel/relatives/father->com.acme.PersonModel/name",
        "operator": "EQUAL", "comparable_type": "STRING", "comparable_string": "Ann"}});
    let answer = server.query(json!({"resource_filter": filter, "property_spec": ["com.acme.PersonModel/name"]}));
    assert_eq!(
        answer["items"][0]["property_values"],
        json!([{"property": "com.acme.PersonModel/name", "value": "Bob"}])
    );

    model["properties"][0]["kind"] = json!("LONG");
    let (status, error) = server.call("POST", "/api/lockstep/models", &model);
    assert_eq!((status, &error["error_type"]), (400, &json!("INVALID_ARGUMENT")), "{error}");
    model["properties"][0]["kind"] = json!("STRING");
    model["properties"].as_array_mut().unwrap().push(json!({"name": "age", "kind": "LONG"}));
    server.ok("POST", "/api/lockstep/models", &model);
    server.ok("PATCH", "/api/lockstep/resources/com.acme.Person/1", &json!({"properties": {"age": 70}}));

    let (status, error) = server.call("DELETE", "/api/lockstep/models/com.acme.PersonModel", &json!(null));
    assert_eq!((status, &error["error_type"]), (400, &json!("RESOURCE_IN_USE")), "{error}");
    for id in ["1", "2"] {
        server.ok("DELETE", &format!("/api/lockstep/resources/com.acme.Person/{id}"), &json!(null));
    }
    assert_eq!(server.call("DELETE", "/api/lockstep/models/com.acme.PersonModel", &json!(null)).0, 204);
    assert_eq!(server.get("/api/lockstep/models/com.acme.PersonModel").0, 404);
    assert_eq!(server.call("DELETE", "/api/lockstep/models/VirtualMachine", &json!(null)).0, 400);
}
