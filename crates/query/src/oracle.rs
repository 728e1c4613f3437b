//! The engine against a slow, plain evaluator, on small random inventories that keep changing.

mod random;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lockstep_journal::{Change, Commit, Operation, StateEntry};
use lockstep_model::{Document, Instant, Position, Registry, ResourceId, ResourceModel, Value};
use proptest::prelude::*;

use self::random::Random;
use crate::fold::fold;
use crate::policy::chance;
use crate::{
    Comparable, CompositeOperator, Filter, FilterSpec, Limits, Operator, Query, QuerySpec, Rewound, SortDirection, View,
};

const MODELS: [&str; 4] = [
    r#"{"name":"ma","resource_type":"A","properties":[
        {"name":"name","kind":"STRING"},{"name":"n","kind":"LONG"},{"name":"d","kind":"DOUBLE"},{"name":"flag","kind":"BOOLEAN"},
        {"name":"when","kind":"DATE_TIME"},{"name":"b","kind":"ID","targets":["B"]},{"name":"any","kind":"ID"},
        {"name":"bs","kind":"ID","targets":["B"],"list":true},{"name":"tags","kind":"STRING","list":true},
        {"name":"s","kind":"STRUCT","fields":[{"name":"x","kind":"LONG"},{"name":"t","kind":"STRING"},
            {"name":"deep","kind":"STRUCT","fields":[{"name":"y","kind":"DOUBLE"}]}]},
        {"name":"items","kind":"STRUCT","list":true,"fields":[{"name":"k","kind":"STRING"},{"name":"v","kind":"LONG"},
            {"name":"ref","kind":"ID","targets":["C"]},{"name":"subs","kind":"STRING","list":true}]},
        {"name":"parent","kind":"ID","targets":["A"],"parent":true},{"name":"owner","kind":"ID","targets":["B"],"parent":true}]}"#,
    r#"{"name":"ma2","resource_type":"A","properties":[{"name":"extra","kind":"STRING"}]}"#,
    r#"{"name":"mb","resource_type":"B","properties":[{"name":"name","kind":"STRING"},{"name":"w","kind":"LONG"},
        {"name":"c","kind":"ID","targets":["C"]},{"name":"as","kind":"ID","targets":["A"],"list":true}]}"#,
    r#"{"name":"mc","resource_type":"C","properties":[{"name":"name","kind":"STRING"},{"name":"when","kind":"DATE_TIME"}]}"#,
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Of {
    Text,
    Long,
    Double,
    Boolean,
    Time,
    Id,
    Struct,
}

/// Paths with the kind of their values, and whether there can be several.
const PATHS: [(&str, Of, bool); 32] = [
    ("ma/name", Of::Text, false),
    ("ma/n", Of::Long, false),
    ("ma/d", Of::Double, false),
    ("ma/flag", Of::Boolean, false),
    ("ma/when", Of::Time, false),
    ("ma/b", Of::Id, false),
    ("ma/any", Of::Id, false),
    ("ma/bs", Of::Id, true),
    ("ma/tags", Of::Text, true),
    ("ma/s", Of::Struct, false),
    ("ma/s/x", Of::Long, false),
    ("ma/s/t", Of::Text, false),
    ("ma/s/deep/y", Of::Double, false),
    ("ma/items", Of::Struct, true),
    ("ma/items/k", Of::Text, true),
    ("ma/items/v", Of::Long, true),
    ("ma/items/ref", Of::Id, true),
    ("ma/items/subs", Of::Text, true),
    ("ma2/extra", Of::Text, false),
    ("ma/b->mb/name", Of::Text, false),
    ("ma/b->mb/c->mc/name", Of::Text, false),
    ("ma/bs->mb/w", Of::Long, true),
    ("ma/bs->mb/c->mc/when", Of::Time, true),
    ("ma/any->mc/name", Of::Text, false),
    ("ma/any->mb/w", Of::Long, false),
    ("ma/items/ref->mc/name", Of::Text, true),
    ("ma/parent->ma/name", Of::Text, false),
    ("ma/b->mb/as->ma/n", Of::Long, true),
    ("mb/name", Of::Text, false),
    ("mb/c->mc/when", Of::Time, false),
    ("mb/as->ma/name", Of::Text, true),
    ("mc/name", Of::Text, false),
];

