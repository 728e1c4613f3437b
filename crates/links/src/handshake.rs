//! How two sites agree on a link.
//!
//! ```text
//!   here (origin)                                             there (target)
//!   1  check the form, reserve the domain
//!   2  TLS: the certificate, before anything is sent ───────►
//!   3  log in, or hold an invitation ───────────────────────► session
//!   4  issue an access token for there
//!   5  accept {link, site, log, URL, certificate, token} ───► check, issue an access token for here, store the link
//!      store the link  ◄───────────────── {site, log, token}
//!   6  end the session ─────────────────────────────────────►
//! ```
//! Nothing is left behind by one that fails: the token of 4 is taken back, and the other site told to leave when 5 may have come about.
//! What a crash leaves, an account without a link, is swept at the next start. The password is used in 3 and forgotten.
//!
//! The certificate that was verified in 2 is what the link holds on to from then on: another one, however well somebody vouches for it,
//! makes the link unhealthy.

use std::sync::Arc;
use std::time::Duration;

use lockstep_client::{Client, ClientError, Config, Login, Thumbprint, Trust};
use lockstep_contract::services::accounts::{IssueTokenInput, Role as AccountRole};
use lockstep_contract::services::links::{
    Accept, AcceptInput, Accepted, CreateInput, CreateSpec, Health, JoinInput, Leave, LinkInput, Role, State,
};
use lockstep_contract::{Error, ErrorData, ErrorKind, Message, Privilege, Secret};
use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_site::caller::Caller;
use lockstep_site::commit_error;
use lockstep_site::table::Context;

use crate::invitations::Invitation;
use crate::link::Link;
use crate::live::{Live, WORDS_BYTES_MAX};
use crate::provider::{AUTHOR, LinkId, initial};
use crate::removal::delete_account;
use crate::{Links, account, administrators};
use lockstep_site::times;

/// How long each step of the handshake may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest name of a site, in bytes: with it begins every id that came from there.
const NAME_BYTES_MAX: usize = 100;

/// Longest text of any other kind that the other site says of itself, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// The port of a site unless said otherwise.
const PORT_DEFAULT: u16 = 443;

fn invalid(place: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.links.invalid", place, message)
}

/// Whether a site may be called that: `~` ends the name in ids.
fn check_name(name: &str, place: &str) -> Result<(), Error> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(fits) {
        let message = format!("1 to {NAME_BYTES_MAX} bytes of letters, digits, dots, dashes and underscores");
        return Err(invalid(place, &message));
    }
    Ok(())
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a link is to be made from.
struct Wanted {
    url: String,
    hostname: String,
    port: u16,
    domain: String,
    login: Login,
    invitation: Option<Secret>,
    trust: Vec<Trust>,
    admin_groups: Vec<String>,
}

fn check_groups(groups: Option<Vec<String>>, place: &str) -> Result<Vec<String>, Error> {
    let groups = groups.unwrap_or_default();
    for (i, group) in groups.iter().enumerate() {
        administrators::check(group, &format!("{place}[{i}]"))?;
    }
    let mut distinct = Vec::new();
    administrators::add_to(&mut distinct, &groups);
    Ok(distinct)
}

impl Wanted {
    fn from_spec(links: &Links, spec: CreateSpec) -> Result<Self, Error> {
        let hostname = spec.psc_hostname.trim().trim_start_matches('[').trim_end_matches(']').to_owned();
        if hostname.is_empty() {
            return Err(invalid("spec.psc_hostname", "a host name or an address"));
        }
        let port = match spec.port.as_deref().map(str::trim) {
            None => PORT_DEFAULT,
            Some(text) => {
                let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let port = text.parse().ok().filter(|port| *port > 0 && is_decimal);
                port.ok_or_else(|| invalid("spec.port", "a whole number from 1 to 65535"))?
            }
        };
        check_name(&spec.domain_name, "spec.domain_name")?;
        for (text, place) in [(&spec.username, "spec.username"), (&spec.password.0, "spec.password")] {
            if text.is_empty() || text.len() > TEXT_BYTES_MAX {
                return Err(invalid(place, &format!("1 to {TEXT_BYTES_MAX} bytes")));
            }
        }
        let trust = match &spec.ssl_thumbprint {
            Some(text) => {
                vec![Trust::Thumbprint(text.trim().parse().map_err(|e: String| invalid("spec.ssl_thumbprint", &e))?)]
            }
            None => links.trusted(),
        };
        Ok(Self {
            url: url(&hostname, port),
            hostname,
            port,
            domain: spec.domain_name,
            login: Login::Password { username: spec.username, password: spec.password },
            invitation: None,
            trust,
            admin_groups: check_groups(spec.admin_groups, "spec.admin_groups")?,
        })
    }

