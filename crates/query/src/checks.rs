//! What a query spec may not say, and what a view does with models and models only: tests over the public face.

use std::sync::Arc;

use lockstep_journal::{Change, Commit, Operation};
use lockstep_model::{Document, LeafChange, LeafPath, Position, Registry, ResourceId, Value};

use crate::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, Query, QuerySpec, SortDirection,
    SortSpec, SpecError, View,
};

fn of_type(name: &str) -> FilterSpec {
    FilterSpec::Type(name.to_owned())
}

fn property(property: &str, operator: Operator, comparable: Comparable) -> FilterSpec {
    FilterSpec::Property(PropertyFilter { property: property.to_owned(), operator, comparable })
}

fn spec(resource_filter: FilterSpec) -> QuerySpec {
    QuerySpec {
        resource_filter,
        property_spec: Vec::new(),
        sort_criteria: Vec::new(),
        offset: 0,
        limit: None,
        compute_total_item_count: false,
    }
}

fn text(s: &str) -> Comparable {
    Comparable::String(s.to_owned())
}

fn compile(spec: &QuerySpec) -> Result<Query, SpecError> {
    Query::compile(spec, &Registry::new(), &Limits::default())
}

/// The error's path below `query_spec.` and its id.
fn refused(spec: &QuerySpec) -> (String, &'static str) {
    match compile(spec) {
        Ok(_) => panic!("accepted: {spec:?}"),
        Err(e) => (e.path.trim_start_matches("query_spec.").to_owned(), e.id),
    }
}

