//! Import: many resources as a stream of NDJSON, of any length, over connections that may break.
//!
//! # How it goes on after a break
//! The stream is sent in *segments*, one request each: some tens of megabytes, or what has come in a few seconds. The site answers a
//! segment with how many of its lines are in. What has been sent and not been answered is kept, so that a break costs at most one
//! segment sent again; that changes nothing, since a line that is in already is unchanged or skipped. Only with
//! [`OnExisting::Fail`] the site would refuse its own lines, so then a break ends the import.
//!
//! After a break the next segment is short: a site that refuses a line may close the connection before all is sent, and its
//! answer is then lost behind the break. A short segment is sent whole before the answer comes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use lockstep_contract::{Data, Encoding, ErrorKind, Place, structure};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{Client, text_header, with_token};
use crate::error::{self, ClientError};
use crate::request::Query;

/// A segment ends at the first line's end behind this many bytes: a second's work of a site, so that few round trips are waited for.
const SEGMENT_BYTES_MAX: usize = 64 << 20;

/// A segment ends after this long, however short: a slow producer's lines go in while it goes on.
const SEGMENT_TIME_MAX: Duration = Duration::from_secs(3);

/// The first segment after a break.
const SEGMENT_BYTES_MIN: usize = 256 << 10;

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// Longest line. The site refuses shorter ones; this keeps a file without line ends out of memory.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Tries without a line going in; they wait 0.2 s, 0.4 s and so on, twenty seconds in all.
const TRIES_MAX: u32 = 9;

/// The first wait before a try.
const WAIT_MIN: Duration = Duration::from_millis(200);

/// The longest wait before a try.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What to do with a resource that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExisting {
    /// Give it the properties of the line.
    #[default]
    Replace,
    /// Leave it as it is.
    Skip,
    /// Refuse the batch.
    Fail,
}

impl OnExisting {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Skip => "skip",
            Self::Fail => "fail",
        }
    }
}

/// How to import.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// What to do with a resource that exists.
    pub on_existing: OnExisting,
    /// Lines that are committed together; unset: the site's default.
    pub batch_lines: Option<u32>,
    /// Lines to pass over, because an import before did them.
    pub skip_lines: u64,
}

structure! {
    /// What an import, or a segment of it, has done.
    pub struct ImportReport = "lockstep.import.report" {
        /// Lines that are done with, those passed over included: where to resume.
        lines: i64,
        /// Resources created.
        created: i64,
        /// Resources changed.
        replaced: i64,
        /// Resources that already were as their line says.
        unchanged: i64,
        /// Resources left as they were.
        skipped: i64,
        /// The last commit's position.
        position: i64,
        /// The token from which the change feed goes on behind it.
        sequence: Option<String>,
    }
}

impl ImportReport {
    const NONE: Self =
        Self { lines: 0, created: 0, replaced: 0, unchanged: 0, skipped: 0, position: 0, sequence: None };

    /// Lines that were resources.
    pub fn resources(&self) -> i64 {
        self.created + self.replaced + self.unchanged + self.skipped
    }

