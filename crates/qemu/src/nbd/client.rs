//! A client of NBD that has several requests in flight on one connection.
//!
//! Two tasks serve a connection: one writes frames that are queued whole, so that a caller who goes away never leaves half a request
//! behind; the other reads replies into the buffers of those who wait. The first fault of the connection is what all who wait,
//! and all who ask later, are told. Dropping the last [`Client`] ends both.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Status;
use super::wire::{self, Chunk, Request};
use crate::{Error, Result};

/// Requests in flight on a connection; the next one waits.
pub const IN_FLIGHT_MAX: usize = 16;
/// How long the handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a reply may take; a connection that is slower is given up.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that are read ahead: enough for the heads of replies. Data goes past it, straight to who waits.
const READ_AHEAD_BYTES: usize = 4 << 10;
/// Replies to one option of the handshake.
const OPTION_REPLIES_MAX: usize = 64;
/// Bytes of one block status request: servers answer less than is asked anyway.
const STATUS_BYTES_MAX: u64 = 1 << 30;

const PEER: &str = "the NBD server";

type Input = BufReader<Box<dyn AsyncRead + Send + Unpin>>;
type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Where an NBD server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A UNIX socket.
    Unix(PathBuf),
    /// `host:port`; an IPv6 address in brackets.
    Tcp(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// A connection to one export. Clones share it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<[u8; wire::REQUEST_BYTES]>,
    permits: Arc<Semaphore>,
    export: Arc<Export>,
    /// Ends the reading task with the last clone.
    _end: Arc<EndOnDrop>,
}

/// What the handshake told.
struct Export {
    bytes: u64,
    flags: u16,
    /// Reads are at most this long.
    read_bytes_max: usize,
    contexts: Vec<(u32, String)>,
}

#[derive(Default)]
struct Shared {
    cookie: AtomicU64,
    /// Held for a look-up or an insertion.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Pending>,
    /// Why the connection is over.
    fault: Option<String>,
}

/// A request that waits for its reply.
struct Pending {
    want: Want,
    errno: Option<u32>,
    reply: oneshot::Sender<Result<Want, Fault>>,
    _permit: OwnedSemaphorePermit,
}

/// The reply as far as it has come.
enum Want {
    Data(Data),
    Statuses { context: u32, offset: u64, end: u64, statuses: Vec<Status> },
    Done,
}

/// The data of a read.
struct Data {
    offset: u64,
    /// How many bytes were asked for.
    asked: usize,
    /// Grows as they come, and is whole from the start only if they come in another order.
    buffer: Vec<u8>,
    received: usize,
}

