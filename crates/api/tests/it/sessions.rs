//! Logging in and out, in every spelling.

use crate::harness::{PASSWORD, Request, Response, Server, USER};
use crate::transports::{by_session, rpc};

fn user_of(response: &Response) -> Option<String> {
    let json = response.json();
    let info = json.get("value").unwrap_or(&json);
    info.get("user").and_then(|user| user.as_str()).map(str::to_owned)
}

#[test]
fn a_session_is_the_same_whatever_made_it() {
    let server = Server::start();
    let login = |url: &str| {
        server.ask(&Request::new("POST", url).basic(USER, PASSWORD).body("application/x-www-form-urlencoded", ""))
    };
    let current = login("/api/session");
    assert_eq!((current.status, current.header("set-cookie")), (201, None));
    let token = current.body.trim_matches('"').to_owned();
    assert_eq!((token.len(), current.header("vmware-api-session-id")), (32, Some(&*token)));

    for url in ["/rest/session", "/rest/com/vmware/cis/session"] {
        let legacy = login(url);
        assert_eq!(legacy.status, 200);
        let token = legacy.json()["value"].as_str().unwrap().to_owned();
        let cookie = format!("vmware-api-session-id={token}; Path=/rest; HttpOnly; Secure; SameSite=Strict");
        assert_eq!(legacy.header("set-cookie"), Some(&*cookie));
        let by_cookie =
            |more: Request| server.ask(&more.header("Cookie", &format!("x=y; vmware-api-session-id={token}")));
        let get = "/rest/com/vmware/cis/session?~action=get";
        assert_eq!(user_of(&by_cookie(Request::new("POST", get))).as_deref(), Some(USER));
        // A page of another site cannot use the cookie, nor can it send the header.
        let foreign = by_cookie(Request::new("POST", get).header("Origin", "https://elsewhere"));
        assert_eq!((foreign.status, &*foreign.error()), (403, "UNAUTHORIZED"));
        let out = by_cookie(Request::new("DELETE", url));
        assert_eq!((out.status, &*out.body), (200, ""));
        assert!(out.header("set-cookie").is_some_and(|c| c.ends_with("Max-Age=0")), "{out:?}");
        assert_eq!(by_cookie(Request::new("POST", get)).status, 401);
    }
    let by_header =
        Request::new("POST", "/rest/session").basic(USER, PASSWORD).header("vmware-use-header-authn", "true");
    assert_eq!(server.ask(&by_header).header("set-cookie"), None);

    let security = format!(
        r#","securityCtx":{{"schemeId":"com.vmware.vapi.std.security.user_pass","userName":"{USER}","password":"{PASSWORD}"}}"#
    );
    let response = server.ask(&rpc("com.vmware.cis.session", "create", "{}", &security));
    let token = response.json()["result"]["output"]["SECRET"].as_str().unwrap().to_owned();
    assert_eq!(user_of(&server.ask(&Request::new("GET", "/api/session").session(&token))).as_deref(), Some(USER));
    let info = server.ask(&rpc("com.vmware.cis.session", "get", "{}", &by_session(&token))).json();
    assert_eq!(info["result"]["output"]["STRUCTURE"]["com.vmware.cis.session.info"]["user"], USER);
    let out = server.ask(&rpc("com.vmware.cis.session", "delete", "{}", &by_session(&token)));
    assert_eq!(out.body, r#"{"jsonrpc":"2.0","id":"0","result":{"output":null}}"#);
    assert_eq!(server.ask(&Request::new("DELETE", "/api/session").session(&token)).status, 401);
    let last = server.log_in();
    let out = server.ask(&Request::new("DELETE", "/api/session").session(&last));
    assert_eq!((out.status, out.header("content-type")), (204, None));
}

#[test]
fn a_wrong_login_is_told_apart_from_nothing_and_asks_for_a_password_only_at_the_login() {
    let server = Server::start();
    let challenge = Some("Basic realm=\"lockstep\"");
    for login in [
        Request::new("POST", "/api/session"),
        Request::new("POST", "/api/session").basic(USER, "wrong"),
        Request::new("POST", "/api/session").basic("nobody", PASSWORD),
        Request::new("POST", "/api/session").header("Authorization", "Bearer x"),
    ] {
        let response = server.ask(&login);
        assert_eq!((response.status, response.header("www-authenticate")), (401, challenge), "{login:?}");
        assert_eq!(response.error(), "UNAUTHENTICATED");
    }
    // A session does not beget sessions.
    let token = server.log_in();
    assert_eq!(server.ask(&Request::new("POST", "/api/session").session(&token)).status, 401);
    let other = server.ask(&Request::new("GET", "/api/session").session("0123"));
    assert_eq!((other.status, other.header("www-authenticate")), (401, None));
}

#[test]
fn a_password_with_each_request_will_do() {
    let server = Server::start();
    let list = Request::new("GET", "/api/lockstep/accounts");
    assert_eq!(server.ask(&list).status, 401);
    assert_eq!(server.ask(&list.clone().basic(USER, PASSWORD)).status, 200);
    let reader = r#"{"role":"READ_ONLY","password":"reads a lot"}"#;
    let set = Request::new("PUT", "/api/lockstep/accounts/reader@x").basic(USER, PASSWORD).json(reader);
    let response = server.ask(&set);
    assert_eq!((response.status, &*response.body), (204, ""));
    assert_eq!(server.ask(&list.basic("reader@x", "reads a lot")).status, 403);
    let create = Request::new("POST", "/api/lockstep/resources").basic("reader@x", "reads a lot");
    // Refused before the body is looked at.
    assert_eq!(server.ask(&create.json("{")).error(), "UNAUTHORIZED");
}