    fn add(&mut self, segment: &Self) {
        self.lines += segment.lines;
        self.created += segment.created;
        self.replaced += segment.replaced;
        self.unchanged += segment.unchanged;
        self.skipped += segment.skipped;
        self.position = self.position.max(segment.position);
        if segment.sequence.is_some() {
            self.sequence.clone_from(&segment.sequence);
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Bytes handed to the connection, those passed over included and those sent again not.
    pub sent_bytes: u64,
    /// Lines handed to the connection, counted in the same way.
    pub sent_lines: u64,
    /// What the site said is in.
    pub done: &'a ImportReport,
    /// The break that the import waits to mend.
    pub broken: Option<&'a ClientError>,
}

/// Why an import ended before the stream did.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct ImportError {
    /// What is in: the import can go on behind these lines.
    pub done: ImportReport,
    /// The line at fault, counted from 1 over the whole stream, when one is.
    pub line: Option<u64>,
    /// Whether lines behind those of `done` may be in as well: the site went away without a word.
    pub is_uncertain: bool,
    /// Why.
    pub cause: ImportFailure,
}

/// Why an import ended.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    /// The stream cannot be read.
    #[error("cannot read the input: {0}")]
    Read(std::io::Error),
    /// A line without end.
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// The site refuses a line, or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Client {
    /// Imports lines `{"type": …, "id": …, "properties": {…}}` from `reader` to its end. `progress` is called some times a second at least.
    ///
    /// # Errors
    /// [`ImportError`]; a batch is in whole or not at all, and so are the lines before it.
    pub async fn import<R: AsyncRead + Unpin>(
        &self,
        reader: R,
        options: ImportOptions,
        mut progress: impl FnMut(Progress<'_>),
    ) -> Result<ImportReport, ImportError> {
        let mut import = Import {
            client: self,
            options,
            lines: Lines { reader, buffer: BytesMut::new(), is_at_end: false },
            unanswered: VecDeque::new(),
            sent_bytes: 0,
            sent_lines: 0,
            done: ImportReport::NONE,
        };
        match Box::pin(import.run(&mut progress)).await {
            Ok(()) => Ok(import.done),
            Err(stop) => {
                let (line, cause) = match stop.cause {
                    ImportFailure::Client(error) => place(error, stop.segment_start),
                    cause => (Some(import.sent_lines + 1), cause),
                };
                Err(ImportError { done: import.done, line, is_uncertain: stop.is_uncertain, cause })
            }
        }
    }
}

/// An import under way.
struct Import<'c, R> {
    client: &'c Client,
    options: ImportOptions,
    lines: Lines<R>,
    /// Pieces of whole lines that the site has not said are in, in order.
    unanswered: VecDeque<Piece>,
    sent_bytes: u64,
    sent_lines: u64,
    done: ImportReport,
}

/// Whole lines.
#[derive(Clone)]
struct Piece {
    text: Bytes,
    lines: u64,
}

impl Piece {
    fn new(text: Bytes) -> Self {
        let ends = memchr::memchr_iter(b'\n', &text).count() as u64;
        // The last line of a stream may have no end.
        let open = u64::from(text.last().is_some_and(|b| *b != b'\n'));
        Self { text, lines: ends + open }
    }

    /// Takes the first `lines` lines off.
    fn skip(&mut self, lines: u64) {
        let nth = usize::try_from(lines).ok().and_then(|n| n.checked_sub(1));
        let end = nth.and_then(|n| memchr::memchr_iter(b'\n', &self.text).nth(n)).map_or(0, |at| at + 1);
        self.text = self.text.slice(end..);
        self.lines -= lines;
    }
}

/// Why [`Import::run`] stops.
struct Stop {
    cause: ImportFailure,
    is_uncertain: bool,
    /// Lines of the stream before the segment that failed.
    segment_start: u64,
}

impl From<ImportFailure> for Stop {
    fn from(cause: ImportFailure) -> Self {
        Self { cause, is_uncertain: false, segment_start: 0 }
    }
}

/// What became of a segment.
enum Outcome {
    /// All lines of the segment are in.
    Done(ImportReport),
    /// The session had ended since the segment before, and there is a new one. Nothing was done with this segment.
    LoggedInAnew,
    /// The site answered an error; so many lines of the segment are in, where it said so.
    Failed(ClientError, Option<u64>),
}

