//! One kept connection, one request at a time, blocking.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::http::message::{Message, RequestHead};

/// How long a single read may wait before the run is given up: longer than any long poll.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A kept connection to a server.
pub struct Client {
    stream: Stream,
    host: String,
    tls: Option<Arc<ClientConfig>>,
    used: Instant,
    /// Header lines of every request, e.g. the session.
    headers: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A request's body that is no JSON.
pub enum Upload<'a> {
    /// A whole file; it stands at its beginning.
    File(&'a mut File),
    Bytes(&'a [u8]),
}

/// A connection that was idle for longer is not used again.
const IDLE_MAX: Duration = Duration::from_secs(30);

fn open(address: &str, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<Stream> {
    let tcp = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(match tls {
        None => Stream::Plain(tcp),
        Some(config) => {
            let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
            let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())?;
            Stream::Tls(Box::new(StreamOwned::new(ClientConnection::new(config.clone(), name)?, tcp)))
        }
    })
}

impl Client {
    /// Connects to `host:port`, by TLS when a configuration is given.
    pub fn connect(address: &str, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<Self> {
        Ok(Client {
            stream: open(address, tls)?,
            host: address.to_owned(),
            tls: tls.cloned(),
            used: Instant::now(),
            headers: String::new(),
            request: Vec::new(),
            answer: Vec::new(),
        })
    }

    /// Connects anew when the connection has been idle for so long that the server may have closed it: while another engine
    /// had its turn.
    fn refresh(&mut self) -> anyhow::Result<()> {
        if self.used.elapsed() > IDLE_MAX {
            self.stream = open(&self.host, self.tls.as_ref())?;
        }
        self.used = Instant::now();
        Ok(())
    }

    /// Sends `name: value` with every request from here on.
    pub fn set_header(&mut self, name: &str, value: &str) {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
    }

    /// Sends a request with a JSON body, or none when `body` is empty, and waits for the whole answer.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Message<'_>> {
        self.refresh()?;
        self.send(method, path, body)?;
        self.receive()
    }

    /// As [`Client::request`], with the time from the first byte sent to the last byte received.
    pub fn timed(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(Message<'_>, Duration)> {
        self.refresh()?;
        let begin = Instant::now();
        self.send(method, path, body)?;
        let length = self.fill()?;
        let time = begin.elapsed();
        Ok((self.message(length)?, time))
    }

    /// Sends a request whose body is as large as one likes: a file is read as it goes out.
    pub fn upload(&mut self, path: &str, content_type: &str, body: Upload<'_>) -> anyhow::Result<Message<'_>> {
        let content_length = match &body {
            Upload::File(file) => file.metadata()?.len(),
            Upload::Bytes(bytes) => bytes.len() as u64,
        };
        self.request.clear();
        RequestHead { method: "POST", path, host: &self.host, headers: &self.headers, content_type, content_length }
            .write(&mut self.request);
        self.stream.writer().write_all(&self.request)?;
        let sent = match (body, &mut self.stream) {
            // The standard library does this with `sendfile`: the client shares the cores with the server that is measured.
            (Upload::File(file), Stream::Plain(stream)) => std::io::copy(file, stream).map(drop),
            (Upload::File(file), Stream::Tls(stream)) => {
                std::io::copy(&mut BufReader::with_capacity(1 << 20, file), stream.as_mut()).map(drop)
            }
            (Upload::Bytes(bytes), stream) => stream.writer().write_all(bytes),
        };
        if let Err(error) = sent {
            // A server that refuses the body answers and closes: its answer says more than the broken pipe.
            return self.receive().map_err(|_| anyhow::Error::new(error).context("send the body"));
        }
        self.stream.writer().flush()?;
        self.receive()
    }

    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<()> {
        self.request.clear();
        RequestHead {
            method,
            path,
            host: &self.host,
            headers: &self.headers,
            content_type: "application/json",
            content_length: body.len() as u64,
        }
        .write(&mut self.request);
        self.request.extend_from_slice(body);
        let writer = self.stream.writer();
        writer.write_all(&self.request)?;
        writer.flush()?;
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Message<'_>> {
        let length = self.fill()?;
        self.message(length)
    }

    /// Reads until the buffer's first `length` bytes are one whole answer. Nothing follows it: requests are not pipelined.
    fn fill(&mut self) -> anyhow::Result<usize> {
        let mut filled = 0;
        loop {
            if self.answer.len() - filled < 16 << 10 {
                let grown = (self.answer.len() * 2).max(64 << 10);
                self.answer.resize(grown, 0);
            }
            let n = self.stream.reader().read(&mut self.answer[filled..]).context("read the answer")?;
            if n == 0 {
                bail!("the server closed the connection");
            }
            filled += n;
            let read = &self.answer[..filled];
            if Message::may_be_whole(read)
                && let Some(message) = Message::parse(read)?
            {
                return Ok(message.length);
            }
        }
    }

    fn message(&self, length: usize) -> anyhow::Result<Message<'_>> {
        Message::parse(&self.answer[..length])?.context("an answer shorter than it was")
    }
}

impl Stream {
    fn reader(&mut self) -> &mut dyn Read {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.as_mut(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.as_mut(),
        }
    }
}
