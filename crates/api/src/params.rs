//! Parameters in a URL, read as the types that the operation declares.
//!
//! Text has no types of its own, so the declaration says what `5` or `true` is. Text that does not fit its type stays text: the
//! decoder then refuses it and names the field, as it does for a body.
//!
//! Source: `api/vapi-wire.md`, 3.3.

use lockstep_contract::{Data, Error, Operation, StructDef, Type};

/// Most parts of a dotted name: what a structure can nest to.
const PARTS_MAX: usize = 32;

/// Takes percent-encoding off; in a query `+` is a blank.
///
/// # Errors
/// `invalid_request` for a `%` without two hex digits, and for what is not UTF-8.
pub(crate) fn decode(text: &str, is_query: bool) -> Result<String, Error> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Ok(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                match (digit(), digit()) {
                    // Two hex digits fit a byte.
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(Error::invalid_request("a % in the URL is not followed by two hex digits")),
                }
            }
            b'+' if is_query => b' ',
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| Error::invalid_request("the URL is not UTF-8"))
}

/// The parameters of a query string, in order. Those with an empty value count as absent.
///
/// # Errors
/// As [`decode`].
pub(crate) fn pairs(query: &str) -> Result<Vec<(String, String)>, Error> {
    let mut out = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !value.is_empty() {
            out.push((decode(name, true)?, decode(value, true)?));
        }
    }
    Ok(out)
}

/// The part of the operation's input that stands in the URL's query.
///
/// # Errors
/// `invalid_request` for names that contradict each other.
pub(crate) fn from_query(operation: &Operation, pairs: Vec<(String, String)>) -> Result<Vec<(String, Data)>, Error> {
    let renamed = operation.rest.map_or(&[][..], |rest| rest.query);
    let mut root = Vec::new();
    for (name, value) in pairs {
        let path = renamed.iter().find(|(query, _)| *query == name).map_or(&*name, |(_, field)| field);
        if path.split('.').count() > PARTS_MAX {
            return Err(Error::invalid_request(format!("a parameter's name has more than {PARTS_MAX} parts")));
        }
        let is_new = insert(&mut root, path, value);
        if !is_new {
            return Err(Error::invalid_request(format!("parameter {name} is both a value and a structure")));
        }
    }
    let def = (operation.input)();
    Ok(root.into_iter().map(|(name, node)| typed_field(def, name, node)).collect())
}

/// The value of a parameter in the URL's path.
pub(crate) fn from_path(operation: &Operation, name: &str, value: String) -> Data {
    match (operation.input)().fields.iter().find(|field| field.name == name) {
        Some(field) => scalar((field.ty)(), value),
        None => Data::String(value),
    }
}

/// What a name stands for: values, or more names below it.
enum Node {
    Values(Vec<String>),
    Names(Vec<(String, Node)>),
}

/// Puts a value under a dotted name; false when the name stands for the other kind of node already.
fn insert(names: &mut Vec<(String, Node)>, path: &str, value: String) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let at = names.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
        let empty = if rest.is_some() { Node::Names(Vec::new()) } else { Node::Values(Vec::new()) };
        names.push((first.to_owned(), empty));
        names.len() - 1
    });
    match (&mut names[at].1, rest) {
        (Node::Values(values), None) => {
            values.push(value);
            true
        }
        (Node::Names(below), Some(rest)) => insert(below, rest, value),
        (Node::Values(_), Some(_)) | (Node::Names(_), None) => false,
    }
}

fn typed_field(def: &StructDef, name: String, node: Node) -> (String, Data) {
    let ty = def.fields.iter().find(|field| field.name == name).map_or(Type::String, |field| (field.ty)());
    (name, typed(ty, node))
}

fn typed(ty: Type, node: Node) -> Data {
    match (ty, node) {
        (Type::Optional(inner), node) => typed(inner(), node),
        (Type::List(element), Node::Values(values)) => {
            Data::List(values.into_iter().map(|value| scalar(element(), value)).collect())
        }
        // Positions: `names.1=a&names.2=b`.
        (Type::List(element), Node::Names(names)) => positions(names, |node| typed(element(), node)),
        (Type::Map(element), Node::Names(names)) => positions(names, |node| match node {
            Node::Names(entry) => Data::object(entry.into_iter().map(|(name, node)| {
                let ty = if name == "value" { element() } else { Type::String };
                (name, typed(ty, node))
            })),
            node @ Node::Values(_) => typed(Type::String, node),
        }),
        (Type::Struct(def), Node::Names(names)) => {
            Data::object(names.into_iter().map(|(name, node)| typed_field(def, name, node)))
        }
        (_, Node::Names(names)) => {
            Data::object(names.into_iter().map(|(name, node)| (name, typed(Type::String, node))))
        }
        (ty, Node::Values(mut values)) => match (values.pop(), values.is_empty()) {
            (Some(value), true) => scalar(ty, value),
            // Several values where one belongs: the decoder refuses a list and names the field.
            (last, _) => Data::List(values.into_iter().chain(last).map(Data::String).collect()),
        },
    }
}

