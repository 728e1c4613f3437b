//! From plain JSON to a document that fits its type.
//!
//! The model guides the reading: text becomes typed values in one pass, names are shared with the model instead of
//! copied, and what does not fit is refused with the path of the property that does not.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{
    Document, ID_BYTES_MAX, Instant, Kind, LIST_ITEMS_MAX, Name, Property, ResourceId, ResourceType, STRING_BYTES_MAX,
    Value,
};

/// The visits that find something else where an object or a list was declared.
macro_rules! misfits {
    ($expected:literal) => {
        misfits!(@ $expected, visit_bool: bool => "a boolean", visit_i64: i64 => "a number", visit_u64: u64 => "a number", visit_f64: f64 => "a number",
            visit_str: &str => "a string");

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Err(self.failure.set(MisfitReason::WrongKind { expected: $expected.into(), found: "null".into() }))
        }
    };
    (@ $expected:literal, $($visit:ident: $ty:ty => $found:literal),*) => {
        $(fn $visit<E: Error>(self, _: $ty) -> Result<Self::Value, E> {
            Err(self.failure.set(MisfitReason::WrongKind { expected: $expected.into(), found: $found.into() }))
        })*
    };
}

/// A document or a value that does not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if path.is_empty() { String::new() } else { format!("property {path}: ") })]
pub struct Misfit {
    /// The property, as `name`, `struct/field` or `list[3]/field`; empty when the document itself is at fault.
    pub path: String,
    /// What is wrong with it.
    pub reason: MisfitReason,
}

/// What is wrong with a property.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MisfitReason {
    /// The type's models declare no such property.
    #[error("no model of the type declares it")]
    Unknown,
    /// The property stands in the document twice.
    #[error("it stands there twice")]
    Duplicate,
    /// A value of another kind.
    #[error("expected {expected}, found {found}")]
    WrongKind {
        /// What the model declares, in words.
        expected: String,
        /// What came, in words.
        found: String,
    },
    /// A number that cannot be stored.
    #[error("the number is outside the range of {0}")]
    OutOfRange(&'static str),
    /// A date_time that is none.
    #[error("{0:?} is not a date_time of the form YYYY-MM-DDThh:mm:ssZ")]
    NotAnInstant(String),
    /// An identifier of a type that the property may not point to.
    #[error("it points to a {found}, expected {expected}")]
    WrongTarget {
        /// The types it may point to.
        expected: String,
        /// The type that came.
        found: String,
    },
    /// A string or list beyond the limit.
    #[error("it is longer than {limit} {unit}")]
    TooLong {
        /// The limit.
        limit: usize,
        /// Of what.
        unit: &'static str,
    },
    /// `null` as an element of a list.
    #[error("null in a list")]
    NullElement,
    /// The text is no JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
}

/// Where a failed reading leaves its reason and the way back up to the document.
#[derive(Default)]
struct Failure {
    reason: RefCell<Option<MisfitReason>>,
    /// From the innermost outwards.
    path: RefCell<Vec<String>>,
}

impl Failure {
    fn set<E: Error>(&self, reason: MisfitReason) -> E {
        *self.reason.borrow_mut() = Some(reason);
        E::custom("misfit")
    }

    /// Passes an error on, and notes that it happened below `part`.
    fn below<E: Error>(&self, part: impl FnOnce() -> String, error: E) -> E {
        // serde_json's words for 1e999; a value that does not fit like any other to the caller.
        if self.reason.borrow().is_none() && error.to_string().starts_with("number out of range") {
            *self.reason.borrow_mut() = Some(MisfitReason::OutOfRange("a double"));
        }
        if self.reason.borrow().is_some() {
            self.path.borrow_mut().push(part());
        }
        error
    }

    fn into_misfit(self, error: impl fmt::Display) -> Misfit {
        let mut path = String::new();
        for part in self.path.into_inner().iter().rev() {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('/');
            }
            path.push_str(part);
        }
        let reason = self.reason.into_inner().unwrap_or_else(|| MisfitReason::Syntax(error.to_string()));
        Misfit { path, reason }
    }
}

/// Reads a whole document whose properties are declared by `properties`.
pub(crate) fn document(properties: &[Property], json: &str) -> Result<Document, Misfit> {
    let failure = Failure::default();
    let mut reader = serde_json::Deserializer::from_str(json);
    let read = Fields { properties, failure: &failure }
        .deserialize(&mut reader)
        .and_then(|fields| reader.end().map(|()| fields));
    read.map(Document::new).map_err(|e| failure.into_misfit(e))
}

/// Reads a document out of the middle of a longer text. An error of the text itself is passed on as it is; what does not fit is
/// told in `misfit` as well.
pub(crate) fn document_within<'de, D: Deserializer<'de>>(
    properties: &[Property],
    d: D,
    misfit: &mut Option<Misfit>,
) -> Result<Document, D::Error> {
    let failure = Failure::default();
    match (Fields { properties, failure: &failure }).deserialize(d) {
        Ok(fields) => Ok(Document::new(fields)),
        Err(error) => {
            if failure.reason.borrow().is_some() {
                *misfit = Some(failure.into_misfit(&error));
            }
            Err(error)
        }
    }
}

