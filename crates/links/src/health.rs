//! Probes of a link: does the other site answer, with its certificate, to our token?

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_contract::Message;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::links::Health;
use lockstep_contract::services::site;
use lockstep_model::Value;
use lockstep_site::{Site, WriteError};

use crate::Links;
use crate::link::message_value;
use crate::live::WORDS_BYTES_MAX;
use crate::live::{Live, Probe};
use crate::provider::{AUTHOR, LinkId, peer_message};

/// How long the other site may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Least time between two probes, whoever asks for one.
const PAUSE: Duration = Duration::from_secs(1);

/// Probes a link for ever: every so often, and when somebody met an error.
pub(crate) async fn keep(links: Arc<Links>, live: Arc<Live>) {
    let stopping = links.site.stopping();
    let work = async {
        loop {
            round(&links, &live).await;
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                () = tokio::time::sleep(links.config.probe_interval) => {}
                () = live.probe.notified() => {}
            }
        }
    };
    tokio::select! {
        () = stopping => {}
        () = work => {}
    }
}

async fn round(links: &Links, live: &Live) {
    let probe = ask(live).await;
    let (old, new) = {
        let mut last = live.last_probe.lock();
        let old = std::mem::replace(&mut *last, probe.clone());
        (old.health, probe.health)
    };
    if old == new {
        return;
    }
    match &new {
        Health::Healthy => {
            tracing::info!(link = %live.id, domain = %live.domain, "the link is healthy");
            // What waits after a failure need not wait any longer.
            live.syncs.iter().filter(|_| matches!(old, Health::Unhealthy(_))).for_each(|sync| sync.wake.notify_one());
        }
        Health::Unhealthy(why) => {
            tracing::warn!(link = %live.id, domain = %live.domain, why = %why.default_message, "the link is unhealthy");
        }
        Health::Unknown => {}
    }
    write(&links.site, &live.id, new).await;
}

async fn ask(live: &Live) -> Probe {
    let client = match &live.client {
        Ok(client) => client.clone().answers_up_to(WORDS_BYTES_MAX),
        Err(why) => {
            return Probe { health: Health::Unhealthy(why.clone()), ..Probe::default() };
        }
    };
    let began = Instant::now();
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.call(site::Get, NoInput {})).await;
    match answer {
        Ok(Ok(info)) => Probe {
            health: Health::Healthy,
            position: u64::try_from(info.position).ok(),
            round_trip: Some(began.elapsed()),
        },
        Ok(Err(error)) => Probe { health: Health::Unhealthy(peer_message(&error, &live.domain)), ..Probe::default() },
        Err(_) => {
            let seconds = ANSWER_TIMEOUT.as_secs();
            let text = format!("{} did not answer within {seconds} s", live.domain);
            let message =
                Message::new("lockstep.sync.unreachable", text, vec![live.domain.clone(), seconds.to_string()]);
            Probe { health: Health::Unhealthy(message), ..Probe::default() }
        }
    }
}

/// Writes the health down, so that it can be watched and is known after a restart.
async fn write(site: &Site, link: &LinkId, health: Health) {
    let Some(stored) = site.view().get(&link.resource()) else { return };
    let mut document = stored.document;
    let (status, message) = health.parts();
    document.set("health", status.map(|status| Value::from(status.name())));
    document.set("health_message", message.as_ref().map(message_value));
    match site.write_document(AUTHOR.into(), link.resource(), document, Some(stored.modified)).await {
        // Whoever changes the link otherwise is about to end it.
        Ok(_) | Err(WriteError::Changed { .. } | WriteError::NotFound(_)) => {}
        Err(error) => tracing::warn!(%error, %link, "the health of a link was not written down"),
    }
}
