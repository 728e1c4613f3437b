//! A read-only server of NBD: instances of disks, for QEMU and its tools to read where they are.
//!
//! Each client is a task; each of its requests is one more, at most [`Limits::in_flight`] at a time. What a read answers is
//! taken from the disk and sent a piece at a time, so a client costs `in_flight` pieces of memory however long its reads are and
//! however slowly it takes them. Writes of any kind are refused. The server ends with the last [`Server`], and its clients with it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::wire::{self, Chunk, Request};
use crate::extent::{Extent, Kind};

/// How long a client may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may leave an answer untaken.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);
/// Options of one handshake.
const OPTIONS_MAX: usize = 64;
/// Bytes read from the disk and sent at once.
const PIECE_BYTES: usize = 1 << 20;
/// The number of [`wire::ALLOCATION`] on the wire.
const ALLOCATION_ID: u32 = 1;
/// Extents of one answer about block status.
const EXTENTS_PER_REPLY: usize = 64 << 10;

/// The future of a disk's answer.
pub type Reading<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// Something that can be read like a disk.
pub trait Disk: Send + Sync {
    /// The size; it never changes.
    fn bytes(&self) -> u64;

    /// Reads a range that is inside the disk; exactly as many bytes as asked.
    fn read_at(&self, offset: u64, bytes: usize) -> Reading<'_, Bytes>;

    /// What the range holds, in order and without gaps from its beginning. May stop early, but has one extent at least.
    fn extents(&self, offset: u64, bytes: u64) -> Reading<'_, Vec<Extent>>;
}

/// The disks that are served, by the name that clients ask for. Clones share them; who has connected already keeps its disk.
#[derive(Clone, Default)]
pub struct Exports(Arc<RwLock<BTreeMap<String, Arc<dyn Disk>>>>);

impl Exports {
    /// Serves a disk, instead of one of the same name.
    pub fn insert(&self, name: impl Into<String>, disk: Arc<dyn Disk>) {
        self.0.write().insert(name.into(), disk);
    }

    /// Serves it no longer to new clients; answers whether it was there.
    #[must_use = "whether it was there"]
    pub fn remove(&self, name: &str) -> bool {
        self.0.write().remove(name).is_some()
    }

    fn get(&self, name: &str) -> Option<Arc<dyn Disk>> {
        self.0.read().get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.read().keys().cloned().collect()
    }
}

/// How much clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections; one more is closed at once.
    pub clients: usize,
    /// Requests of one connection that are worked on; further ones wait in the socket.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients: 64, in_flight: 16 }
    }
}

/// What a server listens on.
pub enum Listener {
    /// A UNIX socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on a UNIX socket; a dead one of the same path is replaced.
    ///
    /// # Errors
    /// When somebody listens there, or the operating system refuses.
    pub fn unix(path: &Path) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        UnixListener::bind(path).map(Self::Unix)
    }
}

/// A running server; dropping it ends it and closes its clients.
pub struct Server {
    _tasks: JoinSet<()>,
}

impl Server {
    /// Serves until it is dropped.
    #[must_use = "it ends when it is dropped"]
    pub fn start(listener: Listener, exports: Exports, limits: Limits) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, exports, limits));
        Self { _tasks: tasks }
    }
}

type Input = BufReader<Box<dyn AsyncRead + Send + Unpin>>;
type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The way to a client, shared by its answers. None once a frame was not written whole, as when its task is ended in the middle: what another
/// answer wrote behind it would be read as the rest of it, and a client that is told nonsense gives up for good, while one that is cut
/// off comes back.
type Way = Arc<Mutex<Option<Output>>>;

async fn accept(listener: Listener, exports: Exports, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.clients));
    let mut clients = JoinSet::new();
    loop {
        let accepted: io::Result<(Box<dyn AsyncRead + Send + Unpin>, Output)> = tokio::select! {
            // Keeps the set of clients from growing.
            Some(_) = clients.join_next() => continue,
            accepted = accept_one(&listener) => accepted,
        };
        let (input, output) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, mostly: others may close theirs.
                tracing::warn!(%error, "an NBD client could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(limit = limits.clients, "an NBD client was refused, there are as many as may be");
            continue;
        };
        let exports = exports.clone();
        clients.spawn(async move {
            let _place = place;
            if let Err(error) = client(BufReader::with_capacity(64 << 10, input), output, &exports, limits).await {
                tracing::debug!(%error, "an NBD client was closed");
            }
        });
    }
}