/// Reads one value of `property`; `None` for `null` and for a structure in which nothing is set.
pub(crate) fn value(property: &Property, json: &str) -> Result<Option<Value>, Misfit> {
    let failure = Failure::default();
    let mut reader = serde_json::Deserializer::from_str(json);
    let read = Optional { property, failure: &failure }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    read.map_err(|e| failure.into_misfit(e))
}

/// The members of an object, as fields.
struct Fields<'a> {
    properties: &'a [Property],
    failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Vec<(Name, Value)>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<(Name, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of properties")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { properties, failure } = self;
        // Filled as the members come, without a place kept for each property: documents are read by the million.
        let mut fields = Vec::with_capacity(properties.len());
        let mut seen = Seen::new(properties.len());
        let mut is_in_order = true;
        // Writers list properties in a stable order, mostly the model's: look where the last one left off.
        let mut guess = 0;
        while let Some(found) = map.next_key_seed(KeyOf { properties, guess })? {
            let at = match found {
                Ok(at) => at,
                Err(unknown) => {
                    let error = failure.set(MisfitReason::Unknown);
                    return Err(failure.below(|| unknown, error));
                }
            };
            let property = &properties[at];
            is_in_order &= at >= guess;
            guess = at + 1;
            if !seen.insert(at) {
                let error = failure.set(MisfitReason::Duplicate);
                return Err(failure.below(|| property.name.to_string(), error));
            }
            let value = map
                .next_value_seed(Optional { property, failure })
                .map_err(|e| failure.below(|| property.name.to_string(), e))?;
            fields.extend(value.map(|value| (property.name.clone(), value)));
        }
        if !is_in_order {
            fields.sort_by_cached_key(|(name, _)| properties.iter().position(|p| p.name == *name));
        }
        if fields.len() < fields.capacity() / 2 {
            fields.shrink_to_fit();
        }
        Ok(fields)
    }

    misfits!("a structure");

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Err(self.failure.set(MisfitReason::WrongKind { expected: "a structure".into(), found: "a list".into() }))
    }
}

/// Which properties a document has named. The first 128 are marked without an allocation; few types have more.
struct Seen {
    first: u128,
    more: Vec<bool>,
}

impl Seen {
    fn new(properties: usize) -> Self {
        Self { first: 0, more: vec![false; properties.saturating_sub(128)] }
    }

    /// Marks a property; whether it was not marked before.
    fn insert(&mut self, at: usize) -> bool {
        match at.checked_sub(128) {
            None => {
                let before = self.first;
                self.first |= 1 << at;
                self.first != before
            }
            Some(at) => !std::mem::replace(&mut self.more[at], true),
        }
    }
}

/// Finds the property that a member's name means, without copying the name.
struct KeyOf<'a> {
    properties: &'a [Property],
    guess: usize,
}

impl<'de> DeserializeSeed<'de> for KeyOf<'_> {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf<'_> {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a property name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        if self.properties.get(self.guess).is_some_and(|p| &*p.name == name) {
            return Ok(Ok(self.guess));
        }
        let found = self.properties.iter().position(|p| &*p.name == name);
        Ok(found.ok_or_else(|| name.chars().take(200).collect()))
    }
}

/// The value of a property, or `None` for `null` and for a structure in which nothing is set.
#[derive(Clone, Copy)]
struct Optional<'a> {
    property: &'a Property,
    failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Optional<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Optional<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        let Self { property, failure } = self;
        if property.list {
            d.deserialize_any(Elements { property, failure }).map(Some)
        } else {
            One { kind: &property.kind, failure }.deserialize(d)
        }
    }
}

/// The elements of a list.
struct Elements<'a> {
    property: &'a Property,
    failure: &'a Failure,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Self { property, failure } = self;
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(16));
        let seed = One { kind: &property.kind, failure };
        loop {
            let next = seq.next_element_seed(seed).map_err(|e| failure.below(|| format!("[{}]", items.len()), e))?;
            let Some(item) = next else { return Ok(Value::List(items.into())) };
            // A structure without a set member keeps its place: elements go by their order.
            items.push(item.unwrap_or_else(|| Value::Struct(Box::default())));
            if items.len() > LIST_ITEMS_MAX {
                return Err(failure.set(MisfitReason::TooLong { limit: LIST_ITEMS_MAX, unit: "elements" }));
            }
        }
    }

    misfits!("a list");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Err(self.failure.set(MisfitReason::WrongKind { expected: "a list".into(), found: "an object".into() }))
    }
}

/// One value that is no list. `None` only for a structure in which nothing is set.
#[derive(Clone, Copy)]
struct One<'a> {
    kind: &'a Kind,
    failure: &'a Failure,
}

