//! Bodies of requests and answers, in every encoding.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use lockstep_contract::services::TypedId;
use lockstep_contract::services::resource_model::{
    ComparableType, CompositeOperator, FilterType, PropertyValue, Query, QueryInput, ResourceItem, ResultSet,
};
use lockstep_contract::xml::{self, XmlWriter};
use lockstep_contract::{Data, Declared, Encoding, Error, Fault, Opaque, Place, PlainJson, TypedJson, Wire, typed};

const NAMESPACE: &str = "http://vmware.com/cis/data/legacy/resource_model";

/// The seed's sample sets every field of every union: a generator showing all fields, not a legal request.
const ALL_FIELDS: &str = r#"
"composite_filter": {"filters": [null, null], "operator": "INTERSECT"},
"filter_type": "TYPE",
"property_filter": {
 "comparable_boolean": true, "comparable_double": 1.5, "comparable_id": {"id": "obj-103", "type": "string"},
 "comparable_long": 1, "comparable_string": "string", "comparable_type": "LONG", "operator": "EQUAL", "property": "string"},
"resource_id": {"id": "obj-103", "type": "string"}, "resource_type": "string""#;

fn body(filter: &str) -> String {
    format!(
        r#"{{"query_spec": {{"compute_total_item_count": true, "limit": 1, "offset": 1, "property_spec": ["string", "string"],
        "resource_filter": {filter},
        "sort_criteria": [{{"property": "string", "sort_direction": "ASCENDING"}}, {{"property": "string"}}]}}}}"#
    )
}

fn read(json: &str) -> Result<QueryInput, Fault> {
    QueryInput::decode(Data::from_json(json.as_bytes()).unwrap(), &Place::root(Encoding::Plain))
}

fn read_xml(text: &str) -> Result<QueryInput, Fault> {
    let data = xml::read(text.as_bytes(), "Query-Input", NAMESPACE).unwrap();
    QueryInput::decode(data, &Place::root(Encoding::Xml))
}

fn place(fault: Fault) -> String {
    match fault {
        Fault::Invalid { place, .. } | Fault::Unexpected { place } => place,
    }
}

#[test]
fn the_seeds_sample_is_read_and_refused_by_the_unions_rule() {
    let fault = read(&body(&format!("{{{ALL_FIELDS}}}"))).unwrap_err();
    assert_eq!(place(fault), "query_spec.resource_filter.property_filter.comparable_double");
    let legal = r#"{"filter_type": "TYPE", "resource_type": "string", "resource_id": null, "property_filter": null}"#;
    let input = read(&body(legal)).unwrap().query_spec;
    assert_eq!((input.limit, input.offset, input.compute_total_item_count), (Some(1), Some(1), Some(true)));
    assert_eq!((input.property_spec.len(), input.sort_criteria.map(|s| s.len())), (2, Some(2)));
    assert_eq!(input.resource_filter.filter_type, FilterType::Type);
}

#[test]
fn the_seeds_xml_is_read_and_refused_by_the_unions_rule() {
    let text = r#"<ns0:Query-Input xmlns:ns0="http://vmware.com/cis/data/legacy/resource_model" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<query_spec><limit>1</limit>
<property_spec-array><array-item>string</array-item><array-item>string</array-item></property_spec-array>
<sort_criteria-array><array-item><sort_direction>ASCENDING</sort_direction><property>string</property></array-item></sort_criteria-array>
<compute_total_item_count>true</compute_total_item_count>
<resource_filter>
<resource_id><id>obj-103</id><type>string</type></resource_id>
<composite_filter><filters-array><array-item xsi:nil="true">
</array-item><array-item xsi:nil="true"></array-item></filters-array><operator>INTERSECT</operator></composite_filter>
<resource_type>string</resource_type><filter_type>TYPE</filter_type></resource_filter><offset>1</offset></query_spec></ns0:Query-Input>"#;
    let fault = read_xml(text).unwrap_err();
    assert_eq!(place(fault), "query_spec.resource_filter.composite_filter.filters[0]");

    let legal = r#"<?xml version="1.0"?><q:Query-Input xmlns:q="http://vmware.com/cis/data/legacy/resource_model" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <query_spec><limit> 1 </limit><property_spec-array><array-item>VirtualMachineModel/name</array-item></property_spec-array>
  <sort_criteria-array xsi:nil="true"/>
  <resource_filter><filter_type>ID</filter_type><resource_id><id>vm &lt;&#49;&gt;</id><type>VirtualMachine</type></resource_id></resource_filter>
 </query_spec></q:Query-Input>"#;
    let input = read_xml(legal).unwrap().query_spec;
    assert_eq!((input.limit, input.sort_criteria), (Some(1), None));
    let id = TypedId { resource_type: "VirtualMachine".into(), id: "vm <1>".into() };
    assert_eq!(input.resource_filter.resource_id, Some(id));
}

