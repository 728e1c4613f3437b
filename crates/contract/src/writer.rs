//! Writing values: one walk over a value serves every encoding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Receives a value piece by piece. Structures and lists nest; every `begin_…` has its `end_…`.
pub trait Writer {
    /// No value.
    fn null(&mut self);
    /// A boolean.
    fn boolean(&mut self, v: bool);
    /// A whole number.
    fn long(&mut self, v: i64);
    /// A finite number.
    fn double(&mut self, v: f64);
    /// A string, an identifier, an enumeration constant or a date_time.
    fn string(&mut self, v: &str);
    /// A secret.
    fn secret(&mut self, v: &str);
    /// Bytes.
    fn binary(&mut self, v: &Bytes);
    /// An unset optional.
    fn none(&mut self);
    /// A set optional; its value follows.
    fn begin_some(&mut self);
    /// The end of a set optional.
    fn end_some(&mut self);
    /// A structure of that canonical name; its fields follow.
    fn begin_struct(&mut self, name: &str);
    /// An error of that canonical name; its fields follow, and `end_struct`.
    fn begin_error(&mut self, name: &str) {
        self.begin_struct(name);
    }
    /// The next field. Answers whether its value is wanted: an unset one is left out of some encodings.
    fn field(&mut self, name: &str, is_unset: bool) -> bool;
    /// The end of a structure.
    fn end_struct(&mut self);
    /// A list; its elements follow.
    fn begin_list(&mut self);
    /// The next element.
    fn item(&mut self);
    /// The end of a list.
    fn end_list(&mut self);
    /// A map with string keys; its entries follow.
    fn begin_map(&mut self);
    /// The next entry; its value follows.
    fn entry(&mut self, key: &str);
    /// The end of an entry.
    fn end_entry(&mut self);
    /// The end of a map.
    fn end_map(&mut self);
    /// The text so far, when the encoding is plain JSON: a value that knows its own plain JSON appends it here at once.
    fn plain_json(&mut self) -> Option<&mut Vec<u8>> {
        None
    }
}

/// Appends a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    // Memory takes all that is written.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a double so that no reader takes it for a long: always with a point or an exponent.
pub fn write_double(out: &mut Vec<u8>, v: f64) {
    // No value is not finite: what is read is checked, and JSON has no way to write it.
    out.extend_from_slice(zmij::Buffer::new().format(v).as_bytes());
}

/// Plain JSON: structures without names, unset fields left out.
#[derive(Debug, Default)]
pub struct PlainJson {
    /// The text so far.
    pub out: Vec<u8>,
    /// Whether maps are lists of `{"key":…,"value":…}`, as in the legacy generation.
    pub maps_as_lists: bool,
    /// Where bytes go that are not to be written as base64: the text has an empty string in their place.
    pub aside: Option<Bytes>,
    /// Whether unset fields are written, as null.
    pub keeps_unset: bool,
}

/// Appends a comma unless something has just been opened.
fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'{' | b'[' | b':')) {
        out.push(b',');
    }
}

impl Writer for PlainJson {
    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    fn boolean(&mut self, v: bool) {
        self.out.extend_from_slice(if v { b"true" } else { b"false" });
    }

    fn long(&mut self, v: i64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
    }

    fn double(&mut self, v: f64) {
        write_double(&mut self.out, v);
    }

    fn string(&mut self, v: &str) {
        write_string(&mut self.out, v);
    }

    fn secret(&mut self, v: &str) {
        write_string(&mut self.out, v);
    }

    fn binary(&mut self, v: &Bytes) {
        match &mut self.aside {
            Some(aside) => {
                *aside = v.clone();
                write_string(&mut self.out, "");
            }
            None => write_string(&mut self.out, &STANDARD.encode(v)),
        }
    }

    fn none(&mut self) {
        self.null();
    }

    fn begin_some(&mut self) {}

    fn end_some(&mut self) {}

    fn begin_struct(&mut self, _: &str) {
        self.out.push(b'{');
    }

