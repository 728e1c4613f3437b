//! SOAP messages: a call out of its envelope, and an answer into one.
//!
//! A call is a small tree of elements with text. What is no part of that (document types, processing instructions, entities besides XML's
//! own) is refused, never expanded.

use std::borrow::Cow;

use lockstep_model::ResourceId;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use super::fault::Fault;

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const VIM: &str = "urn:vim25";

/// Deepest element, the envelope counted: ways of a property collector stand in each other.
const DEPTH_MAX: usize = 24;

/// Most elements of a message: a property collector is told some paths of some types, and ways between them.
const ELEMENTS_MAX: usize = 1024;

/// An element of a call.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Element {
    pub name: String,
    /// The attribute `type` of what names an object.
    pub type_name: Option<String>,
    pub text: String,
    pub children: Vec<Element>,
    /// The namespace that the element is in.
    namespace: String,
}

impl Element {
    fn child(&self, name: &'static str) -> Result<&Self, Fault> {
        self.children.iter().find(|child| child.name == name).ok_or(Fault::InvalidArgument(name))
    }

    /// The elements of a name in it.
    pub(super) fn all<'e>(&'e self, name: &'static str) -> impl Iterator<Item = &'e Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element of a name in it.
    pub(super) fn first(&self, name: &'static str) -> Option<&Self> {
        self.all(name).next()
    }

    /// Whether an argument is there and true.
    pub(super) fn flag(&self, name: &'static str) -> bool {
        self.first(name).is_some_and(|flag| matches!(flag.text.trim(), "true" | "1"))
    }

    /// The text of an argument.
    pub(super) fn text_of(&self, name: &'static str) -> Result<&str, Fault> {
        self.child(name).map(|child| &*child.text)
    }

    /// The object that an argument names.
    pub(super) fn object(&self, name: &'static str) -> Result<ResourceId, Fault> {
        let child = self.child(name)?;
        let id = ResourceId::new(child.type_name.as_deref().unwrap_or_default(), child.text.trim());
        id.check().map(|()| id).map_err(|_| Fault::InvalidArgument(name))
    }
}

/// The call in an envelope: the element of its method.
///
/// # Errors
/// Why the text is none.
pub(super) fn read(bytes: &[u8]) -> Result<Element, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    let envelope = tree(text)?;
    if envelope.name != "Envelope" || envelope.namespace != ENVELOPE {
        return Err("the root element is not a SOAP envelope".to_owned());
    }
    let is_body = |element: &Element| element.name == "Body" && element.namespace == ENVELOPE;
    let body = envelope.children.into_iter().find(is_body).ok_or("the envelope has no body")?;
    let mut calls = body.children.into_iter();
    match (calls.next(), calls.next()) {
        (Some(call), None) if call.namespace == VIM => Ok(call),
        (Some(call), None) => Err(format!("{} is not in the namespace {VIM}", call.name)),
        _ => Err("the body does not hold one call".to_owned()),
    }
}

fn tree(text: &str) -> Result<Element, String> {
    let mut reader = NsReader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    // The elements that are open, the root first.
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut count = 0;
    loop {
        match reader.read_event().map_err(|e| format!("not XML: {e}"))? {
            Event::Start(start) => {
                count += 1;
                if count > ELEMENTS_MAX || open.len() >= DEPTH_MAX {
                    return Err(format!("more than {ELEMENTS_MAX} elements, or nested deeper than {DEPTH_MAX} levels"));
                }
                if open.is_empty() && root.is_some() {
                    return Err("something besides the root element".to_owned());
                }
                open.push(opened(&reader, &start)?);
            }
            Event::End(_) => {
                let Some(closed) = open.pop() else { return Err("an end without a beginning".to_owned()) };
                match open.last_mut() {
                    Some(parent) => parent.children.push(closed),
                    None => root = Some(closed),
                }
            }
            Event::Text(text) => add_text(&mut open, &text)?,
            Event::CData(text) => add_text(&mut open, &text)?,
            Event::GeneralRef(entity) => {
                let text = lockstep_contract::xml::predefined(&entity)?;
                add_text(&mut open, text.encode_utf8(&mut [0; 4]))?;
            }
            Event::Decl(_) | Event::Comment(_) => {}
            Event::Empty(_) | Event::DocType(_) | Event::PI(_) => {
                return Err("document types and processing instructions are refused".to_owned());
            }
            Event::Eof => break,
        }
    }
    match (root, open.is_empty()) {
        (Some(root), true) => Ok(root),
        _ => Err("the text ends inside an element".to_owned()),
    }
}

