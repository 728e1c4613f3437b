//! A request under `/api`, made from an operation's declaration.

use bytes::Bytes;
use lockstep_contract::{Data, Operation, PlainJson, Wire};

use crate::error::ClientError;

/// What is sent: free of the site's address and of the login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: http::Method,
    /// From `/api` on, encoded.
    pub(crate) path_and_query: String,
    pub(crate) body: Option<Bytes>,
    /// What the body is written in.
    pub(crate) content_type: &'static str,
}

impl Request {
    /// The request that calls `operation` with `input`, its parameters.
    ///
    /// Parameters go, in this order, where the path names them; into the body, alone when the declaration says so, else as the
    /// members of an object; and for the methods without a body into the query.
    ///
    /// # Errors
    /// [`ClientError::Unaddressable`] for a parameter that the path cannot hold.
    pub(crate) fn new(operation: &Operation, input: &impl Wire) -> Result<Self, ClientError> {
        let Some(rest) = operation.rest else { return Err(ClientError::Unaddressable(operation.full_name())) };
        let bytes = operation.bytes_parameter();
        let (mut fields, aside) = fields(input, bytes.is_some())?;
        let mut path = String::from("/api");
        for part in rest.path.split('/').skip(1) {
            path.push('/');
            match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                None => path.push_str(part),
                Some(name) => push_segment(&mut path, name, &mut fields)?,
            }
        }
        let mut query = Query::default();
        if let Some(action) = rest.action {
            query.push("action", action);
        }
        let method = match rest.method {
            lockstep_contract::Method::Get => http::Method::GET,
            lockstep_contract::Method::Post => http::Method::POST,
            lockstep_contract::Method::Put => http::Method::PUT,
            lockstep_contract::Method::Patch => http::Method::PATCH,
            lockstep_contract::Method::Delete => http::Method::DELETE,
        };
        let has_body = !matches!(rest.method, lockstep_contract::Method::Get | lockstep_contract::Method::Delete);
        let body = match (has_body, rest.body) {
            (true, alone) if bytes.is_some() => {
                for (name, value) in fields.iter().filter(|(name, _)| Some(&**name) != alone) {
                    query.push_data(name, value, rest.query);
                }
                Some(aside)
            }
            (false, _) => {
                for (name, value) in &fields {
                    query.push_data(name, value, rest.query);
                }
                None
            }
            (true, Some(alone)) => {
                fields.iter().find(|(name, _)| name == alone).map(|(_, value)| value.to_json().into())
            }
            (true, None) if fields.is_empty() => None,
            (true, None) => Some(Data::object(fields).to_json().into()),
        };
        let content_type = if bytes.is_some() { "application/octet-stream" } else { "application/json" };
        Ok(Self { method, path_and_query: path + &query.text, body, content_type })
    }
}

type Fields = Vec<(String, Data)>;

/// The parameters as a tree: unset ones are left out. With `sets_aside` the bytes among them come apart.
fn fields(input: &impl Wire, sets_aside: bool) -> Result<(Fields, Bytes), ClientError> {
    let mut json = PlainJson { aside: sets_aside.then(Bytes::new), ..PlainJson::default() };
    input.encode(&mut json);
    let aside = json.aside.unwrap_or_default();
    match Data::from_json(&json.out) {
        Ok(Data::Struct(_, fields)) => Ok((fields, aside)),
        Ok(_) => Ok((Vec::new(), aside)),
        Err(error) => Err(ClientError::Unaddressable(error)),
    }
}

fn push_segment(path: &mut String, name: &str, fields: &mut Fields) -> Result<(), ClientError> {
    let at = fields.iter().position(|(field, _)| field == name);
    let value = at.and_then(|i| scalar(&fields.remove(i).1));
    // A dot or two alone, encoded or not, are steps in a path to every reader of URLs; an empty part is no part.
    match value {
        Some(value) if !matches!(&*value, "" | "." | "..") => {
            encode(path, &value);
            Ok(())
        }
        value => Err(ClientError::Unaddressable(format!("{name} {:?}", value.unwrap_or_default()))),
    }
}

/// The query of a URL, with its question mark.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) text: String,
}

impl Query {
    /// Adds `name=value`.
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        self.text.push(if self.text.is_empty() { '?' } else { '&' });
        encode(&mut self.text, name);
        self.text.push('=');
        encode(&mut self.text, value);
    }

    /// Adds a value: a list repeats the name, the fields of a structure go by dotted names unless `renamed` says otherwise.
    ///
    /// Source: `api/vapi-wire.md`, 3.3.
    fn push_data(&mut self, name: &str, value: &Data, renamed: &[(&str, &str)]) {
        match value {
            Data::List(items) => items.iter().for_each(|item| self.push_data(name, item, renamed)),
            Data::Struct(_, fields) => {
                for (field, value) in fields {
                    self.push_data(&format!("{name}.{field}"), value, renamed);
                }
            }
            value => {
                let name = renamed.iter().find(|(_, field)| *field == name).map_or(name, |(query, _)| query);
                if let Some(text) = scalar(value) {
                    self.push(name, &text);
                }
            }
        }
    }
}

