//! Bringing a machine to life at the destination.
//!
//! | | its disks | what is left when it ends |
//! |---|---|---|
//! | failover, migrate | images of their own, written from the instance | the machine |
//! | test | overlays over the instance, which is read where it is, over NBD | nothing: cleanup removes all |
//!
//! Either way the machine is put into the inventory, and started when that is asked for. The instance is pinned as long as it is needed.
//!
//! What fails is as if it had not been: NOT_STARTED again, with the reason. A test goes on over a restart of this server: its machine waits
//! until the instance is served again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lockstep_blocks::{Instance, Name as InstanceName};
use lockstep_contract::services::replication::peer::{Run, RunInput};
use lockstep_contract::services::replication::vm::RecoverInput;
use lockstep_contract::services::replication::{RecoveryState, Side, codes};
use lockstep_contract::{Data, Error, ErrorKind, Opaque};
use lockstep_model::{Document, Name, ResourceId, Value};
use lockstep_site::WriteError;
use lockstep_site::tasks::{Handle, cancelled};

use crate::boot::{self, Boot};
use crate::machine::VIRTUAL_MACHINE;
use crate::record::{Record, StoredError};
use crate::serve_nbd;
use crate::service::{AUTHOR, Replications, blocking, peer_error};
use crate::states::Verb;
use crate::vault::run;

/// Seconds that a test's machine waits for its instance while this server restarts.
const RECONNECT_S: u64 = 600;

/// How long the source may be busy with something else before it does what is asked for.
const BUSY_LIMIT: Duration = Duration::from_secs(3600);

/// How often it is asked meanwhile.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Processors and memory of a machine that the inventory says nothing of.
const CPUS_DEFAULT: i64 = 1;
const MEMORY_MIB_DEFAULT: i64 = 512;

