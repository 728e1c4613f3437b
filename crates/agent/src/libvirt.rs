//! The virtual machines that libvirt knows: also those that do not run.
//!
//! A thread keeps one connection to the daemon, asks for its lifecycle events, and lists the domains at the beginning, after each event,
//! and once a minute, since not every change of a definition is an event. Readers take the last list: a reading never waits for libvirt. The
//! socket is the read-only one; a machine is switched over a connection of its own.
//!
//! | module | what |
//! | --- | --- |
//! | `address` | where the daemon is, and which of its drivers |
//! | `connection` | calls and events |
//! | `xdr` | how values are laid out |
//! | `domain` | a definition as a `VirtualMachine` |
//! | `switch` | starting, stopping and the like |
//!
//! While the daemon cannot be asked, the last list is told with [`Domains::is_current`] not true: what is missing from it may exist.

mod address;
mod connection;
pub(crate) mod domain;
mod switch;
mod xdr;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

pub use self::address::{Address, AddressError};
use self::connection::{Access, Connection, LibvirtError};
use self::domain::Domain;
use crate::qemu::switch::SwitchError;
use lockstep_contract::services::collectors::hosts::Action as SwitchAction;

/// How often the domains are listed when nothing is said to have happened.
const LIST_INTERVAL: Duration = Duration::from_secs(60);

/// How often a thread that waits for events looks whether it is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long an absent daemon is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The last list of the domains.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domains {
    pub(crate) list: Vec<Domain>,
    /// Whether it is all there is: the daemon is connected. Unset where there is no daemon.
    pub(crate) is_current: Option<bool>,
}

/// A libvirt daemon that is followed for as long as this lives.
#[derive(Debug)]
pub(crate) struct Libvirt {
    address: Address,
    // Held for a copy.
    domains: Arc<Mutex<Domains>>,
}

impl Libvirt {
    /// Follows the daemon. `changed` is called on a thread after each new list that differs.
    pub(crate) fn follow(address: Address, changed: Box<dyn Fn() + Send>) -> Self {
        let domains = Arc::new(Mutex::new(Domains::default()));
        let follower =
            Follower { address: address.clone(), domains: Arc::downgrade(&domains), changed, has_complained: false };
        let spawned = thread::Builder::new().name("libvirt".to_owned()).spawn(move || follower.run());
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for libvirt: its virtual machines are not collected");
        }
        Self { address, domains }
    }

    /// Switches the domain with a UUID. Blocks for as long as the daemon takes, half a minute a step at most.
    pub(crate) fn switch(&self, uuid: &str, action: SwitchAction) -> Result<(), SwitchError> {
        switch::switch(&self.address, uuid, action)
    }

    pub(crate) fn domains(&self) -> Domains {
        lock(&self.domains).clone()
    }
}

/// A panic elsewhere leaves a whole list behind.
fn lock(domains: &Mutex<Domains>) -> MutexGuard<'_, Domains> {
    domains.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Follower {
    address: Address,
    domains: Weak<Mutex<Domains>>,
    changed: Box<dyn Fn() + Send>,
    /// An absence is told once, not at every attempt.
    has_complained: bool,
}

impl Follower {
    fn run(mut self) {
        while let Some(socket) = self.wait_for_socket() {
            let Err(error) = self.keep_listing(&socket) else { return };
            if let Some(domains) = self.domains.upgrade() {
                lock(&domains).is_current = Some(false);
            }
            if !std::mem::replace(&mut self.has_complained, true) {
                tracing::warn!(socket = %socket.display(), %error, "libvirt cannot be asked");
            }
            thread::sleep(RETRY_INTERVAL);
        }
    }

    /// The daemon's socket, once there is one; none when nobody wants to know any more.
    fn wait_for_socket(&self) -> Option<PathBuf> {
        while self.domains.strong_count() > 0 {
            if let Some(socket) = self.address.socket() {
                return Some(socket);
            }
            thread::sleep(RETRY_INTERVAL);
        }
        None
    }

    /// Ends well when nobody wants to know any more.
    fn keep_listing(&mut self, socket: &Path) -> Result<(), LibvirtError> {
        let mut connection = Connection::open(socket, self.address.driver(), Access::READ)?;
        // Before the first list, so that nothing happens in between unseen.
        connection.watch()?;
        loop {
            let list = self.list(&mut connection)?;
            self.has_complained = false;
            let Some(domains) = self.domains.upgrade() else { return Ok(()) };
            let is_news = {
                let mut domains = lock(&domains);
                let is_news = domains.is_current != Some(true) || domains.list != list;
                *domains = Domains { list, is_current: Some(true) };
                is_news
            };
            drop(domains);
            if is_news {
                (self.changed)();
            }
            let listed = Instant::now();
            while !connection.wait_for_event(LOOK_INTERVAL)? && listed.elapsed() < LIST_INTERVAL {
                if self.domains.strong_count() == 0 {
                    return Ok(());
                }
            }
        }
    }

    fn list(&self, connection: &mut Connection) -> Result<Vec<Domain>, LibvirtError> {
        let mut list = Vec::new();
        for reference in connection.domains()? {
            let told = connection.definition(&reference).and_then(|xml| Ok((xml, connection.state(&reference)?)));
            match told {
                Ok((xml, state)) => list.extend(Domain::read(&xml, state, self.address.driver())),
                // It went between the list and the question.
                Err(LibvirtError::Refused { code: connection::NO_DOMAIN, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        list.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        Ok(list)
    }
}
