//! The columns of a type, as a tree: structures branch, lists have elements, leaves are columns.
//!
//! A structure's fields stand at the slot of the structure. A list's elements have slots of their own; which ones belong
//! to which slot of the list says its [`Spans`].

use std::collections::BTreeMap;

use lockstep_model::{Kind, Name, Property, Value};

use crate::leaf::{At, Leaf, Store};
use crate::numbers::CodeVec;
use crate::space::{Row, Spaces};
use crate::value::{ListRef, ListSource, StructRef, ValueRef};

/// A property of a type, or a field of a structure.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) secret: bool,
    pub(crate) node: Node,
}

/// Where the values of a property are.
#[derive(Debug)]
pub(crate) enum Node {
    Leaf(Box<Leaf>),
    Struct(Vec<Field>),
    List(Box<List>),
}

/// A property that is a list.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) spans: Spans,
    /// The elements; never a list itself.
    pub(crate) element: Node,
}

/// Which elements belong to which slot.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    starts: Vec<u32>,
    /// Lengths + 1; 0 is unset, 1 an empty list.
    lengths: CodeVec,
    /// Spans that were given up, by their room.
    free: BTreeMap<u32, Vec<u32>>,
    end: u32,
}

/// How many elements are kept free for a list of `len`: none for short ones, which most are; up to half for long ones, so
/// that a list that grows by one again and again leaves room behind that others can take.
fn room(len: u32) -> u32 {
    if len <= 4 { len } else { len.next_power_of_two() }
}

impl Spans {
    /// The elements at a slot; `None` when the list is unset.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<(u32, u32)> {
        let len = self.lengths.get(slot).checked_sub(1)?;
        let start = if len == 0 { 0 } else { self.starts.get(slot as usize).copied().unwrap_or_default() };
        Some((start, start + len))
    }

    fn give_up(&mut self, slot: u32) {
        if let Some((start, end)) = self.get(slot)
            && end > start
        {
            self.free.entry(room(end - start)).or_default().push(start);
        }
        self.lengths.set(slot, 0);
    }

    /// Finds elements for a list of `len`; the first of them.
    fn take(&mut self, slot: u32, len: u32) -> u32 {
        self.lengths.set(slot, len + 1);
        if len == 0 {
            return 0;
        }
        let room = room(len);
        let start = match self.free.get_mut(&room).and_then(Vec::pop) {
            Some(start) => start,
            None => {
                let start = self.end;
                self.end += room;
                start
            }
        };
        if self.starts.len() <= slot as usize {
            self.starts.resize(slot as usize + 1, 0);
        }
        self.starts[slot as usize] = start;
        start
    }

    fn bytes(&self) -> usize {
        self.starts.len() * 4 + self.lengths.bytes() + self.free.values().map(|v| v.capacity() * 4 + 40).sum::<usize>()
    }
}

impl Node {
    pub(crate) fn new(property: &Property, spaces: &mut Spaces) -> Self {
        let element = match Leaf::new(&property.kind, spaces) {
            Some(leaf) => Self::Leaf(Box::new(leaf)),
            None => Self::Struct(match &property.kind {
                Kind::Struct { fields } => fields.iter().map(|f| Field::new(f, spaces)).collect(),
                _ => Vec::new(),
            }),
        };
        if property.list { Self::List(Box::new(List { spans: Spans::default(), element })) } else { element }
    }

    fn fits(&self, property: &Property, spaces: &Spaces) -> bool {
        let element = match (self, property.list) {
            (Self::List(list), true) => &list.element,
            (Self::List(_), false) | (_, true) => return false,
            (node, false) => node,
        };
        match (element, &property.kind) {
            (Self::Leaf(leaf), kind) => leaf.fits(kind, spaces),
            // Outside lists the fields are looked at one by one; inside, a list is taken as it is or not at all.
            (Self::Struct(fields), Kind::Struct { fields: declared }) => {
                let known =
                    |p: &Property| fields.iter().find(|f| f.name == p.name).is_none_or(|f| f.node.fits(p, spaces));
                !property.list || declared.iter().all(known)
            }
            (Self::Struct(_) | Self::List(_), _) => false,
        }
    }

    fn fields_mut(&mut self) -> Option<&mut Vec<Field>> {
        match self {
            Self::Struct(fields) => Some(fields),
            Self::List(list) => list.element.fields_mut(),
            Self::Leaf(_) => None,
        }
    }

