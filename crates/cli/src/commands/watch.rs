//! `lockstep watch`: changes as they happen.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lockstep_contract::ErrorKind;
use lockstep_contract::services::feed::{Event, EventKind, EventList, GetChanges, GetChangesInput};
use lockstep_contract::services::resource_model::{
    CompositeFilter, CompositeOperator, FilterType, Query, QueryInput, QuerySpec, ResourceFilter,
};
use lockstep_contract::services::resources::{Get, GetInput};
use lockstep_contract::services::{NoInput, TypedId, change_log};
use serde_json::Value;

use super::{Context, filter, read_input};
use crate::failure::Usage;
use crate::json;
use crate::output::{Format, Paint, text, visible};

/// Values are looked up for so many resources of one answer; the rest are shown without.
const LOOKUPS_MAX: usize = 200;

/// Rows of a page of what is there at the start.
const PAGE_ROWS: i64 = 1000;

/// Waits before trying a broken connection again; then it is given up.
const WAITS_S: [u64; 8] = [1, 1, 2, 2, 5, 5, 10, 30];

/// Which changes, and how to show them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep watch\n  \
    lockstep watch --type VirtualMachine --where 'power_state = POWERED_OFF'\n  \
    lockstep watch --type VirtualMachine --where 'host.cluster.name = prod' --since-start\n  \
    lockstep watch --json | jq .resource.id\n  \
    lockstep watch --from TOKEN --catch-up")]
pub struct WatchArgs {
    /// Only resources of this type; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,

    /// Only resources that meet these conditions, as behind `where` in a query; names are looked up in the first --type
    #[arg(long = "where", value_name = "CONDITIONS", requires = "types", conflicts_with = "filter")]
    conditions: Option<String>,

    /// Only resources that match the filter in this file, {"filter_type": …, …} as in a query spec; - for standard input
    #[arg(long, value_name = "FILE")]
    filter: Option<PathBuf>,

    /// Go on from this token [default: from this moment]
    #[arg(long, value_name = "TOKEN", conflicts_with = "since_start")]
    from: Option<String>,

    /// Show first what is there already
    #[arg(long)]
    since_start: bool,

    /// If the token has aged out of the log, be told what may have changed since
    #[arg(long)]
    catch_up: bool,

    /// One JSON object a line
    #[arg(long)]
    json: bool,

    /// End after so many changes
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl WatchArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let filter = match (&self.conditions, &self.filter) {
            (Some(conditions), _) => Some(filter::of_conditions(&context.client, &self.types, conditions).await?),
            (None, Some(file)) => Some(read_filter(file)?),
            (None, None) => None,
        };
        let mut watch = Watch {
            context,
            paint: Paint::new(),
            as_json: self.json || context.output == Format::Json,
            token: String::new(),
            left: self.count.unwrap_or(u64::MAX),
            types: self.types,
            filter,
            catch_up: self.catch_up,
        };
        let asked = self.from.clone();
        let follow = async {
            watch.token = match self.from {
                Some(token) => token,
                None if self.since_start => watch.show_present().await?,
                None => context.client.call(change_log::GetCurrentSequence, NoInput {}).await?,
            };
            watch.follow().await
        };
        let outcome = tokio::select! {
            outcome = follow => outcome,
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
        };
        // A token that was refused is none to go on from.
        let is_new = asked.as_ref() != Some(&watch.token) && !watch.token.is_empty();
        if is_new || outcome.is_ok() {
            eprintln!("go on from here: lockstep watch --from {}", watch.token);
        }
        outcome.map(|()| ExitCode::SUCCESS)
    }
}

fn read_filter(file: &std::path::Path) -> Result<ResourceFilter> {
    let text = read_input(file)?;
    json::decode(&text).with_context(|| format!("{} is no filter", file.display()))
}

/// The feed as it is shown.
struct Watch<'c> {
    context: &'c Context,
    paint: Paint,
    as_json: bool,
    /// Where to go on.
    token: String,
    /// How many changes are still to be shown.
    left: u64,
    types: Vec<String>,
    filter: Option<ResourceFilter>,
    catch_up: bool,
}

