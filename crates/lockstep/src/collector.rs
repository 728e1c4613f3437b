//! The server's own collector: keeps the machine it runs on, and the virtual machines there, in the inventory.

use std::sync::Arc;
use std::time::Duration;

use lockstep_agent::reconcile::{self, Write};
use lockstep_agent::{HostReader, LibvirtAddress, Observed};
use lockstep_model::{COLLECTED_BY, ResourceId};
use lockstep_query::Source;
use lockstep_site::Site;
use lockstep_site::collected::{self, Incoming, Seen};
use lockstep_vcenter::{Order, Refusal, Switch, Switching};
use lockstep_vsphere::{Collectors, Elsewhere, Told};
use tokio::sync::Notify;

/// How often the machine is read. A read costs some ten milliseconds.
const INTERVAL: Duration = Duration::from_secs(2);

/// The name that the collector's commits carry.
const AUTHOR: &str = "lockstep/collect-host";

/// The machine that the server runs on.
#[derive(Debug)]
pub struct ThisHost {
    reader: Arc<HostReader>,
    /// Something has happened: it is read at once.
    news: Arc<Notify>,
}

impl ThisHost {
    /// Follows libvirt at the address, or where the machine has it; nothing is written yet.
    pub fn new(libvirt: Option<LibvirtAddress>) -> Self {
        let news = Arc::new(Notify::new());
        let told = news.clone();
        let reader = Arc::new(HostReader::new().with_libvirt(libvirt, move || told.notify_one()));
        Self { reader, news }
    }

    /// Keeps reading, at once when there is news; ends never.
    pub async fn keep(self: Arc<Self>, site: Arc<Site>, collectors: Arc<Collectors>) {
        let uname = rustix::system::uname();
        let host_name = uname.nodename().to_string_lossy().into_owned();
        let collector = match collectors.host(&host_name).await {
            Ok(collector) => collector,
            Err(error) => return tracing::error!(%error, "this machine is not collected"),
        };
        let mut timer = tokio::time::interval(INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = self.news.notified() => {}
            }
            match collect(&site, &collector, &self.reader).await {
                Ok(objects) => collector.confirmed(objects).await,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "cannot collect this machine");
                    collector.failed(format!("this machine cannot be read: {error}; it is tried again")).await;
                }
            }
        }
    }
}

impl Switch for ThisHost {
    fn switch(&self, order: Order) -> Switching<'_> {
        let (reader, news) = (self.reader.clone(), self.news.clone());
        Box::pin(async move {
            let switched = tokio::task::spawn_blocking(move || reader.switch(&order.vm.id, order.action)).await;
            // Also after a failure: it may have come of something that the inventory does not show yet.
            news.notify_one();
            let switched = switched.map_err(|error| {
                tracing::error!(%error, "a switch panicked");
                Refusal::Failed { reason: "it failed by a defect of the server".to_owned() }
            })?;
            switched.or_else(|error| {
                let (outcome, detail) = error.outcome();
                Refusal::of_outcome(outcome, detail)
            })
        })
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
    if let Some(host) = outcome.taken.iter().find(|id| id.resource_type.as_str() == "HostSystem") {
        let keeper = site.view().reference(host, COLLECTED_BY).map_or_else(|| "a link".into(), |keeper| keeper.id);
        anyhow::bail!("{host} is kept by {keeper}: end that one, or start the server with --no-collect-host");
    }
    for (id, misfit) in &outcome.misfits {
        tracing::warn!(%id, %misfit, "what was read of this machine does not fit the model");
    }
    Ok(objects)
}

/// The rules of hosts, for what their agents send.
pub fn rules(site: &Site, told: &[Told]) -> Vec<Incoming> {
    let observed: Vec<Observed> = told
        .iter()
        .map(|one| Observed {
            resource_type: one.resource_type,
            id: one.id.clone(),
            properties: one.properties.clone(),
        })
        .collect();
    incoming(site, &observed)
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
    let is_present =
        |resource_type: &str, id: &str| observed.iter().any(|one| one.resource_type == resource_type && one.id == id);
    let gone = reconcile::plan(observed, &stored, &of_host).into_iter().filter_map(|write| match write {
        Write::Delete { resource_type, id } => {
            Some(Incoming { id: ResourceId::new(&*resource_type, id), seen: Seen::Gone })
        }
        // It is off. Nobody keeps it until it is there again, so that its owner may delete it.
        Write::Patch { resource_type, id, .. } if !is_present(&resource_type, &id) => {
            let properties = [("power_state".to_owned(), "POWERED_OFF".into())].into_iter().collect();
            let seen = Seen::LetGo { paths: reconcile::OF_RUNNING.to_vec(), properties };
            Some(Incoming { id: ResourceId::new(&*resource_type, id), seen })
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
