//! Typed values: how each type is read from [`Data`] and written by a [`Writer`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::types::Type;
use crate::{Data, Encoding, Writer};

/// Where in a request a value stands, as a chain from the value up to the root.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    above: Option<&'a Place<'a>>,
    part: Part<'a>,
    /// What the request was written in.
    pub encoding: Encoding,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Root,
    Field(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    /// The root of a request.
    pub fn root(encoding: Encoding) -> Place<'static> {
        Place { above: None, part: Part::Root, encoding }
    }

    /// The field `name` of the structure here.
    pub fn field<'b>(&'b self, name: &'b str) -> Place<'b> {
        Place { above: Some(self), part: Part::Field(name), encoding: self.encoding }
    }

    /// The element `index` of the list here.
    pub fn item(&self, index: usize) -> Place<'_> {
        Place { above: Some(self), part: Part::Item(index), encoding: self.encoding }
    }

    /// A fault of the value here.
    pub fn invalid(&self, id: &'static str, message: impl Into<String>) -> Fault {
        Fault::Invalid { place: self.to_string(), id, message: message.into() }
    }

    fn expected(&self, what: &str, found: &Data) -> Fault {
        self.invalid("lockstep.input.type", format!("expected {what}, found {}", found.kind_name()))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
            match (above.part, self.part) {
                (_, Part::Item(i)) => write!(f, "[{i}]")?,
                (Part::Root, Part::Field(name)) => f.write_str(name)?,
                (_, Part::Field(name)) => write!(f, ".{name}")?,
                (_, Part::Root) => {}
            }
        }
        Ok(())
    }
}

/// Why a request is not what the operation takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A value that does not fit: `invalid_argument`.
    #[error("{place}: {message}")]
    Invalid {
        /// The field, e.g. `query_spec.sort_criteria[0].property`.
        place: String,
        /// The message's id.
        id: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A field that the operation does not have: `unexpected_input` or, in the legacy generation, `invalid_request`.
    #[error("{place} is not a field of the operation")]
    Unexpected {
        /// The field.
        place: String,
    },
}

/// A type of the contract.
pub trait Wire: Sized {
    /// The type's declaration.
    fn ty() -> Type;

