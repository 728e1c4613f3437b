//! Links: two sites that stay in step.
//!
//! A link pairs this site with another. Each side holds half of it: a resource `Link` of the same id, an access token of the role LINK
//! at the other, sealed, and the certificate that the other must show. Each side pulls; nobody writes into the other's site.
//!
//! # What is where
//! | what | kept in | as |
//! |---|---|---|
//! | links | the journal | `Link`; the token sealed with the key in `seal-key` ([`seal`](lockstep_site::seal)) |
//! | what is kept in step, its last sync and session | memory and the journal | `SyncProvider` ([`sessions`](self)) |
//! | how far it has come | the journal, together with the data | `SyncCursor` |
//! | the account that the other side logs in with | the journal | `Account`, `link-<id>` |
//! | administrators of linked sites | the journal | `LinkAdministrators` |
//! | edits of tagging, and those that were lost | the journal, with the edit | `TagStamps` ([`lockstep_site::stamps`]), `TagConflict` |
//! | invitations | memory, as hashes | until used, an hour, or a restart |
//!
//! # A link's life
//! ```text
//!   create, join ──► ACTIVE ── delete ──► REMOVING ──► gone
//!   accept ────────►    │                    ▲
//!                       └── delete, purge ──►│──► PURGING ── all copies deleted ──► gone
//! ```
//! How it comes to be is drawn at the head of `handshake.rs`, how it ends at that of `removal.rs`, how a sync runs at those of
//! `runner.rs` and `sessions.rs`.
//!
//! # Health
//! A probe every few seconds, and after every error that somebody met, asks the other site for its position with the link's token and
//! certificate. Whatever hinders that is the message of UNHEALTHY: not reached, another certificate, a token that was revoked.
//!
//! # Linked resources
//! A copy of another site's resource has its type, the id `<domain>~<id there>`, and `linked_from`, which points to the link. Ids made
//! here have no `~` in the middle that follows the domain of a link. Copies are of the inventory ([`inventory`]) and of acquisition
//! specifications; categories and tags are no copies, but shared ([`tagging`]).
//!
//! # What may run at the same time
//! For each link there is one task for health and one for each provider. A provider's task is the only one that runs its syncs and
//! writes its cursor; whoever ends or resets the link stops the tasks first and waits for them. A batch that was on its way then
//! conflicts, since the cursor that it carries has changed or is gone.

mod administrators;
mod handshake;
mod health;
pub mod inventory;
mod invitations;
mod link;
mod live;
mod operations;
mod peers;
pub mod provider;
mod removal;
mod runner;
mod sessions;
pub mod tagging;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lockstep_client::{Thumbprint, Trust};
use lockstep_contract::services::links::State;
use lockstep_model::{ResourceId, builtin};
use lockstep_site::Site;
use lockstep_site::seal::{SealError, Sealer};
use lockstep_site::table::Table;
use parking_lot::Mutex;

use crate::invitations::Invitations;
use crate::link::Link;
use crate::live::Live;
pub use crate::peers::PeerSite;
pub use crate::provider::{LinkId, Progress, Run, Stage, SyncError, SyncProvider};

/// What the names of links' accounts begin with; the link's id follows.
const ACCOUNT_PREFIX: &str = "link-";

fn account(id: &LinkId) -> String {
    format!("{ACCOUNT_PREFIX}{id}")
}

/// How the service is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where other sites reach this one.
    pub advertise_url: String,
    /// The certificate that this server shows; none without TLS.
    pub certificate: Option<Thumbprint>,
    /// Which other sites' certificates are trusted without a thumbprint, besides those that the system trusts.
    pub trusted_peers: Vec<Trust>,
    /// How often a link is probed when nothing is wrong.
    pub probe_interval: Duration,
}

/// How often a link is probed unless said otherwise.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The service of one site.
pub struct Links {
    pub(crate) site: Arc<Site>,
    pub(crate) config: Config,
    pub(crate) sealer: Sealer,
    pub(crate) providers: Vec<Arc<dyn SyncProvider>>,
    pub(crate) invitations: Invitations,
    /// The links at work. Held for a look-up.
    pub(crate) live: Mutex<BTreeMap<LinkId, Arc<Live>>>,
    /// Domains, in lower case, to which a link is being made. Locked before `live`.
    pub(crate) making: Mutex<HashSet<String>>,
    /// Accounts of links that were not there when the service was opened: those of links that are being made are no orphans. Held to be taken.
    pub(crate) orphans: Mutex<Vec<LinkId>>,
}

impl Links {
    /// Reads the site's links. Nothing is sent before [`Links::start`].
    ///
    /// # Errors
    /// [`SealError`]: the key cannot be read or made.
    pub fn open(
        site: Arc<Site>,
        config: Config,
        providers: Vec<Arc<dyn SyncProvider>>,
    ) -> Result<Arc<Self>, SealError> {
        let sealer = Sealer::open(&site.config.data_dir)?;
        let links = Self {
            site,
            config,
            sealer,
            providers,
            invitations: Invitations::default(),
            live: Mutex::default(),
            making: Mutex::default(),
            orphans: Mutex::default(),
        };
        let stored: Vec<Link> = {
            let view = links.site.view();
            let read = |id: ResourceId| {
                let stored = view.get(&id)?;
                Some(Link::from_document(LinkId::new(&*id.id), &stored.document))
            };
            view.ids(builtin::LINK, None).filter_map(read).collect()
        };
        for link in stored {
            let live = Arc::new(Live::new(&links, &link));
            links.live.lock().insert(link.id, live);
        }
        *links.orphans.lock() = removal::orphans(&links.site, |id| links.find(id.as_str()).is_some());
        Ok(Arc::new(links))
    }

    /// Registers the service's operations.
    pub fn register(self: &Arc<Self>, table: &mut Table) {
        operations::register(self, table);
    }

    /// Starts to look after the links; ends by itself when the site stops.
    pub async fn start(self: &Arc<Self>) {
        self.sweep_accounts().await;
        for live in self.all() {
            let state = *live.state.lock();
            match state {
                State::Active => {
                    self.add_missing(&live).await;
                    live.start(self);
                }
                // A link that was being removed is removed by a single commit: it is here whole or not at all.
                State::Removing | State::Purging => drop(tokio::spawn(removal::purge(self.clone(), live))),
            }
        }
    }

    /// Gives a link what belongs to providers that this version has and the one that made it had not.
    async fn add_missing(&self, live: &Live) {
        let missing: Vec<_> = {
            let view = self.site.view();
            let all = self.providers.iter().flat_map(|provider| provider::initial(&live.id, &**provider));
            all.filter(|(change, _)| view.modified(&change.id).is_none()).collect()
        };
        if missing.is_empty() {
            return;
        }
        let batch =
            lockstep_journal::Batch { author: provider::AUTHOR.into(), changes: missing, relies_on: Vec::new() };
        if let Err(error) = self.site.commit(batch).await {
            tracing::warn!(%error, link = %live.id, "a link's new providers were not stored");
        }
    }

    /// The link of that id.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Live>> {
        self.live.lock().get(&LinkId::new(id)).cloned()
    }

    /// All links, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.live.lock().values().cloned().collect()
    }
}
