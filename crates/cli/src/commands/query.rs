//! `lockstep query`: resources that match, with their properties.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use indicatif::HumanCount;
use lockstep_client::Answer;
use lockstep_contract::services::resource_model::{Query, QueryInput, QuerySpec, ResultSet};
use lockstep_contract::services::site::{self, ExplainInput, TextInput};
use serde_json::{Value, json};

use super::{Context, read_input};
use crate::failure::Usage;
use crate::json;
use crate::output::{Format, Listing, print, print_line, visible};
use crate::progress;

/// Rows of a page, when pages are followed.
const PAGE_ROWS: i64 = 1000;

/// A query, and how to ask it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep query \"VirtualMachine where cpu_count >= 8 select name, host.name order by name limit 10\"\n  \
    lockstep query \"VirtualMachine where host.cluster.name = prod and power_state = POWERED_ON\" --explain\n  \
    lockstep query \"HostSystem select name, hardware.cpu_cores\" --all --output csv > hosts.csv\n  \
    lockstep query --spec query.json --count\n\n\
    Conditions: = != < <= > >= contains, starts with, ends with, in (…), id is …; and, or, parentheses.")]
pub struct QueryArgs {
    /// The query
    #[arg(required_unless_present = "spec", conflicts_with = "spec")]
    text: Vec<String>,

    /// File with the query as JSON, {"resource_filter": …, "property_spec": […], …}, alone or as "query_spec"; - for standard input
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,

    /// Show how the query is answered, and what that costs
    #[arg(long)]
    explain: bool,

    /// Follow the pages to the end
    #[arg(long, conflicts_with = "explain")]
    all: bool,

    /// Count all that match
    #[arg(long, conflicts_with = "explain")]
    count: bool,
}

/// A query in one of its forms.
enum Asked {
    Text(String),
    Spec(Box<QuerySpec>),
}

