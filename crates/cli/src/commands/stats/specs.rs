//! `lockstep stats specs`: acquisition specifications, which say what is sampled.

use std::collections::BTreeMap;

use anyhow::Result;
use lockstep_client::{Client, ClientError, SpecCache};
use lockstep_contract::services::stats::acq_specs::{
    CounterSpec, Create, CreateInput, CreateSpec, Delete, FilterSpec, Get, IdInput, Info, List, ListInput, Status,
    Update, UpdateInput, UpdateSpec,
};
use lockstep_contract::services::stats::{CidMid, RsrcId};
use serde_json::{Value, json};

use super::known::Known;
use super::resources::{Resource, shown_all};
use crate::commands::Context;
use crate::failure::Usage;
use crate::output::{Format, Listing, print, print_line};
use crate::{json, times};

/// List, create, change and delete acquisition specifications: what is sampled.
#[derive(Debug, clap::Subcommand)]
pub enum SpecsCommand {
    /// List the specifications, with the reason where one is not ENABLED.
    ///
    /// ENABLED: it is sampled. DISABLED: no provider that is present offers its counters. EXPIRED: its time is over; an update
    /// that gives it more time revives it.
    #[command(after_help = "Examples:\n  lockstep stats specs list\n  lockstep stats specs list --output json")]
    List,
    /// Show a specification.
    #[command(after_help = "Example:\n  lockstep stats specs get 12")]
    Get {
        /// The specification's id
        id: String,
    },
    /// Ask for samples. Prints the specification's id.
    ///
    /// Several --resource describe one pattern: VM=ALL with HOST=host-1 means every VM on that host. ALL is looked at anew at every
    /// sample: what comes later is sampled too.
    #[command(after_help = "Examples:\n  \
        lockstep stats specs create --counter cpu.capacity.usage.HOST --resource HOST=host-1\n  \
        lockstep stats specs create --set mem.VM --resource VM=ALL --interval 30s --for 2h --memo 'memory hunt'\n  \
        lockstep stats specs create --counter disk.throughput.usage.VM --resource VM=ALL --resource HOST=host-1 \
--until 2026-11-26T10:00:00Z")]
    Create {
        #[command(flatten)]
        counters: CountersOf,
        /// Of which resources: HOST=host-1, VM=ALL, or VM for the same; may be given several times
        #[arg(long = "resource", value_name = "TYPE=ID", required = true)]
        resources: Vec<Resource>,
        #[command(flatten)]
        rest: Rest,
    },
    /// Change a specification; what is not given stays.
    #[command(after_help = "Examples:\n  \
        lockstep stats specs update 12 --for 8h\n  \
        lockstep stats specs update 12 --interval 1m --memo 'not that urgent'")]
    Update {
        /// The specification's id
        id: String,
        #[command(flatten)]
        counters: CountersOf,
        /// Of which resources; may be given several times, and together they take the place of all before
        #[arg(long = "resource", value_name = "TYPE=ID")]
        resources: Vec<Resource>,
        #[command(flatten)]
        rest: Rest,
    },
    /// Delete specifications. The samples that were taken stay.
    #[command(after_help = "Example:\n  lockstep stats specs delete 12 13")]
    Delete {
        /// The specifications' ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// What is sampled: a counter or a set.
#[derive(Debug, clap::Args)]
pub struct CountersOf {
    /// The counter, as `lockstep stats counters` lists them
    #[arg(long, value_name = "CID", value_parser = Known::Counters, hide_possible_values = true)]
    counter: Option<String>,
    /// A set of counters in place of one, as `lockstep stats sets` lists them
    #[arg(long, value_name = "ID", conflicts_with = "counter", value_parser = Known::Sets, hide_possible_values = true)]
    set: Option<String>,
}

/// How often, until when, and why.
#[derive(Debug, clap::Args)]
pub struct Rest {
    /// Time between samples, in whole seconds [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = times::seconds)]
    interval: Option<i64>,
    /// For how long from now on, e.g. 2h [default: 100 minutes]
    #[arg(long = "for", value_name = "TIME", value_parser = times::seconds, conflicts_with = "until")]
    lasting: Option<i64>,
    /// Until when, e.g. 2026-11-26T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = times::instant)]
    until: Option<i64>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    memo: Option<String>,
}

impl CountersOf {
    fn spec(self) -> Option<CounterSpec> {
        match (self.counter, self.set) {
            (Some(cid), _) => Some(of_counter(&cid)),
            (None, Some(set)) => Some(CounterSpec { cid_mid: None, set_id: Some(set) }),
            (None, None) => None,
        }
    }
}

/// What samples one counter.
pub(crate) fn of_counter(cid: &str) -> CounterSpec {
    CounterSpec { cid_mid: Some(CidMid { cid: cid.to_owned(), mid: None }), set_id: None }
}

impl Rest {
    /// The end, in seconds since 1970.
    fn expiration(&self, now_s: i64) -> Option<i64> {
        self.until.or_else(|| self.lasting.map(|lasting_s| now_s.saturating_add(lasting_s)))
    }
}

fn in_spec(resources: &[Resource]) -> Vec<RsrcId> {
    resources.iter().map(Resource::in_spec).collect()
}

impl SpecsCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let client = &context.client;
        match self {
            Self::List => list(context).await?,
            Self::Get { id } => {
                let spec = client.call(Get, IdInput { id }).await?;
                let reason = reasons(client, std::slice::from_ref(&spec)).await?.remove(&spec.id);
                let listing = match context.output {
                    Format::Table => card(&spec, reason.as_deref(), times::now_s()),
                    _ => Listing::of_leaves(&json::value(&spec)),
                };
                print(context.output, &listing, &with_reason(&spec, reason.as_deref()))?;
            }
            Self::Create { counters, resources, rest } => {
                let Some(counters) = counters.spec() else {
                    let text = "nothing to sample: give --counter CID (`lockstep stats counters`) or --set ID (`lockstep stats sets`)";
                    return Err(Usage(text.to_owned()).into());
                };
                let acq_spec = CreateSpec {
                    counters,
                    resources: in_spec(&resources),
                    interval: rest.interval,
                    expiration: rest.expiration(times::now_s()),
                    memo_: rest.memo,
                };
                let id = client.call(Create, CreateInput { acq_spec }).await?;
                let mut listing = Listing::new(["id"]);
                listing.push([json!(id)]);
                match context.output {
                    Format::Table => print_line(&id)?,
                    output => print(output, &listing, &json!(id))?,
                }
                tell(client, id).await?;
            }
            Self::Update { id, counters, resources, rest } => {
                let acq_spec = UpdateSpec {
                    counters: counters.spec(),
                    resources: (!resources.is_empty()).then(|| in_spec(&resources)),
                    interval: rest.interval,
                    expiration: rest.expiration(times::now_s()),
                    memo_: rest.memo,
                };
                let UpdateSpec { counters, resources, interval, expiration, memo_ } = &acq_spec;
                let is_empty = counters.is_none() && resources.is_none() && interval.is_none();
                if is_empty && expiration.is_none() && memo_.is_none() {
                    return Err(Usage("nothing to change".to_owned()).into());
                }
                client.call(Update, UpdateInput { id: id.clone(), acq_spec }).await?;
                tell(client, id).await?;
            }
            Self::Delete { ids } => {
                for id in ids {
                    client.call(Delete, IdInput { id: id.clone() }).await?;
                    eprintln!("deleted {id}");
                }
            }
        }
        Ok(())
    }
}

