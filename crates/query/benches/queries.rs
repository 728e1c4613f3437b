//! Loads an inventory and times a list of queries on it, without any server around.
//!
//! ```text
//! cargo bench -p lockstep-query --bench queries -- INVENTORY.ndjson VALUES.json QUERIES.json
//!     [--updates UPDATES.ndjson] [--answers FORMS] [--only NAME]
//! ```
//!
//! `INVENTORY` has a resource a line, `QUERIES` an object of `query_spec`s with the places to vary, and `VALUES` the pools
//! that fill those places. Prints the speed of loading, the memory a resource takes, and for each query the median and the
//! 99th percentile of answering and writing JSON, in microseconds. With `--updates`, a stream of changes is then applied,
//! a commit each, to the view with all the indexes that the queries built. `--answers N` prints the answers of the fixed form and
//! of `N` varied ones instead, to be compared with another evaluator's.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_journal::{Change, Commit, Operation, StateEntry};
use lockstep_model::{LeafPath, Position, Registry, ResourceId};
use lockstep_query::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, Query, QuerySpec, SortDirection,
    SortSpec, View,
};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Timed runs of each query, after some that are not.
const RUNS: usize = 1000;
/// Resources that are read, then loaded, in turn: few enough that they are still in the cache, as they are for a server.
const CHUNK: usize = 64;
const WARM_UP_RUNS: usize = 100;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    resource_type: &'a str,
    id: &'a str,
    #[serde(borrow)]
    properties: &'a RawValue,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let flag = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
    let [inventory, values, queries, ..] = &args[..] else {
        println!("usage: cargo bench -p lockstep-query --bench queries -- INVENTORY.ndjson VALUES.json QUERIES.json");
        return Ok(());
    };
    let updates = flag("--updates");
    let answers = flag("--answers").map(|n| n.parse::<usize>()).transpose()?;
    let only = flag("--only");
    let mut view = View::new(Registry::new());
    load(&mut view, inventory, answers.is_none())?;
    let values: Value = serde_json::from_reader(BufReader::new(File::open(values)?))?;
    let file: Value = serde_json::from_reader(BufReader::new(File::open(queries)?))?;
    let mut printed = serde_json::Map::new();
    if answers.is_none() {
        println!(
            "{:4} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}  indexes",
            "", "first ms", "compile", "answer", "json", "median", "p99", "matched"
        );
    }
    for group in ["queries", "extras"] {
        for (name, entry) in file[group].as_object().into_iter().flatten() {
            if only.as_ref().is_some_and(|only| only != name) {
                continue;
            }
            match answers {
                None => time(&view, name, entry, &values)?,
                Some(forms) => drop(printed.insert(name.clone(), answer(&view, entry, &values, forms)?)),
            }
        }
    }
    if let Some(updates) = updates {
        apply(&mut view, &updates)?;
    }
    if answers.is_some() {
        println!("{}", Value::Object(printed));
        return Ok(());
    }
    let memory = view.memory();
    let resources: usize = memory.types.iter().map(|t| t.resources).sum();
    println!(
        "\nwith indexes: {} B of memory a resource by the system's count",
        resident_bytes()? / resources.max(1) as u64
    );
    for t in memory.types.iter().filter(|t| t.resources > 1000) {
        let per = |bytes: usize| bytes / t.resources;
        let (ids, texts, values, indexes) = (per(t.ids), per(t.texts), per(t.values), per(t.indexes));
        println!(
            "{:24} {:>8} resources, bytes each: ids {ids}, texts {texts}, values {values}, indexes {indexes}",
            t.resource_type, t.resources
        );
    }
    Ok(())
}

fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).unwrap_or_default().parse()?;
    Ok(pages * 4096)
}

fn load(view: &mut View, path: &str, report: bool) -> Result<()> {
    let registry = Registry::new();
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut reading, mut loading, mut count) = (Duration::ZERO, Duration::ZERO, 0u64);
    let mut text = String::new();
    let before = resident_bytes()?;
    loop {
        let started = Instant::now();
        let mut entries = Vec::with_capacity(CHUNK);
        while entries.len() < CHUNK {
            text.clear();
            if reader.read_line(&mut text)? == 0 {
                break;
            }
            let line: Line<'_> = serde_json::from_str(&text)?;
            let def = registry.type_def(line.resource_type).ok_or("unknown type")?;
            let document = def.read_document(line.properties.get())?;
            let id = ResourceId::new(def.name.clone(), line.id);
            let at = Position(1 + count / 1000);
            entries.push(StateEntry { id, document, created: at, modified: at, created_ms: 0, modified_ms: 0 });
        }
        reading += started.elapsed();
        if entries.is_empty() {
            break;
        }
        let started = Instant::now();
        entries.iter().for_each(|entry| view.load(entry));
        count += entries.len() as u64;
        loading += started.elapsed();
    }
    if report {
        let speed = |time: Duration| count as f64 / time.as_secs_f64();
        println!(
            "{count} resources: {:.0}/s read from JSON, {:.0}/s loaded into the view",
            speed(reading),
            speed(loading)
        );
        println!(
            "without indexes: {} B of memory a resource by the system's count\n",
            (resident_bytes()? - before) / count.max(1)
        );
    }
    Ok(())
}

