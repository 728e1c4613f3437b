//! What is found at a start: finished, or cleaned up.
//!
//! | found | done |
//! |---|---|
//! | Preparing, Removing | its QEMU is ended, and it is removed |
//! | Ready, Off | its disks are served again when they need the instance |
//! | Ready, Starting | its QEMU is looked for; there being none, it is started |
//! | Ready, On | as it is: the disks find the server again by themselves |
//! | a damaged state | left alone, and told |

use std::path::Path;
use std::sync::Arc;

use lockstep_qemu::process::Process;
use parking_lot::Mutex;

use super::error::{Error, chain, io_error};
use super::exports::Offers;
use super::guest;
use super::image::Images;
use super::recoveries::{Config, Recoveries};
use super::state::{Place, Power, Recovery, Step, make_private};
use super::work::{Shared, blocking};

impl Recoveries {
    /// Opens the recoveries of a site, and takes up what a process before this one left.
    ///
    /// # Errors
    /// What hinders the server of instances: [`Error::Io`], [`Error::Limit`], [`Error::Damaged`]. A recovery that cannot be taken up is
    /// logged, and hinders nothing.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let directory = config.directory.clone();
        let found = blocking(move || {
            make_private(&directory)?;
            find(&directory)
        })
        .await?;
        let offers = Offers::open(config.store.clone(), &config.directory).await?;
        let images = Images { program: config.qemu_img.clone(), socket: offers.socket().to_owned() };
        let shared = Arc::new(Shared { config, offers, images, slots: Mutex::default() });
        // All are served again before any is waited for.
        for recovery in &found {
            shared.slots.lock().entry(recovery.replication.clone()).or_default().recovery = Some(recovery.clone());
            if let Some(name) = recovery.name().filter(|_| recovery.step == Step::Ready && !recovery.is_independent())
                && let Err(error) = shared.hold(name, recovery.root_hash()).await
            {
                tracing::error!(
                    error = chain(&error),
                    replication = recovery.replication,
                    "a recovery lost its instance"
                );
            }
        }
        for recovery in found {
            let replication = recovery.replication.clone();
            if let Err(error) = take_up(&shared, recovery).await {
                tracing::warn!(error = chain(&error), replication, "a recovery was not taken up");
            }
        }
        let releasing = shared.clone();
        blocking(move || releasing.offers.release_left()).await?;
        Ok(Self { shared })
    }
}

/// The recoveries of a directory.
fn find(directory: &Path) -> Result<Vec<Recovery>, Error> {
    let what = || format!("reading {}", directory.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error(what()))? {
        let entry = entry.map_err(io_error(what()))?;
        if !entry.file_type().map_err(io_error(what()))?.is_dir() {
            continue;
        }
        let Ok(replication) = entry.file_name().into_string() else { continue };
        let place = Place::new(directory, &replication);
        match place.read() {
            Ok(Some(recovery)) => found.push(recovery),
            // Killed before its first state was there, or after its last was gone: it holds no disk.
            Ok(None) if place.is_void()? => place.remove()?,
            Ok(None) => tracing::warn!(replication, "a directory of recoveries is none, and is left alone"),
            Err(error) => tracing::error!(error = chain(&error), replication, "a recovery cannot be read"),
        }
    }
    Ok(found)
}

async fn take_up(shared: &Arc<Shared>, recovery: Recovery) -> Result<(), Error> {
    let replication = recovery.replication.clone();
    let place = shared.place(&replication);
    let _turn = shared.turn(&replication)?;
    if recovery.step != Step::Ready {
        tracing::info!(replication, "a recovery that was interrupted is removed");
        return shared.throw_away(&replication).await;
    }
    match recovery.power {
        Power::Off => Ok(()),
        Power::On(process) if process.is_alive(&place.mark()) => guest::go_on(&place).await,
        Power::On(_) => shared.put(Recovery { power: Power::Off, ..recovery }).await.map(drop),
        Power::Starting => match Process::adopt(&place.pid_file(), guest::START_LIMIT).await {
            Some(process) => shared.put(Recovery { power: Power::On(process), ..recovery }).await.map(drop),
            None => shared.start(recovery).await.map(drop),
        },
    }
}
