//! Values off the wire, before the declared type says what they mean.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::fmt;

/// Deepest nesting of a body, in JSON or XML levels. A deeper one is an `invalid_request`.
///
/// The typed encoding of a query's deepest filter, 32 compositions of 8 levels each, fits in it.
pub const DEPTH_MAX: usize = 300;

/// Most values in a request's body of JSON. A tree takes some 60 bytes a value, and a value two bytes of text: without a limit of its own
/// a body within its limit of bytes could take thirty times as much memory.
pub const VALUES_MAX: usize = 1_000_000;

/// A tree of values. Which variants occur depends on the encoding it was read from.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// `null`, or an XML element with `xsi:nil`.
    Null,
    /// A boolean.
    Boolean(bool),
    /// A whole number of 64 bits with a sign.
    Long(i64),
    /// A number with a point or an exponent, or a whole number beyond 64 bits.
    Double(f64),
    /// A string. XML has only these: the type decides what the text means.
    String(String),
    /// `{"SECRET": …}` of the typed encoding.
    Secret(String),
    /// `{"BINARY": …}` of the typed encoding, still in base64.
    Binary(String),
    /// Bytes as they are: a body that is a binary alone.
    Bytes(Bytes),
    /// `{"OPTIONAL": …}` of the typed encoding.
    Optional(Option<Box<Data>>),
    /// A list.
    List(Vec<Data>),
    /// An object; with its canonical name in the typed encoding.
    Struct(Option<String>, Vec<(String, Data)>),
}

/// What a body was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// JSON without type names: REST.
    Plain,
    /// JSON with the words STRUCTURE, OPTIONAL and the like: JSON-RPC.
    Typed,
    /// XML.
    Xml,
}

impl Data {
    /// An object without a name.
    pub fn object(fields: impl IntoIterator<Item = (String, Data)>) -> Self {
        Self::Struct(None, fields.into_iter().collect())
    }

    /// The member `name` of an object.
    pub fn member(&self, name: &str) -> Option<&Data> {
        match self {
            Self::Struct(_, fields) => fields.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// What the value is, in the words of an error message.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Long(_) => "a whole number",
            Self::Double(_) => "a number that is no whole number of 64 bits",
            Self::String(_) => "a string",
            Self::Secret(_) => "a secret",
            Self::Binary(_) | Self::Bytes(_) => "a binary",
            Self::Optional(_) => "an optional",
            Self::List(_) => "a list",
            Self::Struct(..) => "an object",
        }
    }

    /// Reads plain JSON that this side wrote.
    ///
    /// # Errors
    /// Why the text is no JSON: syntax, a repeated member, nesting beyond [`DEPTH_MAX`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        Self::read_json(bytes, usize::MAX)
    }

    /// Reads plain JSON that the other side wrote.
    ///
    /// # Errors
    /// As [`Data::from_json`], and more than [`VALUES_MAX`] values.
    pub fn from_request(bytes: &[u8]) -> Result<Self, String> {
        Self::read_json(bytes, VALUES_MAX)
    }

    fn read_json(bytes: &[u8], values_max: usize) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        // serde_json's own limit is 128 levels; ours is checked by `Tree`, which knows how deep it is.
        reader.disable_recursion_limit();
        let values_left = Cell::new(values_max);
        let tree = Tree { depth: 0, values_left: &values_left };
        let read = tree.deserialize(&mut reader).and_then(|data| reader.end().map(|()| data));
        read.map_err(|e| e.to_string())
    }

    /// The value as plain JSON text: what a model reads properties from.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        use crate::writer::{write_double, write_string};
        match self {
            Self::Null | Self::Optional(None) => out.extend_from_slice(b"null"),
            Self::Boolean(v) => out.extend_from_slice(if *v { b"true" } else { b"false" }),
            Self::Long(v) => out.extend_from_slice(itoa::Buffer::new().format(*v).as_bytes()),
            Self::Double(v) => write_double(out, *v),
            Self::String(v) | Self::Secret(v) | Self::Binary(v) => write_string(out, v),
            Self::Bytes(v) => write_string(out, &STANDARD.encode(v)),
            Self::Optional(Some(v)) => v.write_json(out),
            Self::List(items) => {
                out.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.push(b']');
            }
            Self::Struct(_, fields) => {
                out.push(b'{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_string(out, name);
                    out.push(b':');
                    value.write_json(out);
                }
                out.push(b'}');
            }
        }
    }
}