fn failed(message: String) -> Error {
    Error::new(ErrorKind::Error, "lockstep.replication.recovery", message, Vec::new())
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
        self.recover(id, &input, false, handle).await
    }

    /// Recovers for good, what was switched off and synced a last time.
    pub(crate) async fn migrate(&self, id: &str, input: RecoverInput, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        self.ask_source(&record, Verb::PowerOff, handle).await?;
        self.ask_source(&record, Verb::Sync, handle).await?;
        self.recover(id, &RecoverInput { instance_id: None, ..input }, false, handle).await
    }

    /// Recovers a copy.
    pub(crate) async fn failover_test(&self, id: &str, input: RecoverInput, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        if input.sync == Some(true) {
            self.ask_source(&record, Verb::Sync, handle).await?;
        }
        self.recover(id, &input, true, handle).await
    }

    async fn recover(&self, id: &str, input: &RecoverInput, is_test: bool, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        let instance = self.stored_instance(&record, input.instance_id.as_deref())?;
        let key = instance.name.instance().to_owned();
        handle.log(format!("recovers from instance {key}"));
        // Pinned first: retention may be about to remove it.
        self.pin(&instance.name, true).await?;
        if let Err(error) = self.recovery(id, RecoveryState::InProgress, None, handle).await {
            self.pin(&instance.name, false).await?;
            return Err(error);
        }
        let directory = self.directory(id, is_test);
        let made = match is_test {
            true => self.overlays(id, &instance, &directory).await,
            false => self.images(&instance, &directory, handle).await,
        };
        let vm = format!("{}-{id}", if is_test { "test" } else { "recovered" });
        let made = match made {
            Ok(disks) => self.bring_up(&record, &vm, &instance, disks, &directory, input, handle).await,
            Err(error) => Err(error),
        };
        // From here on it is not undone.
        let made = match made {
            Ok(()) if handle.is_cancelled() => Err(cancelled()),
            made => made,
        };
        match made {
            Ok(()) => {
                let state = if is_test { RecoveryState::Test } else { RecoveryState::Complete };
                self.recovery(id, state, Some((&vm, &key)), handle).await
            }
            Err(error) => {
                if let Err(left) = self.take_down(id, &vm, Some(&key), &directory).await {
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

    /// Where the files of a recovered machine are.
    fn directory(&self, id: &str, is_test: bool) -> PathBuf {
        self.config.recovered.join(id).join(if is_test { "test" } else { "machine" })
    }

    /// Has the source do something, and waits for it.
    async fn ask_source(&self, record: &Record, verb: Verb, handle: &Handle) -> Result<(), Error> {
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

    async fn pin(&self, name: &InstanceName, is_pinned: bool) -> Result<(), Error> {
        let (store, name) = (self.store()?.clone(), name.clone());
        blocking(move || match store.pin(&name, is_pinned) {
            Err(lockstep_blocks::Error::NoInstance(_)) if !is_pinned => Ok(()),
            pinned => pinned,
        })
        .await
    }

    /// Images with what the instance has.
    async fn images(
        &self,
        instance: &Arc<Instance>,
        directory: &Path,
        handle: &Handle,
    ) -> Result<Vec<(PathBuf, &'static str)>, Error> {
        let files = self.write_disks(instance, directory, false, handle).await?;
        Ok(files.into_iter().map(|(_, file)| (file, "raw")).collect())
    }

    /// Images with nothing in them but what the test's machine will write, over the instance.
    async fn overlays(
        &self,
        id: &str,
        instance: &Arc<Instance>,
        directory: &Path,
    ) -> Result<Vec<(PathBuf, &'static str)>, Error> {
        tokio::fs::create_dir_all(directory)
            .await
            .map_err(|error| failed(format!("cannot make {}: {error}", directory.display())))?;
        let socket = self.serve_test(id, instance, directory).await?;
        let mut disks = Vec::new();
        for disk in instance.disks() {
            let overlay = directory.join(format!("disk-{}.qcow2", disk.key));
            let backing = serde_json::json!({"driver": "raw", "file": {
                "driver": "nbd", "server": {"type": "unix", "path": socket}, "export": serve_nbd::export(disk.key),
                "reconnect-delay": RECONNECT_S}});
            let mut create = tokio::process::Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(format!("json:{backing}"));
            create.arg(&overlay).arg(disk.bytes.to_string()).kill_on_drop(true);
            run(create, "qemu-img create").await?;
            disks.push((overlay, "qcow2"));
        }
        Ok(disks)
    }

    async fn serve_test(&self, id: &str, instance: &Arc<Instance>, directory: &Path) -> Result<PathBuf, Error> {
        let socket = directory.join("nbd");
        let server = serve_nbd::serve(self.store()?, instance, &socket).await?;
        self.served.lock().insert(id.to_owned(), server);
        Ok(socket)
    }

    /// Serves the instances of tests again, after a restart.
    pub(crate) async fn serve_tests_again(&self) {
        let is_test = |record: &Record| record.side == Side::Destination && record.recovery() == RecoveryState::Test;
        for record in self.all().into_iter().filter(is_test) {
            let served = async {
                let instance = self.stored_instance(&record, record.replica.recovered_instance.as_deref())?;
                self.serve_test(&record.id, &instance, &self.directory(&record.id, true)).await
            };
            if let Err(error) = served.await {
                tracing::warn!(%error, replication = record.id, "the instance of a test is not served");
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what a machine is made of")]
    async fn bring_up(
        &self,
        record: &Record,
        vm: &str,
        instance: &Instance,
        disks: Vec<(PathBuf, &'static str)>,
        directory: &Path,
        input: &RecoverInput,
        handle: &Handle,
    ) -> Result<(), Error> {
        // The linked inventory knows it, when that is kept in step.
        let known = self.vm(&record.vm).unwrap_or_default();
        let long = |path: &str, default: i64| match known.get(path) {
            Some(Value::Long(number)) => *number,
            _ => default,
        };
        let boot = Boot {
            name: record.source.vm_name.clone(),
            uuid: lockstep_site::uuid::random()?,
            cpus: long("cpu_count", CPUS_DEFAULT),
            memory_mib: long("memory_size_MiB", MEMORY_MIB_DEFAULT),
            disks,
        };
        let is_on = input.power_on == Some(true);
        if is_on {
            boot::start(directory, &boot).await?;
            handle.log("the machine runs");
        }
        let disk = |(size, (file, format)): (lockstep_blocks::DiskSize, &(PathBuf, &'static str))| {
            let fields: Vec<(Name, Value)> = vec![
                ("label".into(), Value::from(&*format!("disk {}", size.key))),
                ("capacity".into(), Value::from(i64::try_from(size.bytes).unwrap_or(i64::MAX))),
                ("path".into(), Value::from(&*file.display().to_string())),
                ("format".into(), Value::from(*format)),
            ];
            Value::Struct(fields.into())
        };
        let mut document = Document::default();
        document.set("name", Some(Value::from(&*boot.name)));
        document.set("power_state", Some(Value::from(if is_on { "POWERED_ON" } else { "POWERED_OFF" })));
        document.set("cpu_count", Some(Value::from(boot.cpus)));
        document.set("memory_size_MiB", Some(Value::from(boot.memory_mib)));
        document.set("instance_uuid", Some(Value::from(&*boot.uuid)));
        document.set("disks", Some(Value::List(instance.disks().zip(&boot.disks).map(disk).collect())));
        if is_on {
            let monitor = boot::monitor(directory).display().to_string();
            document.set("qemu/qmp_socket", Some(Value::from(&*monitor)));
        }
        let id = ResourceId::new(VIRTUAL_MACHINE, vm);
        self.site.write_document(AUTHOR.into(), id, document, None).await.map_err(WriteError::into_error)?;
        Ok(())
    }

    /// Removes a machine that was brought up, with its files.
    async fn take_down(&self, id: &str, vm: &str, instance: Option<&str>, directory: &Path) -> Result<(), Error> {
        boot::kill(directory).await?;
        self.served.lock().remove(id);
        match self.site.delete_resource(AUTHOR.into(), ResourceId::new(VIRTUAL_MACHINE, vm), None, false).await {
            Ok(_) | Err(WriteError::NotFound(_)) => {}
            Err(error) => return Err(error.into_error()),
        }
        match tokio::fs::remove_dir_all(directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(format!("cannot remove {}: {error}", directory.display())));
            }
            _ => {}
        }
        match instance.and_then(|instance| InstanceName::new(id, instance)) {
            Some(name) => self.pin(&name, false).await,
            None => Ok(()),
        }
    }

    /// Removes what a test has brought to life.
    pub(crate) async fn failover_test_cleanup(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        let vm = record.replica.recovered_vm.clone().unwrap_or_else(|| format!("test-{id}"));
        let instance = record.replica.recovered_instance.as_deref();
        self.take_down(id, &vm, instance, &self.directory(id, true)).await?;
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
        if tokio::net::UnixStream::connect(monitor).await.is_err() {
            handle.log("nobody answers at the machine's monitor: it is off");
            return Ok(());
        }
        let by_itself = boot::power_off(monitor, self.config.power_off_after).await?;
        handle.log(if by_itself { "the guest has switched itself off" } else { "the machine was switched off" });
        Ok(())
    }

    pub(crate) async fn reverse(&self, _: &str, _: &Handle) -> Result<(), Error> {
        let message =
            "this version cannot turn a replication around: delete it, and replicate the recovered machine back";
        Err(Error::new(ErrorKind::Unsupported, "lockstep.replication.unsupported", message, Vec::new()))
    }
}
