//! The input of an operation, gathered from a REST request's path, query and body.
//!
//! Source: `api/vapi-wire.md`, 3.1 to 3.3.

use bytes::Bytes;
use lockstep_contract::{Data, Encoding, Error, Operation, xml};

use crate::negotiate::Format;
use crate::params;
use crate::router::Found;

/// The input of `operation` as `found` in the URL and in `body`, which is empty when there is none.
///
/// # Errors
/// `invalid_request` for a body that cannot be read, `invalid_argument` for a field that path, query and body give differently.
pub(crate) fn input(
    operation: &Operation,
    found: Found,
    body: Bytes,
    format: Format,
) -> Result<(Data, Encoding), Error> {
    let encoding = if format.is_xml() { Encoding::Xml } else { Encoding::Plain };
    let in_path = found.in_path.into_iter().map(|(name, value)| {
        let value = params::from_path(operation, &name, value);
        (name, value)
    });
    let mut fields: Vec<(String, Data)> = in_path.collect();
    for (name, value) in params::from_query(operation, found.in_query)? {
        add(&mut fields, name, value)?;
    }
    if let (Format::Bytes, Some(name)) = (format, operation.bytes_parameter()) {
        add(&mut fields, name.to_owned(), Data::Bytes(body))?;
    } else if !body.is_empty() {
        for (name, value) in read_body(operation, &body, format)? {
            add(&mut fields, name, value)?;
        }
    }
    Ok((Data::object(fields), encoding))
}

fn add(fields: &mut Vec<(String, Data)>, name: String, value: Data) -> Result<(), Error> {
    match fields.iter().find(|(known, _)| *known == name) {
        None => fields.push((name, value)),
        // Said twice and alike, or not said here.
        Some((_, known)) if *known == value || value == Data::Null => {}
        Some(_) => {
            let message = "the URL and the body give different values";
            return Err(Error::invalid_argument("lockstep.input.conflict", &name, message));
        }
    }
    Ok(())
}

/// The parameters in a body: by name, or the one that is the body itself. Both are taken wherever they can be told apart.
fn read_body(operation: &Operation, body: &[u8], format: Format) -> Result<Vec<(String, Data)>, Error> {
    let data = if format.is_xml() {
        let (root, _, namespace) = operation.xml_root();
        xml::read(body, &root, &namespace).map_err(Error::invalid_request)?
    } else {
        Data::from_request(body).map_err(|e| Error::invalid_request(format!("malformed JSON: {e}")))?
    };
    let bare = operation.rest.and_then(|rest| rest.body).filter(|_| !format.is_xml());
    match (bare, data) {
        (Some(name), Data::Struct(None, fields)) if matches!(&fields[..], [(only, _)] if only == name) => Ok(fields),
        (Some(name), data) => Ok(vec![(name.to_owned(), data)]),
        (None, Data::Struct(None, fields)) => Ok(fields),
        (None, other) => Err(Error::invalid_request(format!("the body is {}, not an object", other.kind_name()))),
    }
}

#[cfg(test)]
mod tests {
    use lockstep_contract::Declared;
    use lockstep_contract::services::{accounts, models, resource_model, resources};

    use super::*;
    use crate::router::{Space, Target};

    fn read(operation: &Operation, path: &[(&str, &str)], query: &str, body: &str) -> Result<String, String> {
        let found = Found {
            target: Target::Operation(0, Space::Current),
            in_path: path.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            in_query: params::pairs(query).unwrap(),
        };
        input(operation, found, Bytes::copy_from_slice(body.as_bytes()), Format::Json)
            .map(|(data, _)| data.to_json())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn fields_come_from_path_query_and_body() {
        let delete = &resources::Delete::OPERATION;
        let path = [("type", "5"), ("id", "true")];
        let all = r#"{"type":"5","id":"true","cascade":true,"expected_position":7}"#;
        assert_eq!(read(delete, &path, "cascade=true&expected_position=7", "").unwrap(), all);
        assert_eq!(read(delete, &path, "", r#"{"cascade":true,"expected_position":7}"#).unwrap(), all);
        assert_eq!(
            read(delete, &path, "cascade=TRUE", r#"{"id":"true","type":null,"cascade":true,"expected_position":7}"#)
                .unwrap(),
            all
        );
        assert_eq!(read(delete, &[], "", "").unwrap(), "{}");
        let set = &accounts::Set::OPERATION;
        let conflict = read(set, &[("user", "a")], "", r#"{"user":"b"}"#).unwrap_err();
        assert!(conflict.contains("user: the URL and the body"), "{conflict}");
    }

    #[test]
    fn a_parameter_that_is_the_body_may_be_named_too() {
        let register = &models::Register::OPERATION;
        let expected = r#"{"definition":{"name":"m"}}"#;
        assert_eq!(read(register, &[], "", r#"{"name":"m"}"#).unwrap(), expected);
        assert_eq!(read(register, &[], "", expected).unwrap(), expected);
        assert_eq!(read(register, &[], "", "[]").unwrap(), r#"{"definition":[]}"#);
    }

    #[test]
    fn a_body_of_bytes_is_taken_as_it_is() {
        use lockstep_contract::{Binary, Method, Place, Rest, Wire, operation, structure};
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
        let read = |query: &str, body: &'static [u8], format: Format| {
            let found = Found {
                target: Target::Operation(0, Space::Current),
                in_path: vec![("name".to_owned(), "n".to_owned())],
                in_query: params::pairs(query).unwrap(),
            };
            let (data, encoding) = input(&Put::OPERATION, found, Bytes::from_static(body), format).unwrap();
            Input::decode(data, &Place::root(encoding))
                .map(|input| (input.count, input.frame.0.to_vec()))
                .map_err(|e| e.to_string())
        };
        assert_eq!(read("count=7", b"\0{\xff", Format::Bytes).unwrap(), (Some(7), b"\0{\xff".to_vec()));
        assert_eq!(read("", b"", Format::Bytes).unwrap(), (None, Vec::new()));
        assert_eq!(read("", b"\"AAE=\"", Format::Json).unwrap(), (None, vec![0, 1]));
        assert!(read("other=1", b"x", Format::Bytes).unwrap_err().contains("other"));
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        let query = &resource_model::Query::OPERATION;
        for (body, part) in
            [("[]", "a list"), ("null", "null"), ("7", "number"), ("{", "JSON"), ("{}{}", "JSON"), ("\u{0}", "JSON")]
        {
            let error = read(query, &[], "", body).unwrap_err();
            assert!(error.contains(part), "{body}: {error}");
        }
        let found = Found { target: Target::Rpc, in_path: Vec::new(), in_query: Vec::new() };
        let xml = input(query, found, Bytes::from_static(b"<Query-Input/>"), Format::Xml).unwrap_err();
        assert!(xml.to_string().contains("namespace"), "{xml}");
    }
}
