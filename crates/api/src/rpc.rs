//! JSON-RPC: `POST /api`, as the SDKs' stubs speak it.
//!
//! Source: `api/vapi-wire.md`, section 2.

use http::{HeaderMap, Response, StatusCode};
use lockstep_contract::{Data, Error, Secret, typed, write_string};
use lockstep_site::table::{Basic, Table};

use crate::auth::Credentials;
use crate::body::Body;
use crate::envelope::{rpc_head, with_body};
use crate::negotiate::Format;

/// A failure of JSON-RPC itself, below the operations.
#[derive(Debug)]
pub(crate) struct Failure {
    code: i32,
    /// The id of the request; null where the client insists on that.
    id: Data,
    message: String,
}

impl Failure {
    fn new(code: i32, id: Data, message: impl Into<String>) -> Self {
        Self { code, id, message: message.into() }
    }

    /// What it is in the words of the operations, for logs and counters.
    pub fn as_error(&self) -> Error {
        Error::invalid_request(self.message.as_str())
    }

    /// The response that tells it.
    pub fn response(&self) -> Response<Body> {
        let mut out = rpc_head(&self.id);
        out.extend_from_slice(format!("\"error\":{{\"code\":{},\"message\":", self.code).as_bytes());
        write_string(&mut out, &self.message);
        out.extend_from_slice(b"}}");
        with_body(StatusCode::OK, Format::Json, Body::one(out))
    }
}

/// A request to call an operation.
pub(crate) struct Request {
    pub id: Data,
    /// The operation's index in the table; `None` when there is none of that name.
    pub operation: Option<usize>,
    /// `None` when it is missing.
    pub input: Option<Data>,
    /// Who asks; an error for a way to log in that is not offered.
    pub credentials: Result<Credentials, Error>,
    /// The operation id that the body carries.
    pub operation_id: Option<String>,
}

const PARSE: i32 = -32700;
const NO_REQUEST: i32 = -32600;
const NO_METHOD: i32 = -32601;
const BAD_PARAMS: i32 = -32602;
const MISMATCH: i32 = -31001;

/// Reads a request. `shown` are the credentials in the HTTP headers.
///
/// # Errors
/// [`Failure`] when it is no request, or none for an operation.
pub(crate) fn read(body: &[u8], headers: &HeaderMap, shown: Credentials, table: &Table) -> Result<Request, Failure> {
    let data = Data::from_request(body).map_err(|e| Failure::new(PARSE, Data::Null, format!("malformed JSON: {e}")))?;
    let no_request = |message: &str| Failure::new(NO_REQUEST, Data::Null, message);
    let Data::Struct(None, mut members) = data else {
        return Err(no_request("a request is an object; batches are not supported"));
    };
    if take(&mut members, "jsonrpc") != Some(Data::String("2.0".to_owned())) {
        return Err(no_request("jsonrpc is not \"2.0\""));
    }
    let id = match take(&mut members, "id") {
        Some(id @ (Data::String(_) | Data::Long(_) | Data::Double(_))) => id,
        _ => return Err(no_request("id is missing, or neither a string nor a number")),
    };
    if take(&mut members, "method") != Some(Data::String("invoke".to_owned())) {
        return Err(Failure::new(NO_METHOD, id, "the method is not invoke"));
    }
    match read_params(members, headers, shown, table) {
        Ok(request) => Ok(Request { id, ..request }),
        Err(failure) => Err(Failure { id, ..failure }),
    }
}

