//! Import: many resources at once, as a stream of NDJSON.
//!
//! Lines `{"type": …, "id": …, "properties": {…}}` are gathered into batches. A batch is committed whole or not at all, and batches
//! are committed in the order of the stream: after an error all lines before the failed batch are in. A line that cannot be stored
//! stops the stream there: nothing behind its batch goes in.
//!
//! Three batches are under way at a time: one goes into the view, the next into the journal, the one behind is being parsed. The
//! stream is read no faster than that. What is planned before the view has the batch in front is guarded as ever, by the
//! journal's preconditions: where the two touch the same resource, the later one is refused and planned again.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use lockstep_contract::{Error, Privilege};
use lockstep_journal::{Batch, Change, CommitError, Expect};
use lockstep_model::{COLLECTED_BY, Document, Position, Registry, ResourceId, TypeDef, builtin};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::Site;
use crate::caller::Caller;
use crate::inventory::{
    ParentCache, WriteError, change_to, commit_error, demand_own, demand_unlinked, keep_collector, nearest_parent,
};

/// Lines of a batch unless the caller wants fewer.
pub const BATCH_LINES_DEFAULT: usize = 1000;

/// Most lines of a batch.
pub const BATCH_LINES_MAX: usize = 10_000;

/// A batch is closed when it has this many bytes, however few lines.
const BATCH_BYTES: usize = 4 << 20;

/// Longest line. A longer one is refused before it is held in memory whole.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// Tries of a batch against others that change the same resources.
const TRIES_MAX: usize = 8;

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

/// How to import.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// What to do with a resource that exists.
    pub on_existing: OnExisting,
    /// Lines of a batch, 1 to [`BATCH_LINES_MAX`].
    pub batch_lines: usize,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { on_existing: OnExisting::default(), batch_lines: BATCH_LINES_DEFAULT }
    }
}

/// What an import has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines of the stream that are done with, blank ones included: where to resume.
    pub lines: u64,
    /// Resources created.
    pub created: u64,
    /// Resources changed.
    pub replaced: u64,
    /// Resources that already were as their line says.
    pub unchanged: u64,
    /// Resources left as they were.
    pub skipped: u64,
    /// The last commit's position.
    pub position: Position,
}

/// Lines that go into one commit.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    /// Where each line stands in `text`, and its number in the stream.
    spans: Vec<(Range<usize>, u64)>,
    /// The number of the last line taken, blank ones included.
    last: u64,
}

/// A line that was understood.
struct Parsed {
    id: ResourceId,
    document: Document,
    type_def: Arc<TypeDef>,
    line: u64,
}

/// An import under way.
pub struct Importer {
    site: Arc<Site>,
    caller: Caller,
    options: ImportOptions,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    gathering: Lines,
    /// The batches under way, the oldest first.
    committing: VecDeque<JoinHandle<Result<Report, Error>>>,
    /// What the newest of them will say once it has been handed to the journal.
    handed_over: Option<oneshot::Receiver<Pending>>,
    report: Report,
}

/// Batches that are being committed at a time.
const COMMITTING_MAX: usize = 2;

/// The nearest parents of a batch's resources: what the next one needs to know before the view does.
type Pending = HashMap<ResourceId, Option<ResourceId>>;

impl Importer {
    /// An import into `site`, in the name of `caller`, who must be allowed to write.
    pub fn new(site: Arc<Site>, caller: &Caller, options: ImportOptions) -> Self {
        let options = ImportOptions { batch_lines: options.batch_lines.clamp(1, BATCH_LINES_MAX), ..options };
        Self {
            site,
            caller: caller.clone(),
            options,
            partial: Vec::new(),
            gathering: Lines::default(),
            committing: VecDeque::new(),
            handed_over: None,
            report: Report::default(),
        }
    }

    /// What has been committed so far.
    pub fn report(&self) -> Report {
        self.report
    }