/// Where a part of it goes.
enum Place<'a> {
    /// Behind what has come.
    Next(&'a mut Vec<u8>),
    /// Within a buffer that is whole.
    Within(&'a mut [u8]),
}

/// Why a request has no reply.
enum Fault {
    Errno(u32),
    Connection(String),
}

struct EndOnDrop(tokio::task::AbortHandle);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("bytes", &self.export.bytes).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to an export, with the meta contexts that will be asked for.
    ///
    /// # Errors
    /// [`Error::Export`] when there is no such export, or not all of the contexts.
    pub async fn connect(address: &Address, export: &str, contexts: &[&str]) -> Result<Self> {
        let connect = async {
            let what = || format!("connecting to {address}");
            let (input, output): (Box<dyn AsyncRead + Send + Unpin>, Output) = match address {
                Address::Unix(path) => {
                    let (input, output) = UnixStream::connect(path).await.map_err(Error::io(what()))?.into_split();
                    (Box::new(input), Box::new(output))
                }
                Address::Tcp(host) => {
                    let stream = TcpStream::connect(host.as_str()).await.map_err(Error::io(what()))?;
                    stream.set_nodelay(true).map_err(Error::io(what()))?;
                    let (input, output) = stream.into_split();
                    (Box::new(input), Box::new(output))
                }
            };
            let mut handshake = Handshake { input: BufReader::with_capacity(READ_AHEAD_BYTES, input), output };
            let export = handshake.run(export, contexts).await?;
            Ok(Self::start(handshake, export))
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, connect)
            .await
            .map_err(|_| Error::Timeout { what: format!("the handshake with {address}"), limit: HANDSHAKE_TIMEOUT })?
    }

    fn start(handshake: Handshake, export: Export) -> Self {
        let shared = Arc::new(Shared::default());
        let (requests, queue) = mpsc::unbounded_channel();
        tokio::spawn(write(handshake.output, queue, Arc::clone(&shared)));
        let reading = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let fault = match read(handshake.input, &shared).await {
                    Ok(()) => "the server closed it".to_owned(),
                    Err(error) => reason(&error),
                };
                shared.fail(fault);
            })
        };
        Self {
            shared,
            requests,
            permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            export: Arc::new(export),
            _end: Arc::new(EndOnDrop(reading.abort_handle())),
        }
    }

    /// The size of the export.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.export.bytes
    }

    /// Whether the server takes [`Client::trim`].
    #[must_use]
    pub fn can_trim(&self) -> bool {
        self.export.flags & wire::SEND_TRIM != 0 && self.export.flags & wire::READ_ONLY == 0
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().fault.is_some()
    }

    /// Reads at most [`READ_BYTES_MAX`](wire::READ_BYTES_MAX) bytes, all of which are inside the export.
    ///
    /// # Errors
    /// [`Error::Request`] when the server cannot read them.
    pub async fn read(&self, offset: u64, bytes: usize) -> Result<Bytes> {
        if bytes > wire::READ_BYTES_MAX {
            let (limit, found) = (wire::READ_BYTES_MAX as u64, bytes as u64);
            return Err(Error::Limit { what: "the length of a read", limit, found });
        }
        self.check_range(offset, bytes as u64)?;
        let step = self.export.read_bytes_max;
        if bytes <= step {
            return self.read_once(offset, bytes).await.map(Bytes::from);
        }
        let mut all = Vec::with_capacity(bytes);
        while all.len() < bytes {
            all.extend(self.read_once(offset + all.len() as u64, step.min(bytes - all.len())).await?);
        }
        Ok(all.into())
    }

    async fn read_once(&self, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let data = Data { offset, asked: bytes, buffer: Vec::with_capacity(bytes), received: 0 };
        match self.request("read", wire::CMD_READ, offset, bytes as u64, Want::Data(data)).await? {
            Want::Data(data) if data.received == bytes => Ok(data.buffer),
            Want::Data(data) => Err(protocol(format!("{} of {bytes} bytes were sent", data.received))),
            _ => Err(protocol("the reply is of another kind".into())),
        }
    }

    /// What a context says of a range, in order and without gaps, to the end of the range.
    ///
    /// # Errors
    /// [`Error::Limit`] when there are more than `statuses_max` ranges, [`Error::Request`] when the server cannot tell.
    pub async fn statuses(&self, context: &str, offset: u64, bytes: u64, statuses_max: usize) -> Result<Vec<Status>> {
        self.check_range(offset, bytes)?;
        let Some((id, _)) = self.export.contexts.iter().find(|(_, name)| name == context) else {
            return Err(Error::Invalid {
                what: format!("the meta context {context}"),
                reason: "it was not asked for".into(),
            });
        };
        let end = offset + bytes;
        let mut all: Vec<Status> = Vec::new();
        let mut at = offset;
        while at < end {
            let bytes = (end - at).min(STATUS_BYTES_MAX);
            let want = Want::Statuses { context: *id, offset: at, end: at + bytes, statuses: Vec::new() };
            let reply = self.request("block status", wire::CMD_BLOCK_STATUS, at, bytes, want).await?;
            let Want::Statuses { statuses, offset: reached, .. } = reply else {
                return Err(protocol("the reply is of another kind".into()));
            };
            if reached == at {
                return Err(protocol(format!("no status was sent for byte {at}")));
            }
            for status in statuses {
                match all.last_mut() {
                    Some(last) if last.flags == status.flags => last.bytes += status.bytes,
                    _ => all.push(status),
                }
            }
            if all.len() > statuses_max {
                let (limit, found) = (statuses_max as u64, all.len() as u64);
                return Err(Error::Limit { what: "the number of ranges of a disk", limit, found });
            }
            at = reached;
        }
        Ok(all)
    }

    /// Tells the server that a range is not needed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it does not take that.
    pub async fn trim(&self, offset: u64, bytes: u64) -> Result<()> {
        if !self.can_trim() {
            let reason = "the export is read-only or cannot".into();
            return Err(Error::Unsupported { what: "trimming".into(), reason });
        }
        self.check_range(offset, bytes)?;
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let step = (end - at).min(STATUS_BYTES_MAX);
            self.request("trim", wire::CMD_TRIM, at, step, Want::Done).await?;
            at += step;
        }
        Ok(())
    }

    /// Says goodbye; what is in flight may go unanswered.
    pub fn disconnect(self) {
        let request = Request { flags: 0, command: wire::CMD_DISCONNECT, cookie: 0, offset: 0, bytes: 0 };
        let _ = self.requests.send(request.encode());
    }

    fn check_range(&self, offset: u64, bytes: u64) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.export.bytes => Ok(()),
            _ => Err(Error::Invalid {
                what: format!("the range of {bytes} bytes at {offset}"),
                reason: format!("the disk has {} bytes", self.export.bytes),
            }),
        }
    }

    async fn request(&self, what: &'static str, command: u16, offset: u64, bytes: u64, want: Want) -> Result<Want> {
        let length = u32::try_from(bytes).map_err(|_| Error::Limit {
            what: "the length of a request",
            limit: u32::MAX.into(),
            found: bytes,
        })?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| self.closed())?;
        let cookie = self.shared.cookie.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            if let Some(fault) = &state.fault {
                return Err(Error::Closed { peer: PEER, reason: fault.clone() });
            }
            state.pending.insert(cookie, Pending { want, errno: None, reply, _permit: permit });
        }
        let request = Request { flags: 0, command, cookie, offset, bytes: length };
        if self.requests.send(request.encode()).is_err() {
            return Err(self.closed());
        }
        match tokio::time::timeout(REPLY_TIMEOUT, answer).await {
            Ok(Ok(Ok(want))) => Ok(want),
            Ok(Ok(Err(Fault::Errno(errno)))) => Err(Error::Request { what, offset, errno }),
            Ok(Ok(Err(Fault::Connection(reason)))) => Err(Error::Closed { peer: PEER, reason }),
            Ok(Err(_)) => Err(self.closed()),
            Err(_) => {
                self.shared.fail(format!("a reply took longer than {REPLY_TIMEOUT:?}"));
                Err(Error::Timeout { what: format!("the reply to a {what}"), limit: REPLY_TIMEOUT })
            }
        }
    }

    fn closed(&self) -> Error {
        let reason = self.shared.state.lock().fault.clone();
        Error::Closed { peer: PEER, reason: reason.unwrap_or_else(|| "it ended".into()) }
    }
}

