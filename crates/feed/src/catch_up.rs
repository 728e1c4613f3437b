//! Catching up: what may have changed since a token that the log does not reach back to.
//!
//! The view knows where each resource was created and last changed, and the journal's state which were deleted, for longer than
//! the log lasts. So one event for each resource that has changed can be given without the log, and for each whose membership may
//! have changed by a change elsewhere. What is not known is how a resource looked before: one that matches comes as CREATE, UPDATE or
//! ENTER whether the client had it or not, one that does not as LEAVE.

use lockstep_contract::Error;
use lockstep_contract::services::feed::{Event, EventKind, EventList};
use lockstep_journal::{Change, Operation};
use lockstep_model::{Document, Position, ResourceId};
use lockstep_query::View;
use lockstep_site::Site;
use lockstep_site::token::{self, TokenError};

use crate::filtered::Lens;
use crate::log::{is_public, refuse, typed};

pub(crate) fn answer(site: &Site, lens: &Lens, sequence_token: &str) -> Result<EventList, Error> {
    let after = token::read(site.origin(), sequence_token).map_err(|e| refuse(&e))?;
    let view = site.view();
    // Deletions are remembered longer than the log, but not for ever.
    let gone = site.deleted_since(&view, after).ok_or_else(|| refuse(&TokenError::Expired))?;
    let events = events(&view, lens, after, gone);
    let changes = (!events.is_empty()).then_some(events);
    Ok(EventList { sequence: token::write(site.origin(), view.position()), changes, caught_up: Some(true) })
}

fn events(view: &View, lens: &Lens, after: Position, mut gone: Vec<ResourceId>) -> Vec<Event> {
    // Whatever happened to them: as far as anyone knows, all of it.
    let change = |id| Change { id, operation: Operation::Delete(Document::default()), parents: [].into() };
    let changes: Vec<Change> = view.changed_since(after).chain(gone.iter().cloned()).map(change).collect();
    let mut affected = lens.affected(&changes, view);
    affected.sort_unstable();
    affected.dedup();
    gone.retain(|id| is_public(id) && lens.may_see(id) && view.modified(id).is_none());
    gone.sort_unstable();
    gone.dedup();
    let deleted = gone.into_iter().map(|id| event(&id, EventKind::Delete, Vec::new()));
    let present = affected.iter().filter_map(|id| {
        let (created, modified) = view.lifetime(id)?;
        let kind = match lens.sees(id, view) {
            _ if !is_public(id) => return None,
            false if !lens.may_see(id) => return None,
            false => EventKind::Leave,
            true if created > after => EventKind::Create,
            true if modified > after => EventKind::Update,
            true => EventKind::Enter,
        };
        Some(event(id, kind, view.parents(id)))
    });
    deleted.chain(present).collect()
}

fn event(id: &ResourceId, kind: EventKind, parents: Vec<ResourceId>) -> Event {
    Event { resource: typed(id), kind, properties: None, parent_resources: parents.iter().map(typed).collect() }
}
