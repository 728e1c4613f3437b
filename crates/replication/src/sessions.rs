//! Sessions that reach further than this site: logged in to linked sites too, for calls that are to run there.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_client::{Client, ClientError, Config, Login, Thumbprint, Trust};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::accounts::Role;
use lockstep_contract::services::replication::codes;
use lockstep_contract::services::replication::sessions::{self as declared, AuthenticatedSite, Details, ExtendInput};
use lockstep_contract::services::session;
use lockstep_contract::{Data, Error, ErrorKind, Operation};
use lockstep_links::PeerSite;
use lockstep_site::caller::{Caller, User};
use lockstep_site::sessions::SessionKey;
use lockstep_site::table::{Context, Table};

use crate::service::{Replications, no_site, peer_error};
use crate::settings::invalid;
use crate::show::ORG;

/// Most sessions that are extended at a time; beyond it all have to be extended anew.
const EXTENDED_MAX: usize = 10_000;

pub(crate) fn register(here: &Arc<Replications>, table: &mut Table) {
    let service = here.clone();
    table.register(declared::Get, move |context: Context, _| {
        let here = service.clone();
        async move { here.details(&context.caller) }
    });
    let service = here.clone();
    table.register(declared::Extend, move |context: Context, input: ExtendInput| {
        let here = service.clone();
        async move { here.extend(&context.caller, input).await }
    });
}

/// The refusal of a site that a session was not extended to.
fn not_there(site: &str, why: &str) -> Error {
    let message = format!("this session cannot call {site}: {why}");
    Error::new(ErrorKind::Unauthenticated, codes::REMOTE_AUTHENTICATION, message, vec![site.to_owned()])
}

fn session_of(caller: &Caller) -> Option<(&User, SessionKey)> {
    match caller {
        Caller::User(user) => user.session.map(|session| (user, session)),
        Caller::Anonymous | Caller::Server(_) => None,
    }
}

impl Replications {
    fn details(&self, caller: &Caller) -> Result<Details, Error> {
        let Caller::User(user) = caller else { return Err(Error::unauthenticated()) };
        let mut roles = vec!["EVERYONE".to_owned(), "VRUSERS".to_owned()];
        match user.role {
            Role::Administrator => roles.extend(["ADMINISTRATORS".to_owned(), "VRADMINISTRATORS".to_owned()]),
            Role::Operator => roles.push("VRADMINISTRATORS".to_owned()),
            Role::ReadOnly | Role::Agent | Role::Link => {}
        }
        let site = |site: &str| AuthenticatedSite { site: site.to_owned(), org: ORG.to_owned() };
        let mut sites = vec![site(&self.site.config.name)];
        if let Some(session) = user.session
            && let Some(extended) = self.extended.lock().get(&session)
        {
            let mut names: Vec<&String> = extended.keys().collect();
            names.sort();
            sites.extend(names.into_iter().map(|name| site(name)));
        }
        let name = if user.name.contains('@') { user.name.to_string() } else { format!("{}@{ORG}", user.name) };
        Ok(Details { user: name, roles, authenticated_sites: sites })
    }

    async fn extend(&self, caller: &Caller, input: ExtendInput) -> Result<Details, Error> {
        let (_, session) = session_of(caller).ok_or_else(Error::unauthenticated)?;
        if input.site == self.site.config.name {
            return self.details(caller);
        }
        let peer = self.links.peer_named(&input.site).ok_or_else(|| no_site(&input.site))?;
        let login = match (&*input.kind, input.vcd_user, input.vcd_password, input.vcd_cookie) {
            ("credentials" | "vcdCredentials" | "localUser", Some(username), Some(password), _) => {
                Login::Password { username, password }
            }
            ("cookie" | "vcdCookie", _, _, Some(token)) => Login::Token(token),
            _ => return Err(invalid("type", "credentials with vcdUser and vcdPassword, or cookie with vcdCookie")),
        };
        let client = client(&peer, login)?;
        client.call(session::Get, NoInput {}).await.map_err(|error| refused(error, &peer.site))?;
        {
            let mut extended = self.extended.lock();
            extended.retain(|session, _| self.site.sessions.info(*session).is_some());
            if extended.len() >= EXTENDED_MAX {
                extended.clear();
            }
            let of: &mut HashMap<String, Client> = extended.entry(session).or_default();
            of.insert(peer.site.clone(), client);
        }
        self.details(caller)
    }

    /// Runs an operation at a linked site, as who the session was extended as.
    ///
    /// # Errors
    /// `not_found` for a site that is not linked, `unauthenticated` for one that the session was not extended to; the operation's own.
    pub async fn run_elsewhere(
        &self,
        context: Context,
        site: String,
        operation: &'static Operation,
        input: Data,
    ) -> Result<Data, Error> {
        let peer = self.links.peer_named(&site).ok_or_else(|| no_site(&site))?;
        let session = session_of(&context.caller).map(|(_, session)| session);
        let client = session.and_then(|session| self.extended.lock().get(&session)?.get(&peer.site).cloned());
        let client = client.ok_or_else(|| not_there(&peer.site, "log in to it with POST /sessions/extend"))?;
        let client = client.with_operation_id(context.operation_id);
        client.relay(operation, input).await.map_err(|error| refused(error, &peer.site))
    }
}

fn client(peer: &PeerSite, login: Login) -> Result<Client, Error> {
    // Without TLS nothing is trusted, and nothing asks.
    let trust = Trust::Thumbprint(peer.certificate.unwrap_or(Thumbprint([0; 32])));
    let config = Config { url: peer.url.clone(), login, trust };
    Client::new(config).map_err(|error| peer_error(error, &peer.site))
}

fn refused(error: ClientError, site: &str) -> Error {
    match &error {
        ClientError::LoginRefused { .. } | ClientError::SessionEnded { .. } | ClientError::LoginMissing { .. } => {
            not_there(site, "it refuses the login, or the session there has ended")
        }
        _ => peer_error(error, site),
    }
}
