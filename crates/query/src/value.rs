//! Values as they stand in a view: borrowed, not copied.

use lockstep_model::{Name, Value};

use crate::instants::DateTimeText;
use crate::node::{Field, Node};
use crate::space::Spaces;

/// One value of a resource, borrowed from the view.
#[derive(Clone)]
pub enum ValueRef<'v> {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Long(i64),
    /// A finite number.
    Double(f64),
    /// Text.
    Str(&'v str),
    /// A date_time, to be written as text.
    DateTime(DateTimeText),
    /// The identity of a resource.
    Id {
        /// Its type.
        resource_type: &'v str,
        /// Its id.
        id: &'v str,
    },
    /// Values in order.
    List(ListRef<'v>),
    /// Named fields.
    Struct(StructRef<'v>),
}

impl ValueRef<'_> {
    /// A copy that owns what it holds. A date_time becomes a string.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Boolean(v) => Value::Boolean(*v),
            Self::Long(v) => Value::Long(*v),
            Self::Double(v) => Value::Double(*v),
            Self::Str(v) => Value::String((*v).into()),
            Self::DateTime(v) => Value::String(v.as_str().into()),
            Self::Id { resource_type, id } => lockstep_model::ResourceId::new(*resource_type, *id).into(),
            Self::List(list) => Value::List(list.iter().map(|v| v.to_value()).collect()),
            Self::Struct(fields) => {
                Value::Struct(fields.iter_named().map(|(n, v)| (n.clone(), v.to_value())).collect())
            }
        }
    }
}

/// The values of a list.
#[derive(Clone)]
pub struct ListRef<'v>(pub(crate) ListSource<'v>);

#[derive(Clone)]
pub(crate) enum ListSource<'v> {
    /// A list as it is stored.
    Stored { spaces: &'v Spaces, element: &'v Node, from: u32, to: u32, secrets: bool },
    /// Values that a path collected.
    Gathered(Vec<ValueRef<'v>>),
}

impl<'v> ListRef<'v> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            ListSource::Stored { from, to, .. } => (to - from) as usize,
            ListSource::Gathered(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = ValueRef<'v>> + '_ {
        (0..self.len()).filter_map(move |i| match &self.0 {
            ListSource::Stored { spaces, element, from, secrets, .. } => {
                element.element(from + i as u32, spaces, *secrets)
            }
            ListSource::Gathered(values) => values.get(i).cloned(),
        })
    }
}

/// The fields of a structure that are set.
#[derive(Clone, Copy)]
pub struct StructRef<'v> {
    pub(crate) spaces: &'v Spaces,
    pub(crate) fields: &'v [Field],
    pub(crate) slot: u32,
    /// Whether secret fields are shown: only to the house itself.
    pub(crate) secrets: bool,
}

impl<'v> StructRef<'v> {
    /// The fields with their names, in the order the model declares.
    pub fn iter(&self) -> impl Iterator<Item = (&'v str, ValueRef<'v>)> + 'v {
        self.iter_named().map(|(name, value)| (&**name, value))
    }

    pub(crate) fn iter_named(&self) -> impl Iterator<Item = (&'v Name, ValueRef<'v>)> + 'v {
        let Self { spaces, fields, slot, secrets } = *self;
        let shown = fields.iter().filter(move |f| secrets || !f.secret);
        shown.filter_map(move |f| Some((&f.name, f.node.value(slot, spaces, secrets)?)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.iter_named().next().is_none()
    }
}