    /// Takes the next bytes of the stream, cut anywhere.
    ///
    /// # Errors
    /// What is wrong with which line; [`Importer::report`] says what is in. Nothing more can be pushed then.
    pub async fn push(&mut self, mut chunk: &[u8]) -> Result<(), Error> {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(end);
            chunk = &rest[1..];
            if self.partial.is_empty() {
                self.take_line(line).await?;
            } else {
                self.partial.extend_from_slice(line);
                let line = std::mem::take(&mut self.partial);
                self.take_line(&line).await?;
            }
        }
        self.partial.extend_from_slice(chunk);
        if self.partial.len() > LINE_BYTES_MAX {
            return Err(line_error(self.gathering.last + 1, &too_long()));
        }
        Ok(())
    }

    /// Takes the end of the stream, and waits until everything is committed.
    ///
    /// # Errors
    /// As [`Importer::push`].
    pub async fn finish(&mut self) -> Result<Report, Error> {
        let line = std::mem::take(&mut self.partial);
        if !line.is_empty() {
            self.take_line(&line).await?;
        }
        self.close_batch().await?;
        self.settle(0).await?;
        Ok(self.report)
    }

    async fn take_line(&mut self, line: &[u8]) -> Result<(), Error> {
        let lines = &mut self.gathering;
        lines.last = lines.last.max(self.report.lines) + 1;
        if line.len() > LINE_BYTES_MAX {
            return Err(line_error(lines.last, &too_long()));
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            let start = lines.text.len();
            lines.text.extend_from_slice(line);
            lines.spans.push((start..lines.text.len(), lines.last));
        }
        if lines.spans.len() >= self.options.batch_lines || lines.text.len() >= BATCH_BYTES {
            self.close_batch().await?;
        }
        Ok(())
    }

    /// Starts parsing what was gathered, waits for a place, and starts to commit.
    async fn close_batch(&mut self) -> Result<(), Error> {
        let last = self.gathering.last;
        let lines = std::mem::replace(&mut self.gathering, Lines { last, ..Lines::default() });
        // A model decides how the lines behind it are read, so it goes in before they are.
        let has_model = memchr::memmem::find(&lines.text, builtin::RESOURCE_MODEL.as_bytes()).is_some();
        let registry = self.site.view().registry().clone();
        let may_register = self.caller.check(Privilege::Models).is_ok();
        let parsing = tokio::task::spawn_blocking(move || parse(lines, registry, may_register));
        self.settle(COMMITTING_MAX - 1).await?;
        let (site, author, on_existing) = (self.site.clone(), self.caller.name(), self.options.on_existing);
        let (tell, told) = oneshot::channel();
        let in_front = self.handed_over.replace(told);
        self.committing.push_back(tokio::spawn(async move {
            let parsed = parsing.await.map_err(|_| Error::internal())??;
            let pending = match in_front {
                // Gone without a word: the batch in front has failed, and says why itself.
                Some(in_front) => in_front.await.map_err(|_| Error::internal())?,
                None => Pending::new(),
            };
            let mut report = commit(&site, author, parsed, on_existing, pending, tell).await?;
            report.lines = last;
            Ok(report)
        }));
        if has_model {
            self.settle(0).await?;
        }
        Ok(())
    }

    /// Waits for the oldest batches until no more than `left` are under way.
    async fn settle(&mut self, left: usize) -> Result<(), Error> {
        while self.committing.len() > left
            && let Some(oldest) = self.committing.pop_front()
        {
            let done = oldest.await.map_err(|_| Error::internal())??;
            let report = &mut self.report;
            report.lines = done.lines;
            report.created += done.created;
            report.replaced += done.replaced;
            report.unchanged += done.unchanged;
            report.skipped += done.skipped;
            report.position = report.position.max(done.position);
        }
        Ok(())
    }
}

fn too_long() -> Error {
    Error::invalid_argument("lockstep.import.line", "", &format!("the line is longer than {LINE_BYTES_MAX} bytes"))
}

/// The error with the line's number in front of its text.
fn line_error(line: u64, error: &Error) -> Error {
    let mut error = error.clone();
    for message in error.messages.iter_mut().take(1) {
        message.default_message = format!("line {line}: {}", message.default_message);
        message.args.insert(0, line.to_string());
    }
    error
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    resource_type: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    properties: &'a RawValue,
}

/// The lines of a batch, understood.
struct Understood {
    /// What to parse again should others change the same resources meanwhile: rare, and cheaper than a copy of every document.
    lines: Lines,
    registry: Arc<Registry>,
    may_register: bool,
    resources: Vec<Parsed>,
    /// Where each resource stands in `resources`.
    by_id: HashMap<ResourceId, usize>,
}

impl Understood {
    /// What the next batch needs to know of this one.
    fn pending(&self) -> Pending {
        let one = |one: &Parsed| (one.id.clone(), nearest_parent(&one.type_def, &one.document).cloned());
        self.resources.iter().map(one).collect()
    }
}

fn parse(lines: Lines, registry: Arc<Registry>, may_register: bool) -> Result<Understood, Error> {
    let mut resources: Vec<Parsed> = Vec::with_capacity(lines.spans.len());
    let mut by_id: HashMap<ResourceId, usize> = HashMap::with_capacity(lines.spans.len());
    for (span, number) in &lines.spans {
        let text = &lines.text[span.clone()];
        let one = parse_line(text, *number, &registry, may_register).map_err(|e| line_error(*number, &e))?;
        // Of two lines for one resource the later holds, as it would in two batches.
        match by_id.entry(one.id.clone()) {
            Entry::Occupied(earlier) => resources[*earlier.get()] = one,
            Entry::Vacant(place) => {
                place.insert(resources.len());
                resources.push(one);
            }
        }
    }
    Ok(Understood { lines, registry, may_register, resources, by_id })
}

