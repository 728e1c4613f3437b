//! Bringing a machine to life at the destination.
//!
//! | | its disks | what is left when it ends |
//! |---|---|---|
//! | failover, migrate | images over the instance, which is copied into them while the machine works | the machine |
//! | test | images over the instance, which is read where it is | nothing: cleanup removes all |
//!
//! Either way the machine is up as soon as it was asked for, is put into the inventory, and outlives this server ([`crate::recovered`]). The
//! instance is pinned as long as it is needed. A failover's task goes on until the disks need the instance no more; what hinders that is a
//! warning, and [`keep_independent`] tries again.
//!
//! What fails before the machine is up is as if it had not been: NOT_STARTED again, with the reason. What a crash leaves of such a one is
//! removed at the next start ([`Replications::clear`]).

use std::sync::Arc;
use std::time::Duration;

use lockstep_blocks::Instance;
use lockstep_blocks::format::read_hex;
use lockstep_contract::services::replication::peer::{Run, RunInput};
use lockstep_contract::services::replication::vm::RecoverInput;
use lockstep_contract::services::replication::{RecoveryState, codes};
use lockstep_contract::{Data, Error, ErrorKind, Opaque};
use lockstep_model::{Document, Name, ResourceId, Value};
use lockstep_site::WriteError;
use lockstep_site::tasks::{Handle, cancelled};

use crate::machine::VIRTUAL_MACHINE;
use crate::record::{Record, StoredError};
use crate::recovered::{self, Hardware, PoweredOff, Purpose, RecoveredMachine, Recoveries, Wanted};
use crate::service::{AUTHOR, Replications, peer_error};
use crate::states::Verb;

/// How long the source may be busy with something else before it does what is asked for.
const BUSY_LIMIT: Duration = Duration::from_secs(3600);

/// How often it is asked meanwhile.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Processors and memory of a machine that the inventory says nothing of.
const CPUS_DEFAULT: u32 = 1;
const MEMORY_MIB_DEFAULT: u64 = 512;

/// Wait before disks that could not be made independent of their instance are tried again.
const COPY_RETRY: Duration = Duration::from_secs(60);

/// What a machine is called that was recovered of a replication.
pub(crate) fn vm_of(id: &str, purpose: Purpose) -> String {
    match purpose {
        Purpose::Test => format!("test-{id}"),
        Purpose::Failover => format!("recovered-{id}"),
    }
}

impl Replications {
    /// Writes down that a recovery failed.
    pub(crate) async fn recovery_failed(&self, id: &str, error: &Error) -> Result<Record, Error> {
        let stored = StoredError::from(&codes::api_error(error));
        self.change(id, |record| {
            RecoveryState::NotStarted.name().clone_into(&mut record.replica.recovery_state);
            record.replica.recovered_vm = None;
            record.replica.recovered_instance = None;
            record.replica.last_error = Some(stored.clone());
            Ok(())
        })
        .await
    }

    async fn recovery(
        &self,
        id: &str,
        state: RecoveryState,
        of: Option<(&str, &str)>,
        handle: &Handle,
    ) -> Result<(), Error> {
        let record = self
            .change(id, |record| {
                state.name().clone_into(&mut record.replica.recovery_state);
                record.replica.recovered_vm = of.map(|(vm, _)| vm.to_owned());
                record.replica.recovered_instance = of.map(|(_, instance)| instance.to_owned());
                record.replica.last_error = None;
                Ok(())
            })
            .await?;
        self.tell_or_warn(&record, handle).await;
        Ok(())
    }

    /// Recovers for good.
    pub(crate) async fn failover(&self, id: &str, input: RecoverInput, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        if input.instance_id.is_none() && !record.source.is_paused && input.sync != Some(false) {
            // The source may be what has failed: then the newest instance has to do.
            if let Err(error) = self.ask_source(&record, Verb::Sync, handle).await {
                if handle.is_cancelled() {
                    return Err(error);
                }
                handle.warn(format!("there was no last sync: {error}"));
            }
        }
        self.recover(id, &input, Purpose::Failover, handle).await
    }

    /// Recovers for good, what was switched off and synced a last time.
    pub(crate) async fn migrate(&self, id: &str, input: RecoverInput, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        self.ask_source(&record, Verb::PowerOff, handle).await?;
        self.ask_source(&record, Verb::Sync, handle).await?;
        self.recover(id, &RecoverInput { instance_id: None, ..input }, Purpose::Failover, handle).await
    }

