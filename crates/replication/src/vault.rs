//! The destination's side of instances: listed, thinned, read anew, written as files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lockstep_blocks::{Instance as Stored, Name, Rule, export_raw};
use lockstep_contract::services::replication::peer::{Input, Instances};
use lockstep_contract::services::replication::vm::ExportInput;
use lockstep_contract::services::replication::{DiskInfo, Instance, Side, codes};
use lockstep_contract::{Error, ErrorKind};
use lockstep_site::tasks::{Handle, cancelled};
use tokio::time::Instant;

use crate::record::Record;
use crate::service::{Replications, blocking, peer_error};
use crate::settings::invalid;
use crate::verbs::Order;

/// Most damages that a task tells one by one.
const DAMAGES_TOLD_MAX: usize = 20;

/// How often the store is put in order.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// How long a draft is kept that nobody fills: its source may have been away, and does not come back.
const DRAFT_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long something that nothing needs any more is left: others may become so together with it.
const GARBAGE_DELAY: Duration = Duration::from_secs(5);

/// How much longer than a collection took the next one waits: each reads the maps of all instances, and each sync may leave garbage.
const COLLECTIONS_APART: u32 = 20;

/// Drops drafts that nobody fills any more from time to time, and frees what they and others left; ends when the site stops.
pub(crate) async fn keep_tidy(here: Arc<Replications>) {
    let stopping = here.site.stopping();
    let work = async {
        let mut next_tidy = Instant::now() + TIDY_EVERY;
        loop {
            if tokio::time::timeout_at(next_tidy, here.garbage.notified()).await.is_err() {
                next_tidy = Instant::now() + TIDY_EVERY;
                here.tidy(DRAFT_AGE_MAX).await;
                continue;
            }
            tokio::time::sleep(GARBAGE_DELAY).await;
            let began = Instant::now();
            here.collect_garbage().await;
            tokio::time::sleep(began.elapsed() * COLLECTIONS_APART).await;
        }
    };
    tokio::select! {
        () = stopping => {}
        () = work => {}
    }
}

/// The refusal of an instance that is not there.
pub(crate) fn no_instance(key: &str) -> Error {
    let message = format!("there is no instance {key:?}");
    Error::not_found(codes::INSTANCE_NOT_FOUND, message, vec![key.to_owned()])
}

impl Replications {
    /// The instances of a replication, the oldest first, wherever they are.
    ///
    /// # Errors
    /// What hinders the other site.
    pub(crate) async fn instances(&self, record: &Record) -> Result<Vec<Instance>, Error> {
        if record.side == Side::Destination {
            return self.stored_instances(record).await;
        }
        let peer = self.other(record)?;
        let call = peer.client()?;
        let input = Input { replication: record.id.clone() };
        call.call(Instances, input).await.map_err(|error| peer_error(error, &peer.site))
    }

    /// The instances that this site keeps of a replication, the oldest first.
    pub(crate) async fn stored_instances(&self, record: &Record) -> Result<Vec<Instance>, Error> {
        let stored = self.store()?.instances(&record.id);
        let last = record.source.last_sync.as_ref();
        let show = |stored: &Arc<Stored>| {
            let last = last.filter(|last| last.instance == stored.name.instance());
            let quiesced = last.map(|last| last.quiesced.clone()).filter(|quiesced| !quiesced.is_empty());
            let disk = |disk: lockstep_blocks::DiskSize| DiskInfo {
                disk_key: i64::from(disk.key),
                bytes: i64::try_from(disk.bytes).unwrap_or(i64::MAX),
            };
            Instance {
                key: stored.name.instance().to_owned(),
                is_pinned: stored.state.is_pinned,
                quiesced_type: quiesced.unwrap_or_else(|| "none".to_owned()),
                sequence_number: i64::try_from(stored.state.sequence).unwrap_or(i64::MAX),
                timestamp: stored.state.time_ms,
                transfer_bytes: i64::try_from(stored.state.stored_bytes).unwrap_or(i64::MAX),
                transfer_seconds: last.map_or(0, |last| last.took_ms / 1000),
                disks_info: Some(stored.disks().map(disk).collect()),
            }
        };
        Ok(stored.iter().map(show).collect())
    }

