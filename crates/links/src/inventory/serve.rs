//! The pull side: what the other site of a link asks for.
//!
//! Nothing is kept for an asker between calls: what it has and where it goes on are in its questions. Each call locks the view for
//! some milliseconds at the most; a scan that finds little stops after [`SCAN_MAX`] resources, and says how far it came.
//!
//! # The token
//! That of the feed, and behind a plus how many changes of the next commit have been told, so that a commit of any size comes in
//! pieces. What a commit did never changes, so counting into it is safe.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::TypedId;
use lockstep_contract::services::link_pull::{
    AfterInput, Changes, ChangesInput, ChangesOut, DigestEntry, DigestPage, DigestRange, Digests, Entries,
    EntriesInput, EntryPage, FETCH_MAX, Fetch, FetchInput, Fetched, ModelList, Models, Page, PageOut, Start,
    StartInput, Started, WAIT_MAX_S,
};
use lockstep_contract::{Error, ErrorKind};
use lockstep_journal::{Change, Commit, Operation, ReadError};
use lockstep_model::{LINKED_FROM, Position, ResourceId, ResourceType, builtin};
use lockstep_query::{ResourceRef, View};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use lockstep_site::token::{self, TokenError};

use super::digest;
use super::frame::FrameWriter;
use super::place::typed;
use super::set::{Asked, Set};
use crate::tagging::serve as tagging;

/// Most resources that one call looks at.
pub(crate) const SCAN_MAX: usize = 50_000;

/// Resources of a range of digests: a tenth of a per mille of a large site, and still a short list where one differs.
const RANGE_RESOURCES: usize = 256;

/// Most ranges of an answer: some ten milliseconds of reckoning.
const RANGES_MAX: usize = 40;

/// Most entries of an answer.
const ENTRIES_MAX: usize = 2000;

/// About how many bytes of the journal are read for one answer.
const READ_BYTES: usize = 256 << 10;

/// Most bytes of the journal that an answer looks through without finding anything to tell.
const READS_MAX: usize = 64;

/// Registers the operations.
pub(crate) fn register(table: &mut Table) {
    table.register(Start, async |context, input| start(&context.site, &input));
    table.register(Models, async |context, _| Ok(models(&context.site)));
    table.register(Page, async |context, input| blocking(context, move |site| page(site, input)).await);
    table.register(Digests, async |context, input| blocking(context, move |site| digests(site, input)).await);
    table.register(Entries, async |context, input| blocking(context, move |site| entries(site, input)).await);
    table.register(Fetch, async |context, input| blocking(context, move |site| fetch(site, input)).await);
    table.register(Changes, async |context, input| changes(context, input).await);
}

/// Runs what locks the view for milliseconds on a thread that may block.
async fn blocking<T: Send + 'static>(
    context: Context,
    work: impl FnOnce(&Site) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(move || work(&context.site)).await.map_err(|_| Error::internal())?
}

fn start(site: &Site, input: &StartInput) -> Result<Started, Error> {
    let asked = Asked::read(input.set.as_deref(), input.link.as_deref())?;
    let view = site.view();
    let count = |name: &ResourceType| view.count(name.as_str()).saturating_sub(view.linked_count(name.as_str()));
    let total: usize = match asked {
        Asked::Copies(set) => shared_types(&view, set, None).iter().map(count).sum(),
        Asked::Tagging(_) => tagging::count(&view),
    };
    Ok(Started {
        token: token::write(site.origin(), view.position()),
        total: i64::try_from(total).unwrap_or(i64::MAX),
        models: version(site, &view),
    })
}

fn models(site: &Site) -> ModelList {
    let view = site.view();
    let registered = view.registry().models().filter(|m| !builtin::is_builtin(&m.name));
    let definitions = registered.filter_map(|model| serde_json::to_string(&**model).ok()).collect();
    ModelList { models: version(site, &view), definitions }
}

/// Tells whether models have changed: there are few, so looking at all of them costs nothing.
fn version(site: &Site, view: &View) -> String {
    let registered = view.resources(builtin::RESOURCE_MODEL, None);
    let (count, last) = registered.fold((0u64, Position::ZERO), |(n, last), model| (n + 1, last.max(model.modified())));
    match count {
        0 => String::new(),
        _ => format!("{:x}.{count}.{last}", site.origin().epoch),
    }
}

/// The types whose resources are told, in order, from `from` on.
fn shared_types(view: &View, set: Set, from: Option<&str>) -> Vec<ResourceType> {
    let types = view.registry().types().map(|def| &def.name);
    types.filter(|t| set.holds(t.as_str()) && from.is_none_or(|from| t.as_str() >= from)).cloned().collect()
}