    /// Recovers a copy.
    pub(crate) async fn failover_test(&self, id: &str, input: RecoverInput, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        if input.sync == Some(true) {
            self.ask_source(&record, Verb::Sync, handle).await?;
        }
        self.recover(id, &input, Purpose::Test, handle).await
    }

    async fn recover(&self, id: &str, input: &RecoverInput, purpose: Purpose, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        let instance = self.stored_instance(&record, input.instance_id.as_deref())?;
        let key = instance.name.instance().to_owned();
        handle.log(format!("recovers from instance {key}"));
        // What a recovery before this one has left: there is none now.
        self.clear(id).await?;
        self.recovery(id, RecoveryState::InProgress, None, handle).await?;
        let vm = vm_of(id, purpose);
        let made = match self.bring_up(&record, &vm, &instance, purpose, input, handle).await {
            // From here on it is not undone.
            Ok(()) if handle.is_cancelled() => Err(cancelled()),
            made => made,
        };
        match made {
            Ok(()) => {
                let state = match purpose {
                    Purpose::Test => RecoveryState::Test,
                    Purpose::Failover => RecoveryState::Complete,
                };
                self.recovery(id, state, Some((&vm, &key)), handle).await?;
                if purpose == Purpose::Failover
                    && let Err(error) = self.recoveries()?.make_independent(id, Arc::new(handle.clone())).await
                {
                    handle.warn(format!(
                        "the machine still reads its instance, which is tried again: {}",
                        Error::from(error)
                    ));
                }
                Ok(())
            }
            Err(error) => {
                if let Err(left) = self.clear(id).await {
                    handle.warn(format!("not all was removed: {left}"));
                }
                match error.kind {
                    // What somebody has called off has not failed.
                    ErrorKind::Canceled => self.recovery(id, RecoveryState::NotStarted, None, handle).await?,
                    _ => drop(self.recovery_failed(id, &error).await?),
                }
                Err(error)
            }
        }
    }

    /// Has the source do something, and waits for it.
    pub(crate) async fn ask_source(&self, record: &Record, verb: Verb, handle: &Handle) -> Result<(), Error> {
        let peer = self.other(record)?;
        let mut client = peer.client()?;
        if let Some(operation_id) = handle.operation_id() {
            client = client.with_operation_id(operation_id);
        }
        // Names this task, so that a sync that was under way already is known: it shows an instant that was before.
        let user = format!("recovery/{}", handle.id());
        let deadline = tokio::time::Instant::now() + BUSY_LIMIT;
        loop {
            let input = RunInput {
                replication: record.id.clone(),
                verb: verb.name().to_owned(),
                input: Opaque(Data::object([])),
                user: user.clone(),
            };
            let begun = match client.call(Run, input).await {
                Ok(begun) => begun,
                // Something else is done with it there, which will end.
                Err(error)
                    if error.kind() == Some(ErrorKind::ResourceBusy) && tokio::time::Instant::now() < deadline =>
                {
                    tokio::select! {
                        () = tokio::time::sleep(BUSY_PAUSE) => continue,
                        () = handle.cancelled() => return Err(cancelled()),
                    }
                }
                Err(error) => return Err(peer_error(error, &peer.site)),
            };
            handle.log(format!("{} at {}, by task {}", verb.name(), peer.site, begun.id));
            self.follow_there(record, &begun.id, &client, &peer.site, handle).await?;
            if begun.user.starts_with(&user) {
                return Ok(());
            }
        }
    }

    /// Makes the machine, starts it when that is wanted, and puts it into the inventory.
    async fn bring_up(
        &self,
        record: &Record,
        vm: &str,
        instance: &Instance,
        purpose: Purpose,
        input: &RecoverInput,
        handle: &Handle,
    ) -> Result<(), Error> {
        let recoveries = self.recoveries()?;
        // The linked inventory knows it, when that is kept in step.
        let known = self.vm(&record.vm).unwrap_or_default();
        let long = |path: &str| match known.get(path) {
            Some(Value::Long(number)) => Some(*number),
            _ => None,
        };
        let hardware = Hardware {
            name: record.source.vm_name.clone(),
            uuid: lockstep_site::uuid::random()?,
            cpus: long("cpu_count").and_then(|count| u32::try_from(count).ok()).unwrap_or(CPUS_DEFAULT),
            memory_mib: long("memory_size_MiB").and_then(|mib| u64::try_from(mib).ok()).unwrap_or(MEMORY_MIB_DEFAULT),
            bridge: None,
        };
        // The source has told what its last instance holds.
        let last = record.source.last_sync.as_ref().filter(|last| last.instance == instance.name.instance());
        let wanted = Wanted {
            instance: instance.name.clone(),
            root: last.and_then(|last| last.root.as_deref()).and_then(read_hex),
            purpose,
            hardware: hardware.clone(),
            power_on: input.power_on == Some(true),
        };
        recoveries.begin(wanted, Arc::new(handle.clone())).await?;
        let machine = recoveries.machine(&record.id)?;
        let document = document(&hardware, &machine);
        let resource = ResourceId::new(VIRTUAL_MACHINE, vm);
        self.site.write_document(AUTHOR.into(), resource, document, None).await.map_err(WriteError::into_error)?;
        Ok(())
    }