/// A list by positions from 1; with names that are no positions an object, which the decoder refuses.
fn positions(names: Vec<(String, Node)>, element: impl Fn(Node) -> Data) -> Data {
    let mut numbered = Vec::with_capacity(names.len());
    let mut others = Vec::new();
    for (name, node) in names {
        match name.parse::<u32>() {
            Ok(position @ 1..) => numbered.push((position, element(node))),
            Ok(0) | Err(_) => others.push((name, element(node))),
        }
    }
    if !others.is_empty() {
        return Data::object(others);
    }
    numbered.sort_by_key(|(position, _)| *position);
    Data::List(numbered.into_iter().map(|(_, data)| data).collect())
}

fn scalar(ty: Type, text: String) -> Data {
    let parsed = match ty {
        Type::Optional(inner) => return scalar(inner(), text),
        Type::Boolean if text.eq_ignore_ascii_case("true") => Some(Data::Boolean(true)),
        Type::Boolean if text.eq_ignore_ascii_case("false") => Some(Data::Boolean(false)),
        Type::Long => text.parse().ok().map(Data::Long),
        Type::Double => text.parse().ok().map(Data::Double),
        Type::Boolean
        | Type::String
        | Type::Secret
        | Type::DateTime
        | Type::Binary
        | Type::Opaque
        | Type::Void
        | Type::List(_)
        | Type::Map(_)
        | Type::Enum(_)
        | Type::Struct(_) => None,
    };
    parsed.unwrap_or(Data::String(text))
}

#[cfg(test)]
mod tests {
    use lockstep_contract::{Declared, Fault, Map, Method, Place, Rest, Wire, operation, structure};

    use super::*;

    structure! {
        /// A filter.
        pub struct Filter = "test.filter" {
            /// Names.
            names: Option<Vec<String>>,
            /// A number.
            above: Option<i64>,
        }
    }
    structure! {
        /// Parameters.
        pub struct Input = "operation-input" {
            /// A filter.
            filter: Option<Filter>,
            /// Filters.
            filters: Option<Vec<Filter>>,
            /// Tags.
            tags: Option<Map<i64>>,
            /// A ratio.
            ratio: Option<f64>,
            /// A claim.
            on: Option<bool>,
            /// Text.
            text: Option<String>,
        }
    }
    operation! {
        /// For tests.
        pub Test = "test.service"."list"(Input) -> (),
        errors: [],
        privilege: Read,
        rest: Rest { query: &[("rsrcs", "filter.names")], ..Rest::new(Method::Get, "/test", 200) },
    }

    fn read(query: &str) -> Result<Input, String> {
        let fields = pairs(query).and_then(|pairs| from_query(&Test::OPERATION, pairs)).map_err(|e| e.to_string())?;
        Input::decode(Data::object(fields), &Place::root(lockstep_contract::Encoding::Plain)).map_err(|e| e.to_string())
    }

    #[test]
    fn dotted_flat_repeated_and_numbered_names_are_read_by_type() {
        let names = |n: &[&str]| Some(n.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let filter = |query: &str| read(query).unwrap().filter.unwrap();
        assert_eq!(filter("filter.names=a&filter.names=b").names, names(&["a", "b"]));
        assert_eq!(filter("filter.names.2=b&filter.names.1=a&filter.names.10=j").names, names(&["a", "b", "j"]));
        assert_eq!(
            filter("rsrcs=a%20b&rsrcs=c+d&filter.above=7"),
            Filter { names: names(&["a b", "c d"]), above: Some(7) }
        );
        let filters = read("filters.1.above=1&filters.2.above=2").unwrap().filters.unwrap();
        assert_eq!(filters.iter().map(|f| f.above).collect::<Vec<_>>(), [Some(1), Some(2)]);
        assert_eq!(read("tags.1.key=k&tags.1.value=5").unwrap().tags, Some(Map(vec![("k".to_owned(), 5)])));
        let input = read("ratio=1e-1&on=TRUE&text=12").unwrap();
        assert_eq!((input.ratio, input.on, input.text.as_deref()), (Some(0.1), Some(true), Some("12")));
        assert_eq!(read("text=&on=&&=").unwrap(), read("").unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refused = |query: &str, part: &str| {
            let error = read(query).unwrap_err();
            assert!(error.contains(part), "{query}: {error}");
        };
        refused("filter.above=x", "filter.above: expected a whole number");
        refused("filter.above=1&filter.above=2", "filter.above: expected a whole number of 64 bits, found a list");
        refused("on=yes", "on: expected true or false");
        refused("ratio=inf", "ratio");
        refused("other=1", "other is not a field");
        refused("filter.other=1", "filter.other is not a field");
        refused("text.below=1", "text: expected a string, found an object");
        refused("filter.names.x=1", "filter.names: expected a list");
        refused("filter=1&filter.above=1", "both a value and a structure");
        refused("text=%f", "two hex digits");
        refused("text=%ff", "not UTF-8");
        refused(&format!("{}=1", "a.".repeat(40)), "parts");
    }

    #[test]
    fn a_path_parameter_may_hold_anything() {
        assert_eq!(decode("a%2Fb+c%00", false).unwrap(), "a/b+c\0");
        assert_eq!(from_path(&Test::OPERATION, "text", "5".to_owned()), Data::String("5".to_owned()));
        assert_eq!(from_path(&Test::OPERATION, "ratio", "5".to_owned()), Data::Double(5.0));
        let fault = Input::decode(Data::Null, &Place::root(lockstep_contract::Encoding::Plain));
        assert!(matches!(fault, Err(Fault::Invalid { .. })));
    }
}
