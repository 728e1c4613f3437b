//! Tagging over the wire: REST of both generations, VMware's clients, the command line, and the SOAP that finds what to tag.

use std::time::Duration;

use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::sdk;
use crate::server::{PASSWORD, Server, USER, http, read};

/// A server with a datacenter, a cluster, a host and two VMs, and its certificate when it speaks TLS.
fn server(args: &[&str]) -> Server {
    let server = Server::start_with(&[args, &["--no-collect-host", "--no-sample-host"]].concat());
    let path = server.data.path().join("inventory.ndjson");
    let to = |resource_type: &str, id: &str| json!({"type": resource_type, "id": id});
    let lines = [
        ("Datacenter", "dc-1", json!({"name": "fra"})),
        ("ClusterComputeResource", "domain-c1", json!({"name": "Cluster0", "datacenter": to("Datacenter", "dc-1")})),
        ("ClusterComputeResource", "domain-c2", json!({"name": "other <&> \u{1}"})),
        ("HostSystem", "host-1", json!({"name": "h", "cluster": to("ClusterComputeResource", "domain-c1")})),
        ("VirtualMachine", "vm-1", json!({"name": "v1", "host": to("HostSystem", "host-1")})),
        ("VirtualMachine", "vm-2", json!({"name": "v2", "host": to("HostSystem", "host-1")})),
    ];
    let line = |(resource_type, id, properties): &(&str, &str, Value)| {
        json!({"type": resource_type, "id": id, "properties": properties}).to_string() + "\n"
    };
    std::fs::write(&path, lines.iter().map(line).collect::<String>()).unwrap();
    let mut import = server.cli(&["import"]);
    let done = import.arg(&path).env("LOCKSTEP_INSECURE", "true").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    server
}

fn plain() -> Server {
    server(&["--plain-http"])
}

fn category(server: &Server, name: &str, cardinality: &str) -> String {
    let spec = json!({"name": name, "description": "", "cardinality": cardinality, "associable_types": []});
    server.ok("POST", "/api/cis/tagging/category", &spec).as_str().unwrap().to_owned()
}

fn tag(server: &Server, name: &str, category: &str) -> String {
    let spec = json!({"name": name, "description": "", "category_id": category});
    server.ok("POST", "/api/cis/tagging/tag", &spec).as_str().unwrap().to_owned()
}

fn vm(n: u32) -> Value {
    json!({"type": "VirtualMachine", "id": format!("vm-{n}")})
}

fn attach(server: &Server, tag: &str, object: &Value) {
    let path = format!("/api/cis/tagging/tag-association/{tag}?action=attach");
    assert_eq!(server.call("POST", &path, &json!({ "object_id": object })), (204, json!("")));
}

