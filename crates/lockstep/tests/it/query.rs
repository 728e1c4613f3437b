//! Queries over the wire: every operator, type and promotion, in JSON and XML.

use serde_json::{Value, json};

use crate::server::Server;

/// A server with a model of every kind of property, and four resources `1` to `4`; the fourth has nothing set.
fn server() -> Server {
    let server = Server::start();
    let model = json!({"name": "t.Model", "resource_type": "t.T", "properties": [
        {"name": "long", "kind": "LONG"}, {"name": "double", "kind": "DOUBLE"}, {"name": "bool", "kind": "BOOLEAN"},
        {"name": "text", "kind": "STRING"}, {"name": "when", "kind": "DATE_TIME"}, {"name": "ref", "kind": "ID", "targets": ["t.T"]},
        {"name": "longs", "kind": "LONG", "list": true}, {"name": "refs", "kind": "ID", "targets": ["t.T"], "list": true},
        {"name": "s", "kind": "STRUCT", "fields": [{"name": "x", "kind": "STRING"}]},
        {"name": "list", "kind": "STRUCT", "list": true, "fields": [{"name": "x", "kind": "STRING"}]}]});
    server.ok("POST", "/api/lockstep/models", &model);
    let id = |id: &str| json!({"type": "t.T", "id": id});
    let resources = [
        (
            "1",
            json!({"long": 1, "double": 1.0, "bool": true, "text": "isPoweredOn", "when": "2024-05-01T10:00:00Z", "ref": id("2"),
            "longs": [1, 5], "refs": [id("2"), id("3")], "s": {"x": "a"}, "list": [{"x": "p"}, {"x": "q"}]}),
        ),
        (
            "2",
            json!({"long": 9007199254740993i64, "double": 2.5, "bool": false, "text": "Äpfel", "when": "2024-05-01T13:00:00+02:00", "ref": id("gone"),
            "longs": [], "s": {"x": "b"}}),
        ),
        (
            "3",
            json!({"long": -3, "double": -0.0, "text": "poweredOff", "ref": id("1"), "longs": [2], "list": [{"x": "p"}]}),
        ),
        ("4", json!({})),
    ];
    for (id, properties) in resources {
        server.ok("POST", "/api/lockstep/resources", &json!({"type": "t.T", "id": id, "properties": properties}));
    }
    server
}

fn filter(property: &str, operator: &str, comparable: &Value) -> Value {
    let (kind, member) = match comparable {
        Value::Number(n) if n.is_i64() => ("LONG", "comparable_long"),
        Value::Number(_) => ("DOUBLE", "comparable_double"),
        Value::Bool(_) => ("BOOLEAN", "comparable_boolean"),
        Value::String(_) => ("STRING", "comparable_string"),
        _ => ("ID", "comparable_id"),
    };
    json!({"filter_type": "PROPERTY", "property_filter":
        {"property": format!("t.Model/{property}"), "operator": operator, "comparable_type": kind, member: comparable}})
}

