//! Accounts and their roles.

use crate::services::NoInput;
use crate::{Method, Rest, Secret, enumeration, operation, structure};

enumeration! {
    /// What an account may do.
    pub enum Role = "lockstep.accounts.role" {
        /// Everything.
        Administrator = "ADMINISTRATOR",
        /// See and change the inventory, switch and replicate machines.
        Operator = "OPERATOR",
        /// See the inventory.
        ReadOnly = "READ_ONLY",
        /// What an agent on a host needs: see and change the inventory.
        Agent = "AGENT",
        /// What a linked site needs: see the inventory.
        Link = "LINK",
    }
}

structure! {
    /// An account.
    pub struct Account = "lockstep.accounts.account" {
        /// The user's name, e.g. `administrator@lockstep.local`.
        user: String,
        /// What the account may do.
        role: Role,
        /// For people.
        description: Option<String>,
        /// Whether the account has an access token.
        has_token: bool,
    }
}

structure! {
    /// The parameters of `set`.
    pub struct SetInput = "operation-input" {
        /// The user's name.
        user: String,
        /// What the account may do.
        role: Role,
        /// The password; unset: unchanged. A new account needs one.
        password: Option<Secret>,
        /// For people.
        description: Option<String>,
    }
}

structure! {
    /// The parameters of `issue_token`.
    pub struct IssueTokenInput = "operation-input" {
        /// The user's name. An account that does not exist is made, without a password.
        user: String,
        /// What the account may do; an account that exists must have this role.
        role: Role,
        /// For people; unset: unchanged.
        description: Option<String>,
    }
}

structure! {
    /// The parameters of `delete`.
    pub struct DeleteInput = "operation-input" {
        /// The user's name.
        user: String,
    }
}

operation! {
    /// Lists the accounts.
    pub List = "lockstep.accounts"."list"(NoInput) -> Vec<Account>,
    errors: [Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Get, "/lockstep/accounts", 200),
}

operation! {
    /// Creates an account or changes it. A new password or role ends the account's sessions.
    pub Set = "lockstep.accounts"."set"(SetInput) -> (),
    errors: [InvalidArgument, NotAllowedInCurrentState, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Put, "/lockstep/accounts/{user}", 204),
}

operation! {
    /// Deletes an account and ends its sessions. The last administrator cannot be deleted.
    pub Delete = "lockstep.accounts"."delete"(DeleteInput) -> (),
    errors: [NotAllowedInCurrentState, NotFound, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Delete, "/lockstep/accounts/{user}", 204),
}

operation! {
    /// Gives an account an access token for programs, in place of the one it may have, and answers it this once.
    ///
    /// It is sent as `Authorization: Bearer TOKEN`, does not expire, and ends with the account or with the next token.
    pub IssueToken = "lockstep.accounts"."issue_token"(IssueTokenInput) -> Secret,
    errors: [InvalidArgument, NotAllowedInCurrentState, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/lockstep/accounts/{user}", 201).action("issue-token"),
}
