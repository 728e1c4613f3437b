//! The server: listeners, connections, and how it stops.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use lockstep_contract::{Data, Error, Operation};
use lockstep_site::Site;
use lockstep_site::table::{Context, Table};
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::limits::{Budget, Limits};
use crate::metrics::Metrics;
use crate::pages;
use crate::request::{self, Peer};
use crate::router::Router;
use crate::socket::Socket;

/// Connections that the kernel keeps while the server is busy accepting others.
const BACKLOG: u32 = 4096;

/// How long accepting rests when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The largest read from a connection of HTTP/1.1.
const READ_BYTES_MAX: usize = 64 << 10;

/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 128;

/// How a server talks.
#[derive(Debug, Clone, Default)]
pub struct ApiConfig {
    /// TLS, with HTTP/1.1 and HTTP/2. Without it the server speaks HTTP/1.1 in the clear, which is for loopback only.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What the server gives at most.
    pub limits: Limits,
    /// More for `/metrics`: appends samples in the text form of OpenMetrics.
    pub more_metrics: Option<MoreMetrics>,
    /// Runs operations at other sites; without it there are none.
    pub elsewhere: Option<Elsewhere>,
}

/// What an operation at another site answers, in time.
pub type ElsewhereReply = Pin<Box<dyn Future<Output = Result<Data, Error>> + Send>>;

/// Runs an operation at the site of that name, for who asks here.
#[derive(Clone)]
pub struct Elsewhere(pub Arc<dyn Fn(Context, String, &'static Operation, Data) -> ElsewhereReply + Send + Sync>);

impl std::fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Elsewhere")
    }
}

/// Appends samples in the text form of OpenMetrics, each family whole.
#[derive(Clone)]
pub struct MoreMetrics(pub Arc<dyn Fn(&mut String) + Send + Sync>);

impl std::fmt::Debug for MoreMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MoreMetrics")
    }
}

/// Listens on `address`, with room for many connections that come at once. Port 0 takes a free one.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What all requests of a server share.
pub(crate) struct Server {
    pub site: Arc<Site>,
    pub table: Arc<Table>,
    pub router: Router,
    pub limits: Limits,
    pub metrics: Metrics,
    pub more_metrics: Option<MoreMetrics>,
    pub elsewhere: Option<Elsewhere>,
    /// The text of the OpenAPI document.
    pub openapi: Bytes,
    pub connections: Arc<Budget>,
    pub in_flight: Arc<Budget>,
    pub parked: Arc<Budget>,
    pub body_bytes: Arc<Budget>,
}

/// How far a server has come with stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// No new connections and requests; those under way end.
    Ending,
    /// Whatever is left is cut off.
    Cutting,
}

/// Serves the operations of `table` until `shutdown` is done, and then ends what is under way.
///
/// Readers that wait answer at once as if their time were up. What has not ended after [`Limits::stop_timeout`] is cut off.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    site: Arc<Site>,
    table: Arc<Table>,
    listener: TcpListener,
    config: ApiConfig,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    raise_file_limit();
    let limits = config.limits;
    let server = Arc::new(Server {
        router: Router::new(&table),
        metrics: Metrics::new(&table),
        more_metrics: config.more_metrics,
        elsewhere: config.elsewhere,
        openapi: pages::openapi(&table),
        connections: Budget::new(limits.connections_max),
        in_flight: Budget::new(limits.requests_in_flight_max),
        parked: Budget::new(limits.parked_max),
        body_bytes: Budget::new(limits.body_bytes_total_max),
        site,
        table,
        limits,
    });
    let phase = watch::Sender::new(Phase::Serving);
    let accepting = accept(&server, &listener, config.tls.map(TlsAcceptor::from), &phase);
    let served = tokio::select! {
        error = accepting => Err(error),
        () = shutdown => Ok(()),
    };
    drop(listener);
    phase.send_replace(Phase::Ending);
    server.site.begin_stop();
    // Every connection holds a receiver.
    if tokio::time::timeout(limits.stop_timeout, phase.closed()).await.is_err() {
        tracing::warn!(connections = server.connections.used(), "cutting off what has not ended");
        phase.send_replace(Phase::Cutting);
        phase.closed().await;
    }
    served
}

