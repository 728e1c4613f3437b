//! The list of hosts.

use lockstep_contract::Error;
use lockstep_contract::services::vcenter::host::{ConnectionState, ListInput, PowerState, Summary};
use lockstep_query::View;

use crate::cluster::CLUSTER;
use crate::select::Selection;

const HOST: &str = "HostSystem";

/// Most hosts of a list.
const LIST_MAX: usize = 2500;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let all = Selection::new(view, HOST, LIST_MAX, &["name", "connection_state", "power_state", "cluster"]);
    let some = match &input.filter {
        None => all,
        Some(filter) => {
            let some = all
                .ids("filter.hosts", &filter.hosts)
                .names(&filter.names)
                .pointing("filter.folders", "folder", "Folder", &filter.folders)
                .below("filter.datacenters", "Datacenter", &filter.datacenters)
                .pointing("filter.clusters", "cluster", CLUSTER, &filter.clusters)
                .one_of(&filter.connection_states, |row| connection_state(row.text("connection_state")));
            match filter.standalone {
                Some(standalone) => some.check(move |row| row.id_at("cluster").is_none() == standalone),
                None => some,
            }
        }
    };
    some.list(|row| {
        let connection_state = connection_state(row.text("connection_state"));
        let power_state = row.text("power_state").and_then(PowerState::from_name);
        Summary {
            host: row.id.to_owned(),
            name: row.name(),
            connection_state,
            // A host that answers is on.
            power_state: match connection_state {
                ConnectionState::Connected => Some(power_state.unwrap_or(PowerState::PoweredOn)),
                ConnectionState::Disconnected | ConnectionState::NotResponding | ConnectionState::Unknown => None,
            },
        }
    })
}

fn connection_state(text: Option<&str>) -> ConnectionState {
    text.and_then(ConnectionState::from_name).unwrap_or(ConnectionState::Unknown)
}
