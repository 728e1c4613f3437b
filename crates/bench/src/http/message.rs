//! HTTP/1.1 messages in a buffer: writing requests, finding where an answer ends.

use std::borrow::Cow;

use anyhow::{Context, anyhow, bail, ensure};

/// The largest head that is accepted; a longer one means that the peer does not speak HTTP.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A complete message at the start of a buffer.
pub struct Message<'a> {
    /// The status of an answer; 0 for a request.
    pub status: u16,
    head: &'a str,
    pub body: Cow<'a, [u8]>,
    /// How many bytes of the buffer the message takes.
    pub length: usize,
}

impl<'a> Message<'a> {
    /// Reads the message at the start of `buffer`; `None` when it is not complete yet.
    ///
    /// # Errors
    /// When the bytes are not an HTTP/1.1 message with a length.
    pub fn parse(buffer: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let Some(head_end) = find(buffer, b"\r\n\r\n") else {
            ensure!(buffer.len() < HEAD_BYTES_MAX, "no end of the HTTP head in {HEAD_BYTES_MAX} bytes");
            return Ok(None);
        };
        let head = std::str::from_utf8(&buffer[..head_end]).context("HTTP head is not UTF-8")?;
        let rest = &buffer[head_end + 4..];
        let status = status(head)?;
        let (body, body_length) =
            if header(head, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
                let Some((body, length)) = chunked(rest)? else { return Ok(None) };
                (Cow::Owned(body), length)
            } else {
                let length = match header(head, "content-length") {
                    Some(text) => text.parse().with_context(|| format!("content-length {text}"))?,
                    None if status == 0 || status == 204 => 0,
                    None => bail!("an answer without content-length or chunks: {head}"),
                };
                let Some(body) = rest.get(..length) else { return Ok(None) };
                (Cow::Borrowed(body), length)
            };
        Ok(Some(Message { status, head, body, length: head_end + 4 + body_length }))
    }

    /// Whether [`Message::parse`] may find a whole message. Without asking, a long chunked answer would be put together anew at every
    /// read, within the time that is measured.
    pub fn may_be_whole(buffer: &[u8]) -> bool {
        let head = find(buffer, b"\r\n\r\n").and_then(|end| std::str::from_utf8(&buffer[..end]).ok());
        let is_chunked = head.and_then(|head| header(head, "transfer-encoding"));
        is_chunked.is_none() || buffer.ends_with(b"\r\n\r\n")
    }

    /// The value of a header, by its name without regard to case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head, name)
    }
}

/// What a request says besides its body.
pub struct RequestHead<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub host: &'a str,
    /// Whole header lines, each ended by CR LF.
    pub headers: &'a str,
    pub content_type: &'a str,
    pub content_length: u64,
}

impl RequestHead<'_> {
    /// Appends the head to `out`. A request without body carries no content type.
    pub fn write(&self, out: &mut Vec<u8>) {
        let RequestHead { method, path, host, headers, content_type, content_length } = self;
        let kind = if *content_length > 0 { format!("content-type: {content_type}\r\n") } else { String::new() };
        out.extend_from_slice(
            format!(
                "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}{kind}content-length: {content_length}\r\n\r\n"
            )
            .as_bytes(),
        );
    }
}

fn status(head: &str) -> anyhow::Result<u16> {
    let line = head.lines().next().unwrap_or_default();
    match line.strip_prefix("HTTP/1.1 ") {
        Some(rest) => rest.get(..3).and_then(|s| s.parse().ok()).ok_or_else(|| anyhow!("status line {line}")),
        None if line.ends_with(" HTTP/1.1") => Ok(0),
        None => bail!("not HTTP/1.1: {line}"),
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A chunked body and the number of bytes it took on the wire; `None` when its end has not come yet.
fn chunked(bytes: &[u8]) -> anyhow::Result<Option<(Vec<u8>, usize)>> {
    let mut chunks = Vec::new();
    let mut at = 0;
    loop {
        let Some(line_end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&bytes[at..at + line_end]).context("chunk size")?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {line}"))?;
        at += line_end + 2;
        let end = at.checked_add(size).ok_or_else(|| anyhow!("chunk size {line}"))?;
        if bytes.len() < end + 2 {
            return Ok(None);
        }
        if size == 0 {
            ensure!(&bytes[at..at + 2] == b"\r\n", "trailers are not supported");
            return Ok(Some((chunks.concat(), at + 2)));
        }
        chunks.push(&bytes[at..end]);
        at = end + 2;
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_length_says() {
        let check = |text: &str, expected: Option<(u16, &str, usize)>| {
            let message = Message::parse(text.as_bytes()).unwrap();
            let got = message.as_ref().map(|m| (m.status, std::str::from_utf8(&m.body).unwrap(), m.length));
            assert_eq!(got, expected, "{text:?}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Some((200, "hi", 40)));
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP", Some((200, "hi", 40)));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", None);
        check("HTTP/1.1 200 OK\r\nContent-Le", None);
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "", 27)));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n3;x=y\r\nyou\r\n0\r\n\r\n";
        check(chunked, Some((200, "hiyou", chunked.len())));
        for cut in 1..chunked.len() {
            check(&chunked[..chunked.len() - cut], None);
        }
    }

    #[test]
    fn a_chunked_answer_is_looked_at_when_it_may_have_ended() {
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert!(Message::may_be_whole(chunked));
        assert!(!Message::may_be_whole(&chunked[..chunked.len() - 3]));
        assert!(Message::may_be_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"), "cheap to parse");
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        ] {
            assert!(Message::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
