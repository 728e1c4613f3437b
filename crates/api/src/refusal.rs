//! A request that is answered with an error, and what HTTP adds to it.

use http::{HeaderName, HeaderValue, StatusCode};
use lockstep_contract::Error;

/// An error with what only HTTP says of it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub error: Error,
    /// The status, when it is not the error's own.
    status: Option<StatusCode>,
    /// Headers of the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// The error with its own status.
    pub fn new(error: Error) -> Self {
        Self { error, status: None, headers: Vec::new() }
    }

    /// The same with another status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The same with a header. A value that no header can have is left out.
    pub fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        self.headers.extend(value.try_into().ok().map(|value| (name, value)));
        self
    }

    /// The status, when it is not the error's own.
    pub fn own_status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The status in the legacy generation or the current one.
    pub fn status_in(&self, is_legacy: bool) -> StatusCode {
        let kind = self.error.kind;
        let own = if is_legacy { kind.legacy_status() } else { kind.status() };
        self.status.unwrap_or_else(|| StatusCode::from_u16(own).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::new(error)
    }
}