struct Tree<'c> {
    depth: usize,
    /// How many more values there may be.
    values_left: &'c Cell<usize>,
}

impl Tree<'_> {
    fn deeper<E: de::Error>(&self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        let Some(left) = self.values_left.get().checked_sub(1) else {
            return Err(E::custom(format_args!("more than {VALUES_MAX} values")));
        };
        self.values_left.set(left);
        Ok(Self { depth: self.depth + 1, values_left: self.values_left })
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Data, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Data, E> {
        Ok(Data::Boolean(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Data, E> {
        Ok(Data::Long(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Data, E> {
        Ok(i64::try_from(v).map_or(Data::Double(v as f64), Data::Long))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Data, E> {
        Ok(Data::Double(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Data, E> {
        Ok(Data::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Data, E> {
        Ok(Data::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.deeper()?)? {
            items.push(item);
        }
        Ok(Data::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let mut fields: Vec<(String, Data)> = Vec::new();
        // Objects are small but for maps a client made: beyond a few members a set finds repetitions.
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let repeated = match fields.len() {
                0..16 => fields.iter().any(|(n, _)| *n == name),
                16 => {
                    seen.extend(fields.iter().map(|(n, _)| n.clone()));
                    !seen.insert(name.clone())
                }
                _ => !seen.insert(name.clone()),
            };
            if repeated {
                return Err(de::Error::custom(format_args!("member {name:?} stands there twice")));
            }
            let value = map.next_value_seed(self.deeper()?)?;
            fields.push((name, value));
        }
        Ok(Data::Struct(None, fields))
    }
}

/// Reads the typed encoding out of a JSON tree: every object has one member, one of five words.
///
/// # Errors
/// What is malformed, for JSON-RPC's -32602.
///
/// Source: `api/vapi-wire.md`, 2.2.
pub fn typed(json: Data) -> Result<Data, String> {
    let Data::Struct(_, fields) = json else {
        return match json {
            Data::List(items) => items.into_iter().map(typed).collect::<Result<_, _>>().map(Data::List),
            scalar => Ok(scalar),
        };
    };
    let mut fields = fields.into_iter();
    let (Some((word, value)), None) = (fields.next(), fields.next()) else {
        return Err("an object of a data value has exactly one member".to_owned());
    };
    match (&*word, value) {
        ("OPTIONAL", Data::Null) => Ok(Data::Optional(None)),
        ("OPTIONAL", value) => Ok(Data::Optional(Some(Box::new(typed(value)?)))),
        ("SECRET", Data::String(text)) => Ok(Data::Secret(text)),
        ("BINARY", Data::String(text)) => Ok(Data::Binary(text)),
        ("STRUCTURE" | "ERROR", Data::Struct(_, inner)) => {
            let mut inner = inner.into_iter();
            let (Some((name, Data::Struct(_, fields))), None) = (inner.next(), inner.next()) else {
                return Err(format!("{word} holds exactly one member, an object"));
            };
            let fields = fields.into_iter().map(|(n, v)| typed(v).map(|v| (n, v))).collect::<Result<_, _>>()?;
            Ok(Data::Struct(Some(name), fields))
        }
        (word, _) => Err(format!("{:?} is no data value", word.chars().take(40).collect::<String>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_down_to_the_limit_and_no_deeper() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Data::from_json(nested(DEPTH_MAX).as_bytes()).is_ok());
        let refused = Data::from_json(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err();
        assert!(refused.contains("deeper than"), "{refused}");
        assert!(Data::from_json(nested(100_000).as_bytes()).is_err());
        let wide = format!("[{}1]", "1,".repeat(VALUES_MAX));
        assert!(Data::from_request(wide.as_bytes()).unwrap_err().contains("more than"));
        assert!(Data::from_json(wide.as_bytes()).is_ok());
    }
}
