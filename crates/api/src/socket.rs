//! A TCP connection as the server wants it: it notices a client that hangs up or takes nothing, and closes without cutting off
//! the last answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// How long a closed connection is read on, so that a client which is still sending gets to read the answer: closing with bytes
/// unread would reset the connection and take the answer away with it.
const LINGER: Duration = Duration::from_secs(2);

/// A TCP connection.
pub(crate) struct Socket {
    /// Shared with requests that wait: they watch for the client to hang up.
    stream: Arc<TcpStream>,
    stall_timeout: Duration,
    /// Runs while the client takes nothing, and while a closed connection lingers; made when it is needed, which is rare.
    timer: Option<Pin<Box<Sleep>>>,
    is_shut: bool,
}

impl Socket {
    /// The connection `stream`, which fails when the client takes nothing for `stall_timeout`.
    pub fn new(stream: Arc<TcpStream>, stall_timeout: Duration) -> Self {
        Self { stream, stall_timeout, timer: None, is_shut: false }
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    let timeout = self.stall_timeout;
                    ready!(self.timer.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.timer = None;
                    return Poll::Ready(written);
                }
            }
        }
    }
}

/// Whether the client has hung up, as far as it can be seen without taking what it sent; wakes when it does.
///
/// `Ready(false)` says that there are bytes in front of whatever comes, so that nothing can be seen any more.
pub(crate) fn poll_hang_up(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<bool> {
    let mut byte = [0; 1];
    stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)).map(|peeked| !matches!(peeked, Ok(1..)))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|_| ())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            this.is_shut = true;
            this.timer = Some(Box::pin(tokio::time::sleep_until(Instant::now() + LINGER)));
            if rustix::net::shutdown(&*this.stream, rustix::net::Shutdown::Write).is_err() {
                // The client is gone already.
                return Poll::Ready(Ok(()));
            }
        }
        let mut discarded = [0; 4096];
        loop {
            match this.stream.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if let Some(timer) = &mut this.timer {
                        ready!(timer.as_mut().poll(cx));
                    }
                    return Poll::Ready(Ok(()));
                }
            }
            match this.stream.try_read(&mut discarded) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) if this.timer.as_ref().is_some_and(|timer| Instant::now() < timer.deadline()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