impl Shared {
    /// The first fault stays.
    fn fail(&self, fault: String) {
        let pending = {
            let mut state = self.state.lock();
            state.fault.get_or_insert_with(|| fault.clone());
            std::mem::take(&mut state.pending)
        };
        for (_, pending) in pending {
            let _ = pending.reply.send(Err(Fault::Connection(fault.clone())));
        }
    }

    fn take(&self, cookie: u64) -> Result<Pending> {
        let found = self.state.lock().pending.remove(&cookie);
        found.ok_or_else(|| protocol("it answered what was not asked".into()))
    }

    /// Gives back what [`Shared::take`] took, unless the connection failed in between.
    fn put(&self, cookie: u64, pending: Pending) {
        let mut state = self.state.lock();
        match &state.fault {
            None => {
                state.pending.insert(cookie, pending);
            }
            Some(fault) => {
                let _ = pending.reply.send(Err(Fault::Connection(fault.clone())));
            }
        }
    }
}

async fn write(mut output: Output, mut queue: mpsc::UnboundedReceiver<[u8; wire::REQUEST_BYTES]>, shared: Arc<Shared>) {
    let mut frames = Vec::new();
    while let Some(frame) = queue.recv().await {
        frames.clear();
        frames.extend_from_slice(&frame);
        while let Ok(frame) = queue.try_recv() {
            frames.extend_from_slice(&frame);
        }
        if let Err(error) = output.write_all(&frames).await {
            shared.fail(error.to_string());
            return;
        }
    }
    let _ = output.shutdown().await;
}

