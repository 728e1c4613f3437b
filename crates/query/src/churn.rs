//! Memory of a view whose values never come twice.

use std::sync::Arc;

use lockstep_journal::{Change, Commit, Operation};
use lockstep_model::{Document, Position, Registry, ResourceId, Value};

use crate::{
    Comparable, FilterSpec, Limits, Operator, PropertyFilter, Query, QuerySpec, SortDirection, SortSpec, View,
};

const MODELS: [&str; 2] = [
    r#"{"name":"m","resource_type":"M","properties":[{"name":"own","kind":"STRING"},{"name":"shared","kind":"STRING"},
        {"name":"when","kind":"DATE_TIME"},{"name":"odd","kind":"DATE_TIME"},{"name":"to","kind":"ID","targets":["T"]},
        {"name":"any","kind":"ID"},{"name":"texts","kind":"STRING","list":true},
        {"name":"items","kind":"STRUCT","list":true,"fields":[{"name":"k","kind":"STRING"},{"name":"n","kind":"LONG"},
            {"name":"subs","kind":"STRING","list":true}]}]}"#,
    r#"{"name":"t","resource_type":"T","properties":[{"name":"name","kind":"STRING"}]}"#,
];

/// Resources of the type that changes.
const RESOURCES: u64 = 40;

fn text(text: String) -> Value {
    Value::String(text.into())
}

/// The document of a resource after so many changes of everything. Texts have as many letters at all times, lists are longer at
/// one time than at another.
fn document(number: u64, round: u64) -> Document {
    let length = (number * 7 + round * 13) % 9;
    let target = |at: u64| Value::from(ResourceId::new("T", format!("{at:06}")));
    let subs = |at: u64| (0..at % 4).map(|sub| text(format!("sub {at:06} {sub} {round:04}"))).collect::<Vec<Value>>();
    let item = |at: u64| {
        let fields = [
            ("k", text(format!("item {at:06} {round:04}"))),
            ("n", Value::Long((at * round) as i64)),
            ("subs", Value::List(subs(at + round).into())),
        ];
        Value::Struct(fields.map(|(name, value)| (name.into(), value)).into())
    };
    let at = round * RESOURCES + number;
    let fields = [
        ("own", text(format!("own {at:06}"))),
        // A value that many have and that nobody has any more after the next round.
        ("shared", text(format!("shared by all in round {round:04}"))),
        ("when", text(format!("2026-01-{:02}T00:{:02}:{:02}Z", 1 + at % 28, at / 60 % 60, at % 60))),
        ("odd", text(format!("2026-01-{:02}T00:{:02}:{:02}+02:00", 1 + at % 28, at / 60 % 60, at % 60))),
        ("to", target(at)),
        ("any", target(at + 1)),
        ("texts", Value::List((0..length).map(|n| text(format!("text {at:06} {n}"))).collect())),
        ("items", Value::List((0..length).map(item).collect())),
    ];
    Document::new(fields.map(|(name, value)| (name.into(), value)).into())
}

fn commit(view: &mut View, changes: Vec<(ResourceId, Operation)>) {
    let changes = changes.into_iter().map(|(id, operation)| Change { id, operation, parents: Arc::new([]) }).collect();
    view.apply(&Commit { position: Position(view.position().0 + 1), time_ms: 0, author: "test".into(), changes });
}

/// Asks so that all kinds of indexes are built.
fn ask(view: &View) {
    for (path, operator, sorted_by) in [
        ("m/own", Operator::Contains, "m/own"),
        ("m/shared", Operator::Equal, "m/when"),
        ("m/texts", Operator::StartsWith, "m/odd"),
        ("m/items/k", Operator::Contains, "m/to"),
        ("m/to->t/name", Operator::EndsWith, "m/any"),
    ] {
        let filter =
            PropertyFilter { property: path.to_owned(), operator, comparable: Comparable::String("text 1".to_owned()) };
        let spec = QuerySpec {
            resource_filter: FilterSpec::Property(filter),
            property_spec: Vec::new(),
            sort_criteria: vec![SortSpec { property: sorted_by.to_owned(), direction: SortDirection::Ascending }],
            offset: 0,
            limit: None,
            compute_total_item_count: true,
        };
        let query = Query::compile(&spec, view.registry(), &Limits::default()).unwrap();
        let _ = view.query(&query).len();
    }
}

#[test]
fn memory_does_not_grow_when_no_value_comes_twice() {
    let mut registry = Registry::new();
    for model in MODELS {
        registry.register(serde_json::from_str(model).unwrap()).unwrap();
    }
    let mut view = View::new(registry);
    let id = |number: u64| ResourceId::new("M", number.to_string());
    let target = |at: u64| ResourceId::new("T", format!("{at:06}"));
    let named = |at: u64| Document::new(vec![("name".into(), text(format!("target {at:06}")))]);
    let mut greatest = [0; 2];
    let rounds = 1200;
    for round in 0..rounds {
        let mut changes = Vec::new();
        for number in 0..RESOURCES {
            let new = document(number, round);
            // Everything of it changes; now and then it goes and comes back.
            let operation = match view.get(&id(number)) {
                None => Operation::Create(new),
                Some(stored) if (number + round) % 11 == 0 => Operation::Delete(stored.document),
                Some(stored) => Operation::Update(stored.document.diff(&new)),
            };
            changes.push((id(number), operation));
            let at = round * RESOURCES + number;
            changes.push((target(at), Operation::Create(named(at))));
            if let Some(old) = at.checked_sub(2 * RESOURCES) {
                changes.push((target(old), Operation::Delete(named(old))));
            }
        }
        commit(&mut view, changes);
        if round % 3 == 0 {
            ask(&view);
        }
        // What comes to be by and by has come to be in the first third.
        if let Some(part) = (3 * round / rounds).checked_sub(1) {
            let greatest = &mut greatest[part as usize];
            *greatest = view.memory().bytes().max(*greatest);
        }
    }
    let [before, after] = greatest;
    assert!(after * 100 <= before * 110, "{before} bytes, then {after}: {:?}", view.memory());
}
