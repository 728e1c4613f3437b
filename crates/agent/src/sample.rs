//! Sampling: the values of the counters that acquisition specifications ask for.
//!
//! # From a specification to points
//! ```text
//! AcqSpec  --> Schedule --> Group (an interval with its counters) --> Wanted --> Sampler::read --> Reading
//!                 |                                                                                   |
//!                 +--> Tick (an interval, a time) ----------------> Worker <-- Reading of the tick before
//!                                                                      |
//!                                                                      +--> points
//! ```
//! - [`Schedule`] knows the rules: which specifications match this host and its VMs, which of several is heeded, and what is
//!   due when. It has no clock of its own.
//! - A `Measure` (`host_measures`, `vm_measures`) is a counter of the catalogue with the sources that it needs and a function of
//!   two readings. Everything a value is computed from is in them, so a value can be proven by hand.
//! - A `Reading` holds what was read in one pass, source by source, each with its own time. Of each interval the last one is
//!   kept: a rate is over the time since then by the monotonic clock. When a counter is new to an interval, its sources are
//!   read at once, so that its first tick has something to subtract.
//! - [`Worker`] drives all that at a tick. It never waits for anything but the files it reads and, half a second at most,
//!   for QEMU monitors.
//!
//! # What it promises
//! - **No wrong point.** A count that went back (it wrapped, its process or device was replaced) gives no point, nor does the
//!   first reading of a rate, nor a source that is missing.
//! - **Only what is due is read**, and each file once for all counters of a tick.
//! - **Nothing is disturbed.** Monitors are asked by the rules of `qemu::monitor`; one that does not answer is left alone
//!   for a minute.

mod control_group;
mod host_measures;
mod host_reading;
mod kernel_files;
mod measure;
mod needs;
mod part;
mod reading;
mod schedule;
mod sensors;
mod vm_measures;
mod vm_reading;
mod vms;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use crate::identity::host_id;
use crate::tree::Tree;
use host_measures::HOST_MEASURES;
use host_reading::{HostSource, VmTotals};
use needs::Needs;
use reading::{Reading, Wanted};
use vm_measures::VM_MEASURES;
use vms::Vms;

pub use schedule::{Dropped, Now, Schedule, Tick};
pub use worker::{Pass, Worker};

/// Reads this machine's counters, again and again.
#[derive(Debug)]
pub struct Sampler {
    tree: Tree,
    host_id: Arc<str>,
    host: HostSource,
    vms: Vms,
    /// What files are read into.
    buffer: Vec<u8>,
}

impl Sampler {
    /// A sampler of the machine it runs on.
    #[must_use]
    pub fn new() -> Self {
        Self::with_root("/")
    }

    /// A sampler of the machine whose `/proc` and `/sys` are below `root`.
    #[must_use]
    pub fn with_root(root: impl Into<PathBuf>) -> Self {
        let tree = Tree::new(root.into());
        let host_id = host_id(&tree).into();
        let host = HostSource::new(&tree);
        Self { tree, host_id, host, vms: Vms::default(), buffer: Vec::new() }
    }

    /// The id of the host in the inventory: that of the `HostSystem` that [`HostReader`](crate::HostReader) yields.
    #[must_use]
    pub fn host_id(&self) -> &Arc<str> {
        &self.host_id
    }

    /// The ids of the VMs that run here, as the inventory has them.
    pub fn vm_ids(&mut self) -> Vec<Arc<str>> {
        self.vms.find(&self.tree, &self.host_id, &mut self.buffer);
        self.vms.ids().cloned().collect()
    }

    /// The ids of the counters that this machine can tell, in the order of the catalogue.
    ///
    /// Those of VMs are among them whether or not there is a VM.
    pub fn offered(&mut self) -> Vec<&'static str> {
        let host = HOST_MEASURES.iter().fold(Needs::NONE, |all, measure| all | measure.reads());
        let wanted = Wanted { host: host | Needs::INTERFACES | Needs::UPTIME, ..Wanted::default() };
        let mut present = self.read(&wanted).host.present() | Needs::GUEST | Needs::BLOCKS;
        let of_processes = [
            ("proc/self/stat", Needs::PROCESS),
            ("proc/self/status", Needs::HOLDINGS),
            ("proc/self/schedstat", Needs::THREADS),
            ("dev/kvm", Needs::GUEST_TIME),
        ];
        for (path, need) in of_processes {
            if self.tree.exists(path) {
                present |= need;
            }
        }
        let of_host = HOST_MEASURES.iter().map(|measure| (measure.cid, measure.needs));
        let of_vms = VM_MEASURES.iter().map(|measure| (measure.cid, measure.needs));
        of_host.chain(of_vms).filter(|(_, needs)| present.has(*needs)).map(|(cid, _)| cid).collect()
    }

    /// Reads what is wanted.
    pub(crate) fn read(&mut self, wanted: &Wanted) -> Reading {
        let sources = wanted.host_sources();
        let mut host = self.host.read(&self.tree, sources, &mut self.buffer);
        let mut vms = Vec::new();
        if wanted.wants_vms() || sources.has_any(Needs::VMS | Needs::VM_TOTALS) {
            self.vms.find(&self.tree, &self.host_id, &mut self.buffer);
            let of_all = if sources.has(Needs::VM_TOTALS) { Needs::HOLDINGS } else { Needs::NONE };
            vms = self.vms.read(&self.tree, |id| wanted.of_vm(id) | of_all, &mut self.buffer);
            host.vm_count = Some(self.vms.ids().count());
        }
        if sources.has(Needs::VM_TOTALS) {
            let holdings = || vms.iter().filter_map(|(_, vm)| Some(&vm.holdings.as_ref()?.value));
            host.vm_totals = Some(VmTotals {
                held_kib: holdings().map(|holdings| holdings.resident).sum(),
                anonymous_kib: holdings().map(|holdings| holdings.anonymous).sum(),
            });
        }
        Reading { wanted: wanted.clone(), host, vms: vms.into_iter().collect() }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use lockstep_contract::counters::{COUNTERS, ResourceKind};

    use super::*;

    #[test]
    fn every_counter_of_the_catalogue_has_a_measure_of_its_kind() {
        let of_kind = |kind| COUNTERS.iter().filter(move |counter| counter.kind == kind).map(|counter| counter.cid);
        let of_hosts = HOST_MEASURES.iter().map(|measure| measure.cid);
        assert!(of_hosts.eq(of_kind(ResourceKind::Host)));
        let of_vms = VM_MEASURES.iter().map(|measure| measure.cid);
        assert!(of_vms.eq(of_kind(ResourceKind::Vm)));
    }
}