    /// The value at a slot; `None` when it is unset.
    #[inline]
    pub(crate) fn value<'v>(&'v self, slot: u32, spaces: &'v Spaces, secrets: bool) -> Option<ValueRef<'v>> {
        match self {
            Self::Leaf(leaf) => leaf.value(slot, spaces),
            Self::Struct(fields) => {
                let fields = StructRef { spaces, fields, slot, secrets };
                (!fields.is_empty()).then_some(ValueRef::Struct(fields))
            }
            Self::List(list) => {
                let (from, to) = list.spans.get(slot)?;
                Some(ValueRef::List(ListRef(ListSource::Stored { spaces, element: &list.element, from, to, secrets })))
            }
        }
    }

    /// An element of a list, which is there even if it is a structure in which nothing is set.
    pub(crate) fn element<'v>(&'v self, slot: u32, spaces: &'v Spaces, secrets: bool) -> Option<ValueRef<'v>> {
        match self {
            Self::Struct(fields) => Some(ValueRef::Struct(StructRef { spaces, fields, slot, secrets })),
            Self::Leaf(_) | Self::List(_) => self.value(slot, spaces, secrets),
        }
    }

    /// Reads a little of each value, see [`Leaf::touch`].
    pub(crate) fn touch(&self, slots: &[u32], spaces: &Spaces) {
        match self {
            Self::Leaf(leaf) => leaf.touch(slots, spaces),
            Self::Struct(fields) => fields.iter().for_each(|field| field.node.touch(slots, spaces)),
            Self::List(list) => {
                let elements: Vec<u32> =
                    slots.iter().filter_map(|&slot| list.spans.get(slot)).flat_map(|(from, to)| from..to).collect();
                list.element.touch(&elements, spaces);
            }
        }
    }

    /// Sets or unsets everything below the slot; whether all of the value was taken.
    pub(crate) fn set(&mut self, at: &At, value: Option<&Value>, spaces: &mut Spaces) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.set(at, value, spaces),
            Self::Struct(fields) => {
                let values = match value {
                    Some(Value::Struct(values)) => &values[..],
                    _ => &[],
                };
                set_fields(fields, at, values, spaces) & !matches!(value, Some(v) if !matches!(v, Value::Struct(_)))
            }
            Self::List(list) => {
                let List { spans, element } = &mut **list;
                if let Some((from, to)) = spans.get(at.slot) {
                    for slot in from..to {
                        element.set(&At { slot, owner: at.owner }, None, spaces);
                    }
                    spans.give_up(at.slot);
                }
                match value {
                    None => true,
                    Some(Value::List(values)) => {
                        let start = spans.take(at.slot, values.len() as u32);
                        let slots = (start..).zip(values);
                        slots.fold(true, |all, (slot, value)| {
                            element.set(&At { slot, owner: at.owner }, Some(value), spaces) & all
                        })
                    }
                    Some(_) => false,
                }
            }
        }
    }

    /// Calls back for every column.
    pub(crate) fn each_leaf(&mut self, f: &mut dyn FnMut(&mut Leaf)) {
        match self {
            Self::Leaf(leaf) => f(leaf),
            Self::Struct(fields) => fields.iter_mut().for_each(|field| field.node.each_leaf(f)),
            Self::List(list) => list.element.each_leaf(f),
        }
    }

    /// Bytes of the texts, of the other values, and of the indexes.
    pub(crate) fn bytes(&self) -> (usize, usize, usize) {
        match self {
            Self::Leaf(leaf) => leaf.bytes(),
            Self::Struct(fields) => {
                fields.iter().map(|f| f.node.bytes()).fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2))
            }
            Self::List(list) => {
                let (texts, values, indexes) = list.element.bytes();
                (texts, values + list.spans.bytes(), indexes)
            }
        }
    }
}

impl Field {
    fn new(property: &Property, spaces: &mut Spaces) -> Self {
        Self { name: property.name.clone(), secret: property.secret, node: Node::new(property, spaces) }
    }
}

/// Sets the fields that `values` names and unsets the others; whether all of them were taken.
pub(crate) fn set_fields(fields: &mut [Field], at: &At, values: &[(Name, Value)], spaces: &mut Spaces) -> bool {
    let mut taken = 0;
    // Both sides are in the order of the model, so the next value mostly belongs to the next field.
    let mut guess = 0;
    for field in fields {
        let is_it = |(name, _): &&(Name, Value)| Name::ptr_eq(name, &field.name) || *name == field.name;
        let value = values.get(guess).filter(is_it).or_else(|| values.iter().find(is_it)).map(|(_, value)| value);
        if value.is_some() {
            guess += 1;
        }
        taken += usize::from(field.node.set(at, value, spaces) && value.is_some());
    }
    taken == values.len()
}