impl QueryArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let mut asked = match &self.spec {
            None => Asked::Text(self.text.join(" ")),
            Some(file) => Asked::Spec(Box::new(read_spec(file)?)),
        };
        if self.explain {
            explain(context, asked).await?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.count {
            asked.count();
        }
        let answer = if self.all { all(context, asked).await? } else { asked.ask(context).await? };
        let listing = listing(&answer.output);
        print(context.output, &listing, &json::value(&answer.output))?;
        if context.output == Format::Table {
            eprintln!("{}", footer(&answer));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read_spec(file: &std::path::Path) -> Result<QuerySpec> {
    let text = read_input(file)?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let spec = value.get("query_spec").unwrap_or(&value);
    json::decode(spec.to_string().as_bytes()).with_context(|| format!("{} is no query", file.display()))
}

impl Asked {
    async fn ask(self, context: &Context) -> Result<Answer<ResultSet>> {
        Ok(match self {
            Self::Text(text) => context.client.ask(site::Query, TextInput { text }).await?,
            Self::Spec(spec) => context.client.ask(Query, QueryInput { query_spec: *spec }).await?,
        })
    }

    /// Asks for the number of all that match.
    fn count(&mut self) {
        match self {
            Self::Text(text) if has_word(text, "count") => {}
            Self::Text(text) => text.push_str(" count"),
            Self::Spec(spec) => spec.compute_total_item_count = Some(true),
        }
    }

    /// The same query for the page at `offset`.
    fn page(&self, offset: i64) -> Self {
        match self {
            Self::Text(text) => Self::Text(format!("{text} limit {PAGE_ROWS} offset {offset}")),
            Self::Spec(spec) => {
                let mut spec = spec.clone();
                spec.limit = Some(PAGE_ROWS);
                spec.offset = Some(offset);
                Self::Spec(spec)
            }
        }
    }

    fn has_page(&self) -> bool {
        match self {
            Self::Text(text) => has_word(text, "limit") || has_word(text, "offset"),
            Self::Spec(spec) => spec.limit.is_some() || spec.offset.is_some(),
        }
    }
}

/// Whether a word of the language stands in a query, outside of quotes.
fn has_word(text: &str, word: &str) -> bool {
    let mut quote = None;
    let outside: String = text
        .chars()
        .map(|c| match quote {
            None if matches!(c, '"' | '\'') => {
                quote = Some(c);
                ' '
            }
            None => c,
            Some(open) => {
                if c == open {
                    quote = None;
                }
                ' '
            }
        })
        .collect();
    outside.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found.eq_ignore_ascii_case(word))
}

/// All pages as one answer. It is from one moment only when nothing changed meanwhile; the footer says when something did.
async fn all(context: &Context, asked: Asked) -> Result<Answer<ResultSet>> {
    if asked.has_page() {
        return Err(Usage("--all turns the pages itself: leave out limit and offset".to_owned()).into());
    }
    let mut whole = asked.page(0).ask(context).await?;
    let mut last_page = whole.output.items.len();
    while last_page as i64 == PAGE_ROWS {
        let offset = i64::try_from(whole.output.items.len()).unwrap_or(i64::MAX);
        let page = asked.page(offset).ask(context).await?;
        last_page = page.output.items.len();
        whole.output.items.extend(page.output.items);
        if page.sequence != whole.sequence {
            whole.sequence = None;
        }
    }
    if whole.sequence.is_none() {
        eprintln!("the inventory changed while the pages were read: a row may be missing or be there twice");
    }
    Ok(whole)
}

/// The answer as rows: the type where there are several, the id, and the properties that any row has.
fn listing(result: &ResultSet) -> Listing {
    let mut paths: Vec<&str> = Vec::new();
    for value in result.items.iter().flat_map(|item| &item.property_values) {
        if !paths.contains(&&*value.property) {
            paths.push(&value.property);
        }
    }
    let first = result.items.first().map(|item| &item.resource_id.resource_type);
    let has_types = result.items.iter().any(|item| Some(&item.resource_id.resource_type) != first);
    let types = has_types.then_some("type");
    let mut listing = Listing::new(types.into_iter().chain(["id"]).chain(headings(&paths).iter().map(|h| &**h)));
    for item in &result.items {
        let value = |path: &&str| {
            let found = item.property_values.iter().find(|value| value.property == *path);
            found.map_or(Value::Null, |value| json::of_data(&value.value.0))
        };
        let types = has_types.then(|| json!(item.resource_id.resource_type));
        listing.push(types.into_iter().chain([json!(item.resource_id.id)]).chain(paths.iter().map(value)));
    }
    listing
}

/// The paths without their models, where that leaves them different.
fn headings(paths: &[&str]) -> Vec<String> {
    let short: Vec<String> = paths
        .iter()
        .map(|path| {
            let names = path.split("->").map(|hop| hop.split_once('/').map_or(hop, |(_, name)| name));
            names.collect::<Vec<_>>().join("->")
        })
        .collect();
    let is_unique = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    short
        .iter()
        .zip(paths)
        .map(|(name, path)| if is_unique(name) { name.clone() } else { (*path).to_owned() })
        .collect()
}

fn footer(answer: &Answer<ResultSet>) -> String {
    let mut text = progress::count(answer.output.items.len() as u64, "row", "rows");
    if let Some(total) = answer.output.total_item_count {
        text += &format!(" of {}", HumanCount(total.unsigned_abs()));
    }
    if let Some(position) = answer.position {
        text += &format!(", position {position}");
    }
    if let Some(cost) = &answer.cost {
        text += &format!(", {}", cost.replace(';', ", "));
    }
    if let Some(token) = &answer.sequence {
        text += &format!("\nchanges since then: lockstep watch --from {token}");
    }
    text
}

async fn explain(context: &Context, asked: Asked) -> Result<()> {
    let input = match asked {
        Asked::Text(text) => ExplainInput { query_spec: None, text: Some(text) },
        Asked::Spec(spec) => ExplainInput { query_spec: Some(*spec), text: None },
    };
    let explained = json::of_data(&context.client.call(site::Explain, input).await?.0);
    if context.output != Format::Table {
        return print(context.output, &Listing::of_leaves(&explained), &explained);
    }
    let mut lines = Vec::new();
    for one in members(&explained, "types") {
        lines.push(format!("{} ({} resources)", words(one, "resource_type"), words(one, "resources")));
        if let Some(filter) = one.get("filter") {
            explain_filter(filter, 1, &mut lines);
        }
    }
    for (i, order) in members(&explained, "order").iter().enumerate() {
        lines.push(format!("{} {}", if i == 0 { "order by" } else { "    then" }, order.as_str().unwrap_or_default()));
    }
    if let Some(Value::Object(cost)) = explained.get("cost") {
        let cost: Vec<String> =
            cost.iter().map(|(name, value)| format!("{name}={}", crate::output::text(value, ","))).collect();
        lines.push(format!("cost: {}", cost.join(", ")));
    }
    print_line(&lines.join("\n"))
}

/// A filter and what it consists of, one below the other.
fn explain_filter(filter: &Value, depth: usize, lines: &mut Vec<String>) {
    let mut line = format!("{:indent$}{}", "", words(filter, "what"), indent = depth * 2);
    for name in ["by", "estimate", "rows", "tested"] {
        let value = words(filter, name);
        if !value.is_empty() {
            line += &format!("  {name} {value}");
        }
    }
    lines.push(line);
    members(filter, "parts").iter().for_each(|part| explain_filter(part, depth + 1, lines));
}

fn members<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], |items| items)
}

fn words(value: &Value, name: &str) -> String {
    value.get(name).map(|value| visible(&crate::output::text(value, ", "))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(result: &Value, columns: &[&str], rows: &Value) {
        let result: ResultSet = json::decode(result.to_string().as_bytes()).unwrap();
        let listing = listing(&result);
        assert_eq!(listing.columns, columns);
        assert_eq!(json!(listing.rows), *rows);
    }

    #[test]
    fn columns_are_the_properties_that_any_row_has() {
        let item =
            |t: &str, id: &str, values: Value| json!({"resource_id": {"type": t, "id": id}, "property_values": values});
        let value = |p: &str, v: Value| json!({"property": p, "value": v});
        let cluster = "VM/host->Host/cluster->Cluster/name";
        let one = item("VM", "1", json!([value("VM/name", json!("a"))]));
        let two = item("VM", "2", json!([value(cluster, json!("c")), value("VM/name", json!("b"))]));
        check(
            &json!({"items": [one, two]}),
            &["id", "name", "host->cluster->name"],
            &json!([["1", "a", null], ["2", "b", "c"]]),
        );
        let other = item("Host", "1", json!([value("Host/name", json!("h"))]));
        check(
            &json!({"items": [one, other]}),
            &["type", "id", "VM/name", "Host/name"],
            &json!([["VM", "1", "a", null], ["Host", "1", null, "h"]]),
        );
        check(&json!({"items": []}), &["id"], &json!([]));
    }

    #[test]
    fn words_in_quotes_are_not_of_the_language() {
        assert!(has_word("VM where a = 1 LIMIT 10", "limit"));
        assert!(!has_word("VM where a = 'no limit' and b = \"offset\"", "limit"));
        assert!(!has_word("VM where memory_limit = 1", "limit"));
    }
}
