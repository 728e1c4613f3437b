//! `lockstep link`: links to other sites, and what is kept in step over them.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lockstep_client::{ClientError, Thumbprint};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::links::administrators::{self, GroupInput};
use lockstep_contract::services::links::providers::{self, SessionInfo, Stage, StartInput};
use lockstep_contract::services::links::tagging::{self, ConflictsInput};
use lockstep_contract::services::links::{
    Create, CreateInput, CreateSpec, Credentials, DeleteDetails, DeleteInput, Details, HealthStatus, Invite, Join,
    JoinInput, ListDetails, ProviderDetails, State,
};
use lockstep_contract::{ErrorData, ErrorKind, Secret};
use serde_json::{Value, json};

use super::Context;
use crate::failure::Usage;
use crate::globals::{ask_password, password_of};
use crate::json;
use crate::output::{Format, Listing, print, print_line};
use crate::progress::WorkBar;

/// How often a sync that is waited for is looked at.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// How long a forced sync waits for one that is under way.
const BUSY_TIMEOUT: Duration = Duration::from_secs(600);

/// The account that every site has at first.
const PEER_USERNAME: &str = "administrator@lockstep.local";

/// Link this site with others, and see how they are in step.
#[derive(Debug, clap::Subcommand)]
pub enum LinkCommand {
    /// List the links: whether they are healthy, and how far behind what came over them is.
    #[command(after_help = "Examples:\n  lockstep link list\n  lockstep link list --output json")]
    List,
    /// Link this site with another. Prints the link's id.
    ///
    /// Both sites see the link; from then on each copies the other's inventory, and both share categories and tags. The other site's certificate is checked before
    /// anything is sent: by its thumbprint, or by whom this site's server trusts. One that is not trusted is shown, and on a terminal
    /// you are asked. The password is used once, and kept nowhere.
    #[command(after_help = "Examples:\n  \
        lockstep link create 10.0.0.2:8443 fra02\n  \
        lockstep link create fra02.example:8443 fra02 --peer-username ann --peer-password-file fra02.password \
--peer-thumbprint AB:CD:…")]
    Create {
        /// The other site's host name or address, and its port; without one 443
        #[arg(value_name = "HOST[:PORT]")]
        peer: String,
        /// What the other site is called here: the ids of its resources begin with it
        name: String,
        #[command(flatten)]
        account: PeerAccount,
        /// SHA-256 thumbprint of the other site's certificate
        #[arg(long, value_name = "HEX")]
        peer_thumbprint: Option<Thumbprint>,
        /// A group, group@domain, that becomes an administrator here; may be given several times
        #[arg(long = "admin-group", value_name = "GROUP")]
        admin_groups: Vec<String>,
    },
    /// End a link on both sides.
    ///
    /// What was copied over it stays as it is, unless --purge has it deleted too. The other site is told; when it cannot be reached,
    /// its half has no use any more and is deleted there.
    #[command(after_help = "Examples:\n  lockstep link delete fra02\n  lockstep link delete fra02 --purge")]
    Delete {
        /// The link's id, or the other site's name
        link: String,
        /// Also delete what was copied over the link, in the background
        #[arg(long)]
        purge: bool,
        /// End the other site's half with this account there, instead of the link's own token
        #[arg(long, value_name = "NAME", requires = "peer_password_file")]
        peer_username: Option<String>,
        /// File whose first line is the password there; - for standard input
        #[arg(long, value_name = "FILE", requires = "peer_username")]
        peer_password_file: Option<PathBuf>,
    },
    /// Sync now, and show how it goes.
    ///
    /// A link follows the other site by itself; a forced sync says when all is here. Ends with 1 when the sync failed.
    #[command(after_help = "Examples:\n  lockstep link sync fra02\n  lockstep link sync fra02 inventory\n  \
        lockstep link sync fra02 --reset")]
    Sync {
        /// The link's id, or the other site's name
        link: String,
        /// What to sync; without it everything, one after the other
        provider: Option<String>,
        /// First forget how far it has come: everything is compared anew
        #[arg(long)]
        reset: bool,
    },
    /// List what is kept in step over a link.
    #[command(after_help = "Example:\n  lockstep link providers fra02")]
    Providers {
        /// The link's id, or the other site's name
        link: String,
    },
    /// Print a line that lets another site link itself with this one, once.
    ///
    /// The line names this site, its certificate and a secret; it is good for one link within an hour. Whoever has it can make that
    /// link: hand it over as you would a password.
    #[command(after_help = "Example:\n  lockstep link invite")]
    Invite,
    /// Link this site with the one that printed the line. Prints the link's id.
    #[command(after_help = "Examples:\n  \
        lockstep link join 'https://10.0.0.2:8443#4F1B….91d2….fra02'\n  \
        lockstep link join - < invitation")]
    Join {
        /// The line that `lockstep link invite` printed at the other site; - for standard input
        line: String,
        /// What the other site is called here; without it what it calls itself
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// A group, group@domain, that becomes an administrator here; may be given several times
        #[arg(long = "admin-group", value_name = "GROUP")]
        admin_groups: Vec<String>,
    },
    /// List the edits of tagging that lost against those of other sites.
    ///
    /// Categories, tags and attachments are shared by linked sites. Of two edits of the same, neither of which had seen the other, the
    /// later holds; the other is listed here, at all sites, for 30 days.
    #[command(after_help = "Examples:\n  lockstep link conflicts\n  lockstep link conflicts --limit 20 --output json")]
    Conflicts {
        /// How many at the most, the latest first
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i64).range(0..=1000))]
        limit: i64,
    },
    /// List the groups that administer linked sites, and change them.
    #[command(after_help = "Examples:\n  lockstep link administrators\n  \
        lockstep link administrators --add ops@fra02 --remove interns@fra02")]
    Administrators {
        /// Add a group; may be given several times
        #[arg(long, value_name = "GROUP")]
        add: Vec<String>,
        /// Remove a group; may be given several times
        #[arg(long, value_name = "GROUP")]
        remove: Vec<String>,
    },
}

