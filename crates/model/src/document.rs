//! Documents: the properties of one resource, and what changed between two of them.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::value::serialize_fields;
use crate::{Name, Value};

/// The path of what changed in a document: `name` or `struct/field`, without a model.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeafPath(Box<str>);

impl LeafPath {
    /// Takes the text as it is: names joined by `/`.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names from the top down.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for LeafPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LeafPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Borrow<str> for LeafPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// One leaf that differs between two documents. Both sides are kept, so that a change can be undone as well as done.
#[derive(Debug, Clone, PartialEq)]
pub struct LeafChange {
    /// Which leaf.
    pub path: LeafPath,
    /// The value before; `None` when it was unset.
    pub old: Option<Value>,
    /// The value after; `None` when it is unset.
    pub new: Option<Value>,
}

/// The properties of one resource: what is set, in the order in which the model declares it.
#[derive(Clone, PartialEq, Default)]
pub struct Document {
    fields: Vec<(Name, Value)>,
}

impl Document {
    /// A document of these properties. The names must be distinct, and structures not empty.
    pub fn new(fields: Vec<(Name, Value)>) -> Self {
        Self { fields }
    }

    /// The properties that are set.
    pub fn fields(&self) -> &[(Name, Value)] {
        &self.fields
    }

    /// Takes the properties out.
    pub fn into_fields(self) -> Vec<(Name, Value)> {
        self.fields
    }

    /// The value at `name` or `struct/field`; a structure where the path ends at one.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let mut names = path.split('/');
        let first = names.next()?;
        let top = self.fields.iter().find(|(n, _)| &**n == first).map(|(_, v)| v)?;
        names.try_fold(top, |value, name| value.field(name))
    }

    /// Sets the value at `path`, or unsets it; structures on the way are made, and removed when they become empty.
    ///
    /// A value in the way that is no structure is replaced: the caller has checked the path against the model.
    pub fn set(&mut self, path: &str, value: Option<Value>) {
        match value {
            Some(value) => set_in(&mut self.fields, path, value),
            None => unset_in(&mut self.fields, path),
        }
    }

    /// The leaves in which `newer` differs from `self`, sorted by path, none twice.
    pub fn diff(&self, newer: &Document) -> Vec<LeafChange> {
        let mut out = Vec::new();
        diff_fields(&self.fields, &newer.fields, "", &mut out);
        out.sort_by(|a, b| a.path.cmp(&b.path));
        out
    }

    /// All leaves with their values, e.g. to write a table.
    pub fn leaves(&self) -> Vec<(LeafPath, &Value)> {
        let mut out = Vec::new();
        collect_leaves(&self.fields, "", &mut out);
        out
    }
}

/// Plain JSON: an object of the properties.
impl Serialize for Document {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serialize_fields(&self.fields, s)
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.fields.iter().map(|(n, v)| (n, v))).finish()
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") }
}

fn set_in(fields: &mut Vec<(Name, Value)>, path: &str, value: Value) {
    let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let at = fields.iter().position(|(n, _)| &**n == name);
    let value = match rest {
        None => value,
        Some(rest) => {
            let mut inner = match at.map(|i| std::mem::replace(&mut fields[i].1, Value::Boolean(false))) {
                Some(Value::Struct(inner)) => inner.into_vec(),
                _ => Vec::new(),
            };
            set_in(&mut inner, rest, value);
            Value::Struct(inner.into())
        }
    };
    match at {
        Some(i) => fields[i].1 = value,
        None => fields.push((name.into(), value)),
    }
}

fn unset_in(fields: &mut Vec<(Name, Value)>, path: &str) {
    let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(at) = fields.iter().position(|(n, _)| &**n == name) else { return };
    if let Some(rest) = rest {
        let Value::Struct(inner) = &mut fields[at].1 else { return };
        let mut kept = std::mem::take(inner).into_vec();
        unset_in(&mut kept, rest);
        if !kept.is_empty() {
            *inner = kept.into();
            return;
        }
    }
    fields.remove(at);
}

