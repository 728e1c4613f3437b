//! Plain JSON, written by hand: the answer of a query is most of what a request costs.

use crate::value::ValueRef;

/// Writes a value as plain JSON: a resource id is `{"type": …, "id": …}`.
pub(crate) fn write_value(value: &ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Boolean(v) => out.extend_from_slice(if *v { b"true" } else { b"false" }),
        ValueRef::Long(v) => out.extend_from_slice(itoa::Buffer::new().format(*v).as_bytes()),
        // Doubles that are stored are finite.
        ValueRef::Double(v) => out.extend_from_slice(zmij::Buffer::new().format_finite(*v).as_bytes()),
        ValueRef::Str(v) => write_str(v, out),
        ValueRef::DateTime(v) => write_str(v.as_str(), out),
        ValueRef::Id { resource_type, id } => {
            out.extend_from_slice(b"{\"type\":");
            write_str(resource_type, out);
            out.extend_from_slice(b",\"id\":");
            write_str(id, out);
            out.push(b'}');
        }
        ValueRef::List(list) => {
            out.push(b'[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_value(&value, out);
            }
            out.push(b']');
        }
        ValueRef::Struct(fields) => {
            out.push(b'{');
            for (i, (name, value)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_str(name, out);
                out.push(b':');
                write_value(&value, out);
            }
            out.push(b'}');
        }
    }
}

/// What stands before a value of an item: `,{"property":"…","value":`. The first one leaves the comma out.
pub(crate) fn property_head(path: &str) -> Vec<u8> {
    let mut out = b",{\"property\":".to_vec();
    write_str(path, &mut out);
    out.extend_from_slice(b",\"value\":");
    out
}

/// Whether a JSON string must escape any of eight bytes: a control character, `"` or `\\`.
///
/// `(x - n) & !x` sets the highest bit of the first byte of x that is less than n, for n up to 128.
#[inline]
fn has_escaped(bytes: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHEST: u64 = ONES << 7;
    let word = u64::from_ne_bytes(bytes);
    let less = |x: u64, n: u64| x.wrapping_sub(ONES * n) & !x;
    let is_zero = |x: u64| less(x, 1);
    let quote = is_zero(word ^ (ONES * b'"' as u64));
    let backslash = is_zero(word ^ (ONES * b'\\' as u64));
    (less(word, 0x20) | quote | backslash) & HIGHEST != 0
}

/// Writes a JSON string.
#[inline]
pub(crate) fn write_str(text: &str, out: &mut Vec<u8>) {
    // Eight bytes at a time: looked at byte by byte, texts were nearly a quarter of all instructions of an answer to Q9, and hardly any
    // has what must be escaped.
    let (eights, rest) = text.as_bytes().as_chunks::<8>();
    // Spaces are never escaped.
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    if eights.iter().any(|eight| has_escaped(*eight)) || has_escaped(last) {
        return write_escaped(text, out);
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cold]
fn write_escaped(text: &str, out: &mut Vec<u8>) {
    // Memory takes all that is written.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(value: &ValueRef<'_>) -> String {
        let mut out = Vec::new();
        write_value(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn values_are_written_as_serde_writes_them(text in "\\PC*|[\\x00-\\x7f]*|[a-z\"\\\\\\x1f\\x7f]{0,20}", long in any::<i64>(), double in any::<f64>().prop_filter("finite", |f| f.is_finite())) {
            prop_assert_eq!(written(&ValueRef::Str(&text)), serde_json::to_string(&text).unwrap());
            prop_assert_eq!(written(&ValueRef::Long(long)), serde_json::to_string(&long).unwrap());
            prop_assert_eq!(written(&ValueRef::Double(double)), serde_json::to_string(&double).unwrap());
        }
    }
}
