//! Bodies: reading a request's whole, and the answers' in few pieces.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use lockstep_contract::{Error, ErrorKind};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::limits::{Limits, Share};
use crate::refusal::Refusal;
use crate::request::Peer;
use crate::socket::poll_hang_up;

/// Most bytes that a body is given room for before they come.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// The body of an answer.
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// Up to three pieces, sent with the head in one write. The one in the middle may be shared with other answers.
    Pieces([Bytes; 3]),
    /// Pieces as they come. An error breaks the connection off, so that nobody takes what was sent for all there is.
    Stream(Stream),
}

/// A body that comes piece by piece, until there is no more or nobody to take it.
pub(crate) struct Stream {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// The connection, where a client that hangs up is seen by it.
    watched: Option<Arc<TcpStream>>,
}

impl Stream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Poll::Ready(next) = self.pieces.poll_recv(cx) {
            return Poll::Ready(next);
        }
        match self.watched.as_ref().map(|stream| poll_hang_up(stream, cx)) {
            Some(Poll::Ready(true)) => return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            Some(Poll::Ready(false)) => self.watched = None,
            Some(Poll::Pending) | None => {}
        }
        Poll::Pending
    }
}

impl Body {
    /// A body of one piece.
    pub fn one(bytes: impl Into<Bytes>) -> Self {
        Self::Pieces([bytes.into(), Bytes::new(), Bytes::new()])
    }

    /// A body whose pieces come from elsewhere, sent to `peer`.
    pub fn stream(pieces: mpsc::Receiver<io::Result<Bytes>>, peer: &Peer) -> Self {
        Self::Stream(Stream { pieces, watched: peer.stream.clone() })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Pieces(pieces) => {
                let next = pieces.iter_mut().find(|piece| !piece.is_empty()).map(std::mem::take);
                Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
            }
            Self::Stream(stream) => stream.poll_next(cx).map(|next| next.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Pieces(pieces) => pieces.iter().all(Bytes::is_empty),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Pieces(pieces) => SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Reads the whole body, and takes its bytes from `share` of what all bodies may hold.
///
/// # Errors
/// 413 when it is larger than allowed, 408 when it comes too slowly, 503 when too much is held already, 400 when it breaks off.
pub(crate) async fn read(mut body: Incoming, limits: &Limits, share: &mut Share) -> Result<Bytes, Refusal> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limits.body_bytes_max {
        return Err(too_large(limits));
    }
    let whole = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(piece) = next_piece(&mut body).await? {
            let held = (first.len() + rest.len() + piece.len()) as u64;
            if held > limits.body_bytes_max {
                return Err(too_large(limits));
            }
            if !share.grow(piece.len() as u64) {
                let message = "the server holds too many large requests; try again in a moment";
                return Err(
                    Error::new(ErrorKind::ServiceUnavailable, "lockstep.request.bodies", message, Vec::new()).into()
                );
            }
            // A body of one piece, as most are, is not copied.
            if first.is_empty() {
                first = piece;
            } else {
                if rest.is_empty() {
                    // What is announced may not come, so not all of it is believed.
                    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(RESERVED_BYTES_MAX);
                    rest.reserve(announced + first.len() + piece.len());
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&piece);
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    match tokio::time::timeout(limits.body_timeout, whole).await {
        Ok(read) => read,
        Err(_) => Err(too_slow()),
    }
}

/// The next piece of a body; `None` at its end.
///
/// # Errors
/// 400 when it breaks off or its framing is wrong.
pub(crate) async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Error::invalid_request(format!("the body breaks off: {error}")).into()),
            Some(Ok(frame)) => {
                // What is no data are trailers, which nobody reads.
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
        }
    }
}

fn too_large(limits: &Limits) -> Refusal {
    let error = Error::invalid_request(format!("the body is larger than {} bytes", limits.body_bytes_max));
    Refusal::new(error).status(StatusCode::PAYLOAD_TOO_LARGE)
}

/// The refusal of a body that comes too slowly.
pub(crate) fn too_slow() -> Refusal {
    Refusal::new(Error::invalid_request("the body came too slowly")).status(StatusCode::REQUEST_TIMEOUT)
}