/// An account of the other site.
#[derive(Debug, clap::Args)]
pub struct PeerAccount {
    /// An administrator of the other site
    #[arg(long, value_name = "NAME", default_value = PEER_USERNAME)]
    peer_username: String,
    /// File whose first line is the password there; - for standard input. Without it LOCKSTEP_PEER_PASSWORD, or you are asked
    #[arg(long, value_name = "FILE")]
    peer_password_file: Option<PathBuf>,
}

impl PeerAccount {
    fn password(&self, peer: &str) -> Result<Secret> {
        if let Some(file) = &self.peer_password_file {
            return password_of(file);
        }
        match std::env::var("LOCKSTEP_PEER_PASSWORD") {
            Ok(password) if !password.is_empty() => Ok(Secret(password)),
            _ => ask_password(&format!("Password of {} at {peer}: ", self.peer_username)),
        }
    }
}

impl LinkCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::List => {
                let links = context.client.call(ListDetails, NoInput {}).await?;
                print(context.output, &listing(&links), &json::value(&links))?;
            }
            Self::Create { peer, name, account, peer_thumbprint, admin_groups } => {
                let (host, port) = split_port(&peer)?;
                let spec = CreateSpec {
                    psc_hostname: host,
                    port,
                    domain_name: name.clone(),
                    username: account.peer_username.clone(),
                    password: account.password(&peer)?,
                    ssl_thumbprint: peer_thumbprint.map(|thumbprint| thumbprint.to_string()),
                    admin_groups: (!admin_groups.is_empty()).then_some(admin_groups),
                };
                let link = create(context, spec).await?;
                print_id(context, &link)?;
                eprintln!("linked with {name}; `lockstep link list` shows how it comes in step");
            }
            Self::Delete { link, purge, peer_username, peer_password_file } => {
                let found = find(context, &link).await?;
                let credentials = match (peer_username, peer_password_file) {
                    (Some(user_name), Some(file)) => Some(Credentials { user_name, password: password_of(&file)? }),
                    _ => None,
                };
                let input = DeleteInput { link: found.link.clone(), credentials, purge: purge.then_some(true) };
                context.client.call(DeleteDetails, input).await?;
                if purge {
                    eprintln!("ended the link to {}; what came over it is being deleted", found.domain_name);
                } else {
                    eprintln!("ended the link to {}; what came over it stays", found.domain_name);
                }
            }
            Self::Sync { link, provider, reset } => return sync(context, &link, provider.as_deref(), reset).await,
            Self::Providers { link } => {
                let found = find(context, &link).await?;
                let mut listing = Listing::new([
                    "provider",
                    "status",
                    "last sync",
                    "every",
                    "running",
                    "work",
                    "rate",
                    "behind",
                    "message",
                ])
                .at_right(&["work", "rate"]);
                for provider in &found.providers {
                    listing.push(provider_row(provider));
                }
                print(context.output, &listing, &json::value(&found.providers))?;
            }
            Self::Invite => {
                let invitation = context.client.call(Invite, NoInput {}).await?;
                match context.output {
                    Format::Table => print_line(&invitation.line.0)?,
                    output => {
                        let value = json!({"line": invitation.line.0, "expires": invitation.expires.0});
                        let mut listing = Listing::new(["line", "expires"]).whole(&["line"]);
                        listing.push([value["line"].clone(), value["expires"].clone()]);
                        print(output, &listing, &value)?;
                    }
                }
                eprintln!("run `lockstep link join LINE` at the other site before {}", invitation.expires.0);
            }
            Self::Join { line, name, admin_groups } => {
                let line = match &*line {
                    "-" => std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?,
                    _ => line,
                };
                let input = JoinInput {
                    invitation: Secret(line.trim().to_owned()),
                    domain_name: name,
                    admin_groups: (!admin_groups.is_empty()).then_some(admin_groups),
                };
                let link = context.client.call(Join, input).await?;
                print_id(context, &link)?;
                eprintln!("linked; `lockstep link list` shows how it comes in step");
            }
            Self::Conflicts { limit } => {
                let conflicts = context.client.call(tagging::Conflicts, ConflictsInput { limit: Some(limit) }).await?;
                let mut listing = Listing::new(["when", "resource", "property", "reason", "lost", "by", "kept", "of"]);
                for one in &conflicts {
                    let resource = format!("{} {}", one.resource.resource_type, one.resource.id);
                    listing.push([
                        json!(one.lost_time.0),
                        json!(resource),
                        json!(one.property),
                        json!(one.reason.name()),
                        json!(one.lost),
                        json!(one.lost_site),
                        json!(one.kept),
                        json!(one.kept_site),
                    ]);
                }
                print(context.output, &listing, &json::value(&conflicts))?;
            }
            Self::Administrators { add, remove } => {
                for group_name in add {
                    context.client.call(administrators::Add, GroupInput { group_name }).await?;
                }
                for group_name in remove {
                    context.client.call(administrators::Remove, GroupInput { group_name }).await?;
                }
                let groups = context.client.call(administrators::Get, NoInput {}).await?;
                let mut listing = Listing::new(["group"]);
                groups.iter().for_each(|group| listing.push([json!(group)]));
                print(context.output, &listing, &json!(groups))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_id(context: &Context, link: &str) -> Result<()> {
    let mut listing = Listing::new(["link"]);
    listing.push([json!(link)]);
    match context.output {
        Format::Table => print_line(link),
        output => print(output, &listing, &json!({ "link": link })),
    }
}

/// Host and port of `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn split_port(peer: &str) -> Result<(String, Option<String>)> {
    let bare = peer.trim().trim_start_matches("https://").trim_end_matches('/');
    let (host, port) = match bare.rsplit_once(':') {
        // An address of IPv6 alone has colons of its own.
        Some((host, port)) if !port.ends_with(']') && (!host.contains(':') || host.ends_with(']')) => {
            (host, Some(port))
        }
        _ => (bare, None),
    };
    if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(Usage(format!("{peer:?} is not HOST or HOST:PORT")).into());
    }
    Ok((host.to_owned(), port.map(str::to_owned)))
}

