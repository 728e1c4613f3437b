//! The inventory over a link: the other site's resources as read-only copies here.
//!
//! # What is copied
//! A site's own resources of all types but those with a writing service (accounts, acquisition specifications, links themselves),
//! without secret properties. What came there by a link is left out: copies are not passed on. Here a resource has the same type, the
//! id `<domain>~<id there>`, [`linked_from`](lockstep_model::LINKED_FROM) set, and references that point to copies in the same way. Tags and
//! categories are no copies: both sites share them, and the provider [`tagging`](crate::tagging) keeps them in step, with what they are attached
//! to; so the list `tags` is neither told nor taken here. A
//! resource whose id has no room for the name in front ends the sync and is named. Models registered at run time are taken up
//! (`models`).
//!
//! # Acquisition specifications
//! Go the same way, by a provider of their own, and are of another type here: `LinkedAcqSpec`. A specification is an order to sample, and agents,
//! the cache sync and the loop over statuses take every `AcqSpec` for one; a copy only tells what is sampled at the other site. The ids of what
//! it samples are that site's.
//!
//! # How it goes
//! `place` says where a copy is; it is the cursor, and every commit that brings the copy further carries it. So a sync that is cut off
//! anywhere goes on where it was, and nothing is written twice.
//!
//! 1. *Copying*: a token, then pages of state in the order of types and ids (`copy`). A page is of its own moment; what changes while
//!    pages are copied is told again by 3, which starts at the token.
//! 2. *Comparing*, in place of 1 when copies are here already: after a reset, or when the token has aged out. Ranges are compared by
//!    digests, and only what differs is asked for (`compare`).
//! 3. *Following*: what changed since the token, each resource as it is by then (`follow`). Telling a change again does no harm, so a
//!    change that overlaps with 1 or 2 does none either.
//!
//! Pages and changes are bounded in bytes, so both sides work in memory of that order, whatever the site's size: one page is asked for
//! and read while the one before is written.
//!
//! # What runs at the same time
//! One sync or wait for each link. The other site writes meanwhile; here nobody else writes copies, but a purge after the link's end.
//! The other direction of the link is independent: what one copies, the other leaves out, so nothing goes round.
//!
//! # What is not believed
//! Every frame is bounded before it is unpacked, every id and property held against the models here, every place must be behind the
//! last, every answer come in time. What is wrong ends the sync with [`SyncError::Malformed`], and nothing of its frame is written. The peer decides
//! what its copies are, and nothing else here.

pub(crate) mod batch;
mod compare;
mod copy;
mod digest;
pub(crate) mod follow;
pub(crate) mod frame;
mod models;
pub(crate) mod peer;
pub(crate) mod place;
pub(crate) mod serve;
pub(crate) mod set;

use std::collections::HashMap;
use std::time::Duration;

use lockstep_contract::services::link_pull::{Start, StartInput};
use lockstep_site::table::Table;
use parking_lot::Mutex;

use crate::provider::{Running, SMALL_ANSWER_BYTES_MAX};
use crate::{LinkId, Run, Stage, SyncError, SyncProvider};
use batch::{Range, copies, prefix};
use peer::{call, is_expired, malformed};
use place::Place;
use set::Set;

/// How often the inventory is synced when nothing wakes it.
const POLLING_INTERVAL: Duration = Duration::from_secs(300);

/// Most resources that one sync takes: a peer that never ends does not fill the disk.
const RESOURCES_MAX: u64 = 20_000_000;

/// Longest answer, in bytes: a frame of one large resource, in base64.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Longest token of the other site, in bytes.
const TOKEN_BYTES_MAX: usize = 200;

/// Registers the operations that the other site of a link calls.
pub fn register(table: &mut Table) {
    serve::register(table);
}

/// The provider `inventory`, and that of `acquisition-specs`, which goes the same way.
#[derive(Debug, Default)]
pub struct Inventory {
    set: Set,
    /// The version of the other site's models that was taken up, by link. A miss costs one call.
    models: Mutex<HashMap<LinkId, String>>,
}

impl Inventory {
    /// The provider, for all links.
    pub fn new() -> Self {
        Self::default()
    }

    /// The provider of acquisition specifications, for all links.
    pub fn acquisition_specs() -> Self {
        Self { set: Set::AcqSpecs, models: Mutex::default() }
    }

    /// Takes up the other site's models when they are not those of the last time.
    async fn demand_models(&self, run: &Run, version: &str) -> Result<(), SyncError> {
        let is_known = version.is_empty() || self.models.lock().get(&run.link).is_some_and(|known| known == version);
        if !is_known {
            let taken_up = models::take_up(run).await?;
            self.models.lock().insert(run.link.clone(), taken_up);
        }
        Ok(())
    }
}