impl<R: AsyncRead + Unpin> Import<'_, R> {
    fn done_lines(&self) -> u64 {
        u64::try_from(self.done.lines).unwrap_or_default()
    }

    async fn run(&mut self, progress: &mut impl FnMut(Progress<'_>)) -> Result<(), Stop> {
        self.skip().await?;
        let mut segment_bytes = SEGMENT_BYTES_MAX;
        let mut tries = 0;
        // An input without a line is sent too: whoever may not import is told so.
        let mut is_first = true;
        while is_first || !self.unanswered.is_empty() || self.lines.has_more().await.map_err(ImportFailure::Read)? {
            is_first = false;
            let segment_start = self.done_lines();
            match self.send_segment(segment_bytes, progress).await? {
                Outcome::Done(report) => {
                    self.settle(&report);
                    segment_bytes = (segment_bytes * 2).min(SEGMENT_BYTES_MAX);
                    tries = 0;
                }
                Outcome::LoggedInAnew => {
                    tries += 1;
                    if tries > TRIES_MAX {
                        let url = self.client.url().to_owned();
                        return Err(ImportFailure::from(ClientError::SessionEnded { url }).into());
                    }
                }
                Outcome::Failed(error, lines) => {
                    let committed = lines.unwrap_or_default().min(self.sent_lines - self.done_lines());
                    if committed > 0 {
                        let lines = i64::try_from(committed).unwrap_or(i64::MAX);
                        self.settle(&ImportReport { lines, ..ImportReport::NONE });
                        tries = 0;
                    }
                    let is_uncertain = lines.is_none() && !error.is_unsent();
                    let may_retry =
                        error.is_transient() && !(is_uncertain && self.options.on_existing == OnExisting::Fail);
                    tries += 1;
                    if !may_retry || tries > TRIES_MAX {
                        return Err(Stop { cause: error.into(), is_uncertain, segment_start });
                    }
                    self.tell(progress, Some(&error));
                    tokio::time::sleep((WAIT_MIN * 2_u32.pow(tries - 1)).min(WAIT_MAX)).await;
                    segment_bytes = SEGMENT_BYTES_MIN;
                }
            }
            self.tell(progress, None);
        }
        Ok(())
    }

    fn tell(&self, progress: &mut impl FnMut(Progress<'_>), broken: Option<&ClientError>) {
        progress(Progress { sent_bytes: self.sent_bytes, sent_lines: self.sent_lines, done: &self.done, broken });
    }

    /// Passes over the lines that were done before.
    async fn skip(&mut self) -> Result<(), Stop> {
        while self.done_lines() < self.options.skip_lines {
            let Some(text) = self.lines.next().await? else { break };
            let mut piece = Piece::new(text);
            let skipped = piece.lines.min(self.options.skip_lines - self.done_lines());
            let bytes = piece.text.len();
            piece.skip(skipped);
            self.sent_bytes += (bytes - piece.text.len()) as u64;
            self.sent_lines += skipped;
            self.done.lines += i64::try_from(skipped).unwrap_or(i64::MAX);
            if piece.lines > 0 {
                // Counted here once; it is sent with the first segment.
                self.sent_bytes += piece.text.len() as u64;
                self.sent_lines += piece.lines;
                self.unanswered.push_back(piece);
            }
        }
        Ok(())
    }

    /// Notes what the site said is in.
    fn settle(&mut self, report: &ImportReport) {
        let mut lines = u64::try_from(report.lines).unwrap_or_default();
        while let Some(first) = self.unanswered.front_mut() {
            if first.lines > lines {
                first.skip(lines);
                break;
            }
            lines -= first.lines;
            self.unanswered.pop_front();
        }
        self.done.add(report);
    }

    /// Sends what is unanswered, up to `bytes`, and what follows it in the stream, and waits for the answer.
    async fn send_segment(&mut self, bytes: usize, progress: &mut impl FnMut(Progress<'_>)) -> Result<Outcome, Stop> {
        let client = self.client;
        let token = match client.token().await {
            Ok(token) => token,
            Err(error) => return Ok(Outcome::Failed(error, Some(0))),
        };
        let (sender, receiver) = mpsc::channel(4);
        let url = client.at(&format!("/api/lockstep/resources{}", query(self.options)));
        let builder = client
            .http()
            .post(url)
            .header(http::header::CONTENT_TYPE, "application/x-ndjson")
            .body(reqwest::Body::wrap(Body { receiver }));
        let mut answer = Box::pin(answer(client, with_token(builder, token.as_ref())));
        let fed = tokio::select! {
            // A site that refuses a line does so before all is sent.
            outcome = &mut answer => Some(outcome),
            fed = self.feed(sender, bytes, progress) => {
                fed?;
                None
            }
        };
        let outcome = match fed {
            Some(outcome) => outcome,
            None => answer.await,
        };
        match outcome {
            Outcome::Failed(ClientError::Refusal { status: 401, .. }, _) => match client.renew(token).await {
                Ok(_) => Ok(Outcome::LoggedInAnew),
                Err(error) => Ok(Outcome::Failed(error, Some(0))),
            },
            outcome => Ok(outcome),
        }
    }

    /// Hands a segment to the connection. What is read stays in `unanswered`, so stopping in between loses nothing.
    async fn feed(
        &mut self,
        sender: mpsc::Sender<Bytes>,
        bytes: usize,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<(), ImportFailure> {
        let until = Instant::now() + SEGMENT_TIME_MAX;
        let mut fed_bytes = 0;
        for piece in &self.unanswered {
            if fed_bytes >= bytes {
                return Ok(());
            }
            fed_bytes += piece.text.len();
            if sender.send(piece.text.clone()).await.is_err() {
                return Ok(());
            }
        }
        while fed_bytes < bytes {
            let text = match tokio::time::timeout_at(until, self.lines.next()).await {
                Ok(Ok(Some(text))) => text,
                Ok(Ok(None)) | Err(_) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            };
            let piece = Piece::new(text.clone());
            fed_bytes += text.len();
            self.sent_bytes += text.len() as u64;
            self.sent_lines += piece.lines;
            self.unanswered.push_back(piece);
            self.tell(progress, None);
            // Nobody takes it any more: the answer is on its way.
            if sender.send(text).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn query(options: ImportOptions) -> String {
    let mut query = Query::default();
    query.push("action", "import");
    query.push("on_existing", options.on_existing.name());
    if let Some(lines) = options.batch_lines {
        query.push("batch", &lines.to_string());
    }
    query.text
}

/// Waits for the answer to a segment.
async fn answer(client: &Client, builder: reqwest::RequestBuilder) -> Outcome {
    let response = match builder.send().await {
        Ok(response) => response,
        Err(error) => return Outcome::Failed(client.transport(&error), None),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let committed = text_header(&headers, "lockstep-lines-committed").and_then(|text| text.parse().ok());
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Outcome::Failed(error::transport(client.url(), &error), committed),
    };
    if !status.is_success() {
        // Refused before the first line, unless the header says otherwise.
        return Outcome::Failed(client.refusal(status, &body), Some(committed.unwrap_or_default()));
    }
    let report = Data::from_json(&body)
        .ok()
        .map(|data| <ImportReport as lockstep_contract::Wire>::decode(data, &Place::root(Encoding::Plain)));
    match report {
        Some(Ok(report)) => Outcome::Done(report),
        Some(Err(fault)) => Outcome::Failed(ClientError::Misfit { operation: "import".to_owned(), fault }, committed),
        None => Outcome::Failed(client.refusal(status, &body), committed),
    }
}

/// The error with the line's number in the whole stream: the site counts from its segment's first line.
fn place(mut error: ClientError, before: u64) -> (Option<u64>, ImportFailure) {
    let mut line = None;
    if let ClientError::Refusal { error, .. } = &mut error
        && error.kind != ErrorKind::Unauthenticated
        && let Some(message) = error.messages.first_mut()
        && let Some(number) = message.args.first().and_then(|arg| arg.parse::<u64>().ok())
        && let Some(rest) = message.default_message.strip_prefix(&format!("line {number}: "))
    {
        line = Some(before + number);
        message.default_message = rest.to_owned();
        message.args[0] = (before + number).to_string();
    }
    (line, error.into())
}

/// Whole lines out of a reader.
struct Lines<R> {
    reader: R,
    buffer: BytesMut,
    is_at_end: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Whether there is anything left.
    async fn has_more(&mut self) -> Result<bool, std::io::Error> {
        while self.buffer.is_empty() && !self.is_at_end {
            self.read().await?;
        }
        Ok(!self.buffer.is_empty())
    }

    /// The next lines, each with its end but perhaps the last of the stream. May be dropped while it waits: nothing is lost.
    async fn next(&mut self) -> Result<Option<Bytes>, ImportFailure> {
        let mut searched = 0;
        loop {
            if let Some(end) = memchr::memrchr(b'\n', &self.buffer[searched..]) {
                return Ok(Some(self.buffer.split_to(searched + end + 1).freeze()));
            }
            if self.is_at_end {
                let rest = self.buffer.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX {
                return Err(ImportFailure::LineTooLong);
            }
            self.read().await.map_err(ImportFailure::Read)?;
        }
    }

    async fn read(&mut self) -> Result<(), std::io::Error> {
        self.buffer.reserve(READ_BYTES);
        if self.reader.read_buf(&mut self.buffer).await? == 0 {
            self.is_at_end = true;
        }
        Ok(())
    }
}

/// The body of a segment.
struct Body {
    receiver: mpsc::Receiver<Bytes>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        self.receiver.poll_recv(context).map(|piece| piece.map(|text| Ok(Frame::data(text))))
    }
}
