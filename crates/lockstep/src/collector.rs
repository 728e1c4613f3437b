//! The server's own collector: keeps the machine it runs on, and the virtual machines there, in the inventory.

use std::sync::Arc;
use std::time::Duration;

use lockstep_agent::reconcile::{self, Write};
use lockstep_agent::{HostReader, LibvirtAddress};
use lockstep_model::ResourceId;
use lockstep_query::Source;
use lockstep_site::{Site, WriteError};
use tokio::sync::Notify;

/// How often the machine is read. A read costs some ten milliseconds.
const INTERVAL: Duration = Duration::from_secs(2);

/// The name that the collector's commits carry.
const AUTHOR: &str = "lockstep/collect-host";

/// Keeps reading, at once when libvirt has news; ends never.
pub async fn keep_host(site: Arc<Site>, libvirt: Option<LibvirtAddress>) {
    let news = Arc::new(Notify::new());
    let told = news.clone();
    let reader = Arc::new(HostReader::new().with_libvirt(libvirt, move || told.notify_one()));
    let mut timer = tokio::time::interval(INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = news.notified() => {}
        }
        if let Err(error) = collect(&site, &reader).await {
            tracing::warn!(error = %format!("{error:#}"), "cannot collect this machine");
        }
    }
}

async fn collect(site: &Arc<Site>, reader: &Arc<HostReader>) -> anyhow::Result<()> {
    let (reading, here) = (reader.clone(), site.clone());
    let writes = tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<Write>> {
        let observed = reading.read()?;
        Ok(writes(&here, &observed))
    })
    .await??;
    for write in writes {
        match apply(site, write).await {
            // Somebody else was faster; the next round sees what is there.
            Ok(()) | Err(WriteError::NotFound(_) | WriteError::Changed { .. } | WriteError::Contended(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What to write so that the inventory is as observed.
fn writes(site: &Site, observed: &[lockstep_agent::Observed]) -> Vec<Write> {
    let view = site.view();
    let stored = |resource_type: &str, id: &str| {
        let stored = view.get(&ResourceId::new(resource_type, id))?;
        match serde_json::to_value(&stored.document) {
            Ok(serde_json::Value::Object(properties)) => Some(properties),
            _ => None,
        }
    };
    let of_host = |resource_type: &str, host: &str| {
        let mut ids = Vec::new();
        let each = &mut |id: ResourceId| ids.push(id.id.into());
        view.referrers(&ResourceId::new("HostSystem", host), &resource_type.into(), &["host".into()], each);
        ids
    };
    reconcile::plan(observed, &stored, &of_host)
}

async fn apply(site: &Site, write: Write) -> Result<(), WriteError> {
    let author: Arc<str> = AUTHOR.into();
    match write {
        Write::Create { resource_type, id, properties } => {
            let json = serde_json::Value::Object(properties).to_string();
            site.create_resource(author, ResourceId::new(&*resource_type, id), &json).await?;
        }
        Write::Patch { resource_type, id, properties } => {
            let values: Vec<(String, String)> =
                properties.into_iter().map(|(path, value)| (path, value.to_string())).collect();
            site.patch_resource(author, ResourceId::new(&*resource_type, id), &values, None).await?;
        }
        Write::Delete { resource_type, id } => {
            site.delete_resource(author, ResourceId::new(&*resource_type, id), None, false).await?;
        }
    }
    Ok(())
}
