//! Typed calls of the contract over REST.
//!
//! [`Client`] speaks to one site. [`Client::call`] makes any declared operation's request under `/api` out of its declaration, so
//! that an operation that is declared can be called: nothing is written twice. What is a stream has a method of its own:
//! [`Client::import`], [`Client::export`], [`Client::events`].
//!
//! # Logging in
//! Nothing is sent before the first call. It logs in with the name and the password it was given, keeps the token, and logs in
//! again when the site answers that the session is gone; calls that meet this at the same time share one login. A token that
//! was given instead of a password is used as it is.
//!
//! # Following acquisition specifications
//! [`SpecCache`] is a copy of a site's acquisition specifications that [`SpecCache::sync`] brings up to date by what has changed
//! since; it can be kept in a file.
//!
//! # Trust
//! [`Trust`] says which certificate the site may show. A site's own certificate, self-signed as it is at first, is its own
//! anchor when it is given as a root: compared byte by byte, with its name checked and its dates not. One that is refused is told with its SHA-256 thumbprint
//! ([`ClientError::Untrusted`]), which a person can compare and [`Trust::Thumbprint`] can pin.
//!
//! # What breaks
//! A call is sent once. Whether it is safe to send again is the caller's to know, so only streams that know it mend
//! themselves: an import goes on behind the last line that the site said is in, events go on behind the last token.
//!
//! The TLS provider is part of this crate's own configuration: nothing needs to be installed for the process.

mod client;
mod connector;
mod error;
mod events;
mod export;
mod import;
mod request;
mod spec_cache;
mod tls;

pub use client::{Answer, Client, Config, Login};
pub use connector::Connector;
pub use error::ClientError;
pub use events::{EventFilter, Events};
pub use export::{Export, ExportOptions};
pub use import::{ImportError, ImportFailure, ImportOptions, ImportReport, OnExisting, Progress};
pub use spec_cache::{CacheFileError, SpecCache, SpecPull, SyncError, SyncSummary, is_sync_expired};
pub use tls::{Thumbprint, Trust};
