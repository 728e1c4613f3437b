//! The change feed as server-sent events.

use std::collections::VecDeque;
use std::time::Duration;

use lockstep_contract::services::feed::EventList;
use lockstep_contract::services::resource_model::ResourceFilter;
use lockstep_contract::{Data, Encoding, Place, PlainJson, Wire};

use crate::client::{Client, text_header};
use crate::error::{self, ClientError};
use crate::request::Query;

/// The first wait before connecting again, unless the site asks for another.
const WAIT_MIN: Duration = Duration::from_millis(200);

/// The longest wait before connecting again.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Tries to connect again without an event in between; about a minute.
const TRIES_MAX: u32 = 15;

/// Longest event. A longer one is not of a site.
const EVENT_BYTES_MAX: usize = 256 << 20;

/// Which changes to be told.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only resources of these types; empty: all.
    pub resource_types: Vec<String>,
    /// Only resources that match, before or after.
    pub filter: Option<ResourceFilter>,
    /// Whether a token that has aged out is answered by a catch-up instead of an error.
    pub catch_up: bool,
}

/// The changes after a token, without end.
#[derive(Debug)]
pub struct Events {
    client: Client,
    filter: EventFilter,
    /// Where to go on.
    token: String,
    response: Option<reqwest::Response>,
    parser: Parser,
    ready: VecDeque<Message>,
    wait: Duration,
    tries: u32,
}

impl Client {
    /// The changes after `token`. Nothing is sent before the first [`Events::next`].
    pub fn events(&self, token: impl Into<String>, filter: EventFilter) -> Events {
        Events {
            client: self.clone(),
            filter,
            token: token.into(),
            response: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            wait: WAIT_MIN,
            tries: 0,
        }
    }
}

impl Events {
    /// The token behind what [`Events::next`] has answered: where another reader would go on.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Waits for the next changes. A connection that breaks is made again, from the last token on.
    ///
    /// # Errors
    /// `invalid_argument` for a token that is invalid or has expired, and for a filter that does not fit; what hinders a call.
    pub async fn next(&mut self) -> Result<EventList, ClientError> {
        loop {
            while let Some(message) = self.ready.pop_front() {
                if let Some(list) = self.take(message)? {
                    self.tries = 0;
                    return Ok(list);
                }
            }
            if let Err(error) = self.receive().await {
                self.response = None;
                self.tries += 1;
                if !error.is_transient() || self.tries > TRIES_MAX {
                    return Err(error);
                }
                tokio::time::sleep((self.wait * 2_u32.pow(self.tries.min(8) - 1)).min(WAIT_MAX.max(self.wait))).await;
            }
        }
    }

    /// Reads on until there is a message or the connection ends.
    async fn receive(&mut self) -> Result<(), ClientError> {
        let response = match &mut self.response {
            Some(response) => response,
            None => {
                let response = self.connect().await?;
                self.parser = Parser::default();
                self.response.insert(response)
            }
        };
        match response.chunk().await {
            Ok(Some(chunk)) => {
                self.parser.push(&chunk, &mut self.ready);
                if self.parser.is_too_long() {
                    let reason = format!("an event is longer than {EVENT_BYTES_MAX} bytes");
                    return Err(ClientError::Broken { url: self.client.url().to_owned(), reason });
                }
                Ok(())
            }
            Ok(None) => {
                let reason = "the site ended the stream".to_owned();
                Err(ClientError::Broken { url: self.client.url().to_owned(), reason })
            }
            Err(error) => Err(error::transport(self.client.url(), &error)),
        }
    }

    async fn connect(&self) -> Result<reqwest::Response, ClientError> {
        let mut query = Query::default();
        query.push("sequence_token", &self.token);
        for name in &self.filter.resource_types {
            query.push("resource_types", name);
        }
        if let Some(filter) = &self.filter.filter {
            let mut json = PlainJson::default();
            filter.encode(&mut json);
            query.push("filter", &String::from_utf8_lossy(&json.out));
        }
        if self.filter.catch_up {
            query.push("catch_up", "true");
        }
        let url = self.client.at(&format!("/api/lockstep/feed/events{}", query.text));
        let build = || {
            let builder = self.client.http().get(&url).header(http::header::ACCEPT, "text/event-stream");
            builder.header("last-event-id", &self.token)
        };
        let response = Box::pin(self.client.send(build)).await?;
        let content_type = text_header(response.headers(), "content-type").unwrap_or_default();
        if content_type.starts_with("text/event-stream") {
            return Ok(response);
        }
        let status = response.status().as_u16();
        Err(ClientError::Foreign {
            url: self.client.url().to_owned(),
            status,
            excerpt: format!("content type {content_type:?}"),
        })
    }