impl Watch<'_> {
    async fn follow(&mut self) -> Result<()> {
        let mut waits = WAITS_S.iter();
        while self.left > 0 {
            let input = GetChangesInput {
                sequence_token: self.token.clone(),
                resource_types: (!self.types.is_empty()).then(|| self.types.clone()),
                filter: self.filter.clone(),
                catch_up: self.catch_up.then_some(true),
            };
            match self.context.client.call(GetChanges, input).await {
                Ok(list) => {
                    waits = WAITS_S.iter();
                    self.show(list).await?;
                }
                Err(error) if error.is_transient() => {
                    let Some(wait_s) = waits.next() else { return Err(error.into()) };
                    eprintln!("{error}; trying again in {wait_s} s");
                    tokio::time::sleep(Duration::from_secs(*wait_s)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn show(&mut self, list: EventList) -> Result<()> {
        if list.caught_up == Some(true) {
            eprintln!("the token had aged out: these are the resources that may have changed since");
        }
        let mut lookups = LOOKUPS_MAX;
        for event in list.changes.unwrap_or_default() {
            if self.left == 0 {
                // The token goes on before this answer: what was shown of it comes again, and what was not is not lost.
                return Ok(());
            }
            let wants_values = lookups > 0 && !matches!(event.kind, EventKind::Delete | EventKind::Leave);
            let values = if wants_values { self.values(&event).await? } else { Vec::new() };
            lookups -= usize::from(wants_values);
            self.print(&event, &values)?;
            self.left -= 1;
        }
        self.token = list.sequence;
        Ok(())
    }

    /// The values that the change is about, as they are: those of the changed properties, or the name of what is new here.
    async fn values(&self, event: &Event) -> Result<Vec<(String, Value)>> {
        let TypedId { resource_type, id } = event.resource.clone();
        let resource = match self.context.client.call(Get, GetInput { resource_type, id }).await {
            Ok(resource) => resource,
            // It has ended since; its own event follows.
            Err(error) if error.kind() == Some(ErrorKind::NotFound) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let properties = json::of_data(&resource.properties.0);
        let at = |path: &str| path.split('/').try_fold(&properties, |value, name| value.get(name)).cloned();
        let paths = event.properties.clone().unwrap_or_else(|| vec!["name".to_owned()]);
        Ok(paths
            .into_iter()
            .map(|path| (at(&path).unwrap_or(Value::Null), path))
            .map(|(value, path)| (path, value))
            .collect())
    }

    fn print(&self, event: &Event, values: &[(String, Value)]) -> Result<()> {
        let line = if self.as_json {
            let mut line = json::value(event);
            if !values.is_empty() {
                line["values"] = values.iter().map(|(path, value)| (path.clone(), value.clone())).collect();
            }
            line.to_string()
        } else {
            self.line(event, values)
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        Ok(())
    }

    fn line(&self, event: &Event, values: &[(String, Value)]) -> String {
        let colour = match event.kind {
            EventKind::Create => 32,
            EventKind::Update => 33,
            EventKind::Delete => 31,
            EventKind::Enter => 36,
            EventKind::Leave => 35,
        };
        let kind = self.paint.apply(colour, &format!("{:<6}", event.kind.name()));
        let mut line = format!("{} {kind} {} {}", clock(), event.resource.resource_type, visible(&event.resource.id));
        let mut parts: Vec<String> = values.iter().map(|(path, value)| format!("{path}={}", shown(value))).collect();
        if parts.is_empty() {
            parts = event.properties.clone().unwrap_or_default();
        }
        if !parts.is_empty() {
            line += &format!("  {}", parts.join(", "));
        }
        if !event.parent_resources.is_empty() {
            let parents: Vec<&str> = event.parent_resources.iter().map(|parent| &*parent.id).collect();
            line += &self.paint.apply(2, &format!("  in {}", visible(&parents.join(" < "))));
        }
        line
    }

    /// Shows what is there as if it had just been created, and answers the token of the moment before.
    async fn show_present(&mut self) -> Result<String> {
        let Some(filter) = self.present_filter() else {
            return Err(
                Usage("--since-start needs --type or --filter: `lockstep export` shows everything".to_owned()).into()
            );
        };
        let mut token = None;
        let mut offset = 0;
        loop {
            let query_spec = QuerySpec {
                resource_filter: filter.clone(),
                property_spec: Vec::new(),
                sort_criteria: None,
                offset: Some(offset),
                limit: Some(PAGE_ROWS),
                compute_total_item_count: None,
            };
            let page = self.context.client.ask(Query, QueryInput { query_spec }).await?;
            // From the first page's moment on: a change while pages are turned may be shown twice, and none is missing.
            token = token.or(page.sequence);
            let rows = i64::try_from(page.output.items.len()).unwrap_or(i64::MAX);
            for item in page.output.items {
                let event = Event {
                    resource: item.resource_id,
                    kind: EventKind::Create,
                    properties: None,
                    parent_resources: Vec::new(),
                };
                if self.left > 0 {
                    self.print(&event, &[])?;
                    self.left -= 1;
                }
            }
            offset += rows;
            if rows < PAGE_ROWS || self.left == 0 {
                return token.context("the answer to the query has no sequence token");
            }
        }
    }

    /// The filter for what the feed is asked for: any of the types, and the conditions.
    fn present_filter(&self) -> Option<ResourceFilter> {
        let types = self.types.iter().map(|name| ResourceFilter {
            filter_type: FilterType::Type,
            resource_type: Some(name.clone()),
            resource_id: None,
            property_filter: None,
            composite_filter: None,
        });
        let types = composite(CompositeOperator::Union, types.collect());
        composite(CompositeOperator::Intersect, types.into_iter().chain(self.filter.clone()).collect())
    }
}

/// The composition of filters; of one, that one.
fn composite(operator: CompositeOperator, mut filters: Vec<ResourceFilter>) -> Option<ResourceFilter> {
    if filters.len() < 2 {
        return filters.pop();
    }
    Some(ResourceFilter {
        filter_type: FilterType::Composite,
        resource_type: None,
        resource_id: None,
        property_filter: None,
        composite_filter: Some(Box::new(CompositeFilter { operator, filters })),
    })
}

/// A value in a line: short, and without anything a terminal would obey.
fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = match value {
        Value::Null => "unset".to_owned(),
        Value::Array(_) => format!("[{}]", text(value, ", ")),
        value => text(value, ", "),
    };
    let text = visible(&text);
    if text.chars().count() > CHARS_MAX {
        return text.chars().take(CHARS_MAX - 1).chain(['…']).collect();
    }
    text
}

/// The time of day, in UTC.
fn clock() -> String {
    jiff::Timestamp::now().strftime("%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: EventKind, properties: Option<&[&str]>) -> Event {
        let id = |t: &str, id: &str| TypedId { resource_type: t.to_owned(), id: id.to_owned() };
        Event {
            resource: id("VirtualMachine", "vm-1"),
            kind,
            properties: properties.map(|p| p.iter().map(|p| (*p).to_owned()).collect()),
            parent_resources: vec![id("HostSystem", "h"), id("ClusterComputeResource", "c")],
        }
    }

    #[test]
    fn values_in_a_line_are_short_and_harmless() {
        for (value, expected) in [
            (json!(null), "unset"),
            (json!(["a", "b"]), "[a, b]"),
            (json!({"type": "HostSystem", "id": "h"}), "h"),
            (json!("a\u{1b}[2J"), "a\u{fffd}[2J"),
        ] {
            assert_eq!(shown(&value), expected);
        }
        assert_eq!(shown(&json!("x".repeat(100))).chars().count(), 60);
    }

    #[test]
    fn a_composition_of_one_is_that_one() {
        assert_eq!(composite(CompositeOperator::Union, Vec::new()), None);
        let event = event(EventKind::Update, Some(&["name"]));
        assert_eq!(json::value(&event)["kind"], "UPDATE");
    }
}