    /// An instance by its key; the latest without one.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn stored_instance(&self, record: &Record, key: Option<&str>) -> Result<Arc<Stored>, Error> {
        let store = self.store()?;
        match key {
            Some(key) => {
                let name = Name::new(&record.id, key).ok_or_else(|| no_instance(key))?;
                store.instance(&name).ok_or_else(|| no_instance(key))
            }
            None => store.instances(&record.id).pop().ok_or_else(|| no_instance("latest")),
        }
    }

    /// The source has told something of a replication whose instances are here.
    pub(crate) fn after_told(self: &Arc<Self>, before: &Record, now: &Record) {
        let has_new = before.source.last_sync != now.source.last_sync
            || before.source.settings.retention != now.source.settings.retention;
        if now.side == Side::Destination && has_new {
            let (here, id) = (self.clone(), now.id.clone());
            tokio::spawn(async move {
                if let Err(error) = here.thin(&id).await {
                    tracing::warn!(%error, replication = id, "instances were not thinned");
                }
            });
        }
    }

    /// Removes the instances that the rules do not keep, and counts what is left.
    async fn thin(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let record = self.find(id)?;
        let rule = |rule: &crate::record::StoredRule| Rule {
            instances: u32::try_from(rule.instances).unwrap_or(0),
            distance_minutes: u32::try_from(rule.distance_minutes).unwrap_or(u32::MAX),
        };
        let rules: Vec<Rule> = record.source.settings.retention.iter().map(rule).collect();
        let (store, replication) = (self.store()?.clone(), id.to_owned());
        let (removed, bytes) = blocking(move || {
            let removed = store.apply_retention(&replication, &rules)?;
            let bytes: u64 = store.instances(&replication).iter().map(|instance| instance.state.stored_bytes).sum();
            Ok((removed, bytes))
        })
        .await?;
        if !removed.is_empty() {
            tracing::info!(replication = id, instances = removed.len(), "old instances were removed");
            self.garbage.notify_one();
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.change(id, |record| {
            record.replica.bytes = bytes;
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Drops drafts of that age, and frees what these and those that were dropped before have left.
    async fn tidy(&self, age: Duration) {
        let (Ok(store), Some(receive)) = (self.store(), &self.receive) else { return };
        let store = store.clone();
        let (has_old, has_dropped) = match blocking(move || store.drop_old_drafts(age)).await {
            Ok(dropped) => {
                dropped.iter().for_each(|draft| tracing::info!(%draft, "a draft was dropped that nobody filled"));
                (!dropped.is_empty(), receive.take_dropped())
            }
            Err(error) => {
                tracing::warn!(%error, "old drafts were not dropped");
                (false, receive.take_dropped())
            }
        };
        if has_old || has_dropped {
            self.garbage.notify_one();
        }
    }

    /// Frees what nothing needs any more.
    async fn collect_garbage(&self) {
        let Ok(store) = self.store() else { return };
        let store = store.clone();
        match blocking(move || store.collect_garbage()).await {
            Ok(collected) => tracing::debug!(?collected, "garbage was collected"),
            Err(error) => tracing::warn!(%error, "garbage was not collected"),
        }
    }

    /// Reads everything that is stored, and tells what concerns this replication.
    pub(crate) async fn verify(&self, id: &str, handle: &Handle) -> Result<(), Error> {
        let store = self.store()?.clone();
        let told = handle.clone();
        let verified = blocking(move || {
            store.verify(&mut |done, total| {
                let percent = (done * 99).checked_div(total).unwrap_or(0);
                told.progress(i64::try_from(percent).unwrap_or(0));
            })
        })
        .await?;
        handle.log(format!("{} blocks and leaves of {} instances were read", verified.records, verified.instances));
        let concerns = |name: &Name| name.replication() == id;
        let damages: Vec<String> = verified
            .damages
            .iter()
            .filter(|damage| damage.concerns.iter().any(|(name, ..)| concerns(name)))
            .map(ToString::to_string)
            .chain(
                verified
                    .damaged_instances
                    .iter()
                    .filter(|name| concerns(name))
                    .map(|name| format!("instance {name} is damaged")),
            )
            .collect();
        let others = verified.damages.len() + verified.damaged_instances.len() - damages.len();
        if others > 0 {
            handle.warn(format!("{others} damages concern other replications, or none"));
        }
        for damage in damages.iter().take(DAMAGES_TOLD_MAX) {
            handle.log(damage.clone());
        }
        match damages.first() {
            None => Ok(()),
            Some(first) => {
                let message = format!("{} damages, the first: {first}", damages.len());
                Err(Error::new(ErrorKind::Error, "lockstep.replication.damaged", message, damages))
            }
        }
    }

    /// Writes the disks of an instance as files.
    pub(crate) async fn export(&self, id: &str, order: &Order, handle: &Handle) -> Result<(), Error> {
        let record = self.find(id)?;
        let input: ExportInput = order.input()?;
        let format = input.format.as_deref().unwrap_or("raw");
        if !matches!(format, "raw" | "qcow2") {
            return Err(invalid("format", "raw or qcow2"));
        }
        let directory = self.export_directory(&input.directory)?;
        let instance = self.stored_instance(&record, input.instance_id.as_deref())?;
        let files = self.write_disks(&instance, &directory, format == "qcow2", handle).await?;
        for (_, file) in files {
            handle.log(format!("wrote {}", file.display()));
        }
        Ok(())
    }

    /// A directory below the one that the server was told to export to.
    fn export_directory(&self, name: &str) -> Result<PathBuf, Error> {
        let fits = |part: &str| {
            !part.is_empty()
                && part.len() <= 100
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
        };
        if name.len() > 400 || !name.split('/').all(fits) {
            return Err(invalid("directory", "names of letters, digits, dots, dashes and underscores, with / between"));
        }
        Ok(self.config.exports.join(name))
    }

    /// Writes the disks of an instance into a directory, as `disk-<key>.raw` or `.qcow2`. Answers the keys and the files.
    pub(crate) async fn write_disks(
        &self,
        instance: &Arc<Stored>,
        directory: &Path,
        as_qcow2: bool,
        handle: &Handle,
    ) -> Result<Vec<(u32, PathBuf)>, Error> {
        let (store, instance, directory) = (self.store()?.clone(), instance.clone(), directory.to_owned());
        let told = handle.clone();
        let written = blocking(move || {
            std::fs::create_dir_all(&directory).map_err(|source| lockstep_blocks::Error::Io {
                what: format!("making {}", directory.display()),
                source,
            })?;
            let total: u64 = instance.disks().map(|disk| disk.bytes).sum();
            let (mut before, mut files) = (0, Vec::new());
            for disk in instance.disks() {
                let file = directory.join(format!("disk-{}.raw", disk.key));
                let reader = store.open_disk(&instance.name, disk.key)?;
                export_raw(&reader, &file, &mut |progress| {
                    let percent = ((before + progress.done_bytes) * 90).checked_div(total).unwrap_or(0);
                    told.progress(i64::try_from(percent).unwrap_or(0));
                })?;
                before += disk.bytes;
                files.push((disk.key, file));
            }
            Ok(files)
        });
        let files = tokio::select! {
            written = written => written?,
            // The thread goes on to its end: the files are whole then, or not there.
            () = handle.cancelled() => return Err(cancelled()),
        };
        if !as_qcow2 {
            return Ok(files);
        }
        let mut converted = Vec::new();
        for (key, raw) in files {
            let qcow2 = raw.with_extension("qcow2");
            let mut convert = tokio::process::Command::new("qemu-img");
            convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&qcow2).kill_on_drop(true);
            run(convert, "qemu-img convert").await?;
            if let Err(error) = tokio::fs::remove_file(&raw).await {
                handle.warn(format!("{} was not removed: {error}", raw.display()));
            }
            converted.push((key, qcow2));
        }
        Ok(converted)
    }
}

/// Runs one of QEMU's programs to its end.
///
/// # Errors
/// What it says when it fails.
pub(crate) async fn run(mut command: tokio::process::Command, what: &str) -> Result<(), Error> {
    let failed = |reason: String| {
        let message = format!("{what} failed: {reason}");
        Error::new(ErrorKind::Error, "lockstep.replication.program", message, vec![what.to_owned()])
    };
    let output =
        command.stdin(std::process::Stdio::null()).output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}, {}", output.status, text.trim())))
}
