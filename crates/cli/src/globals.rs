//! What every command takes: which site, as whom, whom to trust, and in which form to answer.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::builder::FalseyValueParser;
use lockstep_client::{Client, Config, Login, Thumbprint, Trust};
use lockstep_contract::Secret;

use crate::failure::Usage;
use crate::output::Format;
use crate::profile::{self, Profile};

/// Where a server listens unless it is told otherwise.
const DEFAULT_URL: &str = "https://127.0.0.1:8443";

/// The account that every site has at first.
const DEFAULT_USERNAME: &str = "administrator@lockstep.local";

/// Which site, as whom, whom to trust, and in which form to answer.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Site and output")]
pub struct Globals {
    /// The site [default: that of `lockstep login`, else https://127.0.0.1:8443]
    #[arg(long, global = true, env = "LOCKSTEP_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<String>,

    /// The account [default: that of `lockstep login`, else administrator@lockstep.local]
    #[arg(long, global = true, env = "LOCKSTEP_USERNAME", hide_env_values = true, value_name = "NAME")]
    pub username: Option<String>,

    /// The password. Others on this machine can see the arguments of a program: prefer the variable, or `lockstep login`
    #[arg(long, global = true, env = "LOCKSTEP_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub password: Option<String>,

    /// Trust the certificates in this PEM file, and no others
    #[arg(long, global = true, env = "LOCKSTEP_CA_CERT", hide_env_values = true, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,

    /// Trust the certificate with this SHA-256 thumbprint, and no other
    #[arg(long, global = true, env = "LOCKSTEP_THUMBPRINT", hide_env_values = true, value_name = "HEX")]
    pub thumbprint: Option<Thumbprint>,

    /// Trust any certificate: only where nobody can come in between
    #[arg(long, global = true, env = "LOCKSTEP_INSECURE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub insecure: bool,

    /// In which form to print the result
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// What the flags, the environment and the profile say together.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) url: String,
    pub(crate) login: Wanted,
    pub(crate) trust: TrustFrom,
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// With the session of the profile.
    Session { username: String, token: String },
    /// With a password.
    Password { username: String, password: String },
    /// With a password that must be asked for.
    AskPassword { username: String },
    /// Not at all: nothing was said.
    Nothing,
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TrustFrom {
    /// Anybody.
    Anything,
    /// The certificate with this thumbprint.
    Thumbprint(Thumbprint),
    /// The certificates of a file.
    File(PathBuf),
    /// Whom the system trusts.
    System,
}

impl Globals {
    /// What the flags and the environment say, with the saved profile behind them.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let profile = match profile::path() {
            Some(path) => Profile::load(&path)?,
            None => None,
        };
        self.settings_with(profile.as_ref())
    }

    fn settings_with(&self, profile: Option<&Profile>) -> Result<Settings> {
        let url = self.url.clone().or_else(|| profile.map(|p| p.url.clone())).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let bare = |url: &str| url.trim().trim_end_matches('/').to_ascii_lowercase();
        // What is known of one site says nothing about another.
        let profile = profile.filter(|p| bare(&p.url) == bare(&url));
        let login = match (&self.username, &self.password, profile) {
            (username, Some(password), profile) => {
                let username = username.clone().or_else(|| profile.map(|p| p.username.clone()));
                let username = username.unwrap_or_else(|| DEFAULT_USERNAME.to_owned());
                Wanted::Password { username, password: password.clone() }
            }
            (username, None, Some(p)) if username.as_ref().is_none_or(|name| *name == p.username) => {
                Wanted::Session { username: p.username.clone(), token: p.token.clone() }
            }
            (Some(username), None, _) => Wanted::AskPassword { username: username.clone() },
            (None, None, _) => Wanted::Nothing,
        };
        let trust = if self.insecure {
            TrustFrom::Anything
        } else if let Some(thumbprint) = self.thumbprint {
            TrustFrom::Thumbprint(thumbprint)
        } else if let Some(file) = &self.ca_cert {
            TrustFrom::File(file.clone())
        } else {
            profile.map_or(Ok(TrustFrom::System), saved_trust)?
        };
        Ok(Settings { url, login, trust })
    }

    /// A client of a site for a program that has an access token: whom to trust is what the flags, the environment and the profile say.
    ///
    /// # Errors
    /// What keeps a client from being made.
    pub fn client_with_token(&self, url: &str, token: Secret) -> Result<Client> {
        let trust = Self { url: Some(url.to_owned()), ..self.clone() }.settings()?.trust.read()?;
        Ok(Client::new(Config { url: url.to_owned(), login: Login::Token(token), trust })?)
    }

    /// A client of the site.
    pub(crate) fn client(&self) -> Result<Client> {
        let settings = self.settings()?;
        let login = match settings.login {
            Wanted::Session { token, .. } => Login::Token(Secret(token)),
            Wanted::Password { username, password } => Login::Password { username, password: Secret(password) },
            Wanted::AskPassword { username } => {
                let password = ask_password(&format!("Password of {username} at {}: ", settings.url))?;
                Login::Password { username, password }
            }
            Wanted::Nothing => Login::Anonymous,
        };
        Ok(Client::new(Config { url: settings.url, login, trust: settings.trust.read()? })?)
    }
}

