//! Hosts.

use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// Whether a host can be reached.
    pub enum ConnectionState = "com.vmware.vcenter.host.connection_state" {
        /// It can.
        Connected = "CONNECTED",
        /// It was disconnected by somebody.
        Disconnected = "DISCONNECTED",
        /// It does not answer.
        NotResponding = "NOT_RESPONDING",
        /// Not known here.
        Unknown = "UNKNOWN",
    }
}

enumeration! {
    /// Whether a host is on.
    pub enum PowerState = "com.vmware.vcenter.host.power_state" {
        /// It is.
        PoweredOn = "POWERED_ON",
        /// It was switched off by somebody.
        PoweredOff = "POWERED_OFF",
        /// It sleeps.
        Standby = "STANDBY",
    }
}

structure! {
    /// Which hosts; unset and empty members leave all.
    pub struct FilterSpec = "com.vmware.vcenter.host.filter_spec" {
        /// Their ids.
        hosts: Option<Vec<String>>,
        /// Their names, to the letter.
        names: Option<Vec<String>>,
        /// Folders that they stand in.
        folders: Option<Vec<String>>,
        /// Datacenters that they are in.
        datacenters: Option<Vec<String>>,
        /// Whether they are in no cluster.
        standalone: Option<bool>,
        /// Clusters that they are in.
        clusters: Option<Vec<String>>,
        /// Whether they can be reached.
        connection_states: Option<Vec<ConnectionState>>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which hosts; unset: all.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// A host in a list.
    pub struct Summary = "com.vmware.vcenter.host.summary" {
        /// Its id, of a `HostSystem`.
        host: String,
        /// Its name.
        name: String,
        /// Whether it can be reached.
        connection_state: ConnectionState,
        /// Whether it is on; set when, and only when, it is connected.
        power_state: Option<PowerState>,
    }
}

operation! {
    /// The hosts that a filter leaves, at most 2500; more of them are refused, never cut.
    pub List = "com.vmware.vcenter.host"."list"(ListInput) -> Vec<Summary>,
    errors: [InvalidArgument, UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: QUERY, ..Rest::new(Method::Get, "/vcenter/host", 200) },
}

/// The filter's members as parameters of a URL.
const QUERY: &[(&str, &str)] = &[
    ("hosts", "filter.hosts"),
    ("names", "filter.names"),
    ("folders", "filter.folders"),
    ("datacenters", "filter.datacenters"),
    ("standalone", "filter.standalone"),
    ("clusters", "filter.clusters"),
    ("connection_states", "filter.connection_states"),
];
