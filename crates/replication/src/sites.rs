//! What this site says of itself, of those that are linked with it, and of its machines.

use std::sync::Arc;

use lockstep_contract::services::links::Health as LinkHealth;
use lockstep_contract::services::replication::sites::{
    self as declared, About, Configuration, HealthInfo, IsConfigured, Policy, Replicator, Site, SiteInput, SiteState,
    Vm, VmDisk, VmPage, VmsInput,
};
use lockstep_contract::services::replication::{Health, INSTANCES_MAX, RPO_MINUTES_MIN, Side};
use lockstep_contract::services::tasks::ApiError;
use lockstep_contract::{Error, ErrorKind};
use lockstep_links::PeerSite;
use lockstep_model::{Document, LINKED_FROM, Value};
use lockstep_site::table::{Context, Table};
use lockstep_site::tasks::page;
use lockstep_site::times;

use crate::engine::FIRST_DISK_KEY;
use crate::machine::{VIRTUAL_MACHINE, disks};
use crate::service::{Replications, no_site};
use crate::show::{ORG, health, name_fits, vapp_of};

/// The newest version of the API that is spoken.
const API_VERSION: &str = "4.7";

/// What clients compare with versions of the product that they know.
const BUILD_VERSION: &str = concat!("4.7.0-lockstep-", env!("CARGO_PKG_VERSION"));

const PRODUCT: &str = "Lockstep";

const SERVICE: &str = "CLOUD";

pub(crate) fn register(service: &Arc<Replications>, table: &mut Table) {
    macro_rules! serve {
        ($($operation:path => $handler:ident),* $(,)?) => {
            $( let here = service.clone();
               table.register($operation, move |_: Context, input| {
                   let here = here.clone();
                   async move { here.$handler(input) }
               }); )*
        };
    }
    serve! {
        declared::List => list_sites,
        declared::Get => get_site,
        declared::ListReplicators => list_replicators,
        declared::ListPolicies => list_policies,
        declared::GetIsConfigured => is_configured,
        declared::GetConfiguration => configuration,
        declared::GetAbout => about,
        declared::GetHealth => health_info,
        declared::ListVms => list_vms,
    }
}

type NoInput = lockstep_contract::services::NoInput;

impl Replications {
    fn local_site(&self) -> Site {
        Site {
            site: self.site.config.name.clone(),
            description: String::new(),
            api_url: self.links.advertised_url().to_owned(),
            api_public_url: self.links.advertised_url().to_owned(),
            api_thumbprint: self.links.certificate().map(|certificate| format!("SHA-256:{certificate}")),
            api_version: API_VERSION.to_owned(),
            build_version: BUILD_VERSION.to_owned(),
            is_local: true,
            state: SiteState { incoming_comm_error: None, outgoing_comm_error: None },
        }
    }

    fn list_sites(&self, _: NoInput) -> Result<Vec<Site>, Error> {
        Ok(std::iter::once(self.local_site()).chain(self.links.peers().iter().map(remote_site)).collect())
    }

    fn get_site(&self, input: SiteInput) -> Result<Site, Error> {
        if input.name == self.site.config.name {
            return Ok(self.local_site());
        }
        self.links.peer_named(&input.name).as_ref().map(remote_site).ok_or_else(|| no_site(&input.name))
    }

    fn list_replicators(&self, input: NoInput) -> Result<Vec<Replicator>, Error> {
        Ok(self.list_sites(input)?.into_iter().map(replicator).collect())
    }

    fn list_policies(&self, _: NoInput) -> Result<Vec<Policy>, Error> {
        Ok(vec![Policy {
            id: "default".to_owned(),
            display_name: "Default".to_owned(),
            min_rpo: RPO_MINUTES_MIN,
            max_instances: INSTANCES_MAX,
            max_pinned_instances: None,
            max_incoming: None,
            allow_incoming: self.store().is_ok(),
            allow_outgoing: true,
            orgs: vec![ORG.to_owned()],
        }])
    }

    fn is_configured(&self, _: NoInput) -> Result<IsConfigured, Error> {
        Ok(IsConfigured { is_configured: true })
    }

    fn configuration(&self, _: NoInput) -> Result<Configuration, Error> {
        let url = Some(self.links.advertised_url().to_owned());
        Ok(Configuration {
            id: self.instance_id(),
            local_site: self.site.config.name.clone(),
            local_site_description: String::new(),
            is_combined: true,
            ls_url: None,
            ls_thumbprint: None,
            vcd_url: url.clone(),
            vcd_thumbprint: self.links.certificate().map(|certificate| format!("SHA-256:{certificate}")),
            vcd_username: None,
            tunnel_url: url,
            tunnel_certificate: None,
        })
    }

    fn instance_id(&self) -> String {
        format!("{:?}", self.site.origin()).chars().filter(char::is_ascii_alphanumeric).collect()
    }