    fn field(&mut self, name: &str, is_unset: bool) -> bool {
        let is_wanted = self.keeps_unset || !is_unset;
        if is_wanted {
            separate(&mut self.out);
            write_string(&mut self.out, name);
            self.out.push(b':');
        }
        is_wanted
    }

    fn end_struct(&mut self) {
        self.out.push(b'}');
    }

    fn begin_list(&mut self) {
        self.out.push(b'[');
    }

    fn item(&mut self) {
        separate(&mut self.out);
    }

    fn end_list(&mut self) {
        self.out.push(b']');
    }

    fn begin_map(&mut self) {
        self.out.push(if self.maps_as_lists { b'[' } else { b'{' });
    }

    fn entry(&mut self, key: &str) {
        separate(&mut self.out);
        if self.maps_as_lists {
            self.out.extend_from_slice(b"{\"key\":");
            write_string(&mut self.out, key);
            self.out.extend_from_slice(b",\"value\":");
        } else {
            write_string(&mut self.out, key);
            self.out.push(b':');
        }
    }

    fn end_entry(&mut self) {
        if self.maps_as_lists {
            self.out.push(b'}');
        }
    }

    fn end_map(&mut self) {
        self.out.push(if self.maps_as_lists { b']' } else { b'}' });
    }

    fn plain_json(&mut self) -> Option<&mut Vec<u8>> {
        Some(&mut self.out)
    }
}

/// JSON with the type words of JSON-RPC.
///
/// Source: `api/vapi-wire.md`, 2.2.
#[derive(Debug, Default)]
pub struct TypedJson {
    /// The text so far.
    pub out: Vec<u8>,
}

impl Writer for TypedJson {
    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    fn boolean(&mut self, v: bool) {
        self.out.extend_from_slice(if v { b"true" } else { b"false" });
    }

    fn long(&mut self, v: i64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
    }

    fn double(&mut self, v: f64) {
        write_double(&mut self.out, v);
    }

    fn string(&mut self, v: &str) {
        write_string(&mut self.out, v);
    }

    fn secret(&mut self, v: &str) {
        self.out.extend_from_slice(b"{\"SECRET\":");
        write_string(&mut self.out, v);
        self.out.push(b'}');
    }

    fn binary(&mut self, v: &Bytes) {
        self.out.extend_from_slice(b"{\"BINARY\":");
        write_string(&mut self.out, &STANDARD.encode(v));
        self.out.push(b'}');
    }

    fn none(&mut self) {
        self.out.extend_from_slice(b"{\"OPTIONAL\":null}");
    }

    fn begin_some(&mut self) {
        self.out.extend_from_slice(b"{\"OPTIONAL\":");
    }

    fn end_some(&mut self) {
        self.out.push(b'}');
    }

    fn begin_struct(&mut self, name: &str) {
        self.out.extend_from_slice(b"{\"STRUCTURE\":{");
        write_string(&mut self.out, name);
        self.out.extend_from_slice(b":{");
    }

    fn begin_error(&mut self, name: &str) {
        self.out.extend_from_slice(b"{\"ERROR\":{");
        write_string(&mut self.out, name);
        self.out.extend_from_slice(b":{");
    }

    fn field(&mut self, name: &str, _: bool) -> bool {
        separate(&mut self.out);
        write_string(&mut self.out, name);
        self.out.push(b':');
        true
    }

    fn end_struct(&mut self) {
        self.out.extend_from_slice(b"}}}");
    }

    fn begin_list(&mut self) {
        self.out.push(b'[');
    }

    fn item(&mut self) {
        separate(&mut self.out);
    }

    fn end_list(&mut self) {
        self.out.push(b']');
    }

    fn begin_map(&mut self) {
        self.out.push(b'[');
    }

    fn entry(&mut self, key: &str) {
        separate(&mut self.out);
        self.out.extend_from_slice(b"{\"STRUCTURE\":{\"map-entry\":{\"key\":");
        write_string(&mut self.out, key);
        self.out.extend_from_slice(b",\"value\":");
    }

    fn end_entry(&mut self) {
        self.out.extend_from_slice(b"}}}");
    }

    fn end_map(&mut self) {
        self.out.push(b']');
    }
}