fn read_params(
    mut members: Vec<(String, Data)>,
    headers: &HeaderMap,
    shown: Credentials,
    table: &Table,
) -> Result<Request, Failure> {
    let bad = |message: String| Failure::new(BAD_PARAMS, Data::Null, message);
    let object = |data: Option<Data>, name: &str| match data {
        Some(Data::Struct(None, members)) => Ok(members),
        _ => Err(bad(format!("{name} is missing or no object"))),
    };
    let mut params = object(take(&mut members, "params"), "params")?;
    let text = |data: Option<Data>, name: &str| match data {
        Some(Data::String(text)) => Ok(text),
        _ => Err(bad(format!("{name} is missing or no string"))),
    };
    let service = text(take(&mut params, "serviceId"), "params.serviceId")?;
    let operation = text(take(&mut params, "operationId"), "params.operationId")?;
    let mut context = object(take(&mut params, "ctx"), "params.ctx")?;
    let is_same = |header: &str, id: &str| headers.get(header).map(|value| value.as_bytes()) == Some(id.as_bytes());
    let has_headers = headers.contains_key("vapi-service") || headers.contains_key("vapi-operation");
    if has_headers && !(is_same("vapi-service", &service) && is_same("vapi-operation", &operation)) {
        return Err(Failure::new(
            MISMATCH,
            Data::Null,
            "vapi-service and vapi-operation in the headers differ from the body",
        ));
    }
    let input = match take(&mut params, "input") {
        None | Some(Data::Null) => None,
        Some(data) => Some(typed(data).map_err(bad)?),
    };
    let operation_id = match take(&mut context, "appCtx") {
        Some(Data::Struct(None, mut app)) => match take(&mut app, "opId") {
            Some(Data::String(id)) => Some(id),
            _ => None,
        },
        _ => None,
    };
    let security = match take(&mut context, "securityCtx") {
        None | Some(Data::Null) => None,
        given => Some(object(given, "params.ctx.securityCtx")?),
    };
    let credentials = match security {
        // A session in a header of HTTP replaces the context in the body.
        Some(mut security) if shown.tokens.is_empty() => {
            let scheme = text(take(&mut security, "schemeId"), "params.ctx.securityCtx.schemeId")?;
            let mut member = |name: &str| text(take(&mut security, name), name);
            match scheme.strip_prefix("com.vmware.vapi.std.security.") {
                Some("user_pass") => {
                    let basic = Basic { user: member("userName")?, password: Secret(member("password")?) };
                    Ok(Credentials { basic: Some(basic), ..Credentials::default() })
                }
                Some("session_id") => Ok(Credentials { tokens: vec![member("sessionId")?], ..Credentials::default() }),
                Some("no_authentication") => Ok(shown),
                _ => Err(Error::unauthenticated()),
            }
        }
        Some(_) | None => Ok(shown),
    };
    let operation = table.find(&service, &operation);
    Ok(Request { id: Data::Null, operation, input, credentials, operation_id })
}