/// Makes the fields what the model declares. What holds values of another kind is made anew, with the values that fit;
/// `rows` are the resources.
pub(crate) fn declare(fields: &mut Vec<Field>, properties: &[Property], spaces: &mut Spaces, rows: &[Row]) {
    for property in properties {
        match fields.iter_mut().find(|f| f.name == property.name) {
            None => fields.push(Field::new(property, spaces)),
            Some(field) => {
                field.secret = property.secret;
                if !field.node.fits(property, spaces) {
                    let mut node = Node::new(property, spaces);
                    for &owner in rows {
                        let at = At { slot: owner.row, owner };
                        let value = field.node.value(owner.row, spaces, true).map(|v| v.to_value());
                        node.set(&at, value.as_ref(), spaces);
                        field.node.set(&at, None, spaces);
                    }
                    field.node = node;
                } else if let (Kind::Struct { fields: inner }, Some(fields)) = (&property.kind, field.node.fields_mut())
                {
                    // Rows are slots only outside lists; inside, all fields that are there fit.
                    let rows = if property.list { &[] } else { rows };
                    declare(fields, inner, spaces, rows);
                }
            }
        }
    }
    let place = |field: &Field| properties.iter().position(|p| p.name == field.name).unwrap_or(usize::MAX);
    fields.sort_by_cached_key(place);
}

/// Declares what a document holds and no model does, as far as its values tell: a document may be loaded before the model
/// of its type. What is there already for other documents stays as it is where the values fit it.
pub(crate) fn infer(there: &[Field], name: &Name, value: &Value, spaces: &Spaces) -> Property {
    let field = there.iter().find(|f| f.name == *name);
    let (values, list) = match value {
        Value::List(values) => (&values[..], true),
        value => (std::slice::from_ref(value), false),
    };
    let element = match field.map(|f| &f.node) {
        Some(Node::List(inner)) if list => Some(&inner.element),
        Some(node @ (Node::Leaf(_) | Node::Struct(_))) if !list => Some(node),
        _ => None,
    };
    let kind = match (values.first(), element) {
        (Some(Value::Struct(_)), element) => {
            let there = match element {
                Some(Node::Struct(fields)) => &fields[..],
                _ => &[],
            };
            let mut fields: Vec<Property> = there.iter().map(|f| f.describe(spaces)).collect();
            for value in values {
                let Value::Struct(found) = value else { continue };
                for (name, value) in found {
                    let property = infer(there, name, value, spaces);
                    match fields.iter_mut().find(|f| f.name == *name) {
                        // An empty list says nothing of its elements.
                        Some(known) if !matches!(value, Value::List(v) if v.is_empty()) => *known = property,
                        Some(_) => {}
                        None => fields.push(property),
                    }
                }
            }
            Kind::Struct { fields }
        }
        (None, Some(element)) => element.kind(spaces),
        (Some(Value::String(_)), Some(Node::Leaf(leaf))) if matches!(leaf.store, Store::Instant(_)) => Kind::DateTime,
        (Some(Value::Boolean(_)), _) => Kind::Boolean,
        (Some(Value::Long(_)), _) => Kind::Long,
        (Some(Value::Double(_)), _) => Kind::Double,
        (Some(Value::Id(_)), _) => Kind::Id { targets: Vec::new(), parent: false },
        (Some(Value::String(_) | Value::List(_)) | None, _) => Kind::String,
    };
    Property { name: name.clone(), kind, list, secret: false }
}

impl Field {
    /// The declaration that makes such a field.
    pub(crate) fn describe(&self, spaces: &Spaces) -> Property {
        let list = matches!(self.node, Node::List(_));
        Property { name: self.name.clone(), kind: self.node.kind(spaces), list, secret: self.secret }
    }
}

impl Node {
    /// The kind of the value, or of each element.
    fn kind(&self, spaces: &Spaces) -> Kind {
        match self {
            Self::Leaf(leaf) => leaf.kind(spaces),
            Self::Struct(fields) => Kind::Struct { fields: fields.iter().map(|f| f.describe(spaces)).collect() },
            Self::List(list) => list.element.kind(spaces),
        }
    }
}
