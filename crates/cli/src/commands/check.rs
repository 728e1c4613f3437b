//! `lockstep check`: the public checker of the change feed.
//!
//! It does what a careful client does: it takes the state, applies the feed to it, and in the end holds it against the state
//! taken afresh. It uses nothing but public operations.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lockstep_client::ExportOptions;
use lockstep_contract::ErrorKind;
use lockstep_contract::services::change_log::{GetChanges, GetChangesInput, GetCurrentSequence};
use lockstep_contract::services::resources::{Get, GetInput};
use lockstep_contract::services::{NoInput, TypedId};
use serde_json::{Value, json};

use super::Context;
use crate::json;
use crate::output::{Listing, print};
use crate::progress;
use crate::replica::{Change, Finding, Id, Replica};

/// Rounds in which what differs is looked at again, while others write.
const ROUNDS_MAX: usize = 20;

/// Longest wait for the feed to reach a moment that has passed.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// What to check, and for how long.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep check --seconds 60\n  \
    lockstep check --type VirtualMachine --type HostSystem")]
pub struct CheckArgs {
    /// How long to follow the feed
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u64,

    /// Only resources of this type; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
}

impl CheckArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let mut check =
            Check { context, types: self.types, replica: Replica::default(), token: String::new(), events: 0 };
        check.token = check.load().await?;
        eprintln!("holding {}", progress::count(check.replica.len() as u64, "resource", "resources"));
        check.reach_the_present().await?;
        check.replica.end_overlap();
        eprintln!("following for {} s", self.seconds);
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let follow = async {
            while Instant::now() < until {
                check.step(until.saturating_duration_since(Instant::now())).await?;
            }
            Ok::<(), anyhow::Error>(())
        };
        tokio::select! {
            outcome = follow => outcome?,
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        let compared = check.compare().await?;
        check.tell(compared)
    }
}

struct Check<'c> {
    context: &'c Context,
    types: Vec<String>,
    replica: Replica,
    /// The feed has been applied up to here.
    token: String,
    events: u64,
}

impl Check<'_> {
    /// Takes the state, and answers the token of the moment before.
    async fn load(&mut self) -> Result<String> {
        let options = ExportOptions { types: self.types.clone(), after: None };
        let mut export = self.context.client.export(&options).await?;
        let token = export.sequence().context("the export does not say at which moment it began")?;
        while let Some(line) = export.next_line().await? {
            let (id, properties) = read_line(&line)?;
            self.replica.load(id, &properties);
        }
        Ok(token)
    }

    /// Waits for one answer of the feed and applies it.
    async fn step(&mut self, wait: Duration) -> Result<()> {
        let input = GetChangesInput { sequence_token: self.token.clone() };
        let Ok(answer) = tokio::time::timeout(wait, self.context.client.call(GetChanges, input)).await else {
            return Ok(());
        };
        let list = answer?;
        let mut changed = Vec::new();
        for event in list.changes.unwrap_or_default() {
            if !self.types.is_empty() && !self.types.contains(&event.resource.resource_type) {
                continue;
            }
            self.events += 1;
            let id = Id { resource_type: event.resource.resource_type.into(), id: event.resource.id.into() };
            let paths = event.properties.unwrap_or_default();
            self.replica.apply(&id, Change::from(event.kind), &paths);
            if !changed.contains(&id) {
                changed.push(id);
            }
        }
        // Read once all events of the answer are applied: what is read is from that moment or a later one.
        for id in changed {
            if self.replica.has(&id) {
                let properties = self.read(&id).await?;
                self.replica.refresh(&id, properties.as_ref());
            }
        }
        self.token = list.sequence;
        Ok(())
    }

    /// Applies the feed until it is level with a moment that was taken after this call began.
    ///
    /// Tokens can only be compared for being the same, so a moment is taken before each answer is waited for. With changes all the
    /// time the two need some tries to meet; without any, nothing is waited for.
    async fn reach_the_present(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.context.client.call(GetCurrentSequence, NoInput {}).await? != self.token {
            anyhow::ensure!(
                began.elapsed() < CATCH_UP_MAX,
                "the feed did not become level with the present within {} s",
                CATCH_UP_MAX.as_secs()
            );
            self.step(CATCH_UP_MAX).await?;
        }
        Ok(())
    }

    /// The properties that a resource has; `None` when there is none.
    async fn read(&self, id: &Id) -> Result<Option<Value>> {
        let input = GetInput { resource_type: id.resource_type.to_string(), id: id.id.to_string() };
        match self.context.client.call(Get, input).await {
            Ok(resource) => Ok(Some(json::of_data(&resource.properties.0))),
            Err(error) if error.kind() == Some(ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the state afresh and holds it against the replica. Answers how many resources were compared.
    async fn compare(&mut self) -> Result<usize> {
        let mut fresh = Replica::default();
        let options = ExportOptions { types: self.types.clone(), after: None };
        let mut export = self.context.client.export(&options).await?;
        while let Some(line) = export.next_line().await? {
            let (id, properties) = read_line(&line)?;
            fresh.load(id, &properties);
        }
        self.reach_the_present().await?;
        let compared = fresh.len();
        let mut differing = self.replica.differing(&fresh);
        drop(fresh);
        // While others write, the two are from different moments. What goes on differing when nothing is said of it is wrong.
        for _ in 0..ROUNDS_MAX {
            let mut open = Vec::new();
            for id in std::mem::take(&mut differing) {
                let actual = self.read(&id).await?;
                if !self.replica.is_as(&id, actual.as_ref()) {
                    open.push((id, actual));
                }
            }
            if open.is_empty() {
                break;
            }
            let before = self.events;
            self.reach_the_present().await?;
            let is_quiet = self.events == before;
            for (id, actual) in open {
                match is_quiet {
                    true => self.replica.report_difference(&id, actual.as_ref()),
                    false => differing.push(id),
                }
            }
        }
        for id in differing {
            let actual = self.read(&id).await?;
            self.replica.report_difference(&id, actual.as_ref());
        }
        self.replica.report_unexplained();
        Ok(compared)
    }

    fn tell(self, compared: usize) -> Result<ExitCode> {
        let findings = self.replica.into_findings();
        let mut listing = Listing::new(["what", "type", "id", "detail"]);
        let mut all = Vec::new();
        for Finding { id, what, detail } in &findings {
            let resource = TypedId { resource_type: id.resource_type.to_string(), id: id.id.to_string() };
            listing.push([json!(what.name()), json!(resource.resource_type), json!(resource.id), json!(detail)]);
            all.push(json!({ "what": what.name(), "resource": json::value(&resource), "detail": detail }));
        }
        print(self.context.output, &listing, &Value::Array(all))?;
        eprintln!(
            "{}: {} applied, {} compared",
            match findings.len() {
                0 => "no difference".to_owned(),
                n => progress::count(n as u64, "difference", "differences"),
            },
            progress::count(self.events, "event", "events"),
            progress::count(compared as u64, "resource", "resources"),
        );
        Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn read_line(line: &[u8]) -> Result<(Id, Value)> {
    let mut line: Value = serde_json::from_slice(line).context("a line of the export is not JSON")?;
    let properties = line.get_mut("properties").map(Value::take).unwrap_or_default();
    let text = |name| line.get(name).and_then(Value::as_str).context("a line of the export has no type or no id");
    Ok((Id { resource_type: text("type")?.into(), id: text("id")?.into() }, properties))
}