fn parse_line(text: &[u8], line: u64, registry: &Registry, may_register: bool) -> Result<Parsed, Error> {
    let syntax = |e: &dyn std::fmt::Display| {
        let text = format!("expected {{\"type\": …, \"id\": …, \"properties\": {{…}}}}: {e}");
        Error::invalid_argument("lockstep.import.line", "", &text)
    };
    let text = std::str::from_utf8(text).map_err(|e| syntax(&e))?;
    let fields: Line<'_> = serde_json::from_str(text).map_err(|e| syntax(&e))?;
    let type_def = registry
        .type_def(&fields.resource_type)
        .ok_or_else(|| WriteError::UnknownType(fields.resource_type.to_string()).into_error())?;
    let id = ResourceId::new(type_def.name.clone(), &*fields.id);
    id.check().map_err(|e| WriteError::Id(e).into_error())?;
    let mut document =
        type_def.read_document(fields.properties.get()).map_err(|e| WriteError::Misfit(e).into_error())?;
    demand_unlinked(&id, &document).map_err(WriteError::into_error)?;
    // An export tells who kept a resource; here it is nobody's, or whoever's it is already.
    document.set(COLLECTED_BY, None);
    match id.resource_type.as_str() {
        builtin::ACCOUNT => return Err(Error::unauthorized()),
        builtin::RESOURCE_MODEL if !may_register => return Err(Error::unauthorized()),
        builtin::RESOURCE_MODEL => crate::operations::check_model_document(registry, &id, &document)?,
        _ => {}
    }
    Ok(Parsed { id, document, type_def: type_def.clone(), line })
}

async fn commit(
    site: &Arc<Site>,
    author: Arc<str>,
    mut batch: Understood,
    on_existing: OnExisting,
    in_front: Pending,
    tell: oneshot::Sender<Pending>,
) -> Result<Report, Error> {
    let mut tell = Some(tell);
    let mut last_conflict = None;
    for _ in 0..TRIES_MAX {
        let pending = tell.as_ref().map(|_| batch.pending());
        let (changes, report) = plan(site, &mut batch, on_existing, &in_front)?;
        let committing = (!changes.is_empty())
            .then(|| site.begin_commit(Batch { author: author.clone(), changes, relies_on: Vec::new() }));
        if let Some((tell, pending)) = tell.take().zip(pending) {
            // Nobody listens when this is the last batch.
            let _ = tell.send(pending);
        }
        let Some(committing) = committing else {
            return Ok(Report { position: site.position(), ..report });
        };
        match committing.await {
            Ok(position) => return Ok(Report { position, ..report }),
            Err(conflict @ CommitError::Conflict { .. }) => {
                last_conflict = Some(conflict);
                site.catch_up().await;
                let again = move || parse(batch.lines, batch.registry, batch.may_register);
                batch = tokio::task::spawn_blocking(again).await.map_err(|_| Error::internal())??;
            }
            Err(error) => return Err(commit_error(&error)),
        }
    }
    Err(last_conflict.map_or_else(Error::internal, |conflict| commit_error(&conflict)))
}

/// The changes for what the view has, and what they will have done. Takes the documents out of the batch.
fn plan(
    site: &Site,
    batch: &mut Understood,
    on_existing: OnExisting,
    in_front: &Pending,
) -> Result<(Vec<(Change, Expect)>, Report), Error> {
    let view = site.view();
    let mut report = Report::default();
    let mut changes = Vec::with_capacity(batch.resources.len());
    // Parents first, from documents that are all still there.
    let parents: Vec<_> = {
        let (resources, by_id) = (&batch.resources, &batch.by_id);
        let not_in_view = |id: &ResourceId| match by_id.get(id) {
            Some(at) => Some(nearest_parent(&resources[*at].type_def, &resources[*at].document).cloned()),
            None => in_front.get(id).cloned(),
        };
        let mut cache = ParentCache::new(not_in_view);
        resources.iter().map(|one| cache.parents(&view, &one.type_def, &one.document)).collect()
    };
    for (one, parents) in batch.resources.iter_mut().zip(parents) {
        let exists = view.modified(&one.id).is_some();
        match on_existing {
            OnExisting::Fail if exists => {
                return Err(line_error(one.line, &WriteError::Exists(one.id.clone()).into_error()));
            }
            OnExisting::Skip if exists => {
                report.skipped += 1;
                continue;
            }
            OnExisting::Replace if exists => {
                demand_own(&view, &one.id).map_err(|e| line_error(one.line, &e.into_error()))?;
            }
            OnExisting::Replace | OnExisting::Skip | OnExisting::Fail => {}
        }
        let mut document = std::mem::take(&mut one.document);
        keep_collector(&view, &one.id, &mut document).map_err(|e| line_error(one.line, &e.into_error()))?;
        match change_to(&view, one.id.clone(), document, parents) {
            Some(change) => {
                changes.push(change);
                if exists { report.replaced += 1 } else { report.created += 1 }
            }
            None => report.unchanged += 1,
        }
    }
    Ok((changes, report))
}
