//! A thin HTTP/1.1 client. A general client library would cost as much as some of the answers that are measured here.

pub mod client;
pub mod message;
pub mod session;
mod tls;

pub use client::Client;
pub use session::{Server, ServerArgs};