/// Reads replies until the server closes.
async fn read(mut input: Input, shared: &Shared) -> Result<()> {
    loop {
        let magic = match input.read_u32().await {
            Ok(magic) => magic,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(receiving(error)),
        };
        match magic {
            wire::CHUNK_MAGIC => {
                let mut head = [0; wire::CHUNK_BYTES - 4];
                input.read_exact(&mut head).await.map_err(receiving)?;
                let chunk = Chunk::decode(&head);
                let mut pending = shared.take(chunk.cookie)?;
                let result = read_chunk(&mut input, chunk, &mut pending).await;
                let is_done = chunk.flags & wire::CHUNK_DONE != 0;
                match result {
                    Ok(()) if is_done => pending.answer(),
                    Ok(()) => shared.put(chunk.cookie, pending),
                    Err(error) => {
                        let _ = pending.reply.send(Err(Fault::Connection(reason(&error))));
                        return Err(error);
                    }
                }
            }
            // With structured replies negotiated, a simple one never has data.
            wire::SIMPLE_MAGIC => {
                let errno = input.read_u32().await.map_err(receiving)?;
                let cookie = input.read_u64().await.map_err(receiving)?;
                let mut pending = shared.take(cookie)?;
                if errno != 0 {
                    pending.errno = Some(errno);
                } else if !matches!(pending.want, Want::Done) {
                    return Err(protocol("a reply has no structure".into()));
                }
                pending.answer();
            }
            other => return Err(protocol(format!("a reply begins with {other:#x}"))),
        }
    }
}

impl Pending {
    fn answer(self) {
        let answer = match self.errno {
            Some(errno) => Err(Fault::Errno(errno)),
            None => Ok(self.want),
        };
        let _ = self.reply.send(answer);
    }
}

async fn read_chunk(input: &mut Input, chunk: Chunk, pending: &mut Pending) -> Result<()> {
    let bytes = chunk.bytes as usize;
    match chunk.kind {
        kind if kind & wire::CHUNK_ERROR != 0 => {
            let body = read_body(input, bytes, wire::OPTION_BYTES_MAX).await?;
            let errno = body.as_slice().try_get_u32().map_err(|_| protocol("an error has no number".into()))?;
            pending.errno.get_or_insert(errno);
            Ok(())
        }
        wire::CHUNK_NONE if bytes == 0 => Ok(()),
        wire::CHUNK_OFFSET_DATA if bytes >= 8 => {
            let offset = input.read_u64().await.map_err(receiving)?;
            match pending.place(offset, bytes - 8)? {
                Place::Next(buffer) => append(input, buffer, bytes - 8).await,
                Place::Within(part) => input.read_exact(part).await.map(drop).map_err(receiving),
            }
        }
        wire::CHUNK_OFFSET_HOLE if bytes == 12 => {
            let offset = input.read_u64().await.map_err(receiving)?;
            let hole = input.read_u32().await.map_err(receiving)? as usize;
            match pending.place(offset, hole)? {
                Place::Next(buffer) => buffer.resize(buffer.len() + hole, 0),
                Place::Within(part) => part.fill(0),
            }
            Ok(())
        }
        wire::CHUNK_BLOCK_STATUS if bytes >= 4 && (bytes - 4).is_multiple_of(8) => {
            let body = read_body(input, bytes, 4 + 8 * wire::STATUSES_MAX).await?;
            pending.add_statuses(&body)
        }
        kind => Err(protocol(format!("a chunk of kind {kind} has {bytes} bytes"))),
    }
}

