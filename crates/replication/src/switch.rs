//! Switching machines that were recovered here, as any other machine of the site: by `vm.Power`.
//!
//! Such a machine is in the inventory under the name that it was recovered by, and by what the host's collector calls its QEMU. Nobody but
//! this service can start it when it is off; what else can be done with it is done with its process, by who looks after the host.

use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::Error;
use lockstep_model::ResourceId;
use lockstep_site::WriteError;
use lockstep_site::power::{Action, Order, Refusal, Switch, Switching};

use crate::machine::VIRTUAL_MACHINE;
use crate::recover::vm_of;
use crate::recovered::{self, Power, PoweredOff, Recoveries, Recovery};
use crate::service::{AUTHOR, Replications};

/// Switches machines that were recovered, and hands all others on.
pub struct Recovered {
    replications: Arc<Replications>,
    host: Option<Arc<dyn Switch>>,
}

impl Recovered {
    /// With who looks after the machines of this host, if somebody does.
    pub fn new(replications: Arc<Replications>, host: Option<Arc<dyn Switch>>) -> Self {
        Self { replications, host }
    }
}

impl Switch for Recovered {
    fn switch(&self, order: Order) -> Switching<'_> {
        Box::pin(async move {
            let found = self.replications.recovery_of(&order.vm.id);
            // One that is on may be suspended, which its process knows.
            let is_to_start = |recovery: &Recovery| recovery.power == Power::Off || self.host.is_none();
            match (&found, order.action) {
                (Some((recoveries, recovery)), Action::Start) if is_to_start(recovery) => {
                    self.replications.start_recovered(recoveries, recovery).await
                }
                (Some((recoveries, recovery)), Action::Stop) => {
                    self.replications.stop_recovered(recoveries, recovery).await
                }
                _ => {
                    let host = self.host.as_ref().ok_or_else(Refusal::unattended)?;
                    let vm = found.map_or_else(|| order.vm.clone(), |(_, recovery)| of_process(&recovery));
                    host.switch(Order { vm, ..order }).await
                }
            }
        })
    }
}

/// What a collector of this host calls a recovered machine's QEMU.
fn of_process(recovery: &Recovery) -> ResourceId {
    ResourceId::new(VIRTUAL_MACHINE, format!("vm-{}", recovery.hardware.uuid))
}

impl Replications {
    /// What a machine of the inventory was recovered as.
    fn recovery_of(&self, vm: &str) -> Option<(&Recoveries, Recovery)> {
        let is_it = |recovery: &Recovery| {
            vm == vm_of(&recovery.replication, recovery.purpose) || *vm == *of_process(recovery).id
        };
        let recoveries = self.recoveries.as_ref()?;
        Some((recoveries, recoveries.all().into_iter().find(is_it)?))
    }

    async fn start_recovered(&self, recoveries: &Recoveries, recovery: &Recovery) -> Result<(), Refusal> {
        if recovery.power != Power::Off {
            return Err(Refusal::Already);
        }
        recoveries.power_on(&recovery.replication).await.map_err(refusal)?;
        self.show_power(recoveries, recovery).await
    }

    async fn stop_recovered(&self, recoveries: &Recoveries, recovery: &Recovery) -> Result<(), Refusal> {
        let stopped = recoveries.power_off(&recovery.replication, Duration::ZERO).await.map_err(refusal)?;
        self.show_power(recoveries, recovery).await?;
        if stopped == PoweredOff::WasOff { Err(Refusal::Already) } else { Ok(()) }
    }

    /// The inventory is told whether the machine runs, and where its monitor is.
    async fn show_power(&self, recoveries: &Recoveries, recovery: &Recovery) -> Result<(), Refusal> {
        let machine = recoveries.machine(&recovery.replication).map_err(refusal)?;
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let power = text(machine.power_state());
        let monitor = machine.monitor.map_or_else(|| "null".to_owned(), |path| text(&path.display().to_string()));
        let properties = [("power_state".to_owned(), power), ("qemu/qmp_socket".to_owned(), monitor)];
        let vm = ResourceId::new(VIRTUAL_MACHINE, vm_of(&recovery.replication, recovery.purpose));
        match self.site.patch_resource(AUTHOR.into(), vm, &properties, None).await {
            // It may have been deleted from the inventory.
            Ok(_) | Err(WriteError::NotFound(_)) => Ok(()),
            Err(error) => Err(failed(&error.into_error())),
        }
    }
}

fn refusal(error: recovered::Error) -> Refusal {
    match error {
        recovered::Error::Absent(_) => Refusal::NotHere,
        recovered::Error::Busy(_) => Refusal::Busy { reason: error.to_string() },
        _ => failed(&error.into()),
    }
}

fn failed(error: &Error) -> Refusal {
    Refusal::Failed { reason: error.messages.first().map_or_else(String::new, |told| told.default_message.clone()) }
}
