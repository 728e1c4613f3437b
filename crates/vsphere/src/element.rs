//! Elements of XML out of a stream: one small tree at a time, so that an answer of any length takes the memory of its largest part.
//!
//! What is no part of SOAP (document types, processing instructions, entities besides XML's own) is refused, never expanded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use lockstep_contract::xml::predefined;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Deepest element, the envelope counted.
const DEPTH_MAX: usize = 64;

/// Bytes that one tree may come from: a virtual machine is some tens of kilobytes.
const TREE_BYTES_MAX: usize = 64 << 20;

/// Elements of one tree.
const TREE_ELEMENTS_MAX: usize = 1_000_000;

/// An element with everything in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Element {
    pub(crate) name: Box<str>,
    /// `xsi:type`, without its prefix: which type a value has.
    pub(crate) value_type: Option<Box<str>>,
    /// `type`, of a reference to a managed object: which type that has.
    pub(crate) object_type: Option<Box<str>>,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// The first child of that name.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| &*child.name == name)
    }

    /// All children of that name.
    pub(crate) fn all<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Self> {
        self.children.iter().filter(move |child| &*child.name == name)
    }

    /// What is found by going down along a path of names joined by dots.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |element, name| element.child(name))
    }

    /// The text of what is found at a path; `None` for none and for an empty one.
    pub(crate) fn text_at(&self, path: &str) -> Option<&str> {
        self.at(path).map(|found| found.text.trim()).filter(|text| !text.is_empty())
    }

    /// The whole number at a path.
    pub(crate) fn long_at(&self, path: &str) -> Option<i64> {
        self.text_at(path)?.parse().ok()
    }
}

/// What `xsd:boolean` means.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Why a stream is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XmlError {
    /// The connection broke off.
    #[error("{0}")]
    Broken(String),
    /// Nothing came for too long.
    #[error("nothing came for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// It is not XML, or not such as an answer is.
    #[error("{0}")]
    Malformed(String),
}

fn malformed(why: impl Into<String>) -> XmlError {
    XmlError::Malformed(why.into())
}

/// The bytes of an answer's body, as they come.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// A body as something to read from, which stops at a bound that is moved on with every tree.
struct Body {
    chunks: Chunks,
    chunk: Bytes,
    left: usize,
}

impl AsyncBufRead for Body {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.chunk.is_empty() {
            match this.chunks.as_mut().poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(&[])),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(Some(Ok(chunk))) => this.chunk = chunk,
            }
        }
        if this.left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, "too long")));
        }
        let end = this.chunk.len().min(this.left);
        Poll::Ready(Ok(&this.chunk[..end]))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        let amount = amount.min(this.chunk.len());
        let _ = this.chunk.split_to(amount);
        this.left = this.left.saturating_sub(amount);
    }
}

impl AsyncRead for Body {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = match self.as_mut().poll_fill_buf(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(filled) => filled?,
        };
        let amount = filled.len().min(buffer.remaining());
        buffer.put_slice(&filled[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

/// An answer that is read while it comes.
pub(crate) struct Answer {
    reader: NsReader<Body>,
    buffer: Vec<u8>,
    /// Elements that are only gone through.
    containers: &'static [&'static str],
    depth: usize,
    is_done: bool,
    silence_max: Duration,
}

/// What one event means here.
enum Step {
    Open(Element),
    Close,
    Text(String),
    Nothing,
    End,
}

impl Answer {
    /// Reads a body. The elements named in `containers` are gone through, whatever else there is comes as a tree; the envelope and its
    /// body are gone through anyway.
    pub(crate) fn new(chunks: Chunks, containers: &'static [&'static str], silence_max: Duration) -> Self {
        let mut reader = NsReader::from_reader(Body { chunks, chunk: Bytes::new(), left: TREE_BYTES_MAX });
        reader.config_mut().expand_empty_elements = true;
        Self { reader, buffer: Vec::new(), containers, depth: 0, is_done: false, silence_max }
    }

    /// The next tree; `None` at the end of a whole answer.
    ///
    /// # Errors
    /// [`XmlError`].
    pub(crate) async fn next(&mut self) -> Result<Option<Element>, XmlError> {
        self.reader.get_mut().left = TREE_BYTES_MAX;
        loop {
            match self.step().await? {
                Step::Open(element) => {
                    let is_container =
                        matches!(&*element.name, "Envelope" | "Body") || self.containers.contains(&&*element.name);
                    if !is_container {
                        return self.tree(element).await.map(Some);
                    }
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return Err(malformed(format!("elements nested deeper than {DEPTH_MAX} levels")));
                    }
                }
                Step::Close => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_done |= self.depth == 0;
                }
                Step::Text(text) if text.trim().is_empty() => {}
                Step::Text(_) => return Err(malformed("text between elements")),
                Step::Nothing => {}
                Step::End if self.is_done => return Ok(None),
                Step::End => return Err(malformed("the answer ends in the middle")),
            }
        }
    }

    /// The rest of an element that was opened.
    async fn tree(&mut self, root: Element) -> Result<Element, XmlError> {
        let mut open = vec![root];
        let mut count = 0;
        loop {
            match self.step().await? {
                Step::Open(element) => {
                    count += 1;
                    if count > TREE_ELEMENTS_MAX || open.len() + self.depth >= DEPTH_MAX {
                        return Err(malformed(format!(
                            "more than {TREE_ELEMENTS_MAX} elements, or nested deeper than {DEPTH_MAX} levels"
                        )));
                    }
                    open.push(element);
                }
                Step::Close => {
                    let Some(closed) = open.pop() else { return Err(malformed("an end without a beginning")) };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(closed),
                        None => {
                            // A whole answer that is a single tree.
                            self.is_done |= self.depth == 0;
                            return Ok(closed);
                        }
                    }
                }
                Step::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        // Blanks between elements are layout.
                        if element.children.is_empty() || !text.trim().is_empty() {
                            element.text.push_str(&text);
                        }
                    }
                }
                Step::Nothing => {}
                Step::End => return Err(malformed("the answer ends in the middle")),
            }
        }
    }

    async fn step(&mut self) -> Result<Step, XmlError> {
        self.buffer.clear();
        let reading = self.reader.read_event_into_async(&mut self.buffer);
        let event = tokio::time::timeout(self.silence_max, reading);
        let event = event.await.map_err(|_| XmlError::Silent(self.silence_max))?.map_err(of_xml)?;
        Ok(match event {
            Event::Start(start) => Step::Open(opened(self.reader.resolver(), &start)?),
            Event::End(_) => Step::Close,
            Event::Text(text) => Step::Text((*text).to_owned()),
            Event::CData(text) => Step::Text((*text).to_owned()),
            Event::GeneralRef(entity) => Step::Text(predefined(&entity).map_err(malformed)?.to_string()),
            Event::Decl(_) | Event::Comment(_) => Step::Nothing,
            Event::Empty(_) | Event::DocType(_) | Event::PI(_) => {
                return Err(malformed("document types and processing instructions are refused"));
            }
            Event::Eof => Step::End,
        })
    }
}

