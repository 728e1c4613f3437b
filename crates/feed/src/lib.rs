//! The change feed: what happened after a position, for as many readers as like to wait.
//!
//! # Promises
//! - An answer holds whole commits, in order, none twice; its `sequence` continues exactly behind the last.
//! - A commit is in the feed when, and only when, the view has it: who reads an event and then queries sees the change.
//! - A token that cannot be continued is refused; it is never answered with a gap.
//!
//! # Waiting
//! A reader whose token is at the end is parked: a task that waits for the site's progress, without thread, lock or poll. A commit
//! wakes all of them; each reads the answer that the first of them made ([`log`]), as the same bytes. A parked reader answers at the
//! first commit, when the server's limit is up, or when the server stops; it ends with `unauthenticated` when its session has ended.
//!
//! # The filtered feed
//! [`filtered`] answers the *net* change between the token and the present, as seen through a filter: applied to what a query gave
//! at the token, it gives what the query gives at `sequence`. What a resource was at the token is worked out backwards from what
//! it is, since the log holds both sides of every change; the server keeps nothing for a reader between calls.
//! A token that has aged out can be caught up ([`catch_up`]): without the log it is not known what was, only what may have changed,
//! so each such resource comes once.

mod catch_up;
mod filtered;
mod log;
mod parking;

use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::{change_log, feed};
use lockstep_site::Site;
use lockstep_site::table::Table;

use crate::log::Log;
use crate::parking::Parking;

/// The feed of one site.
pub struct Feed {
    log: Log,
    parking: Parking,
}

impl Feed {
    /// The feed of `site`, whose answers wait for changes as long as `limit`.
    pub fn new(site: &Arc<Site>, limit: Duration) -> Arc<Self> {
        Arc::new(Self { log: Log::new(site.clone()), parking: Parking::new(limit) })
    }

    /// Registers the feed's operations.
    pub fn register(self: &Arc<Self>, table: &mut Table) {
        table.register(change_log::GetCurrentSequence, async |context, _| {
            Ok(lockstep_site::token::write(context.site.origin(), context.site.position()))
        });
        let here = self.clone();
        table.register_answer(change_log::GetChanges, move |context, input| {
            log::get_changes(here.clone(), context, input)
        });
        let here = self.clone();
        table.register(feed::GetChanges, move |context, input| filtered::get_changes(here.clone(), context, input));
    }

    /// How many readers are parked.
    pub fn parked(&self) -> usize {
        self.parking.count()
    }
}