/// Tells people what has become of a specification.
async fn tell(client: &Client, id: String) -> Result<()> {
    let spec = client.call(Get, IdInput { id }).await?;
    let reason = reasons(client, std::slice::from_ref(&spec)).await?.remove(&spec.id);
    eprintln!("{}", sentence(&spec, reason.as_deref(), times::now_s()));
    Ok(())
}

/// A specification in a sentence.
fn sentence(spec: &Info, reason: Option<&str>, now_s: i64) -> String {
    let interval = spec.interval.map(|s| format!(" every {}", times::span(s))).unwrap_or_default();
    let end = spec.expiration.map(|end_s| format!(", expires {}", times::relative(end_s, now_s))).unwrap_or_default();
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let (counters, resources) = (shown_counters(&spec.counters), shown_all(&spec.resources));
    crate::output::visible(&format!(
        "{}: {counters} of {resources}{interval}{end}: {}{reason}",
        spec.id,
        spec.status.name()
    ))
}

async fn list(context: &Context) -> Result<()> {
    let specs = all(&context.client).await?;
    let reasons = reasons(&context.client, &specs).await?;
    let reason = |spec: &Info| reasons.get(&spec.id).map(String::as_str);
    let listing = listing(context.output, &specs, &reason, times::now_s());
    let value: Vec<Value> = specs.iter().map(|spec| with_reason(spec, reason(spec))).collect();
    print(context.output, &listing, &Value::Array(value))?;
    if specs.is_empty() {
        eprintln!(
            "no specifications: nothing is sampled; `lockstep stats specs create --help` shows how to ask for samples"
        );
    }
    Ok(())
}