#[test]
fn both_generations_of_rest_serve_tagging() {
    let mut server = plain();
    let tier = category(&server, "tier", "SINGLE");
    let legacy =
        json!({"create_spec": {"name": "owner", "description": "", "cardinality": "MULTIPLE", "associable_types": []}});
    let owner =
        server.ok("POST", "/rest/com/vmware/cis/tagging/category", &legacy)["value"].as_str().unwrap().to_owned();
    let gold = tag(&server, "gold", &tier);
    let me = json!({"create_spec": {"name": "me", "description": "", "category_id": owner}});
    let me = server.ok("POST", "/rest/com/vmware/cis/tagging/tag", &me)["value"].as_str().unwrap().to_owned();

    // An id in a path of the legacy generation is written with `id:` by some clients, and bare by others.
    for id in [format!("id:{gold}"), gold.clone(), gold.replace(':', "%3A")] {
        let found = server.ok("GET", &format!("/rest/com/vmware/cis/tagging/tag/{id}"), &Value::Null);
        assert_eq!(found["value"]["category_id"], json!(tier), "{id}");
    }
    let path = format!("/rest/com/vmware/cis/tagging/tag/id:{tier}?~action=list-tags-for-category");
    assert_eq!(server.ok("POST", &path, &Value::Null), json!({"value": [gold]}));
    assert_eq!(server.ok("POST", &path, &json!({ "category_id": tier })), json!({"value": [gold]}));
    let path = "/api/cis/tagging/tag?action=list-tags-for-category";
    assert_eq!(server.ok("POST", path, &json!({ "category_id": tier })), json!([gold]));

    attach(&server, &gold, &vm(1));
    let path = format!("/rest/com/vmware/cis/tagging/tag-association/id:{me}?~action=attach-tag-to-multiple-objects");
    let result = server.ok("POST", &path, &json!({"object_ids": [vm(1), vm(2), vm(3)]}));
    assert_eq!(result["value"]["success"], json!(false));
    let message = &result["value"]["error_messages"][0];
    assert_eq!(
        (&message["id"], &message["args"]),
        (&json!("lockstep.tagging.object_not_found"), &json!(["VirtualMachine", "vm-3"]))
    );
    let path = "/rest/com/vmware/cis/tagging/tag-association?~action=list-attached-tags";
    assert_eq!(server.ok("POST", path, &json!({ "object_id": vm(1) })), json!({"value": [gold, me]}));
    let path = "/api/cis/tagging/tag-association?action=list-attached-objects-on-tags";
    let expected = json!([{"tag_id": me, "object_ids": [vm(1), vm(2)]}]);
    assert_eq!(server.ok("POST", path, &json!({"tag_ids": [me, "gone"]})), expected);

    // Tags are resources: queries filter by them, the feed tells of them, and all of it survives a crash.
    let by_tag = |server: &Server, text: &str| {
        let found = server.ok("POST", "/api/lockstep/query", &json!({ "text": text }));
        found["items"].as_array().unwrap().iter().map(|item| item["resource_id"]["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(by_tag(&server, "VirtualMachine where tags.name = 'gold' select name"), ["vm-1"]);
    assert_eq!(
        by_tag(&server, "VirtualMachine where tags.category.name = 'owner' select name order by name"),
        ["vm-1", "vm-2"]
    );
    let token = server.sequence();
    attach(&server, &me, &json!({"type": "HostSystem", "id": "host-1"}));
    let (_, changes) = server.changes(&token);
    let event = &changes["value"]["changes"][0];
    assert_eq!((&event["resource"]["id"], &event["properties"]), (&json!("host-1"), &json!(["tags"])), "{changes}");
    assert_eq!(by_tag(&server, "HostSystem where tags.name = 'me' select name"), ["host-1"]);
    server.restart();
    let path = format!("/api/cis/tagging/tag-association/{me}?action=list-attached-objects");
    assert_eq!(server.ok("POST", &path, &Value::Null).as_array().unwrap().len(), 3);
    let update = json!({"name": "level", "associable_types": []});
    assert_eq!(server.call("PATCH", &format!("/api/cis/tagging/category/{tier}"), &update), (204, json!("")));
    assert_eq!(server.ok("GET", &format!("/api/cis/tagging/category/{tier}"), &Value::Null)["name"], json!("level"));
    assert_eq!(server.call("PATCH", &format!("/api/cis/tagging/tag/{me}"), &json!({})), (204, json!("")));
    assert_eq!(server.call("DELETE", &format!("/api/cis/tagging/category/{owner}"), &Value::Null).0, 204);
    assert_eq!(server.get(&format!("/api/cis/tagging/tag/{me}")).0, 404);
    assert!(by_tag(&server, "VirtualMachine where tags.name = 'me' select name").is_empty());
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let server = plain();
    let tier = category(&server, "tier", "SINGLE");
    let (gold, silver) = (tag(&server, "gold", &tier), tag(&server, "silver", &tier));
    attach(&server, &gold, &vm(1));
    let position = server.get("/api/lockstep/site").1["position"].clone();
    let new_category = |more: Value| {
        let mut spec = json!({"name": "n", "description": "", "cardinality": "SINGLE", "associable_types": []});
        more.as_object().unwrap().iter().for_each(|(name, value)| spec[name] = value.clone());
        spec
    };
    let new_tag = |name: &str, category: &str| json!({"name": name, "description": "", "category_id": category});
    let host = json!({"type": "HostSystem", "id": "host-1"});
    let to = |object: &Value| json!({ "object_id": object });
    let (categories, tags) = ("/api/cis/tagging/category", "/api/cis/tagging/tag");
    let (category_path, tag_path) = (format!("{categories}/{tier}"), format!("{tags}/{silver}"));
    let attach_path = format!("/api/cis/tagging/tag-association/{silver}?action=attach");
    let detach_gone = "/api/cis/tagging/tag-association/gone?action=detach";
    let on_objects = "/api/cis/tagging/tag-association?action=list-attached-tags-on-objects";
    let many: Vec<Value> = (0..10_001).map(|_| host.clone()).collect();
    let cases: &[(&str, &str, Value, u16, &str, &str)] = &[
        ("POST", categories, new_category(json!({"name": "tier"})), 400, "ALREADY_EXISTS", "tier"),
        ("POST", categories, new_category(json!({"name": ""})), 400, "INVALID_ARGUMENT", "create_spec.name"),
        (
            "POST",
            categories,
            new_category(json!({"name": "x".repeat(257)})),
            400,
            "INVALID_ARGUMENT",
            "create_spec.name",
        ),
        (
            "POST",
            categories,
            new_category(json!({"cardinality": "FEW"})),
            400,
            "INVALID_ARGUMENT",
            "create_spec.cardinality",
        ),
        (
            "POST",
            categories,
            new_category(json!({"associable_types": ["a", "a"]})),
            400,
            "INVALID_ARGUMENT",
            "create_spec.associable_types[1]",
        ),
        (
            "POST",
            categories,
            new_category(json!({"associable_types": "a"})),
            400,
            "INVALID_ARGUMENT",
            "create_spec.associable_types",
        ),
        (
            "POST",
            categories,
            new_category(json!({"category_id": ""})),
            400,
            "INVALID_ARGUMENT",
            "create_spec.category_id",
        ),
        ("POST", categories, new_category(json!({"category_id": tier})), 400, "ALREADY_EXISTS", &tier),
        ("POST", categories, new_category(json!({"color": "red"})), 400, "UNEXPECTED_INPUT", "create_spec.color"),
        ("POST", categories, json!({"name": "n"}), 400, "INVALID_ARGUMENT", "create_spec.description"),
        (
            "PATCH",
            &category_path,
            json!({"associable_types": ["Folder"]}),
            400,
            "INVALID_ARGUMENT",
            "update_spec.associable_types",
        ),
        ("PATCH", "/api/cis/tagging/category/gone", json!({}), 404, "NOT_FOUND", "gone"),
        ("DELETE", "/api/cis/tagging/category/gone", Value::Null, 404, "NOT_FOUND", "gone"),
        ("POST", tags, new_tag("gold", &tier), 400, "ALREADY_EXISTS", "gold"),
        ("POST", tags, new_tag("n", "gone"), 404, "NOT_FOUND", "gone"),
        ("POST", tags, new_tag("a\nb", &tier), 400, "INVALID_ARGUMENT", "create_spec.name"),
        ("PATCH", &tag_path, json!({"name": "gold"}), 400, "ALREADY_EXISTS", "gold"),
        (
            "PATCH",
            &tag_path,
            json!({"description": "x".repeat(4097)}),
            400,
            "INVALID_ARGUMENT",
            "update_spec.description",
        ),
        ("GET", "/api/cis/tagging/tag/gone", Value::Null, 404, "NOT_FOUND", "gone"),
        ("DELETE", "/api/cis/tagging/tag/gone", Value::Null, 404, "NOT_FOUND", "gone"),
        ("POST", &attach_path, to(&vm(1)), 400, "INVALID_ARGUMENT", "tag_id"),
        ("POST", &attach_path, to(&vm(9)), 404, "NOT_FOUND", "VirtualMachine"),
        ("POST", &attach_path, to(&json!({"type": "Nothing", "id": "x"})), 400, "INVALID_ARGUMENT", "object_id.type"),
        ("POST", &attach_path, to(&json!({"type": "Account", "id": "x"})), 400, "INVALID_ARGUMENT", "object_id.type"),
        ("POST", &attach_path, to(&json!({"type": "Tag", "id": silver})), 400, "INVALID_ARGUMENT", "object_id.type"),
        ("POST", &attach_path, json!({}), 400, "INVALID_ARGUMENT", "object_id"),
        ("POST", detach_gone, to(&vm(1)), 404, "NOT_FOUND", "gone"),
        ("POST", on_objects, json!({ "object_ids": many }), 400, "INVALID_ARGUMENT", "object_ids"),
        ("POST", "/api/cis/tagging/tag-association?action=attach", to(&vm(1)), 404, "OPERATION_NOT_FOUND", ""),
    ];
    for (method, path, body, status, error_type, first) in cases {
        let (found, answer) = server.call(method, path, body);
        let arg = answer["messages"][0]["args"][0].as_str().unwrap_or_default();
        assert_eq!(
            (found, answer["error_type"].as_str().unwrap(), arg),
            (*status, *error_type, *first),
            "{method} {path} {answer}"
        );
    }
    assert_eq!(server.get("/api/lockstep/site").1["position"], position);

    // Who may only read is told so, and who is nobody.
    let account = json!({"role": "READ_ONLY", "password": "long enough"});
    server.ok("PUT", "/api/lockstep/accounts/reader", &account);
    let reader = http(Duration::from_secs(60));
    let as_reader = |method: &str, path: &str| {
        let request = reader.request(method.parse().unwrap(), format!("{}{path}", server.url));
        let request = request.basic_auth("reader", Some("long enough"));
        read(if method == "GET" { request } else { request.json(&to(&vm(1))) }.send().unwrap()).0
    };
    assert_eq!((as_reader("GET", tags), as_reader("POST", &attach_path)), (200, 403));
    assert_eq!(read(reqwest::blocking::get(format!("{}{tags}", server.url)).unwrap()).0, 401);
}

#[test]
fn an_attachment_never_outlives_its_tag() {
    let server = plain();
    let tier = category(&server, "tier", "MULTIPLE");
    for round in 0..25 {
        let tag = tag(&server, &format!("t{round}"), &tier);
        std::thread::scope(|scope| {
            let attaching = scope.spawn(|| {
                let path = format!("/api/cis/tagging/tag-association/{tag}?action=attach");
                server.call("POST", &path, &json!({ "object_id": vm(1) })).0
            });
            let created = scope.spawn(|| {
                let spec = json!({"name": format!("same{round}"), "description": "", "category_id": tier});
                server.call("POST", "/api/cis/tagging/tag", &spec).0
            });
            let spec = json!({"name": format!("same{round}"), "description": "", "category_id": tier});
            let also_created = server.call("POST", "/api/cis/tagging/tag", &spec).0;
            let (deleted, _) = server.call("DELETE", &format!("/api/cis/tagging/tag/{tag}"), &Value::Null);
            assert_eq!(deleted, 204);
            assert!(matches!(attaching.join().unwrap(), 204 | 404));
            let mut both = [created.join().unwrap(), also_created];
            both.sort_unstable();
            assert_eq!(both, [201, 400]);
        });
        let stored = server.get("/api/lockstep/resources/VirtualMachine/vm-1").1;
        assert_eq!(stored["properties"]["tags"], Value::Null, "{stored}");
    }
}

#[test]
fn vmwares_clients_find_a_cluster_and_run_the_tagging_workflow() {
    let Some(python) = sdk::python("pyVmomi") else { return };
    let server = server(&[]);
    sdk::run(python, "tagging.py", sdk::address(&server).into_iter().chain(["Cluster0".to_owned()]));
}

const VIM: &str = r#"xmlns="urn:vim25""#;

/// Calls a method of SOAP, with the body as it stands in the envelope.
fn soap(server: &Server, cookie: &str, body: &str) -> Response {
    let text = format!(
        r#"<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{body}</s:Body></s:Envelope>"#
    );
    let request = reqwest::blocking::Client::new().post(format!("{}/sdk", server.url));
    request.header("content-type", "text/xml; charset=UTF-8").header("cookie", cookie).body(text).send().unwrap()
}

fn soap_text(server: &Server, cookie: &str, body: &str) -> (u16, String) {
    let response = soap(server, cookie, body);
    (response.status().as_u16(), response.text().unwrap())
}

fn soap_login(server: &Server) -> String {
    let login = format!(
        r#"<Login {VIM}><_this type="SessionManager">SessionManager</_this><userName>{USER}</userName><password>{PASSWORD}</password></Login>"#
    );
    let response = soap(server, "", &login);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    let text = response.text().unwrap();
    let token = cookie.split('"').nth(1).unwrap();
    assert!(text.contains("<LoginResponse") && !text.contains(token), "{text}");
    assert_eq!(cookie, format!("vmware_soap_session=\"{token}\"; Path=/; HttpOnly; Secure;"));
    cookie
}

fn fetch(this: &str, id: &str, property: &str) -> String {
    format!(r#"<Fetch {VIM}><_this type="{this}">{id}</_this><prop>{property}</prop></Fetch>"#)
}

fn view_of(types: &str, container: &str, is_recursive: bool) -> String {
    format!(
        r#"<CreateContainerView {VIM}><_this type="ViewManager">ViewManager</_this>{container}{types}<recursive>{is_recursive}</recursive></CreateContainerView>"#
    )
}

#[test]
fn container_views_show_the_inventory_as_it_is() {
    let server = plain();
    let cookie = soap_login(&server);
    let root_folder = r#"<container type="Folder">group-d1</container>"#;
    let objects = |types: &str, container: &str, is_recursive: bool| {
        let (status, text) = soap_text(&server, &cookie, &view_of(types, container, is_recursive));
        assert_eq!(status, 200, "{text}");
        let id = text.split("<returnval type=\"ContainerView\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
        let (status, text) = soap_text(&server, &cookie, &fetch("ContainerView", &id, "view"));
        assert_eq!(status, 200, "{text}");
        let ids = text.split("xsi:type=\"ManagedObjectReference\">").skip(1);
        ids.map(|rest| rest.split('<').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(objects("<type>ClusterComputeResource</type>", root_folder, true), ["domain-c1", "domain-c2"]);
    assert_eq!(objects("<type>ComputeResource</type>", root_folder, false), ["domain-c2"]);
    assert_eq!(
        objects("<type>HostSystem</type><type>VirtualMachine</type>", root_folder, true),
        ["host-1", "vm-1", "vm-2"]
    );
    assert_eq!(objects("<type>StoragePod</type>", root_folder, true), [""; 0]);
    assert_eq!(objects("", root_folder, true).len(), 6);
    let datacenter = r#"<container type="Datacenter">dc-1</container>"#;
    assert_eq!(objects("<type>VirtualMachine</type>", datacenter, true), ["vm-1", "vm-2"]);
    assert_eq!(objects("", datacenter, false), ["domain-c1"]);

    let name = |this: &str, id: &str| soap_text(&server, &cookie, &fetch(this, id, "name")).1;
    assert!(
        name("ClusterComputeResource", "domain-c1").contains("<returnval xsi:type=\"xsd:string\">Cluster0</returnval>")
    );
    assert!(name("ClusterComputeResource", "domain-c2").contains("other &lt;&amp;&gt; \u{fffd}"));
    assert!(name("Folder", "group-d1").contains("Datacenters"));
    let versions = reqwest::blocking::get(format!("{}/sdk/vimServiceVersions.xml", server.url)).unwrap();
    assert_eq!(versions.headers()["content-type"], "text/xml; charset=utf-8");
    assert!(
        versions.text().unwrap().contains("<name>urn:vim25</name><version>8.0.3.0</version><priorVersions><version>")
    );
}

#[test]
fn soap_refuses_what_it_should_with_faults() {
    let server = plain();
    let cookie = soap_login(&server);
    let check = |cookie: &str, body: &str, fault: &str| {
        let (status, text) = soap_text(&server, cookie, body);
        let expected = format!("<{fault}Fault xmlns=\"urn:vim25\" xsi:type=\"{fault}\">");
        assert!(status == 500 && text.contains(&expected), "{body}: {status} {text}");
    };
    let name = fetch("VirtualMachine", "vm-1", "name");
    let foreign = "vmware_soap_session=\"0123456789abcdef0123456789abcdef\"";
    check("", &name, "NotAuthenticated");
    check(foreign, &name, "NotAuthenticated");
    let login = |user: &str, password: &str| {
        format!(
            r#"<Login {VIM}><_this type="SessionManager">SessionManager</_this><userName>{user}</userName><password>{password}</password></Login>"#
        )
    };
    check("", &login(USER, "wrong"), "InvalidLogin");
    check("", &login("nobody", PASSWORD), "InvalidLogin");
    check(&cookie, &fetch("VirtualMachine", "gone", "name"), "ManagedObjectNotFound");
    check(&cookie, &fetch("Account", USER, "name"), "ManagedObjectNotFound");
    check(&cookie, &fetch("ContainerView", "session[1]view-1", "view"), "ManagedObjectNotFound");
    check(&cookie, &fetch("VirtualMachine", "vm-1", "config"), "InvalidProperty");
    check(
        &cookie,
        &view_of("<type>Account</type>", r#"<container type="Folder">group-d1</container>"#, true),
        "InvalidArgument",
    );
    check(&cookie, &view_of("", r#"<container type="Account">x</container>"#, true), "ManagedObjectNotFound");
    check(&cookie, &view_of("", "", true), "InvalidArgument");
    check(
        &cookie,
        &format!(r#"<PowerOnVM_Task {VIM}><_this type="VirtualMachine">vm-1</_this></PowerOnVM_Task>"#),
        "InvalidRequest",
    );
    check(&cookie, "", "InvalidRequest");
    check(&cookie, "<Fetch/>", "InvalidRequest");
    check(&cookie, &format!("<Fetch {VIM}>{}</Fetch>", "<a>".repeat(1000)), "InvalidRequest");
    check(&cookie, &format!("<Fetch {VIM}/>"), "InvalidArgument");
    let post = |content_type: &str, body: String| {
        let request = reqwest::blocking::Client::new().post(format!("{}/sdk", server.url));
        let response =
            request.header("content-type", content_type).header("cookie", &cookie).body(body).send().unwrap();
        (response.status().as_u16(), response.text().unwrap())
    };
    let bomb = r#"<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><a>&b;</a>"#.to_owned();
    for (content_type, body, status) in [
        ("text/xml", bomb, 500),
        ("text/plain", "<a/>".to_owned(), 500),
        ("text/xml", "x".repeat(70_000), 413),
        ("text/xml", String::new(), 500),
    ] {
        let (found, text) = post(content_type, body);
        assert!(found == status && text.contains("<faultcode>ServerFaultCode</faultcode>"), "{found} {text}");
    }

    // A browser that a foreign page made send the cookie is nobody.
    let text = format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{name}</s:Body></s:Envelope>"#
    );
    let request =
        reqwest::blocking::Client::new().post(format!("{}/sdk", server.url)).header("content-type", "text/xml");
    let answered =
        request.header("cookie", &cookie).header("origin", "https://evil.example").body(text).send().unwrap();
    assert!(answered.text().unwrap().contains("NotAuthenticatedFault"));

    let logout = format!(r#"<Logout {VIM}><_this type="SessionManager">SessionManager</_this></Logout>"#);
    assert_eq!(soap_text(&server, &cookie, &name).0, 200);
    assert_eq!(soap_text(&server, &cookie, &logout).0, 200);
    check(&cookie, &name, "NotAuthenticated");
}