/// Makes a link; a certificate that is not trusted is shown, and the user asked.
async fn create(context: &Context, spec: CreateSpec) -> Result<String> {
    let refused = match context.client.call(Create, CreateInput { spec: spec.clone() }).await {
        Ok(link) => return Ok(link),
        Err(error) => error,
    };
    let thumbprint = match &refused {
        ClientError::Refusal { error, .. } if error.kind == ErrorKind::UnverifiedPeer => match &error.data {
            Some(ErrorData::Certificate { ssl_thumbprint }) => ssl_thumbprint.clone(),
            _ => return Err(refused.into()),
        },
        _ => return Err(refused.into()),
    };
    if spec.ssl_thumbprint.is_some() || !std::io::stdin().is_terminal() {
        let hint = format!("  Compare it with that site's own; then give it with --peer-thumbprint {thumbprint}");
        eprintln!("{hint}");
        return Err(refused.into());
    }
    eprintln!(
        "The certificate of {} is not one that this site trusts. Its SHA-256 thumbprint is\n  {thumbprint}",
        spec.psc_hostname
    );
    eprint!("Is that the site's own? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("not linked");
    }
    let spec = CreateSpec { ssl_thumbprint: Some(thumbprint), ..spec };
    Ok(context.client.call(Create, CreateInput { spec }).await?)
}

