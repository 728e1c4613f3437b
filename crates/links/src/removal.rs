//! How a link ends.
//!
//! 1. What looks after it is stopped: no sync writes for it any more.
//! 2. The other site is told to leave, by the link's token or as the administrator whose credentials came along; one that cannot be
//!    reached finds its token revoked, and shows its half as unhealthy until somebody deletes it there.
//! 3. The link is deleted with its providers and cursors, and then the account of its token.
//!
//! With a purge the link stays as `PURGING` until what was copied over it is deleted, a batch at a time, also over a restart.

use std::sync::Arc;
use std::time::Duration;

use lockstep_client::{Client, ClientError, Config, Login};
use lockstep_contract::services::accounts::Role as AccountRole;
use lockstep_contract::services::links::{
    Credentials, DeleteInput, DeleteWithCredentialsInput, Leave, LinkInput, State,
};
use lockstep_contract::{Error, ErrorKind, Privilege};
use lockstep_journal::{Batch, Change, CommitError, Expect, Operation};
use lockstep_model::{ResourceId, Value};
use lockstep_site::caller::Caller;
use lockstep_site::linked::{self, Incoming};
use lockstep_site::table::Context;
use lockstep_site::{Site, commit_error};

use crate::live::{Live, WORDS_BYTES_MAX, pinned};
use crate::provider::{AUTHOR, LinkId};
use crate::{ACCOUNT_PREFIX, Links, account};

/// How long the other site may take to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Linked resources that one commit deletes.
const PURGE_BATCH: usize = 1000;

/// Wait before a purge that failed is tried again.
const PURGE_RETRY: Duration = Duration::from_secs(5);

/// Tries before the end of a link gives up against others that change it.
const TRIES_MAX: usize = 16;

/// What is asked of the end of a link.
struct Wish {
    credentials: Option<Credentials>,
    tells_peer: bool,
    purges: bool,
}

pub(crate) async fn delete(links: &Arc<Links>, _: Context, input: LinkInput) -> Result<(), Error> {
    end(links, &input.link, Wish { credentials: None, tells_peer: true, purges: false }).await
}

pub(crate) async fn delete_with_credentials(
    links: &Arc<Links>,
    _: Context,
    input: DeleteWithCredentialsInput,
) -> Result<(), Error> {
    end(links, &input.link, Wish { credentials: input.credentials, tells_peer: true, purges: false }).await
}

pub(crate) async fn delete_details(links: &Arc<Links>, _: Context, input: DeleteInput) -> Result<(), Error> {
    let purges = input.purge.unwrap_or(false);
    end(links, &input.link, Wish { credentials: input.credentials, tells_peer: true, purges }).await
}

/// The other site ends the link: it asks with the link's own token, or as an administrator.
pub(crate) async fn leave(links: &Arc<Links>, context: Context, input: LinkInput) -> Result<(), Error> {
    let is_peer = match &context.caller {
        Caller::User(user) => {
            user.role == AccountRole::Link && user.name.strip_prefix(ACCOUNT_PREFIX) == Some(&input.link)
        }
        Caller::Anonymous | Caller::Server(_) => false,
    };
    if !is_peer {
        context.caller.check(Privilege::Accounts)?;
    }
    let live = links.get(&input.link)?;
    // Both sites may end it at the same time, and each would wait for the other.
    if *live.state.lock() != State::Active {
        return Ok(());
    }
    tracing::info!(link = %live.id, domain = %live.domain, "the other site ends the link");
    end(links, &input.link, Wish { credentials: None, tells_peer: false, purges: false }).await
}

/// Ends a link in a task of its own: a caller that hangs up must not leave half of one behind.
async fn end(links: &Arc<Links>, id: &str, wish: Wish) -> Result<(), Error> {
    let live = links.get(id)?;
    let administrator = match &wish.credentials {
        Some(credentials) => Some(as_administrator(&live, credentials).await?),
        None => None,
    };
    {
        let mut state = live.state.lock();
        if *state != State::Active {
            let message = format!("the link to {} is being ended", live.domain);
            return Err(Error::new(ErrorKind::ResourceBusy, "lockstep.links.busy", message, vec![id.to_owned()]));
        }
        *state = State::Removing;
    }
    let links = links.clone();
    let ended = tokio::spawn(async move {
        live.stop().await;
        if wish.tells_peer {
            tell(&live, administrator).await;
        }
        let removed = if wish.purges { begin_purge(&links, &live).await } else { remove(&links, &live).await };
        if removed.is_err() {
            *live.state.lock() = State::Active;
            live.start(&links);
        }
        removed
    });
    ended.await.map_err(|error| {
        tracing::error!(%error, "a link was not ended");
        Error::internal()
    })?
}