fn diff_fields(old: &[(Name, Value)], new: &[(Name, Value)], at: &str, out: &mut Vec<LeafChange>) {
    for (i, (name, before)) in old.iter().enumerate() {
        // Documents of one type list their properties in one order, so the same place is the first guess.
        let same_place = new.get(i).filter(|(n, _)| n == name);
        let after = same_place.or_else(|| new.iter().find(|(n, _)| n == name)).map(|(_, v)| v);
        diff_value(Some(before), after, at, name, out);
    }
    for (i, (name, after)) in new.iter().enumerate() {
        let known = old.get(i).is_some_and(|(n, _)| n == name) || old.iter().any(|(n, _)| n == name);
        if !known {
            diff_value(None, Some(after), at, name, out);
        }
    }
}

fn diff_value(old: Option<&Value>, new: Option<&Value>, at: &str, name: &str, out: &mut Vec<LeafChange>) {
    let fields = |value: Option<&Value>| match value {
        Some(Value::Struct(fields)) => Some(fields.clone()),
        Some(_) => None,
        None => Some(Box::default()),
    };
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Struct(_)), _) | (_, Some(Value::Struct(_))) => {
            if let (Some(old), Some(new)) = (fields(old), fields(new)) {
                diff_fields(&old, &new, &join(at, name), out);
                return;
            }
        }
        _ => {}
    }
    out.push(LeafChange { path: LeafPath::new(join(at, name)), old: old.cloned(), new: new.cloned() });
}

fn collect_leaves<'a>(fields: &'a [(Name, Value)], at: &str, out: &mut Vec<(LeafPath, &'a Value)>) {
    for (name, value) in fields {
        let path = join(at, name);
        match value {
            Value::Struct(inner) => collect_leaves(inner, &path, out),
            leaf => out.push((LeafPath::new(path), leaf)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document() -> impl Strategy<Value = Document> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Long),
            "[a-c]{0,2}".prop_map(|s| Value::String(s.into())),
            prop::collection::vec(any::<bool>().prop_map(Value::Boolean), 0..3).prop_map(|v| Value::List(v.into())),
        ];
        let inner = prop::collection::btree_map("[x-z]", leaf.clone(), 1..3)
            .prop_map(|m| Value::Struct(m.into_iter().map(|(k, v)| (k.into(), v)).collect()));
        prop::collection::btree_map("[a-d]", prop_oneof![leaf, inner], 0..4)
            .prop_map(|m| Document::new(m.into_iter().map(|(k, v)| (k.into(), v)).collect()))
    }

    fn sorted(mut d: Document) -> Document {
        fn sort(fields: &mut [(Name, Value)]) {
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            for (_, value) in fields {
                if let Value::Struct(inner) = value {
                    sort(inner);
                }
            }
        }
        sort(&mut d.fields);
        d
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_one_document_to_the_other_and_back(old in document(), new in document()) {
            let changes = old.diff(&new);
            let (mut forth, mut back) = (old.clone(), new.clone());
            // Unset first: a leaf may stand where the other document has a structure.
            changes.iter().for_each(|c| { forth.set(c.path.as_str(), None); back.set(c.path.as_str(), None); });
            for c in &changes {
                if c.new.is_some() { forth.set(c.path.as_str(), c.new.clone()); }
                if c.old.is_some() { back.set(c.path.as_str(), c.old.clone()); }
            }
            prop_assert_eq!(sorted(forth), sorted(new.clone()));
            prop_assert_eq!(sorted(back), sorted(old.clone()));
            prop_assert!(old.diff(&old).is_empty());
        }
    }

    #[test]
    fn structures_come_and_go_with_their_fields() {
        let mut d = Document::default();
        d.set("a/b/c", Some(Value::Long(1)));
        assert_eq!(d.get("a/b/c"), Some(&Value::Long(1)));
        assert_eq!(format!("{d:?}"), r#"{"a": {"b":{"c":1}}}"#);
        d.set("a/b/c", None);
        assert_eq!(d, Document::default());
        d.set("a/x", None);
        assert_eq!(d, Document::default());
    }
}