    fn from_invitation(links: &Links, input: JoinInput) -> Result<Self, Error> {
        let no_line = || invalid("invitation", "no invitation: take the whole line that the other site printed");
        let line = Invitation::read(&input.invitation.0).ok_or_else(no_line)?;
        let (hostname, port) = host_and_port(&line.url).ok_or_else(no_line)?;
        let (domain, place) = match input.domain_name {
            Some(name) => (name, "domain_name"),
            None => (line.site, "invitation"),
        };
        check_name(&domain, place)?;
        Ok(Self {
            url: line.url,
            hostname,
            port,
            domain,
            login: Login::Anonymous,
            invitation: Some(line.secret),
            trust: line.certificate.map_or_else(|| links.trusted(), |certificate| vec![Trust::Thumbprint(certificate)]),
            admin_groups: check_groups(input.admin_groups, "admin_groups")?,
        })
    }
}

fn url(hostname: &str, port: u16) -> String {
    if hostname.contains(':') { format!("https://[{hostname}]:{port}") } else { format!("https://{hostname}:{port}") }
}

/// Host and port of the URL of a site; `None` for one that is none, or that has no TLS and is not on this machine.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let rest = rest.trim_end_matches('/');
    let port_default = match scheme {
        "https" => PORT_DEFAULT,
        "http" => 80,
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (rest, port_default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#', '\\']);
    (is_host && port > 0 && (scheme == "https" || is_here)).then(|| (host.to_owned(), port))
}

pub(crate) async fn create(links: &Arc<Links>, context: Context, input: CreateInput) -> Result<String, Error> {
    let wanted = Wanted::from_spec(links, input.spec)?;
    make(links, context, wanted).await
}

pub(crate) async fn join(links: &Arc<Links>, context: Context, input: JoinInput) -> Result<String, Error> {
    let wanted = Wanted::from_invitation(links, input)?;
    make(links, context, wanted).await
}

/// Makes a link in a task of its own: a caller that hangs up must not leave half of one behind.
async fn make(links: &Arc<Links>, context: Context, wanted: Wanted) -> Result<String, Error> {
    let links = links.clone();
    let made = tokio::spawn(async move { Box::pin(make_link(&links, &context, wanted)).await });
    made.await.map_err(|error| {
        tracing::error!(%error, "a link was not made");
        Error::internal()
    })?
}

async fn make_link(links: &Arc<Links>, context: &Context, wanted: Wanted) -> Result<String, Error> {
    let _reserved = links.reserve(&wanted.domain, "spec.domain_name")?;
    let client = connect(&wanted).await?;
    let id = LinkId::random()?;
    let made = agree(links, context, &wanted, &client, &id).await;
    if made.is_err() {
        // It may have come about there, or its answer been lost.
        delete_account(&links.site, &id).await;
    }
    // A session that is left behind ends by itself.
    let _ = tokio::time::timeout(STEP_TIMEOUT, client.close()).await;
    let live = made?;
    live.start(links);
    tracing::info!(link = %id, domain = %wanted.domain, url = %wanted.url, "linked with another site");
    Ok(id.to_string())
}

/// Finds the first trust that the other site's certificate has, and logs in.
async fn connect(wanted: &Wanted) -> Result<Client, Error> {
    let mut refused = None;
    for trust in &wanted.trust {
        let config = Config { url: wanted.url.clone(), login: wanted.login.clone(), trust: trust.clone() };
        let client = Client::new(config).map_err(|error| refuse(&error, wanted))?.answers_up_to(WORDS_BYTES_MAX);
        let login = async {
            match &wanted.login {
                Login::Password { .. } => client.login().await.map(|_| ()),
                // An invitation is shown with the request that uses it.
                Login::Anonymous | Login::Token(_) => Ok(()),
            }
        };
        match tokio::time::timeout(STEP_TIMEOUT, login).await {
            Ok(Ok(())) => return Ok(client),
            Ok(Err(error @ ClientError::Untrusted { .. })) => refused = Some(error),
            Ok(Err(error)) => return Err(refuse(&error, wanted)),
            Err(_) => return Err(silent(wanted)),
        }
    }
    Err(refused.map_or_else(Error::internal, |error| refuse(&error, wanted)))
}

/// Steps 4 and 5.
async fn agree(
    links: &Arc<Links>,
    context: &Context,
    wanted: &Wanted,
    client: &Client,
    id: &LinkId,
) -> Result<Arc<Live>, Error> {
    let token = issue_token(links, id, &wanted.domain).await?;
    let input = AcceptInput {
        link: id.to_string(),
        site: links.site.config.name.clone(),
        log: links.log(),
        url: links.config.advertise_url.clone(),
        ssl_thumbprint: links.config.certificate.map(|certificate| certificate.to_string()),
        token,
        invitation: wanted.invitation.clone(),
    };
    let accepted = match tokio::time::timeout(STEP_TIMEOUT, client.call(Accept, input)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            if error.is_transient() && !error.is_unsent() {
                leave(client, id).await;
            }
            return Err(refuse(&error, wanted));
        }
        Err(_) => {
            leave(client, id).await;
            return Err(silent(wanted));
        }
    };
    let stored = store(links, context, wanted, client.certificate(), id, accepted).await;
    if stored.is_err() {
        leave(client, id).await;
    }
    stored
}