fn take(members: &mut Vec<(String, Data)>, name: &str) -> Option<Data> {
    let at = members.iter().position(|(known, _)| known == name)?;
    Some(members.swap_remove(at).1)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use lockstep_contract::services::session;

    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        table.register(session::Get, async |_, _| Err(Error::internal()));
        table
    }

    const PARAMS: &str = r#"{"serviceId":"com.vmware.cis.session","operationId":"get","input":{"STRUCTURE":{"operation-input":{}}},"ctx":{"appCtx":{"opId":"op-1"}}}"#;

    fn ask(body: &str, headers: &[(&str, &str)]) -> Result<Request, Failure> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        read(body.as_bytes(), &map, Credentials::default(), &table())
    }

    #[test]
    fn a_failure_has_the_code_and_the_id_that_clients_expect() {
        let check = |body: &str, code: i32, id: Data| {
            let failure = ask(body, &[]).err().unwrap_or_else(|| panic!("{body} was accepted"));
            assert_eq!((failure.code, failure.id), (code, id), "{body}: {}", failure.message);
        };
        let text = |id: &str| Data::String(id.to_owned());
        let with = |params: &str| format!(r#"{{"jsonrpc":"2.0","method":"invoke","id":"0","params":{params}}}"#);
        check("", -32700, Data::Null);
        check("{", -32700, Data::Null);
        check(r#"{"id":1,"id":2}"#, -32700, Data::Null);
        check("[]", -32600, Data::Null);
        check(&format!("[{}]", with(PARAMS)), -32600, Data::Null);
        check("7", -32600, Data::Null);
        check(r#"{"id":"0","method":"invoke","params":{}}"#, -32600, Data::Null);
        check(r#"{"jsonrpc":"1.0","id":"0"}"#, -32600, Data::Null);
        check(r#"{"jsonrpc":"2.0","method":"invoke"}"#, -32600, Data::Null);
        check(r#"{"jsonrpc":"2.0","method":"invoke","id":null}"#, -32600, Data::Null);
        check(r#"{"jsonrpc":"2.0","method":"invoke","id":{}}"#, -32600, Data::Null);
        check(r#"{"jsonrpc":"2.0","method":"other","id":3}"#, -32601, Data::Long(3));
        check(r#"{"jsonrpc":"2.0","id":1.5}"#, -32601, Data::Double(1.5));
        check(r#"{"jsonrpc":"2.0","method":"invoke","id":"x"}"#, -32602, text("x"));
        check(&with("[]"), -32602, text("0"));
        check(&with(r#"{"operationId":"get","ctx":{}}"#), -32602, text("0"));
        check(&with(r#"{"serviceId":7,"operationId":"get","ctx":{}}"#), -32602, text("0"));
        check(&with(r#"{"serviceId":"s","operationId":"get"}"#), -32602, text("0"));
        check(&with(r#"{"serviceId":"s","operationId":"get","ctx":[]}"#), -32602, text("0"));
        check(&with(r#"{"serviceId":"s","operationId":"get","ctx":{"securityCtx":7}}"#), -32602, text("0"));
        check(&with(r#"{"serviceId":"s","operationId":"get","ctx":{"securityCtx":{}}}"#), -32602, text("0"));
        for input in [
            r#"{"OTHER":1}"#,
            r#"{"STRUCTURE":{}}"#,
            r#"{"STRUCTURE":{"a":{},"b":{}}}"#,
            r#"{"SECRET":"a","OPTIONAL":null}"#,
            "{}",
        ] {
            check(
                &with(&format!(r#"{{"serviceId":"s","operationId":"o","ctx":{{}},"input":{input}}}"#)),
                -32602,
                text("0"),
            );
        }
    }

    #[test]
    fn ids_in_headers_must_equal_the_body() {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"invoke","id":"0","params":{PARAMS}}}"#);
        let both = [("vapi-service", "com.vmware.cis.session"), ("vapi-operation", "get")];
        let request = ask(&body, &both).map_err(|f| f.message).unwrap();
        assert_eq!(
            (request.operation, request.operation_id.as_deref(), request.id),
            (Some(0), Some("op-1"), Data::String("0".to_owned()))
        );
        assert!(ask(&body, &[]).is_ok());
        for wrong in [("vapi-service", "com.vmware.cis.other"), ("vapi-operation", "")] {
            let wrong = [both[0], both[1], wrong];
            assert_eq!(ask(&body, &wrong).err().map(|f| f.code), Some(-31001));
        }
        assert_eq!(ask(&body, &both[..1]).err().map(|f| f.code), Some(-31001));
    }

    #[test]
    fn the_security_context_says_who_asks() {
        let credentials = |security: &str, shown: Credentials| {
            let params = PARAMS.replace(r#""appCtx""#, &format!(r#""securityCtx":{security},"appCtx""#));
            let body = format!(r#"{{"jsonrpc":"2.0","method":"invoke","id":"0","params":{params}}}"#);
            read(body.as_bytes(), &HeaderMap::new(), shown, &table()).map_err(|f| f.message).unwrap().credentials
        };
        let scheme = |name: &str, more: &str| format!(r#"{{"schemeId":"com.vmware.vapi.std.security.{name}"{more}}}"#);
        let none = Credentials::default;
        let session = scheme("session_id", r#","sessionId":"t1""#);
        assert_eq!(credentials(&session, none()).unwrap().tokens, ["t1"]);
        let header = || Credentials { tokens: vec!["h".to_owned()], ..none() };
        assert_eq!(credentials(&session, header()).unwrap().tokens, ["h"]);
        let basic =
            credentials(&scheme("user_pass", r#","userName":"u","password":"p""#), none()).unwrap().basic.unwrap();
        assert_eq!((&*basic.user, &*basic.password.0), ("u", "p"));
        assert!(credentials(&scheme("no_authentication", ""), none()).unwrap().basic.is_none());
        assert!(credentials("null", none()).unwrap().tokens.is_empty());
        for refused in ["saml_bearer_token", "saml_hok_token", "oauth", "other"] {
            assert_eq!(credentials(&scheme(refused, ""), none()).err(), Some(Error::unauthenticated()), "{refused}");
        }
    }

    #[test]
    fn a_missing_input_is_the_operations_to_refuse_and_an_unknown_operation_is_not_a_failure() {
        let body = r#"{"jsonrpc":"2.0","method":"invoke","id":9,"params":{"serviceId":"no","operationId":"no","ctx":{},"input":null}}"#;
        let request = ask(body, &[]).map_err(|f| f.message).unwrap();
        assert!(request.operation.is_none() && request.input.is_none());
        let failure = Failure::new(NO_METHOD, Data::String("a\"b".to_owned()), "it's \"x\"");
        let Body::Pieces([text, ..]) = failure.response().into_body() else { panic!("no text") };
        assert_eq!(text, r#"{"jsonrpc":"2.0","id":"a\"b","error":{"code":-32601,"message":"it's \"x\""}}"#);
    }
}
