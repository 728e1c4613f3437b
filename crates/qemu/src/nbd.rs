//! NBD, the protocol by which block devices are read over a socket.
//!
//! Spoken here is the *fixed newstyle* handshake with structured replies and meta contexts, which all that matters speaks (QEMU
//! since 2.11), and read-only as a server. The client asks for the contexts it needs and fails if one is not there.
//!
//! ```text
//! client                                         server
//!                                           <-   NBDMAGIC IHAVEOPT flags
//! flags                                     ->
//! IHAVEOPT STRUCTURED_REPLY                 ->
//!                                           <-   ACK
//! IHAVEOPT SET_META_CONTEXT export [name]   ->
//!                                           <-   META_CONTEXT id name … ACK
//! IHAVEOPT GO export                        ->
//!                                           <-   INFO size flags, INFO block sizes, ACK
//! request cookie offset length              ->   many may be in flight
//!                                           <-   chunk cookie …, chunk cookie … DONE, in any order of cookies
//! DISC                                      ->   (closes)
//! ```
//!
//! Every length that the peer names is compared with a limit before anything is allocated for it.

mod client;
mod server;
pub(crate) mod wire;

pub use client::{Address, Client, IN_FLIGHT_MAX, REPLY_TIMEOUT};
pub use server::{Disk, Exports, Limits, Listener, Reading, Server};
pub use wire::{ALLOCATION, READ_BYTES_MAX};

/// A range and what a meta context says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// Bits whose meaning the context gives: of [`ALLOCATION`], 1 is a hole and 2 reads as zeroes; of a bitmap, 1 was written.
    pub flags: u32,
}