async fn store(
    links: &Arc<Links>,
    context: &Context,
    wanted: &Wanted,
    certificate: Option<Thumbprint>,
    id: &LinkId,
    accepted: Accepted,
) -> Result<Arc<Live>, Error> {
    if check_name(&accepted.site, "site").is_err() || !is_text(&accepted.log) || !is_text(&accepted.token.0) {
        let message = format!("{} answers what cannot be", wanted.domain);
        return Err(Error::new(
            ErrorKind::Unsupported,
            "lockstep.links.malformed",
            message,
            vec![wanted.domain.clone()],
        ));
    }
    let link = Link {
        id: id.clone(),
        domain: wanted.domain.clone(),
        site: accepted.site,
        log: accepted.log,
        hostname: wanted.hostname.clone(),
        port: wanted.port,
        url: wanted.url.clone(),
        certificate,
        role: Role::Origin,
        state: State::Active,
        health: Health::Unknown,
        created_ms: times::now_ms(),
        admin_groups: wanted.admin_groups.clone(),
        token: seal(links, id, &accepted.token)?,
    };
    let live = links.insert(&link).await?;
    if !link.admin_groups.is_empty() {
        let added = administrators::change(&links.site, context.caller.name(), |groups| {
            administrators::add_to(groups, &link.admin_groups);
        });
        if let Err(error) = added.await {
            tracing::warn!(%error, link = %id, "the link's groups were not made administrators");
        }
    }
    Ok(live)
}

fn seal(links: &Links, id: &LinkId, token: &Secret) -> Result<String, Error> {
    links.sealer.seal(id.as_str(), token).map_err(|error| {
        tracing::error!(%error, "an access token cannot be sealed");
        Error::internal()
    })
}

async fn issue_token(links: &Links, id: &LinkId, domain: &str) -> Result<Secret, Error> {
    let input = IssueTokenInput {
        user: account(id),
        role: AccountRole::Link,
        description: Some(format!("the link to {domain}; ends with it")),
    };
    links.site.issue_token(&Caller::Server("link"), input).await
}

/// Undoes the other site's half of a link that did not come about, as far as it can be reached.
async fn leave(client: &Client, id: &LinkId) {
    let input = LinkInput { link: id.to_string() };
    if let Ok(Err(error)) | Err(error) = tokio::time::timeout(STEP_TIMEOUT, client.call(Leave, input))
        .await
        .map(|left| left.map_err(|error| error.to_string()))
        .map_err(|error| error.to_string())
    {
        tracing::debug!(%error, link = %id, "the other site was not told to leave");
    }
}

