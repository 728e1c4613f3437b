//! The server's answers beside those of the reference evaluator.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::data::DataDir;
use crate::expected::Expected;
use crate::http::{Client, Server, ServerArgs};
use crate::queries::{QUERY_PATH, ResultSet, ResultValue};
use crate::report::Report;
use crate::workload::{Form, Workload, WorkloadArgs};

/// Compare the server's answers with the reference evaluator's.
///
/// For the fixed form of each query and its first K varied ones: the ids in order, the total, and the property values of the first
/// two items. Exits with 1 on any difference.
#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Data directory that the server's inventory was imported from.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Varied forms of each query.
    #[arg(long, default_value_t = 5)]
    k: usize,
    /// The reference evaluator.
    #[arg(long, value_name = "PATH", default_value = "../shared/bench/ref_query.py")]
    reference: PathBuf,
    /// The Python interpreter that runs it.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// What the reference evaluator says of one form.
#[derive(Deserialize)]
struct ReferenceAnswer {
    ids: Vec<String>,
    total_item_count: Option<u64>,
    first: Vec<Value>,
}

/// Query, then form: `fixed` or a number.
type Reference = BTreeMap<String, BTreeMap<String, ReferenceAnswer>>;

/// Runs the subcommand.
pub fn run(args: &VerifyArgs) -> anyhow::Result<Report> {
    let data = DataDir::open(&args.data)?;
    let workload = Workload::load(&args.workload, &data)?;
    let reference = reference(args, &data)?;
    let mut client = Server::new(&args.server)?.connect_logged_in()?;
    let mut expected = Expected::load(&data)?;
    let mut report = Report::default();
    let mut rows = Vec::new();
    for query in &workload.queries {
        let forms = reference.get(&query.name).ok_or_else(|| anyhow!("no reference answers of {}", query.name))?;
        let mut differences = Vec::new();
        for (label, answer) in forms {
            let form = match label.parse() {
                Ok(number) => {
                    expected.set("reference", &query.name, number, answer.ids.len(), answer.total_item_count);
                    workload.form(query, number)?
                }
                Err(_) => Form::new(0, query.query_spec.clone())?,
            };
            if let Some(difference) = difference(&mut client, &form, answer)? {
                differences.push(format!("{} form {label}: {difference}", query.name));
            }
        }
        let rows_mean = forms.values().map(|a| a.ids.len()).sum::<usize>() as f64 / forms.len().max(1) as f64;
        rows.push(vec![
            format!("{} {}", query.name, query.title),
            forms.len().to_string(),
            format!("{rows_mean:.1}"),
            differences.len().to_string(),
        ]);
        report.figure(&query.name, json!({"forms": forms.len(), "differences": differences}));
        report.failures.extend(differences);
    }
    expected.save()?;
    report.table("Answers beside the reference evaluator's", &["query", "forms", "items", "differences"], rows);
    Ok(report)
}

/// The reference answers, computed once for each data directory and number of forms.
fn reference(args: &VerifyArgs, data: &DataDir) -> anyhow::Result<Reference> {
    let path = data.reference(args.k);
    if !path.exists() {
        eprintln!("running {} on {}", args.reference.display(), data.inventory().display());
        evaluate(args, data, &path)?;
    }
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}

fn evaluate(args: &VerifyArgs, data: &DataDir, path: &Path) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let status = Command::new(&args.python)
        .arg(&args.reference)
        .arg(data.inventory())
        .arg(&args.workload.queries)
        .arg("--values")
        .arg(data.values())
        .args(["--k", &args.k.to_string()])
        .stdout(File::create(&partial).with_context(|| format!("create {}", partial.display()))?)
        .status()
        .with_context(|| format!("run {}", args.python.display()))?;
    ensure!(status.success(), "{} failed: {status}", args.reference.display());
    std::fs::rename(&partial, path).with_context(|| format!("write {}", path.display()))
}

/// How the server's answer differs, if it does.
fn difference(client: &mut Client, form: &Form, reference: &ReferenceAnswer) -> anyhow::Result<Option<String>> {
    let answer = client.request("POST", QUERY_PATH, &form.body)?;
    if answer.status != 200 {
        let text: String = String::from_utf8_lossy(&answer.body).chars().take(500).collect();
        return Ok(Some(format!("status {}: {text}", answer.status)));
    }
    let ResultSet { value } = match serde_json::from_slice(&answer.body) {
        Ok(result) => result,
        Err(error) => return Ok(Some(format!("not a result set: {error}"))),
    };
    Ok(compare(&value, reference))
}

fn compare(ours: &ResultValue<Value>, reference: &ReferenceAnswer) -> Option<String> {
    if ours.total_item_count != reference.total_item_count {
        return Some(format!("total {:?}, reference {:?}", ours.total_item_count, reference.total_item_count));
    }
    let ids: Vec<&str> = ours.items.iter().map(|i| i["resource_id"]["id"].as_str().unwrap_or_default()).collect();
    if ids != reference.ids {
        let at = ids.iter().zip(&reference.ids).take_while(|(a, b)| *a == *b).count();
        let (a, b) = (ids.get(at), reference.ids.get(at));
        return Some(format!("{} items, reference {}; item {at} is {a:?}, not {b:?}", ids.len(), reference.ids.len()));
    }
    for (at, (ours, reference)) in ours.items.iter().zip(&reference.first).enumerate() {
        if ours["resource_id"] != reference["resource_id"] || properties(ours) != properties(reference) {
            return Some(format!("item {at} is {ours}, not {reference}"));
        }
    }
    None
}

/// Property values by name: their order in the answer means nothing.
fn properties(item: &Value) -> Option<BTreeMap<&str, &Value>> {
    item["property_values"].as_array()?.iter().map(|p| Some((p["property"].as_str()?, &p["value"]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ours: Value, expected: Option<&str>) {
        let reference = ReferenceAnswer {
            ids: vec!["a".into(), "b".into()],
            total_item_count: Some(2),
            first: vec![json!({"resource_id": {"type": "T", "id": "a"}, "property_values": [
                {"property": "T/x", "value": 1}, {"property": "T/y", "value": {"type": "U", "id": "u"}}]})],
        };
        let ours: ResultValue<Value> = serde_json::from_value(ours).unwrap();
        let got = compare(&ours, &reference);
        match expected {
            None => assert_eq!(got, None),
            Some(part) => assert!(got.as_deref().unwrap_or_default().contains(part), "{got:?}"),
        }
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let item = |id: &str, x: Value| {
            json!({"resource_id": {"type": "T", "id": id}, "property_values": [
                {"property": "T/y", "value": {"type": "U", "id": "u"}}, {"property": "T/x", "value": x}]})
        };
        let (a, b) = (item("a", json!(1)), item("b", json!(2)));
        check(json!({"items": [a, b], "total_item_count": 2}), None);
        check(json!({"items": [a, b], "total_item_count": 3}), Some("total"));
        check(json!({"items": [a, b]}), Some("total"));
        check(json!({"items": [b, a], "total_item_count": 2}), Some("item 0"));
        check(json!({"items": [a], "total_item_count": 2}), Some("1 items"));
        check(json!({"items": [item("a", json!("1")), b], "total_item_count": 2}), Some("item 0 is"));
        check(json!({"items": [item("a", json!(1.0)), b], "total_item_count": 2}), Some("item 0 is"));
    }
}
