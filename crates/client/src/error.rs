//! Why a call failed, in words that say what to do about it.

use std::fmt::Write as _;

use lockstep_contract::{Data, Encoding, Error, ErrorData, ErrorKind, Fault, Message, Place, Wire};

use crate::tls::Thumbprint;

/// Longest part of a foreign answer that an error quotes, in characters.
const EXCERPT_CHARS_MAX: usize = 200;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL of the site is none.
    #[error("{url:?} is not the URL of a site: expected https://HOST[:PORT]")]
    Url {
        /// What was given.
        url: String,
    },
    /// The certificates to trust cannot be used.
    #[error("the certificates to trust cannot be used: {0}")]
    Roots(String),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Setup(#[source] reqwest::Error),
    /// Nobody listens there.
    #[error("nothing answers at {url}: connection refused")]
    Refused {
        /// The site.
        url: String,
    },
    /// The address cannot be reached, or its name not be resolved.
    #[error("cannot connect to {url}: {reason}")]
    Unreachable {
        /// The site.
        url: String,
        /// The innermost reason.
        reason: String,
    },
    /// The site's certificate is not one to trust.
    #[error("the certificate of {url} is not trusted: {reason}; its SHA-256 thumbprint is {thumbprint}")]
    Untrusted {
        /// The site.
        url: String,
        /// Why.
        reason: String,
        /// The certificate that was shown.
        thumbprint: Thumbprint,
    },
    /// The connection broke while the call was under way: it may have been done or not.
    #[error("the connection to {url} broke: {reason}")]
    Broken {
        /// The site.
        url: String,
        /// The innermost reason.
        reason: String,
    },
    /// The name or the password is wrong, or the account is gone.
    #[error("{url} refuses the login of {username:?}: wrong user name or password")]
    LoginRefused {
        /// The site.
        url: String,
        /// Who tried.
        username: String,
    },
    /// The token that was given is not, or not any more, that of a session.
    #[error("the session at {url} has ended")]
    SessionEnded {
        /// The site.
        url: String,
    },
    /// The site wants a login and none was given.
    #[error("{url} demands a login, and neither a user name with a password nor a session was given")]
    LoginMissing {
        /// The site.
        url: String,
    },
    /// The operation answered an error of the contract.
    #[error("{}", messages(error))]
    Refusal {
        /// The status of HTTP.
        status: u16,
        /// The error.
        error: Error,
    },
    /// The answer is not one of this contract: something else listens there.
    #[error("{url} does not answer like a Lockstep site: status {status}, {excerpt:?}")]
    Foreign {
        /// The site.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// How the answer begins.
        excerpt: String,
    },
    /// The answer does not fit the declaration: the site is of another version.
    #[error("the answer of {operation} does not fit: {fault}")]
    Misfit {
        /// The operation.
        operation: String,
        /// What does not fit.
        fault: Fault,
    },
    /// A parameter cannot stand in a URL, or the input cannot be written.
    #[error("{0} cannot be sent in a URL")]
    Unaddressable(String),
}

impl ClientError {
    /// The kind of the contract's error, when it is one.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Refusal { error, .. } => Some(error.kind),
            Self::LoginRefused { .. } | Self::SessionEnded { .. } | Self::LoginMissing { .. } => {
                Some(ErrorKind::Unauthenticated)
            }
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anyone changing it: the site was not there, broke off or was busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refusal { status, error } => {
                error.data == Some(ErrorData::Transient(true)) || matches!(status, 429 | 502..=504)
            }
            Self::Foreign { status, .. } => matches!(status, 429 | 502..=504),
            _ => false,
        }
    }

    /// Whether nothing of the call has reached the site.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unreachable { .. } | Self::Untrusted { .. })
    }
}

/// The error's messages in one line, the outer first.
fn messages(error: &Error) -> String {
    let mut text = String::new();
    for message in &error.messages {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&message.default_message);
    }
    let _ = match (text.is_empty(), text.contains('\n')) {
        (true, _) => write!(text, "{}", error.kind.name()),
        (false, false) => write!(text, " ({})", error.kind.name()),
        // A message that points at a place below it ends with that.
        (false, true) => Ok(()),
    };
    text
}