pub(crate) async fn accept(links: &Arc<Links>, context: Context, input: AcceptInput) -> Result<Accepted, Error> {
    let invitation = match &input.invitation {
        Some(secret) => Some(links.invitations.take(secret).ok_or_else(|| {
            let message =
                "the invitation is not, or not any more, one of this site: it is good for one link within an hour";
            Error::new(ErrorKind::Unauthorized, "lockstep.links.invitation", message, Vec::new())
        })?),
        None => {
            context.caller.check(Privilege::Accounts)?;
            None
        }
    };
    if input.log == links.log() {
        return Err(invalid("spec.psc_hostname", "a site cannot be linked with itself"));
    }
    check_name(&input.site, "site")?;
    if input.site.eq_ignore_ascii_case(&links.site.config.name) {
        let message = format!("both sites call themselves {:?}: start one of them with another --site", input.site);
        return Err(invalid("site", &message));
    }
    let (hostname, port) = host_and_port(&input.url).filter(|_| is_text(&input.url)).ok_or_else(|| {
        let message = format!("{:?} is not where this site could reach the other: https://HOST[:PORT]", input.url);
        invalid("url", &message)
    })?;
    if !is_text(&input.log) || !is_text(&input.token.0) {
        return Err(invalid("token", "no access token and no log"));
    }
    let certificate = input.ssl_thumbprint.as_deref().map(str::parse).transpose();
    let certificate: Option<Thumbprint> = certificate.map_err(|error: String| invalid("ssl_thumbprint", &error))?;
    if certificate.is_none() && input.url.starts_with("https") {
        return Err(invalid("ssl_thumbprint", "the certificate that the asking site shows"));
    }
    let id = LinkId::read(&input.link).ok_or_else(|| invalid("link", "the id of a link is a UUID"))?;
    if links.find(id.as_str()).is_some() {
        return Err(exists(&input.site));
    }
    let _reserved = links.reserve(&input.site, "site")?;
    let made = async {
        let token = issue_token(links, &id, &input.site).await?;
        let link = Link {
            id: id.clone(),
            domain: input.site.clone(),
            site: input.site.clone(),
            log: input.log.clone(),
            hostname,
            port,
            url: input.url.trim_end_matches('/').to_owned(),
            certificate,
            role: Role::Target,
            state: State::Active,
            health: Health::Unknown,
            created_ms: times::now_ms(),
            admin_groups: Vec::new(),
            token: seal(links, &id, &input.token)?,
        };
        links.insert(&link).await.map(|live| (live, token))
    };
    let (live, token) = match made.await {
        Ok(made) => made,
        Err(error) => {
            delete_account(&links.site, &id).await;
            return Err(error);
        }
    };
    if let Some(invitation) = invitation {
        invitation.used();
    }
    live.start(links);
    tracing::info!(link = %id, domain = %input.site, url = %input.url, "another site linked itself with this one");
    Ok(Accepted { site: links.site.config.name.clone(), log: links.log(), token })
}

fn exists(domain: &str) -> Error {
    let message = format!("there is a link to {domain}");
    Error::new(ErrorKind::AlreadyExists, "lockstep.links.exists", message, vec![domain.to_owned()])
}

impl Links {
    /// The epoch of this site's log.
    fn log(&self) -> String {
        format!("{:016x}", self.site.origin().epoch)
    }

    /// Whom this server trusts without being told a thumbprint: the peers it was started with, then whom the system trusts.
    fn trusted(&self) -> Vec<Trust> {
        self.config.trusted_peers.iter().cloned().chain([Trust::System]).collect()
    }

    /// Keeps a domain for a link that is being made.
    ///
    /// # Errors
    /// `invalid_argument` for this site's own name, `already_exists` when there is a link to it or another is being made.
    fn reserve(&self, domain: &str, place: &str) -> Result<Reserved<'_>, Error> {
        let name = domain.to_lowercase();
        if name == self.site.config.name.to_lowercase() {
            return Err(invalid(place, &format!("{domain:?} is this site's own name")));
        }
        let mut making = self.making.lock();
        let is_there = self.all().iter().any(|live| live.domain.to_lowercase() == name);
        if is_there || !making.insert(name.clone()) {
            return Err(exists(domain));
        }
        Ok(Reserved { links: self, name })
    }

    /// Stores a link with all that belongs to it, and takes it among those at work.
    async fn insert(&self, link: &Link) -> Result<Arc<Live>, Error> {
        let create =
            Change { id: link.id.resource(), operation: Operation::Create(link.to_document()), parents: Arc::from([]) };
        let mut changes = vec![(create, Expect::Absent)];
        for provider in &self.providers {
            changes.extend(initial(&link.id, &**provider));
        }
        let batch = Batch { author: AUTHOR.into(), changes, relies_on: Vec::new() };
        self.site.commit(batch).await.map_err(|error| commit_error(&error))?;
        let live = Arc::new(Live::new(self, link));
        self.live.lock().insert(link.id.clone(), live.clone());
        Ok(live)
    }
}

/// A domain that nobody else makes a link to.
struct Reserved<'a> {
    links: &'a Links,
    name: String,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.links.making.lock().remove(&self.name);
    }
}

fn silent(wanted: &Wanted) -> Error {
    let seconds = STEP_TIMEOUT.as_secs();
    let message = format!("{} at {} did not answer within {seconds} s", wanted.domain, wanted.url);
    Error::new(ErrorKind::Error, "lockstep.links.unreachable", message, vec![wanted.domain.clone(), wanted.url.clone()])
}