async fn accept_one(listener: &Listener) -> io::Result<(Box<dyn AsyncRead + Send + Unpin>, Output)> {
    match listener {
        Listener::Unix(listener) => {
            let (input, output) = listener.accept().await?.0.into_split();
            Ok((Box::new(input), Box::new(output)))
        }
        Listener::Tcp(listener) => {
            let stream = listener.accept().await?.0;
            stream.set_nodelay(true)?;
            let (input, output) = stream.into_split();
            Ok((Box::new(input), Box::new(output)))
        }
    }
}

/// What the handshake settled.
struct Session {
    disk: Arc<dyn Disk>,
    is_structured: bool,
    has_allocation: bool,
}

async fn client(mut input: Input, mut output: Output, exports: &Exports, limits: Limits) -> io::Result<()> {
    let handshake = handshake(&mut input, &mut output, exports);
    let Some(session) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await?? else {
        return Ok(());
    };
    serve(input, output, Arc::new(session), limits).await
}

/// None when the client said goodbye.
async fn handshake(input: &mut Input, output: &mut Output, exports: &Exports) -> io::Result<Option<Session>> {
    let mut greeting = Vec::new();
    greeting.put_u64(wire::MAGIC);
    greeting.put_u64(wire::OPTION_MAGIC);
    greeting.put_u16(wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
    output.write_all(&greeting).await?;
    let flags = input.read_u32().await?;
    if flags & u32::from(wire::FIXED_NEWSTYLE) == 0 {
        return Err(invalid("the client does not speak the fixed newstyle"));
    }
    let has_zeroes = flags & u32::from(wire::NO_ZEROES) == 0;
    let mut is_structured = false;
    // The export for which the context was set: it holds for no other.
    let mut allocation_of: Option<String> = None;
    for _ in 0..OPTIONS_MAX {
        if input.read_u64().await? != wire::OPTION_MAGIC {
            return Err(invalid("an option does not begin as one"));
        }
        let option = input.read_u32().await?;
        let bytes = input.read_u32().await? as usize;
        if bytes > wire::OPTION_BYTES_MAX {
            return Err(invalid("an option is too long"));
        }
        let mut data = vec![0; bytes];
        input.read_exact(&mut data).await?;
        let mut data = data.as_slice();
        let reply = |kind: u32, data: &[u8]| wire::option_reply(option, kind, data);
        match option {
            wire::OPT_EXPORT_NAME => {
                let name = std::str::from_utf8(data).map_err(|_| invalid("a name is no text"))?;
                // This option has no way to say no.
                let disk = exports.get(name).ok_or_else(|| invalid("there is no such export"))?;
                let mut answer = Vec::new();
                answer.put_u64(disk.bytes());
                answer.put_u16(transmission_flags(is_structured));
                if has_zeroes {
                    answer.put_bytes(0, 124);
                }
                output.write_all(&answer).await?;
                let has_allocation = allocation_of.as_deref() == Some(name);
                return Ok(Some(Session { disk, is_structured, has_allocation }));
            }
            wire::OPT_ABORT => {
                output.write_all(&reply(wire::REP_ACK, &[])).await?;
                return Ok(None);
            }
            wire::OPT_LIST if !data.is_empty() => output.write_all(&reply(wire::REP_ERR_INVALID, &[])).await?,
            wire::OPT_LIST => {
                let mut answer = Vec::new();
                for name in exports.names() {
                    let mut server = Vec::new();
                    wire::put_string(&mut server, &name);
                    answer.extend(reply(wire::REP_SERVER, &server));
                }
                answer.extend(reply(wire::REP_ACK, &[]));
                output.write_all(&answer).await?;
            }
            wire::OPT_STRUCTURED_REPLY if data.is_empty() => {
                is_structured = true;
                output.write_all(&reply(wire::REP_ACK, &[])).await?;
            }
            wire::OPT_INFO | wire::OPT_GO => {
                let Some(name) = wire::get_string(&mut data) else {
                    output.write_all(&reply(wire::REP_ERR_INVALID, b"the name cannot be read")).await?;
                    continue;
                };
                let Some(disk) = exports.get(&name) else {
                    output.write_all(&reply(wire::REP_ERR_UNKNOWN, b"there is no such export")).await?;
                    continue;
                };
                let mut info = Vec::new();
                info.put_u16(wire::INFO_EXPORT);
                info.put_u64(disk.bytes());
                info.put_u16(transmission_flags(is_structured));
                let mut answer = reply(wire::REP_INFO, &info);
                let mut sizes = Vec::new();
                sizes.put_u16(wire::INFO_BLOCK_SIZE);
                sizes.put_u32(1);
                sizes.put_u32(64 << 10);
                sizes.put_u32(wire::READ_BYTES_MAX as u32);
                answer.extend(reply(wire::REP_INFO, &sizes));
                answer.extend(reply(wire::REP_ACK, &[]));
                output.write_all(&answer).await?;
                if option == wire::OPT_GO {
                    let has_allocation = allocation_of.as_deref() == Some(name.as_str());
                    return Ok(Some(Session { disk, is_structured, has_allocation }));
                }
            }
            wire::OPT_SET_META_CONTEXT | wire::OPT_LIST_META_CONTEXT => {
                let is_set = option == wire::OPT_SET_META_CONTEXT;
                let answer = match meta_contexts(data) {
                    Some(_) if is_set && !is_structured => {
                        reply(wire::REP_ERR_INVALID, b"structured replies come before")
                    }
                    Some((name, _)) if exports.get(&name).is_none() => {
                        reply(wire::REP_ERR_UNKNOWN, b"there is no such export")
                    }
                    Some((name, queries)) => {
                        let wants = |query: &String| query == wire::ALLOCATION || (!is_set && query == "base:");
                        let is_wanted = queries.iter().any(wants) || (!is_set && queries.is_empty());
                        if is_set {
                            allocation_of = is_wanted.then_some(name);
                        }
                        let mut answer = Vec::new();
                        if is_wanted {
                            let mut context = Vec::new();
                            context.put_u32(if is_set { ALLOCATION_ID } else { 0 });
                            context.extend_from_slice(wire::ALLOCATION.as_bytes());
                            answer = reply(wire::REP_META_CONTEXT, &context);
                        }
                        answer.extend(reply(wire::REP_ACK, &[]));
                        answer
                    }
                    None => reply(wire::REP_ERR_INVALID, b"the contexts cannot be read"),
                };
                output.write_all(&answer).await?;
            }
            _ => output.write_all(&reply(wire::REP_ERR_UNSUPPORTED, &[])).await?,
        }
    }
    let _ = output.write_all(&wire::option_reply(wire::OPT_ABORT, wire::REP_ERR_TOO_BIG, b"too many options")).await;
    Err(invalid("the client sends options without end"))
}

fn transmission_flags(is_structured: bool) -> u16 {
    let flags = wire::HAS_FLAGS | wire::READ_ONLY | wire::SEND_FLUSH | wire::CAN_MULTI_CONN;
    if is_structured { flags | wire::SEND_DF } else { flags }
}

/// The export and the queries of an option about contexts.
fn meta_contexts(mut data: &[u8]) -> Option<(String, Vec<String>)> {
    let name = wire::get_string(&mut data)?;
    let count = data.try_get_u32().ok()? as usize;
    // Each has a length, so there are no more than fit.
    if count > data.len() / 4 {
        return None;
    }
    let queries = (0..count).map(|_| wire::get_string(&mut data)).collect::<Option<_>>()?;
    data.is_empty().then_some((name, queries))
}

/// Answers requests until the client goes, or an answer cannot be sent.
async fn serve(input: Input, output: Output, session: Arc<Session>, limits: Limits) -> io::Result<()> {
    let (failed, mut failure) = mpsc::channel(1);
    let mut answers = JoinSet::new();
    let requests = requests(input, Arc::new(Mutex::new(Some(output))), session, limits, &mut answers, failed);
    tokio::select! {
        ended = requests => ended?,
        Some(error) = failure.recv() => return Err(error),
    }
    while answers.join_next().await.is_some() {}
    Ok(())
}

/// Takes requests until the client says goodbye.
async fn requests(
    mut input: Input,
    output: Way,
    session: Arc<Session>,
    limits: Limits,
    answers: &mut JoinSet<()>,
    failed: mpsc::Sender<io::Error>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(limits.in_flight.max(1)));
    loop {
        let mut frame = [0; wire::REQUEST_BYTES];
        input.read_exact(&mut frame).await?;
        let request = Request::decode(frame).ok_or_else(|| invalid("a request does not begin as one"))?;
        match request.command {
            wire::CMD_DISCONNECT => return Ok(()),
            wire::CMD_WRITE if request.bytes as usize > wire::READ_BYTES_MAX => {
                return Err(invalid("a write is too long"));
            }
            wire::CMD_WRITE => {
                tokio::io::copy(&mut (&mut input).take(request.bytes.into()), &mut tokio::io::sink()).await?;
            }
            _ => {}
        }
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        while answers.try_join_next().is_some() {}
        let answer = Answer { request, session: Arc::clone(&session), output: Arc::clone(&output) };
        let failed = failed.clone();
        answers.spawn(async move {
            let _place = place;
            if let Err(error) = answer.send().await {
                let _ = failed.try_send(error);
            }
        });
    }
}