fn listing<'r>(output: Format, specs: &[Info], reason: &impl Fn(&Info) -> Option<&'r str>, now_s: i64) -> Listing {
    let is_csv = output == Format::Csv;
    let expires = if is_csv { "expiration" } else { "expires" };
    let mut listing = Listing::new(["id", "counters", "resources", "interval", expires, "status", "memo"])
        .at_right(&["id", "interval"]);
    for spec in specs {
        let status = match reason(spec) {
            Some(reason) => format!("{} ({reason})", spec.status.name()),
            None => spec.status.name().to_owned(),
        };
        let time = |seconds: i64| if is_csv { times::utc(seconds) } else { times::relative(seconds, now_s) };
        listing.push([
            json!(spec.id),
            json!(shown_counters(&spec.counters)),
            json!(shown_all(&spec.resources)),
            json!(spec.interval.map(|seconds| if is_csv { seconds.to_string() } else { times::span(seconds) })),
            json!(spec.expiration.map(time)),
            json!(status),
            json!(spec.memo_),
        ]);
    }
    listing
}

/// A specification, a property a line.
fn card(spec: &Info, reason: Option<&str>, now_s: i64) -> Listing {
    let end = spec.expiration.map(|at| format!("{}, {}", times::utc(at), times::relative(at, now_s)));
    let mut listing = Listing::new(["property", "value"]);
    for (property, value) in [
        ("id", json!(spec.id)),
        ("counters", json!(shown_counters(&spec.counters))),
        ("resources", json!(shown_all(&spec.resources))),
        ("interval", json!(spec.interval.map(times::span))),
        ("expires", json!(end)),
        ("status", json!(spec.status.name())),
        ("reason", json!(reason)),
        ("memo", json!(spec.memo_)),
    ] {
        listing.push([json!(property), value]);
    }
    listing
}

fn with_reason(spec: &Info, reason: Option<&str>) -> Value {
    let mut value = json::value(spec);
    value["status_reason"] = json!(reason.unwrap_or_default());
    value
}

/// What is sampled, as it is typed: a counter, or `set` and the set.
pub(crate) fn shown_counters(counters: &CounterSpec) -> String {
    match (&counters.cid_mid, counters.set_id.as_deref()) {
        (_, Some(set)) if !set.is_empty() => format!("set {set}"),
        (Some(counter), _) => counter.cid.clone(),
        (None, _) => String::new(),
    }
}

/// All specifications, page after page.
///
/// # Errors
/// What hinders a call.
pub(crate) async fn all(client: &Client) -> Result<Vec<Info>, ClientError> {
    let mut all = Vec::new();
    let mut page = None;
    loop {
        let found = client.call(List, ListInput { filter: Some(FilterSpec { page }) }).await?;
        all.extend(found.acq_specs);
        page = found.next;
        if page.is_none() {
            return Ok(all);
        }
    }
}