/// The state as a map, and the rules of the query in the plainest words.
#[derive(Clone, Default)]
struct Oracle(BTreeMap<ResourceId, Document>);

impl Oracle {
    /// All values at a path, and whether there is a list on the way.
    fn values(&self, id: &ResourceId, path: &str) -> (Vec<Value>, bool) {
        let (hop, rest) = path.split_once("->").map_or((path, None), |(hop, rest)| (hop, Some(rest)));
        let mut names = hop.split('/');
        let of = match names.next() {
            Some("ma" | "ma2") => "A",
            Some("mb") => "B",
            _ => "C",
        };
        let Some(document) = self.0.get(id).filter(|_| id.resource_type.as_str() == of) else {
            return (Vec::new(), false);
        };
        let mut values = vec![Value::Struct(document.fields().into())];
        let mut many = false;
        for name in names {
            many |= values.iter().any(|v| matches!(v, Value::List(_)));
            let flat = values.iter().flat_map(|v| match v {
                Value::List(items) => items.to_vec(),
                v => vec![v.clone()],
            });
            values = flat.filter_map(|v| v.field(name).cloned()).collect();
        }
        let Some(rest) = rest else { return (values, many) };
        let mut far = Vec::new();
        for value in values {
            many |= matches!(value, Value::List(_));
            let items = match &value {
                Value::List(items) => &items[..],
                value => std::slice::from_ref(value),
            };
            for item in items {
                if let Value::Id(target) = item {
                    let (values, inner) = self.values(target, rest);
                    far.extend(values);
                    many |= inner;
                }
            }
        }
        (far, many)
    }

    /// The value that an answer shows.
    fn shown(&self, id: &ResourceId, path: &str) -> Option<Value> {
        let (values, many) = self.values(id, path);
        if !many {
            return values.into_iter().next();
        }
        let flat: Vec<Value> = values
            .into_iter()
            .flat_map(|v| match v {
                Value::List(items) => items.into_vec(),
                v => vec![v],
            })
            .collect();
        (!flat.is_empty()).then(|| Value::List(flat.into()))
    }

    fn matches(&self, filter: &FilterSpec, id: &ResourceId) -> bool {
        match filter {
            FilterSpec::Type(name) => id.resource_type.as_str() == name,
            FilterSpec::Id(other) => id == other,
            FilterSpec::Composite { operator: CompositeOperator::Intersect, filters } => {
                filters.iter().all(|f| self.matches(f, id))
            }
            FilterSpec::Composite { operator: CompositeOperator::Union, filters } => {
                filters.iter().any(|f| self.matches(f, id))
            }
            FilterSpec::Property(filter) => {
                let of = PATHS.iter().find(|p| p.0 == filter.property).unwrap().1;
                let values = self.values(id, &filter.property).0;
                let mut values = values.iter().flat_map(|v| match v {
                    Value::List(items) => items.to_vec(),
                    v => vec![v.clone()],
                });
                values.any(|v| passes(&v, of, filter.operator, &filter.comparable))
            }
        }
    }

    fn matching(&self, filter: &FilterSpec) -> Vec<ResourceId> {
        self.0.keys().filter(|id| self.matches(filter, id)).cloned().collect()
    }

    fn sorted(&self, spec: &QuerySpec) -> Vec<ResourceId> {
        let mut ids = self.matching(&spec.resource_filter);
        for sort in spec.sort_criteria.iter().rev() {
            let of = PATHS.iter().find(|p| p.0 == sort.property).unwrap().1;
            ids.sort_by(|a, b| match (self.shown(a, &sort.property), self.shown(b, &sort.property)) {
                (Some(a), Some(b)) => {
                    let order = compare(&a, &b, of);
                    if sort.direction == SortDirection::Descending { order.reverse() } else { order }
                }
                (a, b) => b.is_some().cmp(&a.is_some()),
            });
        }
        ids
    }
}

fn instant(text: &str) -> Instant {
    Instant::parse(text).unwrap()
}