/// The link with that id, or to the site of that name.
async fn find(context: &Context, wanted: &str) -> Result<Details> {
    let links = context.client.call(ListDetails, NoInput {}).await?;
    let names: Vec<String> = links.iter().map(|link| link.domain_name.clone()).collect();
    let is_it = |link: &Details| link.link == wanted || link.domain_name.eq_ignore_ascii_case(wanted);
    links.into_iter().find(is_it).with_context(|| match names.is_empty() {
        true => format!("no link {wanted:?}: this site has none"),
        false => format!("no link {wanted:?}: there are {}", names.join(", ")),
    })
}

/// Forces syncs, one after the other.
async fn sync(context: &Context, link: &str, provider: Option<&str>, reset: bool) -> Result<ExitCode> {
    let found = find(context, link).await?;
    let names: Vec<String> = match provider {
        Some(name) => vec![name.to_owned()],
        None => found.providers.iter().map(|provider| provider.provider.clone()).collect(),
    };
    if reset {
        let input = providers::ResetInput { link: found.link.clone(), credentials: None };
        context.client.call(providers::Reset, input).await?;
    }
    let mut listing = Listing::new(["provider", "stage", "work", "took"]).at_right(&["work", "took"]);
    let (mut sessions, mut has_failed) = (Vec::new(), false);
    for name in &names {
        let (session, took) = sync_one(context, &found, name).await?;
        if let Some(why) = &session.exception {
            eprintln!("{name}: {}", why.default_message);
            has_failed = true;
        }
        let took = format!("{:.1} s", took.as_secs_f64());
        listing.push([json!(name), json!(session.stage.name()), json!(session.completed_work), json!(took)]);
        sessions.push(json!({ "provider": name, "session": json::value(&session) }));
    }
    print(context.output, &listing, &Value::Array(sessions))?;
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Forces a sync, and waits for its end.
async fn sync_one(context: &Context, link: &Details, provider: &str) -> Result<(SessionInfo, Duration)> {
    let began = Instant::now();
    let bar = WorkBar::new(provider);
    let input = || StartInput { link: link.link.clone(), provider: provider.to_owned(), credentials: None };
    loop {
        match context.client.call(providers::Start, input()).await {
            Ok(()) => break,
            // One in the background is under way: ours comes after it.
            Err(error) if error.kind() == Some(ErrorKind::ResourceBusy) && began.elapsed() < BUSY_TIMEOUT => {
                let now = find(context, &link.link).await?;
                if let Some(running) = now.providers.iter().find(|found| found.provider == provider) {
                    bar.show("under way", running.completed_work, running.total_work);
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    loop {
        let input = providers::GetInput { link: link.link.clone(), provider: provider.to_owned() };
        let info = context.client.call(providers::Get, input).await?;
        let session = info.current_session_info.context("the session is gone: somebody has reset the link")?;
        bar.show(session.stage.name(), session.completed_work, session.total_work);
        if matches!(session.stage, Stage::Completed | Stage::Failed) {
            return Ok((session, began.elapsed()));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The links as a table.
fn listing(links: &[Details]) -> Listing {
    let mut listing = Listing::new(["site", "url", "health", "sync", "behind", "rate", "last sync", "link", "message"])
        .at_right(&["behind", "rate"])
        .whole(&["link"]);
    for link in links {
        let health = match (link.state, link.health.connection_health_status) {
            (State::Removing | State::Purging, _) => link.state.name(),
            (State::Active, Some(HealthStatus::Healthy)) => "HEALTHY",
            (State::Active, Some(HealthStatus::Unhealthy)) => "UNHEALTHY",
            (State::Active, None) => "",
        };
        // The one that is worst off speaks for all.
        let worst = link.providers.iter().max_by_key(|provider| {
            (provider.info.status != providers::Status::Succeeded, provider.lag_s.unwrap_or(i64::MAX))
        });
        let message = link.health.health_status_message.as_ref().or(worst.and_then(|p| p.info.status_message.as_ref()));
        listing.push([
            json!(link.domain_name),
            json!(link.url),
            json!(health),
            json!(worst.map(sync_state)),
            json!(worst.map(behind)),
            json!(worst.and_then(rate)),
            json!(worst.and_then(|p| p.info.last_sync_time.as_ref()).map(|at| &at.0)),
            json!(link.link),
            json!(message.map(|message| &message.default_message)),
        ]);
    }
    listing
}

fn sync_state(provider: &ProviderDetails) -> String {
    match provider.running {
        Some(stage) if provider.total_work > 0 => {
            let percent = provider.completed_work.saturating_mul(100) / provider.total_work;
            format!("{} {percent} %", stage.name())
        }
        Some(stage) => stage.name().to_owned(),
        None if provider.is_following && provider.info.status == providers::Status::Succeeded => "IN STEP".to_owned(),
        None => provider.info.status.name().to_owned(),
    }
}

fn rate(provider: &ProviderDetails) -> Option<String> {
    provider.rate.map(|rate| format!("{rate:.0}/s"))
}

fn behind(provider: &ProviderDetails) -> String {
    let seconds = match provider.lag_s {
        None => return "?".to_owned(),
        Some(0) => return "0 s".to_owned(),
        Some(seconds) => seconds,
    };
    match provider.lag_positions {
        Some(commits) if commits > 0 => format!("{seconds} s, {commits} commits"),
        _ => format!("{seconds} s"),
    }
}

fn provider_row(provider: &ProviderDetails) -> [Value; 9] {
    let info = &provider.info;
    let work = provider.running.map(|_| format!("{}/{}", provider.completed_work, provider.total_work));
    [
        json!(provider.provider),
        json!(info.status.name()),
        json!(info.last_sync_time.as_ref().map(|at| &at.0)),
        json!(format!("{} s", info.polling_interval_in_seconds)),
        json!(provider.running.map(Stage::name)),
        json!(work),
        json!(rate(provider)),
        json!(behind(provider)),
        json!(info.status_message.as_ref().map(|message| &message.default_message)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_host_and_perhaps_a_port() {
        let check = |peer: &str, host: &str, port: Option<&str>| {
            assert_eq!(split_port(peer).unwrap(), (host.to_owned(), port.map(str::to_owned)), "{peer}");
        };
        check("fra02", "fra02", None);
        check("fra02:8443", "fra02", Some("8443"));
        check("https://fra02:8443/", "fra02", Some("8443"));
        check("[2001:db8::1]:8443", "[2001:db8::1]", Some("8443"));
        check("2001:db8::1", "2001:db8::1", None);
        for bad in ["", ":8443", "fra02:x", "fra02:99999"] {
            assert!(split_port(bad).is_err(), "{bad}");
        }
    }
}
