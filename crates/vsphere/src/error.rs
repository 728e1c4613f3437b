//! Why a source cannot be collected, in words that say what to do about it.

use lockstep_client::ClientError;
use lockstep_contract::Message;
use lockstep_journal::CommitError;

use crate::element::XmlError;

/// Longest text of a fault that an error quotes, in characters.
const QUOTE_CHARS_MAX: usize = 300;

/// Why a source cannot be collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The address is none.
    #[error("{0:?} is not the address of a vCenter or an ESXi host: expected HOST, HOST:PORT or https://HOST[:PORT]")]
    Address(String),
    /// The source is not reached, or not trusted.
    #[error(transparent)]
    Peer(ClientError),
    /// The connection was there, and broke or fell silent.
    #[error("the connection to {url} broke: {reason}")]
    Broken {
        /// The source.
        url: String,
        /// Why.
        reason: String,
    },
    /// Something else answers there.
    #[error("{url} does not answer like a vCenter or an ESXi host: {reason}")]
    Foreign {
        /// The source.
        url: String,
        /// What came.
        reason: String,
    },
    /// The user name or the password is wrong, or the account is locked.
    #[error("{url} refuses the login of {user:?}: wrong user name or password, or the account is locked")]
    LoginRefused {
        /// The source.
        url: String,
        /// Who tried.
        user: String,
    },
    /// The session is gone.
    #[error("the source has ended the session")]
    SessionEnded,
    /// The account may not do what collecting needs.
    #[error("the account lacks the privilege {privilege} on {object}, which {method} needs")]
    Denied {
        /// What was called.
        method: &'static str,
        /// The privilege.
        privilege: String,
        /// On which object.
        object: String,
    },
    /// Another fault.
    #[error("{method} failed with {fault}: {text}")]
    Fault {
        /// What was called.
        method: &'static str,
        /// The fault's type.
        fault: String,
        /// What it says.
        text: String,
        /// The state that is in the way, where it names one.
        existing: Option<String>,
    },
    /// The inventory refuses what was read.
    #[error("the inventory cannot be written: {0}")]
    Journal(CommitError),
    /// The password cannot be opened.
    #[error("the password cannot be opened: {0}")]
    Password(String),
}

impl CollectError {
    /// The error as a message, with what to do about it.
    pub(crate) fn message(&self) -> Message {
        let (id, advice) = match self {
            Self::Address(_) => ("address", "correct the address"),
            Self::Peer(ClientError::Untrusted { .. }) => (
                "untrusted",
                "compare the thumbprint with that on the source's console, and give it to trust that certificate",
            ),
            Self::Peer(_) => ("unreachable", "check the address, the network, and that the source is up"),
            Self::Broken { .. } => ("broken", "nothing to do: it is tried again"),
            Self::Foreign { .. } => ("foreign", "check the address: the API is below /sdk at port 443"),
            Self::LoginRefused { .. } => {
                ("login", "create the collector again with the right password, or unlock the account")
            }
            Self::SessionEnded => ("session", "nothing to do: it logs in again"),
            Self::Denied { .. } => ("denied", "give the account the role Read-only on the root, propagated"),
            Self::Fault { .. } => ("fault", "nothing to do if it passes: it is tried again"),
            Self::Journal(_) => ("journal", "the server's log says why"),
            Self::Password(_) => ("password", "delete the collector, and create it again with its password"),
        };
        let text = self.to_string();
        Message::new(format!("lockstep.collectors.{id}"), format!("{text}; {advice}"), Vec::new())
    }

    /// An error of the stream of an answer.
    pub(crate) fn of_stream(url: &str, error: XmlError) -> Self {
        let (url, reason) = (url.to_owned(), error.to_string());
        match error {
            XmlError::Broken(_) | XmlError::Silent(_) => Self::Broken { url, reason },
            XmlError::Malformed(_) => Self::Foreign { url, reason },
        }
    }
}

/// The beginning of a text, in one line.
pub(crate) fn quoted(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTE_CHARS_MAX).collect()
}