fn compare(a: &Value, b: &Value, of: Of) -> Ordering {
    match (a, b) {
        (Value::Boolean(a), Value::Boolean(b)) => a.cmp(b),
        (Value::Long(a), Value::Long(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b).unwrap(),
        (Value::String(a), Value::String(b)) if of == Of::Time => instant(a).cmp(&instant(b)),
        (Value::String(a), Value::String(b)) => a.chars().cmp(b.chars()),
        (Value::Id(a), Value::Id(b)) => (a.resource_type.as_str(), &a.id).cmp(&(b.resource_type.as_str(), &b.id)),
        _ => panic!("{a:?} and {b:?}"),
    }
}

/// A long and a double as numbers.
fn compare_mixed(long: i64, double: f64) -> Ordering {
    if double.abs() > 9.25e18 {
        return if double > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    i128::from(long).cmp(&(double.floor() as i128)).then(if double.fract() == 0.0 {
        Ordering::Equal
    } else {
        Ordering::Less
    })
}

fn passes(value: &Value, of: Of, operator: Operator, comparable: &Comparable) -> bool {
    if matches!(operator, Operator::StartsWith | Operator::EndsWith | Operator::Contains) {
        let (Comparable::String(piece), text) = (
            comparable,
            match value {
                Value::String(text) => text.to_string(),
                Value::Id(id) => id.id.to_string(),
                _ => return false,
            },
        ) else {
            return false;
        };
        let (text, piece) = (fold(&text).into_owned(), fold(piece).into_owned());
        return match operator {
            Operator::StartsWith => text.starts_with(&piece),
            Operator::EndsWith => text.ends_with(&piece),
            _ => text.contains(&piece),
        };
    }
    let order = match (value, comparable) {
        (Value::Long(a), Comparable::Long(b)) => a.cmp(b),
        (Value::Long(a), Comparable::Double(b)) => compare_mixed(*a, *b),
        (Value::Double(a), Comparable::Long(b)) => compare_mixed(*b, *a).reverse(),
        (Value::Double(a), Comparable::Double(b)) => a.partial_cmp(b).unwrap(),
        (Value::Boolean(a), Comparable::Boolean(b)) => a.cmp(b),
        (Value::Boolean(a), Comparable::String(b)) => a.cmp(&(b == "true")),
        (Value::String(a), Comparable::String(b)) if of == Of::Time => instant(a).cmp(&instant(b)),
        (Value::String(a), Comparable::String(b)) => a.chars().cmp(b.chars()),
        (Value::Id(a), Comparable::Id(b)) => (**a).cmp(b),
        (Value::Id(a), Comparable::String(b)) => (*a.id).cmp(b),
        _ => panic!("{value:?} {comparable:?}"),
    };
    match operator {
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Greater => order.is_gt(),
        Operator::GreaterOrEqual => order.is_ge(),
        Operator::Less => order.is_lt(),
        _ => order.is_le(),
    }
}

fn model_entry(json: &str) -> (ResourceId, Document) {
    let model: ResourceModel = serde_json::from_str(json).unwrap();
    let definition = serde_json::to_string(&model).unwrap();
    let fields = vec![
        ("name".into(), Value::from(&*model.name)),
        ("resource_type".into(), Value::from(model.resource_type.as_str())),
        ("definition".into(), Value::from(definition.as_str())),
    ];
    (ResourceId::new("ResourceModel", &*model.name), Document::new(fields))
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    for model in MODELS {
        registry.register(serde_json::from_str(model).unwrap()).unwrap();
    }
    registry
}

fn commit(position: u64, changes: Vec<(ResourceId, Operation)>) -> Commit {
    let changes = changes.into_iter().map(|(id, operation)| Change { id, operation, parents: Arc::new([]) });
    Commit { position: Position(position), time_ms: 0, author: "test".into(), changes: changes.collect() }
}

/// A commit of some changes to the oracle's state.
fn random_commit(random: &mut Random, oracle: &Oracle, registry: &Registry, position: u64) -> Commit {
    let mut changes: BTreeMap<ResourceId, Operation> = BTreeMap::new();
    let n = if random.one_in(6) { 30 } else { 1 + random.below(4) };
    for _ in 0..n {
        let of = random.pick(&["A", "A", "A", "B", "C"]);
        let id = random.id_of(of);
        let operation = match oracle.0.get(&id) {
            None => Operation::Create(random.document(of, registry)),
            Some(old) if random.one_in(4) => Operation::Delete(old.clone()),
            Some(old) => {
                let fresh = random.document(of, registry);
                let mut new = old.clone();
                for (name, value) in fresh.fields() {
                    if random.one_in(3) {
                        new.set(name, Some(value.clone()));
                    } else if random.one_in(4) {
                        new.set(name, None);
                    }
                }
                let changes = old.diff(&new);
                if changes.is_empty() {
                    continue;
                }
                Operation::Update(changes)
            }
        };
        changes.insert(id, operation);
    }
    commit(position, changes.into_iter().collect())
}

/// The document in the model's order, as the view gives it.
fn canonical(id: &ResourceId, document: &Document, registry: &Registry) -> Document {
    let json = serde_json::to_string(document).unwrap();
    registry.type_def(id.resource_type.as_str()).unwrap().read_document(&json).unwrap()
}

fn advance(oracle: &mut Oracle, commit: &Commit, registry: &Registry) {
    for change in &commit.changes {
        match &change.operation {
            Operation::Create(document) => drop(oracle.0.insert(change.id.clone(), document.clone())),
            Operation::Delete(_) => drop(oracle.0.remove(&change.id)),
            Operation::Update(leaves) => {
                let mut document = oracle.0[&change.id].clone();
                leaves.iter().for_each(|leaf| document.set(leaf.path.as_str(), leaf.new.clone()));
                oracle.0.insert(change.id.clone(), canonical(&change.id, &document, registry));
            }
        }
    }
}

fn check_query(view: &View, oracle: &Oracle, spec: &QuerySpec) {
    let query = Query::compile(spec, view.registry(), &Limits::default()).unwrap_or_else(|e| panic!("{e}: {spec:?}"));
    let answer = view.query(&query);
    let sorted = oracle.sorted(spec);
    let total = spec.compute_total_item_count.then_some(sorted.len() as u64);
    let page: Vec<_> = sorted.iter().skip(spec.offset as usize).take(spec.limit.unwrap_or(1000) as usize).collect();
    let paths: Vec<&String> = spec
        .property_spec
        .iter()
        .enumerate()
        .filter(|(i, p)| !spec.property_spec[..*i].contains(p))
        .map(|p| p.1)
        .collect();
    let expected: Vec<(ResourceId, Vec<(String, Value)>)> = page
        .into_iter()
        .map(|id| (id.clone(), paths.iter().filter_map(|p| Some(((*p).clone(), oracle.shown(id, p)?))).collect()))
        .collect();
    let found: Vec<(ResourceId, Vec<(String, Value)>)> = answer
        .items()
        .map(|item| {
            let (resource_type, id) = item.id();
            (ResourceId::new(resource_type, id), item.values().map(|(p, v)| (p.to_owned(), v.to_value())).collect())
        })
        .collect();
    assert_eq!(found, expected, "{spec:#?}\n{:#?}", query.explain(view));
    assert_eq!(answer.total(), total, "{spec:#?}\n{:#?}", query.explain(view));
    let mut json = Vec::new();
    answer.write_plain_json(&mut json);
    let plain: Vec<_> = expected
        .iter()
        .map(|(id, values)| {
            let values: Vec<_> = values.iter().map(|(p, v)| serde_json::json!({"property": p, "value": v})).collect();
            serde_json::json!({"property_values": values, "resource_id": {"id": id.id, "type": id.resource_type}})
        })
        .collect();
    assert_eq!(String::from_utf8(json).unwrap(), serde_json::to_string(&plain).unwrap());
}

fn parents(oracle: &Oracle, id: &ResourceId) -> Vec<ResourceId> {
    let (mut seen, mut out) = (BTreeSet::from([id.clone()]), Vec::new());
    let mut at = id.clone();
    while let Some(document) = oracle.0.get(&at) {
        let Some(Value::Id(parent)) =
            document.get("parent").or_else(|| document.get("owner")).filter(|_| at.resource_type.as_str() == "A")
        else {
            break;
        };
        if !seen.insert((**parent).clone()) {
            break;
        }
        out.push((**parent).clone());
        at = (**parent).clone();
    }
    out
}

fn check_state(view: &View, oracle: &Oracle) {
    for of in ["A", "B", "C"] {
        let expected: Vec<ResourceId> = oracle.0.keys().filter(|id| id.resource_type.as_str() == of).cloned().collect();
        assert_eq!(view.ids(of, None).collect::<Vec<_>>(), expected);
        assert_eq!(view.count(of), expected.len());
        if let Some(middle) = expected.get(expected.len() / 2) {
            assert_eq!(view.ids(of, Some(&middle.id)).collect::<Vec<_>>(), expected[expected.len() / 2 + 1..]);
        }
    }
    for (id, document) in &oracle.0 {
        assert_eq!(view.get(id).map(|s| s.document).as_ref(), Some(document), "{id}");
        assert_eq!(view.parents(id), parents(oracle, id), "{id}");
        let children = oracle.0.keys().filter(|child| {
            let of = |name| oracle.0[child].get(name).filter(|_| child.resource_type.as_str() == "A").cloned();
            of("parent").or_else(|| of("owner")) == Some(Value::from(id.clone()))
        });
        assert_eq!(view.children(id), children.into_iter().cloned().collect::<Vec<_>>(), "{id}");
    }
}

fn run(seed: u64, steps: usize, models_first: bool) {
    let mut random = Random(seed | 1);
    chance::seed(seed | 1);
    let registry = registry();
    let mut oracle = Oracle::default();
    let mut view = View::new(Registry::new());
    let mut entries: Vec<StateEntry> = Vec::new();
    for _ in 0..random.below(60) {
        let of = random.pick(&["A", "A", "B", "C"]);
        let (id, document) = (random.id_of(of), random.document(of, &registry));
        if oracle.0.insert(id.clone(), document.clone()).is_none() {
            entries.push(StateEntry {
                id,
                document,
                created: Position(1),
                modified: Position(2),
                created_ms: 1,
                modified_ms: 2,
            });
        } else if let Some(entry) = entries.iter_mut().find(|e| e.id == id) {
            entry.document = document;
        }
    }
    let models = MODELS.iter().map(|m| model_entry(m)).map(|(id, document)| StateEntry {
        id,
        document,
        created: Position(1),
        modified: Position(1),
        created_ms: 1,
        modified_ms: 1,
    });
    if models_first {
        entries.splice(0..0, models);
    } else {
        entries.extend(models);
    }
    entries.iter().for_each(|entry| view.load(entry));
    view.set_position(Position(2));
    check_state(&view, &oracle);
    for position in 3..3 + steps as u64 {
        let filters: Vec<FilterSpec> = (0..3).map(|_| random.filter(0)).collect();
        let before = oracle.clone();
        let commit = random_commit(&mut random, &oracle, &registry, position);
        let compiled: Vec<Filter> = filters
            .iter()
            .map(|f| Filter::compile(f, "filter", view.registry(), &Limits::default()).unwrap())
            .collect();
        let affected: Vec<_> = compiled.iter().map(|f| f.affected(&commit.changes, &view)).collect();
        view.apply(&commit);
        advance(&mut oracle, &commit, &registry);
        assert_eq!(view.position(), Position(position));
        for change in commit.changes.iter().filter(|c| !matches!(c.operation, Operation::Delete(_))) {
            assert_eq!(view.modified(&change.id), Some(Position(position)));
        }
        let rewound = Rewound::new(&view, std::iter::once(&commit));
        for ((spec, filter), affected) in filters.iter().zip(&compiled).zip(&affected) {
            let affected_after = filter.affected(&commit.changes, &view);
            for id in before.0.keys().chain(oracle.0.keys()) {
                let (was, is) = (
                    before.0.contains_key(id) && before.matches(spec, id),
                    oracle.0.contains_key(id) && oracle.matches(spec, id),
                );
                assert_eq!(filter.matches(id, &view), is, "{id} {spec:?}");
                assert_eq!(filter.matches(id, &rewound), was, "{id} before {spec:?}");
                if was != is {
                    assert!(affected.contains(id) && affected_after.contains(id), "{id} {spec:?} {commit:?}");
                }
            }
        }
        for _ in 0..6 {
            let spec = random.spec();
            // Twice, as the second one may find what the first one built or counted.
            check_query(&view, &oracle, &spec);
            check_query(&view, &oracle, &spec);
        }
        if random.one_in(4) {
            check_state(&view, &oracle);
        }
    }
    check_state(&view, &oracle);
    chance::seed(0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_the_plain_evaluator(seed in any::<u64>(), models_first in any::<bool>()) {
        run(seed, 25, models_first);
    }
}
