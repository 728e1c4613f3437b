//! Collectors that run in the server: made, shown and ended.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use lockstep_client::{ClientError, Thumbprint};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::collectors::{
    CollectorInput, Create, CreateInput, CreateSpec, Delete, DeleteInput, Get, Info, Kind, List, Phase,
};
use lockstep_contract::{ErrorData, ErrorKind, Secret};
use serde_json::json;

use super::super::Context;
use crate::globals::{ask_password, password_of};
use crate::json;
use crate::output::{Format, Listing, print, print_line};
use crate::progress::{WorkBar, count};

/// How often a read that is waited for is looked at.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// A vCenter or an ESXi host, and how to get in.
#[derive(Debug, clap::Args)]
pub struct VcenterArgs {
    /// The vCenter or ESXi host
    #[arg(value_name = "HOST[:PORT]")]
    source: String,
    /// What the collector is called [default: the source's host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The account there
    #[arg(long, value_name = "NAME")]
    source_username: String,
    /// File whose first line is the password there; - for standard input. Without it LOCKSTEP_SOURCE_PASSWORD, or you are asked
    #[arg(long, value_name = "FILE")]
    source_password_file: Option<PathBuf>,
    /// SHA-256 thumbprint of the source's certificate
    #[arg(long, value_name = "HEX")]
    source_thumbprint: Option<Thumbprint>,
    /// What the ids of its resources begin with [default: nothing for the first source, NAME: for each further one]
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<String>,
    /// Do not wait for the first read
    #[arg(long)]
    no_wait: bool,
}

impl VcenterArgs {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let password = self.password()?;
        let spec = CreateSpec {
            name: self.name,
            kind: Kind::Vcenter,
            address: self.source.clone(),
            user: self.source_username,
            password,
            ssl_thumbprint: self.source_thumbprint.map(|thumbprint| thumbprint.to_string()),
            id_prefix: self.id_prefix,
        };
        let collector = match context.client.call(Create, CreateInput { spec }).await {
            Ok(collector) => collector,
            Err(error) => {
                hint(&error);
                return Err(error.into());
            }
        };
        match context.output {
            Format::Table => print_line(&collector)?,
            output => {
                let mut listing = Listing::new(["collector"]);
                listing.push([json!(collector)]);
                print(output, &listing, &json!({ "collector": collector }))?;
            }
        }
        if self.no_wait {
            eprintln!("`lockstep collect` shows how far it is");
            return Ok(ExitCode::SUCCESS);
        }
        wait(context, collector).await
    }

    fn password(&self) -> Result<Secret> {
        if let Some(file) = &self.source_password_file {
            return password_of(file);
        }
        match std::env::var("LOCKSTEP_SOURCE_PASSWORD") {
            Ok(password) if !password.is_empty() => Ok(Secret(password)),
            _ if std::io::stdin().is_terminal() => {
                ask_password(&format!("Password of {} at {}: ", self.source_username, self.source))
            }
            _ => {
                let text = "no password was given: set LOCKSTEP_SOURCE_PASSWORD or use --source-password-file";
                Err(crate::failure::Usage(text.to_owned()).into())
            }
        }
    }
}

/// What to do about a certificate that is not trusted.
fn hint(error: &ClientError) {
    if let ClientError::Refusal { error, .. } = error
        && error.kind == ErrorKind::UnverifiedPeer
        && let Some(ErrorData::Certificate { ssl_thumbprint }) = &error.data
    {
        eprintln!("  Compare it with the source's own; then give it with --source-thumbprint {ssl_thumbprint}");
    }
}

/// Waits for the end of the first read.
async fn wait(context: &Context, collector: String) -> Result<ExitCode> {
    let bar = WorkBar::new(&collector);
    loop {
        let info = context.client.call(Get, CollectorInput { collector: collector.clone() }).await?;
        bar.show(info.phase.name(), info.completed_work, info.total_work);
        match info.phase {
            Phase::Connecting | Phase::Reading => tokio::time::sleep(POLL_EVERY).await,
            Phase::Following => {
                drop(bar);
                let objects = count(u64::try_from(total(&info)).unwrap_or(0), "resource", "resources");
                let took_s = info.read_ms.unwrap_or_default() / 1000;
                eprintln!("{objects} in {took_s} s; changes come as they happen");
                tell_hidden(&info);
                return Ok(ExitCode::SUCCESS);
            }
            Phase::Failed => {
                drop(bar);
                let why = info.error.map_or_else(String::new, |error| error.default_message);
                eprintln!("{why}\nit is tried again in the background; `lockstep collect` shows how it goes");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
}

fn tell_hidden(info: &Info) {
    for hidden in &info.hidden {
        let what = if hidden.property.is_empty() { "object" } else { hidden.property.as_str() };
        let (kind, why) = (&hidden.object_type, &hidden.privilege);
        eprintln!("hidden: {what} of {} {kind}, since the account lacks {why}", hidden.objects);
    }
}

fn total(info: &Info) -> i64 {
    info.resources.iter().map(|of_type| of_type.count).sum()
}

/// Lists the collectors.
pub(super) async fn list(context: &Context) -> Result<ExitCode> {
    let all = context.client.call(List, NoInput {}).await?;
    let mut listing =
        Listing::new(["collector", "kind", "address", "phase", "behind", "resources", "hidden", "confirmed", "error"])
            .at_right(&["behind"]);
    for info in &all {
        listing.push([
            json!(info.collector),
            json!(info.kind.name()),
            json!(info.address),
            json!(phase(info)),
            json!(info.lag_s.map_or_else(|| "?".to_owned(), |lag_s| format!("{lag_s} s"))),
            json!(total(info)),
            json!(info.hidden.len()),
            json!(info.confirmed.as_ref().map(|at| &at.0)),
            json!(info.error.as_ref().map(|error| &error.default_message)),
        ]);
    }
    print(context.output, &listing, &json::value(&all))?;
    Ok(ExitCode::SUCCESS)
}

fn phase(info: &Info) -> String {
    match info.phase {
        Phase::Reading if info.total_work > 0 => {
            format!("{} {} %", info.phase.name(), info.completed_work.saturating_mul(100) / info.total_work)
        }
        other => other.name().to_owned(),
    }
}

/// Shows all of a collector.
pub(super) async fn show(context: &Context, collector: String) -> Result<ExitCode> {
    let info = context.client.call(Get, CollectorInput { collector }).await?;
    let value = json::value(&info);
    print(context.output, &Listing::of_leaves(&value), &value)?;
    Ok(ExitCode::SUCCESS)
}

/// Ends a collector.
pub(super) async fn delete(context: &Context, collector: String, purge: bool) -> Result<ExitCode> {
    let input = DeleteInput { collector: collector.clone(), purge: purge.then_some(true) };
    context.client.call(Delete, input).await?;
    let rest = if purge { "its resources are deleted" } else { "its resources stay" };
    eprintln!("ended the collector {collector}; {rest}");
    Ok(ExitCode::SUCCESS)
}
