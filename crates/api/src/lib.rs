//! The API: every operation of the table over every transport, and the limits that keep one client from stopping the others.
//!
//! # One declaration, three transports, and what is none
//! - JSON-RPC on `POST /api`: `rpc`;
//! - REST under `/api` and, in the envelopes of the legacy generation, under `/rest` and `/rest/com/vmware`: `router`, `rest`,
//!   `params`; the last of them in XML as well: `negotiate`;
//! - streams that have no end, and so are no operations: import, export and server-sent events: `streams`;
//! - the same operations at the paths and in the words of Cloud Director Availability: `availability`;
//! - a sliver of SOAP on `POST /sdk`, by which clients of vCenter log in and find an object by its name: `soap`.
//!
//! Nothing here knows a service. What is special about an operation (its paths, that it waits, that it begins a login) is data in
//! its declaration, which all transports follow alike; how they wrap results and errors is `envelope`.
//!
//! # From a request to its answer
//! 1. `server` accepts the connection and hands each request to `request`.
//! 2. The router finds what answers it, `auth` finds out who asks; who may not call an operation is refused before the body is read.
//! 3. The body is read and made into the operation's input. Headers and body are gone from here on.
//! 4. The operation runs, in `running`. If it waits for something to tell, the request is *parked*: it holds its connection, its input and nothing
//!    else, counts against [`Limits::parked_max`] only, and ends when the client hangs up.
//! 5. The answer is wrapped, counted and logged, and leaves in one write, head and body together; bytes that many readers get are
//!    shared between them.
//!
//! # What may fail
//! Input never panics the server. A panic in an operation is caught, logged, and answered as `internal_server_error`. Reaching a limit
//! is an answer too (413, 414, 431, 503), but for connections that say nothing or take nothing: they are closed.

mod auth;
mod availability;
mod body;
mod envelope;
mod limits;
mod metrics;
mod negotiate;
mod operation_id;
mod pages;
mod params;
mod refusal;
mod request;
mod rest;
mod router;
mod rpc;
mod running;
mod server;
mod soap;
mod socket;
mod streams;
pub mod tls;

pub use limits::Limits;
pub use server::{ApiConfig, Elsewhere, ElsewhereReply, MoreMetrics, listen, serve};
