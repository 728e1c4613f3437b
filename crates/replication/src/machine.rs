//! A machine of the inventory, as a sync needs it.

use std::path::PathBuf;

use lockstep_contract::services::replication::codes;
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::{Document, ResourceId, Value};

use crate::engine::{FIRST_DISK_KEY, Machine, MachineDisk};
use crate::record::Record;
use crate::service::Replications;

/// The type of machines.
pub(crate) const VIRTUAL_MACHINE: &str = "VirtualMachine";

/// The refusal of a machine that is not there.
pub(crate) fn no_vm(vm: &str) -> Error {
    Error::not_found(codes::VM_NOT_FOUND, format!("there is no virtual machine {vm:?}"), vec![vm.to_owned()])
}

/// The machine's disks as the inventory has them.
pub(crate) fn disks(document: &Document) -> &[Value] {
    match document.get("disks") {
        Some(Value::List(disks)) => disks,
        _ => &[],
    }
}

impl Replications {
    /// The document of a machine of this site.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn vm(&self, vm: &str) -> Result<Document, Error> {
        let stored = self.site.view().get(&ResourceId::new(VIRTUAL_MACHINE, vm));
        stored.map(|stored| stored.document).ok_or_else(|| no_vm(vm))
    }

    /// The machine of a replication, with the disks that are to be read.
    ///
    /// # Errors
    /// `not_found` when it is gone, `not_allowed_in_current_state` when there is nothing to read.
    pub(crate) fn machine(&self, record: &Record) -> Result<Machine, Error> {
        let document = self.vm(&record.vm)?;
        let excluded = &record.source.settings.excluded_disk_keys;
        let text = |value: &Value, name: &str| value.field(name).and_then(Value::as_str).map(str::to_owned);
        let mut found = Vec::new();
        for (index, disk) in (0u32..).zip(disks(&document)) {
            if excluded.contains(&i64::from(FIRST_DISK_KEY + index)) {
                continue;
            }
            found.push(MachineDisk {
                index,
                path: text(disk, "path").map(PathBuf::from),
                format: text(disk, "format"),
                device: text(disk, "node"),
            });
        }
        if found.is_empty() {
            let message = format!("{} has no disks to replicate", record.source.vm_name);
            let args = vec![record.vm.clone()];
            return Err(Error::new(
                ErrorKind::NotAllowedInCurrentState,
                "lockstep.replication.no_disks",
                message,
                args,
            ));
        }
        Ok(Machine {
            replication: record.id.clone(),
            vm: record.vm.clone(),
            monitor: document.get("qemu/qmp_socket").and_then(Value::as_str).map(PathBuf::from),
            quiesce: record.source.settings.quiesced,
            disks: found,
        })
    }
}