    /// What a message says: changes, or nothing but that the stream is alive.
    fn take(&mut self, message: Message) -> Result<Option<EventList>, ClientError> {
        if let Some(retry) = message.retry {
            self.wait = retry;
        }
        if let Some(id) = message.id {
            self.token = id;
        }
        if message.data.is_empty() {
            return Ok(None);
        }
        let foreign =
            |excerpt: String| ClientError::Foreign { url: self.client.url().to_owned(), status: 200, excerpt };
        match &*message.event {
            "error" => Err(match error::read_error(message.data.as_bytes()) {
                Some(error) => ClientError::Refusal { status: error.kind.status(), error },
                None => foreign(error::excerpt(message.data.as_bytes())),
            }),
            _ => {
                let data = Data::from_json(message.data.as_bytes()).map_err(foreign)?;
                let list = EventList::decode(data, &Place::root(Encoding::Plain))
                    .map_err(|fault| ClientError::Misfit { operation: "events".to_owned(), fault })?;
                Ok(Some(list))
            }
        }
    }
}

/// A message of an event stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Message {
    event: String,
    data: String,
    /// The token behind this message. The site sends one in each, so none has to be remembered from those before.
    id: Option<String>,
    retry: Option<Duration>,
}

/// Takes an event stream apart, whatever the pieces it comes in.
///
/// Source: the WHATWG HTML standard, "Server-sent events", 9.2.6. A message without data is told too: its id counts.
#[derive(Debug, Default)]
struct Parser {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// The last line ended in a carriage return, so a line feed that follows belongs to it.
    after_return: bool,
    is_begun: bool,
    message: Message,
    has_data: bool,
}

impl Parser {
    fn push(&mut self, chunk: &[u8], out: &mut VecDeque<Message>) {
        let mut rest = chunk;
        if std::mem::take(&mut self.after_return) && rest.first() == Some(&b'\n') {
            rest = &rest[1..];
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            self.line.extend_from_slice(&rest[..end]);
            self.end_line(out);
            let is_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            match (is_return, rest.first()) {
                (true, Some(b'\n')) => rest = &rest[1..],
                (true, None) => self.after_return = true,
                _ => {}
            }
        }
        self.line.extend_from_slice(rest);
    }

    fn is_too_long(&self) -> bool {
        self.line.len() + self.message.data.len() > EVENT_BYTES_MAX
    }

    fn end_line(&mut self, out: &mut VecDeque<Message>) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line =
            if std::mem::replace(&mut self.is_begun, true) { &*line } else { line.trim_start_matches('\u{feff}') };
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            if std::mem::take(&mut self.has_data) || message.id.is_some() || message.retry.is_some() {
                out.push_back(message);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.event),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            "id" => self.message.id = Some(value.to_owned()),
            "retry" => self.message.retry = value.parse().ok().map(Duration::from_millis),
            // A comment has no field name; it keeps the connection alive.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<Message> {
        let (mut parser, mut out) = (Parser::default(), VecDeque::new());
        pieces.iter().for_each(|piece| parser.push(piece, &mut out));
        out.into()
    }

    fn message(event: &str, data: &str) -> Message {
        Message { event: event.to_owned(), data: data.to_owned(), ..Message::default() }
    }

    #[test]
    fn a_stream_is_read_the_same_in_any_pieces() {
        let stream = "\u{feff}: hello\nretry: 1500\n\nevent: changes\nid: 7\ndata: {\"a\":\ndata: 1}\n\n:\n\nid: 8\n\nevent: lost\n\ndata:ü\r\n\r\ndata\rdata\r\rdata: no end";
        let expected = [
            Message { retry: Some(Duration::from_millis(1500)), ..Message::default() },
            Message { id: Some("7".to_owned()), ..message("changes", "{\"a\":\n1}") },
            Message { id: Some("8".to_owned()), ..Message::default() },
            message("", "ü"),
            message("", "\n"),
        ];
        assert_eq!(parse(&[stream.as_bytes()]), expected);
        for at in 0..stream.len() {
            let (one, two) = stream.as_bytes().split_at(at);
            assert_eq!(parse(&[one, two]), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(parse(&bytes), expected);
    }
}
