//! Where readers wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockstep_contract::{Error, ErrorKind};
use lockstep_model::Position;
use lockstep_site::caller::Caller;
use lockstep_site::{Progress, Site};
use tokio::sync::watch;
use tokio::time::Instant;

/// Readers that may wait at a time. One takes a connection and some kilobytes.
pub const PARKED_MAX: usize = 50_000;

/// The readers that wait.
pub(crate) struct Parking {
    limit: Duration,
    count: AtomicUsize,
}

/// Why a reader does not wait any longer.
pub(crate) enum Woken {
    /// The view has reached a further position.
    Progress,
    /// Time is up, or the server stops: the answer is that there is nothing yet.
    TimeUp,
}

/// A reader's place; given back when the reader goes, for whatever reason.
pub(crate) struct Place<'a> {
    parking: &'a Parking,
    deadline: Instant,
}

impl Parking {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, count: AtomicUsize::new(0) }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes a place for one answer.
    pub(crate) fn enter(&self) -> Result<Place<'_>, Error> {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let place = Place { parking: self, deadline: Instant::now() + self.limit };
        if before >= PARKED_MAX {
            let message = format!("{PARKED_MAX} readers wait already; try again later");
            return Err(Error::new(
                ErrorKind::ServiceUnavailable,
                "lockstep.cdc.full",
                message,
                vec![PARKED_MAX.to_string()],
            ));
        }
        Ok(place)
    }
}

impl Place<'_> {
    /// Waits until the view has gone beyond `position`.
    pub(crate) async fn wait(&self, progress: &mut watch::Receiver<Progress>, position: Position) -> Woken {
        let beyond = progress.wait_for(|now| now.position > position || now.is_stopping);
        match tokio::time::timeout_at(self.deadline, beyond).await {
            Ok(Ok(now)) if now.position > position => Woken::Progress,
            // Stopping, gone, or time is up.
            Ok(Ok(_) | Err(_)) | Err(_) => Woken::TimeUp,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.parking.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the caller's session has lasted through the wait; waiting counts as using it.
pub(crate) fn still_there(site: &Site, caller: &Caller) -> Result<(), Error> {
    match caller {
        Caller::User(user) => match user.session {
            Some(key) if !site.sessions.touch(key) => Err(Error::unauthenticated()),
            Some(_) | None => Ok(()),
        },
        Caller::Anonymous | Caller::Server(_) => Ok(()),
    }
}
