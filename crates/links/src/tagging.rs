//! Tagging over links: categories, tags and attachments that all linked sites share.
//!
//! # What is shared
//! A category or tag has the same id at every site: ids are random, so they need no site in front. What is attached to an object is
//! shared by the object's own site and those with a copy of it: `vm-1` here is `<our domain>~vm-1` there, and either may be tagged. Sites
//! that are not linked with each other come in step through the sites between them, but for attachments, which an object's own
//! site hands out. The inventory's provider leaves all of it alone.
//!
//! # The rule
//! Every edit has a stamp, and the later one wins, property by property, attachment by attachment; a deletion wins over concurrent edits:
//! [`lockstep_site::stamps`] has the rule and its reasons. Both sides pull what the other knows of the edits, and merge. A merge says the same
//! in any order and however often, so messages may be late, doubled or lost, and a site may begin anew at any time: what it knows
//! already changes nothing, and what changes nothing is not told on, so nothing goes round for ever.
//!
//! Three things hold beyond single registers, and two edits that were right apart can break them together. Whoever finds that puts it
//! right by an edit of its own (`settle`), which travels like any other; the sites find the same, so they do the same:
//! - *two of one name*: the one that has it since later is renamed to `<name> (<8 hex digits of its id>)`;
//! - *two tags of a SINGLE category on one object*: the one that was attached later stays;
//! - *a tag without its category*, deleted meanwhile: the tag is deleted, too.
//!
//! An attachment to a type that the category does not allow any more, since its types were set at two sites, stays.
//!
//! # What was lost
//! Each edit that lost without having seen the winner is kept as a `TagConflict` (`conflicts`), by an id that every site reckons alike. Conflicts
//! travel too. Where two sites cannot tell whether an edit was seen, an edit of an object that was deleted meanwhile, it is recorded.
//!
//! # How it goes
//! As the inventory: pages of state from a token on, then what changed since. When the token has aged out the state is read again, a page
//! at a time, and what is known is passed over. What a frame says is written in this order: categories and tags, deletions, attachments,
//! what settles them, and at last the place; so a crash in between repeats a part, which changes nothing.
//!
//! # What runs at the same time
//! Writing a frame holds [`Site::tagging`](lockstep_site::Site::tagging) alone, as an edit of a category does: no edit made here comes between what is
//! looked at and what is written. Plain writes and imports do not hold it; they meet at preconditions, and the frame is planned anew.

mod apply;
pub(crate) mod conflicts;
mod record;
pub(crate) mod serve;
mod settle;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use lockstep_contract::services::link_pull::{AfterInput, Page, Start};
use lockstep_model::ResourceId;
use parking_lot::Mutex;

use crate::inventory::batch::commit_place;
use crate::inventory::follow::{self, EMPTY_MAX};
use crate::inventory::frame::Frame;
use crate::inventory::peer::{call, is_expired, malformed};
use crate::inventory::place::{Place, typed};
use crate::inventory::set::TAGGING;
use crate::inventory::{checked, start_input};
use crate::provider::Running;
use crate::{Run, Stage, SyncError, SyncProvider};

/// How often tagging is synced when nothing wakes it.
const POLLING_INTERVAL: Duration = Duration::from_secs(300);

/// Most records that one sync takes.
const RECORDS_MAX: u64 = 20_000_000;

/// How often conflicts that have aged are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// The provider `tagging`.
#[derive(Debug, Default)]
pub struct Tagging {
    /// When aged conflicts were looked for last.
    pruned: Mutex<Option<Instant>>,
}

impl Tagging {
    /// The provider, for all links.
    pub fn new() -> Self {
        Self::default()
    }

    async fn prune(&self, run: &Run) -> Result<(), SyncError> {
        let is_due = self.pruned.lock().is_none_or(|at| at.elapsed() > PRUNE_EVERY);
        if is_due {
            conflicts::prune(&run.site).await?;
            *self.pruned.lock() = Some(Instant::now());
        }
        Ok(())
    }
}

impl SyncProvider for Tagging {
    fn name(&self) -> &'static str {
        TAGGING
    }

    fn polling_interval(&self) -> Duration {
        POLLING_INTERVAL
    }

    fn reached(&self, cursor: &str) -> Option<u64> {
        Place::read(cursor)?.position()
    }

    fn sync<'a>(&'a self, run: &'a Run) -> Running<'a> {
        Box::pin(async move {
            self.prune(run).await?;
            Sync { run, cursor: run.cursor(), work: 0 }.run().await
        })
    }

    fn changed<'a>(&'a self, run: &'a Run) -> Running<'a> {
        Box::pin(follow::changed(run))
    }
}