/// The error in the body of an answer under `/api`; `None` when it is none of the contract's.
///
/// Source: `api/vapi-wire.md`, 3.5.
pub(crate) fn read_error(body: &[u8]) -> Option<Error> {
    let Ok(Data::Struct(_, fields)) = Data::from_json(body) else { return None };
    let mut error = Error { kind: ErrorKind::Error, messages: Vec::new(), data: None };
    let at = Place::root(Encoding::Plain);
    let mut is_error = false;
    for (name, value) in fields {
        match &*name {
            "messages" => error.messages = Vec::<Message>::decode(value, &at).ok()?,
            "error_type" => {
                let Data::String(kind) = value else { return None };
                // A kind of a later version is an error all the same.
                error.kind = ErrorKind::from_name(&kind).unwrap_or(ErrorKind::Error);
                is_error = true;
            }
            "data" => error.data = read_data(&value),
            _ => {}
        }
    }
    is_error.then_some(error)
}

/// What an error carries for programs, told apart by its members: plain JSON has no names of structures.
fn read_data(data: &Data) -> Option<ErrorData> {
    let text = |name| match data.member(name) {
        Some(Data::String(text)) => Some(text.clone()),
        _ => None,
    };
    if let Some(Data::Boolean(is_transient)) = data.member("is_transient") {
        return Some(ErrorData::Transient(*is_transient));
    }
    if let Some(ssl_thumbprint) = text("ssl_thumbprint") {
        return Some(ErrorData::Certificate { ssl_thumbprint });
    }
    let secondary = match data.member("secondary") {
        Some(Data::List(items)) => items
            .iter()
            .filter_map(|item| match item {
                Data::String(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    text("primary").map(|primary| ErrorData::ArgumentLocations { primary, secondary })
}

/// How a foreign answer begins, in one line.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXCERPT_CHARS_MAX).collect()
}

/// What failed in the transport, from the outside in.
pub(crate) fn transport(url: &str, error: &reqwest::Error) -> ClientError {
    let url = url.to_owned();
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    let mut is_refused = false;
    while let Some(source) = innermost.source() {
        innermost = source;
        is_refused |= innermost
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
    }
    // TLS words this as a matter of its protocol; to a caller it is that the site went away.
    let is_end =
        innermost.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof);
    let reason = if is_end { "the site closed it".to_owned() } else { innermost.to_string() };
    match (error.is_connect(), is_refused) {
        (true, true) => ClientError::Refused { url },
        (true, false) => ClientError::Unreachable { url, reason },
        (false, _) => ClientError::Broken { url, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_contract_are_read_and_others_are_foreign() {
        let body = br#"{"messages":[{"id":"a","default_message":"bad limit","args":["query_spec.limit"]},
            {"id":"b","default_message":"it is negative","args":[]}],
            "data":{"primary":"query_spec.limit","secondary":[]},"error_type":"INVALID_ARGUMENT"}"#;
        let error = read_error(body).unwrap();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert_eq!(messages(&error), "bad limit: it is negative (INVALID_ARGUMENT)");
        assert!(
            matches!(&error.data, Some(ErrorData::ArgumentLocations { primary, .. }) if primary == "query_spec.limit")
        );

        let busy =
            read_error(br#"{"messages":[],"data":{"is_transient":true},"error_type":"SERVICE_UNAVAILABLE"}"#).unwrap();
        assert_eq!(messages(&busy), "SERVICE_UNAVAILABLE");
        assert!(ClientError::Refusal { status: 503, error: busy }.is_transient());

        assert_eq!(read_error(br#"{"messages":[],"error_type":"OF_TOMORROW"}"#).unwrap().kind, ErrorKind::Error);
        for foreign in [&b"<html>"[..], b"", b"[]", b"{}", br#"{"messages":7,"error_type":"ERROR"}"#] {
            assert_eq!(read_error(foreign), None);
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b"<html>\n  <body>  no"), "<html> <body> no");
        assert_eq!(excerpt(&[b'x'; 1000]).len(), EXCERPT_CHARS_MAX);
    }
}
