//! XML: the rules are those of the seeds' samples, made general.
//!
//! Children carry no namespace and are named like the JSON members, in any order; a list `x` is one element `x-array` with
//! `array-item` children; null is `xsi:nil` or a missing element. There are no document types, entities or processing
//! instructions: such a request is refused, never expanded.
//!
//! Source: `api/cis-data-and-cdc.md`, A8.

use bytes::Bytes;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use crate::data::DEPTH_MAX;
use crate::{Data, Writer};

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Reads a body whose root is `root` in `namespace`.
///
/// # Errors
/// Why the text is no such body, for an `invalid_request`.
pub fn read(bytes: &[u8], root: &str, namespace: &str) -> Result<Data, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    let mut reader = NsReader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut body = None;
    loop {
        match reader.read_event().map_err(|e| format!("not XML: {e}"))? {
            Event::Decl(_) | Event::Comment(_) => {}
            Event::Text(text) if text.trim().is_empty() => {}
            Event::Start(start) if body.is_none() => {
                let (resolved, local) = reader.resolver().resolve_element(start.name());
                let bound = matches!(resolved, ResolveResult::Bound(ns) if ns.as_ref() == namespace);
                if !bound || local.as_ref() != root {
                    return Err(format!("expected the root element {root} in namespace {namespace}"));
                }
                is_nil(&reader, &start)?;
                body = Some(element(&mut reader, 0)?);
            }
            Event::Eof => break,
            Event::DocType(_) | Event::PI(_) | Event::GeneralRef(_) => {
                return Err("document types, entities and processing instructions are refused".to_owned());
            }
            Event::Start(_) | Event::End(_) | Event::Empty(_) | Event::Text(_) | Event::CData(_) => {
                return Err("something besides the root element".to_owned());
            }
        }
    }
    match body {
        // An operation without parameters.
        Some(Data::String(text)) if text.trim().is_empty() => Ok(Data::Struct(None, Vec::new())),
        Some(body) => Ok(body),
        None => Err("no root element".to_owned()),
    }
}

/// Whether the element is null; refuses attributes other than `xsi:…` and `xmlns…`.
fn is_nil(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<bool, String> {
    let mut nil = false;
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| format!("not XML: {e}"))?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (resolved, local) = reader.resolver().resolve_attribute(attribute.key);
        match resolved {
            ResolveResult::Bound(ns) if ns.as_ref() == XSI => {
                nil |= local.as_ref() == "nil" && matches!(&*attribute.value, "true" | "1");
            }
            ResolveResult::Bound(_) | ResolveResult::Unbound | ResolveResult::Unknown(_) => {
                return Err(format!("unknown attribute {}", attribute.key.as_ref()));
            }
        }
    }
    Ok(nil)
}

