//! Powering a machine off through its monitor, as a migration does with the source.

use std::path::Path;
use std::time::Duration;

use lockstep_qemu::qmp::Qmp;
use serde_json::Value;

use super::error::Error;

/// How long QEMU may take to end after its guest did, or when it was told to.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How often a connection that is to be closed is looked at.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// How a machine came to be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoweredOff {
    /// Nobody listened at its monitor.
    WasOff,
    /// Its guest shut down.
    ByGuest,
    /// Its guest did not within the time it had; it was as if its plug had been pulled.
    ByForce,
}

/// Powers a machine off: its guest is asked to shut down, and has `patience` for it. QEMU is gone when this returns, so its images are
/// closed and hold all that the guest flushed, bitmaps too.
///
/// # Errors
/// [`lockstep_qemu::Error::Busy`] when another client has the monitor, and what QEMU says.
pub async fn power_off(monitor: &Path, patience: Duration) -> Result<PoweredOff, Error> {
    let qmp = match Qmp::connect(monitor).await {
        Ok(qmp) => qmp,
        Err(lockstep_qemu::Error::Io { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
        {
            return Ok(PoweredOff::WasOff);
        }
        Err(error) => return Err(error.into()),
    };
    let status = qmp.execute("query-status", Value::Null).await?;
    // A guest that was stopped cannot shut down, and one that has ended already has nothing to do.
    let runs = status["running"].as_bool() == Some(true);
    let is_down = status["status"] == "shutdown";
    let mut how = if is_down { PoweredOff::ByGuest } else { PoweredOff::ByForce };
    if runs {
        qmp.execute("system_powerdown", Value::Null).await?;
        match qmp.wait_event(|event| event.name == "SHUTDOWN", patience).await {
            Ok(_) | Err(lockstep_qemu::Error::Closed { .. }) => how = PoweredOff::ByGuest,
            Err(lockstep_qemu::Error::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // QEMU may end by itself, or wait (-no-shutdown) to be told.
    match qmp.execute("quit", Value::Null).await {
        Ok(_) | Err(lockstep_qemu::Error::Closed { .. } | lockstep_qemu::Error::Io { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let closing = async {
        // QEMU closes its monitors after its disks.
        while !qmp.is_closed() {
            tokio::time::sleep(POLL_PAUSE).await;
        }
    };
    let late = |_| lockstep_qemu::Error::Timeout { what: "QEMU's end".into(), limit: END_LIMIT };
    tokio::time::timeout(END_LIMIT, closing).await.map_err(late)?;
    Ok(how)
}
