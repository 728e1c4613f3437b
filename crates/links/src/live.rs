//! A link at work: what is kept of it in memory, and the tasks that keep it.

use std::sync::Arc;
use std::time::Duration;

use lockstep_client::{Client, Config, Login, Thumbprint, Trust};
use lockstep_contract::Message;
use lockstep_contract::services::links::{Health, State};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::Links;
use crate::link::Link;
use crate::provider::LinkId;
use crate::sessions::Sync;
use crate::{health, runner};

/// Longest answer of words, in bytes: what a site says of itself, or while a link is made. Providers say how much they take.
pub(crate) const WORDS_BYTES_MAX: usize = 1 << 20;

/// How the last probe went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probe {
    pub(crate) health: Health,
    /// The position that the other site had come to.
    pub(crate) position: Option<u64>,
    pub(crate) round_trip: Option<Duration>,
}

/// A link at work.
pub(crate) struct Live {
    pub(crate) id: LinkId,
    pub(crate) domain: String,
    /// The certificate that the other site must show; none without TLS.
    pub(crate) certificate: Option<Thumbprint>,
    /// Calls of the other site; the reason when there can be none.
    pub(crate) client: Result<Client, Message>,
    /// Rung when the link should be looked at now.
    pub(crate) probe: Notify,
    pub(crate) last_probe: Mutex<Probe>,
    pub(crate) state: Mutex<State>,
    pub(crate) syncs: Vec<Arc<Sync>>,
    /// Held while the link is being reset.
    pub(crate) resetting: tokio::sync::Mutex<()>,
    /// Held to put in or take out.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Live {
    /// A link as it is stored.
    pub(crate) fn new(links: &Links, link: &Link) -> Self {
        let read = |provider: &Arc<_>| Arc::new(Sync::read(&links.site, &link.id, Arc::clone(provider)));
        Self {
            id: link.id.clone(),
            domain: link.domain.clone(),
            certificate: link.certificate,
            client: client(links, link),
            probe: Notify::new(),
            last_probe: Mutex::new(Probe { health: link.health.clone(), ..Probe::default() }),
            state: Mutex::new(link.state),
            syncs: links.providers.iter().map(read).collect(),
            resetting: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// The provider of that name.
    pub(crate) fn sync(&self, provider: &str) -> Option<&Arc<Sync>> {
        self.syncs.iter().find(|sync| sync.provider.name() == provider)
    }

    /// Starts to look after it.
    pub(crate) fn start(self: &Arc<Self>, links: &Arc<Links>) {
        let mut tasks = vec![tokio::spawn(health::keep(links.clone(), self.clone()))];
        let keep = |sync: &Arc<Sync>| tokio::spawn(runner::keep(links.clone(), self.clone(), sync.clone()));
        tasks.extend(self.syncs.iter().map(keep));
        self.tasks.lock().extend(tasks);
    }

    /// Ends what looks after it, and waits until it has ended: nothing is written for the link afterwards, but by whoever asked.
    pub(crate) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // That it was aborted is what was asked for.
            let _ = task.await;
        }
        self.syncs.iter().for_each(|sync| sync.drop_run());
    }
}

/// A client of the other site of a link.
fn client(links: &Links, link: &Link) -> Result<Client, Message> {
    let message =
        |id: &str, text: String| Message::new(format!("lockstep.links.{id}"), text, vec![link.domain.clone()]);
    let token = links.sealer.open_sealed(link.id.as_str(), &link.token).map_err(|error| {
        message(
            "unsealable",
            format!("the access token of {} cannot be read: {error}; make the link anew", link.domain),
        )
    })?;
    let trust = pinned(link.certificate);
    let config = Config { url: link.url.clone(), login: Login::Token(token), trust };
    let client = Client::new(config).map_err(|error| message("url", error.to_string()))?;
    Ok(client.answers_up_to(WORDS_BYTES_MAX))
}

/// Trust in the certificate that a link holds on to, and in none where it has none: then there is no TLS, and trust decides about nothing.
pub(crate) fn pinned(certificate: Option<Thumbprint>) -> Trust {
    Trust::Thumbprint(certificate.unwrap_or(Thumbprint([0; 32])))
}