/// The content of an element that has just been opened, up to its end.
fn element(reader: &mut NsReader<&[u8]>, depth: usize) -> Result<Data, String> {
    if depth > DEPTH_MAX {
        return Err(format!("nested deeper than {DEPTH_MAX} levels"));
    }
    let mut text = String::new();
    let mut fields: Vec<(String, Data)> = Vec::new();
    let mut items: Vec<Data> = Vec::new();
    loop {
        match reader.read_event().map_err(|e| format!("not XML: {e}"))? {
            Event::Start(start) => {
                let (resolved, local) = reader.resolver().resolve_element(start.name());
                if !matches!(resolved, ResolveResult::Unbound) {
                    return Err(format!("element {} carries a namespace", local.as_ref()));
                }
                let name = local.as_ref().to_owned();
                let nil = is_nil(reader, &start)?;
                let mut value = element(reader, depth + 1)?;
                if nil {
                    match value {
                        Data::String(t) if t.trim().is_empty() => value = Data::Null,
                        _ => return Err(format!("element {name} is nil but has content")),
                    }
                }
                if name == "array-item" {
                    items.push(value);
                    continue;
                }
                let (name, value) = match name.strip_suffix("-array") {
                    Some(list) => (list.to_owned(), as_list(value, list)?),
                    None => (name, value),
                };
                if fields.iter().any(|(n, _)| *n == name) {
                    return Err(format!("element {name} stands there twice"));
                }
                fields.push((name, value));
            }
            Event::Text(t) => text.push_str(&t),
            Event::CData(t) => text.push_str(&t),
            Event::GeneralRef(entity) => text.push(predefined(&entity)?),
            Event::Comment(_) => {}
            Event::End(_) => break,
            Event::Eof => return Err("the text ends inside an element".to_owned()),
            Event::Empty(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {
                return Err("document types and processing instructions are refused".to_owned());
            }
        }
    }
    if !items.is_empty() {
        return if fields.is_empty() && text.trim().is_empty() {
            Ok(Data::List(items))
        } else {
            Err("array-item beside something else".to_owned())
        };
    }
    if fields.is_empty() {
        return Ok(Data::String(text));
    }
    if !text.trim().is_empty() {
        return Err("text beside elements".to_owned());
    }
    Ok(Data::Struct(None, fields))
}

fn as_list(value: Data, name: &str) -> Result<Data, String> {
    match value {
        Data::List(_) | Data::Null => Ok(value),
        Data::String(text) if text.trim().is_empty() => Ok(Data::List(Vec::new())),
        _ => Err(format!("element {name}-array holds something other than array-item")),
    }
}

/// The character that an entity stands for: one of the five of XML itself, or one by its number.
///
/// # Errors
/// Any other, which is never expanded.
pub fn predefined(entity: &quick_xml::events::BytesRef<'_>) -> Result<char, String> {
    if let Some(c) = entity.resolve_char_ref().map_err(|e| format!("not XML: {e}"))? {
        return Ok(c);
    }
    match &**entity {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        other => Err(format!("unknown entity {other}")),
    }
}

/// Writes a value as XML. A field's opening tag waits until it is known whether the value is a list.
#[derive(Debug, Default)]
pub struct XmlWriter {
    /// The text so far.
    pub out: String,
    /// The field whose value comes next.
    pending: Option<String>,
    /// The tags to close, from the outside in; empty where nothing was opened.
    open: Vec<String>,
}

impl XmlWriter {
    /// A writer whose value will be the element `name`.
    pub fn element(name: &str) -> Self {
        Self { out: String::new(), pending: Some(name.to_owned()), open: Vec::new() }
    }

    fn text(&mut self, text: &str) {
        let name = self.pending.take().unwrap_or_else(|| "value".to_owned());
        self.out.push_str(&format!("<{name}>"));
        escape(&mut self.out, text);
        self.out.push_str(&format!("</{name}>"));
    }

    fn begin(&mut self, suffix: &str) {
        let name = self.pending.take().unwrap_or_else(|| "value".to_owned()) + suffix;
        self.out.push_str(&format!("<{name}>"));
        self.open.push(name);
    }

    fn end(&mut self) {
        if let Some(name) = self.open.pop() {
            self.out.push_str(&format!("</{name}>"));
        }
    }
}

/// Appends text with what XML reserves, and with characters that XML cannot hold replaced.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(c),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

impl Writer for XmlWriter {
    fn null(&mut self) {
        if let Some(name) = self.pending.take() {
            self.out.push_str(&format!("<{name} xsi:nil=\"true\"/>"));
        }
    }

    fn boolean(&mut self, v: bool) {
        self.text(if v { "true" } else { "false" });
    }

    fn long(&mut self, v: i64) {
        self.text(itoa::Buffer::new().format(v));
    }

    fn double(&mut self, v: f64) {
        self.text(zmij::Buffer::new().format(v));
    }

    fn string(&mut self, v: &str) {
        self.text(v);
    }

    fn secret(&mut self, v: &str) {
        self.text(v);
    }

    fn binary(&mut self, v: &Bytes) {
        use base64::Engine as _;
        self.text(&base64::engine::general_purpose::STANDARD.encode(v));
    }

    fn none(&mut self) {
        self.null();
    }

    fn begin_some(&mut self) {}

    fn end_some(&mut self) {}

    fn begin_struct(&mut self, _: &str) {
        self.begin("");
    }

    fn field(&mut self, name: &str, is_unset: bool) -> bool {
        self.pending = (!is_unset).then(|| name.to_owned());
        !is_unset
    }

    fn end_struct(&mut self) {
        self.end();
    }

    fn begin_list(&mut self) {
        self.begin("-array");
    }

    fn item(&mut self) {
        self.pending = Some("array-item".to_owned());
    }

    fn end_list(&mut self) {
        self.end();
    }

    fn begin_map(&mut self) {
        self.begin("-array");
    }

    fn entry(&mut self, key: &str) {
        self.out.push_str("<array-item><key>");
        escape(&mut self.out, key);
        self.out.push_str("</key>");
        self.pending = Some("value".to_owned());
    }

    fn end_entry(&mut self) {
        self.out.push_str("</array-item>");
    }

    fn end_map(&mut self) {
        self.end();
    }
}