fn ids(answer: &Value) -> String {
    answer["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["resource_id"]["id"].as_str().unwrap())
        .collect::<Vec<_>>()
        .join("")
}

#[test]
fn every_operator_compares_every_type_it_fits_and_refuses_the_others() {
    let server = server();
    let matches = |property: &str, operator: &str, comparable: Value, expected: &str| {
        let answer =
            server.query(json!({"resource_filter": filter(property, operator, &comparable), "property_spec": []}));
        assert_eq!(ids(&answer), expected, "{property} {operator} {comparable}");
    };
    let t = |id: &str| json!({"type": "t.T", "id": id});
    for (operator, expected) in [
        ("EQUAL", "1"),
        ("NOT_EQUAL", "23"),
        ("GREATER", "2"),
        ("GREATER_OR_EQUAL", "12"),
        ("LESS", "3"),
        ("LESS_OR_EQUAL", "13"),
    ] {
        matches("long", operator, json!(1), expected);
        matches("long", operator, json!(1.0), expected);
        matches("double", operator, json!(1), expected);
        matches("double", operator, json!(1.0), expected);
    }
    // By mathematical value, not after rounding.
    matches("long", "GREATER", json!(9007199254740992.0), "2");
    matches("long", "EQUAL", json!(9007199254740992.0), "");
    matches("double", "EQUAL", json!(0), "3");
    for (operator, expected) in [("EQUAL", "1"), ("NOT_EQUAL", "2")] {
        matches("bool", operator, json!(true), expected);
        matches("bool", operator, json!("true"), expected);
    }
    for (operator, expected) in [
        ("EQUAL", "3"),
        ("NOT_EQUAL", "12"),
        ("GREATER", "2"),
        ("GREATER_OR_EQUAL", "23"),
        ("LESS", "1"),
        ("LESS_OR_EQUAL", "13"),
    ] {
        matches("text", operator, json!("poweredOff"), expected);
    }
    matches("text", "STARTS_WITH", json!("POWERED"), "3");
    matches("text", "ENDS_WITH", json!("on"), "1");
    matches("text", "CONTAINS", json!("powered"), "13");
    matches("text", "CONTAINS", json!("äPF"), "2");
    matches("text", "CONTAINS", json!(""), "123");
    matches("text", "EQUAL", json!("POWEREDOFF"), "");
    for (operator, expected) in [
        ("EQUAL", "1"),
        ("NOT_EQUAL", "2"),
        ("GREATER", "2"),
        ("GREATER_OR_EQUAL", "12"),
        ("LESS", ""),
        ("LESS_OR_EQUAL", "1"),
    ] {
        matches("when", operator, json!("2024-05-01T12:00:00+02:00"), expected);
    }
    matches("ref", "EQUAL", t("2"), "1");
    matches("ref", "NOT_EQUAL", t("2"), "23");
    matches("ref", "EQUAL", json!("gone"), "2");
    matches("longs", "GREATER", json!(1), "13");
    matches("longs", "NOT_EQUAL", json!(1), "13");
    matches("list/x", "EQUAL", json!("p"), "13");
    matches("list/x", "NOT_EQUAL", json!("p"), "1");
    matches("s/x", "EQUAL", json!("b"), "2");
    matches("ref->t.Model/s/x", "EQUAL", json!("b"), "1");
    matches("refs->t.Model/text", "CONTAINS", json!("OFF"), "1");
    matches("ref->t.Model/ref->t.Model/long", "EQUAL", json!(9007199254740993i64), "3");
    matches("ref->t.Model/refs->t.Model/long", "LESS", json!(0), "3");

    let refused = |property: &str, operator: &str, comparable: Value| {
        let body =
            json!({"query_spec": {"resource_filter": filter(property, operator, &comparable), "property_spec": []}});
        let (status, error) =
            server.call("POST", "/rest/com/vmware/cis/data/legacy/resource-model?~action=query", &body);
        assert_eq!(
            (status, &error["value"]["error_type"]),
            (400, &json!("INVALID_ARGUMENT")),
            "{property} {operator} {comparable}: {error}"
        );
    };
    for operator in ["STARTS_WITH", "ENDS_WITH", "CONTAINS"] {
        refused("long", operator, json!("1"));
        refused("text", operator, json!(1));
        refused("bool", operator, json!("true"));
    }
    for operator in ["GREATER", "GREATER_OR_EQUAL", "LESS", "LESS_OR_EQUAL"] {
        refused("bool", operator, json!(true));
        refused("ref", operator, t("1"));
    }
    for (property, comparable) in [
        ("long", json!("1")),
        ("long", json!(true)),
        ("long", t("1")),
        ("double", json!("x")),
        ("bool", json!("True")),
        ("bool", json!(1)),
        ("text", json!(1)),
        ("text", json!(true)),
        ("text", t("1")),
        ("ref", json!(1)),
        ("s", json!("x")),
        ("list", json!("x")),
        ("when", json!(1)),
        ("nope", json!(1)),
        ("long->t.Model/long", json!(1)),
        ("s/x/y", json!("x")),
    ] {
        refused(property, "EQUAL", comparable);
    }
    refused("when", "LESS", json!("yesterday"));
}

#[test]
fn the_order_is_deterministic_and_unset_values_come_last_either_way() {
    let server = server();
    let all = json!({"filter_type": "TYPE", "resource_type": "t.T"});
    let sorted = |property: &str, direction: &str, expected: &str| {
        let sort = json!([{"property": format!("t.Model/{property}"), "sort_direction": direction}]);
        let answer = server.query(json!({"resource_filter": all, "property_spec": [], "sort_criteria": sort}));
        assert_eq!(ids(&answer), expected, "{property} {direction}");
    };
    sorted("long", "ASCENDING", "3124");
    sorted("long", "DESCENDING", "2134");
    sorted("bool", "ASCENDING", "2134");
    sorted("bool", "DESCENDING", "1234");
    sorted("text", "DESCENDING", "2314");
    sorted("when", "DESCENDING", "2134");
    sorted("ref->t.Model/long", "ASCENDING", "3124");
    let unsorted = server.query(json!({"resource_filter": all, "property_spec": ["t.Model/text", "t.Model/text", "t.Model/refs->t.Model/s/x"], "offset": 0, "limit": 1}));
    assert_eq!(
        unsorted["items"],
        json!([{"resource_id": {"type": "t.T", "id": "1"}, "property_values": [
            {"property": "t.Model/text", "value": "isPoweredOn"}, {"property": "t.Model/refs->t.Model/s/x", "value": ["b"]}]}])
    );
    assert!(unsorted.get("total_item_count").is_none());
    let beyond = server
        .query(json!({"resource_filter": all, "property_spec": [], "offset": 4, "compute_total_item_count": true}));
    assert_eq!(beyond, json!({"items": [], "total_item_count": 4}));
    let (status, error) = server.call(
        "POST",
        "/rest/com/vmware/cis/data/legacy/resource-model?~action=query",
        &json!({"query_spec": {"resource_filter": all, "property_spec": [], "limit": 1001}}),
    );
    let message = &error["value"]["messages"][0];
    assert_eq!(
        (status, &message["id"], &message["args"]),
        (400, &json!("lockstep.query.limit"), &json!(["1001", "1000"])),
        "{error}"
    );
}

#[test]
fn a_query_in_xml_gets_the_same_answer_in_xml() {
    let server = server();
    let body = r#"<?xml version="1.0"?>
<ns0:Query-Input xmlns:ns0="http://vmware.com/cis/data/legacy/resource_model" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<query_spec><limit>1</limit><property_spec-array><array-item>t.Model/text</array-item><array-item>t.Model/longs</array-item></property_spec-array>
<compute_total_item_count>true</compute_total_item_count>
<resource_filter><filter_type>ID</filter_type><resource_id><type>t.T</type><id>1</id></resource_id></resource_filter></query_spec></ns0:Query-Input>"#;
    let path = "/rest/com/vmware/cis/data/legacy/resource-model?~action=query";
    let send = |body: &str| {
        server.request("POST", path).header("content-type", "application/xml").body(body.to_owned()).send().unwrap()
    };
    let answer = send(body);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/xml"));
    let text = answer.text().unwrap();
    assert!(text.contains("Query-Result") && text.contains("<total_item_count>1</total_item_count>"), "{text}");
    assert!(text.contains("<property>t.Model/text</property><value>isPoweredOn</value>"), "{text}");
    assert!(text.contains("<value-array><array-item>1</array-item><array-item>5</array-item></value-array>"), "{text}");
    let wrong = send(&body.replace("<limit>1</limit>", "<limit>5000</limit>"));
    assert_eq!(wrong.status(), 400);
    let text = wrong.text().unwrap();
    assert!(text.contains("com.vmware.vapi.std.errors.invalid_argument") && text.contains("5000"), "{text}");
}

#[test]
fn the_text_form_and_explain_say_the_same_as_the_spec() {
    let server = server();
    let text = json!({"text": "t.T where long >= 1 and text contains \"on\" select text, ref->t.Model/s/x order by long desc limit 5 count"});
    let answer = server.ok("POST", "/api/lockstep/query", &text);
    assert_eq!(ids(&answer), "1");
    assert_eq!(answer["total_item_count"], 1);
    assert_eq!(answer["items"][0]["property_values"].as_array().unwrap().len(), 2);
    let (status, error) = server.call("POST", "/api/lockstep/query", &json!({"text": "t.T where lon >= 1"}));
    assert_eq!((status, &error["error_type"]), (400, &json!("INVALID_ARGUMENT")), "{error}");
    let explained = server.ok("POST", "/api/lockstep/query?action=explain", &text);
    assert!(explained.is_object(), "{explained}");
}