impl SyncProvider for Inventory {
    fn name(&self) -> &'static str {
        match self.set {
            Set::Inventory => set::INVENTORY,
            Set::AcqSpecs => set::ACQ_SPECS,
        }
    }

    fn polling_interval(&self) -> Duration {
        POLLING_INTERVAL
    }

    fn answer_bytes_max(&self) -> usize {
        match self.set {
            Set::Inventory => ANSWER_BYTES_MAX,
            Set::AcqSpecs => SMALL_ANSWER_BYTES_MAX,
        }
    }

    fn reached(&self, cursor: &str) -> Option<u64> {
        Place::read(cursor)?.position()
    }

    fn sync<'a>(&'a self, run: &'a Run) -> Running<'a> {
        Box::pin(Sync { provider: self, run, cursor: run.cursor(), work: 0 }.run())
    }

    fn changed<'a>(&'a self, run: &'a Run) -> Running<'a> {
        Box::pin(follow::changed(run))
    }
}

/// A sync under way.
struct Sync<'a> {
    provider: &'a Inventory,
    run: &'a Run,
    /// The place as it is stored.
    cursor: Option<String>,
    /// How many resources were told of so far.
    work: u64,
}

impl Sync<'_> {
    async fn run(mut self) -> Result<(), SyncError> {
        self.run.stage(Stage::ChangeDetection);
        let mut place = match self.cursor.as_deref().and_then(Place::read) {
            Some(place) => {
                self.resume(&place).await?;
                place
            }
            None => self.begin().await?,
        };
        let mut has_begun_anew = false;
        loop {
            place = match place {
                Place::Copying { token, after } => self.copy(token, after).await?,
                Place::Comparing { token, after } => self.compare(token, after).await?,
                Place::Following { token } => match self.follow(token).await {
                    // The log is shorter than a comparison takes: it cannot be followed.
                    Err(error) if is_expired(&error) && has_begun_anew => return Err(SyncError::Expired),
                    Err(error) if is_expired(&error) => {
                        has_begun_anew = true;
                        self.compare_anew().await?
                    }
                    outcome => return outcome,
                },
            };
        }
    }

    /// The first place: comparing when there are copies already.
    async fn begin(&mut self) -> Result<Place, SyncError> {
        let (token, total) = self.start().await?;
        let has_copies = {
            let view = self.run.site.view();
            copies(&view, self.provider.set, &prefix(&self.run.domain), &Range::default()).next().is_some()
        };
        if has_copies {
            return Ok(Place::Comparing { token, after: None });
        }
        self.run.total(total);
        Ok(Place::Copying { token, after: None })
    }

    /// Says how much of a copy that was broken off is done.
    async fn resume(&mut self, place: &Place) -> Result<(), SyncError> {
        if let Place::Copying { after: Some(after), .. } = place {
            let (_, total) = self.start().await?;
            self.run.total(total);
            let done = Range { after: None, last: Some(after.clone()) };
            let count = copies(&self.run.site.view(), self.provider.set, &prefix(&self.run.domain), &done).count();
            self.run.advance(count as u64);
        }
        Ok(())
    }

    async fn compare_anew(&mut self) -> Result<Place, SyncError> {
        tracing::info!(link = %self.run.link, "the stored place is not known there any more: comparing");
        let (token, _) = self.start().await?;
        Ok(Place::Comparing { token, after: None })
    }

    /// This moment there, and how many resources there are.
    async fn start(&self) -> Result<(String, u64), SyncError> {
        let started = call(&self.run.client, Start, start_input(self.run), Duration::ZERO).await?;
        self.provider.demand_models(self.run, &started.models).await?;
        Ok((checked(started.token)?, u64::try_from(started.total).unwrap_or(0)))
    }

    /// Counts what was told, and stops what has no end.
    fn count(&mut self, resources: u64) -> Result<(), SyncError> {
        self.work += resources;
        if self.work > RESOURCES_MAX {
            return Err(malformed(format!("more than {RESOURCES_MAX} resources in one sync")));
        }
        Ok(())
    }

    /// The place was committed.
    fn moved(&mut self, place: &Place) {
        self.cursor = Some(place.write());
    }
}

pub(crate) fn start_input(run: &Run) -> StartInput {
    StartInput { set: Some(run.provider().to_owned()), link: Some(run.link.to_string()) }
}

/// A token that fits into a place.
pub(crate) fn checked(token: String) -> Result<String, SyncError> {
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || token.chars().any(char::is_control) {
        return Err(malformed("a token that is none"));
    }
    Ok(token)
}