    /// Reads a value.
    ///
    /// # Errors
    /// [`Fault`], naming the field.
    fn decode(data: Data, at: &Place<'_>) -> Result<Self, Fault>;

    /// Writes the value.
    fn encode(&self, w: &mut dyn Writer);

    /// The value of a field that is not there; `None` when the field is required.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether the value is an unset optional.
    fn is_unset(&self) -> bool {
        false
    }
}

/// Takes the field `name` out of a structure's fields and reads it.
///
/// # Errors
/// [`Fault::Invalid`] when a required field is missing or null, or the value does not fit.
pub fn take_field<T: Wire>(fields: &mut Vec<(String, Data)>, name: &'static str, at: &Place<'_>) -> Result<T, Fault> {
    let here = at.field(name);
    let found = fields.iter().position(|(n, _)| n == name).map(|i| fields.swap_remove(i).1);
    match found {
        None => {}
        // Plain encodings write an unset optional as null; the typed one has OPTIONAL for that.
        Some(Data::Null) if at.encoding != Encoding::Typed => {}
        Some(data) => return T::decode(data, &here),
    }
    T::absent().ok_or_else(|| here.invalid("lockstep.input.missing", "the field is required"))
}

/// Refuses fields that are left when all declared ones were taken.
///
/// # Errors
/// [`Fault::Unexpected`] for a field that is set.
pub fn refuse_rest(fields: &[(String, Data)], at: &Place<'_>) -> Result<(), Fault> {
    let set = |data: &Data| !matches!(data, Data::Optional(None));
    match fields.iter().find(|(_, data)| set(data)) {
        Some((name, _)) => Err(Fault::Unexpected { place: at.field(name).to_string() }),
        None => Ok(()),
    }
}

/// The fields of the structure that `data` is.
///
/// # Errors
/// [`Fault::Invalid`] when it is something else, or a structure of another name.
pub fn fields_of(data: Data, name: &str, at: &Place<'_>) -> Result<Vec<(String, Data)>, Fault> {
    match data {
        Data::Struct(Some(found), _) if found != name && name != ANY_NAME => {
            Err(at.invalid("lockstep.input.structure", format!("expected structure {name}, found {found}")))
        }
        Data::Struct(_, fields) => Ok(fields),
        // An XML element without children.
        Data::String(text) if at.encoding == Encoding::Xml && text.trim().is_empty() => Ok(Vec::new()),
        other => Err(at.expected("an object", &other)),
    }
}

/// Accepted for every structure name: what the parameters of an operation are wrapped in has none that matters.
pub const ANY_NAME: &str = "operation-input";

macro_rules! scalar {
    ($rust:ty, $ty:expr, $word:literal, |$v:ident, $w:ident| $encode:expr, $($pattern:pat $(if $guard:expr)? => $value:expr),+ ; $parse:expr) => {
        impl Wire for $rust {
            fn ty() -> Type {
                $ty
            }

            fn decode(data: Data, at: &Place<'_>) -> Result<Self, Fault> {
                if let (Encoding::Xml, Data::String(text)) = (at.encoding, &data) {
                    let parse: fn(&str) -> Option<$rust> = $parse;
                    return parse(text).ok_or_else(|| at.invalid("lockstep.input.type", concat!("expected ", $word)));
                }
                match data {
                    $($pattern $(if $guard)? => Ok($value),)+
                    other => Err(at.expected($word, &other)),
                }
            }

            fn encode(&self, $w: &mut dyn Writer) {
                let $v = self;
                $encode
            }
        }
    };
}

scalar!(bool, Type::Boolean, "true or false", |v, w| w.boolean(*v), Data::Boolean(v) => v;
    |t| match t.trim() { "true" | "1" => Some(true), "false" | "0" => Some(false), _ => None });
scalar!(i64, Type::Long, "a whole number of 64 bits", |v, w| w.long(*v), Data::Long(v) => v; |t| t.trim().parse().ok());
scalar!(f64, Type::Double, "a number", |v, w| w.double(*v), Data::Double(v) if v.is_finite() => v, Data::Long(v) => v as f64;
    |t| t.trim().parse().ok().filter(|v: &f64| v.is_finite()));
scalar!(String, Type::String, "a string", |v, w| w.string(v), Data::String(v) => v; |t| Some(t.to_owned()));

/// A string that must not be logged: passwords and session tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

scalar!(Secret, Type::Secret, "a secret", |v, w| w.secret(&v.0), Data::String(v) => Secret(v), Data::Secret(v) => Secret(v);
    |t| Some(Secret(t.to_owned())));

/// A date_time, `YYYY-MM-DDThh:mm:ss.fffZ`, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DateTime(pub String);

scalar!(DateTime, Type::DateTime, "a date_time", |v, w| w.string(&v.0), Data::String(v) => DateTime(v); |t| Some(DateTime(t.trim().to_owned())));

/// Bytes: base64 in JSON and XML, themselves where the body is nothing else; not copied then.
#[derive(Clone, PartialEq, Eq)]
pub struct Binary(pub Bytes);

impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binary({} bytes)", self.0.len())
    }
}

impl Wire for Binary {
    fn ty() -> Type {
        Type::Binary
    }

    fn decode(data: Data, at: &Place<'_>) -> Result<Self, Fault> {
        let text = match data {
            Data::Binary(text) => text,
            Data::Bytes(bytes) => return Ok(Self(bytes)),
            Data::String(text) if at.encoding != Encoding::Typed => text,
            other => return Err(at.expected("a binary", &other)),
        };
        let bytes =
            STANDARD.decode(text.trim()).map_err(|e| at.invalid("lockstep.input.binary", format!("no base64: {e}")))?;
        Ok(Self(bytes.into()))
    }

    fn encode(&self, w: &mut dyn Writer) {
        w.binary(&self.0);
    }
}

/// Any value.
#[derive(Debug, Clone, PartialEq)]
pub struct Opaque(pub Data);

impl Wire for Opaque {
    fn ty() -> Type {
        Type::Opaque
    }

    fn decode(data: Data, _: &Place<'_>) -> Result<Self, Fault> {
        Ok(Self(data))
    }

    fn encode(&self, w: &mut dyn Writer) {
        encode_data(&self.0, w);
    }
}

