//! The linked sites as other services see them: who they are, whether they are reached, and how they are called.

use lockstep_client::{Client, Thumbprint};
use lockstep_contract::services::links::{Health, State};
use lockstep_contract::{Error, ErrorKind};
use lockstep_site::caller::Caller;

use crate::link::Link;
use crate::live::Live;
use crate::provider::LinkId;
use crate::{ACCOUNT_PREFIX, Links};

/// A linked site.
#[derive(Debug, Clone)]
pub struct PeerSite {
    /// The link.
    pub link: LinkId,
    /// What it is called here: the ids of its resources begin with that.
    pub domain: String,
    /// What it calls itself.
    pub site: String,
    /// Where it is.
    pub url: String,
    /// The certificate that it must show; none without TLS.
    pub certificate: Option<Thumbprint>,
    /// Whether it was reached when it was last asked.
    pub health: Health,
    client: Result<Client, Error>,
}

impl PeerSite {
    /// Calls of the other site, as the link's account there.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn client(&self) -> Result<Client, Error> {
        self.client.clone()
    }
}

impl Links {
    /// The linked sites, by the ids of their links. Links that are about to end are left out.
    pub fn peers(&self) -> Vec<PeerSite> {
        self.all().iter().filter_map(|live| self.peer_of(live)).collect()
    }

    /// The site of a link.
    pub fn peer(&self, link: &str) -> Option<PeerSite> {
        self.peer_of(&*self.find(link)?)
    }

    /// The site that calls itself so or, if none does, that is called so here.
    pub fn peer_named(&self, name: &str) -> Option<PeerSite> {
        let mut peers = self.peers();
        let own = peers.iter().position(|peer| peer.site == name);
        let at = own.or_else(|| peers.iter().position(|peer| peer.domain == name))?;
        Some(peers.swap_remove(at))
    }

    /// The link whose account somebody calls with.
    pub fn link_of(&self, caller: &Caller) -> Option<LinkId> {
        let name = caller.name();
        self.find(name.strip_prefix(ACCOUNT_PREFIX)?).map(|live| live.id.clone())
    }

    /// Where other sites reach this one.
    pub fn advertised_url(&self) -> &str {
        &self.config.advertise_url
    }

    /// The certificate that this server shows; none without TLS.
    pub fn certificate(&self) -> Option<Thumbprint> {
        self.config.certificate
    }

    fn peer_of(&self, live: &Live) -> Option<PeerSite> {
        if *live.state.lock() != State::Active {
            return None;
        }
        let stored = self.site.view().get(&live.id.resource())?;
        let link = Link::from_document(live.id.clone(), &stored.document);
        let client = live.client.clone().map_err(|message| {
            let mut error = Error::new(ErrorKind::Error, "", "", Vec::new());
            error.messages = vec![message];
            error
        });
        Some(PeerSite {
            link: link.id,
            domain: link.domain,
            site: link.site,
            url: link.url,
            certificate: link.certificate,
            health: live.last_probe.lock().health.clone(),
            client,
        })
    }
}
