//! `lockstep login`, `logout`, `status`: the session, and the site it is at.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lockstep_client::{Client, Config, Login};
use lockstep_contract::Secret;
use lockstep_contract::services::{NoInput, session, site};
use serde_json::json;

use super::Context;
use crate::globals::{Globals, TrustFrom, Wanted, ask_password, password_of};
use crate::json;
use crate::output::{Listing, print};
use crate::profile::{self, Profile};

/// How to ask for the password.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep login --url https://site-a:8443 --ca-cert site-a.pem\n  \
    lockstep login --username ann@acme.test --password-file ~/.lockstep-password")]
pub struct LoginArgs {
    /// File whose first line is the password; - for standard input [default: LOCKSTEP_PASSWORD, else it is asked for]
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,
}

/// End the session that `login` made, and forget it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  lockstep logout")]
pub struct LogoutArgs {}

/// Show what the site says of itself, and who you are there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lockstep status\n  lockstep status --output json | jq .sequence")]
pub struct StatusArgs {}

fn profile_path() -> Result<PathBuf> {
    profile::path().context("neither XDG_CONFIG_HOME nor HOME is set: there is no place for a profile")
}

impl LoginArgs {
    pub(crate) async fn run(self, globals: &Globals) -> Result<ExitCode> {
        let path = profile_path()?;
        // A profile that cannot be read is replaced, not obeyed.
        let settings = globals.settings().or_else(|error| {
            eprintln!("lockstep: {error:#}");
            let _ = Profile::remove(&path);
            globals.settings()
        })?;
        let (username, password) = match settings.login {
            Wanted::Password { username, password } => (username, Some(Secret(password))),
            Wanted::AskPassword { username } | Wanted::Session { username, .. } => (username, None),
            Wanted::Nothing => ("administrator@lockstep.local".to_owned(), None),
        };
        let password = match (self.password_file, password) {
            (Some(file), _) => password_of(&file)?,
            (None, Some(password)) => password,
            (None, None) => ask_password(&format!("Password of {username} at {}: ", settings.url))?,
        };
        let login = Login::Password { username: username.clone(), password };
        let client = Client::new(Config { url: settings.url, login, trust: settings.trust.read()? })?;
        let token = client.login().await?;
        let (ca_cert, thumbprint, insecure) = match settings.trust {
            TrustFrom::System => (None, None, false),
            TrustFrom::Anything => (None, None, true),
            TrustFrom::Thumbprint(thumbprint) => (None, Some(thumbprint.to_string()), false),
            TrustFrom::File(file) => (Some(whole(&file)?), None, false),
        };
        let profile = Profile { url: client.url().to_owned(), username, token: token.0, ca_cert, thumbprint, insecure };
        profile.save(&path)?;
        eprintln!("logged in at {} as {}; remembered in {}", profile.url, profile.username, path.display());
        Ok(ExitCode::SUCCESS)
    }
}

/// The path from the root on: later commands may run elsewhere.
fn whole(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).with_context(|| format!("cannot make {} absolute", file.display()))
}

impl LogoutArgs {
    pub(crate) async fn run(self, globals: &Globals) -> Result<ExitCode> {
        let path = profile_path()?;
        let Some(profile) = Profile::load(&path)? else {
            eprintln!("not logged in");
            return Ok(ExitCode::SUCCESS);
        };
        // The session is where it was made, whatever the environment says of other sites.
        let there = Globals { url: Some(profile.url.clone()), ..globals.clone() };
        let trust = there.settings()?.trust.read()?;
        let client = Client::new(Config { url: profile.url.clone(), login: Login::Anonymous, trust })?;
        let ended = client.end_session(&Secret(profile.token)).await;
        Profile::remove(&path)?;
        match ended {
            Ok(()) => eprintln!("logged out of {}", profile.url),
            Err(error) => eprintln!(
                "forgotten; the session at {} ends by itself, since it could not be told: {error}",
                profile.url
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl StatusArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let info = context.client.call(site::Get, NoInput {}).await?;
        let session = context.client.call(session::Get, NoInput {}).await?;
        let mut value = json!({ "url": context.client.url() });
        for part in [json::value(&info), json!({ "user": session.user, "session_created": session.created_time.0 })] {
            if let (Some(all), serde_json::Value::Object(part)) = (value.as_object_mut(), part) {
                all.extend(part);
            }
        }
        let listing = Listing::of_leaves(&value);
        print(context.output, &listing, &value)?;
        Ok(ExitCode::SUCCESS)
    }
}
