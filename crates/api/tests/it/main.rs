//! The API over real connections: a site in a temporary directory, the feed, and clients that write bytes to sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod harness;
mod malformed;
mod sessions;
mod sockets;
mod stop;
mod streams;
mod transports;