/// What the caller is told when the other site was not reached or refused.
fn refuse(error: &ClientError, wanted: &Wanted) -> Error {
    let Wanted { domain, url, .. } = wanted;
    let reason = error.to_string();
    let args = || vec![domain.clone(), url.clone()];
    let refusal = |kind, id: &str, text: String| Error::new(kind, format!("lockstep.links.{id}"), text, args());
    match error {
        ClientError::Untrusted { thumbprint, reason, .. } => {
            let text = format!(
                "the certificate of {domain} at {url} is not trusted: {reason}; its SHA-256 thumbprint is {thumbprint}"
            );
            let mut refused = refusal(ErrorKind::UnverifiedPeer, "unverified", text);
            refused.data = Some(ErrorData::Certificate { ssl_thumbprint: thumbprint.to_string() });
            refused
        }
        ClientError::LoginRefused { .. } => {
            invalid("spec.username", &format!("{domain} refuses the login: wrong user name or password"))
        }
        ClientError::Url { .. } => invalid("spec.psc_hostname", &reason),
        ClientError::Refused { .. } | ClientError::Unreachable { .. } | ClientError::Broken { .. } => {
            refusal(ErrorKind::Error, "unreachable", format!("{domain} cannot be reached: {reason}"))
        }
        ClientError::Refusal { error, .. } => {
            let mut refused = match error.kind {
                ErrorKind::InvalidArgument => refusal(error.kind, "refused", format!("{domain} refuses the link")),
                ErrorKind::AlreadyExists => {
                    refusal(error.kind, "exists_there", format!("{domain} has a link to a site of this name"))
                }
                ErrorKind::Unauthorized | ErrorKind::Unauthenticated if wanted.invitation.is_some() => {
                    invalid("invitation", &format!("{domain} does not take the invitation"))
                }
                ErrorKind::Unauthorized | ErrorKind::Unauthenticated => {
                    invalid("spec.username", &format!("the account may not make links at {domain}"))
                }
                ErrorKind::OperationNotFound | ErrorKind::UnexpectedInput | ErrorKind::InvalidRequest => refusal(
                    ErrorKind::Unsupported,
                    "version",
                    format!("{domain} is of a version that cannot be linked"),
                ),
                _ => refusal(ErrorKind::Error, "refused", format!("{domain} refuses the link")),
            };
            // What the other site said is the cause. Few and short: it is another's text.
            let shorten = |text: &str| text.chars().take(500).collect::<String>();
            let causes = error.messages.iter().take(2);
            refused.messages.extend(
                causes.map(|cause| Message::new(shorten(&cause.id), shorten(&cause.default_message), Vec::new())),
            );
            refused
        }
        ClientError::Foreign { .. } | ClientError::Misfit { .. } => {
            refusal(ErrorKind::Unsupported, "foreign", format!("{domain} cannot be linked: {reason}"))
        }
        ClientError::SessionEnded { .. }
        | ClientError::LoginMissing { .. }
        | ClientError::Roots(_)
        | ClientError::Setup(_)
        | ClientError::Unaddressable(_) => {
            refusal(ErrorKind::Error, "failed", format!("{domain} cannot be linked: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_reached_by_tls_or_on_this_machine() {
        let check = |url: &str, expected: Option<(&str, u16)>| {
            assert_eq!(host_and_port(url), expected.map(|(host, port)| (host.to_owned(), port)), "{url}");
        };
        check("https://a.test:8443", Some(("a.test", 8443)));
        check("https://a.test/", Some(("a.test", 443)));
        check("https://[2001:db8::1]:8443", Some(("2001:db8::1", 8443)));
        check("https://[2001:db8::1]", Some(("2001:db8::1", 443)));
        check("http://127.0.0.1:8080", Some(("127.0.0.1", 8080)));
        check("http://[::1]:8080", Some(("::1", 8080)));
        for bad in [
            "",
            "a.test",
            "ftp://a",
            "https://",
            "https://a:0",
            "https://a:99999",
            "http://a.test",
            "https://u@a",
            "https://a/b",
        ] {
            check(bad, None);
        }
        assert_eq!(url("2001:db8::1", 8443), "https://[2001:db8::1]:8443");
    }

    #[test]
    fn names_of_sites_cannot_hold_what_ids_are_parted_by() {
        for good in ["site2.local", "fra-02", "Zürich_1"] {
            assert!(check_name(good, "p").is_ok(), "{good}");
        }
        for bad in ["", "a~b", "a b", "a/b", "a\n", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(bad, "p").is_err(), "{bad}");
        }
    }
}
