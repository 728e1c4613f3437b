//! What is wrong with a request is answered with a status and an error that say so, over every transport, and changes nothing.

use crate::harness::{PASSWORD, Request, Server, USER};
use crate::transports::{by_session, rpc};

/// What a row expects: status and kind of error; for failures of JSON-RPC itself, their code.
type Row = (&'static str, Request, u16, &'static str);

const RULED: &str = "/rest/com/vmware/cis/data/legacy/resource-model?~action=query";
const MAPPED: &str = "/rest/cis/data/legacy/resource-model?action=query";
const CURRENT: &str = "/api/cis/data/legacy/resource-model?action=query";
const QUERY: &str = "com.vmware.cis.data.legacy.resource_model";

fn post(url: &str, body: &str) -> Request {
    Request::new("POST", url).json(body)
}

fn get(url: &str) -> Request {
    Request::new("GET", url)
}

fn query(rest: &str) -> String {
    format!(
        r#"{{"query_spec":{{"resource_filter":{{"filter_type":"TYPE","resource_type":"Folder"}},"property_spec":[]{rest}}}}}"#
    )
}

fn filter(filter: &str) -> String {
    format!(r#"{{"query_spec":{{"resource_filter":{filter},"property_spec":[]}}}}"#)
}

fn xml(content: &str) -> Request {
    let namespace = "http://vmware.com/cis/data/legacy/resource_model";
    Request::new("POST", RULED)
        .body("application/xml", format!(r#"<q:Query-Input xmlns:q="{namespace}">{content}</q:Query-Input>"#))
}

/// Requests to REST, which are sent with a session.
fn rest_rows() -> Vec<Row> {
    let deep = |levels: usize| {
        filter(&format!(
            "{}{}",
            r#"{"filter_type":"COMPOSITE","composite_filter":{"operator":"UNION","filters":["#.repeat(levels),
            "]}}".repeat(levels)
        ))
    };
    let wide = format!(r#"{{"query_spec":[{}1]}}"#, "1,".repeat(1_100_000));
    vec![
        ("unknown path", get("/api/nothing"), 404, "OPERATION_NOT_FOUND"),
        ("unknown path, legacy", get("/rest/com/vmware/nothing"), 404, "OPERATION_NOT_FOUND"),
        ("path of neither space", get("/nothing"), 404, "OPERATION_NOT_FOUND"),
        ("unknown action", post("/api/cdc/change-log?action=other", "{}"), 404, "OPERATION_NOT_FOUND"),
        ("missing action", post("/rest/com/vmware/cdc/change-log", "{}"), 404, "OPERATION_NOT_FOUND"),
        (
            "action of the wrong spelling",
            post("/rest/com/vmware/cdc/change-log?~action=get_changes", "{}"),
            404,
            "OPERATION_NOT_FOUND",
        ),
        ("wrong method", get("/rest/com/vmware/cdc/change-log?~action=get-changes"), 405, "INVALID_REQUEST"),
        ("method nobody has", Request::new("BREW", "/api/session"), 405, "INVALID_REQUEST"),
        ("percent without digits", get("/api/lockstep/resources/Folder/%zz"), 400, "INVALID_REQUEST"),
        ("path that is not UTF-8", get("/api/lockstep/resources/Folder/%ff"), 400, "INVALID_REQUEST"),
        ("query that is not UTF-8", get("/api/lockstep/resources/Folder?after=%c3%28"), 400, "INVALID_REQUEST"),
        (
            "URL beyond its limit",
            get(&format!("/api/lockstep/resources/{}", "x".repeat(20_000))),
            414,
            "INVALID_REQUEST",
        ),
        ("unknown query parameter", get("/api/lockstep/resources/Folder?other=1"), 400, "UNEXPECTED_INPUT"),
        ("unknown query parameter, legacy", get("/rest/lockstep/resources/Folder?other=1"), 400, "INVALID_REQUEST"),
        ("query parameter of a wrong type", get("/api/lockstep/resources/Folder?limit=many"), 400, "INVALID_ARGUMENT"),
        (
            "query parameter beyond 64 bits",
            get("/api/lockstep/resources/Folder?limit=9223372036854775808"),
            400,
            "INVALID_ARGUMENT",
        ),
        ("query parameter twice", get("/api/lockstep/resources/Folder?limit=1&limit=2"), 400, "INVALID_ARGUMENT"),
        ("query parameter with a structure", get("/api/lockstep/resources/Folder?limit.x=1"), 400, "INVALID_ARGUMENT"),
        (
            "value and structure at once",
            get("/api/lockstep/resources/Folder?after=1&after.x=1"),
            400,
            "INVALID_REQUEST",
        ),
        ("resource that is not there", get("/api/lockstep/resources/Folder/none"), 404, "NOT_FOUND"),
        ("no JSON", post(CURRENT, "{"), 400, "INVALID_REQUEST"),
        ("no JSON, legacy", post(RULED, "{"), 400, "INVALID_REQUEST"),
        ("no JSON, mapped", post(MAPPED, "nonsense"), 400, "INVALID_REQUEST"),
        ("body that is no object", post(CURRENT, "[]"), 400, "INVALID_REQUEST"),
        ("body that is null", post(RULED, "null"), 400, "INVALID_REQUEST"),
        ("two bodies in one", post(CURRENT, "{}{}"), 400, "INVALID_REQUEST"),
        ("member twice", post(CURRENT, r#"{"query_spec":null,"query_spec":null}"#), 400, "INVALID_REQUEST"),
        (
            "body that is not UTF-8",
            Request::new("POST", CURRENT).body("application/json", b"{\"query_spec\":\"\xff\"}"),
            400,
            "INVALID_REQUEST",
        ),
        ("body with a bare surrogate", post(CURRENT, r#"{"query_spec":"\ud800"}"#), 400, "INVALID_REQUEST"),
        ("body nested too deep", post(CURRENT, &"[".repeat(100_000)), 400, "INVALID_REQUEST"),
        ("body of too many values", post(CURRENT, &wide), 400, "INVALID_REQUEST"),
        ("body of another type", Request::new("POST", CURRENT).body("text/plain", "{}"), 415, "INVALID_REQUEST"),
        (
            "XML where there is none",
            Request::new("POST", CURRENT).body("application/xml", "<a/>"),
            415,
            "INVALID_REQUEST",
        ),
        (
            "XML where there is none, mapped",
            Request::new("POST", MAPPED).body("text/xml", "<a/>"),
            415,
            "INVALID_REQUEST",
        ),
        ("form", Request::new("POST", RULED).body("application/x-www-form-urlencoded", "a=b"), 415, "INVALID_REQUEST"),
        ("missing body", Request::new("POST", CURRENT), 400, "INVALID_ARGUMENT"),
        ("missing field", post(CURRENT, "{}"), 400, "INVALID_ARGUMENT"),
        ("field that is null", post(RULED, r#"{"query_spec":null}"#), 400, "INVALID_ARGUMENT"),
        ("field of a wrong type", post(CURRENT, r#"{"query_spec":7}"#), 400, "INVALID_ARGUMENT"),
        ("unknown field", post(CURRENT, r#"{"query_spec":null,"other":1}"#), 400, "INVALID_ARGUMENT"),
        ("unknown field inside", post(CURRENT, &query(r#","other":1"#)), 400, "UNEXPECTED_INPUT"),
        ("unknown field inside, legacy", post(RULED, &query(r#","other":1"#)), 400, "INVALID_REQUEST"),
        ("number as text", post(CURRENT, &query(r#","limit":"5""#)), 400, "INVALID_ARGUMENT"),
        ("fraction for a whole number", post(CURRENT, &query(r#","limit":5.5"#)), 400, "INVALID_ARGUMENT"),
        ("number beyond 64 bits", post(CURRENT, &query(r#","limit":99999999999999999999"#)), 400, "INVALID_ARGUMENT"),
        ("text for a boolean", post(RULED, &query(r#","compute_total_item_count":"true""#)), 400, "INVALID_ARGUMENT"),
        ("negative offset", post(CURRENT, &query(r#","offset":-1"#)), 400, "INVALID_ARGUMENT"),
        ("negative limit", post(RULED, &query(r#","limit":-1"#)), 400, "INVALID_ARGUMENT"),
        ("limit above the server's", post(CURRENT, &query(r#","limit":1001"#)), 400, "INVALID_ARGUMENT"),
        ("unknown constant", post(CURRENT, &filter(r#"{"filter_type":"OTHER"}"#)), 400, "INVALID_ARGUMENT"),
        (
            "constant in another case",
            post(CURRENT, &filter(r#"{"filter_type":"type","resource_type":"Folder"}"#)),
            400,
            "INVALID_ARGUMENT",
        ),
        ("union without its field", post(RULED, &filter(r#"{"filter_type":"TYPE"}"#)), 400, "INVALID_ARGUMENT"),
        (
            "union with another's field",
            post(
                CURRENT,
                &filter(r#"{"filter_type":"TYPE","resource_type":"Folder","resource_id":{"type":"Folder","id":"x"}}"#),
            ),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "null in a list",
            post(
                CURRENT,
                &filter(r#"{"filter_type":"COMPOSITE","composite_filter":{"operator":"UNION","filters":[null]}}"#),
            ),
            400,
            "INVALID_ARGUMENT",
        ),
        ("empty composition", post(CURRENT, &deep(1)), 400, "INVALID_ARGUMENT"),
        ("filter nested too deep", post(CURRENT, &deep(40)), 400, "INVALID_ARGUMENT"),
        (
            "unknown resource type",
            post(CURRENT, &filter(r#"{"filter_type":"TYPE","resource_type":"None"}"#)),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "bad sequence token",
            post("/rest/com/vmware/cdc/change-log?~action=get-changes", r#"{"sequence_token":"x"}"#),
            400,
            "INVALID_ARGUMENT",
        ),
        ("missing sequence token", post("/api/cdc/change-log?action=get-changes", "{}"), 400, "INVALID_ARGUMENT"),
        (
            "path and body at odds",
            Request::new("PUT", "/api/lockstep/accounts/a").json(r#"{"user":"b","role":"OPERATOR"}"#),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "property that the model lacks",
            post("/api/lockstep/resources", r#"{"type":"Folder","id":"x","properties":{"other":1}}"#),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "property of a wrong type",
            post("/api/lockstep/resources", r#"{"type":"Folder","id":"x","properties":{"name":1}}"#),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "XML with another root",
            Request::new("POST", RULED).body("text/xml", "<Query-Input/>"),
            400,
            "INVALID_REQUEST",
        ),
        ("XML that ends early", Request::new("POST", RULED).body("text/xml", "<a><b>"), 400, "INVALID_REQUEST"),
        (
            "XML with a document type",
            Request::new("POST", RULED).body("text/xml", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"),
            400,
            "INVALID_REQUEST",
        ),
        ("XML without its field", xml(""), 400, "INVALID_ARGUMENT"),
        ("XML with an unknown element", xml("<query_spec><other/></query_spec>"), 400, "INVALID_ARGUMENT"),
        ("XML with an element twice", xml("<query_spec/><query_spec/>"), 400, "INVALID_REQUEST"),
        ("XML with an attribute", xml("<query_spec a=\"b\"/>"), 400, "INVALID_REQUEST"),
        ("XML with a word for a number", xml("<query_spec><limit>many</limit></query_spec>"), 400, "INVALID_ARGUMENT"),
        (
            "import of another type",
            Request::new("POST", "/api/lockstep/resources?action=import").json("{}"),
            415,
            "INVALID_REQUEST",
        ),
        (
            "import of a bad line",
            Request::new("POST", "/api/lockstep/resources?action=import").body("application/x-ndjson", "nonsense\n"),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "import with a bad option",
            Request::new("POST", "/api/lockstep/resources?action=import&on_existing=other")
                .body("application/x-ndjson", "\n"),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "import in no batches",
            Request::new("POST", "/api/lockstep/resources?action=import&batch=0").body("application/x-ndjson", "\n"),
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "export with an unknown parameter",
            get("/api/lockstep/resources?action=export&other=1"),
            400,
            "UNEXPECTED_INPUT",
        ),
        ("export of an unknown type", get("/api/lockstep/resources?action=export&type=None"), 400, "INVALID_ARGUMENT"),
        (
            "export behind half a resource",
            get("/api/lockstep/resources?action=export&after_id=x"),
            400,
            "INVALID_ARGUMENT",
        ),
        ("events after a bad token", get("/api/lockstep/feed/events?sequence_token=x"), 400, "INVALID_ARGUMENT"),
        ("events with a bad filter", get("/api/lockstep/feed/events?filter=%7B"), 400, "INVALID_ARGUMENT"),
        ("events with a filter of nothing", get("/api/lockstep/feed/events?filter=%7B%7D"), 400, "INVALID_ARGUMENT"),
    ]
}

/// Requests to JSON-RPC.
fn rpc_rows(token: &str) -> Vec<Row> {
    let raw = |body: &str| Request::new("POST", "/api").json(body);
    let by = by_session(token);
    let ask = |operation: &str, input: &str| rpc(QUERY, operation, input, &by);
    let with = |params: &str| raw(&format!(r#"{{"jsonrpc":"2.0","method":"invoke","id":"0","params":{params}}}"#));
    let typed = |limit: &str| {
        format!(
            r#"{{"query_spec":{{"STRUCTURE":{{"{QUERY}.query_spec":{{"resource_filter":{{"STRUCTURE":{{"{QUERY}.resource_filter":{{"filter_type":"TYPE","resource_type":{{"OPTIONAL":"Folder"}}}}}}}},"property_spec":[],"limit":{limit}}}}}}}}}"#
        )
    };
    vec![
        ("another method", get("/api"), 405, "INVALID_REQUEST"),
        ("another content type", Request::new("POST", "/api").body("text/plain", "{}"), 400, "INVALID_REQUEST"),
        ("no content type", Request::new("POST", "/api"), 400, "INVALID_REQUEST"),
        ("no JSON", raw("{"), 200, "-32700"),
        ("empty", Request::new("POST", "/api").header("Content-Type", "application/json"), 200, "-32700"),
        ("a batch", raw("[]"), 200, "-32600"),
        ("no version", raw(r#"{"method":"invoke","id":"0","params":{}}"#), 200, "-32600"),
        ("a notification", raw(r#"{"jsonrpc":"2.0","method":"invoke","params":{}}"#), 200, "-32600"),
        ("another method name", raw(r#"{"jsonrpc":"2.0","method":"list","id":"0","params":{}}"#), 200, "-32601"),
        ("no parameters", raw(r#"{"jsonrpc":"2.0","method":"invoke","id":"0"}"#), 200, "-32602"),
        ("no context", with(r#"{"serviceId":"s","operationId":"o","input":null}"#), 200, "-32602"),
        ("two words in a value", ask("query", r#"{"query_spec":{"STRUCTURE":{},"OPTIONAL":null}}"#), 200, "-32602"),
        ("an unknown word", ask("query", r#"{"query_spec":{"OTHER":null}}"#), 200, "-32602"),
        (
            "headers at odds with the body",
            ask("query", "{}").header("vapi-service", "other").header("vapi-operation", "query"),
            200,
            "-31001",
        ),
        ("unknown service", rpc("com.vmware.none", "query", "{}", &by), 200, "OPERATION_NOT_FOUND"),
        ("unknown operation", ask("none", "{}"), 200, "OPERATION_NOT_FOUND"),
        (
            "no input",
            with(&format!(r#"{{"serviceId":"{QUERY}","operationId":"query","ctx":{{"appCtx":{{}}{by}}}}}"#)),
            200,
            "INVALID_ARGUMENT",
        ),
        ("missing field", ask("query", "{}"), 200, "INVALID_ARGUMENT"),
        ("unknown field", ask("query", r#"{"query_spec":null,"other":1}"#), 200, "INVALID_ARGUMENT"),
        ("bare optional", ask("query", &typed("5")), 200, "INVALID_ARGUMENT"),
        ("wrong type", ask("query", &typed(r#"{"OPTIONAL":"5"}"#)), 200, "INVALID_ARGUMENT"),
        ("number out of range", ask("query", &typed(r#"{"OPTIONAL":-5}"#)), 200, "INVALID_ARGUMENT"),
        (
            "structure of another name",
            ask("query", &typed(r#"{"OPTIONAL":null}"#).replace(".resource_filter\"", ".other\"")),
            200,
            "INVALID_ARGUMENT",
        ),
        (
            "unknown field that is set",
            rpc("com.vmware.cis.session", "get", r#"{"other":1}"#, &by),
            200,
            "UNEXPECTED_INPUT",
        ),
        ("nobody", rpc(QUERY, "query", "{}", ""), 200, "UNAUTHENTICATED"),
        ("a session that is gone", rpc(QUERY, "query", "{}", &by_session("00")), 200, "UNAUTHENTICATED"),
        (
            "a way to log in that is not offered",
            rpc(QUERY, "query", "{}", r#","securityCtx":{"schemeId":"com.vmware.vapi.std.security.oauth"}"#),
            200,
            "UNAUTHENTICATED",
        ),
        (
            "a scheme without its members",
            rpc(QUERY, "query", "{}", r#","securityCtx":{"schemeId":"com.vmware.vapi.std.security.session_id"}"#),
            200,
            "-32602",
        ),
    ]
}

#[test]
fn bad_input_gets_its_error_and_changes_nothing() {
    let server = Server::start();
    let token = server.log_in();
    let position = server.site.position();
    let rest =
        rest_rows().into_iter().map(|(name, request, status, error)| (name, request.session(&token), status, error));
    let rows: Vec<_> = rest.chain(rpc_rows(&token)).collect();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut client = server.connect();
    for (name, request, status, error) in rows {
        // On one connection: none of them ends it, but for bodies that are not read to their end.
        let is_large = request.url.len() > 10_000;
        if is_large {
            client = server.connect();
        }
        client.send(&request.bytes());
        let response = client.response();
        assert_eq!((response.status, &*response.error()), (status, error), "{name}: {response:?}");
        assert!(!response.body.is_empty() && response.status < 500, "{name}: {response:?}");
        if is_large {
            client = server.connect();
        }
    }
    assert_eq!(server.site.position(), position);
}

#[test]
fn nobody_is_told_more_than_that_a_login_is_missing() {
    let server = Server::start();
    for (name, request, status, error) in rest_rows() {
        let is_before = matches!(status, 404 | 405 | 414) && error != "NOT_FOUND"
            || name.contains("percent")
            || name.contains("not UTF-8") && !name.contains("body");
        let response = server.ask(&request);
        let expected = if is_before { (status, error) } else { (401, "UNAUTHENTICATED") };
        assert_eq!((response.status, &*response.error()), expected, "{name}: {response:?}");
    }
}

#[test]
fn an_error_names_the_field_in_every_envelope() {
    let server = Server::start();
    let ask = |request: Request| server.ask(&request.basic(USER, PASSWORD));
    let body = query(r#","limit":"5""#);
    let place = "query_spec.limit";
    let current = ask(post(CURRENT, &body)).json();
    assert_eq!(current["messages"][0]["args"][0], place);
    assert_eq!(current["data"]["primary"], place);
    let legacy = ask(post(RULED, &body)).json();
    assert_eq!(legacy["type"], "com.vmware.vapi.std.errors.invalid_argument");
    assert_eq!(legacy["value"], current);
    let xml = ask(post(RULED, &body).header("Accept", "application/xml"));
    assert_eq!(xml.status, 400);
    assert!(xml.body.starts_with("<error xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><type>com.vmware.vapi.std.errors.invalid_argument</type><value><messages-array><array-item><id>"), "{}", xml.body);
}
