//! How a failure is told: what went wrong, and what to do about it.

use std::io;
use std::process::ExitCode;

use lockstep_client::{ClientError, ImportError};
use lockstep_contract::ErrorKind;

/// The exit code of a command line that makes no sense; clap's own errors have it too.
const USAGE: u8 = 2;

/// A command line that parses and makes no sense.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// What is told of an error that ended the program.
pub(crate) struct Failure(anyhow::Error);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl Failure {
    /// Tells it on standard error, and answers the exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        };
        if self.0.chain().any(is_closed_pipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("lockstep: {:#}", self.0);
        if let Some(hint) = self.0.chain().find_map(hint) {
            eprintln!("{hint}");
        }
        if self.0.is::<Usage>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
    }
}

/// What to do about an error.
fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let error = match cause.downcast_ref::<ImportError>() {
        Some(import) => match &import.cause {
            lockstep_client::ImportFailure::Client(error) => error,
            _ => return None,
        },
        None => cause.downcast_ref::<ClientError>()?,
    };
    Some(match error {
        ClientError::Refused { .. } | ClientError::Unreachable { .. } => {
            "  Is the server running, and is this its address? It comes from --url, LOCKSTEP_URL, or `lockstep login`.".to_owned()
        }
        ClientError::Untrusted { thumbprint, .. } => format!(
            "  If that is the thumbprint that the server printed at its start, trust it in one of these ways:\n    \
             LOCKSTEP_THUMBPRINT={thumbprint}\n    \
             LOCKSTEP_CA_CERT=FILE    the server's certificate, cert.pem in its data directory\n    \
             LOCKSTEP_INSECURE=1      no check at all: only where nobody can come in between"
        ),
        ClientError::LoginRefused { .. } => {
            "  The first account is administrator@lockstep.local; its password is in admin-password in the server's data directory."
                .to_owned()
        }
        ClientError::SessionEnded { .. } | ClientError::LoginMissing { .. } => {
            "  Log in with `lockstep login`, or set LOCKSTEP_USERNAME and LOCKSTEP_PASSWORD.".to_owned()
        }
        error if error.kind() == Some(ErrorKind::Unauthorized) => {
            "  `lockstep status` says who you are; an administrator can change the role with `lockstep account set`.".to_owned()
        }
        _ => return None,
    })
}
