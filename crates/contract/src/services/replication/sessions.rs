//! Logins of Cloud Director Availability. A session is one of the site's; what is special is that it may be extended to linked sites.
//!
//! Source: `api/vcda.md`, section 3.

use crate::{Method, Rest, Secret, operation, structure};

structure! {
    /// A site that a session may call.
    pub struct AuthenticatedSite = "lockstep.replication.sessions.site" {
        /// The site.
        site: String,
        /// The organization there.
        org: String,
    }
}

structure! {
    /// Who is logged in, and where.
    pub struct Details = "lockstep.replication.sessions.details" {
        /// The user.
        user: String,
        /// What the user may do.
        roles: Vec<String>,
        /// This site, and those that the session was extended to.
        authenticated_sites as "authenticatedSites": Vec<AuthenticatedSite>,
    }
}

structure! {
    /// The parameters of `create`. Which members count, the type says; one that this site does not serve is a wrong login.
    pub struct CreateInput = "operation-input" {
        /// `localUser`, `vcdCredentials`, `vcdCookie` or `vcdAccessToken`.
        kind as "type": String,
        /// For `localUser`: the account.
        local_user as "localUser": Option<String>,
        /// For `localUser`: its password.
        local_password as "localPassword": Option<Secret>,
        /// For `vcdCredentials`: the account, or `account@org`.
        vcd_user as "vcdUser": Option<String>,
        /// For `vcdCredentials`: its password.
        vcd_password as "vcdPassword": Option<Secret>,
        /// For `vcdCookie`: the token of a session of this site.
        vcd_cookie as "vcdCookie": Option<Secret>,
        /// For `vcdAccessToken`: an account's access token.
        vcd_access_token as "vcdAccessToken": Option<Secret>,
    }
}

structure! {
    /// The parameters of `extend`.
    pub struct ExtendInput = "operation-input" {
        /// `credentials` or `cookie`.
        kind as "type": String,
        /// The linked site.
        site: String,
        /// For `credentials`: an account there.
        vcd_user as "vcdUser": Option<String>,
        /// For `credentials`: its password.
        vcd_password as "vcdPassword": Option<Secret>,
        /// For `cookie`: the token of a session there.
        vcd_cookie as "vcdCookie": Option<Secret>,
    }
}

operation! {
    /// Who is logged in, and where.
    pub Get = "lockstep.replication.sessions"."get"(crate::services::NoInput) -> Details,
    errors: [Unauthenticated],
    privilege: Session,
    availability: Rest::new(Method::Get, "/sessions", 200),
}

operation! {
    /// Logs in to a linked site too, so that calls of this session may be run there.
    pub Extend = "lockstep.replication.sessions"."extend"(ExtendInput) -> Details,
    errors: [InvalidArgument, NotFound, Unauthenticated, ServiceUnavailable],
    privilege: Session,
    availability: Rest::new(Method::Post, "/sessions/extend", 200),
}