/// A client of the other site for an account of it.
async fn as_administrator(live: &Live, credentials: &Credentials) -> Result<Client, Error> {
    let link_client = live
        .client
        .as_ref()
        .map_err(|why| Error::new(ErrorKind::Error, why.id.clone(), why.default_message.clone(), why.args.clone()))?;
    let login = Login::Password { username: credentials.user_name.clone(), password: credentials.password.clone() };
    let trust = pinned(live.certificate);
    let config = Config { url: link_client.url().to_owned(), login, trust };
    let client = Client::new(config).map_err(|error| {
        tracing::error!(%error, "no client");
        Error::internal()
    })?;
    let client = client.answers_up_to(WORDS_BYTES_MAX);
    match tokio::time::timeout(LEAVE_TIMEOUT, client.login()).await {
        Ok(Err(ClientError::LoginRefused { .. })) => Err(Error::invalid_argument(
            "lockstep.links.invalid",
            "credentials.user_name",
            &format!("{} refuses the login: wrong user name or password", live.domain),
        )),
        // Not reached: what can be ended is ended all the same.
        Ok(Ok(_) | Err(_)) | Err(_) => Ok(client),
    }
}

async fn tell(live: &Live, administrator: Option<Client>) {
    let is_administrator = administrator.is_some();
    let Some(client) = administrator.or_else(|| live.client.clone().ok()) else { return };
    let told = tokio::time::timeout(LEAVE_TIMEOUT, client.call(Leave, LinkInput { link: live.id.to_string() })).await;
    match told {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, link = %live.id, "the other site did not leave"),
        Err(_) => tracing::warn!(link = %live.id, "the other site did not answer when it was told to leave"),
    }
    if is_administrator {
        // A session that is left behind ends by itself.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, client.close()).await;
    }
}

/// Deletes the link and all that belongs to it.
async fn remove(links: &Links, live: &Live) -> Result<(), Error> {
    let ids: Vec<ResourceId> = belongings(live).chain([live.id.resource()]).collect();
    commit(&links.site, |site| deletions(site, &ids)).await?;
    delete_account(&links.site, &live.id).await;
    links.live.lock().remove(&live.id);
    tracing::info!(link = %live.id, domain = %live.domain, "the link has ended");
    Ok(())
}

fn belongings(live: &Live) -> impl Iterator<Item = ResourceId> {
    live.syncs.iter().flat_map(|sync| [live.id.provider(sync.provider.name()), live.id.cursor(sync.provider.name())])
}

fn deletions(site: &Site, ids: &[ResourceId]) -> Vec<(Change, Expect)> {
    let view = site.view();
    let delete = |id: &ResourceId| {
        let stored = view.get(id)?;
        let change = Change { id: id.clone(), operation: Operation::Delete(stored.document), parents: Arc::from([]) };
        Some((change, Expect::At(stored.modified)))
    };
    ids.iter().filter_map(delete).collect()
}

/// Commits what `plan` finds to be done, anew while others come in between.
async fn commit(site: &Site, plan: impl Fn(&Site) -> Vec<(Change, Expect)>) -> Result<(), Error> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        let changes = plan(site);
        if changes.is_empty() {
            return Ok(());
        }
        let batch = Batch { author: AUTHOR.into(), changes, relies_on: Vec::new() };
        match site.commit(batch).await {
            Ok(_) => return Ok(()),
            Err(error @ CommitError::Conflict { .. }) => {
                last = Some(error);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(commit_error(&error)),
        }
    }
    Err(last.map_or_else(Error::internal, |error| commit_error(&error)))
}

/// Ends the link but for its name, and has the rest done in the background.
async fn begin_purge(links: &Arc<Links>, live: &Arc<Live>) -> Result<(), Error> {
    let belongings: Vec<ResourceId> = belongings(live).collect();
    commit(&links.site, |site| {
        let mut changes = deletions(site, &belongings);
        let link = live.id.resource();
        if let Some(stored) = site.view().get(&link) {
            let mut document = stored.document.clone();
            document.set("state", Some(Value::from(State::Purging.name())));
            document.set("token", None);
            let leaves = stored.document.diff(&document);
            if !leaves.is_empty() {
                let change = Change { id: link, operation: Operation::Update(leaves), parents: Arc::from([]) };
                changes.push((change, Expect::At(stored.modified)));
            }
        }
        changes
    })
    .await?;
    delete_account(&links.site, &live.id).await;
    *live.state.lock() = State::Purging;
    tokio::spawn(purge(links.clone(), live.clone()));
    Ok(())
}

