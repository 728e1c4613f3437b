//! The inventory as vCenter's clients list it, and the switches of its virtual machines.
//!
//! # Reads
//! A list is one look at the view: its filter becomes a query, whose indexes narrow it down, and what a query cannot say (what a
//! resource is below of, what a word of the inventory means to these clients) is asked of each resource that is left. So every answer is of one
//! moment. An answer has the limit that the interface gives its list; what matches beyond it is refused and never cut, as clients take a list
//! for all there is.
//!
//! | module | of |
//! |---|---|
//! | [`select`] | filters and limits, for all lists |
//! | `cluster` … `vm` | one service each |
//! | `hardware`, `guest_os` | what the parts of a virtual machine are called by these clients |
//! | [`power`] | switching |
//!
//! Resources of linked sites stand in the lists like own ones, by the ids that they have here: a hub is asked for all of its sites, and
//! what they refer to is here by the same ids.
//!
//! What the interface demands and the inventory does not know is told as `lockstep_contract::services::vcenter` says.
//!
//! # Switching
//! The inventory says what is; a [`Switch`] does. The service is given what can switch from this process ([`Switches`]), and finds by who
//! keeps a machine which of them reaches it. Each action is a task ([`power`]). A switch that was thrown is answered when the inventory
//! shows it, or after some seconds: then the inventory follows later, as with every change. Two switches of one machine at once are told
//! apart by what runs it.

mod cluster;
mod datacenter;
mod datastore;
mod folder;
mod guest_os;
mod hardware;
mod host;
mod network;
pub mod power;
mod resource_pool;
mod select;
mod vm;

use std::sync::Arc;

use lockstep_contract::services::vcenter as services;
use lockstep_site::table::Table;
use lockstep_site::tasks::Tasks;

pub use power::{Action, Order, Refusal, Switch, Switches, Switching};

/// Registers the service's operations. What no switch reaches is refused, and told so.
pub fn register(table: &mut Table, switches: Switches, tasks: Arc<Tasks>) {
    macro_rules! read {
        ($($operation:path => $handler:path),* $(,)?) => {
            $( table.register($operation, async |context, input| $handler(&context.site.view(), input)); )*
        };
    }
    read! {
        services::cluster::List => cluster::list,
        services::cluster::Get => cluster::get,
        services::datacenter::List => datacenter::list,
        services::datacenter::Get => datacenter::get,
        services::datastore::List => datastore::list,
        services::datastore::Get => datastore::get,
        services::folder::List => folder::list,
        services::host::List => host::list,
        services::network::List => network::list,
        services::resource_pool::List => resource_pool::list,
        services::resource_pool::Get => resource_pool::get,
        services::vm::List => vm::list,
        services::vm::Get => vm::get,
        services::power::Get => power::get,
        services::guest_power::Get => power::get_guest,
    }
    power::register(table, switches, tasks);
}