fn encode_data(data: &Data, w: &mut dyn Writer) {
    match data {
        Data::Null => w.null(),
        Data::Boolean(v) => w.boolean(*v),
        Data::Long(v) => w.long(*v),
        Data::Double(v) => w.double(*v),
        Data::String(v) | Data::Binary(v) => w.string(v),
        Data::Bytes(v) => w.binary(v),
        Data::Secret(v) => w.secret(v),
        Data::Optional(None) => w.none(),
        Data::Optional(Some(v)) => {
            w.begin_some();
            encode_data(v, w);
            w.end_some();
        }
        Data::List(items) => {
            w.begin_list();
            for item in items {
                w.item();
                encode_data(item, w);
            }
            w.end_list();
        }
        Data::Struct(name, fields) => {
            w.begin_struct(name.as_deref().unwrap_or("lockstep.structure"));
            for (name, value) in fields {
                if w.field(name, false) {
                    encode_data(value, w);
                }
            }
            w.end_struct();
        }
    }
}

impl Wire for () {
    fn ty() -> Type {
        Type::Void
    }

    fn decode(_: Data, _: &Place<'_>) -> Result<Self, Fault> {
        Ok(())
    }

    fn encode(&self, w: &mut dyn Writer) {
        w.null();
    }
}

impl<T: Wire> Wire for Option<T> {
    fn ty() -> Type {
        Type::Optional(T::ty)
    }

    fn decode(data: Data, at: &Place<'_>) -> Result<Self, Fault> {
        match data {
            Data::Optional(None) => Ok(None),
            Data::Optional(Some(inner)) => T::decode(*inner, at).map(Some),
            Data::Null => Ok(None),
            _ if at.encoding == Encoding::Typed => {
                Err(at.invalid("lockstep.input.optional", "a value of an optional field is wrapped in OPTIONAL"))
            }
            bare => T::decode(bare, at).map(Some),
        }
    }

    fn encode(&self, w: &mut dyn Writer) {
        match self {
            None => w.none(),
            Some(value) => {
                w.begin_some();
                value.encode(w);
                w.end_some();
            }
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn ty() -> Type {
        Type::List(T::ty)
    }

    fn decode(data: Data, at: &Place<'_>) -> Result<Self, Fault> {
        let items = match data {
            Data::List(items) => items,
            // An empty XML list.
            Data::String(text) if at.encoding == Encoding::Xml && text.trim().is_empty() => Vec::new(),
            other => return Err(at.expected("a list", &other)),
        };
        items
            .into_iter()
            .enumerate()
            .map(|(i, item)| match item {
                Data::Null => Err(at.item(i).invalid("lockstep.input.null", "null in a list")),
                item => T::decode(item, &at.item(i)),
            })
            .collect()
    }

    fn encode(&self, w: &mut dyn Writer) {
        w.begin_list();
        for item in self {
            w.item();
            item.encode(w);
        }
        w.end_list();
    }
}

impl<T: Wire> Wire for Box<T> {
    fn ty() -> Type {
        T::ty()
    }

    fn decode(data: Data, at: &Place<'_>) -> Result<Self, Fault> {
        T::decode(data, at).map(Box::new)
    }

    fn encode(&self, w: &mut dyn Writer) {
        T::encode(self, w);
    }
}

/// A map with string keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Map<T>(pub Vec<(String, T)>);

impl<T: Wire> Wire for Map<T> {
    fn ty() -> Type {
        Type::Map(T::ty)
    }

    fn decode(data: Data, at: &Place<'_>) -> Result<Self, Fault> {
        let mut entries: Vec<(String, T)> = Vec::new();
        let mut add = |key: String, value: Data| {
            if entries.iter().any(|(k, _)| *k == key) {
                return Err(at.invalid("lockstep.input.key", format!("key {key:?} stands there twice")));
            }
            let value = T::decode(value, &at.field(&key))?;
            entries.push((key, value));
            Ok(())
        };
        match data {
            Data::Struct(None, fields) if at.encoding != Encoding::Typed => {
                for (key, value) in fields {
                    add(key, value)?;
                }
            }
            // The typed encoding and the legacy generation: a list of entries with key and value.
            Data::List(items) => {
                for (i, item) in items.into_iter().enumerate() {
                    let here = at.item(i);
                    let mut fields = fields_of(item, "map-entry", &here)?;
                    let key = take_field::<String>(&mut fields, "key", &here)?;
                    let value = take_field::<Opaque>(&mut fields, "value", &here)?;
                    refuse_rest(&fields, &here)?;
                    add(key, value.0)?;
                }
            }
            other => return Err(at.expected("a map", &other)),
        }
        Ok(Self(entries))
    }

    fn encode(&self, w: &mut dyn Writer) {
        w.begin_map();
        for (key, value) in &self.0 {
            w.entry(key);
            value.encode(w);
            w.end_entry();
        }
        w.end_map();
    }
}