/// Deletes what was copied over a link, and then the link. Goes on where it was when it is started again.
pub(crate) async fn purge(links: Arc<Links>, live: Arc<Live>) {
    let progress = links.site.progress();
    let mut deleted = 0;
    while !progress.borrow().is_stopping {
        let changes = purge_batch(&links.site, &live);
        if changes.is_empty() {
            match remove(&links, &live).await {
                Ok(()) => {
                    tracing::info!(link = %live.id, domain = %live.domain, deleted, "what came over the link is deleted");
                    return;
                }
                Err(error) => tracing::warn!(%error, link = %live.id, "a purged link was not deleted"),
            }
            tokio::time::sleep(PURGE_RETRY).await;
            continue;
        }
        let count = changes.len();
        match links.site.commit(Batch { author: AUTHOR.into(), changes, relies_on: Vec::new() }).await {
            Ok(_) => deleted += count,
            Err(CommitError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, link = %live.id, "what came over a link was not deleted");
                tokio::time::sleep(PURGE_RETRY).await;
            }
        }
    }
}

/// The deletions of some of what was copied over a link; none when nothing is left.
fn purge_batch(site: &Site, live: &Live) -> Vec<(Change, Expect)> {
    let view = site.view();
    let link = live.id.resource();
    let prefix = format!("{}~", live.domain);
    let mut gone = Vec::new();
    for type_def in view.registry().types() {
        let name = type_def.name.as_str();
        let linked = view.ids(name, Some(&prefix)).take_while(|id| id.id.starts_with(&prefix));
        let ours = linked.filter(|id| view.find(id).and_then(|found| found.linked_from()) == Some(&*link.id));
        gone.extend(ours.take(PURGE_BATCH - gone.len()).map(|id| Incoming { id, present: None }));
        if gone.len() >= PURGE_BATCH {
            break;
        }
    }
    // Whatever is not of the link is left out of the plan, and never refused.
    linked::plan(&view, &link, gone).unwrap_or_default()
}

/// Deletes the account of a link's token, if it is there.
pub(crate) async fn delete_account(site: &Site, id: &LinkId) {
    let user = account(id);
    let resource = ResourceId::new(lockstep_model::builtin::ACCOUNT, &*user);
    if site.view().modified(&resource).is_none() {
        return;
    }
    if let Err(error) = site.delete_account(&Caller::Server("link"), &user).await {
        tracing::warn!(%error, user, "the account of a link was not deleted");
    }
}

impl Links {
    /// Deletes accounts of links that are not there: what a crash in the middle of a handshake or of an end leaves.
    pub(crate) async fn sweep_accounts(&self) {
        let orphans = std::mem::take(&mut *self.orphans.lock());
        for id in orphans {
            tracing::info!(user = %account(&id), "deleting the account of a link that is not there");
            delete_account(&self.site, &id).await;
        }
    }
}

/// The links that have an account and nothing else. Only what is named like a link: an administrator may have made others.
pub(crate) fn orphans(site: &Site, is_there: impl Fn(&LinkId) -> bool) -> Vec<LinkId> {
    let of_links = site.accounts().into_iter().filter(|account| account.role == AccountRole::Link);
    let ids = of_links.filter_map(|account| LinkId::read(account.user.strip_prefix(ACCOUNT_PREFIX)?));
    ids.filter(|id| !is_there(id)).collect()
}

/// Forgets how far the providers of a link have come, and starts them from the beginning.
pub(crate) async fn reset(links: &Arc<Links>, live: &Arc<Live>) -> Result<(), Error> {
    live.stop().await;
    let mut result = Ok(());
    for sync in &live.syncs {
        let id = live.id.cursor(sync.provider.name());
        let cleared = commit(&links.site, |site| {
            let Some(stored) = site.view().get(&id) else { return Vec::new() };
            let mut document = stored.document.clone();
            document.set("cursor", None);
            let leaves = stored.document.diff(&document);
            let change =
                Change { id: id.clone(), operation: Operation::Update(leaves.clone()), parents: Arc::from([]) };
            if leaves.is_empty() { Vec::new() } else { vec![(change, Expect::At(stored.modified))] }
        })
        .await;
        match cleared {
            Ok(()) => {
                sync.reset();
                sync.write(&links.site).await;
            }
            Err(error) => result = Err(error),
        }
    }
    live.start(links);
    result
}
