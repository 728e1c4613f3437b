//! `lockstep account`: who may log in, and what they may do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::accounts::{
    Delete, DeleteInput, IssueToken, IssueTokenInput, List, Role, Set, SetInput,
};
use serde_json::json;

use super::Context;
use crate::failure::Usage;
use crate::globals::{ask_password, password_of};
use crate::json;
use crate::output::{Format, Listing, print, print_line};
use crate::private_file::PrivateFile;

/// Manage accounts.
#[derive(Debug, clap::Subcommand)]
pub enum AccountCommand {
    /// List the accounts: their roles, and who has an access token.
    #[command(after_help = "Example:\n  lockstep account list")]
    List,
    /// Make an account, or change one. A new role or password ends its sessions.
    #[command(after_help = "Examples:\n  \
        lockstep account set ann@acme.test --role operator --ask-password\n  \
        lockstep account set cmdb --role read-only --password-file cmdb.password --description 'reads for the CMDB'")]
    Set {
        /// The user's name
        user: String,
        /// What the account may do
        #[arg(long, value_enum)]
        role: RoleName,
        /// File whose first line is the password; - for standard input. Without it and --ask-password it stays as it is
        #[arg(long, value_name = "FILE", conflicts_with = "ask_password")]
        password_file: Option<PathBuf>,
        /// Ask for the password, twice
        #[arg(long)]
        ask_password: bool,
        /// For people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Give an account an access token for programs, and print it this once.
    ///
    /// The token is sent in place of a password and does not expire. It takes the place of the one that the account has, and ends
    /// with the account. An account that does not exist is made, without a password.
    #[command(after_help = "Examples:\n  \
        lockstep account token agent-7 --file agent-7.token\n  \
        lockstep account token cmdb --role read-only --description 'reads for the CMDB'")]
    Token {
        /// The user's name
        user: String,
        /// What the account may do; one that exists must have this role
        #[arg(long, value_enum, default_value = "agent")]
        role: RoleName,
        /// Write the token to this file, which only you may read, and do not print it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// For people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Delete an account and end its sessions.
    #[command(after_help = "Example:\n  lockstep account delete cmdb")]
    Delete {
        /// The user's name
        user: String,
    },
}

/// A role, as it is typed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum RoleName {
    /// Everything
    Administrator,
    /// See and change the inventory
    Operator,
    /// See the inventory
    ReadOnly,
    /// What an agent on a host needs
    Agent,
    /// What a linked site needs
    Link,
}

impl RoleName {
    fn role(self) -> Role {
        match self {
            Self::Administrator => Role::Administrator,
            Self::Operator => Role::Operator,
            Self::ReadOnly => Role::ReadOnly,
            Self::Agent => Role::Agent,
            Self::Link => Role::Link,
        }
    }
}

impl AccountCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::List => {
                let accounts = context.client.call(List, NoInput {}).await?;
                let mut listing = Listing::new(["user", "role", "token", "description"]);
                for account in &accounts {
                    let token = if account.has_token { "yes" } else { "no" };
                    listing.push([
                        json!(account.user),
                        json!(account.role.name()),
                        json!(token),
                        json!(account.description),
                    ]);
                }
                print(context.output, &listing, &json::value(&accounts))?;
            }
            Self::Set { user, role, password_file, ask_password: asks, description } => {
                let password = match password_file {
                    Some(file) => Some(password_of(&file)?),
                    None if asks => {
                        let password = ask_password(&format!("New password of {user}: "))?;
                        if ask_password("The same again: ")? != password {
                            return Err(Usage("the two passwords differ".to_owned()).into());
                        }
                        Some(password)
                    }
                    None => None,
                };
                let input = SetInput { user: user.clone(), role: role.role(), password, description };
                context.client.call(Set, input).await?;
                eprintln!("{user} is {}", role.role().name());
            }
            Self::Token { user, role, file, description } => {
                // The place for the token comes first: it is answered once, and takes the place of the one before.
                let begun = file.as_deref().map(|path| (path, PrivateFile::create(path)));
                let begun =
                    begun.map(|(path, begun)| begun.with_context(|| cannot_write(path)).map(|begun| (path, begun)));
                let begun = begun.transpose()?;
                let input = IssueTokenInput { user: user.clone(), role: role.role(), description };
                let token = context.client.call(IssueToken, input).await?;
                match begun {
                    Some((path, begun)) => {
                        begun.finish(&format!("{}\n", token.0)).with_context(|| cannot_write(path))?;
                        eprintln!("{user} has a new token, in {}", path.display());
                    }
                    None => {
                        let mut listing = Listing::new(["token"]);
                        listing.push([json!(token.0)]);
                        match context.output {
                            Format::Table => print_line(&token.0)?,
                            output => print(output, &listing, &json!({ "user": user, "token": token.0 }))?,
                        }
                        eprintln!("{user} has this token; it is not shown again");
                    }
                }
            }
            Self::Delete { user } => {
                context.client.call(Delete, DeleteInput { user: user.clone() }).await?;
                eprintln!("deleted {user}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