/// The answer to one request.
struct Answer {
    request: Request,
    session: Arc<Session>,
    output: Way,
}

impl Answer {
    async fn send(&self) -> io::Result<()> {
        let Request { command, offset, bytes, .. } = self.request;
        let disk = &self.session.disk;
        let is_inside = offset.checked_add(bytes.into()).is_some_and(|end| end <= disk.bytes());
        match command {
            wire::CMD_READ if bytes as usize > wire::READ_BYTES_MAX => self.error(wire::EOVERFLOW).await,
            wire::CMD_READ if !is_inside || bytes == 0 => self.error(wire::EINVAL).await,
            wire::CMD_READ if self.session.is_structured && self.request.flags & wire::FLAG_DF == 0 => {
                self.pieces().await
            }
            wire::CMD_READ => self.whole().await,
            wire::CMD_FLUSH => self.done().await,
            wire::CMD_WRITE | wire::CMD_TRIM | wire::CMD_WRITE_ZEROES => self.error(wire::EPERM).await,
            wire::CMD_BLOCK_STATUS if self.session.has_allocation && is_inside && bytes > 0 => self.status().await,
            _ => self.error(wire::EINVAL).await,
        }
    }

    /// A read in chunks, each with its own place in the stream.
    async fn pieces(&self) -> io::Result<()> {
        let (mut at, end) = (self.request.offset, self.request.offset + u64::from(self.request.bytes));
        while at < end {
            let bytes = PIECE_BYTES.min((end - at) as usize);
            let data = match self.read(at, bytes).await {
                Ok(data) => data,
                Err(_) => return self.error(wire::EIO).await,
            };
            let mut frame = Vec::with_capacity(wire::CHUNK_BYTES + 8);
            let is_last = at + bytes as u64 == end;
            self.chunk(if is_last { wire::CHUNK_DONE } else { 0 }, wire::CHUNK_OFFSET_DATA, 8 + bytes, &mut frame);
            frame.put_u64(at);
            self.write(&[&frame, &data]).await?;
            at += bytes as u64;
        }
        Ok(())
    }

