//! Many connections, one thread: sends requests and waits for answers on thousands of sockets with one epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::http::message::Message;

/// Sockets looked at in one turn of the loop.
const EVENTS_MAX: usize = 1024;
/// Files that a process needs besides its readers' sockets.
const OTHER_FILES: u64 = 200;

/// Kept connections that each have at most one request under way.
pub struct Readers {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    events: Vec<epoll::Event>,
    block: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// The part of an answer that has come so far; empty, and without memory, between answers.
    partial: Vec<u8>,
}

/// A whole answer to one reader.
pub struct Delivery<'a> {
    pub reader: usize,
    /// When its last byte was read.
    pub at: Instant,
    pub message: Message<'a>,
    /// The answer as it was on the wire.
    pub bytes: &'a [u8],
}

impl Readers {
    /// Opens `count` connections to `host:port`.
    pub fn connect(address: &str, count: usize) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(count);
        for reader in 0..count {
            let stream =
                TcpStream::connect(address).with_context(|| format!("connect reader {reader} to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(reader as u64), epoll::EventFlags::IN)?;
            connections.push(Connection { stream, partial: Vec::new() });
        }
        Ok(Readers { epoll, connections, events: Vec::with_capacity(EVENTS_MAX), block: vec![0; 256 << 10] })
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Sends a request. It is far smaller than a socket's buffer, so it goes out whole.
    pub fn send(&mut self, reader: usize, request: &[u8]) -> anyhow::Result<()> {
        self.connections[reader].stream.write_all(request).with_context(|| format!("send to reader {reader}'s socket"))
    }

    /// Waits at most `timeout` for answers and hands on those that are complete. Returns whether anything came.
    pub fn poll(
        &mut self,
        timeout: Duration,
        mut deliver: impl FnMut(Delivery<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the readers"),
        }
        let has_events = !self.events.is_empty();
        for event in self.events.drain(..) {
            let reader = event.data.u64() as usize;
            let Connection { stream, partial } = &mut self.connections[reader];
            let n = match stream.read(&mut self.block) {
                Ok(0) => bail!("the server closed reader {reader}'s connection"),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).with_context(|| format!("read from reader {reader}'s socket")),
            };
            let at = Instant::now();
            let read = &self.block[..n];
            // Most answers come in one piece, and need no copy.
            if !partial.is_empty() {
                partial.extend_from_slice(read);
            }
            let bytes = if partial.is_empty() { read } else { partial.as_slice() };
            match Message::parse(bytes)? {
                Some(message) => {
                    let bytes = &bytes[..message.length];
                    deliver(Delivery { reader, at, message, bytes })?;
                    *partial = Vec::new();
                }
                None if partial.is_empty() => partial.extend_from_slice(read),
                None => {}
            }
        }
        Ok(has_events)
    }
}

/// Lets this process open as many files as `sockets` sockets need.
pub fn allow_sockets(sockets: usize) -> anyhow::Result<()> {
    let needed = sockets as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).with_context(|| {
        format!("{needed} open files are needed, the hard limit is {:?}: raise it (ulimit -Hn)", limit.maximum)
    })
}
