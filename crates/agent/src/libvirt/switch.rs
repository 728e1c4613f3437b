//! Switching a domain, through the daemon that manages it.
//!
//! Following needs the daemon's socket for readers; switching needs the one for all, which the daemon may keep for its administrators. So a
//! switch has a connection of its own, for as long as it takes.

use std::time::Duration;

use super::address::Address;
use super::connection::{Access, Connection, Control, LibvirtError, NO_DOMAIN};
use crate::qemu::switch::SwitchError;
use lockstep_contract::services::collectors::hosts::Action as SwitchAction;

/// How long the daemon may take: it waits for a process to start, or to end.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);

/// States of `virDomainState`.
const RUNNING: i32 = 1;
const BLOCKED: i32 = 2;
const PAUSED: i32 = 3;
const SHUTTING_DOWN: i32 = 4;
const SHUT_OFF: i32 = 5;
const CRASHED: i32 = 6;

/// Switches the domain with a UUID.
pub(super) fn switch(address: &Address, uuid: &str, action: SwitchAction) -> Result<(), SwitchError> {
    let socket = address.control_socket().ok_or_else(|| said("it has no socket for control"))?;
    let access = Access { is_read_only: false, timeout: CONTROL_TIMEOUT };
    let mut connection = Connection::open(&socket, address.driver(), access).map_err(failed)?;
    let domain = connection.domains().map_err(failed)?.into_iter().find(|domain| domain.has_uuid(uuid));
    let domain = domain.ok_or(SwitchError::NotHere)?;
    let state = connection.state(&domain).map_err(failed)?;
    let is_on = matches!(state, RUNNING | BLOCKED | SHUTTING_DOWN);
    let is_off = matches!(state, SHUT_OFF | CRASHED);
    let control = match action {
        SwitchAction::Reboot | SwitchAction::Standby => return Err(SwitchError::NoTools),
        SwitchAction::Start if is_on => return Err(SwitchError::Already),
        SwitchAction::Suspend if state == PAUSED => return Err(SwitchError::Already),
        SwitchAction::Stop | SwitchAction::Shutdown if is_off => return Err(SwitchError::Already),
        SwitchAction::Start if is_off => Control::Create,
        SwitchAction::Start if state == PAUSED => Control::Resume,
        SwitchAction::Stop => Control::Destroy,
        SwitchAction::Suspend if is_on => Control::Suspend,
        SwitchAction::Reset if is_on => Control::Reset,
        SwitchAction::Shutdown if is_on => Control::Shutdown,
        SwitchAction::Start | SwitchAction::Suspend | SwitchAction::Reset | SwitchAction::Shutdown => {
            return Err(SwitchError::NotNow { status: super::domain::state_name(state).to_owned() });
        }
    };
    connection.control(control, &domain).map_err(failed)
}

fn failed(error: LibvirtError) -> SwitchError {
    match error {
        LibvirtError::Refused { code: NO_DOMAIN, .. } => SwitchError::NotHere,
        LibvirtError::Io(_) => SwitchError::Silent,
        other => said(&other.to_string()),
    }
}

fn said(message: &str) -> SwitchError {
    SwitchError::Libvirt { message: message.to_owned() }
}
