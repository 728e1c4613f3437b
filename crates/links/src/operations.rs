//! The operations that only look, and those that force and reset syncs.

use std::sync::Arc;

use lockstep_contract::services::NoInput;
use lockstep_contract::services::links::providers::{self, GetInput, ListInput, ResetInput, StartInput};
use lockstep_contract::services::links::{
    self as declared, Details, Info, Invitation as Invited, LinkInput, ProviderDetails, State, Summary,
};
use lockstep_contract::{Error, ErrorKind, Secret};
use lockstep_model::Value;
use lockstep_site::table::{Context, Table};

use crate::invitations::{Invitation, VALID_FOR};
use crate::link::Link;
use crate::live::Live;
use crate::sessions::Sync;
use crate::{Links, administrators, handshake, removal, tagging};
use lockstep_site::times;

/// Registers all operations of the service.
pub(crate) fn register(links: &Arc<Links>, table: &mut Table) {
    macro_rules! serve {
        ($($operation:path => $handler:path),* $(,)?) => {
            $( let here = links.clone();
               table.register($operation, move |context, input| {
                   let here = here.clone();
                   async move { $handler(&here, context, input).await }
               }); )*
        };
    }
    serve! {
        declared::Create => handshake::create,
        declared::List => list,
        declared::Get => get,
        declared::Delete => removal::delete,
        declared::DeleteWithCredentials => removal::delete_with_credentials,
        providers::List => list_providers,
        providers::Get => get_provider,
        providers::Start => start,
        providers::Reset => reset,
        declared::administrators::Get => administrators::get,
        declared::administrators::Add => administrators::add,
        declared::administrators::Remove => administrators::remove,
        declared::administrators::Set => administrators::set,
        declared::ListDetails => list_details,
        declared::DeleteDetails => removal::delete_details,
        declared::Invite => invite,
        declared::Join => handshake::join,
        declared::Accept => handshake::accept,
        declared::Leave => removal::leave,
    }
    table.register(declared::tagging::Conflicts, async |context, input| tagging::conflicts::list(&context, &input));
}

async fn list(links: &Arc<Links>, _: Context, _: NoInput) -> Result<Vec<Summary>, Error> {
    let summary = |live: &Arc<Live>| Summary { link: live.id.to_string(), display_name: live.domain.clone() };
    Ok(links.all().iter().map(summary).collect())
}

async fn get(links: &Arc<Links>, _: Context, input: LinkInput) -> Result<Info, Error> {
    let live = links.active(&input.link)?;
    let health = live.last_probe.lock().health.clone();
    Ok(Info::new(health))
}

async fn list_providers(links: &Arc<Links>, _: Context, input: ListInput) -> Result<Vec<providers::Summary>, Error> {
    let live = links.get(&input.link)?;
    let summary = |sync: &Arc<Sync>| providers::Summary { provider: sync.provider.name().to_owned() };
    Ok(live.syncs.iter().map(summary).collect())
}

fn find_sync(live: &Live, provider: &str) -> Result<Arc<Sync>, Error> {
    live.sync(provider).cloned().ok_or_else(|| {
        let message = format!("the link to {} has no sync provider {provider:?}", live.domain);
        Error::not_found("lockstep.sync.not_found", message, vec![live.id.to_string(), provider.to_owned()])
    })
}

async fn get_provider(links: &Arc<Links>, _: Context, input: GetInput) -> Result<providers::Info, Error> {
    Ok(find_sync(&*links.get(&input.link)?, &input.provider)?.info())
}

async fn start(links: &Arc<Links>, _: Context, input: StartInput) -> Result<(), Error> {
    let live = links.active(&input.link)?;
    let sync = find_sync(&live, &input.provider)?;
    sync.start()?;
    sync.write(&links.site).await;
    Ok(())
}

async fn reset(links: &Arc<Links>, _: Context, input: ResetInput) -> Result<(), Error> {
    let live = links.active(&input.link)?;
    let _turn = live.resetting.lock().await;
    removal::reset(links, &live).await
}

async fn list_details(links: &Arc<Links>, _: Context, _: NoInput) -> Result<Vec<Details>, Error> {
    Ok(links.all().iter().filter_map(|live| details(links, live)).collect())
}

/// All that is known of a link; `None` for one that has just ended.
fn details(links: &Links, live: &Live) -> Option<Details> {
    let stored = links.site.view().get(&live.id.resource())?;
    let link = Link::from_document(live.id.clone(), &stored.document);
    let probe = live.last_probe.lock().clone();
    let state = *live.state.lock();
    let providers = match state {
        State::Active => live.syncs.iter().map(|sync| provider_details(links, sync, probe.position)).collect(),
        State::Removing | State::Purging => Vec::new(),
    };
    Some(Details {
        link: link.id.to_string(),
        domain_name: link.domain,
        site: link.site,
        url: link.url,
        ssl_thumbprint: link.certificate.map(|certificate| certificate.to_string()),
        role: link.role,
        state,
        created: times::date_time(link.created_ms),
        health: Info::new(probe.health),
        round_trip_ms: probe.round_trip.map(|took| took.as_secs_f64() * 1000.0),
        admin_groups: link.admin_groups,
        providers,
    })
}

fn provider_details(links: &Links, sync: &Sync, peer_position: Option<u64>) -> ProviderDetails {
    let pace = sync.pace();
    let cursor = links.site.view().get(&sync.link.cursor(sync.provider.name()));
    let cursor = cursor.as_ref().and_then(|stored| stored.document.get("cursor")).and_then(Value::as_str);
    let behind = cursor.and_then(|cursor| sync.provider.reached(cursor)).zip(peer_position);
    // What the other site would have told by now is here: its further commits are none that are copied.
    let behind = if pace.is_following { Some(0) } else { behind.map(|(reached, there)| there.saturating_sub(reached)) };
    ProviderDetails {
        provider: sync.provider.name().to_owned(),
        info: sync.info(),
        running: pace.running,
        completed_work: pace.completed,
        total_work: pace.total,
        rate: pace.rate,
        is_following: pace.is_following,
        lag_positions: behind.and_then(|count| i64::try_from(count).ok()),
        lag_s: pace.lag_s,
    }
}

async fn invite(links: &Arc<Links>, _: Context, _: NoInput) -> Result<Invited, Error> {
    let secret = links.invitations.issue()?;
    let invitation = Invitation {
        url: links.config.advertise_url.clone(),
        certificate: links.config.certificate,
        secret,
        site: links.site.config.name.clone(),
    };
    let valid_ms = i64::try_from(VALID_FOR.as_millis()).unwrap_or(i64::MAX);
    Ok(Invited { line: Secret(invitation.line()), expires: times::date_time(times::now_ms() + valid_ms) })
}

impl Links {
    /// The link of that id.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Live>, Error> {
        let no_link = || Error::not_found("lockstep.links.not_found", format!("no link {id:?}"), vec![id.to_owned()]);
        self.find(id).ok_or_else(no_link)
    }

    /// The link of that id, which is not about to end.
    ///
    /// # Errors
    /// `not_found`, `resource_busy`.
    pub(crate) fn active(&self, id: &str) -> Result<Arc<Live>, Error> {
        let live = self.get(id)?;
        if *live.state.lock() != State::Active {
            let message = format!("the link to {} is being ended", live.domain);
            return Err(Error::new(ErrorKind::ResourceBusy, "lockstep.links.busy", message, vec![id.to_owned()]));
        }
        Ok(live)
    }
}