/// Applies a stream of `{"op":…,"type":…,"id":…,"properties":…}`, a commit for each line.
fn apply(view: &mut View, path: &str) -> Result<()> {
    let mut times = Vec::new();
    let started_at = view.position().0;
    for (i, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = line?;
        let json: Value = serde_json::from_str(&line)?;
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let def = view.registry().type_def(&text("type")).ok_or("unknown type")?.clone();
        let id = ResourceId::new(def.name.clone(), text("id"));
        let operation = match &*text("op") {
            "CREATE" => Operation::Create(def.read_document(&json["properties"].to_string())?),
            "DELETE" => Operation::Delete(view.get(&id).ok_or("no such resource")?.document),
            _ => {
                let old = view.get(&id).ok_or("no such resource")?.document;
                let mut new = old.clone();
                for (path, value) in json["properties"].as_object().into_iter().flatten() {
                    new.set(path, def.read_value(&LeafPath::new(path.as_str()), &value.to_string())?);
                }
                Operation::Update(old.diff(&new))
            }
        };
        let changes = vec![Change { id, operation, parents: Arc::new([]) }];
        let commit =
            Commit { position: Position(started_at + 1 + i as u64), time_ms: 0, author: "bench".into(), changes };
        let started = Instant::now();
        view.apply(&commit);
        times.push(started.elapsed());
    }
    times.sort();
    let micros = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_nanos() as f64 / 1000.0;
    eprintln!(
        "\n{} commits of one change: median {:.1} us, p99 {:.1} us, worst {:.1} us",
        times.len(),
        micros(50),
        micros(99),
        micros(100)
    );
    Ok(())
}

/// The query with the `k`th entry of each pool in its place.
fn vary(entry: &Value, values: &Value, k: usize) -> Value {
    let mut spec = entry["query_spec"].clone();
    for (pointer, pool) in entry["vary"].as_object().into_iter().flatten() {
        let pool = values[pool.as_str().unwrap_or_default()].as_array();
        if let (Some(place), Some(pool)) = (spec.pointer_mut(pointer), pool) {
            *place = pool[k % pool.len()].clone();
        }
    }
    spec
}

fn time(view: &View, name: &str, entry: &Value, values: &Value) -> Result<()> {
    let specs = (0..RUNS).map(|k| spec(&vary(entry, values, k))).collect::<Result<Vec<_>>>()?;
    let limits = Limits::default();
    let mut out = Vec::new();
    let mut run = |spec: &QuerySpec| -> Result<[Duration; 3]> {
        let started = Instant::now();
        let query = Query::compile(spec, view.registry(), &limits)?;
        let compiled = started.elapsed();
        let answer = view.query(&query);
        let answered = started.elapsed();
        out.clear();
        answer.write_plain_json(&mut out);
        Ok([compiled, answered - compiled, started.elapsed() - answered])
    };
    let first: Duration = run(&specs[0])?.iter().sum();
    for spec in specs.iter().take(WARM_UP_RUNS) {
        run(spec)?;
    }
    let mut times: Vec<[Duration; 3]> = specs.iter().map(&mut run).collect::<Result<_>>()?;
    let median = |part: usize| {
        let mut of: Vec<Duration> = times.iter().map(|t| t[part]).collect();
        of.sort();
        of[of.len() / 2].as_nanos() as f64 / 1000.0
    };
    let parts = [median(0), median(1), median(2)];
    times.sort_by_key(|t| t.iter().sum::<Duration>());
    let at = |share: usize| times[times.len() * share / 100].iter().sum::<Duration>().as_nanos() as f64 / 1000.0;
    let query = Query::compile(&specs[0], view.registry(), &limits)?;
    let answer = view.query(&query);
    println!(
        "{name:4} {:>9.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>9}  {}",
        first.as_secs_f64() * 1000.0,
        parts[0],
        parts[1],
        parts[2],
        at(50),
        at(99),
        answer.cost().rows_matched.unwrap_or_default(),
        answer.cost().indexes.join(", ")
    );
    Ok(())
}