#[test]
fn xml_that_could_do_harm_or_mean_two_things_is_refused() {
    let wrap = |inner: &str| format!(r#"<a:Query-Input xmlns:a="{NAMESPACE}">{inner}</a:Query-Input>"#);
    let refused = [
        r#"<!DOCTYPE x [<!ENTITY e "boom">]><a:Query-Input xmlns:a="http://vmware.com/cis/data/legacy/resource_model"/>"#.to_owned(),
        format!("<?pi x?>{}", wrap("")),
        wrap("<query_spec>&e;</query_spec>"),
        wrap("<a>1</a><a>2</a>"),
        wrap("<a x=\"1\"/>"),
        wrap("<a:b/>"),
        wrap("<x-array><y/></x-array>"),
        wrap("text<a/>"),
        wrap("<a><b></a></b>"),
        wrap(&"<a>".repeat(300)),
        "<Query-Input/>".to_owned(),
        format!(r#"<Other xmlns="{NAMESPACE}"/>"#),
        format!("{}<more/>", wrap("")),
        String::new(),
        "\u{0}".to_owned(),
    ];
    for text in refused {
        assert!(xml::read(text.as_bytes(), "Query-Input", NAMESPACE).is_err(), "{text}");
    }
    assert!(xml::read(&[0xff, 0xfe], "Query-Input", NAMESPACE).is_err());
}

#[test]
fn a_fault_names_the_field() {
    let check = |filter: &str, expected: &str| {
        assert_eq!(
            place(read(&body(filter)).unwrap_err()),
            format!("query_spec.resource_filter{expected}"),
            "{filter}"
        );
    };
    check("{}", ".filter_type");
    check(r#"{"filter_type": "type"}"#, ".filter_type");
    check(r#"{"filter_type": "TYPE"}"#, ".resource_type");
    check(r#"{"filter_type": "TYPE", "resource_type": 1}"#, ".resource_type");
    check(r#"{"filter_type": "TYPE", "resource_type": "x", "resource_id": {"type": "x", "id": "y"}}"#, ".resource_id");
    check(r#"{"filter_type": "ID", "resource_id": {"type": "x"}}"#, ".resource_id.id");
    check(r#"{"filter_type": "TYPE", "resource_type": "x", "more": 1}"#, ".more");
    let nested = r#"{"filter_type": "COMPOSITE", "composite_filter": {"operator": "UNION", "filters": [
        {"filter_type": "TYPE", "resource_type": "x"},
        {"filter_type": "PROPERTY", "property_filter": {"property": "p", "operator": "EQUAL", "comparable_type": "LONG"}}]}}"#;
    check(nested, ".composite_filter.filters[1].property_filter.comparable_long");
    for number in ["1.0", "9223372036854775808", "\"1\"", "true", "1e3"] {
        let json = format!(
            r#"{{"query_spec": {{"limit": {number}, "property_spec": [], "resource_filter": {{"filter_type": "TYPE", "resource_type": "x"}}}}}}"#
        );
        assert_eq!(place(read(&json).unwrap_err()), "query_spec.limit", "{number}");
    }
    for bad in [r#"{"a": 1, "a": 2}"#, "{", "", "[1,]", "{\"a\": 1e999}", &"[".repeat(300)] {
        assert!(Data::from_json(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn the_typed_encoding_wraps_what_is_optional_and_refuses_what_is_not() {
    let text = r#"{"STRUCTURE": {"operation-input": {"query_spec": {"STRUCTURE": {"com.vmware.cis.data.legacy.resource_model.query_spec": {
        "property_spec": ["a/b"], "limit": {"OPTIONAL": 5}, "offset": {"OPTIONAL": null}, "unknown": {"OPTIONAL": null},
        "resource_filter": {"STRUCTURE": {"com.vmware.cis.data.legacy.resource_model.resource_filter": {
            "filter_type": "COMPOSITE", "composite_filter": {"OPTIONAL": {"STRUCTURE": {"com.vmware.cis.data.legacy.resource_model.composite_filter": {
                "operator": "UNION", "filters": []}}}}}}}}}}}}}"#;
    let read = |text: &str| {
        let data = typed(Data::from_json(text.as_bytes()).unwrap())?;
        QueryInput::decode(data, &Place::root(Encoding::Typed)).map_err(|fault| fault.to_string())
    };
    let spec = read(text).unwrap().query_spec;
    assert_eq!((spec.limit, spec.offset), (Some(5), None));
    assert_eq!(spec.resource_filter.composite_filter.map(|c| c.operator), Some(CompositeOperator::Union));
    let refused = |from: &str, to: &str| read(&text.replacen(from, to, 1)).unwrap_err();
    assert!(refused(r#"{"OPTIONAL": 5}"#, "5").contains("query_spec.limit: a value of an optional field is wrapped"));
    assert!(
        refused(r#""unknown": {"OPTIONAL": null}"#, r#""unknown": {"OPTIONAL": 1}"#)
            .contains("query_spec.unknown is not a field")
    );
    assert!(refused("resource_model.resource_filter", "resource_model.other").contains("expected structure"));
    assert!(refused(r#"{"OPTIONAL": 5}"#, r#"{"OPTIONAL": 5, "SECRET": ""}"#).contains("exactly one member"));
    assert!(refused(r#"{"OPTIONAL": 5}"#, r#"{"MAYBE": 5}"#).contains("no data value"));
}

#[test]
fn answers_are_written_alike_in_every_encoding() {
    let value = |text: &str| PropertyValue { property: "VM/name".into(), value: Opaque(Data::String(text.into())) };
    let id = TypedId { resource_type: "VM".into(), id: "1".into() };
    let item = ResourceItem { resource_id: id, property_values: vec![value("a<\"b\u{1}")] };
    let result = ResultSet { items: vec![item], total_item_count: None };

    let mut plain = PlainJson::default();
    result.encode(&mut plain);
    let text = String::from_utf8(plain.out).unwrap();
    assert_eq!(
        text,
        r#"{"items":[{"resource_id":{"type":"VM","id":"1"},"property_values":[{"property":"VM/name","value":"a<\"b\u0001"}]}]}"#
    );
    let back = ResultSet::decode(Data::from_json(text.as_bytes()).unwrap(), &Place::root(Encoding::Plain)).unwrap();
    assert_eq!(back, result);

    let mut typed_json = TypedJson::default();
    result.encode(&mut typed_json);
    let back = typed(Data::from_json(&typed_json.out).unwrap()).unwrap();
    assert_eq!(ResultSet::decode(back, &Place::root(Encoding::Typed)).unwrap(), result);
    assert!(String::from_utf8(typed_json.out).unwrap().contains(r#""total_item_count":{"OPTIONAL":null}"#));

    let mut xml = XmlWriter::element("value");
    ResultSet { total_item_count: Some(1), ..result }.encode(&mut xml);
    assert_eq!(
        xml.out,
        "<value><items-array><array-item><resource_id><type>VM</type><id>1</id></resource_id><property_values-array><array-item>\
         <property>VM/name</property><value>a&lt;\"b\u{fffd}</value></array-item></property_values-array></array-item></items-array>\
         <total_item_count>1</total_item_count></value>"
    );
}

#[test]
fn doubles_are_never_taken_for_longs() {
    let written = |v: f64| {
        let mut w = TypedJson::default();
        v.encode(&mut w);
        String::from_utf8(w.out).unwrap()
    };
    for v in [50280.0, 0.0, -0.5, 1e300, 1e-7, 118.9, 9_007_199_254_740_993.0] {
        let text = written(v);
        assert!(text.contains(['.', 'e', 'E']), "{text}");
        assert_eq!(Data::from_json(text.as_bytes()), Ok(Data::Double(v)), "{text}");
    }
}

#[test]
fn operations_know_their_routes_and_roots() {
    let operation = Query::OPERATION;
    let (input, result, namespace) = operation.xml_root();
    assert_eq!((&*input, &*result, &*namespace), ("Query-Input", "Query-Result", NAMESPACE));
    let (method, path, action) = operation.legacy_route().unwrap();
    assert_eq!(
        (method.name(), &*path, action.as_deref()),
        ("POST", "/rest/com/vmware/cis/data/legacy/resource-model", Some("query"))
    );
    assert_eq!(ComparableType::ALL.len(), 5);
}

#[test]
fn errors_travel_with_their_kind_and_arguments() {
    let error = Error::invalid_argument("lockstep.query.limit", "query_spec.limit", "5000 is above 1000");
    let mut w = PlainJson::default();
    error.encode(&mut w);
    assert_eq!(
        String::from_utf8(w.out).unwrap(),
        r#"{"messages":[{"id":"lockstep.query.limit","default_message":"query_spec.limit: 5000 is above 1000","args":["query_spec.limit"]}],"data":{"primary":"query_spec.limit","secondary":[]},"error_type":"INVALID_ARGUMENT"}"#
    );
    let mut w = TypedJson::default();
    Error::unauthenticated().encode(&mut w);
    let text = String::from_utf8(w.out).unwrap();
    assert!(
        text.starts_with(r#"{"ERROR":{"com.vmware.vapi.std.errors.unauthenticated":{"messages":[{"STRUCTURE""#),
        "{text}"
    );
    assert!(
        text.ends_with(r#""error_type":{"OPTIONAL":"UNAUTHENTICATED"},"challenge":{"OPTIONAL":null}}}}"#),
        "{text}"
    );
}