/// What a scan does behind a resource.
enum Step {
    On,
    Stop,
}

/// Walks over this site's own resources behind `after` and up to `last`; where it stopped, or `None` at the end.
fn scan(
    view: &View,
    set: Set,
    after: Option<&TypedId>,
    last: Option<&TypedId>,
    mut each: impl FnMut(&ResourceRef<'_>) -> Step,
) -> Option<TypedId> {
    let mut seen = 0;
    for name in shared_types(view, set, after.map(|a| &*a.resource_type)) {
        let behind = after.filter(|a| a.resource_type == name.as_str()).map(|a| &*a.id);
        for resource in view.resources(name.as_str(), behind) {
            if last.is_some_and(|last| (name.as_str(), resource.id()) > (&*last.resource_type, &*last.id)) {
                return None;
            }
            seen += 1;
            let step = if resource.linked_from().is_some() { Step::On } else { each(&resource) };
            if matches!(step, Step::Stop) || seen >= SCAN_MAX {
                return Some(place(&resource));
            }
        }
    }
    None
}

fn place(resource: &ResourceRef<'_>) -> TypedId {
    TypedId { resource_type: resource.resource_type().to_owned(), id: resource.id().to_owned() }
}

fn page(site: &Site, input: AfterInput) -> Result<PageOut, Error> {
    let asked = Asked::read(input.set.as_deref(), input.link.as_deref())?;
    let mut frame = FrameWriter::default();
    let view = site.view();
    let next = match asked {
        Asked::Copies(set) => scan(&view, set, input.after.as_ref(), None, |resource| {
            frame.put(resource);
            if frame.is_full() { Step::Stop } else { Step::On }
        }),
        Asked::Tagging(link) => tagging::page(&view, &link, input.after.as_ref(), &mut frame),
    };
    let models = version(site, &view);
    drop(view);
    Ok(PageOut { frame: frame.finish(), next, models })
}

fn digests(site: &Site, input: AfterInput) -> Result<DigestPage, Error> {
    let set = Asked::copies(input.set.as_deref())?;
    let view = site.view();
    let mut ranges: Vec<DigestRange> = Vec::new();
    let (mut count, mut sum) = (0usize, 0u64);
    let mut last = None;
    let next = scan(&view, set, input.after.as_ref(), None, |resource| {
        count += 1;
        sum = sum.wrapping_add(digest::of_resource(&view, resource, resource.resource_type(), ""));
        if count < RANGE_RESOURCES {
            last = Some(resource.resource_id());
            return Step::On;
        }
        ranges.push(range(place(resource), count, sum));
        (count, sum, last) = (0, 0, None);
        if ranges.len() < RANGES_MAX { Step::On } else { Step::Stop }
    });
    // The range that was not filled ends where the scan did.
    let rest = next.clone().filter(|at| ranges.last().is_none_or(|r| r.last != *at)).or(last.map(|id| typed(&id)));
    ranges.extend(rest.map(|at| range(at, count, sum)));
    Ok(DigestPage { ranges, more: next.is_some(), models: version(site, &view) })
}

fn range(last: TypedId, count: usize, sum: u64) -> DigestRange {
    DigestRange { last, count: i64::try_from(count).unwrap_or(i64::MAX), digest: digest::write(sum) }
}

fn entries(site: &Site, input: EntriesInput) -> Result<EntryPage, Error> {
    let set = Asked::copies(input.set.as_deref())?;
    let view = site.view();
    let mut entries = Vec::new();
    let next = scan(&view, set, input.after.as_ref(), Some(&input.last), |resource| {
        let digest = digest::write(digest::of_resource(&view, resource, resource.resource_type(), ""));
        entries.push(DigestEntry { resource: place(resource), digest });
        if entries.len() < ENTRIES_MAX { Step::On } else { Step::Stop }
    });
    Ok(EntryPage { entries, next })
}

fn fetch(site: &Site, input: FetchInput) -> Result<Fetched, Error> {
    if input.resources.len() > FETCH_MAX {
        let message = format!("{} resources; {FETCH_MAX} are the most", input.resources.len());
        return Err(Error::invalid_argument("lockstep.links.pull.too_many", "resources", &message));
    }
    let set = Asked::copies(input.set.as_deref())?;
    let mut frame = FrameWriter::default();
    let view = site.view();
    for asked in &input.resources {
        let id = ResourceId::new(&*asked.resource_type, &*asked.id);
        id.check().map_err(|e| Error::invalid_argument("lockstep.resources.id", "resources", &e.to_string()))?;
        let found = view.find(&id).filter(|r| set.holds(r.resource_type()) && r.linked_from().is_none());
        match found {
            Some(resource) => frame.put(&resource),
            None => frame.gone(&asked.resource_type, &asked.id),
        }
        if frame.is_full() {
            break;
        }
    }
    drop(view);
    Ok(Fetched { frame: frame.finish() })
}

/// A place in the log: behind a commit, and so many changes into the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    after: Position,
    told: usize,
}