#[test]
fn filters_that_make_no_sense_name_the_member() {
    use Operator::{Contains, Equal, Greater};
    let check = |filter: FilterSpec, path: &str, id: &str| {
        let (found, found_id) = refused(&spec(filter));
        assert_eq!((found.trim_start_matches("resource_filter."), found_id), (path, id));
    };
    let id = |t: &str, i: &str| Comparable::Id(ResourceId::new(t, i));
    check(of_type("Nothing"), "resource_type", "lockstep.query.type.unknown");
    check(FilterSpec::Id(ResourceId::new("Nothing", "x")), "resource_id.type", "lockstep.query.type.unknown");
    check(FilterSpec::Id(ResourceId::new("Tag", "")), "resource_id.id", "lockstep.query.id.empty");
    for (path, error) in [
        ("", "malformed"),
        ("VirtualMachine", "malformed"),
        ("VirtualMachine//x", "malformed"),
        ("VirtualMachine/na me", "malformed"),
        ("Virtual/name", "unknown_model"),
        ("VirtualMachine/nam", "unknown_property"),
        ("VirtualMachine/name/x", "unknown_property"),
        ("virtualmachine/name", "unknown_model"),
        ("VirtualMachine/name->HostSystem/name", "not_a_relation"),
        ("VirtualMachine/host->Tag/name", "wrong_target"),
        ("Account/password_hash", "secret"),
    ] {
        check(property(path, Equal, text("x")), "property_filter.property", &format!("lockstep.query.path.{error}"));
        let mut by = spec(of_type("VirtualMachine"));
        by.property_spec = vec!["VirtualMachine/name".to_owned(), path.to_owned()];
        assert_eq!(refused(&by).0, "property_spec[1]");
        let mut by = spec(of_type("VirtualMachine"));
        by.sort_criteria = vec![SortSpec { property: path.to_owned(), direction: SortDirection::Ascending }];
        assert_eq!(refused(&by).0, "sort_criteria[0].property");
    }
    let comparables =
        [Comparable::Long(1), Comparable::Double(1.5), Comparable::Boolean(true), text("x"), id("HostSystem", "h")];
    let members = ["comparable_long", "comparable_double", "comparable_boolean", "comparable_string", "comparable_id"];
    for (path, fits) in [
        ("VirtualMachine/cpu_count", [true, true, false, false, false]),
        ("VirtualMachine/stats/cpu_ready_percent", [true, true, false, false, false]),
        ("VirtualMachine/template", [false, false, true, false, false]),
        ("VirtualMachine/name", [false, false, false, true, false]),
        ("VirtualMachine/host", [false, false, false, true, true]),
        ("VirtualMachine/guest", [false, false, false, false, false]),
        ("VirtualMachine/nics", [false, false, false, false, false]),
    ] {
        for ((comparable, member), fits) in comparables.iter().zip(members).zip(fits) {
            let filter = property(path, Equal, comparable.clone());
            if fits {
                assert!(compile(&spec(filter)).is_ok(), "{path} {member}");
            } else {
                check(filter, &format!("property_filter.{member}"), "lockstep.query.comparable");
            }
        }
    }
    assert!(compile(&spec(property("VirtualMachine/template", Equal, text("true")))).is_ok());
    check(
        property("VirtualMachine/template", Equal, text("True")),
        "property_filter.comparable_string",
        "lockstep.query.comparable",
    );
    check(
        property("VirtualMachine/template", Greater, Comparable::Boolean(true)),
        "property_filter.operator",
        "lockstep.query.operator",
    );
    check(
        property("VirtualMachine/cpu_count", Contains, Comparable::Long(1)),
        "property_filter.operator",
        "lockstep.query.operator",
    );
    check(
        property("VirtualMachine/host", Greater, id("HostSystem", "h")),
        "property_filter.operator",
        "lockstep.query.operator",
    );
    check(
        property("VirtualMachine/host", Equal, id("Hosts", "h")),
        "property_filter.comparable_id.type",
        "lockstep.query.type.unknown",
    );
    check(
        property("VirtualMachine/host", Equal, id("HostSystem", "")),
        "property_filter.comparable_id.id",
        "lockstep.query.id.empty",
    );
    check(
        property("VirtualMachine/created", Greater, text("yesterday")),
        "property_filter.comparable_string",
        "lockstep.query.date_time",
    );
    assert!(compile(&spec(property("VirtualMachine/created", Contains, text("2024-05")))).is_ok());
    let infinite = property("VirtualMachine/cpu_count", Greater, Comparable::Double(f64::INFINITY));
    check(infinite, "property_filter.comparable_double", "lockstep.query.double");
    let all = |filters| FilterSpec::Composite { operator: CompositeOperator::Intersect, filters };
    check(all(Vec::new()), "composite_filter.filters", "lockstep.query.filters.empty");
    let inner = all(vec![of_type("Tag"), property("Tag/nam", Equal, text(""))]);
    let path = "composite_filter.filters[1].composite_filter.filters[1].property_filter.property";
    check(all(vec![of_type("Tag"), inner]), path, "lockstep.query.path.unknown_property");
    let nested = |levels: usize| (1..levels).fold(of_type("Tag"), |inner, _| all(vec![inner]));
    assert!(compile(&spec(nested(32))).is_ok());
    assert_eq!(refused(&spec(nested(33))).1, "lockstep.query.too_deep");
    assert!(compile(&spec(all(vec![of_type("Tag"); 999]))).is_ok());
    check(all(vec![of_type("Tag"); 1000]), "composite_filter.filters[999]", "lockstep.query.too_many_filters");
}

#[test]
fn pages_and_orders_have_limits() {
    let check = |change: fn(&mut QuerySpec), path: &str, id: &str| {
        let mut spec = spec(of_type("VirtualMachine"));
        change(&mut spec);
        assert_eq!(refused(&spec), (path.to_owned(), id));
    };
    fn by(path: &str) -> Vec<SortSpec> {
        vec![SortSpec { property: path.to_owned(), direction: SortDirection::Descending }]
    }
    check(|s| s.offset = -1, "offset", "lockstep.query.offset");
    check(|s| s.limit = Some(1001), "limit", "lockstep.query.limit");
    check(|s| s.limit = Some(-1), "limit", "lockstep.query.limit.negative");
    check(
        |s| s.property_spec = vec!["VirtualMachine/name".to_owned(); 201],
        "property_spec",
        "lockstep.query.too_many_properties",
    );
    check(
        |s| s.sort_criteria = vec![by("VirtualMachine/name").remove(0); 17],
        "sort_criteria",
        "lockstep.query.too_many_sort_criteria",
    );
    check(|s| s.sort_criteria = by("VirtualMachine/tags"), "sort_criteria[0].property", "lockstep.query.sort.list");
    check(
        |s| s.sort_criteria = by("VirtualMachine/datastores->Datastore/name"),
        "sort_criteria[0].property",
        "lockstep.query.sort.list",
    );
    check(
        |s| s.sort_criteria = by("VirtualMachine/guest"),
        "sort_criteria[0].property",
        "lockstep.query.sort.structure",
    );
    let mut above = spec(of_type("Tag"));
    above.limit = Some(5000);
    let error = compile(&above).unwrap_err();
    assert_eq!(
        (error.message.as_str(), &error.args[..]),
        ("limit 5000 is above 1000", &["5000".to_owned(), "1000".to_owned()][..])
    );
    let mut fits = spec(of_type("Tag"));
    (fits.limit, fits.offset) = (Some(1000), i64::MAX);
    assert!(compile(&fits).is_ok());
}