    /// A read as one frame. The frame's head promises that the rest can be read: if it then cannot be, all that is left is to close.
    async fn whole(&self) -> io::Result<()> {
        let (mut at, end) = (self.request.offset, self.request.offset + u64::from(self.request.bytes));
        let first = PIECE_BYTES.min(self.request.bytes as usize);
        let Ok(data) = self.read(at, first).await else { return self.error(wire::EIO).await };
        let mut frame = Vec::with_capacity(wire::CHUNK_BYTES + 8);
        if self.session.is_structured {
            let bytes = 8 + self.request.bytes as usize;
            self.chunk(wire::CHUNK_DONE, wire::CHUNK_OFFSET_DATA, bytes, &mut frame);
            frame.put_u64(at);
        } else {
            self.simple(0, &mut frame);
        }
        let mut way = self.output.lock().await;
        let mut output = way.take().ok_or_else(torn)?;
        send(&mut output, &[&frame, &data]).await?;
        at += first as u64;
        while at < end {
            let bytes = PIECE_BYTES.min((end - at) as usize);
            let data = self.read(at, bytes).await?;
            send(&mut output, &[&data]).await?;
            at += bytes as u64;
        }
        *way = Some(output);
        Ok(())
    }

    async fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let data = self.session.disk.read_at(offset, bytes).await.inspect_err(|error| {
            tracing::warn!(%error, offset, bytes, "a disk that is served cannot be read");
        })?;
        if data.len() == bytes { Ok(data) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn status(&self) -> io::Result<()> {
        let Request { offset, bytes, flags, .. } = self.request;
        let extents = match self.session.disk.extents(offset, bytes.into()).await {
            Ok(extents) if extents.first().is_some_and(|first| first.offset <= offset) => extents,
            Ok(_) => return self.error(wire::EIO).await,
            Err(error) => {
                tracing::warn!(%error, offset, "a disk that is served does not know what it holds");
                return self.error(wire::EIO).await;
            }
        };
        let count = if flags & wire::FLAG_REQ_ONE != 0 { 1 } else { EXTENTS_PER_REPLY };
        let (mut at, end) = (offset, offset + u64::from(bytes));
        let mut body = Vec::new();
        body.put_u32(ALLOCATION_ID);
        for extent in extents.iter().take(count) {
            let stop = (extent.offset + extent.bytes).min(end);
            if extent.offset > at || stop <= at {
                break;
            }
            body.put_u32((stop - at) as u32);
            body.put_u32(match extent.kind {
                Kind::Data => 0,
                Kind::Zero => wire::STATE_HOLE | wire::STATE_ZERO,
            });
            at = stop;
        }
        if at == offset {
            return self.error(wire::EIO).await;
        }
        let mut frame = Vec::new();
        self.chunk(wire::CHUNK_DONE, wire::CHUNK_BLOCK_STATUS, body.len(), &mut frame);
        self.write(&[&frame, &body]).await
    }

    async fn done(&self) -> io::Result<()> {
        let mut frame = Vec::new();
        if self.session.is_structured {
            self.chunk(wire::CHUNK_DONE, wire::CHUNK_NONE, 0, &mut frame);
        } else {
            self.simple(0, &mut frame);
        }
        self.write(&[&frame]).await
    }

    async fn error(&self, errno: u32) -> io::Result<()> {
        let mut frame = Vec::new();
        if self.session.is_structured {
            self.chunk(wire::CHUNK_DONE, wire::CHUNK_PLAIN_ERROR, 6, &mut frame);
            frame.put_u32(errno);
            frame.put_u16(0);
        } else {
            self.simple(errno, &mut frame);
        }
        self.write(&[&frame]).await
    }

    fn chunk(&self, flags: u16, kind: u16, bytes: usize, out: &mut Vec<u8>) {
        Chunk { flags, kind, cookie: self.request.cookie, bytes: bytes as u32 }.encode(out);
    }

    fn simple(&self, errno: u32, out: &mut Vec<u8>) {
        out.put_u32(wire::SIMPLE_MAGIC);
        out.put_u32(errno);
        out.put_u64(self.request.cookie);
    }

    async fn write(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut way = self.output.lock().await;
        let mut output = way.take().ok_or_else(torn)?;
        send(&mut output, parts).await?;
        *way = Some(output);
        Ok(())
    }
}

async fn send(output: &mut Output, parts: &[&[u8]]) -> io::Result<()> {
    let writing = async {
        for part in parts {
            output.write_all(part).await?;
        }
        output.flush().await
    };
    tokio::time::timeout(SEND_TIMEOUT, writing).await?
}

fn torn() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "an answer before was not sent whole")
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeroes;

    impl Disk for Zeroes {
        fn bytes(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, _: u64, bytes: usize) -> Reading<'_, Bytes> {
            Box::pin(std::future::ready(Ok(vec![0; bytes].into())))
        }

        fn extents(&self, offset: u64, bytes: u64) -> Reading<'_, Vec<Extent>> {
            Box::pin(std::future::ready(Ok(vec![Extent { offset, bytes, kind: Kind::Zero }])))
        }
    }

    #[tokio::test]
    async fn nothing_follows_an_answer_that_was_cut_off() {
        for is_structured in [true, false] {
            let (mut client, server) = tokio::io::duplex(100);
            let output: Way = Arc::new(Mutex::new(Some(Box::new(server))));
            let session = Arc::new(Session { disk: Arc::new(Zeroes), is_structured, has_allocation: false });
            let answer = |cookie| {
                let request = Request { flags: 0, command: wire::CMD_READ, cookie, offset: 0, bytes: 4096 };
                Answer { request, session: session.clone(), output: output.clone() }
            };
            let first = answer(1);
            let cut = tokio::spawn(async move { first.send().await });
            // It has begun: the rest does not fit into the pipe.
            let mut begun = [0; 1];
            client.read_exact(&mut begun).await.unwrap();
            let second = answer(2);
            let waiting = tokio::spawn(async move { second.send().await });
            cut.abort();
            let error = waiting.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert!(rest.len() < 4096);
        }
    }
}
