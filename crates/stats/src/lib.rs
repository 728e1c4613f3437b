//! Stats: acquisition specifications, the caches that follow them, the providers that sample by them, and the samples.
//!
//! # What is where
//! | what | kept in | as |
//! |---|---|---|
//! | acquisition specifications | the journal | resources of type `AcqSpec`: queried, watched and synced like any |
//! | providers | the journal, their presence in memory | `StatsProvider` |
//! | resource addresses | the journal | `ResourceAddress`: the `rid` of points |
//! | points | the series store | series by (mid, rid) |
//! | counters, sets, schemas | the program | [`lockstep_contract::counters`] |
//!
//! # A specification's life
//! ```text
//!            create                      update moves the expiration ahead
//!              │                        ┌──────────────────────────────┐
//!              ▼       provider comes   ▼                              │
//!          DISABLED ◄────────────────► ENABLED ──── expiration ───► EXPIRED ──── a day ───► deleted
//!              └──────────────── expiration ───────────────────────►
//! ```
//! A status is written by [`status`], a loop that compares what is with what should be; it needs no client, and a restart in between
//! changes nothing. Every change of a status is a commit, so caches see it like any other change.
//!
//! # Cache sync
//! [`cache`] answers the net change between two closed epochs; see there.
//!
//! # Points
//! [`points`] takes batches: it finds the series of each run, gives new resources an address, and hands the points to the store, which
//! makes them durable before the answer. A point is known by its series and its second, so a batch that comes twice is stored once.
//! With a store outside, [`remote`] forwards what the embedded one has taken, in order, from a durable position.
//!
//! # What runs at the same time
//! Readers of specifications read the site's view. Readers of points read the series store, which has locks of its own. The tables of
//! addresses and series are behind locks that are held for look-ups; a batch with new resources commits their addresses first,
//! outside of any lock, so two batches may race for the same resource: the loser reads the winner's address.

mod addresses;
pub mod cache;
mod data;
mod discovery;
mod epoch_clock;
mod filter;
mod metrics;
mod page;
pub mod points;
mod presence;
pub mod remote;
mod series;
mod spec;
mod specs;
pub mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::stats::{
    acq_specs, addresses as address_ops, agents, counters, data as data_ops, series as series_ops,
};
use lockstep_series::{Store, StoreError};
use lockstep_site::Site;
use lockstep_site::table::Table;

use crate::addresses::Addresses;
use crate::epoch_clock::EpochClock;
use crate::points::Intake;
use crate::presence::Presence;
use crate::remote::Remote;
use crate::series::SeriesIndex;

/// How the service is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the points are kept.
    pub data_dir: PathBuf,
    /// The series store.
    pub store: lockstep_series::Config,
    /// A provider that was not heard for this long counts as gone.
    pub absent_after: Duration,
    /// The store outside, if there is one. With a URL to write to, the series store keeps what was not forwarded, whatever `store` says.
    pub remote: Option<remote::Config>,
    /// Specifications and ids of one page of a sync, over its three lists together.
    pub sync_page: usize,
}

/// Specifications and ids of one page of a sync unless said otherwise.
pub const SYNC_PAGE: usize = 1000;

/// The resource types whose net change between epochs the site must be able to tell.
pub const EPOCH_TYPES: [&str; 1] = [lockstep_model::builtin::ACQ_SPEC];

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The series store cannot be opened.
    #[error("cannot open the series store")]
    Store(#[from] StoreError),
    /// The store outside cannot be set up.
    #[error("cannot set up the store outside")]
    Remote(#[from] remote::SetupError),
}

/// The service of one site.
pub struct Stats {
    pub(crate) site: Arc<Site>,
    pub(crate) config: Config,
    pub(crate) store: Arc<Store>,
    pub(crate) addresses: Addresses,
    pub(crate) index: SeriesIndex,
    pub(crate) presence: Presence,
    pub(crate) intake: Intake,
    pub(crate) ids: specs::Ids,
    pub(crate) clock: EpochClock,
    pub(crate) remote: Remote,
}

impl Stats {
    /// Opens the series store, and reads what the site knows of addresses and providers. Takes as long as replaying the store's log.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(site: Arc<Site>, mut config: Config) -> Result<Arc<Self>, OpenError> {
        let remote = Remote::new(&config.remote.clone().unwrap_or_default())?;
        config.store.keep_for_forwarding |= remote.writer.is_some();
        let store = Arc::new(Store::open(&config.data_dir, config.store.clone())?);
        let addresses = Addresses::read(&site);
        let index = SeriesIndex::read(&store);
        let presence = Presence::read(&site, config.absent_after);
        let ids = specs::Ids::read(&site);
        let clock = EpochClock::new(site.log_now_s());
        Ok(Arc::new(Self {
            site,
            config,
            store,
            addresses,
            index,
            presence,
            intake: Intake::default(),
            ids,
            clock,
            remote,
        }))
    }

    /// Registers the service's operations.
    pub fn register(self: &Arc<Self>, table: &mut Table) {
        discovery::register(table);
        macro_rules! serve {
            ($($operation:path => $handler:path),* $(,)?) => {
                $( let here = self.clone();
                   table.register($operation, move |context, input| {
                       let here = here.clone();
                       async move { $handler(&here, context, input).await }
                   }); )*
            };
        }
        serve! {
            acq_specs::Create => specs::create,
            acq_specs::List => specs::list,
            acq_specs::Get => specs::get,
            acq_specs::Update => specs::update,
            acq_specs::Delete => specs::delete,
            counters::List => discovery::list_counters,
            address_ops::List => addresses::list,
            address_ops::Get => addresses::get,
            data_ops::QueryDataPoints => data::query_data_points,
            agents::List => presence::list,
            agents::ListProviders => presence::list_providers,
            agents::Register => presence::register,
            agents::Delete => presence::delete,
            agents::Write => points::write,
            series_ops::Query => series::query,
            series_ops::GetStore => series::store_info,
        }
        let here = self.clone();
        table.register_answer(lockstep_contract::services::stats::cache::Get, move |context, input| {
            let here = here.clone();
            async move { cache::get(&here, context, input).await }
        });
    }

    /// The series store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Seconds since 1970, by the system's clock: what expirations are compared with.
    pub(crate) fn now_s(&self) -> i64 {
        epoch_clock::system_s()
    }

    /// Keeps the series store in order until the site stops: seals, merges, rolls up, lets go. Runs on a thread of its own, since all of
    /// it is CPU and disk.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn keep_store(self: &Arc<Self>) -> std::io::Result<std::thread::JoinHandle<()>> {
        let (store, progress) = (self.store.clone(), self.site.progress());
        std::thread::Builder::new().name("series".to_owned()).spawn(move || {
            while !progress.borrow().is_stopping {
                if let Err(error) = store.housekeep() {
                    tracing::error!(error = &error as &dyn std::error::Error, "the series store was not kept in order");
                    // There is work all the same, so waiting for it would return at once.
                    std::thread::sleep(HOUSEKEEPING_INTERVAL);
                }
                store.wait_for_work(HOUSEKEEPING_INTERVAL);
            }
        })
    }
}

/// How often the series store is looked after when nothing presses.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);