fn commit(view: &View, changes: Vec<(ResourceId, Operation)>) -> Commit {
    let changes = changes.into_iter().map(|(id, operation)| Change { id, operation, parents: Arc::new([]) }).collect();
    Commit { position: Position(view.position().0 + 1), time_ms: 0, author: "test".into(), changes }
}

fn apply(view: &mut View, changes: Vec<(ResourceId, Operation)>) {
    let commit = commit(view, changes);
    view.apply(&commit);
}

fn document(fields: &[(&str, Value)]) -> Document {
    Document::new(fields.iter().map(|(n, v)| ((*n).into(), v.clone())).collect())
}

fn model(definition: &str) -> Operation {
    Operation::Create(document(&[("definition", definition.into())]))
}

#[test]
fn models_come_change_and_go_with_their_resources() {
    let mut view = View::new(Registry::new());
    let model_id = ResourceId::new("ResourceModel", "com.acme.PersonModel");
    let ada = ResourceId::new("com.acme.Person", "ada");
    let first = r#"{"name":"com.acme.PersonModel","resource_type":"com.acme.Person","properties":[{"name":"born","kind":"DATE_TIME"}]}"#;
    let born = "1815-12-10T00:00:00+00:00";
    // One commit registers the model and uses it, in either order.
    apply(
        &mut view,
        vec![(ada.clone(), Operation::Create(document(&[("born", born.into())]))), (model_id.clone(), model(first))],
    );
    let born_before = |when: &str| spec(property("com.acme.PersonModel/born", Operator::Less, text(when)));
    let count = |view: &View, spec: &QuerySpec| {
        Query::compile(spec, view.registry(), &Limits::default()).map(|q| view.query(&q).len())
    };
    assert_eq!(count(&view, &born_before("1815-12-10T01:00:00Z")), Ok(1));
    assert_eq!(view.get(&ada).map(|s| s.document), Some(document(&[("born", born.into())])));
    let wider = first.replace(r#""properties":["#, r#""properties":[{"name":"name","kind":"STRING"},"#);
    let change =
        LeafChange { path: LeafPath::new("definition"), old: Some(first.into()), new: Some(wider.as_str().into()) };
    apply(&mut view, vec![(model_id.clone(), Operation::Update(vec![change]))]);
    let named = LeafChange { path: LeafPath::new("name"), old: None, new: Some("Ada".into()) };
    apply(&mut view, vec![(ada.clone(), Operation::Update(vec![named]))]);
    let by_name = spec(property("com.acme.PersonModel/name", Operator::Equal, text("Ada")));
    assert_eq!(count(&view, &by_name), Ok(1));
    let gone = view.get(&ada).map(|s| s.document).unwrap_or_default();
    assert_eq!(gone, document(&[("born", born.into()), ("name", "Ada".into())]));
    let no_model = view.get(&model_id).map(|s| s.document).unwrap_or_default();
    apply(&mut view, vec![(model_id, Operation::Delete(no_model)), (ada.clone(), Operation::Delete(gone))]);
    assert!(count(&view, &by_name).is_err());
    assert_eq!((view.get(&ada), view.modified(&ada), view.count("com.acme.Person")), (None, None, 0));
}

#[test]
fn references_to_what_does_not_exist_are_kept_and_come_to_life() {
    let mut view = View::new(Registry::new());
    let (vm, host) = (ResourceId::new("VirtualMachine", "vm"), ResourceId::new("HostSystem", "host"));
    apply(&mut view, vec![(vm.clone(), Operation::Create(document(&[("host", host.clone().into())])))]);
    let on_esx = spec(property("VirtualMachine/host->HostSystem/name", Operator::NotEqual, text("")));
    let on_host = spec(property("VirtualMachine/host", Operator::Equal, Comparable::Id(host.clone())));
    let count = |view: &View, spec: &QuerySpec| compile(spec).map(|q| view.query(&q).len());
    assert_eq!((count(&view, &on_esx), count(&view, &on_host)), (Ok(0), Ok(1)));
    assert_eq!((view.parents(&vm), view.children(&host)), (vec![host.clone()], vec![vm.clone()]));
    assert_eq!((view.get(&host), view.count("HostSystem")), (None, 0));
    let named = document(&[("name", "esx".into())]);
    apply(&mut view, vec![(host.clone(), Operation::Create(named.clone()))]);
    assert_eq!((count(&view, &on_esx), count(&view, &on_host)), (Ok(1), Ok(1)));
    apply(&mut view, vec![(host.clone(), Operation::Delete(named))]);
    assert_eq!((count(&view, &on_esx), count(&view, &on_host)), (Ok(0), Ok(1)));
    assert_eq!(view.get(&vm).map(|s| s.document), Some(document(&[("host", host.into())])));
}

#[test]
fn secrets_are_stored_and_never_shown() {
    let mut view = View::new(Registry::new());
    let definition = r#"{"name":"Safe","resource_type":"Safe","properties":[{"name":"box","kind":"STRUCT","fields":[
        {"name":"label","kind":"STRING"},{"name":"key","kind":"STRING","secret":true}]}]}"#;
    let inner =
        |fields: &[(&str, &str)]| Value::Struct(fields.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect());
    let (open, closed) =
        (document(&[("box", inner(&[("label", "a"), ("key", "k")]))]), document(&[("box", inner(&[("key", "k")]))]));
    apply(
        &mut view,
        vec![
            (ResourceId::new("ResourceModel", "Safe"), model(definition)),
            (ResourceId::new("Safe", "1"), Operation::Create(open.clone())),
            (ResourceId::new("Safe", "2"), Operation::Create(closed)),
        ],
    );
    let mut all = spec(of_type("Safe"));
    all.property_spec = vec!["Safe/box".to_owned()];
    let query = Query::compile(&all, view.registry(), &Limits::default()).unwrap();
    let mut json = Vec::new();
    view.query(&query).write_plain_json(&mut json);
    let expected = r#"[{"property_values":[{"property":"Safe/box","value":{"label":"a"}}],"resource_id":{"id":"1","type":"Safe"}},{"property_values":[],"resource_id":{"id":"2","type":"Safe"}}]"#;
    assert_eq!(String::from_utf8(json).unwrap(), expected);
    assert_eq!(view.get(&ResourceId::new("Safe", "1")).map(|s| s.document), Some(open));
}