/// A sync under way.
struct Sync<'a> {
    run: &'a Run,
    /// The place as it is stored.
    cursor: Option<String>,
    /// How many records were told so far.
    work: u64,
}

impl Sync<'_> {
    async fn run(mut self) -> Result<(), SyncError> {
        self.run.stage(Stage::ChangeDetection);
        let mut place = match self.cursor.as_deref().and_then(Place::read) {
            Some(place) => place,
            None => self.begin().await?,
        };
        let mut has_begun_anew = false;
        loop {
            place = match place {
                // There are no digests to compare by.
                Place::Copying { token, after } | Place::Comparing { token, after } => self.copy(token, after).await?,
                Place::Following { token } => match self.follow(token).await {
                    Err(error) if is_expired(&error) && has_begun_anew => return Err(SyncError::Expired),
                    Err(error) if is_expired(&error) => {
                        tracing::info!(link = %self.run.link, "the stored place is not known there any more: reading all again");
                        has_begun_anew = true;
                        self.begin().await?
                    }
                    outcome => return outcome,
                },
            };
        }
    }

    async fn begin(&self) -> Result<Place, SyncError> {
        let started = call(&self.run.client, Start, start_input(self.run), Duration::ZERO).await?;
        self.run.total(u64::try_from(started.total).unwrap_or(0));
        Ok(Place::Copying { token: checked(started.token)?, after: None })
    }

    /// Takes in the pages behind `after`.
    async fn copy(&mut self, token: String, after: Option<ResourceId>) -> Result<Place, SyncError> {
        self.run.stage(Stage::ChangeEnumeration);
        let mut after = after;
        loop {
            let set = Some(self.run.provider().to_owned());
            let input = AfterInput { after: after.as_ref().map(typed), set, link: Some(self.run.link.to_string()) };
            let page = call(&self.run.client, Page, input, Duration::ZERO).await?;
            let next = match page.next {
                Some(next) => {
                    let next = ResourceId::new(&*next.resource_type, next.id);
                    next.check().map_err(|e| malformed(format!("a place that is none: {e}")))?;
                    if after.as_ref() == Some(&next) {
                        return Err(malformed(format!("the place {next} behind itself")));
                    }
                    Some(next)
                }
                None => None,
            };
            let place = match &next {
                Some(next) => Place::Copying { token: token.clone(), after: Some(next.clone()) },
                None => Place::Following { token: token.clone() },
            };
            self.take(&Frame::open(&page.frame)?, &place).await?;
            if next.is_none() {
                return Ok(place);
            }
            after = next;
        }
    }

    /// Takes in what changed since `token`, until nothing is left.
    async fn follow(&mut self, token: String) -> Result<(), SyncError> {
        let mut token = token;
        let mut empty = 0;
        loop {
            let answer = follow::ask(self.run, &token, None).await?;
            let place = Place::Following { token: checked(answer.token.clone())? };
            let frame = Frame::open(&answer.frame)?;
            empty = if frame.is_empty() { empty + 1 } else { 0 };
            if answer.more && (answer.token == token || empty > EMPTY_MAX) {
                return Err(malformed("a promise of changes that do not come"));
            }
            if !frame.is_empty() || !answer.more {
                self.take(&frame, &place).await?;
            }
            if !answer.more {
                return Ok(());
            }
            token = answer.token;
        }
    }

    /// Writes what a frame says, and then the place that it leads to.
    async fn take(&mut self, frame: &Frame, place: &Place) -> Result<(), SyncError> {
        let count = frame.len();
        self.work += count;
        if self.work > RECORDS_MAX {
            return Err(malformed(format!("more than {RECORDS_MAX} records in one sync")));
        }
        if count > 0 {
            self.run.total(self.work);
            self.run.stage(Stage::ChangeApplication);
            apply::frame(self.run, frame).await?;
            self.run.advance(count);
        }
        commit_place(self.run, self.cursor.as_deref(), place).await?;
        self.cursor = Some(place.write());
        Ok(())
    }
}