fn of_xml(error: quick_xml::Error) -> XmlError {
    let quick_xml::Error::Io(io) = &error else { return malformed(format!("not XML: {error}")) };
    if io.kind() == io::ErrorKind::FileTooLarge {
        return malformed(format!("an element of more than {TREE_BYTES_MAX} bytes"));
    }
    let mut innermost: &(dyn std::error::Error + 'static) = io.as_ref();
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    XmlError::Broken(innermost.to_string())
}

fn opened(resolver: &quick_xml::name::NamespaceResolver, start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let mut element = Element { name: start.local_name().as_ref().into(), ..Element::default() };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| malformed(format!("not XML: {e}")))?;
        match resolver.resolve_attribute(attribute.key) {
            (ResolveResult::Bound(namespace), local) if namespace.as_ref() == XSI && local.as_ref() == "type" => {
                let name = attribute.value.rsplit(':').next().unwrap_or_default();
                element.value_type = Some(name.into());
            }
            (ResolveResult::Unbound, local) if local.as_ref() == "type" => {
                element.object_type = Some((*attribute.value).into());
            }
            _ => {}
        }
    }
    Ok(element)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A body in pieces of some bytes.
    struct Pieces(Vec<Bytes>);

    impl Stream for Pieces {
        type Item = reqwest::Result<Bytes>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    pub(crate) fn answer(text: &str, piece: usize, containers: &'static [&'static str]) -> Answer {
        let mut pieces: Vec<Bytes> = text.as_bytes().chunks(piece).map(Bytes::copy_from_slice).collect();
        pieces.reverse();
        Answer::new(Box::pin(Pieces(pieces)), containers, Duration::from_secs(5))
    }

    /// The only tree in a text.
    pub(crate) async fn element(text: &str) -> Element {
        answer(text, 1 << 20, &[]).next().await.unwrap().unwrap()
    }

    const ANSWER: &str = r#"<?xml version="1.0"?>
        <e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
        <e:Body><FooResponse xmlns="urn:vim25"><returnval><version>1</version>
        <objectSet><obj type="VirtualMachine">vm-1</obj><val i:type="xsd:string" type="x">a &lt;&#66; <![CDATA[<c>]]></val></objectSet>
        <objectSet/></returnval></FooResponse></e:Body></e:Envelope>"#;

    #[tokio::test]
    async fn trees_come_one_by_one_however_the_bytes_are_cut() {
        for piece in [1, 2, 7, 100, 10_000] {
            let mut answer = answer(ANSWER, piece, &["FooResponse", "returnval"]);
            let version = answer.next().await.unwrap().unwrap();
            assert_eq!((&*version.name, &*version.text), ("version", "1"));
            let object = answer.next().await.unwrap().unwrap();
            assert_eq!(object.child("obj").unwrap().object_type.as_deref(), Some("VirtualMachine"));
            let value = object.child("val").unwrap();
            assert_eq!((value.value_type.as_deref(), value.object_type.as_deref()), (Some("string"), Some("x")));
            assert_eq!(value.text, "a <B <c>");
            assert_eq!(
                answer.next().await.unwrap().unwrap(),
                Element { name: "objectSet".into(), ..Element::default() }
            );
            assert!(answer.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn what_ends_early_is_an_error_wherever_it_is_cut() {
        for end in 0..ANSWER.trim_end().len() {
            let Some(text) = ANSWER.get(..end) else { continue };
            let mut answer = answer(text, 50, &["FooResponse", "returnval"]);
            let outcome = loop {
                match answer.next().await {
                    Ok(Some(_)) => {}
                    outcome => break outcome,
                }
            };
            assert!(outcome.is_err(), "cut at {end}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_part_of_soap_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(DEPTH_MAX + 1), "</a>".repeat(DEPTH_MAX + 1));
        for bad in ["<!DOCTYPE a []><a/>", "<a>&b;</a>", "<?pi?><a/>", "<a><b></a>", "x<a/>", "", &deep] {
            let mut answer = answer(bad, 50, &[]);
            let outcome = async { Ok::<_, XmlError>((answer.next().await?, answer.next().await?)) }.await;
            assert!(outcome.is_err(), "{bad}");
        }
    }
}