#[test]
fn an_explanation_is_a_tree_of_what_was_done() {
    let mut view = View::new(Registry::new());
    let tag = |n: u32| {
        (
            ResourceId::new("Tag", n.to_string()),
            Operation::Create(document(&[("name", format!("t{}", n % 2).as_str().into())])),
        )
    };
    apply(&mut view, (0..10).map(tag).collect());
    let query = compile(&spec(property("Tag/name", Operator::Equal, text("t1")))).unwrap();
    let explain = serde_json::to_value(query.explain(&view)).unwrap();
    let filter = serde_json::json!({"what": "Tag/name EQUAL \"t1\"", "by": "postings", "estimate": 5, "rows": 5});
    assert_eq!(explain["types"][0], serde_json::json!({"resource_type": "Tag", "resources": 10, "filter": filter}));
    assert_eq!((explain["items"].as_u64(), explain["cost"]["rows_matched"].as_u64()), (Some(5), Some(5)));
    assert!(view.memory().bytes() > 0);
}

#[test]
fn a_view_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let view = View::new(Registry::new());
    shared(&view);
    let query = compile(&spec(of_type("Tag"))).unwrap();
    shared(&query);
    std::thread::scope(|threads| {
        (0..4).for_each(|_| drop(threads.spawn(|| assert_eq!(view.query(&query).len(), 0))));
    });
}
