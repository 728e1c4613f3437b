//! Who asks, and what they may do.

use std::sync::Arc;

use lockstep_contract::services::accounts::Role;
use lockstep_contract::{Error, Privilege};

use crate::sessions::SessionKey;

/// Whoever calls an operation.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody has logged in.
    Anonymous,
    /// A user, by a session or by name and password with the request.
    User(User),
    /// The server itself: its collectors and background loops.
    Server(&'static str),
}

/// A user who has logged in.
#[derive(Debug, Clone)]
pub struct User {
    /// The name, in lower case.
    pub name: Arc<str>,
    /// What the account may do.
    pub role: Role,
    /// The session, when the call came with one.
    pub session: Option<SessionKey>,
}

impl Caller {
    /// Whether the caller may do what needs `privilege`.
    ///
    /// # Errors
    /// `unauthenticated` for nobody, `unauthorized` for a role without the privilege.
    pub fn check(&self, privilege: Privilege) -> Result<(), Error> {
        match self {
            _ if privilege == Privilege::Anonymous => Ok(()),
            Self::Anonymous => Err(Error::unauthenticated()),
            Self::User(user) if !grants(user.role, privilege) => Err(Error::unauthorized()),
            Self::User(_) | Self::Server(_) => Ok(()),
        }
    }

    /// The name that commits and logs carry.
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Anonymous => "anonymous".into(),
            Self::User(user) => user.name.clone(),
            Self::Server(part) => format!("lockstep/{part}").into(),
        }
    }
}

/// What each role may do: the least that its work needs.
fn grants(role: Role, privilege: Privilege) -> bool {
    match (role, privilege) {
        (_, Privilege::Anonymous | Privilege::Session) | (Role::Administrator, _) => true,
        (Role::Operator | Role::ReadOnly | Role::Agent | Role::Link, Privilege::Read) => true,
        (Role::Operator | Role::Agent, Privilege::Write) => true,
        (Role::ReadOnly | Role::Link, Privilege::Write) => false,
        (Role::Operator, Privilege::Power) => true,
        // An agent does what others order, on its own host; it orders nothing.
        (Role::ReadOnly | Role::Agent | Role::Link, Privilege::Power) => false,
        (Role::Operator | Role::Agent, Privilege::Collect) => true,
        (Role::ReadOnly | Role::Link, Privilege::Collect) => false,
        (Role::Agent, Privilege::Sample) => true,
        (Role::Operator | Role::ReadOnly | Role::Link, Privilege::Sample) => false,
        (Role::Link, Privilege::Replicate) => true,
        (Role::Operator | Role::ReadOnly | Role::Agent, Privilege::Replicate) => false,
        (Role::Operator, Privilege::Protect) => true,
        (Role::ReadOnly | Role::Agent | Role::Link, Privilege::Protect) => false,
        (Role::Operator | Role::ReadOnly | Role::Agent | Role::Link, Privilege::Models | Privilege::Accounts) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_the_least_that_they_need() {
        let may = |role, privilege| {
            let user = User { name: "u".into(), role, session: None };
            Caller::User(user).check(privilege).is_ok()
        };
        assert!(may(Role::Administrator, Privilege::Accounts));
        assert!(may(Role::Operator, Privilege::Write) && !may(Role::Operator, Privilege::Models));
        assert!(may(Role::ReadOnly, Privilege::Read) && !may(Role::ReadOnly, Privilege::Write));
        assert!(may(Role::Link, Privilege::Read) && !may(Role::Link, Privilege::Write));
        assert!(may(Role::Link, Privilege::Replicate) && !may(Role::Operator, Privilege::Replicate));
        for (role, may_switch) in [
            (Role::Administrator, true),
            (Role::Operator, true),
            (Role::ReadOnly, false),
            (Role::Agent, false),
            (Role::Link, false),
        ] {
            assert_eq!(may(role, Privilege::Power), may_switch, "{role:?}");
        }
        assert!(may(Role::Agent, Privilege::Collect) && !may(Role::ReadOnly, Privilege::Collect));
        assert!(may(Role::Operator, Privilege::Protect) && !may(Role::Agent, Privilege::Protect));
        assert!(
            Caller::Anonymous.check(Privilege::Anonymous).is_ok() && Caller::Anonymous.check(Privilege::Read).is_err()
        );
    }
}