fn answer(view: &View, entry: &Value, values: &Value, forms: usize) -> Result<Value> {
    let mut out = serde_json::Map::new();
    let varied = if entry["vary"].as_object().is_some_and(|v| !v.is_empty()) { forms } else { 0 };
    let forms = std::iter::once(("fixed".to_owned(), entry["query_spec"].clone()));
    for (label, form) in forms.chain((0..varied).map(|k| (k.to_string(), vary(entry, values, k)))) {
        let query = Query::compile(&spec(&form)?, view.registry(), &Limits::default())?;
        let answer = view.query(&query);
        let mut json = Vec::new();
        answer.write_plain_json(&mut json);
        let items: Vec<Value> = serde_json::from_slice(&json)?;
        let ids: Vec<&Value> = items.iter().map(|item| &item["resource_id"]["id"]).collect();
        let printed = serde_json::json!({
            "matched": answer.cost().rows_matched,
            "ids": ids,
            "total_item_count": answer.total(),
            "first": items[..items.len().min(2)],
        });
        out.insert(label, printed);
    }
    Ok(Value::Object(out))
}

/// The parts of the wire's query spec that the queries use.
fn spec(json: &Value) -> Result<QuerySpec> {
    let texts = |at: &Value| at.as_array().into_iter().flatten().filter_map(|v| Some(v.as_str()?.to_owned())).collect();
    let sort = json["sort_criteria"].as_array().into_iter().flatten().map(|sort| SortSpec {
        property: sort["property"].as_str().unwrap_or_default().to_owned(),
        direction: if sort["sort_direction"] == "DESCENDING" {
            SortDirection::Descending
        } else {
            SortDirection::Ascending
        },
    });
    Ok(QuerySpec {
        resource_filter: filter(&json["resource_filter"])?,
        property_spec: texts(&json["property_spec"]),
        sort_criteria: sort.collect(),
        offset: json["offset"].as_i64().unwrap_or(0),
        limit: json["limit"].as_i64(),
        compute_total_item_count: json["compute_total_item_count"] == true,
    })
}

fn filter(json: &Value) -> Result<FilterSpec> {
    let text = |at: &Value| at.as_str().unwrap_or_default().to_owned();
    let id = |at: &Value| ResourceId::new(&*text(&at["type"]), text(&at["id"]));
    Ok(match json["filter_type"].as_str() {
        Some("TYPE") => FilterSpec::Type(text(&json["resource_type"])),
        Some("ID") => FilterSpec::Id(id(&json["resource_id"])),
        Some("COMPOSITE") => {
            let composite = &json["composite_filter"];
            let filters = composite["filters"].as_array().into_iter().flatten().map(filter).collect::<Result<_>>()?;
            let operator =
                if composite["operator"] == "UNION" { CompositeOperator::Union } else { CompositeOperator::Intersect };
            FilterSpec::Composite { operator, filters }
        }
        _ => {
            let p = &json["property_filter"];
            let operator = match p["operator"].as_str() {
                Some("EQUAL") => Operator::Equal,
                Some("NOT_EQUAL") => Operator::NotEqual,
                Some("GREATER") => Operator::Greater,
                Some("GREATER_OR_EQUAL") => Operator::GreaterOrEqual,
                Some("LESS") => Operator::Less,
                Some("LESS_OR_EQUAL") => Operator::LessOrEqual,
                Some("STARTS_WITH") => Operator::StartsWith,
                Some("ENDS_WITH") => Operator::EndsWith,
                Some("CONTAINS") => Operator::Contains,
                other => return Err(format!("unknown operator {other:?}").into()),
            };
            let comparable = match p["comparable_type"].as_str() {
                Some("LONG") => Comparable::Long(p["comparable_long"].as_i64().unwrap_or_default()),
                Some("DOUBLE") => Comparable::Double(p["comparable_double"].as_f64().unwrap_or_default()),
                Some("BOOLEAN") => Comparable::Boolean(p["comparable_boolean"] == true),
                Some("STRING") => Comparable::String(text(&p["comparable_string"])),
                Some("ID") => Comparable::Id(id(&p["comparable_id"])),
                other => return Err(format!("unknown comparable {other:?}").into()),
            };
            FilterSpec::Property(PropertyFilter { property: text(&p["property"]), operator, comparable })
        }
    })
}