impl One<'_> {
    fn wrong<E: Error>(&self, found: impl Into<String>) -> E {
        let expected = match self.kind {
            Kind::Long => "a whole number",
            Kind::Double => "a number",
            Kind::Boolean => "true or false",
            Kind::String => "a string",
            Kind::DateTime => "a date_time as a string",
            Kind::Id { .. } => "a resource id {\"type\": …, \"id\": …}",
            Kind::Struct { .. } => "a structure",
        };
        self.failure.set(MisfitReason::WrongKind { expected: expected.to_owned(), found: found.into() })
    }
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Self::Value, E> {
        match self.kind {
            Kind::Boolean => Ok(Some(Value::Boolean(v))),
            _ => Err(self.wrong("a boolean")),
        }
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Self::Value, E> {
        match self.kind {
            Kind::Long => Ok(Some(Value::Long(v))),
            Kind::Double => Ok(Some(Value::Double(v as f64))),
            _ => Err(self.wrong("a number")),
        }
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Self::Value, E> {
        match (self.kind, i64::try_from(v)) {
            (Kind::Long, Ok(v)) => Ok(Some(Value::Long(v))),
            (Kind::Long, Err(_)) => Err(self.failure.set(MisfitReason::OutOfRange("a long"))),
            (Kind::Double, _) => Ok(Some(Value::Double(v as f64))),
            _ => Err(self.wrong("a number")),
        }
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Self::Value, E> {
        match self.kind {
            Kind::Double if v.is_finite() => Ok(Some(Value::Double(v))),
            Kind::Double => Err(self.failure.set(MisfitReason::OutOfRange("a double"))),
            Kind::Long if v.fract() == 0.0 && v.abs() >= 9e18 => {
                Err(self.failure.set(MisfitReason::OutOfRange("a long")))
            }
            _ => Err(self.wrong("a number with a fraction")),
        }
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
        if v.len() > STRING_BYTES_MAX {
            return Err(self.failure.set(MisfitReason::TooLong { limit: STRING_BYTES_MAX, unit: "bytes" }));
        }
        match self.kind {
            Kind::String => Ok(Some(Value::String(v.into()))),
            Kind::DateTime if Instant::parse(v).is_some() => Ok(Some(Value::String(v.into()))),
            Kind::DateTime => Err(self.failure.set(MisfitReason::NotAnInstant(v.chars().take(64).collect()))),
            _ => Err(self.wrong("a string")),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Err(self.failure.set(MisfitReason::NullElement))
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Err(self.wrong("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        match self.kind {
            Kind::Struct { fields } => {
                let inner = Fields { properties: fields, failure: self.failure }.visit_map(map)?;
                Ok((!inner.is_empty()).then(|| Value::Struct(inner.into())))
            }
            Kind::Id { targets, .. } => self.resource_id(targets, map).map(Some),
            _ => {
                let mut map = map;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Err(self.wrong("an object"))
            }
        }
    }
}

impl One<'_> {
    fn resource_id<'de, A: MapAccess<'de>>(self, targets: &[ResourceType], mut map: A) -> Result<Value, A::Error> {
        // Borrowed from the text: a document has some ten references, and their types are the model's own copies in the end.
        let (mut resource_type, mut id) = (None::<Cow<'de, str>>, None::<Cow<'de, str>>);
        while let Some(member) = map.next_key::<IdMember>()? {
            let (slot, name) = match member {
                IdMember::Type => (&mut resource_type, "type"),
                IdMember::Id => (&mut id, "id"),
                IdMember::Other => return Err(self.wrong("an object with other members")),
            };
            match map.next_value::<IdPart<'de>>()? {
                IdPart(Some(text)) if !text.is_empty() && text.len() <= ID_BYTES_MAX => *slot = Some(text),
                IdPart(_) => {
                    return Err(self.wrong(format!("one whose {name} is no string of 1 to {ID_BYTES_MAX} bytes")));
                }
            }
        }
        let (Some(resource_type), Some(id)) = (resource_type, id) else {
            return Err(self.wrong("an object without type or id"));
        };
        let known = targets.iter().find(|t| t.as_str() == &*resource_type).cloned();
        if known.is_none() && !targets.is_empty() {
            let expected = targets.iter().map(ResourceType::as_str).collect::<Vec<_>>().join(" or ");
            return Err(self.failure.set(MisfitReason::WrongTarget { expected, found: resource_type.into_owned() }));
        }
        let resource_type = known.unwrap_or_else(|| ResourceType::new(&*resource_type));
        let id = id.into();
        Ok(Value::Id(Box::new(ResourceId { resource_type, id })))
    }
}

/// The members of a resource id.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum IdMember {
    Type,
    Id,
    #[serde(other)]
    Other,
}

/// The value of such a member; `None` for what is no string.
struct IdPart<'de>(Option<Cow<'de, str>>);

impl<'de> Deserialize<'de> for IdPart<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(IdPartVisitor)
    }
}

struct IdPartVisitor;

impl<'de> Visitor<'de> for IdPartVisitor {
    type Value = IdPart<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(IdPart(Some(Cow::Borrowed(v))))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(IdPart(Some(Cow::Owned(v.to_owned()))))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(IdPart(None))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(IdPart(None))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(IdPart(None))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(IdPart(None))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(IdPart(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(IdPart(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(IdPart(None))
    }
}