/// Why those that are not ENABLED are not. Only the cache sync says it, so it is asked only when one is not.
async fn reasons(client: &Client, specs: &[Info]) -> Result<BTreeMap<String, String>> {
    if specs.iter().all(|spec| spec.status == Status::Enabled) {
        return Ok(BTreeMap::new());
    }
    let mut cache = SpecCache::default();
    Box::pin(cache.sync(client)).await?;
    let reasons = cache.specs.into_values().map(|spec| (spec.id, spec.status_reason));
    Ok(reasons.filter(|(_, reason)| !reason.is_empty()).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::output::table_lines;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(subcommand)]
        command: SpecsCommand,
    }

    /// A specification as a site answers it.
    pub(crate) fn spec(id: &str, counters: &Value, resource: &str, status: Status) -> Info {
        let mut spec: Info = json::decode(
            json!({
                "id": id, "counters": counters, "resources": [], "interval": 10, "expiration": 6000, "memo_": "why",
                "status": status.name(),
            })
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        spec.resources = vec![resource.parse::<Resource>().unwrap().in_spec()];
        spec
    }

    #[test]
    fn a_list_is_a_table_and_csv_has_plain_numbers() {
        let specs = [
            spec(
                "9",
                &json!({"cid_mid": {"cid": "cpu.time.user.VM", "mid": ""}, "set_id": ""}),
                "VM=ALL",
                Status::Enabled,
            ),
            spec("10", &json!({"set_id": "mem.HOST"}), "HOST=h", Status::Disabled),
        ];
        let reason = |spec: &Info| (spec.id == "10").then_some("no provider");
        assert_eq!(
            table_lines(&listing(Format::Table, &specs, &reason, 0), None),
            [
                "id  counters          resources  interval  expires    status                  memo",
                " 9  cpu.time.user.VM  VM=ALL          10s  in 1h 40m  ENABLED                 why",
                "10  set mem.HOST      HOST=h          10s  in 1h 40m  DISABLED (no provider)  why",
            ]
        );
        let csv = listing(Format::Csv, &specs, &reason, 0);
        assert_eq!((&csv.rows[0][3], &csv.rows[0][4]), (&json!("10"), &json!("1970-01-01T01:40:00Z")));
        let expected = "10: set mem.HOST of HOST=h every 10s, expires 1h 40m ago: DISABLED (no provider)";
        assert_eq!(sentence(&specs[1], Some("no provider"), 12_000), expected);
        assert_eq!(with_reason(&specs[1], Some("no provider"))["status_reason"], "no provider");
        assert_eq!(card(&specs[0], None, 0).rows[4][1], json!("1970-01-01T01:40:00Z, in 1h 40m"));
    }

    #[test]
    fn what_is_sampled_and_until_when_is_read() {
        let line = ["x", "create", "--counter", "a.HOST", "--resource", "HOST=h", "--resource", "vm", "--for", "2h"];
        let SpecsCommand::Create { counters, resources, rest } = Program::try_parse_from(line).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(counters.spec(), Some(of_counter("a.HOST")));
        assert_eq!(shown_all(&in_spec(&resources)), "HOST=h VM=ALL");
        assert_eq!((rest.expiration(100), rest.interval), (Some(7300), None));
        let line = ["x", "update", "7", "--set", "mem.VM", "--until", "2026-11-26T10:00:00Z", "--interval", "1m"];
        let SpecsCommand::Update { counters, rest, .. } = Program::try_parse_from(line).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(counters.spec().and_then(|spec| spec.set_id).as_deref(), Some("mem.VM"));
        assert_eq!((rest.expiration(100), rest.interval), (Some(1_795_687_200), Some(60)));
        for bad in [
            &["x", "create", "--counter", "a"][..],
            &["x", "create", "--counter", "a", "--set", "b", "--resource", "VM"],
            &["x", "create", "--counter", "a", "--resource", "VM="],
            &["x", "create", "--counter", "a", "--resource", "VM", "--for", "1h", "--until", "5"],
            &["x", "create", "--counter", "a", "--resource", "VM", "--interval", "500ms"],
            &["x", "delete"],
        ] {
            assert!(Program::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
