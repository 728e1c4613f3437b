//! Readers parked on the change feed of the server.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::protocol::{Changes, ChangesReader, ChangesRequest, current_sequence};
use super::readers::Readers;
use crate::http::Server;
use crate::http::session::SESSION_HEADER;
use crate::process::Process;

/// Nothing to read for so long, and no CPU used by the server: all requests have arrived and wait.
const QUIET: Duration = Duration::from_millis(300);
const SETTLE_TIME_MAX: Duration = Duration::from_secs(15);

/// Parked readers: each has sent a request for the changes after its token, or is about to.
pub struct Parked {
    readers: Readers,
    request: ChangesRequest,
    reader: ChangesReader,
    /// What each reader sends next.
    next: Vec<Rc<[u8]>>,
    is_parked: Vec<bool>,
    process: Option<Process>,
}

/// Changes that reached one reader.
pub struct Arrived<'a> {
    pub reader: usize,
    pub at: Instant,
    pub changes: Rc<Changes>,
    /// The answer as it was on the wire.
    pub bytes: &'a [u8],
}

impl Parked {
    /// Connects `count` readers and parks them at the feed's end.
    pub fn start(server: &Server, count: usize, process: Option<Process>) -> anyhow::Result<Self> {
        let session = server.login()?;
        let mut client = server.connect()?;
        client.set_header(SESSION_HEADER, &session);
        let mut request = ChangesRequest::new(server, &session);
        let first = request.after(&current_sequence(&mut client)?)?;
        let readers = Readers::connect(&server.address, count)?;
        let mut parked = Parked {
            readers,
            request,
            reader: ChangesReader::default(),
            next: vec![first; count],
            is_parked: vec![false; count],
            process,
        };
        parked.park_all()?;
        Ok(parked)
    }

    pub fn len(&self) -> usize {
        self.readers.len()
    }

    /// The bytes of a reader's request.
    pub fn request(&self) -> &[u8] {
        self.next.first().map_or(&[], |bytes| bytes)
    }

    /// Sends the next request of every reader that has none under way.
    pub fn park_all(&mut self) -> anyhow::Result<()> {
        for reader in 0..self.len() {
            self.park(reader)?;
        }
        Ok(())
    }

    fn park(&mut self, reader: usize) -> anyhow::Result<()> {
        if !self.is_parked[reader] {
            self.readers.send(reader, &self.next[reader])?;
            self.is_parked[reader] = true;
        }
        Ok(())
    }

    /// Waits at most `timeout` for changes. A reader whose wait ended without any is parked again; one that got changes is not.
    pub fn poll(
        &mut self,
        timeout: Duration,
        mut arrived: impl FnMut(Arrived<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let Parked { readers, request, reader: parse, next, is_parked, .. } = self;
        let mut again = Vec::new();
        let has_events = readers.poll(timeout, |delivery| {
            let changes = parse.read(&delivery.message)?;
            next[delivery.reader] = request.after(&changes.sequence)?;
            is_parked[delivery.reader] = false;
            if changes.vms.is_empty() {
                again.push(delivery.reader);
                return Ok(());
            }
            arrived(Arrived { reader: delivery.reader, at: delivery.at, changes, bytes: delivery.bytes })
        })?;
        for reader in again {
            self.park(reader)?;
        }
        Ok(has_events)
    }

    /// Waits until the server has read all requests: nothing comes, and its CPU time stands still.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut quiet_since = Instant::now();
        let mut cpu = self.cpu()?;
        while quiet_since.elapsed() < QUIET && begin.elapsed() < SETTLE_TIME_MAX {
            let has_events = self.poll(Duration::from_millis(50), |_| Ok(()))?;
            let now = self.cpu()?;
            if has_events || now != cpu {
                quiet_since = Instant::now();
                cpu = now;
            }
        }
        Ok(())
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        self.process.map_or(Ok(Duration::ZERO), |process| process.cpu())
    }
}
