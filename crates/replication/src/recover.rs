//! Bringing a machine to life at the destination.
//!
//! A failover writes the instance's disks as images, puts a machine that has them into the inventory, and starts it when that is asked for. A
//! failover that fails is as if it had not been: NOT_STARTED again, with the reason.

use std::path::PathBuf;
use std::sync::Arc;

use lockstep_blocks::Instance;
use lockstep_contract::services::replication::peer::{Run, RunInput};
use lockstep_contract::services::replication::vm::RecoverInput;
use lockstep_contract::services::replication::{RecoveryState, codes};
use lockstep_contract::{Data, Error, ErrorKind, Opaque};
use lockstep_model::{Document, Name, ResourceId, Value};
use lockstep_site::WriteError;
use lockstep_site::tasks::Handle;

use crate::machine::VIRTUAL_MACHINE;
use crate::record::{Record, StoredError};
use crate::service::{AUTHOR, Replications, blocking, peer_error};
use crate::states::Verb;

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

    async fn recovery(&self, id: &str, state: RecoveryState) -> Result<Record, Error> {
        self.change(id, |record| {
            state.name().clone_into(&mut record.replica.recovery_state);
            record.replica.last_error = None;
            Ok(())
        })
        .await
    }

    pub(crate) async fn failover(&self, id: &str, input: RecoverInput, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        if input.instance_id.is_none() && !record.source.is_paused && input.sync != Some(false) {
            // The source may be what has failed: then the newest instance has to do.
            if let Err(error) = self.sync_there(&record, handle).await {
                handle.warn(format!("there was no last sync: {error}"));
            }
        }
        self.recovery(id, RecoveryState::InProgress).await?;
        match Box::pin(self.recover(id, &input, handle)).await {
            Ok((vm, instance)) => {
                let record = self
                    .change(id, |record| {
                        RecoveryState::Complete.name().clone_into(&mut record.replica.recovery_state);
                        record.replica.recovered_vm = Some(vm.clone());
                        record.replica.recovered_instance = Some(instance.clone());
                        record.replica.last_error = None;
                        Ok(())
                    })
                    .await?;
                self.tell_or_warn(&record, handle).await;
                Ok(())
            }
            Err(error) => {
                self.recovery_failed(id, &error).await?;
                Err(error)
            }
        }
    }

    /// A last sync, asked of the source.
    async fn sync_there(&self, record: &Record, handle: &Handle) -> Result<(), Error> {
        let peer = self.other(record)?;
        let mut client = peer.client()?;
        if let Some(operation_id) = handle.operation_id() {
            client = client.with_operation_id(operation_id);
        }
        let input = RunInput {
            replication: record.id.clone(),
            verb: Verb::Sync.name().to_owned(),
            input: Opaque(Data::object([])),
            user: "failover".to_owned(),
        };
        let begun = client.call(Run, input).await.map_err(|error| peer_error(error, &peer.site))?;
        handle.log(format!("syncs a last time, by task {} of {}", begun.id, peer.site));
        self.follow_there(record, &begun.id, &client, &peer.site, handle).await?;
        Ok(())
    }

    /// Writes the disks and makes the machine. Answers the machine and the instance.
    async fn recover(&self, id: &str, input: &RecoverInput, handle: &Handle) -> Result<(String, String), Error> {
        let record = self.find(id)?;
        let instance = self.stored_instance(&record, input.instance_id.as_deref())?;
        let key = instance.name.instance().to_owned();
        handle.log(format!("recovers from instance {key}"));
        self.pin(&instance, true).await?;
        let directory = self.config.recovered.join(id);
        let written = self.write_disks(&instance, &directory, false, handle).await;
        let files = match written {
            Ok(files) => files,
            Err(error) => {
                self.pin(&instance, false).await?;
                return Err(error);
            }
        };
        let vm = format!("recovered-{id}");
        self.put_machine(&record, &vm, &files, &instance).await?;
        if input.power_on == Some(true) {
            handle.warn("the machine is in the inventory, and is to be started by hand");
        }
        Ok((vm, key))
    }

    async fn pin(&self, instance: &Arc<Instance>, is_pinned: bool) -> Result<(), Error> {
        let (store, name) = (self.store()?.clone(), instance.name.clone());
        blocking(move || store.pin(&name, is_pinned)).await
    }

    async fn put_machine(
        &self,
        record: &Record,
        vm: &str,
        files: &[(u32, PathBuf)],
        instance: &Instance,
    ) -> Result<(), Error> {
        let bytes = |key: u32| instance.disks().find(|disk| disk.key == key).map_or(0, |disk| disk.bytes);
        let disk = |(key, file): &(u32, PathBuf)| {
            let fields: Vec<(Name, Value)> = vec![
                ("label".into(), Value::from(&*format!("disk {key}"))),
                ("capacity".into(), Value::from(i64::try_from(bytes(*key)).unwrap_or(i64::MAX))),
                ("path".into(), Value::from(&*file.display().to_string())),
                ("format".into(), Value::from("raw")),
            ];
            Value::Struct(fields.into())
        };
        let mut document = Document::default();
        document.set("name", Some(Value::from(&*record.source.vm_name)));
        document.set("power_state", Some(Value::from("POWERED_OFF")));
        document.set("disks", Some(Value::List(files.iter().map(disk).collect())));
        let id = ResourceId::new(VIRTUAL_MACHINE, vm);
        self.site.write_document(AUTHOR.into(), id, document, None).await.map_err(WriteError::into_error)?;
        Ok(())
    }

    pub(crate) async fn failover_test(&self, _: &str, _: RecoverInput, _: &Handle) -> Result<(), Error> {
        Err(unsupported(Verb::FailoverTest))
    }

    pub(crate) async fn failover_test_cleanup(&self, _: &str, _: &Handle) -> Result<(), Error> {
        Err(unsupported(Verb::FailoverTestCleanup))
    }

    pub(crate) async fn migrate(&self, _: &str, _: RecoverInput, _: &Handle) -> Result<(), Error> {
        Err(unsupported(Verb::Migrate))
    }

    pub(crate) async fn reverse(&self, _: &str, _: &Handle) -> Result<(), Error> {
        Err(unsupported(Verb::Reverse))
    }
}

fn unsupported(verb: Verb) -> Error {
    let message = format!("this version cannot do {} yet", verb.name());
    Error::new(ErrorKind::Unsupported, "lockstep.replication.unsupported", message, vec![verb.name().to_owned()])
}
