//! Logging in and out.
//!
//! Source: `api/vapi-wire.md`, 2.7 and 3.4.

use crate::services::NoInput;
use crate::{DateTime, Method, Rest, Secret, operation, structure};

structure! {
    /// What a session knows of itself.
    pub struct Info = "com.vmware.cis.session.info" {
        /// The user who logged in.
        user: String,
        /// When the session began.
        created_time: DateTime,
        /// When the session was last used.
        last_accessed_time: DateTime,
    }
}

operation! {
    /// Logs in with a user name and a password, and answers the session's token.
    pub Create = "com.vmware.cis.session"."create"(NoInput) -> Secret,
    errors: [Unauthenticated, ServiceUnavailable],
    privilege: Anonymous,
    rest: Rest::new(Method::Post, "/session", 201),
    login: Begins,
}

operation! {
    /// What is known of the session that asks.
    pub Get = "com.vmware.cis.session"."get"(NoInput) -> Info,
    errors: [Unauthenticated, ServiceUnavailable],
    privilege: Session,
    rest: Rest::new(Method::Get, "/session", 200),
}

operation! {
    /// Ends the session that asks.
    pub Delete = "com.vmware.cis.session"."delete"(NoInput) -> (),
    errors: [Unauthenticated, ServiceUnavailable],
    privilege: Session,
    rest: Rest::new(Method::Delete, "/session", 204),
    login: Ends,
}