fn saved_trust(profile: &Profile) -> Result<TrustFrom> {
    Ok(match profile {
        Profile { insecure: true, .. } => TrustFrom::Anything,
        Profile { thumbprint: Some(text), .. } => TrustFrom::Thumbprint(text.parse().map_err(anyhow::Error::msg)?),
        Profile { ca_cert: Some(file), .. } => TrustFrom::File(file.clone()),
        _ => TrustFrom::System,
    })
}

impl TrustFrom {
    /// What the client is to trust.
    pub(crate) fn read(&self) -> Result<Trust> {
        Ok(match self {
            Self::Anything => Trust::Anything,
            Self::Thumbprint(thumbprint) => Trust::Thumbprint(*thumbprint),
            Self::System => Trust::System,
            Self::File(file) => {
                let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
                Trust::from_pem(&pem).with_context(|| file.display().to_string())?
            }
        })
    }
}

/// Asks for a password without showing it.
///
/// # Errors
/// When there is nobody to ask.
pub(crate) fn ask_password(prompt: &str) -> Result<Secret> {
    if !std::io::stdin().is_terminal() {
        let text =
            "no password was given, and there is no terminal to ask at: set LOCKSTEP_PASSWORD or use --password-file";
        return Err(Usage(text.to_owned()).into());
    }
    rpassword::prompt_password(prompt).map(Secret).context("cannot read the password")
}

/// The first line of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read or is empty.
pub(crate) fn password_of(file: &Path) -> Result<Secret> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret(line.to_owned())),
        _ => Err(anyhow::anyhow!("{} is empty: its first line is the password", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn profile() -> Profile {
        Profile {
            url: "https://saved.test:8443".into(),
            username: "ann".into(),
            token: "saved-token".into(),
            ca_cert: Some("/saved/cert.pem".into()),
            thumbprint: None,
            insecure: false,
        }
    }

    fn check(globals: Globals, profile: Option<Profile>, url: &str, login: Wanted, trust: TrustFrom) {
        let settings = globals.settings_with(profile.as_ref()).unwrap();
        assert_eq!((&*settings.url, &settings.login, &settings.trust), (url, &login, &trust));
    }

    fn session() -> Wanted {
        Wanted::Session { username: "ann".into(), token: "saved-token".into() }
    }

    fn password(username: &str) -> Wanted {
        Wanted::Password { username: username.into(), password: "p".into() }
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn without_anything_there_are_defaults() {
        check(Globals::default(), None, DEFAULT_URL, Wanted::Nothing, TrustFrom::System);
        let globals = Globals { password: text("p"), ..Globals::default() };
        check(globals, None, DEFAULT_URL, password(DEFAULT_USERNAME), TrustFrom::System);
    }

    #[test]
    fn the_profile_is_for_its_own_site_only() {
        let saved = TrustFrom::File("/saved/cert.pem".into());
        check(Globals::default(), Some(profile()), "https://saved.test:8443", session(), saved.clone());
        let same = Globals { url: text("https://SAVED.test:8443/"), ..Globals::default() };
        check(same, Some(profile()), "https://SAVED.test:8443/", session(), saved);
        let other = Globals { url: text("https://other.test"), ..Globals::default() };
        check(other, Some(profile()), "https://other.test", Wanted::Nothing, TrustFrom::System);
    }

    #[test]
    fn what_is_said_wins_over_the_profile() {
        let saved = TrustFrom::File("/saved/cert.pem".into());
        let url = "https://saved.test:8443";
        let same_account = Globals { username: text("ann"), ..Globals::default() };
        check(same_account, Some(profile()), url, session(), saved.clone());
        let other_account = Globals { username: text("bob"), ..Globals::default() };
        check(other_account, Some(profile()), url, Wanted::AskPassword { username: "bob".into() }, saved.clone());
        let with_password = Globals { password: text("p"), ..Globals::default() };
        check(with_password, Some(profile()), url, password("ann"), saved);
        let insecure = Globals { insecure: true, ca_cert: Some("/x".into()), ..Globals::default() };
        check(insecure, Some(profile()), url, session(), TrustFrom::Anything);
        let other_file = Globals { ca_cert: Some("/x".into()), ..Globals::default() };
        check(other_file, Some(profile()), url, session(), TrustFrom::File("/x".into()));
        let pinned = Thumbprint([7; 32]);
        let pin = Globals { thumbprint: Some(pinned), ..Globals::default() };
        check(pin, Some(profile()), url, session(), TrustFrom::Thumbprint(pinned));
    }

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        globals: Globals,
    }

    #[test]
    fn flags_are_read() {
        let thumbprint = Thumbprint([0xab; 32]);
        let text = thumbprint.to_string();
        let line = ["x", "--url", "u", "--thumbprint", &text, "--insecure", "-o", "yaml"];
        let globals = Program::try_parse_from(line).unwrap().globals;
        assert_eq!((globals.url.as_deref(), globals.thumbprint), (Some("u"), Some(thumbprint)));
        assert!(globals.insecure && globals.output == Format::Yaml);
        assert!(Program::try_parse_from(["x", "--thumbprint", "ab"]).is_err());
    }
}
