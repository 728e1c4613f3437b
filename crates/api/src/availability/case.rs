//! The spelling of `X-VCAV-Auth`.
//!
//! Names of headers have no case, and hyper writes them in lower case. Scripts of this API look for the name with `grep`, though. hyper writes
//! a response's names as a map among its extensions says; the map's type is its own, so one is had by letting it read a request
//! that spells the name: once, over a pipe in memory.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Extensions, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::OnceCell;

use crate::body::Body;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nX-VCAV-Auth: x\r\nConnection: close\r\n\r\n";

static SPELLED: OnceCell<Extensions> = OnceCell::const_new();

/// Has the header spelled as clients look for it. Where HTTP/2 is spoken nothing changes.
pub(super) async fn spell(response: &mut Response<Body>) {
    let spelled = SPELLED.get_or_init(learn).await;
    response.extensions_mut().extend(spelled.clone());
}

async fn learn() -> Extensions {
    let (mut near, far) = tokio::io::duplex(4096);
    let seen = Arc::new(Mutex::new(Extensions::new()));
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            *seen.lock() = request.extensions().clone();
            Ok::<_, Infallible>(Response::new(Body::Empty))
        }
    });
    let mut builder = http1::Builder::new();
    let serve = builder.preserve_header_case(true).serve_connection(TokioIo::new(far), service);
    let ask = async {
        // The pipe holds all of it.
        let _ = near.write_all(REQUEST).await;
    };
    let (served, ()) = tokio::join!(serve, ask);
    if let Err(error) = served {
        tracing::warn!(%error, "X-VCAV-Auth will be written in lower case");
    }
    drop(near);
    seen.lock().clone()
}