impl At {
    fn read(site: &Site, text: &str) -> Result<Self, Error> {
        let refuse = |e: &TokenError| Error::invalid_argument(e.message_id(), "token", &e.to_string());
        let (feed, told) = text.split_once('+').unwrap_or((text, "0"));
        let after = token::read(site.origin(), feed).map_err(|e| refuse(&e))?;
        let told = told.parse().map_err(|_| refuse(&TokenError::Malformed))?;
        if after > site.journal().head() {
            return Err(refuse(&TokenError::Future));
        }
        if after < site.journal().oldest() {
            return Err(refuse(&TokenError::Expired));
        }
        Ok(Self { after, told })
    }

    fn write(self, site: &Site) -> String {
        let feed = token::write(site.origin(), self.after);
        if self.told == 0 { feed } else { format!("{feed}+{}", self.told) }
    }
}

/// What one look into the log found.
struct Found {
    frame: FrameWriter,
    at: At,
    more: bool,
    models: String,
}

async fn changes(context: Context, input: ChangesInput) -> Result<ChangesOut, Error> {
    let site = context.site.clone();
    let asked = Asked::read(input.set.as_deref(), input.link.as_deref())?;
    let mut at = At::read(&site, &input.token)?;
    let wait = u64::try_from(input.wait_s.unwrap_or(0).clamp(0, WAIT_MAX_S)).unwrap_or(0);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait);
    let mut progress = site.progress();
    loop {
        let reached = site.position();
        let (here, asked) = (site.clone(), asked.clone());
        let found = tokio::task::spawn_blocking(move || look(&here, &asked, at, reached))
            .await
            .map_err(|_| Error::internal())?;
        let found = found.map_err(|e| refuse_read(&e))?;
        at = found.at;
        let is_answer = !found.frame.is_empty() || found.more || wait == 0;
        let is_over = is_answer || {
            // Commits that tell the other site nothing (both write down how their syncs went) do not end the wait.
            let beyond = progress.wait_for(|now| now.position > reached || now.is_stopping);
            match tokio::time::timeout_at(deadline, beyond).await {
                Ok(Ok(now)) => now.is_stopping,
                Ok(Err(_)) | Err(_) => true,
            }
        };
        if is_over {
            still_there(&site, &context.caller)?;
            let Found { frame, at, more, models } = found;
            return Ok(ChangesOut { token: at.write(&site), frame: frame.finish(), more, models });
        }
    }
}

/// Looks through the log from `at` until there is enough to tell.
fn look(site: &Site, asked: &Asked, mut at: At, reached: Position) -> Result<Found, ReadError> {
    let mut frame = FrameWriter::default();
    let mut told: HashSet<ResourceId> = HashSet::new();
    let mut reads = 0;
    while at.after < reached && !frame.is_full() && reads < READS_MAX {
        reads += 1;
        let commits = site.journal().read(at.after, READ_BYTES)?;
        if commits.is_empty() {
            // A journal that is shared has positions that are no commits.
            at = At { after: reached, told: 0 };
        }
        let view = site.view();
        for commit in commits {
            if commit.position > reached {
                at = At { after: reached, told: 0 };
                break;
            }
            at = tell(&commit, asked, at, &view, &mut frame, &mut told);
            if frame.is_full() {
                break;
            }
        }
    }
    let models = version(site, &site.view());
    Ok(Found { frame, at, more: at.after < reached, models })
}

/// Tells of a commit what has not been told of it.
fn tell(
    commit: &Arc<Commit>,
    asked: &Asked,
    at: At,
    view: &View,
    frame: &mut FrameWriter,
    told: &mut HashSet<ResourceId>,
) -> At {
    for (i, change) in commit.changes.iter().enumerate().skip(at.told) {
        match asked {
            Asked::Copies(set) => tell_change(*set, change, view, frame, told),
            Asked::Tagging(link) => tagging::tell(link, change, view, frame, told),
        }
        if frame.is_full() && i + 1 < commit.changes.len() {
            return At { after: at.after, told: i + 1 };
        }
    }
    At { after: commit.position, told: 0 }
}