    /// Removes whatever is recovered of a replication: the machine, its disks, and its place in the inventory.
    ///
    /// # Errors
    /// What hinders that; another call goes on.
    pub(crate) async fn clear(&self, id: &str) -> Result<(), Error> {
        if let Some(recoveries) = &self.recoveries {
            recoveries.discard(id).await?;
        }
        for purpose in [Purpose::Test, Purpose::Failover] {
            let resource = ResourceId::new(VIRTUAL_MACHINE, vm_of(id, purpose));
            match self.site.delete_resource(AUTHOR.into(), resource, None, false).await {
                Ok(_) | Err(WriteError::NotFound(_)) => {}
                Err(error) => return Err(error.into_error()),
            }
        }
        Ok(())
    }

    /// Removes what a test has brought to life.
    pub(crate) async fn failover_test_cleanup(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        self.clear(id).await?;
        self.recovery(id, RecoveryState::NotStarted, None, handle).await
    }

    /// Switches the source's machine off.
    pub(crate) async fn power_off(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        let machine = self.machine(&record)?;
        let Some(monitor) = &machine.monitor else {
            handle.log("the machine has no monitor: it is taken to be off");
            return Ok(());
        };
        handle.log(match recovered::power_off(monitor, self.config.power_off_after).await? {
            PoweredOff::WasOff => "nobody answers at the machine's monitor: it is off",
            PoweredOff::ByGuest => "the guest has switched itself off",
            PoweredOff::ByForce => "the machine was switched off",
        });
        Ok(())
    }

    /// What was recovered here.
    ///
    /// # Errors
    /// `unsupported` when this site has no store for instances.
    pub(crate) fn recoveries(&self) -> Result<&Recoveries, Error> {
        self.store()?;
        self.recoveries.as_ref().ok_or_else(Error::internal)
    }
}

/// A recovered machine for the inventory.
fn document(hardware: &Hardware, machine: &RecoveredMachine) -> Document {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let disk = |disk: &recovered::MachineDisk| {
        let fields: Vec<(Name, Value)> = vec![
            ("label".into(), Value::from(&*format!("disk {}", disk.key))),
            ("capacity".into(), Value::from(signed(disk.bytes))),
            ("path".into(), Value::from(&*disk.path.display().to_string())),
            ("format".into(), Value::from("qcow2")),
        ];
        Value::Struct(fields.into())
    };
    let mut document = Document::default();
    document.set("name", Some(Value::from(&*hardware.name)));
    document.set("power_state", Some(Value::from(machine.power_state())));
    document.set("cpu_count", Some(Value::from(i64::from(hardware.cpus))));
    document.set("memory_size_MiB", Some(Value::from(signed(hardware.memory_mib))));
    document.set("instance_uuid", Some(Value::from(&*hardware.uuid)));
    document.set("disks", Some(Value::List(machine.disks.iter().map(disk).collect())));
    if let Some(monitor) = &machine.monitor {
        document.set("qemu/qmp_socket", Some(Value::from(&*monitor.display().to_string())));
    }
    document
}

/// Copies what the disks of failovers lack, where no task does: after a restart, or a failure. Ends when the site stops.
pub(crate) async fn keep_independent(here: Arc<Replications>) {
    let Some(recoveries) = &here.recoveries else { return };
    let stopping = here.site.stopping();
    let work = async {
        loop {
            for id in recoveries.unfinished() {
                // One that is not complete may still be undone.
                if here.get(&id).is_some_and(|(record, _)| record.recovery() != RecoveryState::Complete) {
                    continue;
                }
                match recoveries.make_independent(&id, Arc::new(())).await {
                    Ok(_) | Err(recovered::Error::Busy(_)) => {}
                    Err(error) => {
                        tracing::warn!(error = %Error::from(error), replication = id, "a recovered machine still reads its instance");
                    }
                }
            }
            tokio::time::sleep(COPY_RETRY).await;
        }
    };
    tokio::select! {
        () = stopping => {}
        () = work => {}
    }
}
