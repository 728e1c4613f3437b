//! The filtered feed: net changes, as seen through a filter.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_contract::services::feed::{Event, EventKind, EventList, GetChangesInput};
use lockstep_contract::{Error, ErrorKind};
use lockstep_journal::{Change, Commit, Operation, ReadError};
use lockstep_model::{Document, Position, ResourceId};
use lockstep_query::{Filter, Rewound, Source, View};
use lockstep_site::Site;
use lockstep_site::table::Context;
use lockstep_site::token::{self, TokenError};

use crate::log::{EVENTS_MAX, check, is_public, refuse, refuse_read, typed};
use crate::parking::{Woken, still_there};
use crate::{Feed, catch_up};

/// Changes between a token and the present that are compared for one answer. A reader further behind is told that its token has
/// expired, or is caught up.
pub const HISTORY_CHANGES_MAX: usize = 100_000;

/// About how many bytes of the journal are read at a time.
const READ_BYTES: usize = 4 << 20;

/// A reader this many positions behind makes enough work for a blocking thread.
const NEAR_POSITIONS: u64 = 64;

/// What a reader wants to see.
#[derive(Debug, Clone)]
pub(crate) struct Lens {
    /// Only these types; none: all.
    types: Option<Vec<String>>,
    filter: Option<Filter>,
}

impl Lens {
    fn compile(context: &Context, input: &GetChangesInput) -> Result<Self, Error> {
        let view = context.site.view();
        for (i, name) in input.resource_types.iter().flatten().enumerate() {
            let known =
                view.registry().type_def(name).is_some_and(|t| t.name.as_str() != lockstep_model::builtin::ACCOUNT);
            if !known {
                let place = format!("resource_types[{i}]");
                return Err(Error::invalid_argument("lockstep.feed.type", &place, &format!("no resource type {name}")));
            }
        }
        let filter = match &input.filter {
            None => None,
            Some(filter) => {
                let spec = lockstep_site::filter_spec(filter.clone())?;
                let limits = &context.site.config.query_limits;
                let compiled = Filter::compile(&spec, "filter", view.registry(), limits);
                Some(compiled.map_err(|e| Error::invalid_argument(e.id, &e.path, &e.message))?)
            }
        };
        Ok(Self { types: input.resource_types.clone(), filter })
    }

    /// Whether resources of that type can be seen at all.
    pub(crate) fn may_see(&self, id: &ResourceId) -> bool {
        let is_wanted = self.types.as_ref().is_none_or(|types| types.iter().any(|t| t == id.resource_type.as_str()));
        is_wanted && self.filter.as_ref().is_none_or(|filter| filter.types().contains(&id.resource_type))
    }

    /// Whether the resource is there and matches.
    pub(crate) fn sees(&self, id: &ResourceId, source: &dyn Source) -> bool {
        self.may_see(id)
            && is_public(id)
            && match &self.filter {
                Some(filter) => filter.matches(id, source),
                None => source.exists(id),
            }
    }

    /// The resources that may be seen otherwise after these changes, `source` being the state before or after them.
    pub(crate) fn affected(&self, changes: &[Change], source: &dyn Source) -> Vec<ResourceId> {
        match &self.filter {
            Some(filter) => filter.affected(changes, source),
            None => changes.iter().map(|change| change.id.clone()).collect(),
        }
    }
}

/// What an attempt found.
pub(crate) struct Found {
    pub(crate) events: Vec<Event>,
    /// Where to go on.
    pub(crate) position: Position,
}

/// Why the log cannot tell what has changed.
enum Unknown {
    /// The token has aged out, or is too far behind to be compared.
    TooOld,
    Read(ReadError),
}

pub(crate) async fn get_changes(feed: Arc<Feed>, context: Context, input: GetChangesInput) -> Result<EventList, Error> {
    let site = context.site.clone();
    let lens = Arc::new(Lens::compile(&context, &input)?);
    let wants_catch_up = input.catch_up.unwrap_or(false);
    let mut after = match check(&site, &input.sequence_token) {
        Ok(after) => after,
        Err(TokenError::Expired) if wants_catch_up => return catch_up::answer(&site, &lens, &input.sequence_token),
        Err(error) => return Err(refuse(&error)),
    };
    let mut progress = site.progress();
    let place = feed.parking.enter()?;
    loop {
        if site.position() > after {
            let found = match find(&site, &lens, after).await? {
                Ok(found) => found,
                Err(Unknown::TooOld) if wants_catch_up => return catch_up::answer(&site, &lens, &input.sequence_token),
                Err(Unknown::TooOld) => return Err(refuse(&TokenError::Expired)),
                Err(Unknown::Read(error)) => return Err(refuse_read(&error)),
            };
            after = found.position;
            if !found.events.is_empty() {
                still_there(&site, &context.caller)?;
                return Ok(list(&site, found));
            }
        } else if let Woken::TimeUp = place.wait(&mut progress, after).await {
            still_there(&site, &context.caller)?;
            return Ok(list(&site, Found { events: Vec::new(), position: after }));
        }
    }
}

pub(crate) fn list(site: &Site, found: Found) -> EventList {
    let changes = (!found.events.is_empty()).then_some(found.events);
    EventList { sequence: token::write(site.origin(), found.position), changes, caught_up: None }
}