impl Pending {
    /// Where data of a read goes.
    fn place(&mut self, at: u64, bytes: usize) -> Result<Place<'_>> {
        let Want::Data(Data { offset, asked, buffer, received }) = &mut self.want else {
            return Err(protocol("data came that was not asked for".into()));
        };
        let start = at.checked_sub(*offset).and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?)).filter(|range| range.end <= *asked);
        // Each byte comes once, so what was received can be counted.
        *received = received.saturating_add(bytes);
        let Some(range) = range.filter(|_| *received <= *asked) else {
            return Err(protocol(format!("{bytes} bytes came for byte {at}, outside of what was asked for")));
        };
        if range.start == buffer.len() {
            return Ok(Place::Next(buffer));
        }
        buffer.resize(*asked, 0);
        Ok(Place::Within(&mut buffer[range]))
    }

    fn add_statuses(&mut self, mut body: &[u8]) -> Result<()> {
        let Want::Statuses { context, offset, end, statuses } = &mut self.want else {
            return Err(protocol("a block status came that was not asked for".into()));
        };
        if body.get_u32() != *context {
            // Another context of the connection.
            return Ok(());
        }
        while body.len() >= 8 {
            let (bytes, flags) = (u64::from(body.get_u32()), body.get_u32());
            if bytes == 0 {
                return Err(protocol("a block status has no length".into()));
            }
            // The last one may reach further than was asked.
            let bytes = bytes.min(*end - *offset);
            if bytes == 0 {
                break;
            }
            statuses.push(Status { offset: *offset, bytes, flags });
            *offset += bytes;
        }
        Ok(())
    }
}

