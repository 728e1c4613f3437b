//! How a failure is told: what went wrong, and what to do about it.

use std::io;
use std::process::ExitCode;

use lockstep_client::{ClientError, ImportError, ImportFailure};
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
    match cause.downcast_ref::<ImportError>() {
        Some(import) => {
            let lines = import.done.lines;
            let more = if import.is_uncertain { ", perhaps more" } else { "" };
            let resume = format!("  {lines} lines are in{more}; go on with --resume-from {}", lines + 1);
            let cause = match &import.cause {
                ImportFailure::Client(error) => client_hint(error),
                ImportFailure::Read(_) | ImportFailure::LineTooLong => None,
            };
            Some(cause.map_or_else(|| resume.clone(), |cause| format!("{resume}\n{cause}")))
        }
        None => client_hint(cause.downcast_ref::<ClientError>()?),
    }
}

fn client_hint(error: &ClientError) -> Option<String> {
    Some(match error {
        ClientError::Refused { .. } | ClientError::Unreachable { .. } => {
            "  Is the server running, and is this its address? It comes from --url, LOCKSTEP_URL, or `lockstep login`.".to_owned()
        }
        ClientError::Untrusted { thumbprint, .. } => format!(
            "  If the server's certificate, tls-cert.pem in its data directory, has this thumbprint\n    \
             openssl x509 -noout -fingerprint -sha256 -in tls-cert.pem\n  \
             then trust it in one of these ways:\n    \
             LOCKSTEP_THUMBPRINT={thumbprint}\n    \
             LOCKSTEP_CA_CERT=FILE    a copy of that file\n    \
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
