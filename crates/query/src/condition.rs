//! Filters as they are after checking: paths resolved, comparables brought to the kind of the property.

use std::cmp::Ordering;
use std::ops::Bound;

use lockstep_model::{ResolvedHop, ResourceId, ResourceType};

use crate::instants;
use crate::text_test::Piece;
use crate::value::ValueRef;

/// A path with the text it was asked by.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) text: Box<str>,
    pub(crate) hops: Vec<ResolvedHop>,
}

impl Path {
    pub(crate) fn first_type(&self) -> &ResourceType {
        &self.hops[0].resource_type
    }

    pub(crate) fn is_many(&self) -> bool {
        self.hops.iter().any(|hop| hop.is_many)
    }
}

/// A filter after checking.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    Type(ResourceType),
    Id(ResourceId),
    Property(Box<Predicate>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

/// A condition on the values at a path: one of them must pass the test.
#[derive(Debug, Clone)]
pub(crate) struct Predicate {
    pub(crate) path: Path,
    pub(crate) test: Test,
    /// Operator and comparable as text, for people.
    pub(crate) shown: String,
}

/// What a value must be. The variant goes with the kind of the property.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Long(Range<i64>),
    Double(Range<f64>),
    Boolean(bool),
    /// A date_time, by instant in nanoseconds since 1970.
    Instant(Range<i128>),
    Text(TextTest),
    /// Text, a date_time as it is written, or the id of an identifier.
    Piece(Box<Piece>),
    Id {
        id: ResourceId,
        equal: bool,
    },
    /// The id of an identifier, whatever its type.
    IdPart {
        id: Box<str>,
        equal: bool,
    },
}

/// Numbers that pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Range<T> {
    /// From one to the other, both included; none when they cross.
    Between(T, T),
    /// All but that one.
    Not(T),
}

impl<T: PartialOrd + Copy> Range<T> {
    #[inline]
    pub(crate) fn holds(&self, number: T) -> bool {
        match self {
            Self::Between(low, high) => *low <= number && number <= *high,
            Self::Not(other) => number != *other,
        }
    }

    /// Those that pass both; `None` when that is no range.
    fn and(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Between(a, b), Self::Between(c, d)) => {
                Some(Self::Between(if a < c { *c } else { *a }, if b > d { *d } else { *b }))
            }
            _ => None,
        }
    }
}

/// Texts that pass, compared exactly by code points.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TextTest {
    Equal(Box<str>),
    NotEqual(Box<str>),
    Between(Bound<Box<str>>, Bound<Box<str>>),
}

impl TextTest {
    pub(crate) fn holds(&self, text: &str) -> bool {
        match self {
            Self::Equal(other) => text == &**other,
            Self::NotEqual(other) => text != &**other,
            Self::Between(low, high) => !is_below(text, low) && !is_above(text, high),
        }
    }
}

/// Whether the text is before everything that `low` admits.
pub(crate) fn is_below(text: &str, low: &Bound<Box<str>>) -> bool {
    match low {
        Bound::Included(low) => text < &**low,
        Bound::Excluded(low) => text <= &**low,
        Bound::Unbounded => false,
    }
}

/// Whether the text is after everything that `high` admits.
pub(crate) fn is_above(text: &str, high: &Bound<Box<str>>) -> bool {
    match high {
        Bound::Included(high) => text > &**high,
        Bound::Excluded(high) => text >= &**high,
        Bound::Unbounded => false,
    }
}

impl Test {
    /// Whether a single value passes; a list or a structure does not.
    pub(crate) fn holds(&self, value: &ValueRef<'_>) -> bool {
        match (self, value) {
            (Self::Long(range), ValueRef::Long(v)) => range.holds(*v),
            (Self::Double(range), ValueRef::Double(v)) => range.holds(*v),
            (Self::Boolean(wanted), ValueRef::Boolean(v)) => wanted == v,
            (_, ValueRef::Str(v)) => self.holds_text(v),
            (_, ValueRef::DateTime(v)) => self.holds_text(v.as_str()),
            (Self::Piece(piece), ValueRef::Id { id, .. }) => piece.matches(id),
            (Self::Id { id: other, equal }, ValueRef::Id { resource_type, id }) => {
                (*id == &*other.id && *resource_type == other.resource_type.as_str()) == *equal
            }
            (Self::IdPart { id: other, equal }, ValueRef::Id { id, .. }) => (*id == &**other) == *equal,
            _ => false,
        }
    }