fn scalar(value: &Data) -> Option<String> {
    match value {
        Data::String(text) | Data::Secret(text) => Some(text.clone()),
        Data::Boolean(_) | Data::Long(_) | Data::Double(_) => Some(value.to_json()),
        Data::Null | Data::Binary(_) | Data::Bytes(_) | Data::Optional(_) | Data::List(_) | Data::Struct(..) => None,
    }
}

/// Appends `text` with everything but the unreserved characters of RFC 3986 encoded.
fn encode(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_contract::services::{NoInput, models, resource_model, resources, session};
    use lockstep_contract::{Declared, Opaque};

    fn check<O: Declared>(_: O, input: &O::Input, method: &str, path_and_query: &str, body: Option<&str>) {
        let request = Request::new(&O::OPERATION, input).unwrap();
        assert_eq!(request.method.as_str(), method);
        assert_eq!(request.path_and_query, path_and_query);
        assert_eq!(request.body.map(|b| String::from_utf8(b.to_vec()).unwrap()).as_deref(), body);
    }

    #[test]
    fn parameters_go_where_the_declaration_says() {
        check(session::Create, &NoInput {}, "POST", "/api/session", None);
        check(session::Delete, &NoInput {}, "DELETE", "/api/session", None);
        check(
            resources::Get,
            &resources::GetInput { resource_type: "com.acme.Person".into(), id: "a b/ü%?#".into() },
            "GET",
            "/api/lockstep/resources/com.acme.Person/a%20b%2F%C3%BC%25%3F%23",
            None,
        );
        check(
            resources::List,
            &resources::ListInput { resource_type: "Tag".into(), after: Some("x&y".into()), limit: Some(10) },
            "GET",
            "/api/lockstep/resources/Tag?after=x%26y&limit=10",
            None,
        );
        check(
            resources::Delete,
            &resources::DeleteInput {
                resource_type: "Tag".into(),
                id: "t".into(),
                expected_position: None,
                cascade: Some(true),
            },
            "DELETE",
            "/api/lockstep/resources/Tag/t?cascade=true",
            None,
        );
        check(
            resources::Patch,
            &resources::PatchInput {
                resource_type: "Tag".into(),
                id: "t".into(),
                properties: Opaque(Data::object([("a/b".to_owned(), Data::Null), ("c".to_owned(), Data::Double(2.0))])),
                expected_position: Some(7),
            },
            "PATCH",
            "/api/lockstep/resources/Tag/t",
            Some(r#"{"properties":{"a/b":null,"c":2.0},"expected_position":7}"#),
        );
        check(
            models::Register,
            &models::RegisterInput {
                definition: Opaque(Data::object([("name".to_owned(), Data::String("M".into()))])),
            },
            "POST",
            "/api/lockstep/models",
            Some(r#"{"name":"M"}"#),
        );
    }

    #[test]
    fn an_action_stands_in_the_query() {
        let spec = resource_model::QuerySpec {
            resource_filter: resource_model::ResourceFilter {
                filter_type: resource_model::FilterType::Type,
                resource_type: Some("Tag".into()),
                resource_id: None,
                property_filter: None,
                composite_filter: None,
            },
            property_spec: vec![],
            sort_criteria: None,
            offset: None,
            limit: None,
            compute_total_item_count: None,
        };
        check(
            resource_model::Query,
            &resource_model::QueryInput { query_spec: spec },
            "POST",
            "/api/cis/data/legacy/resource-model?action=query",
            Some(
                r#"{"query_spec":{"resource_filter":{"filter_type":"TYPE","resource_type":"Tag"},"property_spec":[]}}"#,
            ),
        );
    }

    #[test]
    fn bytes_that_are_the_body_are_sent_as_they_are() {
        use lockstep_contract::{Binary, Method, Rest, operation, structure};
        structure! {
            /// Parameters.
            pub struct Input = "operation-input" {
                /// A name.
                name: String,
                /// A number.
                count: Option<i64>,
                /// Bytes.
                frame: Binary,
            }
        }
        operation! {
            /// For tests.
            pub Put = "test.frames"."put"(Input) -> (),
            errors: [],
            privilege: Read,
            rest: Rest::new(Method::Put, "/test/{name}", 204).body("frame"),
        }
        let input = Input { name: "a b".into(), count: Some(7), frame: Binary(vec![0, 0xff].into()) };
        let request = Request::new(&Put::OPERATION, &input).unwrap();
        assert_eq!(request.path_and_query, "/api/test/a%20b?count=7");
        assert_eq!((request.body.as_deref(), request.content_type), (Some(&[0, 0xff][..]), "application/octet-stream"));
    }

    #[test]
    fn what_a_path_cannot_hold_is_refused() {
        for id in ["", ".", ".."] {
            let input = resources::GetInput { resource_type: "Tag".into(), id: id.into() };
            let error = Request::new(&resources::Get::OPERATION, &input).unwrap_err();
            assert!(matches!(error, ClientError::Unaddressable(_)), "{error}");
        }
    }

    #[test]
    fn lists_repeat_the_name_and_structures_are_dotted() {
        let mut query = Query::default();
        let names = Data::List(vec![Data::String("a".into()), Data::String("b".into())]);
        query.push_data(
            "filter",
            &Data::object([("names".to_owned(), names), ("max".to_owned(), Data::Long(3))]),
            &[("most", "filter.max")],
        );
        assert_eq!(query.text, "?filter.names=a&filter.names=b&most=3");
    }
}