/// Ten thousand readers are ten thousand files, and the usual soft limit is 1024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Accepts connections; ends with an error that will not pass.
async fn accept(
    server: &Arc<Server>,
    listener: &TcpListener,
    tls: Option<TlsAcceptor>,
    phase: &watch::Sender<Phase>,
) -> io::Error {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => start(server, tls.clone(), stream, address, phase.subscribe()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) | None => return error,
                    // The connection ended before it was accepted.
                    Some(Errno::CONNABORTED | Errno::CONNRESET | Errno::INTR) => {}
                    // No files or no memory left: others have to end first.
                    Some(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }
}

fn start(
    server: &Arc<Server>,
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    address: SocketAddr,
    phase: watch::Receiver<Phase>,
) {
    // Answers are written whole: waiting for more would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %address, "a connection ended at once");
        return;
    }
    let server = server.clone();
    match tls {
        None => drop(tokio::spawn(serve_plain(server, stream, address, phase))),
        Some(tls) => drop(tokio::spawn(serve_tls(server, stream, address, tls, phase))),
    }
}

/// One connection without TLS. Ten thousand of these may be waiting, so its future is kept small.
async fn serve_plain(server: Arc<Server>, stream: TcpStream, address: SocketAddr, phase: watch::Receiver<Phase>) {
    let Some(_place) = server.connections.take(1) else {
        let _ = stream.try_write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    };
    let stream = Arc::new(stream);
    let socket = Socket::new(stream.clone(), server.limits.stall_timeout);
    let peer = Arc::new(Peer { address: address.ip(), stream: Some(stream) });
    let mut builder = http1_builder(&server.limits);
    // A client may close its half when it has sent its request, and still gets the answer. Without this hyper would also read
    // ahead while a request waits, into a buffer of its own. A request that waits watches for the client's end by itself.
    builder.half_close(true);
    let service = service_fn(|request| request::answer(server.clone(), peer.clone(), request));
    drive(pin!(builder.serve_connection(TokioIo::new(socket), service)), phase, address).await;
}

/// One connection with TLS, HTTP/1.1 or HTTP/2 as the client chooses.
async fn serve_tls(
    server: Arc<Server>,
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    phase: watch::Receiver<Phase>,
) {
    let Some(_place) = server.connections.take(1) else { return };
    let socket = Socket::new(Arc::new(stream), server.limits.stall_timeout);
    let handshake = tokio::time::timeout(server.limits.handshake_timeout, tls.accept(socket));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, %address, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let peer = Arc::new(Peer { address: address.ip(), stream: None });
    let io = TokioIo::new(stream);
    if is_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(server.limits.head_bytes_max).unwrap_or(u32::MAX))
            // A client that is gone answers no ping.
            .keep_alive_interval(server.limits.head_timeout / 2)
            .keep_alive_timeout(server.limits.handshake_timeout);
        let service = service_fn(move |request| request::answer(server.clone(), peer.clone(), request));
        drive(pin!(builder.serve_connection(io, service)), phase, address).await;
    } else {
        let builder = http1_builder(&server.limits);
        let service = service_fn(|request| request::answer(server.clone(), peer.clone(), request));
        drive(pin!(builder.serve_connection(io, service)), phase, address).await;
    }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_header_size(limits.head_bytes_max)
        // Also the most that is read of a body at a time.
        .max_buf_size(limits.head_bytes_max.max(READ_BYTES_MAX));
    builder
}

/// Runs a connection to its end, or to the server's.
async fn drive<C>(mut connection: Pin<&mut C>, mut phase: watch::Receiver<Phase>, address: SocketAddr)
where
    C: GracefulConnection<Error = hyper::Error>,
{
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error = &error as &dyn std::error::Error, %address, "connection broke off");
                }
                return;
            }
            changed = phase.changed() => match changed.map(|()| *phase.borrow_and_update()) {
                Ok(Phase::Serving) => {}
                Ok(Phase::Ending) => connection.as_mut().graceful_shutdown(),
                Ok(Phase::Cutting) | Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of so many parameters returns.
    fn size<A, B, C, D, R>(_: fn(A, B, C, D) -> R) -> usize {
        size_of::<R>()
    }

    fn size_of_request<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_waiting_reader_takes_little_more_than_its_buffers() {
        // The connection's task, and the request in it, which hyper boxes. Beside them stand a read and a write buffer of 8 KiB each,
        // hyper's least, of which a small request and answer touch one page each; and the operation's own future.
        let (connection, request) = (size(serve_plain), size_of_request(request::answer));
        assert!(connection <= 2048 && request <= 1024, "{connection} {request}");
    }
}
