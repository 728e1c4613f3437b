//! One look at the machine.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::host::addresses::{self, Addresses};
use crate::host::datastores::Datastores;
use crate::host::{self, networks};
use crate::identity::host_id;
use crate::libvirt::{self, Libvirt};
use crate::observed::{Observed, Properties};
use crate::qemu::switch::{self, SwitchError};
use crate::qemu::vm::{self, Answers, Surroundings};
use crate::tree::Tree;
use lockstep_contract::services::collectors::hosts::Action as SwitchAction;

/// Free space is told anew when it has changed by one part in this many of the capacity.
const FREE_SPACE_STEPS: u64 = 100;

/// Reads the machine, again and again.
///
/// It remembers what it told last of the values that would flicker otherwise, so keep one for as long as you poll.
#[derive(Debug)]
pub struct HostReader {
    tree: Tree,
    answers: Answers,
    // By datastore id. Held for a look-up.
    free_bytes: Mutex<HashMap<String, u64>>,
    libvirt: Option<Libvirt>,
}

/// Why a machine cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no `/proc` of Linux below the root.
    #[error("no Linux /proc: cannot read {}", path.display())]
    NotLinux {
        /// The file that every Linux has.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl HostReader {
    /// A reader of the machine it runs on.
    #[must_use]
    pub fn new() -> Self {
        Self::with_root("/")
    }

    /// A reader of the machine whose `/proc`, `/sys` and `/etc` are below `root`, as of a host's root mounted into a
    /// container.
    ///
    /// What files do not tell is asked from the kernel and left out here, where it would be of the wrong machine: IP
    /// addresses.
    #[must_use]
    pub fn with_root(root: impl Into<PathBuf>) -> Self {
        Self { tree: Tree::new(root.into()), answers: Answers::default(), free_bytes: Mutex::default(), libvirt: None }
    }

    /// Reads libvirt's domains too, those that do not run among them; without an address, those of QEMU's driver where the machine has a daemon.
    ///
    /// `changed` is called on a thread when libvirt has news, so that a reading can follow at once. A reading never waits for libvirt:
    /// it takes what was told last.
    #[must_use]
    pub fn with_libvirt(mut self, address: Option<libvirt::Address>, changed: impl Fn() + Send + 'static) -> Self {
        let address = address.unwrap_or_else(|| libvirt::Address::of_machine(&self.tree.path("")));
        self.libvirt = Some(Libvirt::follow(address, Box::new(changed)));
        self
    }

    /// Looks at the machine once: the host first, then its datastores, its networks, and its virtual machines.
    ///
    /// The host and its datastores refer to each other, so write them in one batch. It reads files and asks QEMU
    /// monitors; that takes milliseconds, and where monitors hang at most two seconds more.
    ///
    /// # Errors
    /// [`ReadError::NotLinux`] when the root has no `/proc` of Linux. Anything else that is missing only leaves its
    /// property out.
    pub fn read(&self) -> Result<Vec<Observed>, ReadError> {
        let tree = &self.tree;
        let path = tree.path("proc/stat");
        path.metadata().map_err(|source| ReadError::NotLinux { path, source })?;

        let host_id = host_id(tree);
        let host_name = host::name(tree).unwrap_or_else(|| host_id.clone());
        let addresses = if tree.is_system() { addresses::read() } else { Addresses::new() };
        let datastores = Datastores::read(tree, &host_id);
        let networks = networks::read(tree, &host_id);

        let mut observed = vec![host::read(tree, &host_id, &host_name, &addresses, &datastores.list)];
        let around = Surroundings {
            host_id: &host_id,
            boot_time_s: host::boot_time_s(tree),
            datastores: &datastores,
            networks: &networks,
        };
        let mut machines = vm::read(tree, &around, &self.answers);
        if let Some(libvirt) = &self.libvirt {
            let domains = libvirt.domains();
            observed[0].properties.extend(connection(domains.is_current));
            for domain in domains.list {
                let id = domain.id();
                match machines.iter_mut().find(|machine| machine.id == id) {
                    Some(machine) => drop(machine.properties.insert("libvirt".to_owned(), domain.management())),
                    None => machines.push(domain.into_observed(tree, &around)),
                }
            }
        }
        for datastore in datastores.list {
            let free_bytes = datastore.space_bytes.map(|(capacity, free)| self.steady(&datastore.id, capacity, free));
            observed.push(datastore.into_observed(&host_id, &host_name, free_bytes));
        }
        observed.extend(networks.into_iter().map(|network| network.into_observed(&host_id, &host_name)));
        observed.extend(machines);
        Ok(observed)
    }

    /// Switches the virtual machine with an id of the inventory, if libvirt here manages it, or a QEMU process of it runs here.
    ///
    /// Which process that is, and where its monitor is, is looked up now and not taken from what was read before. It blocks for as long
    /// as the monitor takes, some ten seconds at most, or the daemon.
    ///
    /// # Errors
    /// [`SwitchError`].
    pub fn switch(&self, id: &str, action: SwitchAction) -> Result<(), SwitchError> {
        let observed = self.read().map_err(|_| SwitchError::Unreadable)?;
        let machine = observed.iter().find(|one| one.resource_type == "VirtualMachine" && one.id == id);
        let machine = machine.ok_or(SwitchError::NotHere)?;
        if machine.properties.contains_key("libvirt") {
            let uuid = id.strip_prefix("vm-").unwrap_or(id);
            return self.libvirt.as_ref().ok_or(SwitchError::NotHere)?.switch(uuid, action);
        }
        let pid = machine.properties.get("qemu").and_then(|qemu| qemu["pid"].as_u64());
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).ok_or(SwitchError::NotHere)?;
        switch::switch(&self.tree, pid, action)
    }

    /// The free space to tell: the last one told, until the true one is a step away from it.
    fn steady(&self, datastore_id: &str, capacity_bytes: u64, free_bytes: u64) -> u64 {
        let mut told = self.free_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.entry(datastore_id.to_owned()).or_insert(free_bytes);
        if last.abs_diff(free_bytes) > capacity_bytes / FREE_SPACE_STEPS {
            *last = free_bytes;
        }
        *last
    }
}

/// What the host says of its libvirt.
fn connection(is_connected: Option<bool>) -> serde_json::Map<String, serde_json::Value> {
    let (mut properties, mut libvirt) = (Properties::default(), Properties::default());
    libvirt.set("connected", is_connected);
    properties.set_structure("libvirt", libvirt);
    properties.into_map()
}

impl Default for HostReader {
    fn default() -> Self {
        Self::new()
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_told_anew_when_it_has_changed_by_a_hundredth() {
        let reader = HostReader::new();
        let told: Vec<u64> = [500, 495, 505, 490, 489, 480, 499].map(|free| reader.steady("a", 1000, free)).into();
        assert_eq!(told, [500, 500, 500, 500, 489, 489, 489]);
        assert_eq!(reader.steady("b", 1000, 499), 499, "each datastore on its own");
    }
}
