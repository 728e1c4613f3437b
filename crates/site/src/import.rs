//! Import: many resources at once, as a stream of NDJSON.
//!
//! Lines `{"type": …, "id": …, "properties": {…}}` are gathered into batches. A batch is committed whole or not at all, and batches
//! are committed in the order of the stream: after an error all lines before the failed batch are in. A line that cannot be stored
//! stops the stream there: nothing behind its batch goes in.
//!
//! # What runs at the same time
//! Several batches are under way at a time: one goes into the view, the next into the journal, those behind are being parsed, so that
//! neither a flush nor a slow batch leaves a core idle. The stream is read no faster than that.
//!
//! A batch is planned and handed to the journal when the one in front is durable, and not before: a batch can still be refused by
//! the journal, then be planned again or fail, and none behind it may be in by then. It does not wait for the view. What it would see
//! there is guarded by the journal's preconditions: where it changes a resource that batches in front have changed, it is refused,
//! and planned again. Where it would leave one alone, nothing is changed and nothing guarded, so it waits for the view in that case;
//! and behind tags and categories, which what it attaches depends on.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use lockstep_contract::{Error, Privilege};
use lockstep_journal::{Batch, Change, CommitError, Expect, Operation};
use lockstep_model::{COLLECTED_BY, Document, Position, Registry, ResourceId, TypeDef, builtin};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::Site;
use crate::caller::Caller;
use crate::inventory::{
    ParentCache, WriteError, change_to, commit_error, demand_own, demand_unlinked, keep_collector, nearest_parent,
};

#[cfg(test)]
mod tests;

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
    /// What the newest of them will say once it is durable.
    durable: Option<oneshot::Receiver<InFront>>,
    report: Report,
}

/// Batches that are being committed at a time, the one being parsed among them. With two, a core waited whenever a flush or a batch took
/// longer than usual.
const COMMITTING_MAX: usize = 4;

/// The parents of a batch's resources, the nearest first: what later ones need to know before the view does.
type Pending = HashMap<ResourceId, Arc<[ResourceId]>>;

