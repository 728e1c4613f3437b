//! One operation over every transport: the same call, the same rules, another wrapping.

use serde_json::json;

use crate::harness::{PASSWORD, Request, Response, Server, USER};

pub fn rpc(service: &str, operation: &str, input: &str, security: &str) -> Request {
    let body = format!(
        r#"{{"jsonrpc":"2.0","method":"invoke","id":"0","params":{{"serviceId":"{service}","operationId":"{operation}",
        "input":{{"STRUCTURE":{{"operation-input":{input}}}}},"ctx":{{"appCtx":{{"opId":"op-7"}}{security}}}}}}}"#
    );
    Request::new("POST", "/api").json(&body)
}

pub fn by_session(token: &str) -> String {
    format!(r#","securityCtx":{{"schemeId":"com.vmware.vapi.std.security.session_id","sessionId":"{token}"}}"#)
}

const QUERY: &str = "com.vmware.cis.data.legacy.resource_model";

fn create(server: &Server, token: &str, kind: &str, id: &str, properties: &str) -> Response {
    let body = format!(r#"{{"type":"{kind}","id":"{id}","properties":{properties}}}"#);
    let response = server.ask(&Request::new("POST", "/api/lockstep/resources").session(token).json(&body));
    assert_eq!(response.status, 201, "{response:?}");
    response
}

#[test]
fn a_query_answers_alike_over_every_transport() {
    let server = Server::start();
    let token = server.log_in();
    create(&server, &token, "VirtualMachine", "vm-1", r#"{"name":"db <1>"}"#);
    let spec = r#"{"resource_filter":{"filter_type":"TYPE","resource_type":"VirtualMachine"},"property_spec":["VirtualMachine/name"],"compute_total_item_count":true}"#;
    let body = format!(r#"{{"query_spec":{spec}}}"#);
    let result = json!({
        "items": [{
            "resource_id": {"type": "VirtualMachine", "id": "vm-1"},
            "property_values": [{"property": "VirtualMachine/name", "value": "db <1>"}],
        }],
        "total_item_count": 1,
    });
    let ask = |url: &str| {
        let response = server.ask(&Request::new("POST", url).session(&token).json(&body));
        assert_eq!(response.status, 200, "{url}: {response:?}");
        assert!(response.header("lockstep-sequence").is_some(), "{response:?}");
        response.json()
    };
    assert_eq!(ask("/api/cis/data/legacy/resource-model?action=query"), result);
    assert_eq!(ask("/rest/cis/data/legacy/resource-model?action=query"), json!({ "value": result }));
    let ruled = "/rest/com/vmware/cis/data/legacy/resource-model?~action=query";
    assert_eq!(ask(ruled), json!({ "value": result }));

    let name = |s: &str| format!("com.vmware.cis.data.legacy.resource_model.{s}");
    let unset = r#"{"OPTIONAL":null}"#;
    let filter = format!(
        r#"{{"STRUCTURE":{{"{}":{{"filter_type":"TYPE","resource_type":{{"OPTIONAL":"VirtualMachine"}},"resource_id":{unset}}}}}}}"#,
        name("resource_filter")
    );
    let typed = format!(
        r#"{{"query_spec":{{"STRUCTURE":{{"{}":{{"resource_filter":{filter},"property_spec":["VirtualMachine/name"],"limit":{unset},"compute_total_item_count":{{"OPTIONAL":true}}}}}}}}}}"#,
        name("query_spec")
    );
    let response = server.ask(&rpc(QUERY, "query", &typed, &by_session(&token)));
    let output = response.json()["result"]["output"]["STRUCTURE"][name("result_set")].clone();
    assert_eq!(output["total_item_count"], json!({"OPTIONAL": 1}), "{response:?}");
    let item = &output["items"][0]["STRUCTURE"][name("resource_item")];
    assert_eq!(item["property_values"][0]["STRUCTURE"][name("property_value")]["value"], "db <1>");
    assert!(response.header("lockstep-sequence").is_some());

    let namespace = "http://vmware.com/cis/data/legacy/resource_model";
    let xml = format!(
        r#"<q:Query-Input xmlns:q="{namespace}"><query_spec><property_spec-array><array-item>VirtualMachine/name</array-item></property_spec-array><compute_total_item_count>true</compute_total_item_count>
        <resource_filter><resource_type>VirtualMachine</resource_type><filter_type>TYPE</filter_type></resource_filter></query_spec></q:Query-Input>"#
    );
    let answer = format!(
        r#"<ns0:Query-Result xmlns:ns0="{namespace}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><value><items-array><array-item><resource_id><type>VirtualMachine</type><id>vm-1</id></resource_id><property_values-array><array-item><property>VirtualMachine/name</property><value>db &lt;1&gt;</value></array-item></property_values-array></array-item></items-array><total_item_count>1</total_item_count></value></ns0:Query-Result>"#
    );
    let in_xml = Request::new("POST", ruled).session(&token).body("application/xml", &xml);
    let response = server.ask(&in_xml.clone().header("Accept", "*/*"));
    assert_eq!((response.header("content-type"), &response.body), (Some("application/xml"), &answer));
    let response = server.ask(&in_xml.header("Accept", "application/json"));
    assert_eq!(response.json(), json!({ "value": result }));
    let response = server.ask(&Request::new("POST", ruled).session(&token).json(&body).header("Accept", "text/xml"));
    assert_eq!((response.header("content-type"), &response.body), (Some("text/xml; charset=utf-8"), &answer));
}

#[test]
fn the_deepest_filter_fits_into_the_typed_encoding() {
    let server = Server::start();
    let token = server.log_in();
    let name = |s: &str| format!("com.vmware.cis.data.legacy.resource_model.{s}");
    let wrap = |inner: &str| format!(r#"{{"STRUCTURE":{{"{}":{{{inner}}}}}}}"#, name("resource_filter"));
    let mut filter = wrap(r#""filter_type":"TYPE","resource_type":{"OPTIONAL":"Folder"}"#);
    let depth = lockstep_query::Limits::default().filter_depth;
    for _ in 1..depth {
        filter = wrap(&format!(
            r#""filter_type":"COMPOSITE","composite_filter":{{"OPTIONAL":{{"STRUCTURE":{{"{}":{{"operator":"UNION","filters":[{filter}]}}}}}}}}"#,
            name("composite_filter")
        ));
    }
    let input = format!(
        r#"{{"query_spec":{{"STRUCTURE":{{"{}":{{"resource_filter":{filter},"property_spec":[]}}}}}}}}"#,
        name("query_spec")
    );
    let response = server.ask(&rpc(QUERY, "query", &input, &by_session(&token)));
    assert!(response.json()["result"]["output"].is_object(), "{response:?}");
}

#[test]
fn resources_live_at_their_paths() {
    let server = Server::start();
    let token = server.log_in();
    let written = create(&server, &token, "Folder", "a/b ü%", r#"{"name":"n"}"#).json();
    assert_eq!(written["changed"], true);
    let url = "/api/lockstep/resources/Folder/a%2Fb%20%C3%BC%25";
    let get = |url: &str| server.ask(&Request::new("GET", url).session(&token));
    assert_eq!(get(url).json()["id"], "a/b ü%");
    assert_eq!(get(&url.replace("/api", "/rest")).json()["value"]["id"], "a/b ü%");
    let mut client = server.connect();
    client.send(&Request::new("HEAD", url).session(&token).bytes());
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("content-length: 0"), "{head}");
    let list = get("/api/lockstep/resources/Folder/?limit=5&after=").json();
    assert_eq!(list["resources"], json!([{"type": "Folder", "id": "a/b ü%"}]));
    let patch = Request::new("PATCH", url).session(&token).json(r#"{"properties":{"name":"m"}}"#);
    assert_eq!(server.ask(&patch).status, 200);
    let position = written["position"].to_string();
    let stale = Request::new("DELETE", &format!("{url}?expected_position={position}")).session(&token);
    let response = server.ask(&stale);
    assert_eq!((response.status, &*response.error()), (409, "CONCURRENT_CHANGE"));
    assert_eq!(server.ask(&Request::new("DELETE", url).session(&token)).status, 200);
    assert_eq!(
        (get(url).status, get(&url.replace("/api", "/rest")).json()["type"].clone()),
        (404, json!("com.vmware.vapi.std.errors.not_found"))
    );
}

#[test]
fn an_operation_id_is_echoed_and_made_where_there_is_none() {
    let server = Server::start();
    let echoed = |name: &str| {
        let response = server.ask(&Request::new("GET", "/healthz").header(name, "op-42"));
        response.header("x-request-id").map(str::to_owned)
    };
    for name in ["X-Request-ID", "opId", "operationID", "vapi-ctx-opid"] {
        assert_eq!(echoed(name).as_deref(), Some("op-42"), "{name}");
    }
    assert_eq!(echoed("other").map(|id| id.len()), Some(16));
    let response = server.ask(&rpc("com.vmware.cis.session", "get", "{}", ""));
    assert_eq!((response.header("x-request-id"), &*response.error()), (Some("op-7"), "UNAUTHENTICATED"));
}

#[test]
fn pages_answer_without_a_login() {
    let server = Server::start();
    let get = |url: &str| server.ask(&Request::new("GET", url));
    assert_eq!(get("/healthz").body, "alive\n");
    assert_eq!(get("/readyz").body, "ready\n");
    let home = get("/");
    assert!(home.body.contains("<h1>site &lt;1&gt;</h1>"), "{}", home.body);
    assert!(home.header("content-security-policy").is_some_and(|p| p.starts_with("default-src 'none'")));
    let openapi = get("/openapi.json").json();
    assert_eq!(openapi["openapi"], "3.1.0");
    for path in ["/api/session", "/api/lockstep/resources?action=import", "/api/lockstep/feed/events"] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
    server.ask(&Request::new("GET", "/api/session").basic(USER, PASSWORD));
    let metrics = get("/metrics").body;
    for line in [
        "lockstep_requests_total{operation=\"com.vmware.cis.session.get\",error=\"UNAUTHENTICATED\"} 1",
        "lockstep_requests_total{operation=\"healthz\",error=\"\"} 1",
        "lockstep_connections ",
        "lockstep_request_duration_seconds_count{operation=\"com.vmware.cis.session.get\"} 1",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn a_panic_in_an_operation_is_an_answer() {
    use lockstep_contract::services::NoInput;
    use lockstep_contract::{Error, Method, Rest, operation};
    operation! {
        /// For tests.
        pub AtOnce = "test.panics"."at_once"(NoInput) -> (),
        errors: [],
        privilege: Anonymous,
        rest: Rest::new(Method::Post, "/test/panics", 204).action("at-once"),
    }
    operation! {
        /// For tests.
        pub Later = "test.panics"."later"(NoInput) -> (),
        errors: [],
        privilege: Anonymous,
        rest: Rest::new(Method::Post, "/test/panics", 204).action("later"),
    }
    let server = Server::start_with(lockstep_api::Limits::default(), false, |table| {
        fn at_once(_: lockstep_site::table::Context, _: NoInput) -> std::future::Ready<Result<(), Error>> {
            panic!("at once, as the test wants")
        }
        table.register(AtOnce, at_once);
        table.register(Later, async |_, _| {
            tokio::task::yield_now().await;
            panic!("later, as the test wants")
        });
    });
    let mut client = server.connect();
    for action in ["at-once", "later", "at-once"] {
        client.send(&Request::new("POST", &format!("/api/test/panics?action={action}")).bytes());
        let response = client.response();
        assert_eq!((response.status, &*response.error()), (500, "INTERNAL_SERVER_ERROR"));
        assert!(!response.body.contains("as the test wants"));
    }
    assert_eq!(server.metric("lockstep_requests_in_flight"), 1.0);
}