fn opened(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Element, String> {
    let (resolved, local) = reader.resolver().resolve_element(start.name());
    let namespace = match resolved {
        ResolveResult::Bound(namespace) => namespace.as_ref().to_owned(),
        ResolveResult::Unbound | ResolveResult::Unknown(_) => String::new(),
    };
    let mut element = Element { name: local.as_ref().to_owned(), namespace, ..Element::default() };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| format!("not XML: {e}"))?;
        // `xsi:type` is another one.
        if attribute.key.as_ref() == "type" {
            element.type_name = Some(attribute.value.into_owned());
        }
    }
    Ok(element)
}

fn add_text(open: &mut [Element], text: &str) -> Result<(), String> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err("text outside of the root element".to_owned()),
    }
    Ok(())
}

/// The message with this body.
pub(super) fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" \
         xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n\
         <soapenv:Body>{body}</soapenv:Body>\n</soapenv:Envelope>\n"
    )
}

/// Text as it may stand in an element or an attribute. A character that XML cannot have becomes the one that stands for such.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let is_fit = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(is_fit) {
        return quick_xml::escape::escape(text);
    }
    let fit: String = text.chars().map(|c| if is_fit(c) { c } else { '\u{fffd}' }).collect();
    Cow::Owned(quick_xml::escape::escape(&*fit).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> String {
        format!(
            r#"<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="{ENVELOPE}"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"#
        )
    }

    #[test]
    fn a_call_is_read_with_its_objects_and_text() {
        let text = call(
            r#"<Login xmlns="urn:vim25"><_this versionId="8.0.3.0" type="SessionManager">SessionManager</_this>
            <userName>a&amp;b</userName><password>&#60;x&gt;<![CDATA[&y]]></password><locale/></Login>"#,
        );
        let login = read(text.as_bytes()).unwrap();
        assert_eq!(login.name, "Login");
        assert_eq!(login.object("_this").unwrap(), ResourceId::new("SessionManager", "SessionManager"));
        assert_eq!((login.text_of("userName").unwrap(), login.text_of("password").unwrap()), ("a&b", "<x>&y"));
        assert!(login.text_of("nothing").is_err() && login.object("userName").is_err());
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let check = |text: &str, part: &str| {
            let refused = read(text.as_bytes()).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
        };
        let vim = r#"xmlns="urn:vim25""#;
        check("", "ends inside");
        check("<a/>", "envelope");
        check("<Envelope><Body/></Envelope>", "envelope");
        check(&call(""), "one call");
        check(&call(&format!("<A {vim}/><B {vim}/>")), "one call");
        check(&call("<A/>"), "namespace");
        check(&call(&format!("<A {vim}>&xxe;</A>")), "entity");
        check(&format!("<!DOCTYPE a [<!ENTITY xxe \"y\">]>{}", call(&format!("<A {vim}/>"))), "document types");
        check(&call(&format!("<?php x?><A {vim}/>")), "processing");
        check(&call(&format!("<A {vim}>{}", "<b>".repeat(DEPTH_MAX))), "deeper");
        check(&call(&format!("<A {vim}>{}</A>", "<b/>".repeat(ELEMENTS_MAX))), "more than");
        check(&call(&format!("<A {vim}>")), "not XML");
        check("<a></a><b></b>", "besides");
        assert!(read(b"\xff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn text_is_escaped_and_fit_for_xml() {
        assert_eq!(escaped("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&apos;");
        assert_eq!(escaped("a\u{1}\u{ffff}<ä\u{1f600}"), "a\u{fffd}\u{fffd}&lt;ä\u{1f600}");
    }
}
