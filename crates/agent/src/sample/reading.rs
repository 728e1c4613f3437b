//! The host and its VMs at a time, and what of them is wanted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::host_reading::HostReading;
use super::needs::Needs;
use super::vm_reading::VmReading;

/// Sources that are of the host, though counters of VMs need them.
const HOST_SOURCES_OF_VMS: [Needs; 2] = [Needs::INTERFACES, Needs::UPTIME];

/// What is to be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) host: Needs,
    /// Of VMs that are not named.
    pub(crate) every_vm: Needs,
    /// Of VMs that are: all that is wanted of them.
    pub(crate) vms: BTreeMap<Arc<str>, Needs>,
}

impl Wanted {
    pub(crate) fn of_vm(&self, id: &str) -> Needs {
        self.vms.get(id).copied().unwrap_or(self.every_vm)
    }

    pub(crate) fn wants_vms(&self) -> bool {
        !self.every_vm.is_empty() || self.vms.values().any(|needs| !needs.is_empty())
    }

    /// The host's sources, those for its VMs too.
    pub(crate) fn host_sources(&self) -> Needs {
        let of_vms = self.vms.values().fold(self.every_vm, |all, needs| all | *needs);
        let for_vms = HOST_SOURCES_OF_VMS.into_iter().filter(|need| of_vms.has(*need));
        for_vms.fold(self.host, |all, need| all | need)
    }

    /// Whether all that `other` wants is wanted.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let named = self.vms.keys().chain(other.vms.keys());
        self.host_sources().has(other.host_sources())
            && self.every_vm.has(other.every_vm)
            && named.into_iter().all(|id| self.of_vm(id).has(other.of_vm(id)))
    }

    pub(crate) fn join(&mut self, other: &Self) {
        let named: Vec<Arc<str>> = self.vms.keys().chain(other.vms.keys()).cloned().collect();
        self.vms = named
            .into_iter()
            .map(|id| {
                let needs = self.of_vm(&id) | other.of_vm(&id);
                (id, needs)
            })
            .collect();
        self.host |= other.host;
        self.every_vm |= other.every_vm;
    }
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) wanted: Wanted,
    pub(crate) host: HostReading,
    pub(crate) vms: HashMap<Arc<str>, VmReading>,
}

impl Reading {
    /// Takes over from a reading what is missing in this one.
    pub(crate) fn complete_by(&mut self, other: &Self) {
        self.wanted.join(&other.wanted);
        self.host.complete_by(&other.host);
        for (id, theirs) in &other.vms {
            match self.vms.get_mut(id) {
                Some(own) => own.complete_by(theirs),
                None => {
                    self.vms.insert(id.clone(), theirs.clone());
                }
            }
        }
    }
}
