//! Values out of elements, in the spelling of the inventory.

use lockstep_model::Instant;
use serde_json::{Map, Value, json};

use super::Scope;
use crate::element::Element;
use crate::object::ObjectRef;

/// Longest text that is kept, in bytes: an annotation may be long, and the models refuse what is longer still.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A document in the making.
#[derive(Debug, Default)]
pub(crate) struct Values(Map<String, Value>);

impl Values {
    /// Sets the value at `name` or `struct/field`; none leaves it unset.
    pub(crate) fn set(&mut self, path: &str, value: Option<Value>) {
        let Some(value) = value else { return };
        let mut names = path.split('/').peekable();
        let mut at = &mut self.0;
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                at.insert(name.to_owned(), value);
                return;
            }
            let inner = at.entry(name).or_insert_with(|| Value::Object(Map::new()));
            match inner {
                Value::Object(fields) => at = fields,
                _ => return,
            }
        }
    }

    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.0
    }
}

/// The text of an element; none for an empty one.
pub(crate) fn text(element: &Element) -> Option<Value> {
    let mut end = element.text.len().min(TEXT_BYTES_MAX);
    while !element.text.is_char_boundary(end) {
        end -= 1;
    }
    (end > 0).then(|| Value::from(&element.text[..end]))
}

pub(crate) fn text_at(element: &Element, path: &str) -> Option<Value> {
    element.at(path).and_then(text)
}

pub(crate) fn long(element: &Element) -> Option<Value> {
    element.text.trim().parse::<i64>().ok().map(Value::from)
}

pub(crate) fn long_at(element: &Element, path: &str) -> Option<Value> {
    element.at(path).and_then(long)
}

pub(crate) fn boolean(element: &Element) -> Option<Value> {
    crate::element::boolean(element.text.trim()).map(Value::from)
}

pub(crate) fn boolean_at(element: &Element, path: &str) -> Option<Value> {
    element.at(path).and_then(boolean)
}

pub(crate) fn instant(element: &Element) -> Option<Value> {
    let text = element.text.trim();
    Instant::parse(text).map(|_| Value::from(text))
}

/// A word of an enumeration there, as `UPPER_SNAKE`: `poweredOn` is `POWERED_ON`.
pub(crate) fn word(element: &Element) -> Option<Value> {
    let text = element.text.trim();
    (!text.is_empty()).then(|| Value::from(upper_snake(text)))
}

/// A camel-case word in upper case with underscores; digits begin a part of their own, and go on with the letters behind them.
pub(crate) fn upper_snake(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    let mut before = '_';
    for c in text.chars() {
        let begins = c.is_uppercase() && (before.is_lowercase() || before.is_numeric())
            || c.is_numeric() && before.is_alphabetic();
        if begins {
            out.push('_');
        }
        out.extend(if c == '-' { '_' } else { c }.to_uppercase());
        before = c;
    }
    out
}

/// The resource that a reference points to, as a value.
pub(crate) fn id_of(scope: &Scope<'_>, object: &ObjectRef) -> Option<Value> {
    let id = scope.ids.resource(object)?;
    Some(json!({"type": id.resource_type.as_str(), "id": id.id}))
}

/// The resource that an element refers to.
pub(crate) fn reference(scope: &Scope<'_>, element: &Element) -> Option<Value> {
    id_of(scope, &ObjectRef::read(element)?)
}

/// The resources that the children of an element refer to; none for an empty list.
pub(crate) fn references(scope: &Scope<'_>, element: &Element) -> Option<Value> {
    list(element.children.iter().filter_map(|child| reference(scope, child)).collect())
}

/// The texts of the children of that name.
pub(crate) fn texts(element: &Element, name: &str) -> Option<Value> {
    list(element.all(name).filter_map(text).collect())
}

/// A list; an empty one is unset.
pub(crate) fn list(items: Vec<Value>) -> Option<Value> {
    (!items.is_empty()).then_some(Value::Array(items))
}

/// An object of the fields that have a value.
pub(crate) fn fields<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    Value::Object(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_spelt_as_in_the_automation_api() {
        for (there, here) in [
            ("poweredOn", "POWERED_ON"),
            ("notResponding", "NOT_RESPONDING"),
            ("debian11_64", "DEBIAN_11_64"),
            ("other3xLinux64", "OTHER_3X_LINUX_64"),
            ("windows9Server64", "WINDOWS_9_SERVER_64"),
            ("vmx-13", "VMX_13"),
            ("VMFS", "VMFS"),
            ("vsan", "VSAN"),
            ("NFS41", "NFS_41"),
        ] {
            assert_eq!(upper_snake(there), here);
        }
    }
}
