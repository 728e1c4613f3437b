//! The server's own collector: keeps the machine it runs on, and the virtual machines there, in the inventory.

use std::sync::Arc;
use std::time::Duration;

use lockstep_agent::reconcile::{self, Write};
use lockstep_agent::{HostReader, LibvirtAddress, Observed};
use lockstep_model::ResourceId;
use lockstep_query::Source;
use lockstep_site::Site;
use lockstep_site::collected::{self, Incoming, Seen};
use lockstep_vsphere::{Collectors, Elsewhere};
use tokio::sync::Notify;

/// How often the machine is read. A read costs some ten milliseconds.
const INTERVAL: Duration = Duration::from_secs(2);

/// The name that the collector's commits carry.
const AUTHOR: &str = "lockstep/collect-host";

/// Keeps reading, at once when libvirt has news; ends never.
pub async fn keep_host(site: Arc<Site>, collectors: Arc<Collectors>, libvirt: Option<LibvirtAddress>) {
    let uname = rustix::system::uname();
    let host_name = uname.nodename().to_string_lossy().into_owned();
    let collector = match collectors.host(&host_name).await {
        Ok(collector) => collector,
        Err(error) => return tracing::error!(%error, "this machine is not collected"),
    };
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
        match collect(&site, &collector, &reader).await {
            Ok(objects) => collector.confirmed(objects).await,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "cannot collect this machine");
                collector.failed(format!("this machine cannot be read: {error}; it is tried again")).await;
            }
        }
    }
}

/// Reads the machine once and writes what differs; answers how many resources it is.
async fn collect(site: &Arc<Site>, collector: &Elsewhere, reader: &Arc<HostReader>) -> anyhow::Result<usize> {
    let (reading, here) = (reader.clone(), site.clone());
    let (incoming, objects) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let observed = reading.read()?;
        Ok((incoming(&here, &observed), observed.len()))
    })
    .await??;
    let outcome = collected::write(site, &AUTHOR.into(), collector.id(), incoming).await?;
    for (id, misfit) in &outcome.misfits {
        tracing::warn!(%id, %misfit, "what was read of this machine does not fit the model");
    }
    Ok(objects)
}

/// What the machine is, in the words of collected resources.
fn incoming(site: &Site, observed: &[Observed]) -> Vec<Incoming> {
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
    let gone = reconcile::plan(observed, &stored, &of_host).into_iter().filter_map(|write| match write {
        Write::Delete { resource_type, id } => {
            Some(Incoming { id: ResourceId::new(&*resource_type, id), seen: Seen::Gone })
        }
        // What differs is found when all is compared.
        Write::Create { .. } | Write::Patch { .. } => None,
    });
    let present = observed.iter().map(|one| Incoming {
        id: ResourceId::new(one.resource_type, one.id.clone()),
        seen: Seen::Present {
            is_whole: true,
            paths: reconcile::kept(one.resource_type).collect(),
            properties: one.properties.clone(),
        },
    });
    present.chain(gone).collect()
}