    fn about(&self, _: NoInput) -> Result<About, Error> {
        Ok(About {
            service_type: SERVICE.to_owned(),
            product_name: PRODUCT.to_owned(),
            build_version: BUILD_VERSION.to_owned(),
            build_date: -1,
            instance_id: self.instance_id(),
            runtime_id: self.runtime_id.clone(),
            current_time: times::now_ms(),
            address: self.links.advertised_url().to_owned(),
        })
    }

    fn health_info(&self, _: NoInput) -> Result<HealthInfo, Error> {
        let records = self.all();
        let count = |wanted: Health| records.iter().filter(|record| health(record) == wanted).count() as i64;
        let offline = |peer: &PeerSite| matches!(peer.health, LinkHealth::Unhealthy(_));
        Ok(HealthInfo {
            service_type: SERVICE.to_owned(),
            product_name: PRODUCT.to_owned(),
            build_version: BUILD_VERSION.to_owned(),
            site: self.site.config.name.clone(),
            current_time: times::now_ms(),
            green: count(Health::Green),
            yellow: count(Health::Yellow),
            red: count(Health::Red),
            offline_sites: self.links.peers().into_iter().filter(offline).map(|peer| peer.site).collect(),
            store_error: None,
        })
    }

    fn list_vms(&self, input: VmsInput) -> Result<VmPage, Error> {
        let (offset, limit) = page(input.offset, input.limit)?;
        let view = self.site.view();
        let mut total = 0;
        let mut found = Vec::new();
        for id in view.ids(VIRTUAL_MACHINE, None) {
            let Some(stored) = view.get(&id) else { continue };
            let document = stored.document;
            if document.get(LINKED_FROM).is_some() {
                continue;
            }
            let name = document.get("name").and_then(Value::as_str).unwrap_or(&id.id);
            if input.name.as_deref().is_some_and(|wanted| !name_fits(wanted, name)) {
                continue;
            }
            if total >= offset && found.len() < limit {
                found.push((id.id.to_string(), document));
            }
            total += 1;
        }
        drop(view);
        let items = found.into_iter().map(|(id, document)| self.show_vm(id, &document)).collect();
        Ok(VmPage { items, offset: offset as i64, limit: limit as i64, total: total as i64 })
    }

    fn show_vm(&self, id: String, document: &Document) -> Vm {
        let text = |path: &str| document.get(path).and_then(Value::as_str).map(str::to_owned);
        let long = |value: Option<&Value>| match value {
            Some(Value::Long(number)) => Some(*number),
            _ => None,
        };
        let name = text("name").unwrap_or_else(|| id.clone());
        let disk = |(index, disk): (i64, &Value)| VmDisk {
            disk_key: i64::from(FIRST_DISK_KEY) + index,
            label: disk.field("label").and_then(Value::as_str).map(str::to_owned),
            capacity: long(disk.field("capacity")),
        };
        let replication = self.of_vm(&id).filter(|record| record.side == Side::Source);
        Vm {
            vm_id: id.clone(),
            name: name.clone(),
            display_name: name.clone(),
            vapp_id: vapp_of(&id),
            vapp_name: name,
            site: self.site.config.name.clone(),
            power_state: text("power_state"),
            guest_os: text("guest_OS"),
            cpus: long(document.get("cpu_count")),
            memory_mib: long(document.get("memory_size_MiB")),
            disks: (0..).zip(disks(document)).map(disk).collect(),
            replication_id: replication.map(|record| record.api_id()),
            id,
        }
    }
}

fn replicator(site: Site) -> Replicator {
    Replicator {
        id: format!("replicator-{}", site.site),
        owner: "*".to_owned(),
        site: site.site,
        description: site.description,
        api_url: site.api_url,
        cert_thumbprint: site.api_thumbprint,
        pairing_cookie: None,
        state: site.state,
        is_in_maintenance_mode: false,
        api_version: site.api_version,
        data_address: None,
        build_version: site.build_version,
    }
}

fn remote_site(peer: &PeerSite) -> Site {
    let error = match &peer.health {
        LinkHealth::Unhealthy(message) => {
            let error = Error::new(
                ErrorKind::ResourceInaccessible,
                message.id.clone(),
                message.default_message.clone(),
                message.args.clone(),
            );
            Some(lockstep_contract::services::replication::codes::api_error(&error))
        }
        LinkHealth::Unknown | LinkHealth::Healthy => None::<ApiError>,
    };
    Site {
        site: peer.site.clone(),
        description: peer.domain.clone(),
        api_url: peer.url.clone(),
        api_public_url: peer.url.clone(),
        api_thumbprint: peer.certificate.map(|certificate| format!("SHA-256:{certificate}")),
        api_version: API_VERSION.to_owned(),
        build_version: BUILD_VERSION.to_owned(),
        is_local: false,
        state: SiteState { incoming_comm_error: None, outgoing_comm_error: error },
    }
}