fn tell_change(set: Set, change: &Change, view: &View, frame: &mut FrameWriter, told: &mut HashSet<ResourceId>) {
    if !set.holds(change.id.resource_type.as_str()) || told.contains(&change.id) {
        return;
    }
    match (view.find(&change.id), &change.operation) {
        (Some(resource), _) if resource.linked_from().is_some() => return,
        (Some(resource), _) => frame.put(&resource),
        // What was linked there was never told.
        (None, Operation::Delete(document)) if document.get(LINKED_FROM).is_none() => {
            frame.gone(change.id.resource_type.as_str(), &change.id.id);
        }
        // It is deleted by a later commit, which tells it.
        (None, Operation::Create(_) | Operation::Update(_) | Operation::Delete(_)) => return,
    }
    told.insert(change.id.clone());
}

fn refuse_read(error: &ReadError) -> Error {
    match TokenError::from_read(error) {
        Some(error) => Error::invalid_argument(error.message_id(), "token", &error.to_string()),
        None => {
            tracing::error!(%error, "the journal cannot be read");
            Error::new(
                ErrorKind::InternalServerError,
                "lockstep.journal.failed",
                "the journal cannot be read",
                Vec::new(),
            )
        }
    }
}

/// Whether the caller may still ask after the wait: a token that was revoked meanwhile learns nothing more.
fn still_there(site: &Site, caller: &Caller) -> Result<(), Error> {
    match caller {
        Caller::User(user) => {
            let account = ResourceId::new(builtin::ACCOUNT, &*user.name);
            let is_gone =
                user.session.is_some_and(|key| !site.sessions.touch(key)) || site.view().find(&account).is_none();
            if is_gone { Err(Error::unauthenticated()) } else { Ok(()) }
        }
        Caller::Anonymous | Caller::Server(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::Document;

    async fn site(dir: &std::path::Path) -> Arc<Site> {
        let config = lockstep_site::Config {
            name: "s".to_owned(),
            data_dir: dir.to_owned(),
            journal: lockstep_journal::Config::default(),
            query_limits: lockstep_query::Limits::default(),
            sessions: lockstep_site::sessions::SessionLimits::default(),
            epoch_types: Vec::new(),
        };
        Site::open(config, &mut |_| {}).unwrap()
    }

    #[tokio::test]
    async fn a_commit_of_any_size_is_told_in_pieces_none_twice() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path()).await;
        let before = At { after: site.position(), told: 0 };
        let create = |i: usize| lockstep_journal::Change {
            id: ResourceId::new("Datastore", format!("{i:05}")),
            operation: Operation::Create(Document::new(vec![("name".into(), "x".into())])),
            parents: Arc::from([]),
        };
        let changes = (0..5000).map(|i| (create(i), lockstep_journal::Expect::Absent)).collect();
        let batch = lockstep_journal::Batch { author: "t".into(), changes, relies_on: Vec::new() };
        let reached = site.commit(batch).await.unwrap();
        let (mut at, mut ids) = (before, Vec::new());
        loop {
            let found = look(&site, &Asked::Copies(Set::Inventory), at, reached).unwrap();
            assert_eq!(At::read(&site, &found.at.write(&site)).unwrap(), found.at);
            at = found.at;
            let frame = super::super::frame::Frame::open(&found.frame.finish()).unwrap();
            assert!(frame.len() <= 2000);
            ids.extend(frame.lines().map(|line| line.unwrap().id.to_owned()));
            if !found.more {
                break;
            }
        }
        assert_eq!(at, At { after: reached, told: 0 });
        assert_eq!(ids, (0..5000).map(|i| format!("{i:05}")).collect::<Vec<_>>());
        site.close();
    }

    #[tokio::test]
    async fn ranges_cover_everything_and_their_entries_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path()).await;
        for kind in ["Datacenter", "Datastore"] {
            for i in 0..300 {
                let id = ResourceId::new(kind, format!("{i:05}"));
                site.create_resource("t".into(), id, &format!(r#"{{"name":"n{i}"}}"#)).await.unwrap();
            }
        }
        let answer = digests(&site, AfterInput { after: None, set: None, link: None }).unwrap();
        assert!(!answer.more);
        assert_eq!(answer.ranges.iter().map(|r| r.count).collect::<Vec<_>>(), [256, 256, 88]);
        let mut after = None;
        for range in answer.ranges {
            let listed =
                entries(&site, EntriesInput { after: after.replace(range.last.clone()), last: range.last, set: None })
                    .unwrap();
            assert_eq!((listed.entries.len() as i64, listed.next), (range.count, None));
            let sum = listed
                .entries
                .iter()
                .fold(0u64, |sum, e| sum.wrapping_add(u64::from_str_radix(&e.digest, 16).unwrap()));
            assert_eq!(digest::write(sum), range.digest);
        }
        site.close();
    }
}
