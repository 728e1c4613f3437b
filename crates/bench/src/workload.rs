//! The queries to run, each in as many forms as its value pools allow, so that no engine can answer from a cache of one entry.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::data::DataDir;

/// Which queries to run.
#[derive(Args, Clone)]
pub struct WorkloadArgs {
    /// The queries, with their varied places.
    #[arg(long, value_name = "FILE", default_value = "../shared/bench/queries.json")]
    pub queries: PathBuf,
    /// Only these queries, e.g. `Q1,Q8,X2`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
}

/// All queries and the pools that their varied forms draw from.
pub struct Workload {
    pub queries: Vec<Query>,
    pools: HashMap<String, Vec<Value>>,
}

/// One query of the workload.
#[derive(Deserialize)]
pub struct Query {
    /// `Q1` to `Q12`, `X1` to `X5`.
    #[serde(skip)]
    pub name: String,
    pub title: String,
    /// The fixed sample form.
    pub query_spec: Value,
    /// JSON pointers inside the spec, and the pool that each takes its value from.
    vary: HashMap<String, String>,
}

/// One concrete request: a query with the values of one number of its pools.
#[derive(Clone)]
pub struct Form {
    /// Which entry of each pool it took.
    pub number: usize,
    pub spec: Value,
    /// The body to post: `{"query_spec": …}`.
    pub body: Vec<u8>,
}

#[cfg(test)]
impl Query {
    /// A query with only a name, whose forms are made by hand.
    pub fn sample(name: &str) -> Self {
        Query { name: name.to_owned(), title: String::new(), query_spec: json!({}), vary: HashMap::new() }
    }
}

impl Form {
    pub fn new(number: usize, spec: Value) -> anyhow::Result<Self> {
        let body = serde_json::to_vec(&json!({"query_spec": spec}))?;
        Ok(Form { number, spec, body })
    }
}

impl Workload {
    pub fn load(args: &WorkloadArgs, data: &DataDir) -> anyhow::Result<Self> {
        let document: Document = read_json(&args.queries)?;
        let mut queries = Vec::new();
        for (name, entry) in document.queries.into_iter().chain(document.extras) {
            let query: Query = serde_json::from_value(entry).with_context(|| format!("query {name}"))?;
            queries.push(Query { name, ..query });
        }
        for name in &args.only {
            ensure!(queries.iter().any(|q| q.name == *name), "there is no query {name}");
        }
        queries.retain(|q| args.only.is_empty() || args.only.contains(&q.name));
        let pools: HashMap<String, Vec<Value>> = read_json(&data.values())?;
        Ok(Workload { queries, pools })
    }

    /// The form that takes entry `number` of each pool, wrapping at the pool's end.
    pub fn form(&self, query: &Query, number: usize) -> anyhow::Result<Form> {
        let mut spec = query.query_spec.clone();
        for (pointer, pool) in &query.vary {
            let values = self.pools.get(pool).filter(|p| !p.is_empty()).ok_or_else(|| anyhow!("no pool {pool}"))?;
            let place = place(&mut spec, pointer).ok_or_else(|| anyhow!("{}: nothing at {pointer}", query.name))?;
            *place = values[number % values.len()].clone();
        }
        Form::new(number, spec)
    }

    pub fn forms(&self, query: &Query, numbers: impl Iterator<Item = usize>) -> anyhow::Result<Vec<Form>> {
        numbers.map(|number| self.form(query, number)).collect()
    }
}

#[derive(Deserialize)]
struct Document {
    // A serde_json map keeps the order of the file, which is the order of the tables.
    queries: serde_json::Map<String, Value>,
    #[serde(default)]
    extras: serde_json::Map<String, Value>,
}

/// The value at a JSON pointer. A last part that is missing is added: a varied place may be unset in the fixed form.
fn place<'a>(spec: &'a mut Value, pointer: &str) -> Option<&'a mut Value> {
    let (parent, last) = pointer.rsplit_once('/')?;
    match spec.pointer_mut(parent)? {
        Value::Object(members) => Some(members.entry(last).or_insert(Value::Null)),
        Value::Array(elements) => elements.get_mut(last.parse::<usize>().ok()?),
        _ => None,
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> (Workload, Query) {
        let query = Query {
            name: "Q".into(),
            title: String::new(),
            query_spec: json!({"a": [{"b": 1}], "limit": 5}),
            vary: HashMap::from([("/a/0/b".into(), "numbers".into()), ("/offset".into(), "numbers".into())]),
        };
        (Workload { queries: vec![], pools: HashMap::from([("numbers".into(), vec![json!(7), json!(8)])]) }, query)
    }

    #[test]
    fn forms_take_their_entry_of_the_pool_and_wrap() {
        let (workload, query) = workload();
        let form = workload.form(&query, 1).unwrap();
        assert_eq!(form.spec, json!({"a": [{"b": 8}], "limit": 5, "offset": 8}));
        assert_eq!(workload.form(&query, 2).unwrap().spec["offset"], json!(7));
        assert_eq!(serde_json::from_slice::<Value>(&form.body).unwrap()["query_spec"], form.spec);
    }

    #[test]
    fn a_pointer_to_nowhere_is_refused() {
        let (workload, mut query) = workload();
        query.vary = HashMap::from([("/a/3/b".into(), "numbers".into())]);
        assert!(workload.form(&query, 0).is_err());
    }
}