async fn find(site: &Arc<Site>, lens: &Arc<Lens>, after: Position) -> Result<Result<Found, Unknown>, Error> {
    if site.position().0 - after.0 <= NEAR_POSITIONS {
        return Ok(compare(site, lens, after));
    }
    let (site, lens) = (site.clone(), lens.clone());
    tokio::task::spawn_blocking(move || compare(&site, &lens, after)).await.map_err(|_| {
        Error::new(
            ErrorKind::InternalServerError,
            "lockstep.internal",
            "the server failed; its log says why",
            Vec::new(),
        )
    })
}

/// Compares the state at `after` with the present, or with an earlier position when much has happened since.
fn compare(site: &Site, lens: &Lens, after: Position) -> Result<Found, Unknown> {
    let mut commits: Vec<Arc<Commit>> = Vec::new();
    let mut count = 0;
    loop {
        // The journal is read without the view's lock, as it may need the disk; what comes meanwhile is read in the next round.
        let mut at = commits.last().map_or(after, |c| c.position);
        loop {
            let more = site.journal().read(at, READ_BYTES).map_err(|error| match error {
                ReadError::Expired { .. } => Unknown::TooOld,
                ReadError::Future { .. } | ReadError::Broken(_) => Unknown::Read(error),
            })?;
            let Some(last) = more.last() else { break };
            at = last.position;
            count += more.iter().map(|c| c.changes.len()).sum::<usize>();
            commits.extend(more);
            if count > HISTORY_CHANGES_MAX {
                return Err(Unknown::TooOld);
            }
        }
        let view = site.view();
        if commits.last().is_none_or(|last| last.position >= view.position()) {
            let known = commits.partition_point(|c| c.position <= view.position());
            return Ok(net_changes(&view, &commits[..known], lens));
        }
    }
}

/// The events that lead from the state before `commits`, which end at the view's position, to the state after about
/// [`EVENTS_MAX`] of their changes.
fn net_changes(view: &View, commits: &[Arc<Commit>], lens: &Lens) -> Found {
    let mut count = 0;
    let full = commits.iter().position(|commit| {
        count += commit.changes.len();
        count >= EVENTS_MAX
    });
    let (told, later) = commits.split_at(full.map_or(commits.len(), |last| last + 1));
    let states = States {
        before: Rewound::new(view, commits.iter().map(|c| &**c)),
        after: Rewound::new(view, later.iter().map(|c| &**c)),
    };
    let mut affected: Vec<ResourceId> = told.iter().flat_map(|c| lens.affected(&c.changes, &states.before)).collect();
    affected.sort_unstable();
    affected.dedup();
    let last_changes: HashMap<&ResourceId, &Change> =
        told.iter().flat_map(|c| &c.changes).map(|c| (&c.id, c)).collect();
    let mut events: Vec<Event> =
        affected.iter().filter_map(|id| event(id, lens, view, &states, last_changes.get(id).copied())).collect();
    // What goes comes first, so that who keeps a set never holds more than it should.
    let rank = |kind: EventKind| match kind {
        EventKind::Delete => 0,
        EventKind::Leave => 1,
        EventKind::Create => 2,
        EventKind::Enter => 3,
        EventKind::Update => 4,
    };
    events.sort_by_key(|e| rank(e.kind));
    let position = if later.is_empty() { view.position() } else { told.last().map_or(view.position(), |c| c.position) };
    Found { events, position }
}

/// The two states that an answer leads between.
struct States<'v> {
    before: Rewound<'v>,
    after: Rewound<'v>,
}

fn event(
    id: &ResourceId,
    lens: &Lens,
    view: &View,
    states: &States<'_>,
    last_change: Option<&Change>,
) -> Option<Event> {
    let (was_seen, is_seen) = (lens.sees(id, &states.before), lens.sees(id, &states.after));
    if !was_seen && !is_seen {
        return None;
    }
    let (was_there, is_there) = (states.before.exists(id), states.after.exists(id));
    let leaves = match last_change {
        Some(_) if was_there && is_there => differing(states.before.document(id), states.after.document(id)),
        Some(_) | None => Vec::new(),
    };
    let kind = match (was_seen, is_seen) {
        (true, true) if leaves.is_empty() => return None,
        (true, true) => EventKind::Update,
        (true, false) if is_there => EventKind::Leave,
        (true, false) => EventKind::Delete,
        (false, _) if was_there => EventKind::Enter,
        (false, _) => EventKind::Create,
    };
    let parents =
        match last_change.filter(|c| kind == EventKind::Delete || !matches!(c.operation, Operation::Delete(_))) {
            Some(change) => change.parents.iter().map(typed).collect(),
            None => view.parents(id).iter().map(typed).collect(),
        };
    let properties = (!leaves.is_empty()).then_some(leaves);
    Some(Event { resource: typed(id), kind, properties, parent_resources: parents })
}

fn differing(old: Option<Document>, new: Option<Document>) -> Vec<String> {
    old.unwrap_or_default().diff(&new.unwrap_or_default()).into_iter().map(|leaf| leaf.path.to_string()).collect()
}