    fn holds_text(&self, text: &str) -> bool {
        match self {
            Self::Instant(range) => instants::parse(text).is_some_and(|instant| range.holds(instant)),
            Self::Text(test) => test.holds(text),
            Self::Piece(piece) => piece.matches(text),
            Self::Long(_) | Self::Double(_) | Self::Boolean(_) | Self::Id { .. } | Self::IdPart { .. } => false,
        }
    }

    /// Both tests of one value as one, where that is possible: a range is then looked up once.
    fn and(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Long(a), Self::Long(b)) => a.and(b).map(Self::Long),
            (Self::Double(a), Self::Double(b)) => a.and(b).map(Self::Double),
            (Self::Instant(a), Self::Instant(b)) => a.and(b).map(Self::Instant),
            (Self::Text(TextTest::Between(a, b)), Self::Text(TextTest::Between(c, d))) => {
                Some(Self::Text(TextTest::Between(tighter(a, c, Ordering::Greater), tighter(b, d, Ordering::Less))))
            }
            _ => None,
        }
    }
}

/// Of two bounds of one side the one that admits less; `toward` is how the tighter of two different texts compares.
fn tighter(a: &Bound<Box<str>>, b: &Bound<Box<str>>, toward: Ordering) -> Bound<Box<str>> {
    let text = |bound: &Bound<Box<str>>| match bound {
        Bound::Included(t) | Bound::Excluded(t) => Some(t.clone()),
        Bound::Unbounded => None,
    };
    let chosen = match (text(a), text(b)) {
        (None, _) => b,
        (_, None) => a,
        (Some(x), Some(y)) if x == y => {
            if matches!(a, Bound::Excluded(_)) {
                a
            } else {
                b
            }
        }
        (Some(x), Some(y)) => {
            if x.cmp(&y) == toward {
                a
            } else {
                b
            }
        }
    };
    chosen.clone()
}

impl Condition {
    /// Joins conditions that must all hold. Ranges on the same path become one, if a resource has one value there at most.
    pub(crate) fn all(conditions: Vec<Condition>) -> Self {
        let mut out: Vec<Condition> = Vec::with_capacity(conditions.len());
        for condition in conditions {
            if let Self::Property(new) = &condition
                && !new.path.is_many()
            {
                let joined = out.iter_mut().find_map(|other| match other {
                    Self::Property(old) if old.path.text == new.path.text => Some((old.test.and(&new.test)?, old)),
                    _ => None,
                });
                if let Some((test, old)) = joined {
                    old.test = test;
                    old.shown = format!("{} and {}", old.shown, new.shown);
                    continue;
                }
            }
            out.push(condition);
        }
        match out.len() {
            1 => out.swap_remove(0),
            _ => Self::All(out),
        }
    }

    /// The types whose resources can match, sorted.
    pub(crate) fn types(&self) -> Vec<ResourceType> {
        let mut types = match self {
            Self::Type(name) => vec![name.clone()],
            Self::Id(id) => vec![id.resource_type.clone()],
            Self::Property(predicate) => vec![predicate.path.first_type().clone()],
            Self::All(conditions) => {
                let mut all = conditions.iter().map(Self::types);
                let first = all.next().unwrap_or_default();
                all.fold(first, |kept, other| kept.into_iter().filter(|t| other.contains(t)).collect())
            }
            Self::Any(conditions) => conditions.iter().flat_map(Self::types).collect(),
        };
        types.sort();
        types.dedup();
        types
    }

    /// The paths of all conditions on properties.
    pub(crate) fn each_path<'a>(&'a self, f: &mut dyn FnMut(&'a Path)) {
        match self {
            Self::Type(_) | Self::Id(_) => {}
            Self::Property(predicate) => f(&predicate.path),
            Self::All(conditions) | Self::Any(conditions) => conditions.iter().for_each(|c| c.each_path(f)),
        }
    }
}