/// The batches in front that the view may not have yet; all are durable.
#[derive(Default)]
struct InFront {
    /// The newest first.
    pending: Vec<Arc<Pending>>,
    /// The newest one's position: a view that has reached it has them all.
    position: Position,
}

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
            durable: None,
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
            return self.refuse_line(self.gathering.last.max(self.report.lines) + 1).await;
        }
        Ok(())
    }

    /// Gives the import up: waits for the batches under way, so that [`Importer::report`] says what is in, and drops what was
    /// gathered behind them.
    pub async fn abandon(&mut self) {
        // Why one of them failed is of no interest any more; those behind it fail with it.
        let _ = self.settle(0).await;
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
            let line = lines.last;
            return self.refuse_line(line).await;
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

    /// Refuses a line that is too long, unless one before it is refused as well.
    async fn refuse_line(&mut self, line: u64) -> Result<(), Error> {
        self.settle(0).await?;
        let text = format!("the line is longer than {LINE_BYTES_MAX} bytes");
        Err(line_error(line, &Error::invalid_argument("lockstep.import.line", "", &text)))
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
        let in_front = self.durable.replace(told);
        self.committing.push_back(tokio::spawn(async move {
            let parsed = parsing.await.map_err(|_| Error::internal())??;
            let in_front = match in_front {
                // Gone without a word: the batch in front has failed, and says why itself.
                Some(in_front) => in_front.await.map_err(|_| Error::internal())?,
                None => InFront::default(),
            };
            let mut report = commit(&site, author, parsed, on_existing, in_front, tell).await?;
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

/// The error with the line's number in front of its text.
fn line_error(line: u64, error: &Error) -> Error {
    let mut error = error.clone();
    for message in error.messages.iter_mut().take(1) {
        message.default_message = format!("line {line}: {}", message.default_message);
        message.args.insert(0, line.to_string());
    }
    error
}

/// A line, read in one pass as long as its type comes before its properties: the type's model says how to read those. Most of an
/// import's time is reading, and a pass over the properties only to find their end is a sixth of that.
struct LineReader<'a> {
    registry: &'a Registry,
    /// What was wrong with the properties or the type, where the JSON itself is not at fault.
    failure: &'a mut Option<Error>,
}

/// What a line says.
struct Line {
    type_def: Arc<TypeDef>,
    id: Box<str>,
    document: Document,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
    Type,
    Id,
    Properties,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for LineReader<'_> {
    type Value = Line;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Line, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for LineReader<'_> {
    type Value = Line;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
        let Self { registry, failure } = self;
        let (mut type_def, mut id, mut document) = (None::<Arc<TypeDef>>, None::<Text<'de>>, None::<Document>);
        // Properties that came before their type.
        let mut unread: Option<&'de RawValue> = None;
        while let Some(member) = map.next_key()? {
            match member {
                Member::Type if type_def.is_none() => {
                    let Text(name) = map.next_value()?;
                    let known = registry.type_def(&name).cloned();
                    type_def = Some(known.ok_or_else(|| {
                        *failure = Some(WriteError::UnknownType(name.into_owned()).into_error());
                        A::Error::custom("an unknown type")
                    })?);
                }
                Member::Id if id.is_none() => id = Some(map.next_value()?),
                Member::Properties if document.is_none() && unread.is_none() => match &type_def {
                    Some(type_def) => document = Some(map.next_value_seed(Properties { type_def, failure })?),
                    None => unread = Some(map.next_value()?),
                },
                Member::Type => return Err(A::Error::duplicate_field("type")),
                Member::Id => return Err(A::Error::duplicate_field("id")),
                Member::Properties => return Err(A::Error::duplicate_field("properties")),
            }
        }
        let type_def = type_def.ok_or_else(|| A::Error::missing_field("type"))?;
        let Text(id) = id.ok_or_else(|| A::Error::missing_field("id"))?;
        if let Some(unread) = unread {
            document = Some(type_def.read_document(unread.get()).map_err(|misfit| {
                *failure = Some(WriteError::Misfit(misfit).into_error());
                A::Error::custom("a misfit")
            })?);
        }
        let document = document.ok_or_else(|| A::Error::missing_field("properties"))?;
        Ok(Line { type_def, id: id.into(), document })
    }
}

/// The properties of a line whose type is known.
struct Properties<'a> {
    type_def: &'a TypeDef,
    failure: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Properties<'_> {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Document, D::Error> {
        let mut misfit = None;
        let read = self.type_def.read_document_within(d, &mut misfit);
        if let Some(misfit) = misfit {
            *self.failure = Some(WriteError::Misfit(misfit).into_error());
        }
        read
    }
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
    let mut failure = None;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = LineReader { registry, failure: &mut failure }.deserialize(&mut reader);
    let read = read.and_then(|line| reader.end().map(|()| line));
    let Line { type_def, id, mut document } = read.map_err(|e| failure.unwrap_or_else(|| syntax(&e)))?;
    let id = ResourceId::new(type_def.name.clone(), id);
    id.check().map_err(|e| WriteError::Id(e).into_error())?;
    demand_unlinked(&id, &document).map_err(WriteError::into_error)?;
    // An export tells who kept a resource; here it is nobody's, or whoever's it is already.
    document.set(COLLECTED_BY, None);
    match id.resource_type.as_str() {
        builtin::ACCOUNT | builtin::TAG_STAMPS => return Err(Error::unauthorized()),
        builtin::RESOURCE_MODEL if !may_register => return Err(Error::unauthorized()),
        builtin::RESOURCE_MODEL => crate::operations::check_model_document(registry, &id, &document)?,
        _ => {}
    }
    Ok(Parsed { id, document, type_def, line })
}

/// Commits a batch, tells the one behind it, and waits until the view has it.
async fn commit(
    site: &Arc<Site>,
    author: Arc<str>,
    mut batch: Understood,
    on_existing: OnExisting,
    mut in_front: InFront,
    tell: oneshot::Sender<InFront>,
) -> Result<Report, Error> {
    let mut last_conflict = None;
    for _ in 0..TRIES_MAX {
        match plan(site, &mut batch, on_existing, &in_front)? {
            Plan::Commit { changes, report, pending } => {
                if changes.is_empty() {
                    // Nobody listens when this is the last batch.
                    let _ = tell.send(in_front);
                    return Ok(Report { position: site.position(), ..report });
                }
                // Stamps of attachments are worked out from the view, and depend on the tags there.
                let is_tagging = |(change, _): &(Change, Expect)| {
                    matches!(change.id.resource_type.as_str(), builtin::TAG | builtin::TAG_CATEGORY)
                };
                let has_tags = changes.iter().any(is_tagging);
                match site.submit(Batch { author: author.clone(), changes, relies_on: Vec::new() }).await {
                    Ok(position) => {
                        in_front.pending.insert(0, Arc::new(pending));
                        in_front.pending.truncate(COMMITTING_MAX - 1);
                        if has_tags {
                            site.reach(position).await.map_err(|e| commit_error(&e))?;
                        }
                        let _ = tell.send(InFront { pending: in_front.pending, position });
                        site.reach(position).await.map_err(|e| commit_error(&e))?;
                        return Ok(Report { position, ..report });
                    }
                    Err(conflict @ CommitError::Conflict { .. }) => last_conflict = Some(conflict),
                    Err(error) => return Err(commit_error(&error)),
                }
                site.catch_up().await;
            }
            Plan::Wait => site.reach(in_front.position).await.map_err(|e| commit_error(&e))?,
        }
        let again = move || parse(batch.lines, batch.registry, batch.may_register);
        batch = tokio::task::spawn_blocking(again).await.map_err(|_| Error::internal())??;
    }
    Err(last_conflict.map_or_else(Error::internal, |conflict| commit_error(&conflict)))
}

/// What a batch comes to.
enum Plan {
    Commit {
        changes: Vec<(Change, Expect)>,
        /// What they will have done.
        report: Report,
        pending: Pending,
    },
    /// The view does not have yet what the batch depends on.
    Wait,
}

/// The changes for what the view has. Takes the documents and ids out of the batch.
fn plan(site: &Site, batch: &mut Understood, on_existing: OnExisting, in_front: &InFront) -> Result<Plan, Error> {
    let view = site.view();
    // With what the view has by itself, nothing needs to be known of the batches in front.
    let in_front = if view.position() < in_front.position { &in_front.pending[..] } else { &[] };
    let mut report = Report::default();
    let mut changes = Vec::with_capacity(batch.resources.len());
    // Parents first, from documents that are all still there.
    let parents: Vec<_> = {
        let (resources, by_id) = (&batch.resources, &batch.by_id);
        let not_in_view = |id: &ResourceId| match by_id.get(id) {
            Some(at) => Some(nearest_parent(&resources[*at].type_def, &resources[*at].document).cloned()),
            None => in_front.iter().find_map(|pending| pending.get(id)).map(|parents| parents.first().cloned()),
        };
        let mut cache = ParentCache::new(not_in_view);
        resources.iter().map(|one| cache.parents(&view, &one.type_def, &one.document)).collect()
    };
    let pending = batch.by_id.drain().map(|(id, at)| (id, parents[at].clone())).collect();
    for (one, parents) in batch.resources.drain(..).zip(parents) {
        let Parsed { id, mut document, line, .. } = one;
        let exists = view.modified(&id).is_some();
        let refused = match on_existing {
            OnExisting::Fail if exists => Some(WriteError::Exists(id.clone())),
            OnExisting::Replace if exists => demand_own(&view, &id).err(),
            OnExisting::Replace | OnExisting::Skip | OnExisting::Fail => None,
        };
        let is_changing = exists && in_front.iter().any(|pending| pending.contains_key(&id));
        // It is about to change: what it is in the view must not decide whether it is refused, left out or found to be as wanted. And an
        // error is told of the first line that has one, which may be one that the batches in front make wrong.
        if is_changing || (refused.is_some() && !in_front.is_empty()) {
            return Ok(Plan::Wait);
        }
        if let Some(refused) = refused {
            return Err(line_error(line, &refused.into_error()));
        }
        if exists && on_existing == OnExisting::Skip {
            report.skipped += 1;
            continue;
        }
        if !exists {
            // Nobody keeps it yet, and no line says who does.
            report.created += 1;
            changes.push((Change { id, operation: Operation::Create(document), parents }, Expect::Absent));
            continue;
        }
        keep_collector(&view, &id, &mut document).map_err(|e| line_error(line, &e.into_error()))?;
        if let Some(change) = change_to(&view, id, document, parents) {
            report.replaced += 1;
            changes.push(change);
        } else {
            report.unchanged += 1;
        }
    }
    Ok(Plan::Commit { changes, report, pending })
}