/// Reads so many bytes behind those that are there.
async fn append(input: &mut Input, buffer: &mut Vec<u8>, bytes: usize) -> Result<()> {
    let mut room = buffer.limit(bytes);
    while room.has_remaining_mut() {
        if input.read_buf(&mut room).await.map_err(receiving)? == 0 {
            return Err(receiving(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(())
}

async fn read_body(input: &mut Input, bytes: usize, bytes_max: usize) -> Result<Vec<u8>> {
    if bytes > bytes_max {
        let (limit, found) = (bytes_max as u64, bytes as u64);
        return Err(Error::Limit { what: "the length of a reply of the NBD server", limit, found });
    }
    let mut body = vec![0; bytes];
    input.read_exact(&mut body).await.map_err(receiving)?;
    Ok(body)
}

/// A connection that is not yet in use.
struct Handshake {
    input: Input,
    output: Output,
}

impl Handshake {
    async fn run(&mut self, export: &str, contexts: &[&str]) -> Result<Export> {
        let names = contexts.iter().map(|name| name.len() + 4).sum::<usize>() + export.len() + 16;
        if names > wire::OPTION_BYTES_MAX || export.len() > wire::NAME_BYTES_MAX {
            let (limit, found) = (wire::NAME_BYTES_MAX as u64, names as u64);
            return Err(Error::Limit { what: "the length of an export's name", limit, found });
        }
        let magic = self.input.read_u64().await.map_err(receiving)?;
        let option_magic = self.input.read_u64().await.map_err(receiving)?;
        if magic != wire::MAGIC || option_magic != wire::OPTION_MAGIC {
            return Err(protocol("it does not greet as NBD newstyle does".into()));
        }
        let flags = self.input.read_u16().await.map_err(receiving)?;
        if flags & wire::FIXED_NEWSTYLE == 0 {
            return Err(protocol("it does not speak the fixed newstyle".into()));
        }
        self.send(&u32::from(flags & (wire::FIXED_NEWSTYLE | wire::NO_ZEROES)).to_be_bytes()).await?;
        self.option(wire::OPT_STRUCTURED_REPLY, "structured replies", &[]).await?;
        let contexts = self.contexts(export, contexts).await?;
        let mut data = Vec::new();
        wire::put_string(&mut data, export);
        // The block sizes are asked for: a server may then name its limit of a request.
        data.extend_from_slice(&1u16.to_be_bytes());
        data.extend_from_slice(&wire::INFO_BLOCK_SIZE.to_be_bytes());
        let mut found = None;
        let mut read_bytes_max = wire::READ_BYTES_MAX;
        for (_, info) in self.option(wire::OPT_GO, "the export", &data).await? {
            let mut info = info.as_slice();
            match (info.try_get_u16(), info.len()) {
                (Ok(wire::INFO_EXPORT), 10) => found = Some((info.get_u64(), info.get_u16())),
                (Ok(wire::INFO_BLOCK_SIZE), 12) => {
                    let (least, most) = (info.get_u32(), (info.get_u32(), info.get_u32()).1);
                    if least > 512 || most < 65536 {
                        return Err(protocol(format!("its block sizes are {least} to {most}")));
                    }
                    read_bytes_max = read_bytes_max.min((most - most % 512) as usize);
                }
                _ => {}
            }
        }
        let (bytes, flags) = found.ok_or_else(|| protocol("it did not say how large the export is".into()))?;
        if bytes > i64::MAX as u64 {
            return Err(Error::Limit { what: "the size of the export", limit: i64::MAX as u64, found: bytes });
        }
        Ok(Export { bytes, flags, read_bytes_max, contexts })
    }

    async fn contexts(&mut self, export: &str, names: &[&str]) -> Result<Vec<(u32, String)>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut data = Vec::new();
        wire::put_string(&mut data, export);
        data.extend_from_slice(&u32::try_from(names.len()).unwrap_or(u32::MAX).to_be_bytes());
        for name in names {
            wire::put_string(&mut data, name);
        }
        let mut contexts = Vec::new();
        for (kind, reply) in self.option(wire::OPT_SET_META_CONTEXT, "the meta contexts", &data).await? {
            if kind == wire::REP_META_CONTEXT {
                let mut reply = reply.as_slice();
                let id = reply.try_get_u32().map_err(|_| protocol("a meta context has no number".into()))?;
                let name = String::from_utf8_lossy(reply).into_owned();
                contexts.push((id, name));
            }
        }
        match names.iter().find(|name| !contexts.iter().any(|(_, found)| found == *name)) {
            Some(missing) => {
                let reason = format!("there is no {missing} of export {export:?}");
                Err(Error::Export { what: "a meta context", reason })
            }
            None => Ok(contexts),
        }
    }

    /// Sends an option and gives the replies before its end.
    async fn option(&mut self, option: u32, what: &'static str, data: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
        self.send(&wire::option(option, data)).await?;
        let mut replies = Vec::new();
        loop {
            let magic = self.input.read_u64().await.map_err(receiving)?;
            let answered = self.input.read_u32().await.map_err(receiving)?;
            if magic != wire::OPTION_REPLY_MAGIC || answered != option {
                return Err(protocol("it answered an option that was not sent".into()));
            }
            let kind = self.input.read_u32().await.map_err(receiving)?;
            let bytes = self.input.read_u32().await.map_err(receiving)?;
            let body = read_body(&mut self.input, bytes as usize, wire::OPTION_BYTES_MAX).await?;
            match kind {
                wire::REP_ACK => return Ok(replies),
                kind if kind & wire::REP_ERROR != 0 => {
                    let text = String::from_utf8_lossy(&body);
                    let reason = if text.is_empty() { format!("error {:#x}", kind) } else { text.into_owned() };
                    return Err(Error::Export { what, reason });
                }
                kind if replies.len() < OPTION_REPLIES_MAX => replies.push((kind, body)),
                _ => {
                    let limit = OPTION_REPLIES_MAX as u64;
                    return Err(Error::Limit { what: "the number of replies to an option", limit, found: limit + 1 });
                }
            }
        }
    }

    async fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.output.write_all(frame).await.map_err(Error::io("writing to the NBD server"))
    }
}

fn receiving(error: std::io::Error) -> Error {
    Error::Closed { peer: PEER, reason: error.to_string() }
}

fn protocol(problem: String) -> Error {
    Error::Protocol { peer: PEER, problem }
}

/// The words for those whose requests an error ended.
fn reason(error: &Error) -> String {
    match error {
        Error::Closed { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}
